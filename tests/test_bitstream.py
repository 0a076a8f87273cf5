"""Token files: exact round trips, a golden file, and nothing accepted that is not what was written."""

import errno
import hashlib
import json
import os
import tracemalloc
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from tokenreel.tokens import bitstream
from tokenreel.tokens.accounting import count
from tokenreel.tokens.bitstream import TokenFileError, read_tokens, tokens_from_bytes, tokens_to_bytes, write_tokens
from tokenreel.tokens.video_tokens import IFrame, Mode, PFrame, VideoTokens

GOLDEN = Path(__file__).parent / "data" / "golden_v1.tokens"


def golden_tokens():
    """The clip in the golden file, written out: every mode, a long skip run, uneven times, an odd size."""
    h, w = 4, 70
    key = (np.arange(h * w) * 6007 % 64000).reshape(h, w)
    modes = np.zeros((2, 35), np.uint8)
    modes[0, :4] = [Mode.MOTION, Mode.RESIDUAL, Mode.SKIP, Mode.INTRA]
    modes[1, 34] = Mode.RESIDUAL
    mixed = PFrame(
        (-3, 127), modes, [[-31, 31], [0, -1], [5, 0]], [0b0001, 0b1110], [0, 63999, 1, 2], [[9, 8, 7, 63999]]
    )
    still = PFrame((0, 0), np.zeros((2, 35), np.uint8))
    intra = PFrame((-128, -128), np.full((2, 35), Mode.INTRA, np.uint8), intra=np.arange(280).reshape(70, 4))
    return VideoTokens(
        width=555,
        height=31,
        frame_rate=Fraction(30000, 1001),
        time_base=Fraction(1, 90000),
        pts=(-3003, 0, 3003, 9009, 12012),
        duration=Fraction(18018, 90000),
        frames=(IFrame(key), mixed, still, intra, IFrame(key[::-1])),
        levels=(8, 8, 8, 5, 5, 5),
        tokenizer="i8",
        digest=hashlib.sha256(b"image tokenizer").hexdigest(),
        codec="p8",
        codec_digest=hashlib.sha256(b"residual codec").hexdigest(),
    )


def signed(header, payload):
    """A file with these header entries and a digest that fits, whatever they say."""
    header["__metadata__"]["sha256"] = "0" * 64
    text = json.dumps(header, separators=(",", ":")).encode()
    data = len(text).to_bytes(8, "little") + text + payload
    return data.replace(b'"sha256":"' + b"0" * 64, b'"sha256":"' + hashlib.sha256(data).hexdigest().encode(), 1)


def taken_apart(data):
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def forged(data, *, metadata=None, arrays=None, without=()):
    """`data` with other metadata or arrays, laid out and signed as a correct writer would."""
    header, payload = taken_apart(data)
    fields = {**header["__metadata__"], **(metadata or {})}
    result, parts, end = {"__metadata__": {k: v for k, v in fields.items() if k not in without}}, [], 0
    for name, entry in header.items():
        if name == "__metadata__" or name in without:
            continue
        a, b = entry["data_offsets"]
        dtype = {"I64": "<i8", "U32": "<u4", "U16": "<u2", "U8": "u1"}[entry["dtype"]]
        values = np.frombuffer(payload[a:b], dtype)
        values = arrays[name](values.copy()) if arrays and name in arrays else values
        parts.append(np.asarray(values, dtype).tobytes())
        start, end = end, end + len(parts[-1])
        result[name] = {**entry, "shape": [len(values)], "data_offsets": [start, end]}
    return signed(result, b"".join(parts))


def changed(index, value):
    def change(values):
        values[index] = value
        return values

    return change


@pytest.fixture(scope="module")
def golden_bytes():
    return GOLDEN.read_bytes()


