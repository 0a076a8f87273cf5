"""Blocks left out: what they are worth, what stands in for them, and that the source stays as it was."""

import copy

import pytest
import torch

from tokenreel.models.block_shortcuts import CORRECTIONS, Seen, Shortcut, fit_shortcut, unexplained
from tokenreel.models.pruning import (
    MEASURES,
    DepthPlan,
    DepthSettings,
    fit_blocks,
    judged,
    plan_amount,
    plan_depth,
    shortened,
)


class Layers:
    """A stack of linear maps of tokens, which costs what is off at its end."""

    def __init__(self, added, chance, streams=1):
        self.added, self.blocks, self.parameters = added, len(added), [10] * len(added)
        self.tokens = [tuple(torch.randn(1, 64, 6, generator=chance) for _ in range(streams)) for _ in range(4)]
        self.runs = 0
        self.wanted = [self.run(lambda number, given, block: block(), each) for each in self.tokens]

    def run(self, answer, streams):
        for number, weight in enumerate(self.added):
            streams = answer(number, streams, lambda x=streams, w=weight: tuple(each + each @ w for each in x))
        return streams[0]

    def cost(self, answer):
        self.runs += 1
        off = [(self.run(answer, x) - y).square().mean() for x, y in zip(self.tokens, self.wanted, strict=True)]
        return float(torch.stack(off).mean())


def layers(chance, sizes=(0.5, 0.02, 0.3, 0.05, 0.4), **more):
    return Layers([size * torch.randn(6, 6, generator=chance) for size in sizes], chance, **more)


def seen(chance, change, runs=8, tokens=200, channels=12):
    given = [torch.randn(tokens, channels, generator=chance) for _ in range(runs)]
    return [Seen(x, change(x)) for x in given]


class TestShortcuts:
    def test_each_form_is_found_where_it_is_enough(self, chance):
        low = torch.randn(12, 2, generator=chance) @ torch.randn(2, 12, generator=chance)
        scale = torch.linspace(-0.5, 0.5, 12)
        changes = {
            "none": lambda x: 0 * x,
            "shift": lambda x: scale.expand_as(x),
            "affine": lambda x: x * scale + 1,
            "low-rank": lambda x: x * scale + 1 + x @ low,
        }
        for form, change in changes.items():
            found = seen(chance, change)
            made = fit_shortcut(found, rank=12)
            assert made.form == form
            assert unexplained(found, made) < 1e-4

    def test_the_form_asked_for_is_the_most_there_may_be(self, chance):
        found = seen(chance, lambda x: x * 0.3 + 1)
        assert [fit_shortcut(found, each).form for each in CORRECTIONS] == ["none", "shift", "affine", "affine"]

    def test_what_nothing_tells_is_left_alone(self, chance):
        """Fitted to chance, a map does harm to other tokens."""
        found = seen(chance, lambda x: torch.randn(x.shape, generator=chance), tokens=16)
        assert fit_shortcut(found, rank=8).form == "none"

    @pytest.mark.parametrize("runs, tokens, channels", [(1, 400, 12), (8, 400, 12), (8, 6, 64)])
    def test_few_runs_and_fewer_tokens_than_channels(self, chance, runs, tokens, channels):
        few = torch.randn(3, channels, generator=chance)  # what tokens are made of
        given = [torch.randn(tokens, 3, generator=chance) @ few for _ in range(runs)]
        found = [Seen(each, each.roll(1, -1)) for each in given]
        made = fit_shortcut(found, rank=3)
        assert made.form == "low-rank" and unexplained(found, made) < 0.02

    def test_the_rank_is_the_size(self, chance):
        made = fit_shortcut(seen(chance, lambda x: x @ x.T @ x / 100 + x.roll(1, -1)), rank=3)
        assert made.down.shape == (12, 3) and made.up.shape == (3, 12)
        assert made.parameters == 2 * 12 + 2 * 36

    def test_tokens_keep_shape_dtype_and_are_new(self, chance):
        x = torch.randn(2, 3, 12, generator=chance)
        found = seen(chance, lambda x: x.roll(1, -1) + 1)
        for each in (Shortcut(), fit_shortcut(found, "shift"), fit_shortcut(found, rank=12)):
            kept = x.clone()
            made = each(x.bfloat16())
            assert made.shape == x.shape and made.dtype == torch.bfloat16
            each(x).add_(1)
            assert torch.equal(x, kept)
        assert (fit_shortcut(found, rank=12)(x) - (x + x.roll(1, -1) + 1)).abs().max() < 0.05

    def test_options_that_hold_it_can_be_copied(self, chance):
        made = fit_shortcut(seen(chance, lambda x: x + 1))
        assert copy.deepcopy({"options": made})["options"] is made

    def test_what_cannot_be_is_refused(self, chance):
        with pytest.raises(ValueError, match=r"^Invalid correction 'cubic' or rank 32\. Supported are none, "):
            fit_shortcut(seen(chance, lambda x: x), "cubic")
        with pytest.raises(ValueError, match=r"^No tokens to fit a shortcut to\."):
            fit_shortcut([])


