"""ComfyUI's INTERP_MODEL in our pipeline: the frames of ComfyUI's own node, to the bit; and memory that runs out."""

import json

import pytest
import torch
from comfyui_server import LOAD_CHECKOUT, needs_comfyui, run_in_comfyui

from tokenreel.host import resources
from tokenreel.host.interp_models import CoreInterpolator, SparingInterpolator
from tokenreel.models.interpolator import BlendInterpolator

PAIR = torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)


class Tight(BlendInterpolator):
    """Has memory for so many times at once."""

    def __init__(self, most):
        self.most, self.asked = most, []

    def between(self, first, second, times, features=None):
        self.asked.append(len(times))
        if len(times) > self.most:
            raise MemoryError("no room")
        return super().between(first, second, times, features)


def test_fewer_times_at_once_when_memory_runs_out():
    times = [index / 9 for index in range(1, 9)]
    tight = Tight(3)
    sparing = SparingInterpolator(tight)
    expected = BlendInterpolator().between(*PAIR, times)
    assert torch.equal(sparing.between(*PAIR, times), expected)
    assert tight.asked == [8, 4, 2, 2, 2, 2]
    tight.asked.clear()
    assert torch.equal(sparing.between(*PAIR, times), expected)
    assert tight.asked == [2, 2, 2, 2]


def test_motion_of_fewer_times_at_once():
    class Mover(Tight):
        def paths(self, first, second, times, features=None):
            if len(times) > self.most:
                raise MemoryError("no room")
            return super().paths(first, second, times, features)

    times = [0.2, 0.4, 0.6]
    for found, expected in zip(
        SparingInterpolator(Mover(1)).paths(*PAIR, times), BlendInterpolator().paths(*PAIR, times), strict=True
    ):
        assert torch.equal(found, expected)


def test_one_frame_that_does_not_fit():
    with pytest.raises(resources.OutOfMemoryError, match="Make the frames smaller"):
        SparingInterpolator(Tight(0)).between(*PAIR, [0.5])


def test_what_is_prepared_is_passed_on():
    class Keeps(BlendInterpolator):
        def prepare(self, frame):
            return frame.sum()

    assert SparingInterpolator(Keeps()).prepare(PAIR[1]) == 192


def test_other_things_are_refused():
    with pytest.raises(TypeError, match=r"Invalid INTERP_MODEL \(str\)\. Connect ComfyUI's Load Frame Interpolation"):
        CoreInterpolator("rife")


# Models with random weights in files of the published layouts, opened by ComfyUI's loader and run by its node and by us
IN_COMFYUI = (
    """
import json, os, sys
base = sys.argv.pop()
import comfy.cli_args
comfy.cli_args.args.cpu = True
import numpy as np, torch, folder_paths
from safetensors.torch import save_file
from comfy_extras import nodes_frame_interpolation as core
from comfy_extras.frame_interpolation_models.film_net import FILMNet
from comfy_extras.frame_interpolation_models.ifnet import IFNet
torch.set_num_threads(1)
"""
    + LOAD_CHECKOUT
    + """
from fractions import Fraction
from tokenreel.host.interp_models import AT_ONCE, CoreInterpolator, SparingInterpolator
from tokenreel.interpolation import interpolate_clip
from tokenreel.models.changed_regions import InBetweens
from tokenreel.nodes.interpolating import InterpolateVideo
from tokenreel.video.clips import ImageClip
from tokenreel.video.retiming import Retiming
folder_paths.set_temp_directory(os.path.join(base, "temp"))
folder = os.path.join(base, "frame_interpolation")
os.mkdir(folder)
folder_paths.folder_names_and_paths["frame_interpolation"] = ([folder], {".safetensors"})

def write(name, model, rename=lambda key: key):
    torch.manual_seed(0)
    state = {rename(key): torch.randn_like(value) * 0.3 / max(1, value[0].numel()) ** 0.5
             for key, value in model.state_dict().items()}
    save_file(state, os.path.join(folder, f"{name}.safetensors"))

write("rife_v4.26", IFNet(4, (192, 128, 96, 64, 32)))
write("rife_raw", IFNet(4, (32, 32, 16, 16, 8)), lambda key: "module." + key.replace("blocks.", "block"))
write("film_net", FILMNet())

rng = np.random.default_rng(0)
def frames(count, height, width):
    return torch.from_numpy(rng.integers(0, 256, (count, height, width, 3)).astype(np.float32)) / 255

seen = {}
with torch.inference_mode():
    for name, size, times in (("rife_v4.26", (70, 100), 3), ("rife_raw", (64, 128), 5), ("film_net", (64, 72), 3)):
        images = frames(3, *size)
        patcher = core.FrameInterpolationModelLoader.execute(f"{name}.safetensors").args[0]
        theirs = core.FrameInterpolate.execute(patcher, images, times).args[0]
        model = CoreInterpolator(patcher)
        planes = images.movedim(-1, 1)
        kept = [model.prepare(each[None]) for each in planes]
        shares = [index / times for index in range(1, times)]
        exact = True
        for index in range(2):
            one, two = planes[index : index + 1], planes[index + 1 : index + 2]
            ours = model.between(one, two, shares, (kept[index], kept[index + 1]))
            exact &= torch.equal(ours.movedim(1, -1), theirs[index * times + 1 : (index + 1) * times])
        collected = []
        between = InBetweens(SparingInterpolator(model), None, device=model.device, at_once=AT_ONCE)
        interpolate_clip(ImageClip(images, Fraction(24)), os.path.join(base, f"{name}.mp4"), Retiming(times=times),
            between, collect=lambda frame: collected.append(frame[0]))
        whole = torch.equal(torch.from_numpy(np.stack(collected[: 2 * times + 1])), (theirs * 255).round().byte())
        if name == "rife_raw":
            sockets = InterpolateVideo.GET_SCHEMA().inputs
            widgets = {each.id: each.default for each in sockets if hasattr(each, "default")}
            widgets |= {"times": times, "as_images": True, "images": images, "interp_model": patcher}
            widgets = {key: value for key, value in widgets.items() if value is not None}
            video, made, rate, text = InterpolateVideo.execute(**widgets).args
            same = torch.equal((made[: len(theirs)] * 255).round(), (theirs * 255).round())
            seen["node"] = [same, len(made), type(video).__module__.split(".")[0], rate, text]
        seen[name] = [exact, whole, len(collected), float(theirs.std())]
    small = model.between(frames(1, 9, 17).movedim(-1, 1), frames(1, 9, 17).movedim(-1, 1), [0.5])
    seen["small"] = [list(small.shape), bool(small.isfinite().all())]
print("RESULT" + json.dumps(seen))
"""
)


@needs_comfyui
@pytest.mark.comfyui
def test_the_frames_of_comfyuis_own_node(tmp_path):
    seen = json.loads(run_in_comfyui(IN_COMFYUI, str(tmp_path)).split("RESULT")[1])
    for name, times in (("rife_v4.26", 3), ("rife_raw", 5), ("film_net", 3)):
        exact, whole, frames, spread = seen[name]
        assert exact and whole and frames == 3 * times, name
        assert spread > 0.01  # it is no flat grey that is compared
    same, frames, module, rate, text = seen["node"]
    assert same and (frames, module, rate) == (15, "comfy_api", 120.0) and "100.0% of the interpolated" in text
    assert seen["small"] == [[1, 3, 9, 17], True]
