"""What the upscaler learns from is what it is said to be; branches fold exactly; a short run learns and resumes."""

import re
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tokenreel.models.checkpoint import load_checkpoint
from tokenreel.models.upscaler import CompactUpscaler, UpscalerConfig
from tokenreel.training import small_clips, upscaler
from tokenreel.training.data import ClipPack
from tokenreel.training.drawn_patterns import drawn_pattern
from tokenreel.training.reparameterized import BranchedConv, begin, branched, folded


@pytest.fixture
def pack(tmp_path, texture):
    scene = texture(100, 160, 0)
    save_file({"pan": np.stack([scene[:, 2 * i : 2 * i + 121] for i in range(17)])}, tmp_path / "pack.safetensors")
    return tmp_path / "pack.safetensors"


@pytest.fixture
def worn(pack, tmp_path, monkeypatch):
    path = tmp_path / "worn.safetensors"
    monkeypatch.setattr(sys, "argv", ["small_clips", "--pack", str(pack), "--out", str(path)])
    small_clips.main()
    return path


class TestBranches:
    def test_fold_to_one_convolution(self):
        torch.manual_seed(0)
        model = branched(CompactUpscaler(UpscalerConfig(2, 8, 2)))
        for layer in model.body:
            if isinstance(layer, BranchedConv):
                torch.nn.init.normal_(layer.mix, std=0.1)
        frame = torch.rand(1, 3, 9, 9)
        assert torch.equal(folded(model)(frame), model(frame))

    def test_start_as_the_network_that_is_given(self):
        plain = CompactUpscaler(UpscalerConfig(2, 8, 2))
        begin(plain)
        frame = torch.rand(1, 3, 9, 9)
        assert torch.equal(branched(plain)(frame), plain(frame))


class TestBatches:
    def test_small_is_the_large_shrunk(self, pack, worn):
        small, large = next(iter(upscaler.Batches(ClipPack(pack), worn, 2, 8, 16, 1)))
        assert small.shape == (8, 3, 16, 16) and large.shape == (8, 3, 32, 32)
        off = (torch.nn.functional.avg_pool2d(large, 2) - small).abs().mean((1, 2, 3))
        assert (off < 0.05).all()
        assert torch.equal(large[-1], large[-2]) and not torch.equal(small[-1], small[-2])

    def test_worn_clips_fit_the_large_ones(self, worn):
        (small,) = load_file(worn).values()
        assert small.shape == (17, 50, 60, 3) and small.dtype == np.uint8

    def test_patterns_have_two_materials(self):
        generator = torch.Generator().manual_seed(0)
        made = torch.stack([drawn_pattern(torch.full((3, 32, 32), 0.5), 32, generator) for _ in range(8)])
        assert made.shape == (8, 3, 32, 32) and made.min() >= 0 and made.max() <= 1
        assert (made.std((1, 2, 3)) > 0.01).all()


def test_a_short_run_learns_and_resumes(pack, worn, tmp_path, monkeypatch, capsys):
    out = tmp_path / "u.safetensors"
    options = f"--pack {pack} --worn {worn} --out {out} --state {tmp_path / 'u.state'} --every 4 --batch 8 --side 12 "
    options += "--features 8 --depth 1 --workers 0 --device cpu --name tiny --minutes "
    monkeypatch.setattr(sys, "argv", ["upscaler", *options.split(), "0.05"])
    upscaler.main()
    steps = [int(each) for each in re.findall(r"step (\d+)", capsys.readouterr().out)]
    assert steps and load_checkpoint(out, "upscaler").config == UpscalerConfig(2, 8, 1)
    monkeypatch.setattr(sys, "argv", ["upscaler", *options.split(), "0.08"])
    upscaler.main()
    more = [int(each) for each in re.findall(r"step (\d+)", capsys.readouterr().out)]
    assert more and more[0] > steps[-1]


def test_layers_of_another_scale_are_taken_over(tmp_path):
    two, four = CompactUpscaler(UpscalerConfig(2, 8, 2)), CompactUpscaler(UpscalerConfig(4, 8, 2))
    last = four.body[-1].weight.clone()
    upscaler._take_over(four, two)
    assert torch.equal(four.body[2].weight, two.body[2].weight) and torch.equal(four.body[-1].weight, last)
