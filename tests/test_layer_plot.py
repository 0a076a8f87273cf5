"""The plot of a model's layers: one bar for each, as high as its error."""

import numpy as np
import pytest

from tokenreel.video.layer_plot import layer_plot

BLUE, ORANGE = (86, 180, 233), (230, 159, 0)


def covered(picture, colour):
    return int((picture == np.array(colour)).all(-1).sum())


def test_bars_are_as_high_as_errors_and_coloured_by_kind():
    picture = layer_plot([0.01, 0.02, 0.02], ["int8", "nvfp4", "nvfp4"], title="errors", width=640)
    assert picture.dtype == np.uint8 and picture.shape[1:] == (640, 3)
    assert covered(picture, ORANGE) / covered(picture, BLUE) == pytest.approx(4, rel=0.05)


def test_layers_without_error_are_seen():
    assert covered(layer_plot([0.0, 0.1], ["kept", "int8"], title=""), BLUE) > 100
    assert covered(layer_plot([0.0], ["kept"], title=""), BLUE) > 100


def test_thousands_of_layers():
    picture = layer_plot([0.01] * 3000, ["int8"] * 3000, title="")
    assert covered(picture, BLUE) > 100_000


@pytest.mark.parametrize("errors, kinds", [([], []), ([0.1], []), ([float("nan")], ["a"]), ([-0.1], ["a"])])
def test_what_is_no_error_is_refused(errors, kinds):
    with pytest.raises(ValueError, match="Invalid errors"):
        layer_plot(errors, kinds, title="")
