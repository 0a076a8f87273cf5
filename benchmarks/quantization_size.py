"""How large models are in few bits, as files and in memory, and how much memory it takes to make them.

The models have the layers of Wan 2.1 under ComfyUI's names, and random weights: those decide nothing here.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..host import resources
from ..host.kitchen import kitchen_tensors, kitchen_version
from ..models.int8_linear import QuantizedLinear
from ..models.quantizable_layers import LayerFilter
from ..models.quantization import QuantizationKind, QuantizationSettings, quantize_network
from ..models.quantized_files import quantize_file, read_layers, write_tensors
from ..models.quantized_formats import QuantizedWeight, quantize_weight
from .generation_clips import Tell
from .patching_models import in_comfyui

SOURCES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
KINDS: tuple[QuantizationKind, ...] = ("int8", "fp8")
STREAMED, IN_PLACE, AT_ONCE = "from file to file", "in memory, in place", "all at once"
_VALUES = 1 << 20  # weights that are drawn; all layers have the same


class WanSizes(NamedTuple):
    """What the shapes of a WanModel follow from."""

    dim: int
    ffn: int
    layers: int
    text: int = 4096


WHOLE = WanSizes(1536, 8960, 30)
"""Wan 2.1 1.3B."""


def wan_shapes(sizes: WanSizes) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights of ComfyUI's WanModel, text to video."""
    dim, ffn, layers, text = sizes
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, inputs: int, outputs: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

    shapes["patch_embedding.weight"], shapes["patch_embedding.bias"] = (dim, 16, 1, 2, 2), (dim,)
    linear("text_embedding.0", text, dim)
    linear("text_embedding.2", dim, dim)
    linear("time_embedding.0", 256, dim)
    linear("time_embedding.2", dim, dim)
    linear("time_projection.1", dim, 6 * dim)
    for block in range(layers):
        name = f"blocks.{block}"
        shapes[f"{name}.modulation"] = (1, 6, dim)
        shapes[f"{name}.norm3.weight"] = shapes[f"{name}.norm3.bias"] = (dim,)
        for attention in ("self_attn", "cross_attn"):
            for part in "qkvo":
                linear(f"{name}.{attention}.{part}", dim, dim)
            for part in "qk":
                shapes[f"{name}.{attention}.norm_{part}.weight"] = (dim,)
        linear(f"{name}.ffn.0", dim, ffn)
        linear(f"{name}.ffn.2", ffn, dim)
    shapes["head.modulation"] = (1, 2, dim)
    linear("head.head", dim, 64)
    return shapes


