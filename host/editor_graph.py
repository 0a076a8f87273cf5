"""The editor's format as the API format: what ComfyUI's editor sends when a graph is queued.

Muted nodes and notes are left out, bypassed ones passed through, Reroutes and primitives resolved, and subgraphs opened
(node 3 of subgraph node 7 becomes "7:3"). Text is sent as it is written: the editor would also draw lots for `{a|b}`
in prompts, and fill `%date:...%` in names. What only exists in the editor (Set and Get nodes, group nodes) is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .node_facts import FactsOf, NodeFacts, Widget
from .workflow import Problem, Workflow, WorkflowError

_NOTES = frozenset({"Note", "MarkdownNote"})
_REROUTE, _PRIMITIVE = "Reroute", "PrimitiveNode"
_VIRTUAL = _NOTES | {_REROUTE, _PRIMITIVE}  # they live in the editor only
_OWN_CHOICES = "CustomCombo"  # its choices are written at the node, and no server lists them
_MUTED, _BYPASSED = 2, 4  # modes of a node
_INPUTS, _OUTPUTS = "-10", "-20"  # the two ends of a subgraph, as links name them
_EXPORT = "Or export the workflow in the editor with Workflow > Export (API)."
_DEEPEST = 32  # subgraphs within each other


class Slot(NamedTuple):
    """An output by its node and number, or an input."""

    node: str
    number: int


@dataclass(frozen=True)
class Link:
    source: Slot
    target: Slot


@dataclass(frozen=True)
class InputSlot:
    name: str
    kind: str
    link: str | None
    is_widget: bool


@dataclass(frozen=True)
class EditorNode:
    """A node as the editor saves it."""

    id: str
    class_type: str
    mode: int
    title: str
    inputs: tuple[InputSlot, ...]
    outputs: tuple[str, ...]  # their types
    values: list[Any] | dict[str, Any]

    @classmethod
    def read(cls, saved: Mapping[str, Any]) -> EditorNode:
        """Raises `KeyError` and the like where something is missing."""
        inputs = tuple(
            InputSlot(each["name"], str(each.get("type", "*")), _id(each.get("link")), bool(each.get("widget")))
            for each in saved.get("inputs") or ()
        )
        outputs = tuple(str(each.get("type", "*")) for each in saved.get("outputs") or ())
        values = saved.get("widgets_values") or []
        if not isinstance(values, (list, dict)):
            raise TypeError(f"widgets_values of node {saved['id']}")
        title = saved.get("title") or ""
        return cls(str(saved["id"]), saved["type"], saved.get("mode", 0), title, inputs, outputs, values)


@dataclass(frozen=True)
class Graph:
    """The nodes and links of a graph, or of the definition of a subgraph."""

    nodes: dict[str, EditorNode]
    links: dict[str, Link]
    inputs: tuple[str, ...]  # names of the inputs of a subgraph
    input_links: tuple[tuple[str, ...], ...]  # what each of them leads to, the first one first

    @classmethod
    def read(cls, saved: Mapping[str, Any]) -> Graph:
        nodes = {str(node["id"]): EditorNode.read(node) for node in saved["nodes"]}
        links = dict(_read_link(link) for link in saved.get("links") or ())
        inputs = saved.get("inputs") or ()
        leading = tuple(tuple(map(str, each.get("linkIds") or ())) for each in inputs)
        return cls(nodes, links, tuple(each["name"] for each in inputs), leading)

    def inside_of(self, output: int) -> Slot | None:
        """What an output of a subgraph shows."""
        wanted = Slot(_OUTPUTS, output)
        return next((link.source for link in self.links.values() if link.target == wanted), None)


def _id(value: Any) -> str | None:
    return None if value is None else str(value)


def _read_link(saved: Any) -> tuple[str, Link]:
    if isinstance(saved, dict):  # how newer files and all subgraphs write it
        saved = [saved[key] for key in ("id", "origin_id", "origin_slot", "target_id", "target_slot")]
    number, source, output, target, place = saved[:5]
    return str(number), Link(Slot(str(source), int(output)), Slot(str(target), int(place)))


@dataclass(frozen=True)
class Level:
    """A graph where it stands: the whole one, or a subgraph opened at node `host` of the level above."""

    graph: Graph
    path: tuple[str, ...] = ()
    above: Level | None = None
    host: EditorNode | None = None

    def id_of(self, node: EditorNode) -> str:
        return ":".join((*self.path, node.id))


@dataclass(frozen=True)
class Found:
    """Where an input comes from: a link of the API format, or a value."""

    value: Any


@dataclass
class _Conversion:
    graph: Graph
    subgraphs: dict[str, Graph]
    facts_of: FactsOf
    group_nodes: frozenset[str]
    workflow: Workflow = field(default_factory=dict)

    def all(self) -> Workflow:
        whole = Level(self.graph)
        for level, node in self._nodes(whole):
            self.workflow[level.id_of(node)] = self._converted(level, node)
        if not self.workflow:
            message = "none of its nodes runs: all are notes, muted or bypassed."
            raise WorkflowError([Problem("prompt_no_outputs", message)])
        return self.workflow

    def _nodes(self, level: Level) -> Iterator[tuple[Level, EditorNode]]:
        """The nodes that run, subgraphs opened."""
        for node in level.graph.nodes.values():
            if node.class_type in _VIRTUAL or node.mode in (_MUTED, _BYPASSED):
                continue
            if node.class_type in self.subgraphs:
                yield from self._nodes(self._opened(level, node))
            else:
                yield level, node

    def _opened(self, level: Level, node: EditorNode) -> Level:
        if len(level.path) == _DEEPEST:
            raise _problem(level, node, "dependency_cycle", f"subgraphs lie more than {_DEEPEST} deep in each other.")
        return Level(self.subgraphs[node.class_type], (*level.path, node.id), level, node)

    def _converted(self, level: Level, node: EditorNode) -> dict[str, Any]:
        facts = self._facts(level, node)
        values = _widget_values(node, facts)
        for widget in facts.widgets:
            value = values.get(widget.name)
            if widget.is_number and isinstance(value, str) and not _is_number(value):
                message = f"{value!r} is saved for a number: the widgets of this node are not all listed. {_EXPORT}"
                raise _problem(level, node, "invalid_input_type", message, widget.name)
        inputs = {name: _no_link(value) for name, value in values.items()}
        for number, slot in enumerate(node.inputs):
            found = self._source(level, node, number, slot.kind, set())
            if found is not None:
                inputs[slot.name] = found.value
        return {
            "class_type": node.class_type,
            "inputs": inputs,
            "_meta": {"title": node.title or facts.display_name},
        }

    def _facts(self, level: Level, node: EditorNode) -> NodeFacts:
        facts = self.facts_of(node.class_type)
        if facts is not None:
            return facts
        if node.class_type in self.group_nodes:
            hint = "It is a group node: convert it to a subgraph in the editor."
        else:
            hint = f"Use a ComfyUI that has it (--on). {_EXPORT}"
        message = f"what its widgets are called is not known here. {hint}"
        raise _problem(level, node, "missing_node_type", message)

    def _source(self, level: Level, node: EditorNode, number: int, kind: str, seen: set[Any]) -> Found | None:
        """Where input `number` comes from; None where its widget, or nothing, says what it is."""
        self._once((*level.path, node.id, number), level, node, seen)
        slot = node.inputs[number]
        if slot.link is None:
            return None
        link = level.graph.links.get(slot.link)
        if link is None:
            raise _problem(level, node, "bad_linked_input", f"there is no link {slot.link}.", slot.name)
        return self._followed(level, node, link.source, kind, seen)

    def _followed(self, level: Level, node: EditorNode, source: Slot, kind: str, seen: set[Any]) -> Found | None:
        """What comes from `source`, an output on this level or an input of the subgraph that this level is."""
        if source.node == _INPUTS and level.above is not None and level.host is not None:
            if not 0 <= source.number < len(level.graph.inputs):
                message = f"its subgraph has no input {source.number}."
                raise _problem(level, node, "bad_linked_input", message)
            name = level.graph.inputs[source.number]
            place = next((i for i, each in enumerate(level.host.inputs) if each.name == name), None)
            if place is None or level.host.inputs[place].link is None:
                return self._widget_behind(level, source)
            return self._source(level.above, level.host, place, kind, seen)
        if source.node not in level.graph.nodes:
            raise _problem(level, node, "bad_linked_input", f"it is linked to node {source.node}, which is not there.")
        return self._output(level, level.graph.nodes[source.node], source.number, kind, seen)

    def _widget_behind(self, level: Level, end: Slot) -> Found | None:
        """The value that a subgraph's input has where nothing is linked to it: that of the first widget it leads to."""
        leading = level.graph.input_links[end.number] if 0 <= end.number < len(level.graph.inputs) else ()
        for link in (level.graph.links.get(each) for each in leading):
            node = level.graph.nodes.get(link.target.node) if link else None
            if link is None or node is None or link.target.number >= len(node.inputs):
                continue
            slot = node.inputs[link.target.number]
            if node.class_type in self.subgraphs:
                inner = self._opened(level, node)
                names = inner.graph.inputs
                number = names.index(slot.name) if slot.name in names else -1
                found = self._widget_behind(inner, Slot(_INPUTS, number))
            else:
                values = _widget_values(node, self._facts(level, node)) if slot.is_widget else {}
                found = Found(_no_link(values[slot.name])) if slot.name in values else None
            if found is not None:
                return found
        return None

    def _output(self, level: Level, node: EditorNode, number: int, kind: str, seen: set[Any]) -> Found | None:
        """What output `number` of a node gives to an input of type `kind`."""
        if node.mode == _MUTED:
            return None
        if node.mode == _BYPASSED:
            place = _passed_through(node, number, kind)
            return None if place is None else self._source(level, node, place, node.inputs[place].kind, seen)
        if node.class_type == _PRIMITIVE:
            return Found(_no_link(node.values[0])) if isinstance(node.values, list) and node.values else None
        if node.class_type == _REROUTE:
            return self._source(level, node, 0, kind, seen) if node.inputs else None
        if node.class_type in self.subgraphs:
            inner = self._opened(level, node)
            source = inner.graph.inside_of(number)
            return None if source is None else self._followed(inner, node, source, kind, seen)
        return Found([level.id_of(node), number])

    def _once(self, place: Any, level: Level, node: EditorNode, seen: set[Any]) -> None:
        if place in seen:
            raise _problem(level, node, "dependency_cycle", "its inputs come from itself.")
        seen.add(place)


