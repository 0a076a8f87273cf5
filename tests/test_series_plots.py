"""Plots of numbers of frames: bars are as high as their numbers, lines go where the numbers go."""

import numpy as np
import pytest

from tokenreel.video.canvas import SERIES
from tokenreel.video.series_plots import LINE_COLOUR, bar_chart, line_plot


def is_colour(picture, colour):
    return (picture == np.array(colour, dtype=np.uint8)).all(-1)


def count_colour(picture, colour):
    return int(is_colour(picture, colour).sum())


class TestBarChart:
    def test_bars_are_as_high_as_their_numbers(self):
        chart = bar_chart({"key": [2.0, 0.0], "motion": [0.0, 1.0]}, title="tokens", height=200)
        columns, others = (is_colour(chart[40:], SERIES[place]).sum(0) for place in (0, 1))
        assert columns.max() == pytest.approx(2 * others.max(), abs=2) and others.max() > 80
        assert columns[60:300].max() > 0 and columns[400:].max() == 0
        assert others[400:].max() > 0

    def test_parts_stand_on_each_other(self):
        chart = bar_chart({"a": [1.0], "b": [1.0]}, title="", height=200)
        rows = [np.flatnonzero(is_colour(chart[40:], SERIES[place]).sum(1) > 300) for place in (0, 1)]
        assert rows[1].max() + 1 == rows[0].min() and rows[1].size == pytest.approx(rows[0].size, abs=1)

    def test_few_very_high_bars_are_cut_off_and_others_seen(self):
        chart = bar_chart({"key": [1000.0] + [0.0] * 30, "motion": [0.0] + [20.0] * 30}, title="", height=200)
        key, motion = (is_colour(chart[40:], SERIES[place]).sum(0).max() for place in (0, 1))
        assert 0.6 * key < motion < 0.7 * key

    def test_names_without_numbers_are_left_out_and_keep_no_colour(self):
        chart = bar_chart({"key": [0.0, 0.0], "motion": [3.0, 1.0]}, title="tokens")
        assert count_colour(chart, SERIES[0]) == 0 and count_colour(chart, SERIES[1]) > 1000

    def test_colours_belong_to_the_place_in_the_series(self):
        """So that two clips with other kinds of tokens can be compared."""
        chart = bar_chart({"a": [1.0], "b": [0.0], "c": [1.0]}, title="")
        assert count_colour(chart, SERIES[2]) > 1000 and count_colour(chart, SERIES[1]) == 0

    def test_many_frames_share_bars(self):
        chart = bar_chart({"key": [1.0] * 5000}, title="", width=300, height=100)
        assert chart.shape[1] == 600 and is_colour(chart[100], SERIES[0]).sum() > 500

    def test_nothing_spent_is_an_empty_plot(self):
        assert count_colour(bar_chart({"key": [0.0]}, title=""), SERIES[0]) == 0


class TestLinePlot:
    def test_line_goes_up_where_numbers_do(self):
        plot = line_plot([20.0, 30.0], title="PSNR", unit="dB", height=200)
        rows, columns = np.nonzero(is_colour(plot[40:], LINE_COLOUR))
        assert rows[columns.argmin()] > rows[columns.argmax()] + 150

    @pytest.mark.parametrize("values", [[100.0], [31.0] * 4, [0.0, 0.0]], ids=["one", "equal", "zeros"])
    def test_flat_lines_can_be_drawn(self, values):
        plot = line_plot(values, title="PSNR", unit="dB")
        rows = np.flatnonzero(is_colour(plot, LINE_COLOUR).any(1))
        assert 0 < np.ptp(rows) < 12

    def test_of_many_frames_the_lowest_and_the_highest_are_seen(self):
        values = np.full(10_000, 30.0)
        values[5000], values[7000] = 20.0, 40.0
        plot = is_colour(line_plot(values, title="", unit="dB", height=200)[40:], LINE_COLOUR)
        first, last = np.flatnonzero(plot.any(1))[[0, -1]]
        level = plot.sum(1).argmax()
        assert level - first == pytest.approx(last - level, abs=4) and last - first > 150
        # half way, and at seven tenths
        assert plot[last].argmax() < plot[first].argmax() < plot[level].nonzero()[0].max()

    @pytest.mark.parametrize("values", [[], [float("nan")], [float("inf"), 1.0]])
    def test_what_cannot_be_drawn(self, values):
        with pytest.raises(ValueError, match="Invalid values to plot"):
            line_plot(values, title="", unit="")
