"""Every command end to end on tiny clips: facts on stdout, one line per failure on stderr, nothing left half done."""

import json
import os
import re
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import tokenreel
from tokenreel import cli, model_arguments, token_commands, workflow_commands
from tokenreel.host import resources
from tokenreel.models.quantized_files import read_layers
from tokenreel.video.writer import VideoWriter

ROOT = Path(tokenreel.__file__).parent
LAYERS = {"self_attn.q": (256, 256), "ffn.0": (512, 256), "ffn.2": (256, 512)}  # of a block of `video_model`
COUNTED = {
    "frames",
    "width",
    "height",
    "frame_rate",
    "duration",
    "tokens",
    "tokens_per_second",
    "tokens_by_kind",
    "bits",
    "bits_per_pixel",
}


def write_clip(path, frames=5, width=64, height=48, seconds_of_sound=0.0):
    """A pan over the reel's wall, or fewer frames of it."""
    from tokenreel.video.reel import render
    from tokenreel.video.writer import VideoWriter

    drawn = next(render(max(64, width), max(64, height), 24, max(2, frames) / 24).chunks(max(2, frames)))
    silent = path.with_name(f"silent_{path.name}") if seconds_of_sound else path
    with VideoWriter(silent, width=width, height=height, frame_rate=Fraction(24), crf=8) as writer:
        writer.write(np.ascontiguousarray(drawn[:frames, :height, :width]))
    if seconds_of_sound:
        with_sound(silent, path, seconds_of_sound)
    return path


def with_sound(silent, path, seconds):
    from tokenreel.video.reader import VideoReader
    from tokenreel.video.writer import VideoWriter

    sound = path.with_suffix(".m4a.mp4")
    sound_only(sound, seconds)
    with VideoReader(silent) as reader:
        size = {"width": reader.info.width, "height": reader.info.height}
        with VideoWriter(path, **size, frame_rate=Fraction(24), crf=8, audio_source=sound) as writer:
            for chunk in reader.chunks():
                writer.write(chunk.frames)


def sound_only(path, seconds=0.3):
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        samples = np.sin(np.arange(int(48000 * seconds)) / 20).astype(np.float32)[np.newaxis]
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 48000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """64x48, 5 frames at 24 per second."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture(scope="module")
def token_file(clip):
    path = clip.with_name("clip.tokens")
    assert cli.main(["encode", str(clip), str(path), "--quality", "22"]) == 0
    return path


@pytest.fixture(scope="module")
def video_model(tmp_path_factory):
    """Weights as Wan's, of 3 small blocks, in bf16."""
    chance = torch.Generator().manual_seed(0)
    layers = {f"blocks.{block}.{name}.weight": shape for block in range(3) for name, shape in LAYERS.items()}
    shapes = {**layers, "head.modulation": (1, 2, 256), "text_embedding.0.weight": (256, 256)}
    path = tmp_path_factory.mktemp("model") / "wan.safetensors"
    save_file({name: torch.randn(each, generator=chance).bfloat16() for name, each in shapes.items()}, path)
    return path


@pytest.fixture
def run(capsys):
    """Runs a command; (exit code, stdout, stderr)."""

    def call(*arguments):
        capsys.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def facts(run):
    """Runs a command with --json, and gives its one object."""

    def call(*arguments):
        code, out, err = run(*arguments, "--json")
        assert code == 0, err
        assert len(out.splitlines()) == 1
        return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))

    return call


@pytest.fixture
def refused(run, tmp_path):
    """Runs a command that must fail: one line that names `names`, exit code 1, and nothing new in the folder."""

    def call(*arguments, names):
        before = sorted(tmp_path.iterdir())
        code, out, err = run(*arguments)
        assert (code, out) == (1, "")
        lines = [line for line in err.splitlines() if not line.startswith("note:")]
        assert len(lines) == 1, err
        assert lines[0].startswith(f"tokenreel {arguments[0]}: ")
        assert "Traceback" not in err
        for name in names:
            assert str(name) in lines[0], lines[0]
        assert sorted(tmp_path.iterdir()) == before
        return lines[0]

    return call


class TestEncodeAndDecode:
    def test_keys(self, facts, clip, tmp_path):
        found = facts("encode", clip, tmp_path / "x.tokens", "--quality", 22)
        assert set(found) == COUNTED | {"file_bytes", "psnr", "ssim", "seconds", "peak_rss_bytes"}
        assert (found["frames"], found["width"], found["height"], found["frame_rate"]) == (5, 64, 48, 24.0)
        assert found["tokens"] == sum(found["tokens_by_kind"].values())
        assert found["file_bytes"] == (tmp_path / "x.tokens").stat().st_size
        assert 20e6 < found["peak_rss_bytes"] < 64e9

    def test_decode_keys(self, facts, token_file, tmp_path):
        found = facts("decode", token_file, tmp_path / "y.mp4")
        assert set(found) == COUNTED | {"file_bytes", "seconds", "peak_rss_bytes"}
        assert found["file_bytes"] == (tmp_path / "y.mp4").stat().st_size

    def test_info_says_what_encode_said(self, facts, clip, tmp_path):
        encoded = facts("encode", clip, tmp_path / "x.tokens", "--mode", "frames")
        told = facts("info", tmp_path / "x.tokens")
        assert {key: told[key] for key in COUNTED | {"file_bytes"}} == {
            key: encoded[key] for key in COUNTED | {"file_bytes"}
        }
        assert told["key_frames"] == 5
        assert len(told["tokenizer_sha256"]) == 64

    @pytest.mark.parametrize(
        ("size", "options"),
        [
            ((64, 48), ["--mode", "stream"]),
            ((64, 48), ["--mode", "frames"]),
            ((53, 37), ["--quality", "24"]),
            ((64, 48), ["--size", "32", "--crop"]),
            ((50, 34), ["--budget", "2000", "--max-gop", "3"]),
        ],
    )
    def test_psnr_is_what_decoding_gives(self, facts, tmp_path, size, options):
        """To the last bit."""
        source = write_clip(tmp_path / "source.mp4", 4, *size)
        if "--crop" in options:  # measured against what was encoded, not against the whole frame
            options = [*options, "--max-frames", "3"]
        encoded = facts("encode", source, tmp_path / "x.tokens", *options)
        facts("decode", tmp_path / "x.tokens", tmp_path / "y.mkv", "--lossless")
        measured = facts("measure", source, tmp_path / "y.mkv")
        assert measured["psnr"] == encoded["psnr"]
        assert measured["ssim"] == encoded["ssim"]
        assert measured["frames"] == encoded["frames"]

    def test_one_frame(self, facts, tmp_path):
        source = write_clip(tmp_path / "one.mp4", 1)
        assert facts("encode", source, tmp_path / "x.tokens")["frames"] == 1
        assert facts("decode", tmp_path / "x.tokens", tmp_path / "y.mp4")["frames"] == 1
        assert facts("measure", source, tmp_path / "y.mp4")["frames"] == 1

    def test_odd_size_comes_back(self, facts, tmp_path):
        source = write_clip(tmp_path / "odd.mp4", 3, 51, 35)
        found = facts("encode", source, tmp_path / "x.tokens")
        assert (found["width"], found["height"]) == (51, 35)
        facts("decode", tmp_path / "x.tokens", tmp_path / "y.mp4")
        assert facts("measure", source, tmp_path / "y.mp4")["reference_scaled"] is False

    def test_sound_is_no_hindrance(self, facts, tmp_path):
        source = write_clip(tmp_path / "sound.mp4", 3, seconds_of_sound=0.2)
        assert facts("encode", source, tmp_path / "x.tokens")["frames"] == 3

    def test_max_frames_and_size(self, facts, clip, tmp_path):
        found = facts("encode", clip, tmp_path / "x.tokens", "--max-frames", 2, "--size", 24)
        assert (found["frames"], found["width"], found["height"]) == (2, 32, 24)

    def test_tokenizer_by_name(self, facts, token_file, tmp_path):
        weights = ROOT / "models" / "weights" / "i8.safetensors"
        assert facts("decode", token_file, tmp_path / "y.mp4", "--tokenizer", weights)["frames"] == 5

    def test_an_older_output_is_replaced(self, facts, clip, tmp_path):
        (tmp_path / "x.tokens").write_text("old")
        facts("encode", clip, tmp_path / "x.tokens", "--size", 16, "--max-frames", 1)
        assert facts("info", tmp_path / "x.tokens")["frames"] == 1


