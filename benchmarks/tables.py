"""The README's tables, made from the results and from nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..host.files import write_whole
from .results import RESULTS, read_result


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first column to the left, the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tokens_table(result: dict[str, Any]) -> str:
    """Our rows and the baselines over all clips, then each clip."""
    s, settings = result["summary"], result["settings"]
    rate = s["every_frame_bits_per_pixel"]["median"]
    rows = [
        [
            "**stream, quality as below**",
            _both(s["stream_psnr"]),
            _both(s["stream_bits_per_pixel"], 4),
            _share(s["ratio"]),
        ],
        [
            "**every frame for itself**",
            _both(s["every_frame_psnr"]),
            _both(s["every_frame_bits_per_pixel"], 4),
            "100 %",
        ],
        *([f"{name} at that rate", _both(s[f"psnr_at_rate {name}"]), f"{rate:.4f}", ""] for name in _codecs(s)),
        *(
            [
                f"{name} at the stream's quality",
                _both(s["stream_psnr"]),
                _both(s[f"bits_per_pixel_at_quality {name}"], 4),
                "",
            ]
            for name in _codecs(s)
        ),
        ["copying the last frame", _both(s["copy_last_frame_psnr"]), "0", ""],
    ]
    c = result["codebook"]
    text = (
        f"{s['clips']} clips that were not trained on, the first {settings['frames']} frames at most, centre "
        f"{settings['size']}x{settings['size']} pixels; median / mean over clips; RGB PSNR. The stream is asked for "
        f"the quality of every frame for itself, and ends {s['psnr_difference']['median']:+.2f} dB from it (median; "
        f"{s['psnr_difference']['min']:+.2f} to {s['psnr_difference']['max']:+.2f}). {_rounds(result)} "
        "Tokens are counted raw, without entropy coding; packets of the others are entropy coded. A number in "
        "brackets says on how many clips a codec reaches that point at all.\n\n"
        f"Tokens of the stream against every frame for itself, per clip: median {_percent(s['ratio']['median'])}, "
        f"best {_percent(s['ratio']['min'])}, worst {_percent(s['ratio']['max'])}. Of {c['codes']:,} codes "
        f"{_percent(c['usage'])} are used, perplexity {c['perplexity']:,.0f}. "
        f"{s['stream_seconds_per_frame']['median']:.2f} s a frame for the stream, "
        f"{s['every_frame_seconds_per_frame']['median']:.2f} s for every frame for itself, on one thread with "
        f"{settings['workers']} clips at a time (encoding, PSNR and SSIM)."
    )
    clips = [
        [
            clip["clip"],
            f"{clip['every_frame']['psnr']:.2f}",
            f"{clip['every_frame']['ssim']:.3f}",
            f"{clip['stream']['psnr']:.2f}",
            f"{clip['stream']['ssim']:.3f}",
            f"{clip['stream']['tokens']:,}",
            _percent(clip["ratio"]),
            f"{clip['stream']['file_bytes']:,}",
        ]
        for clip in result["clips"]
    ]
    head = ["clip", "every frame: dB", "SSIM", "stream: dB", "SSIM", "tokens", "of every frame's", "file bytes"]
    each = f"<details><summary>Each clip</summary>\n\n{table(head, clips)}\n\n</details>"
    return "\n\n".join([table(["", "PSNR, dB", "bits per pixel", "tokens"], rows), text, each, _origin(result)])


def memory_table(result: dict[str, Any]) -> str:
    """Peak memory of coding, by size."""
    rows = [
        [
            f"{row['width']}x{row['height']}",
            _mega(row["peak_rss_bytes_loaded"]),
            _mega(row["peak_rss_bytes_encoded"]),
            f"{row['encode_seconds_per_frame']:.2f}",
            f"{row['decode_seconds_per_frame']:.2f}",
        ]
        for row in result["sizes"]
    ]
    head = ["frame size", "weights loaded, MB", "peak, MB", "encoding, s a frame", "decoding, s a frame"]
    first = result["sizes"][0]
    threads = f"{first['threads']} thread{'' if first['threads'] == 1 else 's'}"
    where = f"On {first['device'].upper()}, {threads}. The length of the clip does not matter."
    return f"{table(head, rows)}\n\n{where}\n\n{_origin(result)}"


def video_table(result: dict[str, Any]) -> str:
    """Peak memory of the long clip."""
    rows = [
        ["after importing", _mega(result["peak_rss_bytes_imported"]), ""],
        ["written", _mega(result["peak_rss_bytes_written"]), f"{result['frames_per_second_write']:.0f}"],
        ["and read back", _mega(result["peak_rss_bytes"]), f"{result['frames_per_second_read']:.0f}"],
    ]
    size = f"{result['frames']:,} frames of {result['width']}x{result['height']}"
    return f"{table([size, 'peak memory, MB', 'frames a second'], rows)}\n\n{_origin(result)}"


def start_table(result: dict[str, Any]) -> str:
    """Seconds to import."""
    rows = [
        ["torch, PyAV and others that ComfyUI loads anyway", f"{result['before']:.2f} s"],
        ["all nodes, after that", f"{result['nodes']:.2f} s"],
    ]
    head = ["importing", f"median of {result['rounds']}"]
    return f"{table(head, rows)}\n\n{_origin(result)}"


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "tokens": tokens_table,
    "memory": memory_table,
    "video": video_table,
    "start": start_table,
}


def readme_with_tables(text: str, folder: Path = RESULTS) -> str:
    """The README's text with its tables made anew, between `<!-- NAME: begin -->` and `<!-- NAME: end -->`."""
    for name, make in TABLES.items():
        result = read_result(name, folder)
        content = make(result) if result else "Not measured yet."
        pattern = rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)"
        if not re.search(pattern, text, flags=re.DOTALL):
            raise ValueError(f"The README has no lines '<!-- {name}: begin -->' and '<!-- {name}: end -->'. Add them.")
        text = re.sub(pattern, lambda m, content=content: f"{m[1]}{content}\n{m[2]}", text, flags=re.DOTALL)
    return text


def write_readme(path: Path) -> None:
    """Brings the tables of the README up to date."""
    write_whole(path, readme_with_tables(path.read_text(encoding="utf-8")).encode())


def _codecs(summary: dict[str, Any]) -> list[str]:
    return [key.removeprefix("psnr_at_rate ") for key in summary if key.startswith("psnr_at_rate ")]


def _rounds(result: dict[str, Any]) -> str:
    """How often the encoder was asked, and what the clips were used for besides."""
    once = sum(clip["stream"]["rounds"] == 1 for clip in result["clips"])
    return (
        f"To get there it was encoded once on {once} clips and again, asked for more, on the other "
        f"{len(result['clips']) - once}. The encoder's settings were chosen while looking at some of these clips; no "
        "weights were."
    )


def _both(numbers: dict[str, Any], digits: int = 2) -> str:
    if numbers["median"] is None:
        return "not reached"
    return f"{numbers['median']:.{digits}f} / {numbers['mean']:.{digits}f} ({numbers['clips']})"


def _share(numbers: dict[str, Any]) -> str:
    return f"{_percent(numbers['median'])} / {_percent(numbers['mean'])}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _mega(count: int) -> str:
    return f"{count / 1e6:,.0f}"


def _origin(result: dict[str, Any]) -> str:
    machine, weights = result["machine"], ", ".join(f"{k} {v[:8]}" for k, v in result["weights"].items())
    return (
        f"<sub>Measured {result['date']} with version {result['version']}, weights {weights}, torch {result['torch']}, "
        f"{result['libraries']}, on {machine['cores']} cores ({machine['cpu']}).</sub>"
    )
