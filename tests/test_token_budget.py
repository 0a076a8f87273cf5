"""Tokens and cost of known models, against hand counts and ComfyUI's own classes, and plans within limits."""

import dataclasses
import json
from fractions import Fraction
from itertools import product

import pytest
from comfyui_models import RANDOM_MODELS
from comfyui_server import needs_comfyui, told_in_comfyui

from tokenreel.models.model_families import FAMILIES, ModelFamily, find_family
from tokenreel.models.token_budget import Cost, Target, describe_budget, forward_cost, plan_budget

SIZES = [(1280, 720), (1920, 1080), (720, 1280), (854, 480), (3840, 2160)]
SECONDS = [Fraction(1, 3), Fraction(5), Fraction(101, 10)]
RATES = [Fraction(16), Fraction(24), Fraction(30_000, 1001), Fraction(60)]
HD = Target(1280, 720, Fraction(5), Fraction(30))

COUNT = """
from tokenreel.models.model_families import ModelFamily
from tokenreel.models.token_budget import forward_cost

SHAPES = {  # of the models above: space stride, patch, width, heads, layers, ffn, width of the context, joint
    "wan": (8, 2, 64, 2, 3, 96, 64, False), "wan5b": (16, 2, 96, 3, 3, 96, 96, False),
    "ltxv": (32, 1, 64, 2, 3, 256, 64, False), "hunyuan": (8, 2, 64, 2, 4, 128, 64, True),
    "cosmos": (8, 2, 64, 2, 3, 128, 32, False), "cosmos2": (8, 2, 64, 2, 3, 128, 32, False)}
told = {}
for kind, (stride, patch, width, heads, layers, ffn, context, joint) in SHAPES.items():
    model = build(kind)
    spent = {"scores": 0, "linear": 0}

    def count(module, given, out):
        spent["linear"] += 2 * given[0].numel() * module.out_features  # one clip: cfg is 1

    def attention(func, q, k, v, heads, *more, **named):
        n, m = (each.shape[2 if named.get("skip_reshape") else 1] for each in (q, k))
        if kind != "hunyuan" or n > 5:  # its text is refined by itself, before the blocks
            spent["scores"] += 4 * n * m * width
        return func(q, k, v, heads, *more, **named)

    for name, module in model.model.diffusion_model.named_modules():
        refining = name.startswith("txt_in")
        told_apart = "blocks" in name and not refining and "mod" not in name and "adaLN" not in name
        if told_apart and isinstance(module, torch.nn.Linear):
            module.register_forward_hook(count)
    model.model_options["transformer_options"]["optimized_attention_override"] = attention
    size = (3, 5, 7) if kind == "ltxv" else (3, 10, 14)
    sample(model, kind, size, steps=1, cfg=1.0)
    tokens = size[0] * (size[1] // patch) * (size[2] // patch)
    family = ModelFamily(kind, 4, stride, patch, width, heads, layers, ffn, 5, context, joint)
    ours = forward_cost(family, tokens)
    told[kind] = [spent["scores"], spent["linear"], ours.scores, ours.projections + ours.ffn]
print(json.dumps(told))
"""


class TestFamilies:
    @pytest.mark.parametrize(
        ("name", "size", "frames", "tokens"),
        [
            ("wan2.1", (832, 480), 81, 21 * 30 * 52),  # 32,760
            ("wan2.1", (1280, 720), 81, 75_600),
            ("wan2.2-5b", (1280, 704), 121, 31 * 22 * 40),
            ("ltx-video", (768, 512), 97, 13 * 16 * 24),
            ("hunyuanvideo", (1280, 720), 129, 33 * 45 * 80),
            ("hunyuanvideo-1.5", (1280, 720), 121, 31 * 45 * 80),
            ("cosmos", (1280, 704), 121, 16 * 44 * 80),
            ("cosmos-predict2", (848, 480), 93, 24 * 30 * 53),
        ],
    )
    def test_tokens_of_usual_clips(self, name, size, frames, tokens):
        t, h, w = find_family(name).grid(*size, frames)
        assert t * h * w == tokens

    def test_sizes_and_lengths_are_rounded_up(self):
        wan, ltx = find_family("wan2.2-5b"), find_family("ltx-2")
        assert [wan.length(n) for n in (0.2, 1, 2, 80, 81, 82)] == [1, 1, 5, 81, 81, 85]
        assert [ltx.length(n) for n in (1, Fraction(241, 2), 121, 122)] == [1, 121, 121, 129]
        assert [wan.side(n) for n in (1, 32, 720)] == [32, 32, 736]

    def test_what_a_model_does_not_make_is_refused_with_what_it_makes(self):
        with pytest.raises(ValueError, match="choose 1280x736 with 81"):
            find_family("ltx-video").grid(1280, 720, 81)
        with pytest.raises(ValueError, match=r"multiples of 16 pixels, and 4n \+ 1 frames: choose 848x480 with 81"):
            find_family("wan2.1").grid(848, 480, 80)

    def test_names_and_numbers_that_are_wrong_are_refused(self):
        with pytest.raises(ValueError, match=r"Supported are wan2\.1,"):
            find_family("wan9")
        with pytest.raises(ValueError, match="multiple of the heads"):
            ModelFamily("odd", 4, 8, 2, 100, 3, 1, 1, 1, 1)

    @pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
    def test_heads_have_the_usual_size(self, family):
        assert family.width // family.heads in (64, 128)


