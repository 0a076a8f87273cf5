"""A MODEL in fewer bits, into a file, and out of it: Quantize Model, Save Model, Load Quantized Model."""

import contextlib
import re
from pathlib import Path
from typing import Any

from ..host import files, resources
from ..host.api import io, ui
from ..host.probing import Sampling
from ..models.quantization import KINDS, QuantizationSettings
from ..models.quantization_report import QuantizationReport, describe_quantization
from ..models.quantized_files import WeightStore
from ..video.layer_plot import layer_plot
from .probing import sampler_choice
from .quantized_model_steps import (
    check_file,
    load_model,
    mixed_formats,
    quantize_model,
    record_model,
    save_model,
)
from .sources import to_images
from .stoppable_models import stoppable


def _wishes() -> list[Any]:
    """Sockets and widgets that say what is asked for."""
    return [
        io.Model.Input("model", tooltip="Wan, LTX-Video, HunyuanVideo, Cosmos or another, in bf16, fp16 or fp32."),
        io.Combo.Input(
            "format",
            options=list(KINDS),
            default="int8",
            tooltip="int8: half of bf16, the most exact, fast on CPUs and on GPUs from 2018 on. fp8: half, for newer "
            "GPUs. mxfp8, nvfp4: Blackwell; nvfp4 is a quarter and loses most. mixed: for each layer what it can bear.",
        ),
        io.Float.Input(
            "size",
            default=0.4,
            min=0.05,
            max=1.0,
            step=0.01,
            tooltip="For mixed: the share of its size it may keep at most. Not used where error is above 0.",
        ),
        io.Float.Input(
            "error",
            default=0.0,
            min=0.0,
            max=0.5,
            step=0.005,
            tooltip="For mixed: the smallest model whose layers err by no more than this share, root mean square.",
        ),
        io.Boolean.Input(
            "smoothing",
            default=False,
            advanced=True,
            tooltip="For int8 with a latent connected: scale inputs that stick out. Files with it need a ComfyUI that "
            "reads pre_quant_scale.",
        ),
        io.Boolean.Input(
            "fast",
            default=False,
            advanced=True,
            tooltip="For int8 on a CPU: keep each weight in the order in which it is fastest, too, which takes as much "
            "memory again, and leave alone the layers that are faster in float.",
        ),
        io.Boolean.Input(
            "on_disk",
            default=False,
            advanced=True,
            tooltip="Keep the quantized weights in a temporary file while this ComfyUI runs, and read them as they are "
            "used: for models that fit into memory only once.",
        ),
        io.String.Input(
            "keep",
            default="",
            advanced=True,
            tooltip="Layers to leave alone, besides those that the model's family is known to need: parts of their "
            "names, between commas. blocks.0. is the first block.",
        ),
    ]


def _samples() -> list[Any]:
    """Optional sockets and widgets: what the model is run on, so that errors are those of what layers give."""
    return [
        io.Conditioning.Input(
            "positive", optional=True, tooltip="What is to be seen, as for the sampler. Only with latent_image."
        ),
        io.Conditioning.Input(
            "negative",
            optional=True,
            tooltip="What is not to be seen, as for the sampler. Only with latent_image; without it positive is taken.",
        ),
        io.Latent.Input(
            "latent_image",
            optional=True,
            tooltip="Connect it, and the model is sampled before and after: errors are then those of what layers give. "
            "Without it they are those of the weights.",
        ),
        io.Int.Input(
            "steps",
            default=4,
            min=1,
            max=1000,
            optional=True,
            tooltip="Of that sampling: more say more, and take longer.",
        ),
        io.Float.Input(
            "cfg",
            default=5.0,
            min=0.0,
            max=100.0,
            step=0.1,
            optional=True,
            tooltip="How much the prompt counts in that sampling. 1: no guidance, one run of the model a step.",
        ),
        *sampler_choice("the steps of that sampling", optional=True),
    ]


