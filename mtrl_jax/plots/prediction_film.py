"""What a world model predicts without seeing: context, truth, prediction and error.

A film shows truth | prediction | error side by side, framed green while the model sees
the truth (its context) and red once it predicts from actions alone; a contact sheet has
them as rows, time from left to right. The error is grey where there is none.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mtrl_jax.plots import observation_pictures

GREEN, RED = (0, 160, 0), (200, 0, 0)
HEIGHT = 128  # pixels of a picture, at least
SHEET = 12  # columns of a contact sheet, at most
GAP = 2


class Score(NamedTuple):
    """Mean squared errors of each predicted step, [T - context]; NaN over nothing."""

    model: np.ndarray
    last_frame: np.ndarray  # of the last step seen, copied
    sequences: np.ndarray  # that the mean is over


def score(
    truth: np.ndarray, prediction: np.ndarray, context: int, live: np.ndarray
) -> Score:
    """Returns both errors after ``context`` steps of images [T, N, H, W, C], over N.

    ``live`` [T, N] is False from where a sequence's episode has ended.
    """
    later, live = truth[context:], live[context:]
    copied = np.broadcast_to(truth[context - 1], later.shape)

    def mean(x: np.ndarray) -> np.ndarray:
        each = np.square(x - later).mean((2, 3, 4))
        total = np.where(live, each, 0.0).sum(1)
        with np.errstate(invalid="ignore"):
            return total / live.sum(1)

    return Score(mean(prediction[context:]), mean(copied), live.sum(1))


def film(truth: np.ndarray, prediction: np.ndarray, context: int) -> list[np.ndarray]:
    """Returns a uint8 picture of each step of images [T, N, H, W, C] between 0 and 1.

    Sequences are rows, each truth | prediction | error.
    """
    return [
        np.concatenate(
            [np.concatenate(parts, axis=1) for parts in _step(truth, prediction, t, c)]
        )
        for t, c in _colours(len(truth), context)
    ]


def contact_sheet(
    truth: np.ndarray, prediction: np.ndarray, context: int
) -> np.ndarray:
    """Returns one uint8 picture: rows truth, prediction, error; columns steps.

    The sequences of images [T, N, H, W, C] are below each other.
    """
    steps = np.unique(np.linspace(0, len(truth) - 1, SHEET).astype(int))
    coloured = list(_colours(len(truth), context))
    columns = [
        np.concatenate(
            [np.concatenate(parts) for parts in _step(truth, prediction, *x)]
        )
        for x in (coloured[t] for t in steps)
    ]
    return np.concatenate(columns, axis=1)


def write(
    path: pathlib.Path, truth: np.ndarray, prediction: np.ndarray, context: int
) -> tuple[pathlib.Path, pathlib.Path]:
    """Write the film to ``path`` (.gif) and the sheet beside it (.png); return both."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [Image.fromarray(x) for x in film(truth, prediction, context)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=150, loop=0)
    sheet = path.with_suffix(".png")
    Image.fromarray(contact_sheet(truth, prediction, context)).save(sheet)
    return path, sheet


def _colours(steps: int, context: int) -> Iterator[tuple[int, tuple[int, int, int]]]:
    """Yields each step with the colour of its frame."""
    for t in range(steps):
        yield t, GREEN if t < context else RED


def _step(
    truth: np.ndarray, prediction: np.ndarray, t: int, colour: tuple[int, int, int]
) -> list[list[np.ndarray]]:
    """Returns, of each sequence, its framed pictures at step ``t``."""
    return [
        [_framed(_enlarged(x), colour) for x in _triple(seen, said)]
        for seen, said in zip(truth[t], prediction[t])
    ]


def _triple(seen: np.ndarray, said: np.ndarray) -> list[np.ndarray]:
    """Returns truth, prediction and error as RGB in [0, 1]."""
    seen, said = _rgb(np.clip(seen, 0, 1)), _rgb(np.clip(said, 0, 1))
    return [seen, said, np.clip(0.5 + 0.5 * (said - seen), 0, 1)]


def _rgb(image: np.ndarray) -> np.ndarray:
    """Returns [H, W, 3]: grey repeated, colours as they are, planes in colours of their own."""
    channels = image.shape[-1]
    if channels == 1:
        return np.repeat(image, 3, axis=-1)
    if channels == 3:
        return image
    planes = observation_pictures.PLANES
    colours = np.array([planes[i % len(planes)] for i in range(channels)]) / 255
    return np.clip(image @ colours, 0, 1)


def _enlarged(image: np.ndarray) -> np.ndarray:
    factor = max(1, -(-HEIGHT // image.shape[0]))
    return image.repeat(factor, 0).repeat(factor, 1)


def _framed(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    height, width, _ = image.shape
    framed = np.empty((height + 2 * GAP, width + 2 * GAP, 3), np.uint8)
    framed[:] = colour
    framed[GAP:-GAP, GAP:-GAP] = np.round(255 * image)
    return framed
