"""What the file of a diffusion model says of itself: how its layers are held, before their weights are read.

Only safetensors is opened, which cannot run code. What a file cannot be is said here, so that nobody has to guess from
an error in the middle of loading.
"""

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .quantized_files import METADATA, PREFIX
from .quantized_formats import FORMATS, GROUP

MOST_HEADER = 16 << 20
"""Bytes."""
MOST_TENSORS = 20_000
SCALED_FP8 = "scaled_fp8"
"""What files of 2025 hold in 8 bits, before layers said themselves how they are to be read."""
_MOST_CONFIG = 4096  # bytes
_OTHER_FILES = (  # what they begin with, what they are, and what is to be done
    (b"GGUF", "a GGUF file", "Choose a .safetensors file, or a loader for GGUF"),
    (b"PK\x03\x04", "a PyTorch file, which can run code", "Convert it to safetensors first"),
    (b"\x80", "a file of Python objects, which can run code", "Convert it to safetensors first"),
    (b"version ", "a pointer of Git LFS", "Download the file that it stands for"),
    (b"<", "a web page", "Download the file again"),
)
_CHECKED = ("int8", "mxfp8", "nvfp4")  # whose scales are many; of others ComfyUI knows more kinds than we write
_NAMES = {each.algorithm: name for name, each in FORMATS.items()}


@dataclass(frozen=True)
class ModelFile:
    """How the layers of a file are held."""

    name: str
    nbytes: int
    formats: Mapping[str, int]
    """How many layers, by what ComfyUI calls their format."""
    smoothed: Mapping[str, int]
    """How many of them scale their inputs first."""
    rotated: int
    """How many of them turn their inputs first."""
    floats: Mapping[str, int]
    """How many weights `[N, K]` are held as they are, by what safetensors calls their type."""

    def missing(self, formats: Collection[str], smoothed: Collection[str]) -> str:
        """What a loader lacks for it that reads these formats, and smoothing in those; empty where it lacks nothing."""
        unknown = [name for name in self.formats if name not in (*formats, SCALED_FP8)]
        if unknown:
            return ", ".join(unknown)
        rough = [name for name in self.smoothed if name not in smoothed]
        return f"pre_quant_scale in {', '.join(rough)}" if rough else ""

    def describe(self) -> str:
        """Its name, its size and its layers, in two lines."""
        size = f"{self.nbytes / 1e9:.2f} GB" if self.nbytes >= 1e9 else f"{self.nbytes / 1e6:.1f} MB"
        parts = [f"{count} in {_NAMES.get(name, name)}" for name, count in self.formats.items()]
        parts += [f"{count} in {name.lower()}" for name, count in self.floats.items()]
        done = [(self.rotated, "turned"), (sum(self.smoothed.values()), "smoothed")]
        inputs = " and ".join(f"{count} {what}" for count, what in done if count)
        return f"{self.name}, {size}\nLayers: {', '.join(parts) or 'none'}" + (f"; inputs of {inputs}" * bool(inputs))


def read_model_file(path: Path) -> ModelFile:
    """What the header of a file says, and what is written beside its layers.

    Raises ValueError, in one line, for what is no whole safetensors file, or has a layer that is not what it says.
    """
    _check_start(path)
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            slices = {name: file.get_slice(name) for name in names[:MOST_TENSORS]}
            held = {name: (str(each.get_dtype()), tuple(each.get_shape())) for name, each in slices.items()}
            marks = [name for name in held if name.endswith(".comfy_quant")]
            large = [name for name in marks if math.prod(held[name][1]) > _MOST_CONFIG]
            told = {} if large else {_layer(name): bytes(file.get_tensor(name).tolist()) for name in marks}
            metadata = dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path.name} is not a readable safetensors file ({error}). Fetch it again.") from error
    except (TypeError, ValueError, OverflowError) as error:  # a mark that is no text
        raise ValueError(f"{path.name}: {error}") from error
    if len(names) > MOST_TENSORS:
        raise ValueError(f"{path.name} has {len(names):,} tensors; more than {MOST_TENSORS:,} are not read.")
    if large:
        raise ValueError(f"{path.name}: {large[0]} is too long to say how a layer is read. Save the model again.")
    configs = {name: _config(path, name, text) for name, text in told.items()} | _listed(path, metadata, held)
    return _summed_up(path, held, configs)


