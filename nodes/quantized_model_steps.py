"""A MODEL quantized, saved and loaded: what the pure functions of models/ and ComfyUI's side in host/ do together."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..host import quantized_layers, quantized_models
from ..host.model_patches import check_model
from ..host.probing import Sampled, Sampling
from ..models import int8_linear
from ..models.fidelity import compare_latents
from ..models.layer_inputs import LayerInputs, is_linear, recorded
from ..models.model_files import ModelFile, read_model_file
from ..models.quantizable_layers import LayerFilter, find_preset
from ..models.quantization import Layer, QuantizationSettings, chosen_layers, is_faster, kept_report, plan
from ..models.quantization import quantized_layers as made_layers
from ..models.quantization_report import LayerReport, QuantizationReport
from ..models.quantized_files import WeightStore, file_type, quantization_metadata, write_tensors
from ..models.quantized_formats import FORMATS, QuantizedWeight, layer_config, quantize_weight
from ..models.semi_structured import SparseLinear


def _quantize(weight: Tensor, rotated: bool, smoothing: Tensor | None) -> Mapping[str, Tensor]:
    return quantize_weight(weight, "int8", rotated=rotated, smoothing=smoothing).tensors


def _dequantize(weight: Tensor, scale: Tensor, rotated: bool, smoothing: Tensor | None) -> Tensor:
    tensors = {"weight": weight, "weight_scale": scale}
    if smoothing is not None:
        tensors["pre_quant_scale"] = smoothing
    shape = (weight.shape[0], weight.shape[1])
    return QuantizedWeight("int8", shape, tensors, layer_config("int8", shape, rotated=rotated)).dequantize()


_MATH = quantized_layers.Int8Math(int8_linear.int8_linear, int8_linear.pack, int8_linear.packs, _quantize, _dequantize)


def mixed_formats() -> tuple[str, ...]:
    """What a mixed model may be made of, so that this ComfyUI's own loader opens it."""
    usual = ("int8", "fp8", "nvfp4")
    return tuple(name for name in usual if FORMATS[name].algorithm in quantized_layers.native_formats()) or usual


@dataclass(frozen=True)
class Recorded:
    """What a MODEL's layers were given while it sampled, and what it sampled."""

    inputs: dict[str, LayerInputs]
    sampled: Sampled

    def compare(self, other: Sampled) -> str:
        """How the same sampling with a quantized MODEL came out, in words."""
        seconds = other.seconds, self.sampled.seconds
        outcome = compare_latents(self.sampled.latents, other.latents, seconds=seconds[0], forwards=other.forwards)
        if outcome.error is None:
            return "sampled with it, the latents are no numbers: this format is not for this model"
        near = "" if outcome.psnr is None else f" ({outcome.psnr:.1f} dB)"
        return (
            f"sampled with it, the latents differ by {outcome.error:.2%}{near}; that took {seconds[0]:.1f} s, "
            f"{seconds[1]:.1f} s before"
        )


def record_model(model: Any, sampling: Sampling, step: Callable[[], None]) -> Recorded:
    """Samples with a MODEL and keeps what its linear layers are given; `step` is called after each step, twice.

    It samples two times: only the second is timed with everything loaded and nothing recorded.
    """
    check_model(model)
    network = model.model.diffusion_model
    names = {name: name for name, each in network.named_modules() if is_linear(each)}
    with recorded(network, names) as recorder:
        sampling.run(model, step)
    return Recorded(recorder.inputs, sampling.run(model, step))


