"""Attention of every kind: exact where it is defined to be, and what each is said to see."""

import pytest
import torch

from tokenreel.models.attention import (
    KINDS,
    Grid,
    attention,
    linear_with_state,
    performer_with_state,
    random_directions,
)

GRIDS = [(1, 1, 1), (1, 5, 7), (3, 4, 4), (5, 7, 3), (4, 8, 9), (7, 2, 11)]


def tensors(grid, heads=2, size=8, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    t, h, w = grid
    return [torch.randn(batch, heads, t * h * w, size, generator=generator) for _ in range(3)]


def masked(q, k, v, mask):
    """Softmax attention by its definition."""
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v


def frames_of(grid):
    t, h, w = grid
    return torch.arange(t * h * w) // (h * w)


@pytest.mark.parametrize("grid", GRIDS)
class TestExact:
    @pytest.mark.parametrize("causal", [False, True])
    def test_full_is_softmax(self, grid, causal):
        q, k, v = tensors(grid)
        frame = frames_of(grid)
        mask = frame[None] <= frame[:, None] if causal else torch.ones(len(frame), len(frame), dtype=torch.bool)
        assert torch.allclose(attention(q, k, v, grid, causal=causal), masked(q, k, v, mask), atol=1e-5)

    @pytest.mark.parametrize("causal", [False, True])
    def test_a_window_as_large_as_the_grid_is_full(self, grid, causal):
        q, k, v = tensors(grid)
        wide = attention(q, k, v, grid, kind="window", window=grid, causal=causal, sinks=(0,))
        assert torch.equal(wide, attention(q, k, v, grid, causal=causal))

    @pytest.mark.parametrize("sinks", [(), (0,), (0, 99)])
    @pytest.mark.parametrize("causal", [False, True])
    def test_a_window_is_masked_softmax(self, grid, causal, sinks):
        sinks = tuple(min(each, grid[0] - 1) for each in sinks)
        tile, window = (2, 3, 2), (3, 4, 5)
        q, k, v = tensors(grid)
        places = torch.cartesian_prod(*(torch.arange(each) for each in grid))
        mask = torch.ones(len(places), len(places), dtype=torch.bool)
        for axis, size in enumerate(grid):
            side = min(tile[axis], size)
            wide = min(max(window[axis], side), size)
            first = (places[:, axis] // side * side).clamp(max=size - side)
            low = (first + side // 2 - wide // 2).clamp(min=0).clamp(max=size - wide)
            mask &= (places[None, :, axis] >= low[:, None]) & (places[None, :, axis] < low[:, None] + wide)
        frame = frames_of(grid)
        mask |= torch.isin(frame, torch.tensor(sinks, dtype=torch.long))[None]
        if causal:
            mask &= frame[None] <= frame[:, None]
        found = attention(q, k, v, grid, kind="window", window=window, tile=tile, sinks=sinks, causal=causal)
        assert torch.allclose(found, masked(q, k, v, mask), atol=1e-5)

    @pytest.mark.parametrize("feature", ["relu", "elu"])
    def test_linear_is_its_definition(self, grid, feature):
        q, k, v = tensors(grid)
        act = torch.relu if feature == "relu" else lambda x: torch.nn.functional.elu(x) + 1
        weights = act(q) @ act(k).transpose(-1, -2)
        expected = weights @ v / weights.sum(-1, keepdim=True).clamp(min=1e-6)
        assert torch.allclose(attention(q, k, v, grid, kind="linear", feature=feature), expected, atol=1e-4)


@pytest.mark.parametrize("with_state", [linear_with_state, performer_with_state])
class TestState:
    @pytest.mark.parametrize("parts", [(1, 4), (2, 3), (1, 1, 3)])
    def test_frames_in_parts_are_frames_at_once(self, with_state, parts):
        grid = Grid(5, 3, 4)
        q, k, v = tensors(grid)
        whole, end = with_state(q, k, v, grid, None)
        made, state, at = [], None, 0
        for count in parts:
            some = slice(at * 12, (at + count) * 12)
            out, state = with_state(q[:, :, some], k[:, :, some], v[:, :, some], Grid(count, 3, 4), state)
            made.append(out)
            at += count
        assert torch.allclose(torch.cat(made, 2), whole, atol=1e-5)
        assert state.sums.shape == end.sums.shape and torch.allclose(state.sums, end.sums, rtol=1e-4, atol=1e-5)

    def test_the_last_frame_sees_what_all_see_together(self, with_state):
        grid = Grid(4, 2, 3)
        q, k, v = tensors(grid)
        causal, _ = with_state(q, k, v, grid, None, causal=True)
        both, _ = with_state(q, k, v, grid, None, causal=False)
        assert torch.allclose(causal[:, :, -6:], both[:, :, -6:], atol=1e-5)
        assert not torch.allclose(causal[:, :, :6], both[:, :, :6], atol=1e-3)

    def test_the_state_does_not_grow(self, with_state):
        sizes = {with_state(*tensors((t, 4, 4)), Grid(t, 4, 4), None)[1].sums.shape for t in (1, 8)}
        assert len(sizes) == 1


class TestPerformer:
    def test_more_features_are_nearer_to_softmax(self):
        grid = (2, 6, 6)
        q, k, v = tensors(grid, size=8)
        q, k = q / 2, k / 2
        exact = attention(q, k, v, grid)

        def error(count):
            made = [attention(q, k, v, grid, kind="performer", features=count, seed=seed) for seed in range(8)]
            return torch.stack([(each - exact).abs().mean() for each in made]).mean() / exact.abs().mean()

        errors = [error(count) for count in (8, 64, 1024)]
        assert errors[0] > 1.5 * errors[1] and errors[1] > 1.5 * errors[2] and errors[2] < 0.2

    def test_large_values_stay_finite(self):
        q, k, v = tensors((2, 3, 3))
        assert attention(100 * q, 100 * k, v, (2, 3, 3), kind="performer", causal=True).isfinite().all()

    def test_directions_are_at_right_angles_and_repeat(self):
        found = random_directions(16, 8, 3)
        first = torch.nn.functional.normalize(found[:8], dim=1)
        assert torch.allclose(first @ first.T, torch.eye(8), atol=1e-5)
        assert torch.equal(found, random_directions(16, 8, 3)) and not torch.equal(found, random_directions(16, 8, 4))


class TestRefusals:
    def test_unknown_kind(self):
        with pytest.raises(ValueError, match=r"Unknown attention 'dense'\. Supported are full, linear"):
            attention(*tensors((1, 2, 2)), (1, 2, 2), kind="dense")

    def test_tokens_that_do_not_fit_the_grid(self):
        with pytest.raises(ValueError, match=r"Invalid q of shape \(2, 2, 4, 8\). It is \[B, heads, 6, d\]"):
            attention(*tensors((1, 2, 2)), (1, 2, 3))

    def test_option_of_another_kind(self):
        with pytest.raises(ValueError, match="'full' has no such option: window"):
            attention(*tensors((1, 2, 2)), (1, 2, 2), window=(1, 1, 1))

    @pytest.mark.parametrize("options", [{"window": (0, 1, 1)}, {"tile": (1, 0, 1)}, {"sinks": (3,)}])
    def test_windows_that_cannot_be(self, options):
        with pytest.raises(ValueError, match="Sides are at least 1; sinks are numbers of frames below 2"):
            attention(*tensors((2, 2, 2)), (2, 2, 2), kind="window", **options)

    def test_unknown_feature(self):
        with pytest.raises(ValueError, match="Unknown feature 'gelu'"):
            attention(*tensors((1, 2, 2)), (1, 2, 2), kind="linear", feature="gelu")


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_keep_type_and_are_differentiable(kind):
    q, k, v = (each.to(torch.bfloat16).requires_grad_() for each in tensors((3, 4, 4)))
    made = attention(q, k, v, (3, 4, 4), kind=kind)
    made.float().square().mean().backward()
    assert made.dtype == torch.bfloat16 and made.shape == v.shape
    assert all(each.grad is not None and each.grad.isfinite().all() for each in (q, k, v))


@pytest.mark.parametrize("kind", ["performer", "window"])
def test_what_is_kept_between_calls_serves_training_too(kind):
    """Directions and tilings are made once; the first call may have been one without gradients."""
    grid = (3, 5, 7)  # of no other test
    with torch.inference_mode():
        attention(*tensors(grid, size=10), grid, kind=kind, **({"window": (1, 3, 3)} if kind == "window" else {}))
    q, k, v = (each.requires_grad_() for each in tensors(grid, size=10))
    attention(q, k, v, grid, kind=kind, **({"window": (1, 3, 3)} if kind == "window" else {})).sum().backward()
    assert q.grad is not None
