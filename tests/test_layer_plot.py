"""The plot of a model's layers: one bar for each, as high as its error."""

import numpy as np
import pytest

from tokenreel.video.canvas import SERIES, TEXT
from tokenreel.video.layer_plot import layer_plot

FIRST, SECOND = SERIES[:2]


def covered(picture, colour):
    return int((picture == np.array(colour)).all(-1).sum())


def test_bars_are_as_high_as_errors_and_coloured_by_kind():
    picture = layer_plot([0.01, 0.02, 0.02], ["int8", "nvfp4", "nvfp4"], title="errors")
    assert picture.dtype == np.uint8 and picture.shape[1:] == (720, 3)
    bars = picture[100:]
    assert covered(bars, SECOND) / covered(bars, FIRST) == pytest.approx(4, rel=0.05)


def test_layers_without_error_are_seen():
    assert covered(layer_plot([0.0, 0.1], ["kept", "int8"], title=""), FIRST) > 100
    assert covered(layer_plot([0.0], ["kept"], title=""), FIRST) > 100


def test_thousands_of_layers():
    picture = layer_plot([0.01] * 3000, ["int8"] * 3000, title="")
    assert covered(picture, FIRST) > 50_000


def test_what_is_no_number_is_a_frame():
    plots = [layer_plot([0.01, last], ["int8", "int8"], title="") for last in (0.01, float("nan"), float("inf"))]
    assert [covered(each[150:], TEXT) > 500 for each in plots] == [False, True, True]
    assert all(covered(each[150:], FIRST) < 0.6 * covered(plots[0][150:], FIRST) for each in plots[1:])


def test_one_broken_layer_does_not_hide_the_others():
    picture = layer_plot([0.01] * 100 + [50.0], ["int8"] * 101, title="")
    bare = layer_plot([0.01] * 101, ["int8"] * 101, title="")
    assert covered(picture, FIRST) > 0.001 * covered(bare, FIRST)


@pytest.mark.parametrize("errors, kinds", [([], []), ([0.1], []), ([-0.1], ["a"])])
def test_what_is_no_error_is_refused(errors, kinds):
    with pytest.raises(ValueError, match="Invalid errors"):
        layer_plot(errors, kinds, title="")
