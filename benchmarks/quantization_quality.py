"""How near our networks come in few bits to what they give in float, on clips; and bits that are shared out by need.

What is recorded for it comes from the clips of one folder, what is told from those of another. All layers that may be
quantized are, also where float is faster.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..models.checkpoint import load_generator, load_tokenizer
from ..models.generator import TokenGenerator
from ..models.image_tokenizer import ImageTokenizer
from ..models.int8_linear import QuantizedLinear
from ..models.layer_inputs import recorded
from ..models.quantization import (
    OUR_NETWORKS,
    QuantizationSettings,
    chosen_layers,
    linear_layers,
    quantize_network,
    quantized_layers,
)
from ..models.quantization_report import QuantizationReport
from ..video.frames import model_to_uint8, uint8_to_model
from .generation_clips import Pictures, Tell, coded_clips, decibels, squared
from .generation_quality import spread
from .patching_network import Asked, asked_of_clips, mean, relative, run_network
from .quantization_rivals import NaiveInt8, replaced
from .threads import one_thread
from .tokens import clips_in
from .unfolded import unfold_convolutions

SIDE = 128
"""Pixels of the frames."""
FITTED = 8  # clips that are looked at before
FRAMES = 6  # of a clip, for the tokenizer
DRAWS = 3  # ways to share out formats by chance
OURS, NAIVE = "int8", "naive int8"
UNIFORM = ("fp8", "mxfp8")
"""Formats at whose sizes models of several formats are measured."""
FORMATS = ("int8", "fp8", "nvfp4")
HALFWAY = "halfway"

Ways = dict[str, tuple[nn.Module, QuantizationReport | None]]
"""Networks in few bits by way, and what became of each."""


def measure_quality(args: argparse.Namespace, tell: Tell) -> dict[str, Any]:
    """PSNR of what our generator and our tokenizer give in few bits, on `args.clips`, looked at on `args.train`."""
    with one_thread(), torch.inference_mode():
        fitted = list(asked_of_clips(_of(args, args.train), tell, SIDE))
        judged = list(asked_of_clips(args, tell, SIDE))
        found = {"side": SIDE, "fitted": len(fitted), "generator": generator_quality(load_generator(), fitted, judged)}
        pictures = [frames_of(each, tell) for each in (_of(args, args.train), args)]
        found["tokenizer"] = tokenizer_quality(load_tokenizer().image, *pictures)
    for name in ("generator", "tokenizer"):
        for way, each in found[name]["ways"].items():
            tell(f"  {name}, {way}: {each['psnr']['median']:.2f} dB, least {each['psnr']['least']:.2f}")
    return found


def measure_mixed(args: argparse.Namespace, tell: Tell) -> dict[str, Any]:
    """The generator's error with formats by need, at sizes of one format for all, and beside formats by chance."""
    with one_thread(), torch.inference_mode():
        fitted = list(asked_of_clips(_of(args, args.train), tell, SIDE))
        judged = list(asked_of_clips(args, tell, SIDE))
        found = mixed_errors(load_generator(), fitted, judged)
    for size, each in found["sizes"].items():
        tell(f"  size of {size}: {each['ratio']:.2f}x the error of others")
    return {"side": SIDE, "fitted": len(fitted), **found}


def _of(args: argparse.Namespace, folder: str) -> argparse.Namespace:
    """The same arguments with the clips that are looked at before."""
    return argparse.Namespace(**{**vars(args), "clips": folder, "limit": min(args.limit or FITTED, FITTED)})


def frames_of(args: argparse.Namespace, tell: Tell) -> list[np.ndarray]:
    """Some frames of each clip of `args.clips`, uint8 `[T, H, W, 3]`."""
    others: list[dict[str, str]] = []
    pictures = Pictures(load_tokenizer().image)
    clips = coded_clips(clips_in(args.clips)[: args.limit], pictures, others, side=SIDE, frames=args.frames)
    found = [clip.source[spread(range(len(clip.source)), FRAMES)] for clip in clips]
    for each in others:
        tell(f"  {each['clip']}: left out, {each['reason']}")
    return found


def generator_quality(net: TokenGenerator, fitted: Sequence[Asked], judged: Sequence[Asked]) -> dict[str, Any]:
    """By way: PSNR of logits, of a peak of all their range in that clip, and how many more bits a token takes."""
    nets = _ways(net, lambda made: [run_network(made, each) for each in fitted])  # type: ignore[arg-type]
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in nets}
    for asked in judged:
        true = run_network(net, asked)
        for name, (made, _) in nets.items():
            near = run_network(made, asked)  # type: ignore[arg-type]
            more = float(near.bits.double().mean() - true.bits.double().mean())
            rows[name].append({"psnr": psnr(true.logits, near.logits), "more_bits": more})
    return _table(nets, rows, [each.name for each in judged])


def tokenizer_quality(
    image: ImageTokenizer, fitted: Sequence[np.ndarray], judged: Sequence[np.ndarray]
) -> dict[str, Any]:
    """By way: PSNR of decoded frames, rounded to 8 bits, of the same tokens; and the share of tokens that stay."""

    def look(net: nn.Module) -> None:
        for frames in fitted:
            assert isinstance(net, ImageTokenizer)
            net.decode(net.encode(uint8_to_model(frames)))

    nets = _ways(unfold_convolutions(copy.deepcopy(image)), look)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in nets}
    for frames in judged:
        given = uint8_to_model(frames)
        tokens = image.encode(given)
        true = model_to_uint8(image.decode(tokens))
        for name, (made, _) in nets.items():
            assert isinstance(made, ImageTokenizer)
            error = squared(true, model_to_uint8(made.decode(tokens)))
            same = float((made.encode(given) == tokens).double().mean())
            rows[name].append({"psnr": decibels(error.sum(), 3 * error.size), "same_tokens": same})
    return _table(nets, rows, [])


