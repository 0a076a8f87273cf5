"""A node pack of one node for a real ComfyUI: it waits, fails or writes a file, as its inputs say."""

from comfyui_server import LOAD_CHECKOUT

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
