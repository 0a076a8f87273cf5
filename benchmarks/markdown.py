"""What all tables are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first column to the left, the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def origin(result: dict[str, Any]) -> str:
    """When, with what and on which machine a result was measured."""
    machine, weights = result["machine"], ", ".join(f"{k} {v[:8]}" for k, v in result["weights"].items())
    weights = f"weights {weights}, " if weights else ""
    return (
        f"<sub>Measured {result['date']} with version {result['version']}, {weights}torch {result['torch']}, "
        f"{result['libraries']}, on {machine['cores']} cores ({machine['cpu']}).</sub>"
    )
