"""The embedded host's `io`: what our nodes use of ComfyUI's V3 node API, under the same names.

Only what the pack uses is here. Inputs take their options by keyword, so that a node which loads here also loads in
ComfyUI. Importing this file loads nothing heavy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar


class FolderType(str, Enum):
    """The three folders that a result can lie in."""

    input = "input"
    output = "output"
    temp = "temp"


class UploadType(str, Enum):
    """What ComfyUI's editor lets people upload next to a combo. No effect on the embedded host."""

    image = "image_upload"
    audio = "audio_upload"
    video = "video_upload"
    model = "file_upload"


class NumberDisplay(str, Enum):
    """How ComfyUI's editor shows a number. No effect on the embedded host."""

    number = "number"
    slider = "slider"


class ControlAfterGenerate(str, Enum):
    """What ComfyUI's editor does to a seed after a run. No effect on the embedded host."""

    fixed = "fixed"
    increment = "increment"
    decrement = "decrement"
    randomize = "randomize"


class Hidden(str, Enum):
    """Values that the host gives a node without a socket; read as `cls.hidden.<name>` in `execute`."""

    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"


@dataclass(frozen=True)
class HiddenHolder:
    """What `cls.hidden` is: None for what the schema did not ask for."""

    unique_id: str | None = None
    prompt: dict[str, Any] | None = None
    extra_pnginfo: dict[str, Any] | None = None


class InputSocket:
    """An input socket of a node."""

    io_type: ClassVar[str] = "*"

    def __init__(
        self,
        id: str,
        *,
        display_name: str | None = None,
        optional: bool = False,
        tooltip: str | None = None,
        advanced: bool | None = None,
        extra_dict: dict[str, Any] | None = None,
    ):
        self.id = id
        self.display_name = display_name
        self.optional = optional
        self.tooltip = tooltip
        self.advanced = advanced
        self.extra_dict = extra_dict or {}

    def get_io_type(self) -> str:
        return self.io_type


class WidgetInput(InputSocket):
    """An input that can also be typed in."""

    def __init__(
        self,
        id: str,
        *,
        default: Any = None,
        socketless: bool | None = None,
        force_input: bool | None = None,
        **common: Any,
    ):
        super().__init__(id, **common)
        self.default = default
        self.socketless = socketless
        self.force_input = force_input


class NumberInput(WidgetInput):
    """An input for a number in `[min, max]`."""

    def __init__(
        self,
        id: str,
        *,
        default: float | None = None,
        min: float | None = None,
        max: float | None = None,
        step: float | None = None,
        display_mode: NumberDisplay | None = None,
        **common: Any,
    ):
        super().__init__(id, default=default, **common)
        self.min = min
        self.max = max
        self.step = step
        self.display_mode = display_mode


class OutputSocket:
    """An output socket of a node."""

    io_type: ClassVar[str] = "*"

    def __init__(
        self,
        id: str | None = None,
        display_name: str | None = None,
        tooltip: str | None = None,
        is_output_list: bool = False,
    ):
        if is_output_list:
            raise ValueError("is_output_list is not supported by the embedded host; run this node in ComfyUI")
        self.id = id
        self.display_name = display_name or id
        self.tooltip = tooltip
        self.is_output_list = is_output_list

    def get_io_type(self) -> str:
        return self.io_type


class Socket:
    """A socket type: `Image.Input("images")`, `Image.Output()`. Each type has Input and Output of its own."""

    io_type: ClassVar[str] = "*"
    Type = Any
    Input: type[InputSocket] = InputSocket
    Output: type[OutputSocket] = OutputSocket

    def __init_subclass__(cls) -> None:
        cls.Input = type("Input", (cls.Input,), {"io_type": cls.io_type})
        cls.Output = type("Output", (cls.Output,), {"io_type": cls.io_type})


def Custom(io_type: str) -> type[Socket]:  # noqa: N802 (ComfyUI's name)
    """A socket type of one's own; equal io_type strings are the same type."""
    return type(io_type, (Socket,), {"io_type": io_type})


class AnyType(Socket):
    io_type = "*"


class Image(Socket):
    """Float tensor `[B, H, W, C]` in 0..1."""

    io_type = "IMAGE"


class Mask(Socket):
    """Float tensor `[B, H, W]` in 0..1."""

    io_type = "MASK"


class Audio(Socket):
    """`{"waveform": tensor [B, C, N], "sample_rate": int}`."""

    io_type = "AUDIO"


class Video(Socket):
    """A lazy handle; open it with `host.api.video_source`."""

    io_type = "VIDEO"


class Latent(Socket):
    io_type = "LATENT"


class Conditioning(Socket):
    io_type = "CONDITIONING"


class Model(Socket):
    io_type = "MODEL"


