"""What a ComfyUI server tells of a job while it runs, as lines for the person at the screen."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from .websocket import WebSocket, WebSocketError
from .workflow import Workflow, title_of

_OVER = frozenset({"execution_success", "execution_error", "execution_interrupted"})
_LEAST_PAUSE = 2.0  # seconds between two lines on one node
_MOST_PAUSE = 10.0  # seconds after which a line comes for the smallest step
_STEP = 0.05  # of the whole: else a line comes for a step of this size


class Listener:
    """A connection to the server's WebSocket as client `client_id`; close it in the end.

    Where there is none, or it breaks, `tell` hears of it once, `connected` is False, and nothing is heard any more:
    the job itself goes on, and can be asked after.
    """

    def __init__(self, url: str, client_id: str, tell: Callable[[str], None]):
        self._tell = tell
        self._socket: WebSocket | None = None
        try:
            self._socket = WebSocket(f"{url}/ws?clientId={client_id}")
        except WebSocketError as error:
            tell(f"note: no WebSocket at {url} ({error}): asking twice a second instead, without the nodes' progress")

    @property
    def connected(self) -> bool:
        return self._socket is not None

    def hear(self, timeout: float) -> tuple[str, dict[str, Any]] | None:
        """The next message as its type and data; None when none comes within `timeout` seconds."""
        if self._socket is None:
            time.sleep(timeout)
            return None
        try:
            text = self._socket.receive(timeout)
        except WebSocketError as error:
            self.close()
            self._tell(
                f"note: the WebSocket broke ({error}): asking twice a second instead, without the nodes' progress"
            )
            return None
        return _message(text) if text is not None else None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _message(text: str) -> tuple[str, dict[str, Any]] | None:
    try:
        message = json.loads(text)
    except ValueError:
        return None
    if not isinstance(message, dict) or not isinstance(message.get("data"), dict):
        return None  # nothing that ComfyUI says of a job
    return str(message.get("type")), message["data"]


class JobLines:
    """Turns the messages on one job into lines: a node's name when it is through, and how far it is meanwhile."""

    def __init__(self, prompt_id: str, workflow: Workflow, tell: Callable[[str], None]):
        self._prompt_id = prompt_id
        self._workflow = workflow
        self._tell = tell
        self._seen: list[str] = []  # nodes in the order in which they began
        self._running = ""
        self._begin = 0.0
        self._said_at = 0.0
        self._said = 0.0  # share of the running node's work

    def take(self, kind: str, data: dict[str, Any]) -> bool:
        """Tell what a message says; whether the job is over with it."""
        if data.get("prompt_id") != self._prompt_id:
            return False
        if kind == "execution_cached":
            for node_id in data.get("nodes") or ():
                if node_id in self._workflow:  # and not one that a node brought along
                    self._tell(f"{self._place(str(node_id))}: as before")
        elif kind == "executing":
            self._begin_node(str(data.get("display_node") or data.get("node") or ""))
            return data.get("node") is None
        elif kind == "progress":
            self._take_progress(data)
        elif kind in _OVER:
            self._begin_node("")
            return True
        return False

    def _begin_node(self, node_id: str) -> None:
        now = time.monotonic()
        if node_id == self._running:
            return
        if self._running:
            self._tell(f"{self._place(self._running)}: {now - self._begin:.1f} s")
        self._running, self._begin, self._said_at, self._said = node_id, now, now, 0.0
        if node_id:
            self._place(node_id)

    def _take_progress(self, data: dict[str, Any]) -> None:
        node_id, value, total = data.get("node"), data.get("value"), data.get("max")
        if not (isinstance(value, (int, float)) and isinstance(total, (int, float)) and total > 0) or not node_id:
            return
        share, now = value / total, time.monotonic()
        pause = now - self._said_at
        if pause < _LEAST_PAUSE or (share - self._said < _STEP and pause < _MOST_PAUSE):
            return
        shown = str(node_id) if str(node_id) in self._workflow else self._running  # else one that a node brought along
        self._tell(f"{self._place(shown or str(node_id))}: {share:.0%}, {value:.0f} of {total:.0f}")
        self._said_at, self._said = now, share

    def _place(self, node_id: str) -> str:
        """Which of how many it is, and its title."""
        if node_id not in self._seen:
            self._seen.append(node_id)
        total = max(len(self._workflow), len(self._seen))
        return f"[{self._seen.index(node_id) + 1}/{total}] {title_of(self._workflow, node_id) or f'node {node_id}'}"
