"""What is written of a step beside its arrays, and the versions it was written in.

Format 1: all leaves by orbax; it has no number and no CRC-32.
Format 2: large leaves in pieces, subtrees may be left out, the record is sealed.
"""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from mtrl_jax import errors
from mtrl_jax.checkpoint import checksums, pieces, sealed, trees
from mtrl_jax.types import Tree

FORMAT = 2


class Contents(NamedTuple):
    """A tree as it is saved, its leaves by number; those of size 0 have only a record."""

    record: dict[str, Any]  # sealed, without the pieces' checksums
    small: dict[str, Any]  # by orbax
    large: dict[str, Any]  # in pieces


class Record(NamedTuple):
    """What a checkpoint says of itself."""

    leaves: list[trees.Leaf]  # number i is the i-th
    checksums: list[int]  # of the small leaves
    large: frozenset[str]  # numbers of the leaves in pieces
    dropped: tuple[str, ...]
    meta: dict[str, Any]
    writer: str = ""  # the version of mtrl_jax, "" where it is not known


def contents(state: Tree, meta: dict[str, Any], drop: tuple[str, ...]) -> Contents:
    """Returns what is written of ``state`` without the subtrees ``drop``."""
    leaves = trees.without(state, drop)
    numbered = _numbered(list(leaves.values()))
    large = {n: x for n, x in numbered.items() if pieces.is_large(x)}
    small = {
        n: np.asarray(x) if trees.is_host(x) else x
        for n, x in numbered.items()
        if n not in large
    }
    record = {
        "format": FORMAT,
        "writer": _version(),
        "leaves": trees.describe(leaves),
        "checksums": checksums.of_leaves(list(small.values())),
        "large": list(large),
        "dropped": drop,
        "meta": meta,
    }
    return Contents(sealed.seal(record), small, large)


def parse(raw: dict[str, Any], step: int) -> Record:
    """Returns the record of a step from what was read of it.

    Raises:
      CheckpointError: it is of a format to come; names the version that wrote it.
      KeyError, TypeError, ValueError: it is damaged.
    """
    if "format" in raw or "crc32" in raw:
        raw = sealed.unseal(raw)
    if raw.get("format", 1) > FORMAT:
        raise errors.CheckpointError(
            f"checkpoint {step} has format {raw['format']}, written by mtrl_jax "
            f"{raw.get('writer')}; mtrl_jax {_version()} reads up to format {FORMAT}"
        )
    return Record(
        leaves=[trees.Leaf(n, tuple(shape), d) for n, shape, d in raw["leaves"]],
        checksums=raw["checksums"],
        large=frozenset(raw.get("large", ())),
        dropped=tuple(raw.get("dropped", ())),
        meta=raw["meta"],
        writer=_writer(raw),
    )


def writer(directory: pathlib.Path) -> str:
    """Returns the version that wrote the newest step there, "" where it is not known.

    Of any format, also of one to come.
    """
    found = [x for x in directory.glob("*/meta/metadata") if x.parts[-3].isdigit()]
    try:
        newest = max(found, key=lambda x: int(x.parts[-3]))
        return _writer(json.loads(newest.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""  # There is none, or it is damaged.


def written_by(writer: str, now: str) -> str:
    """Returns who wrote what the version ``now`` cannot use, and what to go on with.

    Of one number there may be several builds.

    >>> written_by("0.0.9", "0.1.0")
    'mtrl_jax 0.0.9, this is 0.1.0: go on with the version'
    """
    if writer == now:
        return f"an earlier build of mtrl_jax {now}: go on with the build"
    by = f"mtrl_jax {writer}" if writer else "an unknown version"
    return f"{by}, this is {now}: go on with the version"


def targets(record: Record, like: Tree, step: int) -> dict[str, Any]:
    """Returns {number: what to restore the leaf as}, without those of size 0.

    Raises:
      CheckpointError: ``like`` has other leaves than were saved; names the first, and
        what to do about it.
    """
    wanted = trees.without(like, record.dropped)
    misfit = trees.misfit(record.leaves, trees.describe(wanted))
    if misfit:
        by = written_by(record.writer, _version())
        raise errors.CheckpointError(
            f"checkpoint {step} {misfit}; it was written by {by} and the settings that "
            "wrote it, or begin a new run"
        )
    return _numbered([trees.target(wanted[leaf.name]) for leaf in record.leaves])


def large_without(record: Record, like: Tree, skip: tuple[str, ...]) -> list[str]:
    """Returns the numbers of the leaves in pieces that are not in the subtrees ``skip``."""
    kept = trees.without(like, skip)
    return [n for n in sorted(record.large) if record.leaves[int(n)].name in kept]


def rebuilt(record: Record, like: Tree, arrays: dict[str, Any]) -> Tree:
    """Returns ``like`` with the ``arrays`` {number: leaf}.

    Dropped leaves are missing, and those in pieces that were not read.
    """
    wanted, unread = trees.named(like), record.large - arrays.keys()

    def leaf(i: int, name: str) -> Any:
        x = wanted[name]
        if 0 not in np.shape(x):
            return arrays[_number(i)]
        zeros = np.zeros if trees.is_host(x) else jnp.zeros
        return zeros(x.shape, x.dtype)

    found = {
        x.name: leaf(i, x.name)
        for i, x in enumerate(record.leaves)
        if _number(i) not in unread
    }
    return trees.filled(like, found)


def _numbered(leaves: list[Any]) -> dict[str, Any]:
    """Returns {number: leaf} without those of size 0, which orbax refuses."""
    return {_number(i): x for i, x in enumerate(leaves) if 0 not in np.shape(x)}


def _writer(raw: dict[str, Any]) -> str:
    """Returns the version that wrote a record; format 1 says it in the run's meta."""
    versions = raw["meta"].get("versions", {})
    return str(raw.get("writer") or versions.get("mtrl-jax") or "")


def _number(i: int) -> str:
    return f"{i:05d}"


def _version() -> str:
    try:
        return importlib.metadata.version("mtrl-jax")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
