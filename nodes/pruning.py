"""A MODEL with less in it, and what that costs: Prune Model."""

from typing import Any

from ..host import resources
from ..host.api import io
from ..host.calibration import ModelCalls, with_calls
from ..host.model_patches import patch_model
from ..host.narrowed_models import feed_forward_weights, with_feed_forward
from ..host.probing import Sampling
from ..models.attention_calls import Gate
from ..models.block_runs import AnswerRun
from ..models.block_shortcuts import CORRECTIONS
from ..models.feed_forward_pruning import Narrowed, narrow_wan, wan_layers
from ..models.prune_report import PruneReport
from ..models.pruning import MEASURES, DepthPlan, DepthSettings, judged, plan_depth

PARTS = ("blocks", "feed-forward units")
_WAITING = "The weights of the blocks left out stay where they are: without this node all is as before, LoRA included."
_NARROWER = "LoRA is part of these weights where it came before; one made for the whole width does not fit any more."


def _widgets() -> list[Any]:
    return [
        io.Combo.Input(
            "parts",
            options=list(PARTS),
            default=PARTS[0],
            tooltip="blocks: left out as a patch, reversible, faster. feed-forward units: new and smaller weights to "
            "be saved; Wan only.",
        ),
        io.Float.Input(
            "share",
            default=0.2,
            min=0.0,
            max=0.5,
            step=0.01,
            tooltip="This share of the blocks, or of the units of each feed-forward layer, goes. At 0 nothing changes.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFD,
            control_after_generate=True,
            tooltip="Fitted to the noise of this number, chosen by that of the next, reported with the one after.",
        ),
        io.Int.Input(
            "steps",
            default=4,
            min=1,
            max=100,
            tooltip="The whole way from noise to picture in so few steps, three times. More say more, and take longer.",
        ),
    ]


def _advanced() -> list[Any]:
    return [
        io.Combo.Input(
            "measure",
            options=list(MEASURES),
            default=MEASURES[0],
            advanced=True,
            tooltip="What a block is worth. output: what the model gives without it; as many runs as there are blocks. "
            "change, cosine: what it does to its tokens; one run.",
        ),
        io.Combo.Input(
            "correction",
            options=list(CORRECTIONS),
            default=CORRECTIONS[-1],
            advanced=True,
            tooltip="The most that may stand in for a block: a simpler one is taken where it does as well.",
        ),
        io.Boolean.Input(
            "greedy",
            default=False,
            advanced=True,
            tooltip="Measures all again after each block that was chosen. Better with many, and takes much longer.",
        ),
        *(
            io.Int.Input(
                f"{end}_blocks", default=1, min=0, max=1000, advanced=True, tooltip=f"So many of the {end} blocks stay."
            )
            for end in ("first", "last")
        ),
        *(
            io.Float.Input(
                f"{side}_percent",
                default=default,
                min=0.0,
                max=1.0,
                step=0.01,
                advanced=True,
                tooltip=f"Blocks are left out {word} this share of the sampling.",
            )
            for side, default, word in (("start", 0.0, "from"), ("end", 1.0, "up to"))
        ),
    ]


class PruneModel(io.ComfyNode):
    """Less to compute, chosen by what it is worth."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenReel_PruneModel",
            display_name="Prune Model",
            category="model/efficiency",
            description="Leaves out the blocks of a video model that are worth least, with a small map fitted in their "
            "place, or makes its feed-forward layers narrower. Measures on the model itself what to take away, and "
            "says what got smaller, what got faster, and what it cost.",
            search_aliases=[
                *("prune", "depth pruning", "skip layers", "skip blocks", "layer removal", "width pruning"),
                *("smaller model", "shrink model", "speed up wan", "speed up ltx", "speed up hunyuan"),
            ],
            inputs=[
                io.Model.Input("model", tooltip="Wan, LTX-Video or HunyuanVideo; with its LoRA, if there is one."),
                io.Conditioning.Input("positive", tooltip="A prompt as you use them: it is measured on that."),
                io.Latent.Input("latent_image", tooltip="An empty latent of a size that you use; smaller is quicker."),
                *_widgets(),
                *_advanced(),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The pruned model; the source stays."),
                io.String.Output(display_name="report", tooltip="What got smaller and faster, and what it cost."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        latent_image: Any,
        parts: str,
        share: float,
        seed: int,
        steps: int,
        measure: Any,
        correction: Any,
        greedy: bool,
        first_blocks: int,
        last_blocks: int,
        start_percent: float,
        end_percent: float,
    ) -> io.NodeOutput:
        given = (steps, 1.0, "euler", "simple")
        samplings = [Sampling(positive, positive, latent_image, each, *given) for each in range(seed, seed + 3)]
        if parts == PARTS[1]:
            made, report = narrow_model(model, samplings, share)
        else:
            settings = DepthSettings(
                share, measure, greedy=greedy, correction=correction, first=first_blocks, last=last_blocks
            )
            made, report = leave_out_blocks(model, samplings, settings, (start_percent, end_percent))
        return io.NodeOutput(made, report.text())


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
    with resources.progress(sum(each.steps for each in samplings), "prune") as bar:
        report = with_calls(model, AnswerRun(), samplings, work, bar.update, percents=percents)

    def start(first: float, last: float) -> AnswerRun:
        return AnswerRun(plan, Gate(first, last))

    return patch_model(model, start, percents=percents, blocks=True), report


def narrow_model(model: Any, samplings: list[Sampling], share: float) -> tuple[Any, PruneReport]:
    """A MODEL of its own with narrower feed-forward layers, fitted on the first sampling, reported on the last."""
    layers = wan_layers(feed_forward_weights(model))
    steps = sum(each.steps for each in (*samplings, samplings[-1]))
    with resources.progress(steps + len(layers), "prune") as bar:

        def seen(calls: list[ModelCalls]) -> tuple[dict[str, Any], ModelCalls, float]:
            hidden = calls[0].inputs_of(f"{name}.2" for name in layers)
            return hidden, calls[-1], calls[-1].seconds([None])[0]

        hidden, whole, before = with_calls(model, AnswerRun(), samplings, seen, bar.update)
        narrowed = narrow_wan(
            feed_forward_weights(model), share, {name: hidden[f"{name}.2"] for name in layers}, bar.update
        )
        made = with_feed_forward(model, narrowed.state, layers)

        def judge(calls: list[ModelCalls]) -> PruneReport:
            same = calls[0].taken_from(whole)
            numbers, weights = zip(whole.sizes, calls[0].sizes, strict=True)
            title = f"Feed-forward layers of {narrowed.width[1]} units in place of {narrowed.width[0]}"
            error, after = same.cost(None), same.seconds([None])[0]
            return PruneReport(title, numbers, weights, (None, error), (before, after), notes=_notes(narrowed))

        return made, with_calls(made, AnswerRun(), samplings[-1:], judge, bar.update)


def _notes(narrowed: Narrowed) -> tuple[str, ...]:
    errors = list(narrowed.errors.values())
    if not errors:
        return (_NARROWER,)
    plain, made = (sum(each) / len(errors) for each in zip(*errors, strict=True))
    return (f"Error of a layer, on average: {plain:.1%} without what makes up for it, {made:.1%} with it", _NARROWER)
