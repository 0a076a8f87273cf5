"""Frames into tokens and back: Load Video Tokenizer, Encode Video to Tokens, Decode Tokens to Video."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..host import files, resources
from ..host.api import io, video_from_file
from ..models import checkpoint
from ..models.checkpoint import CheckpointError
from ..stations import Encoded, decode_to_file, encode_clip
from . import types
from .reports import describe_encoding
from .sources import clip_sockets, clip_widgets, open_clip, sound_of, to_images

SHIPPED = ("i8", "t4")
"""Names of the tokenizers that come with the pack. Written out, so that listing the nodes opens no file."""


class LoadTokenizer(io.ComfyNode):
    """Loads networks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenReel_LoadTokenizer",
            display_name="Load Video Tokenizer",
            category="model/loaders",
            description="Loads a tokenizer, which turns video into tokens and back. i8 codes frame by frame, together "
            "with its codec for motion and residual; t4 codes four frames at a time.",
            search_aliases=["tokenizer loader", "load vae", "video codec", "vq", "fsq"],
            inputs=[
                io.Combo.Input(
                    "tokenizer_name",
                    options=[*SHIPPED, *files.list_models()],
                    default=SHIPPED[0],
                    tooltip="A tokenizer that comes with the pack, or a .safetensors file of your own in "
                    "models/video_tokenizers.",
                )
            ],
            outputs=[
                types.VideoTokenizer.Output(
                    display_name="tokenizer", tooltip="For the nodes that encode, decode and inspect."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, tokenizer_name: str) -> bool | str:
        try:
            kind = checkpoint.read_metadata(tokenizer_file(tokenizer_name))["kind"]
        except ValueError as error:
            return str(error)
        known = checkpoint.TOKENIZERS
        return kind in known or f"{tokenizer_name} is a {kind}. Choose the file of one of {', '.join(known)}."

    @classmethod
    def fingerprint_inputs(cls, tokenizer_name: str) -> str:
        return files.fingerprint(str(tokenizer_file(tokenizer_name)))

    @classmethod
    def execute(cls, tokenizer_name: str) -> io.NodeOutput:
        path = tokenizer_file(tokenizer_name)
        return io.NodeOutput(checkpoint.load_any_tokenizer(path).to(resources.device()))


class EncodeVideo(io.ComfyNode):
    """Every frame for itself, or four at a time."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenReel_EncodeVideo",
            display_name="Encode Video to Tokens",
            category="video/tokens",
            description="With tokenizer i8, turns every frame into tokens for itself: one for each 8x8 pixels; any "
            "frame can be taken alone. With t4, one for each 8x8 pixels of four frames. For few tokens at the quality "
            "of i8 use Encode Motion and Residual Tokens.",
            search_aliases=["tokenize video", "compress video", "vae encode", "vq encode", "discrete tokens"],
            inputs=[
                types.VideoTokenizer.Input("tokenizer", tooltip="From Load Video Tokenizer."),
                *clip_sockets(),
                *clip_widgets(),
            ],
            outputs=[
                types.VideoTokens.Output(display_name="tokens", tooltip="The clip as tokens, with its time stamps."),
                io.String.Output(display_name="report", tooltip="What was spent, and how good the decoded frames are."),
            ],
        )

    @classmethod
    def execute(cls, tokenizer: Any, size: int, crop: bool, fps: float, video: Any = None, images: Any = None) -> Any:
        with open_clip(video, images, fps=fps, size=size, crop=crop) as clip:
            mode = "clip" if isinstance(tokenizer, checkpoint.ClipTokenizer) else "frames"
            encoded = encode_with_progress(clip, tokenizer, mode=mode)
        return io.NodeOutput(encoded.tokens, describe_encoding(encoded.report))


class DecodeTokens(io.ComfyNode):
    """Back to video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenReel_DecodeTokens",
            display_name="Decode Tokens to Video",
            category="video/tokens",
            description="Turns tokens back into video, with the time stamps of the clip that was encoded. The "
            "tokenizer is found by itself if it comes with the pack or lies in models/video_tokenizers.",
            search_aliases=["detokenize", "decompress video", "vae decode", "reconstruct"],
            inputs=[
                types.VideoTokens.Input("tokens", tooltip="The tokens to decode."),
                types.VideoTokenizer.Input(
                    "tokenizer",
                    optional=True,
                    tooltip="The tokenizer that the tokens were made with. Not connected: it is found by the "
                    "fingerprint of its weights, which the tokens carry.",
                ),
                io.Video.Input(
                    "audio_from",
                    optional=True,
                    tooltip="A video whose sound the result gets, usually the one that was encoded.",
                ),
                io.Boolean.Input(
                    "lossless",
                    default=False,
                    tooltip="Off: H.264 that plays everywhere. On: exactly the decoded pixels, to measure them; "
                    "larger, and most players cannot show it.",
                ),
                io.Boolean.Input(
                    "as_images",
                    default=False,
                    label_on="all frames",
                    label_off="first frame only",
                    tooltip="Whether images has all frames. They take 12 bytes a pixel in memory: 2.4 GB for ten "
                    "seconds of 1024 x 768. Off, it has the first frame, and memory does not grow with the clip.",
                ),
            ],
            outputs=[
                io.Video.Output(display_name="video", tooltip="The decoded clip, to save, show or work on."),
                io.Image.Output(
                    display_name="images",
                    tooltip="The decoded frames, never compressed again: the first one, or all with as_images.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, tokens: Any, lossless: bool, as_images: bool, tokenizer: Any = None, audio_from: Any = None
    ) -> io.NodeOutput:
        tokenizer = tokenizer or find_tokenizer(tokens)
        audio, audio_start = sound_of(audio_from)
        path, kept = files.temp_path(".mp4"), []

        def collect(frame: np.ndarray) -> None:
            if as_images or not kept:
                kept.append(frame)

        with resources.progress(len(tokens.pts), "decode") as bar:
            decode_to_file(
                tokens,
                tokenizer,
                path,
                lossless=lossless,
                audio=audio,
                audio_start=audio_start,
                check=resources.check_cancelled,
                progress=bar.update,
                collect=collect,
            )
        return io.NodeOutput(video_from_file(path), to_images(kept))


def encode_with_progress(clip: Any, tokenizer: Any, **knobs: Any) -> Encoded:
    """`stations.encode_clip` with the host's progress bar; it can be cancelled."""
    with resources.progress(clip.length, "encode") as bar:
        return encode_clip(clip, tokenizer, check=resources.check_cancelled, progress=bar.update, **knobs)


def tokenizer_file(name: str) -> Path:
    """The file of a tokenizer, shipped or in the model folders. Raises ValueError in one line."""
    if name not in SHIPPED:
        return Path(files.resolve_model(name))
    found = checkpoint.list_tokenizers().get(name)
    if found is None:
        raise CheckpointError(f"The weights of tokenizer {name!r} are missing from the pack. Install TokenReel again.")
    return found


def find_tokenizer(tokens: Any) -> checkpoint.AnyTokenizer:
    """The tokenizer that made the tokens, among those that come with the pack and those in the model folders.

    Raises CheckpointError when it is none of them.
    """
    way_out = f"Put its file into {files.TOKENIZER_FOLDER}, or connect a tokenizer."
    return checkpoint.tokenizer_of(tokens, _known_files(), way_out).to(resources.device())


def _known_files() -> Iterator[Path]:
    yield from sorted(checkpoint.WEIGHTS.glob("*.safetensors"))
    for name in files.list_models():
        yield Path(files.resolve_model(name))
