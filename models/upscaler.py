"""Frames at twice or four times the size: small networks of the shape SRVGGNetCompact.

A stack of 3 x 3 convolutions and PReLUs at the small size, then pixel shuffle onto the frame repeated to the large size
(Wang et al., Real-ESRGAN, ICCVW 2021, arXiv 2107.10833, their "compact" network). Tensors are named and shaped as that
family has them, so that spandrel, hence ComfyUI's own loader, opens our files. Frames are `[B, 3, H, W]` in [0, 1].
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .network_config import NetworkConfig

SCALES = (1, 2, 3, 4, 8)
"""That such files come in; ours are 2 and 4."""


class Upscaler(Protocol):
    """Frames at a whole number of times the size."""

    @property
    def scale(self) -> int: ...

    @property
    def reach(self) -> int:
        """Pixels of the small frame to each side that a result depends on."""
        ...

    @property
    def device(self) -> torch.device: ...

    def __call__(self, frames: Tensor) -> Tensor:
        """`[B, 3, H, W]` in [0, 1], on any device -> float32 `[B, 3, scale * H, scale * W]` in [0, 1] on `device`."""
        ...


@dataclass(frozen=True)
class UpscalerConfig(NetworkConfig):
    """Times of the size, channels, and convolutions between the first and the last one."""

    scale: int = 2
    features: int = 48
    depth: int = 10

    def __post_init__(self) -> None:
        if self.scale not in SCALES or self.features < 1 or self.depth < 1:
            raise ValueError(f"Invalid sizes: {self}. The scale is one of {SCALES}; features and depth are at least 1.")

    @property
    def reach(self) -> int:
        """Pixels of the small frame around one that its result depends on, to each side."""
        return self.depth + 2


class CompactUpscaler(nn.Module):
    """`[B, 3, H, W]` in [0, 1] -> `[B, 3, scale * H, scale * W]`, hardly beyond [0, 1]."""

    def __init__(self, config: UpscalerConfig | None = None, operations: ModuleType | Any = nn):
        super().__init__()
        self.config = config or UpscalerConfig()
        features, channels = self.config.features, 3 * self.config.scale**2
        self.body = nn.ModuleList([operations.Conv2d(3, features, 3, 1, 1), nn.PReLU(features)])
        for _ in range(self.config.depth):
            self.body.extend([operations.Conv2d(features, features, 3, 1, 1), nn.PReLU(features)])
        self.body.append(operations.Conv2d(features, channels, 3, 1, 1))

    def forward(self, frames: Tensor) -> Tensor:
        x = frames
        for layer in self.body:
            x = layer(x)
        scale = self.config.scale
        return F.pixel_shuffle(x, scale) + F.interpolate(frames, scale_factor=scale, mode="nearest")


class NetUpscaler:
    """A network, moved to `device` and computing in `dtype`, as an Upscaler."""

    def __init__(
        self, net: CompactUpscaler, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.device, self.dtype = torch.device(device), dtype
        self.scale, self.reach = net.config.scale, net.config.reach
        net = net.eval().requires_grad_(False)
        self.net = net.to(self.device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.networks = [self.net]

    @torch.inference_mode()
    def __call__(self, frames: Tensor) -> Tensor:
        frames = frames.to(self.device, self.dtype, memory_format=torch.channels_last)
        return self.net(frames).float().clamp_(0, 1)


class BicubicUpscaler:
    """Bicubic interpolation: the baseline, which needs no weights."""

    reach = 2

    def __init__(self, scale: int = 2, device: torch.device | str = "cpu") -> None:
        self.scale, self.device = scale, torch.device(device)

    @torch.inference_mode()
    def __call__(self, frames: Tensor) -> Tensor:
        # a grid exactly a half apart, and the kernel of Keys (-1/2): as common image software has it
        large = F.interpolate(
            frames.to(self.device, torch.float32), scale_factor=self.scale, mode="bicubic", antialias=True
        )
        return large.clamp_(0, 1)
