"""The shipped workflows: they open, say the same in both formats, and give the same files on both hosts."""

import json
import re
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_server import COMFYUI, LOAD_CHECKOUT, comfyui_server, needs_comfyui, run_in_comfyui
from PIL import Image
from shipped_workflows import (
    BYPASSED,
    EMBEDDED,
    FOLDER,
    KNOWN,
    MUTED,
    NAMES,
    NOTES,
    OURS,
    REEL,
    TOKENS,
    needs_model,
    opened,
    to_api_format,
    twin,
    write_reel,
)

from tokenreel.host.node_facts import facts_of_classes
from tokenreel.host.runner import run_workflow
from tokenreel.host.validation import Validation
from tokenreel.host.workflow import WorkflowError, apply_overrides
from tokenreel.tokens.bitstream import read_tokens
from tokenreel.video.reader import VideoReader

# Nodes whose texts have no times in them
NUMBERS = {
    *("TokenReel_MeasureQuality", "TokenReel_PlotRateDistortion", "TokenReel_PlanTokenBudget"),
    *("TokenReel_DetectShots", "TokenReel_SaveTokens"),
}
OPENS_WHAT_WAS_SAVED = {"TokenReel_LoadTokens", "TokenReel_LoadModel"}  # muted, to be linked by who has such a file
TO_TOKENS, RATES, BETWEEN = "01_video_to_tokens_and_back", "02_rate_distortion", "03_generate_the_frames_between"
FEW, UPSCALED, WHOLE = "04_few_frames_every_frame_out", "05_upscale_what_changed", "06_whole_pipeline"
SHOTS, PLANNED = "10_detect_shots", "11_plan_a_token_budget"
SMALL = {  # a few small frames: the same path through the workflow, quickly
    TO_TOKENS: ["2.fps=3", "4.size=64", "5.size=64"],
    RATES: ["2.fps=3", "4.size=32", "4.points=0"],
    FEW: ["2.fps=3", "4.engine=flow"],
    UPSCALED: ["2.engine=bicubic"],
    BETWEEN: ["4.size=32", "6.steps=1"],
    WHOLE: ["2.frames=3", "5.size=32", "13.width=96", "13.height=64"],
    SHOTS: [],
    PLANNED: ["2.width=96", "2.height=64", "2.seconds=2", "2.fps=8", "2.least_short_side=32", "2.least_fps=4"],
}

WITHOUT_MODEL = [name for name in NAMES if not needs_model(name)]
each_workflow = pytest.mark.parametrize("name", NAMES)
each_without_model = pytest.mark.parametrize("name", WITHOUT_MODEL)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """An input folder with the reel."""
    return write_reel(tmp_path_factory.mktemp("input"))


@pytest.fixture(scope="module")
def standalone(inputs, tmp_path_factory):
    """The first workflow, run in this process."""
    output = tmp_path_factory.mktemp("output")
    return run_workflow(
        twin(TO_TOKENS), OURS, overrides=SMALL[TO_TOKENS], input_dir=inputs, output_dir=output, keep=["4", "10"]
    )


