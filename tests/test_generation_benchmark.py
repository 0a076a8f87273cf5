"""The generator's benchmark as a whole, kinds of attention and memory, with small networks on small clips."""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from benchmark_arguments import arguments

from tokenreel.benchmarks import generation, generation_kinds, generation_memory, generation_quality, results
from tokenreel.benchmarks.arguments import PARTS, run_benchmarks
from tokenreel.benchmarks.generation_kinds import NETS, measure_kinds, time_pass
from tokenreel.benchmarks.generation_memory import continue_reel, measure_memory
from tokenreel.models.checkpoint import GENERATORS, WEIGHTS, file_digest, save_checkpoint
from tokenreel.models.generator import GeneratorConfig, TokenGenerator
from tokenreel.video.writer import VideoWriter


def small_net(kind="linear"):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TokenGenerator(GeneratorConfig(width=16, depth=2, heads=2, pattern=(kind,))).eval()


@pytest.fixture
def weights(tmp_path):
    save_checkpoint(tmp_path / "tiny.safetensors", small_net(), "generator", "tiny")
    return tmp_path / "tiny.safetensors"


@pytest.fixture
def clips(tmp_path, texture):
    wide, folder = texture(48, 200), tmp_path / "clips"
    folder.mkdir()
    with VideoWriter(folder / "a.mkv", width=64, height=48, frame_rate=Fraction(24), lossless=True) as writer:
        writer.write(np.stack([wide[:, 3 * t : 3 * t + 64] for t in range(13)]))
    return folder


@pytest.fixture
def small(monkeypatch):
    for module in (generation_quality, generation_kinds, generation_memory):
        for name, value in {"SIDES": (32, 48), "SIDE": 32, "TIMED": {32: 2, 48: 1}}.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)


class TestWhole:
    def test_parts_with_weights_of_ones_own(self, clips, weights, small):
        args = arguments(
            "generator", "--clips", clips, "--generator", weights, "--parts", "between", "continue", "bits"
        )
        found = run_benchmarks(args, lambda line: None)
        result = found["results"]["generator"]
        assert {part for part in PARTS["generator"] if part in result} == {"between", "continue", "bits"}
        assert result["weights"] == {"tiny": file_digest(weights)}
        json.loads(results.to_json(result))
        assert "| **generator** |" in found["table"] and "| digits after those" in found["table"]

    def test_parts_that_were_measured_are_kept(self, monkeypatch):
        """Also those that another process measures meanwhile."""
        kept = {"bits": "old", "layers": "old"}
        monkeypatch.setattr(results, "kept_parts", lambda name: dict(kept))
        monkeypatch.setattr(generation, "measure_layers", lambda tell: kept.update(memory="meanwhile") or "new")
        found = generation.measure_generation(arguments("generator", "--parts", "layers"), print)
        weights = {path.stem: file_digest(path) for path in WEIGHTS.glob("generator*.safetensors")}
        assert found == {"weights": weights, "bits": "old", "layers": "new", "memory": "meanwhile"}

    @pytest.mark.parametrize("part", ["between", "continue", "bits", "kinds"])
    def test_clips_are_needed(self, part):
        with pytest.raises(ValueError, match=f"Part '{part}' needs a folder. Name it with --clips DIR"):
            run_benchmarks(arguments("generator", "--parts", part), print)

    def test_shipped_weights_are_what_was_measured(self):
        """A figure of other weights is not a figure."""
        result = results.read_result("generator")
        assert result is not None
        shipped = {path.stem: file_digest(path) for path in WEIGHTS.glob("generator*.safetensors")}
        assert result["weights"] == shipped


class TestKinds:
    def test_all(self, clips, small, monkeypatch):
        monkeypatch.setattr(
            generation_kinds, "load_generator", lambda name: small_net({"small": "window"}.get(name, name))
        )
        told = []
        found = measure_kinds(arguments("generator", "--clips", clips), told.append)
        assert [row["kind"] for row in found["rows"]] == [*list(NETS)[:-1], "3 linear : 1 window"]
        assert {row["parameters"] for row in found["rows"] if row["kind"] == "linear"} == {
            sum(each.numel() for each in small_net().parameters())
        }
        for row in found["rows"]:
            assert set(row["seconds"]) == {"32", "48"} and min(row["seconds"].values()) > 0
            assert set(row["bits"]) == {"next", "between"} and row["bits"]["next"]["all"] > 0
        assert found["blend"] > 0 and len(told) == 2 + len(NETS)

    def test_a_pass(self):
        threads = torch.get_num_threads()
        assert time_pass(small_net(), 32, 2) > 0
        assert torch.get_num_threads() == threads

    def test_every_shipped_kind_is_measured(self):
        assert set(GENERATORS) == {"hybrid", *NETS}


class TestMemory:
    def test_a_continuation(self, weights, small):
        found = continue_reel(weights, 9)
        assert found["frames"] == 9 and found["seconds"] > 0
        assert found["peak_rss_bytes"] >= found["peak_rss_bytes_warmed_up"] > 20e6

    def test_all(self, no_processes):
        """The processes are replaced: what they do is tested above."""

        def submit(work, weights, frames):
            assert work is continue_reel and weights == "hybrid"
            return {"frames": frames, "peak_rss_bytes": 100 + frames}

        no_processes(generation_memory, submit)
        found = measure_memory("hybrid", lambda line: None)
        assert [run["frames"] for run in found["runs"]] == [32, 256] and found["growth"] == 356 / 132
