import numpy as np
import pytest
import torch

from tokenreel.models import shot_judge
from tokenreel.models.checkpoint import CheckpointError, load_shot_net
from tokenreel.models.shot_judge import LONGEST, changes_of, flashes_of, runs, settled
from tokenreel.models.shot_matching import Agreement, match, place
from tokenreel.models.shot_net import CLASSES, ShotNet, ShotNetConfig
from tokenreel.models.shots import MotionMeter, Transition
from tokenreel.video.reel import render


@pytest.fixture(scope="module")
def reel():
    return render(128, 96, 24, 1.25)


@pytest.fixture(scope="module")
def frames(reel):
    return np.stack(list(reel.frames()))


both = pytest.mark.parametrize("detector", ["shipped", None])


def meter_of(frames, chunk=16, detector="shipped"):
    meter = MotionMeter(detector)
    for start in range(0, len(frames), chunk):
        meter.update(frames[start : start + chunk])
    return meter


@both
def test_cuts_of_the_reel_and_nothing_else(reel, frames, detector):
    meter = meter_of(frames, detector=detector)
    assert meter.cuts == reel.cuts
    assert meter.energy[0] == 0 and len(meter.energy) == len(frames)


def test_cuts_by_the_score_are_those_without_a_net(frames):
    with_net, without = meter_of(frames), meter_of(frames, detector=None)
    assert with_net.score_cuts == without.score_cuts == without.cuts != ()


def test_the_dissolve_of_the_reel(reel, frames):
    meter = meter_of(frames)
    last = reel.scenes[-1]
    (found,) = [each for each in meter.transitions if each.kind != "cut"]
    assert found.kind == "dissolve"
    assert abs(found.first - last.start) <= 2 and abs(found.begins - (last.start + last.dissolve)) <= 2


def test_chunking_does_not_matter(frames):
    whole, single, odd = (meter_of(frames, size) for size in (1000, 1, 7))
    for other in (single, odd):
        assert np.array_equal(whole.energy, other.energy) and whole.transitions == other.transitions
        assert np.array_equal(whole._judge.probabilities, other._judge.probabilities)


def test_energy_follows_motion(reel, frames):
    energy = meter_of(frames).energy
    mean = {scene.name: energy[scene.start + 1 : scene.end].mean() for scene in reel.scenes}
    assert mean["field"] > mean["wall"] > mean["talk"] > 0


@both
@pytest.mark.parametrize("length", [1, 2])
def test_a_flash_is_no_cut(frames, length, detector):
    flashed = frames[30:60].copy()
    flashed[12 : 12 + length] = np.clip(flashed[12 : 12 + length].astype(int) + 120, 0, 255)
    meter = meter_of(flashed, detector=detector)
    assert meter.transitions == () and meter.flashes == ((12, 11 + length),)


@both
def test_a_jolt_of_the_camera_is_no_cut(frames, detector):
    jolted = frames[30:60].copy()
    jolted[15:] = np.roll(jolted[15:], (5, 14), axis=(1, 2))
    meter = meter_of(jolted, detector=detector)
    assert meter.transitions == () and meter.flashes == ()


def test_steady_fast_motion_and_a_dissolve_are_no_cuts(frames):
    assert meter_of(frames[60:]).cuts == ()


def test_a_fade_through_black(frames):
    old, new = frames[30:54].astype(float), frames[100:124].astype(float)
    old[-8:] *= np.linspace(1, 0, 10)[1:-1, None, None, None]
    new[:8] *= np.linspace(0, 1, 10)[1:-1, None, None, None]
    faded = np.concatenate([old, np.zeros((3, *old.shape[1:])), new]).astype(np.uint8)
    (found,) = meter_of(faded).transitions
    assert found.kind == "fade" and abs(found.first - 16) <= 2 and abs(found.begins - 35) <= 2


