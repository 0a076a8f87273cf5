"""Spreads clips over targets, which are ComfyUI servers or this process: each takes the next clip when it is free.

What fails on one target is tried on another. A target that no longer answers is asked again for a while, and its clip
goes to the others meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..tokens.whole_files import file_digest
from . import resources
from .client import ServerError
from .clip_reports import DONE, FAILED, Attempt, ClipReport, keep_results, read_whole, write_report
from .clips import Clip
from .runner import NodeError, RunResult
from .workflow import WorkflowError

Tell = Callable[[str], None]
_REVIVAL = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds between questions to a target that does not answer
_BEAT = 0.25  # seconds between two looks for Ctrl-C
_MISSING = frozenset({"missing_node_type", "invalid_prompt"})  # what ComfyUI, and ComfyUI 0.3.64, call a missing node


@dataclass(frozen=True)
class Target:
    """Where a clip can be run.

    `run(clip, folder, tell)` writes into `folder`. It raises `WorkflowError`, `NodeError`, `ServerError`, `OSError` or
    `ValueError` when that fails. `answers()` says whether the target can be reached.
    """

    name: str
    run: Callable[[Clip, str, Tell], RunResult]
    answers: Callable[[], bool]


@dataclass
class _Job:
    clip: Clip
    report: ClipReport
    tried: set[str] = field(default_factory=set)  # names of targets
    counted: int = 0  # tries, without those on targets that cannot run the workflow at all


def run_clips(
    clips: Sequence[Clip],
    targets: Sequence[Target],
    output_dir: str | os.PathLike[str],
    *,
    work: str,
    tries: int = 3,
    resume: bool = False,
    tell: Tell,
) -> list[ClipReport]:
    """Run every clip on one of `targets`; the reports, in the order of `clips`. None is left out, failed or not.

    Results and `job.json` come into a folder for each clip below `output_dir`. `work` is a digest of what is done
    (`work_digest`). With `resume`, clips are skipped whose results are there and whole. A clip is tried at most `tries`
    times, on another target where there is one; a node that fails, not again on the same. Ctrl-C takes running jobs
    back; what is done stays.

    Raises `ServerError` when no target answers at the beginning, and `resources.Cancelled`.
    """
    jobs = []
    for clip in clips:
        resources.check_cancelled()
        report = ClipReport(clip.name, os.path.basename(clip.path), work)
        old = read_whole(os.path.join(output_dir, clip.name), report, clip.path) if resume else None
        jobs.append(_Job(clip, old or report))
    skipped = sum(job.report.skipped for job in jobs)
    if skipped:
        tell(f"{skipped} of {len(jobs)} clips are done already")
    if skipped < len(jobs):
        if not any(target.answers() for target in targets):
            raise ServerError(f"None of {', '.join(target.name for target in targets)} answers. Start one.")
        os.makedirs(output_dir, exist_ok=True)
        staging = os.path.realpath(tempfile.mkdtemp(prefix=".unfinished-", dir=output_dir))
        try:
            _Spread(jobs, targets, os.fspath(output_dir), staging, tries, tell).all()
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return [job.report for job in jobs]


class _Spread:
    """The jobs that wait, the targets that take them, and the threads between."""

    def __init__(
        self, jobs: list[_Job], targets: Sequence[Target], output_dir: str, staging: str, tries: int, tell: Tell
    ):
        self._targets = targets
        self._output_dir = output_dir
        self._staging = staging
        self._tries = tries
        self._tell_unlocked = tell
        self._total = len(jobs)
        self._ended = sum(job.report.skipped for job in jobs)
        self._change = threading.Condition()  # guards all below
        self._waiting = deque(job for job in jobs if not job.report.skipped)
        self._running = 0
        self._usable = {target.name for target in targets}
        self._why = "it did not answer"  # the last target was given up
        self._notes: set[tuple[str, str]] = set()
        self._fault: BaseException | None = None
        self._stopped = False

    def all(self) -> None:
        """Run until every job is done or has failed."""
        threads = [
            threading.Thread(target=self._serve, args=(target,), name=target.name, daemon=True)
            for target in self._targets
        ]
        for thread in threads:
            thread.start()
        try:
            while alive := [thread for thread in threads if thread.is_alive()]:
                resources.check_cancelled()
                alive[0].join(_BEAT)
            resources.check_cancelled()  # they may have seen it, and ended, before this thread did
        finally:
            with self._change:
                self._stopped = True
                self._change.notify_all()
            for thread in threads:
                thread.join()
        if self._fault:
            raise self._fault
        for job in self._waiting:
            job.report.attempts.append(Attempt("", 0.0, f"No target is left: {self._why}"))
            self._end(job)

    def _serve(self, target: Target) -> None:
        """Run jobs on a target as long as there are any and it can."""
        try:
            while self._is_there(target) and (job := self._take(target)) is not None and self._run(job, target):
                pass
        except resources.Cancelled:
            pass  # the main thread has seen it too
        except BaseException as error:  # noqa: BLE001 (raised again in the main thread)
            with self._change:
                self._fault, self._stopped = error, True
        finally:
            with self._change:
                self._usable.discard(target.name)
                self._change.notify_all()

    def _is_there(self, target: Target) -> bool:
        """Whether a target answers, or does after a while."""
        for pause in (*_REVIVAL, 0.0):
            if target.answers() or self._is_over():
                return True
            if pause == _REVIVAL[0]:
                self._tell(f"{target.name} does not answer; asking again for {sum(_REVIVAL):.0f} s")
            until = time.monotonic() + pause
            while time.monotonic() < until and not self._is_over():
                resources.check_cancelled()
                time.sleep(min(_BEAT, pause))
        self._give_up(target, "it did not answer")
        return False

    def _is_over(self) -> bool:
        with self._change:
            return self._stopped or not (self._waiting or self._running)

    def _give_up(self, target: Target, why: str) -> None:
        with self._change:
            self._usable.discard(target.name)
            self._why = f"{target.name} was given up: {why}"
            self._tell(self._why)

    def _take(self, target: Target) -> _Job | None:
        """The next job for a target, once there is one; None when none can come any more."""
        with self._change:
            while not self._stopped and (self._waiting or self._running):
                for job in self._waiting:
                    if target.name not in job.tried or self._usable <= job.tried:
                        self._waiting.remove(job)
                        self._running += 1
                        return job
                self._change.wait(_BEAT)
            return None

    def _run(self, job: _Job, target: Target) -> bool:
        """Run a job on a target; whether it can run others."""
        attempt, begin = Attempt(target.name, 0.0), time.monotonic()
        staged = tempfile.mkdtemp(dir=self._staging)
        job.report.attempts.append(attempt)
        try:
            job.report.source_sha256 = file_digest(job.clip.path, resources.check_cancelled)
            result = target.run(job.clip, staged, lambda line: self._tell_step(job, target, line))
            attempt.seconds = round(time.monotonic() - begin, 3)
            keep_results(result, staged, os.path.join(self._output_dir, job.clip.name), job.report)
            self._end(job)
            return True
        except (WorkflowError, NodeError, ServerError, OSError, ValueError) as error:
            attempt.seconds = round(time.monotonic() - begin, 3)
            attempt.error = " ".join(str(error).split()) or type(error).__name__
            return self._failed(job, target, error, attempt.error)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
            with self._change:
                self._running -= 1
                self._change.notify_all()

    def _failed(self, job: _Job, target: Target, error: Exception, message: str) -> bool:
        """Let another target try, where that may help; whether this one can run other jobs."""
        fits = not (isinstance(error, WorkflowError) and any(each.type in _MISSING for each in error.problems))
        if not fits:
            self._give_up(target, message)
        with self._change:
            job.report.files, job.report.status = [], FAILED
            job.tried.add(target.name)
            job.counted += fits
            others = self._usable - job.tried or (self._usable if isinstance(error, ServerError) else None)
            again = bool(others) and job.counted < self._tries
            if again:
                self._tell(f"{job.clip.name} on {target.name}: {message.rstrip('.')}; it is tried again")
                self._waiting.appendleft(job)
        if not again:
            self._end(job)
        return fits

    def _end(self, job: _Job) -> None:
        """Count a job that is done, or has failed for good, and say so."""
        report = job.report
        if report.status != DONE:
            with contextlib.suppress(OSError):  # perhaps that is why it failed
                write_report(os.path.join(self._output_dir, job.clip.name), report)
        last = report.attempts[-1]
        how = f"failed: {report.error}" if report.error else f"done in {last.seconds:.1f} s"
        where = f" on {last.on}" if last.on else ""
        with self._change:
            self._ended += 1
            self._tell(f"[{self._ended}/{self._total}] {job.clip.name}{where}: {how}")

    def _tell_step(self, job: _Job, target: Target, line: str) -> None:
        with self._change:
            if (target.name, line) not in self._notes:
                self._tell(f"{job.clip.name} on {target.name}: {line}")
            if line.startswith("note: "):  # the same for every clip
                self._notes.add((target.name, line))

    def _tell(self, line: str) -> None:
        with self._change:  # a line at a time
            self._tell_unlocked(line)
