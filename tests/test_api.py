"""The node API on both hosts: quick to load, portable to older ComfyUIs, and the same as the real one."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from comfyui_server import LOAD_CHECKOUT, needs_comfyui, run_in_comfyui

from tokenreel.host import api
from tokenreel.host.api import OlderIO, portable


def test_without_comfyui_it_is_the_embedded_host():
    from tokenreel.host import standalone, standalone_ui

    assert not api.IS_COMFYUI
    assert (api.io, api.ui, api.ComfyExtension) == (standalone, standalone_ui, standalone.ComfyExtension)


def test_loading_it_is_quick_and_opens_nothing():
    script = (
        LOAD_CHECKOUT
        + """
import json, time
opened = []
def watch(event, arguments):
    if event in ("open", "socket.__new__", "socket.connect", "os.mkdir", "tempfile.mkdtemp"):
        if not str(arguments[0]).endswith((".py", ".pyc")) and "__pycache__" not in str(arguments[0]):
            opened.append([event, str(arguments[0])])
sys.addaudithook(watch)
begin = time.perf_counter()
from tokenreel.host import api, resources, files
seconds = time.perf_counter() - begin
heavy = [name for name in ("torch", "numpy", "av", "PIL", "tqdm", "urllib.request") if name in sys.modules]
print(json.dumps([seconds, opened, heavy]))
"""
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seconds, opened, heavy = json.loads(done.stdout)
    assert opened == [] and heavy == []
    assert seconds < 0.5


def test_portable_leaves_out_what_an_older_core_lacks():
    def schema(node_id, description=""):
        return node_id, description

    assert portable(schema)(node_id="A", description="x", search_aliases=["b"], is_dev_only=True) == ("A", "x")
    with pytest.raises(TypeError, match="colour"):
        portable(schema)(node_id="A", colour="red")


def test_portable_keeps_what_the_core_knows():
    def schema(node_id, search_aliases=None):
        return node_id, search_aliases

    assert portable(schema)(node_id="A", search_aliases=["b"]) == ("A", ["b"])


def test_an_older_io_is_repaired_where_it_must_be():
    class Input:
        def __init__(self, id, tooltip=None, extra_dict=None):
            self.id, self.extra_dict = id, extra_dict

    def custom(io_type):
        return SimpleNamespace(io_type=io_type, Type=object, Input=Input, Output=str)

    node = type("ComfyNode", (), {})
    original = SimpleNamespace(Schema=lambda node_id: node_id, ComfyNode=node, Custom=custom, Int=custom("INT"))
    older = OlderIO(original)
    assert older.ComfyNode is node
    assert older.Schema(node_id="A", search_aliases=["x"], essentials_category="y") == "A"
    number = older.Int.Input("n", advanced=True, extra_dict={"a": 1})
    assert (number.id, number.extra_dict) == ("n", {"a": 1, "advanced": True})
    assert older.Int.Input("n", advanced=None).extra_dict is None
    box = older.Custom("BOX")
    assert (box.io_type, box.Output, box.Input("b", advanced=True).id) == ("BOX", str, "b")
    with pytest.raises(AttributeError):
        older.Autogrow  # noqa: B018


# Runs in ComfyUI's own Python, without a server; prints what the tests below compare.
IN_COMFYUI = (
    """
import json, os, sys
from fractions import Fraction
base = sys.argv.pop()
import comfy.cli_args
comfy.cli_args.args.cpu = True
import asyncio, torch, folder_paths, nodes
import comfy_api.latest as latest
asyncio.run(nodes.init_builtin_extra_nodes())
"""
    + LOAD_CHECKOUT
    + """
from tokenreel.host import api, builtin_nodes, files, resources, standalone
for kind in ("input", "output", "temp"):
    os.mkdir(os.path.join(base, kind))
    getattr(folder_paths, f"set_{kind}_directory")(os.path.join(base, kind))
import comfyui_version
seen = {"version": comfyui_version.__version__, "trims": hasattr(latest.InputImpl.VideoFromFile, "as_trimmed")}
seen["own"] = [api.IS_COMFYUI, api.io is latest.io or type(api.io).__name__ == "OlderIO", api.ui is latest.ui]

OPTIONS = ("default", "min", "max", "step")
def real(name):
    info = nodes.NODE_CLASS_MAPPINGS[name]
    inputs = info.INPUT_TYPES()
    sockets = []
    for kind in ("required", "optional"):
        for id, spec in inputs.get(kind, {}).items():
            options = spec[1] if len(spec) > 1 else {}
            io_type = "COMBO" if isinstance(spec[0], list) else spec[0]
            sockets.append([id, io_type, kind == "optional", [options.get(each) for each in OPTIONS]])
    return [sockets, list(info.RETURN_TYPES), bool(getattr(info, "OUTPUT_NODE", False))]
def ours(cls):
    schema = cls.GET_SCHEMA()
    sockets = [[each.id, each.get_io_type(), each.optional, [getattr(each, option, None) for option in OPTIONS]]
               for each in schema.inputs]
    sockets.sort(key=lambda socket: socket[2])
    return [sockets, [each.get_io_type() for each in schema.outputs], schema.is_output_node]
seen["nodes"] = {name: [real(name), ours(cls)] for name, cls in builtin_nodes.BUILTIN_NODES.items()}

