"""Checkpoints quantized layer by layer: what is in them, what is kept, how little memory that takes."""

import json
import subprocess
import sys

import pytest
import torch
from comfyui_server import LOAD_CHECKOUT
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tokenreel.models.quantizable_layers import LayerFilter
from tokenreel.models.quantization import QuantizationSettings
from tokenreel.models.quantized_files import METADATA, PREFIX, WeightStore, quantize_file, read_layers, write_tensors
from tokenreel.models.quantized_formats import FORMATS, QuantizedWeight, quantize_weight


def state(prefix=""):
    chance = torch.Generator().manual_seed(0)
    shapes = {
        "blocks.0.self_attn.q.weight": (256, 256),
        "blocks.0.self_attn.q.bias": (256,),
        "blocks.0.ffn.0.weight": (512, 256),
        "blocks.1.self_attn.q.weight": (256, 256),
        "head.head.weight": (64, 256),
        "head.modulation": (1, 2, 256),
        "patch_embedding.weight": (256, 16, 1, 2, 2),
    }
    return {prefix + name: torch.randn(shape, generator=chance).bfloat16() for name, shape in shapes.items()}


TAKEN = ("blocks.0.self_attn.q", "blocks.0.ffn.0", "blocks.1.self_attn.q")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(state(), path, {"config": "{}", "name": "a model"})
    return path


class TestQuantized:
    @pytest.mark.parametrize("kind", FORMATS)
    def test_a_file_in_each_format(self, source, tmp_path, kind):
        target = tmp_path / "small.safetensors"
        report = quantize_file(source, target, QuantizationSettings(kind))
        found, before = load_file(target), state()
        for name in TAKEN:
            wanted = quantize_weight(before[f"{name}.weight"], kind).file_tensors()
            held = {key.removeprefix(f"{name}."): each for key, each in found.items() if key.startswith(f"{name}.")}
            held.pop("bias", None)
            assert {key: each.float().tolist() for key, each in held.items()} == {
                key: each.float().tolist() for key, each in wanted.items()
            }
        others = [name for name in before if name.removesuffix(".weight") not in TAKEN]
        assert all(torch.equal(found[name], before[name]) for name in others)
        assert report.counts() == {kind: 3} and not report.measured
        assert report.nbytes_before == sum(each.nbytes for each in before.values())
        assert report.nbytes == sum(each.nbytes for each in found.values())

    def test_what_the_metadata_says(self, source, tmp_path):
        target = tmp_path / "small.safetensors"
        quantize_file(source, target, QuantizationSettings("int8"))
        with safe_open(target, "pt") as file:
            said = file.metadata()
        layers = json.loads(said[METADATA])["layers"]
        assert said["name"] == "a model" and said["config"] == "{}"
        assert set(layers) == set(TAKEN)
        assert layers[TAKEN[0]] == {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 256}

    def test_read_again(self, source, tmp_path):
        target = tmp_path / "small.safetensors"
        quantize_file(source, target, QuantizationSettings("mixed", size=0.45))
        found = dict(read_layers(target))
        made = {name: each for name, each in found.items() if isinstance(each, QuantizedWeight)}
        assert set(made) == set(TAKEN) and set(found) == {*TAKEN, *(n for n in state() if n[:-7] not in TAKEN)}
        for name, each in made.items():
            true = state()[f"{name}.weight"].float()
            assert (each.dequantize() - true).norm() / true.norm() < 0.12

    def test_only_the_diffusion_model_of_a_checkpoint(self, tmp_path):
        source, target = tmp_path / "all.safetensors", tmp_path / "small.safetensors"
        save_file({**state(PREFIX), "vae.blocks.0.q.weight": torch.zeros(256, 256)}, source)
        report = quantize_file(source, target, QuantizationSettings("fp8"))
        assert [layer.name for layer in report.layers] == sorted(TAKEN)
        found = load_file(target)
        assert found["vae.blocks.0.q.weight"].dtype == torch.float32
        assert found[f"{PREFIX}blocks.0.ffn.0.weight"].dtype == torch.float8_e4m3fn

    def test_layers_that_are_to_stay(self, source, tmp_path):
        accept = LayerFilter("wan", first_blocks=1)
        report = quantize_file(source, tmp_path / "small.safetensors", QuantizationSettings(), accept=accept)
        assert [layer.name for layer in report.layers] == ["blocks.1.self_attn.q"]

    def test_progress(self, source, tmp_path):
        told = []
        settings = QuantizationSettings("mixed", size=0.5)
        quantize_file(source, tmp_path / "small.safetensors", settings, step=lambda *each: told.append(each))
        assert [done for done, _, _ in told] == list(range(10)) and {total for _, total, _ in told} == {10}
        assert {"comparing formats", "head.modulation"} <= {name for _, _, name in told}

    def test_cancelled_it_leaves_nothing(self, source, tmp_path):
        def step(done, total, name):
            if done == 3:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            quantize_file(source, tmp_path / "small.safetensors", QuantizationSettings(), step=step)
        assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]

    @pytest.mark.parametrize("name", ["model.safetensors", "other.safetensors"])
    def test_what_cannot_be_read_is_refused(self, tmp_path, name):
        (tmp_path / "model.safetensors").write_bytes(b"no tensors")
        with pytest.raises(ValueError, match=f"{name} is not a readable safetensors file"):
            quantize_file(tmp_path / name, tmp_path / "small.safetensors", QuantizationSettings())

    def test_quantized_twice_is_refused(self, source, tmp_path):
        small = tmp_path / "small.safetensors"
        quantize_file(source, small, QuantizationSettings("fp8"))
        with pytest.raises(ValueError, match="quantized already"):
            quantize_file(small, tmp_path / "smaller.safetensors", QuantizationSettings())

    def test_a_damaged_layer_is_named(self, source, tmp_path):
        small = tmp_path / "small.safetensors"
        quantize_file(source, small, QuantizationSettings())
        found = load_file(small)
        found["blocks.0.ffn.0.weight_scale"] = torch.zeros(3)
        save_file(found, small)
        with pytest.raises(ValueError, match=r"small.safetensors, layer blocks.0.ffn.0: .*weight_scale do not fit"):
            list(read_layers(small))


