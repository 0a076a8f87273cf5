"""Trains the interpolator's network.

`python -m tokenreel.training.interpolator --pack clips.safetensors`

Half of each batch is synthetic layered motion, whose flow is known exactly; the other half are real windows of three
frames from a clip, where the flow is taught by DIS (OpenCV) between the frame in between, which only training has, and
its neighbours, as far as it explains the frame better than the network's own. A share of the steps starts from the flow
that `models.flow_search` finds without weights, as the pack does in use; the others start from
nothing, as ComfyUI's own node does.
"""

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ..models.checkpoint import save_checkpoint
from ..models.flow_search import find_motion, flow_at, pixel_grid, sample
from ..models.interpolator import IFNet, blend
from .arguments import training_parser
from .data import ClipPack
from .layered_motion import layered_motion
from .optimizer import Average, build_optimizers, descend, load_state, save_state

LAYERS = 4
SPANS = torch.tensor([0, 0, 5, 1, 3, 1, 2, 0, 1.0])
"""How often the first and the second frame of a real window are 2, 3, 4 ... frames apart."""


class Batches(IterableDataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """(frames `[B, 3, 3, S, S]` in [0, 1], times `[B]`, flows `[B, 4, S, S]`, trust in the flows `[B]`) without end.

    A flow that is trusted by 1 is exact, by 0 it is a teacher's guess.
    """

    def __init__(self, pack: ClipPack, count: int, side: int, seed: int):
        self.pack, self.count, self.side = pack, count, side
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        torch.set_num_threads(1)
        while True:
            yield self._draw()

    def _draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        real = self.count // 2
        drawn = self.count - real
        frames, times = self.pack.windows(real, self.side, SPANS, self.generator)
        frames = frames / 2 + 0.5
        taught = torch.stack([taught_flow(each) for each in frames])
        textures = torch.stack([self.pack.frames(drawn, self.side, self.generator) for _ in range(LAYERS)]) / 2 + 0.5
        speed = float(self.side * 10 ** (-1.8 + 1.1 * torch.rand(1, generator=self.generator)))
        made, moments, flows = layered_motion(textures, self.side, speed, self.generator)
        made = self._grain(made)
        trust = torch.cat([torch.zeros(real), torch.ones(drawn)])
        return torch.cat([frames, made]), torch.cat([times, moments]), torch.cat([taught, flows]), trust

    def _grain(self, frames: Tensor) -> Tensor:
        """Fine noise on some of the neighbours, never on the frame in between: it is not to be learned."""
        level = torch.rand(len(frames), 1, 1, 1, 1, generator=self.generator)
        noise = torch.randn(frames.shape, generator=self.generator) * (level - 0.6).clamp(min=0) * 0.03
        noise[:, :, 1] = 0
        return (frames + noise).clamp(0, 1)


def taught_flow(window: Tensor) -> Tensor:
    """Flow `[4, S, S]` of the middle frame of `[3, 3, S, S]` to both others, by DIS."""
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Missing OpenCV, the teacher: pip install opencv-python-headless.", name="cv2"
        ) from error
    cv2.setNumThreads(1)
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1, 1)
    grey = ((window * weights).sum(0) * 255).round().to(torch.uint8).numpy()
    empty: Any = None
    flows = [torch.from_numpy(search.calc(grey[1], np.ascontiguousarray(grey[i]), empty)) for i in (0, 2)]
    return torch.cat(flows, -1).permute(2, 0, 1)


def flow_distance(flows: list[Tensor], taught: Tensor, weight: Tensor) -> Tensor:
    """Mean distance in pixels of the flows after each block to the taught ones; later blocks count more."""
    total, sum_of_shares = torch.zeros(()), 0.0
    for number, flow in enumerate(reversed(flows)):
        share = 0.7**number
        away = (flow - taught).unflatten(1, (2, 2)).square().sum(2).add(0.01).sqrt().sum(1, keepdim=True)
        total = total + share * (away * weight).mean()
        sum_of_shares += share
    return total / sum_of_shares


@torch.no_grad()
def trust_in(taught: Tensor, trust: Tensor, own: Tensor, frames: Tensor) -> Tensor:
    """`[B, 1, S, S]` in [0, 1]: 1 where the flow is exact, or explains the frame better than the own flow."""
    grid = pixel_grid(frames.shape[-2], frames.shape[-1], frames)

    def error(flow: Tensor) -> Tensor:
        each = [
            (sample(frames[:, :, 2 * i], grid + flow[:, 2 * i : 2 * i + 2]) - frames[:, :, 1]).abs() for i in (0, 1)
        ]
        return F.avg_pool2d(torch.minimum(*each).mean(1, keepdim=True), 5, 1, 2)

    return torch.maximum((error(taught) < error(own)).float(), trust.view(-1, 1, 1, 1))


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    model = IFNet()
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = Average(model)
    optimizers = build_optimizers(model, args.lr, args.muon_lr)
    step, before = load_state(args.state, model, average, optimizers)
    batches = Batches(ClipPack(args.pack), args.batch, args.side, args.seed + step)
    loader = iter(
        DataLoader(batches, batch_size=None, num_workers=args.workers, prefetch_factor=4 if args.workers else None)
    )
    generator = torch.Generator().manual_seed(args.seed + step)
    run = torch.compile(model, dynamic=False) if args.compile else model
    started, levels, distances = time.monotonic(), [], []
    while (seconds := before + time.monotonic() - started) < args.minutes * 60:
        spent = seconds / (args.minutes * 60)
        frames, times, taught, trust = (each.to(device) for each in next(loader))
        first, middle, second = (each.contiguous(memory_format=torch.channels_last) for each in frames.unbind(2))
        moment = times.view(-1, 1, 1, 1)
        start = None
        if torch.rand(1, generator=generator) < args.started:
            with torch.no_grad():
                start, _ = flow_at(find_motion(first, second), moment)
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            output, flows, mask = run(first, second, moment, start=start)
        if start is not None:
            output = blend(first, second, flows[-1], torch.sigmoid(mask))
        distance = flow_distance(flows, taught, trust_in(taught, trust, flows[-1].detach(), frames))
        squared = (output - middle).square().mean((1, 2, 3))
        # What counts in the end is PSNR, a mean of logarithms: crops that are nearly right are to become right.
        loss = 0.1 * (squared + 2e-5).log().mean() + (output - middle).abs().mean() + args.flow * distance
        loss.backward()
        descend(model, optimizers, spent, step)
        average.update(model, step)
        levels.append((squared.detach() + 1e-6).log10())
        distances.append(distance.item())
        step += 1
        if step % args.every == 0:
            level = -10 * torch.stack(levels).view(len(levels), 2, -1).mean((0, 2))
            print(
                f"step {step} {seconds:.0f} s {spent:.3f} real {level[0]:.2f} dB, drawn {level[1]:.2f} dB, "
                f"flow {sum(distances) / len(distances):.2f} px",
                flush=True,
            )
            levels.clear()
            distances.clear()
            save_state(args.state, model, average, optimizers, step, seconds)
            save_checkpoint(args.out, average.model, "interpolator", args.name)
    save_state(args.state, model, average, optimizers, step, args.minutes * 60)
    save_checkpoint(args.out, average.model, "interpolator", args.name)


def main() -> None:
    parser = training_parser(__doc__, "flow")
    parser.add_argument("--muon-lr", type=float, default=0.01)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=192, help="a multiple of 64")
    parser.add_argument("--flow", type=float, default=0.005, help="weight of a pixel of wrong flow")
    parser.add_argument("--started", type=float, default=0.0, help="share of the steps that start from a flow")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw the batches")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
