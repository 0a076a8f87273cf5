"""Trains an upscaler.

`python -m tokenreel.training.upscaler --pack clips.safetensors --worn worn2.safetensors --scale 2`

Of a batch of 16 crops, nine are of frames made smaller first, which are sharp then, and four are drawn patterns; all
are shrunk bicubically. One went through H.264 at the small size (`training.small_clips`). The last two are one crop
with two different faint noises on it, as a decoder leaves them: both are to give the same frame, which keeps noise from
flickering.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ..models.checkpoint import load_checkpoint, save_checkpoint
from ..models.upscaler import CompactUpscaler, UpscalerConfig
from .arguments import training_parser
from .data import ClipPack
from .drawn_patterns import drawn_pattern
from .optimizer import Average, build_optimizers, descend, load_state, save_state
from .reparameterized import begin, branched, folded

DRAWN, WORN, NOISY = 4, 1, 2
"""Of a batch: drawn patterns, crops through H.264, copies of one crop with noise."""
NOISE = 3 / 255
"""Most deviation of the noise."""


class Batches(IterableDataset[tuple[Tensor, Tensor]]):
    """(small `[B, 3, side, side]`, large `[B, 3, scale * side, scale * side]`), both in [0, 1], without end.

    The last NOISY of a batch show the same; those before it went through H.264.
    """

    def __init__(self, pack: ClipPack, worn: Path, scale: int, count: int, side: int, seed: int):
        self.pack, self.worn, self.scale, self.count, self.side = pack, worn, scale, count, side
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        torch.set_num_threads(1)
        with safe_open(self.worn, "pt") as file:
            self.small = {name: file.get_tensor(name) for name in self.pack.names}
        while True:
            yield self._batch()

    def _draw(self, high: int) -> int:
        return int(torch.randint(max(1, high), (1,), generator=self.generator))

    def _random(self) -> float:
        return torch.rand(1, generator=self.generator).item()

    def _batch(self) -> tuple[Tensor, Tensor]:
        scale, side = self.scale, self.scale * self.side
        clean = [self._sharp(side) for _ in range(self.count - DRAWN - WORN - NOISY + 1)]
        drawn = [drawn_pattern(self._sharp(side), side, self.generator) for _ in range(DRAWN)]
        noisy = clean.pop()
        large = torch.stack([*clean, *drawn, *[noisy] * NOISY])
        small = F.interpolate(large, scale_factor=1 / scale, mode="bicubic", antialias=True).clamp(0, 1)
        small = small.mul(255).round().div(255)
        small[-NOISY:] = torch.stack([self._noise(each) for each in small[-NOISY:]])
        if self._draw(2):  # half of the batches have grey crops too: edges count more than colours
            grey = slice(0, 2)
            for each in (large, small):
                each[grey] = each[grey].mean(1, keepdim=True)
        worn = [self._through_codec() for _ in range(WORN)]
        at = len(large) - NOISY
        small = torch.cat([small[:at], torch.stack([each for each, _ in worn]), small[at:]])
        large = torch.cat([large[:at], torch.stack([each for _, each in worn]), large[at:]])
        return small, large

    def _frame(self) -> tuple[str, int]:
        name = self.pack.names[self._draw(len(self.pack.names))]
        return name, self._draw(len(self.pack.clips[name]))

    def _sharp(self, side: int) -> Tensor:
        """A crop of a frame that is made smaller by two to three times first; the most structured one of three."""
        tries = [self._one_sharp(side) for _ in range(3)]
        return max(tries, key=lambda crop: float(crop.std() + 4 * crop.diff(dim=-1).abs().mean()))

    def _one_sharp(self, side: int) -> Tensor:
        name, index = self._frame()
        frame = self.pack.clips[name][index]
        height, width = frame.shape[:2]
        cut = min(int(side * (1.8 + 1.5 * self._random())), height, width)
        y, x = self._draw(height - cut + 1), self._draw(width - cut + 1)
        crop = frame[y : y + cut, x : x + cut].permute(2, 0, 1).float()[None] / 255
        crop = F.interpolate(crop, (side, side), mode="bicubic", antialias=True).clamp(0, 1)[0]
        return self._turned(crop)

    def _turned(self, crop: Tensor) -> Tensor:
        if self._draw(2):
            crop = crop.flip(-1)
        if self._draw(2):
            crop = crop.flip(-2)
        return crop.transpose(-1, -2) if self._draw(2) else crop

    def _through_codec(self) -> tuple[Tensor, Tensor]:
        scale = self.scale
        while True:
            name, index = self._frame()
            small, large = self.small[name][index], self.pack.clips[name][index]
            if min(small.shape[:2]) >= self.side:
                break
        y, x = (self._draw(size - self.side + 1) for size in small.shape[:2])
        part = small[y : y + self.side, x : x + self.side]
        whole = large[scale * y : scale * (y + self.side), scale * x : scale * (x + self.side)]
        return part.permute(2, 0, 1).float() / 255, whole.permute(2, 0, 1).float() / 255

    def _noise(self, small: Tensor) -> Tensor:
        """With noise, finer or coarser."""
        noise = torch.randn(small.shape, generator=self.generator)
        if self._draw(2):
            noise = F.avg_pool2d(noise, 3, 1, 1) * 2
        return (small + noise * self._random() * NOISE).clamp(0, 1).mul(255).round().div(255)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    config = UpscalerConfig(args.scale, args.features, args.depth)
    plain = CompactUpscaler(config)
    begin(plain)
    if args.start:
        _take_over(plain, load_checkpoint(args.start, "upscaler"))
    model = branched(plain) if args.branches else plain
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = Average(model)
    optimizers = build_optimizers(model, args.lr, args.muon_lr, least=config.features)
    step, before = load_state(args.state, model, average, optimizers)
    batches = Batches(ClipPack(args.pack), args.worn, args.scale, args.batch, args.side, args.seed + step)
    loader = iter(
        DataLoader(batches, batch_size=None, num_workers=args.workers, prefetch_factor=4 if args.workers else None)
    )
    run = torch.compile(model, dynamic=False) if args.compile else model
    started, errors = time.monotonic(), []

    def keep() -> None:
        save_state(args.state, model, average, optimizers, step, seconds)
        kept: Any = average.model
        save_checkpoint(args.out, folded(kept) if args.branches else kept, "upscaler", args.name)

    while (seconds := before + time.monotonic() - started) < args.minutes * 60:
        small, large = (each.to(device, memory_format=torch.channels_last) for each in next(loader))
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            made = run(small)
        off = (made.float() - large).abs()
        unlike = (made[-1].float() - made[-2].float()).abs().mean()
        loss = off.mean() + args.consistency * unlike
        loss.backward()
        descend(model, optimizers, seconds / (args.minutes * 60), step)
        average.update(model, step)
        errors.append((made.detach().float() - large).square().mean((1, 2, 3)).add(1e-6).log10())
        step += 1
        if step % args.every == 0:
            level = -10 * torch.stack(errors).mean(0)
            parts = level.split([len(level) - DRAWN - WORN - NOISY, DRAWN, WORN, NOISY])
            sharp, drawn, worn, noisy = (part.mean().item() for part in parts)
            print(
                f"step {step} {seconds:.0f} s: sharp {sharp:.2f} dB, drawn {drawn:.2f}, worn {worn:.2f}, "
                f"noisy {noisy:.2f}",
                flush=True,
            )
            errors.clear()
            keep()
    keep()


@torch.no_grad()
def _take_over(plain: CompactUpscaler, other: CompactUpscaler) -> None:
    """The layers of another network, of another scale perhaps, as far as they have the same shape."""
    theirs = other.state_dict()
    for name, tensor in plain.state_dict().items():
        if name in theirs and theirs[name].shape == tensor.shape:
            tensor.copy_(theirs[name])


def main() -> None:
    parser = training_parser(__doc__, "upscaler")
    parser.add_argument("--worn", type=Path, required=True, help="from tokenreel.training.small_clips, of this scale")
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--features", type=int, default=48)
    parser.add_argument("--depth", type=int, default=10)
    parser.add_argument("--start", type=Path, help="a checkpoint whose layers to begin with, of any scale")
    parser.add_argument("--branches", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--muon-lr", type=float, default=0.005)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=48, help="pixels of a small crop")
    parser.add_argument("--consistency", type=float, default=0.1, help="weight of what two noises change")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw the batches")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
