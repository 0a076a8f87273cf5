"""The README's tables, made from the results and from nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..host.files import write_whole
from .generation_tables import generation_table
from .interpolation_tables import interpolation_table
from .markdown import origin, table
from .patching_tables import patching_table
from .quantization_tables import quantization_table
from .results import RESULTS, read_result
from .sampling_table import sampling_table
from .shot_tables import shots_table
from .upscaling_tables import upscaling_table

_NAMES = {"stream": "stream", "every_frame": "every frame for itself", "groups": "four frames at a time"}


def tokens_table(result: dict[str, Any]) -> str:
    """What ours take and give, how that lies beside other codecs, then each clip."""
    parts = [_spent(result), _settings(result), _beside(result), _explained(result), _each_clip(result)]
    return "\n\n".join([*parts, origin(result)])


def _spent(result: dict[str, Any]) -> str:
    s, single = result["summary"], result["summary"]["every_frame"]["bits_per_pixel"]["median"]
    rows = [
        [
            f"**{_NAMES[name]}**",
            _both(s[name]["psnr"]),
            _both(s[name]["ssim"], 3),
            _share(s["ratio"]) if name == "stream" else _percent(s[name]["bits_per_pixel"]["median"] / single),
            _both(s[name]["bits_per_pixel"], 4),
            _both(s[name]["file_bits_per_pixel"], 4),
            f"{s[name]['seconds_per_frame']['median']:.2f}",
        ]
        for name in _NAMES
        if name in s
    ]
    rows.append(["copying the last frame", _both(s["copy_last_frame_psnr"]), "", "0", "0", "0", ""])
    head = ["", "PSNR, dB", "SSIM", "tokens", "bits per pixel, raw", "in the file", "s a frame"]
    return table(head, rows)


def _settings(result: dict[str, Any]) -> str:
    s, settings = result["summary"], result["settings"]
    sizes = {Path(name).stem: size for name, size in result["weights_bytes"].items()}
    used = {name: sizes[name] for name in result["weights"] if name in sizes}
    return (
        f"{s['clips']} clips that were not trained on, the first {settings['frames']} frames at most, centre "
        f"{settings['size']}x{settings['size']} pixels; median / mean over clips; RGB PSNR. The stream is asked for "
        f"the quality of every frame for itself, and ends {s['psnr_difference']['median']:+.2f} dB from it (median; "
        f"{s['psnr_difference']['min']:+.2f} to {s['psnr_difference']['max']:+.2f}). {_rounds(result)} Its tokens, of "
        f"those of every frame for itself: median {_percent(s['ratio']['median'])}, best "
        f"{_percent(s['ratio']['min'])}, worst {_percent(s['ratio']['max'])}{_static(result)}. {_codebooks(result)} "
        f"Seconds are those of encoding, "
        f"PSNR and SSIM on one thread, with {settings['workers']} clips at a time. The weights of "
        f"{', '.join(used)} are {_mega(sum(used.values()))} MB."
    )


def _beside(result: dict[str, Any]) -> str:
    """How the stream's files and the fixed rates compare with each codec."""
    s = result["summary"]
    asked = [key for key in s["at_quality"] if key.endswith(" dB")]
    rows = [
        [
            codec,
            *(_both(each[codec]) for each in s["psnr_at_rate"].values()),
            *(_times(s["at_quality"][key][codec]) for key in asked),
            _signed(percents),
        ]
        for codec, percents in s["bd_rate"].items()
    ]
    rates = [f"dB at the rate of {_NAMES[name]}" for name in s["psnr_at_rate"]]
    return table(["", *rates, *(f"stream's bits at {key}" for key in asked), "BD-rate of the stream"], rows)


def _explained(result: dict[str, Any]) -> str:
    s = result["summary"]
    at_30 = "; ".join(
        f"{codec} {each['stream']:.4f} against {each['codec']:.4f}"
        for codec, each in ((codec, s["at_quality"]["30 dB"][codec]) for codec in s["bd_rate"])
        if each["clips"]
    )
    return (
        "The stream's bits are those of its whole files, the others' those of their packets alone: times the bits of "
        "the codec, geometric mean over the clips on which both reach that quality, and in brackets how many those "
        f"are{f' (bits per pixel at 30 dB: {at_30})' if at_30 else ''}. BD-rate is Bjontegaard's mean difference over "
        "the decibels that both curves reach, median / mean over clips. The rates at which decibels are compared are "
        "those of raw tokens."
    )


def _each_clip(result: dict[str, Any]) -> str:
    fixed = [name for name in ("every_frame", "groups") if name in result["clips"][0]]
    codecs = list(result["summary"]["bd_rate"])
    rows = [
        [
            f"{clip['clip']}{' (static camera)' if clip['static_camera'] else ''}",
            *(f"{clip[name]['psnr']:.2f}" for name in (*fixed, "stream")),
            f"{clip['stream']['ssim']:.3f}",
            f"{clip['stream']['tokens']:,}",
            _percent(clip["ratio"]),
            f"{clip['stream']['file_bytes']:,}",
            *("" if clip["bd_rate"][codec] is None else f"{round(clip['bd_rate'][codec]):+d} %" for codec in codecs),
        ]
        for clip in result["clips"]
    ]
    decibels = [f"{_NAMES[name]}: dB" for name in (*fixed, "stream")]
    head = ["clip", *decibels, "SSIM", "tokens", "of every frame's", "file bytes", *(f"BD {name}" for name in codecs)]
    return f"<details><summary>Each clip</summary>\n\n{table(head, rows)}\n\n</details>"


