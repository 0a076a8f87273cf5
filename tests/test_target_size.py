"""Which size frames get, and that nothing but what was asked for happens to the picture."""

from fractions import Fraction

import numpy as np
import pytest

from tokenreel.video.clips import ImageClip
from tokenreel.video.frames import resize, uint8_to_image
from tokenreel.video.target_size import FITS, TargetSize, visible


def sizes(plan):
    return plan.scaled, (plan.width, plan.height)


def picture(width, height):
    return np.random.default_rng(0).integers(1, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("wanted", "source", "scaled", "final"),
    [
        ({"scale": 2}, (97, 65), (194, 130), (194, 130)),
        ({"scale": 3}, (97, 65), (291, 195), (291, 195)),
        ({"scale": 1.5}, (96, 64), (144, 96), (144, 96)),
        ({"scale": 0.01}, (96, 64), (2, 2), (2, 2)),
        ({"short_side": 1080}, (853, 480), (1920, 1080), (1920, 1080)),  # 1919.25: players need an even side
        ({"short_side": 135}, (853, 480), (240, 135), (240, 135)),
        ({"short_side": 720}, (480, 853), (720, 1280), (720, 1280)),
        ({"scale": 2, "multiple_of": 16}, (853, 480), (1706, 960), (1696, 960)),
        ({"scale": 2, "multiple_of": 16, "fit": "pad"}, (853, 480), (1706, 960), (1712, 960)),
        ({"scale": 2, "multiple_of": 32, "fit": "stretch"}, (853, 480), (1696, 960), (1696, 960)),
        ({"width": 1000, "height": 1000}, (640, 360), (1778, 1000), (1000, 1000)),
        ({"width": 1000, "height": 1000, "fit": "pad"}, (640, 360), (1000, 562), (1000, 1000)),
        ({"width": 1000, "height": 1000, "fit": "stretch"}, (640, 360), (1000, 1000), (1000, 1000)),
        ({"width": 720, "height": 1280}, (640, 360), (2276, 1280), (720, 1280)),
        ({"width": 1280, "height": 720}, (640, 360), (1280, 720), (1280, 720)),
        ({"width": 1280, "height": 720, "fit": "pad"}, (360, 640), (405, 720), (1280, 720)),
    ],
)
def test_sizes(wanted, source, scaled, final):
    plan = TargetSize(**wanted).plan(*source, 2)
    assert sizes(plan) == (scaled, final) and plan.enlarged == (2 * source[0], 2 * source[1])
    assert plan.is_plain == (plan.enlarged == scaled == final)


class TestFinish:
    def test_nothing_to_do(self):
        frame = picture(40, 20)
        assert TargetSize(scale=2).plan(20, 10, 2).finish(frame) is frame

    @pytest.mark.parametrize("model_scale", [1, 2, 4])
    def test_any_model_gives_any_size(self, model_scale):
        frame = picture(20 * model_scale, 10 * model_scale)
        made = TargetSize(scale=3).plan(20, 10, model_scale).finish(frame)
        assert np.array_equal(made, resize(frame[None], 60, 30)[0])

    def test_multiples_are_cut_without_resampling(self):
        frame = picture(42, 22)
        made = TargetSize(scale=2, multiple_of=8).plan(21, 11, 2).finish(frame)
        assert np.array_equal(made, frame[3:19, 1:41]) and made.flags.c_contiguous

    def test_multiples_are_padded_without_resampling(self):
        frame = picture(42, 22)
        made = TargetSize(scale=2, multiple_of=8, fit="pad").plan(21, 11, 2).finish(frame)
        assert made.shape == (24, 48, 3) and np.array_equal(made[1:23, 3:45], frame)
        assert made.sum(dtype=int) == frame.sum(dtype=int)  # black around

    @pytest.mark.parametrize("fit", FITS)
    @pytest.mark.parametrize("source", [(40, 22), (22, 40), (31, 31)])
    @pytest.mark.parametrize("target", [(48, 32), (32, 64), (40, 40), (2, 90)])
    def test_exact_sizes(self, fit, source, target):
        plan = TargetSize(width=target[0], height=target[1], fit=fit).plan(*source, 2)
        made = plan.finish(picture(2 * source[0], 2 * source[1]))
        assert made.shape == (target[1], target[0], 3) and made.dtype == np.uint8
        if fit != "pad":
            assert (made.max(-1) > 0).all()  # no bars
        else:
            assert plan.scaled[0] == target[0] or plan.scaled[1] == target[1]

    def test_crop_keeps_the_middle(self):
        frame = picture(40, 20)
        made = TargetSize(width=20, height=20).plan(40, 20, 1).finish(frame)
        assert np.array_equal(made, frame[:, 10:30])


