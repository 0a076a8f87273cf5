"""Clips over two real servers, of which one is killed while it works."""

import json
import os
import signal
import threading
import time

import pytest
from comfyui_server import comfyui_server, needs_comfyui
from small_pack import SMALL_PACK, report

from tokenreel import cli

pytestmark = [needs_comfyui, pytest.mark.slow, pytest.mark.comfyui]


def kill_when_busy(server):
    """End a server's process at once, as soon as a job runs there."""
    while not server.client.get("/queue")["queue_running"]:
        time.sleep(0.05)
    os.kill(server.process_id, signal.SIGKILL)


def test_a_killed_server_costs_no_clip(tmp_path, capsys):
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in "abcdef":
        (clips / f"{name}.mp4").write_bytes(f"not opened by anybody: {name}".encode())
    workflow = report(video=["v", 0], seconds=1.0)
    workflow["v"] = {"class_type": "LoadVideo", "inputs": {"file": "chosen.mp4"}}
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps(workflow))
    packs = {"small": SMALL_PACK}
    with (
        comfyui_server(tmp_path / "one", packs=packs, with_tokenreel=False) as one,
        comfyui_server(tmp_path / "two", packs=packs, with_tokenreel=False) as two,
    ):
        given = ["run", str(path), "--on", one.url, two.url, "--clips", str(clips), "--output", str(tmp_path / "out")]
        killer = threading.Thread(target=kill_when_busy, args=(two,))
        killer.start()
        code = cli.main([*given, "--json"])
        killer.join()
        out, err = capsys.readouterr()
        assert code == 0, err
        facts = json.loads(out)
        assert (facts["clips_done"], facts["clips_failed"]) == (6, 0)
        (again,) = [result for result in facts["results"] if len(result["attempts"]) > 1]
        assert [attempt["on"] for attempt in again["attempts"]] == [two.url, one.url]
        assert f"{two.url} does not answer; asking again" in err
        for result in facts["results"]:
            folder = tmp_path / "out" / result["clip"]
            assert result["files"] == [str(folder / "report" / "x_00001_.txt")]
            assert f"/input/{result['clip']}.mp4" in (folder / "report" / "x_00001_.txt").read_text()
            assert json.loads((folder / "job.json").read_text())["status"] == "done"

        (tmp_path / "out" / "c" / "report" / "x_00001_.txt").unlink()
        assert cli.main([*given, "--resume", "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert (facts["clips_done"], facts["clips_skipped"]) == (1, 5)
        assert (tmp_path / "out" / "c" / "report" / "x_00001_.txt").is_file()