@pytest.fixture(scope="module")
def key_file(clip):
    """Tokens of every frame for itself."""
    path = clip.with_name("keys.tokens")
    assert cli.main(["encode", str(clip), str(path), "--mode", "frames"]) == 0
    return path


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    """The file of a small generator that was never trained."""
    from tokenreel.models.checkpoint import file_digest, save_checkpoint
    from tokenreel.models.generator import GeneratorConfig, TokenGenerator

    path = tmp_path_factory.mktemp("generator") / "tiny.safetensors"
    net = TokenGenerator(GeneratorConfig(width=16, depth=2, heads=2, digit_width=8))
    trained_with = file_digest(ROOT / "models" / "weights" / "i8.safetensors")
    save_checkpoint(path, net, "generator", "tiny", trained_with=trained_with)
    return path


class TestGenerate:
    @pytest.fixture
    def generated(self, facts, key_file, generator, tmp_path):
        def call(*options, source=key_file):
            return facts("generate", source, tmp_path / "x.tokens", "--model", generator, *options)

        return call

    @pytest.mark.parametrize(
        ("options", "frames", "made", "rate"),
        [
            (("--task", "continue"), 13, 8, 24),
            (("--task", "continue", "--frames", "3", "--steps", "1"), 8, 3, 24),
            (("--task", "between", "--frames", "1", "--temperature", "1"), 9, 4, 48),
            (("--task", "fill", "--area", "8,8,16,9"), 5, 5, 24),
        ],
    )
    def test_keys(self, facts, generated, tmp_path, options, frames, made, rate):
        found = generated(*options)
        assert set(found) == COUNTED | {
            *("task", "known", "generated", "repeated", "faded", "tokens_made", "made_fraction", "cuts"),
            *("network_calls", "generator", "file_bytes", "seconds", "peak_rss_bytes"),
        }
        assert (found["frames"], found["generated"], found["frame_rate"]) == (frames, made, rate)
        assert found["tokens"] == frames * 48 and found["generator"] == "tiny.safetensors"
        assert found["tokens_made"] == (5 * 2 * 2 if "fill" in options else made * 48)
        told = facts("info", tmp_path / "x.tokens")
        assert {key: told[key] for key in COUNTED | {"file_bytes"}} == {
            key: found[key] for key in COUNTED | {"file_bytes"}
        }
        assert facts("decode", tmp_path / "x.tokens", tmp_path / "y.mp4")["frames"] == frames

    def test_chance_depends_on_the_seed(self, generated, tmp_path):
        drawn = []
        for seed in (1, 1, 2):
            generated("--task", "continue", "--frames", "1", "--temperature", "1", "--steps", "2", "--seed", seed)
            drawn.append((tmp_path / "x.tokens").read_bytes())
        assert drawn[0] == drawn[1] != drawn[2]

    def test_what_was_sampled_comes_back(self, facts, generated, clip, tmp_path):
        few, listing = tmp_path / "few.mp4", tmp_path / "t.json"
        facts("sample", clip, few, "--policy", "uniform", "--frames", "2", "--timeline", listing)
        facts("encode", few, tmp_path / "few.tokens", "--mode", "frames")
        found = generated("--task", "between", "--timeline", listing, source=tmp_path / "few.tokens")
        assert (found["frames"], found["frame_rate"], found["known"]) == (5, 24.0, 2)
        assert found["duration"] == pytest.approx(5 / 24)

    def test_a_picture_as_mask(self, generated, tmp_path):
        from PIL import Image

        mask = np.zeros((24, 32), np.uint8)  # half the size
        mask[:4, 28:] = 255
        Image.fromarray(mask).save(tmp_path / "m.png")
        assert generated("--task", "fill", "--mask", tmp_path / "m.png")["tokens_made"] == 5

    def test_a_stream_is_coded_anew(self, run, token_file, generator, tmp_path):
        options = ("--task", "continue", "--frames", "1", "--steps", "1", "--model", generator)
        code, _, err = run("generate", token_file, tmp_path / "x.tokens", *options)
        assert code == 0 and "note:" in err and "coded anew" in err

    @pytest.mark.parametrize(
        ("options", "names"),
        [
            (("--task", "between", "--frames", "64"), ["Invalid frames (64)", "1 to 63"]),
            (("--task", "continue", "--frames", "5000"), ["Invalid frames (5000)", "1 to 4096"]),
            (("--task", "fill"), ["needs a mask"]),
            (("--task", "between", "--area", "0,0,8,8"), ["A mask goes with task 'fill'"]),
            (("--task", "fill", "--area", "60,0,8,8"), ["Invalid area 60,0,8,8", "64x48"]),
            (("--task", "continue", "--temperature", "11"), ["Invalid temperature (11.0)"]),
            (("--task", "fill", "--mask", "none.png"), ["none.png"]),
            (("--task", "continue", "--model", "none.safetensors"), ["none.safetensors"]),
        ],
    )
    def test_refusals(self, refused, key_file, tmp_path, options, names):
        refused("generate", key_file, tmp_path / "x.tokens", *options, names=names)

    def test_nothing_is_left_to_begin_with(self, refused, key_file, generator, tmp_path):
        how = ("--task", "fill", "--area", "0,0,64,48", "--model", generator)
        refused("generate", key_file, tmp_path / "x.tokens", *how, names=["covers everything"])

    def test_groups_of_frames(self, refused, facts, clip, generator, tmp_path):
        facts("encode", clip, tmp_path / "g.tokens", "--mode", "clip")
        names = ["groups of frames", "Encode the clip with tokenizer 'i8'"]
        how = ("--task", "continue", "--model", generator)
        refused("generate", tmp_path / "g.tokens", tmp_path / "x.tokens", *how, names=names)

    def test_another_kind_of_weights(self, refused, key_file, tmp_path):
        model = ROOT / "models" / "weights" / "shots.safetensors"
        how = ("--task", "continue", "--model", model)
        refused("generate", key_file, tmp_path / "x.tokens", *how, names=["shots.safetensors", "generator"])


