"""Token files: Save Video Tokens, Load Video Tokens."""

from pathlib import Path
from typing import Any

from ..host import files, resources
from ..host.api import io, ui
from ..tokens.accounting import report
from ..tokens.bitstream import SUFFIX, read_tokens, write_tokens
from .reports import describe_tokens
from .types import VideoTokens

_FOLDER = "tokens"  # in the output folder


class SaveTokens(io.ComfyNode):
    """Writes a token file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenReel_SaveTokens",
            display_name="Save Video Tokens",
            category="video/tokens",
            description="Writes tokens to a .tokens file in the output folder. The file holds all that is needed to "
            "decode it but the tokenizer's weights, and is checked when it is read.",
            search_aliases=["export tokens", "write tokens", "bitstream", "save latent"],
            is_output_node=True,
            inputs=[
                VideoTokens.Input("tokens", tooltip="The tokens to save."),
                io.String.Input(
                    "filename_prefix",
                    default=f"{_FOLDER}/TokenReel",
                    tooltip="Name in the output folder, subfolders allowed; a number and .tokens are added. "
                    "%width%, %height%, %year%, %month% and %day% are filled in.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="file", tooltip="The written file, relative to the output folder."),
                io.String.Output(display_name="report", tooltip="What the file holds, and its size."),
            ],
        )

    @classmethod
    def execute(cls, tokens: Any, filename_prefix: str) -> io.NodeOutput:
        with files.output_path(filename_prefix, SUFFIX, width=tokens.width, height=tokens.height) as file:
            size = write_tokens(file.path, tokens, check=resources.check_cancelled)
        text = f"{file.name}\n{describe_tokens(report(tokens, file_bytes=size))}"
        saved = ui.SavedResult(file.filename, file.subfolder, io.FolderType.output)
        # not under "images": the editor would try to show it
        return io.NodeOutput(file.name, text, ui={"text": (text,), "tokens": [saved]})


def _saved() -> list[str]:
    """What Save Video Tokens wrote where it writes by default, as names that `files.resolve_input` takes."""
    folder = Path(files.output_dir(), _FOLDER)
    return sorted(f"{_FOLDER}/{path.name} [output]" for path in folder.glob(f"*{SUFFIX}"))


class LoadTokens(io.ComfyNode):
    """Reads a token file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenReel_LoadTokens",
            display_name="Load Video Tokens",
            category="video/tokens",
            description="Reads a .tokens file from the input folder, or one that was saved. Every bit is checked.",
            search_aliases=["import tokens", "read tokens", "bitstream", "load latent"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=[*files.list_input_suffix(SUFFIX), *_saved()],
                    tooltip="A .tokens file in the input folder, or one that was saved to output/tokens. After saving "
                    "press R to see it here.",
                )
            ],
            outputs=[
                VideoTokens.Output(display_name="tokens", tooltip="The clip as tokens."),
                io.String.Output(display_name="report", tooltip="What the file holds."),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str) -> bool | str:
        try:
            files.resolve_input(file)
        except files.FileNameError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str) -> str:
        return files.fingerprint(files.resolve_input(file))

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        tokens = read_tokens(files.resolve_input(file), check=resources.check_cancelled)
        return io.NodeOutput(tokens, describe_tokens(report(tokens)))
