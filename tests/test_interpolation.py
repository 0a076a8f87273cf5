"""The pipeline: every mode keeps time, passes source frames on bit by bit, and never blends over a cut."""

import io
import wave
import weakref
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from tokenreel.interpolation import find_cuts, interpolate, interpolate_clip, restore
from tokenreel.models.changed_regions import InBetweens
from tokenreel.models.interpolator import BlendInterpolator
from tokenreel.video.clips import ImageClip
from tokenreel.video.frames import uint8_to_image
from tokenreel.video.reader import FrameChunk, VideoError, VideoReader
from tokenreel.video.retiming import Retiming
from tokenreel.video.timeline import FrameTimeline

HEIGHT, WIDTH = 48, 64
MS = Fraction(1, 1000)
WAYS = ("passed", "interpolated", "held", "faded")


def grey(*levels):
    """uint8 [T, H, W, 3]: flat frames, so that a blend says what it was made of."""
    return np.broadcast_to(np.array(levels, np.uint8)[:, None, None, None], (len(levels), HEIGHT, WIDTH, 3)).copy()


def scenes(*lengths):
    """Shots that brighten slowly, each of them another picture: cuts are found between them."""
    rng = np.random.default_rng(5)
    frames = []
    for length in lengths:
        coarse = rng.integers(0, 200, (HEIGHT // 8, WIDTH // 8, 3))
        picture = np.kron(coarse, np.ones((8, 8, 1), int))
        frames += [picture + 2 * index for index in range(length)]
    return np.stack(frames).astype(np.uint8)


@pytest.fixture
def run(tmp_path):
    """Interpolates by blending; (report, frames, times in seconds with the end)."""

    def call(source, interpolator=None, name="out.mp4", **options):
        path = tmp_path / name
        report = interpolate(
            source, path, interpolator=interpolator or BlendInterpolator(), lossless=True, static_threshold=0, **options
        )
        with VideoReader(path) as reader:
            chunks, base = list(reader.chunks()), reader.info.time_base
        times = [pts * base for chunk in chunks for pts in chunk.pts]
        frames = np.concatenate([chunk.frames for chunk in chunks])
        assert report["frames"] == len(frames) == sum(report[way] for way in WAYS)
        return report, frames, [*times, times[-1] + chunks[-1].durations[-1] * base]

    return call


def levels(frames):
    assert all((frame == frame[0, 0, 0]).all() for frame in frames)
    return frames[:, 0, 0, 0].tolist()


class TestMultiplier:
    def test_every_interval_is_divided_and_the_last_frame_held(self, write, run):
        report, frames, times = run(write(grey(0, 100, 40)), times=4)
        assert levels(frames) == [0, 25, 50, 75, 100, 85, 70, 55, 40, 40, 40, 40]
        assert times == [Fraction(k, 96) for k in range(13)]
        assert (report["passed"], report["interpolated"], report["held"]) == (3, 6, 3)
        assert report["frame_rate"] == 96 and report["duration"] == pytest.approx(3 / 24)

    def test_uneven_intervals_stay_uneven(self, write, run):
        source = write(grey(0, 60, 120), [0, 30, 130], time_base=MS, last=50)
        _, frames, times = run(source, times=2)
        assert levels(frames) == [0, 30, 60, 90, 120, 120]
        assert [float(1000 * each) for each in times] == [0, 15, 30, 80, 130, 155, 180]

    def test_loop_moves_on_to_the_first_frame(self, write, run):
        report, frames, _ = run(write(grey(0, 60, 90)), times=3, loop=True)
        assert levels(frames) == [0, 20, 40, 60, 70, 80, 90, 60, 30]
        assert report["held"] == 0

    @pytest.mark.parametrize("loop", [False, True])
    def test_a_single_frame(self, write, run, loop):
        _, frames, times = run(write(grey(7)), times=3, loop=loop)
        assert levels(frames) == [7, 7, 7] and times[-1] == Fraction(1, 24)

    def test_1_only_passes_on(self, write, run):
        source = scenes(6)
        report, frames, _ = run(write(source), times=1)
        assert np.array_equal(frames, source) and report["passed"] == 6


class TestRate:
    def test_frames_of_the_source_are_passed_bit_by_bit(self, write, run):
        source = scenes(9)
        report, frames, times = run(write(source), rate=Fraction(60))
        assert np.array_equal(frames[::5], source[::2])
        assert times == [Fraction(k, 60) for k in range(len(frames) + 1)]
        assert report["passed"] == 5 and len(frames) == 22  # 22.5

    def test_lower_than_the_source(self, write, run):
        _, frames, times = run(write(grey(*range(0, 120, 10)), rate=Fraction(60)), rate=Fraction(24))
        assert levels(frames) == [0, 25, 50, 75, 100]
        assert times[-1] == Fraction(5, 24)

    def test_uneven_intervals_become_even(self, write, run):
        source = write(grey(0, 60, 120), [0, 30, 120], time_base=MS, last=30)
        _, frames, _ = run(source, rate=Fraction(100))
        assert levels(frames) == [0, 20, 40, 60, 67, 73, 80, 87, 93, 100, 107, 113, 120, 120, 120]

    def test_broadcast_to_even(self, write, run):
        source = write(grey(*range(0, 240, 2)), rate=Fraction(24000, 1001))
        report, _, times = run(source, rate=Fraction(60))
        assert abs(times[-1] - 120 * Fraction(1001, 24000)) <= Fraction(1, 120)
        assert report["duration"] == pytest.approx(float(times[-1]))

    def test_a_late_start_is_kept(self, write, run):
        source = write(grey(0, 60, 120), [5000, 5040, 5080], time_base=MS)
        assert run(source, rate=Fraction(60))[2][0] == 5

    def test_loop(self, write, run):
        _, frames, _ = run(write(grey(0, 40)), rate=Fraction(96), loop=True)
        assert levels(frames) == [0, 10, 20, 30, 40, 30, 20, 10]

    def test_a_loop_does_not_blend_over_a_cut(self, write, run):
        """The last shot shows another picture than the first."""
        source = scenes(8, 8)
        report, frames, _ = run(write(source), times=2, loop=True)
        assert np.array_equal(frames[-1], source[-1]) and report["cuts"] == 2


class TestCuts:
    def test_hold_switches_with_the_new_shot(self, write, run):
        source = scenes(8, 8)
        report, frames, _ = run(write(source), times=4)
        assert report["cuts"] == 1
        for index in range(29, 32):
            assert np.array_equal(frames[index], source[7])
        assert np.array_equal(frames[32], source[8])
        assert np.array_equal(frames[30 + 4 * 3], (source[10].astype(int) + source[11]) // 2)

    def test_hold_at_a_rate_that_meets_neither(self, write, run):
        source = scenes(8, 8)
        _, frames, times = run(write(source), rate=Fraction(35))
        for frame, at in zip(frames, times, strict=False):
            if Fraction(7, 24) <= at < Fraction(8, 24):
                assert np.array_equal(frame, source[7])

    def test_cross_fade(self, write, run):
        source = scenes(8, 8)
        report, frames, _ = run(write(source), times=2, at_cuts="crossfade")
        expected = (source[7].astype(float) + source[8]) / 2
        assert np.abs(frames[15] - expected).max() <= 0.5
        assert report["faded"] == 1 and report["interpolated"] == 14

    def test_the_end_is_no_cut(self, write, run):
        source = scenes(6)
        report, frames, _ = run(write(source), times=2, at_cuts="crossfade")
        assert np.array_equal(frames[-1], source[-1])
        assert (report["cuts"], report["faded"]) == (0, 0)

    @pytest.mark.parametrize("lengths", [[1], [30], [20, 15, 40], [7, 5, 9]])
    def test_found_in_a_clip(self, lengths):
        clip = ImageClip(uint8_to_image(scenes(*lengths)), Fraction(24))
        assert find_cuts(clip) == tuple(np.cumsum(lengths)[:-1])

    def test_a_flash_is_no_cut(self):
        frames = scenes(40)
        frames[20] = 250
        assert find_cuts(ImageClip(uint8_to_image(frames), Fraction(24))) == ()

    def test_from_the_end_to_the_beginning(self):
        one, two = scenes(12, 12)[:12], scenes(12, 12)[12:]
        ping_pong = np.concatenate([one, one[::-1]])
        assert find_cuts(ImageClip(uint8_to_image(ping_pong), Fraction(24)), loop=True) == ()
        assert find_cuts(ImageClip(uint8_to_image(np.concatenate([one, two])), Fraction(24)), loop=True) == (12, 24)


class TestRepeats:
    def retimed(self, run, write, *shades, **options):
        report, frames, _ = run(write(grey(*shades)), repeats="retime", **{"times": 1, **options})
        return levels(frames), report["repeats"]

    def test_motion_is_spread_over_the_gap(self, write, run):
        assert self.retimed(run, write, 0, 20, 40, 40, 60) == ([0, 20, 40, 50, 60], 1)

    def test_drawings_on_threes(self, write, run):
        assert self.retimed(run, write, 0, 0, 0, 9, 9, 9, 18) == ([0, 3, 6, 9, 12, 15, 18], 4)

    def test_big_steps_are_no_cuts(self, write, run):
        assert self.retimed(run, write, 0, 0, 0, 30, 30, 30, 60, 60, 60, 90) == ([*range(0, 91, 10)], 6)

    def test_with_a_multiplier(self, write, run):
        assert self.retimed(run, write, 0, 0, 16, times=2) == ([0, 4, 8, 12, 16, 16], 1)

    def test_what_stands_for_long_stays(self, write, run):
        assert self.retimed(run, write, 0, 0, 0, 0, 0, 0, 70) == ([0, 0, 0, 0, 0, 0, 70], 0)

    def test_the_end_stays_but_for_a_loop(self, write, run):
        assert self.retimed(run, write, 0, 40, 40) == ([0, 40, 40], 0)
        assert self.retimed(run, write, 0, 40, 40, loop=True) == ([0, 40, 20], 1)

    def test_a_loop_whose_last_frame_is_its_first(self, write, run):
        assert self.retimed(run, write, 0, 40, 0, times=2, loop=True) == ([0, 20, 40, 20, 0, 0], 0)

    def test_not_over_a_cut(self, write, run):
        source = scenes(8, 8)
        source[7] = source[6]
        report, frames, _ = run(write(source), times=1, repeats="retime")
        assert np.array_equal(frames, source) and report["repeats"] == 1

    def test_kept_unless_asked(self, write, run):
        assert levels(run(write(grey(0, 40, 40, 80)), times=2)[1]) == [0, 20, 40, 40, 40, 60, 80, 80]


class TestTimeline:
    pts = (0, 40, 90, 130, 160, 200, 240, 260)

    def timeline(self, kept, **fields):
        return FrameTimeline(MS, Fraction(25), Fraction(300, 1000), self.pts, kept, **fields)

    def sampled(self, write, kept, shades, name="few.mp4"):
        return write(grey(*shades), [self.pts[index] for index in kept], time_base=MS, name=name)

    def test_every_frame_comes_back_at_its_time(self, write, run):
        kept = (0, 3, 7)
        _, frames, times = run(self.sampled(write, kept, (0, 130, 0)), timeline=self.timeline(kept))
        assert levels(frames) == [0, 40, 90, 130, 100, 60, 20, 0]
        assert [1000 * each for each in times] == [*self.pts, 300]

    def test_frames_before_the_first_and_after_the_last_kept_one(self, write, run):
        kept = (2, 4)
        _, frames, times = run(self.sampled(write, kept, (90, 160)), timeline=self.timeline(kept))
        assert levels(frames) == [90, 90, 90, 130, 160, 160, 160, 160]
        assert [1000 * each for each in times] == [*self.pts, 300]

    def test_cuts_are_held_and_dissolves_cross_faded(self, write, run):
        source = self.sampled(write, (0, 4), (0, 160))
        assert levels(run(source, timeline=self.timeline((0, 4), shots=(0, 3)))[1])[:5] == [0, 0, 0, 160, 160]
        dissolve = self.timeline((0, 4), shots=(0, 4), transitions=((2, 3, "dissolve"),))

        class Never:
            prepare = between = None

        report, frames, _ = run(source, interpolator=Never(), timeline=dissolve)
        assert levels(frames)[:5] == [0, 0, 67, 120, 160] and report["faded"] == 2

    def test_loop(self, write, run):
        source = self.sampled(write, (0, 4), (0, 160))
        _, frames, _ = run(source, timeline=self.timeline((0, 4)), loop=True)
        assert levels(frames) == [0, 40, 90, 130, 160, 114, 69, 46]

    def test_restore_gives_the_same(self, write, run):
        kept = (0, 3, 7)
        made = list(restore(iter(grey(0, 130, 0)), self.timeline(kept), BlendInterpolator()))
        assert levels(np.stack(made)) == [0, 40, 90, 130, 100, 60, 20, 0]

    @pytest.mark.parametrize(("kept", "text"), [((0, 3, 7), "has 2 frames"), ((0,), "has more than 1 frames")])
    def test_another_video(self, write, run, tmp_path, kept, text):
        source = self.sampled(write, (0, 4), (0, 160))
        with pytest.raises(ValueError, match=f"{text}, but the timeline kept {len(kept)}"):
            run(source, timeline=self.timeline(kept))
        assert not (tmp_path / "out.mp4").exists()


class TestSound:
    @pytest.fixture
    def tone(self, tmp_path):
        """A second of silence, then a tone."""
        samples = (20_000 * np.sin(np.arange(96_000) * 0.1)).astype("<i2")
        samples[:48_000] = 0
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setnchannels(1), file.setsampwidth(2), file.setframerate(48_000)
            file.writeframes(samples.tobytes())
        buffer.seek(0)
        return buffer

    def begins(self, path):
        """When the tone begins, in seconds."""
        with av.open(str(path)) as container:
            for frame in container.decode(audio=0):
                loud = np.flatnonzero(np.abs(frame.to_ndarray().astype(float)).max(0) > 0.2)
                if loud.size:
                    return float(frame.pts * frame.time_base) + loud[0] / frame.sample_rate
        return None

    @pytest.mark.parametrize("options", [{"rate": Fraction(60)}, {"times": 3}, {"rate": Fraction(10)}])
    def test_stays_in_step(self, write, run, tone, tmp_path, options):
        source = write(grey(*range(0, 96, 2)), audio_source=tone)
        run(source, **options)
        assert self.begins(tmp_path / "out.mp4") == pytest.approx(1, abs=0.03)

    def test_of_a_part(self, write, run, tone, tmp_path):
        source = write(grey(*range(0, 96, 2)), audio_source=tone)
        _, frames, times = run(source, times=2, start=Fraction(1, 2), duration=1)
        assert levels(frames)[::2] == list(range(24, 72, 2))
        assert times[-1] == 1
        assert self.begins(tmp_path / "out.mp4") == pytest.approx(0.5, abs=0.03)

    def test_of_a_video_that_starts_late(self, write, run, tone, tmp_path):
        """The sound of the file keeps its own time: the pictures begin half a second after it."""
        source = write(grey(0, 20, 40), [500, 540, 580], time_base=MS, audio_source=tone)
        _, _, times = run(source, rate=Fraction(60))
        assert times[0] == Fraction(1, 2)
        assert self.begins(tmp_path / "out.mp4") == pytest.approx(1, abs=0.03)

    def test_left_out_when_asked(self, write, run, tone, tmp_path):
        run(write(grey(0, 20), audio_source=tone), times=2, audio=False)
        with VideoReader(tmp_path / "out.mp4") as reader:
            assert not reader.info.has_audio


class TestAll:
    def test_images(self, tmp_path):
        clip = ImageClip(uint8_to_image(grey(0, 100)), Fraction(10))
        kept = []
        report = interpolate_clip(
            clip, tmp_path / "out.mp4", Retiming(times=2), InBetweens(BlendInterpolator()), collect=kept.append
        )
        assert levels(np.concatenate(kept)) == [0, 50, 100, 100] and report["duration"] == pytest.approx(0.2)

    def test_report(self, write, run):
        report, _, _ = run(write(grey(0, 16, 16)), times=2)
        assert (report["source_frames"], report["width"], report["height"]) == (3, WIDTH, HEIGHT)
        assert report["computed_fraction"] == 0.5 == report["skipped_fraction"]
        assert report["seconds_saved"] is not None and report["seconds"] >= report["seconds_interpolating"] > 0

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "Give just one of a timeline, a rate and a multiplier. Given: none"),
            ({"rate": Fraction(60), "times": 2}, "Given: rate, times"),
            ({"rate": Fraction(0)}, r"Invalid frame rate \(0\)"),
            ({"rate": Fraction(1001)}, "up to 1000"),
            ({"times": 65}, r"Invalid multiplier \(65\). Supported are 1 to 64"),
            ({"times": 2, "at_cuts": "warp"}, "Invalid at_cuts .*'hold' and 'crossfade'"),
            ({"times": 2, "repeats": "drop"}, "Invalid repeats .*'keep' and 'retime'"),
        ],
    )
    def test_options_that_cannot_be(self, write, run, options, message):
        with pytest.raises(ValueError, match=message):
            run(write(grey(0, 20)), **options)

    def test_cancel_leaves_nothing(self, write, tmp_path):
        begun = []

        def check():
            begun.extend(path.name for path in tmp_path.glob(".*.part"))
            if begun:
                raise KeyboardInterrupt

        source = write(scenes(20))
        assert not begun
        with pytest.raises(KeyboardInterrupt):
            interpolate(source, tmp_path / "o.mp4", interpolator=BlendInterpolator(), times=2, check=check)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4"]

    def test_progress_counts_the_source(self, write, run):
        done = []
        run(write(grey(*range(20))), times=2, progress=done.append)
        assert sum(done) == 2 * 20  # it is read twice

    def test_missing_file(self, run, tmp_path):
        with pytest.raises(VideoError, match=r"gone\.mp4"):
            run(tmp_path / "gone.mp4", times=2)

    def test_frames_are_let_go(self, tmp_path):
        """Of a long clip only a window is there at any time."""
        alive, most = [], 0

        class Tracked(np.ndarray):
            """Can be referred to weakly; so can its views, which keep it alive."""

        class Long(ImageClip):
            def chunks(self):
                nonlocal most
                for chunk in super().chunks():
                    frames = chunk.frames.copy().view(Tracked)
                    alive.append(weakref.ref(frames.base))
                    most = max(most, sum(ref() is not None for ref in alive))
                    yield FrameChunk(frames, chunk.pts, chunk.durations)

        images = uint8_to_image(np.zeros((320, 8, 8, 3), np.uint8))
        clip = Long(images, Fraction(10))
        interpolate_clip(clip, tmp_path / "o.mp4", Retiming(times=2), InBetweens(BlendInterpolator()))
        assert 1 <= most <= 6  # chunks of eight

    def test_frames_go_to_the_interpolator_as_they_are(self, write, run):
        seen = []

        class Watch(BlendInterpolator):
            def between(self, first, second, times, features=None):
                seen.append((first, second, tuple(times)))
                return super().between(first, second, times, features)

        source = scenes(2)
        run(write(source), interpolator=Watch(), times=3)
        first, second, times = seen[0]
        assert times == (1 / 3, 2 / 3)
        assert torch.equal(first, uint8_to_image(source[:1]).movedim(-1, 1))
        assert torch.equal(second, uint8_to_image(source[1:]).movedim(-1, 1))
