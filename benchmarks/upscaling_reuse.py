"""What reuse saves and what it loses, beside whole frames and ComfyUI's way; memory; flicker of noisy stills.

ComfyUI's way: ImageUpscaleWithModel cuts each frame into tiles of 512 pixels that overlap by 32, blends them in
floating point, and holds all frames in memory as floats, before and after. It is stated here again as it computes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..host import resources
from ..models.changed_tiles import changed_tiles
from ..models.checkpoint import load_upscaler
from ..models.upscale_reuse import THRESHOLD, ReusingUpscaler
from ..models.upscaler import Upscaler
from ..upscaling import upscale
from ..video.clips import VideoClip
from ..video.frames import resize
from ..video.metrics import psnr
from ..video.opening import VideoError
from .interpolation_cost import LONG_SIZE, long_runs

ENGINE = "x2-m"
FRAMES = 49  # of a clip, from the first
LARGEST = 720  # pixels, short side of the frames that are to be found again
STATIC = 0.25  # share of tiles that change from frame to frame, median, up to which a camera is taken to stand still
WHOLE_EVERY = 8  # frames: of so many, one is timed whole and in ComfyUI's way
CORE_TILE, CORE_OVERLAP = 512, 32  # pixels of ImageUpscaleWithModel
NOISE = (1.0, 2.0, 4.0)  # grey levels
NOISY_FRAMES = 9
MINUTES = (0.25, 1)

Tell = Callable[[str], None]


def upscale_as_core(upscaler: Upscaler, image: Tensor) -> Tensor:
    """float32 `[H, W, 3]` in [0, 1] -> `[sH, sW, 3]`, in the order and at the cost of ComfyUI's own node."""
    frame, scale = image.movedim(-1, -3)[None], upscaler.scale
    H, W = frame.shape[-2:]
    if max(H, W) <= CORE_TILE:
        large = upscaler(frame.float())
        return torch.clamp(large[0].movedim(-3, -1), 0, 1)
    large, weights = torch.zeros(1, 3, scale * H, scale * W), torch.zeros(1, 3, scale * H, scale * W)
    step = CORE_TILE - CORE_OVERLAP
    starts = [range(0, side - CORE_OVERLAP, step) if side > CORE_TILE else (0,) for side in (H, W)]
    for place in product(*starts):
        top, left = (max(0, min(side - CORE_OVERLAP, at)) for side, at in zip((H, W), place, strict=True))
        made = upscaler(frame[:, :, top : top + CORE_TILE, left : left + CORE_TILE].float())
        mask = torch.ones(1, 1, *made.shape[2:])
        feather = scale * CORE_OVERLAP
        for axis, line in product((2, 3), range(feather)):
            if feather < mask.shape[axis]:
                mask.narrow(axis, line, 1).mul_((line + 1) / feather)
                mask.narrow(axis, mask.shape[axis] - 1 - line, 1).mul_((line + 1) / feather)
        rows, columns = (slice(scale * at, scale * at + n) for at, n in ((top, made.shape[2]), (left, made.shape[3])))
        large[:, :, rows, columns] += made * mask
        weights[:, :, rows, columns] += mask
    return torch.clamp(large.div_(weights)[0].movedim(-3, -1), 0, 1)


def measure_reuse(paths: Sequence[Path], tell: Tell) -> dict[str, Any]:
    """A row for each clip, and what could not be read. Frames are made half as large, and found again."""
    upscaler = load_upscaler(ENGINE)
    threads, clips, others = torch.get_num_threads(), [], []
    torch.set_num_threads(1)
    try:
        for path in paths:
            resources.check_cancelled()
            try:
                frames = frames_of_clip(path)
            except VideoError as error:
                others.append({"clip": path.name, "reason": str(error)})
                continue
            clips.append({"clip": path.name, **measure_clip(frames, upscaler)})
            row = clips[-1]
            tell(f"  {path.name}: {row['computed_fraction']:.0%} of the tiles, {row['lost']:.2f} dB lost")
    finally:
        torch.set_num_threads(threads)
    if not clips:
        raise ValueError(f"None of the {len(paths)} clips can be read. Give others with --clips DIR.")
    return {
        "engine": ENGINE,
        "threshold": THRESHOLD,
        "static_share": STATIC,
        "threads": 1,
        "clips": clips,
        "others": others,
        "summary": {kind: _summary([row for row in clips if row["static"] == (kind == "static")]) for kind in KINDS},
    }


KINDS = ("static", "moving")
_MEDIANS = ("computed_fraction", "lost", "to_core", "to_whole")


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    medians = {key: statistics.median(row[key] for row in rows) for key in _MEDIANS} if rows else {}
    return {"clips": len(rows), **medians}


def frames_of_clip(path: Path) -> np.ndarray:
    """uint8 `[T, H, W, 3]` with even sides, the first FRAMES of a clip, made smaller where they are very large."""
    with VideoClip(path, max_frames=FRAMES) as clip:
        size = LARGEST if min(clip.width, clip.height) > LARGEST else None
    with VideoClip(path, max_frames=FRAMES, size=size) as clip:
        frames = np.concatenate([chunk.frames for chunk in clip.chunks()])
    if len(frames) < 3:
        raise VideoError(f"{path.name} has {len(frames)} frames; at least 3 are needed.")
    return frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]


