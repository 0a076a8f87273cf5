"""The plot of motion: what is kept, and where shots begin, is where it should be."""

from fractions import Fraction

import numpy as np
import pytest

from tokenreel.video.motion_plot import KEPT, MOTION, SHOT, motion_plot
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
    return np.flatnonzero((np.abs(picture[rows].astype(int) - colour).sum(2) < 60).any(0))


def frames_at(columns):
    """Which frames of `timeline()` some columns belong to: the whole width of the axis is that of the motion of all."""
    moving = columns_of(motion_plot(np.full(40, 5.0), timeline(kept=(0,), shots=(0,))), MOTION, slice(200, 250))
    return {round((x - moving.min()) / (np.ptp(moving) + 1) * 40) for x in columns}


def test_marks_are_at_their_times():
    picture = motion_plot(np.where(np.arange(40) >= 30, 5.0, 0.0), timeline())
    assert picture.shape[1:] == (720, 3) and picture.dtype == np.uint8
    assert frames_at(columns_of(picture, KEPT, slice(300, 400))) == {0, 10, 39}
    assert frames_at(columns_of(picture, SHOT, slice(200, 300))) == {20}
    moving = columns_of(picture, MOTION, slice(200, 250))
    assert frames_at([moving.min()]) == {30} and frames_at([moving.max() + 1]) == {40}


def test_the_highest_may_be_cut_off():
    energy = np.full(400, 4.0)
    energy[200] = 90.0
    picture = motion_plot(energy, timeline(400))
    assert columns_of(picture, MOTION, slice(200, 210)).size > 600


def test_gradual_changes_are_shaded():
    energy = np.where(np.arange(40) >= 30, 5.0, 0.0)
    still = motion_plot(energy, timeline())
    shaded = motion_plot(energy, timeline(transitions=((12, 19, "dissolve"),)))
    changed = np.flatnonzero((still[200] != shaded[200]).any(1))
    assert frames_at([changed.min()]) == {12} and frames_at([changed.max() + 1]) == {20}


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
