"""Stand-ins for what workflows around a MODEL need, which the embedded host cannot run.

CORE_NODES: what ComfyUI's own nodes take and give, in the embedded host's schemas, so that such a workflow is checked
like any other without ComfyUI. Only what the shipped workflows use; test_model_workflows.py holds it against a real ComfyUI's
list. The names of files are those that ComfyUI's own example for the model loads.

SAVE_RANDOM_WAN and RANDOM_TEXT: the three files that are downloaded, as small as can be, for a real ComfyUI.
"""

from typing import Any

from tokenreel.host import standalone as io

Clip, Vae = io.Custom("CLIP"), io.Custom("VAE")
Option = io.Combo.Input


def _file(name: str, file: str) -> Any:
    return Option(name, options=[file], default=file)


def _node(node_id: str, display_name: str, inputs: list[Any], *outputs: Any) -> type[io.ComfyNode]:
    def schema() -> io.Schema:
        return io.Schema(node_id=node_id, display_name=display_name, inputs=inputs, outputs=list(outputs))

    return type(node_id, (io.ComfyNode,), {"define_schema": staticmethod(schema)})


_CLASSES = [
    _node(
        "UNETLoader",
        "Load Diffusion Model",
        [
            _file("unet_name", "wan2.1_t2v_1.3B_fp16.safetensors"),
            Option("weight_dtype", options=["default", "fp8_e4m3fn", "fp8_e4m3fn_fast"], default="default"),
        ],
        io.Model.Output("MODEL"),
    ),
    _node(
        "CLIPLoader",
        "Load CLIP",
        [
            _file("clip_name", "umt5_xxl_fp8_e4m3fn_scaled.safetensors"),
            Option("type", options=["wan"], default="wan"),
            Option("device", options=["default", "cpu"], default="default", optional=True),
        ],
        Clip.Output("CLIP"),
    ),
    _node("VAELoader", "Load VAE", [_file("vae_name", "wan_2.1_vae.safetensors")], Vae.Output("VAE")),
    _node(
        "CLIPTextEncode",
        "CLIP Text Encode (Prompt)",
        [io.String.Input("text", default="", multiline=True), Clip.Input("clip")],
        io.Conditioning.Output("CONDITIONING"),
    ),
    _node(
        "ModelSamplingSD3",
        "ModelSamplingSD3",
        [io.Model.Input("model"), io.Float.Input("shift", default=3.0, min=0.0, max=100.0, step=0.01)],
        io.Model.Output("MODEL"),
    ),
    _node(
        "EmptyHunyuanLatentVideo",
        "Empty HunyuanVideo 1.0 Latent",
        [
            io.Int.Input("width", default=848, min=16, max=16384, step=16),
            io.Int.Input("height", default=480, min=16, max=16384, step=16),
            io.Int.Input("length", default=25, min=1, max=16384, step=4),
            io.Int.Input("batch_size", default=1, min=1, max=4096),
        ],
        io.Latent.Output("LATENT"),
    ),
    _node(
        "KSampler",
        "KSampler",
        [
            io.Model.Input("model"),
            io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=True),
            io.Int.Input("steps", default=20, min=1, max=10000),
            io.Float.Input("cfg", default=8.0, min=0.0, max=100.0, step=0.1),
            Option("sampler_name", options=["euler", "uni_pc"], default="uni_pc"),
            Option("scheduler", options=["simple", "normal"], default="simple"),
            io.Conditioning.Input("positive"),
            io.Conditioning.Input("negative"),
            io.Latent.Input("latent_image"),
            io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01),
        ],
        io.Latent.Output("LATENT"),
    ),
    _node(
        "VAEDecode",
        "VAE Decode",
        [io.Latent.Input("samples"), Vae.Input("vae")],
        io.Image.Output("IMAGE"),
    ),
]

CORE_NODES: dict[str, type[io.ComfyNode]] = {cls.__name__: cls for cls in _CLASSES}

# A script: random weights of ComfyUI's own classes, under the official names, below the folder that it is given
SAVE_RANDOM_WAN = """
import sys
from pathlib import Path
import comfy.options
comfy.options.enable_args_parsing(False)
from comfy.cli_args import args
args.cpu = True
import comfy.ops, torch
from comfy.ldm.wan.model import WanModel
from comfy.ldm.wan.vae import WanVAE
from safetensors.torch import save_file
made = {
    "diffusion_models/wan2.1_t2v_1.3B_fp16": WanModel(
        dim=128, num_heads=1, ffn_dim=256, num_layers=6, operations=comfy.ops.manual_cast),
    "vae/wan_2.1_vae": WanVAE(dim=8, z_dim=16, attn_scales=[], temperal_downsample=[False, True, True]),
}
chance = torch.Generator().manual_seed(1)
for name, network in made.items():
    for key, weight in network.named_parameters():
        spread = 0.6 / weight.shape[-1] ** 0.5 if weight.ndim > 1 else 0.1
        level = 1.0 if "norm" in key or "gamma" in key else 0.0
        weight.data = level + spread * torch.randn(weight.shape, generator=chance)
    path = Path(sys.argv[1], name + ".safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: weight.half().contiguous() for key, weight in network.state_dict().items()}, path)
"""

# A node pack: in place of Load CLIP, whose smallest text encoder for Wan has billions of weights
RANDOM_TEXT = """
import torch

class RandomText:
    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, text):
        return [[torch.randn(1, 6, 4096, generator=torch.Generator().manual_seed(len(text))), {}]]

class LoadRandomText:
    RETURN_TYPES, FUNCTION, CATEGORY = ("CLIP",), "load", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {name: ("STRING", {}) for name in ("clip_name", "type", "device")}}

    def load(self, **names):
        return (RandomText(),)

NODE_CLASS_MAPPINGS = {"LoadRandomText": LoadRandomText}
"""
