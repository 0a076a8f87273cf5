"""Token files of version 1 are read for ever, and nothing is accepted that was not written."""

import hashlib
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from token_files import changed, forged, golden_tokens, payload_of_version_1, signed, taken_apart

from tokenreel.tokens import bitstream
from tokenreel.tokens.accounting import count
from tokenreel.tokens.bitstream import TokenFileError, read_tokens, tokens_from_bytes

GOLDEN = Path(__file__).parent / "data" / "golden_v1.tokens"


@pytest.fixture(scope="module")
def golden_bytes():
    return GOLDEN.read_bytes()


class TestGolden:
    def test_is_read_as_it_was_written(self):
        assert read_tokens(GOLDEN) == golden_tokens()

    def test_has_the_values_of_these_tokens(self, golden_bytes):
        assert taken_apart(golden_bytes)[1] == payload_of_version_1(golden_tokens())

    def test_is_the_one_that_was_committed(self, golden_bytes):
        assert (
            hashlib.sha256(golden_bytes).hexdigest()
            == "55f863b841434243ba368935492e6a4ff3516271c69013a335715ed2956a1769"
        )

    def test_has_every_kind_of_token(self):
        by_kind = count(golden_tokens()).by_kind
        assert by_kind == {"key": 560, "header": 3, "skip_run": 2, "motion": 3, "residual": 4, "intra": 355, "clip": 0}


class TestDamage:
    def test_every_flipped_bit_is_noticed(self, golden_bytes):
        """All of them: header length, header, payload."""
        data = bytearray(golden_bytes)
        for position in range(len(data)):
            for bit in range(8):
                data[position] ^= 1 << bit
                with pytest.raises(TokenFileError):
                    tokens_from_bytes(bytes(data))
                data[position] ^= 1 << bit

    def test_every_truncation_is_noticed(self, golden_bytes):
        for size in range(len(golden_bytes)):
            with pytest.raises(TokenFileError, match=r"cut off|not a token file"):
                tokens_from_bytes(golden_bytes[:size])

    def test_every_lost_or_doubled_byte_is_noticed(self, golden_bytes):
        for at in range(len(golden_bytes)):
            for damaged in (
                golden_bytes[:at] + golden_bytes[at + 1 :],
                golden_bytes[: at + 1] + golden_bytes[at : at + 1] + golden_bytes[at + 1 :],
            ):
                with pytest.raises(TokenFileError):
                    tokens_from_bytes(damaged)

    def test_trailing_bytes_are_refused(self, golden_bytes):
        with pytest.raises(TokenFileError, match=r"longer than its contents: \d+ bytes instead of \d+"):
            tokens_from_bytes(golden_bytes + b"\0")

    @pytest.mark.parametrize(
        ("region", "message"), [("metadata", "SHA-256 does not match"), ("payload", "SHA-256 does not match")]
    )
    def test_digest_covers_header_and_payload(self, golden_bytes, region, message):
        at = golden_bytes.index(b'"tokenizer":"i8"') + 14 if region == "metadata" else len(golden_bytes) - 1
        data = bytearray(golden_bytes)
        data[at] ^= 1
        with pytest.raises(TokenFileError, match=message):
            tokens_from_bytes(bytes(data))


