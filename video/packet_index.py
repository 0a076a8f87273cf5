"""When every frame of a file is shown, told by its packets alone: nothing is decoded, so an hour takes a second."""

import os
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import BinaryIO, cast

from .opening import AV_FAILURES, open_video

Source = str | os.PathLike[str] | BinaryIO


@dataclass(frozen=True)
class PacketIndex:
    """The packets of a video stream in the order in which their frames are shown.

    `pts` are in ticks of `time_base` (seconds) and increase strictly; `sizes` are in bytes; `key_frames` are the
    positions at which decoding can begin. `start` is where the clip begins, in seconds, as readers count it.
    """

    time_base: Fraction
    start: Fraction
    pts: tuple[int, ...]
    sizes: tuple[int, ...]
    key_frames: tuple[int, ...]

    def count(self, start: Fraction | float = 0, duration: Fraction | float | None = None) -> int:
        """Frames that are shown from `start` on, for `duration`, both in seconds, `start` from that of the clip."""
        first = self.start + Fraction(start)
        end = None if duration is None else first + Fraction(duration)
        return sum(pts * self.time_base >= first and (end is None or pts * self.time_base < end) for pts in self.pts)


def read_packets(source: Source) -> PacketIndex | None:
    """The index of a file, or None where its packets do not tell: AVI, damaged files, streams cut off at the start.

    Packets that a container marks as not to be shown are left out. Raises VideoError for what is no readable video.
    """
    opened = open_video(source)
    found: list[tuple[int, int, bool]] = []
    with opened.container:
        if opened.demuxer == "avi" or opened.damage:  # AVI has no times of showing
            return None
        try:
            for packet in opened.container.demux(opened.stream):
                if packet.size == 0 or packet.is_discard:
                    continue
                if packet.pts is None or packet.is_corrupt or not (found or packet.is_keyframe):
                    return None
                found.append((packet.pts, packet.size, packet.is_keyframe))
        except AV_FAILURES:
            return None
        time_base, first = cast(Fraction, opened.stream.time_base), opened.stream.start_time
    found.sort()
    if not found or any(earlier[0] == later[0] for earlier, later in pairwise(found)):
        return None
    pts, sizes, keys = zip(*found, strict=True)
    start = (pts[0] if first is None else first) * time_base
    return PacketIndex(time_base, start, pts, sizes, tuple(index for index, key in enumerate(keys) if key))
