"""What changed is upscaled anew, what hardly changed is carried on, and the rest stays bit for bit."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tokenreel.models.changed_tiles import TILE
from tokenreel.models.upscale_reuse import ReusingUpscaler
from tokenreel.models.upscaler import BicubicUpscaler, CompactUpscaler, NetUpscaler, UpscalerConfig

H, W = 120, 203


@pytest.fixture(scope="module")
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NetUpscaler(CompactUpscaler(UpscalerConfig(2, 8, 3)))


class Nearest:
    """Repeats pixels, and remembers the sizes that it was given."""

    scale, reach, device = 2, 0, torch.device("cpu")

    def __init__(self):
        self.asked = []

    def __call__(self, frames):
        self.asked.append(tuple(frames.shape))
        return F.interpolate(frames, scale_factor=self.scale, mode="nearest")


class Overall(Nearest):
    """A network that looks at all it is given: no crop is like the whole."""

    reach = 4

    def __call__(self, frames):
        return (super().__call__(frames) + frames.mean((1, 2, 3), keepdim=True)) / 2


class Windowed(Nearest):
    """A network with windows: what it makes depends on where a pixel lies in what it is given."""

    def __call__(self, frames):
        made = super().__call__(frames)
        made[..., ::10, :] *= 0.9
        return made


def changing(picture, count=6, size=20, seed=0):
    """Frames in which a few small places change, some of them at the edge; some frames repeat the one before."""
    rng, frame, frames = np.random.default_rng(seed), picture.copy(), []
    for index in range(count):
        if index % 3:
            top, left = int(rng.integers(0, H - 1)), int(rng.integers(0, W - 1))
            part = frame[top : top + size, left : left + size]
            part[...] = rng.integers(0, 256, part.shape)
        frames.append(frame.copy())
    return frames


def run(upscaler, frames, threshold, refresh=0, **options):
    reusing = ReusingUpscaler(upscaler, threshold, refresh, **options)
    return reusing, [reusing.frame(frame) for frame in frames]


class TestExact:
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("at_once", [None, 6000])
    def test_threshold_0_gives_the_bits_of_the_full_run(self, net, texture, seed, at_once):
        frames = changing(texture(H, W, seed), seed=seed)
        reusing, made = run(net, frames, 0, refresh=3, at_once=at_once)
        _, full = run(net, frames, None, at_once=at_once)
        assert all(np.array_equal(*pair) for pair in zip(made, full, strict=True))
        assert reusing.cost.computed_fraction < 0.7

    def test_the_full_run_is_the_network(self, net, texture):
        frame = texture(H, W)
        _, (made,) = run(net, [frame], None)
        large = net(torch.from_numpy(frame).permute(2, 0, 1)[None] / 255)[0].permute(1, 2, 0)
        assert np.array_equal(made, (large * 255).round().to(torch.uint8).numpy())

    def test_parts_of_a_whole_frame_leave_no_seam(self, net, texture):
        frame = texture(H, W)
        _, (one,) = run(net, [frame], None)
        _, (parts,) = run(net, [frame], None, at_once=3000)
        assert np.array_equal(one, parts)

    @pytest.mark.parametrize("upscaler", [Overall, Windowed])
    @pytest.mark.parametrize("at_once", [None, 6000])
    def test_networks_that_cannot_be_cut(self, texture, upscaler, at_once):
        """They get the parts of the frame that they get for whole frames, where something changed in them."""
        frames = changing(texture(H, W))
        reusing, made = run(upscaler(), frames, 0, at_once=at_once)
        _, full = run(upscaler(), frames, None, at_once=at_once)
        assert all(np.array_equal(*pair) for pair in zip(made, full, strict=True))
        assert reusing.cost.tiles_computed < reusing.cost.tiles

    def test_a_change_is_seen_as_far_as_the_network_sees(self, net, texture):
        """One pixel changes: just its reach is made anew, and all of that."""
        one = texture(H, W)
        two = one.copy()
        two[64, 96] ^= 255
        reusing, (_, made) = run(net, [one, two], 0)
        _, (before, full) = run(net, [one, two], None)
        changed = reusing.changed.repeat(2 * TILE, 0).repeat(2 * TILE, 1)[: 2 * H, : 2 * W]
        assert not (before != full).any(-1)[~changed].any()
        assert reusing.changed.sum() == 9 and np.array_equal(made, full)


class TestReuse:
    def test_a_still_takes_nothing(self, net, texture):
        frame = texture(H, W)
        reusing, made = run(net, [frame, frame.copy(), frame.copy()], 1.5)
        assert made[1] is made[0] and made[2] is made[0]
        assert not reusing.changed.any() and reusing.cost.tiles_computed * 3 == reusing.cost.tiles

    def test_what_changed_is_made_and_the_rest_stays(self, net, texture):
        one = texture(H, W)
        two = one.copy()
        two[40:56, 80:104] = 255 - two[40:56, 80:104]
        reusing, (before, made) = run(net, [one, two], 1.5)
        assert reusing.changed.sum() == 6 and reusing.changed[5:7, 10:13].all()
        stays = np.ones((2 * H, 2 * W), bool)
        stays[80:112, 160:208] = False
        assert np.array_equal(made[stays], before[stays])
        _, (_, full) = run(net, [one, two], None)
        assert np.array_equal(made[88:104, 168:200], full[88:104, 168:200])
        assert np.abs(made[80:112, 160:208].astype(int) - full[80:112, 160:208]).max() <= 1

    def test_frames_that_were_given_out_stay(self, net, texture):
        frames = changing(texture(H, W), 5)
        reusing = ReusingUpscaler(net)
        given, kept = [], []
        for frame in frames:
            given.append(reusing.frame(frame))
            kept.append(given[-1].copy())
        assert all(np.array_equal(*pair) for pair in zip(given, kept, strict=True))

    def test_what_moves_all_over_is_made_whole(self, texture):
        upscaler = Nearest()
        reusing, _ = run(upscaler, [texture(H, W, seed) for seed in range(3)], 1.5)
        assert upscaler.asked == [(1, 3, H, W)] * 3
        assert reusing.changed.all() and reusing.cost.computed_fraction == 1

    def test_a_cut_leaves_nothing(self, texture):
        reusing = ReusingUpscaler(Nearest())
        frame = texture(H, W)
        reusing.frame(frame)
        reusing.frame(frame, cut=True)
        assert reusing.changed.all()

    def test_another_size_begins_anew(self, texture):
        reusing = ReusingUpscaler(Nearest())
        assert reusing.frame(texture(H, W)).shape == (2 * H, 2 * W, 3)
        assert reusing.frame(texture(W, H)).shape == (2 * W, 2 * H, 3)
        assert reusing.changed.all() and reusing.changed.shape == (-(-W // TILE), -(-H // TILE))

    def test_pieces_of_one_size_go_together(self, texture):
        upscaler = Nearest()
        one = texture(H, W)
        two = one.copy()
        for top, left in ((8, 8), (8, 160), (96, 64)):
            two[top : top + 8, left : left + 8] ^= 128
        run(upscaler, [one, two], 1.5)
        assert upscaler.asked[1:] == [(3, 3, 8, 8)]

    def test_a_scale_of_its_own(self, texture):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            net = NetUpscaler(CompactUpscaler(UpscalerConfig(4, 8, 1)))
        frames = changing(texture(H, W))
        _, made = run(net, frames, 0)
        _, full = run(net, frames, None)
        assert made[0].shape == (4 * H, 4 * W, 3)
        assert all(np.array_equal(*pair) for pair in zip(made, full, strict=True))


class TestCarriedOn:
    def test_faint_light_is_followed_without_the_network(self, texture):
        upscaler = BicubicUpscaler(2)
        frame = texture(H, W).clip(0, 250)
        reusing, (before, made) = run(upscaler, [frame, frame + 1], 1.5)
        assert np.array_equal(made, before + 1) and not reusing.changed.any()

    @pytest.mark.parametrize("at_once", [None, 2000])
    def test_it_is_the_interpolated_difference_and_no_more(self, texture, at_once):
        """Also where it lies at the border of tiles, of bands and of the frame; whatever is beside it stays."""
        upscaler, one = Nearest(), texture(H, W).clip(10, 245)
        two = one.copy()
        for place in ((0, 0), (H - 1, W - 1), (63, 64), (64, 100), (39, 71), (40, 200)):
            two[place] += 6
        reusing, (before, made) = run(upscaler, [one, two], 1.5, at_once=at_once)
        difference = torch.from_numpy(two.astype(np.float32) - one).permute(2, 0, 1)[None]
        added = F.interpolate(difference, scale_factor=2, mode="bilinear")[0].permute(1, 2, 0).numpy()
        assert not reusing.changed.any()
        assert np.array_equal(made, np.rint(before + added).astype(np.uint8))

    def test_small_changes_do_not_pile_up(self, texture):
        """A level a frame: before long it is made anew, and it is never far from the full run."""
        upscaler, picture = BicubicUpscaler(2), texture(H, W) // 2
        frames = [np.clip(picture + index * np.array([1, 0, 1]), 0, 255).astype(np.uint8) for index in range(12)]
        reusing, made = run(upscaler, frames, 1.5)
        _, full = run(upscaler, frames, None)
        assert max(np.abs(a.astype(int) - b).max() for a, b in zip(made, full, strict=True)) <= 1
        assert 3 <= reusing.cost.tiles_computed // reusing.changed.size <= 7

    def test_after_many_small_changes_the_difference_is_still_from_what_was_made(self, texture):
        """Back where it began, the picture is what it was at first."""
        upscaler, picture = Nearest(), texture(H, W).clip(5, 250)
        steps = (0, 1, -1, 1, 0)
        _, made = run(upscaler, [(picture.astype(int) + step).astype(np.uint8) for step in steps], 1.5)
        assert len(upscaler.asked) == 1 and np.array_equal(made[-1], made[0])


def flicker(frames):
    return float(np.mean([np.abs(a.astype(int) - b).mean() for a, b in pairwise(frames)]))


class TestNoise:
    @pytest.mark.parametrize("sigma", [1, 2, 4])
    def test_a_noisy_still_is_still(self, net, texture, sigma):
        """Hardly anything is made anew, and it flickers less than the full run."""
        rng, picture = np.random.default_rng(0), texture(H, W)
        frames = [np.clip(np.rint(picture + rng.normal(0, sigma, picture.shape)), 0, 255) for _ in range(5)]
        frames = [frame.astype(np.uint8) for frame in frames]
        reusing, made = run(net, frames, 1.5)
        _, full = run(net, frames, None)
        assert reusing.cost.computed_fraction < 0.3  # a fifth is the first frame
        assert flicker(made) < 0.8 * flicker(full)

    def test_what_moves_in_noise_is_made(self, net, texture):
        rng, picture = np.random.default_rng(0), texture(H, W)
        moved = picture.copy()
        moved[32:64, 48:96] = texture(32, 48, 7)
        frames = [np.clip(each + rng.normal(0, 3, each.shape), 0, 255).astype(np.uint8) for each in (picture, moved)]
        reusing, _ = run(net, frames, 1.5)
        assert reusing.changed[4:8, 6:12].all() and reusing.changed.mean() < 0.5

    def test_faint_motion_all_over_is_not_taken_for_noise(self, net, texture):
        picture = texture(H, W)
        faint = (picture // 4 + 90).astype(np.uint8)
        reusing, _ = run(net, [faint, np.roll(faint, 1, 1)], 1.5)
        assert reusing.changed.mean() > 0.9


class TestRefresh:
    def test_everything_in_turn(self, texture):
        """In a still every tile is made again once in so many frames, never many of them at a time."""
        reusing, frame = ReusingUpscaler(Nearest(), refresh=10), texture(200, 300)
        reusing.frame(frame)
        times, most = np.zeros(reusing.changed.shape, int), 0
        for _ in range(20):
            reusing.frame(frame)
            times += reusing.changed
            most = max(most, int(reusing.changed.sum()))
        assert times.min() >= 1 and times.max() <= 2
        assert most <= 3 * 64

    def test_never(self, texture):
        reusing, frame = ReusingUpscaler(Nearest(), refresh=0), texture(H, W)
        for _ in range(6):
            reusing.frame(frame)
        assert reusing.cost.tiles_computed == reusing.changed.size


class TestCost:
    def test_what_was_computed(self, texture):
        one = texture(H, W)
        two = one.copy()
        two[40:56, 80:104] ^= 128
        reusing, _ = run(Overall(), [one, two], 1.5)
        cost, report = reusing.cost, reusing.report()
        tiles = reusing.changed.size
        assert (cost.frames, cost.tiles, cost.tiles_computed) == (2, 2 * tiles, tiles + 6)
        assert (cost.pixels, cost.computed) == (2 * H * W, H * W + 24 * 32)  # four pixels around
        assert cost.seconds_whole == pytest.approx(cost.seconds / cost.computed * cost.pixels)
        assert report["computed_fraction"] == pytest.approx((tiles + 6) / (2 * tiles), abs=1e-6)
        assert (report["tiles"], report["tiles_computed"]) == (2 * tiles, tiles + 6)

    def test_the_full_run_saves_nothing(self, texture):
        reusing, _ = run(Nearest(), [texture(H, W)] * 2, None)
        assert reusing.report()["seconds_saved"] == 0 and reusing.report()["computed_fraction"] == 1

    def test_nothing_done(self):
        report = ReusingUpscaler(Nearest()).report()
        assert report["computed_fraction"] == 0 and report["seconds_saved"] is None

    def test_cancel(self, texture):
        def check():
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            ReusingUpscaler(Nearest(), check=check).frame(texture(16, 16))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": -1}, r"Invalid threshold \(?-1"),
        ({"threshold": 300}, "0 to 255 grey levels"),
        ({"refresh": -1}, "or 0 for never"),
    ],
)
def test_knobs_that_cannot_be(values, message):
    with pytest.raises(ValueError, match=message):
        ReusingUpscaler(Nearest(), **values)
