"""Cancel and progress of the longest nodes on a real ComfyUI, over its API.

Time is that of the thread that computes, not of the clock: how long something takes depends on what else the machine
does, how much of it lies between two looks for cancel does not.
"""

import itertools
import json
import math
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from comfyui_server import LOAD_CHECKOUT, comfyui_server, needs_comfyui

from tokenreel.models.checkpoint import load_tokenizer
from tokenreel.tokens.bitstream import write_tokens
from tokenreel.tokens.video_tokens import IFrame, VideoTokens
from tokenreel.video.writer import VideoWriter

pytestmark = [pytest.mark.comfyui, pytest.mark.slow, needs_comfyui]

CANCEL_LIMIT = 2.0  # seconds from the request to the end of the job
PROGRESS_LIMIT = 2.0  # seconds without an event
LOOK_LIMIT = CANCEL_LIMIT  # seconds between two looks for cancel
PATIENCE = 300.0  # seconds by the clock, on a machine that does much else

# A node pack that notes what ComfyUI sends and how much the computing thread has worked, and makes small models
WATCHER = (
    LOAD_CHECKOUT
    + """
import json, threading, time
from pathlib import Path
import comfy.model_management as management
import torch
from server import PromptServer
from tokenreel.host import random_models

LOG = Path(__file__).with_name("events.jsonl")
send, look, interrupt = PromptServer.instance.send_sync, management.throw_exception_if_processing_interrupted, \\
    management.interrupt_current_processing
state = {"clock": None, "at": 0.0, "longest": 0.0}

def note(event, data=None):
    data = data if isinstance(data, dict) else {}
    worked = time.clock_gettime(state["clock"]) if state["clock"] else 0.0
    line = {"event": event, "worked": worked, "longest": state["longest"], "time": time.time()}
    line.update({name: data.get(name) for name in ("prompt_id", "node", "value", "max", "exception_message")})
    with LOG.open("a") as file:
        file.write(json.dumps(line) + "\\n")

def noted_send(event, data, sid=None):
    if event == "executing":  # the thread that computes sends it
        state.update(clock=time.pthread_getcpuclockid(threading.get_ident()), at=time.thread_time(), longest=0.0)
    if event in ("executing", "progress") or str(event).startswith("execution_"):
        note(event, data)
    send(event, data, sid)

def noted_look():
    now = time.thread_time()
    if state["clock"]:
        state["longest"] = max(state["longest"], now - state["at"])
    state["at"] = now
    look()

def noted_interrupt(value=True):
    interrupt(value)
    if value:
        note("asked to stop")

PromptServer.instance.send_sync = noted_send
management.throw_exception_if_processing_interrupted = noted_look
management.interrupt_current_processing = noted_interrupt

class RandomWan:
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL", "CONDITIONING"), "make", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"layers": ("INT", {}), "dim": ("INT", {"max": 9999}), "number": ("INT", {})}}

    def make(self, layers, dim, number):
        model = random_models.build("wan", dim=dim, num_heads=dim // 64, ffn_dim=4 * dim, num_layers=layers)
        return model, [[torch.zeros(1, 8, random_models.TEXT), {}]]

NODE_CLASS_MAPPINGS = {"RandomWan": RandomWan}
"""
)


def node(kind, /, **inputs):
    return {"class_type": kind, "inputs": inputs}


def ours(name, /, **inputs):
    """A node of ours with its defaults, and these inputs."""
    schema = json.loads((Path(__file__).parent / "data" / "node_schemas.json").read_text())[f"TokenReel_{name}"]
    defaults = {each: default for each, _, _, default in schema["inputs"] if default is not None}
    return node(f"TokenReel_{name}", **{**defaults, **inputs})


def on_clip(name, large, small, **inputs):
    """What the node `name` does with a clip of each size, ending in something that ComfyUI runs it for.

    A size is that of the large one; the small one keeps its own.
    """

    def made(clip, **other):
        takes = ("reference", "video") if name == "MeasureQuality" else ("video",)
        workflow = {
            "clip": node("LoadVideo", file=clip),
            "long": ours(name, **{**inputs, **other}, **{each: ["clip", 0] for each in takes}),
        }
        if "tokenizer" in workflow["long"]["inputs"]:
            workflow["net"] = ours("LoadTokenizer")
        return with_end(workflow)

    return made(large), made(small, **({"size": 64} if "size" in inputs else {}))


