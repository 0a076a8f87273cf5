"""Which frames are kept: exact numbers of the right form, shots never missed, and never worse than even spacing."""

import numpy as np
import pytest

from tokenreel.models import frame_path
from tokenreel.models.restoration import NOISE, Costs, Thumbnails, products, restored_errors
from tokenreel.models.selection import FORMS, POLICIES, Amount, Shots, select_frames

PIXELS = 60


def pictures_of(speeds, seed=0):
    """uint8 [N, PIXELS]: a pattern that moves on by `speeds[k]` pixels before frame k; NaN shows another pattern."""
    rng = np.random.default_rng(seed)
    pictures, where = [], 0.0
    pattern = np.convolve(rng.uniform(0, 255, 2000), np.ones(8) / 8, "same")
    for speed in speeds:
        if np.isnan(speed):
            pattern, where = np.convolve(rng.uniform(0, 255, 2000), np.ones(8) / 8, "same"), 0.0
        else:
            where += speed
        places = where + np.arange(PIXELS)
        pictures.append(np.interp(places, np.arange(2000), pattern))
    return np.rint(pictures).astype(np.uint8)


def still(count):
    return pictures_of(np.zeros(count))


def keep(pictures, count=None, policy="motion", shots=None, times=None, **amount):
    return select_frames(pictures, shots, policy=policy, amount=Amount(count, **amount), times=times)


def cuts_at(*frames, strength=()):
    return Shots(begins=frames, cuts=frames, strength=strength)


class TestUniform:
    @pytest.mark.parametrize(
        ("count", "expected"), [(4, (0, 2, 4, 6)), (1, (0,)), (8, tuple(range(8))), (99, tuple(range(8)))]
    )
    def test_even(self, count, expected):
        assert keep(still(8), count, "uniform") == expected

    def test_even_in_time(self):
        times = np.r_[np.arange(10) * 0.1, 1.0 + np.arange(5) * 1.0]
        kept = keep(still(15), 6, "uniform", times=times)
        assert sum(index >= 10 for index in kept) >= 4

    def test_takes_no_notice_of_shots(self):
        assert keep(still(8), 4, "uniform", cuts_at(3)) == (0, 2, 4, 6)


