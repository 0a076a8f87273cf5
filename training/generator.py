"""Trains the generator of tokens.

`python -m tokenreel.training.generator --tokens tokens --minutes 60`

Each batch is of one task: frames between two known ones, frames after known ones, or areas of frames that are known
but for them. Of what is asked for, a random share is known too in some, as it is half way through decoding. Some known
tokens are off by a level, as generated ones are. Tokens that differ from the frame before count more: what stands still
is easy. Half of the bits are those of each digit for itself, half those of each digit given those before it. Beside
them count the decibels of some frames of what may be expected, decoded, against the decoded truth.
"""

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from ..models.checkpoint import load_tokenizer, save_checkpoint
from ..models.generator import GeneratorConfig, TokenGenerator, token_bits
from ..models.image_tokenizer import ImageTokenizer
from ..models.quantizers import FSQ
from ..models.token_guess import around
from .arguments import training_parser
from .optimizer import Average, build_optimizers, descend, load_state, save_state

MOVING = 3.0
"""What a token counts that differs from the frame before."""
OFF = 0.05
"""Share of the known tokens that are off by a level."""
FURTHEST = 96
"""Rows and columns that crops are taken to lie from the corner, at most: 96 are 768 pixels."""
DECODED = 3
"""Frames of a clip whose decibels are looked at in a step."""
_SPOTTED = 0.2  # share of the clips of which single tokens are known beside whole frames
_HOLED = 0.15  # share of the batches in which areas are asked for


class Batch(NamedTuple):
    """Tokens int64 `[B, t, h, w]`, what is known of them, the guess `[B, t, h, w, d]`."""

    tokens: Tensor
    known: Tensor
    guess: Tensor


