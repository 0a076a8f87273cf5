"""The page that `tokenreel demo` writes: one HTML file with its pictures and plots inside, and what was measured."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from . import __version__
from .host.files import write_whole
from .svg_plots import Line, bar_plot, frame_plot, line_plot
from .video.rate_curves import RatePoint, rate_at

MAX_EMBEDDED = 24 << 20  # bytes of video inside the page; a longer one is linked

_STYLE = """
:root { color-scheme: light dark; --page: #fcfcfa; --ink: #1c1e21; --faint: #62676f; --grid: #e3e4e6; --card: #f1f2f3;
  --s0: #0072b2; --s1: #d55e00; --s2: #8c8c8c; --s3: #882255; --s4: #643cc8; --s5: #c83c3c; }
@media (prefers-color-scheme: dark) { :root { --page: #17191c; --ink: #e6e8eb; --faint: #9aa0a8; --grid: #33373d;
  --card: #212429; --s0: #56b4e9; --s1: #e69f00; --s2: #bbbbbb; --s3: #eedd88; --s4: #a06eff; --s5: #228833; } }
body { margin: 0 auto; padding: 28px 20px 60px; max-width: 900px; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 27px; line-height: 1.25; margin: 0 0 6px; } h2 { font-size: 20px; margin: 40px 0 8px; }
p { margin: 8px 0; } .small, figcaption { color: var(--faint); font-size: 14px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px; margin: 22px 0; }
.card { background: var(--card); border-radius: 8px; padding: 12px 16px; }
.card b { display: block; font-size: 25px; font-weight: 650; } .card span { color: var(--faint); font-size: 14px; }
figure { margin: 14px 0; overflow-x: auto; } svg { min-width: 640px; }
img, video, svg { width: 100%; height: auto; display: block; }
img, video { border-radius: 6px; }
svg text { font: 13px system-ui, sans-serif; } .ink { fill: var(--ink); } .faint { fill: var(--faint); }
.grid { stroke: var(--grid); } .rule { stroke: var(--ink); stroke-dasharray: 6 4; } .cut { stroke: var(--faint);
  stroke-dasharray: 2 3; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
td, th { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--grid); }
td:first-child, th:first-child { text-align: left; } th { font-weight: 600; }
code { font-size: 14px; background: var(--card); padding: 1px 5px; border-radius: 4px; }
"""


@dataclass(frozen=True)
class Curve:
    """Points of one codec, from the lowest rate to the highest."""

    name: str
    points: Sequence[RatePoint]
    ours: bool = False


@dataclass(frozen=True)
class Findings:
    """Everything that the page says."""

    title: str
    note: str
    token_file: str
    tokens_per_frame: list[int]
    key_frames: list[int]
    shots: list[int]
    """First frames after hard cuts."""
    frame_psnr: list[float]
    curves: list[Curve]
    single: dict[str, Any]
    """The report of encoding every frame for itself."""
    facts: dict[str, Any]


def write_report(path: Path, findings: Findings) -> None:
    """Writes the page; `heat_map.png` and `side_by_side.mp4` lie beside it already."""
    title = escape(f"{findings.title} in {findings.facts['tokens']:,} tokens")
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>TokenReel: {title}</title><style>{_STYLE}</style></head><body>
<h1>{title[0].upper() + title[1:]}</h1>
{_introduction(findings)}
{_cards(findings)}
<h2>Source, decoded, and where the tokens went</h2>
{_video(path.parent / "side_by_side.mp4")}
<h2>Tokens follow the change</h2>
{_token_plots(findings)}
<figure><img src="{_embedded(path.parent / "heat_map.png", "image/png")}" alt="Frames with blocks coloured by tokens">
<figcaption>Grey blocks took no token: they are the frame before, moved.</figcaption></figure>
<h2>Rate and quality, beside other codecs</h2>
{_rate_plot(findings)}
<h2>What was measured</h2>
{_table(findings)}
<p class="small">TokenReel {__version__}. PSNR is RGB, the mean of per-frame dB on decoded frames of
{findings.facts["width"]}x{findings.facts["height"]} pixels; SSIM has an 11-pixel Gaussian window. One clip says little
about others: <code>tokenreel bench tokens --clips DIR</code> measures a folder of them.</p>
</body></html>
"""
    write_whole(path, page.encode())


def _introduction(findings: Findings) -> str:
    facts, single = findings.facts, findings.single
    saved, asked = facts["saved"], 1 - facts["tokens_equal_quality"] / single["tokens"]
    return f"""<p>{escape(findings.note)} {facts["frames"]} frames of {facts["width"]}x{facts["height"]} pixels,
{facts["duration"]:.1f} s.</p>
<p>A key frame is coded in full: one token for every 8x8 pixels. A frame after it says only what moved and what
is new. Compared with a full set of tokens for every frame, the stream takes {_saving(saved)} at
{_compared(facts["psnr"], single["psnr"])} ({facts["psnr"]:.2f} against {single["psnr"]:.2f} dB). That is
as good as each key frame; asked for {single["psnr"]:.2f} dB in every frame instead, it takes {_saving(asked)} at
{_compared(facts["psnr_equal_quality"], single["psnr"])}.</p>"""


def _saving(saved: float) -> str:
    return f"{saved:.0%} fewer tokens" if saved >= 0 else f"{-saved:.0%} more tokens"


def _compared(decibels: float, reference: float) -> str:
    difference = decibels - reference
    if abs(difference) < 0.05:
        return "the same quality"
    return f"{abs(difference):.1f} dB {'more' if difference > 0 else 'less'}"


def _cards(findings: Findings) -> str:
    facts = findings.facts
    cards = (
        (f"{facts['tokens']:,}", f"tokens; {facts['tokens_every_frame']:,} with every frame for itself"),
        (f"{facts['tokens_per_second']:,.0f}", "tokens a second"),
        (f"{facts['psnr']:.2f} dB", f"PSNR; SSIM {facts['ssim']:.3f}"),
        (
            _size(facts["file_bytes"]),
            f"{escape(findings.token_file)}; raw frames are {_size(facts['source_bytes_raw'])}",
        ),
    )
    return (
        '<div class="cards">'
        + "".join(f'<div class="card"><b>{a}</b><span>{b}</span></div>' for a, b in cards)
        + "</div>"
    )


def _video(path: Path) -> str:
    source = _embedded(path, "video/mp4") if os.path.getsize(path) <= MAX_EMBEDDED else path.name
    return f"""<figure><video controls autoplay loop muted playsinline src="{source}"></video>
<figcaption>Colours show tokens per block of 16x16 pixels: a key frame has 4 in each, a block that only moved has 1, one
that also changed has 2 to 5, one that is coded anew has 5.</figcaption></figure>"""


def _token_plots(findings: Findings) -> str:
    level = findings.single["tokens"] / findings.single["frames"]
    bars = bar_plot(
        findings.tokens_per_frame,
        marked=findings.key_frames,
        cuts=findings.shots,
        level=level,
        x_label="frame",
        title="Tokens per frame",
    )
    lines = frame_plot(findings.frame_psnr, x_label="frame", y_label="PSNR, dB", title="PSNR per frame")
    cuts = (
        f"Hard cuts found in the source at frames {', '.join(map(str, findings.shots))}."
        if findings.shots
        else "No hard cut was found in the source."
    )
    keys = ", ".join(map(str, findings.key_frames))
    return f"""<figure>{bars}<figcaption>Tokens of every frame. Orange: key frames ({keys}); blue: predicted
frames. {cuts}</figcaption></figure>
<figure>{lines}<figcaption>Quality of every decoded frame.</figcaption></figure>"""


def _rate_plot(findings: Findings) -> str:
    lines = [
        Line(curve.name, [(point.bits_per_pixel, point.psnr) for point in curve.points], style, curve.ours)
        for style, curve in enumerate(findings.curves)
    ]
    plot = line_plot(
        lines, x_label="bits per pixel (logarithmic)", y_label="PSNR, dB", log_x=True, title="Rate and quality"
    )
    return f"""<figure>{plot}<figcaption>Up and left is better. All on the same frames. Our bits are raw, 16 for every
token, before the entropy coding that our files and the others have. Theirs count packets without the container; x264
runs with <code>tune=psnr</code>, in 4:2:0 like MJPEG. {_verdict(findings)}</figcaption></figure>"""


def _verdict(findings: Findings) -> str:
    """What each of the others takes for the quality of our stream."""
    facts, said = findings.facts, []
    for curve in findings.curves:
        rate = None if curve.ours else rate_at(curve.points, facts["psnr"])
        if rate is not None:
            said.append(f"{facts['bits_per_pixel'] / rate:.2g} times {escape(curve.name)}")
    start = f"At {facts['psnr']:.1f} dB our stream takes {facts['bits_per_pixel']:.3f} bits per pixel"
    return f"{start}: {', '.join(said)}." if said else f"{start}."


def _table(findings: Findings) -> str:
    facts, single = findings.facts, findings.single
    rows = [
        ("tokens", f"{facts['tokens']:,}", f"{single['tokens']:,}"),
        ("tokens a second", f"{facts['tokens_per_second']:,.0f}", f"{single['tokens_per_second']:,.0f}"),
        ("bits", f"{facts['bits']:,}", f"{single['bits']:,}"),
        ("bits per pixel", f"{facts['bits_per_pixel']:.4f}", f"{single['bits_per_pixel']:.4f}"),
        ("PSNR", f"{facts['psnr']:.2f} dB", f"{single['psnr']:.2f} dB"),
        ("SSIM", f"{facts['ssim']:.4f}", f"{single['ssim']:.4f}"),
        ("encoding, PSNR and SSIM included", f"{facts['encode_seconds']:.1f} s", f"{single['seconds']:.1f} s"),
        ("decoding", f"{facts['decode_seconds']:.1f} s", ""),
        ("token file", f"{facts['file_bytes']:,} bytes", ""),
        (
            "tokens by kind",
            ", ".join(f"{k.replace('_', ' ')} {v:,}" for k, v in facts["tokens_by_kind"].items() if v),
            "",
        ),
        (
            "peak memory of the whole demo",
            _size(facts["peak_rss_bytes"]) if facts["peak_rss_bytes"] else "not known",
            "",
        ),
        ("the whole demo", f"{facts['seconds']:.0f} s", ""),
    ]
    body = "".join(f"<tr><td>{a}</td><td>{b}</td><td>{c}</td></tr>" for a, b, c in rows)
    head = "<tr><th></th><th>stream</th><th>every frame for itself</th></tr>"
    return f'<div class="scroll"><table>{head}{body}</table></div>'


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"


def _embedded(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
