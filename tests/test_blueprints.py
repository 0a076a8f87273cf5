"""The shipped blueprints: whole, as the nodes' schemas say, and they run when they stand between other nodes."""

import copy
import itertools
import uuid

import pytest
from shipped_blueprints import CHEAP, COMPRESS, FINISH, NAMES, between, choose, inside, node, opened
from shipped_workflows import EMBEDDED, OURS, REEL, write_reel

import tokenreel
from tokenreel.host.editor_graph import to_api
from tokenreel.host.node_facts import facts_of_classes
from tokenreel.host.runner import run_workflow
from tokenreel.tokens.bitstream import read_tokens
from tokenreel.video.reader import VideoReader

NOT_DEFAULT = {("TokenReel_InterpolateVideo", "lossless"): True}  # nothing is lost on the way to the upscaler
LOAD = node(EMBEDDED["LoadVideo"].GET_SCHEMA(), file=REEL)
SHOW = node(EMBEDDED["PreviewAny"].GET_SCHEMA())

each_blueprint = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_reel(tmp_path_factory.mktemp("input"))


def test_these_are_shipped():
    assert sorted(NAMES) == sorted([FINISH, CHEAP, COMPRESS])


@each_blueprint
class TestFiles:
    def test_is_one_node_and_its_subgraph(self, name):
        """What the editor asks of a blueprint, and what it shows of it."""
        blueprint = opened(name)
        (outer,), (subgraph,) = blueprint["nodes"], blueprint["definitions"]["subgraphs"]
        assert outer["type"] == subgraph["id"] == str(uuid.UUID(subgraph["id"]))
        assert outer["title"] == subgraph["name"] == name
        assert outer["properties"]["cnr_id"] == "tokenreel" and outer["properties"]["ver"] == tokenreel.__version__
        assert blueprint["extra"]["BlueprintDescription"] == subgraph["description"]
        assert (
            len(subgraph["description"]) > 100 and subgraph["category"] and blueprint["extra"]["BlueprintSearchAliases"]
        )

    def test_nodes_are_as_their_schemas_say(self, name):
        for each in inside(opened(name)).values():
            schema = OURS[each["type"]].GET_SCHEMA()
            assert each["properties"]["cnr_id"] == "tokenreel" and each["mode"] == 0
            assert {s["name"]: s["type"] for s in each["inputs"]} == {s.id: s.get_io_type() for s in schema.inputs}
            assert [(o["name"], o["type"]) for o in each["outputs"]] == [
                (o.display_name, o.get_io_type()) for o in schema.outputs
            ]
            widgets = [(s.id, s.default) for s in schema.inputs if hasattr(s, "default")]
            assert each["widgets_values"] == [NOT_DEFAULT.get((each["type"], key), value) for key, value in widgets]
            drawn = [s["name"] for s in each["inputs"] if s.get("widget") == {"name": s["name"]}]
            assert sorted(drawn) == sorted(key for key, _ in widgets)

    def test_links_join_what_they_say(self, name):
        (subgraph,) = opened(name)["definitions"]["subgraphs"]
        nodes = {each["id"]: each for each in subgraph["nodes"]}
        assert len({link["id"] for link in subgraph["links"]}) == len(subgraph["links"])
        for link in subgraph["links"]:
            number = link["id"]
            if link["origin_id"] == subgraph["inputNode"]["id"]:
                source = subgraph["inputs"][link["origin_slot"]]
                assert number in source["linkIds"]
            else:
                source = nodes[link["origin_id"]]["outputs"][link["origin_slot"]]
                assert number in source["links"]
            if link["target_id"] == subgraph["outputNode"]["id"]:
                target = subgraph["outputs"][link["target_slot"]]
                assert target["linkIds"] == [number]
            else:
                target = nodes[link["target_id"]]["inputs"][link["target_slot"]]
                assert target["link"] == number
            assert link["type"] == source["type"] == target["type"]
        named = [s["link"] for each in nodes.values() for s in each["inputs"] if s["link"] is not None]
        ends = [number for each in subgraph["outputs"] for number in each["linkIds"]]
        assert sorted([*named, *ends]) == sorted(link["id"] for link in subgraph["links"])

    def test_outside_is_as_inside(self, name):
        (outer,), (subgraph,) = opened(name)["nodes"], opened(name)["definitions"]["subgraphs"]
        for theirs, ours in ((outer["inputs"], subgraph["inputs"]), (outer["outputs"], subgraph["outputs"])):
            assert [(each["name"], each["type"]) for each in theirs] == [(each["name"], each["type"]) for each in ours]
        shown = [each["name"] for each in outer["inputs"] if "widget" in each]
        inner = {str(each["id"]): each for each in subgraph["nodes"]}
        promoted = outer["properties"]["proxyWidgets"]
        assert len(promoted) == len(shown) > 3
        for number, widget in promoted:
            assert {"name": widget} in [socket.get("widget") for socket in inner[number]["inputs"]]

    def test_nodes_stand_apart(self, name):
        boxes = [(each["pos"][0], each["pos"][0] + each["size"][0]) for each in inside(opened(name)).values()]
        assert all(end < start for (_, end), (start, _) in itertools.pairwise(boxes))


class TestRuns:
    def run(self, graph, inputs, folder):
        workflow = to_api(copy.deepcopy(graph), facts_of_classes(EMBEDDED))
        return run_workflow(workflow, OURS, input_dir=inputs, output_dir=folder)

    def test_a_finished_video_is_smooth_and_large(self, inputs, tmp_path):
        blueprint = opened(FINISH)
        choose(blueprint, "times", 3)
        choose(blueprint, "scale", 1.5)
        save = node(EMBEDDED["SaveVideo"].GET_SCHEMA())
        graph = between(blueprint, LOAD, ("video", save, "video"), ("upscaling_report", SHOW, "source"))
        done = self.run(graph, inputs, tmp_path)
        with VideoReader(inputs / REEL) as source, VideoReader(done.files[0]) as video:
            assert (video.info.width, video.info.height) == (1.5 * source.info.width, 1.5 * source.info.height)
            frames = [sum(len(chunk.pts) for chunk in each.chunks()) for each in (source, video)]
            assert video.info.frame_rate == 3 * source.info.frame_rate and frames[1] == 3 * frames[0] > 0
        assert "reused" in done.texts["103"]

    def test_a_compressed_clip_is_saved(self, inputs, tmp_path):
        blueprint = opened(COMPRESS)
        choose(blueprint, "size", 32)
        choose(blueprint, "filename_prefix", "tokens/small")
        graph = between(blueprint, LOAD, ("report", SHOW, "source"), ("file", copy.deepcopy(SHOW), "source"))
        done = self.run(graph, inputs, tmp_path)
        (path,) = done.files
        assert done.texts["103"] == path.relative_to(tmp_path).as_posix() == "tokens/small_00001_.tokens"
        tokens = read_tokens(path)
        assert (tokens.width, tokens.height) == (48, 32) and len(tokens.frames) == 16
        assert "decoded frames against what was encoded" in done.texts["102"]
