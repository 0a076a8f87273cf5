"""The station on small clips: times, what is known and what is made, cuts, masks, and what is refused."""

from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tokenreel.generation import frames_to_do, generate
from tokenreel.stations import decoded_frames, encode_clip
from tokenreel.tokens.bitstream import read_tokens, write_tokens
from tokenreel.tokens.video_tokens import IFrame
from tokenreel.video.clips import ImageClip
from tokenreel.video.completion import Completion
from tokenreel.video.frames import uint8_to_image
from tokenreel.video.reel import render
from tokenreel.video.timeline import FrameTimeline

WIDTH, HEIGHT, COUNT, CUT = 56, 40, 8, 5


class StopError(Exception):
    """What a cancelled run raises."""


class NearestFiller:
    """Puts the nearest known frame everywhere, one code higher, and writes down what it was asked for."""

    def __init__(self, levels, digest=""):
        self.net = SimpleNamespace(config=SimpleNamespace(levels=levels), tokenizer_digest=digest)
        self.codes, self.calls, self.asked = int(np.prod(levels)), 0, []

    def _made(self, indices, check, **knobs):
        check()
        self.calls += 1
        return (indices + 1) % self.codes

    def between(self, first, second, count, **knobs):
        self.asked.append(("between", count, knobs))
        near = [second if 2 * index > count + 1 else first for index in range(1, count + 1)]
        return self._made(torch.stack(near), **knobs)

    def after(self, seen, count, *, progress, **knobs):
        self.asked.append(("after", len(seen), knobs))
        progress(count)
        return self._made(seen[-1:].expand(count, -1, -1), **knobs)

    def fill(self, indices, known, *, progress, **knobs):
        self.asked.append(("fill", len(indices), knobs))
        progress(int((~known).flatten(1).any(1).sum()))
        return torch.where(known, indices, self._made(indices, **knobs))


