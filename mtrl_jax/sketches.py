"""Pictures of tasks whose observation is a vector that people know as a scene."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

BACKGROUND = (18, 18, 24)
BLUE, ORANGE, GREY = (86, 180, 233), (230, 159, 0), (120, 120, 120)


def board(vector: np.ndarray, rows: int, size: int) -> np.ndarray:
    """Returns uint8 [size, size, 3] of a board that was flattened row by row."""
    from PIL import Image

    cells = np.asarray(vector).reshape(rows, -1)
    out = np.full((*cells.shape, 3), BACKGROUND, np.uint8)
    out[cells > 0] = BLUE
    out[-1][cells[-1] > 0] = ORANGE
    scale = size / max(cells.shape)
    shape = (round(cells.shape[1] * scale), round(rows * scale))
    scaled = Image.fromarray(out).resize(shape, Image.Resampling.NEAREST)
    canvas = Image.new("RGB", (size, size), GREY)
    canvas.paste(scaled, ((size - shape[0]) // 2, (size - shape[1]) // 2))
    return np.asarray(canvas)


def cartpole(vector: np.ndarray, size: int) -> np.ndarray:
    """Returns uint8 [size, size, 3] of CartPole's (x, ẋ, θ, θ̇); x ends at ±2.4."""
    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", (size, size), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    x = size / 2 + float(vector[0]) / 2.4 * size / 2
    y, length = 0.75 * size, 0.5 * size
    draw.line((0, y, size, y), fill=GREY)
    draw.rectangle((x - 18, y - 10, x + 18, y + 6), fill=BLUE)
    angle = float(vector[2])
    tip = (x + length * math.sin(angle), y - 10 - length * math.cos(angle))
    draw.line((x, y - 10, *tip), fill=ORANGE, width=6)
    return np.asarray(canvas)


# End of a task's name -> picture of its observation vector.
SKETCHES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "CartPole-v1": cartpole,
    "Catch-bsuite": lambda vector, size: board(vector, 10, size),
}


def find(task: str) -> Callable[[np.ndarray, int], np.ndarray] | None:
    """Returns the sketch of a task, None where there is none."""
    return SKETCHES.get(task.split("/", 1)[-1].split("#", 1)[0])