class TestRoundTrip:
    @pytest.mark.parametrize("seed", range(20))
    def test_random_clips(self, random_tokens, seed):
        rng = np.random.default_rng(seed)
        tokens = random_tokens(
            seed,
            width=int(rng.integers(1, 300)),
            height=int(rng.integers(1, 200)),
            frames=int(rng.integers(1, 9)),
            shares=rng.dirichlet([1.0, 0.5, 0.5, 0.3]),
            key_every=int(rng.integers(2, 6)),
        )
        data = tokens_to_bytes(tokens)
        parsed = tokens_from_bytes(data)
        assert parsed == tokens
        assert tokens_to_bytes(parsed) == data

    @pytest.mark.parametrize(
        "kind",
        [
            {"frames": 1, "width": 1, "height": 1},
            {"key_every": 1},
            {"shares": (1.0, 0.0, 0.0, 0.0)},
            {"shares": (0.0, 0.0, 0.0, 1.0)},
            {"levels": (2,)},
            {"levels": (2,) * 24},
            {"levels": (16, 16, 16, 17)},
        ],
        ids=["one frame", "key frames", "all skipped", "all intra", "two codes", "most levels", "wide codes"],
    )
    def test_extreme_clips(self, random_tokens, kind):
        tokens = random_tokens(1, **kind)
        assert tokens_from_bytes(tokens_to_bytes(tokens)) == tokens

    def test_types_survive(self, random_tokens):
        for frame in tokens_from_bytes(tokens_to_bytes(random_tokens())).frames:
            if isinstance(frame, PFrame):
                assert (frame.modes.dtype, frame.motion.dtype, frame.masks.dtype) == (np.uint8, np.int8, np.uint8)
                assert frame.residual.dtype == frame.intra.dtype == np.int32
            else:
                assert frame.codes.dtype == np.int32

    def test_names_may_have_any_letters(self, random_tokens):
        tokens = replace(random_tokens(), tokenizer='na\u00efve "sha256":"' + "0" * 64)
        assert tokens_from_bytes(tokens_to_bytes(tokens)).tokenizer == tokens.tokenizer

    def test_a_skipped_frame_takes_15_bytes(self, random_tokens):
        sizes = [
            len(taken_apart(tokens_to_bytes(random_tokens(width=640, height=480, frames=n, shares=(1, 0, 0, 0))))[1])
            for n in (3, 4)
        ]
        assert sizes[1] - sizes[0] == 15

    def test_payload_is_the_tokens(self, random_tokens):
        """Two bytes a token, and per frame: 8 of time, 1 of kind, 4 more if it is predicted."""
        tokens = random_tokens(width=200, height=100, frames=8)
        _, payload = taken_apart(tokens_to_bytes(tokens))
        assert len(payload) == 2 * count(tokens).tokens + 8 * 9 + 6 * 4

    def test_the_safetensors_library_reads_it(self, random_tokens):
        arrays = load(tokens_to_bytes(random_tokens(frames=5)))
        assert set(arrays) == {"pts", "symbols_per_frame", "key", "residual", "intra", "header", "blocks", "kind"}
        assert arrays["kind"].tolist() == [0, 1, 1, 1, 0] and arrays["pts"].dtype == np.int64

    def test_a_long_720p_clip_takes_seconds_at_most(self, random_tokens):
        clip = random_tokens(width=1280, height=720, frames=8, key_every=8)
        times = 125
        frames = (clip.frames[0], *clip.frames[1:] * times)
        long = replace(
            clip, frames=frames, pts=tuple(range(len(frames))), duration=Fraction(len(frames)), time_base=Fraction(1)
        )
        start = os.times().user
        assert tokens_from_bytes(tokens_to_bytes(long)) == long
        assert os.times().user - start < 10  # about 0.3 s; the bound only catches a loop over blocks


