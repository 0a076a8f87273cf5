"""The node and the loader on a small clip on the embedded host, with small random networks; and what they refuse."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from tokenreel.generation import Generated, generate
from tokenreel.host import files, resources
from tokenreel.models.checkpoint import GENERATORS, save_checkpoint
from tokenreel.models.fast_networks import PRECISIONS
from tokenreel.models.generator import GeneratorConfig, TokenGenerator
from tokenreel.models.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from tokenreel.models.token_filling import TokenFiller
from tokenreel.nodes import generating
from tokenreel.nodes.generated_previews import draw_preview, shown_frames
from tokenreel.nodes.generating import ATTENTION, GenerateTokens, LoadGenerator
from tokenreel.nodes.reports import describe_generation
from tokenreel.stations import decoded_frames, encode_clip
from tokenreel.video.clips import ImageClip
from tokenreel.video.completion import Completion
from tokenreel.video.drawing import STATES
from tokenreel.video.frames import uint8_to_image
from tokenreel.video.timeline import FrameTimeline

WIDTH, HEIGHT, COUNT = 48, 32, 4


@pytest.fixture(scope="module")
def net(tiny_tokenizer):
    """A generator for the tiny tokenizer, never trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GeneratorConfig(levels=tiny_tokenizer.levels, width=16, depth=2, heads=2, digit_width=8)
        return TokenGenerator(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tokens(tiny_tokenizer, net):
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 256, (4, 8, 3)).repeat(12, 0).repeat(12, 1).astype(np.uint8)
    frames = np.stack([scene[:HEIGHT, 3 * index : 3 * index + WIDTH] for index in range(COUNT)])
    clip = ImageClip(uint8_to_image(frames), Fraction(6))
    return encode_clip(clip, tiny_tokenizer, mode="frames", with_ssim=False).tokens


@pytest.fixture(autouse=True)
def session(tmp_path):
    with files.session(output_dir=tmp_path / "output", generator_dir=tmp_path), torch.inference_mode():
        yield


@pytest.fixture(autouse=True)
def one_shot(monkeypatch):
    """Frames of a random tokenizer are noise, in which anything may look like a cut."""
    monkeypatch.setattr("tokenreel.generation.MotionMeter.cuts", ())
    monkeypatch.setattr("tokenreel.generation.MotionMeter.score_cuts", ())


def run(tokens, net, tokenizer, **inputs):
    widgets = {socket.id: socket.default for socket in GenerateTokens.GET_SCHEMA().inputs if hasattr(socket, "default")}
    return GenerateTokens.execute(tokens, generator=net, tokenizer=tokenizer, **{**widgets, "steps": 2, **inputs})


class TestTasks:
    def test_between(self, tokens, net, tiny_tokenizer):
        output = run(tokens, net, tiny_tokenizer, frames=2)
        made, report, preview = output.args
        assert made.frames[::3] == tokens.frames and len(made.frames) == 3 * COUNT - 2
        assert "4 known" in report and "6 generated" in report and "144 of 240 tokens made (60.0%)" in report
        assert "3 passes of the network" in report  # one in each gap, as nothing is drawn
        assert preview.shape[0] == 1 and preview.shape[3] == 3 and 0 <= preview.min() <= preview.max() <= 1
        assert output.ui["text"] == (report,) and output.ui["images"]
        assert len(list(decoded_frames(made, tiny_tokenizer))) == 3 * COUNT - 2

    def test_what_a_sampler_left_out(self, tokens, net, tiny_tokenizer):
        timeline = FrameTimeline(Fraction(1, 24), Fraction(24), Fraction(9, 24), tuple(range(9)), (0, 2, 4, 7))
        made = run(tokens, net, tiny_tokenizer, timeline=timeline, frames=1)[0]
        assert made.pts == tuple(range(9)) and made.frame_rate == 24 and made.frames[7] == tokens.frames[3]

    def test_continue(self, tokens, net, tiny_tokenizer):
        made = run(tokens, net, tiny_tokenizer, task="continue", frames=10)[0]
        assert made.frames[:COUNT] == tokens.frames and len(made.frames) == COUNT + 10
        assert made.duration == Fraction(COUNT + 10, 6)

    def test_fill(self, tokens, net, tiny_tokenizer):
        mask = torch.zeros(1, HEIGHT, WIDTH)
        mask[:, :8, :16] = 1
        made, report, _ = run(tokens, net, tiny_tokenizer, task="fill", mask=mask).args
        for before, after in zip(tokens.frames, made.frames, strict=True):
            changed = before.codes != after.codes
            assert not changed[1:].any() and not changed[:, 2:].any()
        assert "8 of 96 tokens made" in report

    def test_seed_and_temperature(self, tokens, net, tiny_tokenizer):
        def drawn(**knobs):
            return run(tokens, net, tiny_tokenizer, task="continue", frames=1, **knobs)[0].frames[-1]

        assert drawn(seed=1) == drawn(seed=2)
        assert drawn(seed=1, temperature=1.0) == drawn(seed=1, temperature=1.0) != drawn(seed=2, temperature=1.0)


