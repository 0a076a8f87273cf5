"""What the commands on workflows do: arguments in, facts out, as in `commands`."""

from __future__ import annotations

import argparse
import os
import time
from typing import TYPE_CHECKING, Any

from .commands import Facts, Tell, check_parent, output_file

if TYPE_CHECKING:
    from .host.clip_reports import ClipReport
    from .host.clip_runs import Target
    from .host.node_facts import FactsOf
    from .host.runner import NodeEvent, RunResult
    from .host.workflow import Workflow

COMFYUI = "http://127.0.0.1:8188"  # where a ComfyUI on this machine listens unless told otherwise
STANDALONE = "standalone"


def run(args: argparse.Namespace, tell: Tell) -> Facts:
    """A workflow on each target in turn; with `--clips`, on each clip, wherever a target is free."""
    started = time.monotonic()
    check_parent(args.output)
    targets = list(dict.fromkeys(args.on))
    if not args.clips and (args.clip_input or args.resume or args.tries):
        args.wrong_usage("--clip-input, --resume and --tries are for --clips")
    facts = (_run_on_clips if args.clips else _run_on_each)(args, targets, tell)
    return {**facts, "seconds": round(time.monotonic() - started, 3)}


def _run_on_each(args: argparse.Namespace, targets: list[str], tell: Tell) -> Facts:
    nodes = _node_classes()
    workflows = [_load(args.workflow, target, nodes) for target in targets]
    results = []
    for target, workflow in zip(targets, workflows, strict=True):
        folder = args.output if len(targets) == 1 else os.path.join(args.output, _folder_name(target))
        common: dict[str, Any] = {"overrides": args.set, "input_dir": args.input, "output_dir": folder}
        result = _run_on(target, workflow, nodes, tell, **common)
        texts = _titled(result.texts, workflow)
        results.append({"on": target, "files": [str(path) for path in result.files], "texts": texts})
    return {"results": results}


def _run_on_clips(args: argparse.Namespace, targets: list[str], tell: Tell) -> Facts:
    from .host.clip_reports import FAILED, work_digest
    from .host.clip_runs import run_clips
    from .host.clips import clip_input, find_clips
    from .host.workflow import apply_overrides

    nodes = _node_classes()
    output = os.path.abspath(args.output)
    clips = find_clips(args.clips, output)
    workflow = apply_overrides(_load_somewhere(args.workflow, targets, nodes), args.set, nodes)
    where = clip_input(workflow, args.clip_input)
    reports = run_clips(
        clips,
        [_target(name, args, where, nodes) for name in targets],
        output,
        work=work_digest(workflow, where, args.input),
        tries=args.tries or 3,
        resume=args.resume,
        tell=tell,
    )
    results = [_clip_facts(report, output, workflow) for report in reports]
    failed = [report.clip for report in reports if report.status == FAILED]
    if failed:
        tell(f"{len(failed)} of {len(reports)} clips failed: {', '.join(failed)}. The job.json of each says why.")
    done = sum(not report.skipped for report in reports) - len(failed)
    skipped = sum(report.skipped for report in reports)
    return {"results": results, "clips_done": done, "clips_skipped": skipped, "clips_failed": len(failed)}


def _clip_facts(report: ClipReport, output: str, workflow: Workflow) -> Facts:
    folder = os.path.join(output, *report.clip.split("/"))
    return {
        "clip": report.clip,
        "on": report.attempts[-1].on if report.attempts else "",
        "status": "skipped" if report.skipped else report.status,
        "error": report.error,
        "attempts": [vars(attempt) for attempt in report.attempts],
        "files": [os.path.join(folder, *entry["name"].split("/")) for entry in report.files],
        "texts": _titled(report.texts, workflow),
    }


def _target(name: str, args: argparse.Namespace, where: tuple[str, str], nodes: dict[str, Any]) -> Target:
    """A server or this process, as one that runs clips."""
    from .host.client import ComfyClient
    from .host.clip_runs import Target
    from .host.clips import Clip, with_clip
    from .host.workflow import apply_overrides

    loaded: list[Workflow] = []

    def run_clip(clip: Clip, folder: str, tell: Tell) -> RunResult:
        if not loaded:
            loaded.append(apply_overrides(_load(args.workflow, name, nodes), args.set, nodes))
        workflow, inputs = with_clip(loaded[0], where, clip)
        return _run_on(name, workflow, nodes, tell, input_dir=args.input, output_dir=folder, inputs=inputs)

    if name == STANDALONE:
        return Target(name, run_clip, lambda: True)
    return Target(name, run_clip, ComfyClient(_address(name)).answers)


def _run_on(target: str, workflow: Workflow, nodes: dict[str, Any], tell: Tell, **options: Any) -> RunResult:
    from .host.client import run_on_server
    from .host.runner import run_workflow

    if target == STANDALONE:
        return run_workflow(workflow, nodes, **options, on_node=lambda event: _tell_node(event, tell))
    return run_on_server(workflow, _address(target), nodes, **options, on_status=tell)


def export(args: argparse.Namespace, tell: Tell) -> Facts:
    """A workflow of the editor as an API-format workflow."""
    from .host.workflow import save_workflow

    target = output_file(args.output, (".json",), args.workflow)
    workflow = _load(args.workflow, args.on, _node_classes())
    save_workflow(workflow, target)
    return {"nodes": len(workflow), "file_bytes": os.path.getsize(target)}


def _load(path: str, target: str, nodes: dict[str, Any]) -> Workflow:
    from .host.workflow import load_workflow

    return load_workflow(path, _facts_of(target, nodes))


def _load_somewhere(path: str, targets: list[str], nodes: dict[str, Any]) -> Workflow:
    """The workflow as the first target sees it that can be asked."""
    from .host.client import ServerError

    for target in targets[:-1]:
        try:
            return _load(path, target, nodes)
        except ServerError:
            continue
    return _load(path, targets[-1], nodes)


def _facts_of(target: str, nodes: dict[str, Any]) -> FactsOf:
    """What is known of nodes where a workflow is to run."""
    from .host.builtin_nodes import BUILTIN_NODES
    from .host.client import ComfyClient
    from .host.node_facts import facts_of_classes, facts_of_server

    if target == STANDALONE:
        return facts_of_classes({**BUILTIN_NODES, **nodes})
    return facts_of_server(ComfyClient(_address(target)).get)


def _address(target: str) -> str:
    return COMFYUI if target == "comfyui" else target


def _node_classes() -> dict[str, Any]:
    from .nodes import NODES

    return {node.GET_SCHEMA().node_id: node for node in NODES}


def _titled(texts: dict[str, str], workflow: Workflow) -> dict[str, str]:
    """What nodes said, by their ids and titles."""
    from .host.workflow import title_of

    return {f"{node_id} {title_of(workflow, node_id)}": text for node_id, text in _once(texts).items()}


def _once(texts: dict[str, str]) -> dict[str, str]:
    """Each text where it is said first: previews only repeat it."""
    first: dict[str, str] = {}
    for node_id, text in texts.items():
        if text not in first.values():
            first[node_id] = text
    return first


def _folder_name(target: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in target.partition("://")[2] or target)


def _tell_node(event: NodeEvent, tell: Tell) -> None:
    if event.seconds is not None:
        how = "as before" if event.cached else f"{event.seconds:.1f} s"
        tell(f"[{event.index + 1}/{event.total}] {event.display_name}: {how}")
