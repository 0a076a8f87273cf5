"""The interpolator as functions: what its node and command call. Frames stream through; nothing holds a whole clip.

Source frames become knots: pictures at times. Between two knots there is motion, or a change of shot, over which
nothing moves; output times (video/output_times.py) fall on knots, which are passed on as they are, or between them.

`check` is called often and may raise to cancel; `progress` with the number of source frames done since it last was.
"""

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from .models.changed_regions import InBetweens
from .models.changed_tiles import THRESHOLD, changed_tiles
from .models.interpolator import Interpolator
from .models.network_checks import checked, networks_of
from .models.shots import MotionMeter
from .stations import Advance, Check, Source, unwatched
from .video.clips import Clip, VideoClip
from .video.knots import AtCuts, Joiner, Knot
from .video.output_times import OutputTimes, TimelineTimes
from .video.retiming import Repeats, Retiming
from .video.target_size import SizePlan
from .video.timeline import FrameTimeline
from .video.writer import VideoWriter

MOST_REPEATS = 4  # in a row: drawings are shown for up to five frames; what stands longer is meant to stand still


class Sound(NamedTuple):
    """A file whose sound is carried: from which time on its own clock, and how much of it, in seconds."""

    source: Source
    start: Fraction | float = 0
    length: Fraction | float | None = None


class _Output(NamedTuple):
    frame: np.ndarray
    """uint8 `[H, W, 3]`."""
    tick: int
    way: Literal["passed", "interpolated", "held", "faded"]


@dataclass
class Tally:
    """How many output frames came about in which way."""

    passed: int = 0
    """Frames of the source, as they are."""
    interpolated: int = 0
    held: int = 0
    """Repeated: at a cut, in a still, at the end."""
    faded: int = 0
    cuts: int = 0
    repeats: int = 0
    """Source frames that were left, as they show what the one before shows."""


@dataclass
class _Plan:
    """What is asked for, and what is known so far."""

    times: OutputTimes
    joiner: Joiner
    cuts: frozenset[int] = frozenset()
    retime: bool = False
    threshold: int = THRESHOLD
    tally: Tally = field(default_factory=Tally)
    sources: int = 0
    written: int = 0
    end: int = 0
    """Where the source ends, in its ticks; known when all of it is read."""


def interpolate(
    source: Source,
    path: str | os.PathLike[str],
    *,
    interpolator: Interpolator,
    timeline: FrameTimeline | None = None,
    rate: Fraction | None = None,
    times: int | None = None,
    loop: bool = False,
    at_cuts: AtCuts = "hold",
    repeats: Repeats = "keep",
    static_threshold: int | None = THRESHOLD,
    device: torch.device | str = "cpu",
    start: Fraction | float = 0,
    duration: Fraction | float | None = None,
    audio: bool = True,
    check: Check = unwatched,
    progress: Advance = unwatched,
    **options: Any,
) -> dict[str, Any]:
    """Interpolates a file, or a part of it, into the video file `path`, with its sound.

    For what is wanted see Retiming, for `static_threshold` and `device` InBetweens; `options` and what is returned are
    those of `interpolate_clip`. Without a timeline the file is read twice: once to find its cuts.
    """
    wanted = Retiming(timeline, rate, times, loop, at_cuts, repeats)
    between = InBetweens(interpolator, static_threshold, check, device)
    watchers = {"check": check, "progress": progress}
    cuts: tuple[int, ...] = ()
    if timeline is None:
        with VideoClip(source, start=start, duration=duration) as clip:
            cuts = find_cuts(clip, loop=loop, repeats=repeats, **watchers)
    with VideoClip(source, start=start, duration=duration) as clip:
        sound = Sound(source, clip.origin, duration) if audio and clip.reader.info.has_audio else None
        report = interpolate_clip(clip, path, wanted, between, cuts=cuts, sound=sound, **watchers, **options)
        return {**report, "notes": [*clip.reader.warnings, *report["notes"]]}


def find_cuts(
    clip: Clip,
    *,
    loop: bool = False,
    repeats: Repeats = "keep",
    check: Check = unwatched,
    progress: Advance = unwatched,
) -> tuple[int, ...]:
    """The frames that begin a shot by a hard cut; with `loop`, one after the last if the first one does so there.

    They are all that either the net or the plain score takes for one: a frame held for a moment too long is hardly
    seen, a blend of two shots is. Where repeats are to be retimed they do not count as neighbours either, beside which
    every motion would look like a cut.
    """
    meter, opening, last, given, count = MotionMeter(), None, None, [], 0
    with torch.inference_mode():
        for chunk in clip.chunks():
            check()
            opening = chunk.frames if opening is None else opening
            for index, frame in enumerate(chunk.frames, count):
                if repeats == "keep" or last is None or changed_tiles(last, frame).any():
                    meter.update(frame[np.newaxis])
                    last = frame
                    given.append(index)
            count += len(chunk.pts)
            progress(len(chunk.pts))
        for index, frame in enumerate(opening if loop and opening is not None else (), count):
            meter.update(frame[np.newaxis])
            given.append(index)
        cuts = {given[cut] for cut in (*meter.cuts, *meter.score_cuts)}
    return tuple(sorted(cut for cut in cuts if cut < count + loop))


