"""The procedural reel: eight seconds of film made of numbers, to look at and to test on.

    reel = render()                         # nothing is drawn yet
    for frames in reel.chunks(16):          # uint8 [T, H, W, 3] RGB

Four scenes: a camera pan along a brick wall (motion known exactly, in half pixels), a talk before a bookshelf where
only the face moves, a sports field under a fast camera (motion of the ground known), and a lake at dusk with film
grain. Hard cuts between the first three, a dissolve into the last. The same arguments give the same pixels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from .reel_scenes import dusk, field, talk, wall

_SCENES: tuple[tuple[str, str, Callable], ...] = (
    ("wall", "start", wall),
    ("talk", "cut", talk),
    ("field", "cut", field),
    ("dusk", "dissolve", dusk),
)


@dataclass(frozen=True)
class Scene:
    """Frames `start` to `end` (half-open) of the reel, and how it begins: "start", "cut" or "dissolve".

    A dissolve is the first `dissolve` frames of the scene, in which the scene before it fades away.
    """

    name: str
    start: int
    end: int
    transition: str
    dissolve: int = 0


@dataclass(frozen=True)
class Reel:
    """A reel that draws its frames when they are asked for; memory does not grow with its length."""

    width: int
    height: int
    frame_rate: Fraction
    seed: int
    scenes: tuple[Scene, ...]

    @property
    def frame_count(self) -> int:
        return self.scenes[-1].end

    @property
    def cuts(self) -> tuple[int, ...]:
        """First frames of the scenes that begin with a hard cut."""
        return tuple(scene.start for scene in self.scenes if scene.transition == "cut")

    def frames(self) -> Iterator[np.ndarray]:
        """Yield every frame, uint8 `[H, W, 3]` RGB."""
        drawn = [self._draw(index) for index in range(len(self.scenes))]
        for index, scene in enumerate(self.scenes):
            fading = self._draw(index - 1, self.scenes[index - 1].end) if scene.dissolve else None
            for frame in range(scene.start, scene.end):
                picture, _ = next(drawn[index])
                if fading is not None and frame < scene.start + scene.dissolve:
                    share = (frame - scene.start + 1) / (scene.dissolve + 1)
                    picture = share * picture + (1 - share) * next(fading)[0]
                yield np.clip(np.rint(picture), 0, 255).astype(np.uint8)

    def chunks(self, size: int = 16) -> Iterator[np.ndarray]:
        """Yield all frames in chunks, uint8 `[T, H, W, 3]`; the last one may be shorter."""
        if size < 1:
            raise ValueError(f"Invalid chunk size {size}. It is at least 1.")
        held: list[np.ndarray] = []
        for frame in self.frames():
            held.append(frame)
            if len(held) == size:
                yield np.stack(held)
                held = []
        if held:
            yield np.stack(held)

    def motion(self) -> list[tuple[float, float] | None]:
        """(dy, dx) in pixels that the picture moved from the frame before, for every frame; None where not known.

        Multiples of 0.5. In "talk" it holds outside the face, in "field" for the ground; in "wall" for every pixel.
        """
        known: list[tuple[float, float] | None] = []
        for index, scene in enumerate(self.scenes):
            source = self._draw(index)
            for frame in range(scene.start, scene.end):
                _, motion = next(source)
                known.append(None if frame < scene.start + max(1, scene.dissolve) else motion)
        return known

    def _draw(self, index: int, after: int | None = None) -> Iterator[tuple[np.ndarray, tuple[float, float] | None]]:
        """Pictures and motion of a scene from its beginning, or from reel frame `after` on, past its end."""
        scene = self.scenes[index]
        count = scene.end - scene.start
        skipped = 0 if after is None else after - scene.start
        rng = np.random.default_rng((self.seed, index))
        source = _SCENES[index][2](self.width, self.height, count + 60, rng)
        for _ in range(skipped):
            next(source)
        return source


def render(
    width: int = 256,
    height: int = 256,
    frame_rate: Fraction | int = 24,
    seconds_per_scene: float = 2.0,
    *,
    dissolve_seconds: float = 0.5,
    seed: int = 0,
) -> Reel:
    """A reel of four scenes of `seconds_per_scene`; the last begins with a dissolve of `dissolve_seconds`."""
    rate = Fraction(frame_rate)
    if width < 32 or height < 32:
        raise ValueError(f"Invalid reel size {width}x{height}. Width and height are at least 32 pixels.")
    if rate <= 0 or seconds_per_scene <= 0:
        raise ValueError(
            f"Invalid reel timing: {rate} frames a second, {seconds_per_scene} s a scene. Both are above 0."
        )
    length = max(2, round(seconds_per_scene * rate))
    dissolve = min(length - 1, 59, max(1, round(dissolve_seconds * rate)))
    scenes = tuple(
        Scene(name, k * length, (k + 1) * length, transition, dissolve if transition == "dissolve" else 0)
        for k, (name, transition, _) in enumerate(_SCENES)
    )
    return Reel(width, height, rate, seed, scenes)
