"""The README's table of sampling."""

from __future__ import annotations

from typing import Any

from .markdown import origin, table

_KINDS = {
    "clip": "clips as they are",
    "frozen + moving": "a frozen scene, then a moving one",
    "static camera + moving": "a scene that hardly moves, then a moving one",
}


def sampling_table(result: dict[str, Any]) -> str:
    """What choosing by motion gains over even spacing, then each clip."""
    return "\n\n".join([_gains(result), _explained(result), _each_clip(result), origin(result)])


def _gains(result: dict[str, Any]) -> str:
    rows = []
    for kind, called in _KINDS.items():
        if kind not in result["summary"]:
            continue
        found = result["summary"][kind]
        for method in result["settings"]["interpolators"]:
            whole, frames = found[method]["psnr"], found[method]["psnr_frames"]
            rows.append(
                [
                    f"{called} ({found['clips']}), {method}",
                    f"{whole['motion']:.2f}",
                    f"{whole['uniform']['psnr']:.2f}",
                    _three(whole["uniform"]),
                    _three(whole["with_last"]),
                    _three(frames["uniform"]),
                ]
            )
    head = [
        "restored by",
        "motion, dB",
        "uniform, dB",
        "gain: mean / median / least",
        "over even with the last frame",
        "gain in the mean of frames",
    ]
    return table(head, rows)


def _three(numbers: dict[str, float]) -> str:
    return " / ".join(f"{numbers[key]:+.2f}" for key in ("gain_mean", "gain_median", "gain_min"))


def _explained(result: dict[str, Any]) -> str:
    s = result["settings"]
    same = sum(clip["same_plan"] for clip in result["clips"])
    return (
        f"One frame in {s['keep']} is kept, exactly as many by both; all frames are restored from them and compared "
        f"with the source. Clips that nothing was trained on, the first {s['frames']} frames at most, centre "
        f"{s['size']}x{s['size']} pixels; scenes of composites last {s['scene_seconds']} s. RGB PSNR of the mean "
        "squared error of all frames; beside it the mean of the frames' PSNR, where equal frames, the kept ones above "
        f"all, count as 100 dB. On {same} of {len(result['clips'])} motion promised too little and frames were spaced "
        "evenly. The settings of the sampler were chosen while looking at these clips, restored by linear blends."
    )


def _each_clip(result: dict[str, Any]) -> str:
    methods = result["settings"]["interpolators"]
    rows = [
        [
            f"{clip['clip']}{'' if clip['kind'] == 'clip' else ' (' + clip['kind'] + ')'}",
            f"{clip['kept']} of {clip['frames']}",
            *(_with_gain(clip[each]) for each in methods),
        ]
        for clip in result["clips"]
    ]
    head = ["clip", "frames kept", *(f"{method}: dB (gain)" for method in methods)]
    return f"<details><summary>Each clip</summary>\n\n{table(head, rows)}\n\n</details>"


def _with_gain(plans: dict[str, Any]) -> str:
    motion = plans["motion"]["psnr"]
    return f"{motion:.2f} ({motion - plans['uniform']['psnr']:+.2f})"
