"""Compositions say truly what is in them, and the shot net trains and resumes on a pack of a few tiny clips."""

import re
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tokenreel.models.checkpoint import load_checkpoint, load_shot_net, read_metadata
from tokenreel.models.shot_net import CLASSES, ShotNetConfig
from tokenreel.training import shot_clips, shots, transitions
from tokenreel.training.shot_clips import HELD_OUT, ThumbnailPack, takes_of_clip
from tokenreel.video.writer import VideoWriter


@pytest.fixture
def pack(tmp_path, texture):
    """Seven takes of slow pans, one of them held out."""
    clips = {}
    for seed in range(7):
        scene = texture(36, 64 + 40, seed)
        clips[f"clip{seed}#0"] = np.stack([scene[:, i : i + 64] for i in range(40)])
    save_file(clips, tmp_path / "shots.pack")
    return tmp_path / "shots.pack"


@pytest.fixture
def composed(pack):
    takes = ThumbnailPack(pack)
    return [transitions.compose(takes, np.random.default_rng(seed), 160) for seed in range(24)]


class TestCompositions:
    def test_shapes_and_ranges(self, composed):
        for each in composed:
            assert each.frames.shape == (160, 27, 48, 3) and each.labels.shape == each.weights.shape == (160, 4)
            assert each.frames.min() >= 0 and each.frames.max() <= 255 and np.isfinite(each.frames).all()
            assert set(np.unique(each.labels)) <= {0, 1} and set(np.unique(each.weights)) <= {0, 1}

    def test_every_class_occurs(self, composed):
        assert (sum(each.labels.sum(0) for each in composed) > 10).all()

    def test_equal_seeds_give_equal_ones(self, pack):
        one, two, other = (transitions.compose(ThumbnailPack(pack), np.random.default_rng(s), 90) for s in (3, 3, 4))
        assert np.array_equal(one.frames, two.frames) and np.array_equal(one.labels, two.labels)
        assert not np.array_equal(one.frames, other.frames)

    def test_cuts_are_where_the_picture_changes(self, composed):
        at, elsewhere = [], []
        for each in composed:
            change = np.abs(np.diff(each.frames, axis=0)).mean((1, 2, 3))
            counts = each.weights[1:, 0] > 0
            at += change[counts & (each.labels[1:, 0] > 0)].tolist()
            elsewhere += change[counts & (each.labels[1:].max(-1) == 0) & (each.labels[:-1].max(-1) == 0)].tolist()
        assert len(at) > 10 and np.median(at) > 4 * np.median(elsewhere)

    def test_labels_lie_within_the_changes(self, composed):
        for each in composed:
            allowed = np.zeros((160, 3), bool)
            for first, last, kind in each.changes:
                allowed[max(0, first) : max(first, last) + 1, kind] = True
            assert not (each.labels[:, :3] > allowed).any()

    def test_time_goes_on(self):
        for seed in range(40):
            index = transitions._frame_map(np.random.default_rng(seed), 50)
            assert index[0] == 0 and (np.diff(index) >= 0).all() and np.diff(index).max() <= 3

    def test_what_hardly_shows_counts_nothing(self):
        still = transitions.Composition(np.full((20, 27, 48, 3), 90, np.float32), changes=[(10, 9, 0)])
        transitions._mark(still)
        assert still.labels[10, 0] == 1 and still.weights[10].max() == 0 and still.weights[0].min() == 1
        still.frames[10:] += 40
        still.weights[:] = 1
        transitions._mark(still)
        assert still.weights.min() == 1


class TestPack:
    def test_held_out_names_are_others(self, pack):
        trained, held = ThumbnailPack(pack), ThumbnailPack(pack, held_out=True)
        assert held.names == [f"clip{HELD_OUT - 1}#0"] and len(trained.names) == 6
        assert not set(trained.names) & set(held.names)

    def test_built_from_files(self, tmp_path, texture, monkeypatch):
        (tmp_path / "clips").mkdir()
        scene = texture(60, 150, 0)
        for name in ("a.mp4", "b.mp4", "c.mp4"):
            with VideoWriter(tmp_path / "clips" / name, width=90, height=60, frame_rate=Fraction(24)) as writer:
                writer.write(np.stack([scene[:, i : i + 90] for i in range(30)]))
        arguments = ["--split", "a:12", "--leave-out", "c", "--out", str(tmp_path / "p.pack")]
        monkeypatch.setattr("sys.argv", ["shot_clips", str(tmp_path / "clips"), *arguments])
        shot_clips.main()
        made = ThumbnailPack(tmp_path / "p.pack")
        assert {name: len(clip) for name, clip in made.clips.items()} == {"a#0": 12, "a#1": 18, "b#0": 30}
        assert made.clips["a#0"].shape[1:] == (36, 64, 3)
        plain, worn = (takes_of_clip(tmp_path / "clips" / "a.mp4", wear=wear)[0] for wear in (False, True))
        assert 0 < np.abs(plain.astype(int) - worn).mean() < 12

    def test_empty(self, tmp_path):
        save_file({}, tmp_path / "none.pack")
        with pytest.raises(ValueError, match="No clips in"):
            ThumbnailPack(tmp_path / "none.pack")


class TestLoop:
    def test_two_steps_and_two_more(self, pack, tmp_path, monkeypatch, capsys):
        seconds = iter(range(0, 100_000, 10))
        monkeypatch.setattr(shots, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
        tiny = ShotNetConfig(offsets=(1, 2), features=(4, 4, 4), width=16, dilations=(1,))
        monkeypatch.setattr(shots, "ShotNetConfig", lambda: tiny)
        out, state = tmp_path / "out.safetensors", tmp_path / "run.state"
        given = {"pack": pack, "out": out, "state": state, "every": 1, "batch": 2, "length": 40, "device": "cpu"}

        def run(minutes):
            flags = [
                part for name, value in (given | {"minutes": minutes}).items() for part in (f"--{name}", str(value))
            ]
            monkeypatch.setattr("sys.argv", ["shots", *flags])
            shots.main()
            return capsys.readouterr().out

        printed = run(0.4)
        first = load_shot_net(out).state_dict()
        printed += run(0.75)
        assert re.findall(r"step (\d+)", printed) == ["1", "2", "3", "4"]
        assert all(0 < float(loss) < 10 for loss in re.findall(r"loss ([\d.]+)", printed))
        second = load_shot_net(out).state_dict()
        assert any(not torch.equal(first[key], second[key]) for key in first)
        assert run(0.75) == "" and read_metadata(out)["kind"] == "shot_net"
        assert load_checkpoint(out, "shot_net").config == tiny

    def test_frames_without_weight_do_not_count(self):
        logits, labels, weights = torch.zeros(1, 6, 4), torch.zeros(1, 6, 4), torch.ones(1, 6, 4)
        logits[0, 3] = 9.0
        weights[0, 3] = 0
        even = shots.loss_of(torch.zeros(1, 6, 4), labels, weights)
        assert torch.allclose(shots.loss_of(logits, labels, weights), even)
        labels[0, 0, CLASSES.index("cut")] = 1
        assert shots.loss_of(logits, labels, weights) > even
