"""The editor's format as the API format: every part of it, and what cannot be told."""

import copy
import json
from pathlib import Path

import pytest

from tokenreel.host.builtin_nodes import BUILTIN_NODES
from tokenreel.host.editor_graph import to_api
from tokenreel.host.node_facts import NodeFacts, Widget, facts_of_classes, facts_of_server
from tokenreel.host.workflow import WorkflowError, load_workflow, save_workflow

FACTS = {
    "Source": NodeFacts("Make Numbers", (Widget("count", 4), Widget("seed", 0), Widget(""), Widget("mode", "a"))),
    "Both": NodeFacts("Take Both", (Widget("factor", 1.5),)),
    "Show": NodeFacts("Show", ()),
    "Choose": NodeFacts(
        "Choose",
        (
            Widget("how", "plain", {"plain": (), "sized": (Widget("how.width", 8), Widget("how.height", 8))}),
            Widget("name", "x"),
        ),
    ),
}


def node(number, kind, inputs=(), outputs=(), values=(), mode=0, **more):
    """As the editor saves it; `inputs` are (name, type, link), with a fourth where a widget stands behind it."""
    slots = [{"name": name, "type": type, "link": link} for name, type, link, *_ in inputs]
    for slot, (*_, widget) in zip(slots, ((*each, None)[:4] for each in inputs), strict=True):
        if widget:
            slot["widget"] = {"name": widget}
    given = [{"name": type, "type": type, "links": []} for type in outputs]
    saved = {"id": number, "type": kind, "mode": mode, "inputs": slots, "outputs": given}
    return {**saved, "widgets_values": values if isinstance(values, dict) else list(values), **more}


def graph(nodes, links=(), **more):
    return {"nodes": nodes, "links": [[*link, "*"] for link in links], "version": 0.4, **more}


def source(number=1, mode=0, values=(9, 7, "fixed", "b")):
    return node(number, "Source", outputs=["NUMBER", "STRING"], values=values, mode=mode)


def show(number, link):
    return node(number, "Show", [("it", "NUMBER", link)])


def converted(*parts, **more):
    return to_api(graph(*parts, **more), FACTS.get)


class TestWidgets:
    def test_values_are_named_in_order_and_the_fate_of_a_seed_has_no_name(self):
        assert converted([source()]) == {
            "1": {
                "class_type": "Source",
                "inputs": {"count": 9, "seed": 7, "mode": "b"},
                "_meta": {"title": "Make Numbers"},
            }
        }

    def test_what_an_older_file_does_not_have_has_its_default(self):
        assert converted([source(values=[9])])["1"]["inputs"] == {"count": 9, "seed": 0, "mode": "a"}

    def test_what_buttons_saved_is_left_out(self):
        assert converted([source(values=[9, 7, "fixed", "b", "image"])])["1"]["inputs"]["mode"] == "b"

    def test_a_list_is_no_link(self):
        assert converted([source(values=[[1, 2]])])["1"]["inputs"]["count"] == {"__value__": [1, 2]}

    def test_values_by_name_may_be_more_than_are_listed(self):
        saved = source(values={"mode": "b", "crf": 19, "preview": {}})
        saved["inputs"] = [{"name": "crf", "type": "INT", "link": None, "widget": {"name": "crf"}}]
        assert converted([saved])["1"]["inputs"] == {"count": 4, "seed": 0, "mode": "b", "crf": 19}

    @pytest.mark.parametrize(
        ("values", "inputs"),
        [
            (["plain", "y"], {"how": "plain", "name": "y"}),
            (["sized", 3, 5, "y"], {"how": "sized", "how.width": 3, "how.height": 5, "name": "y"}),
            (["gone", "y"], {"how": "gone", "name": "y"}),
            ([], {"how": "plain", "name": "x"}),
        ],
    )
    def test_a_choice_brings_inputs_of_its_own(self, values, inputs):
        assert converted([node(1, "Choose", values=values)])["1"]["inputs"] == inputs

    def test_choices_that_are_written_at_the_node(self):
        facts = {"CustomCombo": NodeFacts("Custom Combo", (Widget("choice"),))}
        saved = node(1, "CustomCombo", values=["b", 7, "a", "b", ""])
        inputs = to_api(graph([saved]), facts.get)["1"]["inputs"]
        assert inputs == {"choice": "b", "index": 1, "option1": "a", "option2": "b", "option3": ""}
        saved["widgets_values"] = ["c", 0, "a"]
        assert to_api(graph([saved]), facts.get)["1"]["inputs"]["index"] == -1

    def test_a_value_that_no_file_has(self):
        facts = {"Compare": NodeFacts("Compare", (Widget("view", ["", ""], saved=False), Widget("side", "left")))}
        inputs = to_api(graph([node(1, "Compare", values=["right"])]), facts.get)["1"]["inputs"]
        assert inputs == {"view": {"__value__": ["", ""]}, "side": "right"}

    def test_a_title_is_kept(self):
        assert converted([{**source(), "title": "mine"}])["1"]["_meta"] == {"title": "mine"}

    def test_a_link_goes_before_the_widget_behind_it(self):
        both = node(2, "Both", [("factor", "FLOAT", 1, "factor")], values=[2.5])
        assert converted([source(), both], [(1, 1, 0, 2, 0)])["2"]["inputs"] == {"factor": ["1", 0]}


