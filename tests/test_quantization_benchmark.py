"""What quantized models are measured with: rivals do what they are called, sizes are equal, parts are kept."""

import copy
import json
import math
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from benchmark_arguments import arguments
from comfyui_server import needs_comfyui, told_in_comfyui
from torch import nn

from tokenreel.benchmarks import (
    quantization,
    quantization_gpu,
    quantization_quality,
    quantization_size,
    quantization_speed,
    results,
)
from tokenreel.benchmarks.arguments import PARTS
from tokenreel.benchmarks.patching_network import Asked, relative, run_network
from tokenreel.benchmarks.quantization_quality import FORMATS, HALFWAY, NAIVE, OURS
from tokenreel.benchmarks.quantization_rivals import NaiveInt8, PlainInt8, replaced, rounded
from tokenreel.benchmarks.quantization_size import WanSizes, wan_shapes, write_model
from tokenreel.benchmarks.quantization_speed import FAST, FLOAT, HALF, KITCHEN, PLAIN, TORCHAO, TURNED
from tokenreel.benchmarks.unfolded import UnfoldedConv, unfold_convolutions
from tokenreel.host import kitchen
from tokenreel.models.generator import GeneratorConfig, TokenGenerator
from tokenreel.models.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from tokenreel.models.quantized_files import read_layers
from tokenreel.models.quantized_formats import quantize_weight
from tokenreel.models.token_guess import EXTRA


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Linear(256, 96).requires_grad_(False)


def tokens(count=40, wide=256):
    return torch.randn(count, wide, generator=torch.Generator().manual_seed(1))


class TestRivals:
    def test_naive_has_one_scale_for_all(self, layer):
        """A single large weight, or token, takes precision from all others."""
        naive, x = NaiveInt8(layer), tokens()
        levels = naive.weight / (layer.weight.abs().max() / 127)
        assert torch.allclose(levels, levels.round(), atol=1e-3) and levels.abs().max() == pytest.approx(127)
        assert torch.allclose(naive(x), F.linear(rounded(x), naive.weight, layer.bias))
        fine = relative(layer(x), naive(x))
        loud = x.clone()
        loud[0] *= 50
        coarse = relative(layer(loud)[1:], naive(loud)[1:])
        assert fine < 0.02 < 10 * fine < coarse
        plain = PlainInt8(layer)
        assert relative(layer(loud)[1:], plain(loud)[1:]) < 0.012

    def test_plain_is_int8_with_scales_for_channels_and_tokens(self, layer):
        plain, x = PlainInt8(layer), tokens().reshape(2, 20, 256)
        assert plain.values.dtype == torch.int8 and plain.scales.shape == (96,)
        sizes = x.abs().amax(-1, keepdim=True) / 127
        exact = F.linear((x / sizes).round() * sizes, plain.values.float() * plain.scales[:, None], layer.bias)
        assert torch.allclose(plain(x), exact, atol=1e-4)

    def test_only_named_layers_are_replaced(self):
        net = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8)))
        made = replaced(net, ["1.0"], PlainInt8)
        assert isinstance(made[0], nn.Linear) and isinstance(made[1][0], PlainInt8)

    def test_comfy_kitchen_is_asked_for_what_it_has(self, layer, monkeypatch):
        """Its functions get weight, scales and bias; without them, or without it, an ImportError says so."""
        known: Any = ModuleType("comfy_kitchen")
        monkeypatch.setitem(sys.modules, "comfy_kitchen", known)
        monkeypatch.setattr(kitchen, "kitchen_version", lambda: "0.2.10")
        with pytest.raises(ImportError, match=r"0\.2\.10 has no int8_linear"):
            kitchen.kitchen_int8(layer.weight, layer.bias)
        asked = []
        known.quantize_int8_rowwise = lambda weight: (weight + 1, weight[:, :1])
        known.int8_linear = lambda *given, **options: asked.append((given, options)) or given[0]
        x = tokens(2)
        assert kitchen.kitchen_int8(layer.weight, layer.bias)(x) is x
        (given, options) = asked[0]
        assert torch.equal(given[1], layer.weight + 1) and given[3] is layer.bias and given[4] == torch.float32
        assert options == {"convrot": False, "convrot_groupsize": 256}
        monkeypatch.setitem(sys.modules, "comfy_kitchen", None)
        with pytest.raises(ImportError):
            kitchen.kitchen_tensors(layer.weight, "fp8")

    def test_the_real_comfy_kitchen(self, layer):
        pytest.importorskip("comfy_kitchen", reason="comfy-kitchen is not installed")
        for rotated in (False, True):
            made = kitchen.kitchen_int8(layer.weight, layer.bias, rotated=rotated)(tokens())
            assert 0 < relative(layer(tokens()), made) < 0.012
        for kind in ("int8", "fp8", "mxfp8", "nvfp4"):
            parts = kitchen.kitchen_tensors(layer.weight, kind)
            ours = quantize_weight(layer.weight, kind, rotated=False if kind == "int8" else None)
            assert sum(part.nbytes for part in parts) == ours.nbytes


