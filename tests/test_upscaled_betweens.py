"""Large frames in between: blended along motion of the small ones, of frames that were upscaled once."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from tokenreel.models import upscaled_betweens
from tokenreel.models.changed_regions import FAINT
from tokenreel.models.interpolator import BlendInterpolator, FlowInterpolator
from tokenreel.models.upscaled_betweens import UpscaledBetweens, blend_closely, blended_bands, enlarged_weights

H, W = 200, 330


class Enlarger:
    """Repeats pixels, and remembers what it was given."""

    def __init__(self, scale=2):
        self.scale, self.given = scale, []

    def __call__(self, frame, begins_shot):
        self.given.append((frame, begins_shot))
        return frame.repeat(self.scale, 0).repeat(self.scale, 1)


class Still(BlendInterpolator):
    """Nothing moves; all is of the second frame."""

    def __init__(self):
        self.asked = []

    def paths(self, first, second, times, features=None):
        flow, share = super().paths(first, second, times)
        self.asked.append((tuple(first.shape[-2:]), tuple(times)))
        return flow, torch.zeros_like(share)


def maker(interpolator=None, scale=2, **options):
    return UpscaledBetweens(interpolator or Still(), upscale=Enlarger(scale), scale=scale, **options)


def panned(texture, shift, height=120, width=176):
    """Large frames that show one picture, the second `shift` pixels further left, and the small ones of each."""
    wide = texture(2 * height, 2 * width + 64)
    large = [wide[:, x : x + 2 * width] for x in (0, shift // 2, shift)]
    small = [each.reshape(height, 2, width, 2, 3).mean((1, 3)).round().astype(np.uint8) for each in large]
    return large, small


def error(one, two):
    return np.abs(one.astype(int) - two)[16:-16, 40:-40].mean()


@pytest.fixture
def pair(texture):
    """Two frames that differ in a square of 24 pixels only."""
    first = texture(H, W)
    second = first.copy()
    second[64:88, 100:124] = 255 - second[64:88, 100:124]
    return first, second


class TestCopies:
    @pytest.mark.parametrize("scale", [1, 2, 4])
    def test_static_pixels_are_those_of_the_nearer_upscaled_frame(self, pair, scale):
        first, second = pair
        second = second.copy()
        second[150:, 250:] = first[150:, 250:] ^ 1  # a difference that is not seen
        between = maker(scale=scale)
        early, late = between.frames(first, second, [0.4, 0.6])
        one, two = (Enlarger(scale)(each, False) for each in (first, second))
        static = np.ones((H, W), bool)
        static[30:130, 60:160] = False
        static = static.repeat(scale, 0).repeat(scale, 1)
        assert early.shape == (scale * H, scale * W, 3)
        assert np.array_equal(early[static], one[static]) and np.array_equal(late[static], two[static])
        inside = slice(scale * 68, scale * 84), slice(scale * 104, scale * 120)
        assert np.abs(early[inside].astype(int) - two[inside]).max() <= 1
        assert between.interpolator.asked == [((128, 128), (0.4, 0.6))]

    def test_frames_that_are_alike_ask_nothing(self, texture):
        between = maker()
        (made,) = between.frames(texture(H, W), texture(H, W), [0.5])
        assert between.interpolator.asked == []
        assert np.array_equal(made, Enlarger()(texture(H, W), False))

    def test_faint_changes_are_mixed(self, texture):
        first = texture(H, W).clip(20, 235)
        second = first.copy()
        second[100:180, 200:300] += FAINT * 2
        between = maker()
        (made,) = between.frames(first, second, [1 / 3])
        large = Enlarger()(first, False)
        assert between.interpolator.asked == []
        assert np.array_equal(made[208:352, 400:592], large[208:352, 400:592] + round(FAINT * 2 / 3))
        assert np.array_equal(made[:192], large[:192])

    def test_no_seams(self, texture):
        """At rims the picture goes over to the upscaled frame, which shows the same there."""
        first = np.full((H, W, 3), 100, np.uint8)
        second = first.copy()
        second[64:88, 100:124] = 180
        (made,) = maker().frames(first, second, [0.4])
        assert np.array_equal(made, Enlarger()(second, False))


class TestUpscaling:
    def test_each_frame_once(self, texture):
        between = maker()
        frames = [texture(40, 56, seed=seed) for seed in range(4)]
        for one, two in pairwise(frames):
            assert np.array_equal(between.shown(one), Enlarger()(one, False))
            assert len(list(between.frames(one, two, [0.25, 0.5, 0.75]))) == 3
        given = [frame for frame, _ in between.upscale.given]
        assert len(given) == between.upscaled == 4
        assert all(one is two for one, two in zip(given, frames, strict=True))

    def test_it_is_told_of_cuts(self, texture):
        between = maker()
        between.shown(texture(40, 56), True)
        assert [begins for _, begins in between.upscale.given] == [True]

    def test_only_two_are_kept(self, texture):
        between = maker()
        for seed in range(5):
            between.shown(texture(8, 8, seed=seed))
        assert len(between._large) == 2

    def test_what_it_took(self, pair):
        between = maker()
        list(between.frames(*pair, [0.5]))
        report = between.report()
        assert report["moving_fraction"] == pytest.approx(128 * 128 / (H * W), abs=1e-6)
        assert report["frames_upscaled"] == 2 and report["seconds_interpolating"] > 0

    def test_models_that_tell_no_motion_are_refused(self):
        class Black:
            prepare = between = None

        with pytest.raises(ValueError, match="Black gives frames, not the motion between them"):
            maker(Black())


class TestMotion:
    @pytest.mark.parametrize("threshold", [None, 2])
    def test_is_followed_at_the_large_size(self, texture, threshold):
        """Small frames tell the way; detail that they do not have comes from the large ones."""
        large, small = panned(texture, 12)
        queue = [large[0], large[2]]
        between = UpscaledBetweens(FlowInterpolator(), threshold, upscale=lambda frame, begins: queue.pop(0), scale=2)
        (made,) = between.frames(small[0], small[2], [0.5])
        enlarged = Enlarger()(small[1], False)
        assert error(made, large[1]) < error(enlarged, large[1]) / 2
        faded = (large[0].astype(int) + large[2]) // 2
        assert error(made, large[1]) < error(faded, large[1]) / 4

    @pytest.mark.parametrize("time", [0.25, 0.5, 0.75])
    def test_the_step_mends_a_path_that_is_half_a_pixel_off(self, texture, time):
        wide = torch.from_numpy(texture(96, 200)).permute(2, 0, 1)[None] / 255
        smooth = torch.nn.functional.avg_pool2d(wide, 3, 1, 1)
        first, second = smooth[..., 8:168], smooth[..., 16:176]
        shown = smooth[..., 8 + round(8 * time) : 168 + round(8 * time)]
        path = torch.tensor([-7.4, 0.3]).view(1, 2, 1, 1)
        flow = torch.cat([-time * path, (1 - time) * path], 1).expand(1, 4, 96, 160)
        share = torch.full((1, 1, 96, 160), 1 - time)
        made = blend_closely(first, second, flow, share, time)
        plain = upscaled_betweens.blend(first, second, flow, share)
        off, before = ((each - shown)[..., 16:-16, 16:-16].abs().mean() for each in (made, plain))
        assert off < before / 3

    def test_wrong_paths_are_smoothed_and_right_ones_are_not(self, texture):
        one, two = (torch.from_numpy(texture(64, 64, seed=seed)).permute(2, 0, 1)[None] / 255 for seed in (1, 2))
        still, half = torch.zeros(1, 4, 64, 64), torch.full((1, 1, 64, 64), 0.5)

        def roughness(frame):
            return (frame[..., 1:] - frame[..., :-1]).abs().mean()

        mixed = upscaled_betweens.blend(one, two, still, half)
        assert roughness(blend_closely(one, two, still, half, 0.5)) < roughness(mixed) / 1.4
        assert torch.allclose(blend_closely(one, one, still, half, 0.5), one, atol=2e-3)


class TestBands:
    @pytest.mark.parametrize("reach", [0, 30])
    def test_are_what_the_whole_is(self, texture, monkeypatch, reach):
        """Wherever the flow leads, also beyond the edges."""
        pair = texture(96, 120, seed=1), texture(96, 120, seed=2)
        generator = torch.Generator().manual_seed(0)
        flow = torch.nn.functional.interpolate(
            reach * torch.randn(1, 4, 3, 4, generator=generator), (48, 60), mode="bilinear"
        )
        share = torch.rand(1, 1, 48, 60, generator=generator)
        whole = list(blended_bands(pair, flow, share, 0.3, 2))
        monkeypatch.setattr(upscaled_betweens, "BAND", 120 * 14)
        bands = list(blended_bands(pair, flow, share, 0.3, 2))
        assert [top for top, _ in whole] == [0] and [top for top, _ in bands] == list(range(0, 96, 14))
        assert torch.allclose(torch.cat([band for _, band in bands], 2), whole[0][1], atol=2e-3)

    def test_hold_little_at_once(self, monkeypatch):
        sizes = []
        plain = upscaled_betweens.blend_closely

        def watched(first, second, flow, share, time):
            sizes.append(max(first.shape[-2], second.shape[-2], flow.shape[-2]))
            return plain(first, second, flow, share, time)

        monkeypatch.setattr(upscaled_betweens, "blend_closely", watched)
        monkeypatch.setattr(upscaled_betweens, "BAND", 64 * 32)
        frame = np.zeros((1024, 64, 3), np.uint8)
        list(blended_bands((frame, frame), torch.zeros(1, 4, 512, 32), torch.zeros(1, 1, 512, 32), 0.5, 2))
        assert len(sizes) == 32 and max(sizes) <= 32 + 2 * 16 + 10


def test_weights_that_are_0_or_1_stay_so():
    weights = torch.tensor([[0, 0, 0.5, 1, 1], [0, 0.2, 0.7, 1, 1]])
    for scale in (1, 2, 3):
        large = enlarged_weights(weights, scale)
        plain = weights.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
        assert large.shape == plain.shape
        assert torch.equal(large[plain == 0], plain[plain == 0]) and torch.equal(large[plain == 1], plain[plain == 1])
        assert ((large > 0) & (large < 1))[(plain > 0) & (plain < 1)].all()
