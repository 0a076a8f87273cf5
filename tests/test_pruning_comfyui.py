"""Pruned models in ComfyUI's own sampler: small random ones of its classes, and files that its loader opens."""

import json

import pytest
from comfyui_models import RANDOM_MODELS
from comfyui_server import LOAD_CHECKOUT, needs_comfyui, run_in_comfyui

from tokenreel.host import resources
from tokenreel.models.pruning import DepthSettings
from tokenreel.models.semi_structured import obstacle
from tokenreel.nodes import pruning as nodes
from tokenreel.nodes import pruning_steps
from tokenreel.nodes.pruning import HALVED, PARTS, PruneModel, offered_parts

SCRIPT = """
from tokenreel.host.calibration import ModelCalls, blocks_of, with_calls
from tokenreel.host.probing import Sampling
from tokenreel.models.block_runs import AnswerRun
from tokenreel.models.pruning import DepthPlan, DepthSettings, plan_depth
from tokenreel.nodes import pruning_steps as pruning
from tokenreel.nodes.pruning import PARTS, PruneModel
from tokenreel.nodes.patching import EfficientAttention, MergeTokens
from tokenreel.host.model_patches import patch_model
import comfy.model_management, comfy.sample

def given(kind, size, steps=3, text=random_models.TEXT):
    chance = torch.Generator().manual_seed(5)
    more = {"pooled_output": torch.randn(1, 24, generator=chance)}
    if kind in ("ltxv", "sound"):
        more.update(attention_mask=torch.ones(1, 5, dtype=torch.long), frame_rate=25)
    positive = [[torch.randn(1, 5, text, generator=chance), more]]
    latent = {"samples": torch.full((1, FAMILIES[kind].channels, *size), 1e-4)}  # empty ones get other channels
    return [Sampling(positive, positive, latent, seed, steps, 1.0, "euler", "simple") for seed in (1, 2)]

def sizes(kind):
    return (3, 5, 7) if kind == "ltxv" else (3, 10, 14)

def told(report):
    return {"parameters": report.parameters, "weights": report.weights, "error": report.error,
            "seconds": report.seconds, "text": report.text()}

def lora(model, name):
    weight = model.model.diffusion_model.get_submodule(name).weight
    chance = torch.Generator().manual_seed(7)
    up, down = torch.randn(weight.shape[0], 2, generator=chance), torch.randn(2, weight.shape[1], generator=chance)
    from comfy.weight_adapter import LoRAAdapter
    clone = model.clone()
    clone.add_patches({f"diffusion_model.{name}.weight": LoRAAdapter(set(), (up, down, 2.0, None, None, None))}, 0.2)
    return clone

seen = {}
for kind in ("wan", "wan5b", "ltxv", "hunyuan"):
    size, source = sizes(kind), build(kind)
    weights, options = copy.deepcopy(source.model.state_dict()), copy.deepcopy(source.model_options)
    dense = sample(source, kind, size)
    settings = DepthSettings(0.3, rank=16)
    made, report = pruning.leave_out_blocks(source, given(kind, size), settings)
    plain, _ = pruning.leave_out_blocks(source, given(kind, size), DepthSettings(0.3, correction="none"))
    found = seen[kind] = told(report)
    found["made"] = difference(dense, sample(made, kind, size))
    found["again"] = difference(sample(made, kind, size), sample(made, kind, size))
    found["plain"] = difference(dense, sample(plain, kind, size))
    whole, _ = pruning.leave_out_blocks(source, given(kind, size), DepthSettings(0.0))
    found["whole"] = difference(dense, sample(whole, kind, size))
    found["source"] = difference(dense, sample(source, kind, size))
    after = source.model.state_dict()
    found["untouched"] = [all(torch.equal(weights[name], after[name]) for name in weights),
                          options == source.model_options, source.wrappers == {}]

    # all that a plan says, blocks by blocks, is what happens
    numbers, calls = [], []
    def ask(number, streams, block):
        numbers.append(number)
        calls.append([each.shape[1] for each in streams])
        return block()
    def work(both):
        cost = both[0].cost(ask)
        found["asked"] = [cost, both[0].blocks, numbers[: both[0].blocks], calls[0], len(both[0]), len(both[1])]
        found["sizes"] = [sum(each.numel() for block in blocks_of(source.model.diffusion_model)
                              for each in block.parameters()), sum(both[0].parameters)]
    with_calls(source, AnswerRun(), given(kind, size), work, lambda: None)

# LoRA before and after; other patches before and after; only a part of the steps
source, size = build("wan"), sizes("wan")
samplings = given("wan", size)
plan = DepthPlan(3, {1: ()})
def left_out(model, percents=(0.0, 1.0)):
    from tokenreel.models.attention_calls import Gate
    runs.clear()
    def start(first, last):
        runs.append(AnswerRun(plan, Gate(first, last)))
        return runs[-1]
    return patch_model(model, start, percents=percents, blocks=True)
runs = []
one = sample(left_out(lora(source, "blocks.0.ffn.0")), "wan")
other = sample(lora(left_out(source), "blocks.0.ffn.0"), "wan")
bare = sample(left_out(source), "wan")
nothing = sample(lora(left_out(source), "blocks.1.ffn.0"), "wan")
seen["lora"] = [difference(one, other), difference(one, bare), difference(nothing, bare)]
def merged(model):
    return MergeTokens.execute(model, "blocks", 0.5, -1.0, 0, 0.0, 0.0, 1.0, 0, 0, 0).args[0]
def sparse(model):
    return EfficientAttention.execute(model, "window", 0.1, True, 0.0, 1.0, 0, 0, 0).args[0]
seen["chained"] = [difference(sample(merged(left_out(source)), "wan"), bare) > 0,
                   difference(sample(left_out(merged(source)), "wan"), sample(merged(source), "wan")) > 0]
sample(sparse(left_out(source)), "wan", steps=4)
seen["said"] = runs[-1].report()
sample(left_out(source, (0.5, 1.0)), "wan", steps=4)
seen["late"] = runs[-1].report()

# sound with the video; what cannot be
sound = build("sound")
both = [torch.randn(1, 16, 3, 5, 7), torch.randn(1, 8, 6, 16)]
def once_with(model):
    return once(model, both, torch.tensor([0.5]), torch.ones(1, 5, 96), None, frame_rate=25)
dense = once_with(sound)
plan = DepthPlan(2, {1: ()})
seen["sound"] = [difference(dense, once_with(left_out(sound))), len(once_with(left_out(sound)))]
for name, call in {"cosmos": lambda: pruning.leave_out_blocks(build("cosmos"), samplings, DepthSettings()),
                   "steps": lambda: pruning.leave_out_blocks(source, samplings, DepthSettings(), (0.99, 0.995)),
                   "halve": lambda: pruning.halve_model(source, samplings),
                   "narrow": lambda: pruning.narrow_model(build("ltxv"), samplings, 0.2)}.items():
    try:
        call()
    except ValueError as error:
        seen["refused " + name] = str(error)

# the node
latent, positive = samplings[0].latent, samplings[0].positive
for parts in PARTS:
    asked = (parts, 0.34, 1, 2, "change", "affine", False, 0, 0, 0, 1)
    made, text = PruneModel.execute(source, positive, latent, *asked).args
    seen["node " + parts] = [difference(sample(made, "wan"), sample(source, "wan")), text.split("\\n")[0]]

# narrower feed-forward layers, of a model with a LoRA, saved
source = build("wan", dim=128, num_heads=1, ffn_dim=256, freq_dim=256, text_dim=4096, text_len=512)
weights = copy.deepcopy(source.model.state_dict())
samplings = given("wan", size, text=4096)
def wide(model):
    chance = torch.Generator().manual_seed(2)
    noise = torch.randn(1, 16, 3, 10, 14, generator=chance)
    both = [[[torch.randn(1, 5, 4096, generator=chance), {}]] for _ in range(2)]
    return comfy.sample.sample(model, noise, 2, 2.0, "euler", "simple", *both, torch.zeros_like(noise),
                               disable_pbar=True, seed=1)
with_lora = lora(source, "blocks.1.ffn.2")
dense = wide(with_lora)
made, report = pruning.narrow_model(with_lora, samplings, 0.25)
same, _ = pruning.narrow_model(with_lora, samplings, 0.0)
changes = {"made": difference(dense, wide(made)), "same": difference(dense, wide(same)),
           "source": difference(dense, wide(with_lora))}
comfy.model_management.unload_all_models()  # which takes the LoRA out of the source's weights
after = source.model.state_dict()
untouched = all(torch.equal(weights[name], after[name]) for name in weights)
seen["narrow"] = {**told(report), **changes, "untouched": untouched}
import comfy.utils
comfy.utils.save_torch_file(dict(made.model.diffusion_model.state_dict()), sys.argv[1] + "/narrow.safetensors")
comfy.utils.save_torch_file({"made": wide(made).contiguous()}, sys.argv[1] + "/made.safetensors")
print("RESULT" + json.dumps(seen))
"""

