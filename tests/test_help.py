"""The help pages: what each says, in which order, and that its figures are those of the benchmarks."""

import json
import re
from pathlib import Path

import pytest

import tokenreel
from tokenreel.nodes import NODES

ROOT = Path(tokenreel.__file__).parent
DOCS = ROOT / "web" / "docs"
RESULTS = ROOT / "benchmarks" / "results"
FIGURES = json.loads((ROOT / "tests" / "data" / "help_figures.json").read_text(encoding="utf-8"))
IDS = [node.GET_SCHEMA().node_id for node in NODES]
PARTS = {  # what begins the parts of a page that follow its first words, in their order
    "en": ("When.", "Input", "Output", "Wiring.", "Limits.", "Cost."),
    "ja": ("使う場面。", "入力", "出力", "つなぎ方。", "制限。", "コスト。"),
    "zh": ("何时使用。", "输入", "输出", "连接方法。", "局限。", "开销。"),
}
COUNTED = re.compile(r"\d[\d,]*\.\d+|\d[\d,]*(?= ?(?:%|MB|GB)\b)|\d[\d,]*(?= %)")  # a decimal, or a share or size

each_page = pytest.mark.parametrize(
    ("node_id", "language"), [(node_id, language) for node_id in IDS for language in PARTS]
)


def page_of(node_id, language):
    """The text that ComfyUI shows: it asks for a page in its language first, then for the one without."""
    path = DOCS / f"{node_id}.md" if language == "en" else DOCS / node_id / f"{language}.md"
    return path.read_text(encoding="utf-8")


def schema_of(node_id):
    return next(node.GET_SCHEMA() for node in NODES if node.GET_SCHEMA().node_id == node_id)


def begins(part, page):
    """Where a part of a page begins; -1 where it is not there."""
    mark = f"\n**{part}**" if part.endswith((".", "\u3002")) else f"\n| {part} |"
    return page.find(mark)


def pick(value, path):
    """The number at the end of a path in the results.

    `key=value` is the item of a list that has it; `mean`, `least` and `most` are those of what the rest of the path
    gives for all items.
    """
    for index, key in enumerate(path):
        if key in ("mean", "least", "most") and key not in value:
            items = value.values() if isinstance(value, dict) else value
            numbers = [pick(item, path[index + 1 :]) for item in items]
            return {"mean": sum(numbers) / len(numbers), "least": min(numbers), "most": max(numbers)}[key]
        if isinstance(value, list):
            name, wanted = key.split("=", 1)
            (value,) = [item for item in value if str(item[name]) == wanted]
        else:
            value = value[key]
    return value


def figure(source, factor, form):
    """A number of `benchmarks/results` as a page has it. `source` is `file: path`, or `file: path over path`."""
    name, paths = source.split(": ", 1)
    results = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    values = [pick(results, path.split("/")) for path in paths.split(" over ")]
    return format(factor * (values[0] / values[1] if len(values) == 2 else values[0]), form)


def numbers(text):
    """What a translation keeps: numbers in digits, code, and what the choices are called."""
    return set(re.findall(r"`[^`]+`|(?<![\w.])\d+(?:[.,]\d+)*", text))


class TestPages:
    @each_page
    def test_parts_are_there_in_order(self, node_id, language):
        page = page_of(node_id, language)
        starts = [begins(part, page) for part in PARTS[language]]
        assert -1 not in starts and starts == sorted(starts), dict(zip(PARTS[language], starts, strict=True))
        assert len(page[: starts[0]].split("\n\n", 1)[1].strip()) > 40, "what it does comes first"

    @each_page
    def test_figures_are_those_of_the_benchmarks(self, node_id, language):
        page = page_of(node_id, language)
        cost = page[begins(PARTS[language][-1], page) :]
        expected = {figure(*entry) for entry in FIGURES[node_id]}
        assert set(COUNTED.findall(cost)) == expected

    @each_page
    def test_workflow_that_it_names_has_the_node(self, node_id, language):
        named = re.findall(r"\*(\d\d_[a-z_]+)\*", page_of(node_id, language))
        assert named, "says in which workflow it is"
        for name in named:
            graph = json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
            graphs = [graph, *graph.get("definitions", {}).get("subgraphs", [])]
            assert node_id in {node["type"] for part in graphs for node in part["nodes"]}, name

    @each_page
    def test_inputs_and_outputs_are_named_as_the_editor_shows_them(self, node_id, language):
        page = page_of(node_id, language)
        said = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))[node_id]
        assert page.startswith(f"# {said['display_name']}\n")
        for name, socket in said["inputs"].items():
            row = f"**{socket['name']}**" if language == "en" else f"**{socket['name']}** `{name}`"
            assert row in page
        assert all(f"**{socket['name']}**" in page for socket in said["outputs"].values())

    @each_page
    def test_translation_has_the_numbers_and_names_of_the_english_page(self, node_id, language):
        names = {f"`{socket.id}`" for socket in schema_of(node_id).inputs}
        assert numbers(page_of(node_id, language)) - names == numbers(page_of(node_id, "en")) - names

    @each_page
    def test_tables_that_it_names_are_in_the_readme(self, node_id, language):
        page = page_of(node_id, language).replace("\n", " ")
        headings = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
        for name in re.findall(r"README(?:,| 的| の) \*([^*]+)\*", page):
            assert f"### {name}" in headings

    def test_every_node_has_its_list_of_figures(self):
        assert list(FIGURES) == IDS
