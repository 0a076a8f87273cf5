"""Thumbnails of training clips as one file, for the shot net.

`python -m tokenreel.training.shot_clips CLIP_OR_FOLDER ... --split NAME:FRAME --out shots.pack` keeps 64x36 pixels of
every frame. Clips must hold one shot each: `--split` parts one that holds two, `--leave-out` drops one that holds many.
A third of the clips goes through H.264 first. Every sixth name is held out, to choose thresholds on.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.numpy import save_file

from ..video.frames import fit_size, resize
from ..video.reader import VideoReader
from .data import files_in, worn

SIZE = (36, 64)
"""Height and width: more than the net sees, so that crops can be cut from it."""
HELD_OUT = 6  # every so many names


class ThumbnailPack:
    """Single takes by name, uint8 `[T, 36, 64, 3]`."""

    def __init__(self, path: Path, *, held_out: bool = False):
        with safe_open(path, "np") as file:
            names = sorted(file.keys())
            sources = sorted({name.partition("#")[0] for name in names})
            mine = {name for i, name in enumerate(sources) if (i % HELD_OUT == HELD_OUT - 1) == held_out}
            self.clips = {name: file.get_tensor(name) for name in names if name.partition("#")[0] in mine}
        if not self.clips:
            raise ValueError(f"No clips in {path}. Build it with python -m tokenreel.training.shot_clips.")
        self.names = list(self.clips)


def thumbnails(frames: np.ndarray) -> np.ndarray:
    """uint8 `[T, H, W, 3]` -> uint8 `[T, 36, 64, 3]`, the mean over areas; the shape of the picture is not kept."""
    planes = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    small = F.interpolate(planes, SIZE, mode="area") if planes.shape[2] >= SIZE[0] else F.interpolate(planes, SIZE)
    return small.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def takes_of_clip(path: Path, splits: Sequence[int] = (), most: int = 400, wear: bool = False) -> list[np.ndarray]:
    """The clip's shots, parted at the frames of `splits`, from its first `most` frames."""
    rng = np.random.default_rng(len(path.stem))
    parts, seen = [], 0
    with VideoReader(path, strict=False) as reader:
        width, height = fit_size(reader.info.width, reader.info.height, 240)
        for chunk in reader.chunks(48):
            frames = resize(chunk.frames, width, height) if wear else chunk.frames
            parts.append(thumbnails(worn(frames, rng) if wear else frames))
            seen += len(chunk.pts)
            if seen >= most:
                break
    return [take for take in np.split(np.concatenate(parts)[:most], sorted(splits)) if len(take) > 8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--split", action="append", default=[], metavar="NAME:FRAME", help="a new shot begins there")
    parser.add_argument("--leave-out", action="append", default=[], metavar="NAME", help="a clip of many shots")
    args = parser.parse_args()
    splits: dict[str, list[int]] = {}
    for each in args.split:
        name, _, frame = each.rpartition(":")
        splits.setdefault(name, []).append(int(frame))
    pack = {}
    paths = [path for path in files_in(args.clips) if path.stem not in args.leave_out]
    for number, path in enumerate(paths):
        for part, take in enumerate(takes_of_clip(path.resolve(), splits.get(path.stem, ()), wear=number % 3 == 1)):
            pack[f"{path.stem}#{part}"] = np.ascontiguousarray(take)
        print(f"{path.name}: {len(pack)} shots so far", flush=True)
    save_file(pack, args.out)


if __name__ == "__main__":
    main()
