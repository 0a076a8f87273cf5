"""Quantized MODELs in ComfyUI: its own loader opens their files, LoRAs work on them, sources stay as they were."""

import pytest
from comfyui_models import RANDOM_MODELS, SMALL_FILES
from comfyui_server import needs_comfyui, told_in_comfyui

from tokenreel.nodes.compressing import QuantizeModel, SaveModel

FORMATS = """
seen = {}
for kind in CLASSES:
    source = build(kind)
    true = sample(source, kind)
    weights = {name: each.clone() for name, each in source.model.state_dict().items()}
    for format in ("int8", "fp8", "mxfp8", "nvfp4"):
        made, report = steps.quantize_model(source, QuantizationSettings(format))
        out, path = sample(made, kind), FOLDER / f"{kind}_{format}.safetensors"
        said = steps.save_model(made, path)
        told = seen[f"{kind} {format}"] = {"error": off(out, true), "layers": report.error, "said": said,
            "counts": report.counts(), "bytes": [report.nbytes, path.stat().st_size, made.model_size()]}
        told["ours"] = off(sample(steps.load_model(path)[0], kind), out)
        if format != "int8" or "int8_tensorwise" in comfy.ops.QUANT_ALGOS:
            told["core"] = off(sample(comfy.sd.load_diffusion_model(str(path)), kind), out)
    seen[f"{kind} source"] = [difference(weights, source.model.state_dict()), off(sample(source, kind), true)]
print(json.dumps(seen))
"""

LORAS = """
seen = {}
for kind in CLASSES:
    source = build(kind)
    plain = sample(source, kind)
    with_lora = source.clone()
    with_lora.add_patches(lora(source), 1.0)
    true = sample(with_lora, kind)
    for format in ("int8", "fp8"):
        before, _ = steps.quantize_model(with_lora, QuantizationSettings(format))
        made, _ = steps.quantize_model(source, QuantizationSettings(format))
        none = sample(made, kind)
        after = made.clone()
        patched = len(after.add_patches(lora(source), 1.0))
        out, path = sample(after, kind), FOLDER / "lora.safetensors"
        told = seen[f"{kind} {format}"] = {"lora": off(true, plain), "before": off(sample(before, kind), true),
            "after": off(out, true), "none": off(none, plain), "patched": patched}
        steps.save_model(after, path)
        told["again"] = [off(sample(made, kind), none), off(sample(after, kind), out), off(sample(source, kind), plain),
            off(sample(with_lora, kind), true), off(sample(steps.load_model(path)[0], kind), out)]
print(json.dumps(seen))
"""

NODES = """
source = build("wan")
seen, given = {}, [conditions("wan"), conditions("wan"), {"samples": torch.zeros(1, 16, 2, 6, 8)}, 2, 1.0]
made, text, plot = QuantizeModel.execute(source, "int8", 0.4, 0.0, True, False, False, "blocks.0., ffn.2", *given).args
names = [n for n, each in made.model.diffusion_model.named_modules() if hasattr(each, "quant_format")]
seen["int8"] = [names, text, list(plot.shape)]
steps.save_model(made, FOLDER / "smooth.safetensors")
seen["smooth"] = [off(sample(steps.load_model(FOLDER / "smooth.safetensors")[0], "wan"), sample(made, "wan")),
    sum(name.endswith("pre_quant_scale") for name in made.model.diffusion_model.state_dict())]
lean, _ = steps.quantize_model(source, QuantizationSettings("int8"))
steps.is_faster = lambda old, new, inputs: new.in_features > 256
made, text, _ = QuantizeModel.execute(source, "int8", 0.4, 0.0, False, True, False, "").args
fast = sample(made, "wan")
kinds = [each.weight._params.rotated and each._packed is not None for each in made.model.diffusion_model.modules()
    if hasattr(each, "quant_format")]
after = made.clone()
after.add_patches(lora(source), 1.0)
seen["fast"] = [text, kinds, *(off(sample(each, "wan"), fast) for each in (lean, after, made))]
made, text, _ = QuantizeModel.execute(source, "mixed", 0.6, 0.0, False, False, False, "").args
seen["mixed"] = text
with files.session(output_dir=FOLDER):
    held = QuantizeModel.execute(source, "int8", 0.4, 0.0, False, False, True, "").args[0]
    stored = QuantizeModel.execute(source, "nvfp4", 0.4, 0.0, False, False, True, "").args[0]
    there = {each.weight._qdata.untyped_storage().data_ptr() for each in held.model.diffusion_model.modules()
        if hasattr(each, "quant_format")}
    other, _ = steps.quantize_model(source, QuantizationSettings("nvfp4"))
    seen["on disk"] = [off(sample(held, "wan"), sample(lean, "wan")), off(sample(stored, "wan"), sample(other, "wan")),
        len(there), [path.name for path in Path(files.temp_dir()).glob("*.weights")]]
    name, said = SaveModel.execute(made, "models/small").args
    path = Path(files.output_dir(), name)
    seen["saved"] = off(sample(comfy.sd.load_diffusion_model(str(path)), "wan"), sample(made, "wan"))
from tokenreel.models.pruning import DepthSettings
from tokenreel.models.semi_structured import SparseLinear
from tokenreel.nodes.patching import EfficientAttention
from tokenreel.nodes.pruning_steps import leave_out_blocks
shifted = made.clone()
shifted.add_object_patch("model_sampling", made.get_model_object("model_sampling"))
patched = [EfficientAttention.execute(made, "window", 0.5, True, 0.0, 1.0, 0, 0, 0).args[0], shifted,
    leave_out_blocks(source, [sampling("wan")] * 3, DepthSettings(0.5, "change"))[0]]
seen["patched"] = ["patches" in steps.save_model(each, FOLDER / "x.safetensors") for each in (made, source, *patched)]
packed = SparseLinear.__new__(SparseLinear)
torch.nn.Module.__init__(packed)
halved = build("wan")
halved.model.diffusion_model.blocks[0].ffn[0] = packed
plain = [0.4, 0.0, False, False, False, ""]
for wrong in (lambda: QuantizeModel.execute(made, "int8", *plain), lambda: QuantizeModel.execute("it", "int8", *plain),
        lambda: QuantizeModel.execute(source, "int8", *plain, None, None, given[2]),
        lambda: steps.save_model(halved, FOLDER / "halved.safetensors")):
    try:
        wrong()
    except (ValueError, TypeError) as error:
        seen.setdefault("refused", []).append(str(error))
seen["left"] = [path.name for path in FOLDER.iterdir() if "halved" in path.name]
print(json.dumps(seen))
"""

