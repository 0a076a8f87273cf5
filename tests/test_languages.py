"""The texts of nodes by language: English is what the schemas say, and the others say the same of the same things."""

import json
import re
import urllib.request
from pathlib import Path

import pytest
from chromium import chromium_page, needs_chromium
from comfyui_server import comfyui_server, needs_comfyui
from editor_page import EMPTY, Editor

import tokenreel
from tokenreel.nodes import NODES, texts

ROOT = Path(tokenreel.__file__).parent
LOCALES = ROOT / "locales"
LANGUAGES = sorted(path.name for path in LOCALES.iterdir() if path.name != "en")
MEANT_BY_THE_EDITOR = set("{}@|$")  # it takes display names, names and descriptions for templates with these
HAN, KANA = re.compile("[\u4e00-\u9fff]"), re.compile("[\u3040-\u30ff]")
QUOTED = {"zh": re.compile("\u201c(.+?)\u201d"), "ja": re.compile("\u300c(.+?)\u300d")}
SAME_EVERYWHERE = {"PSNR", "SSIM", "cfg", "token", "tokenizer"}
CORE_TYPES = {"BOOLEAN", "COMBO", "FLOAT", "INT", "STRING", "CONDITIONING", "IMAGE", "LATENT", "MASK", "MODEL", "VIDEO"}
CORE_TYPES |= {"INTERP_MODEL", "UPSCALE_MODEL"}
CORE_NODES = {  # what ComfyUI calls nodes of its own that ours are wired to
    "zh": "UNet加载器 K采样器 LTXV条件 Torch编译模型 EasyCache 加载视频 创建视频 保存视频 "
    "加载放大模型 加载帧插值模型 预览图像 预览任意",
    "ja": "拡散モデルを読み込む Kサンプラー LTXV条件付け Torchコンパイルモデル EasyCache ビデオを読み込む "
    "動画を作成 ビデオを保存 拡大モデルを読み込む フレーム補間モデルを読み込む 画像プレビュー プレビュー任意",
}

each_language = pytest.mark.parametrize("language", LANGUAGES)


def read(language, name="nodeDefs"):
    return json.loads((LOCALES / language / f"{name}.json").read_text(encoding="utf-8"))


def flatten(texts, path=()):
    """Nested texts as one dict: the path of keys -> the text."""
    if isinstance(texts, str):
        return {path: texts}
    return {key: text for name, inner in texts.items() for key, text in flatten(inner, (*path, name)).items()}


def numbers(text):
    """Numbers written in digits, and what stands in percent signs or has a dot before it, as `.tokens`."""
    return set(re.findall(r"%\w+%|(?<!\w)\.[a-z]+|\d+(?:[.,]\d+)*", text))


def has_word(word, text, after=""):
    """Whether a choice is named in a text, with `after` behind it; letters of other scripts may stand right beside."""
    return re.search(rf"(?<![A-Za-z0-9_-]){re.escape(word)}(?![A-Za-z0-9_-]){after}", text) is not None


def choices():
    """Node id -> input -> what it offers."""
    return {
        schema.node_id: {
            socket.id: [str(option) for option in socket.options]
            for socket in schema.inputs
            if socket.get_io_type() == "COMBO"
        }
        for schema in (node.GET_SCHEMA() for node in NODES)
    }


class TestEnglish:
    def test_is_what_the_schemas_say(self):
        """After a change of texts: python -m tokenreel.nodes.texts, and the same in the other languages."""
        assert read("en") == texts.node_texts()

    def test_is_written_as_the_file_lies_there(self, tmp_path, monkeypatch):
        monkeypatch.setattr(texts, "ENGLISH", tmp_path / "locales" / "en" / "nodeDefs.json")
        texts.main()
        written = (tmp_path / "locales" / "en" / "nodeDefs.json").read_bytes()
        assert written == (LOCALES / "en" / "nodeDefs.json").read_bytes()

    def test_every_node_input_and_output_has_its_texts(self):
        said = texts.node_texts()
        assert list(said) == [node.GET_SCHEMA().node_id for node in NODES]
        for node in NODES:
            schema = node.GET_SCHEMA()
            assert len(said[schema.node_id]["inputs"]) == len(schema.inputs)
            assert len(said[schema.node_id]["outputs"]) == len(schema.outputs)
        assert all(text.strip() for text in flatten(said).values())

    def test_no_tooltip_only_points_elsewhere(self):
        tooltips = [text for path, text in flatten(texts.node_texts()).items() if path[-1] == "tooltip"]
        assert not [text for text in tooltips if len(text) < 12]


