"""Linear layers of video models in int8 and fp8 on a GPU, beside bfloat16; tokens are rounded as the layer runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.int8_linear import int8_linear
from ..models.quantized_formats import quantize_weight
from .generation_clips import Tell
from .patching_network import relative
from .rounds import in_turn

SHAPES = {
    "Wan 2.1 1.3B, 480p": (32760, 1536, 8960),
    "Wan 2.1 14B, 480p": (32760, 5120, 13824),
    "Wan 2.1 14B, attention": (32760, 5120, 5120),
}
"""Tokens, inputs, outputs."""
DENSE, INT8, COMPILED, FP8 = "bfloat16", "int8", "int8, compiled", "fp8"
NO_GPU = "left out: there is no CUDA device"
_ROUNDS = 20
_FP8_MAX = 448.0

Ways = dict[str, Callable[[Tensor], Tensor]]


def measure_gpu(rounds: int | None, tell: Tell) -> dict[str, Any] | None:
    """By shape: seconds of each way, how many times as fast as bfloat16, the error; None without a GPU."""
    if not torch.cuda.is_available():
        tell(f"  {NO_GPU}")
        return None
    found = {}
    for name, shape in SHAPES.items():
        found[name] = time_gpu(shape, torch.device("cuda"), torch.bfloat16, rounds or _ROUNDS)
        for row in found[name]["ways"]:
            tell(f"  {name}, {row['way']}: {1000 * row['seconds']:.2f} ms, {row['speedup']:.2f}x")
    return {"device": torch.cuda.get_device_name(), "rounds": rounds or _ROUNDS, "shapes": found}


@torch.inference_mode()
def time_gpu(shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype, rounds: int) -> dict[str, Any]:
    """All ways that work there, in turn, after one round to warm up."""
    M, K, N = shape
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(M, K, generator=chance).to(device, dtype)
    weight = (torch.randn(N, K, generator=chance) / K**0.5).to(device, dtype)
    exact = F.linear(x, weight)
    ways = {name: way for name, way in _ways(weight).items() if _works(way, x)}
    errors = {name: relative(exact, way(x)) for name, way in ways.items()}
    seconds = in_turn({name: partial(way, x) for name, way in ways.items()}, rounds, device)
    dense = median(seconds[DENSE])
    rows = [
        {"way": name, "seconds": median(some), "speedup": dense / median(some), "error": errors[name]}
        for name, some in seconds.items()
    ]
    return {"shape": list(shape), "ways": rows}


def _ways(weight: Tensor) -> Ways:
    held = quantize_weight(weight, "int8", rotated=False).tensors

    def int8(x: Tensor) -> Tensor:
        return int8_linear(x, held["weight"], held["weight_scale"])

    return {DENSE: lambda x: F.linear(x, weight), INT8: int8, COMPILED: torch.compile(int8), FP8: _fp8(weight)}


def _fp8(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """As ComfyUI multiplies where the GPU can: one scale for the weight, one for all tokens."""
    held = quantize_weight(weight, "fp8").tensors
    scale, turned = held["weight_scale"].float(), held["weight"].t()

    def multiply(x: Tensor) -> Tensor:
        size = (x.abs().amax().float() / _FP8_MAX).clamp(min=1e-12)
        rounded = (x / size).clamp(-_FP8_MAX, _FP8_MAX).to(torch.float8_e4m3fn)
        return torch._scaled_mm(rounded, turned, size, scale.reshape(()), out_dtype=x.dtype)

    return multiply


def _works(way: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    try:
        return bool(torch.isfinite(way(x)).all())
    except (RuntimeError, NotImplementedError):  # this GPU does not know the type, or nothing compiles here
        return False
