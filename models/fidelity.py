"""What a patch of a MODEL costs and saves: all that was measured, and which setting of ours suits a wished error.

    found = Fidelity(steps=6, wished_error=0.1, dense=Outcome(seconds=60.0, forwards=6))
    found.add_watch(watch)
    found.patched = compare_latents([dense_latent], [patched_latent], seconds=41.0, forwards=6)
    found.recommend()

The error of a layer is the L2 norm of what a patch answers minus the dense answer to the same inputs, over the L2 norm
of that. Of many errors the 90th percentile counts: nine of ten are at most that large. Answers that are the dense ones
bit for bit are counted, and left out of it: they say nothing of what a setting does where it works.
"""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .fidelity_watch import CANDIDATES, Candidate, Sums, Tried, Watch

_NINE_OF_TEN = 0.9
_UNPATCHABLE = "some calls cannot be patched"


@dataclass
class Outcome:
    """One run of the sampler. `seconds` are those of the steps, `forwards` how often the model ran.

    Against the dense latents: `psnr` in dB, whose peak is their largest number minus their smallest, and `error`, L2 of
    the difference over their L2; None where either holds what is no number, `psnr` also where both are equal.
    """

    seconds: float
    forwards: int
    finite: bool = True
    psnr: float | None = None
    error: float | None = None
    said: list[str] = field(default_factory=list)
    """What our patches did in that run, one line for each, with the share of attention's work that is left."""


@dataclass
class Layer:
    """Errors of one layer: the mean over the steps, and the worst with its step. None where a number is none."""

    kind: str
    number: int
    mean: float | None
    worst: float | None
    worst_step: int


@dataclass
class Trial:
    """A candidate: `error` is the 90th percentile over the calls it was tried on, `mean` their mean.

    `work` is the share of attention's arithmetic that is left, `time` that of its seconds; both may be above 1. None:
    an answer was no number.
    """

    kind: str
    amount: float
    error: float | None
    mean: float | None
    work: float
    time: float


@dataclass
class Fidelity:
    """All that a probe found. `grid` is frames, rows and columns of tokens, None where there is no video.

    `calls`: how often answers to the same inputs were compared, each time over all calls of a layer in a step, `same`:
    how often they were equal, `broken`: how often a patch gave what is no number. `attention`: share of attention in a
    dense forward's time. `patched_time`: median of the seconds of a patched call or block over those of it dense.
    """

    steps: int
    wished_error: float
    dense: Outcome
    patched: Outcome | None = None
    recommended: Outcome | None = None
    grid: tuple[int, int, int] | None = None
    tokens: int = 0
    attention: float | None = None
    layers: list[Layer] = field(default_factory=list)
    step_errors: list[float | None] = field(default_factory=list)
    calls: int = 0
    same: int = 0
    broken: int = 0
    error: float | None = None
    mean_error: float | None = None
    patched_time: float | None = None
    other_error: float | None = None
    trials: list[Trial] = field(default_factory=list)
    tried_on: list[tuple[int, int]] = field(default_factory=list)
    choice: int | None = None
    advice: str = ""
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    @property
    def chosen(self) -> Candidate | None:
        """The recommended setting."""
        if self.choice is None:
            return None
        trial = self.trials[self.choice]
        return next(each for each in CANDIDATES if (each.kind, each.amount) == (trial.kind, trial.amount))

    @property
    def keeps(self) -> bool | None:
        """Whether the connected patch keeps to the wished error; None where it changes no layer."""
        if not self.calls or self.same == self.calls:
            return None
        return not self.broken and self.error is not None and self.error <= self.wished_error

    def add_watch(self, watch: Watch) -> None:
        """Takes over what was seen on one way through all steps."""
        self.grid = None if watch.grid is None else (watch.grid.t, watch.grid.h, watch.grid.w)
        self.tokens = watch.tokens
        if watch.forward_seconds > 0:
            self.attention = min(1.0, watch.attention_seconds / watch.forward_seconds)
        both = {"attention": watch.calls, "block": watch.blocks}
        entries = [sums for found in both.values() for sums in found.values()]
        self.layers = [layer for kind, found in both.items() for layer in _layers(kind, found)]
        self.step_errors = [_mean(_errors(both.values(), step)) for step in range(self.steps)] if entries else []
        errors = [each.error for each in entries if each.wrong != 0]
        self.calls, self.same = len(entries), len(entries) - len(errors)
        self.broken = sum(not math.isfinite(each) for each in errors)
        self.error, self.mean_error = nine_of_ten(errors), _mean(errors)
        times = [each.seconds / each.dense_seconds for each in entries if each.wrong != 0 and each.dense_seconds > 0]
        self.patched_time = statistics.median(times) if times else None
        others = [each.error for each in watch.others.values()]
        self.other_error = _known(max(others, default=0.0, key=lambda each: (math.isnan(each), each)))
        self.tried_on = sorted(watch.sampled)
        self.trials = [_trial(each) for each in watch.tried if each.errors]
        self.notes += [f"{_UNPATCHABLE}: {each}" for each in sorted(watch.obstacles)]

    def recommend(self) -> None:
        """Chooses the fastest setting whose error is within the wish, if it is faster than dense attention.

        Settings that leave all the work, as windows do that see everything in a small video, do not count.
        """
        if not self.trials:
            why = "the first steps and the outer blocks stay dense, and there were no others; take more steps"
            if self.grid is None:
                why = "the latent is no video"
            elif any(each.startswith(_UNPATCHABLE) for each in self.notes):
                why = "no call of attention can be patched; the notes say why"
            self.advice = f"No setting was tried: {why}."
            return
        working = [(index, each) for index, each in enumerate(self.trials) if each.work < 1]
        if not working:
            self.advice = "Every setting that was tried leaves attention as it is: the video has too few tokens."
            return
        known = [(index, each) for index, each in working if each.error is not None]
        within = [(index, each) for index, each in known if (each.error or 0.0) <= self.wished_error]
        if not within:
            self.advice = f"No setting that was tried keeps to an error of {self.wished_error:g}."
            if known:
                closest = min((each for _, each in known), key=lambda each: each.error or 0.0)
                self.advice += f" The closest is {closest.kind} {closest.amount:g} with {closest.error:.3f}."
            return
        index, best = min(within, key=lambda each: each[1].time)
        if best.time >= 1:
            self.advice = (
                f"Settings keep to an error of {self.wished_error:g}, but none is faster here than dense attention. "
                f"The fastest of them is {best.kind} {best.amount:g} with {best.time:.2f} times the seconds."
            )
            return
        self.choice = index
        self.advice = f"The fastest within an error of {self.wished_error:g}."

    def accept(self, outcome: Outcome) -> bool:
        """Whether the recommendation stands after all steps were sampled with it; else it is taken back."""
        self.recommended, chosen = outcome, self.chosen
        if chosen is None:
            return False
        if outcome.finite and outcome.seconds < self.dense.seconds:
            return True
        why = "took no less time than dense" if outcome.finite else "gave what is no number"
        self.choice = None
        self.advice = f"{chosen.setting} is faster call by call, but all steps with it {why}."
        return False