def _static(result: dict[str, Any]) -> str:
    s, share = result["summary"], result["settings"]["static_share"]
    if not s["static_camera_clips"]:
        return ""
    return (
        f"; median {_percent(s['ratio_static_camera']['median'])} on the {s['static_camera_clips']} clips of a static "
        f"camera (no cut, and no motion of the whole picture in {100 * share:.0f} % of the predicted frames)"
    )


def _codebooks(result: dict[str, Any]) -> str:
    return " ".join(
        f"Of {book['codes']:,} codes of {name} {_percent(book['usage'])} are used, perplexity "
        f"{book['perplexity']:,.0f}."
        for name, book in result["codebooks"].items()
    )


def speed_table(result: dict[str, Any]) -> str:
    """Frames a second of each network, and of the whole way."""
    rows = [
        [
            f"{each['name']}{', network alone' if group == 'networks' else ', from frames to tokens and back'}",
            f"{each['parameters'] / 1e6:.1f}",
            f"{each['psnr']:.2f}",
            *(f"{each[key]:.1f}" for key in ("encode_fps", "decode_fps", "both_fps")),
        ]
        for group in ("networks", "clips")
        for each in result[group]
    ]
    head = ["", "weights, millions", "PSNR, dB", "encoding", "decoding", "both, frames a second"]
    rounds = " and ".join(str(result[group][0]["rounds"]) for group in ("networks", "clips"))
    text = (
        f"{result['frames']} frames of {result['size']}x{result['size']} pixels, {result['threads']} threads, 32-bit "
        f"floats; all in one process and in turn, median of {rounds} rounds. Names without TokenReel are tiny "
        "autoencoders of image models: their latents are continuous, so their PSNR is not at the rate of tokens."
    )
    return "\n\n".join([table(head, rows), text, origin(result)])


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
    return f"{table(head, rows)}\n\n{where}\n\n{origin(result)}"


def video_table(result: dict[str, Any]) -> str:
    """Peak memory of the long clip."""
    rows = [
        ["after importing", _mega(result["peak_rss_bytes_imported"]), ""],
        ["written", _mega(result["peak_rss_bytes_written"]), f"{result['frames_per_second_write']:.0f}"],
        ["and read back", _mega(result["peak_rss_bytes"]), f"{result['frames_per_second_read']:.0f}"],
    ]
    size = f"{result['frames']:,} frames of {result['width']}x{result['height']}"
    return f"{table([size, 'peak memory, MB', 'frames a second'], rows)}\n\n{origin(result)}"


def start_table(result: dict[str, Any]) -> str:
    """Seconds to import."""
    rows = [
        ["torch, PyAV and others that ComfyUI loads anyway", f"{result['before']:.2f} s"],
        ["all nodes, after that", f"{result['nodes']:.2f} s"],
    ]
    head = ["importing", f"median of {result['rounds']}"]
    return f"{table(head, rows)}\n\n{origin(result)}"


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "tokens": tokens_table,
    "speed": speed_table,
    "memory": memory_table,
    "video": video_table,
    "start": start_table,
    "shots": shots_table,
    "sampling": sampling_table,
    "interpolation": interpolation_table,
    "upscaling": upscaling_table,
    "generator": generation_table,
    "patching": patching_table,
    "quantization": quantization_table,
}


def readme_with_tables(text: str, folder: Path = RESULTS) -> str:
    """The README's text with its tables made anew, between `<!-- NAME: begin -->` and `<!-- NAME: end -->`."""
    for name, make in TABLES.items():
        pattern = rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)"
        if not re.search(pattern, text, flags=re.DOTALL):
            raise ValueError(f"The README has no lines '<!-- {name}: begin -->' and '<!-- {name}: end -->'. Add them.")
        result = read_result(name, folder)
        content = make(result) if result else "Not measured yet."
        text = re.sub(pattern, lambda m, content=content: f"{m[1]}{content}\n{m[2]}", text, flags=re.DOTALL)
    return text


def write_readme(path: Path) -> None:
    """Brings the tables of the README up to date."""
    write_whole(path, readme_with_tables(path.read_text(encoding="utf-8")).encode())


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


def _times(numbers: dict[str, Any]) -> str:
    return "not reached" if numbers["ratio"] is None else f"{numbers['ratio']:.2f}x ({numbers['clips']})"


def _signed(numbers: dict[str, Any]) -> str:
    if numbers["median"] is None:
        return "no overlap"
    return f"{round(numbers['median']):+d} % / {round(numbers['mean']):+d} % ({numbers['clips']})"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _mega(count: int) -> str:
    return f"{count / 1e6:,.0f}"