def on_tokens(name, large, small, **inputs):
    """The same for a node that takes tokens."""

    def made(tokens):
        return with_end({"file": ours("LoadTokens", file=tokens), "long": ours(name, tokens=["file", 0], **inputs)})

    return made(large), made(small)


def on_model(name, large, small, *, sampled=True, patched=False, **inputs):
    """The same for a node that takes a MODEL: its layers and channels."""

    def made(layers, dim, side):
        workflow = {
            "model": node("RandomWan", layers=layers, dim=dim, number=layers),
            "latent": node("EmptyHunyuanLatentVideo", width=side, height=side, length=9, batch_size=1),
            "long": ours(name, model=["model", 0], **inputs),
        }
        if sampled:
            workflow["long"]["inputs"] |= {"positive": ["model", 1], "latent_image": ["latent", 0], "steps": 2}
        if patched:
            workflow["patch"] = ours("EfficientAttention", model=["model", 0], min_tokens=64, start_percent=0.0)
            workflow["long"]["inputs"] |= {"patched": ["patch", 0], "negative": ["model", 1]}
        return with_end(workflow)

    return made(*large), made(*small)


def with_end(workflow):
    kind = workflow["long"]["class_type"].removeprefix("TokenReel_")
    if kind in ("EncodeResidual", "EncodeVideo", "GenerateTokens"):
        workflow["end"] = ours("SaveTokens", tokens=["long", 0])
    elif kind in ("DecodeTokens", "InterpolateVideo", "UpscaleVideo", "SampleFrames"):
        workflow["end"] = node("SaveVideo", video=["long", 0], filename_prefix="end", format="auto", codec="auto")
    else:
        slot = {"MeasureQuality": 1, "ProbeFidelity": 0, "DetectShots": 2}.get(kind, 1)
        workflow["end"] = node("PreviewAny", source=["long", slot])
    return workflow


NET = {"tokenizer": ["net", 0]}
LARGE_MODEL, SMALL_MODEL = (6, 1024, 256), (2, 128, 128)
LONGEST = {
    "encode frames": on_clip("EncodeVideo", "large.mp4", "small.mp4", size=1024, **NET),
    "encode residual": on_clip("EncodeResidual", "large.mp4", "small.mp4", size=512, **NET),
    "rate-distortion": on_clip("PlotRateDistortion", "large.mp4", "small.mp4", size=512, points=1, **NET),
    "shots": on_clip("DetectShots", "long.mp4", "small.mp4"),
    "sample": on_clip("SampleFrames", "long.mp4", "small.mp4", frames=4),
    "interpolate": on_clip("InterpolateVideo", "large.mp4", "small.mp4"),
    "upscale": on_clip("UpscaleVideo", "large.mp4", "small.mp4", reuse="nothing"),
    "measure": on_clip("MeasureQuality", "longer.mp4", "small.mp4"),
    "decode": on_tokens("DecodeTokens", "large.tokens", "small.tokens"),
    "generate": on_tokens("GenerateTokens", "large.tokens", "small.tokens", frames=3),
    "quantize": on_model("QuantizeModel", (10, 1536, 128), SMALL_MODEL, sampled=False),
    "quantize, sampled": on_model("QuantizeModel", LARGE_MODEL, SMALL_MODEL),
    "prune": on_model("PruneModel", LARGE_MODEL, SMALL_MODEL),
    "probe": on_model("ProbeFidelity", LARGE_MODEL, SMALL_MODEL, patched=True),
}
WORK_BEFORE = {"shots": 0.5, "sample": 0.5, "quantize": 1.0}
"""Seconds of work after which these are stopped; the others after more than PROGRESS_LIMIT."""


