"""The embedded host: what it refuses, in which order it runs, what it keeps, and how it stops."""

import json
import os
import signal
import sys
import weakref
from pathlib import Path
from typing import ClassVar

import pytest

from tokenreel.host import files, resources
from tokenreel.host import standalone as io
from tokenreel.host import standalone_ui as ui
from tokenreel.host.runner import NodeError, run_workflow
from tokenreel.host.workflow import WorkflowError, load_workflow

runs: list[str] = []
Box = io.Custom("TEST_BOX")


class Payload:
    """Something that can be seen to be freed."""

    alive: ClassVar[weakref.WeakSet] = weakref.WeakSet()

    def __init__(self, value):
        self.value = value
        self.alive.add(self)


class Source(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Source",
            display_name="Make Number",
            inputs=[
                io.Int.Input("value", default=1, min=0, max=10),
                io.Float.Input("scale", default=1.0, min=0.0, max=2.0, optional=True),
                io.Combo.Input("mode", options=["plain", "loud"], default="plain", optional=True),
                io.Boolean.Input("flag", default=False, optional=True),
            ],
            outputs=[Box.Output("box"), io.Int.Output("value")],
        )

    @classmethod
    def execute(cls, value, scale=1.0, mode="plain", flag=False):
        runs.append(f"Source {value} {scale} {mode} {flag}")
        return io.NodeOutput(Payload(value * scale), value)


class Join(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Join",
            inputs=[Box.Input("a"), Box.Input("b", optional=True)],
            outputs=[Box.Output()],
        )

    @classmethod
    def execute(cls, a, b=None):
        runs.append(f"Join, {len(Payload.alive)} alive")
        return io.NodeOutput(Payload(a.value + (b.value if b else 0)))


class Show(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Show",
            inputs=[Box.Input("box"), io.String.Input("note", default="", optional=True)],
            outputs=[io.Float.Output()],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, note=""):
        return True if note != "bad" else "note must not be bad"

    @classmethod
    def execute(cls, box, note=""):
        text = f"{cls.hidden.unique_id}: {box.value:g} {note}".strip()
        assert cls.hidden.prompt is not None and cls.hidden.extra_pnginfo is None
        return io.NodeOutput(box.value, ui=ui.PreviewText(text))


class Broken(io.ComfyNode):
    error: BaseException = ValueError("frame 3 is bad.\nFix: use another clip.")

    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="Broken", inputs=[Box.Input("box")], outputs=[Box.Output()])

    @classmethod
    def execute(cls, box):
        Path(files.temp_path(".part")).write_text("half")
        raise cls.error


class Interrupted(io.ComfyNode):
    seen: str = ""

    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="Interrupted", inputs=[Box.Input("box")], outputs=[Box.Output()])

    @classmethod
    def execute(cls, box):
        Interrupted.seen = files.temp_dir()
        Path(files.temp_path(".part")).write_text("half")
        with resources.progress(100, "work") as progress:
            for step in range(100):
                if step == 3:
                    os.kill(os.getpid(), signal.SIGINT)
                runs.append(f"step {step}")
                progress.update()
        return io.NodeOutput(box)


NODES = {cls.__name__: cls for cls in (Source, Join, Show, Broken, Interrupted)}


@pytest.fixture(autouse=True)
def fresh():
    runs.clear()
    Payload.alive.clear()


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def two_nodes(**inputs):
    return {"1": node("Source", **{"value": 2, **inputs}), "2": node("Show", box=["1", 0])}


def problems(workflow, **options):
    with pytest.raises(WorkflowError) as caught:
        run_workflow(workflow, NODES, **options)
    assert runs == []
    assert "\n" not in str(caught.value)
    return [(problem.type, problem.node_id, problem.input_name) for problem in caught.value.problems]


def test_runs_sources_first_and_only_what_is_needed(tmp_path):
    workflow = {
        "9": node("Show", box=["5", 0], note="sum"),
        "5": node("Join", a=["1", 0], b=["2", 0]),
        "1": node("Source", value=2),
        "2": node("Source", value=3, scale=0.5, mode="loud", flag=True),
        "3": node("Source", value=7),
    }
    events = []
    result = run_workflow(workflow, NODES, output_dir=tmp_path, keep=["9"], on_node=events.append)
    assert runs[:2] == ["Source 2 1.0 plain False", "Source 3 0.5 loud True"]
    assert result.texts == {"9": "9: 3.5 sum"}
    assert result.values == {"9": (3.5,)}
    assert [event.node_id for event in events if event.seconds is None] == ["1", "2", "5", "9"]
    assert events[0].display_name == "Make Number" and events[0].total == 4
    assert result.seconds.keys() == {"1", "2", "5", "9"}
    assert list(tmp_path.iterdir()) == []


