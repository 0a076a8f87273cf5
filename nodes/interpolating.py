"""Every frame of few: Interpolate Video."""

from typing import Any

import numpy as np

from ..host import files, resources
from ..host.api import io, ui, video_from_file
from ..host.interp_models import AT_ONCE, CoreInterpolator, SparingInterpolator
from ..interpolation import find_cuts, interpolate_clip
from ..models import checkpoint
from ..models.changed_regions import InBetweens
from ..models.changed_tiles import THRESHOLD
from ..models.interpolator import BlendInterpolator, FlowInterpolator
from ..video.frame_rates import parse_frame_rate
from ..video.output_times import MAX_TIMES
from ..video.retiming import Retiming
from . import types
from .sources import carried_sound, clip_sockets, open_clip, result_widgets, to_images

MODES = ("multiply", "frame rate", "timeline")
ENGINES = ("net", "flow", "blend")


def _timing() -> list[Any]:
    """Widgets that say when frames are shown."""
    return [
        io.Combo.Input(
            "mode",
            options=list(MODES),
            default="multiply",
            tooltip="multiply: divides every interval between two frames. frame rate: frames at an even rate, whatever "
            "that of the source. timeline: brings every frame back that a sampler left out; connect its timeline.",
        ),
        io.Int.Input(
            "times",
            default=2,
            min=1,
            max=MAX_TIMES,
            tooltip="For multiply: how many frames there are afterwards for each one before. 1 only retimes repeats.",
        ),
        io.String.Input(
            "frame_rate",
            default="60",
            tooltip="For frame rate: frames a second, as 60, 23.976 or 60000/1001. It may be lower than the source's.",
        ),
        io.Boolean.Input(
            "loop",
            default=False,
            label_on="last frame to first",
            label_off="hold the last frame",
            tooltip="Whether the last frame moves on to the first one, so that the clip repeats without a jump.",
        ),
        io.Combo.Input(
            "at_cuts",
            options=["hold", "crossfade"],
            default="hold",
            tooltip="Nothing moves over a cut. hold: the last frame of a shot is shown until the next one begins. "
            "crossfade: it fades over, for a fifth of a second at most.",
        ),
        io.Combo.Input(
            "repeats",
            options=["keep", "retime"],
            default="keep",
            tooltip="Frames that show the same as the one before, as in animation drawn on twos or threes. keep: they "
            "stay. retime: motion is spread evenly over them. More than four in a row stand still on purpose.",
        ),
    ]


def _making() -> list[Any]:
    """Widgets that say how frames are made."""
    return [
        io.Combo.Input(
            "engine",
            options=list(ENGINES),
            default="net",
            tooltip="net: the network that comes with the pack. flow: follows motion without a network. blend: only "
            "mixes the two frames, for comparison. A connected interp_model is used instead of any.",
        ),
        io.Combo.Input(
            "skip_static",
            options=["auto", "always", "never"],
            default="auto",
            tooltip="Whether only what moves is computed, and the rest copied bit by bit. auto: yes, but not with an "
            "interp_model, which then gives the same frames as ComfyUI's own node.",
        ),
        io.Int.Input(
            "static_threshold",
            default=THRESHOLD,
            min=0,
            max=64,
            advanced=True,
            tooltip="How much, in grey levels of 255, a place may change and still be copied. 0 copies only what is "
            "equal, which noise and compression seldom leave.",
        ),
        *result_widgets(),
    ]


