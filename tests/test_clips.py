"""Clips: the same sizes and times whether frames come from a file, from a part of one, or from images."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from tokenreel.video import clips
from tokenreel.video.clips import CHUNK, ImageClip, VideoClip
from tokenreel.video.frames import uint8_to_image
from tokenreel.video.writer import VideoWriter

FRAMES = 12


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(5)
    return rng.integers(0, 256, (FRAMES, 36, 52, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def file(frames, tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    with VideoWriter(path, width=52, height=36, frame_rate=Fraction(12), lossless=True) as writer:
        writer.write(frames)
    return path


def read(clip):
    return np.concatenate([chunk.frames for chunk in clip.chunks()])


def test_file_and_images_give_the_same(file, frames):
    images = ImageClip(uint8_to_image(frames), Fraction(12))
    with VideoClip(file) as video:
        assert (read(video) == read(images)).all()
        assert (video.width, video.height, video.duration) == (images.width, images.height, images.duration)
        assert video.length == images.length == FRAMES
        starts = [[float(pts * clip.time_base) for pts in clip.pts] for clip in (video, images)]
        assert starts[0] == pytest.approx(starts[1])


@pytest.mark.parametrize(("size", "crop"), [(18, False), (18, True), (None, True), (72, False)])
def test_file_and_images_are_sized_alike(file, frames, size, crop):
    images = ImageClip(uint8_to_image(frames), Fraction(12), size=size, crop=crop)
    with VideoClip(file, size=size, crop=crop) as video:
        one, two = read(video), read(images)
    assert (one == two).all()
    side = size or 36
    assert one.shape[1:3] == ((side, side) if crop else (side, round(52 * side / 36)))
    assert (images.height, images.width) == one.shape[1:3]


def test_images_come_in_chunks_and_lose_alpha(frames):
    images = torch.cat([uint8_to_image(frames), torch.zeros(FRAMES, 36, 52, 1)], -1)
    chunks = list(ImageClip(images, Fraction(30)).chunks())
    assert [len(chunk.pts) for chunk in chunks] == [CHUNK, FRAMES - CHUNK]
    assert (np.concatenate([chunk.frames for chunk in chunks]) == frames).all()


def test_a_part_begins_at_time_zero(file, frames):
    with VideoClip(file, start=Fraction(1, 4), duration=Fraction(1, 2)) as clip:
        assert (read(clip) == frames[3:9]).all()
        assert clip.pts[0] == 0 and clip.duration == Fraction(1, 2)
        assert clip.origin == Fraction(1, 4)
        assert clip.length == 6


def test_the_whole_keeps_its_start(frames, tmp_path):
    path = tmp_path / "late.mp4"
    with VideoWriter(path, width=52, height=36, frame_rate=Fraction(12), lossless=True) as writer:
        writer.write(frames[:2], [6, 7])
    with VideoClip(path) as clip:
        read(clip)
        assert clip.pts[0] * clip.time_base == Fraction(1, 2) and clip.origin == 0
    with VideoClip(path, start=Fraction(1, 12)) as clip:
        assert len(read(clip)) == 1
        assert clip.pts == [0] and clip.origin == Fraction(7, 12)


def test_max_frames(file, frames):
    with VideoClip(file, max_frames=5) as clip:
        assert (read(clip) == frames[:5]).all()
        assert clip.length == 5 and clip.duration == Fraction(5, 12)


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (4, 4, 3), (1, 4, 4, 1)])
def test_wrong_images(shape):
    with pytest.raises(ValueError, match=r"Invalid images .*at least one frame"):
        ImageClip(torch.zeros(shape), Fraction(24))


def test_wrong_frame_rate():
    with pytest.raises(ValueError, match=r"Invalid frame rate \(0\)"):
        ImageClip(torch.zeros(1, 4, 4, 3), Fraction(0))


def test_a_refused_size_leaves_the_file_closed(file, monkeypatch):
    closed = []
    monkeypatch.setattr(clips.VideoReader, "close", lambda self: closed.append(self))
    with pytest.raises(ValueError, match="Invalid short side 1"):
        VideoClip(file, size=1)
    assert len(closed) == 1


@pytest.mark.parametrize("count", [0, -3])
def test_at_least_one_frame_is_asked_for(file, count):
    with pytest.raises(ValueError, match=rf"Invalid max_frames \({count}\). Supported are 1 frame and more"):
        VideoClip(file, max_frames=count)