class TestInputs:
    def test_the_generator_of_the_widget(self, tokens, net, tiny_tokenizer, monkeypatch):
        asked = []
        monkeypatch.setattr(generating, "load_generator", lambda name: asked.append(name) or net)
        run(tokens, None, tiny_tokenizer, attention="linear", frames=1)
        run(tokens, net, tiny_tokenizer, attention="full", frames=1)
        assert asked == ["linear"]

    def test_the_tokenizer_is_found(self, tokens, net, tiny_tokenizer, monkeypatch):
        monkeypatch.setattr(generating, "find_tokenizer", lambda given: tiny_tokenizer if given is tokens else None)
        assert len(run(tokens, net, None, frames=1)[0].frames) == 2 * COUNT - 1

    def test_cancelled(self, tokens, net, tiny_tokenizer, monkeypatch):
        calls = []

        def check():
            calls.append(1)
            if len(calls) > 9:
                raise resources.Cancelled

        monkeypatch.setattr(resources, "check_cancelled", check)
        with pytest.raises(resources.Cancelled):
            run(tokens, net, tiny_tokenizer)

    def test_progress(self, tokens, net, tiny_tokenizer, monkeypatch):
        bars = []
        made = resources.progress
        monkeypatch.setattr(resources, "progress", lambda *asked: bars.append(made(*asked)) or bars[-1])
        run(tokens, net, tiny_tokenizer, task="continue", frames=9)
        assert [(bar.done, bar.total) for bar in bars] == [(COUNT + 9, COUNT + 9)]

    def test_refusals(self, tokens, net, tiny_tokenizer):
        with pytest.raises(ValueError, match="Task 'fill' needs a mask"):
            run(tokens, net, tiny_tokenizer, task="fill")
        with pytest.raises(ValueError, match="A mask goes with task 'fill'"):
            run(tokens, net, tiny_tokenizer, mask=torch.ones(1, HEIGHT, WIDTH))
        with pytest.raises(ValueError, match="Load the tokenizer they were made with"):
            run(replace(tokens, digest="7" * 64), net, tiny_tokenizer)

    def test_validation(self):
        validate = GenerateTokens.validate_inputs
        assert validate("between", 63) is True and validate("continue", 4096) is True and validate("fill", 4096) is True
        assert "Task 'between' makes 1 to 63 in each gap" in validate("between", 64)
        assert "makes 1 to 4096" in validate("continue", 5000)
        assert "Invalid task ('guess')" in validate("guess", 7)
        assert validate("between", 64, timeline=None) is True  # connected: frames is not used
        assert validate(None, 64) is True and validate("between", None) is True  # linked


