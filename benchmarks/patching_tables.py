"""The README's tables of patched models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .markdown import origin, table
from .patching_fidelity import CHOICE, OURS, RANDOM, RASTER, WINDOW, WITH_FIRST
from .patching_forward import DENSE
from .patching_merging import BY_DEFAULT, KEYS, TOME, WEIGHTED
from .patching_merging import OURS as MERGED

NAMES = {
    OURS: "**top-k**: cubes that fit",
    CHOICE: "top-k, no summary of the others",
    WITH_FIRST: "top-k, first frame seen by all",
    WINDOW: "**window**",
    RASTER: "64 tokens in raster order that fit",
    RANDOM: "64 tokens in raster order at random",
}
FAMILIES = {
    "wan": "Wan 2.1",
    "wan5b": "Wan 2.2 5B",
    "ltxv": "LTX-Video",
    "hunyuan": "HunyuanVideo",
    "cosmos": "Cosmos 1",
    "cosmos2": "Cosmos Predict2",
}
CURVE = "512"
"""Channels of the model whose speed is set beside errors."""


def patching_table(result: dict[str, Any]) -> str:
    """What patches save and change, by part; what is not measured is left out."""
    makers: dict[str, Callable[[dict[str, Any]], str]] = {
        "forward": _forward,
        "fidelity": _fidelity,
        "merging": _merging,
        "attention": _attention,
        "exact": _exact,
    }
    parts = [make(result[name]) for name, make in makers.items() if name in result]
    if "forward" in result and "fidelity" in result:
        parts.insert(2, _curve(result["forward"], result["fidelity"]))
    return "\n\n".join([*parts, origin(result)])


def _forward(result: dict[str, Any]) -> str:
    shapes = result["shapes"]
    cells = [{row["patch"]: _timed(row) for row in shape["rows"]} for shape in shapes.values()]
    head = ["a whole forward", *(f"{name} channels" for name in shapes)]
    rows = [[_patch_name(name), *(each[name] for each in cells)] for name in cells[0]]
    shares = ", ".join(f"{100 * shape['attention']:.0f} %" for shape in shapes.values())
    layers = ", ".join(str(shape["num_layers"]) for shape in shapes.values())
    t, h, w = result["grid"]
    text = (
        f"WanModel of ComfyUI {next(iter(shapes.values()))['comfyui']} with random weights: {layers} layers, heads of "
        f"128 channels, {t} x {h} x {w} = {t * h * w:,} tokens and {result['text']} of text, float32, "
        f"{result['threads']} CPU threads, all blocks patched. Medians of {result['rounds']} rounds after one to warm "
        "up, all in turn; times as fast as dense. All keys that are seen are counted, with those of the first frame. "
        "Merging leaves out what is most alike, however little that is. What can be saved depends on the share of "
        f"attention among the video's tokens, here {shares} of a dense forward, and this on tokens for each channel: "
        "Wan 2.1 1.3B has 21 at 480p and 49 at 720p, as the second and nearly as the first column (21 and 42); the "
        "last one has its layers, with 7."
    )
    return f"{table(head, rows)}\n\n{text}"


def _timed(row: dict[str, Any]) -> str:
    said = f"{row['seconds']:.2f} s"
    return said if row["patch"] == DENSE else f"{said}, {row['speedup']:.2f}x"


def _patch_name(name: str) -> str:
    return {DENSE: "dense, PyTorch's attention"}.get(name, name)


def _fidelity(result: dict[str, Any]) -> str:
    densities = result["densities"]
    methods = list(dict.fromkeys(name for some in densities.values() for name in some))
    rows = []
    for name in sorted(methods, key=list(NAMES).index):
        cells = [_errors(some[name]) if name in some else "" for some in densities.values()]
        rows.append([NAMES[name], *cells])
    ratios = [f"{each['attention']:.2f}x" for each in result["against_raster"].values()]
    rows.append(["top-k's error in attention, of that in raster order", *ratios])
    head = ["share of keys that are seen", *(f"{100 * float(density):.0f} %" for density in densities)]
    t, h, w = result["grid"]
    below = [each["clips_below"] for each in result["against_raster"].values()]
    clips = len(result["clips"])
    least, seen = next(iter(densities.items()))
    window = f" Windows come in steps: {100 * seen[WINDOW]['density']:.1f} %" if WINDOW in seen else ""
    window += f" where {100 * float(least):.0f} % are asked for." if window else ""
    text = (
        f"A real network that was trained with dense attention: our small generator of that kind "
        f"(*{result['net']}*) on {clips} clips that were not trained on, {t} frames of {result['side']} pixels, "
        f"{t * h * w:,} tokens. Lengths of the difference from dense, of dense: of the outputs of attention, mean over "
        "layers that are given what they are given dense; and, after the stroke, of the network's logits with all "
        f"layers patched. Every key that is seen counts, summaries of cubes too.{window} Top-k's error in attention is "
        f"below that of raster order on {_listed(below)} of {clips} clips. This network is small and looks everywhere "
        "a little: keys at random come as near as a choice alone, or nearer. Large video models look at few tokens; "
        "they are not measured here."
    )
    return f"{table(head, rows)}\n\n{text}"


def _errors(each: dict[str, Any]) -> str:
    return f"{_mean(each['layers']):.2f} / {each['logits']:.3f}"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _listed(numbers: list[int]) -> str:
    return str(numbers[0]) if len(set(numbers)) == 1 else ", ".join(map(str, numbers))


def _curve(forward: dict[str, Any], fidelity: dict[str, Any]) -> str:
    """Error against speed by density."""
    shape = forward["shapes"].get(CURVE) or next(iter(forward["shapes"].values()))
    rows = []
    for density, some in fidelity["densities"].items():
        cells = []
        for kind in (WINDOW, OURS):
            begins = f"{kind}, {float(density):.0%} of the keys"
            speed = next((row["speedup"] for row in shape["rows"] if row["patch"].startswith(begins)), None)
            cells += ["" if speed is None else f"{speed:.2f}x"]
            cells += [f"{_mean(some[kind]['layers']):.2f}" if kind in some else ""]
        rows.append([f"{100 * float(density):.0f} %", *cells])
    head = ["keys", "window: forward", "error", "top-k: forward", "error"]
    text = (
        f"Both tables beside each other: forwards of the model of {shape['dim']} channels, errors in attention of our "
        "generator."
    )
    return f"{table(head, rows)}\n\n{text}"


def _merging(result: dict[str, Any]) -> str:
    names = {
        MERGED: "**blocks**, as many as asked for",
        BY_DEFAULT: "blocks, as the node by default",
        KEYS: "keys alone",
        TOME: "uniform (ToMeSD)",
        WEIGHTED: "uniform, weighted in attention (ToMe)",
    }
    dense = result["methods"][DENSE]["seconds"]
    rows = [
        [
            text,
            f"{100 * each['tokens']:.0f} %",
            f"{_mean(each['layers']):.3f}",
            f"{each['logits']:.4f}",
            f"{each['more_bits']:+.3f}",
            f"{dense / each['seconds']:.2f}x",
        ]
        for name, text in names.items()
        if (each := result["methods"].get(name)) is not None
    ]
    clips = len(result["clips"])
    text = (
        f"The same network and {clips} clips, layers of attention alone, as its convolutions cannot merge: at most "
        f"{100 * result['ratio']:.0f} % of the tokens left out, means over clips. Errors are lengths of differences, "
        f"of the whole; bits are those of a token, of {result['bits']:.2f}; times as fast is the network on one "
        "thread. Uniform is bipartite matching with one target in each 2 x 2, averages and plain copies back. The "
        f"error of logits of *blocks* is below that of ToMeSD's on {result['clips_below']} of {clips} clips."
    )
    head = ["merged", "tokens left", "error of a layer", "error of logits", "more bits", "network"]
    return f"{table(head, rows)}\n\n{text}"


def _attention(result: dict[str, Any]) -> str:
    videos = result["videos"]
    cells = [
        {way["way"]: f"{1000 * way['seconds']:.1f} ms, {way['speedup']:.2f}x" for way in video["ways"]}
        for video in videos.values()
    ]
    names = list(dict.fromkeys(name for each in cells for name in each))
    head = ["attention alone", *(f"{name}, {video['tokens']:,} tokens" for name, video in videos.items())]
    rows = [[name, *(each.get(name, "") for each in cells)] for name in names]
    text = (
        f"{result['heads']} heads of {result['size']} channels, {result['dtype']}, {result['device']}, medians of "
        f"{next(iter(videos.values()))['rounds']} rounds in turn after one to warm up; times as fast as the fastest "
        "dense kernel."
    )
    return f"{table(head, rows)}\n\n{text}"


def _exact(result: dict[str, Any]) -> str:
    rows = [
        [
            f"{FAMILIES.get(name, name)} ({row['class']})",
            f"{row['difference']:g}",
            "bit-equal" if row["kept"] else "changed",
        ]
        for name, row in result["families"].items()
    ]
    grids = result["grids"]
    calls = grids["calls"]
    text = (
        "Small models of ComfyUI's own classes with random weights, in its own sampler. Nothing left out: windows and "
        "top-k of all keys, merging of no token, one over the other. "
        f"{grids['cases']} videos on grids of {len(grids['grids'])} sizes, odd and prime, alone and in batches, with "
        "references before, guides and frames behind, masks, padded text: "
        f"{len(grids['errors'])} errors; largest difference where nothing is left out: {grids['difference']:g}; calls "
        f"patched: {calls['patched']:,}."
    )
    head = ["", "difference where nothing is left out", f"source after {result['cycles']} patches"]
    return f"{table(head, rows)}\n\n{text}"
