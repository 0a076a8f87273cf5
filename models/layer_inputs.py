"""What the linear layers of a network are given while it runs, and what few bits do to what they make of it.

A few hundred tokens of each layer are kept, spread over all calls: enough for errors of whole layers, little beside
their weights. Without them a layer's error is that of its weight alone.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .quantized_formats import GROUP, QuantizedWeight, quantize_weight, rotate, token_scales

_KEPT = 256  # tokens of a layer
_EACH = 64  # tokens of a call
_SMOOTHING = (0.5, 0.75)  # how much of what sticks out goes from inputs into weights (SmoothQuant, arXiv 2211.10438)


@dataclass
class LayerInputs:
    """Of one layer: tokens that it was given, what stuck out, and how many came at a time."""

    tokens: Tensor
    """float32 `[at most 256, K]`."""
    peaks: Tensor
    """float32 `[K]`: the largest magnitude of each input, over all tokens."""
    rows: int
    """The most tokens in a call."""
    calls: int = 1


@dataclass
class InputRecorder:
    """Collects `LayerInputs` while a network runs."""

    inputs: dict[str, LayerInputs] = field(default_factory=dict)

    def add(self, name: str, given: Tensor) -> None:
        """Tokens `[..., K]` that a layer is called with."""
        rows = given.detach().reshape(-1, given.shape[-1])
        if not len(rows):
            return
        peaks = rows.abs().amax(0).float().cpu()
        some = torch.linspace(0, len(rows) - 1, min(_EACH, len(rows)), device=rows.device).round().long()
        tokens = rows[some].float().cpu()
        seen = self.inputs.get(name)
        if seen is None:
            self.inputs[name] = LayerInputs(tokens, peaks, len(rows))
            return
        seen.tokens = torch.cat([seen.tokens, tokens])
        if len(seen.tokens) > _KEPT:  # every call keeps its share
            seen.tokens = seen.tokens[torch.linspace(0, len(seen.tokens) - 1, _KEPT).round().long()]
        seen.peaks = torch.maximum(seen.peaks, peaks)
        seen.rows, seen.calls = max(seen.rows, len(rows)), seen.calls + 1


@contextlib.contextmanager
def recorded(net: nn.Module, names: Mapping[str, str] | None = None) -> Iterator[InputRecorder]:
    """Records, in this `with` block, what linear layers of `net` are given.

    names: of which modules, and what they are to be called; by default of every linear layer, by its own name.
    """
    recorder, handles = InputRecorder(), []
    wanted = names if names is not None else {name: name for name, each in net.named_modules() if is_linear(each)}

    def hook(called: str) -> Callable[..., None]:
        def before(module: nn.Module, given: tuple[Any, ...]) -> None:
            if given and isinstance(given[0], Tensor):
                recorder.add(called, given[0])

        return before

    try:
        for name, called in wanted.items():
            handles.append(net.get_submodule(name).register_forward_pre_hook(hook(called)))
        yield recorder
    finally:
        for handle in handles:
            handle.remove()


def is_linear(module: nn.Module) -> bool:
    """Whether it is a linear layer with a floating weight. ComfyUI has some that are no nn.Linear."""
    sizes = getattr(module, "in_features", None), getattr(module, "out_features", None)
    weight = getattr(module, "weight", None)
    if None in sizes or not isinstance(weight, Tensor) or type(module).__name__ != "Linear":
        return False
    return tuple(weight.shape) == sizes[::-1] and weight.is_floating_point()


def relative_error(weight: Tensor, quantized: QuantizedWeight, inputs: LayerInputs | None = None) -> float:
    """How far off a layer's output is, as a share of it: root mean square over the tokens, or of the weight alone.

    For int8 the tokens are rounded as well, as they are when the layer runs.
    """
    tokens = None if inputs is None else inputs.tokens.to(weight.device)
    rounded = tokens if tokens is None or quantized.kind != "int8" else _rounded(tokens, quantized)
    off = size = 0.0
    for rows, block in quantized.blocks():
        true = work = weight[rows].float()
        if tokens is None or rounded is None:
            made = block.dequantize()
        elif quantized.kind == "int8":
            held = block.tensors
            true, made = tokens @ work.t(), rounded @ (held["weight"].float() * held["weight_scale"]).t()
        else:
            true, made = tokens @ work.t(), rounded @ block.dequantize().t()
        off, size = off + float((made - true).square().sum()), size + float(true.square().sum())
    return (off / size) ** 0.5 if size else 0.0


def _rounded(tokens: Tensor, quantized: QuantizedWeight) -> Tensor:
    """Tokens as they are multiplied in int8: smoothed, turned, and of 8 bits with a scale each."""
    if "pre_quant_scale" in quantized.tensors:
        tokens = tokens * quantized.tensors["pre_quant_scale"]
    tokens = rotate(tokens, GROUP) if quantized.rotated else tokens
    scale = token_scales(tokens)
    return (tokens / scale).round() * scale


def quantize_layer(
    weight: Tensor, kind: str, inputs: LayerInputs | None = None, *, rotation: bool = True, smoothing: bool = False
) -> tuple[QuantizedWeight, float]:
    """A layer's weight in the format `kind`, and its relative error.

    For int8 with inputs known, what makes the error least is taken: inputs turned in groups or not (where `rotation`),
    smoothed or not (where `smoothing`). With none known, they are turned wherever that is possible, and not smoothed.
    """
    if kind != "int8":
        made = quantize_weight(weight, kind)
        return made, relative_error(weight, made, inputs)
    turns = [True, False] if rotation and weight.shape[1] % GROUP == 0 else [False]
    scales: list[Tensor | None] = [None]
    if inputs is None:
        turns = turns[:1]
    elif smoothing:
        scales += [_smoothing(weight, inputs, strength) for strength in _SMOOTHING]
    best: tuple[QuantizedWeight, float] | None = None
    for turned in turns:
        for scale in scales:
            made = quantize_weight(weight, kind, rotated=turned, smoothing=scale)
            error = relative_error(weight, made, inputs)
            if best is None or error < best[1]:
                best = made, error
    assert best is not None
    return best


def _smoothing(weight: Tensor, inputs: LayerInputs, strength: float) -> Tensor:
    """`[K]` that inputs are multiplied by, around 1."""
    columns = weight.float().abs().amax(0).clamp(min=1e-5)
    peaks = inputs.peaks.to(columns).clamp(min=1e-5)
    scale = peaks**-strength * columns ** (1 - strength)
    return (scale / scale.log().mean().exp()).clamp(1e-3, 1e3)
