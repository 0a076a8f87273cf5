import io
import os
import stat
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tokenreel.video.metrics import psnr
from tokenreel.video.reader import VideoReader
from tokenreel.video.reel import render
from tokenreel.video.writer import VideoError, VideoWriter

ROOT = Path(__file__).resolve().parent.parent
NTSC = Fraction(30000, 1001)


def noise(count, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def read(path):
    with VideoReader(path) as reader:
        chunks = list(reader.chunks(4))
    frames = np.concatenate([chunk.frames for chunk in chunks])
    return reader.info, frames, [p * reader.info.time_base for chunk in chunks for p in chunk.pts]


def leftovers(folder):
    return [entry.name for entry in folder.iterdir()]


SIZES = [(1, 48, 64), (3, 33, 47), (3, 37, 64), (2, 32, 47), (3, 2, 2), (3, 1, 1)]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".m4v"])
@pytest.mark.parametrize("shape", SIZES)
def test_lossless_is_bit_exact(tmp_path, suffix, shape):
    frames = noise(*shape)
    path = tmp_path / f"a{suffix}"
    with VideoWriter(path, width=shape[2], height=shape[1], frame_rate=NTSC, lossless=True) as writer:
        writer.write(frames)
    assert np.array_equal(read(path)[1], frames)
    assert leftovers(tmp_path) == [path.name]


@pytest.mark.parametrize("shape", SIZES)
def test_lossy_keeps_size_count_and_timing(tmp_path, shape):
    path = tmp_path / "a.mp4"
    with VideoWriter(path, width=shape[2], height=shape[1], frame_rate=NTSC) as writer:
        for frame in noise(*shape):
            writer.write(frame[None])
    info, frames, times = read(path)
    assert frames.shape == (*shape, 3) and info.frame_rate == NTSC and info.duration == shape[0] / NTSC
    assert times == [k / NTSC for k in range(shape[0])]
    assert info.pixel_format == ("yuv444p" if shape[1] % 2 or shape[2] % 2 else "yuv420p")


def test_saturated_colours_come_back(tmp_path):
    colours = np.array(
        [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255], [255, 0, 255], [200, 50, 90]]
    )
    frames = colours.astype(np.uint8).repeat(16, 0)[None, None].repeat(32, 1).repeat(4, 0)  # [4, 32, 112, 3]
    path = tmp_path / "a.mp4"
    with VideoWriter(path, width=112, height=32, frame_rate=NTSC, crf=1) as writer:
        writer.write(frames)
    _, back, _ = read(path)
    assert np.abs(back[:, 16, 8::16].astype(int) - colours).max() <= 4


def test_colours_are_tagged_and_the_index_is_in_front(tmp_path):
    path = tmp_path / "a.mp4"
    with VideoWriter(path, width=64, height=48, frame_rate=NTSC) as writer:
        writer.write(noise(3, 48, 64))
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)


def test_lower_crf_is_better(tmp_path):
    y, x = np.mgrid[:64, :64]
    frames = np.stack([np.stack([(x * 2 + 5 * t) % 256, y * 3, x + y], -1) for t in range(8)]).astype(np.uint8)
    quality = []
    for crf in (10, 40):
        with VideoWriter(tmp_path / "a.mp4", width=64, height=64, frame_rate=NTSC, crf=crf) as writer:
            writer.write(frames)
        quality.append(psnr(frames, read(tmp_path / "a.mp4")[1]).mean())
    assert quality[0] > quality[1] + 5


@pytest.mark.parametrize("time_base", [Fraction(1, 90000), Fraction(1001, 24000), Fraction(1, 600)])
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_time_stamps_are_exact(tmp_path, time_base, suffix):
    ticks = [7, 8, 31, 32, 33, 90, 91]
    path = tmp_path / f"a{suffix}"
    writer = VideoWriter(path, width=32, height=32, frame_rate=Fraction(24), time_base=time_base)
    writer.write(noise(4, 32, 32), ticks[:4])
    writer.write(noise(3, 32, 32), ticks[4:])
    writer.close(final_duration=12)
    info, _, times = read(path)
    assert times == [tick * time_base for tick in ticks]
    assert info.duration == (91 - 7 + 12) * time_base