class TestUnfolded:
    @pytest.mark.parametrize(
        "options",
        [
            {"kernel_size": 1},
            {"kernel_size": 3, "padding": 1},
            {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
            {"kernel_size": (3, 2), "dilation": (2, 1), "padding": (0, 1)},
        ],
    )
    def test_the_same_as_the_convolution(self, options):
        layer, x = nn.Conv2d(6, 10, **options), torch.randn(2, 6, 9, 12)
        assert torch.allclose(UnfoldedConv(layer)(x), layer(x), atol=1e-5)

    def test_large_ones_of_a_network(self):
        net = nn.Sequential(nn.Conv2d(8, 64, 3), nn.Conv2d(64, 64, 3, groups=64), nn.Conv2d(64, 6, 1))
        x, made = torch.randn(1, 8, 8, 8), unfold_convolutions(copy.deepcopy(net))
        assert [isinstance(each, UnfoldedConv) for each in made] == [True, False, False]
        assert torch.allclose(made(x), net(x), atol=1e-5)


class TestSpeed:
    def test_a_layer(self, monkeypatch):
        monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
        monkeypatch.setattr(quantization_speed, "torchao_int8", lambda layer, compiled: absent())
        found = quantization_speed.time_linear(2, (64, 256, 128), 1)
        rows = {row["way"]: row for row in found["ways"]}
        assert next(iter(rows)) == FLOAT and rows[FLOAT]["speedup"] == 1 and rows[FLOAT]["error"] == 0
        assert {OURS, TURNED, PLAIN, HALF} <= set(rows) and TORCHAO not in rows
        assert found["left_out"][TORCHAO] == "no torchao" and (KITCHEN in rows) != (KITCHEN in found["left_out"])
        for row in found["ways"][1:]:
            assert 0 < row["error"] < 0.012 and row["least"] <= row["most"] and row["seconds"] > 0

    def test_a_generator(self, monkeypatch, net):
        monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
        monkeypatch.setattr(quantization_speed, "torchao_int8", lambda layer, compiled: absent())
        given = {seed: inputs(seed) for seed in (1, 2)}
        monkeypatch.setattr(quantization_speed, "drawn", lambda side, seed: (*given[seed][1:], given[seed].tokens))
        before = {name: each.clone() for name, each in net.state_dict().items()}
        found = quantization_speed.time_generator(1, net, 16, 1)
        assert found["tokens"] == 3 * 4 * 4 and found["layers"] == 9 and 0 <= found["kept"] <= 9
        rows = {row["way"]: row for row in found["ways"]}
        assert rows[FLOAT]["error"] == 0 < rows[PLAIN]["error"] < 0.02 and 0 < rows[HALF]["error"] < 0.02
        assert (rows[FAST]["error"] == 0) == (found["fast"] == FLOAT)
        assert all(torch.equal(before[name], each) for name, each in net.state_dict().items())


def absent():
    raise ImportError("no torchao")


@pytest.fixture
def net():
    torch.manual_seed(0)
    config = GeneratorConfig(levels=(3, 3), width=64, depth=2, heads=2, widen=2, digit_width=64)
    made = TokenGenerator(config).eval().requires_grad_(False)
    for name, weight in made.named_parameters():
        if weight.ndim == 2 and not weight.any():
            weight.normal_(0, weight.shape[-1] ** -0.5)
        if name.endswith("shares"):
            weight.fill_(0.5)
    return made


def inputs(seed):
    chance = torch.Generator().manual_seed(seed)
    given = torch.randint(0, 9, (1, 3, 4, 4), generator=chance)
    known = torch.ones_like(given, dtype=torch.bool)
    known[:, 1] = False
    return Asked(f"clip {seed}", given, known, torch.rand(1, 3, 4, 4, 2 + EXTRA, generator=chance))


class TestQuality:
    def test_peak_is_the_range_of_what_is_true(self):
        true = torch.tensor([-1.0, 3.0])
        assert quantization_quality.psnr(true, true + 0.04) == pytest.approx(40)

    def test_generator(self, net):
        fitted, judged = [inputs(1)], [inputs(2), inputs(3)]
        found = quantization_quality.generator_quality(net, fitted, judged)
        assert list(found["ways"]) == [OURS, "fp8", "nvfp4", NAIVE] and found["clips"] == ["clip 2", "clip 3"]
        decibels = {name: each["psnr"]["clips"] for name, each in found["ways"].items()}
        assert all(len(each) == 2 for each in decibels.values())
        assert min(decibels[OURS]) > max(decibels["nvfp4"]) and found["ways"]["nvfp4"]["share"] < 0.5
        ahead = [one - other for one, other in zip(decibels[OURS], decibels[NAIVE], strict=True)]
        assert found["ahead"] == {"median": pytest.approx(np.median(ahead)), "least": pytest.approx(min(ahead))}
        assert found["layers"] == {"int8": 9}

    def test_tokenizer(self):
        torch.manual_seed(0)
        sizes = {"encoder_widths": (64, 64), "decoder_widths": (64, 64), "heads": 2}
        image = ImageTokenizer(ImageTokenizerConfig(levels=(8, 8), **sizes)).eval().requires_grad_(False)
        frames = [np.random.default_rng(seed).integers(0, 256, (2, 32, 32, 3), np.uint8) for seed in range(2)]
        found = quantization_quality.tokenizer_quality(image, frames[:1], frames[1:])
        for each in found["ways"].values():
            assert 20 < each["psnr"]["median"] <= 100 and 0.2 < each["same_tokens"] <= 1
        assert found["ways"][OURS]["share"] < 0.5 and found["layers"]["int8"] > 10

    def test_mixed_is_no_larger_than_what_it_is_compared_with(self, net):
        fitted, judged = [inputs(1)], [inputs(2)]
        found = quantization_quality.mixed_errors(net, fitted, judged)
        assert list(found["sizes"]) == ["fp8", "mxfp8", HALFWAY]
        for each in found["sizes"].values():
            assert each["bytes"] <= each["bytes_of_others"]
            mean = sum(each["others"].values()) / len(each["others"])
            assert each["ratio"] == pytest.approx(each["error"] / mean) and set(each["kinds"]) <= {*FORMATS, "kept"}
        assert len(found["sizes"][HALFWAY]["others"]) == quantization_quality.DRAWS

    def test_by_chance(self, net):
        def look(made):
            run_network(made, inputs(1))

        whole = sum(each.nbytes for each in net.state_dict().values())
        made = [quantization_quality.by_chance(net, look, whole // 3, seed) for seed in (0, 0, 1)]
        kinds = [[each.kind for each in one.modules() if hasattr(each, "quantized")] for one, _ in made]
        assert kinds[0] == kinds[1] != kinds[2] and set(kinds[0]) == {"int8", "nvfp4"}
        largest = max(each.nbytes for each in net.state_dict().values())
        assert all(whole // 3 <= size < whole // 3 + largest for _, size in made)


class TestSizes:
    SIZES = WanSizes(256, 384, 2, 64)

    def test_files_and_memory(self, tmp_path):
        source = tmp_path / "source.safetensors"
        whole = write_model(source, self.SIZES, torch.bfloat16)
        assert whole == source.stat().st_size
        row = quantization_size.sizes_of(source, "fp8")
        assert row["counts"] == {"fp8": 20} and not (tmp_path / "fp8.safetensors").exists()
        shapes = wan_shapes(self.SIZES)
        count = sum(math.prod(shape) for shape in shapes.values())
        few = sum(math.prod(shapes[name]) for name in shapes if ".attn" in name or "_attn." in name or ".ffn." in name)
        few -= sum(math.prod(shapes[name]) for name in shapes if "_attn" in name and ("norm" in name or "bias" in name))
        few -= sum(math.prod(shapes[name]) for name in shapes if ".ffn." in name and "bias" in name)
        assert row["memory"] == 2 * count - few + 20 * 4 and 0 < row["file"] - row["memory"] < 20_000
        assert "kitchen" not in row or row["kitchen"] == row["memory"]

    def test_all_ways_give_the_same_model(self, tmp_path):
        source = tmp_path / "source.safetensors"
        write_model(source, self.SIZES, torch.bfloat16)
        for way in (quantization_size.streamed, quantization_size.in_place, quantization_size.at_once):
            said = way(source)
            assert said["peak"] >= said["loaded"] > 0 and said["seconds"] > 0
        one, other = (dict(read_layers(tmp_path / f"{name}.safetensors")) for name in ("streamed", "whole"))
        assert one.keys() == other.keys() and len(one) < len(wan_shapes(self.SIZES)) + 1
        for name, each in one.items():
            pairs = (
                [(each, other[name])]
                if isinstance(each, torch.Tensor)
                else [(each.tensors[part], other[name].tensors[part]) for part in each.tensors]
            )
            assert all(torch.equal(mine, theirs) for mine, theirs in pairs), name
        net = quantization_size._network(source)
        assert sum(weight.nbytes for weight in net.parameters()) == sum(
            2 * math.prod(shape) for shape in wan_shapes(self.SIZES).values()
        )


class TestOnAGpu:
    def test_ways_that_work_are_timed(self, monkeypatch):
        monkeypatch.setattr(torch, "compile", lambda way: way)
        shape, cpu = (64, 256, 128), torch.device("cpu")
        rows = {row["way"]: row for row in quantization_gpu.time_gpu(shape, cpu, torch.float32, 1)["ways"]}
        assert rows[quantization_gpu.DENSE]["error"] == 0 and rows[quantization_gpu.DENSE]["speedup"] == 1
        assert 0 < rows[quantization_gpu.INT8]["error"] < 0.012

    def test_without_one_it_is_left_out(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        told = []
        assert quantization_gpu.measure_gpu(None, told.append) is None
        assert told == ["  left out: there is no CUDA device"]


class TestParts:
    def test_what_is_not_measured_is_kept(self, monkeypatch, tmp_path):
        kept = {"quality": {"old": 1}, "saved": {"old": 2}, "date": "?"}
        (tmp_path / "quantization.json").write_text(json.dumps(kept))
        monkeypatch.setattr(results, "read_result", lambda name: json.loads((tmp_path / f"{name}.json").read_text()))

        def lacks(*_):
            raise ImportError("No module named 'comfy'")

        monkeypatch.setattr(quantization, "measure_saved", lacks)
        monkeypatch.setattr(quantization, "measure_speed", lambda rounds, tell: {"rounds": rounds})
        monkeypatch.setattr(quantization, "measure_gpu", lambda rounds, tell: None)
        told = []
        args = arguments("quantization", "--rounds", 3, "--parts", "saved", "speed", "gpu")
        found = quantization.measure_quantization(args, told.append)
        assert list(found.pop("weights")) == ["generator"]
        assert found == {"quality": {"old": 1}, "saved": {"old": 2}, "speed": {"rounds": 3}}
        assert told[1].startswith("  left out: ComfyUI cannot be imported (No module named")

    def test_parts_are_those_that_are_made(self):
        parts = ("size", "speed", "quality", "mixed", "saved", "pruning", "memory", "gpu")
        assert PARTS["quantization"] == parts
        with pytest.raises(ValueError, match="needs a folder"):
            quantization.measure_quantization(arguments("quantization", "--parts", "mixed"), print)
        with pytest.raises(ValueError, match="--train DIR"):
            quantization.measure_quantization(arguments("quantization", "--parts", "mixed", "--clips", "x"), print)


SCRIPT = """
import json
from tokenreel.benchmarks.quantization_saved import try_files
from tokenreel.benchmarks.quantization_size import WanSizes, wan_shapes
found = try_files(["wan", "ltxv"], ["int8", "fp8", "nvfp4"])
from tokenreel.host import random_models
sizes = WanSizes(96, 64, 2, 48)
model = random_models.build("wan", dim=96, num_heads=3, ffn_dim=64, num_layers=2, text_dim=48, freq_dim=256)
shapes = {name: tuple(each.shape) for name, each in model.model.diffusion_model.state_dict().items()}
print(json.dumps([found, shapes == wan_shapes(sizes)]))
"""


@pytest.fixture(scope="module")
def found():
    return told_in_comfyui(SCRIPT, timeout=300)


@needs_comfyui
@pytest.mark.comfyui
class TestInComfyUI:
    @pytest.mark.parametrize("family", ["wan", "ltxv"])
    def test_files(self, found, family):
        rows = found[0]["families"][family]
        assert rows["float"]["core"] == rows["float"]["ours"] == 0
        for kind in ("fp8", "nvfp4"):
            assert rows[kind]["core"] == rows[kind]["ours"] == 0 < rows[kind]["error"]
            assert rows[kind]["layers"] == {kind: 20}
        assert 0 < rows["int8"]["ours"] < 0.01 and (rows["int8"]["core"] is None or rows["int8"]["core"] < 0.01)

    def test_shapes_are_those_of_the_class(self, found):
        assert found[1]
