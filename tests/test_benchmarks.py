"""Benchmarks on tiny clips, and tables that say what the results say."""

import argparse
import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import tokenreel
from tokenreel.benchmarks import __main__ as command
from tokenreel.benchmarks import results, tables, tokens
from tokenreel.benchmarks.arguments import NAMES, add_arguments, run_benchmarks

ROOT = Path(tokenreel.__file__).parent


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder with two clips of 64x48, a text called .mp4 and a file that is no video at all."""
    from tokenreel.video.reel import render
    from tokenreel.video.writer import VideoWriter

    folder = tmp_path_factory.mktemp("clips")
    for seed, name in enumerate(("a.mp4", "b.mp4")):
        frames = next(render(64, 48, 24, 0.2, seed=seed).chunks(6))
        with VideoWriter(folder / name, width=64, height=48, frame_rate=Fraction(24), crf=8) as writer:
            writer.write(frames)
    (folder / "broken.mp4").write_text("no video")
    (folder / "notes.txt").write_text("nothing")
    return folder


def arguments(*given):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([str(each) for each in given])


@pytest.fixture(scope="module")
def measured(clips):
    """The results of the tokens benchmark on them, and what was told."""
    told = []
    args = arguments("tokens", "--clips", clips, "--frames", 4, "--size", 48, "--workers", 1)
    return run_benchmarks(args, told.append), told


class TestTokens:
    def test_clips_are_measured_and_broken_ones_named(self, measured):
        result = measured[0]["results"]["tokens"]
        assert [clip["clip"] for clip in result["clips"]] == ["a.mp4", "b.mp4"]
        assert [entry["clip"] for entry in result["refused"]] == ["broken.mp4"]
        assert any("a.mp4" in line for line in measured[1])

    def test_figures_hang_together(self, measured):
        result = measured[0]["results"]["tokens"]
        for clip in result["clips"]:
            single, stream = clip["every_frame"], clip["stream"]
            assert clip["frames"] == 4
            assert single["tokens"] == 4 * 6 * 6
            assert single["bits_per_pixel"] == pytest.approx(0.25)
            assert clip["ratio"] == stream["tokens"] / single["tokens"]
            assert stream["file_bytes"] > stream["bits"] / 8
            assert 5 < clip["copy_last_frame_psnr"] < 50
        codebook = result["codebook"]
        assert codebook["tokens"] == sum(clip["every_frame"]["tokens"] for clip in result["clips"])
        assert 1 < codebook["perplexity"] <= codebook["used"] <= codebook["tokens"]

    def test_summary_is_over_the_clips(self, measured):
        result = measured[0]["results"]["tokens"]
        ratios = [clip["ratio"] for clip in result["clips"]]
        assert result["summary"]["ratio"]["median"] == pytest.approx(np.median(ratios))
        assert result["summary"]["ratio"]["max"] == max(ratios)
        assert result["summary"]["psnr_at_rate MJPEG"]["clips"] <= 2

    def test_says_where_it_comes_from(self, measured):
        result = measured[0]["results"]["tokens"]
        assert result["version"] == tokenreel.__version__
        assert all(len(digest) == 64 for digest in result["weights"].values())
        assert result["machine"]["cores"] >= 1

    def test_json_and_back(self, measured, tmp_path):
        result = measured[0]["results"]["tokens"]
        (tmp_path / "tokens.json").write_bytes(results.to_json(result))
        again = results.read_result("tokens", tmp_path)
        assert again is not None
        assert tables.tokens_table(again) == tables.tokens_table(json.loads(results.to_json(again)))
        assert again["summary"]["ratio"]["median"] == pytest.approx(result["summary"]["ratio"]["median"], rel=1e-5)

    def test_table(self, measured):
        text = measured[0]["table"]
        result = measured[0]["results"]["tokens"]
        assert f"{result['summary']['every_frame_psnr']['median']:.2f}" in text
        assert "| a.mp4 |" in text
        assert "x264 zerolatency, GOP 12 at that rate" in text
        assert "2 clips" in text

    @pytest.mark.parametrize(
        ("reached", "asked", "taken"),
        [
            ((30.0,), [{"margin": 0.0}], 0),
            ((29.96,), [{"margin": 0.0}], 0),
            ((29.0, 29.98), [{"margin": 0.0}, {"margin": 1.0}], 1),
            ((29.0, 29.5, 29.7), [{"margin": 0.0}, {"margin": 1.0}, {"quality": 30.5}], 2),
            ((29.0, 29.8, 29.6), [{"margin": 0.0}, {"margin": 1.0}, {"quality": 30.2}], 1),
        ],
    )
    def test_asks_for_more_where_quality_is_missing(self, reached, asked, taken):
        given = []

        def encode(**knob):
            given.append({name: pytest.approx(value) for name, value in knob.items()})
            return argparse.Namespace(report={"psnr": reached[len(given) - 1]})

        knob, stream, count = tokens._equal_quality(encode, 30.0)
        assert asked == given and count == len(reached)
        assert stream.report["psnr"] == reached[taken] and asked[taken] == {
            n: pytest.approx(v) for n, v in knob.items()
        }

    def test_perplexity(self):
        assert tokens._usage(np.array([5, 5, 0, 0])) == pytest.approx(
            {"codes": 4, "tokens": 10, "used": 2, "usage": 0.5, "perplexity": 2.0}
        )
        assert math.isclose(tokens._usage(np.array([7, 0]))["perplexity"], 1.0)

    @pytest.mark.parametrize("folder", [None, "none", "empty"])
    def test_no_clips(self, tmp_path, folder):
        (tmp_path / "empty").mkdir()
        given = ["--clips", tmp_path / folder] if folder else []
        with pytest.raises(ValueError, match=r"--clips DIR|no videos"):
            run_benchmarks(arguments("tokens", *given), print)


class TestOthers:
    def test_video_memory(self, tmp_path):
        from tokenreel.benchmarks.video import write_and_read

        found = write_and_read(str(tmp_path / "long.mp4"), 12)
        assert found["frames"] == 12
        assert found["peak_rss_bytes"] >= found["peak_rss_bytes_written"] >= found["peak_rss_bytes_imported"] > 0
        found |= results._provenance()
        assert "12 frames of 1280x720" in tables.video_table(found)

    def test_start(self):
        from tokenreel.benchmarks.start import seconds_to_import

        found = {"rounds": 5, **seconds_to_import(), **results._provenance()}
        assert 0 <= found["nodes"] < 60
        assert "all nodes" in tables.start_table(found)

    def test_memory(self):
        from tokenreel.benchmarks.memory import encode_and_decode

        row = encode_and_decode((64, 48))
        assert (row["width"], row["height"], row["frames"]) == (64, 48, 8)
        assert row["peak_rss_bytes"] >= row["peak_rss_bytes_encoded"] >= row["peak_rss_bytes_loaded"] > 0
        assert "| 64x48 |" in tables.memory_table({"sizes": [row], **results._provenance()})

    def test_one_file_for_one_benchmark(self, tmp_path):
        with pytest.raises(ValueError, match="Name one benchmark"):
            run_benchmarks(arguments("video", "start", "--json", tmp_path / "x.json"), print)

    def test_every_benchmark_has_a_table(self):
        assert set(tables.TABLES) == set(NAMES)


class TestReadme:
    def test_tables_are_those_of_the_results(self):
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        assert tables.readme_with_tables(text) == text, "run python -m tokenreel.benchmarks --readme"

    def test_results_are_of_these_weights(self):
        """A figure of other weights is not a figure."""
        from tokenreel.models.checkpoint import load_tokenizer

        tokenizer = load_tokenizer()
        for name in ("tokens", "memory"):
            result = results.read_result(name)
            if result is not None:
                assert set(result["weights"].values()) == {tokenizer.digest, tokenizer.codec_digest}

    def test_results_name_no_folder(self):
        for path in results.RESULTS.glob("*.json"):
            assert "/" not in json.dumps(json.loads(path.read_text()).get("clips", []))

    def test_missing_marks(self):
        with pytest.raises(ValueError, match="tokens: begin"):
            tables.readme_with_tables("# Nothing")

    def test_only_what_lies_between_the_marks_is_replaced(self, tmp_path):
        marks = "".join(f"<!-- {name}: begin -->\nold\n<!-- {name}: end -->\nkept\n" for name in tables.TABLES)
        text = tables.readme_with_tables(f"first\n{marks}last\n", tmp_path)
        assert "old" not in text
        assert text.count("Not measured yet.") == text.count("kept") == len(tables.TABLES)
        assert tables.readme_with_tables(text, tmp_path) == text

    def test_command_reports_a_missing_folder(self, capsys):
        assert command.main(["tokens", "--clips", "/none"]) == 1
        assert "There is no folder" in capsys.readouterr().err
