"""What a probe found, as text."""

from .fidelity import Fidelity, Layer, Outcome, Trial
from .fidelity_watch import EDGE_BLOCKS, PERCENTS

_SHOWN = 5  # layers with the largest errors


def describe_fidelity(found: Fidelity) -> str:
    """Lines for people: the runs, the errors, the settings that were tried, and what is recommended."""
    lines = [f"{found.steps} steps, {_tokens(found)}", f"Dense: {_seconds(found.dense)}"]
    if found.attention is not None:
        lines[-1] += f"; attention takes {found.attention:.0%} of the model's time"
    if not found.dense.finite:
        lines.append("The dense result holds what is no number: something is wrong with the model or its inputs.")
    if found.patched is not None:
        lines += ["", *_patched(found, found.patched)]
    if found.trials:
        lines += ["", *_trials(found)]
    lines += ["", *_advice(found)]
    if found.notes:
        lines += ["", *(f"Note: {note}." for note in found.notes)]
    return "\n".join(lines)


def _tokens(found: Fidelity) -> str:
    if found.grid is None:
        return "no video: there is no grid of tokens that Efficient Attention or Merge Redundant Tokens could use"
    t, h, w = found.grid
    count = t * h * w
    beside = f", {found.tokens - count:,} beside them" if found.tokens > count else ""
    return f"{count:,} tokens of video ({t} x {h} x {w}){beside}"


def _seconds(outcome: Outcome) -> str:
    return f"{outcome.seconds:.2f} s, {_counted(outcome.forwards, 'forward')}"


def _counted(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def _outcome(outcome: Outcome, dense: Outcome) -> list[str]:
    """How long a run took, and how far its result lies from the dense one."""
    times = f" ({dense.seconds / outcome.seconds:.2f}x as fast)" if outcome.seconds > 0 else ""
    lines = [f"{_seconds(outcome)}{times}"]
    if not outcome.finite:
        lines.append("  its result holds what is no number")
    elif outcome.error is None:
        lines.append("  its result cannot be compared")
    elif outcome.psnr is None:
        lines.append("  its result is the dense one" if outcome.error == 0 else "  its result has no PSNR")
    else:
        peak = "peak: largest minus smallest number of the dense latent"
        lines.append(f"  result: {outcome.psnr:.2f} dB PSNR ({peak}), relative error {outcome.error:.4f}")
    return lines + [f"  {each}" for each in outcome.said]


def _patched(found: Fidelity, outcome: Outcome) -> list[str]:
    first, *rest = _outcome(outcome, found.dense)
    lines = [f"Patched: {first}", *rest]
    if not found.calls:
        return [*lines, "  it changes neither attention nor blocks: the result alone tells what it costs"]
    if found.same == found.calls:
        return [*lines, "  no answer of attention or of a block differs from the dense one"]
    if found.patched_time is not None:
        lines.append(f"  what it patches takes {found.patched_time:.2f} times as long as dense")
    lines.append(
        f"  error of its layers: {_number(found.error)} for nine of ten, {_number(found.mean_error)} in the mean; "
        f"{found.same} of {found.calls} layers and steps are as dense"
    )
    if found.broken:
        lines.append(f"  {found.broken} of them gave what is no number")
    worst = sorted(found.layers, key=_badness, reverse=True)[:_SHOWN]
    lines.append(f"  largest: {', '.join(map(_layer, worst))}")
    steps = ("left out" if each is None and not found.broken else _number(each) for each in found.step_errors)
    lines.append(f"  by step: {', '.join(steps)}")
    if found.other_error != 0:
        lines.append(f"  in calls about other tokens than the video's: up to {_number(found.other_error)}")
    verdict = "keeps" if found.keeps else "does not keep"
    return [*lines, f"  it {verdict} to the wished error of {found.wished_error:g}"]


def _badness(layer: Layer) -> float:
    return float("inf") if layer.mean is None else layer.mean


def _layer(layer: Layer) -> str:
    worst = f", {_number(layer.worst)} in step {layer.worst_step + 1}"
    return f"{layer.kind} {layer.number + 1} with {_number(layer.mean)} ({worst[2:]})"


def _number(value: float | None) -> str:
    return "no number" if value is None else f"{value:.4f}"


def _trials(found: Fidelity) -> list[str]:
    layers = sorted({layer + 1 for _, layer in found.tried_on})
    steps = sorted({step + 1 for step, _ in found.tried_on})
    lines = [
        f"Settings, tried on {_counted(len(found.tried_on), 'call')} of attention (layers "
        f"{', '.join(map(str, layers))}; steps {', '.join(map(str, steps))}):",
        "    setting         error   mean    work    seconds, of dense",
    ]
    for index, trial in enumerate(found.trials):
        mark = ">" if index == found.choice else "*" if _within(trial, found.wished_error) else " "
        name = f"{trial.kind} {trial.amount:g}"
        errors = f"{_number(trial.error):<8}{_number(trial.mean):<8}"
        lines.append(f"  {mark} {name:<16}{errors}{trial.work:<8.0%}{trial.time:.2f}")
    return [*lines, "  (error: nine of ten calls have no larger one; *: within the wish; >: recommended)"]


def _within(trial: Trial, wished: float) -> bool:
    return trial.work < 1 and trial.error is not None and trial.error <= wished


def _advice(found: Fidelity) -> list[str]:
    lines = [found.advice, "The output is the model as it came."]
    if found.chosen is not None:
        gates = (
            f"start_percent {PERCENTS[0]:g}, end_percent {PERCENTS[1]:g}, first_blocks and last_blocks {EDGE_BLOCKS}"
        )
        lines = [f"Recommended: {found.chosen.setting}.", f"  {gates}, min_tokens 0", f"  {found.advice}"]
    if found.recommended is not None:
        first, *rest = _outcome(found.recommended, found.dense)
        lines += [f"Sampled with it: {first}", *rest]
    return lines
