"""How far from the whole is what merges half of the tokens: ours, from frame to frame, and uniform merging.

On the layers of attention of a network that was trained with all tokens. Its convolutions stay whole, as uniform
merging leaves those of image models; what a layer adds to a token is added to all that it stands for, in both.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import Any

from torch import Tensor, nn

from ..models.attention import Grid
from ..models.attention_calls import Forward, Run, room_for_weights
from ..models.checkpoint import load_generator
from ..models.generator import TokenGenerator
from ..models.token_merging import MergeRun, MergeSettings
from .generation_clips import Tell
from .patching_network import (
    NET,
    SIDE,
    Asked,
    Attend,
    asked_of_clips,
    attending,
    comfyui_attention,
    dense,
    mean,
    relative,
    run_network,
)
from .patching_rivals import uniform_merging
from .threads import one_thread

RATIO = 0.5
OURS, BY_DEFAULT, KEYS, DENSE = "ours", "ours, as the node by default", "keys", "dense"
TOME, WEIGHTED = "uniform", "uniform, weighted"
_THRESHOLD = -1.0  # whatever is most alike, so that the ratio is met
_NODE = MergeSettings("blocks", RATIO, protect=0.0)  # guidance, which protects, has no part here
Layer = Callable[[Tensor], Tensor]
"""Attention with its projections, `[1, K, C]` -> `[1, K, C]`."""
Way = Callable[[int, Layer, Tensor], Tensor]
"""From the number of a layer, the layer and what it is given, `[1, N, C]`, to what it adds to all tokens."""


def measure_merging(args: argparse.Namespace, tell: Tell) -> dict[str, Any]:
    """Mean errors and seconds over the clips of `args.clips`. ValueError where none can be used."""
    net, rows = load_generator(NET), []
    with one_thread():
        for asked in asked_of_clips(args, tell):
            rows.append(merging_of(net, asked))
            found = rows[-1]["methods"]
            tell(
                f"  {asked.name}: "
                + ", ".join(f"{name} {found[name]['logits']:.3f}" for name in found if name != DENSE)
            )
    if not rows:
        raise ValueError(f"None of the clips of {args.clips!r} can be used. Give others with --clips DIR.")
    return {"net": NET, "side": SIDE, "grid": rows[0]["grid"], "ratio": RATIO, **summarize(rows), "clips": rows}


def merging_of(net: TokenGenerator, asked: Asked, ratio: float = RATIO) -> dict[str, Any]:
    """Errors and seconds of one clip, by method."""
    grid = Grid(*asked.tokens.shape[1:])
    layers: dict[str, list[float]] = {}
    begun = begin(grid, ratio)

    def watch(number: int, layer: Layer, x: Tensor) -> Tensor:
        exact = layer(x)
        for name, (way, _) in begun.items():
            layers.setdefault(name, []).append(relative(exact, way(number, layer, x)))
        return exact

    with merging(net, watch):
        run_network(net, asked, dense)
    exact, seconds = _timed(net, asked)
    found: dict[str, Any] = {DENSE: {"seconds": seconds}}
    for name, (way, run) in begin(grid, ratio).items():
        with merging(net, way):
            made, seconds = _timed(net, asked)
        found[name] = {
            "tokens": run.density if run else 1 - ratio,
            "layers": layers[name],
            "logits": relative(exact.logits, made.logits),
            "more_bits": float((made.bits - exact.bits).mean()),
            "seconds": seconds,
        }
    return {"clip": asked.name, "grid": list(grid), "bits": float(exact.bits.mean()), "methods": found}


def begin(grid: Grid, ratio: float = RATIO) -> Mapping[str, tuple[Way, Run | None]]:
    """All that are compared, each for one pass; and what counts what it does."""
    ours = MergeSettings("blocks", ratio, _THRESHOLD, protect=0.0)
    keys = MergeSettings("keys", ratio, _THRESHOLD, protect=0.0)
    return {
        OURS: _blocks(ours, grid),
        BY_DEFAULT: _blocks(_NODE, grid),
        KEYS: _keys(keys, grid),
        TOME: (lambda number, layer, x: uniform_merging(layer, x, x, grid, ratio, number), None),
        WEIGHTED: (lambda number, layer, x: uniform_merging(layer, x, x, grid, ratio, number, _weighing), None),
    }


@contextmanager
def _weighing(counts: Tensor) -> Iterator[None]:
    """In attention, tokens weigh as much as `counts` `[K]` say."""

    def attend(q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int, int], **more: Any) -> Tensor:
        size = q.shape[-1]
        q, k, v = room_for_weights(q, k, v, None)
        k[..., size] = counts.log()
        return dense(q, k, v, grid)[..., :size]

    with attending(attend):
        yield


def _blocks(settings: MergeSettings, grid: Grid) -> tuple[Way, Run]:
    run, forward = MergeRun(settings), Forward(grid)

    def way(number: int, layer: Layer, x: Tensor) -> Tensor:
        def block(given: dict[str, Any]) -> dict[str, Any]:
            with attending(_asking(run, forward, given.get("transformer_options"))):
                return {"img": given["img"] + layer(given["img"])}

        return run.through(forward, number, {"img": x}, block)["img"] - x

    return way, run


def _keys(settings: MergeSettings, grid: Grid) -> tuple[Way, Run]:
    run, forward = MergeRun(settings), Forward(grid)

    def way(number: int, layer: Layer, x: Tensor) -> Tensor:
        with attending(_asking(run, forward, None)):
            return layer(x)

    return way, run


def _asking(run: Run, forward: Forward, told: Any) -> Attend:
    """Attention that is answered by a run; `told` is what ComfyUI calls transformer_options."""
    options = {"skip_reshape": True, "skip_output_reshape": True, "transformer_options": told}

    def attend(q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int, int], **more: Any) -> Tensor:
        return run.attend(forward, comfyui_attention, (q, k, v, q.shape[1]), options)

    return attend


class _Layer(nn.Module):
    """A layer of attention of a generator, of which `way` says what it gives."""

    def __init__(self, layer: nn.Module, number: int, way: Way):
        super().__init__()
        self.layer, self.number, self.way = layer, number, way

    def forward(self, x: Tensor) -> Tensor:
        """`[1, t, h, w, C]` -> the same."""
        return self.way(self.number, self._of_tokens, x.flatten(1, 3)).view(x.shape)

    def _of_tokens(self, x: Tensor) -> Tensor:
        return self.layer(x[:, None, None])[:, 0, 0]


@contextmanager
def merging(net: TokenGenerator, way: Way) -> Iterator[None]:
    """Layers of attention of that network give what `way` says."""
    blocks: list[Any] = list(net.blocks)
    layers = [block.parts[1] for block in blocks]
    for number, (block, layer) in enumerate(zip(blocks, layers, strict=True)):
        block.parts[1] = _Layer(layer, number, way)
    try:
        yield
    finally:
        for block, layer in zip(blocks, layers, strict=True):
            block.parts[1] = layer


def _timed(net: TokenGenerator, asked: Asked) -> Any:
    started = time.process_time()
    made = run_network(net, asked)
    return made, time.process_time() - started


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means of errors and medians of seconds over clips, by method; on how many clips ours is below uniform merging."""
    found: dict[str, Any] = {}
    for name in rows[0]["methods"]:
        of = [row["methods"][name] for row in rows]
        seconds = {"seconds": median(each["seconds"] for each in of)}
        if name == DENSE:
            found[name] = seconds
            continue
        layers = [mean(list(layer)) for layer in zip(*(each["layers"] for each in of), strict=True)]
        means = {key: mean([each[key] for each in of]) for key in ("tokens", "logits", "more_bits")}
        found[name] = {**means, "layers": layers, **seconds}
    below = sum(row["methods"][OURS]["logits"] < row["methods"][TOME]["logits"] for row in rows)
    return {"bits": mean([row["bits"] for row in rows]), "methods": found, "clips_below": below}
