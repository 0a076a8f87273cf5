"""The key-frame tokenizer: shapes, sizes, configs, and that the shipped weights are trained."""

import dataclasses

import numpy as np
import pytest
import torch

from tokenreel.models.image_tokenizer import ImageTokenizer, ImageTokenizerConfig, WindowAttention
from tokenreel.video.frames import model_to_uint8, uint8_to_model
from tokenreel.video.metrics import psnr
from tokenreel.video.reel import render


@pytest.fixture
def image(tiny_tokenizer):
    return tiny_tokenizer.image


def picture(height, width, batch=1, seed=0):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class TestShapes:
    @pytest.mark.parametrize("size", [(8, 8), (16, 16), (8, 40), (48, 24), (72, 88)])
    def test_any_grid(self, image, size):
        """Also grids that are no multiple of the attention window, which is 4 tokens here."""
        with torch.inference_mode():
            indices = image.encode(picture(*size, batch=2))
            frames = image.decode(indices)
        assert indices.shape == (2, size[0] // 8, size[1] // 8) and indices.dtype == torch.int64
        assert indices.min() >= 0 and indices.max() < 12
        assert frames.shape == (2, 3, *size)
        assert frames.abs().max() <= 1 and frames.isfinite().all()

    @pytest.mark.parametrize("shape", [(1, 3, 12, 16), (1, 3, 16, 20), (1, 4, 16, 16), (3, 16, 16)])
    def test_other_shapes_are_refused(self, image, shape):
        with pytest.raises(ValueError, match=r"Supported are \[B, 3, H, W\] with H and W multiples of 8; pad them"):
            image.encode(torch.zeros(shape))

    def test_frames_of_a_batch_do_not_see_each_other(self, image):
        """To rounding: batches of other sizes may take other convolution kernels."""
        frames = picture(40, 24, batch=3)
        with torch.inference_mode():
            latents = image.to_latent(image.encoder(frames))
            alone = image.to_latent(image.encoder(frames[1:2]))
        assert torch.allclose(latents[1:2], alone, atol=1e-4)

    def test_reconstruction_has_gradients_everywhere(self, image):
        copied = ImageTokenizer(image.config)
        copied.load_state_dict(image.state_dict())
        copied(picture(32, 32)).square().mean().backward()
        missing = [name for name, p in copied.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert not missing


class TestAttention:
    def test_windows_are_separate(self):
        torch.manual_seed(0)
        attention = WindowAttention(8, 2, 4)
        torch.nn.init.normal_(attention.out.weight)
        x = torch.randn(1, 8, 8, 8)
        changed = x.clone()
        changed[:, :, 0, 0] += 1
        with torch.inference_mode():
            seen = (attention(changed) - attention(x)).abs().amax(1)[0] > 1e-6
        assert seen[:4, :4].all() and not seen[4:].any() and not seen[:, 4:].any()

    def test_every_token_of_a_window_is_seen_in_its_place(self):
        """Against plain attention over one window, computed token by token."""
        torch.manual_seed(0)
        attention, side = WindowAttention(8, 2, 3), 3
        torch.nn.init.normal_(attention.bias)
        qkv = torch.randn(1, 24, side, side)
        with torch.inference_mode():
            found = attention.attend(qkv)
        q, k, v = qkv.view(3, 2, 4, side * side).unbind(0)
        for head in range(2):
            scores = q[head].T @ k[head] / 2
            for i in range(9):
                for j in range(9):
                    dy, dx = i // 3 - j // 3 + 2, i % 3 - j % 3 + 2
                    scores[i, j] += attention.bias[head, dy * 5 + dx].detach()
            expected = scores.softmax(-1) @ v[head].T
            assert torch.allclose(found[0, head * 4 : head * 4 + 4].flatten(1).T, expected, atol=1e-5)


class TestConfig:
    def test_dict_round_trip(self):
        config = ImageTokenizerConfig(levels=(5, 4), encoder_widths=(4, 8), heads=2, window=3)
        assert ImageTokenizerConfig.from_dict(config.to_dict()) == config
        as_json = {key: list(v) if isinstance(v, tuple) else v for key, v in config.to_dict().items()}
        assert ImageTokenizerConfig.from_dict(as_json) == config

    @pytest.mark.parametrize(
        "bad",
        [
            {"encoder_widths": (8,)},
            {"encoder_widths": (8, 10**9)},
            {"decoder_blocks": (1, 10**9)},
            {"window": 0},
            {"heads": 2.0},
            {"patch_size": (4, 4)},
            {"levels": ()},
            {"levels": 8},
            {"levels": ("8",)},
        ],
    )
    def test_values_that_cannot_be_are_refused(self, bad):
        with pytest.raises(ValueError, match=f"Invalid {next(iter(bad))} .* from 1 to 1024"):
            ImageTokenizerConfig.from_dict(bad)

    def test_heads_divide_the_widths(self):
        with pytest.raises(ValueError, match=r"Invalid heads \(5\)"):
            ImageTokenizerConfig(heads=5)

    def test_unknown_fields_are_refused(self):
        with pytest.raises(TypeError, match="depth"):
            ImageTokenizerConfig.from_dict({"depth": 3})

    def test_is_frozen(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            ImageTokenizerConfig().window = 4  # type: ignore[misc]

    def test_layers_come_from_the_given_operations(self):
        made = []

        class Operations:
            class Conv2d(torch.nn.Conv2d):
                def __init__(self, *args, **kwargs):
                    super().__init__(*args, **kwargs)
                    made.append(self)

        config = ImageTokenizerConfig(encoder_widths=(4, 8), decoder_widths=(4, 8), heads=2)
        network = ImageTokenizer(config, Operations)
        assert {m for m in network.modules() if isinstance(m, torch.nn.Conv2d)} == set(made)


class TestShippedWeights:
    @pytest.mark.parametrize(("scene", "least"), [(1, 18), (3, 24)])
    def test_reel_comes_back(self, trained_tokenizer, scene, least):
        """A bookshelf full of small print and a lake at dusk. Untrained weights give about 10 dB."""
        reel = render(128, 128, 4, 1.0)
        source = np.stack([frame for i, frame in enumerate(reel.frames()) if i == reel.scenes[scene].end - 1])
        with torch.inference_mode():
            decoded = trained_tokenizer.image.decode(trained_tokenizer.image.encode(uint8_to_model(source)))
        assert psnr(source, model_to_uint8(decoded))[0] > least

    def test_alphabet_is_that_of_the_format(self, trained_tokenizer):
        assert trained_tokenizer.codebook_size == 64000
        assert trained_tokenizer.residual.config.levels == trained_tokenizer.levels
