"""FlexAttention in place of tiles: the same function on any grid, and tiles wherever it does not do."""

import functools
import json
import logging
import shutil

import pytest
import torch
from comfyui_models import RANDOM_MODELS
from comfyui_server import LOAD_CHECKOUT, needs_comfyui, run_in_comfyui
from torch.nn.attention.flex_attention import flex_attention

from tokenreel.models import flex_windows
from tokenreel.models.attention import Grid
from tokenreel.models.attention_calls import AttentionCall, Forward, Kept, Place
from tokenreel.models.flex_windows import BLOCK, FlexWindows, windows_by_flex
from tokenreel.models.sparse_patch import SparseRun, SparseSettings
from tokenreel.models.token_tiles import tile_for_windows

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
needs_compiler = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")


@pytest.fixture(autouse=True)
def nothing_kept():
    flex_windows._KEPT.clear()
    yield
    flex_windows._KEPT.clear()


@pytest.fixture
def uncompiled(monkeypatch):
    """FlexAttention as torch has it without a compiler, and how often it was asked for."""
    made = []

    def kernel():
        made.append(1)
        return lambda q, k, v, blocks, scale: flex_attention(q, k, v, block_mask=blocks, scale=scale)

    monkeypatch.setattr(flex_windows, "_compiled", kernel)
    return made


def backend(q, k, v, heads, mask=None, scale=None, **others):
    q, k, v = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (q, k, v))
    mask = mask if mask is None or mask.ndim == 4 else mask[:, None]
    made = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return made.transpose(1, 2).flatten(2)


def in_both_layouts(q, k, v, heads, skip_reshape=False, skip_output_reshape=False, **others):
    q, k, v = ((each.transpose(1, 2).flatten(2) if skip_reshape else each) for each in (q, k, v))
    made = backend(q, k, v, heads, **others)
    return made.unflatten(-1, (heads, -1)).transpose(1, 2) if skip_output_reshape else made


def windows_of(place, tile=(2, 3, 4), density=0.2, window=None, first_frame=True):
    tiling = tile_for_windows(place, tile, density=density, window=window, first_frame=first_frame)
    return [(tiles.queries, tiles.keys) for tiles in tiling.tiles], tiling.sinks


def video_of(place):
    return slice(place.before, place.before + place.grid.tokens)


def by_table(call, place, windows):
    """What tiles give, by one call with a mask."""
    sees = torch.zeros(place.tokens, place.tokens, dtype=torch.bool)
    for queries, keys in windows:
        for some, seen in zip(queries, keys, strict=True):
            sees[some[:, None], seen] = True
    q, k, v = call.rows()
    some = video_of(place)
    return call.part(q[:, some], k, v, call.heads, sees[None, some])


def call_of(tokens, heads=2, size=16, batch=1, dtype=torch.float32, **options):
    chance = torch.Generator().manual_seed(tokens)
    q, k, v = (torch.randn(batch, tokens, heads * size, generator=chance).to(dtype) for _ in range(3))
    return AttentionCall(backend, (q, k, v, heads), options)