def quantize_model(
    model: Any,
    settings: QuantizationSettings,
    *,
    kept: tuple[str, ...] = (),
    inputs: Mapping[str, LayerInputs] | None = None,
    fast: bool = False,
    store: WeightStore | None = None,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Any, QuantizationReport]:
    """A copy of a MODEL with quantized layers, and what became of it. The source is left alone.

    LoRAs on it are in the quantized weights; such as are put on the result later are added to them as for any model.
    fast: for int8 on a CPU, take more memory for speed, and keep the layers that are faster in float as they are.
    store: where the weights are to lie, by default in memory. step: called before each layer with how many are done, of
    how many; it may raise to cancel.
    """
    start, fast = time.perf_counter(), fast and str(getattr(model, "load_device", "")) == "cpu"
    if not quantized_layers.is_supported():
        raise ValueError("This ComfyUI has no layers in few bits. Update it to a version of 2026.")
    quantized_models.at_rest(model)
    network = model.model.diffusion_model
    names = list(network.state_dict())
    if any(name.endswith(".comfy_quant") for name in names):
        raise ValueError("This MODEL is quantized already. Load it in bf16, fp16 or fp32.")
    before = sum(each.nbytes for each in network.state_dict().values())
    modules = {name: each for name, each in network.named_modules() if is_linear(each)}
    found = [_layer(model, name, each) for name, each in modules.items()]
    layers = chosen_layers(found, names, LayerFilter(find_preset(names), kept))
    total, done = len(layers) * (2 if settings.kind == "mixed" else 1), iter(range(2 * len(layers) + 1))
    others = before - sum(layer.nbytes for layer in layers)
    kinds = plan(layers, settings, other_bytes=others, inputs=inputs, step=lambda: step(next(done), total))
    dtype = quantized_models.compute_dtype(model)

    def layer_of(name: str, tensors: Mapping[str, Tensor]) -> Any:
        return quantized_layers.make_layer(modules[name], tensors, dtype, _MATH, packed=fast)

    patched = {key.removeprefix(quantized_models.PART).removesuffix(".weight") for key in model.patches}
    made: dict[str, Any] = {}
    reports: list[LayerReport] = []
    wins = _trials(inputs or {})
    for layer, weight, report in made_layers(layers, kinds, settings, inputs=inputs):
        step(next(done), total)
        if weight is not None:
            new, old = layer_of(layer.name, weight.file_tensors()), modules[layer.name]
            if fast and layer.name not in patched and not wins(layer, weight, old, new):
                report = kept_report(layer)
            elif store is None:
                made[layer.name] = new
            else:
                store.add(layer.name, weight)
        reports.append(report)
    if store is not None:
        made = {name: layer_of(name, tensors) for name, tensors in store.read()}
    after = before + sum(report.nbytes - report.nbytes_before for report in reports)
    result = quantized_models.replace_layers(model, made)
    return result, QuantizationReport(before, after, reports, time.perf_counter() - start, bool(inputs))


def _layer(model: Any, name: str, module: Any) -> Layer:
    shape = (module.out_features, module.in_features)
    return Layer(name, shape, module.weight.dtype, lambda: quantized_models.layer_weight(model, name))


def _trials(inputs: Mapping[str, LayerInputs]) -> Callable[[Layer, QuantizedWeight, Any, Any], bool]:
    """Whether a layer's twin in few bits is faster here; of layers that are alike one is timed."""
    known: dict[tuple[Any, ...], bool] = {}

    def wins(layer: Layer, weight: QuantizedWeight, old: Any, new: Any) -> bool:
        seen = inputs.get(layer.name)
        alike = (*layer.shape, weight.rotated, *sorted(weight.tensors), None if seen is None else seen.rows)
        if alike not in known:
            known[alike] = is_faster(old, new, seen)
        return known[alike]

    return wins


