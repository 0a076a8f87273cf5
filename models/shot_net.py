"""The shot net: from thumbnails of a stretch of video, what each frame is: a cut, part of a dissolve or fade, a flash.

Thumbnails are 48x27 pixels, as in TransNet V2 (Soucek & Lokoc, 2020, https://arxiv.org/abs/2008.04838). The net never
sees them directly: it is given how much the frames around a frame differ from each other (pixels, layout, colours,
learned features), and how well the frame between two others is a mixture of them. Such differences say the same about
any footage, which is why a small net and few clips to train it on are enough.
"""

from dataclasses import dataclass
from itertools import combinations
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .network_config import NetworkConfig

THUMBNAIL = (27, 48)
"""Height and width of what the net sees, whatever the shape of the video is."""
CLASSES = ("cut", "dissolve", "fade", "flash")
"""A cut is marked at the first frame of the new shot, everything else at all of its frames."""
_BINS = 8  # of a colour histogram, along each of red, green and blue
_DOWN, _ACROSS = 2, 4  # half-size pixels that a picture may have moved: up to a sixth of it
_STEPS = (1, 2)  # frames apart that shifts are searched between
_GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class ShotNetConfig(NetworkConfig):
    """Shape of the net; stored in the checkpoint."""

    offsets: tuple[int, ...] = (1, 2, 4, 8, 16, 24)
    """Frames before and after a frame that are compared with it and with each other, increasing."""
    features: tuple[int, ...] = (16, 24, 32)
    """Channels of the learned features, each half the size of the one before."""
    width: int = 96
    dilations: tuple[int, ...] = (1, 2, 4, 8)
    """Of the convolutions over time."""

    def __post_init__(self) -> None:
        for name in ("offsets", "features", "dilations"):
            values = getattr(self, name)
            if (
                not isinstance(values, tuple)
                or not values
                or any(type(v) is not int or not 0 < v <= 256 for v in values)
            ):
                raise ValueError(f"Invalid {name} {values!r:.60}. They are whole numbers from 1 to 256.")
        if type(self.width) is not int or not 0 < self.width <= 1024:
            raise ValueError(f"Invalid width {self.width!r:.60}. It is a whole number from 1 to 1024.")

    @property
    def around(self) -> tuple[int, ...]:
        """All frames that are compared, as distances from the one in the middle."""
        return tuple(sorted({0, *self.offsets, *(-offset for offset in self.offsets)}))

    @property
    def radius(self) -> int:
        """Frames needed on each side of one that is judged."""
        return max(self.offsets) + sum(self.dilations)