def _ways(net: nn.Module, look: Callable[[nn.Module], object]) -> Ways:
    """Ours in three formats, and the plainest int8 of the same layers. look: runs a network on what comes before."""
    made: Ways = {}
    settings = {OURS: OUR_NETWORKS, **{kind: QuantizationSettings(kind) for kind in ("fp8", "nvfp4")}}  # type: ignore[arg-type]
    for name, each in settings.items():
        twin = copy.deepcopy(net)
        report = quantize_network(twin, each, run=lambda twin=twin: look(twin), only_faster=False)
        made[name] = twin, report
    taken = [layer.name for layer in chosen_layers(linear_layers(net), net.state_dict())]
    return {**made, NAIVE: (replaced(copy.deepcopy(net), taken, NaiveInt8), None)}


def psnr(true: Tensor, near: Tensor) -> float:
    """Of a peak of the whole range of `true`, in dB."""
    return 10 * math.log10(float((true.max() - true.min()).square() / (near - true).square().mean()))


def _table(nets: Ways, rows: Mapping[str, list[dict[str, float]]], names: Sequence[str]) -> dict[str, Any]:
    ways = {}
    for name, some in rows.items():
        values = [row["psnr"] for row in some]
        report = nets[name][1]
        ways[name] = {
            "psnr": {"median": median(values), "mean": mean(values), "least": min(values), "clips": values},
            **{key: mean([row[key] for row in some]) for key in some[0] if key != "psnr"},
            "share": None if report is None else report.share,
        }
    ahead = [ours - naive for ours, naive in zip(*(ways[name]["psnr"]["clips"] for name in (OURS, NAIVE)), strict=True)]
    own = nets[OURS][1]
    counts = {} if own is None else own.counts()
    return {"ways": ways, "ahead": {"median": median(ahead), "least": min(ahead)}, "layers": counts, "clips": names}


def mixed_errors(net: TokenGenerator, fitted: Sequence[Asked], judged: Sequence[Asked]) -> dict[str, Any]:
    """By size: the error of logits with formats by need, and with one format for all, or formats by chance."""

    def look(made: TokenGenerator) -> Tensor:
        return torch.cat([run_network(made, each).logits for each in fitted])

    def made_by(settings: QuantizationSettings) -> tuple[TokenGenerator, QuantizationReport]:
        twin = copy.deepcopy(net)
        return twin, quantize_network(twin, settings, run=lambda: look(twin), only_faster=False)

    true = [run_network(net, each).logits for each in judged]

    def error(made: TokenGenerator) -> float:
        return mean([relative(exact, run_network(made, each).logits) for exact, each in zip(true, judged, strict=True)])

    found: dict[str, Any] = {}
    for kind in UNIFORM:
        uniform, report = made_by(QuantizationSettings(kind, rotation=False))  # type: ignore[arg-type]
        mixed, own = made_by(_mixed(report.share))
        found[kind] = _compared(error(mixed), own, {kind: error(uniform)}, report.nbytes)
    ends = [made_by(QuantizationSettings(kind, rotation=False))[1].share for kind in ("int8", "nvfp4")]  # type: ignore[arg-type]
    mixed, own = made_by(_mixed(sum(ends) / 2))
    others = [by_chance(net, look, own.nbytes, seed) for seed in range(DRAWS)]
    errors = {f"by chance, {seed}": error(made) for seed, (made, _) in enumerate(others)}
    found[HALFWAY] = _compared(error(mixed), own, errors, max(size for _, size in others))
    return {"formats": list(FORMATS), "clips": len(judged), "sizes": found}


def _mixed(share: float) -> QuantizationSettings:
    return QuantizationSettings("mixed", min(1.0, share + 1e-9), None, FORMATS, rotation=False, smoothing=True)


def _compared(mixed: float, report: QuantizationReport, others: Mapping[str, float], most: int) -> dict[str, Any]:
    size = {"share": report.share, "bytes": report.nbytes, "bytes_of_others": most, "kinds": report.counts()}
    return {**size, "error": mixed, "others": dict(others), "ratio": mixed / mean(list(others.values()))}


def by_chance(
    net: TokenGenerator, look: Callable[[TokenGenerator], object], size: int, seed: int
) -> tuple[TokenGenerator, int]:
    """A copy with int8 in layers that are drawn, nvfp4 in others, of `size` or one layer more; its size."""
    made, settings = copy.deepcopy(net), QuantizationSettings("int8", rotation=False, smoothing=True)
    with recorded(made) as recorder:
        look(made)
    layers = chosen_layers(linear_layers(net), net.state_dict())
    total = sum(each.nbytes for each in net.state_dict().values())
    kinds = dict.fromkeys((layer.name for layer in layers), "nvfp4")
    both = {}
    for kind in ("nvfp4", "int8"):
        asked = dict.fromkeys(kinds, kind)
        both[kind] = {
            layer.name: (weight, report)
            for layer, weight, report in quantized_layers(layers, asked, settings, inputs=recorder.inputs)
        }
    held = total + sum(report.nbytes - report.nbytes_before for _, report in both["nvfp4"].values())
    for name in random.Random(seed).sample(list(kinds), len(kinds)):
        if held >= size:
            break
        kinds[name] = "int8"
        held += both["int8"][name][1].nbytes - both["nvfp4"][name][1].nbytes
    for name, kind in kinds.items():
        weight, old = both[kind][name][0], made.get_submodule(name)
        assert weight is not None
        parent, _, last = name.rpartition(".")
        bias = old.bias
        setattr(made.get_submodule(parent), last, QuantizedLinear(weight, bias if isinstance(bias, Tensor) else None))
    return made, held