class TokenExamples:
    """The examples of a folder of shards; new shards are found as they come."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.read = folder, set[Path]()
        self.groups: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self.digest, self.fsq = "", FSQ(GeneratorConfig().levels)
        self.generator = torch.Generator().manual_seed(seed)
        self.look()
        if not self.groups:
            raise ValueError(f"No shards in {folder}. Build them with python -m tokenreel.training.token_clips.")

    def look(self) -> None:
        """Reads shards that were not there before."""
        for path in sorted(set(self.folder.glob("*.safetensors")) - self.read):
            with safe_open(path, "pt") as file:
                self.digest = file.metadata()["tokenizer"]
                keys = list(file.keys())
                for name in sorted(key.removesuffix(".tokens") for key in keys if key.endswith(".tokens")):
                    pair = file.get_tensor(f"{name}.tokens"), file.get_tensor(f"{name}.guess")
                    self.groups.setdefault(name.rpartition(".")[0], []).append(pair)
            self.read.add(path)

    def draw(self, high: int) -> int:
        """0 up to below `high`."""
        return int(torch.randint(max(1, high), (1,), generator=self.generator))

    def batch(self, count: int, side: int) -> Batch:
        """Crops of `side` x `side` tokens of examples of one task."""
        sizes = torch.tensor([float(len(each)) for each in self.groups.values()])
        name = list(self.groups)[int(torch.multinomial(sizes, 1, generator=self.generator))]
        task, _, first = name.split(".")
        tokens, guesses = [], []
        for _ in range(count):
            indices, guess = self.groups[name][self.draw(len(self.groups[name]))]
            rows, columns = (slice(i, i + side) for i in (self.draw(n - side + 1) for n in indices.shape[1:]))
            tokens.append(indices[:, rows, columns].long())
            guesses.append(guess[:, rows, columns].float())
        made, guess = torch.stack(tokens), torch.stack(guesses)
        known = torch.zeros(made.shape, dtype=torch.bool)
        if self._chance(_HOLED):
            for each in known:
                each[:] = ~self._hole(each.shape[1:])
            codes = self.fsq.indices_to_codes(made.flatten(0, 1)).movedim(1, -1)
            return Batch(made, known, around(codes, known.flatten(0, 1)).view(guess.shape))
        known[:, : int(first)] = True
        if task == "between":
            known[:, -1] = True
        for each in known:
            if self._chance(_SPOTTED):
                share = torch.rand(1, generator=self.generator)
                each |= torch.rand(each.shape, generator=self.generator) < share * 0.95
        return Batch(made, known, guess)

    def _chance(self, share: float) -> bool:
        return bool(torch.rand(1, generator=self.generator) < share)

    def some_asked_for(self, known: Tensor, count: int) -> Tensor:
        """int64: `count` frames of each clip, or as many as there are, of those that are not known as a whole.

        Frames are counted over all clips of `known` `[B, t, h, w]`.
        """
        picked = []
        for number, frames in enumerate(known.flatten(2).all(-1)):
            asked = frames.logical_not().nonzero()[:, 0] + number * known.shape[1]
            picked.append(asked[torch.randperm(len(asked), generator=self.generator)[:count]])
        return torch.cat(picked)

    def _hole(self, shape: torch.Size) -> Tensor:
        """bool `[h, w]`: a rectangle of at most three quarters of each side."""
        hole = torch.zeros(shape, dtype=torch.bool)
        height, width = (1 + self.draw(3 * side // 4) for side in shape)
        row, column = self.draw(shape[0] - height + 1), self.draw(shape[1] - width + 1)
        hole[row : row + height, column : column + width] = True
        return hole

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


def decibels(image: ImageTokenizer, levels: Tensor, truth: Tensor) -> Tensor:
    """dB `[n]` of frames whose digits are `levels` `[n, h, w, d]`, rounded in passing, against those of `truth`.

    truth: int64 `[n, h, w]`. The gradient is that of the levels as they are.
    """
    fsq = image.quantizer
    rounded = levels + (levels.round() - levels).detach()
    made = image.decoder(fsq.levels_to_codes(rounded).movedim(-1, 1))
    with torch.no_grad():
        wanted = image.decoder(fsq.indices_to_codes(truth))
    return -10 * torch.log10((made.float() - wanted.float()).square().mean((1, 2, 3)) / 4 + 1e-5)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    config = GeneratorConfig(
        width=args.width,
        depth=args.depth,
        widen=args.widen,
        pattern=tuple(args.pattern.split(",")),
        digit_width=args.digit_width,
    )
    model = TokenGenerator(config).to(device)
    fsq, average = model.fsq, Average(model)
    optimizers = build_optimizers(model, args.lr, args.muon_lr)
    step, before = load_state(args.state, model, average, optimizers)
    examples = TokenExamples(args.tokens, args.seed + step)
    image = load_tokenizer().image.requires_grad_(False).to(device)
    run = torch.compile(model) if args.compile else model
    started, costs = time.monotonic(), []
    while (seconds := before + time.monotonic() - started) < args.minutes * 60 and step < (args.steps or step + 1):
        batch = examples.batch(args.batch, args.side)
        shown = examples.off(batch.tokens, batch.known, fsq)
        tokens, known, guess, shown = (each.to(device) for each in (*batch, shown))
        at = 0, examples.draw(FURTHEST), examples.draw(FURTHEST)
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            single, chained, expected = run(shown, known, guess, tokens, at)
            picked = examples.some_asked_for(batch.known, DECODED).to(device)
            truth = tokens.flatten(0, 1)[picked]
            levels = torch.where(known[..., None], fsq.digits(tokens), expected).flatten(0, 1)[picked]
            quality = decibels(image, levels, truth).mean()
        digits, asked = fsq.digits(tokens), ~known
        alone, cost = token_bits(single, digits), token_bits(chained, digits)
        moving = torch.zeros_like(known)
        moving[:, 1:] = tokens[:, 1:] != tokens[:, :-1]
        weight = asked * (1 + (MOVING - 1) * moving)
        loss = ((alone + cost) / 2 * weight).sum() / weight.sum().clamp(min=1) - args.decibels * quality
        loss.backward()
        spent = step / args.steps if args.steps else seconds / (args.minutes * 60)
        descend(model, optimizers, spent, step)
        average.update(model, step)
        measured = [
            (each.detach() * part).sum() / part.sum()
            for each, part in ((cost, asked), (cost, asked & moving), (alone, asked))
        ]
        costs.append(torch.stack([*measured, quality.detach()]).nan_to_num())
        step += 1
        if step % args.every == 0:
            mean = torch.stack(costs).mean(0)
            told = f"{mean[0]:.3f} bits a token, moving {mean[1]:.3f}, each digit for itself {mean[2]:.3f}"
            print(f"step {step} {seconds:.0f} s: {told}; {mean[3]:.2f} dB", flush=True)
            costs.clear()
            examples.look()
            save_state(args.state, model, average, optimizers, step, seconds)
            save_checkpoint(args.out, average.model, "generator", args.name, trained_with=examples.digest)
    save_state(args.state, model, average, optimizers, step, before + time.monotonic() - started)
    save_checkpoint(args.out, average.model, "generator", args.name, trained_with=examples.digest)


def main() -> None:
    parser = training_parser(__doc__, "generator", data="tokens", built_by="tokenreel.training.token_clips")
    parser.add_argument("--muon-lr", type=float, default=0.01)
    parser.add_argument("--decibels", type=float, default=1.0, help="what a decibel counts, in bits a token")
    parser.add_argument("--steps", type=int, help="end after so many steps, if there is time: to compare kinds")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--side", type=int, default=12, help="rows and columns of tokens of a crop")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--widen", type=int, default=3)
    parser.add_argument("--digit-width", type=int, default=64)
    parser.add_argument("--pattern", default="linear,linear,linear,window", help="attention of the blocks, in turn")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
