"""What interpolating costs: CPU time where a camera stands still, memory for a long clip, and whether time is kept."""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..host import resources
from ..interpolation import interpolate
from ..models.changed_regions import InBetweens
from ..models.changed_tiles import THRESHOLD, changed_tiles
from ..models.checkpoint import load_interpolator
from ..models.interpolator import BlendInterpolator, FlowInterpolator, IFNet, InterpolatorConfig, NetInterpolator
from ..video.clips import VideoClip
from ..video.metrics import psnr
from ..video.opening import VideoError
from ..video.reader import VideoReader
from ..video.writer import VideoWriter
from .threads import one_thread

FRAMES = 33  # of a clip, from the first
STATIC = 0.25  # share of tiles that change from frame to frame, median, up to which a camera is taken to stand still
WHOLE_EVERY = 8  # pairs: of so many, one is computed whole too
FOUND_EVERY = 4  # frames: so many apart are those that are found again from their neighbours
CORE_WIDTHS = (192, 128, 96, 64, 32)  # of RIFE 4.25 and 4.26
MINUTES = (1, 10)
LONG_SIZE, LONG_RATE = (1280, 720), 24

Tell = Callable[[str], None]


def measure_static(paths: Sequence[Path], tell: Tell) -> dict[str, Any]:
    """CPU seconds for a megapixel in between, of all clips in which little changes; and which do not count, and why."""
    torch.manual_seed(0)
    ours = load_interpolator()
    core = NetInterpolator(IFNet(InterpolatorConfig(4, CORE_WIDTHS)), started=False)
    clips, others = [], []
    with one_thread():
        for path in paths:
            resources.check_cancelled()
            try:
                frames = _first_frames(path)
            except VideoError as error:
                others.append({"clip": path.name, "reason": str(error)})
                continue
            share = statistics.median(float(changed_tiles(*pair).mean()) for pair in pairwise(frames))
            if share > STATIC:
                others.append({"clip": path.name, "changed": share})
                continue
            clips.append({"clip": path.name, "changed": share, **time_clip(frames, ours, core)})
            tell(f"  {path.name}: {clips[-1]['ratio']:.2f}x of whole frames")
    if not clips:
        raise ValueError(f"In none of the {len(paths)} clips a camera stands still. Give others with --clips DIR.")
    return {"threshold": THRESHOLD, "static_share": STATIC, "threads": 1, "clips": clips, "others": others}


def time_clip(frames: Sequence[np.ndarray], ours: NetInterpolator, core: NetInterpolator) -> dict[str, Any]:
    """CPU seconds a megapixel of regions, of whole frames and of core's shape, in turn; and what regions lose."""
    H, W, _ = frames[0].shape
    makers = {"regions": InBetweens(ours), "whole": InBetweens(ours, None), "core": InBetweens(core, None)}
    seconds: dict[str, list[float]] = {name: [] for name in makers}
    with torch.inference_mode():
        for maker in makers.values():  # once to warm up
            list(maker.frames(frames[0], frames[-1], [0.5]))
        regions = makers["regions"] = InBetweens(ours)
        for index, pair in enumerate(pairwise(frames)):
            for name, maker in makers.items():
                if name == "regions" or index % WHOLE_EVERY == 0:
                    started = time.process_time()
                    list(maker.frames(*pair, [0.5]))
                    seconds[name].append(time.process_time() - started)
        found = {name: InBetweens(ours, threshold) for name, threshold in (("regions", THRESHOLD), ("whole", None))}
        quality = {name: _found_again(frames, maker) for name, maker in found.items()}
    per_megapixel = {name: statistics.fmean(each) * 1e6 / (H * W) for name, each in seconds.items()}
    return {
        "size": [W, H],
        "pairs": len(frames) - 1,
        "computed_fraction": regions.cost.computed_fraction,
        "seconds_per_megapixel": per_megapixel,
        "ratio": per_megapixel["regions"] / per_megapixel["whole"],
        "ratio_to_core": per_megapixel["regions"] / per_megapixel["core"],
        "psnr": quality,
    }


def _found_again(frames: Sequence[np.ndarray], maker: InBetweens) -> float:
    """Mean dB of frames that are left out and found from the two next to them."""
    places = range(1, len(frames) - 1, FOUND_EVERY)
    made = [next(maker.frames(frames[index - 1], frames[index + 1], [0.5])) for index in places]
    return float(psnr(np.stack([frames[index] for index in places]), np.stack(made)).mean())


def _first_frames(path: Path) -> list[np.ndarray]:
    with VideoClip(path, max_frames=FRAMES) as clip:
        frames = [frame for chunk in clip.chunks() for frame in chunk.frames]
    if len(frames) < 3:
        raise VideoError(f"{path.name} has {len(frames)} frames; at least 3 are needed.")
    return frames


