"""The closed loop: what the encoder says is what the decoder gives, bit for bit, and no token is spent without need."""

import dataclasses
import tracemalloc
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch

from tokenreel.models.motion import compensate, half_pel_planes
from tokenreel.models.stream_codec import decode_stream, encode_frames, encode_stream
from tokenreel.tokens.accounting import count, count_frame
from tokenreel.tokens.bitstream import read_tokens, write_tokens
from tokenreel.tokens.video_tokens import IFrame, Mode, PFrame, VideoTokens
from tokenreel.video.metrics import psnr


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture
def pan(texture):
    """Makes frames of a picture that moves `step` = (down, right) pixels a frame."""

    def make(count, step=(0, 2), size=(48, 64), seed=0):
        (dy, dx), (height, width) = step, size
        scene = texture(height + abs(dy) * count, width + abs(dx) * count, seed)
        frames = []
        for i in range(count):
            top = (count - i) * dy if dy > 0 else -i * dy
            left = (count - i) * dx if dx > 0 else -i * dx
            frames.append(scene[top : top + height, left : left + width])
        return np.stack(frames)

    return make


@pytest.fixture
def busy(texture):
    """Makes frames in which much happens: a pan, a square on its own way, a patch that flickers."""

    def make(count, height=48, width=64, seed=0):
        scene, square = texture(height, width + 3 * count, seed), texture(24, 24, seed + 50)
        rng = np.random.default_rng(seed)
        frames = np.stack([scene[:, 3 * i : 3 * i + width] for i in range(count)])
        for i in range(count):
            side = min(24, height, width)
            y, x = 5 * i % (height - side + 1), 4 * i % (width - side + 1)
            frames[i, y : y + side, x : x + side] = square[:side, :side]
            frames[i, : min(16, height), : min(16, width)] = rng.integers(0, 256, 3)
        return frames

    return make


def as_tokens(result, frames, tokenizer):
    predicted = any(isinstance(frame, PFrame) for frame in result.frames)
    return VideoTokens(
        width=frames.shape[2],
        height=frames.shape[1],
        frame_rate=Fraction(24),
        time_base=Fraction(1, 24),
        pts=tuple(range(len(frames))),
        duration=Fraction(len(frames), 24),
        frames=tuple(result.frames),
        levels=tokenizer.levels,
        tokenizer=tokenizer.id,
        digest=tokenizer.digest,
        codec=tokenizer.codec_id if predicted else "",
        codec_digest=tokenizer.codec_digest if predicted else "",
    )


def encode(frames, tokenizer, **options):
    """(tokens, the encoder's own pictures, result)"""
    seen = []
    encoder = options.pop("encoder", encode_stream)
    result = encoder([frames], tokenizer, observe=lambda source, decoded: seen.append(decoded[0]), **options)
    return as_tokens(result, frames, tokenizer), np.stack(seen), result


def decoded(tokens, tokenizer, **options):
    return np.stack(list(decode_stream(tokens, tokenizer, **options)))


def total(result):
    return sum(sum(count_frame(frame).values()) for frame in result.frames)


def kinds(result):
    return "".join("I" if isinstance(frame, IFrame) else "P" for frame in result.frames)


