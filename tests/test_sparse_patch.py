"""Sparse attention in models of others: exact where it must be, what it is said to see elsewhere, on any grid."""

import logging
import random

import pytest
import torch

from tokenreel.models.attention import Grid
from tokenreel.models.attention_calls import MERGED, Forward, Gate, Kept, Place
from tokenreel.models.sparse_patch import SPARSE_KINDS, SparseRun, SparseSettings
from tokenreel.models.token_tiles import tile_for_choice

CHOOSING = ("window", "top-k")


def backend(q, k, v, heads, mask=None, attn_precision=None, skip_reshape=False, skip_output_reshape=False, **others):
    """Attention as ComfyUI's functions have it."""
    assert set(others) <= {"transformer_options", "_inside_attn_wrapper", "low_precision_attention", "scale"}
    if not skip_reshape:
        q, k, v = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (q, k, v))
    assert q.shape[1] == heads
    if mask is not None and mask.ndim == 3:
        mask = mask[:, None]
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=others.get("scale"))
    return out if skip_output_reshape else out.transpose(1, 2).flatten(2)


def scaled(q, k, v, heads, scale=None):
    """As `backend`, with a scale of its own."""
    q, k, v = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).flatten(2)


def rows(tokens, heads=2, size=8, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, tokens, heads * size, generator=generator) for _ in range(3)]


def by_heads(x, heads=2):
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def seen_by(run, forward, tokens):
    """bool `[N, N]`: which keys each query sees, read off values that are numbers of tokens."""
    q = torch.zeros(1, tokens, tokens)
    return run.attend(forward, backend, (q, q, torch.eye(tokens)[None], 1), {})[0] > 0


class TestExact:
    @pytest.mark.parametrize("grid", [(1, 5, 7), (4, 6, 6), (5, 7, 11)])
    @pytest.mark.parametrize("others", [(0, 0), (3, 0), (0, 5), (2, 4)])
    @pytest.mark.parametrize("settings", [{"window": (99, 99, 99)}, {"density": 1.0}, {"kind": "top-k", "density": 1}])
    def test_where_everything_is_seen_nothing_changes(self, grid, others, settings):
        before, after = others
        tokens = before + after + Grid(*grid).tokens
        run = SparseRun(SparseSettings(**settings))
        arguments = (*rows(tokens, batch=2), 2)
        made = run.attend(Forward(Grid(*grid), before), backend, arguments, {})
        assert torch.equal(made, backend(*arguments))
        assert run.report().startswith("0 of 1 calls patched, 100% of the work")

    @pytest.mark.parametrize("first_frame", [True, False])
    @pytest.mark.parametrize("kind", CHOOSING)
    def test_each_query_sees_what_it_is_said_to(self, kind, first_frame):
        grid, before, after = Grid(6, 6, 7), 2, 3
        tokens = before + grid.tokens + after
        sizes = {"window": (2, 3, 4), "tile": (2, 3, 3), "cube": (2, 2, 2)}
        settings = SparseSettings(kind, 0.2, first_frame=first_frame, summary=False, **sizes)
        run = SparseRun(settings)
        seen = seen_by(run, Forward(grid, before), tokens)
        video = slice(before, before + grid.tokens)
        others = [*range(before), *range(tokens - after, tokens)]
        assert seen[:, others].all() and seen[others].all()
        if first_frame:
            assert seen[:, before : before + 42].all()
        assert len(set(seen[video].sum(1).tolist())) == 1  # as many for all
        assert run.shares[0] == pytest.approx(float(seen.float().mean()))
        if kind == "window":
            places = torch.cartesian_prod(*(torch.arange(side) for side in grid))
            around = slice(42 * first_frame, None)
            for query, keys in zip(places, seen[video, video][:, around], strict=True):
                box = places[around][keys]
                low, high = box.amin(0), box.amax(0)
                assert (high - low + 1).tolist() == [2, 3, 4] and int(keys.sum()) == 24  # a box without holes
                assert (query - query.clamp(low, high)).abs().max() <= 1

    @pytest.mark.parametrize("kind", CHOOSING)
    def test_it_is_softmax_over_what_is_seen(self, kind):
        grid, before = Grid(4, 5, 6), 3
        tokens = grid.tokens + before
        run = SparseRun(SparseSettings(kind, 0.3, tile=(2, 2, 3), cube=(2, 2, 2), summary=False))
        q, k, v = rows(tokens, heads=1, size=tokens)
        weights = run.attend(Forward(grid, before), backend, (q, k, torch.eye(tokens)[None], 1), {})
        made = run.attend(Forward(grid, before), backend, (q, k, v, 1), {})
        assert run.patched == 2
        assert torch.allclose(made, backend(q, k, v, 1, mask=weights > 0), atol=1e-5)


