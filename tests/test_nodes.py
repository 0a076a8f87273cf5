"""The nodes: every text there, every id as it was, and every node run on a small clip on the embedded host."""

import ast
import asyncio
import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from comfyui_server import LOAD_CHECKOUT

import tokenreel
from tokenreel.host import files, resources
from tokenreel.host.video_handles import VideoComponents, VideoFromComponents, VideoFromFile
from tokenreel.models.checkpoint import save_checkpoint
from tokenreel.models.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from tokenreel.models.residual_codec import ResidualCodec, ResidualCodecConfig
from tokenreel.models.stream_codec import decode_stream
from tokenreel.nodes import NODES, TokenReelExtension, residual, sources, tokenizing
from tokenreel.nodes.inspecting import InspectTokens, spread
from tokenreel.nodes.measuring import MeasureQuality
from tokenreel.nodes.residual import EncodeResidual
from tokenreel.nodes.sampling import DetectShots, SampleFrames
from tokenreel.nodes.storing import LoadTokens, SaveTokens
from tokenreel.nodes.tokenizing import DecodeTokens, EncodeVideo, LoadTokenizer
from tokenreel.tokens.accounting import block_costs
from tokenreel.video.frame_rates import exact_frame_rate
from tokenreel.video.frames import uint8_to_image
from tokenreel.video.reader import VideoError, VideoReader
from tokenreel.video.reel import render
from tokenreel.video.writer import VideoWriter

ROOT = Path(tokenreel.__file__).parent
SNAPSHOT = ROOT / "tests" / "data" / "node_schemas.json"
LISTED = {"file", "tokenizer_name", "generator_name", "model_name", "sampler_name", "scheduler", "parts"}
"""Inputs whose choices depend on what is there."""
CATEGORIES = {"video/sampling", "video/tokens", "video/enhance", "model/loaders", "model/efficiency"}
WIDTH, HEIGHT, FRAMES = 64, 48, 8
TINY = {
    "encoder_widths": (16, 32),
    "encoder_blocks": (1, 1),
    "decoder_widths": (16, 32),
    "decoder_blocks": (1, 1),
    "heads": 2,
}

each_node = pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)


def schema_of(node):
    return node.GET_SCHEMA()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model folder with a small untrained tokenizer and its codec, and a file of somebody else."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    image = ImageTokenizer(ImageTokenizerConfig(**TINY)).eval()
    codec = ResidualCodec(ResidualCodecConfig(**TINY, context_widths=(16, 32))).eval()
    save_checkpoint(folder / "tiny.safetensors", image, "image_tokenizer", "tiny")
    save_checkpoint(folder / "tiny_codec.safetensors", codec, "residual_codec", "tiny-codec")
    return folder


@pytest.fixture(scope="module")
def reel():
    """uint8 [FRAMES, HEIGHT, WIDTH, 3]: two scenes with a cut between them."""
    frames = np.concatenate(list(render(WIDTH, HEIGHT, 8, 0.5).chunks()))[:FRAMES]
    return np.ascontiguousarray(frames)


@pytest.fixture(scope="module")
def inputs(reel, tmp_path_factory):
    """An input folder with `clip.mp4`, exactly the reel, 8 frames a second."""
    folder = tmp_path_factory.mktemp("input")
    with VideoWriter(folder / "clip.mp4", width=WIDTH, height=HEIGHT, frame_rate=Fraction(8), lossless=True) as writer:
        writer.write(reel)
    return folder


@pytest.fixture
def session(models, inputs, tmp_path):
    with files.session(input_dir=inputs, output_dir=tmp_path / "output", model_dir=models), torch.inference_mode():
        yield


@pytest.fixture
def video(session, inputs):
    return VideoFromFile(str(inputs / "clip.mp4"))


@pytest.fixture
def talking(session, reel):
    """The reel with sound."""
    tone = torch.sin(torch.arange(44_100) * 0.05).mul(0.3)[None, None]
    parts = VideoComponents(uint8_to_image(reel), Fraction(8), {"waveform": tone, "sample_rate": 44_100})
    return VideoFromComponents(parts)


@pytest.fixture
def late_tone(session, reel):
    """The reel, silent for half a second and then with a tone."""
    tone = torch.sin(torch.arange(44_100) * 0.1).mul(0.5)[None, None]
    tone[..., :22_050] = 0
    parts = VideoComponents(uint8_to_image(reel), Fraction(8), {"waveform": tone, "sample_rate": 44_100})
    return VideoFromComponents(parts)


def tone_begins(video):
    """When the sound of a video becomes loud, in seconds."""
    with av.open(video.get_stream_source()) as container:
        for frame in container.decode(audio=0):
            loud = np.flatnonzero(np.abs(frame.to_ndarray().astype(np.float64)).max(0) > 0.2)
            if loud.size:
                return float(frame.pts * frame.time_base) + loud[0] / frame.sample_rate
    return None


