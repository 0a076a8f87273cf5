"""What packets tell of a file is what decoding it gives."""

from fractions import Fraction

import av
import numpy as np
import pytest

from tokenreel.sampling import frames_in
from tokenreel.video.packet_index import read_packets
from tokenreel.video.reader import VideoError, VideoReader
from tokenreel.video.writer import VideoWriter

PTS = [100, 110, 125, 126, 180, 200, 201, 260]


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (8, 32, 48, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=["mp4", "mkv"])
def file(request, pictures, tmp_path_factory):
    """Eight frames at uneven times, from 1 s on, with B-frames."""
    path = tmp_path_factory.mktemp("packets") / f"clip.{request.param}"
    with VideoWriter(path, width=48, height=32, frame_rate=Fraction(8), time_base=Fraction(1, 100)) as writer:
        writer.write(pictures, PTS)
    return path


def test_times_are_those_of_the_frames(file):
    index = read_packets(file)
    with VideoReader(file) as reader:
        decoded = [pts for chunk in reader.chunks() for pts in chunk.pts]
        assert list(index.pts) == decoded and index.time_base == reader.info.time_base
        assert index.start == reader.info.start
    assert [float(pts * index.time_base) for pts in index.pts] == [pts / 100 for pts in PTS]
    assert index.key_frames[0] == 0 and len(index.sizes) == 8
    assert sum(index.sizes) < file.stat().st_size


@pytest.mark.parametrize("part", [{}, {"start": 0.1}, {"start": 0.25, "duration": 0.76}, {"duration": 0.2}])
def test_parts_are_counted_as_they_are_read(file, part):
    with VideoReader(file, **part) as reader:
        count = sum(len(chunk.pts) for chunk in reader.chunks())
    assert frames_in(file, **part) == count


def test_nothing_in_a_part_is_not_known(file):
    assert frames_in(file, start=99) is None


def test_avi_does_not_tell(pictures, tmp_path):
    with av.open(str(tmp_path / "clip.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 48, 32
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    assert read_packets(tmp_path / "clip.avi") is None


def test_streams_cut_off_at_the_start_do_not_tell(pictures, tmp_path):
    """Their first packets give no frames: the decoder waits for a key frame."""
    whole = tmp_path / "whole.ts"
    with av.open(str(whole), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.gop_size = 48, 32, 4
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    assert len(read_packets(whole).pts) == 8
    with av.open(str(whole)) as source, av.open(str(tmp_path / "late.ts"), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            if index:
                packet.stream = stream
                container.mux(packet)
    assert read_packets(tmp_path / "late.ts") is None


def test_no_video_is_refused(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(VideoError, match=r"text\.mp4"):
        read_packets(tmp_path / "text.mp4")