class TestMotion:
    def test_a_still_clip_is_sampled_evenly(self):
        assert keep(still(40), 5) == keep(still(40), 5, "uniform")

    def test_frames_go_where_it_moves(self):
        pictures = pictures_of(np.r_[np.zeros(50), np.full(50, 3.0)])
        kept = keep(pictures, 25)
        assert len(kept) == 25
        assert sum(index >= 49 for index in kept) >= 23

    def test_the_end_of_a_still_is_kept(self):
        """Without it the frames before would be blended with what comes after."""
        kept = keep(pictures_of(np.r_[np.zeros(30), np.full(10, 4.0)]), 8)
        assert 29 in kept

    @pytest.mark.parametrize("seed", range(12))
    def test_predicted_error_is_never_above_that_of_even_spacing(self, seed):
        rng = np.random.default_rng(seed)
        pictures = pictures_of(rng.gamma(0.4, 2.5, 80) * (rng.random(80) < 0.7), seed)
        times, groups = np.arange(80.0), np.zeros(80, int)
        even, kept = (np.array(keep(pictures, 20, policy)) for policy in ("uniform", "motion"))
        before, after = (restored_errors(pictures, times, groups, each) for each in (even, kept))
        assert len(even) == len(kept) == 20
        assert after.mean() <= before.mean() and np.log(after + NOISE).mean() <= np.log(before + NOISE).mean()

    def test_even_spacing_where_nothing_can_be_gained(self):
        noise = np.random.default_rng(1).integers(0, 256, (60, PIXELS), dtype=np.uint8)
        assert keep(noise[:1].repeat(60, 0), 15) == keep(noise, 15, "uniform")

    def test_shots_are_kept(self):
        pictures = pictures_of(np.r_[np.full(17, 1.0), np.nan, np.nan, np.full(41, 0.3)])
        for count in (4, 5, 9, 20, 41, 59):
            kept = keep(pictures, count, shots=cuts_at(17, 18, 44))
            assert len(kept) == count and list(kept) == sorted(set(kept))
            assert {0, 17, 18, 44} <= set(kept) and kept[-1] < 60

    def test_frame_before_a_dissolve_is_kept_too(self):
        shots = Shots(begins=(30,), cuts=(), ends=(19,))
        assert {0, 19, 30} <= set(keep(still(60), 5, shots=shots))
        assert keep(still(60), 2, shots=shots) == (0, 30)

    def test_too_many_cuts_keep_the_strongest(self):
        strength = np.zeros(30)
        strength[[5, 12, 20]] = (50, 90, 70)
        assert keep(still(30), 3, shots=cuts_at(5, 12, 20, strength=tuple(strength))) == (0, 12, 20)

    def test_nothing_is_restored_across_a_cut(self):
        """Two stills: one frame of each restores all."""
        pictures = pictures_of(np.r_[np.zeros(20), np.nan, np.zeros(19)])
        errors = restored_errors(pictures, np.arange(40.0), cuts_at(20).groups(40), np.array([0, 20]))
        assert errors.max() == 0

    @pytest.mark.parametrize("count", [1, 2, 7, 40, 600])
    def test_long_clips(self, count):
        speeds = np.tile(np.r_[np.zeros(300), np.full(300, 0.8)], 2)
        kept = keep(pictures_of(speeds), count)
        assert len(kept) == count and kept[0] == 0

    def test_few_frames_of_many_go_where_it_moves_too(self):
        kept = keep(pictures_of(np.r_[np.zeros(1500), np.full(500, 0.9)]), 12)
        assert sum(index >= 1400 for index in kept) >= 8


class TestCounts:
    @pytest.mark.parametrize("policy", POLICIES)
    @pytest.mark.parametrize("form", FORMS.values())
    @pytest.mark.parametrize("rounding", ["below", "above", "nearest"])
    def test_form_is_exact(self, policy, form, rounding):
        pictures = pictures_of(np.random.default_rng(3).gamma(0.5, 2, 50))
        for count in (1, 5, 16, 48, 200):
            kept = keep(pictures, count, policy, cuts_at(11), form=form, rounding=rounding)
            assert (len(kept) - 1) % form == 0 and list(kept) == sorted(set(kept)) and 0 <= kept[-1] < 50
            if policy in ("motion", "uniform"):
                assert len(kept) == Amount(form=form, rounding=rounding).fitted(count, 50)

    @pytest.mark.parametrize(
        ("count", "most", "below", "above", "nearest"),
        [
            (16, 99, 13, 17, 17),
            (14, 99, 13, 17, 13),
            (15, 99, 13, 17, 13),
            (17, 99, 17, 17, 17),
            (81, 79, 77, 77, 77),
            (4, 4, 1, 1, 1),
            (1, 9, 1, 1, 1),
        ],
    )
    def test_fitted(self, count, most, below, above, nearest):
        found = [Amount(form=4, rounding=each).fitted(count, most) for each in ("below", "above", "nearest")]
        assert found == [below, above, nearest]

    @pytest.mark.parametrize("policy", ["motion", "uniform"])
    def test_min_gap(self, policy):
        pictures = pictures_of(np.r_[np.zeros(50), np.full(10, 5.0), np.zeros(40)])
        for count, form in ((20, 1), (80, 1), (80, 4)):
            kept = np.array(keep(pictures, count, policy, min_gap=3, form=form))
            assert np.diff(kept).min() >= 3 and (len(kept) - 1) % form == 0
        assert len(keep(pictures, 20, policy, min_gap=3)) == 20

    @pytest.mark.parametrize("policy", POLICIES)
    @pytest.mark.parametrize("form", [1, 8])
    def test_max_gap(self, policy, form):
        pictures = pictures_of(np.r_[np.zeros(50), np.full(10, 5.0), np.zeros(40)])
        for count, gap in ((8, 10), (3, 1), (40, 10), (5, 70)):
            kept = keep(pictures, count, policy, max_gap=gap, form=form)
            assert (len(kept) - 1) % form == 0
            if form == 1:
                assert np.diff([*kept, 100]).max() <= gap
            if form == 1 and policy == "motion" and count * gap >= 200:
                assert len(kept) == count

    @pytest.mark.parametrize("policy", ["motion", "uniform"])
    def test_min_gap_leaves_as_many_as_there_is_room_for(self, policy):
        pictures = pictures_of([0, 3, 1, 0, 2, 5, 5, 0, 0])
        assert len(keep(pictures, 9, policy, min_gap=2)) == 5 and len(keep(pictures, 9, policy, min_gap=4)) == 3

    def test_max_gap_takes_the_number_above(self):
        assert len(keep(still(100), 5, "uniform", max_gap=10, form=4)) == 13

    def test_gaps_that_shots_contradict(self):
        kept = keep(pictures_of(np.full(40, 2.0)), 10, shots=cuts_at(7, 8), min_gap=5, max_gap=5)
        assert {0, 7, 8} <= set(kept) and np.diff([*kept, 40]).max() <= 5

    @pytest.mark.parametrize("policy", POLICIES)
    def test_one_frame(self, policy):
        assert keep(still(1), 5, policy, form=4, rounding="above", max_gap=3) == (0,)


