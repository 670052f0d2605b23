"""Large leaves as files of 16 MB, written and read one piece at a time.

Orbax copies what it writes in the background, and reads a leaf beside the array it
becomes: a replay of gigabytes would have to fit twice. Here a leaf is cut into boxes
that are contiguous in memory; at any moment one of them is on the host. Every piece has
a CRC-32. The manifest that lists them is written last: without it there is no leaf.

Pieces keep the layout they were saved from (a shard is cut by itself) and can be read
into any other.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import errors
from mtrl_jax.checkpoint import sealed, trees

# Bytes of a piece: what hashing, writing and reading take beside the leaf. Smaller ones
# would cost more in fsync and in files than they save.
PIECE = 16 << 20
# Bytes from which a leaf is large: two full pieces. Below, one more copy of the leaf is
# cheap and orbax's writing in the background is worth it.
LARGE = 32 << 20
MANIFEST = "manifest.json"

Box = tuple[tuple[int, ...], tuple[int, ...]]  # (start, shape)


class Piece(NamedTuple):
    """One file: a box of a leaf, its elements in row-major order."""

    file: str
    start: tuple[int, ...]
    shape: tuple[int, ...]
    crc32: int


def is_large(x: Any) -> bool:
    """Returns whether a leaf is written in pieces rather than by orbax.

    Typed keys and arrays that lie on several processes never are.
    """
    if not np.shape(x) or trees.bytes_of(x) < LARGE or trees.is_key(x):
        return False
    return trees.is_host(x) or x.is_fully_addressable


def write(folder: pathlib.Path, leaves: dict[str, Any]) -> None:
    """Write the pieces of ``leaves`` {number: leaf}, then the manifest, to the disk."""
    manifest = {}
    for number, leaf in leaves.items():
        found = []
        for count, (start, block) in enumerate(_blocks(leaf)):
            file = f"{number}-{count:05d}.bin"
            raw = _raw(block)
            _write_file(folder / file, raw)
            found.append(Piece(file, start, block.shape, zlib.crc32(raw)))
        manifest[number] = found
    content = json.dumps(sealed.seal({"leaves": manifest}))
    _write_file(folder / MANIFEST, content.encode())
    _sync(folder)


def manifest_of(folder: pathlib.Path) -> dict[str, list[Piece]]:
    """Returns {number: pieces} as ``write`` left it.

    Raises:
      CheckpointError: it names a file that is not in the folder itself.
      OSError, ValueError: it is missing or damaged.
    """
    content = sealed.unseal(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    found = {
        number: [
            Piece(f, tuple(start), tuple(shape), crc) for f, start, shape, crc in x
        ]
        for number, x in content["leaves"].items()
    }
    for piece in (piece for x in found.values() for piece in x):
        _check_inside(folder, piece.file)
    return found


def read(folder: pathlib.Path, found: list[Piece], target: Any) -> Any:
    """Returns the leaf: a NumPy array like ``target``, or laid out by its sharding.

    Args:
      folder: of the pieces.
      found: the leaf's pieces.
      target: of ``trees.target``.

    Raises:
      OSError, ValueError: a piece is missing or damaged, or they do not fill the leaf.
    """
    shape, dtype = target.shape, np.dtype(target.dtype)
    _check_filled(found, shape)
    if trees.is_host(target):
        leaf = np.empty(shape, dtype)
        for piece in found:
            leaf[_slices(piece.start, piece.shape)] = _read(folder, piece, dtype)
        return leaf
    places = target.sharding.addressable_devices_indices_map(shape)
    shards = [
        _shard(folder, found, _box(index, shape), dtype, device)
        for device, index in places.items()
    ]
    return jax.make_array_from_single_device_arrays(shape, target.sharding, shards)


def hold(folder: pathlib.Path, leaves: dict[str, Any]) -> bool:
    """Returns whether the folder's checksums are those of ``leaves``, laid out alike."""
    try:
        manifest = manifest_of(folder)
    except (OSError, ValueError):
        return False

    def same(piece: Piece, start: tuple[int, ...], block: np.ndarray) -> bool:
        own = (start, block.shape, zlib.crc32(_raw(block)))
        return own == (piece.start, piece.shape, piece.crc32)

    return manifest.keys() == leaves.keys() and all(
        same(piece, *block)
        for number, leaf in leaves.items()
        for piece, block in zip(manifest[number], _blocks(leaf), strict=True)
    )


