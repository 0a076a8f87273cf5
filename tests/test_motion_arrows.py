"""Arrows point where things moved, as far as they moved."""

import numpy as np
import pytest

from tokenreel.video.canvas import TEXT
from tokenreel.video.motion_arrows import arrow_panels

FRAME = np.full((96, 128, 3), 128, np.uint8)


def bright(picture):
    return (np.abs(picture.astype(int) - TEXT) < 60).all(-1)


def field(dy, dx):
    return np.full((6, 8, 2), (dy, dx), dtype=float)


def test_nothing_moved_or_nothing_is_known():
    assert arrow_panels([FRAME], [field(0, 0)], ["0"]) == []
    assert arrow_panels([FRAME], [field(np.nan, np.nan)], ["0"]) == []
    assert arrow_panels([], [], []) == []


@pytest.mark.parametrize(("dy", "dx"), [(0, 4), (0, -4), (4, 0), (-4, 0)])
def test_heads_are_where_things_moved_to(dy, dx):
    """An arrow is widest at its head."""
    motion = np.full((6, 8, 2), np.nan)
    motion[3, 3] = (dy, dx)
    panel = bright(arrow_panels([FRAME], [motion], ["7"])[1])[:168, :225]
    rows, columns = np.nonzero(panel)
    along, across = (columns, rows) if dx else (rows, columns)
    near = [across[along == place] for place in np.unique(along)]
    widest = np.unique(along)[int(np.argmax([np.ptp(each) for each in near]))]
    middle = (along.min() + along.max()) / 2
    assert (widest > middle) == (dy + dx > 0)


def test_longer_motion_has_longer_arrows_and_is_told():
    far, near = np.full((2, 6, 8, 2), np.nan)
    far[1, 1], near[1, 1] = (0, 6), (0, 3)
    _, grid = arrow_panels([FRAME, FRAME], [far, near], ["1", "2"])
    long, short = (np.ptp(np.nonzero(bright(part))[1]) for part in (grid[:168, :225], grid[:168, 234:460]))
    assert long > 1.5 * short > 0


def test_small_blocks_share_arrows():
    """A hundred blocks across would be a hundred arrows of three pixels."""
    fine = np.zeros((60, 100, 2))
    fine[..., 1] = np.tile([8.0, 0.0], 50)
    frame = np.full((960, 1600, 3), 128, np.uint8)
    text, grid = arrow_panels([frame] * 3, [fine] * 3, ["1", "2", "3"])
    assert grid.shape[1] == 688 and text.shape[1] == 688
    row = bright(grid[:136, :220]).any(0)
    assert 5 <= np.count_nonzero(np.diff(row.astype(int)) == 1) <= 16
