"""The README's tables of the upscaler."""

from __future__ import annotations

from typing import Any

from .markdown import origin, table


def upscaling_table(result: dict[str, Any]) -> str:
    """How good upscaled stills are; what reuse computes, saves and costs; the joint mode; memory; flicker."""
    makers = {"stills": _stills}
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
