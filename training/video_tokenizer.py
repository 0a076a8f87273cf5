"""Trains T4, the causal video tokenizer.

`python -m tokenreel.training.video_tokenizer --pack clips.safetensors --image i8.safetensors`

Starts from a trained image tokenizer: as it codes a frame, the mean of a group is coded at first. Clips begin with a
frame of their own, as in use; longer clips come late, when the memory has something to say.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from ..models.checkpoint import load_checkpoint, save_checkpoint
from ..models.video_tokenizer import GROUP, CausalVideoTokenizer
from .arguments import training_parser
from .data import ClipPack
from .image_tokenizer import spread_loss
from .optimizer import Average, build_optimizers, descend, load_state, save_state


def shape_of(spent: float) -> tuple[int, int, int]:
    """(crop side, clips a step, groups a clip): many small ones at first, larger and longer ones at the end."""
    if spent < 0.6:
        return 64, 12, 3
    return (64, 8, 5) if spent < 0.75 else (128, 3, 3)


def to_groups(clips: Tensor) -> Tensor:
    """Clips `[B, 3, 1 + 4 * n, H, W]` -> `[B, 1 + n, 4, 3, H, W]`, the first frame four times."""
    frames = clips.transpose(1, 2)
    first = frames[:, :1].expand(-1, GROUP, -1, -1, -1)
    return torch.cat([first, frames[:, 1:]], 1).unflatten(1, (-1, GROUP))


def loss_of(output: Tensor, target: Tensor, spent: float) -> tuple[Tensor, Tensor]:
    """(loss, mean squared error of each frame `[B, groups, 4]`). What is reported is the mean of per-frame PSNR."""
    error = output.float() - target
    mse = error.square().mean((3, 4, 5))
    plain = error.abs().mean() + 0.5 * mse.mean()
    return (plain if spent < 0.05 else plain + 0.1 * (mse + 1e-4).log().mean()), mse.detach()


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    pack = ClipPack(args.pack)
    model = CausalVideoTokenizer()
    if args.image:
        model.start_from(load_checkpoint(args.image, "image_tokenizer"))
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = Average(model)
    optimizers = build_optimizers(model, args.lr)
    step, before = load_state(args.state, model, average, optimizers)
    run = torch.compile(model, dynamic=False) if args.compile else model
    generator = torch.Generator().manual_seed(args.seed + step)
    started, losses = time.monotonic(), []
    while (seconds := before + time.monotonic() - started) < args.minutes * 60:
        spent = seconds / (args.minutes * 60)
        side, count, length = shape_of(spent)
        clips = pack.runs(count * args.batch_factor, side, 1 + GROUP * (length - 1), generator)
        groups = to_groups(clips).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            output, latents = run(groups, spent < 0.7 and step % 8 == 0)
        loss, mse = loss_of(output, groups, spent)
        (loss + args.spread * spread_loss(latents, model.quantizer, generator)).backward()
        descend(model, optimizers, spent, step)
        average.update(model, step)
        step += 1
        losses.append(torch.stack([mse[:, 0].log10().mean(), mse[:, 1:].log10().mean()]))
        if step % args.every == 0:
            first, later = (6.02 - 10 * torch.stack(losses).mean(0)).tolist()
            losses.clear()
            print(
                f"step {step} {seconds:.0f} s {spent:.3f} first frames {first:.2f} dB, later ones {later:.2f} dB",
                flush=True,
            )
            save_state(args.state, model, average, optimizers, step, seconds)
            save_checkpoint(args.out, average.model, "video_tokenizer", args.name)
    save_state(args.state, model, average, optimizers, step, args.minutes * 60)
    save_checkpoint(args.out, average.model, "video_tokenizer", args.name)


def main() -> None:
    parser = training_parser(__doc__, "t4")
    parser.add_argument("--image", type=Path, help="a trained image tokenizer to start from")
    parser.add_argument("--batch-factor", type=int, default=1, help="raise on a GPU")
    parser.add_argument("--spread", type=float, default=0.1, help="weight of the even use of all codes")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
