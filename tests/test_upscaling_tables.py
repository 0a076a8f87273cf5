"""The upscaler's tables say what the results say."""

import pytest

from tokenreel.benchmarks.upscaling_tables import upscaling_table

ORIGIN = {
    "date": "2026-11-23",
    "version": "0.1.0",
    "weights": {"upscaler_x2_m": "0123456789"},
    "torch": "2",
    "libraries": "PyAV",
    "machine": {"cores": 2, "cpu": "some"},
}
STILLS = [
    {
        "scale": 2,
        "method": "x2-m",
        "pictures": {"Set5": 5},
        "psnr_y": {"Set5": 37.125},
        "cpu_seconds_per_megapixel": 6.1,
    }
]
JOINT = {
    "engine": "x2-m",
    "clips": [
        {
            "clip": "ball",
            "size": [416, 240],
            "frames": 15,
            "times": 2,
            "gain": 0.5,
            "psnr": {"after": 30.0, "joint": 30.5, "before": 31.0},
            "calls": {"after": 16, "joint": 8, "before": 8},
            "cpu_seconds": {"after": 10.0, "joint": 6.0, "before": 9.0},
        }
    ],
    "others": [{"clip": "film", "reason": "a shot changes"}],
    "summary": [{"times": 2, "clips": 1, "gain": 0.5, "calls": 0.5, "cpu_seconds": 0.6}],
}
ROW = {"computed_fraction": 0.12, "lost": 0.04, "to_core": 0.151, "to_whole": 0.2}
REUSE = {
    "engine": "x2-m",
    "threshold": 1.5,
    "static_share": 0.25,
    "threads": 1,
    "clips": [
        {
            "clip": "a.mp4",
            "size": [320, 180],
            "frames": 9,
            "changed": 0.1,
            "static": True,
            "psnr": {"whole": 40},
            **ROW,
        },
    ],
    "others": [{"clip": "b.mp4", "reason": "empty"}],
    "summary": {"static": {"clips": 1, **ROW}, "moving": {"clips": 0}},
}
RUN = {"frames": 360, "source_frames": 360, "computed_fraction": 0.1, "seconds": 72.0}
MEMORY = {
    "size": [1280, 720],
    "engine": "x2-m",
    "runs": [
        {"minutes": 0.25, "peak_rss_bytes": 800e6, **RUN},
        {"minutes": 1, "peak_rss_bytes": 808e6, **RUN},
    ],
    "growth": 1.01,
    "image_bytes": 79.6e9,
}
FLICKER = {
    "stills": [{"clip": "a.mp4", "noise": 2.0}],
    "summary": [{"noise": 2.0, "whole": 1.5, "reuse": 0.3, "ratio": 0.2, "computed_fraction": 0.05}],
}


def rows_of(result):
    text = upscaling_table({**ORIGIN, **result})
    return [line for line in text.splitlines() if line.startswith("| ")], text


def test_stills():
    rows, text = rows_of({"stills": STILLS})
    assert rows[-1] == "| x2 | x2-m | 37.12 | 6.10 |" and "Set5 5" in text


def test_one_pass():
    rows, text = rows_of({"joint": JOINT})
    assert rows[2] == "| ball (15 of 416x240) | x2 | 30.00 | 30.50 | 31.00 | +0.50 | 0.50x | 0.60x |"
    assert rows[3] == "| **median of 1** | x2 |  |  |  | +0.50 | 0.50x | 0.60x |"
    assert "*joint* beside *after*" in text and "Left out: film (a shot changes)." in text


def test_reuse():
    rows, text = rows_of({"reuse": REUSE})
    assert rows[2] == "| a.mp4 (9 of 320x180) | 10.0 % | 40.00 | 12.0 % | +0.04 | 0.15x | 0.20x |"
    assert rows[3] == "| **median of 1** |  |  | 12.0 % | +0.04 | 0.15x | 0.20x |"
    assert "| moving |" not in text and "1.5 grey levels" in text and "one thread. Could not be used: b.mp4." in text


def test_memory():
    rows, text = rows_of({"memory": MEMORY})
    assert rows[2] == "| 0.25 min, 360 frames | 800 | 10.0 % | 200 |"
    assert "1.010x the memory" in text and "80 GB" in text


def test_flicker():
    rows, text = rows_of({"flicker": FLICKER})
    assert rows[-1] == "| 2 | 1.50 | 0.30 | 0.20x | 5.0 % |" and "of 1 stills" in text


@pytest.mark.parametrize("parts", [{}, {"stills": STILLS}, {"stills": STILLS, "joint": JOINT, "reuse": REUSE}])
def test_every_part_may_be_missing(parts):
    _, text = rows_of(parts)
    assert text.endswith("</sub>") and "upscaler_x2_m 01234567" in text
