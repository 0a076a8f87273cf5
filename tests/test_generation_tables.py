"""The generator's tables say what the results say."""

import re

import pytest

from tokenreel.benchmarks.generation_tables import generation_table

ORIGIN = {
    "date": "2026-11-23",
    "version": "0.1.0",
    "weights": {"generator": "0123456789"},
    "torch": "2",
    "libraries": "PyAV",
    "machine": {"cores": 2, "cpu": "some"},
}


def numbers(every, moving, energy, seconds=0.5, **more):
    clips = {"all": 3, "moving": 2, "energy": 3}
    return {"all": every, "moving": moving, "energy": energy, "seconds": seconds, "clips": clips, **more}


METHODS = ("generator", "hold_last", "linear_blend", "motion_followed", "ceiling")


def row(name, runs, **decibels):
    methods = {
        method.replace("_", " "): {"all": 1, "moving": each, "energy": 0.875} for method, each in decibels.items()
    }
    return {"clip": name, "size": [128, 128], runs: 3, "moving": 0.25, "methods": methods}


BETWEEN = {
    "frames": 65,
    "drawn_at": 0.5,
    "threads": 1,
    "gap": 8,
    "gaps": 4,
    "sides": {
        "128": {
            "summary": {
                "clips": 3,
                "methods": {
                    "generator": numbers(30.123, 26.5, 0.9),
                    "hold last": numbers(25.0, 20.0, 0.25, 0.0),
                    "linear blend": numbers(27.0, 22.0, 0.5, 0.0),
                    "motion followed": numbers(28.0, 23.0, 0.5, 0.0),
                    "ceiling": numbers(33.0, 31.0, 1.01, 0.0),
                },
                "ahead": {
                    "hold last": {"median": 4.5, "better": 2},
                    "linear blend": {"median": 2.25, "better": 1},
                    "motion followed": {"median": -0.25, "better": 0},
                    "ceiling": {"median": None, "better": 0},
                },
            },
            "clips": [
                row("a.mp4", "gaps", generator=26.5, hold_last=20.0, linear_blend=22.0, motion_followed=23, ceiling=31),
                row(
                    "b.mp4",
                    "gaps",
                    **dict.fromkeys(("generator", "hold_last", "linear_blend", "motion_followed", "ceiling")),
                ),
            ],
            "others": [{"clip": "c.mp4", "reason": "It is empty."}, {"clip": "d.mp4", "reason": "too few frames"}],
        },
        "256": {"summary": {"clips": 3, "methods": {"generator": numbers(31, 27, None)}}, "others": []},
    },
}


def eight(*shown):
    """Of eight frames those at 1, 4 and 8."""
    frames = [dict.fromkeys(("all", "moving", "energy")) for _ in range(8)]
    for index, (every, moving, energy) in zip((0, 3, 7), shown, strict=True):
        frames[index] = {"all": every, "moving": moving, "energy": energy}
    return frames


COPIED = eight((26, 20, 0), (22, 18, 0), (20, 16, 0))
AFTER = {
    "frames": 65,
    "drawn_at": 0.5,
    "threads": 1,
    "ahead": 8,
    "seen": 4,
    "starts": 2,
    "seeds": 3,
    "sides": {
        "128": {
            "summary": {
                "clips": 3,
                "methods": {
                    "generator": numbers(25, 21, 0.9, frames=eight((30, 24, 0.9), (25, 21, 0.8), (22, None, 0.75))),
                    "copy last": numbers(23, 19, 0, frames=COPIED),
                    "generator, drawn, mean of 3": numbers(23, 19, 1, frames=COPIED),
                },
                "ahead": {
                    "copy last": {"median": 2.0, "better": 1},
                    "generator, drawn, mean of 3": {"median": 2.0, "better": 1},
                },
            },
            "clips": [row("a.mp4", "starts", generator=21, copy_last=19, motion_carried_on=20, ceiling=31)],
            "others": [],
        },
        "256": {"summary": {"clips": 3, "methods": {"copy last": numbers(23, 19, 0, frames=COPIED)}}, "others": []},
    },
}
TASK = {
    "tokens": 102400,
    "changed": 0.6,
    "form": "digit after digit",
    "generator": {"all": 6.0, "changed": 9.5},
    "unigram": {"all": 13.25, "changed": 13.5},
    "conditional": {"all": 8.0, "changed": None},
    "clips": 25,
    "below": {"unigram": 25, "conditional": 24},
}
BITS = {
    "raw": 15.97,
    "runs": 8,
    "before": 3,
    "gap": 8,
    "next": TASK,
    "between": {**TASK, "tokens": 280000, "clips": 24},
}
KINDS = {
    "runs": 2,
    "gap": 8,
    "threads": 1,
    "blend": 22.5,
    "rows": [
        {
            "kind": kind,
            "parameters": parameters,
            "bits": {"next": {"all": bits, "changed": 9}, "between": {"all": 2 * bits, "changed": 9}},
            "moving": moving,
            "seconds": {"256": seconds, "512": 4 * seconds},
        }
        for kind, parameters, bits, moving, seconds in (
            ("full", 1.25e6, 6.0, 25.0, 2.0),
            ("linear", 1.24e6, 6.06, None, 0.5),
        )
    ],
}
RUN = {"peak_rss_bytes_warmed_up": 400e6, "seconds": 16.0}
MEMORY = {
    "size": [128, 128],
    "runs": [{"frames": 32, "peak_rss_bytes": 500e6, **RUN}, {"frames": 256, "peak_rss_bytes": 505e6, **RUN}],
    "growth": 1.01,
}
LAYERS = {
    "heads": 1,
    "head_size": 64,
    "side": 32,
    "window": [4, 16, 16],
    "performer_features": 128,
    "rows": [{"tokens": 2048, "seconds": {"full": 0.008, "linear": 0.0004}}],
    "kinds": {
        "full": {"exponent": 2.0, "crossover_tokens": None, "speedup_at_most_tokens": 1.0},
        "linear": {"exponent": 1.08, "crossover_tokens": 1024, "speedup_at_most_tokens": 20.0},
    },
}


