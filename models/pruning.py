"""Blocks of a transformer that can be left out: how much each is worth, and what stands in for those that go.

Leaving out whole blocks makes a model faster on every device. What a block is worth is measured, not guessed: by what
it changes in the tokens (1 - cosine, as in ShortGPT, arXiv 2403.03853, or the size of the change beside them), or by
what comes out of the whole model when it is left out. A shortcut (models/block_shortcuts.py) stands in for it. Weights
are not touched: what is left out can be put back, and what is added to the weights later, as by a LoRA, still fits.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .block_shortcuts import CORRECTIONS, RANK, Correction, Seen, Shortcut, fit_shortcut

Measure = Literal["output", "change", "cosine"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
MOST = 0.5
"""No more than that share of the blocks is left out."""
_VALUES = 1 << 28  # numbers of tokens that are kept at a time to fit shortcuts to: 1 GiB
_ROWS = 1024  # at most so many tokens of a stream in one run through the model

Streams = tuple[Tensor, ...]
"""What goes through a block: the video's tokens `[B, ..., C]`, and where there are, those of text or sound."""


class Answer(Protocol):
    """Says what a block gives, which is what `block()` gives where it is to run."""

    def __call__(self, number: int, given: Streams, block: Callable[[], Streams]) -> Streams: ...


class Calibration(Protocol):
    """A model with `blocks` blocks, of so many `parameters` each, and inputs to run it on."""

    blocks: int
    parameters: Sequence[int]

    def cost(self, answer: Answer) -> float:
        """Runs the model on all inputs, its blocks answered for, and says what that costs: less is better."""
        ...


@dataclass(frozen=True)
class DepthSettings:
    """`share` of the blocks to leave out, in [0, 0.5], and how.

    measure: what says how much a block is worth; output: the cost of the model without it. greedy: all that are left
    are measured again when one was chosen. correction: the most that a shortcut may be, of `rank` from 1 on. first,
    last: so many blocks at both ends stay.
    """

    share: float = 0.2
    measure: Measure = "output"
    greedy: bool = False
    correction: Correction = "low-rank"
    rank: int = RANK
    first: int = 0
    last: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= MOST:
            raise ValueError(f"Invalid share {self.share}. From 0 to {MOST} of the blocks can be left out.")
        if self.measure not in MEASURES or self.correction not in CORRECTIONS:
            raise ValueError(
                f"Unknown measure {self.measure!r} or correction {self.correction!r}. Supported are "
                f"{', '.join(MEASURES)}; {', '.join(CORRECTIONS)}."
            )
        if min(self.first, self.last) < 0 or self.rank < 1:
            raise ValueError(
                f"Invalid first {self.first}, last {self.last} or rank {self.rank}. They are at least 0, 0 and 1."
            )

    def runs(self, blocks: int) -> int:
        """How often `plan_depth` runs through all inputs of such a model."""
        count, fits, runs = self.count(blocks), self.correction != "none", 3
        for chosen in range(0, count, 1 if self.greedy else max(1, count)):
            tries = (len(self.candidates(blocks)) - chosen) * (1 + fits)
            runs += fits + tries if self.measure == "output" else 1
        return runs + count * fits

    def candidates(self, blocks: int) -> list[int]:
        """Numbers of the blocks that may be left out."""
        return list(range(self.first, blocks - self.last))

    def count(self, blocks: int) -> int:
        """How many are left out. ValueError where the ends that stay leave too few to choose from."""
        count = round(self.share * blocks)
        if count > len(self.candidates(blocks)):
            raise ValueError(
                f"{count} of {blocks} blocks cannot be left out while the first {self.first} and the last {self.last} "
                "stay. Lower the share, or let fewer stay."
            )
        return count


@dataclass(frozen=True)
class DepthPlan:
    """What is left out of a model and what stands in for it: by the number of a block, a shortcut for each stream.

    worth: of the blocks that were measured first, by number; more is worth more. cost: what the model costs whole, with
    the blocks left out alone, and with their shortcuts. parameters: of the blocks left out, and of the shortcuts.
    """

    blocks: int
    shortcuts: Mapping[int, tuple[Shortcut, ...]]
    worth: Mapping[int, float] = field(default_factory=dict)
    cost: tuple[float, float, float] = (0.0, 0.0, 0.0)
    parameters: tuple[int, int] = (0, 0)

    @property
    def left_out(self) -> tuple[int, ...]:
        return tuple(sorted(self.shortcuts))

    def __deepcopy__(self, memo: dict[int, Any]) -> "DepthPlan":
        return self  # ComfyUI copies options that hold it; nothing changes it

    def __call__(self, number: int, given: Streams, block: Callable[[], Streams]) -> Streams:
        shortcuts = self.shortcuts.get(number)
        return block() if shortcuts is None else shortened(shortcuts, given)

    def uncorrected(self) -> "DepthPlan":
        """The same blocks left out, with nothing in their place."""
        return DepthPlan(self.blocks, dict.fromkeys(self.shortcuts, ()))


