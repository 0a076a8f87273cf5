"""How close two videos are: Measure Video Quality."""

from typing import Any

from ..host import resources
from ..host.api import io, ui, video_source
from ..stations import measure_files
from ..video.canvas import stacked
from ..video.clips import VideoClip
from ..video.metrics import QualityMeter
from ..video.series_plots import line_plot
from .reports import describe_quality
from .sources import to_images


class MeasureQuality(io.ComfyNode):
    """PSNR and SSIM."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenReel_MeasureQuality",
            display_name="Measure Video Quality",
            category="video/tokens",
            description="Compares two videos frame by frame: PSNR and SSIM on 8-bit RGB. The reference is scaled to "
            "the size of the other one, and the report says so.",
            search_aliases=["psnr", "ssim", "compare videos", "video quality", "metrics"],
            is_output_node=True,
            inputs=[
                io.Video.Input("reference", tooltip="The original."),
                io.Video.Input("video", tooltip="What became of it; frames are compared in order."),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="PSNR, SSIM, and what was compared."),
                io.Float.Output(
                    display_name="psnr", tooltip="Mean PSNR of the frames in dB; 100 for frames that are equal."
                ),
                io.Float.Output(display_name="ssim", tooltip="Mean SSIM of the frames; 1 for frames that are equal."),
                io.Image.Output(display_name="plot", tooltip="PSNR of every frame, as a curve."),
            ],
        )

    @classmethod
    def execute(cls, reference: Any, video: Any) -> io.NodeOutput:
        one, two = video_source(reference), video_source(video)
        with VideoClip(two.file, start=two.start, duration=two.duration) as clip:
            length = clip.length
        meter = QualityMeter()
        with resources.progress(length, "measure") as bar:
            facts = measure_files(
                one.file,
                two.file,
                reference_part=(one.start, one.duration),
                other_part=(two.start, two.duration),
                meter=meter,
                check=resources.check_cancelled,
                progress=bar.update,
            )
        plot = to_images([stacked([line_plot(meter.per_frame.tolist(), title="PSNR of each frame", unit="dB")])[None]])
        text = describe_quality(facts)
        shown = {**ui.PreviewImage(plot, cls=cls).as_dict(), "text": (text,)}
        return io.NodeOutput(text, facts["psnr"], facts["ssim"], plot, ui=shown)
