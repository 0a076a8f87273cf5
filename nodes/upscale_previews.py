"""Frames that are kept while a clip is upscaled: those for the socket, and some that show what was computed."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..models.changed_tiles import TILE
from ..models.upscale_reuse import ReusingUpscaler
from ..video.drawing import scaled

MOST = 12
"""Previews; those of a longer clip are as many frames apart as it takes."""
_WIDEST = 1280  # pixels


_SHADE = 0.5  # brightness of what was reused


def marked(frame: np.ndarray, changed: np.ndarray, side: int) -> np.ndarray:
    """uint8 `[H, W, 3]` with what was computed anew in its colours, and what was reused in dark grey.

    changed: bool `[h, w]` of tiles of `side` x `side` pixels that cover the frame, the last ones perhaps only in part.
    """
    H, W, _ = frame.shape
    grey = np.rint(frame @ np.array([0.299, 0.587, 0.114]) * _SHADE).astype(np.uint8)
    return np.where(changed.repeat(side, 0).repeat(side, 1)[:H, :W, np.newaxis], frame, grey[..., np.newaxis])


@dataclass
class Previews:
    """A few frames, evenly spaced over as many as come."""

    frames: list[np.ndarray] = field(default_factory=list)
    """uint8 `[1, h, w, 3]`."""
    _seen: int = 0
    _step: int = 1

    def add(self, frame: np.ndarray, changed: np.ndarray, side: int) -> None:
        """An upscaled frame uint8 `[H, W, 3]`, and which tiles of it were computed anew."""
        if self._seen % self._step == 0:
            shown = marked(frame, changed, side)
            self.frames.append(scaled(shown, min(_WIDEST, shown.shape[1]))[np.newaxis])
        self._seen += 1
        if len(self.frames) > MOST:
            self.frames = self.frames[::2]
            self._step *= 2


class PreviewingUpscaler(ReusingUpscaler):
    """One that shows what it computes."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.previews = Previews()

    def frame(self, frame: np.ndarray, cut: bool = False) -> np.ndarray:
        """As a ReusingUpscaler's."""
        made = super().frame(frame, cut)
        self.previews.add(made, self.changed, self.scale * TILE)
        return made
