"""I8: the per-frame tokenizer. 8x8 pixels become one token; every frame stands for itself.

A hybrid of convolutions and windowed attention. Pixels are folded 4x4 into channels at once, so that no layer runs at
full resolution; one level of residual blocks works at 1/4 and one at 1/8 size, and attention looks across the token
grid, where one window of 8x8 tokens spans 64x64 pixels.
"""

from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .network_config import NetworkConfig
from .quantizers import FSQ

LARGEST = 1024
"""No width, number of blocks or other figure of a network goes beyond this."""


@dataclass(frozen=True)
class ImageTokenizerConfig(NetworkConfig):
    """Everything that shapes the network; stored in the checkpoint."""

    levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)
    """FSQ levels: one token has prod(levels) = 64,000 values, 15.97 bits."""
    patch_size: int = 4
    """Pixels folded into channels at the entrance; tokens are another factor of two coarser."""
    encoder_widths: tuple[int, int] = (96, 192)
    """Channels at 1/4 and at 1/8 size."""
    encoder_blocks: tuple[int, int] = (1, 3)
    """Residual blocks at 1/4 and at 1/8 size."""
    decoder_widths: tuple[int, int] = (128, 224)
    decoder_blocks: tuple[int, int] = (2, 4)
    heads: int = 4
    window: int = 8
    """Tokens along one side of an attention window."""

    def __post_init__(self) -> None:
        """Raises ValueError for what no network can be built from: configs also come out of other people's files."""
        for field in fields(self):
            value, several = getattr(self, field.name), isinstance(field.default, tuple)
            numbers = value if several and isinstance(value, tuple) else (value,)
            fits = isinstance(value, tuple) == several and (not several or field.name == "levels" or len(value) == 2)
            if not fits or not numbers or not all(type(n) is int and 1 <= n <= LARGEST for n in numbers):
                raise ValueError(
                    f"Invalid {field.name} ({value!r:.60}). Supported are whole numbers from 1 to {LARGEST}."
                )
        if self.encoder_widths[1] % self.heads or self.decoder_widths[1] % self.heads:
            raise ValueError(f"Invalid heads ({self.heads}). Supported are divisors of both widths at 1/8 size.")

    @property
    def spatial_compression(self) -> int:
        return self.patch_size * 2


