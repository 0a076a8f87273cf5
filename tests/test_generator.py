"""The generator sees what is known and nothing else; filling in keeps what is known and repeats by its seed."""

import math

import pytest
import torch

from tokenreel.models.checkpoint import GENERATORS, WEIGHTS, CheckpointError, load_generator, save_checkpoint
from tokenreel.models.generator import GeneratorConfig, TokenGenerator
from tokenreel.models.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from tokenreel.models.token_filling import AHEAD, CONTEXT, MOST_BETWEEN, TokenFiller
from tokenreel.models.token_guess import EXTRA, NONE, guess

LEVELS = (4, 3)
SMALL = GeneratorConfig(levels=LEVELS, width=16, depth=4, heads=2, window=(2, 2, 2), tile=(1, 2, 2), digit_width=8)


@pytest.fixture
def net():
    torch.manual_seed(0)
    made = TokenGenerator(SMALL).eval()
    for part in made.digits.out:
        torch.nn.init.normal_(part.weight)
    return made


@pytest.fixture(scope="module")
def image():
    torch.manual_seed(0)
    sizes = {"encoder_widths": (8, 16), "decoder_widths": (8, 16), "heads": 2, "levels": LEVELS}
    return ImageTokenizer(ImageTokenizerConfig(**sizes)).eval()


@pytest.fixture
def filler(net, image):
    return TokenFiller(net, image)


def clip(frames=4, seed=0, batch=()):
    return torch.randint(12, (*batch, frames, 4, 6), generator=torch.Generator().manual_seed(seed))


def guesses(frames=4, seed=0, batch=()):
    made = torch.rand(*batch, frames, 4, 6, len(LEVELS) + EXTRA, generator=torch.Generator().manual_seed(seed))
    return made * 2 - 1


def frames_known(count, *which):
    known = torch.zeros(count, 4, 6, dtype=torch.bool)
    known[list(which)] = True
    return known


def logits(net, indices, known, guess=None):
    seen = net.look(indices[None], known[None], guesses(len(indices))[None] if guess is None else guess[None])
    return net.logits(seen)


