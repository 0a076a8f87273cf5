"""Merging in models of others: what is found, what is kept, and that nothing redundant changes nothing else."""

import logging
import random

import pytest
import torch

from tokenreel.models.attention import Grid
from tokenreel.models.attention_calls import MERGED, Forward, Gate
from tokenreel.models.sparse_patch import SparseRun, SparseSettings
from tokenreel.models.token_merging import MergeRun, MergeSettings, find_redundant


def backend(
    q,
    k,
    v,
    heads,
    mask=None,
    skip_reshape=False,
    skip_output_reshape=False,
    scale=None,
    low_precision_attention=True,
):
    """Attention as ComfyUI's functions have it."""
    if not skip_reshape:
        q, k, v = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (q, k, v))
    if mask is not None and mask.ndim == 3:
        mask = mask[:, None]
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return out if skip_output_reshape else out.transpose(1, 2).flatten(2)


def still(grid, size=16, batch=1, seed=0, moving=0, noise=0.0):
    """`[batch, N, size]` of a video whose frames are equal but for its first `moving` tokens."""
    generator = torch.Generator().manual_seed(seed)
    frame = torch.randn(batch, 1, grid.h * grid.w, size, generator=generator)
    video = frame.repeat(1, grid.t, 1, 1)
    video[:, :, :moving] = torch.randn(batch, grid.t, moving, size, generator=generator)
    return (video + noise * torch.randn(video.shape, generator=generator)).flatten(1, 2)


def call(grid, seed=0, others=0, batch=1, **options):
    """q, k and v, of which k and v hardly change from frame to frame."""
    generator = torch.Generator().manual_seed(seed + 1)
    k, v = (still(grid, seed=seed + i, batch=batch, moving=2, noise=0.01) for i in (2, 3))
    more = torch.randn(batch, others, 16, generator=generator)
    q = torch.randn(batch, others + grid.tokens, 16, generator=generator)
    return q, torch.cat([more, k], 1), torch.cat([more, v], 1), 2


class TestFinding:
    GRID = Grid(5, 3, 4)

    def found(self, features, important=None, **settings):
        return find_redundant(features, self.GRID, MergeSettings(**{"ratio": 0.9, **settings}), important)

    def test_the_first_frame_stands_for_those_that_are_equal(self):
        merged = self.found(still(self.GRID))
        assert merged.kept.tolist() == list(range(12)) and merged.counts.tolist() == [5] * 12
        assert merged.stands.tolist() == [*range(12)] * 5

    def test_what_moves_is_kept(self):
        merged = self.found(still(self.GRID, moving=2))
        assert merged.kept.tolist() == sorted({*range(12), *(12 * t + i for t in range(5) for i in range(2))})

    def test_a_token_that_changes_once_stands_for_those_after(self):
        features = still(self.GRID)
        features[:, 36 + 7 :: 12] = -features[:, 7:8]  # from the fourth frame on
        merged = self.found(features)
        assert merged.kept.tolist() == [*range(12), 43]
        assert merged.counts[7] == 3 and merged.counts[-1] == 2 and merged.stands[48 + 7] == 12

    def test_slow_change_does_not_add_up(self):
        """Each frame is like the one before, but not like the first."""
        turns = torch.arange(5) * 0.3
        wheel = torch.stack([turns.cos(), turns.sin()], -1)[:, None].expand(-1, 12, -1).reshape(1, 60, 2)
        merged = self.found(wheel, threshold=0.9)  # 0.3 apart: 0.955, 0.6: 0.825
        assert merged.kept.tolist() == [*range(12), *range(24, 36), *range(48, 60)]

    def test_one_of_a_batch_that_changes_is_enough(self):
        features = still(self.GRID, batch=2)
        features[1, 30] += 100
        features[1, 30, ::2] *= -1
        assert 30 in self.found(features).kept.tolist()

    def test_no_more_than_the_ratio(self):
        for ratio in (0.0, 0.2, 0.5):
            merged = self.found(still(self.GRID, noise=0.01), ratio=ratio)
            assert len(merged.kept) == 60 - int(ratio * 60)
            assert int(merged.counts.sum()) == 60

    def test_key_frames_are_kept(self):
        merged = self.found(still(self.GRID), refresh=2)
        assert merged.kept.tolist() == [*range(12), *range(24, 36), *range(48, 60)]

    def test_important_tokens_are_kept(self):
        important = torch.zeros(60)
        important[[17, 50]] = torch.tensor([1.0, 2.0])
        merged = self.found(still(self.GRID), important, protect=2 / 60)
        assert merged.kept.tolist() == [*range(12), 17, 50]

    def test_a_token_stands_for_later_ones_at_its_own_place(self):
        merged = self.found(still(self.GRID, noise=0.4), threshold=0.85)
        before = merged.kept[merged.stands]
        number = torch.arange(60)
        assert (before <= number).all() and (before % 12 == number % 12).all()
        assert (before[merged.kept] == merged.kept).all()


