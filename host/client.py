"""Runs an API-format workflow on a ComfyUI server over HTTP: the pack's only network client, used by `run --on`."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..tokens.whole_files import whole_file
from . import files, resources
from .runner import NodeError, RunResult
from .server_events import JobLines, Listener
from .workflow import Nodes, Problem, Workflow, WorkflowError, apply_overrides, title_of

_UPLOADED_INPUTS = frozenset({"file", "video", "image", "audio", "tokens"})  # widgets that name a file to send along
_POLL = 0.5  # seconds between two looks at the server
_POLL_BESIDE = 5.0  # seconds between two looks while the server tells by itself what it does
_POLL_AT_END = 0.05  # seconds, once it has told that the job is over
_BEAT = 0.25  # seconds between two looks for Ctrl-C
_PATIENCE = 15.0  # seconds that a server may be silent before a run is given up
_MISSES = 4  # looks in a row in which a job is neither in the queue nor done: then it is lost
_REQUEST_LIMIT = 60.0  # seconds for one request
_ANSWER_LIMIT = 10.0  # seconds for the question whether somebody is there
_RUNNING = "running on the server"


class ServerError(RuntimeError):
    """A ComfyUI server that cannot be reached or does not do what it should. One line with the address."""


def run_on_server(
    workflow: Workflow,
    url: str,
    nodes: Nodes,
    *,
    overrides: Iterable[str] = (),
    input_dir: str | os.PathLike[str] | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    inputs: Mapping[str, str] | None = None,
    on_status: Callable[[str], None] | None = None,
) -> RunResult:
    """Send `workflow` and the input files that it names to the ComfyUI at `url`, wait, and fetch what came out.

    Files named in inputs are sent when they lie in the local input folder, or when `inputs` says where they lie;
    otherwise the server must have them. `on_status` hears in one line each what is being done: the server tells by its
    WebSocket which node runs and how far it is; where there is none, it is looked after twice a second. Ctrl-C takes
    the job back from the server.

    Raises `WorkflowError` for what the server refuses, `NodeError` when a node fails there, `ServerError`, and
    `resources.Cancelled`.
    """
    tell = on_status or (lambda line: None)
    client = ComfyClient(url)
    with files.session(input_dir=input_dir, output_dir=output_dir, inputs=inputs), resources.cancellable():
        prepared = apply_overrides(workflow, overrides, nodes)
        _send_inputs(client, prepared, inputs or {}, tell)
        outputs = _run(client, prepared, tell)
        result = RunResult(ui=outputs)
        for entry in _saved_files(outputs):
            tell(f"fetching {entry['filename']}")
            result.files.append(client.download(entry, files.output_dir()))
        return result


def _run(client: ComfyClient, workflow: Workflow, tell: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    client_id = uuid.uuid4().hex
    listener = Listener(client.url, client_id, tell)
    try:
        prompt_id = client.submit(workflow, client_id)
        try:
            return client.wait(prompt_id, tell, workflow, listener)
        except (resources.Cancelled, KeyboardInterrupt):
            client.cancel(prompt_id)
            raise
    finally:
        listener.close()


class ComfyClient:
    """A ComfyUI server at `url`, like `http://127.0.0.1:8188`."""

    def __init__(self, url: str):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ServerError(f"Invalid address {url!r}. Write it like http://127.0.0.1:8188.")
        self.url = url.rstrip("/")
        # a proxy of the environment knows nothing of this machine's own ports
        own = parts.hostname in ("localhost", "127.0.0.1", "::1")
        self._opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if own else []))

    def get(self, path: str) -> Any:
        """The JSON answer to `GET path`."""
        return self._json("GET", path)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON answer to `POST path` with a JSON body; None when it is empty."""
        data = json.dumps(body).encode()
        return self._json("POST", path, data, {"Content-Type": "application/json"})

    def answers(self) -> bool:
        """Whether a ComfyUI can be reached here within a few seconds."""
        try:
            self._json("GET", "/queue", limit=_ANSWER_LIMIT)
        except ServerError:
            return False
        return True

    def upload(self, path: str | os.PathLike[str]) -> str:
        """Put a file into the server's input folder; the name that it has there, which may be another."""
        name = os.path.basename(path)
        quoted = name.replace("\\", "_").replace('"', "%22")
        boundary = uuid.uuid4().hex
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{quoted}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(head) + os.path.getsize(path) + len(tail)),
        }
        with open(path, "rb") as file:
            answer = self._json("POST", "/upload/image", _Joined([io.BytesIO(head), file, io.BytesIO(tail)]), headers)
        return f"{answer['subfolder']}/{answer['name']}" if answer.get("subfolder") else answer["name"]

    def submit(self, workflow: Workflow, client_id: str = "") -> str:
        """Queue a workflow; its prompt id. Raises `WorkflowError` with what the server says is wrong.

        `client_id` is the one that a `Listener` has connected with.
        """
        body = json.dumps({"prompt": workflow, "client_id": client_id or uuid.uuid4().hex}).encode()
        try:
            answer = self._json("POST", "/prompt", body, {"Content-Type": "application/json"}, keep_400=True)
        except _RefusedError as error:
            raise WorkflowError(_problems(error.answer, workflow)) from None
        if answer.get("node_errors"):  # some outputs are wrong, others would run: that is not what was asked for
            self.cancel(answer["prompt_id"])
            raise WorkflowError(_problems(answer, workflow))
        return answer["prompt_id"]

    def wait(
        self,
        prompt_id: str,
        tell: Callable[[str], None],
        workflow: Workflow | None = None,
        listener: Listener | None = None,
    ) -> dict[str, dict[str, Any]]:
        """The `ui` dicts of a job by node id, when it is done. Raises `NodeError` if it failed.

        `workflow` and `listener` are those of the job, so that its steps can be told.
        """
        lines = JobLines(prompt_id, workflow or {}, tell)
        said, heard, misses, over = "", time.monotonic(), 0, False
        while True:
            resources.check_cancelled()
            connected = listener is not None and listener.connected
            try:
                ended, state = self._look(prompt_id)
                heard = time.monotonic()
            except ServerError:
                if time.monotonic() - heard > _PATIENCE:
                    raise
                ended, state = None, said
            if ended is not None:
                if connected and not over:
                    _listen(listener, lines, _POLL)  # what it has told since the last look
                return _finished(ended, workflow or {}, self.url)
            misses = 0 if state else misses + 1
            if misses >= _MISSES:
                raise ServerError(
                    f"The ComfyUI at {self.url} no longer knows the job: it was restarted, or its history cleared."
                )
            if state and state != said and not (connected and state == _RUNNING):
                tell(state)
                said = state
            pause = _POLL_AT_END if over else _POLL_BESIDE if connected and state else _POLL
            over = _listen(listener, lines, pause) or over

    def cancel(self, prompt_id: str) -> None:
        """Take a job out of the queue, or interrupt it. A job that has ended stays as it is."""
        with contextlib.suppress(ServerError):
            self.post("/queue", {"delete": [prompt_id]})
            if any(job[1] == prompt_id for job in self.get("/queue")["queue_running"]):
                self.post("/interrupt", {"prompt_id": prompt_id})

    def download(self, entry: dict[str, str], folder: str) -> Path:
        """Fetch a saved file into the same subfolder of `folder`; an older file of that name is replaced when whole."""
        name = f"{entry['subfolder']}/{entry['filename']}" if entry.get("subfolder") else entry["filename"]
        target = Path(files.contained(folder, name))
        target.parent.mkdir(parents=True, exist_ok=True)
        query = {"filename": entry["filename"], "subfolder": entry.get("subfolder", ""), "type": entry["type"]}
        with self._open("GET", "/view?" + urllib.parse.urlencode(query)) as answer, whole_file(target) as file:
            while block := self._read(answer):
                resources.check_cancelled()
                file.write(block)
        return target

    def _look(self, prompt_id: str) -> tuple[dict[str, Any] | None, str]:
        """What the history says of a job, and where it is; None and "" as long as they have nothing."""
        history = self.get(f"/history/{prompt_id}")
        return (history[prompt_id], "") if prompt_id in history else (None, self._state(prompt_id))

    def _state(self, prompt_id: str) -> str:
        queue = self.get("/queue")
        if any(job[1] == prompt_id for job in queue["queue_running"]):
            return _RUNNING
        mine = [job[0] for job in queue["queue_pending"] if job[1] == prompt_id]
        if not mine:
            return ""
        before = len(queue["queue_running"]) + sum(job[0] < mine[0] for job in queue["queue_pending"])
        return f"waiting in the server's queue, {before} before it" if before else _RUNNING

    def _read(self, answer: Any) -> bytes:
        try:
            return answer.read(1 << 20)
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(f"ComfyUI at {self.url} broke off a download ({error}).") from error

    def _json(self, method: str, path: str, data: Any = None, headers: Any = None, **options: Any) -> Any:
        with self._open(method, path, data, headers, **options) as answer:
            try:
                text = answer.read()
                return json.loads(text) if text else None
            except (OSError, ValueError, http.client.HTTPException) as error:
                raise ServerError(f"{self.url} does not answer like a ComfyUI ({error}). Check the address.") from error

    def _open(
        self,
        method: str,
        path: str,
        data: Any = None,
        headers: Any = None,
        *,
        keep_400: bool = False,
        limit: float = _REQUEST_LIMIT,
    ) -> Any:
        request = urllib.request.Request(self.url + path, data=data, headers=headers or {}, method=method)
        try:
            return self._opener.open(request, timeout=limit)
        except urllib.error.HTTPError as error:
            if error.code == 400 and keep_400:
                with contextlib.suppress(ValueError):
                    raise _RefusedError(json.load(error)) from None
            hint = " The file is bigger than it takes: start it with --max-upload-size." if error.code == 413 else ""
            raise ServerError(
                f"ComfyUI at {self.url} refused {path.split('?')[0]}: HTTP {error.code}.{hint}"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise ServerError(
                f"No ComfyUI answers at {self.url} ({reason}). Start it, or check the address."
            ) from error


class _RefusedError(Exception):
    def __init__(self, answer: dict[str, Any]):
        self.answer = answer


class _Joined:
    """Files read one after the other, so that an upload is never in memory as a whole."""

    def __init__(self, parts: list[BinaryIO | io.BytesIO]):
        self._parts = parts

    def read(self, size: int = 1 << 16) -> bytes:
        while self._parts:
            resources.check_cancelled()
            if block := self._parts[0].read(size):
                return block
            self._parts.pop(0)
        return b""


def _listen(listener: Listener | None, lines: JobLines, seconds: float) -> bool:
    """Tell what the server says for `seconds`, or until the job is over; whether it is."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        resources.check_cancelled()
        if listener is None or not listener.connected:
            time.sleep(min(left, _BEAT))
        elif (message := listener.hear(min(left, _BEAT))) is not None and lines.take(*message):
            return True
        elif not listener.connected:  # it has just ended: from now on the queue tells more
            return False
    return False


def _send_inputs(
    client: ComfyClient, workflow: Workflow, inputs: Mapping[str, str], tell: Callable[[str], None]
) -> None:
    sent: dict[str, str] = {}
    for node in workflow.values():
        for name, value in node["inputs"].items():
            if not isinstance(value, str) or (name not in _UPLOADED_INPUTS and value not in inputs):
                continue
            with contextlib.suppress(files.FileNameError):  # not here: then the server has it, or says that it has not
                path = files.resolve_input(value)
                if path not in sent:
                    tell(f"sending {os.path.basename(path)}")
                    sent[path] = client.upload(path)
                node["inputs"][name] = sent[path]


def _saved_files(outputs: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    entries = [entry for ui in outputs.values() for value in ui.values() if isinstance(value, list) for entry in value]
    saved = [entry for entry in entries if isinstance(entry, dict) and entry.get("type") == "output"]
    return list({(entry.get("subfolder"), entry["filename"]): entry for entry in saved}.values())


def _problems(answer: dict[str, Any], workflow: Workflow) -> list[Problem]:
    """ComfyUI's `error` and `node_errors` as problems."""
    problems = []
    for node_id, node in (answer.get("node_errors") or {}).items():
        for error in node["errors"]:
            input_name = (error.get("extra_info") or {}).get("input_name", "")
            details = error.get("details")  # often no more than the input's name
            text = error["message"] if details in (None, "", input_name) else f"{error['message']}: {details}"
            where = (node_id, node["class_type"], input_name, title_of(workflow, node_id))
            problems.append(Problem(error["type"], " ".join(text.split()), *where))
    if not problems:
        found = answer.get("error") or answer
        error: dict[str, Any] = found if "message" in found else {"type": "invalid_prompt", "message": str(found)}
        node_id = str((error.get("extra_info") or {}).get("node_id", ""))
        class_type, title = workflow.get(node_id, {}).get("class_type", ""), title_of(workflow, node_id)
        problems.append(Problem(error["type"], " ".join(error["message"].split()), node_id, class_type, title=title))
    return problems


def _finished(entry: dict[str, Any], workflow: Workflow, url: str) -> dict[str, dict[str, Any]]:
    for kind, message in (entry.get("status") or {}).get("messages", []):
        if kind == "execution_error":
            text = " ".join(message["exception_message"].split()) or message["exception_type"]
            node_id = str(message["node_id"])
            raise NodeError(node_id, message["node_type"], text, title_of(workflow, node_id))
        if kind == "execution_interrupted":
            raise ServerError(f"The job was interrupted on the server {url}.")
    return entry["outputs"]
