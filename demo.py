"""`tokenreel demo`: a clip through the whole pack, and everything measured on the way as pictures, a page and a table.

The clip is the procedural reel, or one of the user's, shortened and scaled down. It is encoded as a stream and frame by
frame, decoded, and held against other codecs at several rates.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .demo_report import Curve, Findings, write_report
from .host import resources
from .models.checkpoint import VideoTokenizer, load_tokenizer
from .models.rate_control import HIGHEST_QUALITY, LOWEST_QUALITY
from .models.shots import MotionMeter
from .models.stream_codec import decode_stream
from .stations import Encoded, encode_clip
from .tokens.accounting import KINDS, block_costs, count, count_by_time
from .tokens.bitstream import write_tokens
from .tokens.video_tokens import BLOCK, IFrame, VideoTokens
from .video.canvas import stacked
from .video.clips import VideoClip
from .video.drawing import captioned, heat_key, heat_overlay, heat_sheet, scaled, tiled
from .video.metrics import QualityMeter
from .video.rate_curves import RatePoint
from .video.reel import render
from .video.reference_codecs import REFERENCE_CODECS, rate_curve
from .video.writer import VideoWriter

SIDE = 256  # pixels, short side of what is encoded
MAX_FRAMES = 96  # of a clip, however fast it runs: keeps the demo short on two CPU cores
SECONDS_PER_SCENE = 1.0  # of the reel
STEPS = (-4.0, -2.0, 0.0)  # dB from the quality of every frame for itself: the other points of our curve
_SHEET = 860  # pixels that the heat map is wide: as wide as the page
PANELS = 8  # pictures on the heat map
POSTER = (3, 5)  # eighths of the clip: the frames on the picture

Tell = Callable[[str], None]


@dataclass(frozen=True)
class _Source:
    """The clip that everything is measured on."""

    name: str
    title: str
    path: str
    note: str
    options: dict[str, Any]

    def open(self) -> VideoClip:
        return VideoClip(self.path, **self.options)


def run_demo(
    output: str | os.PathLike[str], video: str | None = None, *, seconds: float = 4.0, tell: Tell = lambda line: None
) -> dict[str, Any]:
    """Runs the demo and puts its files into the folder `output`, which is made if it is not there.

    video: a clip, of which at most `seconds` are used; None draws the reel. `tell` hears what is being done. Nothing is
    put into the folder before everything is finished. Returns the facts that `tokenreel demo --json` prints.
    """
    started = time.monotonic()
    folder = Path(output).absolute()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"Cannot write to {str(folder)!r}: it is a file. Give a folder.")
    work = Path(tempfile.mkdtemp(prefix=".tokenreel-demo-", dir=folder.parent))
    try:
        source = _reel(work, tell) if video is None else _shortened(video, seconds, tell)
        findings = _Demo(source, work, tell).run()
        findings.facts["seconds"] = round(time.monotonic() - started, 1)
        findings.facts["peak_rss_bytes"] = resources.peak_memory()
        write_report(work / "report.html", findings)
        folder.mkdir(exist_ok=True)
        names = sorted(path.name for path in work.iterdir())
        for name in names:
            os.replace(work / name, folder / name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {**findings.facts, "files": [str(folder / name) for name in names]}


def _reel(work: Path, tell: Tell) -> _Source:
    reel = render(SIDE, SIDE, 24, SECONDS_PER_SCENE)
    tell(f"Drawing the reel: {reel.frame_count} frames of {reel.width}x{reel.height}.")
    path = work / "reel.mp4"
    writer = VideoWriter(path, width=reel.width, height=reel.height, frame_rate=reel.frame_rate, crf=10)
    with writer, resources.progress(reel.frame_count, "draw") as bar:
        for frames in reel.chunks(8):
            writer.write(frames)
            bar.update(len(frames))
    note = (
        f"The reel is drawn by numbers, no camera was involved: {len(reel.scenes)} scenes "
        "(a camera pan, a talking head, sport, a lake at dusk with film grain), two cuts and a dissolve."
    )
    return _Source("reel", "the procedural reel", str(path), note, {})


def _shortened(video: str, seconds: float, tell: Tell) -> _Source:
    path = os.path.abspath(video)
    with VideoClip(path) as clip:
        width, height, rate = clip.width, clip.height, clip.frame_rate
    frames = max(1, min(MAX_FRAMES, round(seconds * rate)))
    options: dict[str, Any] = {"max_frames": frames}
    if min(width, height) > SIDE:
        options["size"] = SIDE
    note = (
        f"At most the first {frames} frames ({float(frames / rate):.1f} s at {float(rate):.4g} a second) are used"
        + (f", scaled from {width}x{height} to a short side of {SIDE} pixels." if "size" in options else ".")
    )
    tell(f"{os.path.basename(video)}: {note}")
    return _Source(Path(video).stem, os.path.basename(video), path, note, options)


class _Demo:
    """The steps, in order; each says what it does and leaves its files in the work folder."""

    def __init__(self, source: _Source, work: Path, tell: Tell):
        self.source, self.work, self.tell = source, work, tell
        self.tokenizer: VideoTokenizer = load_tokenizer().to(resources.device())

    def run(self) -> Findings:
        """Everything but the page."""
        self.tell("Encoding every frame for itself, then as a stream.")
        single = self._encode("every frame", mode="frames")
        stream = self._encode("stream")
        tokens_path = self.work / f"{self.source.name}.tokens"
        file_bytes = write_tokens(tokens_path, stream.tokens, check=resources.check_cancelled)
        self.tell("Decoding, and drawing where the tokens went.")
        decoded, decode_seconds = self._decode(stream)
        self.tell("Measuring other rates and other codecs on the same frames.")
        others = [self._at(single.report["psnr"] + step) for step in STEPS]
        curves = [_stream_curve(stream, others), self._single_point(single), *self._reference_curves()]
        return Findings(
            title=self.source.title,
            note=self.source.note,
            token_file=tokens_path.name,
            tokens_per_frame=count(stream.tokens).per_frame,
            key_frames=[i for i, frame in enumerate(stream.tokens.frames) if isinstance(frame, IFrame)],
            shots=self._shots(),
            frame_psnr=stream.psnr.tolist(),
            curves=curves,
            single=single.report,
            facts={
                **stream.report,
                "tokens_equal_quality": others[-1]["tokens"],
                "psnr_equal_quality": others[-1]["psnr"],
                "file_bytes": file_bytes,
                "tokens_every_frame": single.report["tokens"],
                "psnr_every_frame": single.report["psnr"],
                "ssim_every_frame": single.report["ssim"],
                "saved": 1 - stream.report["tokens"] / single.report["tokens"],
                "psnr_decoded": decoded["psnr"],
                "encode_seconds": stream.report["seconds"],
                "decode_seconds": decode_seconds,
                "source_bytes_raw": len(stream.tokens.frames) * stream.tokens.width * stream.tokens.height * 3,
            },
        )

    def _encode(self, label: str, **options: Any) -> Encoded:
        with self.source.open() as clip, resources.progress(clip.length, label) as bar:
            return encode_clip(clip, self.tokenizer, check=resources.check_cancelled, progress=bar.update, **options)

    def _frames(self) -> Iterator[np.ndarray]:
        with self.source.open() as clip:
            for chunk in clip.chunks():
                yield from chunk.frames

    def _decode(self, stream: Encoded) -> tuple[dict[str, Any], float]:
        """Writes the video of source, decoded frame and heat map, and the sheet; (quality, seconds of decoding)."""
        tokens, meter, seconds = stream.tokens, QualityMeter(), 0.0
        costs = count(tokens).per_frame
        shown = {len(costs) * eighth // 8 for eighth in POSTER}
        wanted = set(np.linspace(0, len(costs) - 1, min(PANELS, len(costs))).round().astype(int).tolist())
        panels, captions, rows, writer = [], [], [], None
        with torch.inference_mode(), resources.progress(len(costs), "decode") as bar:
            decoder = decode_stream(tokens, self.tokenizer)
            try:
                for i, original in enumerate(self._frames()):
                    begin = time.monotonic()
                    decoded = next(decoder)
                    seconds += time.monotonic() - begin
                    meter.update(original[np.newaxis], decoded[np.newaxis])
                    heat = heat_overlay(decoded, block_costs(tokens.frames[i]), block=BLOCK)
                    picture = _even(self._panels(original, decoded, heat, costs[i], stream.psnr[i]))
                    writer = writer or self._writer(picture, tokens.frame_rate, tokens.time_base)
                    writer.write(picture[np.newaxis], [tokens.pts[i]])
                    rows += [picture] if i in shown else []
                    if i in wanted:
                        panels.append(heat)
                        kind = "key" if isinstance(tokens.frames[i], IFrame) else "P"
                        captions.append(f"{i} {kind}: {_counted(costs[i])}")
                    bar.update()
                assert writer is not None  # a token file has at least one frame
                writer.close()
            finally:
                if writer:
                    writer.abort()
        title = f"Where the {sum(costs):,} tokens of {self.source.title} went"
        sheet = heat_sheet(panels, captions, title=title, series=_by_kind(tokens), columns=4, width=_SHEET)
        Image.fromarray(sheet).save(self.work / "heat_map.png")
        Image.fromarray(np.concatenate(rows)).save(self.work / "picture.jpg", quality=82)
        return meter.result(), round(seconds, 3)

    def _writer(self, picture: np.ndarray, frame_rate: Fraction, time_base: Fraction) -> VideoWriter:
        height, width = picture.shape[:2]
        path = self.work / "side_by_side.mp4"
        return VideoWriter(path, width=width, height=height, frame_rate=frame_rate, time_base=time_base, crf=16)

    def _panels(
        self, original: np.ndarray, decoded: np.ndarray, heat: np.ndarray, tokens: int, psnr: float
    ) -> np.ndarray:
        names = ("source", f"decoded, {psnr:.1f} dB", _counted(tokens))
        width = max(SIDE, original.shape[1])
        pictures = [scaled(each, width) for each in (original, decoded, heat)]
        row = tiled([captioned(each, name) for each, name in zip(pictures, names, strict=True)], 3)
        return stacked([row, heat_key(row.shape[1], scale=1)], scale=1)

    def _shots(self) -> list[int]:
        meter = MotionMeter()
        for frame in self._frames():
            meter.update(frame[np.newaxis])
        return [int(cut) for cut in meter.cuts]

    def _at(self, quality: float) -> dict[str, Any]:
        """The report of a stream of about that quality."""
        quality = round(min(max(quality, LOWEST_QUALITY), HIGHEST_QUALITY), 2)
        return self._encode(f"stream at {quality:.2f} dB", quality=quality, with_ssim=False).report

    def _single_point(self, single: Encoded) -> Curve:
        point = RatePoint(0, single.report["bits_per_pixel"], single.report["psnr"])
        return Curve("TokenReel, every frame", [point], ours=True)

    def _reference_curves(self) -> Iterator[Curve]:
        frames, rate = np.stack(list(self._frames())), self.source.open()
        rate.reader.close()
        with resources.progress(len(REFERENCE_CODECS), "other codecs") as bar:
            for codec in REFERENCE_CODECS.values():
                yield Curve(codec.name, rate_curve(codec, frames, rate.frame_rate))
                bar.update()


def _stream_curve(stream: Encoded, others: list[dict[str, Any]]) -> Curve:
    points = [RatePoint(0, each["bits_per_pixel"], each["psnr"]) for each in (stream.report, *others)]
    return Curve("TokenReel stream", sorted(points, key=lambda point: point.bits_per_pixel), ours=True)


def _counted(tokens: int) -> str:
    return f"{tokens:,} token{'' if tokens == 1 else 's'}"


def _by_kind(tokens: VideoTokens) -> dict[str, list[float]]:
    kinds = count_by_time(tokens)
    return {kind.replace("_", " "): [float(each[kind]) for each in kinds] for kind in KINDS}


def _even(picture: np.ndarray) -> np.ndarray:
    """Padded to even sides, which play everywhere."""
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
