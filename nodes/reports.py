"""What nodes say about their work, as short plain text."""

from typing import Any

_KINDS = {
    "key": "key frames",
    "header": "frame headers",
    "skip_run": "runs of skipped blocks",
    "motion": "motion",
    "residual": "residual",
    "intra": "intra blocks",
    "clip": "groups of frames",
}


def describe_tokens(facts: dict[str, Any]) -> str:
    """Lines on a clip of tokens from what `tokens.accounting.report` gives."""
    lines = [
        f"{facts['frames']} frames, {facts['width']} x {facts['height']}, {facts['frame_rate']:.3f} fps, "
        f"{facts['duration']:.2f} s",
        f"{facts['tokens']:,} tokens, {facts['tokens_per_second']:,.0f} a second",
        f"{facts['bits']:,} bits, {facts['bits_per_pixel']:.4f} bits a pixel",
    ]
    for kind, count in facts["tokens_by_kind"].items():
        if count:
            lines.append(f"  {_KINDS[kind]}: {count:,} ({count / facts['tokens']:.1%})")
    if "file_bytes" in facts:
        lines.append(f"{facts['file_bytes']:,} bytes on disk")
    return "\n".join(lines)


def describe_encoding(facts: dict[str, Any]) -> str:
    """`describe_tokens`, and how good the decoded frames are against those that were encoded."""
    quality = f"{facts['psnr']:.2f} dB PSNR, {facts['ssim']:.4f} SSIM of the decoded frames against what was encoded"
    return f"{describe_tokens(facts)}\n{quality}\nencoded in {facts['seconds']:.1f} s"


def describe_quality(facts: dict[str, Any]) -> str:
    """Lines on a comparison from what `stations.measure_files` gives."""
    lines = [
        f"{facts['frames']} frames compared at {facts['width']} x {facts['height']}",
        f"PSNR {facts['psnr']:.2f} dB mean, {facts['psnr_median']:.2f} median, {facts['psnr_min']:.2f} worst frame",
        f"SSIM {facts['ssim']:.4f} mean, {facts['ssim_min']:.4f} worst frame",
    ]
    if facts["reference_scaled"]:
        width, height = facts["reference_size"]
        lines.append(f"The reference is {width} x {height}: it was scaled to the size of the other.")
    if facts["frames_left_out"]:
        lines.append(f"{facts['frames_left_out']} frames at the end of the longer one have no counterpart.")
    return "\n".join(lines)


def describe_shots(facts: dict[str, Any]) -> str:
    """One line for each shot from what `sampling.detect_shots` gives."""
    lines = [
        f"{len(facts['shots'])} shots in {facts['frames']} frames, {facts['duration']:.2f} s at "
        f"{facts['frame_rate']:.3f} fps"
    ]
    for index, shot in enumerate(facts["shots"], 1):
        began = "" if shot["transition"] == "start" else f", after a {shot['transition']}"
        lines.append(
            f"  {index}: {shot['start']:.3f} to {shot['end']:.3f} s, frames {shot['first_frame']} to "
            f"{shot['last_frame']}{began}"
        )
    lines.extend(f"  flash: {each['start']:.3f} to {each['end']:.3f} s" for each in facts["flashes"])
    return "\n".join(lines)


def describe_upscaling(facts: dict[str, Any]) -> str:
    """Lines on a clip that was upscaled, from what `upscaling.upscale_clip` or `finishing.finish_clip` gives."""
    lines = [
        f"{facts['frames']} frames, {facts['source_width']} x {facts['source_height']} to {facts['width']} x "
        f"{facts['height']}, {facts['frame_rate']:.3f} fps, {facts['duration']:.2f} s"
    ]
    if facts.get("interpolated"):
        lines.append(f"{facts['interpolated']} of them between upscaled ones, moved at the large size")
    if facts["tiles"]:
        counts = f"{facts['tiles_computed']:,} of {facts['tiles']:,} tiles ({facts['computed_fraction']:.1%})"
        lines.append(f"{counts} were upscaled, the rest reused")
    saved = facts["seconds_saved"]
    if saved:
        done = f"{facts['seconds_upscaling']:.1f} s spent on that, about {abs(saved):.1f} s"
        lines.append(f"{done} {'less' if saved > 0 else 'more'} than for all tiles")
    return "\n".join([*lines, *(f"Note: {note}." for note in facts["notes"]), f"{facts['seconds']:.1f} s in all"])


_WAYS = {"known": "known", "generated": "generated", "repeated": "repeated", "faded": "mixed of two"}


def describe_generation(facts: dict[str, Any]) -> str:
    """Lines on tokens that were made, from what `generation.generate` gives."""
    lines = [
        f"{facts['frames']} frames, {facts['width']} x {facts['height']}, {facts['frame_rate']:.3f} fps, "
        f"{facts['duration']:.2f} s",
        *(f"  {facts[key]} {text}" for key, text in _WAYS.items() if facts[key]),
        f"{facts['tokens_made']:,} of {facts['tokens']:,} tokens made ({facts['made_fraction']:.1%}) in "
        f"{facts['network_calls']} passes of the network",
    ]
    if facts["cuts"]:
        lines.append(f"{facts['cuts']} cuts, over which nothing is made")
    return "\n".join([*lines, *(f"Note: {note}." for note in facts["notes"]), f"{facts['seconds']:.1f} s in all"])
