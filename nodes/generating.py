"""Tokens that are not there yet: Load Token Generator, Generate Video Tokens."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..generation import Generated, frames_to_do, generate
from ..host import files, resources
from ..host.api import io, ui
from ..models import checkpoint
from ..models.checkpoint import GENERATORS
from ..models.fast_networks import PRECISIONS, fast_generator
from ..models.generator import TokenGenerator
from ..models.network_checks import checked
from ..models.token_filling import TokenFiller
from ..video.completion import MOST_FRAMES, MOST_STEPS, MOST_TEMPERATURE, TASKS, USUAL_FRAMES, Completion
from . import types
from .generated_previews import draw_preview
from .reports import describe_generation
from .sources import to_images
from .tokenizing import find_tokenizer

ATTENTION = tuple(name for name in GENERATORS if name != "small")
_ANY = np.ones((1, 1))  # mask, where only the other inputs are looked at


class LoadGenerator(io.ComfyNode):
    """Loads a network."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenReel_LoadGenerator",
            display_name="Load Token Generator",
            category="model/loaders",
            description="Loads a generator, which makes tokens of video from other tokens. hybrid is the one to use; "
            "full, linear, performer, window and small are alike but for their attention, to compare it.",
            search_aliases=["generator loader", "video model", "load transformer", "masked token model", "maskgit"],
            inputs=[
                io.Combo.Input(
                    "generator_name",
                    options=[*GENERATORS, *files.list_models(files.GENERATOR_FOLDER)],
                    default=GENERATORS[0],
                    tooltip="A generator that comes with the pack, or a .safetensors file of your own in "
                    "models/token_generators.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default=PRECISIONS[0],
                    optional=True,
                    advanced=True,
                    tooltip="float: float32, whose tokens are the same each time. fast: bfloat16 or int8 where a trial "
                    "on loading is faster on this machine, else float; tokens may differ by rounding.",
                ),
            ],
            outputs=[types.TokenGenerator.Output(display_name="generator", tooltip="For Generate Video Tokens.")],
        )

    @classmethod
    def validate_inputs(cls, generator_name: str) -> bool | str:
        try:
            if generator_name not in GENERATORS:
                kind = checkpoint.read_metadata(Path(_own_file(generator_name)))["kind"]
                if kind != "generator":
                    return f"{generator_name} is a {kind}. Choose the file of a generator."
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, generator_name: str, precision: str = PRECISIONS[0]) -> str:
        return generator_name if generator_name in GENERATORS else files.fingerprint(_own_file(generator_name))

    @classmethod
    def execute(cls, generator_name: str, precision: str = PRECISIONS[0]) -> io.NodeOutput:
        shipped = generator_name in GENERATORS
        return io.NodeOutput(load_generator(generator_name if shipped else Path(_own_file(generator_name)), precision))