class ChannelNorm(nn.Module):
    """RMS norm over the channels of each pixel: no statistics across space, batch or time."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = x.square().mean(1, keepdim=True).add(1e-6).rsqrt()
        return x * scale * self.weight.to(x.dtype).view(1, -1, 1, 1)


class ResidualBlock(nn.Module):
    """norm -> 3x3 -> SiLU -> 3x3, added to the input; starts as the identity."""

    def __init__(self, channels: int, operations: ModuleType | Any = nn):
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.conv1 = operations.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = operations.Conv2d(channels, channels, 3, padding=1)
        if getattr(self.conv2, "weight", None) is not None:
            nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(self.norm(x))))


class WindowAttention(nn.Module):
    """Self-attention within square windows of the grid, with a learned bias per relative position, then a small MLP."""

    away: Tensor

    def __init__(self, channels: int, heads: int, window: int, operations: ModuleType | Any = nn):
        super().__init__()
        self.heads, self.window = heads, window
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(channels)
        self.qkv = operations.Conv2d(channels, channels * 3, 1)
        self.out = operations.Conv2d(channels, channels, 1)
        self.expand = operations.Conv2d(channels, channels * 2, 1)
        self.shrink = operations.Conv2d(channels * 2, channels, 1)
        for last in (self.out, self.shrink):
            if getattr(last, "weight", None) is not None:
                nn.init.zeros_(last.weight)
        self.bias = nn.Parameter(torch.zeros(heads, (2 * window - 1) ** 2))
        place = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        away = place[:, :, None] - place[:, None, :] + window - 1
        self.register_buffer("away", away[0] * (2 * window - 1) + away[1], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.out(self.attend(self.qkv(self.norm1(x))))
        return x + self.shrink(F.silu(self.expand(self.norm2(x))))

    def attend(self, qkv: Tensor) -> Tensor:
        _, channels, height, width = qkv.shape
        side = self.window
        down, right = -height % side, -width % side
        if down or right:
            # Edge tokens are repeated to fill the last window: real content, so nothing has to be masked.
            rows = torch.arange(height + down, device=qkv.device).clamp(max=height - 1)
            columns = torch.arange(width + right, device=qkv.device).clamp(max=width - 1)
            qkv = qkv[:, :, rows][:, :, :, columns]
        B, _, H, W = qkv.shape
        dim = channels // 3 // self.heads
        windows = qkv.view(B, 3, self.heads, dim, H // side, side, W // side, side)
        # [3, B, windows down, windows right, heads, side * side, dim]
        windows = windows.permute(1, 0, 4, 6, 2, 5, 7, 3).reshape(3, -1, self.heads, side * side, dim)
        bias = self.bias[:, self.away].to(qkv.dtype).unsqueeze(0)
        seen = F.scaled_dot_product_attention(windows[0], windows[1], windows[2], attn_mask=bias)
        seen = seen.view(B, H // side, W // side, self.heads, side, side, dim).permute(0, 3, 6, 1, 4, 2, 5)
        return seen.reshape(B, channels // 3, H, W)[:, :, :height, :width]


class ImageEncoder(nn.Module):
    """Frames `[B, C, H, W]` -> features of the token grid `[B, encoder_widths[1], H/8, W/8]`."""

    def __init__(self, config: ImageTokenizerConfig, operations: ModuleType | Any = nn, channels: int = 3):
        super().__init__()
        fine, coarse = config.encoder_widths
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(config.patch_size),
            operations.Conv2d(channels * config.patch_size**2, fine, 3, padding=1),
            *[ResidualBlock(fine, operations) for _ in range(config.encoder_blocks[0])],
            nn.PixelUnshuffle(2),
            operations.Conv2d(fine * 4, coarse, 1),
            *[ResidualBlock(coarse, operations) for _ in range(config.encoder_blocks[1])],
            WindowAttention(coarse, config.heads, config.window, operations),
            ChannelNorm(coarse),
        )

    def forward(self, frames: Tensor) -> Tensor:
        return self.layers(frames)


class ImageDecoder(nn.Module):
    """Codes `[B, channels, H/8, W/8]` -> frames `[B, 3, H, W]`, not clipped."""

    def __init__(self, config: ImageTokenizerConfig, operations: ModuleType | Any = nn, channels: int | None = None):
        super().__init__()
        fine, coarse = config.decoder_widths
        first = config.decoder_blocks[1] // 2
        self.layers = nn.Sequential(
            operations.Conv2d(channels or len(config.levels), coarse, 3, padding=1),
            *[ResidualBlock(coarse, operations) for _ in range(first)],
            WindowAttention(coarse, config.heads, config.window, operations),
            *[ResidualBlock(coarse, operations) for _ in range(config.decoder_blocks[1] - first)],
            ChannelNorm(coarse),
            operations.Conv2d(coarse, fine * 4, 1),
            nn.PixelShuffle(2),
            *[ResidualBlock(fine, operations) for _ in range(config.decoder_blocks[0])],
            ChannelNorm(fine),
            operations.Conv2d(fine, 3 * config.patch_size**2, 3, padding=1),
            nn.PixelShuffle(config.patch_size),
        )
        self.coarse_layers = config.decoder_blocks[1] + 5

    def forward(self, codes: Tensor, fine_context: Tensor | None = None) -> Tensor:
        """fine_context: `[B, decoder_widths[0], H/4, W/4]` to add where the 1/4-size level begins."""
        x = self.layers[: self.coarse_layers](codes)
        if fine_context is not None:
            x = x + fine_context
        return self.layers[self.coarse_layers :](x)


class ImageTokenizer(nn.Module):
    """Frames `[B, 3, H, W]` in [-1, 1], H and W multiples of 8 <-> indices `[B, H/8, W/8]`."""

    def __init__(self, config: ImageTokenizerConfig | None = None, operations: ModuleType | Any = nn):
        super().__init__()
        self.config = config or ImageTokenizerConfig()
        self.encoder = ImageEncoder(self.config, operations)
        self.to_latent = operations.Conv2d(self.config.encoder_widths[1], len(self.config.levels), 1)
        self.quantizer = FSQ(self.config.levels)
        self.decoder = ImageDecoder(self.config, operations)

    def encode(self, frames: Tensor) -> Tensor:
        """Indices int64 `[B, h, w]`. Raises ValueError where the size does not fit the grid."""
        cell = self.config.spatial_compression
        if frames.ndim != 4 or frames.shape[1] != 3 or frames.shape[2] % cell or frames.shape[3] % cell:
            raise ValueError(
                f"Invalid frames {tuple(frames.shape)}. Supported are [B, 3, H, W] with H and W multiples of {cell}; "
                "pad them first."
            )
        return self.quantizer.codes_to_indices(self.quantizer(self.to_latent(self.encoder(frames))))

    def decode(self, indices: Tensor) -> Tensor:
        """Frames `[B, 3, H, W]` in [-1, 1]."""
        codes = self.quantizer.indices_to_codes(indices, self.to_latent.weight.dtype)
        return self.decoder(codes).clamp(-1, 1)

    def forward(self, frames: Tensor, noise: bool = False) -> Tensor:
        """Reconstruction with gradients through the rounding; not clipped. For training."""
        return self.decoder(self.quantizer(self.to_latent(self.encoder(frames)), noise))
