"""Patched models in ComfyUI's own sampler: small random Wan, LTX-Video, HunyuanVideo and Cosmos of its own classes."""

import json

import pytest
from comfyui_models import RANDOM_MODELS
from comfyui_server import LOAD_CHECKOUT, needs_comfyui, run_in_comfyui

from tokenreel.host.model_patches import patch_model
from tokenreel.nodes.patching import EfficientAttention, MergeTokens

FAMILIES = ("wan", "wan5b", "ltxv", "hunyuan", "cosmos", "cosmos2")

PATCHES = """
import functools
from tokenreel.host.model_patches import patch_model
from tokenreel.models.attention_calls import Gate
from tokenreel.models.sparse_patch import SparseRun, SparseSettings
from tokenreel.models.token_merging import MergeRun, MergeSettings
from tokenreel.nodes.patching import EfficientAttention, MergeTokens

RUNS = []
def started(run):
    RUNS.append(run)
    return run

def sparse(model, percents=(0.0, 1.0), first=0, last=0, **settings):
    asked = SparseSettings(**{"tile": (1, 2, 3), "cube": (1, 2, 2), **settings})
    return patch_model(model, lambda a, b: started(SparseRun(asked, Gate(a, b, first, last))), percents=percents)

def merge(model, mode="keys", percents=(0.0, 1.0), **settings):
    asked = MergeSettings(mode, **{"threshold": -1.0, **settings})
    return patch_model(model, lambda a, b: started(MergeRun(asked, Gate(a, b))), percents=percents,
                       blocks=mode == "blocks", asked_first=True)
"""

BY_FAMILY = """
seen = {}
for kind in KINDS:
    size = (3, 5, 7) if kind == "ltxv" else (3, 10, 14)
    source = build(kind)
    weights = copy.deepcopy(source.model.state_dict())
    dense = sample(source, kind, size)
    told = seen[kind] = {"spread": float(dense.std())}
    blocks = not kind.startswith("cosmos")
    same = merge(sparse(sparse(source, density=1.0), kind="top-k", density=1.0), ratio=0.0)
    told["same"] = difference(dense, sample(merge(same, "blocks", ratio=0.0) if blocks else same, kind, size))
    told["nodes"] = difference(dense, sample(
        MergeTokens.execute(EfficientAttention.execute(source, "window", 0.3, True, 0.15, 1.0, 1, 1, 8192).args[0],
                            "keys", 0.5, 0.9, 0, 0.1, 0.0, 0.7, 2, 2, 2048).args[0], kind, size))
    makers = {"window": lambda m: sparse(m, density=0.1), "top-k": lambda m: sparse(m, kind="top-k", density=0.1),
              "linear": lambda m: sparse(m, kind="linear"), "keys": lambda m: merge(m, ratio=0.5)}
    if blocks:
        makers["blocks"] = lambda m: merge(m, "blocks", ratio=0.5)
    else:
        try:
            merge(source, "blocks")
        except ValueError as error:
            told["refused"] = str(error)
    told["patched"] = {}
    for name, make in makers.items():
        RUNS.clear()
        patched = make(source)
        made = sample(patched, kind, size)
        told["patched"][name] = [bool(torch.isfinite(made).all()), difference(dense, made),
                                 difference(made, sample(patched, kind, size)), RUNS[0].report(), len(RUNS)]
    told["both"] = {}
    for mode in ("keys", "blocks") if blocks else ("keys",):
        for chosen in ("window", "top-k"):
            RUNS.clear()
            made = sample(merge(sparse(source, kind=chosen, density=0.1), mode, ratio=0.5), kind, size)
            told["both"][f"{mode}, {chosen}"] = [bool(torch.isfinite(made).all()), difference(dense, made),
                                                 [run.report() for run in RUNS]]
    gated = sparse(source, (0.5, 1.0), first=1, last=1, density=0.1)
    RUNS.clear()
    sample(gated, kind, size, steps=4)
    told["gated"] = [RUNS[0].patched, dict(RUNS[0].dense)]
    told["source"] = difference(dense, sample(source, kind, size))
    after = source.model.state_dict()
    told["weights"] = all(torch.equal(weights[name], after[name]) for name in weights)
print("RESULT" + json.dumps(seen))
"""

