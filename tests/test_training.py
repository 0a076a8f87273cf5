"""Training runs, resumes where it stopped, and draws what it should; with networks of a few channels."""

import re
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from tokenreel.models.checkpoint import load_checkpoint, save_checkpoint
from tokenreel.models.image_tokenizer import ImageTokenizer
from tokenreel.models.quantizers import FSQ
from tokenreel.models.residual_codec import ResidualCodec
from tokenreel.models.video_tokenizer import CausalVideoTokenizer, VideoTokenizerConfig
from tokenreel.training import data, image_tokenizer, residual_codec, video_tokenizer
from tokenreel.training.data import RUN, ClipPack, runs_of_clip
from tokenreel.training.optimizer import (
    Average,
    build_optimizers,
    learning_rate,
    load_state,
    orthogonalize,
    save_state,
)
from tokenreel.video.metrics import psnr
from tokenreel.video.writer import VideoWriter


@pytest.fixture
def pack(tmp_path, texture):
    """Two clips of one run each, cut short."""
    clips = {}
    for seed, name in enumerate(("pan", "still")):
        scene = texture(80, 96 + 32, seed)
        shift = 2 if name == "pan" else 0
        clips[name] = np.stack([scene[:, shift * i : shift * i + 96] for i in range(16)])
    save_file(clips, tmp_path / "pack.safetensors")
    return tmp_path / "pack.safetensors"


@pytest.fixture
def clock(monkeypatch):
    """Ten seconds pass each time a training loop looks."""
    seconds = iter(range(0, 100_000, 10))
    for module in (image_tokenizer, residual_codec, video_tokenizer):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(seconds)))


@pytest.fixture
def train(monkeypatch, tiny_tokenizer, clock, capsys):
    """Runs a training module's command with tiny networks; returns what it printed."""
    monkeypatch.setattr(image_tokenizer, "ImageTokenizerConfig", lambda: tiny_tokenizer.image.config)
    monkeypatch.setattr(residual_codec, "ResidualCodec", lambda: ResidualCodec(tiny_tokenizer.residual.config))
    shape = VideoTokenizerConfig.from_dict(tiny_tokenizer.image.config.to_dict())
    monkeypatch.setattr(video_tokenizer, "CausalVideoTokenizer", lambda: CausalVideoTokenizer(shape))

    def run(module, **options):
        flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        monkeypatch.setattr("sys.argv", ["train", *flags, "--no-bf16", "--device", "cpu"])
        module.main()
        return capsys.readouterr().out

    return run


def steps_in(state):
    with safe_open(state, "pt") as file:
        return int(file.metadata()["step"])


