"""The files of a run folder: a JSON object a line, whole or (after a kill) cut off."""

from __future__ import annotations

import json
import math
import os
import pathlib
import re
import warnings
from collections.abc import Mapping
from typing import IO, Any

import numpy as np


def append(file: IO[bytes], row: Any) -> None:
    """Append a row in one write call: a kill leaves a whole line or the beginning of one."""
    file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
    file.flush()


def replace(path: pathlib.Path, content: bytes) -> None:
    """Replace the file by ``content``; readers see the old or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def clear(folder: pathlib.Path) -> None:
    """Remove what killed processes left of files they were replacing; hold the folder."""
    for left in folder.glob(".*.tmp"):
        if re.fullmatch(r"\..+\.\d+\.tmp", left.name):
            left.unlink(missing_ok=True)


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the whole rows of the file.

    Raises:
        ValueError: there is no such file.
    """
    if not path.exists():
        raise ValueError(f"there is no {path}: not a run folder, or nothing logged yet")
    return [row for _, row in rows(path, path.read_bytes())]


def rows(path: pathlib.Path, content: bytes) -> list[tuple[bytes, dict[str, Any]]]:
    """Returns (line, row) of every line that is a whole row."""
    lines = content.split(b"\n")
    found = []
    # What follows the last newline is nothing, or the beginning of a row.
    for number, line in enumerate(lines[:-1], start=1):
        try:
            row = json.loads(line)
            row["update"] + 0
        except (ValueError, KeyError, TypeError):
            warnings.warn(f"{path}:{number} is no row of a run; skipped", stacklevel=3)
        else:
            found.append((line, row))
    return found


def plain(x: Any) -> Any:
    """Returns what JSON can hold: arrays as lists, what is not finite as None."""
    if isinstance(x, Mapping):
        return {str(name): plain(value) for name, value in x.items()}
    if isinstance(x, list | tuple):
        return [plain(value) for value in x]
    if hasattr(x, "shape"):
        return plain(np.asarray(x).tolist())
    if isinstance(x, float) and not math.isfinite(x):
        return None
    return x


def arrays(x: Any) -> Any:
    """Returns nested dicts with their lists as float64 arrays, None as NaN."""
    if isinstance(x, dict):
        return {name: arrays(value) for name, value in x.items()}
    return np.array([number(v) for v in x]) if isinstance(x, list) else x


def number(x: Any) -> float:
    """Returns a float, NaN for None."""
    return math.nan if x is None else float(x)


def columns(cells: list[list | None]) -> np.ndarray:
    """Returns [N, P], with rows of NaN where there was none."""
    P = max(len(cell) for cell in cells if cell is not None)
    blank = [None] * P
    return np.array([[number(x) for x in (cell or blank)] for cell in cells])