FAMILIES_OF_COMFYUI = """
import json
from tokenreel.models.quantization import QuantizationSettings
from tokenreel.nodes.patching import EfficientAttention
from tokenreel.nodes.quantized_model_steps import quantize_model
seen = {}
for kind in KINDS:
    source, size = build(kind), (3, 5, 7) if kind == "ltxv" else (3, 10, 14)
    true = sample(source, kind, size)
    quantized, report = quantize_model(source, QuantizationSettings("int8"))
    def patched(model):
        return EfficientAttention.execute(model, "top-k", 0.5, True, 0.0, 1.0, 0, 0, 0).args[0]
    both = [sample(patched(quantized), kind, size),
        sample(quantize_model(patched(source), QuantizationSettings("int8"))[0], kind, size)]
    seen[kind] = [report.counts(), float((sample(quantized, kind, size) - true).norm() / true.norm()),
        difference(*both), difference(both[0], true), difference(sample(source, kind, size), true)]
print(json.dumps(seen))
"""

KITCHEN = """
import comfy_kitchen as kitchen
from tokenreel.models.quantized_formats import quantize_weight
torch.manual_seed(0)
weight = torch.randn(160, 512)
weight[3] *= 20
weight[5] = 0
weight[7, 32:64] = 0
def same(one, other):
    return torch.equal(one.view(torch.uint8), other.view(torch.uint8))
ours = {kind: quantize_weight(weight, kind) for kind in ("fp8", "mxfp8", "nvfp4")}
held = {kind: each.tensors for kind, each in ours.items()}
large = weight.abs().amax()
made = [same(kitchen.quantize_per_tensor_fp8(weight, large / 448), held["fp8"]["weight"])]
values, scales = kitchen.quantize_mxfp8(weight)
made += [same(values, held["mxfp8"]["weight"]), same(scales, held["mxfp8"]["weight_scale"])]
made.append(torch.equal(kitchen.dequantize_mxfp8(values, scales, torch.float32), ours["mxfp8"].dequantize()))
values, scales = kitchen.quantize_nvfp4(weight, large / (448 * 6))
made += [same(values, held["nvfp4"]["weight"]), same(scales, held["nvfp4"]["weight_scale"])]
made.append(torch.equal(kitchen.dequantize_nvfp4(values, large / (448 * 6), scales, torch.float32),
    ours["nvfp4"].dequantize()))
print(json.dumps(made))
"""


ERRORS = {"int8": 0.009, "fp8": 0.028, "mxfp8": 0.03, "nvfp4": 0.11}


def run(script, folder):
    return told_in_comfyui(SMALL_FILES + script, str(folder))


@pytest.fixture(scope="module")
def formats(tmp_path_factory):
    return run(FORMATS, tmp_path_factory.mktemp("formats"))


