"""PSNR of frames in between that were left out, beside cross-fading and DIS flow, on triplets, frames and clips.

A set is a folder of triplets as Middlebury has them (`NAME/frame10.png`, `frame10i11.png`, `frame11.png`), a folder of
numbered PNG files, or a video. Of frames in a row every odd one is left out and found again from its neighbours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..models.changed_regions import InBetweens
from ..models.checkpoint import load_interpolator
from ..models.interpolator import BlendInterpolator, FlowInterpolator, Interpolator, NetInterpolator
from ..video.metrics import psnr
from ..video.reader import VideoReader

TRIPLET = ("frame10.png", "frame10i11.png", "frame11.png")
VIDEOS = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".y4m")
Triplet = tuple[np.ndarray, np.ndarray, np.ndarray]
"""uint8 `[H, W, 3]`: before, the one to find, after."""
Method = Callable[[np.ndarray, np.ndarray], np.ndarray]


def sets_in(folder: Path) -> dict[str, Path]:
    """The sets below a folder by name; those of `clips/` by the names of the files."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix.lower() in VIDEOS:
            found[path.stem] = path
        elif path.is_dir() and path.name == "clips":
            found |= sets_in(path)
        elif path.is_dir() and (any(path.glob("*.png")) or any(path.glob(f"*/{TRIPLET[1]}"))):
            found[path.name] = path
    return found


def triplets(path: Path) -> Iterator[Triplet]:
    """Of a set, in order."""
    if path.is_dir() and not any(path.glob("*.png")):
        for name in sorted(each.parent for each in path.glob(f"*/{TRIPLET[1]}")):
            before, between, after = (_png(name / each) for each in TRIPLET)
            yield before, between, after
        return
    held: list[np.ndarray] = []
    for number, frame in enumerate(frames_of(path)):
        held = [*held[-2:], frame]
        if number >= 2 and number % 2 == 0:
            yield held[0], held[1], held[2]


def frames_of(path: Path) -> Iterator[np.ndarray]:
    if path.is_dir():
        yield from (_png(each) for each in sorted(path.glob("*.png")))
        return
    with VideoReader(path) as reader:
        for chunk in reader.chunks(8):
            yield from chunk.frames


def _png(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def as_method(interpolator: Interpolator) -> Method:
    """From and to uint8 `[H, W, 3]`."""
    maker = InBetweens(interpolator, None)
    return lambda before, after: next(maker.frames(before, after, [0.5]))


def dis_medium(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """OpenCV's DIS flow, preset medium, both ways; half of the mean of the two is taken at the frame in between."""
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Missing OpenCV, a baseline: pip install 'tokenreel[bench]'.", name="cv2") from error
    cv2.setNumThreads(1)
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in (before, after)]
    empty: Any = None
    path = (search.calc(grey[0], grey[1], empty) - search.calc(grey[1], grey[0], empty)) / 4
    y, x = np.mgrid[: grey[0].shape[0], : grey[0].shape[1]].astype(np.float32)
    one, two = (
        cv2.remap(
            each, x + sign * path[..., 0], y + sign * path[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        for each, sign in ((before, -1), (after, 1))
    )
    return ((one.astype(np.float32) + two) / 2).round().astype(np.uint8)


def methods() -> dict[str, Method]:
    """What is compared, by name."""
    net = load_interpolator()
    return {
        "copy": lambda before, after: before,
        "blend": as_method(BlendInterpolator()),
        "DIS medium": dis_medium,
        "flow": as_method(FlowInterpolator()),
        "net": as_method(net),
        "net in core's node": as_method(NetInterpolator(net.net, started=False)),
    }


def measure_set(found: Iterable[Triplet], compared: dict[str, Method]) -> dict[str, Any]:
    """Mean dB by method, CPU seconds for a megapixel found, number of frames, size of the first."""
    levels: dict[str, list[float]] = {name: [] for name in compared}
    seconds = dict.fromkeys(compared, 0.0)
    pixels, size = 0, [0, 0]
    for before, between, after in found:
        size = size if pixels else [between.shape[1], between.shape[0]]
        pixels += between.shape[0] * between.shape[1]
        for name, method in compared.items():
            started = time.process_time()
            output = method(before, after)
            seconds[name] += time.process_time() - started
            levels[name].append(float(psnr(between[None], output[None])[0]))
    count = len(levels["copy"]) if "copy" in levels else len(next(iter(levels.values())))
    return {
        "frames": count,
        "size": size,
        "psnr": {name: float(np.mean(each)) for name, each in levels.items()},
        "seconds_per_megapixel": {name: each * 1e6 / max(1, pixels) for name, each in seconds.items()},
    }


def measure_quality(folder: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """All sets of a folder, on one thread. ValueError where there is none."""
    found = sets_in(folder)
    if not found:
        raise ValueError(
            f"No sets in {folder}. Give a folder of triplets, numbered PNG files or videos with --sets DIR."
        )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        compared, results = methods(), {}
        for name, path in found.items():
            tell(f"  {name}")
            results[name] = measure_set(triplets(path), compared)
    finally:
        torch.set_num_threads(threads)
    return results
