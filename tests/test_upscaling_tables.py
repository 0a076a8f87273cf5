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


@pytest.mark.parametrize("parts", [{}, {"stills": STILLS}, {"stills": STILLS, "joint": JOINT}])
def test_every_part_may_be_missing(parts):
    _, text = rows_of(parts)
    assert text.endswith("</sub>") and "upscaler_x2_m 01234567" in text
