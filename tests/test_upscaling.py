"""The pipeline: every frame at its time, at the size that was asked for, with the sound, and nothing left half done."""

import wave
import weakref
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from tokenreel.models.upscale_reuse import ReusingUpscaler
from tokenreel.models.upscaler import BicubicUpscaler
from tokenreel.upscaling import upscale, upscale_clip
from tokenreel.video.clips import ImageClip
from tokenreel.video.frames import resize, uint8_to_image
from tokenreel.video.reader import VideoError, VideoReader
from tokenreel.video.target_size import TargetSize

MS = Fraction(1, 1000)


@pytest.fixture
def scene(texture):
    """uint8 [6, 48, 64, 3]: a still in which a small square moves, and stands at last."""
    frames = np.repeat(texture(48, 64)[None], 6, 0)
    for index, left in enumerate((8, 16, 24, 32, 32, 32)):
        frames[index, 16:24, left : left + 8] = 250
    return frames


@pytest.fixture
def tone(tmp_path):
    path = tmp_path / "tone.wav"
    samples = (8000 * np.sin(np.arange(48000) * 0.05)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48000)
        file.writeframes(samples.tobytes())
    return path


@pytest.fixture
def run(tmp_path):
    """Upscales by bicubic interpolation; (report, frames, times in seconds with the end)."""

    def call(source, **options):
        path = tmp_path / "out.mp4"
        report = upscale(source, path, lossless=True, **{"upscaler": BicubicUpscaler(2)} | options)
        with VideoReader(path) as reader:
            chunks, base = list(reader.chunks()), reader.info.time_base
        times = [pts * base for chunk in chunks for pts in chunk.pts]
        frames = np.concatenate([chunk.frames for chunk in chunks])
        assert (report["frames"], report["height"], report["width"]) == frames.shape[:3]
        return report, frames, [*times, times[-1] + chunks[-1].durations[-1] * base]

    return call


class TestFrames:
    @pytest.mark.parametrize("threshold", [None, 0, 1.5])
    def test_they_are_those_of_the_upscaler(self, write, run, scene, threshold):
        report, frames, times = run(write(scene), threshold=threshold)
        reusing = ReusingUpscaler(BicubicUpscaler(2), threshold)
        assert all(np.array_equal(made, reusing.frame(frame)) for made, frame in zip(frames, scene, strict=True))
        assert times == [Fraction(index, 24) for index in range(7)]
        assert report["tiles_computed"] == reusing.cost.tiles_computed
        assert report["computed_fraction"] == 1 if threshold is None else report["computed_fraction"] < 0.5

    def test_time_stamps_stay_uneven(self, write, run, scene):
        ticks = [0, 30, 130, 131, 400, 480]
        report, _, times = run(write(scene, ticks, time_base=MS, last=50))
        assert [float(1000 * each) for each in times] == [*ticks, 530]
        assert report["duration"] == pytest.approx(0.53)

    def test_a_part(self, write, run, scene):
        report, frames, times = run(write(scene), start=Fraction(2, 24), duration=Fraction(3, 24), threshold=None)
        assert len(frames) == 3 and times == [Fraction(index, 24) for index in range(4)]
        assert np.array_equal(frames[0], ReusingUpscaler(BicubicUpscaler(2)).frame(scene[2]))
        assert report["duration"] == pytest.approx(3 / 24)

    def test_images_and_what_is_collected(self, tmp_path, scene):
        kept = []
        clip = ImageClip(uint8_to_image(scene), Fraction(12))
        report = upscale_clip(
            clip, tmp_path / "out.mp4", ReusingUpscaler(BicubicUpscaler(4)), lossless=True, collect=kept.append
        )
        with VideoReader(tmp_path / "out.mp4") as reader:
            frames = np.concatenate([chunk.frames for chunk in reader.chunks()])
        assert np.array_equal(np.concatenate(kept), frames) and frames.shape == (6, 192, 256, 3)
        assert report["frame_rate"] == 12 and report["duration"] == 0.5 and report["notes"] == []