class TestWhatDoesNotRun:
    def test_notes_are_left_out(self):
        found = converted([source(), node(2, "Note", values=["a"]), node(3, "MarkdownNote", values=["b"])])
        assert list(found) == ["1"]

    def test_links_to_what_is_muted_are_left_out(self):
        found = converted([source(mode=2), show(2, 1)], [(1, 1, 0, 2, 0)])
        assert found == {"2": {"class_type": "Show", "inputs": {}, "_meta": {"title": "Show"}}}

    def test_a_widget_says_it_where_what_feeds_it_is_muted(self):
        both = node(2, "Both", [("factor", "FLOAT", 1, "factor")], values=[2.5])
        assert converted([source(mode=2), both], [(1, 1, 0, 2, 0)])["2"]["inputs"] == {"factor": 2.5}

    @pytest.mark.parametrize(
        ("inputs", "output", "wanted", "expected"),
        [
            (["NUMBER", "STRING"], 0, "NUMBER", ["1", 0]),
            (["STRING", "NUMBER"], 0, "NUMBER", ["1", 0]),  # the first input of the same type
            (["NUMBER", "NUMBER"], 1, "NUMBER", ["3", 0]),  # the input of the same place is asked first
            (["STRING", "STRING"], 0, "NUMBER", None),
            (["NUMBER,STRING", "MASK"], 1, "NUMBER", ["1", 0]),
            (["STRING", "NUMBER"], 1, "*", ["1", 0]),
            (["NUMBER"], 1, "*", ["1", 0]),
            ([], 0, "*", None),
        ],
    )
    def test_what_is_bypassed_is_passed_through(self, inputs, output, wanted, expected):
        """Links 1 and 2 come from nodes 1 and 3; NUMBER inputs take the link that their place says."""
        numbers = iter([1, 2])
        slots = [(f"in{i}", kind, next(numbers) if "NUMBER" in kind else None) for i, kind in enumerate(inputs)]
        past = node(2, "Both", slots, ["NUMBER", "NUMBER"], mode=4)
        last = node(4, "Show", [("it", wanted, 9)])
        places = [i for i, kind in enumerate(inputs) if "NUMBER" in kind]
        links = [(i + 1, origin, 0, 2, place) for i, (origin, place) in enumerate(zip((1, 3), places, strict=False))]
        found = converted([source(1), past, source(3), last], [*links, (9, 2, output, 4, 0)])
        assert set(found) == {"1", "3", "4"} and found["4"]["inputs"].get("it") == expected

    @pytest.mark.parametrize("mode", [2, 4])
    def test_nothing_that_runs(self, mode):
        with pytest.raises(WorkflowError, match="none of its nodes runs"):
            converted([source(mode=mode), node(2, "Note")])


class TestVirtualNodes:
    def test_reroutes_are_seen_through(self):
        first, second = (node(n, "Reroute", [("", "*", link)], ["*"]) for n, link in ((2, 1), (3, 2)))
        found = converted([source(), first, second, show(4, 3)], [(1, 1, 1, 2, 0), (2, 2, 0, 3, 0), (3, 3, 0, 4, 0)])
        assert found["4"]["inputs"] == {"it": ["1", 1]} and set(found) == {"1", "4"}

    def test_a_reroute_of_nothing(self):
        found = converted([node(2, "Reroute", [("", "*", None)], ["*"]), show(4, 3)], [(3, 2, 0, 4, 0)])
        assert found["4"]["inputs"] == {}

    def test_a_primitive_is_its_value(self):
        primitive = node(1, "PrimitiveNode", outputs=["FLOAT"], values=[3.5, "fixed"])
        both = node(2, "Both", [("factor", "FLOAT", 1, "factor")], values=[2.5])
        found = converted([primitive, both], [(1, 1, 0, 2, 0)])
        assert list(found) == ["2"] and found["2"]["inputs"] == {"factor": 3.5}


