"""What a wished video costs a model, and how it costs less: made smaller and at a lower rate, then brought back.

The cost is the arithmetic of one forward of the blocks, in floating-point operations (two for each multiplication with
its addition). What is the same for every plan, or grows only with the pixels, is not counted: text encoder, VAE,
interpolation and upscaling. Attention of all tokens to all grows with their square, the rest in proportion.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from .model_families import ModelFamily

SCALES = (Fraction(1), Fraction(3, 2), Fraction(2), Fraction(3), Fraction(4))
"""How many times as large the video becomes afterwards."""
TIMES = (1, 2, 3, 4)
"""How many times as many frames it gets afterwards."""
LEAST_SIDE = 480
LEAST_RATE = Fraction(12)
"""Pixels of the shorter side and frames per second, below which no plan goes that is not told to."""
_LARGEST, _LONGEST, _FASTEST = 16384, 3600, 1000  # pixels, seconds, frames per second
_BROADCAST = Fraction(1001, 1000)  # half of 23.976 frames a second are 12 for whoever says 12
_AS_TRAINED = (Fraction(3, 4), Fraction(4, 3))  # of the rate a model was trained at: motion still looks natural


@dataclass(frozen=True)
class Target:
    """The video that is wanted in the end: pixels, seconds, frames per second."""

    width: int
    height: int
    seconds: Fraction
    rate: Fraction

    def __post_init__(self) -> None:
        if not 16 <= min(self.width, self.height) <= max(self.width, self.height) <= _LARGEST:
            raise ValueError(f"Invalid size {self.width}x{self.height}. Each side is 16 to {_LARGEST} pixels.")
        if not 0 < self.seconds <= _LONGEST:
            raise ValueError(f"Invalid length of {float(self.seconds):g} s. It is above 0 and at most {_LONGEST}.")
        if not 0 < self.rate <= _FASTEST:
            raise ValueError(
                f"Invalid rate {float(self.rate):g}. It is above 0 and at most {_FASTEST} frames a second."
            )


@dataclass(frozen=True)
class Cost:
    """Floating-point operations of the blocks in one forward."""

    scores: int
    """Queries times keys, and what comes of them times values."""
    projections: int
    """Linear layers around attention."""
    ffn: int

    @property
    def total(self) -> int:
        return self.scores + self.projections + self.ffn

    @property
    def attention_share(self) -> float:
        """What attention that costs nothing could save at most, 0 to 1."""
        return self.scores / self.total


def forward_cost(family: ModelFamily, tokens: int, text_tokens: int | None = None) -> Cost:
    """Of one clip of so many video tokens. `text_tokens` None: as many as the family usually has.

    The few tokens of sound go uncounted, but not what video tokens spend on attention to and from them.
    """
    text = family.text_tokens if text_tokens is None else text_tokens
    d, n = family.width, tokens
    if family.joint:
        n += text
        scores, projections = 4 * n * n * d, 8 * n * d * d
    else:
        scores = 4 * n * n * d + 4 * n * text * d
        # queries, keys, values and output; across to the text, keys and values are of its own tokens
        projections = 8 * n * d * d + 4 * n * d * d + 4 * text * family.context_width * d
        projections += 8 * n * d * family.sound_width
    return Cost(family.layers * scores, family.layers * projections, family.layers * 4 * n * d * family.ffn)


@dataclass(frozen=True)
class Plan:
    """One way to the target: a clip that the model makes, and what is done with it."""

    width: int
    """Pixels, as height: both valid for the family, and at least the target's divided by `scale`."""
    height: int
    frames: int
    """Valid for the family, and at least as long as the target."""
    rate: Fraction
    """Frames per second that they are to be played at."""
    scale: Fraction
    times: int
    tokens: int
    cost: Cost
    relative: float
    """Its cost over that of making the target itself; 1 or less."""

    @property
    def is_direct(self) -> bool:
        """Whether the model makes the target itself."""
        return self.scale == self.times == 1

    @property
    def afterwards(self) -> str:
        """What is done with the clip, in words."""
        steps = [f"interpolate x{self.times}"] * (self.times > 1)
        steps += [f"upscale x{float(self.scale):g}"] * (self.scale > 1)
        return " and ".join(steps) or "nothing"