def test_a_negative_start_moves_to_zero_by_name(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", width=32, height=32, frame_rate=24, time_base=Fraction(1, 600)) as writer:
        writer.write(noise(3, 32, 32), [-20, 0, 7])
        writer.write(noise(1, 32, 32))
    assert read(tmp_path / "a.mp4")[2] == [0, Fraction(20, 600), Fraction(27, 600), Fraction(52, 600)]
    assert "moved to 0" in writer.warnings[0]


# -- sound


def add_sound(path, video, codec, *, seconds=2, rate=44100):
    """Write `video` with a tone beside it; returns the path."""
    with av.open(str(path), "w") as out:
        picture = out.add_stream("libx264", rate=24)
        picture.height, picture.width, picture.pix_fmt = *video.shape[1:3], "yuv420p"
        sound = out.add_stream(codec, rate=rate, layout="mono")
        tone = np.sin(np.arange(seconds * rate) * 0.06).astype(np.float32)[None] * 0.5
        for rgb in video:
            out.mux(picture.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        out.mux(picture.encode())
        for at in range(0, tone.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(tone[:, at : at + 1024]), format="fltp", layout="mono"
            )
            frame.rate, frame.pts, frame.time_base = rate, at, Fraction(1, rate)
            out.mux(sound.encode(frame))
        out.mux(sound.encode())
    return path


def packets(path):
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None, []
        stream = container.streams.audio[0]
        found = [(float(p.pts * stream.time_base), bytes(p)) for p in container.demux(stream) if p.pts is not None]
        return stream.codec_context.codec.canonical_name, found


def rewrite(source, target, **options):
    with VideoReader(source) as reader:
        info = reader.info
        with VideoWriter(
            target,
            width=info.width,
            height=info.height,
            frame_rate=info.frame_rate,
            time_base=info.time_base,
            **options,
        ) as writer:
            for chunk in reader.chunks():
                writer.write(chunk.frames, chunk.pts)
    return writer


@pytest.mark.parametrize("memory", [False, True])
def test_sound_is_copied_packet_for_packet(tmp_path, memory):
    source = add_sound(tmp_path / "in.mp4", noise(48, 32, 32), "aac")
    given = io.BytesIO(source.read_bytes()) if memory else source
    rewrite(given, tmp_path / "out.mp4", audio_source=given)
    codec, copied = packets(tmp_path / "out.mp4")
    _, original = packets(source)
    assert codec == "aac" and [data for _, data in copied] == [data for _, data in original]
    assert np.allclose([time for time, _ in copied], [time for time, _ in original], atol=1e-3)


def test_sound_mp4_cannot_hold_becomes_aac(tmp_path):
    source = add_sound(tmp_path / "in.mkv", noise(48, 32, 32), "pcm_s16le")
    rewrite(source, tmp_path / "out.mp4", audio_source=source)
    codec, found = packets(tmp_path / "out.mp4")
    assert codec == "aac" and abs(found[-1][0] - 2.0) < 0.1
    rewrite(source, tmp_path / "out.mkv", audio_source=source)
    assert packets(tmp_path / "out.mkv")[0] == "pcm_s16le"


def test_sound_window(tmp_path):
    source = add_sound(tmp_path / "in.mp4", noise(48, 32, 32), "aac")
    with VideoWriter(
        tmp_path / "out.mp4", width=32, height=32, frame_rate=24, audio_source=source, audio_start=0.5, audio_duration=1
    ) as writer:
        writer.write(noise(24, 32, 32))
    times = [time for time, _ in packets(tmp_path / "out.mp4")[1]]
    assert 0 <= times[0] < 0.05 and 0.9 < times[-1] < 1.0


def test_a_source_without_sound_simply_works(tmp_path):
    with VideoWriter(tmp_path / "in.mp4", width=32, height=32, frame_rate=24) as writer:
        writer.write(noise(4, 32, 32))
    rewrite(tmp_path / "in.mp4", tmp_path / "out.mp4", audio_source=tmp_path / "in.mp4")
    assert packets(tmp_path / "out.mp4") == (None, [])


# -- never half a file


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_no_trace(tmp_path, error):
    with pytest.raises(error), VideoWriter(tmp_path / "a.mp4", width=32, height=32, frame_rate=24) as writer:
        writer.write(noise(30, 32, 32))
        assert leftovers(tmp_path) != []
        raise error
    assert leftovers(tmp_path) == []


def test_an_older_file_stays_until_the_new_one_is_finished(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"older")
    with pytest.raises(KeyboardInterrupt), VideoWriter(path, width=32, height=32, frame_rate=24) as writer:
        writer.write(noise(3, 32, 32))
        raise KeyboardInterrupt
    assert path.read_bytes() == b"older" and leftovers(tmp_path) == ["a.mp4"]
    with VideoWriter(path, width=32, height=32, frame_rate=24) as writer:
        writer.write(noise(3, 32, 32))
        assert path.read_bytes() == b"older"
    assert len(read(path)[1]) == 3


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_failure_at_the_very_end_leaves_no_trace(tmp_path, monkeypatch, fails):
    def full(*_):
        raise OSError(28, "No space left on device")

    writer = VideoWriter(tmp_path / "a.mp4", width=32, height=32, frame_rate=24)
    writer.write(noise(3, 32, 32))
    monkeypatch.setattr(os, fails, full)
    with pytest.raises(VideoError, match=r"a\.mp4'.*No space left"):
        writer.close()
    assert leftovers(tmp_path) == []


def test_no_frame_is_an_error(tmp_path):
    with (
        pytest.raises(VideoError, match="not a single frame was given"),
        VideoWriter(tmp_path / "a.mp4", width=32, height=32, frame_rate=24),
    ):
        pass
    assert leftovers(tmp_path) == []


def test_new_files_get_ordinary_permissions(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    with VideoWriter(tmp_path / "a.mp4", width=32, height=32, frame_rate=24) as writer:
        writer.write(noise(1, 32, 32))
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "a.mp4")}
    assert len(modes) == 1


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("a.avi", {}, "'.avi' names no supported container.*.mp4"),
        ("nowhere/a.mp4", {}, "does not exist"),
        ("a.mp4", {"width": 0}, "0x32 is no possible frame size"),
        ("a.mp4", {"frame_rate": Fraction(0)}, "frame rate 0 is out of range"),
        ("a.mp4", {"time_base": Fraction(1, 2**40)}, "time base"),
        ("a.mp4", {"audio_source": "missing.wav"}, "missing.wav.*no such file"),
    ],
)
def test_impossible_outputs_are_refused_before_anything_is_written(tmp_path, name, change, message):
    with pytest.raises(VideoError, match=message) as error:
        VideoWriter(tmp_path / name, **{"width": 32, "height": 32, "frame_rate": Fraction(24), **change})
    assert "\n" not in str(error.value) and leftovers(tmp_path) == []


