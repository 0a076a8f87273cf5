"""What interpolating costs, measured on small clips; and the tables made of it."""

import argparse
from fractions import Fraction

import numpy as np
import pytest
import torch

from tokenreel.benchmarks import interpolation, interpolation_cost
from tokenreel.benchmarks.interpolation import measure_interpolation
from tokenreel.benchmarks.interpolation_cost import (
    double_long,
    draw_long,
    measure_drift,
    measure_long,
    measure_static,
    time_clip,
)
from tokenreel.benchmarks.interpolation_tables import interpolation_table
from tokenreel.models.interpolator import IFNet, InterpolatorConfig, NetInterpolator
from tokenreel.video.writer import VideoWriter


def net(widths=(8, 8, 8, 8, 8)):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NetInterpolator(IFNet(InterpolatorConfig(4, widths)), started=False)


@pytest.fixture
def still(texture):
    """uint8 frames [5, 256, 320, 3] in which a small square moves."""
    frames = np.repeat(texture(256, 320)[None], 5, 0)
    for index in range(5):
        frames[index, 40:56, 40 + 8 * index : 56 + 8 * index] = 250
    return frames


@pytest.fixture
def clips(tmp_path, still, texture):
    for name, frames in (("still", still), ("moving", [np.roll(still[0], 5 * k, 1) for k in range(5)])):
        with VideoWriter(tmp_path / f"{name}.mp4", width=320, height=256, frame_rate=Fraction(24), crf=12) as writer:
            writer.write(np.stack(frames))
    (tmp_path / "text.mp4").write_text("no video")
    return sorted(tmp_path.iterdir())


def test_time_of_a_clip(still):
    found = time_clip(list(still), net(), net((16, 16, 16, 16, 16)))
    assert found["pairs"] == 4 and found["size"] == [320, 256]
    assert 0 < found["computed_fraction"] < 0.5
    assert found["ratio"] < 0.8 and all(found["seconds_per_megapixel"].values())
    assert found["psnr"]["regions"] > 30


def test_all_clips_of_a_static_camera(clips, monkeypatch):
    monkeypatch.setattr(interpolation_cost, "load_interpolator", net)
    found = measure_static(clips, lambda line: None)
    assert [clip["clip"] for clip in found["clips"]] == ["still.mp4"]
    assert {each["clip"] for each in found["others"]} == {"moving.mp4", "text.mp4"}
    assert torch.get_num_threads() > 0


def test_no_static_camera(clips, monkeypatch):
    monkeypatch.setattr(interpolation_cost, "load_interpolator", net)
    with pytest.raises(ValueError, match="In none of the 1 clips a camera stands still"):
        measure_static([path for path in clips if path.name == "moving.mp4"], lambda line: None)


def test_time_is_kept():
    rows = measure_drift(lambda line: None, frames=7)
    assert len(rows) == 30
    assert all(abs(row["off_by_frames"]) <= 0.5 for row in rows)
    assert {row["core_off_by_frames"] for row in rows if row["asked"] == "8x"} == {-7.0}


def test_a_long_clip_is_doubled(monkeypatch, tmp_path):
    monkeypatch.setattr(interpolation_cost, "LONG_SIZE", (160, 416))
    path = str(tmp_path / "long.mp4")
    assert draw_long(path, 0.02) == 29
    found = double_long(path)
    assert found["frames"] == 58 and found["computed_fraction"] < 1 and found["peak_rss_bytes"] > 20e6


def test_memory(no_processes):
    """The processes are replaced: what they do is tested above."""
    ran = []

    def submit(work, path, *arguments):
        minutes = arguments[0] if arguments else None
        return minutes if work is draw_long else {"frames": 20, "peak_rss_bytes": 100 + len(ran)}

    no_processes(interpolation_cost, submit, opened=lambda: ran.append(1))
    found = measure_long(lambda line: None, (1, 10))
    assert len(ran) == 4 and found["growth"] == 104 / 102
    assert found["image_bytes"] == (10 + 20) * 1280 * 720 * 12


class TestParts:
    def arguments(self, **given):
        return argparse.Namespace(**{"parts": None, "sets": None, "clips": None, "limit": None, **given})

    @pytest.fixture
    def quick(self, monkeypatch):
        monkeypatch.setattr(interpolation, "measure_long", lambda tell: "long")
        monkeypatch.setattr(interpolation, "measure_drift", lambda tell: "drift")
        monkeypatch.setattr(interpolation, "file_digest", lambda path: "0" * 64)
        monkeypatch.setattr("tokenreel.benchmarks.results.read_result", lambda name: {"static": "before", "date": "x"})

    def test_those_that_were_measured_before_stay(self, quick):
        found = measure_interpolation(self.arguments(), print)
        assert found == {
            "weights": {"interpolator": "0" * 64},
            "static": "before",
            "memory": "long",
            "drift": "drift",
        }

    def test_only_those_that_are_named(self, quick):
        assert "memory" not in measure_interpolation(self.arguments(parts=["drift"]), print)

    def test_a_folder_that_is_missing(self, quick):
        with pytest.raises(ValueError, match=r"Part 'quality' needs a folder\. Name it with --sets DIR"):
            measure_interpolation(self.arguments(parts=["quality"]), print)


def test_table():
    result = {
        "quality": {"a": {"frames": 2, "size": [8, 8], "psnr": {"net": 30.0}, "seconds_per_megapixel": {"net": 1.0}}},
        "static": {
            "static_share": 0.25,
            "others": [{"clip": "b", "changed": 0.9}, {"clip": "c", "reason": "broken"}],
            "clips": [
                {
                    "clip": "d",
                    "size": [8, 8],
                    "changed": 0.02,
                    "computed_fraction": 0.1,
                    "seconds_per_megapixel": {"regions": 0.2, "whole": 1.0, "core": 2.0},
                    "ratio": 0.2,
                    "ratio_to_core": 0.1,
                    "psnr": {"regions": 40.0, "whole": 40.5},
                }
            ],
        },
        "memory": {
            "size": [1280, 720],
            "growth": 1.01,
            "image_bytes": 3e9,
            "runs": [{"minutes": 1, "source_frames": 3, "frames": 6, "seconds": 1.2, "peak_rss_bytes": 4e8}],
        },
        "drift": [{"source": "24", "asked": "2x", "frames": 4, "off_by_frames": 0.0, "core_off_by_frames": -1.0}],
        "machine": {"cores": 2, "cpu": "x"},
        "weights": {},
        "date": "today",
        "version": "1",
        "torch": "2",
        "libraries": "y",
    }
    text = interpolation_table(result)
    assert "| a (2 of 8x8) | 30.00 |" in text
    assert "| d, 8x8 | 2.0 % | 10.0 % | 0.20 | 1.00 | 2.00 | 0.20x | 0.10x | 40.00 / 40.50 |" in text
    assert "in the other 1 more does" in text
    assert "| 1 min, 3 frames to 6 | 400 | 200 |" in text
    assert "| core | -1.00 |" in text
    assert "40.00" not in interpolation_table({**result, "static": result["static"] | {"clips": []}})
