"""ComfyUI's MODEL with other feed-forward layers: their weights as they are, and a MODEL around narrower ones."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .quantized_models import PART, at_rest, replace_layers

_LAYERS = re.compile(r"\.(ffn|ff|audio_ff|img_mlp|txt_mlp)\.(.*\.)?(\d+|proj)$")


def feed_forward_weights(model: Any) -> dict[str, Tensor]:
    """Of a MODEL, which is taken off the device: all weights of its feed-forward layers, with the LoRAs on it in them.

    Names are those of ComfyUI's files; beside them is what tells Wan from others. TypeError for what is no MODEL.
    """
    at_rest(model)
    network = model.model.diffusion_model
    return {
        name: _weight(model, name, each)
        for name, each in network.state_dict().items()
        if ".ffn." in name or name == "head.modulation"
    }


def feed_forward_layers(model: Any) -> list[str]:
    """Names of the linear layers in the feed-forward parts of a MODEL's blocks."""
    modules = model.model.diffusion_model.named_modules()
    return [name for name, each in modules if _LAYERS.search(name) and getattr(each, "weight", None) is not None]


def layer_parts(model: Any, name: str) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a layer of a MODEL that is at rest, with the LoRAs on it in them."""
    layer = model.model.diffusion_model.get_submodule(name)
    bias = None if layer.bias is None else _weight(model, f"{name}.bias", layer.bias)
    return _weight(model, f"{name}.weight", layer.weight), bias


def with_layers(model: Any, layers: Mapping[str, nn.Module]) -> Any:
    """A MODEL of its own with other layers, by their names; LoRAs on those are taken to be in them."""
    made = replace_layers(model, layers)
    biases = {f"{PART}{name}.bias" for name in layers}
    made.patches = {key: patches for key, patches in made.patches.items() if key not in biases}
    return made


def with_feed_forward(model: Any, state: Mapping[str, Tensor], layers: list[str]) -> Any:
    """A MODEL of its own with these weights in those layers; it shares all others with the source, which stays."""
    at_rest(model)
    network = model.model.diffusion_model
    made = {}
    for name in layers:
        for part in ("0", "2"):
            layer = f"{name}.{part}"
            made[layer] = _linear(network.get_submodule(layer), state[f"{layer}.weight"], state[f"{layer}.bias"])
    return with_layers(model, made)


def _weight(model: Any, name: str, weight: Tensor) -> Tensor:
    key, weight = f"{PART}{name}", weight.detach()
    if key in model.patches:
        import comfy.lora

        added = comfy.lora.calculate_weight(model.patches[key], weight.to(torch.float32, copy=True), key)
        return added.to(weight.dtype) if weight.element_size() > 1 else added
    return weight if weight.element_size() > 1 else weight.float()  # few bits can be moved about, not chosen from


def _linear(old: Any, weight: Tensor, bias: Tensor) -> Any:
    """The same kind of layer with other sizes."""
    made = copy.copy(old)
    made._parameters = {
        "weight": nn.Parameter(weight.to(old.weight.dtype), requires_grad=False),
        "bias": nn.Parameter(bias.to(old.bias.dtype), requires_grad=False),
    }
    made.out_features, made.in_features = weight.shape
    for name in ("weight_function", "bias_function"):
        if hasattr(old, name):
            setattr(made, name, [])
    return made
