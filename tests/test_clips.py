"""Which clips are found, what they are called, where a workflow takes them in, and when their results are whole."""

import json
import os
import re
from pathlib import Path

import pytest

import tokenreel
from tokenreel.host import clip_reports
from tokenreel.host.clip_reports import (
    DONE,
    Attempt,
    ClipReport,
    file_digest,
    keep_results,
    read_whole,
    renumbered,
    work_digest,
    write_report,
)
from tokenreel.host.clips import Clip, clip_input, find_clips, with_clip
from tokenreel.host.runner import RunResult
from tokenreel.host.workflow import WorkflowError

ROOT = Path(tokenreel.__file__).parent
WORKFLOW = {
    "1": {"class_type": "LoadVideo", "inputs": {"file": "a.mp4"}, "_meta": {"title": "Clip"}},
    "2": {"class_type": "Work", "inputs": {"video": ["1", 0], "mask": "mask.png", "size": 8}},
}


@pytest.fixture
def folder(tmp_path):
    for name in ("b.mp4", "a.mov", "deep/a.mp4", "deep/c.webm", ".hidden.mp4", ".dir/x.mp4", "notes.txt", "t.tokens"):
        path = tmp_path / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "clips"


def found(given, output="out"):
    return {clip.name: clip.path for clip in find_clips(list(map(str, given)), output)}


class TestFinding:
    def test_videos_of_a_folder_and_of_those_in_it(self, folder):
        expected = {"a": "a.mov", "b": "b.mp4", "deep/a": "deep/a.mp4", "deep/c": "deep/c.webm"}
        assert found([folder]) == {name: str(folder / file) for name, file in expected.items()}

    def test_files_are_taken_as_they_are_and_once(self, folder, monkeypatch):
        monkeypatch.chdir(folder)
        assert found(["t.tokens", "b.mp4", "./b.mp4", folder / "b.mp4", "."]) == {
            "t": str(folder / "t.tokens"), **found([folder])
        }  # fmt: skip

    def test_alike_but_for_the_suffix(self, folder):
        (folder / "A.mp4").write_bytes(b"")
        assert {"a.mov", "A.mp4", "b"} <= set(found([folder]))

    def test_two_of_one_name(self, folder):
        with pytest.raises(ValueError, match=r"Two clips are called 'b.mp4': .*/b.mp4 and .*/deep/b.mp4"):
            (folder / "deep" / "b.mp4").write_bytes(b"")
            found([folder / "b.mp4", folder / "deep" / "b.mp4"])

    def test_results_are_no_clips(self, folder):
        assert set(found([folder], folder / "deep")) == {"a", "b"}
        (folder / "link").symlink_to(folder / "deep", target_is_directory=True)
        assert set(found([folder], folder / "deep")) == {"a", "b"}

    def test_nothing_there(self, tmp_path):
        with pytest.raises(ValueError, match=r"No clip or folder .*none\.mp4"):
            found([tmp_path / "none.mp4"])
        with pytest.raises(ValueError, match="No videos in"):
            found([tmp_path])