class TestSizes:
    @pytest.mark.parametrize(
        ("target", "size"),
        [
            (TargetSize(scale=1.5), (96, 72)),
            (TargetSize(short_side=100), (134, 100)),
            (TargetSize(width=100, height=100), (100, 100)),
            (TargetSize(scale=2, multiple_of=32), (128, 96)),
        ],
    )
    def test_as_asked_for(self, write, run, scene, target, size):
        report, _, _ = run(write(scene), target=target)
        assert (report["width"], report["height"]) == size

    def test_resized_from_what_the_upscaler_makes(self, write, run, scene):
        """Also in a still, of which the frames are resized once."""
        _, frames, _ = run(write(scene), target=TargetSize(scale=1.5), threshold=None)
        reusing = ReusingUpscaler(BicubicUpscaler(2), None)
        for made, small in zip(frames, scene, strict=True):
            assert np.array_equal(made, resize(reusing.frame(small)[None], 96, 72)[0])

    def test_too_large(self, write, run, scene, tmp_path):
        with pytest.raises(ValueError, match="more than the limit"):
            run(write(scene), target=TargetSize(width=60_000, height=60_000))
        assert not (tmp_path / "out.mp4").exists()


class TestSound:
    def test_it_is_carried(self, write, scene, tone, tmp_path):
        source = write(np.repeat(scene, 4, 0), audio_source=tone)
        upscale(source, tmp_path / "out.mp4", upscaler=BicubicUpscaler(2))
        with av.open(str(source)) as one, av.open(str(tmp_path / "out.mp4")) as two:
            packets = [[bytes(packet) for packet in file.demux(audio=0)] for file in (one, two)]
        assert len(packets[0]) > 10 and packets[0] == packets[1]

    def test_unless_it_is_not_wanted(self, write, scene, tone, tmp_path):
        upscale(write(scene, audio_source=tone), tmp_path / "out.mp4", upscaler=BicubicUpscaler(2), audio=False)
        with VideoReader(tmp_path / "out.mp4") as reader:
            assert not reader.info.has_audio


class TestMemory:
    def test_nothing_holds_the_clip(self, write, scene, tmp_path, monkeypatch):
        """Frames are let go of as they are written: at any time few of them are alive."""
        alive, most = [], 0

        class Counted(BicubicUpscaler):
            def __call__(self, frames):
                nonlocal most
                made = super().__call__(frames)
                alive[:] = [each for each in alive if each() is not None]
                alive.append(weakref.ref(made))
                most = max(most, len(alive))
                return made

        source = write(np.concatenate([scene[:4] for _ in range(10)]))
        report = upscale(source, tmp_path / "out.mp4", upscaler=Counted(2), threshold=None)
        assert report["frames"] == 40 and most <= 2


class TestEnds:
    def test_progress_and_cancel(self, write, run, scene, tmp_path):
        source, done = write(np.repeat(scene, 4, 0)), []
        run(source, progress=done.append)
        assert sum(done) == 24
        (tmp_path / "out.mp4").unlink()

        def check():
            if len(done) > 8:
                raise KeyboardInterrupt
            done.append(0)

        with pytest.raises(KeyboardInterrupt):
            run(source, check=check)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4"]

    def test_no_frame(self, write, run, scene, tmp_path):
        with pytest.raises(VideoError, match="no frame at or after 100"):
            run(write(scene), start=100)
        clip = ImageClip(uint8_to_image(scene), Fraction(12))
        clip.chunks = lambda: iter(())
        with pytest.raises(ValueError, match="0 frames in the part"):
            upscale_clip(clip, tmp_path / "out.mp4", ReusingUpscaler(BicubicUpscaler(2)))
        assert not (tmp_path / "out.mp4").exists()

    def test_out_of_memory_is_not_swallowed(self, write, run, scene):
        class Full(BicubicUpscaler):
            def __call__(self, frames):
                raise torch.OutOfMemoryError("out of memory")

        with pytest.raises(torch.OutOfMemoryError):
            run(write(scene), upscaler=Full(2))
