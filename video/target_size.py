"""How large frames become: by a factor, by the short side, or to an exact size, whatever scale a model has.

A model enlarges by a whole number of times. What it gives is resized to the size that is wanted, then cut or padded
where the shape differs: nothing is squeezed unless that is asked for.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .clips import Clip, MiddleOfClip
from .frames import center_crop, resize
from .opening import MAX_PIXELS

Fit = Literal["crop", "pad", "stretch"]
FITS = ("crop", "pad", "stretch")
MULTIPLES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class SizePlan:
    """From frames that a model made to those that are wanted."""

    enlarged: tuple[int, int]
    """Width and height of what the model gives."""
    scaled: tuple[int, int]
    """Of the picture after resizing."""
    width: int
    height: int

    @property
    def is_plain(self) -> bool:
        """Whether the model's frames are already those that are wanted."""
        return self.enlarged == self.scaled == (self.width, self.height)

    def finish(self, frame: np.ndarray) -> np.ndarray:
        """uint8 `[H, W, 3]` of the model -> uint8 `[height, width, 3]`: resized, then cut or padded with black.

        The same array comes back when there is nothing to do.
        """
        if self.is_plain:
            return frame
        picture = resize(frame[np.newaxis], *self.scaled)
        inside = min(self.width, self.scaled[0]), min(self.height, self.scaled[1])
        picture = center_crop(picture, inside)[0]
        if inside == (self.width, self.height):
            return np.ascontiguousarray(picture)
        framed = np.zeros((self.height, self.width, 3), dtype=np.uint8)
        center_crop(framed[np.newaxis], inside)[0][...] = picture
        return framed


@dataclass(frozen=True)
class TargetSize:
    """Just one of `scale`, `short_side`, and `width` with `height`, in pixels.

    `multiple_of` is what both sides are to be multiples of, as many models need. With scale and short side the picture
    is cut down to it (crop), framed in black up to it (pad) or resized to the nearest one (stretch). Where an exact
    size has another shape, crop fills it and cuts what is over, pad shows everything between black bars, stretch
    squeezes. A long side that belongs to an even short side is even too, as players need.
    """

    scale: float | None = None
    short_side: int | None = None
    width: int | None = None
    height: int | None = None
    fit: Fit = "crop"
    multiple_of: int = 1

    def __post_init__(self) -> None:
        exact = self.width is not None or self.height is not None
        given = (self.scale is not None) + (self.short_side is not None) + exact
        if given != 1 or (exact and (self.width is None or self.height is None)):
            raise ValueError("Invalid target size. Give one of: a scale, a short side, or a width with a height.")
        if self.scale is not None and not 0 < self.scale <= 64:
            raise ValueError(f"Invalid scale {self.scale:g}. It is above 0 and at most 64 times.")
        if self.short_side is not None and self.short_side < 2:
            raise ValueError(f"Invalid short side {self.short_side}. It is at least 2 pixels.")
        if self.fit not in FITS:
            raise ValueError(f"Invalid fit {self.fit!r}. Supported are {', '.join(FITS)}.")
        if self.multiple_of not in MULTIPLES:
            raise ValueError(f"Invalid multiple {self.multiple_of}. Supported are {', '.join(map(str, MULTIPLES))}.")
        if self.width is not None and self.height is not None:
            self._check_exact(self.width, self.height)

    def _check_exact(self, width: int, height: int) -> None:
        if min(width, height) < 2:
            raise ValueError(f"Invalid size {width}x{height}. Each side is at least 2 pixels.")
        n = self.multiple_of
        if width % n or height % n:
            near = f"{max(n, _nearest(width, n))}x{max(n, _nearest(height, n))}"
            raise ValueError(f"{width}x{height} is no multiple of {n}. Choose {near}, or another multiple.")

    def plan(self, width: int, height: int, model_scale: int) -> SizePlan:
        """For frames of that size, and a model that enlarges so many times. ValueError when a frame gets too large."""
        enlarged = width * model_scale, height * model_scale
        if self.width is not None and self.height is not None:
            final = self.width, self.height
            scaled = final if self.fit == "stretch" else _fitted((width, height), final, cover=self.fit == "crop")
        else:
            scaled = self._in_proportion(width, height)
            final = self._to_multiples(*scaled)
            scaled = final if self.fit == "stretch" else scaled
        for name, size in (("model's frames", enlarged), ("frames", scaled), ("frames", final)):
            if size[0] * size[1] > MAX_PIXELS:
                raise ValueError(
                    f"{width}x{height} frames would become {name} of {size[0]}x{size[1]}, more than the limit of "
                    f"{MAX_PIXELS:,} pixels. Choose a smaller size, or a model with a smaller scale."
                )
        return SizePlan(enlarged, scaled, *final)

    def part(self, width: int, height: int, margin: int) -> tuple[int, int]:
        """Width and height of the middle of such frames that is seen at all, and `margin` pixels around it.

        What fit crop cuts off need not be enlarged. Where nothing is cut it is the whole frame.
        """
        if self.width is None or self.height is None or self.fit != "crop":
            return width, height
        times = max(self.width / width, self.height / height)
        return _around(self.width / times, width, margin), _around(self.height / times, height, margin)

    def times(self, width: int, height: int) -> float:
        """How many times as large frames of that size become; up to 1 there is nothing for a model to do."""
        scaled = self.plan(width, height, 1).scaled
        return max(scaled[0] / width, scaled[1] / height)

    def _in_proportion(self, width: int, height: int) -> tuple[int, int]:
        if self.scale is not None:
            return max(2, round(width * self.scale)), max(2, round(height * self.scale))
        assert self.short_side is not None
        short, step = min(width, height), 1 if self.short_side % 2 else 2
        sides = [
            self.short_side if side == short else max(2, _nearest(side * self.short_side / short, step))
            for side in (width, height)
        ]
        return sides[0], sides[1]

    def _to_multiples(self, width: int, height: int) -> tuple[int, int]:
        n = self.multiple_of
        if self.fit == "stretch":
            return max(n, _nearest(width, n)), max(n, _nearest(height, n))
        if self.fit == "pad":
            return -(-width // n) * n, -(-height // n) * n
        if min(width, height) < n:
            raise ValueError(
                f"{width}x{height} frames cannot be cut to multiples of {n}. Choose fit 'pad' or a smaller multiple."
            )
        return width // n * n, height // n * n


def visible(clip: Clip, target: TargetSize, model_scale: int, margin: int) -> tuple[Clip, SizePlan]:
    """The part of a clip that is seen in the end, as `TargetSize.part` says, and how its frames are finished."""
    width, height = target.part(clip.width, clip.height, margin)
    size = target.plan(width, height, model_scale)
    whole = (width, height) == (clip.width, clip.height)
    return clip if whole else MiddleOfClip(clip, width, height), size


def _fitted(size: tuple[int, int], target: tuple[int, int], cover: bool) -> tuple[int, int]:
    """`size` in proportion so that it covers the target, or lies within it, with one side equal."""
    (w, h), (width, height) = size, target
    if (w * height > h * width) == cover:  # the height decides
        across = round(w * height / h)
        return (max(width, across) if cover else max(1, min(width, across))), height
    down = round(h * width / w)
    return width, (max(height, down) if cover else max(1, min(height, down)))


def _around(seen: float, side: int, margin: int) -> int:
    """Pixels of a side, as many left out on one end as on the other."""
    wanted = math.ceil(seen - 1e-6) + 2 * margin
    return min(side, wanted + (side - wanted) % 2)


def _nearest(value: float, multiple: int) -> int:
    return int(value / multiple + 0.5) * multiple