class TestCost:
    def test_wan_by_hand(self):
        """A layer: four projections and the feed-forward part for the video, two and two across to the text."""
        n, d, text, ffn = 32_760, 5120, 512, 13824
        found = forward_cost(find_family("wan2.1"), n)
        assert found.scores == 40 * (4 * n * n * d + 4 * n * text * d)
        assert found.projections == 40 * (6 * 2 * n * d * d + 2 * 2 * text * d * d)
        assert found.ffn == 40 * 2 * 2 * n * d * ffn
        assert found.attention_share == pytest.approx(0.532, abs=0.001)

    def test_sound_costs_the_video_four_layers(self):
        """Queries and output towards the sound, keys and values from it."""
        family, n = find_family("ltx-2"), 6144
        silent = dataclasses.replace(family, sound_width=0)
        more = forward_cost(family, n).total - forward_cost(silent, n).total
        assert more == 48 * 4 * (2 * n * 4096 * 2048)

    def test_attention_takes_over_as_clips_grow(self):
        wan = find_family("wan2.1")
        shares = [forward_cost(wan, n).attention_share for n in (1000, 32_760, 75_600, 300_000)]
        assert shares == sorted(shares) and shares[2] > 0.6

    def test_half_the_size_is_a_quarter_of_the_tokens_and_less_of_the_cost(self):
        ltx = dataclasses.replace(find_family("ltx-video"), text_tokens=0)
        small, large = forward_cost(ltx, 1000), forward_cost(ltx, 4000)
        assert (large.scores, large.ffn) == (16 * small.scores, 4 * small.ffn)
        assert large.projections == 4 * small.projections

    @needs_comfyui
    def test_against_the_blocks_of_comfyui(self):
        """Every product in every block of a small model of each class, counted as it runs."""
        told = told_in_comfyui(RANDOM_MODELS + COUNT)
        assert len(told) == 6
        for kind, (scores, linear, our_scores, our_linear) in told.items():
            assert (our_scores, our_linear) == (scores, linear), kind