def compare_latents(
    dense: Sequence[Tensor], other: Sequence[Tensor], *, seconds: float, forwards: int, said: Iterable[str] = ()
) -> Outcome:
    """What a run gave against the dense one. Latents come as a list: a video's alone, or that and its sound's."""
    outcome = Outcome(seconds, forwards, said=list(said))
    outcome.finite = all(bool(torch.isfinite(each).all()) for each in other)
    if not outcome.finite or not all(bool(torch.isfinite(each).all()) for each in dense):
        return outcome
    pairs = [(one.cpu().double(), two.cpu().double()) for one, two in zip(dense, other, strict=True)]
    sums = Sums(
        sum(float((one - two).square().sum()) for one, two in pairs), sum(float(one.square().sum()) for one, _ in pairs)
    )
    outcome.error = _known(sums.error)
    count = sum(one.numel() for one, _ in pairs)
    peak = max(float(one.max()) for one, _ in pairs) - min(float(one.min()) for one, _ in pairs)
    if sums.wrong and peak:
        outcome.psnr = 10 * math.log10(peak**2 * count / sums.wrong)
    return outcome


def nine_of_ten(errors: Sequence[float]) -> float | None:
    """What nine of ten errors are at most: the smallest of them for which that holds. None without any, and for NaN.

    A NaN or an infinite error is larger than all others.
    """
    ordered = sorted(math.inf if math.isnan(each) else each for each in errors)
    return _known(ordered[math.ceil(_NINE_OF_TEN * len(ordered)) - 1]) if ordered else None


def _layers(kind: str, found: dict[tuple[int, int], Sums]) -> list[Layer]:
    made = []
    for number in sorted({layer for _, layer in found}):
        by_step = {step: sums.error for (step, layer), sums in found.items() if layer == number}
        worst = max(by_step, key=lambda step: (math.isnan(by_step[step]), by_step[step]))
        made.append(Layer(kind, number, _mean([*by_step.values()]), _known(by_step[worst]), worst))
    return made


def _errors(both: Iterable[dict[tuple[int, int], Sums]], step: int) -> list[float]:
    return [sums.error for found in both for (at, _), sums in found.items() if at == step]


def _trial(tried: Tried) -> Trial:
    candidate, sums = tried.candidate, tried.sums
    time = sums.seconds / sums.dense_seconds if sums.dense_seconds else 1.0
    errors = [each for each in tried.errors if each != 0] or [0.0]
    error = nine_of_ten(errors) if all(map(math.isfinite, errors)) else None
    return Trial(candidate.kind, candidate.amount, error, _mean(errors), tried.run.density, time)


def _mean(numbers: Sequence[float]) -> float | None:
    return _known(sum(numbers) / len(numbers)) if numbers else None


def _known(number: float) -> float | None:
    return number if math.isfinite(number) else None
