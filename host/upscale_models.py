"""Upscalers as the pipeline takes them: ComfyUI's UPSCALE_MODEL, model files, and any that may run out of memory.

All have what `models.upscaler.Upscaler` has: frames are `[B, 3, H, W]` in [0, 1].
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import IS_COMFYUI, resources

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PRECISIONS = ("auto", "fp32", "fp16", "bf16")
MOST_REACH = 48
"""Pixels, for models that look at everything: beyond them a change of the picture is hardly seen."""
_LEAST_REACH = 4
_PROBE = 128  # pixels: side of the picture that shows how far a model looks
_SEEN = 0.25 / 255  # what a result must differ by to count: a quarter of a grey level


def choose_dtype(precision: str) -> torch.dtype:
    """The floating type of that name; auto: the fastest on this device that does not show.

    On processors that multiply matrices of bfloat16 that is this: our networks take half the time there and are the
    same to a hundredth of a decibel.
    """
    import torch

    if precision not in PRECISIONS:
        raise ValueError(f"Invalid precision {precision!r}. Supported are {', '.join(PRECISIONS)}.")
    if precision == "auto":
        fastest = resources.dtype()
        return torch.bfloat16 if fastest == torch.float32 and _multiplies_bf16() else fastest
    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]


def _multiplies_bf16() -> bool:
    import torch

    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)  # not in the oldest versions
    return resources.device().type == "cpu" and supported is not None and bool(supported())


class SparingUpscaler:
    """Another upscaler that is given fewer frames at once when memory runs out, then parts of a frame that overlap.

    Parts overlap by as much as the upscaler sees, so that no seam shows. Raises `resources.OutOfMemoryError` when not
    even a small part fits.
    """

    def __init__(self, upscaler: Any):
        self._upscaler = upscaler
        self.networks = getattr(upscaler, "networks", ())
        self.scale: int = upscaler.scale
        self.reach: int = upscaler.reach
        self.device: torch.device = upscaler.device
        self._most: int | None = None  # once memory ran out: pixels at once that may fit

    def __call__(self, frames: Tensor) -> Tensor:
        """float32 `[B, 3, scale * H, scale * W]`."""
        import torch

        B, _, H, W = frames.shape
        if self._most is not None and self._most < H * W:
            return torch.cat([self._halves(frame) for frame in frames.split(1)])
        start = B if self._most is None else min(B, self._most // (H * W))
        sizes: list[int] = []

        def compute(begin: int, end: int) -> Tensor:
            made = self._upscaler(frames[begin:end])
            sizes.append(end - begin)
            return made

        parts: list[Tensor] = []
        failure = None
        try:
            parts = resources.run_chunked(compute, B, start)
        except resources.OutOfMemoryError as error:
            failure = error.with_traceback(None)  # which would hold the failed part's tensors
        if failure is not None:
            if max(H, W) // 2 <= 2 * self.reach:
                raise failure
            self._most = H * W - 1
            return self(frames)
        if len(parts) > -(-B // start):
            self._most = max(sizes) * H * W
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _halves(self, frame: Tensor) -> Tensor:
        import torch

        axis = 2 if frame.shape[2] >= frame.shape[3] else 3
        length = frame.shape[axis]
        middle, s = length // 2, self.scale
        first = self(frame.narrow(axis, 0, min(length, middle + self.reach)))
        begin = max(0, middle - self.reach)
        second = self(frame.narrow(axis, begin, length - begin))
        kept = second.narrow(axis, s * (middle - begin), s * (length - middle))
        return torch.cat([first.narrow(axis, 0, s * middle), kept], axis)


class CoreUpscaler:
    """ComfyUI's UPSCALE_MODEL, or what spandrel opened: any network from one picture to a larger one.

    The model itself is left as it is, for other nodes; a copy computes, in `dtype` (None: the fastest that the model
    and the device support). Raises TypeError for what is no such model.
    """

    def __init__(self, descriptor: Any, dtype: torch.dtype | None = None):
        if not all(hasattr(descriptor, name) for name in ("scale", "model", "to", "__call__")):
            raise TypeError(
                f"Invalid UPSCALE_MODEL ({type(descriptor).__name__}). Connect ComfyUI's Load Upscale Model."
            )
        colours = getattr(descriptor, "input_channels", 3), getattr(descriptor, "output_channels", 3)
        if colours != (3, 3) or descriptor.scale != int(descriptor.scale) or descriptor.scale < 1:
            raise TypeError(
                f"Invalid UPSCALE_MODEL: {colours[0]} colours become {colours[1]}, at {descriptor.scale} times the "
                "size. Connect one from RGB to RGB, at a whole number of times."
            )
        self.scale = int(descriptor.scale)
        self.device = resources.device()
        self.dtype = _supported(descriptor, dtype)
        self._descriptor = copy.deepcopy(descriptor).to(device=self.device, dtype=self.dtype).eval()
        self.networks = [self._descriptor.model]
        self._room = 0
        # of a compact network it is known: that many convolutions of 3 x 3
        depth = getattr(descriptor.model, "num_conv", None) if _architecture(descriptor) == "Compact" else None
        self.reach: int = reach_of(self) if depth is None else depth + 2

    def __call__(self, frames: Tensor) -> Tensor:
        """float32 `[B, 3, scale * H, scale * W]` in [0, 1]."""
        import torch

        self._make_room(frames)
        # in memory as a slice of ComfyUI's IMAGE lies there: the layout decides how sums are rounded
        frames = frames.clone(memory_format=torch.channels_last).to(self.device, self.dtype)
        with torch.inference_mode():
            return self._descriptor(frames).float().clamp_(0, 1)

    def _make_room(self, frames: Tensor) -> None:
        pixels = frames.shape[0] * frames.shape[2] * frames.shape[3]
        if not IS_COMFYUI or pixels <= self._room:
            return
        import comfy.model_management

        # as much as ComfyUI's own node asks for, by pixel
        needed = pixels * 3 * 4 * max(self.scale, 1) * 384
        comfy.model_management.free_memory(needed, self.device)
        self._room = pixels


def _architecture(descriptor: Any) -> str:
    return str(getattr(getattr(descriptor, "architecture", None), "id", ""))


def _supported(descriptor: Any, wanted: torch.dtype | None) -> torch.dtype:
    import torch

    halves = {torch.float16: "supports_half", torch.bfloat16: "supports_bfloat16"}
    if wanted is None:
        chosen = resources.dtype()
        return chosen if getattr(descriptor, halves.get(chosen, ""), False) else torch.float32
    if wanted in halves and not getattr(descriptor, halves[wanted], False):
        raise ValueError(f"This upscale model cannot compute in {str(wanted)[6:]}. Set precision to auto or fp32.")
    return wanted


def reach_of(upscaler: Any) -> int:
    """How many small pixels to each side a result visibly depends on, a multiple of 4, at most MOST_REACH.

    The right half of a picture is changed, and how far the left half follows is measured.
    """
    import torch

    random = torch.Generator().manual_seed(0)
    one = torch.rand(1, 3, 64, _PROBE, generator=random)
    two = one.clone()
    two[..., _PROBE // 2 :] = torch.rand(1, 3, 64, _PROBE // 2, generator=random)
    off = (upscaler(one) - upscaler(two)).abs().amax((0, 1, 2))[: upscaler.scale * _PROBE // 2]
    followed = (off > _SEEN).nonzero()
    if not len(followed):
        return _LEAST_REACH
    far = _PROBE // 2 - int(followed[0]) // upscaler.scale
    return min(MOST_REACH, max(_LEAST_REACH, -(-far // 4) * 4))


def open_with_spandrel(path: Path) -> Any:
    """What spandrel makes of a safetensors file. ValueError where it is not installed or does not know the file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        import spandrel
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path.name} is neither an upscaler of this pack nor a compact network. For other networks install "
            "spandrel: pip install 'tokenreel[upscalers]'."
        ) from error
    try:
        found = spandrel.ModelLoader().load_from_state_dict(load_file(path))
    except (OSError, SafetensorError, ValueError, RuntimeError, KeyError, spandrel.UnsupportedModelError) as error:
        raise ValueError(f"{path.name} is no upscale model that spandrel knows ({_line(error)}).") from error
    if not isinstance(found, spandrel.ImageModelDescriptor):
        raise ValueError(f"{path.name} is no network from one picture to another. Choose an upscale model.")
    return found


def _line(error: Exception) -> str:
    return f"{' '.join(str(error).split()) or type(error).__name__:.200}"