def save_model(model: Any, path: Path, *, step: Callable[[int, int], None] = lambda done, total: None) -> str:
    """Writes a MODEL such that Load Diffusion Model opens it, without this pack; says its size and what opens it."""
    quantized_models.at_rest(model)
    if any(isinstance(each, SparseLinear) for each in model.model.diffusion_model.modules()):
        raise ValueError("Layers without two of four weights cannot be saved. Save the MODEL before Prune Model.")
    state = model.model.diffusion_model.state_dict()
    layout = {name: (file_type(tensor).dtype, tuple(tensor.shape)) for name, tensor in state.items()}
    marked = [name for name in layout if name.endswith(".comfy_quant")]
    configs = {name.removesuffix(".comfy_quant"): json.loads(bytes(state[name].tolist())) for name in marked}
    del state

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for done, (name, tensor) in enumerate(quantized_models.stored_tensors(model)):
            step(done, len(layout))
            yield name, file_type(tensor)

    metadata = {**quantized_models.model_metadata(model), **quantization_metadata(configs)}
    size = write_tensors(path, layout, tensors(), metadata)
    formats = sorted({config["format"] for config in configs.values()})
    lines = [f"{size / 1e6:.1f} MB, {len(marked)} quantized layers{' of ' * bool(formats)}{', '.join(formats)}"]
    missing = [name for name in formats if name not in quantized_layers.native_formats()]
    if missing:
        unread = ", ".join(missing)
        lines.append(f"Note: this ComfyUI does not load {unread} yet, newer ones do. Here use Load Quantized Model.")
    if any(name.endswith(".pre_quant_scale") for name in layout):
        readers = "a ComfyUI that reads pre_quant_scale, or Load Quantized Model"
        lines.append(f"Note: smoothed layers need {readers}; others give a wrong picture.")
    if quantized_models.is_patched(model):
        lines.append("Note: patches of this MODEL are not in the file. Put their nodes behind its loader.")
    return "\n".join(lines)


def check_file(path: Path) -> ModelFile:
    """What a model's file holds. Raises ValueError, in one line, for one that `load_model` does not open."""
    file = read_model_file(path)
    if quantized_layers.is_comfyui():
        formats, smoothed = _readable()
        missing = file.missing(formats, smoothed)
        if missing:
            known = ", ".join(formats) or "no layers in few bits"
            raise ValueError(
                f"{file.name} needs a ComfyUI that reads {missing}; here are read {known}. Update ComfyUI, or choose "
                "another file."
            )
    return file


def _readable() -> tuple[list[str], list[str]]:
    """Formats that `load_model` opens in this ComfyUI, and those of them whose inputs it scales."""
    ours = [FORMATS["int8"].algorithm] if quantized_layers.is_supported() else []
    native, smoothed = quantized_layers.native_formats(), quantized_layers.natively_smoothed()
    return [*dict.fromkeys([*ours, *native])], [*dict.fromkeys([*ours, *smoothed])]


def load_model(
    path: Path, *, fast: bool = False, step: Callable[[int, int], None] = lambda done, total: None
) -> tuple[Any, str]:
    """A MODEL of a file, quantized or not, whatever of that ComfyUI's own loader reads; and what it is, in words.

    fast: for int8 on a CPU, take more memory for speed, and widen the layers that are faster in float. step: called
    before each layer that is looked at for that; it may raise. Raises ValueError for what is no such file.
    """
    if not quantized_layers.is_comfyui():
        raise ValueError("A MODEL can be loaded in ComfyUI only. Run this workflow there (--on).")
    file = check_file(path)
    own = FORMATS["int8"].algorithm in file.formats
    made = quantized_layers.load_model(str(path), _MATH) if own else quantized_layers.open_natively(str(path))
    lines = [file.describe()]
    if fast and own and str(getattr(made, "load_device", "")) == "cpu":
        widened = quantized_layers.keep_fast(made, _MATH, lambda layer, twin: is_faster(layer, twin, None), step)
        some = f"{widened} of the layers in int8 run in float, which is faster here"
        lines.append(f"fast: {some if widened else 'int8 is faster here in all of its layers'}")
    elif fast:
        lines.append("Note: fast does nothing here, it is for int8 on a CPU.")
    missing = file.missing(quantized_layers.native_formats(), quantized_layers.natively_smoothed())
    lines.append(
        f"Load Diffusion Model of this ComfyUI does not open it: it does not read {missing}"
        if missing
        else "Load Diffusion Model opens it as well"
    )
    return made, "\n".join(lines)
