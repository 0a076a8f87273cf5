"""Files in few bits, opened by ComfyUI's own loader and by Load Quantized Model: whether they give what the weights do.

What that is comes from a model with floating weights: those of the file, widened. For a process of its own whose Python
has ComfyUI's folder on its path; nothing of the pack is registered there when ComfyUI opens the files.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..host import quantized_layers, quantized_models, random_models
from ..models.quantization import QuantizationKind, QuantizationSettings
from ..models.quantized_files import quantize_file, read_layers, write_tensors
from ..models.quantized_formats import FORMATS, QuantizedWeight
from ..nodes.quantized_model_steps import load_model
from .generation_clips import Tell
from .patching_models import in_comfyui
from .patching_network import relative

KINDS: tuple[QuantizationKind, ...] = ("int8", "fp8", "mxfp8", "nvfp4")
_TEXT = 4096  # channels, which ComfyUI's loader takes for granted
SIZES: dict[str, dict[str, Any]] = {
    "wan": {"num_layers": 2, "dim": 256, "num_heads": 2, "ffn_dim": 512, "text_dim": _TEXT, "freq_dim": 256},
    "ltxv": {
        "num_layers": 2,
        "in_channels": 128,
        "attention_head_dim": 8,
        "num_attention_heads": 32,
        "cross_attention_dim": 256,
        "caption_channels": _TEXT,
    },
}
"""Models small enough for a test, of sizes that the loader finds in a file."""
_VIDEOS = {"wan": (16, (2, 6, 8)), "ltxv": (128, (2, 3, 4))}


def measure_saved(tell: Tell) -> dict[str, Any]:
    """By family and format: how far what loaders give lies from what the file says. ImportError without ComfyUI."""
    found = in_comfyui(try_files, list(SIZES), list(KINDS))
    for family, rows in found["families"].items():
        for kind, row in rows.items():
            core = "not known to it" if row["core"] is None else f"{row['core']:g}"
            tell(f"  {family}, {kind}: ComfyUI's loader {core}, ours {row['ours']:g}, from float {row['error']:.4f}")
    return found


@torch.inference_mode()
def try_files(families: list[str], kinds: list[QuantizationKind]) -> dict[str, Any]:
    """Each model is written, quantized from file to file, opened, and sampled."""
    version = random_models.start()
    native = quantized_layers.native_formats()
    with tempfile.TemporaryDirectory(prefix="tokenreel-") as folder:
        found = {family: _tried(family, kinds, native, Path(folder)) for family in families}
    return {"comfyui": version, "families": found}


def _tried(family: str, kinds: list[QuantizationKind], native: tuple[str, ...], folder: Path) -> dict[str, Any]:
    model, source = random_models.build(family, **SIZES[family]), folder / "source.safetensors"
    tensors = {name: each.detach() for name, each in model.model.diffusion_model.state_dict().items()}
    layout = {name: (each.dtype, tuple(each.shape)) for name, each in tensors.items()}
    write_tensors(source, layout, iter(tensors.items()), quantized_models.model_metadata(model))
    true = _sampled(model, family)
    loaders = {"core": random_models.open_file, "ours": lambda path: load_model(Path(path))[0]}

    def off(wanted: Tensor, path: Path, which: str) -> float:
        return relative(wanted, _sampled(loaders[which](str(path)), family))

    rows: dict[str, Any] = {
        "float": {**{which: off(true, source, which) for which in loaders}, "error": 0.0, "layers": {}}
    }
    for kind in kinds:
        target = folder / f"{kind}.safetensors"
        report = quantize_file(source, target, QuantizationSettings(kind))
        wanted = _sampled(_widened(model, family, target), family)
        known = FORMATS[kind].algorithm in native
        said = {"core": off(wanted, target, "core") if known else None, "ours": off(wanted, target, "ours")}
        rows[kind] = {**said, "error": relative(true, wanted), "layers": report.counts()}
    return rows


def _widened(model: Any, family: str, path: Path) -> Any:
    """A model of floats with the weights of a file."""
    made = random_models.build(family, **SIZES[family])
    state: dict[str, Tensor] = {}
    for name, each in read_layers(path):
        quantized = isinstance(each, QuantizedWeight)
        state[f"{name}.weight" if quantized else name] = each.dequantize() if quantized else each
    made.model.diffusion_model.load_state_dict(state)
    return made


def _sampled(model: Any, family: str) -> Tensor:
    channels, size = _VIDEOS[family]
    return random_models.sample(model, family, size, width=_TEXT, channels=channels)
