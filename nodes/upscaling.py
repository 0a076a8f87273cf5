"""Large frames of small ones, where they changed: Upscale Video."""

from typing import Any

import numpy as np

from ..finishing import finish_clip
from ..host import files, resources
from ..host.api import io, ui, video_from_file
from ..host.upscale_models import PRECISIONS
from ..interpolation import find_cuts
from ..models.upscale_reuse import REFRESH, THRESHOLD
from ..models.upscaler import Upscaler
from ..upscaling import upscale_clip
from ..video.output_times import MAX_TIMES
from ..video.retiming import Retiming
from ..video.target_size import FITS, MULTIPLES, TargetSize
from . import types
from .interpolating import load_engine as load_interpolator
from .reports import describe_upscaling
from .sources import carried_sound, clip_sockets, open_clip, result_widgets, to_images
from .upscale_engines import ENGINES, from_socket, load_engine
from .upscale_previews import PreviewingUpscaler, Previews

TARGETS = ("scale", "short side", "exact size")
REUSES = ("what stands", "what stands or moves", "nothing")


def _sizes() -> list[Any]:
    """Widgets that say how large frames become."""
    return [
        io.Combo.Input(
            "target",
            options=list(TARGETS),
            default="scale",
            tooltip="What says how large frames become: scale; short_side, aspect kept; or width and height.",
        ),
        io.Float.Input(
            "scale",
            default=2.0,
            min=0.1,
            max=16.0,
            step=0.05,
            tooltip="For scale: how many times as wide and high. Also 1.5, or more than the model's: what it gives is "
            "resized.",
        ),
        io.Int.Input(
            "short_side",
            default=1080,
            min=16,
            max=8192,
            step=2,
            tooltip="For short side: pixels of the shorter side. 1080 makes 854 x 480 into 1922 x 1080.",
        ),
        io.Int.Input("width", default=1920, min=16, max=8192, step=2, tooltip="For exact size: pixels across."),
        io.Int.Input("height", default=1080, min=16, max=8192, step=2, tooltip="For exact size: pixels down."),
        io.Combo.Input(
            "fit",
            options=list(FITS),
            default="crop",
            tooltip="Where the shape differs. crop: fills the frame and cuts what is over. pad: shows everything "
            "between black bars. stretch: squeezes.",
        ),
        io.Combo.Input(
            "multiple_of",
            options=[str(each) for each in MULTIPLES],
            default="1",
            advanced=True,
            tooltip="Both sides become multiples of this, as many models need: cut, padded or resized to it, as fit "
            "says.",
        ),
    ]


def _making() -> list[Any]:
    """Widgets that say how frames are made."""
    return [
        io.Combo.Input(
            "engine",
            options=list(ENGINES),
            default="auto",
            tooltip="x2-m: twice the size. x2-s: as that, three times as fast. x4-m: four times. auto: x4-m for more "
            "than twice the size, else x2-m. bicubic: no network, for comparison. A connected upscale_model is used "
            "instead of any.",
        ),
        io.Int.Input(
            "times",
            default=1,
            min=1,
            max=MAX_TIMES,
            tooltip="Interpolates in the same pass: so many frames for each one. Only those of the source are "
            "upscaled; between them large frames are moved as the small ones say. 1: off.",
        ),
        io.Combo.Input(
            "reuse",
            options=list(REUSES),
            default=REUSES[0],
            tooltip="What is taken from frames before, and not computed again. what stands or moves: also places that "
            "moved as a whole, as in a page that scrolls or a steady pan. nothing: every frame is computed whole.",
        ),
        io.Float.Input(
            "reuse_threshold",
            default=THRESHOLD,
            min=0.0,
            max=64.0,
            step=0.1,
            advanced=True,
            tooltip="How much, in grey levels of 255, a place may differ from what its large pixels were made of, and "
            "still be reused. 0 reuses only what is equal, and gives the very frames that computing everything gives.",
        ),
        io.Int.Input(
            "refresh",
            default=REFRESH,
            min=0,
            max=100_000,
            advanced=True,
            tooltip="After how many frames a place is computed again even if nothing changed. 0: never.",
        ),
    ]


def _giving() -> list[Any]:
    """Widgets that say what comes out."""
    return [
        io.Combo.Input(
            "precision",
            options=list(PRECISIONS),
            default="auto",
            advanced=True,
            tooltip="What the network computes in. auto: fp16 or bf16 where that is faster and does not show, else "
            "fp32; an upscale_model on the CPU stays in fp32, as in ComfyUI's own node.",
        ),
        *result_widgets(),
    ]


