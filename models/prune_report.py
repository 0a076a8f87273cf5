"""What pruning a model came to: what got smaller, what got faster, and what that cost."""

from dataclasses import dataclass

_HOW = ("without correction", "with it")


@dataclass(frozen=True)
class PruneReport:
    """Each pair is before and after.

    parameters: that take part when the model runs. weights: bytes of them all that are held, also of those that only
    wait to be put back. seconds: of the calls it was measured on, None where that was not done. error: of what the
    model gives, first without what makes up for the loss, if that is known, then with it; a share, or bits of a token
    if `bits` says how many there were before. notes: sentences.
    """

    title: str
    parameters: tuple[int, int]
    weights: tuple[int, int]
    error: tuple[float | None, float] | None = None
    seconds: tuple[float, float] | None = None
    bits: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def speedup(self) -> float | None:
        return self.seconds[0] / self.seconds[1] if self.seconds and self.seconds[1] else None

    def _error(self, value: float) -> str:
        return f"{value:.1%}" if self.bits is None else f"{value - self.bits:+.3f}"

    def text(self) -> str:
        """A few lines."""
        lines = [
            self.title,
            f"Parameters that run: {_count(self.parameters[0])} -> {_count(self.parameters[1])} "
            f"({_change(*self.parameters)})",
            f"Weights held: {_bytes(self.weights[0])} -> {_bytes(self.weights[1])} ({_change(*self.weights)})",
        ]
        if self.seconds is not None:
            faster = f"{self.speedup or 0:.2f}x as fast"
            lines.append(f"Time of the model: {self.seconds[0]:.3f} s -> {self.seconds[1]:.3f} s ({faster})")
        if self.error is not None:
            said = [
                f"{self._error(each)} {how}" for each, how in zip(self.error, _HOW, strict=True) if each is not None
            ]
            what = (
                "What the model gives is off by" if self.bits is None else f"Bits of a token, {self.bits:.3f} before:"
            )
            lines.append(f"{what} {', '.join(said)}")
        return "\n".join([*lines, *self.notes])


def _change(before: int, after: int) -> str:
    return f"{after / before - 1:+.1%}" if before else "none"


def _count(value: int) -> str:
    return f"{value / 1e9:.2f} billion" if value >= 1e9 else f"{value / 1e6:.2f} million"


def _bytes(value: int) -> str:
    return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"
