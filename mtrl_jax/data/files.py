"""Files that survive a kill: arrays written in place, a description put there by rename.

Rows are written with ``pwrite``, not through a memory map, where a full disk would end
the process by a signal instead of an error.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pathlib
import zlib
from typing import Any

import numpy as np

from mtrl_jax import errors
from mtrl_jax.data import layout

META = "meta.json"
_BLOCK = 1 << 24  # bytes read at a time for a checksum


def path_of(folder: pathlib.Path, field: layout.Field) -> pathlib.Path:
    """Returns the file of a field. Raises DatasetError: it leads out of the folder."""
    if pathlib.PurePath(field.name).name != field.name or "\\" in field.name:
        raise errors.DatasetError(f"{folder}: {field.name!r} is not a file's own name")
    path = folder / f"{field.name}.npy"
    if path.is_symlink():
        raise errors.DatasetError(f"{path}: a link, give the file itself")
    return path


def create(path: pathlib.Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Make an .npy file of zeros with its space set aside. Raises OSError: no space."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.flush()
        _allocate(file.fileno(), file.tell(), size)
        os.fsync(file.fileno())


def open_map(path: pathlib.Path, shape: tuple[int, ...], dtype: np.dtype) -> np.memmap:
    """Returns the read-only memory map of an array that must have this shape and dtype.

    Raises DatasetError if it is missing, cut short, or something else.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise errors.DatasetError(
            f"{path} is missing or damaged: {one_line(error)}"
        ) from None
    if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
        raise errors.DatasetError(
            f"{path} is {array.dtype}{list(array.shape)}, "
            f"the description says {dtype}{list(shape)}"
        )
    return array


def open_maps(folder: pathlib.Path, meta: dict[str, Any]) -> dict[str, np.memmap]:
    """Returns the memory map of every field. Raises DatasetError as ``open_map``."""
    shape = (meta["histories"], meta["steps"])
    return {
        f.name: open_map(path_of(folder, f), (*shape, *f.shape), f.dtype)
        for f in layout.fields_of(meta)
    }


def sound_steps(
    folder: pathlib.Path,
    meta: dict[str, Any],
    maps: dict[str, np.memmap],
    check: bool,
) -> tuple[int, str]:
    """Returns (steps that are complete and undamaged, what damage follows them)."""
    start = 0
    for end, crcs in meta["parts"]:
        for name, array in maps.items():
            if check and checksum(array, start, end) != crcs[name]:
                path = f"{folder / name}.npy"
                return start, f"{path} is damaged between steps {start} and {end}"
        start = end
    return start, ""


def write_columns(
    fd: int, offset: int, columns: np.ndarray, start: int, steps: int
) -> None:
    """Write ``columns`` [N, T, ...] as columns start to start + T of [N, steps, ...].

    ``offset`` is where the array begins in the file. Raises OSError.
    """
    number, length = columns.shape[:2]
    raw = np.ascontiguousarray(columns).reshape(number, -1).view(np.uint8)
    row = raw.shape[1] // length
    for n in range(number):
        _write_all(fd, memoryview(raw[n]), offset + (n * steps + start) * row)


def checksum(array: np.ndarray, start: int, stop: int) -> int:
    """Returns the CRC-32 of the columns ``array[:, start:stop]``, history by history."""
    per_history = max(array[0, start:stop].nbytes, 1)
    block = max(_BLOCK // per_history, 1)
    crc = 0
    for n in range(0, array.shape[0], block):
        columns = np.ascontiguousarray(array[n : n + block, start:stop])
        crc = zlib.crc32(columns.data, crc)
    return crc


def write_meta(folder: pathlib.Path, meta: dict[str, Any]) -> None:
    """Replace the folder's description, as one step. Raises OSError."""
    temporary = folder / f".{META}"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(meta, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / META)
    sync_folder(folder)


def fingerprint(folder: pathlib.Path) -> str:
    """Returns the SHA-256 of the folder's description, which has its files' checksums.

    Raises DatasetError as ``read_meta``.
    """
    described = json.dumps(read_meta(folder), sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()


def read_meta(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the folder's description. Raises DatasetError: none, or not readable."""
    path = folder / META
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        version = meta["format"]
        if version in layout.FORMATS:
            _check_meta(meta)
    except FileNotFoundError:
        raise errors.DatasetError(
            f"{folder} holds no dataset: there is no {META}"
        ) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise errors.DatasetError(f"{path} is damaged: {one_line(error)}") from None
    if version not in layout.FORMATS:
        known = " and ".join(map(str, layout.FORMATS))
        raise errors.DatasetError(
            f"{path}: format {version}, this version reads {known}"
        )
    return meta


def sync_folder(folder: pathlib.Path) -> None:
    """Wait until the names in the folder are on disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def one_line(error: BaseException) -> str:
    """Returns what went wrong, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160] if lines else ''}".rstrip(": ")


def _check_meta(meta: dict[str, Any]) -> None:
    """Raises ValueError, TypeError or KeyError unless a description agrees with itself."""
    if (meta["format"] == layout.FORMATS[0]) != ("recorded" not in meta):
        raise ValueError("its format is not that of what it holds")
    fields = {f.name for f in layout.fields_of(meta)}
    ends = [end for end, _ in meta["parts"]]
    rises = all(x < y for x, y in zip([0, *ends], [*ends, meta["steps"] + 1]))
    if not rises or meta["complete"] != (ends[-1] if ends else 0):
        raise ValueError("its parts are not in order")
    if any(set(crcs) != fields for _, crcs in meta["parts"]):
        raise ValueError("its checksums are not those of its fields")
    task = meta["task"]
    if len(task) != meta["histories"] or not 0 <= min(task) <= max(task) < len(
        meta["names"]
    ):
        raise ValueError("its tasks are not those of its histories")


def _allocate(fd: int, offset: int, size: int) -> None:
    try:
        os.posix_fallocate(fd, offset, size)
    except (AttributeError, OSError) as error:
        # Where the system or the file system cannot, writes find out about a full disk.
        cannot = (errno.EOPNOTSUPP, errno.EINVAL)
        if isinstance(error, OSError) and error.errno not in cannot:
            raise
        os.ftruncate(fd, offset + size)


def _write_all(fd: int, view: memoryview, offset: int) -> None:
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
