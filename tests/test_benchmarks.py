"""Benchmarks on tiny clips, and tables that say what the results say."""

import json
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_arguments import arguments
from safetensors.torch import load_file, save_file

import tokenreel
from tokenreel.benchmarks import __main__ as command
from tokenreel.benchmarks import results, speed, tables, token_summary, tokens
from tokenreel.benchmarks.arguments import NAMES, run_benchmarks
from tokenreel.benchmarks.peers import find_peers
from tokenreel.video.rate_curves import RatePoint
from tokenreel.video.reference_codecs import REFERENCE_CODECS

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


@pytest.fixture(scope="module")
def measured(clips):
    """The results of the tokens benchmark on them, and what was told."""
    told = []
    args = arguments("tokens", "--clips", clips, "--frames", 4, "--size", 48, "--workers", 1, "--points", 1)
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
        codebook = next(iter(result["codebooks"].values()))
        assert codebook["tokens"] == sum(clip["every_frame"]["tokens"] for clip in result["clips"])
        assert 1 < codebook["perplexity"] <= codebook["used"] <= codebook["tokens"]
        assert 0 < sum(result["weights_bytes"].values()) < 60e6

    def test_curves_have_the_points_that_are_told(self, measured):
        for clip in measured[0]["results"]["tokens"]["clips"]:
            stream = clip["stream"]
            assert set(clip["curves"]) == {"stream", *REFERENCE_CODECS}
            for points in clip["curves"].values():
                rates, _ = zip(*points, strict=True)
                assert len(points) >= 2 and list(rates) == sorted(rates)
            assert [stream["file_bits_per_pixel"], stream["psnr"]] in clip["curves"]["stream"]
            assert stream["file_bits_per_pixel"] == pytest.approx(8 * stream["file_bytes"] / (4 * 48 * 48))
            assert clip["at_quality"]["stream's"]["stream"] == pytest.approx(stream["file_bits_per_pixel"])

    def test_summary_is_over_the_clips(self, measured):
        result = measured[0]["results"]["tokens"]
        ratios = [clip["ratio"] for clip in result["clips"]]
        assert result["summary"]["ratio"]["median"] == pytest.approx(np.median(ratios))
        assert result["summary"]["ratio"]["max"] == max(ratios)
        assert result["summary"]["psnr_at_rate"]["every_frame"]["MJPEG"]["clips"] <= 2
        assert result["summary"]["static_camera_clips"] == sum(clip["static_camera"] for clip in result["clips"])

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
        assert f"{result['summary']['every_frame']['psnr']['median']:.2f}" in text
        assert "| a.mp4" in text
        assert "| x264 zerolatency, GOP 12 |" in text
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
            return RatePoint(0, 0.1, reached[len(given) - 1])

        knob, stream, tried = tokens.equal_quality(encode, 30.0)
        assert asked == given and [point.psnr for point in tried] == list(reached)
        assert stream is tried[taken] and asked[taken] == {n: pytest.approx(v) for n, v in knob.items()}

    def test_perplexity(self):
        assert token_summary.usage(np.array([5, 5, 0, 0])) == pytest.approx(
            {"codes": 4, "tokens": 10, "used": 2, "usage": 0.5, "perplexity": 2.0}
        )
        assert math.isclose(token_summary.usage(np.array([7, 0]))["perplexity"], 1.0)

    def test_geometric_mean_over_the_clips_that_both_reach(self):
        rates = [
            {"stream": 0.1, "x": 0.2},
            {"stream": 0.4, "x": 0.2},
            {"stream": None, "x": 9},
            {"stream": 9, "x": None},
        ]
        found = token_summary._compared(rates, "x")
        assert found == pytest.approx({"clips": 2, "stream": 0.2, "codec": 0.2, "ratio": 1.0})
        assert token_summary._compared(rates[2:], "x")["ratio"] is None
        assert "not reached" in tables._times(token_summary._compared(rates[2:], "x"))

    def test_static_camera(self, random_tokens):
        still, frames = random_tokens(frames=12, key_every=12), np.zeros((12, 32, 32, 3), np.uint8)
        stayed = [replace(each, global_motion=(0, 0)) for each in still.frames[1:]]
        still = replace(still, frames=(still.frames[0], *stayed))
        assert tokens.static_camera(still, frames)
        panned = (*still.frames[:-2], *(replace(each, global_motion=(0, 4)) for each in stayed[-2:]))
        assert not tokens.static_camera(replace(still, frames=panned), frames)
        cut = frames.copy()
        cut[6:] = np.random.default_rng(0).integers(0, 256, cut[6:].shape)
        cut[6:] = cut[6]
        assert not tokens.static_camera(still, cut)

    @pytest.mark.parametrize("folder", [None, "none", "empty"])
    def test_no_clips(self, tmp_path, folder):
        (tmp_path / "empty").mkdir()
        given = ["--clips", tmp_path / folder] if folder else []
        with pytest.raises(ValueError, match=r"--clips DIR|no videos"):
            run_benchmarks(arguments("tokens", *given), print)


