"""`tokenreel`, the command line: messages and exit codes. The work is done by the functions nodes call too.

Exit codes: 0 done; 1 refused or failed, with one line on stderr; 2 wrong usage; 130 interrupted. With `--json` stdout
is exactly one object, and everything else is on stderr. An output appears whole, or not at all.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from typing import Any

from . import commands
from .cli_arguments import build_parser

DONE, FAILED, INTERRUPTED = 0, 1, 130


# -- messages


def _note(text: str) -> None:
    print(text, file=sys.stderr)


def _finite(value: Any) -> Any:
    """`value` with None for what JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _show(facts: dict[str, Any]) -> None:
    """Facts for people: one line each, long lists by their length."""
    for key, value in facts.items():
        if isinstance(value, dict):
            value = "  ".join(f"{name} {_short(item)}" for name, item in value.items() if item)
        elif isinstance(value, (list, tuple)) and len(value) > 16:
            value = f"{', '.join(map(str, value[:12]))} ... {value[-1]} ({len(value)})"
        elif isinstance(value, (list, tuple)):
            value = ", ".join(map(str, value))
        print(f"{key.replace('_', ' '):18} {_short(value)}")


def _short(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,.4g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:,.0f}"


def _failure(error: BaseException, args: argparse.Namespace) -> str:
    """One line on what went wrong."""
    if isinstance(error, ModuleNotFoundError):
        return f"The module {error.name!r} is missing. Install what TokenReel needs: pip install 'tokenreel[headless]'."
    if isinstance(error, MemoryError):
        return f"Out of memory. {_less_memory(args)}"
    if isinstance(error, OSError) and error.strerror:
        where = f" {os.fspath(error.filename)!r}" if error.filename else ""
        return f"Cannot use{where or ' a file'}: {error.strerror}. Check the path and its permissions."
    return " ".join(str(error).split()) or type(error).__name__


def _less_memory(args: argparse.Namespace) -> str:
    """What takes less, as far as the command has it."""
    if hasattr(args, "max_frames"):
        return "Use smaller frames (--size) or fewer of them (--max-frames)."
    if args.command == "quantize":
        return "The largest layer is held in float and few bits at once. Close other programs or use a larger machine."
    return "Close other programs, or give it a smaller input."


def _print(facts: dict[str, Any], args: argparse.Namespace) -> None:
    if args.command == "bench" or (args.command in ("plan", "quantize") and not args.json):
        print(facts["table"])
    elif args.json:
        print(json.dumps(_finite(facts), allow_nan=False))
    elif args.command == "shots":
        print(commands.shots_in_words(facts))
    elif args.command == "run":
        for result in facts["results"]:
            if "clip" in result:
                print(f"== {result['clip']}: {result['error'] or result['status']}")
            for node, text in result["texts"].items():
                print(f"-- {node}", text, sep="\n")
            if result["files"]:
                print(*result["files"], sep="\n")
    else:
        _show({key: value for key, value in facts.items() if value not in ("", None)})


def _call(args: argparse.Namespace) -> int:
    from .host import resources

    with resources.cancellable():
        facts = args.function(args, _note)
    _print({**facts, "peak_rss_bytes": resources.peak_memory()}, args)
    sys.stdout.flush()
    return FAILED if facts.get("clips_failed") else DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Wrong usage raises SystemExit(2), as argparse does."""
    from .host.resources import Cancelled

    args = build_parser().parse_args(argv)
    try:
        return _call(args)
    except (Cancelled, KeyboardInterrupt):
        _note(f"tokenreel {args.command}: interrupted; nothing unfinished was left.")
        return INTERRUPTED
    except BrokenPipeError:  # who reads our output has seen enough, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (ValueError, OSError, RuntimeError, MemoryError, ModuleNotFoundError) as error:
        if isinstance(error, RuntimeError) and not _expected(error):
            raise
        _note(f"tokenreel {args.command}: {_failure(error, args)}")
        return FAILED


def _expected(error: RuntimeError) -> bool:
    """Whether this is one of ours that explains itself; any other is a fault of the program, and shows where."""
    from .host.client import ServerError
    from .host.resources import OutOfMemoryError, is_out_of_memory
    from .host.runner import NodeError

    return isinstance(error, (NodeError, ServerError, OutOfMemoryError)) or is_out_of_memory(error)


if __name__ == "__main__":
    sys.exit(main())
