"""What pictures are drawn with: colours that everybody can tell apart, text that fits, axes with round numbers."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from colour_vision import EYES, contrast, distance

from tokenreel.video.axes import Plot, end_of, frames_axis, share, usual_end
from tokenreel.video.canvas import (
    BACKGROUND,
    FAINT,
    LINE,
    SERIES,
    TEXT,
    WIDTH,
    Canvas,
    Mark,
    fitted,
    heading,
    key,
    log_ticks,
    plain,
    stacked,
    text_width,
    thinned,
    ticks,
    wrapped,
)
from tokenreel.video.drawing import HEAT

each_eye = pytest.mark.parametrize("eye", EYES)


class TestColours:
    @each_eye
    def test_series_stay_apart(self, eye):
        assert min(distance(*pair, eye) for pair in combinations(SERIES, 2)) > 25

    @each_eye
    @pytest.mark.parametrize("under", [30, 130, 230])
    def test_steps_of_heat_stay_apart_on_dark_and_bright_pictures(self, eye, under):
        covered = [(0.65 * under,) * 3, *(0.4 * 0.65 * under + 0.6 * np.array(each) for each in HEAT)]
        assert min(distance(*pair, eye) for pair in pairwise(covered)) > 19

    def test_eyes_that_are_simulated_confuse_what_such_eyes_confuse(self):
        """So that the tests above would see it."""
        red, green = (200, 80, 60), (110, 120, 50)
        assert distance(red, green, "normal") > 60 and distance(red, green, "deuteranopic") < 20
        assert distance((160, 160, 160), (204, 121, 167), "deuteranopic") < 10

    def test_everything_stands_out_from_the_background(self):
        assert all(contrast(colour, BACKGROUND) > 3 for colour in SERIES)
        assert contrast(TEXT, BACKGROUND) > 7 and contrast(FAINT, BACKGROUND) > 4.5
        assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)


class TestText:
    def test_what_is_too_long_ends_on_dots(self):
        long = "a name that is a good deal longer than there is room for"
        short = fitted(long, 100)
        assert short.endswith("...") and long.startswith(short[:-3]) and 80 < text_width(short) <= 100
        assert fitted("short", 100) == "short" and fitted("short", 1) == "..."

    def test_lines_break_between_words(self):
        lines = wrapped("one two three four five six seven", 80)
        assert " ".join(lines) == "one two three four five six seven" and len(lines) > 1
        assert all(text_width(line) <= 80 for line in lines)
        assert wrapped("first\nsecond", 400) == ["first", "second"] and wrapped("", 400) == [""]
        assert wrapped("unbreakablewordthatistoolong", 50)[0].endswith("...")

    def test_long_headings_take_more_lines(self):
        one = heading("short")
        assert one.shape == (LINE * 2, WIDTH * 2, 3)
        assert heading("long words " * 20).shape[0] >= 4 * one.shape[0]
        assert heading("one\ntwo").shape[0] == 2 * one.shape[0]

    def test_text_stays_inside_its_room(self):
        canvas = Canvas(200, 20)
        canvas.text(0, 10, "w" * 200, room=100)
        picture = canvas.picture()
        assert (picture[:, 204:] == BACKGROUND).all() and (picture[:, :200] != BACKGROUND).any()


class TestCanvas:
    def test_boxes_are_where_they_should_be(self):
        canvas = Canvas(20, 10)
        canvas.box(5, 2, 10, 8, SERIES[0])
        picture = canvas.picture()
        assert picture.shape == (20, 40, 3) and (picture[4:16, 10:20] == SERIES[0]).all()
        assert (picture == SERIES[0]).all(-1).sum() == 12 * 10

    def test_pictures_are_placed_pixel_by_pixel(self):
        canvas, noise = Canvas(20, 10), np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)
        canvas.place(noise, 2, 1)
        assert (canvas.picture()[2:8, 4:12] == noise).all()

    def test_inside_a_part_of_it(self):
        canvas = Canvas(20, 10)
        with canvas.inside(5, 0, 10, 10):
            canvas.line([(0, 5), (20, 5)], TEXT, 2)
        canvas.box(0, 0, 2, 2, TEXT)
        columns = np.flatnonzero((canvas.picture()[10] == TEXT).all(-1))
        assert columns.min() == 10 and columns.max() == 19
        assert (canvas.picture()[:4, :4] == TEXT).all()

    @pytest.mark.parametrize("shape", ["disc", "square", "triangle", "diamond", "cross", "bar", "ring"])
    def test_marks(self, shape):
        canvas = Canvas(20, 20)
        canvas.mark(shape, 10, 10, 5, SERIES[0])
        rows, columns = np.nonzero((canvas.picture() != BACKGROUND).any(-1))
        assert 8 <= np.ptp(columns) <= 27 and rows.mean() == pytest.approx(19.5, abs=4)
        assert columns.mean() == pytest.approx(19.5, abs=1)

    def test_dashes_have_gaps(self):
        canvas = Canvas(100, 10)
        canvas.dashes((0, 5), (100, 5), TEXT, 2)
        assert 0.4 < (canvas.picture()[10] == TEXT).all(-1).mean() < 0.65

    def test_keys_take_as_many_lines_as_they_need(self):
        some = [Mark(f"a name {index}", SERIES[index % 7]) for index in range(12)]
        assert key(some[:2]).shape == (32, WIDTH * 2, 3)
        tall = key(some, title="What they are:")
        assert tall.shape[0] >= 96 and all((tall == colour).all(-1).any() for colour in SERIES)
        assert key([Mark("long " * 80, SERIES[0])]).shape == (32, WIDTH * 2, 3)

    def test_stacked_keeps_every_part_whole(self):
        one, two = (np.full((height, width, 3), height, np.uint8) for height, width in ((10, 20), (5, 30)))
        sheet = stacked([one, two], gap=3, scale=1)
        assert sheet.shape == (10 + 3 + 5 + 12, 42, 3)
        assert (sheet[6:16, 6:26] == 10).all() and (sheet[19:24, 6:36] == 5).all()


class TestAxes:
    def test_round_numbers(self):
        assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
        assert ticks(-3, 9, most=4) == [0, 5] and ticks(5, 5) == [5]
        assert ticks(0, 1e-4) == pytest.approx([0, 2e-5, 4e-5, 6e-5, 8e-5, 1e-4])
        assert log_ticks(0.009, 0.3) == [0.01, 0.02, 0.05, 0.1, 0.2]
        assert [plain(each) for each in (0.05, 12, 1500, 2.5e6, 0)] == ["0.05", "12", "1,500", "2.5 M", "0"]
        assert [share(each) for each in (0, 0.07, 1, 0.0005)] == ["0 %", "7 %", "100 %", "0.05 %"]

    @pytest.mark.parametrize(("most", "end"), [(0, 1), (0.9, 1), (1.0, 1), (1.3, 1.5), (47, 50), (900, 1000)])
    def test_ends(self, most, end):
        assert end_of(most) == pytest.approx(end)

    def test_outliers_do_not_stretch_an_axis(self):
        assert usual_end([1.0, 2.0, 2.9]) == 3 and usual_end([]) == 1
        assert usual_end([2.0] * 40 + [11.0]) == 3 and usual_end([2.0] * 40 + [1000.0]) == 20
        assert usual_end([2.0] * 40 + [5.9]) == 6 and usual_end([7.0]) == 8
        assert usual_end([1000.0, 90.0, 100.0, 80.0]) == 150 and usual_end([0.0, 0.0, 4.0]) == 4

    def test_labels_do_not_touch(self):
        assert thinned([0, 10, 20, 30], [14] * 4, gap=5) == [0, 2] and thinned([], []) == []

    def test_values_beyond_the_ends_lie_at_the_ends(self):
        plot = Plot((0, 10), (0, 1), x_name="x", y_name="y")
        assert plot.y(0) == plot.bottom == plot.y(-5) and plot.y(1) == plot.top == plot.y(7)
        assert plot.x(0) == plot.left and plot.x(10) == plot.right
        assert plot.unbound_y(2) < plot.top

    @pytest.mark.parametrize("count", [1, 2, 9, 10_000, 3_000_000])
    def test_frames(self, count):
        axis = frames_axis(count)
        labels = [axis["x_text"](place) for place in axis["x_ticks"]]
        assert labels[0] == "0" and len(labels) == len(set(labels)) <= 8
        assert max(axis["x_ticks"]) < count

    @pytest.mark.parametrize("ends", [(0, 1e-6), (99.9, 100.1), (0, 5e6), (-40, 0)])
    def test_numbers_are_not_cut_off(self, ends):
        """At the left edge of a plot there is only background."""
        picture = Plot((0, 3e6), ends, x_name="seconds", y_name="").canvas.picture()
        assert (picture[:, :1] == BACKGROUND).all() and (picture[:, -1:] == BACKGROUND).all()
