"""The README's tables of the generator."""

from __future__ import annotations

from typing import Any

from .markdown import origin, table


def generation_table(result: dict[str, Any]) -> str:
    """What is measured of the generator, part by part, and the time of its attention layers."""
    makers = {"layers": _layers}
    parts = [make(result[name]) for name, make in makers.items() if name in result]
    return "\n\n".join([*parts, origin(result)])


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