class InterpolateVideo(io.ComfyNode):
    """Frames between frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenReel_InterpolateVideo",
            display_name="Interpolate Video",
            category="video/enhance",
            description="Adds frames between frames: to a multiple, to any frame rate, or back to the timing of a "
            "sampled video. The result lasts as long, with its sound; cuts stay cuts; only what moves is computed.",
            search_aliases=[
                *("frame interpolation", "rife", "film", "vfi", "slow motion", "fps", "change frame rate"),
                *("smooth video", "in-between", "tween", "loop video", "restore frames"),
            ],
            inputs=[
                *clip_sockets(),
                types.FrameTimeline.Input(
                    "timeline",
                    optional=True,
                    tooltip="From Sample Frames Adaptively, together with its video. Used with mode timeline.",
                ),
                types.InterpModel.Input(
                    "interp_model",
                    optional=True,
                    tooltip="A RIFE or FILM model from ComfyUI's Load Frame Interpolation Model, in place of engine.",
                ),
                *_timing(),
                *_making(),
            ],
            outputs=[
                io.Video.Output(display_name="video", tooltip="The interpolated clip, as long as the source."),
                io.Image.Output(
                    display_name="images", tooltip="Its frames, never compressed: the first one, or all with as_images."
                ),
                io.Float.Output(display_name="frame_rate", tooltip="Its frames a second, on average for uneven ones."),
                io.String.Output(
                    display_name="report", tooltip="How each frame came about, and how much was computed."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, mode: str | None, frame_rate: str | None) -> bool | str:
        if mode != "frame rate" or frame_rate is None:  # None: comes from another node, later
            return True
        try:
            parse_frame_rate(frame_rate)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        mode: str,
        engine: str,
        skip_static: str,
        static_threshold: int,
        lossless: bool,
        as_images: bool,
        fps: float,
        video: Any = None,
        images: Any = None,
        interp_model: Any = None,
        **timing: Any,
    ) -> io.NodeOutput:
        wanted = _wanted(mode, **timing)
        skips = skip_static == "always" or (skip_static == "auto" and interp_model is None)
        between = _between(engine, interp_model, static_threshold if skips else None)
        path, kept = files.temp_path(".mp4"), []

        def collect(frame: np.ndarray) -> None:
            if as_images or not kept:
                kept.append(frame)

        facts = _interpolate(video, images, fps, path, wanted, between, lossless=lossless, collect=collect)
        text = describe_interpolation(facts)
        return io.NodeOutput(video_from_file(path), to_images(kept), facts["frame_rate"], text, ui=ui.PreviewText(text))


def _wanted(mode: str, times: int, frame_rate: str, timeline: Any = None, **rest: Any) -> Retiming:
    if (mode == "timeline") != (timeline is not None):
        state = "no timeline is connected" if timeline is None else "a timeline is connected"
        fix = "Connect one, or choose another mode" if timeline is None else "Choose mode 'timeline', or disconnect it"
        raise ValueError(f"Mode is {mode!r}, but {state}. {fix}.")
    if mode == "frame rate":
        return Retiming(rate=parse_frame_rate(frame_rate), **rest)
    return Retiming(timeline=timeline, times=times if mode == "multiply" else None, **rest)


def _between(engine: str, interp_model: Any, threshold: int | None) -> InBetweens:
    check = resources.check_cancelled
    if interp_model is not None:
        model = CoreInterpolator(interp_model)
        return InBetweens(SparingInterpolator(model), threshold, check, device=model.device, at_once=AT_ONCE)
    return InBetweens(load_engine(engine), threshold, check, device=resources.device())


def load_engine(engine: str) -> SparingInterpolator:
    """The interpolator of that name, on the device that networks run on."""
    if engine == "net":
        interpolator = checkpoint.load_interpolator()
        interpolator.net.to(resources.device())
        return SparingInterpolator(interpolator)
    return SparingInterpolator(FlowInterpolator() if engine == "flow" else BlendInterpolator())


def _interpolate(
    video: Any, images: Any, fps: float, path: str, wanted: Retiming, between: InBetweens, **options: Any
) -> dict[str, Any]:
    """`interpolate_clip` of the clip that is connected, with its sound and the host's progress bar."""
    cuts: tuple[int, ...] = ()
    with open_clip(video, images, fps=fps) as clip:
        total = clip.length and clip.length * (1 if wanted.timeline else 2)
        with resources.progress(total, "interpolate") as bar:
            watchers: dict[str, Any] = {"check": resources.check_cancelled, "progress": bar.update}
            if wanted.timeline is None:
                cuts = find_cuts(clip, loop=wanted.loop, repeats=wanted.repeats, **watchers)
            with open_clip(video, images, fps=fps) as again:
                sound = carried_sound(video)
                return interpolate_clip(again, path, wanted, between, cuts=cuts, sound=sound, **watchers, **options)


_WAYS = {
    "passed": "of the source, as they are",
    "interpolated": "interpolated",
    "held": "repeated",
    "faded": "cross-faded",
}


def describe_interpolation(facts: dict[str, Any]) -> str:
    """Lines on what `interpolate_clip` did."""
    lines = [
        f"{facts['source_frames']} frames became {facts['frames']}, {facts['width']} x {facts['height']}, "
        f"{facts['frame_rate']:.3f} fps, {facts['duration']:.2f} s",
        *(f"  {facts[key]} {text}" for key, text in _WAYS.items() if facts[key]),
    ]
    for key, text in (("cuts", "cuts, over which nothing moves"), ("repeats", "repeated frames of the source retimed")):
        if facts[key]:
            lines.append(f"{facts[key]} {text}")
    if facts["interpolated"]:
        lines.append(f"{facts['computed_fraction']:.1%} of the interpolated pixels were computed, the rest copied")
    saved = facts["seconds_saved"]
    if saved:
        done = f"{facts['seconds_interpolating']:.1f} s spent on that, about {abs(saved):.1f} s"
        lines.append(f"{done} {'less' if saved > 0 else 'more'} than for all pixels")
    return "\n".join([*lines, *(f"Note: {note}." for note in facts["notes"]), f"{facts['seconds']:.1f} s in all"])
