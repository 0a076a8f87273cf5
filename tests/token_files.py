"""Token files taken apart and forged."""

import hashlib
import json
from dataclasses import replace
from fractions import Fraction

import numpy as np

from tokenreel.tokens.accounting import block_symbols, header_symbol
from tokenreel.tokens.video_tokens import CFrame, IFrame, Mode, PFrame, VideoTokens


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


def golden_groups():
    """The same place and time as CFrames: groups of 1, 4 and 3 frames."""
    codes = (np.arange(3 * 280) * 6007 % 64000).reshape(3, 4, 70)
    groups = tuple(CFrame(grid, span) for grid, span in zip(codes, (1, 4, 3), strict=True))
    times = {
        "pts": (0, 33, 67, 100, 133, 167, 200, 233),
        "time_base": Fraction(1, 1000),
        "duration": Fraction(267, 1000),
    }
    return replace(golden_tokens(), frames=groups, codec="", codec_digest="", **times)


def payload_of_version_1(tokens):
    """What version 1 had in its arrays, with at most 65536 codes."""
    keys = [frame for frame in tokens.frames if isinstance(frame, IFrame)]
    predicted = [frame for frame in tokens.frames if isinstance(frame, PFrame)]
    symbols = [block_symbols(frame) for frame in predicted]
    lists = [
        ("<i8", [tokens.pts]),
        ("<u4", [[each.size for each in symbols]]),
        ("<u2", [frame.codes for frame in keys]),
        ("<u2", [frame.residual for frame in predicted]),
        ("<u2", [frame.intra for frame in predicted]),
        ("<u2", [[header_symbol(frame) for frame in predicted]]),
        ("<u2", symbols),
        ("u1", [[isinstance(frame, PFrame) for frame in tokens.frames]]),
    ]
    return b"".join(np.asarray(values, dtype).tobytes() for dtype, parts in lists for values in parts)


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
