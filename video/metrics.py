"""How close two videos are: PSNR and SSIM per frame on uint8 RGB, and a meter that streams.

PSNR is over all pixels and channels of a frame, in dB. Averages are means (or medians) of per-frame dB, which is not
the dB of the mean error. SSIM is Wang et al. 2004: 11x11 Gaussian window of sigma 1.5, per RGB channel, then the mean.
"""

import numpy as np
import torch
import torch.nn.functional as F

PSNR_CAP = 100.0  # dB given for identical frames, so that means stay finite
_WINDOW, _SIGMA = 11, 1.5


def psnr(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """float64 `[T]` in dB for two uint8 `[T, H, W, 3]`; identical frames give `PSNR_CAP` (100 dB)."""
    _check_pair(reference, other)
    result = np.full(len(reference), PSNR_CAP)
    for index, (a, b) in enumerate(zip(reference, other, strict=True)):
        difference = a.astype(np.int32) - b
        error = int(np.einsum("hwc,hwc->", difference, difference, dtype=np.int64)) / difference.size  # exact sum
        if error > 0:
            result[index] = min(PSNR_CAP, 10 * np.log10(255.0**2 / error))
    return result


def ssim(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """float64 `[T]`, 1 for identical frames, for two uint8 `[T, H, W, 3]`.

    Frames narrower or lower than the 11-pixel window are extended by their edge.
    """
    _check_pair(reference, other)
    return np.array([_ssim_frame(a, b) for a, b in zip(reference, other, strict=True)], dtype=np.float64)


class QualityMeter:
    """Collects PSNR and SSIM of two videos given chunk by chunk; keeps a few numbers per frame, never the frames."""

    def __init__(self, *, with_ssim: bool = True) -> None:
        self._with_ssim = with_ssim
        self._psnr: list[float] = []
        self._ssim: list[float] = []

    def update(self, reference: np.ndarray, other: np.ndarray) -> None:
        """Add the next frames of both videos: two uint8 `[T, H, W, 3]` of one shape."""
        self._psnr.extend(psnr(reference, other).tolist())
        if self._with_ssim:
            self._ssim.extend(ssim(reference, other).tolist())

    @property
    def per_frame(self) -> np.ndarray:
        """float64 `[T]`: PSNR in dB of every frame so far."""
        return np.array(self._psnr, dtype=np.float64)

    def result(self) -> dict[str, float | int]:
        """frames, psnr (mean dB), psnr_median, psnr_min, and ssim, ssim_min unless switched off.

        Raises ValueError when no frame was given.
        """
        if not self._psnr:
            raise ValueError("No frames were compared. Give both videos at least one frame.")
        values = self.per_frame
        result: dict[str, float | int] = {
            "frames": len(values),
            "psnr": float(values.mean()),
            "psnr_median": float(np.median(values)),
            "psnr_min": float(values.min()),
        }
        if self._with_ssim:
            result["ssim"] = float(np.mean(self._ssim))
            result["ssim_min"] = float(np.min(self._ssim))
        return result


def _ssim_frame(a: np.ndarray, b: np.ndarray) -> float:
    planes = torch.from_numpy(np.stack([a, b])).permute(0, 3, 1, 2).float()  # [2, 3, H, W]
    H, W = planes.shape[-2:]
    if min(H, W) < _WINDOW:
        planes = F.pad(planes, (0, max(0, _WINDOW - W), 0, max(0, _WINDOW - H)), mode="replicate")
    x, y = planes[0] - 128, planes[1] - 128  # centred: variances are differences of large numbers in float32
    mean_x, mean_y, xx, yy, xy = _blur(torch.stack([x, y, x * x, y * y, x * y]))
    var_x, var_y, covariance = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = mean_x + 128, mean_y + 128
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return float((luminance * structure).mean())


def _blur(planes: torch.Tensor) -> torch.Tensor:
    """Gaussian window over `[N, C, H, W]` where it fits entirely: `[N, C, H - 10, W - 10]`."""
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    taps = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    taps /= taps.sum()
    for axis in (2, 3):
        length = planes.shape[axis] - _WINDOW + 1
        blurred = planes.narrow(axis, 0, length) * taps[0]
        for shift in range(1, _WINDOW):  # shifted sums: many times faster than a one-channel conv2d on CPU
            blurred.add_(planes.narrow(axis, shift, length), alpha=float(taps[shift]))
        planes = blurred
    return planes


def _check_pair(reference: np.ndarray, other: np.ndarray) -> None:
    for frames in (reference, other):
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            shape = tuple(frames.shape)
            raise ValueError(f"Invalid frames: {frames.dtype} {shape}. They are uint8 [frames, height, width, 3].")
    if reference.shape != other.shape:
        raise ValueError(
            f"Frames of different shapes, {tuple(reference.shape)} and {tuple(other.shape)}. "
            "Scale one to the other's size and give equally many frames."
        )