class TestLoops:
    @pytest.mark.parametrize("module", [image_tokenizer, residual_codec, video_tokenizer])
    def test_three_steps_and_three_more(self, module, train, pack, tiny_tokenizer, tmp_path):
        save_checkpoint(tmp_path / "key.st", tiny_tokenizer.image, "image_tokenizer", "key")
        out, state = tmp_path / "out.st", tmp_path / "run.state"
        options = {"pack": pack, "out": out, "state": state, "every": 1, "name": "new"}
        if module is residual_codec:
            options |= {"key": tmp_path / "key.st", "batch": 3, "side": 48}
        if module is video_tokenizer:
            options |= {"image": tmp_path / "key.st"}
        kind = module.__name__.rsplit(".", 1)[-1]

        printed = train(module, **options, minutes=0.6)  # 36 s, ten a step
        assert re.findall(r"step (\d+)", printed) == ["1", "2", "3"] and steps_in(state) == 3
        first = load_checkpoint(out, kind).state_dict()
        printed += train(module, **options, minutes=1.2)
        assert re.findall(r"step (\d+)", printed) == ["1", "2", "3", "4", "5", "6"] and steps_in(state) == 6
        second = load_checkpoint(out, kind).state_dict()
        assert any(not torch.equal(first[key], second[key]) for key in first)
        assert all(value.isfinite().all() for value in second.values())
        levels = [float(level) for level in re.findall(r"([-+]?[\d.]+|nan|inf) dB", printed)]
        assert len(levels) >= 6 and np.isfinite(levels).all()
        assert train(module, **options, minutes=1.2) == ""  # the budget is spent
        assert sorted(path.name for path in tmp_path.glob("*.part")) == []

    def test_later_crops_are_larger(self):
        assert image_tokenizer.crop_of(0.0) == (64, 32) and image_tokenizer.crop_of(0.8) == (128, 8)
        assert [video_tokenizer.shape_of(spent)[0] for spent in (0.0, 0.7, 0.8)] == [64, 64, 128]

    def test_unused_codes_cost(self):
        quantizer = FSQ((8, 5))
        even = torch.atanh(torch.rand(4, 2, 32, 32, generator=torch.Generator().manual_seed(0)) * 1.98 - 0.99)
        losses = [
            image_tokenizer.spread_loss(latents, quantizer, torch.Generator().manual_seed(0)).item()
            for latents in (even, even * 0.3, even * 0 + even[:, :1], torch.zeros_like(even))
        ]
        # Not zero: the outermost codes have half a cell within reach, so that an even use means crowding at the ends.
        assert losses[0] < 0.02 and all(loss > 3 * losses[0] for loss in losses[1:])

    def test_group_losses_fall_with_the_error(self):
        target = torch.rand(2, 3, 4, 3, 16, 16) * 2 - 1
        near, far = (target + 0.1).requires_grad_(), target + 0.3
        loss, mse = video_tokenizer.loss_of(near, target, 0.5)
        loss.backward()
        assert loss < video_tokenizer.loss_of(far, target, 0.5)[0] and near.grad is not None
        assert mse.shape == (2, 3, 4) and torch.allclose(mse, torch.tensor(0.01), rtol=0.01)

    @pytest.mark.parametrize("spent", [0.0, 0.5])
    def test_losses_fall_with_the_error_and_have_gradients(self, spent):
        target = torch.rand(2, 3, 16, 16) * 2 - 1
        near, far = (target + 0.1).requires_grad_(), target + 0.3
        loss = image_tokenizer.loss_of(near, target, spent)
        loss.backward()
        assert loss < image_tokenizer.loss_of(far, target, spent)
        assert near.grad is not None and near.grad.abs().sum() > 0
        assert image_tokenizer.loss_of(target, target, spent).isfinite()

    def test_only_marked_cells_count(self):
        target = torch.zeros(1, 3, 16, 16)
        output, mask = target.clone(), torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
        output[..., 8:] = 5
        loss, mse = residual_codec.masked_loss(output, target, mask, 0.0)
        assert loss == 0 and mse == 0
        output[..., :8, :8] = 0.5
        _, mse = residual_codec.masked_loss(output, target, mask, 0.0)
        assert mse.item() == pytest.approx(0.25, rel=0.01)

    def test_cells_are_chosen_where_the_context_is_wrong(self):
        current, context = torch.zeros(2, 1, 3, 64, 64)
        context = context.clone()
        context[..., :8, :8] = 1
        drawn = [residual_codec.choose_cells(current, context, torch.Generator().manual_seed(s)) for s in range(20)]
        assert all(mask[0, 0, 0, 0] == 1 for mask in drawn)
        assert len({int(mask.sum()) for mask in drawn}) > 5  # any share of the cells

    def test_contexts_are_motion_compensated(self, pack):
        clips = ClipPack(pack).runs(2, 48, 2, torch.Generator().manual_seed(0))
        reference, current = clips[:, :, 0].contiguous(), clips[:, :, 1].contiguous()
        context = residual_codec.predict(current, reference, torch.Generator().manual_seed(0))
        assert context.shape == current.shape
        assert (context - current).square().mean() <= (reference - current).square().mean() + 1e-4


class TestState:
    def test_the_next_step_is_the_same_as_without_a_break(self, tiny_tokenizer, tmp_path):
        def fresh():
            model = ImageTokenizer(tiny_tokenizer.image.config)
            model.load_state_dict(tiny_tokenizer.image.state_dict())
            return model, Average(model), build_optimizers(model, 1e-3)

        def step(model, average, optimizers, number):
            frames = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(number)) * 2 - 1
            image_tokenizer.loss_of(model(frames), frames, 0.0).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            average.update(model, number)

        one = fresh()
        for number in range(2):
            step(*one, number)
        save_state(tmp_path / "run.state", *one, 2, 12.5)
        two = fresh()
        assert load_state(tmp_path / "run.state", *two) == (2, 12.5)
        step(*one, 2)
        step(*two, 2)
        for mine, theirs in ((one[0], two[0]), (one[1].model, two[1].model)):
            for key, value in mine.state_dict().items():
                assert torch.equal(value, theirs.state_dict()[key]), key

    def test_no_state_yet(self, tiny_tokenizer, tmp_path):
        model = ImageTokenizer(tiny_tokenizer.image.config)
        assert load_state(tmp_path / "none.state", model, Average(model), build_optimizers(model, 1e-3)) == (0, 0.0)