class TestPart:
    @pytest.mark.parametrize(
        ("wanted", "source", "part"),
        [
            ({"width": 1080, "height": 1920}, (1280, 720), (406, 720)),  # 405 seen
            ({"width": 1080, "height": 1080}, (360, 640), (360, 360)),
            ({"width": 640, "height": 360}, (1280, 720), (1280, 720)),
            ({"width": 1080, "height": 1920, "fit": "pad"}, (1280, 720), (1280, 720)),
            ({"width": 1080, "height": 1920, "fit": "stretch"}, (1280, 720), (1280, 720)),
            ({"scale": 2, "multiple_of": 32}, (1279, 720), (1279, 720)),
        ],
    )
    def test_of_a_frame(self, wanted, source, part):
        target = TargetSize(**wanted)
        assert target.part(*source, 0) == part
        w, h = target.part(*source, 10)
        assert (w, h) == (min(source[0], part[0] + 20), min(source[1], part[1] + 20))
        plan = target.plan(w, h, 2)
        assert (plan.width, plan.height) == (target.plan(*source, 2).width, target.plan(*source, 2).height)

    @pytest.mark.parametrize("target", [(24, 40), (60, 20), (40, 40), (25, 41)])
    def test_of_a_clip_shows_the_same(self, target):
        y, x = np.mgrid[:40, :60]
        frame = np.stack([4 * x, 6 * y, 0 * x], -1).astype(np.uint8)
        size = TargetSize(width=target[0], height=target[1])
        clip, plan = visible(ImageClip(uint8_to_image(frame[None]), Fraction(24)), size, 1, 8)
        (chunk,) = clip.chunks()
        assert chunk.frames.shape[1:3] == (clip.height, clip.width) and clip.pts == [0]
        assert clip.duration == Fraction(1, 24) and clip.length == 1
        off = plan.finish(chunk.frames[0]).astype(int) - size.plan(60, 40, 1).finish(frame)
        assert np.abs(off[2:-2, 2:-2]).max() <= 6  # not a pixel apart

    def test_nothing_is_cut_without_need(self):
        clip = ImageClip(uint8_to_image(picture(60, 40)[None]), Fraction(24))
        assert visible(clip, TargetSize(scale=2), 2, 8)[0] is clip


def test_times():
    assert TargetSize(scale=1.5).times(100, 50) == 1.5
    assert TargetSize(short_side=40).times(100, 50) == 0.8
    assert TargetSize(width=90, height=60).times(100, 50) == 1.2
    assert TargetSize(width=90, height=60, fit="pad").times(100, 50) == 0.9


class TestRefusals:
    @pytest.mark.parametrize(
        ("wanted", "message"),
        [
            ({}, "Give one of: a scale, a short side, or a width with a height"),
            ({"scale": 2, "short_side": 720}, "Give one of"),
            ({"width": 640}, "Give one of"),
            ({"scale": 2, "width": 640, "height": 360}, "Give one of"),
            ({"scale": 0}, r"Invalid scale 0\. It is above 0"),
            ({"scale": float("nan")}, "Invalid scale nan"),
            ({"scale": 65}, "Invalid scale 65"),
            ({"short_side": 1}, r"Invalid short side 1\."),
            ({"width": 1, "height": 8}, "Invalid size 1x8"),
            ({"scale": 2, "fit": "zoom"}, r"Invalid fit 'zoom'\. Supported are crop, pad, stretch"),
            ({"scale": 2, "multiple_of": 3}, "Invalid multiple 3"),
            ({"width": 1920, "height": 1080, "multiple_of": 16}, r"no multiple of 16\. Choose 1920x1088"),
        ],
    )
    def test_wishes(self, wanted, message):
        with pytest.raises(ValueError, match=message):
            TargetSize(**wanted)

    def test_too_large(self):
        with pytest.raises(ValueError, match=r"1920x1080 frames would become frames of 15360x8640, more than the"):
            TargetSize(scale=8).plan(1920, 1080, 2)
        with pytest.raises(ValueError, match=r"become model's frames of 15360x8640.*a model with a smaller scale"):
            TargetSize(scale=2).plan(3840, 2160, 4)

    def test_too_small_to_cut(self):
        with pytest.raises(ValueError, match=r"20x20 frames cannot be cut to multiples of 32\. Choose fit 'pad'"):
            TargetSize(scale=2, multiple_of=32).plan(10, 10, 2)
