"""The README's table of changes of shot."""

from __future__ import annotations

from statistics import median
from typing import Any

from .markdown import origin, table


def shots_table(result: dict[str, Any]) -> str:
    """Scores on composed reels, then what is missed and made up in the clips themselves."""
    return "\n\n".join([_reels(result), _explained(result), _clips(result), _cost(result), origin(result)])


def _shown(result: dict[str, Any]) -> dict[str, str]:
    """Which methods are shown, and how they are called."""
    ours = [name for name in result["methods"] if not name.startswith("PySceneDetect")]
    shown = {name: f"**{name}**" if index == 0 else name for index, name in enumerate(ours)}
    shown |= {name: f"{name} (default)" for name in result["defaults"]}
    for name in result["best"].values():
        shown[name] = f"{name} ({'default, and ' if name in result['defaults'] else ''}best of those tried)"
    return shown


def _reels(result: dict[str, Any]) -> str:
    rows = []
    for name, called in _shown(result).items():
        each = result["methods"][name]
        recall, precision = each["recall_by_kind"], each["precision_by_kind"]
        rows.append(
            [
                called,
                *(f"{100 * each[key]:.1f}" for key in ("f1", "precision", "recall")),
                *(f"{100 * recall[kind]:.1f}" for kind in ("cut", "dissolve", "fade")),
                *("" if value is None else f"{100 * value:.1f}" for value in precision.values()),
                " / ".join(str(count) for count in each["false_at"].values()),
                f"{each['ms_per_frame']:.2f}",
            ]
        )
    head = [
        "%",
        "F1",
        "precision",
        "recall",
        "of cuts",
        "of dissolves",
        "of fades",
        "precision of cuts",
        "of gradual",
    ]
    return table([*head, "false at " + " / ".join(result["negatives"]), "ms a frame"], rows)


def _explained(result: dict[str, Any]) -> str:
    kinds, negatives = result["kinds"], result["negatives"]
    ours = next(iter(result["methods"].values()))
    tried = ", ".join(name.removeprefix("PySceneDetect ") for name in result["methods"] if "SceneDetect" in name)
    listed = ", ".join(f"{count} {kind}s" for kind, count in kinds.items())
    happened = ", ".join(f"{count} times {kind}" for kind, count in negatives.items())
    settings = result["settings"]
    return (
        f"{result['changes']} changes ({listed}) in {settings['reels']} reels, {result['frames']:,} frames of 256x144 "
        f"pixels, composed from {settings['clips_composed_from']} shots that were not trained on and written as H.264; "
        f"within shots {happened}, which are no changes. A cut counts as found within {settings['tolerance']} frame, a "
        "gradual change when one detection lies within it. Of the changes found, ours call "
        f"{100 * ours['kind_accuracy']:.1f} % by the right name. {result['peer']} was run with the thresholds {tried}; "
        "the best was chosen on these reels, in its favour. Milliseconds are those of all cores, with decoding."
    )


def _clips(result: dict[str, Any]) -> str:
    shown = _shown(result)
    rows = []
    for clip in result["clips"]:
        cells = [f"{len(each['missed'])} / {len(each['false'])}" for each in map(clip["outcome"].get, shown)]
        rows.append([clip["clip"], str(clip["changes"]), *cells])
    sums = [
        " / ".join(str(sum(len(clip["outcome"][name][key]) for clip in result["clips"])) for key in ("missed", "false"))
        for name in shown
    ]
    total = sum(clip["changes"] for clip in result["clips"])
    head = ["clips as they are: missed / false", "changes", *shown.values()]
    rows = [
        ["**all**", str(total), *sums],
        *(row for row in rows if any(cell != "0 / 0" for cell in row[2:]) or row[1] != "0"),
    ]
    quiet = len(result["clips"]) - len(rows) + 1
    text = f"On {quiet} more clips, of a single shot each, nobody finds anything." if quiet else ""
    return "\n\n".join(part for part in (table(head, rows), text) if part)


def _cost(result: dict[str, Any]) -> str:
    costs = [clip["cost"] for clip in result["clips"]]
    large = [each for each in costs if max(each["size"]) >= 1280] or costs
    (ours, decoding), (ours_large, decoding_large) = (
        [median(each[key] for each in group) for key in ("ms", "decode_ms")] for group in (costs, large)
    )
    return (
        f"Measuring takes {ours:.1f} ms a frame beside {decoding:.1f} ms for decoding it (of all cores; median over "
        f"these clips); from 1280 pixels on {ours_large:.1f} beside {decoding_large:.1f} ms."
    )
