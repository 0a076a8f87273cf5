"""The node: its sizes, engines and modes on a small clip on the embedded host, and what it refuses."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from tokenreel.host import files
from tokenreel.host.video_handles import VideoComponents, VideoFromComponents, VideoFromFile
from tokenreel.models.upscaler import BicubicUpscaler
from tokenreel.nodes.sampling import SampleFrames
from tokenreel.nodes.upscale_previews import MOST, PreviewingUpscaler, Previews
from tokenreel.nodes.upscaling import UpscaleVideo
from tokenreel.video.canvas import SERIES
from tokenreel.video.frames import resize, uint8_to_image
from tokenreel.video.reader import VideoReader
from tokenreel.video.writer import VideoWriter

WIDTH, HEIGHT, FRAMES = 96, 64, 8


@pytest.fixture(scope="module")
def clip():
    """uint8 [FRAMES, HEIGHT, WIDTH, 3]: a textured square that moves 3 pixels a frame over still ground."""
    rng = np.random.default_rng(0)
    ground = np.kron(rng.integers(60, 120, (HEIGHT // 4, WIDTH // 4, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    square = np.kron(rng.integers(120, 250, (4, 4, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    frames = np.repeat(ground[None], FRAMES, 0)
    for index in range(FRAMES):
        frames[index, 16:32, 3 * index : 3 * index + 16] = square
    return frames


@pytest.fixture
def video(clip, tmp_path):
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, width=WIDTH, height=HEIGHT, frame_rate=Fraction(12), lossless=True) as writer:
        writer.write(clip)
    with files.session(input_dir=tmp_path, output_dir=tmp_path / "output"), torch.inference_mode():
        yield VideoFromFile(str(path))


def run(video=None, **inputs):
    return executed(video, **inputs).args


def executed(video=None, **inputs):
    widgets = {socket.id: socket.default for socket in UpscaleVideo.GET_SCHEMA().inputs if hasattr(socket, "default")}
    widgets |= {"engine": "bicubic", "lossless": True, "as_images": True, "reuse_threshold": 0.0, **inputs}
    for name in ("video", "images", "timeline", "upscale_model"):
        widgets.pop(name, None) if widgets.get(name) is None else None
    return UpscaleVideo.execute(**({"video": video} if video else {}), **widgets)


def frames_of(video):
    with VideoReader(video.get_stream_source()) as reader:
        return np.concatenate([chunk.frames for chunk in reader.chunks()])


def plain(clip, scale):
    """Every frame whole."""
    large = BicubicUpscaler(scale)(torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 255)
    return (large * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


class TestSizes:
    def test_scale(self, video, clip):
        made, images, preview, report = run(video)
        assert np.array_equal(frames_of(made), plain(clip, 2))
        assert torch.equal(images, uint8_to_image(plain(clip, 2)))
        assert f"{FRAMES} frames, {WIDTH} x {HEIGHT} to 192 x 128, 12.000 fps, 0.67 s" in report
        assert "tiles" in report and "reused" in report
        assert preview.shape == (FRAMES, 128, 192, 3)

    @pytest.mark.parametrize(
        ("inputs", "size"),
        [
            ({"scale": 1.5}, (144, 96)),
            ({"target": "short side", "short_side": 160}, (240, 160)),
            ({"target": "exact size", "width": 100, "height": 200}, (100, 200)),
            ({"target": "exact size", "width": 100, "height": 200, "fit": "pad"}, (100, 200)),
            ({"scale": 2.0, "multiple_of": "32", "fit": "pad"}, (192, 128)),
            ({"scale": 2.1, "multiple_of": "8"}, (200, 128)),
        ],
    )
    def test_others(self, video, inputs, size):
        made, images, *_ = run(video, **inputs)
        assert images.shape == (FRAMES, size[1], size[0], 3)
        with VideoReader(made.get_stream_source()) as reader:
            assert (reader.info.width, reader.info.height, reader.info.frame_rate) == (*size, 12)

    @pytest.mark.parametrize("times", [1, 2])
    def test_what_is_cut_off_is_not_computed(self, video, clip, times):
        size = {"target": "exact size", "width": 40, "height": 128, "times": times}
        _, images, preview, _ = run(video, **size)
        expected = uint8_to_image(np.ascontiguousarray(plain(clip, 2)[:, :, 76:116]))
        if times == 1:
            assert torch.equal(images, expected)
            assert preview.shape[2] < 100
        else:
            assert (images[::2] - expected).abs().max() < 2 / 255

    def test_what_gets_no_larger_is_only_resized(self, video, clip):
        _, images, *_ = run(video, scale=0.5, engine="x2-m")
        assert torch.equal(images, uint8_to_image(resize(clip, 48, 32)))


class TestEngines:
    def test_the_network_is_sharper(self, video, clip):
        small = {"images": uint8_to_image(resize(clip, WIDTH // 2, HEIGHT // 2)), "fps": 12.0}
        with files.session(), torch.inference_mode():
            errors = {
                engine: (run(engine=engine, **small)[1] - uint8_to_image(clip)).square().mean()
                for engine in ("auto", "bicubic")
            }
        assert errors["auto"] < errors["bicubic"]

    def test_precision(self, video):
        a, b = (run(video, engine="x2-m", precision=each)[1] for each in ("fp32", "bf16"))
        assert 0 < (a - b).abs().max() < 0.06

    def test_a_model_takes_the_place_of_the_engine(self, video, clip):
        class Model(torch.nn.Module):
            def forward(self, image):
                return torch.nn.functional.interpolate(image, scale_factor=3)

        class Descriptor:
            model, scale = Model(), 3

            def to(self, device=None, dtype=None):
                return self

            def eval(self):
                return self

            def __call__(self, image):
                return self.model(image)

        _, images, *_ = run(video, scale=3.0, engine="x2-m", upscale_model=Descriptor())
        assert torch.equal(images, uint8_to_image(clip.repeat(3, 1).repeat(3, 2)))
        with pytest.raises(TypeError, match=r"Invalid UPSCALE_MODEL \(dict\)"):
            run(video, upscale_model={})


class TestReuse:
    def test_the_rest_is_not_computed(self, video):
        assert "(100.0%)" in run(video, reuse="nothing")[3]
        assert "(100.0%)" not in run(video)[3]

    def test_what_moves_as_a_whole(self, video, monkeypatch):
        asked = []
        made = PreviewingUpscaler.__init__
        monkeypatch.setattr(
            PreviewingUpscaler, "__init__", lambda self, *a, **k: asked.append(k) or made(self, *a, **k)
        )
        for reuse in ("what stands", "what stands or moves"):
            run(video, reuse=reuse)
        assert [each["follow_motion"] for each in asked] == [False, True]

    def test_the_preview_marks_what_was(self, video):
        _, images, preview, _ = run(video, refresh=0)
        assert torch.equal(preview[0], images[0])  # all of it was
        off = (preview[4] != images[4]).any(-1)
        assert not off[32:64, 24:56].any() and off[:, 150:].any()


class TestTimes:
    def test_frames_between(self, video, clip):
        made, images, _, report = run(video, times=2)
        assert images.shape == (2 * FRAMES, 128, 192, 3)
        assert torch.equal(images[::2], uint8_to_image(plain(clip, 2)))
        assert f"{FRAMES - 1} of them between upscaled ones" in report
        with VideoReader(made.get_stream_source()) as reader:
            assert reader.info.frame_rate == 24

    def test_a_sampled_video_comes_back_large(self, video):
        few, _, timeline, *_ = SampleFrames.execute(
            video, policy="uniform", amount="frames", frames=3, fps=1.0, max_gap=0
        ).args
        made, images, *_ = run(few, timeline=timeline, times=3)
        assert images.shape == (FRAMES, 128, 192, 3)
        with VideoReader(made.get_stream_source()) as reader:
            chunks, base = list(reader.chunks()), reader.info.time_base
        assert [pts * base for chunk in chunks for pts in chunk.pts] == [Fraction(index, 12) for index in range(FRAMES)]

    def test_a_size_that_is_resized_and_cut(self, video):
        assert run(video, times=2, target="exact size", width=80, height=80)[1].shape == (2 * FRAMES, 80, 80, 3)


class TestInputs:
    def test_images(self, video, clip):
        made, images, *_ = run(images=uint8_to_image(clip), fps=23.976)
        assert torch.equal(images, uint8_to_image(plain(clip, 2)))
        with VideoReader(made.get_stream_source()) as reader:
            assert reader.info.frame_rate == Fraction(24000, 1001)

    def test_only_the_first_image_unless_asked(self, video):
        assert len(run(video, as_images=False)[1]) == 1

    def test_only_the_part_that_is_meant_with_its_sound(self, video, clip):
        tone = torch.sin(torch.arange(44_100) * 0.05).mul(0.3)[None, None]
        parts = VideoComponents(uint8_to_image(clip), Fraction(12), {"waveform": tone, "sample_rate": 44_100})
        made, images, *_ = run(VideoFromComponents(parts).as_trimmed(0.25, 0.25))
        assert torch.equal(images, uint8_to_image(plain(clip[3:6], 2)))
        with VideoReader(made.get_stream_source()) as reader:
            assert reader.info.has_audio and reader.info.duration == Fraction(1, 4)


class TestRefusals:
    def test_nothing_connected(self, video):
        with pytest.raises(ValueError, match="neither is connected"):
            run()

    def test_validation(self):
        size = {"scale": 2.0, "short_side": 720, "width": 1920, "height": 1080, "fit": "crop", "multiple_of": "16"}
        assert UpscaleVideo.validate_inputs(target="scale", **size) is True
        assert "Invalid target 'zoom'" in UpscaleVideo.validate_inputs(target="zoom", **size)
        assert "Invalid fit 'zoom'" in UpscaleVideo.validate_inputs(target="scale", **size | {"fit": "zoom"})
        assert "no multiple of 16" in UpscaleVideo.validate_inputs(target="exact size", **size)
        assert UpscaleVideo.validate_inputs(target="exact size", **size | {"width": None}) is True  # linked

    def test_too_large(self, video):
        with pytest.raises(ValueError, match="more than the limit"):
            run(video, target="short side", short_side=8192)


@pytest.mark.parametrize("count", [1, MOST, MOST + 1, 100])
def test_previews_are_spread_evenly(count):
    previews = Previews()
    for index in range(count):
        previews.add(np.full((16, 16, 3), index, np.uint8), np.ones((1, 1), bool), 16)
    found = [int(frame[0, 0, 0, 0]) for frame in previews.frames]
    steps = set(np.diff(found)) or {1}
    assert found[0] == 0 and len(steps) == 1 and len(found) <= MOST
    assert len(found) >= min(count, MOST // 2) and count - found[-1] <= steps.pop()


class TestPreviewSheet:
    def previews(self, count, size=(32, 48)):
        previews = Previews()
        for index in range(count):
            changed = np.full((size[0] // 16, size[1] // 16), index == 0)
            previews.add(np.full((*size, 3), 200, np.uint8), changed, 16)
        return previews

    @pytest.mark.parametrize("count", [1, 5, 100])
    @pytest.mark.parametrize("size", [(32, 48), (64, 32)])
    def test_sheets_are_of_one_width(self, count, size):
        sheet = self.previews(count, size).sheet()
        assert sheet.shape[1] == 720 and sheet.dtype == np.uint8

    def test_shares_are_those_of_every_frame(self):
        previews = self.previews(100)
        assert len(previews.shares) == 100 and previews.shares[0] == 1 and sum(previews.shares[1:]) == 0

    @pytest.mark.parametrize("times", [1, 40])
    def test_what_was_computed_is_bright_and_outlined_however_large_frames_are(self, times):
        changed, previews = np.array([[True, False]] * 2), Previews()
        for tiles in (changed, changed):
            previews.add(np.full((32 * times, 32 * times, 3), 200, np.uint8), tiles, 16 * times)
        assert (previews.frames[0][0, 8, 8] == 200).all() and (previews.frames[0][0, 8, -8] == 100).all()
        sheet = previews.sheet()
        lines = (sheet == SERIES[0]).all(-1)[40:360]
        assert (
            lines.any(0).sum() > 300 and (lines.sum(0) > 140).sum() >= 4
        )  # across, and upright ones of two pixels each
        assert (sheet == 200).all(-1).any() and (sheet == 100).all(-1).any()


def test_node_shows_what_was_computed(video):
    shown = executed(video).ui
    assert len(shown["images"]) == 1 and shown["images"][0]["type"] == "temp" and "tiles" in shown["text"][0]
