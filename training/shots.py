"""Trains the shot net.

`python -m tokenreel.training.shots --pack shots.pack --minutes 20`

The pack is that of tokenreel.training.shot_clips. Every step composes new stretches of video with known changes of
shot, see transitions.py; nothing is drawn twice. Resumes from `--state` where it left off.
"""

import argparse
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.checkpoint import save_checkpoint
from ..models.shot_net import ShotNet, ShotNetConfig
from .arguments import training_parser
from .optimizer import Average, build_optimizers, descend, load_state, save_state
from .shot_clips import ThumbnailPack
from .transitions import compose

RARE = (5.0, 1.0, 1.0, 3.0)
"""How much a frame of each class counts: cuts and flashes are rare."""


def batch_of(pack: ThumbnailPack, rng: np.random.Generator, count: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Thumbnails `[B, T, 3, 27, 48]` in [0, 1], labels and weights `[B, T, 4]`."""
    drawn = [compose(pack, rng, length) for _ in range(count)]
    frames = torch.from_numpy(np.stack([each.frames for each in drawn])).permute(0, 1, 4, 2, 3) / 255
    labels, weights = (torch.from_numpy(np.stack([getattr(each, name) for each in drawn])) for name in _TARGETS)
    return frames, labels, weights


_TARGETS = ("labels", "weights")


def loss_of(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Cross entropy of each class by itself, `[B, T, 4]`; several may hold at once."""
    each = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=logits.new_tensor(RARE), reduction="none")
    return (each * weights).sum() / weights.sum().clamp(min=1)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    pack = ThumbnailPack(args.pack)
    model = ShotNet(ShotNetConfig()).to(device)
    average = Average(model)
    optimizers = build_optimizers(model, args.lr, args.muon_lr)
    step, before = load_state(args.state, model, average, optimizers)
    rng = np.random.default_rng([args.seed, step])
    started, losses = time.monotonic(), []
    radius = model.config.radius
    while (seconds := before + time.monotonic() - started) < args.minutes * 60:
        spent = seconds / (args.minutes * 60)
        frames, labels, weights = (part.to(device) for part in batch_of(pack, rng, args.batch, args.length))
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16 and device.type != "cpu"):
            logits = model(frames)
        loss = loss_of(logits.float(), labels[:, radius:-radius], weights[:, radius:-radius])
        loss.backward()
        descend(model, optimizers, spent, step)
        average.update(model, step)
        step += 1
        losses.append(loss.item())
        if step % args.every == 0:
            print(f"step {step} {seconds:.0f} s {spent:.3f} loss {sum(losses) / len(losses):.4f}", flush=True)
            losses.clear()
            save_state(args.state, model, average, optimizers, step, seconds)
            save_checkpoint(args.out, average.model, "shot_net", args.name)
    save_state(args.state, model, average, optimizers, step, args.minutes * 60)
    save_checkpoint(args.out, average.model, "shot_net", args.name)


def main() -> None:
    parser = training_parser(__doc__, "shots")
    parser.add_argument("--muon-lr", type=float, default=0.01)
    parser.add_argument("--batch", type=int, default=8, help="stretches a step")
    parser.add_argument("--length", type=int, default=256, help="frames of a stretch")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
