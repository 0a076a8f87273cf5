"""Token files: exact round trips, golden files, and nothing accepted that is not what was written."""

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
from token_files import forged, golden_groups, golden_tokens, signed, taken_apart

from tokenreel.tokens import bitstream
from tokenreel.tokens.bitstream import TokenFileError, read_tokens, tokens_from_bytes, tokens_to_bytes, write_tokens
from tokenreel.tokens.video_tokens import PFrame

DATA = Path(__file__).parent / "data"
GOLDEN = {
    "golden_v2.tokens": (golden_tokens, "0b1d019c160a2d05dc342b9beae6cf0127c0b89837aed28fbda1e6c4ea9ee41e"),
    "golden_v2_groups.tokens": (golden_groups, "7aae0ef03ff5917e7cc2ee5dd3978cf331ae2096b714da407b92cc8b714bb1b1"),
}


@pytest.fixture(scope="module", params=list(GOLDEN))
def golden(request):
    """(bytes, tokens, SHA-256) of a golden file."""
    make, digest = GOLDEN[request.param]
    return (DATA / request.param).read_bytes(), make(), digest


@pytest.fixture(scope="module")
def small_bytes(random_tokens):
    """A file of two small frames, to be damaged in every place."""
    return tokens_to_bytes(random_tokens(4, width=40, height=30, frames=3))


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

    def test_a_still_frame_takes_next_to_nothing(self, random_tokens):
        tokens = random_tokens(width=640, height=480, frames=2, shares=(1, 0, 0, 0))
        still = PFrame((0, 0), np.zeros((30, 40), np.uint8))
        sizes = []
        for n in (10, 1010):
            frames = (tokens.frames[0], *[still] * n)
            long = replace(tokens, frames=frames, pts=tuple(range(n + 1)), duration=Fraction(2 * n, 90))
            sizes.append(len(tokens_to_bytes(long)))
            assert tokens_from_bytes(tokens_to_bytes(long)) == long
        assert sizes[1] - sizes[0] < 100

    def test_random_codes_take_their_bits(self, random_tokens):
        """Nothing can be saved on noise, and little is lost."""
        tokens = random_tokens(width=256, height=256, frames=2, key_every=1, levels=(8, 8))
        size = len(taken_apart(tokens_to_bytes(tokens))[1])
        assert 1536 <= size < 1536 * 1.1

    @pytest.mark.parametrize("seed", range(10))
    def test_random_groups(self, group_tokens, seed):
        rng = np.random.default_rng(seed)
        levels = tuple(rng.integers(2, 9, rng.integers(1, 6)).tolist())
        tokens = group_tokens(seed, frames=seed + 1, width=int(rng.integers(1, 90)), height=20, levels=levels)
        data = tokens_to_bytes(tokens)
        assert tokens_from_bytes(data) == tokens and tokens_to_bytes(tokens_from_bytes(data)) == data
        assert taken_apart(data)[0]["__metadata__"]["structure"] == "groups"

    @pytest.mark.parametrize("levels", [(3, 3), (17,), (65536,), (100, 3, 1000), (1 << 24,), (2, 5000, 2)])
    def test_odd_levels(self, random_tokens, levels):
        tokens = random_tokens(3, levels=levels, width=40, height=40)
        assert tokens_from_bytes(tokens_to_bytes(tokens)) == tokens

    @pytest.mark.parametrize(
        "pts",
        [
            (0, 1, 2, 3, 4, 5),
            (-(1 << 62), -1, 0, 1, (1 << 62) - 1, 1 << 62),
            (5, 38, 71, 105, 138, 171),
            (0, 2, 3, 5, 6, 8),
        ],
    )
    def test_times_come_back(self, random_tokens, pts):
        duration = Fraction((pts[-1] - pts[0]) // 10**9 + 1)
        tokens = replace(random_tokens(), pts=pts, duration=duration, time_base=Fraction(1, 10**9))
        assert tokens_from_bytes(tokens_to_bytes(tokens)).pts == pts

    def test_regular_times_cost_nothing(self, random_tokens):
        sizes = []
        for pts in (range(300), [i * 33 + i // 3 for i in range(300)]):
            tokens = random_tokens(width=16, height=16, frames=300, key_every=1, levels=(2,))
            sizes.append(len(tokens_to_bytes(replace(tokens, pts=tuple(pts), duration=Fraction(20000)))))
        assert abs(sizes[1] - sizes[0]) < 20

    def test_the_safetensors_library_reads_it(self, random_tokens):
        data = tokens_to_bytes(random_tokens(frames=5))
        arrays = load(data)
        assert list(arrays) == ["payload"] and arrays["payload"].tobytes() == taken_apart(data)[1]

    def test_version_1_comes_back_as_version_2(self):
        tokens = read_tokens(DATA / "golden_v1.tokens")
        assert tokens_from_bytes(tokens_to_bytes(tokens)) == tokens == golden_tokens()

    @pytest.mark.parametrize("groups", [False, True])
    def test_can_be_cancelled_at_every_frame(self, random_tokens, group_tokens, groups):
        tokens = group_tokens(frames=13) if groups else random_tokens(frames=9)
        data, calls = tokens_to_bytes(tokens), []
        tokens_to_bytes(tokens, check=lambda: calls.append(0))
        assert len(calls) >= len(tokens.frames)

        def cancel():
            calls.pop()
            if not calls:
                raise KeyboardInterrupt

        for action in (lambda: tokens_to_bytes(tokens, check=cancel), lambda: tokens_from_bytes(data, check=cancel)):
            calls[:] = [0] * len(tokens.frames)
            with pytest.raises(KeyboardInterrupt):
                action()

    def test_a_long_720p_clip_takes_seconds(self, random_tokens):
        """Most of it stands still, as in clips: 200,000 blocks."""
        clip = random_tokens(width=1280, height=720, frames=8, key_every=8, shares=(0.97, 0.01, 0.015, 0.005))
        frames = (clip.frames[0], *clip.frames[1:] * 8)
        count = len(frames)
        long = replace(clip, frames=frames, pts=tuple(range(count)), duration=Fraction(count), time_base=Fraction(1))
        start = os.times().user
        assert tokens_from_bytes(tokens_to_bytes(long)) == long
        assert os.times().user - start < 30  # about 3 s; the bound only catches what grows faster than the clip


class TestGolden:
    def test_is_read_as_it_was_written(self, golden):
        assert tokens_from_bytes(golden[0]) == golden[1]

    def test_is_written_the_same_today(self, golden):
        assert tokens_to_bytes(golden[1]) == golden[0]

    def test_is_the_one_that_was_committed(self, golden):
        assert hashlib.sha256(golden[0]).hexdigest() == golden[2]


class TestDamage:
    def test_every_flipped_bit_is_noticed(self, small_bytes):
        data = bytearray(small_bytes)
        for position in range(len(data)):
            for bit in range(8):
                data[position] ^= 1 << bit
                with pytest.raises(TokenFileError):
                    tokens_from_bytes(bytes(data))
                data[position] ^= 1 << bit

    def test_every_truncation_is_noticed(self, small_bytes):
        for size in range(len(small_bytes)):
            with pytest.raises(TokenFileError, match=r"cut off|not a token file"):
                tokens_from_bytes(small_bytes[:size])

    def test_trailing_bytes_are_refused(self, small_bytes):
        with pytest.raises(TokenFileError, match=r"longer than its contents: \d+ bytes instead of \d+"):
            tokens_from_bytes(small_bytes + b"\0")

    def test_digest_covers_the_payload(self, small_bytes):
        with pytest.raises(TokenFileError, match="SHA-256 does not match"):
            tokens_from_bytes(small_bytes[:-1] + bytes([small_bytes[-1] ^ 1]))


def resigned(data, payload):
    """`data` with another payload, signed."""
    header, _ = taken_apart(data)
    header["payload"].update(shape=[len(payload)], data_offsets=[0, len(payload)])
    return signed(header, payload)


class TestHostile:
    """Correctly signed files that say what no writer would."""

    def test_a_correct_forgery_is_accepted(self, golden):
        assert tokens_from_bytes(forged(golden[0])) == golden[1]

    @pytest.mark.parametrize(
        ("metadata", "message"),
        [
            ({"version": "1"}, "its field 'frames' is not one of version 1"),
            ({"version": "02"}, "its format version is '02', this TokenReel reads 1 and 2"),
            ({"frames": "0"}, "its frames is '0', not a number above 0"),
            ({"frames": "1048577"}, "it has 1048577 frames; supported are 1 to 1048576"),
            ({"frames": "9" * 18}, "it has 9+ frames"),
            ({"frames": "6"}, "its payload"),
            ({"structure": "waves"}, "its structure is 'waves', not 'frames' or 'groups'"),
            ({"structure": "groups"}, "payload (ends|goes)|frame"),
            ({"levels": "8,1"}, r"Invalid levels \(8, 1\)"),
            ({"levels": "9999999,9999999"}, "Invalid levels"),
            ({"width": "65536", "height": "65536", "frames": "40"}, "are more than .* blocks; split the clip"),
            ({"width": "65536", "height": "65536"}, "payload ends before the last frame"),
            ({"codec": "", "codec_sha256": ""}, "P-frames need the name and digest"),
            ({"duration": "1/90000"}, "the last frame begins"),
        ],
    )
    def test_metadata_is_checked_before_memory_is_taken(self, metadata, message):
        data = forged((DATA / "golden_v2.tokens").read_bytes(), metadata=metadata)
        tracemalloc.start()
        with pytest.raises(TokenFileError, match=message) as caught:
            tokens_from_bytes(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 23 and "\n" not in str(caught.value)

    def test_too_large_a_file_is_not_begun(self, monkeypatch):
        size = len((DATA / "golden_v2.tokens").read_bytes())
        monkeypatch.setattr(bitstream, "MAX_FILE_BYTES", size - 1)
        with pytest.raises(ValueError, match=f"it would have {size} bytes, at most {size - 1} are allowed"):
            tokens_to_bytes(golden_tokens())

    def test_number_of_frames_is_capped(self, monkeypatch, random_tokens):
        monkeypatch.setattr(bitstream, "MAX_FRAMES", 4)
        with pytest.raises(ValueError, match="it has 5 frames; supported are 1 to 4"):
            tokens_to_bytes(random_tokens(frames=5))

    def test_unknown_arrays_are_refused(self, small_bytes):
        header, payload = taken_apart(small_bytes)
        header["extra"] = {"dtype": "U8", "shape": [0], "data_offsets": [len(payload), len(payload)]}
        with pytest.raises(TokenFileError, match="its array 'extra' is missing or not one of its version"):
            tokens_from_bytes(signed(header, payload))

    def test_digest_must_be_written_plainly(self, small_bytes):
        header, payload = taken_apart(small_bytes)
        text = json.dumps(header).encode()  # with a space behind each colon
        with pytest.raises(TokenFileError, match=r"its header is damaged \(no plain sha256\)"):
            tokens_from_bytes(len(text).to_bytes(8, "little") + text + payload)

    def test_a_payload_has_no_end_but_its_own(self, golden):
        payload = taken_apart(golden[0])[1]
        for other in (payload[: len(payload) // 2], payload + b"\0", payload + b"\x80", b"", payload * 2):
            with pytest.raises(TokenFileError, match="its payload"):
                tokens_from_bytes(resigned(golden[0], other))

    def test_random_payloads_are_refused_or_mean_what_they_say(self, small_bytes):
        """Whatever correctly signed bytes get through are those that their own tokens are written as."""
        rng = np.random.default_rng(2024)
        payload, accepted = taken_apart(small_bytes)[1], 0
        for turn in range(600):
            other = bytearray(payload if turn % 2 else rng.bytes(rng.integers(1, 200)))
            for _ in range(rng.integers(1, 4)):
                other[rng.integers(len(other))] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
            data = resigned(small_bytes, bytes(other[: rng.integers(len(other)) + 1] if turn % 3 else other))
            try:
                tokens = tokens_from_bytes(data)
            except TokenFileError as error:
                assert "\n" not in str(error)
            else:
                assert taken_apart(tokens_to_bytes(tokens))[1] == taken_apart(data)[1]
                accepted += 1
        assert accepted < 600


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
