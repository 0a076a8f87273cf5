"""Stand-ins for what workflows around a MODEL need, which the embedded host cannot run.

CORE_NODES: what ComfyUI's own nodes take and give, in the embedded host's schemas, so that such a workflow is checked
like any other without ComfyUI. Only what the shipped workflows use; test_model_workflows.py holds it against a real
ComfyUI's list. The names of files are those that ComfyUI's documentation of the model names.

SAVE_RANDOM_MODELS and RANDOM_TEXT: the files that are downloaded, as small as can be, for a real ComfyUI.
"""

from typing import Any

from tokenreel.host import standalone as io

Clip, Vae = io.Custom("CLIP"), io.Custom("VAE")
Sampler, Sigmas = io.Custom("SAMPLER"), io.Custom("SIGMAS")
Option = io.Combo.Input


def _file(name: str, *files: str) -> Any:
    return Option(name, options=list(files), default=files[0])


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
            _file("clip_name", "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "t5xxl_fp8_e4m3fn_scaled.safetensors"),
            Option("type", options=["wan", "ltxv"], default="wan"),
            Option("device", options=["default", "cpu"], default="default", optional=True),
        ],
        Clip.Output("CLIP"),
    ),
    _node(
        "CheckpointLoaderSimple",
        "Load Checkpoint",
        [_file("ckpt_name", "ltx-video-2b-v0.9.5.safetensors")],
        *(io.Model.Output("MODEL"), Clip.Output("CLIP"), Vae.Output("VAE")),
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
        "EmptyLTXVLatentVideo",
        "EmptyLTXVLatentVideo",
        [
            io.Int.Input("width", default=768, min=64, max=16384, step=32),
            io.Int.Input("height", default=512, min=64, max=16384, step=32),
            io.Int.Input("length", default=97, min=1, max=16384, step=8),
            io.Int.Input("batch_size", default=1, min=1, max=4096),
        ],
        io.Latent.Output("LATENT"),
    ),
    _node(
        "LTXVConditioning",
        "LTXVConditioning",
        [
            io.Conditioning.Input("positive"),
            io.Conditioning.Input("negative"),
            io.Float.Input("frame_rate", default=25.0, min=0.0, max=1000.0, step=0.01),
        ],
        *(io.Conditioning.Output("positive"), io.Conditioning.Output("negative")),
    ),
    _node(
        "LTXVScheduler",
        "LTXVScheduler",
        [
            io.Int.Input("steps", default=20, min=1, max=10000),
            io.Float.Input("max_shift", default=2.05, min=0.0, max=100.0, step=0.01),
            io.Float.Input("base_shift", default=0.95, min=0.0, max=100.0, step=0.01),
            io.Boolean.Input("stretch", default=True),
            io.Float.Input("terminal", default=0.1, min=0.0, max=0.99, step=0.01),
            io.Latent.Input("latent", optional=True),
        ],
        Sigmas.Output("SIGMAS"),
    ),
    _node(
        "KSamplerSelect",
        "KSamplerSelect",
        [Option("sampler_name", options=["euler", "uni_pc"], default="euler")],
        Sampler.Output("SAMPLER"),
    ),
    _node(
        "SamplerCustom",
        "SamplerCustom",
        [
            io.Model.Input("model"),
            io.Boolean.Input("add_noise", default=True),
            io.Int.Input("noise_seed", default=0, min=0, max=2**64 - 1, control_after_generate=True),
            io.Float.Input("cfg", default=8.0, min=0.0, max=100.0, step=0.1),
            io.Conditioning.Input("positive"),
            io.Conditioning.Input("negative"),
            Sampler.Input("sampler"),
            Sigmas.Input("sigmas"),
            io.Latent.Input("latent_image"),
        ],
        *(io.Latent.Output("output"), io.Latent.Output("denoised_output")),
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

# A script: random weights of ComfyUI's own classes, under the official names, below the folder that it is given.
# LTX-Video tells its sizes in its file; of a VAE of Wan, older ComfyUIs know one size only.
SAVE_RANDOM_MODELS = """
import importlib.util, json, sys
from pathlib import Path
import comfy.options
comfy.options.enable_args_parsing(False)
from comfy.cli_args import args
args.cpu = True
import comfy.ops, torch
from comfy.ldm.lightricks.model import LTXVModel
from comfy.ldm.lightricks.vae.causal_video_autoencoder import VideoVAE
from comfy.ldm.wan.model import WanModel
from comfy.ldm.wan.vae import WanVAE
from safetensors.torch import save_file

ops = comfy.ops.manual_cast
transformer = dict(num_layers=6, num_attention_heads=2, attention_head_dim=64, cross_attention_dim=128)
half, plain = {"residual": True, "multiplier": 2}, {"num_layers": 1}
vae = dict(dims=3, latent_channels=128, encoder_base_channels=8, decoder_base_channels=4, patch_size=4,
           norm_layer="pixel_norm", latent_log_var="uniform", timestep_conditioning=False, encoder_blocks=[
               ["res_x", plain], *(("compress_all", {}) for _ in range(3)), ["res_x", plain]],
           decoder_blocks=[["res_x", plain], *(("compress_all", half) for _ in range(3)), ["res_x", plain]])
wan_vae = dict(dim=8 if importlib.util.find_spec("comfy.quant_ops") else 96, z_dim=16, attn_scales=[],
               temperal_downsample=[False, True, True])
made = {
    "diffusion_models/wan2.1_t2v_1.3B_fp16": {"": WanModel(
        dim=128, num_heads=1, ffn_dim=256, num_layers=6, operations=ops)},
    "vae/wan_2.1_vae": {"": WanVAE(**wan_vae)},
    "checkpoints/ltx-video-2b-v0.9.5": {
        "model.diffusion_model.": LTXVModel(**transformer, operations=ops), "vae.": VideoVAE(config=vae)},
}
about = {"checkpoints/ltx-video-2b-v0.9.5": {"config": json.dumps({"transformer": transformer, "vae": vae})}}
chance = torch.Generator().manual_seed(1)
for name, networks in made.items():
    weights = {}
    for prefix, network in networks.items():
        for key, weight in network.named_parameters():
            spread = 0.6 / weight.shape[-1] ** 0.5 if weight.ndim > 1 else 0.1
            level = 1.0 if "norm" in key or "gamma" in key else 0.0
            weight.data = level + spread * torch.randn(weight.shape, generator=chance)
        weights |= {prefix + key: weight.half().contiguous() for key, weight in network.state_dict().items()}
    path = Path(sys.argv[1], name + ".safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path, about.get(name))
"""

# A node pack: in place of Load CLIP, whose smallest text encoder for Wan has billions of weights
RANDOM_TEXT = """
import torch

class RandomText:
    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, text):
        words = torch.randn(1, 6, 4096, generator=torch.Generator().manual_seed(len(text)))
        return [[words, {"attention_mask": torch.ones(1, 6, dtype=torch.long)}]]  # LTX-Video wants it, Wan ignores it

class LoadRandomText:
    RETURN_TYPES, FUNCTION, CATEGORY = ("CLIP",), "load", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {name: ("STRING", {}) for name in ("clip_name", "type", "device")}}

    def load(self, **names):
        return (RandomText(),)

NODE_CLASS_MAPPINGS = {"LoadRandomText": LoadRandomText}
"""
