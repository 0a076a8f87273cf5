"""Upscale models of others in our pipeline, and memory that runs out."""

import json

import pytest
import torch
from comfyui_server import LOAD_CHECKOUT, needs_comfyui, run_in_comfyui
from torch import nn

from tokenreel.host import resources, upscale_models
from tokenreel.host.upscale_models import CoreUpscaler, SparingUpscaler, choose_dtype, open_with_spandrel
from tokenreel.models.upscaler import BicubicUpscaler, CompactUpscaler, NetUpscaler, UpscalerConfig


@pytest.fixture
def net():
    torch.manual_seed(0)
    return NetUpscaler(CompactUpscaler(UpscalerConfig(2, 6, 2)))


class Tight:
    """Has memory for so many pixels at once."""

    def __init__(self, upscaler, most):
        self.upscaler, self.most, self.asked = upscaler, most, []
        self.scale, self.reach, self.device = upscaler.scale, upscaler.reach, upscaler.device

    def __call__(self, frames):
        self.asked.append(tuple(frames.shape[i] for i in (0, 2, 3)))
        if frames.shape[0] * frames.shape[2] * frames.shape[3] > self.most:
            raise MemoryError("no room")
        return self.upscaler(frames)


class TestSparing:
    def test_is_like_the_other(self, net):
        frames = torch.rand(3, 3, 20, 30)
        sparing = SparingUpscaler(net)
        assert (sparing.scale, sparing.reach, sparing.device) == (net.scale, net.reach, net.device)
        assert torch.equal(sparing(frames), net(frames))

    def test_fewer_frames_at_once(self, net):
        frames, tight = torch.rand(5, 3, 20, 30), Tight(net, 1300)
        sparing = SparingUpscaler(tight)
        assert torch.allclose(sparing(frames), net(frames), atol=1e-6)
        assert [each[0] for each in tight.asked] == [5, 2, 2, 1]
        tight.asked.clear()
        sparing(frames)
        assert [each[0] for each in tight.asked] == [2, 2, 1]  # remembered

    @pytest.mark.parametrize("size", [(40, 64), (64, 40), (33, 47)])
    def test_parts_of_a_frame_without_a_seam(self, net, size):
        frames, tight = torch.rand(2, 3, *size), Tight(net, 900)
        sparing = SparingUpscaler(tight)
        assert torch.allclose(sparing(frames), net(frames), atol=1e-6)
        tight.asked.clear()
        assert torch.allclose(sparing(frames), net(frames), atol=1e-6)
        assert all(h * w <= 900 for _, h, w in tight.asked)  # no more failures

    def test_not_even_a_part_fits(self, net):
        with pytest.raises(resources.OutOfMemoryError, match="Make the frames smaller"):
            SparingUpscaler(Tight(net, 10))(torch.rand(1, 3, 40, 40))

    def test_other_errors_stay(self, net):
        with pytest.raises(RuntimeError, match="channels"):
            SparingUpscaler(net)(torch.rand(1, 4, 8, 8))


class Descriptor:
    """As spandrel's: a model, and what is known about it."""

    def __init__(self, model, scale=2, colours=3, half=False):
        self.model, self.scale, self.input_channels, self.output_channels = model, scale, colours, 3
        self.supports_half = self.supports_bfloat16 = half

    def to(self, device=None, dtype=None):
        self.model.to(device=device, dtype=dtype)
        return self

    def eval(self):
        return self

    def __call__(self, image):
        return self.model(image)


