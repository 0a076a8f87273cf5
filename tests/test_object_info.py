"""What a real ComfyUI says about our nodes: ids, inputs and defaults that saved workflows and API clients rely on.

`python tests/test_object_info.py http://127.0.0.1:8188 > tests/data/object_info.json` writes down what a server says
now, for when a node has got an input more on purpose.
"""

import json
import sys
from pathlib import Path

import pytest
from comfyui_server import comfyui_server, needs_comfyui

from tokenreel.host.client import ComfyClient

SNAPSHOT = Path(__file__).parent / "data" / "object_info.json"
LISTED = {"file", "tokenizer_name", "generator_name", "model_name", "sampler_name", "scheduler", "parts"}
"""Inputs whose choices depend on what is there."""
KEPT = ("default", "min", "max", "step", "round", "multiline", "control_after_generate", "video_upload", "options")


def of_input(name, given):
    """Type and options of an input, without its texts."""
    kind, options = given[0], dict(given[1] if len(given) > 1 else {})
    if isinstance(kind, list):  # as the oldest cores have it
        kind, options["options"] = "COMBO", kind
    if name in LISTED:
        options.pop("options", None)
    said = {each: options[each] for each in KEPT if options.get(each) is not None}
    return [kind, {each: value for each, value in said.items() if each == "default" or value is not False}]


def facts(info):
    """What must not change, of `/object_info`."""
    return {
        node_id: {
            "inputs": {
                part: {name: of_input(name, given) for name, given in node["input"].get(part, {}).items()}
                for part in ("required", "optional")
            },
            "order": {part: names for part, names in node["input_order"].items() if part != "hidden"},
            "outputs": [list(each) for each in zip(node["output"], node["output_name"], strict=True)],
            "category": node["category"],
            "output_node": node["output_node"],
        }
        for node_id, node in sorted(info.items())
        if node_id.startswith("TokenReel_")
    }


@pytest.fixture(scope="module")
def info(tmp_path_factory):
    with comfyui_server(tmp_path_factory.mktemp("server")) as server:
        yield server.client.get("/object_info")


@pytest.mark.comfyui
@pytest.mark.slow
@needs_comfyui
class TestObjectInfo:
    def test_nothing_changed_by_accident(self, info):
        known, now = json.loads(SNAPSHOT.read_text(encoding="utf-8")), facts(info)
        assert sorted(now) == sorted(known)
        for node_id, node in known.items():
            assert now[node_id] == node, node_id

    def test_everything_is_explained(self, info):
        for node_id, node in info.items():
            if not node_id.startswith("TokenReel_"):
                continue
            assert node["description"] and node["display_name"], node_id
            assert node.get("search_aliases", "not known to this core"), node_id
            assert all(node["output_tooltips"]), node_id
            for part in ("required", "optional"):
                for name, given in node["input"].get(part, {}).items():
                    assert given[1].get("tooltip"), f"{node_id}.{name}"

    def test_nodes_of_ours_are_told_apart_by_their_ids(self, info):
        ours = [node_id for node_id, node in info.items() if "TokenReel" in node["python_module"]]
        assert ours and all(node_id.startswith("TokenReel_") for node_id in ours)


if __name__ == "__main__":
    now = facts(ComfyClient(sys.argv[1]).get("/object_info"))
    sys.stdout.write("{\n" + ",\n".join(f"{json.dumps(each)}: {json.dumps(now[each])}" for each in now) + "\n}\n")
