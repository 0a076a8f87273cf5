"""How the shipped weights were made: `python -m tokenreel.training.<model>`."""
