"""Trains the generator of tokens.

`python -m tokenreel.training.generator --tokens tokens.safetensors --minutes 60`

Each clip of a batch is masked for one of the three tasks: frames between known ones, frames after known ones, or single
tokens. Of what is asked for, a random share is known too, as it is half way through decoding. Some known tokens are off
by a level, as generated ones are. Tokens that differ from the frame before count more: what stands still is easy.
"""

import argparse
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from ..models.checkpoint import save_checkpoint
from ..models.generator import GeneratorConfig, TokenGenerator
from ..models.quantizers import FSQ
from .arguments import training_parser
from .optimizer import Average, build_optimizers, descend, load_state, save_state

MOVING = 3.0
"""What a token counts that differs from the frame before."""
OFF = 0.08
"""Share of the known tokens that are off by a level."""
FURTHEST = 96
"""Rows and columns that crops are taken to lie from the corner, at most: 96 are 768 pixels."""
MOST_STEP = 2
"""From every frame to every second one."""


class TokenClips:
    """Clips of tokens; every clip is drawn equally often."""

    def __init__(self, path: Path, seed: int):
        with safe_open(path, "pt") as file:
            self.clips = [file.get_tensor(name) for name in sorted(file.keys())]
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, high: int) -> int:
        """0 up to below `high`."""
        return int(torch.randint(max(1, high), (1,), generator=self.generator))

    def batch(self, count: int, length: int) -> Tensor:
        """int64 `[count, length, h, w]`, in either direction of time."""
        return torch.stack([self._one(length) for _ in range(count)])

    def _one(self, length: int) -> Tensor:
        clip = self.clips[self.draw(len(self.clips))]
        run = clip[self.draw(len(clip))]
        step = 1 + self.draw(min(MOST_STEP, (len(run) - 1) // max(1, length - 1)))
        first = self.draw(len(run) - (length - 1) * step)
        index = torch.arange(length).mul(step).add(first).clamp(max=len(run) - 1)
        return run[index.flip(0) if self.draw(2) else index].long()

    def masks(self, shape: torch.Size) -> Tensor:
        """bool: what is known of a batch `[B, t, h, w]`; never all of a clip."""
        known = torch.zeros(shape, dtype=torch.bool)
        t = shape[1]
        for each in known:
            task = self.draw(5)
            if task < 2:  # between
                gap, first = 2 + self.draw(min(7, t - 2)), 0
                first = self.draw(gap)
                each[first::gap] = True
                each[0] |= bool(self.draw(2))
                each[-1] |= bool(self.draw(2))
            elif task < 4:  # after
                each[: 1 + self.draw(t - 1)] = True
            share = torch.rand(1, generator=self.generator).item() ** (2 if task < 4 else 0.7)
            shown = share if self.draw(3) or task == 4 else 0.0
            each |= torch.rand(shape[1:], generator=self.generator) < shown * 0.95
        return known

    def off(self, indices: Tensor, known: Tensor, fsq: FSQ) -> Tensor:
        """`indices` of which some known ones are off by a level in one digit."""
        levels = torch.tensor(fsq.levels)
        radix = torch.cat([torch.ones(1, dtype=torch.long), levels[:-1].cumprod(0)])
        digits = fsq.digits(indices)
        place = torch.randint(len(levels), indices.shape, generator=self.generator)
        change = 2 * torch.randint(2, indices.shape, generator=self.generator) - 1
        here = digits.gather(-1, place[..., None])[..., 0]
        moved = torch.minimum((here + change).clamp(min=0), levels[place] - 1)
        picked = (torch.rand(indices.shape, generator=self.generator) < OFF) & known
        return torch.where(picked, indices + (moved - here) * radix[place], indices)


def bits(logits: tuple[Tensor, ...], digits: Tensor) -> Tensor:
    """Bits of each token `[B, t, h, w]`."""
    each = [
        F.cross_entropy(part.float().flatten(0, -2), digits[..., i].flatten(), reduction="none")
        for i, part in enumerate(logits)
    ]
    return torch.stack(each).sum(0).view(digits.shape[:-1]) / math.log(2)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    pattern = tuple(args.pattern.split(","))
    model = TokenGenerator(GeneratorConfig(width=args.width, depth=args.depth, pattern=pattern)).to(device)
    fsq, average = model.fsq, Average(model)
    optimizers = build_optimizers(model, args.lr, args.muon_lr)
    step, before = load_state(args.state, model, average, optimizers)
    clips = TokenClips(args.tokens, args.seed + step)
    run = torch.compile(model, dynamic=False) if args.compile else model
    started, costs = time.monotonic(), []
    while (seconds := before + time.monotonic() - started) < args.minutes * 60:
        whole = clips.batch(args.batch, args.length)
        known = clips.masks(whole.shape)
        shown = clips.off(whole, known, fsq)
        whole, known, shown = (each.to(device) for each in (whole, known, shown))
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            logits = run(shown, known, (0, clips.draw(FURTHEST), clips.draw(FURTHEST)))
        cost = bits(logits, fsq.digits(whole))
        asked = ~known
        moving = torch.zeros_like(known)
        moving[:, 1:] = whole[:, 1:] != whole[:, :-1]
        weight = asked * (1 + (MOVING - 1) * moving)
        loss = (cost * weight).sum() / weight.sum().clamp(min=1)
        loss.backward()
        descend(model, optimizers, seconds / (args.minutes * 60), step)
        average.update(model, step)
        costs.append([(cost.detach() * part).sum() / part.sum().clamp(min=1) for part in (asked, asked & moving)])
        step += 1
        if step % args.every == 0:
            mean = torch.tensor(costs).mean(0)
            print(f"step {step} {seconds:.0f} s: {mean[0]:.3f} bits a token, moving {mean[1]:.3f}", flush=True)
            costs.clear()
            save_state(args.state, model, average, optimizers, step, seconds)
            save_checkpoint(args.out, average.model, "generator", args.name)
    save_state(args.state, model, average, optimizers, step, args.minutes * 60)
    save_checkpoint(args.out, average.model, "generator", args.name)


def main() -> None:
    parser = training_parser(__doc__, "generator", data="tokens", built_by="tokenreel.training.token_clips")
    parser.add_argument("--muon-lr", type=float, default=0.01)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=9, help="frames of a clip")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--pattern", default="linear,linear,linear,window", help="attention of the blocks, in turn")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
