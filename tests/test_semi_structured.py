"""Two of four weights: which stay, where they are refused, and on a GPU, that packed ones give the same."""

import pytest
import torch
import torch.nn.functional as F

from tokenreel.models.semi_structured import SparseLinear, obstacle, sparse_layer, two_of_four


def test_the_two_that_count_stay():
    weight = torch.tensor([[1.0, -3.0, 2.0, 0.5, 4.0, 0.1, 0.2, 0.3]])
    assert two_of_four(weight).tolist() == [[0, -3, 2, 0, 4, 0, 0, pytest.approx(0.3)]]
    inputs = torch.tensor([[9.0, 1.0, 1.0, 9.0, 1.0, 90.0, 1.0, 1.0]])
    assert two_of_four(weight, inputs).tolist() == [[1, 0, 0, 0.5, 4, pytest.approx(0.1), 0, 0]]


def test_half_of_every_row_goes(chance):
    weight = torch.randn(6, 16, generator=chance).half()
    made = two_of_four(weight)
    assert made.dtype == torch.float16
    assert ((made != 0).unflatten(1, (4, 4)).sum(2) == 2).all()
    assert torch.equal(made[made != 0], weight[made != 0])


def test_inputs_make_it_better(chance):
    weight, sizes = torch.randn(32, 64, generator=chance), torch.logspace(-1, 1, 64)
    inputs, other = torch.randn(2, 100, 64, generator=chance) * sizes[torch.randperm(64, generator=chance)]
    wanted = F.linear(other, weight)
    by_size, by_use = (F.linear(other, each) - wanted for each in (two_of_four(weight), two_of_four(weight, inputs)))
    assert by_use.norm() < 0.7 * by_size.norm()


def test_sides_that_cannot_be_halved():
    with pytest.raises(ValueError, match=r"^Invalid weight with 6 inputs\. Their number is a multiple of 4\."):
        two_of_four(torch.ones(2, 6))


def test_devices_without_it_are_refused(chance):
    assert obstacle(torch.device("cpu")) == "a device of the kind cpu multiplies zeros like others"
    with pytest.raises(ValueError, match=r"^Two of four weights cannot be left out here: a device of the kind cpu .* "):
        sparse_layer(torch.ones(64, 64).half(), None, torch.ones(4, 64), 64)


@pytest.mark.gpu
class TestGpu:
    @pytest.fixture
    def device(self):
        if not torch.cuda.is_available() or obstacle(torch.device("cuda")) is not None:
            pytest.skip("no GPU that multiplies two of four")
        return torch.device("cuda")

    def test_packed_weights_give_the_same(self, device, chance):
        weight = two_of_four(torch.randn(256, 512, generator=chance)).to(device).half()
        bias, x = torch.randn(256, generator=chance).to(device).half(), torch.randn(2, 96, 512, generator=chance)
        made = SparseLinear(weight, bias).to("cpu")(x.to(device))
        wanted = F.linear(x.to(device).half(), weight, bias).float()
        assert made.shape == (2, 96, 256) and made.dtype == torch.float32
        assert (made - wanted).norm() < 0.01 * wanted.norm()

    def test_a_layer_is_faster_or_there_is_none(self, device, chance):
        weight = torch.randn(4096, 4096, generator=chance).to(device).half() / 64
        found = sparse_layer(weight, None, torch.randn(256, 4096, generator=chance), 8192)
        assert found is None or 0 < found[1] < 1
        assert sparse_layer(weight[:100], None, torch.randn(256, 4096), 8192) is None
