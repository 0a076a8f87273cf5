"""The README's tables of the generator."""

from __future__ import annotations

from statistics import median
from typing import Any

from .markdown import origin, table

OURS, BLEND, CEILING, SHOWN = "generator", "linear blend", "ceiling", (1, 4, 8)
HEADROOM = 1
"""dB from which on the ceiling counts as above the blend."""


def generation_table(result: dict[str, Any]) -> str:
    """Frames made between known ones and after them, bits of tokens, kinds of attention, memory, single layers."""
    makers = {
        "between": _between,
        "continue": _after,
        "bits": _bits,
        "kinds": _kinds,
        "memory": _memory,
        "layers": _layers,
    }
    parts = [make(result[name]) for name, make in makers.items() if name in result]
    return "\n\n".join([*parts, origin(result)])


def _between(result: dict[str, Any]) -> str:
    (small, first), (large, second) = result["sides"].items()
    methods, others, ahead = first["summary"]["methods"], second["summary"]["methods"], first["summary"]["ahead"]
    ours, made = next(iter(methods)), result["gap"] - 1
    rows = [
        [
            _name(method),
            *_quality(each),
            _ahead(ahead.get(method), each),
            f"{each['seconds']:.2f}",
            *(_quality(others[method]) if method in others else [""] * 3),
        ]
        for method, each in methods.items()
    ]
    columns = ["all, dB", "moving, dB", "energy"]
    head = [
        *(f"{made} of {result['gap']} frames, between known ones", *columns, "ours ahead", "s a frame"),
        *(f"{large} pixels: {columns[0]}", *columns[1:]),
    ]
    text = (
        f"Medians over {_clips(first)} that were not trained on: centre squares of {small} pixels, up to "
        f"{result['gaps']} gaps in which no shot changes, spread over the first {result['frames']} frames; at {large} "
        f"pixels one gap of each. {_MOVING}{_left(first, ours)} Energy is the mean difference from frame to frame, "
        f"made over real. *Ours ahead* is the median over clips of what *{ours}* has more on moving pixels, and on how "
        "many of them it has. Known frames are given as tokens, and the simple ways begin with what these decode to; "
        "*motion followed* is what the generator is told as a guess. Where nothing is said it is at temperature 0, and "
        f"*drawn* at {result['drawn_at']:g}, in four steps. The ceiling is what the tokenizer makes of the frames "
        f"themselves.{_headroom(first, ours)} CPU seconds, {_threads(result)}.{_others(first)}"
    )
    shown = [OURS, "hold last", BLEND, "motion followed", CEILING]
    return f"{table(head, rows)}\n\n{text}\n\n{_each_clip(first, shown, 'gaps')}"


_MOVING = (
    "PSNR is that of RGB, errors pooled over a clip's frames; moving are pixels that differ from a known frame beside "
    "them by more than 8 grey levels, in the source."
)


def _after(result: dict[str, Any]) -> str:
    (_, first), (large, second) = result["sides"].items()
    methods, others = first["summary"]["methods"], second["summary"]["methods"]
    ours, ahead = next(iter(methods)), first["summary"]["ahead"]
    rows = [
        [
            _name(method),
            *(_horizons(each, key) for key in ("all", "moving", "energy")),
            _number(each["energy"]),
            _ahead(ahead.get(method), each),
            *(
                [_horizons(others[method], "moving"), _number(others[method]["energy"])]
                if method in others
                else [""] * 2
            ),
        ]
        for method, each in sorted(methods.items(), key=lambda pair: not pair[0].startswith(OURS))
    ]
    at = "/".join(map(str, SHOWN))
    head = [
        *(f"{result['ahead']} frames, after known ones", f"all, dB at {at}", f"moving, dB at {at}", f"energy at {at}"),
        *("energy of all", "ours ahead", f"{large} pixels: moving, dB at {at}", "energy of all"),
    ]
    text = (
        f"The first, fourth and eighth frame made, in the same way: medians over {_clips(first)}, in each from up to "
        f"{result['starts']} places with at least {result['seen']} known frames, at {large} pixels from one. Here "
        f"moving is what differs from the last known frame.{_left(first, ours)} What is drawn is drawn with "
        f"{result['seeds']} seeds: errors of all of them together, and those of the seed that came nearest, which "
        f"nobody knows beforehand. *Ours ahead* is of all eight frames.{_others(first)}"
    )
    shown = [OURS, "copy last", "motion carried on", CEILING]
    return f"{table(head, rows)}\n\n{text}\n\n{_each_clip(first, shown, 'starts')}"


