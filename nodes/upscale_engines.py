"""What frames are upscaled by: the networks that come with the pack, a model file, or ComfyUI's UPSCALE_MODEL."""

import math
from pathlib import Path
from typing import Any

import torch

from ..host import resources
from ..host.upscale_models import CoreUpscaler, SparingUpscaler, choose_dtype, open_with_spandrel
from ..models.checkpoint import CheckpointError, load_upscaler, read_metadata
from ..models.compact_files import is_compact, load_compact
from ..models.upscaler import BicubicUpscaler, NetUpscaler
from ..video.target_size import TargetSize

ENGINES = ("auto", "x2-m", "x2-s", "x4-m", "bicubic")
_MOST_BICUBIC = 8
_MOST_OF_X2 = 2.1  # times; a few percent more are left to resizing


def scale_of(engine: str) -> int:
    """How many times as large that engine makes frames where no size is asked for."""
    return 4 if engine.startswith("x4") else 2


def chosen_engine(engine: str, target: TargetSize, width: int, height: int) -> str:
    """Which engine frames of that size get: that of the name; for auto x4-m where they become clearly more than twice
    as large, else x2-m. none where they do not become larger, and are only resized.
    """
    times = target.times(width, height)
    if times <= 1:
        return "none"
    return ("x4-m" if times > _MOST_OF_X2 else "x2-m") if engine == "auto" else engine


def load_engine(
    engine: str, target: TargetSize, width: int, height: int, *, precision: str = "auto"
) -> SparingUpscaler:
    """The engine that is chosen for frames of that size, on the device that networks run on."""
    name, device = chosen_engine(engine, target, width, height), resources.device()
    if name in ("none", "bicubic"):
        scale = 1 if name == "none" else min(_MOST_BICUBIC, math.ceil(target.times(width, height)))
        return SparingUpscaler(BicubicUpscaler(scale, device))
    return SparingUpscaler(load_upscaler(name, device, choose_dtype(precision)))


def from_socket(upscale_model: Any, *, precision: str = "auto") -> SparingUpscaler:
    """ComfyUI's UPSCALE_MODEL. Raises TypeError for anything else."""
    return SparingUpscaler(CoreUpscaler(upscale_model, _asked(precision)))


def from_file(path: Path, *, precision: str = "auto") -> SparingUpscaler:
    """The upscaler in a safetensors file: ours, a compact network, or what spandrel opens where it is installed.

    Raises ValueError for anything else.
    """
    if path.suffix.lower() != ".safetensors":
        raise ValueError(f"Cannot open {path.name!r}: only .safetensors is read, which cannot run code. Convert it.")
    if is_compact(path):
        dtype = choose_dtype(precision)
        if _is_ours(path):
            return SparingUpscaler(load_upscaler(path, resources.device(), dtype))
        return SparingUpscaler(NetUpscaler(load_compact(path), resources.device(), dtype))
    return SparingUpscaler(CoreUpscaler(open_with_spandrel(path), _asked(precision)))


def _is_ours(path: Path) -> bool:
    try:
        return read_metadata(path)["kind"] == "upscaler"
    except CheckpointError:
        return False


def _asked(precision: str) -> torch.dtype | None:
    """None where the model decides, too."""
    return None if precision == "auto" else choose_dtype(precision)
