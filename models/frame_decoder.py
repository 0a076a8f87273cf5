"""One frame of a token stream <-> pixels: what encoder and decoder share, so that they cannot drift apart."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..tokens.video_tokens import BLOCK, CELL, IFrame, Mode, PFrame
from .checkpoint import VideoTokenizer
from .motion import compensate, half_pel_planes
from .residual_codec import ResidualCodec


def to_unit(frames: Tensor) -> Tensor:
    """uint8 `[B, 3, H, W]` -> float in [-1, 1], channels last."""
    return (frames.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def to_bytes(frames: Tensor) -> Tensor:
    """Float in [-1, 1] -> uint8, rounded: the only form in which a frame is ever referred to."""
    return ((frames.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def pad_to_blocks(frame: Tensor) -> Tensor:
    """uint8 `[B, 3, H, W]` -> the same with edges repeated up to whole blocks."""
    height, width = frame.shape[2:]
    padding = (0, -width % BLOCK, 0, -height % BLOCK)
    return F.pad(frame.float(), padding, mode="replicate").to(torch.uint8) if any(padding) else frame


def visible(decoded: Tensor, height: int, width: int) -> np.ndarray:
    """Decoded frame uint8 `[1, 3, ...]` without its padding -> uint8 `[height, width, 3]`."""
    return np.ascontiguousarray(decoded[0, :, :height, :width].permute(1, 2, 0).cpu().numpy())


def cells_of(blocks: Tensor) -> Tensor:
    """`[bh, bw]` -> `[h, w]`: the value of the block each cell belongs to."""
    return blocks.repeat_interleave(2, 0).repeat_interleave(2, 1)


def blocks_of(cells: Tensor) -> Tensor:
    """`[h, w]` -> `[bh, bw, 4]`: the cells of each block in raster order."""
    h, w = cells.shape
    return cells.view(h // 2, 2, w // 2, 2).permute(0, 2, 1, 3).reshape(h // 2, w // 2, 4)


class FrameDecoder:
    """Frames in, one after another: the state is the last decoded frame, nothing else."""

    def __init__(self, tokenizer: VideoTokenizer):
        self.tokenizer = tokenizer
        self.reference: Tensor | None = None
        """uint8 `[1, 3, H, W]`, padded to whole blocks."""

    def decode(self, frame: IFrame | PFrame) -> Tensor:
        """The frame as uint8 `[1, 3, H, W]`, padded to whole blocks."""
        if isinstance(frame, IFrame):
            self.reference = self.key(frame)
        elif self.reference is None:
            raise ValueError("Decoding starts at a P-frame. Supported are starts at an I-frame; see VideoTokens.gops.")
        else:
            self.reference = self.predicted(frame, half_pel_planes(self.reference))
        return self.reference

    def key(self, frame: IFrame) -> Tensor:
        codes = torch.from_numpy(frame.codes).long().unsqueeze(0).to(self.tokenizer.device)
        return to_bytes(self.tokenizer.image.decode(codes))

    def predicted(self, frame: PFrame, planes: Tensor) -> Tensor:
        device = self.tokenizer.device
        motion = torch.from_numpy(frame.motion_field()).unsqueeze(0).to(device)
        context = compensate(planes, motion)
        codes = torch.from_numpy(frame.code_grid()).long().unsqueeze(0).to(device)
        modes = cells_of(torch.from_numpy(frame.modes).to(device)).unsqueeze(0)
        mask = (codes >= 0) & (modes == Mode.RESIDUAL)
        decoded = context
        if mask.any():
            coded = to_bytes(self.codec.decode(codes.clamp(min=0), mask, to_unit(context)))
            decoded = torch.where(pixels_of(mask), coded, context)
        intra = modes == Mode.INTRA
        if intra.any():
            # Neighbours of intra cells lend their context's codes, so that the key-frame decoder sees a whole frame.
            known = torch.where(intra, codes, self.tokenizer.image.encode(to_unit(context)))
            decoded = torch.where(pixels_of(intra), to_bytes(self.tokenizer.image.decode(known)), decoded)
        return decoded

    @property
    def codec(self) -> ResidualCodec:
        """The residual codec. Raises ValueError where the tokenizer has none."""
        if self.tokenizer.residual is None:
            raise ValueError(
                f"Tokenizer {self.tokenizer.id!r} has no residual codec, but the stream has P-frames. "
                "Load one that has, or encode every frame for itself."
            )
        return self.tokenizer.residual


def pixels_of(cells: Tensor) -> Tensor:
    return cells.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2).unsqueeze(1)