class TestClosedLoop:
    @pytest.mark.parametrize(
        "knob", [{}, {"quality": np.float64(12)}, {"quality": 30}, {"budget": 2400.0, "length": 6}]
    )
    def test_decoder_gives_what_the_encoder_saw(self, tiny_tokenizer, busy, tmp_path, knob):
        """Random networks, so that nothing is nearly right by chance; through the token file."""
        frames = busy(6)
        tokens, seen, result = encode(frames, tiny_tokenizer, **knob)
        assert np.array_equal(decoded(tokens, tiny_tokenizer), seen)
        write_tokens(tmp_path / "a.tokens", tokens)
        again = read_tokens(tmp_path / "a.tokens")
        assert again == tokens
        assert np.array_equal(decoded(again, tiny_tokenizer), seen)
        assert result.psnr == psnr(frames, seen).tolist()  # to the last bit

    @pytest.mark.parametrize("knob", [{}, {"quality": 24.0}, {"budget": 1200.0, "length": 8}])
    def test_also_with_trained_weights(self, trained_tokenizer, busy, knob):
        """Non-regression for all modes at once: the clip makes the encoder use every one of them but INTRA."""
        frames = busy(8, 64, 96)
        tokens, seen, result = encode(frames, trained_tokenizer, **knob)
        assert np.array_equal(decoded(tokens, trained_tokenizer), seen)
        assert result.psnr == psnr(frames, seen).tolist()
        used = np.concatenate([frame.modes.ravel() for frame in tokens.frames if isinstance(frame, PFrame)])
        assert {Mode.SKIP, Mode.RESIDUAL} | (set() if knob else {Mode.MOTION}) <= set(used.tolist())

    def test_intra_blocks_too(self, tiny_tokenizer, random_tokens):
        """Random frames of every mode: each decodes from the one before it and from nothing else."""
        tokens = random_tokens(1, width=70, height=45, frames=6, key_every=3, levels=(4, 3))
        tokens = dataclasses.replace(tokens, digest="1" * 64, codec_digest="2" * 64)
        assert any((frame.modes == Mode.INTRA).any() for frame in tokens.frames if isinstance(frame, PFrame))
        full = decoded(tokens, tiny_tokenizer)
        assert full.shape == (6, 45, 70, 3)
        assert np.array_equal(decoded(tokens.trim(3), tiny_tokenizer), full[3:])

    def test_every_frame_for_itself(self, tiny_tokenizer, busy):
        frames = busy(3)
        tokens, seen, result = encode(frames, tiny_tokenizer, encoder=encode_frames)
        assert kinds(result) == "III"
        assert count(tokens).tokens == 3 * 6 * 8
        assert np.array_equal(decoded(tokens, tiny_tokenizer), seen)
        assert result.psnr == psnr(frames, seen).tolist()
        for i in range(3):
            alone, pictures, _ = encode(frames[i : i + 1], tiny_tokenizer)
            assert alone.frames[0] == tokens.frames[i]
            assert np.array_equal(pictures[0], seen[i])

    def test_chunks_do_not_matter(self, tiny_tokenizer, busy):
        frames = busy(5)
        whole = encode_stream([frames], tiny_tokenizer)
        split = encode_stream((frames[i : i + 2] for i in range(0, 5, 2)), tiny_tokenizer)
        assert whole == split

    def test_a_second_run_gives_the_same_tokens(self, trained_tokenizer, busy):
        frames = busy(4)
        assert encode_stream([frames], trained_tokenizer) == encode_stream([frames], trained_tokenizer)


class TestSkip:
    def test_skipped_blocks_are_exactly_the_predicted_pixels(self, tiny_tokenizer, random_tokens):
        tokens = random_tokens(7, width=64, height=48, frames=2, levels=(4, 3), shares=(0.6, 0.4, 0, 0))
        tokens = dataclasses.replace(tokens, digest="1" * 64, codec_digest="2" * 64)
        key, after = decoded(tokens, tiny_tokenizer)
        planes = half_pel_planes(torch.from_numpy(key).permute(2, 0, 1).unsqueeze(0))
        predicted = compensate(planes, torch.from_numpy(tokens.frames[1].motion_field()).unsqueeze(0))
        assert np.array_equal(after, predicted[0].permute(1, 2, 0).numpy())

    def test_where_all_blocks_are_skipped_pixels_are_moved_and_nothing_else(self, tiny_tokenizer, random_tokens):
        tokens = random_tokens(7, width=64, height=48, frames=2, levels=(4, 3), shares=(1, 0, 0, 0))
        moved = dataclasses.replace(tokens.frames[1], global_motion=(6, -10))
        tokens = dataclasses.replace(tokens, frames=(tokens.frames[0], moved), digest="1" * 64, codec_digest="2" * 64)
        key, after = decoded(tokens, tiny_tokenizer)
        assert np.array_equal(after, key[np.clip(np.arange(48) + 3, 0, 47)][:, np.clip(np.arange(64) - 5, 0, 63)])

    def test_nothing_changes_outside_the_mask(self, tiny_tokenizer, random_tokens):
        tokens = random_tokens(3, width=64, height=48, frames=2, levels=(4, 3), shares=(0.5, 0.0, 0.5, 0.0))
        tokens = dataclasses.replace(tokens, digest="1" * 64, codec_digest="2" * 64)
        frame = tokens.frames[1]
        bare = dataclasses.replace(
            frame,
            modes=np.where(frame.modes == Mode.RESIDUAL, np.uint8(Mode.MOTION), frame.modes),
            masks=frame.masks[:0],
            residual=frame.residual[:0],
        )
        coded = decoded(tokens, tiny_tokenizer)[1]
        plain = decoded(dataclasses.replace(tokens, frames=(tokens.frames[0], bare)), tiny_tokenizer)[1]
        marked = (frame.code_grid() >= 0).repeat(8, 0).repeat(8, 1)
        assert marked.any() and not marked.all()
        assert np.array_equal(coded[~marked], plain[~marked])
        assert not np.array_equal(coded[marked], plain[marked])


