"""ComfyUI's editor with the pack in it, clicked as a person would: a headless Chromium against a real server.

Opened once for all tests. What the console says before anything of ours is there is the editor's own business.
"""

import itertools
import json
import re
import shutil
import time
from pathlib import Path

import pytest
import shipped_blueprints
import torch
from chromium import needs_chromium
from comfyui_server import needs_comfyui, run_in_comfyui
from editor_page import CANCEL, EMPTY, comfyui_editor
from model_stand_ins import RANDOM_TEXT, SAVE_RANDOM_MODELS
from safetensors.torch import load_file
from shipped_workflows import FOLDER, NAMES, OURS, REEL, needs_model, opened, twin, write_reel

import tokenreel
from tokenreel.host.editor_graph import to_api
from tokenreel.host.node_facts import facts_of_server
from tokenreel.tokens.bitstream import read_tokens
from tokenreel.video.reader import VideoReader

PAGES = Path(tokenreel.__file__).parent / "web" / "docs"
FIRST = next(name for name in NAMES if name.startswith("01"))
UPSCALE = next(name for name in NAMES if "_upscale_" in name)
HELPED = "TokenReel_UpscaleVideo"
LONG = "long.mp4"  # the whole reel

pytestmark = [needs_comfyui, needs_chromium, pytest.mark.comfyui, pytest.mark.slow]


