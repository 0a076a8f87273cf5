"""Plan Token Budget: numbers that can be wired, every text there, and a plot that shows the costs."""

import numpy as np
import pytest

from tokenreel.nodes.planning import PlanTokenBudget
from tokenreel.video.cost_plot import COLOURS, cost_plot

WISHES = {"family": "wan2.1", "width": 1280, "height": 720, "seconds": 5.0, "fps": 30.0}
LIMITS = {"least_short_side": 480, "least_fps": 12.0, "share": 0.0}


def run(**changes):
    return PlanTokenBudget.execute(**{**WISHES, **LIMITS, **changes}).args


class TestNode:
    def test_gives_numbers_to_wire(self):
        *numbers, table, plot = run()
        assert numbers == [864, 480, 77, 15.0, 1.5, 2, 1280, 720]
        assert [type(each) for each in numbers] == [int, int, int, float, float, int, int, int]
        assert table.startswith("Wan 2.1 14B: 1280 x 720, 5 s at 30 frames a second")
        assert plot.shape[0] == 1 and plot.shape[3] == 3 and float(plot.max()) <= 1

    def test_a_share_is_kept_to(self):
        *numbers, table, _ = run(share=0.5)
        assert numbers != run()[:8] and "> " in table
        with pytest.raises(ValueError, match="Allow a larger share"):
            run(share=0.01)

    def test_broadcast_rates_are_exact(self):
        assert run(fps=29.97)[3] == 15000 / 1001

    def test_every_text_is_there(self):
        schema = PlanTokenBudget.GET_SCHEMA()
        assert schema.node_id == "TokenReel_PlanTokenBudget" and schema.description and schema.search_aliases
        assert all(each.tooltip for each in (*schema.inputs, *schema.outputs))


class TestPlot:
    def test_bars_are_as_long_as_what_they_cost(self):
        picture = cost_plot(["a", "b"], {"one": [3.0, 1.0], "two": [1.0, 1.0]}, title="costs", chosen=1)
        assert picture.dtype == np.uint8 and picture.shape[1:] == (720, 3)
        ones, twos = ((np.array(colour) == picture[90:]).all(-1).sum(1) for colour in COLOURS[:2])
        first, second = np.flatnonzero(ones)[[0, -1]]  # a row in each bar
        assert ones[first] == pytest.approx(3 * ones[second], abs=4)
        assert twos[first] == pytest.approx(twos[second], abs=2) and twos[first] > 100

    @pytest.mark.parametrize(
        ("names", "parts", "match"),
        [
            (["a"], {"one": [1.0, 2.0]}, "for 1 bars"),
            (["a"], {"one": [0.0]}, "not all of them 0"),
            (["a"], {"one": [-1.0]}, "at least 0"),
            (["a"], {str(each): [1.0] for each in range(6)}, "up to 5"),
        ],
    )
    def test_numbers_that_do_not_fit_are_refused(self, names, parts, match):
        with pytest.raises(ValueError, match=match):
            cost_plot(names, parts, title="", chosen=0)
