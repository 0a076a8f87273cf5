"""VideoTokens: what a clip of tokens may be, and how it is taken apart."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from tokenreel.tokens.video_tokens import CFrame, IFrame, Mode, PFrame, VideoTokens, grid_size


def small_frame(**changes):
    """Two blocks in a row: RESIDUAL with cells 0 and 3 marked, then INTRA."""
    fields = {
        "global_motion": (4, -6),
        "modes": [[Mode.RESIDUAL, Mode.INTRA]],
        "motion": [[-31, 31]],
        "masks": [0b1001],
        "residual": [7, 8],
        "intra": [[1, 2, 3, 4]],
    }
    return PFrame(**{**fields, **changes})


@pytest.mark.parametrize(
    ("size", "grid"), [((16, 16), (2, 2)), ((1, 1), (2, 2)), ((17, 16), (2, 4)), ((1280, 720), (90, 160))]
)
def test_grid_covers_the_padded_frame(size, grid):
    assert grid_size(*size) == grid


class TestFrames:
    def test_arrays_get_their_types(self):
        frame = small_frame()
        found = [getattr(frame, name).dtype for name in ("modes", "motion", "masks", "residual", "intra")]
        assert found == [np.uint8, np.int8, np.uint8, np.int32, np.int32]
        assert IFrame(np.zeros((2, 4), np.int64)).codes.dtype == np.int32

    def test_lists_are_empty_unless_given(self):
        frame = PFrame((0, 0), np.zeros((2, 3), np.uint8))
        assert frame.motion.shape == (0, 2) and frame.intra.shape == (0, 4)
        assert frame.masks.size == frame.residual.size == 0

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"global_motion": (0, 128)}, r"global motion with values 0 to 128\. Supported values are -128 to 127"),
            ({"modes": [[4, 3]]}, "block modes with values 3 to 4"),
            ({"modes": [2, 3]}, r"block modes of shape \[2\]"),
            ({"modes": np.zeros((0, 3), int)}, "at least one block"),
            ({"motion": [[0, 32]]}, "motion deltas with values 0 to 32. Supported values are -31 to 31"),
            ({"motion": [[0, 0], [0, 0]]}, r"motion deltas of shape \[2, 2\]. Supported shape is \[1, 2\]"),
            ({"masks": [0]}, "residual masks with values 0 to 0. Supported values are 1 to 15"),
            ({"masks": []}, r"residual masks of shape \[0\]"),
            ({"residual": [7]}, r"residual codes of shape \[1\]. Supported shape is \[2\]"),
            ({"residual": [7.0, 8.0]}, "residual codes of type float64"),
            ({"intra": [[1, 2, 3]]}, r"intra codes of shape \[1, 3\]. Supported shape is \[1, 4\]"),
            ({"intra": [[1, 2, 3, -1]]}, "intra codes with values -1 to 3"),
        ],
    )
    def test_predicted_frame_refuses(self, changes, message):
        with pytest.raises(ValueError, match=message):
            small_frame(**changes)

    @pytest.mark.parametrize("shape", [(0, 2), (3, 2), (2, 5)])
    def test_grids_have_even_sides(self, shape):
        with pytest.raises(ValueError, match=r"key-frame codes of shape .* even sides"):
            IFrame(np.zeros(shape, np.int32))
        with pytest.raises(ValueError, match=r"group codes of shape .* even sides"):
            CFrame(np.zeros(shape, np.int32), 1)

    @pytest.mark.parametrize(("span", "message"), [(0, r"span \(0\)"), (5, r"span \(5\)"), (1.0, "whole numbers")])
    def test_groups_have_one_to_four_frames(self, span, message):
        with pytest.raises(ValueError, match=message):
            CFrame([[0, 1], [2, 3]], span)

    def test_motion_field_adds_the_global_motion(self):
        assert small_frame().motion_field().tolist() == [[[-27, 25], [4, -6]]]

    def test_motion_field_does_not_wrap_around(self):
        frame = PFrame((127, -128), [[Mode.MOTION]], [[31, -31]])
        assert frame.motion_field().tolist() == [[[158, -159]]]

    def test_code_grid_puts_cells_in_raster_order(self):
        assert small_frame().code_grid().tolist() == [[7, -1, 1, 2], [-1, 8, 3, 4]]

    def test_code_grid_has_every_code_once(self, random_tokens):
        for frame in random_tokens(5, frames=4, shares=(0.1, 0.2, 0.5, 0.2)).frames[1:]:
            grid = frame.code_grid()
            assert grid.shape == frame.grid
            assert sorted(grid[grid >= 0]) == sorted([*frame.residual, *frame.intra.ravel()])

    def test_frames_are_equal_by_content(self):
        assert small_frame() == small_frame()
        assert small_frame() != small_frame(residual=[7, 9])
        assert small_frame() != IFrame(np.zeros((2, 4), np.int32))

    def test_repr_shows_shapes_not_data(self):
        assert repr(small_frame()) == (
            "PFrame(blocks=[1, 2], global_motion=(4, -6), skip=0, motion=0, residual=1, intra=1)"
        )
        assert repr(IFrame(np.zeros((2, 4), np.int32))) == "IFrame(codes=int32[2, 4])"
        assert repr(CFrame(np.zeros((2, 4), np.int32), 4)) == "CFrame(codes=int32[2, 4], span=4)"


class TestVideoTokens:
    def test_repr_is_one_short_line(self, random_tokens):
        text = repr(random_tokens(frames=6))
        assert text.startswith("VideoTokens(70x45, 2 I + 4 P frames, grid=[6, 10]") and "\n" not in text

    def test_numpy_integers_become_plain(self, random_tokens):
        tokens = replace(random_tokens(), width=np.int64(70), pts=np.arange(6))
        assert type(tokens.width) is int and tokens.pts == (0, 1, 2, 3, 4, 5) and type(tokens.pts[0]) is int

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"width": 0}, r"Invalid width \(0\). Supported are 1 to 65536 pixels"),
            ({"height": 65537}, r"Invalid height \(65537\)"),
            ({"width": 70.0}, r"Invalid width \(70.0\). Supported are whole numbers"),
            ({"width": 90}, r"frame 0 with a grid of \[6, 10\] cells. 90x45 pixels take \[6, 12\]"),
            ({"levels": ()}, "Invalid levels"),
            ({"levels": (8, 1)}, "Invalid levels"),
            ({"levels": (8,) * 9}, "134217728 codes. At most 16777216 fit"),
            ({"levels": (2, 2)}, r"Invalid code \d+ in frame 0. Levels \(2, 2\) have the codes 0 to 3"),
            ({"tokenizer": ""}, "Invalid tokenizer"),
            ({"tokenizer": "a\nb"}, "Supported are printable names"),
            ({"digest": "ABC"}, r"Invalid digest \('ABC'\). Supported are 64 lower-case hex digits"),
            ({"codec": ""}, "Invalid codec"),
            ({"codec_digest": "x" * 64}, "Invalid codec_digest"),
            ({"codec": "", "codec_digest": ""}, "P-frames need the name and digest"),
            ({"frames": ()}, "the first one is missing"),
            ({"frame_rate": 24.0}, r"Invalid frame_rate \(24.0\). Supported are Fractions above 0"),
            ({"time_base": Fraction(-1, 90)}, "Invalid time_base"),
            ({"pts": (0, 1)}, "2 time stamps for 6 frames"),
            ({"pts": (0, 1, 2, 3, 3, 4)}, "frame 4 is at 3, not after frame 3 at 3"),
            ({"pts": (0, 1, 2, 3, 4, 1 << 63)}, "Supported are -2.62 to 2.62"),
            ({"pts": (0, 1, 2, 3, 4, 0.5)}, r"Invalid pts \(0.5\)"),
            ({"duration": Fraction(1, 90)}, "the last frame begins"),
        ],
    )
    def test_refuses(self, random_tokens, changes, message):
        with pytest.raises(ValueError, match=message):
            replace(random_tokens(), **changes)

    def test_refuses_to_begin_with_a_predicted_frame(self, random_tokens):
        tokens = random_tokens()
        with pytest.raises(ValueError, match="the first one is a PFrame"):
            replace(tokens, frames=tokens.frames[1:], pts=tokens.pts[1:])

    def test_codes_are_checked_against_the_codebook_in_predicted_frames(self, random_tokens):
        tokens = random_tokens(frames=2, width=32, height=16)
        frames = (IFrame(np.zeros((2, 4), int)), small_frame(intra=[[0, 0, 0, 200]]))
        with pytest.raises(ValueError, match="Invalid code 200 in frame 1"):
            replace(tokens, frames=frames)

    def test_key_frames_alone_need_no_codec(self, random_tokens):
        assert random_tokens(key_every=1).codec == ""

    def test_gops_begin_at_key_frames(self, random_tokens):
        assert random_tokens(frames=10, key_every=4).gops == (range(0, 4), range(4, 8), range(8, 10))

    def test_trim_keeps_frames_and_times(self, random_tokens):
        tokens = random_tokens(frames=10, key_every=4)
        part = tokens.trim(4, 8)
        assert part.frames == tokens.frames[4:8] and part.pts == tokens.pts[4:8]
        assert part.duration == (tokens.pts[8] - tokens.pts[4]) * tokens.time_base
        durations = [tokens.trim(gop.start, gop.stop).duration for gop in tokens.gops]
        assert sum(durations) == tokens.duration
        assert tokens.trim() == tokens

    def test_trim_may_stop_inside_a_gop_but_not_start_there(self, random_tokens):
        tokens = random_tokens(frames=10, key_every=4)
        assert tokens.trim(4, 6).gops == (range(0, 2),)
        with pytest.raises(ValueError, match=r"Invalid start \(5\).*Supported are 0, 4, 8\."):
            tokens.trim(5, 8)

    @pytest.mark.parametrize("bounds", [(3, 3), (-1, 4), (0, 11), (8, 4)])
    def test_trim_refuses_ranges_outside(self, random_tokens, bounds):
        with pytest.raises(ValueError, match=r"Supported is 0 <= start < stop <= 10"):
            random_tokens(frames=10).trim(*bounds)

    def test_equality_is_by_content(self, random_tokens):
        assert random_tokens(3) == random_tokens(3)
        assert random_tokens(3) != random_tokens(4)
        assert random_tokens(3) != "tokens"

    def test_fields_cannot_be_replaced_in_place(self, random_tokens):
        with pytest.raises(AttributeError):
            random_tokens().width = 3

    def test_one_pixel_is_a_clip(self, random_tokens):
        assert isinstance(random_tokens(width=1, height=1, frames=1), VideoTokens)


class TestGroups:
    """Clips of CFrames."""

    def test_stand_for_several_frames(self, group_tokens):
        tokens = group_tokens(frames=7)
        assert [frame.span for frame in tokens.frames] == [1, 4, 2] and len(tokens.pts) == 7
        assert tokens.groups == (range(0, 1), range(1, 5), range(5, 7))
        assert tokens.gops == (range(0, 7),)
        assert [tokens.frames.index(frame) for frame in tokens.by_time] == [0, 1, 1, 1, 1, 2, 2]
        assert repr(tokens).startswith("VideoTokens(70x45, 7 in 3 C frames, grid=[6, 10]")

    def test_others_stand_for_one_each(self, random_tokens):
        tokens = random_tokens(frames=6)
        assert tokens.by_time == tokens.frames and tokens.groups == tuple(range(i, i + 1) for i in range(6))

    @pytest.mark.parametrize(("stop", "spans"), [(1, [1]), (4, [1, 3]), (5, [1, 4]), (6, [1, 4, 1])])
    def test_end_anywhere(self, group_tokens, stop, spans):
        tokens = group_tokens(frames=7)
        part = tokens.trim(stop=stop)
        assert [frame.span for frame in part.frames] == spans and part.pts == tokens.pts[:stop]
        assert part.duration == (tokens.pts[stop] - tokens.pts[0]) * tokens.time_base
        assert all((a.codes == b.codes).all() for a, b in zip(part.frames, tokens.frames, strict=False))

    def test_begin_at_the_first_only(self, group_tokens):
        with pytest.raises(ValueError, match=r"Invalid start \(5\).*Supported are 0\."):
            group_tokens(frames=7).trim(5)

    @pytest.mark.parametrize("spans", [(2, 4), (1, 3, 4), (1, 4, 4, 1, 1), (4,)])
    def test_are_full_but_for_the_last(self, group_tokens, spans):
        frames = tuple(CFrame(np.zeros((6, 10), int), span) for span in spans)
        with pytest.raises(ValueError, match=r"Invalid spans .* Supported are 1, then 4 each"):
            replace(group_tokens(), frames=frames, pts=range(sum(spans)))

    def test_are_not_mixed_with_others(self, random_tokens):
        tokens = random_tokens(frames=4)
        for place in (0, 2):
            frames = list(tokens.frames)
            frames[place] = CFrame(np.zeros((6, 10), int), 1)
            with pytest.raises(ValueError, match="CFrames among others"):
                replace(tokens, frames=frames)

    def test_codes_and_times_are_checked(self, group_tokens):
        tokens = group_tokens(frames=5)
        with pytest.raises(ValueError, match=r"Invalid code 200 in frame 1"):
            replace(tokens, frames=(tokens.frames[0], CFrame(np.full((6, 10), 200), 4)))
        with pytest.raises(ValueError, match="4 time stamps for 5 frames"):
            replace(tokens, pts=tokens.pts[:-1])
