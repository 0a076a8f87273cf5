"""The WebSocket client against a server that says what a test wants, byte for byte."""

import base64
import hashlib
import random
import socket
import struct
import threading
import time

import pytest

from tokenreel.host.websocket import WebSocket, WebSocketError

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def frame(kind, payload=b"", last=True, masked=False):
    """A frame as servers send them; clients must mask theirs, servers must not."""
    size = len(payload)
    length = (
        bytes([size]) if size < 126 else struct.pack(">BH" if size < 1 << 16 else ">BQ", 126 + (size >> 16 > 0), size)
    )
    head = bytes([kind | (0x80 if last else 0)]) + bytes([length[0] | (0x80 if masked else 0)]) + length[1:]
    return head + (b"\0\0\0\0" if masked else b"") + payload


class Peer:
    """Greets one client, with `greeting` if that is set, sends `frames`, and keeps what it hears until the end."""

    def __init__(self, frames=b"", greeting=None, stays=True):
        self.frames, self.greeting, self.stays = frames, greeting, stays
        self.asked, self.heard = b"", b""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/ws?clientId=me"
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        client, _ = self.listener.accept()
        with client:
            client.settimeout(5)
            while b"\r\n\r\n" not in self.asked:
                self.asked += client.recv(4096)
            key = next(
                line[19:] for line in self.asked.decode().split("\r\n") if line.startswith("Sec-WebSocket-Key: ")
            )
            accept = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()
            greeting = self.greeting or (
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"
                "Sec-WebSocket-Accept: {accept}\r\n\r\n"
            )
            client.sendall(greeting.format(accept=accept).encode() + self.frames)  # in one packet
            try:
                while self.stays and (data := client.recv(4096)):
                    self.heard += data
            except OSError:
                pass

    def end(self):
        self.thread.join()
        self.listener.close()
        return list(self.unmasked())

    def unmasked(self):
        data = self.heard
        while data:
            kind, length = data[0], data[1]
            assert kind & 0x80 and length & 0x80 and length & 0x7F < 126  # whole, masked, short
            size, mask = length & 0x7F, data[2:6]
            yield kind & 15, bytes(byte ^ mask[i % 4] for i, byte in enumerate(data[6 : 6 + size]))
            data = data[6 + size :]


def received(frames, count=1):
    peer = Peer(frames)
    with WebSocket(peer.url) as opened:
        texts = [opened.receive(5) for _ in range(count)]
    return texts, peer.end()


def test_greeting():
    peer = Peer()
    with WebSocket(peer.url) as opened:
        assert opened.receive(0.01) is None
    assert peer.end() == [(CLOSE, struct.pack(">H", 1000))]
    head = peer.asked.decode().split("\r\n")
    assert head[0] == "GET /ws?clientId=me HTTP/1.1"
    assert {"Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"} <= set(head)


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65535, 65536, 300_000])
def test_lengths(length):
    text = "x" * length
    assert received(frame(TEXT, text.encode()))[0] == [text]


def test_messages_come_in_order_whole_and_without_pictures():
    grin = "\U0001f600".encode()
    frames = frame(BINARY, b"\xff\xfe") + frame(TEXT, b"one")
    frames += frame(TEXT, b"two " + grin[:2], last=False) + frame(PING, b"there?") + frame(0, grin[2:])
    frames += frame(BINARY, b"\xff", last=False) + frame(0, b"\xfe") + frame(PONG) + frame(TEXT, b"three")
    texts, said = received(frames, 3)
    assert texts == ["one", "two \U0001f600", "three"]
    assert said == [(PONG, b"there?"), (CLOSE, struct.pack(">H", 1000))]