def interpolate_clip(
    clip: Clip,
    path: str | os.PathLike[str],
    wanted: Retiming,
    between: InBetweens,
    *,
    cuts: Collection[int] = (),
    lossless: bool = False,
    sound: Sound | None = None,
    size: SizePlan | None = None,
    check: Check = unwatched,
    progress: Advance = unwatched,
    collect: Callable[[np.ndarray], None] | None = None,
) -> dict[str, Any]:
    """Interpolates a clip into the video file `path`, which lasts as long, to a frame. `cuts` is from `find_cuts`.

    `size` is that of the frames to write, where `between` makes others than the clip's. `collect` is given every frame,
    uint8 `[1, H, W, 3]`. Returns what was done, by the keys of `tokenreel interpolate --json`.
    """
    started = time.monotonic()
    frames = _stamped(clip, check, progress)
    first = next(frames, None)
    if first is None:
        raise ValueError("The clip has 0 frames in the part that was chosen. Choose a part with at least one frame.")
    plan = _Plan(
        times=wanted.output_times(clip.time_base, clip.frame_rate, first.tick),
        joiner=wanted.joiner(clip.time_base, clip.frame_rate),
        cuts=frozenset(cuts),
        retime=wanted.repeats == "retime",
        threshold=THRESHOLD if between.threshold is None else between.threshold,
    )
    width, height = (size.width, size.height) if size else (clip.width, clip.height)
    writer = VideoWriter(
        path,
        width=width,
        height=height,
        frame_rate=plan.times.frame_rate,
        time_base=plan.times.time_base,
        lossless=lossless,
        audio_source=sound.source if sound else None,
        audio_start=sound.start if sound else 0,
        audio_duration=sound.length if sound else None,
    )
    with torch.inference_mode(), checked(networks_of(between.interpolator), check), writer:
        outputs = _made(plan, _knots(plan, chain([first], frames), clip), between)
        if size:
            outputs = (made._replace(frame=size.finish(made.frame)) for made in outputs)
        count, length = _write(writer, plan, outputs, collect)
    facts = {"frames": count, "width": width, "height": height, "duration": float(length)}
    seconds = {"seconds": round(time.monotonic() - started, 3)}
    return {**facts, **_report(plan, between), **seconds, "notes": writer.warnings}


def restore(
    frames: Iterable[np.ndarray],
    timeline: FrameTimeline,
    interpolator: Interpolator,
    *,
    at_cuts: AtCuts = "hold",
    static_threshold: int | None = THRESHOLD,
    device: torch.device | str = "cpu",
    check: Check = unwatched,
) -> Iterator[np.ndarray]:
    """Every frame of a timeline's source, uint8 `[H, W, 3]`, from the frames that were kept, in order."""
    plan = _Plan(TimelineTimes(timeline, Fraction(0)), Joiner(timeline.time_base, at_cuts, timeline=timeline))
    between = InBetweens(interpolator, static_threshold, check, device)
    with torch.inference_mode():
        knots = _kept_knots(plan, (Knot(frame, 0) for frame in frames))
        yield from (made.frame for made in _made(plan, knots, between))


# -- from frames to knots


def _stamped(clip: Clip, check: Check, progress: Advance) -> Iterator[Knot]:
    for chunk in clip.chunks():
        check()
        for frame, tick in zip(chunk.frames, chunk.pts, strict=True):
            yield Knot(frame, tick)
        progress(len(chunk.pts))


def _knots(plan: _Plan, frames: Iterator[Knot], clip: Clip) -> Iterator[Knot]:
    """The knots of the clip, and the one that closes it."""
    if plan.joiner.timeline:
        yield from _kept_knots(plan, frames)
        return
    found = _with_cuts(plan, frames, clip)
    yield from _without_repeats(plan, found) if plan.retime else found


def _kept_knots(plan: _Plan, frames: Iterator[Knot]) -> Iterator[Knot]:
    """Kept frames at the times that the timeline gives them."""
    timeline = plan.joiner.timeline
    assert timeline is not None
    ticks, first, count = timeline.kept_pts, None, 0
    for knot in frames:
        first = first or knot
        count += 1
        if count > len(ticks):
            break
        yield Knot(knot.frame, ticks[count - 1])
    if count != len(ticks):
        raise ValueError(
            f"The video has {'more than ' if count > len(ticks) else ''}{min(count, len(ticks))} frames, but the "
            f"timeline kept {len(ticks)}. Give the video that was written together with the timeline."
        )
    plan.sources = count
    assert first is not None
    end, shots = timeline.source_pts[-1] + timeline.final_duration, len(timeline.shots) + len(timeline.transitions)
    yield Knot(first.frame, end, begins_shot=shots > 1, closes=True)


