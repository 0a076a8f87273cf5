"""When output frames are shown: exact, for every rate and for uneven time stamps."""

from fractions import Fraction
from itertools import pairwise

import pytest

from tokenreel.video.frame_rates import exact_frame_rate, parse_frame_rate
from tokenreel.video.output_times import MAX_TICKS, DividedTimes, EvenTimes, TimelineTimes
from tokenreel.video.timeline import FrameTimeline

NTSC = Fraction(24000, 1001)


def shown(times, ticks):
    """All showings of a clip whose frames begin at all of `ticks` but the last, its end; without a surplus one."""
    showings = [each for pair in pairwise(ticks) for each in times.within(pair)]
    return [each for each in showings if each.tick < times.end(ticks[-1])]


@pytest.mark.parametrize("rate", [Fraction(60), Fraction(30000, 1001), Fraction(5), Fraction(1000, 7)])
@pytest.mark.parametrize("frames", [1, 2, 100, 301])
def test_even_times_last_as_long_as_the_source(rate, frames):
    times = EvenTimes(rate, 1 / NTSC, 0)
    showings = shown(times, range(frames + 1))
    assert [each.tick for each in showings] == list(range(len(showings)))
    assert times.end(frames) == len(showings)
    assert abs(len(showings) / rate - frames / NTSC) <= 1 / (2 * rate) or len(showings) == 1
    assert all(each.position / NTSC == each.tick / rate for each in showings)


def test_frames_of_the_source_are_met_exactly():
    positions = [each.position for each in shown(EvenTimes(Fraction(60), 1 / NTSC, 0), range(1002))]
    assert [position for position in positions if position.denominator == 1] == [0, 400, 800]


def test_a_late_start_stays_exact():
    times = EvenTimes(Fraction(60), Fraction(1, 90_000), 1_234)
    first, second = shown(times, [1_234, 1_234 + 3000])[:2]
    assert first.tick * times.time_base == Fraction(1_234, 90_000)
    assert (second.tick - first.tick) * times.time_base == Fraction(1, 60)


def test_a_start_that_no_container_can_express_is_rounded():
    times = EvenTimes(Fraction(99_991, 1_000), Fraction(1, 99_989), 3)
    assert times.time_base.denominator <= MAX_TICKS
    assert abs(shown(times, [3, 99_989])[0].tick * times.time_base - Fraction(3, 99_989)) < 1 / (2 * times.frame_rate)


def test_rounded_time_stamps_are_taken_as_what_they_were():
    """Matroska keeps milliseconds: at 30 frames a second 0, 33, 67, 100."""
    ticks = [round(Fraction(1000 * k, 30)) for k in range(31)]
    positions = [each.position for each in shown(EvenTimes(Fraction(60), Fraction(1, 1000), 0), ticks)]
    assert positions[::2] == ticks[:-1]
    assert not {*positions[1::2]} & {*ticks}


def test_coarse_time_bases_are_not_rounded():
    assert shown(EvenTimes(Fraction(1000), Fraction(1, 24), 0), [0, 1])[1].position == Fraction(24, 1000)


def test_divided_times_keep_uneven_intervals():
    times = DividedTimes(3, Fraction(24), Fraction(1, 1000))
    assert [each.tick for each in shown(times, [10, 40, 130])] == [30, 60, 90, 120, 210, 300]
    assert times.end(130) == 390 and times.time_base == Fraction(1, 3000) and times.frame_rate == 72


def test_divided_times_of_a_very_fine_clock_stay_in_order():
    times = DividedTimes(64, Fraction(24), Fraction(1, 1_000_000_000))
    ticks = [each.tick for each in shown(times, [0, 41_666_667, 83_333_333])]
    assert times.time_base.denominator <= MAX_TICKS
    assert all(later > earlier for earlier, later in pairwise([*ticks, times.end(83_333_333)]))


def test_timeline_times_are_those_of_the_source():
    pts, kept = (100, 140, 190, 230, 260), (1, 3)
    timeline = FrameTimeline(Fraction(1, 1000), Fraction(25), Fraction(200, 1000), pts, kept)
    times = TimelineTimes(timeline, Fraction(140, 1000))
    showings = shown(times, [140, 230, 300])
    assert [each.tick for each in showings] == [*pts] == [each.position for each in showings]
    assert times.end(300) == 300
    assert [each.tick for each in shown(TimelineTimes(timeline, Fraction(0)), [140, 230, 300])] == [
        tick - 140 for tick in pts
    ]


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("60", Fraction(60)),
        ("59.94", Fraction(60000, 1001)),
        (" 24000/1001 ", Fraction(24000, 1001)),
        ("12.5", Fraction(25, 2)),
        ("25.", Fraction(25)),
        ("119.88/2", Fraction(2997, 50)),
    ],
)
def test_rates_as_people_write_them(text, rate):
    assert parse_frame_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["", "0", "-24", "24/0", "1001", "nan", "1e3", "24 fps", "60/1001/2", "0x10", "9" * 99]
)
def test_other_rates_are_refused(text):
    with pytest.raises(ValueError, match=r"Invalid frame rate .*written as 60, 59\.94 or 60000/1001"):
        parse_frame_rate(text)


def test_rates_near_broadcast_ones_are_these():
    assert exact_frame_rate(23.976) == NTSC and exact_frame_rate(24.0) == 24
