"""What pruning a model came to, in words."""

from tokenreel.models.prune_report import PruneReport


def test_a_patch():
    report = PruneReport(
        "2 of 30 blocks left out: 3, 17",
        (1_300_000_000, 1_210_000_000),
        (2_600_000_000, 2_601_000_000),
        (0.214, 0.0631),
        (3.0, 2.5),
        notes=("And so on.",),
    )
    assert report.speedup == 1.2
    assert report.text().splitlines() == [
        "2 of 30 blocks left out: 3, 17",
        "Parameters that run: 1.30 billion -> 1.21 billion (-6.9%)",
        "Weights held: 2.60 GB -> 2.60 GB (+0.0%)",
        "Time of the model: 3.000 s -> 2.500 s (1.20x as fast)",
        "What the model gives is off by 21.4% without correction, 6.3% with it",
        "And so on.",
    ]


def test_bits_and_what_was_not_measured():
    report = PruneReport("Nothing", (5_000_000, 4_000_000), (10_000_000, 8_000_000), (4.75, 4.5), bits=4.4)
    assert report.speedup is None
    assert report.text().splitlines()[1:] == [
        "Parameters that run: 5.00 million -> 4.00 million (-20.0%)",
        "Weights held: 10.0 MB -> 8.0 MB (-20.0%)",
        "Bits of a token, 4.400 before: +0.350 without correction, +0.100 with it",
    ]
    assert PruneReport("Nothing", (1, 1), (1, 1), (None, 0.5)).text().endswith("off by 50.0% with it")
