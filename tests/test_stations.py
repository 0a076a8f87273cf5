"""The stations end to end on small files: what they report is what the files hold."""

import io
from fractions import Fraction

import numpy as np
import pytest

from tokenreel.sampling import sample_frames, write_sample
from tokenreel.stations import (
    decode_to_file,
    encode_clip,
    matched,
    measure_files,
    name_of,
)
from tokenreel.tokens.bitstream import read_tokens, write_tokens
from tokenreel.tokens.video_tokens import IFrame
from tokenreel.video.clips import ImageClip, VideoClip
from tokenreel.video.frames import uint8_to_image
from tokenreel.video.reader import VideoReader
from tokenreel.video.writer import VideoWriter


class StopError(Exception):
    """What a cancelled run raises."""


@pytest.fixture(scope="module")
def frames():
    """Ten frames, 40 x 56: a pan, and a cut before frame 6."""
    rng = np.random.default_rng(3)
    scenes = rng.integers(0, 256, (2, 5, 12, 3)).repeat(12, 1).repeat(8, 2).astype(np.uint8)
    return np.stack([scenes[i // 6][:40, 2 * i : 2 * i + 56] for i in range(10)])


@pytest.fixture(scope="module")
def file(frames, tmp_path_factory):
    """The frames, bit for bit, with uneven time stamps from 100 on."""
    path = tmp_path_factory.mktemp("stations") / "clip.mp4"
    with VideoWriter(
        path, width=56, height=40, frame_rate=Fraction(12), time_base=Fraction(1, 1200), lossless=True
    ) as writer:
        writer.write(frames, [100 + 100 * i + 7 * (i % 3) for i in range(10)])
        writer.close(80)
    return path


def read(path):
    with VideoReader(path) as reader:
        chunks = list(reader.chunks())
        return (
            np.concatenate([chunk.frames for chunk in chunks]),
            [pts for chunk in chunks for pts in chunk.pts],
            reader,
        )


class TestThereAndBack:
    @pytest.mark.parametrize("options", [{"mode": "frames"}, {}, {"quality": 15}, {"budget": 400.0}])
    def test_reported_quality_is_that_of_the_decoded_file(self, tiny_tokenizer, file, tmp_path, options):
        with VideoClip(file) as clip:
            encoded = encode_clip(clip, tiny_tokenizer, **options)
        write_tokens(tmp_path / "a.tokens", encoded.tokens)
        facts = decode_to_file(read_tokens(tmp_path / "a.tokens"), tiny_tokenizer, tmp_path / "b.mp4", lossless=True)
        measured = measure_files(file, tmp_path / "b.mp4")
        assert measured["psnr"] == encoded.report["psnr"] == float(encoded.psnr.mean())
        assert measured["ssim"] == encoded.report["ssim"]
        assert measured["frames"] == facts["frames"] == encoded.report["frames"] == 10
        assert not measured["reference_scaled"] and measured["frames_left_out"] == 0

    def test_time_stamps_and_last_duration_are_kept(self, tiny_tokenizer, file, tmp_path):
        with VideoClip(file) as clip:
            tokens = encode_clip(clip, tiny_tokenizer, mode="frames").tokens
        decode_to_file(tokens, tiny_tokenizer, tmp_path / "b.mp4")
        _, source, first = read(file)
        _, decoded, second = read(tmp_path / "b.mp4")
        assert [pts * first.info.time_base for pts in source] == [pts * second.info.time_base for pts in decoded]
        assert second.info.duration == first.info.duration == tokens.duration

    def test_report_has_the_promised_keys(self, tiny_tokenizer, file):
        with VideoClip(file) as clip:
            encoded = encode_clip(clip, tiny_tokenizer)
        wanted = {"frames", "width", "height", "frame_rate", "duration", "tokens", "tokens_per_second", "bits", "psnr"}
        assert wanted | {"tokens_by_kind", "bits_per_pixel", "ssim", "seconds"} <= encoded.report.keys()
        assert encoded.report["tokens"] == sum(encoded.report["tokens_by_kind"].values())
        assert encoded.report["width"] == 56 and encoded.report["height"] == 40

    def test_images_and_file_give_the_same_codes(self, tiny_tokenizer, file, frames):
        with VideoClip(file) as clip:
            one = encode_clip(clip, tiny_tokenizer).tokens
        two = encode_clip(ImageClip(uint8_to_image(frames), Fraction(12)), tiny_tokenizer).tokens
        assert one.frames == two.frames

    def test_budget_is_kept(self, tiny_tokenizer, file):
        with VideoClip(file) as clip:
            encoded = encode_clip(clip, tiny_tokenizer, budget=400.0)
        assert encoded.report["tokens_per_second"] <= 400 + 10

    def test_one_frame(self, tiny_tokenizer, tmp_path, frames):
        tokens = encode_clip(ImageClip(uint8_to_image(frames[:1]), Fraction(25)), tiny_tokenizer).tokens
        assert tokens.codec == "" and isinstance(tokens.frames[0], IFrame)
        decode_to_file(tokens, tiny_tokenizer, tmp_path / "one.mp4")
        assert len(read(tmp_path / "one.mp4")[0]) == 1

    @pytest.mark.parametrize("size", [(9, 17), (1, 1), (35, 50)])
    def test_odd_sizes(self, tiny_tokenizer, tmp_path, size):
        clip = ImageClip(uint8_to_image(np.full((3, *size, 3), 90, np.uint8)), Fraction(10))
        tokens = encode_clip(clip, tiny_tokenizer).tokens
        decode_to_file(tokens, tiny_tokenizer, tmp_path / "odd.mp4", lossless=True)
        assert read(tmp_path / "odd.mp4")[0].shape == (3, *size, 3)


class TestCancelling:
    @pytest.mark.parametrize("mode", ["stream", "frames"])
    def test_encoding_stops_within_a_frame(self, tiny_tokenizer, file, mode):
        done = []

        def check():
            if sum(done) >= 3:
                raise StopError

        with VideoClip(file) as clip, pytest.raises(StopError):
            encode_clip(clip, tiny_tokenizer, mode=mode, check=check, progress=done.append)
        assert done == [1, 1, 1]

    @pytest.mark.parametrize("after", [0, 1, 9])
    def test_decoding_leaves_nothing(self, tiny_tokenizer, file, tmp_path, after):
        with VideoClip(file) as clip:
            tokens = encode_clip(clip, tiny_tokenizer, mode="frames", with_ssim=False).tokens
        done = []

        def check():
            if sum(done) >= after:
                raise StopError

        with pytest.raises(StopError):
            decode_to_file(tokens, tiny_tokenizer, tmp_path / "b.mp4", check=check, progress=done.append)
        assert sum(done) == after and list(tmp_path.iterdir()) == []

    def test_an_older_file_survives(self, tiny_tokenizer, file, tmp_path):
        with VideoClip(file) as clip:
            tokens = encode_clip(clip, tiny_tokenizer, mode="frames", with_ssim=False).tokens
        (tmp_path / "b.mp4").write_bytes(b"older")

        def check():
            raise StopError

        with pytest.raises(StopError):
            decode_to_file(tokens, tiny_tokenizer, tmp_path / "b.mp4", check=check)
        assert (tmp_path / "b.mp4").read_bytes() == b"older"

    def test_sampling_and_measuring_stop(self, file, tmp_path):
        def check():
            raise StopError

        with pytest.raises(StopError):
            sample_frames(file, frames=3, check=check)
        timeline, _ = sample_frames(file, frames=3)
        with pytest.raises(StopError):
            write_sample(file, timeline, tmp_path / "s.mp4", check=check)
        with pytest.raises(StopError):
            measure_files(file, file, check=check)
        assert list(tmp_path.iterdir()) == []


class TestSampling:
    @pytest.mark.parametrize("policy", ["motion", "uniform"])
    def test_kept_frames_are_the_ones_written(self, file, frames, tmp_path, policy):
        timeline, look = sample_frames(file, policy=policy, frames=4)
        assert len(timeline.kept) == 4 and timeline.kept[0] == 0 and len(look.meter.energy) == 10
        collected = []
        write_sample(file, timeline, tmp_path / "s.mp4", collect=collected.append)
        assert np.array_equal(np.concatenate(collected), frames[list(timeline.kept)])
        written, pts, reader = read(tmp_path / "s.mp4")
        assert len(written) == 4
        source = [timeline.source_pts[index] * timeline.time_base for index in timeline.kept]
        assert [tick * reader.info.time_base for tick in pts] == source
        assert reader.info.duration == timeline.duration

    def test_rate(self, file):
        timeline, _ = sample_frames(file, policy="uniform", fps=6)
        assert len(timeline.kept) == round(float(timeline.duration) * 6)

    def test_more_than_there_are(self, file):
        assert len(sample_frames(file, frames=50)[0].kept) == 10

    @pytest.mark.parametrize("amount", [{}, {"frames": 3, "fps": 2.0}])
    def test_one_amount(self, file, amount):
        with pytest.raises(ValueError, match="Give either a number of frames"):
            sample_frames(file, **amount)

    @pytest.mark.parametrize("amount", [{"frames": 0}, {"fps": 0.0}, {"fps": -1.0}])
    def test_amounts_above_zero(self, file, amount):
        with pytest.raises(ValueError, match="Invalid amount of frames"):
            sample_frames(file, **amount)


class TestMeasuring:
    def test_a_file_against_itself(self, file):
        measured = measure_files(file, file)
        assert measured["psnr"] == 100 and measured["ssim"] == pytest.approx(1)

    def test_in_memory(self, file):
        assert measure_files(io.BytesIO(file.read_bytes()), file)["psnr"] == 100

    def test_frames_beyond_the_shorter_one_are_counted(self, file, frames, tmp_path):
        with VideoWriter(tmp_path / "short.mp4", width=56, height=40, frame_rate=Fraction(12), lossless=True) as writer:
            writer.write(frames[:7])
        measured = measure_files(file, tmp_path / "short.mp4")
        assert (measured["frames"], measured["frames_left_out"], measured["psnr"]) == (7, 3, 100)

    @pytest.mark.parametrize(("size", "crop"), [(20, False), (20, True)])
    def test_the_reference_is_brought_to_the_others_size(self, file, tmp_path, size, crop):
        with VideoClip(file, size=size, crop=crop) as clip:
            writer = VideoWriter(
                tmp_path / "s.mp4", width=clip.width, height=clip.height, frame_rate=Fraction(12), lossless=True
            )
            with writer:
                for chunk in clip.chunks():
                    writer.write(chunk.frames)
        measured = measure_files(file, tmp_path / "s.mp4")
        assert measured["reference_scaled"] and measured["reference_size"] == [56, 40]
        assert measured["psnr"] == 100

    def test_matched_keeps_what_fits(self):
        frames = np.random.default_rng(0).integers(0, 256, (1, 20, 30, 3)).astype(np.uint8)
        assert np.array_equal(matched(frames, 30, 20), frames)
        assert np.array_equal(matched(frames, 20, 20), frames[:, :, 5:25])
        assert matched(frames, 31, 7).shape == (1, 7, 31, 3)


class TestRefusals:
    def test_modes_and_knobs(self, tiny_tokenizer, frames):
        clip = ImageClip(uint8_to_image(frames), Fraction(12))
        with pytest.raises(ValueError, match=r"Invalid mode \('gif'\). Supported modes are 'stream', 'frames', 'clip'"):
            encode_clip(clip, tiny_tokenizer, mode="gif")
        with pytest.raises(ValueError, match="takes neither a quality nor a budget"):
            encode_clip(clip, tiny_tokenizer, mode="frames", quality=30)

    def test_wrong_tokenizer_before_anything_is_written(self, tiny_tokenizer, random_tokens, tmp_path):
        with pytest.raises(ValueError, match="Load the tokenizer they were made with"):
            decode_to_file(random_tokens(), tiny_tokenizer, tmp_path / "b.mp4")
        assert list(tmp_path.iterdir()) == []

    def test_names(self, file):
        assert name_of(file) == "clip.mp4" and name_of(str(file)) == "clip.mp4"
        assert name_of(io.BytesIO()) == "<memory>"
