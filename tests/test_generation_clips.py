"""Clips as the generator's benchmark has them, and how frames that were made are judged."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from tokenreel.benchmarks.generation_clips import (
    CodedClip,
    Pictures,
    Runs,
    coded_clip,
    coded_clips,
    decibels,
    squared,
)
from tokenreel.benchmarks.threads import one_thread
from tokenreel.video.opening import VideoError
from tokenreel.video.writer import VideoWriter


@pytest.fixture
def pictures(tiny_tokenizer):
    return Pictures(tiny_tokenizer.image)


def levels(*values, side=16):
    """uint8 `[T, side, side, 3]`, each frame of one grey level."""
    return np.array(values, np.uint8)[:, None, None, None] * np.ones((side, side, 3), np.uint8)


def runs_of(source, *, closed, decoded=None):
    return Runs(source[None], source[None] if decoded is None else decoded[None], closed)


class TestPictures:
    def test_there_and_back(self, pictures, texture):
        frames = np.stack([texture(32, 48, seed) for seed in range(9)])
        tokens = pictures.encode(frames)
        assert tokens.shape == (9, 4, 6) and tokens.dtype == torch.int64
        again = pictures.decode(tokens)
        assert again.shape == frames.shape and again.dtype == np.uint8
        assert np.array_equal(pictures.decode(tokens[8:]), again[8:])


class TestClips:
    def write(self, path, frames):
        H, W = frames.shape[1:3]
        with VideoWriter(path, width=W, height=H, frame_rate=Fraction(24), lossless=True) as writer:
            writer.write(frames)

    @pytest.mark.parametrize(
        ("size", "asked", "side"), [((64, 48), 32, 32), ((48, 64), 128, 48), ((70, 45), 128, 32), ((33, 90), 40, 32)]
    )
    def test_the_centre_square_is_never_enlarged(self, tmp_path, pictures, texture, size, asked, side):
        W, H = size
        self.write(tmp_path / "a.mkv", np.stack([texture(H, W)] * 3))
        clip = coded_clip(tmp_path / "a.mkv", pictures, side=asked, frames=2)
        assert clip.source.shape == clip.decoded.shape == (2, side, side, 3)
        assert clip.tokens.shape == (2, side // 8, side // 8) and clip.name == "a.mkv" and not clip.changes

    def test_what_cannot_be_used_is_named(self, tmp_path, pictures, texture):
        self.write(tmp_path / "a.mkv", np.stack([texture(32, 32)] * 3))
        self.write(tmp_path / "flat.mkv", np.stack([texture(14, 40)] * 3))
        (tmp_path / "text.mp4").write_text("no video")
        others = []
        found = list(coded_clips(sorted(tmp_path.iterdir()), pictures, others, side=32, frames=9))
        assert [clip.name for clip in found] == ["a.mkv"]
        assert [each["clip"] for each in others] == ["flat.mkv", "text.mp4"]
        assert others[0]["reason"] == "flat.mkv is smaller than 16x16 pixels."
        with pytest.raises(VideoError):
            coded_clip(tmp_path / "text.mp4", pictures, side=32, frames=9)

    def test_a_change_of_shot_is_found(self, tmp_path, pictures, texture):
        frames = np.stack([texture(64, 64, seed=seed) for seed in (1, 9) for _ in range(12)])
        self.write(tmp_path / "a.mkv", frames)
        assert coded_clip(tmp_path / "a.mkv", pictures, side=64, frames=24).changes == ((12, 12),)

    def test_within_a_shot(self):
        """A cut lies between two frames; a dissolve from 8 to 10 belongs to neither shot."""
        source = levels(*range(16))
        clip = CodedClip("a", source, torch.zeros(16, 2, 2), source, ((4, 4), (8, 11)))
        whole = [(first, last) for first in range(-1, 17) for last in range(first + 1, 17) if clip.whole(first, last)]
        shots = [range(0, 4), range(4, 8), range(11, 16)]
        assert whole == [(a, b) for shot in shots for a in shot for b in shot if a < b]

    def test_one_thread(self):
        before = torch.get_num_threads()
        with pytest.raises(KeyError), one_thread():
            assert torch.get_num_threads() == 1
            raise KeyError
        assert torch.get_num_threads() == before


class TestRuns:
    def test_of_a_clip(self):
        source = levels(*range(12))
        clip = CodedClip("a", source, torch.zeros(12, 2, 2), 255 - source, ())
        runs = Runs.of(clip, [0, 4], asked=3, closed=True)
        assert runs.source[..., 0, 0, 0].tolist() == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]
        assert runs.decoded[..., 0, 0, 0].tolist() == [[255 - i for i in row] for row in ([*range(5)], [*range(4, 9)])]
        after = Runs.of(clip, [3], asked=2, closed=False)
        assert after.source[..., 0, 0, 0].tolist() == [[3, 4, 5]]
        assert runs.repeated(2).source[..., 0, 0, 0].tolist() == [[0, 1, 2, 3, 4]] * 2 + [[4, 5, 6, 7, 8]] * 2

    def test_moving_is_what_differs_from_a_known_frame(self):
        """By more than 8 grey levels in any channel; with a known frame at the end, from either of the two."""
        source = levels(100, 100, 100, 100)
        source[1, 0, 0, 2] = 109
        source[1, 0, 1] = 108
        source[3, 5, 5, 0] = 91
        moving = runs_of(source, closed=True).moving[0]
        assert np.argwhere(moving).tolist() == [[0, 0, 0], [0, 5, 5], [1, 5, 5]]
        assert np.argwhere(runs_of(source, closed=False).moving[0]).tolist() == [[0, 0, 0], [2, 5, 5]]

    def test_what_is_known_is_that_of_the_source(self):
        """What the tokenizer loses of a known frame makes nothing move."""
        assert not runs_of(levels(100, 100), decoded=levels(0, 0), closed=False).moving.any()

    def test_errors_are_pooled(self):
        source = levels(0, 0, 0)
        source[1:, :, :8] = 50  # half of each frame moves
        made = source[1:].copy()
        made[0, :, :8] -= 10
        made[1] += 20
        judged = runs_of(source, closed=False).judge(made[None])
        assert judged["all"] == pytest.approx(10 * math.log10(255**2 / ((50 + 400) / 2)))
        assert judged["moving"] == pytest.approx(10 * math.log10(255**2 / ((100 + 400) / 2)))
        frames = runs_of(source, closed=False).judge_frames(made[None])
        assert frames["all"] == pytest.approx([10 * math.log10(255**2 / each) for each in (50, 400)])
        assert frames["moving"] == pytest.approx([10 * math.log10(255**2 / each) for each in (100, 400)])

    def test_the_same_over_several_runs(self):
        source = np.stack([levels(0, 40, 80), levels(0, 40, 80)])
        made = np.stack([levels(40, 80), levels(50, 80)])
        runs = Runs(source, source, False)
        assert runs.judge(made)["moving"] == pytest.approx(10 * math.log10(255**2 / 25))
        assert runs.judge_frames(made)["all"] == [pytest.approx(10 * math.log10(255**2 / 50)), 100]

    def test_where_hardly_anything_moves(self):
        source = levels(0, 0, 0)
        source[1, 0, :2] = 255  # 2 of 512 pixels
        judged = runs_of(source, closed=False).judge(source[None, 1:])
        assert judged["moving"] is None and judged["all"] == 100
        source[1, 0, :3] = 255  # 3 of 256: enough in that frame, and too few in both
        frames = runs_of(source, closed=False).judge_frames(source[None, 1:])
        assert frames["moving"] == [100, None]
        assert runs_of(source, closed=False).judge(source[None, 1:])["moving"] is None

    def test_energy_is_motion_made_over_motion_real(self):
        source = levels(0, 10, 20, 30)
        runs, after = runs_of(source, closed=True), runs_of(source, closed=False)
        assert runs.judge(source[None, 1:3])["energy"] == 1
        # a jump at the end is motion too, where the known frame follows
        assert runs.judge(levels(0, 0)[None])["energy"] == 1
        assert after.judge(levels(0, 0, 0)[None])["energy"] == 0
        assert after.judge(levels(5, 10, 15)[None])["energy"] == pytest.approx(0.5)
        assert after.judge_frames(levels(5, 25, 25)[None])["energy"] == [0.5, 2, 0]
        assert runs.judge_frames(levels(5, 25)[None])["energy"] == [0.5, 2]

    def test_energy_begins_at_the_decoded_frame(self):
        source = levels(0, 10)
        decoded = levels(4, 10)
        assert runs_of(source, decoded=decoded, closed=False).judge(levels(10)[None])["energy"] == pytest.approx(0.6)

    def test_a_still_has_no_energy(self):
        runs = runs_of(levels(9, 9, 9), closed=False)
        assert runs.judge(levels(9, 9)[None])["energy"] is None
        assert runs.judge_frames(levels(9, 9)[None])["energy"] == [None, None]

    def test_judging_changes_nothing(self):
        runs = runs_of(levels(0, 10, 20), closed=True)
        runs.judge(levels(7)[None])
        assert np.array_equal(runs.source[0], levels(0, 10, 20)) and np.array_equal(runs.decoded, runs.source)


def test_squared_differences_of_bytes():
    assert squared(levels(0), levels(255)).tolist() == np.full((1, 16, 16), 3 * 255**2).tolist()


def test_decibels_end_at_100():
    assert decibels(0, 10) == decibels(1e-9, 10) == 100 and decibels(255**2, 1) == 0
