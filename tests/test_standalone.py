"""The embedded host's node API, its videos, and its stand-ins for ComfyUI's nodes."""

import math
from enum import Enum
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tokenreel.host import files
from tokenreel.host import standalone as io
from tokenreel.host import standalone_ui as ui
from tokenreel.host.runner import NodeError, run_workflow
from tokenreel.host.video_handles import VideoComponents, VideoFromComponents, VideoFromFile, video_source
from tokenreel.host.workflow import WorkflowError
from tokenreel.video.reader import VideoReader
from tokenreel.video.writer import VideoWriter


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "in").mkdir()
    with files.session(input_dir=tmp_path / "in", output_dir=tmp_path / "out"):
        yield tmp_path


def levels(frames=6, height=18, width=34, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def images(array):
    return torch.from_numpy(array).float() / 255


def decode(path, **window):
    with VideoReader(path, **window) as reader:
        chunks = list(reader.chunks())
        return np.concatenate([c.frames for c in chunks]), sum((c.pts for c in chunks), ()), reader.info


def sine(seconds, rate=44100, channels=2):
    wave = torch.sin(torch.arange(int(seconds * rate)) * (2 * math.pi * 440 / rate)) * 0.5
    return {"waveform": wave.expand(1, channels, -1), "sample_rate": rate}


# -- the node API


def test_types_are_bound_to_their_inputs_and_outputs():
    box = io.Custom("BOX")
    assert (box.io_type, box.Input("a").get_io_type(), box.Output().get_io_type()) == ("BOX", "BOX", "BOX")
    assert io.Int.Input("n", default=3, min=1, max=5, control_after_generate=True).max == 5
    assert io.Image.Output(display_name="frames", tooltip="x").display_name == "frames"
    assert io.Image.Input("a").io_type != io.Mask.Input("a").io_type


def test_a_combo_takes_a_list_or_an_enum():
    class Mode(Enum):
        FAST = "fast"
        GOOD = "good"

    combo = io.Combo.Input("mode", options=Mode, default=Mode.GOOD)
    assert (combo.options, combo.default) == (["fast", "good"], "good")
    assert io.Combo.Input("mode", ["a"]).options == ["a"]


def test_options_that_comfyui_lacks_are_refused():
    with pytest.raises(TypeError, match="defualt"):
        io.Int.Input("n", defualt=1)
    with pytest.raises(TypeError, match="colour"):
        io.Schema(node_id="A", colour="red")
    with pytest.raises(ValueError, match="is_output_list is not supported"):
        io.Image.Output(is_output_list=True)


def test_schemas_are_checked_and_completed():
    class Twice(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(node_id="Twice", inputs=[io.Int.Input("a"), io.Float.Input("a")])

    class Output(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(node_id="Output", outputs=[io.Int.Output(), io.Int.Output()], is_output_node=True)

    with pytest.raises(ValueError, match="Input ids of Twice must be unique, but a are not"):
        Twice.GET_SCHEMA()
    schema = Output.GET_SCHEMA()
    assert [output.id for output in schema.outputs] == ["_0_INT_", "_1_INT_"]
    assert schema.hidden == [io.Hidden.prompt, io.Hidden.extra_pnginfo]


def test_previews(folders):
    picture = images(levels(2, 5, 7))
    shown = ui.PreviewImage(picture).as_dict()
    assert [entry["type"] for entry in shown["images"]] == ["temp", "temp"] and shown["animated"] == (False,)
    paths = [Path(files.temp_dir(), entry["subfolder"], entry["filename"]) for entry in shown["images"]]
    assert np.array_equal(np.array(Image.open(paths[1])), levels(2, 5, 7)[1])
    mask = ui.PreviewMask(torch.full((1, 5, 7), 0.4)).as_dict()["images"][0]
    assert np.array(Image.open(Path(files.temp_dir(), mask["filename"]))).tolist() == [[[102] * 3] * 7] * 5
    assert ui.PreviewText("hello").as_dict() == {"text": ("hello",)}
    saved = ui.SavedResult("a.mp4", "sub", io.FolderType.output)
    assert ui.PreviewVideo([saved]).as_dict() == {
        "images": [{"filename": "a.mp4", "subfolder": "sub", "type": "output"}],
        "animated": (True,),
    }


# -- videos


def test_a_video_in_memory_is_streamed_without_loss(folders):
    array = levels(5, 17, 23)  # odd sizes
    video = VideoFromComponents(VideoComponents(images(array), Fraction(30000, 1001)))
    source = video_source(video)
    frames, _, info = decode(source.file)
    assert np.array_equal(frames, array)
    assert (info.frame_rate, info.width, info.height) == (Fraction(30000, 1001), 23, 17)
    assert (source.start, source.duration) == (0, None)
    assert video_source(video).file == source.file, "it is written once"
    assert Path(source.file).parent == Path(files.temp_dir())


def test_a_video_in_memory_keeps_its_sound(folders):
    video = VideoFromComponents(VideoComponents(images(levels(24)), Fraction(24), sine(1)))
    assert decode(video_source(video).file)[2].has_audio


def test_alpha_of_images_is_left_out(folders):
    with_alpha = torch.cat([images(levels(2)), torch.rand(2, 18, 34, 1)], -1)
    video = VideoFromComponents(VideoComponents(with_alpha, Fraction(24)))
    assert np.array_equal(decode(video_source(video).file)[0], levels(2))


@pytest.fixture
def clip(folders):
    """10 frames of 1/10 s, in the input folder, losslessly."""
    path = folders / "in" / "clip.mp4"
    with VideoWriter(path, width=34, height=18, frame_rate=Fraction(10), lossless=True) as writer:
        writer.write(levels(10))
    return str(path)


def test_a_video_in_a_file_says_what_it_is(clip):
    video = VideoFromFile(clip)
    assert video.get_stream_source() == clip
    assert (video.get_dimensions(), video.get_frame_rate(), video.get_frame_count()) == ((34, 18), Fraction(10), 10)
    assert (video.get_duration(), video.get_bit_depth()) == (pytest.approx(1), 8)
    components = video.get_components()
    assert np.array_equal((components.images * 255).round().byte().numpy(), levels(10))
    assert video_source(video) == (clip, 0, None)


def test_bytes_are_a_video_too(clip):
    video = VideoFromFile(BytesIO(Path(clip).read_bytes()))
    assert video.get_frame_count() == 10
    assert video.get_frame_count() == 10, "again, from the start"


def test_parts_of_videos(clip, folders):
    part = VideoFromFile(clip).as_trimmed(0.3, 0.4)
    assert part.get_active_trim_window() == (0.3, 0.4)
    assert video_source(part) == (clip, Fraction(3, 10), Fraction(4, 10))
    assert (part.get_frame_count(), part.get_duration()) == (4, 0.4)
    inner = part.as_trimmed(0.1, 0.2)
    assert np.array_equal((inner.get_components().images * 255).round().byte().numpy(), levels(10)[4:6])
    assert VideoFromFile(clip).as_trimmed(0.8, 0.5) is None
    assert VideoFromFile(clip).as_trimmed(0.8, 0.5, strict_duration=False).get_duration() == pytest.approx(0.2)
    assert VideoFromFile(clip, start_time=-0.2).get_frame_count() == 2
    part.save_to(str(folders / "part.mp4"))
    frames, pts, info = decode(folders / "part.mp4")
    assert [round(float(each * info.time_base), 3) for each in pts] == [0.0, 0.1, 0.2, 0.3]
    distances = np.abs(frames[:, None].astype(int) - levels(10)[None]).mean((2, 3, 4))  # [4, 10]
    assert distances.argmin(1).tolist() == [3, 4, 5, 6]


def test_saving_a_whole_mp4_copies_it(clip, folders):
    VideoFromFile(clip).save_to(str(folders / "copy.mp4"))
    assert (folders / "copy.mp4").read_bytes() == Path(clip).read_bytes()
    assert sorted(path.name for path in folders.iterdir()) == ["copy.mp4", "in"]


# -- stand-ins


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def test_load_and_save_a_video(clip, folders):
    workflow = {
        "1": node("LoadVideo", file="clip.mp4", **{"video-preview": ""}),
        "2": node("SaveVideo", video=["1", 0], filename_prefix="video/x", format="auto", codec="auto"),
    }
    result = run_workflow(workflow, {}, input_dir=folders / "in", output_dir=folders / "out")
    assert result.files == [folders / "out" / "video" / "x_00001_.mp4"]
    assert result.files[0].read_bytes() == Path(clip).read_bytes()
    assert result.ui["2"]["animated"] == (True,)


def test_take_a_video_apart_and_put_it_together(clip, folders):
    workflow = {
        "1": node("LoadVideo", file="clip.mp4"),
        "2": node("GetVideoComponents", video=["1", 0]),
        "3": node("CreateVideo", images=["2", 0], fps=["2", 2], audio=["2", 1]),
        "4": node("SaveVideo", video=["3", 0], filename_prefix="y", format="mp4", codec="h264"),
        "5": node("PreviewAny", source=["2", 2]),
        "6": node("SaveImage", images=["2", 0], filename_prefix="frame"),
        "7": node("PreviewImage", images=["2", 0]),
    }
    result = run_workflow(workflow, {}, input_dir=folders / "in", output_dir=folders / "out")
    frames, _, info = decode(folders / "out" / "y_00001_.mp4")
    assert (len(frames), info.frame_rate, info.codec) == (10, Fraction(10), "h264")
    assert result.texts == {"5": "10.0"}
    assert len(result.ui["7"]["images"]) == 10
    saved = [np.array(Image.open(path)) for path in result.files if path.suffix == ".png"]
    assert np.array_equal(np.stack(saved), levels(10))


def test_load_an_image(folders):
    Image.fromarray(levels(1)[0]).save(folders / "in" / "a.png")
    transparent = np.dstack([levels(1)[0], np.full((18, 34), 51, np.uint8)])
    Image.fromarray(transparent).save(folders / "in" / "b.png")
    workflow = {
        "a": node("LoadImage", image="a.png", upload="image"),
        "b": node("LoadImage", image="b.png"),
        "pa": node("PreviewImage", images=["a", 0]),
        "pb": node("PreviewImage", images=["b", 0]),
    }
    values = run_workflow(workflow, {}, input_dir=folders / "in", keep=["a", "b"]).values
    assert torch.equal(values["a"][0], images(levels(1))) and torch.equal(values["a"][1], torch.zeros(1, 64, 64))
    assert torch.allclose(values["b"][1], torch.full((1, 18, 34), 0.8))


def test_a_changed_file_is_another_input(clip, folders):
    from tokenreel.host.builtin_nodes import LoadVideo

    before = LoadVideo.fingerprint_inputs(file="clip.mp4")
    Path(clip).write_bytes(b"other")
    assert LoadVideo.fingerprint_inputs(file="clip.mp4") != before


def test_files_that_are_not_there_are_refused_before_the_run(folders):
    workflow = {"1": node("LoadVideo", file="../x.mp4"), "2": node("PreviewAny", source=["1", 0])}
    with pytest.raises(WorkflowError, match=r"^node 1 \(LoadVideo\), input file: Invalid file name '\.\./x\.mp4'"):
        run_workflow(workflow, {}, input_dir=folders / "in")
    workflow["1"]["inputs"]["file"] = "x.mp4"
    with pytest.raises(WorkflowError, match=r"No file 'x\.mp4' in the input folder"):
        run_workflow(workflow, {}, input_dir=folders / "in")


def test_what_is_no_video_is_one_line_and_leaves_nothing(folders):
    (folders / "in" / "x.mp4").write_text("words, not pictures")
    save = node("SaveVideo", video=["1", 0], filename_prefix="y", format="auto", codec="auto")
    with pytest.raises(NodeError, match=r"^node 2 \(SaveVideo\): .*x\.mp4.*\. Fix: [^\n]*$"):
        run_workflow(
            {"1": node("LoadVideo", file="x.mp4"), "2": save}, {}, input_dir=folders / "in", output_dir=folders / "out"
        )
    assert not list(folders.glob("out/**/*.*"))


def test_ten_bits_need_comfyui(clip, folders):
    workflow = {
        "1": node("LoadVideo", file="clip.mp4"),
        "2": node("GetVideoComponents", video=["1", 0]),
        "3": node("CreateVideo", images=["2", 0], fps=24.0, bit_depth=10),
        "4": node("PreviewAny", source=["3", 0]),
    }
    with pytest.raises(NodeError, match="bit_depth 10 needs ComfyUI"):
        run_workflow(workflow, {}, input_dir=folders / "in")
