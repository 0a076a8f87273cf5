"""What patched models are measured with: rivals do what they are called, shares of keys are equal, parts are kept."""

import argparse
import json
import math

import pytest
import torch
import torch.nn.functional as F
from benchmark_arguments import arguments
from comfyui_server import needs_comfyui, told_in_comfyui

from tokenreel.benchmarks import patching, patching_attention, patching_merging, results
from tokenreel.benchmarks.arguments import PARTS
from tokenreel.benchmarks.patching_fidelity import CHOICE, OURS, RANDOM, RASTER, WINDOW, fidelity_of, methods, summarize
from tokenreel.benchmarks.patching_forward import GRID, patches
from tokenreel.benchmarks.patching_merging import DENSE, KEYS, TOME, WEIGHTED, merging, merging_of
from tokenreel.benchmarks.patching_models import fitted, seen_share
from tokenreel.benchmarks.patching_network import Asked, asked_of_clips, comfyui_attention, dense, run_network
from tokenreel.benchmarks.patching_rivals import (
    BLOCK,
    match_tokens,
    merge_tokens,
    random_blocks,
    raster_blocks,
    uniform_merging,
)
from tokenreel.benchmarks.rounds import in_turn
from tokenreel.models import generator
from tokenreel.models.attention import Grid
from tokenreel.models.generator import GeneratorConfig, TokenGenerator
from tokenreel.models.token_guess import EXTRA


def tensors(tokens, seed=0, batch=2, heads=3, size=8):
    chance = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, heads, tokens, size, generator=chance) for _ in range(3)]


def seen(way, tokens, budget, q=None, k=None):
    """bool `[heads, N, N]`: which keys a query sees: all scores are equal, and values tell the key."""
    none = torch.zeros(1, 2, tokens, 4)
    values = torch.eye(tokens).expand(1, 2, -1, -1)
    # only what is chosen depends on q and k, as they are so small
    q, k = (none if each is None else 1e-4 * each for each in (q, k))
    return way(F.pad(q, (0, tokens - 4)), F.pad(k, (0, tokens - 4)), values, budget)[0] > 0


class TestBlocks:
    @pytest.mark.parametrize("way", [raster_blocks, random_blocks])
    @pytest.mark.parametrize("tokens", [50, 128, 231])
    def test_all_keys_are_dense(self, way, tokens):
        q, k, v = tensors(tokens)
        assert torch.allclose(way(q, k, v, tokens), F.scaled_dot_product_attention(q, k, v), atol=1e-5)

    @pytest.mark.parametrize("way", [raster_blocks, random_blocks])
    def test_each_query_sees_as_many_keys_as_asked_for_in_whole_blocks(self, way):
        found = seen(way, 231, 100)
        assert (found.sum(-1) == 100).all()
        for rows in found.split(BLOCK, 1):
            assert (rows == rows[:, :1]).all()  # queries of a block see the same
        blocks = F.pad(found, (0, 256 - 231)).unflatten(-1, (4, BLOCK)).sum(-1)
        assert {0, 36, 64} >= set(blocks.flatten().tolist()) - {231 - 3 * BLOCK, 100 - (231 - 3 * BLOCK)}

    def test_those_that_fit_are_seen(self):
        q, k = torch.zeros(1, 2, 192, 4), torch.zeros(1, 2, 192, 4)
        q[:, 0, :64, 0], k[:, 0, 128:, 0] = 1, 1  # in the first head, the first block looks for the last
        q[:, 1, 64:128, 1], k[:, 1, :64, 1] = 1, 1
        found = seen(raster_blocks, 192, 64, q, k)
        assert found[0, 0].nonzero()[:, 0].tolist() == list(range(128, 192))
        assert found[1, 70].nonzero()[:, 0].tolist() == list(range(64))

    def test_random_ones_differ_between_heads_and_seeds(self):
        first, again, other = (seen(lambda *a, s=s: random_blocks(*a, seed=s), 640, 64) for s in (0, 0, 1))
        assert torch.equal(first, again) and not torch.equal(first, other) and not torch.equal(first[0], first[1])