@pytest.fixture(scope="module")
def editor(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    run_in_comfyui(SAVE_RANDOM_MODELS, str(base / "models"))
    (base / "input").mkdir()
    write_reel(base / "input")
    shutil.copy(FOLDER / REEL, base / "input" / LONG)
    with comfyui_editor(base, packs={"random_text": RANDOM_TEXT}) as opened_editor:
        yield opened_editor


def words(text):
    """The words of a help page, without what sets them."""
    return re.findall(r"\w+", re.sub(r"\]\([^)]*\)", " ", text))


class TestWorkflows:
    @pytest.mark.parametrize("name", NAMES)
    def test_opens_as_it_was_saved(self, editor, name):
        graph = opened(name)
        editor.open(graph, name)
        assert sorted(editor.nodes("node.id")) == sorted(node["id"] for node in graph["nodes"])
        missing = "!(node.type in LiteGraph.registered_node_types)"
        assert editor.nodes("node.type", among=missing) == []
        assert editor.nodes("[node.id, ...node.size]") == [[node["id"], *node["size"]] for node in graph["nodes"]]
        assert editor.nodes("node.type", among="node.computeSize()[1] > node.size[1] + 1") == []  # nothing is cut off
        assert editor.sent() == twin(name)
        assert editor.errors() == []
        complaint = editor.complaint()
        assert complaint == "" or (needs_model(name) and "model" in complaint), complaint

    def test_a_missing_node_would_be_noticed(self, editor):
        graph = opened(NAMES[0])
        graph["nodes"][0] = {**graph["nodes"][0], "type": "TokenReel_NotThere"}
        editor.open(graph)
        assert "TokenReel_NotThere" in editor.nodes("node.type")
        editor.page.wait("!!document.querySelector('[data-testid=error-overlay]')")
        assert "node" in editor.complaint()

    def test_are_among_the_templates(self, editor):
        listed = editor.page.run("fetch('/api/workflow_templates').then(answer => answer.json())")
        assert sorted(listed["ComfyUI-TokenReel"]) == NAMES
        for name in NAMES:
            address = f"/api/workflow_templates/ComfyUI-TokenReel/{name}.jpg"
            picture = f"fetch('{address}').then(answer => answer.blob()).then(createImageBitmap)"
            assert editor.page.run(f"{picture}.then(each => each.width)") >= 256


class TestHelp:
    @pytest.fixture(scope="class")
    @classmethod
    def numbers(cls, editor):
        """One node of each kind in an empty graph: their numbers."""
        editor.open(EMPTY)
        add = "name => { const node = LiteGraph.createNode(name); app.graph.add(node); return [name, node.id] }"
        return dict(editor.page.run(f"{json.dumps(sorted(OURS))}.map({add})"))

    @pytest.mark.parametrize("node_id", sorted(OURS))
    def test_opens_at_the_node(self, editor, numbers, node_id):
        """By the button above a selected node; it shows every word of our page."""
        editor.select(numbers[node_id])
        editor.page.click("[data-testid=info-button]")
        title = OURS[node_id].GET_SCHEMA().display_name
        editor.page.wait(f"document.querySelector('.node-help-content h1')?.innerText === {json.dumps(title)}")
        shown = editor.page.run("document.querySelector('.node-help-content').innerText")
        pages = [PAGES / node_id / "en.md", PAGES / f"{node_id}.md"]
        page = next(each for each in pages if each.is_file()).read_text(encoding="utf-8")
        assert words(shown) == words(page) and len(words(page)) > 80
        assert editor.errors() == []


class TestRun:
    def test_previews_appear_in_the_nodes(self, editor):
        """A click on Run: pictures, text and video are shown in the nodes that made them."""
        editor.open(opened(FIRST), FIRST)
        editor.choose(2, fps=3)
        editor.choose(4, size=64)
        editor.choose(5, size=64)
        outputs = editor.run()
        for node_type in ("TokenReel_InspectTokens", "PreviewImage"):
            pictures = "node.imgs?.length && [...node.imgs].every(each => each.complete && each.naturalWidth > 0)"
            editor.page.wait(f"app.graph._nodes.some(node => node.type === '{node_type}' && {pictures})")
        saved = outputs["9"]["images"][0]["filename"]
        players = "[...document.querySelectorAll('video')]"
        editor.page.wait(f"{players}.some(each => each.src.includes({json.dumps(saved)}) && each.videoWidth > 0)")
        texts = editor.nodes("String(node.widgets[0].value)", among="node.type === 'PreviewAny'")
        assert sum("tokens, " in each for each in texts) == 2 and any("PSNR" in each for each in texts)
        assert editor.errors() == []


class TestNodes2:
    """With the other way in which the editor draws nodes: as elements of the page, which take more room."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def drawn_as_elements(cls, editor):
        editor.switch("Comfy.VueNodes.Enabled", True)
        yield
        editor.switch("Comfy.VueNodes.Enabled", False)

    @pytest.mark.parametrize("name", NAMES)
    def test_nothing_is_covered(self, editor, name):
        editor.open(opened(name), name)
        editor.page.wait(f"document.querySelectorAll('[data-node-id]').length === {len(opened(name)['nodes'])}")
        boxes = editor.settled()
        for (one, x, y, w, h), (other, other_x, other_y, other_w, other_h) in itertools.combinations(boxes, 2):
            beside = x + w <= other_x or other_x + other_w <= x
            below = y + h <= other_y - 30 or other_y + other_h <= y - 30  # the title is above the box
            assert beside or below, (one, other)
        assert editor.errors() == []

    def test_previews_appear(self, editor):
        editor.open(opened(UPSCALE), UPSCALE)
        editor.choose(2, engine="bicubic", scale=1.5)
        editor.run()
        for node_id, shown in ((2, "img"), (3, "video"), (4, "img")):
            loaded = "(each => each?.videoWidth || each?.naturalWidth)"
            editor.page.wait(f"!!{loaded}(document.querySelector('[data-node-id=\"{node_id}\"] {shown}'))")
        assert "reused" in editor.page.run("document.querySelector('[data-node-id=\"5\"] textarea').value")


class TestCancel:
    def test_comes_back_at_once_and_leaves_nothing(self, editor):
        """The red button while frames are upscaled; the next run is as if nothing had been."""
        editor.open(opened(UPSCALE), UPSCALE)
        editor.choose(1, file=LONG)
        editor.choose(2, engine="x2-m", reuse="nothing")
        before = editor.files()
        run = editor.click_run()
        editor.page.wait("app.graph.getNodeById(2).progress > 0", 60)
        start, worked = time.monotonic(), editor.server.worked()
        editor.page.click(CANCEL)
        status, _ = editor.wait_for(run)
        # On a machine that is busy with more than this, seconds of work say what seconds of time do on another
        assert min(time.monotonic() - start, editor.server.worked() - worked) < 2
        editor.page.wait(f"document.querySelector({json.dumps(CANCEL)}).disabled")
        assert status["messages"][-1][0] == "execution_interrupted"
        assert editor.files() == before
        editor.choose(1, file=REEL)
        editor.choose(2, engine="bicubic")
        saved = editor.run()["3"]["images"][0]
        result = editor.server.output / saved["subfolder"] / saved["filename"]
        with VideoReader(editor.server.input / REEL) as source, VideoReader(result) as large:
            assert (large.info.width, large.info.height) == (2 * source.info.width, 2 * source.info.height)
            times, wished = (
                [pts * each.info.time_base for chunk in each.chunks() for pts in chunk.pts] for each in (large, source)
            )
            assert times == wished


class TestBlueprints:
    def test_are_listed_by_the_server(self, editor):
        listed = editor.server.client.get("/global_subgraphs").values()
        ours = [each["name"] for each in listed if each["info"]["node_pack"] == "custom_nodes.ComfyUI-TokenReel"]
        assert sorted(ours) == sorted(shipped_blueprints.NAMES)

    def put_in(self, editor, name, **values):
        """An empty graph with the blueprint in it, as it is meant to be found."""
        editor.open(EMPTY)
        number = editor.add(name)
        (blueprint,) = shipped_blueprints.opened(name)["nodes"]
        (title, names), *others = editor.nodes("[node.title, node.widgets.map(each => each.name)]")
        assert title == name and not others
        assert names == [each["name"] for each in blueprint["inputs"] if "widget" in each]
        editor.choose(number, **values)
        return number

    def run(self, editor):
        """What is sent is what our own converter makes of the graph; what came of it."""
        assert editor.sent() == to_api(editor.saved(), facts_of_server(editor.server.client.get))
        outputs = editor.run()
        assert editor.errors() == []
        return outputs

    def video(self, editor, entry):
        """Frames, width and height of a saved video."""
        with VideoReader(editor.server.output / entry["subfolder"] / entry["filename"]) as reader:
            return sum(len(chunk.pts) for chunk in reader.chunks()), reader.info.width, reader.info.height

    def test_finish_video(self, editor):
        finish = self.put_in(editor, shipped_blueprints.FINISH, times=3, scale=1.5)
        load, save = editor.put("LoadVideo", file=REEL), editor.put("SaveVideo")
        editor.connect(load, "VIDEO", finish, "video")
        editor.connect(finish, "video", save, "video")
        outputs = self.run(editor)
        with VideoReader(editor.server.input / REEL) as source:
            frames = sum(len(chunk.pts) for chunk in source.chunks())
            wished = (3 * frames, 1.5 * source.info.width, 1.5 * source.info.height)
        assert self.video(editor, outputs[str(save)]["images"][0]) == wished

    def test_compress_to_tokens(self, editor):
        compress = self.put_in(editor, shipped_blueprints.COMPRESS, size=32, filename_prefix="tokens/blueprint")
        load, save = editor.put("LoadVideo", file=REEL), editor.put("SaveVideo")
        decode = editor.put("TokenReel_DecodeTokens")
        editor.connect(load, "VIDEO", compress, "video")
        editor.connect(compress, "tokens", decode, "tokens")
        editor.connect(decode, "video", save, "video")
        outputs = self.run(editor)
        tokens = read_tokens(editor.server.output / "tokens" / "blueprint_00001_.tokens")
        assert (len(tokens.frames), tokens.width, tokens.height) == (16, 48, 32)
        assert self.video(editor, outputs[str(save)]["images"][0]) == (16, 48, 32)

    def test_cheap_model(self, editor):
        """With random weights of the real class: the latents are finite, and not those of the MODEL as it was."""
        cheap = self.put_in(editor, shipped_blueprints.CHEAP, quantize="int8", merge_ratio=0.4)
        unet = editor.put("UNETLoader", unet_name="wan2.1_t2v_1.3B_fp16.safetensors")
        text = editor.put("LoadRandomText", clip_name="", type="wan", device="cpu")
        prompt = editor.put("CLIPTextEncode", text="a reel")
        latent = editor.put("EmptyHunyuanLatentVideo", width=128, height=96, length=13)
        editor.connect(unet, "MODEL", cheap, "model")
        editor.connect(text, "CLIP", prompt, "clip")
        for model, name in ((unet, "plain"), (cheap, "cheap")):
            sampler = editor.put("KSampler", seed=1, steps=2, cfg=1.0, sampler_name="euler", scheduler="simple")
            output = "MODEL" if model == unet else "model"
            editor.connect(model, output, sampler, "model")
            editor.connect(prompt, "CONDITIONING", sampler, "positive")
            editor.connect(prompt, "CONDITIONING", sampler, "negative")
            editor.connect(latent, "LATENT", sampler, "latent_image")
            save = editor.put("SaveLatent", filename_prefix=f"latents/{name}")
            editor.connect(sampler, "LATENT", save, "samples")
        self.run(editor)
        folder = editor.server.output / "latents"
        plain, cheap = (load_file(next(folder.glob(f"{name}_*")))["latent_tensor"] for name in ("plain", "cheap"))
        assert plain.shape == cheap.shape and cheap.isfinite().all() and cheap.std() > 0
        assert not torch.equal(plain, cheap)


class TestLanguages:
    @pytest.mark.parametrize("language", sorted(path.stem for path in (PAGES / HELPED).glob("*.md")))
    def test_help_opens_in_the_language_of_the_editor(self, editor, language):
        editor.speak(language)
        try:
            editor.open(EMPTY)
            editor.select(editor.put(HELPED))
            editor.page.click("[data-testid=info-button]")
            page = (PAGES / HELPED / f"{language}.md").read_text(encoding="utf-8")
            heading = page.partition("\n")[0].removeprefix("# ")
            editor.page.wait(f"document.querySelector('.node-help-content h1')?.innerText === {json.dumps(heading)}")
            assert words(editor.page.run("document.querySelector('.node-help-content').innerText")) == words(page)
        finally:
            editor.speak("en")
