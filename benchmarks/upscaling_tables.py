"""The README's tables of the upscaler."""

from __future__ import annotations

from typing import Any

from .markdown import origin, table


def upscaling_table(result: dict[str, Any]) -> str:
    """How good upscaled stills are; what reuse computes, saves and costs; the joint mode; memory; flicker."""
    makers = {"stills": _stills, "reuse": _reuse, "joint": _joint, "memory": _memory, "flicker": _flicker}
    parts = [make(result[name]) for name, make in makers.items() if name in result]
    return "\n\n".join([*parts, origin(result)])


def _stills(rows: list[dict[str, Any]]) -> str:
    sets = list(dict.fromkeys(name for row in rows for name in row["psnr_y"]))
    lines = [
        [
            f"x{row['scale']}",
            row["method"],
            *(f"{row['psnr_y'][name]:.2f}" if name in row["psnr_y"] else "" for name in sets),
            f"{row['cpu_seconds_per_megapixel']:.2f}",
        ]
        for row in rows
    ]
    counts = ", ".join(f"{name} {rows[0]['pictures'][name]}" for name in sets)
    text = (
        f"PSNR of luma in dB, without a border as wide as the scale, mean over pictures ({counts}), and CPU seconds "
        "for a megapixel of the small picture on one thread, all from one run. Others' names are those of their files."
    )
    return f"{table(['', 'method', *sets, 's a megapixel'], lines)}\n\n{text}"


def _reuse(result: dict[str, Any]) -> str:
    kinds, parts = result["summary"], []
    for kind, title in (("static", "static camera"), ("moving", "moving")):
        rows = [[_named(row), *_reused(row)] for row in result["clips"] if row["static"] == (kind == "static")]
        if rows:
            median = [f"**median of {kinds[kind]['clips']}**", *_reused(kinds[kind])]
            parts.append(table([title, *_REUSED], [*rows, median]))
    left = ", ".join(each["clip"] for each in result["others"])
    text = (
        f"Clips made half as large and upscaled again with {result['engine']}; reuse at its default threshold, "
        f"{result['threshold']:g} grey levels. A camera counts as static where at most "
        f"{100 * result['static_share']:.0f} % of the tiles change from frame to frame (median). Lost is PSNR against "
        "computing every frame whole. CPU seconds of all that is done with a frame, beside ComfyUI's way with the same "
        f"network (tiles of 512 pixels, floats, as stated in its node) and beside whole frames; {_threads(result)}."
        f"{f' Could not be used: {left}.' if left else ''}"
    )
    return "\n\n".join([*parts, text])


_REUSED = ("changed", "dB, whole", "tiles computed", "dB lost", "time, of core's", "of whole frames")


def _reused(row: dict[str, Any]) -> list[str]:
    return [
        f"{100 * row['changed']:.1f} %" if "changed" in row else "",
        f"{row['psnr']['whole']:.2f}" if "psnr" in row else "",
        f"{100 * row['computed_fraction']:.1f} %",
        f"{row['lost']:+.2f}",
        f"{row['to_core']:.2f}x",
        f"{row['to_whole']:.2f}x",
    ]


def _named(row: dict[str, Any]) -> str:
    return f"{row['clip']} ({row['frames']} of {row['size'][0]}x{row['size'][1]})"


def _threads(result: dict[str, Any]) -> str:
    return "one thread" if result["threads"] == 1 else f"{result['threads']} threads"


def _memory(result: dict[str, Any]) -> str:
    rows = [
        [
            f"{run['minutes']:g} min, {run['source_frames']:,} frames",
            f"{run['peak_rss_bytes'] / 1e6:,.0f}",
            f"{100 * run['computed_fraction']:.1f} %",
            f"{1000 * run['seconds'] / run['frames']:.0f}",
        ]
        for run in result["runs"]
    ]
    width, height = result["size"]
    text = (
        f"Doubling the size of {width}x{height} with {result['engine']}, a square that moves over still ground; the "
        f"long run takes {result['growth']:.3f}x the memory of the short one. As IMAGE the frames of the long one, "
        f"before and after, would be {result['image_bytes'] / 1e9:.0f} GB (calculated)."
    )
    return f"{table(['', 'peak memory, MB', 'tiles computed', 'ms a frame'], rows)}\n\n{text}"


def _flicker(result: dict[str, Any]) -> str:
    rows = [
        [
            f"{each['noise']:g}",
            f"{each['whole']:.2f}",
            f"{each['reuse']:.2f}",
            f"{each['ratio']:.2f}x",
            f"{100 * each['computed_fraction']:.1f} %",
        ]
        for each in result["summary"]
    ]
    stills = len({row["clip"] for row in result["stills"]})
    text = (
        f"Mean difference from frame to frame, in grey levels, of {stills} stills with another noise in every frame "
        "(standard deviation in grey levels), upscaled whole and with reuse; tiles after the first frame."
    )
    head = ["noise", "whole frames", "with reuse", "of whole frames", "tiles computed"]
    return f"{table(head, rows)}\n\n{text}"


def _joint(result: dict[str, Any]) -> str:
    methods = list(result["clips"][0]["psnr"])
    after, joint = methods[:2]
    lines = [
        [
            _named(row),
            f"x{row['times']}",
            *(f"{row['psnr'][method]:.2f}" for method in methods),
            f"{row['gain']:+.2f}",
            f"{row['calls'][joint] / row['calls'][after]:.2f}x",
            f"{row['cpu_seconds'][joint] / row['cpu_seconds'][after]:.2f}x",
        ]
        for row in result["clips"]
    ]
    lines += [
        [
            f"**median of {each['clips']}**",
            f"x{each['times']}",
            *([""] * len(methods)),
            f"{each['gain']:+.2f}",
            f"{each['calls']:.2f}x",
            f"{each['cpu_seconds']:.2f}x",
        ]
        for each in result["summary"]
    ]
    left = ", ".join(f"{each['clip']} ({each['reason']})" for each in result["others"])
    text = (
        f"Frames that were left out of clips of half the size, found again at the full size with {result['engine']}: "
        f"PSNR in dB, RGB, mean over frames, on one thread. The last columns are those of *{joint}* beside *{after}*: "
        "dB, frames that the upscaler was given, CPU seconds of all. Every frame is upscaled whole."
        f"{f' Left out: {left}.' if left else ''}"
    )
    head = ["clip", "frames", *methods, "gain", "upscaled", "seconds"]
    return f"{table(head, lines)}\n\n{text}"
