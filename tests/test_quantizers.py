"""FSQ: every code there and back, every code within reach, an order that never changes."""

import math

import pytest
import torch

from tokenreel.models.quantizers import FSQ

LEVELS = [(2,), (3,), (8,), (5, 4), (2, 2, 3), (7, 5, 5, 5), (8, 5, 5, 5), (8, 8, 8, 5, 5, 5)]


@pytest.mark.parametrize("levels", LEVELS)
class TestRoundTrip:
    def test_every_index(self, levels):
        fsq = FSQ(levels)
        indices = torch.arange(math.prod(levels)).view(1, -1)
        codes = fsq.indices_to_codes(indices)
        assert codes.shape == (1, len(levels), math.prod(levels))
        assert codes.abs().max() <= 1
        assert torch.equal(fsq.codes_to_indices(codes), indices)

    def test_every_level_is_reached_by_some_latent_and_no_other_value_is(self, levels):
        fsq = FSQ(levels)
        sweep = torch.linspace(-12, 12, 4001).view(1, 1, -1).expand(1, len(levels), -1)
        codes = fsq(sweep)
        for d, count in enumerate(levels):
            wanted = (torch.arange(count) - count // 2) / (count // 2)
            assert torch.equal(codes[0, d].unique(), wanted)

    def test_random_latents_use_the_whole_codebook(self, levels):
        if math.prod(levels) > 1000:
            pytest.skip("too many codes to meet all by chance")
        latents = torch.randn(1, len(levels), 200_000, generator=torch.Generator().manual_seed(0)) * 2
        fsq = FSQ(levels)
        assert len(fsq.codes_to_indices(fsq(latents)).unique()) == fsq.codebook_size

    def test_quantizing_is_idempotent_on_indices(self, levels):
        """What the encoder wrote and what the decoder reads are one code, in any shape of grid."""
        fsq = FSQ(levels)
        latents = torch.randn(2, len(levels), 3, 5, generator=torch.Generator().manual_seed(1)) * 3
        codes = fsq(latents)
        indices = fsq.codes_to_indices(codes)
        assert indices.shape == (2, 3, 5) and indices.dtype == torch.int64
        assert torch.equal(fsq.indices_to_codes(indices), codes)


class TestOrder:
    """Frozen: token files and trained weights depend on it."""

    def test_golden_codes(self):
        fsq = FSQ((8, 8, 8, 5, 5, 5))
        codes = fsq.indices_to_codes(torch.tensor([[0, 1, 8, 63999, 12345]]))[0].T
        expected = [
            [-1, -1, -1, -1, -1, -1],
            [-0.75, -1, -1, -1, -1, -1],
            [-1, -0.75, -1, -1, -1, -1],
            [0.75, 0.75, 0.75, 1, 1, 1],
            [-0.75, 0.75, -1, 1, 1, -1],
        ]
        assert codes.tolist() == expected

    def test_golden_indices(self):
        fsq = FSQ((8, 5, 5, 5))
        latents = torch.tensor([[0.0, 0.0, 0.0, 0.0], [2.0, -2.0, 0.3, -0.3], [-9, 9, -9, 9]]).T.unsqueeze(0)
        assert fsq.codes_to_indices(fsq(latents)).tolist() == [[500, 327, 832]]

    def test_first_digit_is_the_least_significant(self):
        codes = torch.tensor([0.0, 1.0]).view(1, 2, 1)
        assert FSQ((5, 3)).codes_to_indices(codes).item() == 2 + 5 * 2


class TestTraining:
    @pytest.mark.parametrize("noise", [False, True])
    def test_gradients_pass(self, noise):
        latents = torch.randn(1, 3, 4, 4, requires_grad=True, generator=torch.Generator().manual_seed(0))
        FSQ((8, 5, 4))(latents, noise).sum().backward()
        assert latents.grad is not None and (latents.grad > 0).all()

    def test_noise_stays_within_half_a_step_of_the_bounded_latent(self):
        latents = torch.randn(1, 2, 1000, generator=torch.Generator().manual_seed(0))
        fsq = FSQ((8, 5))
        steps = fsq(latents, noise=True) * torch.tensor([4.0, 2.0]).view(1, 2, 1)
        assert (steps - fsq.bound(latents)).abs().max() <= 0.5 + 1e-5

    def test_nothing_is_added_to_a_checkpoint(self):
        assert FSQ((8, 5)).state_dict() == {}


@pytest.mark.parametrize("levels", [(), (8, 1), (0,)])
def test_bad_levels_are_refused(levels):
    with pytest.raises(ValueError, match=r"Invalid levels .* at least 2 levels"):
        FSQ(levels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_codes_survive_half_precision(dtype):
    fsq = FSQ((8, 8, 8, 5, 5, 5))
    indices = torch.arange(64000).view(1, -1)
    assert torch.equal(fsq.codes_to_indices(fsq.indices_to_codes(indices, dtype)), indices)
