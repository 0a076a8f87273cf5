"""Checkpoints with quantized layers, as ComfyUI's Load Diffusion Model opens them, read and written layer by layer.

Beside the tensors of `QuantizedWeight.file_tensors` the metadata lists all quantized layers once more, under
`_quantization_metadata`: loaders look for either. One layer is in memory at a time, whatever the size of the file.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..tokens.whole_files import whole_file
from .quantizable_layers import LayerFilter, find_preset
from .quantization import Layer, QuantizationSettings, chosen_layers, plan, quantized_layers
from .quantization_report import LayerReport, QuantizationReport
from .quantized_formats import QuantizedWeight, file_layout, layer_config, read_weight

METADATA = "_quantization_metadata"
PREFIX = "model.diffusion_model."
"""What files with more than a diffusion model put before its names; nothing else in them is quantized."""
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_ALIGNED = 64  # bytes
_Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


def write_tensors(
    path: Path, layout: _Layout, tensors: Iterable[tuple[str, Tensor]], metadata: Mapping[str, str]
) -> int:
    """Writes a safetensors file of tensors that come one by one, in any order; its size in bytes.

    layout: type and shape of each, which stand in front of the file. The file is written whole or not at all. Raises
    ValueError where a tensor is missing or is not what `layout` says.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset, places = 0, {}
    for name in sorted(layout, key=lambda each: (-layout[each][0].itemsize, each)):  # so that all are aligned
        dtype, shape = layout[name]
        if dtype not in _NAMES:
            raise ValueError(f"Invalid type {dtype} of {name}. Supported are {', '.join(_DTYPES)}.")
        end = offset + dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        places[name], offset = offset, end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with whole_file(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors:
            if name not in places or (tensor.dtype, tuple(tensor.shape)) != tuple(layout[name]):
                raise ValueError(f"Invalid tensor {name}: {tensor.dtype}, {tuple(tensor.shape)} was not announced.")
            file.seek(8 + len(text) + places.pop(name))
            file.write(_bytes(tensor))
        if places:
            raise ValueError(f"Missing tensors: {', '.join(sorted(places)[:5])}.")
    return 8 + len(text) + offset


def file_type(tensor: Tensor) -> Tensor:
    """The tensor in a type that all readers of safetensors know: exponents of 8 bits go as bytes."""
    return tensor.view(torch.uint8) if str(tensor.dtype) == "torch.float8_e8m0fnu" else tensor


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def quantization_metadata(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What the metadata of a file says of its quantized layers. configs: by the layer's full name."""
    return {METADATA: json.dumps({"format_version": "1.0", "layers": dict(configs)})} if configs else {}


def quantize_file(
    source: Path,
    target: Path,
    settings: QuantizationSettings,
    *,
    accept: LayerFilter | None = None,
    step: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> QuantizationReport:
    """Quantizes a model's file into another, by its weights alone.

    step: called with how much is done, of how much, and a name, before each tensor; it may raise to cancel, and then
    nothing is written. Raises ValueError for a file that cannot be read, is quantized already or has no such layers.
    """
    start = time.perf_counter()
    layout, metadata = _read_layout(source)
    prefix = _prefix(layout)
    before = sum(dtype.itemsize * math.prod(shape) for dtype, shape in layout.values())
    layers = _layers(source, layout, prefix, accept)
    rounds = 2 if settings.kind == "mixed" else 1
    total, count = len(layout) + (rounds - 1) * len(layers), iter(range(len(layout) + rounds * len(layers)))
    others = before - sum(layer.nbytes for layer in layers)
    kinds = plan(layers, settings, other_bytes=others, step=lambda: step(next(count), total, "comparing formats"))
    if not layers or (not kinds and settings.kind != "mixed"):
        raise ValueError(f"{source.name} has no layer to quantize to {settings.kind}. Choose a diffusion model's file.")
    made: list[LayerReport] = []
    announced, configs = _announced(layout, layers, kinds, settings, prefix)
    by_name = {f"{prefix}{layer.name}.weight": layer for layer in layers if layer.name in kinds}

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name in layout:
            step(next(count), total, name)
            layer = by_name.get(name)
            if layer is None:
                yield name, _read(source, name)
                continue
            for _, weight, report in quantized_layers([layer], kinds, settings):
                made.append(report)
                assert weight is not None
                for part, tensor in weight.file_tensors().items():
                    yield f"{prefix}{layer.name}.{part}", tensor

    write_tensors(target, announced, tensors(), {**metadata, **quantization_metadata(configs)})
    kept = [
        report for layer in layers if layer.name not in kinds for *_, report in quantized_layers([layer], {}, settings)
    ]
    after = sum(dtype.itemsize * math.prod(shape) for dtype, shape in announced.values())
    return QuantizationReport(before, after, made + kept, time.perf_counter() - start, measured=False)


def _announced(
    layout: _Layout, layers: list[Layer], kinds: Mapping[str, str], settings: QuantizationSettings, prefix: str
) -> tuple[dict[str, tuple[torch.dtype, tuple[int, ...]]], dict[str, dict[str, Any]]]:
    """What the new file will hold, and what it says of each quantized layer."""
    announced, configs = dict(layout), {}
    rotated = None if settings.rotation else False  # wherever that is possible, or nowhere
    for layer in layers:
        kind = kinds.get(layer.name)
        if kind is None:
            continue
        del announced[f"{prefix}{layer.name}.weight"]
        for part, (dtype, shape) in file_layout(kind, layer.shape, rotated=rotated).items():
            announced[f"{prefix}{layer.name}.{part}"] = dtype, shape
        configs[f"{prefix}{layer.name}"] = layer_config(kind, layer.shape, rotated=rotated)
    return announced, configs


class WeightStore:
    """Quantized weights in a file of their own, read back as they are used: they take no memory that is not to spare.

    Use it in a `with` block. The file has no name any more after that, and goes with the last tensor of it; where the
    system does not allow that, it goes with its folder.
    """

    def __init__(self, path: Path):
        self._path = path
        self._layouts: dict[str, dict[str, tuple[int, torch.dtype, tuple[int, ...]]]] = {}
        self._file = path.open("wb")

    def __enter__(self) -> "WeightStore":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        with contextlib.suppress(PermissionError):  # in use, on Windows
            self._path.unlink(missing_ok=True)

    def add(self, name: str, weight: QuantizedWeight) -> None:
        """Writes a weight; it may be freed then."""
        places = {}
        for part, tensor in weight.file_tensors().items():
            self._file.write(b"\0" * (-self._file.tell() % _ALIGNED))
            places[part] = self._file.tell(), tensor.dtype, tuple(tensor.shape)
            self._file.write(_bytes(tensor))
        self._layouts[name] = places

    def read(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """All layers' `file_tensors`, after which none can be added."""
        self._file.close()
        size = self._path.stat().st_size
        held = torch.from_file(str(self._path), shared=False, size=size, dtype=torch.uint8) if size else torch.zeros(0)
        for name, places in self._layouts.items():
            yield (
                name,
                {
                    part: held[start : start + dtype.itemsize * math.prod(shape)].view(dtype).reshape(shape)
                    for part, (start, dtype, shape) in places.items()
                },
            )


def read_layers(path: Path) -> Iterator[tuple[str, QuantizedWeight | Tensor]]:
    """All that a file holds: quantized layers by their names without `.weight`, other tensors by theirs.

    Raises ValueError for a file that cannot be read, or a layer that is not what it says.
    """
    layout, metadata = _read_layout(path, quantized=True)
    listed = json.loads(metadata.get(METADATA, "{}")).get("layers", {})
    names = {name.removesuffix(".comfy_quant") for name in layout if name.endswith(".comfy_quant")} | set(listed)
    taken = set()
    for name in sorted(names):
        parts = {part: f"{name}.{part}" for part in _PARTS if f"{name}.{part}" in layout}
        taken.update(parts.values())
        tensors = {part: _read(path, full) for part, full in parts.items()}
        if "comfy_quant" not in tensors:
            tensors["comfy_quant"] = torch.tensor(list(json.dumps(listed[name]).encode()), dtype=torch.uint8)
        try:
            yield name, read_weight(tensors)
        except ValueError as error:
            raise ValueError(f"{path.name}, layer {name}: {error}") from error
    for name in layout:
        if name not in taken:
            yield name, _read(path, name)


_PARTS = ("weight", "weight_scale", "weight_scale_2", "input_scale", "pre_quant_scale", "comfy_quant")


def _read_layout(path: Path, *, quantized: bool = False) -> tuple[dict[str, Any], dict[str, str]]:
    """Types and shapes of all tensors of a file, and its metadata."""
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in list(file.keys())}
            unknown = {each.get_dtype() for each in slices.values()} - set(_DTYPES)
            known = {name: each for name, each in slices.items() if each.get_dtype() in _DTYPES}
            found = {name: (_DTYPES[each.get_dtype()], tuple(each.get_shape())) for name, each in known.items()}
            metadata = dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path.name} is not a readable safetensors file ({error}). Fetch it again.") from error
    if unknown:
        raise ValueError(f"{path.name} has tensors of the types {', '.join(sorted(unknown))}, which are not supported.")
    low = any(name.endswith(("weight_scale", "comfy_quant", "scale_weight", "scaled_fp8")) for name in found)
    if not quantized and (low or any(dtype.itemsize == 1 and dtype.is_floating_point for dtype, _ in found.values())):
        raise ValueError(f"{path.name} is quantized already. Choose the model in bf16, fp16 or fp32.")
    return found, metadata


def model_names(path: Path) -> list[str]:
    """Names of all tensors of the diffusion model in a file, by which its family is told (`find_preset`).

    Raises ValueError as `quantize_file` does.
    """
    return _names(_read_layout(path)[0])


def _names(layout: _Layout) -> list[str]:
    prefix = _prefix(layout)
    return [name[len(prefix) :] for name in layout if name.startswith(prefix)]


def _prefix(layout: _Layout) -> str:
    return PREFIX if any(name.startswith(PREFIX) for name in layout) else ""


def _layers(path: Path, layout: _Layout, prefix: str, accept: LayerFilter | None) -> list[Layer]:
    names = _names(layout)
    accept = accept or LayerFilter(find_preset(names))
    layers = []
    for name in names:
        dtype, shape = layout[prefix + name]
        if name.endswith(".weight") and len(shape) == 2 and dtype.is_floating_point:
            full = prefix + name
            layers.append(Layer(name.removesuffix(".weight"), (shape[0], shape[1]), dtype, _reader(path, full)))
    return chosen_layers(layers, names, accept)


def _reader(path: Path, name: str) -> Callable[[], Tensor]:
    return lambda: _read(path, name)


def _read(path: Path, name: str) -> Tensor:
    """Opened anew for each: what was read before is given back to the system."""
    with safe_open(path, "pt") as file:
        return file.get_tensor(name)
