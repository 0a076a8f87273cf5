"""ComfyUI's MODEL with other layers: a copy of its structure, which shares all weights that were not replaced.

A clone that ComfyUI makes shares its modules, so layers put into it would be put into the source as well, or both
weights would stay in memory for as long as it lives. A copy is another model to ComfyUI: the source is left alone, and
its weights are freed when nothing uses it any more.
"""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .model_patches import OVERRIDE, check_model

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PART = "diffusion_model."
"""What ComfyUI puts before the names of a MODEL's weights."""
_NOT_COPIED = ("model_config", "latent_format")  # they are read only
_PATCHES = ("patches", "patches_replace", OVERRIDE)  # in the options of a MODEL
_HOOKS = ("object_patches", "wrappers", "callbacks")  # of a MODEL itself
_LEFT_BEHIND = ("current_patcher", "dynamic_vbars", "dynamic_pins")  # they belong to what the source has loaded


def at_rest(model: Any) -> None:
    """Takes a MODEL off the device: its weights are then those of its file, with no LoRA in them."""
    import comfy.model_management as management

    check_model(model)
    unload = getattr(management, "unload_model_and_clones", None)
    if unload is not None:
        unload(model)
    else:
        management.unload_all_models()


def layer_weight(model: Any, name: str) -> Tensor:
    """The weight `[N, K]` of a layer of `model.model.diffusion_model` that is at rest, with the LoRAs on it."""
    import comfy.lora
    import torch

    key = f"{PART}{name}.weight"
    weight = model.model.diffusion_model.get_submodule(name).weight.detach()
    if key not in model.patches:
        return weight
    return comfy.lora.calculate_weight(model.patches[key], weight.to(torch.float32, copy=True), key)


def replace_layers(model: Any, layers: Mapping[str, torch.nn.Module]) -> Any:
    """A MODEL with other layers, by their names in its diffusion model; LoRAs on those are taken to be in them."""
    network = model.model.diffusion_model
    replaced = {network.get_submodule(name): layer for name, layer in layers.items()}
    made = model.clone(model_override=(_copied(model.model, replaced), ({}, {}, {}, set())))
    baked = {f"{PART}{name}.weight" for name in layers}
    made.patches = {key: patches for key, patches in made.patches.items() if key not in baked}
    made.patches_uuid = uuid.uuid4()
    made.clone_base_uuid = uuid.uuid4()
    made.cached_patcher_init = None  # it would load the source's file
    made.parent, made.size = None, 0
    return made


def _copied(model: Any, replaced: Mapping[Any, Any]) -> Any:
    import torch

    memo: dict[int, Any] = {id(old): new for old, new in replaced.items()}
    for name in _NOT_COPIED:
        memo[id(getattr(model, name, memo))] = getattr(model, name, memo)
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            # a parameter of its own over the same memory: each model moves its own
            memo[id(weight)] = torch.nn.Parameter(weight.detach(), requires_grad=False)
        for buffer in module.buffers(recurse=False):
            memo[id(buffer)] = buffer
    for name in _LEFT_BEHIND:
        value = getattr(model, name, None)
        if value is not None:
            memo[id(value)] = {} if isinstance(value, dict) else None
    made = copy.deepcopy(model, memo)
    if getattr(made, "current_patcher", None) is not None:
        made.current_patcher = None
    made.model_loaded_weight_memory = 0
    return made


def is_patched(model: Any) -> bool:
    """Whether nodes have changed what a MODEL does with its weights: what a file cannot hold."""
    options = model.model_options.get("transformer_options", {})
    hooks = [options.get(name) for name in _PATCHES] + [getattr(model, name, None) for name in _HOOKS]
    return any(any(each.values()) if isinstance(each, dict) else each is not None for each in hooks)


def compute_dtype(model: Any) -> torch.dtype:
    """The floating type that a MODEL computes in."""
    return model.model.get_dtype_inference()


def stored_tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    """The weights of a MODEL at rest as Load Diffusion Model reads them, one by one, with the LoRAs on it in them."""
    network = model.model.diffusion_model
    keys = list(network.state_dict())
    quantized = {key.removesuffix(".comfy_quant") for key in keys if key.endswith(".comfy_quant")}
    for key in keys:
        layer, _, part = key.rpartition(".")
        if (
            layer in quantized
            and part in ("weight_scale", "weight_scale_2")
            and f"{PART}{layer}.weight" in model.patches
        ):
            continue  # comes with the weight
        if PART + key in model.patches:
            yield from _patched(model, key)
        else:
            yield key, network.get_submodule(layer).state_dict()[part] if layer in quantized else _at(network, key)


def _patched(model: Any, key: str) -> Iterator[tuple[str, Tensor]]:
    import torch

    weight = model.patch_weight_to_device(PART + key, device_to=torch.device("cpu"), return_weight=True)
    parts = weight.state_dict(key) if hasattr(weight, "_layout_cls") else {key: weight}
    yield from parts.items()


def _at(network: torch.nn.Module, key: str) -> Tensor:
    module, _, name = key.rpartition(".")
    return getattr(network.get_submodule(module), name).detach()


def model_metadata(model: Any) -> dict[str, str]:
    """What ComfyUI needs besides the weights to know the model again: for LTX-Video its sizes, for others nothing."""
    config = getattr(model.model.model_config, "unet_config", {})
    if not str(config.get("image_model", "")).startswith("ltx"):
        return {}
    sizes = {
        name: value for name, value in config.items() if isinstance(value, bool | int | float | str | list | tuple)
    }
    return {"config": json.dumps({"transformer": {name: sizes[name] for name in sizes if name != "image_model"}})}
