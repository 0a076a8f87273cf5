"""Linear layers in few bits as ComfyUI's own, so that offloading, LoRA and saving treat them as those of its loader.

fp8, mxfp8 and nvfp4 are ComfyUI's layers as they are. int8 is a layer of that kind with another weight, because older
versions know none, and because ComfyUI's is slower than float on a CPU.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

_LAYOUT = "TokenReelInt8Layout"
_INT8 = "int8_tensorwise"  # what files call it
_PARTS = ("weight", "weight_scale", "pre_quant_scale", "bias", "comfy_quant")


def is_comfyui() -> bool:
    """Whether MODELs can be loaded in this process."""
    try:
        import comfy.ops  # noqa: F401
    except ImportError:
        return False
    return True


def is_supported() -> bool:
    """Whether this ComfyUI has layers in few bits: those of late 2025 and later."""
    import comfy.ops

    return hasattr(comfy.ops, "mixed_precision_ops") and hasattr(comfy.ops, "QUANT_ALGOS")


def native_formats() -> tuple[str, ...]:
    """What ComfyUI calls the formats that its loader reads."""
    import comfy.ops

    return tuple(getattr(comfy.ops, "QUANT_ALGOS", ()))


def natively_smoothed() -> tuple[str, ...]:
    """Those of `native_formats` whose inputs its loader scales where a file asks for it."""
    import comfy.ops

    known = getattr(comfy.ops, "QUANT_ALGOS", {})
    return tuple(name for name, each in known.items() if "pre_quant_scale" in each.get("parameters", ()))


def make_layer(
    old: Any, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype, math: Int8Math, *, packed: bool = False
) -> torch.nn.Module:
    """A layer in place of `old`.

    tensors: its weight as a file holds it (models/quantized_formats.py, `file_tensors`). dtype: in which the model
    computes. packed: int8 that runs on a CPU keeps its weight a second time, in the order in which that is fastest.
    """
    config = json.loads(bytes(tensors["comfy_quant"].tolist()))
    int8 = config["format"] == _INT8
    made = _layer_class(dtype, math if int8 else None)
    bias = getattr(old, "bias", None)
    layer = made(old.in_features, old.out_features, bias=bias is not None, device="cpu", dtype=dtype)
    state = {**tensors} if bias is None else {**tensors, "bias": bias.detach()}
    if int8:
        layer.keeps_packed = packed
        layer.fill(state, config)
    else:
        layer.load_state_dict(state, strict=False)
    return layer.requires_grad_(False).eval()


def open_natively(path: str) -> Any:
    """A MODEL as ComfyUI's Load Diffusion Model gives it. ValueError for a file that it does not know."""
    import comfy.sd

    with _explained(path):
        return comfy.sd.load_diffusion_model(path)


def load_model(path: str, math: Int8Math, *, disable_dynamic: bool = False) -> Any:
    """A MODEL by ComfyUI's own loader, with layers that read int8 as well.

    disable_dynamic: as ComfyUI asks for where it loads the file once more, for another device.
    """
    import comfy.model_management as management
    import comfy.ops
    import comfy.sd

    state, metadata, types = _read_state(path)
    dtype = management.unet_manual_cast(None, management.get_torch_device(), types)
    marked = [name.removesuffix(".comfy_quant") for name in state if name.endswith(".comfy_quant")]
    base = comfy.ops.mixed_precision_ops({}, dtype, disabled=_emulated())
    options = {"custom_operations": type("Operations", (base,), {"Linear": _layer_class(dtype, math)})}
    more = {"disable_dynamic": True} if disable_dynamic else {}  # not known to older ones
    with _explained(path):
        made = comfy.sd.load_diffusion_model_state_dict(state, model_options=options, metadata=metadata, **more)
    layers = dict(made.model.diffusion_model.named_modules())
    wrong = [name for name in marked if name in layers and getattr(layers[name], "layout_type", None) is None]
    if wrong:
        name = os.path.basename(path)
        raise ValueError(f"{name}: {wrong[0]} is no linear layer, and is not read in few bits. Choose another file.")
    made.cached_patcher_init = (load_model, (path, math))
    return made