def measure_clip(large: np.ndarray, upscaler: Upscaler) -> dict[str, Any]:
    """Tiles, quality and CPU seconds of frames uint8 `[T, H, W, 3]` that are made smaller and upscaled again."""
    small = resize(large, large.shape[2] // upscaler.scale, large.shape[1] // upscaler.scale)
    share = statistics.median(float(changed_tiles(*pair).mean()) for pair in pairwise(small))
    reusing, whole = ReusingUpscaler(upscaler), ReusingUpscaler(upscaler, None)
    whole.frame(small[0])  # once to warm up
    seconds: dict[str, list[float]] = {"reuse": [], "whole": [], "core": []}
    quality: dict[str, list[float]] = {"reuse": [], "whole": []}
    image = torch.from_numpy(small).float().div_(255)
    for index, frame in enumerate(small):
        made = {"reuse": _timed(seconds["reuse"], lambda frame=frame: reusing.frame(frame))}
        timed = seconds["whole"] if index % WHOLE_EVERY == 0 else []
        made["whole"] = _timed(timed, lambda frame=frame: whole.frame(frame))
        if index % WHOLE_EVERY == 0:
            _timed(seconds["core"], lambda index=index: upscale_as_core(upscaler, image[index]))
        for name, each in made.items():
            quality[name].append(float(psnr(large[index : index + 1], each[None])[0]))
    spent = {name: statistics.fmean(each) for name, each in seconds.items()}
    means = {name: statistics.fmean(each) for name, each in quality.items()}
    return {
        "size": [small.shape[2], small.shape[1]],
        "frames": len(small),
        "changed": share,
        "static": share <= STATIC,
        "computed_fraction": reusing.cost.computed_fraction,
        "pixels_fraction": reusing.cost.computed / reusing.cost.pixels,
        "psnr": means,
        "lost": means["whole"] - means["reuse"],
        "seconds_per_frame": spent,
        "to_core": spent["reuse"] / spent["core"],
        "to_whole": spent["reuse"] / spent["whole"],
    }


def _timed(seconds: list[float], work: Callable[[], Any]) -> Any:
    started = time.process_time()
    with torch.inference_mode():
        made = work()
    seconds.append(time.process_time() - started)
    return made


def measure_flicker(paths: Sequence[Path], tell: Tell) -> dict[str, Any]:
    """Mean difference from frame to frame, in grey levels, of stills with noise: first frames of the clips."""
    upscaler, rows, rng = load_upscaler(ENGINE), [], np.random.default_rng(0)
    for path in paths:
        try:
            still = frames_of_clip(path)[0]
        except VideoError:
            continue
        still = resize(still[None], still.shape[1] // 2, still.shape[0] // 2)[0]
        for noise in NOISE:
            rows.append({"clip": path.name, "noise": noise, **noisy_still(still, noise, upscaler, rng)})
        tell(f"  {path.name}")
    if not rows:
        raise ValueError(f"None of the {len(paths)} clips can be read. Give others with --clips DIR.")
    keys = ("whole", "reuse", "ratio", "computed_fraction")
    summary = [
        {"noise": noise, **{key: statistics.fmean(row[key] for row in rows if row["noise"] == noise) for key in keys}}
        for noise in NOISE
    ]
    return {"engine": ENGINE, "threshold": THRESHOLD, "stills": rows, "summary": summary}


def noisy_still(still: np.ndarray, noise: float, upscaler: Upscaler, rng: np.random.Generator) -> dict[str, float]:
    """Of a picture uint8 `[H, W, 3]` with another noise in each frame: flicker, and tiles after the first frame."""
    reusing, whole = ReusingUpscaler(upscaler), ReusingUpscaler(upscaler, None)
    made: dict[str, list[np.ndarray]] = {"whole": [], "reuse": []}
    for _ in range(NOISY_FRAMES):
        frame = np.clip(np.rint(still + rng.normal(0, noise, still.shape)), 0, 255).astype(np.uint8)
        made["whole"].append(whole.frame(frame))
        made["reuse"].append(reusing.frame(frame))
    found = {
        name: statistics.fmean(float(np.abs(a.astype(np.int16) - b).mean()) for a, b in pairwise(each))
        for name, each in made.items()
    }
    cost, tiles = reusing.cost, reusing.changed.size
    later = (cost.tiles_computed - tiles) / (cost.tiles - tiles)
    return {**found, "ratio": found["reuse"] / found["whole"], "computed_fraction": later}


def measure_memory(tell: Tell, minutes: Sequence[float] = MINUTES) -> dict[str, Any]:
    """Peak memory of upscaling 720p to 1440p, a short and a longer clip, each in a process of its own."""
    rows = long_runs(upscale_long, minutes, tell)
    (W, H), scale = LONG_SIZE, 2
    return {
        "size": [W, H],
        "engine": ENGINE,
        "runs": rows,
        "growth": rows[-1]["peak_rss_bytes"] / rows[0]["peak_rss_bytes"],
        # IMAGE is float32, and the whole of it lies in memory before and after ComfyUI's own node
        "image_bytes": rows[-1]["source_frames"] * W * H * 12 * (1 + scale**2),
    }


def upscale_long(path: str) -> dict[str, Any]:
    """Peak memory, seconds, and what came out."""
    torch.set_num_threads(1)
    target = str(Path(path).with_name("large.mp4"))
    report = upscale(path, target, upscaler=load_upscaler(ENGINE))
    return {
        **{key: report[key] for key in ("frames", "computed_fraction", "seconds")},
        "peak_rss_bytes": resources.peak_memory() or 0,
    }
