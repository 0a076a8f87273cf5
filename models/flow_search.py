"""Motion between two frames without a network, seen from a moment in between.

For each pixel of the frame in between, one straight path v is sought along which both frames look alike: the first at
x - t v, the second at x + (1 - t) v. So every pixel has its flow to both frames, without holes. A full search at a
sixteenth of the size starts it; at each size from there to half of it, pixels may take the path of a neighbour or stand
still, where that fits better, and Lucas-Kanade steps refine all (Lucas and Kanade, 1981; neighbours as in PatchMatch,
Barnes et al., 2009; seen from the middle as in ABME, Park et al., ICCV 2021). Paths are smoothed by what fits.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

REACH = 4
"""Longest path along one axis that the search finds, in pixels of a sixteenth of the size."""
_STEPS = {4: 2, 3: 3, 2: 3, 1: 2}  # Lucas-Kanade steps after so many halvings of the size
_NEIGHBOURS = [(d * x, d * y) for d in (2, 1) for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1))]
_WINDOW = 7
_TOLERANCE = 4.0  # grey levels: what differs by this along its path counts half
_GREY = (0.299, 0.587, 0.114)


def pixel_grid(height: int, width: int, like: Tensor) -> Tensor:
    """float32 `[1, 2, H, W]`: (x, y) of each pixel."""
    y = torch.arange(height, device=like.device, dtype=torch.float32).view(-1, 1).expand(height, width)
    x = torch.arange(width, device=like.device, dtype=torch.float32).expand(height, width)
    return torch.stack([x, y]).unsqueeze(0)


def sample(image: Tensor, places: Tensor) -> Tensor:
    """Bilinear samples of `[B, C, H, W]` at (x, y) `[B, 2, h, w]` in pixels; beyond the edge the edge repeats."""
    H, W = image.shape[-2:]
    size = torch.tensor([max(W - 1, 1), max(H - 1, 1)], device=places.device, dtype=torch.float32).view(1, 2, 1, 1)
    grid = (places.float() / size * 2 - 1).permute(0, 2, 3, 1)
    sampled = F.grid_sample(image.float(), grid, mode="bilinear", padding_mode="border", align_corners=True)
    return sampled.to(image.dtype)


def _slopes(x: Tensor) -> Tensor:
    """Half differences along x and y: `[B, 1, H, W]` -> `[B, 2, H, W]`."""
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    return torch.cat([across, padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]], 1) / 2


def _mean(x: Tensor, window: int) -> Tensor:
    """Mean over a square window; only what is inside the picture counts."""
    half = window // 2
    x = F.avg_pool2d(x, (window, 1), 1, (half, 0), count_include_pad=False)
    return F.avg_pool2d(x, (1, window), 1, (0, half), count_include_pad=False)


def _full_search(first: Tensor, second: Tensor, time: Tensor) -> Tensor:
    """The path `[B, 2, H, W]` of whole pixels along which windows of `[B, 1, H, W]` differ least."""
    H, W = first.shape[-2:]
    grid, reach = pixel_grid(H, W, first), range(-REACH, REACH + 1)
    paths = torch.tensor([(x, y) for y in reach for x in reach], dtype=torch.float32, device=first.device)
    costs = []
    for path in paths.view(-1, 1, 2, 1, 1):
        costs.append((sample(first, grid - time * path) - sample(second, grid + (1 - time) * path)).abs())
    cost = torch.cat(costs, 1)
    cost = _mean(cost, 5) + _mean(cost, 3) / 2 + 0.15 * paths.norm(dim=1).view(1, -1, 1, 1)
    return paths[cost.argmin(1)].permute(0, 3, 1, 2)


def _shifted(path: Tensor, x: int, y: int) -> Tensor:
    """Each pixel has what its neighbour at (-x, -y) had."""
    H, W = path.shape[-2:]
    padded = F.pad(path, (max(x, 0), max(-x, 0), max(y, 0), max(-y, 0)), mode="replicate")
    return padded[:, :, max(-y, 0) : max(-y, 0) + H, max(-x, 0) : max(-x, 0) + W]


def _adopt(first: Tensor, second: Tensor, path: Tensor, time: Tensor) -> Tensor:
    """Per pixel the best of its own path, none, and those of its neighbours, over a window of 5 by 5."""
    grid = pixel_grid(first.shape[-2], first.shape[-1], first)

    def cost(tried: Tensor) -> Tensor:
        return _mean((sample(first, grid - time * tried) - sample(second, grid + (1 - time) * tried)).abs(), 5)

    best = cost(path) - 0.1
    for x, y in [(0, 0), *_NEIGHBOURS]:
        tried = _shifted(path, x, y) if x or y else torch.zeros_like(path)
        other = cost(tried)
        path, best = torch.where(other < best, tried, path), torch.minimum(other - 0.1, best)
    return path


def _refine(first: Tensor, second: Tensor, path: Tensor, time: Tensor, steps: int) -> Tensor:
    """Lucas-Kanade steps; pixels that do not fit along the path count less, in the step and in smoothing."""
    grid = pixel_grid(first.shape[-2], first.shape[-1], first)
    first, second = (torch.cat([each, _slopes(each)], 1) for each in (first, second))
    for _ in range(steps):
        one, two = sample(first, grid - time * path), sample(second, grid + (1 - time) * path)
        off = two[:, :1] - one[:, :1]
        x, y = torch.lerp(two[:, 1:], one[:, 1:], time).split(1, 1)
        fit = 1 / (off.abs() + _TOLERANCE)
        xx, xy, yy, xo, yo = _mean(torch.cat([x * x, x * y, y * y, x * off, y * off], 1) * fit, _WINDOW).split(1, 1)
        xx, yy = xx + 1, yy + 1  # where there is no texture the path stays
        move = torch.cat([xy * yo - yy * xo, xy * xo - xx * yo], 1) / (xx * yy - xy * xy)
        path = _mean((path + move.clamp(-2, 2)) * fit, 5) / _mean(fit, 5)
    return path


def start_flow(first: Tensor, second: Tensor, time: Tensor) -> Tensor:
    """Flows `[B, 4, H, W]` in pixels, (x, y) from the frame at `time` to the first and to the second.

    Frames are `[B, 3, H, W]` in [0, 1], H and W multiples of 16; `time` is `[B, 1, 1, 1]`.
    """
    grey = torch.tensor(_GREY, device=first.device).view(1, 3, 1, 1) * 255
    sizes = [[(each.float() * grey).sum(1, keepdim=True) for each in (first, second)]]
    for _ in range(max(_STEPS)):
        sizes.append([F.avg_pool2d(each, 2) for each in sizes[-1]])
    path = _full_search(*sizes[max(_STEPS)], time)
    for halvings, steps in _STEPS.items():
        if halvings < max(_STEPS):
            path = F.interpolate(path, scale_factor=2, mode="bilinear") * 2
            path = _adopt(*sizes[halvings], path, time)
        path = _refine(*sizes[halvings], path, time, steps)
    path = F.interpolate(path, scale_factor=2, mode="bilinear") * 2
    return torch.cat([-time * path, (1 - time) * path], 1)
