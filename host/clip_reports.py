"""What came out of a clip: its files in a folder of its own, and a report, by which a later run sees what is done.

`job.json` is written last. As long as it names the same clip and the same work, and every file that it lists is there
with its digest, nothing needs to be done again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..tokens.whole_files import file_digest
from . import files, resources
from .runner import RunResult
from .workflow import Workflow

REPORT = "job.json"
DONE, FAILED = "done", "failed"
_FORMAT, _VERSION = "tokenreel clip job", 1
_NUMBERED = re.compile(r"(?P<stem>.*)_(?P<number>\d{5,})(?P<end>_?\.\w+)", re.DOTALL)  # ComfyUI's numbering


@dataclass
class Attempt:
    """A target that tried; `error` is what went wrong there, "" when nothing did."""

    on: str
    seconds: float
    error: str = ""


@dataclass
class ClipReport:
    """A clip's job: what was asked, where it ran, and what came out. As JSON this is the file `job.json`."""

    clip: str  # its folder below the output folder
    source: str  # its file name
    work_sha256: str
    source_sha256: str = ""  # once it has been read
    status: str = FAILED
    attempts: list[Attempt] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)  # name below the clip's folder, bytes, sha256
    texts: dict[str, str] = field(default_factory=dict)  # what the nodes said, by node id
    skipped: bool = False  # it was done before

    def to_json(self) -> str:
        saved = {key: value for key, value in asdict(self).items() if key != "skipped"}
        return json.dumps({"format": _FORMAT, "version": _VERSION, **saved}, indent=2) + "\n"

    @property
    def error(self) -> str:
        """What went wrong at last; "" when it is done."""
        return "" if self.status == DONE or not self.attempts else self.attempts[-1].error


def work_digest(workflow: Workflow, where: tuple[str, str], input_dir: str | os.PathLike[str]) -> str:
    """A digest of what is done to a clip: of the workflow without titles and without the clip's name, and of the files
    in the input folder that it names."""
    plain = {
        node_id: [node["class_type"], {key: value for key, value in node["inputs"].items() if (node_id, key) != where}]
        for node_id, node in workflow.items()
    }
    named = sorted({v for _, inputs in plain.values() for v in inputs.values() if isinstance(v, str)})
    found = {}
    with files.session(input_dir=input_dir):
        for name in named:
            with contextlib.suppress(files.FileNameError):
                found[name] = file_digest(files.resolve_input(name), resources.check_cancelled)
    return hashlib.sha256(json.dumps([plain, found], sort_keys=True).encode()).hexdigest()


def read_whole(folder: str | os.PathLike[str], wanted: ClipReport, source: str) -> ClipReport | None:
    """The report of an earlier run in a clip's folder, if that was the same clip and work, and its files are whole.

    `source` is the clip's file; its digest is taken only where everything else is the same.
    """
    try:
        saved = json.loads(Path(folder, REPORT).read_text(encoding="utf-8"))
        if (saved["clip"], saved["work_sha256"]) != (wanted.clip, wanted.work_sha256) or (
            saved["format"],
            saved["version"],
            saved["status"],
        ) != (_FORMAT, _VERSION, DONE):
            return None
        if file_digest(source, resources.check_cancelled) != saved["source_sha256"]:
            return None
        for entry in saved["files"]:
            path = files.contained(os.fspath(folder), entry["name"])
            if (
                os.path.getsize(path) != entry["bytes"]
                or file_digest(path, resources.check_cancelled) != entry["sha256"]
            ):
                return None
        attempts = [Attempt(**attempt) for attempt in saved["attempts"]]
    except (OSError, ValueError, KeyError, TypeError):  # not there, or not one of ours
        return None
    return ClipReport(
        **{key: saved[key] for key in ("clip", "source", "source_sha256", "work_sha256", "status", "files", "texts")},
        attempts=attempts,
        skipped=True,
    )


def keep_results(result: RunResult, staged: str, folder: str, report: ClipReport) -> None:
    """Move the files of a run from `staged` into the clip's folder, and write down what they are.

    Their numbers begin with 1 there, whatever others have run on the same server. The old report goes first and the new
    one comes last, so that an interrupted move is no finished job.
    """
    os.makedirs(folder, exist_ok=True)
    Path(folder, REPORT).unlink(missing_ok=True)
    names = renumbered(os.path.relpath(path, os.path.realpath(staged)).replace(os.sep, "/") for path in result.files)
    for old, new in names.items():
        target = files.contained(folder, new)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.replace(os.path.join(staged, *old.split("/")), target)
        report.files.append(
            {"name": new, "bytes": os.path.getsize(target), "sha256": file_digest(target, resources.check_cancelled)}
        )
    report.texts = {node_id: _renamed(text, names) for node_id, text in result.texts.items()}
    report.status = DONE
    write_report(folder, report)


def _renamed(text: str, names: dict[str, str]) -> str:
    """`text` with the new names of files for the old ones."""
    new = {os.path.basename(name): os.path.basename(names[name]) for name in names}
    return re.sub("|".join(map(re.escape, new)), lambda match: new[match[0]], text) if new else text


def write_report(folder: str, report: ClipReport) -> None:
    """Put `job.json` into a clip's folder."""
    os.makedirs(folder, exist_ok=True)
    files.write_whole(os.path.join(folder, REPORT), report.to_json().encode())


def renumbered(names: Iterable[str]) -> dict[str, str]:
    """New names by the old ones: `x_00007_.mp4` and `x_00009_.mp4` become numbers 1 and 2 of `x`; others stay."""
    names, series = list(names), {}
    for name in names:
        if match := _NUMBERED.fullmatch(name):
            series.setdefault((match["stem"], match["end"]), []).append((int(match["number"]), name))
    new = {name: name for name in names}
    for (stem, end), numbered in series.items():
        new |= {name: f"{stem}_{place:05}{end}" for place, (_, name) in enumerate(sorted(numbered), 1)}
    return new