class TestChange:
    def test_dedupe_drops_what_repeats(self):
        pictures = pictures_of(np.tile([4.0, 0.0, 0.0], 10))
        assert keep(pictures, policy="dedupe") == tuple(range(0, 30, 3))

    def test_dedupe_sees_slow_change(self):
        pictures = np.arange(40, dtype=np.uint8)[:, None].repeat(PIXELS, 1)
        assert keep(pictures, policy="dedupe", threshold=9) == (0, 10, 20, 30)

    def test_count_is_a_limit(self):
        pictures = pictures_of(np.tile([4.0, 0.0, 0.0], 10))
        assert len(keep(pictures, 99, "dedupe")) == 10
        few = keep(pictures, 4, "dedupe")
        assert 2 <= len(few) <= 4

    def test_keyframes_are_shots_and_great_changes(self):
        pictures = pictures_of(np.r_[np.zeros(20), np.nan, np.zeros(9), np.full(10, 9.0)])
        kept = keep(pictures, policy="keyframes", shots=cuts_at(20))
        assert kept[:2] == (0, 20) and len(kept) > 3 and all(index >= 30 for index in kept[2:])
        assert keep(pictures, policy="keyframes", shots=cuts_at(20), threshold=255) == (0, 20)

    def test_more_keyframes_for_the_form(self):
        pictures = pictures_of(np.r_[np.zeros(20), np.nan, np.zeros(19)])
        shots = cuts_at(20)
        assert keep(pictures, policy="keyframes", shots=shots, form=4) == (0,)
        above = keep(pictures, policy="keyframes", shots=shots, form=4, rounding="above")
        assert len(above) == 5 and {0, 20} <= set(above)

    def test_every_frame_without_a_count(self):
        assert keep(still(5)) == keep(still(5), policy="uniform") == (0, 1, 2, 3, 4)


