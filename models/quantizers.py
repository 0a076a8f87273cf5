"""Finite scalar quantization (Mentzer et al., 2023, https://arxiv.org/abs/2309.15505).

Each latent dimension is bounded and rounded to one of a few levels; the tuple of levels is the code. There is no
codebook to learn, to collapse or to ship: an index is a mixed-radix number whose first digit is the least significant.
"""

import math

import torch
from torch import Tensor, nn


class FSQ(nn.Module):
    """Maps latents `[B, d, ...]` to codes in [-1, 1] and to indices in [0, prod(levels)).

    The order of the digits is part of every checkpoint and of every token file: it never changes.
    """

    _levels: Tensor
    _radix: Tensor

    def __init__(self, levels: tuple[int, ...]):
        super().__init__()
        if not levels or any(level < 2 for level in levels):
            raise ValueError(f"Invalid levels {levels}. Give at least one dimension of at least 2 levels each.")
        self.levels = tuple(int(level) for level in levels)
        self.codebook_size = math.prod(self.levels)
        radix = [math.prod(self.levels[:i]) for i in range(len(self.levels))]
        self.register_buffer("_levels", torch.tensor(self.levels), persistent=False)
        self.register_buffer("_radix", torch.tensor(radix), persistent=False)

    def _per_dimension(self, values: Tensor, like: Tensor) -> Tensor:
        return values.to(like.device).view(1, -1, *[1] * (like.ndim - 2))

    def bound(self, latents: Tensor) -> Tensor:
        """Squeezes latents so that rounding yields exactly `levels` values in each dimension."""
        levels = self._per_dimension(self._levels, latents).to(latents.dtype)
        half = (levels - 1) * (1 + 1e-3) / 2
        # An even number of levels has no middle one: shift by half a step, keeping tanh(0) between two levels.
        offset = torch.where(levels % 2 == 0, 0.5, 0.0).to(latents.dtype)
        return torch.tanh(latents + torch.atanh(offset / half)) * half - offset

    def fill(self, latents: Tensor) -> Tensor:
        """Latents before rounding on a scale where the codes of each dimension cover [-1, 1] in equal shares."""
        levels = self._per_dimension(self._levels, latents).to(latents.dtype)
        return (self.bound(latents) + torch.where(levels % 2 == 0, 0.5, 0.0).to(latents.dtype)) / (levels / 2)

    def forward(self, latents: Tensor, noise: bool = False) -> Tensor:
        """Codes `[B, d, ...]` in [-1, 1], with straight-through gradients.

        `noise` adds uniform noise of one step instead of rounding: smoother gradients for a part of the batches.
        """
        bounded = self.bound(latents)
        change = torch.rand_like(bounded) - 0.5 if noise else (bounded.round() - bounded).detach()
        return (bounded + change) / self._half_width(latents)

    def unrounded(self, latents: Tensor) -> Tensor:
        """Codes `[B, d, ...]` before rounding, on the scale of `forward`."""
        return self.bound(latents) / self._half_width(latents)

    def _half_width(self, like: Tensor) -> Tensor:
        return self._per_dimension(self._levels // 2, like).to(like.dtype)

    def codes_to_indices(self, codes: Tensor) -> Tensor:
        """Codes `[B, d, ...]` as `forward` gives them -> indices int64 `[B, ...]`."""
        half = self._half_width(codes)
        digits = (codes * half + half).round().long()
        return (digits * self._per_dimension(self._radix, codes)).sum(1)

    def indices_to_codes(self, indices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Indices `[B, ...]` in [0, codebook_size) -> codes `[B, d, ...]` in [-1, 1]; inverts codes_to_indices."""
        return self.levels_to_codes(self.digits(indices).to(dtype)).movedim(-1, 1)

    def levels_to_codes(self, levels: Tensor) -> Tensor:
        """Levels `[..., d]` from 0, whole or not -> codes `[..., d]` in [-1, 1]."""
        half = (self._levels // 2).to(levels)
        return (levels - half) / half

    def codes_to_levels(self, codes: Tensor) -> Tensor:
        """Codes `[..., d]` -> levels `[..., d]` from 0, as whole as the codes are."""
        half = (self._levels // 2).to(codes)
        return codes * half + half

    def digits(self, indices: Tensor) -> Tensor:
        """Indices `[...]` -> int64 `[..., d]`: the level in each dimension, from 0."""
        levels, radix = (each.to(indices.device) for each in (self._levels, self._radix))
        return indices.unsqueeze(-1) // radix % levels

    def digits_to_indices(self, digits: Tensor) -> Tensor:
        """int64 `[..., d]` -> indices `[...]`; inverts digits."""
        return (digits * self._radix.to(digits.device)).sum(-1)
