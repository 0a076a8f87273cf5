"""Both in one pass: times and sound of interpolation, sizes of upscaling, and each source frame upscaled once."""

import io
import wave
from fractions import Fraction

import numpy as np
import pytest
import torch

from tokenreel.finishing import finish, finish_clip
from tokenreel.interpolation import interpolate
from tokenreel.models.interpolator import BlendInterpolator, FlowInterpolator
from tokenreel.models.upscale_reuse import ReusingUpscaler
from tokenreel.models.upscaler import BicubicUpscaler
from tokenreel.video.clips import ImageClip
from tokenreel.video.frames import uint8_to_image
from tokenreel.video.metrics import psnr
from tokenreel.video.reader import VideoReader
from tokenreel.video.retiming import Retiming
from tokenreel.video.target_size import TargetSize
from tokenreel.video.timeline import FrameTimeline

HEIGHT, WIDTH = 48, 64
MS = Fraction(1, 1000)


class Counting(BicubicUpscaler):
    """Counts the frames that it is given."""

    calls = 0

    def __call__(self, frames):
        self.calls += len(frames)
        return super().__call__(frames)


def grey(*levels):
    """uint8 [T, H, W, 3]: flat frames, so that a blend says what it was made of."""
    return np.broadcast_to(np.array(levels, np.uint8)[:, None, None, None], (len(levels), HEIGHT, WIDTH, 3)).copy()


def levels(frames):
    assert all((frame == frame[0, 0, 0]).all() for frame in frames)
    return frames[:, 0, 0, 0].tolist()


def read(path):
    """All frames, and their times in seconds with the end."""
    with VideoReader(path) as reader:
        chunks, base = list(reader.chunks()), reader.info.time_base
    times = [pts * base for chunk in chunks for pts in chunk.pts]
    return np.concatenate([chunk.frames for chunk in chunks]), [*times, times[-1] + chunks[-1].durations[-1] * base]


@pytest.fixture
def run(tmp_path):
    """Interpolates by blending, enlarges by bicubic: (report, frames, times, the upscaler)."""

    def call(source, **options):
        path = tmp_path / "out.mp4"
        fixed = {"interpolator": BlendInterpolator(), "upscaler": Counting(2), "threshold": None} | options
        report = finish(source, path, lossless=True, static_threshold=0, **fixed)
        frames, times = read(path)
        assert (
            report["frames"] == len(frames) == sum(report[way] for way in ("passed", "interpolated", "held", "faded"))
        )
        assert (report["height"], report["width"]) == frames.shape[1:3]
        return report, frames, times, fixed["upscaler"]

    return call


@pytest.fixture
def pan(texture):
    """Five frames that move by four pixels each."""
    wide = texture(HEIGHT, WIDTH + 64)
    return np.stack([wide[:, x : x + WIDTH] for x in range(0, 20, 4)])


class TestFrames:
    def test_as_many_and_when_as_by_interpolation(self, write, run):
        report, frames, times, upscaler = run(write(grey(0, 100, 40)), times=4)
        assert levels(frames) == [0, 25, 50, 75, 100, 85, 70, 55, 40, 40, 40, 40]
        assert frames.shape[1:3] == (2 * HEIGHT, 2 * WIDTH)
        assert times == [Fraction(k, 96) for k in range(13)]
        assert upscaler.calls == report["frames_upscaled"] == 3
        assert report["upscaled_fraction"] == 0.25

    def test_frames_of_the_source_are_those_of_the_upscaler(self, write, run, pan):
        _, frames, _, upscaler = run(write(pan), times=2, interpolator=FlowInterpolator())
        large = upscaler(torch.from_numpy(pan).permute(0, 3, 1, 2) / 255)
        assert np.array_equal(frames[::2], (255 * large).round().byte().permute(0, 2, 3, 1).numpy())

    def test_in_between_is_as_good_as_upscaling_what_was_interpolated(self, write, run, tmp_path, texture):
        wide = texture(2 * 80, 2 * 112 + 64)
        large = np.stack([wide[:, x : x + 224] for x in range(0, 40, 5)])
        small = large.reshape(8, 80, 2, 112, 2, 3).mean((2, 4)).round().astype(np.uint8)
        source, other = write(small[::2]), tmp_path / "small.mp4"
        _, joint, _, _ = run(source, times=2, interpolator=FlowInterpolator())
        interpolate(source, other, interpolator=FlowInterpolator(), times=2, lossless=True)
        planes = torch.from_numpy(read(other)[0]).permute(0, 3, 1, 2) / 255
        after = (255 * BicubicUpscaler(2)(planes)).round().byte().permute(0, 2, 3, 1).numpy()
        middle = (slice(1, 7, 2), slice(16, -16), slice(48, -48))
        gain = psnr(large[middle], joint[middle]) - psnr(large[middle], after[middle])
        assert gain.min() > 0

    def test_a_rate_that_skips_frames_upscales_no_more_than_it_shows(self, write, run):
        report, frames, _, upscaler = run(write(grey(*range(0, 120, 10)), rate=Fraction(60)), rate=Fraction(20))
        assert levels(frames) == [0, 30, 60, 90]
        assert upscaler.calls == report["frames_upscaled"] == 4

    def test_loop(self, write, run):
        _, frames, _, upscaler = run(write(grey(0, 60, 90)), times=3, loop=True)
        assert levels(frames) == [0, 20, 40, 60, 70, 80, 90, 60, 30]
        assert upscaler.calls <= 4

    @pytest.mark.parametrize(("at_cuts", "ways"), [("hold", "held"), ("crossfade", "faded")])
    def test_cuts(self, run, write, at_cuts, ways):
        rng = np.random.default_rng(5)
        shots = [np.kron(rng.integers(0, 220, (6, 8, 3)), np.ones((8, 8, 1), int)) for _ in range(2)]
        source = np.stack([shot + index for shot in shots for index in range(9)]).astype(np.uint8)
        report, frames, _, upscaler = run(write(source), times=2, at_cuts=at_cuts)
        assert report["cuts"] == 1 and report[ways] >= 1 and upscaler.calls == 18
        large = upscaler(torch.from_numpy(source[8:10]).permute(0, 3, 1, 2) / 255).mul(255).round().byte()
        one, two = large.permute(0, 2, 3, 1).numpy()
        assert np.array_equal(frames[16], one) and np.array_equal(frames[18], two)
        if at_cuts == "hold":
            assert np.array_equal(frames[17], one)
        else:
            assert 0 < np.abs(frames[17].astype(int) - one).mean() < np.abs(one.astype(int) - two).mean()

    def test_timeline(self, write, run):
        pts, kept = (0, 40, 90, 130, 160, 200, 240, 260), (0, 3, 7)
        timeline = FrameTimeline(MS, Fraction(25), Fraction(300, 1000), pts, kept)
        source = write(grey(0, 130, 0), [pts[index] for index in kept], time_base=MS)
        report, frames, times, upscaler = run(source, timeline=timeline)
        assert levels(frames) == [0, 40, 90, 130, 100, 60, 20, 0]
        assert [1000 * each for each in times] == [*pts, 300]
        assert upscaler.calls == 3 and report["upscaled_fraction"] == 3 / 8


