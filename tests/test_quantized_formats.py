"""Weights in few bits: what they lose, what files hold of them, and what is refused."""

import json

import pytest
import torch

from tokenreel.models import quantized_formats
from tokenreel.models.quantized_formats import (
    FORMATS,
    GROUP,
    QuantizedWeight,
    file_layout,
    find_format,
    quantize_weight,
    read_weight,
    rotate,
)

ERRORS = {"int8": 0.009, "fp8": 0.028, "mxfp8": 0.03, "nvfp4": 0.11}
SHARES = {"int8": 0.27, "fp8": 0.26, "mxfp8": 0.27, "nvfp4": 0.16}  # of fp32
each_format = pytest.mark.parametrize("kind", FORMATS)


def gaussian(N=160, K=512, seed=0):
    return torch.randn(N, K, generator=torch.Generator().manual_seed(seed))


def error(made, true):
    return float((made - true).norm() / true.norm())


@each_format
class TestFormats:
    def test_little_is_lost(self, kind):
        weight = gaussian()
        made = quantize_weight(weight, kind)
        assert 0 < error(made.dequantize(), weight) < ERRORS[kind]
        assert made.nbytes < SHARES[kind] * weight.nbytes

    def test_a_file_holds_all_of_it(self, kind):
        made = quantize_weight(gaussian(), kind)
        tensors = made.file_tensors()
        assert json.loads(bytes(tensors["comfy_quant"].tolist()))["format"] == FORMATS[kind].algorithm
        again = read_weight(tensors)
        assert (again.kind, again.shape, again.config) == (kind, (160, 512), made.config)
        assert torch.equal(again.dequantize(), made.dequantize())

    @pytest.mark.parametrize("shape", [(160, 512), (64, 96), (256, 768)])
    def test_types_and_shapes_are_known_before(self, kind, shape):
        made = quantize_weight(gaussian(*shape), kind)
        assert file_layout(kind, shape) == {n: (t.dtype, tuple(t.shape)) for n, t in made.file_tensors().items()}

    def test_rows_at_a_time_are_all_at_once(self, kind, monkeypatch):
        weight = gaussian(704, 256)
        whole = quantize_weight(weight, kind, rotated=False if kind == "int8" else None)
        monkeypatch.setattr(quantized_formats, "_AT_ONCE", 1)
        parts = quantize_weight(weight, kind, rotated=False if kind == "int8" else None)
        for name, tensor in whole.tensors.items():
            assert torch.equal(tensor.float(), parts.tensors[name].float())
        rows = [block.dequantize() for _, block in parts.blocks()]
        assert len(rows) == 6 and torch.equal(torch.cat(rows), whole.dequantize())

    def test_zeros_stay_zeros(self, kind):
        weight = gaussian()
        weight[:, 256:] = 0
        assert not quantize_weight(weight, kind).dequantize()[:, 256:].any()
        assert not quantize_weight(torch.zeros(64, 64), kind).dequantize().any()

    def test_bfloat16(self, kind):
        weight = gaussian().bfloat16()
        made = quantize_weight(weight, kind)
        assert error(made.dequantize(torch.bfloat16).float(), weight.float()) < ERRORS[kind] + 0.005
        assert made.dequantize(torch.bfloat16).dtype == torch.bfloat16

    @pytest.mark.parametrize(
        ("weight", "match"),
        [
            (torch.zeros(60, 33), "multiples of"),
            (torch.zeros(64), "Invalid weight"),
            (torch.zeros(64, 64, dtype=torch.int8), "floating"),
            (torch.full((64, 64), float("nan")), "not finite"),
            (torch.full((64, 64), float("inf")), "not finite"),
        ],
    )
    def test_what_is_no_weight_is_refused(self, kind, weight, match):
        with pytest.raises(ValueError, match=match):
            quantize_weight(weight, kind)

    def test_damaged_files_are_refused(self, kind):
        tensors = quantize_weight(gaussian(), kind).file_tensors()
        for broken in (
            {name: tensor for name, tensor in tensors.items() if name != "weight_scale"},
            {name: tensor for name, tensor in tensors.items() if name != "comfy_quant"},
            {**tensors, "weight": tensors["weight"][:32]} if kind != "fp8" else {**tensors, "weight": torch.zeros(3)},
            {**tensors, "comfy_quant": torch.tensor(list(b'{"format": "other"}'), dtype=torch.uint8)},
            {**tensors, "comfy_quant": torch.tensor(list(b"{"), dtype=torch.uint8)},
        ):
            with pytest.raises(ValueError, match="Invalid"):
                read_weight(broken)