def write_model(path: Path, sizes: WanSizes, dtype: torch.dtype) -> int:
    """A file of such a model, layer by layer; its size in bytes."""
    values = torch.randn(_VALUES, generator=torch.Generator().manual_seed(0)).to(dtype)
    shapes = wan_shapes(sizes)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name, shape in shapes.items():
            count = math.prod(shape)
            yield name, values.repeat(-(-count // _VALUES))[:count].reshape(shape)

    return write_tensors(path, {name: (dtype, shape) for name, shape in shapes.items()}, tensors(), {})


def measure_size(tell: Tell, sizes: WanSizes = WHOLE) -> dict[str, Any]:
    """By what the model is in: its size, and by format those of the quantized one as a file and in memory."""
    found: dict[str, Any] = {"sizes": sizes._asdict(), "sources": {}}
    with tempfile.TemporaryDirectory(prefix="tokenreel-") as folder:
        for name, dtype in SOURCES.items():
            source = Path(folder, "source.safetensors")
            whole = write_model(source, sizes, dtype)
            rows = {kind: in_comfyui(sizes_of, source, kind) for kind in KINDS}
            found["sources"][name] = {"bytes": whole, "formats": rows}
            for kind, row in rows.items():
                tell(f"  {kind} of {name}: file {row['file'] / whole:.3f}x, in memory {row['memory'] / whole:.3f}x")
    return found


def sizes_of(source: Path, kind: QuantizationKind) -> dict[str, Any]:
    """Bytes of a model quantized layer by layer: of its file, of its layers in memory, and of comfy-kitchen's."""
    started, target = time.perf_counter(), source.with_name(f"{kind}.safetensors")
    report = quantize_file(source, target, QuantizationSettings(kind))
    seconds = time.perf_counter() - started
    parts = (each for _, each in read_layers(target))
    held = sum((QuantizedLinear(part) if isinstance(part, QuantizedWeight) else part).nbytes for part in parts)
    row = {"file": target.stat().st_size, "memory": held, "seconds": seconds, "counts": report.counts()}
    target.unlink()
    others = report.nbytes_before - sum(layer.nbytes_before for layer in report.layers)
    return row | _kitchens(kind, [layer.shape for layer in report.layers], others)


def _kitchens(kind: str, shapes: list[tuple[int, int]], others: int) -> dict[str, Any]:
    """Bytes of the same model with comfy-kitchen's values and scales; nothing where it is not installed."""
    try:
        each = {shape: sum(part.nbytes for part in kitchen_tensors(torch.ones(shape), kind)) for shape in set(shapes)}
        return {"kitchen": others + sum(each[shape] for shape in shapes), "kitchen_version": kitchen_version()}
    except ImportError:
        return {}


def measure_memory(tell: Tell, sizes: WanSizes = WHOLE) -> dict[str, Any]:
    """Peak memory of quantizing a model from bfloat16 to int8, each way in a new process."""
    found: dict[str, Any] = {"sizes": sizes._asdict()}
    with tempfile.TemporaryDirectory(prefix="tokenreel-") as folder:
        source = Path(folder, "source.safetensors")
        whole = write_model(source, sizes, torch.bfloat16)
        ways: dict[str, Callable[[Path], dict[str, Any]]] = {STREAMED: streamed, IN_PLACE: in_place, AT_ONCE: at_once}
        found["bytes"], found["ways"] = whole, {name: in_comfyui(way, source) for name, way in ways.items()}
    for name, way in found["ways"].items():
        tell(f"  {name}: peak {way['peak'] / whole:.2f}x of {whole / 1e9:.2f} GB, {way['seconds']:.0f} s")
    return found


def streamed(source: Path) -> dict[str, Any]:
    """As the pack does it."""
    return _peak(lambda: quantize_file(source, source.with_name("streamed.safetensors"), QuantizationSettings("int8")))


def in_place(source: Path) -> dict[str, Any]:
    """A network that is in memory already, layer after layer; reading it counts."""

    def work() -> None:
        quantize_network(_network(source), QuantizationSettings("int8"), only_faster=False)

    return _peak(work)


def _network(source: Path) -> nn.Module:
    """Modules that hold the weights of a file, under their names."""
    net, shapes = nn.Module(), wan_shapes(WHOLE._replace(layers=1))
    linear = {name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) == 2 and "norm" not in name}
    for name, weight in read_layers(source):
        assert isinstance(weight, Tensor)
        *path, last = name.split(".")
        module = net
        for number, part in enumerate(path):
            if not hasattr(module, part):
                kind = ".".join(path) if path[0] != "blocks" else ".".join(["blocks", "0", *path[2:]])
                leaf = number == len(path) - 1 and kind in linear
                module.add_module(part, nn.Linear(1, 1) if leaf else nn.Module())
            module = module.get_submodule(part)
        setattr(module, last, nn.Parameter(weight.clone(), requires_grad=False))
        if isinstance(module, nn.Linear) and last == "weight":
            module.out_features, module.in_features = weight.shape
    return net


def at_once(source: Path) -> dict[str, Any]:
    """The plain way: the whole file is read, all is quantized, all is written."""

    def work() -> None:
        weights, accept = load_file(source), LayerFilter("wan")
        made: dict[str, Tensor] = {}
        for name, weight in weights.items():
            layer = name.removesuffix(".weight")
            if layer != name and accept(layer, tuple(weight.shape)):
                parts = quantize_weight(weight, "int8").file_tensors()
                made |= {f"{layer}.{part}": each for part, each in parts.items()}
            else:
                made[name] = weight
        save_file(made, source.with_name("whole.safetensors"))

    return _peak(work)


def _peak(work: Callable[[], object]) -> dict[str, Any]:
    torch.set_num_threads(1)
    loaded, started = resources.peak_memory() or 0, time.perf_counter()
    work()
    return {"loaded": loaded, "peak": resources.peak_memory() or 0, "seconds": time.perf_counter() - started}