def _problem(level: Level, node: EditorNode, kind: str, message: str, input_name: str = "") -> WorkflowError:
    return WorkflowError([Problem(kind, message, level.id_of(node), node.class_type, input_name)])


def _widget_values(node: EditorNode, facts: NodeFacts) -> dict[str, Any]:
    """The values of a node's widgets by name; what was not saved has its default."""
    if isinstance(node.values, dict):  # some nodes save them by name, and widgets that no list has
        drawn = [slot.name for slot in node.inputs if slot.is_widget]
        defaults = {widget.name: widget.default for widget in facts.widgets if widget.name}
        return {**defaults, **{name: node.values[name] for name in [*defaults, *drawn] if name in node.values}}
    if node.class_type == _OWN_CHOICES and len(node.values) > 1:
        choice, _, *options = node.values
        place = options.index(choice) if choice in options else -1
        return {"choice": choice, "index": place, **{f"option{n}": each for n, each in enumerate(options, 1)}}
    return dict(_named(facts.widgets, iter(node.values)))


def _named(widgets: tuple[Widget, ...], saved: Iterator[Any]) -> Iterator[tuple[str, Any]]:
    for widget in widgets:
        value = next(saved, widget.default) if widget.saved else widget.default
        if widget.name:
            yield widget.name, value
        if widget.more and isinstance(value, str):
            yield from _named(widget.more.get(value, ()), saved)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _no_link(value: Any) -> Any:
    """A list is written so that it is not taken for a link."""
    return {"__value__": value} if isinstance(value, list) else value