def rows_of(result):
    text = generation_table({**ORIGIN, **result})
    return [line for line in text.splitlines() if line.startswith("| ")], text


def test_between():
    rows, text = rows_of({"between": BETWEEN})
    assert rows[2:7] == [
        "| **generator** | 30.12 | 26.50 | 0.90 |  | 0.50 | 31.00 | 27.00 |  |",
        "| hold last | 25.00 | 20.00 | 0.25 | +4.50 (2 of 2) | 0.00 |  |  |  |",
        "| linear blend | 27.00 | 22.00 | 0.50 | +2.25 (1 of 2) | 0.00 |  |  |  |",
        "| motion followed | 28.00 | 23.00 | 0.50 | -0.25 (0 of 2) | 0.00 |  |  |  |",
        "| ceiling | 33.00 | 31.00 | 1.01 |  | 0.00 |  |  |  |",
    ]
    assert rows[0].startswith("| 7 of 8 frames, between known ones | all, dB | moving, dB | energy | ours ahead |")
    assert (
        "Medians over 3 clips" in text and "one thread. Left out: c.mp4 (It is empty), d.mp4 (too few frames)." in text
    )
    assert "On the 1 clips where it lies 1 dB or more above the blend, *generator* is +4.50 dB from it" in text
    assert "in the source. 1 clip in which fewer than 1 % of the pixels move count only where all" in text


def test_each_clip():
    rows, _ = rows_of({"between": BETWEEN})
    assert rows[-2:] == [
        "| a.mp4 (3 gaps) | 25.0 % | 26.50 | 20.00 | 22.00 | 23.00 | 31.00 | 0.88 |",
        "| b.mp4 (3 gaps) | 25.0 % |  |  |  |  |  | 0.88 |",
    ]


def test_after():
    rows, text = rows_of({"continue": AFTER})
    ours = "| **generator** | 30.00 / 25.00 / 22.00 | 24.00 / 21.00 / - | 0.90 / 0.80 / 0.75 | 0.90 |  |  |  |"
    copied = "26.00 / 22.00 / 20.00 | 20.00 / 18.00 / 16.00 | 0.00 / 0.00 / 0.00"
    assert rows[2:5] == [
        ours,
        f"| **generator, drawn, mean of 3** | {copied} | 1.00 | +2.00 (1 of 2) |  |  |",
        f"| copy last | {copied} | 0.00 | +2.00 (1 of 2) | 20.00 / 18.00 / 16.00 | 0.00 |",
    ]
    assert rows[-1] == "| a.mp4 (3 starts) | 25.0 % | 21.00 | 19.00 | 20.00 | 31.00 | 0.88 |"
    assert "known frame. 1 clip in which" in text and "drawn with 3 seeds" in text and "at least 4 known frames" in text


def test_bits():
    rows, text = rows_of({"bits": BITS})
    assert rows[2:] == [
        "| **generator** | 6.00 | 9.50 | 6.00 | 9.50 |",
        "| tokens by how often they occur | 13.25 | 13.50 | 13.25 | 13.50 |",
        "| digits after those of the nearest known frame | 8.00 |  | 8.00 |  |",
    ]
    assert "the next frame from the 3 before it" in text
    assert "of 102,400 tokens of 25 clips and 280,000 tokens of 24 clips" in text
    assert "in next frames on 25 and 24 of 25; frames between on 25 and 24 of 24 clips." in text


def test_kinds():
    rows, text = rows_of({"kinds": KINDS})
    assert rows[2:] == [
        "| full | 6.000 (1.000x) | 12.000 (1.000x) | 25.00 | 2.00 (1.00x) | 8.00 (1.00x) |",
        "| linear | 6.060 (1.010x) | 12.120 (1.010x) |  | 0.50 (0.25x) | 2.00 (0.25x) |",
    ]
    assert "1.24 to 1.25 million weights" in text and "(linear blend: 22.50 dB)" in text


def test_memory():
    rows, text = rows_of({"memory": MEMORY})
    assert rows[2:] == ["| 32 frames | 500 | 500 |", "| 256 frames | 505 | 62 |"]
    assert "1.010x the memory" in text


@pytest.mark.parametrize("parts", [{}, {"bits": BITS}, {"bits": BITS, "kinds": KINDS, "layers": LAYERS}])
def test_every_part_may_be_missing(parts):
    _, text = rows_of(parts)
    assert text.endswith("</sub>") and "generator 01234567" in text and not re.search(r"[.a-z]  [*A-Z]", text)


def test_layers():
    rows, text = rows_of({"layers": LAYERS})
    assert rows[2:] == [
        "| 2,048 | 8.0 | 0.4 |",
        "| exponent | 2.00 | 1.08 |",
        "| faster than full from |  | 1,024 tokens |",
        "| times as fast at the end | 1.0x | 20.0x |",
    ]
    assert "4 x 16 x 16 tokens" in text and "128 features" in text