def definition(id, nodes, links, inputs=(), outputs=()):
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    return {
        "id": id,
        "nodes": nodes,
        "links": [{**dict(zip(keys, link, strict=True)), "type": "*"} for link in links],
        "inputs": [
            {"name": name, "type": "NUMBER", "linkIds": [link[0] for link in links if link[1:3] == (-10, number)]}
            for number, name in enumerate(inputs)
        ],
        "outputs": [{"name": name, "type": "NUMBER"} for name in outputs],
        "inputNode": {"id": -10},
        "outputNode": {"id": -20},
    }


INNER = definition(
    "inner-id",
    [node(5, "Both", [("a", "NUMBER", 1), ("factor", "FLOAT", 2, "factor")], ["NUMBER"], [0.5])],
    [(1, -10, 0, 5, 0), (2, -10, 1, 5, 1), (3, 5, 0, -20, 0)],
    ["a", "factor"],
    ["made"],
)
OUTER = definition(
    "outer-id",
    [
        node(8, "inner-id", [("a", "NUMBER", 1), ("factor", "FLOAT", None, "factor")], ["NUMBER"]),
        node(9, "Both", [("a", "NUMBER", 2)], ["NUMBER"], [4.0]),
    ],
    [(1, -10, 0, 8, 0), (2, 8, 0, 9, 0), (3, 9, 0, -20, 0), (4, -10, 0, -20, 1)],
    ["a"],
    ["made", "as it was"],
)


class TestSubgraphs:
    def around(self, mode=0, inputs=(("a", "NUMBER", 1),)):
        """Source 1 -> subgraph 7 (which has another one inside) -> two that show what comes out."""
        nodes = [source(), node(7, "outer-id", inputs, ["NUMBER", "NUMBER"], mode=mode), show(2, 2), show(3, 3)]
        links = [(1, 1, 0, 7, 0), (2, 7, 0, 2, 0), (3, 7, 1, 3, 0)]
        return converted(nodes, links, definitions={"subgraphs": [OUTER, INNER]})

    def test_are_opened(self):
        found = self.around()
        assert {key: each["class_type"] for key, each in found.items()} == {
            "1": "Source",
            "7:8:5": "Both",
            "7:9": "Both",
            "2": "Show",
            "3": "Show",
        }
        assert found["7:8:5"]["inputs"] == {"factor": 0.5, "a": ["1", 0]}  # the widget's own value: nothing is linked
        assert found["7:9"]["inputs"] == {"factor": 4.0, "a": ["7:8:5", 0]}
        assert found["2"]["inputs"] == {"it": ["7:9", 0]}
        assert found["3"]["inputs"] == {"it": ["1", 0]}  # passed through

    def test_inputs_are_found_by_their_names(self):
        found = self.around(inputs=[("old", "NUMBER", None), ("a", "NUMBER", 1)])
        assert found["7:8:5"]["inputs"]["a"] == ["1", 0]
        assert "a" not in self.around(inputs=[])["7:8:5"]["inputs"]

    def test_an_input_that_is_not_linked_has_the_value_of_its_widget_for_all(self):
        """Also for those that have no widget of their own, and through another subgraph."""
        outer = copy.deepcopy(OUTER)
        outer["nodes"] += [show(3, 5), node(4, "Both", [("factor", "FLOAT", 6, "factor")], values=[9.5])]
        outer["nodes"][0]["inputs"][1]["link"] = 7
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
        ends = [(5, -10, 1, 3, 0), (7, -10, 1, 8, 1), (6, -10, 1, 4, 0)]
        outer["links"] += [dict(zip(keys, end, strict=True)) for end in ends]
        outer["inputs"].append({"name": "factor", "type": "FLOAT", "linkIds": [5, 7, 6]})
        found = converted([node(7, "outer-id")], definitions={"subgraphs": [outer, INNER]})
        assert found["7:3"]["inputs"] == {"it": 0.5}  # of 7:8:5, the first that is reached
        assert found["7:8:5"]["inputs"] == {"factor": 0.5} and found["7:4"]["inputs"] == {"factor": 0.5}
        outer["inputs"][-1]["linkIds"] = [5, 6, 7]
        found = converted([node(7, "outer-id")], definitions={"subgraphs": [outer, INNER]})
        assert found["7:3"]["inputs"] == {"it": 9.5} and found["7:8:5"]["inputs"] == {"factor": 9.5}

    def test_one_definition_may_stand_twice(self):
        nodes = [source(), *(node(n, "inner-id", [("a", "NUMBER", n)], ["NUMBER"]) for n in (7, 8))]
        links = [(7, 1, 0, 7, 0), (8, 7, 0, 8, 0)]
        found = converted(nodes, links, definitions={"subgraphs": [INNER]})
        assert found["7:5"]["inputs"]["a"] == ["1", 0] and found["8:5"]["inputs"]["a"] == ["7:5", 0]

    @pytest.mark.parametrize(("mode", "expected"), [(2, {}), (4, {"it": ["1", 0]})])
    def test_muted_and_bypassed_as_a_whole(self, mode, expected):
        found = self.around(mode=mode)
        assert set(found) == {"1", "2", "3"} and found["2"]["inputs"] == found["3"]["inputs"] == expected

    def test_one_inside_itself_is_refused(self):
        inside = definition("inner-id", [node(5, "inner-id")], [])
        with pytest.raises(WorkflowError, match=r"\(inner-id\): subgraphs lie more than 32 deep"):
            converted([node(1, "inner-id")], definitions={"subgraphs": [inside]})


