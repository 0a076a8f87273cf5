"""How the published figures were measured: `python -m tokenreel.benchmarks`."""
