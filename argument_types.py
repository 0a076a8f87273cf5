"""Numbers on the command line. argparse prints what is wrong with one and exits with 2."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any


def number(kind: Callable[[str], float], least: float, what: str, above: bool = False) -> Callable[[str], Any]:
    """A parser of finite numbers from `least` up (or above it); `what` says which those are."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (value > least if above else value >= least) or math.isinf(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return value

    return parse


COUNT = number(int, 1, "a whole number of 1 or more")
SIDE = number(int, 2, "a whole number of pixels, 2 or more")
AMOUNT = number(float, 0, "a number above 0", above=True)
ANY_COUNT = number(int, 0, "a whole number of 0 or more")
ANY_AMOUNT = number(float, 0, "a number of 0 or more")