def test_equal_nodes_run_once():
    workflow = {
        "1": node("Source", value=2),
        "2": node("Source", value=2),
        "3": node("Join", a=["1", 0], b=["2", 0]),
        "4": node("Join", a=["2", 0], b=["1", 0]),
        "5": node("Show", box=["3", 0]),
        "6": node("Show", box=["4", 0], note="too"),
    }
    cached = []
    result = run_workflow(workflow, NODES, on_node=lambda event: event.cached and cached.append(event.node_id))
    assert [run.split()[0] for run in runs] == ["Source", "Join,"]
    assert result.texts == {"5": "5: 4", "6": "6: 4 too"}
    assert cached == ["2", "4"]


def test_not_idempotent_nodes_each_run(monkeypatch):
    schema = Source.define_schema()
    schema.not_idempotent = True
    monkeypatch.setattr(Source, "define_schema", classmethod(lambda cls: schema))
    workflow = {
        "1": node("Source", value=2),
        "2": node("Source", value=2),
        "3": node("Join", a=["1", 0], b=["2", 0]),
        "4": node("Show", box=["3", 0]),
    }
    run_workflow(workflow, NODES)
    assert [run.split()[0] for run in runs] == ["Source", "Source", "Join,"]


def test_outputs_are_freed_when_nothing_reads_them_any_more():
    workflow = {"0": node("Source", value=1)}
    for index in range(1, 6):
        workflow[str(index)] = node("Join", a=[str(index - 1), 0])
    workflow["show"] = node("Show", box=["5", 0])
    run_workflow(workflow, NODES)
    assert runs[1:] == ["Join, 1 alive"] * 5
    assert len(Payload.alive) == 0


def test_a_long_chain_does_not_hit_the_recursion_limit():
    length = sys.getrecursionlimit() + 100
    workflow = {"0": node("Source", value=1)}
    for index in range(1, length):
        workflow[str(index)] = node("Join", a=[str(index - 1), 0])
    workflow["show"] = node("Show", box=[str(length - 1), 0])
    assert run_workflow(workflow, NODES).texts == {"show": "show: 1"}


@pytest.mark.parametrize(
    ("workflow", "expected"),
    [
        ({"1": node("Show")}, [("required_input_missing", "1", "box")]),
        (two_nodes(value=11), [("value_bigger_than_max", "1", "value")]),
        (two_nodes(value=-1), [("value_smaller_than_min", "1", "value")]),
        (two_nodes(value="two"), [("invalid_input_type", "1", "value")]),
        (two_nodes(value=2.5), [("invalid_input_type", "1", "value")]),
        (two_nodes(value=None), [("invalid_input_type", "1", "value")]),
        (two_nodes(scale=float("nan")), [("invalid_input_type", "1", "scale")]),
        (two_nodes(scale=float("inf")), [("invalid_input_type", "1", "scale")]),
        (two_nodes(flag="maybe"), [("invalid_input_type", "1", "flag")]),
        (two_nodes(mode="quiet"), [("value_not_in_list", "1", "mode")]),
        (two_nodes(valeu=1), [("unknown_input", "1", "valeu")]),
        (two_nodes(value=["7", 0]), [("bad_linked_input", "1", "value")]),
        (two_nodes(value=["2", 1]), [("dependency_cycle", "2", "")]),
        ({"1": node("Source", value=1), "2": node("Show", box=["1", 1])}, [("return_type_mismatch", "2", "box")]),
        ({"1": node("Source", value=1), "2": node("Show", box=["1", 2])}, [("bad_linked_input", "2", "box")]),
        ({"1": node("Source", value=1), "2": node("Show", box=["1"])}, [("bad_linked_input", "2", "box")]),
        ({"1": node("Source", value=1), "2": node("Show", box="x")}, [("invalid_input_type", "2", "box")]),
        ({"1": node("Sorce", value=1)}, [("missing_node_type", "1", "")]),
        ({"1": {"inputs": {}}}, [("missing_node_type", "1", "")]),
        ({"1": {"class_type": "Source"}}, [("invalid_prompt", "1", "")]),
        ({"1": node("Source", value=1)}, [("prompt_no_outputs", "", "")]),
        ({}, [("invalid_prompt", "", "")]),
        ({"nodes": [], "links": []}, [("invalid_prompt", "", "")]),
        (
            {**two_nodes(value=11, mode="x"), "2": node("Show", box=["1", 0], note="bad")},
            [
                ("value_bigger_than_max", "1", "value"),
                ("value_not_in_list", "1", "mode"),
                ("custom_validation_failed", "2", "note"),
            ],
        ),
    ],
)
def test_refused_before_anything_runs(workflow, expected):
    assert problems(workflow) == expected


