"""What is wanted of a clip that is not all there: what is refused, how much comes out, and when it is shown."""

from fractions import Fraction

import numpy as np
import pytest

from tokenreel.models.token_filling import MOST_BETWEEN, Knobs
from tokenreel.video.completion import (
    LOOK_BACK,
    MOST_FRAMES,
    MOST_IN_ALL,
    MOST_STEPS,
    MOST_TEMPERATURE,
    Completion,
    even_places,
    gap,
)
from tokenreel.video.timeline import FrameTimeline


def timeline(kept=(0, 4, 9), frames=12, shots=(0,)):
    base = Fraction(1, 24)
    return FrameTimeline(base, Fraction(24), frames * base, tuple(range(frames)), kept, shots)


def test_what_may_be_asked_for_is_what_can_be_made():
    """The limits stand in two layers, of which neither may know the other."""
    assert MOST_FRAMES["between"] == MOST_BETWEEN
    assert Knobs(steps=MOST_STEPS, temperature=MOST_TEMPERATURE).rounds == MOST_STEPS
    for options in ({"steps": MOST_STEPS + 1}, {"temperature": MOST_TEMPERATURE + 0.1}):
        with pytest.raises(ValueError, match="Invalid steps"):
            Knobs(**options)


class TestRefusals:
    @pytest.mark.parametrize(
        ("wish", "complaint"),
        [
            ({"task": "guess"}, r"Invalid task \('guess'\)\. Supported tasks are 'continue', 'between', 'fill'"),
            ({"task": "continue", "frames": 0}, r"Invalid frames \(0\)\. Task 'continue' makes 1 to 4096\."),
            ({"task": "continue", "frames": 4097}, "makes 1 to 4096"),
            ({"frames": 64}, r"Invalid frames \(64\)\. Task 'between' makes 1 to 63 in each gap"),
            ({"task": "fill"}, "Task 'fill' needs a mask"),
            ({"mask": np.ones((8, 8), bool)}, "A mask goes with task 'fill', not with 'between'"),
            ({"task": "continue", "timeline": timeline()}, "A timeline goes with task 'between'"),
            ({"steps": 0}, r"Invalid steps \(0\)"),
            ({"steps": 65}, "Supported are 1 to 64"),
            ({"temperature": -0.1}, "Invalid temperature"),
            ({"temperature": float("nan")}, "Invalid temperature"),
            ({"seed": -1}, "Invalid seed"),
            ({"seed": 1 << 64}, "Invalid seed"),
        ],
    )
    def test_wishes(self, wish, complaint):
        with pytest.raises(ValueError, match=complaint):
            Completion(**wish)

    @pytest.mark.parametrize(
        ("wish", "known", "complaint"),
        [
            ({}, 1, "The tokens have 1 frame, and so no gap"),
            ({"timeline": timeline()}, 4, "The tokens have 4 frames, but the timeline kept 3"),
            ({"frames": 63}, 1100, "70,337 frames would come out, more than 65,536"),
            ({"task": "continue", "frames": 4096}, MOST_IN_ALL, "would come out"),
        ],
    )
    def test_clips(self, wish, known, complaint):
        with pytest.raises(ValueError, match=complaint):
            Completion(**wish).result(known)

    @pytest.mark.parametrize(
        ("mask", "complaint"),
        [
            (np.zeros((16, 16)), "covers nothing"),
            (np.ones((16, 16)), "covers everything"),
            (np.ones((2, 16, 16)), "The mask has 2 frames, the tokens 3"),
        ],
    )
    def test_masks(self, mask, complaint):
        with pytest.raises(ValueError, match=complaint):
            Completion("fill", mask=mask).cells(3, (16, 16), (2, 2), 8)


class TestAmounts:
    @pytest.mark.parametrize(
        ("wish", "result", "work"),
        [
            ({"task": "continue"}, 13, 13),
            ({"task": "continue", "frames": 3}, 8, 8),
            ({}, 33, 38),
            ({"frames": 1}, 9, 14),
            ({"task": "fill", "mask": np.ones((8, 8))}, 5, 10),
            ({"timeline": timeline((0, 1, 2, 3, 9))}, 12, 12),
        ],
    )
    def test_of_five_frames(self, wish, result, work):
        wanted = Completion(**wish)
        assert (wanted.result(5), wanted.work(5)) == (result, work)

    def test_only_the_end_of_a_long_clip_is_looked_at(self):
        assert Completion("continue", frames=2).work(1000) == LOOK_BACK + 2

    def test_cells_are_those_of_every_frame(self):
        mask = np.zeros((16, 16))
        mask[0, 0] = 1
        cells = Completion("fill", mask=mask).cells(3, (16, 16), (2, 2), 8)
        assert cells.shape == (3, 2, 2) and cells.sum() == 3 and cells[:, 0, 0].all()


class TestGaps:
    def test_motion_or_a_cut_in_the_middle(self):
        joiner = Completion().retiming().joiner(Fraction(1, 24), Fraction(3))
        moving, cut = gap(joiner, 8, 16, False), gap(joiner, 8, 16, True)
        assert [moving.share(Fraction(each)) for each in (8, 10, 15)] == [None, Fraction(1, 4), Fraction(7, 8)]
        assert (cut.kind, cut.start, cut.end, cut.is_cut) == ("hold", 12, 12, True)
        assert gap(joiner, 0, 10_000, False).share(Fraction(1)) == Fraction(1, 10_000)  # however long

    def test_a_timeline_knows_where_the_cut_is(self):
        joiner = Completion(timeline=timeline(shots=(0, 7))).retiming().joiner(Fraction(1, 24), Fraction(3))
        assert gap(joiner, 4, 9, False).end == 7 and gap(joiner, 0, 4, False).kind == "motion"


class TestEvenPlaces:
    @pytest.mark.parametrize("count", [1, 7, 63])
    def test_even_ones(self, count):
        shares = [Fraction(index, count + 1) for index in range(1, count + 1)]
        assert even_places(shares) == (count, list(range(count)))

    def test_rounded_time_stamps_are_even(self):
        shares = [Fraction(round(index * 1000 / 24), 333) for index in range(1, 8)]
        assert even_places(shares) == (7, list(range(7)))

    def test_uneven_ones_are_sought_among_more(self):
        assert even_places([Fraction(1, 4)]) == (3, [0])
        assert even_places([Fraction(1, 5), Fraction(2, 5), Fraction(3, 5)]) == (4, [0, 1, 2])

    def test_any_shares_are_met_nearly(self):
        rng = np.random.default_rng(0)
        for _ in range(50):
            shares = sorted({Fraction(int(each), 1000) for each in rng.integers(1, 1000, 5)})
            count, places = even_places(shares)
            assert len(shares) <= count <= 4 * len(shares) and places == sorted(places)
            # never worse than the nearest of as many
            coarse = max(min(abs(share - Fraction(i + 1, 6)) for i in range(5)) for share in shares)
            found = [abs(share - Fraction(place + 1, count + 1)) for share, place in zip(shares, places, strict=True)]
            assert max(found) <= max(coarse, Fraction(1, 2 * (count + 1)))

    def test_more_than_can_be_made(self):
        count, places = even_places([Fraction(index, 101) for index in range(1, 101)])
        assert count == 63 and places[0] == 0 and places[-1] == 62 and sorted(places) == places
        assert len(set(places)) == 63
