import io
import os
import struct
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from tokenreel.video.colour import transfer_of
from tokenreel.video.reader import VideoError, VideoReader
from tokenreel.video.writer import VideoWriter

RATE = Fraction(24)


def moving(count=12, height=48, width=64):
    """Smooth frames, no two alike, no two sides alike."""
    t, y, x = np.mgrid[:count, :height, :width]
    return np.stack([(x * 3 + t * 6) % 200 + 20, y * 3 + 0 * t, (x + y + 2 * t) % 255], -1).astype(np.uint8)


def write(path, frames, *, pts=None, final=None, **options):
    with VideoWriter(path, width=frames.shape[2], height=frames.shape[1], **{"frame_rate": RATE, **options}) as writer:
        writer.write(frames, pts)
        writer.close(final)
    return path


def read(source, size=5, **options):
    with VideoReader(source, **options) as reader:
        chunks = list(reader.chunks(size))
    frames = np.concatenate([chunk.frames for chunk in chunks])
    return reader, frames, [p for chunk in chunks for p in chunk.pts], [d for chunk in chunks for d in chunk.durations]


@pytest.fixture
def clip(tmp_path):
    return write(tmp_path / "clip.mp4", moving(), lossless=True)


def test_info_and_frames(clip):
    reader, frames, pts, durations = read(clip)
    info = reader.info
    assert (info.width, info.height, info.frame_rate, info.frame_count) == (64, 48, RATE, 12)
    assert (info.duration, info.rotation, info.has_audio, info.has_alpha) == (Fraction(1, 2), 0, False, False)
    assert np.array_equal(frames, moving()) and pts == list(range(12)) and durations == [1] * 12
    assert reader.warnings == []


@pytest.mark.parametrize("size", [1, 5, 12, 100])
def test_chunk_size_changes_nothing(clip, size):
    with VideoReader(clip) as reader:
        lengths = [len(chunk.pts) for chunk in reader.chunks(size)]
    assert sum(lengths) == 12 and all(length == size for length in lengths[:-1])


def test_memory_and_path_read_the_same(clip):
    reader, frames, pts, _ = read(io.BytesIO(clip.read_bytes()))
    assert reader.info.path == "<memory>" and np.array_equal(frames, read(str(clip))[1]) and pts == list(range(12))


def test_a_reader_reads_once(clip):
    with VideoReader(clip) as reader:
        list(reader.chunks())
        with pytest.raises(RuntimeError, match="Open it again"):
            next(reader.chunks())
        with pytest.raises(ValueError, match="Invalid chunk size 0"):
            next(reader.chunks(0))


def test_closing_in_the_middle_releases_the_file(clip):
    with VideoReader(clip) as reader:
        next(reader.chunks(2))
    reader.close()
    clip.unlink()


def test_window(clip):
    _, frames, pts, _ = read(clip, start=Fraction(3, 24), duration=Fraction(4, 24))
    assert pts == [3, 4, 5, 6] and np.array_equal(frames, moving()[3:7])
    assert read(clip, start=0.2, max_frames=2)[2] == [5, 6]
    with pytest.raises(VideoError, match=r"no frame at or after 9.000 s.*the clip lasts 0.500 s"):
        read(clip, start=9)
    with pytest.raises(VideoError, match="start = -1 is out of range"):
        read(clip, start=-1)


def test_window_far_inside_seeks_to_the_right_frame(tmp_path):
    frames = moving(70)
    pts = [k * 300 for k in range(70)]  # 21 s at 1000 ticks a second
    path = write(tmp_path / "long.mp4", frames, pts=pts, time_base=Fraction(1, 1000), lossless=True)
    _, got, ticks, _ = read(path, start=15, max_frames=3)
    assert ticks == [15000, 15300, 15600] and np.array_equal(got, frames[50:53])


def test_start_is_counted_from_the_first_frame(tmp_path):
    path = write(tmp_path / "late.mp4", moving(6), pts=range(120, 126), time_base=Fraction(1, 24), lossless=True)
    reader, _, pts, _ = read(path, start=Fraction(2, 24))
    assert reader.info.start == 5 and pts == [122, 123, 124, 125]


