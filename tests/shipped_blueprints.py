"""The shipped blueprints, and a graph of the editor with one of them between other nodes."""

import copy
import json
from pathlib import Path

import tokenreel

FOLDER = Path(tokenreel.__file__).parent / "subgraphs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
FINISH = "Finish video (interpolate + upscale)"
CHEAP = "Cheap video MODEL (quantize + attention + merge)"
COMPRESS = "Compress to tokens"


def opened(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def inside(blueprint):
    """The nodes of its subgraph, by type."""
    return {node["type"]: node for node in blueprint["definitions"]["subgraphs"][0]["nodes"]}


def choose(blueprint, name, value):
    """Set what its node shows as a widget: the editor keeps the value at the node inside."""
    subgraph = blueprint["definitions"]["subgraphs"][0]
    entry = next(each for each in subgraph["inputs"] if each["name"] == name)
    for link in (each for each in subgraph["links"] if each["id"] in entry["linkIds"]):
        node = next(each for each in subgraph["nodes"] if each["id"] == link["target_id"])
        widgets = [socket["name"] for socket in node["inputs"] if "widget" in socket]
        node["widgets_values"][widgets.index(node["inputs"][link["target_slot"]]["name"])] = value


def between(blueprint, source, *targets):
    """A graph: `source` feeds its first input, its outputs feed `targets`: (output's name, node, input's name).

    Nodes are as the editor saves them, with "inputs" and "outputs".
    """
    graph = copy.deepcopy(blueprint)
    (middle,) = graph["nodes"]
    numbered = [
        {"mode": 0, "flags": {}, "pos": [0, 0], "size": [300, 200], **each, "id": number}
        for number, each in enumerate((source, *(node for _, node, _ in targets)), 101)
    ]
    graph["nodes"] += numbered
    joined = [(numbered[0], 0, middle, 0)]
    for node, (output, _, name) in zip(numbered[1:], targets, strict=True):
        place = [each["name"] for each in middle["outputs"]].index(output)
        joined.append((middle, place, node, [each["name"] for each in node["inputs"]].index(name)))
    for link, (giver, place, taker, slot) in enumerate(joined, 1):
        kind = giver["outputs"][place]["type"]
        graph["links"].append([link, giver["id"], place, taker["id"], slot, kind])
        giver["outputs"][place]["links"] = [*(giver["outputs"][place].get("links") or []), link]
        taker["inputs"][slot]["link"] = link
    graph["last_node_id"], graph["last_link_id"] = 200, len(joined)
    return graph


def node(schema, **values):
    """A node with the defaults of its schema, and `values` in place of some of them."""
    sockets = sorted(schema.inputs, key=lambda socket: hasattr(socket, "default"))
    inputs = [{"name": each.id, "type": each.get_io_type(), "link": None} for each in sockets]
    for each, entry in zip(sockets, inputs, strict=True):
        if hasattr(each, "default"):
            entry["widget"] = {"name": each.id}
    outputs = [{"name": each.display_name or each.get_io_type(), "type": each.get_io_type()} for each in schema.outputs]
    saved = [values.get(each.id, each.default) for each in sockets if hasattr(each, "default")]
    return {"type": schema.node_id, "inputs": inputs, "outputs": outputs, "properties": {}, "widgets_values": saved}
