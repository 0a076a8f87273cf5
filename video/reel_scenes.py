"""The four scenes of the procedural reel, each an endless-enough generator of (picture, motion).

A picture is float32 `[H, W, 3]` in 0..255 (not yet rounded), motion the (dy, dx) in pixels since the frame before.
Sizes are in units of a 256th of the short side, so that a scene looks the same at every resolution.
"""

from collections.abc import Iterator

import numpy as np

Frames = Iterator[tuple[np.ndarray, tuple[float, float] | None]]


def wall(width: int, height: int, count: int, rng: np.random.Generator) -> Frames:
    """A camera pan along a brick wall with posters: every pixel moves by whole or half pixels."""
    steps = [(0.5 if k % 4 == 3 else 0.0, 1.5 if (k // 24) % 2 == 0 else 2.0) for k in range(count)]
    offsets = np.cumsum([(0.0, 0.0), *steps[1:]], axis=0)  # camera position in pixels
    reach = np.ceil(offsets.max(0)).astype(int) + 1
    # Drawn at twice the size: half a pixel is then a whole one, and every frame averages 2x2 of them exactly.
    canvas = _brick_wall(2 * (height + reach[0]), 2 * (width + reach[1]), 2 * min(width, height) / 256, rng)
    for k, (y, x) in enumerate(offsets):
        top, left = int(2 * y), int(2 * x)
        part = canvas[top : top + 2 * height, left : left + 2 * width]
        picture = part.reshape(height, 2, width, 2, 3).mean((1, 3))
        yield picture, (0.0, 0.0) if k == 0 else (-steps[k][0], -steps[k][1])


def talk(width: int, height: int, count: int, rng: np.random.Generator) -> Frames:
    """A speaker before a bookshelf: nothing moves but mouth and eyes."""
    unit = min(width, height) / 256
    y, x = np.mgrid[:height, :width].astype(np.float32)
    cy, cx = height * 0.46, width * 0.5
    still = _bookshelf(height, width, unit, rng)
    _sitter(still, y, x, cy, cx, unit)
    skin = _rgb([205, 155, 125])
    for k in range(count):
        picture = still.copy()
        opening = (2.5 + 5.5 * abs(np.sin(k * 0.71) * np.sin(k * 0.23 + 1))) * unit
        _paint(picture, _ellipse(y, x, cy + 30 * unit, cx, opening + 2 * unit, 15 * unit), (168, 82, 78))
        _paint(picture, _ellipse(y, x, cy + 30 * unit, cx, opening, 11 * unit), (70, 22, 26))
        lid = 0.15 if k % 37 in (20, 21, 22) else 1.0
        for side in (-1, 1):
            eye = (cy - 8 * unit, cx + side * 17 * unit)
            _paint(picture, _ellipse(y, x, *eye, 5 * unit, 8 * unit), skin * 0.86)
            _paint(picture, _ellipse(y, x, *eye, 4.2 * unit * lid, 7 * unit), (238, 236, 230))
            _paint(picture, _ellipse(y, x, eye[0], eye[1] + 1.5 * unit, 3.4 * unit * lid, 3.4 * unit), (52, 40, 34))
        yield picture, (0.0, 0.0)


def field(width: int, height: int, count: int, rng: np.random.Generator) -> Frames:
    """Players and a ball under a fast camera: the ground moves by several whole pixels, the players by others."""
    unit = min(width, height) / 256
    speed = max(1, round(6 * unit))
    steps = [speed + round(2 * unit * np.sin(k / 9)) for k in range(count)]
    offsets = np.cumsum([0, *steps[1:]])
    ground = _pitch(height, width + int(offsets[-1]) + 1, unit, rng)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    runners = [
        (
            width * (0.15 + 0.19 * k),
            height * (0.45 + 0.11 * (k * 2 % 5)),
            1.3 * np.sin(2.1 * k),
            rng.uniform(0, 6),
            k % 2,
        )
        for k in range(5)
    ]
    for k, offset in enumerate(offsets):
        picture = ground[:, offset : offset + width].copy()
        for start, feet, drift, phase, team in sorted(runners, key=lambda runner: runner[1]):
            _player(picture, y, x, feet, start + drift * unit * k, unit * feet / height * 1.6, 0.9 * k + phase, team)
        bounce = abs(np.sin(k / 7)) * 70 * unit
        ball = (width * (0.5 + 0.42 * np.sin(k / 11)), height * 0.86)
        _paint(picture, 0.45 * _ellipse(y, x, ball[1] + 5 * unit, ball[0], 3 * unit, 8 * unit), (20, 50, 20))
        _paint(picture, _ellipse(y, x, ball[1] - bounce, ball[0], 6 * unit, 6 * unit), (245, 245, 240))
        spot = (ball[1] - bounce + 2.5 * unit * np.sin(k), ball[0] + 2.5 * unit * np.cos(k))
        _paint(picture, _ellipse(y, x, *spot, 2.2 * unit, 2.2 * unit), (40, 40, 46))
        yield picture, (0.0, 0.0 if k == 0 else -float(steps[k]))


def dusk(width: int, height: int, count: int, rng: np.random.Generator) -> Frames:
    """A lake at dusk: slow clouds, rippling water, and film grain that is new in every frame."""
    unit = min(width, height) / 256
    y, x = np.mgrid[:height, :width].astype(np.float32)
    shore = int(height * 0.58)
    clouds = _noise(rng, shore, width + count, 60 * unit, 5)
    ridges = [_ridge(rng, width, height, level, rough * unit) for level, rough in ((0.42, 46), (0.5, 26))]
    tree_line = shore - (6 + 14 * _noise(rng, 1, width, 9 * unit, 3)[0]) * unit
    fall = np.linspace(0, 1, shore, dtype=np.float32)[:, None, None]
    sky = (1 - fall) * _rgb([52, 58, 112]) + fall * _rgb([250, 164, 96])
    depth = ((y[shore:] - shore) / (height - shore))[..., None]  # [h, W, 1]
    for k in range(count):
        drift = k * 0.4
        whole, part = int(drift), drift - int(drift)
        cover = clouds[:, whole : whole + width] * (1 - part) + clouds[:, whole + 1 : whole + 1 + width] * part
        upper = sky + (np.clip(cover - 0.45, 0, 1) * 2.4)[..., None] * (_rgb([255, 190, 170]) - sky) * 0.8
        _paint(upper, _ellipse(y[:shore], x[:shore], shore * 0.56, width * 0.68, 19 * unit, 19 * unit), (255, 236, 186))
        for tone, ridge in zip(((96, 84, 122), (60, 56, 88)), ridges, strict=True):
            _paint(upper, np.clip(y[:shore] - ridge + 0.5, 0, 1), tone)
        _paint(upper, np.clip(y[:shore] - tree_line + 0.5, 0, 1), (24, 30, 38))
        wave = np.sin(y[shore:] / unit * 1.1 - k * 0.5 + 2.5 * np.sin(x[shore:] / unit / 23 + k * 0.13))
        rows = np.clip(shore - 1 - (y[shore:] - shore) * 1.3 + wave * 2.2 * unit * (0.4 + depth[..., 0]), 0, shore - 1)
        columns = np.clip(x[shore:] + wave * 3 * unit * depth[..., 0], 0, width - 1)
        lake = upper[rows.astype(int), columns.astype(int)] * 0.72 + _rgb([10, 18, 34])
        lake += (8 * np.clip(wave, 0, 1))[..., None] * (1 - depth)
        grain = rng.normal(0, 6.0, (height, width, 1)) + rng.normal(0, 2.0, (height, width, 3))
        yield np.concatenate([upper, lake]) + grain.astype(np.float32), None


# -- pieces


def _rgb(values: object) -> np.ndarray:
    return np.asarray(values, dtype=np.float32)


def _noise(rng: np.random.Generator, height: int, width: int, scale: float, octaves: int) -> np.ndarray:
    """Fractal value noise, float32 `[H, W]` in 0..1; the largest features are about `scale` pixels."""
    total = np.zeros((height, width), dtype=np.float32)
    weight = 0.0
    for octave in range(octaves):
        cell = max(1.0, scale / 2**octave)
        grid = rng.random((int(height / cell) + 2, int(width / cell) + 2), dtype=np.float32)
        rows, row_part = _cells(height, cell)
        columns, column_part = _cells(width, cell)
        across = grid[:, columns] * (1 - column_part) + grid[:, columns + 1] * column_part
        total += 0.55**octave * (across[rows] * (1 - row_part)[:, None] + across[rows + 1] * row_part[:, None])
        weight += 0.55**octave
    return total / weight


def _cells(length: int, cell: float) -> tuple[np.ndarray, np.ndarray]:
    position = np.arange(length, dtype=np.float32) / np.float32(cell)
    whole = position.astype(int)
    part = position - whole
    return whole, part * part * (3 - 2 * part)


def _ellipse(y: np.ndarray, x: np.ndarray, cy: float, cx: float, ry: float, rx: float) -> np.ndarray:
    """Coverage 0..1 of an ellipse with a soft edge of about one pixel."""
    distance = np.sqrt(((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2)
    return np.clip((1 - distance) * min(rx, ry) + 0.5, 0, 1)


def _paint(picture: np.ndarray, cover: np.ndarray, colour) -> None:
    """Blend `colour` into the picture, in place; `colour` is a triple or `[H, W, 3]`."""
    rows, columns = np.flatnonzero(cover.any(1)), np.flatnonzero(cover.any(0))
    if len(rows):
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        tone = np.asarray(colour, dtype=np.float32)
        picture[box] += cover[box][..., None] * ((tone[box] if tone.ndim == 3 else tone) - picture[box])


def _text(picture: np.ndarray, top: int, left: int, height: int, width: int, line: int, colour, rng) -> None:
    """Lines of word-like marks inside a box: strokes of letters at a distance where they cannot be read."""
    stroke = max(1, line // 5)
    for row in range(top, top + height - line // 2, line):
        column = left
        while column < left + width:
            word = int(rng.integers(2, 7)) * stroke * 2
            for letter in range(column, min(column + word, left + width - stroke), 2 * stroke):
                tall = line // 2 if rng.random() < 0.6 else line // 3
                picture[row + line // 2 - tall : row + line // 2, letter : letter + stroke] = colour
            column += word + 3 * stroke


def _brick_wall(height: int, width: int, unit: float, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    brick_h, brick_w, joint = 15 * unit, 36 * unit, 2 * unit
    row = (y // brick_h).astype(int)
    along = x + (row % 2) * brick_w / 2
    column = (along // brick_w).astype(int)
    tint = rng.random((row.max() + 1, column.max() + 1)).astype(np.float32)[row, column]
    fy, fx = y % brick_h, along % brick_w
    rough = _noise(rng, height, width, 7 * unit, 4)
    colour = _rgb([150, 72, 52]) + tint[..., None] * _rgb([52, 36, 30]) - 14
    colour = colour * (0.72 + 0.5 * rough)[..., None]
    colour += (14 * (fy < joint * 2) - 20 * (fy > brick_h - joint))[..., None]
    mortar = (fy < joint) | (fx < joint)
    colour[mortar] = (_rgb([150, 142, 130]) * (0.75 + 0.4 * rough)[..., None])[mortar]
    size = round(70 * unit)
    for k, left in enumerate(range(round(30 * unit), width - size, round(118 * unit))):
        _poster(colour, round((26 + 44 * (k % 3)) * unit), left, size, k, unit, rng)
    return np.clip(colour * (0.82 + 0.36 * _noise(rng, height, width, 150 * unit, 2))[..., None], 0, 255)


def _poster(wall: np.ndarray, top: int, left: int, size: int, kind: int, unit: float, rng) -> None:
    tall = size * 4 // 3
    box = wall[top : top + tall, left : left + size]
    if box.shape[:2] != (tall, size):
        return
    shadow = round(3 * unit)
    wall[top + shadow : top + tall + shadow, left + shadow : left + size + shadow] *= 0.55
    paper = [(236, 226, 200), (40, 74, 110), (214, 170, 60), (226, 232, 234)][kind % 4]
    ink = [(40, 36, 40), (240, 226, 190), (60, 30, 20), (150, 30, 40)][kind % 4]
    box[:] = _rgb(paper) * (0.92 + 0.12 * _noise(rng, tall, size, 12 * unit, 3))[..., None]
    y, x = np.mgrid[:tall, :size].astype(np.float32)
    _paint(box, _ellipse(y, x, tall * 0.36, size * 0.5, size * 0.26, size * 0.26), ink)
    _paint(box, _ellipse(y, x, tall * 0.36, size * 0.56, size * 0.17, size * 0.17), paper)
    margin = size // 9
    _text(box, margin // 2, margin, round(10 * unit), size - 2 * margin, round(10 * unit), ink, rng)
    _text(box, tall * 5 // 8, margin, tall // 3 - margin, size - 2 * margin, round(6 * unit), ink, rng)


def _bookshelf(height: int, width: int, unit: float, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    grain = _noise(rng, height, max(2, width // 8), 20 * unit, 4)[:, (np.arange(width) // 8) % max(2, width // 8)]
    picture = _rgb([92, 62, 40]) * (0.7 + 0.5 * grain)[..., None]
    covers = _rgb([(122, 40, 38), (38, 66, 92), (62, 92, 62), (196, 160, 92), (88, 60, 96), (200, 192, 176)])
    shelf, board = round(62 * unit), max(2, round(6 * unit))
    for floor in range(shelf - board, height + shelf, shelf):
        left = round(rng.integers(-8, 4) * unit)
        while left < width:
            thick, tall = round(rng.integers(8, 17) * unit), round(rng.integers(38, 54) * unit)
            top, bottom, right = max(0, floor - tall), min(height, floor), left + thick
            spine = picture[top:bottom, max(0, left) : max(0, min(width, right - 1))]
            if spine.size:
                spine[:] = covers[rng.integers(len(covers))] * rng.uniform(0.75, 1.15)
                spine[:, : max(1, round(unit))] *= 1.2
                band = max(1, round(3 * unit))
                spine[round(7 * unit) : round(7 * unit) + band] = (212, 184, 112)
                if thick > 10 * unit:
                    _text(
                        spine,
                        round(16 * unit),
                        round(3 * unit),
                        round(18 * unit),
                        thick,
                        round(5 * unit),
                        (225, 215, 190),
                        rng,
                    )
            left = right + (round(14 * unit) if rng.random() < 0.1 else 0)
        picture[max(0, min(height, floor)) : max(0, min(height, floor + board))] *= 1.5
    light = 0.5 + 0.65 * np.exp(-((x / width - 0.2) ** 2 + (y / height - 0.15) ** 2) * 2.2)
    return np.clip(picture * light[..., None] + 6 * (_noise(rng, height, width, 3 * unit, 2) - 0.5)[..., None], 0, 255)


def _sitter(picture: np.ndarray, y: np.ndarray, x: np.ndarray, cy: float, cx: float, unit: float) -> None:
    """Head and shoulders of the speaker, without the eyes and the mouth."""
    skin, knit = _rgb([205, 155, 125]), _rgb([44, 88, 104])
    stitch = 0.85 + 0.15 * np.sin(x / unit * 1.6) * np.sin(y / unit * 1.6 + np.sin(x / unit * 0.8))
    body = _ellipse(y, x, cy + 170 * unit, cx, 110 * unit, 98 * unit)
    _paint(picture, body, (knit * stitch[..., None]))
    _paint(picture, _ellipse(y, x, cy + 62 * unit, cx, 30 * unit, 21 * unit), skin * 0.78)
    _paint(picture, _ellipse(y, x, cy - 16 * unit, cx, 62 * unit, 51 * unit), (58, 40, 30))
    shade = 1.06 - 0.26 * np.clip((x - cx) / (50 * unit), -0.4, 1) - 0.08 * np.clip((y - cy) / (60 * unit), 0, 1)
    face = _ellipse(y, x, cy + 4 * unit, cx, 54 * unit, 41 * unit)
    _paint(picture, face, skin * shade[..., None])
    strands = 0.8 + 0.3 * np.sin(x / unit * 1.3 + np.sin(y / unit * 0.3))
    fringe = _ellipse(y, x, cy - 44 * unit, cx - 6 * unit, 22 * unit, 44 * unit)
    _paint(picture, fringe, _rgb([64, 44, 32]) * strands[..., None])
    for side in (-1, 1):
        _paint(picture, _ellipse(y, x, cy - 20 * unit, cx + side * 17 * unit, 2 * unit, 10 * unit), (66, 46, 34))
    _paint(picture, 0.5 * _ellipse(y, x, cy + 10 * unit, cx + 4 * unit, 12 * unit, 4 * unit), skin * 0.72)


def _pitch(height: int, width: int, unit: float, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    stripes = ((x + 0.5 * y) // (42 * unit)) % 2
    blades = _noise(rng, height, width, 5 * unit, 3)
    picture = (_rgb([46, 116, 48]) + stripes[..., None] * _rgb([16, 24, 10])) * (0.68 + 0.6 * blades)[..., None]
    for at in range(round(60 * unit), width, round(190 * unit)):
        line = np.clip(2.2 * unit - np.abs(x - at - 0.35 * y) + 0.5, 0, 1)
        _paint(picture, 0.85 * line, (232, 236, 226))
    stand, board = round(height * 0.2), round(height * 0.3)
    crowd = rng.random((stand // 3 + 1, width // 3 + 1, 3)).astype(np.float32) ** 1.5 * 110 + 35
    crowd = crowd * 0.45 + crowd.mean(-1, keepdims=True) * 0.55  # far away, colours mix
    picture[:stand] = (
        crowd.repeat(3, 0).repeat(3, 1)[:stand, :width]
        * (0.6 + 0.4 * _noise(rng, stand, width, 20 * unit, 2))[..., None]
    )
    inks = ((235, 235, 235), (250, 220, 60), (30, 40, 110))
    for k, left in enumerate(range(0, width, round(96 * unit))):
        banner = picture[stand:board, left : left + round(95 * unit)]
        banner[:] = ((28, 44, 120), (150, 26, 34), (236, 236, 230))[k % 3]
        edge = round(6 * unit)
        _text(
            banner, edge, edge, banner.shape[0] - edge, banner.shape[1] - 2 * edge, round(16 * unit), inks[k % 3], rng
        )
    picture[board : board + max(1, round(2 * unit))] *= 0.4
    return np.clip(picture, 0, 255)


def _player(picture, y, x, feet: float, at: float, size: float, phase: float, team: int) -> None:
    if not -40 * size < at < x.shape[1] + 40 * size:
        return
    shirt = ((210, 40, 44), (240, 240, 246))[team]
    swing = np.sin(phase)
    _paint(picture, 0.4 * _ellipse(y, x, feet + 1 * size, at + 5 * size, 3.5 * size, 15 * size), (16, 40, 16))
    for side in (-1, 1):
        knee = at + side * swing * 9 * size
        _paint(picture, _ellipse(y, x, feet - 9 * size, knee, 11 * size, 3.4 * size), (196, 146, 112))
        _paint(picture, _ellipse(y, x, feet - 1 * size, knee + 2 * size, 3 * size, 5 * size), (24, 24, 30))
        _paint(
            picture,
            _ellipse(y, x, feet - 38 * size, at - side * swing * 11 * size, 9 * size, 3 * size),
            (196, 146, 112),
        )
    _paint(picture, _ellipse(y, x, feet - 21 * size, at, 8 * size, 9 * size), (28, 34, 66))
    _paint(picture, _ellipse(y, x, feet - 37 * size, at, 15 * size, 9.5 * size), shirt)
    _paint(picture, _ellipse(y, x, feet - 38 * size, at, 5 * size, 4 * size), tuple(255 - c for c in shirt))
    _paint(picture, _ellipse(y, x, feet - 58 * size, at + 1.5 * size, 7.5 * size, 6.5 * size), (190, 140, 108))
    _paint(picture, _ellipse(y, x, feet - 61 * size, at, 5 * size, 6.5 * size), (50, 34, 24))


def _ridge(rng: np.random.Generator, width: int, height: int, level: float, rough: float) -> np.ndarray:
    """Height of a mountain ridge, in rows from the top, `[1, W]`."""
    return (height * level - rough * (_noise(rng, 1, width, rough * 1.6, 5) - 0.3)).astype(np.float32)