class QuantizeModel(io.ComfyNode):
    """Fewer bits for each weight."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenReel_QuantizeModel",
            display_name="Quantize Model",
            category="model/efficiency",
            description="Makes a model smaller: its large layers in int8, fp8, mxfp8 or nvfp4, or each in what it can "
            "bear. Says what that costs, layer by layer. The given model stays as it is; Save Model keeps the result.",
            search_aliases=[
                *("quantization", "int8", "fp8", "nvfp4", "convrot", "compress model", "smaller model", "low vram"),
                *("convert to fp8", "mixed precision", "gguf", "quantise"),
            ],
            is_output_node=True,
            inputs=[*_wishes(), *_samples()],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model in fewer bits."),
                io.String.Output(display_name="report", tooltip="Sizes, errors and time."),
                io.Image.Output(display_name="plot", tooltip="The error of each layer."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        format: Any,
        size: float,
        error: float,
        smoothing: bool,
        fast: bool,
        on_disk: bool,
        keep: str,
        positive: Any = None,
        negative: Any = None,
        latent_image: Any = None,
        steps: int = 4,
        cfg: float = 5.0,
        sampler_name: str = "euler",
        scheduler: str = "simple",
    ) -> io.NodeOutput:
        limits = (None, None) if format != "mixed" else (None, error) if error else (size, None)
        settings = QuantizationSettings(format, *limits, mixed_formats(), smoothing=smoothing)
        sampling = None
        if latent_image is not None:
            if positive is None:
                raise ValueError("Missing positive: latent_image is sampled with it. Connect both, or none.")
            both = positive, positive if negative is None else negative
            sampling = Sampling(*both, latent_image, 0, steps, cfg, sampler_name, scheduler)
        made, report = _quantized(model, settings, sampling, kept=_patterns(keep), fast=fast, on_disk=on_disk)
        text, plot = describe_quantization(report), to_images([_drawn(report)[None]])
        return io.NodeOutput(made, text, plot, ui={**ui.PreviewImage(plot, cls=cls).as_dict(), "text": (text,)})


def _patterns(keep: str) -> tuple[str, ...]:
    """What a user writes is taken to the letter."""
    return tuple(re.escape(part.strip()) for part in keep.split(",") if part.strip())


def _quantized(
    model: Any,
    settings: QuantizationSettings,
    sampling: Sampling | None,
    *,
    kept: tuple[str, ...],
    fast: bool,
    on_disk: bool,
) -> tuple[Any, QuantizationReport]:
    recorded = None
    if sampling is not None:
        with stoppable(model), resources.progress(2 * sampling.steps, "sampling") as bar:
            recorded = record_model(model, sampling, bar.update)
    inputs = None if recorded is None else recorded.inputs
    disk = WeightStore(Path(files.temp_path(".weights"))) if on_disk else contextlib.nullcontext()
    with disk as store, resources.progress(None, "quantizing") as bar:
        options = {"kept": kept, "inputs": inputs, "fast": fast, "store": store}
        made, report = quantize_model(model, settings, **options, step=bar.count)
    if recorded is not None and sampling is not None:
        with stoppable(made), resources.progress(sampling.steps, "sampling") as bar:
            report.notes.append(recorded.compare(sampling.run(made, bar.update)))
    return made, report


def _drawn(report: QuantizationReport) -> Any:
    """uint8 `[H, W, 3]`"""
    layers = report.layers
    if not layers:
        return layer_plot([0.0], ["no layer"], title="no layer was quantized")
    title = f"relative error of each layer, {'on recorded inputs' if report.measured else 'of its weight'}"
    return layer_plot([layer.error for layer in layers], [layer.kind for layer in layers], title=title)


class SaveModel(io.ComfyNode):
    """Writes a model's file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenReel_SaveModel",
            display_name="Save Model",
            category="model/efficiency",
            description="Writes a model as safetensors, quantized layers as they are and LoRAs in the weights. Load "
            "Diffusion Model lists the file and opens it without this pack; where it is too old for int8, Load "
            "Quantized Model does.",
            search_aliases=["export model", "save quantized model", "save checkpoint", "write safetensors"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model to save, quantized or not."),
                io.String.Input(
                    "filename_prefix",
                    default=f"{files.DIFFUSION_FOLDER}/TokenReel",
                    tooltip="Name in the output folder, subfolders allowed; a number and .safetensors are added. "
                    "%year%, %month% and %day% are filled in.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="file", tooltip="The written file, relative to the output folder."),
                io.String.Output(display_name="report", tooltip="Its size, and what opens it."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, filename_prefix: str) -> io.NodeOutput:
        with files.output_path(filename_prefix, ".safetensors") as file, resources.progress(None, "saving") as bar:
            saved = save_model(model, Path(file.path), step=bar.count)
        text = f"{file.name}\n{saved}"
        return io.NodeOutput(file.name, text, ui={"text": (text,)})


class LoadModel(io.ComfyNode):
    """Reads a model's file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenReel_LoadModel",
            display_name="Load Quantized Model",
            category="model/loaders",
            description="Opens what Save Model and tokenreel quantize write, int8 included, which older versions of "
            "Load Diffusion Model cannot read, and files of models that are not quantized. Only safetensors.",
            search_aliases=[
                *("unet loader", "load diffusion model", "load int8", "int8 loader", "convrot", "load fp8"),
                *("load nvfp4", "quantized checkpoint", "load saved model"),
            ],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=files.list_diffusion_models(),
                    tooltip="A .safetensors file in models/diffusion_models, or one that Save Model wrote. After "
                    "saving press R to see it here.",
                ),
                io.Boolean.Input(
                    "fast",
                    default=False,
                    optional=True,
                    tooltip="For int8 on a CPU: keep each weight in the order in which it is fastest, too, which takes "
                    "as much memory again, and widen the layers that are faster in float on this machine.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="For LoRAs, patches, the sampler, or Save Model again."),
                io.String.Output(
                    display_name="report",
                    tooltip="The file's size, how its layers are held, and whether Load Diffusion Model opens it too.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, model_name: str | None) -> bool | str:
        if model_name is None:  # from another node, later
            return True
        try:
            check_file(Path(files.resolve_diffusion_model(model_name)))
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, model_name: str, fast: bool = False) -> str:
        return files.fingerprint(files.resolve_diffusion_model(model_name))

    @classmethod
    def execute(cls, model_name: str, fast: bool = False) -> io.NodeOutput:
        path = Path(files.resolve_diffusion_model(model_name))
        with resources.progress(None, "loading") as bar:
            return io.NodeOutput(*load_model(path, fast=fast, step=bar.count))
