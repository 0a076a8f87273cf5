"""Synthetic motion with exact ground truth: textured layers that move, turn and grow over a background.

Layers are cut from real frames by random shapes. Every layer has its own straight path, turn and zoom on top of those
of the camera; some stand still, as captions do. Rendered at the first moment, in between and at the second one, with
the flow from the frame in between to both others of whatever is on top there.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.flow_search import pixel_grid, sample


@dataclass(frozen=True)
class Motion:
    """Where a layer is over time: each field `[B, ...]`, the value at time 0 and its change until time 1."""

    centre: tuple[Tensor, Tensor]  # [B, 2, 1, 1] pixels
    turn: tuple[Tensor, Tensor]  # [B, 1, 1] radians
    zoom: tuple[Tensor, Tensor]  # [B, 1, 1, 1] natural logarithm

    def at(self, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(centre, turn, zoom) at `[B]`."""
        t = time.view(-1, 1, 1)
        centre = self.centre[0] + self.centre[1] * t.unsqueeze(1)
        return centre, self.turn[0] + self.turn[1] * t, self.zoom[0] + self.zoom[1] * t.unsqueeze(1)


def _turned(v: Tensor, angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([v[:, 0] * cos - v[:, 1] * sin, v[:, 0] * sin + v[:, 1] * cos], 1)


def to_layer(places: Tensor, motion: Motion, time: Tensor) -> Tensor:
    """Where in the layer, from its centre, the picture's places `[B, 2, H, W]` are at a time."""
    centre, turn, zoom = motion.at(time)
    return _turned(places - centre, -turn) * (-zoom).exp()


def to_picture(places: Tensor, motion: Motion, time: Tensor) -> Tensor:
    """The inverse of `to_layer`."""
    centre, turn, zoom = motion.at(time)
    return _turned(places * zoom.exp(), turn) + centre


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def random_motion(
    count: int, side: int, speed: float, calm: float, generator: torch.Generator, camera: Motion | None = None
) -> Motion:
    """Paths of `count` layers; `speed` in pixels is rarely passed, `calm` is the share that stands still."""

    def heavy(shape: tuple[int, ...]) -> Tensor:  # many slow ones, some fast ones
        return torch.randn(shape, generator=generator) * _uniform((count, *[1] * (len(shape) - 1)), 0, 1, generator)

    moves = (torch.rand(count, 1, 1, generator=generator) >= calm).float()
    centre = _uniform((count, 2, 1, 1), 0, side, generator)
    step = heavy((count, 2, 1, 1)) * speed * moves.unsqueeze(-1)
    turn = _uniform((count, 1, 1), -math.pi, math.pi, generator), heavy((count, 1, 1)) * 0.2 * moves
    zoom = _uniform((count, 1, 1, 1), -0.4, 0.2, generator), heavy((count, 1, 1, 1)) * 0.12 * moves.unsqueeze(-1)
    if camera is not None:
        step = step + camera.centre[1] * moves.unsqueeze(-1)
    return Motion((centre, step), turn, zoom)


def random_shapes(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Masks `[count, 1, side, side]` in [0, 1]: blobs, ellipses, boxes, bars and lattices."""
    places = (pixel_grid(side, side, torch.empty(1))[0] / (side - 1) * 2 - 1).expand(count, 2, side, side)
    size = _uniform((count, 2, 1, 1), 0.15, 0.9, generator)
    inside = (places / size).abs()
    box, ellipse = 1 - inside.amax(1, keepdim=True), 1 - inside.square().sum(1, keepdim=True)
    bar = 1 - torch.stack([inside[:, 0], inside[:, 1] * 8], 1).amax(1, keepdim=True)
    noise = F.interpolate(torch.randn(count, 1, 7, 7, generator=generator), (side, side), mode="bicubic")
    blob = ellipse + 0.7 * noise
    lattice = torch.minimum(box, (places * 12).sin().sum(1, keepdim=True) * 0.1)
    kind = torch.randint(6, (count, 1, 1, 1), generator=generator)
    value = torch.where(kind < 3, blob, torch.where(kind == 3, ellipse, torch.where(kind == 4, box, bar)))
    value = torch.where(_uniform((count, 1, 1, 1), 0, 1, generator) < 0.08, lattice, value)
    return torch.sigmoid(value * side * 0.25)  # an edge about a pixel wide


def layered_motion(
    textures: Tensor, side: int, speed: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Frames `[B, 3, 3, side, side]` (first, between, second on axis 2), times `[B]`, flows `[B, 4, side, side]`.

    textures: `[layers, B, 3, T, T]`, the background first. Flows are in pixels, (x, y) from the frame in between to the
    first and to the second. `speed` is about the fastest motion in pixels.
    """
    layers, B, _, T, _ = textures.shape
    times = _uniform((B,), 0.0, 1.0, generator)
    times = torch.where(torch.rand(B, generator=generator) < 0.4, torch.full_like(times, 0.5), times.clamp(0.06, 0.94))
    moments = torch.stack([torch.zeros(B), times, torch.ones(B)])
    places = pixel_grid(side, side, textures).expand(B, 2, side, side)
    camera = random_motion(B, side, speed, 0.3, generator)
    frames, flows = None, None
    for layer in range(layers):
        motion = camera if layer == 0 else random_motion(B, side, speed, 0.15, generator, camera)
        mask = torch.ones(B, 1, T, T) if layer == 0 else random_shapes(B, T, generator)
        picture = torch.cat([textures[layer], mask], 1)
        drawn = []
        for moment in moments:
            inside = to_layer(places, motion, moment)
            drawn.append(sample(_framed(picture, layer), _mirrored(inside, T, layer)))
        own = torch.cat([to_picture(to_layer(places, motion, times), motion, m) - places for m in moments[::2]], 1)
        values = torch.stack([each[:, :3] for each in drawn], 2)
        alpha = torch.stack([each[:, 3:] for each in drawn], 2)
        frames = values if frames is None else torch.lerp(frames, values, alpha)
        flows = own if flows is None else torch.where(alpha[:, :, 1] > 0.5, own, flows)
    assert frames is not None and flows is not None
    return frames, times, flows


def _framed(picture: Tensor, layer: int) -> Tensor:
    """Beyond the edge a layer is clear; the background goes on."""
    if layer:
        picture = picture.clone()
        picture[:, 3, [0, -1]] = 0
        picture[:, 3, :, [0, -1]] = 0
    return picture


def _mirrored(inside: Tensor, size: int, layer: int) -> Tensor:
    """Places in the texture; the background is mirrored at its edges without end."""
    places = inside + (size - 1) / 2
    if layer:
        return places
    period = 2 * (size - 1)
    return (size - 1) - ((places % period) - (size - 1)).abs()