def _with_cuts(plan: _Plan, frames: Iterator[Knot], clip: Clip) -> Iterator[Knot]:
    """Knots that know whether they begin a shot, and the one that closes the clip."""
    first = None
    for knot in frames:
        first = first or knot
        knot.begins_shot = plan.sources in plan.cuts
        plan.sources += 1
        yield knot
    assert first is not None
    end = clip.pts[0] + round(clip.duration / clip.time_base)
    yield Knot(first.frame, end, begins_shot=plan.sources in plan.cuts, closes=True)


def _without_repeats(plan: _Plan, knots: Iterator[Knot]) -> Iterator[Knot]:
    """Without frames that show the same as the one before, as far as these are few in a row."""
    run: list[Knot] = []
    still = False
    for knot in knots:
        if knot.closes:
            # without a loop there is nothing that the last ones could move to
            yield from _shortened(plan, run) if plan.joiner.loop else run
            yield knot
            return
        if run and not knot.begins_shot and not changed_tiles(run[0].frame, knot.frame, plan.threshold).any():
            run.append(knot)
            still = still or len(run) > MOST_REPEATS + 1
            if still:
                yield from run[:-1]
                run = run[-1:]
            continue
        yield from _shortened(plan, run)
        run, still = [knot], False


def _shortened(plan: _Plan, run: list[Knot]) -> Iterator[Knot]:
    if run:
        run[0].repeats = tuple(knot.tick for knot in run[1:])
        plan.tally.repeats += len(run) - 1
        yield run[0]


# -- from knots to frames


def _made(plan: _Plan, knots: Iterator[Knot], between: InBetweens) -> Iterator[_Output]:
    """All output frames."""
    first = next(knots, None)
    for second in knots:
        assert first is not None
        plan.end = second.tick
        yield from _span(plan, first, second, between)
        first = second


def _span(plan: _Plan, first: Knot, second: Knot, between: InBetweens) -> Iterator[_Output]:
    """Those from the first knot until the second."""
    join = plan.joiner.join(first, second)
    plan.tally.cuts += join.is_cut
    showings = [
        (each, join.share(each.position)) for each in plan.times.within((first.tick, *first.repeats, second.tick))
    ]
    shares = [float(share) for _, share in showings if share is not None and join.kind == "motion"]
    moving = between.frames(first.frame, second.frame, shares) if shares else iter(())
    for each, share in showings:
        if share is None:
            knot = second if each.position >= join.end else first
            frame = between.shown(knot.frame, knot.begins_shot)
            yield _Output(frame, each.tick, "passed" if each.position == knot.tick else "held")
        elif join.kind == "motion":
            yield _Output(next(moving), each.tick, "interpolated")
        else:
            one, two = (between.shown(knot.frame, knot.begins_shot) for knot in (first, second))
            yield _Output(_mixed(one, two, share), each.tick, "faded")


def _mixed(first: np.ndarray, second: np.ndarray, share: Fraction) -> np.ndarray:
    """A cross-fade: `share` of the second."""
    one, two = torch.from_numpy(first).float(), torch.from_numpy(second).float()
    return torch.lerp(one, two, float(share)).round_().to(torch.uint8).numpy()


# -- the end


def _write(
    writer: VideoWriter,
    plan: _Plan,
    outputs: Iterator[_Output],
    collect: Callable[[np.ndarray], None] | None,
) -> tuple[int, Fraction]:
    """Writes all frames; how many, and how long they last in seconds."""
    ticks: list[int] = []
    for frame, tick, way in _until_end(plan, outputs):
        writer.write(frame[np.newaxis], [tick])
        if collect:
            collect(frame[np.newaxis])
        ticks = [*ticks[:1], tick]
        setattr(plan.tally, way, getattr(plan.tally, way) + 1)
        plan.written += 1
    last = max(1, plan.times.end(plan.end) - ticks[-1])
    writer.close(last)
    return plan.written, (ticks[-1] + last - ticks[0]) * plan.times.time_base


def _until_end(plan: _Plan, outputs: Iterator[_Output]) -> Iterator[_Output]:
    """Without a last frame that begins after the output's end, which is known when all of the source is read."""
    waiting = next(outputs)
    for following in outputs:
        yield waiting
        waiting = following
    if waiting.tick < plan.times.end(plan.end):
        yield waiting


def _report(plan: _Plan, between: InBetweens) -> dict[str, Any]:
    rate = {"frame_rate": float(plan.times.frame_rate), "source_frames": plan.sources}
    return {**rate, **asdict(plan.tally), **between.report()}
