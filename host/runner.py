"""Runs an API-format workflow in this process, with the node classes that ComfyUI would run."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import files, resources
from .builtin_nodes import BUILTIN_NODES
from .standalone import ComfyNode, Hidden, HiddenHolder, NodeOutput, Schema
from .validation import Validation
from .workflow import Nodes, Workflow, apply_overrides, called, is_link, title_of


@dataclass(frozen=True)
class NodeEvent:
    """A node begins (`seconds` is None), or has ended; `cached` when an equal node had run before it."""

    node_id: str
    class_type: str
    display_name: str  # its title in the workflow, where it has one
    index: int  # from 0, in the order of the run
    total: int
    seconds: float | None = None
    cached: bool = False


@dataclass
class RunResult:
    """What a run left: for every node with a `ui` that dict, and the files written into the output folder."""

    ui: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)  # of every node that ran
    values: dict[str, tuple[Any, ...]] = field(default_factory=dict)  # outputs of the nodes in `keep`

    @property
    def texts(self) -> dict[str, str]:
        """What the nodes said, by node id."""
        return {node_id: "\n".join(map(str, ui["text"])) for node_id, ui in self.ui.items() if ui.get("text")}


class NodeError(RuntimeError):
    """A node failed. One line with its id, title, class and what it said; the node's own error is `__cause__`."""

    def __init__(self, node_id: str, class_type: str, message: str, title: str = ""):
        self.node_id = node_id
        self.class_type = class_type
        super().__init__(f"node {node_id} ({called(class_type, title)}): {message}")


def run_workflow(
    workflow: Workflow,
    nodes: Nodes,
    *,
    overrides: Iterable[str] = (),
    input_dir: str | os.PathLike[str] | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    model_dir: str | os.PathLike[str] | None = None,
    inputs: Mapping[str, str] | None = None,
    keep: Iterable[str] = (),
    on_node: Callable[[NodeEvent], None] | None = None,
) -> RunResult:
    """Check `workflow`, run what its output nodes need, and say what came out.

    `nodes` are the pack's node classes by node_id; the stand-ins for ComfyUI's own (`BUILTIN_NODES`) are added.
    `overrides` are `NODE.INPUT=VALUE`. Folders and `inputs` are as in `files.session`. Equal nodes run once. An
    output's memory is given back when nothing needs it any more, except for the nodes in `keep`. Ctrl-C cancels.

    Raises `WorkflowError` before anything runs, `NodeError` when a node fails, `resources.Cancelled`. Temp files are
    removed in every case.
    """
    known = {**BUILTIN_NODES, **nodes}
    folders: dict[str, Any] = {"input_dir": input_dir, "output_dir": output_dir, "model_dir": model_dir}
    with files.session(**folders, inputs=inputs), resources.cancellable():
        overridden = apply_overrides(workflow, overrides, known)
        validation = Validation(overridden, known)
        return _Run(validation, set(keep), on_node or (lambda event: None)).all()