def boxes(shape: tuple[int, ...], itemsize: int) -> Iterator[Box]:
    """Yields boxes of at most PIECE bytes, contiguous in memory, that fill ``shape``."""
    axis = 0
    while math.prod(shape[axis + 1 :]) * itemsize > PIECE:
        axis += 1
    inner = shape[axis + 1 :]
    rows = PIECE // (math.prod(inner) * itemsize)
    for outer in np.ndindex(shape[:axis]):
        for at in range(0, shape[axis], rows):
            height = min(rows, shape[axis] - at)
            start = (*outer, at, *(0 for _ in inner))
            yield start, (*(1 for _ in outer), height, *inner)


def _blocks(leaf: Any) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Yields (start, elements) of the leaf's boxes, each on the host by itself."""
    itemsize = np.dtype(leaf.dtype).itemsize
    if trees.is_host(leaf):
        for start, shape in boxes(leaf.shape, itemsize):
            yield start, leaf[_slices(start, shape)]
        return
    for shard in leaf.addressable_shards:
        if shard.replica_id:
            continue
        origin, _ = _box(shard.index, leaf.shape)
        for start, shape in boxes(shard.data.shape, itemsize):
            # Not a slice of the shard as a NumPy array: jax would keep that array, and
            # a buffer with a second reader cannot be donated.
            at = [np.int32(x) for x in start]
            block = jax.lax.dynamic_slice(shard.data, at, shape)
            yield _plus(origin, start), np.asarray(block)


def _shard(
    folder: pathlib.Path, found: list[Piece], box: Box, dtype: Any, device: Any
) -> jax.Array:
    """Returns the elements of ``box`` on ``device``, filled piece by piece."""
    start, shape = box
    buffer = jnp.zeros(shape, dtype, device=device)
    for piece in found:
        low = np.maximum(start, piece.start)
        high = np.minimum(_plus(start, shape), _plus(piece.start, piece.shape))
        if (low >= high).any():
            continue
        block = _read(folder, piece, dtype)[_slices(low - piece.start, high - low)]
        buffer = _filled(buffer, block, np.int32(low - np.array(start)))
        # One piece in flight.
        buffer.block_until_ready()
    return buffer


@jax.jit(donate_argnums=0)
def _filled(buffer: jax.Array, block: jax.Array, start: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice(buffer, block, start)


def _read(folder: pathlib.Path, piece: Piece, dtype: np.dtype) -> np.ndarray:
    block = np.empty(piece.shape, dtype)
    raw = _raw(block)
    with (folder / piece.file).open("rb", buffering=0) as file:
        whole = file.readinto(raw) == raw.nbytes and not file.read(1)
    if not whole:
        raise ValueError(f"{piece.file} has another size")
    if zlib.crc32(raw) != piece.crc32:
        raise ValueError(f"{piece.file} does not match its checksum")
    return block


def _raw(block: np.ndarray) -> memoryview:
    """Returns the bytes of a block, not copied; also of dtypes that are not NumPy's."""
    return memoryview(np.ascontiguousarray(block).reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def _write_file(path: pathlib.Path, content: Any) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: pathlib.Path) -> None:
    """Make the names of the folder's files last, as fsync made their content."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_inside(folder: pathlib.Path, name: str) -> None:
    """Raises CheckpointError unless ``name`` is that of a file in ``folder`` itself."""
    plain = name not in ("", ".", "..") and not set(name) & set("/\\:\0")
    if not plain or (folder / name).is_symlink():
        raise errors.CheckpointError(
            f"{folder / MANIFEST} names the file {name!r}; a checkpoint may only name "
            "files in its own folder"
        )


def _check_filled(found: list[Piece], shape: tuple[int, ...]) -> None:
    """Raises ValueError unless the pieces lie in ``shape`` and have its elements."""
    inside = all(
        len(piece.start) == len(piece.shape) == len(shape)
        and min(piece.start) >= 0
        and (np.add(piece.start, piece.shape) <= shape).all()
        for piece in found
    )
    if not inside or sum(math.prod(x.shape) for x in found) != math.prod(shape):
        raise ValueError("its pieces do not fill the leaf they are of")


def _box(index: tuple[slice, ...], shape: tuple[int, ...]) -> Box:
    """Returns the box of a shard's ``index`` into an array of ``shape``."""
    ranges = [range(*part.indices(size)) for part, size in zip(index, shape)]
    return tuple(x.start for x in ranges), tuple(len(x) for x in ranges)


def _slices(start: Any, shape: Any) -> tuple[slice, ...]:
    return tuple(slice(a, a + n) for a, n in zip(start, shape))


def _plus(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(x + y for x, y in zip(a, b))
