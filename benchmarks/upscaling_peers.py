"""Other people's upscalers, to be measured beside ours: RLFN, whose weights are files of their own.

Residual local feature network (Kong et al., CVPRW 2022, arXiv 2205.07514): blocks of three convolutions, each weighted
by an attention that looks at the frame at a sixth of its size. Frames are 0 to 255 there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

_SLOPE = 0.05  # of the leaky rectifier


class PeerAttention(nn.Module):
    """Which places of a block's features count, seen from far."""

    def __init__(self, channels: int, few: int):
        super().__init__()
        self.conv1, self.conv_f = nn.Conv2d(channels, few, 1), nn.Conv2d(few, few, 1)
        self.conv2, self.conv3 = nn.Conv2d(few, few, 3, 2), nn.Conv2d(few, few, 3, 1, 1)
        self.conv4 = nn.Conv2d(few, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        near = self.conv1(x)
        far = self.conv3(F.max_pool2d(self.conv2(near), 7, 3))
        far = F.interpolate(far, x.shape[-2:], mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.conv4(far + self.conv_f(near)))


class PeerBlock(nn.Module):
    """Three convolutions, a 1 x 1 one, and the attention."""

    def __init__(self, channels: int, few: int):
        super().__init__()
        self.c1_r, self.c2_r, self.c3_r = (nn.Conv2d(channels, channels, 3, 1, 1) for _ in range(3))
        self.c5 = nn.Conv2d(channels, channels, 1)
        self.esa = PeerAttention(channels, few)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in (self.c1_r, self.c2_r, self.c3_r):
            y = F.leaky_relu(layer(y), _SLOPE)
        return self.esa(self.c5(x + y))


class PeerUpscaler(nn.Module):
    """`[B, 3, H, W]` in [0, 1] -> `[B, 3, scale * H, scale * W]`; sizes are read off the weights."""

    def __init__(self, weights: Mapping[str, Tensor]):
        super().__init__()
        channels, few = len(weights["conv_1.bias"]), len(weights["block_1.esa.conv1.bias"])
        shuffled = len(weights["upsampler.0.bias"])
        self.scale = round((shuffled / 3) ** 0.5)
        self.count = len({name.split(".")[0] for name in weights if name.startswith("block_")})
        self.conv_1 = nn.Conv2d(3, channels, 3, 1, 1)
        for number in range(1, self.count + 1):
            self.add_module(f"block_{number}", PeerBlock(channels, few))
        self.conv_2 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.upsampler = nn.Sequential(nn.Conv2d(channels, shuffled, 3, 1, 1), nn.PixelShuffle(self.scale))
        self.load_state_dict(dict(weights))

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        first = self.conv_1(x * 255)
        y = first
        for number in range(1, self.count + 1):
            y = self.get_submodule(f"block_{number}")(y)
        return (self.upsampler(self.conv_2(y) + first) / 255).clamp(0, 1)


def find_upscalers(folder: Path) -> Iterator[tuple[str, PeerUpscaler]]:
    """Name and network of each RLFN in a folder; files of other kinds are passed over."""
    for path in sorted(folder.glob("*.safetensors")):
        weights = {name: weight.float() for name, weight in load_file(path).items()}
        if "block_1.esa.conv1.bias" in weights:
            try:
                yield path.stem, PeerUpscaler(weights).eval()
            except (KeyError, RuntimeError) as error:
                raise ValueError(
                    f"{path.name} holds no RLFN ({' '.join(str(error).split()):.200}). Take it out of the folder."
                ) from error
