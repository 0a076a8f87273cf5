"""Results as they are kept: what was measured, with what, on which machine."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import __version__
from .arguments import PARTS

RESULTS = Path(__file__).parent / "results"


def measured(name: str, args: argparse.Namespace, tell: Callable[[str], None]) -> dict[str, Any]:
    """Runs the benchmark `name`; its figures and where they come from."""
    from .generation import measure_generation
    from .interpolation import measure_interpolation
    from .memory import measure_memory
    from .patching import measure_patching
    from .quantization import measure_quantization
    from .sampling import measure_sampling
    from .shots import measure_shots
    from .speed import measure_speed
    from .start import measure_start
    from .tokens import measure_tokens
    from .upscaling import measure_upscaling
    from .video import measure_video

    benchmarks = {
        "tokens": measure_tokens,
        "speed": measure_speed,
        "memory": measure_memory,
        "video": measure_video,
        "start": measure_start,
        "shots": measure_shots,
        "sampling": measure_sampling,
        "interpolation": measure_interpolation,
        "upscaling": measure_upscaling,
        "generator": measure_generation,
        "patching": measure_patching,
        "quantization": measure_quantization,
    }
    return {"benchmark": name, **_provenance(), **benchmarks[name](args, tell)}


def to_json(result: dict[str, Any]) -> bytes:
    """A result as the bytes of its file. Floats are rounded to six digits, which is more than they hold."""
    text = json.dumps(_rounded(result), indent=1, allow_nan=False)
    pairs = re.sub(r"\[\s+([-+.\de]+),\s+([-+.\de]+)\s+\]", r"[\1, \2]", text)  # points of curves, one a line
    return (pairs + "\n").encode()


def read_result(name: str, folder: Path = RESULTS) -> dict[str, Any] | None:
    """A kept result, or None if that was never measured."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def kept_parts(name: str) -> dict[str, Any]:
    """The parts of a kept result of a benchmark that is measured by parts; empty if it was never measured."""
    return {part: value for part, value in (read_result(name) or {}).items() if part in PARTS[name]}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, (list, tuple)) else value


def _provenance() -> dict[str, Any]:
    import torch

    from ..models.checkpoint import file_digest, list_tokenizers, load_tokenizer
    from ..video.reference_codecs import build_names

    tokenizer = load_tokenizer()
    weights = {tokenizer.id: tokenizer.digest, tokenizer.codec_id: tokenizer.codec_digest}
    for name, path in list_tokenizers(kinds=["video_tokenizer"]).items():
        weights[name] = file_digest(path)
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "version": __version__,
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "system": platform.system(),
            "python": platform.python_version(),
        },
        "torch": torch.__version__,
        "libraries": build_names(),
        "weights": weights,
    }


def _cpu() -> str:
    """The processor's name, where the system says it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
