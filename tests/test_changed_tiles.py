"""Where frames differ: tiles, what lies between them, and few boxes around them."""

import numpy as np
import pytest

from tokenreel.models.changed_tiles import TILE, Box, active_boxes, active_tiles, changed_tiles, labelled


class TestTiles:
    def test_any_difference_counts_at_0(self, texture):
        first = texture(50, 50)
        second = first.copy()
        second[49, 49, 2] ^= 1
        assert np.argwhere(changed_tiles(first, second, 0)).tolist() == [[6, 6]]
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
        assert np.argwhere(changed_tiles(first, second, 2)).tolist() == [[5, 2]]

    def test_a_faint_change_of_a_few_pixels_is_one(self, texture):
        first = texture(64, 64).clip(20, 235)
        second = first.copy()
        second[40:44, 20:24] += 3
        assert np.argwhere(changed_tiles(first, second, 2)).tolist() == [[5, 2]]

    def test_frames_of_other_sizes_are_refused(self):
        with pytest.raises(ValueError, match="different kinds"):
            changed_tiles(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8))


class TestActive:
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


class TestLabels:
    @pytest.mark.parametrize("seed", range(10))
    def test_neighbours_share_one_and_others_do_not(self, seed):
        from scipy.ndimage import label

        active = np.random.default_rng(seed).random((30, 40)) < 0.3
        found, (expected, count) = labelled(active), label(active, np.ones((3, 3)))
        assert found.max() == count
        assert len({(a, b) for a, b in zip(found.ravel(), expected.ravel(), strict=True)}) == count + (not active.all())

    def test_none(self):
        assert not labelled(np.zeros((3, 3), bool)).any()


def boxes_of(*tiles, shape=(90, 160)):
    active = np.zeros(shape, bool)
    for y, x in tiles:
        active[y, x] = True
    return active, active_boxes(active, shape[0] * TILE, shape[1] * TILE)


class TestBoxes:
    def test_sizes_are_multiples_of_64_with_a_margin(self):
        active, boxes = boxes_of((20, 20), (20, 22), (60, 120))
        assert len(boxes) == 2
        for box, own in boxes:
            assert (box.bottom - box.top) % 64 == 0 and (box.right - box.left) % 64 == 0
            for y, x in np.argwhere(own) * TILE:
                assert box.top <= y - 16 and y + 24 <= box.bottom and box.left <= x - 16 and x + 24 <= box.right
        assert np.array_equal(sum(own.astype(int) for _, own in boxes), active)

    def test_nothing_active(self):
        assert boxes_of()[1] == []

    def test_much_active_is_the_whole_frame(self):
        ((box, _),) = active_boxes(np.ones((90, 160), bool), 720, 1280)
        assert box == Box(0, 0, 720, 1280)
        assert len(boxes_of((0, 0), (0, 159), (89, 0), (89, 159))[1]) == 4

    def test_boxes_may_overlap(self):
        """Two that no straight line parts are two boxes all the same, where one would be much larger."""
        one = [(y, x) for y in range(10, 30) for x in range(10, 30)]
        two = [(y, x) for y in range(31, 50) for x in range(31, 50)]
        assert len(boxes_of(*one, *two)[1]) == 2

    def test_a_crooked_thing_is_cut_where_that_saves(self):
        crooked = [(y, x) for y in range(4, 84) for x in range(4, 12)] + [
            (y, x) for y in range(76, 84) for x in range(150)
        ]
        active, boxes = boxes_of(*crooked)
        assert len(boxes) == 2
        assert np.array_equal(sum(own.astype(int) for _, own in boxes), active)
        assert sum(box.area for box, _ in boxes) < 0.4 * 720 * 1280

    def test_a_full_thing_is_not_cut(self):
        assert len(boxes_of(*((y, x) for y in range(20, 60) for x in range(20, 60)))[1]) == 1

    def test_many_specks_are_one(self):
        specks = [(y, x) for y in range(0, 90, 9) for x in range(0, 160, 16)]
        ((box, _),) = boxes_of(*specks)[1]
        assert box == Box(0, 0, 720, 1280)

    def test_small_frames(self):
        ((box, _),) = boxes_of((0, 0), shape=(2, 3))[1]
        assert box == Box(0, 0, 16, 24)

    @pytest.mark.parametrize("seed", range(20))
    def test_every_active_tile_lies_in_its_box(self, seed):
        rng = np.random.default_rng(seed)
        h, w = rng.integers(2, 140, 2)
        height, width = int(h * TILE - rng.integers(0, TILE)), int(w * TILE - rng.integers(0, TILE))
        active = active_tiles(rng.random((h, w)) < 0.003)
        covered = np.zeros((height, width), bool)
        for box, own in active_boxes(active, height, width):
            assert 0 <= box.top < box.bottom <= height and 0 <= box.left < box.right <= width
            fine = np.kron(own, np.ones((TILE, TILE), bool))[:height, :width]
            box.of(covered)[...] |= box.of(fine)
        assert np.array_equal(covered, np.kron(active, np.ones((TILE, TILE), bool))[:height, :width])
