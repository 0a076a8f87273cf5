"""Seconds of a linear layer and of our generator in int8 on a CPU, beside floats and other ways to multiply in int8.

All in one process and in turn, each once in a round, so that what else the machine does falls on all alike; medians.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ..host.kitchen import kitchen_version
from ..models.checkpoint import load_generator, load_tokenizer
from ..models.fast_networks import fastest, typical_run
from ..models.generator import TokenGenerator
from ..models.int8_linear import QuantizedLinear
from ..models.mixed_precision import KEPT
from ..models.quantization import quantize_network
from ..models.quantized_formats import quantize_weight
from ..models.token_guess import guess
from ..video.reel import render
from .generation_between import GAP
from .generation_clips import Pictures, Tell
from .patching_models import in_comfyui
from .patching_network import relative
from .quantization_rivals import KitchenInt8, PlainInt8, Replace, replaced, torchao_int8, torchao_version
from .rounds import in_turn

SHAPE = (2048, 1536, 6144)
"""Tokens, inputs and outputs of the layer: nearly the first feed-forward layer of Wan 2.1 1.3B."""
SIDE = 192
"""Pixels of the generator's frames."""
THREADS = 2
FLOAT, OURS, TURNED, PLAIN = "float32", "int8", "int8, inputs turned", "torch._int_mm"
HALF, FAST = "bfloat16", "as loaded with precision fast"
KITCHEN, KITCHEN_TURNED = "comfy-kitchen", "comfy-kitchen, inputs turned"
TORCHAO, TORCHAO_COMPILED = "torchao", "torchao, compiled"
_ROUNDS = 9

Ways = Mapping[str, Callable[[], Tensor]]


def measure_speed(rounds: int | None, tell: Tell) -> dict[str, Any]:
    """Of the layer and of the generator, by way: seconds, how many times as fast as float32, and the error."""
    count = rounds or _ROUNDS
    found: dict[str, Any] = {"threads": THREADS, "rounds": count}
    for name, work in {"linear": time_linear, "generator": time_generator}.items():
        found[name] = in_comfyui(work, count)
        for row in found[name]["ways"]:
            tell(f"  {name}, {row['way']}: {row['seconds']:.3f} s, {row['speedup']:.2f}x, error {row['error']:.4f}")
        for way, reason in found[name]["left_out"].items():
            tell(f"  {name}, {way}: left out, {reason}")
    return {**found, "versions": versions()}


def versions() -> dict[str, str]:
    """Of what is measured beside ours, where it is installed."""
    found = {"torchao": torchao_version() or ""}
    try:
        found["comfy-kitchen"] = kitchen_version()
    except ImportError:
        found["comfy-kitchen"] = ""
    return {name: version for name, version in found.items() if version}


@torch.inference_mode()
def time_linear(rounds: int, shape: tuple[int, int, int] = SHAPE, threads: int = THREADS) -> dict[str, Any]:
    """One layer with a bias, of normally distributed weights and tokens."""
    torch.set_num_threads(threads)
    M, K, N = shape
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(M, K, generator=chance)
    layer = nn.Linear(K, N)
    layer.weight.copy_(torch.randn(N, K, generator=chance) / K**0.5)
    layer.bias.copy_(torch.randn(N, generator=chance))
    made, left_out = _made({name: lambda make=make: make(layer) for name, make in rivals(turned=K % 256 == 0).items()})
    half, narrow = copy.deepcopy(layer).to(torch.bfloat16), {}
    narrow[HALF] = lambda: half(x.to(torch.bfloat16)).float()
    ways = {name: lambda each=each: each(x) for name, each in {FLOAT: layer, **made}.items()} | narrow
    return {"shape": list(shape), **timed(ways, rounds), "left_out": left_out}


def rivals(*, turned: bool, compiled: bool = True) -> dict[str, Replace]:
    """All ways in int8, ours first. turned: also with inputs that are turned in groups."""
    found: dict[str, Replace] = {OURS: _ours(False)}
    if turned:
        found[TURNED] = _ours(True)
    found |= {PLAIN: PlainInt8, KITCHEN: KitchenInt8}
    if turned:
        found[KITCHEN_TURNED] = lambda layer: KitchenInt8(layer, rotated=True)
    found[TORCHAO] = lambda layer: torchao_int8(layer, compiled=False)
    if compiled:
        found[TORCHAO_COMPILED] = lambda layer: torchao_int8(layer, compiled=True)
    return found


def _ours(rotated: bool) -> Replace:
    return lambda layer: QuantizedLinear(quantize_weight(layer.weight, "int8", rotated=rotated), layer.bias)


def _made(makers: Mapping[str, Callable[[], nn.Module]]) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """What could be made, and why not what could not."""
    made, left_out = {}, {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except ImportError as error:
            left_out[name] = " ".join(str(error).split())
    return made, left_out


@torch.inference_mode()
def time_generator(
    rounds: int, net: TokenGenerator | None = None, side: int = SIDE, threads: int = THREADS
) -> dict[str, Any]:
    """A whole forward of the generator for frames of a drawn reel; ours looked at those of another one before."""
    torch.set_num_threads(threads)
    whole = net or load_generator()
    seen, asked = (drawn(side, seed) for seed in (1, 2))
    ours = copy.deepcopy(whole)
    report = quantize_network(ours, run=lambda: ours(*seen))
    taken = [layer.name for layer in report.layers]
    others = {name: make for name, make in rivals(turned=False, compiled=False).items() if name != OURS}
    made, left_out = _made({name: lambda m=m: replaced(copy.deepcopy(whole), taken, m) for name, m in others.items()})
    fast = fastest(whole, typical_run)
    nets = {FLOAT: whole, FAST: fast.net, OURS: ours, HALF: copy.deepcopy(whole).to(torch.bfloat16), **made}
    ways = {name: lambda each=each: torch.cat(each(*asked)[1], -1).float() for name, each in nets.items()}
    tokens, kept = asked[0].numel(), report.counts().get(KEPT, 0)
    said = {"tokens": tokens, "layers": len(taken), "kept": kept, "fast": fast.way}
    return {**said, **timed(ways, rounds), "left_out": left_out}


def drawn(side: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the generator is called with for a run of frames of a reel, the first and the last of them known."""
    image = load_tokenizer().image
    tokens = Pictures(image).encode(next(render(side, side, seed=seed).chunks(GAP + 1)))
    known = torch.zeros(tokens.shape, dtype=torch.bool)
    known[0] = known[-1] = True
    told = guess(image, torch.where(known, tokens, 0), known)
    return tokens[None], known[None], told[None], tokens[None]


def timed(ways: Ways, rounds: int) -> dict[str, Any]:
    """Seconds of each way, all in turn, after two rounds that warm up; errors are those of the first way."""
    exact = ways[FLOAT]()
    errors = {name: relative(exact, way()) for name, way in ways.items()}
    seconds, rows = in_turn(ways, rounds), []
    for name, some in seconds.items():
        ratios = [one / mine for one, mine in zip(seconds[FLOAT], some, strict=True)]
        speedup = median(seconds[FLOAT]) / median(some)
        row = {"way": name, "seconds": median(some), "speedup": speedup, "least": min(ratios), "most": max(ratios)}
        rows.append(row | {"error": errors[name]})
    return {"ways": rows}
