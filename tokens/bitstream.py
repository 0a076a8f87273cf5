"""Token files: VideoTokens as bytes and back. `docs/token_format.md` is the normative description.

The container is safetensors, written and read here byte by byte: the library neither notices changed payload bytes nor
orders metadata the same way twice. A file that is accepted has been checked completely, and takes memory only for what
was read. Version 2 is written; version 1 is read too.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

from . import payload, version1
from .video_tokens import MAX_CODEBOOK, MAX_SIDE, CFrame, VideoTokens, grid_size
from .whole_files import whole_file

FORMAT = "tokenreel"
VERSION = 2
SUFFIX = ".tokens"

MAX_FILE_BYTES = 1 << 32
MAX_HEADER_BYTES = 1 << 16
MAX_LEVELS = 24  # of two each, they are the largest codebook
MAX_FRAMES = 1 << 20
MAX_BLOCKS = 1 << 29  # of all frames together: a skipped block costs no byte on disk, but one in memory

ITEM_BYTES = {"I64": 8, "U32": 4, "U16": 2, "U8": 1}
_SIZES = ("width", "height", "frame_rate", "time_base", "duration", "levels")
_FIELDS = ("format", "version", "sha256", *_SIZES, "tokenizer", "tokenizer_sha256", "codec", "codec_sha256")
FIELDS = {"1": _FIELDS, "2": (*_FIELDS, "frames", "structure")}  # of each version
STRUCTURES = ("frames", "groups")
_DIGEST_KEY = b'"sha256":"'
_NO_DIGEST = b"0" * 64
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_RATIO = re.compile(r"([1-9][0-9]{0,17})/([1-9][0-9]{0,17})")


class TokenFileError(ValueError):
    """A token file that cannot be read or written; the message is one line: which file, what is wrong, what to do."""


def _ratio(name: str, value: Fraction) -> str:
    text = f"{value.numerator}/{value.denominator}"
    if not _RATIO.fullmatch(text):
        raise ValueError(f"Invalid {name} ({text:.60}). A token file takes 18 digits above and below; round it first.")
    return text


def _check_caps(width: int, height: int, frames: int) -> None:
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"{width}x{height} pixels are too many; a side has at most {MAX_SIDE}.")
    if not 1 <= frames <= MAX_FRAMES:
        raise ValueError(f"it has {frames} frames; supported are 1 to {MAX_FRAMES}.")
    h, w = grid_size(width, height)
    if frames * (h // 2) * (w // 2) > MAX_BLOCKS:
        raise ValueError(f"{frames} frames of {width}x{height} are more than {MAX_BLOCKS} blocks; split the clip.")


def _nothing() -> None:
    """Never cancelled."""


def tokens_to_bytes(tokens: VideoTokens, *, check: Callable[[], None] = _nothing) -> bytes:
    """The token file of a clip. Equal tokens give equal bytes. `check` is called often and may raise to cancel."""
    _check_caps(tokens.width, tokens.height, len(tokens.pts))
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "sha256": _NO_DIGEST.decode(),
        "width": str(tokens.width),
        "height": str(tokens.height),
        "frames": str(len(tokens.pts)),
        "structure": STRUCTURES[isinstance(tokens.frames[0], CFrame)],
        "frame_rate": _ratio("frame_rate", tokens.frame_rate),
        "time_base": _ratio("time_base", tokens.time_base),
        "duration": _ratio("duration", tokens.duration),
        "levels": ",".join(str(level) for level in tokens.levels),
        "tokenizer": tokens.tokenizer,
        "tokenizer_sha256": tokens.digest,
        "codec": tokens.codec,
        "codec_sha256": tokens.codec_digest,
    }
    packed = payload.pack(tokens.pts, tokens.frames, tokens.levels, tokens.grid, check)
    entry = {"dtype": "U8", "shape": [len(packed)], "data_offsets": [0, len(packed)]}
    header = json.dumps({"__metadata__": metadata, "payload": entry}, separators=(",", ":")).encode("ascii")
    header += b" " * (-len(header) % 8)
    data = b"".join([len(header).to_bytes(8, "little"), header, packed])
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"it would have {len(data)} bytes, at most {MAX_FILE_BYTES} are allowed; split the clip.")
    digest = hashlib.sha256(data).hexdigest().encode("ascii")
    return data.replace(_DIGEST_KEY + _NO_DIGEST, _DIGEST_KEY + digest, 1)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("a name occurs twice")
    return dict(pairs)


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """Header entries and where the payload begins."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or data[8:9] != b"{":
        raise ValueError("it is not a token file. Token files are written by `tokenreel encode` or Save Video Tokens.")
    if size > MAX_HEADER_BYTES:
        raise ValueError(f"its header claims {size} bytes, at most {MAX_HEADER_BYTES} are allowed. Get the file again.")
    if size > len(data) - 8:
        raise ValueError(f"it is cut off: {len(data)} bytes, the header alone takes {size + 8}. Get the file again.")
    try:
        entries = json.loads(data[8 : 8 + size].decode("ascii"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its header is damaged ({error!s:.80}). Get the file again.") from error
    return entries, 8 + size


def _metadata(entries: dict[str, Any]) -> dict[str, str]:
    metadata = entries.get("__metadata__")
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ValueError("it is a safetensors file, but not of video tokens. Choose one that `tokenreel encode` wrote.")
    version = metadata.get("version")
    if not isinstance(version, str) or version not in FIELDS:
        known = " and ".join(FIELDS)
        raise ValueError(f"its format version is {version!r:.20}, this TokenReel reads {known}. Update TokenReel.")
    for name in FIELDS[version]:
        if not isinstance(metadata.get(name), str):
            raise ValueError(f"its field {name!r} is missing. Encode the video again.")
    unknown = sorted(set(metadata) - set(FIELDS[version]))
    if unknown:
        raise ValueError(f"its field {unknown[0]!r:.40} is not one of version {version}. Encode the video again.")
    return metadata


def _slices(entries: dict[str, Any], layout: dict[str, str]) -> dict[str, tuple[int, int]]:
    """Byte range of every array in the payload: all there, none unknown, no gap, no overlap."""
    wrong = sorted(set(entries).symmetric_difference({"__metadata__", *layout}))
    if wrong:
        raise ValueError(f"its array {wrong[0]!r:.40} is missing or not one of its version. Encode the video again.")
    slices, end = {}, 0
    for name, dtype in layout.items():
        start, size = end, ITEM_BYTES[dtype]
        entry = entries[name]
        shape = entry.get("shape") if isinstance(entry, dict) else None
        count = shape[0] if isinstance(shape, list) and len(shape) == 1 else None
        if type(count) is not int or not 0 <= count <= MAX_FILE_BYTES:
            raise ValueError(f"its array {name!r} has the shape {shape!r:.40}, not [n]. Encode the video again.")
        end = start + count * size
        if entry != {"dtype": dtype, "shape": [count], "data_offsets": [start, end]}:
            raise ValueError(f"its array {name!r} is not {count} x {dtype} at byte {start}. Encode the video again.")
        slices[name] = (start, end)
    return slices


def _check_digest(data: bytes, payload: int, metadata: dict[str, str]) -> None:
    found = metadata["sha256"].encode()
    if data.count(_DIGEST_KEY + found + b'"', 0, payload) != 1:
        raise ValueError("its header is damaged (no plain sha256). Get the file again.")
    at = data.index(_DIGEST_KEY + found, 0, payload) + len(_DIGEST_KEY)
    digest = hashlib.sha256(data[:at] + _NO_DIGEST)
    digest.update(memoryview(data)[at + len(found) :])
    if digest.hexdigest().encode() != found:
        raise ValueError("it is damaged: its SHA-256 does not match its bytes. Get the file again.")


def _number(metadata: dict[str, str], name: str) -> int:
    if not _NUMBER.fullmatch(metadata[name]):
        raise ValueError(f"its {name} is {metadata[name]!r:.40}, not a number above 0.")
    return int(metadata[name])


def _fraction(metadata: dict[str, str], name: str) -> Fraction:
    match = _RATIO.fullmatch(metadata[name])
    value = Fraction(int(match[1]), int(match[2])) if match else Fraction(0)
    if match is None or value.denominator != int(match[2]):
        raise ValueError(f"its {name} is {metadata[name]!r:.40}, not a fraction in lowest terms.")
    return value


def _levels(metadata: dict[str, str]) -> tuple[int, ...]:
    parts = metadata["levels"].split(",")
    if len(parts) > MAX_LEVELS or any(not re.fullmatch(r"[1-9][0-9]{0,7}", part) for part in parts):
        raise ValueError(f"its levels are {metadata['levels']!r:.40}, not at most {MAX_LEVELS} numbers.")
    levels = tuple(int(part) for part in parts)
    if min(levels) < 2 or math.prod(levels) > MAX_CODEBOOK:
        raise ValueError(f"Invalid levels {levels}. Supported are 2 and more, {MAX_CODEBOOK} codes in all at most.")
    return levels


def _parse(data: bytes, check: Callable[[], None]) -> VideoTokens:
    entries, start = _header(data)
    metadata = _metadata(entries)
    levels = _levels(metadata)
    first = metadata["version"] == "1"
    slices = _slices(entries, version1.layout(math.prod(levels)) if first else {"payload": "U8"})
    expected = start + max(end for _, end in slices.values())
    if len(data) != expected:
        fault = "cut off" if len(data) < expected else "longer than its contents"
        raise ValueError(f"it is {fault}: {len(data)} bytes instead of {expected}. Get the file again.")
    _check_digest(data, start, metadata)
    width, height = _number(metadata, "width"), _number(metadata, "height")
    if first:
        arrays = version1.arrays(data, start, slices, levels)
        _check_caps(width, height, arrays["kind"].size)
        pts, frames = arrays["pts"].tolist(), version1.frames(arrays, grid_size(width, height))
    else:
        count, structure = _number(metadata, "frames"), metadata["structure"]
        _check_caps(width, height, count)
        if structure not in STRUCTURES:
            raise ValueError(f"its structure is {structure!r:.40}, not 'frames' or 'groups'.")
        groups = structure == STRUCTURES[1]
        pts, frames = payload.unpack(data[start:], count, groups, levels, grid_size(width, height), check)
    return VideoTokens(
        width=width,
        height=height,
        frame_rate=_fraction(metadata, "frame_rate"),
        time_base=_fraction(metadata, "time_base"),
        duration=_fraction(metadata, "duration"),
        pts=tuple(pts),
        frames=tuple(frames),
        levels=levels,
        tokenizer=metadata["tokenizer"],
        digest=metadata["tokenizer_sha256"],
        codec=metadata["codec"],
        codec_digest=metadata["codec_sha256"],
    )


def tokens_from_bytes(data: bytes, *, name: str = "<memory>", check: Callable[[], None] = _nothing) -> VideoTokens:
    """The clip in the bytes of a token file; `name` is what the message of a `TokenFileError` calls it.

    `check` is called often and may raise to cancel.
    """
    try:
        return _parse(data, check)
    except ValueError as error:
        raise TokenFileError(f"Cannot read {name}: {error}") from error


def write_tokens(path: str | os.PathLike[str], tokens: VideoTokens, *, check: Callable[[], None] = _nothing) -> int:
    """Write a token file whole or not at all, and return its size in bytes. The folder must exist.

    `check` is called often and may raise to cancel.
    """
    target = Path(path)
    try:
        data = tokens_to_bytes(tokens, check=check)
    except ValueError as error:
        raise TokenFileError(f"Cannot write {target}: {error}") from error
    try:
        with whole_file(target) as file:
            file.write(data)
    except OSError as error:
        raise TokenFileError(f"Cannot write {target}: {error.strerror}. Check the folder and its space.") from error
    return len(data)


def read_tokens(path: str | os.PathLike[str], *, check: Callable[[], None] = _nothing) -> VideoTokens:
    """Read a token file. `TokenFileError` if there is none, or if a single bit of it is not as it was written.

    `check` is called often and may raise to cancel.
    """
    source = Path(path)
    try:
        status = source.stat()
        if not stat.S_ISREG(status.st_mode):
            raise TokenFileError(f"Cannot read {source}: it is not a file. Give the path of a {SUFFIX} file.")
        if status.st_size > MAX_FILE_BYTES:
            raise TokenFileError(f"Cannot read {source}: {status.st_size} bytes, at most {MAX_FILE_BYTES} are allowed.")
        data = source.read_bytes()
    except OSError as error:
        raise TokenFileError(f"Cannot read {source}: {error.strerror}. Give the path of a {SUFFIX} file.") from error
    return tokens_from_bytes(data, name=str(source), check=check)
