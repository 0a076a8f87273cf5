"""The README's tables of quantized and pruned models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .markdown import origin, table
from .pruning import UNITS, WHICH
from .quantization_quality import HALFWAY, OURS
from .quantization_size import AT_ONCE, IN_PLACE, STREAMED
from .quantization_speed import FAST, FLOAT, TURNED

_FAMILIES = {"wan": "Wan (WanModel)", "ltxv": "LTX-Video (LTXVModel)"}
_FORMS = {"plain": "nothing in their place", "corrected": "shortcuts in their place"}


def quantization_table(result: dict[str, Any]) -> str:
    """What few bits save and cost, by part; what is not measured is left out."""
    makers: dict[str, Callable[[dict[str, Any]], str]] = {
        "size": _size,
        "speed": _speed,
        "gpu": _gpu,
        "quality": _quality,
        "mixed": _mixed,
        "saved": _saved,
        "memory": _memory,
        "pruning": _pruning,
    }
    return "\n\n".join([*(make(result[name]) for name, make in makers.items() if name in result), origin(result)])


def _size(result: dict[str, Any]) -> str:
    rows, versions = [], set()
    for source, each in result["sources"].items():
        for kind, row in each["formats"].items():
            kitchen = f"{row['kitchen'] / each['bytes']:.3f}x" if "kitchen" in row else ""
            versions.add(row.get("kitchen_version", ""))
            shares = (f"{row[where] / each['bytes']:.3f}x" for where in ("file", "memory"))
            rows.append([f"{kind}, of {source}", f"{each['bytes'] / 1e6:,.0f} MB", *shares, kitchen])
    sizes = result["sizes"]
    text = (
        f"The weights of a WanModel of {sizes['layers']} layers, {sizes['dim']} and {sizes['ffn']} channels; its "
        "embeddings, modulation and last layer stay as they are. In memory: what layers on a CPU hold of it. "
        f"{_kitchen(versions)}"
    )
    head = ["", "size before", "file", "in memory", "comfy-kitchen"]
    return f"{table(head, rows)}\n\n{text}"


def _kitchen(versions: set[str]) -> str:
    said = " and ".join(sorted(versions - {""}))
    return f"comfy-kitchen {said}: values and scales of the same layers." if said else "comfy-kitchen: not installed."


def _speed(result: dict[str, Any]) -> str:
    parts = {"linear": result["linear"], "generator": result["generator"]}
    cells = {name: {row["way"]: row for row in part["ways"]} for name, part in parts.items()}
    names = list(dict.fromkeys(name for each in cells.values() for name in each))
    rows = [
        [f"**{name}**" if name in (OURS, TURNED, FAST) else name, *(_timed(each.get(name)) for each in cells.values())]
        for name in names
    ]
    M, K, N = parts["linear"]["shape"]
    made = parts["generator"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    text = (
        f"{result['threads']} CPU threads, medians of {result['rounds']} rounds in turn after two to warm up; times as "
        f"fast as {FLOAT}, and the relative error. The layer: {M:,} tokens, {K:,} inputs, {N:,} outputs, drawn from "
        f"normal distributions. The generator: the shipped one, {made['tokens']:,} tokens of drawn frames; of its "
        f"{made['layers']} layers that may be quantized ours keeps {made['kept']} in float, because those were faster "
        f"that way on this machine when it was loaded; the others quantize all. With precision fast it was loaded in "
        f"{made['fast']}. {versions or 'Nothing beside it.'}"
    )
    return f"{table(['on a CPU', 'one linear layer', 'our generator, whole forward'], rows)}\n\n{text}"


def _timed(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    said = f"{1000 * row['seconds']:.0f} ms"
    return said if row["way"] == FLOAT else f"{said}, {row['speedup']:.2f}x, error {row['error']:.4f}"


def _gpu(result: dict[str, Any]) -> str:
    cells = [{row["way"]: row for row in shape["ways"]} for shape in result["shapes"].values()]
    names = list(dict.fromkeys(name for each in cells for name in each))
    rows = [[name, *(_on_gpu(each.get(name)) for each in cells)] for name in names]
    shapes = (" x ".join(f"{side:,}" for side in shape["shape"]) for shape in result["shapes"].values())
    text = (
        f"{result['device']}, medians of {result['rounds']} rounds in turn; times as fast as bfloat16. Tokens, inputs "
        f"and outputs: {'; '.join(shapes)}."
    )
    return f"{table(['a linear layer on a GPU', *result['shapes']], rows)}\n\n{text}"


def _on_gpu(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{1000 * row['seconds']:.2f} ms, {row['speedup']:.2f}x, error {row['error']:.4f}"


def _quality(result: dict[str, Any]) -> str:
    generator, tokenizer = result["generator"], result["tokenizer"]
    rows = []
    for name, row in generator["ways"].items():
        other = tokenizer["ways"][name]
        rows.append(
            [
                f"**{name}**" if name == OURS else name,
                *(_decibels(each) for each in (row, other)),
                f"{row['more_bits']:+.4f}",
                f"{100 * other['same_tokens']:.1f} %",
            ]
        )
    counts = generator["layers"], tokenizer["layers"]
    ahead = [
        f"{each['ahead']['median']:.1f} dB (least {each['ahead']['least']:.1f})" for each in (generator, tokenizer)
    ]
    clips = len(generator["ways"][OURS]["psnr"]["clips"]), len(tokenizer["ways"][OURS]["psnr"]["clips"])
    text = (
        f"PSNR of what quantized networks give, against what they give in float; median over {clips[0]} and {clips[1]} "
        f"clips of {result['side']} pixels that were not trained on, and the least of a clip. Of the generator it is "
        "that of its logits, the peak being their whole range in a clip; of the tokenizer that of RGB frames, rounded "
        f"to 8 bits, decoded from the same tokens. {_count(counts[0])} and {_count(counts[1])} layers are quantized, "
        "all that may be; the tokenizer's convolutions as linear layers over patches, for this table alone: the pack "
        f"runs it in float. Smoothing was recorded on {result['fitted']} clips of another source. Naive is one scale "
        "for a weight and one for all tokens of a call, in the same layers; ours is ahead of it by "
        f"{ahead[0]} and {ahead[1]}."
    )
    head = ["", "generator, dB", "tokenizer, dB", "more bits a token", "tokens that stay"]
    return f"{table(head, rows)}\n\n{text}"


def _decibels(row: dict[str, Any]) -> str:
    return f"{row['psnr']['median']:.1f} ({row['psnr']['least']:.1f})"


def _count(kinds: dict[str, int]) -> str:
    return str(sum(kinds.values()))


def _mixed(result: dict[str, Any]) -> str:
    rows = []
    for name, each in result["sizes"].items():
        others = sum(each["others"].values()) / len(each["others"])
        kinds = ", ".join(f"{count} {kind}" for kind, count in each["kinds"].items())
        beside = "int8 and nvfp4 by chance" if name == HALFWAY else f"{name} for all"
        share = f"{100 * each['share']:.1f} %"
        rows.append([beside, share, kinds, f"{others:.4f}", f"{each['error']:.4f}", f"{each['ratio']:.2f}x"])
    text = (
        f"Relative error of our generator's logits, mean over {result['clips']} clips. Layers get what they can bear, "
        f"by what was recorded and tried on {result['fitted']} clips of another source, of "
        f"{', '.join(result['formats'])} or float, at no more bytes than what they are compared with. Scales of such "
        "small layers are two percent of them."
    )
    head = ["compared with", "size", "formats by need", "its error", "error by need", "ratio"]
    return f"{table(head, rows)}\n\n{text}"


def _saved(result: dict[str, Any]) -> str:
    families = result["families"]
    kinds = list(next(iter(families.values())))
    rows = []
    for kind in kinds:
        cells = []
        for family in families.values():
            row = family[kind]
            cells.append("not known to it" if row["core"] is None else _apart(row["core"]))
            cells += [_apart(row["ours"]), f"{row['error']:.4f}"]
        rows.append([kind, *cells])
    head = ["file in"]
    for family in families:
        head += [f"{_FAMILIES.get(family, family)}: ComfyUI's loader", "ours", "error of the weights"]
    text = (
        f"Small models of ComfyUI's classes, quantized from file to file, opened by ComfyUI {result['comfyui']}'s Load "
        "Diffusion Model without any of the pack's layers, and sampled: relative differences from the same weights in "
        "float. int8 rounds tokens as well, which those do not. Error: theirs from the model's before."
    )
    return f"{table(head, rows)}\n\n{text}"


def _apart(value: float) -> str:
    return "equal" if value == 0 else f"{value:.4f}"


def _memory(result: dict[str, Any]) -> str:
    whole, names = result["bytes"], {STREAMED: f"**{STREAMED}**", IN_PLACE: f"**{IN_PLACE}**", AT_ONCE: AT_ONCE}
    rows = [
        [names[name], f"{row['peak'] / 1e6:,.0f} MB", f"{row['peak'] / whole:.2f}x", f"{row['seconds']:.0f} s"]
        for name, row in result["ways"].items()
    ]
    loaded = next(iter(result["ways"].values()))["loaded"]
    text = (
        f"A model of Wan 2.1 1.3B's shapes in bfloat16, {whole / 1e9:.2f} GB, to int8 on one thread. Peak memory is "
        f"that of the whole process, of which {loaded / 1e6:,.0f} MB are Python, torch and the pack."
    )
    return f"{table(['quantizing', 'peak memory', 'of the model', 'time'], rows)}\n\n{text}"


def _pruning(result: dict[str, Any]) -> str:
    rows = []
    for name, each in result.items():
        if not isinstance(each, dict) or "bits" not in each:
            continue
        for unit, form in ((unit, form) for unit in UNITS for form in _FORMS):
            row = each[unit][form]
            cells = (f"{row[which]:+.3f}" for which in WHICH)
            gone = f"{len(row['left_out'])}, {row['parameters'][0] / each['parameters']:.0%}"
            rows.append([f"{name}, {unit}, {_FORMS[form]}", gone, *cells, f"{each['speed'][f'{unit}, {form}']:.2f}x"])
    fitted, judged = result["clips"]
    text = (
        f"Bits of a token more than whole, over {judged} clips that were not trained on; less than nothing: better "
        f"without them. How many went, and their share of all weights. Shortcuts were fitted to one half of {fitted} "
        "other clips, and what goes was chosen by the other half, by what the whole model costs without it. Parts are "
        "the mixing of near tokens, attention, and the feed-forward layer of a block; they take at least as much time "
        "as the last blocks do. By chance: the mean of all sets, or of some that were drawn. Last: "
        "the last blocks. Network: a forward on one thread, in turn with the whole one."
    )
    head = ["left out", "how many", "chosen", "by chance", "the last", "network"]
    blocks = f"{table(head, rows)}\n\n{text}"
    narrower = {
        name: each["narrower"] for name, each in result.items() if isinstance(each, dict) and "narrower" in each
    }
    return f"{blocks}\n\n{_narrower(narrower)}" if narrower else blocks


def _narrower(result: dict[str, Any]) -> str:
    rows = []
    for name, each in result.items():
        before, after = each["parameters"]
        loss = (f"{each['loss'][way]:+.4f}" for way in ("weights", "tokens"))
        widen = " to ".join(f"{times} times" for times in each["widen"])
        rows.append([name, widen, f"{before / 1e6:.2f} to {after / 1e6:.2f} millions", *loss])
    text = (
        "The same bits where feed-forward layers are narrower: units chosen by weights alone, and by tokens, with what "
        "is left fitted to make up for the others."
    )
    return f"{table(['narrower', 'as wide as tokens', 'weights', 'by weights', 'by tokens'], rows)}\n\n{text}"