@pytest.fixture(scope="module")
def loras(tmp_path_factory):
    return run(LORAS, tmp_path_factory.mktemp("loras"))


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    return run(NODES, tmp_path_factory.mktemp("nodes"))


@needs_comfyui
@pytest.mark.comfyui
@pytest.mark.parametrize("kind", ["wan", "ltxv"])
class TestFormats:
    @pytest.mark.parametrize("name", ["fp8", "mxfp8", "nvfp4"])
    def test_comfyui_opens_the_file_and_gives_the_same(self, formats, kind, name):
        assert formats[f"{kind} {name}"]["core"] == 0.0

    @pytest.mark.parametrize("name", ERRORS)
    def test_all_linear_layers_of_the_blocks_lose_little(self, formats, kind, name):
        told = formats[f"{kind} {name}"]
        assert told["counts"] == {name: 20} and told["ours"] == 0.0
        assert 0 < told["error"] < told["layers"] < ERRORS[name]

    @pytest.mark.parametrize("name", ERRORS)
    def test_it_is_as_small_as_said(self, formats, kind, name):
        said, written, held = formats[f"{kind} {name}"]["bytes"]
        assert said <= written <= said + 20_000 and held == pytest.approx(said, rel=0.01)

    def test_int8_says_who_opens_it(self, formats, kind):
        told = formats[f"{kind} int8"]
        assert "core" in told or "does not load int8_tensorwise yet" in told["said"]
        assert "Note" not in formats[f"{kind} fp8"]["said"]

    def test_the_source_stays(self, formats, kind):
        assert formats[f"{kind} source"] == [[], 0.0]


@needs_comfyui
@pytest.mark.comfyui
@pytest.mark.parametrize("kind", ["wan", "ltxv"])
@pytest.mark.parametrize("name", ["int8", "fp8"])
class TestLoras:
    def test_before_and_after(self, loras, kind, name):
        told = loras[f"{kind} {name}"]
        assert told["patched"] == 20 and told["lora"] > 1.9 * told["none"]
        assert told["before"] < 1.2 * told["none"]
        assert told["after"] < 2.2 * told["none"]  # rounded a second time, at random

    def test_each_model_keeps_its_own(self, loras, kind, name):
        assert loras[f"{kind} {name}"]["again"] == [0.0] * 5


@needs_comfyui
@pytest.mark.comfyui
class TestNodes:
    def test_layers_to_keep_and_measured_errors(self, nodes):
        names, text, shape = nodes["int8"]
        assert len(names) == 9 and all(name.startswith("blocks.1.") and name != "blocks.1.ffn.2" for name in names)
        assert "what the layers give, on recorded inputs" in text and "sampled with it, the latents differ by" in text
        assert shape[0] == 1 and shape[3] == 3

    def test_smoothing_is_saved(self, nodes):
        difference, layers = nodes["smooth"]
        assert difference == 0.0 and layers > 0

    def test_fast_where_that_is_so(self, nodes):
        text, kinds, other, patched, again = nodes["fast"]
        assert "2 in int8" in text and "18 kept" in text and kinds == [True, True]
        assert 0 < other < 0.01 and patched > 0.001 and again == 0.0

    def test_weights_in_a_file_of_their_own(self, nodes):
        assert nodes["on disk"] == [0.0, 0.0, 1, []]  # one mapping for all layers, of a file that has no name any more

    def test_mixed_and_saved(self, nodes):
        assert "the weights alone" in nodes["mixed"] and nodes["saved"] == 0.0

    def test_refused(self, nodes):
        quantized, no_model, no_prompt, halved = nodes["refused"]
        assert "quantized already" in quantized and "Invalid MODEL (str)" in no_model
        assert no_prompt.startswith("Missing positive") and "cannot be saved" in halved and nodes["left"] == []

    def test_patches_that_no_file_holds_are_named(self, nodes):
        assert nodes["patched"] == [False, False, True, True, True]


@needs_comfyui
@pytest.mark.comfyui
def test_other_families_and_patches_before_and_after():
    seen = told_in_comfyui(RANDOM_MODELS + FAMILIES_OF_COMFYUI)
    assert len(seen) >= 6
    for counts, error, apart, patch, source in seen.values():
        assert counts["int8"] >= 20 and 0 < error < 0.01
        assert apart == 0.0 < patch and source == 0.0


@needs_comfyui
@pytest.mark.comfyui
def test_the_same_bits_as_comfy_kitchen(tmp_path):
    assert run(KITCHEN, tmp_path) == [True] * 7


class TestSchemas:
    @pytest.mark.parametrize("node", [QuantizeModel, SaveModel])
    def test_all_is_explained(self, node):
        schema = node.define_schema()
        assert schema.description and schema.search_aliases and schema.is_output_node
        assert all(each.tooltip for each in (*schema.inputs, *schema.outputs))
