"""Other ways to multiply in int8 that ours are held against, each a layer in place of a linear one.

The plainest has one scale for the weight and one for all tokens of a call; a better one has a scale for each channel
and each token, with PyTorch's own product of integers. comfy-kitchen's and torchao's are measured where installed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..host.kitchen import kitchen_int8

_LEAST = 1e-12  # a scale of what is all zeros
Replace = Callable[[nn.Linear], nn.Module]


class NaiveInt8(nn.Module):
    """One scale for the whole weight, one for all tokens of a call; computed in float, exactly as integers would."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.weight, self.bias = nn.Parameter(rounded(layer.weight.detach()), requires_grad=False), layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(rounded(x), self.weight, self.bias)


def rounded(x: Tensor) -> Tensor:
    """The nearest of 255 values, evenly spaced and as far out as the largest magnitude."""
    scale = (x.abs().amax() / 127).clamp(min=_LEAST)
    return (x / scale).round() * scale


class PlainInt8(nn.Module):
    """A scale for each channel and each token, `torch._int_mm`, and what is left in plain operations."""

    values: Tensor
    scales: Tensor

    def __init__(self, layer: nn.Linear):
        super().__init__()
        weight = layer.weight.detach().float()
        scales = (weight.abs().amax(1) / 127).clamp(min=_LEAST)
        self.register_buffer("values", (weight / scales[:, None]).round().to(torch.int8))
        self.register_buffer("scales", scales)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        sizes = (rows.abs().amax(1, keepdim=True) / 127).clamp(min=_LEAST)
        whole = torch._int_mm((rows / sizes).round().to(torch.int8), self.values.t())
        made = whole.float() * sizes * self.scales
        made = made if self.bias is None else made + self.bias
        return made.to(x.dtype).reshape(*x.shape[:-1], -1)


class KitchenInt8(nn.Module):
    """comfy-kitchen's, by its default backend for where the tensors lie. ImportError where it is not there."""

    def __init__(self, layer: nn.Linear, rotated: bool = False):
        super().__init__()
        self.multiply = kitchen_int8(layer.weight.detach(), layer.bias, rotated=rotated)

    def forward(self, x: Tensor) -> Tensor:
        return self.multiply(x)


def torchao_int8(layer: nn.Linear, *, compiled: bool) -> nn.Module:
    """torchao's int8 with scales for each token, compiled or not. ImportError where it is not there."""
    quantization = importlib.import_module("torchao.quantization")
    holder = nn.Sequential(nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None))
    holder[0].load_state_dict(layer.state_dict())
    quantization.quantize_(holder.requires_grad_(False), quantization.Int8DynamicActivationInt8WeightConfig())
    return torch.compile(holder) if compiled else holder  # type: ignore[return-value]


def torchao_version() -> str | None:
    """The version that is installed, if one is."""
    try:
        return importlib.metadata.version("torchao")
    except importlib.metadata.PackageNotFoundError:
        return None


def replaced(net: nn.Module, names: list[str], make: Replace) -> nn.Module:
    """The same network with those linear layers replaced, in place."""
    for name in names:
        parent, _, last = name.rpartition(".")
        layer = net.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        setattr(net.get_submodule(parent), last, make(layer))
    return net
