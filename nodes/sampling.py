"""Few frames of many: Sample Frames Adaptively."""

from typing import Any

from ..host import files, resources
from ..host.api import io, video_from_file, video_source
from ..sampling import sample_frames, write_sample
from ..video.clips import VideoClip
from .sources import to_images
from .types import FrameTimeline


def _max_gap() -> Any:
    return io.Int.Input(
        "max_gap",
        default=0,
        min=0,
        max=100_000,
        advanced=True,
        tooltip="The most source frames from one kept frame to the next; more frames are kept where it takes that. "
        "0 sets no limit.",
    )


class SampleFrames(io.ComfyNode):
    """Keeps frames where the picture changes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenReel_SampleFrames",
            display_name="Sample Frames Adaptively",
            category="video/sampling",
            description="Keeps a few frames of a video: more where it moves, fewer where it stands still, and always "
            "the first frame of each shot. The result plays as long as the source, with its sound.",
            search_aliases=["keyframes", "key frames", "frame sampling", "subsample", "reduce fps", "scene change"],
            inputs=[
                io.Video.Input("video", tooltip="The video to take frames from. It is read twice, frame by frame."),
                io.Combo.Input(
                    "policy",
                    options=["motion", "uniform"],
                    default="motion",
                    tooltip="motion: equal amounts of motion between kept frames, and every cut kept. "
                    "uniform: equal times between kept frames.",
                ),
                io.Combo.Input(
                    "amount",
                    options=["frames", "fps"],
                    default="frames",
                    tooltip="Which of the two numbers below says how many frames to keep.",
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
                _max_gap(),
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
            ],
        )

    @classmethod
    def execute(cls, video: Any, policy: Any, amount: str, frames: int, fps: float, max_gap: int = 0) -> io.NodeOutput:
        file, start, duration = video_source(video)
        with VideoClip(file, start=start, duration=duration) as clip:
            passes = 2 * clip.length if clip.length else None
        wanted: dict[str, Any] = {"frames": frames} if amount == "frames" else {"fps": fps}
        part: dict[str, Any] = {"start": start, "duration": duration, "check": resources.check_cancelled}
        path, kept = files.temp_path(".mp4"), []
        with resources.progress(passes, "sample frames") as bar:
            timeline, _ = sample_frames(
                file, policy=policy, max_gap=max_gap or None, progress=bar.update, **wanted, **part
            )
            write_sample(file, timeline, path, collect=kept.append, progress=bar.update, **part)
        count = len(kept)
        return io.NodeOutput(video_from_file(path), to_images(kept), timeline, count)