class TestKeys:
    @pytest.mark.parametrize("settings", [{"ratio": 0.0}, {"threshold": 1.0}])
    def test_where_nothing_is_redundant_nothing_changes(self, settings):
        grid = Grid(4, 3, 5)
        arguments = call(grid, others=3)
        made = MergeRun(MergeSettings(**settings)).attend(Forward(grid, 3), backend, arguments, {})
        assert torch.equal(made, backend(*arguments))

    @pytest.mark.parametrize("options", [{}, {"scale": 0.4}])
    def test_equal_keys_and_values_are_merged_without_an_error(self, options):
        grid = Grid(4, 3, 5)
        k, v = still(grid, seed=1), still(grid, seed=2)
        q = torch.randn(1, 60, 16, generator=torch.Generator().manual_seed(0))
        run = MergeRun(MergeSettings(ratio=0.9))
        made = run.attend(Forward(grid), backend, (q, k, v, 2), dict(options))
        assert run.shares == [0.25]
        assert torch.allclose(made, backend(q, k, v, 2, **options), atol=1e-5)

    @pytest.mark.parametrize("kind", ["window", "top-k"])
    def test_sparse_attention_sees_some_of_the_keys_that_are_left(self, kind):
        grid, before = Grid(5, 4, 4), 3
        arguments = call(grid, others=before, batch=2)
        exact = backend(*arguments)
        merging, errors = MergeRun(MergeSettings(ratio=0.6, threshold=-1.0)), []
        merged = merging.attend(Forward(grid, before), backend, arguments, {})

        def plain(*args, transformer_options, **options):
            return backend(*args, **options)

        for density in (0.1, 0.4, 0.9):
            run = SparseRun(SparseSettings(kind, density, tile=(2, 2, 2), cube=(1, 2, 2), first_frame=False))

            def sparse(*args, run=run, **options):
                return run.attend(Forward(grid, before), plain, args, options)

            made = merging.attend(Forward(grid, before), sparse, arguments, {"transformer_options": {"a": 1}})
            seen = round(density * 32) + before
            assert run.shares == [pytest.approx((80 * seen + before * (32 + before)) / (83 * (32 + before)))]
            assert torch.allclose(made[:, :before], merged[:, :before], atol=1e-5)  # text sees everything that is left
            errors.append(float((made - exact).norm()))
        assert errors == sorted(errors, reverse=True) and errors[-1] > float((merged - exact).norm())

    def test_nearly_equal_ones_with_a_small_one(self):
        grid = Grid(6, 4, 4)
        arguments = call(grid, others=4, batch=2)
        exact = backend(*arguments)
        run = MergeRun(MergeSettings(ratio=0.7))
        made = run.attend(Forward(grid, 4), backend, arguments, {})
        assert run.shares[0] < 0.5 and float((made - exact).norm() / exact.norm()) < 0.02

    def test_layouts_and_masks(self):
        chance = random.Random(0)
        for number in range(40):
            grid = Grid(chance.choice((1, 2, 5)), chance.choice((1, 3, 7)), chance.choice((2, 5)))
            before, after, batch = chance.choice((0, 3)), chance.choice((0, 4)), chance.choice((1, 2))
            q, k, v, heads = call(grid, number, before + after, batch)
            q, k, v = (each.roll(-after, 1) for each in (q, k, v))
            options = {}
            if chance.random() < 0.5:
                q, k, v = (each.unflatten(-1, (2, -1)).transpose(1, 2) for each in (q, k, v))
                options = {"skip_reshape": True, "skip_output_reshape": chance.random() < 0.5}
            if before:
                options["mask"] = torch.zeros(1, 1, before + grid.tokens + after)
                options["mask"][..., 0] = -1e9
            run = MergeRun(MergeSettings(ratio=0.8))
            made = run.attend(Forward(grid, before), backend, (q, k, v, heads), options)
            exact = backend(q, k, v, heads, **options)
            assert made.shape == exact.shape
            assert float((made - exact).norm() / exact.norm()) < 0.05, (grid, before, after)

    def test_guidance_protects(self):
        grid = Grid(4, 2, 3)
        arguments = call(grid)
        run = MergeRun(MergeSettings(ratio=0.9, protect=0.25))
        run.attend(Forward(grid), backend, arguments, {})
        quiet = torch.zeros(1, 3, 4, 4, 6)
        loud = quiet.clone()
        loud[:, :, 2] = 1  # the third frame
        run.watch(loud, quiet)
        run.attend(Forward(grid), backend, arguments, {})
        assert run.shares[1] > run.shares[0]
        run.finish()
        run.attend(Forward(grid), backend, arguments, {})
        assert run.shares[2] == run.shares[0]


