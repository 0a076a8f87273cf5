"""Probe Fidelity in ComfyUI's own sampler, on small random models of its classes, patched by us and by others."""

import json

import pytest
from comfyui_models import RANDOM_MODELS
from comfyui_server import LOAD_CHECKOUT, needs_comfyui, run_in_comfyui

from tokenreel.host.probing import Sampling, samplers, schedulers
from tokenreel.nodes.probing import ProbeFidelity

PROBES = """
import comfy.model_management, comfy.nested_tensor
from tokenreel.host import probing as host
from comfy.patcher_extension import WrappersMP
from tokenreel.models import fidelity_watch
from tokenreel.models.fidelity_report import describe_fidelity
from tokenreel.nodes import probing
from tokenreel.nodes.patching import EfficientAttention, MergeTokens

def conditions(kind, text=5, width=random_models.TEXT):
    chance = torch.Generator().manual_seed(2)
    both = []
    for _ in range(2):
        more = {"pooled_output": torch.randn(1, 24, generator=chance)}
        if kind == "ltxv":
            more.update(attention_mask=torch.ones(1, text, dtype=torch.long), frame_rate=25)
        both.append([[torch.randn(1, text, width, generator=chance), more]])
    return both

def sampling(kind, size=(3, 10, 14), steps=3, cfg=2.0, latent=None, **text):
    if latent is None:
        latent = torch.zeros(1, 128 if kind == "ltxv" else 16, *size)
    return host.Sampling(*conditions(kind, **text), {"samples": latent}, 7, steps, cfg, "euler", "simple")

def probe(model, patched, plan, wished=0.2):
    found, made = probing.probe(model, patched, plan, wished)
    told = found.as_dict()
    json.dumps(told, allow_nan=False)
    told.update(keeps=found.keeps, text=describe_fidelity(found), source=made is model)
    return told

def attending(model, override):
    clone = model.clone()
    clone.model_options.setdefault("transformer_options", {})["optimized_attention_override"] = override
    return clone

def louder(func, *args, **kwargs):
    return func(*args, **kwargs) * 1.1

def sparse(model, kind="top-k", density=0.3):
    return EfficientAttention.execute(model, kind, density, True, 0.0, 1.0, 1, 0, 0).args[0]
"""

BY_FAMILY = """
seen = {}
for kind, size in {"wan": (3, 10, 14), "ltxv": (3, 5, 7), "hunyuan": (3, 10, 14), "cosmos2": (3, 10, 14)}.items():
    # empty latents get as many channels as those of the real LTX-Video
    source = build(kind, **({"in_channels": 128} if kind == "ltxv" else {}))
    weights, options = copy.deepcopy(source.model.state_dict()), copy.deepcopy(source.model_options)
    plan = sampling(kind, size)
    told = seen[kind] = {}
    told["ours"] = probe(source, sparse(source), plan)
    told["theirs"] = probe(source, attending(source, louder), plan)
    after = source.model.state_dict()
    told["kept"] = [all(torch.equal(weights[name], after[name]) for name in weights), options == source.model_options,
                    source.wrappers == {}]
    if kind != "cosmos2":
        merged = MergeTokens.execute(source, "blocks", 0.5, -1.0, 0, 0.1, 0.0, 1.0, 1, 0, 0).args[0]
        told["blocks"] = probe(source, merged, plan)
print("RESULT" + json.dumps(seen))
"""