class TestChoice:
    @pytest.mark.parametrize("measure", MEASURES)
    def test_blocks_that_do_least_go(self, chance, measure):
        model = layers(chance)
        plan = plan_depth(model, DepthSettings(0.4, measure, correction="none"))
        assert plan.left_out == (1, 3) and set(plan.worth) == set(range(5))
        whole, alone, corrected = plan.cost
        assert whole == 0 and alone == corrected > 0
        assert plan.parameters == (20, 0)

    def test_what_a_shortcut_can_do_counts(self, chance):
        """A block that does much, but what a shortcut does as well, is worth less than one that it cannot stand for."""
        model = Layers([0.6 * torch.eye(6), 0.14 * torch.randn(6, 6, generator=chance)], chance)
        plain = plan_depth(model, DepthSettings(0.5, correction="none"))
        corrected = plan_depth(model, DepthSettings(0.5, correction="affine"))
        assert plain.worth[0] > plain.worth[1] and plain.left_out == (1,)
        assert corrected.left_out == (0,)
        assert corrected.cost[2] < 1e-9 < plain.cost[2] < corrected.cost[1]
        assert corrected.parameters == (10, 12)

    def test_half_of_what_a_shortcut_makes_up_for_counts(self, chance):
        model = Layers([3 * torch.eye(6), 0.1 * torch.eye(6)], chance)
        plan = plan_depth(model, DepthSettings(0.5, correction="affine"))
        assert plan.left_out == (1,)
        assert plan.worth[0] == pytest.approx(model.cost(DepthPlan(2, {0: ()})) / 2, rel=1e-3)

    def test_correction_costs_less(self, chance):
        model = layers(chance)
        plan = plan_depth(model, DepthSettings(0.4, "change", rank=6))
        assert plan.cost[2] < 0.01 * plan.cost[1]

    def test_nothing_in_its_place_where_that_costs_less(self, chance):
        """What is nearest to a block's own answer need not be what the model does best with."""
        model = layers(chance, (0.3, 0.4))
        model.wanted = [model.run(DepthPlan(2, {1: ()}), each) for each in model.tokens]
        plan = plan_depth(model, DepthSettings(0.5))
        assert plan.left_out == (1,) and plan.shortcuts[1] == () and plan.cost[2] == plan.worth[1] == 0
        assert model.cost(DepthPlan(2, fit_blocks(model, DepthSettings(), [1], {}))) > 0.01

    def test_greedy_looks_again(self, chance):
        """Two blocks that undo each other are worth much one by one, and nothing once the other is gone."""
        turn = 0.5 * torch.randn(6, 6, generator=chance)
        back = torch.linalg.inv(torch.eye(6) + turn) - torch.eye(6)
        model = Layers([turn, back, *(0.35 * torch.randn(6, 6, generator=chance) for _ in range(2))], chance)
        worth = {both: model.cost(DepthPlan(4, dict.fromkeys(both, ()))) for both in ((0, 1), (0, 2), (2, 3))}
        assert min(worth, key=lambda both: worth[both]) == (0, 1)
        greedy = plan_depth(model, DepthSettings(0.5, greedy=True, correction="none"))
        runs, model.runs = model.runs, 0
        plan_depth(model, DepthSettings(0.5, correction="none"))
        assert runs == len(worth) + 4 + 3 + 3 and model.runs == 4 + 3
        for more in (
            {},
            {"greedy": True},
            {"measure": "change"},
            {"correction": "none"},
            {"share": 0.0},
        ):
            settings, model.runs = DepthSettings(**{"share": 0.5, **more}), 0
            plan_depth(model, settings)
            assert settings.runs(4) == model.runs, more
        assert greedy.cost[2] <= max(worth.values())

    def test_ends_that_are_to_stay_stay(self, chance):
        model = layers(chance, (0.01, 0.5, 0.5, 0.1, 0.02))
        assert plan_depth(model, DepthSettings(0.2, correction="none")).left_out == (0,)
        plan = plan_depth(model, DepthSettings(0.2, first=1, last=1, correction="none"))
        assert plan.left_out == (3,) and set(plan.worth) == {1, 2, 3}

    def test_every_stream_has_its_shortcut(self, chance):
        model = layers(chance, streams=2)
        plan = plan_depth(model, DepthSettings(0.2, rank=2))
        assert [len(each) for each in plan.shortcuts.values()] == [2]
        one, two, three = (torch.randn(1, 5, 6, generator=chance) for _ in range(3))
        made = shortened((Shortcut(shift=torch.ones(6)),), (one, two, three))
        assert torch.equal(made[0], one + 1) and made[1] is two and made[2] is three

    def test_nothing_left_out_is_nothing_changed(self, chance):
        plan = plan_depth(layers(chance), DepthSettings(0.0))
        assert plan.left_out == () and plan.cost == (0.0, 0.0, 0.0)

    def test_what_shortcuts_are_worth_is_measured_on_other_inputs(self, chance):
        model, other = layers(chance), layers(chance)
        other.added = model.added
        other.wanted = [other.run(lambda number, given, block: block(), each) for each in other.tokens]
        settings = DepthSettings(0.4, rank=6)
        plan = plan_depth(model, settings, other)
        assert other.runs == 2 * 5 + 3 and plan.cost[2] == other.cost(plan)
        assert set(plan.worth.values()).isdisjoint(plan_depth(model, settings).worth.values())

    def test_a_plan_is_judged_on_other_inputs(self, chance):
        made_on, judged_on = layers(chance), layers(chance)
        judged_on.added = made_on.added
        judged_on.wanted = [judged_on.run(lambda number, given, block: block(), each) for each in judged_on.tokens]
        plan = plan_depth(made_on, DepthSettings(0.4))
        other = judged(judged_on, plan)
        assert other.shortcuts is plan.shortcuts and other.cost != plan.cost and other.cost[2] < other.cost[1]

    @pytest.mark.parametrize(
        "settings, message",
        [
            ({"share": 0.6}, r"^Invalid share 0\.6\. From 0 to 0\.5 "),
            ({"measure": "taste"}, r"^Unknown measure 'taste' or correction 'low-rank'\. Supported are output, "),
            ({"first": -1}, r"^Invalid first -1, last 0 or rank 32\."),
        ],
    )
    def test_settings_that_cannot_be(self, settings, message):
        with pytest.raises(ValueError, match=message):
            DepthSettings(**settings)

    def test_too_few_to_choose_from(self, chance):
        with pytest.raises(ValueError, match=r"^2 of 5 blocks cannot be left out while the first 2 and the last 2 "):
            plan_depth(layers(chance), DepthSettings(0.4, first=2, last=2))


