"""What happens between two pictures: motion, a cut, a cross-fade, or a still."""

from fractions import Fraction

import numpy as np

from tokenreel.video.knots import Join, Joiner, Knot
from tokenreel.video.timeline import FrameTimeline

PICTURE = np.zeros((1, 1, 3), np.uint8)
MS = Fraction(1, 1000)


def knot(tick, **state):
    return Knot(PICTURE, tick, **state)


def joiner(**options):
    return Joiner(MS, interval=Fraction(40), **options)


def timeline(kept, shots=(0,), transitions=(), count=40):
    """A frame every 10 ms."""
    pts = tuple(range(0, 10 * count, 10))
    return FrameTimeline(MS, Fraction(100), Fraction(count, 100), pts, kept, shots, transitions)


def test_motion_fills_the_interval():
    join = joiner().join(knot(0), knot(40))
    assert join == Join("motion", Fraction(0), Fraction(40))
    assert join.share(Fraction(10)) == Fraction(1, 4)
    assert join.share(Fraction(0)) is None and join.share(Fraction(40)) is None


def test_at_a_cut_the_old_shot_is_held():
    join = joiner().join(knot(0), knot(40, begins_shot=True))
    assert join == Join("hold", Fraction(40), Fraction(40), is_cut=True)
    assert join.share(Fraction(39)) is None


def test_cross_fades_are_short():
    assert joiner(at_cuts="crossfade").join(knot(0), knot(40, begins_shot=True)).start == 0
    assert joiner(at_cuts="crossfade").join(knot(0), knot(900, begins_shot=True)).start == 700


def test_what_stands_for_long_stands_still():
    """A screen recorder writes a frame when something happens; nothing moves for the seconds before it."""
    assert joiner().join(knot(0), knot(500)).start == 0
    assert joiner().join(knot(0), knot(3000)) == Join("motion", Fraction(2960), Fraction(3000))


def test_the_end_is_held_but_for_a_loop():
    end = knot(40, closes=True)
    assert joiner().join(knot(0), end).start > 40
    assert joiner(loop=True).join(knot(0), end).kind == "motion"
    assert joiner(loop=True).join(knot(0), knot(40, closes=True, begins_shot=True)).kind == "hold"


class TestTimeline:
    def join(self, a, b, **options):
        lined = timeline(**{"kept": (a, b), **options})
        return Joiner(MS, timeline=lined).join(knot(10 * a), knot(10 * b))

    def test_motion_even_over_a_long_gap(self):
        assert self.join(0, 39) == Join("motion", Fraction(0), Fraction(390))

    def test_cut_at_the_kept_frame(self):
        assert self.join(3, 9, shots=(0, 9)) == Join("hold", Fraction(90), Fraction(90), True)

    def test_cut_before_the_kept_frame(self):
        assert self.join(3, 9, shots=(0, 6)) == Join("hold", Fraction(60), Fraction(60), True)

    def test_the_last_of_several_cuts(self):
        assert self.join(3, 9, shots=(0, 4, 6, 20)).start == 60

    def test_a_cut_at_the_first_one_is_over(self):
        assert self.join(3, 9, shots=(0, 3)).kind == "motion"

    def test_a_dissolve_between_its_neighbours(self):
        dissolve = {"shots": (0, 9), "transitions": ((5, 8, "dissolve"),)}
        assert self.join(4, 9, **dissolve) == Join("fade", Fraction(40), Fraction(90))

    def test_a_dissolve_further_inside(self):
        dissolve = {"shots": (0, 9), "transitions": ((5, 8, "dissolve"),)}
        assert self.join(2, 12, **dissolve) == Join("fade", Fraction(40), Fraction(90))

    def test_parts_of_a_dissolve(self):
        dissolve = {"shots": (0, 9), "transitions": ((5, 8, "dissolve"),)}
        assert self.join(4, 7, **dissolve) == Join("fade", Fraction(40), Fraction(70))
        assert self.join(6, 7, **dissolve) == Join("fade", Fraction(60), Fraction(70))
        assert self.join(8, 9, **dissolve) == Join("fade", Fraction(80), Fraction(90))
        assert self.join(9, 12, **dissolve).kind == self.join(1, 4, **dissolve).kind == "motion"

    def test_a_cut_after_a_dissolve(self):
        both = {"shots": (0, 9, 15), "transitions": ((5, 8, "fade"),)}
        assert self.join(4, 15, **both) == Join("hold", Fraction(150), Fraction(150), True)

    def test_a_fade_in_at_the_beginning(self):
        fade = {"shots": (0, 5), "transitions": ((0, 4, "fade"),)}
        assert self.join(0, 5, **fade) == Join("fade", Fraction(0), Fraction(50))
