"""The README's tables of the interpolator."""

from __future__ import annotations

from typing import Any

from .markdown import origin, table


def interpolation_table(result: dict[str, Any]) -> str:
    """How good the frames are, what they cost where little moves, memory for a long clip, and time kept."""
    makers = {"quality": _quality, "static": _static, "memory": _memory, "drift": _drift}
    parts = [make(result[name]) for name, make in makers.items() if name in result]
    return "\n\n".join([*parts, origin(result)])


def _quality(sets: dict[str, Any]) -> str:
    methods = list(next(iter(sets.values()))["psnr"])
    rows = [
        [
            f"{name} ({each['frames']} of {each['size'][0]}x{each['size'][1]})",
            *(f"{each['psnr'][method]:.2f}" for method in methods),
        ]
        for name, each in sets.items()
    ]
    seconds = ", ".join(
        f"{method} {_mean([each['seconds_per_megapixel'][method] for each in sets.values()]):.2f}" for method in methods
    )
    text = (
        "PSNR of frames that were left out and found from their two neighbours, in dB, RGB, mean over frames. CPU "
        f"seconds a megapixel, on one thread, mean over the sets: {seconds}."
    )
    return f"{table(['set', *methods], rows)}\n\n{text}"


def _static(static: dict[str, Any]) -> str:
    rows = [
        [
            f"{clip['clip']}, {clip['size'][0]}x{clip['size'][1]}",
            f"{100 * clip['changed']:.1f} %",
            f"{100 * clip['computed_fraction']:.1f} %",
            *(f"{clip['seconds_per_megapixel'][name]:.2f}" for name in ("regions", "whole", "core")),
            f"{clip['ratio']:.2f}x",
            f"{clip['ratio_to_core']:.2f}x",
            f"{clip['psnr']['regions']:.2f} / {clip['psnr']['whole']:.2f}",
        ]
        for clip in static["clips"]
    ]
    head = [
        *("static camera", "changed", "computed", "s a megapixel, what moves", "whole frames"),
        *("RIFE 4.26's shape", "of whole frames", "of RIFE 4.26's shape", "dB, what moves / whole"),
    ]
    left = sum("changed" in each for each in static["others"])
    text = (
        "CPU seconds for a megapixel in between, one thread, in turn, frames doubled. These are all clips in which at "
        f"most {100 * static['static_share']:.0f} % of the tiles change from frame to frame (median); in the other "
        f"{left} more does. RIFE's shape has random weights, and runs in our order of arithmetic. PSNR is that of "
        "frames left out and found again."
    )
    return f"{table(head, rows)}\n\n{text}"


def _memory(memory: dict[str, Any]) -> str:
    rows = [
        [
            f"{run['minutes']:g} min, {run['source_frames']:,} frames to {run['frames']:,}",
            f"{run['peak_rss_bytes'] / 1e6:,.0f}",
            f"{run['seconds'] / run['frames'] * 1000:.0f}",
        ]
        for run in memory["runs"]
    ]
    W, H = memory["size"]
    text = (
        f"Doubling the frames of {W}x{H} with engine flow, a square that moves over still ground; the long run takes "
        f"{memory['growth']:.3f}x the memory of the short one. As IMAGE the frames of the long one, before and after, "
        f"would be {memory['image_bytes'] / 1e9:,.0f} GB (calculated)."
    )
    return f"{table(['', 'peak memory, MB', 'ms a frame'], rows)}\n\n{text}"


def _drift(rows: list[dict[str, Any]]) -> str:
    asked = list(dict.fromkeys(row["asked"] for row in rows))
    lines = []
    for source in dict.fromkeys(row["source"] for row in rows):
        found = {row["asked"]: row["off_by_frames"] for row in rows if row["source"] == source}
        lines.append([source, *(f"{found[each]:+.2f}" for each in asked)])
    core = {row["asked"]: row["core_off_by_frames"] for row in rows}
    lines.append(["core", *("" if core[each] is None else f"{core[each]:+.2f}" for each in asked)])
    text = (
        "By how many output frames the pictures end after those of the source, and so after their sound. Core's node "
        "makes (N - 1) times as many frames and one; it has no other rates."
    )
    return f"{table(['frames a second', *(f'to {each}' for each in asked)], lines)}\n\n{text}"


def _mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)
