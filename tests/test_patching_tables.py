"""The tables of patched models say what the results say."""

import pytest

from tokenreel.benchmarks.patching_fidelity import OURS, RANDOM, RASTER, WINDOW
from tokenreel.benchmarks.patching_merging import DENSE, KEYS, TOME
from tokenreel.benchmarks.patching_merging import OURS as MERGED
from tokenreel.benchmarks.patching_tables import patching_table

ORIGIN = {
    "date": "2026-11-23",
    "version": "0.1.0",
    "weights": {"generator_full": "0123456789"},
    "torch": "2",
    "libraries": "PyAV",
    "machine": {"cores": 2, "cpu": "some"},
}


def forward(patch, seconds, speedup):
    return {
        "patch": patch,
        "seconds": seconds,
        "speedup": speedup,
        "least": 1,
        "most": 3,
        "work": [],
        "dense_calls": [],
    }


def shape(channels, share, *rows):
    more = {"dim": channels, "num_layers": 2, "comfyui": "0.25.0", "attention": share, "attention_to_text": 0.05}
    return {**more, "rows": rows}


FORWARD = {
    "grid": [9, 30, 40],
    "text": 512,
    "threads": 2,
    "rounds": 5,
    "shapes": {
        "256": shape(256, 0.85, forward("dense", 2.0, 1.0), forward("window, 20% of the keys", 0.5, 4.0)),
        "512": shape(512, 0.71, forward("dense", 5.0, 1.0), forward("window, 20% of the keys", 2.0, 2.5)),
    },
}


def errors(density, *layers, logits=0.05):
    return {"density": density, "layers": list(layers), "logits": logits, "more_bits": 0.01}


FIDELITY = {
    "net": "full",
    "side": 192,
    "grid": [9, 24, 24],
    "bits": 4.0,
    "densities": {
        "0.1": {OURS: errors(0.1, 0.3, 0.4), RASTER: errors(0.1, 0.5, 0.7), RANDOM: errors(0.1, 0.375, 0.375)},
        "0.2": {OURS: errors(0.2, 0.2, 0.22), WINDOW: errors(0.18, 0.3, 0.5), RASTER: errors(0.2, 0.5, 0.5)},
    },
    "against_raster": {
        "0.1": {"attention": 0.583, "logits": 0.5, "clips_below": 2},
        "0.2": {"attention": 0.42, "logits": 0.5, "clips_below": 1},
    },
    "clips": [{"clip": "a"}, {"clip": "b"}],
}
METHOD = {"tokens": 0.5, "layers": [0.1, 0.2], "logits": 0.0123, "more_bits": 0.004, "seconds": 0.5}
MERGING = {
    "net": "full",
    "side": 192,
    "ratio": 0.5,
    "grid": [9, 24, 24],
    "bits": 4.0,
    "methods": {
        DENSE: {"seconds": 1.0},
        MERGED: METHOD,
        KEYS: {**METHOD, "seconds": 0.8},
        TOME: {**METHOD, "logits": 0.03, "more_bits": -0.002},
    },
    "clips_below": 2,
    "clips": [{"clip": "a"}, {"clip": "b"}],
}
ATTENTION = {
    "device": "a GPU",
    "heads": 12,
    "size": 128,
    "dtype": "bfloat16",
    "videos": {
        "480p": {
            "tokens": 32760,
            "rounds": 10,
            "ways": [
                {"way": "flash", "density": 1, "seconds": 0.01, "speedup": 1.0},
                {"way": "window, 15% of the keys", "density": 0.15, "seconds": 0.0025, "speedup": 4.0},
            ],
        }
    },
}
EXACT = {
    "cycles": 100,
    "families": {
        "wan": {"class": "WanModel", "difference": 0.0, "kept": True},
        "cosmos": {"class": "GeneralDIT", "difference": 0.25, "kept": False},
    },
    "grids": {
        "cases": 220,
        "grids": [[1, 7, 9], [2, 5, 11]],
        "errors": ["one"],
        "difference": 0.0,
        "calls": {"patched": 4321, "dense": {}},
    },
}


@pytest.mark.parametrize(
    ("part", "result", "said"),
    [
        (
            "forward",
            FORWARD,
            [
                "| a whole forward | 256 channels | 512 channels |",
                "| dense, PyTorch's attention | 2.00 s | 5.00 s |",
                "| window, 20% of the keys | 0.50 s, 4.00x | 2.00 s, 2.50x |",
                "9 x 30 x 40 = 10,800 tokens",
                "here 85 %, 71 % of a dense forward",
                "2 CPU threads",
            ],
        ),
        (
            "fidelity",
            FIDELITY,
            [
                "| share of keys that are seen | 10 % | 20 % |",
                "| **top-k**: cubes that fit | 0.35 / 0.050 | 0.21 / 0.050 |",
                "| **window** |  | 0.40 / 0.050 |",
                "| top-k's error in attention, of that in raster order | 0.58x | 0.42x |",
                "below that of raster order on 2, 1 of 2 clips",
                "5,184 tokens",
            ],
        ),
        (
            "merging",
            MERGING,
            [
                "| **blocks**, as many as asked for | 50 % | 0.150 | 0.0123 | +0.004 | 2.00x |",
                "| keys alone | 50 % | 0.150 | 0.0123 | +0.004 | 1.25x |",
                "| uniform (ToMeSD) | 50 % | 0.150 | 0.0300 | -0.002 | 2.00x |",
                "below that of ToMeSD's on 2 of 2 clips",
            ],
        ),
        (
            "attention",
            ATTENTION,
            [
                "| attention alone | 480p, 32,760 tokens |",
                "| window, 15% of the keys | 2.5 ms, 4.00x |",
                "a GPU",
            ],
        ),
        (
            "exact",
            EXACT,
            [
                "| Wan 2.1 (WanModel) | 0 | bit-equal |",
                "| Cosmos 1 (GeneralDIT) | 0.25 | changed |",
                "220 videos on grids of 2 sizes",
                "1 errors; largest difference where nothing is left out: 0; calls patched: 4,321.",
            ],
        ),
    ],
)
def test_each_part(part, result, said):
    text = patching_table({**ORIGIN, part: result})
    assert [each for each in said if each not in text] == [], text
    assert text.endswith("on 2 cores (some).</sub>") and "generator_full 01234567" in text
    assert "| keys | window: forward" not in text


def test_errors_beside_speed():
    """Where a density was measured in one of the two alone, the other column is empty."""
    text = patching_table({**ORIGIN, "forward": FORWARD, "fidelity": FIDELITY})
    assert "| keys | window: forward | error | top-k: forward | error |" in text
    assert "| 10 % |  |  |  | 0.35 |" in text and "| 20 % | 2.50x | 0.40 |  | 0.21 |" in text
    assert "forwards of the model of 512 channels" in text
