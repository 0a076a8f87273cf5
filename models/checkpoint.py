"""safetensors <-> model. A checkpoint describes itself by its metadata: kind, name, config. File names mean nothing."""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from ..tokens.video_tokens import VideoTokens
from ..tokens.whole_files import file_digest, whole_file
from .generator import GeneratorConfig, TokenGenerator
from .image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from .interpolator import IFNet, InterpolatorConfig, NetInterpolator
from .residual_codec import ResidualCodec, ResidualCodecConfig
from .shot_net import ShotNet, ShotNetConfig
from .upscaler import CompactUpscaler, NetUpscaler, UpscalerConfig
from .video_tokenizer import CausalVideoTokenizer, VideoTokenizerConfig

WEIGHTS = Path(__file__).parent / "weights"
"""The weights that come with the pack."""
FORMAT = "tokenreel"
MODELS: Mapping[str, tuple[type[nn.Module], Any]] = {
    "image_tokenizer": (ImageTokenizer, ImageTokenizerConfig),
    "residual_codec": (ResidualCodec, ResidualCodecConfig),
    "video_tokenizer": (CausalVideoTokenizer, VideoTokenizerConfig),
    "shot_net": (ShotNet, ShotNetConfig),
    "interpolator": (IFNet, InterpolatorConfig),
    "upscaler": (CompactUpscaler, UpscalerConfig),
    "generator": (TokenGenerator, GeneratorConfig),
}
TOKENIZERS = ("image_tokenizer", "video_tokenizer")
"""Kinds that make tokens by themselves."""
GENERATORS = ("hybrid", "full", "linear", "performer", "window", "small")
"""Names of the generators that come with the pack; all but the first are of one small size, "small" a hybrid too."""


class CheckpointError(ValueError):
    """A weights file that is not what was asked for; the message names the file and the way out."""


def save_checkpoint(path: Path, model: nn.Module, kind: str, name: str, *, trained_with: str = "") -> None:
    """Writes fp16 weights with kind, name and config as metadata; whole or not at all.

    trained_with: for a residual codec, the SHA-256 of the key-frame checkpoint it goes with.
    """
    tensors = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    config: Any = model.config
    meta = {"format": FORMAT, "kind": kind, "name": name, "config": json.dumps(config.to_dict(), sort_keys=True)}
    if trained_with:
        meta["trained_with"] = trained_with
    with whole_file(path) as file:
        file.write(save(tensors, meta))


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a checkpoint of ours, without reading the weights. Raises CheckpointError for any other file."""
    try:
        with safe_open(path, "pt") as file:
            meta = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path.name} is not a readable safetensors file ({error}). Fetch or export it again."
        ) from error
    if meta.get("format") != FORMAT or meta.get("kind") not in MODELS or not {"name", "config"} <= meta.keys():
        raise CheckpointError(
            f"{path.name} is not a TokenReel checkpoint (kind {meta.get('kind')!r}). "
            f"Supported kinds are {', '.join(MODELS)}."
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
            keys = list(file.keys())
            model.load_state_dict({key: file.get_tensor(key).float() for key in keys})
    except (TypeError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path.name} does not fit its own config ({reason:.300}). Update TokenReel or the file."
        ) from error
    return model.eval()


Own = TypeVar("Own", bound="_Tokenizer")


class _Tokenizer(ABC):
    """What both kinds of tokenizers tell of themselves."""

    @property
    @abstractmethod
    def networks(self) -> list[nn.Module]:
        """The one that makes the tokens first."""

    @property
    def levels(self) -> tuple[int, ...]:
        config: Any = self.networks[0].config
        return config.levels

    @property
    def codebook_size(self) -> int:
        return math.prod(self.levels)

    @property
    def device(self) -> torch.device:
        return next(self.networks[0].parameters()).device

    def to(self: Own, device: torch.device) -> Own:
        """Moves the networks, in place, to the device and to the memory layout that convolutions like best."""
        for network in self.networks:
            network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self


@dataclass(frozen=True)
class VideoTokenizer(_Tokenizer):
    """What the VIDEO_TOKENIZER socket carries: the key-frame tokenizer and, where there is one, its residual codec."""

    image: ImageTokenizer
    residual: ResidualCodec | None
    id: str
    digest: str
    """SHA-256 of the key-frame tokenizer's file."""
    codec_id: str = ""
    codec_digest: str = ""

    @property
    def networks(self) -> list[nn.Module]:
        return [self.image] if self.residual is None else [self.image, self.residual]


