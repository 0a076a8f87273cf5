"""Stand-ins for the ComfyUI nodes that our workflows use, for the embedded host: same ids, inputs and outputs.

They do what ComfyUI's do, with two differences: they write no workflow into the files, and they ignore inputs that they
do not know, because newer editors add some.
"""

from __future__ import annotations

import json
import os
from fractions import Fraction
from typing import Any

from . import files, standalone_ui
from . import standalone as io
from .video_handles import VideoComponents, VideoFromComponents, VideoFromFile


class BuiltinNode(io.ComfyNode):
    """Base of the stand-ins."""

    IGNORES_UNKNOWN_INPUTS = True


class LoadVideo(BuiltinNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadVideo",
            display_name="Load Video",
            category="video",
            inputs=[io.Combo.Input("file", options=files.list_inputs("video"), upload=io.UploadType.video)],
            outputs=[io.Video.Output()],
        )

    @classmethod
    def validate_inputs(cls, file: str) -> bool | str:
        return _exists(file)

    @classmethod
    def fingerprint_inputs(cls, file: str) -> str:
        return files.fingerprint(files.resolve_input(file))

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        return io.NodeOutput(VideoFromFile(files.resolve_input(file)))


class SaveVideo(BuiltinNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveVideo",
            display_name="Save Video",
            category="video",
            inputs=[
                io.Video.Input("video"),
                io.String.Input("filename_prefix", default="video/ComfyUI"),
                io.Combo.Input("format", options=["auto", "mp4"], default="auto"),
                io.Combo.Input("codec", options=["auto", "h264"], default="auto"),
            ],
            outputs=[io.Video.Output("video")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, video: Any, filename_prefix: str, format: str, codec: str) -> io.NodeOutput:
        width, height = video.get_dimensions()
        with files.output_path(filename_prefix, ".mp4", width=width, height=height) as file:
            video.save_to(file.path, format=format, codec=codec)
        saved = standalone_ui.SavedResult(file.filename, file.subfolder, io.FolderType.output)
        return io.NodeOutput(video, ui=standalone_ui.PreviewVideo([saved]))


class CreateVideo(BuiltinNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CreateVideo",
            display_name="Create Video",
            category="video",
            inputs=[
                io.Image.Input("images"),
                io.Float.Input("fps", default=30.0, min=1.0, max=120.0, step=1.0),
                io.Audio.Input("audio", optional=True),
                io.Int.Input("bit_depth", default=8, min=8, max=10, step=2, optional=True),
            ],
            outputs=[io.Video.Output()],
        )

    @classmethod
    def execute(cls, images: Any, fps: float, audio: Any = None, bit_depth: int = 8) -> io.NodeOutput:
        if bit_depth != 8:
            raise ValueError(f"bit_depth {bit_depth} needs ComfyUI. The embedded host makes 8-bit videos: set it to 8.")
        return io.NodeOutput(VideoFromComponents(VideoComponents(images, Fraction(fps), audio), bit_depth))


class GetVideoComponents(BuiltinNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GetVideoComponents",
            display_name="Get Video Components",
            category="video",
            inputs=[io.Video.Input("video")],
            outputs=[
                io.Image.Output(display_name="images"),
                io.Audio.Output(display_name="audio"),
                io.Float.Output(display_name="fps"),
                io.Int.Output(display_name="bit_depth"),
            ],
        )

    @classmethod
    def execute(cls, video: Any) -> io.NodeOutput:
        parts = video.get_components()
        return io.NodeOutput(parts.images, parts.audio, float(parts.frame_rate), video.get_bit_depth())


class LoadImage(BuiltinNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadImage",
            display_name="Load Image",
            category="image",
            inputs=[io.Combo.Input("image", options=files.list_inputs("image"), upload=io.UploadType.image)],
            outputs=[io.Image.Output(), io.Mask.Output()],
        )

    @classmethod
    def validate_inputs(cls, image: str) -> bool | str:
        return _exists(image)

    @classmethod
    def fingerprint_inputs(cls, image: str) -> str:
        return files.fingerprint(files.resolve_input(image))

    @classmethod
    def execute(cls, image: str) -> io.NodeOutput:
        import numpy as np
        import torch
        from PIL import Image, ImageOps

        with Image.open(files.resolve_input(image)) as file:
            picture = ImageOps.exif_transpose(file).convert("RGBA")
            has_alpha = "A" in file.getbands() or "transparency" in file.info
        pixels = torch.from_numpy(np.array(picture)).float()[None] / 255  # [1, H, W, 4]
        mask = 1 - pixels[..., 3] if has_alpha else torch.zeros(1, 64, 64)  # ComfyUI's size for "no mask"
        return io.NodeOutput(pixels[..., :3], mask)


class SaveImage(BuiltinNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveImage",
            display_name="Save Image",
            category="image",
            inputs=[io.Image.Input("images"), io.String.Input("filename_prefix", default="ComfyUI")],
            outputs=[io.Image.Output(display_name="images")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: Any, filename_prefix: str) -> io.NodeOutput:
        saved = standalone_ui.save_images(images, filename_prefix, folder=io.FolderType.output)
        return io.NodeOutput(images, ui=standalone_ui.SavedImages(saved))


class PreviewImage(BuiltinNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PreviewImage",
            display_name="Preview Image",
            category="image",
            inputs=[io.Image.Input("images")],
            outputs=[io.Image.Output(display_name="images")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: Any) -> io.NodeOutput:
        return io.NodeOutput(images, ui=standalone_ui.PreviewImage(images))


class PreviewAny(BuiltinNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PreviewAny",
            display_name="Preview as Text",
            category="utilities",
            inputs=[io.AnyType.Input("source")],
            outputs=[io.String.Output()],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, source: Any = None) -> io.NodeOutput:
        text = _text(source)
        return io.NodeOutput(text, ui=standalone_ui.PreviewText(text))


def _text(value: Any) -> str:
    if isinstance(value, (str, int, float, bool)):
        return str(value)
    try:
        return json.dumps(value, indent=4) if value is not None else "None"
    except (TypeError, ValueError):
        return str(value)


def _exists(name: str) -> bool | str:
    try:
        return os.path.isfile(files.resolve_input(name))
    except files.FileNameError as error:
        return str(error)


_CLASSES = [LoadVideo, SaveVideo, CreateVideo, GetVideoComponents, LoadImage, SaveImage, PreviewImage, PreviewAny]

BUILTIN_NODES: dict[str, type[io.ComfyNode]] = {cls.__name__: cls for cls in _CLASSES}
