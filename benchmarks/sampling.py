"""What is restored from a few kept frames: chosen by motion, and evenly in time, at exactly equal numbers.

On clips as they are, and on composites of a still scene and a moving one, two seconds each: the still one is a frozen
picture or a clip of a camera that hardly moves, the moving one is one of the clips that move most. All frames are
restored from the kept ones by each interpolator. Two qualities are told: PSNR of the mean squared error of all frames,
and the mean of their PSNR, 100 dB where they are equal, as kept frames are here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..host import resources
from ..interpolation import restore
from ..models.checkpoint import WEIGHTS, file_digest, load_interpolator
from ..models.interpolator import BlendInterpolator, FlowInterpolator, Interpolator
from ..models.restoration import restored_errors
from ..models.selection import Amount, Policy, select_frames
from ..sampling import Look, look_over
from ..video.clips import HeldClip, ImageClip, VideoClip
from ..video.frames import uint8_to_image
from ..video.metrics import psnr
from ..video.opening import VideoError
from ..video.timeline import FrameTimeline
from .tokens import clips_in

KEEP = 4  # every so many frames one is kept, on average
SECONDS = 2  # of a scene in a composite
NET = "TokenReel's interpolator"
EQUAL = 1e-3  # squared grey levels, added so that equal clips have a PSNR: 78 dB
BASELINES: dict[str, str] = {"uniform": "every fourth frame", "with_last": "the same from the first frame to the last"}

Tell = Callable[[str], None]


def measure_sampling(args: argparse.Namespace, tell: Tell) -> dict[str, Any]:
    """Every clip of `args.clips` and the composites made of them. ValueError where there are none."""
    held, refused = _held(clips_in(args.clips)[: args.limit], args, tell)
    if not held:
        raise ValueError(f"None of the clips in {args.clips!r} can be read. Give another folder.")
    methods = _interpolators()
    clips = []
    for name, kind, clip in [*((name, "clip", clip) for name, clip in held.items()), *composites(held)]:
        resources.check_cancelled()
        found = {"clip": name, "kind": kind, **measure_clip(clip, methods)}
        clips.append(found)
        gains = "; ".join(f"{each} {gain(found, each):+.2f} dB" for each in methods)
        tell(f"  {name}: {found['kept']} of {found['frames']} frames; {gains}")
    return {
        "settings": {
            "frames": args.frames,
            "size": args.size,
            "keep": KEEP,
            "scene_seconds": SECONDS,
            "interpolators": list(methods),
            "baselines": BASELINES,
        },
        "weights": {
            name: file_digest(WEIGHTS / f"{name}.safetensors")
            for name in ("shots", *(["interpolator"] if NET in methods else []))
        },
        "summary": summarize(clips, list(methods)),
        "clips": clips,
        "refused": refused,
    }


def _interpolators() -> dict[str, Interpolator]:
    found: dict[str, Interpolator] = {"linear blend": BlendInterpolator(), "flow without weights": FlowInterpolator()}
    if (WEIGHTS / "interpolator.safetensors").exists():
        found[NET] = load_interpolator()
    return found


def _held(paths: Sequence[Path], args: argparse.Namespace, tell: Tell) -> tuple[dict[str, HeldClip], list[Any]]:
    held, refused = {}, []
    for path in paths:
        try:
            with VideoClip(path, size=args.size, crop=True, max_frames=args.frames) as clip:
                held[path.name] = HeldClip(clip)
        except VideoError as error:
            refused.append({"clip": path.name, "reason": str(error)})
            tell(f"  {path.name}: {error}")
    return held, refused


def composites(held: dict[str, HeldClip]) -> Iterator[tuple[str, str, HeldClip]]:
    """(name, kind, clip): each of the third of clips that move most, after a frozen and after a nearly still scene.

    Clips of less than a second are left out.
    """
    long = {name: clip for name, clip in held.items() if clip.duration >= 1}
    motion = {name: float(look_over(clip).meter.energy.mean()) for name, clip in long.items()}
    ranked = sorted(motion, key=lambda name: motion[name])
    third = -(-len(ranked) // 3)
    for still, moving in zip(ranked[:third], ranked[-third:], strict=True):
        fast, slow = held[moving], held[still]
        count = round(SECONDS * fast.frame_rate)
        frozen = slow.frames[:1].repeat(count, 0)
        for kind, scene in (("frozen + moving", frozen), ("static camera + moving", slow.frames[:count])):
            frames = np.concatenate([scene, fast.frames[:count]])
            yield f"{still} + {moving}", kind, _as_clip(frames, fast.frame_rate)


def _as_clip(frames: np.ndarray, frame_rate: Fraction) -> HeldClip:
    return HeldClip(ImageClip(uint8_to_image(frames), frame_rate))


def plans(look: Look, count: int) -> dict[str, tuple[int, ...]]:
    """The frames that each way of choosing keeps, `count` each."""
    N = len(look.times)
    found = {}
    policies: tuple[Policy, ...] = ("motion", "uniform")
    for policy in policies:
        found[policy] = select_frames(look.pictures, look.shots, policy=policy, amount=Amount(count), times=look.times)
    found["with_last"] = tuple(round(index * (N - 1) / max(1, count - 1)) for index in range(count))
    return found


def measure_clip(clip: HeldClip, methods: dict[str, Interpolator]) -> dict[str, Any]:
    """Qualities of one clip by interpolator and plan, and the gain that small pictures promised."""
    look, frames = look_over(clip), clip.frames
    count = max(2, len(frames) // KEEP)
    chosen = plans(look, count)
    figures: dict[str, Any] = {"frames": len(frames), "kept": count, "shots": len(look.timeline.shots)}
    figures["same_plan"] = chosen["motion"] == chosen["uniform"]
    times, groups = np.array(look.times), look.shots.groups(len(frames))
    promised = [restored_errors(look.pictures, times, groups, np.array(chosen[each])) for each in ("uniform", "motion")]
    figures["promised"] = _decibels(promised[1]) - _decibels(promised[0])
    for method, interpolator in methods.items():
        figures[method] = {}
        for plan, kept in chosen.items():
            timeline = FrameTimeline(**{**vars(look.timeline), "kept": kept})
            restored = restore((frames[index] for index in kept), timeline, interpolator)
            errors, decibels = [], []
            for made, source in zip(restored, frames, strict=True):
                errors.append(float(np.square(made.astype(np.float32) - source).mean()))
                decibels.append(float(psnr(source[None], made[None])[0]))
            figures[method][plan] = {"psnr": _decibels(np.array(errors)), "psnr_frames": float(np.mean(decibels))}
    return figures


def _decibels(errors: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / (errors.mean() + EQUAL)))


def gain(clip: dict[str, Any], method: str, quality: str = "psnr", baseline: str = "uniform") -> float:
    """dB by which the plan of motion is ahead."""
    return clip[method]["motion"][quality] - clip[method][baseline][quality]


def summarize(clips: Sequence[dict[str, Any]], methods: Sequence[str]) -> dict[str, Any]:
    """By kind of clip, interpolator, quality and baseline: mean, median, least gain, and the PSNR of both."""
    found: dict[str, Any] = {}
    for kind in dict.fromkeys(clip["kind"] for clip in clips):
        of_kind = [clip for clip in clips if clip["kind"] == kind]
        found[kind] = {"clips": len(of_kind)}
        for method in methods:
            found[kind][method] = {
                quality: {
                    "motion": float(np.mean([clip[method]["motion"][quality] for clip in of_kind])),
                    **{
                        baseline: _statistics(
                            [clip[method][baseline][quality] for clip in of_kind],
                            [gain(clip, method, quality, baseline) for clip in of_kind],
                        )
                        for baseline in BASELINES
                    },
                }
                for quality in ("psnr", "psnr_frames")
            }
    return found


def _statistics(quality: Sequence[float], gains: Sequence[float]) -> dict[str, float]:
    return {
        "psnr": float(np.mean(quality)),
        "gain_mean": float(np.mean(gains)),
        "gain_median": float(np.median(gains)),
        "gain_min": float(np.min(gains)),
    }
