import numpy as np
import pytest
import torch

from tokenreel.video.frames import (
    center_crop,
    fit_size,
    image_to_uint8,
    model_to_uint8,
    resize,
    uint8_to_image,
    uint8_to_model,
)


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (3, 20, 31, 3), dtype=np.uint8)


def test_every_level_survives_both_layouts():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    assert np.array_equal(image_to_uint8(uint8_to_image(levels)), levels)
    assert np.array_equal(model_to_uint8(uint8_to_model(levels)), levels)


def test_ranges_and_layouts(frames):
    image, model = uint8_to_image(frames), uint8_to_model(frames)
    assert image.shape == (3, 20, 31, 3) and model.shape == (3, 3, 20, 31)
    assert image.min() >= 0 and image.max() <= 1 and model.min() >= -1 and model.max() <= 1
    assert torch.allclose(model.permute(0, 2, 3, 1), image * 2 - 1, atol=1e-6)


def test_values_outside_are_clipped():
    assert image_to_uint8(torch.full((1, 1, 1, 3), 7.0)).max() == 255
    assert model_to_uint8(torch.full((1, 3, 1, 1), -9.0)).max() == 0


@pytest.mark.parametrize(
    "images, message",
    [
        (torch.zeros(1, 4, 4, 4), "alpha"),
        (torch.zeros(1, 4, 4, 1), r"\[frames, height, width, 3\]"),
        (torch.zeros(4, 4, 3), r"\(4, 4, 3\)"),
        (torch.full((1, 2, 2, 3), float("nan")), "NaN"),
    ],
)
def test_wrong_images_are_refused_by_name(images, message):
    with pytest.raises(ValueError, match=message):
        image_to_uint8(images)


def test_resize_is_the_same_in_any_chunking(frames):
    whole = resize(frames, 16, 11)
    assert whole.shape == (3, 11, 16, 3) and whole.dtype == np.uint8
    assert np.array_equal(whole, np.concatenate([resize(frames[k : k + 1], 16, 11) for k in range(3)]))
    assert resize(frames, 31, 20) is frames


def test_resize_does_not_alias():
    stripes = np.zeros((1, 64, 64, 3), dtype=np.uint8)
    stripes[:, :, ::2] = 255
    small = resize(stripes, 16, 16)[:, 4:-4, 4:-4].astype(int)
    assert abs(small - 128).max() <= 3  # without antialiasing it would be 0 or 255


def test_center_crop(frames):
    assert np.array_equal(center_crop(frames, 10), frames[:, 5:15, 10:20])
    assert center_crop(frames, (31, 4)).shape == (3, 4, 31, 3)
    with pytest.raises(ValueError, match="Invalid crop 21x21 of 31x20"):
        center_crop(frames, 21)


@pytest.mark.parametrize(
    "size, short, expected",
    [((1920, 1080), 256, (455, 256)), ((720, 1280), 256, (256, 455)), ((100, 2), 3, (150, 3)), ((5, 7), None, (5, 7))],
)
def test_fit_size_scales_the_short_side(size, short, expected):
    assert fit_size(*size, short) == expected