def test_uneven_time_stamps_are_kept(tmp_path):
    ticks = [450045, 453048, 453049, 462000, 500000]
    path = write(tmp_path / "v.mp4", moving(5), pts=ticks, time_base=Fraction(1, 90000), final=17)
    reader, _, pts, durations = read(path, size=2)
    assert reader.info.time_base == Fraction(1, 90000) and pts == ticks
    assert durations[:-1] == [3003, 1, 8951, 38000]
    if hasattr(av.VideoFrame, "duration"):  # before PyAV 15 FFmpeg does not tell the last one where a clip starts late
        assert durations[-1] == 17


def test_the_last_frame_of_an_uneven_clip_lasts_as_it_says(tmp_path):
    path = write(tmp_path / "v.mp4", moving(3), pts=[0, 10, 40], time_base=Fraction(1, 1000), final=85)
    assert read(path)[3] == [10, 30, 85]


@pytest.mark.parametrize("transfer, name", [(16, "PQ"), (18, "HLG"), (1, None)])
def test_high_dynamic_range_is_named(tmp_path, transfer, name):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=24)
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv444p"
        stream.codec_context.color_trc = transfer
        frame = av.VideoFrame.from_ndarray(np.full((3, 32, 64), 128, np.uint8), format="yuv444p")
        if hasattr(frame, "color_trc"):
            frame.color_trc = transfer
        out.mux([*stream.encode(frame), *stream.encode()])
    with VideoReader(path) as reader:
        told = [warning for warning in reader.warnings if "HDR" in warning]
        assert told == ([f"HDR ({name}) was not tone-mapped; colours look flat"] if name else [])
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        context = container.streams.video[0].codec_context
        assert transfer_of(SimpleNamespace(), context) == transfer_of(frame, context) == transfer  # before PyAV 16


# -- orientation

ORIENTATIONS = {  # (a, b, c, d) of the display matrix, rotation, mirrored, what to do with the stored picture
    (1, 0, 0, 1): (0, False, lambda f: f),
    (0, 1, -1, 0): (90, False, lambda f: np.rot90(f, -1, (1, 2))),
    (-1, 0, 0, -1): (180, False, lambda f: np.rot90(f, 2, (1, 2))),
    (0, -1, 1, 0): (270, False, lambda f: np.rot90(f, 1, (1, 2))),
    (-1, 0, 0, 1): (0, True, lambda f: f[:, :, ::-1]),
    (1, 0, 0, -1): (180, True, lambda f: f[:, ::-1]),
    (0, 1, 1, 0): (270, True, lambda f: np.rot90(f[:, :, ::-1], 1, (1, 2))),
    (0, -1, -1, 0): (90, True, lambda f: np.rot90(f[:, :, ::-1], -1, (1, 2))),
}


def set_matrix(path, a, b, c, d):
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    one = 1 << 16
    data[at : at + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_rotation_and_mirroring_are_applied(clip, matrix):
    rotation, mirrored, turn = ORIENTATIONS[matrix]
    set_matrix(clip, *matrix)
    reader, frames, _, _ = read(clip)
    assert (reader.info.rotation, reader.info.mirrored) == (rotation, mirrored)
    assert (reader.info.height, reader.info.width) == frames.shape[1:3]
    assert np.array_equal(frames, turn(moving()))


def test_a_slanted_picture_is_named(clip):
    set_matrix(clip, 1, 1, -1, 1)
    assert "no multiple of 90 degrees" in read(clip)[0].warnings[0]


# -- what other writers make


def encode(path, frames, codec, pixel_format, *, options=None, setup=None, container=None):
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=24, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        if setup:
            setup(stream.codec_context)
        for rgb in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=pixel_format)))
        out.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    "name, codec, pixel_format",
    [("a.mkv", "ffv1", "yuv420p"), ("a.avi", "mpeg4", "yuv420p"), ("a.webm", "libvpx-vp9", "yuv420p"),
     ("a.ts", "mpeg2video", "yuv420p"), ("a.mov", "prores_ks", "yuv422p10le"), ("a.gif", "gif", "rgb8"),
     ("a.mkv", "mjpeg", "yuvj420p"), ("a.mp4", "libx264", "gray"), ("a.y4m", "wrapped_avframe", "yuv420p")],
)  # fmt: skip
def test_many_kinds_decode(tmp_path, name, codec, pixel_format):
    options = {"lossless": "1"} if codec == "libvpx-vp9" else {}
    path = encode(tmp_path / name, moving(), codec, pixel_format, options=options)
    reader, frames, pts, _ = read(path)
    assert frames.shape == (12, 48, 64, 3) and (np.diff(pts) > 0).all()
    times = (np.array(pts) - pts[0]) * float(reader.info.time_base)
    assert np.abs(times - np.arange(12) / 24).max() < 0.02
    if pixel_format != "gray":
        assert np.abs(frames[:, 8:-8, 8:-24].astype(int) - moving()[:, 8:-8, 8:-24]).mean() < 25


