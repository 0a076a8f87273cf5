"""PSNR of upscaled stills, as the field measures it: Set5, Set14, Urban100; beside bicubic and other people's nets.

A set is a folder of pairs `NAME_SRF_2_LR.png`, `NAME_SRF_2_HR.png` (or `_4_`), the small ones made bicubically. PSNR is
that of luma in BT.601's studio range, of pictures rounded to 8 bits, without a border as wide as the scale.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..models.checkpoint import load_upscaler
from ..models.upscaler import BicubicUpscaler
from .upscaling_peers import find_upscalers

OURS = {2: ("x2-s", "x2-m"), 4: ("x4-m",)}
_LUMA = np.array([65.481, 128.553, 24.966]) / 255
Upscale = Callable[[Tensor], Tensor]


def measure_stills(sets: Path, peers: Path | None, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """A row for each scale and method: PSNR by set, and CPU seconds for a megapixel of the small picture.

    Methods take turns on every picture, on one thread. Raises ValueError where no set is found.
    """
    folders = [path for path in sorted(sets.iterdir()) if path.is_dir() and any(path.glob("*_SRF_*_LR.png"))]
    if not folders:
        raise ValueError(f"No pairs NAME_SRF_2_LR.png, NAME_SRF_2_HR.png in folders of {sets.name}/.")
    rows, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for scale in OURS:
            rows += _rows(scale, folders, peers, tell)
    finally:
        torch.set_num_threads(threads)
    return rows


def luma_psnr(one: np.ndarray, other: np.ndarray, border: int) -> float:
    """dB of luma, of two uint8 `[H, W, 3]`."""
    first, second = (each[border:-border, border:-border] @ _LUMA for each in (one, other))
    return float(10 * np.log10(255**2 / np.mean((first - second) ** 2)))


def pairs(folder: Path, scale: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Small and large uint8 `[H, W, 3]`, the large one cut to the small one's size times `scale`."""
    for path in sorted(folder.glob(f"*_SRF_{scale}_LR.png")):
        small, large = (np.array(Image.open(each).convert("RGB")) for each in (path, _large(path)))
        yield small, large[: scale * small.shape[0], : scale * small.shape[1]]


def _large(path: Path) -> Path:
    return path.with_name(path.name.replace("_LR.", "_HR."))


def _methods(scale: int, peers: Path | None) -> dict[str, Upscale]:
    found: dict[str, Upscale] = {"bicubic": BicubicUpscaler(scale)}
    for name, network in find_upscalers(peers) if peers else ():
        if network.scale == scale:
            found[name] = network
    return found | {name: load_upscaler(name) for name in OURS[scale]}


def _rows(scale: int, folders: list[Path], peers: Path | None, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    methods = _methods(scale, peers)
    quality: dict[str, dict[str, list[float]]] = {name: {} for name in methods}
    seconds, pixels = dict.fromkeys(methods, 0.0), 0
    for folder in folders:
        for small, large in pairs(folder, scale):
            planes = torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255
            pixels += small.shape[0] * small.shape[1]
            for name, upscale in methods.items():
                started = time.process_time()
                made = upscale(planes)
                seconds[name] += time.process_time() - started
                picture = made[0].mul(255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
                quality[name].setdefault(folder.name, []).append(luma_psnr(large, picture, scale))
        tell(f"x{scale} {folder.name} done")
    return [
        {
            "scale": scale,
            "method": name,
            "psnr_y": {each: sum(values) / len(values) for each, values in quality[name].items()},
            "pictures": {each: len(values) for each, values in quality[name].items()},
            "cpu_seconds_per_megapixel": seconds[name] / pixels * 1e6,
        }
        for name in methods
    ]
