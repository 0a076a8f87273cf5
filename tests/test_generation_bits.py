"""Bits of simple models are the entropies they are said to be; those of networks are of what was asked for."""

import argparse
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from tokenreel.benchmarks import generation_bits
from tokenreel.benchmarks.generation_bits import (
    Told,
    add_clip,
    conditional_bits,
    counted_bits,
    measure_bits,
    told_tokens,
    unigram_bits,
)
from tokenreel.benchmarks.generation_clips import CodedClip, Pictures
from tokenreel.models.generator import GeneratorConfig, TokenGenerator
from tokenreel.models.token_guess import guess
from tokenreel.video.writer import VideoWriter

RNG = np.random.default_rng(0)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return TokenGenerator(GeneratorConfig(levels=(4, 3), width=16, depth=2, heads=2)).eval()


@pytest.fixture
def clip(tiny_tokenizer, texture):
    wide = texture(32, 200)
    source = np.stack([wide[:, 4 * t : 4 * t + 48] for t in range(18)])
    pictures = Pictures(tiny_tokenizer.image)
    tokens = pictures.encode(source)
    return CodedClip("pan", source, tokens, pictures.decode(tokens), ())


class TestCounted:
    def test_unigram_is_the_entropy(self):
        tokens = np.array([5] * 4 + [900] * 2 + [7, 8])
        assert unigram_bits(tokens).tolist() == [1] * 4 + [2] * 2 + [3] * 2

    def test_contexts_have_their_own_counts(self):
        values, contexts = np.array([1, 1, 1, 2, 9, 9]), np.array([0, 0, 4, 4, 4, 4])
        assert counted_bits(values, contexts).tolist() == [0, 0, 2, 2, 1, 1]

    def test_nothing(self):
        assert len(counted_bits(np.zeros(0, np.int64), np.zeros(0, np.int64))) == 0


class TestConditional:
    def forms(self, net, tokens, beside, away=None):
        away = np.ones_like(tokens) if away is None else away
        return conditional_bits(net, tokens, beside, away)

    def test_what_stays_costs_nothing(self, net):
        tokens = RNG.integers(0, 12, 500)
        assert all(not bits.any() for bits in self.forms(net, tokens, tokens).values())

    def test_what_has_nothing_in_common_costs_what_it_holds(self, net):
        tokens, beside = RNG.integers(0, 12, (2, 40000))
        for bits in self.forms(net, tokens, beside).values():
            assert bits.mean() == pytest.approx(math.log2(12), abs=0.01)

    def test_the_same_or_not(self, net):
        """One in four is another one, and then any of the eleven others is as likely."""
        beside = RNG.integers(0, 12, 40000)
        tokens = np.where(RNG.random(40000) < 0.75, beside, (beside + RNG.integers(1, 12, 40000)) % 12)
        share = (tokens == beside).mean()
        entropy = -share * math.log2(share) - (1 - share) * math.log2(1 - share) + (1 - share) * math.log2(11)
        for bits in self.forms(net, tokens, beside).values():
            assert bits.mean() == pytest.approx(entropy, abs=0.02)
        two_part = self.forms(net, tokens, beside)["the same or not, then digit after digit"]
        assert two_part[tokens == beside] == pytest.approx(-math.log2(share))

    def test_digits_are_told_from_those_before(self, net):
        """The second digit says nothing that the first one did not."""
        first = RNG.integers(0, 3, 5000)
        tokens, beside = first + 4 * first, np.zeros(5000, np.int64)
        for bits in self.forms(net, tokens, beside).values():
            assert bits.mean() == pytest.approx(math.log2(3), abs=0.01)

    def test_each_distance_has_its_tables(self, net):
        """What is near stays, what is far is the next token."""
        beside, away = RNG.integers(0, 11, 3000), np.repeat([1, 4], 1500)
        forms = self.forms(net, beside + (away == 4), beside, away)
        assert forms["the same or not, then digit after digit"][away == 1].max() == 0
        assert max(bits[away == 4].mean() for bits in forms.values()) < 2
        assert forms["digit after digit"][away == 1].max() == 0

    def test_counted_tables_are_a_code(self, net):
        """No distribution of tokens after tokens takes less than the true one of the same form, here: none at all."""
        tokens, beside = RNG.integers(0, 12, (2, 60))
        for bits in self.forms(net, tokens, beside).values():
            assert bits.min() >= 0 and bits.mean() < math.log2(12)


