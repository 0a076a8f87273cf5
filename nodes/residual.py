"""Key frames, motion and residual: Encode Motion and Residual Tokens."""

from typing import Any

import numpy as np
import torch

from ..host import resources
from ..host.api import io
from ..tokens.accounting import block_costs
from ..tokens.video_tokens import BLOCK, VideoTokens
from . import types
from .reports import describe_encoding
from .sources import clip_sockets, clip_widgets, open_clip
from .tokenizing import encode_with_progress

_MATCH = "match key frames"
_MOST_MASK = 1 << 30  # bytes: a minute of 720p would take 6 GB, for an output that may not even be wired


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
            outputs=[
                types.VideoTokens.Output(display_name="tokens", tooltip="The clip as tokens, with its time stamps."),
                io.Mask.Output(
                    display_name="change",
                    tooltip="One mask for each frame, of its size: 1 where a 16x16 block needed tokens, 0 where the "
                    "frame before was enough. Key frames are 1 everywhere. A clip whose masks would pass 1 GB gets "
                    "one value per block instead.",
                ),
                io.String.Output(
                    display_name="report", tooltip="What was spent on what, and how good the decoded frames are."
                ),
            ],
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
        mask, report = change_mask(encoded.tokens), describe_encoding(encoded.report)
        if mask.shape[2] != encoded.tokens.width:
            report += f"\nchange has one value per 16x16 block ({mask.shape[2]}x{mask.shape[1]}): the clip is long."
        return io.NodeOutput(encoded.tokens, mask, report)


def change_mask(tokens: VideoTokens) -> torch.Tensor:
    """MASK `[T, H, W]`: 1 where a block took tokens, else 0; one value a block where that would pass _MOST_MASK."""
    T, H, W = len(tokens.frames), tokens.height, tokens.width
    whole = T * H * W * 4 <= _MOST_MASK
    side = BLOCK if whole else 1
    shape = (T, H, W) if whole else (T, -(-H // BLOCK), -(-W // BLOCK))
    mask = torch.empty(shape, dtype=resources.image_dtype(), device=resources.image_device())
    for index, frame in enumerate(tokens.frames):
        blocks = (block_costs(frame) > 0).repeat(side, 0).repeat(side, 1)
        mask[index] = torch.from_numpy(np.ascontiguousarray(blocks[: shape[1], : shape[2]]))
    return mask