class TestEconomy:
    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("size", [(64, 64), (50, 70)])
    def test_a_still_clip_costs_one_token_a_frame(self, trained_tokenizer, texture, seed, size):
        still = np.repeat(texture(*size, seed)[None], 4, 0)
        result = encode_stream([still], trained_tokenizer)
        assert kinds(result) == "IPPP"
        assert [sum(count_frame(frame).values()) for frame in result.frames[1:]] == [1, 1, 1]
        assert len(set(result.psnr)) == 1

    @pytest.mark.parametrize("step", [(0, 2), (1, 0), (-1, 1)])
    def test_a_pan_costs_no_residual(self, trained_tokenizer, pan, step):
        """By whole pixels; half a dB is left for what comes in at the edge."""
        frames = pan(4, step, (96, 128))
        key = encode_frames([frames[:1]], trained_tokenizer).psnr[0]
        result = encode_stream([frames], trained_tokenizer, quality=key - 0.5)
        assert kinds(result) == "IPPP"
        assert [(frame.residual.size, frame.intra.size) for frame in result.frames[1:]] == [(0, 0)] * 3
        assert min(result.psnr) >= key - 0.5
        assert total(result) <= 6 * 8 * 4 + 3 * 5

    def test_motion_that_begins_late_is_still_followed(self, trained_tokenizer, pan):
        """Still frames have no use for tokens at any price; the next moving frame is not to pay that price."""
        moving = pan(4, (0, 3), (64, 96))
        moving[:, :32, :32] = 90  # a part that stands still, so that the rest moves as blocks
        late = np.concatenate([np.repeat(moving[:1], 3, 0), moving[1:]])
        direct = encode_stream([moving], trained_tokenizer)
        after = encode_stream([late], trained_tokenizer)
        assert total(after) - 2 <= 1.25 * total(direct)


class TestKeyQuality:
    def test_follows_the_key_frames_through_a_dissolve(self, trained_tokenizer, texture):
        """Non-regression: after a dissolve from hard to easy content the quality stayed that of the hard content."""
        hard = texture(64, 96, 5).astype(np.float32)
        easy = np.broadcast_to(np.linspace(40, 200, 96, dtype=np.float32)[None, :, None], (64, 96, 3))
        mix = np.clip(np.arange(14) / 8, 0, 1)[:, None, None, None]
        frames = (hard * (1 - mix) + easy * mix).round().astype(np.uint8)
        single = encode_frames([frames], trained_tokenizer).psnr
        result = encode_stream([frames], trained_tokenizer)
        assert single[-1] > single[0] + 5
        assert result.psnr[-1] > single[-1] - 1

    def test_does_not_chase_the_key_frame_into_harder_content(self, trained_tokenizer, texture):
        """Non-regression: a frame on which a key frame would do worse took more tokens than that key frame."""
        soft = np.repeat(np.linspace(40, 200, 96, dtype=np.float32)[None, :, None], 64, 0).repeat(3, 2)
        frames = np.stack([soft.round().astype(np.uint8), texture(64, 96, 6)])
        result = encode_stream([frames], trained_tokenizer)
        assert sum(count_frame(result.frames[1]).values()) <= 1.05 * 8 * 12

    def test_margin_asks_for_more(self, trained_tokenizer, busy):
        frames = busy(4, 64, 64)
        plain, more = (encode_stream([frames], trained_tokenizer, margin=m) for m in (-3.0, 0.0))
        assert total(plain) < total(more) and np.mean(plain.psnr) < np.mean(more.psnr)


