"""Rate-distortion curves: reading between measured points, and by how much one curve lies beside another.

Between points, and for Bjontegaard's difference, curves are monotone piecewise cubics (PCHIP: Fritsch and Carlson 1980)
of the logarithm of the rate, as in the common test conditions of HEVC and VVC. Nothing is read outside the points.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

LEAST_OVERLAP = 0.5
"""dB that two curves have in common at least, for a difference that means something."""


class Point(Protocol):
    """Anything that took a rate and gave a quality."""

    @property
    def bits_per_pixel(self) -> float: ...

    @property
    def psnr(self) -> float: ...


@dataclass(frozen=True)
class RatePoint:
    """What one setting of a codec takes and gives."""

    setting: int
    bits_per_pixel: float
    psnr: float
    """Mean over the frames, dB."""


def psnr_at(points: Sequence[Point], bits_per_pixel: float) -> float | None:
    """dB of a curve at a rate, between its points; None where it does not reach that rate."""
    rates, decibels = _curve(points)
    return _between(rates, decibels, math.log(bits_per_pixel))


def rate_at(points: Sequence[Point], decibels: float) -> float | None:
    """Bits per pixel of a curve at a quality, between its points; None where it does not reach that quality."""
    rates, qualities = _curve(points)
    rate = _between(qualities, rates, decibels)
    return None if rate is None else math.exp(rate)


def bd_rate(points: Sequence[Point], reference: Sequence[Point]) -> float | None:
    """Bjontegaard's rate difference in percent: +100 where `points` take twice the rate of `reference`.

    That is the mean of the difference in log rate over the dB that both curves reach. None where that is less than
    `LEAST_OVERLAP`, or a curve has a single point.
    """
    (rates, decibels), (other_rates, other_decibels) = _curve(points), _curve(reference)
    if min(rates.size, other_rates.size) < 2:
        return None
    low, high = max(decibels[0], other_decibels[0]), min(decibels[-1], other_decibels[-1])
    if high - low < LEAST_OVERLAP:
        return None
    knots = np.unique(np.concatenate([decibels, other_decibels]).clip(low, high))

    def difference(at: np.ndarray) -> np.ndarray:
        return _pchip(decibels, rates, at) - _pchip(other_decibels, other_rates, at)

    # Simpson's rule is exact for the cubic that the difference is from one knot to the next
    widths, middles = np.diff(knots), (knots[1:] + knots[:-1]) / 2
    ends = difference(knots)
    area = (widths / 6 * (ends[:-1] + 4 * difference(middles) + ends[1:])).sum()
    return 100 * math.expm1(area / (high - low))


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats, from the lowest rate to the highest: rate and quality both rise."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda each: (each.bits_per_pixel, -each.psnr)):
        if not kept or point.psnr > kept[-1].psnr:
            kept.append(point)
    return kept


def _curve(points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray]:
    """float64 `[n]` twice: log rate and dB, both rising."""
    kept = frontier(points)
    return np.log([point.bits_per_pixel for point in kept]), np.array([point.psnr for point in kept])


def _between(x: np.ndarray, y: np.ndarray, at: float) -> float | None:
    if x.size == 0 or not x[0] <= at <= x[-1]:
        return None
    return float(_pchip(x, y, np.array([at]))[0])


def _pchip(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The monotone cubic through points that rise in both coordinates, at places within them."""
    if x.size == 1:
        return np.full(at.shape, y[0])
    widths, rises = np.diff(x), np.diff(y)
    slopes = _slopes(widths, rises / widths)
    i = np.clip(np.searchsorted(x, at, side="right") - 1, 0, x.size - 2)
    h, t = widths[i], (at - x[i]) / widths[i]
    start, end = slopes[i] * h, slopes[i + 1] * h
    return y[i] + t * (start + t * (3 * rises[i] - 2 * start - end + t * (start + end - 2 * rises[i])))


def _slopes(widths: np.ndarray, secants: np.ndarray) -> np.ndarray:
    """At each point: a harmonic mean of the secants beside it; at the ends a parabola's, but never falling."""
    if secants.size == 1:
        return np.repeat(secants, 2)
    before, after = widths[:-1], widths[1:]
    inner = 3 * (before + after) / ((2 * after + before) / secants[:-1] + (after + 2 * before) / secants[1:])
    first, last = (
        max(0.0, ((2 * h[0] + h[1]) * s[0] - h[0] * s[1]) / (h[0] + h[1]))
        for h, s in ((widths, secants), (widths[::-1], secants[::-1]))
    )
    return np.array([first, *inner, last])