@pytest.fixture
def peers(tmp_path):
    """A folder with weights of the shape of a tiny autoencoder, random, with and without the wide branch."""
    torch.manual_seed(0)
    folder = tmp_path / "peers"
    folder.mkdir()

    def convolution(name, inputs, outputs, side=3, bias=True):
        return {
            f"{name}.weight": torch.randn(outputs, inputs, side, side) / (inputs * side * side) ** 0.5,
            **({f"{name}.bias": torch.zeros(outputs)} if bias else {}),
        }

    def block(number, wide):
        weights = {k: v for i in (0, 2, 4) for k, v in convolution(f"{number}.conv.{i}", 8, 8).items()}
        if wide:
            weights |= convolution(f"{number}.pool.0", 8, 32, 1, False) | convolution(
                f"{number}.pool.3", 32, 8, 1, False
            )
            weights |= {f"{number}.pool.1.weight": torch.ones(32), f"{number}.pool.1.bias": torch.zeros(32)}
        return weights

    def halvings(first):
        return {k: v for i in range(3) for k, v in convolution(first + 2 * i, 8, 8, bias=False).items()}

    encoder = convolution(0, 3, 8) | block(1, False) | halvings(2) | block(7, True) | convolution(9, 8, 4)
    decoder = convolution(1, 4, 8) | block(3, True) | halvings(5) | convolution(11, 8, 3)
    save_file(encoder, folder / "x_encoder.safetensors")
    save_file(decoder, folder / "x_decoder.safetensors")
    return folder


class TestSpeed:
    def test_beside_others(self, clips, peers):
        found = speed.time_all(str(clips / "a.mp4"), 48, str(peers), 2)
        assert [each["name"] for each in found["networks"]][1:] == ["x"]
        assert found["networks"][1]["parameters"] == sum(
            weight.numel() for path in peers.iterdir() for weight in load_file(path).values()
        )
        for each in (*found["networks"], *found["clips"]):
            assert each["both_fps"] <= min(each["encode_fps"], each["decode_fps"]) * 1.5
            assert each["psnr"] > 3
        text = tables.speed_table(found | results._provenance())
        assert "| x, network alone |" in text and "| TokenReel stream, from frames to tokens and back |" in text

    def test_shapes_of_a_peer(self, peers):
        ((name, encoder, decoder),) = find_peers(peers)
        latents = encoder(torch.rand(2, 3, 48, 32))
        assert name == "x" and latents.shape == (2, 4, 6, 4)
        assert decoder(latents).shape == (2, 3, 48, 32) and 0 <= decoder(latents).min() <= decoder(latents).max() <= 1

    def test_other_weights_are_refused(self, peers):
        save_file({"body.weight": torch.zeros(1)}, peers / "x_encoder.safetensors")
        with pytest.raises(ValueError, match=r"x_encoder\.safetensors holds no tiny autoencoder"):
            list(find_peers(peers))

    def test_missing_folder(self, clips):
        with pytest.raises(ValueError, match="no folder"):
            run_benchmarks(arguments("speed", "--clips", clips, "--peers", clips / "none"), print)


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
        from tokenreel.models.checkpoint import file_digest, list_tokenizers, load_tokenizer

        tokenizer = load_tokenizer()
        clip_tokenizers = list_tokenizers(kinds=["video_tokenizer"]).values()
        now = {tokenizer.digest, tokenizer.codec_digest, *map(file_digest, clip_tokenizers)}
        for name in ("tokens", "speed", "memory"):
            result = results.read_result(name)
            if result is not None:
                assert set(result["weights"].values()) == now, name

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
