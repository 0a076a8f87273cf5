"""How a decoded picture is to be shown: the display matrix (rotation, mirroring) and non-square pixels."""

from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import numpy as np
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame


@dataclass(frozen=True)
class Orientation:
    """Swap the axes, then flip left-right and top-bottom. Covers all eight upright orientations."""

    transposed: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @property
    def mirrored(self) -> bool:
        return self.transposed ^ self.flip_x ^ self.flip_y

    @property
    def rotation(self) -> int:
        """Degrees clockwise, applied after mirroring left to right if `mirrored`."""
        if self.transposed:
            return 90 if self.flip_x else 270
        return 180 if self.flip_y else 0

    def apply(self, image: np.ndarray) -> np.ndarray:
        """A view of `[H, W, C]` as it is to be shown."""
        if self.transposed:
            image = image.transpose(1, 0, 2)
        if self.flip_x:
            image = image[:, ::-1]
        if self.flip_y:
            image = image[::-1]
        return image


UPRIGHT = Orientation()

# FFmpeg's rotation in degrees counter-clockwise.
_TURNS = {90: Orientation(True, False, True), 180: Orientation(False, True, True), 270: Orientation(True, True, False)}


def display_orientation(frame: VideoFrame) -> tuple[Orientation, str]:
    """The orientation a frame's display matrix asks for, and a warning where it asks for something else (a slant)."""
    try:
        entries = cast("list[SideData]", list(frame.side_data))  # PyAV types the mapping by its keys
        data = next((entry for entry in entries if entry.type.name == "DISPLAYMATRIX"), None)
    except (
        ValueError
    ):  # PyAV lists no side data at all if it meets a kind newer than itself; rotation alone still works
        return _TURNS.get(frame.rotation % 360, UPRIGHT), ""
    if data is None:
        return UPRIGHT, ""
    matrix = np.frombuffer(bytes(data), dtype=np.int32)
    if matrix.size != 9:
        return UPRIGHT, ""
    # Rows of the matrix map a point: x' = a x + c y, y' = b x + d y, with y pointing down.
    a, b, c, d = (float(matrix[k]) for k in (0, 1, 3, 4))
    straight, crossed = min(abs(a), abs(d)), min(abs(b), abs(c))
    if straight > 20 * max(abs(b), abs(c)):
        return Orientation(False, a < 0, d < 0), ""
    if crossed > 20 * max(abs(a), abs(d)):
        return Orientation(True, c < 0, b < 0), ""
    return UPRIGHT, "a rotation that is no multiple of 90 degrees was ignored"


def square_pixel_size(width: int, height: int, aspect: Fraction | None) -> tuple[tuple[int, int], str]:
    """(width, height) that shows the picture right with square pixels, and a warning where that resamples it."""
    if not aspect or abs(aspect - 1) < Fraction(1, 100):
        return (width, height), ""
    if not Fraction(1, 4) <= aspect <= 4:
        return (width, height), f"a pixel aspect ratio of {aspect} is not plausible and was ignored"
    squared = max(1, round(width * aspect))
    shape = f"{aspect.numerator}:{aspect.denominator}"
    return (squared, height), f"non-square pixels ({shape}) were resampled to {squared}x{height}"
