"""Device, number types, progress, cancel and memory back-off: one small interface over ComfyUI or plain torch."""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from . import IS_COMFYUI

if TYPE_CHECKING:
    import numpy as np
    import torch

Result = TypeVar("Result")

_PREVIEW_SIDE = 512  # pixels, longest side of a live preview in ComfyUI's editor
_SECONDS = 1.0  # ComfyUI is told at least so often how far the work is, if it goes on
_CHECKS = 8  # looks for cancel that one item is taken to need until one has been seen
_cancelled = threading.Event()
_open_bars = threading.local()


class Cancelled(Exception):  # noqa: N818 (not an error)
    """The user interrupted the work (embedded host; ComfyUI raises its own)."""


class OutOfMemoryError(RuntimeError):
    """Not even the smallest chunk fitted in memory. One line with the sizes that were tried."""


def device() -> torch.device:
    """The device that networks run on."""
    if IS_COMFYUI:
        import comfy.model_management

        return comfy.model_management.get_torch_device()
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def dtype() -> torch.dtype:
    """The floating type in which networks run fastest on `device()` without loss of the result: float16 or float32.

    A codec whose decoder must repeat its encoder bit for bit stays in float32 and does not ask.
    """
    import torch

    if IS_COMFYUI:
        import comfy.model_management

        return torch.float16 if comfy.model_management.should_use_fp16(device()) else torch.float32
    return torch.float16 if device().type == "cuda" else torch.float32


def image_device() -> torch.device:
    """Where IMAGE and MASK tensors lie between nodes."""
    import torch

    if IS_COMFYUI:
        import comfy.model_management

        return comfy.model_management.intermediate_device()
    return torch.device("cpu")


def image_dtype() -> torch.dtype:
    """The floating type of IMAGE and MASK tensors between nodes."""
    import torch

    if IS_COMFYUI:
        import comfy.model_management

        choose = getattr(comfy.model_management, "intermediate_dtype", None)  # not in the oldest cores
        return choose() if choose else torch.float32
    return torch.float32


def check_cancelled() -> None:
    """Raise when the user has asked to stop. Call it for every chunk of work, at least every 250 ms.

    In a `with` block of `progress` it also shows in ComfyUI that an item that takes long is going on. Raises
    `Cancelled` on the embedded host and ComfyUI's own exception there: catch neither, clean up in `finally`.
    """
    if IS_COMFYUI:
        import comfy.model_management

        comfy.model_management.throw_exception_if_processing_interrupted()
        bar = getattr(_open_bars, "innermost", None)
        if bar is not None:
            bar.go_on()
    elif _cancelled.is_set():
        raise Cancelled("Interrupted.")


