"""Merging in models of others: what is found, what is kept, and that nothing redundant changes nothing else."""

import logging
import random

import pytest
import torch

from tokenreel.models.attention import Grid
from tokenreel.models.attention_calls import MERGED, Forward, Gate
from tokenreel.models.sparse_patch import SparseRun, SparseSettings
from tokenreel.models.token_matching import match_tokens
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


def cells_of(numbers, grid):
    """Frame, and row and column of the cell of 2 x 2, of each token."""
    return [(n // (grid.h * grid.w), n // grid.w % grid.h // 2, n % grid.w // 2) for n in numbers]


class TestFinding:
    GRID = Grid(5, 4, 6)
    MOST = 4 * 18  # of frames after the first three of four

    def found(self, features, important=None, grid=GRID, **settings):
        return find_redundant(features, grid, MergeSettings(**{"ratio": 0.75, **settings}), important)

    def test_equal_frames_are_merged_at_their_own_places(self):
        merged = self.found(still(self.GRID))
        assert len(merged.kept) == 120 - self.MOST and merged.kept[:24].tolist() == list(range(24))
        into = merged.kept[merged.stands]
        assert (into % 24 == torch.arange(120) % 24).all()
        assert int(merged.counts.sum()) == 120

    @pytest.mark.parametrize("grid", [Grid(4, 5, 7), Grid(6, 3, 3), Grid(5, 1, 4), Grid(9, 1, 1)])
    def test_odd_sides(self, grid):
        frame = grid.h * grid.w
        merged = self.found(still(grid), grid=grid, ratio=0.7)
        into = merged.kept[merged.stands]
        assert (into % frame == torch.arange(grid.tokens) % frame).all()
        places = set(cells_of(range(grid.tokens), grid))
        assert set(cells_of(merged.kept.tolist(), grid)) == places  # one of each cell stays
        assert frame == 1 or len(merged.kept) < grid.tokens

    def test_what_moves_is_kept(self):
        moving = [24 * t + i for t in range(5) for i in range(2)]
        assert set(moving) <= set(self.found(still(self.GRID, moving=2)).kept.tolist())

    def test_even_places_are_merged_where_they_move(self):
        """A column of equal tokens that goes to the right, one each frame, through others that are all different."""
        features = torch.randn(1, 120, 16, generator=torch.Generator().manual_seed(0))
        frames = features.view(1, 5, 4, 6, 16)
        for t in range(5):
            frames[:, t, :, t] = 1.0
        merged = self.found(features)
        left_out = sorted(set(range(120)) - set(merged.kept.tolist()))
        assert left_out and all(n % 6 == n // 24 for n in left_out)
        assert all(n % 6 == n // 24 for n in merged.kept[merged.stands[left_out]].tolist())

    def test_a_change_is_not_merged_with_what_was_before(self):
        features = still(self.GRID)
        features[:, 72:] *= -1  # a cut before the fourth frame
        merged = self.found(features)
        into = merged.kept[merged.stands]
        assert ((into >= 72) == (torch.arange(120) >= 72)).all()

    def test_one_of_a_batch_that_changes_is_enough(self):
        features = still(self.GRID, batch=2)
        left_out = next(n for n in range(30, 120) if n not in self.found(features).kept.tolist())
        features[1, left_out] += 100
        features[1, left_out, ::2] *= -1
        assert left_out in self.found(features).kept.tolist()

    def test_no_more_than_the_ratio_and_those_most_alike_first(self):
        features = still(self.GRID, noise=0.2)
        for ratio in (0.0, 0.2, 0.5):
            merged = self.found(features, ratio=ratio, threshold=-1.0)
            assert len(merged.kept) == 120 - int(ratio * 120)
            assert int(merged.counts.sum()) == 120
        alike, _ = match_tokens(features, self.GRID)
        chosen = torch.ones(120, dtype=torch.bool)
        chosen[merged.kept] = False
        assert alike[chosen].min() >= alike[~chosen][24:].max()

    def test_least_alike(self):
        features = still(self.GRID, noise=0.4)
        merged = self.found(features, threshold=0.85)
        alike = torch.cosine_similarity(features, features[:, merged.kept[merged.stands]], dim=-1)[0]
        assert alike.min() >= 0.85 - 1e-6 and 0 < len(merged.kept) < 120

    def test_key_frames_are_kept(self):
        kept = set(self.found(still(self.GRID), refresh=2).kept.tolist())
        assert {*range(24), *range(48, 72), *range(96, 120)} <= kept and len(kept) == 120 - 2 * 18

    def test_important_tokens_are_kept(self):
        left_out = sorted(set(range(120)) - set(self.found(still(self.GRID)).kept.tolist()))[3:40:9]
        important = torch.zeros(120)
        important[left_out] = torch.arange(1.0, 1 + len(left_out))
        merged = self.found(still(self.GRID), important, protect=len(left_out) / 120)
        assert set(left_out) <= set(merged.kept.tolist()) and len(merged.kept) == 120 - self.MOST + len(left_out)

    def test_means(self):
        features = still(self.GRID, noise=0.3, batch=2)
        merged = self.found(features, threshold=0.5)
        for at in (0, 30, len(merged.kept) - 1):
            those = merged.stands == at
            assert torch.allclose(merged.means(features)[:, at], features[:, those].mean(1), atol=1e-6)
        alone = merged.counts == 1
        assert torch.equal(merged.means(features)[:, alone], features[:, merged.kept[alone]])


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
        run = MergeRun(MergeSettings(ratio=0.75))
        made = run.attend(Forward(grid), backend, (q, k, v, 2), dict(options))
        assert run.shares == [0.55]  # 9 of 15 in all frames but the first
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
        assert run.shares[0] < 0.5 and float((made - exact).norm() / exact.norm()) < 0.01

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
            run = MergeRun(MergeSettings(ratio=0.75))
            made = run.attend(Forward(grid, before), backend, (q, k, v, heads), options)
            exact = backend(q, k, v, heads, **options)
            assert made.shape == exact.shape
            assert float((made - exact).norm() / exact.norm()) < 0.05, (grid, before, after)

    def test_guidance_protects(self):
        grid = Grid(4, 2, 3)
        arguments = call(grid)
        run = MergeRun(MergeSettings(ratio=0.75, protect=0.25))
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
        assert run.shares[0] < 0.7
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
        run = MergeRun(MergeSettings("blocks", ratio=0.3))
        seen = []

        def spy(given):
            seen.append(given)
            return block(given)

        arguments = self.arguments(others=6)
        before = arguments["img"].clone()
        made = self.through(run, arguments, Forward(self.GRID, 6), original=spy)
        assert torch.equal(seen[0]["img"].shape[1] * torch.ones(()), torch.tensor(6.0 + 42))
        assert torch.equal(arguments["img"], before) and made.shape == before.shape
        options = dict(seen[0]["transformer_options"])
        assert len(options.pop(MERGED).numbers) == 42 and options == {"a": 1} and seen[0]["txt"] is arguments["txt"]

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

    @pytest.mark.parametrize("others", [0, 6])
    def test_in_attention_tokens_weigh_what_they_stand_for(self, others):
        """Where frames are equal nothing is lost, though attention is among fewer tokens."""
        x = torch.cat([torch.ones(1, others, 16), still(self.GRID)], 1)
        forward, run = Forward(self.GRID, others), MergeRun(MergeSettings("blocks"))

        def inside(given):
            options = {"transformer_options": given["transformer_options"]} if "transformer_options" in given else {}
            made = run.attend(forward, lambda *all_of, **_: backend(*all_of), (*(given["img"],) * 3, 2), options)
            return {"img": given["img"] + made}

        made = self.through(run, {"img": x, "transformer_options": {"a": 1}}, forward, original=inside)
        assert run.patched == 1 and run.shares[0] < 0.7
        assert torch.allclose(made, inside({"img": x})["img"], atol=1e-5)

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
        left = round(merging.shares[0] * 60)
        assert run.shares == ([pytest.approx(round(0.2 * left) / left)] if patched else [])
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