class TestGolden:
    def test_is_read_as_it_was_written(self):
        assert read_tokens(GOLDEN) == golden_tokens()

    def test_is_written_the_same_today(self, golden_bytes):
        assert tokens_to_bytes(golden_tokens()) == golden_bytes

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
        with pytest.raises(ValueError, match="it has 5 frames"):
            tokens_to_bytes(golden_tokens())

    def test_too_large_a_file_is_not_begun(self, monkeypatch, golden_bytes):
        monkeypatch.setattr(bitstream, "MAX_FILE_BYTES", len(golden_bytes) - 1)
        with pytest.raises(ValueError, match="it would have 2879 bytes, at most 2878 are allowed"):
            tokens_to_bytes(golden_tokens())

    @pytest.mark.parametrize(
        ("metadata", "message"),
        [
            ({"format": "pt"}, "a safetensors file, but not of video tokens"),
            ({"version": "2"}, r"its format version is '2', this TokenReel reads 1\. Update TokenReel"),
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
                assert taken_apart(tokens_to_bytes(tokens))[1] == taken_apart(data)[1]
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
        with pytest.raises(TokenFileError, match="its array 'extra' is missing or not one of version 1"):
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


class TestFiles:
    def test_written_and_read(self, random_tokens, tmp_path):
        path = tmp_path / "clip.tokens"
        size = write_tokens(path, random_tokens())
        assert size == path.stat().st_size and read_tokens(str(path)) == random_tokens()
        assert os.listdir(tmp_path) == ["clip.tokens"]

    def test_an_existing_file_is_replaced_also_by_what_was_read_from_it(self, random_tokens, tmp_path):
        path = tmp_path / "clip.tokens"
        write_tokens(path, random_tokens(1, frames=8))
        write_tokens(path, read_tokens(path).trim(0, 4))
        assert len(read_tokens(path).frames) == 4

    @pytest.mark.parametrize("call", ["fsync", "replace"])
    @pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
    def test_a_failed_write_leaves_the_old_file_and_nothing_else(
        self, random_tokens, tmp_path, monkeypatch, call, fault
    ):
        path = tmp_path / "clip.tokens"
        write_tokens(path, random_tokens(1))

        def fail(*args):
            raise fault

        monkeypatch.setattr(os, call, fail)
        expected = TokenFileError if isinstance(fault, OSError) else KeyboardInterrupt
        with pytest.raises(expected) as caught:
            write_tokens(path, random_tokens(2))
        monkeypatch.undo()
        if expected is TokenFileError:
            assert str(caught.value) == f"Cannot write {path}: No space left on device. Check the folder and its space."
        assert os.listdir(tmp_path) == ["clip.tokens"] and read_tokens(path) == random_tokens(1)

    def test_the_folder_must_exist(self, random_tokens, tmp_path):
        with pytest.raises(TokenFileError, match=r"Cannot write .*clip.tokens: No such file or directory"):
            write_tokens(tmp_path / "missing" / "clip.tokens", random_tokens())
        assert os.listdir(tmp_path) == []

    def test_a_file_is_no_folder(self, random_tokens, tmp_path):
        (tmp_path / "file").write_text("x")
        with pytest.raises(TokenFileError, match="Not a directory"):
            write_tokens(tmp_path / "file" / "clip.tokens", random_tokens())

    def test_times_that_do_not_fit_are_refused(self, random_tokens, tmp_path):
        tokens = replace(random_tokens(), duration=Fraction(10**19 + 1, 10**18))
        with pytest.raises(TokenFileError, match="18 digits above and below; round it first"):
            write_tokens(tmp_path / "clip.tokens", tokens)
        assert os.listdir(tmp_path) == []

    def test_missing_files_and_folders_are_named(self, tmp_path):
        with pytest.raises(
            TokenFileError, match=r"Cannot read .*none.tokens: No such file or directory\. Give the path"
        ):
            read_tokens(tmp_path / "none.tokens")
        with pytest.raises(TokenFileError, match="it is not a file"):
            read_tokens(tmp_path)

    def test_file_size_is_capped(self, random_tokens, tmp_path, monkeypatch):
        path = tmp_path / "clip.tokens"
        size = write_tokens(path, random_tokens())
        monkeypatch.setattr(bitstream, "MAX_FILE_BYTES", size - 1)
        with pytest.raises(TokenFileError, match=f"{size} bytes, at most {size - 1} are allowed"):
            read_tokens(path)

    def test_damage_names_the_file(self, random_tokens, tmp_path):
        path = tmp_path / "clip.tokens"
        path.write_bytes(tokens_to_bytes(random_tokens())[:-1])
        with pytest.raises(TokenFileError, match=r"Cannot read .*clip\.tokens: it is cut off"):
            read_tokens(path)
