"""Device, progress, cancel and memory back-off on the embedded host."""

import gc
import io
import itertools
import os
import signal
import sys
import threading
import weakref

import pytest
import torch

from tokenreel.host import resources


def test_device_and_types():
    device = resources.device()
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert torch.zeros(1, device=device, dtype=resources.dtype()).sum() == 0
    if device.type == "cpu":
        assert resources.dtype() == torch.float32
    assert (resources.image_device(), resources.image_dtype()) == (torch.device("cpu"), torch.float32)


def test_run_chunked_covers_everything_in_order():
    assert resources.run_chunked(lambda a, b: (a, b), 10, 4) == [(0, 4), (4, 8), (8, 10)]
    assert resources.run_chunked(lambda a, b: (a, b), 0, 4) == []


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_run_chunked_halves_when_memory_runs_out(error):
    tried = []

    def work(begin, end):
        tried.append((begin, end))
        if end - begin > 3:
            raise error
        return list(range(begin, end))

    assert list(itertools.chain(*resources.run_chunked(work, 10, 8))) == list(range(10))
    assert tried == [(0, 8), (0, 4), (0, 2), (2, 4), (4, 6), (6, 8), (8, 10)]


def test_run_chunked_gives_up_at_the_floor():
    def work(begin, end):
        raise MemoryError("no")

    with pytest.raises(resources.OutOfMemoryError, match=r"2 items at once do not fit \(began with 8\)"):
        resources.run_chunked(work, 10, 8, 2)
    with pytest.raises(ValueError, match="Invalid chunk sizes: start 2, floor 4"):
        resources.run_chunked(work, 10, 2, 4)


def test_run_chunked_passes_other_errors_on():
    def work(begin, end):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        resources.run_chunked(work, 10, 4)


def test_run_chunked_drops_what_the_failed_chunk_held(monkeypatch):
    class Tensor:
        pass

    held, alive = [], []

    def work(begin, end):
        if end - begin == 4:
            tensor = Tensor()
            held.append(weakref.ref(tensor))
            raise MemoryError
        return begin

    def free_memory():
        gc.collect()
        alive.append(held[0]() is not None)

    monkeypatch.setattr(resources, "free_memory", free_memory)
    assert resources.run_chunked(work, 4, 4) == [0, 2]
    assert alive == [False]


def test_ctrl_c_cancels_at_the_next_check():
    with resources.cancellable():
        resources.check_cancelled()
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(resources.Cancelled):
            resources.check_cancelled()
        with pytest.raises(resources.Cancelled):
            resources.run_chunked(lambda a, b: None, 1, 1)
    resources.check_cancelled()


def test_a_second_ctrl_c_stops_at_once():
    with resources.cancellable():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_other_threads_see_the_cancel_and_set_no_handler():
    seen = []

    def work():
        with resources.cancellable():
            while True:
                try:
                    resources.check_cancelled()
                except resources.Cancelled:
                    seen.append(True)
                    return

    with resources.cancellable():
        thread = threading.Thread(target=work)
        thread.start()
        os.kill(os.getpid(), signal.SIGINT)
        thread.join(timeout=5)
        assert seen == [True]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_silent_unless_stderr_is_a_terminal(monkeypatch, capsys):
    with resources.progress(3, "encoding") as progress:
        progress.update(2)
    assert progress.done == 2
    assert capsys.readouterr() == ("", "")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with resources.progress(3, "encoding") as progress:
        progress.update(3)
    assert "encoding" in terminal.getvalue() and "/3" in terminal.getvalue()


def test_progress_with_unknown_total_and_without_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with resources.progress(None, "reading") as progress:
        progress.update()
    assert progress.done == 1