LAYOUT = {"a": (torch.uint8, (3,)), "b": (torch.float32, (2, 2)), "c": (torch.bfloat16, ())}
TENSORS = {"a": torch.tensor([1, 2, 3], dtype=torch.uint8), "b": torch.rand(2, 2), "c": torch.tensor(2.0).bfloat16()}


class TestWritten:
    def test_in_any_order(self, tmp_path):
        path = tmp_path / "x.safetensors"
        size = write_tensors(path, LAYOUT, reversed(TENSORS.items()), {"who": "me"})
        found = load_file(path)
        assert all(torch.equal(found[name], each) for name, each in TENSORS.items())
        assert path.stat().st_size == size

    @pytest.mark.parametrize(
        ("tensors", "match"),
        [
            ({"a": TENSORS["a"]}, "Missing tensors: b, c"),
            ({**TENSORS, "d": TENSORS["a"]}, "d: .* was not announced"),
            ({**TENSORS, "b": torch.rand(4)}, "b: .* was not announced"),
        ],
    )
    def test_whole_or_not_at_all(self, tmp_path, tensors, match):
        with pytest.raises(ValueError, match=match):
            write_tensors(tmp_path / "x.safetensors", LAYOUT, tensors.items(), {})
        assert not list(tmp_path.iterdir())

    def test_types_that_files_do_not_have(self, tmp_path):
        with pytest.raises(ValueError, match="Invalid type"):
            write_tensors(tmp_path / "x.safetensors", {"a": (torch.complex64, (1,))}, [], {})


class TestStore:
    @pytest.mark.parametrize("kind", FORMATS)
    def test_weights_come_back(self, tmp_path, kind):
        weights = {name: quantize_weight(state()[f"{name}.weight"], kind) for name in TAKEN}
        with WeightStore(tmp_path / "w") as store:
            for name, weight in weights.items():
                store.add(name, weight)
            found = dict(store.read())
        assert list(found) == list(TAKEN)
        for name, weight in weights.items():
            for part, tensor in weight.file_tensors().items():
                assert found[name][part].dtype == tensor.dtype and torch.equal(
                    found[name][part].float(), tensor.float()
                )

    def test_nothing_stored(self, tmp_path):
        with WeightStore(tmp_path / "w") as store:
            assert not dict(store.read())

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a file in use keeps its name there")
    def test_the_file_goes(self, tmp_path):
        with WeightStore(tmp_path / "w") as store:
            store.add("a", quantize_weight(state()["blocks.0.ffn.0.weight"], "int8"))
            found = dict(store.read())
        assert not list(tmp_path.iterdir()) and found["a"]["weight"].any()

    def test_it_goes_when_cancelled(self, tmp_path):
        with pytest.raises(InterruptedError), WeightStore(tmp_path / "w") as store:
            store.add("a", quantize_weight(state()["blocks.0.ffn.0.weight"], "int8"))
            raise InterruptedError
        assert not list(tmp_path.iterdir())


MEASURE = """
from pathlib import Path
import torch
torch.set_num_threads(1)
from tokenreel.models.quantization import QuantizationSettings
from tokenreel.models.quantized_files import quantize_file
def peak():
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
before = peak()
quantize_file(Path(sys.argv[1]), Path(sys.argv[2]), QuantizationSettings(sys.argv[3]))
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of memory from /proc")
@pytest.mark.parametrize("kind", ["int8", "nvfp4"])
def test_memory_is_that_of_a_layer(tmp_path, kind):
    source = tmp_path / "model.safetensors"
    weight = torch.randn(2048, 2048, generator=torch.Generator().manual_seed(0)).bfloat16()
    save_file({f"blocks.{i}.q.weight": weight.clone() for i in range(20)}, source)
    arguments = [sys.executable, "-c", LOAD_CHECKOUT + MEASURE, str(source), str(tmp_path / "small.safetensors"), kind]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 1.15 * source.stat().st_size  # most of it is what torch itself takes at first
