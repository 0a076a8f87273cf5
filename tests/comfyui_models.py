"""Begins scripts for ComfyUI's Python: small random models of its classes."""

RANDOM_MODELS = """
import copy, json, math
from tokenreel.host import random_models
random_models.start()
import torch
from tokenreel.host.random_models import FAMILIES, Family, build, difference, once, sample

KINDS = list(FAMILIES)
FAMILIES["vace"] = Family("WAN21_Vace", 16, dict(FAMILIES["wan"].config, model_type="vace", vace_layers=1,
                                                 vace_in_dim=96))
FAMILIES["sound"] = Family("LTXAV", 16, dict(image_model="ltxav", in_channels=16, audio_in_channels=128,
    cross_attention_dim=64, audio_cross_attention_dim=32, attention_head_dim=32, audio_attention_head_dim=16,
    num_attention_heads=2, audio_num_attention_heads=2, caption_channels=48, num_layers=2,
    connector_attention_head_dim=16, connector_num_attention_heads=3))
FAMILIES["picture"] = Family("Flux", 16, dict(image_model="flux", in_channels=16, out_channels=16, vec_in_dim=24,
    context_in_dim=32, hidden_size=64, mlp_ratio=2.0, num_heads=2, depth=1, depth_single_blocks=2,
    axes_dim=[8, 12, 12], theta=256, patch_size=2, qkv_bias=True, guidance_embed=True, txt_ids_dims=[]))
"""
"""Of the families of host/random_models.py, and three more that only tests need."""

SMALL_FILES = """
import json, logging, sys
from pathlib import Path
import comfy.options
comfy.options.enable_args_parsing(False)
from comfy.cli_args import args
args.cpu = args.use_pytorch_cross_attention = True
import torch
torch.set_num_threads(1)
import comfy.model_patcher, comfy.sample, comfy.sd, comfy.supported_models as known
from tokenreel.host import files
from tokenreel.host.probing import Sampling
from tokenreel.host.random_models import draw_weights
from tokenreel.models.quantization import QuantizationSettings
from tokenreel.nodes import quantized_model_steps as steps
from tokenreel.nodes.compressing import QuantizeModel, SaveModel

CPU, FOLDER = torch.device("cpu"), Path(sys.argv[1])
CLASSES = {  # of sizes that ComfyUI's loader finds in a file
    "wan": (known.WAN21_T2V, 16, (2, 6, 8), dict(image_model="wan2.1", model_type="t2v", num_layers=2, dim=256,
        num_heads=2, ffn_dim=512, in_dim=16, out_dim=16)),
    "ltxv": (known.LTXV, 128, (2, 3, 4), dict(image_model="ltxv", num_layers=2, attention_head_dim=8,
        cross_attention_dim=256)),
}

def build(kind):
    class_of, _, _, config = CLASSES[kind]
    made = class_of(dict(config))
    made.set_inference_dtype(torch.float32, None)
    model = made.get_model({}, device=CPU)
    draw_weights(model.diffusion_model)
    return comfy.model_patcher.ModelPatcher(model, CPU, CPU)

def conditions(kind):
    more = dict(attention_mask=torch.ones(1, 5, dtype=torch.long), frame_rate=25) if kind == "ltxv" else {}
    return [[torch.randn(1, 5, 4096, generator=torch.Generator().manual_seed(2)), more]]

def sampling(kind):
    _, channels, size, _ = CLASSES[kind]
    latent = {"samples": torch.zeros(1, channels, *size)}
    return Sampling(conditions(kind), conditions(kind), latent, 1, 2, 1.0, "euler", "simple")

def sample(model, kind):
    return sampling(kind).run(model, lambda: None).latents[0]

def off(made, true):
    return float((made - true).norm() / true.norm())

def lora(model):
    chance, patches = torch.Generator().manual_seed(3), {}
    for name, module in model.model.diffusion_model.named_modules():
        if type(module).__name__ == "Linear" and "blocks." in name:
            N, K = module.out_features, module.in_features
            both = torch.randn(N, 4, generator=chance), torch.randn(4, K, generator=chance)
            patches[f"diffusion_model.{name}.weight"] = ("diff", (0.05 * both[0] @ both[1] / K ** 0.5,))
    return patches

def difference(one, two):
    return [name for name in one if not torch.equal(one[name], two[name])] + sorted(set(one) ^ set(two))
"""
"""Models of sizes that ComfyUI's loader finds in a file; the first argument of the script is a folder for those."""
