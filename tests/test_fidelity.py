"""Probing fidelity without ComfyUI: errors of known perturbations, what is tried and recommended, text and plot."""

import json
import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tokenreel.models.fidelity import Fidelity, Outcome, Trial, compare_latents, nine_of_ten
from tokenreel.models.fidelity_report import describe_fidelity
from tokenreel.models.fidelity_watch import CANDIDATES, Candidate, Watch
from tokenreel.video.fidelity_plot import BAR, WISHED, fidelity_plot

GRID = (4, 6, 8)
TOKENS, HEADS, WIDTH = 4 * 6 * 8, 2, 32


def attention(q, k, v, heads, mask=None, **options):
    """ComfyUI's signature, `[B, N, heads * d]`."""
    q, k, v = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=options.get("scale")).transpose(1, 2).flatten(2)


def rows(seed, tokens=TOKENS):
    chance = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, tokens, WIDTH, generator=chance) for _ in range(3))


def begun(watch, step=0, grid=GRID, blocks=4):
    return watch.begin(step=step, grid=grid, before=0, blocks=blocks, sigma=1.0)


def louder(by):
    return lambda q, k, v, heads, **options: attention(q, k, v, heads, **options) * (1 + by)


def trial(kind="window", amount=0.3, error=0.05, time=0.5, work=0.4):
    return Trial(kind, amount, error, error, work, time)


def found(trials=(), wished=0.1, **changes):
    made = Fidelity(4, wished, Outcome(10.0, 4), grid=GRID, tokens=TOKENS, **changes)
    made.trials = list(trials)
    made.recommend()
    return made


class TestWatch:
    def test_answers_are_the_dense_bits_and_errors_those_of_the_patch(self):
        watch = Watch([])
        for step, by in enumerate((0.1, 0.3)):
            forward = begun(watch, step)
            for layer in range(3):
                given = rows(layer)
                made = watch.attend(forward, attention, louder(by * (layer > 0)), (*given, HEADS), {})
                assert torch.equal(made, attention(*given, HEADS))
            watch.end(forward)
        errors = {key: sums.error for key, sums in watch.calls.items()}
        assert errors == pytest.approx({(0, 0): 0, (0, 1): 0.1, (0, 2): 0.1, (1, 0): 0, (1, 1): 0.3, (1, 2): 0.3})
        assert watch.forwards == 2 and 0 < watch.attention_seconds <= watch.forward_seconds

    def test_both_conditions_count_as_one(self):
        watch = Watch([])
        for by in (0.0, 0.2):  # the same step twice, with answers of equal norm
            watch.attend(begun(watch), attention, louder(by), (*rows(1), HEADS), {})
        assert watch.calls[0, 0].error == pytest.approx(0.2 / math.sqrt(2), rel=1e-5)

    def test_calls_about_other_tokens_are_apart(self):
        watch = Watch([])
        forward = begun(watch)
        q, (_, k, v) = rows(1)[0], rows(2, 5)
        watch.attend(forward, attention, louder(0.5), (q, k, v, HEADS), {})
        watch.attend(forward, attention, louder(0.2), (*rows(1), HEADS), {})
        assert list(watch.calls) == [(0, 0)] and watch.others[0].error == pytest.approx(0.5, rel=1e-5)
        result = Fidelity(1, 0.1, Outcome(1.0, 1))
        result.add_watch(watch)
        assert result.other_error == pytest.approx(0.5, rel=1e-5) and result.error == pytest.approx(0.2, rel=1e-5)

    def test_without_a_video_all_calls_are_compared_and_nothing_is_tried(self):
        watch = Watch(CANDIDATES)
        watch.schedule([1.0], 2.0, 0.0)
        forward = begun(watch, grid=None)
        watch.attend(forward, attention, louder(0.5), (rows(1)[0], *rows(2, 5)[1:], HEADS), {})
        watch.attend(forward, attention, None, (*rows(1), HEADS), {})
        assert list(watch.calls) == [(0, 0)] and not watch.sampled
        result = Fidelity(1, 0.1, Outcome(1.0, 1))
        result.add_watch(watch)
        result.recommend()
        assert "the latent is no video" in result.advice and "no video" in describe_fidelity(result)

    def test_blocks_are_held_against_what_they_add_though_they_write_into_what_they_are_given(self):
        watch = Watch([])
        forward = begun(watch)
        inner = []

        def block(given):
            inner.append(watch.attend(forward, attention, louder(0.7), (*rows(1), HEADS), {}))
            given["img"] += 1.0
            return {"img": given["img"]}

        def patched(given):
            made = block(given)
            made["img"] += 0.25
            return made

        x = torch.full((1, TOKENS, 4), 100.0)
        made = watch.through(forward, {"img": x, "txt": None, "pe": 1}, block, patched)
        assert torch.equal(made["img"], torch.full((1, TOKENS, 4), 101.0)) and made["img"] is x
        assert watch.blocks[0, 0].error == pytest.approx(0.25) and not watch.calls
        by_patch, dense = inner
        assert torch.equal(dense, attention(*rows(1), HEADS)) and torch.equal(by_patch, dense * 1.7)

    def test_lists_of_a_video_and_its_sound(self):
        watch = Watch([])

        def block(given):
            return {"img": tuple(each * 2 for each in given["img"])}

        x = (torch.ones(1, 4, 2), torch.ones(1, 3, 5))
        made = watch.through(begun(watch), {"img": x}, block, block)
        assert made["img"][1].shape == (1, 3, 5) and watch.blocks[0, 0].error == 0.0

    def test_what_is_no_number_is_counted(self):
        watch = Watch([])
        forward = begun(watch)
        for by in (math.nan, 0.0, 0.1):
            watch.attend(forward, attention, louder(by), (*rows(1), HEADS), {})
        result = Fidelity(1, 0.5, Outcome(1.0, 1))
        result.patched = Outcome(1.0, 1, finite=False)
        result.add_watch(watch)
        result.recommend()
        assert result.broken == 1 and result.error is None and result.keeps is False
        text = describe_fidelity(result)
        assert "1 of them gave what is no number" in text and "its result holds what is no number" in text
        json.dumps(result.as_dict(), allow_nan=False)


