"""The benchmark of both in one pass: what is compared with what, and how calls are counted."""

import numpy as np
import pytest
from PIL import Image

from tokenreel.benchmarks import upscaling_joint
from tokenreel.benchmarks.upscaling_joint import (
    AFTER,
    BEFORE,
    JOINT,
    measure_clip,
    measure_joint,
    sequences_in,
    summary,
)
from tokenreel.models.interpolator import BlendInterpolator, FlowInterpolator
from tokenreel.models.upscaler import BicubicUpscaler


@pytest.fixture
def pan(texture):
    wide = texture(97, 400)
    return [np.ascontiguousarray(wide[:, x : x + 160]) for x in range(0, 44, 4)]


def save(folder, frames):
    folder.mkdir(parents=True)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"f{index:03d}.png")


@pytest.mark.parametrize("times", [2, 4])
def test_calls_are_those_of_whole_intervals(pan, times):
    row = measure_clip(pan, times, FlowInterpolator(), BicubicUpscaler(2))
    keys = 10 // times + 1
    assert row["calls"] == {AFTER: times * keys, JOINT: keys, BEFORE: keys}
    assert row["size"] == [160, 96] and row["frames"] == (keys - 1) * (times - 1)
    assert row["gain"] == row["psnr"][JOINT] - row["psnr"][AFTER]
    assert set(row["cpu_seconds"]) == {AFTER, JOINT, BEFORE} and min(row["cpu_seconds"].values()) >= 0


def test_without_motion_both_orders_are_nearly_one(texture):
    """Cross-fades and bicubic are both linear: what is left is rounding."""
    rng = np.random.default_rng(0)
    frames = [(texture(64, 96) // 2 + 60 + rng.integers(0, 40)).astype(np.uint8) for _ in range(5)]
    row = measure_clip(frames, 2, BlendInterpolator(), BicubicUpscaler(2))
    assert abs(row["psnr"][AFTER] - row["psnr"][BEFORE]) < 0.5


def test_only_sequences_without_changes_of_shot_count(tmp_path, pan, monkeypatch, texture):
    save(tmp_path / "pan", pan)
    save(tmp_path / "short", pan[:5])
    save(tmp_path / "clips" / "cut", [*pan[:10], *(255 - texture(97, 160, seed=9) for _ in range(10))])
    save(tmp_path / "triplets" / "one", pan[:3])
    (tmp_path / "set5").mkdir()
    Image.fromarray(pan[0]).save(tmp_path / "set5" / "baby_SRF_2_HR.png")
    assert sorted(sequences_in(tmp_path)) == ["cut", "pan", "short"]

    monkeypatch.setattr(upscaling_joint, "load_interpolator", FlowInterpolator)
    monkeypatch.setattr(upscaling_joint, "load_upscaler", lambda name: BicubicUpscaler(2))
    told = []
    result = measure_joint(tmp_path, told.append)
    assert [(row["clip"], row["times"]) for row in result["clips"]] == [("pan", 2), ("pan", 4)]
    assert {each["clip"]: each["reason"] for each in result["others"]} == {"short": "5 frames", "cut": "a shot changes"}
    assert [each["calls"] for each in result["summary"]] == [1 / 2, 1 / 4]
    assert result["summary"][0]["gain"] == result["clips"][0]["gain"] and len(told) == 2


def test_medians():
    rows = [
        {"times": times, "gain": gain, "calls": {JOINT: 1, AFTER: times}, "cpu_seconds": {JOINT: gain, AFTER: 1}}
        for times in (2, 4)
        for gain in (1, 2, 6)
    ]
    assert summary(rows, 4) == {"times": 4, "clips": 3, "gain": 2, "calls": 0.25, "cpu_seconds": 2}


def test_an_empty_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(upscaling_joint, "load_interpolator", FlowInterpolator)
    monkeypatch.setattr(upscaling_joint, "load_upscaler", lambda name: BicubicUpscaler(2))
    with pytest.raises(ValueError, match=r"No clips in .* --sets DIR"):
        measure_joint(tmp_path, print)