class TestInput:
    def test_the_only_loader(self):
        assert clip_input(WORKFLOW) == ("1", "file")

    @pytest.mark.parametrize("chosen", ["2.mask", "Work.mask"])
    def test_a_chosen_one(self, chosen):
        assert clip_input(WORKFLOW, chosen) == ("2", "mask")

    @pytest.mark.parametrize(
        ("workflow", "chosen", "text"),
        [
            ({**WORKFLOW, "3": WORKFLOW["1"]}, None, r"nodes 1, 3 are LoadVideos\. .*--clip-input"),
            ({"2": WORKFLOW["2"]}, None, r"it has no LoadVideo\. .*--clip-input"),
            (WORKFLOW, "file", r"invalid clip input 'file'\. Write NODE\.INPUT"),
            (WORKFLOW, "9.file", "no single node '9'"),
            (WORKFLOW, "2.file", r"node 2 has no input 'file' that names a file\. Its inputs of text: mask"),
            (WORKFLOW, "2.video", r"no input 'video' that names a file"),
        ],
    )
    def test_refused(self, workflow, chosen, text):
        with pytest.raises(WorkflowError, match=text):
            clip_input(workflow, chosen)

    def test_the_clip_is_put_in(self):
        changed, inputs = with_clip(WORKFLOW, ("1", "file"), Clip("/far/b.mp4", "b"))
        assert changed["1"]["inputs"] == {"file": "b.mp4"} and inputs == {"b.mp4": "/far/b.mp4"}
        assert WORKFLOW["1"]["inputs"] == {"file": "a.mp4"} and changed["2"] == WORKFLOW["2"]

    def test_another_file_of_that_name_stays_what_it_is(self):
        changed, inputs = with_clip(WORKFLOW, ("1", "file"), Clip("/far/mask.png", "mask"))
        assert changed["1"]["inputs"]["file"] == "clip mask.png" and inputs == {"clip mask.png": "/far/mask.png"}
        assert changed["2"]["inputs"]["mask"] == "mask.png"


def test_numbers_begin_with_1():
    names = ["v/x_00007_.mp4", "v/x_00012_.mp4", "x_00009_.mp4", "v/x_00003_.png", "x_1.mp4", "plain.json"]
    new = ["v/x_00001_.mp4", "v/x_00002_.mp4", "x_00001_.mp4", "v/x_00001_.png", "x_1.mp4", "plain.json"]
    assert renumbered(names) == dict(zip(names, new, strict=True))


class TestWork:
    def digest(self, folder, **changes):
        node = {**WORKFLOW["2"], "inputs": {**WORKFLOW["2"]["inputs"], **changes}}
        return work_digest({**WORKFLOW, "2": node}, ("1", "file"), folder)

    def test_other_values_and_other_files_are_other_work(self, tmp_path):
        first = self.digest(tmp_path)
        (tmp_path / "mask.png").write_bytes(b"one")
        digests = [first, self.digest(tmp_path), self.digest(tmp_path, size=9)]
        (tmp_path / "mask.png").write_bytes(b"two")
        digests.append(self.digest(tmp_path))
        assert len(set(digests)) == 4

    def test_titles_and_the_clip_are_not(self, tmp_path):
        other = {"1": {"class_type": "LoadVideo", "inputs": {"file": "z.mp4"}}, "2": WORKFLOW["2"]}
        assert work_digest(other, ("1", "file"), tmp_path) == work_digest(WORKFLOW, ("1", "file"), tmp_path)


