"""Models loaded in ComfyUI from files of ours: the same as before they were saved, with all that is done to a MODEL."""

import pytest
from comfyui_models import SMALL_FILES
from comfyui_server import needs_comfyui, told_in_comfyui

LOADING = """
import comfy.model_management as management
from tokenreel.models.quantized_formats import quantize_weight
from tokenreel.nodes.compressing import LoadModel
from tokenreel.nodes.patching import EfficientAttention

def never(*args, **options):
    raise AssertionError("a pickle was opened")

torch.load = never
session = files.session(output_dir=FOLDER)
session.__enter__()

def load(name, fast=False):
    checked = LoadModel.validate_inputs(name)
    assert checked is True, checked
    return LoadModel.execute(name, fast).args

def saved(model, name="model"):
    return f"{SaveModel.execute(model, 'diffusion_models/' + name).args[0]} [output]"

def quantized(source, format, **more):
    limits = dict(size=0.65, formats=("int8", "fp8", "nvfp4")) if format == "mixed" else {}
    return steps.quantize_model(source, QuantizationSettings(format, **limits), **more)[0]

def smoothed(source, kind):
    recorded = steps.record_model(source, sampling(kind), lambda: None)
    settings = QuantizationSettings("int8", smoothing=True)
    return steps.quantize_model(source, settings, inputs=recorded.inputs)[0]
"""

SAME = """
seen = {}
for kind in CLASSES:
    source = build(kind)
    models = {format: quantized(source, format) for format in ("int8", "fp8", "mxfp8", "nvfp4", "mixed")}
    models |= {"smoothed": smoothed(source, kind), "plain": source}
    for format, made in models.items():
        wanted = sample(made, kind)
        model, report = load(saved(made, f"{kind}_{format}"))
        again, _ = load(saved(model, "again"))
        state = [each.model.diffusion_model.state_dict() for each in (made, model)]
        told = seen[f"{kind} {format}"] = {"report": report.splitlines()[1:],
            "names": sorted(state[0]) == sorted(state[1]), "bytes": [made.model_size(), model.model_size()]}
        told["equal"] = [torch.equal(sample(each, kind), wanted) for each in (model, model, again)]
print(json.dumps(seen))
"""

TREATED = """
seen = {}
for kind in CLASSES:
    source = build(kind)
    for format in ("int8", "smoothed", "fp8"):
        made = smoothed(source, kind) if format == "smoothed" else quantized(source, format)
        model, _ = load(saved(made))
        def with_lora(model):
            patched = model.clone()
            assert len(patched.add_patches(lora(source), 1.0)) == 20
            return patched
        def attending(model):
            return EfficientAttention.execute(model, "top-k", 0.5, True, 0.0, 1.0, 0, 0, 0).args[0]
        plain, wanted = sample(made, kind), sample(with_lora(made), kind)
        before = {name: each.clone() for name, each in model.model.state_dict().items()}
        cycles, patched = [], with_lora(model)
        for _ in range(2):
            management.load_models_gpu([patched])
            cycles += [torch.equal(sample(patched, kind), wanted)]
            management.unload_all_models()
            cycles += [difference(before, model.model.state_dict()) == [], torch.equal(sample(model, kind), plain)]
            management.unload_all_models()
        factory, given = model.cached_patcher_init
        fresh = factory(*given, disable_dynamic=True)
        seen[f"{kind} {format}"] = {"cycles": cycles, "lora": off(wanted, plain),
            "attention": torch.equal(sample(attending(model), kind), sample(attending(made), kind)),
            "both": torch.equal(sample(attending(patched), kind), sample(attending(with_lora(made)), kind)),
            "fresh": torch.equal(sample(fresh, kind), plain), "stays": torch.equal(sample(model, kind), plain)}
source = build("wan")
true = sample(source, "wan")
little, _ = load(saved(quantized(source, "int8")))
little.add_patches(lora(source), 1.0)
whole = source.clone()
whole.add_patches(lora(source), 1.0)
wanted = sample(whole, "wan")
management.unload_all_models()
usual = type(little).load
type(little).load = lambda self, *args, **options: usual(self, *args, **{**options,
    "lowvram_model_memory": 1, "full_load": False})
out = sample(little, "wan")
layer = little.model.diffusion_model.blocks[0].ffn[0]
seen["little memory"] = [len(layer.weight_function), off(out, wanted), off(wanted, true)]
print(json.dumps(seen))
"""