def _check_start(path: Path) -> None:
    """ValueError for what is another kind of file, or is not all there."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read ({error.strerror}). Check its permissions.") from error
    length = int.from_bytes(start, "little")
    whole = len(start) == 8 and 0 < length <= size - 8
    if whole and length <= MOST_HEADER:
        return
    for begin, what, way_out in _OTHER_FILES:
        if start.startswith(begin):
            raise ValueError(f"{path.name} is {what}, not safetensors. {way_out}.")
    if whole:
        raise ValueError(f"{path.name} has a header of {length / 1e6:.0f} MB; more than 16 MB are not read.")
    raise ValueError(f"{path.name} is not a whole safetensors file. Fetch it again.")


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _config(path: Path, layer: str, text: bytes | str) -> dict[str, Any]:
    try:
        config = json.loads(text)
        if isinstance(config["format"], str):
            return config
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise ValueError(f"{path.name}, layer {layer}: it does not say how it is read. Save the model again.")


def _listed(path: Path, metadata: Mapping[str, str], held: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the metadata says of layers that are there, which counts more than what stands beside them."""
    if METADATA not in metadata:
        return {}
    try:
        layers = dict(json.loads(metadata[METADATA])["layers"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path.name} has a damaged {METADATA}. Save the model again.") from error
    found = {}
    for name, config in layers.items():
        full = next((each for each in (name, PREFIX + name) if f"{each}.weight" in held), None)
        if full is not None:
            found[full] = _config(path, full, json.dumps(config))
    return found


def _summed_up(
    path: Path, held: Mapping[str, tuple[str, tuple[int, ...]]], configs: Mapping[str, Mapping[str, Any]]
) -> ModelFile:
    formats, smoothed, floats, rotated = Counter[str](), Counter[str](), Counter[str](), 0
    for name, config in configs.items():
        shapes = {part: shape for part in _PARTS if (shape := held.get(f"{name}.{part}", ("", None))[1]) is not None}
        _check_layer(path, name, config, shapes)
        formats[config["format"]] += 1
        rotated += bool(config.get("convrot"))
        smoothed[config["format"]] += "pre_quant_scale" in shapes
    for name, (dtype, shape) in held.items():
        layer = _layer(name)
        if not name.endswith(".weight") or len(shape) != 2 or layer in configs:
            continue
        if f"{layer}.scale_weight" in held:
            formats[SCALED_FP8] += 1
        else:
            floats[dtype] += 1
    return ModelFile(path.name, path.stat().st_size, dict(formats), dict(+smoothed), rotated, dict(floats))


_PARTS = ("weight", "weight_scale", "weight_scale_2", "pre_quant_scale")


def _check_layer(path: Path, name: str, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """ValueError where the parts of a layer do not fit each other, as far as formats of ours go."""
    kind, weight = _NAMES.get(config["format"], ""), shapes.get("weight", ())
    if kind not in _CHECKED:
        return
    if len(weight) != 2:
        raise ValueError(f"{path.name}, layer {name}: no weight of a linear layer in {kind}. Save the model again.")
    N, K = weight[0], weight[1] * (2 if kind == "nvfp4" else 1)
    for part, (_, shape) in FORMATS[kind].layout(N, K).items():
        fits = {math.prod(shape), 1} if kind == "int8" and part == "weight_scale" else {math.prod(shape)}
        if part not in shapes or math.prod(shapes[part]) not in fits:
            raise ValueError(f"{path.name}, layer {name}: its {part} does not fit its weight. Save the model again.")
    if "pre_quant_scale" in shapes and math.prod(shapes["pre_quant_scale"]) != K:
        raise ValueError(f"{path.name}, layer {name}: its pre_quant_scale does not fit. Save the model again.")
    if config.get("convrot") and (config.get("convrot_groupsize", GROUP) != GROUP or K % GROUP):
        group = str(config.get("convrot_groupsize", GROUP))[:20]
        raise ValueError(f"{path.name}, layer {name}: turned in groups of {group}; only {GROUP} is read.")
