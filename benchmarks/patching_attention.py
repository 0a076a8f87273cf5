"""Time of attention alone at the sizes of Wan's videos, on a GPU, beside the fastest dense attention of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..models.attention import Grid
from ..models.attention_calls import Forward
from ..models.sparse_patch import SparseRun
from .patching_models import fitted
from .patching_network import comfyui_attention
from .rounds import in_turn

GRIDS = {"480p": Grid(21, 30, 52), "720p": Grid(21, 45, 80)}
"""81 frames of Wan 2.1: 32,760 and 75,600 tokens."""
HEADS, SIZE = 12, 128
"""Those of Wan 2.1 1.3B."""
DENSITIES = (0.1, 0.15)
NO_GPU = "left out: there is no CUDA device"
_KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
_CLOSE = 1e-2  # of a dense kernel, relative to the first one
_ROUNDS = 10
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def measure_attention(rounds: int | None, tell: Callable[[str], None]) -> dict[str, Any] | None:
    """By size of the video: seconds, and how many times as fast as the fastest dense kernel; None without a GPU."""
    if not torch.cuda.is_available():
        tell(f"  {NO_GPU}")
        return None
    device, rows = torch.device("cuda"), {}
    for name, grid in GRIDS.items():
        rows[name] = time_attention(grid, HEADS, SIZE, device, torch.bfloat16, rounds or _ROUNDS)
        for way in rows[name]["ways"]:
            tell(f"  {name}, {way['way']}: {1000 * way['seconds']:.1f} ms, {way['speedup']:.2f}x")
    return {"device": torch.cuda.get_device_name(), "heads": HEADS, "size": SIZE, "dtype": "bfloat16", "videos": rows}


@torch.inference_mode()
def time_attention(
    grid: Grid, heads: int, size: int, device: torch.device, dtype: torch.dtype, rounds: int
) -> dict[str, Any]:
    """Seconds of every dense kernel that works there, and of our patches; all in turn, after one round to warm up."""
    chance = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, grid.tokens, size, generator=chance).to(device, dtype) for _ in range(3))
    kernels = {name: way for name, way in _dense(device).items() if _works(way, q[:, :, :256], k[:, :, :256])}
    sparse, shares = _sparse(grid)
    ways: Mapping[str, Attention] = {**kernels, **sparse}
    seconds = in_turn({name: partial(way, q, k, v) for name, way in ways.items()}, rounds, device)
    fastest = min(kernels, key=lambda name: median(seconds[name]))
    return {
        "grid": list(grid),
        "tokens": grid.tokens,
        "fastest": fastest,
        "rounds": rounds,
        "ways": [
            {
                "way": name,
                "density": shares.get(name, 1.0),
                "seconds": median(some),
                "speedup": median(seconds[fastest]) / median(some),
            }
            for name, some in seconds.items()
        ],
    }


def _dense(device: torch.device) -> dict[str, Attention]:
    """PyTorch's kernels by name; on a CPU there is one."""
    if device.type != "cuda":
        return {"dense": F.scaled_dot_product_attention}
    return {name: partial(_by_kernel, kernel=kernel) for name, kernel in _KERNELS.items()}


def _by_kernel(q: Tensor, k: Tensor, v: Tensor, kernel: SDPBackend) -> Tensor:
    with sdpa_kernel(kernel):
        return F.scaled_dot_product_attention(q, k, v)


def _works(way: Attention, q: Tensor, k: Tensor) -> bool:
    """Whether a kernel takes such tensors, and gives what it should."""
    try:
        made = way(q, k, k)
    except RuntimeError:
        return False  # not built in, or not for this device
    exact = F.scaled_dot_product_attention(q.float(), k.float(), k.float())
    return float((made.float() - exact).norm() / exact.norm()) < _CLOSE


def _sparse(grid: Grid) -> tuple[dict[str, Attention], dict[str, float]]:
    """Our patches, and the shares of keys that they see."""
    ways: dict[str, Attention] = {}
    shares = {}
    for kind, kernel in (("window", "tiles"), ("window", "flex"), ("top-k", "tiles")):
        for density in DENSITIES:
            found = fitted(kind, density, grid, first_frame=True)
            if found is not None:
                name = f"{kind}{', FlexAttention' if kernel == 'flex' else ''}, {density:.0%} of the keys"
                ways[name] = _patched(SparseRun(replace(found[0], kernel=kernel)), grid)
                shares[name] = found[1]
    return ways, shares


def _patched(run: SparseRun, grid: Grid) -> Attention:
    options = {"skip_reshape": True, "skip_output_reshape": True}

    def way(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return run.attend(Forward(grid), comfyui_attention, (q, k, v, q.shape[1]), options)

    return way
