"""ComfyUI's editor in a page of Chromium: graphs opened, values chosen and runs begun as a person would."""

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chromium import Page, chromium_page
from comfyui_server import Server, comfyui_server

CANCEL = "button[aria-label='Cancel current run']"
EMPTY = {"last_node_id": 0, "last_link_id": 0, "nodes": [], "links": [], "groups": [], "config": {}, "version": 0.4}
# What the editor says of itself: it asks for a help page in the language first, and how large missing files are
_NOT_OURS = (r"docs/TokenReel_\w+/en\.md", r"https://huggingface\.co/")


class Editor:
    """The editor in a page: graphs opened in it, nodes read from it."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page, self.server = page, server
        page.open(server.url)
        page.wait("!!(window.app?.graph?._nodes.length && document.querySelector('[data-testid=queue-button]'))", 60)

    def open(self, graph: dict[str, Any], name: str | None = None) -> None:
        """As its templates are opened."""
        self.page.errors.clear()
        how = f"true, true, {json.dumps(name)}, {{openSource: 'template'}}"
        self.page.run(f"app.loadGraphData({json.dumps(graph)}, {how}).then(() => true)")

    def nodes(self, what: str, among: str = "true") -> list[Any]:
        """An expression of `node`, for each node of the graph."""
        return self.page.run(f"app.graph._nodes.filter(node => {among}).map(node => {what})")

    def choose(self, node_id: int, **values: Any) -> None:
        """Values for widgets of a node."""
        for name, value in values.items():
            widget = f"app.graph.getNodeById({node_id}).widgets.find(each => each.name === {name!r})"
            self.page.run(f"(({widget}).value = {json.dumps(value)}, true)")

    def select(self, node_id: int) -> None:
        """One node, brought to where the page shows it."""
        script = "view.deselectAll(); view.centerOnNode(node); view.selectNode(node); view.draw(true)"
        self.page.run(f"((node, view) => {{ {script} }})(app.graph.getNodeById({node_id}), app.canvas)")

    def put(self, node_type: str, **values: Any) -> int:
        """A node of a type, out of the way, with values for its widgets; its number."""
        made = f"LiteGraph.createNode({json.dumps(node_type)})"
        place = "app.graph.add(node); node.pos = [400 * node.id, 3000]; return node.id"
        number = self.page.run(f"(node => {{ {place} }})({made})")
        self.choose(number, **values)
        return number

    def connect(self, giver: int, output: str, taker: int, socket: str) -> None:
        """By the names of the sockets."""
        nodes = ", ".join(f"app.graph.getNodeById({number})" for number in (giver, taker))
        joined = f"one.connect(one.findOutputSlot({output!r}), other, other.findInputSlot({socket!r}))"
        assert self.page.run(f"((one, other) => !!{joined})({nodes})"), (output, socket)

    def add(self, name: str) -> int:
        """The node of this name, found and put into the graph as a person would: a double click, its name, Enter."""
        deadline = time.monotonic() + 20
        while not self.page.run("document.activeElement?.tagName === 'INPUT'"):
            assert time.monotonic() < deadline, "a double click does not open the search"
            self.page.double_click_at(600, 400)  # a busy machine may take it for two clicks
            time.sleep(0.5)
        self.page.type(name.partition(" (")[0])
        first = "document.querySelector('#results-list [role=option]')?.innerText ?? ''"
        self.page.wait(f"({first}).startsWith({json.dumps(name)})")
        before = set(self.nodes("node.id"))
        self.page.enter()
        self.page.wait(f"app.graph._nodes.length === {len(before) + 1}")
        while self.page.run("app.canvas.state.ghostNodeId !== null"):  # it follows the mouse until a click places it
            assert time.monotonic() < deadline, "a click does not place the node"
            self.page.click_at(600, 300)
            time.sleep(0.2)
        (number,) = set(self.nodes("node.id")) - before
        return number

    def errors(self) -> list[str]:
        """What the console said that is not the editor's own business, after a moment for what comes late."""
        time.sleep(0.2)
        self.page.run("new Promise(done => requestAnimationFrame(() => done(true)))")
        return [each for each in self.page.errors if not any(re.search(pattern, each) for pattern in _NOT_OURS)]

    def complaint(self) -> str:
        """What the editor shows of missing nodes and other errors."""
        return self.page.run("document.querySelector('[data-testid=error-overlay]')?.innerText ?? ''")

    def switch(self, setting: str, value: Any) -> None:
        self.page.run(f"app.extensionManager.setting.set({setting!r}, {json.dumps(value)}).then(() => true)")

    def speak(self, language: str) -> None:
        """The editor in a language; it then opens the graph anew, as it was last saved or opened."""
        self.page.run(f"app.graph.getNodeById({self.put('PreviewAny')}).of_before = true")
        self.switch("Comfy.Locale", language)
        self.page.wait("!app.graph._nodes.some(node => node.of_before)")

    def settled(self) -> list[list[float]]:
        """Number, place and size of each node, as soon as they do not change any more."""
        before = None
        while (boxes := self.nodes("[node.id, ...node.pos, ...node.size]")) != before:
            before = boxes
            time.sleep(0.4)
        return boxes

    def sent(self) -> dict[str, Any]:
        """What Run sends to the server."""
        prompt = json.loads(self.page.run("app.graphToPrompt().then(prompt => JSON.stringify(prompt.output))"))
        for node in prompt.values():
            node["inputs"].pop("video-preview", None)  # the player in Load Video, as soon as it has loaded
        return prompt

    def saved(self) -> dict[str, Any]:
        """The graph as it is saved to a file."""
        return json.loads(self.page.run("JSON.stringify(app.graph.serialize())"))

    def click_run(self) -> set[str]:
        """The blue button; what the server has run before."""
        before = set(self.server.client.get("/history"))
        self.page.click("[data-testid=queue-button]")
        deadline = time.monotonic() + 20
        while not any(self.server.client.get("/queue").values()) and set(self.server.client.get("/history")) == before:
            assert time.monotonic() < deadline, f"nothing was queued: {self.complaint()}"
            time.sleep(0.05)
        return before

    def wait_for(self, before: set[str], seconds: float = 60) -> tuple[dict[str, Any], dict[str, Any]]:
        """How the run after a click ended, as the server has it: its status and its outputs."""
        deadline = time.monotonic() + seconds
        while not (new := set(history := self.server.client.get("/history")) - before):
            assert time.monotonic() < deadline, self.complaint()
            time.sleep(0.05)
        entry = history[new.pop()]
        return entry["status"], entry["outputs"]

    def run(self, seconds: float = 60) -> dict[str, Any]:
        """A click on Run, until all is done: the outputs."""
        status, outputs = self.wait_for(self.click_run(), seconds)
        assert status["status_str"] == "success", status["messages"][-1]
        return outputs

    def files(self) -> set[Path]:
        """Whatever lies in the server's folders for results."""
        folders = (self.server.output, self.server.base / "temp")
        return {path for folder in folders for path in folder.rglob("*") if path.is_file()}


@contextlib.contextmanager
def comfyui_editor(base: Path, *, width: int = 1600, **more: Any) -> Iterator[Editor]:
    """A ComfyUI with all its folders below `base`, and its editor; `more` is for `comfyui_server`."""
    settings = base / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"Comfy.TutorialCompleted": True}))  # else it first shows the templates
    with comfyui_server(base, **more) as server, chromium_page(width) as page:
        yield Editor(page, server)