class TestFiles:
    def test_every_workflow_has_its_twin_and_its_picture(self):
        assert NAMES and sorted(path.stem for path in (FOLDER / "api").glob("*.json")) == NAMES
        assert sorted(path.stem for path in FOLDER.glob("*.jpg")) == NAMES
        assert all(re.fullmatch(r"\d\d_[a-z0-9_]+", name) for name in NAMES)

    @each_workflow
    def test_pictures_are_small(self, name):
        path = FOLDER / f"{name}.jpg"
        with Image.open(path) as picture:
            assert picture.format == "JPEG" and min(picture.size) >= 256
        assert path.stat().st_size < 150_000

    def test_every_node_is_in_one(self):
        used = {node["type"] for name in NAMES for node in opened(name)["nodes"]}
        assert used >= set(OURS)

    def test_the_tokens_that_a_workflow_asks_for(self, tmp_path):
        """They open with the shipped weights, and become what was encoded."""
        decode = {"tokens": ["1", 0], "lossless": False, "as_images": False}
        workflow = {
            "1": {"class_type": "TokenReel_LoadTokens", "inputs": {"file": TOKENS}},
            "2": {"class_type": "TokenReel_DecodeTokens", "inputs": decode},
            "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 1]}},
        }
        run = run_workflow(workflow, OURS, input_dir=FOLDER, output_dir=tmp_path, keep=["1", "2"])
        tokens, frame = run.values["1"][0], run.values["2"][1][0]
        with VideoReader(FOLDER / REEL) as reader:
            first = torch.from_numpy(next(reader.chunks()).frames[0]) / 255
        assert len(tokens.frames) == 24 and (FOLDER / TOKENS).stat().st_size < 50_000
        small = torch.nn.functional.interpolate(first.permute(2, 0, 1)[None], tuple(frame.shape[:2]), mode="area")[0]
        assert float((small.permute(1, 2, 0) - frame).square().mean()) < 0.01  # 20 dB

    def test_the_reel_that_the_first_workflow_asks_for(self):
        path = FOLDER / REEL
        assert path.stat().st_size < 300_000
        with VideoReader(path) as reader:
            assert (reader.info.width, reader.info.height, reader.info.frame_rate) == (256, 256, 24)
            assert sum(len(chunk.pts) for chunk in reader.chunks()) == 96


@each_workflow
class TestGraphs:
    def test_only_nodes_of_ours_and_of_the_core(self, name):
        for node in opened(name)["nodes"]:
            assert node["type"] in KNOWN or node["type"] in NOTES
            if node["type"] in KNOWN:
                assert node["properties"]["cnr_id"] == ("tokenreel" if node["type"] in OURS else "comfy-core")
                assert node["properties"]["Node name for S&R"] == node["type"]

    def test_sockets_are_those_of_the_nodes(self, name):
        for node in opened(name)["nodes"]:
            if node["type"] in NOTES:
                continue
            schema = KNOWN[node["type"]].GET_SCHEMA()
            sockets = {socket.id: socket.get_io_type() for socket in schema.inputs}
            assert {socket["name"]: socket["type"] for socket in node["inputs"]} == sockets
            assert [output["type"] for output in node["outputs"]] == [each.get_io_type() for each in schema.outputs]

    def test_links_join_what_they_say(self, name):
        graph = opened(name)
        nodes = {node["id"]: node for node in graph["nodes"]}
        assert len({link[0] for link in graph["links"]}) == len(graph["links"])
        assert graph["last_link_id"] >= max(link[0] for link in graph["links"])
        assert graph["last_node_id"] >= max(nodes)
        for link, source, slot, target, place, kind in graph["links"]:
            assert link in nodes[source]["outputs"][slot]["links"]
            assert nodes[target]["inputs"][place]["link"] == link
            assert kind == nodes[source]["outputs"][slot]["type"]
        used = [socket["link"] for node in nodes.values() for socket in node["inputs"] if socket["link"] is not None]
        assert sorted(used) == sorted(link[0] for link in graph["links"])

    def test_nothing_hangs_on_what_is_saved(self, name):
        """Save Video of ComfyUI 0.3.64 gives nothing on."""
        saving = {node["id"] for node in opened(name)["nodes"] if node["type"] == "SaveVideo"}
        assert not saving & {link[1] for link in opened(name)["links"]}

    def test_twin_says_the_same(self, name):
        """As `tokenreel export` writes it."""
        assert to_api_format(opened(name)) == twin(name)

    def test_every_value_that_was_saved_is_one_of_a_widget(self, name):
        """What is not saved would have its default; what is too much says that a widget went."""
        for node in opened(name)["nodes"]:
            if node["type"] in NOTES or node["type"] == "PreviewAny":
                continue
            widgets = facts_of_classes(KNOWN)(node["type"]).widgets
            buttons = ["image"] if node["type"] == "LoadVideo" else []  # what the editor adds after the widgets
            assert node["mode"] in (0, MUTED, BYPASSED) and node["widgets_values"][len(widgets) :] == buttons
            assert len(node["widgets_values"]) == len(widgets) + len(buttons)

    def test_nodes_stand_apart_and_inside_groups(self, name):
        graph = opened(name)
        boxes = [(*node["pos"], *node["size"]) for node in graph["nodes"]]
        for index, (x, y, w, h) in enumerate(boxes):
            for other_x, other_y, other_w, other_h in boxes[:index]:
                apart_x = x >= other_x + other_w or other_x >= x + w
                apart_y = y - 30 >= other_y + other_h or other_y - 30 >= y + h  # the title is above the box
                assert apart_x or apart_y
            assert any(
                gx <= x and gy <= y - 30 and x + w <= gx + gw and y + h <= gy + gh
                for gx, gy, gw, gh in (group["bounding"] for group in graph["groups"])
            ), (x, y)

    def test_a_note_says_where_the_input_comes_from(self, name):
        notes = [node["widgets_values"][0] for node in opened(name)["nodes"] if node["type"] in NOTES]
        files = [node["inputs"]["file"] for node in twin(name).values() if node["class_type"] == "LoadVideo"]
        assert all(any(file in note for note in notes) for file in files)

    def test_is_valid(self, name, inputs):
        """Without a model the embedded host's nodes and ours are enough."""
        from tokenreel.host import files

        with files.session(input_dir=inputs):
            for workflow in (twin(name), to_api_format(opened(name), with_muted=True)):
                nodes = KNOWN if needs_model(name) else EMBEDDED
                loose = [each for each in workflow.values() if each["class_type"] in OPENS_WHAT_WAS_SAVED]
                assert len(Validation(workflow, nodes).order) == len(workflow) - len(loose)

    def test_what_is_muted_feeds_nothing_that_runs(self, name):
        sources = {
            each[0] for node in twin(name).values() for each in node["inputs"].values() if isinstance(each, list)
        }
        assert not sources & {str(node["id"]) for node in opened(name)["nodes"] if node["mode"] == MUTED}