class UpscaleModel(Socket):
    io_type = "UPSCALE_MODEL"


class Int(Socket):
    io_type = "INT"
    Type = int

    class Input(NumberInput):
        def __init__(
            self, id: str, *, control_after_generate: bool | ControlAfterGenerate | None = None, **common: Any
        ):
            super().__init__(id, **common)
            self.control_after_generate = control_after_generate


class Float(Socket):
    io_type = "FLOAT"
    Type = float

    class Input(NumberInput):
        def __init__(self, id: str, *, round: float | None = None, **common: Any):
            super().__init__(id, **common)
            self.round = round


class Boolean(Socket):
    io_type = "BOOLEAN"
    Type = bool

    class Input(WidgetInput):
        def __init__(self, id: str, *, label_on: str | None = None, label_off: str | None = None, **common: Any):
            super().__init__(id, **common)
            self.label_on = label_on
            self.label_off = label_off


class String(Socket):
    io_type = "STRING"
    Type = str

    class Input(WidgetInput):
        def __init__(
            self,
            id: str,
            *,
            multiline: bool = False,
            dynamic_prompts: bool | None = None,
            **common: Any,
        ):
            super().__init__(id, **common)
            self.multiline = multiline
            self.dynamic_prompts = dynamic_prompts


class Combo(Socket):
    io_type = "COMBO"
    Type = str

    class Input(WidgetInput):
        """One of `options`: a list of values, or an Enum whose values they are."""

        def __init__(
            self,
            id: str,
            options: list[str] | list[int] | type[Enum] | None = None,
            *,
            default: str | int | Enum | None = None,
            upload: UploadType | None = None,
            image_folder: FolderType | None = None,
            control_after_generate: bool | ControlAfterGenerate | None = None,
            **common: Any,
        ):
            super().__init__(id, default=default.value if isinstance(default, Enum) else default, **common)
            self.options = [member.value for member in options] if isinstance(options, type) else options
            self.upload = upload
            self.image_folder = image_folder
            self.control_after_generate = control_after_generate


@dataclass
class Schema:
    """What a node is: its names, sockets and texts. Field names are ComfyUI's."""

    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[InputSocket] = field(default_factory=list)
    outputs: list[OutputSocket] = field(default_factory=list)
    hidden: list[Hidden] = field(default_factory=list)
    description: str = ""
    search_aliases: list[str] = field(default_factory=list)
    is_output_node: bool = False
    is_deprecated: bool = False
    is_experimental: bool = False
    is_dev_only: bool = False
    not_idempotent: bool = False
    essentials_category: str | None = None
    has_intermediate_output: bool = False

    def validate(self) -> None:
        """Refuse a schema in which two inputs or two outputs have the same id."""
        for kind, sockets in (("Input", self.inputs), ("Output", self.outputs)):
            twice = [id for id, count in Counter(socket.id for socket in sockets).items() if id and count > 1]
            if twice:
                raise ValueError(f"{kind} ids of {self.node_id} must be unique, but {', '.join(twice)} are not.")

    def finalize(self) -> None:
        """Ask for the hidden inputs that every output node gets, and name the outputs that have no id."""
        if self.is_output_node:
            self.hidden += [each for each in (Hidden.prompt, Hidden.extra_pnginfo) if each not in self.hidden]
        for index, output in enumerate(self.outputs):
            output.id = output.id or f"_{index}_{output.io_type}_"


class NodeOutput:
    """What `execute` returns: the values of the outputs in order, and what the editor shows at the node."""

    def __init__(self, *args: Any, ui: Any = None):
        self.args = args
        self.ui = ui

    @property
    def result(self) -> tuple[Any, ...] | None:
        return self.args or None

    def __getitem__(self, index: int) -> Any:
        return self.args[index]


class ComfyNode:
    """Base of all nodes: class methods only, never instantiated.

    `validate_inputs(cls, ...)` and `fingerprint_inputs(cls, ...)` may be defined as in ComfyUI.
    """

    hidden: ClassVar[HiddenHolder] = HiddenHolder()
    execute: ClassVar[Callable[..., NodeOutput]]

    @classmethod
    def define_schema(cls) -> Schema:
        raise NotImplementedError(f"{cls.__name__} has no define_schema")

    @classmethod
    def GET_SCHEMA(cls) -> Schema:  # noqa: N802 (ComfyUI's name)
        """The checked schema."""
        schema = cls.define_schema()
        schema.validate()
        schema.finalize()
        return schema


class ComfyExtension:
    """What `comfy_entrypoint` gives: the list of a pack's nodes."""

    async def on_load(self) -> None:
        return None

    async def get_node_list(self) -> list[type[ComfyNode]]:
        raise NotImplementedError