class TestRefused:
    def test_a_class_that_is_not_known(self):
        with pytest.raises(WorkflowError, match=r"^node 3 \(SetNode\): what its widgets are called is not known.*--on"):
            converted([source(), node(3, "SetNode")])

    def test_values_that_are_not_in_the_order_of_the_widgets(self):
        """A viewer of the editor has widgets of its own between the others."""
        facts = {"Load3D": NodeFacts("Load 3D", (Widget("file"), Widget("width", 1024, is_number=True)))}
        match = r"^node 1 \(Load3D\), input width: 'upload' is saved for a number: .*Export \(API\)"
        with pytest.raises(WorkflowError, match=match):
            to_api(graph([node(1, "Load3D", values=["a.glb", "upload", 512])]), facts.get)
        assert to_api(graph([node(1, "Load3D", values=["a.glb", "512"])]), facts.get)["1"]["inputs"]["width"] == "512"

    def test_a_group_node(self):
        with pytest.raises(WorkflowError, match=r"It is a group node: convert it to a subgraph"):
            converted([node(3, "workflow>mine")], extra={"groupNodes": {"mine": {}}})

    def test_a_link_that_is_not_there(self):
        with pytest.raises(WorkflowError, match=r"node 2 \(Show\), input it: there is no link 5"):
            converted([source(), show(2, 5)])

    def test_a_link_from_nowhere(self):
        with pytest.raises(WorkflowError, match="linked to node 8, which is not there"):
            converted([show(2, 1)], [(1, 8, 0, 2, 0)])

    def test_an_input_that_its_subgraph_does_not_have(self):
        inside = definition("inner-id", [show(5, 1)], [(1, -10, 3, 5, 0)], ["a"])
        with pytest.raises(WorkflowError, match=r"^node 7:5 \(Show\): its subgraph has no input 3"):
            converted([node(7, "inner-id", [("a", "NUMBER", None)])], definitions={"subgraphs": [inside]})

    def test_reroutes_in_a_ring(self):
        ring = [node(n, "Reroute", [("", "*", link)], ["*"]) for n, link in ((1, 2), (2, 1))]
        with pytest.raises(WorkflowError, match="its inputs come from itself"):
            converted([*ring, show(3, 3)], [(1, 1, 0, 2, 0), (2, 2, 0, 1, 0), (3, 1, 0, 3, 0)])

    @pytest.mark.parametrize(
        "damage",
        [
            lambda saved: saved["nodes"][0].pop("type"),
            lambda saved: saved["nodes"].append("a node"),
            lambda saved: saved["nodes"][1].update(inputs=[{"type": "A"}]),
            lambda saved: saved["links"].append([1, 2]),
            lambda saved: saved["links"].append([2, 1, "first", 2, 0, "*"]),
            lambda saved: saved.update(links=7),
            lambda saved: saved.update(definitions=["a subgraph"]),
            lambda saved: saved["nodes"][0].update(widgets_values="text"),
            lambda saved: saved.update(definitions={"subgraphs": [{"id": 1}]}),
        ],
    )
    def test_what_is_not_whole(self, damage):
        saved = graph([source(), show(2, 1)], [(1, 1, 0, 2, 0)])
        assert to_api(copy.deepcopy(saved), FACTS.get)["2"]["inputs"] == {"it": ["1", 0]}
        damage(saved)
        with pytest.raises(WorkflowError, match="not whole") as refused:
            to_api(saved, FACTS.get)
        assert "\n" not in str(refused.value)