class TestRateDistortion:
    def test_runs_in_this_process(self, inputs, tmp_path):
        run = run_workflow(twin(RATES), OURS, overrides=SMALL[RATES], input_dir=inputs, output_dir=tmp_path, keep=["4"])
        curve, table = run.values["4"]
        assert curve.shape[0] == 1 and curve.shape[3] == 3
        assert run.texts["5"] == table and "every frame for itself" in table


class TestFewFrames:
    def test_every_frame_comes_back(self, inputs, tmp_path):
        run = run_workflow(
            twin(FEW), OURS, overrides=SMALL[FEW], input_dir=inputs, output_dir=tmp_path, keep=["2", "6"]
        )
        _, kept, timeline, count, plot = run.values["2"]
        with VideoReader(inputs / REEL) as source, VideoReader(run.files[0]) as restored:
            before, after = ([pts for chunk in each.chunks() for pts in chunk.pts] for each in (source, restored))
            times = [pts * source.info.time_base for pts in before]
            assert [pts * restored.info.time_base for pts in after] == times
        assert len(timeline.source_pts) == len(before) > 2 * count == 2 * len(kept) and plot.shape[0] == 1
        report, psnr, _, _ = run.values["6"]
        assert run.texts["8"] == report and f"{len(before)} frames compared" in report and psnr > 15


class TestUpscaling:
    def test_frames_are_large_and_what_was_computed_is_shown(self, inputs, tmp_path):
        run = run_workflow(
            twin(UPSCALED), OURS, overrides=SMALL[UPSCALED], input_dir=inputs, output_dir=tmp_path, keep=["2"]
        )
        _, images, preview, report = run.values["2"]
        with VideoReader(inputs / REEL) as source, VideoReader(run.files[0]) as large:
            assert (large.info.width, large.info.height) == (2 * source.info.width, 2 * source.info.height)
            assert [chunk.pts for chunk in large.chunks()] == [chunk.pts for chunk in source.chunks()]
        assert len(images) == 1 and preview.shape[1:] == images.shape[1:] and 1 < len(preview) <= 12
        assert run.texts["5"] == report and "the rest reused" in report


