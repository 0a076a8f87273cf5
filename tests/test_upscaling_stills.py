"""Upscaled stills are measured as the field does it."""

import argparse

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tokenreel.benchmarks.upscaling import measure_upscaling
from tokenreel.benchmarks.upscaling_peers import PeerUpscaler, find_upscalers
from tokenreel.benchmarks.upscaling_stills import luma_psnr, measure_stills, pairs
from tokenreel.benchmarks.upscaling_tables import upscaling_table


@pytest.fixture
def sets(tmp_path, texture):
    folder = tmp_path / "sets" / "set2"
    folder.mkdir(parents=True)
    for scale in (2, 4):
        for number in range(2):
            large = Image.fromarray(texture(49, 66, number))
            large.save(folder / f"img_{number}_SRF_{scale}_HR.png")
            small = large.resize((66 // scale, 49 // scale), Image.Resampling.BICUBIC)
            small.save(folder / f"img_{number}_SRF_{scale}_LR.png")
    return folder.parent


def peer_weights():
    shapes = {"conv_1": (8, 3, 3), "conv_2": (8, 8, 3), "upsampler.0": (12, 8, 3)}
    for number in (1, 2):
        block = {"c1_r": (8, 8, 3), "c2_r": (8, 8, 3), "c3_r": (8, 8, 3), "c5": (8, 8, 1), "esa.conv1": (4, 8, 1)}
        block |= {"esa.conv_f": (4, 4, 1), "esa.conv2": (4, 4, 3), "esa.conv3": (4, 4, 3), "esa.conv4": (8, 4, 1)}
        shapes |= {f"block_{number}.{name}": shape for name, shape in block.items()}
    weights = {}
    for name, (out, into, side) in shapes.items():
        weights[f"{name}.weight"], weights[f"{name}.bias"] = torch.randn(out, into, side, side) / 50, torch.zeros(out)
    return weights


class TestPsnr:
    def test_of_luma_without_the_border(self):
        one = np.full((12, 12, 3), 100, np.uint8)
        other = one.copy()
        other[2:-2, 2:-2, 1] += 10  # green
        other[:2] = 0
        assert luma_psnr(one, other, 2) == pytest.approx(10 * np.log10(255**2 / (10 * 128.553 / 255) ** 2))

    def test_pairs_fit(self, sets):
        for small, large in pairs(sets / "set2", 4):
            assert small.shape == (12, 16, 3) and large.shape == (48, 64, 3)


class TestStills:
    def test_rows(self, sets, tmp_path):
        peers = tmp_path / "peers"
        peers.mkdir()
        save_file(peer_weights(), peers / "rlfn_x2.safetensors")
        save_file({"other": torch.zeros(1)}, peers / "something_else.safetensors")
        rows = measure_stills(sets, peers, print)
        assert [(row["scale"], row["method"]) for row in rows] == [
            *((2, name) for name in ("bicubic", "rlfn_x2", "x2-s", "x2-m")),
            *((4, name) for name in ("bicubic", "x4-m")),
        ]
        assert all(row["pictures"] == {"set2": 2} and 5 < row["psnr_y"]["set2"] < 60 for row in rows)
        assert all(row["cpu_seconds_per_megapixel"] > 0 for row in rows)

    def test_table(self, sets):
        args = argparse.Namespace(parts=["stills"], sets=str(sets), clips=None, peers=None)
        result = measure_upscaling(args, print)
        from tokenreel.benchmarks.results import _provenance

        table = upscaling_table({**_provenance(), **result})
        assert "| x2 | x2-m |" in table and "set2 2" in table

    def test_no_sets(self, tmp_path):
        with pytest.raises(ValueError, match="No pairs"):
            measure_stills(tmp_path, None, print)


class TestPeers:
    def test_scale_is_read_off(self):
        assert PeerUpscaler(peer_weights())(torch.rand(1, 3, 24, 20)).shape == (1, 3, 48, 40)

    def test_weights_that_do_not_fit(self, tmp_path):
        weights = peer_weights()
        weights["conv_1.weight"] = torch.zeros(9, 3, 3, 3)
        save_file(weights, tmp_path / "bad.safetensors")
        with pytest.raises(ValueError, match=r"bad\.safetensors holds no RLFN"):
            list(find_upscalers(tmp_path))
