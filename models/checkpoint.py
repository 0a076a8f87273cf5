"""safetensors <-> model. A checkpoint describes itself: kind, name and config stand in its metadata; file names mean nothing."""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from .image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from .residual_codec import ResidualCodec, ResidualCodecConfig

WEIGHTS = Path(__file__).parent / "weights"
"""The weights that come with the pack."""
FORMAT = "tokenreel"
MODELS: Mapping[str, tuple[type[nn.Module], Any]] = {
    "image_tokenizer": (ImageTokenizer, ImageTokenizerConfig),
    "residual_codec": (ResidualCodec, ResidualCodecConfig),
}


class CheckpointError(ValueError):
    """A weights file that is not what was asked for; the message names the file and the way out."""


def save_checkpoint(path: Path, model: nn.Module, kind: str, name: str) -> None:
    """Writes fp16 weights with kind, name and config as metadata; whole or not at all."""
    tensors = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    config: Any = model.config
    meta = {"format": FORMAT, "kind": kind, "name": name, "config": json.dumps(config.to_dict(), sort_keys=True)}
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_bytes(save(tensors, meta))
    os.replace(unfinished, path)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a checkpoint of ours, without reading the weights. Raises CheckpointError for any other file."""
    try:
        with safe_open(path, "pt") as file:
            meta = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path.name} is not a readable safetensors file ({error}). Fetch or export it again."
        ) from error
    if meta.get("format") != FORMAT or meta.get("kind") not in MODELS:
        raise CheckpointError(
            f"{path.name} is not a TokenReel checkpoint (kind {meta.get('kind')!r}). Supported kinds are {', '.join(MODELS)}."
        )
    return meta


def load_checkpoint(path: Path, kind: str, operations: ModuleType | Any = nn) -> Any:
    """The model in fp32, in evaluation mode, on the CPU. Shapes and names must match the stored config exactly."""
    meta = read_metadata(path)
    if meta["kind"] != kind:
        raise CheckpointError(f"{path.name} holds a {meta['kind']}, but a {kind} is needed here. Choose another file.")
    network, config = MODELS[kind]
    try:
        model = network(config.from_dict(json.loads(meta["config"])), operations)
        with safe_open(path, "pt") as file:
            model.load_state_dict({key: file.get_tensor(key).float() for key in file.keys()})
    except (TypeError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{path.name} does not fit its own config ({reason}). Update TokenReel or the file."
        ) from error
    return model.eval()


@dataclass(frozen=True)
class VideoTokenizer:
    """What the VIDEO_TOKENIZER socket carries: the key-frame tokenizer and, where there is one, its residual codec."""

    image: ImageTokenizer
    residual: ResidualCodec | None
    id: str
    digest: str
    """SHA-256 of the key-frame tokenizer's file."""
    codec_id: str = ""
    codec_digest: str = ""

    @property
    def levels(self) -> tuple[int, ...]:
        return self.image.config.levels

    @property
    def codebook_size(self) -> int:
        return math.prod(self.levels)

    @property
    def device(self) -> torch.device:
        return next(self.image.parameters()).device

    def to(self, device: torch.device) -> "VideoTokenizer":
        """Moves both networks, in place, to the device and to the memory layout that convolutions like best."""
        for network in (self.image, self.residual):
            if network is not None:
                network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def list_tokenizers(folder: Path = WEIGHTS) -> dict[str, Path]:
    """Names of the key-frame tokenizers in a folder -> their files."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        meta = read_metadata(path)
        if meta["kind"] == "image_tokenizer":
            found[meta["name"]] = path
    return found


def load_tokenizer(path: Path | None = None, residual: Path | None = None) -> VideoTokenizer:
    """Loads a key-frame tokenizer and its residual codec.

    path: a key-frame checkpoint, the shipped one by default. residual: its codec; by default the file of that kind in the
    same folder, if there is just one that was trained with this tokenizer.
    """
    path = path or next(iter(list_tokenizers().values()))
    image = load_checkpoint(path, "image_tokenizer")
    residual = residual or _companion(path)
    codec = load_checkpoint(residual, "residual_codec") if residual else None
    return VideoTokenizer(
        image=image,
        residual=codec,
        id=read_metadata(path)["name"],
        digest=file_digest(path),
        codec_id=read_metadata(residual)["name"] if residual else "",
        codec_digest=file_digest(residual) if residual else "",
    )


def _companion(path: Path) -> Path | None:
    codecs = [p for p in sorted(path.parent.glob("*.safetensors")) if read_metadata(p)["kind"] == "residual_codec"]
    return codecs[0] if codecs else None