class TestGenerating:
    def test_frames_that_were_left_out_are_made(self, inputs, tmp_path):
        run = run_workflow(
            twin(BETWEEN),
            OURS,
            overrides=SMALL[BETWEEN],
            input_dir=inputs,
            output_dir=tmp_path,
            keep=["2", "4", "6", "9"],
        )
        timeline, known, (made, report, preview) = run.values["2"][2], run.values["4"][0], run.values["6"]
        with VideoReader(inputs / REEL) as source, VideoReader(run.files[0]) as video:
            before, after = ([pts for chunk in each.chunks() for pts in chunk.pts] for each in (source, video))
            assert [pts * video.info.time_base for pts in after] == [pts * source.info.time_base for pts in before]
        assert len(made.frames) == len(before) > 2 * len(known.frames)
        assert [made.frames[index] for index in timeline.kept] == list(known.frames)
        assert run.texts["11"] == report and "generated" in report and preview.shape[0] == 1
        assert run.texts["12"] == run.values["9"][0] and f"{len(before)} frames compared" in run.texts["12"]


class TestWholePipeline:
    def test_everything_comes_back(self, inputs, tmp_path):
        run = run_workflow(
            twin(WHOLE), OURS, overrides=SMALL[WHOLE], input_dir=inputs, output_dir=tmp_path, keep=["2", "5", "16"]
        )
        (_, kept, timeline, *_), (tokens, *_) = run.values["2"], run.values["5"]
        files = {path.suffix: path for path in run.files}
        assert read_tokens(files[".tokens"]) == tokens and (tokens.width, tokens.height) == (48, 32)
        assert len(tokens.frames) == len(kept) == 3 < len(timeline.source_pts)
        with VideoReader(inputs / REEL) as source, VideoReader(files[".mp4"]) as video:
            assert (video.info.width, video.info.height) == (96, 64)
            before, after = ([pts for chunk in each.chunks() for pts in chunk.pts] for each in (source, video))
            assert [pts * video.info.time_base for pts in after] == [pts * source.info.time_base for pts in before]
        report, psnr, _, _ = run.values["16"]
        assert run.texts["17"] == report and f"{len(before)} frames compared at 96 x 64" in report and psnr > 12
        for node, said in (
            ("6", "dB PSNR"),
            ("9", "tokens/TokenReel_whole"),
            ("12", "3 frames became"),
            ("14", "tiles"),
        ):
            assert said in run.texts[node]


class TestShots:
    def test_storyboard_and_its_time(self, tmp_path):
        """The reel has two cuts and a dissolve."""
        run = run_workflow(twin(SHOTS), OURS, input_dir=FOLDER, output_dir=tmp_path, keep=["2"])
        _, pictures, report = run.values["2"]
        shots = json.loads(report)["shots"]
        assert [shot["transition"] for shot in shots] == ["start", "cut", "cut", "dissolve"] and run.texts[
            "4"
        ] == report
        saved = [path for path in run.files if path.suffix == ".png"]
        assert len(saved) == len(pictures) == 4
        with VideoReader(next(path for path in run.files if path.suffix == ".mp4")) as video:
            frames = np.concatenate([chunk.frames for chunk in video.chunks()])
        assert len(frames) == 96
        for shot, path in zip(shots, saved, strict=True):
            own = frames[shot["first_frame"] : shot["last_frame"] + 1].astype(float)
            assert abs(own - np.asarray(Image.open(path))).mean(axis=(1, 2, 3)).max() < 4  # H.264
        mixed = frames[78].astype(float)  # in the middle of the dissolve
        assert min(abs(mixed - frames[shot["key_frame"]]).mean() for shot in shots) > 15


