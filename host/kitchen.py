"""comfy-kitchen's own quantizing, which benchmarks hold ours against. Newer ComfyUI brings it; nothing else uses this.

All functions raise ImportError where it is not installed, or too old to know what is asked for.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

GROUP = 256
"""Inputs that it turns together."""


def kitchen_version() -> str:
    """The version that is installed."""
    _kitchen()
    return importlib.metadata.version("comfy-kitchen")


def kitchen_tensors(weight: Tensor, kind: str) -> tuple[Tensor, ...]:
    """What it makes of a weight `[N, K]`: values and scales. kind: int8, fp8, mxfp8 or nvfp4."""
    kitchen = _kitchen()
    if kind == "int8":
        return _asked(kitchen, "quantize_int8_rowwise")(weight)
    if kind == "fp8":
        scale = (weight.abs().amax() / torch.finfo(torch.float8_e4m3fn).max).float()
        return _asked(kitchen, "quantize_per_tensor_fp8")(weight, scale), scale
    if kind == "mxfp8":
        return _asked(kitchen, "quantize_mxfp8")(weight)
    if kind == "nvfp4":
        scale = (weight.abs().amax() / (448 * 6)).float()
        return (*_asked(kitchen, "quantize_nvfp4")(weight, scale), scale)
    raise ValueError(f"Unknown kind {kind!r}. Supported are int8, fp8, mxfp8, nvfp4.")


def kitchen_int8(weight: Tensor, bias: Tensor | None, *, rotated: bool = False) -> Callable[[Tensor], Tensor]:
    """Its linear layer in int8 with a scale for each channel and each token: `[..., K]` -> `[..., N]`.

    rotated: inputs and weight are turned in groups of 256 first.
    """
    kitchen = _kitchen()
    linear, rowwise = _asked(kitchen, "int8_linear"), _asked(kitchen, "quantize_int8_rowwise")
    if rotated:
        from comfy_kitchen.tensor.int8_utils import _build_hadamard, _rotate_weight

        weight = _rotate_weight(weight, _build_hadamard(GROUP, weight.device, weight.dtype), GROUP)
    values, scales = rowwise(weight)
    options = {"convrot": rotated, "convrot_groupsize": GROUP}
    return lambda x: linear(x, values, scales, bias, x.dtype, **options)


def _kitchen() -> Any:
    import comfy_kitchen

    return comfy_kitchen


def _asked(kitchen: Any, name: str) -> Callable[..., Any]:
    found = getattr(kitchen, name, None)
    if found is None:
        raise ImportError(f"comfy-kitchen {kitchen_version()} has no {name}")
    return found
