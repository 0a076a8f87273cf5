"""A MODEL with less in it, and what that costs: Prune Model."""

from typing import Any

from ..host import resources
from ..host.api import io
from ..host.probing import Sampling
from ..models.block_shortcuts import CORRECTIONS
from ..models.pruning import MEASURES, MOST, DepthSettings
from ..models.semi_structured import obstacle
from .pruning_steps import halve_model, leave_out_blocks, narrow_model

PARTS = ("blocks", "feed-forward units")
HALVED = "two of four weights"


def offered_parts() -> list[str]:
    """What can be taken away on the device that is there."""
    return [*PARTS, *([HALVED] if obstacle(resources.device()) is None else [])]


def _widgets() -> list[Any]:
    return [
        io.Combo.Input(
            "parts",
            options=offered_parts(),
            default=PARTS[0],
            tooltip="blocks: left out as a patch, reversible, faster. feed-forward units: new and smaller weights to "
            "be saved; Wan only. Where the GPU is faster with them, also two of four weights, of any share.",
        ),
        io.Float.Input(
            "share",
            default=0.2,
            min=0.0,
            max=MOST,
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
            tooltip="What a block is worth. output: what the model gives without it; two runs for each block. "
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
        if parts == HALVED:
            made, report = halve_model(model, samplings)
        elif parts == PARTS[1]:
            made, report = narrow_model(model, samplings, share)
        else:
            settings = DepthSettings(
                share, measure, greedy=greedy, correction=correction, first=first_blocks, last=last_blocks
            )
            made, report = leave_out_blocks(model, samplings, settings, (start_percent, end_percent))
        return io.NodeOutput(made, report.text())