class TestNet:
    def test_logits_of_every_digit(self, net):
        known = frames_known(4, 0).expand(2, 4, 4, 6)
        alone, chained, expected = net(clip(batch=(2,)), known, guesses(batch=(2,)), clip(batch=(2,)))
        for made in (alone, chained):
            assert [each.shape for each in made] == [(2, 4, 4, 6, 4), (2, 4, 4, 6, 3)]
        assert expected.shape == (2, 4, 4, 6, 2)

    def test_what_is_masked_is_not_seen(self, net):
        known = frames_known(4, 0, 3)
        known[1, 2, 3] = True
        one, other = clip(seed=1), clip(seed=2)
        other = torch.where(known, one, other)
        args = known[None], guesses()[None], clip()[None]
        for first, second in zip(net(one[None], *args)[1], net(other[None], *args)[1], strict=True):
            assert torch.equal(first, second)

    @pytest.mark.parametrize("place", [(0, 1, 1), (3, 2, 5), (1, 2, 3)])
    def test_what_is_known_is_seen(self, net, place):
        known = frames_known(4, 0, 3)
        known[1, 2, 3] = True
        one = clip(seed=1)
        other = one.clone()
        other[place] = (other[place] + 5) % 12
        assert not torch.allclose(logits(net, one, known)[0], logits(net, other, known)[0])

    def test_the_guess_is_seen(self, net):
        known = frames_known(4, 0)
        assert not torch.allclose(
            logits(net, clip(), known, guesses(seed=1))[0], logits(net, clip(), known, guesses(seed=2))[0]
        )

    def test_an_untrained_net_takes_the_guess_for_likely(self):
        """Before anything is learned the likeliest level of a digit is that of the guess."""
        net = TokenGenerator(SMALL)
        made = guesses()
        half = torch.tensor([2, 1])
        for digit, part in enumerate(logits(net, torch.zeros_like(clip()), frames_known(4, 0), made)):
            told = (made[..., digit] * half[digit] + half[digit]).round().clamp(0, LEVELS[digit] - 1)
            assert (part[0, 1:].argmax(-1) == told[1:]).float().mean() > 0.6

    def test_a_digit_depends_on_those_before_it_alone(self, net):
        seen = net.look(clip()[None], frames_known(4, 0)[None], guesses()[None])
        earlier = torch.zeros(1, 4, 4, 6, 2, dtype=torch.long)
        same, other = earlier.clone(), earlier.clone()
        same[..., 1], other[..., 0] = 2, 3
        base = net.logits(seen, earlier)
        for made, changes in ((net.logits(seen, same), False), (net.logits(seen, other), True)):
            assert torch.equal(made[0], base[0]) and torch.equal(made[1], base[1]) is not changes

    def test_bits_are_those_of_all_digits_in_turn(self, net):
        indices, known, guessed = clip()[None], frames_known(4, 0)[None], guesses()[None]
        seen = net.look(torch.where(known, indices, 0), known, guessed)
        first, second = net.logits(seen, net.fsq.digits(indices))
        low, high = (indices % 4)[..., None], (indices // 4)[..., None]
        wanted = first.log_softmax(-1).gather(-1, low) + second.log_softmax(-1).gather(-1, high)
        assert torch.allclose(net.bits(indices, known, guessed), -wanted[..., 0] / math.log(2), atol=1e-4)

    def test_chances_of_all_tokens_add_up_to_one(self, net):
        known, guessed = frames_known(4, 0)[None], guesses()[None]
        whole = torch.stack(
            [net.bits(torch.where(known, clip()[None], token), known, guessed).neg().exp2() for token in range(12)]
        )
        assert torch.allclose(whole.sum(0)[:, 1:], torch.ones(1, 3, 4, 6), atol=1e-4)

    @pytest.mark.parametrize("kind", ["full", "linear", "performer", "window"])
    def test_every_kind_of_attention_learns(self, kind):
        torch.manual_seed(0)
        net = TokenGenerator(GeneratorConfig(**{**SMALL.to_dict(), "pattern": (kind,)}))
        made = net(clip(batch=(1,)), frames_known(4, 0)[None], guesses()[None], clip(batch=(1,)))
        torch.stack([each.square().mean() for each in (*made[0], *made[1], made[2])]).sum().backward()
        missing = [name for name, p in net.named_parameters() if p.grad is None]
        assert not missing

    @pytest.mark.parametrize("values", [{"pattern": ("dense",)}, {"pattern": ()}, {"width": 10, "heads": 4}])
    def test_sizes_that_cannot_be(self, values):
        with pytest.raises(ValueError, match="Invalid"):
            GeneratorConfig(**values)

    def test_a_file_keeps_it(self, net, tmp_path):
        save_checkpoint(tmp_path / "g.safetensors", net, "generator", "mine", trained_with="ab" * 32)
        again = load_generator(tmp_path / "g.safetensors")
        assert again.config == SMALL and again.tokenizer_digest == "ab" * 32
        known = frames_known(4, 0)
        assert torch.allclose(logits(again, clip(), known)[0], logits(net, clip(), known)[0], atol=0.05)

    def test_an_unknown_name(self):
        with pytest.raises(CheckpointError, match="Supported are hybrid, full, linear, performer, window, small"):
            load_generator("dense")


class TestGuess:
    def test_known_frames_have_their_own_codes(self, image):
        made = guess(image, clip(5), frames_known(5, 0, 4))
        codes = image.quantizer.indices_to_codes(clip(5)).movedim(1, -1)
        assert torch.equal(made[[0, 4], ..., :-EXTRA], codes[[0, 4]])
        assert made[[0, 4], ..., -EXTRA:].abs().max() == 0
        assert made.shape == (5, 4, 6, len(LEVELS) + EXTRA) and made.isfinite().all()

    def test_without_a_whole_frame_each_is_guessed_from_what_is_known_of_it(self, image):
        known = frames_known(3)
        known[:2, :2] = True
        made = guess(image, clip(3), known)
        assert (made[2, ..., -EXTRA] == NONE).all() and not made[2, ..., :-EXTRA].any()
        assert (made[:2, 2:, :, -EXTRA] != NONE).all() and made[:2, 2:, :, :-EXTRA].any()
        assert (made[:2, :2, :, -EXTRA:] == 0).all()

    @pytest.mark.parametrize("which", [(0,), (0, 1, 2), (5,), (3, 4, 5), (0, 5), (2,)])
    def test_looks_at_known_frames_alone(self, image, which):
        known = frames_known(6, *which)
        one, other = clip(6, seed=1), clip(6, seed=2)
        other = torch.where(known, one, other)
        assert torch.equal(guess(image, one, known), guess(image, other, known))

    def test_backwards_is_forwards_turned_round(self, image):
        known = frames_known(6, 0, 1, 2)
        forward = guess(image, clip(6), known)
        assert torch.allclose(guess(image, clip(6).flip(0), known.flip(0)).flip(0), forward, atol=1e-5)


class TestFill:
    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    @pytest.mark.parametrize("steps", [1, 3])
    def test_keeps_what_is_known_and_fills_the_rest(self, filler, steps, temperature):
        known = frames_known(4, 0, 2)
        known[1, 1] = True
        made = filler.fill(clip(), known, steps=steps, temperature=temperature, generator=torch.Generator())
        assert torch.equal(made[known], clip()[known])
        assert made.min() >= 0 and made.max() < 12
        assert filler.calls == 2 * (steps if temperature else 1)

    def test_a_seed_repeats(self, filler):
        made = [
            filler.fill(clip(), frames_known(4, 0), temperature=1.0, generator=torch.Generator().manual_seed(seed))
            for seed in (1, 1, 2)
        ]
        assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])

    @pytest.mark.parametrize("offset", [0.0, 0.7])
    def test_temperature_0_takes_the_mean_and_what_was_learned_beside_it(self, filler, net, image, offset):
        torch.nn.init.constant_(net.digits.offset.bias, offset)
        known = frames_known(4, 0)
        made = filler.fill(clip(), known, steps=1)
        shown = torch.where(known, clip(), 0)
        _, high = logits(net, shown, known, guess(image, shown, known))
        mean = ((high[0].softmax(-1) * torch.arange(3)).sum(-1) + offset).clamp(max=2).round().long()
        assert torch.equal((made // 4)[~known], mean[~known])

    def test_drawn_tokens_are_as_likely_as_they_are_said_to_be(self, filler, net, image):
        """The share of each level of the first digit in many draws is the generator's chance of it."""
        known = frames_known(2, 0)
        shown = torch.where(known, clip(2), 0)
        chance = logits(net, shown, known, guess(image, shown, known))[0].softmax(-1)[0, 1]
        dice = torch.Generator().manual_seed(3)
        draws = torch.stack(
            [filler.fill(clip(2), known, steps=1, temperature=1.0, generator=dice)[1] % 4 for _ in range(200)]
        )
        share = torch.stack([(draws == level).float().mean(0) for level in range(4)], -1)
        assert (share - chance).abs().max() < 0.15 and (share - chance).abs().mean() < 0.03

    def test_areas_that_are_asked_for_in_all_frames(self, filler):
        known = torch.ones(AHEAD + 3, 4, 6, dtype=torch.bool)
        known[:, 1:3, 2:4] = False
        made = filler.fill(clip(AHEAD + 3), known)
        assert torch.equal(made[known], clip(AHEAD + 3)[known]) and filler.calls == 2

    def test_progress_counts_frames(self, filler):
        done = []
        filler.fill(clip(9), frames_known(9, 0, 4), progress=done.append)
        assert done == [3, 4]

    def test_can_be_cancelled(self, filler):
        def cancel():
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            filler.fill(clip(), frames_known(4, 0), check=cancel)

    @pytest.mark.parametrize("options", [{"steps": 0}, {"temperature": -1.0}])
    def test_refuses(self, filler, options):
        with pytest.raises(ValueError, match="Supported are 1 to 64, and 0 to 10"):
            filler.fill(clip(), frames_known(4, 0), **options)

    def test_refuses_where_nothing_is_known(self, filler):
        with pytest.raises(ValueError, match="Nothing is known"):
            filler.fill(clip(), frames_known(4))

    def test_refuses_another_tokenizer(self, image):
        with pytest.raises(ValueError, match="trained for this tokenizer"):
            TokenFiller(TokenGenerator(GeneratorConfig(levels=(5, 5), width=8, heads=2, depth=1)), image)


class TestBetweenAndAfter:
    def test_between_looks_at_both(self, filler):
        one, two, other = clip(3)
        made = filler.between(one, two, 3)
        assert made.shape == (3, 4, 6)
        assert not torch.equal(made, filler.between(one, other, 3))
        assert torch.equal(made, filler.fill(*between(one, two, 3))[1:-1])

    @pytest.mark.parametrize("count", [0, MOST_BETWEEN + 1])
    def test_between_refuses(self, filler, count):
        with pytest.raises(ValueError, match="Supported are 1 to 63"):
            filler.between(*clip(2), count)

    def test_as_many_frames_as_asked_for(self, filler):
        done = []
        made = filler.after(clip(2), AHEAD + 3, progress=done.append)
        assert made.shape == (AHEAD + 3, 4, 6) and done == [AHEAD, 3]

    def test_after_looks_at_the_latest_frames_alone(self, filler):
        one, other = clip(CONTEXT + 3, seed=1), clip(CONTEXT + 3, seed=2)
        other[3:] = one[3:]
        assert torch.equal(filler.after(one, 5), filler.after(other, 5))

    def test_what_was_made_is_gone_on_from(self, filler):
        far = filler.after(clip(2), AHEAD + 2, steps=1)
        assert torch.equal(far[AHEAD:], filler.after(far[:AHEAD], 2, steps=1))


def between(one, two, count):
    whole = torch.cat([one[None], torch.zeros(count, 4, 6, dtype=torch.long), two[None]])
    return whole, frames_known(count + 2, 0, count + 1)


@pytest.mark.skipif(not (WEIGHTS / "generator.safetensors").exists(), reason="the generator's weights are missing")
@pytest.mark.parametrize("name", GENERATORS)
def test_shipped_weights_open(name):
    net = load_generator(name)
    assert net.config.levels == (8, 8, 8, 5, 5, 5) and len(net.tokenizer_digest) == 64


def test_place_moves_with_the_crop():
    """A crop's token knows where it lies: what stands at row 2 of a grid is at row 0 of a crop that begins there."""
    from tokenreel.models.generator import _places

    whole = _places(clip(batch=(1,)), (0, 0, 0))
    assert torch.equal(_places(clip(batch=(1,))[:, :, 2:, 3:], (0, 2, 3)), whole[:, :, 2:, 3:])
