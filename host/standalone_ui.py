"""The embedded host's `ui`: what a node shows besides its outputs. Names and dicts are those of ComfyUI's V3 API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..tokens.whole_files import whole_file
from . import files
from .standalone import ComfyNode, FolderType

if TYPE_CHECKING:
    import torch


class SavedResult(dict[str, str]):
    """A written file: its name, and its subfolder of the input, output or temp folder."""

    def __init__(self, filename: str, subfolder: str, type: FolderType):
        super().__init__(filename=filename, subfolder=subfolder, type=FolderType(type).value)


class SavedImages:
    """Files that the editor shows as images, or as a video when animated."""

    def __init__(self, results: list[SavedResult], is_animated: bool = False):
        self.results = results
        self.is_animated = is_animated

    def as_dict(self) -> dict[str, Any]:
        return {"images": self.results, **({"animated": (True,)} if self.is_animated else {})}


class PreviewImage:
    """Images `[B, H, W, C]` in 0..1, written as PNG files into the temp folder."""

    def __init__(self, image: torch.Tensor, animated: bool = False, cls: type[ComfyNode] | None = None):
        self.values = save_images(image, "preview", folder=FolderType.temp)
        self.animated = animated

    def as_dict(self) -> dict[str, Any]:
        return {"images": self.values, "animated": (self.animated,)}


class PreviewMask(PreviewImage):
    """Masks `[B, H, W]` in 0..1, shown as gray images."""

    def __init__(self, mask: torch.Tensor, animated: bool = False, cls: type[ComfyNode] | None = None):
        gray = mask.reshape(-1, *mask.shape[-2:], 1).expand(-1, -1, -1, 3)  # [B, H, W, 3]
        super().__init__(gray, animated, cls)


class PreviewVideo:
    """Video files, shown at the node; API clients find them under `images`."""

    def __init__(self, values: list[SavedResult]):
        self.values = values

    def as_dict(self) -> dict[str, Any]:
        return {"images": self.values, "animated": (True,)}


class PreviewText:
    """Text, shown at the node."""

    def __init__(self, value: str):
        self.value = value

    def as_dict(self) -> dict[str, Any]:
        return {"text": (self.value,)}


def save_images(images: torch.Tensor, filename_prefix: str, *, folder: FolderType) -> list[SavedResult]:
    """Write images `[B, H, W, C]` in 0..1, C = 1, 3 or 4, as numbered PNG files."""
    from PIL import Image

    results = []
    height, width = images.shape[1:3]
    for image in images:
        levels = (image.detach().float().cpu() * 255).round().clamp(0, 255).byte().numpy()  # [H, W, C]
        picture = Image.fromarray(levels.squeeze(-1) if levels.shape[-1] == 1 else levels)
        with files.output_path(filename_prefix, ".png", width=width, height=height, folder=folder.value) as file:
            with whole_file(file.path) as target:
                picture.save(target, format="PNG", compress_level=4)
            results.append(SavedResult(file.filename, file.subfolder, folder))
    return results
