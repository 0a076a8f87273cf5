"""Weights of linear layers in few bits, as ComfyUI's checkpoints hold them: int8, fp8, mxfp8, nvfp4.

Each layer says how its weight is to be read: a tensor `comfy_quant` beside it holds JSON in UTF-8, scales lie in
`weight_scale` and, for nvfp4, `weight_scale_2` (comfy/ops.py, `_load_quantized_module`). The numbers are those that
comfy-kitchen makes, bit for bit; tests/test_quantized_comfyui.py compares them.

int8: one scale for each output channel; inputs are rounded token by token when the layer runs. Where there are 256
inputs or a multiple, each group of 256 is first turned by an orthogonal matrix, which spreads what sticks out
(ConvRot, as in comfy-kitchen's TensorWiseINT8Layout). What is turned on both sides of a product is the same product.
"""

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

GROUP = 256
"""Inputs that are turned together."""
_INT8_MAX, _FP8_MAX, _FP4_MAX = 127.0, 448.0, 6.0
_FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_TILE = 128  # rows whose scales lie together
_AT_ONCE = 1 << 20  # values that are widened at a time, so that a large weight takes little more memory than it has
_EXPONENT_BIAS = 127
_Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight `[N, K]` in few bits: its tensors by what ComfyUI's files call them, and how they are to be read."""

    kind: str
    """One of FORMATS."""
    shape: tuple[int, int]
    tensors: dict[str, Tensor] = field(repr=False)
    config: dict[str, Any]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def rotated(self) -> bool:
        return bool(self.config.get("convrot"))

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """`[N, K]`: the weight as a layer multiplies with it, for inputs that are neither turned nor smoothed."""
        weight = FORMATS[self.kind].dequantize(self.tensors, dtype)
        if self.rotated:
            weight = rotate(weight, self.config.get("convrot_groupsize", GROUP))
        if "pre_quant_scale" in self.tensors:
            weight = weight * self.tensors["pre_quant_scale"].to(weight.dtype)
        return weight.to(dtype)

    def blocks(self) -> Iterator[tuple[slice, "QuantizedWeight"]]:
        """Rows of it, some at a time, each a weight by itself."""
        N, K = self.shape
        for rows in _row_blocks(N, K):
            tiles = slice(rows.start, -(-rows.stop // _TILE) * _TILE)
            parts = {name: part[tiles] if part.ndim == 2 else part for name, part in self.tensors.items()}
            parts["weight"] = self.tensors["weight"][rows]
            yield rows, QuantizedWeight(self.kind, (rows.stop - rows.start, K), parts, self.config)

    def file_tensors(self) -> dict[str, Tensor]:
        """All that a file holds of it, by the last part of the name."""
        text = json.dumps(self.config).encode()
        return {**self.tensors, "comfy_quant": torch.tensor(list(text), dtype=torch.uint8)}


@dataclass(frozen=True)
class Format:
    """A way to hold a weight in few bits."""

    algorithm: str
    """What ComfyUI calls it."""
    quantize: Callable[[Tensor, Tensor], dict[str, Tensor]]
    """Some rows, float32, and the largest magnitude of all rows -> their tensors."""
    dequantize: Callable[[Mapping[str, Tensor], torch.dtype], Tensor]
    layout: Callable[[int, int], _Layout]
    """Types and shapes of its tensors for a weight of that shape."""
    multiple: int
    """What both sides of a weight are multiples of."""
    needs: str
    """What reads and multiplies it."""

    def fits(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == 2 and not any(side % self.multiple for side in shape) and min(shape) > 0


def quantize_weight(
    weight: Tensor, kind: str, *, rotated: bool | None = None, smoothing: Tensor | None = None
) -> QuantizedWeight:
    """A floating weight `[N, K]` in the format `kind` of FORMATS.

    rotated: for int8, whether inputs are turned in groups of GROUP; by default wherever K is a multiple of that.
    smoothing: `[K]`, above 0, for int8: the layer's inputs are multiplied by it when it runs, so the weight is divided
    by it. Raises ValueError for what the format does not hold.
    """
    known = find_format(kind)
    if weight.ndim != 2 or not weight.is_floating_point() or not known.fits(tuple(weight.shape)):
        raise ValueError(
            f"Invalid weight {tuple(weight.shape)} ({weight.dtype}) for {kind}: it holds floating weights [N, K] of "
            f"multiples of {known.multiple}. Leave this layer as it is."
        )
    if kind != "int8" and (rotated or smoothing is not None):
        raise ValueError(f"Invalid request: {kind} takes neither turned nor smoothed inputs. Choose int8 for those.")
    N, K = weight.shape
    if rotated and K % GROUP:
        raise ValueError(f"Invalid weight {N, K} to turn: its inputs are not a multiple of {GROUP}.")
    if not torch.isfinite(largest := weight.abs().amax().float()):
        raise ValueError(f"Invalid weight {N, K}: it has values that are not finite. Load an undamaged model.")
    config = layer_config(kind, (N, K), rotated=rotated)
    done: list[dict[str, Tensor]] = []
    for rows in _row_blocks(N, K):
        work = weight[rows].float()
        if smoothing is not None:
            work = work / smoothing.to(work)
        if config.get("convrot"):
            work = rotate(work, GROUP)
        done.append(known.quantize(work, largest))
    tensors = {name: torch.cat([each[name] for each in done]) if part.ndim else part for name, part in done[0].items()}
    if smoothing is not None:
        tensors["pre_quant_scale"] = smoothing.to(torch.float32, copy=True)
    return QuantizedWeight(kind, (N, K), tensors, config)


def _row_blocks(N: int, K: int) -> Iterator[slice]:
    step = max(1, _AT_ONCE // (K * _TILE)) * _TILE
    return (slice(first, min(first + step, N)) for first in range(0, N, step))


def read_weight(tensors: Mapping[str, Tensor]) -> QuantizedWeight:
    """What `file_tensors` gave. Raises ValueError for what is no such weight or has other shapes than it says."""
    try:
        config = json.loads(bytes(tensors["comfy_quant"].tolist()))
        kind = next(name for name, each in FORMATS.items() if each.algorithm == config["format"])
        weight = tensors["weight"]
        shape = (weight.shape[0], weight.shape[1] * (2 if kind == "nvfp4" else 1))
    except (KeyError, StopIteration, TypeError, IndexError, ValueError, AttributeError) as error:
        names = ", ".join(each.algorithm for each in FORMATS.values())
        raise ValueError(
            f"Invalid quantized layer: {error!r:.120}. Supported are weights with a comfy_quant of the formats {names}."
        ) from error
    layout = FORMATS[kind].layout(*shape)
    found = {name: tensors[name] for name in layout if name in tensors}
    wrong = [name for name, (_, size) in layout.items() if name not in found or found[name].numel() != math.prod(size)]
    group = config.get("convrot_groupsize", GROUP)
    if wrong or (config.get("convrot") and (group != GROUP or shape[1] % group)):
        raise ValueError(f"Invalid {kind} layer {shape}: {', '.join(wrong) or 'its groups'} do not fit its weight.")
    held = {name: _seen_as(found[name], dtype).reshape(size) for name, (dtype, size) in layout.items()}
    if "pre_quant_scale" in tensors:
        held["pre_quant_scale"] = tensors["pre_quant_scale"].float().reshape(shape[1])
    return QuantizedWeight(kind, shape, held, config)


def file_layout(kind: str, shape: tuple[int, int], *, rotated: bool | None = None, smoothed: bool = False) -> _Layout:
    """Types and shapes of what `quantize_weight(...).file_tensors()` will hold, before anything is computed."""
    layout = dict(find_format(kind).layout(*shape))
    if smoothed:
        layout["pre_quant_scale"] = (torch.float32, (shape[1],))
    text = json.dumps(layer_config(kind, shape, rotated=rotated))
    return {**layout, "comfy_quant": (torch.uint8, (len(text),))}


def layer_config(kind: str, shape: tuple[int, int], *, rotated: bool | None = None) -> dict[str, Any]:
    """What a file says of such a layer."""
    turned = rotated if rotated is not None else kind == "int8" and shape[1] % GROUP == 0
    config: dict[str, Any] = {"format": find_format(kind).algorithm}
    return {**config, "convrot": True, "convrot_groupsize": GROUP} if turned else config


def find_format(kind: str) -> Format:
    """The format of that name. ValueError with all names where there is none."""
    if kind not in FORMATS:
        raise ValueError(f"Invalid format {kind[:40]!r}. Supported are {', '.join(FORMATS)}.")
    return FORMATS[kind]


def rotate(x: Tensor, group: int = GROUP) -> Tensor:
    """`[..., K]` with each group of inputs turned; twice is the same as not at all. K is a multiple of `group`."""
    turned = x.reshape(-1, group) @ _turn(group).to(x)
    return turned.reshape(x.shape)


def token_scales(tokens: Tensor) -> Tensor:
    """`[M, 1]`: what tokens `[M, K]` are divided by to be multiplied in int8. A token of zeros has a scale, too."""
    return (tokens.abs().amax(1, keepdim=True) / _INT8_MAX).clamp_(min=1e-12)


@functools.cache
def _turn(size: int) -> Tensor:
    """An orthogonal, symmetric `[size, size]` of entries of one magnitude; `size` is a power of 4."""
    four = torch.tensor([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]], dtype=torch.float32)
    matrix = four
    while len(matrix) < size:
        matrix = torch.kron(matrix, four)
    return matrix / size**0.5


def _seen_as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Older files hold scales of 8 bits as bytes."""
    return tensor.view(dtype) if tensor.dtype.itemsize == dtype.itemsize == 1 else tensor.to(dtype)


# -- formats


def _to_int8(weight: Tensor, largest: Tensor) -> dict[str, Tensor]:
    scale = (weight.abs().amax(1, keepdim=True) / _INT8_MAX).clamp(min=1e-30)
    return {"weight": (weight / scale).round_().clamp_(-128, 127).to(torch.int8), "weight_scale": scale}


def _from_int8(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    return tensors["weight"].float() * tensors["weight_scale"]


def _int8_layout(N: int, K: int) -> _Layout:
    return {"weight": (torch.int8, (N, K)), "weight_scale": (torch.float32, (N, 1))}


def _to_fp8(weight: Tensor, largest: Tensor) -> dict[str, Tensor]:
    scale = (largest / _FP8_MAX).clamp(min=1e-30)
    return {"weight": _rounded_fp8(weight * (1.0 / scale)), "weight_scale": scale}


def _from_fp8(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    return tensors["weight"].to(dtype) * tensors["weight_scale"].to(dtype)


def _fp8_layout(N: int, K: int) -> _Layout:
    return {"weight": (torch.float8_e4m3fn, (N, K)), "weight_scale": (torch.float32, ())}


def _to_mxfp8(weight: Tensor, largest: Tensor) -> dict[str, Tensor]:
    """Groups of 32 inputs with a power of two each."""
    blocks = weight.unflatten(1, (-1, 32))  # [N, K / 32, 32]
    largest = blocks.abs().amax(-1)
    exponent = (largest / _FP8_MAX).clamp(min=2.0**-127).log2().ceil().int() + _EXPONENT_BIAS
    exponent = torch.where(largest == 0, 0, exponent.clamp(0, 254))
    scaled = blocks / torch.exp2((exponent - _EXPONENT_BIAS).float())[..., None]
    scaled = torch.where(largest[..., None] == 0, 0.0, scaled)
    return {"weight": _rounded_fp8(scaled.flatten(1)), "weight_scale": _swizzled(exponent.to(torch.uint8))}


def _from_mxfp8(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    weight = tensors["weight"]
    N, K = weight.shape
    exponent = _unswizzled(tensors["weight_scale"], N, K // 32).int()
    scale = torch.where(exponent == 0, 0.0, torch.exp2((exponent - _EXPONENT_BIAS).float()))
    return (weight.float().unflatten(1, (-1, 32)) * scale[..., None]).flatten(1).to(dtype)


def _mxfp8_layout(N: int, K: int) -> _Layout:
    return {"weight": (torch.float8_e4m3fn, (N, K)), "weight_scale": (torch.uint8, _tiles(N, K // 32))}


def _to_nvfp4(weight: Tensor, largest: Tensor) -> dict[str, Tensor]:
    """Groups of 16 inputs with a scale of 8 bits each; two values in a byte, the first in the upper half."""
    whole = (largest / (_FP8_MAX * _FP4_MAX)).clamp(min=1e-30)
    blocks = weight.unflatten(1, (-1, 16))  # [N, K / 16, 16]
    scale = (blocks.abs().amax(-1) / _FP4_MAX / whole).clamp(max=_FP8_MAX).to(torch.float8_e4m3fn)
    total = whole * scale.float()
    scaled = blocks / torch.where(total == 0, 1.0, total)[..., None]
    scaled = torch.where(total[..., None] == 0, 0.0, scaled).flatten(1)
    codes = _fp4_codes(scaled)
    packed = codes[:, ::2] << 4 | codes[:, 1::2]
    return {"weight": packed, "weight_scale": _swizzled(scale), "weight_scale_2": whole}


def _fp4_codes(values: Tensor) -> Tensor:
    """uint8, the sign in bit 3. From the middle between two values the even code is taken."""
    size = values.abs().clamp_(max=_FP4_MAX)
    # values lie 0.5 apart up to 2, then 1, then 2: their codes are whole numbers with an offset
    low, middle, high = (size * 2).round_(), size.round() + 2, (size / 2).round_() + 4
    codes = torch.where(size < 2, low, torch.where(size < 4, middle, high)).to(torch.uint8)
    return codes | (torch.signbit(values).to(torch.uint8) << 3)


def _from_nvfp4(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    packed = tensors["weight"]
    N, K = packed.shape[0], packed.shape[1] * 2
    table = torch.tensor([*_FP4, *(-value for value in _FP4)], dtype=dtype, device=packed.device)
    values = table[torch.stack([packed >> 4, packed & 15], -1).flatten(1).int()]
    scale = _unswizzled(tensors["weight_scale"], N, K // 16).to(dtype)
    total = tensors["weight_scale_2"].to(dtype) * scale
    return (values.unflatten(1, (-1, 16)) * total[..., None]).flatten(1)


def _nvfp4_layout(N: int, K: int) -> _Layout:
    return {
        "weight": (torch.uint8, (N, K // 2)),
        "weight_scale": (torch.float8_e4m3fn, _tiles(N, K // 16)),
        "weight_scale_2": (torch.float32, ()),
    }


def _rounded_fp8(values: Tensor) -> Tensor:
    return values.clamp(-_FP8_MAX, _FP8_MAX).to(torch.float8_e4m3fn)


def _tiles(rows: int, columns: int) -> tuple[int, int]:
    return -(-rows // _TILE) * _TILE, -(-columns // 4) * 4


def _swizzled(scales: Tensor) -> Tensor:
    """Scales `[rows, columns]` in tiles of 128 x 4, as cuBLAS reads them: see its "1D Block Scaling Factors Layout"."""
    rows, columns = _tiles(*scales.shape)
    padded = torch.zeros(rows, columns, dtype=torch.uint8, device=scales.device)
    padded[: len(scales), : scales.shape[1]] = scales.view(torch.uint8)
    tiles = padded.view(rows // 128, 4, 32, columns // 4, 4).permute(0, 3, 2, 1, 4)
    return tiles.reshape(rows, columns).view(scales.dtype)


def _unswizzled(scales: Tensor, rows: int, columns: int) -> Tensor:
    tall, wide = _tiles(rows, columns)
    tiles = scales.view(torch.uint8).view(tall // 128, wide // 4, 32, 4, 4).permute(0, 3, 2, 1, 4)
    return tiles.reshape(tall, wide)[:rows, :columns].contiguous().view(scales.dtype)


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "int8": Format("int8_tensorwise", _to_int8, _from_int8, _int8_layout, 8, "CPU, or a GPU of 2018 or later"),
        "fp8": Format("float8_e4m3fn", _to_fp8, _from_fp8, _fp8_layout, 16, "Ada, Hopper, Blackwell or RDNA 4"),
        "mxfp8": Format("mxfp8", _to_mxfp8, _from_mxfp8, _mxfp8_layout, 32, "Blackwell"),
        "nvfp4": Format("nvfp4", _to_nvfp4, _from_nvfp4, _nvfp4_layout, 32, "Blackwell"),
    }
)
"""By the names that nodes and commands take, the most exact first."""
