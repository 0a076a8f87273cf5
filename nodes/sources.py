"""Between ComfyUI's sockets and the stations: VIDEO or IMAGE in, clips out; frames in, IMAGE out."""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from ..host import resources
from ..host.api import io, video_source
from ..interpolation import Sound
from ..stations import Source
from ..video.clips import Clip, ImageClip, VideoClip
from ..video.frame_rates import exact_frame_rate
from ..video.frames import uint8_to_image


def clip_sockets() -> list[Any]:
    """The two inputs that a clip can come from."""
    return [
        io.Video.Input(
            "video",
            optional=True,
            tooltip="The clip. Its frames are read as they are needed, so it may be long. Connect this or images.",
        ),
        io.Image.Input(
            "images",
            optional=True,
            tooltip="The clip as a batch of frames, for frames that other nodes made. Connect this or video.",
        ),
    ]


def clip_widgets() -> list[Any]:
    """How the frames are sized, and how fast images follow each other."""
    return [
        io.Int.Input(
            "size",
            default=256,
            min=0,
            max=4096,
            step=8,
            tooltip="Short side of the frames in pixels: they are scaled to it, aspect kept. 0 leaves them as they "
            "are. The shipped tokenizer is trained at 256; time and tokens grow with the number of pixels.",
        ),
        io.Boolean.Input(
            "crop",
            default=False,
            label_on="centre square",
            label_off="whole frame",
            tooltip="Whether only the square in the centre is kept, after scaling.",
        ),
        io.Float.Input(
            "fps",
            default=24.0,
            min=0.01,
            max=1000.0,
            step=0.001,
            tooltip="Frames per second of images. A video has its own time stamps, and this is not used. "
            "23.976, 29.97 and 59.94 are taken as the exact broadcast rates.",
        ),
    ]


def result_widgets() -> list[Any]:
    """Widgets of nodes that make a clip of a clip: how it is written, whether `images` has all of it, and `fps`."""
    return [
        io.Boolean.Input(
            "lossless",
            default=False,
            advanced=True,
            tooltip="Off: H.264 that plays everywhere. On: exactly the pixels, to measure them; larger, and most "
            "players cannot show it.",
        ),
        io.Boolean.Input(
            "as_images",
            default=False,
            label_on="all frames",
            label_off="first frame only",
            tooltip="Whether images has all frames. They take 12 bytes a pixel in memory. Off, it has the first frame, "
            "and memory does not grow with the clip.",
        ),
        next(widget for widget in clip_widgets() if widget.id == "fps"),
    ]


@contextlib.contextmanager
def open_clip(
    video: Any, images: Any, *, fps: float = 24.0, size: int = 0, crop: bool = False, max_frames: int | None = None
) -> Iterator[Clip]:
    """The clip of a VIDEO or of IMAGE `[T, H, W, C]`; just one of them is given. size 0: as it is.

    Raises ValueError when none or both are given, or the clip cannot be used.
    """
    if (video is None) == (images is None):
        state = "neither is connected" if video is None else "both are connected"
        raise ValueError(f"Connect either video or images: {state}.")
    if images is not None:
        yield ImageClip(images[:max_frames], exact_frame_rate(fps), size=size or None, crop=crop)
        return
    source = video_source(video)
    part = {"start": source.start, "duration": source.duration, "max_frames": max_frames}
    with VideoClip(source.file, **part, size=size or None, crop=crop) as clip:
        yield clip


def sound_of(video: Any) -> tuple[Source | None, Fraction]:
    """The file with the sound of a VIDEO, and the time in it, in seconds, at which the VIDEO begins; None: no sound."""
    if video is None:
        return None, Fraction(0)
    source = video_source(video)
    with VideoClip(source.file, start=source.start, duration=source.duration) as clip:
        return (source.file if clip.reader.info.has_audio else None), clip.origin


def carried_sound(video: Any) -> Sound | None:
    """The sound of a VIDEO for a clip of the same length that is made of it; None: no sound."""
    file, start = sound_of(video)
    return None if file is None else Sound(file, start, video_source(video).duration)


def to_images(frames: list[np.ndarray]) -> torch.Tensor:
    """Frames, each uint8 `[1, H, W, 3]`, as IMAGE `[T, H, W, 3]`. The list is emptied on the way, to save memory."""
    shape = (len(frames), *frames[0].shape[1:])
    images = torch.empty(shape, dtype=resources.image_dtype(), device=resources.image_device())
    for index in reversed(range(len(frames))):
        images[index] = uint8_to_image(frames.pop())[0]
    return images
