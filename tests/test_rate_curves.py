"""Rate-distortion curves: closed forms, and the figures of others."""

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator

from tokenreel.video.rate_curves import RatePoint, bd_rate, frontier, psnr_at, rate_at

# RGB PSNR and bits per pixel on UVG, from the results in the CompressAI repository
X264 = ((37.85, 0.146), (35.99, 0.055), (34.14, 0.027), (32.12, 0.0144), (30.01, 0.0083))
X265 = ((36.22, 0.0455), (34.30, 0.0211), (32.30, 0.0097), (30.18, 0.0043))
# kbit/s, in the example of the package bjontegaard
SLOW = ((40.037, 9487.76), (38.615, 4593.60), (36.845, 2486.44), (34.851, 1358.24))
FAST = ((40.121, 9787.80), (38.651, 4469.00), (36.970, 2451.52), (34.987, 1356.24))
# kbit/s, in the example that comes with most ports of Bjontegaard's spreadsheet
FIRST = ((40.28, 686.76), (37.18, 309.58), (34.24, 157.11), (31.42, 85.95))
SECOND = ((40.39, 893.34), (37.21, 407.8), (34.17, 204.93), (31.24, 112.75))


def curve(pairs, factor=1.0):
    return [RatePoint(0, factor * rate, decibels) for decibels, rate in pairs]


class TestBetweenPoints:
    def test_two_points_make_a_line_in_log_rate(self):
        points = [RatePoint(40, 0.1, 20.0), RatePoint(20, 0.4, 30.0)]
        assert psnr_at(points, 0.2) == pytest.approx(25.0)
        assert rate_at(points, 25.0) == pytest.approx(0.2)

    def test_nothing_is_read_outside(self):
        points = [RatePoint(40, 0.1, 20.0), RatePoint(20, 0.4, 30.0)]
        assert psnr_at(points, 0.05) is None and psnr_at(points, 0.5) is None
        assert rate_at(points, 31.0) is None and rate_at(points, 19.0) is None
        assert psnr_at([], 0.1) is None

    def test_a_single_point_is_itself(self):
        point = [RatePoint(0, 0.1, 20.0)]
        assert rate_at(point, 20.0) == pytest.approx(0.1) and rate_at(point, 20.1) is None

    @pytest.mark.parametrize("pairs", [X264, X265, SLOW, FIRST])
    def test_as_scipy(self, pairs):
        decibels, rates = (np.array(column)[::-1] for column in zip(*pairs, strict=True))
        for at in np.linspace(decibels[0], decibels[-1], 37):
            expected = np.exp(PchipInterpolator(decibels, np.log(rates))(at))
            assert rate_at(curve(pairs), at) == pytest.approx(expected)
        for at in np.geomspace(rates[0], rates[-1], 37).clip(rates[0], rates[-1]):
            assert psnr_at(curve(pairs), at) == pytest.approx(PchipInterpolator(np.log(rates), decibels)(np.log(at)))

    def test_goes_through_its_points_and_never_falls(self):
        points = curve(((20.0, 0.01), (29.0, 0.011), (29.1, 0.3), (40.0, 0.31)))
        assert [rate_at(points, point.psnr) for point in points] == pytest.approx([p.bits_per_pixel for p in points])
        read = [rate_at(points, decibels) for decibels in np.linspace(20, 40, 200)]
        assert read == sorted(read)

    def test_points_that_another_one_beats_are_left_out(self):
        good = [RatePoint(0, 0.1, 25.0), RatePoint(1, 0.2, 28.0), RatePoint(2, 0.4, 30.0)]
        worse = [RatePoint(3, 0.2, 27.0), RatePoint(4, 0.3, 28.0), RatePoint(5, 0.5, 29.0)]
        assert frontier([*worse, *reversed(good)]) == good


class TestBdRate:
    @pytest.mark.parametrize(("factor", "percent"), [(2.0, 100.0), (0.5, -50.0), (1.0, 0.0), (1.1, 10.0)])
    def test_a_curve_that_takes_so_many_times_the_rate(self, factor, percent):
        assert bd_rate(curve(X264, factor), curve(X264)) == pytest.approx(percent, abs=1e-9)

    def test_lines(self):
        """Rates that are 1 and 2 times others at the ends of a line are sqrt(2) times them in the mean."""
        reference, ours = curve(((30, 0.1), (34, 0.2))), curve(((30, 0.1), (34, 0.4)))
        assert bd_rate(ours, reference) == pytest.approx(100 * (2**0.5 - 1))

    def test_order_turns_the_factor_over(self):
        there, back = bd_rate(curve(X265), curve(X264)), bd_rate(curve(X264), curve(X265))
        assert there is not None and back is not None
        assert (1 + there / 100) * (1 + back / 100) == pytest.approx(1)

    @pytest.mark.parametrize(
        ("pairs", "reference", "percent"),
        [(X265, X264, -33.54358126119917), (FAST, SLOW, -4.417485350589045), (SECOND, FIRST, 31.379878202397627)],
    )
    def test_as_others_find(self, pairs, reference, percent):
        """What the package bjontegaard 1.3.0 gives with its method pchip."""
        assert bd_rate(curve(pairs), curve(reference)) == pytest.approx(percent, abs=1e-6)

    def test_only_the_quality_that_both_reach_counts(self):
        assert bd_rate(curve(X264[1:4], 1.5), curve(((60.0, 9.0), *X264))) is not None
        assert bd_rate(curve(X264[:3], 1.5), curve(X264)) == pytest.approx(50, abs=1.0)

    def test_none_where_they_have_too_little_in_common(self):
        assert bd_rate(curve(X264), curve(((20.0, 0.1), (25.0, 0.2)))) is None
        assert bd_rate(curve(X264), curve(((25.0, 0.001), (30.4, 0.01)))) is None
        assert bd_rate(curve(X264[:1]), curve(X264)) is None
        assert bd_rate([], curve(X264)) is None
