"""Trains I8, the per-frame tokenizer.

`python -m tokenreel.training.image_tokenizer --pack clips.safetensors --minutes 60`

One loop, paced by the clock: the learning rate and the crop size follow the share of the time budget that is spent, so
the same command makes the best of ten minutes on a GPU or of an hour on two cores. Resumes from `--state` where it left
off.
"""

import argparse
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.checkpoint import save_checkpoint
from ..models.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from ..models.quantizers import FSQ
from .arguments import training_parser
from .data import ClipPack
from .optimizer import Average, build_optimizers, descend, load_state, save_state


def loss_of(output: Tensor, target: Tensor, spent: float) -> Tensor:
    """L1 + MSE at first, then the mean over the crops of log MSE too: the mean of per-frame PSNR is what is reported.

    `spent` is the share of the budget used, 0 to 1. Pixels are in [-1, 1].
    """
    error = output.float() - target
    mse = error.square().mean((1, 2, 3))
    plain = error.abs().mean() + 0.5 * mse.mean()
    return plain if spent < 0.15 else plain + 0.1 * (mse + 1e-4).log().mean()


def spread_loss(latents: Tensor, quantizer: FSQ, generator: torch.Generator, directions: int = 16) -> Tensor:
    """How far the latents `[B, d, h, w]` are from filling the code space evenly: unused codes say nothing.

    Sliced Wasserstein distance to the uniform distribution (Bonneel et al., 2015,
    https://doi.org/10.1007/s10851-014-0506-3): along each axis and along random directions, the sorted projections are
    compared with those of as many random points.
    """
    filled = quantizer.fill(latents.float()).movedim(1, -1).flatten(0, -2)
    points = torch.rand(filled.shape, generator=generator).to(filled) * 2 - 1
    ways = torch.randn(directions, filled.shape[1], generator=generator)
    ways = torch.cat([F.normalize(ways, dim=1), torch.eye(filled.shape[1])]).to(filled)
    return ((filled @ ways.T).sort(0).values - (points @ ways.T).sort(0).values).square().mean()


def crop_of(spent: float) -> tuple[int, int]:
    """(crop side in pixels, crops a step): small and many at first, larger at the end, when long range counts."""
    return (64, 32) if spent < 0.75 else (128, 8)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    pack = ClipPack(args.pack)
    model = ImageTokenizer(ImageTokenizerConfig())
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = Average(model)
    optimizers = build_optimizers(model, args.lr)
    step, before = load_state(args.state, model, average, optimizers)

    def passes(frames: Tensor, noise: bool) -> tuple[Tensor, Tensor]:
        latents = model.to_latent(model.encoder(frames))
        return model.decoder(model.quantizer(latents, noise)), latents

    run = torch.compile(passes, dynamic=False) if args.compile else passes
    generator = torch.Generator().manual_seed(args.seed + step)
    started, losses = time.monotonic(), []
    while (seconds := before + time.monotonic() - started) < args.minutes * 60:
        spent = seconds / (args.minutes * 60)
        side, batch = crop_of(spent)
        frames = pack.frames(batch * args.batch_factor, side, generator).to(device)
        noise = spent < 0.7 and step % 8 == 0
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            output, latents = run(frames, noise)
        loss = loss_of(output, frames, spent) + args.spread * spread_loss(latents, model.quantizer, generator)
        loss.backward()
        descend(model, optimizers, spent, step)
        average.update(model, step)
        step += 1
        losses.append((output.detach().float() - frames).square().mean((1, 2, 3)).log10().mean().item())
        if step % args.every == 0:
            psnr = -10 * sum(losses) / len(losses) + 6.02
            losses.clear()
            print(f"step {step} {seconds:.0f} s {spent:.3f} train {psnr:.2f} dB", flush=True)
            save_state(args.state, model, average, optimizers, step, seconds)
            save_checkpoint(args.out, average.model, "image_tokenizer", args.name)
    save_state(args.state, model, average, optimizers, step, args.minutes * 60)
    save_checkpoint(args.out, average.model, "image_tokenizer", args.name)


def main() -> None:
    parser = training_parser(__doc__, "i8")
    parser.add_argument("--batch-factor", type=int, default=1, help="raise on a GPU")
    parser.add_argument("--spread", type=float, default=0.1, help="weight of the even use of all codes")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
