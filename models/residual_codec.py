"""P8: the conditional residual codec. Given the motion-compensated last frame, it spends tokens where they are needed.

The frame is coded conditionally, not as a difference: encoder and decoder both see the context, as in DCVC
(Li et al., 2021, https://arxiv.org/abs/2109.15047). It is the key-frame tokenizer with a second eye: training starts
from its weights, with the context's inputs at zero. One token of the key frame's alphabet describes one 8x8 cell; cells
without a token keep the context's pixels, exactly.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from .image_tokenizer import ImageDecoder, ImageEncoder, ImageTokenizer, ImageTokenizerConfig, ResidualBlock
from .quantizers import FSQ


@dataclass(frozen=True)
class ResidualCodecConfig(ImageTokenizerConfig):
    """The key-frame tokenizer's shape, and what is added for the context; stored in the checkpoint."""

    context_widths: tuple[int, int] = (64, 128)
    """Channels of the features of the context at 1/4 and at 1/8 size."""


class Context(nn.Module):
    """Features of the context, which the decoder has too, in the widths at which the decoder takes them in."""

    def __init__(self, config: ResidualCodecConfig, operations: ModuleType | Any = nn):
        super().__init__()
        fine, coarse = config.context_widths
        self.fine = nn.Sequential(
            nn.PixelUnshuffle(config.patch_size),
            operations.Conv2d(3 * config.patch_size**2, fine, 3, padding=1),
            ResidualBlock(fine, operations),
        )
        self.coarse = nn.Sequential(
            nn.PixelUnshuffle(2), operations.Conv2d(fine * 4, coarse, 1), ResidualBlock(coarse, operations)
        )
        self.inject = operations.Conv2d(fine, config.decoder_widths[0], 1)

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, 3, H, W]` -> (`[B, decoder_widths[0], H/4, W/4]`, `[B, context_widths[1], H/8, W/8]`)."""
        fine = self.fine(context)
        return self.inject(fine), self.coarse(fine)


class ResidualCodec(nn.Module):
    """Frame and context `[B, 3, H, W]` in [-1, 1], H and W multiples of 8 <-> indices `[B, H/8, W/8]` of the cells."""

    def __init__(self, config: ResidualCodecConfig | None = None, operations: ModuleType | Any = nn):
        super().__init__()
        self.config = config or ResidualCodecConfig()
        self.encoder = ImageEncoder(self.config, operations, channels=6)
        self.to_latent = operations.Conv2d(self.config.encoder_widths[1], len(self.config.levels), 1)
        self.quantizer = FSQ(self.config.levels)
        self.context = Context(self.config, operations)
        self.decoder = ImageDecoder(
            self.config, operations, len(self.config.levels) + 1 + self.config.context_widths[1]
        )

    def encode(self, frames: Tensor, context: Tensor) -> Tensor:
        """Indices int64 `[B, h, w]` of all cells; the caller keeps those that it wants to send."""
        latents = self.to_latent(self.encoder(torch.cat([frames, context], 1)))
        return self.quantizer.codes_to_indices(self.quantizer(latents))

    def decode(self, indices: Tensor, mask: Tensor, context: Tensor) -> Tensor:
        """Frames `[B, 3, H, W]` in [-1, 1], of which the cells in the mask bool `[B, h, w]` are what was coded.

        What stands in `indices` outside the mask has no influence; the pixels outside are the caller's to take from the
        context.
        """
        codes = self.quantizer.indices_to_codes(indices, self.to_latent.weight.dtype)
        return self._decode(codes, mask.unsqueeze(1).to(codes.dtype), context).clamp(-1, 1)

    def _decode(self, codes: Tensor, mask: Tensor, context: Tensor) -> Tensor:
        fine, coarse = self.context(context)
        return self.decoder(torch.cat([codes * mask, mask, coarse], 1), fine)

    def forward(self, frames: Tensor, context: Tensor, mask: Tensor, noise: bool = False) -> Tensor:
        """Reconstruction with gradients; mask float `[B, 1, h, w]`; not clipped. For training."""
        codes = self.quantizer(self.to_latent(self.encoder(torch.cat([frames, context], 1))), noise)
        return self._decode(codes, mask, context)

    @torch.no_grad()
    def start_from(self, image: ImageTokenizer) -> None:
        """Takes over a trained key-frame tokenizer of the same widths; the context has no say yet."""
        mine, theirs = self.state_dict(), image.state_dict()
        for name, value in theirs.items():
            own = mine[name]
            if own.shape == value.shape:
                own.copy_(value)
            else:  # the two entrances: what is new comes after the old channels
                own.zero_()
                own[:, : value.shape[1]].copy_(value)
        nn.init.zeros_(self.context.inject.weight)
        nn.init.zeros_(self.context.inject.bias)