@pytest.fixture
def tokenizer(session):
    return LoadTokenizer.execute("tiny.safetensors")[0]


@pytest.fixture
def stream(video, tokenizer):
    """Tokens with P-frames."""
    return encode_residual(tokenizer, video=video)[0]


def encode_residual(tokenizer, **inputs):
    widgets = {"control": "match key frames", "quality": 30.0, "budget": 4000.0, "max_gop": 48}
    return EncodeResidual.execute(tokenizer, **{**widgets, "size": 0, "crop": False, "fps": 24.0, **inputs})


def sample(video, **widgets):
    return SampleFrames.execute(
        video, **{"policy": "motion", "amount": "frames", "frames": 4, "fps": 2.0, "max_gap": 0, **widgets}
    )


def frames_of(video):
    with VideoReader(video.get_stream_source()) as reader:
        return np.concatenate([chunk.frames for chunk in reader.chunks()])


class TestSchemas:
    def test_extension_lists_the_nodes_in_menu_order(self):
        extension = asyncio.run(tokenreel.comfy_entrypoint())
        assert isinstance(extension, TokenReelExtension)
        asyncio.run(extension.on_load())
        assert asyncio.run(extension.get_node_list()) == NODES

    @each_node
    def test_every_text_is_there(self, node):
        schema = schema_of(node)
        assert schema.display_name and schema.category in CATEGORIES
        assert len(schema.description) > 60 and schema.description.endswith(".")
        assert len(schema.search_aliases) >= 3
        for socket in [*schema.inputs, *schema.outputs]:
            assert socket.tooltip and socket.tooltip.endswith("."), socket.id
        for output in schema.outputs:
            assert output.display_name

    @each_node
    def test_help_page_names_every_input_and_output(self, node):
        schema = schema_of(node)
        page = (ROOT / "web" / "docs" / f"{schema.node_id}.md").read_text(encoding="utf-8")
        assert page.startswith(f"# {schema.display_name}\n")
        for name in [*(socket.id for socket in schema.inputs), *(socket.display_name for socket in schema.outputs)]:
            assert f"**{name}**" in page, name

    def test_no_help_page_without_a_node(self):
        pages = {path.stem for path in (ROOT / "web" / "docs").glob("*.md")}
        assert pages == {schema_of(node).node_id for node in NODES}

    def test_ids_inputs_defaults_and_outputs_never_change(self):
        """Saved workflows depend on them. A new node or a new last, optional input may be added to the snapshot."""
        now = {}
        for node in NODES:
            schema = schema_of(node)
            now[schema.node_id] = {
                "inputs": [
                    [socket.id, socket.get_io_type(), socket.optional, getattr(socket, "default", None)]
                    for socket in schema.inputs
                ],
                "choices": {
                    socket.id: socket.options
                    for socket in schema.inputs
                    if socket.get_io_type() == "COMBO" and socket.id not in LISTED
                },
                "outputs": [[socket.get_io_type(), socket.display_name] for socket in schema.outputs],
            }
        assert now == json.loads(SNAPSHOT.read_text(encoding="utf-8"))

    def test_execute_is_short(self):
        for path in (ROOT / "nodes").glob("*.py"):
            for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(function, ast.FunctionDef) and function.name == "execute":
                    first = function.body[0].lineno
                    assert function.end_lineno - first + 1 <= 25, path.name

    def test_shipped_tokenizers_are_named(self):
        from tokenreel.models.checkpoint import list_tokenizers

        assert set(tokenizing.SHIPPED) == set(list_tokenizers())

    def test_listing_the_nodes_opens_no_file_and_no_socket(self, tmp_path):
        """ComfyUI has loaded torch, av and Pillow before us; what is ours on top is quick, and silent."""
        script = (
            "import torch, numpy, av, safetensors.torch, PIL.ImageDraw, PIL.ImageFont, av.video.reformatter\n"
            + LOAD_CHECKOUT
            + """
import json, time
from tokenreel.host import files
files.input_dir()  # the embedded host makes a temp folder; ComfyUI has its own
opened = []
def watch(event, arguments):
    if event in ("open", "socket.__new__", "socket.connect"):
        if not str(arguments[0]).endswith((".py", ".pyc", ".so", ".pth")) and "__pycache__" not in str(arguments[0]):
            opened.append([event, str(arguments[0])])
sys.addaudithook(watch)
begin = time.process_time()
entrypoint = sys.modules["tokenreel"].comfy_entrypoint()
try:
    entrypoint.send(None)  # awaited without an event loop, which would open sockets of its own
except StopIteration as finished:
    extension = finished.value
from tokenreel.nodes import NODES
for node in NODES:
    node.GET_SCHEMA()
seconds = time.process_time() - begin
print(json.dumps([seconds, opened]))
"""
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
        seconds, opened = json.loads(done.stdout)
        assert opened == []
        assert seconds < 0.5


class TestSources:
    @pytest.mark.parametrize("node", [EncodeVideo, EncodeResidual])
    def test_nothing_connected(self, node, tokenizer):
        widgets = {} if node is EncodeVideo else {"control": "quality", "quality": 30, "budget": 1, "max_gop": 1}
        with pytest.raises(ValueError, match=r"Connect either video or images: neither is connected\."):
            node.execute(tokenizer, size=0, crop=False, fps=24.0, **widgets)

    def test_both_connected(self, video, tokenizer, reel):
        with pytest.raises(ValueError, match="both are connected"):
            EncodeVideo.execute(tokenizer, 0, False, 24.0, video=video, images=uint8_to_image(reel))

    @pytest.mark.parametrize(
        ("fps", "exact"),
        [
            (24.0, Fraction(24)),
            (23.976, Fraction(24000, 1001)),
            (29.97, Fraction(30000, 1001)),
            (12.5, Fraction(25, 2)),
        ],
    )
    def test_broadcast_rates_are_exact(self, fps, exact):
        assert exact_frame_rate(fps) == exact

    def test_to_images_keeps_the_order_and_empties_the_list(self, reel):
        listed = [frame[None] for frame in reel]
        assert torch.equal(sources.to_images(listed), uint8_to_image(reel))
        assert listed == []


class TestSampleFrames:
    def test_motion_keeps_the_cut(self, video, reel):
        sampled, images, timeline, count, plot = sample(video, frames=3).args
        assert count == len(timeline.kept) == len(images) == 3 and plot.shape[0] == 1
        assert 4 in timeline.kept and timeline.shots == (0, 4)
        assert torch.equal(images, uint8_to_image(reel[list(timeline.kept)]))
        with VideoReader(sampled.get_stream_source()) as reader:
            chunks = list(reader.chunks())
            starts = [float(pts * reader.info.time_base) for chunk in chunks for pts in chunk.pts]
            end = starts[-1] + float(chunks[-1].durations[-1] * reader.info.time_base)
        assert starts == pytest.approx([index / 8 for index in timeline.kept])
        assert end == pytest.approx(1.0)

    def test_uniform_by_rate(self, video):
        _, _, timeline, count, _ = sample(video, policy="uniform", amount="fps", fps=4.0).args
        assert count == 4 and timeline.kept == (0, 2, 4, 6)

    def test_max_gap(self, video):
        assert sample(video, policy="uniform", frames=1, max_gap=3)[2].kept == (0, 2, 5)

    def test_more_than_there_are(self, video):
        assert sample(video, frames=100)[3] == FRAMES

    def test_only_the_part_that_is_meant(self, session, inputs, reel):
        part = VideoFromFile(str(inputs / "clip.mp4"), start_time=0.5, duration=0.375)
        sampled, images, timeline, _, _ = sample(part, policy="uniform", frames=3).args
        assert torch.equal(images, uint8_to_image(reel[4:7]))
        assert timeline.source_pts[0] == 0 and timeline.duration == Fraction(3, 8)
        assert len(frames_of(sampled)) == 3

    def test_budget_of_tokens(self, video):
        """64x48 pixels are 48 tokens; at a short side of 96 they are four times as many."""
        given = {"policy": "uniform", "amount": "tokens", "tokens_per_second": 200.0}
        assert sample(video, **given, size=0)[3] == 4 and sample(video, **given, size=96)[3] == 1
        with pytest.raises(ValueError, match=r"Invalid budget \(40 tokens/s\)\. One frame takes 48 tokens"):
            sample(video, **{**given, "tokens_per_second": 40.0}, size=0)

    @pytest.mark.parametrize(
        ("widgets", "count"),
        [
            ({"preset": "4n+1", "frames": 7}, 5),
            ({"preset": "6n+1", "frames": 6, "rounding": "above"}, 7),
            ({"preset": "8n+1", "frames": 100}, 1),
            ({"preset": "4n+1", "frames": 100, "policy": "uniform"}, 5),
            ({"preset": "4n+1", "policy": "keyframes", "amount": "threshold", "threshold": 255.0}, 1),
            ({"min_gap": 3, "frames": 8}, 4),
        ],
    )
    def test_presets_and_gaps(self, video, widgets, count):
        assert sample(video, **widgets)[3] == count

    def test_threshold_is_for_those_that_have_one(self, video):
        assert sample(video, policy="keyframes", amount="threshold", threshold=255.0)[2].kept == (0, 4)
        assert sample(video, policy="dedupe", amount="threshold")[3] > 2
        with pytest.raises(ValueError, match="Give either a number of frames"):
            sample(video, amount="threshold")

    def test_frames_that_are_kept_do_not_hold_the_others(self, video):
        from tokenreel.sampling import sample_frames, write_sample

        source, kept = video.get_stream_source(), []
        timeline, _ = sample_frames(source, frames=2)
        write_sample(source, timeline, files.temp_path(".mp4"), collect=kept.append)
        assert all(frame.base is None for frame in kept)

    def test_sound_is_kept(self, talking):
        with VideoReader(sample(talking)[0].get_stream_source()) as reader:
            assert reader.info.has_audio

    def test_sound_of_a_part_stays_in_step(self, late_tone):
        """The tone begins at 0.5 s of the file, 0.25 s into the part."""
        part = late_tone.as_trimmed(0.25, 0.5)
        assert tone_begins(sample(part, policy="uniform", frames=4)[0]) == pytest.approx(0.25, abs=0.06)

    def test_missing_file(self, session, tmp_path):
        with pytest.raises(VideoError, match=r"gone\.mp4"):
            sample(VideoFromFile(str(tmp_path / "gone.mp4")))


class TestDetectShots:
    def test_shots_of_the_reel(self, video, reel):
        timeline, key_frames, report = DetectShots.execute(video, "first").args
        assert timeline.kept == timeline.shots == (0, 4)
        assert torch.equal(key_frames, uint8_to_image(reel[[0, 4]]))
        facts = json.loads(report)
        assert [(each["start"], each["end"], each["transition"]) for each in facts["shots"]] == [
            (0.0, 0.5, "start"),
            (0.5, 1.0, "cut"),
        ]
        assert (facts["frames"], facts["width"], facts["height"], facts["frame_rate"]) == (FRAMES, WIDTH, HEIGHT, 8.0)

    def test_typical_frame_is_in_its_shot(self, video):
        output = DetectShots.execute(video, "typical")
        first, second = output[0].kept
        assert first < 4 <= second and "2 shots in 8 frames" in output.ui["text"][0]

    def test_only_the_part_that_is_meant(self, session, inputs):
        part = VideoFromFile(str(inputs / "clip.mp4"), start_time=0.25, duration=0.5)
        facts = json.loads(DetectShots.execute(part)[2])
        assert facts["frames"] == 4 and facts["shots"][1]["start"] == 0.25

    def test_missing_file(self, session, tmp_path):
        with pytest.raises(VideoError, match=r"gone\.mp4"):
            DetectShots.execute(VideoFromFile(str(tmp_path / "gone.mp4")))


class TestLoadTokenizer:
    def test_own_file(self, tokenizer):
        assert (tokenizer.id, tokenizer.codec_id) == ("tiny", "tiny-codec")
        assert tokenizer.device == resources.device()

    def test_files_in_the_folder_are_offered_after_the_shipped_ones(self, session):
        options = schema_of(LoadTokenizer).inputs[0].options
        assert options == [*tokenizing.SHIPPED, "tiny.safetensors", "tiny_codec.safetensors"]

    def test_validation(self, session):
        assert LoadTokenizer.validate_inputs("tiny.safetensors") is True
        assert "tiny_codec.safetensors is a residual_codec" in LoadTokenizer.validate_inputs("tiny_codec.safetensors")
        assert "No weights 'gone.safetensors'" in LoadTokenizer.validate_inputs("gone.safetensors")
        assert "it has '..'" in LoadTokenizer.validate_inputs("../tiny.safetensors")
        assert "not a .safetensors file" in LoadTokenizer.validate_inputs("tiny.pt")

    def test_a_file_of_somebody_else(self, session, inputs, tmp_path):
        (tmp_path / "other.safetensors").write_bytes(b"not weights at all")
        with files.session(model_dir=tmp_path):
            assert "not a readable safetensors file" in LoadTokenizer.validate_inputs("other.safetensors")

    def test_fingerprint_follows_the_file(self, session, models):
        before = LoadTokenizer.fingerprint_inputs("tiny.safetensors")
        assert before == LoadTokenizer.fingerprint_inputs("tiny.safetensors")
        os.utime(models / "tiny.safetensors", (1, 1))
        assert LoadTokenizer.fingerprint_inputs("tiny.safetensors") != before


class TestEncodeVideo:
    def test_every_frame_for_itself(self, video, tokenizer):
        tokens, report = EncodeVideo.execute(tokenizer, 0, False, 24.0, video=video).args
        assert (tokens.width, tokens.height, tokens.frame_rate) == (WIDTH, HEIGHT, Fraction(8))
        assert len(tokens.gops) == len(tokens.frames) == FRAMES
        assert tokens.digest == tokenizer.digest and tokens.codec == ""
        assert f"{FRAMES * WIDTH * HEIGHT // 64} tokens" in report and "dB PSNR" in report

    def test_images_are_the_same_clip(self, video, tokenizer, reel):
        from_video = EncodeVideo.execute(tokenizer, 0, False, 24.0, video=video)[0]
        from_images = EncodeVideo.execute(tokenizer, 0, False, 8.0, images=uint8_to_image(reel))[0]
        assert all(a == b for a, b in zip(from_video.frames, from_images.frames, strict=True))
        assert from_images.frame_rate == 8 and from_images.duration == 1

    def test_size_and_crop(self, video, tokenizer):
        tokens = EncodeVideo.execute(tokenizer, 32, True, 24.0, video=video)[0]
        assert (tokens.width, tokens.height) == (32, 32)
        tokens = EncodeVideo.execute(tokenizer, 24, False, 24.0, video=video)[0]
        assert (tokens.width, tokens.height) == (32, 24)

    def test_one_odd_frame_with_alpha(self, tokenizer):
        picture = torch.rand(1, 33, 21, 4, generator=torch.Generator().manual_seed(1))
        tokens = EncodeVideo.execute(tokenizer, 0, False, 24.0, images=picture.half())[0]
        decoded, images = DecodeTokens.execute(tokens, False, True, tokenizer=tokenizer).args
        assert images.shape == (1, 33, 21, 3) and frames_of(decoded).shape == (1, 33, 21, 3)


class TestEncodeResidual:
    def test_change_is_where_tokens_are(self, video, tokenizer):
        tokens, change, report, _ = encode_residual(tokenizer, video=video).args
        assert change.shape == (FRAMES, HEIGHT, WIDTH) and change[0].min() == 1
        assert set(change.unique().tolist()) <= {0.0, 1.0}
        for mask, frame in zip(change, tokens.frames, strict=True):
            assert torch.equal(mask[::16, ::16] > 0, torch.from_numpy(block_costs(frame) > 0))
        assert tokens.codec == "tiny-codec" and "frame headers: " in report

    @pytest.mark.parametrize(
        ("control", "knobs"),
        [("quality", {"quality": 33.5}), ("budget", {"budget": 777.0}), ("match key frames", {})],
    )
    def test_only_the_knob_that_is_chosen_counts(self, video, tokenizer, monkeypatch, control, knobs):
        seen = {}

        def encode_clip(clip, tokenizer, **given):
            seen.update(given)
            raise ValueError("enough")

        monkeypatch.setattr(tokenizing, "encode_clip", encode_clip)
        with pytest.raises(ValueError, match="enough"):
            encode_residual(tokenizer, video=video, control=control, quality=33.5, budget=777.0, max_gop=7)
        assert {name: seen[name] for name in seen if name not in ("check", "progress")} == {
            "mode": "stream",
            "max_gop": 7,
            **knobs,
        }

    def test_max_gop_of_one_is_all_key_frames(self, video, tokenizer):
        tokens = encode_residual(tokenizer, video=video, max_gop=1)[0]
        assert len(tokens.gops) == FRAMES

    def test_odd_size(self, tokenizer, reel):
        tokens, change, _, motion = encode_residual(tokenizer, images=uint8_to_image(reel[:3, :33, :21])).args
        assert (tokens.width, tokens.height) == (21, 33)
        assert change.shape == (3, 33, 21) and motion.shape == (3, 33, 21, 2)

    def test_tokenizer_without_codec(self, session, video, models, tmp_path):
        (tmp_path / "alone.safetensors").write_bytes((models / "tiny.safetensors").read_bytes())
        with files.session(model_dir=tmp_path):
            alone = LoadTokenizer.execute("alone.safetensors")[0]
            with pytest.raises(ValueError, match=r"'tiny' has no residual codec\..*Encode every frame for itself"):
                encode_residual(alone, video=video)

    def test_mask_of_skipped_blocks(self, random_tokens):
        tokens = random_tokens(shares=(1.0, 0.0, 0.0, 0.0), key_every=3)
        mask = residual.change_mask(tokens)
        assert [float(frame.mean()) for frame in mask] == [1, 0, 0, 1, 0, 0]
        assert mask.shape == (6, tokens.height, tokens.width)

    def test_change_of_a_long_clip_stays_small(self, random_tokens, monkeypatch):
        """Non-regression: a minute of 720p took 6 GB for the mask alone."""
        tokens = random_tokens(7, width=50, height=40, frames=3)
        whole = residual.change_mask(tokens)
        monkeypatch.setattr(residual, "_MOST_BYTES", 3 * 50 * 40 * 4 - 1)
        small = residual.change_mask(tokens)
        assert whole.shape == (3, 40, 50) and small.shape == (3, 3, 4)
        assert torch.equal(whole[:, ::16, ::16], small)

    @pytest.mark.parametrize("step", [(0, 3), (2, -4)])
    def test_motion_of_a_translated_picture(self, trained_tokenizer, texture, step):
        """Content moves `step` = (down, right) pixels a frame: a pixel was that much further up and left before."""
        down, right = step
        scene = texture(96 + 16, 112 + 16)
        frames = np.stack([scene[8 - i * down :, 8 - i * right :][:96, :112] for i in range(3)])
        motion = encode_residual(trained_tokenizer, images=uint8_to_image(frames), max_gop=2)[3]
        assert motion.shape == (3, 96, 112, 2) and motion.dtype == torch.float32
        assert not motion[0].any() and not motion[2].any()  # key frames
        off = (motion[1, 16:80, 16:96] - torch.tensor([-right, -down])).abs()
        assert (off <= 0.5).all(-1).float().mean() > 0.9  # to half a pixel: the frame before was decoded from tokens

    def test_motion_is_that_of_the_blocks(self, random_tokens, monkeypatch):
        tokens = random_tokens(7, width=50, height=40, frames=3)
        whole = residual.motion_field(tokens)
        for field, frame in zip(whole[1:], tokens.frames[1:], strict=True):
            dx, dy = field[::16, ::16].unbind(-1)
            assert np.array_equal(torch.stack([dy, dx], -1) * 2, frame.motion_field())
        monkeypatch.setattr(residual, "_MOST_BYTES", 3 * 50 * 40 * 8 - 1)
        small = residual.motion_field(tokens)
        assert whole.shape == (3, 40, 50, 2) and small.shape == (3, 3, 4, 2)
        assert torch.equal(whole[:, ::16, ::16], small)

    def test_report_tells_of_outputs_that_were_too_large(self, video, tokenizer, monkeypatch):
        monkeypatch.setattr(residual, "_MOST_BYTES", FRAMES * HEIGHT * WIDTH * 4)
        _, change, report, motion = encode_residual(tokenizer, video=video).args
        assert change.shape == (FRAMES, HEIGHT, WIDTH) and motion.shape[1:] == (-(-HEIGHT // 16), -(-WIDTH // 16), 2)
        assert "motion has one value per 16x16 block" in report and "change has" not in report


class TestDecodeTokens:
    def test_lossless_is_exactly_what_was_decoded(self, stream, tokenizer):
        decoded, images = DecodeTokens.execute(stream, True, True, tokenizer=tokenizer).args
        wanted = np.stack(list(decode_stream(stream, tokenizer)))
        assert (frames_of(decoded) == wanted).all()
        assert torch.equal(images, uint8_to_image(wanted))

    def test_first_frame_only_unless_asked(self, stream, tokenizer):
        decoded, images = DecodeTokens.execute(stream, False, False, tokenizer=tokenizer).args
        assert images.shape == (1, HEIGHT, WIDTH, 3)
        assert frames_of(decoded).shape == (FRAMES, HEIGHT, WIDTH, 3)

    def test_time_stamps_come_back(self, video, tokenizer):
        sampled = sample(video, frames=3).args
        tokens = encode_residual(tokenizer, video=sampled[0])[0]
        decoded = DecodeTokens.execute(tokens, False, False, tokenizer=tokenizer)[0]
        with VideoReader(decoded.get_stream_source()) as reader:
            chunks = list(reader.chunks())
            starts = [pts * reader.info.time_base for chunk in chunks for pts in chunk.pts]
        assert starts == [Fraction(index, 8) for index in sampled[2].kept]

    def test_tokenizer_is_found_by_its_weights(self, stream, tokenizer):
        wired = DecodeTokens.execute(stream, True, True, tokenizer=tokenizer)[1]
        assert torch.equal(DecodeTokens.execute(stream, True, True)[1], wired)

    def test_codec_is_found_among_several(self, stream, session, models, tmp_path):
        other = ResidualCodec(ResidualCodecConfig(**TINY, context_widths=(16, 32)))
        save_checkpoint(tmp_path / "a_first.safetensors", other, "residual_codec", "other")
        (tmp_path / "noise.safetensors").write_bytes(b"?")
        for path in models.glob("*.safetensors"):
            (tmp_path / f"z_{path.name}").write_bytes(path.read_bytes())
        with files.session(model_dir=tmp_path):
            assert tokenizing.find_tokenizer(stream).codec_id == "tiny-codec"

    def test_tokens_of_an_unknown_tokenizer(self, random_tokens, session):
        with pytest.raises(
            ValueError, match=r"tokenizer 'i8' \(0123456789ab\).*Put its file into video_tokenizers, or connect"
        ):
            DecodeTokens.execute(random_tokens(), False, False)

    def test_wrong_tokenizer(self, random_tokens, tokenizer):
        with pytest.raises(ValueError, match=r"made by tokenizer 'i8' .*Load the tokenizer they were made with"):
            DecodeTokens.execute(random_tokens(), False, False, tokenizer=tokenizer)
        assert os.listdir(files.temp_dir()) == []

    def test_sound(self, stream, tokenizer, talking, video):
        for source, sound in ((talking, True), (video, False), (None, False)):
            decoded = DecodeTokens.execute(stream, False, False, tokenizer=tokenizer, audio_from=source)[0]
            with VideoReader(decoded.get_stream_source()) as reader:
                assert reader.info.has_audio == sound

    def test_sound_of_a_part_stays_in_step(self, late_tone, tokenizer):
        part = late_tone.as_trimmed(0.25, 0.5)
        tokens = encode_residual(tokenizer, video=part)[0]
        assert tokens.pts[0] == 0 and tokens.duration == Fraction(1, 2)
        decoded = DecodeTokens.execute(tokens, False, False, tokenizer=tokenizer, audio_from=part)[0]
        assert tone_begins(decoded) == pytest.approx(0.25, abs=0.06)


class TestTokenFiles:
    def test_what_is_saved_can_be_loaded(self, stream, tmp_path):
        output = SaveTokens.execute(stream, "a/clip_%width%")
        name, report = output.args
        path = tmp_path / "output" / name
        assert name == f"a/clip_{WIDTH}_00001_.tokens" and f"{path.stat().st_size:,} bytes on disk" in report
        assert output.ui["tokens"] == [{"filename": path.name, "subfolder": "a", "type": "output"}]
        with files.session(input_dir=path.parent):
            assert schema_of(LoadTokens).inputs[0].options == [path.name]
            assert LoadTokens.validate_inputs(path.name) is True
            tokens, loaded_report = LoadTokens.execute(path.name).args
        assert tokens == stream and loaded_report in report

    def test_what_was_just_saved_is_offered(self, stream, session):
        SaveTokens.execute(stream, "tokens/TokenReel")
        assert schema_of(LoadTokens).inputs[0].options == ["tokens/TokenReel_00001_.tokens [output]"]
        assert LoadTokens.validate_inputs("tokens/TokenReel_00001_.tokens [output]") is True
        assert LoadTokens.execute("tokens/TokenReel_00001_.tokens [output]")[0] == stream

    def test_names_that_are_not_there_or_not_allowed(self, session):
        assert "No file 'gone.tokens' in the input folder" in LoadTokens.validate_inputs("gone.tokens")
        assert "it has '..'" in LoadTokens.validate_inputs("../x.tokens")

    def test_names_that_cannot_be_written(self, stream, tmp_path):
        with pytest.raises(ValueError, match=r"it has '\.\.'"):
            SaveTokens.execute(stream, "../x")
        assert not (tmp_path / "output").exists()

    def test_a_flipped_bit(self, stream, tmp_path):
        path = tmp_path / "output" / SaveTokens.execute(stream, "clip")[0]
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with files.session(input_dir=path.parent), pytest.raises(ValueError, match="it is damaged"):
            LoadTokens.execute(path.name)

    def test_fingerprint_follows_the_file(self, stream, tmp_path):
        path = tmp_path / "output" / SaveTokens.execute(stream, "clip")[0]
        with files.session(input_dir=path.parent):
            before = LoadTokens.fingerprint_inputs(path.name)
            path.write_bytes(path.read_bytes() + b"x")
            assert LoadTokens.fingerprint_inputs(path.name) != before


class TestInspectTokens:
    def grey(self, picture):
        return (picture == picture[..., :1]).all(-1)

    def test_colours_are_where_tokens_are(self, random_tokens, session):
        tokens = random_tokens(width=64, height=48)
        heat, overview, report = InspectTokens.execute(tokens, 0).args
        assert heat.shape == (6, 48, 64, 3) and overview.shape[0] == 1
        for picture, frame in zip(heat, tokens.frames, strict=True):
            assert torch.equal(self.grey(picture)[8::16, 8::16], torch.from_numpy(block_costs(frame) == 0))
        assert "tokens" in report

    def test_shows_the_overview_and_the_report(self, random_tokens, session):
        shown = InspectTokens.execute(random_tokens(), 2).ui
        assert len(shown["images"]) == 1 and "6 frames" in shown["text"][0]
        assert os.path.isfile(os.path.join(files.temp_dir(), shown["images"][0]["filename"]))

    def test_drawn_on_the_clip_whatever_its_form(self, stream, video, reel):
        on_video = InspectTokens.execute(stream, 3, video=video)[0]
        on_images = InspectTokens.execute(stream, 3, images=uint8_to_image(reel))[0]
        assert torch.equal(on_video, on_images) and on_video.shape == (3, HEIGHT, WIDTH, 3)
        assert on_video[0].std() > 0.02  # there is a picture under the colours
        assert InspectTokens.execute(stream, 1)[0][0].std(dim=(0, 1)).max() == 0  # and none without a clip

    def test_drawn_on_decoded_frames(self, stream, tokenizer):
        decoded = DecodeTokens.execute(stream, True, True, tokenizer=tokenizer)[1]
        on_decoded = InspectTokens.execute(stream, 4, tokenizer=tokenizer)[0]
        assert torch.equal(on_decoded, InspectTokens.execute(stream, 4, images=decoded)[0])

    def test_clip_of_another_size_is_scaled(self, stream, reel):
        larger = uint8_to_image(reel.repeat(2, 1).repeat(2, 2))
        assert InspectTokens.execute(stream, 2, images=larger)[0].shape == (2, HEIGHT, WIDTH, 3)

    def test_shorter_clip(self, stream, reel):
        with pytest.raises(ValueError, match=r"The clip has 5 frames, the tokens 8\. Connect the encoded clip\."):
            InspectTokens.execute(stream, 3, images=uint8_to_image(reel[:5]))

    @pytest.mark.parametrize(("total", "wanted", "indices"), [(1, 12, [0]), (9, 3, [0, 4, 8]), (3, 9, [0, 1, 2])])
    def test_spread(self, total, wanted, indices):
        assert spread(total, wanted) == indices


class TestMeasureQuality:
    def test_equal_videos(self, video):
        output = MeasureQuality.execute(video, video)
        report, psnr, ssim, plot = output.args
        assert (psnr, ssim) == (100.0, 1.0) and plot.shape[0] == 1
        assert report.startswith(f"{FRAMES} frames compared at {WIDTH} x {HEIGHT}")
        assert output.ui["text"] == (report,) and len(output.ui["images"]) == 1

    def test_same_as_the_encoder_says(self, video, tokenizer):
        tokens, _, encoded, _ = encode_residual(tokenizer, video=video).args
        decoded = DecodeTokens.execute(tokens, True, False, tokenizer=tokenizer)[0]
        assert f"{MeasureQuality.execute(video, decoded)[1]:.2f} dB PSNR" in encoded

    def test_parts_are_compared_with_parts(self, session, inputs, video):
        path = str(inputs / "clip.mp4")
        part = VideoFromFile(path, start_time=0.25, duration=0.5)
        assert MeasureQuality.execute(part, VideoFromFile(path, start_time=0.25))[1] == 100.0
        report, psnr, _, _ = MeasureQuality.execute(video, part).args
        assert psnr < 40 and "4 frames at the end of the longer one" in report

    def test_reference_is_scaled_and_it_is_said(self, video, tokenizer):
        tokens = encode_residual(tokenizer, video=video, size=24)[0]
        decoded = DecodeTokens.execute(tokens, False, False, tokenizer=tokenizer)[0]
        report = MeasureQuality.execute(video, decoded)[0]
        assert "compared at 32 x 24" in report and f"The reference is {WIDTH} x {HEIGHT}: it was scaled" in report


class TestCancel:
    @pytest.mark.parametrize(
        "work",
        [
            lambda video, tokenizer, stream: sample(video),
            lambda video, tokenizer, stream: EncodeVideo.execute(tokenizer, 0, False, 24.0, video=video),
            lambda video, tokenizer, stream: encode_residual(tokenizer, video=video),
            lambda video, tokenizer, stream: DecodeTokens.execute(stream, False, False, tokenizer=tokenizer),
            lambda video, tokenizer, stream: InspectTokens.execute(stream, 0, tokenizer=tokenizer),
            lambda video, tokenizer, stream: MeasureQuality.execute(video, video),
        ],
        ids=["sample", "encode", "residual", "decode", "inspect", "measure"],
    )
    def test_stops_soon_and_leaves_nothing(self, work, video, tokenizer, stream, monkeypatch):
        calls = []

        def check():
            calls.append(1)
            if len(calls) > 3:
                raise resources.Cancelled("Interrupted.")

        monkeypatch.setattr(resources, "check_cancelled", check)
        with pytest.raises(resources.Cancelled):
            work(video, tokenizer, stream)
        assert len(calls) == 4
        assert os.listdir(files.temp_dir()) == []
