"""Tokens of other people's video models that say nearly the same: one stands for several of them.

keys: queries stay, keys of redundant tokens are left out, and the one that stands for m has the mean of their values
and weighs as much as m (its logarithm is added to the scores; after asymmetric reduction, Sun et al., ICML 2025, arXiv
2412.11706, and token merging, Bolya and Hoffman, 2023, arXiv 2303.17604). blocks: whole blocks of the model see only
the means, in their attention, too, they weigh as much as they stand for, and what a block changed in one is added to
all of these. `token_matching` tells which tokens are merged into which.

The first frame, every frame that begins a stretch of `refresh`, tokens where guidance has most to say, and everything
outside of the video's grid are always kept. Where nothing is redundant the result is the same, bit for bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import Grid
from .attention_calls import MERGED, AttentionCall, Forward, Gate, Kept, Place, Run, room_for_weights
from .token_matching import MOST, Merged, match_tokens, merge_alike

MergeMode = Literal["keys", "blocks"]
MERGE_MODES: tuple[MergeMode, ...] = get_args(MergeMode)
_MODULATIONS = 6  # shifts, scales and gates of a block: what Wan's blocks are given as [B, 6, C], or [B, frames, 6, C]
_PASSED_ON = {
    "img",
    "txt",
    "transformer_options",
    "prompt_timestep",
    "modulation_dims_txt",
}  # about no token of the video
_BOUNDARIES = ("modulation_dims", "modulation_dims_img")  # the first frame ends there, of which all tokens are kept


@dataclass(frozen=True)
class MergeSettings:
    """At most `ratio` of the video's tokens are left out, in [0, 0.75]: those that are at least `threshold` alike.

    `threshold` is a cosine in [-1, 1]. `refresh`: one frame in so many is kept whole, 0: only the first one. `protect`:
    share of tokens that are kept for what guidance changes there, in [0, 1].
    """

    mode: MergeMode = "keys"
    ratio: float = 0.5
    threshold: float = 0.9
    refresh: int = 0
    protect: float = 0.1

    def __post_init__(self) -> None:
        if self.mode not in MERGE_MODES:
            raise ValueError(f"Unknown mode {self.mode!r}. Supported are {', '.join(MERGE_MODES)}.")
        if not 0 <= self.ratio <= MOST or not -1 <= self.threshold <= 1:
            raise ValueError(
                f"Invalid ratio {self.ratio} or threshold {self.threshold}. They are in [0, {MOST}] and in [-1, 1]."
            )
        if self.refresh < 0 or not 0 <= self.protect <= 1:
            raise ValueError(
                f"Invalid refresh {self.refresh} or protect {self.protect}. They are at least 0 and in [0, 1]."
            )


def find_redundant(features: Tensor, grid: Grid, settings: MergeSettings, important: Tensor | None = None) -> Merged:
    """Which tokens of `[B, N, C]`, N = t * h * w, are redundant in all of the batch.

    `important` `[N]`, any numbers of at least 0: those of the largest are kept.
    """
    alike, into = match_tokens(features, grid, whole=settings.refresh)
    if important is not None and settings.protect:
        alike[important.topk(round(settings.protect * len(alike))).indices] = -torch.inf
    return merge_alike(alike, into, threshold=settings.threshold, most=int(settings.ratio * len(alike)))


class MergeRun(Run):
    """Merging while a model samples once."""

    def __init__(self, settings: MergeSettings, gate: Gate | None = None):
        super().__init__("Merge Redundant Tokens", gate or Gate())
        self.settings = settings
        self._guidance: Tensor | None = None
        self._found: tuple[Forward, Merged, Kept] | None = None

    def finish(self) -> None:
        self._guidance = self._found = None
        super().finish()

    def watch(self, positive: Tensor, negative: Tensor) -> None:
        """What the model made of both conditions, `[B, C, T, H, W]`: in the next step, tokens are kept for it."""
        if self.settings.protect and positive.ndim == 5 and positive.shape == negative.shape:
            self._guidance = (positive - negative).float().abs().mean((0, 1))[None]

    def _important(self, grid: Grid) -> Tensor | None:
        return (
            None
            if self._guidance is None
            else F.adaptive_avg_pool3d(self._guidance, (grid.t, grid.h, grid.w)).flatten()
        )

    # -- keys

    def answer(self, call: AttentionCall, place: Place) -> Tensor:
        """What the call gives, or nearly so."""
        q, k, v = call.rows()
        # values, as positions have turned the keys
        merged = find_redundant(_video(v, place), place.grid, self.settings, self._important(place.grid))
        if len(merged.kept) == place.grid.tokens:
            self.ran_dense("no token is redundant", asked=True)
            return call.dense()
        self.ran_patched((len(merged.kept) + place.before + place.after) / place.tokens)
        keys, mask = _numbers(merged, place), call.key_mask()
        rows = q, k[:, keys], _condensed(v, merged, place)
        left = Kept(merged.kept, queries=False)
        return _weighted(call, rows, merged, place, left, None if mask is None else mask[:, keys])

    # -- blocks

    def through(
        self,
        forward: Forward,
        number: int,
        arguments: dict[str, Any],
        original: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> dict[str, Any]:
        """What `original(arguments)`, block `number` of the model, gives, or nearly so."""
        x = arguments["img"]
        if not isinstance(x, Tensor):
            self.ran_dense("blocks are given more than a video")
            return original(arguments)
        if forward.grid is None or x.shape[1] < forward.grid.tokens:
            return original(arguments)
        others = x.shape[1] - forward.grid.tokens
        before = others if forward.before is None else forward.before
        asked = self.gate.reason(forward, number)
        if asked or before < 0 or before > others:
            self.ran_dense(asked or "the model has tokens in an order that is not known", asked=asked is not None)
            return original(arguments)
        place = Place(forward.grid, before, others - before)
        merged, left = self._merged_once(forward, x, place)
        numbers = _numbers(merged, place)
        cut = _cut(arguments, forward, place, numbers, left)
        if isinstance(cut, str) or len(numbers) == place.tokens:
            self.ran_dense(cut if isinstance(cut, str) else "no token is redundant", asked=not isinstance(cut, str))
            return original(arguments)
        self.ran_patched(len(numbers) / place.tokens)
        was = _condensed(x, merged, place)
        out = original({**cut, "img": was.clone()})  # blocks may write into what they are given
        return {**out, "img": _spread(x, out["img"], out["img"] - was, numbers, place, merged)}

    def attend(
        self, forward: Forward, backend: Callable[..., Tensor], arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> Tensor:
        """What `backend(*arguments, **options)` gives, or nearly so; in blocks, tokens weigh what they stand for."""
        if self.settings.mode == "keys":
            return super().attend(forward, backend, arguments, options)
        call = AttentionCall(backend, arguments, options)
        _, merged, left = self._found or (None, None, None)
        place = forward.place(call) if left is not None and call.model_options.get(MERGED) is left else None
        if merged is None or left is None or not isinstance(place, Place) or call.obstacle():
            return call.dense()
        return _weighted(call, call.rows(), merged, place, left, call.key_mask())

    def _merged_once(self, forward: Forward, x: Tensor, place: Place) -> tuple[Merged, Kept]:
        """All blocks of a forward merge what its first one found redundant."""
        if self._found is None or self._found[0] is not forward:
            found = find_redundant(_video(x, place), place.grid, self.settings, self._important(place.grid))
            self._found = forward, found, Kept(found.kept, queries=True)
        return self._found[1:]


def _video(x: Tensor, place: Place) -> Tensor:
    return x[:, place.before : place.before + place.grid.tokens]


def _numbers(merged: Merged, place: Place) -> Tensor:
    """Which tokens of the whole sequence are kept."""
    device = merged.kept.device
    after = torch.arange(place.tokens - place.after, place.tokens, device=device)
    return torch.cat([torch.arange(place.before, device=device), place.before + merged.kept, after])


def _condensed(x: Tensor, merged: Merged, place: Place) -> Tensor:
    """`[B, N, C]` with the means in place of the video's tokens, `[B, K, C]`."""
    end = place.before + place.grid.tokens
    return torch.cat([x[:, : place.before], merged.means(_video(x, place)), x[:, end:]], 1)


