"""Checking an API-format workflow against the nodes, before anything runs.

The kinds of problems are ComfyUI's (`required_input_missing`, `value_not_in_list`, ...), so that a client can treat
both hosts alike. Where ComfyUI would silently change a value ("false" to True, 3.7 to 3) or ignore an input that the
node does not have (`unknown_input`), this host refuses it.
"""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from .standalone import InputSocket, Schema
from .workflow import Nodes, Problem, Workflow, WorkflowError, check_shape, convert, is_link, title_of, unknown_input

_MAX_LISTED = 12  # options named in a message


class Validation:
    """Checks a workflow from its output nodes upward, and knows the order to run it in.

    `workflow` is changed: values are brought to the type of their input. `order` lists what the outputs need, sources
    first. Raises `WorkflowError` with all problems found.
    """

    def __init__(self, workflow: Workflow, nodes: Nodes):
        check_shape(workflow)
        self.workflow = workflow
        self.nodes = nodes
        self.order: list[str] = []
        self.problems: list[Problem] = []
        self._schemas: dict[str, Schema] = {}
        self._check_classes()
        outputs = [node_id for node_id in workflow if self.schema(node_id).is_output_node]
        if not outputs:
            raise WorkflowError([Problem("prompt_no_outputs", "no node gives a result. Add a save or preview node.")])
        self._sort(outputs)
        for node_id in self.order:
            self._check_node(node_id)
        if self.problems:
            raise WorkflowError(self.problems)

    def schema(self, node_id: str) -> Schema:
        """The schema of a node of the workflow."""
        class_type = self.workflow[node_id]["class_type"]
        if class_type not in self._schemas:
            self._schemas[class_type] = self.nodes[class_type].GET_SCHEMA()
        return self._schemas[class_type]

    def _check_classes(self) -> None:
        for node_id, node in self.workflow.items():
            class_type = node["class_type"]
            if class_type not in self.nodes:
                close = difflib.get_close_matches(class_type, list(self.nodes), n=1)
                hint = (
                    f"Did you mean {close[0]}?" if close else "Run this workflow in ComfyUI with the pack that has it."
                )
                self._add("missing_node_type", f"the embedded host has no such node. {hint}", node_id)
        if self.problems:
            raise WorkflowError(self.problems)

    def _add(self, kind: str, message: str, node_id: str, input_name: str = "") -> None:
        class_type, title = self.workflow[node_id]["class_type"], title_of(self.workflow, node_id)
        self.problems.append(Problem(kind, message, node_id, class_type, input_name, title))

    def _sort(self, outputs: list[str]) -> None:
        """Fill `order` by a depth-first walk without recursion, so that long chains do not hit Python's limit."""
        done: set[str] = set()
        for output in outputs:
            path: dict[str, Any] = {output: iter(self._sources(output))}
            while path:
                node_id = next(reversed(path))
                source = next(path[node_id], None)
                if source is None:
                    path.pop(node_id)
                    if node_id not in done:
                        done.add(node_id)
                        self.order.append(node_id)
                elif source in path:
                    cycle = [*list(path)[list(path).index(source) :], source]
                    self._add("dependency_cycle", f"its inputs come from itself: {' -> '.join(cycle)}.", source)
                    raise WorkflowError(self.problems)
                elif source not in done:
                    path[source] = iter(self._sources(source))

    def _sources(self, node_id: str) -> list[str]:
        links = [value for value in self.workflow[node_id]["inputs"].values() if is_link(value)]
        return [link[0] for link in links if len(link) == 2 and link[0] in self.workflow]

    def _check_node(self, node_id: str) -> None:
        inputs = self.workflow[node_id]["inputs"]
        sockets = {socket.id: socket for socket in self.schema(node_id).inputs}
        cls = self.nodes[self.workflow[node_id]["class_type"]]
        validate = getattr(cls, "validate_inputs", None)
        own = inspect.signature(validate).parameters if validate else {}
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values())
        before = len(self.problems)
        for name, value in inputs.items():
            if name in sockets:
                self._check_value(node_id, sockets[name], value, limits=name not in own and not takes_all)
            elif not getattr(cls, "IGNORES_UNKNOWN_INPUTS", False):
                self._add("unknown_input", unknown_input(name, sockets), node_id, name)
        for name, socket in sockets.items():
            if name not in inputs and not socket.optional:
                self._add("required_input_missing", "it is required, and missing.", node_id, name)
        if validate and len(self.problems) == before:
            given = {name: None if is_link(value) else value for name, value in inputs.items() if name in sockets}
            self._check_custom(node_id, validate, {k: v for k, v in given.items() if takes_all or k in own})

    def _check_value(self, node_id: str, socket: InputSocket, value: Any, *, limits: bool) -> None:
        if is_link(value):
            self._check_link(node_id, socket, value)
            return
        if isinstance(value, dict) and "__value__" in value:  # how ComfyUI writes a list that is no link
            value = value["__value__"]
        io_type = socket.get_io_type()
        if not hasattr(socket, "default") and io_type != "*":
            self._add("invalid_input_type", f"it needs a link to a {io_type}, not {value!r}.", node_id, socket.id)
            return
        try:
            value = convert(value, io_type)
        except ValueError as error:
            self._add("invalid_input_type", str(error), node_id, socket.id)
            return
        self.workflow[node_id]["inputs"][socket.id] = value
        if limits:
            self._check_limits(node_id, socket, value)

    def _check_limits(self, node_id: str, socket: InputSocket, value: Any) -> None:
        low, high = getattr(socket, "min", None), getattr(socket, "max", None)
        options = getattr(socket, "options", None)
        if low is not None and value < low:
            self._add("value_smaller_than_min", f"{value} is smaller than the least, {low}.", node_id, socket.id)
        elif high is not None and value > high:
            self._add("value_bigger_than_max", f"{value} is bigger than the most, {high}.", node_id, socket.id)
        elif options is not None and value not in options:
            named = ", ".join(map(str, options[:_MAX_LISTED])) + (", ..." if len(options) > _MAX_LISTED else "")
            self._add("value_not_in_list", f"{value!r} is not one of: {named or '(none)'}.", node_id, socket.id)

    def _check_link(self, node_id: str, socket: InputSocket, link: list[Any]) -> None:
        if len(link) != 2 or not isinstance(link[1], int) or not isinstance(link[0], str):
            self._add("bad_linked_input", f"{link!r} is no link. Write [node id, slot].", node_id, socket.id)
            return
        source, slot = link
        if source not in self.workflow:
            self._add("bad_linked_input", f"it is linked to node {source}, which is not there.", node_id, socket.id)
            return
        outputs = self.schema(source).outputs
        if not 0 <= slot < len(outputs):
            message = f"it is linked to output {slot} of node {source}, which has {len(outputs)}."
            self._add("bad_linked_input", message, node_id, socket.id)
            return
        given, wanted = outputs[slot].get_io_type(), socket.get_io_type()
        if not _matches(given, wanted):
            message = f"it needs {wanted}, but output {slot} of node {source} is {given}."
            self._add("return_type_mismatch", message, node_id, socket.id)

    def _check_custom(self, node_id: str, validate: Any, given: dict[str, Any]) -> None:
        try:
            answer = validate(**given)
        except Exception as error:  # noqa: BLE001 (whatever a node raises is a problem of that node)
            message = str(error) or type(error).__name__
            self._add("exception_during_validation", message, node_id)
            return
        if answer is not True:
            name = next(iter(given)) if len(given) == 1 else ""
            self._add("custom_validation_failed", str(answer or "the values do not fit together."), node_id, name)


def _matches(given: str, wanted: str) -> bool:
    """Whether an output of type `given` may go to an input of type `wanted`; "A,B" is either, "*" is any."""
    kinds = set(given.replace(" ", "").split(",")), set(wanted.replace(" ", "").split(","))
    return "*" in kinds[0] | kinds[1] or not kinds[0].isdisjoint(kinds[1])