class TestReuse:
    def test_what_stands_is_upscaled_once(self, write, run, texture):
        frames = np.stack([texture(160, 160)] * 6)
        for index, frame in enumerate(frames):
            frame[8:24, 8 + 4 * index : 24 + 4 * index] = 255
        report, made, _, _ = run(write(frames), times=2, threshold=3, interpolator=FlowInterpolator())
        assert report["computed_fraction"] < 0.8 and report["tiles_computed"] < report["tiles"] == 6 * 400
        assert np.array_equal(made[0, 200:], made[5, 200:])
        assert 0 < report["moving_fraction"] < 1
        assert {"seconds_upscaling", "seconds_interpolating", "seconds_saved", "frame_rate"} <= set(report)


class TestSizes:
    @pytest.mark.parametrize(
        ("target", "size"),
        [
            (None, (128, 96)),
            (TargetSize(scale=1.5), (96, 72)),
            (TargetSize(scale=4), (256, 192)),
            (TargetSize(short_side=80, multiple_of=16), (96, 80)),
            (TargetSize(width=100, height=100, fit="pad"), (100, 100)),
        ],
    )
    def test_targets(self, write, run, target, size):
        report, frames, _, _ = run(write(grey(50, 60)), times=2, target=target)
        assert (report["width"], report["height"]) == size and len(frames) == 4
        middle = slice(size[1] // 4, -size[1] // 4)
        assert levels(frames[:, middle]) == [50, 55, 60, 60]

    def test_a_size_that_cannot_be_is_refused_at_once(self, run, write, tmp_path):
        read_already = []
        with pytest.raises(ValueError, match="more than the limit"):
            run(
                write(grey(0, 1)), times=2, target=TargetSize(width=60_000, height=60_000), progress=read_already.append
            )
        assert not read_already and not (tmp_path / "out.mp4").exists()


class TestClips:
    def test_images(self, tmp_path):
        clip = ImageClip(uint8_to_image(grey(0, 100)), Fraction(10))
        kept = []
        reusing = ReusingUpscaler(Counting(2))
        report = finish_clip(
            clip, tmp_path / "out.mp4", Retiming(times=2), reusing, BlendInterpolator(), collect=kept.append
        )
        assert levels(np.concatenate(kept)) == [0, 50, 100, 100] and report["duration"] == pytest.approx(0.2)

    @pytest.mark.parametrize("audio", [True, False])
    def test_sound_and_part(self, write, run, tmp_path, audio):
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setnchannels(1), file.setsampwidth(2), file.setframerate(48_000)
            file.writeframes((9000 * np.sin(np.arange(48_000) * 0.1)).astype("<i2").tobytes())
        buffer.seek(0)
        source = write(grey(*range(0, 48, 2)), audio_source=buffer)
        report, frames, _, _ = run(source, times=2, start=Fraction(1, 2), audio=audio)
        assert report["duration"] == pytest.approx(0.5) and levels(frames)[::2] == list(range(24, 48, 2))
        with VideoReader(tmp_path / "out.mp4") as reader:
            assert reader.info.has_audio == audio

    def test_models_that_tell_no_motion_are_refused(self, write, run):
        class Frames:
            prepare = between = None

        with pytest.raises(ValueError, match="not the motion between them"):
            run(write(grey(0, 1)), times=2, interpolator=Frames())

    @pytest.mark.parametrize("options", [{}, {"times": 2, "rate": Fraction(60)}])
    def test_options_that_cannot_be(self, write, run, options):
        with pytest.raises(ValueError, match="Give just one of a timeline, a rate and a multiplier"):
            run(write(grey(0, 20)), **options)

    def test_cancel_leaves_nothing(self, write, run, tmp_path):
        def check():
            if list(tmp_path.glob(".*.part")):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(write(grey(*range(30))), times=2, check=check)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4"]
