"""What Prune Model does: runs a MODEL a few times, takes away what it is worth least with, and measures the rest."""

from collections.abc import Callable
from typing import Any

from ..host import resources
from ..host.calibration import ROUNDS, ModelCalls, blocks_of, with_calls
from ..host.model_patches import check_model, patch_model
from ..host.narrowed_models import (
    at_rest,
    feed_forward_layers,
    feed_forward_weights,
    layer_parts,
    with_feed_forward,
    with_layers,
)
from ..host.probing import Sampling
from ..models.attention_calls import Gate
from ..models.block_runs import AnswerRun
from ..models.feed_forward_pruning import Narrowed, narrow_wan, wan_layers
from ..models.prune_report import PruneReport
from ..models.pruning import DepthPlan, DepthSettings, judged, plan_depth
from ..models.semi_structured import check_device, sparse_layer
from .stoppable_models import stoppable

_RUNS = 3 + 2 * ROUNDS  # through all calls, to see what layers are given, to sample and to judge what was made, to time
_WAITING = "The weights of the blocks left out stay where they are: without this node all is as before, LoRA included."
_PACKED = "Packed weights stay on the GPU and cannot be saved; LoRA is part of them where it came before."
_NARROWER = "LoRA is part of these weights where it came before; one made for the whole width does not fit any more."


def leave_out_blocks(
    model: Any, samplings: list[Sampling], settings: DepthSettings, percents: tuple[float, float] = (0.0, 1.0)
) -> tuple[Any, PruneReport]:
    """The MODEL patched: fitted to the first sampling, chosen by the one in the middle, reported on the last."""

    def work(calls: list[ModelCalls]) -> PruneReport:
        nonlocal plan
        plan = judged(calls[-1], plan_depth(calls[0], settings, calls[len(calls) // 2]))
        left_out, added = plan.parameters
        whole, held = calls[-1].sizes
        numbers = ", ".join(map(str, plan.left_out)) or "none"
        return PruneReport(
            f"{len(plan.left_out)} of {plan.blocks} blocks left out: {numbers}",
            (whole, whole - left_out + added),
            (held, held + 4 * added),
            (plan.cost[1], plan.cost[2]),
            tuple(calls[-1].seconds([None, plan])),  # type: ignore[arg-type]
            notes=(_WAITING,),
        )

    plan = DepthPlan(0, {})
    check_model(model)
    judging = 3 + 2 * ROUNDS
    runs = settings.runs(len(blocks_of(model.model.diffusion_model))) + len(samplings) + judging
    with resources.progress(runs * samplings[0].steps, "prune") as bar:
        report = _with_calls(model, AnswerRun(), samplings, work, bar.update, percents=percents)

    def start(first: float, last: float) -> AnswerRun:
        return AnswerRun(plan, Gate(first, last))

    return patch_model(model, start, percents=percents, blocks=True), report


def narrow_model(model: Any, samplings: list[Sampling], share: float) -> tuple[Any, PruneReport]:
    """A MODEL of its own with narrower feed-forward layers, fitted on the first sampling, reported on the last."""
    layers = wan_layers(feed_forward_weights(model))
    steps = samplings[0].steps * (len(samplings) + _RUNS)
    with resources.progress(steps + len(layers), "prune") as bar:
        hidden, whole = _with_calls(
            model, AnswerRun(), samplings, lambda calls: _seen(calls, [f"{name}.2" for name in layers]), bar.update
        )
        seen = {name: hidden[f"{name}.2"] for name in layers}
        narrowed = narrow_wan(feed_forward_weights(model), share, seen, bar.update)
        made = with_feed_forward(model, narrowed.state, layers)
        title = f"Feed-forward layers of {narrowed.width[1]} units in place of {narrowed.width[0]}"
        report = _compared(made, samplings[-1], whole, title, _notes(narrowed), bar.update)
    return made, report


def halve_model(model: Any, samplings: list[Sampling]) -> tuple[Any, PruneReport]:
    """A MODEL of its own with two of four weights gone from feed-forward layers that this makes faster."""
    device, names = resources.device(), feed_forward_layers(model)
    check_device(device)
    steps = samplings[0].steps * (len(samplings) + _RUNS)
    with resources.progress(steps + len(names), "prune") as bar:
        inputs, whole = _with_calls(model, AnswerRun(), samplings, lambda calls: _seen(calls, names), bar.update)
        at_rest(model)
        layers, errors = {}, []
        for name in names:
            weight, bias = (None if x is None else x.to(device, resources.dtype()) for x in layer_parts(model, name))
            found = None if weight is None else sparse_layer(weight, bias, inputs[name], whole.tokens)
            if found is not None:
                layers[name], error = found
                errors.append(error)
            bar.update()
        if not layers:
            raise ValueError("None of the feed-forward layers gets faster on this GPU. Leave out blocks instead.")
        made = with_layers(model, layers)
        title = f"Two of four weights gone from {len(layers)} of {len(names)} feed-forward layers"
        notes = (f"Error of a layer, on average: {sum(errors) / len(errors):.1%}", _PACKED)
        return made, _compared(made, samplings[-1], whole, title, notes, bar.update)


def _with_calls(model: Any, *args: Any, **options: Any) -> Any:
    """`with_calls` of a MODEL that can be stopped halfway through a call."""
    with stoppable(model):
        return with_calls(model, *args, **options)


def _seen(calls: list[ModelCalls], names: list[str]) -> tuple[dict[str, Any], ModelCalls]:
    """What layers are given in the first sampling; the calls of the last, with their time."""
    hidden = calls[0].inputs_of(names)
    calls[-1].tokens = calls[0].tokens
    calls[-1].seconds([None])
    return hidden, calls[-1]


def _compared(
    made: Any, sampling: Sampling, whole: ModelCalls, title: str, notes: tuple[str, ...], step: Callable[[], None]
) -> PruneReport:
    """What a MODEL gives that was pruned for the calls of a whole one."""

    def judge(calls: list[ModelCalls]) -> PruneReport:
        same = calls[0].taken_from(whole)
        numbers, weights = zip(whole.sizes, calls[0].sizes, strict=True)
        error, after = same.cost(None), same.seconds([None])[0]
        return PruneReport(title, numbers, weights, (None, error), (whole.least, after), notes=notes)

    return _with_calls(made, AnswerRun(), [sampling], judge, step)


def _notes(narrowed: Narrowed) -> tuple[str, ...]:
    errors = list(narrowed.errors.values())
    if not errors:
        return (_NARROWER,)
    plain, made = (sum(each) / len(errors) for each in zip(*errors, strict=True))
    return (f"Error of a layer, on average: {plain:.1%} without what makes up for it, {made:.1%} with it", _NARROWER)
