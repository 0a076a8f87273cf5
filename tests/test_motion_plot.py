"""The plot of motion: what is kept, and where shots begin, is where it should be."""

from fractions import Fraction

import numpy as np
import pytest

from tokenreel.video.drawing import SERIES
from tokenreel.video.motion_plot import motion_plot
from tokenreel.video.timeline import FrameTimeline


def timeline(count=40, **change):
    fields = {"kept": (0, 10, 39), "shots": (0, 20), "transitions": ()}
    return FrameTimeline(
        time_base=Fraction(1, 10),
        frame_rate=Fraction(10),
        duration=Fraction(count, 10),
        source_pts=tuple(range(7, 7 + count)),
        **{**fields, **change},
    )


def columns_of(picture, colour, rows):
    """Where a colour is found in some rows, in pixels across."""
    near = np.abs(picture[rows].astype(int) - colour).sum(2) < 60
    return np.flatnonzero(near.any(0))


def test_marks_are_at_their_times():
    energy = np.where(np.arange(40) >= 30, 5.0, 0.0)
    picture = motion_plot(energy, timeline(), width=428, height=200)
    assert picture.shape == (200, 428, 3) and picture.dtype == np.uint8
    kept = columns_of(picture, SERIES[0], slice(160, 170))
    assert {round((x - 14) / 10) for x in kept} == {0, 10, 39}
    shots = columns_of(picture, SERIES[5], slice(60, 120))
    assert {round((x - 14) / 10) for x in shots} == {20}
    moving = columns_of(picture, SERIES[3], slice(100, 140))
    assert 313 <= moving.min() <= 316 and 411 <= moving.max() <= 414


def test_gradual_changes_are_shaded():
    still = motion_plot(np.zeros(40), timeline())
    shaded = motion_plot(np.zeros(40), timeline(transitions=((12, 19, "dissolve"),)))
    changed = np.flatnonzero((still[100] != shaded[100]).any(1))
    assert changed.min() == pytest.approx(14 + 740 * 12 / 40, abs=2)
    assert changed.max() == pytest.approx(14 + 740 * 20 / 40, abs=2)


@pytest.mark.parametrize("count", [1, 5000])
def test_any_number_of_frames(count):
    each = timeline(count, kept=(0,), shots=(0,))
    energy = np.ones(count)
    energy[-1] = 1e6
    assert len(np.unique(motion_plot(energy, each).reshape(-1, 3), axis=0)) > 3


@pytest.mark.parametrize("energy", [np.zeros(3), np.full(40, np.nan), -np.ones(40)])
def test_other_numbers_are_refused(energy):
    with pytest.raises(ValueError, match="Invalid energy"):
        motion_plot(energy, timeline())
