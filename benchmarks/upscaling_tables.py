"""The README's tables of the upscaler."""

from __future__ import annotations

from typing import Any

from .markdown import origin, table


def upscaling_table(result: dict[str, Any]) -> str:
    """How good upscaled stills are; what reuse computes, saves and costs; the joint mode; memory; flicker."""
    makers = {"stills": _stills, "joint": _joint}
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


def _joint(result: dict[str, Any]) -> str:
    methods = list(result["clips"][0]["psnr"])
    after, joint = methods[:2]
    lines = [
        [
            f"{row['clip']} ({row['frames']} of {row['size'][0]}x{row['size'][1]})",
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
