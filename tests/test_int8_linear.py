"""Linear layers in int8: near to float, packed and plain alike, small in memory, whole in a state dict."""

import pytest
import torch
from torch import nn

from tokenreel.models import int8_linear
from tokenreel.models.int8_linear import QuantizedLinear, pack, packs, time_both, unpack
from tokenreel.models.quantized_formats import FORMATS, quantize_weight, read_weight


def layer(K=512, N=256, *, bias=True, seed=0):
    made = nn.Linear(K, N, bias=bias).requires_grad_(False)
    chance = torch.Generator().manual_seed(seed)
    made.weight.copy_(torch.randn(N, K, generator=chance) / K**0.5)
    if bias:
        made.bias.copy_(torch.randn(N, generator=chance))
    return made


def tokens(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error(made, true):
    return float((made - true).norm() / true.norm())


@pytest.fixture(params=["packed", "plain", "float"])
def way(request, monkeypatch):
    """All ways in which a CPU multiplies."""
    if request.param == "packed" and not packs():
        pytest.skip("this build of torch packs no int8 weights")
    if request.param != "packed":
        monkeypatch.setattr(int8_linear, "packs", lambda: False)
    if request.param == "float":
        monkeypatch.setattr(int8_linear, "_multiplies_exactly", lambda: False)
    return request.param


class TestInt8:
    @pytest.mark.parametrize("rotated", [False, True])
    @pytest.mark.parametrize("bias", [False, True])
    def test_near_to_float(self, way, rotated, bias):
        linear = layer(bias=bias)
        made = QuantizedLinear(quantize_weight(linear.weight, "int8", rotated=rotated), linear.bias)
        x = tokens(3, 700, 512)  # more than are multiplied at a time
        assert made(x).shape == (3, 700, 256)
        assert 0 < error(made(x), linear(x)) <= 0.012

    def test_all_ways_give_the_same(self, way, monkeypatch):
        linear, x = layer(), tokens(40, 512)
        weight = quantize_weight(linear.weight, "int8")
        made = QuantizedLinear(weight, linear.bias)(x)
        monkeypatch.setattr(int8_linear, "packs", lambda: False)
        monkeypatch.setattr(int8_linear, "_multiplies_exactly", lambda: False)
        assert torch.allclose(made, QuantizedLinear(weight, linear.bias)(x), atol=1e-5)

    def test_smoothing(self, way):
        linear, x, scale = layer(), tokens(40, 512), torch.ones(512)
        x[:, 7] *= 50
        scale[7] = 1 / 7
        plain, smooth = (quantize_weight(linear.weight, "int8", rotated=False, smoothing=s) for s in (None, scale))
        errors = [error(QuantizedLinear(each, linear.bias)(x), linear(x)) for each in (plain, smooth)]
        assert errors[1] < 0.6 * errors[0]

    def test_a_token_of_zeros(self, way):
        linear = layer()
        made = QuantizedLinear(quantize_weight(linear.weight, "int8"), linear.bias)
        assert torch.allclose(made(torch.zeros(2, 512)), linear.bias.expand(2, -1))

    def test_each_token_by_itself(self, way):
        """One that is loud takes nothing from the others."""
        linear, x = layer(), tokens(8, 512)
        made = QuantizedLinear(quantize_weight(linear.weight, "int8"), linear.bias)
        loud = torch.cat([x, 1e4 * x[:1]])
        assert torch.equal(made(loud)[:8], made(x))

    def test_no_token(self, way):
        assert QuantizedLinear(quantize_weight(layer().weight, "int8"))(torch.zeros(0, 512)).shape == (0, 256)

    def test_bfloat16(self, way):
        linear, x = layer(), tokens(40, 512)
        made = QuantizedLinear(quantize_weight(linear.weight, "int8"), linear.bias)
        assert made(x.bfloat16()).dtype == torch.bfloat16
        assert error(made(x.bfloat16()).float(), linear(x)) < 0.015

    def test_a_quarter_of_the_memory(self, way):
        linear = layer(1024, 1024)
        made = QuantizedLinear(quantize_weight(linear.weight, "int8"), linear.bias)
        assert made.nbytes <= 0.27 * linear.weight.nbytes

    def test_the_weight_comes_back_whole(self, way):
        weight = quantize_weight(layer().weight, "int8")
        state = QuantizedLinear(weight, None).state_dict()
        assert {name: tensor.tolist() for name, tensor in state.items()} == {
            name: tensor.tolist() for name, tensor in weight.file_tensors().items()
        }
        assert torch.equal(read_weight(state).dequantize(), weight.dequantize())

    def test_moved_to_another_type_it_stays_itself(self, way):
        linear, x = layer(), tokens(40, 512)
        made = QuantizedLinear(quantize_weight(linear.weight, "int8"), linear.bias)
        before = made(x)
        made.to(torch.bfloat16)
        assert made.weight_scale.dtype == torch.float32
        assert error(made(x), before) < 0.004  # of the bias


@pytest.mark.parametrize("kind", [name for name in FORMATS if name != "int8"])
def test_other_formats_are_widened(kind):
    linear, x = layer(), tokens(40, 512)
    weight = quantize_weight(linear.weight, kind)
    made = QuantizedLinear(weight, linear.bias)
    assert torch.equal(made(x), nn.functional.linear(x, weight.dequantize(), linear.bias))
    assert made.nbytes == weight.nbytes


@pytest.mark.skipif(not packs(), reason="this build of torch packs no int8 weights")
def test_packing_is_undone():
    weight = torch.randint(-128, 128, (96, 200), dtype=torch.int8)
    assert torch.equal(unpack(pack(weight)), weight)


def test_both_are_timed():
    linear = layer(64, 64)
    twin = QuantizedLinear(quantize_weight(linear.weight, "int8"), linear.bias)
    assert all(0 < seconds < 10 for seconds in time_both(linear, twin, 32, times=2))