def test_ten_bits_are_named(tmp_path):
    path = encode(tmp_path / "a.mkv", moving(), "ffv1", "yuv420p10le")
    reader, frames, _, _ = read(path)
    assert reader.info.bit_depth == 10 and reader.warnings == ["10-bit samples were reduced to 8 bits"]
    assert frames.dtype == np.uint8


def test_alpha_is_dropped_by_name_or_refused(tmp_path):
    path = encode(tmp_path / "a.mkv", moving(), "ffv1", "yuva444p")
    reader, _, _, _ = read(path)
    assert reader.info.has_alpha and "transparency (alpha) was dropped" in reader.warnings
    with pytest.raises(VideoError, match="transparency"):
        VideoReader(path, alpha="refuse")


def test_non_square_pixels_are_made_square(tmp_path):
    def wide(context):
        context.sample_aspect_ratio = Fraction(4, 3)

    path = encode(tmp_path / "a.mp4", moving(), "libx264", "yuv420p", setup=wide)
    reader, frames, _, _ = read(path)
    assert frames.shape[1:3] == (48, 85) and reader.info.width == 85 and "non-square pixels (4:3)" in reader.warnings[0]


@pytest.mark.parametrize("matrix, colorspace", [("bt709", 1), ("smpte170m", 6)])
@pytest.mark.parametrize("value_range", [1, 2])
def test_tagged_matrix_and_range_are_honoured(tmp_path, matrix, colorspace, value_range):
    """The same colours, stored with either matrix and range, come out the same."""
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 60, 120]], np.uint8)
    rgb = colours.repeat(16, 0)[None].repeat(32, 0)[None]  # [1, 32, 64, 3]
    kr, kb = (0.2126, 0.0722) if matrix == "bt709" else (0.299, 0.114)
    r, g, b = (rgb[0, ..., c] / 255.0 for c in range(3))
    luma = kr * r + (1 - kr - kb) * g + kb * b
    planes = [luma, (b - luma) / (2 - 2 * kb), (r - luma) / (2 - 2 * kr)]
    scale = ((219, 16), (224, 128), (224, 128)) if value_range == 1 else ((255, 0), (255, 128), (255, 128))
    stored = np.stack([np.clip(np.rint(p * s + o), 0, 255) for p, (s, o) in zip(planes, scale, strict=True)])
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=24)
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv444p"
        stream.codec_context.colorspace, stream.codec_context.color_range = colorspace, value_range
        frame = av.VideoFrame.from_ndarray(stored.astype(np.uint8), format="yuv444p")
        frame.colorspace, frame.color_range = colorspace, value_range
        out.mux([*stream.encode(frame), *stream.encode()])
    assert np.abs(read(path)[1].astype(int) - rgb).max() <= 3


# -- bad input


def one_line(error):
    text = str(error.value)
    return "\n" not in text and "Fix: " in text and "Traceback" not in text


