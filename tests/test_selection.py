from itertools import pairwise

import numpy as np
import pytest

from tokenreel.models.selection import select_frames


@pytest.mark.parametrize("count, expected", [(4, (0, 2, 4, 6)), (1, (0,)), (8, tuple(range(8))), (99, tuple(range(8)))])
def test_uniform(count, expected):
    assert select_frames(np.zeros(8), count=count, policy="uniform") == expected


def test_uniform_is_even_in_time():
    times = np.r_[np.arange(10) * 0.1, 1.0 + np.arange(5) * 1.0]
    kept = select_frames(np.ones(15), count=6, policy="uniform", times=times)
    assert sum(index >= 10 for index in kept) >= 4


def test_a_static_clip_is_sampled_uniformly():
    assert select_frames(np.zeros(40), count=5) == select_frames(np.zeros(40), count=5, policy="uniform")


def test_motion_puts_equal_energy_between_kept_frames():
    energy = np.r_[0.0, np.full(49, 1.0), np.full(50, 4.0)]
    kept = select_frames(energy, count=20)
    assert len(kept) == 20
    spent = [energy[a + 1 : b + 1].sum() for a, b in pairwise(kept)]
    assert max(spent) < 1.7 * min(spent)
    assert sum(index >= 50 for index in kept) >= 14


@pytest.mark.parametrize("count", range(3, 60))
def test_count_is_exact_and_cuts_are_kept(count):
    energy = np.random.default_rng(count).gamma(0.3, 5, 60)
    kept = select_frames(energy, (17, 18, 44), count=max(4, count))
    assert len(kept) == max(4, count) and list(kept) == sorted(set(kept))
    assert {0, 17, 18, 44} <= set(kept) and kept[-1] < 60


def test_too_many_cuts_keep_the_strongest():
    energy = np.ones(30)
    energy[[5, 12, 20]] = (50, 90, 70)
    assert select_frames(energy, (5, 12, 20), count=3) == (0, 12, 20)


def test_gaps_are_bounded():
    energy = np.zeros(100)
    energy[50:60] = 9
    kept = np.array(select_frames(energy, count=20, min_gap=3))
    assert np.diff(kept).min() >= 3
    kept = np.array(select_frames(energy, count=8, max_gap=10))
    assert np.diff([*kept, 100]).max() <= 10


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"count": 0}, "Invalid count 0"),
        ({"count": 3, "policy": "best"}, "Supported policies are 'uniform' and 'motion'"),
        ({"count": 3, "cuts": (9,)}, "Invalid cuts"),
        ({"count": 3, "min_gap": 4, "max_gap": 2}, "Invalid gaps"),
        ({"count": 3, "times": [0, 1]}, "Invalid times"),
        ({"count": 3, "energy": [float("nan")]}, "Invalid energy"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        select_frames(np.asarray(arguments.pop("energy", np.ones(5))), **arguments)
