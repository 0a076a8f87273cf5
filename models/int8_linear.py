"""Linear layers that multiply in int8, on a CPU faster than in float.

Weights have a scale for each output channel, inputs one for each token, found as the layer runs. What makes it pay on a
CPU: the weight is packed once for oneDNN and kept in no other form, the channel's scale is applied inside of the
product, the token's scale and the bias in one pass after it. `time_both` times a layer both ways on the machine at
hand, because neither always wins: float does for few tokens and small layers.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .quantized_formats import GROUP, QuantizedWeight, rotate, token_scales

_ROWS = 1024  # tokens that are multiplied at a time: what is in between stays small


class QuantizedLinear(nn.Module):
    """A linear layer with a weight in few bits: int8 multiplies as such, other formats are widened for each call.

    Takes and gives `[..., K]` and `[..., N]` of any floating type.
    """

    def __init__(self, weight: QuantizedWeight, bias: Tensor | None = None):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.kind, self.config = weight.kind, dict(weight.config)
        for name, tensor in weight.tensors.items():
            self.register_buffer(name, tensor)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self._packed: Tensor | None = None
        if weight.kind == "int8" and self.weight.device.type == "cpu" and packs():
            self._packed, self.weight = pack(self.weight), self.weight.new_empty(0)

    weight: Tensor
    weight_scale: Tensor

    def quantized(self) -> QuantizedWeight:
        """Its weight as files hold it."""
        tensors = {name: tensor for name, tensor in self.named_buffers() if tensor is not None}
        if self._packed is not None:
            tensors["weight"] = unpack(self._packed)
        return QuantizedWeight(self.kind, (self.out_features, self.in_features), tensors, self.config)

    @property
    def nbytes(self) -> int:
        """What its weight takes in memory."""
        held = 0 if self._packed is None else self.out_features * self.in_features
        return held + sum(tensor.nbytes for tensor in self.buffers())

    def forward(self, x: Tensor) -> Tensor:
        if self.kind != "int8":
            return F.linear(x, self.quantized().dequantize(x.dtype), self.bias)
        smoothing: Tensor | None = getattr(self, "pre_quant_scale", None)
        weight = self.weight if self._packed is None else self._packed
        rotated = bool(self.config.get("convrot"))
        return int8_linear(x, weight, self.weight_scale, self.bias, rotated=rotated, smoothing=smoothing)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name, tensor in self.quantized().file_tensors().items():
            destination[prefix + name] = tensor
        if self.bias is not None:
            destination[prefix + "bias"] = self.bias if keep_vars else self.bias.detach()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "QuantizedLinear":
        """Moves it; scales keep their type, and what is packed is packed again where that is of use."""
        packed, scales = self._packed, {name: each.dtype for name, each in self.named_buffers()}
        if packed is not None:
            self._packed, self.weight = None, unpack(packed)
        super()._apply(fn, recurse)
        for name, dtype in scales.items():
            setattr(self, name, getattr(self, name).to(dtype))
        if packed is not None and self.weight.device.type == "cpu":
            self._packed, self.weight = pack(self.weight), self.weight.new_empty(0)
        return self


def int8_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    rotated: bool = False,
    smoothing: Tensor | None = None,
) -> Tensor:
    """`[..., K]` -> `[..., N]` of the type of `x`, in int8 but for the scales.

    weight: int8 `[N, K]`, or what `pack` made of it. scale: float32 `[N, 1]`, or a single one. smoothing: `[K]`.
    """
    rows = x.reshape(-1, x.shape[-1])
    if smoothing is not None:
        rows = rows * smoothing.to(rows.dtype)
    rows = rows.float()
    if rotated:
        rows = rotate(rows, GROUP)
    N = weight.shape[1] if weight.is_mkldnn else weight.shape[0]
    out = torch.empty(len(rows), N, dtype=torch.float32, device=x.device)
    scales = scale.float().reshape(-1).expand(N).contiguous()
    added = torch.zeros((), device=x.device) if bias is None else bias.float()
    for first in range(0, len(rows), _ROWS):
        tokens = rows[first : first + _ROWS]
        sizes = token_scales(tokens)
        product = _product((tokens / sizes).round_().to(torch.int8), weight, scales)
        torch.addcmul(added, product, sizes, out=out[first : first + _ROWS])
    return out.to(x.dtype).reshape(*x.shape[:-1], N)


def _product(tokens: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """float32 `[M, N]`: int8 `[M, K]` times the weight, times the scales `[N]`."""
    if weight.is_mkldnn:
        return _packed_product(tokens, weight, scales)
    if tokens.is_cuda:
        return _cuda_product(tokens, weight) * scales
    if _multiplies_exactly():
        return torch._int_mm(tokens, weight.t()) * scales
    return (tokens.float() @ weight.float().t()) * scales


def _packed_product(tokens: Tensor, packed: Tensor, scales: Tensor) -> Tensor:
    one, none = torch.ones(()), torch.zeros((), dtype=torch.int32)
    offsets = torch.zeros(len(scales), dtype=torch.int32)
    options: tuple[Any, ...] = (None, 1.0, 0, torch.float32, "none", [], "")  # bias, scale and type of what comes out
    return torch.ops.onednn.qlinear_pointwise.tensor(tokens, one, none, packed, scales, offsets, *options)


def _cuda_product(tokens: Tensor, weight: Tensor) -> Tensor:
    """cuBLAS takes more than 16 rows."""
    M = len(tokens)
    if M <= 16:
        tokens = F.pad(tokens, (0, 0, 0, 17 - M))
    return torch._int_mm(tokens, weight.t())[:M].float()


def pack(weight: Tensor) -> Tensor:
    """int8 `[N, K]` in the order in which oneDNN multiplies on this machine; `unpack` gives it back."""
    return torch.ops.onednn.qlinear_prepack(weight.contiguous(), None)


def unpack(packed: Tensor) -> Tensor:
    """int8 `[N, K]` of what `pack` made."""
    return packed.to_dense().t().contiguous()


def _extremes() -> tuple[Tensor, Tensor]:
    """int8 whose products overflow where a CPU adds pairs of them in 16 bits."""
    chance = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 2, (32, 256), generator=chance, dtype=torch.int8) * 254 - 127
    return tokens, torch.full((64, 256), 127, dtype=torch.int8)


@functools.cache
def packs() -> bool:
    """Whether this build of torch packs int8 weights, gives them back, and multiplies them without overflow."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.onednn, "qlinear_pointwise"):
        return False
    tokens, weight = _extremes()
    try:
        packed = pack(weight)
        exact = torch.equal(_packed_product(tokens, packed, torch.ones(64)), tokens.float() @ weight.float().t())
        return exact and torch.equal(unpack(packed), weight)
    except (RuntimeError, TypeError, AttributeError):  # another signature, or no kernel for this CPU
        return False


@functools.cache
def _multiplies_exactly() -> bool:
    tokens, weight = _extremes()
    try:
        return torch.equal(torch._int_mm(tokens, weight.t()).float(), tokens.float() @ weight.float().t())
    except RuntimeError:
        return False


def time_both(layer: nn.Module, quantized: nn.Module, rows: int, *, times: int = 5) -> tuple[float, float]:
    """Seconds of a float layer and of its quantized twin for so many tokens: the best of `times`, in turns."""
    of = next((tensor for tensor in layer.parameters()), torch.zeros(()))
    x = torch.randn(rows, int(layer.in_features), device=of.device).to(of.dtype)  # type: ignore[arg-type]
    best = [float("inf"), float("inf")]
    for turn in range(times + 1):
        for which, module in enumerate((layer, quantized)):
            start = time.perf_counter()
            module(x)
            if x.is_cuda:
                torch.cuda.synchronize(x.device)
            if turn:  # the first is for caches and threads
                best[which] = min(best[which], time.perf_counter() - start)
    return best[0], best[1]
