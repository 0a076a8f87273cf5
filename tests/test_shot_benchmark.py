"""Reels hold what they say, and the benchmark of shots counts right; with small made-up shots."""

import sys
from fractions import Fraction

import numpy as np
import pytest
from benchmark_arguments import arguments

from tokenreel.benchmarks import results, shot_reels, shots, tables
from tokenreel.benchmarks.arguments import run_benchmarks
from tokenreel.benchmarks.shot_labels import LABELS, Labels
from tokenreel.benchmarks.shot_reels import load_shots, write_reel
from tokenreel.models.checkpoint import WEIGHTS, file_digest
from tokenreel.models.shots import Transition
from tokenreel.video.reader import VideoReader
from tokenreel.video.writer import VideoWriter


@pytest.fixture(scope="module")
def takes():
    """Five still pictures of different colours, each with a small moving part."""
    made = []
    for seed, colour in enumerate(((200, 40, 40), (40, 200, 40), (40, 40, 200), (230, 230, 230), (25, 25, 25))):
        frames = np.full((90, 180, 320, 3), colour, np.uint8)
        frames[:, ::8] = np.random.default_rng(seed).integers(0, 256, (320, 3))
        for i in range(90):
            frames[i, 90:100, 100 + i : 120 + i] = 255 - np.array(colour)
        made.append(frames)
    return made


@pytest.fixture(scope="module")
def reels(takes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reels")
    return [write_reel(folder / f"{seed}.mp4", takes, seed, count=6) for seed in range(4)]


def frames_of(path):
    with VideoReader(path) as reader:
        return np.concatenate([chunk.frames for chunk in reader.chunks()]).astype(float)


class TestReels:
    def test_changes_are_where_they_are_said_to_be(self, reels):
        kinds = set()
        for reel in reels:
            frames = frames_of(reel.path)
            assert len(frames) == reel.frames and len(reel.changes) == 5
            motion = np.r_[0, np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))]
            for each in reel.changes:
                kinds.add(each.kind)
                before, after = frames[each.first - 1], frames[each.begins]
                assert np.abs(after - before).mean() > 8
                if each.kind == "cut":
                    assert motion[each.first] > 8
                else:
                    assert each.last - each.first >= 3 and motion[each.first : each.begins + 1].min() >= 0
                    middle = frames[(each.first + each.last) // 2]
                    assert min(np.abs(middle - before).mean(), np.abs(middle - after).mean()) > 2
            quiet = np.ones(reel.frames, bool)
            quiet[0] = False
            for first, last in [(c.first, c.begins) for c in reel.changes] + [(a, b + 1) for a, b, _ in reel.negatives]:
                quiet[first : last + 1] = False
            assert motion[quiet].max() < 6
        assert kinds == {"cut", "dissolve", "fade"}

    def test_what_is_no_change_lies_within_shots(self, reels):
        assert sum(len(reel.negatives) for reel in reels) >= 4
        for reel in reels:
            for first, last, kind in reel.negatives:
                assert kind in shot_reels.NEGATIVES and last < reel.frames
                assert all(last + 2 < change.first or change.begins + 2 < first for change in reel.changes)

    def test_same_seed_same_reel(self, takes, reels, tmp_path):
        again = write_reel(tmp_path / "again.mp4", takes, 1, count=6)
        assert again.changes == reels[1].changes and again.negatives == reels[1].negatives
        assert again.path.read_bytes() == reels[1].path.read_bytes()

    def test_copies_hold_the_same_frames(self, takes, tmp_path):
        with VideoWriter(tmp_path / "a.mp4", width=320, height=180, frame_rate=Fraction(25)) as writer:
            for i in range(6):  # frames that are shown for longer and longer
                writer.write(takes[0][10 * i : 10 * i + 1], [i * i])
        copy = shot_reels.write_copy(tmp_path / "a.mp4", tmp_path / "b.mp4")
        original, copied = frames_of(tmp_path / "a.mp4"), frames_of(copy)
        assert len(original) == len(copied) == 6 and np.abs(original - copied).mean() < 6

    def test_shots_of_labelled_clips(self, takes, tmp_path, monkeypatch):
        path = tmp_path / "two.mp4"
        with VideoWriter(path, width=320, height=180, frame_rate=Fraction(25)) as writer:
            writer.write(np.concatenate([takes[0][:50], takes[1][:60], takes[2][:20]]))
        monkeypatch.setitem(LABELS, "two.mp4", Labels((Transition(50, 49, "cut"),), either=((110, 129),)))
        first, second = load_shots([path])
        assert len(first) == 48 and len(second) == 58
        assert np.abs(first[-1].astype(int) - takes[0][48]).mean() < 25
        assert np.abs(second[0].astype(int) - takes[1][1]).mean() < 25
        monkeypatch.setitem(LABELS, "two.mp4", Labels(composed=False))
        with pytest.raises(ValueError, match="At least two are needed"):
            load_shots([path])


def test_labels_leave_out_changes():
    labels = Labels((Transition(10, 9, "cut"), Transition(20, 24, "dissolve")), either=((0, 3),))
    assert labels.shots(40) == [(4, 10), (10, 20), (25, 40)]


class TestSummary:
    def test_counts(self, tmp_path):
        reel = shot_reels.Reel(
            tmp_path, [Transition(30, 29, "cut"), Transition(60, 69, "dissolve")], [(45, 46, "flash")]
        )
        reel.frames = 100
        found = [Transition(31, 30, "cut"), Transition(45, 44, "cut"), Transition(65, 64, "cut")]
        summary = shots._summary([reel], [(found, {"all": 0.2})])
        assert summary["f1"] == pytest.approx(0.8) and summary["recall_by_kind"] == {"cut": 1, "dissolve": 1, "fade": 0}
        assert summary["precision_by_kind"] == {"cut": pytest.approx(2 / 3), "gradual": None}
        assert summary["kind_accuracy"] == 0.5 and summary["false_at"]["flash"] == 1
        assert summary["ms_per_frame"] == pytest.approx(2)


class TestCommand:
    def test_without_the_library(self, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, "scenedetect", None)
        with pytest.raises(ValueError, match=r"tokenreel\[bench\]"):
            run_benchmarks(arguments("shots", "--clips", tmp_path), print)

    def test_a_small_run(self, takes, tmp_path, monkeypatch):
        pytest.importorskip("scenedetect")
        monkeypatch.setattr(shots, "SHOTS", 6)
        monkeypatch.setattr(shots, "THRESHOLDS", {"Adaptive": (2.0, 3.0), "Content": (27.0,)})
        for name, parts in {"one": takes[:1], "two": takes[1:3], "three": takes[3:]}.items():
            with VideoWriter(tmp_path / f"{name}.mp4", width=320, height=180, frame_rate=Fraction(25)) as writer:
                writer.write(parts[0])
        found = run_benchmarks(arguments("shots", "--clips", tmp_path, "--reels", 1), lambda line: None)
        result = found["results"]["shots"]
        assert result["changes"] == 5 and result["methods"][shots.OURS]["f1"] > 0.7
        assert [clip["changes"] for clip in result["clips"]] == [0, 0, 0]
        best = result["best"]["Adaptive"]
        assert all(result["methods"][best]["f1"] >= result["methods"][name]["f1"] for name in shots._of("Adaptive"))
        assert "| **TokenReel** |" in found["table"] and f"| {best} (" in found["table"]


def test_results_are_of_these_weights():
    result = results.read_result("shots")
    assert result is not None and result["weights"] == {"shots": file_digest(WEIGHTS / "shots.safetensors")}
    assert result["changes"] >= 300 and tables.shots_table(result)
