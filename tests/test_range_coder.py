"""The arithmetic coder: what is written comes back, at about the price that theory gives."""

import math

import numpy as np
import pytest

from tokenreel.tokens.range_coder import FULL, SQUASH, STRETCH, Coder
from tokenreel.tokens.symbol_models import Layout, Numbers


def written(code):
    coder = Coder(64, 4)
    code(coder)
    return coder.written()


@pytest.mark.parametrize("seed", range(8))
def test_digits_come_back(seed):
    rng = np.random.default_rng(seed)
    levels = rng.integers(2, 9, 4000)
    values = (rng.random(4000) ** rng.integers(1, 9) * levels).astype(int).tolist()
    contexts = rng.integers(0, 6, (4000, 3)).tolist()

    def run(coder, values):
        found = []
        for i, (value, level, (a, b, c)) in enumerate(zip(values, levels.tolist(), contexts, strict=True)):
            if i % 5 == 4:
                found.append(coder.bits(value, 3))
            elif i % 2:
                found.append(coder.plain(value, level, 8 * a))
            else:
                found.append(coder.digit(value, level, 8 * a, 8 * b, 8 * c, a % 4))
        return found

    writer = Coder(64, 4)
    assert run(writer, values) == values
    reader = Coder(64, 4, writer.written())
    assert run(reader, [0] * 4000) == values
    reader.close()


@pytest.mark.parametrize("chance", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("mixed", [False, True])
def test_price_is_near_the_entropy(chance, mixed):
    bits = (np.random.default_rng(0).random(20000) < chance).astype(int).tolist()
    size = len(written(lambda c: [c.digit(b, 2, 0, 2, 4, 0) if mixed else c.plain(b, 2, 0) for b in bits]))
    share = sum(bits) / len(bits)
    entropy = -(share * math.log2(share) + (1 - share) * math.log2(1 - share)) * len(bits) / 8
    assert entropy * 0.98 < size < entropy * 1.08 + 4


@pytest.mark.parametrize("bit", [0, 1])
def test_a_surprise_after_a_long_run_comes_back(bit):
    values = [*[bit] * 5000, 1 - bit, *[bit] * 5000, 1 - bit]
    for digit in (lambda c, v: c.plain(v, 2, 0), lambda c, v: c.digit(v, 2, 0, 2, 4, 0)):
        data = written(lambda c, digit=digit: [digit(c, v) for v in values])
        reader = Coder(64, 4, data)
        assert [digit(reader, 0) for _ in values] == values and len(data) < 60
        reader.close()


def test_nothing_takes_no_byte():
    assert written(lambda coder: None) == b""
    Coder(8, 1, b"").close()


def test_reading_stops_where_the_bytes_end():
    reader = Coder(8, 1, b"\x12\x34")
    with pytest.raises(ValueError, match="its payload ends before the last frame"):
        reader.bits(0, 1000)


@pytest.mark.parametrize("more", [b"\0", b"\xff", b"\0\0\0\0\0"])
def test_other_ends_are_refused(more):
    data = written(lambda coder: coder.bits(0b1011011101111, 13))
    reader = Coder(64, 4, data + more)
    assert reader.bits(0, 13) == 0b1011011101111
    with pytest.raises(ValueError, match="goes on behind the last frame"):
        reader.close()


def test_tables_are_monotone_and_inverse():
    assert list(SQUASH) == sorted(SQUASH) and list(STRETCH) == sorted(STRETCH)
    assert all(SQUASH[STRETCH[q] + 2047] >= q for q in range(4095))
    assert SQUASH[0] > 0 and SQUASH[-1] < 4096 and FULL == 2**32 - 1


@pytest.mark.parametrize("value", [0, 1, -1, 127, -128, 2**62, -(2**64)])
def test_numbers_come_back(value):
    def run(value, data=None):
        layout = Layout()
        numbers = Numbers(layout, 65)
        coder = Coder(layout.chances, 1, data)
        return numbers.code(coder, value), coder

    found, coder = run(value)
    again, reader = run(0, coder.written())
    reader.close()
    assert found == again == value
