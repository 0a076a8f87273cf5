
import numpy as np
import pytest

from tokenreel.models.shots import MotionMeter
from tokenreel.video.reel import render


@pytest.fixture(scope="module")
def reel():
    return render(128, 96, 24, 1.25)


@pytest.fixture(scope="module")
def frames(reel):
    return np.stack(list(reel.frames()))


def meter_of(frames, chunk=16):
    meter = MotionMeter()
    for start in range(0, len(frames), chunk):
        meter.update(frames[start : start + chunk])
    return meter


def test_cuts_of_the_reel_and_nothing_else(reel, frames):
    meter = meter_of(frames)
    assert meter.cuts == reel.cuts
    assert meter.energy[0] == 0 and len(meter.energy) == len(frames)


def test_chunking_does_not_matter(frames):
    whole, single = meter_of(frames, 1000), meter_of(frames, 1)
    assert np.array_equal(whole.energy, single.energy) and whole.cuts == single.cuts


def test_energy_follows_motion(reel, frames):
    energy = meter_of(frames).energy
    mean = {scene.name: energy[scene.start + 1 : scene.end].mean() for scene in reel.scenes}
    assert mean["field"] > mean["wall"] > mean["talk"] > 0


@pytest.mark.parametrize("length", [1, 2])
def test_a_flash_is_no_cut(frames, length):
    flashed = frames[30:60].copy()
    flashed[12 : 12 + length] = np.clip(flashed[12 : 12 + length].astype(int) + 120, 0, 255)
    assert meter_of(flashed).cuts == ()


def test_a_jolt_of_the_camera_is_no_cut(frames):
    jolted = frames[30:60].copy()
    jolted[15:] = np.roll(jolted[15:], (5, 14), axis=(1, 2))
    assert meter_of(jolted).cuts == ()


def test_steady_fast_motion_and_a_dissolve_are_no_cuts(frames):
    assert meter_of(frames[60:]).cuts == ()


def test_one_frame_and_noise():
    assert meter_of(np.zeros((1, 20, 20, 3), np.uint8)).cuts == ()
    noise = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), dtype=np.uint8)
    assert meter_of(noise).cuts == ()


def test_frames_of_another_size_are_refused():
    meter = meter_of(np.zeros((2, 20, 20, 3), np.uint8))
    with pytest.raises(ValueError, match="different sizes"):
        meter.update(np.zeros((1, 24, 20, 3), np.uint8))