@contextlib.contextmanager
def cancellable() -> Iterator[None]:
    """Let Ctrl-C cancel the work in this `with` block at its next `check_cancelled`; a second Ctrl-C stops at once.

    So does SIGTERM, by which schedulers and containers end a process. Only the main thread can be interrupted; in
    others this does nothing. No effect on ComfyUI.
    """
    if IS_COMFYUI or threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if _cancelled.is_set():
            raise KeyboardInterrupt
        _cancelled.set()

    _cancelled.clear()
    before = {number: signal.signal(number, on_interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _cancelled.clear()


class Progress:
    """A progress bar; every update also looks whether the user wants to stop. Use it in a `with` block."""

    def __init__(self, total: int | None, label: str):
        self.done = 0
        self.total = total
        self._checks, self._most = 0, _CHECKS
        self._told = time.monotonic()
        self._around: Progress | None = None
        self._comfyui: Any = None
        self._bar: Any = None
        if IS_COMFYUI:
            import comfy.utils

            self._comfyui = comfy.utils.ProgressBar(total or 1)
            return
        with contextlib.suppress(ImportError):
            from tqdm import tqdm

            # disable=None: silent unless stderr is a terminal
            self._bar = tqdm(total=total, desc=label, disable=None, leave=False, dynamic_ncols=True)

    def update(self, n: int = 1, preview: np.ndarray | None = None) -> None:
        """Count `n` more items as done; `preview` is uint8 `[H, W, 3]`, shown at the node in ComfyUI's editor.

        Raises what `check_cancelled` raises.
        """
        check_cancelled()
        self.done += n
        self._most, self._checks = max(self._most, self._checks), 0
        if self._comfyui is not None:
            self._tell(self.done, preview)
        elif self._bar is not None:
            self._bar.total = self.total  # it may be found out late
            self._bar.update(n)

    def count(self, done: int, total: int, name: str = "") -> None:
        """Count one more item of `total`, which may be found out late: for work that calls before each item."""
        self.total = total
        self.update()

    def go_on(self) -> None:
        """Work on an item goes on: show a little more of it, always forward and never the whole."""
        self._checks += 1
        if self._comfyui is not None and time.monotonic() - self._told >= _SECONDS:
            self._tell(self.done + int(100 * self._checks / (self._checks + self._most)) / 100)

    def _tell(self, value: float, preview: np.ndarray | None = None) -> None:
        import comfy.utils

        total = self.total or self.done + 1
        if time.monotonic() - self._told >= _SECONDS:
            self._comfyui = comfy.utils.ProgressBar(total)  # drops steps below half a percent, but never its first
            self._told = time.monotonic()
        self._comfyui.update_absolute(value, total, _preview(preview))

    def __enter__(self) -> Progress:
        check_cancelled()
        self._around = getattr(_open_bars, "innermost", None)
        _open_bars.innermost = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _open_bars.innermost = self._around
        if self._comfyui is not None and kind is None:
            self._comfyui.update_absolute(max(self.done, 1), max(self.done, 1))
        elif self._bar is not None:
            self._bar.close()


def progress(total: int | None, label: str) -> Progress:
    """A progress bar for `total` items (None: unknown), shown by ComfyUI, or on stderr when that is a terminal."""
    return Progress(total, label)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that the device's or the machine's memory is used up."""
    import torch

    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    if IS_COMFYUI:
        import comfy.model_management

        is_oom = getattr(comfy.model_management, "is_oom", None)  # not in the oldest cores
        if is_oom is not None and is_oom(error):
            return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)


def free_memory() -> None:
    """Give back what is cached and no longer used."""
    gc.collect()
    if IS_COMFYUI:
        import comfy.model_management

        comfy.model_management.soft_empty_cache()
        return
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def peak_memory() -> int | None:
    """Most bytes of main memory that this process has held so far; None on systems that do not say."""
    try:
        # not getrusage: its peak begins with that of the process that started this one
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):  # no Linux
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, others KiB


def run_chunked(fn: Callable[[int, int], Result], n: int, start: int, floor: int = 1) -> list[Result]:
    """`[fn(begin, end), ...]` over `range(n)` in chunks of `start` items, halved when memory runs out.

    A chunk that failed is tried again in halves, later ones keep the smaller size. Looks for cancel before each chunk.
    Raises `OutOfMemoryError` when a chunk of `floor` items does not fit.
    """
    if not 1 <= floor <= start:
        raise ValueError(f"Invalid chunk sizes: start {start}, floor {floor}. They must be 1 <= floor <= start.")
    results: list[Result] = []
    begin, size = 0, start
    while begin < n:
        check_cancelled()
        end = min(begin + size, n)
        failure: str | None = None
        try:
            results.append(fn(begin, end))
            begin = end
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            failure = str(error).split("\n")[0]
        if failure is not None:
            # outside of the except block, where the error no longer holds the failed chunk's tensors
            free_memory()
            size = _smaller(end - begin, floor, start, failure)
    return results


def _smaller(tried: int, floor: int, start: int, failure: str) -> int:
    if tried <= floor:
        raise OutOfMemoryError(
            f"Out of memory: {tried} items at once do not fit (began with {start}). "
            f"Make the frames smaller, or free memory. {failure}"
        )
    return max(floor, tried // 2)


def _preview(frame: np.ndarray | None) -> tuple[str, Any, int] | None:
    if frame is None:
        return None
    from PIL import Image

    return ("JPEG", Image.fromarray(frame), _PREVIEW_SIDE)
