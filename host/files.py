"""Folders and file names: where input, output, temp and model files lie, and which names may be used in them.

Every name that a user or a workflow gives passes `resolve_input`, `resolve_model` or `output_path`. A name is relative
to one of the folders, has no `..`, and still lies in that folder when links are followed. On ComfyUI the folders are
ComfyUI's; on the embedded host they are those of the running `session`.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import mimetypes
import os
import re
import shutil
import tempfile
import time
import unicodedata
import uuid
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from ..tokens.whole_files import whole_file
from . import IS_COMFYUI

TOKENIZER_FOLDER, GENERATOR_FOLDER = "video_tokenizers", "token_generators"  # below ComfyUI's models folder
MODEL_FOLDERS = (TOKENIZER_FOLDER, GENERATOR_FOLDER)
MODEL_SUFFIXES = frozenset({".safetensors"})
DIFFUSION_FOLDER = "diffusion_models"
"""ComfyUI's own folder for MODELs, below its models folder, and what is written here below the output folder."""
_DIFFUSION_SUFFIXES = frozenset({".safetensors", ".sft"})
_ANNOTATION = re.compile(r"^(?P<name>.*?) ?\[(?P<folder>input|output|temp)\]$", re.DOTALL)
_WINDOWS_NAMES = re.compile(r"(?i)^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?$")
_TEXT_DIRECTION = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # they hide a suffix
_MAX_NAME_BYTES, _MAX_PART_BYTES = 1024, 255


class FileNameError(ValueError):
    """A name that is not allowed, or a file that is not there: one line with the name and the way out."""


@dataclass(frozen=True)
class OutputFile:
    """A file to be written: where it is, and what ComfyUI's `ui.SavedResult` wants to know of it."""

    path: str  # absolute
    filename: str
    subfolder: str  # relative to the output folder, "/" between parts

    @property
    def name(self) -> str:
        """Relative to the output folder."""
        return f"{self.subfolder}/{self.filename}" if self.subfolder else self.filename


@dataclass(frozen=True)
class _Folders:
    """The embedded host's folders, absolute."""

    input: str
    output: str
    temp: str
    models: dict[str, str]
    """Of each of MODEL_FOLDERS."""
    inputs: dict[str, str]
    """Files that a name stands for, wherever they lie."""


_active: ContextVar[_Folders | None] = ContextVar("folders", default=None)  # each thread its own