@each_language
class TestTranslations:
    def test_has_every_text_and_none_too_many(self, language):
        """In the order of the English file, too, so that they can be read side by side."""
        assert list(flatten(read(language))) == list(flatten(read("en")))

    def test_is_written_in_its_letters(self, language):
        for path, text in flatten(read(language)).items():
            assert text and text == text.strip()
            named = path[-1] in ("name", "display_name")
            assert HAN.search(text) or KANA.search(text) or (named and text in SAME_EVERYWHERE), path
            assert bool(KANA.search(text)) == (language == "ja") or (named and language == "ja"), path

    def test_numbers_and_fields_are_the_same(self, language):
        english = flatten(read("en"))
        for path, text in flatten(read(language)).items():
            if path[-1] in ("tooltip", "description"):
                assert numbers(text) == numbers(english[path]), path

    def test_choices_keep_their_names(self, language):
        """The editor does not translate choices, so that a tooltip has to name them as they stand there."""
        said, english = read(language), read("en")
        for node_id, inputs in choices().items():
            for name, options in inputs.items():
                tooltip, its = (texts[node_id]["inputs"][name]["tooltip"] for texts in (english, said))
                for option in options:
                    assert not has_word(option, tooltip, "[:,]") or has_word(option, its), (node_id, name, option)

    def test_categories_and_types_of_ours_are_named(self, language):
        """Those that ComfyUI has as well it names itself."""
        said = read(language, "main")
        schemas = [node.GET_SCHEMA() for node in NODES]
        parts = {part for schema in schemas for part in schema.category.split("/")}
        kinds = {socket.get_io_type() for schema in schemas for socket in [*schema.inputs, *schema.outputs]}
        assert set(said) == {"nodeCategories", "dataTypes"}
        assert set(said["nodeCategories"]) == parts - {"video", "model", "sampling", "loaders"}
        assert set(said["dataTypes"]) == kinds - CORE_TYPES

    def test_names_are_told_apart(self, language):
        said = read(language)
        for node_id, node in said.items():
            for side in ("inputs", "outputs"):
                names = [socket["name"] for socket in node[side].values()]
                assert len(set(names)) == len(names), node_id
        assert len({node["display_name"] for node in said.values()}) == len(said)

    def test_what_is_quoted_is_there(self, language):
        """Other inputs, outputs and nodes are named as the editor shows them in this language."""
        said = read(language)
        names = {node["display_name"] for node in said.values()} | set(CORE_NODES[language].split())
        for node_id, node in said.items():
            own = {socket["name"] for side in ("inputs", "outputs") for socket in node[side].values()}
            for text in flatten(node).values():
                assert set(QUOTED[language].findall(text)) <= names | own, node_id

    def test_what_help_pages_quote_is_there(self, language):
        said = read(language)
        names = {node["display_name"] for node in said.values()} | set(CORE_NODES[language].split())
        names |= {
            socket["name"] for node in said.values() for side in ("inputs", "outputs") for socket in node[side].values()
        }
        for node_id in said:
            page = (ROOT / "web" / "docs" / node_id / f"{language}.md").read_text(encoding="utf-8")
            assert set(QUOTED[language].findall(page)) <= names, node_id


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_no_text_is_taken_for_a_template(language):
    for path, text in flatten(read(language)).items():
        assert path[-1] == "tooltip" or not MEANT_BY_THE_EDITOR & set(text), path


@needs_comfyui
@pytest.mark.slow
@pytest.mark.comfyui
class TestComfyui:
    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, tmp_path_factory):
        with comfyui_server(tmp_path_factory.mktemp("comfyui")) as running:
            yield running

    def test_gives_the_editor_our_texts(self, server):
        given = server.client.get("/i18n")
        for language in ("en", *LANGUAGES):
            assert given[language]["nodeDefs"] == read(language)
        for language in LANGUAGES:
            assert {**given[language], "nodeDefs": None} == {**read(language, "main"), "nodeDefs": None}

    def test_names_nodes_and_sockets_as_the_texts_do(self, server):
        """What the editor looks texts up by: ids of nodes and inputs, and the order of outputs."""
        listed = server.client.get("/object_info")
        for node_id, said in read("en").items():
            inputs = {name for kind in ("required", "optional") for name in listed[node_id]["input"].get(kind, {})}
            assert set(said["inputs"]) == inputs
            assert [output["name"] for output in said["outputs"].values()] == listed[node_id]["output_name"]

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_serves_the_help_pages(self, server, language):
        """From where the editor asks for them: in the language first, without one after that."""
        for node_id in read("en"):
            for name in (f"{node_id}/{language}.md", f"{node_id}.md"):
                with urllib.request.urlopen(f"{server.url}/extensions/ComfyUI-TokenReel/docs/{name}") as answer:
                    assert answer.read() == (ROOT / "web" / "docs" / name).read_bytes()

    @needs_chromium
    @pytest.mark.parametrize("language", LANGUAGES)
    def test_editor_shows_them(self, server, language):
        """Titles, inputs and outputs of all nodes, in an editor that is set to the language."""
        server.client.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.Locale": language})
        said = read(language)
        with chromium_page() as page:
            editor = Editor(page, server)
            editor.open(EMPTY)
            for node_id in said:
                editor.put(node_id)
            names = "each => each.localized_name ?? each.name"
            shown = editor.nodes(f"[node.type, node.title, node.inputs.map({names}), node.outputs.map({names})]")
        assert len(shown) == len(said)
        for node_id, title, inputs, outputs in shown:
            assert title == said[node_id]["display_name"]
            assert sorted(inputs) == sorted(socket["name"] for socket in said[node_id]["inputs"].values())
            assert outputs == [socket["name"] for socket in said[node_id]["outputs"].values()]
