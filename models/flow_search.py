"""Motion between two frames without a network, and from it the flow of a moment in between.

Each frame's pixels are searched in the other one: from a sixteenth of the size to half of it, pixels may take the
motion of a neighbour, none, or one near their own, where that fits better, and Lucas-Kanade steps refine all (Lucas and
Kanade, 1981; neighbours as in PatchMatch, Barnes et al., 2009). Paths are smoothed by what fits along them.

Both fields are then thrown forward and back to the moment in between, weighted by how well they fit and agree (as
softmax splatting, Niklaus and Liu, CVPR 2020). Where two meet, the one that moves against its wide surroundings wins: a
thing before a background that pans or rests is far more common than a hole that shows one.
"""

from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

REACH = 4
"""Longest motion along one axis that the search begins with, in pixels of a sixteenth of the size."""
_STEPS = {4: 2, 3: 3, 2: 3, 1: 2}  # Lucas-Kanade steps after so many halvings of the size
_SMOOTH = {4: 3, 3: 3, 2: 3, 1: 7}  # window of the smoothing there: narrow while small things must keep their motion
_SEARCHED = (3, 2)  # halvings at which motions near the own one are tried
_NEAR = [(2.0 * x, 2.0 * y) for y in range(-2, 3) for x in range(-2, 3) if x or y]
_NEIGHBOURS = [(d * x, d * y) for d in (2, 1) for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1))]
_TOLERANCE = 4.0  # grey levels: what differs by this along its motion counts half
_FIT = 6.0  # grey levels: what differs by this is thrown with a weight of 1/e
_AGREE = 2.0  # pixels: as is what comes back this far from where it began
_FRONT = 4.0  # pixels: motion against the surroundings beyond this makes nothing more of a thing in front

STEPS = nn.Identity()
"""The search's many small results pass through it, as through a part of a network: see `network_checks.checked`."""


class Motion(NamedTuple):
    """Motion of both frames at half size, in its pixels, in the direction of time, and how far it is believed."""

    first: Tensor
    """`[B, 2, h, w]`: a pixel of the first frame is there in the second."""
    second: Tensor
    """`[B, 2, h, w]`: a pixel of the second frame came from there by this."""
    weights: tuple[Tensor, Tensor]
    """`[B, 1, h, w]`, above 0."""
    frames: tuple[Tensor, Tensor]
    """`[B, 3, h, w]`: what was compared."""


def pixel_grid(height: int, width: int, like: Tensor) -> Tensor:
    """float32 `[1, 2, H, W]`: (x, y) of each pixel."""
    y = torch.arange(height, device=like.device, dtype=torch.float32).view(-1, 1).expand(height, width)
    x = torch.arange(width, device=like.device, dtype=torch.float32).expand(height, width)
    return torch.stack([x, y]).unsqueeze(0)


def sample(image: Tensor, places: Tensor, mode: str = "bilinear") -> Tensor:
    """Samples of `[B, C, H, W]` at (x, y) `[B, 2, h, w]` in pixels; beyond the edge the edge repeats.

    mode: "bilinear", or "bicubic", which keeps fine detail and may leave the range of the image a little.
    """
    H, W = image.shape[-2:]
    size = torch.tensor([max(W - 1, 1), max(H - 1, 1)], device=places.device, dtype=torch.float32).view(1, 2, 1, 1)
    grid = (places.float() / size * 2 - 1).permute(0, 2, 3, 1)
    sampled = F.grid_sample(image.float(), grid, mode=mode, padding_mode="border", align_corners=True)
    return sampled.to(image.dtype)


def local_mean(x: Tensor, window: int) -> Tensor:
    """Mean over a square window of odd side; only what is inside the picture counts."""
    half = window // 2
    x = F.avg_pool2d(x, (window, 1), 1, (half, 0), count_include_pad=False)
    return F.avg_pool2d(x, (1, window), 1, (0, half), count_include_pad=False)


