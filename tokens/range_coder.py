"""An adaptive binary arithmetic coder in whole numbers: the same bits on every machine, whatever the numpy.

One class writes and reads, so that a model is written once: `digit(value, ...)` codes `value` or, where there are bytes
to read, leaves it aside and returns what they say. `docs/token_format.md` is the normative description.
"""

from __future__ import annotations

from collections.abc import Callable

# Values of 4096 / (1 + exp(-x / 256)) at x = -2048, -1920, ..., 2048: the table of lpaq (Matt Mahoney).
_KNOTS = (
    *(1, 2, 3, 6, 10, 16, 27, 45, 73, 120, 194, 310, 488, 747, 1101, 1546, 2047),
    *(2549, 2994, 3348, 3607, 3785, 3901, 3975, 4022, 4050, 4068, 4079, 4085, 4089, 4092, 4093, 4094),
)
LIMIT = 2047  # of the logistic domain, in 1/256
HALF = 1 << 15  # a chance of one half
SLOWEST = 120  # decisions after which a chance adapts no slower
WEIGHT = 26000  # of an input of the mix before anything is learned, in 1/65536
STEP = 14  # how fast the weights learn
TOP = 1 << 24
FULL = (1 << 32) - 1


def _squash(x: int) -> int:
    at, part = divmod(x + 2048, 128)
    return (_KNOTS[at] * (128 - part) + _KNOTS[at + 1] * part + 64) >> 7 if part else _KNOTS[at]


SQUASH: tuple[int, ...] = tuple(_squash(x) for x in range(-LIMIT, LIMIT + 1))
"""Chance in 1/4096 of x / 256 in the logistic domain, at index x + LIMIT."""


def _stretch() -> tuple[int, ...]:
    table, x = [], -LIMIT
    for chance in range(4096):
        while x < LIMIT and SQUASH[x + LIMIT] < chance:
            x += 1
        table.append(x)
    return tuple(table)


STRETCH: tuple[int, ...] = _stretch()
"""The least x with SQUASH of at least a chance in 1/4096, or LIMIT: the inverse."""
RATE: tuple[int, ...] = tuple(65536 * 5 // (5 * count + 8) for count in range(SLOWEST + 1))
"""How far a chance moves at its decision number `count`, in 1/65536: 1 / (count + 1.6)."""


class Coder:
    """Writes digits if `data` is None, or else reads them from there.

    `chances` and `weights` are how many of each the model has; it numbers them as it likes. A chance is that of a one,
    in 1/65536; a set of weights are three neighbours. `check` is for the models to call now and then. Reading raises
    ValueError where the bytes end too early.
    """

    def __init__(
        self, chances: int, weights: int, data: bytes | None = None, *, check: Callable[[], None] = lambda: None
    ) -> None:
        self.check = check
        self.reading = data is not None
        self._data = data or b""
        self._out = bytearray()
        self._chances, self._counts = [HALF] * chances, [0] * chances
        self._weights = [WEIGHT] * (3 * weights)
        self._low, self._high = 0, FULL
        self._at = 4  # bytes seen
        self._code = int.from_bytes(self._data[:4].ljust(4, b"\0"), "big")

    def digit(self, value: int, levels: int, a: int, b: int, c: int, w: int) -> int:
        """A digit of 0..levels - 1, its bits from the highest, each from three mixed chances.

        Bit by bit, `node` numbers what is known of the digit: 1, then 2 or 3, then 4 to 7. The chances are at a + node,
        b + node and c + node, and at w the weights.
        """
        chances, counts, weights, node = self._chances, self._counts, self._weights, 1
        w, rest, least = 3 * w, (levels - 1).bit_length(), 0
        while rest:
            rest -= 1
            if least + (1 << rest) >= levels:
                node *= 2  # a one would pass the last level
                continue
            i, j, k = a + node, b + node, c + node
            p, q, r = chances[i], chances[j], chances[k]
            x, y, z = STRETCH[p >> 4], STRETCH[q >> 4], STRETCH[r >> 4]
            u, v, t = weights[w : w + 3]
            dot = (u * x + v * y + t * z) >> 16
            mixed = SQUASH[(dot if dot < LIMIT else LIMIT) + LIMIT] if dot > -LIMIT else SQUASH[0]
            bit = self._decide(value >> rest & 1, mixed << 4)
            error = ((bit << 12) - mixed) * STEP
            weights[w : w + 3] = (
                u + ((x * error + 32768) >> 16),
                v + ((y * error + 32768) >> 16),
                t + ((z * error + 32768) >> 16),
            )
            for place, chance in ((i, p), (j, q), (k, r)):
                count = counts[place]
                chances[place] = chance + ((65535 * bit - chance) * RATE[count] >> 16)
                if count < SLOWEST:
                    counts[place] = count + 1
            node += node + bit
            least += bit << rest
        return least

    def plain(self, value: int, levels: int, a: int) -> int:
        """A digit of 0..levels - 1, each of its bits from the one chance at a + node."""
        chances, counts, node = self._chances, self._counts, 1
        rest, least = (levels - 1).bit_length(), 0
        while rest:
            rest -= 1
            if least + (1 << rest) >= levels:
                node *= 2
                continue
            i = a + node
            chance, count = chances[i], counts[i]
            bit = self._decide(value >> rest & 1, chance if chance > 32 else 32)
            chances[i] = chance + ((65535 * bit - chance) * RATE[count] >> 16)
            if count < SLOWEST:
                counts[i] = count + 1
            node += node + bit
            least += bit << rest
        return least

    def bits(self, value: int, count: int) -> int:
        """`count` bits, the highest first, each as likely to be one as zero."""
        result = 0
        for place in range(count - 1, -1, -1):
            result += result + self._decide(value >> place & 1, HALF)
        return result

    def _decide(self, bit: int, chance: int) -> int:
        low, high = self._low, self._high
        middle = low + ((high - low) * chance >> 16)
        if self.reading:
            bit = 1 if self._code <= middle else 0
        if bit:
            high = middle
        else:
            low = middle + 1
        while (low ^ high) < TOP:
            self._shift(high >> 24)
            low, high = low << 8 & FULL, (high << 8 & FULL) | 255
        self._low, self._high = low, high
        return bit

    def _shift(self, byte: int) -> None:
        if not self.reading:
            self._out.append(byte)
            return
        if self._at - 4 >= len(self._data):
            raise ValueError("its payload ends before the last frame.")
        follows = self._data[self._at] if self._at < len(self._data) else 0
        self._code = (self._code << 8 & FULL) | follows
        self._at += 1

    def _tail(self) -> bytes:
        """The fewest bytes that tell the last interval, with zeros behind them."""
        return bytes([-(-self._low >> 24)]) if self._low else b""

    def written(self) -> bytes:
        """All bytes, once the last digit is written."""
        return bytes(self._out) + self._tail()

    def close(self) -> None:
        """Raises ValueError unless the bytes read were just those that `written` gives for these digits."""
        if self._data[self._at - 4 :] != self._tail():
            raise ValueError("its payload goes on behind the last frame, or its end is damaged.")
