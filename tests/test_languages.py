"""The texts of nodes by language: English is what the schemas say, and the others say the same of the same things."""

import json
import re
from pathlib import Path

import pytest

import tokenreel
from tokenreel.nodes import NODES, texts

ROOT = Path(tokenreel.__file__).parent
LOCALES = ROOT / "locales"
LANGUAGES = sorted(path.name for path in LOCALES.iterdir() if path.name != "en")
MEANT_BY_THE_EDITOR = set("{}@|$")  # it takes display names, names and descriptions for templates with these
ITS_LETTERS = {"zh": re.compile("[\u4e00-\u9fff]"), "ja": re.compile("[\u3040-\u30ff]")}

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


def choices():
    """Node id -> input -> what it offers, for those whose choices do not depend on what is installed."""
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
