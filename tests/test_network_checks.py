"""Networks that are stopped halfway through a pass, and the stations that let it happen."""

import copy
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from tokenreel.generation import generate
from tokenreel.models import checkpoint
from tokenreel.models.interpolator import FlowInterpolator
from tokenreel.models.network_checks import checked, networks_of
from tokenreel.models.token_filling import TokenFiller
from tokenreel.models.upscaler import BicubicUpscaler
from tokenreel.stations import decode_to_file, encode_clip
from tokenreel.video.clips import ImageClip
from tokenreel.video.completion import Completion


class StoppedError(Exception):
    """What a check raises here."""


class Counter:
    """A check that counts, and stops the work at its `last` call."""

    def __init__(self, last: int = 0):
        self.calls, self.last = 0, last

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self.last:
            raise StoppedError


def hooks_on(networks):
    return sum(len(part._forward_pre_hooks) for network in networks for part in network.modules())


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(3).integers(0, 256, (5, 48, 64, 3), np.uint8)


def clip_of(frames):
    return ImageClip(torch.from_numpy(frames).float() / 255, Fraction(24))


class TestChecked:
    def test_looks_before_each_part(self):
        network, check = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), Counter()
        with checked([network], check):
            network(torch.ones(1, 2))
        assert check.calls == 4
        network(torch.ones(1, 2))
        assert check.calls == 4

    def test_stops_halfway_and_leaves_nothing(self):
        network, check = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), Counter(3)
        with pytest.raises(StoppedError), checked([network], check):
            network(torch.ones(1, 2))
        assert hooks_on([network]) == 0

    def test_a_copy_of_a_watched_network_is_left_in_peace(self):
        network, check = nn.Linear(2, 2), Counter()
        with checked([network], check):
            copied = copy.deepcopy(network)
        copied(torch.ones(1, 2))
        assert check.calls == 0

    def test_hooks_of_others_stay(self):
        network, seen = nn.Linear(2, 2), []
        network.register_forward_pre_hook(lambda part, given: seen.append(1))
        with checked([network], Counter()):
            network(torch.ones(1, 2))
        network(torch.ones(1, 2))
        assert len(seen) == 2 and hooks_on([network]) == 1

    def test_engines_without_networks_have_none(self):
        assert list(networks_of(BicubicUpscaler())) == []
        assert hooks_on(networks_of(FlowInterpolator())) == 0


class TestStations:
    """Each looks far more often than once a frame, gives the same as without, and leaves no hooks behind."""

    @pytest.mark.parametrize("mode", ["frames", "stream", "clip"])
    def test_encode_and_decode(self, mode, frames, tmp_path):
        tokenizer = checkpoint.load_clip_tokenizer() if mode == "clip" else checkpoint.load_tokenizer()
        check = Counter()
        coded = encode_clip(clip_of(frames), tokenizer, mode=mode, check=check)
        assert check.calls > 20 * len(frames)
        assert coded.tokens.frames and hooks_on(tokenizer.networks) == 0
        with pytest.raises(StoppedError):
            encode_clip(clip_of(frames), tokenizer, mode=mode, check=Counter(check.calls // 2))
        assert hooks_on(tokenizer.networks) == 0
        decoding = Counter()
        decode_to_file(coded.tokens, tokenizer, tmp_path / "whole.mp4", check=decoding)
        assert decoding.calls > 10 * len(frames) / 4
        with pytest.raises(StoppedError):
            decode_to_file(coded.tokens, tokenizer, tmp_path / "half.mp4", check=Counter(decoding.calls // 2))
        assert [path.name for path in tmp_path.iterdir()] == ["whole.mp4"]

    def test_generate(self, frames):
        tokenizer = checkpoint.load_tokenizer()
        tokens = encode_clip(clip_of(frames[:2]), tokenizer, mode="frames").tokens
        net = checkpoint.load_generator("linear")
        check = Counter()
        generate(tokens, TokenFiller(net, tokenizer.image), tokenizer, Completion("between", frames=1), check=check)
        assert check.calls > 50
        assert hooks_on([net, *tokenizer.networks]) == 0
