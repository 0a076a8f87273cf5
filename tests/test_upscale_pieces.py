"""Pieces of a frame: all that is asked for, nothing twice, cheaper than the whole, never too large."""

import numpy as np
import pytest

from tokenreel.models.changed_tiles import TILE
from tokenreel.models.upscale_pieces import Cutter

H, W = 205, 331
TILES = (-(-H // TILE), -(-W // TILE))


def made_by(pieces, height=H, width=W):
    """How often each pixel is made."""
    times = np.zeros((height, width), int)
    for piece in pieces:
        piece.inner.of(times)[...] += 1
    return times


def cutter(**options):
    return Cutter(**{"height": H, "width": W, "margin": 5, "at_once": 10**9, "per_piece": 256} | options)


@pytest.mark.parametrize("share", [0.002, 0.02, 0.2, 1.0])
@pytest.mark.parametrize("at_once", [10**9, 4000])
def test_every_tile_once_with_its_margin(share, at_once):
    tiles = np.random.default_rng(0).random(TILES) < share
    tiles[-1, -1] = True
    pieces = cutter(at_once=at_once).around(tiles)
    times = made_by(pieces)
    assert times.max() == 1
    assert (times[tiles.repeat(TILE, 0).repeat(TILE, 1)[:H, :W]] == 1).all()
    for piece in pieces:
        inner, outer = piece.inner, piece.outer
        assert (inner.top % TILE, inner.left % TILE) == (0, 0)
        assert (outer.top, outer.left) == (max(0, inner.top - 5), max(0, inner.left - 5))
        assert (outer.bottom, outer.right) == (min(H, inner.bottom + 5), min(W, inner.right + 5))
        assert outer.area <= at_once


def test_nothing_for_nothing():
    assert cutter().around(np.zeros(TILES, bool)) == []


def test_what_is_far_apart_is_cut_apart():
    tiles = np.zeros(TILES, bool)
    tiles[2:4, 2:4] = tiles[20:22, 30:33] = True
    pieces = cutter().around(tiles)
    assert sorted(piece.inner.area for piece in pieces) == [4 * TILE**2, 6 * TILE**2]


def test_what_is_near_stays_together():
    """A tile of gap takes less than a second margin, and less than what each piece takes."""
    tiles = np.zeros(TILES, bool)
    tiles[2, 2] = tiles[2, 4] = True
    assert len(cutter().around(tiles)) == 1
    assert len(cutter(per_piece=0, margin=1).around(tiles)) == 2


def test_an_l_is_cut_where_that_saves():
    tiles = np.zeros(TILES, bool)
    tiles[:, :3] = tiles[-3:, :] = True
    pieces = cutter().around(tiles)
    assert len(pieces) == 2 and sum(piece.inner.area for piece in pieces) < 0.3 * H * W


def test_price_is_what_is_given_and_something_for_each():
    pieces = cutter().around(np.eye(*TILES, dtype=bool))
    assert cutter().price(pieces) == sum(piece.outer.area for piece in pieces) + 256 * len(pieces)
    assert cutter().price(pieces) < cutter().price(cutter().whole())


@pytest.mark.parametrize(("height", "width"), [(8, 8), (205, 331), (1080, 64), (720, 1280)])
@pytest.mark.parametrize("at_once", [2000, 30_000, 10**7])
def test_a_whole_frame_in_parts_that_fit(height, width, at_once):
    pieces = cutter(height=height, width=width, at_once=at_once).whole()
    assert (made_by(pieces, height, width) == 1).all()
    assert all(piece.outer.area <= at_once for piece in pieces)
    if height * width <= at_once:
        assert len(pieces) == 1 and pieces[0].outer.area == height * width


def test_a_tile_is_the_least_that_a_part_is():
    pieces = cutter(height=24, width=24, at_once=1).whole()
    assert len(pieces) == 9 and {piece.inner.area for piece in pieces} == {TILE**2}
