"""Interpolators as the pipeline takes them: ComfyUI's INTERP_MODEL (RIFE, FILM), and any that may run out of memory.

Both have the methods of `models.interpolator.Interpolator`: frames are `[1, 3, H, W]` in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from . import resources

if TYPE_CHECKING:
    from torch import Tensor

AT_ONCE = 64_000_000
"""Pixels of in-between frames of a pair to compute together: ComfyUI's node takes all, as long as memory allows."""
_LEAST = 64  # pixels: FILM halves a frame six times


class SparingInterpolator:
    """Another interpolator that is given fewer times of a pair at once when memory runs out.

    Raises `resources.OutOfMemoryError` when not even one fits.
    """

    def __init__(self, interpolator: Any):
        self._interpolator = interpolator
        self.networks = getattr(interpolator, "networks", ())
        self._most: int | None = None  # once memory ran out: times at once that fitted

    def prepare(self, frame: Tensor) -> Any:
        """What the interpolator keeps of a frame."""
        return self._interpolator.prepare(frame)

    def between(
        self, first: Tensor, second: Tensor, times: Sequence[float], features: tuple[Any, Any] | None = None
    ) -> Tensor:
        """The frames at `times`, `[len(times), 3, H, W]`."""
        import torch

        return torch.cat(self._chunked(lambda some: self._interpolator.between(first, second, some, features), times))

    def paths(
        self, first: Tensor, second: Tensor, times: Sequence[float], features: tuple[Any, Any] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The motion at `times`, where the interpolator tells it: see `models.interpolator.MotionInterpolator`."""
        import torch

        parts = self._chunked(lambda some: self._interpolator.paths(first, second, some, features), times)
        flows, shares = zip(*parts, strict=True)
        return torch.cat(flows), torch.cat(shares)

    def _chunked(self, compute: Callable[[Sequence[float]], Any], times: Sequence[float]) -> list[Any]:
        sizes: list[int] = []

        def run(begin: int, end: int) -> Any:
            made = compute(times[begin:end])
            sizes.append(end - begin)
            return made

        parts = resources.run_chunked(run, len(times), min(len(times), self._most or len(times)))
        if len(parts) > 1:
            self._most = max(sizes)
        return parts


class CoreInterpolator:
    """ComfyUI's INTERP_MODEL: the frames that ComfyUI's own node computes, bit for bit.

    ComfyUI's memory management loads the model when it is first used. Raises TypeError for what is no such model.
    """

    def __init__(self, patcher: Any):
        self._patcher = patcher
        self._model: Any = getattr(patcher, "model", None)
        if not hasattr(self._model, "extract_features"):
            raise TypeError(
                f"Invalid INTERP_MODEL ({type(patcher).__name__}). Connect ComfyUI's Load Frame Interpolation Model."
            )
        self.device, self.networks = patcher.load_device, [self._model]
        self._dtype = patcher.model_dtype()
        self._align = max(1, getattr(self._model, "pad_align", 1))
        self._all_times = getattr(self._model, "forward_multi_timestep", None)
        self._loaded = 0

    def prepare(self, frame: Tensor) -> tuple[Tensor, Any]:
        """The frame as the model takes it, and its features."""
        padded = self._padded(frame)
        self._load(padded)
        return padded, self._model.extract_features(padded)

    def between(
        self, first: Tensor, second: Tensor, times: Sequence[float], features: tuple[Any, Any] | None = None
    ) -> Tensor:
        """The frames at `times`, float32 `[len(times), 3, H, W]` in [0, 1]."""
        H, W = first.shape[-2:]
        (one, before), (two, after) = features or (self.prepare(first), self.prepare(second))
        self._load(one)
        cache = {"img0": before, "img1": after}
        if self._all_times is not None:
            made = self._all_times(one, two, list(times), cache=cache)
        else:
            count = len(times)
            moments = one.new_tensor(times).reshape(count, 1, 1, 1).expand(-1, 1, *one.shape[-2:])
            made = self._model(
                one.expand(count, -1, -1, -1), two.expand(count, -1, -1, -1), timestep=moments, cache=cache
            )
        return made[:, :, :H, :W].float().clamp_(0, 1)

    def _padded(self, frame: Tensor) -> Tensor:
        """To multiples of what the model needs, mirrored; frames too small for that, which ComfyUI refuses, repeat."""
        import torch
        import torch.nn.functional as F

        # in memory as a slice of ComfyUI's IMAGE lies there: the layout decides how sums are rounded
        frame = frame.clone(memory_format=torch.channels_last).to(dtype=self._dtype, device=self.device)
        H, W = frame.shape[-2:]
        least = max(self._align, _LEAST)
        down, right = (-(-max(side, least) // self._align) * self._align - side for side in (H, W))
        if min(H, W) < least:
            return F.pad(frame, (0, right, 0, down), mode="replicate")
        return F.pad(frame, (0, right, 0, down), mode="reflect") if right or down else frame

    def _load(self, frame: Tensor) -> None:
        pixels = frame.shape[-2] * frame.shape[-1]
        if pixels <= self._loaded:
            return
        import comfy.model_management

        needed = self._model.memory_used_forward((1, *frame.shape[-2:], 3), self._dtype)
        comfy.model_management.load_models_gpu([self._patcher], memory_required=needed)
        self._loaded = pixels
