"""Our generator without some of its blocks, or of their parts: what is left gives what it gave before."""

import copy

import pytest
import torch

from tokenreel.models.block_shortcuts import Shortcut
from tokenreel.models.generator import GeneratorConfig, TokenGenerator
from tokenreel.models.generator_pruning import PARTS, GeneratorCalibration, answered_generator, prune_generator
from tokenreel.models.pruning import DepthPlan, DepthSettings, plan_amount, plan_depth
from tokenreel.models.token_guess import EXTRA

SMALL = GeneratorConfig(levels=(3, 3), width=16, depth=4, heads=2, widen=2, digit_width=8)


@pytest.fixture
def net():
    torch.manual_seed(0)
    made = TokenGenerator(SMALL).eval().requires_grad_(False)
    for number, block in enumerate(made.blocks):
        block.shares.copy_(torch.full_like(block.shares, (0.5, 0.01, 0.5, 0.2)[number]))
    return made


def inputs(chance, count=2):
    """Tokens of which the last frame is asked for."""
    found = []
    for _ in range(count):
        tokens = torch.randint(0, 9, (1, 3, 4, 4), generator=chance)
        known = torch.ones_like(tokens, dtype=torch.bool)
        known[:, -1] = False
        found.append((tokens, known, torch.rand(1, 3, 4, 4, 2 + EXTRA, generator=chance)))
    return found


class TestBlocks:
    @pytest.mark.parametrize("parts", [False, True])
    def test_answering_as_the_blocks_do_changes_nothing(self, net, chance, parts):
        (given,) = inputs(chance, 1)
        asked = []
        same = answered_generator(net, lambda number, streams, block: asked.append(number) or block(), parts=parts)
        assert torch.equal(same.bits(*given), net.bits(*given))
        assert asked == list(range(4 * PARTS if parts else 4))

    def test_left_out_and_put_back(self, net, chance):
        (given,) = inputs(chance, 1)
        weights, before = copy.deepcopy(net.state_dict()), net.bits(*given)
        plan = DepthPlan(4, {1: (), 2: (Shortcut(shift=torch.ones(16)),)})
        pruned = prune_generator(net, plan)
        assert not torch.equal(pruned.bits(*given), before)
        assert torch.equal(net.bits(*given), before)
        assert all(torch.equal(weights[name], each) for name, each in net.state_dict().items())
        assert pruned.blocks[0] is net.blocks[0] and not any("blocks.1." in name for name in pruned.state_dict())

    def test_leaving_out_is_as_if_the_block_were_not_there(self, net, chance):
        (given,) = inputs(chance, 1)
        shorter = copy.deepcopy(net)
        del shorter.blocks[2]
        assert torch.equal(prune_generator(net, DepthPlan(4, {2: ()})).bits(*given), shorter.bits(*given))

    def test_a_plan_says_what_it_costs_in_bits(self, net, chance):
        calibration = GeneratorCalibration(net, inputs(chance))
        plan = plan_depth(calibration, DepthSettings(0.25, rank=4))
        pruned = prune_generator(net, plan)
        asked = torch.cat([pruned.bits(*each)[~each[1]] for each in calibration.inputs])
        assert plan.left_out == (min(range(4), key=lambda number: plan.worth[number]),)
        assert plan.cost[2] == pytest.approx(float(asked.double().mean()), abs=1e-9)
        assert plan.cost[0] == pytest.approx(calibration.cost(DepthPlan(4, {})))
        assert plan.parameters[0] == sum(each.numel() for each in net.blocks[plan.left_out[0]].parameters())


class TestParts:
    def test_leaving_out_is_as_if_the_part_added_nothing(self, net, chance):
        (given,) = inputs(chance, 1)
        plan, silent = DepthPlan(12, {1: (), 8: ()}), copy.deepcopy(net)
        silent.blocks[0].shares[1] = 0
        silent.blocks[2].shares[2] = 0
        pruned = prune_generator(net, plan)
        assert torch.equal(pruned.bits(*given), silent.bits(*given))
        assert not torch.equal(pruned.bits(*given), net.bits(*given))
        names = pruned.state_dict()
        assert not any(name.startswith(("blocks.0.parts.1", "blocks.2.parts.2", "blocks.2.norms.2")) for name in names)
        assert any(name.startswith("blocks.0.parts.2") for name in names) and pruned.blocks[1] is net.blocks[1]

    def test_shortcuts_stand_in_behind_one_another(self, net, chance):
        (given,) = inputs(chance, 1)
        plan = DepthPlan(12, {3: (), 4: (Shortcut(shift=torch.ones(16)),), 5: ()})
        calibration = GeneratorCalibration(net, [given], parts=True)
        asked = prune_generator(net, plan).bits(*given)[~given[1]]
        assert calibration.cost(plan) == pytest.approx(float(asked.double().mean()), abs=1e-9)
        assert not any("blocks.1." in name for name in prune_generator(net, plan).state_dict())

    def test_sizes_are_those_of_the_block(self, net, chance):
        parts = GeneratorCalibration(net, inputs(chance), parts=True)
        blocks = GeneratorCalibration(net, inputs(chance))
        assert parts.blocks == PARTS * blocks.blocks == 12
        assert [sum(parts.parameters[PARTS * b : PARTS * b + PARTS]) for b in range(4)] == list(blocks.parameters)

    def test_as_much_as_a_block_from_all_over(self, net, chance):
        calibration = GeneratorCalibration(net, inputs(chance), parts=True)
        amount = sum(each.numel() for each in net.blocks[3].parameters())
        plan = plan_amount(calibration, amount, DepthSettings(correction="none"))
        pruned = prune_generator(net, plan)
        sizes = [sum(each.numel() for each in one.parameters()) for one in (net, pruned)]
        assert plan.parameters[0] == sizes[0] - sizes[1] >= amount
        asked = torch.cat([pruned.bits(*each)[~each[1]] for each in calibration.inputs])
        assert plan.cost[2] == pytest.approx(float(asked.double().mean()), abs=1e-9)

    def test_a_plan_for_another_generator_is_refused(self, net):
        with pytest.raises(ValueError, match=r"^Invalid plan of 5 blocks\. The generator has 4 blocks of 3 parts each"):
            prune_generator(net, DepthPlan(5, {1: ()}))

    def test_time_of_each_part(self, net, chance):
        calibration = GeneratorCalibration(net, inputs(chance), parts=True)
        seconds = calibration.seconds(2)
        assert len(seconds) == 12 and min(seconds) > 0 and sum(seconds) < 10
