"""The sockets of the pack."""

from ..host.api import io

VideoTokenizer = io.Custom("VIDEO_TOKENIZER")
"""`models.checkpoint.VideoTokenizer` or `ClipTokenizer`: the networks that turn frames into codes and back."""

VideoTokens = io.Custom("VIDEO_TOKENS")
"""`tokens.video_tokens.VideoTokens`: a clip as tokens."""

FrameTimeline = io.Custom("FRAME_TIMELINE")
"""`video.timeline.FrameTimeline`: which source frames were kept, and when each was shown."""

InterpModel = io.Custom("INTERP_MODEL")
"""ComfyUI's: RIFE or FILM, from its Load Frame Interpolation Model."""

UpscaleModel = io.Custom("UPSCALE_MODEL")
"""ComfyUI's: any network that spandrel opens, from its Load Upscale Model."""

TokenGenerator = io.Custom("TOKEN_GENERATOR")
"""`models.generator.TokenGenerator`: the network that makes tokens from tokens, with the digest of their tokenizer."""

MotionField = io.Custom("MOTION_FIELD")
"""Tensor float `[T, H, W, 2]`, (dx, dy) in pixels: frame t at (y, x) was at (y + dy, x + dx) in frame t - 1. Not core's
OPTICAL_FLOW, which carries a network that estimates flow, not a field."""
