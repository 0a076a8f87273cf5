import dataclasses
import json
from fractions import Fraction

import pytest

from tokenreel.video.timeline import FrameTimeline


@pytest.fixture
def timeline():
    return FrameTimeline(
        time_base=Fraction(1, 90000),
        frame_rate=Fraction(30000, 1001),
        duration=Fraction(15015 + 4000, 90000),
        source_pts=(450000, 453003, 456006, 460000, 465015),
        kept=(0, 2, 4),
        shots=(0, 3),
    )


def test_json_round_trip_is_exact(timeline):
    assert FrameTimeline.from_json(timeline.to_json()) == timeline
    faded = dataclasses.replace(timeline, transitions=((0, 0, "fade"), (1, 2, "dissolve")), shots=(0, 1, 3))
    assert FrameTimeline.from_json(faded.to_json()) == faded != timeline


def test_version_1_is_still_read(timeline):
    """As 0.1.0 before gradual transitions wrote it."""
    text = (
        '{"format": "tokenreel.timeline", "version": 1, "time_base": "1/90000", "frame_rate": "30000/1001", '
        '"duration": "3803/18000", "source_pts": [450000, 453003, 456006, 460000, 465015], "kept": [0, 2, 4], '
        '"shots": [0, 3]}'
    )
    assert FrameTimeline.from_json(text) == timeline


def test_derived_values(timeline):
    assert timeline.kept_pts == (450000, 456006, 465015)
    assert timeline.final_duration == 4000
    assert [timeline.shot_of(k) for k in range(5)] == [0, 0, 0, 1, 1]
    with pytest.raises(IndexError, match="outside the clip of 5"):
        timeline.shot_of(5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kept": (0, 5)}, "kept holds 0..5, but the clip has 5"),
        ({"kept": (2, 2)}, "kept does not increase"),
        ({"kept": ()}, "kept is not a tuple"),
        ({"shots": (1,)}, "begins at frame 1"),
        ({"source_pts": (0, 1, 1, 2, 3)}, "source_pts does not increase"),
        ({"duration": Fraction(1, 90000)}, "ends before the last frame"),
        ({"frame_rate": Fraction(0)}, "frame_rate"),
        ({"time_base": 0.5}, "time_base"),
        ({"kept": (True,)}, "kept is not a tuple"),
        ({"transitions": [(1, 2, "dissolve")]}, "transitions is not a tuple"),
        ({"transitions": ([1, 2, "dissolve"],)}, "not .first, last, kind."),
        ({"transitions": ((1, 2, "cut"),)}, "kind 'cut'"),
        ({"transitions": ((2, 1, "fade"),)}, "2..1 is empty"),
        ({"transitions": ((1, 2, "fade"), (2, 2, "fade"))}, "begins before 3"),
        ({"transitions": ((1, 1, "fade"),)}, "no shot begins at 2"),
        ({"transitions": ((3, 4, "fade"),)}, "no shot begins at 5"),
        ({"transitions": ((0, 2, "fade"),), "shots": (0, 1, 3)}, "one inside 0..2"),
    ],
)
def test_inconsistent_timelines_are_refused(timeline, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(timeline, **change)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"version": 3}, "version 3 is not supported"),
        ({"version": True}, "version True is not supported"),
        ({"version": [1]}, "is not supported"),
        ({"version": 1}, "unknown fields: transitions"),
        ({"transitions": [[1, 2]]}, "not \\(first, last, kind\\)"),
        ({"transitions": [1]}, "transitions is not a list"),
        ({"transitions": {}}, "transitions is not a list"),
        ({"transitions": [[[], 2, "fade"]]}, "not \\(first, last, kind\\)"),
        ({"transitions": [[1, 2, []]]}, "kind"),
        ({"format": "else"}, "Not a timeline"),
        ({"extra": 1}, "unknown fields: extra"),
        ({"time_base": "1/0"}, "time_base"),
        ({"time_base": 0.1}, "time_base"),
        ({"kept": "012"}, "kept is not a list"),
        ({"kept": [0.0]}, "kept is not a list"),
    ],
)
def test_strange_json_is_refused(timeline, change, message):
    with pytest.raises(ValueError, match=message):
        FrameTimeline.from_json(json.dumps({**json.loads(timeline.to_json()), **change}))


def test_no_json_is_refused():
    with pytest.raises(ValueError, match="no JSON"):
        FrameTimeline.from_json("[" * 100_000)
    with pytest.raises(ValueError, match="Not a timeline"):
        FrameTimeline.from_json("[]")
