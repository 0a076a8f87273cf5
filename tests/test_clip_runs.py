"""Clips over targets: all of them, each once, on whichever is free, again where it failed, and stopped by Ctrl-C."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tokenreel.host import clip_runs, resources
from tokenreel.host.client import ServerError
from tokenreel.host.clip_runs import Target, run_clips
from tokenreel.host.clips import Clip
from tokenreel.host.runner import NodeError, RunResult
from tokenreel.host.workflow import Problem, WorkflowError


@pytest.fixture
def clips(tmp_path):
    made = []
    for name in "abcdef":
        path = tmp_path / f"{name}.mp4"
        path.write_bytes(f"clip {name}".encode())
        made.append(Clip(str(path), name))
    return made


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(clip_runs, "_REVIVAL", (0.05, 0.1))
    monkeypatch.setattr(clip_runs, "_BEAT", 0.02)


class Worker:
    """A target that copies a clip to `v/x_00004_.mp4`, after what a test does to it."""

    def __init__(self, name, seconds=0.0, fails=None, is_there=None):
        self.name, self.seconds = name, seconds
        self.fails = fails or (lambda clip: None)  # the error for a clip, or None
        self.is_there = is_there or (lambda: True)
        self.ran: list[str] = []
        self.target = Target(name, self.run, lambda: self.is_there())

    def run(self, clip, folder, tell):
        self.ran.append(clip.name)
        tell("note: the same each time")
        until = time.monotonic() + self.seconds
        while time.monotonic() < until:
            resources.check_cancelled()
            time.sleep(0.01)
        if error := self.fails(clip):
            raise error
        path = Path(folder, "v", "x_00004_.mp4")
        path.parent.mkdir()
        path.write_bytes(Path(clip.path).read_bytes())
        return RunResult(ui={"3": {"text": [f"{clip.name} is done"]}}, files=[path])


@pytest.fixture
def spread(clips, tmp_path):
    """Runs all clips on workers; the reports by clip, and what was told."""

    def run(*workers, chosen=clips, work="w", **options):
        said = []
        targets = [worker.target for worker in workers]
        reports = run_clips(chosen, targets, tmp_path / "out", work=work, tell=said.append, **options)
        assert [report.clip for report in reports] == [clip.name for clip in chosen]
        assert not list((tmp_path / "out").glob(".*")), "nothing unfinished is left"
        return {report.clip: report for report in reports}, said

    return run


def results(tmp_path):
    return {path.parent.parent.name: path.read_text() for path in tmp_path.glob("out/*/v/x_00001_.mp4")}


def test_every_clip_runs_once_on_whichever_is_free(spread, tmp_path):
    slow, fast = Worker("slow", 0.4), Worker("fast", 0.05)
    begin = time.monotonic()
    reports, said = spread(slow, fast)
    assert time.monotonic() - begin < 2.0  # one after another on the slow one: 2.4 s
    assert sorted(slow.ran + fast.ran) == list("abcdef") and len(fast.ran) > len(slow.ran) >= 1
    assert results(tmp_path) == {name: f"clip {name}" for name in "abcdef"}
    for name, report in reports.items():
        assert report.status == "done" and [attempt.on for attempt in report.attempts] == [
            "slow" if name in slow.ran else "fast"
        ]
        saved = json.loads((tmp_path / "out" / name / "job.json").read_text())
        assert saved["texts"] == {"3": f"{name} is done"} and saved["files"][0]["bytes"] == 6
    assert sum("note: the same" in line for line in said) == 2  # once for each target
    assert {line.partition("]")[0] for line in said if "done in" in line} == {f"[{n}/6" for n in range(1, 7)}


def test_what_fails_on_one_is_done_on_another(spread):
    bad = Worker("bad", 0.02, lambda clip: ServerError("broke off") if clip.name in "ace" else None)
    good = Worker("good", 0.1)
    reports, said = spread(bad, good)
    assert all(report.status == "done" for report in reports.values())
    again = {name: report for name, report in reports.items() if len(report.attempts) > 1}
    assert again and set(again) <= set("ace")
    for report in again.values():
        assert [(each.on, each.error) for each in report.attempts] == [("bad", "broke off"), ("good", "")]
    assert any(line.endswith("on bad: broke off; it is tried again") for line in said)


def test_a_dead_server_is_given_up_and_its_clip_saved(spread):
    alive = True

    def dies(clip):
        nonlocal alive
        alive = False
        return ServerError("no answer")

    dead, good = Worker("dead", 0.05, dies, lambda: alive), Worker("good", 0.2)
    reports, said = spread(dead, good)
    assert len(dead.ran) == 1 and all(report.status == "done" for report in reports.values())
    assert any("dead does not answer; asking again" in line for line in said)
    assert "dead was given up: it did not answer" in said


def test_a_server_that_comes_back_goes_on(spread):
    asked, down = 0, False

    def is_there():
        nonlocal asked, down
        asked += down
        down = down and asked < 3
        return not down

    def falls(clip):
        nonlocal down
        down = asked == 0
        return ServerError("restarted") if down else None

    worker = Worker("one", 0, falls, is_there)
    reports, _ = spread(worker)
    assert [len(report.attempts) for report in reports.values()] == [2, 1, 1, 1, 1, 1]
    assert all(report.status == "done" for report in reports.values())


def test_tries_are_bounded(spread, clips, tmp_path):
    workers = [Worker(name, 0, lambda clip: ServerError("no") if clip.name == "b" else None) for name in ("x", "y")]
    reports, said = spread(*workers, tries=3)
    assert {name for name, report in reports.items() if report.status == "failed"} == {"b"}
    assert len(reports["b"].attempts) == 3 and {"x", "y"} == {each.on for each in reports["b"].attempts}
    assert json.loads((tmp_path / "out" / "b" / "job.json").read_text())["status"] == "failed"
    assert [line for line in said if "b on" in line and "failed: no" in line]


def test_a_node_that_fails_is_tried_elsewhere_but_not_again(spread):
    def fails(clip):
        return NodeError("3", "Work", "too small") if clip.name == "c" else None

    reports, _ = spread(Worker("x", 0.02, fails), Worker("y", 0.02, fails), tries=5)
    assert sorted(each.on for each in reports["c"].attempts) == ["x", "y"]
    assert reports["c"].error == "node 3 (Work): too small"
    reports, _ = spread(Worker("x", 0, fails), tries=5)
    assert len(reports["c"].attempts) == 1 and reports["d"].status == "done"


def test_a_server_without_the_nodes_takes_no_other_clip(spread):
    def missing(clip):
        return WorkflowError([Problem("missing_node_type", "Node 'Work' not found.")])

    bare, good = Worker("bare", 0, missing), Worker("good", 0.05)
    reports, said = spread(bare, good, tries=1)
    assert len(bare.ran) <= 1 and all(report.status == "done" for report in reports.values())
    if bare.ran:
        assert "bare was given up: workflow: Node 'Work' not found." in said
    reports, _ = spread(Worker("bare", 0, missing))
    assert {report.status for report in reports.values()} == {"failed"}
    assert all("Node 'Work' not found" in report.error for report in reports.values())


def test_nobody_answers(clips, tmp_path):
    with pytest.raises(ServerError, match="None of x, y answers"):
        targets = [Worker(name, is_there=lambda: False).target for name in "xy"]
        run_clips(clips, targets, tmp_path / "out", work="w", tell=print)
    assert not (tmp_path / "out").exists()


class TestResume:
    def test_skips_what_is_whole(self, spread, tmp_path):
        first = Worker("x", 0, lambda clip: NodeError("3", "Work", "no") if clip.name == "c" else None)
        spread(first)
        (tmp_path / "out" / "e" / "v" / "x_00001_.mp4").write_bytes(b"clip")  # cut off
        second = Worker("x")
        reports, said = spread(second, resume=True)
        assert sorted(second.ran) == ["c", "e"] and said[0] == "4 of 6 clips are done already"
        assert [name for name, report in reports.items() if report.skipped] == ["a", "b", "d", "f"]
        assert results(tmp_path) == {name: f"clip {name}" for name in "abcdef"}
        third = Worker("x", is_there=lambda: False)  # nothing to do: nobody is asked
        assert all(report.skipped for report in spread(third, resume=True)[0].values()) and not third.ran

    def test_other_clips_and_other_work_run(self, spread, clips):
        spread(Worker("x"))
        Path(clips[1].path).write_bytes(b"another clip")
        worker = Worker("x")
        spread(worker, resume=True)
        assert worker.ran == ["b"]
        worker = Worker("x")
        spread(worker, resume=True, work="other")
        assert sorted(worker.ran) == list("abcdef")

    def test_without_it_everything_runs_and_is_replaced(self, spread, clips, tmp_path):
        spread(Worker("x"))
        Path(clips[0].path).write_bytes(b"changed")
        worker = Worker("x")
        spread(worker)
        assert sorted(worker.ran) == list("abcdef") and results(tmp_path)["a"] == "changed"


def test_ctrl_c_stops_all_and_keeps_what_is_done(clips, tmp_path):
    quick, slow = Worker("quick", 0.05), Worker("slow", 30)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    begin = time.monotonic()
    with pytest.raises(resources.Cancelled), resources.cancellable():
        run_clips(clips, [quick.target, slow.target], tmp_path / "out", work="w", tell=lambda line: None)
    assert time.monotonic() - begin < 2
    assert len(slow.ran) == 1 and set(results(tmp_path)) == set(quick.ran) == set("abcdef") - set(slow.ran)
    assert not list((tmp_path / "out").glob(".*")) and not (tmp_path / "out" / slow.ran[0]).exists()
    assert not [thread for thread in threading.enumerate() if thread.name in ("quick", "slow")]


def test_ctrl_c_that_only_the_workers_have_seen(clips, tmp_path, monkeypatch):
    """They end before the main thread looks again."""
    monkeypatch.setattr(clip_runs, "_BEAT", 5)
    worker = Worker("x", 30)
    timer = threading.Timer(0.3, resources._cancelled.set)
    timer.start()
    with pytest.raises(resources.Cancelled), resources.cancellable():
        run_clips(clips, [worker.target], tmp_path / "out", work="w", tell=lambda line: None)
    assert worker.ran == ["a"]


def test_a_fault_of_the_program_is_not_swallowed(clips, tmp_path):
    with pytest.raises(ZeroDivisionError):
        run_clips(
            clips, [Worker("x", 0, lambda clip: 1 / 0).target], tmp_path / "out", work="w", tell=lambda line: None
        )