class TestOptimizer:
    def test_every_weight_has_one_optimizer(self):
        model = ResidualCodec()
        held = [p for o in build_optimizers(model, 1e-3) for group in o.param_groups for p in group["params"]]
        assert len(held) == len(list(model.parameters())) == len({id(p) for p in held})
        assert len(build_optimizers(model, 1e-3)) == 2 and len(build_optimizers(model, 1e-3, muon_lr=0)) == 1

    @pytest.mark.parametrize("shape", [(64, 64), (64, 200), (200, 64)])
    def test_steps_are_nearly_orthogonal(self, shape):
        update = orthogonalize(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
        values = torch.linalg.svdvals(update)
        assert update.shape == shape and values.max() < 1.4
        assert (values > 0.5).float().mean() > 0.95  # a square matrix has some near zero

    def test_rate_warms_up_stays_and_falls(self):
        assert learning_rate(0.0, 0) < 0.02 and learning_rate(0.3, 500) == 1.0
        assert learning_rate(0.75, 500) == pytest.approx(0.51) and learning_rate(1.0, 500) == pytest.approx(0.02)

    def test_average_follows(self):
        model = torch.nn.Linear(2, 2)
        average = Average(model, decay=0.5)
        before = average.model.weight.clone()
        with torch.no_grad():
            model.weight += 1
        average.update(model, 1000)
        assert torch.allclose(average.model.weight, before + 0.5)
        assert not average.model.weight.requires_grad


class TestData:
    def test_crops_are_in_range_and_repeatable(self, pack):
        clips = ClipPack(pack)
        one = clips.runs(6, 32, 3, torch.Generator().manual_seed(1))
        assert one.shape == (6, 3, 3, 32, 32) and one.abs().max() <= 1 and one.isfinite().all()
        assert torch.equal(one, clips.runs(6, 32, 3, torch.Generator().manual_seed(1)))
        assert not torch.equal(one, clips.runs(6, 32, 3, torch.Generator().manual_seed(2)))
        assert clips.frames(2, 128, torch.Generator()).shape == (2, 3, 128, 128)  # larger than the clip

    def test_runs_do_not_cross(self, tmp_path):
        """Frames of one run are neighbours in time; the next run may come from anywhere in the clip."""
        levels = np.repeat(np.arange(3, dtype=np.uint8) * 80, RUN)[:, None, None, None]
        save_file({"clip": np.broadcast_to(levels, (3 * RUN, 40, 40, 3)).copy()}, tmp_path / "p.safetensors")
        drawn = ClipPack(tmp_path / "p.safetensors").runs(40, 16, 3, torch.Generator().manual_seed(0))
        assert (drawn.amax((1, 2, 3, 4)) - drawn.amin((1, 2, 3, 4)) < 0.5).all()

    @pytest.mark.parametrize("frames", [1, 2, 5])
    def test_short_clips(self, tmp_path, frames):
        save_file({"clip": np.full((frames, 20, 30, 3), 128, np.uint8)}, tmp_path / "p.safetensors")
        drawn = ClipPack(tmp_path / "p.safetensors").runs(4, 24, 3, torch.Generator().manual_seed(0))
        assert drawn.shape == (4, 3, 3, 24, 24)

    def test_worn_runs_are_close_and_not_equal(self, texture):
        frames = np.stack([texture(40, 60, 0)] * 5)
        worn = data.worn(frames, np.random.default_rng(0))
        assert worn.shape == frames.shape and 20 < psnr(frames, worn).mean() < 50
        assert np.array_equal(data.worn(frames[:, :39], np.random.default_rng(0)), frames[:, :39])  # odd: left alone

    def test_empty_pack(self, tmp_path):
        save_file({}, tmp_path / "p.safetensors")
        with pytest.raises(ValueError, match="No clips in"):
            ClipPack(tmp_path / "p.safetensors")

    def test_packs_are_built_from_files(self, tmp_path, texture, monkeypatch):
        (tmp_path / "clips").mkdir()
        scene = texture(60, 120, 0)
        with VideoWriter(
            tmp_path / "clips" / "a.mp4", width=90, height=60, frame_rate=Fraction(24), lossless=True
        ) as writer:
            writer.write(np.stack([scene[:, i : i + 90] for i in range(30)] * 2))
        assert runs_of_clip(tmp_path / "clips" / "a.mp4", 320, 2).shape == (2 * RUN, 60, 90, 3)  # never enlarged
        pack = tmp_path / "pack.safetensors"
        monkeypatch.setattr("sys.argv", ["data", str(tmp_path / "clips"), "--out", str(pack), "--short-side", "30"])
        data.main()
        clips = ClipPack(pack)
        assert clips.names == ["a"] and clips.run == RUN and clips.clips["a"].shape == (3 * RUN, 30, 45, 3)
