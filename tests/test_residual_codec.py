"""The residual codec: what it may look at, what it may change, and how it starts from the key-frame tokenizer."""

import pytest
import torch

from tokenreel.models.frame_decoder import pixels_of, to_bytes, to_unit
from tokenreel.models.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from tokenreel.models.motion import half_pel_planes
from tokenreel.models.residual_codec import ResidualCodec, ResidualCodecConfig
from tokenreel.video.frames import uint8_to_model


@pytest.fixture
def codec(tiny_tokenizer):
    return tiny_tokenizer.residual


def pictures(height=32, width=48, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, batch, 3, height, width, generator=generator) * 2 - 1


class TestShapes:
    @pytest.mark.parametrize("size", [(8, 8), (40, 24), (72, 48)])
    def test_any_grid(self, codec, size):
        frames, context = pictures(*size, batch=2)
        with torch.inference_mode():
            indices = codec.encode(frames, context)
            decoded = codec.decode(indices, torch.ones_like(indices, dtype=torch.bool), context)
        assert indices.shape == (2, size[0] // 8, size[1] // 8)
        assert indices.min() >= 0 and indices.max() < 12
        assert decoded.shape == frames.shape and decoded.abs().max() <= 1

    def test_gradients_reach_every_weight(self, codec):
        copied = ResidualCodec(codec.config)
        copied.load_state_dict(codec.state_dict())
        frames, context = pictures()
        mask = (torch.rand(1, 1, 4, 6, generator=torch.Generator().manual_seed(3)) < 0.7).float()
        copied(frames, context, mask).square().mean().backward()
        assert not [name for name, p in copied.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


class TestConditioning:
    def test_codes_outside_the_mask_have_no_influence(self, codec):
        frames, context = pictures()
        with torch.inference_mode():
            indices = codec.encode(frames, context)
            mask = torch.zeros_like(indices, dtype=torch.bool)
            mask[:, 1, 2:4] = True
            other = torch.where(mask, indices, (indices + 5) % 12)
            assert torch.equal(codec.decode(indices, mask, context), codec.decode(other, mask, context))

    def test_decoder_sees_context_mask_and_codes(self, codec):
        frames, context = pictures()
        with torch.inference_mode():
            indices = codec.encode(frames, context)
            mask = torch.ones_like(indices, dtype=torch.bool)
            plain = codec.decode(indices, mask, context)
            assert not torch.equal(plain, codec.decode(indices, mask, context.flip(3)))
            assert not torch.equal(plain, codec.decode((indices + 1) % 12, mask, context))
            mask = mask.clone()
            mask[0, 0, 0] = False
            assert not torch.equal(plain, codec.decode(indices, mask, context))

    def test_encoder_sees_frame_and_context(self, codec):
        frames, context = pictures()
        with torch.inference_mode():
            indices = codec.encode(frames, context)
            assert not torch.equal(indices, codec.encode(frames.flip(2), context))
            assert not torch.equal(indices, codec.encode(frames, context.flip(2)))


class TestStart:
    def test_begins_as_the_key_frame_tokenizer(self):
        """Same codes and same pictures, whatever the context: training only has to improve on it."""
        shape = {"encoder_widths": (8, 16), "decoder_widths": (8, 16), "heads": 2, "levels": (4, 3)}
        torch.manual_seed(0)
        image = ImageTokenizer(ImageTokenizerConfig(**shape))
        for weight in image.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.1)
        codec = ResidualCodec(ResidualCodecConfig(**shape, context_widths=(8, 8)))
        codec.start_from(image)
        frames, context = pictures()
        with torch.inference_mode():
            indices = image.encode(frames)
            assert torch.equal(codec.encode(frames, context), indices)
            everywhere = torch.ones_like(indices, dtype=torch.bool)
            assert torch.allclose(codec.decode(indices, everywhere, context), image.decode(indices), atol=1e-5)

    def test_config_holds_the_tokenizers(self):
        config = ResidualCodecConfig(context_widths=(4, 6))
        assert ResidualCodecConfig.from_dict(config.to_dict()) == config
        with pytest.raises(ValueError, match=r"Invalid context_widths \(\(4,\)\)"):
            ResidualCodecConfig(context_widths=(4,))  # type: ignore[arg-type]


class TestBytes:
    def test_units_and_bytes_are_inverse(self):
        levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
        assert torch.equal(to_bytes(to_unit(levels)), levels)

    def test_same_conversion_as_in_video(self):
        """models/ may not import video/, so the range is converted in both: to the same bits."""
        frames = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        there = uint8_to_model(frames.permute(0, 2, 3, 1).numpy())
        assert torch.allclose(to_unit(frames), there, atol=1e-6)

    def test_pixels_of_cells(self):
        cells = torch.tensor([[[True, False], [False, True]]])
        pixels = pixels_of(cells)
        assert pixels.shape == (1, 1, 16, 16)
        assert pixels[0, 0, :8, :8].all() and not pixels[0, 0, :8, 8:].any() and pixels[0, 0, 8:, 8:].all()


class TestTrained:
    def test_helps_over_its_context(self, trained_tokenizer, texture):
        """A changed patch in a known picture: the marked cells come closer to the source."""
        source = torch.from_numpy(texture(64, 64, 3)).permute(2, 0, 1).unsqueeze(0)
        context = half_pel_planes(source)[:, :, 0].clone()
        context[..., 16:48, 16:48] = 128
        mask = torch.zeros(1, 8, 8, dtype=torch.bool)
        mask[:, 2:6, 2:6] = True
        codec = trained_tokenizer.residual
        with torch.inference_mode():
            unit = to_unit(context)
            decoded = to_bytes(codec.decode(codec.encode(to_unit(source), unit), mask, unit))
        inside = (..., slice(16, 48), slice(16, 48))
        before = (context[inside].float() - source[inside].float()).square().mean()
        after = (decoded[inside].float() - source[inside].float()).square().mean()
        assert after < 0.5 * before