@both
def test_one_frame_and_noise(detector):
    for still in (np.zeros((1, 20, 20, 3), np.uint8), np.zeros((3, 1, 400, 3), np.uint8)):
        meter = meter_of(still, detector=detector)
        assert meter.transitions == meter.flashes == () and meter.settled == 0
    assert MotionMeter(detector).transitions == ()
    noise = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), dtype=np.uint8)
    assert meter_of(noise, detector=detector).cuts == ()


@pytest.mark.parametrize("size", [(90, 160), (97, 333), (400, 30), (2, 500), (60, 40)])
def test_thumbnails_are_means_of_blocks(size):
    """Non-regression: a strip lower than a block was refused by the faster summing of rows."""
    from tokenreel.models.shots import LOW_SIDE, _thumbnail

    H, W = size
    frame = np.random.default_rng(1).integers(0, 256, (H, W, 3), dtype=np.uint8)
    step = -(-max(H, W) // LOW_SIDE)
    small = _thumbnail(frame)
    assert small.dtype == np.float32 and max(small.shape[:2]) <= LOW_SIDE
    block = frame[: min(step, H), : min(step, W)]
    assert np.allclose(small[0, 0], block.mean((0, 1)), atol=1e-3)


class TestSettled:
    @both
    def test_verdicts_stand(self, frames, detector):
        """Whatever is told of settled frames while frames come in is told at the end, and nothing else."""
        clip = np.concatenate([frames, frames[::-1]])
        final = meter_of(clip, detector=detector).transitions
        meter, told = MotionMeter(detector), []
        for start in range(0, len(clip), 5):
            meter.update(clip[start : start + 5])
            told.append((meter.settled, meter.settled_transitions, len(meter.scores)))
        assert len(final) >= 4
        for stands, early, count in told:
            assert early == tuple(each for each in final if each.first < stands)
            assert count - stands <= 54 + LONGEST
        gaps = [count - stands for stands, _, count in told]
        assert np.median(gaps) <= 54 and [stands for stands, *_ in told] == sorted(stands for stands, *_ in told)

    def test_waits_for_the_end_of_a_dissolve(self):
        judged = np.zeros((100, 4))
        assert settled(judged) == 94
        judged[70:98, CLASSES.index("dissolve")] = 0.95
        assert settled(judged) == 66
        judged[20:98, CLASSES.index("dissolve")] = 0.95
        assert settled(judged) == 94  # longer than any dissolve
        assert changes_of(judged, np.zeros(100, bool)) == ()

    def test_memory_per_frame_is_small(self, frames):
        meter = MotionMeter()
        for _ in range(4):
            meter.update(frames)
        judge = meter._judge
        assert len(judge._groups) * shot_judge._GROUP < 100 and len(judge._thumbnails) < shot_judge._GROUP
        assert sum(each.nbytes for each in judge._judged) <= 32 * 4 * len(frames)


class TestVerdicts:
    @staticmethod
    def probabilities(count=60, **marks):
        values = np.full((count, 4), 0.01)
        for name, (first, last, value) in marks.items():
            values[first : last + 1, CLASSES.index(name)] = value
        return values

    def test_a_cut_is_where_it_is_surest(self):
        values = self.probabilities(cut=(30, 30, 0.9))
        values[29, 0] = values[31, 0] = 0.7
        assert changes_of(values, np.zeros(60, bool)) == (Transition(30, 29, "cut"),)

    def test_the_score_helps_where_the_net_doubts(self):
        values = self.probabilities(cut=(30, 30, (shot_judge._CUT + shot_judge._CUT_SEEN) / 2))
        seen = np.zeros(60, bool)
        assert changes_of(values, seen) == ()
        seen[31] = True  # a frame beside it will do
        assert changes_of(values, seen) == (Transition(30, 29, "cut"),)

    def test_the_surer_of_cut_and_dissolve(self):
        values = self.probabilities(dissolve=(20, 30, 0.9), cut=(25, 25, 0.8))
        assert changes_of(values, np.zeros(60, bool)) == (Transition(20, 30, "dissolve"),)
        values = self.probabilities(dissolve=(20, 22, 0.9), cut=(22, 22, 0.95))
        assert changes_of(values, np.zeros(60, bool)) == (Transition(22, 21, "cut"),)

    def test_a_change_has_a_shot_on_both_sides(self):
        for marks in ({"fade": (0, 9, 0.99)}, {"fade": (50, 59, 0.99)}, {"cut": (0, 0, 0.99)}):
            assert changes_of(self.probabilities(**marks), np.ones(60, bool)) == ()

    def test_gaps_are_closed_and_weak_ones_left(self):
        values = self.probabilities(fade=(20, 30, 0.95))
        values[25:27] = 0.01
        assert changes_of(values, np.zeros(60, bool)) == (Transition(20, 30, "fade"),)
        assert changes_of(self.probabilities(dissolve=(20, 30, 0.7)), np.zeros(60, bool)) == ()

    def test_flashes(self):
        assert flashes_of(self.probabilities(flash=(9, 11, 0.8))) == ((9, 11),)
        assert flashes_of(self.probabilities(flash=(9, 40, 0.8))) == ()

    def test_runs(self):
        marked = np.array([1, 1, 0, 1, 0, 0, 0, 1], bool)
        assert runs(marked, 0) == [(0, 1), (3, 3), (7, 7)] and runs(marked, 1) == [(0, 3), (7, 7)]
        assert runs(np.zeros(3, bool), 2) == []


class TestMatching:
    truth = (Transition(10, 9, "cut"), Transition(20, 29, "dissolve"), Transition(40, 39, "cut"))

    def test_tolerance(self):
        assert match(self.truth, [11, 18, 42]) == [0, 1, None]
        assert match(self.truth, [11, 17, 42]) == [0, None, None]
        assert match(self.truth, [12, 31, 41], tolerance=1) == [None, 1, 2]
        assert match(self.truth, [12, 31, 42], tolerance=2) == [0, 1, 2]

    def test_each_finds_one_and_the_rest_is_false(self):
        found = Agreement.of(self.truth, [10, 22, 25, 28])
        assert (found.found, found.missed, found.false) == (2, 1, 2)
        assert found.f1 == pytest.approx(4 / 7) and (found + found).recall == pytest.approx(2 / 3)

    def test_two_cuts_side_by_side(self):
        cuts = (Transition(10, 9, "cut"), Transition(12, 11, "cut"))
        assert match(cuts, [11, 11]) == [0, 1] and match(cuts, [9, 11]) == [0, 1]

    def test_places(self):
        assert [place(each) for each in self.truth] == [10, 25, 40]


class TestNet:
    def test_small(self):
        assert sum(weight.numel() for weight in ShotNet().parameters()) < 300_000

    def test_looks_no_farther_than_it_says(self):
        torch.manual_seed(0)
        net = ShotNet(ShotNetConfig(offsets=(1, 3), dilations=(1, 2), width=16)).eval()
        radius = net.config.radius
        frames = torch.rand(1, 2 * radius + 5, 3, 27, 48)
        whole = net(frames)
        assert whole.shape == (1, 5, 4)
        assert torch.allclose(whole[:, 2:3], net(frames[:, 2 : 2 + 2 * radius + 1]), atol=1e-4)
        frames[:, -1] = 0
        changed = net(frames)
        assert torch.allclose(whole[:, :-1], changed[:, :-1], atol=1e-4)
        assert not torch.allclose(whole[:, -1], changed[:, -1], atol=1e-3)

    def test_without_weights(self, tmp_path, monkeypatch):
        monkeypatch.setattr("tokenreel.models.checkpoint.WEIGHTS", tmp_path)
        with pytest.raises(CheckpointError, match="No shot net"):
            load_shot_net()
        meter_of(np.zeros((2, 20, 20, 3), np.uint8), detector=None)  # needs none


def test_frames_of_another_size_are_refused():
    meter = meter_of(np.zeros((2, 20, 20, 3), np.uint8))
    with pytest.raises(ValueError, match="different sizes"):
        meter.update(np.zeros((1, 24, 20, 3), np.uint8))