def _read_state(path: str) -> tuple[dict[str, Any], Any, list[torch.dtype]]:
    """What a file holds of a diffusion model, its metadata, and the types that such a model may compute in."""
    import comfy.model_detection as detection
    import comfy.utils

    state, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
    state, metadata = comfy.utils.convert_old_quants(state, "", metadata=metadata)
    prefix = detection.unet_prefix_from_state_dict(state)
    inner = comfy.utils.state_dict_prefix_replace(state, {prefix: ""}, filter_keys=True)
    if inner:  # a whole checkpoint; its metadata may name layers without the prefix
        state, metadata = comfy.utils.convert_old_quants(inner, "", metadata=metadata)
    for name in [name for name in state if name.endswith(".comfy_quant")]:
        if f"{name.removesuffix('comfy_quant')}weight" not in state:
            del state[name]
    config = detection.model_config_from_unet(state, "", metadata=metadata)
    if config is None:
        raise _no_model(path)
    return state, metadata, list(config.supported_inference_dtypes)


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    """ValueError in one line where ComfyUI finds that a file does not fit the model it takes it for, or none."""
    try:
        yield
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if "Could not detect" in text:
            raise _no_model(path) from error
        if not text.startswith("Error(s) in loading"):
            raise
        name = os.path.basename(path)
        raise ValueError(f"{name} does not fit the model that ComfyUI takes it for ({text:.300}).") from error


def _no_model(path: str) -> ValueError:
    name = os.path.basename(path)
    return ValueError(f"{name} holds no diffusion model that this ComfyUI knows. Choose the file of one.")


