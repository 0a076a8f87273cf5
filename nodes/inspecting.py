"""Where tokens went: Inspect Video Tokens."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from ..host import resources
from ..host.api import io, ui
from ..models.network_checks import checked
from ..stations import decoded_frames, matched
from ..tokens.accounting import KINDS, block_costs, count, count_by_time, report
from ..tokens.video_tokens import BLOCK, CFrame, IFrame, Mode, PFrame, VideoTokens
from ..video.drawing import heat_overlay, heat_sheet, panel_count
from ..video.motion_arrows import arrow_panels
from . import types
from .reports import describe_tokens
from .sources import clip_sockets, open_clip, to_images

_PLAIN = 128  # grey level to draw on when there is no picture
_FRAMES = 12  # that are drawn by default
_ARROWS = 3  # frames on the overview with arrows of motion
_KINDS = {IFrame: "key", PFrame: "P", CFrame: "group"}


class InspectTokens(io.ComfyNode):
    """A heat map."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenReel_InspectTokens",
            display_name="Inspect Video Tokens",
            category="video/tokens",
            description="Shows where tokens went: the frames in grey, blocks that took tokens in colour, and the "
            "tokens of every frame as bars. Connect the clip, or the tokenizer, to see the picture under the colours.",
            search_aliases=["heat map", "visualize tokens", "token count", "bitrate", "bpp", "tokens info"],
            is_output_node=True,
            inputs=[
                types.VideoTokens.Input("tokens", tooltip="The tokens to look at."),
                *clip_sockets(),
                types.VideoTokenizer.Input(
                    "tokenizer",
                    optional=True,
                    tooltip="Draws on the decoded frames, if neither video nor images is connected.",
                ),
                io.Int.Input(
                    "frames",
                    default=_FRAMES,
                    min=0,
                    max=100_000,
                    tooltip="How many frames are drawn, evenly spread from the first to the last. 0 draws all. "
                    "They take 12 bytes a pixel in memory.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="heat_map",
                    tooltip="The drawn frames at the size of the clip; with frames at 0 they make a video.",
                ),
                io.Image.Output(
                    display_name="overview",
                    tooltip="One picture with a few of them, what the colours mean, what moved, and tokens per frame.",
                ),
                io.String.Output(display_name="report", tooltip="What was spent on what."),
            ],
        )

    @classmethod
    def execute(
        cls, tokens: Any, frames: int, video: Any = None, images: Any = None, tokenizer: Any = None
    ) -> io.NodeOutput:
        total = len(tokens.pts)
        indices = spread(total, frames or total)
        drawn, coded = [], tokens.by_time
        under = dict.fromkeys(_most_moved(tokens, indices), np.empty(0))
        with resources.progress(len(indices), "draw") as bar:
            pictures = _pictures(tokens, indices, video, images, tokenizer)
            for index, picture in zip(indices, pictures, strict=True):
                if index in under:
                    under[index] = picture
                drawn.append(heat_overlay(picture, block_costs(coded[index]), block=BLOCK)[np.newaxis])
                bar.update()
        overview = to_images([draw_overview(tokens, indices, drawn, under)[np.newaxis]])
        text = describe_tokens(report(tokens))
        shown = {**ui.PreviewImage(overview, cls=cls).as_dict(), "text": (text,)}
        return io.NodeOutput(to_images(drawn), overview, text, ui=shown)


def spread(total: int, wanted: int) -> list[int]:
    """`wanted` of `total` frame indices, or all, from the first to the last."""
    return np.unique(np.linspace(0, total - 1, min(wanted, total)).round().astype(int)).tolist()


def draw_overview(
    tokens: VideoTokens, indices: list[int], drawn: list[np.ndarray], under: Mapping[int, np.ndarray]
) -> np.ndarray:
    """One picture of a few of the drawn frames, what moved on others, and the tokens of every frame.

    drawn: uint8 `[1, H, W, 3]` for each of the indices; under: index -> uint8 `[H, W, 3]`, where arrows are drawn on.
    """
    counted, coded = count(tokens), tokens.by_time
    shown = spread(len(indices), panel_count(tokens.width, tokens.height))
    panels, captions = [drawn[place][0] for place in shown], []
    unit = " tokens" if tokens.width >= tokens.height else ""  # panels of upright frames are narrow
    for index in (indices[place] for place in shown):
        captions.append(f"{index} {_KINDS[type(coded[index])]}: {counted.per_frame[index]:,}{unit}")
    kinds = count_by_time(tokens)
    series = {kind.replace("_", " "): [float(each[kind]) for each in kinds] for kind in KINDS}
    facts = report(tokens)
    title = (
        f"{facts['tokens']:,} tokens in {_counted(facts['frames'], 'frame')}, "
        f"{facts['tokens_per_second']:,.0f} a second\n"
        f"{_made_of(tokens)}; {facts['width']} x {facts['height']} pixels, "
        f"{facts['bits_per_pixel']:.4f} bits a pixel"
    )
    fields = [moved(coded[index]) for index in under]
    motion = arrow_panels([*under.values()], fields, [str(index) for index in under], block=BLOCK)
    return heat_sheet(panels, captions, title=title, series=series, motion=motion)


def _most_moved(tokens: VideoTokens, indices: list[int]) -> list[int]:
    """A few of the frames, in order: those in which most moved."""
    coded = tokens.by_time
    means = {
        index: float(np.nan_to_num(np.abs(moved(frame))).mean())
        for index in indices
        if isinstance(frame := coded[index], PFrame)
    }
    return sorted(sorted(means, key=lambda index: -means[index])[:_ARROWS])


def moved(frame: Any) -> np.ndarray:
    """float `[bh, bw, 2]`: pixels down and right that each block of a PFrame moved; NaN where it is coded anew."""
    return np.where((frame.modes == Mode.INTRA)[..., np.newaxis], np.nan, frame.motion_field() / -2.0)


def _made_of(tokens: VideoTokens) -> str:
    kinds = [type(frame) for frame in tokens.frames]
    if CFrame in kinds:
        return f"frames in {_counted(len(kinds), 'group')}"
    return f"{_counted(kinds.count(IFrame), 'key frame')}, {kinds.count(PFrame)} predicted"


def _counted(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _pictures(tokens: VideoTokens, indices: list[int], video: Any, images: Any, tokenizer: Any) -> Iterator[np.ndarray]:
    """The frames to draw on, uint8 `[H, W, 3]`, of the size of the tokens."""
    wanted = set(indices)
    if video is None and images is None:
        yield from _decoded(tokens, wanted, tokenizer) if tokenizer else _plain(tokens, len(indices))
        return
    seen = 0
    with open_clip(video, images) as clip:
        for chunk in clip.chunks():
            resources.check_cancelled()
            for frame in chunk.frames:
                if seen in wanted:
                    yield matched(frame[np.newaxis], tokens.width, tokens.height)[0]
                seen += 1
    if seen <= max(indices):
        raise ValueError(f"The clip has {seen} frames, the tokens {len(tokens.pts)}. Connect the encoded clip.")


def _decoded(tokens: VideoTokens, wanted: set[int], tokenizer: Any) -> Iterator[np.ndarray]:
    with torch.inference_mode(), checked(tokenizer.networks, resources.check_cancelled):
        for index, frame in enumerate(decoded_frames(tokens, tokenizer, stop=max(wanted) + 1)):
            resources.check_cancelled()
            if index in wanted:
                yield frame


def _plain(tokens: VideoTokens, frames: int) -> Iterator[np.ndarray]:
    for _ in range(frames):
        yield np.full((tokens.height, tokens.width, 3), _PLAIN, dtype=np.uint8)