class TestPlanning:
    def test_video_is_as_wished_and_was_made_as_planned(self, inputs, tmp_path):
        run = run_workflow(
            twin(PLANNED),
            OURS,
            overrides=SMALL[PLANNED],
            input_dir=inputs,
            output_dir=tmp_path,
            keep=["2", "4", "5", "6"],
        )
        *numbers, table, plot = run.values["2"]
        assert numbers == [48, 32, 9, 4.0, 2.0, 2, 96, 64]
        assert run.texts["2"] == run.texts["3"] == table and plot.shape[0] == 1
        assert run.values["4"][3] == numbers[2] - 1  # of 4n + 1, so many are needed
        assert run.values["5"][1].shape[1:3] == (32, 48)
        with VideoReader(inputs / REEL) as source, VideoReader(run.files[0]) as video:
            assert (video.info.width, video.info.height, video.info.frame_rate) == (96, 64, 8)
            before, after = ([pts for chunk in each.chunks() for pts in chunk.pts] for each in (source, video))
            assert [pts * video.info.time_base for pts in after] == [pts * source.info.time_base for pts in before]
        assert f"{len(after)} frames compared at 96 x 64" in run.texts["9"] == run.texts["10"]


class TestStandalone:
    def test_files_are_there(self, standalone):
        assert sorted(path.suffix for path in standalone.files) == [".mp4", ".tokens"]
        assert all(path.stat().st_size > 0 for path in standalone.files)

    def test_tokens_are_those_that_were_encoded(self, standalone):
        path = next(path for path in standalone.files if path.suffix == ".tokens")
        tokens, change, report, motion = standalone.values["4"]
        assert read_tokens(path) == tokens and len(change) == len(motion) == len(tokens.frames)
        assert (tokens.width, tokens.height) == (96, 64)
        assert standalone.texts["12"] == report

    def test_fewer_tokens_than_every_frame_for_itself(self, standalone):
        stream, frames = (
            int(re.search(r"([\d,]+) tokens", standalone.texts[node])[1].replace(",", "")) for node in ("12", "13")
        )
        assert stream < frames

    def test_what_is_saved_was_measured(self, standalone):
        report, psnr, ssim, _ = standalone.values["10"]
        assert standalone.texts["14"] == report and f"PSNR {psnr:.2f} dB mean" in report
        assert psnr > 12 and 0 < ssim < 1


def same_content(one, other):
    """Whether two files hold the same tokens, or pixels at the same times. Who wrote them, and how, may differ."""
    if one.suffix == ".tokens":
        return one.read_bytes() == other.read_bytes()
    if one.suffix == ".png":
        return np.array_equal(np.asarray(Image.open(one)), np.asarray(Image.open(other)))
    with VideoReader(one) as ours, VideoReader(other) as theirs:
        units = ours.info.time_base, theirs.info.time_base  # ComfyUI writes the same times in smaller units
        for a, b in zip(ours.chunks(), theirs.chunks(), strict=True):
            times = ([pts * unit for pts in each.pts] for each, unit in zip((a, b), units, strict=True))
            if not np.array_equal(a.frames, b.frames) or next(times) != next(times):
                return False
        return True


RUN_STANDALONE = (
    LOAD_CHECKOUT
    + """
import hashlib, json, os
from tokenreel.host import IS_COMFYUI
from tokenreel.host.runner import run_workflow
from tokenreel.host.workflow import load_workflow
from tokenreel.nodes import NODES
workflow, inputs, output, *overrides = sys.argv[1:]
nodes = {node.GET_SCHEMA().node_id: node for node in NODES}
result = run_workflow(load_workflow(workflow), nodes, overrides=overrides, input_dir=inputs, output_dir=output)
print(json.dumps([IS_COMFYUI, [str(path) for path in result.files], result.texts]))
"""
)