def keep_fast(
    model: Any,
    math: Int8Math,
    is_faster: Callable[[Any, Any], bool],
    step: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Makes a MODEL in int8 as fast as can be on a CPU, in place; how many layers run in float now.

    Weights are kept a second time, in the order in which that is fastest, and layers that are faster in float are
    widened. is_faster: of a float layer and its twin, whether the twin is. step: before each layer; it may raise.
    """
    network = model.model.diffusion_model
    layers = [(name, each) for name, each in network.named_modules() if getattr(each, "layout_type", "") == _LAYOUT]
    faster: dict[tuple[Any, ...], bool] = {}
    widened = 0
    for done, (name, layer) in enumerate(layers):
        step(done, len(layers))
        params = layer.weight._params
        layer.keeps_packed = True
        alike = layer.out_features, layer.in_features, params.rotated, params.smoothing is None, layer.bias is None
        made = None
        if alike not in faster:
            made = layer.widened()
            faster[alike] = is_faster(made, layer)
        if not faster[alike]:
            parent, _, last = name.rpartition(".")
            setattr(network.get_submodule(parent), last, made or layer.widened())
            widened += 1
    model.size = 0  # to be counted again
    return widened


@dataclass(frozen=True)
class Int8Math:
    """What the int8 layer computes with, handed in by the caller: see models/int8_linear.py."""

    multiply: Callable[..., torch.Tensor]
    """`int8_linear`"""
    pack: Callable[[torch.Tensor], torch.Tensor]
    packs: Callable[[], bool]
    quantize: Callable[[torch.Tensor, bool, torch.Tensor | None], Mapping[str, torch.Tensor]]
    """A weight, whether inputs are turned, what they are smoothed by -> `weight` and `weight_scale`."""
    dequantize: Callable[[torch.Tensor, torch.Tensor, bool, torch.Tensor | None], torch.Tensor]
    """Weight and scale, the same two -> a weight for inputs that are neither."""


@functools.cache
def _layer_class(dtype: torch.dtype, math: Int8Math | None) -> Any:
    """ComfyUI's class for a compute type, with int8 where `math` is given."""
    import comfy.ops

    base = comfy.ops.mixed_precision_ops({}, dtype, disabled=_emulated()).Linear
    if math is None:
        return base
    register_layout(math)
    return type("Int8Linear", (_Int8, base), {"math": math})


def _emulated() -> set[str]:
    """Formats that are widened as they run: nothing here multiplies them."""
    import comfy.model_management as management

    can = {
        "nvfp4": getattr(management, "supports_nvfp4_compute", None),
        "mxfp8": getattr(management, "supports_mxfp8_compute", None),
        "float8_e4m3fn": getattr(management, "supports_fp8_compute", None),
    }
    return {name for name, asked in can.items() if asked is None or not asked(None)}


class _Int8:
    """What makes ComfyUI's linear layer one of int8; where a file says something else, it stays ComfyUI's."""

    math: Int8Math
    weight: Any
    bias: Any
    factory_kwargs: dict[str, Any]
    in_features: int
    out_features: int
    layout_type: str | None = None
    keeps_packed = False
    _packed: tuple[int, torch.Tensor] | None = None  # where the weight lay that was packed, and what came of it

    def fill(self, state: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
        """Takes the tensors that a file holds of it, and what it says of them."""
        from comfy.quant_ops import QuantizedTensor, get_layout_class

        self.quant_format, self.layout_type, self.int8_config = config["format"], _LAYOUT, config
        scale, smoothing = state["weight_scale"].float().reshape(-1, 1), state.get("pre_quant_scale")
        params = get_layout_class(_LAYOUT).Params(
            scale=scale if len(scale) == self.out_features else scale.repeat(self.out_features, 1),
            orig_dtype=self.factory_kwargs["dtype"],
            orig_shape=(self.out_features, self.in_features),
            rotated=bool(config.get("convrot")),
            smoothing=None if smoothing is None else smoothing.float().reshape(-1),
        )
        self.weight = torch.nn.Parameter(QuantizedTensor(state["weight"], _LAYOUT, params), requires_grad=False)
        if "bias" in state:
            self.bias = torch.nn.Parameter(state["bias"].to(self.factory_kwargs["dtype"]), requires_grad=False)

    def widened(self) -> Any:
        """The same layer in floats."""
        layer = type(self)(self.in_features, self.out_features, bias=self.bias is not None, **self.factory_kwargs)  # type: ignore[call-arg]
        layer.weight = torch.nn.Parameter(self.weight.dequantize(), requires_grad=False)
        layer.bias = self.bias
        return layer.eval()  # type: ignore[attr-defined]

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        marked = state.get(f"{prefix}comfy_quant")
        config = {} if marked is None else json.loads(bytes(marked.tolist()))
        if config.get("format") != _INT8:
            super()._load_from_state_dict(state, prefix, *args)  # type: ignore[misc]
            return
        given = {name: state.pop(prefix + name) for name in _PARTS if prefix + name in state}
        if not {"weight", "weight_scale"} <= given.keys():
            raise ValueError(f"Missing scales of layer {prefix.rstrip('.')}. Save the model again.")
        if tuple(given["weight"].shape) != (self.out_features, self.in_features) or (
            self.bias is not None and "bias" not in given
        ):
            raise ValueError(f"Layer {prefix.rstrip('.')} is not that of the model it is in. Choose another file.")
        self.fill(given, config)

    def forward(self, input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.layout_type != _LAYOUT:
            return super().forward(input, *args, **kwargs)  # type: ignore[misc]
        import comfy.ops
        from comfy.quant_ops import QuantizedTensor

        getattr(comfy.ops, "run_every_op", lambda: None)()  # ComfyUI's cancel
        weight, bias, stream = comfy.ops.cast_bias_weight(
            self, device=input.device, dtype=self.weight.dtype, bias_dtype=input.dtype, offloadable=True
        )
        try:
            if not isinstance(weight, QuantizedTensor):  # with a LoRA that is added as the layer runs
                return torch.nn.functional.linear(input, weight.to(input.dtype), bias)
            held, params = weight._qdata, weight._params
            if self.keeps_packed and held.device.type == "cpu":
                held = self._in_order(held)
            options = {"rotated": params.rotated, "smoothing": params.smoothing}
            return self.math.multiply(input, held, params.scale, bias, **options)
        finally:
            comfy.ops.uncast_bias_weight(self, weight, bias, stream)

    def _in_order(self, held: torch.Tensor) -> torch.Tensor:
        if not self.math.packs():
            return held
        if self._packed is None or self._packed[0] != held.data_ptr():
            self._packed = held.data_ptr(), self.math.pack(held)
        return self._packed[1]

    def set_weight(
        self, weight: Any, inplace_update: bool = False, seed: Any = None, return_weight: bool = False, **_: Any
    ) -> Any:
        """A LoRA was added to what `convert_weight` gave: turned and smoothed as before."""
        if self.layout_type != _LAYOUT:
            return super().set_weight(weight, inplace_update, seed, return_weight, **_)  # type: ignore[misc]
        from comfy.quant_ops import QuantizedTensor

        old = self.weight._params
        options = {"rotated": old.rotated, "smoothing": old.smoothing, "orig_dtype": old.orig_dtype}
        rounded = QuantizedTensor.from_float(weight, _LAYOUT, **options)
        if not return_weight:
            self.weight = torch.nn.Parameter(rounded, requires_grad=False)
        return rounded if return_weight else None

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", **kwargs: Any) -> Any:
        state = super().state_dict(*args, destination=destination, prefix=prefix, **kwargs)  # type: ignore[misc]
        if self.layout_type == _LAYOUT:
            text = json.dumps(self.int8_config).encode()
            state[f"{prefix}comfy_quant"] = torch.tensor(list(text), dtype=torch.uint8)
            smoothing = getattr(getattr(self.weight, "_params", None), "smoothing", None)
            if smoothing is not None:
                state[f"{prefix}pre_quant_scale"] = smoothing
        return state


def register_layout(math: Int8Math) -> None:
    """Makes int8 with a scale for each output known to comfy-kitchen, under a name of ours."""
    from comfy.quant_ops import QuantizedLayout, register_layout_class
    from comfy_kitchen.tensor.base import BaseLayoutParams

    class Int8Layout(QuantizedLayout):
        @dataclass(frozen=True)
        class Params(BaseLayoutParams):
            rotated: bool = False
            smoothing: torch.Tensor | None = None

            def _tensor_fields(self) -> list[str]:
                return ["scale"] if self.smoothing is None else ["scale", "smoothing"]

        @classmethod
        def quantize(
            cls,
            tensor: torch.Tensor,
            rotated: bool = False,
            smoothing: torch.Tensor | None = None,
            orig_dtype: torch.dtype | None = None,
            **kwargs: Any,
        ) -> tuple[torch.Tensor, Any]:
            held = math.quantize(tensor, rotated, smoothing)
            params = cls.Params(
                held["weight_scale"], orig_dtype or tensor.dtype, tuple(tensor.shape), rotated, smoothing
            )
            return held["weight"], params

        @classmethod
        def dequantize(cls, qdata: torch.Tensor, params: Any) -> torch.Tensor:
            return math.dequantize(qdata, params.scale, params.rotated, params.smoothing).to(params.orig_dtype)

        @classmethod
        def get_plain_tensors(cls, qtensor: Any) -> tuple[torch.Tensor, ...]:
            return qtensor._qdata, qtensor._params.scale

        @classmethod
        def state_dict_tensors(cls, qdata: torch.Tensor, params: Any) -> dict[str, torch.Tensor]:
            return {"": qdata, "_scale": params.scale}

    register_layout_class(_LAYOUT, Int8Layout)
