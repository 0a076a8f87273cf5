"""The time of attention layers is measured by kind and number of tokens."""

import argparse

import pytest

from tokenreel.benchmarks import results
from tokenreel.benchmarks.attention import _slope, attention_table, measure_attention
from tokenreel.models.attention import KINDS


def test_rows_and_table():
    told = []
    found = measure_attention(argparse.Namespace(), told.append, frames=(1, 2))
    assert [row["tokens"] for row in found["rows"]] == [1024, 2048] and len(told) == 2
    assert all(set(row["seconds"]) == set(KINDS) and min(row["seconds"].values()) > 0 for row in found["rows"])
    assert found["kinds"]["full"]["speedup_at_most_tokens"] == 1 and found["kinds"]["full"]["crossover_tokens"] is None
    table = attention_table({**results._provenance(), **found})
    assert "| 2,048 |" in table and "| exponent |" in table


def test_exponent_of_a_square():
    tokens = [2**n for n in range(10, 17)]
    assert _slope(tokens, [1e-9 * n**2 for n in tokens]) == pytest.approx(2)
