"""ComfyUI's own models in a process of their own, and the patches that they are measured with."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F

from ..host.model_patches import patch_model
from ..models.attention import Grid
from ..models.attention_calls import Forward, Run
from ..models.sparse_patch import SparseKind, SparseRun, SparseSettings
from ..models.token_merging import MergeRun, MergeSettings

Result = TypeVar("Result")
_NO_COMFYUI = (
    "ComfyUI cannot be imported ({reason}). Its own Python has what it needs; with its folder in PYTHONPATH this part "
    "is measured."
)
_STEPS = 12  # halvings of what a density may be


def measured_parts(
    parts: Iterable[str], makers: Mapping[str, Callable[[], dict[str, Any] | None]], tell: Callable[[str], None]
) -> dict[str, Any]:
    """What `makers` give, by part. Left out: what gives None, and what needs ComfyUI where it cannot be imported."""
    found = {}
    for part in parts:
        tell(f" {part}")
        try:
            made = makers[part]()
        except ImportError as error:
            tell(f"  left out: {_NO_COMFYUI.format(reason=error)}")
            continue
        if made is not None:
            found[part] = made
    return found


class Patch(NamedTuple):
    """What a model is patched with, in this order; None: not with that."""

    name: str
    sparse: SparseSettings | None = None
    merge: MergeSettings | None = None

    def on(self, model: Any) -> tuple[Any, list[Run]]:
        """The patched MODEL, and the runs that it has begun, which grow as it works."""
        runs: list[Run] = []

        def started(run: Any) -> Any:
            runs.append(run)
            return run

        sparse, merge = self.sparse, self.merge
        if sparse is not None:
            model = patch_model(model, lambda first, last: started(SparseRun(sparse)))
        if merge is not None:
            blocks = merge.mode == "blocks"
            model = patch_model(model, lambda first, last: started(MergeRun(merge)), blocks=blocks, asked_first=True)
        return model, runs


def in_comfyui(function: Callable[..., Result], *args: Any) -> Result:
    """What a function of a module gives in a new process. ImportError as it raises it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


@lru_cache(maxsize=64)
def fitted(
    kind: SparseKind, density: float, grid: Grid, first_frame: bool = True, **more: Any
) -> tuple[SparseSettings, float] | None:
    """Settings with which that share of all keys of the grid is seen, or a little less, and the share.

    The share counts every key that is seen, also those of the first frame. None where more is always seen. `more`:
    other settings.
    """
    low, high, best = 0.0, 1.0, None
    for _ in range(_STEPS):
        settings = SparseSettings(kind, (low + high) / 2, first_frame=first_frame, **more)
        share = seen_share(settings, grid)
        if share <= density:
            low, best = settings.density, (settings, share)
        else:
            high = settings.density
    return best


@torch.inference_mode()
def seen_share(settings: SparseSettings, grid: Grid) -> float:
    """Of all keys, those that a token sees."""
    run = SparseRun(settings)
    tokens = torch.zeros(1, grid.tokens, 1)
    run.attend(Forward(grid), _values, (tokens, tokens, tokens, 1), {})
    return run.density


def _values(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, **options: Any) -> torch.Tensor:
    return F.pad(v[:, :1], (0, 0, 0, q.shape[1] - 1))