class TestPlan:
    WANTED = ("plan", "--family", "wan2.1", "--size", "1280x720", "--seconds", "5", "--fps", "30")

    def test_the_chosen_plan_and_all_that_were_weighed(self, facts):
        found = facts(*self.WANTED)
        assert (found["width"], found["height"], found["frames"], found["frame_rate"]) == (864, 480, 77, 15.0)
        assert (found["scale"], found["times"], found["tokens"]) == (1.5, 2, 20 * 30 * 54)
        assert found["family"] == "wan2.1" and found["model"] == "Wan 2.1 14B"
        assert found["target"] == {"width": 1280, "height": 720, "frame_rate": 30.0, "duration": 5.0}
        assert found["duration"] >= 5 and found["plans"][0]["relative_cost"] == 1
        assert found["plans"][-1].items() <= found.items()  # the cheapest is the chosen one

    def test_what_people_see_is_what_the_node_says(self, run):
        from tokenreel.nodes.planning import PlanTokenBudget

        names = [output.display_name for output in PlanTokenBudget.GET_SCHEMA().outputs]
        limits = {"least_short_side": 360, "least_fps": 10.0, "share": 0.5}
        said = PlanTokenBudget.execute("ltx-2", 1920, 1080, 4.0, 29.97, **limits).args
        wanted = ("--family", "ltx-2", "--size", "1920x1080", "--seconds", 4, "--fps", 29.97)
        limited = ("--least-short-side", 360, "--least-fps", 10, "--share", 0.5)
        assert run("plan", *wanted, *limited) == (0, f"{said[names.index('table')]}\n", "")

    def test_the_readme_shows_what_is_said(self, run):
        said = run(*self.WANTED)[1]
        assert f"```\n{said[: said.index('PFLOP: ')].strip()}\n```" in (ROOT / "README.md").read_text(encoding="utf-8")

    def test_limits_are_kept_to(self, facts):
        deeper = facts(*self.WANTED, "--least-short-side", 180, "--least-fps", "7.5")
        assert (deeper["scale"], deeper["times"]) == (4.0, 4)
        assert 0.25 < facts(*self.WANTED, "--share", 0.5)["relative_cost"] <= 0.5

    def test_plot(self, facts, tmp_path):
        found = facts(*self.WANTED, "--plot", tmp_path / "costs.png")
        with Image.open(tmp_path / "costs.png") as picture:
            assert picture.format == "PNG" and picture.height > 26 * len(found["plans"])
        assert [path.name for path in tmp_path.iterdir()] == ["costs.png"]

    @pytest.mark.parametrize(
        ("options", "names"),
        [
            (["--share", "0.01"], ["No plan costs 1.0% or less", "8.4%"]),
            (["--share", "2"], ["Invalid share 2"]),
            (["--size", "8x720"], ["Invalid size 8x720", "16384"]),
            (["--seconds", "5000"], ["Invalid length of 5000 s"]),
            (["--plot", "costs.jpg"], ["costs.jpg", ".png"]),
        ],
    )
    def test_what_cannot_be_planned(self, refused, options, names):
        refused(*self.WANTED, *options, names=names)

    def test_families_are_those_of_the_planner(self, capsys):
        from tokenreel.models.model_families import FAMILIES

        with pytest.raises(SystemExit) as stop:
            cli.main([*self.WANTED, "--family", "wan9"])
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert all(name in said for name in FAMILIES) and tuple(FAMILIES) == model_arguments.FAMILIES


class TestQuantize:
    @pytest.mark.parametrize(("kind", "share"), [("int8", 0.56), ("fp8", 0.56), ("mxfp8", 0.58), ("nvfp4", 0.36)])
    def test_file_and_what_it_cost(self, facts, video_model, tmp_path, kind, share):
        found = facts("quantize", video_model, tmp_path / "small.safetensors", "--format", kind)
        assert found["layers_by_format"] == {kind: 9} and found["family"] == "wan" and found["format"] == kind
        assert {each["name"] for each in found["layers"]} == {f"blocks.{i}.{name}" for i in range(3) for name in LAYERS}
        assert all(each["shape"] == list(LAYERS[each["name"][9:]]) for each in found["layers"])
        assert found["share"] == found["weight_bytes"] / found["weight_bytes_before"] < share
        assert found["source_bytes"] == video_model.stat().st_size
        assert found["file_bytes"] == (tmp_path / "small.safetensors").stat().st_size
        saved = dict(read_layers(tmp_path / "small.safetensors"))
        before = load_file(video_model)
        assert torch.equal(saved["text_embedding.0.weight"], before["text_embedding.0.weight"])
        for each in found["layers"]:
            weight = before[f"{each['name']}.weight"].float()
            off = (saved[each["name"]].dequantize() - weight).norm() / weight.norm()
            assert float(off) == pytest.approx(each["error"], rel=1e-3)
        assert 0 < found["error"] < (0.12 if kind == "nvfp4" else 0.04)

    def test_people_see_the_nodes_report(self, run, video_model, tmp_path):
        code, out, err = run("quantize", video_model, tmp_path / "x.safetensors", "--format", "int8")
        assert code == 0 and out.startswith("2.10 MB to 1.13 MB (53.8%)\nLinear layers: 9 in int8\n")
        assert "Relative error of the weights alone: 0." in out
        assert err.startswith("note: ") and "newer than 0.25" in err and len(err.splitlines()) == 1
        assert run("quantize", video_model, tmp_path / "x.safetensors", "--format", "fp8")[2] == ""

    def test_mixed(self, facts, video_model, tmp_path):
        out = tmp_path / "x.safetensors"
        sized = facts("quantize", video_model, out, "--format", "mixed", "--size", 0.5)
        assert set(sized["layers_by_format"]) == {"int8", "nvfp4"} and 0.45 < sized["share"] <= 0.5
        good = facts("quantize", video_model, out, "--format", "mixed", "--error", 0.03, "--formats", "fp8,nvfp4")
        assert set(good["layers_by_format"]) <= {"fp8", "nvfp4", "kept"} and 0.02 < good["error"] <= 0.03

    def test_what_is_left_alone(self, facts, video_model, tmp_path):
        out, ends = tmp_path / "x.safetensors", ("--first-blocks", 1, "--last-blocks", 1)
        found = facts("quantize", video_model, out, "--format", "fp8", "--keep", "ffn.2", *ends)
        assert [each["name"] for each in found["layers"]] == ["blocks.1.ffn.0", "blocks.1.self_attn.q"]
        other = facts("quantize", video_model, out, "--format", "fp8", "--family", "any", "--keep", "self_attn")
        assert other["family"] == "any" and other["layers_by_format"] == {"fp8": 6}

    def test_refused(self, refused, video_model, clip, tmp_path):
        out, small = tmp_path / "x.safetensors", tmp_path / "small.safetensors"
        how = ("--format", "int8")
        refused("quantize", video_model, video_model, *how, names=["wan.safetensors", "it is the input"])
        refused("quantize", video_model, tmp_path / "x.ckpt", *how, names=["x.ckpt", ".safetensors"])
        refused("quantize", video_model, tmp_path / "no" / "x.safetensors", *how, names=["does not exist"])
        refused("quantize", tmp_path / "gone.safetensors", out, *how, names=["gone.safetensors", "Fetch it again"])
        refused(
            "quantize", ROOT / "models" / "weights" / "i8.safetensors", out, *how, names=["TokenReel's image tokenizer"]
        )
        refused("quantize", clip, out, *how, names=[clip.name, "not a readable safetensors file"])
        refused(
            "quantize", video_model, out, "--format", "mixed", "--size", 0.1, names=["Invalid size 10.0%", "or more"]
        )
        refused("quantize", video_model, out, *how, "--keep", "blocks", names=["no layer to quantize to int8"])
        save_file({"conv.weight": torch.zeros(8, 8, 3, 3)}, small)
        refused("quantize", small, out, *how, names=["small.safetensors", "no layer to quantize"])
        save_file({**load_file(video_model), "head.weight_scale": torch.ones(1)}, small)
        refused("quantize", small, out, *how, names=["small.safetensors", "quantized already"])

    def test_choices_are_those_of_the_functions(self):
        from tokenreel.models.quantizable_layers import PRESETS
        from tokenreel.models.quantization import KINDS
        from tokenreel.models.quantized_formats import FORMATS

        assert {*PRESETS} == {*model_arguments.PRESETS, "generator"} and tuple(FORMATS) == model_arguments.FORMATS
        assert (*model_arguments.FORMATS, "mixed") == KINDS


