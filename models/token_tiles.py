"""Tiles of a video's tokens and what each of them may see: windows around it, or cubes to choose from.

Tiles and cubes lie in the real grid of frames, rows and columns, of any size. Where tokens were left out before (see
token_merging), they are made of those that are left: as many in each, near each other along a path through the grid
that never jumps; and a window is made of the nearest, measured along its sides.
"""

from itertools import pairwise, product
from typing import NamedTuple

import torch
from torch import Tensor

from .attention import Grid
from .attention_calls import Place

Sides = tuple[int, int, int]
"""Frames, rows and columns."""


class Tiles(NamedTuple):
    """Tiles of one size. `queries` `[tiles, Q]` and `keys` `[tiles, K]` are numbers of tokens.

    For a choice, `keys` `[tiles, 0]` is empty, and `own` bool `[tiles, cubes]` tells the cubes that overlap a tile.
    """

    queries: Tensor
    keys: Tensor
    own: Tensor


class Cubes(NamedTuple):
    """`tokens` `[cubes, most]`: numbers of a cube's tokens, of which the first `sizes` `[cubes]` count."""

    tokens: Tensor
    sizes: Tensor
    least: int
    alike: bool


class Tiling(NamedTuple):
    """What is computed. `sinks` are numbers of keys that all see, `others` those of queries outside of the grid.

    `budget` keys are chosen of `cubes`; where `summed`, the other cubes count as one key each. `density`: the share of
    all pairs of tokens.
    """

    tiles: list[Tiles]
    cubes: Cubes | None
    budget: int
    sinks: Tensor
    others: Tensor
    density: float
    summed: bool = False

    def to(self, device: torch.device) -> "Tiling":
        """The same on another device."""
        tiles = [Tiles(*(each.to(device) for each in some)) for some in self.tiles]
        cubes = self.cubes
        if cubes is not None:
            cubes = cubes._replace(tokens=cubes.tokens.to(device), sizes=cubes.sizes.to(device))
        sinks, others = self.sinks.to(device), self.others.to(device)
        return self._replace(tiles=tiles, cubes=cubes, sinks=sinks, others=others)


