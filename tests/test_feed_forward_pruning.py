"""Feed-forward layers with fewer units: which go, what makes up for them, and what the files are like."""

import pytest
import torch
import torch.nn.functional as F

from tokenreel.models.feed_forward_pruning import (
    choose_units,
    compensated,
    kept_width,
    narrow_generator,
    narrow_wan,
    wan_layers,
)
from tokenreel.models.generator import GeneratorConfig, TokenGenerator
from tokenreel.models.token_guess import EXTRA

WIDTH, CHANNELS = 64, 12


def wan(chance, blocks=2, *, vace=0):
    """As much of Wan's weights as is looked at, and something else."""
    made = {"head.modulation": torch.zeros(1, 2, CHANNELS), "blocks.0.self_attn.q.weight": torch.eye(CHANNELS)}
    layers = [f"blocks.{i}.ffn" for i in range(blocks)] + [f"vace_blocks.{i}.ffn" for i in range(vace)]
    for name in layers:
        made[f"{name}.0.weight"] = torch.randn(WIDTH, CHANNELS, generator=chance)
        made[f"{name}.0.bias"] = torch.randn(WIDTH, generator=chance)
        made[f"{name}.2.weight"] = torch.randn(CHANNELS, WIDTH, generator=chance)
        made[f"{name}.2.bias"] = torch.randn(CHANNELS, generator=chance)
    return made


def run(state, name, x):
    """What a layer's second matrix is given, and what it gives."""
    hidden = F.gelu(F.linear(x, state[f"{name}.0.weight"], state[f"{name}.0.bias"]), approximate="tanh")
    return hidden, F.linear(hidden, state[f"{name}.2.weight"], state[f"{name}.2.bias"])


def off(made, wanted):
    return float((made - wanted).square().mean() / wanted.var(0).mean()) ** 0.5


@pytest.mark.parametrize(
    "width, share, kept",
    [
        (64, 0.25, 48),
        (64, 0.0, 64),
        (16, 0.5, 16),
        (8, 0.5, 8),
        (8960, 0.2, 7168),
        (13824, 0.25, 10240),
        (100, 0.75, 32),
    ],
)
def test_widths_are_multiples_of_what_kernels_like(width, share, kept):
    assert kept_width(width, share) == kept


@pytest.mark.parametrize("share", [-0.1, 0.8])
def test_shares_that_cannot_be(share):
    with pytest.raises(ValueError, match=rf"^Invalid share {share}\. From 0 to 0\.75 "):
        kept_width(64, share)


class TestUnits:
    def test_units_that_never_vary_go_first(self, chance):
        hidden = torch.randn(100, 8, generator=chance)
        hidden[:, [1, 4]] = 50.0  # large, and always the same: the bias can do that
        first, second = torch.randn(8, 3, generator=chance), torch.randn(5, 8, generator=chance)
        assert choose_units(first, second, 6, hidden).tolist() == [0, 2, 3, 5, 6, 7]

    def test_without_tokens_the_weights_say_it(self):
        first, second = torch.ones(4, 3), torch.ones(5, 4)
        first[2], second[:, 0] = 0.1, 0.2
        assert choose_units(first, second, 2).tolist() == [1, 3]

    def test_units_that_repeat_others_are_made_up_for(self, chance):
        base = torch.randn(200, 4, generator=chance)
        hidden = torch.cat([base, base + 1], 1)
        second, bias = torch.randn(5, 8, generator=chance), torch.randn(5, generator=chance)
        weight, moved, (before, after) = compensated(second, bias, torch.arange(4), hidden)
        wanted = hidden @ second.T + bias
        assert off(base @ weight.T + moved, wanted) == pytest.approx(after, abs=0.02)
        assert after < 0.02 < 0.3 < before

    def test_few_tokens_do_no_harm(self, chance):
        """Other tokens than those it was fitted to are not worse off than without."""
        hidden, other = torch.randn(2, 24, 64, generator=chance)
        second, bias, units = torch.randn(5, 64, generator=chance), torch.zeros(5), torch.arange(48)
        weight, moved, _ = compensated(second, bias, units, hidden)
        wanted = other @ second.T
        assert off(other[:, units] @ weight.T + moved, wanted) < 1.1 * off(other[:, units] @ second[:, units].T, wanted)

    def test_dtypes_stay(self, chance):
        second = torch.randn(5, 8, generator=chance).bfloat16()
        weight, moved, _ = compensated(second, torch.zeros(5).half(), torch.arange(4), torch.randn(16, 8).bfloat16())
        assert (weight.dtype, moved.dtype) == (torch.bfloat16, torch.float16)


