"""Load this checkout as `tokenreel`, the way ComfyUI loads a node folder: not installed, whatever the folder's name."""

import importlib.util
import random
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent

# `python -m pytest` puts the checkout on sys.path, where our `nodes` and `models` would hide ComfyUI's.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]


def _load_checkout() -> None:
    spec = importlib.util.spec_from_file_location(
        "tokenreel", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tokenreel"] = module
    spec.loader.exec_module(module)


_load_checkout()


@pytest.fixture(autouse=True)
def restored_rng():
    """Leave the global random states as they were, so that no test depends on which ran before it."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    torch = sys.modules.get("torch")
    torch_state = torch.get_rng_state() if torch is not None else None
    yield
    random.setstate(python_state)
    np.random.set_state(numpy_state)
    if torch is not None:
        torch.set_rng_state(torch_state)


def _random_tokens(
    seed=0, *, width=70, height=45, frames=6, shares=(0.5, 0.2, 0.2, 0.1), key_every=4, levels=(8, 5, 5)
):
    """A valid clip of random tokens; `shares` are those of SKIP, MOTION, RESIDUAL and INTRA blocks in P-frames."""
    from tokenreel.tokens.video_tokens import IFrame, Mode, PFrame, VideoTokens, grid_size

    rng = np.random.default_rng(seed)
    grid, codes = grid_size(width, height), int(np.prod(levels))

    def predicted():
        modes = rng.choice(4, (grid[0] // 2, grid[1] // 2), p=shares)
        moved, coded, intra = (int(np.isin(modes, kind).sum()) for kind in ((1, 2), Mode.RESIDUAL, Mode.INTRA))
        masks = rng.integers(1, 16, coded)
        marked = sum(int(mask).bit_count() for mask in masks)
        motion, deltas = rng.integers(-128, 128, 2), rng.integers(-31, 32, (moved, 2))
        return PFrame(motion, modes, deltas, masks, rng.integers(0, codes, marked), rng.integers(0, codes, (intra, 4)))

    clip = tuple(predicted() if i % key_every else IFrame(rng.integers(0, codes, grid)) for i in range(frames))
    pts = np.cumsum(rng.integers(1, 4, frames)) - 2
    codec = {} if key_every == 1 or frames == 1 else {"codec": "p8", "codec_digest": "c0de" * 16}
    return VideoTokens(
        width=width,
        height=height,
        frame_rate=Fraction(24000, 1001),
        time_base=Fraction(1, 90),
        pts=tuple(pts.tolist()),
        duration=Fraction(int(pts[-1] - pts[0]) + 2, 90),
        frames=clip,
        levels=levels,
        tokenizer="i8",
        digest="0123456789abcdef" * 4,
        **codec,
    )


def _group_tokens(seed=0, *, frames=6, **kind):
    """`_random_tokens` as groups: `frames` time stamps in CFrames of random codes."""
    from tokenreel.tokens.video_tokens import CFrame

    tokens = _random_tokens(seed, frames=frames, key_every=1, **kind)
    keys = tokens.frames[: 1 + -(-(frames - 1) // 4)]
    spans = [1, *[4] * (len(keys) - 1)]
    spans[-1] -= sum(spans) - frames
    groups = tuple(CFrame(key.codes, span) for key, span in zip(keys, spans, strict=True))
    return replace(tokens, frames=groups)


@pytest.fixture(scope="session")
def group_tokens():
    """Makes VideoTokens of CFrames: `group_tokens(3, width=64, height=48, frames=5)`."""
    return _group_tokens


@pytest.fixture(scope="session")
def random_tokens():
    """Makes VideoTokens from a seed: `random_tokens(3, width=64, height=48, frames=5)`."""
    return _random_tokens


def _tiny_networks(levels=(4, 3), seed=0):
    """A random network of each kind, of a few channels, in which no weight is zero."""
    import torch

    from tokenreel.models.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
    from tokenreel.models.residual_codec import ResidualCodec, ResidualCodecConfig
    from tokenreel.models.video_tokenizer import CausalVideoTokenizer, VideoTokenizerConfig

    shape = {
        "levels": levels,
        "encoder_widths": (8, 16),
        "encoder_blocks": (1, 1),
        "decoder_widths": (8, 16),
        "decoder_blocks": (1, 2),
        "heads": 2,
        "window": 4,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        image = ImageTokenizer(ImageTokenizerConfig(**shape))
        residual = ResidualCodec(ResidualCodecConfig(**shape, context_widths=(8, 8)))
        clips = CausalVideoTokenizer(VideoTokenizerConfig(**shape))
        for network in (image, residual, clips):
            for weight in network.parameters():
                if weight.ndim > 1:  # residual branches begin at zero: give every layer a say
                    torch.nn.init.normal_(weight, std=1.5 * weight[0].numel() ** -0.5)
    return image.eval(), residual.eval(), clips.eval()


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A VideoTokenizer of tiny random networks: right in every shape, and no judge of pictures."""
    from tokenreel.models.checkpoint import VideoTokenizer

    image, residual, _ = _tiny_networks()
    return VideoTokenizer(image, residual, "tiny", "1" * 64, "tiny-residual", "2" * 64)


@pytest.fixture(scope="session")
def tiny_clip_tokenizer():
    """A ClipTokenizer of a tiny random network."""
    from tokenreel.models.checkpoint import ClipTokenizer

    return ClipTokenizer(_tiny_networks()[2], "tiny-clip", "3" * 64)


@pytest.fixture(scope="session")
def trained_tokenizer():
    """The shipped tokenizer; the test is skipped in a checkout without weights."""
    from tokenreel.models.checkpoint import list_tokenizers, load_tokenizer

    if not list_tokenizers():
        pytest.skip("no weights in models/weights")
    return load_tokenizer()


def _texture(height, width, seed=0):
    """uint8 `[height, width, 3]`: noise on several scales, so that every block looks different and motion is plain."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3))
    for cell, strength in ((32, 60.0), (8, 40.0), (3, 20.0)):
        coarse = rng.standard_normal((height // cell + 2, width // cell + 2, 3))
        y, x = np.arange(height) / cell, np.arange(width) / cell
        fy, fx = (y % 1)[:, None, None], (x % 1)[None, :, None]
        i, j = np.ix_(y.astype(int), x.astype(int))
        top = coarse[i, j] * (1 - fx) + coarse[i, j + 1] * fx
        bottom = coarse[i + 1, j] * (1 - fx) + coarse[i + 1, j + 1] * fx
        picture += strength * (top * (1 - fy) + bottom * fy)
    return np.clip(np.rint(picture + 128), 0, 255).astype(np.uint8)


@pytest.fixture
def chance():
    """A new generator of random numbers, the same in every test."""
    import torch

    return torch.Generator().manual_seed(1)


@pytest.fixture
def texture():
    """Makes a picture full of detail: `texture(height, width, seed)` -> uint8 `[height, width, 3]`."""
    return _texture


@pytest.fixture
def write(tmp_path):
    """Writes uint8 `[T, H, W, 3]` losslessly: `write(frames, pts, name=..., rate=...)` -> path."""
    from tokenreel.video.writer import VideoWriter

    def call(frames, pts=None, *, name="in.mp4", rate=Fraction(24), time_base=None, last=None, **sound):
        path = tmp_path / name
        size = {"width": frames.shape[2], "height": frames.shape[1]}
        with VideoWriter(path, **size, frame_rate=rate, time_base=time_base, lossless=True, **sound) as writer:
            writer.write(frames, pts)
            writer.close(last)
        return path

    return call


@pytest.fixture
def no_processes(monkeypatch):
    """`no_processes(module, submit)`: pools of processes of a module give what `submit(work, *arguments)` returns."""

    def replace_pool(module, submit, opened=lambda: None):
        class Pool:
            def __init__(self, *_, **__):
                opened()

            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

            def submit(self, work, *arguments):
                value = submit(work, *arguments)
                return SimpleNamespace(result=lambda: value)

        monkeypatch.setattr(module, "ProcessPoolExecutor", Pool)

    return replace_pool