SPECIAL = """
seen = {}
source = build("wan")
plan = sampling("wan")
step = lambda: None

# the way that is watched is the dense one, bit for bit
class Kept(fidelity_watch.Watch):
    def end(self, forward):
        super().end(forward)
    def begin(self, **facts):
        self.steps = [*getattr(self, "steps", []), facts["step"]]
        return super().begin(**facts)
made = {}
original = host.Sampling._sample
def keeping(self, model, step, steps):
    made["last"] = original(self, model, step, steps)
    return made["last"]
host.Sampling._sample = keeping
watch = Kept()
plan.watch(sparse(source), source, watch, step, percents=(0.15, 1.0))
watched = made["last"][0]
dense = plan.run(source, step)
seen["dense"] = [float((watched - dense.latents[0]).abs().max()), watch.steps, dense.forwards]
host.Sampling._sample = original

seen["alone"] = probe(source, None, plan)
seen["cfg 1"] = probe(source, sparse(source), sampling("wan", cfg=1.0))
seen["same"] = probe(source, source, plan)
seen["broken"] = probe(source, attending(source, lambda func, *args, **kwargs: func(*args, **kwargs) * math.nan), plan)

# others' patches: put there while the model runs, around whole blocks, of steps, of weights
late = source.clone()
def putting(executor, *args, **kwargs):
    args[-1]["optimized_attention_override"] = louder
    return executor(*args, **kwargs)
late.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "other", putting)
seen["late"] = probe(source, late, plan)
block = source.clone()
def halved(args, extra):
    x = args["img"].clone()
    return {"img": x + (extra["original_block"](args)["img"] - x) / 2}
block.set_model_patch_replace(halved, "dit", "double_block", 1)
seen["block"] = probe(source, block, plan)
from comfy_extras.nodes_easycache import EasyCacheNode
cached = EasyCacheNode.execute(sparse(source), 10.0, 0.1, 0.95, False).args[0]
seen["cached"] = probe(source, cached, sampling("wan", steps=6))
other = build("wan", num_layers=4)
seen["other weights"] = probe(source, sparse(other), plan)
reference = attending(source, louder)
seen["patched reference"] = probe(reference, sparse(reference), plan)
try:
    probe(sparse(source), sparse(source), plan)
except ValueError as error:
    seen["apart"] = str(error)
try:
    probe("model", None, plan)
except TypeError as error:
    seen["no model"] = str(error)

comfy.model_management.interrupt_current_processing(True)
try:
    probe(source, sparse(source), plan)
except comfy.model_management.InterruptProcessingException:
    seen["interrupted"] = comfy.model_management.processing_interrupted()  # the exception takes it back

# recommended: with seconds that are made up, as those of so small a model say nothing
real, clock = fidelity_watch._timed, iter(range(0, 10**6, 10))
fidelity_watch._timed = lambda function, repeats=1: (function(), 1.0 if function.__name__ == "dense" else 0.5)
host._now = lambda: next(clock)  # every run takes ten seconds: none is faster
seen["no faster"] = probe(source, None, plan, 2.0)
times = iter([0, 0, 0, 10, 0, 0, 0, 5])  # each time one step to warm up, then all
host._now = lambda: next(times)
found, patched = probing.probe(source, None, plan, 2.0)
again = host.Sampling.run
host._now = lambda: 0.0
run = plan.run(patched, step)
differs = float((run.latents[0] - dense.latents[0]).abs().max()) > 0
seen["recommended"] = [found.as_dict(), describe_fidelity(found), patched is source, differs,
                       [each.report() for each in run.runs], found.recommended.psnr]
fidelity_watch._timed = real
import time
host._now = time.perf_counter

# a video with sound, a picture
both = comfy.nested_tensor.NestedTensor([torch.zeros(1, 16, 3, 5, 7), torch.zeros(1, 8, 6, 16)])
sound = build("sound", num_layers=3)
seen["sound"] = probe(sound, sparse(sound), sampling("sound", latent=both, width=96))
picture = build("picture")
flat = sampling("picture", latent=torch.zeros(1, 16, 10, 14))
seen["picture"] = probe(picture, attending(picture, louder), flat)
answer = probing.ProbeFidelity.execute(source, *conditions("wan"), {"samples": torch.zeros(1, 16, 3, 10, 14)}, 7, 2,
                                       1.0, "euler", "simple", 0.1, patched=sparse(source))
report, plot, model = answer.args
seen["node"] = [report, list(plot.shape), model is source, answer.ui["text"][0] == report]
print("RESULT" + json.dumps(seen))
"""


@pytest.fixture(scope="module")
def results():
    """What both scripts found, in one process: to start ComfyUI's takes longer than all that they do."""
    said = run_in_comfyui(LOAD_CHECKOUT + RANDOM_MODELS + PROBES + BY_FAMILY + SPECIAL, timeout=600)
    return [json.loads(each) for each in said.split("RESULT")[1:]]


@pytest.fixture(scope="module")
def families(results):
    return results[0]


@pytest.fixture(scope="module")
def special(results):
    return results[1]


def test_without_comfyui_the_node_says_what_it_takes():
    schema = ProbeFidelity.GET_SCHEMA()
    assert [each.id for each in schema.inputs if each.optional] == ["patched"]
    assert [each.get_io_type() for each in schema.outputs] == ["STRING", "IMAGE", "MODEL"]
    choices = {each.id: each for each in schema.inputs}
    assert choices["sampler_name"].default in samplers() and choices["scheduler"].default in schedulers()


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match=r"^Invalid MODEL \(str\)\. Connect "):
        Sampling(None, None, {}, 0, 1, 1.0, "euler", "simple").run("model", lambda: None)


@needs_comfyui
@pytest.mark.comfyui
@pytest.mark.parametrize("kind, layers", [("wan", 3), ("ltxv", 3), ("hunyuan", 4), ("cosmos2", 3)])
class TestFamilies:
    def test_our_patches(self, families, kind, layers):
        told = families[kind]["ours"]
        assert [each["kind"] for each in told["layers"]] == ["attention"] * layers
        assert told["calls"] == layers * 3 and told["same"] == 3  # the first block stays dense in all steps
        assert told["layers"][0]["mean"] == 0.0 and all(each["mean"] > 0.05 for each in told["layers"][1:])
        assert 0 < told["error"] < 1 and told["other_error"] == 0.0 and told["patched"]["error"] > 0
        (said,) = told["patched"]["said"]
        assert said.startswith(f"Efficient Attention: {3 * layers - 3} of {3 * layers} calls patched, ")
        assert "blocks that were to stay dense" in said and said in told["text"]
        assert told["grid"] == [3, 5, 7] and len(told["trials"]) == 13 and 0 < told["attention"] < 1

    def test_patches_of_others(self, families, kind, layers):
        told = families[kind]["theirs"]
        assert all(each["mean"] == pytest.approx(0.1, rel=1e-4) for each in told["layers"])
        assert told["step_errors"] == pytest.approx([0.1] * 3, rel=1e-4) and told["same"] == 0
        assert told["other_error"] == pytest.approx(0.1, rel=1e-4)  # of text and to text
        assert told["keeps"] is True and "it keeps to the wished error of 0.2" in told["text"]

    def test_merged_blocks(self, families, kind, layers):
        told = families[kind].get("blocks")
        assert (told is None) == (kind == "cosmos2")
        if told is not None:
            assert [each["kind"] for each in told["layers"]] == ["block"] * layers
            assert told["layers"][0]["mean"] == 0.0 and all(each["mean"] > 0.02 for each in told["layers"][1:])

    def test_the_source_stays(self, families, kind, layers):
        assert families[kind]["kept"] == [True, True, True]


