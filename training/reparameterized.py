"""Convolutions that are trained as several branches and are one 3 x 3 convolution when they run.

The branches (3 x 3; 1 x 1 to more channels followed by 3 x 3; identity) are linear, so their sum is a 3 x 3 kernel
(Zhang et al., ECBSR, ACM MM 2021). It is folded before every step rather than on export alone: a step then costs what
the plain network costs, and gradients reach the branches through the folding.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.upscaler import CompactUpscaler

WIDER = 2
"""Channels between the two convolutions of the second branch, as a multiple of those at its ends."""


class BranchedConv(nn.Module):
    """A 3 x 3 convolution as a sum of branches."""

    def __init__(self, plain: nn.Conv2d):
        super().__init__()
        self.plain = plain
        channels, self.same = WIDER * plain.out_channels, plain.in_channels == plain.out_channels
        # starts at nothing, so that a trained plain convolution may be given
        self.widen = nn.Parameter(torch.randn(channels, plain.in_channels) * plain.in_channels**-0.5)
        self.mix = nn.Parameter(torch.zeros(plain.out_channels, channels, 3, 3))

    def kernel(self) -> Tensor:
        """The one kernel `[out, in, 3, 3]` that the branches add up to."""
        return self.plain.weight + torch.einsum("oyhw,yi->oihw", self.mix, self.widen)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel(), self.plain.bias, padding=1)


def branched(model: CompactUpscaler) -> CompactUpscaler:
    """The network in its form for training; the one given is not changed."""
    model = copy.deepcopy(model)
    for index, layer in enumerate(model.body):
        if isinstance(layer, nn.Conv2d):
            model.body[index] = BranchedConv(layer)
    return model


@torch.no_grad()
def folded(model: CompactUpscaler) -> CompactUpscaler:
    """The plain network that computes the same as a branched one."""
    plain = CompactUpscaler(model.config)
    for mine, theirs in zip(plain.body, model.body, strict=True):
        if isinstance(theirs, BranchedConv):
            mine.load_state_dict({"weight": theirs.kernel(), "bias": theirs.plain.bias})
        else:
            mine.load_state_dict(theirs.state_dict())
    return plain


@torch.no_grad()
def begin(model: CompactUpscaler) -> None:
    """Sets first weights: every hidden layer passes on what it is given, the last one adds nothing."""
    for index, layer in enumerate(model.body):
        if not isinstance(layer, nn.Conv2d):
            continue
        nn.init.normal_(layer.weight, std=0.5 * (2 / (9 * layer.in_channels)) ** 0.5)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
        if layer.in_channels == layer.out_channels:
            layer.weight[:, :, 1, 1] += torch.eye(layer.out_channels)
        if index == len(model.body) - 1:
            layer.weight.mul_(0.1)
