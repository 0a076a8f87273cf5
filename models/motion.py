"""Block motion at half-pel accuracy: compensation in exact integer arithmetic, and the search for the vectors.

Vectors are `(dy, dx)` in half pixels and point from a block to its source:
`block(y, x) = reference(y + dy / 2, x + dx / 2)`. Half positions come from the six-tap filter of H.264
(1, -5, 20, 20, -5, 1) / 32, rounded to integers after each direction. Blocks overlap: near its border, a block blends
into what its neighbours' vectors predict there (Orchard and Sullivan, 1994). All sums are of integers below 2**24,
where float32 is exact too: a predicted frame is the same, bit for bit, on every device.
"""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 16
"""Pixels along one side of a motion block."""
REACH = 31
"""Largest difference of a block's vector from the global one, in half pixels."""
GLOBAL_REACH = 96
"""Largest global vector, in half pixels."""
_TAPS = (1.0, -5.0, 20.0, 20.0, -5.0, 1.0)
_SHARE = (9, 11, 13, 15, 16, 16, 16, 16)
"""A block's own share of a pixel, of 16, from its border to its middle; the block across the border has the rest."""


def _between(frame: Tensor, axis: int) -> Tensor:
    """Samples half a pixel after each one along the axis (2 or 3), edges repeated. Integers in [0, 255], as floats."""
    pad = (2, 3, 0, 0) if axis == 3 else (0, 0, 2, 3)
    padded = F.pad(frame, pad, mode="replicate")
    size = frame.shape[axis]
    total = torch.full_like(frame, 16.0)  # half of the divisor: rounds to nearest
    for i, tap in enumerate(_TAPS):
        total += tap * padded.narrow(axis, i, size)
    return torch.floor(total / 32).clamp(0, 255)


def half_pel_planes(frame: Tensor) -> Tensor:
    """uint8 `[B, C, H, W]` -> uint8 `[B, C, 4, H, W]`: whole, half right, half down, both."""
    whole = frame.float()
    right = _between(whole, 3)
    return torch.stack([whole, right, _between(whole, 2), _between(right, 2)], 2).to(torch.uint8)


def _sample(planes: Tensor, field: Tensor) -> Tensor:
    """Pixels at one vector each: planes `[B, C, 4, H, W]`, field int64 `[B, H, W, 2]` -> `[B, C, H, W]`."""
    B, C, _, H, W = planes.shape
    dy, dx = field[..., 0], field[..., 1]
    y = (torch.arange(H, device=planes.device).view(1, H, 1) + (dy >> 1)).clamp(0, H - 1)
    x = (torch.arange(W, device=planes.device).view(1, 1, W) + (dx >> 1)).clamp(0, W - 1)
    place = (((dy & 1) * 2 + (dx & 1)) * H + y) * W + x
    return planes.reshape(B, C, 4 * H * W).gather(2, place.view(B, 1, H * W).expand(-1, C, -1)).view(B, C, H, W)


def warp(planes: Tensor, motion: Tensor) -> Tensor:
    """Warps by one vector a block, each block for itself.

    planes: `[B, C, 4, H, W]` of half_pel_planes, H and W multiples of 16; motion: int `[B, H/16, W/16, 2]`.
    Returns `[B, C, H, W]` of the planes' dtype. Sources beyond the edge repeat the edge.
    """
    return _sample(planes, motion.long().repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2))


