"""What the training loops share: optimizers, schedule, weight average, resumable state (safetensors)."""

import copy
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def orthogonalize(update: Tensor, steps: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrix by Newton-Schulz (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon)."""
    x = update.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.T if tall else x).to(update.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose step is orthogonalized: for hidden matrices and convolution kernels, seen as [out, in * k * k]."""

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # nothing here evaluates the loss again
        """One update; parameters without a gradient stay."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(state["momentum"], group["momentum"]).flatten(1)
                scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(orthogonalize(update).view_as(p), alpha=-group["lr"] * scale)


def build_optimizers(
    model: nn.Module, lr: float, muon_lr: float = 0.02, least: int = 64
) -> list[torch.optim.Optimizer]:
    """Muon for hidden matrices, AdamW for first and last layers, norms and biases; each group knows its peak rate.

    Matrices count as hidden from `least` rows and columns on.
    """
    hidden, rest = [], []
    for p in model.parameters():
        (hidden if p.ndim >= 2 and min(p.shape[0], p[0].numel()) >= least else rest).append(p)
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, lr, betas=(0.9, 0.95), weight_decay=1e-3)]
    if hidden and muon_lr:
        optimizers.append(Muon(hidden, muon_lr, weight_decay=0.01))
    elif hidden:
        optimizers[0].add_param_group({"params": hidden})
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def learning_rate(spent: float, step: int, warmup: int = 100) -> float:
    """Factor on the peak rate: a short warm-up, a plateau, then down to 2 % over the last half of the budget."""
    fall = 1.0 if spent < 0.5 else 0.02 + 0.98 * (1 - spent) / 0.5
    return min(1.0, (step + 1) / warmup) * fall


def descend(model: nn.Module, optimizers: list[torch.optim.Optimizer], spent: float, step: int) -> None:
    """One step along the gradients, clipped to norm 1, at the rate for this share of the budget; clears them."""
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * learning_rate(spent, step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


class Average:
    """Exponential moving average of the weights: what is shipped."""

    def __init__(self, model: nn.Module, decay: float = 0.998):
        self.model, self.decay = copy.deepcopy(model).requires_grad_(False), decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (step + 1) / (step + 10))
        for mine, theirs in zip(self.model.parameters(), model.parameters(), strict=True):
            mine.lerp_(theirs, 1 - decay)


def _named(optimizers: list[torch.optim.Optimizer]) -> Iterator[tuple[str, torch.optim.Optimizer, Tensor]]:
    for i, optimizer in enumerate(optimizers):
        for j, group in enumerate(optimizer.param_groups):
            for k, p in enumerate(group["params"]):
                yield f"optimizer.{i}.{j}.{k}", optimizer, p


def save_state(
    path: Path, model: nn.Module, average: Average, optimizers: list[torch.optim.Optimizer], step: int, seconds: float
) -> None:
    """Writes what load_state needs to go on after `step` steps and `seconds` of the time budget."""
    tensors = {f"model.{k}": v.contiguous() for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v.contiguous() for k, v in average.model.state_dict().items()}
    for name, optimizer, p in _named(optimizers):
        for key, value in optimizer.state[p].items():
            tensors[f"{name}.{key}"] = torch.as_tensor(value).contiguous()
    unfinished = path.with_suffix(".part")
    save_file(tensors, unfinished, {"step": str(step), "seconds": str(seconds)})
    unfinished.replace(path)


def load_state(
    path: Path, model: nn.Module, average: Average, optimizers: list[torch.optim.Optimizer]
) -> tuple[int, float]:
    """(steps done, seconds spent); (0, 0.0) where there is no state yet."""
    if not path.exists():
        return 0, 0.0
    with safe_open(path, "pt") as file:
        keys = list(file.keys())
        tensors = {key: file.get_tensor(key) for key in keys}
        meta = file.metadata()
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    average.model.load_state_dict({k[8:]: v for k, v in tensors.items() if k.startswith("average.")})
    for name, optimizer, p in _named(optimizers):
        found = {k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(name + ".")}
        optimizer.state[p] = {k: v.to(p.device) if v.ndim else v for k, v in found.items()}
    return int(meta["step"]), float(meta["seconds"])