class Blur(nn.Module):
    """Twice the size, every pixel the mean of `size` x `size`."""

    def __init__(self, size):
        super().__init__()
        self.share = nn.Parameter(torch.tensor(1.0))
        self.pool = nn.AvgPool2d(size, 1, size // 2, count_include_pad=False)

    def forward(self, image):
        return nn.functional.interpolate(self.pool(image), scale_factor=2.0) * self.share


class TestCore:
    def test_result_and_facts(self):
        model = Blur(5)
        upscaler = CoreUpscaler(Descriptor(model))
        frames = torch.rand(2, 3, 9, 12)
        assert torch.equal(upscaler(frames), model(frames).clamp(0, 1)) and upscaler.scale == 2

    @pytest.mark.parametrize(("size", "reach"), [(1, 4), (5, 4), (11, 8), (41, 20), (127, upscale_models.MOST_REACH)])
    def test_reach_is_measured(self, size, reach):
        assert CoreUpscaler(Descriptor(Blur(size))).reach == reach

    def test_reach_of_a_compact_network_is_known(self):
        descriptor = Descriptor(CompactUpscaler(UpscalerConfig(2, 4, 7)))
        descriptor.model.num_conv, descriptor.architecture = 7, type("Architecture", (), {"id": "Compact"})()
        assert CoreUpscaler(descriptor).reach == 9

    def test_the_model_is_left_as_it_is(self):
        descriptor = Descriptor(Blur(3), half=True)
        made = CoreUpscaler(descriptor, torch.bfloat16)(torch.rand(1, 3, 8, 8))
        assert made.dtype == torch.float32
        assert descriptor.model.share.dtype == torch.float32

    def test_a_type_that_the_model_lacks(self):
        with pytest.raises(ValueError, match=r"cannot compute in float16\. Set precision to auto or fp32"):
            CoreUpscaler(Descriptor(Blur(3)), torch.float16)

    def test_auto_follows_model_and_device(self, monkeypatch):
        monkeypatch.setattr(resources, "dtype", lambda: torch.float16)
        assert CoreUpscaler(Descriptor(Blur(3))).dtype == torch.float32
        monkeypatch.setattr(upscale_models, "reach_of", lambda upscaler: 4)
        assert CoreUpscaler(Descriptor(Blur(3), half=True)).dtype == torch.float16

    @pytest.mark.parametrize("other", ["x4", {}, Descriptor])
    def test_other_things(self, other):
        with pytest.raises(TypeError, match=r"Invalid UPSCALE_MODEL \(\w+\)\. Connect ComfyUI's Load Upscale Model"):
            CoreUpscaler(other)

    def test_grey_models(self):
        with pytest.raises(TypeError, match="1 colours become 3"):
            CoreUpscaler(Descriptor(Blur(3), colours=1))


def test_precisions(monkeypatch):
    monkeypatch.setattr(resources, "dtype", lambda: "fastest")
    assert choose_dtype("auto") == "fastest"
    monkeypatch.setattr(resources, "dtype", lambda: torch.float32)
    monkeypatch.setattr(resources, "device", lambda: torch.device("cpu"))
    for has_units, chosen in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has_units=has_units: has_units)
        assert choose_dtype("auto") == chosen
    monkeypatch.setattr(resources, "device", lambda: torch.device("cuda"))
    assert choose_dtype("auto") == torch.float32
    assert (choose_dtype("fp32"), choose_dtype("bf16")) == (torch.float32, torch.bfloat16)
    with pytest.raises(ValueError, match=r"Invalid precision 'fp8'\. Supported are auto, fp32, fp16, bf16"):
        choose_dtype("fp8")


def test_without_spandrel(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "spandrel", None)
    with pytest.raises(ValueError, match=r"install spandrel: pip install 'tokenreel\[upscalers\]'"):
        open_with_spandrel(tmp_path / "a.safetensors")


def test_reach_of_bicubic():
    assert upscale_models.reach_of(BicubicUpscaler(2)) == 4


# Our file and a published layout, opened by ComfyUI's loader and run by its node and by us
IN_COMFYUI = (
    """
import json, os, sys
base = sys.argv.pop()
import comfy.cli_args
comfy.cli_args.args.cpu = True
import numpy as np, torch, folder_paths
from pathlib import Path
from safetensors.torch import save_file
from comfy_extras import nodes_upscale_model as core
torch.set_num_threads(1)
"""
    + LOAD_CHECKOUT
    + """
from tokenreel.host.upscale_models import CoreUpscaler, SparingUpscaler, open_with_spandrel
from tokenreel.models.checkpoint import save_checkpoint
from tokenreel.models.compact_files import is_compact
from tokenreel.models.upscaler import CompactUpscaler, UpscalerConfig
from tokenreel.nodes.upscale_engines import from_file
folder = os.path.join(base, "upscale_models")
os.mkdir(folder)
folder_paths.folder_names_and_paths["upscale_models"] = ([folder], {".safetensors"})
torch.manual_seed(0)
save_checkpoint(Path(folder, "ours.safetensors"), CompactUpscaler(UpscalerConfig(2, 8, 3)), "upscaler", "tiny")
state = CompactUpscaler(UpscalerConfig(4, 8, 3)).state_dict()
save_file(state, os.path.join(folder, "compact.safetensors"))
from spandrel.architectures.PLKSR import PLKSR
network = PLKSR(dim=16, n_blocks=2, upscaling_factor=2)
save_file(network.state_dict(), os.path.join(folder, "plksr.safetensors"))

seen = {}
images = torch.rand(2, 40, 56, 3)
with torch.inference_mode():
    for name in ("ours", "compact", "plksr"):
        model = core.UpscaleModelLoader.execute(f"{name}.safetensors").args[0]
        theirs = core.ImageUpscaleWithModel.execute(model, images).args[0]
        upscaler = CoreUpscaler(model)
        ours = torch.cat([SparingUpscaler(upscaler)(frame[None]) for frame in images.movedim(-1, 1)])
        path = Path(folder, f"{name}.safetensors")
        opened = from_file(path, precision="fp32")(images.movedim(-1, 1))
        seen[name] = [torch.equal(ours.movedim(1, -1), theirs), float((opened.movedim(1, -1) - theirs).abs().max()),
                      upscaler.reach, upscaler.scale, is_compact(path), float(theirs.std())]
print("RESULT" + json.dumps(seen))
"""
)


@needs_comfyui
@pytest.mark.comfyui
def test_the_frames_of_comfyuis_own_node(tmp_path):
    seen = json.loads(run_in_comfyui(IN_COMFYUI, str(tmp_path)).split("RESULT")[1])
    for name, reach, scale, compact in (("ours", 5, 2, True), ("compact", 5, 4, True), ("plksr", None, 2, False)):
        exact, off, found, times, is_compact, spread = seen[name]
        assert exact, name
        assert off < 1e-5 and times == scale and is_compact == compact and spread > 0.01, name
        assert reach in (None, found), name
