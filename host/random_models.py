"""Models of ComfyUI's own classes with random weights, run by its own sampler: what patches are tested and measured on.

For processes of their own, whose Python has ComfyUI's folder on its path: `start` decides for all of the process how
ComfyUI computes. Nothing else of the pack uses this.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

TEXT = 32
"""Channels of the text that `sample` gives a model."""


class Family(NamedTuple):
    """A class of ComfyUI's supported models, the channels of its latents, and sizes that are small."""

    name: str
    channels: int
    config: dict[str, Any]


_WAN = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "num_layers": 3,
    "ffn_dim": 96,
    "text_dim": TEXT,
    "freq_dim": 32,
    "text_len": 8,
}
_LTXV = {
    "image_model": "ltxv",
    "in_channels": 16,
    "cross_attention_dim": 64,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "caption_channels": TEXT,
    "num_layers": 3,
}
_HUNYUAN = {
    "image_model": "hunyuan_video",
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 24,
    "context_in_dim": TEXT,
    "hidden_size": 64,
    "mlp_ratio": 2.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [8, 12, 12],
    "theta": 256,
    "patch_size": [1, 2, 2],
    "qkv_bias": True,
    "guidance_embed": True,
    "byt5": False,
    "meanflow": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
    "meanflow_sum": False,
}
_COSMOS = {
    "max_img_h": 64,
    "max_img_w": 64,
    "max_frames": 32,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 64,
    "num_heads": 2,
    "num_blocks": 3,
    "mlp_ratio": 2.0,
    "crossattn_emb_channels": TEXT,
    "pos_emb_cls": "rope3d",
    "pos_emb_interpolation": "crop",
    "use_adaln_lora": True,
    "adaln_lora_dim": 16,
}
_COSMOS_1 = {
    "image_model": "cosmos",
    "block_config": "FA-CA-MLP",
    "block_x_format": "THWBD",
    "use_cross_attn_mask": False,
    "pos_emb_learnable": False,
    "affline_emb_norm": True,
    "extra_per_block_abs_pos_emb": True,
    "extra_per_block_abs_pos_emb_type": "learnable",
}
_COSMOS_2 = {"image_model": "cosmos_predict2", "pos_emb_learnable": True, "rope_enable_fps_modulation": False}
FAMILIES = {
    "wan": Family("WAN21_T2V", 16, {**_WAN, "dim": 64, "num_heads": 2, "in_dim": 16, "out_dim": 16}),
    "wan5b": Family("WAN22_T2V", 48, {**_WAN, "dim": 96, "num_heads": 3, "in_dim": 48, "out_dim": 48}),
    "ltxv": Family("LTXV", 16, _LTXV),
    "hunyuan": Family("HunyuanVideo", 16, _HUNYUAN),
    "cosmos": Family("CosmosT2V", 16, {**_COSMOS, **_COSMOS_1}),
    "cosmos2": Family("CosmosT2IPredict2", 16, {**_COSMOS, **_COSMOS_2}),
}


def start(threads: int = 1) -> str:
    """Has ComfyUI compute on the CPU in this process, with PyTorch's attention, first of all; ComfyUI's version.

    ImportError where its folder, or something that it needs, is not on Python's path.
    """
    import comfy.options

    comfy.options.enable_args_parsing(False)
    from comfy.cli_args import args

    args.cpu = args.use_pytorch_cross_attention = True
    torch.set_num_threads(threads)
    import comfy.model_patcher
    import comfy.sample
    import comfy.supported_models
    import comfyui_version

    return comfyui_version.__version__


def build(kind: str, **sizes: Any) -> Any:
    """A MODEL of family `kind`, float32 on the CPU, the same each time. `sizes` replace those of `FAMILIES`."""
    import comfy.model_patcher
    import comfy.supported_models

    family, cpu = FAMILIES[kind], torch.device("cpu")
    made = getattr(comfy.supported_models, family.name)({**family.config, **sizes})
    made.set_inference_dtype(torch.float32, None)
    model = made.get_model({}, device=cpu)
    draw_weights(model.diffusion_model)
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu)


def draw_weights(network: torch.nn.Module) -> None:
    """Weights at random, the same every time, with which numbers neither vanish nor grow from layer to layer."""
    chance = torch.Generator().manual_seed(1)
    for name, weight in network.named_parameters():
        spread = 0.6 / weight.shape[-1] ** 0.5 if weight.ndim > 1 else 0.1
        level = 1.0 if weight.ndim == 1 and "norm" in name and name.endswith("weight") else 0.0
        weight.data = level + spread * torch.randn(weight.shape, generator=chance)
    network.requires_grad_(False)


def sample(
    model: Any,
    kind: str,
    size: tuple[int, int, int] = (3, 10, 14),
    *,
    steps: int = 2,
    cfg: float = 2.0,
    text: int = 5,
    width: int = TEXT,
    channels: int | None = None,
    batch: int = 1,
    noise_mask: Tensor | None = None,
    **condition: Any,
) -> Tensor:
    """Latents `[batch, C, T, H, W]` that ComfyUI's sampler makes with random text; `size` is their (T, H, W).

    `text` is how many tokens of it there are, `width` their channels; `channels` are C, by default the family's.
    `noise_mask` `[1, 1, T, H, W]` is 0 where the latent, zeros, stays. `condition` goes into both conditions, as nodes
    put it there.
    """
    import comfy.sample

    chance = torch.Generator().manual_seed(2)
    noise = torch.randn(batch, channels or FAMILIES[kind].channels, *size, generator=chance)
    both = []
    for _ in range(2):
        more = {"pooled_output": torch.randn(1, 24, generator=chance), **condition}
        if kind == "ltxv":
            more.update(attention_mask=torch.ones(1, text, dtype=torch.long), frame_rate=25)
        both.append([[torch.randn(1, text, width, generator=chance), more]])
    rest = {"noise_mask": noise_mask, "disable_pbar": True, "seed": 1}
    return comfy.sample.sample(model, noise, steps, cfg, "euler", "simple", *both, torch.zeros_like(noise), **rest)


def open_file(path: str) -> Any:
    """The MODEL in a file, by what ComfyUI's Load Diffusion Model does, UNETLoader."""
    import comfy.sd

    return comfy.sd.load_diffusion_model(path)


def once(model: Any, *given: Any, **more: Any) -> Any:
    """What the network of a MODEL makes of `given`, with the patches and the noise level that a sampler hands it."""
    options = {**model.model_options["transformer_options"], "sigmas": torch.tensor([0.5]), "wrappers": model.wrappers}
    return model.model.diffusion_model(*given, transformer_options=options, **more)


def difference(one: Any, other: Any) -> float:
    """The largest difference of two tensors, or of two lists of them, as of a video with sound."""
    if isinstance(one, list):
        return max(map(difference, one, other))
    return float((one - other).abs().max())


def cpu_attention(*args: Any, **kwargs: Any) -> Tensor:
    """What ComfyUI takes for attention on a CPU where it is not asked for PyTorch's."""
    from comfy.ldm.modules.attention import attention_sub_quad

    return attention_sub_quad(*args, **kwargs)
