"""Clips that one workflow is to run on: which they are, what they are called, and where a workflow takes them in."""

from __future__ import annotations

import mimetypes
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from . import files
from .workflow import Problem, Workflow, WorkflowError, find_node

_LOADER, _LOADER_INPUT = "LoadVideo", "file"
_MORE_VIDEOS = (".mkv", ".m4v")  # not every system's list of types has these


@dataclass(frozen=True)
class Clip:
    """A file, and the name of its folder below the output folder ("/" between parts)."""

    path: str  # absolute
    name: str


def find_clips(given: Sequence[str], output_dir: str | os.PathLike[str]) -> list[Clip]:
    """The clips that are given: files as they are, of folders every video in them and in theirs, each once.

    What lies in `output_dir` is left out: those are results. Named after the file without its suffix, and with it
    where two would be called alike. Raises `ValueError` when nothing is found, or two must have one name.
    """
    found: dict[str, str] = {}  # path -> name with its suffix
    for each in given:
        if os.path.isdir(each):
            for path in _videos_below(os.path.abspath(each), os.path.realpath(output_dir)):
                found.setdefault(path, os.path.relpath(path, os.path.abspath(each)).replace(os.sep, "/"))
        elif os.path.isfile(each):
            found.setdefault(os.path.abspath(each), os.path.basename(each))
        else:
            raise ValueError(f"No clip or folder {each!r}. Check the path.")
    if not found:
        raise ValueError(f"No videos in {', '.join(map(repr, given))}. Give other folders, or files.")
    short = Counter(os.path.splitext(name)[0].lower() for name in found.values())
    clips = []
    for path, full in found.items():
        stem = os.path.splitext(full)[0]
        clips.append(Clip(path, stem if short[stem.lower()] == 1 else full))
    twice = [name for name, count in Counter(clip.name.lower() for clip in clips).items() if count > 1]
    if twice:
        paths = " and ".join(clip.path for clip in clips if clip.name.lower() == twice[0])
        raise ValueError(
            f"Two clips are called {twice[0]!r}: {paths}. Give the folder that both lie in, or rename one."
        )
    for clip in clips:
        files.contained(os.fspath(output_dir), clip.name)
    return clips


def _videos_below(folder: str, without: str) -> Iterator[str]:
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(here, name)) != without
        )
        for name in sorted(names):
            is_video = (mimetypes.guess_type(name)[0] or "").startswith("video/")
            if not name.startswith(".") and (is_video or name.lower().endswith(_MORE_VIDEOS)):
                yield os.path.join(here, name)


def clip_input(workflow: Workflow, chosen: str | None = None) -> tuple[str, str]:
    """Which input of which node takes the clip: `chosen` as `NODE.INPUT`, or that of the only LoadVideo.

    Raises `WorkflowError`.
    """
    if chosen is None:
        found = [node_id for node_id, node in workflow.items() if node["class_type"] == _LOADER]
        if len(found) == 1:
            return found[0], _LOADER_INPUT
        which = f"nodes {', '.join(found)} are {_LOADER}s" if found else f"it has no {_LOADER}"
        raise _refused(f"{which}. Say which input takes the clip, like --clip-input 1.file.")
    name, dot, input_name = chosen.rpartition(".")
    if not (name and dot and input_name):
        raise _refused(f"invalid clip input {chosen!r}. Write NODE.INPUT, like 1.file.")
    node_id = find_node(workflow, name)
    inputs = workflow[node_id]["inputs"]
    if not isinstance(inputs.get(input_name), str):
        names = ", ".join(key for key, value in inputs.items() if isinstance(value, str)) or "none"
        raise _refused(f"node {name} has no input {input_name!r} that names a file. Its inputs of text: {names}.")
    return node_id, input_name


def _refused(message: str) -> WorkflowError:
    return WorkflowError([Problem("invalid_clip_input", message)])


def with_clip(workflow: Workflow, where: tuple[str, str], clip: Clip) -> tuple[Workflow, dict[str, str]]:
    """A copy of `workflow` that reads `clip`, and what the name in it stands for."""
    node_id, input_name = where
    others = {
        value for each, node in workflow.items() for key, value in node["inputs"].items()
        if isinstance(value, str) and (each, key) != where
    }  # fmt: skip
    name = os.path.basename(clip.path)
    while name in others:  # another file of that name, which may lie in the input folder
        name = f"clip {name}"
    node = workflow[node_id]
    changed = {**workflow, node_id: {**node, "inputs": {**node["inputs"], input_name: name}}}
    return changed, {name: clip.path}