class TestAmount:
    def test_parts_that_cost_least_for_their_size_go_until_enough_is_saved(self, chance):
        model = Layers([size * torch.eye(6) for size in (0.5, 0.01, 0.3, 0.02, 0.03)], chance)
        model.parameters = [10, 1, 10, 20, 3]
        plan = plan_amount(model, 5, DepthSettings(correction="none"))
        assert plan.left_out == (3,) and plan.parameters == (20, 0)
        assert plan_amount(model, 21, DepthSettings(correction="none")).left_out == (1, 3)
        assert plan_amount(model, 22, DepthSettings(correction="none")).left_out == (1, 3, 4)
        by_time = plan_amount(model, 0.5, DepthSettings(correction="none"), sizes=[0.1, 0.2, 0.9, 0.1, 0.45])
        assert by_time.left_out == (1, 4)

    def test_what_makes_the_model_better_goes_first(self, chance):
        model = layers(chance, (0.3, 0.4, 0.01))
        model.parameters = [1, 10, 100]
        model.wanted = [model.run(DepthPlan(3, {0: ()}), each) for each in model.tokens]
        plan = plan_amount(model, 1, DepthSettings())
        assert plan.left_out == (0,) and plan.shortcuts[0] == () and plan.cost[2] == 0 < plan.cost[0]

    def test_each_is_measured_behind_what_is_left_out(self, chance):
        """Two blocks that undo each other: once one is out, the other is worth nothing."""
        skew = 0.2 * torch.randn(6, 6, generator=chance)
        turned = torch.matrix_exp(skew - skew.T)
        undone = [turned - torch.eye(6), turned.T - torch.eye(6)]
        model = Layers([*undone, 5 * torch.eye(6), 5 * torch.eye(6)], chance)
        plan = plan_amount(model, 20, DepthSettings(correction="none"))
        assert min(plan.worth.values()) > 0.1
        assert plan.left_out == (0, 1) and plan.cost[2] < 1e-9

    def test_shortcuts_stand_in(self, chance):
        model = layers(chance)
        plan = plan_amount(model, 20, DepthSettings(rank=6))
        assert len(plan.shortcuts) == 2 and plan.cost[2] < 0.01 * plan.cost[1]

    def test_nothing_and_too_much(self, chance):
        assert plan_amount(layers(chance), 0, DepthSettings()).left_out == ()
        with pytest.raises(
            ValueError, match=r"^Invalid amount 21\. Of the blocks that may go at most half can go: 20\.$"
        ):
            plan_amount(layers(chance), 21, DepthSettings(first=1))
