"""Takes the README's pictures of ComfyUI's editor anew: `python tests/editor_pictures.py`, some minutes.

A short reel goes through two workflows and a blueprint on a real ComfyUI, and what the editor then shows is kept
in docs/editor_*.jpg. No report that tells seconds is in view: they would be those of this machine on that day.
"""

import tempfile
import time
from pathlib import Path

from editor_page import EMPTY, Editor, comfyui_editor
from shipped_blueprints import FINISH
from shipped_workflows import REEL, opened, write_reel

import tokenreel

PICTURES = Path(tokenreel.__file__).parent / "docs"
PLAIN = {
    "Comfy.Minimap.Visible": False,
    "Comfy.RightSidePanel.IsOpen": False,
    "Comfy.Graph.CanvasInfo": False,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,  # text is drawn however small
}
LIMIT = 3000.0  # seconds for a run


def look(editor: Editor, x: float, y: float, scale: float) -> None:
    """Show the graph from a place on."""
    view = f"view.ds.scale = {scale}; view.ds.offset = [{-x}, {-y}]; view.setDirty(true, true)"
    editor.page.run(f"(view => {{ {view} }})(app.canvas)")
    time.sleep(6)  # until the messages about the run are gone


def workflow(editor: Editor) -> None:
    editor.open(opened("01_video_to_tokens_and_back"), "01_video_to_tokens_and_back")
    time.sleep(3)
    editor.run(LIMIT)
    look(editor, 1440, -90, 0.82)
    editor.page.picture(PICTURES / "editor_workflow.jpg", 800)


def help_page(editor: Editor) -> None:
    editor.open(opened("05_upscale_what_changed"), "05_upscale_what_changed")
    time.sleep(3)
    editor.run(LIMIT)
    editor.select(2)
    editor.page.click("[data-testid=info-button]")
    look(editor, 240, -110, 0.68)
    editor.page.picture(PICTURES / "editor_help.jpg", 760)
    editor.switch("Comfy.RightSidePanel.IsOpen", False)


def blueprint(editor: Editor) -> None:
    editor.open(EMPTY, "finish")
    finish = editor.add(FINISH)
    load, save, show = editor.put("LoadVideo", file=REEL), editor.put("SaveVideo"), editor.put("PreviewImage")
    for number, box in (
        (load, (0, 0, 300, 400)),
        (finish, (380, 0, 400, 420)),
        (save, (860, 0, 400, 560)),
        (show, (1340, 0, 460, 560)),
    ):
        x, y, w, h = box
        editor.page.run(
            f"(node => {{ node.pos = [{x}, {y}]; node.size = [{w}, {h}] }})(app.graph.getNodeById({number}))"
        )
    editor.connect(load, "VIDEO", finish, "video")
    editor.connect(finish, "video", save, "video")
    editor.connect(finish, "preview", show, "images")
    editor.page.run("app.canvas.deselectAll()")
    time.sleep(3)
    editor.run(LIMIT)
    look(editor, -100, -170, 0.72)
    editor.page.picture(PICTURES / "editor_blueprint.jpg", 570)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "input"
        inputs.mkdir()
        write_reel(inputs, 256, 256, 12)
        with comfyui_editor(Path(folder), width=1400) as editor:
            for setting, value in PLAIN.items():
                editor.switch(setting, value)
            for take in (blueprint, help_page, workflow):
                take(editor)


if __name__ == "__main__":
    main()
