"""What a patch costs in fidelity and what it saves, measured on the model itself: Probe Fidelity."""

from typing import Any

from ..host.api import io
from ..host.probing import samplers, schedulers


def _sampling() -> list[Any]:
    """Sockets and widgets that say what is sampled."""
    return [
        io.Conditioning.Input("positive", tooltip="As for the sampler: what is to be seen."),
        io.Conditioning.Input("negative", tooltip="As for the sampler: what is not. Not used with a cfg of 1."),
        io.Latent.Input("latent_image", tooltip="As for the sampler: an empty latent of the size that you sample."),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip="All runs begin with the same noise, made of this number.",
        ),
        io.Int.Input(
            "steps",
            default=6,
            min=1,
            max=1000,
            tooltip="The whole way from noise to picture in so few steps. More say more, and take longer.",
        ),
        io.Float.Input("cfg", default=5.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="As for the sampler."),
        io.Combo.Input("sampler_name", options=samplers(), default="euler", tooltip="As for the sampler."),
        io.Combo.Input("scheduler", options=schedulers(), default="simple", tooltip="As for the sampler."),
    ]


class ProbeFidelity(io.ComfyNode):
    """Numbers before a choice."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenReel_ProbeFidelity",
            display_name="Probe Fidelity",
            category="model/efficiency",
            description="Samples in few steps with a model and with the same model patched, and says what the patch "
            "costs: errors layer by layer, the difference of the results, seconds. Finds the setting of Efficient "
            "Attention or Merge Redundant Tokens that keeps to a wished error, and gives the model patched with it.",
            search_aliases=[
                *("compare models", "compare attention", "sparse attention quality", "attention error"),
                *("benchmark model", "find density", "calibrate", "autotune", "fidelity probe"),
            ],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model as it is without the patch in question: the reference."),
                io.Model.Input(
                    "patched",
                    optional=True,
                    tooltip="The same model with any patches of attention, of blocks, or of steps. Without it, only "
                    "settings of ours are tried on the model.",
                ),
                *_sampling(),
                io.Float.Input(
                    "wished_error",
                    default=0.1,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    tooltip="How far nine of ten answers of a patched layer may lie from the dense ones, as a share of "
                    "these. 0.1 is hardly seen, 0.3 often is.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="All numbers, as text."),
                io.Image.Output(display_name="plot", tooltip="Errors by layer; error against work of settings."),
                io.Model.Output(
                    display_name="model",
                    tooltip="The reference, patched with the recommended setting; unpatched where there is none.",
                ),
            ],
        )
