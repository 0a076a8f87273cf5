"""The generator's tables say what the results say."""

from tokenreel.benchmarks.generation_tables import generation_table

ORIGIN = {
    "date": "2026-11-23",
    "version": "0.1.0",
    "weights": {"generator": "0123456789"},
    "torch": "2",
    "libraries": "PyAV",
    "machine": {"cores": 2, "cpu": "some"},
}
LAYERS = {
    "heads": 1,
    "head_size": 64,
    "side": 32,
    "window": [4, 16, 16],
    "performer_features": 128,
    "rows": [{"tokens": 2048, "seconds": {"full": 0.008, "linear": 0.0004}}],
    "kinds": {
        "full": {"exponent": 2.0, "crossover_tokens": None, "speedup_at_most_tokens": 1.0},
        "linear": {"exponent": 1.08, "crossover_tokens": 1024, "speedup_at_most_tokens": 20.0},
    },
}


def rows_of(result):
    text = generation_table({**ORIGIN, **result})
    return [line for line in text.splitlines() if line.startswith("| ")], text


def test_layers():
    rows, text = rows_of({"layers": LAYERS})
    assert rows[2:] == [
        "| 2,048 | 8.0 | 0.4 |",
        "| exponent | 2.00 | 1.08 |",
        "| faster than full from |  | 1,024 tokens |",
        "| times as fast at the end | 1.0x | 20.0x |",
    ]
    assert "4 x 16 x 16 tokens" in text and "128 features" in text