class TestQuality:
    def test_more_quality_takes_more_tokens_and_gives_it(self, trained_tokenizer, busy):
        frames = busy(5, 64, 64)
        key = encode_frames([frames[:1]], trained_tokenizer).psnr[0]
        spent, reached = [], []
        for quality in (key - 8, key - 5, key - 2, key, key + 1):
            result = encode_stream([frames], trained_tokenizer, quality=quality)
            spent.append(total(result))
            reached.append(np.mean(result.psnr))
        assert spent == sorted(spent) and spent[0] < 0.7 * spent[3]
        assert all(a < b + 0.05 for a, b in pairwise(reached)) and reached[0] < reached[3] - 2

    def test_target_is_met_where_it_can_be(self, trained_tokenizer, pan):
        frames = pan(5, (0, 5), (64, 96), seed=4)
        key = encode_frames([frames[:1]], trained_tokenizer).psnr[0]
        quality = key - 1.5
        result = encode_stream([frames], trained_tokenizer, quality=quality)
        assert kinds(result) == "IPPPP"
        assert min(result.psnr) >= quality - 0.05

    def test_without_a_knob_every_frame_is_as_good_as_the_key(self, trained_tokenizer, pan):
        result = encode_stream([pan(5, (0, 3), (64, 96), seed=2)], trained_tokenizer)
        assert min(result.psnr) >= result.psnr[0] - 0.05

    def test_out_of_reach_does_its_best(self, trained_tokenizer, pan):
        frames = pan(3, (0, 3), (64, 64))
        best = np.mean(encode_stream([frames], trained_tokenizer, quality=60).psnr)
        assert best >= np.mean(encode_stream([frames], trained_tokenizer).psnr) - 0.05


class TestBudget:
    @pytest.mark.parametrize("share", [0.15, 0.3, 0.6, 1.0])
    def test_is_kept_with_cuts(self, trained_tokenizer, pan, share):
        """Twelve frames, three shots, fast motion."""
        frames = np.concatenate([pan(4, (2, 7), (64, 96), seed=seed) for seed in range(3)])
        budget = share * 8 * 12 * 24
        result = encode_stream([frames], trained_tokenizer, budget=budget, frame_rate=24, length=12)
        assert total(result) <= budget * 12 / 24 + 12

    def test_a_last_group_is_not_begun_on_credit(self, tiny_tokenizer, texture):
        """Two groups of eight and one frame: a third key frame could not be paid for any more."""
        still = np.repeat(texture(32, 32)[None], 17, 0)
        budget = 16 / 0.6 / 8 * 24
        result = encode_stream([still], tiny_tokenizer, budget=budget, frame_rate=24, length=17, max_gop=8)
        assert total(result) <= budget * 17 / 24
        assert kinds(result).count("I") == 2

    def test_more_buys_more(self, trained_tokenizer, pan):
        frames = pan(8, (2, 5), (64, 64), seed=3)
        reached, spent = [], []
        for share in (0.2, 0.35, 0.6, 1.0, 5.0):
            result = encode_stream([frames], trained_tokenizer, budget=share * 64 * 24, frame_rate=24, length=8)
            spent.append(total(result))
            reached.append(np.mean(result.psnr))
        assert all(a < b + 0.1 for a, b in pairwise(reached)), (reached, spent)  # the last two buy all there is
        assert reached[0] < reached[-1] - 0.5
        assert spent[1] >= 0.85 * 0.35 * 64 * 8  # what is given is also used

    def test_no_predicted_frame_is_starved(self, trained_tokenizer, busy):
        """Non-regression: a frame whose tokens were hard to guess was sent bare, 7 dB below its neighbours."""
        frames = busy(8, 64, 96)
        result = encode_stream([frames], trained_tokenizer, budget=0.4 * 96 * 24, frame_rate=24, length=8)
        assert total(result) <= 0.4 * 96 * 8
        assert all(frame.residual.size for frame in result.frames[1:])

    def test_the_least_that_works_works(self, tiny_tokenizer, busy):
        frames = busy(6)
        with pytest.raises(ValueError, match=r"needs \d+ tokens/s or more; raise the budget or make") as error:
            encode_stream([frames], tiny_tokenizer, budget=10, frame_rate=24, length=6)
        assert "\n" not in str(error.value)
        least = int(str(error.value).split("needs ")[1].split()[0])
        result = encode_stream([frames], tiny_tokenizer, budget=least, frame_rate=24, length=6)
        assert total(result) <= least * 6 / 24
        with pytest.raises(ValueError, match="Invalid budget"):
            encode_stream([frames], tiny_tokenizer, budget=least - 1, frame_rate=24, length=6)