@dataclass(frozen=True)
class Budget:
    """All plans above a floor of quality, the dearest first, and the one that is proposed."""

    family: ModelFamily
    target: Target
    plans: tuple[Plan, ...]
    chosen: Plan

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be known about the chosen plan, as sentences without a full stop."""
        plan, family, found = self.chosen, self.family, []
        speed = plan.rate / family.rate
        if not family.takes_rate and not _AS_TRAINED[0] <= speed <= _AS_TRAINED[1]:
            found.append(
                f"{family.title} moves as at {float(family.rate):g} frames a second: played at {float(plan.rate):.4g}, "
                f"everything is {float(speed):.2g} times as fast, and a prompt can only do so much about it"
            )
        if plan.scale > 1 and not self._is_exact:
            found.append(
                f"upscaled it is {_sides(plan.width * plan.scale, plan.height * plan.scale)}: "
                f"choose the exact size {self.target.width} x {self.target.height} with fit crop there"
            )
        return tuple(found)

    @property
    def _is_exact(self) -> bool:
        scale = self.chosen.scale
        return (self.chosen.width * scale, self.chosen.height * scale) == (self.target.width, self.target.height)

    def report(self) -> dict[str, Any]:
        """The chosen plan, and all `plans`, as numbers: pixels, frames, frames per second, seconds."""
        keys = {"model": self.family.title, "target": _target_facts(self.target)}
        return {
            **keys,
            **_facts(self.chosen),
            "plans": [_facts(plan) for plan in self.plans],
            "notes": [*self.notes],
        }


def plan_budget(
    family: ModelFamily,
    target: Target,
    *,
    least_side: int = LEAST_SIDE,
    least_rate: Fraction = LEAST_RATE,
    share: float | None = None,
) -> Budget:
    """The cheapest way to the target above a floor, or the best one that costs at most `share` of making it directly.

    least_side: pixels that the shorter side keeps where the target has as many; least_rate: frames per second, as well.
    Best is what leaves the least to be made up afterwards: the dearest within the share. ValueError where none is.
    """
    if share is not None and not 0 < share <= 1:
        raise ValueError(f"Invalid share {share:g}. It is above 0 and at most 1.")
    direct = _plan(family, target, Fraction(1), 1)
    plans = [direct]
    for scale in SCALES:
        for times in TIMES:
            small = scale > 1 and min(target.width, target.height) < scale * least_side
            slow = times > 1 and target.rate * _BROADCAST < times * least_rate
            if (scale > 1 or times > 1) and not small and not slow:
                plans.append(_plan(family, target, scale, times, direct.cost.total))
    # of what costs the same, as with clips of one frame of tokens, the one that leaves less to be made up
    plans.sort(key=lambda plan: (-plan.cost.total, plan.scale, plan.times))
    if share is None:
        chosen = min(plans, key=lambda plan: plan.cost.total)
    else:
        within = [plan for plan in plans if plan.relative <= share]
        if not within:
            raise ValueError(
                f"No plan costs {share:.1%} or less: the cheapest with at least {least_side} pixels and "
                f"{float(least_rate):g} frames a second costs {plans[-1].relative:.1%}. Allow a larger share, "
                "a smaller side or a lower rate."
            )
        chosen = within[0]
    return Budget(family, target, tuple(plans), chosen)


def _plan(family: ModelFamily, target: Target, scale: Fraction, times: int, whole: int | None = None) -> Plan:
    """`whole`: the cost of making the target itself; None where this is it."""
    width, height = family.side(target.width / scale), family.side(target.height / scale)
    rate = target.rate / times
    frames = family.length(target.seconds * rate)
    t, h, w = family.grid(width, height, frames)
    cost = forward_cost(family, t * h * w)
    return Plan(width, height, frames, rate, scale, times, t * h * w, cost, cost.total / (whole or cost.total))


def _facts(plan: Plan) -> dict[str, Any]:
    return {
        "width": plan.width,
        "height": plan.height,
        "frames": plan.frames,
        "frame_rate": float(plan.rate),
        "duration": float(plan.frames / plan.rate),
        "scale": float(plan.scale),
        "times": plan.times,
        "tokens": plan.tokens,
        "operations": plan.cost.total,
        "attention_share": plan.cost.attention_share,
        "relative_cost": plan.relative,
    }


def _target_facts(target: Target) -> dict[str, Any]:
    size = {"width": target.width, "height": target.height}
    return {**size, "frame_rate": float(target.rate), "duration": float(target.seconds)}


def _sides(width: Fraction, height: Fraction) -> str:
    return f"{float(width):g} x {float(height):g}"


def describe_budget(budget: Budget) -> str:
    """A table of all plans, the chosen one marked, with what is to be known about it."""
    target, chosen = budget.target, budget.chosen
    head = f"{'':2}{'size':>11} {'frames':>6} {'fps':>6} {'scale':>5} {'times':>5} {'tokens':>9} {'PFLOP':>9}"
    lines = [
        f"{budget.family.title}: {target.width} x {target.height}, {float(target.seconds):g} s at "
        f"{float(target.rate):.5g} frames a second",
        f"Make {chosen.width} x {chosen.height}, {chosen.frames} frames at {float(chosen.rate):.5g} a second, then "
        f"{chosen.afterwards}: {chosen.relative:.1%} of the cost",
        "",
        f"{head} {'attention':>9} {'cost':>6}",
    ]
    for plan in budget.plans:
        size = f"{plan.width}x{plan.height}"
        lines.append(
            f"{'> ' if plan == chosen else '  '}{size:>11} {plan.frames:>6} {float(plan.rate):>6.4g} "
            f"{float(plan.scale):>5g} {plan.times:>5} {plan.tokens:>9,} {plan.cost.total / 1e15:>9.3f} "
            f"{plan.cost.attention_share:>9.1%} {plan.relative:>6.1%}"
        )
    lines += [
        "",
        "PFLOP: 1e15 operations of the blocks in one forward; attention: the share of its scores in them.",
        "Not in the cost: text encoder, VAE, interpolation and upscaling.",
    ]
    return "\n".join([*lines, *(f"Note: {note}." for note in budget.notes)])
