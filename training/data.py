"""Training clips as one file of uint8 frames, and random crops from it.

`python -m tokenreel.training.data CLIP_OR_FOLDER ... --out clips.safetensors` decodes six runs of 17 consecutive frames
of each clip at most; every fifth run goes through H.264 at a random quality, since that is what clips of users went
through. Crops are augmented by scale (a 64-px crop is cut from 64 to 128 px of the source), flips, transposition,
brightness and contrast; runs of frames also by direction of time and by frame skipping (speed, reduced frame rate).
"""

import argparse
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor

from ..video.frames import fit_size, resize
from ..video.reader import VideoReader
from ..video.reference_codecs import REFERENCE_CODECS, recompressed

RUN = 17
MOST_SKIP = 3
"""Largest step from frame to frame in a training run: 10 frames a second of 30."""


class ClipPack:
    """Clips in memory. Every clip is drawn equally often, however long it is."""

    def __init__(self, path: Path):
        with safe_open(path, "np") as file:
            self.run = int((file.metadata() or {}).get("run", RUN))
            self.clips = {name: torch.from_numpy(file.get_tensor(name)) for name in sorted(file.keys())}
        if not self.clips:
            raise ValueError(f"No clips in {path}. Build it with python -m tokenreel.training.data.")
        self.names = list(self.clips)

    def frames(self, count: int, side: int, generator: torch.Generator) -> Tensor:
        """Crops `[count, 3, side, side]` in [-1, 1], channels last."""
        return self.runs(count, side, 1, generator)[:, :, 0].contiguous(memory_format=torch.channels_last)

    def runs(self, count: int, side: int, length: int, generator: torch.Generator) -> Tensor:
        """Crops of `length` frames in time order `[count, 3, length, side, side]` in [-1, 1]."""
        return torch.stack([self._run(side, length, generator) for _ in range(count)])

    def _run(self, side: int, length: int, generator: torch.Generator) -> Tensor:
        draw = self._dice(generator)
        clip = self.clips[self.names[draw(len(self.names))]]
        run = min(self.run, clip.shape[0])
        step = 1 + draw(min(MOST_SKIP, (run - 1) // (length - 1))) if length > 1 and run >= length else 1
        start = draw(clip.shape[0] // run) * run
        first = start + draw(run - (length - 1) * step)
        index = [min(first + i * step, start + run - 1, clip.shape[0] - 1) for i in range(length)]
        crop = self.crop(clip, index, side, generator)
        if draw(2) and length > 1:
            crop = crop.flip(0)
        return self._relight(crop, generator).transpose(0, 1)

    def windows(self, count: int, side: int, spans: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Two frames and one between them: `[count, 3, 3, side, side]` in [-1, 1], times `[count]`.

        For an interpolator. Axis 2 is (first, the one between, second). `spans` are the weights of distances from the
        first to the second: `[17]` at most, of 0, 1, 2 ... frames. Still windows are drawn less often than moving ones.
        """
        windows, times = [], []
        for _ in range(count):
            tries = [self._window(side, spans, generator) for _ in range(2)]
            window, time = max(
                tries, key=lambda each: float((each[0][:, 0] - each[0][:, 2]).abs().mean().clamp(max=0.2))
            )
            windows.append(window)
            times.append(time)
        return torch.stack(windows), torch.tensor(times)

    def _window(self, side: int, spans: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
        draw = self._dice(generator)
        clip = self.clips[self.names[draw(len(self.names))]]
        run = min(self.run, clip.shape[0])
        start = draw(clip.shape[0] // run) * run
        span = max(2, min(run - 1, int(torch.multinomial(spans, 1, generator=generator))))
        first, middle = start + draw(run - span), 1 + draw(span - 1)
        index = [first, first + middle, first + span]
        time = middle / span
        if draw(2):
            index, time = index[::-1], 1 - time
        crop = self.crop(clip, [min(i, clip.shape[0] - 1) for i in index], side, generator)
        return self._relight(crop, generator).transpose(0, 1), time

    @staticmethod
    def _dice(generator: torch.Generator) -> Callable[[int], int]:
        return lambda high: int(torch.randint(max(high, 1), (1,), generator=generator))

    def crop(self, clip: Tensor, index: list[int], side: int, generator: torch.Generator) -> Tensor:
        """Frames by number, a random square of them, mirrored and turned: `[len(index), 3, side, side]` in [-1, 1]."""
        draw = self._dice(generator)
        _, height, width, _ = clip.shape
        # From native scale to half of it: small footage holds more detail in a pixel than large footage does.
        zoom = 1 + torch.rand(1, generator=generator).item() if draw(3) else 1.0
        cut = min(int(side * zoom), height, width)
        y, x = draw(height - cut + 1), draw(width - cut + 1)
        crop = clip[index, y : y + cut, x : x + cut].permute(0, 3, 1, 2).float() / 127.5 - 1
        if cut != side:
            crop = F.interpolate(crop, (side, side), mode="bilinear", antialias=True, align_corners=False).clamp(-1, 1)
        if draw(2):
            crop = crop.flip(3)
        if draw(4) == 0:
            crop = crop.flip(2)
        if draw(4) == 0:
            crop = crop.transpose(2, 3)
        return crop

    @staticmethod
    def _relight(crop: Tensor, generator: torch.Generator) -> Tensor:
        if torch.rand(1, generator=generator) * 3 < 1:
            gain = 0.7 + 0.6 * torch.rand(1, generator=generator).item()
            lift = 0.3 * torch.rand(3, 1, 1, generator=generator) - 0.15
            return (crop * gain + lift).clamp(-1, 1)
        return crop


def runs_of_clip(path: Path, short_side: int, runs: int, worn_share: float = 0.2) -> np.ndarray:
    """Up to `runs` runs of RUN consecutive frames, spread over the clip, uint8 `[T, H, W, 3]`."""
    with VideoReader(path, strict=False) as reader:
        width, height = fit_size(reader.info.width, reader.info.height, short_side)
        if min(reader.info.width, reader.info.height) <= short_side:
            width, height = reader.info.width, reader.info.height
        chunks = [
            chunk.frames
            if (width, height) == (reader.info.width, reader.info.height)
            else resize(chunk.frames, width, height)
            for chunk in reader.chunks(RUN)
        ]
    frames = np.concatenate(chunks)
    run = min(RUN, len(frames))
    starts = np.unique(np.linspace(0, len(frames) - run, min(runs, max(1, len(frames) // RUN))).astype(int))
    kept = [frames[start : start + run] for start in starts]
    rng = np.random.default_rng(len(frames))
    return np.concatenate([worn(each, rng) if rng.random() < worn_share else each for each in kept])


def worn(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A run as H.264 leaves it at a random quality. Odd sizes stay as they are: 4:2:0 cannot hold them."""
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        return frames
    return recompressed(REFERENCE_CODECS["x264 medium"], frames, Fraction(25), int(rng.integers(22, 36)))


def files_in(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        yield from sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--short-side", type=int, default=320)
    parser.add_argument("--runs", type=int, default=6, help=f"runs of {RUN} frames a clip, at most")
    parser.add_argument("--worn", type=float, default=0.2, help="share of the runs that go through H.264")
    args = parser.parse_args()
    pack = {}
    for path in files_in(args.clips):
        pack[path.stem] = runs_of_clip(path.resolve(), args.short_side, args.runs, args.worn)
        print(f"{path.name}: {pack[path.stem].shape}", flush=True)
    save_file(pack, args.out, {"run": str(RUN)})


if __name__ == "__main__":
    main()
