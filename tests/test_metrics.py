import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tokenreel.video.metrics import PSNR_CAP, QualityMeter, psnr, ssim


@pytest.fixture
def pair():
    rng = np.random.default_rng(1)
    a = rng.integers(0, 256, (4, 40, 52, 3), dtype=np.uint8)
    return a, np.clip(a + rng.normal(0, 12, a.shape), 0, 255).astype(np.uint8)


def test_psnr_of_a_known_error():
    a = np.full((2, 8, 8, 3), 100, dtype=np.uint8)
    b = a.copy()
    b[1] += 10
    assert psnr(a, b) == pytest.approx([PSNR_CAP, 10 * np.log10(255**2 / 100)])


def test_psnr_does_not_wrap_around():
    black, white = np.zeros((1, 4, 4, 3), np.uint8), np.full((1, 4, 4, 3), 255, np.uint8)
    assert psnr(black, white) == pytest.approx([0.0]) and psnr(white, black) == pytest.approx([0.0])


def test_ssim_equals_the_textbook(pair):
    a, b = (frames[0].astype(np.float64) for frames in pair)
    blur = lambda image: gaussian_filter(image, (1.5, 1.5, 0), truncate=5 / 1.5)[5:-5, 5:-5]  # noqa: E731
    ma, mb = blur(a), blur(b)
    va, vb, ab = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    c1, c2 = 2.55**2, 7.65**2
    expected = ((2 * ma * mb + c1) * (2 * ab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean()
    assert ssim(*pair)[0] == pytest.approx(expected, abs=2e-5)


def test_ssim_of_equal_and_of_tiny_frames(pair):
    assert ssim(pair[0], pair[0]) == pytest.approx([1.0] * 4)
    tiny = pair[0][:, :1, :3]
    assert ssim(tiny, tiny) == pytest.approx([1.0] * 4)
    assert ssim(tiny, 255 - tiny).max() < 0.9


def test_meter_streams(pair):
    whole, parts = QualityMeter(), QualityMeter()
    whole.update(*pair)
    for k in range(4):
        parts.update(pair[0][k : k + 1], pair[1][k : k + 1])
    assert whole.result() == parts.result()
    assert whole.result()["psnr_median"] == pytest.approx(np.median(psnr(*pair)))
    assert whole.result()["frames"] == 4


def test_meter_refuses(pair):
    with pytest.raises(ValueError, match="No frames were compared"):
        QualityMeter().result()
    with pytest.raises(ValueError, match="different shapes"):
        psnr(pair[0], pair[1][:, :-1])
    with pytest.raises(ValueError, match="uint8"):
        psnr(pair[0].astype(np.float32), pair[1])
