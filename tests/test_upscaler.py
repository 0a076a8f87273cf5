"""The upscalers: shapes, what a result depends on, and that our files are what other programs open."""

import pytest
import torch

from tokenreel.models.checkpoint import CheckpointError, load_upscaler, save_checkpoint
from tokenreel.models.upscaler import BicubicUpscaler, CompactUpscaler, NetUpscaler, UpscalerConfig
from tokenreel.training.drawn_patterns import drawn_pattern


@pytest.fixture
def small():
    torch.manual_seed(0)
    return NetUpscaler(CompactUpscaler(UpscalerConfig(2, 8, 3)))


class TestNet:
    @pytest.mark.parametrize("scale", [2, 4])
    def test_times_the_size_in_range(self, scale):
        upscale = NetUpscaler(CompactUpscaler(UpscalerConfig(scale, 8, 1)))
        made = upscale(torch.rand(2, 3, 7, 10))
        assert made.shape == (2, 3, 7 * scale, 10 * scale) and made.dtype == torch.float32
        assert made.min() >= 0 and made.max() <= 1

    def test_nothing_beyond_its_reach_counts(self, small):
        frame = torch.rand(1, 3, 24, 24)
        other = frame.clone()
        other[..., 12, 12] = 1 - other[..., 12, 12]
        changed = (small.net(frame) != small.net(other)).any(1)[0].nonzero()
        reach = small.reach
        assert changed.min() >= 2 * (12 - reach) and changed.max() < 2 * (12 + reach + 1)
        assert changed.min() < 2 * (12 - reach + 2)  # and it does reach about that far

    def test_half_precision_is_near(self, small):
        frame = torch.rand(1, 3, 16, 16)
        half = NetUpscaler(CompactUpscaler(small.net.config), dtype=torch.bfloat16)
        half.net.load_state_dict(small.net.state_dict())
        assert half(frame).dtype == torch.float32
        assert (half(frame) - small(frame)).abs().max() < 0.05

    @pytest.mark.parametrize("values", [{"scale": 5}, {"features": 0}, {"depth": 0}])
    def test_sizes_that_cannot_be(self, values):
        with pytest.raises(ValueError, match="Invalid sizes"):
            UpscalerConfig(**values)


class TestBicubic:
    def test_flat_stays_flat_and_means_stay(self):
        upscale = BicubicUpscaler(4)
        assert torch.allclose(upscale(torch.full((1, 3, 6, 6), 0.3)), torch.tensor(0.3), atol=1e-5)
        ramp = torch.linspace(0.1, 0.9, 32).expand(1, 3, 32, 32)
        back = torch.nn.functional.avg_pool2d(upscale(ramp), 4)
        assert torch.allclose(back[..., 2:-2], ramp[..., 2:-2], atol=1e-4)


class TestFiles:
    def test_a_file_keeps_the_network(self, small, tmp_path):
        save_checkpoint(tmp_path / "u.safetensors", small.net, "upscaler", "mine")
        again = load_upscaler(tmp_path / "u.safetensors")
        assert again.net.config == small.net.config
        frame = torch.rand(1, 3, 8, 8)
        assert torch.allclose(again(frame), small(frame), atol=2e-3)

    def test_names_are_those_of_the_family(self, small):
        names = list(small.net.state_dict())
        assert names[:3] == ["body.0.weight", "body.0.bias", "body.1.weight"]
        assert names[-2:] == ["body.8.weight", "body.8.bias"]

    def test_unknown_name(self):
        with pytest.raises(CheckpointError, match=r"No upscaler 'x3' comes with the pack\. Supported are "):
            load_upscaler("x3")

    @pytest.mark.parametrize(("name", "scale", "features"), [("x2-s", 2, 24), ("x2-m", 2, 48), ("x4-m", 4, 48)])
    def test_those_that_come_with_the_pack_beat_bicubic(self, name, scale, features):
        upscale = load_upscaler(name)
        assert (upscale.scale, upscale.net.config.features) == (scale, features)
        generator = torch.Generator().manual_seed(4)
        large = torch.stack([drawn_pattern(torch.full((3, 96, 96), 0.5), 96, generator) for _ in range(4)])
        small = torch.nn.functional.interpolate(large, scale_factor=1 / scale, mode="bicubic", antialias=True)
        error, plain = ((each(small.clamp(0, 1)) - large).square().mean() for each in (upscale, BicubicUpscaler(scale)))
        assert error < plain