def moving(count, height, width):
    """uint8 `[count, height, width, 3]`: a ground of many colours that pans, and noise."""
    chance = np.random.default_rng(5)
    ground = chance.integers(40, 200, (height // 8, width // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    frames = np.stack([np.roll(ground, 5 * index, axis=1) for index in range(count)])
    return frames + chance.integers(0, 8, frames.shape, np.uint8)


def drawn_tokens(count, height, width):
    """Key frames of tokens at random."""
    tokenizer, chance = load_tokenizer(), np.random.default_rng(6)
    grids = chance.integers(0, math.prod(tokenizer.levels), (count, height // 8, width // 8), np.int32)
    return VideoTokens(
        width=width,
        height=height,
        frame_rate=Fraction(24),
        time_base=Fraction(1, 24),
        pts=tuple(range(count)),
        duration=Fraction(count, 24),
        frames=tuple(IFrame(grid) for grid in grids),
        levels=tokenizer.levels,
        tokenizer=tokenizer.id,
        digest=tokenizer.digest,
    )


class Watched:
    """The server with what its watcher has written."""

    def __init__(self, server):
        self.server, self.client = server, server.client

    def lines(self, prompt):
        log = self.server.base / "custom_nodes" / "watcher" / "events.jsonl"
        if not log.exists():  # nothing has begun
            return []
        written = [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in written if line["prompt_id"] in (prompt, None)]

    def files(self):
        folders = [self.server.base / name for name in ("output", "temp")]
        return {path for folder in folders if folder.exists() for path in folder.rglob("*") if path.is_file()}

    def during(self, prompt):
        """The lines from where the long node begins to where it ends, both included."""
        lines = self.lines(prompt)
        starts = [i for i, line in enumerate(lines) if line["event"] == "executing" and line["node"] == "long"]
        if not starts:
            return []
        rest = lines[starts[0] :]
        ends = [i for i, line in enumerate(rest[1:], 2) if line["event"].startswith("execut")]
        return rest[: ends[0]] if ends else rest

    def until(self, condition, prompt):
        """Waits for what holds of the lines; says whether it came before the job ended."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if condition(self.during(prompt)):
                return True
            if prompt in self.client.get(f"/history/{prompt}"):
                return condition(self.during(prompt))
            time.sleep(0.05)
        pytest.fail("The server did not come so far.")

    def outcome(self, prompt):
        deadline = time.monotonic() + PATIENCE
        while prompt not in (history := self.client.get(f"/history/{prompt}")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return history[prompt]["status"]


def worked(lines):
    return lines[-1]["worked"] - lines[0]["worked"] if lines else 0.0


def longest_silence(lines):
    """Seconds of work between two events that tell of progress, the start among them."""
    told = [line["worked"] for line in lines if line["event"] in ("executing", "progress")]
    return max((b - a for a, b in itertools.pairwise(told)), default=0.0)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    base = tmp_path_factory.mktemp("server")
    with comfyui_server(base, packs={"watcher": WATCHER}) as server:
        for name, frames in (
            ("large.mp4", moving(20, 576, 1024)),
            ("longer.mp4", moving(60, 576, 1024)),
            ("small.mp4", moving(4, 64, 96)),
            ("long.mp4", moving(800, 48, 64)),
        ):
            size = {"width": frames.shape[2], "height": frames.shape[1]}
            with VideoWriter(server.input / name, **size, frame_rate=Fraction(24)) as writer:
                writer.write(frames)
        write_tokens(server.input / "large.tokens", drawn_tokens(16, 576, 1024))
        write_tokens(server.input / "small.tokens", drawn_tokens(2, 64, 96))
        yield Watched(server)


@pytest.mark.parametrize("name", LONGEST)
def test_long_work_tells_how_far_it_is_and_can_be_stopped(name, watched):
    large, small = LONGEST[name]
    before, client = watched.files(), watched.client
    prompt = client.submit(large)
    enough = WORK_BEFORE.get(name, 1.2 * PROGRESS_LIMIT)
    assert watched.until(lambda lines: worked(lines) > enough, prompt), "It was done before it could be stopped."
    client.post("/interrupt", {"prompt_id": prompt})
    status = watched.outcome(prompt)
    assert [kind for kind, _ in status["messages"]][-1] == "execution_interrupted"
    assert watched.files() == before  # nothing half done is left

    lines = watched.during(prompt)
    asked = next(line for line in lines if line["event"] == "asked to stop")
    assert lines[-1]["event"] == "execution_interrupted"
    assert lines[-1]["worked"] - asked["worked"] < CANCEL_LIMIT
    assert longest_silence(lines) < PROGRESS_LIMIT
    assert lines[-1]["longest"] < LOOK_LIMIT
    told = [line["value"] for line in lines if line["event"] == "progress"]
    assert len(set(told)) >= 2  # and not the same number again and again

    again = client.submit(small)
    assert watched.outcome(again)["status_str"] == "success"
    assert watched.files() > before or "SaveVideo" not in {each["class_type"] for each in small.values()}
