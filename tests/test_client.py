"""Workflows on a ComfyUI server: what is sent, fetched and said; once against a real one."""

import base64
import contextlib
import hashlib
import json
import os
import re
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from comfyui_server import comfyui_server, needs_comfyui
from small_pack import SMALL_PACK, report

from tokenreel.host import client, resources, server_events
from tokenreel.host.client import ComfyClient, ServerError, run_on_server
from tokenreel.host.runner import NodeError
from tokenreel.host.workflow import WorkflowError

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455
POLLING = r"note: no WebSocket at http://127\.0\.0\.1:\d+ \(it answers HTTP 404\): asking twice a second instead, .*"
WORKFLOW = {"1": {"class_type": "LoadVideo", "inputs": {"file": "a.mp4"}}, "2": {"class_type": "Save", "inputs": {}}}


class FakeServer:
    """Answers with what a test puts into `answers`: path without query -> (status, content), or a list of these."""

    def __init__(self):
        self.requests: list[tuple[str, bytes]] = []
        self.events: list | None = None  # what the WebSocket says to whoever comes; None: there is none
        self.hangs_up = False  # after these
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
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            if self.path.startswith("/ws?") and state.events is not None:
                self.tell_events()
            else:
                self.reply(b"")

        def tell_events(self):
            state.requests.append((self.path, b""))
            accept = base64.b64encode(hashlib.sha1((self.headers["Sec-WebSocket-Key"] + GUID).encode()).digest())
            self.send_response(101)
            for name, value in (("Upgrade", "websocket"), ("Connection", "Upgrade")):
                self.send_header(name, value)
            self.send_header("Sec-WebSocket-Accept", accept.decode())
            self.end_headers()
            for event in state.events:
                text = event if isinstance(event, bytes) else json.dumps(event).encode()
                self.wfile.write(bytes([0x81, 126]) + len(text).to_bytes(2, "big") + text)
            while not state.hangs_up and self.rfile.read(1):
                pass
            self.close_connection = True

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
    assert [said[0], *said[2:]] == ["sending a.mp4", "running on the server", "fetching x_00001_.mp4"]
    assert re.fullmatch(POLLING, said[1])
    assert sum(path.startswith("/view") for path, _ in fake.requests) == 1


def event(kind, prompt_id="p", **data):
    return {"type": kind, "data": {"prompt_id": prompt_id, **data}}


NAMED = {
    "1": {"class_type": "LoadVideo", "inputs": {}},
    "2": {"class_type": "Work", "inputs": {}, "_meta": {"title": "The long work"}},
    "3": {"class_type": "Save", "inputs": {}},
}


def test_tells_what_the_server_does(fake, monkeypatch):
    """By the WebSocket, node by node, and nothing of others' jobs; the job's end is seen at once."""
    monkeypatch.setattr(server_events, "_LEAST_PAUSE", 0)
    steps = [event("progress", node="2", value=value, max=40) for value in (0, 1, 3, 4, 40)]
    fake.events = [
        {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 1}}, "sid": "me"}},
        b"no JSON", [], {"type": "x"}, {"type": "progress", "data": {"prompt_id": "p", "node": "2", "value": "x"}},
        event("execution_cached", nodes=["1"]),
        event("executing", prompt_id="another", node="3"),
        event("executing", node="2"),
        *steps,
        event("executing", node="2.0.1", display_node="2"),  # brought along by node 2
        event("executing", node="3"),
        event("execution_success"),
    ]  # fmt: skip
    running = (200, {"queue_running": [[0, "p"]], "queue_pending": []})
    fake.answers |= {"/history/p": [(200, {}), done()], "/queue": running}
    said = []
    begin = time.monotonic()
    run_on_server(NAMED, fake.url, {}, on_status=said.append)
    assert time.monotonic() - begin < client._POLL_BESIDE / 2
    assert [re.sub(r"\d\.\d s", "T", line) for line in said] == [
        "[1/3] LoadVideo: as before",
        *(f"[2/3] The long work: {how}" for how in ("8%, 3 of 40", "100%, 40 of 40", "T")),
        "[3/3] Save: T",
    ]
    asked = next(path for path, _ in fake.requests if path.startswith("/ws"))
    assert asked == f"/ws?clientId={fake.body('/prompt')['client_id']}"
    assert sum(path.startswith("/history") for path, _ in fake.requests) == 2


