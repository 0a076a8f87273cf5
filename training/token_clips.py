"""Training clips as tokens: random crops of the runs of a pack, through the shipped key-frame tokenizer.

`python -m tokenreel.training.token_clips --pack clips.safetensors --side 128 --crops 6 --out tokens.safetensors`
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..models.checkpoint import load_tokenizer
from .data import ClipPack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pack", type=Path, required=True, help="clips as built by tokenreel.training.data")
    parser.add_argument("--side", type=int, default=128, help="pixels of a crop, a multiple of 8")
    parser.add_argument("--crops", type=int, default=6, help="of each run of each clip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    tokenizer = load_tokenizer().to(torch.device(args.device))
    pack, generator = ClipPack(args.pack), torch.Generator().manual_seed(args.seed)
    made: dict[str, Tensor] = {}
    for name, clip in pack.clips.items():
        run = min(pack.run, len(clip))
        runs = [list(range(start, start + run)) for start in range(0, len(clip) - run + 1, run)]
        rows = []
        for index in runs * args.crops:
            crop = pack.crop(clip, index, args.side, generator)
            with torch.inference_mode():
                rows.append(tokenizer.image.encode(crop.to(tokenizer.device)).to(torch.int32).cpu())
        made[name] = torch.stack(rows)
        print(f"{name}: {tuple(made[name].shape)}", flush=True)
    save_file(made, args.out, {"tokenizer": tokenizer.digest, "side": str(args.side)})


if __name__ == "__main__":
    main()
