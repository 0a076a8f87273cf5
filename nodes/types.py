"""The sockets of the pack."""

from ..host.api import io

VideoTokenizer = io.Custom("VIDEO_TOKENIZER")
"""`models.checkpoint.VideoTokenizer` or `ClipTokenizer`: the networks that turn frames into codes and back."""

VideoTokens = io.Custom("VIDEO_TOKENS")
"""`tokens.video_tokens.VideoTokens`: a clip as tokens."""

FrameTimeline = io.Custom("FRAME_TIMELINE")
"""`video.timeline.FrameTimeline`: which source frames were kept, and when each was shown."""
