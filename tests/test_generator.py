"""The generator sees what is known and nothing else; filling in keeps what is known and repeats by its seed."""

import pytest
import torch

from tokenreel.models.checkpoint import load_checkpoint, save_checkpoint
from tokenreel.models.generator import GeneratorConfig, TokenGenerator
from tokenreel.models.token_filling import CONTEXT, continued, fill

SMALL = GeneratorConfig(levels=(4, 3), width=16, depth=4, heads=2, window=(2, 2, 2), tile=(1, 2, 2))


@pytest.fixture
def net():
    torch.manual_seed(0)
    made = TokenGenerator(SMALL).eval()
    torch.nn.init.normal_(made.out.weight)
    return made


def clip(frames=4, seed=0, batch=()):
    return torch.randint(12, (*batch, frames, 4, 6), generator=torch.Generator().manual_seed(seed))


def frames_known(count, *which):
    known = torch.zeros(count, 4, 6, dtype=torch.bool)
    known[list(which)] = True
    return known


class TestNet:
    def test_logits_of_every_digit(self, net):
        logits = net(clip(batch=(2,)), frames_known(4, 0).expand(2, 4, 4, 6))
        assert [each.shape for each in logits] == [(2, 4, 4, 6, 4), (2, 4, 4, 6, 3)]

    def test_what_is_masked_is_not_seen(self, net):
        known = frames_known(4, 0, 3)
        known[1, 2, 3] = True
        one, other = clip(seed=1), clip(seed=2)
        other = torch.where(known, one, other)
        for first, second in zip(net(one[None], known[None]), net(other[None], known[None]), strict=True):
            assert torch.equal(first, second)

    @pytest.mark.parametrize("place", [(0, 1, 1), (3, 2, 5), (1, 2, 3)])
    def test_what_is_known_is_seen(self, net, place):
        known = frames_known(4, 0, 3)
        known[1, 2, 3] = True
        one = clip(seed=1)
        other = one.clone()
        other[place] = (other[place] + 5) % 12
        assert not torch.allclose(net(one[None], known[None])[0], net(other[None], known[None])[0])

    @pytest.mark.parametrize("kind", ["full", "linear", "performer", "window"])
    def test_every_kind_of_attention_learns(self, kind):
        torch.manual_seed(0)
        net = TokenGenerator(GeneratorConfig(**{**SMALL.to_dict(), "pattern": (kind,)}))
        net(clip(batch=(1,)), frames_known(4, 0)[None])[0].square().mean().backward()
        missing = [name for name, p in net.named_parameters() if p.grad is None]
        assert not missing

    @pytest.mark.parametrize("values", [{"pattern": ("dense",)}, {"pattern": ()}, {"width": 10, "heads": 4}])
    def test_sizes_that_cannot_be(self, values):
        with pytest.raises(ValueError, match="Invalid"):
            GeneratorConfig(**values)

    def test_a_file_keeps_it(self, net, tmp_path):
        save_checkpoint(tmp_path / "g.safetensors", net, "generator", "mine")
        again = load_checkpoint(tmp_path / "g.safetensors", "generator")
        assert again.config == SMALL
        known = frames_known(4, 0)[None]
        assert torch.allclose(again(clip()[None], known)[0], net(clip()[None], known)[0], atol=0.05)


class TestFill:
    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    @pytest.mark.parametrize("steps", [1, 3])
    def test_keeps_what_is_known_and_fills_the_rest(self, net, steps, temperature):
        known = frames_known(4, 0, 2)
        made = fill(net, clip(), known, steps=steps, temperature=temperature, generator=torch.Generator())
        assert torch.equal(made[known], clip()[known])
        assert made.min() >= 0 and made.max() < 12

    def test_a_seed_repeats(self, net):
        made = [
            fill(net, clip(), frames_known(4, 0), temperature=1.0, generator=torch.Generator().manual_seed(seed))
            for seed in (1, 1, 2)
        ]
        assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])

    def test_temperature_0_takes_the_mean(self, net):
        known = frames_known(4, 0)
        made = fill(net, clip(), known, steps=1)
        logits = net(torch.where(known, clip(), 0)[None], known[None])
        mean = (logits[1][0].softmax(-1) * torch.arange(3)).sum(-1).round().long()
        assert torch.equal((made // 4)[~known], mean[~known])

    def test_can_be_cancelled(self, net):
        def cancel():
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fill(net, clip(), frames_known(4, 0), check=cancel)

    @pytest.mark.parametrize("options", [{"steps": 0}, {"temperature": -1.0}])
    def test_refuses(self, net, options):
        with pytest.raises(ValueError, match="Supported are 1 to 64, and 0 to 10"):
            fill(net, clip(), frames_known(4, 0), **options)


class TestContinued:
    def test_as_many_frames_as_asked_for(self, net):
        done = []
        made = continued(net, clip(2), 7, progress=done.append)
        assert made.shape == (7, 4, 6) and sum(done) == 7

    def test_looks_at_the_latest_frames_alone(self, net):
        one, other = clip(CONTEXT + 3, seed=1), clip(CONTEXT + 3, seed=2)
        other[3:] = one[3:]
        assert torch.equal(continued(net, one, 5), continued(net, other, 5))


def test_place_moves_with_the_crop():
    """A crop's token knows where it lies: what stands at row 2 of a grid is at row 0 of a crop that begins there."""
    from tokenreel.models.generator import _places

    whole = _places(clip(batch=(1,)), (0, 0, 0))
    assert torch.equal(_places(clip(batch=(1,))[:, :, 2:, 3:], (0, 2, 3)), whole[:, :, 2:, 3:])