FAST = """
seen, source = {}, build("wan")
lean = quantized(source, "int8")
name = saved(lean)
timed = []
def is_faster(layer, twin, inputs):
    timed.append([type(layer) is type(twin), layer.in_features, twin.keeps_packed])
    x = torch.randn(1, 3, layer.in_features, generator=torch.Generator().manual_seed(1))
    assert off(twin(x), layer(x)) < 0.02
    return layer.in_features > 256
steps.is_faster = is_faster
wanted = quantized(source, "int8", fast=True)
timed.clear()
model, report = load(name, True)
kinds = [each.keeps_packed for each in model.model.diffusion_model.modules() if hasattr(each, "quant_format")]
out = sample(model, "wan")
packed = [each._packed is not None for each in model.model.diffusion_model.modules() if hasattr(each, "quant_format")]
close = model.clone()
close.add_patches(lora(source), 1.0)
seen["fast"] = [timed, report, kinds, packed, off(out, sample(wanted, "wan")), off(sample(close, "wan"), out),
    off(sample(model, "wan"), out)]
kept, _ = load(saved(model))
seen["kept"] = [off(sample(kept, "wan"), out), sum(hasattr(each, "quant_format") for each in
    kept.model.diffusion_model.modules())]
seen["nothing"] = load(saved(source, "plain"), True)[1]
steps.is_faster = lambda *args: True
seen["all"] = load(name, True)[1]
steps.is_faster = never
seen["plain"] = load(name)[1]
print(json.dumps(seen))
"""

OTHERS = """
from safetensors.torch import load_file, save_file
seen, source = {}, build("wan")
made = quantized(source, "int8")
wanted, plain = sample(made, "wan"), sample(source, "wan")
path = files.resolve_diffusion_model(saved(made))
whole, folder, layer = load_file(path), FOLDER / "diffusion_models", "blocks.1.ffn.0"
floats = {name: each.contiguous() for name, each in source.model.diffusion_model.state_dict().items()}
configs = {name.removesuffix(".comfy_quant"): json.loads(bytes(each.tolist())) for name, each in whole.items()
    if name.endswith("comfy_quant")}
PREFIX = "model.diffusion_model."

def text_of(config):
    return torch.tensor(list(json.dumps(config).encode()), dtype=torch.uint8)

def write(name, tensors, metadata=None):
    save_file(tensors, folder / f"{name}.safetensors", metadata)
    return f"diffusion_models/{name}.safetensors [output]"

def listed(layers):
    return {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}

unmarked = {name: each for name, each in whole.items() if not name.endswith("comfy_quant")}
opened = {
    "prefixed": (write("prefixed", {PREFIX + name: each for name, each in whole.items()}), wanted),
    "listed": (write("listed", unmarked, listed(configs)), wanted),
    "listed with a prefix": (write("both", {PREFIX + name: each for name, each in unmarked.items()},
        listed({PREFIX + name: each for name, each in configs.items()})), wanted),
    "listed without": (write("without", {PREFIX + name: each for name, each in unmarked.items()}, listed(configs)),
        wanted),
    "plain, prefixed": (write("plain", {PREFIX + name: each for name, each in floats.items()}), plain),
}
weight = floats[f"{layer}.weight"]
one = (weight.abs().amax() / 127).float()
held = (weight / one).round().to(torch.int8)
single = {**floats, f"{layer}.weight": held, f"{layer}.weight_scale": one, f"{layer}.comfy_quant":
    text_of({"format": "int8_tensorwise"})}
twin = {**floats, f"{layer}.weight": held * one}
opened["one scale"] = (write("one", single), sample(load(write("twin", twin))[0], "wan"))
for name, (file, out) in opened.items():
    seen[name] = off(sample(load(file)[0], "wan"), out)
marked, small = f"{layer}.comfy_quant", {name: each for name, each in whole.items() if "blocks.1." not in name}
refused = {
    "format": {**whole, marked: text_of({"format": "int3_magic"})},
    "size": {**floats, f"{layer}.weight": torch.zeros(4, 4)},
    "layer": {**whole, f"{layer}.weight": torch.zeros(8, 256, dtype=torch.int8),
        f"{layer}.weight_scale": torch.ones(8, 1)},
    "smoothed fp8": {**floats, f"{layer}.weight": weight.to(torch.float8_e4m3fn), f"{layer}.weight_scale":
        torch.ones(()), f"{layer}.pre_quant_scale": torch.ones(256), marked: text_of({"format": "float8_e4m3fn"})},
    "no layer": {**whole, "head.modulation.comfy_quant": whole[marked].clone()},
    "conv": {**whole, "patch_embedding.comfy_quant": whole[marked].clone()},
    "lora": {"lora_unet_blocks_0.lora_up.weight": torch.zeros(8, 4)},
    "nothing": {"x": torch.zeros(2)},
}
for name, tensors in refused.items():
    try:
        load(write("wrong", tensors))
        seen[name] = "opened"
    except (ValueError, AssertionError) as error:  # on running, or before
        seen[name] = [type(error).__name__, str(error)]
usual = management.unet_manual_cast
for kind in CLASSES:
    asked, file = seen.setdefault("types", {}).setdefault(kind, []), saved(quantized(build(kind), "int8"), kind)
    management.unet_manual_cast = lambda dtype, device, types: (asked.append([*map(str, types)]),
        usual(dtype, device, types))[1]
    load(file)
comfy.ops.QUANT_ALGOS = {}
comfy.ops.mixed_precision_ops, usual = None, comfy.ops.mixed_precision_ops
del comfy.ops.mixed_precision_ops
seen["old ComfyUI"] = [LoadModel.validate_inputs(opened[name][0]) for name in ("prefixed", "plain, prefixed")]
print(json.dumps(seen))
"""


