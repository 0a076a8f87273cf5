"""Few frames of many, and the shots they are in: Sample Frames Adaptively, Detect Shots."""

import json
from typing import Any

from ..host import files, resources
from ..host.api import io, ui, video_from_file, video_source
from ..models.selection import FORMS, POLICIES, ROUNDINGS
from ..sampling import KEY_FRAMES, detect_shots, frames_in, kept_frames, sample_frames, write_sample
from ..video.clips import VideoClip
from ..video.motion_plot import motion_plot
from .reports import describe_shots
from .sources import to_images
from .types import FrameTimeline

_AMOUNTS = {"frames": "frames", "fps": "fps", "tokens": "tokens_per_second", "threshold": None}
"""The widget that says how many frames to keep, for each choice of `amount`."""


def _amount_widgets() -> list[Any]:
    return [
        io.Combo.Input(
            "amount",
            options=list(_AMOUNTS),
            default="frames",
            tooltip="What says how many frames to keep: frames, fps or tokens_per_second below; or threshold, with "
            "the policies keyframes and dedupe: all that pass it.",
        ),
        io.Int.Input(
            "frames",
            default=16,
            min=1,
            max=100_000,
            tooltip="How many frames to keep, if amount is frames. At most as many as the video has.",
        ),
        io.Float.Input(
            "fps",
            default=8.0,
            min=0.01,
            max=240.0,
            step=0.01,
            tooltip="How many frames to keep for each second of video on average, if amount is fps.",
        ),
        io.Int.Input(
            "max_gap",
            default=0,
            min=0,
            max=100_000,
            advanced=True,
            tooltip="The most source frames from one kept frame to the next; more frames are kept where it takes "
            "that. 0 sets no limit.",
        ),
        io.Float.Input(
            "tokens_per_second",
            default=4000.0,
            min=1.0,
            max=1e9,
            step=1.0,
            optional=True,
            tooltip="If amount is tokens: so many frames as cost no more than this as key frames of the tokenizer, "
            "one token for each 8x8 pixels of the size below.",
        ),
        io.Int.Input(
            "size",
            default=256,
            min=0,
            max=4096,
            step=8,
            optional=True,
            tooltip="Short side in pixels at which tokens are counted; 0 counts them at the video's own size. The "
            "kept frames stay as large as they are.",
        ),
    ]


def _limit_widgets() -> list[Any]:
    return [
        io.Combo.Input(
            "preset",
            options=list(FORMS),
            default="any",
            optional=True,
            tooltip="Numbers of frames that a video model takes: 4n+1 for Wan and HunyuanVideo, 8n+1 for LTX-Video "
            "and Cosmos, 6n+1 for Mochi. The number kept is exactly of that form.",
        ),
        io.Combo.Input(
            "rounding",
            options=list(ROUNDINGS),
            default="below",
            optional=True,
            tooltip="Which number of the preset's form is taken: that below the amount, above it, or the nearer one. "
            "Where the video has too few frames, it is the one below.",
        ),
        io.Int.Input(
            "min_gap",
            default=1,
            min=1,
            max=100_000,
            advanced=True,
            optional=True,
            tooltip="The least source frames from one kept frame to the next; fewer frames are kept where it takes "
            "that. It does not hold between frames that shots need.",
        ),
        io.Float.Input(
            "threshold",
            default=0.0,
            min=0.0,
            max=255.0,
            step=0.5,
            advanced=True,
            optional=True,
            tooltip="How much a small grey picture of a frame has to differ from the kept one before it, in grey "
            "levels: the root mean square for keyframes, the largest difference for dedupe. 0: 30 and 4.",
        ),
    ]