class TestLoader:
    @pytest.fixture
    def own(self, net, tmp_path):
        save_checkpoint(tmp_path / "mine.safetensors", net, "generator", "mine", trained_with="1" * 64)
        image = ImageTokenizer(ImageTokenizerConfig())
        save_checkpoint(tmp_path / "image.safetensors", image, "image_tokenizer", "image")
        (tmp_path / "other.safetensors").write_bytes(b"not weights at all")

    def test_own_file(self, own, tokens, tiny_tokenizer):
        net = LoadGenerator.execute("mine.safetensors")[0]
        assert net.tokenizer_digest == tiny_tokenizer.digest and not net.training
        assert len(run(tokens, net, tiny_tokenizer, task="continue", frames=1)[0].frames) == COUNT + 1

    def test_files_in_the_folder_are_offered_after_the_shipped_ones(self, own):
        options = LoadGenerator.GET_SCHEMA().inputs[0].options
        assert options == [*GENERATORS, "image.safetensors", "mine.safetensors", "other.safetensors"]

    def test_validation(self, own):
        validate = LoadGenerator.validate_inputs
        assert validate("mine.safetensors") is True and validate("hybrid") is True
        assert "image.safetensors is a image_tokenizer" in validate("image.safetensors")
        assert "not a readable safetensors file" in validate("other.safetensors")
        assert "No weights 'gone.safetensors' in token_generators" in validate("gone.safetensors")
        assert "it has '..'" in validate("../mine.safetensors")

    def test_fingerprint_follows_the_file(self, own, net, tmp_path):
        before = LoadGenerator.fingerprint_inputs("mine.safetensors")
        save_checkpoint(tmp_path / "mine.safetensors", net, "generator", "mine", trained_with="2" * 64)
        assert LoadGenerator.fingerprint_inputs("mine.safetensors") != before
        assert LoadGenerator.fingerprint_inputs("hybrid") == "hybrid"

    def test_names_are_those_of_the_command(self):
        from tokenreel.cli import build_parser

        parse = build_parser().parse_args
        for name in ATTENTION:
            parse(["generate", "a.tokens", "b.tokens", "--task", "continue", "--attention", name])
        for precision in PRECISIONS:
            parse(["generate", "a.tokens", "b.tokens", "--task", "continue", "--precision", precision])


PANELS = 12


class TestPreview:
    def made(self, ways, cells=None):
        made = np.zeros((len(ways), 2, 2), bool)
        for index, way in enumerate(ways):
            made[index] = (way == "generated") if cells is None else cells[index]
        return Generated(None, made, tuple(ways), 0.0)  # type: ignore[arg-type]

    def test_begins_with_the_known_frame_before_what_is_new(self):
        ways = ["known"] * 30 + ["generated"] * 7 + ["known"] * 30
        assert shown_frames(self.made(ways), PANELS) == list(range(29, 29 + PANELS))
        assert shown_frames(self.made(["known"] * 5 + ["generated"] * 2), PANELS) == list(range(7))
        assert shown_frames(self.made(["known"] * 20 + ["generated"] * 3), PANELS)[-1] == 22

    def test_nothing_new(self):
        assert shown_frames(self.made(["known", "repeated"] * 20), PANELS) == list(range(PANELS))

    def test_places_are_spread_over_the_clip(self):
        cell = np.eye(2, dtype=bool)
        ways = ["known", "generated"] * 20
        found = shown_frames(self.made(ways, [cell & (way == "generated") for way in ways]), PANELS)
        assert len(found) == PANELS and found[0] == 1 and found[-1] == 39 and all(index % 2 for index in found)

    def test_drawn(self, tokens, net, tiny_tokenizer):
        filler = TokenFiller(net, tiny_tokenizer.image)
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[0, 0] = True
        sheets = []
        for wanted in (Completion(frames=1, steps=1), Completion("fill", mask=mask, steps=1)):
            made = generate(tokens, filler, tiny_tokenizer, wanted)
            sheets.append(draw_preview(made, tiny_tokenizer, lambda: None))
        assert all(sheet.dtype == np.uint8 and sheet.shape[1] == sheets[0].shape[1] for sheet in sheets)
        colour = np.array(STATES[1], np.uint8)
        assert all((sheet == colour).all(-1).sum() > 100 for sheet in sheets)


def test_report_says_what_happened():
    facts = {"known": 2, "generated": 7, "repeated": 1, "faded": 3, "frames": 13, "width": 64, "height": 48}
    facts |= {"frame_rate": 24.0, "duration": 13 / 24, "tokens": 624, "tokens_made": 336, "made_fraction": 7 / 13}
    text = describe_generation({**facts, "network_calls": 4, "cuts": 1, "notes": ["so it is"], "seconds": 1.24})
    assert text.splitlines() == [
        "13 frames, 64 x 48, 24.000 fps, 0.54 s",
        "  2 known",
        "  7 generated",
        "  1 repeated",
        "  3 mixed of two",
        "336 of 624 tokens made (53.8%) in 4 passes of the network",
        "1 cuts, over which nothing is made",
        "Note: so it is.",
        "1.2 s in all",
    ]
