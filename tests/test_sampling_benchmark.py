"""The benchmark of sampling on tiny clips, and what its table says."""

import argparse
from fractions import Fraction

import numpy as np
import pytest

from tokenreel.benchmarks import sampling
from tokenreel.benchmarks.results import _provenance
from tokenreel.benchmarks.sampling_table import sampling_table
from tokenreel.models.interpolator import BlendInterpolator
from tokenreel.video.writer import VideoWriter


@pytest.fixture(scope="module")
def folder(tmp_path_factory, request):
    """A still picture, and one that is panned over."""
    path = tmp_path_factory.mktemp("clips")
    wall = np.random.default_rng(0).integers(0, 256, (12, 40, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    for name, step in (("still.mp4", 0), ("pan.mp4", 5)):
        with VideoWriter(path / name, width=64, height=64, frame_rate=Fraction(12), lossless=True) as writer:
            writer.write(np.stack([wall[:64, step * i : step * i + 64] for i in range(24)]))
    (path / "broken.mp4").write_text("no video")
    return path


@pytest.fixture(scope="module")
def measured(folder):
    patched = pytest.MonkeyPatch()
    patched.setattr(sampling, "_interpolators", lambda: {"linear blend": BlendInterpolator()})
    told = []
    args = argparse.Namespace(clips=str(folder), limit=None, frames=24, size=64)
    result = sampling.measure_sampling(args, told.append)
    patched.undo()
    return result, told


def test_clips_and_composites(measured):
    result, told = measured
    kinds = [(clip["clip"], clip["kind"], clip["frames"]) for clip in result["clips"]]
    assert kinds == [
        ("pan.mp4", "clip", 24),
        ("still.mp4", "clip", 24),
        ("still.mp4 + pan.mp4", "frozen + moving", 48),
        ("still.mp4 + pan.mp4", "static camera + moving", 48),
    ]
    assert [each["clip"] for each in result["refused"]] == ["broken.mp4"]
    assert all(any(clip["clip"] in line for line in told) for clip in result["clips"])


def test_frames_go_to_the_moving_scene(measured):
    _, still, frozen, _ = measured[0]["clips"]
    assert still["same_plan"] and sampling.gain(still, "linear blend") == 0
    assert still["linear blend"]["motion"]["psnr_frames"] == 100
    assert sampling.gain(frozen, "linear blend") > 1 and sampling.gain(frozen, "linear blend", "psnr_frames") > 1


def test_plans_keep_equal_numbers(folder):
    from tokenreel.sampling import look_over
    from tokenreel.video.clips import VideoClip

    with VideoClip(folder / "pan.mp4") as clip:
        look = look_over(clip)
    for count in (1, 2, 7, 24):
        found = sampling.plans(look, count)
        assert set(found) == {"motion", *sampling.BASELINES}
        assert all(len(set(kept)) == count and kept[0] == 0 for kept in found.values())
        assert count == 1 or found["with_last"][-1] == 23


def test_summary_and_table(measured):
    result = measured[0]
    gains = [sampling.gain(clip, "linear blend") for clip in result["clips"] if clip["kind"] == "clip"]
    told = result["summary"]["clip"]["linear blend"]["psnr"]["uniform"]
    assert told["gain_mean"] == pytest.approx(np.mean(gains)) and told["gain_min"] == min(gains)
    text = sampling_table({**_provenance(), **result})
    assert "| clips as they are (2), linear blend |" in text and "still.mp4 + pan.mp4 (frozen + moving)" in text
    assert f"/ {told['gain_min']:+.2f} |" in text


def test_no_clips(tmp_path):
    with pytest.raises(ValueError, match="no folder"):
        sampling.measure_sampling(argparse.Namespace(clips=str(tmp_path / "none"), limit=None), print)
    (tmp_path / "a.mp4").write_text("nothing")
    with pytest.raises(ValueError, match="None of the clips"):
        sampling.measure_sampling(argparse.Namespace(clips=str(tmp_path), limit=None, size=64, frames=9), print)
