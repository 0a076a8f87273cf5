"""How much each frame of a stream may cost: a quality to hold, or a budget of tokens to keep."""

import math
from abc import ABC, abstractmethod

LOWEST_QUALITY, HIGHEST_QUALITY = 10.0, 60.0
"""dB. Below, nothing is left to see; above, the tokens of this alphabet cannot reach."""


class RateControl(ABC):
    """Asked before each predicted frame, told after each frame."""

    gop: int
    """Most frames from one key frame to the next."""
    follows_keys = False
    """Whether the quality asked for is that of a key frame: where new content comes, one has to be tried."""

    def target_error(self, samples: int) -> float | None:
        """Squared error over `samples` that the next frame should not pass; None where tokens are what counts."""
        return None

    def allowance(self) -> float | None:
        """Tokens that the next predicted frame may take; None where quality is what counts."""
        return None

    def affords(self, key_tokens: int) -> bool:
        """Whether the next frame may be a key frame."""
        return True

    def tried_key(self, psnr: float) -> None:  # noqa: B027 (most controls do not care)
        """What a key frame would reach here, in dB, whether or not it is sent."""

    @abstractmethod
    def spent(self, tokens: int, psnr: float, key: bool) -> None:
        """What the last frame took, and the dB it reached."""


class FixedQuality(RateControl):
    """Every frame reaches `quality` dB, as far as the codec can."""

    def __init__(self, quality: float, gop: int):
        self.quality, self.gop = float(quality), gop

    def target_error(self, samples: int) -> float | None:
        # A little more than that: a frame that only repeats its key frame is as good, whatever the rounding here.
        return samples * 255.0**2 / 10 ** (self.quality / 10) * (1 + 1e-9)

    def spent(self, tokens: int, psnr: float, key: bool) -> None:
        pass


class KeyQuality(FixedQuality):
    """Every frame is as good as a key frame of the same content: no more is spent on change than on content."""

    follows_keys = True

    def __init__(self, gop: int, margin: float = 0.0):
        super().__init__(HIGHEST_QUALITY, gop)
        self.margin = margin

    def tried_key(self, psnr: float) -> None:
        self.quality = min(max(psnr + self.margin, LOWEST_QUALITY), HIGHEST_QUALITY)


class TokenBudget(RateControl):
    """A purse that fills with every frame. Key frames overdraw it; the predicted frames after them pay that back."""

    def __init__(self, tokens_per_frame: float, key_tokens: int, length: int | None, gop: int):
        # A key frame takes 60 % of its group's tokens at most, so that something is left to follow the motion with.
        self.gop = max(gop, math.ceil(key_tokens / (0.6 * tokens_per_frame)))
        if length is not None:
            self.gop = max(self.gop, length) if length < 2 * self.gop else self.gop
        self.income, self.key_tokens, self.left = tokens_per_frame, key_tokens, length
        self.balance, self.since_key = 0.0, 0

    def _horizon(self) -> int:
        """Frames over which a debt is paid back, the next one included."""
        frames = max(self.gop - self.since_key, self.gop // 4, 1)
        return frames if self.left is None else max(1, min(frames, self.left))

    def allowance(self) -> float | None:
        return max(1.0, self.income + self.balance / self._horizon())

    def affords(self, key_tokens: int) -> bool:
        debt = self.balance + self.income - key_tokens
        if self.left is not None:
            return debt + (self.left - 1) * (self.income - 1) >= 0
        return debt >= -1.5 * self.key_tokens

    def spent(self, tokens: int, psnr: float, key: bool) -> None:
        self.balance += self.income - tokens
        self.since_key = 1 if key else self.since_key + 1
        if self.left is not None:
            self.left = max(0, self.left - 1)


def make_rate_control(
    quality: float | None,
    budget: float | None,
    frame_rate: float,
    key_tokens: int,
    length: int | None,
    gop: int,
    margin: float = 0.0,
) -> RateControl:
    """The control for one knob. Raises ValueError where the knob is out of range or the budget cannot be met.

    key_tokens: tokens of a key frame at this size. length: frames of the clip, if known. margin: dB above the key
    frames where neither quality nor budget is given.
    """
    if quality is not None and budget is not None:
        raise ValueError(f"Both a quality ({quality} dB) and a budget ({budget} tokens/s) are given. Give one of them.")
    if quality is not None:
        if not LOWEST_QUALITY <= quality <= HIGHEST_QUALITY:
            raise ValueError(
                f"Invalid quality ({quality}). Supported are {LOWEST_QUALITY:g} to {HIGHEST_QUALITY:g} dB."
            )
        return FixedQuality(quality, gop)
    if budget is None:
        return KeyQuality(gop, margin)
    income = budget / frame_rate
    # One token a frame is the least a predicted frame takes; without a known length, a key frame every ten seconds.
    frames = length if length is not None else math.ceil(10 * frame_rate)
    least = (key_tokens + frames - 1) / frames
    if not income >= least:
        raise ValueError(
            f"Invalid budget ({budget:g} tokens/s). At this size a key frame alone takes {key_tokens} tokens, so that "
            f"this clip needs {math.ceil(least * frame_rate)} tokens/s or more; raise the budget or make the frames "
            "smaller."
        )
    return TokenBudget(income, key_tokens, length, gop)
