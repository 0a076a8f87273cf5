"""Which layers are quantized, in what, and what that does to a network."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from tokenreel.models import quantization
from tokenreel.models.checkpoint import load_generator
from tokenreel.models.int8_linear import QuantizedLinear
from tokenreel.models.layer_inputs import is_linear, quantize_layer, recorded, relative_error
from tokenreel.models.mixed_precision import KEPT, Choice, choose, model_error
from tokenreel.models.quantizable_layers import PRESETS, LayerFilter, count_blocks, find_preset
from tokenreel.models.quantization import QuantizationSettings, linear_layers, plan, quantize_network, weigh_layers
from tokenreel.models.quantization_report import describe_quantization
from tokenreel.models.quantized_formats import quantize_weight
from tokenreel.models.token_guess import EXTRA


class Net(nn.Module):
    """Some layers, of which the second is given what sticks out."""

    def __init__(self, width=256, count=4):
        super().__init__()
        self.embedding = nn.Linear(width, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(count))
        self.head = nn.Linear(width, 64)
        chance = torch.Generator().manual_seed(0)
        for weight in self.parameters():
            spread = weight.shape[-1] ** -0.5 if weight.ndim == 2 else 0.02
            weight.data = spread * torch.randn(weight.shape, generator=chance)
        self.embedding.weight.data[5] *= 40
        self.requires_grad_(False)

    def forward(self, x):
        x = self.embedding(x)
        for block in self.blocks:
            x = x + block(nn.functional.silu(x))
        return self.head(x)


X = torch.randn(200, 256, generator=torch.Generator().manual_seed(1))


def psnr(made, true):
    return 10 * math.log10(float((true.max() - true.min()) ** 2 / (made - true).square().mean()))


def naive(net):
    """Each weight and all tokens of a call with a single scale, as the plainest int8 has them."""

    def rounded(x):
        scale = x.abs().max() / 127
        return (x / scale).round() * scale

    for block in net.blocks:
        block.weight.data = rounded(block.weight.data)
        block.register_forward_pre_hook(lambda module, given: (rounded(given[0]),))
    return net


CHOICES = {
    "a": [Choice(KEPT, 100, 0.0), Choice("int8", 50, 0.01), Choice("nvfp4", 28, 0.09)],
    "b": [Choice(KEPT, 200, 0.0), Choice("int8", 100, 0.03), Choice("nvfp4", 56, 0.2)],
    "c": [Choice(KEPT, 60, 0.0), Choice("worse", 60, 0.2), Choice("int8", 30, 0.3), Choice("nvfp4", 17, 0.31)],
}


class TestMixedPrecision:
    def all_of_them(self):
        for each in itertools.product(*CHOICES.values()):
            yield sum(one.nbytes for one in each), sum(one.error**2 for one in each)

    @pytest.mark.parametrize("most", [360, 300, 250, 210, 180, 170, 150, 120, 105])
    def test_hardly_worse_than_the_best_of_all_ways(self, most):
        made = choose(CHOICES, most_bytes=most)
        size, noise = sum(each.nbytes for each in made.values()), sum(each.error**2 for each in made.values())
        ways = list(self.all_of_them())
        assert size <= most
        assert noise <= 1.5 * min(noise for size, noise in ways if size <= most) + 1e-12

    @pytest.mark.parametrize("most", [0.0, 0.005, 0.02, 0.1, 0.2, 1.0])
    def test_within_an_error(self, most):
        made = choose(CHOICES, most_error=most)
        assert model_error([each.error for each in made.values()]) <= most + 1e-12
        least = min(size for size, noise in self.all_of_them() if noise <= most**2 * 3 + 1e-12)
        assert least <= sum(each.nbytes for each in made.values()) <= least + 50

    def test_what_is_as_large_and_worse_is_never_taken(self):
        for most in range(105, 361, 15):
            assert choose(CHOICES, most_bytes=most)["c"].kind != "worse"

    def test_importance(self):
        alike = dict.fromkeys("ab", CHOICES["a"])
        made = choose(alike, most_bytes=150, importance={"a": 100.0})
        assert (made["a"].kind, made["b"].kind) == (KEPT, "int8")

    def test_refused(self):
        with pytest.raises(ValueError, match=r"take 0\.0 MB"):
            choose(CHOICES, most_bytes=100)
        with pytest.raises(ValueError, match="either"):
            choose(CHOICES)

    def test_better_than_one_format_for_all(self):
        """Layers that take few bits badly keep more of them, at the size of one format for all."""
        chance = torch.Generator().manual_seed(3)
        choices, uniform = {}, []
        for number in range(60):
            weight = torch.randn(128, 1024, generator=chance)
            made = {kind: quantize_layer(weight, kind) for kind in ("int8", "fp8", "nvfp4")}
            options = [Choice(kind, each.nbytes, error) for kind, (each, error) in made.items()]
            choices[str(number)] = [Choice(KEPT, weight.nbytes // 2, 0.0), *options]
            uniform.append(options[1])
        most = sum(each.nbytes for each in uniform)
        mixed = choose(choices, most_bytes=most).values()
        assert sum(each.nbytes for each in mixed) <= most
        assert model_error([each.error for each in mixed]) <= 0.7 * model_error([each.error for each in uniform])

    def test_never_worse_than_one_kind_for_all(self):
        """Where int8 is a little too large for all and four bits are bad, fp8 for all is best."""
        layer = [Choice("int8", 101, 0.01), Choice("fp8", 100, 0.02), Choice("nvfp4", 56, 0.5)]
        made = choose(dict.fromkeys("abcd", layer), most_bytes=400)
        assert {each.kind for each in made.values()} == {"fp8"}


WAN = ("patch_embedding.weight", "text_embedding.0.weight", "time_projection.1.weight", "head.head.weight")
LEFT = {
    "wan": (*WAN, "head.modulation"),
    "ltx": (
        "patchify_proj.weight",
        "adaln_single.linear.weight",
        "caption_projection.linear_1.weight",
        "proj_out.weight",
    ),
    "hunyuan": (
        "txt_in.individual_token_refiner.blocks.0.self_attn.qkv.weight",
        "double_blocks.0.img_mod.lin.weight",
    ),
    "cosmos": (
        "x_embedder.proj.1.weight",
        "blocks.0.adaln_modulation_mlp.1.weight",
        "t_embedder.1.linear_1.weight",
    ),
}
TAKEN = {
    "wan": ("blocks.0.self_attn.q.weight", "blocks.0.ffn.2.weight", "blocks.0.cross_attn.k.weight"),
    "ltx": ("transformer_blocks.0.attn1.to_q.weight", "transformer_blocks.0.attn1.to_out.0.weight"),
    "hunyuan": (
        "double_blocks.0.img_attn.qkv.weight",
        "single_blocks.3.linear2.weight",
        "double_blocks.0.txt_mlp.0.weight",
    ),
    "cosmos": ("blocks.0.self_attn.q_proj.weight", "blocks.2.mlp.layer1.weight"),
}


class TestLayers:
    @pytest.mark.parametrize("family", LEFT)
    def test_presets(self, family):
        names = (*LEFT[family], *TAKEN[family])
        assert find_preset(names) == family
        accept = LayerFilter(family)
        assert [name for name in names if accept(name.removesuffix(".weight"), (128, 128))] == [*TAKEN[family]]

    def test_models_that_are_not_known(self):
        assert find_preset(["layers.0.q.weight"]) == "any"
        accept = LayerFilter()
        assert (
            accept("layers.0.q", (64, 64)) and not accept("final", (64, 64)) and not accept("layers.0.norm", (64, 64))
        )

    def test_small_ones_and_such_as_are_named_stay(self):
        accept = LayerFilter(kept=(r"ffn\.2",))
        assert not accept("blocks.0.ffn.0", (32, 4096)) and not accept("blocks.0.ffn.2", (128, 128))
        assert not accept("blocks.0.conv", (64, 64, 3, 3))

    def test_first_and_last_blocks(self):
        names = [f"blocks.{i}.q.weight" for i in range(12)]
        accept = LayerFilter(first_blocks=1, last_blocks=2)
        taken = [name for name in names if accept(name, (64, 64), count_blocks(names))]
        assert taken == names[1:10] and count_blocks(names) == {"blocks": 12}

    def test_refused(self):
        with pytest.raises(ValueError, match=f"Supported are {', '.join(PRESETS)}"):
            LayerFilter("sd15")
        with pytest.raises(ValueError, match="Invalid pattern"):
            LayerFilter(kept=("(",))


class TestWeighing:
    def test_layers_count_by_what_their_errors_do_to_what_comes_out(self):
        net = Net()
        net.blocks[2].weight.data *= 0.01
        before = {name: each.clone() for name, each in net.state_dict().items()}
        layers = [each for each in linear_layers(net) if each.name.startswith("blocks")]
        found = weigh_layers(net, layers, lambda: net(X))
        assert list(found) == [layer.name for layer in layers]
        assert found["blocks.2"] < 0.01 * min(found[f"blocks.{number}"] for number in (0, 1, 3))
        off = net(X)
        twin = copy.deepcopy(net)
        made, error = quantize_layer(net.blocks[0].weight, "fp8")
        twin.blocks[0].weight.data = made.dequantize()
        assert found["blocks.0"] == pytest.approx(float((twin(X) - off).norm() / off.norm() / error) ** 2, rel=1e-3)
        assert all(torch.equal(before[name], each) for name, each in net.state_dict().items())

    def test_a_mixed_network_spends_bytes_where_they_count(self):
        """Blocks are alike by themselves; what one of them gives is hardly looked at."""
        nets = [Net(), Net()]
        for net in nets:
            net.blocks[1].weight.data *= 0.01
        settings = QuantizationSettings("mixed", size=0.42, formats=("int8", "nvfp4"), rotation=False)
        quantize_network(nets[0], settings, run=lambda: nets[0](X), only_faster=False)
        quantize_network(nets[1], settings, run=lambda: [nets[1](X)], only_faster=False)
        kinds = [[getattr(each, "kind", KEPT) for each in net.blocks] for net in nets]
        true = Net()
        true.blocks[1].weight.data *= 0.01
        off = [float((net(X) - true(X)).norm()) for net in nets]
        assert kinds[0][1] == "nvfp4" and kinds[0] != kinds[1] and off[0] < off[1]


class TestInputs:
    def test_recorded(self):
        net = Net()
        with recorded(net) as seen:
            net(X)
            net(2 * X[:50])
        assert set(seen.inputs) == {name for name, each in net.named_modules() if is_linear(each)}
        first = seen.inputs["embedding"]
        assert (first.rows, first.calls, len(first.tokens)) == (200, 2, 64 + 50)
        assert torch.equal(first.peaks, torch.maximum(X.abs().amax(0), 2 * X[:50].abs().amax(0)))
        assert not net.embedding._forward_pre_hooks

    def test_hooks_go_with_an_error(self):
        net = Net()
        with pytest.raises(KeyError), recorded(net):
            raise KeyError
        assert not any(each._forward_pre_hooks for each in net.modules())

    def test_the_error_is_that_of_the_layer(self):
        net = Net()
        with recorded(net) as seen:
            net(X)
        inputs, weight = seen.inputs["blocks.0"], net.blocks[0].weight
        made = quantize_weight(weight, "int8")
        out = QuantizedLinear(made)(inputs.tokens)
        true = inputs.tokens @ weight.t()
        assert relative_error(weight, made, inputs) == pytest.approx(float((out - true).norm() / true.norm()), rel=1e-3)

    def test_what_helps_is_taken(self):
        """An input that sticks out: turned or smoothed inputs lose less of the others."""
        net = Net()
        with recorded(net) as seen:
            net(X)
        inputs, weight = seen.inputs["blocks.0"], net.blocks[0].weight
        plain = quantize_layer(weight, "int8", inputs, rotation=False)[1]
        made, turned = quantize_layer(weight, "int8", inputs)
        assert made.rotated and turned < 0.8 * plain
        smooth, smoothed = quantize_layer(weight, "int8", inputs, rotation=False, smoothing=True)
        assert smoothed < plain and "pre_quant_scale" in smooth.tensors


class TestNetwork:
    def test_much_better_than_the_plainest_int8(self):
        net, plain = Net(), naive(Net())
        true, before = net(X), sum(each.nbytes for each in net.state_dict().values())
        report = quantize_network(net, run=lambda: net(X), only_faster=False)
        assert psnr(net(X), true) >= max(40, psnr(plain(X), true) + 6)
        assert report.counts() == {"int8": 4} and report.measured
        assert (report.nbytes_before, report.nbytes) == (
            before,
            before - 4 * (256 * 256 * 3 - 2 * 4 * 256),
        )  # two scales

    def test_our_generator(self):
        """At random tokens, which are as unlike to each other as can be."""
        net = load_generator("small").float()
        chance = torch.Generator().manual_seed(0)
        shape, levels = (1, 3, 8, 8), net.config.levels
        indices = torch.randint(0, math.prod(levels), shape, generator=chance)
        known = torch.zeros(shape, dtype=torch.bool)
        known[:, 0] = True
        guess = torch.rand(*shape, len(levels) + EXTRA, generator=chance)

        def run():
            return torch.cat([each.flatten() for each in net.logits(net.look(indices, known, guess))])

        with torch.no_grad():
            true = run()
            report = quantize_network(net, run=run, only_faster=False)
            assert psnr(run(), true) >= 50
        kinds = {layer.name: layer.kind for layer in report.layers}
        assert kinds["blocks.0.parts.2.widen"] == "int8" and "told" not in kinds and "digits.out.0" not in kinds

    def test_float_stays_where_it_is_faster(self, monkeypatch):
        net = Net()
        monkeypatch.setattr(
            quantization, "time_both", lambda old, new, rows: (1.0, 2.0 if old is net.blocks[1] else 0.5)
        )
        report = quantize_network(net, accept=LayerFilter())
        kinds = [type(block).__name__ for block in net.blocks]
        assert kinds == ["QuantizedLinear", "Linear", "QuantizedLinear", "QuantizedLinear"]
        assert report.counts() == {"int8": 3, "kept": 1}

    def test_tokens_that_came_are_timed(self, monkeypatch):
        net, rows = Net(), []
        monkeypatch.setattr(quantization, "time_both", lambda old, new, count: rows.append(count) or (1.0, 2.0))
        quantize_network(net, run=lambda: net(X))
        assert rows == [200] * 4

    def test_to_a_size_and_to_an_error(self):
        small, fine = Net(), Net()
        report = quantize_network(
            small, QuantizationSettings("mixed", size=0.4), run=lambda: small(X), only_faster=False
        )
        assert report.share <= 0.4 and len(report.counts()) > 1
        report = quantize_network(
            fine, QuantizationSettings("mixed", error=0.006), run=lambda: fine(X), only_faster=False
        )
        assert 0 < report.error <= 0.006 and set(report.counts()) == {"int8", KEPT}

    def test_cancelled(self):
        net, done = Net(), []

        def step(name):
            done.append(name)
            if len(done) == 3:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            quantize_network(net, step=step, only_faster=False)
        assert [type(block).__name__ for block in net.blocks] == ["QuantizedLinear"] * 2 + ["Linear"] * 2
        assert torch.isfinite(net(X)).all()

    def test_nothing_else_changes(self):
        net = Net()
        before = copy.deepcopy(net.state_dict())
        quantize_network(net, only_faster=False)
        after = net.state_dict()
        same = [name for name in before if name in after and torch.equal(before[name], after[name])]
        assert set(before) - set(same) == {f"blocks.{i}.weight" for i in range(4)}


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "match"),
        [
            ({"kind": "int3"}, "Supported are int8, fp8"),
            ({"kind": "mixed"}, "either a size or an error"),
            ({"kind": "mixed", "size": 0.5, "error": 0.1}, "either a size or an error"),
            ({"kind": "mixed", "size": 1.5}, "A size lies in"),
            ({"kind": "mixed", "error": float("nan")}, "at least 0"),
            ({"formats": ("int3",)}, "Supported are int8"),
        ],
    )
    def test_refused(self, settings, match):
        with pytest.raises(ValueError, match=match):
            QuantizationSettings(**settings)

    def test_a_size_that_cannot_be(self):
        with pytest.raises(ValueError, match=r"keeps 1\d\.\d%"):
            plan(linear_layers(Net()), QuantizationSettings("mixed", size=0.1))

    def test_layers_that_fit_no_format_are_left(self):
        net = nn.ModuleDict({"a": nn.Linear(96, 100), "b": nn.Linear(96, 96)})
        assert plan(linear_layers(net), QuantizationSettings("mxfp8")) == {"b": "mxfp8"}


def test_described():
    net = Net()
    text = describe_quantization(quantize_network(net, run=lambda: net(X), only_faster=False))
    assert "Linear layers: 4 in int8" in text and "what the layers give, on recorded inputs" in text
    assert "MB to 0." in text and "blocks.0, int8" in text
    net = Net()
    report = quantize_network(net, only_faster=False)
    report.notes.append("as wished")
    assert "of the weights alone" in describe_quantization(report) and "Note: as wished." in describe_quantization(
        report
    )