class GenerateTokens(io.ComfyNode):
    """More tokens of a clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenReel_GenerateTokens",
            display_name="Generate Video Tokens",
            category="video/tokens",
            description="Makes tokens from the tokens of a clip: frames that follow it, frames between its frames, or "
            "what a mask covers. The generator comes with the pack and runs on the CPU too; it is small, and made for "
            "frames of 128 to 256 pixels.",
            search_aliases=[
                *("video generation", "continue video", "extend clip", "predict frames", "in-between", "inbetween"),
                *("key frames", "inpaint video", "outpaint", "fill tokens", "masked token model", "interpolate tokens"),
            ],
            inputs=[*_sockets(), *_widgets()],
            outputs=[
                types.VideoTokens.Output(
                    display_name="tokens", tooltip="The clip with what was made, every frame for itself."
                ),
                io.String.Output(display_name="report", tooltip="What was known and what was made, and the time."),
                io.Image.Output(
                    display_name="preview", tooltip="Some of the frames, with those that were made framed in colour."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, task: str | None, frames: int | None, timeline: Any = False) -> bool | str:
        # what comes from another node, later, is None
        if task is None or frames is None or (task == "between" and timeline is None):
            return True
        try:
            Completion(task=task, frames=frames, mask=_ANY if task == "fill" else None)  # type: ignore[arg-type]
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        tokens: Any,
        attention: str,
        generator: Any = None,
        tokenizer: Any = None,
        mask: Any = None,
        **wishes: Any,
    ) -> io.NodeOutput:
        wanted = Completion(mask=None if mask is None else mask.cpu().numpy(), **wishes)
        tokenizer = tokenizer or find_tokenizer(tokens)
        net = load_generator(attention) if generator is None else generator
        made = generate_with_progress(tokens, net, tokenizer, wanted)
        with torch.inference_mode(), checked(tokenizer.networks, resources.check_cancelled):
            preview = to_images([draw_preview(made, tokenizer, resources.check_cancelled)[np.newaxis]])
        text = describe_generation(made.report)
        shown = {**ui.PreviewImage(preview, cls=cls).as_dict(), "text": (text,)}
        return io.NodeOutput(made.tokens, text, preview, ui=shown)


def _sockets() -> list[Any]:
    return [
        types.VideoTokens.Input("tokens", tooltip="What is known. A stream is decoded and coded anew, frame by frame."),
        types.TokenGenerator.Input(
            "generator", optional=True, tooltip="From Load Token Generator, in place of attention."
        ),
        types.FrameTimeline.Input(
            "timeline",
            optional=True,
            tooltip="For between: from Sample Frames Adaptively, if tokens are those of its video. Every source frame "
            "that was left out is made, at its own time. Used in place of frames.",
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="For fill: white where tokens are to be made anew. One mask for all frames, or one for each.",
        ),
        types.VideoTokenizer.Input(
            "tokenizer",
            optional=True,
            tooltip="The tokenizer that the tokens were made with. Not connected: it is found by the fingerprint of "
            "its weights, which the tokens carry.",
        ),
    ]


def _widgets() -> list[Any]:
    return [
        io.Combo.Input(
            "task",
            options=list(TASKS),
            default="between",
            tooltip="continue: frames that follow the last one. between: frames between those that are known, never "
            "across a cut. fill: what the mask covers.",
        ),
        io.Int.Input(
            "frames",
            default=USUAL_FRAMES["between"],
            min=1,
            max=MOST_FRAMES["continue"],
            tooltip="For continue: how many frames follow. For between: how many go into each gap, at most "
            f"{MOST_FRAMES['between']}.",
        ),
        io.Combo.Input(
            "attention",
            options=list(ATTENTION),
            default=ATTENTION[0],
            tooltip="Which generator of the pack, if none is connected. hybrid: the large one, of linear and windowed "
            "attention. The others are smaller, of one kind each, to compare.",
        ),
        io.Int.Input(
            "steps",
            default=4,
            min=1,
            max=MOST_STEPS,
            tooltip="In how many steps tokens are drawn, the surest first. With temperature 0 all are made at once.",
        ),
        io.Float.Input(
            "temperature",
            default=0.0,
            min=0.0,
            max=MOST_TEMPERATURE,
            step=0.05,
            tooltip="0: what is most to be expected, which is soft where much is possible. 1: drawn as likely as the "
            "generator takes it to be, sharper and less sure.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFF_FFFF_FFFF_FFFF,
            control_after_generate=True,
            tooltip="All that chance depends on. With temperature 0 nothing is drawn.",
        ),
    ]


def load_generator(name: str | Path, precision: str = PRECISIONS[0]) -> TokenGenerator:
    """A shipped generator by name, or that in a file, on the device that networks run on.

    precision: one of PRECISIONS; "fast" tries on loading what is faster than float32 (models/fast_networks.py).
    """
    if precision not in PRECISIONS:
        raise ValueError(f"Invalid precision {precision!r}. Supported are {', '.join(PRECISIONS)}.")
    net = checkpoint.load_generator(name).to(resources.device())
    return fast_generator(net) if precision == "fast" else net


def generate_with_progress(tokens: Any, net: TokenGenerator, tokenizer: Any, wanted: Completion) -> Generated:
    """`generation.generate` with the host's progress bar; it can be cancelled."""
    filler = TokenFiller(net, tokenizer.networks[0])
    with resources.progress(frames_to_do(tokens, wanted), "generate") as bar:
        return generate(tokens, filler, tokenizer, wanted, check=resources.check_cancelled, progress=bar.update)


def _own_file(name: str) -> str:
    return files.resolve_model(name, files.GENERATOR_FOLDER)
