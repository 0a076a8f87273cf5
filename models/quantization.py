"""Quantizes a model layer by layer: which layers, in which format, at what error, one of them in memory at a time.

Where a model's weights come from and where they go is the caller's affair: a file (models/quantized_files.py), a
ComfyUI MODEL (host/quantized_models.py), or a network of ours (`quantize_network`).
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from .int8_linear import QuantizedLinear, time_both
from .layer_inputs import LayerInputs, is_linear, quantize_layer, recorded
from .mixed_precision import KEPT, Choice, choose
from .quantizable_layers import LayerFilter, count_blocks, find_preset
from .quantization_report import LayerReport, QuantizationReport
from .quantized_formats import FORMATS, QuantizedWeight

QuantizationKind = Literal["int8", "fp8", "mxfp8", "nvfp4", "mixed"]
KINDS: tuple[QuantizationKind, ...] = get_args(QuantizationKind)
"""A format for all layers that take it, or `mixed`: for each layer its own, by size or error."""
_ROWS = 1024  # tokens at which a layer is timed where none were seen


@dataclass(frozen=True)
class QuantizationSettings:
    """What is asked for."""

    kind: QuantizationKind = "int8"
    size: float | None = None
    """For `mixed`: the share of its bytes that the model may keep at most, in (0, 1]."""
    error: float | None = None
    """For `mixed`: the error that it may have at most, see `model_error`."""
    formats: tuple[str, ...] = ("int8", "nvfp4")
    """For `mixed`: what may be chosen from, besides leaving a layer alone."""
    rotation: bool = True
    """For int8: whether inputs may be turned in groups, which spreads what sticks out."""
    smoothing: bool = False
    """For int8 with inputs recorded: whether they may be smoothed. ComfyUI reads that from late 2026 on."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"Invalid kind {self.kind[:40]!r}. Supported are {', '.join(KINDS)}.")
        if self.kind == "mixed" and (self.size is None) == (self.error is None):
            raise ValueError(
                "A mixed model needs either a size or an error that it may have at most. Give one of them."
            )
        size_fits = self.size is None or 0 < self.size <= 1
        if not size_fits or not (self.error is None or self.error >= 0):
            raise ValueError(
                f"Invalid limits {self.size}, {self.error}. A size lies in (0, 1], an error is at least 0."
            )
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown or not self.formats:
            raise ValueError(f"Invalid formats {self.formats}. Supported are {', '.join(FORMATS)}.")

    @property
    def candidates(self) -> tuple[str, ...]:
        return self.formats if self.kind == "mixed" else (self.kind,)


@dataclass(frozen=True)
class Layer:
    """A linear layer that may be quantized."""

    name: str
    shape: tuple[int, int]
    dtype: torch.dtype
    read: Callable[[], Tensor] = field(repr=False)
    """Its weight `[N, K]`, fetched when it is needed."""

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.dtype.itemsize


def chosen_layers(layers: Iterable[Layer], names: Iterable[str], asked: LayerFilter | None = None) -> list[Layer]:
    """Those that may be quantized. names: of all tensors of the model, by which its family is told."""
    known = list(names)
    accept = asked or LayerFilter(find_preset(known))
    blocks = count_blocks(known)
    return [layer for layer in layers if accept(layer.name, layer.shape, blocks)]


def plan(
    layers: Iterable[Layer],
    settings: QuantizationSettings,
    *,
    other_bytes: int = 0,
    inputs: Mapping[str, LayerInputs] | None = None,
    importance: Mapping[str, float] | None = None,
    step: Callable[[], None] = lambda: None,
) -> dict[str, str]:
    """By layer, the format that it gets. What fits no format is left out: it stays as it is.

    other_bytes: what else the model holds, which `size` counts with it. importance: of `weigh_layers`, for a model of
    some size. step: called after each layer; it may raise.
    """
    known = inputs or {}
    if settings.kind != "mixed":
        return {layer.name: settings.kind for layer in layers if FORMATS[settings.kind].fits(layer.shape)}
    choices: dict[str, list[Choice]] = {}
    total = other_bytes
    for layer in layers:
        total += layer.nbytes
        weight = layer.read()
        kept = Choice(KEPT, layer.nbytes, 0.0)
        choices[layer.name] = [kept, *_choices(weight, layer, settings, known.get(layer.name))]
        del weight
        step()
    if settings.size is not None:
        least = other_bytes + sum(min(each.nbytes for each in some) for some in choices.values())
        if least > total * settings.size:
            raise ValueError(
                f"Invalid size {settings.size:.1%}: with the fewest bits in all layers that may have fewer, this model "
                f"keeps {math.ceil(1000 * least / total) / 10:.1f}%. Ask for that or more."
            )
        made = choose(choices, most_bytes=int(total * settings.size) - other_bytes, importance=importance)
    else:
        made = choose(choices, most_error=settings.error)
    return {name: choice.kind for name, choice in made.items() if choice.kind != KEPT}


def _choices(
    weight: Tensor, layer: Layer, settings: QuantizationSettings, inputs: LayerInputs | None
) -> Iterator[Choice]:
    for kind in settings.formats:
        if FORMATS[kind].fits(layer.shape):
            made, error = quantize_layer(weight, kind, inputs, rotation=settings.rotation, smoothing=settings.smoothing)
            yield Choice(kind, made.nbytes, error)


def kept_report(layer: Layer) -> LayerReport:
    """Of a layer that stays as it is."""
    return LayerReport(layer.name, KEPT, layer.shape, layer.nbytes, layer.nbytes, 0.0)


