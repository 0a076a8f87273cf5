"""The shipped workflows, and what their tests share: nodes, formats, and the reel that is their input."""

import json
from fractions import Fraction
from pathlib import Path

from model_stand_ins import CORE_NODES

import tokenreel
from tokenreel.host.builtin_nodes import BUILTIN_NODES
from tokenreel.host.workflow import load_workflow
from tokenreel.nodes import NODES
from tokenreel.video.reel import render
from tokenreel.video.writer import VideoWriter

FOLDER = Path(tokenreel.__file__).parent / "workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
OURS = {node.GET_SCHEMA().node_id: node for node in NODES}
EMBEDDED = {**BUILTIN_NODES, **OURS}
KNOWN = {**EMBEDDED, **CORE_NODES}
NOTES = {"Note", "MarkdownNote"}  # live in the editor only
NOT_SAVED = {"LoadVideo": ["image"]}  # values of buttons that the editor adds after the widgets
NO_WIDGETS = {"PreviewAny"}
MUTED = 2  # the mode of a node that does not run until it is unmuted
REEL = "tokenreel_reel.mp4"


def opened(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def needs_model(name):
    """Whether something in it is connected as a MODEL: those are ComfyUI's, the embedded host has none."""
    return any(kind == "MODEL" for *_, kind in opened(name)["links"])


def twin(name):
    return load_workflow(FOLDER / "api" / f"{name}.json")


def saved_values(socket):
    """What the editor saves for a widget: a seed is followed by what becomes of it after a run, which has no name."""
    return [socket.id, ""] if getattr(socket, "control_after_generate", None) else [socket.id]


def to_api_format(graph, with_muted=False):
    """What ComfyUI's editor sends for a graph: links by node and slot, widgets by the order of the schema."""
    links = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    workflow = {}
    for node in graph["nodes"]:
        assert node["mode"] in (0, MUTED)
        if node["type"] in NOTES or (node["mode"] == MUTED and not with_muted):
            continue
        schema = KNOWN[node["type"]].GET_SCHEMA()
        widgets = [name for socket in schema.inputs if hasattr(socket, "default") for name in saved_values(socket)]
        extra = NOT_SAVED.get(node["type"], [])
        values = node["widgets_values"]
        if node["type"] not in NO_WIDGETS:
            assert values[len(widgets) :] == extra and len(values) >= len(widgets), node["type"]
        inputs = {name: value for name, value in zip(widgets, values, strict=False) if name}
        inputs |= {socket["name"]: links[socket["link"]] for socket in node["inputs"] if socket["link"] is not None}
        title = node.get("title") or schema.display_name
        workflow[str(node["id"])] = {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}
    return workflow


def write_reel(folder):
    """A small reel under the name that the workflows use."""
    reel = render(96, 64, 8, 0.5)
    with VideoWriter(folder / REEL, width=96, height=64, frame_rate=Fraction(8)) as writer:
        for chunk in reel.chunks():
            writer.write(chunk)
    return folder