class ShotNet(nn.Module):
    """Thumbnails `[B, T, 3, 27, 48]` in [0, 1] -> logits `[B, T - 2 * radius, 4]`, in the order of CLASSES.

    `describe` and `judge` are its two halves: what is known of each frame by itself, and what follows from many.
    """

    def __init__(self, config: ShotNetConfig | None = None, operations: ModuleType | Any = nn):
        super().__init__()
        self.config = config or ShotNetConfig()
        widths = self.config.features
        self.layout = nn.Sequential()
        for before, after in zip((3, *widths), widths, strict=False):
            self.layout.append(operations.Conv2d(before, after, 3, stride=2, padding=1))
            self.layout.append(nn.GELU())
        self.content = operations.Linear(2 * widths[-1], 48)
        self.pairs = tuple(combinations(range(len(self.config.around)), 2))
        inputs = 6 * len(self.pairs) + 2 * len(self.config.offsets) + 2 * len(_STEPS) + 3
        self.enter = operations.Linear(inputs, self.config.width)
        width = self.config.width
        self.over_time = nn.ModuleList(operations.Conv1d(width, width, 3, dilation=d) for d in self.config.dilations)
        self.mix = nn.ModuleList(operations.Conv1d(width, width, 1) for _ in self.config.dilations)
        self.leave = operations.Conv1d(width, len(CLASSES), 1)

    def forward(self, thumbnails: Tensor) -> Tensor:
        return self.judge(self.describe(thumbnails))

    def describe(self, thumbnails: Tensor) -> list[Tensor]:
        """`[B, T, 3, 27, 48]` in [0, 1] -> each frame's descriptors, `[B, T, ...]`, by themselves."""
        B, T = thumbnails.shape[:2]
        flat = thumbnails.flatten(0, 1)  # [B * T, 3, 27, 48]
        grey = (flat * flat.new_tensor(_GREY)[:, None, None]).sum(1)  # [B * T, 27, 48]
        centred = (grey - grey.mean((1, 2), keepdim=True)).flatten(1)
        spread = centred.square().mean(1, keepdim=True)
        features = self.layout(flat * 2 - 1)
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)
        saturation = (flat.amax(1) - flat.amin(1)).mean((1, 2))
        numbers = torch.stack([grey.mean((1, 2)), (spread[:, 0] + 1e-4).log() / 8, saturation], -1)
        kinds = [
            flat.flatten(1) - 0.5,
            F.adaptive_avg_pool2d(flat, (3, 5)).flatten(1) - 0.5,
            centred / (spread + 1e-4).sqrt() / centred.shape[1] ** 0.5,
            _histogram(flat),
            F.normalize(features.flatten(1), dim=1),
            F.normalize(self.content(pooled), dim=1),
            numbers,
            F.avg_pool2d(grey[:, None], 2)[:, 0],
        ]
        return [kind.unflatten(0, (B, T)) for kind in kinds]

    def judge(self, descriptors: list[Tensor]) -> Tensor:
        """Descriptors of T frames -> logits `[B, T - 2 * radius, 4]` of those that have `radius` on both sides."""
        *compared, numbers, small = descriptors
        reach = max(self.config.offsets)
        T = numbers.shape[1] - 2 * reach
        squares = [_squares(kind) for kind in compared]  # each [B, T + 2 * reach, T + 2 * reach]
        squares[:2] = [square / kind.shape[-1] for square, kind in zip(squares, compared[:2], strict=False)]
        around = torch.tensor([reach + offset for offset in self.config.around], device=numbers.device)
        rows = torch.arange(T, device=numbers.device)[:, None] + around  # [T, frames around]
        first, second = torch.tensor(self.pairs, device=numbers.device).T
        gathered = torch.stack([square[:, rows[:, first], rows[:, second]] for square in squares], -1)
        inputs = torch.cat(
            [
                (gathered + 1e-5).log().flatten(2) / 4 + 1,
                self._mixtures(squares[0], T),
                _shifted(small[:, reach - max(_STEPS) : reach + T])[:, max(_STEPS) :],
                numbers[:, reach : reach + T],
            ],
            -1,
        )
        x = F.gelu(self.enter(inputs)).transpose(1, 2)  # [B, width, T]
        for over_time, mix in zip(self.over_time, self.mix, strict=True):
            margin = over_time.dilation[0]  # type: ignore[index,union-attr]
            x = x[..., margin:-margin] + mix(F.gelu(over_time(x)))
        return self.leave(x).transpose(1, 2)

    def _mixtures(self, squares: Tensor, T: int) -> Tensor:
        """For each offset, the share of the later frame in the frame in the middle, and what no share explains."""
        reach = max(self.config.offsets)
        middle = torch.arange(reach, reach + T, device=squares.device)
        found = []
        for offset in self.config.offsets:
            before, after = squares[:, middle, middle - offset], squares[:, middle, middle + offset]
            span = squares[:, middle - offset, middle + offset]
            share = (before + span - after) / (2 * span + 1e-4)
            rest = (before - share.square() * span).clamp(min=0) / (span + 1e-4)
            found += [share.clamp(-1, 2), (rest + 1e-3).log() / 4 + 1]
        return torch.stack(found, -1)


def _squares(vectors: Tensor) -> Tensor:
    """Squared distances between all vectors `[B, T, D]` -> `[B, T, T]`."""
    lengths = vectors.square().sum(-1)
    products = vectors @ vectors.transpose(1, 2)
    return (lengths[:, :, None] + lengths[:, None] - 2 * products).clamp(min=0)


def _histogram(frames: Tensor) -> Tensor:
    """Root of the share of each colour, `[N, 3, H, W]` -> `[N, 512]`: their distance is Hellinger's."""
    levels = (frames * (_BINS - 1e-3)).long().clamp(0, _BINS - 1)
    colours = ((levels[:, 0] * _BINS + levels[:, 1]) * _BINS + levels[:, 2]).flatten(1)
    counts = torch.zeros(len(frames), _BINS**3, device=frames.device)
    counts.scatter_add_(1, colours, torch.ones_like(colours, dtype=counts.dtype))
    return (counts / colours.shape[1]).sqrt()


def _shifted(small: Tensor) -> Tensor:
    """What a shift of the whole picture leaves of its change, and that change: `[B, T, h, w]` -> `[B, T, 2 * steps]`.

    Frame t is compared with the one `step` before it; the first ones have none and are given 0.
    """
    H, W = small.shape[-2:]
    found = []
    for step in _STEPS:
        here = small[:, step:, _DOWN : H - _DOWN, _ACROSS : W - _ACROSS]
        there = small[:, :-step].unfold(2, H - 2 * _DOWN, 1).unfold(3, W - 2 * _ACROSS, 1)  # [B, T, 5, 9, h, w]
        changes = (there - here[:, :, None, None]).abs().mean((-2, -1)).flatten(2)
        best = (changes.amin(-1) + 1e-3).log() / 3 + 1
        still = (changes[..., changes.shape[-1] // 2] + 1e-3).log() / 3 + 1
        found += [F.pad(best, (step, 0)), F.pad(still, (step, 0))]
    return torch.stack(found, -1)