def measure_long(tell: Tell, minutes: Sequence[float] = MINUTES) -> dict[str, Any]:
    """Peak memory of doubling the frames of a short and a long clip, each in a process of its own."""
    rows = long_runs(double_long, minutes, tell)
    W, H = LONG_SIZE
    return {
        "size": [W, H],
        "frame_rate": LONG_RATE,
        "engine": "flow",
        "runs": rows,
        "growth": rows[-1]["peak_rss_bytes"] / rows[0]["peak_rss_bytes"],
        # IMAGE is float32, and the whole of it lies in memory before and after ComfyUI's own node
        "image_bytes": sum(rows[-1][key] for key in ("source_frames", "frames")) * W * H * 12,
    }


def long_runs(work: Callable[[str], dict[str, Any]], minutes: Sequence[float], tell: Tell) -> list[dict[str, Any]]:
    """What `work` tells of drawn clips of these lengths; each is drawn and worked on in processes of their own."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="tokenreel-") as folder:
        for length in minutes:
            tell(f"  {length:g} min of {LONG_SIZE[0]}x{LONG_SIZE[1]}")
            path = str(Path(folder) / "long.mp4")
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                frames = pool.submit(draw_long, path, length).result()
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                rows.append({"minutes": length, "source_frames": frames, **pool.submit(work, path).result()})
    return rows


def draw_long(path: str, minutes: float) -> int:
    """Still texture, over which a square moves, another one every ten seconds; how many frames."""
    W, H = LONG_SIZE
    count = round(minutes * 60 * LONG_RATE)
    rng, ground = np.random.default_rng(0), np.zeros((H, W, 3), np.uint8)
    with VideoWriter(path, width=W, height=H, frame_rate=Fraction(LONG_RATE)) as writer:
        for index in range(count):
            if index % (10 * LONG_RATE) == 0:
                ground = np.kron(rng.integers(40, 200, (H // 16, W // 16, 3)), np.ones((16, 16, 1))).astype(np.uint8)
            frame = ground.copy()
            left = 8 * index % (W - 96)
            frame[300:396, left : left + 96] = 255 - frame[300:396, left : left + 96]
            writer.write(frame[None])
    return count


def double_long(path: str) -> dict[str, Any]:
    """Peak memory, seconds, and what came out."""
    torch.set_num_threads(1)
    target = str(Path(path).with_name("doubled.mp4"))
    report = interpolate(path, target, interpolator=FlowInterpolator(), times=2)
    return {
        **{key: report[key] for key in ("frames", "computed_fraction", "cuts", "seconds")},
        "peak_rss_bytes": resources.peak_memory() or 0,
    }


EVEN = (Fraction(24), Fraction(24000, 1001), Fraction(25), Fraction(60))
ASKED: tuple[dict[str, Any], ...] = (
    {"rate": Fraction(60)},
    {"rate": Fraction(24000, 1001)},
    {"rate": Fraction(12)},
    {"times": 2},
    {"times": 3},
    {"times": 8},
)


def measure_drift(tell: Tell, frames: int = 97) -> list[dict[str, Any]]:
    """By how many output frames pictures end before or after those of the source, for several rates.

    The sound is carried as it is: that is what it would be off by at the end. "uneven" has time stamps in ms that jump.
    """
    rows = []
    uneven = np.cumsum(np.random.default_rng(0).integers(5, 90, frames + 1)).tolist()
    sources = [(str(rate), rate, 1 / rate, list(range(frames + 1))) for rate in EVEN]
    sources.append(("uneven", Fraction(20), Fraction(1, 1000), [tick - uneven[0] for tick in uneven]))
    with tempfile.TemporaryDirectory(prefix="tokenreel-") as folder:
        source, target = Path(folder) / "source.mp4", Path(folder) / "target.mp4"
        for name, rate, base, ticks in sources:
            with VideoWriter(source, width=32, height=32, frame_rate=rate, time_base=base) as writer:
                pictures = np.arange(frames, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), np.uint8)
                writer.write(pictures, ticks[:-1])
                writer.close(ticks[-1] - ticks[-2])
            for asked in ASKED:
                report = interpolate(source, target, interpolator=BlendInterpolator(), **asked)
                late = float((_length(target) - ticks[-1] * base) * Fraction(report["frame_rate"]))
                times = asked.get("times")
                rows.append(
                    {
                        "source": name,
                        "asked": f"{times}x" if times else str(asked["rate"]),
                        "frames": report["frames"],
                        "off_by_frames": late,
                        # core: (N - 1) * times + 1 frames at times the rate, for times alone
                        "core_off_by_frames": float(1 - times) if times else None,
                    }
                )
    tell(f"  {len(rows)} cases, off by {max(abs(row['off_by_frames']) for row in rows):.2f} frames at most")
    return rows


def _length(path: Path) -> Fraction:
    """Seconds from the first frame to the end of the last one."""
    with VideoReader(path) as reader:
        chunks, base = list(reader.chunks()), reader.info.time_base
    return (chunks[-1].pts[-1] + chunks[-1].durations[-1] - chunks[0].pts[0]) * base