class TestTrying:
    def seen(self, candidates, steps=6, blocks=6, backend=attention, **options):
        watch = Watch(candidates)
        watch.schedule([1 - step / steps for step in range(steps)], 0.9, 0.0)
        for step in range(steps):
            forward = begun(watch, step, blocks=blocks)
            for layer in range(blocks):
                watch.attend(forward, backend, None, (*rows(layer), HEADS), options)
            watch.end(forward)
        result = Fidelity(steps, 0.1, Outcome(1.0, steps))
        result.add_watch(watch)
        return result

    def test_on_a_few_calls_spread_over_steps_and_layers_but_not_where_all_stays_dense(self):
        result = self.seen([Candidate("window", 0.3)])
        assert result.tried_on == [(step, layer) for step in (1, 3, 5) for layer in (1, 2, 3, 4)]

    def test_exact_settings_have_no_error_and_sparser_ones_more(self):
        result = self.seen([Candidate("top-k", each) for each in (1.0, 0.5, 0.1)])
        exact, half, tenth = result.trials
        assert exact.error == 0.0 and exact.work == 1.0
        assert 0 < half.error < tenth.error < 2 and tenth.work < half.work < 1
        assert all(each.time > 0 for each in result.trials)

    def test_answers_that_are_no_numbers_are_not_recommended(self):
        calls = []

        def failing(q, k, v, heads, **options):
            calls.append(k.shape)
            return attention(q, k, v, heads) * (math.nan if k.shape[-2] != TOKENS else 1.0)

        result = self.seen([Candidate("top-k", 0.1)], steps=1, backend=failing)
        assert not result.trials  # a single step, which comes before settings are tried
        result = self.seen([Candidate("top-k", 0.1)], backend=failing)
        assert len(set(calls)) > 1 and result.trials[0].error is None
        result.recommend()
        assert result.choice is None

    def test_calls_that_cannot_be_patched_say_why(self):
        result = self.seen([Candidate("window", 0.1)], mask=torch.ones(TOKENS, TOKENS))
        assert not result.trials
        assert result.notes == ["some calls cannot be patched: a mask hides other keys from each query"]
        result.recommend()
        assert "the notes say why" in result.advice

    def test_candidates_are_those_of_the_nodes(self):
        assert {each.kind for each in CANDIDATES} == {"window", "top-k", "keys"}
        for each in CANDIDATES:
            run = each.start(0.9, 0.1)
            gate = run.gate
            assert (gate.first_sigma, gate.last_sigma, gate.first_blocks, gate.last_blocks) == (0.9, 0.1, 1, 1)
            assert gate.least_tokens == 0 and f"{each.amount:g}" in each.setting


class TestRecommending:
    def test_the_fastest_within_the_wish(self):
        result = found([trial(amount=0.1, error=0.2, time=0.2), trial(), trial("top-k", 0.3, 0.02, 0.7)])
        assert result.chosen == Candidate("window", 0.3) and result.choice == 1

    @pytest.mark.parametrize(
        ("trials", "words"),
        [
            ([trial(error=0.2), trial("top-k", 0.2, 0.15)], "keeps to an error of 0.1. The closest is top-k 0.2 with"),
            ([trial(time=1.2), trial(amount=0.2, time=1.1)], "none is faster here .* window 0.2 with 1.10 times"),
            ([trial(error=0.0, time=0.9, work=1.0)], "leaves attention as it is"),
            ([trial(error=None)], "No setting that was tried keeps"),
            ([], "No setting was tried: .* take more steps"),
        ],
    )
    def test_what_cannot_be_recommended_is_said(self, trials, words):
        result = found(trials)
        assert result.choice is None and result.chosen is None
        assert re.search(words, result.advice) and "The output is the model as it came." in describe_fidelity(result)

    def test_what_is_no_faster_in_all_is_taken_back(self):
        result = found([trial()])
        assert result.accept(Outcome(9.0, 4, error=0.01, psnr=40.0)) and result.chosen is not None
        text = describe_fidelity(result)
        assert "Recommended: Efficient Attention with kind window, density 0.3." in text and "(1.11x as fast)" in text
        assert not found([trial()]).accept(Outcome(9.0, 4, finite=False))
        assert not result.accept(Outcome(11.0, 4, error=0.01)) and result.chosen is None
        assert "took no less time than dense" in describe_fidelity(result)

    def test_nine_of_ten(self):
        assert nine_of_ten([]) is None and nine_of_ten([0.5]) == 0.5
        assert nine_of_ten([each / 10 for each in range(1, 11)]) == 0.9
        assert nine_of_ten([0.1] * 19 + [math.nan]) == 0.1 and nine_of_ten([0.1, math.nan]) is None


