"""Key frames, motion and residual: Encode Motion and Residual Tokens."""

import math
from typing import Any

import numpy as np
import torch

from ..host import resources
from ..host.api import io
from ..tokens.accounting import block_costs
from ..tokens.video_tokens import BLOCK, PFrame, VideoTokens
from . import types
from .reports import describe_encoding
from .sources import clip_sockets, clip_widgets, open_clip
from .tokenizing import encode_with_progress

_MATCH = "match key frames"
_MOST_BYTES = 1 << 30  # of an output: a minute of 720p would take 6 GB as a mask, and it may not even be wired


def _outputs() -> list[Any]:
    return [
        types.VideoTokens.Output(display_name="tokens", tooltip="The clip as tokens, with its time stamps."),
        io.Mask.Output(
            display_name="change",
            tooltip="One mask for each frame, of its size: 1 where a 16x16 block needed tokens, 0 where the "
            "frame before was enough. Key frames are 1 everywhere. A clip whose masks would pass 1 GB gets "
            "one value per block instead.",
        ),
        io.String.Output(display_name="report", tooltip="What was spent on what, and how good the decoded frames are."),
        types.MotionField.Output(
            display_name="motion",
            tooltip="Where each pixel was in the frame before: a tensor of (dx, dy) in pixels for each frame, "
            "of its size, one vector in each 16x16 block. Key frames are 0. A clip whose vectors would pass "
            "1 GB gets one vector per block instead.",
        ),
    ]


class EncodeResidual(io.ComfyNode):
    """Tokens where the video changes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenReel_EncodeResidual",
            display_name="Encode Motion and Residual Tokens",
            category="video/tokens",
            description="Turns a clip into few tokens: a key frame in full, then motion, and residual only where "
            "motion does not explain what changed. One knob sets the quality, or the number of tokens.",
            search_aliases=["tokenize video", "compress video", "motion residual", "p frames", "codec", "rate control"],
            inputs=[
                types.VideoTokenizer.Input(
                    "tokenizer", tooltip="From Load Video Tokenizer; it needs a residual codec."
                ),
                *clip_sockets(),
                io.Combo.Input(
                    "control",
                    options=[_MATCH, "quality", "budget"],
                    default=_MATCH,
                    tooltip="match key frames: every frame about as good as its key frame. quality: every frame "
                    "reaches the dB below. budget: as good as the tokens below allow.",
                ),
                io.Float.Input(
                    "quality",
                    default=30.0,
                    min=10.0,
                    max=60.0,
                    step=0.1,
                    tooltip="PSNR in dB that every frame should reach, if control is quality. Frames that the "
                    "tokenizer cannot bring there get as close as it can.",
                ),
                io.Float.Input(
                    "budget",
                    default=4000.0,
                    min=1.0,
                    max=10_000_000.0,
                    step=1.0,
                    tooltip="Tokens per second of video, on average over the clip, if control is budget.",
                ),
                io.Int.Input(
                    "max_gop",
                    default=48,
                    min=1,
                    max=10_000,
                    tooltip="The most frames from one key frame to the next. Fewer make decoding from the middle "
                    "quicker and cost tokens; 1 makes every frame a key frame.",
                ),
                *clip_widgets(),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls,
        tokenizer: Any,
        control: str,
        quality: float,
        budget: float,
        max_gop: int,
        size: int,
        crop: bool,
        fps: float,
        video: Any = None,
        images: Any = None,
    ) -> io.NodeOutput:
        knob = {"quality": {"quality": quality}, "budget": {"budget": budget}}.get(control, {})
        with open_clip(video, images, fps=fps, size=size, crop=crop) as clip:
            encoded = encode_with_progress(clip, tokenizer, mode="stream", max_gop=max_gop, **knob)
        mask, motion = change_mask(encoded.tokens), motion_field(encoded.tokens)
        report = describe_encoding(encoded.report)
        for name, output in (("change", mask), ("motion", motion)):
            if output.shape[2] != encoded.tokens.width:
                grid = f"{output.shape[2]}x{output.shape[1]}"
                report += f"\n{name} has one value per 16x16 block ({grid}): the clip is long."
        return io.NodeOutput(encoded.tokens, mask, report, motion)


def _output(tokens: VideoTokens, *channels: int) -> torch.Tensor:
    """An empty tensor of the frames' size, or with one value a block where that would pass _MOST_BYTES."""
    T, H, W = len(tokens.frames), tokens.height, tokens.width
    if T * H * W * 4 * math.prod(channels) > _MOST_BYTES:
        H, W = -(-H // BLOCK), -(-W // BLOCK)
    return torch.zeros((T, H, W, *channels), dtype=resources.image_dtype(), device=resources.image_device())


def _fill(output: torch.Tensor, blocks: np.ndarray) -> None:
    """Writes `[bh, bw, ...]` to an output of the frame's size or of the grid's."""
    height, width = output.shape[:2]
    side = 1 if (height, width) == blocks.shape[:2] else BLOCK
    output.copy_(torch.from_numpy(blocks.repeat(side, 0).repeat(side, 1)[:height, :width].copy()))


def change_mask(tokens: VideoTokens) -> torch.Tensor:
    """MASK `[T, H, W]`: 1 where a block took tokens, else 0."""
    mask = _output(tokens)
    for output, frame in zip(mask, tokens.frames, strict=True):
        _fill(output, block_costs(frame) > 0)
    return mask


def motion_field(tokens: VideoTokens) -> torch.Tensor:
    """MOTION_FIELD `[T, H, W, 2]`, (dx, dy) in pixels from each pixel to its source in the frame before."""
    field = _output(tokens, 2)
    for output, frame in zip(field, tokens.frames, strict=True):
        if isinstance(frame, PFrame):
            _fill(output, frame.motion_field()[..., ::-1] / 2)
    return field
