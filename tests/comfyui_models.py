"""Begins scripts for ComfyUI's Python: small random models of its classes, and three more that only tests need."""

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
