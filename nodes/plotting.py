"""What quality costs, beside other codecs: Plot Rate-Distortion."""

from typing import Any

from ..host import resources
from ..host.api import io, ui
from ..rate_distortion import POINTS, STREAM, RateDistortion, passes, rate_distortion
from ..video.clips import HeldClip
from ..video.plots import rate_plot
from ..video.rate_curves import rate_at
from . import types
from .sources import clip_sockets, clip_widgets, open_clip, to_images


class PlotRateDistortion(io.ComfyNode):
    """Curves."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenReel_PlotRateDistortion",
            display_name="Plot Rate-Distortion",
            category="video/tokens",
            description="Encodes a short clip at several qualities, as a stream and every frame for itself, and with "
            "MJPEG and H.264 beside it: how many bits each takes for how many decibels, as curves and as a table.",
            search_aliases=["rate distortion curve", "bd-rate", "compare codecs", "psnr bitrate", "benchmark tokens"],
            is_output_node=True,
            inputs=[
                types.VideoTokenizer.Input(
                    "tokenizer", tooltip="From Load Video Tokenizer; it needs a residual codec."
                ),
                *clip_sockets(),
                io.Int.Input(
                    "max_frames",
                    default=33,
                    min=1,
                    max=1000,
                    tooltip="How many frames are used, from the first. They are encoded many times over and kept in "
                    "memory, at 3 bytes a pixel: a second or two of video says most of it.",
                ),
                io.Int.Input(
                    "points",
                    default=POINTS,
                    min=0,
                    max=12,
                    tooltip="How many qualities of the stream are tried, besides that of its key frames. They are "
                    "spread over the four decibels and more below what the tokenizer reaches on this clip.",
                ),
                *clip_widgets(),
                types.VideoTokenizer.Input(
                    "clip_tokenizer",
                    optional=True,
                    tooltip="A second tokenizer, of whole clips, such as t4: it becomes one more point.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="curve", tooltip="The curves: bits per pixel across, decibels up."),
                io.String.Output(display_name="table", tooltip="Every point in numbers, and the mean differences."),
            ],
        )

    @classmethod
    def execute(
        cls,
        tokenizer: Any,
        max_frames: int,
        points: int,
        size: int,
        crop: bool,
        fps: float,
        video: Any = None,
        images: Any = None,
        clip_tokenizer: Any = None,
    ) -> io.NodeOutput:
        with open_clip(video, images, fps=fps, size=size, crop=crop, max_frames=max_frames) as opened:
            clip = HeldClip(opened)
        with resources.progress(len(clip.pts) * passes(points, clip_tokenizer), "encode") as bar:
            watchers = {"check": resources.check_cancelled, "progress": bar.update}
            found = rate_distortion(clip, tokenizer, clip_tokenizer, points=points, **watchers)
        curve, table = to_images([draw_curves(found)[None]]), describe_curves(found)
        shown = {**ui.PreviewImage(curve, cls=cls).as_dict(), "text": (table,)}
        return io.NodeOutput(curve, table, ui=shown)


def draw_curves(found: RateDistortion) -> Any:
    """uint8 `[H, W, 3]`."""
    notes = {name: f"({percent:+.0f} %)" for name, percent in found.bd_rates().items() if percent is not None}
    curves = {STREAM: found.stream, **{point.name: (point,) for point in found.fixed}, **found.codecs}
    title = f"{found.frames} frames, {found.width} x {found.height} pixels"
    if notes:
        title += "\nIn brackets: what the stream takes more or less at equal quality."
    return rate_plot(curves, title=title, about=[STREAM, *(point.name for point in found.fixed)], notes=notes)


def describe_curves(found: RateDistortion) -> str:
    """Every point of ours, and where the codecs lie beside them."""
    lines = [
        f"{found.frames} frames, {found.width} x {found.height} pixels",
        "",
        f"{STREAM}, and what has a single rate:",
    ]
    for point in (*found.stream, *found.fixed):
        facts = point.encoded.report
        lines.append(
            f"  {point.name}: {point.psnr:.2f} dB, {facts['ssim']:.4f} SSIM, {facts['tokens']:,} tokens "
            f"({facts['tokens_per_second']:,.0f} a second), {point.raw_bits_per_pixel:.4f} bits a pixel raw, "
            f"{point.bits_per_pixel:.4f} in the file"
        )
    quality = found.stream[-1].psnr
    lines += ["", f"At {quality:.2f} dB ({found.stream[-1].name}):"]
    for name, points in found.codecs.items():
        rate = rate_at(points, quality)
        lines.append(f"  {name}: {'not reached' if rate is None else f'{rate:.4f} bits a pixel'}")
    lines += ["", "Bits of the stream's files at equal quality, on average (BD-rate):"]
    for name, percent in found.bd_rates().items():
        lines.append(f"  against {name}: {'no common quality' if percent is None else f'{percent:+.1f} %'}")
    return "\n".join(lines)