BAD = {
    "text": (b"this is not a video at all\n" * 40, "no known video container"),
    "empty": (b"", "empty"),
    "zeros": (b"\0" * 100, "no known video container"),
    "png": (b"\x89PNG\r\n\x1a\n" + b"\0" * 600, "it is an image"),
    "playlist": (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/hostname\n", "no known video container"),
    "concat": (b"ffconcat version 1.0\nfile '/etc/hostname'\n", "no known video container"),
    "head only": (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", "index .moov. is missing"),
    "broken mkv": (b"\x1a\x45\xdf\xa3" + b"\x93" * 400, "cannot be opened"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("memory", [False, True])
def test_bad_files_end_in_one_clear_line(tmp_path, kind, memory):
    data, message = BAD[kind]
    path = tmp_path / "bad.mp4"
    path.write_bytes(data)
    with pytest.raises(VideoError, match=message) as error:
        VideoReader(io.BytesIO(data) if memory else path)
    assert one_line(error) and ("<memory>" if memory else "bad.mp4") in str(error.value)


@pytest.mark.parametrize("name", ["missing.mp4", "http://127.0.0.1:9/x.mp4", "concat:a.mp4", "pipe:0", "", "a\0b"])
def test_missing_files_and_urls_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VideoError, match=r"no such file|usable file name") as error:
        VideoReader(name)
    assert one_line(error)


@pytest.mark.parametrize("name", ["a:b.mp4", "http:x.mp4", "%04d.mp4", "-i.mp4", "a b'\".mp4", "\u65e5\u672c.mp4"])
@pytest.mark.skipif(os.name == "nt", reason="names that Windows does not allow")
def test_strange_names_are_taken_literally(tmp_path, monkeypatch, clip, name):
    monkeypatch.chdir(tmp_path)
    clip.rename(tmp_path / name)
    assert len(read(name)[2]) == 12


def test_folders_and_pipes_are_refused(tmp_path):
    with pytest.raises(VideoError, match="it is a folder"):
        VideoReader(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.mp4")
        with pytest.raises(VideoError, match="device or pipe"):
            VideoReader(tmp_path / "pipe.mp4")


def test_sound_alone_is_no_video(tmp_path):
    path = tmp_path / "sound.m4a"
    with av.open(str(path), "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), format="fltp", layout="mono")
        frame.rate = 48000
        out.mux([*stream.encode(frame), *stream.encode()])
    with pytest.raises(VideoError, match=r"no video stream \(it holds: audio\)"):
        VideoReader(path)


def test_unlisted_decoders_are_refused(tmp_path):
    path = encode(tmp_path / "a.avi", moving(), "zmbv", "bgr0")
    with pytest.raises(VideoError, match="'zmbv' is not among"):
        VideoReader(path)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_every_truncation_is_noticed(tmp_path, suffix):
    data = write(tmp_path / f"whole.{suffix}", moving(24)).read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    for keep in [*range(0, len(data) - 1, max(1, len(data) // 40)), len(data) - 2]:
        cut.write_bytes(data[:keep])
        with pytest.raises(VideoError) as error:
            read(cut)
        assert one_line(error), str(error.value)


def test_what_is_left_of_a_truncated_file_can_be_read(tmp_path):
    data = write(tmp_path / "whole.mp4", moving(24), lossless=True).read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) * 2 // 3])
    reader, frames, _, _ = read(cut, strict=False)
    assert 1 <= len(frames) < 24 and np.array_equal(frames[0], moving(24)[0])
    assert "truncated" in reader.warnings[0] and "announces 24 frames" in reader.warnings[-1]


def test_random_damage_never_escapes(tmp_path):
    data = write(tmp_path / "whole.mp4", moving(8, 32, 32)).read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "hurt.mp4"
    for _ in range(150):
        hurt = bytearray(data)
        for at in rng.integers(0, len(hurt), rng.integers(1, 12)):
            hurt[at] = rng.integers(256)
        path.write_bytes(hurt)
        for strict in (True, False):
            try:
                read(path, strict=strict)
            except VideoError as e:
                assert "\n" not in str(e)


def test_frames_beyond_the_pixel_limit_are_refused(clip, monkeypatch):
    monkeypatch.setattr("tokenreel.video.opening.MAX_PIXELS", 1000)
    with pytest.raises(VideoError, match="64x48 exceeds the limit of 1,000 pixels"):
        VideoReader(clip)


DATA = os.environ.get("TOKENREEL_DATA")


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="set TOKENREEL_DATA to the folder with dev/ and odd/ clips")
@pytest.mark.parametrize("folder", ["dev", "odd"])
def test_real_files_decode_or_are_refused_in_one_line(folder):
    for path in sorted(Path(DATA or "", folder).iterdir()):
        try:
            read(path, max_frames=40)
        except VideoError as e:
            assert folder == "odd" and "\n" not in str(e), str(e)
