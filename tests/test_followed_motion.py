"""Upscaled tiles that move as a whole are moved, and made anew after a few times."""

import numpy as np
import pytest
import torch

from tokenreel.models.followed_motion import MOST, follow, shifts
from tokenreel.models.upscale_reuse import ReusingUpscaler
from tokenreel.models.upscaler import BicubicUpscaler


def scrolled(texture, count, step=(3, 0), height=96, width=128):
    """A page that moves by `step` pixels a frame, under a bar that stands."""
    page = texture(height + 8 * count, width + 8 * count, 1)
    down, right = step
    frames = [page[down * i : down * i + height, right * i : right * i + width].copy() for i in range(count)]
    for frame in frames:
        frame[:16] = texture(16, width, 2)
    return frames


class TestShifts:
    @pytest.mark.parametrize("step", [(3, 0), (0, 5), (7, 2)])
    def test_the_page_moves_against_the_bar(self, texture, step):
        first, second = (torch.from_numpy(each) for each in scrolled(texture, 2, step))
        assert (-step[0], -step[1]) in shifts(second, first)

    def test_a_small_picture_has_none(self):
        assert shifts(torch.zeros(8, 40, 3, dtype=torch.uint8), torch.ones(8, 40, 3, dtype=torch.uint8)) == []


class TestFollow:
    def test_small_stays_what_large_was_made_from(self, texture):
        first, second = (torch.from_numpy(each) for each in scrolled(texture, 2))
        small, large = first.clone(), first.repeat_interleave(2, 0).repeat_interleave(2, 1)
        stale = np.zeros((12, 16), bool)
        stale[3:11] = True
        done = follow(second, small, large, stale, np.zeros((12, 16), int), 4.0)
        assert done.tiles[3:11].all() and not done.tiles[~stale].any()
        assert torch.equal(large, small.repeat_interleave(2, 0).repeat_interleave(2, 1))
        assert torch.equal(small[24:88], second[24:88]) and torch.equal(small[:24], first[:24])
        assert (done.times[stale] == 1).all() and not done.times[~stale].any()

    def test_not_more_often_than_allowed(self, texture):
        first, second = (torch.from_numpy(each) for each in scrolled(texture, 2))
        times = np.zeros((12, 16), int)
        times[:, :8] = MOST
        done = follow(second, first.clone(), first.clone(), np.ones((12, 16), bool), times, 4.0)
        assert not done.tiles[:, :8].any() and done.tiles[3:11, 9:].all()

    def test_what_is_new_is_not_taken_from_beyond_the_edge(self, texture):
        first, second = (torch.from_numpy(each) for each in scrolled(texture, 2))
        done = follow(second, first.clone(), first.clone(), np.ones((12, 16), bool), np.zeros((12, 16), int), 4.0)
        assert not done.tiles[-1].any()


class TestReuse:
    def test_a_scrolled_page_is_hardly_made_anew(self, texture):
        frames = scrolled(texture, 8)
        still, moving = (ReusingUpscaler(BicubicUpscaler(2), follow_motion=each) for each in (False, True))
        whole = ReusingUpscaler(BicubicUpscaler(2), None)
        for frame in frames:
            expected, made = whole.frame(frame), moving.frame(frame)
            still.frame(frame)
            assert np.abs(made.astype(int) - expected).mean() < 0.2
        assert still.cost.computed_fraction > 0.8
        # the first frame is new, and every sixth is made whole again
        assert moving.cost.computed_fraction < 0.5

    def test_threshold_0_stays_exact(self, texture):
        frames = scrolled(texture, 3)
        exact = ReusingUpscaler(BicubicUpscaler(2), 0, follow_motion=True)
        whole = ReusingUpscaler(BicubicUpscaler(2), None)
        assert all(np.array_equal(exact.frame(each), whole.frame(each)) for each in frames)
