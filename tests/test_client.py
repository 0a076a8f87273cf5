"""Workflows on a ComfyUI server: what is sent, fetched and said; once against a real one."""

import contextlib
import json
import os
import re
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from comfyui_server import LOAD_CHECKOUT, comfyui_server, needs_comfyui

from tokenreel.host import resources
from tokenreel.host.client import ComfyClient, ServerError, run_on_server
from tokenreel.host.runner import NodeError
from tokenreel.host.workflow import WorkflowError

WORKFLOW = {"1": {"class_type": "LoadVideo", "inputs": {"file": "a.mp4"}}, "2": {"class_type": "Save", "inputs": {}}}


class FakeServer:
    """Answers with what a test puts into `answers`: path without query -> (status, content), or a list of these."""

    def __init__(self):
        self.requests: list[tuple[str, bytes]] = []
        self.answers: dict = {
            "/prompt": (200, {"prompt_id": "p", "node_errors": {}}),
            "/queue": (200, {"queue_running": [], "queue_pending": []}),
            "/interrupt": (200, b""),
        }

    def answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        self.requests.append((path, body))
        answer = self.answers.get(path.split("?")[0], (404, b"nothing here"))
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        status, content = answer
        return status, content if isinstance(content, bytes) else json.dumps(content).encode()

    def body(self, path: str) -> dict:
        return json.loads(next(body for asked, body in self.requests if asked == path and body))


