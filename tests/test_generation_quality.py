"""Ways to make frames are what they are said to be, and what is told of them hangs together."""

import argparse
import statistics
from fractions import Fraction

import numpy as np
import pytest
import torch

from tokenreel.benchmarks import generation_after, generation_quality
from tokenreel.benchmarks.generation_after import after_methods, best_of, copied, measure_after, moved_on, straight_on
from tokenreel.benchmarks.generation_between import (
    between_methods,
    blended,
    followed,
    held,
    measure_between,
    nearest,
)
from tokenreel.benchmarks.generation_clips import CodedClip, Pictures, Runs
from tokenreel.benchmarks.generation_quality import medians, pixels, planes, rounded, spread, summarize
from tokenreel.models.generator import GeneratorConfig, TokenGenerator
from tokenreel.models.token_filling import TokenFiller
from tokenreel.video.writer import VideoWriter


@pytest.fixture
def filler(tiny_tokenizer):
    torch.manual_seed(0)
    net = TokenGenerator(GeneratorConfig(levels=(4, 3), width=16, depth=2, heads=2)).eval()
    return TokenFiller(net, tiny_tokenizer.image)


@pytest.fixture
def pan(texture, filler):
    """A clip of 26 frames that moves by four pixels a frame; what is decoded is the source but for 5 grey levels."""
    wide = texture(64, 200)
    source = np.stack([wide[:, 4 * t : 4 * t + 64] for t in range(26)])
    tokens = Pictures(filler.image).encode(source)
    return CodedClip("pan", source, tokens, np.maximum(source, 5) - 5, ())


def plain(*values):
    """A clip of grey frames, decoded as it is."""
    source = np.array(values, np.uint8)[:, None, None, None] * np.ones((16, 16, 3), np.uint8)
    return CodedClip("plain", source, torch.zeros(len(values), 2, 2, dtype=torch.long), source, ())


def greys(frames):
    assert frames.dtype == np.uint8 and (frames == frames[:, :1, :1, :1]).all()
    return frames[:, 0, 0, 0].tolist()


class TestBetween:
    def test_simple_ways(self):
        clip = plain(7, 0, *[200] * 7, 80, 9)
        assert greys(held(clip, 1)) == [0] * 7
        assert greys(nearest(clip, 1)) == [0] * 4 + [80] * 3
        assert greys(blended(clip, 1)) == [10, 20, 30, 40, 50, 60, 70]

    def test_motion_is_followed(self, pan):
        """Of a pan the moved frames are nearly right, and no other way is."""
        runs = Runs.of(pan, [8], asked=7, closed=True)
        decibels = {make.__name__: runs.judge(make(pan, 8)[None])["all"] for make in (held, nearest, blended, followed)}
        assert decibels["followed"] > max(decibels[name] for name in ("held", "nearest", "blended")) + 5

    def test_only_known_frames_are_looked_at(self, pan, filler):
        """Whatever lies between: all ways but the ceiling give the same, and they give seven frames."""
        hidden = slice(9, 16)
        changed = CodedClip("other", *(each.copy() for each in (pan.source, pan.tokens.numpy(), pan.decoded)), ())
        for each in (changed.source, changed.tokens, changed.decoded):
            each[hidden] = each[0]
        other = CodedClip("other", changed.source, torch.from_numpy(changed.tokens), changed.decoded, ())
        for name, make in between_methods(filler, Pictures(filler.image), fewer=False).items():
            one, two = make(pan, 8), make(other, 8)
            assert one.shape == (7, 64, 64, 3) and one.dtype == np.uint8, name
            assert np.array_equal(one, two) == (name != "ceiling"), name

    def test_names(self, filler):
        names = list(between_methods(filler, Pictures(filler.image), fewer=False))
        assert names[0] == "generator" and names[-1] == "ceiling" and len(names) == 8
        fewer = list(between_methods(filler, Pictures(filler.image), fewer=True))
        assert [name for name in names if name not in fewer] == [
            "generator, drawn",
            "motion followed, as tokens",
        ]


class TestAfter:
    def test_simple_ways(self):
        clip = plain(7, 40, 50, *[99] * 8)
        assert greys(copied(clip, 2)) == [50] * 8
        assert greys(straight_on(clip, 2)) == [60, 70, 80, 90, 100, 110, 120, 130]
        assert greys(straight_on(plain(250, 253, *[0] * 8), 1)) == [255] * 8

    def test_motion_is_carried_on(self, pan):
        runs = Runs.of(pan, [8], asked=8, closed=False)
        first = {make.__name__: runs.judge_frames(make(pan, 8)[None])["all"][0] for make in (copied, moved_on)}
        assert first["moved_on"] > first["copied"] + 3

    def test_only_frames_before_are_looked_at(self, pan, filler):
        other = CodedClip("other", pan.source.copy(), pan.tokens.clone(), pan.decoded.copy(), ())
        for each in (other.source, other.tokens, other.decoded):
            each[9:] = 0
        for name, make in after_methods(filler, Pictures(filler.image)).items():
            one, two = make(pan, 8), make(other, 8)
            assert one.shape == (8, 64, 64, 3) and one.dtype == np.uint8, name
            assert np.array_equal(one, two) == (name != "ceiling"), name

    def test_best_is_that_of_each_run(self):
        source = np.stack([plain(0, 50, 50).source, plain(0, 50, 50).source])
        drawn = np.stack(
            [
                [plain(40, 40).source, plain(50, 61).source],
                [plain(90, 50).source, plain(30, 20).source],
            ]
        )
        best = best_of(Runs(source, source, False), drawn)
        assert [greys(each) for each in best] == [[50, 61], [30, 20]]


