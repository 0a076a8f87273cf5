"""The tables of quantized and pruned models say what the results say."""

import pytest

from tokenreel.benchmarks.quantization_quality import FORMATS, HALFWAY, NAIVE, OURS
from tokenreel.benchmarks.quantization_size import AT_ONCE, IN_PLACE, STREAMED
from tokenreel.benchmarks.quantization_speed import FLOAT, KITCHEN
from tokenreel.benchmarks.quantization_tables import quantization_table

ORIGIN = {
    "date": "2026-11-23",
    "version": "0.1.0",
    "weights": {"generator": "0123456789"},
    "torch": "2",
    "libraries": "PyAV",
    "machine": {"cores": 2, "cpu": "some"},
}


def size(file, memory, **more):
    return {"file": file, "memory": memory, "seconds": 1.0, "counts": {"int8": 300}, **more}


SIZE = {
    "sizes": {"dim": 768, "ffn": 4480, "layers": 30, "text": 4096},
    "sources": {
        "float32": {
            "bytes": 1_000_000_000,
            "formats": {"int8": size(266e6, 265e6, kitchen=267e6, kitchen_version="0.2.40")},
        },
        "bfloat16": {"bytes": 500_000_000, "formats": {"fp8": size(255e6, 254e6)}},
    },
}


def way(name, seconds, speedup, error):
    return {"way": name, "seconds": seconds, "speedup": speedup, "least": 1, "most": 3, "error": error}


SPEED = {
    "threads": 2,
    "rounds": 9,
    "linear": {
        "shape": [2048, 1536, 6144],
        "left_out": {},
        "ways": [way(FLOAT, 0.5, 1.0, 0.0), way(OURS, 0.2, 2.5, 0.0081), way(KITCHEN, 0.6, 0.83, 0.009)],
    },
    "generator": {
        "tokens": 5184,
        "layers": 25,
        "kept": 7,
        "fast": "bfloat16",
        "left_out": {},
        "ways": [way(FLOAT, 0.9, 1.0, 0.0), way(OURS, 0.6, 1.5, 0.004)],
    },
    "versions": {"comfy-kitchen": "0.2.40"},
}
GPU = {
    "device": "a GPU",
    "rounds": 20,
    "shapes": {
        "small": {"shape": [32760, 1536, 8960], "ways": [way("bfloat16", 0.002, 1.0, 0.0), way("int8", 0.001, 2, 0.01)]}
    },
}


def quality(median, least, share: float | None = 0.27, **more):
    decibels = {"median": median, "mean": median, "least": least, "clips": [median, least]}
    return {"psnr": decibels, "share": share, **more}


AHEAD = {"median": 9.25, "least": 6.5}
QUALITY = {
    "side": 128,
    "fitted": 8,
    "generator": {
        "ways": {
            OURS: quality(61.5, 60.25, more_bits=-0.0004),
            NAIVE: quality(50.0, 48.0, None, more_bits=0.01),
        },
        "ahead": AHEAD,
        "layers": {"int8": 25},
        "clips": ["a", "b"],
    },
    "tokenizer": {
        "ways": {
            OURS: quality(55.5, 54.0, same_tokens=0.943),
            NAIVE: quality(49.0, 48.0, None, same_tokens=0.87),
        },
        "ahead": AHEAD,
        "layers": {"int8": 31},
        "clips": [],
    },
}


def mixed(ratio, others):
    return {"share": 0.272, "kinds": {"int8": 24, "nvfp4": 1}, "error": 0.004, "others": others, "ratio": ratio}


MIXED = {
    "side": 128,
    "fitted": 8,
    "clips": 24,
    "formats": list(FORMATS),
    "sizes": {"fp8": mixed(0.8, {"fp8": 0.005}), HALFWAY: mixed(0.5, {"one": 0.006, "two": 0.01})},
}
SAVED = {
    "comfyui": "0.25.0",
    "families": {
        "wan": {
            "int8": {"core": None, "ours": 0.0004, "error": 0.0003},
            "fp8": {"core": 0.0, "ours": 0.0, "error": 0.0012},
        },
        "ltxv": {
            "int8": {"core": None, "ours": 0.0019, "error": 0.0015},
            "fp8": {"core": 0.00021, "ours": 0.0, "error": 0.0059},
        },
    },
}
MEMORY = {
    "sizes": {"dim": 1536, "ffn": 8960, "layers": 30, "text": 4096},
    "bytes": 2_000_000_000,
    "ways": {
        STREAMED: {"loaded": 250e6, "peak": 400e6, "seconds": 19.4},
        IN_PLACE: {"loaded": 250e6, "peak": 2.28e9, "seconds": 24.0},
        AT_ONCE: {"loaded": 250e6, "peak": 3.2e9, "seconds": 11.0},
    },
}


def lost(chosen, random, last, left_out=(1,)):
    return {
        "left_out": list(left_out),
        "parameters": [1_000_000, 0],
        "chosen": chosen,
        "random": random,
        "last": last,
    }


TIMES = {f"{unit}, {form}": 1.25 for unit in ("blocks", "parts") for form in ("plain", "corrected")}