COMPOSED = """
seen = {}
source = build("wan")
dense = sample(source, "wan")
options = copy.deepcopy(source.model_options)
weights = copy.deepcopy(source.model.state_dict())
for _ in range(100):
    patched = merge(merge(sparse(source.clone()), ratio=0.3), "blocks").clone()
    patched.patch_model()
    patched.unpatch_model()
after = source.model.state_dict()
seen["cycles"] = [all(torch.equal(weights[name], after[name]) for name in weights), options == source.model_options,
                  source.wrappers == {}, difference(dense, sample(source, "wan"))]

# other patches of attention, before and after ours
calls = []
def before(func, *args, **kwargs):
    calls.append(args[0].shape[-2])
    return func(*args, **kwargs)
other = source.clone()
other.model_options["transformer_options"]["optimized_attention_override"] = before
ours = sparse(other, density=0.1)
alone = sample(sparse(source, density=0.1), "wan")
seen["chained"] = [difference(alone, sample(ours, "wan")), sorted(set(calls))]
after_ours = ours.model_options["transformer_options"]["optimized_attention_override"]
either = [sample(merge(sparse(source), ratio=0.5), "wan"), sample(sparse(merge(source, ratio=0.5)), "wan")]
between = merge(source, ratio=0.5)
between.model_options["transformer_options"]["optimized_attention_override"] = functools.partial(
    lambda inner, func, *args, **kwargs: inner(func, *args, **kwargs),
    between.model_options["transformer_options"]["optimized_attention_override"])
seen["either order"] = [difference(dense, either[0]) > 0, difference(*either),
                        difference(either[0], sample(sparse(between), "wan")) > 0]
later = ours.clone()
later.model_options["transformer_options"]["optimized_attention_override"] = (
    lambda func, *args, **kwargs: after_ours(func, *args, **kwargs))
seen["later"] = difference(alone, sample(later, "wan"))
replaced = ours.clone()
replaced.model_options["transformer_options"]["optimized_attention_override"] = before
RUNS.clear()
seen["replaced"] = [difference(dense, sample(replaced, "wan")), RUNS[0].report()]

# weights of a LoRA, put on before and after; compiled, also with blocks of fewer tokens
def lora(model):
    taught = model.clone()
    chance = torch.Generator().manual_seed(7)
    name = "diffusion_model.blocks.1.self_attn.q.weight"
    delta = torch.randn(taught.model.state_dict()[name].shape, generator=chance)
    assert taught.add_patches({name: ("diff", (delta,))}, 0.3)
    return taught
taught = [sample(sparse(lora(source), density=0.1), "wan"), sample(lora(sparse(source, density=0.1)), "wan")]
seen["taught"] = [difference(*taught), difference(alone, taught[0]) > 0,
                  difference(sample(lora(source), "wan"), sample(sparse(lora(source), density=1.0), "wan")),
                  difference(alone, sample(sparse(source, density=0.1), "wan"))]
from comfy_api.torch_helpers import set_torch_compile_wrapper
both = merge(sparse(source, density=0.1), "blocks", ratio=0.5)
plain, compiled = sample(both, "wan"), both.clone()
set_torch_compile_wrapper(model=compiled, backend="eager", options=None, fullgraph=False)
RUNS.clear()
seen["compiled"] = [difference(plain, sample(compiled, "wan")), [run.patched for run in RUNS]]

# core's own: a cache of steps, windows of the clip
from comfy_extras.nodes_easycache import EasyCacheNode
cached = EasyCacheNode.execute(sparse(source, density=0.1), 0.5, 0.1, 0.95, False).args[0]
seen["cached"] = bool(torch.isfinite(sample(cached, "wan", steps=6)).all())
import comfy.context_windows as windows
context = sparse(merge(source, ratio=0.3), density=0.1)
context.model_options["context_handler"] = windows.IndexListContextHandler(
    context_schedule=windows.get_matching_context_schedule("standard_static"),
    fuse_method=windows.get_matching_fuse_method("pyramid"), context_length=4, context_overlap=2, dim=2)
windows.create_prepare_sampling_wrapper(context)
RUNS.clear()
made = sample(context, "wan", size=(9, 10, 14))
seen["windows"] = [bool(torch.isfinite(made).all()), [run.patched > 0 for run in RUNS]]

# tokens beside the video's: a reference before, guides after, text that is padded
referenced = build("wan", in_dim_ref_conv=16)
chance = torch.Generator().manual_seed(3)
x, t, context = torch.randn(1, 16, 3, 10, 14, generator=chance), torch.tensor([500.0]), torch.randn(1, 5, 32)
reference = torch.randn(1, 16, 10, 14, generator=chance)
def all_of(model, *given, **more):
    exact = once(model, *given, **more)
    RUNS.clear()
    wide = once(sparse(model, density=1.0), *given, **more)
    merged = once(merge(model, "blocks", ratio=0.5), *given, **more)
    near = once(sparse(model, density=0.1), *given, **more)
    return [difference(exact, wide), difference(exact, near) > 0, difference(exact, merged) > 0,
            math.isfinite(difference(near, merged)), RUNS[1].patched, RUNS[2].patched]
seen["reference"] = all_of(referenced, x, t, context, reference_latent=reference)
ltxv = build("ltxv")
x = torch.randn(1, 16, 4, 5, 7, generator=chance)
places, mask = torch.zeros(1, 3, 35, 2), torch.ones(1, 1, 4, 5, 7)
mask[:, :, 3, 2] = -1
seen["guides"] = all_of(ltxv, x, torch.full((1, 140), 0.5), torch.randn(1, 5, 32), torch.ones(1, 5, dtype=torch.long),
                        frame_rate=25, keyframe_idxs=places, denoise_mask=mask)
hunyuan = build("hunyuan")
padded = {"attention_mask": torch.tensor([[1, 1, 1, 0, 0]])}
RUNS.clear()
exact = sample(hunyuan, "hunyuan", cfg=1.0, **padded)  # ComfyUI's HunyuanVideo takes such a mask for one condition
seen["padded"] = [difference(exact, sample(sparse(hunyuan, density=1.0), "hunyuan", cfg=1.0, **padded)),
                  difference(exact, sample(sparse(hunyuan, density=0.1), "hunyuan", cfg=1.0, **padded)) > 0,
                  RUNS[1].report()]
x, text = torch.randn(1, 16, 3, 10, 14, generator=chance), torch.randn(1, 5, 32, generator=chance)
given = {"y": torch.randn(1, 24, generator=chance), "guidance": torch.tensor([6.0])}
seen["hunyuan reference"] = all_of(hunyuan, x, t, text, ref_latent=reference[:, :, None], **given)
seen["hunyuan first frame"] = all_of(hunyuan, x, t, text, guiding_frame_index=torch.tensor([0.0]), **given)
seen["context latents"] = all_of(source, x, t, text, context_latents=[reference[:, :, None, :6, :8]])
seen["frames behind"] = all_of(source, x, t, text, time_dim_concat=reference[:, :, None])
seen["vace"] = all_of(build("vace"), x, t, text, vace_context=torch.randn(1, 1, 96, 3, 10, 14), vace_strength=[1.0])
both = [torch.randn(1, 16, 3, 5, 7, generator=chance), torch.randn(1, 8, 6, 16, generator=chance)]
seen["sound"] = all_of(build("sound"), both, torch.tensor([0.5]), torch.randn(1, 5, 96), None, frame_rate=25)
frames = build("wan5b")
x = torch.randn(1, 48, 3, 10, 14, generator=chance)
seen["frames"] = all_of(frames, x, torch.tensor([[0.0, 500.0, 500.0]]), torch.randn(1, 5, 32))
print("RESULT" + json.dumps(seen))
"""


