"""The one place where ranges and layouts are converted.

chunk   uint8   [T, H, W, 3]  0..255    what reader and writer give and take
image   float32 [T, H, W, C]  0..1      what ComfyUI calls IMAGE
model   float32 [T, 3, H, W]  -1..1     what the networks take
"""

import numpy as np
import torch
import torch.nn.functional as F


def uint8_to_image(frames: np.ndarray) -> torch.Tensor:
    """uint8 `[T, H, W, 3]` -> float32 `[T, H, W, 3]` in [0, 1]."""
    _check_chunk(frames)
    return torch.from_numpy(np.ascontiguousarray(frames)).float().div_(255)


def image_to_uint8(images: torch.Tensor) -> np.ndarray:
    """`[T, H, W, 3]` in [0, 1] (any float dtype, any device) -> uint8 `[T, H, W, 3]`, clipped and rounded.

    Raises ValueError for other channel counts (a fourth channel would be transparency) and for NaN.
    """
    shape = tuple(images.shape)
    if len(shape) == 4 and shape[-1] == 4:
        raise ValueError(f"Invalid images of shape {shape}: alpha is not supported. Drop the fourth channel first.")
    if len(shape) != 4 or shape[-1] != 3:
        raise ValueError(f"Invalid images of shape {shape}. The shape is [frames, height, width, 3].")
    if torch.isnan(images).any():
        raise ValueError("Invalid images: they hold NaN. Check the node that made them.")
    return (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def uint8_to_model(frames: np.ndarray) -> torch.Tensor:
    """uint8 `[T, H, W, 3]` -> float32 `[T, 3, H, W]` in [-1, 1], contiguous."""
    _check_chunk(frames)
    planes = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)  # [T, 3, H, W]
    return planes.float().div_(127.5).sub_(1).contiguous()


def model_to_uint8(frames: torch.Tensor) -> np.ndarray:
    """`[T, 3, H, W]` in [-1, 1] (clipped) -> uint8 `[T, H, W, 3]`, rounded. Exact inverse of `uint8_to_model`."""
    if frames.ndim != 4 or frames.shape[1] != 3:
        raise ValueError(f"Invalid frames of shape {tuple(frames.shape)}. The shape is [frames, 3, height, width].")
    planes = frames.detach().float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    return np.ascontiguousarray(planes.permute(0, 2, 3, 1).cpu().numpy())


def resize(frames: np.ndarray, width: int, height: int) -> np.ndarray:
    """uint8 `[T, H, W, 3]` -> uint8 `[T, height, width, 3]`: antialiased bicubic, clipped and rounded.

    Frame by frame the same whatever the chunk is; the same array comes back when the size is already right.
    """
    _check_chunk(frames)
    if width < 1 or height < 1:
        raise ValueError(f"Invalid size {width}x{height}. Width and height are at least 1.")
    if frames.shape[1:3] == (height, width):
        return frames
    out = np.empty((len(frames), height, width, 3), dtype=np.uint8)
    for index, frame in enumerate(frames):  # one at a time: float32 of a whole chunk would dominate memory
        planes = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()  # [1, 3, H, W]
        scaled = F.interpolate(planes, (height, width), mode="bicubic", align_corners=False, antialias=True)
        out[index] = scaled[0].clamp_(0, 255).round_().to(torch.uint8).permute(1, 2, 0).numpy()
    return out


def center_crop(frames: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """A view of the centre `size` x `size` (or (width, height)) of uint8 `[T, H, W, 3]`; at most the frame itself."""
    width, height = (size, size) if isinstance(size, int) else size
    H, W = frames.shape[1:3]
    if not (1 <= width <= W and 1 <= height <= H):
        raise ValueError(f"Invalid crop {width}x{height} of {W}x{H} frames. It is at least 1 and fits inside them.")
    top, left = (H - height) // 2, (W - width) // 2
    return frames[:, top : top + height, left : left + width]


def fit_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """(width, height) scaled so that the short side is `short_side`; aspect kept, whole numbers of at least 2.

    None keeps the size.
    """
    if short_side is None:
        return width, height
    if short_side < 2:
        raise ValueError(f"Invalid short side {short_side}. It is at least 2 pixels.")
    short = min(width, height)
    scaled = [short_side if side == short else max(2, round(side * short_side / short)) for side in (width, height)]
    return scaled[0], scaled[1]


def _check_chunk(frames: np.ndarray) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        shape = tuple(frames.shape)
        raise ValueError(f"Invalid frames: {frames.dtype} {shape}. They are uint8 [frames, height, width, 3].")
