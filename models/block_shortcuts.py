"""What stands in for a block that is left out: a small map of each token, fitted to what the block did to it.

A block of a transformer adds something to each token it is given. What of that can be told from the token alone is
found by least squares on tokens the block was seen with, and costs next to nothing: a scale and a shift of each
channel, and a map of low rank (reduced-rank regression, Izenman, 1975). The simplest form that does well on tokens
which it was not fitted to is taken, so that few tokens give a simple form rather than a wrong one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

Correction = Literal["none", "shift", "affine", "low-rank"]
CORRECTIONS: tuple[Correction, ...] = get_args(Correction)
"""From the simplest to the one that may be all of them."""
RANK = 32
_RIDGES = (1e-5, 1e-3, 1e-2, 1e-1, 1.0)  # shares of the mean square of a channel
_HELD_OUT = 4  # one part in so many is kept to judge forms with
_BETTER = 0.98  # a form that takes more is taken if its error is at most that share of a simpler one's
_NOTHING = 1e-6  # share of what a block adds that is not worth another form


@dataclass(frozen=True)
class Shortcut:
    """`x + x * scale + shift + x @ down @ up` for tokens `[..., C]`; parts that are None are left out.

    scale, shift: `[C]`. down: `[C, rank]`, up: `[rank, C]`. All float32 on the CPU; they follow the tokens.
    """

    scale: Tensor | None = None
    shift: Tensor | None = None
    down: Tensor | None = None
    up: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> "Shortcut":
        return self  # ComfyUI copies options that hold it; nothing changes it

    def __call__(self, x: Tensor) -> Tensor:
        """`[..., C]` -> a new one of the same shape, dtype and device."""
        scale, shift, down, up = (
            None if each is None else each.to(x.device, x.dtype)
            for each in (self.scale, self.shift, self.down, self.up)
        )
        made = x.clone() if scale is None else x * (1 + scale)
        if shift is not None:
            made = made + shift
        return made if down is None or up is None else made + (x @ down) @ up

    @property
    def form(self) -> Correction:
        if self.down is not None:
            return "low-rank"
        if self.scale is not None:
            return "affine"
        return "none" if self.shift is None else "shift"

    @property
    def parameters(self) -> int:
        return sum(each.numel() for each in (self.scale, self.shift, self.down, self.up) if each is not None)


@dataclass(frozen=True)
class Seen:
    """Tokens that a block was given and what it added, float32 `[N, C]` on the CPU, of one run through the model."""

    given: Tensor
    added: Tensor


def fit_shortcut(seen: Sequence[Seen], correction: Correction = "low-rank", rank: int = RANK) -> Shortcut:
    """The simplest shortcut, at most of the form of `correction`, that does well on tokens it was not fitted to.

    Of at least eight runs one in four is held out; of fewer, one token in four. ValueError without tokens.
    """
    if correction not in CORRECTIONS or rank < 1:
        raise ValueError(
            f"Invalid correction {correction!r} or rank {rank}. Supported are {', '.join(CORRECTIONS)}; ranks are at "
            "least 1."
        )
    if correction == "none":
        return Shortcut()
    fitted, held_out = _parted(seen)
    everything = _joined(seen)
    best, least, of_best = Shortcut(), _error(Shortcut(), held_out), 0.0
    enough = _NOTHING * least
    for form in CORRECTIONS[1 : 1 + CORRECTIONS.index(correction)]:
        ridges = _RIDGES if form == "low-rank" else (0.0,)
        for ridge, made in zip(ridges, _fits(fitted, form, rank, ridges), strict=True):
            error = _error(made, held_out)
            if error < (least if form == best.form else least * _BETTER - enough):
                best, least, of_best = made, error, ridge
    return Shortcut() if best.form == "none" else next(_fits(everything, best.form, rank, [of_best]))


def unexplained(seen: Sequence[Seen], shortcut: Shortcut) -> float:
    """What is left of what a block adds when a shortcut stands in for it: a share of its squares, from 0 on."""
    everything = _joined(seen)
    return _error(shortcut, everything) / max(float(everything.added.square().sum()), 1e-30)


def _parted(seen: Sequence[Seen]) -> tuple[Seen, Seen]:
    if len(seen) >= 2 * _HELD_OUT:  # of fewer, each may be a step unlike all others
        held_out = seen[_HELD_OUT - 1 :: _HELD_OUT]
        return _joined([each for number, each in enumerate(seen) if (number + 1) % _HELD_OUT]), _joined(held_out)
    whole = _joined(seen)
    chosen = torch.arange(len(whole.given)) % _HELD_OUT == _HELD_OUT - 1
    return Seen(whole.given[~chosen], whole.added[~chosen]), Seen(whole.given[chosen], whole.added[chosen])


def _joined(seen: Sequence[Seen]) -> Seen:
    if not sum(len(each.given) for each in seen):
        raise ValueError("No tokens to fit a shortcut to. Give at least one run through the model.")
    return Seen(torch.cat([each.given for each in seen]), torch.cat([each.added for each in seen]))


def _error(shortcut: Shortcut, seen: Seen) -> float:
    return float((seen.given + seen.added - shortcut(seen.given)).square().sum())


def _fits(seen: Seen, form: Correction, rank: int, ridges: Sequence[float]) -> Iterator[Shortcut]:
    """One for each ridge."""
    x, y = seen.given, seen.added
    mean, added = x.mean(0), y.mean(0)
    if form == "shift":
        yield Shortcut(shift=added)
        return
    x, y = x - mean, y - added
    scale = (x * y).sum(0) / x.square().sum(0).clamp(min=1e-12)
    line = Shortcut(scale=scale, shift=added - mean * scale)
    if form == "affine":
        yield line
        return
    for weights in ridge_regression(x, y - x * scale, ridges):  # [C, C]
        up = _leading(x @ weights, rank)  # [rank, C]
        down = weights @ up.T
        yield replace(line, shift=added - mean * scale - mean @ down @ up, down=down, up=up)


def ridge_regression(x: Tensor, y: Tensor, ridges: Sequence[float]) -> Iterator[Tensor]:
    """For each ridge `[C, D]` by which `[N, C]` gives what is near to `[N, D]`.

    A ridge is a share of the mean square of a channel, above 0. Works with the smaller of the two matrices there are,
    tokens by tokens or channels by channels.
    """
    tokens, channels = x.shape
    few = tokens < channels
    products = x @ x.T if few else x.T @ x
    unit = torch.eye(len(products), device=x.device)
    weight = float(x.square().mean()) * tokens
    for ridge in ridges:
        held = products + max(ridge * weight, 1e-12) * unit
        yield x.T @ torch.linalg.solve(held, y) if few else torch.linalg.solve(held, x.T @ y)


def _leading(y: Tensor, rank: int) -> Tensor:
    """`[rank, C]`: orthonormal directions of `[N, C]` along which most of it lies, by subspace iteration."""
    rank = min(rank, *y.shape)
    chance = torch.Generator().manual_seed(0)
    basis = torch.randn(y.shape[1], min(rank + 8, *y.shape), generator=chance)
    for _ in range(4):
        basis = torch.linalg.qr(y.T @ (y @ basis)).Q
    turned = torch.linalg.eigh((y @ basis).T @ (y @ basis)).eigenvectors.flip(1)
    return (basis @ turned[:, :rank]).T
