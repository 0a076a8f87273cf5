"""Training examples of the generator: crops as tokens, and the guess of the frames that are asked for.

`python -m tokenreel.training.token_clips --pack clips.safetensors --out tokens --shards 20`

An example is a run of frames of which the first and the last are known, or the first one to three; the other ones are
guessed from them (models/token_guess.py). Of two crops the one that moves more is taken. Each shard is a file of its
own, so that training can begin with the first.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..models.checkpoint import load_tokenizer
from ..models.image_tokenizer import ImageTokenizer
from ..models.token_guess import guess
from .data import ClipPack

GAPS = (2, 3, 4, 6, 8, 8, 8)
"""Frames from a known one to the next, of which one is drawn."""
AHEAD = 8
"""Frames that are asked for after known ones."""
MOST_KNOWN = 3


class Examples:
    """Draws examples from a pack."""

    def __init__(self, pack: ClipPack, image: ImageTokenizer, side: int, seed: int):
        self.pack, self.image, self.side = pack, image, side
        self.generator = torch.Generator().manual_seed(seed)

    def one(self) -> tuple[str, Tensor, Tensor]:
        """Task and how many frames are known at first; tokens int32 `[t, h, w]`; the guess, fp16 `[t, h, w, d]`."""
        between = bool(self._draw(2))
        first = 1 if between else 1 + self._draw(MOST_KNOWN)
        length = GAPS[self._draw(len(GAPS))] + 1 if between else first + AHEAD
        crop = max((self._crop(length) for _ in range(2)), key=lambda each: float((each[0] - each[-1]).abs().mean()))
        with torch.inference_mode():
            frames = crop.contiguous(memory_format=torch.channels_last).to(self.image.to_latent.weight.device)
            tokens = self.image.encode(frames)
            known = torch.zeros_like(tokens, dtype=torch.bool)
            known[:first] = True
            known[-1] |= between
            made = guess(self.image, tokens, known)
        return f"{'between' if between else 'after'}.{length}.{first}", tokens.int().cpu(), made.half().cpu()

    def _draw(self, high: int) -> int:
        return int(torch.randint(max(high, 1), (1,), generator=self.generator))

    def _crop(self, length: int) -> Tensor:
        """`[length, 3, side, side]` in [-1, 1], in either direction of time."""
        return self.pack.runs(1, self.side, length, self.generator)[0].transpose(0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pack", type=Path, required=True, help="clips as built by tokenreel.training.data")
    parser.add_argument("--side", type=int, default=128, help="pixels of a crop, a multiple of 16")
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--examples", type=int, default=256, help="of a shard")
    parser.add_argument("--first", type=int, default=0, help="number of the first shard, to go on")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    args = parser.parse_args()
    args.out.mkdir(exist_ok=True)
    tokenizer = load_tokenizer().to(torch.device(args.device))
    pack = ClipPack(args.pack)
    for shard in range(args.first, args.first + args.shards):
        examples, made = Examples(pack, tokenizer.image, args.side, shard), {}
        for number in range(args.examples):
            with torch.autocast(args.device, torch.bfloat16):
                name, tokens, guessed = examples.one()
            made[f"{name}.{number}.tokens"], made[f"{name}.{number}.guess"] = tokens, guessed
        path = args.out / f"{shard:03}.safetensors"
        save_file(made, path.with_suffix(".part"), {"tokenizer": tokenizer.digest, "side": str(args.side)})
        path.with_suffix(".part").replace(path)
        print(f"{path.name}: {len(made) // 2} examples", flush=True)


if __name__ == "__main__":
    main()
