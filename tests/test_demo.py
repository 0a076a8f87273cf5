"""The demo on a tiny clip: all its files, and a page that says what was measured."""

import json
import re
from fractions import Fraction
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest
from colour_vision import EYES, contrast, distance

from tokenreel import demo, demo_report
from tokenreel.demo_report import Curve, Findings, write_report
from tokenreel.svg_plots import Axes, Line, bar_plot, frame_plot, line_plot, ticks
from tokenreel.video.rate_curves import RatePoint
from tokenreel.video.reader import VideoReader
from tokenreel.video.reference_codecs import REFERENCE_CODECS, rate_curve


@pytest.fixture(scope="module")
def small_demo(tmp_path_factory):
    """(facts, folder, lines told) of a demo of a clip of 48x32, of which 4 frames are used."""
    from tokenreel.video.reel import render
    from tokenreel.video.writer import VideoWriter

    folder = tmp_path_factory.mktemp("demo")
    frames = next(render(48, 48, 24, 0.25).chunks(8))[:, :32]
    with VideoWriter(folder / "my <clip>.mp4", width=48, height=32, frame_rate=Fraction(24), crf=8) as writer:
        writer.write(np.ascontiguousarray(frames))
    told = []
    facts = demo.run_demo(folder / "out", str(folder / "my <clip>.mp4"), seconds=4 / 24, tell=told.append)
    return facts, folder / "out", told