class TestRuns:
    def test_what_is_asked_for(self, net, clip, tiny_tokenizer):
        """Frames from three before them, and two gaps of seven frames; beside them the nearest known ones."""
        found = {"next": Told(), "between": Told()}
        add_clip(found, 3, clip, tiny_tokenizer.image, {"net": net}, 5)
        later, between, tokens = found["next"], found["between"], clip.tokens.numpy()
        frames = [4, 7, 10, 13, 16]
        assert np.array_equal(later["tokens"], tokens[frames].ravel())
        assert np.array_equal(later["beside"], tokens[[at - 1 for at in frames]].ravel())
        assert set(later["clip"]) == {3} and set(later["away"]) == {1}
        assert np.array_equal(between["tokens"], np.r_[tokens[1:8].ravel(), tokens[9:16].ravel()])
        nearest = [0] * 4 + [8] * 3 + [8] * 4 + [16] * 3
        assert np.array_equal(between["beside"], tokens[nearest].ravel())
        assert between["away"][:: tokens[0].size].tolist() == [1, 2, 3, 4, 3, 2, 1] * 2
        known = torch.ones(4, 4, 6, dtype=torch.bool)
        known[3] = False
        run = torch.where(known, clip.tokens[4:8], 0)
        with torch.inference_mode():
            bits = net.bits(clip.tokens[None, 4:8], known[None], guess(tiny_tokenizer.image, run, known)[None])
        assert torch.allclose(torch.from_numpy(later["net"]).view(-1, 4, 6)[1], bits[0, 3].double())

    def test_what_is_asked_for_is_not_seen(self, net, clip, tiny_tokenizer):
        """Bits are those of distributions that do not depend on the tokens: over all tokens they add up to one."""
        shares = torch.zeros(4, 6, dtype=torch.float64)
        for token in range(12):
            tokens = clip.tokens.clone()
            tokens[16] = token  # told from 13 to 15, and as the end of a gap beside it
            found = {"next": Told(), "between": Told()}
            other = CodedClip("a", clip.source, tokens, clip.decoded, ())
            add_clip(found, 0, other, tiny_tokenizer.image, {"n": net}, 5)
            shares += torch.from_numpy(found["next"]["n"]).view(-1, 4, 6)[4].neg().exp2()
        assert torch.allclose(shares, torch.ones_like(shares), atol=1e-4)

    def test_fewer(self, net, clip, tiny_tokenizer):
        found = {"next": Told(), "between": Told()}
        add_clip(found, 0, clip, tiny_tokenizer.image, {"net": net}, 1)
        assert len(found["next"]) == 24 and len(found["between"]) == 7 * 24


class TestTable:
    def test_means_and_clips(self, net):
        told = Told()
        one = torch.ones(1, dtype=torch.long)
        told.add(
            0, torch.tensor([[[1, 2]]]), torch.tensor([[[1, 1]]]), one, {"generator": torch.tensor([[[0.0, 4.0]]])}
        )
        told.add(
            5, torch.tensor([[[1, 3]]]), torch.tensor([[[1, 1]]]), one, {"generator": torch.tensor([[[0.0, 0.5]]])}
        )
        found = told.table(net)
        assert (found["tokens"], found["changed"], found["clips"]) == (4, 0.5, 2)
        assert found["generator"] == {"all": 1.125, "changed": 2.25}
        assert found["unigram"] == {"all": 1.5, "changed": 2.0}
        # digits: the first two are told in two bits each or none, and the form that takes least is taken
        assert found["conditional"]["all"] == pytest.approx(1.5) and found["form"] == "digit after digit"
        assert found["below"] == {"unigram": 1, "conditional": 1}

    def test_nothing_changed(self, net):
        told = Told()
        same = torch.tensor([[[1, 2]]])
        told.add(0, same, same, torch.ones(1, dtype=torch.long), {"generator": torch.zeros(1, 1, 2)})
        assert told.table(net)["generator"] == {"all": 0, "changed": None}


class TestMeasured:
    @pytest.fixture
    def clips(self, tmp_path, texture, monkeypatch, tiny_tokenizer):
        monkeypatch.setattr(generation_bits, "load_tokenizer", lambda: tiny_tokenizer)
        wide = texture(32, 200)
        for name, count in (("a", 12), ("b", 5)):
            with VideoWriter(tmp_path / f"{name}.mkv", width=32, height=32, frame_rate=Fraction(24)) as writer:
                writer.write(np.stack([wide[:, 4 * t : 4 * t + 32] for t in range(count)]))
        return argparse.Namespace(clips=str(tmp_path), frames=65, limit=None)

    def test_of_clips(self, clips, net):
        told = []
        found = measure_bits(clips, net, told.append)
        assert (found["next"]["tokens"], found["between"]["tokens"]) == (10 * 16, 7 * 16) and len(told) == 2
        assert (found["next"]["clips"], found["between"]["clips"]) == (2, 1)
        assert (found["runs"], found["before"], found["gap"], found["raw"]) == (8, 3, 8, math.log2(12))
        assert 0 < found["next"]["generator"]["all"] < 20

    def test_networks_are_asked_for_the_same(self, clips, net):
        found = told_tokens(clips, {"one": net, "other": net}, lambda line: None, runs=1)
        assert np.array_equal(found["between"]["one"], found["between"]["other"])

    def test_clips_are_too_short(self, clips, net):
        clips.frames = 8
        with pytest.raises(ValueError, match=r"None of the 2 clips has more than 8 frames\. .* --clips DIR"):
            measure_bits(clips, net, lambda line: None)
