"""Convolutions as linear layers over patches: what int8 layers and formats for linear layers can be measured with."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..models.quantizable_layers import LEAST_SIDE


class UnfoldedConv(nn.Module):
    """A convolution, the same but for rounding: `[B, C, H, W]` -> `[B, N, h, w]`. Zeros outside, no groups."""

    def __init__(self, layer: nn.Conv2d):
        super().__init__()
        N = len(layer.weight)
        self.kernel, self.stride, self.dilation = layer.kernel_size, layer.stride, layer.dilation
        assert not isinstance(layer.padding, str)
        self.padding = layer.padding
        self.linear = nn.Linear(layer.weight[0].numel(), N, bias=layer.bias is not None)
        self.linear.weight.data = layer.weight.detach().reshape(N, -1).clone()
        if layer.bias is not None:
            self.linear.bias.data = layer.bias.detach().clone()

    def forward(self, x: Tensor) -> Tensor:
        size = [
            (side + 2 * int(pad) - dilation * (kernel - 1) - 1) // stride + 1
            for side, pad, dilation, kernel, stride in zip(
                x.shape[2:], self.padding, self.dilation, self.kernel, self.stride, strict=True
            )
        ]
        patches = F.unfold(x, self.kernel, self.dilation, self.padding, self.stride)  # [B, C * kh * kw, h * w]
        return self.linear(patches.transpose(1, 2)).transpose(1, 2).unflatten(2, size)


def unfold_convolutions(net: nn.Module) -> nn.Module:
    """Replaces, in place, the convolutions of a network that can be and are large enough to be quantized."""
    found = [(name, layer) for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d)]
    for name, layer in found:
        plain = layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        if plain and min(len(layer.weight), layer.weight[0].numel()) >= LEAST_SIDE:
            parent, _, last = name.rpartition(".")
            setattr(net.get_submodule(parent), last, UnfoldedConv(layer))
    return net.requires_grad_(False)
