"""Blocks of other people's video models, answered for while they sample: what they are given and give, as streams.

A stream is what goes through all blocks and is changed by each: the video's tokens; where text has blocks beside it,
its tokens; where a model makes sound with the video, that's.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from .attention_calls import Forward, Gate, Run
from .pruning import Answer, DepthPlan, Streams

_Block = Callable[[dict[str, Any]], dict[str, Any]]


class AnswerRun(Run):
    """A model's blocks while it samples once. `answers` may be exchanged between two runs; with None all blocks run."""

    def __init__(self, answers: Answer | None = None, gate: Gate | None = None, name: str = "Prune Model"):
        super().__init__(name, gate or Gate())
        self.answers = answers
        self.left_out = 0

    def attend(
        self, forward: Forward, backend: Callable[..., Tensor], arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> Tensor:
        """Attention stays what it is."""
        return backend(*arguments, **options)

    def through(self, forward: Forward, number: int, arguments: dict[str, Any], original: _Block) -> dict[str, Any]:
        """What `original(arguments)`, block `number` of the model, gives, or what is answered in its place."""
        if self.answers is None or self.gate.reason(forward, number) is not None:
            self.patched += 1
            return original(arguments)
        made: list[dict[str, Any]] = []
        apart = number < forward.doubles  # text goes through these blocks beside the video

        def block() -> Streams:
            made.append(original(arguments))
            return _streams(made[0], apart)

        streams = self.answers(number, _streams(arguments, apart), block)
        if made:
            self.patched += 1
            return made[0]
        self.left_out += 1
        return _named(streams, arguments, apart)

    def report(self) -> str:
        """One line of what it did."""
        calls = self.left_out + self.patched
        if not calls:
            return "no block came by; another patch may have taken its place"
        plan = self.answers if isinstance(self.answers, DepthPlan) else None
        which = "" if plan is None else f" (blocks {', '.join(map(str, plan.left_out)) or 'none'} of {plan.blocks})"
        return f"{self.left_out} of {calls} runs of blocks left out{which}"


def _streams(values: dict[str, Any], apart: bool) -> Streams:
    video = values["img"]
    both = tuple(video) if isinstance(video, Sequence) else (video,)
    return (*both, values["txt"]) if apart else both


def _named(streams: Streams, arguments: dict[str, Any], apart: bool) -> dict[str, Any]:
    """As ComfyUI's blocks give them."""
    text: dict[str, Tensor] = {"txt": streams[-1]} if apart else {}
    video = streams[: len(streams) - apart]
    return {"img": video if isinstance(arguments["img"], Sequence) else video[0], **text}
