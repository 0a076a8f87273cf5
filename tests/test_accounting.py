"""What a token is: symbols, counts, bits."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tokenreel.tokens.accounting import (
    INTRA_SYMBOL,
    KINDS,
    LAST_SYMBOL,
    block_costs,
    block_symbols,
    count,
    count_by_time,
    count_frame,
    header_symbol,
    parse_block_symbols,
    parse_header_symbol,
    report,
)
from tokenreel.tokens.video_tokens import Mode, PFrame

SHARES = [
    (1.0, 0.0, 0.0, 0.0),
    (0.0, 1.0, 0.0, 0.0),
    (0.0, 0.0, 1.0, 0.0),
    (0.0, 0.0, 0.0, 1.0),
    (0.25, 0.25, 0.25, 0.25),
    (0.97, 0.01, 0.01, 0.01),
    (0.998, 0.001, 0.001, 0.0),
]


def frame_with(coded, *, blocks=(20, 40)):
    """A P-frame whose blocks at the raster positions `coded` are INTRA and all others skipped."""
    modes = np.zeros(blocks, np.uint8)
    modes.ravel()[coded] = Mode.INTRA
    return PFrame((0, 0), modes, intra=np.zeros((len(coded), 4), np.int32))


class TestSymbols:
    @pytest.mark.parametrize("shares", SHARES)
    @pytest.mark.parametrize(("width", "height"), [(1, 1), (33, 17), (640, 368)])
    def test_arrays_come_back_from_symbols(self, random_tokens, shares, width, height):
        for frame in random_tokens(7, width=width, height=height, frames=4, shares=shares).frames[1:]:
            modes, motion, masks = parse_block_symbols(block_symbols(frame), frame.modes.shape)
            for parsed, original in ((modes, frame.modes), (motion, frame.motion), (masks, frame.masks)):
                assert parsed.dtype == original.dtype
                np.testing.assert_array_equal(parsed, original)

    def test_numbers_are_those_of_the_format(self):
        frame = PFrame(
            (0, 0),
            [[Mode.MOTION, Mode.SKIP, Mode.RESIDUAL, Mode.INTRA, Mode.MOTION, Mode.SKIP]],
            [[-31, -31], [0, 0], [31, 31]],
            [15],
            [0, 0, 0, 0],
            [[0, 0, 0, 0]],
        )
        assert block_symbols(frame).tolist() == [0, 63505, (31 * 63 + 31) * 16 + 15, 63504, 63488]
        assert (INTRA_SYMBOL, LAST_SYMBOL) == (63504, 63760)

    @pytest.mark.parametrize(
        ("position", "runs"), [(0, []), (1, [1]), (255, [255]), (256, [256]), (257, [256, 1]), (600, [256, 256, 88])]
    )
    def test_skip_runs_are_as_few_as_can_be(self, position, runs):
        assert block_symbols(frame_with([position])).tolist() == [*(63504 + run for run in runs), 63504]

    def test_trailing_run_is_not_written(self):
        assert block_symbols(frame_with([])).size == 0
        modes, _, _ = parse_block_symbols(np.zeros(0, np.uint16), (20, 40))
        assert modes.shape == (20, 40) and not modes.any()

    @pytest.mark.parametrize(
        ("symbols", "message"),
        [
            ([63761], r"Invalid block symbol \(63761\). Supported are 0 to 63760"),
            ([0, 63505], "end on a run of skipped blocks"),
            ([63505, 63505, 0], "fewer than 256 skipped blocks is followed by another run"),
            ([63760, 0], "cover 257 blocks of 2 x 3"),
            ([0] * 7, "cover 7 blocks of 2 x 3"),
        ],
    )
    def test_other_spellings_are_refused(self, symbols, message):
        with pytest.raises(ValueError, match=message):
            parse_block_symbols(np.array(symbols, np.uint16), (2, 3))

    def test_the_last_block_may_be_reached_exactly(self):
        modes, _, _ = parse_block_symbols(np.array([63509, 63504]), (2, 3))
        assert modes.tolist() == [[0, 0, 0], [0, 0, Mode.INTRA]]

    @pytest.mark.parametrize("motion", [(-128, -128), (0, 0), (127, 127), (-1, 5)])
    def test_header_comes_back(self, motion):
        symbol = header_symbol(PFrame(motion, [[0]]))
        assert 0 <= symbol < 65536 and parse_header_symbol(symbol) == motion

    @pytest.mark.parametrize("symbol", [-1, 65536])
    def test_header_out_of_range_is_refused(self, symbol):
        with pytest.raises(ValueError, match="Invalid header symbol"):
            parse_header_symbol(symbol)


class TestCounts:
    def test_repeated_frame_costs_one_token(self):
        assert sum(count_frame(frame_with([])).values()) == 1

    def test_each_kind_is_counted(self):
        frame = PFrame(
            (0, 0),
            [[Mode.SKIP, Mode.MOTION, Mode.RESIDUAL, Mode.INTRA, Mode.SKIP]],
            [[0, 0], [0, 0]],
            [7],
            [0, 0, 0],
            [[0, 0, 0, 0]],
        )
        assert count_frame(frame) == {
            "key": 0,
            "header": 1,
            "skip_run": 1,
            "motion": 2,
            "residual": 3,
            "intra": 5,
            "clip": 0,
        }
        assert block_costs(frame).tolist() == [[0, 1, 4, 5, 0]]

    @pytest.mark.parametrize("shares", SHARES)
    def test_counts_are_the_symbols_that_are_written(self, random_tokens, shares):
        tokens = random_tokens(11, frames=9, shares=shares)
        counted = count(tokens)
        written = 0
        for frame in tokens.frames:
            if isinstance(frame, PFrame):
                written += 1 + block_symbols(frame).size + frame.residual.size + frame.intra.size
            else:
                written += frame.codes.size
        assert counted.tokens == written == sum(counted.by_kind.values()) == sum(counted.per_frame)
        assert tuple(counted.by_kind) == KINDS and len(counted.per_frame) == 9

    def test_block_costs_leave_out_headers_and_runs(self, random_tokens):
        tokens = random_tokens(2, frames=9)
        inside = sum(int(block_costs(frame).sum()) for frame in tokens.frames)
        by_kind = count(tokens).by_kind
        assert inside == count(tokens).tokens - by_kind["header"] - by_kind["skip_run"]

    def test_costs_of_a_padded_key_frame_cover_the_padding(self, random_tokens):
        tokens = random_tokens(width=17, height=16, frames=1)
        assert block_costs(tokens.frames[0]).tolist() == [[4, 4]]
        assert count(tokens).tokens == 8

    def test_groups_are_shared_out_over_their_frames(self, group_tokens):
        tokens = group_tokens(frames=8, width=48, height=32)  # spans 1, 4 and 3 of 24 codes each
        counted = count(tokens)
        assert counted.per_frame == [24, 6, 6, 6, 6, 8, 8, 8]
        assert counted.tokens == counted.by_kind["clip"] == 72 and counted.bits == 72 * 8
        assert [int(block_costs(frame)[0, 0]) for frame in tokens.frames] == [4, 1, 1]
        assert report(tokens)["frames"] == 8
        assert report(tokens)["bits_per_pixel"] == pytest.approx(72 * 8 / (8 * 48 * 32))

    def test_shares_add_up_whatever_the_size(self, group_tokens):
        tokens = group_tokens(frames=4, width=10, height=10)
        assert count(tokens).per_frame == [4, 2, 1, 1]
        assert [kinds["clip"] for kinds in count_by_time(tokens)] == [4, 2, 1, 1]

    @pytest.mark.parametrize(("levels", "bits"), [((2,), 1), ((8, 8), 6), ((3, 3), 4), ((8, 8, 8, 5, 5, 5), 16)])
    def test_bits_of_codes_are_rounded_up(self, random_tokens, levels, bits):
        assert count(random_tokens(frames=1, width=16, height=16, levels=levels)).bits == 4 * bits

    def test_bits_add_symbols_and_codes(self, random_tokens):
        tokens = random_tokens(3, frames=5, levels=(8, 5, 5))  # 200 codes: 8 bits
        codes = sum(f.residual.size + f.intra.size if isinstance(f, PFrame) else f.codes.size for f in tokens.frames)
        counted = count(tokens)
        assert counted.bits == codes * 8 + (counted.tokens - codes) * 16


class TestReport:
    def test_keys_and_values(self, random_tokens):
        tokens = random_tokens(frames=6)
        result = report(tokens)
        assert list(result) == [
            "frames",
            "width",
            "height",
            "frame_rate",
            "duration",
            "tokens",
            "tokens_per_second",
            "tokens_by_kind",
            "bits",
            "bits_per_pixel",
        ]
        assert (result["frames"], result["width"], result["height"]) == (6, 70, 45)
        assert result["frame_rate"] == pytest.approx(23.976, abs=1e-3)
        assert result["tokens_per_second"] == pytest.approx(result["tokens"] / float(tokens.duration))
        assert result["bits_per_pixel"] == pytest.approx(result["bits"] / (6 * 70 * 45))

    def test_is_json(self, random_tokens):
        result = report(random_tokens(), file_bytes=123)
        assert json.loads(json.dumps(result)) == result and result["file_bytes"] == 123

    def test_duration_counts_not_frames(self, random_tokens):
        tokens = random_tokens()
        slower = replace(tokens, duration=tokens.duration * 2)
        assert report(slower)["tokens_per_second"] == pytest.approx(report(tokens)["tokens_per_second"] / 2)
