"""The generator as a function: what its node and command call. Some tokens of a clip are known, the others are made.

What is made is made within a shot: across a cut nothing is moved, and nothing is continued from the shot before.

`check` is called often and may raise to cancel; `progress` with the number of frames done since it last was, which are
`frames_to_do` in all.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from .models.checkpoint import AnyTokenizer, VideoTokenizer
from .models.network_checks import checked
from .models.shots import MotionMeter
from .models.stream_codec import check_match, decode_stream, encode_frames
from .models.token_filling import TokenFiller
from .stations import Advance, Check, unwatched
from .tokens.accounting import report
from .tokens.video_tokens import CELL, CFrame, Frame, IFrame, PFrame, VideoTokens
from .video.completion import LOOK_BACK, Completion, even_places, gap
from .video.knots import Join
from .video.output_times import MAX_TICKS, Showing

_FEW = 5  # frames: with fewer there is little to compare a change with, and any motion may look like a cut
_PLAIN = 20.0  # grey levels, from which a change is a cut then; within shots few reach 15 in eight frames, cuts pass 22

Way = Literal["known", "generated", "repeated", "faded"]
"""How a frame came about: given; made by the network, wholly or in part; the nearest one again; mixed of two."""


@dataclass(frozen=True)
class Generated:
    """A clip of tokens, and what of it is new."""

    tokens: VideoTokens
    """Single frames only."""
    made: np.ndarray
    """bool `[T, h, w]`: the tokens that the network made."""
    ways: tuple[Way, ...]
    """Of each frame."""
    seconds: float
    report: dict[str, Any] = field(default_factory=dict)
    """The keys of `tokenreel generate --json`, but for file_bytes."""


class _Shown(NamedTuple):
    frame: IFrame
    tick: int
    way: Way
    cells: np.ndarray | None = None
    """bool `[h, w]`: the tokens that were made; None: all or none of them."""


class _Timing(NamedTuple):
    """When the frames of a result are shown."""

    time_base: Fraction
    frame_rate: Fraction
    duration: Fraction


@dataclass
class _Job:
    """What is worked on, and with what."""

    tokens: VideoTokens
    tokenizer: VideoTokenizer
    filler: TokenFiller
    knobs: dict[str, Any]
    check: Check
    progress: Advance
    cells: np.ndarray | None = None
    """bool `[T, h, w]`: what is to be filled in."""
    cuts: int = 0
    notes: list[str] = field(default_factory=list)

    def codes(self, start: int = 0, stop: int | None = None) -> Tensor:
        """int64 `[t, h, w]`: tokens of these frames of the clip."""
        return torch.from_numpy(np.stack([_single(frame).codes for frame in self.tokens.frames[start:stop]])).long()

    def shots(self, start: int = 0) -> list[int]:
        """`start`, and the frames after it that begin a shot, as the decoded frames show it."""
        meter = MotionMeter()
        for frame in decode_stream(self.tokens, self.tokenizer, start=start):
            self.check()
            meter.update(frame[np.newaxis])
            self.progress(1)
        found = {*meter.cuts, *meter.score_cuts}
        if len(meter.scores) < _FEW:
            found = {cut for cut in found if meter.scores[cut] >= _PLAIN}
        return [start, *(start + cut for cut in sorted(found))]


def generate(
    tokens: VideoTokens,
    filler: TokenFiller,
    tokenizer: AnyTokenizer,
    wanted: Completion,
    *,
    check: Check = unwatched,
    progress: Advance = unwatched,
) -> Generated:
    """Makes the tokens that are wanted. `filler` holds the generator, and the networks of `tokenizer`.

    A stream is decoded and coded anew, frame by frame. Raises ValueError for what cannot be, tokens of groups of frames
    among it, and where tokens, generator and tokenizer do not go together.
    """
    started = time.monotonic()
    image = _checked(tokens, filler, tokenizer)
    wanted.result(len(tokens.pts))
    cells = wanted.cells(len(tokens.pts), (tokens.width, tokens.height), tokens.grid, CELL)
    generator = torch.Generator("cpu").manual_seed(wanted.seed)
    knobs = {"steps": wanted.steps, "temperature": wanted.temperature, "generator": generator, "check": check}
    calls = filler.calls
    with torch.inference_mode(), checked([filler.net, *image.networks], check):
        job = _Job(tokens, image, filler, knobs, check, progress, cells)
        _make_single_frames(job)
        timing, shown = {"continue": _continue, "between": _between, "fill": _fill}[wanted.task](job, wanted)
        made = _assemble(job.tokens, timing, list(shown))
    seconds = time.monotonic() - started
    counts = {"task": wanted.task, **_counts(made), "cuts": job.cuts, "network_calls": filler.calls - calls}
    facts = {**report(made.tokens), **counts, "seconds": round(seconds, 3), "notes": job.notes}
    return replace(made, seconds=seconds, report=facts)


def frames_to_do(tokens: VideoTokens, wanted: Completion) -> int:
    """How many frames `progress` will have been told of in all."""
    count = len(tokens.pts)
    return wanted.work(count) + (count if _is_stream(tokens) else 0)


def _checked(tokens: VideoTokens, filler: TokenFiller, tokenizer: AnyTokenizer) -> VideoTokenizer:
    """The tokenizer, if tokens, generator and it go together."""
    if any(isinstance(frame, CFrame) for frame in tokens.frames) or not isinstance(tokenizer, VideoTokenizer):
        raise ValueError(
            f"These tokens are groups of frames (tokenizer {tokens.tokenizer!r}); generators work on single frames. "
            "Encode the clip with tokenizer 'i8'."
        )
    check_match(tokens, tokenizer)
    net = filler.net
    if net.tokenizer_digest not in ("", tokens.digest) or net.config.levels != tokens.levels:
        trained = f"levels {net.config.levels}, {net.tokenizer_digest[:12] or 'unnamed'}"
        raise ValueError(
            f"The generator was trained on tokens of another tokenizer ({trained}) than {tokens.tokenizer!r} (levels "
            f"{tokens.levels}, {tokens.digest[:12]}). Encode the clip with that one, or choose another generator."
        )
    return tokenizer


def _is_stream(tokens: VideoTokens) -> bool:
    return any(isinstance(frame, PFrame) for frame in tokens.frames)


def _make_single_frames(job: _Job) -> None:
    """Codes a stream anew, frame by frame: predicted frames have no token of their own for every place."""
    tokens = job.tokens
    if _is_stream(tokens):
        decoded = (frame[np.newaxis] for frame in decode_stream(tokens, job.tokenizer))
        coded = encode_frames(decoded, job.tokenizer, check=job.check, progress=job.progress)
        job.tokens = replace(tokens, frames=tuple(coded.frames), codec="", codec_digest="")
        near = f"{np.mean(coded.psnr):.2f} dB from what it showed"
        job.notes.append(f"the stream was decoded and coded anew, every frame for itself, {near}")


# -- the tasks


def _continue(job: _Job, wanted: Completion) -> tuple[_Timing, Iterator[_Shown]]:
    tokens = job.tokens
    begins = job.shots(max(0, len(tokens.frames) - LOOK_BACK))
    job.cuts = len(begins) - 1
    step = 1 / (tokens.frame_rate * tokens.time_base)  # in ticks
    finer = step.denominator if (tokens.time_base / step.denominator).denominator <= MAX_TICKS else 1
    ticks = [tick * finer for tick in tokens.pts]
    duration = (tokens.pts[-1] - tokens.pts[0]) * tokens.time_base + (wanted.count + 1) / tokens.frame_rate

    def shown() -> Iterator[_Shown]:
        for frame, tick in zip(tokens.frames, ticks, strict=True):
            yield _Shown(_single(frame), tick, "known")
        made = job.filler.after(job.codes(begins[-1]), wanted.count, progress=job.progress, **job.knobs)
        for number, codes in enumerate(made, 1):
            yield _Shown(_frame(codes), ticks[-1] + round(number * step * finer), "generated")

    return _Timing(tokens.time_base / finer, tokens.frame_rate, duration), shown()


def _between(job: _Job, wanted: Completion) -> tuple[_Timing, Iterator[_Shown]]:
    tokens, timeline, retiming = job.tokens, wanted.timeline, wanted.retiming()
    times = retiming.output_times(tokens.time_base, tokens.frame_rate, tokens.pts[0])
    joiner = retiming.joiner(tokens.time_base, tokens.frame_rate)
    begins = set[int]() if timeline else set(job.shots()[1:])
    ticks = timeline.kept_pts if timeline else tokens.pts
    end = timeline.source_pts[-1] + timeline.final_duration if timeline else ticks[-1] + 1

    def shown() -> Iterator[_Shown]:
        for index, (start, stop) in enumerate(pairwise(ticks)):
            join = gap(joiner, start, stop, index + 1 in begins)
            job.cuts += join.is_cut
            yield from _gap(job, index, start, join, times.within((start, stop)))
        # after the last known frame there is nothing to move to
        for each in times.within((ticks[-1], end))[: None if timeline else 1]:
            yield _Shown(_single(tokens.frames[-1]), each.tick, "known" if each.position == ticks[-1] else "repeated")
            job.progress(1)

    return _Timing(times.time_base, times.frame_rate, timeline.duration if timeline else tokens.duration), shown()


def _gap(job: _Job, index: int, start: int, join: Join, showings: Sequence[Showing]) -> Iterator[_Shown]:
    """Known frame `index`, and what is shown until the next one."""
    first, second = (_single(frame) for frame in job.tokens.frames[index : index + 2])
    shares = [join.share(each.position) for each in showings]
    asked = [share for share in shares if share is not None]
    way: Way = "generated"
    if join.kind == "fade":
        moving, way = _mixed(job, index, asked), "faded"
    elif first == second:
        moving, way = (first for _ in asked), "repeated"
    else:
        moving = _moved(job, index, asked)
    for each, share in zip(showings, shares, strict=True):
        job.check()
        if share is not None:
            yield _Shown(next(moving), each.tick, way)
        elif each.position >= join.end:
            yield _Shown(second, each.tick, "repeated")
        else:
            yield _Shown(first, each.tick, "known" if each.position == start else "repeated")
        job.progress(1)


def _moved(job: _Job, index: int, shares: Sequence[Fraction]) -> Iterator[IFrame]:
    """Frames at shares of the way from known frame `index` to the next one, made by the network."""
    if shares:
        count, places = even_places(shares)
        first, second = job.codes(index, index + 2)
        made = job.filler.between(first, second, count, **job.knobs)
        yield from (_frame(made[place]) for place in places)


def _mixed(job: _Job, index: int, shares: Sequence[Fraction]) -> Iterator[IFrame]:
    """Of a dissolve: known frame `index` and the next one, mixed as pixels and coded."""
    pictures = decode_stream(job.tokens, job.tokenizer, start=index, stop=index + 2)
    first, second = (torch.from_numpy(picture).float() for picture in pictures)
    for share in shares:
        mixed = torch.lerp(first, second, float(share)).round_().to(torch.uint8).numpy()
        yield _single(encode_frames([mixed[np.newaxis]], job.tokenizer, check=job.check).frames[0])


def _fill(job: _Job, wanted: Completion) -> tuple[_Timing, Iterator[_Shown]]:
    tokens, cells = job.tokens, job.cells
    assert cells is not None

    def shown() -> Iterator[_Shown]:
        for start, stop in _fillable(job, cells):
            codes, part = job.codes(start, stop), cells[start:stop]
            if part.any():
                codes = job.filler.fill(codes, torch.from_numpy(~part), progress=job.progress, **job.knobs)
            for index in range(start, stop):
                way: Way = "generated" if cells[index].any() else "known"
                yield _Shown(_frame(codes[index - start]), tokens.pts[index], way, cells[index])
            job.progress(int((~part).all((1, 2)).sum()))

    return _Timing(tokens.time_base, tokens.frame_rate, tokens.duration), shown()


def _fillable(job: _Job, cells: np.ndarray) -> list[tuple[int, int]]:
    """First frame and end of each shot; one that is masked as a whole is taken with the one before, or after, it."""
    begins = job.shots()
    job.cuts = len(begins) - 1
    parts: list[tuple[int, int]] = []
    for start, stop in pairwise([*begins, len(cells)]):
        if parts and (cells[start:stop].all() or cells[slice(*parts[-1])].all()):
            start = parts.pop()[0]
        parts.append((start, stop))
    return parts


# -- from frames to a clip


def _single(frame: Frame) -> IFrame:
    assert isinstance(frame, IFrame)  # others were coded anew, or refused
    return frame


def _frame(codes: Tensor) -> IFrame:
    return IFrame(codes.to(torch.int32).cpu().numpy())


def _assemble(tokens: VideoTokens, timing: _Timing, shown: Sequence[_Shown]) -> Generated:
    made = np.zeros((len(shown), *tokens.grid), dtype=bool)
    for index, each in enumerate(shown):
        made[index] = (each.way == "generated") if each.cells is None else each.cells
    result = replace(
        tokens,
        frames=tuple(each.frame for each in shown),
        pts=tuple(each.tick for each in shown),
        **timing._asdict(),
    )
    return Generated(result, made, tuple(each.way for each in shown), 0.0)


def _counts(made: Generated) -> dict[str, Any]:
    """How the frames of a result came about, and how many of its tokens the network made."""
    ways = {way: made.ways.count(way) for way in get_args(Way)}
    tokens = int(made.made.sum())
    return {**ways, "tokens_made": tokens, "made_fraction": tokens / made.made.size}