def _difference(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().sum(1, keepdim=True)


def _compared(frame: Tensor) -> Tensor:
    """RGB in [0, 1] -> luma, red against green, yellow against blue, in grey levels."""
    red, green, blue = (frame.float() * 255).split(1, 1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return torch.cat([luma, (red - green) / 2, ((red + green) / 2 - blue) / 2], 1)


def slopes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Half differences along x and along y, each of the shape of x."""
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    return across / 2, (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2


def _shifted(path: Tensor, x: int, y: int) -> Tensor:
    """Each pixel has what its neighbour at (-x, -y) had."""
    H, W = path.shape[-2:]
    padded = F.pad(path, (max(x, 0), max(-x, 0), max(y, 0), max(-y, 0)), mode="replicate")
    return padded[:, :, max(-y, 0) : max(-y, 0) + H, max(-x, 0) : max(-x, 0) + W]


class _Search:
    """Where the pixels of one frame are in another, at one size: both `[B, 3, h, w]`."""

    def __init__(self, here: Tensor, there: Tensor):
        self.here, self.there = here, there
        self.grid = pixel_grid(here.shape[-2], here.shape[-1], here)

    def cost(self, path: Tensor, window: int = 5) -> Tensor:
        """Mean difference along the motions over a window, `[B, 1, h, w]` in grey levels."""
        return STEPS(local_mean(_difference(self.here, sample(self.there, self.grid + path)), window))

    def fully(self) -> Tensor:
        """The best motion of whole pixels; long ones must be better."""
        reach = range(-REACH, REACH + 1)
        tried = torch.tensor(list(product(reach, reach)), dtype=torch.float32, device=self.here.device)
        costs = []
        for path in tried.view(-1, 1, 2, 1, 1):
            moved = sample(self.there[:, :1], (self.grid + path).expand(len(self.there), -1, -1, -1))
            costs.append((self.here[:, :1] - moved).abs())
        cost = torch.cat(costs, 1)
        cost = local_mean(cost, 5) + local_mean(cost, 3) / 2 + 0.15 * tried.norm(dim=1).view(1, -1, 1, 1)
        return tried[cost.argmin(1)].permute(0, 3, 1, 2)

    def adopt(self, path: Tensor) -> Tensor:
        """Per pixel the best of its own motion, none, and those of its neighbours, one after another."""
        best = self.cost(path) - 0.1
        for x, y in [(0, 0), *_NEIGHBOURS]:
            tried = _shifted(path, x, y) if x or y else torch.zeros_like(path)
            other = self.cost(tried)
            path, best = torch.where(other < best, tried, path), torch.minimum(other - 0.1, best)
        return path

    def look_near(self, path: Tensor) -> Tensor:
        """A motion near the own one, where that is clearly better: what is small and fast was lost at smaller sizes."""
        best, found = self.cost(path) * 0.7 - 1, path
        for x, y in _NEAR:
            tried = path + torch.tensor([x, y], device=path.device).view(1, 2, 1, 1)
            other = self.cost(tried) + 0.05 * (x * x + y * y) ** 0.5
            found, best = torch.where(other < best, tried, found), torch.minimum(other, best)
        return self.adopt(found)


def step_to_fit(off: Tensor, x: Tensor, y: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """A Lucas-Kanade step `[B, 2, h, w]` by differences `off` `[B, C, h, w]` in grey levels, and slopes along x and y.

    With it what a pixel counts, `[B, 1, h, w]`: less where it does not fit.
    """
    fit = 1 / (off.abs().sum(1, keepdim=True) + _TOLERANCE)
    products = torch.cat([(a * b).sum(1, keepdim=True) for a, b in ((x, x), (x, y), (y, y), (x, off), (y, off))], 1)
    xx, xy, yy, xo, yo = local_mean(products * fit, window).split(1, 1)
    xx, yy = xx + 1, yy + 1  # where there is no texture the path stays
    return torch.cat([xy * yo - yy * xo, xy * xo - xx * yo], 1) / (xx * yy - xy * xy), fit


def _refine(
    first: Tensor, second: Tensor, path: Tensor, *, steps: int, window: int, smooth: int, time: Tensor | None = None
) -> Tensor:
    """Lucas-Kanade steps; pixels that do not fit along the path count less, in the step and in smoothing.

    Paths are those of the first frame's pixels or, with a `time` `[B, 1, 1, 1]`, of pixels at that moment.
    """
    grid, C = pixel_grid(first.shape[-2], first.shape[-1], first), first.shape[1]
    second = torch.cat([second, *slopes(second)], 1)
    if time is not None:
        first = torch.cat([first, *slopes(first)], 1)
    for _ in range(steps):
        two = sample(second, grid + (path if time is None else (1 - time) * path))
        one = first if time is None else sample(first, grid - time * path)
        off, steep = two[:, :C] - one[:, :C], two[:, C:]
        if time is not None:
            steep = torch.lerp(steep, one[:, C:], time)
        move, fit = step_to_fit(off, steep[:, :C], steep[:, C:], window)
        path = local_mean((path + move.clamp(-2, 2)) * fit, smooth) / local_mean(fit, smooth)
    return path


def _surroundings(path: Tensor, weight: Tensor) -> Tensor:
    """The motion that is common far around each pixel: a mean in which what differs from it counts little."""
    common = path.flatten(2).median(2).values.view(*path.shape[:2], 1, 1)
    for _ in range(3):
        share = weight / (1 + (path - common).square().sum(1, keepdim=True))
        wide = F.adaptive_avg_pool2d(torch.cat([path * share, share], 1), (4, 6))
        wide = F.interpolate(local_mean(wide, 3), path.shape[-2:], mode="bilinear")
        common = wide[:, :2] / (wide[:, 2:] + 1e-6)
    return common


def find_motion(first: Tensor, second: Tensor) -> Motion:
    """Both ways, of frames `[B, 3, H, W]` in [0, 1], H and W multiples of 16."""
    sizes = [_compared(torch.cat([first, second]))]
    for _ in range(max(_STEPS)):
        sizes.append(F.avg_pool2d(sizes[-1], 2))
    path, search = torch.zeros(()), None
    for halvings, steps in _STEPS.items():
        here = sizes[halvings]
        there = torch.cat(here.chunk(2)[::-1])
        search = _Search(here, there)
        if halvings == max(_STEPS):
            path = search.fully()
        else:
            path = search.adopt(F.interpolate(path, scale_factor=2, mode="bilinear") * 2)
        if halvings in _SEARCHED:
            path = search.look_near(path)
        path = _refine(here, there, path, steps=steps, window=7, smooth=_SMOOTH[halvings])
    assert search is not None
    back = sample(torch.cat(path.chunk(2)[::-1]), search.grid + path)
    returned = (path + back).norm(dim=1, keepdim=True)
    weight = torch.exp(-search.cost(path, 3) / _FIT - returned / _AGREE)
    against = (path - _surroundings(path, weight)).norm(dim=1, keepdim=True).clamp(max=_FRONT)
    one, two = (weight * against.exp() + 1e-4).chunk(2)
    forward, backward = path.chunk(2)
    here, there = sizes[1].chunk(2)
    return Motion(forward, -backward, (one, two), (here, there))


def _throw(values: Tensor, path: Tensor) -> Tensor:
    """Adds each pixel's values `[B, C, h, w]` to the four pixels about where its path ends."""
    B, C, H, W = values.shape
    x, y = (pixel_grid(H, W, values) + path).split(1, 1)
    left, top = x.floor(), y.floor()
    out = values.new_zeros(B, C, H * W)
    for right, down in product((0, 1), (0, 1)):
        column, row = left + right, top + down
        share = (1 - (x - column).abs()) * (1 - (y - row).abs())
        inside = (column >= 0) & (column < W) & (row >= 0) & (row < H)
        place = (row.clamp(0, H - 1) * W + column.clamp(0, W - 1)).long().flatten(2)
        out.scatter_add_(2, place.expand(-1, C, -1), (values * share * inside).flatten(2))
    return out.view(B, C, H, W)


def _filled(sums: Tensor, weights: Tensor) -> Tensor:
    """Weighted means; where nothing was thrown, those of the pixels around, as far as it takes."""
    H, W = sums.shape[-2:]
    if H % 2 or W % 2 or min(H, W) <= 4:
        return sums / (weights + 1e-8)
    around = F.interpolate(_filled(F.avg_pool2d(sums, 2), F.avg_pool2d(weights, 2)), scale_factor=2, mode="bilinear")
    return (sums + 0.05 * around) / (weights + 0.05)


def flow_at(motion: Motion, time: Tensor) -> tuple[Tensor, Tensor]:
    """Flows `[B, 4, H, W]` in pixels, (x, y) from the frame at `time` `[B, 1, 1, 1]` to the first and to the second.

    With them the first frame's share of the blend, `[B, 1, H, W]` in [0, 1]: what only one frame shows comes from it.
    """
    thrown = []
    for path, weight, after in ((motion.first, motion.weights[0], time), (motion.second, motion.weights[1], time - 1)):
        values = torch.cat([path * weight, weight, torch.ones_like(weight)], 1).expand(len(time), -1, -1, -1)
        thrown.append(_throw(values, path * after))
    path = _filled(thrown[0][:, :2] + thrown[1][:, :2], thrown[0][:, 2:3] + thrown[1][:, 2:3])
    first, second = (each.expand(len(time), -1, -1, -1) for each in motion.frames)
    path = _refine(first, second, path, steps=2, window=5, smooth=5, time=time)
    one, two = (
        F.interpolate(local_mean(each[:, 3:].clamp(max=1), 3), scale_factor=2, mode="bilinear") for each in thrown
    )
    one, two = one * (1 - time) + 0.02, two * time + 0.02
    path = F.interpolate(path, scale_factor=2, mode="bilinear") * 2
    return torch.cat([-time * path, (1 - time) * path], 1), one / (one + two)


def flow_after(motion: Motion, later: Tensor) -> tuple[Tensor, Tensor]:
    """Flow `[B, 2, H, W]` in pixels from the frame that is `later` `[B, 1, 1, 1]` to the second, if all moves on.

    `later` counts from the second frame, in distances of the two. With it the weight `[B, 1, H, W]` of what was thrown
    to each place: near 0 where the motion is not believed or nothing came.
    """
    path, weight = motion.second, motion.weights[1]
    values = torch.cat([path * weight, weight], 1).expand(len(later), -1, -1, -1)
    thrown = _throw(values, path * later)
    moved = local_mean(_filled(thrown[:, :2], thrown[:, 2:]), 5)
    flow, weight = (F.interpolate(each, scale_factor=2, mode="bilinear") for each in (moved * 2, thrown[:, 2:]))
    return -later * flow, weight