@pytest.mark.parametrize(
    ("workflow", "message"),
    [
        (two_nodes(value=11), r"^node 1 \(Source\), input value: 11 is bigger than the most, 10\.$"),
        (two_nodes(mode="x"), r"'x' is not one of: plain, loud\."),
        (two_nodes(valeu=1), r"Did you mean value\?"),
        ({"1": node("Sorce", value=1)}, r"no such node\. Did you mean Source\?"),
        ({"nodes": []}, "editor's format. Turn it into the API format with: tokenreel export"),
        (two_nodes(value=11, scale=3), r"\(and 1 more\)$"),
        (two_nodes(value=["2", 0]), r"its inputs come from itself: 2 -> 1 -> 2"),
    ],
)
def test_messages_say_what_to_do(workflow, message):
    with pytest.raises(WorkflowError, match=message):
        run_workflow(workflow, NODES)


def test_values_are_brought_to_the_type_of_their_input():
    workflow = two_nodes(value="3", scale=1, mode={"__value__": "loud"}, flag="false")
    run_workflow(workflow, NODES)
    assert runs == ["Source 3 1.0 loud False"]
    assert workflow["1"]["inputs"]["value"] == "3", "the caller's workflow was changed"


def test_a_nodes_error_is_one_line_with_its_id_and_class():
    workflow = {**two_nodes(), "b": node("Broken", box=["1", 0]), "2": node("Show", box=["b", 0])}
    with pytest.raises(NodeError, match=r"^node b \(Broken\): frame 3 is bad\. Fix: use another clip\.$") as caught:
        run_workflow(workflow, NODES)
    assert caught.value.__cause__ is Broken.error
    assert (caught.value.node_id, caught.value.class_type) == ("b", "Broken")


def test_an_error_without_text_is_named_by_its_kind(monkeypatch):
    monkeypatch.setattr(Broken, "error", MemoryError())
    workflow = {"1": node("Source", value=1), "b": node("Broken", box=["1", 0]), "2": node("Show", box=["b", 0])}
    with pytest.raises(NodeError, match=r"node b \(Broken\): MemoryError$"):
        run_workflow(workflow, NODES)


def test_a_node_that_gives_too_few_outputs_is_an_error(monkeypatch):
    monkeypatch.setattr(Source, "execute", classmethod(lambda cls, value: io.NodeOutput(value)))
    with pytest.raises(NodeError, match=r"it gave 1 outputs, its schema says 2"):
        run_workflow(two_nodes(), NODES)


def test_an_error_in_validate_inputs_is_a_problem(monkeypatch):
    def validate_inputs(cls, value):
        raise KeyError("lost")

    monkeypatch.setattr(Source, "validate_inputs", classmethod(validate_inputs), raising=False)
    assert problems(two_nodes()) == [("exception_during_validation", "1", "")]


def test_naming_an_input_in_validate_inputs_replaces_the_check_of_its_limits(monkeypatch):
    monkeypatch.setattr(Source, "validate_inputs", classmethod(lambda cls, value: True), raising=False)
    assert run_workflow(two_nodes(value=11), NODES).texts == {"2": "2: 11"}


def test_ctrl_c_cancels_and_removes_temp_files():
    before = signal.getsignal(signal.SIGINT)
    workflow = {"1": node("Source", value=1), "b": node("Interrupted", box=["1", 0]), "2": node("Show", box=["b", 0])}
    with pytest.raises(resources.Cancelled):
        run_workflow(workflow, NODES)
    assert runs[-1] == "step 3"
    assert not os.path.exists(Interrupted.seen)
    assert signal.getsignal(signal.SIGINT) is before
    assert run_workflow(two_nodes(), NODES).texts == {"2": "2: 2"}, "the next run must not be cancelled"


@pytest.mark.parametrize(
    ("override", "run"),
    [
        ("1.value=7", "Source 7 1.0 plain False"),
        ("Source.scale=0.25", "Source 2 0.25 plain False"),
        ("Numbers.mode=loud", "Source 2 1.0 loud False"),
        ("1.flag=true", "Source 2 1.0 plain True"),
    ],
)
def test_overrides_are_typed_by_the_schema(override, run):
    workflow = two_nodes()
    workflow["1"]["_meta"] = {"title": "Numbers"}
    run_workflow(workflow, NODES, overrides=[override])
    assert runs == [run]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("1.value", r"Write NODE\.INPUT=VALUE"),
        ("value=3", r"Write NODE\.INPUT=VALUE"),
        ("7.value=3", r"no single node '7': its nodes are 1, 2"),
        ("1.valeu=3", r"input valeu: the node has no such input\. Did you mean value\?"),
        ("1.value=x", r"'x' is not a whole number"),
        ("2.box=3", r"it is a TEST_BOX socket"),
        ("1.value=99", r"99 is bigger than the most, 10"),
    ],
)
def test_wrong_overrides(override, message):
    with pytest.raises(WorkflowError, match=message):
        run_workflow(two_nodes(), NODES, overrides=[override])


def test_load_workflow(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(two_nodes()))
    assert load_workflow(path) == two_nodes()
    path.write_text("{")
    with pytest.raises(WorkflowError, match=r"a\.json is not JSON"):
        load_workflow(path)
    path.write_text('{"nodes": [], "links": []}')
    with pytest.raises(WorkflowError, match="editor's format"):
        load_workflow(path)
