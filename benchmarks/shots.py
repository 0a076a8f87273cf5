"""Changes of shot: ours, ours without the net, and PySceneDetect's detectors, on composed reels and on whole clips.

PySceneDetect is not ours and not needed for anything else: `pip install "tokenreel[bench]"`. It is run at its defaults
and at other thresholds on the same reels; the best of these, chosen with the answers in sight, is what ours is held
against.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..models.checkpoint import WEIGHTS, file_digest
from ..models.shot_matching import Agreement, match, place
from ..models.shots import MotionMeter, Transition
from ..video.reader import VideoReader
from .shot_labels import LABELS, Labels
from .shot_reels import NEGATIVES, SHOTS, Reel, load_shots, write_copy, write_reel
from .tokens import clips_in

TOLERANCE = 1
OURS, ALONE = "TokenReel", "TokenReel, score alone"
THRESHOLDS = {"Adaptive": (1.5, 2.0, 3.0, 4.0, 5.0, 6.0), "Content": (12.0, 17.0, 22.0, 27.0, 32.0, 40.0)}
DEFAULTS = {"Adaptive": 3.0, "Content": 27.0}
Found = tuple[list[Transition], dict[str, Any]]
"""Changes that a detector found, and seconds of all cores: `all`, decoding included; of ours also `measuring` alone."""


def measure_shots(args: argparse.Namespace, tell: Callable[[str], None]) -> dict[str, Any]:
    """Composes reels from the clips of `args.clips` and looks for their changes; then those of the clips themselves."""
    library = _scenedetect()
    paths = clips_in(args.clips)[: args.limit]
    shots = load_shots(paths)
    tell(f"  {len(shots)} shots to compose from")
    detectors = _detectors()
    found: dict[str, list[Found]] = {name: [] for name in detectors}
    reels: list[Reel] = []
    with tempfile.TemporaryDirectory(prefix="tokenreel-") as folder:
        for number in range(args.reels):
            reels.append(write_reel(Path(folder) / f"{number}.mp4", shots, number, SHOTS))
            for name, detect in detectors.items():
                found[name].append(detect(reels[-1].path))
            tell(f"  reel {number + 1}/{args.reels}: {len(reels[-1].changes)} changes in {reels[-1].frames} frames")
    methods = {name: _summary(reels, each) for name, each in found.items()}
    best = {kind: max(_of(kind), key=lambda name: methods[name]["f1"]) for kind in THRESHOLDS}
    clips = []
    for path in paths:
        clips.append(_whole_clip(path, {name: detectors[name] for name in (OURS, ALONE, *_defaults(), *best.values())}))
        tell(f"  {_line(clips[-1])}")
    return {
        "weights": {path.stem: file_digest(path) for path in [WEIGHTS / "shots.safetensors"]},
        "peer": f"PySceneDetect {library.__version__}",
        "settings": {"reels": args.reels, "shots": SHOTS, "tolerance": TOLERANCE, "clips_composed_from": len(shots)},
        "changes": sum(len(reel.changes) for reel in reels),
        "kinds": {kind: sum(each.kind == kind for reel in reels for each in reel.changes) for kind in _KINDS},
        "negatives": {kind: sum(each[2] == kind for reel in reels for each in reel.negatives) for kind in NEGATIVES},
        "frames": sum(reel.frames for reel in reels),
        "methods": methods,
        "defaults": _defaults(),
        "best": best,
        "clips": clips,
    }


_KINDS = ("cut", "dissolve", "fade")


def _of(kind: str) -> list[str]:
    return [f"PySceneDetect {kind} {threshold:g}" for threshold in THRESHOLDS[kind]]


def _defaults() -> list[str]:
    return [f"PySceneDetect {kind} {threshold:g}" for kind, threshold in DEFAULTS.items()]


def _scenedetect() -> Any:
    try:
        import scenedetect
    except ImportError as error:
        raise ValueError('PySceneDetect is missing. Install it with pip install "tokenreel[bench]".') from error
    return scenedetect


def _detectors() -> dict[str, Callable[[Path], Found]]:
    """Every detector by name: a function from a file to what it finds."""
    detectors: dict[str, Callable[[Path], Found]] = {
        OURS: lambda path: _ours(path, MotionMeter()),
        ALONE: lambda path: _ours(path, MotionMeter(None)),
    }
    for kind, thresholds in THRESHOLDS.items():
        for name, threshold in zip(_of(kind), thresholds, strict=True):
            detectors[name] = lambda path, kind=kind, threshold=threshold: _theirs(path, kind, threshold)
    return detectors


def _ours(path: Path, meter: MotionMeter) -> Found:
    started, measuring, frames = time.process_time(), 0.0, 0
    with VideoReader(path, strict=False) as reader:
        for chunk in reader.chunks():
            decoded = time.process_time()
            meter.update(chunk.frames)
            measuring, frames = measuring + time.process_time() - decoded, frames + len(chunk.pts)
        size = [reader.info.width, reader.info.height]
    decoded = time.process_time()
    changes = list(meter.transitions)
    ended = time.process_time()
    costs = {"all": ended - started, "measuring": measuring + ended - decoded, "frames": frames, "size": size}
    return changes, costs


def _theirs(path: Path, kind: str, threshold: float) -> Found:
    library = _scenedetect()
    detector = getattr(library, f"{kind}Detector")(threshold)
    started = time.process_time()
    scenes = library.detect(str(path), detector)
    cuts = [begin.frame_num for begin, _ in scenes[1:]]
    return [Transition(cut, cut - 1, "cut") for cut in cuts], {"all": time.process_time() - started}


def _summary(reels: Sequence[Reel], found: Sequence[Found]) -> dict[str, Any]:
    """F1, precision and recall over all reels; of each kind how many were found and named right; false alarms."""
    total, seen = Agreement(), dict.fromkeys(_KINDS, 0)
    named, counted, right = 0, {"cut": 0, "gradual": 0}, {"cut": 0, "gradual": 0}
    alarms: dict[str, int] = dict.fromkeys(NEGATIVES, 0)
    for reel, (changes, _) in zip(reels, found, strict=True):
        places = [place(each) for each in changes]
        total += Agreement.of(reel.changes, places, TOLERANCE)
        matched = match(reel.changes, places, TOLERANCE)
        for truth, number in zip(reel.changes, matched, strict=True):
            if number is not None:
                seen[truth.kind] += 1
                named += truth.kind == changes[number].kind
        for number, each in enumerate(changes):
            group = "cut" if each.kind == "cut" else "gradual"
            counted[group] += 1
            right[group] += number in matched
        wrong = [each for number, each in enumerate(places) if number not in matched]
        for first, last, kind in reel.negatives:
            alarms[kind] += any(first - 1 <= each <= last + 2 for each in wrong)
    kinds = {kind: sum(each.kind == kind for reel in reels for each in reel.changes) for kind in _KINDS}
    frames = sum(reel.frames for reel in reels)
    return {
        "f1": total.f1,
        "precision": total.precision,
        "recall": total.recall,
        "recall_by_kind": {kind: seen[kind] / max(1, kinds[kind]) for kind in _KINDS},
        "precision_by_kind": {group: right[group] / counted[group] if counted[group] else None for group in counted},
        "kind_accuracy": named / max(1, total.found),
        "false": total.false,
        "false_at": alarms,
        "ms_per_frame": 1000 * sum(costs["all"] for _, costs in found) / max(1, frames),
    }


def _whole_clip(path: Path, detectors: dict[str, Callable[[Path], Found]]) -> dict[str, Any]:
    """What each detector misses and what it makes up, in the frames of a clip as it is.

    PySceneDetect is given a copy with the same frames: it numbers those of some files by their time, reads another
    stream of others, and cannot read some.
    """
    labels = LABELS.get(path.name, Labels())
    outcome, costs = {}, {}
    with tempfile.TemporaryDirectory(prefix="tokenreel-") as folder:
        copy = write_copy(path, Path(folder) / "copy.mp4")
        for name, detect in detectors.items():
            found, costs[name] = detect(path if name in (OURS, ALONE) else copy)
            changes = [each for each in found if not _either(place(each), labels)]
            places = [place(each) for each in changes]
            matched = match(labels.changes, places, TOLERANCE)
            outcome[name] = {
                "missed": [each.first for each, number in zip(labels.changes, matched, strict=True) if number is None],
                "false": [each for number, each in enumerate(places) if number not in matched],
            }
    return {"clip": path.name, "changes": len(labels.changes), "outcome": outcome, "cost": _cost(costs[OURS])}


def _either(frame: int, labels: Labels) -> bool:
    return any(first <= frame <= last for first, last in labels.either)


def _cost(costs: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds a frame, of all cores, of decoding, and of measuring what was decoded."""
    each = 1000 / costs["frames"]
    decoding = each * (costs["all"] - costs["measuring"])
    return {"frames": costs["frames"], "size": costs["size"], "decode_ms": decoding, "ms": each * costs["measuring"]}


def _line(clip: dict[str, Any]) -> str:
    ours = clip["outcome"][OURS]
    return f"{clip['clip']}: {clip['changes']} changes, missed {ours['missed']}, false {ours['false']}"