@pytest.fixture(scope="module")
def results():
    """What both scripts found, in one process: to start ComfyUI's takes longer than all that they do."""
    said = run_in_comfyui(LOAD_CHECKOUT + RANDOM_MODELS + PATCHES + BY_FAMILY + COMPOSED, timeout=600)
    return [json.loads(each) for each in said.split("RESULT")[1:]]


@pytest.fixture(scope="module")
def families(results):
    return results[0]


@pytest.fixture(scope="module")
def composed(results):
    return results[1]


@pytest.mark.parametrize("node", [EfficientAttention, MergeTokens])
def test_nodes_say_what_they_take(node):
    """Also without ComfyUI, where there is no MODEL to be patched."""
    schema = node.GET_SCHEMA()
    assert schema.category == "model/efficiency" and schema.description.endswith(".")
    assert all(socket.tooltip.endswith(".") for socket in (*schema.inputs, *schema.outputs))
    assert [socket.get_io_type() for socket in (schema.inputs[0], *schema.outputs)] == ["MODEL", "MODEL"]


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match=r"^Invalid MODEL \(str\)\. Connect "):
        patch_model("model", lambda first, last: pytest.fail("never begun"))


@needs_comfyui
@pytest.mark.comfyui
@pytest.mark.parametrize("kind", FAMILIES)
class TestFamilies:
    def test_where_nothing_is_left_out_nothing_changes(self, families, kind):
        assert families[kind]["spread"] > 0.1 and families[kind]["same"] == 0.0

    def test_small_videos_are_left_alone_by_the_nodes(self, families, kind):
        assert families[kind]["nodes"] == 0.0

    def test_patches_work_and_every_run_is_like_the_first(self, families, kind):
        calls = {"hunyuan": 4}.get(kind, 3) * 2
        for name, (finite, changed, again, report, runs) in families[kind]["patched"].items():
            assert finite and changed > 0 and again == 0.0 and runs == 2, name
            assert report.startswith(f"{calls} of {calls} calls patched, "), (name, report)

    def test_merging_and_sparse_attention_work_on_what_the_other_leaves(self, families, kind):
        calls = {"hunyuan": 4}.get(kind, 3) * 2
        for name, (finite, changed, reports) in families[kind]["both"].items():
            assert finite and changed > 0, name
            assert [report.startswith(f"{calls} of {calls} calls patched, ") for report in reports] == [True] * 2, name

    def test_blocks_that_cannot_be_replaced_are_refused(self, families, kind):
        refused = families[kind].get("refused", "")
        assert refused.endswith("or merge keys.") == kind.startswith("cosmos")

    def test_gates_by_noise_and_block(self, families, kind):
        blocks = {"hunyuan": 4}.get(kind, 3)
        patched, dense = families[kind]["gated"]
        steps = 4 - dense["steps that were to stay dense"] // blocks
        assert 0 < steps < 4 and patched == steps * (blocks - 2)
        assert dense["blocks that were to stay dense"] == steps * 2

    def test_the_source_stays(self, families, kind):
        assert families[kind]["source"] == 0.0 and families[kind]["weights"]


