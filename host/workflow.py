"""API-format workflows: what one is, what can be wrong with it, and overriding its values."""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import files
from .standalone import ComfyNode

if TYPE_CHECKING:
    from .node_facts import FactsOf

Workflow = dict[str, dict[str, Any]]  # node id -> {"class_type": ..., "inputs": {name: value or [node id, slot]}}
Nodes = Mapping[str, type[ComfyNode]]  # node_id of the schema -> class


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a workflow. `type` is ComfyUI's name of the kind."""

    type: str
    message: str
    node_id: str = ""
    class_type: str = ""
    input_name: str = ""
    title: str = ""

    def __str__(self) -> str:
        where = f"node {self.node_id} ({called(self.class_type, self.title)})" if self.node_id else "workflow"
        return f"{where}, input {self.input_name}: {self.message}" if self.input_name else f"{where}: {self.message}"


class WorkflowError(ValueError):
    """A workflow that cannot run. Its text is one line; `problems` has all that was found."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = tuple(problems)
        more = len(self.problems) - 1
        super().__init__(f"{self.problems[0]}" + (f" (and {more} more)" if more else ""))


def load_workflow(path: str | os.PathLike[str], facts_of: FactsOf | None = None) -> Workflow:
    """Read a workflow: in the API format, or, where `facts_of` tells what its nodes are, in the editor's.

    Raises `WorkflowError` for anything else, and `OSError` if it cannot be read.
    """
    from .editor_graph import is_editor_graph, to_api  # it is built on this file

    with open(path, encoding="utf-8") as file:
        try:
            workflow = json.load(file)
        except ValueError as error:
            raise WorkflowError([Problem("invalid_prompt", f"{os.fspath(path)} is not JSON ({error}).")]) from error
    if facts_of is not None and is_editor_graph(workflow):
        workflow = to_api(workflow, facts_of)
    check_shape(workflow)
    return workflow


def save_workflow(workflow: Workflow, path: str | os.PathLike[str]) -> None:
    """Write a workflow in the API format."""
    files.write_whole(os.fspath(path), (json.dumps(workflow, indent=2, ensure_ascii=False) + "\n").encode())


def check_shape(workflow: Any) -> None:
    """Raise `WorkflowError` unless `workflow` has the shape of the API format."""
    if isinstance(workflow, dict) and isinstance(workflow.get("nodes"), list):
        message = "this is the editor's format. Turn it into the API format with: tokenreel export IN.json OUT.json"
        raise WorkflowError([Problem("invalid_prompt", message)])
    if not isinstance(workflow, dict) or not workflow:
        message = 'not an API-format workflow. It must be an object {"node id": {"class_type": ..., "inputs": {...}}}.'
        raise WorkflowError([Problem("invalid_prompt", message)])
    for node_id, node in workflow.items():
        if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
            raise WorkflowError([Problem("missing_node_type", "it has no class_type.", node_id)])
        if not isinstance(node.get("inputs"), dict):
            raise WorkflowError([Problem("invalid_prompt", "it has no inputs.", node_id, node["class_type"])])


def title_of(workflow: Workflow, node_id: str) -> str:
    """What a node is called in the editor: its title, or its class; "" for a node that is not there."""
    node = workflow.get(node_id, {})
    return (node.get("_meta") or {}).get("title") or node.get("class_type", "")


def called(class_type: str, title: str) -> str:
    """A node's class for a message, after its title where that says more."""
    return f"{title}, {class_type}" if title and title != class_type else class_type or "no class_type"


def is_link(value: Any) -> bool:
    """Whether an input's value is a link `[node id, slot]`."""
    return isinstance(value, list)


def apply_overrides(workflow: Workflow, overrides: Iterable[str], nodes: Nodes) -> Workflow:
    """A copy of `workflow` with every `NODE.INPUT=VALUE` of `overrides` applied.

    NODE is a node's id, or its title or class where only one node has it. VALUE is read as the type that the node's
    schema says; for a node that is not in `nodes`, as that of the value that it replaces. Raises `WorkflowError`.
    """
    check_shape(workflow)
    changed = {node_id: {**node, "inputs": dict(node["inputs"])} for node_id, node in workflow.items()}
    for override in overrides:
        target, equals, text = override.partition("=")
        name, dot, input_name = target.rpartition(".")
        if not (equals and dot and name and input_name):
            message = f"invalid override {override!r}. Write NODE.INPUT=VALUE, like 3.quality=32."
            raise WorkflowError([Problem("invalid_override", message)])
        node_id = find_node(changed, name)
        node = changed[node_id]
        try:
            node["inputs"][input_name] = _parse(text, input_name, node, nodes)
        except ValueError as error:
            title = title_of(changed, node_id)
            problem = Problem("invalid_override", str(error), node_id, node["class_type"], input_name, title)
            raise WorkflowError([problem]) from error
    return changed


def find_node(workflow: Workflow, name: str) -> str:
    """The id of the node `name`: an id, or the title or class of a single node. Raises `WorkflowError`."""
    if name in workflow:
        return name
    found = [
        node_id
        for node_id, node in workflow.items()
        if name in (node["class_type"], (node.get("_meta") or {}).get("title"))
    ]
    if len(found) == 1:
        return found[0]
    which = f"nodes {', '.join(found)} are called so; use the id" if found else f"its nodes are {', '.join(workflow)}"
    raise WorkflowError([Problem("invalid_override", f"no single node {name!r}: {which}.")])


def _parse(text: str, input_name: str, node: dict[str, Any], nodes: Nodes) -> Any:
    cls = nodes.get(node["class_type"])
    if cls is None:
        before = node["inputs"].get(input_name)
        kind = {bool: "BOOLEAN", int: "INT", float: "FLOAT"}.get(type(before), "STRING")
        return convert(text, kind)
    sockets = {socket.id: socket for socket in cls.GET_SCHEMA().inputs}
    if input_name not in sockets:
        raise ValueError(unknown_input(input_name, sockets))
    socket = sockets[input_name]
    if not hasattr(socket, "default"):
        raise ValueError(f"it is a {socket.get_io_type()} socket. Only values can be overridden, not links.")
    options = getattr(socket, "options", None)
    return next((option for option in options or () if str(option) == text), convert(text, socket.get_io_type()))


def unknown_input(name: str, known: Iterable[str]) -> str:
    """A message on an input that the node does not have."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"the node has no such input. {f'Did you mean {close[0]}?' if close else 'It has: ' + ', '.join(known)}"


def convert(value: Any, io_type: str) -> Any:
    """A JSON value, or the text of one, as a value of a widget of type `io_type`. Raises `ValueError`."""
    if io_type == "BOOLEAN":
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if isinstance(value, (bool, int)) and value in (0, 1):
            return bool(value)
    elif io_type == "INT":
        number = _number(value)
        if isinstance(number, int) or (number is not None and number.is_integer()):
            return int(number)
    elif io_type == "FLOAT":
        number = _number(value)
        if number is not None and math.isfinite(number):
            return float(number)
    elif io_type == "STRING":
        if isinstance(value, (str, int, float)):
            return str(value)
    else:
        return value
    raise ValueError(f"{value!r} is not {_ARTICLE[io_type]}.")


_ARTICLE = {"BOOLEAN": "true or false", "INT": "a whole number", "FLOAT": "a number", "STRING": "a text"}


def _number(value: Any) -> int | float | None:
    if isinstance(value, str):
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
        return None
    return value if isinstance(value, (int, float)) else None
