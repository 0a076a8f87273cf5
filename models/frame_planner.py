"""All ways to code a frame from the last one, and the choice among them at a price per token."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..tokens.accounting import MAX_RUN, count_frame
from ..tokens.video_tokens import CELL, CELLS, IFrame, Mode, PFrame
from .frame_decoder import FrameDecoder, blocks_of, to_bytes, to_unit
from .motion import MotionSearch, compensate, half_pel_planes, warp

INTRA_TOKENS = 5  # a block token and four codes
STRENGTH = 0.3  # of visibility: 0 is plain squared error, 1 makes up for all of a cell's contrast
SKIP_TOKENS = 0.2  # runs of skipped blocks share a token
HIGHEST_PRICE = 255.0**2 * CELL * CELL * 3  # what the worst cell has for error: no code is worth more


@dataclass
class Candidate:
    """One way to code a frame and what it costs."""

    frame: IFrame | PFrame
    decoded: Tensor
    error: float
    """Squared error over the visible samples."""
    tokens: int
    price: float = 0.0
    """Squared error that one token had to save: lambda."""

    def cost(self, price: float) -> float:
        """Error and tokens on one scale, at a price per token."""
        return self.error + price * self.tokens


def cell_errors(frame: Tensor, current: Tensor, shown: Tensor) -> Tensor:
    """Squared error per cell `[h, w]`, float64, over the pixels that `shown` `[H, W]` marks with 1."""
    error = (frame.float() - current.float()).square().sum(1, keepdim=True) * shown
    return F.avg_pool2d(error, CELL)[0, 0].double() * (CELL * CELL)


def visibility(current: Tensor) -> Tensor:
    """Weight of the error per cell `[h, w]`, float64, 1 on average: more in smooth parts, where the eye finds it."""
    grey = current.float().mean(1, keepdim=True)
    mean, square = F.avg_pool2d(grey, CELL), F.avg_pool2d(grey.square(), CELL)
    busy = (square - mean.square()).clamp(min=0)[0, 0].double() + 16.0
    weight = busy.log().mean().exp().div(busy).pow(STRENGTH)
    return weight / weight.mean()


def key_candidate(current: Tensor, shown: Tensor, decoder: FrameDecoder) -> Candidate:
    """The frame as a key frame."""
    codes = decoder.tokenizer.image.encode(to_unit(current))
    frame = IFrame(codes[0].to(torch.int32).cpu().numpy())
    decoded = decoder.key(frame)
    error = float(cell_errors(decoded, current, shown).sum())
    return Candidate(frame, decoded, error, sum(count_frame(frame).values()))


def tokens_of(modes: Tensor, marked: Tensor | None = None) -> int:
    """Tokens of a P-frame with these modes `[bh, bw]` and marked cells: what count_frame counts, before it is built."""
    coded = modes.flatten().nonzero().flatten()
    gaps = coded.diff(prepend=coded.new_full((1,), -1)) - 1
    runs = int(((gaps + MAX_RUN - 1) // MAX_RUN).sum())
    codes = (0 if marked is None else int(marked.sum())) + CELLS * int((modes == Mode.INTRA).sum())
    return 1 + len(coded) + runs + codes


class FramePlanner:
    """Plans one P-frame: first the context, at the price that the last frame paid, then what is sent."""

    def __init__(
        self,
        current: Tensor,
        shown: Tensor,
        decoder: FrameDecoder,
        price: float,
        hint: Tensor | None = None,
        *,
        target: float | None = None,
        allowance: float | None = None,
        check: Callable[[], None] = lambda: None,
    ):
        """current: uint8 `[1, 3, H, W]`, whole blocks; shown: `[H, W]`, 1 where pixels count; hint: a field to try.

        target: error that is good enough; allowance: tokens that the frame may take. Block motion is not sent where
        the frame is good enough without it, and never takes more than the allowance. check is called before each pass
        through a network, and may raise to cancel.
        """
        if decoder.reference is None:
            raise ValueError("A P-frame needs a decoded frame before it. Encode a key frame first.")
        self.decoder, self.current, self.shown, self.check = decoder, current, shown, check
        self.planes = half_pel_planes(decoder.reference)
        search = MotionSearch(current, self.planes)
        vector, self.field = search.run([] if hint is None else [hint])
        still, moved = warp(self.planes, search.uniform(vector)), warp(self.planes, self.field)
        skip, motion = cell_errors(still, current, shown), cell_errors(moved, current, shown)
        rest = cell_errors(decoder.reference, current, shown)
        if target is not None and float(rest.sum()) <= min(target, float(skip.sum())):
            vector, still, skip = torch.zeros_like(vector), decoder.reference, rest
        self.weight = visibility(current)
        saved = blocks_of((skip - motion) * self.weight).sum(-1)
        wanting = target is None or bool(float(skip.sum()) > target)
        differs = (self.field[0] != vector.view(1, 1, 2)).any(-1) & wanting
        self.moves = differs & (saved > price * (1 - SKIP_TOKENS))
        while allowance is not None and tokens_of(self.moves) > max(allowance, 1.0):
            price *= 1.25
            self.moves = differs & (saved > price)
        self.vector = vector[0]
        context = compensate(self.planes, torch.where(self.moves.unsqueeze(-1), self.field, search.uniform(vector)))
        self.errors = cell_errors(context, current, shown)
        unit = to_unit(context)
        check()
        self.codes = decoder.codec.encode(to_unit(current), unit)
        everywhere = torch.ones_like(self.codes, dtype=torch.bool)
        self.coded = cell_errors(to_bytes(decoder.codec.decode(self.codes, everywhere, unit)), current, shown)
        self.optimism = 0.993
        """Error to aim at for each unit of target: what came of aiming in the last frame holds in this one."""
        self.intra: Tensor | None = None
        self.intra_codes: Tensor | None = None

    def offer_intra(self, key: Candidate) -> None:
        """Adds the blocks of a key frame to the choice."""
        assert isinstance(key.frame, IFrame)
        self.intra = blocks_of(cell_errors(key.decoded, self.current, self.shown)).sum(-1)
        self.intra_codes = torch.from_numpy(key.frame.codes)

    def choose(self, price: float) -> tuple[Tensor, Tensor, float, int]:
        """(modes `[bh, bw]`, marked cells `[bh, bw, 4]`, expected error, tokens) at a price per token."""
        plain, coded, weight = blocks_of(self.errors), blocks_of(self.coded), blocks_of(self.weight)
        marked = weight * (plain - coded) > price
        bare_tokens = torch.where(self.moves, 1.0, SKIP_TOKENS)
        refined_tokens = 1.0 + marked.sum(-1)
        saved = (weight * (plain - coded) * marked).sum(-1)
        refine = marked.any(-1) & (saved > price * (refined_tokens - bare_tokens))
        error = torch.where(refine, torch.where(marked, coded, plain).sum(-1), plain.sum(-1))
        tokens = torch.where(refine, refined_tokens, bare_tokens)
        modes = torch.where(refine, int(Mode.RESIDUAL), torch.where(self.moves, int(Mode.MOTION), int(Mode.SKIP)))
        if self.intra is not None:
            whole = (error - self.intra) * weight.mean(-1) > price * (INTRA_TOKENS - tokens)
            error = torch.where(whole, self.intra, error)
            modes = torch.where(whole, int(Mode.INTRA), modes)
        sent = marked & (modes == Mode.RESIDUAL).unsqueeze(-1)
        return modes, sent, float(error.sum()), tokens_of(modes, sent)

    def price_for(self, *, error: float | None = None, tokens: float | None = None, low: float = 0.5) -> float:
        """The highest price, within 2 %, with at most `error` expected, or the lowest one with at most `tokens`.

        `low` is the least price considered: the answer where none meets the error, or where it meets the tokens.
        """

        def holds(price: float) -> bool:
            expected, taken = self.choose(price)[2:]
            return expected <= error if error is not None else taken > (tokens or 0.0)

        high = HIGHEST_PRICE
        if not holds(low):
            return low
        while high / low > 1.02:
            middle = (low * high) ** 0.5
            low, high = (middle, high) if holds(middle) else (low, middle)
        return low if error is not None else high

    def predicted(self, target: float | None, allowance: float | None) -> Candidate:
        """The P-frame that meets the target error with few tokens, or the best one within the allowance of tokens."""
        if target is not None:
            return self._meet(target)
        assert allowance is not None
        return self.build(self.price_for(tokens=allowance))

    def _meet(self, target: float) -> Candidate:
        """Neighbouring cells help each other, so the error is not the sum of its parts: decode, compare, aim again."""
        if self.choose(HIGHEST_PRICE)[2] <= target:
            return self.build(HIGHEST_PRICE)  # motion alone is good enough, exactly as expected: no net has a say
        aim, best = target * self.optimism, None
        # A token that takes less than 2 % off a cell's fair share of the error is not worth sending, reached or not.
        least = max(0.5, 0.02 * target / float(self.shown.sum()) * CELL * CELL)
        for _ in range(3):
            found = self.build(self.price_for(error=aim, low=least))
            if best is None or (found.error <= target, -found.tokens if found.error <= target else -found.error) > (
                best.error <= target,
                -best.tokens if best.error <= target else -best.error,
            ):
                best = found
            if 0.985 * target <= found.error <= target:
                self.optimism = aim / target
                break
            if found.price <= least:
                break
            aim *= min(max((0.993 * target / max(found.error, 1.0)) ** 1.2, 0.3), 3.0)
        assert best is not None
        return best

    def build(self, price: float) -> Candidate:
        """Codes the frame at this price and decodes it."""
        self.check()
        modes, marked, _, _ = self.choose(price)
        delta = (self.field[0] - self.vector.view(1, 1, 2)) * self.moves.unsqueeze(-1)
        has_motion = (modes == Mode.MOTION) | (modes == Mode.RESIDUAL)
        bits = (marked * torch.tensor([1, 2, 4, 8], device=marked.device)).sum(-1)
        intra = np.zeros((0, 4), np.int32)
        if self.intra_codes is not None:
            intra = blocks_of(self.intra_codes)[(modes == Mode.INTRA).cpu()].numpy()
        frame = PFrame(
            global_motion=(int(self.vector[0]), int(self.vector[1])),
            modes=modes.to(torch.uint8).cpu().numpy(),
            motion=delta[has_motion].to(torch.int8).cpu().numpy(),
            masks=bits[modes == Mode.RESIDUAL].to(torch.uint8).cpu().numpy(),
            residual=blocks_of(self.codes[0])[marked].to(torch.int32).cpu().numpy(),
            intra=intra,
        )
        decoded = self.decoder.predicted(frame, self.planes)
        error = float(cell_errors(decoded, self.current, self.shown).sum())
        return Candidate(frame, decoded, error, sum(count_frame(frame).values()), price)
