"""What a forward of known video models costs depends on: strides, patches, widths, layers.

The strides are those of core's comfy/latent_formats.py, the structure of a block that of its comfy/ldm. Core reads
widths and layers from the weights (comfy/model_detection.py): where it names no number, it is the one of the published
weights, which tests/test_model_families.py tells by their count; tests/test_token_budget.py counts the arithmetic of
real blocks. Rates are those that the models were published with.
"""

from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType


@dataclass(frozen=True)
class ModelFamily:
    """A video model as far as its tokens and its arithmetic go."""

    title: str
    time_stride: int
    """Frames of video in a frame of latents; the first of those is a single frame. Lengths are this times n, plus 1."""
    space_stride: int
    """Pixels of a side of a latent."""
    patch: int
    """Latents of a side of a token. In time every family takes each frame of latents by itself."""
    width: int
    """Channels of a token."""
    heads: int
    layers: int
    ffn: int
    """Channels inside the feed-forward part."""
    text_tokens: int
    """Of a prompt, with what it is padded to."""
    context_width: int
    """Channels of a text token where cross-attention reads it."""
    joint: bool = False
    """Whether text goes through the same attention as the video, in place of cross-attention."""
    sound_width: int = 0
    """Channels inside the attention between video and a stream of sound, one for each direction; 0: no sound."""
    rate: Fraction = Fraction(24)
    """Frames per second that it was trained to move at."""
    takes_rate: bool = False
    """Whether a rate can be told to it. Where not, it moves as at `rate` whatever its frames are played at."""

    def __post_init__(self) -> None:
        counts = (self.time_stride, self.space_stride, self.patch, self.width, self.heads, self.layers, self.ffn)
        if min(counts) < 1 or self.width % self.heads:
            raise ValueError(
                f"Invalid family {self.title!r}. Strides, patch and sizes are at least 1, and the width "
                f"({self.width}) is a multiple of the heads ({self.heads})."
            )

    @property
    def multiple(self) -> int:
        """Pixels that both sides of a frame are multiples of."""
        return self.space_stride * self.patch

    def length(self, frames: float | Fraction) -> int:
        """The least number of frames that it makes and that is at least so many."""
        return max(0, -int(-(frames - 1) // self.time_stride)) * self.time_stride + 1

    def side(self, pixels: float | Fraction) -> int:
        """The least side in pixels that it makes and that is at least so many."""
        return max(1, -int(-pixels // self.multiple)) * self.multiple

    def grid(self, width: int, height: int, frames: int) -> tuple[int, int, int]:
        """(t, h, w) of the tokens of a clip of that size in pixels. ValueError where it does not make such clips."""
        if self.side(width) != width or self.side(height) != height or self.length(frames) != frames:
            raise ValueError(
                f"Invalid size {width}x{height} with {frames} frames. {self.title} makes multiples of {self.multiple} "
                f"pixels, and {self.time_stride}n + 1 frames: choose {self.side(width)}x{self.side(height)} with "
                f"{self.length(frames)}."
            )
        return (frames - 1) // self.time_stride + 1, height // self.multiple, width // self.multiple


# Wan: patch (1, 2, 2), width // 128 heads (model_detection.py), text padded to 512 (text_encoders/wan.py) and projected
# to the width before the blocks (ldm/wan/model.py, text_embedding). Its 14B, 1.3B and 5B are those of the published
# weights. latent_formats.Wan21: 4 and 8; Wan22, of the 5B only: 4 and 16.
_WAN_14B = ModelFamily(
    *("Wan 2.1 14B", 4, 8, 2),
    width=5120,
    heads=40,
    layers=40,
    ffn=13824,
    text_tokens=512,
    context_width=5120,
    rate=Fraction(16),
)
_WAN_1B = ModelFamily(
    *("Wan 2.1 1.3B", 4, 8, 2),
    width=1536,
    heads=12,
    layers=30,
    ffn=8960,
    text_tokens=512,
    context_width=1536,
    rate=Fraction(16),
)
# Two models of 14B take turns: each step is a forward of one of them.
_WAN22_14B = ModelFamily(
    *("Wan 2.2 14B", 4, 8, 2),
    width=5120,
    heads=40,
    layers=40,
    ffn=13824,
    text_tokens=512,
    context_width=5120,
    rate=Fraction(16),
)
_WAN22_5B = ModelFamily(
    *("Wan 2.2 5B", 4, 16, 2),
    width=3072,
    heads=24,
    layers=30,
    ffn=14336,
    text_tokens=512,
    context_width=3072,
)

# LTX: patch 1, strides 8 and 32 (latent_formats.LTXV; vae_scale_factors in ldm/lightricks/model.py), a feed-forward
# part of 4 times the width (FeedForward there). Widths and layers are the defaults of LTXVModel and, in av_model.py,
# LTXAVModel. Text of at least 128 and 1024 tokens: text_encoders/lt.py. Rate 25: model_base.py's default for
# frame_rate, which places tokens in time.
_LTXV = ModelFamily(
    *("LTX-Video 2B", 8, 32, 1),
    width=2048,
    heads=32,
    layers=28,
    ffn=8192,
    text_tokens=128,
    context_width=2048,
    rate=Fraction(25),
    takes_rate=True,
)
# audio_to_video_attn and video_to_audio_attn: 32 heads of 64.
_LTX2 = ModelFamily(
    *("LTX-2", 8, 32, 1),
    width=4096,
    heads=32,
    layers=48,
    ffn=16384,
    text_tokens=1024,
    context_width=4096,
    sound_width=2048,
    rate=Fraction(25),
    takes_rate=True,
)

# HunyuanVideo: width // 128 heads, mlp_ratio 4 (model_detection.py), strides 4 and 8, or 4 and 16
# (latent_formats.HunyuanVideo, HunyuanVideo15). Blocks of both kinds take the same arithmetic: 20 double and 40 single
# in the published weights, 54 double in those of 1.5, whose patch is 1. Core pads no prompt; 256 is a long one.
_HUNYUAN = ModelFamily(
    *("HunyuanVideo", 4, 8, 2),
    width=3072,
    heads=24,
    layers=60,
    ffn=12288,
    text_tokens=256,
    context_width=3072,
    joint=True,
)
_HUNYUAN15 = ModelFamily(
    *("HunyuanVideo 1.5", 4, 16, 1),
    width=2048,
    heads=16,
    layers=54,
    ffn=8192,
    text_tokens=256,
    context_width=2048,
    joint=True,
)

# Cosmos: patch_spatial 2, patch_temporal 1, 28 blocks for the smaller weights (model_detection.py), mlp_ratio 4 and
# crossattn_emb_channels 1024 (ldm/cosmos/model.py, predict2.py), text of 512 (text_encoders/cosmos.py). The latents of
# the first have strides 8 and 8 (latent_formats.Cosmos1CV8x8x8), those of Predict2 are Wan's (supported_models.py).
# Only the first is told a rate: core runs Predict2 with rope_enable_fps_modulation off (model_detection.py).
_COSMOS = ModelFamily(
    *("Cosmos 7B", 8, 8, 2),
    width=4096,
    heads=32,
    layers=28,
    ffn=16384,
    text_tokens=512,
    context_width=1024,
    takes_rate=True,
)
_PREDICT2 = ModelFamily(
    *("Cosmos Predict2 2B", 4, 8, 2),
    width=2048,
    heads=16,
    layers=28,
    ffn=8192,
    text_tokens=512,
    context_width=1024,
    rate=Fraction(16),
)

# The most common of each of these: for a model that is not listed, shares and ratios are about right.
_GENERIC = ModelFamily(
    *("another model", 4, 8, 2),
    width=3072,
    heads=24,
    layers=30,
    ffn=12288,
    text_tokens=256,
    context_width=3072,
)

FAMILIES = MappingProxyType(
    {
        "wan2.1": _WAN_14B,
        "wan2.1-1.3b": _WAN_1B,
        "wan2.2": _WAN22_14B,
        "wan2.2-5b": _WAN22_5B,
        "ltx-video": _LTXV,
        "ltx-2": _LTX2,
        "hunyuanvideo": _HUNYUAN,
        "hunyuanvideo-1.5": _HUNYUAN15,
        "cosmos": _COSMOS,
        "cosmos-predict2": _PREDICT2,
        "generic": _GENERIC,
    }
)
"""By the names that commands and nodes take."""


def find_family(name: str) -> ModelFamily:
    """The family of that name. ValueError with all names where there is none."""
    if name not in FAMILIES:
        raise ValueError(f"Invalid family {name[:40]!r}. Supported are {', '.join(FAMILIES)}.")
    return FAMILIES[name]