class TestMeasure:
    def test_says_that_the_reference_was_scaled(self, run, clip, tmp_path):
        small = write_clip(tmp_path / "small.mp4", 5, 32, 24)
        code, out, err = run("measure", clip, small, "--json")
        assert code == 0
        assert "scaled from 64x48 to 32x24" in err
        assert json.loads(out)["reference_scaled"] is True

    def test_says_that_frames_were_left_out(self, run, clip, tmp_path):
        code, out, err = run("measure", clip, write_clip(tmp_path / "short.mp4", 3), "--json")
        assert code == 0
        assert json.loads(out)["frames_left_out"] == 2
        assert "2 more frames" in err

    def test_a_clip_equals_itself(self, facts, clip):
        assert facts("measure", clip, clip)["psnr"] == 100.0


class TestSample:
    @pytest.mark.parametrize("policy", ["motion", "uniform"])
    def test_keeps_the_frames_it_says(self, facts, clip, tmp_path, policy):
        from tokenreel.video.timeline import FrameTimeline

        found = facts(
            "sample", clip, tmp_path / "s.mp4", "--frames", 3, "--policy", policy, "--timeline", tmp_path / "t.json"
        )
        timeline = FrameTimeline.from_json((tmp_path / "t.json").read_text())
        assert found["kept"] == list(timeline.kept)
        assert (found["frames"], found["source_frames"], found["kept"][0]) == (3, 5, 0)
        assert facts("encode", tmp_path / "s.mp4", tmp_path / "x.tokens", "--size", 16)["frames"] == 3

    def test_rate(self, facts, clip, tmp_path):
        assert facts("sample", clip, tmp_path / "s.mp4", "--fps", 9.6)["frames"] == 2

    def test_budget_of_tokens(self, facts, refused, clip, tmp_path):
        """A frame of 64x48 is 48 tokens; the clip lasts 5/24 s."""
        found = facts("sample", clip, tmp_path / "s.mp4", "--tokens-per-second", 700)
        assert found["frames"] == 3 and found["tokens_per_second"] == pytest.approx(3 * 48 * 24 / 5)
        refused("sample", clip, tmp_path / "t.mp4", "--tokens-per-second", 9, names=["Invalid budget (9 tokens/s)"])

    @pytest.mark.parametrize(
        ("options", "frames"),
        [
            (["--frames", 4, "--preset", "4n+1"], 1),
            (["--frames", 4, "--preset", "4n+1", "--rounding", "above"], 5),
            (["--frames", 99, "--preset", "8n+1"], 1),
            (["--frames", 5, "--min-gap", 2], 3),
            (["--frames", 1, "--max-gap", 2], 3),
            (["--policy", "keyframes", "--threshold", 255], 1),
            (["--policy", "dedupe", "--frames", 2], 2),
        ],
    )
    def test_numbers(self, facts, clip, tmp_path, options, frames):
        found = facts("sample", clip, tmp_path / "s.mp4", *options)
        assert found["frames"] == len(found["kept"]) == frames

    def test_timeline_is_not_the_video(self, refused, clip, tmp_path):
        refused("sample", clip, tmp_path / "s.mp4", "--frames", 3, "--timeline", tmp_path / "s.mp4", names=["s.mp4"])


class TestShots:
    @pytest.fixture(scope="class")
    @classmethod
    def film(cls, tmp_path_factory):
        """Two pictures of 20 frames each, 25 a second, and time stamps from 5 s on."""
        from tokenreel.video.writer import VideoWriter

        path = tmp_path_factory.mktemp("film") / "film.mkv"
        pictures = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
        with VideoWriter(path, width=64, height=48, frame_rate=Fraction(25)) as writer:
            writer.write(pictures.repeat(20, 0), [125 + index for index in range(40)])
        return path

    def test_times_are_from_the_first_frame(self, facts, film):
        found = facts("shots", film)
        assert [(each["start"], each["end"], each["transition"]) for each in found["shots"]] == [
            (0.0, pytest.approx(0.8), "start"),
            (pytest.approx(0.8), pytest.approx(1.6), "cut"),
        ]
        assert found["frames"] == 40 and found["duration"] == pytest.approx(1.6)

    def test_one_shot(self, facts, clip):
        (shot,) = facts("shots", clip)["shots"]
        assert (shot["first_frame"], shot["last_frame"], shot["transition"]) == (0, 4, "start")

    def test_for_people(self, run, film):
        code, out, _ = run("shots", film)
        assert code == 0
        assert "0.800 to 1.600 s" in out and "cut" in out

    def test_sound_alone(self, refused, tmp_path):
        sound_only(tmp_path / "sound.mp4")
        refused("shots", tmp_path / "sound.mp4", names=["sound.mp4", "no video"])