class TestKeyFrames:
    def test_a_cut_begins_a_new_group(self, trained_tokenizer, texture):
        frames = np.concatenate([np.repeat(texture(64, 64, seed)[None], 3, 0) for seed in (1, 2)])
        assert kinds(encode_stream([frames], trained_tokenizer)) == "IPPIPP"

    @pytest.mark.parametrize("max_gop", [1, 2, 4])
    def test_come_at_least_every_max_gop_frames(self, tiny_tokenizer, texture, max_gop):
        still = np.repeat(texture(32, 32)[None], 9, 0)
        assert kinds(encode_stream([still], tiny_tokenizer, max_gop=max_gop)) == ("I" + "P" * (max_gop - 1)) * (
            9 // max_gop
        ) + "I" * (9 % max_gop)

    def test_decoding_from_a_later_group_gives_the_tail(self, tiny_tokenizer, busy):
        frames = busy(8)
        tokens, seen, _ = encode(frames, tiny_tokenizer, max_gop=3)
        assert [gop.start for gop in tokens.gops] == [0, 3, 6]
        assert np.array_equal(decoded(tokens, tiny_tokenizer, start=3), seen[3:])
        assert np.array_equal(decoded(tokens, tiny_tokenizer, start=4, stop=7), seen[4:7])  # inside a group
        assert np.array_equal(decoded(tokens.trim(6), tiny_tokenizer), seen[6:])

    def test_a_group_cut_short_decodes_alike(self, tiny_tokenizer, busy):
        tokens, seen, _ = encode(busy(6), tiny_tokenizer, max_gop=4)
        assert np.array_equal(decoded(tokens.trim(0, 3), tiny_tokenizer), seen[:3])


class TestSizes:
    @pytest.mark.parametrize("size", [(1, 1), (9, 17), (17, 9), (33, 50), (16, 16)])
    @pytest.mark.parametrize("knob", [{}, {"quality": 20.0}])
    def test_any_size(self, tiny_tokenizer, texture, size, knob):
        frames = np.stack([texture(*size, seed) for seed in (0, 0, 1)])
        tokens, seen, result = encode(frames, tiny_tokenizer, **knob)
        assert seen.shape == frames.shape
        assert np.array_equal(decoded(tokens, tiny_tokenizer), seen)
        assert result.psnr == psnr(frames, seen).tolist()

    def test_pixels_beyond_the_frame_count_for_nothing(self, tiny_tokenizer):
        """17 of 32 columns are shown: error and PSNR are those of the shown ones."""
        frames = np.random.default_rng(0).integers(0, 256, (2, 17, 17, 3)).astype(np.uint8)
        _, seen, result = encode(frames, tiny_tokenizer)
        assert result.psnr == psnr(frames, seen).tolist()

    def test_one_frame(self, tiny_tokenizer, texture):
        tokens, seen, result = encode(texture(20, 30)[None], tiny_tokenizer)
        assert kinds(result) == "I" and len(tokens.frames) == 1
        assert np.array_equal(decoded(tokens, tiny_tokenizer), seen)

    def test_no_frames(self, tiny_tokenizer):
        assert encode_stream([], tiny_tokenizer).frames == []