@pytest.fixture
def fake():
    state = FakeServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply(b"")

        def do_POST(self):
            self.reply(self.rfile.read(int(self.headers["Content-Length"])))

        def reply(self, body):
            status, content = state.answer(self.path, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def done(outputs=None, messages=()):
    return (200, {"p": {"outputs": outputs or {}, "status": {"messages": list(messages)}}})


def test_sends_inputs_and_fetches_outputs(fake, tmp_path):
    saved = {"filename": "x_00001_.mp4", "subfolder": "video", "type": "output"}
    preview = {"filename": "t.png", "subfolder": "", "type": "temp"}
    fake.answers["/upload/image"] = (200, {"name": "a (1).mp4", "subfolder": "", "type": "input"})
    fake.answers["/history/p"] = [(200, {}), (200, {}), done({"2": {"images": [saved, preview], "text": ["ok"]}})]
    fake.answers["/queue"] = (200, {"queue_running": [[0, "p"]], "queue_pending": []})
    fake.answers["/view"] = (200, b"film")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(b"moving pictures")
    said = []
    result = run_on_server(
        WORKFLOW, fake.url, {}, input_dir=tmp_path / "in", output_dir=tmp_path / "out", on_status=said.append
    )
    assert fake.body("/prompt")["prompt"]["1"]["inputs"]["file"] == "a (1).mp4"
    assert WORKFLOW["1"]["inputs"]["file"] == "a.mp4"
    upload = next(body for path, body in fake.requests if path == "/upload/image")
    assert b'name="image"; filename="a.mp4"' in upload and b"\r\n\r\nmoving pictures\r\n--" in upload
    assert result.files == [tmp_path / "out" / "video" / "x_00001_.mp4"]
    assert result.files[0].read_bytes() == b"film"
    assert result.texts == {"2": "ok"}
    assert said == ["sending a.mp4", "running on the server", "fetching x_00001_.mp4"]
    assert sum(path.startswith("/view") for path, _ in fake.requests) == 1


def test_a_file_that_is_not_here_is_the_servers(fake, tmp_path):
    fake.answers["/history/p"] = done()
    run_on_server(WORKFLOW, fake.url, {}, input_dir=tmp_path)
    assert fake.body("/prompt")["prompt"] == WORKFLOW


def test_what_the_server_refuses(fake, tmp_path):
    error = {"type": "value_not_in_list", "message": "Value not in list", "details": "file: 'x'", "extra_info": {}}
    error["extra_info"]["input_name"] = "file"
    refused = {
        "error": {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation"},
        "node_errors": {"1": {"errors": [error], "class_type": "LoadVideo", "dependent_outputs": ["2"]}},
    }
    fake.answers["/prompt"] = (400, refused)
    with pytest.raises(WorkflowError, match=r"^node 1 \(LoadVideo\), input file: Value not in list: file: 'x'$") as e:
        run_on_server(WORKFLOW, fake.url, {}, input_dir=tmp_path)
    assert e.value.problems[0].type == "value_not_in_list"
    fake.answers["/prompt"] = (400, {"error": {"type": "missing_node_type", "message": "Node 'Save' not found."}})
    with pytest.raises(WorkflowError, match="Node 'Save' not found"):
        run_on_server(WORKFLOW, fake.url, {}, input_dir=tmp_path)


def test_a_workflow_that_is_partly_wrong_is_taken_back(fake, tmp_path):
    error = {"type": "x", "message": "bad", "details": "", "extra_info": {}}
    errors = {"1": {"errors": [error], "class_type": "LoadVideo"}}
    fake.answers["/prompt"] = (200, {"prompt_id": "p", "node_errors": errors})
    with pytest.raises(WorkflowError, match="node 1"):
        run_on_server(WORKFLOW, fake.url, {}, input_dir=tmp_path)
    assert fake.body("/queue") == {"delete": ["p"]}


def test_a_node_that_fails_there(fake, tmp_path):
    message = {"node_id": 2, "node_type": "Save", "exception_message": "no room\n", "exception_type": "OSError"}
    fake.answers["/history/p"] = done(messages=[["execution_start", {}], ["execution_error", message]])
    with pytest.raises(NodeError, match=r"^node 2 \(Save\): no room$"):
        run_on_server(WORKFLOW, fake.url, {}, input_dir=tmp_path)
    fake.answers["/history/p"] = done(messages=[["execution_interrupted", {}]])
    with pytest.raises(ServerError, match="interrupted on the server"):
        run_on_server(WORKFLOW, fake.url, {}, input_dir=tmp_path)


def test_a_name_from_the_server_cannot_leave_the_output_folder(fake, tmp_path):
    saved = {"filename": "x.mp4", "subfolder": "../..", "type": "output"}
    fake.answers["/history/p"] = done({"2": {"images": [saved]}})
    with pytest.raises(ValueError, match=r"it has '\.\.'"):
        run_on_server(WORKFLOW, fake.url, {}, input_dir=tmp_path, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_download_that_breaks_off_leaves_nothing(fake, tmp_path, monkeypatch):
    fake.answers["/view"] = (200, b"film")

    def broken(self, answer):
        raise ServerError("broke off")

    monkeypatch.setattr(ComfyClient, "_read", broken)
    with pytest.raises(ServerError, match="broke off"):
        ComfyClient(fake.url).download({"filename": "x.mp4", "subfolder": "", "type": "output"}, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_takes_the_job_back(fake, tmp_path):
    fake.answers["/history/p"] = (200, {})
    fake.answers["/queue"] = (200, {"queue_running": [[0, "p"]], "queue_pending": []})
    timer = threading.Timer(0.8, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(resources.Cancelled):
        run_on_server(WORKFLOW, fake.url, {}, input_dir=tmp_path)
    assert fake.body("/queue") == {"delete": ["p"]}
    assert fake.body("/interrupt") == {"prompt_id": "p"}


@pytest.mark.parametrize("url", ["127.0.0.1:8188", "ftp://host", "http://", "file:///etc/passwd"])
def test_addresses(url):
    with pytest.raises(ServerError, match="Invalid address"):
        ComfyClient(url)


def test_servers_that_are_none(fake, tmp_path):
    with pytest.raises(ServerError, match=r"refused /prompt: HTTP 404"):
        fake.answers.pop("/prompt")
        run_on_server(WORKFLOW, fake.url, {}, input_dir=tmp_path)
    fake.answers["/prompt"] = (200, b"<html>hello</html>")
    with pytest.raises(ServerError, match="does not answer like a ComfyUI"):
        run_on_server(WORKFLOW, fake.url, {}, input_dir=tmp_path)
    with pytest.raises(ServerError, match=r"No ComfyUI answers at http://127\.0\.0\.1:9"):
        run_on_server(WORKFLOW, "http://127.0.0.1:9", {}, input_dir=tmp_path)
    fake.answers["/upload/image"] = (413, b"")
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(ServerError, match="--max-upload-size"):
        run_on_server(WORKFLOW, fake.url, {}, input_dir=tmp_path)


SMALL_PACK = (
    LOAD_CHECKOUT
    + """
import time
from tokenreel.host import api, files, resources
from tokenreel.host.api import io, ui

class Report(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="TestReport", search_aliases=["x"], is_output_node=True,
            inputs=[io.Video.Input("video", optional=True), io.Float.Input("seconds", default=0.0, advanced=True),
                io.String.Input("error", default="")])

    @classmethod
    def execute(cls, seconds, error, video=None):
        if error:
            raise ValueError(error)
        with resources.progress(int(seconds * 50), "waiting") as progress:
            for _ in range(int(seconds * 50)):
                time.sleep(0.02)
                progress.update()
        with files.output_path("report/x", ".txt") as file:
            with open(file.path, "w") as out:
                out.write(str(api.video_source(video)) if video else "none")
        saved = ui.SavedResult(file.filename, file.subfolder, io.FolderType.output)
        return io.NodeOutput(ui={"images": [saved], "text": [str(api.IS_COMFYUI)]})

class Extension(api.ComfyExtension):
    async def on_load(self):
        files.register_model_folders()

    async def get_node_list(self):
        files.register_model_folders()  # ComfyUI 0.3.64 does not call on_load
        return [Report]

async def comfy_entrypoint():
    return Extension()
"""
)


def report(**inputs):
    return {"r": {"class_type": "TestReport", "inputs": {"seconds": 0, "error": "", **inputs}}}


@needs_comfyui
@pytest.mark.slow
@pytest.mark.comfyui
def test_a_real_server(tmp_path):
    with comfyui_server(tmp_path / "base", packs={"small": SMALL_PACK}, with_tokenreel=False) as server:
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "clip.mp4").write_bytes(b"not opened by anybody")
        workflow = report(video=["v", 0])
        workflow["v"] = {"class_type": "LoadVideo", "inputs": {"file": "clip.mp4"}}
        result = run_on_server(workflow, server.url, {}, input_dir=tmp_path / "in", output_dir=tmp_path / "out")
        assert result.texts == {"r": "True"}
        assert result.files == [tmp_path / "out" / "report" / "x_00001_.txt"]
        assert re.search(r"/input/clip\.mp4', start=Fraction\(0, 1\), duration=None", result.files[0].read_text())
        assert server.client.get("/models/video_tokenizers") == []

        with pytest.raises(WorkflowError, match=r"^node r \(TestReport\), input seconds: Required input is missing"):
            run_on_server({"r": {"class_type": "TestReport", "inputs": {"error": ""}}}, server.url, {})
        with pytest.raises(WorkflowError, match=r"Nothing'? (not found|does not exist)"):
            run_on_server({"r": {"class_type": "Nothing", "inputs": {}}}, server.url, {})
        with pytest.raises(NodeError, match=r"^node r \(TestReport\): it broke$"):
            run_on_server(report(error="it broke"), server.url, {})

        timer = threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(resources.Cancelled):
            run_on_server(report(seconds=100), server.url, {})
        with contextlib.suppress(ServerError):
            assert server.client.get("/queue")["queue_pending"] == []
        again = run_on_server(report(), server.url, {}, output_dir=tmp_path / "out")
        assert [path.name for path in again.files] == ["x_00002_.txt"]
