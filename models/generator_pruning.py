"""Our generator with blocks left out, or with parts of blocks: attention here, a feed-forward part there.

What a block is worth is spread unevenly over its parts, so that parts of several blocks are worth less than one block
of their size (as FinerCut found of language models, arXiv 2405.18218).
"""

import copy
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .generator import TokenGenerator
from .pruning import Answer, DepthPlan, Streams

PARTS = 3
"""Of a block: near tokens, far ones, channels. Part `p` of block `b` is number `PARTS * b + p`."""

_Pass = Callable[[Tensor], Tensor]


class _Answered(nn.Module):
    """A block that is answered for, as a whole or part by part."""

    def __init__(self, first: int, passes: Sequence[_Pass], answer: Answer):
        super().__init__()
        self.first, self.answer = first, answer
        self.__dict__["passes"] = passes  # no modules of this: what is left out is not stored

    def forward(self, x: Tensor) -> Tensor:
        for number, each in enumerate(self.__dict__["passes"], self.first):
            x = self.answer(number, (x,), lambda x=x, each=each: (each(x),))[0]
        return x


class _Shortened(nn.Module):
    """A block of which parts are left out, with what stands for them."""

    def __init__(self, first: int, block: nn.Module, plan: DepthPlan):
        super().__init__()
        self.first, self.plan = first, plan
        kept = [part for part in range(PARTS) if first + part not in plan.shortcuts]
        for name in ("norms", "parts"):
            layers = block.get_submodule(name)
            self.add_module(name, nn.ModuleDict({str(part): layers.get_submodule(str(part)) for part in kept}))
        shares = block.get_parameter("shares")
        self.shares = nn.ParameterDict({str(part): nn.Parameter(shares[part], shares.requires_grad) for part in kept})

    def forward(self, x: Tensor) -> Tensor:
        for part in range(PARTS):
            x = self.plan(self.first + part, (x,), lambda x=x, part=part: (self._with_part(x, str(part)),))[0]
        return x

    def _with_part(self, x: Tensor, part: str) -> Tensor:
        normed = self.get_submodule(f"norms.{part}")(x)
        return x + self.shares[part] * self.get_submodule(f"parts.{part}")(normed)


def answered_generator(net: TokenGenerator, answer: Answer, *, parts: bool = False) -> TokenGenerator:
    """The same weights in a generator whose blocks, or their parts, are all answered for; the source stays as it is."""

    def passes(block: nn.Module) -> list[_Pass]:
        if not parts:
            return [block]
        return [lambda x, part=part: block.with_part(x, part) for part in range(PARTS)]  # type: ignore[operator]

    step = PARTS if parts else 1
    return _with_blocks(net, [_Answered(step * b, passes(block), answer) for b, block in enumerate(net.blocks)])


def prune_generator(net: TokenGenerator, plan: DepthPlan) -> TokenGenerator:
    """The same weights in a generator without the blocks, or parts, that the plan leaves out; the source stays.

    Raises ValueError where the plan is of another number of blocks or parts than the generator has.
    """
    blocks, count = list(net.blocks), len(net.blocks)
    if plan.blocks not in (count, PARTS * count):
        raise ValueError(
            f"Invalid plan of {plan.blocks} blocks. The generator has {count} blocks of {PARTS} parts each."
        )
    step = plan.blocks // count
    for number in {each // step for each in plan.shortcuts}:
        whole = all(each in plan.shortcuts for each in range(step * number, step * (number + 1)))
        first = step * number
        blocks[number] = _Answered(first, [_nothing] * step, plan) if whole else _Shortened(first, blocks[number], plan)
    return _with_blocks(net, blocks)


def _nothing(x: Tensor) -> Tensor:
    raise AssertionError("What is left out was asked for.")


def _with_blocks(net: TokenGenerator, blocks: Sequence[nn.Module]) -> TokenGenerator:
    made = copy.copy(net)
    made._modules = dict(net._modules)
    made.blocks = nn.ModuleList(blocks)
    return made


class GeneratorCalibration:
    """A generator and tokens that it is asked for; it costs their bits, mean of a token.

    inputs: tokens, what is known of them, and a guess, as `TokenGenerator.bits` takes them; what is not known is asked.
    parts: what is answered for are the parts of blocks.
    """

    def __init__(self, net: TokenGenerator, inputs: Sequence[tuple[Tensor, Tensor, Tensor]], *, parts: bool = False):
        self.net, self.inputs, self.parts = net, inputs, parts
        self.parameters: Sequence[int] = [
            count for block in net.blocks for count in ([sum(_sizes(block))] if not parts else _sizes(block))
        ]
        self.blocks = len(self.parameters)

    def cost(self, answer: Answer) -> float:
        net = answered_generator(self.net, answer, parts=self.parts)
        asked = [net.bits(tokens, known, guess)[~known] for tokens, known, guess in self.inputs]
        return float(torch.cat(asked).double().mean())

    def seconds(self, rounds: int = 5) -> list[float]:
        """The least time that each block, or part, takes for the largest of the inputs."""
        least = [float("inf")] * self.blocks

        def answer(number: int, given: Streams, block: Callable[[], Streams]) -> Streams:
            began = time.perf_counter()
            made = block()
            least[number] = min(least[number], time.perf_counter() - began)
            return made

        net = answered_generator(self.net, answer, parts=self.parts)
        largest = max(self.inputs, key=lambda each: each[0].numel())
        for _ in range(rounds):
            net.bits(*largest)
        return least


def _sizes(block: nn.Module) -> list[int]:
    """Parameters of each part, with its norm and its share."""
    shared = block.get_parameter("shares")[0].numel()
    layers = [[block.get_submodule(f"{name}.{part}") for name in ("norms", "parts")] for part in range(PARTS)]
    return [sum(each.numel() for layer in pair for each in layer.parameters()) + shared for pair in layers]