def block(arguments):
    """As a model's: attention among tokens with positions, modulation, a residual; it writes into what it is given."""
    x = arguments["img"]
    turned = x * arguments["pe"]
    vec = arguments["vec"][:, :, 0]
    vec = vec.repeat_interleave(x.shape[1] // vec.shape[1], 1) if vec.shape[1] not in (1, x.shape[1]) else vec
    x += backend(turned, turned, x, 2) * vec
    return {"img": x}


class TestBlocks:
    GRID = Grid(4, 3, 5)

    def arguments(self, frames=1, others=0, positions=False):
        x = torch.cat([torch.ones(1, others, 16), still(self.GRID, moving=3)], 1)
        generator = torch.Generator().manual_seed(5)
        pe = torch.randn(1, x.shape[1], 16, generator=generator) if positions else torch.ones(1, x.shape[1], 16)
        vec = torch.rand(1, frames, 1, 16, generator=generator)
        return {"img": x, "txt": torch.zeros(1, 7, 16), "vec": vec, "pe": pe, "transformer_options": {"a": 1}}

    def through(self, run, arguments, forward=None, number=0, original=block):
        return run.through(forward or Forward(self.GRID), number, arguments, original)["img"]

    def test_a_ratio_of_zero_is_the_block(self):
        run = MergeRun(MergeSettings("blocks", ratio=0.0))
        assert torch.equal(self.through(run, self.arguments()), block(self.arguments())["img"])

    @pytest.mark.parametrize("frames", [1, 4, 60])
    def test_tokens_are_taken_with_what_belongs_to_them(self, frames):
        """Where a block works token by token, merging equal tokens of one modulation changes nothing."""
        arguments = self.arguments(frames, positions=True)
        arguments["pe"] = still(self.GRID, seed=9)
        if frames > 1:
            arguments["vec"] = arguments["vec"][:, :1].repeat(1, frames, 1, 1)

        def alone(given):
            vec = given["vec"][:, :, 0]
            assert vec.shape[1] in (1, given["img"].shape[1]) and given["pe"].shape[1] == given["img"].shape[1]
            return {"img": given["img"] * 2 + given["pe"] * vec}

        run = MergeRun(MergeSettings("blocks", ratio=0.6))
        made = self.through(run, arguments, original=alone)
        assert run.shares[0] < 0.5
        assert torch.allclose(made, arguments["img"] * 2 + arguments["pe"] * arguments["vec"][:, :1, 0], atol=1e-5)

    def test_modulation_of_all_tokens_alike_is_passed_on(self):
        run = MergeRun(MergeSettings("blocks"))
        arguments = {**self.arguments(), "vec": torch.rand(1, 6, 16)}  # 60 tokens could be 6 frames

        def spy(given):
            assert given["vec"] is arguments["vec"]
            return given

        run.through(Forward(self.GRID), 0, arguments, spy)
        assert run.patched == 1

    def test_tokens_outside_of_the_grid_are_kept(self):
        run = MergeRun(MergeSettings("blocks", ratio=0.5))
        seen = []

        def spy(given):
            seen.append(given)
            return block(given)

        arguments = self.arguments(others=6)
        before = arguments["img"].clone()
        made = self.through(run, arguments, Forward(self.GRID, 6), original=spy)
        assert torch.equal(seen[0]["img"].shape[1] * torch.ones(()), torch.tensor(6.0 + 30))
        assert torch.equal(arguments["img"], before) and made.shape == before.shape
        options = dict(seen[0]["transformer_options"])
        assert len(options.pop(MERGED).numbers) == 30 and options == {"a": 1} and seen[0]["txt"] is arguments["txt"]

    @pytest.mark.parametrize("first", [True, False])
    def test_text_in_the_same_attention(self, first):
        """Positions of text and video in one tensor, the text before or after."""
        arguments = self.arguments()
        text, video = torch.full((1, 1, 7, 2), -1.0), torch.arange(60.0)[None, None, :, None].expand(-1, -1, -1, 2)
        arguments["pe"] = torch.cat([text, video] if first else [video, text], 2)
        arguments["attention_mask"] = arguments["pe"][:, 0, None, :, 0]

        def spy(given):
            count = given["img"].shape[1]
            numbers = given["pe"][0, 0, :, 0]
            assert numbers.shape == (count + 7,) and torch.equal(given["attention_mask"][0, 0], numbers)
            of_video = numbers[7:] if first else numbers[:-7]
            assert torch.equal(of_video, of_video.sort().values) and of_video.min() >= 0
            return {"img": given["img"], "txt": given["txt"]}

        run = MergeRun(MergeSettings("blocks"))
        forward = Forward(self.GRID, None if first else 0, doubles=2, blocks=4)
        assert torch.equal(self.through(run, arguments, forward, original=spy), arguments["img"]) and run.patched == 1

    def test_what_is_redundant_is_found_once_a_forward(self, monkeypatch):
        calls = []
        monkeypatch.setattr(
            "tokenreel.models.token_merging.find_redundant", lambda *all_of: calls.append(1) or find_redundant(*all_of)
        )
        run = MergeRun(MergeSettings("blocks"))
        for _ in range(2):
            forward = Forward(self.GRID)
            for number in range(3):
                self.through(run, self.arguments(), forward, number)
        assert len(calls) == 2 and run.patched == 6

    @pytest.mark.parametrize(
        "more, reason",
        [
            ({"vec": torch.zeros(1, 7, 16)}, "vec of the blocks is not laid out by tokens as known"),
            ({"pe": torch.zeros(1, 8, 16)}, "pe of the blocks is not laid out by tokens as known"),
            ({"self_attention_mask": torch.zeros(1)}, "blocks are given self_attention_mask, which is not known"),
        ],
    )
    def test_what_cannot_be_merged_runs_dense_and_says_so(self, more, reason, caplog):
        run = MergeRun(MergeSettings("blocks"))
        arguments = {**self.arguments(), **more}
        with caplog.at_level(logging.INFO, "tokenreel"):
            for _ in range(2):
                assert run.through(Forward(self.GRID), 0, arguments, lambda given: given) is arguments
        assert [record.message for record in caplog.records] == [f"Merge Redundant Tokens: runs dense: {reason}."]

    def test_gates(self):
        run = MergeRun(MergeSettings("blocks"), Gate(last_sigma=0.3, first_blocks=1, last_blocks=1))
        for number, sigma in ((0, 0.5), (1, 0.5), (3, 0.5), (1, 0.2)):
            self.through(run, self.arguments(), Forward(self.GRID, blocks=4, sigma=sigma), number)
        assert run.patched == 1 and run.dense.total() == 3

    @pytest.mark.parametrize(("kind", "patched"), [("window", True), ("top-k", True), ("linear", False)])
    def test_attention_inside_is_sparse_among_what_is_left(self, kind, patched):
        settings = SparseSettings(kind, 0.2, tile=(1, 2, 2), cube=(1, 2, 2), first_frame=False)
        forward, run = Forward(self.GRID), SparseRun(settings)

        def inside(given):
            tensors = (given["img"],) * 3
            options = {"transformer_options": given["transformer_options"]}
            return {"img": run.attend(forward, lambda *all_of, **_: backend(*all_of), (*tensors, 2), options)}

        merging = MergeRun(MergeSettings("blocks"))
        self.through(merging, self.arguments(), forward, original=inside)
        assert merging.patched == 1
        assert run.shares == ([0.2] if patched else [])
        assert patched or "merged tokens" in next(iter(run.dense))

    def test_merging_inside_of_merging_runs_as_it_would(self):
        forward, run = Forward(self.GRID), MergeRun(MergeSettings("keys", threshold=-1.0))

        def inside(given):
            options = {"transformer_options": given["transformer_options"]}
            return {
                "img": run.attend(forward, lambda *all_of, **_: backend(*all_of), (*(given["img"],) * 3, 2), options)
            }

        self.through(MergeRun(MergeSettings("blocks")), self.arguments(), forward, original=inside)
        assert run.dense == {"tokens were merged before": 1}


class TestSettings:
    @pytest.mark.parametrize(
        "wrong", [{"mode": "all"}, {"ratio": 1}, {"threshold": 2}, {"refresh": -1}, {"protect": 1.5}]
    )
    def test_wrong_ones_are_refused(self, wrong):
        with pytest.raises(ValueError, match=r"^(Unknown|Invalid) "):
            MergeSettings(**wrong)