def run(script, folder):
    return told_in_comfyui(SMALL_FILES + LOADING + script, str(folder))


@pytest.fixture(scope="module")
def same(tmp_path_factory):
    return run(SAME, tmp_path_factory.mktemp("same"))


@pytest.fixture(scope="module")
def treated(tmp_path_factory):
    return run(TREATED, tmp_path_factory.mktemp("treated"))


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    return run(FAST, tmp_path_factory.mktemp("fast"))


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return run(OTHERS, tmp_path_factory.mktemp("others"))


for_families = pytest.mark.parametrize("kind", ["wan", "ltxv"])
NATIVE = {"fp8": "20 in fp8, ", "mxfp8": "20 in mxfp8, ", "nvfp4": "20 in nvfp4, ", "plain": ""}


@needs_comfyui
@pytest.mark.comfyui
@for_families
class TestSame:
    @pytest.mark.parametrize("name", ["int8", "smoothed", "mixed", *NATIVE])
    def test_bit_for_bit_as_before_it_was_saved(self, same, kind, name):
        told = same[f"{kind} {name}"]
        assert told["equal"] == [True] * 3 and told["names"]
        assert told["bytes"][0] == pytest.approx(told["bytes"][1], rel=0.001)

    @pytest.mark.parametrize("name", NATIVE)
    def test_report_of_what_comfyui_opens(self, same, kind, name):
        layers, loader = same[f"{kind} {name}"]["report"]
        assert layers.startswith(f"Layers: {NATIVE[name]}") and loader == "Load Diffusion Model opens it as well"

    def test_report_of_int8(self, same, kind):
        layers, loader = same[f"{kind} int8"]["report"]
        assert layers.startswith("Layers: 20 in int8, ") and layers.endswith("; inputs of 20 turned")
        assert loader in (
            "Load Diffusion Model of this ComfyUI does not open it: it does not read int8_tensorwise",
            "Load Diffusion Model opens it as well",  # from 2026 on
        )
        assert " smoothed" in same[f"{kind} smoothed"]["report"][0]