@contextlib.contextmanager
def session(
    *,
    input_dir: str | os.PathLike[str] | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    model_dir: str | os.PathLike[str] | None = None,
    generator_dir: str | os.PathLike[str] | None = None,
    inputs: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Set the embedded host's folders for the length of a `with` block; its temp folder is removed at the end.

    Defaults: input is the current folder, output is `output` in it, tokenizers (`model_dir`) are in its
    `models/video_tokenizers`, generators in its `models/token_generators`. The output folder is made when the first
    file is written. `inputs` are input files by the name that stands for them, which may lie anywhere. In this thread
    only, and no effect on ComfyUI's folders.
    """
    folders = _made(input_dir, output_dir, (model_dir, generator_dir), inputs or {})
    before = _active.set(folders)
    try:
        yield
    finally:
        _active.reset(before)
        shutil.rmtree(folders.temp, ignore_errors=True)


def input_dir() -> str:
    """The folder that `resolve_input` looks in."""
    if not IS_COMFYUI:
        return _folders().input
    import folder_paths

    return folder_paths.get_input_directory()


def output_dir() -> str:
    """The folder that results are written to."""
    if not IS_COMFYUI:
        return _folders().output
    import folder_paths

    return folder_paths.get_output_directory()


def temp_dir() -> str:
    """The folder for files that nobody needs after the run; it exists."""
    if not IS_COMFYUI:
        return _folders().temp
    import folder_paths

    os.makedirs(folder_paths.get_temp_directory(), exist_ok=True)
    return folder_paths.get_temp_directory()


def model_dirs(folder: str = TOKENIZER_FOLDER) -> list[str]:
    """The folders with weights of that kind that people put there themselves; they need not exist."""
    if not IS_COMFYUI:
        return [_folders().models[folder]]
    import folder_paths

    register_model_folders()
    return folder_paths.get_folder_paths(folder)


def register_model_folders() -> None:
    """Make the folders of MODEL_FOLDERS in `models` known to ComfyUI; no effect on the embedded host.

    May be called often. Call it in `on_load`, and in `get_node_list` too: ComfyUI 0.3.64 does not call the former.
    """
    if not IS_COMFYUI:
        return
    import folder_paths

    for name in MODEL_FOLDERS:
        folder = os.path.join(folder_paths.models_dir, name)
        # extra_model_paths.yaml may have named folders before us, but with no suffixes
        paths, suffixes = folder_paths.folder_names_and_paths.get(name, ([], set()))
        paths = list(paths) if folder in paths else [*paths, folder]
        folder_paths.folder_names_and_paths[name] = (paths, set(suffixes) | MODEL_SUFFIXES)


def resolve_input(name: str) -> str:
    """The absolute path of the existing file `name` in the input folder, or in the one that `[output]`, `[temp]` or
    `[input]` at its end names.

    Raises `FileNameError` when the name leaves its folder or no such file is there.
    """
    if not IS_COMFYUI and name in _folders().inputs:
        return _folders().inputs[name]
    folder, relative = _split_annotation(name)
    root = {"input": input_dir, "output": output_dir, "temp": temp_dir}[folder]()
    path = contained(root, relative)
    if not os.path.isfile(path):
        raise FileNameError(f"No file {_short(name)} in the {folder} folder. Put it there, or give another name.")
    return path


def resolve_model(name: str, folder: str = TOKENIZER_FOLDER) -> str:
    """The absolute path of the weights `name` in the model folders of a kind. Raises `FileNameError`."""
    if os.path.splitext(name)[1].lower() not in MODEL_SUFFIXES:
        raise FileNameError(f"Weights {_short(name)} are not a .safetensors file. Convert them to safetensors first.")
    for root in model_dirs(folder):
        path = contained(root, name)
        if os.path.isfile(path):
            return path
    raise FileNameError(f"No weights {_short(name)} in {folder}. Found: {', '.join(list_models(folder)) or 'none'}.")


def contained(root: str, name: str) -> str:
    """The real path of `name` in `root`. Raises `FileNameError` when it is no plain relative name, or leaves `root`."""
    _check_name(name)
    real_root = os.path.realpath(root)
    path = os.path.realpath(os.path.join(real_root, *name.replace("\\", "/").split("/")))
    try:
        inside = os.path.commonpath((os.path.normcase(real_root), os.path.normcase(path))) == os.path.normcase(
            real_root
        )
    except ValueError:  # another drive
        inside = False
    if not inside:
        raise FileNameError(f"Invalid file name {_short(name)}: it is a link out of its folder. Copy the file there.")
    return path


@contextlib.contextmanager
def output_path(
    filename_prefix: str, suffix: str, *, width: int = 0, height: int = 0, folder: str = "output"
) -> Iterator[OutputFile]:
    """Reserve a new, numbered file below the output folder for the length of a `with` block.

    `filename_prefix` may have subfolders and ComfyUI's `%year%`, `%month%`, `%day%`, `%hour%`, `%minute%`, `%second%`,
    `%width%`, `%height%`. The file is there, empty, from the start, so that no other process takes its name;
    replace it (`os.replace`) or write it. When the block raises, or leaves it empty, it is removed.
    """
    if not re.fullmatch(r"\.[a-z0-9]+", suffix):
        raise ValueError(f"Invalid suffix {suffix!r}. Use a dot and letters, like '.mp4'.")
    root = {"output": output_dir, "temp": temp_dir}[folder]()
    prefix = _expand(filename_prefix, width=width, height=height).replace("\\", "/")
    contained(root, prefix)
    subfolder, _, stem = prefix.rpartition("/")
    directory = contained(root, subfolder) if subfolder else os.path.realpath(root)
    os.makedirs(directory, exist_ok=True)
    path = _reserve(directory, stem, suffix)
    try:
        yield OutputFile(path=path, filename=os.path.basename(path), subfolder=subfolder)
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise
    if os.path.exists(path) and os.path.getsize(path) == 0:
        os.unlink(path)


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Put `data` in the place of the file `path` at once: it is there as a whole, or stays as it was."""
    with whole_file(path) as file:
        file.write(data)


def temp_path(suffix: str) -> str:
    """A path in the temp folder that nobody else uses. The file is not made."""
    return os.path.join(temp_dir(), f"tokenreel-{uuid.uuid4().hex}{suffix}")


def list_inputs(content_type: str) -> list[str]:
    """Sorted names of the files in the input folder whose suffix means `content_type`: "video", "image" or "audio"."""
    return [n for n in _names(input_dir()) if (mimetypes.guess_type(n)[0] or "").split("/")[0] == content_type]


def list_input_suffix(suffix: str) -> list[str]:
    """Sorted names of the files in the input folder that end with `suffix`, like ".tokens"."""
    return [name for name in _names(input_dir()) if name.lower().endswith(suffix)]


def list_models(folder: str = TOKENIZER_FOLDER) -> list[str]:
    """Sorted names of the weights in the model folders of a kind."""
    found = {name for root in model_dirs(folder) for name in _names(root)}
    return sorted(name for name in found if os.path.splitext(name)[1].lower() in MODEL_SUFFIXES)


def list_diffusion_models() -> list[str]:
    """Sorted names of the safetensors files in ComfyUI's folders for MODELs, subfolders included, then of those saved
    to the output folder, with ` [output]` at their ends, unless ComfyUI looks for MODELs there itself.
    """
    there, folders = _comfyui_models()
    root, saved = os.path.join(output_dir(), DIFFUSION_FOLDER), []
    if os.path.realpath(root) not in map(os.path.realpath, folders):
        saved = [f"{DIFFUSION_FOLDER}/{name} [output]" for name in _names(root)]
    suffixes = tuple(_DIFFUSION_SUFFIXES)
    return [name for name in (*there, *saved) if name.removesuffix(" [output]").lower().endswith(suffixes)]


def resolve_diffusion_model(name: str) -> str:
    """The absolute path of the file that a name of `list_diffusion_models` stands for, or of any in the output folder
    with ` [output]` at its end. Raises `FileNameError`.
    """
    folder, relative = _split_annotation(name)
    if os.path.splitext(relative)[1].lower() not in _DIFFUSION_SUFFIXES:
        raise FileNameError(f"{_short(name)} is not a .safetensors file, and others may run code. Convert it first.")
    if folder == "output":
        return resolve_input(name)
    there, _ = _comfyui_models()
    if name not in there:  # such a name may lead anywhere
        raise FileNameError(f"No model {_short(name)} in {DIFFUSION_FOLDER}. Put it there and press R.")
    import folder_paths

    path = folder_paths.get_full_path(DIFFUSION_FOLDER, name)  # links to other disks are usual for such files
    if path is None:
        raise FileNameError(f"The model {_short(name)} has gone. Press R, and choose another.")
    return path


def _comfyui_models() -> tuple[list[str], list[str]]:
    """What ComfyUI lists as MODELs, and the folders that it looks in; the embedded host has none."""
    if not IS_COMFYUI:
        return [], []
    import folder_paths

    return folder_paths.get_filename_list(DIFFUSION_FOLDER), folder_paths.get_folder_paths(DIFFUSION_FOLDER)


def fingerprint(path: str) -> str:
    """A short text that changes when the file does: of its size, its time, and 64 KiB at each end."""
    status = os.stat(path)
    digest = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns}".encode())
    with open(path, "rb") as file:
        digest.update(file.read(1 << 16))
        file.seek(max(0, status.st_size - (1 << 16)))
        digest.update(file.read(1 << 16))
    return digest.hexdigest()


