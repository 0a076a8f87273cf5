"""What benchmarks are told on the command line."""

import argparse

from tokenreel.benchmarks.arguments import add_arguments


def arguments(*given):
    """Parsed, as `arguments("patching", "--rounds", 3)`."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([str(each) for each in given])