class TestHooks:
    def test_check_stops_before_the_next_frame(self, tiny_tokenizer, busy):
        done = []

        def check():
            if len(done) == 2:
                raise KeyboardInterrupt

        for encoder in (encode_stream, encode_frames):
            done.clear()
            with pytest.raises(KeyboardInterrupt):
                encoder([busy(6, 32, 32)], tiny_tokenizer, check=check, progress=done.append)
            assert done == [1, 1]

    def test_check_is_asked_within_a_frame(self, tiny_tokenizer, busy):
        """Non-regression: a large frame could be cancelled only at its end, seconds later."""
        asked, done = [], []
        encode_stream(
            [busy(3, 32, 32)], tiny_tokenizer, quality=15, check=lambda: asked.append(len(done)), progress=done.append
        )
        assert asked.count(1) >= 3 and asked.count(2) >= 3

    def test_memory_does_not_grow_with_the_clip(self, tiny_tokenizer, texture):
        """Frames come from a generator and are counted as they die; Python's own memory is measured too."""
        alive, most = set(), 0

        class Counted(np.ndarray):
            def __del__(self):
                alive.discard(id(self))

        scene = texture(64, 64 + 60)

        def clip():
            nonlocal most
            for i in range(60):
                frame = np.ascontiguousarray(scene[None, :, i : i + 64]).view(Counted)
                alive.add(id(frame))
                most = max(most, len(alive))
                yield frame

        peaks = []

        def progress(_):
            peaks.append(tracemalloc.get_traced_memory()[0])

        tracemalloc.start()
        try:
            encode_stream(clip(), tiny_tokenizer, quality=15, progress=progress)
        finally:
            tracemalloc.stop()
        assert most <= 6
        assert peaks[-1] - peaks[9] < 50 * 4096  # 50 more frames of tokens; one frame has 12,288 bytes


class TestRefusals:
    def test_another_tokenizer(self, tiny_tokenizer, busy):
        tokens, _, _ = encode(busy(2, 32, 32), tiny_tokenizer)
        other = dataclasses.replace(tiny_tokenizer, id="other", digest="f" * 64)
        with pytest.raises(ValueError, match=r"made by tokenizer 'tiny' \(1{12}\), not by 'other' \(f{12}\). Load"):
            next(decode_stream(tokens, other))

    def test_another_codec(self, tiny_tokenizer, busy):
        tokens, _, _ = encode(busy(2, 32, 32), tiny_tokenizer)
        other = dataclasses.replace(tiny_tokenizer, codec_digest="f" * 64)
        with pytest.raises(ValueError, match=r"residual codec 'tiny-residual' \(2{12}\), not with .* \(f{12}\). Load"):
            next(decode_stream(tokens, other))

    def test_key_frames_need_no_codec(self, tiny_tokenizer, busy):
        tokens, seen, _ = encode(busy(2, 32, 32), tiny_tokenizer, encoder=encode_frames)
        bare = dataclasses.replace(tiny_tokenizer, residual=None, codec_id="", codec_digest="")
        assert np.array_equal(decoded(tokens, bare), seen)

    def test_a_stream_needs_a_codec(self, tiny_tokenizer, busy):
        bare = dataclasses.replace(tiny_tokenizer, residual=None, codec_id="", codec_digest="")
        with pytest.raises(ValueError, match=r"'tiny' has no residual codec. Encode every frame for itself instead"):
            encode_stream([busy(2, 32, 32)], bare)

    @pytest.mark.parametrize(("start", "stop"), [(-1, None), (2, 2), (0, 3), (2, None)])
    def test_ranges(self, tiny_tokenizer, busy, start, stop):
        tokens, _, _ = encode(busy(2, 32, 32), tiny_tokenizer)
        with pytest.raises(ValueError, match=r"Invalid range .* 0 <= start < stop <= 2"):
            next(decode_stream(tokens, tiny_tokenizer, start=start, stop=stop))

    @pytest.mark.parametrize(
        ("knob", "message"),
        [
            ({"quality": 30, "budget": 100}, "Give one of them"),
            ({"quality": 5}, r"Invalid quality \(5\). Supported are 10 to 60 dB"),
            ({"quality": float("nan")}, "Invalid quality"),
            ({"budget": float("nan")}, "Invalid budget"),
            ({"budget": -3}, "Invalid budget"),
            ({"max_gop": 0}, r"Invalid max_gop \(0\)"),
        ],
    )
    def test_knobs(self, tiny_tokenizer, busy, knob, message):
        with pytest.raises(ValueError, match=message):
            encode_stream([busy(2, 32, 32)], tiny_tokenizer, **knob)

    def test_frames_of_another_size(self, tiny_tokenizer, texture):
        with pytest.raises(ValueError, match=r"Invalid frames: uint8 \(1, 48, 32, 3\) in a clip of \(32, 32, 3\)"):
            encode_stream([texture(32, 32)[None], texture(48, 32)[None]], tiny_tokenizer)