class TestDemo:
    def test_files(self, small_demo):
        _, folder, _ = small_demo
        names = sorted(path.name for path in folder.iterdir())
        assert names == ["heat_map.png", "my <clip>.tokens", "picture.jpg", "report.html", "side_by_side.mp4"]
        assert not [path.name for path in folder.parent.iterdir() if path.name.startswith(".")]

    def test_says_that_the_clip_was_shortened(self, small_demo):
        facts, _, told = small_demo
        assert facts["frames"] == 4
        assert any("at most the first 4 frames" in line.lower() for line in told)

    def test_facts_are_json_and_agree(self, small_demo):
        facts, _, _ = small_demo
        json.dumps(facts, allow_nan=False)
        assert facts["psnr_decoded"] == facts["psnr"]
        assert facts["tokens_every_frame"] == 4 * 6 * 4
        assert facts["saved"] == pytest.approx(1 - facts["tokens"] / facts["tokens_every_frame"])

    def test_video_has_every_frame(self, small_demo):
        _, folder, _ = small_demo
        with VideoReader(folder / "side_by_side.mp4") as reader:
            assert sum(len(chunk.pts) for chunk in reader.chunks()) == 4
            assert reader.info.width >= 3 * 256

    def test_page_says_what_was_measured_and_needs_no_other_file(self, small_demo):
        facts, folder, _ = small_demo
        page = (folder / "report.html").read_text()
        assert f"{facts['tokens']:,}" in page
        assert f"{facts['psnr']:.2f} dB" in page
        assert "my &lt;clip&gt;" in page and "<clip>" not in page
        assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)"', page))
        assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
        for codec in REFERENCE_CODECS:
            assert codec in page

    def test_output_that_is_a_file(self, tmp_path):
        (tmp_path / "out").write_text("here")
        with pytest.raises(ValueError, match="it is a file"):
            demo.run_demo(tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_bad_clip_leaves_nothing(self, tmp_path):
        (tmp_path / "bad.mp4").write_text("no video")
        with pytest.raises(ValueError, match=r"bad\.mp4"):
            demo.run_demo(tmp_path / "out", str(tmp_path / "bad.mp4"))
        assert [path.name for path in tmp_path.iterdir()] == ["bad.mp4"]

    def test_reel_is_a_clip_like_any_other(self, tmp_path, monkeypatch):
        monkeypatch.setattr(demo, "SECONDS_PER_SCENE", 0.1)
        source = demo._reel(tmp_path, lambda line: None)
        with source.open() as clip:
            assert (clip.width, clip.height) == (256, 256)
            assert sum(len(chunk.pts) for chunk in clip.chunks()) == 8


class TestReport:
    def findings(self, **changes):
        facts = {
            "tokens": 100, "tokens_every_frame": 200, "tokens_per_second": 50.0, "tokens_by_kind": {"key": 100},
            "bits": 1600, "bits_per_pixel": 0.1, "psnr": 30.0, "ssim": 0.9,
            "tokens_equal_quality": 120, "psnr_equal_quality": 30.2,
            "file_bytes": 900,
            "frames": 2, "width": 16, "height": 16, "duration": 2.0, "saved": 0.5, "source_bytes_raw": 1536,
            "encode_seconds": 1.0, "decode_seconds": 0.5, "seconds": 3.0, "peak_rss_bytes": None,
        }  # fmt: skip
        single = {"tokens": 200, "frames": 2, "tokens_per_second": 100.0, "bits": 3200, "bits_per_pixel": 0.2}
        single |= {"psnr": 30.01, "ssim": 0.9, "seconds": 1.0}
        curve = Curve("x264 medium", [RatePoint(30, 0.05, 28.0), RatePoint(20, 0.2, 32.0)])
        ours = Curve("ours", [RatePoint(0, 0.1, 30.0)], ours=True)
        return Findings(
            "reel",
            "A note.",
            "reel.tokens",
            [80, 20],
            [0],
            [],
            [30.0, 30.0],
            [ours, curve],
            single,
            {**facts, **changes},
        )

    def page(self, tmp_path, **changes):
        (tmp_path / "heat_map.png").write_bytes(b"png")
        (tmp_path / "side_by_side.mp4").write_bytes(b"mp4")
        write_report(tmp_path / "report.html", self.findings(**changes))
        return (tmp_path / "report.html").read_text()

    def test_says_how_the_others_compare(self, tmp_path):
        page = self.page(tmp_path)
        assert "50% fewer tokens at the same quality" in page.replace("\n", " ")
        assert "it takes 40% fewer tokens at 0.2 dB more" in page.replace("\n", " ")
        assert "1 times x264 medium" in page  # halfway on the logarithmic axis: 0.1 bits per pixel

    def test_a_loss_is_called_a_loss(self, tmp_path):
        page = self.page(tmp_path, saved=-0.25, psnr=29.0).replace("\n", " ")
        assert "25% more tokens at 1.0 dB less" in page


class TestPage:
    @pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
    def test_colours_of_curves_are_told_apart_and_stand_out(self, scheme):
        styles = re.findall(r"--(\w+): (#\w{6})", demo_report._STYLE)
        half = len(styles) // 2
        colours = {name: [int(code[i : i + 2], 16) for i in (1, 3, 5)] for name, code in styles[half * scheme :][:half]}
        curves = [colours[f"s{number}"] for number in range(6)]
        assert all(contrast(curve, colours["page"]) > 3 for curve in curves)
        assert all(contrast(colours[text], colours["page"]) > 4.5 for text in ("ink", "faint"))
        assert min(distance(*pair, eye) for pair in combinations(curves, 2) for eye in EYES) > 22


class TestPlots:
    def test_ticks(self):
        assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
        assert ticks(19.7, 24.1) == [20, 21, 22, 23, 24]

    def test_axes_place_values(self):
        axes = Axes((0.1, 10), (0, 4), log_x=True)
        assert axes.across(1.0) == pytest.approx((axes.across(0.1) + axes.across(10)) / 2, abs=0.1)
        assert axes.down(4) < axes.down(0)

    @pytest.mark.parametrize(
        "plot",
        [
            line_plot([Line("a <b>", [(0.1, 20.0), (1.0, 30.0)], 0, True), Line("c", [(0.2, 25.0)], 1)],
                      x_label="x", y_label="y", log_x=True, title='t "q"'),
            bar_plot([3, 1, 2], marked=[0], cuts=[1], level=4, x_label="frame", title="bars"),
            frame_plot([30.0], x_label="frame", y_label="dB", title="one"),
        ],
    )  # fmt: skip
    def test_svg_is_well_formed(self, plot):
        tree = ElementTree.fromstring(f"<all>{plot}</all>")
        texts = [text.text for text in tree.iter("{http://www.w3.org/2000/svg}text")]
        assert len(texts) > 3
        assert "nan" not in plot

    def test_bars_have_their_height(self):
        plot = ElementTree.fromstring(bar_plot([4, 2], marked=[], cuts=[], level=4, x_label="", title=""))
        heights = [float(rect.get("height") or 0) for rect in plot.iter("{http://www.w3.org/2000/svg}rect")]
        assert heights[0] == pytest.approx(2 * heights[1], rel=0.01)


class TestReferenceCodecs:
    @pytest.fixture(scope="class")
    @classmethod
    def frames(cls):
        from tokenreel.video.reel import render

        return next(render(64, 48, 24, 0.25).chunks(6))

    @pytest.mark.parametrize("name", REFERENCE_CODECS)
    def test_more_bits_more_quality(self, frames, name):
        codec = REFERENCE_CODECS[name]
        coarse, fine = rate_curve(codec, frames, Fraction(24), (codec.settings[0], codec.settings[-2]))
        assert coarse.bits_per_pixel < fine.bits_per_pixel
        assert 10 < coarse.psnr < fine.psnr - 3
        assert fine.psnr > 25

    def test_prediction_pays_on_a_pan(self, frames):
        intra, medium = (
            rate_curve(REFERENCE_CODECS[name], frames, Fraction(24), (26,))[0] for name in ("x264 intra", "x264 medium")
        )
        assert medium.bits_per_pixel < 0.8 * intra.bits_per_pixel

    def test_odd_sizes(self, frames):
        (point,) = rate_curve(REFERENCE_CODECS["x264 medium"], frames[:2, :47, :63], Fraction(24), (26,))
        assert point.psnr > 25
