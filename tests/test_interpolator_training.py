"""What the interpolator learns from is what it is said to be, and a short run learns and resumes."""

import re
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tokenreel.models.checkpoint import load_checkpoint
from tokenreel.models.flow_search import pixel_grid, sample
from tokenreel.models.interpolator import IFNet, InterpolatorConfig
from tokenreel.training import interpolator
from tokenreel.training.data import ClipPack
from tokenreel.training.layered_motion import layered_motion, random_motion, random_shapes, to_layer, to_picture

SIDE = 64


@pytest.fixture
def pack(tmp_path, texture):
    scene = texture(80, 160, 0)
    save_file({"pan": np.stack([scene[:, 2 * i : 2 * i + 96] for i in range(16)])}, tmp_path / "pack.safetensors")
    return tmp_path / "pack.safetensors"


@pytest.fixture
def no_teacher(monkeypatch):
    monkeypatch.setattr(interpolator, "taught_flow", lambda window: torch.zeros(4, *window.shape[-2:]))


def moved(image, flow):
    return sample(image, pixel_grid(*image.shape[-2:], image) + flow)


class TestLayeredMotion:
    def test_flow_leads_to_the_same_colours(self, texture):
        generator = torch.Generator().manual_seed(1)
        textures = torch.stack(
            [torch.from_numpy(texture(96, 96, i)).permute(2, 0, 1).float().unsqueeze(0) / 255 for i in range(3)]
        ).expand(3, 8, 3, 96, 96)
        frames, times, flows = layered_motion(textures, SIDE, 12.0, generator)
        assert frames.shape == (8, 3, 3, SIDE, SIDE) and flows.shape == (8, 4, SIDE, SIDE)
        assert ((times > 0) & (times < 1)).all()
        between = frames[:, :, 1]
        off = [(moved(frames[:, :, 2 * i], flows[:, 2 * i : 2 * i + 2]) - between).abs().mean(1) for i in (0, 1)]
        still = (frames[:, :, 0] - between).abs().mean()
        assert flows.abs().max() > 4
        # what is covered in one frame is seen in the other, but where a layer leaves the picture or an edge is mixed
        assert torch.minimum(*off).mean() < still / 4

    def test_places_come_back(self):
        generator = torch.Generator().manual_seed(2)
        motion = random_motion(4, SIDE, 10.0, 0.0, generator)
        places, time = pixel_grid(8, 8, torch.empty(1)).expand(4, 2, 8, 8), torch.rand(4, generator=generator)
        assert torch.allclose(to_picture(to_layer(places, motion, time), motion, time), places, atol=1e-3)

    def test_shapes_have_an_inside_and_an_outside(self):
        shapes = random_shapes(32, SIDE, torch.Generator().manual_seed(3))
        assert shapes.shape == (32, 1, SIDE, SIDE)
        assert (shapes.amax((1, 2, 3)) > 0.9).float().mean() > 0.9 and (shapes.amin((1, 2, 3)) < 0.1).all()


class TestWindows:
    def test_the_middle_one_lies_between(self, pack):
        windows, times = ClipPack(pack).windows(6, SIDE, interpolator.SPANS, torch.Generator().manual_seed(0))
        assert windows.shape == (6, 3, 3, SIDE, SIDE)
        assert ((times > 0) & (times < 1)).all()
        first, between, second = windows.unbind(2)
        assert ((first - second).abs().mean() > (first - between).abs().mean()).all()

    def test_grain_is_never_on_what_is_to_be_found(self, pack):
        batches = interpolator.Batches(ClipPack(pack), 4, SIDE, 0)
        frames = torch.full((16, 3, 3, SIDE, SIDE), 0.5)
        grained = batches._grain(frames)
        assert torch.equal(grained[:, :, 1], frames[:, :, 1]) and not torch.equal(grained, frames)


class TestLosses:
    def test_later_blocks_count_more(self):
        right, wrong = torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8)
        everywhere = torch.ones(1, 1, 8, 8)
        early = interpolator.flow_distance([wrong, right], right, everywhere)
        assert early < interpolator.flow_distance([right, wrong], right, everywhere)

    def test_a_teacher_is_believed_where_it_is_better(self, texture):
        scene = torch.from_numpy(texture(64, 96, 0)).permute(2, 0, 1).unsqueeze(0).float() / 255
        frames = torch.stack([scene[..., 4:68], scene[..., 8:72], scene[..., 12:76]], 2)
        right = torch.tensor([4.0, 0, -4, 0]).view(1, 4, 1, 1).expand(1, 4, 64, 64)
        wrong, guess = torch.zeros_like(right), torch.zeros(1)
        inside = (..., slice(8, -8), slice(8, -8))
        assert interpolator.trust_in(right, guess, wrong, frames)[inside].mean() > 0.95
        assert interpolator.trust_in(wrong, guess, right, frames)[inside].mean() < 0.05
        assert interpolator.trust_in(wrong, torch.ones(1), right, frames).min() == 1


@pytest.mark.parametrize("started", ["0", "1"])
def test_a_short_run_and_its_resumption(started, pack, tmp_path, monkeypatch, capsys, no_teacher):
    small = InterpolatorConfig(head=2, widths=(8, 8, 6, 4, 4))
    monkeypatch.setattr(interpolator, "IFNet", lambda: IFNet(small))
    arguments = {
        "--pack": pack,
        "--out": tmp_path / "x.safetensors",
        "--state": tmp_path / "x.state",
        "--batch": 4,
        "--side": SIDE,
        "--workers": 0,
        "--every": 1,
        "--started": started,
    }
    for minutes in ("0.01", "0.03"):
        words = [str(word) for pair in arguments.items() for word in pair]
        monkeypatch.setattr(sys, "argv", ["interpolator", *words, "--minutes", minutes])
        interpolator.main()
    steps = [int(number) for number in re.findall(r"^step (\d+)", capsys.readouterr().out, re.MULTILINE)]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= 2
    assert load_checkpoint(tmp_path / "x.safetensors", "interpolator").config == small
