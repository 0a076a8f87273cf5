"""Other people's small autoencoders, to be measured beside ours: the tiny autoencoders for image models.

They are plain: 3x3 convolutions of one width with ReLU, residual blocks of three convolutions, three halvings by
strided convolutions on the way in and three doublings on the way out; newer ones add to a block what a wide, group
normalised 1x1 branch sees. What stands where is read off the names and shapes of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

_GROUPS = 4  # of the group normalisation, in all networks of the family


class PeerBlock(nn.Module):
    """A residual block of the width of its first weight."""

    def __init__(self, channels: int, wide: int | None):
        super().__init__()
        three = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(three[0], nn.ReLU(), three[1], nn.ReLU(), three[2])
        self.pool = (
            nn.Sequential(
                nn.Conv2d(channels, wide, 1, bias=False),
                nn.GroupNorm(_GROUPS, wide),
                nn.ReLU(),
                nn.Conv2d(wide, channels, 1, bias=False),
            )
            if wide
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return F.relu(self.conv(x) + x)


class PeerNetwork(nn.Module):
    """An encoder, frames `[B, 3, H, W]` in [0, 1] -> latents `[B, c, H/8, W/8]`, or the decoder back."""

    def __init__(self, weights: Mapping[str, Tensor], decodes: bool):
        super().__init__()
        self.decodes = decodes
        self.layers = nn.ModuleDict(dict(_layers(weights, decodes)))
        self.layers.load_state_dict(dict(weights))

    def forward(self, x: Tensor) -> Tensor:
        if self.decodes:
            x = 3 * torch.tanh(x / 3)
        for index, layer in enumerate(self.layers.values()):
            if self.decodes and isinstance(layer, nn.Conv2d) and layer.bias is None:
                x = F.interpolate(x, scale_factor=2)
            x = layer(x)
            if self.decodes and index == 0:
                x = F.relu(x)
        return x.clamp(0, 1) if self.decodes else x


def find_peers(folder: Path) -> Iterator[tuple[str, PeerNetwork, PeerNetwork]]:
    """Name, encoder and decoder of each pair NAME_encoder.safetensors, NAME_decoder.safetensors in a folder.

    Raises ValueError for weights of another shape.
    """
    for path in sorted(folder.glob("*_encoder.safetensors")):
        name = path.name.removesuffix("_encoder.safetensors")
        other = folder / f"{name}_decoder.safetensors"
        if other.exists():
            yield name, _load(path, False), _load(other, True)


def _load(path: Path, decodes: bool) -> PeerNetwork:
    weights = {name: weight.float() for name, weight in load_file(path).items()}
    try:
        return PeerNetwork(weights, decodes).eval()
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{path.name} holds no tiny autoencoder ({' '.join(str(error).split()):.200}). Take it out of the folder."
        ) from error


def _layers(weights: Mapping[str, Tensor], decodes: bool) -> Iterator[tuple[str, nn.Module]]:
    """Number and layer, in order. A convolution without bias is one that changes the size."""
    for number in sorted({int(name.split(".")[0]) for name in weights}):
        if f"{number}.conv.0.weight" in weights:
            wide = weights.get(f"{number}.pool.0.weight")
            yield str(number), PeerBlock(len(weights[f"{number}.conv.0.weight"]), None if wide is None else len(wide))
            continue
        outputs, inputs = weights[f"{number}.weight"].shape[:2]
        bias = f"{number}.bias" in weights
        yield str(number), nn.Conv2d(inputs, outputs, 3, 1 if bias or decodes else 2, padding=1, bias=bias)