@needs_comfyui
@pytest.mark.comfyui
@pytest.mark.slow
class TestComfyUI:
    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, inputs, tmp_path_factory):
        base = tmp_path_factory.mktemp("comfyui")
        with comfyui_server(base) as running:
            (running.input / REEL).write_bytes((inputs / REEL).read_bytes())
            yield running

    def get(self, server, path):
        with urllib.request.urlopen(f"{server.url}{path}") as answer:
            return answer.read().decode()

    @each_without_model
    def test_same_tokens_and_numbers_on_both_hosts(self, server, inputs, tmp_path, name):
        """In the same Python and torch: another version of torch may add numbers in another order."""
        script_arguments = [str(FOLDER / "api" / f"{name}.json"), str(inputs), str(tmp_path), *SMALL[name]]
        answer = run_in_comfyui(RUN_STANDALONE, *script_arguments, timeout=600)
        is_comfyui, paths, texts = json.loads(answer)
        assert not is_comfyui
        prompt_id = server.client.submit(apply_overrides(twin(name), SMALL[name], KNOWN))
        outputs = server.client.wait(prompt_id, lambda event: None)
        assert paths or name == RATES
        for path in (Path(each) for each in paths):
            assert same_content(path, server.output / path.relative_to(tmp_path)), path.name
        compared = 0
        for node_id, text in texts.items():
            node = twin(name)[node_id]
            source = node["inputs"].get("source")  # of Preview as Text
            if {node["class_type"], twin(name)[source[0]]["class_type"] if source else ""} & NUMBERS:
                assert outputs[node_id]["text"] == [text]
                compared += 1
        assert compared or name == UPSCALED

    def test_nodes_are_listed_with_all_their_texts(self, server):
        listed = json.loads(self.get(server, "/object_info"))
        for node_id, node in OURS.items():
            schema = node.GET_SCHEMA()
            assert listed[node_id]["display_name"] == schema.display_name
            assert listed[node_id]["description"] == schema.description
            assert listed[node_id]["output_tooltips"] == [output.tooltip for output in schema.outputs]
            told = {**listed[node_id]["input"].get("required", {}), **listed[node_id]["input"].get("optional", {})}
            assert {name: entry[1]["tooltip"] for name, entry in told.items()} == {
                socket.id: socket.tooltip for socket in schema.inputs
            }
        assert "KSampler" in listed and "LoadVideo" in listed

    def test_help_pages_are_served(self, server):
        for node_id, node in OURS.items():
            page = self.get(server, f"/extensions/ComfyUI-TokenReel/docs/{node_id}.md")
            assert page.startswith(f"# {node.GET_SCHEMA().display_name}")

    def test_workflows_are_offered_with_their_pictures(self, server):
        assert sorted(json.loads(self.get(server, "/api/workflow_templates"))["ComfyUI-TokenReel"]) == NAMES
        for name in NAMES:
            path = f"/api/workflow_templates/ComfyUI-TokenReel/{name}"
            assert json.loads(self.get(server, f"{path}.json")) == opened(name)
            with urllib.request.urlopen(f"{server.url}{path}.jpg") as answer:
                assert answer.headers["Content-Type"] == "image/jpeg"

    def test_pack_is_imported_quickly(self, server):
        log = server.log.read_text(errors="replace")
        seconds = re.search(r"([\d.]+) seconds( \(IMPORT FAILED\))?: .*ComfyUI-TokenReel", log)
        assert seconds and not seconds[2]
        assert float(seconds[1]) <= 0.5

    def test_a_clip_that_is_not_there_is_refused_before_anything_runs(self, server):
        workflow = apply_overrides(twin(TO_TOKENS), ["1.file=gone.mp4"], KNOWN)
        with pytest.raises(WorkflowError, match=r"gone\.mp4"):
            server.client.submit(workflow)

    def test_comfyui_is_the_one_that_was_asked_for(self, server):
        version = json.loads(self.get(server, "/system_stats"))["system"]["comfyui_version"]
        assert version in (COMFYUI / "comfyui_version.py").read_text()