def _made(
    input_dir: str | os.PathLike[str] | None,
    output_dir: str | os.PathLike[str] | None,
    model_dirs: tuple[str | os.PathLike[str] | None, ...],
    inputs: Mapping[str, str],
) -> _Folders:
    """The folders of a session, with a new one for temp files."""
    given = zip(MODEL_FOLDERS, model_dirs, strict=True)
    return _Folders(
        input=os.path.abspath(input_dir or "."),
        output=os.path.abspath(output_dir or "output"),
        temp=os.path.realpath(tempfile.mkdtemp(prefix="tokenreel-")),
        models={name: os.path.abspath(folder or os.path.join("models", name)) for name, folder in given},
        inputs={name: os.path.abspath(path) for name, path in inputs.items()},
    )


def _folders() -> _Folders:
    folders = _active.get()
    if folders is None:  # outside of any session: the defaults, until the process ends
        folders = _made(None, None, (None, None), {})
        _active.set(folders)
        atexit.register(shutil.rmtree, folders.temp, ignore_errors=True)
    return folders


def _names(folder: str) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_file()) if os.path.isdir(folder) else []


def _split_annotation(name: str) -> tuple[str, str]:
    match = _ANNOTATION.match(name)
    return (match["folder"], match["name"]) if match else ("input", name)