class TestHostile:
    def test_a_correct_forgery_is_accepted(self, golden_bytes):
        """Or else the tests below would fail for the wrong reason."""
        assert tokens_from_bytes(forged(golden_bytes)) == golden_tokens()

    @pytest.mark.parametrize("size", [0, 1, 1 << 16, (1 << 16) + 1, 1 << 31, 1 << 63, (1 << 64) - 1])
    def test_header_length_is_not_believed(self, golden_bytes, size):
        data = size.to_bytes(8, "little") + golden_bytes[8:]
        tracemalloc.start()
        with pytest.raises(TokenFileError, match="header"):
            tokens_from_bytes(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20

    def test_huge_sizes_are_refused_before_memory_is_taken(self, golden_bytes):
        """40 frames of 65536 x 65536 would be 671 million blocks."""
        data = forged(
            golden_bytes,
            metadata={"width": "65536", "height": "65536"},
            arrays={"kind": lambda kinds: np.repeat(kinds, 8)},
        )
        tracemalloc.start()
        with pytest.raises(TokenFileError, match=r"40 frames of 65536x65536 are more than \d+ blocks; split the clip"):
            tokens_from_bytes(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20

    def test_frames_without_codes_take_no_memory(self, golden_bytes):
        data = forged(golden_bytes, metadata={"width": "65536", "height": "65536"})
        tracemalloc.start()
        with pytest.raises(TokenFileError, match=r"frame 0: its array 'key' has 560 values, more are needed"):
            tokens_from_bytes(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20

    def test_number_of_frames_is_capped(self, golden_bytes, monkeypatch):
        monkeypatch.setattr(bitstream, "MAX_FRAMES", 4)
        with pytest.raises(TokenFileError, match="it has 5 frames; supported are 1 to 4"):
            tokens_from_bytes(golden_bytes)

    @pytest.mark.parametrize(
        ("metadata", "message"),
        [
            ({"format": "pt"}, "a safetensors file, but not of video tokens"),
            ({"version": "3"}, r"its format version is '3', this TokenReel reads 1 and 2\. Update TokenReel"),
            ({"version": "2"}, "its field 'frames' is missing"),
            ({"version": "1.0"}, "its format version is '1.0'"),
            ({"comment": "hello"}, "its field 'comment' is not one of version 1"),
            ({"width": "0"}, "its width is '0', not a number above 0"),
            ({"width": "+555"}, "its width is"),
            ({"width": " 555"}, "its width is"),
            ({"width": "9" * 30}, "its width is"),
            ({"height": "70000"}, "a side has at most 65536"),
            ({"height": "33"}, "frame 4: its array 'key' has 560 values, more are needed"),
            ({"frame_rate": "29.97"}, "its frame_rate is '29.97', not a fraction in lowest terms"),
            ({"frame_rate": "60/2"}, "its frame_rate is '60/2', not a fraction in lowest terms"),
            ({"time_base": "1/0"}, "its time_base is"),
            ({"duration": "-1/2"}, "its duration is"),
            ({"duration": "1/90000"}, "the last frame begins"),
            ({"levels": "8,8,x"}, "its levels are '8,8,x'"),
            ({"levels": ""}, "its levels are ''"),
            ({"levels": ",".join(["2"] * 25)}, "not at most 24 numbers"),
            ({"levels": "8,8,8,5,5,4"}, r"Invalid code \d+ in frame"),
            ({"levels": "8,8,8,5,5,1"}, "Invalid levels"),
            ({"levels": "256,256,2"}, "its array 'key' is not 560 x U32"),
            ({"tokenizer": ""}, "Invalid tokenizer"),
            ({"tokenizer_sha256": "F" * 64}, "Invalid digest"),
            ({"codec": "", "codec_sha256": ""}, "P-frames need the name and digest"),
        ],
    )
    def test_metadata_is_checked(self, golden_bytes, metadata, message):
        with pytest.raises(TokenFileError, match=message):
            tokens_from_bytes(forged(golden_bytes, metadata=metadata))

    @pytest.mark.parametrize("name", ["width", "duration", "tokenizer_sha256", "codec"])
    def test_missing_fields_are_named(self, golden_bytes, name):
        with pytest.raises(TokenFileError, match=f"its field '{name}' is missing"):
            tokens_from_bytes(forged(golden_bytes, without=(name,)))

    @pytest.mark.parametrize("name", ["pts", "kind", "intra"])
    def test_missing_arrays_are_named(self, golden_bytes, name):
        with pytest.raises(TokenFileError, match=f"its array '{name}' is missing"):
            tokens_from_bytes(forged(golden_bytes, without=(name,)))

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"kind": changed(0, 1)}, "frame 3: its array 'header' has 3 values, more are needed"),
            ({"kind": changed(1, 2)}, "frame 1: its kind is 2, supported are 0 and 1"),
            ({"kind": lambda v: v[:-1]}, "array 'key' has 560 values, only 280 are used"),
            ({"kind": lambda v: v[:0]}, "it has 0 frames"),
            ({"pts": changed(1, -4000)}, "frame 1 is at -4000, not after frame 0 at -3003"),
            ({"pts": lambda v: v[:-1]}, "4 time stamps for 5 frames"),
            ({"key": changed(3, 64000)}, "Invalid code 64000 in frame 0"),
            ({"key": lambda v: v[:-1]}, "frame 4: its array 'key' has 559 values, more are needed"),
            ({"residual": lambda v: np.append(v, 0)}, "array 'residual' has 5 values, only 4 are used"),
            ({"intra": changed(-1, 65535)}, "Invalid code 65535 in frame 3"),
            ({"header": lambda v: v[1:]}, "frame 3: its array 'header' has 2 values"),
            ({"blocks": changed(0, 63761)}, r"frame 1: Invalid block symbol \(63761\)"),
            ({"blocks": changed(2, 63760)}, "frame 1: Invalid block symbols: they cover"),
            ({"symbols_per_frame": changed(0, 2**32 - 1)}, "frame 1: its array 'blocks'"),
            ({"symbols_per_frame": changed(1, 1)}, "frame 3: its array 'blocks' has"),
        ],
    )
    def test_arrays_are_checked(self, golden_bytes, arrays, message):
        with pytest.raises(TokenFileError, match=message):
            tokens_from_bytes(forged(golden_bytes, arrays=arrays))

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            ({"dtype": "F32"}, r"'kind' is not 5 x U8 at byte \d+"),
            ({"shape": [5, 1]}, r"has the shape \[5, 1\]"),
            ({"shape": [-5]}, r"has the shape \[-5\]"),
            ({"shape": [True]}, r"has the shape \[True\]"),
            ({"shape": [1 << 63]}, r"has the shape \[9223372036854775808\]"),
            ({"shape": [1 << 30]}, "'kind' is not 1073741824 x U8"),
            ({"data_offsets": [0, 5]}, "'kind' is not 5 x U8"),
            ({"note": 1}, "'kind' is not 5 x U8"),
        ],
    )
    def test_array_entries_are_exact(self, golden_bytes, entry, message):
        header, payload = taken_apart(golden_bytes)
        header["kind"].update(entry)
        with pytest.raises(TokenFileError, match=message):
            tokens_from_bytes(signed(header, payload))

    def test_random_forgeries_are_refused_or_mean_what_they_say(self, golden_bytes):
        """Whatever correctly signed bytes get through are those that their own tokens are written as."""
        rng = np.random.default_rng(2024)
        header, payload = taken_apart(golden_bytes)
        accepted = 0
        for _ in range(1500):
            changed_payload = bytearray(payload)
            for _ in range(rng.integers(1, 4)):
                changed_payload[rng.integers(len(payload))] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
            data = signed(header, bytes(changed_payload))
            try:
                tokens = tokens_from_bytes(data)
            except TokenFileError as error:
                assert "\n" not in str(error)
            else:
                assert payload_of_version_1(tokens) == bytes(changed_payload)
                accepted += 1
        assert 100 < accepted < 1500  # other codes are other pictures; other structure is none

    def test_digest_must_be_written_plainly(self, golden_bytes):
        header, payload = taken_apart(golden_bytes)
        text = json.dumps(header).encode()  # with a space behind each colon
        with pytest.raises(TokenFileError, match=r"its header is damaged \(no plain sha256\)"):
            tokens_from_bytes(len(text).to_bytes(8, "little") + text + payload)

    def test_unknown_arrays_are_refused(self, golden_bytes):
        header, payload = taken_apart(golden_bytes)
        header["extra"] = {"dtype": "U8", "shape": [0], "data_offsets": [len(payload), len(payload)]}
        with pytest.raises(TokenFileError, match="its array 'extra' is missing or not one of its version"):
            tokens_from_bytes(signed(header, payload))

    @pytest.mark.parametrize(
        "text",
        [
            b"{}",
            b"[]",
            b'{"a":' * 9000,
            b'{"a":1,"a":2}',
            b'{"a":NaN',
            b'{"\xff":1}',
            b"{" + b'"a":' + b"9" * 6000 + b"}",
        ],
        ids=["empty", "list", "deep", "twice", "nan", "not ascii", "digits"],
    )
    def test_odd_headers_are_refused(self, text):
        with pytest.raises(TokenFileError, match=r"header is damaged|not of video tokens|not a token file") as caught:
            tokens_from_bytes(len(text).to_bytes(8, "little") + text)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("data", [b"", b"\x00" * 7, b"just some text, renamed", b"PK\x03\x04" + b"\0" * 40])
    def test_other_files_are_refused(self, data):
        with pytest.raises(TokenFileError, match="Cannot read <memory>: it is not a token file"):
            tokens_from_bytes(data)