def _name(method: str) -> str:
    return f"**{method}**" if method.startswith(OURS) else method


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _quality(each: dict[str, Any]) -> list[str]:
    return [_number(each[key]) for key in ("all", "moving", "energy")]


def _horizons(each: dict[str, Any], key: str) -> str:
    return " / ".join(_number(each["frames"][at - 1][key]) or "-" for at in SHOWN)


def _ahead(ahead: dict[str, Any] | None, each: dict[str, Any]) -> str:
    if ahead is None or ahead["median"] is None:
        return ""
    return f"{ahead['median']:+.2f} ({ahead['better']} of {each['clips']['moving']})"


def _clips(side: dict[str, Any]) -> str:
    return f"{side['summary']['clips']} clips"


def _left(side: dict[str, Any], method: str) -> str:
    left = side["summary"]["clips"] - side["summary"]["methods"][method]["clips"]["moving"]
    if not left:
        return ""
    clips = f"{left} clip{'' if left == 1 else 's'}"
    return f" {clips} in which fewer than 1 % of the pixels move count only where all pixels do."


def _headroom(side: dict[str, Any], ours: str) -> str:
    """How it stands where tokens can be better than a blend of two decoded frames, which evens out their noise."""
    moving = [{name: each["moving"] for name, each in row["methods"].items()} for row in side["clips"]]
    kept = [each for each in moving if each[CEILING] is not None and each[CEILING] >= each[BLEND] + HEADROOM]
    if not kept:
        return ""
    gains = [each[ours] - each[BLEND] for each in kept]
    ahead = f"{median(gains):+.2f} dB from it in the median, and ahead on {sum(gain > 0 for gain in gains)}"
    return (
        f" On the {len(kept)} clips where it lies {HEADROOM} dB or more above the blend, *{ours}* is {ahead}; on the "
        "others the truth itself, as tokens, is hardly better than a blend, which averages the noise of two frames."
    )


def _others(side: dict[str, Any]) -> str:
    left = ", ".join(f"{each['clip']} ({each['reason'].rstrip('.')})" for each in side["others"])
    return f" Left out: {left}." if left else ""


def _threads(result: dict[str, Any]) -> str:
    return "one thread" if result["threads"] == 1 else f"{result['threads']} threads"


def _each_clip(side: dict[str, Any], shown: list[str], runs: str) -> str:
    """PSNR of moving pixels by the methods whose names begin so, the first of each."""
    methods = list(side["clips"][0]["methods"])
    names = [next(name for name in methods if name.startswith(begin)) for begin in shown]
    rows = [
        [
            f"{row['clip']} ({row[runs]} {runs})",
            f"{100 * row['moving']:.1f} %",
            *(_number(row["methods"][name]["moving"]) for name in names),
            _number(row["methods"][names[0]]["energy"]),
        ]
        for row in side["clips"]
    ]
    made = table(["clip", "moving", *(f"{name}, dB" for name in names), "energy of ours"], rows)
    return f"<details><summary>Each clip, moving pixels</summary>\n\n{made}\n\n</details>"