class TestUniformMerging:
    GRID = Grid(3, 7, 10)

    def x(self, seed=0):
        return torch.randn(2, self.GRID.tokens, 8, generator=torch.Generator().manual_seed(seed))

    def test_a_ratio_of_zero_is_the_function(self):
        x = self.x()
        assert torch.equal(uniform_merging(torch.sin, x, x, self.GRID, 0.0), torch.sin(x))

    def test_so_many_are_merged_and_none_that_is_a_target(self):
        found = match_tokens(self.x(), self.GRID, 0.5)
        assert found.targets.shape == (2, 3 * 3 * 5) and found.merged.shape == (2, 105)
        every = torch.cat([found.targets, found.single, found.merged], 1).sort(1).values
        assert torch.equal(every, torch.arange(210).expand(2, -1))
        rows, columns = found.targets[0] % 70 // 10, found.targets[0] % 10
        cells = (found.targets[0] // 70 * 3 + rows // 2) * 5 + columns // 2
        assert sorted(cells.tolist()) == list(range(45))  # one in each 2 x 2

    def test_targets_are_means_and_merged_tokens_get_what_they_get(self):
        x = self.x()
        found = match_tokens(x, self.GRID, 0.4)
        merged = merge_tokens(x, found)
        assert merged.shape == (2, 210 - 84, 8)
        into = int(found.into[1, 0])
        group = [x[1, found.targets[1, into]], *x[1, found.merged[1][found.into[1] == into]]]
        assert torch.allclose(merged[1, found.single.shape[1] + into], torch.stack(group).mean(0), atol=1e-6)
        made = uniform_merging(lambda y: y, x, x, self.GRID, 0.4)
        assert torch.equal(made[1, found.single[1]], x[1, found.single[1]])
        assert torch.allclose(made[1, found.merged[1, 0]], torch.stack(group).mean(0), atol=1e-6)

    def test_those_most_alike_are_merged_wherever_they_are(self):
        x = self.x()
        found = match_tokens(x, self.GRID, 0.1)
        source = int(found.single[0, -1])
        x[0, source] = 3 * x[0, found.targets[0, 7]]
        found = match_tokens(x, self.GRID, 0.1)
        at = (found.merged[0] == source).nonzero()
        assert len(at) == 1 and found.into[0, at[0, 0]] == 7

    def test_more_than_all_that_are_no_targets_are_refused(self):
        with pytest.raises(ValueError, match=r"^Invalid ratio 0\.9\. At most 0\.79 "):
            match_tokens(self.x(), self.GRID, 0.9)

    def test_counts_are_told_in_the_order_of_tokens(self):
        told = []

        class Entered:
            def __init__(self, counts):
                told.append(counts)

            def __enter__(self):
                told.append("in")

            def __exit__(self, *_):
                told.append("out")

        x = self.x()[:1]
        uniform_merging(lambda y: y, x, x, self.GRID, 0.5, weighing=Entered)
        counts = told[0]
        assert told[1:] == ["in", "out"] and counts.shape == (105,) and counts.sum() == 210
        assert (counts[: 210 - 45 - 105] == 1).all()


class TestShares:
    @pytest.mark.parametrize("kind", ["window", "top-k"])
    @pytest.mark.parametrize("first", [True, False])
    def test_as_many_keys_are_seen_as_asked_for_or_a_little_fewer(self, kind, first):
        settings, share = fitted(kind, 0.3, Grid(6, 16, 24), first)
        assert settings.kind == kind and settings.first_frame is first
        assert share == seen_share(settings, Grid(6, 16, 24))
        assert 0.2 < share <= 0.3 and (kind == "window" or share > 0.299)

    def test_fewer_than_a_first_frame_are_not_possible(self):
        assert fitted("top-k", 0.1, Grid(6, 16, 24), True) is None

    def test_the_benchmark_names_what_is_seen(self):
        named = {patch.name: patch for patch in patches()}
        for name, patch in named.items():
            if patch.sparse is not None and patch.merge is None:
                share = seen_share(patch.sparse, GRID)
                asked = float(name.split("%")[0].split()[-1]) / 100
                assert asked - 0.015 < share <= asked, name
        assert all(patch.merge.threshold == -1 for patch in named.values() if patch.merge)

    def test_all_that_is_compared_sees_the_same(self):
        found = methods(Grid(6, 16, 24), 0.3)
        assert {OURS, CHOICE, WINDOW, RASTER, RANDOM} <= set(found)
        for name, method in found.items():
            assert (0.2 if name == WINDOW else 0.299) < method.density <= 0.301, name


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    config = GeneratorConfig(levels=(4, 3), width=16, depth=2, heads=2, digit_width=8, pattern=("full",))
    return TokenGenerator(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def asked():
    chance = torch.Generator().manual_seed(1)
    shape = (1, 5, 16, 16)
    known = torch.zeros(shape, dtype=torch.bool)
    known[:, 0] = known[:, -1] = True
    told = torch.rand(*shape, 2 + EXTRA, generator=chance)
    return Asked("clip", torch.randint(12, shape, generator=chance), known, told)


class TestNetwork:
    def test_attention_is_replaced_and_put_back(self, net, asked):
        before = generator.attention
        exact = run_network(net, asked)
        assert torch.equal(run_network(net, asked, dense).logits, exact.logits)
        nothing = run_network(net, asked, lambda q, k, v, grid, **options: torch.zeros_like(v))
        assert not torch.equal(nothing.logits, exact.logits) and generator.attention is before
        assert exact.bits.shape == (3 * 256,) and exact.logits.shape == (3 * 256, 4 + 3)
        assert torch.allclose(exact.bits, net.bits(asked.tokens, asked.known, asked.guess)[~asked.known])

        def wrong(*_, **__):
            raise RuntimeError("wrong")

        with pytest.raises(RuntimeError, match="wrong"):
            run_network(net, asked, wrong)
        assert generator.attention is before

    @pytest.mark.parametrize(
        "layout", [{}, {"skip_reshape": True}, {"skip_reshape": True, "skip_output_reshape": True}]
    )
    def test_attention_with_the_signature_of_comfyui(self, layout):
        q, k, v = tensors(12)
        exact = F.scaled_dot_product_attention(q, k, v)
        given = (q, k, v) if layout else tuple(x.transpose(1, 2).flatten(2) for x in (q, k, v))
        made = comfyui_attention(*given, 3, **layout)
        assert torch.allclose(made, exact if len(layout) == 2 else exact.transpose(1, 2).flatten(2))

    def test_clips_are_asked_for_seven_frames_between_two(self, tmp_path):
        from fractions import Fraction

        from tokenreel.video.reel import render
        from tokenreel.video.writer import VideoWriter

        reel = render(64, 64, 24, 0.5)
        for name, count in (("long.mp4", 10), ("short.mp4", 5)):
            with VideoWriter(tmp_path / name, width=64, height=64, frame_rate=Fraction(24), crf=8) as writer:
                writer.write(next(reel.chunks(count)))
        told = []
        args = argparse.Namespace(clips=str(tmp_path), limit=None, frames=10)
        found = list(asked_of_clips(args, told.append, side=32))
        assert [each.name for each in found] == ["long.mp4"] and found[0].tokens.shape == (1, 9, 4, 4)
        assert found[0].known.flatten(2).all(-1).tolist() == [[True, *[False] * 7, True]]
        assert told == ["  short.mp4: left out, too few frames in a row without a change of shot"]


class TestFidelity:
    def test_errors_grow_with_what_is_not_seen(self, net, asked):
        found = fidelity_of(net, asked, (0.25, 1.0))["densities"]
        for name in (RASTER, RANDOM):
            assert max(found["1.0"][name]["layers"]) < 1e-5 and abs(found["1.0"][name]["more_bits"]) < 1e-5
            assert min(found["0.25"][name]["layers"]) > 1e-3 and found["0.25"][name]["logits"] > 1e-5
        assert set(found["0.25"]) >= {OURS, CHOICE, RASTER, RANDOM}
        assert all(len(each["layers"]) == 2 for each in found["0.25"].values())

    def test_summary(self):
        def row(ours, raster):
            each = {"density": 0.2, "logits": 0.1, "more_bits": 0.5}
            return {
                "bits": 4.0,
                "densities": {"0.2": {OURS: {**each, "layers": ours}, RASTER: {**each, "layers": raster}}},
            }

        found = summarize([row([0.1, 0.3], [0.2, 0.4]), row([0.3, 0.5], [0.1, 0.1])])
        assert found["densities"]["0.2"][OURS]["layers"] == pytest.approx([0.2, 0.4])
        assert found["against_raster"]["0.2"] == pytest.approx({"attention": 1.5, "logits": 1.0, "clips_below": 1})
        with pytest.raises(ValueError, match=r"^Nothing can be said"):
            summarize([row([math.nan], [0.2])])


class TestMerging:
    def test_every_way_leaves_out_as_many(self, net, asked):
        found = merging_of(net, asked)["methods"]
        assert found[DENSE]["seconds"] > 0
        for name in (patching_merging.OURS, KEYS, TOME, WEIGHTED):
            assert found[name]["tokens"] == pytest.approx(0.5) and len(found[name]["layers"]) == 2
            assert min(found[name]["layers"]) > 0 and 0 < found[name]["logits"] < 1

    def test_nothing_merged_is_dense(self, net, asked):
        found = merging_of(net, asked, ratio=0.0)["methods"]
        for name in (patching_merging.OURS, KEYS, TOME, WEIGHTED):
            assert found[name]["layers"] == pytest.approx([0, 0], abs=1e-6) and abs(found[name]["more_bits"]) < 1e-6

    def test_layers_are_replaced_and_put_back(self, net, asked):
        before = [block.parts[1] for block in net.blocks]
        exact = run_network(net, asked).logits
        with merging(net, lambda number, layer, x: layer(x)):
            assert all(block.parts[1] is not layer for block, layer in zip(net.blocks, before, strict=True))
            assert torch.allclose(run_network(net, asked).logits, exact, atol=1e-5)
        assert all(block.parts[1] is layer for block, layer in zip(net.blocks, before, strict=True))


def test_ways_are_timed_in_turn_after_a_round_that_warms_up():
    done = []
    found = in_turn({name: lambda name=name: done.append(name) for name in "ab"}, 2)
    assert done == ["a", "b"] * 3 and list(found) == ["a", "b"]
    assert all(len(each) == 2 and min(each) > 0 for each in found.values())


class TestAttentionAlone:
    def test_times(self):
        found = patching_attention.time_attention(Grid(8, 16, 24), 2, 16, torch.device("cpu"), torch.float32, 1)
        assert found["tokens"] == 3072 and found["fastest"] == "dense"
        ways = {way["way"]: way for way in found["ways"]}
        assert ways["dense"]["speedup"] == 1 and len(ways) > 1
        for name, way in ways.items():
            assert way["seconds"] > 0 and (way["density"] == 1) == (name == "dense")

    def test_kernels_that_do_not_work_or_are_wrong_are_left_out(self):
        def fails(q, k, v):
            raise RuntimeError("no such kernel")

        q = torch.randn(1, 1, 8, 4)
        assert patching_attention._works(F.scaled_dot_product_attention, q, q)
        assert not patching_attention._works(fails, q, q)
        assert not patching_attention._works(lambda q, k, v: v * 2, q, q)

    def test_without_a_gpu_it_is_left_out(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        told = []
        assert patching_attention.measure_attention(None, told.append) is None
        assert told == ["  left out: there is no CUDA device"]

    @pytest.mark.gpu
    def test_on_a_gpu(self):
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        found = patching_attention.time_attention(Grid(8, 32, 32), 2, 128, torch.device("cuda"), torch.bfloat16, 1)
        assert found["fastest"] in ("flash", "cuDNN", "efficient") and len(found["ways"]) > 3


class TestParts:
    def test_what_is_not_measured_is_kept_and_what_lacks_comfyui_left_out(self, monkeypatch, tmp_path):
        (tmp_path / "patching.json").write_text(json.dumps({"fidelity": {"old": 1}, "exact": {"old": 2}, "date": "?"}))
        monkeypatch.setattr(results, "RESULTS", tmp_path)
        monkeypatch.setattr(results, "read_result", lambda name: json.loads((tmp_path / f"{name}.json").read_text()))

        def lacks(*_):
            raise ImportError("No module named 'comfy'")

        monkeypatch.setattr(patching, "measure_exact", lacks)
        monkeypatch.setattr(patching, "measure_forward", lambda rounds, limit, tell: {"rounds": rounds, "limit": limit})
        monkeypatch.setattr(patching, "measure_attention", lambda rounds, tell: None)
        told = []
        found = patching.measure_patching(arguments("patching", "--rounds", 3, "--limit", 2), told.append)
        assert list(found.pop("weights")) == ["generator_full"]
        assert found == {"fidelity": {"old": 1}, "exact": {"old": 2}, "forward": {"rounds": 3, "limit": 2}}
        assert told[0] == " exact" and told[1].startswith("  left out: ComfyUI cannot be imported (No module named")
        assert told[2:] == [" forward", " attention"]

    def test_parts_are_those_that_are_made(self):
        assert PARTS["patching"] == ("exact", "forward", "fidelity", "merging", "attention")
        with pytest.raises(ValueError, match="needs a folder"):
            patching.measure_patching(arguments("patching", "--parts", "fidelity"), print)


SCRIPT = """
import json
from tokenreel.benchmarks.patching_exact import cases, try_families, try_grids
from tokenreel.benchmarks.patching_forward import time_forwards
from tokenreel.benchmarks.patching_models import Patch
from tokenreel.models.attention import Grid
from tokenreel.models.sparse_patch import SparseSettings
from tokenreel.models.token_merging import MergeSettings
chosen = [Patch("window", SparseSettings("window", 0.2)), Patch("keys", merge=MergeSettings("keys", 0.5, -1)),
          Patch("both", SparseSettings("window", 0.2), MergeSettings("blocks", 0.5, -1))]
sizes = dict(dim=32, num_heads=2, ffn_dim=64, num_layers=2)
print(json.dumps([try_families(2), len(cases()), try_grids(cases()[:20]),
                  time_forwards(sizes, 1, Grid(5, 16, 16), 1, chosen)]))
"""


@pytest.fixture(scope="module")
def found():
    return told_in_comfyui(SCRIPT, timeout=300)


@needs_comfyui
@pytest.mark.comfyui
class TestInComfyUI:
    def test_families(self, found):
        assert list(found[0]) == ["wan", "wan5b", "ltxv", "hunyuan", "cosmos", "cosmos2"]
        for name, row in found[0].items():
            assert row["difference"] == 0.0 and row["kept"] and row["changed"] > 0 and row["spread"] > 0.1, name

    def test_grids(self, found):
        assert found[1] >= 200
        assert found[2]["cases"] == 20 and found[2]["errors"] == [] and found[2]["difference"] == 0.0
        assert found[2]["calls"]["patched"] > 100

    def test_forwards(self, found):
        forward = found[3]
        rows = {row["patch"]: row for row in forward["rows"]}
        assert next(iter(rows)) == "dense" and rows["dense"]["speedup"] == 1 and len(rows) == 5
        assert 0 < forward["attention"] < 1 and 0 < forward["attention_to_text"] < 1
        assert rows["keys"]["work"] == [0.5] and rows["keys"]["dense_calls"] == [{}]
        window, blocks = rows["both"]["work"]
        assert blocks == 0.5 and window < 1 and rows["both"]["dense_calls"] == [{}, {}]
