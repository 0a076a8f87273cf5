"""Networks in fewer bits where that is faster: when it is taken, when not, and how near the generator stays."""

import copy
from itertools import chain, cycle

import pytest
import torch
from torch import nn

from tokenreel.models import fast_networks
from tokenreel.models.checkpoint import load_generator
from tokenreel.models.fast_networks import FLOAT, MOST_ERROR, fastest, typical_run
from tokenreel.models.generator import GeneratorConfig, TokenGenerator
from tokenreel.models.int8_linear import QuantizedLinear
from tokenreel.nodes import generating

X = torch.randn(64, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Linear(32, 256), nn.SiLU(), nn.Linear(256, 256)
        return nn.Sequential(nn.Sequential(*layers)).eval()  # those of a block


def run(net):
    """In the type of the network's weights; quantized layers take any."""
    dtype = next((each.dtype for each in net.parameters() if each.dim() == 2), torch.float32)
    return net(X.to(dtype))


def clock(*seconds):
    """The runs that are timed, floats and the other way in turn, take so long, the last again."""
    state = {"now": 0.0}
    steps = chain.from_iterable((0.0, each) for each in chain(seconds, cycle(seconds[-2:])))

    def now():
        state["now"] += next(steps)
        return state["now"]

    return now


class TestFastest:
    @pytest.fixture(autouse=True)
    def layers_in_int8_are_faster(self, monkeypatch):
        monkeypatch.setattr("tokenreel.models.quantization.time_both", lambda *_: (2.0, 1.0))

    def test_bfloat16_that_is_much_faster_is_taken_at_once(self, net):
        made = fastest(net, run, clock=clock(2.0, 1.0))
        assert made.way == "bfloat16" and made.net[0][0].weight.dtype == torch.bfloat16
        assert [trial.way for trial in made.trials] == ["bfloat16"] and made.trials[0].gain == pytest.approx(2)
        assert 0 < made.trials[0].error <= MOST_ERROR

    def test_floats_that_are_as_fast_are_kept(self, net):
        made = fastest(net, run, clock=clock(1.0, 0.97))
        assert made.net is net and made.way == FLOAT and [each.way for each in made.trials] == ["bfloat16", "int8"]

    def test_int8_where_bfloat16_is_slow(self, net):
        made = fastest(net, run, clock=clock(*[1.0, 4.0] * 5, 1.0, 0.8), most_error=0.05)
        assert made.way == "int8" and isinstance(made.net[0][2], QuantizedLinear)
        assert made.trials[0].gain == pytest.approx(0.25) and made.trials[1].gain == pytest.approx(1.25)

    def test_the_faster_of_two(self, net):
        made = fastest(net, run, clock=clock(*[1.0, 0.8] * 5, 1.0, 0.9), most_error=0.05)
        assert made.way == "bfloat16" and len(made.trials) == 2

    def test_no_int8_where_no_layer_is_faster_so(self, net, monkeypatch):
        monkeypatch.setattr("tokenreel.models.quantization.time_both", lambda *_: (1.0, 2.0))
        made = fastest(net, run, clock=clock(*[1.0, 4.0] * 5, 1.0, 0.5))
        assert made.net is net and [each.way for each in made.trials] == ["bfloat16"]

    def test_what_is_too_far_off_is_not_taken(self, net):
        made = fastest(net, run, clock=clock(2.0, 1.0), most_error=1e-6)
        assert made.net is net and all(trial.gain > 1 for trial in made.trials)

    def test_what_is_no_number_is_not_taken(self, net, monkeypatch):
        def broken(net, run):
            made = copy.deepcopy(net)
            made[0][0].weight.data.fill_(float("nan"))
            return made

        monkeypatch.setattr(fast_networks, "_WAYS", {"bfloat16": broken})
        made = fastest(net, run, clock=clock(2.0, 1.0))
        assert made.net is net and made.trials[0].error == float("inf")

    def test_floats_that_were_held_up_once_in_a_while_are_kept(self, net):
        runs = [9.0, 1.0, 9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
        assert fastest(net, run, clock=clock(*runs, *runs)).net is net

    def test_what_is_hopeless_is_run_once(self, net, monkeypatch):
        monkeypatch.setattr(fast_networks, "_WAYS", {"bfloat16": fast_networks._WAYS["bfloat16"]})
        calls = []
        made = fastest(net, lambda each: calls.append(each) or run(each), clock=clock(1.0, 9.0))
        assert made.net is net and len(calls) == 4  # each for the error and once for the time

    def test_a_lucky_run_is_not_enough(self, net):
        runs = [1.0, 1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
        assert fastest(net, run, clock=clock(*runs, *runs)).net is net

    def test_no_kernel_on_this_machine(self, net, monkeypatch):
        def missing(net, run):
            raise RuntimeError("not implemented for 'BFloat16'")

        monkeypatch.setattr(fast_networks, "_WAYS", dict.fromkeys(fast_networks._WAYS, missing))
        made = fastest(net, run)
        assert made.net is net and made.way == FLOAT and made.trials == ()

    def test_the_network_stays_as_it_is(self, net):
        before = copy.deepcopy(net.state_dict())
        fastest(net, run, clock=clock(1.0, 0.97))
        after = net.state_dict()
        assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


class TestGenerator:
    @pytest.mark.parametrize("kind", ["linear", "window", "full", "performer"])
    def test_every_attention_runs_in_bfloat16(self, kind):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = TokenGenerator(GeneratorConfig(width=32, depth=2, heads=2, pattern=(kind,), digit_width=8)).eval()
        made = fastest(net, typical_run, clock=clock(2.0, 1.0))
        assert made.way == "bfloat16" and made.net.config == net.config

    def test_the_shipped_one_stays_near(self, trained_tokenizer):
        made = fastest(load_generator(), typical_run, clock=clock(2.0, 1.0))
        assert made.way == "bfloat16" and made.trials[0].error < 0.006

    def test_on_loading(self, monkeypatch):
        asked = []
        monkeypatch.setattr(generating.checkpoint, "load_generator", lambda name: nn.Identity())
        monkeypatch.setattr(generating, "fast_generator", lambda net: asked.append(net) or net)
        generating.load_generator("small")
        assert not asked
        generating.load_generator("small", "fast")
        assert len(asked) == 1
        with pytest.raises(ValueError, match="Invalid precision 'int4'"):
            generating.load_generator("small", "int4")
