"""Which layer gets how many bits, so that a model of a given size errs least, or one of a given error is smallest.

Each layer has choices, from its own weight down to four bits; every choice has a size and an error. Errors of layers
add up as independent noise does, so the sum of their squares counts. From the largest of all, the step that saves most
bytes for what it adds to that sum is taken, again and again: the choices that lie on a layer's lower convex hull, over
all layers in the order of their slopes. What the last step leaves over is spent on whatever gains most.
"""

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """One way to hold a layer's weight."""

    kind: str
    """A format, or `KEPT`."""
    nbytes: int
    error: float
    """The layer's relative error."""


KEPT = "kept"
"""A layer stays as it is."""


def model_error(errors: Sequence[float]) -> float:
    """Of a model whose quantized layers have these relative errors: their root mean square."""
    return math.sqrt(sum(error**2 for error in errors) / len(errors)) if errors else 0.0


def choose(
    choices: Mapping[str, Sequence[Choice]],
    *,
    most_bytes: int | None = None,
    most_error: float | None = None,
    importance: Mapping[str, float] | None = None,
) -> dict[str, Choice]:
    """One choice for each layer, such that the sizes sum to at most `most_bytes`, or that `model_error` stays small.

    Exactly one of the limits is given. importance: by layer, what its squared error counts; 1 where nothing is said.
    Raises ValueError where no choice is small enough; an error of 0 is always to be had by leaving layers as they are.
    """
    if (most_bytes is None) == (most_error is None):
        raise ValueError("Give either the bytes or the error that the model may have at most.")
    weigh = importance or {}
    hulls = {name: _hull(each, weigh.get(name, 1.0)) for name, each in choices.items()}
    at = dict.fromkeys(hulls, 0)
    steps = [(_slope(hull, 0), name) for name, hull in hulls.items() if len(hull) > 1]
    heapq.heapify(steps)
    size = sum(hull[0][0].nbytes for hull in hulls.values())
    noise = sum(hull[0][1] for hull in hulls.values())
    allowed = math.inf if most_error is None else most_error**2 * len(hulls)
    while steps and (most_bytes is None or size > most_bytes):
        _, name = heapq.heappop(steps)
        hull, index = hulls[name], at[name] + 1
        added = hull[index][1] - hull[index - 1][1]
        if noise + added > allowed:
            continue  # this layer has no room for fewer bits, a smaller one may
        noise, size = noise + added, size - hull[index - 1][0].nbytes + hull[index][0].nbytes
        at[name] = index
        if index + 1 < len(hull):
            heapq.heappush(steps, (_slope(hull, index), name))
    if most_bytes is not None and size > most_bytes:
        raise ValueError(
            f"Invalid target of {most_bytes / 1e6:.1f} MB: with the fewest bits allowed the layers take "
            f"{size / 1e6:.1f} MB. Ask for more, or allow formats with fewer bits."
        )
    made = {name: hull[at[name]][0] for name, hull in hulls.items()}
    return made if most_bytes is None else _at_best(made, choices, most_bytes, weigh)


def _at_best(
    made: dict[str, Choice], choices: Mapping[str, Sequence[Choice]], most: int, weigh: Mapping[str, float]
) -> dict[str, Choice]:
    """The last step may have saved more than was asked for: what is left is spent, and one kind for all is tried."""

    def noise(name: str, choice: Choice) -> float:
        return weigh.get(name, 1.0) * choice.error**2

    left = most - sum(each.nbytes for each in made.values())
    gains = [(noise(name, made[name]) - noise(name, each), name, each) for name in made for each in choices[name]]
    for gain, name, choice in sorted(gains, key=lambda each: -each[0]):
        more = choice.nbytes - made[name].nbytes
        if gain > 0 and more <= left and noise(name, choice) < noise(name, made[name]):
            made[name], left = choice, left - more
    ways = [made]
    for kind in dict.fromkeys(each.kind for some in choices.values() for each in some):
        way = {name: each for name, some in choices.items() for each in some if each.kind == kind}
        if len(way) == len(choices) and sum(each.nbytes for each in way.values()) <= most:
            ways.append(way)
    return min(ways, key=lambda way: sum(noise(name, each) for name, each in way.items()))


def _hull(choices: Sequence[Choice], weight: float) -> list[tuple[Choice, float]]:
    """Choices from the largest to the smallest with what they add to the noise; those never worth it are left out."""
    hull: list[tuple[Choice, float]] = []
    for choice in sorted(choices, key=lambda each: (-each.nbytes, each.error)):
        point = choice, weight * choice.error**2
        while hull and (hull[-1][0].nbytes == choice.nbytes or hull[-1][1] >= point[1]):
            if hull[-1][0].nbytes == choice.nbytes and hull[-1][1] <= point[1]:
                break  # as large and no better
            hull.pop()
        else:
            while len(hull) > 1 and _between(hull[-2], hull[-1]) >= _between(hull[-1], point):
                hull.pop()
            hull.append(point)
    return hull


def _between(one: tuple[Choice, float], other: tuple[Choice, float]) -> float:
    """Noise for each byte that is saved."""
    return (other[1] - one[1]) / (one[0].nbytes - other[0].nbytes)


def _slope(hull: Sequence[tuple[Choice, float]], index: int) -> float:
    return _between(hull[index], hull[index + 1])
