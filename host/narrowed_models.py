"""ComfyUI's MODEL with narrower feed-forward layers: their weights as they are, and a MODEL around other ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .quantized_models import PART, at_rest, replace_layers

_PARTS = ("0.weight", "0.bias", "2.weight", "2.bias")


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


def with_feed_forward(model: Any, state: Mapping[str, Tensor], layers: list[str]) -> Any:
    """A MODEL of its own with these weights in those layers; it shares all others with the source, which stays."""
    at_rest(model)
    network = model.model.diffusion_model
    made = {}
    for name in layers:
        for part in ("0", "2"):
            layer = f"{name}.{part}"
            made[layer] = _linear(network.get_submodule(layer), state[f"{layer}.weight"], state[f"{layer}.bias"])
    narrower = replace_layers(model, made)
    added = {f"{PART}{name}.{part}" for name in layers for part in _PARTS}
    narrower.patches = {key: patches for key, patches in narrower.patches.items() if key not in added}
    return narrower


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
