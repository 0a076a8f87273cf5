"""The frames that a guess is made of: what moves evenly is where it will be."""

import pytest
import torch
import torch.nn.functional as F

from tokenreel.models.token_guess import NONE, around, frames_after, frames_between


@pytest.fixture
def wide():
    """A smooth random picture `[3, 64, 160]` in [0, 1]."""
    coarse = torch.rand(1, 3, 16, 40, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=(64, 160), mode="bicubic").clamp(0, 1)[0]


def panned(wide, *offsets):
    return torch.stack([wide[:, :, 32 + each : 128 + each] for each in offsets])


def error(made, wanted):
    """Grey levels, away from the edges, where what comes in is not known."""
    return float((made - wanted)[..., 8:-8, 24:-24].abs().mean()) * 255


class TestBetween:
    def test_a_pan_is_followed(self, wide):
        first, second = panned(wide, 0, 8).split(1)
        made = frames_between(first, second, torch.tensor([0.25, 0.5, 0.75]))
        truth = panned(wide, 2, 4, 6)
        assert error(made.frames, truth) < 2 < error(torch.lerp(first, second, 0.5), truth[1:2])
        assert made.doubt.shape == made.far.shape == (3, 1, 64, 96)

    def test_distance_is_that_to_the_further_frame(self, wide):
        first, second = panned(wide, 0, 8).split(1)
        far = frames_between(first, second, torch.tensor([0.25, 0.5])).far[..., 16:-16, 32:-32].mean((1, 2, 3)) * 16
        assert far.tolist() == pytest.approx([6, 4], abs=0.5)

    def test_doubt_is_where_both_disagree(self, wide):
        first, second = panned(wide, 0, 0).split(1)
        second = second.clone()
        second[..., :32] = 1 - second[..., :32]
        doubt = frames_between(first, second, torch.tensor([0.5])).doubt
        assert doubt[..., :24].mean() > 10 * doubt[..., 64:].mean()


class TestAfter:
    @pytest.mark.parametrize("seen", [(0, 2), (0, 2, 4), (9, 0, 2, 4)])
    def test_a_pan_goes_on(self, wide, seen):
        made = frames_after(panned(wide, *seen), 3)
        last = seen[-1]
        truth = panned(wide, last + 2, last + 4, last + 6)
        assert error(made.frames, truth) < 3 < error(panned(wide, last), truth[2:])

    def test_one_frame_says_nothing_of_motion(self, wide):
        frame = panned(wide, 0)
        made = frames_after(frame, 2)
        assert torch.equal(made.frames, frame.expand(2, -1, -1, -1))
        assert (made.doubt == 1).all() and not made.far.any()

    def test_what_stands_stays(self, wide):
        made = frames_after(panned(wide, 0, 0, 0), 4)
        assert error(made.frames, panned(wide, 0)) < 0.5


class TestAround:
    def test_a_slope_goes_on_through_a_hole(self):
        rows, columns = torch.meshgrid(torch.linspace(-1, 1, 8), torch.linspace(-1, 1, 8), indexing="ij")
        codes = torch.stack([rows, columns, (rows + columns) / 2], -1)[None]
        known = torch.ones(1, 8, 8, dtype=torch.bool)
        known[:, 2:6, 3:6] = False
        made = around(codes, known)
        assert torch.allclose(made[..., :3], codes, atol=0.01) and torch.equal(made[known][:, :3], codes[known])
        assert (made[known][:, 3:] == 0).all() and (made[~known][:, 3] > 0).all()

    def test_frames_of_which_nothing_is_known(self):
        known = torch.zeros(2, 4, 4, dtype=torch.bool)
        known[1, 0, 0] = True
        made = around(torch.ones(2, 4, 4, 1), known)
        assert (made[0, ..., 1] == NONE).all() and (made[1, ..., 1] != NONE).all() and (made[1, ..., 0] == 1).all()
