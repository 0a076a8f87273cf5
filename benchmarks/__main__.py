"""`python -m tokenreel.benchmarks`: what `tokenreel bench` does, into the results folder, and the README's tables.

python -m tokenreel.benchmarks tokens --clips DIR     # benchmarks/results/tokens.json, then the README's tables
python -m tokenreel.benchmarks --readme               # only the tables, from the results that are there
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .arguments import NAMES, NEED_CLIPS, add_arguments, run_benchmarks
from .results import RESULTS
from .tables import write_readme


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tokenreel.benchmarks", description="Measure, and write it down.")
    add_arguments(parser)
    parser.add_argument("--readme", action="store_true", help="only write the tables of the README, from the results")
    args = parser.parse_args(argv)
    try:
        names = [] if args.readme else args.names or [name for name in NAMES if name not in NEED_CLIPS or args.clips]
        for name in names:
            args.names, args.json = (
                [name],
                args.json if len(names) == 1 and args.json else str(RESULTS / f"{name}.json"),
            )
            print(run_benchmarks(args, _tell)["table"])
            args.json = None
        readme = Path(__file__).parent.parent / "README.md"
        if readme.exists():
            write_readme(readme)
    except (ValueError, OSError) as error:
        _tell(" ".join(str(error).split()))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
