"""What reuse saves, measured on small clips with a small network."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from tokenreel.benchmarks import interpolation_cost, upscaling_reuse
from tokenreel.benchmarks.interpolation_cost import draw_long
from tokenreel.benchmarks.upscaling_reuse import (
    frames_of_clip,
    measure_clip,
    measure_flicker,
    measure_memory,
    measure_reuse,
    noisy_still,
    upscale_as_core,
    upscale_long,
)
from tokenreel.models.upscaler import BicubicUpscaler, CompactUpscaler, NetUpscaler, UpscalerConfig
from tokenreel.video.writer import VideoWriter


def net(*_):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NetUpscaler(CompactUpscaler(UpscalerConfig(2, 16, 3)))


@pytest.fixture
def still(texture):
    """uint8 frames [6, 257, 322, 3] in which a small square moves."""
    frames = np.repeat(texture(257, 322)[None], 6, 0)
    for index in range(6):
        frames[index, 40:56, 40 + 8 * index : 56 + 8 * index] = 250
    return frames


@pytest.fixture
def clips(tmp_path, still):
    for name, frames in (("still", still), ("moving", np.stack([np.roll(still[0], 5 * k, 1) for k in range(6)]))):
        with VideoWriter(tmp_path / f"{name}.mp4", width=322, height=257, frame_rate=Fraction(24), crf=12) as writer:
            writer.write(frames)
    (tmp_path / "text.mp4").write_text("no video")
    return sorted(tmp_path.iterdir())


@pytest.fixture
def small_network(monkeypatch):
    monkeypatch.setattr(upscaling_reuse, "load_upscaler", net)


class TestAsCore:
    def test_a_small_frame_is_one_tile(self, texture):
        image = torch.from_numpy(texture(60, 90)).float() / 255
        made = upscale_as_core(net(), image)
        assert torch.equal(made, net()(image.permute(2, 0, 1)[None])[0].permute(1, 2, 0))

    def test_tiles_are_blended_as_in_comfyui(self, texture):
        """Away from the borders of tiles it is the upscaler; each pixel is a mean of what its tiles have there."""
        image, asked = torch.from_numpy(texture(520, 1000)).float() / 255, []

        class Noted(BicubicUpscaler):
            def __call__(self, frames):
                asked.append(tuple(frames.shape[2:]))
                return super().__call__(frames)

        made = upscale_as_core(Noted(2), image)
        whole = BicubicUpscaler(2)(image.permute(2, 0, 1)[None])[0].permute(1, 2, 0)
        assert asked == [(512, 512), (512, 512), (512, 40), (40, 512), (40, 512), (40, 40)]
        assert made.shape == (1040, 2000, 3)
        assert torch.allclose(made[8:900, 8:900], whole[8:900, 8:900], atol=1e-6)
        assert (made - whole).abs().max() < 0.1


class TestReuse:
    def test_a_clip(self, still):
        class Slow(NetUpscaler):
            """Takes as long as a network of use: beside a tiny one, comparing frames counts, and who else computes."""

            def __call__(self, frames):
                for _ in range(20):
                    super().__call__(frames)
                return super().__call__(frames)

        found = measure_clip(still[:, :256], Slow(net().net))
        assert found["static"] and found["size"] == [161, 128] and found["frames"] == 6
        assert 1 / 6 < found["computed_fraction"] < 0.5
        assert found["lost"] == pytest.approx(found["psnr"]["whole"] - found["psnr"]["reuse"])
        assert abs(found["lost"]) < 0.2
        seconds = found["seconds_per_frame"]
        assert found["to_core"] == pytest.approx(seconds["reuse"] / seconds["core"]) and found["to_whole"] < 1

    def test_all_clips(self, clips, small_network):
        told = []
        found = measure_reuse(clips, told.append)
        assert {row["clip"]: row["static"] for row in found["clips"]} == {"moving.mp4": False, "still.mp4": True}
        assert [other["clip"] for other in found["others"]] == ["text.mp4"] and len(told) == 2
        assert found["summary"]["moving"] == {
            "clips": 1,
            **{key: found["clips"][0][key] for key in ("computed_fraction", "lost", "to_core", "to_whole")},
        }
        assert found["clips"][0]["computed_fraction"] == 1 and found["clips"][0]["lost"] == 0

    def test_frames_have_even_sides_and_are_not_too_large(self, clips, monkeypatch):
        monkeypatch.setattr(upscaling_reuse, "FRAMES", 4)
        assert frames_of_clip(clips[0]).shape == (4, 256, 322, 3)
        monkeypatch.setattr(upscaling_reuse, "LARGEST", 100)
        assert frames_of_clip(clips[0]).shape == (4, 100, 124, 3)

    def test_no_clip(self, clips, small_network):
        with pytest.raises(ValueError, match="None of the 1 clips can be read"):
            measure_reuse([path for path in clips if path.name == "text.mp4"], lambda line: None)


class TestFlicker:
    def test_a_still(self, texture):
        found = noisy_still(texture(96, 128), 2.0, net(), np.random.default_rng(0))
        assert found["ratio"] == pytest.approx(found["reuse"] / found["whole"])
        assert 0 < found["ratio"] < 1 and found["computed_fraction"] < 0.3

    def test_all(self, clips, small_network, monkeypatch):
        monkeypatch.setattr(upscaling_reuse, "NOISY_FRAMES", 3)
        found = measure_flicker(clips, lambda line: None)
        assert len(found["stills"]) == 2 * len(upscaling_reuse.NOISE)
        assert [each["noise"] for each in found["summary"]] == list(upscaling_reuse.NOISE)
        assert all(each["reuse"] < each["whole"] for each in found["summary"])


class TestMemory:
    def test_a_clip(self, small_network, monkeypatch, tmp_path):
        monkeypatch.setattr("tokenreel.benchmarks.interpolation_cost.LONG_SIZE", (160, 416))
        path = str(tmp_path / "long.mp4")
        assert draw_long(path, 0.01) == 14
        found = upscale_long(path)
        assert found["frames"] == 14 and found["computed_fraction"] < 0.7 and found["peak_rss_bytes"] > 20e6

    def test_all(self, no_processes):
        """The processes are replaced: what they do is tested above."""

        def submit(work, path, *length):
            return round(60 * 24 * length[0]) if length else {"frames": 2, "peak_rss_bytes": 10}

        no_processes(interpolation_cost, submit)
        found = measure_memory(lambda line: None)
        assert [run["source_frames"] for run in found["runs"]] == [360, 1440] and found["growth"] == 1
        assert found["image_bytes"] == 1440 * 1280 * 720 * 3 * 4 * 5
