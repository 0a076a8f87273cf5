"""The choice of modes is the cheapest one there is, and its tokens are those that will be counted."""

from itertools import product

import numpy as np
import pytest

from tokenreel.models.mode_choice import Options, choose, tokens_of
from tokenreel.tokens.accounting import count_frame
from tokenreel.tokens.video_tokens import Mode


@pytest.fixture
def options():
    """Makes the options of a frame with random errors; `level` is what a cell has for error."""

    def make(shape=(2, 3), seed=0, level=100.0, codes=True, intra=True):
        rng = np.random.default_rng(seed)
        errors = lambda: rng.exponential(level, (*shape, 4))  # noqa: E731
        made = Options(errors(), errors(), rng.random(shape) < 0.7, rng.uniform(0.5, 2, (*shape, 4)))
        if codes:
            made.context, made.coded = errors(), errors()
        if intra:
            made.intra = errors().sum(-1)
        return made

    return make


def cost(options, price, modes, masks):
    """Weighted error and tokens of one way to code a frame, counted anew, block by block."""
    total, run = price, False
    for place in np.ndindex(modes.shape):
        mode, mask, weight = modes[place], masks[place], options.weight[place]
        if mode == Mode.SKIP:
            total, run = total + options.skip[place] @ weight, True
            continue
        total, run = total + price * (1 + run), False
        if mode == Mode.MOTION:
            total += options.motion[place] @ weight
        elif mode == Mode.RESIDUAL:
            total += np.where(mask, options.coded[place], options.context[place]) @ weight + price * mask.sum()
        else:
            total += options.intra[place] * weight.mean() + 4 * price
    return total


@pytest.mark.parametrize("price", [5.0, 60.0, 200.0, 1000.0])
@pytest.mark.parametrize("seed", range(3))
def test_no_other_choice_of_modes_is_cheaper(options, seed, price):
    """Against all of them, with the best mask in each RESIDUAL block."""
    made = options((1, 5), seed)
    choice = choose(made, price)
    gain = made.weight * (made.context - made.coded)
    masks = gain > price
    masks[np.arange(4) == gain.argmax(-1, keepdims=True)] = True  # a RESIDUAL block marks one cell at least
    best = min(
        cost(made, price, np.array(modes).reshape(1, 5), masks)
        for modes in product(list(Mode), repeat=5)
        if all(mode != Mode.MOTION or made.differs[0, i] for i, mode in enumerate(modes))
    )
    assert cost(made, price, choice.modes, choice.marked) == pytest.approx(best)


def test_what_is_not_on_offer_is_not_chosen(options):
    bare = choose(options(codes=False, intra=False), 1.0)
    assert set(np.unique(bare.modes)) <= {Mode.SKIP, Mode.MOTION} and not bare.marked.any()
    made = options(seed=1)
    made.differs[:] = False
    assert Mode.MOTION not in choose(made, 1.0).modes


@pytest.mark.parametrize("seed", range(3))
def test_a_higher_price_buys_fewer_tokens(options, seed):
    made = options((12, 16), seed)
    choices = [choose(made, price) for price in (1, 10, 50, 100, 300, 1000, 1e7)]
    tokens = [choice.tokens for choice in choices]
    assert tokens == sorted(tokens, reverse=True)
    assert tokens[-1] == 1 and choices[-1].error == pytest.approx(made.skip.sum())


def test_a_lone_block_pays_for_the_run_it_breaks(options):
    """It saves one and a half tokens' worth: enough beside another coded block, too little among skipped ones."""
    made = options((1, 6), codes=False, intra=False)
    made.weight[:], made.differs[:] = 1, True
    made.skip[:] = made.motion[:] = 0
    made.skip[0, 3] = 1.5 * 100 / 4
    assert not choose(made, 100.0).modes.any()
    made.skip[0, 2] = 10 * 100 / 4
    assert choose(made, 100.0).modes.tolist() == [[0, 0, 1, 1, 0, 0]]


def test_error_and_marks_are_those_of_the_modes(options):
    made = options((8, 8), 5)
    choice = choose(made, 80.0)
    assert set(np.unique(choice.modes)) == set(Mode)
    assert choice.marked.any(-1).tolist() == (choice.modes == Mode.RESIDUAL).tolist()
    errors = [
        made.skip.sum(-1),
        made.motion.sum(-1),
        np.where(choice.marked, made.coded, made.context).sum(-1),
        made.intra,
    ]
    assert choice.error == pytest.approx(sum(errors[mode][place] for place, mode in np.ndenumerate(choice.modes)))


@pytest.mark.parametrize("seed", range(4))
def test_tokens_are_counted_before_a_frame_is_built(random_tokens, seed):
    """As the accounting will count them, runs of more than 256 skipped blocks included."""
    shares = [(0.5, 0.2, 0.2, 0.1), (0.997, 0.001, 0.001, 0.001), (1, 0, 0, 0), (0, 0.4, 0.3, 0.3)][seed]
    for frame in random_tokens(seed, width=640, height=480, frames=3, shares=shares).frames[1:]:
        marked = (frame.code_grid() >= 0).reshape(30, 2, 40, 2).transpose(0, 2, 1, 3).reshape(30, 40, 4)
        marked &= (frame.modes == Mode.RESIDUAL)[..., np.newaxis]
        assert tokens_of(frame.modes, marked) == sum(count_frame(frame).values())
