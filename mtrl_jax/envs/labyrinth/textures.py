"""What walls and things look like: small bitmaps, kept as words of one column each.

A wall's face is 32 x 32 points of two colours: bit r of word c is the point at r / 32 of
the height and c / 32 of the width. A thing is 16 x 16 points of three colours and
nothing: bits 2r and 2r + 1 of word c. So a ray looks up one word, and the picture
element it needs is a shift away.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mtrl_jax.envs.labyrinth import bots, raycast, world

WALL_POINTS = 32
THING_POINTS = 16


class Look(NamedTuple):
    """What stands about: its drawing from the top down, colours, extent in height."""

    drawing: str
    colours: tuple[str, str, str]  # of 1, 2 and 3 in the drawing
    feet: float
    head: float


APPLE = """
........33......
.......33.222...
.......3.22222..
..1111.3..222...
.11111131111....
1111111111111...
11111111111111..
111111111111111.
111111111111111.
111111111111111.
111111111111111.
.1111111111111..
.1111111111111..
..11111111111...
...1111.1111....
................
"""
LEMON = """
................
................
................
.....11111......
...111111111....
..1122111111133.
.11221111111113.
1112111111111133
1111111111111133
.11111111111113.
..1111111111133.
...1111111113...
.....111111.....
................
................
................
"""
MELON = """
.......33.......
.......33.......
....11211211....
..111221122111..
.11122111122111.
.11122111122111.
1112211111122111
1122211111122211
1122211111122211
1122211111122211
1112211111122111
.11122111122111.
.11122111122111.
..111221122111..
....11211211....
................
"""
GOAL = """
..333333333333..
..322222222223..
..333333333333..
...1122112211...
...1122112211...
...1122112211...
...1122112211...
...1122112211...
...1122112211...
...1122112211...
...1122112211...
...1122112211...
...1122112211...
..333333333333..
..322222222223..
..333333333333..
"""
KEY = """
................
..22222.........
.2111112........
211222112.......
21222222222222..
2122..211111112.
2122..211111112.
21222222222122..
211222112.21222.
.2111112..21112.
..22222...22122.
..........21112.
..........22222.
................
................
................
"""
BOT = """
....33333333....
...3333333333...
...3222332223...
...3222332223...
...3333333333...
....33333333....
......3333......
..111111111111..
.11111122111111.
1111112222111111
11.1112222111.11
11.1111221111.11
33.1111111111.33
...1111..1111...
...1111..1111...
...3333..3333...
"""
# By kind of thing (world.APPLE, ...); the last is the bot.
LOOKS = (
    Look(APPLE, ("#e02020", "#30c030", "#5a3a10"), 0.05, 0.5),
    Look(LEMON, ("#f8e020", "#fffbb0", "#d8b000"), 0.02, 0.5),
    Look(MELON, ("#58c848", "#187028", "#7a5a20"), 0.5, 1.0),
    Look(GOAL, ("#ffc400", "#fff6c0", "#ffffff"), 0.0, 0.95),
    Look(KEY, ("#e01818", "#ffffff", "#ffffff"), 0.1, 0.6),
    Look(KEY, ("#10a818", "#ffffff", "#ffffff"), 0.1, 0.6),
    Look(KEY, ("#1838e8", "#ffffff", "#ffffff"), 0.1, 0.6),
    Look(BOT, ("#e030e0", "#181820", "#f4e4c8"), 0.0, bots.HEIGHT),
)
# By texture, then the doors by colour: joints and faces.
WALLS = (
    ("#d8c8b0", "#a04828"),  # bricks
    ("#20344c", "#4a80c0"),  # planks
    ("#285030", "#78b070"),  # panels
    ("#8a6018", "#e0b850"),  # bands
    ("#583070", "#a878c8"),  # lozenges
    ("#405858", "#90b0b0"),  # stones
    ("#501010", "#f03030"),
    ("#0c4010", "#30d840"),
    ("#101858", "#4060ff"),
)
TINTS = np.asarray([1.0, 0.72, 1.2], np.float32)  # light and dark ones of each


def colour(name: str) -> tuple[int, int, int]:
    """Returns red, green, blue of 0 to 255 from "#rrggbb"."""
    red, green, blue = bytes.fromhex(name[1:])
    return red, green, blue


def wall_colours() -> np.ndarray:
    """Returns float32 [TEXTURES + DOORS, 2, 3] of joints and faces, 0 to 255."""
    return np.asarray([[colour(name) for name in pair] for pair in WALLS], np.float32)


def thing_colours() -> np.ndarray:
    """Returns float32 [KINDS + 1, 3, 3] of the points 1, 2 and 3, 0 to 255."""
    given = [[colour(name) for name in look.colours] for look in LOOKS]
    return np.asarray(given, np.float32)


def feet_and_scale() -> tuple[np.ndarray, np.ndarray]:
    """Returns float32 [KINDS + 1] each: where things begin, and points in a cell's height."""
    feet = np.asarray([look.feet for look in LOOKS], np.float32)
    head = np.asarray([look.head for look in LOOKS], np.float32)
    return feet, THING_POINTS / (head - feet)


def wall_words() -> np.ndarray:
    """Returns uint32 [TEXTURES + DOORS, 32]: set bits are faces, the others joints."""
    r, c = np.indices((WALL_POINTS, WALL_POINTS))
    lozenge = np.abs(r % 16 - 7.5) + np.abs(c % 16 - 7.5)
    stone = (c + 5 * (r // 6)) % (9 + 2 * (r // 6 % 3))
    frame = np.minimum(np.minimum(r, 31 - r), np.minimum(c, 31 - c))
    door = (
        (frame > 1) & ~((frame > 5) & (frame < 8)) & ~((r > 13) & (r < 18) & (c > 25))
    )
    walls = [
        (r % 8 > 1) & ((c + 8 * (r // 8 % 2)) % 16 > 1),
        (c % 8 > 1) & (r > 2),
        (frame > 2) & ~((frame > 7) & (frame < 10)),
        r // 4 % 2 == 0,
        lozenge < 7,
        (r % 6 > 0) & (stone > 0),
        *[door] * world.DOORS,
    ]
    assert len(walls) == len(WALLS) == raycast.TEXTURES + world.DOORS
    weight = np.uint64(1) << np.arange(WALL_POINTS, dtype=np.uint64)
    return np.stack([weight @ wall for wall in walls]).astype(np.uint32)


def thing_words() -> np.ndarray:
    """Returns uint32 [KINDS + 1, 16]: two bits a point, the lowest are its feet's."""
    drawings = [look.drawing.split()[::-1] for look in LOOKS]
    points = np.asarray([[[*line.replace(".", "0")] for line in d] for d in drawings])
    weight = np.uint64(4) ** np.arange(THING_POINTS, dtype=np.uint64)
    words = np.einsum("krc,r->kc", points.astype(np.uint64), weight)
    return words.astype(np.uint32)
