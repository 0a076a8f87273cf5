"""A WebSocket client (RFC 6455) on the standard library: it listens to a server's text messages.

https://www.rfc-editor.org/rfc/rfc6455. Binary messages are read and dropped: ComfyUI sends preview pictures in them.
No extension is offered, so that none may be used.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import os
import queue
import socket
import struct
import threading
import urllib.parse
from typing import BinaryIO

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10
_NORMAL, _AGAINST_PROTOCOL, _NOT_UTF8, _TOO_LONG = 1000, 1002, 1007, 1009  # section 7.4.1
_LONGEST_MESSAGE = 16 << 20  # bytes
_LONGEST_CONTROL = 125
_OPEN_LIMIT = 10.0  # seconds for the connection and its greeting


class WebSocketError(OSError):
    """A connection that was refused or is over, or a server that does not keep to the protocol. One line."""


class WebSocket:
    """An open connection to `url` (http, https, ws or wss). Use it in a `with` block.

    A thread of its own reads, so that `receive` can be given up at any time and pings are answered meanwhile. Raises
    `WebSocketError` when the server cannot be reached or refuses.
    """

    def __init__(self, url: str):
        parts = urllib.parse.urlsplit(url)
        secure = parts.scheme in ("https", "wss")
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port, timeout=_OPEN_LIMIT)
        self._sending = threading.Lock()
        self._texts: queue.SimpleQueue[str | WebSocketError] = queue.SimpleQueue()
        try:
            self._stream = self._greet(parts)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            if isinstance(error, WebSocketError):
                raise
            raise WebSocketError(f"{' '.join(str(error).split()) or type(error).__name__}") from error
        self._thread = threading.Thread(target=self._read_all, name="websocket", daemon=True)
        self._thread.start()

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def receive(self, timeout: float) -> str | None:
        """The next text message; None when none comes within `timeout` seconds.

        Raises `WebSocketError` once the connection is over and all that came before has been given.
        """
        try:
            text = self._texts.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(text, WebSocketError):
            self._texts.put(text)  # for whoever asks again
            raise text
        return text

    def close(self) -> None:
        """Say goodbye and end the connection; may be called again."""
        with contextlib.suppress(OSError):
            self._send(_CLOSE, struct.pack(">H", _NORMAL))
        connected = self._connection.sock
        if connected is not None:
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)  # wakes up the thread that reads
        self._thread.join(timeout=_OPEN_LIMIT)
        self._connection.close()

    def _greet(self, parts: urllib.parse.SplitResult) -> BinaryIO:
        """Ask for the protocol (section 4.1); what to read from when the server agrees."""
        key = base64.b64encode(os.urandom(16)).decode()
        path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        headers = {"Upgrade": "websocket", "Connection": "Upgrade"}
        headers |= {"Sec-WebSocket-Key": key, "Sec-WebSocket-Version": "13"}
        self._connection.request("GET", path, headers=headers)
        answer = self._connection.getresponse()
        if answer.status != http.client.SWITCHING_PROTOCOLS:
            raise WebSocketError(f"it answers HTTP {answer.status}")
        expected = base64.b64encode(hashlib.sha1((key + _GUID).encode(), usedforsecurity=False).digest()).decode()
        if (
            self._connection.sock is None  # closed, as HTTP/1.0 wants it
            or answer.headers.get("Upgrade", "").lower() != "websocket"
            or "upgrade" not in answer.headers.get("Connection", "").lower()
            or answer.headers.get("Sec-WebSocket-Accept", "").strip() != expected
            or "Sec-WebSocket-Extensions" in answer.headers
            or "Sec-WebSocket-Protocol" in answer.headers
        ):
            raise WebSocketError("it does not speak the WebSocket protocol")
        self._connection.sock.settimeout(None)
        return answer.fp  # and not the socket: the first messages may be in its buffer

    def _send(self, kind: int, payload: bytes) -> None:
        """Send a control frame, masked as those of a client must be (section 5.3)."""
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        connected = self._connection.sock
        if connected is not None:
            with self._sending:
                connected.sendall(bytes([0x80 | kind, 0x80 | len(payload)]) + mask + masked)

    def _read_all(self) -> None:
        try:
            while True:
                self._texts.put(self._next_text())
        except _ViolationError as error:
            with contextlib.suppress(OSError):
                self._send(_CLOSE, struct.pack(">H", error.code))
            self._texts.put(WebSocketError(str(error)))
        except WebSocketError as error:
            self._texts.put(error)
        except (OSError, ValueError) as error:  # ValueError: closed under its hands
            self._texts.put(WebSocketError(f"the connection broke ({error})"))

    def _next_text(self) -> str:
        """Read up to the end of a text message; answer pings on the way (sections 5.4 and 5.5)."""
        kind, parts, length = 0, [], 0
        while True:
            last, opcode, payload = _read_frame(self._stream, _LONGEST_MESSAGE - length)
            if opcode == _CLOSE:
                self._send(_CLOSE, payload[:2])
                code = struct.unpack(">H", payload[:2])[0] if len(payload) >= 2 else 1005
                raise WebSocketError(f"the server ended the connection (code {code})")
            if opcode == _PING:
                self._send(_PONG, payload)
            if opcode >= _CLOSE:
                continue
            if (opcode == 0) != (kind != 0):
                raise _ViolationError(_AGAINST_PROTOCOL, "the server mixed up the parts of its messages")
            kind = opcode or kind
            parts.append(payload)
            length += len(payload)
            if not last:
                continue
            if kind == _TEXT:
                try:
                    return b"".join(parts).decode()
                except UnicodeDecodeError:
                    raise _ViolationError(_NOT_UTF8, "the server sent a text that is not UTF-8") from None
            kind, parts, length = 0, [], 0


class _ViolationError(WebSocketError):
    def __init__(self, code: int, message: str):
        self.code = code
        super().__init__(message)


def _read_frame(stream: BinaryIO, longest: int) -> tuple[bool, int, bytes]:
    """Whether it is the last of its message, its opcode and payload (section 5.2)."""
    first, second = _read_exactly(stream, 2)
    last, opcode, length = bool(first & 0x80), first & 0x0F, second & 0x7F
    if first & 0x70 or second & 0x80 or opcode not in (0, _TEXT, _BINARY, _CLOSE, _PING, _PONG):
        raise _ViolationError(_AGAINST_PROTOCOL, "the server sent a frame that the protocol does not know")
    if opcode >= _CLOSE and (length > _LONGEST_CONTROL or not last):
        raise _ViolationError(_AGAINST_PROTOCOL, "the server sent a control frame that is too long or in parts")
    if length == 126:
        length = struct.unpack(">H", _read_exactly(stream, 2))[0]
    elif length == 127:
        length = struct.unpack(">Q", _read_exactly(stream, 8))[0]
    if opcode < _CLOSE and length > longest:
        raise _ViolationError(_TOO_LONG, f"the server sent a message of more than {_LONGEST_MESSAGE >> 20} MB")
    return last, opcode, _read_exactly(stream, length)


def _read_exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise WebSocketError("the server hung up")
    return data