class TestPlans:
    @pytest.mark.parametrize("name", FAMILIES)
    def test_every_plan_is_valid_and_reaches_the_target(self, name):
        for size, seconds, rate in product(SIZES, SECONDS, RATES):
            self.check(find_family(name), size, seconds, rate)

    def check(self, family, size, seconds, rate):
        found = plan_budget(family, Target(*size, seconds, rate))
        assert found.plans[0].is_direct and found.plans[0].relative == 1
        assert found.chosen.cost.total == min(plan.cost.total for plan in found.plans)
        for plan in found.plans:
            t, h, w = family.grid(plan.width, plan.height, plan.frames)  # raises where it is not valid
            assert plan.tokens == t * h * w
            assert plan.width * plan.scale >= size[0] and plan.height * plan.scale >= size[1]
            assert plan.frames / plan.rate >= seconds and plan.rate * plan.times == rate
            assert 0 < plan.relative <= 1
            assert plan.scale == 1 or min(plan.width, plan.height) >= 480
            assert plan.times == 1 or plan.rate >= 12

    def test_wan_at_720p(self):
        plan = plan_budget(find_family("wan2.1"), HD).chosen
        assert (plan.width, plan.height, plan.frames, plan.rate) == (864, 480, 77, 15)
        assert (plan.scale, plan.times) == (Fraction(3, 2), 2)
        assert plan.relative < 0.15

    def test_limits_move_the_floor(self):
        deeper = plan_budget(find_family("wan2.1"), HD, least_side=180, least_rate=Fraction(7))
        assert (deeper.chosen.scale, deeper.chosen.times) == (4, 4)
        none = plan_budget(find_family("wan2.1"), HD, least_side=720, least_rate=Fraction(30))
        assert none.plans == (none.chosen,) and none.chosen.is_direct

    def test_broadcast_rates_count_as_whole_ones(self):
        """Half of 24000/1001 is as good as 12, and half of 23 is not."""
        rates = {
            rate: plan_budget(find_family("wan2.1"), Target(1280, 720, Fraction(5), rate)).chosen.times
            for rate in (Fraction(24), Fraction(24_000, 1001), Fraction(23))
        }
        assert [*rates.values()] == [2, 2, 1]

    def test_a_share_takes_the_best_within_it(self):
        found = plan_budget(find_family("wan2.1"), HD, share=0.5)
        assert found.chosen.relative <= 0.5
        assert all(plan.relative > 0.5 or plan.cost.total <= found.chosen.cost.total for plan in found.plans)
        assert plan_budget(find_family("wan2.1"), HD, share=1.0).chosen.is_direct

    def test_a_share_out_of_reach_says_what_is_in_reach(self):
        with pytest.raises(ValueError, match=r"No plan costs 1\.0% or less: the cheapest .* costs \d"):
            plan_budget(find_family("wan2.1"), HD, share=0.01)
        with pytest.raises(ValueError, match="Invalid share 2"):
            plan_budget(find_family("wan2.1"), HD, share=2)

    @pytest.mark.parametrize(
        ("wrong", "match"),
        [
            ((8, 720, 5, 30), "Invalid size 8x720"),
            ((1280, 20_000, 5, 30), "Invalid size 1280x20000"),
            ((1280, 720, 0, 30), "Invalid length of 0 s"),
            ((1280, 720, 5, 1001), "Invalid rate 1001"),
        ],
    )
    def test_wrong_targets_are_refused(self, wrong, match):
        width, height, seconds, rate = wrong
        with pytest.raises(ValueError, match=match):
            Target(width, height, Fraction(seconds), Fraction(rate))

    def test_a_rate_that_the_model_was_not_trained_at_is_said(self):
        slow = plan_budget(find_family("wan2.1"), HD, least_rate=Fraction(7))
        assert any("moves as at 16 frames a second: played at 7.5" in note for note in slow.notes)
        assert not any("moves as" in note for note in plan_budget(find_family("wan2.1"), HD).notes)
        told = plan_budget(find_family("ltx-2"), HD, least_rate=Fraction(7))
        assert not any("moves as" in note for note in told.notes)

    def test_the_table_marks_the_chosen_plan(self):
        found = plan_budget(find_family("wan2.1"), HD)
        lines = describe_budget(found).splitlines()
        assert lines[1].startswith("Make 864 x 480, 77 frames at 15 a second, then interpolate x2 and upscale x1.5")
        marked = [line for line in lines if line.startswith("> ")]
        assert len(marked) == 1 and "864x480" in marked[0]
        assert "exact size 1280 x 720 with fit crop" in lines[-1]
        assert "Not in the cost: text encoder, VAE, interpolation and upscaling." in lines
        widths = {len(line) for line in lines if "x" in line and line.endswith("%") and line[0] in " >"}
        assert len(widths) == 1

    def test_the_report_can_be_written_as_json(self):
        facts = json.loads(json.dumps(plan_budget(find_family("cosmos"), HD).report()))
        assert facts["target"] == {"width": 1280, "height": 720, "frame_rate": 30.0, "duration": 5.0}
        assert facts["plans"][0]["relative_cost"] == 1
        assert {"width", "height", "frames", "frame_rate", "tokens", "scale", "times"} <= facts.keys()

    def test_costs_add_up(self):
        assert Cost(1, 2, 5).total == 8 and Cost(1, 2, 5).attention_share == 1 / 8