class TestWhatIsLeft:
    """Tokens of the grid were left out before: what is seen is of those that are left."""

    GRID, BEFORE, AFTER = Grid(5, 6, 7), 2, 3

    def left(self, queries):
        chance = torch.Generator().manual_seed(0)
        kept = torch.rand(self.GRID.tokens, generator=chance) < 0.5
        kept[:42] = True  # the first frame
        return Kept(kept.nonzero()[:, 0], queries)

    def seen(self, settings, left):
        count = len(left.numbers) + self.BEFORE + self.AFTER
        asking = count if left.queries else self.GRID.tokens + self.BEFORE + self.AFTER
        run = SparseRun(settings)
        q, k, v = torch.zeros(1, asking, count), torch.zeros(1, count, count), torch.eye(count)[None]
        options = {"transformer_options": {MERGED: left}}
        return run, run.attend(Forward(self.GRID, self.BEFORE), backend, (q, k, v, 1), options)[0] > 0

    @pytest.mark.parametrize("queries", [True, False])
    @pytest.mark.parametrize("first_frame", [True, False])
    @pytest.mark.parametrize("kind", CHOOSING)
    def test_as_many_for_all_and_all_of_the_others(self, kind, first_frame, queries):
        left = self.left(queries)
        settings = SparseSettings(kind, 0.2, tile=(2, 2, 3), cube=(1, 2, 3), first_frame=first_frame)
        run, seen = self.seen(settings, left)
        count = len(left.numbers)
        outside = [*range(self.BEFORE), *range(self.BEFORE + count, seen.shape[1])]
        assert seen[:, outside].all()
        assert not first_frame or seen[:, self.BEFORE : self.BEFORE + 42].all()
        asking = seen[self.BEFORE : len(seen) - self.AFTER]
        body = count - 42 * first_frame
        assert set(asking.sum(1).tolist()) == {round(0.2 * body) + 5 + 42 * first_frame}
        assert seen[: self.BEFORE].all() and seen[len(seen) - self.AFTER :].all()
        assert run.shares == [pytest.approx(float(seen.float().mean()))]

    @pytest.mark.parametrize("queries", [True, False])
    def test_a_window_is_what_is_nearest(self, queries):
        left = self.left(queries)
        _, seen = self.seen(SparseSettings("window", 0.25, tile=(1, 1, 1), first_frame=False), left)
        places = torch.cartesian_prod(*(torch.arange(side) for side in self.GRID)).float()
        keys = places[left.numbers]
        asking = keys if queries else places
        sides = torch.tensor([-(-side * 0.25 ** (1 / 3) // 1) for side in self.GRID])
        away = ((asking[:, None] - keys).abs() / sides).amax(-1)
        near = seen[self.BEFORE : self.BEFORE + len(asking), self.BEFORE : self.BEFORE + len(keys)]
        farthest = torch.where(near, away, -1.0).amax(1)
        assert (torch.where(near, torch.inf, away).amin(1) >= farthest).all()

    @pytest.mark.parametrize("kind", CHOOSING)
    def test_where_everything_is_seen_nothing_changes(self, kind):
        left = self.left(True)
        run, seen = self.seen(SparseSettings(kind, 1.0), left)
        assert seen.all() and not run.patched

    def test_a_tile_sees_itself(self):
        left = self.left(True)
        settings = SparseSettings("top-k", 0.5, tile=(2, 3, 3), cube=(1, 2, 3), first_frame=False, summary=False)
        _, seen = self.seen(settings, left)
        assert seen.diagonal().all()


class TestChoice:
    def test_the_cubes_that_matter_are_found(self):
        """Where each query fits the keys of one cube far from it, top-k has next to no error, a window a large one."""
        grid = Grid(4, 8, 8)
        t, h, w = torch.meshgrid(*(torch.arange(side) for side in grid), indexing="ij")
        tile = (t // 2 * 4 + h // 4 * 2 + w // 4).flatten()
        keys = 12 * torch.nn.functional.one_hot(tile, 8).float()[None]
        queries = 12 * torch.nn.functional.one_hot(7 - tile, 8).float()[None]
        values = torch.randn(1, grid.tokens, 8, generator=torch.Generator().manual_seed(0))
        exact = backend(queries, keys, values, 1)
        errors = {}
        for kind in CHOOSING:
            run = SparseRun(SparseSettings(kind, 0.3, tile=(2, 4, 4), cube=(2, 4, 4), first_frame=False))
            errors[kind] = float((run.attend(Forward(grid), backend, (queries, keys, values, 1), {}) - exact).norm())
        assert errors["top-k"] < 1e-3 * float(exact.norm()) and errors["window"] > 0.3 * float(exact.norm())

    def summed(self, arguments, grid, density=0.3, options=None, **settings):
        asked = {"tile": (2, 4, 4), "cube": (2, 2, 2), "first_frame": False, **settings}
        run = SparseRun(SparseSettings("top-k", density, **asked))
        return run, run.attend(Forward(grid, 3), backend, arguments, options or {})

    @pytest.mark.parametrize("grid", [(4, 8, 8), (5, 7, 9)])
    @pytest.mark.parametrize("options", [{}, {"scale": 0.7}])
    def test_where_cubes_are_even_nothing_is_lost(self, grid, options):
        """Keys and values that are the same all over each cube are summed up without an error."""
        grid = Grid(*grid)
        q, k, v = rows(grid.tokens + 3, batch=2)
        tiling = tile_for_choice(Place(grid, 3, 0), (2, 4, 4), (2, 2, 2), density=0.3, first_frame=False)
        for cube, size in zip(tiling.cubes.tokens, tiling.cubes.sizes, strict=True):
            for each in (k, v):
                each[:, cube[:size]] = each[:, cube[:1]]
        exact = scaled(q, k, v, 2, **options)
        run, made = self.summed((q, k, v, 2), grid, options=options)
        assert torch.allclose(made, exact, atol=2e-6) and run.density < 0.4
        _, cut = self.summed((q, k, v, 2), grid, options=options, summary=False)
        assert float((cut - exact).norm() / exact.norm()) > 0.1

    def test_where_the_queries_of_a_tile_are_equal_nothing_is_lost(self):
        """What stands for a cube is made for the mean query, for which it is exact, whatever its keys and values."""
        grid = Grid(4, 8, 8)
        q, k, v = rows(grid.tokens + 3, batch=2)
        tiling = tile_for_choice(Place(grid, 3, 0), (2, 4, 4), (2, 2, 2), density=0.3, first_frame=False)
        for tile in tiling.tiles[0].queries:
            q[:, tile] = 3 * q[:, tile[:1]]
        run, made = self.summed((q, k, v, 2), grid)
        exact = backend(q, k, v, 2)
        assert run.density < 0.4 and torch.allclose(made, exact, atol=5e-6)

    def test_a_summary_is_nearer_at_the_same_cost(self):
        grid = Grid(4, 8, 8)
        arguments = (*rows(grid.tokens + 3, heads=2), 2)
        exact, found = backend(*arguments), {}
        for summary in (True, False):
            run, made = self.summed(arguments, grid, 0.4, summary=summary)
            found[summary] = run.density, float((made - exact).norm() / exact.norm())
        assert found[True][0] == pytest.approx(found[False][0]) and found[True][1] < 0.7 * found[False][1]

    def test_what_is_hidden_is_not_summed_up(self):
        grid = Grid(4, 8, 8)
        q, k, v = rows(grid.tokens + 3, heads=2)
        mask = torch.ones(1, 1, grid.tokens + 3, dtype=torch.bool)
        mask[..., 100:200] = False
        run = SparseRun(SparseSettings("top-k", 0.3, tile=(2, 4, 4), cube=(2, 2, 2)))
        made = run.attend(Forward(grid, 3), backend, (q, k, v, 2, mask), {})
        loud = v.clone()
        loud[:, 100:200] = 1e3
        loud = run.attend(Forward(grid, 3), backend, (q, k, loud, 2, mask), {})
        assert run.patched == 2 and torch.allclose(made, loud, atol=1e-5)

    @pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
    def test_summaries_in_16_bits(self, kind):
        grid = Grid(4, 8, 8)
        exact = rows(grid.tokens + 3, heads=2)
        _, wide = self.summed((*exact, 2), grid)
        _, made = self.summed((*(each.to(kind) for each in exact), 2), grid)
        assert made.dtype == kind
        assert float((made.float() - wide).norm() / wide.norm()) < 0.1

    def test_where_too_few_were_left_nothing_is_summed_up(self):
        grid = Grid(4, 8, 8)
        arguments = (*rows(grid.tokens + 3), 2)
        one, two = (self.summed(arguments, grid, 0.14, summary=summary) for summary in (True, False))
        assert torch.equal(one[1], two[1]) and one[0].density == two[0].density

    def test_each_head_chooses_for_itself(self):
        grid = Grid(4, 6, 6)
        settings = SparseSettings("top-k", 0.2, tile=(2, 3, 3), cube=(2, 2, 2))
        q, k, v = rows(grid.tokens, heads=2)
        both = SparseRun(settings).attend(Forward(grid), backend, (q, k, v, 2), {})
        for head, some in ((0, slice(0, 8)), (1, slice(8, 16))):
            arguments = (q[..., some], k[..., some], v[..., some], 1)
            alone = SparseRun(settings).attend(Forward(grid), backend, arguments, {})
            assert torch.allclose(both[..., some], alone, atol=1e-6), head

    @pytest.mark.parametrize("kind", CHOOSING)
    def test_more_keys_are_nearer_to_all(self, kind):
        grid = Grid(4, 8, 8)
        arguments = (*rows(grid.tokens, seed=3), 2)
        exact, errors = backend(*arguments), []
        for share in (0.1, 0.4, 0.9):
            made = SparseRun(SparseSettings(kind, share)).attend(Forward(grid), backend, arguments, {})
            errors.append(float((made - exact).norm()))
        assert errors == sorted(errors, reverse=True)


class TestShapes:
    def test_grids_of_any_size_with_tokens_around(self):
        """Odd and prime sides, references, text, masks, batches, both layouts."""
        chance = random.Random(0)
        for number in range(240):
            grid = Grid(chance.choice((1, 2, 3, 5, 8)), chance.choice((1, 3, 7, 9)), chance.choice((2, 5, 11)))
            before, after = chance.choice((0, 0, 1, 7)), chance.choice((0, 0, 1, 13))
            heads, size, batch = chance.choice((1, 2, 3)), chance.choice((4, 8)), chance.choice((1, 2))
            tokens = before + grid.tokens + after
            tensors = rows(tokens, heads, size, batch, seed=number)
            options = {}
            if chance.random() < 0.5:
                tensors = [by_heads(each, heads) for each in tensors]
                options = {"skip_reshape": True, "skip_output_reshape": chance.random() < 0.5}
            if chance.random() < 0.4:
                hidden = torch.zeros(chance.choice((1, batch)), 1, tokens)
                hidden[..., : before // 2] = -1e9
                options["mask"] = hidden[:, None] if chance.random() < 0.5 else hidden
            settings = SparseSettings(
                chance.choice(CHOOSING),
                chance.choice((0.05, 0.2, 0.5)),
                tile=(chance.choice((1, 2, 4)), chance.choice((2, 4, 8)), 4),
                cube=(chance.choice((1, 2)), 2, chance.choice((2, 4))),
                first_frame=chance.random() < 0.5,
            )
            run = SparseRun(settings)
            made = run.attend(Forward(grid, before), backend, (*tensors, heads), dict(options))
            exact = backend(*tensors, heads, **options)
            assert made.shape == exact.shape and torch.isfinite(made).all(), (grid, settings)
            outside = [*range(before), *range(tokens - after, tokens)]
            assert torch.allclose(made[..., outside, :], exact[..., outside, :], atol=1e-5)

    @pytest.mark.parametrize("kind", SPARSE_KINDS)
    def test_layouts_give_the_same(self, kind):
        grid = Grid(3, 6, 5)
        q, k, v = rows(grid.tokens, batch=2)
        run = SparseRun(SparseSettings(kind, 0.3, tile=(2, 3, 3)))
        flat = run.attend(Forward(grid), backend, (q, k, v, 2), {})
        tensors = [by_heads(each) for each in (q, k, v)]
        apart = run.attend(Forward(grid), backend, (*tensors, 2), {"skip_reshape": True, "skip_output_reshape": True})
        assert torch.allclose(apart.transpose(1, 2).flatten(2), flat, atol=1e-5)

    def test_hidden_keys_stay_hidden(self):
        grid, before = Grid(4, 6, 6), 6
        tokens = grid.tokens + before
        q, k, v = rows(tokens)
        hidden = torch.zeros(1, 1, tokens)
        hidden[..., :4] = -torch.inf
        for kind in CHOOSING:
            run = SparseRun(SparseSettings(kind, 0.3))
            first = run.attend(Forward(grid, before), backend, (q, k, v, 2), {"mask": hidden})
            louder = v.clone()
            louder[:, :4] += 100
            assert torch.allclose(
                run.attend(Forward(grid, before), backend, (q, k, louder, 2), {"mask": hidden}), first
            )


class TestDense:
    GRID = Grid(3, 6, 6)

    def tensors(self, tokens=None):
        return (*rows(tokens or self.GRID.tokens), 2)

    def ran(self, forward, arguments, options=None, gate=None, caplog=None):
        run = SparseRun(SparseSettings(density=0.2, tile=(1, 3, 3)), gate)
        with caplog.at_level(logging.INFO, "tokenreel"):
            for _ in range(3):
                patched = run.patched
                made = run.attend(forward, backend, arguments, dict(options or {}))
                plain = {name: value for name, value in (options or {}).items() if name != "transformer_options"}
                assert torch.equal(made, backend(*arguments, **plain)) == (run.patched == patched)
        return run, [record.message for record in caplog.records]

    @pytest.mark.parametrize(
        "gate, forward, reason",
        [
            (Gate(least_tokens=109), Forward(GRID), "fewer than 109 tokens"),
            (Gate(first_sigma=0.9), Forward(GRID, sigma=0.95), "steps that were to stay dense"),
            (Gate(last_sigma=0.2), Forward(GRID, sigma=0.1), "steps that were to stay dense"),
            (Gate(first_blocks=3), Forward(GRID, blocks=9), "blocks that were to stay dense"),
            (Gate(last_blocks=9), Forward(GRID, blocks=9), "blocks that were to stay dense"),
        ],
    )
    def test_gates(self, gate, forward, reason, caplog):
        run, lines = self.ran(forward, self.tensors(), gate=gate, caplog=caplog)
        assert run.patched == 0 and lines == [f"Efficient Attention: runs dense: {reason}."]

    def test_blocks_are_counted_or_told(self, caplog):
        gate = Gate(first_blocks=1, last_blocks=1)
        run, _ = self.ran(Forward(self.GRID, blocks=3), self.tensors(), gate=gate, caplog=caplog)
        assert run.patched == 1
        told = {"transformer_options": {"block_index": 0, "block_type": "single"}}
        run, _ = self.ran(Forward(self.GRID, doubles=2, blocks=4), self.tensors(), told, gate, caplog)
        assert run.patched == 3
        run, _ = self.ran(Forward(self.GRID, doubles=3, blocks=4), self.tensors(), told, gate, caplog)
        assert run.patched == 0

    def test_what_cannot_be_answered_is_said_once(self, caplog):
        mask = {"mask": torch.zeros(1, 1, 108, 108)}
        run, lines = self.ran(Forward(self.GRID), self.tensors(), mask, caplog=caplog)
        assert run.dense == {"a mask hides other keys from each query": 3} and len(lines) == 1
        caplog.clear()
        _, lines = self.ran(Forward(self.GRID, -1), self.tensors(110), caplog=caplog)
        assert len(lines) == 1 and "order that is not known" in lines[0]
        caplog.clear()
        q, k, v = rows(120)
        _, lines = self.ran(Forward(self.GRID), (q[:, :108], k, v, 2), caplog=caplog)
        assert lines == ["Efficient Attention: runs dense: queries and keys are different tokens."]

    def test_calls_about_other_tokens_are_none_of_ours(self, caplog):
        q, k, v = rows(108)
        for arguments in ((q, k[:, :9], v[:, :9], 2), (q[:, :9], k[:, :9], v[:, :9], 2)):
            run, lines = self.ran(Forward(self.GRID), arguments, caplog=caplog)
            assert not run.patched and not run.dense and not lines
        run, lines = self.ran(
            Forward(self.GRID, None, frozenset({200})), self.tensors(200), caplog=caplog
        )  # text refined alone
        assert not run.patched and not run.dense and not lines
        run, _ = self.ran(Forward(None), self.tensors(), caplog=caplog)
        assert run.report() == "no call of attention about a video came by; another patch may have taken its place"

    def test_the_report_counts(self, caplog):
        run, _ = self.ran(Forward(self.GRID, blocks=3), self.tensors(), gate=Gate(first_blocks=1), caplog=caplog)
        assert run.report().startswith("2 of 3 calls patched, ")
        assert run.report().endswith("(1 dense: blocks that were to stay dense)")
        assert run.density == pytest.approx((1 + sum(run.shares)) / 3)


class TestSettings:
    @pytest.mark.parametrize(
        "wrong", [{"kind": "none"}, {"density": 0}, {"density": 1.1}, {"tile": (0, 1, 1)}, {"window": (1, 1, 0)}]
    )
    def test_wrong_ones_are_refused(self, wrong):
        with pytest.raises(ValueError, match=r"^(Unknown|Invalid) "):
            SparseSettings(**wrong)

    def test_options_reach_the_backend(self):
        grid, given = Grid(3, 4, 4), []

        def spy(*arguments, **options):
            given.append(options)
            return backend(*arguments, **{name: value for name, value in options.items() if name != "low"})

        options = {
            "attn_precision": torch.float32,
            "skip_reshape": False,
            "low": False,
            "transformer_options": {"a": 1},
        }
        SparseRun(SparseSettings(density=0.1, tile=(1, 2, 2))).attend(Forward(grid), spy, (*rows(48), 2), options)
        kept = {"attn_precision": torch.float32, "low": False, "transformer_options": {"a": 1}}
        assert given and all(each == kept for each in given)