class _Run:
    def __init__(self, validation: Validation, keep: set[str], on_node: Callable[[NodeEvent], None]):
        self.validation = validation
        self.workflow = validation.workflow
        self.keep = keep
        self.on_node = on_node
        self.result = RunResult()
        self.outputs: dict[str, tuple[Any, ...]] = {}  # of the nodes that ran and are still needed
        self.signatures: dict[str, str] = {}
        self.readers: Counter[str] = Counter()  # how many nodes are still going to read its outputs
        self.ran_as: dict[str, str] = {}  # node -> the first that is equal to it: only that one runs

    def all(self) -> RunResult:
        """Run every node in order; equal ones once."""
        import torch

        first_of: dict[str, str] = {}
        for node_id in self.validation.order:
            with self._blamed(node_id):
                self.signatures[node_id] = self._signature(node_id)
            self.ran_as[node_id] = first_of.setdefault(self.signatures[node_id], node_id)
        running = set(self.ran_as.values())
        self.readers = Counter(self.ran_as[link[0]] for each in running for link in self._links(each).values())
        with torch.inference_mode():  # as ComfyUI does
            for index, node_id in enumerate(self.validation.order):
                resources.check_cancelled()
                self._run(node_id, index)
        return self.result

    def _schema(self, node_id: str) -> Schema:
        return self.validation.schema(node_id)

    def _links(self, node_id: str) -> dict[str, list[Any]]:
        inputs = self.workflow[node_id]["inputs"]
        return {each.id: inputs[each.id] for each in self._schema(node_id).inputs if is_link(inputs.get(each.id))}

    @contextlib.contextmanager
    def _blamed(self, node_id: str) -> Iterator[None]:
        """Turn an error in the block into a `NodeError` of this node."""
        try:
            yield
        except resources.Cancelled:
            raise
        except Exception as error:
            class_type, title = self.workflow[node_id]["class_type"], title_of(self.workflow, node_id)
            raise NodeError(node_id, class_type, _one_line(error), title) from error

    def _run(self, node_id: str, index: int) -> None:
        class_type, first = self.workflow[node_id]["class_type"], self.ran_as[node_id]
        titled = (self.workflow[node_id].get("_meta") or {}).get("title")
        name = titled or self._schema(node_id).display_name or class_type
        event = NodeEvent(node_id, class_type, name, index, total=len(self.validation.order))
        self.on_node(event)
        begin = time.perf_counter()
        if first == node_id:
            with self._blamed(node_id):
                self._execute(node_id)
            self.result.seconds[node_id] = time.perf_counter() - begin
        elif first in self.result.ui:
            self.result.ui[node_id] = self.result.ui[first]
        self.on_node(dataclasses.replace(event, seconds=time.perf_counter() - begin, cached=first != node_id))

    def _execute(self, node_id: str) -> None:
        cls = self.validation.nodes[self.workflow[node_id]["class_type"]]
        offered = {Hidden.unique_id: node_id, Hidden.prompt: self.workflow}
        asked = self._schema(node_id).hidden
        hidden = HiddenHolder(**{each.name: value for each, value in offered.items() if each in asked})
        bound = type(cls.__name__, (cls,), {"hidden": hidden})  # a class of its own, as ComfyUI gives each run
        values, shown = _unpack(bound.execute(**self._values(node_id)))
        wanted = len(self._schema(node_id).outputs)
        if len(values) != wanted:
            raise TypeError(f"it gave {len(values)} outputs, its schema says {wanted}")
        self.outputs[node_id] = values
        self.result.values.update({each: values for each in self.keep if self.ran_as.get(each) == node_id})
        self._release(node_id)
        if shown:
            self.result.ui[node_id] = shown
            self._collect_files(shown)

    def _release(self, node_id: str) -> None:
        """Forget the outputs that no node is going to read."""
        self.readers.subtract(self.ran_as[link[0]] for link in self._links(node_id).values())
        for each in [each for each in self.outputs if self.readers[each] <= 0]:
            del self.outputs[each]

    def _values(self, node_id: str) -> dict[str, Any]:
        """The keyword arguments of `execute`: typed values, and outputs of other nodes."""
        inputs, links = self.workflow[node_id]["inputs"], self._links(node_id)
        values = {}
        for socket in self._schema(node_id).inputs:
            if socket.id in links:
                source, slot = links[socket.id]
                values[socket.id] = self.outputs[self.ran_as[source]][slot]
            elif socket.id in inputs:
                values[socket.id] = inputs[socket.id]
        return values

    def _signature(self, node_id: str) -> str:
        """Equal for nodes that give equal outputs."""
        node, links, schema = self.workflow[node_id], self._links(node_id), self._schema(node_id)
        cls: type[ComfyNode] = self.validation.nodes[node["class_type"]]
        given = {socket.id: node["inputs"][socket.id] for socket in schema.inputs if socket.id in node["inputs"]}
        parts: dict[str, Any] = {name: [self.signatures[link[0]], link[1]] for name, link in links.items()}
        parts |= {name: {"value": value} for name, value in given.items() if name not in links}
        fingerprint = getattr(cls, "fingerprint_inputs", None)
        changes = fingerprint(**{k: None if k in links else v for k, v in given.items()}) if fingerprint else None
        own = node_id if schema.not_idempotent else None
        text = json.dumps([node["class_type"], parts, str(changes), own], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _collect_files(self, shown: dict[str, Any]) -> None:
        for entries in shown.values():
            for entry in entries if isinstance(entries, (list, tuple)) else ():
                if isinstance(entry, dict) and entry.get("type") == "output":
                    self.result.files.append(Path(files.output_dir(), entry["subfolder"], entry["filename"]))


def _unpack(output: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(output, NodeOutput):
        shown = output.ui.as_dict() if hasattr(output.ui, "as_dict") else dict(output.ui or {})
        return tuple(output.args), shown
    return (output if isinstance(output, tuple) else () if output is None else (output,)), {}


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
