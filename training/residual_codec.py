"""Trains P8, the conditional residual codec.

`python -m tokenreel.training.residual_codec --pack clips.safetensors --key i8.safetensors`

Each step unrolls a short closed loop: the first frame goes through the finished key-frame tokenizer, the next frames
are predicted by real motion search from what was reconstructed before, and coded where the prediction is bad. So the
net meets the errors it will meet in use: blurred references, blocks with a wrong vector, uncovered ground, its own
mistakes.
"""

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.checkpoint import file_digest, load_checkpoint, save_checkpoint
from ..models.frame_decoder import to_bytes, to_unit
from ..models.motion import MotionSearch, compensate, half_pel_planes
from ..models.residual_codec import ResidualCodec
from ..tokens.video_tokens import CELL
from .arguments import training_parser
from .data import ClipPack
from .optimizer import Average, build_optimizers, descend, load_state, save_state


def predict(current: Tensor, reference: Tensor, generator: torch.Generator) -> Tensor:
    """Motion-compensated context in [-1, 1]; some blocks keep the global vector, as they will under a budget."""
    planes = half_pel_planes(to_bytes(reference))
    search = MotionSearch(to_bytes(current), planes)
    vector, field = search.run()
    plain = (
        torch.rand(*field.shape[:3], 1, generator=generator)
        < torch.rand(len(field), 1, 1, 1, generator=generator) * 0.5
    )
    return to_unit(compensate(planes, torch.where(plain.to(field.device), search.uniform(vector), field)))


def choose_cells(current: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
    """Mask float `[B, 1, h, w]`: the worst cells, any share of them, with some chance in the choice."""
    error = F.avg_pool2d((current - context).square().mean(1, keepdim=True), CELL)
    noise = torch.empty(error.shape).exponential_(generator=generator).to(error.device)
    rank = (error * noise).flatten(1).argsort(1).argsort(1).view_as(error).float() / error[0].numel()
    share = torch.rand(len(error), 1, 1, 1, generator=generator).to(error.device)
    return (rank >= 1 - share.clamp(min=0.05) * 1.3).float()


def cells_to_pixels(mask: Tensor) -> Tensor:
    return F.interpolate(mask, scale_factor=CELL, mode="nearest")


def masked_loss(output: Tensor, target: Tensor, mask: Tensor, spent: float) -> tuple[Tensor, Tensor]:
    """(loss, mean squared error per crop) over the coded cells."""
    weight = cells_to_pixels(mask)
    area = weight.sum((1, 2, 3)) * 3 + 1
    error = (output.float() - target) * weight
    mse = error.square().sum((1, 2, 3)) / area
    plain = (error.abs().sum((1, 2, 3)) / area).mean() + 0.5 * mse.mean()
    return (plain if spent < 0.1 else plain + 0.1 * (mse + 1e-4).log().mean()), mse.detach()


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    pack = ClipPack(args.pack)
    key = (
        load_checkpoint(args.key, "image_tokenizer").to(device, memory_format=torch.channels_last).requires_grad_(False)
    )
    trained_with = file_digest(args.key)
    model = ResidualCodec()
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.start_from(key)
    average = Average(model)
    optimizers = build_optimizers(model, args.lr, args.muon_lr)
    step, before = load_state(args.state, model, average, optimizers)
    generator = torch.Generator().manual_seed(args.seed + step)
    run = torch.compile(model, dynamic=False) if args.compile else model
    started, gains, levels = time.monotonic(), [], []
    while (seconds := before + time.monotonic() - started) < args.minutes * 60:
        spent = seconds / (args.minutes * 60)
        clips = pack.runs(args.batch, args.side, 3, generator).to(device)
        first = clips[:, :, 0].contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            coded = key(first).float()
        # A fifth of the references is clean: high quality settings refine until the reference is nearly the source.
        clean = (torch.rand(args.batch, 1, 1, 1, generator=generator) < 0.2).to(device)
        reference = torch.where(clean, first, coded)
        if step % 16 == 0:
            reference = reference.roll(1, 0)  # a context that has nothing to do with the frame: uncovered ground, cuts
        for t in (1, 2):
            current = clips[:, :, t].contiguous(memory_format=torch.channels_last)
            context = predict(current, reference, generator)
            mask = choose_cells(current, context, generator)
            with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
                output = run(current, context, mask, noise=spent < 0.7 and step % 8 == 1)
            loss, mse = masked_loss(output, current, mask, spent)
            loss.backward()
            reference = torch.where(cells_to_pixels(mask) > 0, output.detach().float(), context)
            _, bare = masked_loss(context, current, mask, spent)
            levels.append((mse + 1e-6).log10().mean().item())
            gains.append(((bare + 1e-6) / (mse + 1e-6)).log10().mean().item())
        descend(model, optimizers, spent, step)
        average.update(model, step)
        step += 1
        if step % args.every == 0:
            level, gain = 6.02 - 10 * sum(levels) / len(levels), 10 * sum(gains) / len(gains)
            levels.clear()
            gains.clear()
            print(
                f"step {step} {seconds:.0f} s {spent:.3f} coded cells {level:.2f} dB, {gain:+.2f} dB over context",
                flush=True,
            )
            save_state(args.state, model, average, optimizers, step, seconds)
            save_checkpoint(args.out, average.model, "residual_codec", args.name, trained_with=trained_with)
    save_state(args.state, model, average, optimizers, step, args.minutes * 60)
    save_checkpoint(args.out, average.model, "residual_codec", args.name, trained_with=trained_with)


def main() -> None:
    parser = training_parser(__doc__, "p8")
    parser.add_argument("--key", type=Path, required=True, help="the trained key-frame tokenizer")
    parser.add_argument(
        "--muon-lr", type=float, default=0.01, help="below the tokenizer's: training starts from its weights"
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=96)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