class TestTheSame:
    @pytest.mark.parametrize(
        "grid, around, options",
        [
            ((5, 7, 11), (0, 0), {}),
            ((5, 7, 11), (3, 9), {"first_frame": False}),
            ((1, 13, 17), (0, 5), {"tile": (1, 4, 4)}),
            ((6, 8, 8), (130, 0), {"window": (2, 5, 8)}),  # a whole block of others, windows as wide as the grid
            ((8, 4, 4), (0, 0), {"density": 0.6}),
            ((9, 2, 3), (0, 1), {"tile": (1, 1, 1), "window": (3, 2, 1)}),
        ],
    )
    def test_on_any_grid(self, uncompiled, grid, around, options):
        place = Place(Grid(*grid), *around)
        windows, sinks = windows_of(place, **options)
        call = call_of(place.tokens, batch=2, scale=0.3)
        made = FlexWindows(windows, sinks, place)(*call.by_heads(), call.scale).transpose(1, 2).flatten(2)
        wanted = by_table(call, place, windows)
        assert torch.allclose(made[:, video_of(place)], wanted, atol=2e-6)
        assert uncompiled == [1]

    def test_blocks_are_those_of_the_table(self):
        """None that is seen is left out, none that is hidden in part is called whole; most others are left out."""
        place = Place(Grid(9, 18, 24), 2, 5)
        windows, sinks = windows_of(place, (3, 6, 8), 0.15)
        flex = FlexWindows(windows, sinks, place)
        sees = torch.zeros(place.tokens, place.tokens, dtype=torch.bool)
        for queries, keys in windows:
            for some, seen in zip(queries, keys, strict=True):
                sees[some[:, None], seen] = True
        table = sees[flex._queries][:, flex._keys]
        table[:, place.tokens :] = False  # what fills the last block
        count = table.unflatten(0, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).sum((1, 3))
        listed = {}
        for name in ("kv", "full_kv"):
            counts, order = getattr(flex.blocks, f"{name}_num_blocks")[0, 0], getattr(flex.blocks, f"{name}_indices")
            listed[name] = torch.zeros_like(count, dtype=torch.bool)
            for row, some in enumerate(counts.tolist()):
                listed[name][row, order[0, 0, row, :some].long()] = True
        assert torch.equal(listed["kv"], (count > 0) & (count < BLOCK**2))
        assert torch.equal(listed["full_kv"], count == BLOCK**2)
        raster = torch.nn.functional.pad(
            sees[video_of(place)], (0, -place.tokens % BLOCK, 0, -place.grid.tokens % BLOCK)
        )
        there = raster.unflatten(0, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).sum((1, 3))
        assert (count > 0).sum() < 0.85 * (there > 0).sum()  # in the order of the grid
        query, key = torch.arange(len(table))[:, None], torch.arange(table.shape[1])
        assert torch.equal(flex.blocks.mask_mod(0, 0, query, key), table)

    def test_large_grids_take_little_memory(self):
        """Wan at 720p, 75,600 tokens: what is kept for one tile of queries would be 300 times as large by tokens."""
        place = Place(Grid(21, 45, 80), 0, 0)
        blocks = FlexWindows(*windows_of(place, (4, 8, 8), 0.15), place).blocks
        side = -(-place.tokens // BLOCK)
        assert blocks.kv_indices.shape == (1, 1, side, side) and blocks.kv_indices.dtype == torch.int32
        visited = int(blocks.kv_num_blocks.sum() + blocks.full_kv_num_blocks.sum())
        assert 0.17 < visited / side**2 < 0.24  # of 0.18 that tiles see

    def test_other_windows_are_refused(self):
        place = Place(Grid(3, 6, 6), 0, 4)
        windows, sinks = windows_of(place)
        with pytest.raises(ValueError, match="outside of the grid are seen by all"):
            FlexWindows(windows, sinks[4:], place)
        holes = [(queries, keys[:, 1:]) for queries, keys in windows]
        with pytest.raises(ValueError, match="Each is a box"):
            FlexWindows(holes, sinks, place)
        long = Place(Grid(66, 1, 2), 0, 0)
        with pytest.raises(ValueError, match="more than 63 different"):
            FlexWindows(*windows_of(long, (1, 1, 2), window=(2, 1, 2)), long)


class TestChoice:
    PLACE = Place(Grid(4, 6, 6), 2, 3)

    def answered(self, call=None, place=PLACE, answer=None, kind="k"):
        call = call or call_of(place.tokens)
        windows, sinks = windows_of(place._replace(kept=None))

        def tiles():
            asked.append(1)
            made = torch.zeros_like(call.q)
            made[:, video_of(place)] = by_table(call, place, windows) if answer is None else answer
            return made

        asked = []
        made = windows_by_flex(call, place, windows, sinks, tiles, kind)
        return made[:, video_of(place)], by_table(call, place, windows), len(asked)

    @pytest.fixture
    def seconds(self, monkeypatch):
        """Seconds that FlexAttention and tiles are said to take."""
        said = [1.0, 2.0]
        monkeypatch.setattr(flex_windows, "_seconds", lambda function, like: (said.append(said.pop(0)), said[-1])[1])
        return said

    def lines(self, caplog):
        return [record.message for record in caplog.records if record.levelno >= logging.WARNING]

    def test_what_agrees_and_is_faster_is_kept(self, uncompiled, seconds, caplog):
        made, wanted, asked = self.answered()
        assert torch.allclose(made, wanted, atol=2e-6) and asked == 1
        made, _, asked = self.answered()
        assert torch.allclose(made, wanted, atol=2e-6) and asked == 0 and uncompiled == [1]
        self.answered(call_of(self.PLACE.tokens, heads=3))
        assert uncompiled == [1, 1]  # another size
        assert not self.lines(caplog)

    @pytest.mark.parametrize(
        "taken, answer, reason",
        [((2.0, 1.0), None, "it takes 2 seconds a call, tiles 1"), ((1.0, 2.0), 0.5, "its answer differs by ")],
    )
    def test_what_is_slower_or_differs_is_not(self, uncompiled, seconds, caplog, taken, answer, reason):
        seconds[:] = taken
        for count in (2, 1):  # compared once, and then tiles
            _, _, asked = self.answered(answer=answer)
            assert asked == count
        (line,) = self.lines(caplog)
        assert line.startswith(f"Efficient Attention: tiles in place of FlexAttention: {reason}")

    def test_what_cannot_be_compiled_is_said_once(self, monkeypatch, caplog):
        def fails():
            raise NotImplementedError("no such device.\nA long story.")

        monkeypatch.setattr(flex_windows, "_compiled", fails)
        for _ in range(3):
            made, wanted, asked = self.answered()
            assert torch.equal(made, wanted) and asked == 1
        assert self.lines(caplog) == [
            "Efficient Attention: tiles in place of FlexAttention: NotImplementedError: no such device."
        ]

    def test_what_fails_later_is_left_to_tiles(self, uncompiled, seconds, monkeypatch, caplog):
        self.answered()
        (flex,) = flex_windows._KEPT.values()

        def fails(*given):
            raise torch.OutOfMemoryError("too much")

        monkeypatch.setattr(flex, "_kernel", fails)
        for _ in range(2):
            made, wanted, asked = self.answered()
            assert torch.equal(made, wanted) and asked == 1
        assert self.lines(caplog) == [
            "Efficient Attention: tiles in place of FlexAttention: OutOfMemoryError: too much."
        ]

    def test_masks_and_merged_tokens_are_left_to_tiles(self, uncompiled, caplog):
        tokens = self.PLACE.tokens
        hidden = torch.zeros(1, 1, tokens)
        self.answered(call_of(tokens, mask=hidden))
        for heads in (2, 3):  # of another size in each call
            kept = Kept(torch.arange(self.PLACE.grid.tokens), True)
            self.answered(call_of(tokens, heads), self.PLACE._replace(kept=kept))
        reasons = [line.rsplit(": ", 1)[1] for line in self.lines(caplog)]
        assert reasons == ["a mask hides keys.", "tokens were merged."] and not uncompiled

    def test_so_many_sizes_are_kept(self, uncompiled, seconds):
        for number in range(flex_windows._MOST + 1):
            self.answered(kind=number)
        assert len(flex_windows._KEPT) == flex_windows._MOST == len(uncompiled) - 1
        self.answered(kind=1)
        assert len(uncompiled) == flex_windows._MOST + 1
        self.answered(kind=0)
        assert len(uncompiled) == flex_windows._MOST + 2


class TestPatch:
    def test_it_answers_for_tiles_where_it_is_asked_to(self, uncompiled, monkeypatch):
        """Also in the layout of heads, with text, and in the next run of the sampler."""
        seconds = iter((1.0, 2.0, 1.0, 2.0))
        monkeypatch.setattr(flex_windows, "_seconds", lambda function, like: next(seconds))
        call = call_of(259)
        for tensors, options in (
            (call.rows(), {}),
            (call.by_heads(), {"skip_reshape": True, "skip_output_reshape": True}),
        ):
            made = {}
            for kernel in ("tiles", "flex", "flex"):
                run = SparseRun(SparseSettings("window", 0.2, tile=(2, 3, 4), kernel=kernel))
                made[kernel] = run.attend(Forward(Grid(4, 7, 9), 2), in_both_layouts, (*tensors, 2), options)
                assert run.patched == 1
            assert torch.allclose(made["tiles"], made["flex"], atol=2e-6)
            assert not torch.equal(made["tiles"], made["flex"])
        assert uncompiled == [1, 1]

    def test_other_kinds_are_none_of_its_business(self, uncompiled):
        grid = Grid(4, 6, 6)
        arguments = (*call_of(grid.tokens).rows(), 2)
        for kind, density in (("top-k", 0.2), ("linear", 0.2), ("window", 1.0)):
            run = SparseRun(SparseSettings(kind, density, kernel="flex"))
            run.attend(Forward(grid), in_both_layouts, arguments, {})
        assert not uncompiled and not flex_windows._KEPT

    def test_a_wrong_kernel_is_refused(self):
        with pytest.raises(ValueError, match=r"^Unknown kernel 'triton'\. Supported are tiles, flex\.$"):
            SparseSettings(kernel="triton")


class TestCompiled:
    def test_sizes_without_end(self, monkeypatch):
        """torch compiles the same code for eight sizes at most."""
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
        for number in range(10):
            place = Place(Grid(2, 4, 4), 0, number)
            windows, sinks = windows_of(place, (1, 2, 2))
            call = call_of(place.tokens, heads=number + 1)
            with torch.inference_mode():
                made = FlexWindows(windows, sinks, place)(*call.by_heads())
                assert torch.allclose(
                    made.transpose(1, 2).flatten(2)[:, :32], by_table(call, place, windows), atol=2e-6
                )

    def test_not_without_a_compiler(self):
        """Uncompiled, it would fill the memory."""
        place = Place(Grid(2, 4, 4), 0, 0)
        torch.compiler.set_stance("force_eager")
        try:
            with pytest.raises(RuntimeError, match=r"^torch\.compile is switched off$"):
                FlexWindows(*windows_of(place, (1, 2, 2)), place)(*call_of(32).by_heads())
        finally:
            torch.compiler.set_stance("default")

    @needs_compiler
    @pytest.mark.slow
    def test_in_a_model_that_is_compiled(self, monkeypatch):
        """As ComfyUI calls it: uncompiled code in compiled code, with and without inference mode."""
        place = Place(Grid(3, 9, 11), 2, 3)
        windows, sinks = windows_of(place)
        monkeypatch.setattr(flex_windows, "_seconds", lambda function, like: next(seconds))
        seconds = iter((1.0, 2.0))

        @torch.compiler.disable
        def attend(q, k, v):
            call = AttentionCall(backend, (q, k, v, 2), {})

            def tiles():
                made = torch.zeros_like(q)
                made[:, video_of(place)] = by_table(call, place, windows)
                return made

            return windows_by_flex(call, place, windows, sinks, tiles)[:, video_of(place)]

        def model(x):
            return attend(x + 1, x - 1, x * 2).relu()

        compiled = torch.compile(model, backend="eager")
        x = torch.randn(1, place.tokens, 32, generator=torch.Generator().manual_seed(0))
        call = AttentionCall(backend, (x + 1, x - 1, x * 2, 2), {})
        for mode in (torch.inference_mode, torch.no_grad):
            with mode():
                assert torch.allclose(compiled(x), by_table(call, place, windows).relu(), atol=2e-6)
        (flex,) = flex_windows._KEPT.values()
        assert flex is not None


IN_COMFYUI = """
from torch.nn.attention.flex_attention import flex_attention
from tokenreel.models import flex_windows
from tokenreel.nodes.patching import EfficientAttention

def attend(q, k, v, blocks, scale):
    asked.append(torch.is_inference_mode_enabled())
    return flex_attention(q, k, v, block_mask=blocks, scale=scale)

asked, seconds = [], iter((1.0, 2.0))
flex_windows._compiled = lambda: attend
flex_windows._seconds = lambda function, like: next(seconds)
source = build("wan")
made = []
for kernel in ("tiles", "flex", "flex"):
    patched = EfficientAttention.execute(source, "window", 0.1, True, 0.0, 1.0, 0, 0, 0, kernel=kernel).args[0]
    made.append(sample(copy.copy(patched.clone()), "wan", (9, 24, 28)))
dense = sample(source, "wan", (9, 24, 28))
print("RESULT" + json.dumps([difference(*made[:2]), difference(*made[1:]), difference(made[0], dense), len(asked)]))
"""


@needs_comfyui
@pytest.mark.comfyui
def test_in_comfyui():
    """A random Wan in ComfyUI's sampler, uncompiled: as with tiles, in every run and for all clones."""
    said = run_in_comfyui(LOAD_CHECKOUT + RANDOM_MODELS + IN_COMFYUI, timeout=300)
    by_tiles, by_runs, by_dense, asked = json.loads(said.split("RESULT")[1])
    assert by_tiles < 1e-4 * max(by_dense, 1) and by_runs == 0.0 and by_dense > 1e-3
    assert asked in (13, 25)  # compared once; then 2 runs of 3 blocks and 2 steps, both conditions at once or not


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("size, dtype", [(64, torch.bfloat16), (128, torch.bfloat16), (128, torch.float32)])
def test_on_a_gpu(size, dtype):
    place = Place(Grid(9, 30, 40), 0, 7)
    windows, sinks = windows_of(place, (4, 8, 8), 0.15)
    windows, sinks = [(a.cuda(), b.cuda()) for a, b in windows], sinks.cuda()
    call = call_of(place.tokens, size=size, dtype=dtype)
    q, k, v = (each.cuda() for each in call.rows())
    call = AttentionCall(backend, (q, k, v, 2), {})
    wanted = torch.zeros_like(q)
    for queries, keys in windows:
        for some, seen in zip(queries, keys, strict=True):
            wanted[:, some] = call.part(q[:, some], k[:, seen], v[:, seen], 2)
    made = FlexWindows(windows, sinks, place)(*call.by_heads()).transpose(1, 2).flatten(2)
    rows = torch.cat([queries.flatten() for queries, _ in windows])
    assert flex_windows._difference(made, wanted, rows) < flex_windows._TOLERANCE[dtype]