@needs_comfyui
@pytest.mark.comfyui
@for_families
@pytest.mark.parametrize("name", ["int8", "smoothed", "fp8"])
class TestTreated:
    def test_loaded_and_unloaded_twice_with_a_lora(self, treated, kind, name):
        told = treated[f"{kind} {name}"]
        assert told["cycles"] == [True] * 6 and told["lora"] > 0.001

    def test_patches(self, treated, kind, name):
        assert treated[f"{kind} {name}"]["attention"] and treated[f"{kind} {name}"]["both"]

    def test_comfyui_may_load_it_once_more(self, treated, kind, name):
        assert treated[f"{kind} {name}"]["fresh"] and treated[f"{kind} {name}"]["stays"]


@needs_comfyui
@pytest.mark.comfyui
def test_a_lora_that_is_added_as_layers_run(treated):
    """Where there is no room for it, ComfyUI leaves the weights where they are and patches them on the way."""
    functions, error, changed = treated["little memory"]
    assert functions == 1 and 0 < error < 0.5 * changed


@needs_comfyui
@pytest.mark.comfyui
class TestFast:
    def test_layers_are_packed_or_widened_as_quantize_model_does(self, fast):
        timed, report, kinds, packed, apart, lora, again = fast["fast"]
        assert timed == [[True, 256, True], [True, 256, True], [True, 512, True]]  # once for each shape
        assert "fast: 18 of the layers in int8 run in float, which is faster here" in report.splitlines()
        assert kinds == [True, True] and packed == [True, True]
        assert apart < 0.01 and lora > 0.001 and again == 0.0

    def test_what_is_fast_can_be_saved(self, fast):
        apart, layers = fast["kept"]
        assert apart < 1e-5 and layers == 2

    def test_only_where_it_is_asked_for_and_of_use(self, fast):
        assert fast["nothing"].splitlines()[2] == "Note: fast does nothing here, it is for int8 on a CPU."
        assert "fast: int8 is faster here in all of its layers" in fast["all"].splitlines()
        assert "fast" not in fast["plain"]


@needs_comfyui
@pytest.mark.comfyui
class TestOtherFiles:
    @pytest.mark.parametrize(
        "name", ["prefixed", "listed", "listed with a prefix", "listed without", "plain, prefixed"]
    )
    def test_the_same_weights_under_other_names(self, others, name):
        assert others[name] == 0.0

    def test_a_single_scale(self, others):
        assert 0 < others["one scale"] < 0.01

    @pytest.mark.parametrize(
        ("name", "kind", "text"),
        [
            ("format", "AssertionError", "needs a ComfyUI that reads int3_magic; here are read int8_tensorwise, "),
            ("smoothed fp8", "AssertionError", "needs a ComfyUI that reads pre_quant_scale in float8_e4m3fn; "),
            ("size", "ValueError", "does not fit the model that ComfyUI takes it for"),
            ("layer", "ValueError", "blocks.1.ffn.0 is not that of the model it is in"),
            ("no layer", "AssertionError", "layer head.modulation: no weight of a linear layer in int8"),
            ("conv", "AssertionError", "layer patch_embedding: no weight of a linear layer in int8"),
            ("lora", "ValueError", "holds no diffusion model that this ComfyUI knows"),
            ("nothing", "ValueError", "holds no diffusion model that this ComfyUI knows"),
        ],
    )
    def test_refused_in_one_line(self, others, name, kind, text):
        """By validate_inputs where the header tells, which is the AssertionError of the script."""
        seen, said = others[name]
        assert seen == kind and text in said and len(said.splitlines()) == 1

    def test_it_computes_in_a_type_that_the_model_bears(self, others):
        """LTX-Video gives no numbers in float16: ours is chosen among the same as ComfyUI's, before it and alike."""
        wan, ltxv = others["types"]["wan"], others["types"]["ltxv"]
        assert wan == [["torch.float16", "torch.bfloat16", "torch.float32"]] * 2
        assert ltxv == [["torch.bfloat16", "torch.float32"]] * 2

    def test_an_older_comfyui_opens_what_is_not_quantized(self, others):
        quantized, plain = others["old ComfyUI"]
        assert "needs a ComfyUI that reads int8_tensorwise; here are read no layers in few bits" in quantized
        assert plain is True
