"""Frames that are kept while a clip is upscaled: those for the socket, and some that show what was computed."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..models.changed_tiles import TILE
from ..models.upscale_reuse import ReusingUpscaler
from ..video.axes import share
from ..video.canvas import SERIES, Mark, heading, key, stacked
from ..video.drawing import outlined_panel, panel_count, panel_grid, scaled, shaded
from ..video.series_plots import bar_chart

MOST = 12
"""Previews; those of a longer clip are as many frames apart as it takes."""
_WIDEST = 1280  # pixels
_SHADE = 0.5  # brightness of what was reused
_COMPUTED = SERIES[0]
_REUSED = (64, 64, 64)  # medium grey, shaded


def marked(frame: np.ndarray, changed: np.ndarray, side: int) -> np.ndarray:
    """uint8 `[H, W, 3]`: what was computed anew in its colours, what was reused in dark grey.

    changed: bool `[h, w]` of tiles of `side` x `side` pixels that cover the frame, the last ones perhaps only in part.
    """
    H, W, _ = frame.shape
    inside = changed.repeat(side, 0).repeat(side, 1)[:H, :W, np.newaxis]
    return np.where(inside, frame, shaded(frame, _SHADE))


@dataclass
class Previews:
    """A few frames, evenly spaced over as many as come, and how much of each frame was computed."""

    frames: list[np.ndarray] = field(default_factory=list)
    """uint8 `[1, h, w, 3]`."""
    tiles: list[tuple[np.ndarray, float]] = field(default_factory=list)
    """Of each of these frames: bool `[th, tw]`, what was computed, and how many pixels wide a tile is."""
    shares: list[float] = field(default_factory=list)
    """Of the tiles of every frame."""
    step: int = 1
    """Previews are so many frames apart."""

    def add(self, frame: np.ndarray, changed: np.ndarray, side: int) -> None:
        """An upscaled frame uint8 `[H, W, 3]`, and which tiles of it were computed anew."""
        if len(self.shares) % self.step == 0:
            shown = marked(frame, changed, side)
            small = scaled(shown, min(_WIDEST, shown.shape[1]))
            self.frames.append(small[np.newaxis])
            self.tiles.append((changed, side * small.shape[1] / shown.shape[1]))
        self.shares.append(float(changed.mean()))
        if len(self.frames) > MOST:
            self.frames, self.tiles = self.frames[::2], self.tiles[::2]
            self.step *= 2

    def sheet(self) -> np.ndarray:
        """uint8 `[H, W, 3]`: a few of the previews, and the share of every frame as bars."""
        H, W, _ = self.frames[0][0].shape
        places = np.linspace(0, len(self.frames) - 1, min(panel_count(W, H), len(self.frames))).round().astype(int)
        numbers = [int(place) * self.step for place in places]
        captions = [f"{number}: {self.shares[number]:.0%} anew" for number in numbers]
        panels = [self._panel(place, len(places)) for place in places]
        marks = [Mark("computed anew", _COMPUTED, filled=False), Mark("reused, in dark grey", _REUSED)]
        return stacked(
            [
                heading(f"{np.mean(self.shares):.1%} of the tiles of {len(self.shares):,} frames were computed"),
                panel_grid(panels, captions),
                key(marks),
                bar_chart({"share of its tiles": self.shares}, title="Computed of each frame:", text=share),
            ]
        )

    def _panel(self, place: int, panels: int) -> np.ndarray:
        frame, (tiles, side) = self.frames[place][0], self.tiles[place]
        return frame if tiles.all() else outlined_panel(frame, tiles, _COMPUTED, cell=side, panels=panels)


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
