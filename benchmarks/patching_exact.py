"""Patches on ComfyUI's own small random models, in its own sampler: that nothing changes where nothing is left out.

And that grids of any size, with whatever else lies beside the video's tokens, are sampled without an error.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ..host import random_models
from ..host.random_models import FAMILIES, build, difference, sample
from ..models.attention_calls import Run
from ..models.sparse_patch import SparseSettings
from ..models.token_merging import MergeSettings
from .patching_models import Patch, in_comfyui

PATCH_SIZES = {"ltxv": 1}
"""Rows and columns of a latent in a token; 2 of the others."""
PADDED = {"wan", "wan5b", "cosmos2"}
"""Families whose latents ComfyUI pads to whole tokens, but for references."""
CYCLES = 100
_SIZE = (3, 10, 14)
_WRONG = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AssertionError, AttributeError)
_SMALL: dict[str, Any] = {"tile": (1, 2, 3), "cube": (1, 2, 2)}  # so that little is seen in a small grid, too

GRIDS = (
    *((1, 7, 9), (2, 5, 11), (3, 7, 7), (5, 5, 13), (7, 11, 3), (4, 9, 17)),
    *((11, 3, 5), (3, 13, 19), (13, 7, 5), (6, 17, 11), (2, 23, 29)),
)
"""Frames, rows and columns of tokens; every other latent lacks a row and a column for them, where that is allowed."""
VARIANTS = {
    "wan": ("plain", "batch of 2", "reference", "frames behind"),
    "wan5b": ("plain", "batch of 2", "mask"),
    "ltxv": ("plain", "batch of 2", "mask", "guides"),
    "hunyuan": ("plain", "batch of 2", "padded text", "reference", "first frame"),
    "cosmos": ("plain", "batch of 2"),
    "cosmos2": ("plain", "batch of 2"),
}


class Case(NamedTuple):
    """A video of a family that is sampled; `more` is what `sample` is told beside its size."""

    family: str
    variant: str
    size: tuple[int, int, int]
    more: dict[str, Any]


def measure_exact(limit: int | None, tell: Callable[[str], None]) -> dict[str, Any]:
    """By family how far from dense patches are that leave nothing out; the first `limit` of the grids."""
    families = in_comfyui(try_families, CYCLES)
    for name, row in families.items():
        tell(f"  {name}: difference {row['difference']}, source bit-equal after {CYCLES} cycles: {row['kept']}")
    grids = in_comfyui(try_grids, cases()[:limit])
    tell(f"  {grids['cases']} grids, {len(grids['errors'])} errors, difference {grids['difference']}")
    return {"cycles": CYCLES, "families": families, "grids": grids}


# -- nothing is left out


def try_families(cycles: int) -> dict[str, Any]:
    """By family: the largest difference of what is sampled, and whether the source stays as it was."""
    random_models.start()
    return {kind: _tried(kind, cycles) for kind in FAMILIES}


def _tried(kind: str, cycles: int) -> dict[str, Any]:
    source = build(kind)
    size = _latent(kind, _SIZE)
    dense = sample(source, kind, size)
    weights, options = copy.deepcopy(source.model.state_dict()), copy.deepcopy(source.model_options)
    exact = difference(dense, sample(_nothing_left_out(kind, source), kind, size))
    for _ in range(cycles):
        patched = _everything(kind, source.clone()).clone()
        patched.patch_model()
        patched.unpatch_model()
    changed = difference(dense, sample(_everything(kind, source), kind, size))
    after = source.model.state_dict()
    return {
        "class": type(source.model.diffusion_model).__name__,
        "blocks": _has_blocks(kind),
        "spread": float(dense.std()),
        "difference": exact,
        "changed": changed,
        "kept": all(torch.equal(weights[name], after[name]) for name in weights)
        and options == source.model_options
        and not source.wrappers
        and difference(dense, sample(source, kind, size)) == 0.0,
    }


def _latent(kind: str, size: tuple[int, int, int]) -> tuple[int, int, int]:
    """Those of Wan as they are, and as many tokens of LTX-Video."""
    t, h, w = size
    return (t, h // 2, w // 2) if kind == "ltxv" else (t, h, w)


def _has_blocks(kind: str) -> bool:
    """Whether ComfyUI lets blocks of this family be replaced."""
    return not kind.startswith("cosmos")


def _nothing_left_out(kind: str, model: Any) -> Any:
    patches = [
        Patch("window", SparseSettings("window", 1.0)),
        Patch("top-k", SparseSettings("top-k", 1.0)),
        Patch("keys", merge=MergeSettings("keys", 0.0, -1)),
    ]
    if _has_blocks(kind):
        patches.append(Patch("blocks", merge=MergeSettings("blocks", 0.0, -1)))
    for patch in patches:
        model, _ = patch.on(model)
    return model


def _everything(kind: str, model: Any) -> Any:
    patches = [Patch("keys", SparseSettings(density=0.3, **_SMALL), MergeSettings("keys", 0.3, -1))]
    if _has_blocks(kind):
        patches.append(Patch("blocks", merge=MergeSettings("blocks", 0.3, -1)))
    for patch in patches:
        model, _ = patch.on(model)
    return model


# -- grids


def cases() -> list[Case]:
    """Every variant of every family on every grid."""
    made = []
    for number, (t, h, w) in enumerate(GRIDS):
        for family, variants in VARIANTS.items():
            patch = PATCH_SIZES.get(family, 2)
            for variant in variants:
                less = number % 2 if family in PADDED and variant != "reference" else 0
                made.append(_case(family, variant, (t, patch * h - less, patch * w - less), number))
    return made


def _case(family: str, variant: str, size: tuple[int, int, int], number: int) -> Case:
    t, h, w = size
    chance = torch.Generator().manual_seed(number)
    frame = torch.randn(1, 16, 1, h, w, generator=chance)
    more: dict[str, Any] = {"text": 5 + number % 4}
    mask = torch.ones(1, 1, t, h, w)
    mask[:, :, 0] = 0
    if variant == "batch of 2":
        more["batch"] = 2
    elif variant == "reference":
        # ComfyUI's HunyuanVideo takes one for one condition
        more |= {"reference_latents": [frame]} if family == "wan" else {"cfg": 1.0, "ref_latent": frame}
    elif variant == "frames behind":
        more["time_dim_concat"] = frame
    elif variant == "mask":
        more["noise_mask"] = mask
    elif variant == "guides":  # the last frame is one
        size = (t + 1, h, w)
        more |= {"noise_mask": torch.cat([mask, mask[:, :, :1]], 2), "keyframe_idxs": torch.zeros(1, 3, h * w, 2)}
    elif variant == "padded text":  # for one condition, too
        more |= {"cfg": 1.0, "attention_mask": (torch.arange(more["text"]) < 3).long()[None]}
    elif variant == "first frame":
        more["guiding_frame_index"] = 0
    return Case(family, variant, size, more)


def try_grids(chosen: list[Case]) -> dict[str, Any]:
    """How many could be sampled by every patch, the errors of the others, and what the patches did."""
    random_models.start()
    logging.disable(logging.WARNING)  # why calls ran dense is counted
    sources = {kind: build(kind, **({"in_dim_ref_conv": 16} if kind == "wan" else {})) for kind in FAMILIES}
    errors, differences, runs = [], [0.0], []
    for case in chosen:
        try:
            differences.append(_sampled(case, sources[case.family], runs))
        except _WRONG as error:
            errors.append(f"{case.family}, {case.variant}, {case.size}: {type(error).__name__}: {error}")
    dense = Counter[str]()
    for run in runs:
        dense += run.dense
    return {
        "cases": len(chosen),
        "variants": {kind: list(variants) for kind, variants in VARIANTS.items()},
        "grids": [list(grid) for grid in GRIDS],
        "errors": errors,
        "difference": max(differences),
        "calls": {"patched": sum(run.patched for run in runs), "dense": dict(dense)},
    }


def _sampled(case: Case, source: Any, runs: list[Run]) -> float:
    """How far from dense those are that leave nothing out. ArithmeticError for a latent that is not finite."""
    sampled = {"steps": 1, **case.more}
    dense = sample(source, case.family, case.size, **sampled)
    for patch in _patches(case.family):
        patched, begun = patch.on(source)
        made = sample(patched, case.family, case.size, **sampled)
        if made.shape != dense.shape or not bool(torch.isfinite(made).all()):
            raise ArithmeticError(f"{patch.name}: {tuple(made.shape)}, not finite or of another shape")
        runs += begun
    return difference(dense, sample(_nothing_left_out(case.family, source), case.family, case.size, **sampled))


def _patches(family: str) -> list[Patch]:
    keys, blocks = (MergeSettings(mode, 0.5, threshold=-1) for mode in ("keys", "blocks"))
    window = SparseSettings("window", 0.2, **_SMALL)
    made = [
        Patch("window", window),
        Patch("window of the usual tiles", SparseSettings("window", 0.2)),
        Patch("top-k", SparseSettings("top-k", 0.2, **_SMALL)),
        Patch("top-k of the usual tiles", SparseSettings("top-k", 0.2, first_frame=False)),
        Patch("keys", merge=keys),
        Patch("window and keys", window, keys),
    ]
    return [*made, Patch("blocks", merge=blocks)] if _has_blocks(family) else made