def _overlap(blocks: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Along one axis, for each pixel: (its block, that block's share of 16), (the nearest other block, the rest)."""
    pixel = torch.arange(blocks * BLOCK, device=device)
    own, within = pixel // BLOCK, pixel % BLOCK
    near = (own + torch.where(within < BLOCK // 2, -1, 1)).clamp(0, blocks - 1)
    share = torch.tensor(_SHARE + _SHARE[::-1], device=device, dtype=torch.int32)[within]
    return [(own, share), (near, 16 - share)]


def compensate(planes: Tensor, motion: Tensor) -> Tensor:
    """The predicted frame: as warp, uint8, but blocks blend over the last four pixels on either side of a border.

    Each pixel is the mean of up to four warps, by the vectors of its block, of the next one up or down, of the next one
    to the side and of the one between these, weighted in 256ths. Where they agree it is exactly the warp.
    """
    motion = motion.long()
    total = torch.full_like(planes[:, :, 0], 128, dtype=torch.int32)  # half of the divisor: rounds to nearest
    for rows, down in _overlap(motion.shape[1], planes.device):
        for columns, across in _overlap(motion.shape[2], planes.device):
            weight = down.view(-1, 1) * across.view(1, -1)
            total += _sample(planes, motion[:, rows][:, :, columns]).to(torch.int32) * weight
    return (total >> 8).to(torch.uint8)


def luma(frame: Tensor) -> Tensor:
    """RGB `[B, 3, ...]` uint8 -> float `[B, 1, ...]`, rounded to integers: what the search looks at."""
    red, green, blue = frame.float().split(1, 1)
    return torch.floor((2 * red + 5 * green + blue + 4) / 8)


def _coarse_search(current: Tensor, reference: Tensor, reach: int = 8) -> Tensor:
    """Full search at quarter size, +-4 * reach pixels. Returns half-pel vectors `[B, H/16, W/16, 2]`."""
    small, base = F.avg_pool2d(current, 4), F.avg_pool2d(reference, 4)
    B, _, H, W = small.shape
    padded = F.pad(base, (reach,) * 4, mode="replicate")
    shifts = torch.arange(-reach, reach + 1, device=current.device)
    best = torch.full((B, H // 4, W // 4), torch.inf, device=current.device)
    motion = torch.zeros(*best.shape, 2, dtype=torch.long, device=current.device)
    for dy in range(-reach, reach + 1):
        row = padded[:, 0, reach + dy : reach + dy + H].unfold(2, W, 1).permute(0, 2, 1, 3)  # [B, shifts, H, W]
        # Windows reach two samples beyond the 4x4 of their block: fewer vectors that fit by chance.
        costs = F.avg_pool2d((small - row).abs(), 8, 4, padding=2, count_include_pad=False)
        cost, index = (costs + 0.05 * (abs(dy) + shifts.abs()).sqrt().view(1, -1, 1, 1)).min(1)
        better = cost < best
        best = torch.where(better, cost, best)
        found = torch.stack([torch.full_like(index, 8 * dy), 8 * shifts[index]], -1)
        motion = torch.where(better.unsqueeze(-1), found, motion)
    return motion


def _common_vectors(motion: Tensor, most: int) -> Tensor:
    """The most frequent vectors of each field `[B, bh, bw, 2]` -> `[B, most, 2]`, the commonest first."""
    found = []
    for field in motion.flatten(1, 2):
        vectors, counts = field.unique(dim=0, return_counts=True)
        order = counts.argsort(descending=True, stable=True)[:most]
        found.append(vectors[order[torch.arange(most, device=order.device).clamp(max=len(order) - 1)]])
    return torch.stack(found)


def _better(motion: Tensor, best: Tensor, field: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
    """Per block, the cheaper of two vectors and its cost."""
    better = cost < best
    return torch.where(better.unsqueeze(-1), field, motion), torch.where(better, cost, best)


class MotionSearch:
    """Finds the vectors that predict a frame from a reconstructed one. Batched; nothing is remembered between calls."""

    def __init__(self, current: Tensor, planes: Tensor):
        """current: uint8 RGB `[B, 3, H, W]`; planes: half_pel_planes of the reference."""
        B, _, H, W = current.shape
        self.grid, self.size = (B, H // BLOCK, W // BLOCK), (H, W)
        self.current, self.planes = luma(current), luma(planes)
        self.blocks = self.current.view(B, H // BLOCK, BLOCK, W // BLOCK, BLOCK).transpose(2, 3).contiguous()

    def _fetch(self, motion: Tensor, height: int = BLOCK, width: int = BLOCK) -> Tensor:
        """Warped pixels `[B, bh, bw, height, width]` from the corner of each block on, by one vector a block."""
        (H, W), device = self.size, motion.device
        dy, dx = motion[..., 0], motion[..., 1]
        top = torch.arange(0, H, BLOCK, device=device).view(-1, 1) + (dy >> 1)
        left = torch.arange(0, W, BLOCK, device=device) + (dx >> 1)
        y = (top.unsqueeze(-1) + torch.arange(height, device=device)).clamp(0, H - 1)
        x = (left.unsqueeze(-1) + torch.arange(width, device=device)).clamp(0, W - 1)
        rows = (((dy & 1) * 2 + (dx & 1)).unsqueeze(-1) * H + y) * W
        place = rows.unsqueeze(-1) + x.unsqueeze(-2)
        return self.planes.flatten(1).gather(1, place.flatten(1)).view(place.shape)

    def _differ(self, fetched: Tensor) -> Tensor:
        return (self.blocks - fetched).abs().mean((-1, -2))

    def cost(self, motion: Tensor) -> Tensor:
        """Mean absolute difference per block `[B, bh, bw]`, in grey levels."""
        return self._differ(self._fetch(motion.long()))

    def uniform(self, vector: Tensor) -> Tensor:
        """One vector `[B, 2]` for all blocks -> a field `[B, bh, bw, 2]`."""
        return vector.long().view(-1, 1, 1, 2).expand(*self.grid, 2)

    def run(self, hints: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Returns the global vector `[B, 2]` and the field of vectors `[B, bh, bw, 2]`, both in half pixels.

        The field differs from the global vector by at most REACH. `hints` are further fields to try: the last frame's.
        """
        still = torch.zeros(*self.grid, 2, dtype=torch.long, device=self.current.device)
        coarse = _coarse_search(self.current, self.planes[:, :, 0])
        motion, best = still, self.cost(still) - 0.1
        for field in [coarse, *(hints or [])]:
            motion, best = self._keep_better(motion, best, field, 0.0)
        for step in (4, 2, 1):
            motion, best = self._refine(motion, best, step)
        vector = self._global(motion, best)
        motion, best = self._keep_better(motion, best, self.uniform(vector), -0.1)
        for neighbour in (motion.roll(s, a) for a in (1, 2) for s in (1, -1)):
            motion, best = self._keep_better(motion, best, neighbour, -0.02)
        motion, best = self._refine(motion, best, 1)
        return vector, vector.view(-1, 1, 1, 2) + (motion - vector.view(-1, 1, 1, 2)).clamp(-REACH, REACH)

    def _keep_better(self, motion: Tensor, best: Tensor, field: Tensor, bias: float) -> tuple[Tensor, Tensor]:
        return _better(motion, best, field, self.cost(field) + bias)

    def _refine(self, motion: Tensor, best: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Tries the eight vectors that are `step` away along one axis or both."""
        centre, tiles = motion, {}
        for down, across in [(step, step)] if step % 2 == 0 else [(1, 1), (1, 0), (0, 1)]:
            # What lies on one half-pel plane is read at once, as a larger block of which each vector sees a part.
            corner = centre - torch.tensor((down, across), device=motion.device)
            tile = self._fetch(corner, BLOCK + down, BLOCK + across)
            for y, x in product({0, down // 2, down}, {0, across // 2, across}):
                tiles[2 * y - down, 2 * x - across] = tile[..., y : y + BLOCK, x : x + BLOCK]
        for dy, dx in product((-step, 0, step), repeat=2):
            if dy or dx:
                moved = centre + torch.tensor((dy, dx), device=motion.device)
                motion, best = _better(motion, best, moved, self._differ(tiles[dy, dx]) + 0.01)
        return motion, best

    def _global(self, motion: Tensor, best: Tensor) -> Tensor:
        """Of the commonest vectors, the middle one and none, the one that predicts the most blocks nearly as well."""
        middle = motion.flatten(1, 2).median(1).values  # where noise scatters the vectors, none of them is common
        common = torch.cat([_common_vectors(motion, 4), middle.unsqueeze(1)], 1).clamp(-GLOBAL_REACH, GLOBAL_REACH)
        candidates = [torch.zeros_like(middle), *common.unbind(1)]
        losses = [(self.cost(self.uniform(c)) - best).clamp(0, 2).mean((1, 2)) for c in candidates]
        losses[0] = losses[0] - 0.02
        choice = torch.stack(losses).argmin(0)
        return torch.stack(candidates)[choice, torch.arange(len(choice), device=choice.device)]
