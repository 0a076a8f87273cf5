"""What the editor's format leaves to the node: its widgets in their order. Told by node classes, or by a server.

The editor saves the values of a node's widgets as a list, in the order of the node's inputs. Which of them are
widgets, and what else the editor puts between them, follows from what ComfyUI lists in `/object_info`.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .workflow import Nodes

_TYPED = {"INT": 0, "FLOAT": 0.0, "BOOLEAN": False, "STRING": "", "COMBO": None, "MARKDOWN": "", "TEXTAREA": ""}
_DYNAMIC = "COMFY_DYNAMICCOMBO_V3"  # a choice that brings inputs of its own
_DRAWN = ("COLOR", "CURVE", "RANGE", "BOUNDING_BOX")
_COMPARED = "IMAGECOMPARE"  # asks for a value that no file has
_WIDGETS = frozenset({*_TYPED, *_DRAWN, _DYNAMIC, _COMPARED})  # types that can be set at the node
_SEEDS = ("seed", "noise_seed")  # whole numbers of these names are followed by what becomes of them after a run


@dataclass(frozen=True)
class Widget:
    """A value at a node: the input's name, or "" where the editor keeps something of its own."""

    name: str
    default: Any = None
    more: Mapping[str, tuple[Widget, ...]] = field(default_factory=dict)  # widgets after it, by what is chosen
    saved: bool = True  # whether files have it
    is_number: bool = False


@dataclass(frozen=True)
class NodeFacts:
    """The name that people read, and the widgets in the order in which their values are saved."""

    display_name: str
    widgets: tuple[Widget, ...]


FactsOf = Callable[[str], "NodeFacts | None"]
"""What is known of a class of nodes; None for one that is not known."""


def facts_of_classes(nodes: Nodes) -> FactsOf:
    """The facts of node classes, by node_id."""

    def facts_of(class_type: str) -> NodeFacts | None:
        if class_type not in nodes:
            return None
        schema = nodes[class_type].GET_SCHEMA()
        inputs = sorted(schema.inputs, key=lambda socket: socket.optional)  # ComfyUI lists optional ones last
        specs = ((socket.id, [socket.get_io_type(), _options(socket)]) for socket in inputs)
        return NodeFacts(schema.display_name or class_type, _widgets(specs))

    return facts_of


def _options(socket: Any) -> dict[str, Any]:
    """The options of an input as `/object_info` has them, as far as they matter here."""
    named = {"default": "default", "options": "options", "control_after_generate": "control_after_generate"}
    named |= {"forceInput": "force_input"}
    found = {key: getattr(socket, name, None) for key, name in named.items()}
    return {key: value for key, value in found.items() if value is not None}


def facts_of_server(get: Callable[[str], Any]) -> FactsOf:
    """The facts that a ComfyUI lists; `get(path)` gives its JSON answer. Each class is asked for once."""
    asked: dict[str, NodeFacts | None] = {}

    def facts_of(class_type: str) -> NodeFacts | None:
        if class_type not in asked:
            answer = get(f"/object_info/{urllib.parse.quote(class_type, safe='')}")
            asked[class_type] = _listed(class_type, answer[class_type]) if class_type in answer else None
        return asked[class_type]

    return facts_of


def _listed(class_type: str, entry: dict[str, Any]) -> NodeFacts:
    inputs = entry.get("input") or {}
    specs = {**inputs.get("required", {}), **inputs.get("optional", {})}
    order = [name for part in ("required", "optional") for name in (entry.get("input_order") or {}).get(part, [])]
    names = [*(name for name in order if name in specs), *(name for name in specs if name not in order)]
    widgets = _widgets((name, specs[name]) for name in names)
    return NodeFacts(entry.get("display_name") or class_type, widgets)


def _widgets(specs: Iterable[tuple[str, Any]]) -> tuple[Widget, ...]:
    """The saved values of inputs, each told as [type or choices, options]."""
    found: list[Widget] = []
    for name, spec in specs:
        kind, options = spec[0], spec[1] if len(spec) > 1 else {}
        if isinstance(kind, (list, tuple)):  # how older nodes write a choice
            kind, options = "COMBO", {"options": list(kind), **options}
        kind = options.get("widgetType") or kind
        if kind not in _WIDGETS or options.get("forceInput"):
            continue
        found.append(_widget(name, kind, options))
        if kind == "INT" and options.get("control_after_generate", name in _SEEDS):
            found.append(Widget(""))
        if kind == "COMBO" and options.get("control_after_generate"):
            found += [Widget(""), Widget("")]  # and which choices may come next
    return tuple(found)


def _widget(name: str, kind: str, options: dict[str, Any]) -> Widget:
    if kind == _DYNAMIC:
        more = {choice["key"]: _widgets(_inner(name, choice["inputs"])) for choice in options.get("options", [])}
        return Widget(name, options.get("default", next(iter(more), None)), more)
    if kind == _COMPARED:
        return Widget(name, ["", ""], saved=False)
    choices = options.get("options") or [None]
    default = options.get("default", choices[0] if kind == "COMBO" else _TYPED.get(kind))
    return Widget(name, default, is_number=kind in ("INT", "FLOAT"))


def _inner(name: str, inputs: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    return ((f"{name}.{key}", spec) for part in ("required", "optional") for key, spec in inputs.get(part, {}).items())