class TestRestoration:
    def test_thumbnails_are_block_means(self):
        frames = np.random.default_rng(0).integers(0, 256, (3, 200, 300, 3), dtype=np.uint8)
        thumbnails = Thumbnails()
        thumbnails.update(frames[:1])
        thumbnails.update(frames[1:])
        luma = frames[:, :200, :300].astype(float) @ (0.299, 0.587, 0.114)
        expected = luma.reshape(3, 40, 5, 60, 5).mean((2, 4)).reshape(3, -1)
        assert np.abs(thumbnails.pictures - expected).max() <= 0.51

    @pytest.mark.parametrize("shape", [(1, 1), (9, 17), (2000, 3), (64, 64)])
    def test_thumbnails_of_odd_sizes(self, shape):
        thumbnails = Thumbnails()
        thumbnails.update(np.full((2, *shape, 3), 77, np.uint8))
        assert (thumbnails.pictures == 77).all() and thumbnails.pictures.shape[1] <= 64 * 64

    def test_sizes_may_not_change(self):
        thumbnails = Thumbnails()
        thumbnails.update(np.zeros((1, 8, 8, 3), np.uint8))
        with pytest.raises(ValueError, match="different sizes"):
            thumbnails.update(np.zeros((1, 8, 9, 3), np.uint8))
        with pytest.raises(ValueError, match="No frames"):
            _ = Thumbnails().pictures

    def test_products_across_blocks(self):
        pictures = np.random.default_rng(2).integers(0, 256, (700, 20), dtype=np.uint8)
        band, shifted = products(pictures, 5), pictures.astype(float) - 128
        for gap in (0, 3, 5):
            expected = (shifted[: 700 - gap] * shifted[gap:]).mean(1)
            assert np.allclose(band[gap, : 700 - gap], expected, atol=0.05)

    def test_costs_are_the_errors_of_blending(self):
        """Both ways to tell them agree, also where pictures stand for several frames and beside a cut."""
        rng = np.random.default_rng(5)
        spans = rng.integers(1, 4, 30)
        begins = np.cumsum(np.r_[0, spans])[:-1]
        times = np.arange(spans.sum()) * 0.25
        pictures = pictures_of(rng.uniform(0, 2, 30))
        groups = np.arange(30) // 20
        middles = np.array([times[b : b + s].mean() for b, s in zip(begins, spans, strict=True)])
        costs = Costs(pictures, times[begins], spans, middles, groups)
        every = np.repeat(np.arange(30), spans)
        for gap, start in ((4, 0), (6, 11), (5, 17), (7, 22)):
            kept = np.unique([0, begins[start], begins[start + gap]])
            errors = restored_errors(pictures[every], times, groups[every], kept)
            for inner in range(gap):
                frames = np.flatnonzero(every == start + inner)[inner == 0 :]
                if len(frames):
                    told = costs.between(gap)[inner, start]
                    wide = 0.6 * errors[frames].max() if inner else 0  # told at the mean time of the frames
                    assert told == pytest.approx(errors[frames].mean(), abs=0.1 + wide * (len(frames) > 1), rel=1e-3)

    def test_path_is_the_best_one(self, monkeypatch):
        """Against all plans there are, of a clip without stills."""
        from itertools import combinations

        pictures = pictures_of(np.random.default_rng(8).uniform(0.5, 4, 11))
        times, groups = np.arange(11.0), np.zeros(11, int)
        for count in (2, 3, 5, 8):
            found = frame_path.cheapest_frames(pictures, times, groups, [], loss=np.asarray, count=count)
            assert len(found) == count
            totals = {
                (0, *rest): restored_errors(pictures, times, groups, np.array((0, *rest))).sum()
                for rest in combinations(range(1, 11), count - 1)
            }
            assert totals[tuple(found)] <= 1.02 * min(totals.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "Invalid count 0"),
        ({"count": 3, "policy": "best"}, "Supported policies are motion, keyframes, uniform, dedupe"),
        ({"count": 3, "shots": cuts_at(9)}, "Invalid shots"),
        ({"count": 3, "shots": Shots(strength=(1.0,))}, "Invalid strength"),
        ({"count": 3, "min_gap": 4, "max_gap": 2}, "Invalid gaps"),
        ({"count": 3, "form": 0}, "Invalid form 0n"),
        ({"count": 3, "rounding": "up"}, "rounded 'up'"),
        ({"count": 3, "threshold": 300}, "Invalid threshold"),
        ({"count": 3, "times": [0, 1]}, "Invalid times"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        keep(still(5), **arguments)


def test_bad_pictures_are_refused():
    with pytest.raises(ValueError, match="Invalid pictures"):
        keep(np.zeros((5, 3)), 2)
