"""The README's tables of patched models."""

from __future__ import annotations

from typing import Any

from .markdown import origin, table


def patching_table(result: dict[str, Any]) -> str:
    """Time of forwards."""
    makers = {"forward": _forward}
    parts = [make(result[name]) for name, make in makers.items() if name in result]
    return "\n\n".join([*parts, origin(result)])


def _forward(result: dict[str, Any]) -> str:
    shapes = result["shapes"]
    names = [row["patch"] for row in next(iter(shapes.values()))["rows"]]
    by_name = [{row["patch"]: row for row in shape["rows"]} for shape in shapes.values()]
    rows = [
        [name, *(f"{rows[name]['seconds']:.2f} s, {rows[name]['speedup']:.2f}x" for rows in by_name)] for name in names
    ]
    return table(["whole forward", *(f"{name} channels" for name in shapes)], rows)
