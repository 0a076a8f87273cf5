"""The node: its modes and engines on a small clip on the embedded host, and what it refuses."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from tokenreel.host import files
from tokenreel.host.video_handles import VideoComponents, VideoFromComponents, VideoFromFile
from tokenreel.nodes import interpolating
from tokenreel.nodes.interpolating import InterpolateVideo
from tokenreel.nodes.sampling import SampleFrames
from tokenreel.video.frames import uint8_to_image
from tokenreel.video.reader import VideoReader
from tokenreel.video.writer import VideoWriter

WIDTH, HEIGHT, FRAMES = 96, 64, 12


@pytest.fixture(scope="module")
def clip():
    """uint8 [FRAMES, HEIGHT, WIDTH, 3]: a textured square that moves 4 pixels a frame over still ground."""
    rng = np.random.default_rng(0)
    ground = np.kron(rng.integers(60, 120, (HEIGHT // 4, WIDTH // 4, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    square = np.kron(rng.integers(120, 250, (6, 6, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    frames = np.repeat(ground[None], FRAMES, 0)
    for index in range(FRAMES):
        frames[index, 16:40, 4 * index : 4 * index + 24] = square
    return frames


@pytest.fixture
def video(clip, tmp_path):
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, width=WIDTH, height=HEIGHT, frame_rate=Fraction(12), lossless=True) as writer:
        writer.write(clip)
    with files.session(input_dir=tmp_path, output_dir=tmp_path / "output"), torch.inference_mode():
        yield VideoFromFile(str(path))


def run(video=None, **inputs):
    widgets = {
        socket.id: socket.default for socket in InterpolateVideo.GET_SCHEMA().inputs if hasattr(socket, "default")
    }
    widgets |= {"engine": "flow", "lossless": True, "as_images": True, **inputs}
    for name in ("video", "images", "timeline", "interp_model"):
        widgets.pop(name, None) if widgets.get(name) is None else None
    return InterpolateVideo.execute(**({"video": video} if video else {}), **widgets).args


def frames_of(video):
    with VideoReader(video.get_stream_source()) as reader:
        return np.concatenate([chunk.frames for chunk in reader.chunks()])


@pytest.mark.parametrize("engine", ["flow", "blend"])
def test_multiply(video, clip, engine):
    made, images, rate, report = run(video, engine=engine, times=2)
    assert rate == 24.0
    assert np.array_equal(frames_of(made)[::2], clip)
    assert torch.equal(images[::2], uint8_to_image(clip)) and len(images) == 2 * FRAMES
    assert f"{FRAMES} frames became {2 * FRAMES}, {WIDTH} x {HEIGHT}, 24.000 fps, 1.00 s" in report
    assert f"{FRAMES - 1} interpolated" in report and "of the interpolated pixels were computed" in report


def test_flow_follows_what_moves(video, clip):
    half = np.roll(clip[5], 2, axis=1)[16:40, 22:46]
    errors = {
        engine: np.abs(frames_of(run(video, engine=engine)[0])[11][16:40, 22:46].astype(int) - half).mean()
        for engine in ("flow", "blend")
    }
    assert errors["flow"] < 0.6 * errors["blend"]


def test_frame_rate(video, clip):
    made, images, rate, _ = run(video, mode="frame rate", frame_rate="30000/1001")
    assert rate == pytest.approx(29.97003) and len(images) == 30
    with VideoReader(made.get_stream_source()) as reader:
        assert reader.info.frame_rate == Fraction(30000, 1001)


def test_a_sampled_video_comes_back(video, clip):
    few, _, timeline, *_ = SampleFrames.execute(
        video, policy="uniform", amount="frames", frames=4, fps=1.0, max_gap=0
    ).args
    made, images, rate, _ = run(few, mode="timeline", timeline=timeline)
    assert rate == 12.0 and len(images) == FRAMES
    with VideoReader(made.get_stream_source()) as reader:
        chunks, base = list(reader.chunks()), reader.info.time_base
    assert [pts * base for chunk in chunks for pts in chunk.pts] == [Fraction(index, 12) for index in range(FRAMES)]


def test_images(video, clip):
    _, images, rate, _ = run(images=uint8_to_image(clip), fps=23.976, times=3)
    assert rate == pytest.approx(3 * 24000 / 1001)
    assert torch.equal(images[::3], uint8_to_image(clip))


def test_only_the_first_image_unless_asked(video, clip):
    assert torch.equal(run(video, as_images=False)[1], uint8_to_image(clip[:1]))


def test_only_the_part_that_is_meant_with_its_sound(video, clip):
    tone = torch.sin(torch.arange(44_100) * 0.05).mul(0.3)[None, None]
    parts = VideoComponents(uint8_to_image(clip), Fraction(12), {"waveform": tone, "sample_rate": 44_100})
    part = VideoFromComponents(parts).as_trimmed(0.5, 0.25)
    made, images, *_ = run(part)
    assert torch.equal(images[::2], uint8_to_image(clip[6:9]))
    with VideoReader(made.get_stream_source()) as reader:
        assert reader.info.has_audio and reader.info.duration == Fraction(1, 4)


def test_skip_static_copies_bit_by_bit(video, clip):
    frames = frames_of(run(video, skip_static="always", static_threshold=0)[0])
    assert (frames[:, 60:] == clip[0, 60:]).all()


def test_whole_frames(video):
    assert "100.0% of the interpolated pixels" in run(video, skip_static="never")[3]


class TestModel:
    class Patcher:
        """As ComfyUI's, round a model that mixes."""

        load_device = torch.device("cpu")

        class model:  # noqa: N801 (an attribute)
            @staticmethod
            def extract_features(frame):
                return None

            @staticmethod
            def memory_used_forward(shape, dtype):
                return 0

            @staticmethod
            def forward_multi_timestep(first, second, times, cache):
                return torch.cat([torch.lerp(first, second, each) for each in times])

        def model_dtype(self):
            return torch.float32

    @pytest.fixture
    def model(self, monkeypatch):
        monkeypatch.setattr(interpolating.CoreInterpolator, "_load", lambda self, frame: None)
        return self.Patcher()

    def test_is_used_on_whole_frames(self, video, model):
        _, images, _, report = run(video, interp_model=model, engine="net")
        assert torch.equal(images, run(video, engine="blend", skip_static="never")[1])
        assert "100.0% of the interpolated pixels" in report

    def test_skips_what_stands_when_asked(self, video, model):
        assert "100.0%" not in run(video, interp_model=model, skip_static="always", times=1)[3]

    def test_other_things(self, video):
        with pytest.raises(TypeError, match=r"Invalid INTERP_MODEL \(dict\)"):
            run(video, interp_model={})


class TestRefusals:
    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({"mode": "timeline"}, r"Mode is 'timeline', but no timeline is connected\. Connect one"),
            ({"timeline": "t"}, r"Mode is 'multiply', but a timeline is connected\. Choose mode 'timeline'"),
            ({"mode": "frame rate", "frame_rate": "fast"}, "Invalid frame rate 'fast'"),
        ],
    )
    def test_modes(self, video, inputs, message):
        with pytest.raises(ValueError, match=message):
            run(video, **inputs)

    def test_nothing_connected(self, video):
        with pytest.raises(ValueError, match="neither is connected"):
            run()

    def test_validation(self):
        assert InterpolateVideo.validate_inputs("frame rate", "60000/1001") is True
        assert "Invalid frame rate 'fast'" in InterpolateVideo.validate_inputs("frame rate", "fast")
        assert InterpolateVideo.validate_inputs("multiply", "fast") is True  # it is not used
        assert InterpolateVideo.validate_inputs("frame rate", None) is True  # linked
