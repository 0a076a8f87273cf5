"""What moves is computed and the rest is copied: tiles, boxes, and frames put together."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from tokenreel.models.changed_regions import (
    TILE,
    Box,
    InBetweens,
    active_boxes,
    active_tiles,
    blend_weights,
    changed_tiles,
)
from tokenreel.models.interpolator import BlendInterpolator

H, W = 200, 330


@pytest.fixture
def pair(texture):
    """Two frames that differ in a square of 24 pixels only."""
    first = texture(H, W)
    second = first.copy()
    second[64:88, 100:124] = 255 - second[64:88, 100:124]
    return first, second


class Marker:
    """Gives frames of a colour that no other frame has, and remembers what it was asked for."""

    def __init__(self, value=1.0):
        self.value, self.asked, self.prepared = value, [], 0

    def prepare(self, frame):
        self.prepared += 1
        return self.prepared

    def between(self, first, second, times, features=None):
        self.asked.append((tuple(first.shape[-2:]), tuple(times), features))
        return torch.full((len(times), *first.shape[1:]), self.value)


class TestTiles:
    def test_any_difference_counts_at_0(self, texture):
        first = texture(50, 50)
        second = first.copy()
        second[49, 49, 2] ^= 1
        assert np.argwhere(changed_tiles(first, second, 0)).tolist() == [[3, 3]]
        assert not changed_tiles(first, second, 2).any()
        assert not changed_tiles(first, first.copy(), 0).any()

    def test_noise_is_no_change(self, texture):
        rng = np.random.default_rng(0)
        clean = texture(96, 96).clip(20, 235)
        first, second = (np.rint(clean + rng.normal(0, 0.8, clean.shape)).astype(np.uint8) for _ in range(2))
        assert np.abs(first.astype(int) - second).max() > 2
        assert not changed_tiles(first, second, 2).any()
        assert changed_tiles(first, second, 0).all()

    def test_a_single_pixel_by_far_is_a_change(self, texture):
        first = texture(64, 64).clip(20, 235)
        second = first.copy()
        second[40, 20, 1] -= 9
        assert np.argwhere(changed_tiles(first, second, 2)).tolist() == [[2, 1]]

    def test_a_faint_change_of_a_few_pixels_is_one(self, texture):
        first = texture(64, 64).clip(20, 235)
        second = first.copy()
        second[40:44, 20:24] += 3
        assert np.argwhere(changed_tiles(first, second, 2)).tolist() == [[2, 1]]

    def test_frames_of_other_sizes_are_refused(self):
        with pytest.raises(ValueError, match="different kinds"):
            changed_tiles(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8))

    def test_between_two_places_is_active(self):
        """A small thing that moves fast changes where it was and where it will be; half way it is between them."""
        changed = np.zeros((40, 60), bool)
        changed[20, 20] = changed[20, 25] = True
        active = active_tiles(changed)
        assert active[19:22, 19:27].all()
        assert not active[:15].any() and not active[:, :15].any() and not active[:, 31:].any()

    def test_far_apart_stays_apart(self):
        changed = np.zeros((40, 60), bool)
        changed[10, 10] = changed[30, 50] = True
        assert active_tiles(changed).sum() == 18

    def test_near_the_edge_reaches_to_it(self):
        changed = np.zeros((40, 60), bool)
        changed[10, 2] = True
        assert active_tiles(changed)[10, 0]


class TestBoxes:
    def boxes(self, *tiles, shape=(45, 80)):
        active = np.zeros(shape, bool)
        for y, x in tiles:
            active[y, x] = True
        return active, active_boxes(active, shape[0] * TILE, shape[1] * TILE)

    def test_sizes_are_multiples_of_64_with_a_margin(self):
        active, boxes = self.boxes((10, 10), (10, 14), (30, 60))
        assert len(boxes) == 2
        for box in boxes:
            assert (box.bottom - box.top) % 64 == 0 and (box.right - box.left) % 64 == 0
        for y, x in np.argwhere(active) * TILE:
            assert any(b.top <= y - 16 and y + 32 <= b.bottom and b.left <= x - 16 and x + 32 <= b.right for b in boxes)

    def test_nothing_active(self):
        assert self.boxes()[1] == []

    def test_much_active_is_the_whole_frame(self):
        assert active_boxes(np.ones((45, 80), bool), 720, 1280) == [Box(0, 0, 720, 1280)]
        corners = [(0, 0), (0, 79), (44, 0), (44, 79)]
        assert len(self.boxes(*corners)[1]) == 4

    def test_small_frames(self):
        assert self.boxes((0, 0), shape=(2, 3))[1] == [Box(0, 0, 32, 48)]

    @pytest.mark.parametrize("seed", range(20))
    def test_every_active_tile_lies_in_a_box(self, seed):
        rng = np.random.default_rng(seed)
        h, w = rng.integers(2, 70, 2)
        height, width = h * TILE - rng.integers(0, TILE), w * TILE - rng.integers(0, TILE)
        active = active_tiles(rng.random((h, w)) < 0.01)
        covered = np.zeros((height, width), int)
        for box in active_boxes(active, int(height), int(width)):
            assert 0 <= box.top < box.bottom <= height and 0 <= box.left < box.right <= width
            box.of(covered)[...] += 1
        assert covered[np.kron(active, np.ones((TILE, TILE), bool))[:height, :width]].all()


class TestWeights:
    @pytest.mark.parametrize("seed", range(5))
    def test_1_where_it_changed_and_0_where_nothing_is_active(self, seed):
        rng = np.random.default_rng(seed)
        changed = rng.random((12, 20)) < 0.05
        active = active_tiles(changed)
        box = Box(7, 30, 12 * TILE, 19 * TILE + 5)
        weights = blend_weights(active, box).numpy()
        fine = [box.of(np.kron(each, np.ones((TILE, TILE), bool))) for each in (changed, active)]
        assert weights.shape == fine[0].shape
        assert (weights[fine[0]] == 1).all()
        assert (weights[~fine[1]] == 0).all()
        assert np.abs(np.diff(weights, axis=0)).max() < 0.3  # no hard edge


class TestInBetweens:
    def test_static_pixels_are_those_of_the_nearer_frame(self, pair):
        first, second = pair
        second = second.copy()
        second[150:, 250:] = first[150:, 250:] ^ 1  # a difference that is not seen
        marker = Marker()
        early, late = InBetweens(marker).frames(first, second, [0.4, 0.6])
        static = np.ones((H, W), bool)
        static[30:130, 60:160] = False
        assert np.array_equal(early[static], first[static]) and np.array_equal(late[static], second[static])
        assert (early[64:88, 100:124] == 255).all()  # the marker's
        assert marker.asked == [((128, 128), (0.4, 0.6), None)]

    def test_equal_frames_take_nothing(self, pair):
        marker = Marker()
        between = InBetweens(marker)
        (made,) = between.frames(pair[0], pair[0].copy(), [0.5])
        assert np.array_equal(made, pair[0]) and marker.asked == []
        assert between.cost.computed_fraction == 0 and between.cost.seconds_whole is None

    @pytest.mark.parametrize("threshold", [0, 2])
    def test_a_flat_change_leaves_no_seam(self, threshold):
        """What is blended in is alike at the rim: half way between two greys, with the same ground around them."""
        first = np.full((160, 160, 3), 90, np.uint8)
        second = first.copy()
        second[60:90, 60:90] = 110
        (made,) = InBetweens(BlendInterpolator(), threshold).frames(first, second, [0.5])
        assert (made[60:90, 60:90] == 100).all()
        made[60:90, 60:90] = 90
        assert (made == 90).all()

    def test_whole_frames_are_prepared_once(self, texture):
        marker = Marker(0.25)
        between = InBetweens(marker, None)
        frames = [texture(64, 64, seed) for seed in range(3)]
        for one, two in pairwise(frames):
            (made,) = between.frames(one, two, [0.5])
            assert (made == 64).all()
        assert marker.prepared == 3
        assert [features for *_, features in marker.asked] == [(1, 2), (2, 3)]
        assert between.cost.computed_fraction == 1 and between.cost.frames == 2

    def test_moving_pictures_are_computed_whole(self, texture):
        marker = Marker()
        list(InBetweens(marker).frames(texture(H, W, 1), texture(H, W, 2), [0.5]))
        assert marker.asked[0][0] == (H, W)

    def test_many_times_in_pieces(self, texture):
        marker = Marker()
        times = [index / 10 for index in range(1, 10)]
        between = InBetweens(marker, None, at_once=4 * 64 * 64)
        assert len(list(between.frames(texture(64, 64, 0), texture(64, 64, 1), times))) == 9
        assert [len(asked) for _, asked, _ in marker.asked] == [4, 4, 1]

    def test_cost(self, pair):
        between = InBetweens(Marker())
        list(between.frames(*pair, [0.25, 0.5, 0.75]))
        cost = between.cost
        assert (cost.frames, cost.pixels, cost.computed) == (3, 3 * H * W, 3 * 128 * 128)
        assert cost.computed_fraction == pytest.approx(128 * 128 / (H * W))
        assert cost.seconds_whole == pytest.approx(cost.seconds / cost.computed_fraction)

    def test_cancel(self, pair):
        def check():
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(InBetweens(Marker(), check=check).frames(*pair, [0.5]))