def _check_name(name: str) -> None:
    """Refuse everything that is not a plain relative name on every system that the pack runs on."""
    parts = name.replace("\\", "/").split("/")
    if not name.strip():
        reason = "it is empty"
    elif any(unicodedata.category(character) in ("Cc", "Cs") or character in _TEXT_DIRECTION for character in name):
        reason = "it has control characters"
    elif len(os.fsencode(name)) > _MAX_NAME_BYTES or any(len(os.fsencode(part)) > _MAX_PART_BYTES for part in parts):
        reason = f"it is longer than {_MAX_PART_BYTES} bytes"
    elif not parts[0] or re.match(r"^[A-Za-z]:([/\\]|$)" if os.name == "posix" else r".*:", name):
        reason = "it is an absolute path"
    elif ".." in parts:
        reason = "it has '..'"
    elif any(not part or part == "." or _WINDOWS_NAMES.match(part) or part != part.rstrip(". ") for part in parts):
        reason = "not every system can have such a file"
    else:
        return
    raise FileNameError(
        f"Invalid file name {_short(name)}: {reason}. Use a name relative to the folder, like 'a/b.mp4'."
    )


def _short(name: str) -> str:
    return ascii(name if len(name) <= 80 else f"{name[:60]}...")


def _expand(prefix: str, *, width: int, height: int) -> str:
    now = time.localtime()
    values = {"width": str(width), "height": str(height), "year": str(now.tm_year)}
    for key, number in zip(("month", "day", "hour", "minute", "second"), now[1:6], strict=True):
        values[key] = f"{number:02}"
    return re.sub(r"%(\w+)%", lambda match: values.get(match[1], match[0]), prefix)


def _reserve(directory: str, stem: str, suffix: str) -> str:
    """Make the next `stem_00001_.suffix` (ComfyUI's numbering), exclusively."""
    pattern = re.compile(re.escape(stem) + r"_(\d+)_?\.\w+$", re.IGNORECASE)
    numbers = [int(match[1]) for name in os.listdir(directory) if (match := pattern.match(name))]
    counter = max(numbers, default=0) + 1
    while True:
        path = os.path.join(directory, f"{stem}_{counter:05}_{suffix}")
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            counter += 1
        else:
            return path
