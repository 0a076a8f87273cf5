"""Curves of a small clip: the points hang together, and the plot and the node show them."""

from fractions import Fraction

import numpy as np
import pytest

from tokenreel import rate_distortion as rd
from tokenreel.nodes.plotting import PlotRateDistortion, describe_curves
from tokenreel.rate_distortion import passes, quality_targets, rate_distortion
from tokenreel.tokens.bitstream import tokens_to_bytes
from tokenreel.video import plots
from tokenreel.video.clips import HeldClip, ImageClip
from tokenreel.video.frames import uint8_to_image
from tokenreel.video.rate_curves import RatePoint
from tokenreel.video.reel import render
from tokenreel.video.reference_codecs import REFERENCE_CODECS

FRAMES = 5


class StopError(Exception):
    """What a cancelled run raises."""


@pytest.fixture(scope="module")
def images():
    frames = np.concatenate(list(render(64, 48, 24, 0.25).chunks()))[:FRAMES]
    return uint8_to_image(frames)


@pytest.fixture(scope="module")
def clip(images):
    return HeldClip(ImageClip(images, Fraction(24)))


@pytest.fixture(scope="module")
def advanced():
    return []


@pytest.fixture(scope="module")
def found(clip, tiny_tokenizer, tiny_clip_tokenizer, advanced):
    return rate_distortion(clip, tiny_tokenizer, tiny_clip_tokenizer, points=2, progress=advanced.append)


class TestHeldClip:
    def test_can_be_read_again(self, clip, images):
        first, second = (np.concatenate([chunk.frames for chunk in clip.chunks()]) for _ in range(2))
        assert np.array_equal(first, second) and np.array_equal(first, clip.frames)
        assert np.array_equal(uint8_to_image(first), images)
        assert clip.pts == list(range(FRAMES)) and clip.length == FRAMES and clip.duration == Fraction(FRAMES, 24)

    def test_no_frames(self, clip):
        class Empty(HeldClip):
            def __init__(self):
                self.width = self.height = 8

            def chunks(self):
                yield from ()

        with pytest.raises(ValueError, match="0 frames"):
            HeldClip(Empty())


class TestTargets:
    @pytest.mark.parametrize(
        ("ceiling", "expected"),
        [(33.0, [27.0, 29.0, 31.0]), (24.0, [20.0, 21.33, 22.67]), (13.0, [10.0, 11.33, 12.67])],
    )
    def test_rise_evenly_to_below_what_is_reached(self, ceiling, expected):
        assert quality_targets(ceiling, 3) == expected

    def test_none(self):
        assert quality_targets(30.0, 0) == []


class TestCurves:
    def test_every_point_is_what_an_encoder_reported(self, found, clip):
        assert [point.name for point in found.stream][-1] == rd.MATCH and len(found.stream) == 3
        for point in (*found.fixed, *found.stream):
            tokens = point.encoded.tokens
            assert point.file_bytes == len(tokens_to_bytes(tokens))
            assert point.bits_per_pixel == pytest.approx(8 * point.file_bytes / (64 * 48 * FRAMES))
            assert point.raw_bits_per_pixel == point.encoded.report["bits_per_pixel"]
            assert point.psnr == pytest.approx(point.encoded.psnr.mean()) and abs(point.encoded.report["ssim"]) <= 1
        assert found.every_frame.encoded.report["tokens"] == 6 * 8 * FRAMES
        assert found.fixed[1].encoded.report["tokens"] == 6 * 8 * 2
        assert (found.width, found.height, found.frames) == (64, 48, FRAMES)

    def test_codecs_are_measured_on_the_same_frames(self, found):
        assert list(found.codecs) == list(REFERENCE_CODECS)
        for name, points in found.codecs.items():
            assert len(points) == len(REFERENCE_CODECS[name].settings)
            assert points[-1].psnr > 25

    def test_progress_counts_every_pass(self, found, advanced, tiny_clip_tokenizer):
        assert sum(advanced) == FRAMES * passes(2, tiny_clip_tokenizer)

    def test_cancel(self, clip, tiny_tokenizer):
        def stop():
            raise StopError

        with pytest.raises(StopError):
            rate_distortion(clip, tiny_tokenizer, check=stop)
        with pytest.raises(StopError):
            rd.codec_curves(clip, check=stop)

    def test_negative_points(self, clip, tiny_tokenizer):
        with pytest.raises(ValueError, match="Invalid points"):
            rate_distortion(clip, tiny_tokenizer, points=-1)


class TestPlot:
    curves = {  # noqa: RUF012 (never changed)
        "ours": [RatePoint(0, 0.02, 28.0), RatePoint(1, 0.05, 32.0)],
        "other": [RatePoint(0, 0.001, 10.0), RatePoint(1, 0.1, 30.0), RatePoint(2, 0.4, 50.0)],
    }

    def test_size_and_colours(self):
        picture = plots.rate_plot(self.curves, title="t", about=["ours"], width=280, height=200)
        assert picture.shape[1] == 2 * (280 + 16) and picture.dtype == np.uint8
        for index in range(2):
            distance = np.abs(picture.astype(int) - plots.COLOURS[index]).sum(-1)
            assert (distance < 30).sum() > 50

    def test_shows_the_decibels_around_what_it_is_about(self):
        points = [point for points in self.curves.values() for point in points]
        rates, decibels = plots._ranges(self.curves["ours"], points)
        assert decibels == (25, 37)
        assert rates[0] < 0.02 and 0.1 < rates[1] < 0.4  # what lies outside those decibels does not stretch the axis

    def test_single_points(self):
        point = [RatePoint(0, 0.1, 100.0)]
        assert plots.rate_plot({"one": point}, title="t", about=["one"]).shape[1] == 720

    def test_nothing_to_show(self):
        with pytest.raises(ValueError, match="No points for ours"):
            plots.rate_plot({"ours": []}, title="t", about=["ours"])


class TestNode:
    def test_curve_and_table(self, tiny_tokenizer, images):
        curve, table = PlotRateDistortion.execute(tiny_tokenizer, 3, 1, 0, False, 24.0, images=images).args
        assert curve.shape[::2] == (1, 720) and 0 <= curve.min() < curve.max() <= 1
        assert table.startswith("3 frames, 64 x 48 pixels")
        assert all(name in table for name in REFERENCE_CODECS)

    def test_table_has_every_point(self, found):
        table = describe_curves(found)
        for point in (*found.stream, *found.fixed):
            assert f"{point.name}: {point.psnr:.2f} dB" in table
            assert f"{point.bits_per_pixel:.4f} in the file" in table
