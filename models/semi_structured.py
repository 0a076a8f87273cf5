"""Weights of which two in four are zero, for GPUs that multiply such weights faster (2:4, arXiv 2104.08378).

Zeros alone save nothing: weights are packed, and a layer is only replaced where the packed one gives the same as its
zeros would and takes less time, as measured on the device itself. Which two of four stay is decided by their size times
that of their input (Wanda, arXiv 2306.11695); what the others gave on average goes into the bias.
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MULTIPLE = 64  # of both sides of a weight, for all kernels there are
_TIMES = 5
_SAME = 0.02  # relative error of the packed weight against its zeros


def obstacle(device: torch.device) -> str | None:
    """Why that device has no use for such weights, as the end of a sentence; None where it may have."""
    if device.type != "cuda" or torch.version.hip:
        return f"a device of the kind {device.type if device.type != 'cuda' else 'rocm'} multiplies zeros like others"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return f"{torch.cuda.get_device_name(device)} is older than the GPUs that do it (compute capability 8.0)"
    return None


def check_device(device: torch.device) -> None:
    """Raises ValueError with the reason where a device has no use for such weights."""
    reason = obstacle(device)
    if reason is not None:
        raise ValueError(f"Two of four weights cannot be left out here: {reason}. Leave out blocks instead.")


def two_of_four(weight: Tensor, inputs: Tensor | None = None) -> Tensor:
    """`[N, K]` with two of each four neighbours in a row zero; `inputs` `[tokens, K]` say how large each input is.

    ValueError where K is no multiple of 4.
    """
    if weight.shape[1] % 4:
        raise ValueError(f"Invalid weight with {weight.shape[1]} inputs. Their number is a multiple of 4.")
    score = weight.float().abs()
    if inputs is not None:
        score = score * inputs.float().norm(dim=0).to(score.device)
    groups = score.unflatten(1, (-1, 4))
    kept = torch.zeros_like(groups, dtype=torch.bool).scatter_(2, groups.topk(2, 2).indices, True)
    return weight * kept.flatten(1)


class SparseLinear(nn.Module):
    """A linear layer with a packed weight, which stays on the GPU that it was packed on."""

    packed: Tensor
    shift: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        from torch.sparse import to_sparse_semi_structured

        self.out_features, self.in_features = weight.shape
        # neither is a parameter: packed weights can be neither moved nor stored
        self.__dict__["packed"], self.__dict__["shift"] = to_sparse_semi_structured(weight.contiguous()), bias

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features).to(self.packed.dtype).contiguous()
        return F.linear(rows, self.packed, self.shift).to(x.dtype).unflatten(0, x.shape[:-1])


def sparse_layer(weight: Tensor, bias: Tensor | None, inputs: Tensor, tokens: int) -> tuple[SparseLinear, float] | None:
    """A faster layer with half of the weights, and how far off it is, as a share; None where there is none.

    weight `[N, K]`, half precision, on the GPU. inputs: `[some, K]` of what it is given, `tokens` at a time. ValueError
    for another device, with the reason.
    """
    check_device(weight.device)
    if weight.shape[0] % _MULTIPLE or weight.shape[1] % _MULTIPLE or weight.element_size() != 2:
        return None
    seen = inputs.to(weight.device, weight.dtype)
    halved = two_of_four(weight, seen)
    missing = F.linear(seen.float().mean(0), weight.float() - halved.float())
    shift = (missing + (0 if bias is None else bias.float())).to(weight.dtype)
    layer, wanted = SparseLinear(halved, shift), F.linear(seen, halved, shift).float()
    if float((layer(seen).float() - wanted).norm()) > _SAME * float(wanted.norm()):
        return None
    many = seen.repeat(-(-tokens // len(seen)), 1)[:tokens]
    if _seconds(layer, many) >= _seconds(lambda x: F.linear(x, weight, bias), many):
        return None
    true = F.linear(seen, weight, bias).float()
    return layer, float((wanted - true).norm() / true.norm().clamp(min=1e-12))


def _seconds(run: Callable[[Tensor], Tensor], x: Tensor) -> float:
    run(x)
    least = float("inf")
    for _ in range(_TIMES):
        torch.cuda.synchronize(x.device)
        began = time.perf_counter()
        run(x)
        torch.cuda.synchronize(x.device)
        least = min(least, time.perf_counter() - began)
    return least