def tile_for_windows(
    place: Place, tile: Sides, *, density: float, window: Sides | None, first_frame: bool
) -> Tiling | None:
    """Tiles of about `tile` tokens that see a window each, of `density` of the grid; None where windows see everything.

    `window`: its sides in tokens, in place of `density`. `first_frame`: all tokens see the first frame, which windows
    then leave out.
    """
    body = _body(place.grid, first_frame)
    wanted = window or tuple(-(-len(side) * density ** (1 / 3) // 1) for side in body)
    sinks, others = _seen_by_all(place, first_frame), _outside(place, place.queries)
    if place.kept is not None:
        found = _nearest(place, body, tile, (int(wanted[0]), int(wanted[1]), int(wanted[2])), density, window)
    else:
        boxes = [_parts(*sizes) for sizes in zip(map(range, place.grid), tile, strict=True)]
        queries = [_numbers(place, *box) for box in product(*boxes)]
        axes = [_ranges(*each) for each in zip(body, wanted, boxes, strict=True)]
        whole = all(len(axis[0]) == len(side) for axis, side in zip(axes, body, strict=True))
        found = None if whole else (queries, [_numbers(place, *box) for box in product(*axes)])
    if found is None:
        return None
    keys = [torch.cat([each, sinks]) for each in found[1]]
    tiles = [Tiles(*pair, torch.zeros(0)) for pair in _by_size(found[0], keys)]
    return Tiling(tiles, None, 0, sinks, others, _density(place, tiles[0].keys.shape[1]))


def tile_for_choice(
    place: Place, tile: Sides, cube: Sides, *, density: float, first_frame: bool, summed: bool = False
) -> Tiling | None:
    """Tiles of about `tile` tokens, and cubes of about `cube` of which each tile sees those that fit it best.

    They see `density` of the grid; None where that is everything. Where `summed`, that has a key for each cube in it;
    where too few were left for what is chosen, nothing is summed up. `first_frame`: see `tile_for_windows`.
    """
    body = _body(place.grid, first_frame)
    sinks, others = _seen_by_all(place, first_frame), _outside(place, place.queries)
    if place.kept is None:
        boxes = [_parts(*sizes) for sizes in zip(body, cube, strict=True)]
        cubes = [_numbers(place, *box) for box in product(*boxes)]
        boxes = [_parts(*sizes) for sizes in zip(map(range, place.grid), tile, strict=True)]
        queries = [_numbers(place, *box) for box in product(*boxes)]
    else:
        cubes = _chunks(place, _inside(place, body), cube)
        queries = _queries(place, tile)
    sizes = torch.tensor([len(each) for each in cubes])
    budget = max(1, round(density * int(sizes.sum())))
    if budget >= int(sizes.sum()):
        return None
    summed = summed and budget - len(cubes) >= int(sizes.max())
    budget -= len(cubes) * summed
    most = int(sizes.max())
    tokens = torch.stack([torch.cat([each, each[-1:].expand(most - len(each))]) for each in cubes])
    made = Cubes(tokens, sizes.to(tokens.device), int(sizes.min()), bool((sizes == most).all()))
    where = tokens  # among the queries
    if place.kept is not None and not place.kept.queries:
        where = place.before + place.kept.numbers[tokens - place.before]
    pairs = _by_size(queries, [tokens.new_zeros(0)] * len(queries))
    tiles = [Tiles(some, none, _overlaps(some, where, place.queries)) for some, none in pairs]
    seen = budget + len(cubes) * summed + len(sinks)
    return Tiling(tiles, made, budget, sinks, others, _density(place, seen), summed)


# -- places


def _body(grid: Grid, first_frame: bool) -> tuple[range, range, range]:
    """Where the tokens lie that tiles see or do not see."""
    return range(1 if first_frame and grid.t > 1 else 0, grid.t), range(grid.h), range(grid.w)


def _device(place: Place) -> torch.device:
    return torch.device("cpu") if place.kept is None else place.kept.numbers.device


def _outside(place: Place, count: int) -> Tensor:
    """Those of `count` queries or keys that are not of the grid."""
    numbers = torch.arange(count, device=_device(place))
    return torch.cat([numbers[: place.before], numbers[count - place.after :]])


def _seen_by_all(place: Place, first_frame: bool) -> Tensor:
    first = place.grid.h * place.grid.w if first_frame and place.grid.t > 1 else 0
    numbers = torch.arange(first, device=_device(place))
    if place.kept is not None:
        numbers = (place.kept.numbers < first).nonzero()[:, 0]
    return torch.cat([_outside(place, place.keys), place.before + numbers])


def _density(place: Place, seen: int) -> float:
    others = place.before + place.after
    return ((place.queries - others) * seen + others * place.keys) / (place.queries * place.keys)


def _by_size(queries: list[Tensor], keys: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Those of as many queries, and keys, stacked."""
    groups: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
    for pair in zip(queries, keys, strict=True):
        groups.setdefault((len(pair[0]), len(pair[1])), []).append(pair)
    return [(torch.stack([a for a, _ in some]), torch.stack([b for _, b in some])) for some in groups.values()]


def _overlaps(queries: Tensor, cubes: Tensor, tokens: int) -> Tensor:
    """Of `[tiles, Q]` and `[cubes, most]`, numbers of so many tokens: bool `[tiles, cubes]`."""
    count, device = len(cubes), queries.device
    cube_of = torch.full((tokens,), count, dtype=torch.long, device=device)  # no cube's
    cube_of[cubes] = torch.arange(count, device=device)[:, None]
    own = torch.zeros(len(queries), count + 1, dtype=torch.bool, device=device)
    return own.scatter_(1, cube_of[queries], True)[:, :-1]


# -- all tokens of the grid


def _parts(side: range, length: int) -> list[range]:
    """A side in parts of about that length, their lengths at most 1 apart."""
    count = max(1, round(len(side) / length))
    ends = [side.start + len(side) * i // count for i in range(count + 1)]
    return [range(begin, end) for begin, end in pairwise(ends)]


def _ranges(side: range, wide: float, parts: list[range]) -> list[range]:
    """For each part what is around it and inside of the side, as long for all, and as the longest part at least."""
    length = min(max(int(wide), max(map(len, parts))), len(side))
    middles = [(part.start + part.stop - length) // 2 for part in parts]
    lows = [min(max(side.start, low), side.stop - length) for low in middles]
    return [range(low, low + length) for low in lows]


def _numbers(place: Place, frames: range, rows: range, columns: range) -> Tensor:
    t, h, w = (torch.arange(each.start, each.stop) for each in (frames, rows, columns))
    return place.before + ((t[:, None, None] * place.grid.h + h[:, None]) * place.grid.w + w).flatten()


# -- tokens that are left


def _inside(place: Place, body: tuple[range, range, range]) -> Tensor:
    """Which of the kept tokens are not of a first frame that all see."""
    assert place.kept is not None
    first = body[0].start * place.grid.h * place.grid.w
    return (place.kept.numbers >= first).nonzero()[:, 0]


def _queries(place: Place, tile: Sides) -> list[Tensor]:
    assert place.kept is not None
    if place.kept.queries:
        everyone = torch.arange(len(place.kept.numbers), device=place.kept.numbers.device)
        return _chunks(place, everyone, tile)
    boxes = [_parts(*sizes) for sizes in zip(map(range, place.grid), tile, strict=True)]
    return [_numbers(place, *box).to(place.kept.numbers.device) for box in product(*boxes)]


def _chunks(place: Place, some: Tensor, box: Sides) -> list[Tensor]:
    """Kept tokens of the indices `some`, in parts of about as many as a box has, as near to each other as these."""
    assert place.kept is not None
    t, h, w = _coordinates(place.grid, place.kept.numbers[some])
    rows, columns = -(-place.grid.h // box[1]), -(-place.grid.w // box[2])
    t, h, w = t // box[0], h // box[1], w // box[2]
    h = torch.where(t % 2 == 1, rows - 1 - h, h)
    line = t * rows + h
    w = torch.where(line % 2 == 1, columns - 1 - w, w)  # to and fro: the path never jumps
    order = some[torch.argsort(line * columns + w, stable=True)]
    count = max(1, round(len(order) / (box[0] * box[1] * box[2])))
    ends = [len(order) * i // count for i in range(count + 1)]
    return [place.before + order[begin:end] for begin, end in pairwise(ends)]


def _nearest(
    place: Place, body: tuple[range, range, range], tile: Sides, wide: Sides, density: float, window: Sides | None
) -> tuple[list[Tensor], list[Tensor]] | None:
    """Queries of each tile and the keys nearest to it, as many for all; None where that is all keys."""
    assert place.kept is not None
    candidates = _inside(place, body)
    if window is not None:
        density = min(1.0, wide[0] * wide[1] * wide[2] / (len(body[0]) * len(body[1]) * len(body[2])))
    queries = _queries(place, tile)
    count = max(1, round(density * len(candidates)))
    if place.kept.queries:
        count = max(count, *map(len, queries))  # a tile sees itself
    if count >= len(candidates):
        return None
    numbers = place.kept.numbers
    everyone = numbers if place.kept.queries else torch.arange(place.grid.tokens, device=numbers.device)
    at = _coordinates(place.grid, everyone).float()
    middles = torch.stack([at[:, each - place.before].mean(1) for each in queries], 1)  # [3, tiles]
    sides = torch.tensor(wide, device=numbers.device)[:, None, None]
    keys = _coordinates(place.grid, numbers[candidates])
    away = ((keys[:, None] - middles[..., None]).abs() / sides).amax(0)  # [tiles, candidates]
    order = away.topk(count, largest=False, sorted=False).indices.sort(-1).values
    return queries, list(place.before + candidates[order])


def _coordinates(grid: Grid, numbers: Tensor) -> Tensor:
    """`[3, N]`: frames, rows and columns"""
    frame = grid.h * grid.w
    return torch.stack([numbers // frame, numbers % frame // grid.w, numbers % grid.w])
