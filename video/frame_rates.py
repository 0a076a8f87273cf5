"""Frame rates as people write them, exactly."""

import re
from fractions import Fraction

HIGHEST = 1000
_NTSC = Fraction(1000, 1001)


def exact_frame_rate(fps: float) -> Fraction:
    """Frames per second as they are meant: 29.97 is 30000/1001."""
    broadcast = round(fps / _NTSC) * _NTSC
    return broadcast if abs(fps - broadcast) < 1e-3 else Fraction(fps).limit_denominator(100_000)


def parse_frame_rate(text: str) -> Fraction:
    """A rate written as "60", "59.94" (which is 60000/1001) or "60000/1001". Raises ValueError in one line."""
    found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{0,9})?)\s*(?:/\s*(\d{1,9}))?\s*", text, re.ASCII)
    rate = Fraction(0)
    if found and found[2] is None:
        rate = exact_frame_rate(float(found[1]))
    elif found and int(found[2]) > 0:
        rate = Fraction(found[1]) / int(found[2])
    if not 0 < rate <= HIGHEST:
        raise ValueError(
            f"Invalid frame rate {text[:40]!r}. Supported are rates above 0 up to {HIGHEST}, written as 60, 59.94 or "
            "60000/1001."
        )
    return rate
