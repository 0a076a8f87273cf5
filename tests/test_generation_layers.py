"""The time of attention layers is measured by kind and number of tokens."""

import pytest

from tokenreel.benchmarks.generation_layers import _slope, measure_layers
from tokenreel.models.attention import KINDS


def test_rows():
    told = []
    found = measure_layers(told.append, frames=(1, 2))
    assert [row["tokens"] for row in found["rows"]] == [1024, 2048] and len(told) == 2
    assert all(set(row["seconds"]) == set(KINDS) and min(row["seconds"].values()) > 0 for row in found["rows"])
    assert found["kinds"]["full"]["speedup_at_most_tokens"] == 1 and found["kinds"]["full"]["crossover_tokens"] is None


def test_exponent_of_a_square():
    tokens = [2**n for n in range(10, 17)]
    assert _slope(tokens, [1e-9 * n**2 for n in tokens]) == pytest.approx(2)