def _passed_through(node: EditorNode, number: int, kind: str) -> int | None:
    """Which input stands for output `number` of a bypassed node, as the editor chooses it."""
    kinds = [slot.kind for slot in node.inputs]
    if kind in ("*", ""):
        return (number if number < len(kinds) else 0) if kinds else None
    given = node.outputs[number] if number < len(node.outputs) else "*"
    fitting = [place for place, each in enumerate(kinds) if _fit(each, given) and _fit(each, kind)]
    if number in fitting:
        return number
    return kinds.index(kind) if kind in kinds else next(iter(fitting), None)


def _fit(one: str, other: str) -> bool:
    """Whether a link may join the types; "A,B" is either, "*" is any."""
    kinds = set(one.upper().split(",")), set(other.upper().split(","))
    return "*" in kinds[0] | kinds[1] or not kinds[0].isdisjoint(kinds[1])


def is_editor_graph(value: Any) -> bool:
    """Whether a JSON value looks like a graph of the editor rather than the API format."""
    return isinstance(value, dict) and isinstance(value.get("nodes"), list)


def to_api(graph: Mapping[str, Any], facts_of: FactsOf) -> Workflow:
    """What the editor would send for `graph`, the JSON that it saves. Raises `WorkflowError`."""
    try:
        definitions = (graph.get("definitions") or {}).get("subgraphs") or ()
        subgraphs = {str(each["id"]): Graph.read(each) for each in definitions}
        names = ((graph.get("extra") or {}).get("groupNodes") or {}).keys()
        group_nodes = frozenset(f"workflow{sign}{name}" for name in names for sign in "/>")
        whole = Graph.read(graph)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        message = f"it looks like the editor's format, but is not whole ({what}). Save it again in the editor."
        raise WorkflowError([Problem("invalid_prompt", message)]) from error
    return _Conversion(whole, subgraphs, facts_of, group_nodes).all()