@pytest.fixture(scope="module")
def frames():
    """uint8 [COUNT, HEIGHT, WIDTH, 3]: a pan, and a cut before frame CUT."""
    rng = np.random.default_rng(3)
    scenes = rng.integers(0, 256, (2, 5, 12, 3)).repeat(12, 1).repeat(8, 2).astype(np.uint8)
    return np.stack([scenes[index // CUT][:HEIGHT, 2 * index : 2 * index + WIDTH] for index in range(COUNT)])


def encoded(frames, tokenizer, rate=Fraction(12), mode="frames"):
    return encode_clip(ImageClip(uint8_to_image(frames), rate), tokenizer, mode=mode, with_ssim=False).tokens


@pytest.fixture(scope="module")
def tokens(tiny_tokenizer, frames):
    return encoded(frames, tiny_tokenizer)


@pytest.fixture
def filler(tokens):
    return NearestFiller(tokens.levels)


@pytest.fixture(autouse=True)
def cut(monkeypatch):
    """Frames of a tiny tokenizer are noise; cuts are where the frames that were encoded have them."""
    from tokenreel.generation import MotionMeter

    monkeypatch.setattr(MotionMeter, "update", lambda self, frame: None)
    monkeypatch.setattr(MotionMeter, "cuts", (CUT,))
    monkeypatch.setattr(MotionMeter, "score_cuts", ())
    monkeypatch.setattr(MotionMeter, "scores", np.full(COUNT, 50.0))


def no_cut(monkeypatch):
    from tokenreel.generation import MotionMeter

    monkeypatch.setattr(MotionMeter, "cuts", ())


def seconds_of(tokens):
    return [tick * tokens.time_base for tick in tokens.pts]


def codes_of(tokens):
    return np.stack([frame.codes for frame in tokens.frames])


class TestBetween:
    def test_frames_in_each_gap(self, tokens, filler, tiny_tokenizer):
        made = generate(tokens, filler, tiny_tokenizer, Completion(frames=3))
        result = made.tokens
        assert seconds_of(result) == [Fraction(index, 48) for index in range(4 * (COUNT - 1) + 1)]
        assert (result.frame_rate, result.duration) == (48, tokens.duration)
        assert (result.width, result.height, result.digest) == (WIDTH, HEIGHT, tokens.digest)
        assert np.array_equal(codes_of(result)[::4], codes_of(tokens))
        assert made.ways[:5] == ("known", "generated", "generated", "generated", "known")
        assert np.array_equal(codes_of(result)[1], (codes_of(tokens)[0] + 1) % filler.codes)

    def test_across_a_cut_the_nearest_frame_is_repeated(self, tokens, filler, tiny_tokenizer):
        made = generate(tokens, filler, tiny_tokenizer, Completion(frames=3))
        before, after = tokens.frames[CUT - 1 : CUT + 1]
        assert made.tokens.frames[4 * CUT - 4 : 4 * CUT + 1] == (before, before, after, after, after)
        assert made.ways[4 * CUT - 3 : 4 * CUT] == ("repeated",) * 3
        assert made.report["cuts"] == 1 and made.report["repeated"] == 3
        assert made.report["network_calls"] == len(filler.asked) == COUNT - 2

    @pytest.mark.parametrize(("change", "cuts"), [(12.0, 0), (25.0, 1)])
    def test_of_two_frames_only_a_great_change_is_a_cut(self, tiny_tokenizer, frames, monkeypatch, change, cuts):
        monkeypatch.setattr("tokenreel.generation.MotionMeter.cuts", (1,))
        monkeypatch.setattr("tokenreel.generation.MotionMeter.scores", np.array([0.0, change]))
        two = encoded(frames[:2], tiny_tokenizer)
        assert generate(two, NearestFiller(two.levels), tiny_tokenizer, Completion()).report["cuts"] == cuts

    def test_equal_neighbours_need_no_network(self, tiny_tokenizer, frames, monkeypatch):
        no_cut(monkeypatch)
        still = encoded(frames[[0, 0, 1]], tiny_tokenizer)
        filler = NearestFiller(still.levels)
        made = generate(still, filler, tiny_tokenizer, Completion(frames=2))
        assert made.ways == ("known", "repeated", "repeated", "known", "generated", "generated", "known")
        assert len(filler.asked) == 1

    def test_report(self, tokens, filler, tiny_tokenizer):
        made = generate(tokens, filler, tiny_tokenizer, Completion(frames=1))
        facts, cells = made.report, tokens.grid[0] * tokens.grid[1]
        assert (facts["task"], facts["frames"], facts["known"], facts["generated"]) == ("between", 15, 8, 6)
        assert facts["tokens"] == 15 * cells and facts["tokens_made"] == 6 * cells == made.made.sum()
        assert facts["made_fraction"] == pytest.approx(6 / 15) and facts["faded"] == 0 and facts["notes"] == []
        assert facts["frame_rate"] == 24 and facts["seconds"] == round(made.seconds, 3)

    def test_written_and_read_back(self, tokens, filler, tiny_tokenizer, tmp_path):
        made = generate(tokens, filler, tiny_tokenizer, Completion(frames=3)).tokens
        write_tokens(tmp_path / "a.tokens", made)
        assert read_tokens(tmp_path / "a.tokens") == made
        assert len(list(decoded_frames(made, tiny_tokenizer))) == len(made.pts)

    def test_knobs_reach_the_filler(self, tokens, filler, tiny_tokenizer):
        generate(tokens, filler, tiny_tokenizer, Completion(frames=2, steps=9, temperature=0.5, seed=7))
        knobs = [asked[2] for asked in filler.asked]
        assert {(each["steps"], each["temperature"]) for each in knobs} == {(9, 0.5)}
        assert len({id(each["generator"]) for each in knobs}) == 1
        assert knobs[0]["generator"].initial_seed() == 7 and knobs[0]["generator"].device.type == "cpu"


class TestTimeline:
    def timeline(self, kept, *, shots=(0, CUT), transitions=(), pts=None):
        pts = pts or tuple(100 + 10 * index for index in range(COUNT))
        base = Fraction(1, 120)
        duration = (pts[-1] - pts[0] + 10) * base
        return FrameTimeline(base, Fraction(12), duration, pts, kept, shots, transitions)

    def made(self, frames, tokenizer, kept, **options):
        few = encoded(frames[list(kept)], tokenizer)
        wanted = Completion(timeline=self.timeline(kept, **options))
        return few, generate(few, NearestFiller(few.levels), tokenizer, wanted)

    def test_every_source_frame_at_its_time(self, frames, tiny_tokenizer):
        few, made = self.made(frames, tiny_tokenizer, (0, 4, 6))
        assert seconds_of(made.tokens) == [Fraction(index, 12) for index in range(COUNT)]
        assert (made.tokens.frame_rate, made.tokens.duration) == (12, Fraction(COUNT, 12))
        ways = ("known", "generated", "generated", "generated", "known", "repeated", "known", "repeated")
        assert made.ways == ways and made.report["cuts"] == 1
        assert made.tokens.frames[5] == few.frames[2] == made.tokens.frames[7]  # the shot begins at 5, and is held

    def test_frames_before_the_first_kept_one(self, frames, tiny_tokenizer):
        few, made = self.made(frames, tiny_tokenizer, (2, 4), shots=(0,))
        assert made.ways[:5] == ("repeated", "repeated", "known", "generated", "known")
        assert made.tokens.frames[0] == few.frames[0]

    def test_a_dissolve_is_mixed(self, frames, tiny_tokenizer):
        _, made = self.made(frames, tiny_tokenizer, (1, 6), transitions=((3, 4, "dissolve"),))
        assert made.ways == ("repeated", "known", "repeated", "faded", "faded", "repeated", "known", "repeated")
        assert made.report["faded"] == 2 and made.made.sum() == 0

    def test_uneven_times(self, frames, tiny_tokenizer, monkeypatch):
        pts = (0, 10, 20, 50, 60, 70, 80, 90)
        few = encoded(frames[[0, 4]], tiny_tokenizer)
        filler = NearestFiller(few.levels)
        timeline = self.timeline((0, 4), shots=(0,), pts=pts)
        made = generate(few, filler, tiny_tokenizer, Completion(timeline=timeline)).tokens
        assert seconds_of(made) == [Fraction(tick, 120) for tick in pts]
        assert filler.asked[0][1] == 5  # at sixths, of which 1, 2 and 5 are shown

    def test_another_clip(self, tokens, filler, tiny_tokenizer):
        with pytest.raises(ValueError, match="The tokens have 8 frames, but the timeline kept 2"):
            generate(tokens, filler, tiny_tokenizer, Completion(timeline=self.timeline((0, 4))))


class TestContinue:
    @pytest.mark.parametrize("rate", [Fraction(12), Fraction(24000, 1001)])
    def test_goes_on_at_the_nominal_rate(self, frames, tiny_tokenizer, rate):
        tokens = encoded(frames, tiny_tokenizer, rate)
        made = generate(tokens, NearestFiller(tokens.levels), tiny_tokenizer, Completion("continue", frames=5))
        assert seconds_of(made.tokens) == [index / rate for index in range(COUNT + 5)]
        assert made.tokens.duration == (COUNT + 5) / rate and made.tokens.frame_rate == rate
        assert made.tokens.frames[:COUNT] == tokens.frames
        assert made.ways == ("known",) * COUNT + ("generated",) * 5
        assert made.made[COUNT:].all() and not made.made[:COUNT].any()

    def test_ticks_that_are_too_coarse_are_divided(self, random_tokens, tiny_tokenizer, monkeypatch):
        """Frames of 1001/24000 s in ticks of 1/90 s."""
        no_cut(monkeypatch)
        tokens = random_tokens(frames=3, key_every=1, levels=tiny_tokenizer.levels)
        tokens = replace(tokens, digest=tiny_tokenizer.digest)
        filler = NearestFiller(tokens.levels)
        made = generate(tokens, filler, tiny_tokenizer, Completion("continue", frames=2)).tokens
        assert seconds_of(made)[:3] == seconds_of(tokens)
        steps = np.diff(seconds_of(made)[2:])
        assert list(steps) == [Fraction(1001, 24000)] * 2

    def test_only_the_last_shot_is_looked_at(self, tokens, filler, tiny_tokenizer):
        made = generate(tokens, filler, tiny_tokenizer, Completion("continue", frames=2))
        assert filler.asked[0][:2] == ("after", COUNT - CUT) and made.report["cuts"] == 1

    def test_one_frame(self, frames, tiny_tokenizer, monkeypatch):
        no_cut(monkeypatch)
        tokens = encoded(frames[:1], tiny_tokenizer)
        made = generate(tokens, NearestFiller(tokens.levels), tiny_tokenizer, Completion("continue"))
        assert len(made.tokens.frames) == 9


class TestFill:
    def mask(self, frames=None):
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[8:17, 0:8] = True  # two cells and a line of a third
        if frames is None:
            return mask
        return np.stack([mask & (index in frames) for index in range(COUNT)])

    def test_what_is_masked_in_every_shot(self, tokens, filler, tiny_tokenizer):
        made = generate(tokens, filler, tiny_tokenizer, Completion("fill", mask=self.mask()))
        before, after = codes_of(tokens), codes_of(made.tokens)
        changed = before != after
        assert np.array_equal(changed, made.made) and changed.sum() == 2 * COUNT and changed[:, 1:3, 0].all()
        assert [asked[:2] for asked in filler.asked] == [("fill", CUT), ("fill", COUNT - CUT)]
        assert made.report["generated"] == COUNT and made.report["tokens_made"] == 2 * COUNT
        assert made.tokens.pts == tokens.pts and made.tokens.duration == tokens.duration

    def test_frames_of_their_own(self, tokens, filler, tiny_tokenizer):
        made = generate(tokens, filler, tiny_tokenizer, Completion("fill", mask=self.mask({1, 2})))
        assert [index for index, way in enumerate(made.ways) if way == "generated"] == [1, 2]
        assert len(filler.asked) == 1  # nothing is masked in the second shot

    @pytest.mark.parametrize(("shot", "parts"), [(range(CUT), [COUNT]), (range(CUT, COUNT), [COUNT])])
    def test_a_shot_without_anything_known_is_taken_with_its_neighbour(
        self, tokens, filler, tiny_tokenizer, shot, parts
    ):
        mask = np.zeros((COUNT, HEIGHT, WIDTH), bool)
        mask[list(shot)] = True
        generate(tokens, filler, tiny_tokenizer, Completion("fill", mask=mask))
        assert [asked[1] for asked in filler.asked] == parts

    def test_refusals(self, tokens, filler, tiny_tokenizer):
        for mask, complaint in (
            (np.zeros((HEIGHT, WIDTH)), "covers nothing"),
            (np.ones((HEIGHT, WIDTH)), "covers everything"),
            (np.ones((3, HEIGHT, WIDTH)), "The mask has 3 frames, the tokens 8"),
            (np.ones((HEIGHT, HEIGHT)), "Invalid mask of 40x40 pixels"),
        ):
            with pytest.raises(ValueError, match=complaint):
                generate(tokens, filler, tiny_tokenizer, Completion("fill", mask=mask))


class TestInputs:
    def test_a_stream_is_coded_anew(self, frames, filler, tiny_tokenizer):
        stream = encoded(frames, tiny_tokenizer, mode="stream")
        assert stream.codec
        wanted = Completion("continue", frames=1)
        done = []
        made = generate(stream, filler, tiny_tokenizer, wanted, progress=done.append)
        assert all(isinstance(frame, IFrame) for frame in made.tokens.frames) and made.tokens.codec == ""
        assert "the stream was decoded and coded anew" in made.report["notes"][0]
        assert sum(done) == frames_to_do(stream, wanted) == 2 * COUNT + 1

    def test_groups_of_frames(self, frames, filler, tiny_tokenizer, tiny_clip_tokenizer):
        groups = encoded(frames, tiny_clip_tokenizer, mode="clip")
        with pytest.raises(ValueError, match=r"groups of frames \(tokenizer 'tiny-clip'\).* Encode the clip with"):
            generate(groups, filler, tiny_clip_tokenizer, Completion())
        with pytest.raises(ValueError, match="groups of frames"):
            generate(groups, filler, tiny_tokenizer, Completion())

    def test_another_tokenizer(self, random_tokens, filler, tiny_tokenizer):
        with pytest.raises(ValueError, match="Load the tokenizer they were made with"):
            generate(random_tokens(), filler, tiny_tokenizer, Completion())

    def test_another_generator(self, tokens, tiny_tokenizer):
        for filler in (NearestFiller((8, 5)), NearestFiller(tokens.levels, "5" * 64)):
            with pytest.raises(ValueError, match="trained on tokens of another tokenizer"):
                generate(tokens, filler, tiny_tokenizer, Completion())
        generate(tokens, NearestFiller(tokens.levels, tokens.digest), tiny_tokenizer, Completion())


class TestCuts:
    @pytest.fixture(autouse=True)
    def real_meter(self, cut, monkeypatch):
        monkeypatch.undo()

    def test_are_found_in_decoded_frames(self, trained_tokenizer):
        """Every fourth frame of the reel: a pan, a cut before frame 3, a talking head."""
        chunks = render(64, 64, 24, 0.5).chunks()
        frames = np.concatenate(list(chunks))[:24:4]
        tokens = encoded(np.ascontiguousarray(frames), trained_tokenizer)
        made = generate(tokens, NearestFiller(tokens.levels), trained_tokenizer, Completion(frames=1))
        assert made.report["cuts"] == 1 and made.ways[5] == "repeated" and "repeated" not in made.ways[:5]


class TestWatching:
    @pytest.mark.parametrize(
        "wanted",
        [
            Completion(frames=2),
            Completion("continue", frames=3),
            Completion("fill", mask=np.eye(HEIGHT, WIDTH, dtype=bool)),
        ],
        ids=lambda wanted: wanted.task,
    )
    def test_progress_counts_what_was_announced(self, tokens, filler, tiny_tokenizer, wanted):
        done = []
        generate(tokens, filler, tiny_tokenizer, wanted, progress=done.append)
        assert sum(done) == frames_to_do(tokens, wanted)

    @pytest.mark.parametrize("after", [0, 3, 12])
    def test_stops_at_once(self, tokens, filler, tiny_tokenizer, after):
        done = []

        def check():
            if sum(done) >= after:
                raise StopError

        with pytest.raises(StopError):
            generate(tokens, filler, tiny_tokenizer, Completion(frames=2), check=check, progress=done.append)
        assert sum(done) == after