class TestReports:
    @pytest.fixture
    def kept(self, tmp_path, source):
        """A run with two numbered files and a text that names one, kept in the folder `clip`."""
        staged = tmp_path / "staged"
        (staged / "v").mkdir(parents=True)
        for number in (3, 2):
            (staged / "v" / f"x_{number:05}_.mp4").write_bytes(b"film %d" % number)
        result = RunResult(ui={"5": {"text": ["x_00002_.mp4 and x_00003_.mp4, 14 bytes"]}})
        result.files = [staged / "v" / "x_00003_.mp4", staged / "v" / "x_00002_.mp4"]
        report = ClipReport("c", "c.mp4", "bb", file_digest(source), attempts=[Attempt("here", 1.5)])
        keep_results(result, str(staged), str(tmp_path / "clip"), report)
        return tmp_path / "clip"

    wanted = ClipReport("c", "c.mp4", "bb")

    @pytest.fixture
    def source(self, tmp_path):
        (tmp_path / "c.mp4").write_bytes(b"clip")
        return str(tmp_path / "c.mp4")

    def test_what_is_kept(self, kept):
        assert (kept / "v" / "x_00001_.mp4").read_bytes() == b"film 2"
        saved = json.loads((kept / "job.json").read_text())
        assert [entry["name"] for entry in saved["files"]] == ["v/x_00002_.mp4", "v/x_00001_.mp4"]
        assert saved["files"][0]["sha256"] == file_digest(kept / "v" / "x_00002_.mp4")
        assert saved["texts"] == {"5": "x_00001_.mp4 and x_00002_.mp4, 14 bytes"}
        assert (saved["status"], saved["attempts"]) == ("done", [{"on": "here", "seconds": 1.5, "error": ""}])

    def test_is_found_again(self, kept, source):
        report = read_whole(kept, self.wanted, source)
        assert report.skipped and report.status == DONE and len(report.files) == 2
        assert report.attempts == [Attempt("here", 1.5)]

    @pytest.mark.parametrize("change", [{"work_sha256": "xx"}, {"clip": "d"}])
    def test_other_names_and_other_work_are_not(self, kept, source, change):
        assert read_whole(kept, ClipReport(**{**vars(self.wanted), **change}), source) is None

    def test_another_clip_of_that_name_is_not(self, kept, source):
        Path(source).write_bytes(b"film")
        assert read_whole(kept, self.wanted, source) is None

    @pytest.mark.parametrize("damage", ["gone", "shorter", "changed"])
    def test_damaged_files_are_noticed(self, kept, damage, source):
        path = kept / "v" / "x_00001_.mp4"
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(b"film" if damage == "shorter" else b"film 9")
        assert read_whole(kept, self.wanted, source) is None

    @pytest.mark.parametrize(
        "change",
        [
            {"format": "x"},
            {"version": 2},
            {"status": "failed"},
            {"files": 3},
            {"files": [{}]},
            {"attempts": [{"x": 1}]},
        ],
    )
    def test_other_reports_are_not_trusted(self, kept, change, source):
        saved = json.loads((kept / "job.json").read_text())
        (kept / "job.json").write_text(json.dumps({**saved, **change}))
        assert read_whole(kept, self.wanted, source) is None

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": "tokenreel clip job"}'])
    def test_what_is_no_report(self, tmp_path, text, source):
        (tmp_path / "job.json").write_text(text)
        assert read_whole(tmp_path, self.wanted, source) is None

    def test_a_report_cannot_name_files_elsewhere(self, kept, source):
        saved = json.loads((kept / "job.json").read_text())
        (kept.parent / "x").write_bytes(b"x")
        entry = {"name": "../x", "bytes": 1, "sha256": file_digest(kept.parent / "x")}
        (kept / "job.json").write_text(json.dumps({**saved, "files": [entry]}))
        assert read_whole(kept, self.wanted, source) is None

    def test_an_interrupted_move_is_not_done(self, kept, tmp_path, monkeypatch, source):
        """Neither by the old report nor by a new one."""
        staged = tmp_path / "again"
        staged.mkdir()
        for name in ("a", "b"):
            (staged / name).write_bytes(b"new")
        result = RunResult(files=[staged / "a", staged / "b"])
        moves = []

        def replace(source, target):
            moves.append(source)
            if len(moves) == 2:
                raise OSError("no room")
            os.rename(source, target)

        monkeypatch.setattr(clip_reports.os, "replace", replace)
        with pytest.raises(OSError, match="no room"):
            keep_results(result, str(staged), str(kept), ClipReport("c", "c.mp4", "bb"))
        assert read_whole(kept, self.wanted, source) is None

    def test_docs_tell_every_entry(self, kept):
        text = (ROOT / "docs" / "headless.md").read_text(encoding="utf-8")
        table = text[text.index("| `job.json` | |") :].split("\n\n")[0].splitlines()[2:]
        told = [name for line in table for name in re.findall("`([a-z0-9_]+)`", line.split("|")[1])]
        assert told == list(json.loads((kept / "job.json").read_text()))

    def test_a_failed_job_says_why(self, tmp_path, source):
        report = ClipReport("c", "c.mp4", "bb", attempts=[Attempt("a", 1, "no"), Attempt("b", 2, "never")])
        write_report(tmp_path, report)
        assert report.error == "never"
        assert read_whole(tmp_path, self.wanted, source) is None
