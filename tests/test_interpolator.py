import math

import pytest
import torch
import torch.nn.functional as F

from tokenreel.models.checkpoint import CheckpointError, load_checkpoint, load_interpolator, save_checkpoint
from tokenreel.models.flow_search import find_motion, flow_at, pixel_grid, sample
from tokenreel.models.interpolator import (
    BlendInterpolator,
    FlowInterpolator,
    IFNet,
    InterpolatorConfig,
    NetInterpolator,
    blend,
    mix,
    pad,
)

SMALL = InterpolatorConfig(head=2, widths=(8, 8, 6, 4, 4))


def start_flow(first, second, time):
    return flow_at(find_motion(first, second), time)[0]


def texture(height=96, width=128, seed=0):
    """Smooth noise `[1, 3, H, W]` in [0, 1] with detail at several sizes."""
    generator = torch.Generator().manual_seed(seed)
    parts = [
        F.interpolate(
            torch.rand(1, 3, height // s + 3, width // s + 3, generator=generator), (height, width), mode="bicubic"
        )
        for s in (4, 8, 24)
    ]
    return (sum(parts) / 3).clamp(0, 1)


def moved(image, x, y):
    grid = pixel_grid(*image.shape[-2:], image)
    return sample(image, grid - torch.tensor([x, y], dtype=torch.float32).view(1, 2, 1, 1))


def psnr(a, b, margin=16):
    inside = (slice(None), slice(None), slice(margin, -margin), slice(margin, -margin))
    return -10 * math.log10(float((a - b)[inside].square().mean()) + 1e-12)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(3)
    return IFNet(SMALL).eval()


class TestSampling:
    def test_samples_at_pixels_are_the_pixels(self):
        image = texture()
        assert torch.allclose(sample(image, pixel_grid(96, 128, image)), image, atol=1e-5)

    def test_beyond_the_edge_the_edge_repeats(self):
        image = texture()
        outside = torch.tensor([[-5.0, 200.0], [3.0, 3.0]]).view(1, 2, 1, 2)
        found = sample(image, outside)[0, :, 0]
        assert torch.allclose(found, torch.stack([image[0, :, 3, 0], image[0, :, 3, 127]], 1), atol=1e-5)

    def test_padding_repeats_the_edge(self):
        padded = pad(texture(33, 17))
        assert padded.shape == (1, 3, 64, 64)
        assert torch.equal(padded[..., 40, 50], padded[..., 32, 16])


class TestStartFlow:
    @pytest.mark.parametrize("x, y", [(0, 0), (3, -2), (11.5, 4), (-20, 14), (40, 0)])
    @pytest.mark.parametrize("time", [0.25, 0.5])
    def test_a_shift_is_found(self, x, y, time):
        first = texture(128, 192)
        flow = start_flow(first, moved(first, x, y), torch.full((1, 1, 1, 1), time))
        inside = flow[0, :, 44:-44, 60:-60].flatten(1).median(1).values
        expected = torch.tensor([-time * x, -time * y, (1 - time) * x, (1 - time) * y])
        assert torch.allclose(inside, expected.float(), atol=0.15)

    def test_every_item_of_a_batch_has_its_own(self):
        first = texture()
        pair = torch.cat([first, first]), torch.cat([moved(first, 6, 0), moved(first, 0, -4)])
        both = start_flow(*pair, torch.full((2, 1, 1, 1), 0.5))
        for i in range(2):
            alone = start_flow(pair[0][i : i + 1], pair[1][i : i + 1], torch.full((1, 1, 1, 1), 0.5))
            assert torch.allclose(both[i], alone[0], atol=1e-4)


class TestInterpolators:
    def test_motion_is_followed_where_blending_blurs(self):
        first = texture()
        second, between = moved(first, 8, 4), moved(first, 2, 1)
        flow = FlowInterpolator().between(first, second, [0.25])
        blend = BlendInterpolator().between(first, second, [0.25])
        assert psnr(flow, between) > psnr(blend, between) + 8

    @pytest.mark.parametrize("size", [(33, 17), (64, 64), (90, 130)])
    def test_sizes_and_times(self, net, size):
        first, second = texture(*size), texture(*size, seed=1)
        for each in (
            BlendInterpolator(),
            FlowInterpolator(),
            NetInterpolator(net),
            NetInterpolator(net, started=False),
        ):
            out = each.between(first, second, [0.2, 0.5, 0.9])
            assert out.shape == (3, 3, *size)
            assert out.min() >= 0 and out.max() <= 1
            assert torch.allclose(out[1:2], each.between(first, second, [0.5]), atol=1e-5)

    def test_kept_features_change_nothing(self, net):
        first, second = texture(), texture(seed=1)
        each = NetInterpolator(net)
        kept = each.between(first, second, [0.5], (each.prepare(first), each.prepare(second)))
        assert torch.equal(kept, each.between(first, second, [0.5]))

    @pytest.mark.parametrize("size", [(33, 17), (96, 128)])
    def test_paths_are_what_the_frames_are_blended_along(self, net, size):
        """But for the edges, where padding is seen."""
        first, second = texture(*size), texture(*size, seed=1)
        many, times = (2, 3, *size), [0.3, 0.6]
        for each, mixed in (
            (BlendInterpolator(), mix),
            (FlowInterpolator(), blend),
            (NetInterpolator(net), blend),
            (NetInterpolator(net, started=False), mix),
        ):
            flow, share = each.paths(first, second, times)
            assert flow.shape == (2, 4, *size) and share.shape == (2, 1, *size)
            made = mixed(first.expand(many), second.expand(many), flow, share)
            found = each.between(first, second, times)
            assert torch.allclose(made[..., :-4, :-4], found[..., :-4, :-4], atol=2e-3)

    @pytest.mark.parametrize("times", [[], [0.0], [0.5, 1.0], [float("nan")]])
    def test_times_outside_are_refused(self, times):
        with pytest.raises(ValueError, match="each above 0 and below 1"):
            BlendInterpolator().between(texture(), texture(), times)

    def test_different_sizes_are_refused(self):
        for each in (FlowInterpolator(), BlendInterpolator()):
            for ask in (each.between, each.paths):
                with pytest.raises(ValueError, match="of one size"):
                    ask(texture(), texture(64, 64), [0.5])


def plain_forward(net, first, second, time):
    """The network as its family is usually written: everything at full size, then shrunk for each block."""
    grid = pixel_grid(*first.shape[-2:], first)
    f0, f1 = net.encode(first), net.encode(second)
    moment = torch.full_like(first[:, :1], time)
    flow = rest = None
    one, two = first, second
    for scale, block in zip((16, 8, 4, 2, 1), net.blocks, strict=True):
        if flow is None:
            seen = F.interpolate(torch.cat([one, two, f0, f1, moment], 1), scale_factor=1 / scale, mode="bilinear")
        else:
            w0, w1 = sample(f0, grid + flow[:, :2]), sample(f1, grid + flow[:, 2:])
            seen = F.interpolate(
                torch.cat([one, two, w0, w1, moment, rest], 1), scale_factor=1 / scale, mode="bilinear"
            )
            small = F.interpolate(flow, scale_factor=1 / scale, mode="bilinear") / scale
            seen = torch.cat([seen, small], 1)
        step, low = block(seen)
        step = F.interpolate(step, scale_factor=scale, mode="bilinear") * scale
        rest = F.interpolate(low, scale_factor=scale, mode="bilinear")
        flow = step if flow is None else flow + step
        one, two = sample(first, grid + flow[:, :2]), sample(second, grid + flow[:, 2:])
    return torch.lerp(two, one, torch.sigmoid(rest[:, :1]))


class TestNetwork:
    def test_leaving_out_what_is_not_looked_at_changes_nothing(self, net):
        first, second = texture(128, 192), texture(128, 192, seed=1)
        with torch.inference_mode():
            out, flows, _ = net(first, second, torch.full((1, 1, 1, 1), 0.3))
            assert torch.allclose(out, plain_forward(net, first, second, 0.3), atol=1e-4)
        assert len(flows) == 5

    def test_a_start_leaves_out_the_first_block(self, net):
        first, second, half = texture(), moved(texture(), 4, 0), torch.full((1, 1, 1, 1), 0.5)
        first, second = pad(first), pad(second)
        with torch.inference_mode():
            _, flows, _ = net(first, second, half, start=start_flow(first, second, half))
        assert len(flows) == 4

    def test_names_are_those_of_the_family(self, net):
        names = set(net.state_dict())
        assert {"encode.cnn3.weight", "blocks.0.conv0.1.0.weight", "blocks.4.convblock.7.beta"} <= names
        assert {"blocks.2.convblock.0.conv.bias", "blocks.3.lastconv.0.weight"} <= names

    def test_saved_and_loaded(self, net, tmp_path):
        path = tmp_path / "x.safetensors"
        save_checkpoint(path, net, "interpolator", "x")
        loaded = load_checkpoint(path, "interpolator")
        assert loaded.config == SMALL
        with pytest.raises(CheckpointError, match="residual_codec"):
            load_checkpoint(path, "residual_codec")

    @pytest.mark.parametrize("sizes", [{"head": 0}, {"widths": (8, 8, 8, 8)}, {"widths": (8, 8, 8, 8, 7)}])
    def test_bad_sizes_are_refused(self, sizes):
        with pytest.raises(ValueError, match="five even widths"):
            InterpolatorConfig(**sizes)


@pytest.fixture(scope="module")
def shipped():
    return load_interpolator()


class TestShippedWeights:
    def test_motion_is_followed_where_blending_blurs(self, shipped):
        first = texture(128, 192)
        second, between = moved(first, 8, 4), moved(first, 4, 2)
        blended = psnr((first + second) / 2, between)
        assert psnr(shipped.between(first, second, [0.5]), between) > blended + 15
        alone = NetInterpolator(shipped.net, started=False)  # as in ComfyUI's own node, where it is far weaker
        assert psnr(alone.between(first, second, [0.5]), between) > blended

    def test_still_frames_stay(self, shipped):
        first = texture(128, 192)
        assert psnr(shipped.between(first, first, [0.5]), first) > 50

    def test_a_thing_before_a_resting_ground_is_followed(self, shipped):
        ground, thing = texture(128, 192), texture(32, 32, seed=5)

        def scene(x):
            frame = ground.clone()
            frame[:, :, 48:80, x : x + 32] = thing
            return frame

        blended = psnr((scene(60) + scene(76)) / 2, scene(68))
        for each in (shipped, FlowInterpolator()):
            assert psnr(each.between(scene(60), scene(76), [0.5]), scene(68)) > blended + 5

    def test_size(self, shipped):
        assert 1_000_000 <= sum(p.numel() for p in shipped.net.parameters()) <= 2_000_000


@pytest.mark.parametrize("make", [lambda: FlowInterpolator(), lambda: NetInterpolator(IFNet(SMALL))])
def test_motion_is_searched_once_for_all_times(make, monkeypatch):
    """However many frames are computed together."""
    from tokenreel.models import interpolator as module

    generator = torch.Generator().manual_seed(0)
    pair = torch.rand(2, 1, 3, 70, 90, generator=generator)
    times = [0.2, 0.4, 0.6, 0.8]
    made = make()
    whole = made.between(*pair, times)
    searched = []
    search = module.find_motion
    monkeypatch.setattr(module, "find_motion", lambda *frames: searched.append(1) or search(*frames))
    monkeypatch.setattr(module, "AT_ONCE", 2 * 70 * 90)
    assert torch.allclose(made.between(*pair, times), whole, atol=1e-5)
    assert len(searched) == 1
