"""Heat maps and plots: colours are where the tokens are, bars are as high as their numbers."""

from itertools import pairwise

import numpy as np
import pytest

from tokenreel.video.canvas import BACKGROUND
from tokenreel.video.drawing import (
    HEAT,
    STATES,
    captioned,
    framed,
    heat_key,
    heat_overlay,
    heat_sheet,
    outlined,
    outlined_panel,
    panel_count,
    panel_grid,
    scaled,
    shaded,
    state_sheet,
    tiled,
)


def flat(height, width, level=128):
    return np.full((height, width, 3), level, dtype=np.uint8)


def is_grey(pixels):
    return bool((pixels == pixels[..., :1]).all())


def luma(colour):
    return float(np.dot(colour, [0.299, 0.587, 0.114]))


def count_colour(picture, colour):
    return int((picture == np.array(colour, dtype=np.uint8)).all(-1).sum())


class TestHeatOverlay:
    def test_blocks_without_tokens_stay_grey_and_others_do_not(self):
        costs = np.array([[0, 1], [5, 0]])
        drawn = heat_overlay(flat(32, 32), costs)
        assert drawn.dtype == np.uint8 and drawn.shape == (32, 32, 3)
        assert is_grey(drawn[:16, :16]) and is_grey(drawn[16:, 16:])
        assert not is_grey(drawn[:16, 16:]) and not is_grey(drawn[16:, :16])

    def test_more_tokens_are_lighter_for_eyes_that_see_no_colour(self):
        drawn = heat_overlay(flat(16, 80), np.array([[1, 2, 3, 4, 5]]))
        lightness = [luma(drawn[0, 16 * block]) for block in range(5)]
        assert all(later - earlier > 8 for earlier, later in pairwise(lightness))

    def test_more_than_the_last_step_looks_like_the_last_step(self):
        drawn = heat_overlay(flat(16, 32), np.array([[len(HEAT), 99]]))
        assert (drawn[:, :16] == drawn[:, 16:]).all()

    def test_the_picture_stays_visible_under_the_colours(self):
        frame = flat(16, 16)
        frame[:, 8:] = 250
        drawn = heat_overlay(frame, np.array([[4]]))
        assert luma(drawn[0, 12]) - luma(drawn[0, 4]) > 20

    def test_the_frame_is_not_changed(self):
        frame = flat(16, 16)
        heat_overlay(frame, np.array([[3]]))
        assert (frame == 128).all()

    def test_odd_sizes_take_part_of_the_last_blocks(self):
        drawn = heat_overlay(flat(17, 33), np.array([[0, 0, 0], [0, 0, 2]]))
        assert drawn.shape == (17, 33, 3)
        assert is_grey(drawn[:16]) and not is_grey(drawn[16:, 32:])

    def test_another_block_size(self):
        drawn = heat_overlay(flat(8, 16), np.array([[0, 1]]), block=8)
        assert is_grey(drawn[:, :8]) and not is_grey(drawn[:, 8:])

    def test_costs_must_cover_the_frame(self):
        with pytest.raises(ValueError, match=r"costs of shape \(1, 1\).*32x16 frame has 1 x 2 blocks"):
            heat_overlay(flat(16, 32), np.array([[1]]))


class TestPieces:
    def test_scaled_keeps_aspect_and_hard_edges(self):
        frame = flat(4, 8, 0)
        frame[:, 4:] = 255
        larger = scaled(frame, 32)
        assert larger.shape == (16, 32, 3)
        assert set(np.unique(larger)) == {0, 255}
        assert scaled(frame, 4).shape == (2, 4, 3)
        assert scaled(frame, 8) is frame

    def test_caption_goes_under_the_picture(self):
        frame = flat(40, 120)
        result = captioned(frame, "7 key: 1,024 tokens")
        assert (result[:40] == frame).all() and result.shape[1] == 120
        assert count_colour(result[40:], BACKGROUND) < result[40:].shape[0] * 120  # something is written

    def test_tiles_stand_in_rows(self):
        panels = [flat(10, 20, level) for level in (10, 20, 30)]
        sheet = tiled(panels, 2, gap=4)
        assert sheet.shape == (24, 44, 3)
        assert (sheet[:10, :20] == 10).all() and (sheet[:10, 24:] == 20).all() and (sheet[14:, :20] == 30).all()
        assert (sheet[14:, 24:] == np.array(BACKGROUND)).all()

    def test_fewer_panels_than_columns(self):
        assert tiled([flat(10, 20)], 4).shape == (10, 20, 3)

    def test_no_panels(self):
        with pytest.raises(ValueError, match="sheet of 0 panels"):
            tiled([], 4)

    def test_key_shows_colours_as_they_look_over_medium_grey(self):
        key = heat_key()
        drawn = heat_overlay(flat(16, 80), np.array([[1, 2, 3, 4, 5]]))
        for block in range(5):
            near = np.abs(key.astype(int) - drawn[0, 16 * block].astype(int)).max(-1) <= 1
            assert near.sum() > 50


