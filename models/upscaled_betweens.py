"""Frames in between at the large size, of frames that were upscaled: motion is searched where it is cheap.

Only frames of the source go through the upscaler, each once. Motion and occlusion come from the small frames; paths
are enlarged, fitted to the large pixels by one step, and the two upscaled frames are blended along them. As elsewhere,
only where something moves (`changed_regions`): all other pixels are those of the nearer upscaled frame, bit for bit.

Where the two frames still differ along a path by as much as their own detail, the path is wrong: there the picture is
smoothed, as two sharp pictures over each other are further from what was there than one that is not sharp.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .changed_regions import InBetweens, mix_tiles, to_bytes
from .changed_tiles import TILE, Box
from .flow_search import local_mean, pixel_grid, sample, slopes, step_to_fit
from .interpolator import blend

BAND = 500_000
"""Pixels of a large frame that are made at once, some 200 bytes each."""
_AROUND = 16  # large pixels above and below a band that its pixels depend on, besides where their paths lead
_FURTHEST = 1.0  # large pixels that the step moves a path by at most
_WINDOW, _SMOOTH = 7, 3  # large pixels: of the step, and of the mean over it
_WIDE, _BLUR = 9, 5  # large pixels: over which a path is judged, and by which the picture is smoothed
_NOISE = 6.0  # grey levels: of a difference, what means nothing

UpscaleFrame = Callable[[np.ndarray, bool], np.ndarray]
"""uint8 `[H, W, 3]`, and whether it begins a shot -> uint8 `[scale * H, scale * W, 3]`, never written into."""


@dataclass
class UpscaledBetweens(InBetweens):
    """As InBetweens, from small frames to large ones. `upscale` is given every frame once, as long as in order.

    The interpolator is a MotionInterpolator (ValueError for others).
    """

    upscale: UpscaleFrame = field(kw_only=True)
    scale: int = field(kw_only=True)
    upscaled: int = 0
    """Frames that the upscaler was given."""
    _paths: Callable[..., tuple[Tensor, Tensor]] = field(init=False, repr=False)
    _large: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        paths = getattr(self.interpolator, "paths", None)
        if paths is None:
            raise ValueError(
                f"{type(self.interpolator).__name__} gives frames, not the motion between them, which upscaling needs. "
                "Leave the interpolation model out, or interpolate first and upscale then."
            )
        self._paths = paths
        self.at_once = max(1, self.at_once // self.scale**2)

    def shown(self, frame: np.ndarray, begins_shot: bool = False) -> np.ndarray:
        """The frame upscaled; the last two are kept."""
        for small, large in self._large:
            if small is frame:
                return large
        large = self.upscale(frame, begins_shot)
        self.upscaled += 1
        self._large = [*self._large[-1:], (frame, large)]
        return large

    def frames(self, first: np.ndarray, second: np.ndarray, times: Sequence[float]) -> Iterator[np.ndarray]:
        """uint8 `[scale * H, scale * W, 3]` at each of `times` (above 0, below 1) between two uint8 `[H, W, 3]`."""
        self.shown(first)  # before the clock of the in-between frames starts
        self.shown(second)
        yield from super().frames(first, second, times)

    def report(self) -> dict[str, Any]:
        """How much moved, and what that took."""
        return {
            "moving_fraction": round(self.cost.computed_fraction, 6),
            "seconds_interpolating": round(self.cost.seconds + self.cost.seconds_around, 3),
            "frames_upscaled": self.upscaled,
        }

    def _whole(self, first: np.ndarray, second: np.ndarray, times: list[float]) -> list[np.ndarray]:
        one, two = self._ready(first), self._ready(second)
        self._prepared = two
        flows, shares = self._timed(lambda: self._paths(one[1], two[1], times, (one[2], two[2])))
        pair = self.shown(first), self.shown(second)
        made = [np.empty_like(pair[0]) for _ in times]
        for index, frame in enumerate(made):
            for top, band in self._along(pair, flows[index], shares[index], times[index]):
                frame[top : top + band.shape[-2]] = to_bytes(band)[0]
        return made

    def _parts(
        self,
        first: np.ndarray,
        second: np.ndarray,
        times: list[float],
        boxes: list[tuple[Box, Tensor]],
        faint: np.ndarray,
    ) -> list[np.ndarray]:
        large = self.shown(first), self.shown(second)
        made = [large[each > 0.5].copy() for each in times]
        for frame, each in zip(made, times, strict=True):
            mix_tiles(frame, *large, each, faint, self.scale * TILE)
        for box, weights in boxes:
            one, two = self._planes(box.of(first)), self._planes(box.of(second))
            flows, shares = self._timed(lambda one=one, two=two: self._paths(one, two, times))
            part, share = box.times(self.scale), enlarged_weights(weights, self.scale).to(self.device)
            pair = part.of(large[0]), part.of(large[1])
            for index, frame in enumerate(made):
                for top, band in self._along(pair, flows[index], shares[index], times[index]):
                    target = part.of(frame)[top : top + band.shape[-2]]
                    mixed = torch.lerp(self._planes(target), band, share[top : top + band.shape[-2]])
                    target[...] = to_bytes(mixed)[0]
        return made

    def _along(
        self, pair: tuple[np.ndarray, np.ndarray], flow: Tensor, share: Tensor, time: float
    ) -> Iterator[tuple[int, Tensor]]:
        bands = blended_bands(pair, flow[None].float(), share[None].float(), time, self.scale)
        while (band := self._timed(lambda: next(bands, None))) is not None:
            yield band


def enlarged_weights(weights: Tensor, scale: int) -> Tensor:
    """`[h, w]` in [0, 1] -> `[scale * h, scale * w]`: what is 0 or 1 stays just that, the rim between is smooth."""
    plain = weights.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    smooth = F.interpolate(weights[None, None], scale_factor=scale, mode="bilinear")[0, 0]
    return torch.where((plain == 0) | (plain == 1), plain, smooth)


def blended_bands(
    pair: tuple[np.ndarray, np.ndarray], flow: Tensor, share: Tensor, time: float, scale: int
) -> Iterator[tuple[int, Tensor]]:
    """The frame at `time` between two large ones, uint8 `[H, W, 3]`, from top to bottom.

    Flow `[1, 4, h, w]`, in its pixels, and share `[1, 1, h, w]` are those of the small frames. Gives the first row of
    each band, and the band `[1, 3, n, W]` in [0, 1].
    """
    h, w = flow.shape[-2:]
    path = torch.cat([flow * scale, share], 1)
    rows, around = max(1, BAND // (scale**2 * w)), -(-_AROUND // scale)
    for top in range(0, h, rows):
        low, high = max(0, top - around), min(h, top + rows + around)
        large = F.interpolate(path[:, :, low:high], scale_factor=scale, mode="bilinear")
        one, to_one = _reached(pair[0], large[:, :2], low * scale)
        two, to_two = _reached(pair[1], large[:, 2:4], low * scale)
        made = blend_closely(one, two, torch.cat([to_one, to_two], 1), large[:, 4:], time)
        yield top * scale, made[:, :, (top - low) * scale : (min(h, top + rows) - low) * scale]


def _reached(frame: np.ndarray, flow: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """The rows `[1, 3, n, W]` in [0, 1] that a flow from rows from `start` on reaches, and that flow from row 0 on."""
    H = frame.shape[0]
    y = torch.arange(start, start + flow.shape[-2], dtype=torch.float32, device=flow.device).view(1, -1, 1)
    least, most = (int(each) for each in torch.stack([(y + flow[:, 1]).min(), (y + flow[:, 1]).max()]).tolist())
    first = min(max(0, least - 4), H - 1)  # the step, and what bicubic samples take in
    last = max(first + 1, min(H, most + 6))
    rows = torch.from_numpy(np.ascontiguousarray(frame[first:last])).to(flow.device)
    planes = rows.permute(2, 0, 1)[None].to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    return planes, torch.cat([flow[:, :1], flow[:, 1:] + (start - first)], 1)


def blend_closely(first: Tensor, second: Tensor, flow: Tensor, share: Tensor, time: float) -> Tensor:
    """`blend` along a flow that comes of smaller frames: fitted by a step, and smoothed where it is wrong."""
    grid = pixel_grid(flow.shape[-2], flow.shape[-1], flow)
    one, two = sample(_luma(first), grid + flow[:, :2]), sample(_luma(second), grid + flow[:, 2:])
    off, right = two - one, _rightness(one, two)
    move, fit = step_to_fit(off, *slopes(torch.lerp(two, one, time)), _WINDOW)
    move = local_mean(move.clamp_(-_FURTHEST, _FURTHEST) * fit, _SMOOTH) / local_mean(fit, _SMOOTH) * right
    made = blend(first, second, flow + torch.cat([-time * move, (1 - time) * move], 1), share)
    doubled = (1 - right) * (4 * share * (1 - share))  # what only one frame shows cannot fit, and need not
    return torch.lerp(made, local_mean(made, _BLUR), doubled)


def _rightness(one: Tensor, two: Tensor) -> Tensor:
    """`[1, 1, h, w]`: 1 where two pictures of luma fit as far as their own contrast can tell, 0 where they do not."""
    off = local_mean(local_mean(two - one, 3).abs_(), _WIDE)  # aliasing differs from pixel to pixel, a picture does not
    contrast = sum(local_mean((each - local_mean(each, _WIDE)).abs_(), _WIDE) for each in (one, two))
    return torch.exp(-((off / (contrast / 2 + _NOISE)) ** 4))


def _luma(planes: Tensor) -> Tensor:
    """`[1, 3, H, W]` in [0, 1] -> `[1, 1, H, W]` in grey levels."""
    red, green, blue = planes.split(1, 1)
    return 255 * (0.299 * red + 0.587 * green + 0.114 * blue)