class UpscaleVideo(io.ComfyNode):
    """A larger clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenReel_UpscaleVideo",
            display_name="Upscale Video",
            category="video/enhance",
            description="Makes a clip larger: by a factor, to a short side, or to an exact size. Only what changed is "
            "computed, the rest reused. Interpolates in the same pass where asked. Long clips stream through.",
            search_aliases=[
                *("super resolution", "upscaler", "enlarge", "esrgan", "real-esrgan", "4k", "2x", "4x", "hires"),
                *("resize video", "change resolution", "aspect ratio", "upscale and interpolate", "enhance video"),
            ],
            inputs=[
                *clip_sockets(),
                types.UpscaleModel.Input(
                    "upscale_model",
                    optional=True,
                    tooltip="A model from ComfyUI's Load Upscale Model, in place of engine.",
                ),
                types.FrameTimeline.Input(
                    "timeline",
                    optional=True,
                    tooltip="From Sample Frames Adaptively, together with its video: every frame that it left out "
                    "comes back, large. Used in place of times.",
                ),
                *_sizes(),
                *_making(),
                *_giving(),
            ],
            outputs=[
                io.Video.Output(display_name="video", tooltip="The large clip, as long as the source."),
                io.Image.Output(
                    display_name="images", tooltip="Its frames, never compressed: the first one, or all with as_images."
                ),
                io.Image.Output(
                    display_name="preview", tooltip="Some of the large frames, with what was computed anew marked."
                ),
                io.String.Output(
                    display_name="report", tooltip="How large frames became, how much was computed, and what it saved."
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        target: str | None,
        scale: float | None,
        short_side: int | None,
        width: int | None,
        height: int | None,
        fit: str | None,
        multiple_of: str | None,
    ) -> bool | str:
        size: tuple[Any, ...] = (target, scale, short_side, width, height, fit, multiple_of)
        if any(each is None for each in size):  # comes from another node, later
            return True
        try:
            _target(*size)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        target: str,
        scale: float,
        short_side: int,
        width: int,
        height: int,
        fit: str,
        multiple_of: str,
        engine: str,
        precision: str,
        as_images: bool,
        fps: float,
        video: Any = None,
        images: Any = None,
        upscale_model: Any = None,
        **wishes: Any,
    ) -> io.NodeOutput:
        size = _target(target, scale, short_side, width, height, fit, multiple_of)
        with open_clip(video, images, fps=fps) as clip:
            small = clip.width, clip.height
        if upscale_model is not None:
            upscaler = from_socket(upscale_model, precision=precision)
        else:
            upscaler = load_engine(engine, size, *small, precision=precision)
        kept: list[np.ndarray] = []

        def collect(frame: np.ndarray) -> None:
            if as_images or not kept:
                kept.append(frame)

        facts, path, previews = _upscaled(video, images, fps, upscaler, size, collect=collect, **wishes)
        text = describe_upscaling({**facts, "source_width": small[0], "source_height": small[1]})
        shown = to_images([previews.sheet()[None]])  # before to_images takes its frames
        outputs = video_from_file(path), to_images(kept), to_images(previews.frames), text
        return io.NodeOutput(*outputs, ui={**ui.PreviewImage(shown, cls=cls).as_dict(), "text": (text,)})


def _target(
    target: str, scale: float, short_side: int, width: int, height: int, fit: Any, multiple_of: str
) -> TargetSize:
    if target not in TARGETS or not multiple_of.isdecimal():
        raise ValueError(f"Invalid target {target!r} or multiple {multiple_of!r}. Choose from the lists.")
    common: dict[str, Any] = {"fit": fit, "multiple_of": int(multiple_of)}
    if target == "scale":
        return TargetSize(scale=scale, **common)
    if target == "short side":
        return TargetSize(short_side=short_side, **common)
    return TargetSize(width=width, height=height, **common)


def _upscaled(
    video: Any,
    images: Any,
    fps: float,
    upscaler: Upscaler,
    size: TargetSize,
    *,
    times: int,
    reuse: str,
    reuse_threshold: float,
    refresh: int,
    timeline: Any = None,
    **options: Any,
) -> tuple[dict[str, Any], str, Previews]:
    """The clip that is connected, upscaled to a file in the temp folder, with its sound and the host's progress bar."""
    check, path = resources.check_cancelled, files.temp_path(".mp4")
    reusing = PreviewingUpscaler(
        upscaler,
        None if reuse == REUSES[-1] else reuse_threshold,
        refresh,
        check=check,
        follow_motion=reuse == REUSES[1],
    )
    joint = timeline is not None or times > 1
    with open_clip(video, images, fps=fps) as clip:
        passes = 2 if joint and timeline is None else 1
        with resources.progress(clip.length and passes * clip.length, "upscale") as bar:
            watchers: dict[str, Any] = {"check": check, "progress": bar.update}
            options |= {"target": size, "sound": carried_sound(video), **watchers}
            if not joint:
                return upscale_clip(clip, path, reusing, **options), path, reusing.previews
            cuts = find_cuts(clip, **watchers) if timeline is None else ()
            wanted = Retiming(timeline=timeline, times=None if timeline else times)
            with open_clip(video, images, fps=fps) as again:
                facts = finish_clip(
                    again,
                    path,
                    wanted,
                    reusing,
                    load_interpolator("net"),
                    cuts=cuts,
                    device=resources.device(),
                    **options,
                )
            return facts, path, reusing.previews
