"""Pictures of observations: images, planes, vectors, and vectors known as a scene."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

PANEL = 200  # pixels, width and height of a picture
BACKGROUND = (18, 18, 24)
BLUE, ORANGE, GREY = (86, 180, 233), (230, 159, 0), (120, 120, 120)
# Colours that stay apart for most kinds of colour vision (Okabe and Ito), then repeat.
PLANES = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
    (240, 240, 240),
)


def picture(obs: dict[str, np.ndarray]) -> np.ndarray:
    """Returns an observation (one slot) as uint8 [PANEL, PANEL, 3]."""
    if "image" in obs and obs["image"].any():
        return _fit(_image(obs["image"]))
    return _bars(obs.get("vector", np.zeros(1)))


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


def _image(image: np.ndarray) -> np.ndarray:
    """Returns uint8 [H, W, 3] of an image observation."""
    if image.dtype == bool:
        colours = np.asarray([PLANES[i % len(PLANES)] for i in range(image.shape[-1])])
        out = np.full((*image.shape[:2], 3), BACKGROUND, np.uint8)
        for plane, colour in enumerate(colours):
            out[image[..., plane]] = colour
        return out
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        image = (255 * (image - low) / max(high - low, 1e-9)).astype(np.uint8)
    channels = 3 if image.shape[-1] % 3 == 0 else 1
    return np.broadcast_to(image[..., -channels:], (*image.shape[:2], 3))


def _fit(image: np.ndarray) -> np.ndarray:
    """Returns the image scaled to the panel, its shape kept, pixels sharp."""
    from PIL import Image

    scale = PANEL / max(image.shape[:2])
    height, width = (max(1, round(n * scale)) for n in image.shape[:2])
    scaled = Image.fromarray(np.ascontiguousarray(image)).resize(
        (width, height), Image.Resampling.NEAREST
    )
    canvas = Image.new("RGB", (PANEL, PANEL), BACKGROUND)
    canvas.paste(scaled, ((PANEL - width) // 2, (PANEL - height) // 2))
    return np.asarray(canvas)


def _bars(vector: np.ndarray) -> np.ndarray:
    """Returns a vector as bars around a middle line, ±1 filling most of the panel."""
    values = np.tanh(np.asarray(vector, float))
    out = np.full((PANEL, PANEL, 3), BACKGROUND, np.uint8)
    middle, width = PANEL // 2, PANEL / len(values)
    for i, value in enumerate(values):
        left, right = int(i * width), max(int((i + 1) * width) - 1, int(i * width) + 1)
        end = middle - round(value * 0.95 * middle)
        top, bottom = sorted((middle, end))
        out[top : bottom + 1, left:right] = PLANES[1 if value >= 0 else 0]
    out[middle] = (120, 120, 120)
    return out