def test_tells_all_also_when_the_end_is_seen_first(fake):
    fake.events = [event("executing", node="2"), event("executing", node="3"), event("execution_success")]
    fake.answers["/history/p"] = done()
    said = []
    run_on_server(NAMED, fake.url, {}, on_status=said.append)
    assert [line.partition(":")[0] for line in said] == ["[1/3] The long work", "[2/3] Save"]


def test_a_socket_that_breaks_is_said_and_the_job_goes_on(fake):
    fake.events, fake.hangs_up = [event("executing", node="2")], True
    fake.answers["/history/p"] = [(200, {}), (200, {}), done({"3": {"text": ["ok"]}})]
    fake.answers["/queue"] = (200, {"queue_running": [[0, "p"]], "queue_pending": []})
    said = []
    begin = time.monotonic()
    assert run_on_server(NAMED, fake.url, {}, on_status=said.append).texts == {"3": "ok"}
    assert time.monotonic() - begin < client._POLL_BESIDE / 2
    assert re.match(r"note: the WebSocket broke \(the server hung up\): asking twice a second", said[0])
    assert said[1:] == ["running on the server"]


def test_a_place_in_the_queue_is_said(fake):
    pending = [[4, "p"], [3, "other"], [5, "later"]]
    queues = [
        {"queue_running": [[2, "first"]], "queue_pending": pending},
        {"queue_running": [], "queue_pending": [[4, "p"]]},
    ]
    fake.answers |= {"/queue": [(200, queue) for queue in queues], "/history/p": [(200, {}), (200, {}), done()]}
    said = []
    run_on_server(NAMED, fake.url, {}, on_status=said.append)
    assert said[1:] == ["waiting in the server's queue, 2 before it", "running on the server"]


def test_a_job_that_the_server_has_lost(fake):
    fake.answers["/history/p"] = (200, {})
    with pytest.raises(ServerError, match=r"no longer knows the job: it was restarted"):
        run_on_server(NAMED, fake.url, {})


def test_an_input_may_lie_anywhere(fake, tmp_path):
    fake.answers["/upload/image"] = (200, {"name": "b.mp4", "subfolder": "", "type": "input"})
    fake.answers["/history/p"] = done()
    (tmp_path / "elsewhere.mp4").write_bytes(b"film")
    workflow = {"1": {"class_type": "Odd", "inputs": {"source": "clip", "other": "b"}}}
    run_on_server(workflow, fake.url, {}, inputs={"clip": str(tmp_path / "elsewhere.mp4")})
    assert fake.body("/prompt")["prompt"]["1"]["inputs"] == {"source": "b.mp4", "other": "b"}


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
    error["details"] = "file"
    with pytest.raises(WorkflowError, match=r"input file: Value not in list$"):
        run_on_server(WORKFLOW, fake.url, {}, input_dir=tmp_path)
    error["details"] = "file: 'x'"
    titled = {"1": {**WORKFLOW["1"], "_meta": {"title": "Clip"}}}
    with pytest.raises(WorkflowError, match=r"^node 1 \(Clip, LoadVideo\), input file: Value not in list: file: 'x'$"):
        run_on_server(titled, fake.url, {}, input_dir=tmp_path)
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
    titled = {"2": {**WORKFLOW["2"], "_meta": {"title": "Keep the clip"}}}
    with pytest.raises(NodeError, match=r"^node 2 \(Keep the clip, Save\): no room$"):
        run_on_server(titled, fake.url, {}, input_dir=tmp_path)
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_takes_the_job_back(fake, tmp_path, number):
    fake.answers["/history/p"] = (200, {})
    fake.answers["/queue"] = (200, {"queue_running": [[0, "p"]], "queue_pending": []})
    timer = threading.Timer(0.8, os.kill, (os.getpid(), number))
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

        said = []
        run_on_server(report(seconds=5), server.url, {}, output_dir=tmp_path / "out", on_status=said.append)
        *steps, whole = [line for line in said if not line.startswith("fetching")]
        assert 1 <= len(steps) <= 3, said  # a line in two seconds
        assert all(re.fullmatch(r"\[1/1\] TestReport: \d+%, \d+ of 250", line) for line in steps), said
        assert re.fullmatch(r"\[1/1\] TestReport: [5-9]\.\d s", whole)

        timer = threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(resources.Cancelled):
            run_on_server(report(seconds=100), server.url, {})
        with contextlib.suppress(ServerError):
            assert server.client.get("/queue")["queue_pending"] == []
        again = run_on_server(report(), server.url, {}, output_dir=tmp_path / "out")
        assert [path.name for path in again.files] == ["x_00003_.txt"]
