"""Networks whose passes can be stopped halfway: large frames keep a processor busy for seconds in one pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn


def networks_of(engine: Any) -> Iterable[nn.Module]:
    """The networks of an interpolator or upscaler, if it has any."""
    return getattr(engine, "networks", ())


@contextlib.contextmanager
def checked(networks: Iterable[Any], check: Callable[[], None]) -> Iterator[None]:
    """In this `with` block, `check` is called before each part of these networks runs; it may raise to cancel.

    What networks give stays the same, bit for bit. Nothing stays on them afterwards, whatever happens in the block.
    What is no network of torch's is passed over.
    """

    watched = True

    def before(part: nn.Module, given: tuple[Any, ...]) -> None:
        if watched:  # a copy that is made of a network in the block keeps this
            check()

    with contextlib.ExitStack() as hooks:
        for network in networks:
            for part in network.modules() if isinstance(network, nn.Module) else ():
                hooks.callback(part.register_forward_pre_hook(before).remove)
        try:
            yield
        finally:
            watched = False