class TestOutcomes:
    def test_error_and_decibels_of_a_known_difference(self):
        dense = torch.linspace(-2, 2, 1001)[None]
        outcome = compare_latents([dense], [dense + 0.04], seconds=2.0, forwards=3, said=["a"])
        assert outcome.psnr == pytest.approx(40.0, abs=1e-4)  # a peak of 4 over 0.04
        assert outcome.error == pytest.approx(0.04 / float(dense.square().mean().sqrt()), rel=1e-5)
        assert (outcome.seconds, outcome.forwards, outcome.said) == (2.0, 3, ["a"])

    def test_equal_and_broken_ones(self):
        dense = torch.randn(1, 4)
        same = compare_latents([dense, dense], [dense, dense], seconds=1, forwards=1)
        assert same.error == 0.0 and same.psnr is None and same.finite
        broken = compare_latents([dense], [dense * math.nan], seconds=1, forwards=1)
        assert broken.error is None and not broken.finite
        assert compare_latents([dense * math.nan], [dense], seconds=1, forwards=1).error is None

    def test_patched_models_are_judged(self):
        watch = Watch([])
        for layer in range(4):
            watch.attend(begun(watch), attention, louder(0.05 * layer), (*rows(layer), HEADS), {})
        for wished, verdict in ((0.2, "keeps"), (0.02, "does not keep")):
            result = Fidelity(1, wished, Outcome(2.0, 4), patched=Outcome(1.0, 4, psnr=30.0, error=0.1))
            result.add_watch(watch)
            assert f"it {verdict} to the wished error of {wished:g}" in describe_fidelity(result)
        assert "(2.00x as fast)" in describe_fidelity(result) and "30.00 dB" in describe_fidelity(result)

    def test_patches_elsewhere(self):
        result = Fidelity(1, 0.1, Outcome(2.0, 4), patched=Outcome(1.0, 2, psnr=30.0, error=0.1))
        assert result.keeps is None and "changes neither attention nor blocks" in describe_fidelity(result)


class TestPlot:
    LAYERS = ((0.05, 0.1), (0.1, 0.2), (None, None), (0.0, 0.0))
    SETTINGS = {"window": [(0.2, 0.15, True), (0.5, 0.05, False)], "top-k": [(0.3, 0.1, True)]}  # noqa: RUF012

    def test_panels_there_are(self):
        both = fidelity_plot(self.LAYERS, self.SETTINGS, wished=0.1, chosen=(0.3, 0.1))
        bars = fidelity_plot(self.LAYERS, {}, wished=0.1)
        curves = fidelity_plot([], self.SETTINGS, wished=0.1)
        assert both.dtype == np.uint8 and {each.shape[1:] for each in (both, bars, curves)} == {(720, 3)}
        assert max(bars.shape[0], curves.shape[0]) < both.shape[0] <= bars.shape[0] + curves.shape[0] + 8 < 1000
        assert fidelity_plot([], {}, wished=0.1).shape[0] < 80

    def test_bars_are_as_high_as_the_errors(self):
        picture = fidelity_plot(self.LAYERS, {}, wished=0.1)
        blue = (np.abs(picture[100:].astype(int) - BAR) < 12).all(-1)  # below the key
        first, second, *others = (
            np.median(part.sum(0)) for part in np.array_split(blue[:, 90:700], len(self.LAYERS), 1)
        )
        # the dashed line of the wish crosses the second at its top
        assert second == pytest.approx(2 * first, abs=8) and first > 20
        assert max(others) == 0

    def test_what_is_no_number_is_left_out(self):
        broken = {"window": [(0.2, 0.15, True), (0.5, float("nan"), False)], "top-k": [(0.3, float("inf"), True)]}
        whole = {"window": [(0.2, 0.15, True)]}
        nan = ((0.05, 0.1), (float("nan"), float("nan")))
        none = ((0.05, 0.1), (None, None))
        pictures = [fidelity_plot(*each, wished=0.1) for each in ((nan, broken), (none, whole))]
        assert np.array_equal(*pictures)

    @pytest.mark.parametrize("wished", [0.0, 0.1, 5.0])
    def test_the_wish_is_drawn(self, wished):
        picture = fidelity_plot([], self.SETTINGS, wished=wished)
        line = (np.abs(picture.astype(int) - WISHED) < 45).all(-1).sum(1)
        assert line.max() > 300
