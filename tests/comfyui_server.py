"""A real ComfyUI for the tests that need one: where it is, and a server with our pack in a folder of its own.

ComfyUI is looked for in $COMFYUI_PATH or ~/comfy/ComfyUI, its Python in $COMFYUI_PYTHON or ~/comfy/venv/bin/python.
Tests that use this are skipped where there is none, unless $REQUIRE_COMFYUI is set: then they fail.
"""

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import tokenreel
from tokenreel.host.client import ComfyClient, ServerError

PACK = Path(tokenreel.__file__).resolve().parent
COMFYUI = Path(os.environ.get("COMFYUI_PATH", "~/comfy/ComfyUI")).expanduser()
PYTHON = Path(os.environ.get("COMFYUI_PYTHON", "~/comfy/venv/bin/python")).expanduser()
FOUND = (COMFYUI / "main.py").is_file() and PYTHON.is_file()

# Begins a script or a node pack that uses this checkout as `tokenreel` without pytest
LOAD_CHECKOUT = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location(
    "tokenreel", {str(PACK / "__init__.py")!r}, submodule_search_locations=[{str(PACK)!r}])
sys.modules["tokenreel"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["tokenreel"])
"""

needs_comfyui = pytest.mark.skipif(
    not FOUND and not os.environ.get("REQUIRE_COMFYUI"), reason=f"no ComfyUI at {COMFYUI} with {PYTHON}"
)

_START_LIMIT = 180.0  # seconds


@dataclass(frozen=True)
class Server:
    """A running ComfyUI: a client for it, its folders, and its log."""

    url: str
    client: ComfyClient
    base: Path
    log: Path
    process_id: int

    def worked(self) -> float:
        """Seconds that its processors have worked so far; where the system does not tell, seconds that have gone by."""
        stat = Path(f"/proc/{self.process_id}/stat")
        if not stat.is_file():
            return time.monotonic()
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def input(self) -> Path:
        return self.base / "input"

    @property
    def output(self) -> Path:
        return self.base / "output"


@contextlib.contextmanager
def comfyui_server(
    base: Path, *, packs: Mapping[str, str] | None = None, with_tokenreel: bool = True
) -> Iterator[Server]:
    """Run `main.py --cpu` on a free loopback port with all its folders below `base`, and stop it at the end.

    `packs` are more node packs for this server: folder name -> text of its `__init__.py`.
    """
    nodes = base / "custom_nodes"
    for folder in (nodes, base / "input", base / "output", base / "models"):
        folder.mkdir(parents=True, exist_ok=True)
    if with_tokenreel:
        (nodes / "ComfyUI-TokenReel").symlink_to(PACK, target_is_directory=True)
    for name, source in (packs or {}).items():
        (nodes / name).mkdir()
        (nodes / name / "__init__.py").write_text(source)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = base / "server.log"
    command = [str(PYTHON), "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port)]
    command += ["--base-directory", str(base), "--database-url", f"sqlite:///{base}/comfyui.db"]
    command += ["--disable-auto-launch", "--disable-api-nodes"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=COMFYUI, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(process, ComfyClient(url), log)
            yield Server(url, ComfyClient(url), base, log, process.pid)
        finally:
            end(process)


def end(process: subprocess.Popen, patience: float = 20) -> None:
    """Ends a process, by force if it has not gone after so many seconds."""
    process.terminate()
    try:
        process.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_ready(process: subprocess.Popen, client: ComfyClient, log: Path) -> None:
    deadline = time.monotonic() + _START_LIMIT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(ServerError):
            client.get("/queue")
            return
        time.sleep(0.25)
    pytest.fail(f"ComfyUI did not start:\n{log.read_text(errors='replace')[-3000:]}")


def told_in_comfyui(script: str, *arguments: str, timeout: float = 240) -> Any:
    """What a Python script that has the checkout as `tokenreel` prints as JSON in its last line."""
    return json.loads(run_in_comfyui(LOAD_CHECKOUT + script, *arguments, timeout=timeout).splitlines()[-1])


def run_in_comfyui(script: str, *arguments: str, timeout: float = 240) -> str:
    """Run a Python script in ComfyUI's environment, its modules importable; what it printed on stdout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["PYTHONPATH"] = str(COMFYUI)
    done = subprocess.run(
        [str(PYTHON), "-c", script, *arguments],
        cwd=PACK.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
