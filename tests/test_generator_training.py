"""What the generator learns from is what it is said to be, and a short run learns and resumes."""

import re
import sys
from itertools import pairwise

import pytest
import torch
from safetensors.torch import save_file

from tokenreel.models.checkpoint import load_checkpoint
from tokenreel.models.quantizers import FSQ
from tokenreel.training import generator
from tokenreel.training.generator import TokenClips, bits


@pytest.fixture
def tokens(tmp_path):
    rows = torch.arange(3 * 17 * 4 * 4).view(3, 17, 4, 4).mul(977) % 64000
    save_file({"one": rows.to(torch.int32), "two": rows.flip(1).to(torch.int32)}, tmp_path / "tokens.safetensors")
    return tmp_path / "tokens.safetensors"


class TestClips:
    def test_frames_follow_each_other(self, tokens):
        clips = TokenClips(tokens, 0)
        batch = clips.batch(16, 5)
        assert batch.shape == (16, 5, 4, 4)
        known = list(clips.clips[0].flatten(0, 1).long())
        for clip in batch:
            places = [next(i for i, each in enumerate(known) if torch.equal(each, frame)) for frame in clip]
            steps = {after - before for before, after in pairwise(places)}
            assert len(steps) == 1 and abs(steps.pop()) in (1, 2)

    def test_something_is_asked_for_and_something_known(self, tokens):
        masks = TokenClips(tokens, 0).masks(torch.Size((64, 9, 4, 4)))
        known = masks.flatten(1).float().mean(1)
        assert known.max() < 1 and (known > 0).sum() > 55
        whole = masks.flatten(2).all(-1)
        assert (whole[:, 0] & whole[:, -1]).any() and (whole[:, 0] & ~whole[:, -1]).any()

    def test_some_known_tokens_are_off_by_a_level(self, tokens):
        clips, fsq = TokenClips(tokens, 0), FSQ((8, 8, 8, 5, 5, 5))
        batch = clips.batch(8, 9)
        known = clips.masks(batch.shape)
        off = clips.off(batch, known, fsq)
        changed = (fsq.digits(off) - fsq.digits(batch)).abs()
        assert changed.sum(-1).max() == 1 and not changed[~known].any()
        assert 0.02 < changed.sum(-1)[known].float().mean() < 0.1

    def test_bits_of_an_even_guess(self):
        fsq = FSQ((4, 2))
        logits = torch.zeros(1, 2, 2, 2, 4), torch.zeros(1, 2, 2, 2, 2)
        assert torch.allclose(bits(logits, fsq.digits(torch.randint(8, (1, 2, 2, 2)))), torch.tensor(3.0))


def test_a_short_run_learns_and_resumes(tokens, tmp_path, monkeypatch, capsys):
    out = tmp_path / "g.safetensors"
    options = f"--tokens {tokens} --out {out} --state {tmp_path / 'g.state'} --every 2 --batch 2 --length 5 --width 16 "
    options += "--depth 2 --device cpu --pattern linear,window --name tiny --minutes "
    monkeypatch.setattr(sys, "argv", ["generator", *options.split(), "0.05"])
    generator.main()
    steps = [int(each) for each in re.findall(r"step (\d+)", capsys.readouterr().out)]
    assert steps and load_checkpoint(out, "generator").config.pattern == ("linear", "window")
    monkeypatch.setattr(sys, "argv", ["generator", *options.split(), "0.08"])
    generator.main()
    more = [int(each) for each in re.findall(r"step (\d+)", capsys.readouterr().out)]
    assert more and more[0] > steps[-1]