@needs_comfyui
@pytest.mark.comfyui
class TestComposed:
    def test_a_hundred_patches_leave_the_source_as_it_was(self, composed):
        assert composed["cycles"] == [True, True, True, 0.0]

    def test_other_patches_of_attention_before_and_after(self, composed):
        changed, lengths = composed["chained"]
        assert changed == 0.0 and 105 in lengths and min(lengths) < 10  # cross-attention whole, tiles apart
        assert composed["later"] == 0.0

    def test_merged_keys_are_left_out_first_in_either_order(self, composed):
        assert composed["either order"] == [True, 0.0, True]  # the last with another's patch of attention in between

    def test_being_replaced_is_said(self, composed):
        assert composed["replaced"] == [
            0.0,
            "no call of attention about a video came by; another patch may have taken its place",
        ]

    def test_weights_of_a_lora_before_and_after(self, composed):
        assert composed["taught"] == [0.0, True, 0.0, 0.0]

    def test_compiled(self, composed):
        changed, patched = composed["compiled"]
        assert changed < 1e-5 and patched == [6, 6]

    def test_with_a_cache_and_with_context_windows(self, composed):
        assert composed["cached"] is True
        assert composed["windows"] == [True, [True, True]]

    @pytest.mark.parametrize(
        "case, blocks, calls",
        [
            ("reference", 3, 3),
            ("context latents", 3, 3),
            ("frames behind", 3, 3),
            ("frames", 3, 3),
            ("vace", 3, 4),
            ("guides", 3, 3),
            ("sound", 0, 2),  # its blocks take the sound with the video
            ("hunyuan reference", 4, 4),
            ("hunyuan first frame", 4, 4),
        ],
    )
    def test_tokens_beside_the_video_and_modulation_by_frames(self, composed, case, blocks, calls):
        assert composed[case] == [0.0, True, blocks > 0, True, blocks, calls]

    def test_padded_text(self, composed):
        same, changed, report = composed["padded"]
        assert same == 0.0 and changed and report.startswith("8 of 8 calls patched")