class TestInterpolate:
    @pytest.mark.parametrize(
        ("options", "frames", "rate"),
        [(("--times", "3"), 15, 72), (("--fps", "60"), 12, 60), (("--fps", "30000/1001"), 6, 30000 / 1001)],
    )
    def test_keys(self, facts, clip, tmp_path, options, frames, rate):
        found = facts("interpolate", clip, tmp_path / "x.mp4", *options, "--engine", "flow")
        assert (found["frames"], found["width"], found["height"]) == (frames, 64, 48)
        assert found["frame_rate"] == pytest.approx(rate)
        assert found["duration"] == pytest.approx(5 / 24, abs=1 / rate)
        assert 0 <= found["computed_fraction"] <= 1 and found["source_frames"] == 5
        assert found["passed"] + found["interpolated"] + found["held"] + found["faded"] == frames
        assert found["file_bytes"] == (tmp_path / "x.mp4").stat().st_size
        assert found["seconds"] > 0 and found["peak_rss_bytes"] > 20e6

    def test_what_was_sampled_comes_back(self, facts, clip, tmp_path):
        few, listing, whole = (tmp_path / name for name in ("few.mp4", "t.json", "whole.mp4"))
        facts("sample", clip, few, "--policy", "uniform", "--frames", "2", "--timeline", listing)
        found = facts("interpolate", few, whole, "--timeline", listing, "--engine", "blend")
        assert (found["frames"], found["frame_rate"], found["passed"]) == (5, 24.0, 2)
        assert found["duration"] == pytest.approx(5 / 24)

    def test_whole_frames_and_how_repeats_are_treated(self, facts, clip, tmp_path):
        how = ("--whole", "--repeats", "retime", "--at-cuts", "crossfade", "--loop", "--lossless")
        found = facts("interpolate", clip, tmp_path / "x.mp4", "--times", "2", "--engine", "blend", *how)
        assert found["computed_fraction"] == 1 and found["held"] == 0

    def test_another_timeline(self, refused, facts, clip, tmp_path):
        few, listing = tmp_path / "few.mp4", tmp_path / "t.json"
        facts("sample", clip, few, "--frames", "2", "--timeline", listing)
        names = ["has more than 2 frames", "the timeline kept 2"]
        refused("interpolate", clip, tmp_path / "x.mp4", "--timeline", listing, "--engine", "flow", names=names)

    def test_no_timeline(self, refused, clip, tmp_path):
        (tmp_path / "t.json").write_text("[]")
        more = ("--timeline", tmp_path / "t.json", "--engine", "flow")
        refused("interpolate", clip, tmp_path / "x.mp4", *more, names=["Not a timeline"])
        (tmp_path / "t.json").write_bytes(bytes(range(256)))
        refused("interpolate", clip, tmp_path / "x.mp4", *more, names=["Not a timeline"])

    @pytest.mark.parametrize("rate", ["fast", "0", "24/0", "1e4"])
    def test_a_rate_that_is_none(self, clip, tmp_path, capsys, rate):
        with pytest.raises(SystemExit, match="2"):
            cli.main(["interpolate", str(clip), str(tmp_path / "x.mp4"), "--fps", rate])
        assert f"Invalid frame rate '{rate}'" in capsys.readouterr().err


class TestUpscale:
    @pytest.mark.parametrize(
        ("options", "size"),
        [
            ((), (128, 96)),
            (("--scale", "1.5"), (96, 72)),
            (("--short-side", "72"), (96, 72)),
            (("--size", "100x60"), (100, 60)),
            (("--size", "100X60", "--fit", "pad"), (100, 60)),
            (("--scale", "1.1", "--multiple-of", "16"), (64, 48)),
        ],
    )
    def test_keys(self, facts, clip, tmp_path, options, size):
        found = facts("upscale", clip, tmp_path / "x.mp4", *options, "--engine", "bicubic")
        assert (found["frames"], found["width"], found["height"]) == (5, *size)
        assert (found["frame_rate"], found["duration"]) == (24.0, pytest.approx(5 / 24))
        assert 0 < found["computed_fraction"] <= 1 and 0 < found["tiles_computed"] <= found["tiles"]
        assert found["file_bytes"] == (tmp_path / "x.mp4").stat().st_size and found["engine"] == "bicubic"
        assert found["seconds"] > 0 and found["peak_rss_bytes"] > 20e6

    def test_threshold_0_gives_what_computing_everything_gives(self, facts, clip, tmp_path):
        files = [tmp_path / name for name in ("a.mp4", "b.mp4")]
        whole = facts("upscale", clip, files[0], "--whole", "--lossless")
        facts("upscale", clip, files[1], "--reuse", "0", "--refresh", "2", "--lossless")
        assert whole["computed_fraction"] == 1 and whole["engine"] == "x2-m"
        assert facts("measure", *files)["psnr_min"] == 100

    def test_what_scrolls_is_moved(self, facts, tmp_path, texture):
        page = texture(160, 128, 1)
        with VideoWriter(tmp_path / "page.mp4", width=128, height=96, frame_rate=Fraction(24), lossless=True) as writer:
            writer.write(np.stack([page[4 * i : 4 * i + 96] for i in range(6)]))
        shares = [
            facts("upscale", tmp_path / "page.mp4", tmp_path / "x.mp4", "--engine", "bicubic", *options)[
                "computed_fraction"
            ]
            for options in ([], ["--follow-motion"])
        ]
        assert shares[1] < 0.6 * shares[0]

    def test_a_model_file_gives_its_own_scale(self, facts, clip, tmp_path):
        from safetensors.torch import save_file

        from tokenreel.models.upscaler import CompactUpscaler, UpscalerConfig

        model = tmp_path / "net.safetensors"
        save_file(CompactUpscaler(UpscalerConfig(3, 4, 1)).state_dict(), model)
        found = facts("upscale", clip, tmp_path / "x.mp4", "--model", model)
        assert (found["width"], found["height"], found["engine"]) == (192, 144, "net.safetensors")
        assert facts("upscale", clip, tmp_path / "x.mp4", "--model", model, "--scale", "2")["width"] == 128

    def test_the_engine_that_was_chosen_is_named(self, facts, clip, tmp_path):
        assert facts("upscale", clip, tmp_path / "x.mp4", "--scale", "3")["engine"] == "x4-m"
        assert facts("upscale", clip, tmp_path / "x.mp4", "--scale", "1")["engine"] == "none"

    def test_more_frames_in_the_same_pass(self, facts, clip, tmp_path):
        found = facts("upscale", clip, tmp_path / "x.mp4", "--times", "2", "--engine", "bicubic")
        assert (found["frames"], found["width"], found["frame_rate"]) == (10, 128, 48.0)
        assert found["upscaled_fraction"] == 0.5 and found["duration"] == pytest.approx(5 / 24)

    def test_what_was_sampled_comes_back_large(self, facts, clip, tmp_path):
        few, listing, whole = (tmp_path / name for name in ("few.mp4", "t.json", "whole.mp4"))
        facts("sample", clip, few, "--policy", "uniform", "--frames", "2", "--timeline", listing)
        found = facts("upscale", few, whole, "--timeline", listing, "--engine", "bicubic", "--short-side", "60")
        assert (found["frames"], found["width"], found["height"]) == (5, 80, 60)
        assert found["upscaled_fraction"] == 0.4

    def test_refusals(self, refused, clip, tmp_path):
        output = tmp_path / "x.mp4"
        refused("upscale", clip, output, "--size", "65x48", "--multiple-of", "16", names=["no multiple of 16"])
        refused("upscale", clip, output, "--short-side", "99999", names=["more than the limit"])
        refused("upscale", clip, output, "--model", clip, names=["only .safetensors is read"])
        (tmp_path / "m.safetensors").write_bytes(b"x")
        refused("upscale", clip, output, "--model", tmp_path / "m.safetensors", names=["not a readable safetensors"])
        refused("upscale", clip, clip, names=["it is the input"])

    @pytest.mark.parametrize("wrong", [("--size", "100"), ("--size", "ax4"), ("--scale", "0"), ("--reuse", "-1")])
    def test_wrong_usage(self, clip, tmp_path, wrong):
        with pytest.raises(SystemExit, match="2"):
            cli.main(["upscale", str(clip), str(tmp_path / "x.mp4"), *wrong])
        with pytest.raises(SystemExit, match="2"):
            cli.main(["upscale", str(clip), str(tmp_path / "x.mp4"), "--scale", "2", "--size", "8x8"])


