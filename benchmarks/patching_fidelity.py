"""How far from dense attention is what sees few keys: windows, cubes that fit, blocks in raster order, random blocks.

All see the same share of keys, counting each key that is seen. Two errors are told: of the outputs of every layer, each
given what the dense network gives it, and of what the network makes in the end with all layers replaced.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from ..models.attention import Grid
from ..models.attention_calls import Forward
from ..models.checkpoint import load_generator
from ..models.generator import TokenGenerator
from ..models.sparse_patch import SparseRun, SparseSettings
from .generation_clips import Tell
from .patching_models import fitted
from .patching_network import (
    NET,
    SIDE,
    Asked,
    Attend,
    Made,
    asked_of_clips,
    comfyui_attention,
    dense,
    mean,
    relative,
    run_network,
)
from .patching_rivals import random_blocks, raster_blocks
from .threads import one_thread

DENSITIES = (0.1, 0.15, 0.2, 0.3)
OURS, WINDOW, RASTER, RANDOM = "top-k", "window", "raster", "random"
WITH_FIRST, CHOICE = "top-k, first frame", "top-k, choice alone"
"""The first as the node does it by itself: the first frame is seen by all. The second: no summary of the rest."""


class Method(NamedTuple):
    """A way of attention, and the share of keys that it really sees."""

    density: float
    attend: Callable[[Tensor, Tensor, Tensor], Tensor]


def measure_fidelity(args: argparse.Namespace, tell: Tell) -> dict[str, Any]:
    """By density and method: mean errors over the clips of `args.clips`. ValueError where none can be used."""
    net, rows = load_generator(NET), []
    with one_thread():
        for asked in asked_of_clips(args, tell):
            rows.append(fidelity_of(net, asked))
            found = rows[-1]["densities"][str(DENSITIES[0])]
            tell(f"  {asked.name}: " + ", ".join(f"{name} {mean(each['layers']):.3f}" for name, each in found.items()))
    if not rows:
        raise ValueError(f"None of the clips of {args.clips!r} can be used. Give others with --clips DIR.")
    return {"net": NET, "side": SIDE, "grid": rows[0]["grid"], **summarize(rows), "clips": _kept(rows)}


def fidelity_of(net: TokenGenerator, asked: Asked, densities: tuple[float, ...] = DENSITIES) -> dict[str, Any]:
    """Errors of one clip."""
    grid = Grid(*asked.tokens.shape[1:])
    ways = {density: methods(grid, density) for density in densities}
    layers: dict[tuple[float, str], list[float]] = {}

    def watch(q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int, int], **options: Any) -> Tensor:
        exact = dense(q, k, v, grid)
        for density, some in ways.items():
            for name, method in some.items():
                layers.setdefault((density, name), []).append(relative(exact, method.attend(q, k, v)))
        return exact

    exact = run_network(net, asked, watch)
    found: dict[str, Any] = {}
    for density, some in ways.items():
        found[str(density)] = {
            name: {
                "density": method.density,
                "layers": layers[density, name],
                **_in_the_end(exact, run_network(net, asked, as_attention(method.attend))),
            }
            for name, method in some.items()
        }
    bits = float(exact.bits.mean())
    return {"clip": asked.name, "grid": list(grid), "bits": bits, "densities": found}


def methods(grid: Grid, density: float) -> dict[str, Method]:
    """All that are compared at that density and can see so little."""
    budget = round(density * grid.tokens)
    made = {}
    for name, kind, first, summary in (
        (OURS, "top-k", False, True),
        (CHOICE, "top-k", False, False),
        (WITH_FIRST, "top-k", True, True),
        (WINDOW, "window", False, True),
    ):
        found = fitted(kind, density, grid, first, summary=summary)
        if found is not None:
            made[name] = Method(found[1], partial(sparse, settings=found[0], grid=grid))
    blocks = {RASTER: raster_blocks, RANDOM: random_blocks}
    return made | {name: Method(budget / grid.tokens, partial(way, budget=budget)) for name, way in blocks.items()}


def sparse(q: Tensor, k: Tensor, v: Tensor, settings: SparseSettings, grid: Grid) -> Tensor:
    """What the patch makes of a call."""
    options = {"skip_reshape": True, "skip_output_reshape": True}
    return SparseRun(settings).attend(Forward(grid), comfyui_attention, (q, k, v, q.shape[1]), options)


def as_attention(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Attend:
    """As a generator calls it."""
    return lambda q, k, v, grid, **options: function(q, k, v)


def _in_the_end(exact: Made, made: Made) -> dict[str, float]:
    return {"logits": relative(exact.logits, made.logits), "more_bits": float((made.bits - exact.bits).mean())}


def _kept(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each clip, what a method errs in attention."""
    return [
        {
            "clip": row["clip"],
            "bits": row["bits"],
            "attention": {
                density: {name: mean(each["layers"]) for name, each in some.items()}
                for density, some in row["densities"].items()
            },
        }
        for row in rows
    ]


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over clips by density and method; and how ours stands to the blocks in raster order."""
    found, against = {}, {}
    for density, some in rows[0]["densities"].items():
        of = {name: [row["densities"][density][name] for row in rows] for name in some}
        found[density] = {
            name: {
                "density": mean([each["density"] for each in all_of]),
                "layers": [mean(list(layer)) for layer in zip(*(each["layers"] for each in all_of), strict=True)],
                **{key: mean([each[key] for each in all_of]) for key in ("logits", "more_bits")},
            }
            for name, all_of in of.items()
        }
        errors = {name: [mean(each["layers"]) for each in of[name]] for name in (OURS, RASTER)}
        against[density] = {
            "attention": mean(errors[OURS]) / mean(errors[RASTER]),
            "logits": found[density][OURS]["logits"] / found[density][RASTER]["logits"],
            "clips_below": sum(ours < other for ours, other in zip(errors[OURS], errors[RASTER], strict=True)),
        }
    return {"bits": mean([row["bits"] for row in rows]), "densities": found, "against_raster": against}
