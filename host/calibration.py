"""A MODEL's own calls while it samples a few steps, kept so that they can be run again with its blocks answered for.

They are run again inside of the sampler, where ComfyUI has the model loaded and its LoRA applied; nothing is patched
beside a clone, and hooks are gone when it ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from . import resources
from .model_patches import patch_model
from .probing import Sampling, _now

_KEY = "tokenreel_calibration"
ROUNDS = 3
"""How often all calls are made again to find out how long they take."""
_ROWS = 512  # at most so many tokens of a layer in one call

Found = TypeVar("Found")


class ModelCalls:
    """Calls of one sampling and what they gave. `blocks` answer to whatever `run.answers` is: see `models.block_runs`.

    parameters: of each block, in the order in which ComfyUI runs them.
    """

    def __init__(self, net: nn.Module, run: Any, step: Callable[[], None]):
        self._net, self._run, self._step = net, run, step
        self._calls: list[tuple[Any, list[Any], dict[str, Any], list[Tensor]]] = []
        self.parameters: Sequence[int] = [sum(each.numel() for each in b.parameters()) for b in blocks_of(net)]
        self.blocks = len(self.parameters)
        self.tokens = 0  # the most that a layer was given at a time, of those that `inputs_of` was asked for
        self.least = 0.0  # seconds that all calls took, where that was asked for

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of all weights, and bytes that they take."""
        held = sum(each.nbytes for each in self._net.state_dict().values())  # of quantized ones what they really take
        return sum(each.numel() for each in self._net.parameters()), held

    def taken_from(self, other: ModelCalls) -> ModelCalls:
        """The calls of another model, made by this one; what they should give is what the other gave."""
        made, executor = ModelCalls(self._net, self._run, self._step), self._calls[0][0]
        made._calls = [(executor, *rest) for _, *rest in other._calls]  # type: ignore[misc]
        return made

    def keep(self, executor: Any, args: Sequence[Any], kwargs: dict[str, Any], made: Any) -> None:
        """A call that was just made, `executor` being what makes it."""
        kept = [_kept(each) for each in args], {name: _kept(each) for name, each in kwargs.items()}
        self._calls.append((executor, *kept, [each.float().cpu() for each in _tensors(made)]))

    def cost(self, answer: Any) -> float:
        """How far off all that the model gives is with these answers, as a share of it: root mean square."""
        off = size = 0.0
        for made, wanted in self._again(answer):
            for one, other in zip(made, wanted, strict=True):
                off += float((one.float().cpu() - other).square().sum())
                size += float(other.square().sum())
        return (off / size) ** 0.5 if size else 0.0

    def seconds(self, answers: Sequence[Any], rounds: int = ROUNDS) -> list[float]:
        """Of each answer, the least that all calls took, in turns; None is the model as it is."""
        least = [float("inf")] * len(answers)
        for _ in range(rounds):
            for number, answer in enumerate(answers):
                began = _now()
                for _ in self._again(answer):
                    pass
                least[number] = min(least[number], _now() - began)
        self.least = least[0]
        return least

    def inputs_of(self, names: Iterable[str]) -> dict[str, Tensor]:
        """By the names of layers, tokens that they are given, `[N, C]` on the CPU; some of each call."""
        seen: dict[str, list[Tensor]] = {name: [] for name in names}
        with _watched(self._net, seen) as most:
            for _ in self._again(None):
                pass
        self.tokens = max(most, default=0)
        return {name: torch.cat(each) for name, each in seen.items() if each}

    def _again(self, answer: Any) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        before, self._run.answers = self._run.answers, answer
        try:
            for executor, args, kwargs, wanted in self._calls:
                resources.check_cancelled()
                given = [_kept(each) for each in args], {name: _kept(each) for name, each in kwargs.items()}
                with torch.no_grad():
                    made = executor(*given[0], **given[1])
                self._step()
                yield _tensors(made), wanted
        finally:
            self._run.answers = before


def with_calls(
    model: Any,
    run: Any,
    samplings: Sequence[Sampling],
    work: Callable[[list[ModelCalls]], Found],
    step: Callable[[], None],
    *,
    percents: tuple[float, float] = (0.0, 1.0),
) -> Found:
    """What `work` makes of the calls of each sampling with a MODEL, while it is still loaded; calls `step` each step,
    and each time that a call is made again.

    Steps outside of `percents`, in [0, 1], are not kept. Raises TypeError for what is no MODEL, ValueError where its
    blocks cannot be answered for, or where no step lies there.
    """
    from comfy.patcher_extension import WrappersMP

    found: list[Found] = []
    calls: list[ModelCalls] = []
    band = [float("inf"), 0.0]

    def start(first: float, last: float) -> Any:
        band[:] = first, last
        return run

    patched = patch_model(model, start, percents=percents, blocks=True)

    def forward(executor: Any, *args: Any, **kwargs: Any) -> Any:
        made = executor(*args, **kwargs)
        if band[1] <= _sigma(args, kwargs) <= band[0]:
            calls[-1].keep(executor, args, kwargs, made)
        return made

    def sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(ModelCalls(model.model.diffusion_model, run, step))
        made = executor(*args, **kwargs)
        if not len(calls[-1]):
            raise ValueError(f"No step lies between {percents[0]} and {percents[1]} of the sampling. Take more steps.")
        if len(calls) == len(samplings):
            found.append(work(calls))
        return made

    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, _KEY, forward)
    patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, _KEY, sample)
    for each in samplings:
        each.run(patched, step)
    return found[0]


def blocks_of(net: nn.Module) -> list[nn.Module]:
    """The blocks of a model of ComfyUI's in the order in which they run."""
    names = ("double_blocks", "single_blocks", "blocks", "transformer_blocks")
    return [block for name in names for block in getattr(net, name, ())]


@contextlib.contextmanager
def _watched(net: nn.Module, seen: dict[str, list[Tensor]]) -> Iterator[list[int]]:
    """Adds what these layers are given to what was seen; gives how many tokens that were, each time."""
    counts: list[int] = []

    def hook(name: str) -> Callable[..., None]:
        chance = torch.Generator().manual_seed(0)

        def before(module: nn.Module, given: tuple[Any, ...]) -> None:
            rows = given[0].flatten(0, -2)
            counts.append(len(rows))
            some = torch.randperm(len(rows), generator=chance)[:_ROWS].to(rows.device)
            seen[name].append(rows[some].cpu())

        return before

    handles = [net.get_submodule(name).register_forward_pre_hook(hook(name)) for name in seen]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def _kept(value: Any) -> Any:
    """A copy of what a call might change: its latents, and dictionaries of options."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return dict(value)
    return [_kept(each) for each in value] if type(value) is list else value


def _tensors(made: Any) -> list[Tensor]:
    """Of a video alone, or with its sound."""
    return list(made) if isinstance(made, list | tuple) else [made]


def _sigma(args: Sequence[Any], kwargs: dict[str, Any]) -> float:
    """The noise level of a call, or 0 where it is not told."""
    for options in (*args, *kwargs.values()):
        if isinstance(options, dict) and isinstance(options.get("sigmas"), Tensor):
            return float(options["sigmas"].max())
    return 0.0