def shortened(shortcuts: Sequence[Shortcut], given: Streams) -> Streams:
    """What stands for a block's answer; streams without a shortcut pass as they are."""
    rest = given[len(shortcuts) :]
    return tuple(shortcut(stream) for shortcut, stream in zip(shortcuts, given, strict=False)) + tuple(rest)


def plan_depth(calibration: Calibration, settings: DepthSettings, judge: Calibration | None = None) -> DepthPlan:
    """Which blocks to leave out, and what stands in for them, as measured on the calibration's inputs.

    judge: the same model on other inputs, on which it is then measured what shortcuts are worth that were fitted to the
    first; on those they were fitted to they do better than they are. Where the output is the measure, every block is
    left out once with nothing in its place and once with its shortcut. `DepthSettings.runs` says how often all inputs
    are run through the model.
    """
    count, candidates = settings.count(calibration.blocks), settings.candidates(calibration.blocks)
    chosen: dict[int, tuple[Shortcut, ...]] = {}
    worth: dict[int, float] = {}
    while len(chosen) < count:
        rest = [number for number in candidates if number not in chosen]
        measured = measure_blocks(calibration, settings, rest, chosen, judge)
        worth = worth or {number: each.cost for number, each in measured.items()}
        least = sorted(rest, key=lambda number: measured[number].cost)[: 1 if settings.greedy else count]
        for number in sorted(least):
            chosen |= _fitted(calibration, settings, number, chosen, measured[number])
    return judged(judge or calibration, DepthPlan(calibration.blocks, chosen, worth))


def plan_amount(
    calibration: Calibration,
    amount: float,
    settings: DepthSettings,
    judge: Calibration | None = None,
    sizes: Sequence[float] | None = None,
) -> DepthPlan:
    """As `plan_depth` for blocks of unlike sizes: those to leave out that together have at least this `amount`.

    sizes: of the blocks, as their parameters, which is the default, or the time that they take. They are chosen one by
    one: always that which makes the model better, or which costs least for what of the amount it saves. The half that
    costs least is tried again each time. What a block is worth is measured by the output. Of the settings the share
    does not count. ValueError where `amount` is more than half of all.
    """
    settings, judge = replace(settings, measure="output"), judge or calibration
    sizes, rest = sizes or calibration.parameters, settings.candidates(calibration.blocks)
    most = MOST * sum(sizes[number] for number in rest)
    if amount > most:
        raise ValueError(f"Invalid amount {amount:g}. Of the blocks that may go at most half can go: {most:g}.")
    chosen: dict[int, tuple[Shortcut, ...]] = {}
    worth: dict[int, float] = {}
    missing, now = amount, judge.cost(DepthPlan(calibration.blocks, {}))
    while missing > 0:
        measured = measure_blocks(calibration, settings, rest, chosen, judge)
        worth = worth or {number: each.cost for number, each in measured.items()}
        prices = {number: _price(each.cost - now, min(sizes[number], missing)) for number, each in measured.items()}
        least, *rest = sorted(rest, key=prices.__getitem__)
        chosen |= _fitted(calibration, settings, least, chosen, measured[least])
        missing, now = missing - sizes[least], judge.cost(DepthPlan(calibration.blocks, chosen))
        half = (len(rest) + 1) // 2
        rest = rest[: next(n for n in range(half, len(rest) + 1) if sum(sizes[each] for each in rest[:n]) >= missing)]
    return judged(judge, DepthPlan(calibration.blocks, chosen, worth))


def _price(cost: float, saved: float) -> float:
    """Of what is saved; what makes a model better comes before all that does not, and most of it first."""
    return cost if cost <= 0 else cost / saved


def judged(calibration: Calibration, plan: DepthPlan) -> DepthPlan:
    """The plan with its costs on a calibration, which may be another than the one it was made on."""
    costs = tuple(calibration.cost(each) for each in (DepthPlan(plan.blocks, {}), plan.uncorrected(), plan))
    saved = sum(calibration.parameters[number] for number in plan.shortcuts)
    taken = sum(each.parameters for shortcuts in plan.shortcuts.values() for each in shortcuts)
    return DepthPlan(plan.blocks, plan.shortcuts, plan.worth, costs, (saved, taken))  # type: ignore[arg-type]


class Worth(NamedTuple):
    """What a block is worth; `plain`: the model does better with nothing in its place than with a shortcut.

    Between two blocks whose shortcuts do as well, that one is worth less which does less harm without: how much of
    what a shortcut makes up for it still makes up for on inputs unlike those it was fitted to, nobody knows; half of
    it counts.
    """

    cost: float
    plain: bool = False