class TestFacts:
    def test_of_classes(self):
        facts_of = facts_of_classes(BUILTIN_NODES)
        assert facts_of("Gone") is None
        facts = facts_of("CreateVideo")
        assert facts.display_name == "Create Video"
        assert facts.widgets == (Widget("fps", 30.0, is_number=True), Widget("bit_depth", 8, is_number=True))

    def test_of_a_server(self):
        """What is a widget, what has none, and what the editor puts between them."""
        entry = {
            "name": "Node",
            "display_name": "A Node",
            "input": {
                "required": {
                    "model": ["MODEL"],
                    "seed": ["INT", {"default": 3}],
                    "fixed_seed": ["INT", {"control_after_generate": True}],
                    "noise_seed": ["INT", {"control_after_generate": False}],
                    "old": [["x", "y"], {}],
                    "new": ["COMBO", {"options": ["p", "q"], "control_after_generate": True}],
                    "forced": ["STRING", {"forceInput": True}],
                    "view": ["IMAGECOMPARE", {}],
                    "either": ["FLOAT,INT", {"widgetType": "FLOAT", "default": 0.5}],
                    "how": [
                        "COMFY_DYNAMICCOMBO_V3",
                        {"options": [{"key": "a", "inputs": {"required": {"n": ["INT", {}], "im": ["IMAGE"]}}}]},
                    ],
                },
                "optional": {"text": ["STRING"], "on": ["BOOLEAN", {"default": True}]},
                "hidden": {"prompt": "PROMPT"},
            },
            "input_order": {"required": ["seed", "model"], "optional": ["on", "text"]},
        }
        asked = []

        def get(path):
            asked.append(path)
            return {"A B": entry, "Bare": {}} if path in ("/object_info/A%20B", "/object_info/Bare") else {}

        facts_of = facts_of_server(get)
        assert facts_of("Gone") is None and facts_of("A B") is facts_of("A B") and len(asked) == 2
        assert facts_of("Bare") == NodeFacts("Bare", ())
        assert facts_of("A B").display_name == "A Node"
        assert facts_of("A B").widgets == (
            Widget("seed", 3, is_number=True),
            Widget(""),
            Widget("on", True),
            Widget("text", ""),
            Widget("fixed_seed", 0, is_number=True),
            Widget(""),
            Widget("noise_seed", 0, is_number=True),
            Widget("old", "x"),
            Widget("new", "p"),
            Widget(""),
            Widget(""),
            Widget("view", ["", ""], saved=False),
            Widget("either", 0.5, is_number=True),
            Widget("how", "a", {"a": (Widget("how.n", 0, is_number=True),)}),
        )


def test_as_the_editor_itself():
    """A primitive, a Reroute, muted and bypassed nodes, a subgraph in another, twice: as a real editor sent it all."""
    seen = json.loads((Path(__file__).parent / "data" / "editor_graph.json").read_text(encoding="utf-8"))
    listed = seen["object_info"]
    facts_of = facts_of_server(lambda path: {name: listed[name] for name in listed if path.endswith(f"/{name}")})
    assert to_api(seen["graph"], facts_of) == seen["sent"]
    kinds = {node["type"] for node in seen["graph"]["nodes"]}
    modes = {node["mode"] for node in seen["graph"]["nodes"]}
    assert {"PrimitiveNode", "Reroute", "MarkdownNote"} < kinds and modes == {0, 2, 4}
    assert sum(key.count(":") == 2 for key in seen["sent"]) == 6


class TestFiles:
    def test_either_format_is_read(self, tmp_path):
        saved = graph([source(), show(2, 1)], [(1, 1, 0, 2, 0)])
        path, twin = tmp_path / "a.json", tmp_path / "b.json"
        path.write_text(json.dumps(saved))
        save_workflow(load_workflow(path, FACTS.get), twin)
        assert load_workflow(twin) == load_workflow(twin, FACTS.get) == to_api(saved, FACTS.get)
        assert twin.read_text().endswith("}\n")
