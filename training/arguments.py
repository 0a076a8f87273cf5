"""The arguments that all training programs share."""

import argparse
from pathlib import Path

import torch


def training_parser(
    description: str | None, name: str, data: str = "pack", built_by: str = "tokenreel.training.data"
) -> argparse.ArgumentParser:
    """A parser for the data, the outputs, the time and the device; `name` is the model's, and its files' by default.

    `data` is the option that names the clips, which the program `built_by` builds.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(f"--{data}", type=Path, required=True, help=f"clips as built by {built_by}")
    parser.add_argument(
        "--out", type=Path, default=Path(f"{name}.safetensors"), help="fp16 checkpoint, written as training goes"
    )
    parser.add_argument(
        "--state", type=Path, default=Path(f"{name}.state.safetensors"), help="everything needed to resume"
    )
    parser.add_argument("--name", default=name)
    parser.add_argument("--minutes", type=float, default=60, help="time budget in all, over all resumed runs")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--compile", action="store_true", help="torch.compile: slow to start, then 10 %% faster")
    return parser
