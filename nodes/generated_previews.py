"""A picture of a clip that was generated: what was known, and what was made."""

from collections.abc import Callable

import numpy as np

from ..generation import Generated
from ..models.checkpoint import AnyTokenizer
from ..stations import decoded_frames
from ..tokens.video_tokens import CELL
from ..video.drawing import STATES, outlined_panel, panel_count, state_sheet
from .inspecting import spread

_COLOURS = dict(zip(("known", "generated", "repeated", "faded"), STATES, strict=True))


def shown_frames(made: Generated, panels: int) -> list[int]:
    """The frames to look at: from the one before the first that was made on, as many as there are panels.

    Of a clip in which places were filled in, those with such places, evenly spread.
    """
    new = [index for index, way in enumerate(made.ways) if way == "generated"]
    if not made.made[new].all():
        return [new[place] for place in spread(len(new), panels)]
    start = max(0, min(new[0] - 1 if new else 0, len(made.ways) - panels))
    return list(range(len(made.ways)))[start : start + panels]


def draw_preview(made: Generated, tokenizer: AnyTokenizer, check: Callable[[], None]) -> np.ndarray:
    """uint8 `[H, W, 3]`: decoded frames, framed by the way in which they came about; what was filled in outlined."""
    tokens = made.tokens
    indices = shown_frames(made, panel_count(tokens.width, tokens.height))
    panels, captions, states = [], [], []
    for index in indices:
        check()
        panel, cells = next(decoded_frames(tokens.trim(index, index + 1), tokenizer)), made.made[index]
        partly = cells.any() and not cells.all()
        if partly:
            panel = outlined_panel(panel, cells, _COLOURS["generated"], cell=CELL, panels=len(indices))
        panels.append(panel)
        states.append("known" if partly else made.ways[index])
        captions.append(f"{index}: {f'{cells.mean():.0%} filled in' if partly else states[-1]}")
    facts = made.report
    title = (
        f"Frames {indices[0]} to {indices[-1]} of {facts['frames']}\n"
        f"{facts['generated']} were generated, {facts['made_fraction']:.0%} of the tokens"
    )
    colours = {way: colour for way, colour in _COLOURS.items() if way in (*states, "known", "generated")}
    return state_sheet(panels, captions, states, title=title, colours=colours)
