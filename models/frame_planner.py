"""All ways to code a frame from the last one, and the choice among them at a price per token."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..tokens.accounting import count_frame
from ..tokens.video_tokens import CELL, IFrame, Mode, PFrame
from .frame_decoder import FrameDecoder, blocks_of, to_bytes, to_unit
from .mode_choice import Options, choose
from .motion import MotionSearch, compensate, half_pel_planes, warp

STRENGTH = 0.3  # of visibility: 0 is plain squared error, 1 makes up for all of a cell's contrast
HIGHEST_PRICE = 255.0**2 * CELL * CELL * 3  # what the worst cell has for error: no code is worth more
CLOSE = 0.97  # of the target: an error between is not worth another pass through the decoder


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


def _per_block(cells: Tensor) -> np.ndarray:
    """`[h, w]` on any device -> `[bh, bw, 4]` in memory."""
    return blocks_of(cells).cpu().numpy()


class FramePlanner:
    """Plans one P-frame: first the motion, at the price that the last frame paid, then what is sent."""

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

        target: error that is good enough; allowance: tokens that the frame may take; one of them is given. check is
        called before each pass through a network, and may raise to cancel.
        """
        if decoder.reference is None:
            raise ValueError("A P-frame needs a decoded frame before it. Encode a key frame first.")
        self.decoder, self.current, self.shown, self.check = decoder, current, shown, check
        self.target, self.allowance, self.price = target, allowance, price
        self.planes = half_pel_planes(decoder.reference)
        search = MotionSearch(current, self.planes)
        vector, self.field = search.run([] if hint is None else [hint])
        skip, rest = self._errors(warp(self.planes, search.uniform(vector))), self._errors(decoder.reference)
        if target is not None and float(rest.sum()) <= min(target, float(skip.sum())):
            vector, skip = torch.zeros_like(vector), rest
        self.vector = vector[0]
        self.options = Options(
            skip=_per_block(skip),
            motion=_per_block(self._errors(warp(self.planes, self.field))),
            differs=(self.field[0] != self.vector.view(1, 1, 2)).any(-1).cpu().numpy(),
            weight=_per_block(visibility(current)),
        )
        self._move()
        self.optimism = 0.99
        """Error to aim at for each unit of target: what came of aiming in the last frame holds in this one."""
        self.codes: Tensor | None = None
        self.intra_codes: Tensor | None = None

    def _errors(self, frame: Tensor) -> Tensor:
        return cell_errors(frame, self.current, self.shown)

    def _move(self) -> None:
        """Settles which blocks have vectors of their own in the context of the codes, and what errors that leaves."""
        choice = choose(self.options, self.price)
        while self.allowance is not None and choice.tokens > max(self.allowance, 1.0):
            self.price *= 1.25
            choice = choose(self.options, self.price)
        self.moves = choice.modes == Mode.MOTION
        moves = torch.from_numpy(self.moves).to(self.field.device).unsqueeze(-1)
        self.context = compensate(self.planes, torch.where(moves, self.field, self.vector.view(1, 1, 1, 2)))
        errors, own = _per_block(self._errors(self.context)), self.moves[..., np.newaxis]
        self.left = float(errors.sum())
        """Squared error that motion leaves."""
        self.options.skip = np.where(own, self.options.skip, errors)  # what neighbours blend in is known now
        self.options.motion = np.where(own, errors, self.options.motion)
        self.options.context = errors

    def _code(self) -> Tensor:
        """Codes of all cells, int64 `[1, h, w]`; then they are among the options."""
        if self.codes is None:
            unit = to_unit(self.context)
            self.check()
            self.codes = self.decoder.codec.encode(to_unit(self.current), unit)
            everywhere = torch.ones_like(self.codes, dtype=torch.bool)
            coded = to_bytes(self.decoder.codec.decode(self.codes, everywhere, unit))
            self.options.coded = _per_block(self._errors(coded))
        return self.codes

    def offer_intra(self, key: Candidate) -> None:
        """Adds the blocks of a key frame to the choice."""
        assert isinstance(key.frame, IFrame)
        self.options.intra = _per_block(self._errors(key.decoded)).sum(-1)
        self.intra_codes = torch.from_numpy(key.frame.codes)

    def price_for(self, *, error: float | None = None, tokens: float | None = None, low: float = 0.5) -> float:
        """The highest price, within 2 %, with at most `error` expected, or the lowest one with at most `tokens`.

        `low` is the least price considered: the answer where none meets the error, or where it meets the tokens.
        """

        def holds(price: float) -> bool:
            choice = choose(self.options, price)
            return choice.error <= error if error is not None else choice.tokens > (tokens or 0.0)

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
            return self._by_motion(target) or self._meet(target)
        assert allowance is not None
        self._code()
        return self.build(self.price_for(tokens=allowance))

    def _by_motion(self, target: float) -> Candidate | None:
        """The frame without a code, if it meets the target at no lower a price than the last frame's: no net runs."""
        aim = target
        while self.left <= target and aim > 0.9 * target:
            found = self.build(self.price_for(error=aim, low=self.price))
            if found.error <= target:
                return found
            aim -= 1.1 * (found.error - target)  # blocks that overlap are expected to do a little better or worse
        return None

    def _meet(self, target: float) -> Candidate:
        """Neighbouring cells help each other, so the error is not the sum of its parts: decode, compare, aim again."""
        self._code()
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
            if CLOSE * target <= found.error <= target:
                self.optimism = aim / target
                break
            if found.price <= least:
                break
            aim *= min(max((0.99 * target / max(found.error, 1.0)) ** 1.2, 0.3), 3.0)
        assert best is not None
        return best

    def build(self, price: float) -> Candidate:
        """Codes the frame at this price and decodes it."""
        self.check()
        choice = choose(self.options, price)
        modes, marked = choice.modes, choice.marked
        delta = (self.field[0] - self.vector.view(1, 1, 2)).cpu().numpy()
        delta[(modes == Mode.RESIDUAL) & ~self.moves] = 0
        codes, intra = np.zeros((0,), np.int64), np.zeros((0, 4), np.int32)
        if self.codes is not None:
            codes = _per_block(self.codes[0])[marked]
        if self.intra_codes is not None:
            intra = _per_block(self.intra_codes)[modes == Mode.INTRA]
        frame = PFrame(
            global_motion=(int(self.vector[0]), int(self.vector[1])),
            modes=modes,
            motion=delta[(modes == Mode.MOTION) | (modes == Mode.RESIDUAL)].astype(np.int8),
            masks=(marked @ np.array([1, 2, 4, 8]))[modes == Mode.RESIDUAL].astype(np.uint8),
            residual=codes.astype(np.int32),
            intra=intra.astype(np.int32),
        )
        decoded = self.decoder.predicted(frame, self.planes)
        return Candidate(frame, decoded, float(self._errors(decoded).sum()), sum(count_frame(frame).values()), price)
