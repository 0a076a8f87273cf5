"""T4: the causal video tokenizer. 8x8 pixels of four frames become one token; a group knows the groups before it.

The first frame stands alone, then every four frames form a group. A Haar transform along time splits a group into its
mean frame and three details, which are folded 4x4 into channels: all layers work on groups, at 1/4 and 1/8 size. (Along
space it would be one more fixed matrix before a learned one.) Space is mixed by 3x3 convolutions and windowed
attention, time by 1x1 convolutions that look at the two groups before: factorised causal convolutions, as in
Cosmos-Tokenizer (https://arxiv.org/abs/2501.03575). What is remembered does not grow with the clip, and a clip in parts
gives the same bits as in one go, since groups are always coded one by one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .image_tokenizer import ChannelNorm, ImageTokenizer, ImageTokenizerConfig, WindowAttention
from .quantizers import FSQ

GROUP = 4
"""Frames that share their tokens, but for the first frame of a clip."""
MEMORY = 2
"""Groups that each block remembers."""


@dataclass(frozen=True)
class VideoTokenizerConfig(ImageTokenizerConfig):
    """As for the image tokenizer, with fewer blocks: every block also has a part for time; stored in the checkpoint."""

    encoder_blocks: tuple[int, int] = (1, 1)
    decoder_blocks: tuple[int, int] = (1, 2)


@dataclass
class Memory:
    """What the blocks of an encoder or decoder know of the groups before: one tensor a block, in their order."""

    blocks: list[Tensor] = field(default_factory=list)


def haar(groups: Tensor) -> Tensor:
    """Frames `[N, 4, C, H, W]` -> their mean and three details `[N, 4, C, H, W]`; inverted by `inverse_haar`."""
    a, b, c, d = groups.unbind(1)
    first, second = (a + b) / 2, (c + d) / 2
    return torch.stack([(first + second) / 2, (first - second) / 2, (a - b) / 2, (c - d) / 2], 1)


def inverse_haar(bands: Tensor) -> Tensor:
    """Mean and details `[N, 4, C, H, W]` -> frames `[N, 4, C, H, W]`."""
    mean, slow, early, late = bands.unbind(1)
    first, second = mean + slow, mean - slow
    return torch.stack([first + early, first - early, second + late, second - late], 1)


class CausalBlock(nn.Module):
    """norm -> 3x3, plus 1x1 over the same place in the groups before -> SiLU -> 3x3, added to the input."""

    def __init__(self, channels: int, operations: ModuleType | Any = nn):
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.conv1 = operations.Conv2d(channels, channels, 3, padding=1)
        self.past = operations.Conv2d(channels * MEMORY, channels, 1, bias=False)
        self.conv2 = operations.Conv2d(channels, channels, 3, padding=1)
        for last in (self.past, self.conv2):
            if getattr(last, "weight", None) is not None:
                nn.init.zeros_(last.weight)

    def forward(self, x: Tensor, length: int, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """x: `[B * length, C, h, w]`, groups of a clip in a row; past: `[B, MEMORY, C, h, w]`, None at the start."""
        normed = self.norm(x)
        rows = normed.unflatten(0, (-1, length))
        known = rows.new_zeros(len(rows), MEMORY, *rows.shape[2:]) if past is None else past
        known = torch.cat([known, rows], 1)
        before = torch.cat([known[:, i : i + length] for i in range(MEMORY)], 2).flatten(0, 1)
        hidden = self.conv1(normed) + self.past(before.contiguous(memory_format=torch.channels_last))
        return x + self.conv2(F.silu(hidden)), known[:, -MEMORY:]


class GroupLayers(nn.ModuleList):
    """Layers in a row; the causal blocks among them are given what they remember."""

    def forward(self, x: Tensor, length: int, memory: Memory | None) -> tuple[Tensor, Memory]:
        """`[B * length, C, h, w]`, and the memory after the last group. memory: None at the start of a clip."""
        known, after = iter(memory.blocks if memory else ()), Memory()
        for layer in self:
            if isinstance(layer, CausalBlock):
                x, past = layer(x, length, next(known, None))
                after.blocks.append(past)
            else:
                x = layer(x)
        return x, after


class FoldBands(nn.Module):
    """Bands `[N, 4, 3, H, W]` -> features `[N, channels, H/4, W/4]`: the mean as an image is, the details beside it."""

    def __init__(self, config: VideoTokenizerConfig, operations: ModuleType | Any = nn):
        super().__init__()
        values = 3 * config.patch_size**2
        self.fold = nn.PixelUnshuffle(config.patch_size)
        self.mean = operations.Conv2d(values, config.encoder_widths[0], 3, padding=1)
        self.details = operations.Conv2d(values * (GROUP - 1), config.encoder_widths[0], 1, bias=False)

    def forward(self, bands: Tensor) -> Tensor:
        return self.mean(self.fold(bands[:, 0])) + self.details(self.fold(bands[:, 1:].flatten(1, 2)))


class UnfoldBands(nn.Module):
    """Features `[N, channels, H/4, W/4]` -> bands `[N, 4, 3, H, W]`."""

    def __init__(self, config: VideoTokenizerConfig, operations: ModuleType | Any = nn):
        super().__init__()
        values = 3 * config.patch_size**2
        self.unfold = nn.PixelShuffle(config.patch_size)
        self.mean = operations.Conv2d(config.decoder_widths[0], values, 3, padding=1)
        self.details = operations.Conv2d(config.decoder_widths[0], values * (GROUP - 1), 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        details = self.unfold(self.details(x)).unflatten(1, (GROUP - 1, 3))
        return torch.cat([self.unfold(self.mean(x)).unsqueeze(1), details], 1)


def _encoder(config: VideoTokenizerConfig, operations: ModuleType | Any) -> GroupLayers:
    fine, coarse = config.encoder_widths
    return GroupLayers(
        [
            FoldBands(config, operations),
            *[CausalBlock(fine, operations) for _ in range(config.encoder_blocks[0])],
            nn.PixelUnshuffle(2),
            operations.Conv2d(fine * 4, coarse, 1),
            *[CausalBlock(coarse, operations) for _ in range(config.encoder_blocks[1])],
            WindowAttention(coarse, config.heads, config.window, operations),
            ChannelNorm(coarse),
            operations.Conv2d(coarse, len(config.levels), 1),
        ]
    )


def _decoder(config: VideoTokenizerConfig, operations: ModuleType | Any) -> GroupLayers:
    fine, coarse = config.decoder_widths
    first = config.decoder_blocks[1] // 2
    return GroupLayers(
        [
            operations.Conv2d(len(config.levels), coarse, 3, padding=1),
            *[CausalBlock(coarse, operations) for _ in range(first)],
            WindowAttention(coarse, config.heads, config.window, operations),
            *[CausalBlock(coarse, operations) for _ in range(config.decoder_blocks[1] - first)],
            ChannelNorm(coarse),
            operations.Conv2d(coarse, fine * 4, 1),
            nn.PixelShuffle(2),
            *[CausalBlock(fine, operations) for _ in range(config.decoder_blocks[0])],
            ChannelNorm(fine),
            UnfoldBands(config, operations),
        ]
    )


class CausalVideoTokenizer(nn.Module):
    """Groups of frames in [-1, 1], H and W multiples of 8 <-> indices `[B, H/8, W/8]` a group."""

    def __init__(self, config: VideoTokenizerConfig | None = None, operations: ModuleType | Any = nn):
        super().__init__()
        self.config = config or VideoTokenizerConfig()
        self.encoder = _encoder(self.config, operations)
        self.quantizer = FSQ(self.config.levels)
        self.decoder = _decoder(self.config, operations)

    def encode_group(self, group: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        """The next group `[B, 4, 3, H, W]` -> (indices int64 `[B, h, w]`, the memory for the group after it).

        The first frame of a clip is a group of four equal frames. Raises ValueError where the size does not fit.
        """
        cell = self.config.spatial_compression
        if group.ndim != 5 or group.shape[1:3] != (GROUP, 3) or group.shape[3] % cell or group.shape[4] % cell:
            raise ValueError(
                f"Invalid group {tuple(group.shape)}. Supported are [B, {GROUP}, 3, H, W] with H and W multiples of "
                f"{cell}; repeat and pad frames first."
            )
        latents, after = self.encoder(haar(group), 1, memory)
        return self.quantizer.codes_to_indices(self.quantizer(latents)), after

    def decode_group(self, indices: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        """Indices of the next group -> (frames `[B, 4, 3, H, W]` in [-1, 1], the memory for the group after it)."""
        dtype = next(self.parameters()).dtype
        codes = self.quantizer.indices_to_codes(indices, dtype).contiguous(memory_format=torch.channels_last)
        bands, after = self.decoder(codes, 1, memory)
        return inverse_haar(bands).clamp(-1, 1), after

    def forward(self, groups: Tensor, noise: bool = False) -> tuple[Tensor, Tensor]:
        """Clips `[B, L, 4, 3, H, W]` from their first frame on -> (frames of the same shape, latents). For training."""
        length = groups.shape[1]
        latents, _ = self.encoder(haar(groups.flatten(0, 1)), length, None)
        bands, _ = self.decoder(self.quantizer(latents, noise), length, None)
        return inverse_haar(bands).unflatten(0, (-1, length)), latents

    @torch.no_grad()
    def start_from(self, image: ImageTokenizer) -> None:
        """Takes over a trained image tokenizer of the same widths: its first blocks; details and memory at zero."""
        theirs = [*image.encoder.layers, image.to_latent], list(image.decoder.layers)
        for mine, donor in zip((self.encoder, self.decoder), theirs, strict=True):
            for layer, source in _pairs(mine, donor):
                layer.load_state_dict(source.state_dict(), strict=False)
        for name, parameter in self.named_parameters():
            if "details" in name:
                nn.init.zeros_(parameter)


def _pairs(mine: GroupLayers, theirs: list[nn.Module]) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Layers that do the same: each of ours beside the next one of theirs with parameters of these names and shapes."""
    donors = iter([layer for layer in theirs if len(layer.state_dict())])
    for layer in mine:
        layer = getattr(layer, "mean", layer)
        wanted = {name: value.shape for name, value in layer.state_dict().items() if name != "past.weight"}
        for donor in donors if wanted else ():
            if {name: value.shape for name, value in donor.state_dict().items()} == wanted:
                yield layer, donor
                break
