"""A reader of payloads that follows docs/token_format.md, section 3, and nothing else."""

KNOTS = (
    *(1, 2, 3, 6, 10, 16, 27, 45, 73, 120, 194, 310, 488, 747, 1101, 1546, 2047),
    *(2549, 2994, 3348, 3607, 3785, 3901, 3975, 4022, 4050, 4068, 4079, 4085, 4089, 4092, 4093, 4094),
)


def squash(x):
    j, f = (x + 2048) >> 7, (x + 2048) & 127
    return (KNOTS[j] * (128 - f) + KNOTS[j + 1] * f + 64) >> 7


STRETCH = [next((x for x in range(-2047, 2048) if squash(x) >= q), 2047) for q in range(4096)]


def bits_of(n):
    return len(f"{n:b}") if n else 0


def clamp(x, most):
    return min(max(x, -most), most)


class PageReader:
    """Chances and weights by name and context."""

    def __init__(self, data, levels, blocks):
        self.data, self.at, self.low, self.high = data, 0, 0, 2**32 - 1
        self.chances, self.weights = {}, {}
        self.levels, (self.bh, self.bw) = levels, blocks
        self.grid, self.kind = {}, 0
        self.before = {"motion": (0, 0), "mode": {}, "vector": {}, "mask": {}, "past": {}}

    def decide(self, chance):
        code = int.from_bytes(self.data[self.at : self.at + 4].ljust(4, b"\0"), "big")
        middle = self.low + ((self.high - self.low) * chance >> 16)
        bit = int(code <= middle)
        self.low, self.high = (self.low, middle) if bit else (middle + 1, self.high)
        while self.low >> 24 == self.high >> 24:
            self.at += 1
            self.low, self.high = self.low << 8 & 0xFFFFFFFF, self.high << 8 & 0xFFFFFFFF | 255
        return bit

    def learn(self, key, bit):
        p, n = self.chances[key]
        self.chances[key] = p + ((65535 * bit - p) * (65536 * 5 // (5 * n + 8)) >> 16), min(n + 1, 120)

    def digit(self, name, levels, *contexts):
        """Plain with one context, mixed with three and a fourth: that of the weights."""
        node, value = 1, 0
        for place in reversed(range(bits_of(levels - 1))):
            bit = 0
            if value + 2**place < levels:
                keys = [(name, i, context, node) for i, context in enumerate(contexts[:3])]
                p = [self.chances.setdefault(key, (32768, 0))[0] for key in keys]
                if len(p) == 1:
                    bit = self.decide(max(p[0], 32))
                else:
                    s = [STRETCH[each >> 4] for each in p]
                    w = self.weights.setdefault((name, contexts[3]), [26000] * 3)
                    m = squash(clamp(sum(a * b for a, b in zip(w, s, strict=True)) >> 16, 2047))
                    bit = self.decide(16 * m)
                    e = ((bit << 12) - m) * 14
                    w[:] = [a + ((b * e + 32768) >> 16) for a, b in zip(w, s, strict=True)]
                for key in keys:
                    self.learn(key, bit)
            node, value = 2 * node + bit, value + bit * 2**place
        return value

    def raw(self, count):
        return sum(self.decide(32768) << place for place in reversed(range(count)))

    def number(self, name, most):
        length = self.digit((name, "length"), most + 1, 0)
        if length == 0:
            return 0
        sign = self.digit((name, "sign"), 2, 0)
        return (2 ** (length - 1) + self.raw(length - 1)) * (-1 if sign else 1)

    def times(self, count):
        pts, last, older, same = [self.number("time", 65)], 0, 0, [0, 0]
        for _ in range(count - 1):
            history = 2 * same[-2] + same[-1]
            same.append(self.digit("same", 2, history))
            if not same[-1]:
                again = older != last and self.digit("again", 2, history)
                last, older = older if again else last + self.number("time", 65), last
            pts.append(pts[-1] + last)
        return pts

    def code(self, name, sides=None):
        """(code, digits as contexts have them); `sides`: those of the neighbours, None where there is none."""
        code, unit, shown = 0, 1, []
        for i, level in enumerate(self.levels):
            r = max(0, bits_of(level - 1) - 6)
            high = ((level - 1) >> r) + 1
            if sides is None:
                digit = self.digit((name, i), high, 0)
            else:
                digit = self.digit((name, i), high, *(side[i] if side else None for side in sides), 0)
            shown.append(digit >> max(0, bits_of(high - 1) - 3))
            code, unit = code + unit * ((digit << r) + self.raw(r)), unit * level
        return code, shown

    def codes_of_grid(self):
        now, rows = {}, []
        for y in range(2 * self.bh):
            rows.append([])
            for x in range(2 * self.bw):
                sides = now.get((y, x - 1)), now.get((y - 1, x)), self.grid.get((y, x))
                code, now[y, x] = self.code("grid", sides)
                rows[-1].append(code)
        self.grid = now
        return rows

    def frame(self):
        """("I", codes), ("still",) or ("P", motion, modes, deltas, masks, residual, intra)."""
        self.kind = self.digit("kind", 3, self.kind)
        if self.kind == 0:
            return "I", self.codes_of_grid()
        if self.kind == 2:
            return ("still",)
        was = self.before["motion"]
        now = {"motion": tuple(was[i] + self.number(("motion", i), 8) for i in range(2))}
        now.update(mode={}, vector={}, mask={}, past={})
        for y in range(self.bh):
            for x in range(self.bw):
                self.block(now, y, x)
        self.before = now
        residual = [self.code("residual")[0] for mask in now["mask"].values() for _ in range(f"{mask:b}".count("1"))]
        intra = [self.code("intra")[0] for mode in now["mode"].values() if mode == 3 for _ in range(4)]
        return (
            "P",
            now["motion"],
            now["mode"],
            list(now["vector"].values()),
            list(now["mask"].values()),
            residual,
            intra,
        )

    def block(self, now, y, x):
        mode = lambda dy, dx: now["mode"].get((y + dy, x + dx), 0)  # noqa: E731
        old = lambda dy, dx: self.before["mode"].get((y + dy, x + dx), 0)  # noqa: E731
        sides = [int(mode(*at) > 0) for at in ((0, -1), (-1, 0), (-1, 1), (-1, -1))]
        ahead = sum(old(*at) > 0 for at in ((0, 1), (1, 0), (1, 1), (0, -1), (-1, 0)))
        past = self.before["past"].get((y, x), 0)
        a, b = (*sides, int(old(0, 0) > 0)), (sum(sides), ahead, old(0, 0))
        coded = self.digit("coded", 2, a, b, (past, mode(0, -1), mode(-1, 0)), sum(sides))
        chosen = 0
        if coded:
            a, b = (mode(0, -1), mode(-1, 0)), (old(0, 0), old(0, 1), old(1, 0))
            contexts = a, b, (past & 3, mode(-1, 1)), 0
            chosen = 3 if self.digit("intra", 2, *contexts) else 1 + self.digit("residual", 2, *contexts)
        now["mode"][y, x], now["past"][y, x] = chosen, past << 1 & 7 | coded
        if chosen in (1, 2):
            now["vector"][y, x] = self.vector(now, y, x)
        if chosen == 2:
            now["mask"][y, x] = self.mask(now["mask"], y, x)

    def vector(self, now, y, x):
        sides = [(y, x - 1), (y - 1, x), (y - 1, x + 1 if x + 1 < self.bw else x - 1)]
        found, before, result = [now["vector"].get(at, (0, 0)) for at in sides], self.before["vector"].get((y, x)), []
        for axis in range(2):
            left, above, right = (vector[axis] for vector in found)
            guess = sorted((left, above, right))[1]
            moved = before and before[axis] + self.before["motion"][axis] - now["motion"][axis]
            other = clamp(result[0] - sorted(vector[0] for vector in found)[1], 2) if axis else None
            a = clamp(left - guess, 4), clamp(above - guess, 4)
            b = None if moved is None else clamp(moved - guess, 4), other
            c = bits_of(abs(left - above) + abs(above - right)), clamp(guess, 3)
            size = length = self.digit(("length", axis), 7, a, b, c, 0)
            if length:
                sign = self.digit(("sign", axis), 2, a, b, c, 0)
                size = 2 ** (length - 1) + (self.digit("below", 2 ** (length - 1), (axis, length)) if length > 1 else 0)
                size = -size if sign else size
            result.append(guess + size)
        return tuple(result)

    def mask(self, masks, y, x):
        marks = 0
        left, above = masks.get((y, x - 1), 0), masks.get((y - 1, x), 0)
        before = self.before["mask"].get((y, x), 0)
        for cell in range(4):
            if cell == 3 and marks == 0:
                return 8
            beside = marks >> (cell - 1) & 1 if cell in (1, 3) else left >> (cell + 1) & 1
            over = marks >> (cell - 2) & 1 if cell in (2, 3) else above >> (cell + 2) & 1
            b = cell, beside, over, before >> cell & 1, left > 0, above > 0
            marks |= self.digit("mark", 2, (cell, marks), b, (cell, before), cell) << cell
        return marks