class TestPanels:
    @pytest.mark.parametrize(
        ("size", "columns"), [((1080, 1920), 3), ((480, 480), 3), ((1920, 1080), 4), ((300, 1000), 2)]
    )
    def test_as_many_beside_each_other_as_are_legible(self, size, columns):
        marked = [flat(*size, 40 + 30 * index) for index in range(6)]
        grid = panel_grid(marked, ["caption"] * 6)
        assert grid.shape[1] <= 688
        levels = [level for level in (40, 70, 100, 130) if (grid[20] == level).all(-1).any()]
        assert levels == [40, 70, 100, 130][:columns]

    def test_very_tall_and_very_wide_frames(self):
        assert panel_grid([flat(4000, 16)] * 2, ["a", "b"]).shape[0] < 700
        wide = panel_grid([flat(2, 4000, 77)] * 2, ["a", "b"])
        assert wide.shape[0] < 100 and (wide[0] == 77).all(-1).sum() > 600

    def test_one_alone_is_larger(self):
        one, two = (panel_grid([flat(90, 160, 77)] * count, ["a"] * count) for count in (1, 6))
        assert (one[0] == 77).all(-1).sum() > 1.8 * (two[0] == 77).all(-1).sum() / 3

    def test_small_frames_are_enlarged_with_hard_edges(self):
        frame = flat(17, 9, 10)
        frame[:, 4:] = 240
        assert set(np.unique(panel_grid([frame], ["a"])[:300, :100])) <= {10, 240}

    def test_fewer_of_upright_ones(self):
        assert panel_count(1080, 1920) < panel_count(1920, 1080) == panel_count(480, 480)

    def test_frames_around(self):
        drawn = framed(flat(60, 120), STATES[1])
        assert (drawn[:2] == STATES[1]).all() and (drawn[:, -2:] == STATES[1]).all()
        assert (drawn[2:-2, 2:-2] == 128).all()
        assert (framed(flat(1, 1), STATES[1]) == STATES[1]).all()

    def test_shaded_is_grey_and_darker(self):
        frame = flat(4, 4)
        frame[..., 0] = 255
        grey = shaded(frame, 0.5)
        assert is_grey(grey) and grey.dtype == np.uint8 and grey[0, 0, 0] == round(0.5 * luma((255, 128, 128)))


class TestHeatSheet:
    @pytest.mark.parametrize(("height", "width", "panels"), [(48, 64, 1), (48, 64, 12), (90, 40, 7), (1080, 1920, 2)])
    def test_has_the_same_width_for_every_clip(self, height, width, panels):
        drawn = [heat_overlay(flat(height, width), np.ones((-(-height // 16), -(-width // 16)), int))] * panels
        sheet = heat_sheet(drawn, ["caption"] * panels, title="title", series={"key": [1.0] * panels})
        assert sheet.dtype == np.uint8 and sheet.shape[1] == 720
        assert sheet.shape[0] < 1600

    def test_a_page_has_a_wide_one(self):
        drawn = [heat_overlay(flat(48, 64), np.ones((3, 4), int))] * 8
        series = {"key": [1.0] * 8}
        sheet = heat_sheet(drawn, ["caption"] * 8, title="t", series=series, columns=4, width=860, scale=1)
        assert sheet.shape[1] == 860 + 16

    def test_every_panel_needs_a_caption(self):
        with pytest.raises(ValueError, match="zip"):
            heat_sheet([flat(16, 16)] * 2, ["one"], title="", series={"key": [1.0]})


class TestOutlines:
    def test_a_line_inside_the_cells(self):
        cells = np.zeros((4, 4), bool)
        cells[1:3, 1:3] = True
        drawn = outlined(flat(32, 32), cells, STATES[1])
        changed = (drawn != 128).any(-1)
        assert not changed[:8].any() and not changed[24:].any() and not changed[:, :8].any()
        assert changed[8:10, 8:24].all() and changed[8:24, 22:24].all() and not changed[10:22, 10:22].any()
        assert count_colour(drawn, STATES[1]) == changed.sum()

    def test_cells_beyond_the_frame(self):
        drawn = outlined(flat(20, 12), np.ones((4, 2), bool), STATES[1])
        assert drawn.shape == (20, 12, 3) and count_colour(drawn[2:-2, 2:-2], STATES[1]) == 0
        assert count_colour(drawn, STATES[1]) == 20 * 12 - 16 * 8

    def test_nothing_marked(self):
        assert (outlined(flat(16, 16), np.zeros((2, 2), bool), STATES[1]) == 128).all()


class TestOutlinedPanels:
    @pytest.mark.parametrize("times", [1, 20])
    def test_lines_are_as_wide_whatever_the_size_of_frames(self, times):
        cells = np.zeros((4, 6), bool)
        cells[1:3, 2:4] = True
        panel = outlined_panel(flat(32 * times, 48 * times), cells, STATES[1], cell=8 * times, panels=6)
        marked = (panel == STATES[1]).all(-1)
        rows, columns = (np.flatnonzero(marked.any(axis)) for axis in (1, 0))
        h, w, _ = panel.shape
        assert w == 224 and h == pytest.approx(w * 2 / 3, abs=1)
        assert rows.min() == pytest.approx(h / 4, abs=1) and columns.max() == pytest.approx(w * 4 / 6 - 1, abs=1)
        assert marked[h // 2].sum() == marked[:, w // 2].sum() == 4


class TestStateSheet:
    def test_each_panel_has_the_colour_of_its_state(self):
        colours = {"known": STATES[0], "made": STATES[1], "held": STATES[2]}
        sheet = state_sheet(
            [flat(40, 60)] * 3, ["a", "b", "c"], ["known", "made", "made"], title="two\nlines", colours=colours
        )
        shares = {name: count_colour(sheet, colour) for name, colour in colours.items()}
        assert shares["made"] > 1.8 * shares["known"] > shares["held"] > 0  # that one is in the key alone

    @pytest.mark.parametrize("size", [(40, 60), (60, 40), (40, 90)])
    def test_sheets_are_of_one_width(self, size):
        sheet = state_sheet([flat(*size)] * 12, ["x"] * 12, ["a"] * 12, title="t", colours={"a": STATES[0]})
        assert sheet.shape[1] == 720
