"""Warping is exact integer arithmetic; the search finds what really moved."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tokenreel.models.motion import BLOCK, GLOBAL_REACH, REACH, MotionSearch, compensate, half_pel_planes, luma, warp

TAPS = (1, -5, 20, 20, -5, 1)


@pytest.fixture
def picture(texture):
    """Makes uint8 `[1, 3, height, width]`."""

    def make(height=64, width=64, seed=0):
        return torch.from_numpy(texture(height, width, seed)).permute(2, 0, 1).unsqueeze(0).contiguous()

    return make


def uniform(frame, vector):
    B, _, H, W = frame.shape
    return torch.tensor(vector).expand(B, H // BLOCK, W // BLOCK, 2)


def six_tap(row):
    """Samples half a pixel after each one of a list, in plain integers."""
    at = lambda i: int(row[min(max(i, 0), len(row) - 1)])  # noqa: E731
    sums = [sum(tap * at(i + k - 2) for k, tap in enumerate(TAPS)) for i in range(len(row))]
    return [min(max((s + 16) >> 5, 0), 255) for s in sums]


class TestWarp:
    @pytest.mark.parametrize(("dy", "dx"), [(0, 0), (3, -5), (-16, 7), (40, 40), (-63, 0)])
    def test_whole_pixels_are_copied_and_edges_repeat(self, picture, dy, dx):
        frame = picture(48, 80)
        rows = np.clip(np.arange(48) + dy, 0, 47)
        columns = np.clip(np.arange(80) + dx, 0, 79)
        expected = frame[:, :, rows][:, :, :, columns]
        assert torch.equal(warp(half_pel_planes(frame), uniform(frame, (2 * dy, 2 * dx))), expected)

    def test_half_pixels_of_a_row_computed_by_hand(self):
        """Around the edge: (0 + 16) >> 5, (64 + 16) >> 5 ... of the six-tap sums."""
        frame = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
        frame[..., 8:] = 64
        row = warp(half_pel_planes(frame), uniform(frame, (0, 1)))[0, 0, 3].tolist()
        # 64 * (1, 1 - 5, 1 - 5 + 20, 36, 31, 32 ...) / 32, rounded and clipped
        assert row == [0, 0, 0, 0, 0, 2, 0, 32, 72, 62, 64, 64, 64, 64, 64, 64]

    @pytest.mark.parametrize("seed", range(3))
    def test_half_planes_are_the_integer_filter(self, seed):
        """On noise, the worst case for overshoot: rounded and clipped after each direction."""
        frame = torch.randint(0, 256, (1, 1, 16, 32), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
        frame[0, 0, :4] = (frame[0, 0, :4] > 127).to(torch.uint8) * 255
        whole, right, down, both = half_pel_planes(frame)[0, 0].tolist()
        assert whole == frame[0, 0].tolist()
        assert right == [six_tap(row) for row in whole]
        columns = [six_tap(column) for column in zip(*whole, strict=True)]
        assert down == [list(row) for row in zip(*columns, strict=True)]
        columns = [six_tap(column) for column in zip(*right, strict=True)]
        assert both == [list(row) for row in zip(*columns, strict=True)]

    @pytest.mark.parametrize(
        ("vector", "plane", "shift"), [((-3, 0), 2, (-2, 0)), ((0, 5), 1, (0, 2)), ((7, -1), 3, (3, -1))]
    )
    def test_odd_vectors_take_the_half_plane_below_or_right(self, picture, vector, plane, shift):
        planes = half_pel_planes(picture(48, 48))
        rows = np.clip(np.arange(48) + shift[0], 0, 47)
        columns = np.clip(np.arange(48) + shift[1], 0, 47)
        expected = planes[:, :, plane][:, :, rows][:, :, :, columns]
        assert torch.equal(warp(planes, uniform(planes[:, :, 0], vector)), expected)

    def test_every_block_has_its_own_vector(self, picture):
        frame = picture(32, 48)
        planes = half_pel_planes(frame)
        motion = torch.randint(-40, 41, (1, 2, 3, 2), generator=torch.Generator().manual_seed(0))
        warped = warp(planes, motion)
        for y in range(2):
            for x in range(3):
                part = (..., slice(16 * y, 16 * y + 16), slice(16 * x, 16 * x + 16))
                assert torch.equal(warped[part], warp(planes, uniform(frame, motion[0, y, x].tolist()))[part])

    def test_same_bits_in_every_batch(self, picture):
        frames = torch.cat([picture(seed=seed) for seed in range(4)])
        motion = torch.randint(-50, 51, (4, 4, 4, 2), generator=torch.Generator().manual_seed(1))
        together = warp(half_pel_planes(frames), motion)
        for i in range(4):
            assert torch.equal(together[i : i + 1], warp(half_pel_planes(frames[i : i + 1]), motion[i : i + 1]))

    def test_flat_frames_stay_flat(self):
        for level in (0, 1, 77, 254, 255):
            frame = torch.full((1, 3, 16, 16), level, dtype=torch.uint8)
            assert (half_pel_planes(frame) == level).all()

    def test_luma_is_in_range(self):
        ends = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
        assert luma(ends).tolist() == [[[[0.0, 255.0]]]]


class TestCompensate:
    @pytest.mark.parametrize("vector", [(0, 0), (3, -5), (-22, 10), (127, -128)])
    def test_one_motion_is_plain_warping(self, picture, vector):
        """Pans and still frames stay exact: nothing is blended that agrees."""
        frame = picture(48, 80)
        planes = half_pel_planes(frame)
        assert torch.equal(compensate(planes, uniform(frame, vector)), warp(planes, uniform(frame, vector)))

    def test_only_the_pixels_near_a_border_blend(self, picture):
        frame = picture(64, 96)
        planes = half_pel_planes(frame)
        motion = torch.randint(-40, 41, (1, 4, 6, 2), generator=torch.Generator().manual_seed(0))
        same = (compensate(planes, motion) == warp(planes, motion)).all(1)[0].view(4, 16, 6, 16)
        assert same[:, 4:12, :, 4:12].all()
        edge = same.clone()
        edge[:, 4:12, :, 4:12] = False
        assert edge.float().mean() < 0.5

    def test_shares_across_a_border_computed_by_hand(self):
        """The left block sees the black half, the right one the white half: 0 to 256 in steps of two."""
        frame = torch.zeros(1, 1, 16, 64, dtype=torch.uint8)
        frame[..., 32:] = 255
        motion = torch.tensor([[0, 0], [0, 0], [0, 0], [0, -64]]).view(1, 1, 4, 2)
        row = compensate(half_pel_planes(frame), motion)[0, 0, 7, 40:56].tolist()
        shares = [0, 0, 0, 0, 1, 3, 5, 7, 9, 11, 13, 15, 16, 16, 16, 16]  # of the black block
        assert row == [(255 * 16 * (16 - share) + 128) >> 8 for share in shares]

    def test_batches_and_types(self, picture):
        frames = torch.cat([picture(32, 48, seed) for seed in range(3)])
        motion = torch.randint(-50, 51, (3, 2, 3, 2), generator=torch.Generator().manual_seed(1))
        together = compensate(half_pel_planes(frames), motion)
        assert together.dtype == torch.uint8
        for i in range(3):
            alone = compensate(half_pel_planes(frames[i : i + 1]), motion[i : i + 1].to(torch.int8))
            assert torch.equal(together[i : i + 1], alone)

    @pytest.mark.parametrize("level", [0, 1, 128, 255])
    def test_flat_frames_stay_flat(self, level):
        frame = torch.full((1, 3, 32, 32), level, dtype=torch.uint8)
        motion = torch.randint(-90, 91, (1, 2, 2, 2), generator=torch.Generator().manual_seed(2))
        assert (compensate(half_pel_planes(frame), motion) == level).all()


class TestSearch:
    @pytest.mark.parametrize("vector", [(0, 0), (4, -6), (-22, 10), (1, 0), (0, -3), (5, 7), (-33, 41), (60, -60)])
    def test_finds_one_motion_of_the_whole_picture(self, picture, vector):
        reference = picture(128, 128)
        planes = half_pel_planes(reference)
        current = warp(planes, uniform(reference, vector))
        found, field = MotionSearch(current, planes).run()
        assert found[0].tolist() == list(vector)
        assert torch.equal(warp(planes, field), current)

    def test_only_the_blocks_of_a_moving_square_move(self, picture):
        background, thing = picture(96, 96, 0), picture(32, 32, 7)
        reference, current = background.clone(), background.clone()
        reference[..., 32:64, 32:64] = thing
        current[..., 32:64, 38:70] = thing
        found, field = MotionSearch(current, half_pel_planes(reference)).run()
        assert found[0].tolist() == [0, 0]
        moved = (field[0] != 0).any(-1)
        assert field[0, 2:4, 2:4, 0].eq(0).all()
        assert field[0, 2:4, 3, 1].eq(-12).all()
        outside = torch.ones(6, 6, dtype=torch.bool)
        outside[2:4, 2:5] = False
        assert not moved[outside].any()

    @pytest.mark.parametrize("seed", range(3))
    def test_deltas_fit_the_format_whatever_the_pictures(self, seed):
        """Noise against noise, and hints from far away."""
        generator = torch.Generator().manual_seed(seed)
        current, reference = torch.randint(0, 256, (2, 1, 3, 64, 64), generator=generator).to(torch.uint8)
        hint = torch.randint(-127, 128, (1, 4, 4, 2), generator=generator)
        vector, field = MotionSearch(current, half_pel_planes(reference)).run([hint])
        assert vector.abs().max() <= GLOBAL_REACH
        assert (field - vector.view(1, 1, 1, 2)).abs().max() <= REACH
        assert field.abs().max() <= 127

    def test_hints_reach_beyond_the_search(self, picture):
        reference = picture(160, 160)
        planes = half_pel_planes(reference)
        current = warp(planes, uniform(reference, (0, 90)))
        search = MotionSearch(current, planes)
        blind, hinted = search.run()[1], search.run([uniform(reference, (0, 88))])
        inside = (slice(None), slice(None), slice(0, 6))  # the rest looks beyond the edge
        assert search.cost(blind)[inside].mean() > 5
        assert hinted[0].tolist() == [[0, 90]]

    def test_a_still_picture_with_noise_stays_still(self, picture):
        reference = picture(96, 96)
        noise = torch.randint(-2, 3, reference.shape, generator=torch.Generator().manual_seed(0))
        current = (reference.int() + noise).clamp(0, 255).to(torch.uint8)
        vector, field = MotionSearch(current, half_pel_planes(reference)).run()
        assert vector.eq(0).all() and field.eq(0).all()

    def test_global_motion_is_found_in_a_coarsely_decoded_picture(self, texture):
        """Blur and blocky noise make the vectors stray: none of them is common, yet all lie around one."""
        far = 0
        for seed in range(12):
            scene = torch.from_numpy(texture(80, 120, seed)).permute(2, 0, 1).unsqueeze(0)
            noise = torch.randn(1, 3, 16, 24, generator=torch.Generator().manual_seed(seed)) * 40
            coarse = F.interpolate(F.avg_pool2d(scene[..., 8:72, 8:104].float(), 4), scale_factor=4, mode="bilinear")
            reference = (coarse + F.interpolate(noise, scale_factor=4)).clamp(0, 255).to(torch.uint8)
            vector, _ = MotionSearch(scene[..., 11:75, 12:108], half_pel_planes(reference)).run()
            far += int((vector[0] - torch.tensor([6, 8])).abs().max() > 4)
        assert far <= 4

    def test_batches_are_searched_one_by_one(self, picture):
        reference = torch.cat([picture(seed=1), picture(seed=2)])
        planes = half_pel_planes(reference)
        motion = torch.tensor([[4, -2], [-9, 6]]).view(2, 1, 1, 2).expand(2, 4, 4, 2)
        current = warp(planes, motion)
        vectors, fields = MotionSearch(current, planes).run()
        for i in range(2):
            vector, field = MotionSearch(current[i : i + 1], planes[i : i + 1]).run()
            assert torch.equal(vectors[i : i + 1], vector) and torch.equal(fields[i : i + 1], field)

    def test_one_block(self):
        frame = torch.full((1, 3, 16, 16), 9, dtype=torch.uint8)
        vector, field = MotionSearch(frame, half_pel_planes(frame)).run()
        assert vector.tolist() == [[0, 0]] and field.shape == (1, 1, 1, 2)