class TestRun:
    @pytest.fixture
    def workflow(self, tmp_path, clip):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "clip.mp4").write_bytes(clip.read_bytes())
        path = tmp_path / "workflow.json"
        encode = {"video": ["1", 0], "tokenizer": ["2", 0], "size": 16, "crop": False, "fps": 24.0}
        nodes = {
            "1": {"class_type": "LoadVideo", "inputs": {"file": "clip.mp4"}},
            "2": {"class_type": "TokenReel_LoadTokenizer", "inputs": {"tokenizer_name": "i8"}},
            "3": {"class_type": "TokenReel_EncodeVideo", "inputs": encode},
            "4": {"class_type": "TokenReel_SaveTokens", "inputs": {"tokens": ["3", 0], "filename_prefix": "t/run"}},
        }
        path.write_text(json.dumps(nodes))
        return path

    def test_runs_here(self, facts, workflow, tmp_path):
        found = facts("run", workflow, "--input", tmp_path / "in", "--output", tmp_path / "out", "--set", "3.size=32")
        (saved,) = found["results"][0]["files"]
        assert Path(saved).parent == tmp_path / "out" / "t"
        assert facts("info", saved)["height"] == 32

    def test_runs_what_the_editor_saves(self, facts, workflow, tmp_path):
        """Exported first, or as it is: the same."""
        path = ROOT / "workflows" / "11_plan_a_token_budget.json"
        exported = tmp_path / "api.json"
        found = facts("export", path, exported)
        assert found["nodes"] == len(json.loads(exported.read_text())) == 10
        assert found["file_bytes"] == exported.stat().st_size
        (tmp_path / "in" / "clip.mp4").rename(tmp_path / "in" / "tokenreel_reel.mp4")
        small = ["2.width=64", "2.height=48", "2.seconds=1", "2.fps=4", "2.least_short_side=16", "2.least_fps=2"]
        for file in (path, exported):
            changes = [word for each in small for word in ("--set", each)]
            run = facts("run", file, "--input", tmp_path / "in", "--output", tmp_path / file.stem, *changes)
            (result,) = run["results"]
            assert len(result["files"]) == 1 and "64 x 48" in result["texts"]["2 Plan Token Budget"]

    def test_problem_is_one_line(self, refused, workflow, tmp_path):
        refused(
            "run", workflow, "--input", tmp_path / "in", "--output", tmp_path / "out", "--set", "9.size=1", names=["9"]
        )

    def test_failing_node_is_named(self, run, workflow, tmp_path):
        (tmp_path / "in" / "clip.mp4").write_text("no video")
        code, _, err = run("run", workflow, "--input", tmp_path / "in", "--output", tmp_path / "out")
        assert code == 1
        assert "clip.mp4" in err.splitlines()[-1]

    def test_unreachable_server(self, refused, workflow, tmp_path):
        refused(
            "run", workflow, "--output", tmp_path / "out", "--on", "http://127.0.0.1:9", names=["http://127.0.0.1:9"]
        )

    def test_nodes_that_only_a_comfyui_knows(self, refused, tmp_path):
        path = ROOT / "workflows" / "07_wan_video_for_less.json"
        target = tmp_path / "out.json"
        refused("export", path, target, names=["(UNETLoader)", "--on"])
        refused("export", path, target, "--on", "http://127.0.0.1:9", names=["http://127.0.0.1:9"])
        refused("run", path, "--output", tmp_path / "out", names=["(UNETLoader)", "--on"])
        assert not target.exists()

    def test_runs_on_clips(self, run, facts, workflow, clip, tmp_path):
        """Each in its folder with a report; one that fails is said, and the others are skipped the next time."""
        clips = tmp_path / "clips"
        clips.mkdir()
        for name in ("one.mp4", "two.mp4"):
            (clips / name).write_bytes(clip.read_bytes())
        (clips / "bad.mp4").write_text("no video")
        given = ("run", workflow, "--input", tmp_path / "in", "--output", tmp_path / "out", "--clips", clips)
        code, out, err = run(*given, "--json")
        found = json.loads(out)
        assert code == 1 and (found["clips_done"], found["clips_skipped"], found["clips_failed"]) == (2, 0, 1)
        assert [(result["clip"], result["status"]) for result in found["results"]] == [
            ("bad", "failed"), ("one", "done"), ("two", "done")
        ]  # fmt: skip
        bad, one, _ = found["results"]
        assert one["files"] == [str(tmp_path / "out" / "one" / "t" / "run_00001_.tokens")]
        assert facts("info", one["files"][0])["height"] == 16
        assert re.match(r"node \d \(\w+\): .*bad\.mp4", bad["error"])
        assert json.loads((tmp_path / "out" / "bad" / "job.json").read_text())["attempts"][0]["error"] == bad["error"]
        assert "1 of 3 clips failed: bad. The job.json of each says why." in err
        (clips / "bad.mp4").unlink()
        code, out, err = run(*given, "--resume")
        assert code == 0 and "2 of 2 clips are done already" in err
        assert "== one: skipped\n-- 4 TokenReel_SaveTokens\nt/run_00001_.tokens\n" in out
        assert f"\n{one['files'][0]}\n== two: skipped\n" in out

    def test_options_of_clips_need_clips(self, workflow, capsys):
        for option in (["--resume"], ["--clip-input", "1.file"], ["--tries", "2"]):
            with pytest.raises(SystemExit) as left:
                cli.main(["run", str(workflow), *option])
            assert left.value.code == 2 and "are for --clips" in capsys.readouterr().err

    def test_folder_name_of_a_server(self):
        assert workflow_commands._folder_name("http://127.0.0.1:8188") == "127_0_0_1_8188"