@needs_comfyui
@pytest.mark.comfyui
class TestSpecial:
    def test_the_way_that_is_watched_is_the_dense_one(self, special):
        assert special["dense"] == [0.0, [0, 1, 2], 3]

    def test_without_a_patch_settings_are_tried(self, special):
        told = special["alone"]
        assert told["patched"] is None and not told["layers"] and told["tried_on"] == [[1, 1], [2, 1]]
        assert [each["work"] for each in told["trials"][:5]] == [1.0] * 5  # of windows that hold all of a small video
        errors = [each["error"] for each in told["trials"][5:10]]
        assert errors == sorted(errors, reverse=True) and 0 < errors[-1] < errors[0]

    def test_one_condition(self, special):
        assert special["cfg 1"]["same"] == 3 and special["cfg 1"]["dense"]["forwards"] == 3

    def test_a_model_against_itself(self, special):
        told = special["same"]
        assert told["calls"] == 0 and told["keeps"] is None and told["patched"]["error"] == 0.0
        assert "its result is the dense one" in told["text"]

    def test_what_is_no_number_is_said(self, special):
        told = special["broken"]
        assert told["broken"] == told["calls"] == 9 and told["keeps"] is False and told["patched"]["finite"] is False
        assert "its result holds what is no number" in told["text"] and told["dense"]["finite"]

    def test_patches_that_are_made_while_the_model_runs(self, special):
        assert special["late"]["error"] == pytest.approx(0.1, rel=1e-4)

    def test_blocks_that_others_replace(self, special):
        (layer,) = special["block"]["layers"]
        assert layer["kind"] == "block" and layer["mean"] == pytest.approx(0.5, rel=1e-4)

    def test_caches_of_steps(self, special):
        told = special["cached"]
        assert told["patched"]["forwards"] < told["dense"]["forwards"] == 6
        assert "leaves out runs of the model" in told["notes"][0] and "left out" in told["text"]

    def test_other_weights(self, special):
        told = special["other weights"]
        assert len(told["layers"]) == 4 and "other weights" in told["notes"][0]
        assert told["error"] < 0.6 < told["patched"]["error"]

    def test_a_reference_with_a_patch_of_its_own(self, special):
        told = special["patched reference"]
        assert told["layers"][0]["mean"] == 0.0 and told["same"] == 3

    def test_refusals(self, special):
        assert special["apart"].startswith("Invalid patched: both models have patches of this pack")
        assert special["no model"] == "Invalid MODEL (str). Connect ComfyUI's Load Diffusion Model."

    def test_can_be_interrupted(self, special):
        assert special["interrupted"] is False

    def test_a_recommended_setting_is_patched_in_and_sampled_with(self, special):
        told, text, source, differs, (run,), psnr = special["recommended"]
        trial = told["trials"][told["choice"]]
        assert (trial["kind"], trial["amount"]) == ("top-k", 0.1) and not source and differs and psnr > 20
        assert "Recommended: Efficient Attention with kind top-k, density 0.1." in text and "(2.00x as fast)" in text
        assert run.startswith("2 of 9 calls patched") and "steps that were to stay dense" in run

    def test_a_setting_that_is_no_faster_in_all_is_not_taken(self, special):
        told = special["no faster"]
        assert told["choice"] is None and told["source"] and "took no less time than dense" in told["advice"]
        assert "sampled twice" in told["notes"][0]

    def test_a_video_with_sound(self, special):
        told = special["sound"]
        assert told["same"] == 3 and len(told["layers"]) == 3 and told["patched"]["error"] > 0

    def test_a_picture(self, special):
        told = special["picture"]
        assert told["grid"] is None and not told["trials"] and told["error"] == pytest.approx(0.1, rel=1e-4)
        assert "no video: there is no grid" in told["text"] and "the latent is no video" in told["advice"]

    def test_the_node(self, special):
        report, shape, source, shown = special["node"]
        assert report.startswith("2 steps, 105 tokens of video (3 x 5 x 7)") and shown and source
        assert shape[0] == 1 and shape[2:] == [720, 3]