class TestSummary:
    def row(self, ours, other, energy=1.0):
        frames = {"all": [30.0, 20.0], "moving": [ours, None], "energy": [1.0, None]}
        return {
            "methods": {
                "generator": {"all": 30.0, "moving": ours, "energy": energy, "seconds": 0.5, "frames": frames},
                "copy": {"all": 30.0, "moving": other, "energy": 0.0, "seconds": 0.0, "frames": frames},
            }
        }

    def test_medians_and_pairs(self):
        rows = [self.row(20.0, 19.0), self.row(None, None, None), self.row(25.0, 26.0), self.row(30.0, 28.0, 0.8)]
        found = summarize(rows)
        ours = found["methods"]["generator"]
        assert (ours["moving"], ours["energy"], ours["seconds"]) == (25, 1, 0.5)
        assert found["clips"] == 4 and ours["clips"] == {"all": 4, "moving": 3, "energy": 3, "seconds": 4}
        assert ours["frames"][0]["moving"] == 25 and ours["frames"][1]["moving"] is None
        # paired: the median of differences, which is not the difference of medians
        assert found["ahead"] == {"copy": {"median": 1.0, "better": 2}}

    def test_nothing_moves(self):
        assert summarize([self.row(None, None)])["ahead"] == {"copy": {"median": None, "better": 0}}

    def test_medians_of_what_is_there(self):
        assert medians([{"a": 1}, {"a": None}, {"a": 4}], ["a"]) == {"a": 2.5, "clips": {"a": 2}}


@pytest.mark.parametrize(("places", "found"), [(9, [1, 4, 7]), (3, [0, 1, 2]), (2, [0, 1]), (0, []), (54, [9, 27, 45])])
def test_places_are_spread(places, found):
    assert spread(range(places), 3) == found


def test_pixels_and_planes(texture):
    frames = np.stack([texture(16, 32), texture(16, 32, seed=1)])
    guessed = argparse.Namespace(frames=planes(frames))
    assert planes(frames).shape == (2, 3, 16, 32) and np.array_equal(pixels(guessed), frames)
    assert rounded(np.array([-3.0, 0.6, 254.4, 300.0])).tolist() == [0, 1, 254, 255]


@pytest.fixture
def clips(tmp_path, texture):
    """A pan of 20 frames, one of 9, one with a cut in the middle, and one that is too short."""
    wide, folder = texture(48, 200), tmp_path / "clips"
    folder.mkdir()
    frames = np.stack([wide[:, 3 * t : 3 * t + 64] for t in range(20)])
    other = 255 - np.stack([texture(48, 64, seed=9)] * 10)
    made = {"cut": np.concatenate([frames[:10], other]), "long": frames, "nine": frames[:9], "short": frames[:5]}
    for name, each in made.items():
        with VideoWriter(folder / f"{name}.mkv", width=64, height=48, frame_rate=Fraction(24), lossless=True) as writer:
            writer.write(each)
    return folder


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(generation_quality, "SIDES", (48, 32))


def arguments(clips, frames=65, limit=None):
    return argparse.Namespace(clips=str(clips), frames=frames, limit=limit)


class TestMeasured:
    def test_between(self, clips, small, filler):
        told = []
        found = measure_between(arguments(clips), filler, told.append)
        first, second = found["sides"].values()
        assert list(found["sides"]) == ["48", "32"] and (found["frames"], found["gap"]) == (65, 8)
        assert {row["clip"]: row["gaps"] for row in first["clips"]} == {"cut.mkv": 1, "long.mkv": 2, "nine.mkv": 1}
        assert [each["clip"] for each in first["others"]] == ["short.mkv"] and len(told) == 6
        assert {tuple(row["size"]) for row in first["clips"]} == {(48, 48)}
        assert second["summary"]["clips"] == 3 and "clips" not in second
        assert not any("drawn" in name for name in second["summary"]["methods"])
        assert all(row["methods"]["hold last"]["energy"] is not None and row["moving"] > 0 for row in first["clips"])
        ours = [row["methods"]["generator"]["moving"] for row in first["clips"]]
        assert first["summary"]["methods"]["generator"]["moving"] == statistics.median(ours)
        assert set(first["summary"]["ahead"]) == set(first["clips"][0]["methods"]) - {"generator"}

    def test_after(self, clips, small, filler, monkeypatch):
        monkeypatch.setattr(generation_after, "SEEDS", (0, 1))
        found = measure_after(arguments(clips), filler, lambda line: None)
        first, second = found["sides"].values()
        # of "cut" the ten frames before it are too few, and of the ten after it the first four are known
        assert {row["clip"]: row["starts"] for row in first["clips"]} == {"long.mkv": 2}
        assert {each["clip"] for each in first["others"]} == {"cut.mkv", "nine.mkv", "short.mkv"}
        row = first["clips"][0]["methods"]
        assert list(row)[-2:] == ["generator, drawn, mean of 2", "generator, drawn, best of 2"]
        assert row["generator, drawn, best of 2"]["all"] >= row["generator, drawn, mean of 2"]["all"]
        assert not any("drawn" in name for name in second["summary"]["methods"])
        summary = first["summary"]["methods"]
        assert {len(each["frames"]) for each in summary.values()} == {8}
        assert [each["energy"] for each in summary["copy last"]["frames"][1:]] == [0] * 7
        assert summary["copy last"]["all"] == row["copy last"]["all"] and "frames" not in row["copy last"]

    def test_no_clip_is_long_enough(self, clips, small, filler):
        with pytest.raises(ValueError, match=r"None of the 4 clips can be used\. .* --clips DIR"):
            measure_between(arguments(clips, frames=4), filler, lambda line: None)