class TestWan:
    def test_every_block_gets_the_same_width(self, chance):
        state = wan(chance, vace=1)
        kept = {name: each.clone() for name, each in state.items()}
        steps = []
        made = narrow_wan(state, 0.25, step=lambda: steps.append(1))
        assert made.width == (64, 48) and len(steps) == 3 and not made.errors
        assert made.state.keys() == state.keys()
        for name in wan_layers(state):
            shapes = [
                tuple(made.state[f"{name}.{part}"].shape) for part in ("0.weight", "0.bias", "2.weight", "2.bias")
            ]
            assert shapes == [(48, CHANNELS), (48,), (CHANNELS, 48), (CHANNELS,)]
        assert made.state["blocks.0.self_attn.q.weight"] is state["blocks.0.self_attn.q.weight"]
        assert all(torch.equal(kept[name], each) for name, each in state.items())

    def test_tokens_make_it_better_than_weights_alone(self, chance):
        state = wan(chance)
        seen, other = torch.randn(2, 400, 3, generator=chance) @ torch.randn(3, CHANNELS, generator=chance)
        hidden = {name: run(state, name, seen)[0] for name in wan_layers(state)}
        plain, made = narrow_wan(state, 0.5), narrow_wan(state, 0.5, hidden)
        for name in wan_layers(state):
            wanted = run(state, name, other)[1]
            by_weights, by_tokens = (off(run(each.state, name, other)[1], wanted) for each in (plain, made))
            before, after = made.errors[name]
            assert by_tokens < 0.5 * by_weights and after < before
            assert by_tokens == pytest.approx(after, rel=0.3)

    def test_nothing_to_take_away(self, chance):
        state = wan(chance)
        made = narrow_wan(state, 0.0)
        assert made.width == (64, 64) and all(made.state[name] is each for name, each in state.items())

    def test_other_models_are_refused(self):
        state = {"transformer_blocks.0.ff.net.0.proj.weight": torch.zeros(4, 2)}
        with pytest.raises(ValueError, match=r"^Only Wan's feed-forward layers .* Leave out blocks instead\.$"):
            narrow_wan(state, 0.2)

    def test_quantized_models_are_refused(self, chance):
        state = wan(chance) | {"blocks.0.ffn.0.weight_scale": torch.ones(())}
        with pytest.raises(ValueError, match=r"^This model is quantized\. Make its layers narrower first "):
            narrow_wan(state, 0.2)


class TestGenerator:
    @pytest.fixture
    def net(self):
        torch.manual_seed(0)
        config = GeneratorConfig(levels=(3, 3), width=16, depth=2, heads=2, widen=3, digit_width=8)
        made = TokenGenerator(config).eval().requires_grad_(False)
        for block in made.blocks:
            block.shares.fill_(0.5)
        return made

    def test_narrower_and_near_to_what_it_was(self, net, chance):
        tokens = torch.randint(0, 9, (1, 4, 8, 8), generator=chance)
        known = torch.rand(1, 4, 8, 8, generator=chance) < 0.5
        given = tokens, known, torch.rand(1, 4, 8, 8, 2 + EXTRA, generator=chance)
        hidden = [[] for _ in net.blocks]
        hooks = [
            block.parts[2].narrow.register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0].flatten(0, -2)))
            for block, seen in zip(net.blocks, hidden, strict=True)
        ]
        wanted = net.look(*given).features
        for hook in hooks:
            hook.remove()
        weights = {name: each.clone() for name, each in net.state_dict().items()}
        plain, made = narrow_generator(net, 2), narrow_generator(net, 2, [torch.cat(each) for each in hidden])
        assert made.config.widen == 2 and net.config.widen == 3
        assert sum(each.numel() for each in made.parameters()) < sum(each.numel() for each in net.parameters())
        by_weights, by_tokens = ((each.look(*given).features - wanted).square().mean() for each in (plain, made))
        assert 0 < by_tokens < 0.7 * by_weights
        assert all(torch.equal(weights[name], each) for name, each in net.state_dict().items())

    @pytest.mark.parametrize("widen", [0, 3])
    def test_widths_that_cannot_be(self, net, widen):
        with pytest.raises(ValueError, match=rf"^Invalid widen {widen}\. This generator can be narrowed to 1 to 2\."):
            narrow_generator(net, widen)