PRUNING = {
    "share": 0.2,
    "clips": [87, 25],
    "hybrid": {
        "count": 6,
        "parameters": 5_000_000,
        "bits": 5.0,
        "blocks": {"plain": lost(0.5, 1.25, 0.75), "corrected": lost(0.1, 0.2, 0.3)},
        "parts": {"plain": lost(-0.5, 0.25, 0.75, (1, 8)), "corrected": lost(0.1, 0.2, 0.3)},
        "speed": TIMES,
        "narrower": {
            "widen": [3, 2],
            "parameters": [5_400_000, 4_100_000],
            "bits": 5.0,
            "loss": {"weights": 0.4, "tokens": 0.125},
        },
    },
    "full": {
        "count": 4,
        "parameters": 4_000_000,
        "bits": 5.5,
        "blocks": {"plain": lost(0.25, 0.5, 1.0), "corrected": lost(0.125, 0.25, 0.5)},
        "parts": {"plain": lost(0.25, 0.5, 1.0), "corrected": lost(0.125, 0.25, 0.5)},
        "speed": TIMES,
    },
}


@pytest.mark.parametrize(
    ("part", "result", "said"),
    [
        (
            "size",
            SIZE,
            [
                "| int8, of float32 | 1,000 MB | 0.266x | 0.265x | 0.267x |",
                "| fp8, of bfloat16 | 500 MB | 0.510x | 0.508x |  |",
                "30 layers, 768 and 4480 channels",
                "comfy-kitchen 0.2.40:",
            ],
        ),
        (
            "speed",
            SPEED,
            [
                "| float32 | 500 ms | 900 ms |",
                "| **int8** | 200 ms, 2.50x, error 0.0081 | 600 ms, 1.50x, error 0.0040 |",
                "| comfy-kitchen | 600 ms, 0.83x, error 0.0090 |  |",
                "2,048 tokens, 1,536 inputs, 6,144 outputs",
                "of its 25 layers that may be quantized ours keeps 7 in float",
                "With precision fast it was loaded in bfloat16.",
                "comfy-kitchen 0.2.40",
            ],
        ),
        (
            "gpu",
            GPU,
            ["| int8 | 1.00 ms, 2.00x, error 0.0100 |", "32,760 x 1,536 x 8,960", "a GPU, medians of 20 rounds"],
        ),
        (
            "quality",
            QUALITY,
            [
                "| **int8** | 61.5 (60.2) | 55.5 (54.0) | -0.0004 | 94.3 % |",
                "| naive int8 | 50.0 (48.0) | 49.0 (48.0) | +0.0100 | 87.0 % |",
                "ahead of it by 9.2 dB (least 6.5) and 9.2 dB (least 6.5)",
                "25 and 31 layers are quantized",
                "on 8 clips of another source",
            ],
        ),
        (
            "mixed",
            MIXED,
            [
                "| fp8 for all | 27.2 % | 24 int8, 1 nvfp4 | 0.0050 | 0.0040 | 0.80x |",
                "| int8 and nvfp4 by chance | 27.2 % | 24 int8, 1 nvfp4 | 0.0080 | 0.0040 | 0.50x |",
                "mean over 24 clips",
                "on 8 clips of another source, of int8, fp8, nvfp4 or float",
            ],
        ),
        (
            "saved",
            SAVED,
            [
                "| int8 | not known to it | 0.0004 | 0.0003 | not known to it | 0.0019 | 0.0015 |",
                "| fp8 | equal | equal | 0.0012 | 0.0002 | equal | 0.0059 |",
                "ComfyUI 0.25.0's Load Diffusion Model",
            ],
        ),
        (
            "memory",
            MEMORY,
            [
                "| **from file to file** | 400 MB | 0.20x | 19 s |",
                "| **in memory, in place** | 2,280 MB | 1.14x | 24 s |",
                "| all at once | 3,200 MB | 1.60x | 11 s |",
                "2.00 GB, to int8",
                "of which 250 MB",
            ],
        ),
        (
            "pruning",
            PRUNING,
            [
                "| hybrid, blocks, nothing in their place | 1, 20% | +0.500 | +1.250 | +0.750 | 1.25x |",
                "| hybrid, parts, nothing in their place | 2, 20% | -0.500 | +0.250 | +0.750 | 1.25x |",
                "| full, blocks, shortcuts in their place | 1, 25% | +0.125 | +0.250 | +0.500 | 1.25x |",
                "over 25 clips that were not trained on",
                "| hybrid | 3 times to 2 times | 5.40 to 4.10 millions | +0.4000 | +0.1250 |",
            ],
        ),
    ],
)
def test_each_part(part, result, said):
    text = quantization_table({**ORIGIN, part: result})
    assert [each for each in said if each not in text] == [], text
    assert text.endswith("on 2 cores (some).</sub>") and "generator 01234567" in text


def test_without_narrower_layers_there_is_no_table_of_them():
    assert "narrower" not in quantization_table({**ORIGIN, "pruning": {**PRUNING, "hybrid": PRUNING["full"]}})
