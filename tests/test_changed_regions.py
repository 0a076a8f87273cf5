"""What moves is computed and the rest is copied."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from tokenreel.models.changed_regions import FAINT, InBetweens, blend_weights
from tokenreel.models.changed_tiles import TILE, Box, active_tiles
from tokenreel.models.interpolator import BlendInterpolator

H, W = 200, 330


@pytest.fixture
def pair(texture):
    """Two frames that differ in a square of 24 pixels only; the box around it has 128."""
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


class TestWeights:
    @pytest.mark.parametrize("seed", range(5))
    def test_1_where_it_changed_and_0_where_nothing_is_active(self, seed):
        rng = np.random.default_rng(seed)
        changed = rng.random((24, 40)) < 0.02
        active = active_tiles(changed)
        box = Box(7, 30, 24 * TILE, 39 * TILE + 5)
        weights = blend_weights(active, active, box).numpy()
        fine = [box.of(np.kron(each, np.ones((TILE, TILE), bool))) for each in (changed, active)]
        assert weights.shape == fine[0].shape
        assert (weights[fine[0]] == 1).all()
        assert (weights[~fine[1]] == 0).all()
        assert max(np.abs(np.diff(weights, axis=axis)).max() for axis in (0, 1)) < 0.3  # no hard edge

    def test_what_belongs_to_another_box_is_left_to_it(self):
        active = np.zeros((10, 20), bool)
        active[2:8, 2:18] = True
        own = active.copy()
        own[:, 10:] = False
        weights = blend_weights(active, own, Box(0, 0, 80, 160)).numpy()
        assert (weights[24:56, 24:80] == 1).all()
        assert (weights[:, 88:] == 0).all()
        assert (np.diff(weights[40, 79:89]) < 0).all()


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

    def test_faint_changes_are_mixed(self, pair):
        """Whatever moved there, it is a few levels that it moved by."""
        first, second = pair[0].clip(20, 235), pair[0].clip(20, 235)
        second[100:180, 200:300] += FAINT * 2
        marker = Marker()
        (made,) = InBetweens(marker).frames(first, second, [1 / 3])
        assert marker.asked == []
        assert np.array_equal(made[104:176, 200:296], first[104:176, 200:296] + round(FAINT * 2 / 3))
        assert np.array_equal(made[:96], first[:96])

    def test_boxes_that_overlap_leave_each_other_alone(self, texture):
        """Each has its own tiles; what another one computes from a better view is not overwritten."""
        first = texture(512, 512)
        second = first.copy()
        second[16:112, 16:112] ^= 128
        second[184:280, 184:280] ^= 128

        class Each(Marker):
            def between(self, first, second, times, features=None):
                self.value = len(self.asked) / 4
                return super().between(first, second, times, features)

        each = Each()
        (made,) = InBetweens(each).frames(first, second, [0.5])
        assert [size for size, *_ in each.asked] == [(192, 192), (192, 192)]  # from 0 to 192, and from 136 to 328
        assert (made[16:112, 16:112] == 0).all() and (made[184:280, 184:280] == 64).all()

    def test_boxes_of_one_thing_leave_no_gap_and_no_seam(self, texture):
        """What moves has the shape of an L: two boxes, and where they meet one is blended into the other."""
        first = texture(640, 640)
        second = first.copy()
        second[32:608, 32:96] ^= 128
        second[544:608, 32:608] ^= 128

        class Each(Marker):
            def between(self, first, second, times, features=None):
                self.value = 40 * (1 + len(self.asked)) / 255
                return super().between(first, second, times, features)

        each = Each()
        (made,) = InBetweens(each).frames(first, second, [0.5])
        assert len(each.asked) == 2
        moving = (first != second).any(-1)
        inside = made[moving][:, 0]
        assert set(np.unique(inside[(inside == 40) | (inside == 80)])) == {40, 80}
        assert inside.min() == 40 and inside.max() == 80  # nothing of the frames themselves shows through
        still = np.ones((640, 640), bool)
        still[:, :112] = still[528:] = False
        assert np.array_equal(made[still], first[still])

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
