"""What the generator learns from is what it is said to be, and a short run learns and resumes."""

import re
import sys

import pytest
import torch
from safetensors.torch import save_file

from tokenreel.models.checkpoint import load_generator, load_tokenizer
from tokenreel.models.generator import token_bits
from tokenreel.models.quantizers import FSQ
from tokenreel.models.token_guess import EXTRA
from tokenreel.training import generator
from tokenreel.training.data import ClipPack
from tokenreel.training.generator import TokenExamples, decibels
from tokenreel.training.token_clips import AHEAD, GAPS, Examples


@pytest.fixture
def shards(tmp_path):
    made = {}
    for number in range(12):
        name, frames = (f"between.5.1.{number}", 5) if number % 2 else (f"after.6.2.{number}", 6)
        made[f"{name}.tokens"] = (torch.arange(frames * 64).view(frames, 8, 8) * 977 + number).remainder(64000).int()
        made[f"{name}.guess"] = torch.rand(frames, 8, 8, 6 + EXTRA).half()
    save_file(made, tmp_path / "000.safetensors", {"tokenizer": "ab" * 32})
    return tmp_path


class TestExamples:
    def test_are_cut_from_a_pack(self, tmp_path):
        frames = torch.randint(256, (34, 48, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        save_file({"clip": frames}, tmp_path / "pack.safetensors", {"run": "17"})
        tokenizer = load_tokenizer()
        drawn = Examples(ClipPack(tmp_path / "pack.safetensors"), tokenizer.image, 32, 0)
        for _ in range(8):
            name, tokens, guessed = drawn.one()
            task, length, first = name.split(".")
            assert tokens.shape == (int(length), 4, 4) and guessed.shape == (int(length), 4, 4, 6 + EXTRA)
            assert int(length) - 1 in GAPS if task == "between" else int(length) == int(first) + AHEAD
            codes = tokenizer.image.quantizer.indices_to_codes(tokens.long()).movedim(1, -1)
            given = [*range(int(first)), *([int(length) - 1] if task == "between" else [])]
            assert torch.allclose(guessed[given][..., :-EXTRA].float(), codes[given], atol=1e-3)

    def test_are_of_one_task_a_batch(self, shards):
        examples = TokenExamples(shards, 0)
        assert examples.digest == "ab" * 32
        seen = set()
        for _ in range(60):
            batch = examples.batch(3, 4)
            assert batch.tokens.shape == (3, batch.tokens.shape[1], 4, 4) == batch.guess.shape[:4]
            whole = batch.known.flatten(2).all(-1)
            assert not batch.known.flatten(1).all(1).any() and batch.known.flatten(1).any(1).all()
            if not whole.any():
                seen.add("hole")
                assert (batch.guess[~batch.known][:, -EXTRA] == 1).all() and not batch.guess[batch.known][
                    :, -EXTRA
                ].any()
            else:
                seen.add(batch.tokens.shape[1])
                assert whole[:, 0].all() and (whole[:, -1].all() or whole[:, 1].all())
        assert seen == {5, 6, "hole"}

    def test_tokens_and_guess_are_cut_alike(self, shards):
        examples = TokenExamples(shards, 0)
        for _ in range(20):
            batch = examples.batch(1, 4)
            if not batch.known.flatten(2).all(-1).any():
                continue  # an area: what is told comes from around it
            length = batch.tokens.shape[1]
            pairs = next(pairs for name, pairs in examples.groups.items() if f".{length}." in name)
            wanted = [
                (row, column)
                for tokens, _ in pairs
                for row in range(5)
                for column in range(5)
                if torch.equal(tokens[:, row : row + 4, column : column + 4].long(), batch.tokens[0])
            ]
            (row, column) = wanted[0]
            cut = [guess[:, row : row + 4, column : column + 4].float() for _, guess in pairs]
            assert any(torch.equal(each, batch.guess[0]) for each in cut)

    def test_new_shards_are_found(self, shards):
        examples = TokenExamples(shards, 0)
        before = sum(map(len, examples.groups.values()))
        (shards / "001.safetensors").write_bytes((shards / "000.safetensors").read_bytes())
        examples.look()
        assert sum(map(len, examples.groups.values())) == 2 * before

    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(ValueError, match=r"tokenreel\.training\.token_clips"):
            TokenExamples(tmp_path, 0)

    def test_some_known_tokens_are_off_by_a_level(self, shards):
        examples, fsq = TokenExamples(shards, 0), FSQ((8, 8, 8, 5, 5, 5))
        batch = examples.batch(8, 8)
        off = examples.off(batch.tokens, batch.known, fsq)
        changed = (fsq.digits(off) - fsq.digits(batch.tokens)).abs()
        assert changed.sum(-1).max() == 1 and not changed[~batch.known].any()
        assert 0.01 < changed.sum(-1)[batch.known].float().mean() < 0.1

    def test_bits_of_an_even_guess(self):
        fsq = FSQ((4, 2))
        logits = torch.zeros(1, 2, 2, 2, 4), torch.zeros(1, 2, 2, 2, 2)
        assert torch.allclose(token_bits(logits, fsq.digits(torch.randint(8, (1, 2, 2, 2)))), torch.tensor(3.0))


class TestDecibels:
    def test_rise_towards_the_truth(self):
        image = load_tokenizer().image.requires_grad_(False)
        truth = torch.randint(64000, (2, 4, 4), generator=torch.Generator().manual_seed(0))
        levels = image.quantizer.digits(truth).float()
        assert decibels(image, levels, truth).tolist() == pytest.approx([50, 50])
        worse = (levels + torch.tensor([2.0, 0, 0, 0, 0, 0])).clamp(max=4).requires_grad_()
        before = decibels(image, worse, truth)
        before.sum().backward()
        assert worse.grad is not None and worse.grad.abs().sum() > 0
        assert (decibels(image, (worse.detach() + levels) / 2, truth) > before).all()

    def test_levels_are_rounded(self):
        image = load_tokenizer().image
        truth = torch.full((1, 4, 4), 777)
        levels = image.quantizer.digits(truth).float()
        assert torch.equal(decibels(image, levels + 0.3, truth), decibels(image, levels, truth))


def test_frames_whose_decibels_count_are_asked_for(shards):
    examples = TokenExamples(shards, 0)
    batch = examples.batch(3, 4)
    picked = examples.some_asked_for(batch.known, 2)
    assert len(picked) == 6 and not batch.known.flatten(0, 1)[picked].flatten(1).all(1).any()
    assert (picked // batch.tokens.shape[1]).tolist() == [0, 0, 1, 1, 2, 2]


def test_a_short_run_learns_and_resumes(shards, tmp_path, monkeypatch, capsys):
    out = tmp_path / "made" / "g.safetensors"
    out.parent.mkdir()
    options = (
        f"--tokens {shards} --out {out} --state {out.with_suffix('.state')} --every 2 --batch 2 --side 4 --width 16"
    )
    options += " --depth 2 --device cpu --pattern linear,window --name tiny --minutes 5 --steps "
    monkeypatch.setattr(sys, "argv", ["generator", *options.split(), "4"])
    generator.main()
    steps = [int(each) for each in re.findall(r"step (\d+)", capsys.readouterr().out)]
    net = load_generator(out)
    assert steps == [2, 4] and net.config.pattern == ("linear", "window") and net.tokenizer_digest == "ab" * 32
    monkeypatch.setattr(sys, "argv", ["generator", *options.split(), "8"])
    generator.main()
    more = [int(each) for each in re.findall(r"step (\d+)", capsys.readouterr().out)]
    assert more == [6, 8]
