"""What leaving blocks out of our generators costs: which sets are compared, and that the figures are what they say."""

import numpy as np
import pytest
import torch

from tokenreel.benchmarks import pruning
from tokenreel.benchmarks.generation_clips import CodedClip
from tokenreel.models.feed_forward_pruning import narrow_generator
from tokenreel.models.generator import GeneratorConfig, TokenGenerator
from tokenreel.models.generator_pruning import PARTS, GeneratorCalibration, prune_generator
from tokenreel.models.pruning import DepthPlan
from tokenreel.models.token_guess import EXTRA


@pytest.fixture
def net():
    torch.manual_seed(0)
    made = TokenGenerator(GeneratorConfig(levels=(3, 3), width=16, depth=5, heads=2, widen=2, digit_width=8)).eval()
    made.requires_grad_(False)
    for number, block in enumerate(made.blocks):
        block.shares.fill_((0.5, 0.01, 0.4, 0.3, 0.6)[number])
    return made


def clips(chance, count):
    made = []
    for _ in range(count):
        tokens = torch.randint(0, 9, (1, 3, 4, 4), generator=chance)
        known = torch.ones_like(tokens, dtype=torch.bool)
        known[:, -1] = False
        made.append([(tokens, known, torch.rand(1, 3, 4, 4, 2 + EXTRA, generator=chance))])
    return made


def test_figures_are_bits_lost_on_other_clips(net, chance):
    fitted, judged = clips(chance, 4), clips(chance, 2)
    found = pruning.compared(net, fitted, judged)
    judge = GeneratorCalibration(net, [each for clip in judged for each in clip])
    assert found["bits"] == pytest.approx(judge.cost(DepthPlan(5, {})))
    plain = found["blocks"]["plain"]
    (gone,) = plain["left_out"]
    assert plain["worth"][gone] == min(plain["worth"])
    alone = [judge.cost(DepthPlan(5, {number: ()})) - found["bits"] for number in range(5)]
    assert plain["chosen"] == pytest.approx(alone[gone]) and plain["last"] == pytest.approx(alone[4])
    assert plain["random"] == pytest.approx(np.mean(alone))
    assert plain["parameters"][1] == 0 and plain["parameters"][0] == found["blocks"]["corrected"]["parameters"][0]
    pruned = prune_generator(net, DepthPlan(5, {gone: ()}))
    asked = torch.cat([pruned.bits(*each)[~each[1]] for clip in judged for each in clip])
    assert float(asked.double().mean()) - found["bits"] == pytest.approx(plain["chosen"], abs=1e-9)
    assert plain["forms"] == ["none"] and len(found["blocks"]["corrected"]["forms"]) == 1


def test_parts_that_go_take_as_much_time_as_the_last_blocks(net, chance, monkeypatch):
    seconds = [1.0, 2.0, 4.0] * 5
    monkeypatch.setattr(GeneratorCalibration, "seconds", lambda calibration: seconds)
    fitted, judged = clips(chance, 4), clips(chance, 2)
    found = pruning.compared(net, fitted, judged)
    judge = GeneratorCalibration(net, [each for clip in judged for each in clip], parts=True)
    for form in ("plain", "corrected"):
        row = found["parts"][form]
        assert sum(seconds[number] for number in row["left_out"]) >= 7
        assert row["last"] == found["blocks"][form]["last"]
    row = found["parts"]["plain"]
    plan = DepthPlan(5 * PARTS, dict.fromkeys(row["left_out"], ()))
    assert row["chosen"] == pytest.approx(judge.cost(plan) - found["bits"])
    assert row["parameters"] == [sum(judge.parameters[number] for number in row["left_out"]), 0]
    assert set(found["speed"]) == {f"{unit}, {form}" for unit in pruning.UNITS for form in ("plain", "corrected")}
    assert all(times > 0 for times in found["speed"].values())


def test_parts_by_chance():
    drawn = pruning.drawn_parts([1, 20, 60, 1, 20, 60], 80)
    assert drawn == pruning.drawn_parts([1, 20, 60, 1, 20, 60], 80) and len(set(drawn)) > 1
    sizes = [sum([1, 20, 60, 1, 20, 60][number] for number in each) for each in drawn]
    assert len(drawn) == pruning.DRAWS and min(sizes) >= 80 and all(len(set(each)) == len(each) for each in drawn)


def test_narrower_layers_are_told_in_bits(net, chance):
    fitted, judged = clips(chance, 2), clips(chance, 2)
    found = pruning.measure_width(net, 1, fitted, judged)
    inputs = [each for clip in judged for each in clip]
    made = GeneratorCalibration(narrow_generator(net, 1), inputs).cost(DepthPlan(5, {}))
    assert found["bits"] == pytest.approx(GeneratorCalibration(net, inputs).cost(DepthPlan(5, {})))
    assert found["loss"]["weights"] == pytest.approx(made - found["bits"], abs=1e-9)
    assert found["loss"]["tokens"] != found["loss"]["weights"] and found["widen"] == [2, 1]
    assert found["parameters"][1] == sum(each.numel() for each in narrow_generator(net, 1).parameters())
    assert not any(part._forward_pre_hooks for part in net.modules())


@pytest.mark.parametrize("blocks, count, sets", [(6, 1, 6), (4, 1, 4), (5, 2, pruning.DRAWS)])
def test_sets_by_chance(blocks, count, sets):
    drawn = pruning.drawn(blocks, count)
    assert len(drawn) == len(set(drawn)) == sets and drawn == pruning.drawn(blocks, count)
    assert all(len(set(each)) == count and max(each) < blocks for each in drawn)


def test_frames_that_are_asked_for():
    tokens = torch.arange(20)[:, None, None].expand(20, 2, 2)
    none = np.zeros((20, 16, 16, 3), np.uint8)
    runs = pruning._runs(CodedClip("clip", none, tokens, none, ()))
    asked = [[int(x) for x in run[~known][::4]] for run, known in runs]
    shown = [[int(x) for x in run[known][::4]] for run, known in runs]
    assert [len(each) for each in asked] == [1, 7]
    assert all(each[0] == known[-1] + 1 and len(known) == 3 for each, known in zip(asked[:1], shown[:1], strict=True))
    assert all(known == [each[0] - 1, each[-1] + 1] for each, known in zip(asked[1:], shown[1:], strict=True))