@dataclass(frozen=True)
class ClipTokenizer(_Tokenizer):
    """What the VIDEO_TOKENIZER socket carries for a tokenizer of whole clips, which needs no residual codec."""

    network: CausalVideoTokenizer
    id: str
    digest: str
    """SHA-256 of its file."""
    codec_id: str = ""
    codec_digest: str = ""

    @property
    def networks(self) -> list[nn.Module]:
        return [self.network]


AnyTokenizer = VideoTokenizer | ClipTokenizer


def _checkpoints(folder: Path, kind: str) -> Iterator[tuple[str, Path]]:
    """Name and file of each checkpoint of a kind; a folder of models may hold other people's files too."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            meta = read_metadata(path)
        except CheckpointError:
            continue
        if meta["kind"] == kind:
            yield meta["name"], path


def list_tokenizers(folder: Path = WEIGHTS, kinds: Iterable[str] = TOKENIZERS) -> dict[str, Path]:
    """Names of the tokenizers in a folder -> their files, by kind in the order of `kinds`."""
    return {name: path for kind in kinds for name, path in _checkpoints(folder, kind)}


def load_any_tokenizer(path: Path) -> AnyTokenizer:
    """Loads a tokenizer of either kind. Raises CheckpointError for a file that is none."""
    return load_clip_tokenizer(path) if read_metadata(path)["kind"] == "video_tokenizer" else load_tokenizer(path)


def load_clip_tokenizer(path: Path | None = None) -> ClipTokenizer:
    """Loads a tokenizer of whole clips, by default the shipped one. Raises CheckpointError for any other file."""
    path = path or next(iter(list_tokenizers(kinds=["video_tokenizer"]).values()), None)
    if path is None:
        raise CheckpointError(f"No clip tokenizer in {WEIGHTS.name}/. Install the pack again, weights included.")
    network: CausalVideoTokenizer = load_checkpoint(path, "video_tokenizer")
    return ClipTokenizer(network, read_metadata(path)["name"], file_digest(path))


def load_shot_net(path: Path | None = None) -> ShotNet:
    """Loads a shot net, by default the shipped one, to be run only. Raises CheckpointError for any other file."""
    path = path or next((found for _, found in _checkpoints(WEIGHTS, "shot_net")), None)
    if path is None:
        raise CheckpointError(f"No shot net in {WEIGHTS.name}/. Install the pack again, weights included.")
    return load_checkpoint(path, "shot_net").requires_grad_(False)


def load_interpolator(path: Path | None = None) -> NetInterpolator:
    """The interpolator in a checkpoint of ours, the shipped one by default. Raises CheckpointError for another file."""
    return NetInterpolator(load_checkpoint(path or WEIGHTS / "interpolator.safetensors", "interpolator"))


def load_upscaler(
    path: Path | str = "x2-m", device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> NetUpscaler:
    """The upscaler in a checkpoint of ours, or a shipped one by name. Raises CheckpointError for anything else."""
    if isinstance(path, str):
        shipped = dict(_checkpoints(WEIGHTS, "upscaler"))
        if path not in shipped:
            raise CheckpointError(f"No upscaler {path!r} comes with the pack. Supported are {', '.join(shipped)}.")
        path = shipped[path]
    return NetUpscaler(load_checkpoint(path, "upscaler"), device, dtype)


def load_generator(path: Path | str = "hybrid", operations: ModuleType | Any = nn) -> TokenGenerator:
    """The generator of tokens in a checkpoint of ours, or a shipped one by name, to be run only.

    Raises CheckpointError for anything else.
    """
    if isinstance(path, str):
        if path not in GENERATORS:
            raise CheckpointError(f"No generator {path!r} comes with the pack. Supported are {', '.join(GENERATORS)}.")
        path = WEIGHTS / ("generator.safetensors" if path == GENERATORS[0] else f"generator_{path}.safetensors")
    net: TokenGenerator = load_checkpoint(path, "generator", operations)
    net.tokenizer_digest = read_metadata(path).get("trained_with", "")
    return net.requires_grad_(False)


def load_tokenizer(path: Path | None = None, residual: Path | None = None) -> VideoTokenizer:
    """Loads a key-frame tokenizer and its residual codec.

    path: a key-frame checkpoint, the shipped one by default. residual: its codec; by default the one in the same folder
    that was trained with it. Raises CheckpointError for files that are no such networks or do not go together.
    """
    path = path or next(iter(list_tokenizers(kinds=["image_tokenizer"]).values()), None)
    if path is None:
        raise CheckpointError(f"No key-frame tokenizer in {WEIGHTS.name}/. Install the pack again, weights included.")
    image: ImageTokenizer = load_checkpoint(path, "image_tokenizer")
    digest = file_digest(path)
    residual = residual or _companion(path, digest)
    codec: ResidualCodec | None = load_checkpoint(residual, "residual_codec") if residual else None
    if residual and codec and codec.config.levels != image.config.levels:
        raise CheckpointError(
            f"{residual.name} has the levels {codec.config.levels}, {path.name} has {image.config.levels}. "
            "Choose a residual codec that was trained with this tokenizer."
        )
    return VideoTokenizer(
        image=image,
        residual=codec,
        id=read_metadata(path)["name"],
        digest=digest,
        codec_id=read_metadata(residual)["name"] if residual else "",
        codec_digest=file_digest(residual) if residual else "",
    )


def _companion(path: Path, digest: str) -> Path | None:
    """The residual codec beside a key-frame checkpoint: the one that names it, or else the first that names none."""
    named = {
        found: read_metadata(found).get("trained_with") for _, found in _checkpoints(path.parent, "residual_codec")
    }
    mine = [found for found, name in named.items() if name == digest]
    return next(iter(mine or [found for found, name in named.items() if name is None]), None)


def tokenizer_of(tokens: VideoTokens, candidates: Iterable[Path], way_out: str) -> AnyTokenizer:
    """The tokenizer that made the tokens, found among weights files by digest; files of other kinds are passed over.

    Raises CheckpointError, with `way_out` at its end, when it is not among them.
    """
    candidates = list(candidates)
    found = _with_digest(tokens.digest, TOKENIZERS, candidates)
    if found is None:
        raise CheckpointError(
            f"These tokens were made by tokenizer {tokens.tokenizer!r} ({tokens.digest[:12]}), which is not among the "
            f"{len(candidates)} weights files known here. {way_out}"
        )
    if read_metadata(found)["kind"] == "video_tokenizer":
        return load_clip_tokenizer(found)
    residual = _with_digest(tokens.codec_digest, ("residual_codec",), candidates) if tokens.codec else None
    if tokens.codec and residual is None:
        raise CheckpointError(
            f"These tokens were made with residual codec {tokens.codec!r} ({tokens.codec_digest[:12]}), which is not "
            f"among the {len(candidates)} weights files known here. {way_out}"
        )
    return load_tokenizer(found, residual)


def _with_digest(digest: str, kinds: Iterable[str], candidates: list[Path]) -> Path | None:
    for path in candidates:
        try:
            if read_metadata(path)["kind"] in kinds and file_digest(path) == digest:
                return path
        except CheckpointError:
            continue  # somebody else's file
    return None
