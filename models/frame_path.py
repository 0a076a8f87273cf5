"""The frames to keep, so that restoring all others costs least: a shortest path from the first frame to the end.

A step of the path is two kept frames; its price is what the frames between them cost. One price more for every frame
kept, searched until the number is right, gives the best plan of that number or of one near it; what is missing then is
made up by single frames, each the best one to add.
"""

import heapq
from collections.abc import Callable, Sequence

import numpy as np

from .restoration import GAP, Costs

_STILL = 0.5  # squared grey levels: pictures closer than this are one
_STEPS = 12  # candidates for each frame to be kept, where there are that many: where frames are rare, not all are tried
_ROUNDS = 40  # of the search for the price of a frame
_EVENNESS = 1e-4  # of a gap, in squared mean gaps: it decides where nothing else does

Loss = Callable[[np.ndarray], np.ndarray]
"""What squared errors cost."""


def cheapest_frames(
    pictures: np.ndarray,
    times: np.ndarray,
    groups: np.ndarray,
    required: Sequence[int],
    *,
    loss: Loss,
    count: int,
    min_gap: int = 1,
    max_gap: int | None = None,
) -> list[int] | None:
    """About `count` frames, increasing, with 0 and `required`, so that the sum of `loss` over all others is least.

    Fewer where `min_gap` leaves no room or the clip stands still, more where `max_gap` needs them; None where the gaps
    cannot be kept. pictures: uint8 `[N, P]`; times, groups: `[N]`, see `Costs`.
    """
    N = len(pictures)
    nodes = _candidates(pictures, sorted({0, *required}), count, min_gap, max_gap)
    ends = np.append(nodes[1:], N)
    sums = np.append(0.0, np.cumsum(times))
    spans = ends - nodes
    costs = Costs(pictures[nodes], times[nodes], spans, (sums[ends] - sums[nodes]) / spans, groups[nodes])
    table = _prices(costs, loss)  # [W + 1, M]: of the step from node i to node i + g; the last ones reach the end
    places = np.append(nodes, N)
    M, fixed = len(nodes), np.isin(nodes, [0, *required])
    for gap in range(1, len(table)):
        frames = places[gap:] - places[: M + 1 - gap]  # [M + 1 - gap]
        price = table[gap, : len(frames)]
        price += _EVENNESS * (frames * count / N) ** 2
        passed = np.cumsum(np.append(0, fixed))  # fixed nodes up to each one
        price[passed[gap : M + 1] - passed[1 : M + 2 - gap] > 0] = np.inf
        to_fixed = np.append(fixed, True)[gap:] & fixed[: len(frames)]
        price[(frames < min_gap) & ~to_fixed] = np.inf
        if max_gap is not None:
            price[frames > max_gap] = np.inf
    path = _search(table, M, count)
    return None if path is None else [int(nodes[node]) for node in path]


def _candidates(
    pictures: np.ndarray, required: Sequence[int], count: int, min_gap: int, max_gap: int | None
) -> np.ndarray:
    """int64 `[M]`: the frames to choose from: all that differ, or every so many where few are to be kept."""
    N = len(pictures)
    stride = max(1, N // (_STEPS * count), -(-2 * min_gap // GAP))
    furthest = N if max_gap is None else max(stride, max_gap // 8)
    wanted, last = set(required), 0
    nodes = [0]
    for frame in range(1, N):
        far = frame - last >= furthest
        if frame not in wanted and not far and frame - last < stride:
            continue
        moved = _differ(pictures[frame], pictures[last])
        if moved or far or frame in wanted:
            if moved and frame - 1 > last and not _differ(pictures[frame - 1], pictures[last]):
                nodes.append(frame - 1)  # the end of a still: motion begins here
            nodes.append(frame)
            last = frame
    return np.array(nodes, dtype=np.int64)


def _differ(picture: np.ndarray, other: np.ndarray) -> bool:
    return float(np.square(picture.astype(np.float32) - other).mean()) > _STILL


def _prices(costs: Costs, loss: Loss) -> np.ndarray:
    """float64 `[W + 1, M]`: at (g, i) what the frames between i and i + g cost; at i + g = M, what holding i costs."""
    M = len(costs.times)
    table = np.full((costs.width + 1, M), np.inf)
    for gap in range(1, costs.width + 1):
        if gap < M:
            weights = costs.spans[np.arange(gap)[:, None] + np.arange(M - gap)]
            weights[0] -= 1  # the kept frame itself costs nothing
            table[gap, : M - gap] = (weights * loss(costs.between(gap))).sum(0)
        tail = M - gap  # kept last: what comes after is a copy of it
        held = [costs.spans[tail + inner] * loss(costs.held(inner)[tail]) for inner in range(1, gap)]
        table[gap, tail] = sum(held)
    return table


def _search(table: np.ndarray, M: int, count: int) -> list[int] | None:
    """The best path of `count` nodes, or of the nearest number that there is; None where no path leads to the end."""
    W = len(table) - 1
    steps = np.full((M + 1, W), np.inf)  # at (j, g - 1): from j - g to j
    for gap in range(1, W + 1):
        steps[gap:, gap - 1] = table[gap, : M + 1 - gap]
    most, least = _path(steps, 0.0), _path(steps, 1e12)
    if most is None or least is None:
        return None
    if len(most) <= count or len(least) >= count:
        return most if len(most) <= count else least
    low, high = 1e-9, 1e9
    for _ in range(_ROUNDS):
        price = (low * high) ** 0.5
        path = _path(steps, price)
        if path is None or len(path) > count:
            low = price
            continue
        high = price
        least = path if len(path) > len(least) else least
        if len(least) == count or high / low < 1 + 1e-9:
            break
    return _with_best(table, M, least, count)


def _path(steps: np.ndarray, price: float) -> list[int] | None:
    """The nodes of the cheapest path from node 0 to the end, M, where each costs `price` beside its step.

    steps: `[M + 1, W]`, at (j, g - 1) what the step from j - g to j costs. None where there is no path.
    """
    M, W = steps.shape[0] - 1, steps.shape[1]
    best = np.full(M + 1, np.inf)
    best[0] = 0.0
    came = np.zeros(M + 1, dtype=np.int64)
    for node in range(1, M + 1):
        reach = min(W, node)
        totals = best[node - reach : node][::-1] + steps[node, :reach]
        gap = int(totals.argmin())
        best[node], came[node] = totals[gap] + price, node - gap - 1
    if not np.isfinite(best[M]):
        return None
    path = [int(came[M])]
    while path[-1] > 0:
        path.append(int(came[path[-1]]))
    return path[::-1]


def _with_best(table: np.ndarray, M: int, path: list[int], count: int) -> list[int]:
    """`path` and nodes inside its steps, the one that saves most first, until there are `count` or none is left."""
    waiting: list[tuple[float, int, int, int]] = []

    def offer(start: int, stop: int) -> None:
        inner = np.arange(start + 1, stop)
        if len(inner):
            prices = table[inner - start, start] + table[stop - inner, inner]
            best = int(prices.argmin())
            if np.isfinite(prices[best]):
                saved = table[stop - start, start] - prices[best]
                heapq.heappush(waiting, (-float(saved), start, int(inner[best]), stop))

    kept = sorted(path)
    for start, stop in zip(kept, [*kept[1:], M], strict=True):
        offer(start, stop)
    while waiting and len(kept) < count:
        _, start, node, stop = heapq.heappop(waiting)
        kept.append(node)
        offer(start, node)
        offer(node, stop)
    return sorted(kept)
