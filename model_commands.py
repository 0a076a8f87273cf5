"""What the commands on other people's models do: arguments in, facts out, by the keys of `--json`.

Nothing is printed here. Outputs appear when they are whole.
"""

from __future__ import annotations

import argparse
import re
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from .commands import Facts, Tell, output_file

if TYPE_CHECKING:
    from .models.quantization import QuantizationSettings
    from .models.quantization_report import QuantizationReport


def plan(args: argparse.Namespace, tell: Tell) -> Facts:
    """What a video costs a model, and how the same costs less. `table` has it all for people."""
    from .models.model_families import find_family
    from .models.token_budget import LEAST_RATE, LEAST_SIDE, Target, describe_budget, plan_budget

    picture = output_file(args.plot, (".png",)) if args.plot else None
    width, height = args.size
    budget = plan_budget(
        find_family(args.family),
        Target(width, height, Fraction(str(args.seconds)), args.fps),
        least_side=args.least_short_side or LEAST_SIDE,
        least_rate=args.least_fps or LEAST_RATE,
        share=args.share,
    )
    if picture:
        import io

        from PIL import Image

        from .host.files import write_whole
        from .nodes.planning import draw_budget

        drawn = io.BytesIO()
        Image.fromarray(draw_budget(budget)).save(drawn, "PNG")
        write_whole(picture, drawn.getvalue())
    return {"family": args.family, **budget.report(), "table": describe_budget(budget)}


def quantize(args: argparse.Namespace, tell: Tell) -> Facts:
    """A model's file in fewer bits, a layer at a time, and what that costs. `table` has it in words."""
    from .host import resources
    from .models.quantizable_layers import LayerFilter, find_preset
    from .models.quantized_files import model_names, quantize_file

    target = output_file(args.output, (".safetensors",), args.model)
    source, settings = Path(args.model).absolute(), _quantization(args)
    names = model_names(source)
    _check_origin(source)
    family = args.family or find_preset(names)
    kept = tuple(re.escape(part) for part in args.keep)
    ends = {"first_blocks": args.first_blocks, "last_blocks": args.last_blocks}
    with resources.progress(None, "quantize") as bar:
        report = quantize_file(source, Path(target), settings, accept=LayerFilter(family, kept, **ends), step=bar.count)
    if "int8" in report.counts():
        tell(f"note: {args.output}: int8 layers need a ComfyUI newer than 0.25 or the node Load Quantized Model")
    return {
        **_quantized(report),
        "file": args.output,
        "family": family,
        "format": args.format,
        **_sizes(source, target),
    }


def _check_origin(path: Path) -> None:
    """ValueError for a checkpoint of ours, which nothing would open in few bits."""
    from .models.checkpoint import CheckpointError, read_metadata

    try:
        kind = read_metadata(path)["kind"].replace("_", " ")
    except CheckpointError:
        return
    raise ValueError(f"{path.name} is TokenReel's {kind}, which is small already. Choose a video model's file.")


def _quantization(args: argparse.Namespace) -> QuantizationSettings:
    """What is asked for. Limits belong to the one format that has a choice."""
    from .models.quantization import QuantizationSettings

    limits = args.size, args.error
    if args.format == "mixed" and limits == (None, None):
        args.wrong_usage("--format mixed needs --size or --error")
    if args.format != "mixed" and (limits != (None, None) or args.formats):
        args.wrong_usage(f"--size, --error and --formats are for --format mixed, not for {args.format}")
    formats = {"formats": args.formats} if args.formats else {}
    return QuantizationSettings(args.format, *limits, **formats)


def _quantized(report: QuantizationReport) -> Facts:
    from .models.quantization_report import describe_quantization

    layers = [
        {
            "name": layer.name,
            "format": layer.kind,
            "shape": list(layer.shape),
            "bytes_before": layer.nbytes_before,
            "bytes": layer.nbytes,
            "error": layer.error,
        }
        for layer in report.layers
    ]
    return {
        "weight_bytes_before": report.nbytes_before,
        "weight_bytes": report.nbytes,
        "share": report.share,
        "error": report.error,
        "layers_by_format": report.counts(),
        "layers": layers,
        "seconds": report.seconds,
        "table": describe_quantization(report),
    }


def _sizes(source: Path, target: str) -> Facts:
    return {"source_bytes": source.stat().st_size, "file_bytes": Path(target).stat().st_size}