def test_wrong_frames_are_refused(tmp_path):
    writer = VideoWriter(tmp_path / "a.mp4", width=32, height=16, frame_rate=24)
    with pytest.raises(ValueError, match=r"uint8 \[frames, 16, 32, 3\]"):
        writer.write(noise(1, 32, 16))
    with pytest.raises(ValueError, match="1 time stamps for 2 frames"):
        writer.write(noise(2, 16, 32), [0])
    with pytest.raises(ValueError, match="Time stamp 3 follows 3"):
        writer.write(noise(2, 16, 32), [3, 3])
    writer.abort()
    writer.abort()
    assert leftovers(tmp_path) == []


_COPY = """
import resource, sys, types
import numpy as np
package = types.ModuleType("tokenreel")
package.__path__ = [sys.argv[1]]
sys.modules["tokenreel"] = package
from tokenreel.video.reader import VideoReader
from tokenreel.video.reel import render
from tokenreel.video.writer import VideoWriter
picture = np.random.default_rng(0).integers(0, 64, (360, 640, 3), dtype=np.uint8)
with VideoWriter(sys.argv[2], width=640, height=360, frame_rate=24) as writer:
    for k in range(int(sys.argv[4])):
        writer.write(np.roll(picture, k, 1)[None])
with VideoReader(sys.argv[2]) as reader, VideoWriter(sys.argv[3], width=640, height=360, frame_rate=24) as writer:
    for chunk in reader.chunks(8):
        writer.write(chunk.frames)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts kilobytes only on Linux")
def test_memory_does_not_grow_with_the_clip(tmp_path):
    """Peaks of two processes, so that no other test's memory counts: 400 frames take 221 MB more than 80."""

    def peak(count):
        names = [tmp_path / "in.mp4", tmp_path / "out.mp4"]
        command = [sys.executable, "-c", _COPY, str(ROOT), *map(str, names), str(count)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert peak(400) - peak(80) < 110e6


@pytest.mark.parametrize("size", [(96, 64), (160, 128), (192, 128), (320, 64)])
def test_the_same_frames_give_the_same_file(tmp_path, size):
    """x264's macroblock tree made one of several files of tiny frames, by chance."""
    reel = np.concatenate(list(render(*size, 8, 1.0).chunks()))
    made = set()
    for index in range(12):
        path = tmp_path / f"{index}.mp4"
        with VideoWriter(path, width=size[0], height=size[1], frame_rate=Fraction(8)) as writer:
            writer.write(reel)
        made.add(path.read_bytes())
    assert len(made) == 1
