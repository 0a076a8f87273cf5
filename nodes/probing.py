"""What a patch costs in fidelity and what it saves, measured on the model itself: Probe Fidelity."""

from typing import Any

from ..host import resources
from ..host.api import io, ui
from ..host.model_patches import patch_model
from ..host.probing import Sampled, Sampling, same_weights, samplers, schedulers
from ..models.fidelity import Fidelity, Outcome, compare_latents
from ..models.fidelity_report import describe_fidelity
from ..models.fidelity_watch import PERCENTS, Watch
from ..video.fidelity_plot import fidelity_plot
from .sources import to_images
from .stoppable_models import stoppable

_OTHER_WEIGHTS = (
    "patched has other weights than model: errors by layer are those of its attention and blocks alone, against itself "
    "without their patches, and the settings were tried on it, too"
)
_SKIPPED = "patched leaves out runs of the model, so that errors by layer are those of the others"


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
        io.Float.Input(
            "cfg",
            default=5.0,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="How much the prompt counts, as for the sampler. 1: no guidance, one run of the model a step.",
        ),
        *sampler_choice("the steps"),
    ]


def sampler_choice(steps: str, **options: Any) -> list[Any]:
    """What takes steps, which are called so, and how the noise falls; options are those of inputs."""
    return [
        io.Combo.Input(
            "sampler_name",
            options=samplers(),
            default="euler",
            tooltip=f"What takes {steps}: best the sampler that you use.",
            **options,
        ),
        io.Combo.Input(
            "scheduler",
            options=schedulers(),
            default="simple",
            tooltip=f"How the noise falls over {steps}: best as you use it.",
            **options,
        ),
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
                    default=0.2,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    tooltip="How far nine of ten answers of a patched layer may lie from the dense ones, as a share of "
                    "these. Sparse attention as it is published lies at 0.15 to 0.3; at 0 nothing may change.",
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

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        latent_image: Any,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        wished_error: float,
        patched: Any = None,
    ) -> io.NodeOutput:
        sampling = Sampling(positive, negative, latent_image, seed, steps, cfg, sampler_name, scheduler)
        with stoppable(model, patched):
            found, made = probe(model, patched, sampling, wished_error)
        report, plot = describe_fidelity(found), to_images([draw_fidelity(found)[None]])
        shown = {**ui.PreviewImage(plot, cls=cls).as_dict(), "text": (report,)}
        return io.NodeOutput(report, plot, made, ui=shown)


def probe(model: Any, patched: Any, sampling: Sampling, wished_error: float) -> tuple[Fidelity, Any]:
    """What was found, and `model`, patched as recommended. `patched` may be None."""
    watch = Watch()
    with resources.progress(sampling.steps * (3 if patched is None else 4), "probe") as bar:
        sampling.watch(model if patched is None else patched, model, watch, bar.update, percents=PERCENTS)
        dense = _sampled(model, sampling, bar)
        found = Fidelity(sampling.steps, wished_error, compared(dense, dense))
        if patched is not None:
            found.patched = compared(dense, _sampled(patched, sampling, bar))
            found.notes += [] if same_weights(model, patched) else [_OTHER_WEIGHTS]
            found.notes += [_SKIPPED] if watch.forwards < dense.forwards else []
        found.add_watch(watch)
        found.recommend()
        made = model
        if found.chosen is not None:
            keys = found.chosen.kind == "keys"
            trial = patch_model(model, found.chosen.start, percents=PERCENTS, asked_first=keys)
            made = trial if found.accept(_contest(found, trial, model, dense, sampling, bar)) else model
    return found, made


def _contest(found: Fidelity, trial: Any, model: Any, dense: Sampled, sampling: Sampling, bar: Any) -> Outcome:
    """The run with the recommended setting; where it was no faster, both are run again and the faster one counts."""
    outcome = compared(dense, _sampled(trial, sampling, bar))
    if outcome.finite and outcome.seconds >= found.dense.seconds:
        found.dense.seconds = min(found.dense.seconds, sampling.run(model, resources.check_cancelled).seconds)
        outcome.seconds = min(outcome.seconds, sampling.run(trial, resources.check_cancelled).seconds)
        found.notes.append("dense and recommended were sampled twice, the faster run of each counts")
    return outcome


def _sampled(model: Any, sampling: Sampling, bar: resources.Progress) -> Sampled:
    sampling.run(model, resources.check_cancelled, steps=1)  # kernels are chosen, code is compiled: not to be timed
    return sampling.run(model, bar.update)


def compared(dense: Sampled, other: Sampled) -> Outcome:
    """What a run gave against the dense one."""
    said = [f"{run.name}: {run.report()}" for run in other.runs]
    counts = {"seconds": other.seconds, "forwards": other.forwards}
    return compare_latents(dense.latents, other.latents, **counts, said=said)


def draw_fidelity(found: Fidelity) -> Any:
    """uint8 `[H, W, 3]`: errors by layer, where a patch was given, and errors of the settings over their work."""
    bars = [(each.mean, each.worst) for each in found.layers]
    series: dict[str, list[tuple[float, float, bool]]] = {}
    for trial in found.trials:
        if trial.error is not None and trial.work < 1:  # others leave everything as it is
            series.setdefault(trial.kind, []).append((trial.work, trial.error, trial.time < 1))
    chosen = (
        None if found.choice is None else (found.trials[found.choice].work, found.trials[found.choice].error or 0.0)
    )
    return fidelity_plot(bars, series, wished=found.wished_error, chosen=chosen)