class SampleFrames(io.ComfyNode):
    """Keeps frames where the picture changes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenReel_SampleFrames",
            display_name="Sample Frames Adaptively",
            category="video/sampling",
            description="Keeps a few frames of a video: those without which restoring the others would be worst, and "
            "always the first frame of each shot. The result plays as long as the source, with its sound.",
            search_aliases=[
                *("keyframes", "key frames", "frame sampling", "subsample", "reduce fps", "scene change"),
                *("select frames", "drop duplicate frames", "mpdecimate", "every nth frame", "4n+1", "8n+1"),
            ],
            inputs=[
                io.Video.Input("video", tooltip="The video to take frames from. It is read twice, frame by frame."),
                io.Combo.Input(
                    "policy",
                    options=["motion", "uniform", *(each for each in POLICIES if each not in ("motion", "uniform"))],
                    default="motion",
                    tooltip="motion: the frames that interpolation would miss most, and every beginning of a shot. "
                    "uniform: equal times between kept frames. keyframes: beginnings of shots, and what differs much "
                    "from the kept frame before. dedupe: all but near-duplicates. For the last two the amount is a "
                    "limit.",
                ),
                *_amount_widgets(),
                *_limit_widgets(),
            ],
            outputs=[
                io.Video.Output(
                    display_name="video", tooltip="The kept frames, each shown until the next one, with the sound."
                ),
                io.Image.Output(
                    display_name="images",
                    tooltip="The kept frames at full size, in memory: 12 bytes a pixel. Use video for many.",
                ),
                FrameTimeline.Output(
                    display_name="timeline",
                    tooltip="When each source frame was shown, which were kept, where shots begin.",
                ),
                io.Int.Output(display_name="count", tooltip="How many frames were kept."),
                io.Image.Output(
                    display_name="plot", tooltip="The motion of each frame, the kept ones, and where shots begin."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, video: Any, policy: Any, amount: str, frames: int, fps: float, max_gap: int = 0, **more: Any
    ) -> io.NodeOutput:
        file, start, duration = video_source(video)
        part: dict[str, Any] = {"start": start, "duration": duration, "check": resources.check_cancelled}
        wanted = _wanted(amount, {**more, "frames": frames, "fps": fps, "max_gap": max_gap})
        path, kept = files.temp_path(".mp4"), []
        with resources.progress(_passes(video), "sample frames") as bar:
            timeline, look = sample_frames(file, policy=policy, progress=bar.update, **wanted, **part)
            write_sample(file, timeline, path, collect=kept.append, progress=bar.update, **part)
        plot = to_images([motion_plot(look.meter.energy, timeline)[None]])
        count = len(kept)
        shown = ui.PreviewImage(plot, cls=cls).as_dict()
        return io.NodeOutput(video_from_file(path), to_images(kept), timeline, count, plot, ui=shown)


def _wanted(amount: str, widgets: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `sample_frames` from the widgets: only the amount that was chosen, and None for 0."""
    names = set(_AMOUNTS.values()) - {_AMOUNTS[amount]}
    given = {name: value for name, value in widgets.items() if name not in names}
    return {name: value or None if name in ("max_gap", "size", "threshold") else value for name, value in given.items()}


def _passes(video: Any) -> int | None:
    """The frames that two passes over a VIDEO read, where that is known."""
    file, start, duration = video_source(video)
    count = frames_in(file, start=start, duration=duration)
    return 2 * count if count else None


class DetectShots(io.ComfyNode):
    """Finds where shots begin."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenReel_DetectShots",
            display_name="Detect Shots",
            category="video/sampling",
            description="Finds where the shots of a video begin: hard cuts, dissolves and fades, and no flashes. Gives "
            "one key frame for each shot, and the times as text.",
            search_aliases=[
                *("scene detection", "scene change", "shot boundary", "cut detection", "split scenes"),
                *("storyboard", "thumbnails", "pyscenedetect"),
            ],
            inputs=[
                io.Video.Input("video", tooltip="The video to look at. It is read twice, frame by frame."),
                io.Combo.Input(
                    "key_frames",
                    options=list(KEY_FRAMES),
                    default="typical",
                    tooltip="Which frame stands for a shot. typical: the one nearest to the mean picture of the shot. "
                    "first: its first one.",
                ),
            ],
            outputs=[
                FrameTimeline.Output(
                    display_name="timeline",
                    tooltip="When each frame is shown, where shots begin; the key frames are the ones kept.",
                ),
                io.Image.Output(
                    display_name="key_frames", tooltip="One frame of each shot at full size: 12 bytes a pixel."
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="JSON as `tokenreel shots --json` prints it: start and end of each shot in seconds, how "
                    "it begins, its frames.",
                ),
            ],
        )

    @classmethod
    def execute(cls, video: Any, key_frames: str = "typical") -> io.NodeOutput:
        file, start, duration = video_source(video)
        part: dict[str, Any] = {"start": start, "duration": duration}
        watchers: dict[str, Any] = {"check": resources.check_cancelled}
        with resources.progress(_passes(video), "detect shots") as bar:
            watchers["progress"] = bar.update
            timeline, report, _ = detect_shots(file, key_frames=key_frames, **part, **watchers)
            with VideoClip(file, **part) as clip:
                found = [frame.copy() for frame, _ in kept_frames(clip, timeline, **watchers)]
        text = json.dumps(report, indent=1)
        return io.NodeOutput(timeline, to_images(found), text, ui={"text": (describe_shots(report),)})