class Probe(api.io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return api.io.Schema(node_id="Probe", search_aliases=["x"], essentials_category="y",
            inputs=[api.io.Int.Input("n", default=1, min=0, max=2, advanced=True, control_after_generate=True),
                api.io.Custom("BOX").Input("box", optional=True), api.io.Combo.Input("c", options=["a"], default="a")],
            outputs=[api.io.Image.Output(display_name="frames", tooltip="t")])
    @classmethod
    def execute(cls, n, c, box=None):
        return api.io.NodeOutput(n, ui=api.ui.PreviewText("said"))
given = Probe.execute(1, "a")
seen["probe"] = [list(Probe.INPUT_TYPES()["required"]), given.result, given.ui.as_dict()]

images = torch.randint(0, 256, (5, 17, 23, 3), generator=torch.Generator().manual_seed(1)).float() / 255
components = latest.Types.VideoComponents(images=images, frame_rate=Fraction(24000, 1001))
memory = latest.InputImpl.VideoFromComponents(components)
source = api.video_source(memory)
from tokenreel.video.reader import VideoReader
from tokenreel.video.frames import uint8_to_image
with VideoReader(source.file) as reader:
    back = torch.cat([uint8_to_image(chunk.frames) for chunk in reader.chunks()])
    rate = str(reader.info.frame_rate)
video = api.video_from_file(source.file)
part = video.as_trimmed(0.05, 0.1) if hasattr(video, "as_trimmed") else video  # not before 0.14
seen["video"] = [type(video).__name__, torch.equal(back, images), rate,
    str(api.video_source(video)[1:]), str(api.video_source(part)[1:]), api.video_source(part).file == source.file,
    os.path.dirname(source.file) == folder_paths.get_temp_directory()]

files.register_model_folders()
files.register_model_folders()
paths, suffixes = folder_paths.folder_names_and_paths["video_tokenizers"]
seen["models"] = [len(paths), sorted(suffixes), files.model_dirs() == paths]
paths, suffixes = folder_paths.folder_names_and_paths["token_generators"]
seen["generators"] = [len(paths), sorted(suffixes), files.model_dirs("token_generators") == paths]
open(os.path.join(base, "input", "a.mp4"), "wb").close()
with files.output_path("sub/x", ".txt") as file:
    open(file.path, "w").write("x")
seen["files"] = [files.resolve_input("a.mp4") == os.path.realpath(os.path.join(base, "input", "a.mp4")),
    os.path.relpath(file.path, os.path.join(os.path.realpath(base), "output"))]

import comfy.model_management as mm
shown = []
import comfy.utils
comfy.utils.set_progress_bar_global_hook(lambda value, total, preview, node_id=None: shown.append([value, total]))
with resources.progress(4, "x") as progress:
    progress.update(1)
    progress.update(3)
seen["progress"] = shown
mm.interrupt_current_processing(True)
try:
    resources.check_cancelled()
    seen["cancel"] = "nothing"
except mm.InterruptProcessingException:
    seen["cancel"] = "interrupted"
seen["resources"] = [str(resources.device()), str(resources.dtype()), str(resources.image_dtype()),
    resources.is_out_of_memory(mm.OOM_EXCEPTION("x")), resources.is_out_of_memory(ValueError("x")),
    resources.run_chunked(lambda a, b: b - a, 5, 2)]
print("RESULT" + json.dumps(seen))
"""
)


@pytest.fixture(scope="module")
def in_comfyui(tmp_path_factory):
    return json.loads(run_in_comfyui(IN_COMFYUI, str(tmp_path_factory.mktemp("comfyui"))).split("RESULT")[1])


@needs_comfyui
@pytest.mark.slow
@pytest.mark.comfyui
class TestInComfyUI:
    def test_the_api_is_comfyuis_own(self, in_comfyui):
        assert in_comfyui["own"] == [True, True, True]
        assert in_comfyui["probe"] == [["n", "c"], [1], {"text": ["said"]}]

    @pytest.mark.parametrize(
        "name",
        [
            "LoadVideo",
            "SaveVideo",
            "CreateVideo",
            "GetVideoComponents",
            "LoadImage",
            "SaveImage",
            "PreviewImage",
            "PreviewAny",
        ],
    )
    def test_the_stand_ins_have_the_sockets_of_the_real_nodes(self, in_comfyui, name):
        if not in_comfyui["version"].startswith("0.25."):
            pytest.skip("the stand-ins follow ComfyUI 0.25")
        real, ours = in_comfyui["nodes"][name]
        assert ours == real

    def test_videos(self, in_comfyui):
        kind, *rest = in_comfyui["video"]
        assert kind == "VideoFromFile"
        window = "(Fraction(1, 20), Fraction(1, 10))" if in_comfyui["trims"] else "(Fraction(0, 1), None)"
        assert rest == [True, "24000/1001", "(Fraction(0, 1), None)", window, True, True]

    def test_folders(self, in_comfyui):
        assert in_comfyui["models"] == [1, [".safetensors"], True]
        assert in_comfyui["generators"] == [1, [".safetensors"], True]
        assert in_comfyui["files"] == [True, "sub/x_00001_.txt"]

    def test_resources(self, in_comfyui):
        assert in_comfyui["progress"] == [[1, 4], [4, 4], [4, 4]]
        assert in_comfyui["cancel"] == "interrupted"
        assert in_comfyui["resources"] == ["cpu", "torch.float32", "torch.float32", True, False, [2, 2, 1]]
