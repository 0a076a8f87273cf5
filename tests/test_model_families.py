"""The families' numbers against ComfyUI: its classes at full size without weights, its latents, its widgets' steps."""

import json

import pytest
from comfyui_server import needs_comfyui, told_in_comfyui

from tokenreel.models.model_families import FAMILIES

BILLIONS = {  # of weights, as published
    **{"wan2.1": 14, "wan2.1-1.3b": 1.4, "wan2.2": 14, "wan2.2-5b": 5, "ltx-video": 1.9, "ltx-2": 19},
    **{"hunyuanvideo": 13, "hunyuanvideo-1.5": 8.3, "cosmos": 7.2, "cosmos-predict2": 2},
}
SIZE = (1280, 768, 121)  # pixels and frames that every family makes
BUILD = """
import comfy.options
comfy.options.enable_args_parsing(False)
from comfy.cli_args import args
args.cpu = True
import json, torch
import comfy.model_detection as detection, comfy.supported_models as known
from comfy_extras import nodes_cosmos, nodes_hunyuan, nodes_lt, nodes_wan
from tokenreel.host.model_patches import _counts, _patch_size
from tokenreel.models.model_families import FAMILIES

def wan(family, channels):
    return dict(image_model="wan2.1", model_type="t2v", dim=family.width, ffn_dim=family.ffn, num_heads=family.heads,
                num_layers=family.layers, in_dim=channels, out_dim=channels)

def hunyuan(family, doubles, channels, **more):
    return dict(image_model="hunyuan_video", hidden_size=family.width, mlp_ratio=family.ffn / family.width,
                num_heads=family.heads, depth=doubles, depth_single_blocks=family.layers - doubles, theta=256,
                patch_size=[1, family.patch, family.patch], axes_dim=[16, 56, 56], qkv_bias=True, meanflow=False,
                meanflow_sum=False, in_channels=channels, **more)

def cosmos(family, kind, **more):
    return dict(image_model=kind, max_img_h=240, max_img_w=240, max_frames=128, in_channels=16, out_channels=16,
                patch_spatial=family.patch, patch_temporal=1, model_channels=family.width, num_heads=family.heads,
                num_blocks=family.layers, mlp_ratio=family.ffn / family.width, concat_padding_mask=True,
                crossattn_emb_channels=family.context_width, pos_emb_cls="rope3d", pos_emb_interpolation="crop",
                use_adaln_lora=True, adaln_lora_dim=256, **more)

FIRST = dict(block_config="FA-CA-MLP", block_x_format="THWBD", affline_emb_norm=True, pos_emb_learnable=False,
             extra_per_block_abs_pos_emb=True, extra_per_block_abs_pos_emb_type="learnable")
PLAIN = dict(out_channels=16, vec_in_dim=768, context_in_dim=4096, guidance_embed=True, byt5=False,
             use_cond_type_embedding=False, vision_in_dim=None)
LATER = dict(out_channels=32, vec_in_dim=None, context_in_dim=3584, guidance_embed=False, byt5=True,
             use_cond_type_embedding=True, vision_in_dim=1152)
empty = nodes_hunyuan.EmptyHunyuanLatentVideo  # also Wan's
KINDS = {  # class, what it is built of, the node that makes its empty latent; LTX has its sizes by default
    "wan2.1": (known.WAN21_T2V, lambda family: wan(family, 16), empty),
    "wan2.1-1.3b": (known.WAN21_T2V, lambda family: wan(family, 16), empty),
    "wan2.2": (known.WAN21_T2V, lambda family: wan(family, 16), empty),
    "wan2.2-5b": (known.WAN22_T2V, lambda family: wan(family, 48), nodes_wan.Wan22ImageToVideoLatent),
    "ltx-video": (known.LTXV, lambda family: dict(image_model="ltxv"), nodes_lt.EmptyLTXVLatentVideo),
    "ltx-2": (known.LTXAV, lambda family: dict(image_model="ltxav"), nodes_lt.EmptyLTXVLatentVideo),
    "hunyuanvideo": (known.HunyuanVideo, lambda family: hunyuan(family, 20, 16, **PLAIN), empty),
    "hunyuanvideo-1.5": (known.HunyuanVideo15, lambda family: hunyuan(family, 54, 65, **LATER),
                         nodes_hunyuan.EmptyHunyuanVideo15Latent),
    "cosmos": (known.CosmosT2V, lambda family: cosmos(family, "cosmos", **FIRST), nodes_cosmos.EmptyCosmosLatentVideo),
    "cosmos-predict2": (known.CosmosT2IPredict2, lambda family: cosmos(
        family, "cosmos_predict2", pos_emb_learnable=True, rope_enable_fps_modulation=False),
        nodes_cosmos.CosmosPredict2ImageToVideoLatent),
}
told = {}
width, height, frames = json.loads(sys.argv[1])
for name, (class_of, config, node) in KINDS.items():
    made = class_of(config(FAMILIES[name]))
    made.set_inference_dtype(torch.bfloat16, None)
    model = made.get_model({}, device=torch.device("meta")).diffusion_model
    weights = {f"x.{key}": value for key, value in model.state_dict().items()}
    found = detection.detect_unet_config(weights, "x.")
    steps = {socket.id: socket.step for socket in node.GET_SCHEMA().inputs if hasattr(socket, "step")}
    vae = {"vae": None} if "vae" in {socket.id for socket in node.GET_SCHEMA().inputs} else {}
    latent = node.execute(**vae, width=width, height=height, length=frames, batch_size=1)[0]["samples"]
    sides = [side // patch for side, patch in zip(latent.shape[2:], _patch_size(model), strict=True)]
    told[name] = {
        "class": type(detection.model_config_from_unet_config(found)).__name__ == class_of.__name__,
        "billions": sum(value.numel() for value in weights.values()) / 1e9,
        "blocks": _counts(model)[1], "grid": sides, "steps": steps,
        "strides": [made.latent_format.temporal_downscale_ratio, made.latent_format.spacial_downscale_ratio],
        "heads": found.get("num_heads") or weights["x.transformer_blocks.0.attn1.to_q.weight"].shape[0]
                 // found["attention_head_dim"],
        "width": next(found[key] for key in ("dim", "hidden_size", "model_channels", "cross_attention_dim")
                      if key in found),
        "sound": weights["x.transformer_blocks.0.audio_to_video_attn.to_q.weight"].shape[0] if name == "ltx-2" else 0,
    }
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def core():
    return told_in_comfyui(BUILD, json.dumps(SIZE))


@needs_comfyui
@pytest.mark.comfyui
@pytest.mark.parametrize("name", BILLIONS)
class TestAgainstComfyUI:
    def test_sizes_are_those_of_the_published_weights(self, core, name):
        """Their number is: ComfyUI takes a model of our sizes for the class, and counts as many weights."""
        family, found = FAMILIES[name], core[name]
        assert found["class"]
        assert found["billions"] == pytest.approx(BILLIONS[name], rel=0.04)
        assert (found["width"], found["heads"], found["blocks"]) == (family.width, family.heads, family.layers)
        assert found["sound"] == family.sound_width

    def test_a_clip_has_as_many_tokens(self, core, name):
        assert tuple(core[name]["grid"]) == FAMILIES[name].grid(*SIZE)
        assert core[name]["strides"] == [FAMILIES[name].time_stride, FAMILIES[name].space_stride]

    def test_widgets_step_by_what_the_model_makes(self, core, name):
        """So that what is planned can be typed in."""
        family, steps = FAMILIES[name], core[name]["steps"]
        expected = {"width": family.multiple, "height": family.multiple, "length": family.time_stride}
        assert {key: steps[key] for key in expected} == expected


def test_all_but_the_generic_one_are_held_against_comfyui():
    assert set(FAMILIES) - set(BILLIONS) == {"generic"}
