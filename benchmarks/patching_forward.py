"""Time of a whole forward of ComfyUI's WanModel, patched and not, beside torch's own dense attention.

What patches save depends on the share of attention, and this on tokens for each channel. 10,800 tokens of 256 channels
have the share of 64,800 of 1536, those of Wan 2.1 1.3B at 720p (it has 75,600); of 512 channels, that of 480p (32,760).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch

from ..host import random_models
from ..models.attention import Grid
from ..models.attention_calls import Run
from ..models.token_merging import MergeSettings
from .patching_models import Patch, fitted, in_comfyui
from .rounds import in_turn

GRID = Grid(9, 30, 40)
TEXT = 512  # tokens, as Wan has them
SHAPES = {
    "256": {"dim": 256, "num_heads": 2, "ffn_dim": 1488, "num_layers": 2},
    "512": {"dim": 512, "num_heads": 4, "ffn_dim": 2992, "num_layers": 2},
    "1536": {"dim": 1536, "num_heads": 12, "ffn_dim": 8960, "num_layers": 1},
}
"""WanModel's by channels; heads of 128 channels, and the feed-forward part widens as in Wan 2.1 1.3B."""
DENSITIES = (0.1, 0.15, 0.2, 0.3)
FIRST_FRAME_FROM = 0.15  # of the keys: the first frame is a ninth of them
RATIO = 0.5
THREADS = 2
DENSE, DEFAULT = "dense", "dense, what ComfyUI takes on a CPU by itself"
_ROUNDS = 5


def measure_forward(rounds: int | None, limit: int | None, tell: Callable[[str], None]) -> dict[str, Any]:
    """By shape, of the first `limit`: seconds of each patch, and how many times as fast it is as dense.

    ImportError without ComfyUI.
    """
    found = {}
    for name, sizes in list(SHAPES.items())[:limit]:
        tell(f"  WanModel of {name} channels")
        found[name] = in_comfyui(time_forwards, sizes, rounds or _ROUNDS)
        for row in found[name]["rows"]:
            tell(f"    {row['patch']}: {row['seconds']:.2f} s, {row['speedup']:.2f}x")
    return {"grid": list(GRID), "text": TEXT, "threads": THREADS, "rounds": rounds or _ROUNDS, "shapes": found}


def patches(grid: Grid = GRID) -> list[Patch]:
    """What is compared; the shares of keys count all that are seen."""
    sparse = {}
    for kind in ("window", "top-k"):
        for density in DENSITIES:
            first = density >= FIRST_FRAME_FROM
            name = f"{kind}, {density:.0%} of the keys{'' if first else ', first frame not seen by all'}"
            found = fitted(kind, density, grid, first)
            assert found is not None, "the grid is large enough"
            sparse[kind, density] = Patch(name, found[0])
    keys, blocks = (MergeSettings(mode, RATIO, threshold=-1, protect=0) for mode in ("keys", "blocks"))
    window = sparse["window", 0.2]
    return [
        *sparse.values(),
        Patch(f"keys merged, {RATIO:.0%} left out", merge=keys),
        Patch(f"blocks merged, {RATIO:.0%} left out", merge=blocks),
        Patch(f"{window.name}, keys merged", window.sparse, keys),
        Patch(f"{window.name}, blocks merged", window.sparse, blocks),
    ]


@torch.inference_mode()
def time_forwards(
    sizes: dict[str, int], rounds: int, grid: Grid = GRID, threads: int = THREADS, chosen: list[Patch] | None = None
) -> dict[str, Any]:
    """Seconds of whole forwards on the CPU, all patches in turn, `rounds` times after one that warms up."""
    version = random_models.start(threads)
    source = random_models.build("wan", **sizes, text_dim=64, text_len=TEXT, freq_dim=256)
    chance = torch.Generator().manual_seed(3)
    given = (
        torch.randn(1, 16, grid.t, 2 * grid.h, 2 * grid.w, generator=chance),
        torch.tensor([500.0]),
        torch.randn(1, TEXT, 64, generator=chance),
    )
    chosen = patches(grid) if chosen is None else chosen
    models: dict[str, tuple[Any, list[Run]]] = {DENSE: (source, []), DEFAULT: (_with_default(source), [])}
    models |= {patch.name: patch.on(source) for patch in chosen}
    seconds = in_turn({name: partial(random_models.once, model, *given) for name, (model, _) in models.items()}, rounds)
    rows = [_row(name, seconds, runs) for name, (_, runs) in models.items()]
    return {**sizes, "comfyui": version, **_shares(source, given), "rows": rows}


def _with_default(source: Any) -> Any:
    model = source.clone()
    options = model.model_options.setdefault("transformer_options", {})
    options["optimized_attention_override"] = lambda func, *args, **kwargs: random_models.cpu_attention(*args, **kwargs)
    return model


def _row(name: str, seconds: dict[str, list[float]], runs: list[Run]) -> dict[str, Any]:
    ratios = [dense / mine for dense, mine in zip(seconds[DENSE], seconds[name], strict=True)]
    return {
        "patch": name,
        "seconds": median(seconds[name]),
        "speedup": median(seconds[DENSE]) / median(seconds[name]),
        "least": min(ratios),
        "most": max(ratios),
        "work": [run.density for run in runs],
        "dense_calls": [dict(run.dense) for run in runs],
    }


def _shares(source: Any, given: tuple[torch.Tensor, ...]) -> dict[str, float]:
    """Of a dense forward, the share of attention among the video's tokens, and of attention to text."""
    spent = {"attention": 0.0, "attention_to_text": 0.0}

    def timed(func: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        started = time.perf_counter()
        made = func(*args, **kwargs)
        name = "attention" if args[0].shape == args[1].shape else "attention_to_text"
        spent[name] += time.perf_counter() - started
        return made

    model = source.clone()
    model.model_options.setdefault("transformer_options", {})["optimized_attention_override"] = timed
    started = time.perf_counter()
    random_models.once(model, *given)
    whole = time.perf_counter() - started
    return {name: each / whole for name, each in spent.items()}