class TestInt8:
    def test_turning_spreads_what_sticks_out(self):
        weight = gaussian()
        weight[:, 7] *= 30
        plain, turned = (error(quantize_weight(weight, "int8", rotated=r).dequantize(), weight) for r in (False, True))
        assert turned < 0.5 * plain

    def test_turning_twice_is_nothing(self):
        x = gaussian(5, 1024)
        assert torch.allclose(rotate(rotate(x)), x, atol=1e-5)
        assert torch.allclose(rotate(x).norm(dim=1), x.norm(dim=1), rtol=1e-5)
        assert not torch.allclose(rotate(x), x, atol=0.1)

    @pytest.mark.parametrize(("K", "turned"), [(GROUP, True), (3 * GROUP, True), (GROUP + 8, False), (64, False)])
    def test_turned_where_inputs_allow(self, K, turned):
        assert quantize_weight(gaussian(16, K), "int8").rotated is turned

    def test_smoothing_is_in_the_weight(self):
        weight, scale = gaussian(), torch.linspace(0.5, 2, 512)
        made = quantize_weight(weight, "int8", rotated=False, smoothing=scale)
        assert error(made.dequantize(), weight) < 0.02
        assert torch.equal(made.file_tensors()["pre_quant_scale"], scale)
        held = made.tensors["weight"].float() * made.tensors["weight_scale"]
        assert error(held * scale, weight) < 0.02 < 0.2 < error(held, weight)
        assert torch.equal(read_weight(made.file_tensors()).dequantize(), made.dequantize())

    def test_each_output_has_its_scale(self):
        weight = gaussian()
        weight[3] *= 1000
        made = quantize_weight(weight, "int8").dequantize()
        assert error(made[4], weight[4]) < 0.01


class TestRefused:
    def test_unknown_formats(self):
        with pytest.raises(ValueError, match="Supported are int8, fp8, mxfp8, nvfp4"):
            find_format("int3")

    def test_turning_what_cannot_be_turned(self):
        with pytest.raises(ValueError, match="not a multiple of 256"):
            quantize_weight(gaussian(16, 96), "int8", rotated=True)
        with pytest.raises(ValueError, match="neither turned nor smoothed"):
            quantize_weight(gaussian(), "fp8", rotated=True)

    def test_groups_that_do_not_fit(self):
        tensors = quantize_weight(gaussian(), "int8").file_tensors()
        text = b'{"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 100}'
        with pytest.raises(ValueError, match="its groups do not fit"):
            read_weight({**tensors, "comfy_quant": torch.tensor(list(text), dtype=torch.uint8)})


def test_four_bits_round_to_even():
    """The middle between two values goes to the one with an even code, as on the GPUs that have the format."""
    values = torch.tensor([[0.0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0, -0.25, -5.0, -6.0, 0.3, 2.6, -1.4, 6.0]])
    weight = torch.zeros(32, 32)
    weight[0, :16] = values
    made: QuantizedWeight = quantize_weight(weight, "nvfp4")
    wanted = [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 6.0, 0.0, -4.0, -6.0, 0.5, 3.0, -1.5, 6.0]
    assert torch.allclose(made.dequantize()[0, :16], torch.tensor(wanted), atol=1e-5)
