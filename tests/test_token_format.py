"""docs/token_format.md is normative: what it says is what the code does."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from token_page_reader import PageReader

import tokenreel
from tokenreel.models.motion import compensate, half_pel_planes
from tokenreel.models.quantizers import FSQ
from tokenreel.tokens import accounting, bitstream, range_coder, version1, video_tokens
from tokenreel.tokens.bitstream import tokens_to_bytes
from tokenreel.tokens.video_tokens import CFrame, IFrame

PAGE = (Path(tokenreel.__file__).parent / "docs" / "token_format.md").read_text(encoding="utf-8")


def section(number):
    return re.search(rf"^## {number}\. .*?(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)[0]


def table(number):
    """Cells of the rows of the tables in a section, backticks removed; headings and rulers left out."""
    rows = [line.strip("|").split("|") for line in section(number).splitlines() if line.startswith("|")]
    return [[cell.strip().replace("`", "") for cell in row] for row in rows if not set(row[0]) <= set("- ")][1:]


def half_steps(plane, axis):
    """Section 6, step 1, to the letter."""
    size = plane.shape[axis]
    p = [np.take(plane, np.clip(np.arange(size) + i, 0, size - 1), axis) for i in range(-2, 4)]
    return np.clip((p[0] - 5 * p[1] + 20 * p[2] + 20 * p[3] - 5 * p[4] + p[5] + 16) // 32, 0, 255)


def test_prediction_is_the_one_of_section_6():
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 256, (32, 48))
    motion = rng.integers(-160, 160, (2, 3, 2))
    right, down = half_steps(reference, 1), half_steps(reference, 0)
    planes = [[reference, right], [down, half_steps(right, 0)]]
    s = [int(number) for number in re.search(r"s = ([\d, ]+)`", section(6))[1].split(", ")]
    assert len(s) == 16

    def warped(y, x, vector):
        dy, dx = vector
        return planes[dy & 1][dx & 1][np.clip(y + dy // 2, 0, 31), np.clip(x + dx // 2, 0, 47)]

    def shares(position, blocks):
        own, i = divmod(position, 16)
        near = own - 1 if i < 8 else own + 1
        return (own, s[i]), (near if 0 <= near < blocks else own, 16 - s[i])

    expected = np.zeros_like(reference)
    for y, x in np.ndindex(32, 48):
        for row, down_share in shares(y, 2):
            for column, across in shares(x, 3):
                expected[y, x] += down_share * across * warped(y, x, motion[row, column])
    frame = torch.from_numpy(reference.astype(np.uint8))[None, None]
    predicted = compensate(half_pel_planes(frame), torch.from_numpy(motion)[None])
    np.testing.assert_array_equal(predicted[0, 0].numpy(), (expected + 128) // 256)


def test_code_is_the_index_of_section_5():
    levels, digits = (8, 5, 3), np.array([6, 1, 2])
    quantizer = FSQ(levels)
    index = digits[0] + 8 * (digits[1] + 5 * digits[2])
    codes = quantizer.indices_to_codes(torch.tensor([index]))[0]
    steps = quantizer.indices_to_codes(torch.arange(8 * 5 * 3))  # [n, 3]
    for i, (level, digit) in enumerate(zip(levels, digits, strict=True)):
        values = steps[:, i].unique(sorted=True)
        assert len(values) == level and codes[i] == values[digit]


def test_fields_are_those_of_section_2():
    named = [name for row in table(2) for name in row[0].split(", ")]
    assert sorted(named) == sorted(bitstream.FIELDS["2"])


@pytest.mark.parametrize(("codes", "type_of_codes"), [(65536, "U16"), (65537, "U32")])
def test_arrays_are_those_of_section_11(codes, type_of_codes):
    rows = [(name, type_of_codes if dtype == "C" else dtype) for _, name, dtype, *_ in table(11)]
    assert rows == list(version1.layout(codes).items())


def test_coder_is_that_of_section_3():
    text = section(3)
    knots = [int(value) for line in re.findall(r"^    ([\d ]+)$", text, re.MULTILINE) for value in line.split()]

    def squash(x):
        j, f = (x + 2048) >> 7, (x + 2048) & 127
        return (knots[j] * (128 - f) + knots[j + 1] * f + 64) >> 7

    assert tuple(squash(x) for x in range(-2047, 2048)) == range_coder.SQUASH
    least = [next((x for x in range(-2047, 2048) if squash(x) >= q), 2047) for q in range(0, 4096, 5)]
    assert range_coder.STRETCH[::5] == tuple(least)
    assert tuple(65536 * 5 // (5 * n + 8) for n in range(121)) == range_coder.RATE
    for fact in ("up to 120.", "`max(p, 32)`", f"weights, {range_coder.WEIGHT} each", f"- m) * {range_coder.STEP}`"):
        assert fact in text


@pytest.mark.parametrize("name", ["golden_v2.tokens", "golden_v2_groups.tokens", "noise", "odd levels"])
def test_a_reader_that_follows_section_3_reads_files(random_tokens, name):
    if name.endswith(".tokens"):
        tokens = bitstream.read_tokens(Path(__file__).parent / "data" / name)
    else:
        tokens = random_tokens(5, frames=9, levels=(100, 3, 1000) if name == "odd levels" else (8, 5, 5))
    data = tokens_to_bytes(tokens)
    payload = data[8 + int.from_bytes(data[:8], "little") :]
    reader = PageReader(payload, tokens.levels, (tokens.grid[0] // 2, tokens.grid[1] // 2))
    assert reader.times(len(tokens.pts)) == list(tokens.pts)
    for frame in tokens.frames:
        if isinstance(frame, CFrame):
            assert reader.codes_of_grid() == frame.codes.tolist()
            continue
        kind, *found = reader.frame()
        if isinstance(frame, IFrame):
            assert kind == "I" and found[0] == frame.codes.tolist()
        elif kind == "still":
            assert not frame.modes.any() and frame.global_motion == (0, 0)
        else:
            motion, modes, deltas, masks, residual, intra = found
            assert (motion, list(modes.values())) == (frame.global_motion, frame.modes.ravel().tolist())
            assert [list(delta) for delta in deltas] == frame.motion.tolist() and masks == frame.masks.tolist()
            assert residual == frame.residual.tolist() and intra == frame.intra.ravel().tolist()
    rest = payload[reader.at :]
    assert rest == (bytes([-(-reader.low >> 24)]) if reader.low else b"")


def test_symbols_are_those_of_section_5():
    text = section(5)
    assert f"0 .. {accounting.INTRA_SYMBOL - 1} |" in text
    assert f"| {accounting.INTRA_SYMBOL} | a block of mode INTRA |" in text
    assert f"| {accounting.SKIP_SYMBOL} + r, r = 1 .. {accounting.MAX_RUN} |" in text
    assert f"| {accounting.LAST_SYMBOL + 1} .. 65535 | reserved" in text


def test_limits_are_those_of_section_7():
    limits = dict(table(7))
    assert limits == {
        "file": f"4 GiB (2^{bitstream.MAX_FILE_BYTES.bit_length() - 1} bytes)",
        "header": f"64 KiB (2^{bitstream.MAX_HEADER_BYTES.bit_length() - 1} bytes)",
        "side of the picture": f"{video_tokens.MAX_SIDE} pixels",
        "frames": f"2^{bitstream.MAX_FRAMES.bit_length() - 1}",
        "blocks of all frames together": f"2^{bitstream.MAX_BLOCKS.bit_length() - 1}",
        "codebook": f"2^{video_tokens.MAX_CODEBOOK.bit_length() - 1} codes",
    }


def test_kinds_are_those_of_section_10():
    assert tuple(row[0] for row in table(10)) == accounting.KINDS


def test_header_is_aligned_as_section_1_says(random_tokens):
    for levels in ((5,), (8, 8), (16, 16, 16, 17)):
        assert int.from_bytes(tokens_to_bytes(random_tokens(levels=levels))[:8], "little") % 8 == 0
