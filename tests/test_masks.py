"""Masks: read from pictures, drawn as rectangles, and the cells that they cover, also at other sizes."""

import numpy as np
import pytest
from PIL import Image

from tokenreel.video.masks import area_mask, covered_cells, read_mask

FRAME, GRID = (40, 24), (4, 6)  # three rows and five columns of cells are seen; the grid is whole blocks


def cells_of(mask, frame=FRAME, grid=GRID):
    return covered_cells(mask, frame, grid, 8)


class TestCoveredCells:
    @pytest.mark.parametrize(("y", "x"), [(0, 0), (7, 7), (8, 8), (15, 31), (16, 32)])
    def test_one_pixel_covers_its_cell(self, y, x):
        mask = np.zeros(FRAME[::-1], bool)
        mask[y, x] = True
        found = cells_of(mask)
        assert found.shape == (1, *GRID)
        assert found[0, :3, :5].sum() == 1 and found[0, y // 8, x // 8]

    def test_padding_repeats_the_edge(self):
        mask = np.zeros(FRAME[::-1], bool)
        mask[23, 39] = True
        assert np.argwhere(cells_of(mask)[0]).tolist() == [[2, 4], [2, 5], [3, 4], [3, 5]]
        assert not cells_of(~np.ones(FRAME[::-1], bool)).any() and cells_of(np.ones(FRAME[::-1], bool)).all()

    def test_cells_that_are_cut_off_and_padding(self):
        mask = np.zeros((17, 9), bool)  # the second column of cells has one pixel
        mask[16, 8] = True
        assert np.argwhere(cells_of(mask, (9, 17), (4, 2))[0]).tolist() == [[2, 1], [3, 1]]

    def test_frames_of_their_own(self):
        mask = np.zeros((3, 24, 40), np.float32)
        mask[1, 0, 0], mask[2, 0, 8] = 0.5, 0.49
        assert np.argwhere(cells_of(mask)).tolist() == [[1, 0, 0]]

    @pytest.mark.parametrize("times", [0.25, 0.5, 2, 2.5])
    def test_other_sizes_cover_no_less(self, times):
        rng = np.random.default_rng(0)
        small = rng.random((int(24 * times), int(40 * times))) > 0.98
        y, x = (
            np.minimum((np.arange(n) * times).astype(int), m - 1) for n, m in zip((24, 40), small.shape, strict=True)
        )
        scaled = cells_of(small[np.ix_(y, x)])
        assert (cells_of(small) >= scaled).all()
        assert not cells_of(np.zeros_like(small)).any()

    @pytest.mark.parametrize("shape", [(24, 24), (40, 24), (24, 42)])
    def test_other_shapes(self, shape):
        with pytest.raises(ValueError, match=rf"Invalid mask of {shape[1]}x{shape[0]} pixels\. The frames have 40x24"):
            cells_of(np.ones(shape, bool))

    @pytest.mark.parametrize("shape", [(24,), (1, 1, 24, 40), (0, 24, 40)])
    def test_no_masks(self, shape):
        with pytest.raises(ValueError, match="Invalid mask of shape"):
            cells_of(np.ones(shape, bool))


class TestAreas:
    def test_rectangle(self):
        mask = area_mask(8, 16, 9, 1, FRAME)
        assert mask.sum() == 9 and mask[16, 8:17].all()

    @pytest.mark.parametrize("area", [(-1, 0, 4, 4), (0, 0, 0, 4), (36, 0, 5, 4), (0, 24, 1, 1)])
    def test_outside(self, area):
        with pytest.raises(ValueError, match=r"Invalid area .* inside the frames of 40x24"):
            area_mask(*area, FRAME)


class TestReading:
    def test_light_is_masked(self, tmp_path):
        Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save(tmp_path / "m.png")
        assert read_mask(tmp_path / "m.png").tolist() == [[False, False, True, True]]

    def test_no_picture(self, tmp_path):
        (tmp_path / "m.png").write_text("none")
        with pytest.raises(ValueError, match=r"Cannot read the mask 'm\.png'"):
            read_mask(tmp_path / "m.png")

    def test_too_large(self, tmp_path, monkeypatch):
        monkeypatch.setattr("tokenreel.video.masks._MOST_PIXELS", 3)
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "m.png")
        with pytest.raises(ValueError, match=r"The mask 'm\.png' has 2x2 pixels"):
            read_mask(tmp_path / "m.png")
