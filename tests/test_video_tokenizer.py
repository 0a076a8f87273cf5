from fractions import Fraction

import numpy as np
import pytest
import torch

from tokenreel.models.clip_codec import decode_groups, encode_groups
from tokenreel.models.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from tokenreel.models.video_tokenizer import (
    CausalVideoTokenizer,
    VideoTokenizerConfig,
    haar,
    inverse_haar,
)
from tokenreel.stations import encode_clip
from tokenreel.tokens.video_tokens import CFrame
from tokenreel.training.video_tokenizer import to_groups
from tokenreel.video.clips import ImageClip
from tokenreel.video.metrics import psnr


def frames_of(texture, count, height=40, width=56):
    """A texture that moves by a pixel a frame, uint8 `[count, height, width, 3]`."""
    picture = texture(height, width + count)
    return np.stack([picture[:, i : i + width] for i in range(count)])


def clip_of(frames):
    return ImageClip(torch.from_numpy(frames).float() / 255, Fraction(24))


def codes_of(result):
    return [frame.codes for frame in result.frames]


def test_haar_is_inverted():
    groups = torch.randn(3, 4, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(inverse_haar(haar(groups)), groups)


def test_haar_of_equal_frames_is_their_mean_alone():
    frame = torch.randn(1, 1, 3, 8, 8)
    bands = haar(frame.expand(-1, 4, -1, -1, -1))
    assert torch.equal(bands[:, :1], frame)
    assert not bands[:, 1:].any()


class TestCausalVideoTokenizer:
    def test_one_by_one_is_what_training_sees(self, tiny_clip_tokenizer):
        network = tiny_clip_tokenizer.network
        clips = torch.rand(2, 4, 4, 3, 16, 24) * 2 - 1
        with torch.no_grad():
            together, _ = network(clips)
            seen = known = None
            for t in range(4):
                indices, seen = network.encode_group(clips[:, t], seen)
                decoded, known = network.decode_group(indices, known)
                torch.testing.assert_close(decoded, together[:, t].clamp(-1, 1), atol=1e-4, rtol=1e-4)

    def test_nothing_depends_on_later_groups(self, tiny_clip_tokenizer):
        network = tiny_clip_tokenizer.network
        clips = torch.rand(1, 4, 4, 3, 16, 16) * 2 - 1
        other = torch.cat([clips[:, :2], torch.rand(1, 2, 4, 3, 16, 16)], 1)
        with torch.no_grad():
            one, two = network(clips)[0], network(other)[0]
        torch.testing.assert_close(one[:, :2], two[:, :2])
        assert not torch.allclose(one[:, 2:], two[:, 2:])

    def test_a_group_depends_on_the_two_before(self, tiny_clip_tokenizer):
        network = tiny_clip_tokenizer.network
        group = torch.rand(1, 4, 3, 16, 16)
        with torch.no_grad():
            indices, seen = network.encode_group(group)
            fresh, known = network.decode_group(indices)
            again, _ = network.decode_group(indices, known)
        assert not torch.allclose(fresh, again)
        assert all(block.shape[1] == 2 for block in (*seen.blocks, *known.blocks))

    @pytest.mark.parametrize("shape", [(4, 3, 16, 16), (1, 3, 3, 16, 16), (1, 4, 1, 16, 16), (1, 4, 3, 12, 16)])
    def test_wrong_groups_are_refused(self, tiny_clip_tokenizer, shape):
        with pytest.raises(ValueError, match="multiples of 8"):
            tiny_clip_tokenizer.network.encode_group(torch.zeros(shape))

    def test_starts_as_the_image_tokenizer(self, tiny_clip_tokenizer, tiny_tokenizer):
        """A still clip: a group gets the codes that the image tokenizer gives its frame, and decodes as that does."""
        shape = {**tiny_tokenizer.image.config.to_dict(), "decoder_blocks": (1, 2)}
        image, network = tiny_tokenizer.image, CausalVideoTokenizer(VideoTokenizerConfig.from_dict(shape))
        network.start_from(image)
        frame = torch.rand(1, 3, 16, 16) * 2 - 1
        with torch.no_grad():
            indices, _ = network.encode_group(frame.unsqueeze(1).expand(-1, 4, -1, -1, -1))
            decoded, _ = network.decode_group(indices)
            assert torch.equal(indices, image.encode(frame))
            torch.testing.assert_close(decoded[:, 2], image.decode(indices))

    def test_starts_from_a_deeper_image_tokenizer(self):
        wide = {"encoder_widths": (8, 16), "decoder_widths": (8, 16), "heads": 2}
        image = ImageTokenizer(ImageTokenizerConfig(**wide, encoder_blocks=(2, 3), decoder_blocks=(2, 4)))
        network = CausalVideoTokenizer(VideoTokenizerConfig(**wide))
        network.start_from(image)
        assert torch.equal(network.encoder[0].mean.weight, image.encoder.layers[1].weight)
        assert torch.equal(network.decoder[-1].mean.weight, image.decoder.layers[-2].weight)


class TestGroups:
    @pytest.mark.parametrize(("count", "spans"), [(1, [1]), (2, [1, 1]), (5, [1, 4]), (8, [1, 4, 3]), (9, [1, 4, 4])])
    def test_spans(self, tiny_clip_tokenizer, texture, count, spans):
        result = encode_groups([frames_of(texture, count)], tiny_clip_tokenizer)
        assert [frame.span for frame in result.frames] == spans
        assert len(result.psnr) == count

    def test_in_parts_as_in_one_go(self, tiny_clip_tokenizer, texture):
        """Bit for bit, however the frames come."""
        frames = frames_of(texture, 14)
        whole = encode_groups([frames], tiny_clip_tokenizer)
        for size in (1, 3, 4, 13):
            parts = encode_groups(np.array_split(frames, range(size, 14, size)), tiny_clip_tokenizer)
            assert parts.psnr == whole.psnr
            assert all(np.array_equal(a, b) for a, b in zip(codes_of(parts), codes_of(whole), strict=True))

    def test_a_prefix_decodes_alike(self, tiny_clip_tokenizer, texture):
        clip = clip_of(frames_of(texture, 11))
        tokens = encode_clip(clip, tiny_clip_tokenizer, mode="clip").tokens
        whole = list(decode_groups(tokens, tiny_clip_tokenizer))
        for stop in (1, 2, 6, 11):
            prefix = list(decode_groups(tokens.trim(0, stop), tiny_clip_tokenizer))
            assert len(prefix) == stop
            assert all(np.array_equal(a, b) for a, b in zip(prefix, whole, strict=False))
        middle = list(decode_groups(tokens, tiny_clip_tokenizer, start=4, stop=8))
        assert all(np.array_equal(a, b) for a, b in zip(middle, whole[4:8], strict=True))

    def test_reported_quality_is_that_of_decoding(self, tiny_clip_tokenizer, texture):
        frames = frames_of(texture, 7, 33, 47)
        encoded = encode_clip(clip_of(frames), tiny_clip_tokenizer, mode="clip")
        decoded = np.stack(list(decode_groups(encoded.tokens, tiny_clip_tokenizer)))
        assert decoded.shape == frames.shape
        assert encoded.psnr.tolist() == psnr(frames, decoded).tolist()

    def test_cancel_comes_before_every_pass(self, tiny_clip_tokenizer, texture):
        calls = []

        def check():
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            encode_groups([frames_of(texture, 9)], tiny_clip_tokenizer, check=check)

    @pytest.mark.parametrize("bounds", [(-1, 3), (3, 3), (0, 99)])
    def test_ranges_outside_are_refused(self, tiny_clip_tokenizer, texture, bounds):
        clip = clip_of(frames_of(texture, 5))
        tokens = encode_clip(clip, tiny_clip_tokenizer, mode="clip").tokens
        with pytest.raises(ValueError, match="Invalid range"):
            list(decode_groups(tokens, tiny_clip_tokenizer, start=bounds[0], stop=bounds[1]))

    def test_each_mode_has_its_tokenizer(self, tiny_clip_tokenizer, tiny_tokenizer, texture):
        clip = clip_of(frames_of(texture, 3))
        with pytest.raises(ValueError, match=r"Use mode 'clip' \(node: Encode Video to Tokens\), or another tokenizer"):
            encode_clip(clip, tiny_clip_tokenizer, mode="stream")
        with pytest.raises(ValueError, match="Use mode 'stream' or 'frames'"):
            encode_clip(clip, tiny_tokenizer, mode="clip")
        with pytest.raises(ValueError, match="fixed rate"):
            encode_clip(clip, tiny_clip_tokenizer, mode="clip", quality=30.0)

    def test_tokens_of_another_tokenizer_are_refused(self, tiny_clip_tokenizer, group_tokens):
        with pytest.raises(ValueError, match="made by tokenizer"):
            list(decode_groups(group_tokens(), tiny_clip_tokenizer))

    def test_groups_hold_codes(self, tiny_clip_tokenizer, texture):
        frame = encode_groups([frames_of(texture, 1)], tiny_clip_tokenizer).frames[0]
        assert isinstance(frame, CFrame)
        assert frame.codes.shape == (6, 8)


def test_training_sees_the_first_frame_alone():
    clips = torch.arange(9.0).view(1, 1, 9, 1, 1).expand(1, 3, 9, 8, 8)
    groups = to_groups(clips)
    assert groups.shape == (1, 3, 4, 3, 8, 8)
    assert groups[0, :, :, 0, 0, 0].tolist() == [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]]
