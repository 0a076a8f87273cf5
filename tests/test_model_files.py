"""What a model's file says of itself before it is loaded, and files that are refused in one line."""

import json
import random

import pytest
import torch
from safetensors.torch import load_file, save_file

from tokenreel.host import files
from tokenreel.models import model_files
from tokenreel.models.model_files import read_model_file
from tokenreel.models.quantization import QuantizationSettings
from tokenreel.models.quantized_files import METADATA, quantize_file
from tokenreel.models.quantized_formats import FORMATS, quantize_weight
from tokenreel.nodes.compressing import LoadModel

LAYER = "blocks.0.ffn.0"


def floats():
    chance = torch.Generator().manual_seed(0)
    shapes = {
        "blocks.0.self_attn.q.weight": (256, 256),
        f"{LAYER}.weight": (128, 256),
        f"{LAYER}.bias": (128,),
        "head.head.weight": (64, 256),
        "head.modulation": (1, 2, 256),
    }
    return {name: torch.randn(shape, generator=chance).bfloat16() for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of one model: as it is, and in each format."""
    folder = tmp_path_factory.mktemp("models")
    save_file(floats(), folder / "plain.safetensors")
    for kind in FORMATS:
        quantize_file(folder / "plain.safetensors", folder / f"{kind}.safetensors", QuantizationSettings(kind))
    return folder


def message(path):
    with pytest.raises(ValueError) as caught:
        read_model_file(path)
    assert len(str(caught.value).splitlines()) == 1 and str(caught.value).startswith(path.name)
    return str(caught.value)


class TestSaid:
    @pytest.mark.parametrize("kind", FORMATS)
    def test_layers_by_format(self, folder, kind):
        file = read_model_file(folder / f"{kind}.safetensors")
        assert file.formats == {FORMATS[kind].algorithm: 2} and file.floats == {"BF16": 1}
        assert file.nbytes == (folder / f"{kind}.safetensors").stat().st_size
        turned = "; inputs of 2 turned" * (kind == "int8")
        name, layers = file.describe().splitlines()
        assert name == f"{kind}.safetensors, 0.1 MB" and layers == f"Layers: 2 in {kind}, 1 in bf16{turned}"

    def test_a_plain_file(self, folder):
        file = read_model_file(folder / "plain.safetensors")
        assert file.formats == {} and file.describe().endswith("Layers: 3 in bf16")
        assert file.missing([], []) == ""

    def test_smoothed_inputs(self, tmp_path):
        held = floats()
        smoothed = quantize_weight(held.pop(f"{LAYER}.weight").float(), "int8", smoothing=torch.full((256,), 2.0))
        held |= {f"{LAYER}.{name}": each for name, each in smoothed.file_tensors().items()}
        save_file(held, tmp_path / "x.safetensors")
        file = read_model_file(tmp_path / "x.safetensors")
        assert file.smoothed == {"int8_tensorwise": 1} and file.describe().endswith(
            "; inputs of 1 turned and 1 smoothed"
        )
        assert file.missing(["int8_tensorwise"], []) == "pre_quant_scale in int8_tensorwise"
        assert file.missing(["int8_tensorwise"], ["int8_tensorwise"]) == ""

    def test_what_a_loader_lacks(self, folder):
        file = read_model_file(folder / "nvfp4.safetensors")
        assert file.missing(["mxfp8"], []) == "nvfp4" and file.missing(["nvfp4"], []) == ""

    def test_files_of_2025(self, tmp_path):
        held = {**floats(), "scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
        held[f"{LAYER}.scale_weight"] = torch.ones(())
        save_file(held, tmp_path / "x.safetensors")
        file = read_model_file(tmp_path / "x.safetensors")
        assert file.formats == {"scaled_fp8": 1} and file.floats == {"BF16": 2} and file.missing([], []) == ""

    def test_metadata_counts_more_than_what_stands_beside(self, folder, tmp_path):
        held = load_file(folder / "int8.safetensors")
        said = {"layers": {LAYER: {"format": "int3_magic"}, "gone": {"format": "int4_magic"}}}
        save_file(held, tmp_path / "x.safetensors", {METADATA: json.dumps(said)})
        assert read_model_file(tmp_path / "x.safetensors").formats == {"int8_tensorwise": 1, "int3_magic": 1}

    def test_no_weight_is_read(self, folder, monkeypatch):
        asked, usual = [], model_files.safe_open

        def watched(*args):
            file = usual(*args)

            class Watched:
                def __enter__(self):
                    file.__enter__()
                    return self

                def __exit__(self, *args):
                    return file.__exit__(*args)

                def get_tensor(self, name):
                    asked.append(name)
                    return file.get_tensor(name)

                def __getattr__(self, name):
                    return getattr(file, name)

            return Watched()

        monkeypatch.setattr(model_files, "safe_open", watched)
        read_model_file(folder / "int8.safetensors")
        assert len(asked) == 2 and all(name.endswith(".comfy_quant") for name in asked)


class TestRefused:
    @pytest.mark.parametrize(
        ("start", "text"),
        [
            (b"GGUF\x03\0\0\0", "is a GGUF file, not safetensors. Choose"),
            (b"PK\x03\x04\0\0\0\0", "is a PyTorch file, which can run code, not safetensors. Convert it"),
            (b"\x80\x02}q\0.\0\0", "is a file of Python objects, which can run code, not safetensors. Convert it"),
            (b"version https://git-lfs", "is a pointer of Git LFS, not safetensors. Download the file"),
            (b"<!doctype html>", "is a web page, not safetensors. Download"),
            (b"", "is not a whole safetensors file. Fetch it again"),
            (b"\xff" * 7, "is not a whole safetensors file. Fetch it again"),
            (b"\0" * 100, "is not a whole safetensors file. Fetch it again"),
        ],
    )
    def test_other_files_under_our_name(self, tmp_path, start, text):
        path = tmp_path / "x.safetensors"
        path.write_bytes(start)
        assert text in message(path)

    def test_a_large_gguf(self, tmp_path):
        """As a header's length, its first bytes are less than what it holds."""
        path = tmp_path / "x.safetensors"
        with path.open("wb") as file:
            file.write(b"GGUF\x03\0\0\0")
            file.truncate(20 << 30)
        assert "is a GGUF file" in message(path)

    def test_a_header_too_large(self, tmp_path):
        path = tmp_path / "x.safetensors"
        with path.open("wb") as file:
            file.write((20 << 20).to_bytes(8, "little"))
            file.truncate(30 << 20)
        assert "has a header of 21 MB; more than 16 MB are not read" in message(path)

    def test_too_many_tensors(self, folder, monkeypatch):
        monkeypatch.setattr(model_files, "MOST_TENSORS", 4)
        assert "has 5 tensors; more than 4 are not read" in message(folder / "plain.safetensors")

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.9, 0.999, 0.99999])
    @pytest.mark.parametrize("name", ["plain", "int8"])
    def test_cut_off_anywhere(self, folder, tmp_path, name, share):
        whole = (folder / f"{name}.safetensors").read_bytes()
        path = tmp_path / "x.safetensors"
        path.write_bytes(whole[: int(share * len(whole))])
        assert "safetensors file" in message(path) and "Fetch it again" in message(path)

    def test_not_there(self, tmp_path):
        assert "cannot be read (No such file or directory)" in message(tmp_path / "x.safetensors")

    @pytest.mark.parametrize(
        ("changes", "text"),
        [
            ({"comfy_quant": b"no json"}, "it does not say how it is read"),
            ({"comfy_quant": b'{"convrot": true}'}, "it does not say how it is read"),
            ({"comfy_quant": b'{"format": 8}'}, "it does not say how it is read"),
            ({"comfy_quant": b'["format"]'}, "it does not say how it is read"),
            ({"comfy_quant": b"[" * 4096}, "it does not say how it is read"),
            ({"comfy_quant": b" " * 5000}, f"{LAYER}.comfy_quant is too long"),
            (
                {"comfy_quant": b'{"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 64}'},
                "turned in groups of 64; only 256 is read",
            ),
            ({"comfy_quant": torch.zeros(3)}, "float"),
            ({"comfy_quant": torch.full((3,), -1, dtype=torch.int8)}, "bytes must be in range"),
            ({"weight": None}, "no weight of a linear layer in int8"),
            ({"weight": torch.zeros(8, 8, 3, dtype=torch.int8)}, "no weight of a linear layer in int8"),
            ({"weight": torch.zeros(128, 250, dtype=torch.int8)}, "turned in groups of 256; only 256 is read"),
            ({"weight_scale": None}, "its weight_scale does not fit"),
            ({"weight_scale": torch.ones(127, 1)}, "its weight_scale does not fit"),
            ({"pre_quant_scale": torch.ones(128)}, "its pre_quant_scale does not fit"),
        ],
    )
    def test_a_layer_that_is_not_what_it_says(self, folder, tmp_path, changes, text):
        held = load_file(folder / "int8.safetensors")
        for part, value in changes.items():
            held.pop(f"{LAYER}.{part}", None)
            if value is not None:
                tensor = torch.tensor(list(value), dtype=torch.uint8) if isinstance(value, bytes) else value
                held[f"{LAYER}.{part}"] = tensor
        path = tmp_path / "x.safetensors"
        save_file(held, path)
        assert text in message(path)

    @pytest.mark.parametrize("kind", ["mxfp8", "nvfp4"])
    def test_scales_of_groups(self, folder, tmp_path, kind):
        held = load_file(folder / f"{kind}.safetensors")
        held[f"{LAYER}.weight_scale"] = held[f"{LAYER}.weight_scale"][:64].clone()
        save_file(held, tmp_path / "x.safetensors")
        assert "its weight_scale does not fit" in message(tmp_path / "x.safetensors")

    @pytest.mark.parametrize("said", ["no json", "[]", "{}", '{"layers": 3}', f'{{"layers": {{"{LAYER}": 3}}}}'])
    def test_damaged_metadata(self, folder, tmp_path, said):
        save_file(load_file(folder / "int8.safetensors"), tmp_path / "x.safetensors", {METADATA: said})
        text = message(tmp_path / "x.safetensors")
        assert f"damaged {METADATA}" in text or "does not say how it is read" in text

    def test_damage_is_noticed_or_harmless(self, folder, tmp_path):
        """Whatever byte of the header changes, it is read or refused in one line."""
        whole, chance = (folder / "int8.safetensors").read_bytes(), random.Random(0)
        length, path, refused = 8 + int.from_bytes(whole[:8], "little"), tmp_path / "x.safetensors", 0
        for _ in range(400):
            at = chance.randrange(length)
            path.write_bytes(whole[:at] + bytes([chance.randrange(256)]) + whole[at + 1 :])
            try:
                read_model_file(path)
            except ValueError as error:
                refused += 1
                assert len(str(error).splitlines()) == 1
        assert refused > 200


