"""MODELs that look for cancel inside a forward, and those that must be left as they are."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tokenreel.host import resources
from tokenreel.nodes.stoppable_models import stoppable


@pytest.fixture
def looks(monkeypatch):
    seen = []
    monkeypatch.setattr(resources, "check_cancelled", lambda: seen.append(1))
    return seen


def model_of(network, **facts):
    return SimpleNamespace(model=SimpleNamespace(diffusion_model=network), **facts)


def network():
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))


def test_each_part_looks_once_also_where_two_models_share_it(looks):
    shared = network()
    with stoppable(model_of(shared), model_of(shared), None):
        shared(torch.ones(1, 2))
    assert len(looks) == 3
    shared(torch.ones(1, 2))
    assert len(looks) == 3


@pytest.mark.parametrize(
    "facts",
    [
        {"model_options": {"torch_compile_kwargs": {}}},
        {"object_patches": {"diffusion_model.blocks.0": SimpleNamespace(_orig_mod=None)}},
    ],
    ids=["by ComfyUI's node", "block by block"],
)
def test_compiled_models_stay_as_they_are(facts, looks):
    compiled = network()
    with stoppable(model_of(compiled, **facts)):
        assert not any(part._forward_pre_hooks for part in compiled.modules())


def test_what_is_no_model_is_passed_over(looks):
    with stoppable(object(), SimpleNamespace(model=None)):
        assert not looks