def _spread(x: Tensor, made: Tensor, changed: Tensor, numbers: Tensor, place: Place, merged: Merged) -> Tensor:
    """What a block `made` of the tokens of `numbers`, and how it `changed` them, given to all of `[B, N, C]`."""
    count, end = len(merged.kept), place.before + place.grid.tokens
    whole = x.clone()
    whole[:, place.before : end] += changed[:, place.before : place.before + count][:, merged.stands]
    # exactly what the block gives, where a token stands for itself alone
    single = torch.ones(len(numbers), dtype=torch.bool, device=x.device)
    single[place.before : place.before + count] = merged.counts == 1
    whole[:, numbers] = torch.where(single[:, None], made, whole[:, numbers])
    return whole


def _weighted(
    call: AttentionCall,
    rows: tuple[Tensor, Tensor, Tensor],
    merged: Merged,
    place: Place,
    left: Kept,
    mask: Tensor | None,
) -> Tensor:
    """Attention of `rows`, q, k and v, in which keys weigh as much as they stand for; `mask` `[1 or B, keys]`.

    Other patches are told what is left. Kernels of few bits know few sizes of heads: ComfyUI is told to take others,
    without an error in each call.
    """
    q, k, v = (each.unflatten(-1, (call.heads, -1)) for each in rows)  # [B, N, heads, d]
    d = q.shape[-1]
    q, k, v = room_for_weights(q, k, v, call.scale)
    k[:, place.before : place.before + len(merged.kept), :, d] = merged.counts.log().to(k.dtype)[:, None]
    hidden = None if mask is None else mask[:, None].expand(q.shape[0], -1, -1)
    told: dict[str, Any] = {"low_precision_attention": False}
    if call.model_options:
        told["transformer_options"] = {**call.model_options, MERGED: left}
    made = call.part(q.flatten(2), k.flatten(2), v.flatten(2), call.heads, hidden, **told)
    return call.answer(made.unflatten(-1, (call.heads, -1))[..., :d].flatten(2))