OPENED = """
import sys, json
import comfy.options
comfy.options.enable_args_parsing(False)
from comfy.cli_args import args
args.cpu = args.use_pytorch_cross_attention = True
import torch
torch.set_num_threads(1)
import folder_paths, nodes, comfy.sample, comfy.utils
folder_paths.add_model_folder_path("diffusion_models", sys.argv[1])
model = nodes.UNETLoader().load_unet("narrow.safetensors", "default")[0]
chance = torch.Generator().manual_seed(2)
noise = torch.randn(1, 16, 3, 10, 14, generator=chance)
both = [[[torch.randn(1, 5, 4096, generator=chance), {}]] for _ in range(2)]
made = comfy.sample.sample(model, noise, 2, 2.0, "euler", "simple", *both, torch.zeros_like(noise), disable_pbar=True,
                           seed=1)
wanted = comfy.utils.load_torch_file(sys.argv[1] + "/made.safetensors")["made"]
network = model.model.diffusion_model
print("RESULT" + json.dumps([float((made - wanted).abs().max()), float(wanted.std()), network.ffn_dim,
                             network.blocks[0].ffn[0].out_features, "tokenreel" in sys.modules]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pruned")


@pytest.fixture(scope="module")
def seen(folder):
    return json.loads(
        run_in_comfyui(LOAD_CHECKOUT + RANDOM_MODELS + SCRIPT, str(folder), timeout=600).split("RESULT")[1]
    )


@pytest.fixture(scope="module")
def opened(seen, folder):
    """After the other: what it saved."""
    return json.loads(run_in_comfyui(OPENED, str(folder), timeout=300).split("RESULT")[1])


def test_the_node_says_what_it_takes():
    """Also without ComfyUI, where there is no MODEL to be pruned."""
    schema = PruneModel.GET_SCHEMA()
    assert schema.category == "model/efficiency" and schema.description.endswith(".")
    assert all(socket.tooltip.endswith(".") for socket in (*schema.inputs, *schema.outputs))
    assert [socket.get_io_type() for socket in schema.outputs] == ["MODEL", "STRING"]
    assert next(each for each in schema.inputs if each.id == "parts").options == offered_parts()


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match=r"^Invalid MODEL \(str\)\. Connect "):
        pruning_steps.leave_out_blocks("model", [], DepthSettings())


def test_what_saves_nothing_here_is_not_offered(monkeypatch):
    assert offered_parts() == [*PARTS, *([HALVED] if obstacle(resources.device()) is None else [])]
    monkeypatch.setattr(nodes, "obstacle", lambda device: None)
    assert offered_parts() == [*PARTS, HALVED]
    monkeypatch.setattr(nodes, "obstacle", lambda device: "it is old")
    assert offered_parts() == list(PARTS)


@needs_comfyui
@pytest.mark.comfyui
@pytest.mark.parametrize("kind", ["wan", "wan5b", "ltxv", "hunyuan"])
class TestBlocks:
    def test_left_out_corrected_and_told(self, seen, kind):
        found = seen[kind]
        plain, corrected = found["error"]
        assert found["made"] > 0 and found["again"] == 0.0 and found["plain"] > 0
        assert 0 < corrected < 0.8 * plain
        blocks = 4 if kind == "hunyuan" else 3
        assert found["text"].startswith(f"1 of {blocks} blocks left out: ")
        before, after = found["parameters"]
        assert after < before and found["weights"][1] > found["weights"][0]  # the shortcut; nothing is freed
        assert min(found["seconds"]) > 0 and "without this node all is as before" in found["text"]

    def test_the_source_stays(self, seen, kind):
        assert seen[kind]["whole"] == seen[kind]["source"] == 0.0
        assert seen[kind]["untouched"] == [True, True, True]

    def test_blocks_are_asked_for_in_their_order(self, seen, kind):
        cost, blocks, numbers, streams, first, second = seen[kind]["asked"]
        assert cost == 0.0 and numbers == list(range(blocks)) and first == second == 3
        assert streams == ([105, 5] if kind == "hunyuan" else [105])
        assert seen[kind]["sizes"][0] == seen[kind]["sizes"][1] > 0


@needs_comfyui
@pytest.mark.comfyui
class TestTogether:
    def test_lora_before_and_after_is_the_same(self, seen):
        order, there, on_what_is_left_out = seen["lora"]
        assert order == 0.0 < there and on_what_is_left_out == 0.0

    def test_with_merged_tokens_and_sparse_attention(self, seen):
        assert seen["chained"] == [True, True]
        assert seen["said"] == "4 of 12 runs of blocks left out (blocks 1 of 3)"

    def test_only_in_a_part_of_the_steps(self, seen):
        assert seen["late"] == "1 of 12 runs of blocks left out (blocks 1 of 3)"

    def test_a_video_with_sound(self, seen):
        changed, streams = seen["sound"]
        assert changed > 0 and streams == 2

    @pytest.mark.parametrize(
        "what, message",
        [
            ("cosmos", "ComfyUI does not let the blocks of this model"),
            ("steps", "No step lies between 0.99 and 0.995 of the sampling. Take more steps."),
            ("halve", "Two of four weights cannot be left out here: a device of the kind cpu "),
            ("narrow", "Only Wan's feed-forward layers can be made narrower"),
        ],
    )
    def test_what_cannot_be_is_refused(self, seen, what, message):
        assert seen[f"refused {what}"].startswith(message)

    @pytest.mark.parametrize(
        "parts, title",
        [(PARTS[0], "1 of 3 blocks left out: "), (PARTS[1], "Feed-forward layers of 64 units in place of 96")],
    )
    def test_the_node_does_both(self, seen, parts, title):
        changed, text = seen[f"node {parts}"]
        assert changed > 0 and text.startswith(title)


@needs_comfyui
@pytest.mark.comfyui
class TestNarrower:
    def test_smaller_and_near(self, seen):
        found = seen["narrow"]
        assert found["text"].startswith("Feed-forward layers of 192 units in place of 256")
        assert found["parameters"][1] < found["parameters"][0] and found["weights"][1] < found["weights"][0]
        assert found["made"] > 0 and found["error"][0] is None and 0 < found["error"][1] < 0.2

    def test_nothing_taken_away_is_nothing_changed(self, seen):
        assert seen["narrow"]["same"] < 1e-5

    def test_the_source_stays(self, seen):
        assert seen["narrow"]["source"] == 0.0 and seen["narrow"]["untouched"]

    def test_comfyui_opens_the_file_without_this_pack(self, opened):
        changed, spread, width, units, ours = opened
        assert changed < 1e-4 * spread and width == units == 192 and not ours
