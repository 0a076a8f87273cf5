"""Files as a whole: written so or not at all, and their digests."""

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new file to write to, which takes the place of `path` at once when the block ends.

    Whatever fails, an old file stays and nothing is left beside it. The folder must exist.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.{secrets.token_hex(6)}.part")
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def file_digest(path: str | os.PathLike[str], check: Callable[[], None] = lambda: None) -> str:
    """SHA-256 of a file, hex. `check` is called for each megabyte and may raise to cancel."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            check()
            digest.update(block)
    return digest.hexdigest()