def _cut(
    arguments: dict[str, Any], forward: Forward, place: Place, numbers: Tensor, left: Kept
) -> dict[str, Any] | str:
    """What a block is given beside its tokens, for those of `numbers` alone; or why that cannot be."""
    tokens, joined, where = place.tokens, place.tokens, numbers
    if forward.doubles and "txt" in arguments:  # text beside the video, in the same attention
        text = arguments["txt"].shape[1]
        joined = tokens + text
        apart = torch.arange(text, device=numbers.device)
        where = torch.cat([apart, text + numbers] if forward.before is None else [numbers, tokens + apart])
    cut = dict(arguments)
    for name, value in arguments.items():
        made: Any = value
        if name == "vec":
            bounded = any(arguments.get(each) is not None for each in _BOUNDARIES)
            made = value if bounded else _cut_modulation(value, tokens, numbers)
        elif name == "pe":
            made = _cut_positions(value, joined, where)
        elif name == "attention_mask" and forward.doubles and value is not None:
            made = value[..., where] if value.shape[-1] == joined and value.shape[-2] == 1 else None
        elif name not in _PASSED_ON and name not in _BOUNDARIES and value is not None and name != "attention_mask":
            return f"blocks are given {name}, which is not known"
        if made is None and value is not None:
            return f"{name} of the blocks is not laid out by tokens as known"
        cut[name] = made
    cut["transformer_options"] = {**(arguments.get("transformer_options") or {}), MERGED: left}
    return cut


def _cut_modulation(value: Any, tokens: int, numbers: Tensor) -> Tensor | None:
    if not isinstance(value, Tensor):
        return None
    count = value.shape[1] if value.ndim > 2 else 1
    if count == tokens:
        return value[:, numbers]
    if count == 1 or value.shape[1:-1] == (_MODULATIONS,):  # one for all
        return value
    by_frames = value.ndim == 4 and tokens % count == 0
    return value[:, numbers // (tokens // count)] if by_frames else None


def _cut_positions(value: Any, tokens: int, numbers: Tensor) -> Any:
    """Tensors with tokens in their second or third dimension, also several of them."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        parts = [_cut_positions(each, tokens, numbers) if isinstance(each, Tensor) else each for each in value]
        return None if any(made is None for made in parts) else tuple(parts)
    if not isinstance(value, Tensor):
        return None
    dims = [dim for dim in (1, 2) if dim < value.ndim and value.shape[dim] == tokens]
    return value.index_select(dims[0], numbers) if len(dims) == 1 else None