def _bits(result: dict[str, Any]) -> str:
    tasks = [result[task] for task in ("next", "between")]
    names = {
        "generator": "**generator**",
        "unigram": "tokens by how often they occur",
        "conditional": "digits after those of the nearest known frame",
    }
    rows = [
        [text, *(_number(task[name][which]) for task in tasks for which in ("all", "changed"))]
        for name, text in names.items()
    ]
    counts = " and ".join(f"{task['tokens']:,} tokens of {task['clips']} clips" for task in tasks)
    changed = " and ".join(f"{100 * task['changed']:.0f} %" for task in tasks)
    below = "; ".join(
        f"{what} on {task['below']['unigram']} and {task['below']['conditional']} of {task['clips']}"
        for what, task in zip(("next frames", "frames between"), tasks, strict=True)
    )
    text = (
        f"Bits a token, held out: the next frame from the {result['before']} before it, and {result['gap'] - 1} frames "
        f"from the two around them; all tokens of what is asked for at once, of {counts}. Raw they have "
        f"{result['raw']:.2f}. {changed} of them differ from the token in their place in the nearest known frame. The "
        "simple models were counted on these very tokens, in their favour, without what their tables would take; of "
        f"two forms of the second the better one is shown. The generator is below them, in turn, in {below} clips."
    )
    head = ["bits a token", "next frame", "what changed in it", "frames between", "what changed in them"]
    return f"{table(head, rows)}\n\n{text}"


def _kinds(result: dict[str, Any]) -> str:
    full, sides = result["rows"][0], list(result["rows"][0]["seconds"])
    rows = [
        [
            row["kind"],
            *(
                f"{row['bits'][task]['all']:.3f} ({row['bits'][task]['all'] / full['bits'][task]['all']:.3f}x)"
                for task in ("next", "between")
            ),
            _number(row["moving"]),
            *(f"{row['seconds'][side]:.2f} ({row['seconds'][side] / full['seconds'][side]:.2f}x)" for side in sides),
        ]
        for row in result["rows"]
    ]
    counts = [row["parameters"] / 1e6 for row in result["rows"]]
    sizes = dict.fromkeys(f"{each:.2f}" for each in (min(counts), max(counts)))
    text = (
        f"Generators of {' to '.join(sizes)} million weights, trained for as many steps on the same "
        f"crops, that differ in their attention alone; {result['runs']} runs of each clip for bits, one for moving "
        f"pixels of frames between (linear blend: {_number(result['blend'])} dB); in brackets how "
        "much that is of full attention's. CPU seconds of the network for a frame, of "
        f"{result['gap'] - 1} asked for at once; {_threads(result)}."
    )
    seconds = (f"s a frame of {side} pixels" for side in sides)
    head = ["attention", "bits, next frame", "bits, frames between", "moving, dB", *seconds]
    return f"{table(head, rows)}\n\n{text}"


def _memory(result: dict[str, Any]) -> str:
    rows = [
        [
            f"{run['frames']} frames",
            f"{run['peak_rss_bytes'] / 1e6:,.0f}",
            f"{1000 * run['seconds'] / run['frames']:.0f}",
        ]
        for run in result["runs"]
    ]
    width, height = result["size"]
    text = (
        f"Continuing a clip of {width}x{height} pixels; the long run takes {result['growth']:.3f}x the "
        "memory of the short one."
    )
    return f"{table(['continued by', 'peak memory, MB', 'ms a frame'], rows)}\n\n{text}"


def _layers(result: dict[str, Any]) -> str:
    kinds = list(result["kinds"])
    lines = [
        [f"{row['tokens']:,}", *(f"{1000 * row['seconds'][kind]:,.1f}" for kind in kinds)] for row in result["rows"]
    ]
    facts = {
        "exponent": lambda each: f"{each['exponent']:.2f}",
        "faster than full from": lambda each: (
            "" if each["crossover_tokens"] is None else f"{each['crossover_tokens']:,} tokens"
        ),
        "times as fast at the end": lambda each: f"{each['speedup_at_most_tokens']:.1f}x",
    }
    lines += [[name, *(text(result["kinds"][kind]) for kind in kinds)] for name, text in facts.items()]
    text = (
        f"Milliseconds of one layer with {result['heads']} head of {result['head_size']} channels, float32, on one CPU "
        f"thread, least of up to five runs; frames of {result['side']}x{result['side']} tokens. full is torch's scaled "
        f"dot product; a window has {' x '.join(map(str, result['window']))} tokens, a performer "
        f"{result['performer_features']} features. The exponent is that of the later half of the rows."
    )
    return f"{table(['tokens', *kinds], lines)}\n\n{text}"
