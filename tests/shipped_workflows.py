"""The shipped workflows, and what their tests share: nodes, formats, and the reel that is their input."""

import json
import shutil
from fractions import Fraction
from pathlib import Path

from model_stand_ins import CORE_NODES

import tokenreel
from tokenreel.host.builtin_nodes import BUILTIN_NODES
from tokenreel.host.editor_graph import to_api
from tokenreel.host.node_facts import facts_of_classes
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
MUTED, BYPASSED = 2, 4  # modes of nodes that do not run; what goes into a bypassed one comes out of it
REEL, TOKENS = "tokenreel_reel.mp4", "tokenreel_reel.tokens"


def opened(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def needs_model(name):
    """Whether something in it is connected as a MODEL: those are ComfyUI's, the embedded host has none."""
    return any(kind == "MODEL" for *_, kind in opened(name)["links"])


def twin(name):
    return load_workflow(FOLDER / "api" / f"{name}.json")


def to_api_format(graph, with_muted=False, bypassed=()):
    """What ComfyUI's editor sends for a graph; on demand also what is muted in it, and without nodes of some titles."""
    if with_muted:
        graph = {**graph, "nodes": [{**node, "mode": node["mode"] & ~MUTED} for node in graph["nodes"]]}
    modes = [BYPASSED if titled(node) in bypassed else node["mode"] for node in graph["nodes"]]
    graph = {**graph, "nodes": [{**node, "mode": mode} for node, mode in zip(graph["nodes"], modes, strict=True)]}
    return to_api(graph, facts_of_classes(KNOWN))


def titled(node):
    return node.get("title") or (KNOWN[node["type"]].GET_SCHEMA().display_name if node["type"] in KNOWN else "")


def write_reel(folder, width=96, height=64, rate=8):
    """A small reel of two seconds and the tokens of the large one, under the names that the workflows use."""
    shutil.copy(FOLDER / TOKENS, folder)
    reel = render(width, height, rate, 0.5)
    with VideoWriter(folder / REEL, width=width, height=height, frame_rate=Fraction(rate)) as writer:
        for chunk in reel.chunks():
            writer.write(chunk)
    return folder