class TestNode:
    @pytest.fixture
    def output(self, folder, tmp_path):
        saved = tmp_path / "diffusion_models"
        saved.mkdir()
        (saved / "int8.safetensors").write_bytes((folder / "int8.safetensors").read_bytes())
        (saved / "notes.txt").write_text("x")
        (tmp_path / "secret.txt").write_text("x")
        with files.session(output_dir=tmp_path):
            yield tmp_path

    def options(self):
        return next(each.options for each in LoadModel.define_schema().inputs if each.id == "model_name")

    def test_lists_what_was_saved(self, output):
        assert self.options() == ["diffusion_models/int8.safetensors [output]"]
        assert LoadModel.validate_inputs(self.options()[0]) is True
        assert LoadModel.validate_inputs(None) is True

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("x.safetensors", "No model 'x.safetensors' in diffusion_models. Put it there and press R."),
            ("x.safetensors [output]", "No file 'x.safetensors [output]' in the output folder."),
            ("../x.safetensors [output]", "it has '..'"),
            ("/etc/x.safetensors", "No model '/etc/x.safetensors' in diffusion_models."),
            ("../../x.safetensors", "No model '../../x.safetensors' in diffusion_models."),
            ("secret.txt [output]", "'secret.txt [output]' is not a .safetensors file, and others may run code."),
            ("wan.gguf", "'wan.gguf' is not a .safetensors file"),
            ("wan.ckpt", "'wan.ckpt' is not a .safetensors file"),
            ("", "'' is not a .safetensors file"),
        ],
    )
    def test_names_that_are_refused(self, output, name, text):
        said = LoadModel.validate_inputs(name)
        assert text in said and len(said.splitlines()) == 1

    def test_damaged_files_are_refused_before_anything_runs(self, output):
        path = output / "diffusion_models" / "int8.safetensors"
        path.write_bytes(path.read_bytes()[:1000])
        assert "Fetch it again" in LoadModel.validate_inputs(self.options()[0])

    def test_another_file_is_loaded_anew(self, output):
        name, path = self.options()[0], output / "diffusion_models" / "int8.safetensors"
        first = LoadModel.fingerprint_inputs(name, False)
        assert LoadModel.fingerprint_inputs(name, True) == first
        path.write_bytes(path.read_bytes())
        assert LoadModel.fingerprint_inputs(name, False) != first

    def test_needs_comfyui(self, output):
        with pytest.raises(ValueError, match=r"A MODEL can be loaded in ComfyUI only\. Run this workflow there"):
            LoadModel.execute(self.options()[0])