class TestRefused:
    def test_missing_file(self, refused, tmp_path):
        refused("encode", tmp_path / "none.mp4", tmp_path / "x.tokens", names=["none.mp4", "there is no such file"])

    def test_text_called_mp4(self, refused, tmp_path):
        (tmp_path / "text.mp4").write_text("This is no video.\n" * 100)
        refused("encode", tmp_path / "text.mp4", tmp_path / "x.tokens", names=["text.mp4", "no known video container"])

    @pytest.mark.parametrize("share", [0.3, 0.9])
    def test_truncated(self, refused, tmp_path, share):
        whole = write_clip(tmp_path / "whole.mp4", 24)
        data = whole.read_bytes()
        (tmp_path / "cut.mp4").write_bytes(data[: int(len(data) * share)])
        refused("encode", tmp_path / "cut.mp4", tmp_path / "x.tokens", "--size", "16", names=["cut.mp4"])

    def test_empty_file(self, refused, tmp_path):
        (tmp_path / "empty.mp4").touch()
        refused("measure", tmp_path / "empty.mp4", tmp_path / "empty.mp4", names=["empty.mp4"])

    def test_no_video_stream(self, refused, tmp_path):
        sound_only(tmp_path / "sound.mp4")
        refused("encode", tmp_path / "sound.mp4", tmp_path / "x.tokens", names=["sound.mp4", "no video"])

    def test_flipped_byte(self, refused, token_file, tmp_path):
        data = bytearray(token_file.read_bytes())
        data[-20] ^= 1
        (tmp_path / "bad.tokens").write_bytes(data)
        refused("decode", tmp_path / "bad.tokens", tmp_path / "y.mp4", names=["bad.tokens"])
        refused("info", tmp_path / "bad.tokens", names=["bad.tokens"])

    def test_unknown_tokenizer(self, refused, random_tokens, tmp_path):
        from tokenreel.tokens.bitstream import write_tokens

        write_tokens(tmp_path / "x.tokens", random_tokens())
        refused("decode", tmp_path / "x.tokens", tmp_path / "y.mp4", names=["'i8'", "--tokenizer FILE"])

    def test_wrong_tokenizer(self, refused, token_file, tmp_path):
        from tokenreel.models.checkpoint import save_checkpoint
        from tokenreel.models.image_tokenizer import ImageTokenizer, ImageTokenizerConfig

        small = {"encoder_widths": (8, 8), "decoder_widths": (8, 8), "encoder_blocks": (1, 1), "decoder_blocks": (1, 1)}
        other = ImageTokenizer(ImageTokenizerConfig(**small, heads=2))
        save_checkpoint(tmp_path / "other.safetensors", other, "image_tokenizer", "other")
        refused(
            "decode",
            token_file,
            tmp_path / "y.mp4",
            "--tokenizer",
            tmp_path / "other.safetensors",
            names=["'i8'", "'other'", "Load the tokenizer"],
        )

    def test_weights_that_are_none(self, refused, clip, tmp_path):
        (tmp_path / "w.safetensors").write_text("no weights")
        weights = tmp_path / "w.safetensors"
        refused("encode", clip, tmp_path / "x.tokens", "--tokenizer", weights, names=["w.safetensors"])

    def test_missing_weights(self, refused, clip, tmp_path):
        refused("encode", clip, tmp_path / "x.tokens", "--tokenizer", tmp_path / "none.safetensors", names=["none"])

    @pytest.mark.parametrize("command", ["encode", "decode", "sample", "interpolate", "upscale"])
    def test_missing_folder(self, refused, clip, token_file, tmp_path, command):
        source = token_file if command == "decode" else clip
        target = tmp_path / "none" / ("x.tokens" if command == "encode" else "x.mp4")
        more = {"sample": ["--frames", "2"], "interpolate": ["--times", "2"]}.get(command, [])
        refused(command, source, target, *more, names=[target, "does not exist", "Create it first"])

    @pytest.mark.parametrize(("command", "name"), [("encode", "x.mp4"), ("decode", "x.tokens"), ("sample", "x.gif")])
    def test_suffix(self, refused, clip, token_file, tmp_path, command, name):
        source = token_file if command == "decode" else clip
        more = ["--frames", "2"] if command == "sample" else []
        refused(command, source, tmp_path / name, *more, names=[name, "suffix"])

    def test_output_is_the_input(self, refused, tmp_path):
        source = write_clip(tmp_path / "clip.mp4", 2)
        before = source.read_bytes()
        (tmp_path / "link.mp4").symlink_to(source)
        refused("sample", source, tmp_path / "link.mp4", "--frames", "1", names=["link.mp4", "it is the input"])
        assert source.read_bytes() == before

    def test_output_is_a_folder(self, refused, clip, tmp_path):
        (tmp_path / "x.tokens").mkdir()
        refused("encode", clip, tmp_path / "x.tokens", names=["x.tokens", "it is a folder"])

    def test_budget_that_cannot_be_kept(self, refused, clip, tmp_path):
        refused("encode", clip, tmp_path / "x.tokens", "--budget", "1", names=["Invalid budget (1 tokens/s)"])

    def test_quality_of_single_frames(self, refused, clip, tmp_path):
        refused("encode", clip, tmp_path / "x.tokens", "--mode", "frames", "--quality", "20", names=["Mode 'frames'"])