def measure_blocks(
    calibration: Calibration,
    settings: DepthSettings,
    numbers: Sequence[int],
    chosen: Mapping[int, tuple[Shortcut, ...]],
    judge: Calibration | None = None,
) -> dict[int, Worth]:
    """What each of these blocks is worth where `chosen` are left out; `judge` as of `plan_depth`."""
    judge = judge or calibration
    if settings.measure != "output":
        watch = _Watch(DepthPlan(calibration.blocks, chosen), numbers)
        calibration.cost(watch)
        return {number: Worth(each) for number, each in watch.worth(settings.measure).items()}
    shortcuts = fit_blocks(calibration, settings, numbers, chosen)
    found = {}
    for number in numbers:
        costs = [
            judge.cost(DepthPlan(calibration.blocks, {**chosen, number: each}))
            for each in ([(), shortcuts[number]] if shortcuts[number] else [()])
        ]
        plain = costs[0] <= costs[-1]
        found[number] = Worth(costs[0] if plain else sum(costs) / 2, plain)
    return found


def _fitted(
    calibration: Calibration,
    settings: DepthSettings,
    number: int,
    chosen: Mapping[int, tuple[Shortcut, ...]],
    worth: Worth,
) -> dict[int, tuple[Shortcut, ...]]:
    """What stands in for a block behind what is left out already, as tokens will come to it."""
    return {number: ()} if worth.plain else fit_blocks(calibration, settings, [number], chosen)


def fit_blocks(
    calibration: Calibration,
    settings: DepthSettings,
    numbers: Sequence[int],
    chosen: Mapping[int, tuple[Shortcut, ...]],
) -> dict[int, tuple[Shortcut, ...]]:
    """Shortcuts for these blocks where `chosen` are left out."""
    if settings.correction == "none":
        return dict.fromkeys(numbers, ())
    watch = _Watch(DepthPlan(calibration.blocks, chosen), numbers, keep=True)
    calibration.cost(watch)
    return {number: watch.fit(number, settings.correction, settings.rank) for number in numbers}


class _Watch:
    """Answers as a plan does, and notes what these blocks do to their tokens."""

    def __init__(self, plan: DepthPlan, numbers: Sequence[int], *, keep: bool = False):
        self._plan, self._numbers, self._keep = plan, set(numbers), keep
        self._sums = {number: [0.0, 0.0, 0.0] for number in numbers}
        self._seen: dict[int, list[list[Seen]]] = {number: [] for number in numbers}
        self._kept = 0
        self._chance = torch.Generator().manual_seed(0)

    def __call__(self, number: int, given: Streams, block: Callable[[], Streams]) -> Streams:
        if number not in self._numbers:
            return self._plan(number, given, block)
        if not self._keep:
            before = given[0].clone()  # blocks may write into what they are given
            made = block()
            self._note(number, before, made[0])
            return made
        rows = [self._rows(stream) for stream in given]
        before = [stream.flatten(0, -2)[row.to(stream.device)].clone() for stream, row in zip(given, rows, strict=True)]
        made = block()
        for place, (old, new, row) in enumerate(zip(before, made, rows, strict=True)):
            added = new.flatten(0, -2)[row.to(new.device)].float() - old.float()
            streams = self._seen[number]
            if place == len(streams):
                streams.append([])
            streams[place].append(Seen(old.float().cpu(), added.cpu()))
            self._kept += 2 * added.numel()
        return made

    def _rows(self, stream: Tensor) -> Tensor:
        """Which tokens are kept; fewer, the more there are already, so that all of them fit into memory."""
        tokens = stream.shape[:-1].numel()
        free = max(0.0, 1 - self._kept / _VALUES)
        most = int(_VALUES * free / (4 * len(self._numbers) * stream.shape[-1]))
        return torch.randperm(tokens, generator=self._chance)[: max(1, min(_ROWS, most))]

    def _note(self, number: int, before: Tensor, after: Tensor) -> None:
        x, y = before.flatten(0, -2).float(), after.flatten(0, -2).float()
        sums = self._sums[number]
        sums[0] += len(x)
        sums[1] += float((1 - F.cosine_similarity(x, y, dim=-1)).sum())
        sums[2] += float(((y - x).norm(dim=-1) / x.norm(dim=-1).clamp(min=1e-12)).sum())

    def worth(self, measure: Measure) -> dict[int, float]:
        place = 1 if measure == "cosine" else 2
        return {number: sums[place] / max(sums[0], 1) for number, sums in self._sums.items()}

    def fit(self, number: int, correction: Correction, rank: int) -> tuple[Shortcut, ...]:
        return tuple(fit_shortcut(seen, correction, rank) for seen in self._seen[number])