@pytest.mark.parametrize(
    ("frames", "code", "text"),
    [
        (bytes([0x81 | 0x40, 0]), 1002, "frame that the protocol does not know"),  # a bit of some extension
        (bytes([0x83, 0]), 1002, "frame that the protocol does not know"),  # an opcode that is reserved
        (frame(TEXT, b"x", masked=True), 1002, "frame that the protocol does not know"),
        (frame(PING, b"x" * 126), 1002, "control frame"),
        (frame(PING, b"x", last=False), 1002, "control frame"),
        (frame(0, b"x"), 1002, "mixed up"),
        (frame(TEXT, b"x", last=False) + frame(TEXT, b"y"), 1002, "mixed up"),
        (frame(TEXT, b"\xc3\x28"), 1007, "not UTF-8"),
        (bytes([0x81, 127]) + struct.pack(">Q", 1 << 63), 1009, "more than 16 MB"),
        (
            frame(TEXT, b"x" * 100, last=False) + bytes([0x80, 127]) + struct.pack(">Q", 16 << 20),
            1009,
            "more than 16 MB",
        ),
    ],
)
def test_what_the_protocol_forbids(frames, code, text):
    peer = Peer(frames)
    with WebSocket(peer.url) as opened:
        for _ in range(2):  # it stays so
            with pytest.raises(WebSocketError, match=text):
                opened.receive(5)
    assert peer.end()[0] == (CLOSE, struct.pack(">H", code))


def test_the_server_closes():
    peer = Peer(frame(TEXT, b"last words") + frame(CLOSE, struct.pack(">H", 1001) + b"going away"))
    with WebSocket(peer.url) as opened:
        assert opened.receive(5) == "last words"
        with pytest.raises(WebSocketError, match=r"ended the connection \(code 1001\)"):
            opened.receive(5)
    assert peer.end()[0] == (CLOSE, struct.pack(">H", 1001))


@pytest.mark.parametrize("frames", [b"", frame(TEXT, b"half")[:-2], b"\x81"])
def test_the_server_hangs_up(frames):
    peer = Peer(frames, stays=False)
    with WebSocket(peer.url) as opened, pytest.raises(WebSocketError, match=r"hung up|broke"):
        opened.receive(5)
    peer.end()


WRONG = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"


@pytest.mark.parametrize(
    ("greeting", "text"),
    [
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "HTTP 404"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP 200"),
        (WRONG + "Sec-WebSocket-Accept: bm90IHRoaXM=\r\n\r\n", "does not speak"),
        (WRONG.replace("Upgrade: websocket\r\n", "") + "Sec-WebSocket-Accept: {accept}\r\n\r\n", "does not speak"),
        (WRONG + "Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n", "does not"),
        ((WRONG + "Sec-WebSocket-Accept: {accept}\r\n\r\n").replace("HTTP/1.1", "HTTP/1.0"), "does not speak"),
        ("SSH-2.0-OpenSSH_9.6\r\n\r\n", "SSH|status"),
    ],
)
def test_servers_that_refuse(greeting, text):
    peer = Peer(greeting=greeting, stays=False)
    with pytest.raises(WebSocketError, match=text) as raised:
        WebSocket(peer.url)
    assert "\n" not in str(raised.value)
    peer.end()


def test_nobody_there():
    with pytest.raises(WebSocketError, match=r"refused|No connection"):
        WebSocket("http://127.0.0.1:9/ws")


def test_closing_ends_the_thread_at_once():
    peer = Peer()
    opened = WebSocket(peer.url)
    begin = time.monotonic()
    opened.close()
    opened.close()
    assert time.monotonic() - begin < 2
    assert not [thread for thread in threading.enumerate() if thread.name == "websocket"]
    peer.end()


def test_any_bytes_end_in_a_text_or_an_error():
    """Random bytes, and every cut of a good conversation: never a hang, never another error."""
    good = frame(PING, b"p") + frame(TEXT, b"hello", last=False) + frame(0, b" world") + frame(CLOSE, b"\x03\xe8")
    for frames in [
        *(random.Random(seed).randbytes(200) for seed in range(20)),
        *(good[:end] for end in range(len(good))),
    ]:
        peer = Peer(frames, stays=False)
        with WebSocket(peer.url) as opened, pytest.raises(WebSocketError):
            for _ in range(200):
                assert opened.receive(5) is not None
        peer.end()