class TestUsage:
    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["quantize"],
            ["generate", "a.tokens", "b.tokens"],
            ["generate", "a.tokens", "b.tokens", "--task", "guess"],
            ["generate", "a.tokens", "b.tokens", "--task", "fill", "--area", "1,2,3"],
            ["generate", "a.tokens", "b.tokens", "--task", "fill", "--area", "1,2,3,4", "--mask", "m.png"],
            ["generate", "a.tokens", "b.tokens", "--task", "continue", "--frames", "0"],
            ["generate", "a.tokens", "b.tokens", "--task", "continue", "--model", "m", "--attention", "full"],
            ["plan"],
            ["plan", "--family", "wan2.1", "--size", "720p", "--seconds", "5", "--fps", "30"],
            ["plan", "--family", "wan2.1", "--size", "1280x720", "--seconds", "0", "--fps", "30"],
            ["plan", "--family", "wan2.1", "--size", "1280x720", "--seconds", "5", "--fps", "fast"],
            ["quantize", "a.safetensors", "b.safetensors"],
            ["quantize", "a.safetensors", "b.safetensors", "--format", "int4"],
            ["quantize", "a.safetensors", "b.safetensors", "--format", "mixed"],
            ["quantize", "a.safetensors", "b.safetensors", "--format", "mixed", "--size", "0.4", "--error", "0.1"],
            ["quantize", "a.safetensors", "b.safetensors", "--format", "mixed", "--size", "0.4", "--formats", "int4"],
            ["quantize", "a.safetensors", "b.safetensors", "--format", "int8", "--size", "0.4"],
            ["quantize", "a.safetensors", "b.safetensors", "--format", "int8", "--first-blocks", "-1"],
            ["encode", "a.mp4"],
            ["encode", "a.mp4", "b.tokens", "--quality", "nan"],
            ["encode", "a.mp4", "b.tokens", "--quality", "inf"],
            ["encode", "a.mp4", "b.tokens", "--quality", "30", "--budget", "5"],
            ["encode", "a.mp4", "b.tokens", "--size", "1.5"],
            ["encode", "a.mp4", "b.tokens", "--max-frames", "0"],
            ["sample", "a.mp4", "b.mp4"],
            ["sample", "a.mp4", "b.mp4", "--policy", "uniform"],
            ["sample", "a.mp4", "b.mp4", "--frames", "3", "--preset", "2n+1"],
            ["sample", "a.mp4", "b.mp4", "--frames", "3", "--fps", "2"],
            ["sample", "a.mp4", "b.mp4", "--frames", "3", "--min-gap", "0"],
            ["shots"],
            ["bench", "nonsense"],
        ],
    )
    def test_exit_code_2(self, arguments, capsys):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == 2
        assert "usage: tokenreel" in capsys.readouterr().err

    def test_help_lists_what_is_served(self, capsys):
        with pytest.raises(SystemExit) as stop:
            cli.main(["--help"])
        assert stop.value.code == 0
        out = capsys.readouterr().out
        served = (
            "run export demo shots sample interpolate upscale encode decode generate plan quantize info measure bench"
        )
        for command in served.split():
            assert re.search(rf"^    {command}\s", out, re.MULTILINE)

    def test_facts_for_people(self, run, token_file):
        code, out, _ = run("info", token_file)
        assert code == 0
        assert "frames             5\n" in out


class TestInterrupted:
    @pytest.mark.parametrize("command", ["encode", "decode", "generate", "sample", "quantize", "demo"])
    def test_nothing_is_left(
        self, run, clip, token_file, key_file, generator, video_model, tmp_path, monkeypatch, command
    ):
        update, calls = resources.Progress.update, []

        def interrupt(self, *arguments, **named):
            calls.append(1)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return update(self, *arguments, **named)

        monkeypatch.setattr(resources.Progress, "update", interrupt)
        arguments = {
            "encode": ["encode", clip, tmp_path / "x.tokens"],
            "decode": ["decode", token_file, tmp_path / "y.mp4"],
            "generate": ["generate", key_file, tmp_path / "g.tokens", "--task", "between", "--model", generator],
            "sample": ["sample", clip, tmp_path / "s.mp4", "--frames", "2"],
            "quantize": ["quantize", video_model, tmp_path / "small.safetensors", "--format", "int8"],
            "demo": ["demo", clip, "--output", tmp_path / "demo"],
        }[command]
        before = signal.getsignal(signal.SIGINT)
        code, out, err = run(*arguments)
        assert (code, out) == (130, "")
        assert "interrupted" in err.splitlines()[-1]
        assert not list(tmp_path.iterdir())
        assert signal.getsignal(signal.SIGINT) is before


class TestMessages:
    def test_json_has_no_infinity(self, capsys):
        args = cli.build_parser().parse_args(["info", "x.tokens", "--json"])
        cli._print({"psnr": float("inf"), "nested": {"a": [float("nan"), 1]}}, args)
        assert json.loads(capsys.readouterr().out) == {"psnr": None, "nested": {"a": [None, 1]}}

    @pytest.mark.parametrize(
        ("error", "text"),
        [
            (PermissionError(13, "Permission denied", "a.tokens"), "Cannot use 'a.tokens': Permission denied"),
            (ModuleNotFoundError("no", name="torch"), r"pip install 'tokenreel\[headless\]'"),
            (MemoryError(), "Out of memory"),
            (ValueError("two\nlines"), "^two lines$"),
        ],
    )
    def test_one_line(self, monkeypatch, run, error, text):
        import re

        def fail(args, tell):
            raise error

        monkeypatch.setattr(token_commands, "info", fail)
        code, _, err = run("info", "x.tokens")
        assert code == 1
        assert re.search(text, err.removeprefix("tokenreel info: ").strip())

    @pytest.mark.parametrize(
        ("command", "text"),
        [
            (["encode", "a.mp4", "b.tokens"], r"smaller frames \(--size\) or fewer of them \(--max-frames\)"),
            (["quantize", "a.safetensors", "b.safetensors", "--format", "fp8"], "The largest layer is held"),
            (["info", "x.tokens"], "Close other programs"),
        ],
    )
    def test_out_of_memory_names_what_the_command_has(self, command, text):
        args = cli.build_parser().parse_args(command)
        assert re.search(f"^Out of memory. .*{text}", cli._failure(MemoryError(), args))
        options = {option for option in ("--size", "--max-frames") if option in cli._failure(MemoryError(), args)}
        assert all(hasattr(args, option[2:].replace("-", "_")) for option in options)

    def test_faults_of_the_program_show_where(self, monkeypatch):
        def fail(args, tell):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

        monkeypatch.setattr(token_commands, "info", fail)
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            cli.main(["info", "x.tokens"])


class TestProcess:
    def start(self, *arguments, code="sys.exit(cli.main(sys.argv[1:]))"):
        """A new Python with this checkout as `tokenreel`, whatever is installed."""
        load = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("tokenreel", {str(ROOT / "__init__.py")!r},
                                              submodule_search_locations=[{str(ROOT)!r}])
module = importlib.util.module_from_spec(spec)
sys.modules["tokenreel"] = module
spec.loader.exec_module(module)
from tokenreel import cli
{code}
"""
        return subprocess.run([sys.executable, "-c", load, *map(str, arguments)], capture_output=True, text=True)

    def test_help_loads_nothing_heavy(self):
        code = "cli.build_parser(); print(sorted({'torch', 'av', 'numpy', 'PIL'} & set(sys.modules)))"
        assert self.start(code=code).stdout == "[]\n"

    def test_exit_code_and_streams(self, tmp_path):
        done = self.start("info", tmp_path / "none.tokens", "--json")
        assert (done.returncode, done.stdout) == (1, "")
        assert len(done.stderr.splitlines()) == 1
        assert "none.tokens" in done.stderr

    def test_reader_that_has_seen_enough(self, token_file):
        code = "import os; reading, writing = os.pipe(); os.close(reading); os.dup2(writing, 1); " + (
            "sys.exit(cli.main(sys.argv[1:]))"
        )
        done = self.start("info", token_file, code=code)
        assert (done.returncode, done.stderr) == (1, "")

    def test_peak_memory_is_this_process_own(self):
        """Not that of whoever started it."""
        ballast = bytearray(600_000_000)
        code = "from tokenreel.host.resources import peak_memory; print(peak_memory())"
        assert int(self.start(code=code).stdout) < 300_000_000
        del ballast
