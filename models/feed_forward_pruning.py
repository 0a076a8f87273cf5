"""Feed-forward layers with fewer hidden units: smaller files, less to compute, in every block the same.

Which units go is chosen by what they add to the output: how much a unit varies over tokens that were seen, times the
size of its column in the second matrix (as in Wanda, arXiv 2306.11695, for whole units); or without any tokens by both
of its weights. What the units that go would have added is then spread over those that stay, by least squares on those
tokens, held near to the weights as they were; their mean goes into the bias.

ComfyUI reads the width of Wan's feed-forward layers from the file, one for all blocks. That of other video models is
fixed, so a file of theirs with fewer units would not open.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .block_shortcuts import ridge_regression
from .generator import TokenGenerator

MOST = 0.75
"""No more than that share of the units is taken away."""
_RIDGES = (1e-2, 1e-1, 1.0)  # shares of the mean square of a unit
_HELD_OUT = 4  # one token in so many is kept to choose the ridge with
_WAN = re.compile(r"((?:vace_)?blocks\.\d+\.ffn)\.0\.weight")
_WAN_WIDTH = "blocks.0.ffn.0.weight"  # where ComfyUI reads it
_SCALES = (".weight_scale", ".scale_weight", ".comfy_quant")


@dataclass(frozen=True)
class Narrowed:
    """A state dict with narrower feed-forward layers; `width` from what to what.

    errors: of each layer, how far off its output is, as a share of how it varies; on tokens that nothing was fitted to,
    where there are any, first as it would be without what spreads the loss, then with it.
    """

    state: Mapping[str, Tensor]
    width: tuple[int, int]
    errors: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def kept_width(width: int, share: float) -> int:
    """How many units stay where `share` of them go, in [0, 0.75]: a multiple of what kernels like, at least one such.

    ValueError for other shares.
    """
    if not 0 <= share <= MOST:
        raise ValueError(f"Invalid share {share}. From 0 to {MOST} of the hidden units can be taken away.")
    step = 256 if width >= 2048 else 16
    return width if share == 0 or width <= step else max(step, round(width * (1 - share) / step) * step)


def wan_layers(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the feed-forward layers that share the width ComfyUI reads. ValueError for any other model."""
    if _WAN_WIDTH not in state or "head.modulation" not in state:
        raise ValueError(
            "Only Wan's feed-forward layers can be made narrower: ComfyUI fixes the width of other models' and would "
            "not open the file. Leave out blocks instead."
        )
    if any(name.endswith(_SCALES) for name in state):
        raise ValueError("This model is quantized. Make its layers narrower first and quantize what comes out.")
    return [found[1] for name in state if (found := _WAN.fullmatch(name))]


def narrow_wan(
    state: Mapping[str, Tensor],
    share: float,
    hidden: Mapping[str, Tensor] | None = None,
    step: Callable[[], None] = lambda: None,
) -> Narrowed:
    """Wan's weights with `share` of the hidden units gone, names and dtypes as they were; calls `step` for each layer.

    state: names as in ComfyUI's files, without a prefix. hidden: by layer, as `wan_layers` names them, what its second
    matrix was given, float `[N, width]`; layers without it are judged by their weights. ValueError as there.
    """
    layers, width = wan_layers(state), len(state[_WAN_WIDTH])
    kept, made, errors = kept_width(width, share), dict(state), {}
    if kept == width:
        return Narrowed(made, (width, width))
    for name in layers:
        first, second, seen = state[f"{name}.0.weight"], state[f"{name}.2.weight"], (hidden or {}).get(name)
        units = choose_units(first, second, kept, seen)
        made[f"{name}.0.weight"], made[f"{name}.0.bias"] = first[units].clone(), state[f"{name}.0.bias"][units].clone()
        weight, bias = second[:, units].clone(), state[f"{name}.2.bias"]
        if seen is not None:
            weight, bias, errors[name] = compensated(second, bias, units, seen)
        made[f"{name}.2.weight"], made[f"{name}.2.bias"] = weight, bias
        step()
    return Narrowed(made, (width, kept), errors)


def choose_units(first: Tensor, second: Tensor, count: int, hidden: Tensor | None = None) -> Tensor:
    """int64 `[count]`, in their order: the hidden units that matter most.

    first: `[units, ...]`; second: `[C, units]`; hidden: `[N, units]`, what the second was given.
    """
    size = second.float().norm(dim=0)
    varies = first.float().flatten(1).norm(dim=1) if hidden is None else hidden.float().std(0)
    return (size * varies.to(size.device)).topk(count).indices.sort().values


def compensated(
    second: Tensor, bias: Tensor, units: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor, tuple[float, float]]:
    """Weights `[C, kept]` and bias `[C]` that give with `units` alone what all gave; the errors without and with it.

    second: `[C, units]`; hidden: `[N, units]`. What comes out has the dtype and device of what went in.
    """
    weight, units = second.float(), units.to(second.device)
    seen = hidden.to(second.device, torch.float32)
    mean = seen.mean(0)
    seen = seen - mean
    wanted = seen @ weight.T  # [N, C]
    given, plain = seen[:, units], weight[:, units]
    missing = wanted - given @ plain.T
    held_out = torch.arange(len(seen), device=seen.device) % _HELD_OUT == _HELD_OUT - 1
    size = float(wanted[held_out].square().sum()) or 1.0
    changes = ridge_regression(given[~held_out], missing[~held_out], _RIDGES)
    left = [float((missing[held_out] - given[held_out] @ each).square().sum()) / size for each in changes]
    before = float(missing[held_out].square().sum()) / size
    made = plain
    if min(left) < before:
        made = plain + next(ridge_regression(given, missing, [_RIDGES[left.index(min(left))]])).T
    shifted = bias.float() + weight @ mean - made @ mean[units]
    errors = (before**0.5, min(before, *left) ** 0.5)
    return made.to(second.dtype), shifted.to(bias.dtype), errors


def narrow_generator(net: TokenGenerator, widen: int, hidden: Sequence[Tensor] | None = None) -> TokenGenerator:
    """A generator of its own whose channels are widened `widen` times, which is less than before.

    hidden: of each block, what the layer that narrows was given, `[N, wide]`. ValueError for another `widen`.
    """
    if not 1 <= widen < net.config.widen:
        raise ValueError(f"Invalid widen {widen}. This generator can be narrowed to 1 to {net.config.widen - 1}.")
    made = TokenGenerator(replace(net.config, widen=widen))
    made.tokenizer_digest = net.tokenizer_digest
    state, wide = dict(net.state_dict()), net.config.widen * net.config.width
    for number in range(net.config.depth):
        part, seen = f"blocks.{number}.parts.2", None if hidden is None else hidden[number]
        second, bias = state[f"{part}.narrow.weight"], state[f"{part}.narrow.bias"]
        units = choose_units(state[f"{part}.widen.weight"][wide:], second, widen * net.config.width, seen)
        both = torch.cat([units, wide + units])  # what gates, and what is gated
        for name in ("widen.weight", "widen.bias", "near.weight", "near.bias"):
            state[f"{part}.{name}"] = state[f"{part}.{name}"][both]
        weight = second[:, units]
        if seen is not None:
            weight, bias, _ = compensated(second, bias, units, seen)
        state[f"{part}.narrow.weight"], state[f"{part}.narrow.bias"] = weight, bias
    made.load_state_dict(state)
    return made.eval().requires_grad_(False)
