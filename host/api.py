"""The node API that nodes are written against: `from ..host.api import io, ui, ComfyExtension`.

Inside ComfyUI these are ComfyUI's own; elsewhere the embedded host's, with the same names. Nodes say
`io.Schema(node_id="...")` as in any other pack; on a ComfyUI that is too old for an option they use, `portable` leaves
that option out.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from . import IS_COMFYUI
from .video_handles import VideoSource, video_from_file, video_source

if TYPE_CHECKING or not IS_COMFYUI:
    from . import standalone as io
    from . import standalone_ui as ui
    from .standalone import ComfyExtension
else:
    from comfy_api.latest import ComfyExtension, io, ui

__all__ = ["IS_COMFYUI", "ComfyExtension", "VideoSource", "io", "portable", "ui", "video_from_file", "video_source"]

# Options that ComfyUI 0.3.64 lacks: without them a node works, but is harder to find
_NEWER = {"search_aliases", "is_dev_only", "essentials_category", "has_intermediate_output", "advanced"}


def portable(make: Callable[..., Any]) -> Callable[..., Any]:
    """`make`, which leaves out the newer options that this ComfyUI does not know.

    `advanced` still reaches the editor where an input takes an `extra_dict`. An option that is unknown for another
    reason, like a misspelt one, is still an error.
    """
    known = inspect.signature(make).parameters

    @functools.wraps(make)
    def without_newer(*args: Any, **options: Any) -> Any:
        missing = {name: options.pop(name) for name in _NEWER & options.keys() - known.keys()}
        if missing.get("advanced") is not None and "extra_dict" in known:
            options["extra_dict"] = {**(options.get("extra_dict") or {}), "advanced": missing["advanced"]}
        return make(*args, **options)

    return without_newer


class OlderIO:
    """`io` of a ComfyUI that lacks newer options: its Schema and its inputs are `portable`, the rest is as it is."""

    def __init__(self, original: Any):
        self._original = original

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._original, name)
        if name == "Schema":
            return portable(found)
        if name == "Custom":
            return lambda io_type: _older_socket(found(io_type))
        return _older_socket(found) if hasattr(found, "io_type") and hasattr(found, "Input") else found


def _older_socket(socket: Any) -> Any:
    return SimpleNamespace(
        io_type=socket.io_type,
        Type=socket.Type,
        Input=portable(socket.Input),
        Output=getattr(socket, "Output", None),
    )


def _lacks_newer(schema: type, socket: Any) -> bool:
    known = inspect.signature(schema).parameters.keys() | inspect.signature(socket.Input).parameters.keys()
    return not known >= _NEWER


# not for the type checker: to it, `io` stays a module
if not TYPE_CHECKING and IS_COMFYUI and _lacks_newer(io.Schema, io.Image):
    io = OlderIO(io)