def quantized_layers(
    layers: Iterable[Layer],
    kinds: Mapping[str, str],
    settings: QuantizationSettings,
    *,
    inputs: Mapping[str, LayerInputs] | None = None,
) -> Iterator[tuple[Layer, QuantizedWeight | None, LayerReport]]:
    """Each layer with its weight in few bits, or None where it stays as it is; one at a time.

    kinds: of `plan`. Take each weight away before asking for the next.
    """
    known = inputs or {}
    for layer in layers:
        kind = kinds.get(layer.name)
        if kind is None:
            yield layer, None, kept_report(layer)
            continue
        made, error = quantize_layer(
            layer.read(), kind, known.get(layer.name), rotation=settings.rotation, smoothing=settings.smoothing
        )
        yield layer, made, LayerReport(layer.name, kind, layer.shape, layer.nbytes, made.nbytes, error)
        del made


# -- our own networks


OUR_NETWORKS = QuantizationSettings(rotation=False, smoothing=True)
"""int8 for layers of few inputs: turning those costs as much as the layer, smoothing them next to nothing."""


def linear_layers(net: nn.Module) -> list[Layer]:
    """All linear layers of a network, by the names of their modules."""
    found = [(name, each) for name, each in net.named_modules() if is_linear(each)]
    return [_layer(name, each) for name, each in found]


def _layer(name: str, module: nn.Module) -> Layer:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return Layer(name, (weight.shape[0], weight.shape[1]), weight.dtype, lambda: module.weight.detach())  # type: ignore[union-attr]


_WEIGHED = "fp8"  # takes all layers that other formats do, and errs alike in all


def weigh_layers(net: nn.Module, layers: Iterable[Layer], run: Callable[[], Tensor]) -> dict[str, float]:
    """By layer, what its squared error counts in what comes out of the network, by how much a known error changes that.

    run: runs the network, the same each time; once for each layer. The network is afterwards as it was.
    """
    exact, found = run(), {}
    for layer in layers:
        if not FORMATS[_WEIGHED].fits(layer.shape):
            continue
        made, error = quantize_layer(layer.read(), _WEIGHED)
        module = net.get_submodule(layer.name)
        weight = module.weight
        try:
            module.weight = nn.Parameter(made.dequantize(layer.dtype), requires_grad=False)
            off = float((run() - exact).norm() / exact.norm().clamp(min=1e-12))
        finally:
            module.weight = weight
        if error:
            found[layer.name] = (off / error) ** 2
    return found


def quantize_network(
    net: nn.Module,
    settings: QuantizationSettings | None = None,
    *,
    run: Callable[[], object] | None = None,
    accept: LayerFilter | None = None,
    only_faster: bool = True,
    step: Callable[[str], None] = lambda name: None,
) -> QuantizationReport:
    """Replaces linear layers of a network of ours, in place; each float weight is freed before the next is read.

    settings: by default OUR_NETWORKS. run: runs the network once; what its layers are given is recorded for errors and
    for how many tokens come at a time, and what it gives, if that is a tensor, says which layers of a mixed network
    count most. only_faster: keep the float layer where int8 is not faster on this machine. step: called with each
    layer's name before it is taken; it may raise, and then the layers so far are replaced.
    """
    asked, start = settings or OUR_NETWORKS, time.perf_counter()
    inputs: dict[str, LayerInputs] = {}
    layers, importance = chosen_layers(linear_layers(net), net.state_dict(), accept), None
    if run is not None:
        with recorded(net) as recorder:
            given = run()
        inputs = recorder.inputs
        if asked.kind == "mixed" and isinstance(given, Tensor):
            importance = weigh_layers(net, layers, cast(Callable[[], Tensor], run))
    before = _held(net)
    others = before - sum(layer.nbytes for layer in layers)
    kinds = plan(layers, asked, other_bytes=others, inputs=inputs, importance=importance)
    reports: list[LayerReport] = []
    while layers:  # a layer that is done is held no more
        layer = layers.pop(0)
        step(layer.name)
        for _, made, report in quantized_layers([layer], kinds, asked, inputs=inputs):
            if made is not None:
                report = _replaced(net, layer, made, report, inputs.get(layer.name), only_faster)
            reports.append(report)
    return QuantizationReport(before, _held(net), reports, time.perf_counter() - start, bool(inputs))


def _replaced(
    net: nn.Module,
    layer: Layer,
    made: QuantizedWeight,
    report: LayerReport,
    inputs: LayerInputs | None,
    only_faster: bool,
) -> LayerReport:
    old = net.get_submodule(layer.name)
    bias = old.bias
    new = QuantizedLinear(made, bias if isinstance(bias, Tensor) else None)
    if only_faster and not is_faster(old, new, inputs):
        return kept_report(layer)
    parent, _, last = layer.name.rpartition(".")
    setattr(net.get_submodule(parent), last, new)
    return report


def is_faster(layer: nn.Module, quantized: nn.Module, inputs: LayerInputs | None) -> bool:
    """Whether the quantized twin of a layer is, on the machine at hand, for as many tokens as came."""
    before, after = time_both(layer, quantized, inputs.rows if inputs else _ROWS)
    return after < before


def _held(net: nn.Module) -> int:
    """Bytes of all weights, those packed for int8 included."""
    total = 0
    for module in net.modules():
        if isinstance(module, QuantizedLinear):
            total += module.nbytes + (0 if module.bias is None else module.bias.nbytes)
        else:
            parts = (*module.parameters(recurse=False), *module.buffers(recurse=False))
            total += sum(each.nbytes for each in parts)
    return total
