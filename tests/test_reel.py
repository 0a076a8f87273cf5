import numpy as np
import pytest

from tokenreel.video.reel import render


@pytest.fixture(scope="module")
def reel():
    return render(96, 80, 24, 1.25)


@pytest.fixture(scope="module")
def frames(reel):
    return np.concatenate(list(reel.chunks(7)))


def test_length_and_scenes(reel, frames):
    assert frames.shape == (120, 80, 96, 3) and frames.dtype == np.uint8
    assert [scene.start for scene in reel.scenes] == [0, 30, 60, 90] and reel.cuts == (30, 60)
    assert [scene.transition for scene in reel.scenes] == ["start", "cut", "cut", "dissolve"]


def test_same_seed_same_pixels(reel, frames):
    assert np.array_equal(frames, np.stack(list(reel.frames())))
    other = next(render(96, 80, 24, 1.25, seed=1).frames())
    assert not np.array_equal(frames[0], other)


def test_whole_pixel_pan_is_exact(reel, frames):
    motion = reel.motion()
    moved = [k for k in range(1, 30) if motion[k] == (0.0, -2.0)]
    assert moved
    for k in moved:
        assert np.array_equal(frames[k][:, :-2], frames[k - 1][:, 2:])


def test_half_pixel_pan_adds_up(reel, frames):
    motion = reel.motion()
    # Two steps of 1.5 pixels are 3 whole ones, and the camera does not rise in between.
    assert motion[1] == motion[2] == (0.0, -1.5)
    assert np.array_equal(frames[2][:, :-3], frames[0][:, 3:])


def test_only_the_face_moves_in_the_talk(frames):
    talk = frames[30:60].astype(int)
    changed = (np.abs(np.diff(talk, axis=0)).max((0, 3))) > 0
    assert 0 < changed.mean() < 0.1
    assert not changed[:20].any() and not changed[-12:].any()


def test_ground_moves_as_told(reel, frames):
    for k in range(62, 90):
        shift = -int(reel.motion()[k][1])
        assert shift >= 1
        # The stand at the top holds no players.
        assert np.array_equal(frames[k][:12, :-shift], frames[k - 1][:12, shift:])


def test_dissolve_is_gradual_and_cuts_are_not(reel, frames):
    change = np.abs(np.diff(frames.astype(int), axis=0)).mean((1, 2, 3))
    assert change[29] > 25 and change[59] > 25
    assert change[89:101].max() < 0.6 * change[59]


def test_grain_differs_in_every_frame(frames):
    sky = frames[105:, 2:10, :12].astype(float)
    assert np.diff(sky, axis=0).std() > 4


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="at least 32"):
        render(16, 16)
    with pytest.raises(ValueError, match="Invalid reel timing"):
        render(frame_rate=0)
