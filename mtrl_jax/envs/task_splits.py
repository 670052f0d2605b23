"""Families of many small tasks: which of them are for training, and who gets which.

Algorithm Distillation and its kin learn from hundreds of tasks of one program and are
judged on others. A family numbers its tasks 0 to n-1; here they are shuffled once, by a
hash that no version of a library changes, cut in two, and dealt to episodes or slots.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import errors
from mtrl_jax.types import Key, Tree

HOW = ("episode", "slot")
SPLITS = ("all", "train", "test")


class Split(NamedTuple):
    """Some of a family's tasks; the fields are the options of the same names."""

    tasks: str = "all"  # or "train" or "test", which have none in common
    train_fraction: float = 0.8
    split_seed: int = 0  # of the shuffle
    number: int | None = None  # only the first so many


def split_of(options: Mapping[str, Any]) -> Split:
    """Returns the Split that ``options`` give; other options are left alone.

    Raises ValueError for an unknown split, a fraction outside of (0, 1), a seed or a
    number that is no positive integer.
    """
    split = Split(**{k: options[k] for k in Split._fields if k in options})
    errors.check("options.tasks", split.tasks, SPLITS)
    errors.integer("options.split_seed", split.split_seed, 0, 2**32 - 1)
    if split.number is not None:
        errors.integer("options.number", split.number, 1, 2**31 - 1)
    fraction = split.train_fraction
    if not isinstance(fraction, float) or not 0.0 < fraction < 1.0:
        raise ValueError(
            f"options.train_fraction: got {fraction!r}, give a number between 0 and 1"
        )
    return split


@functools.cache
def indices(split: Split, n: int, same: tuple[int, ...] | None = None) -> np.ndarray:
    """Returns the split's tasks, int32 [M], among 0 to n-1: shuffled, none twice.

    Train tasks are the first round(train_fraction n) of the shuffled list, test tasks
    the others. ``number`` takes the first of those, so a smaller number is a subset of
    a larger one. Raises ValueError where the split has none or not so many.

    Where tasks may be equal, ``same`` [n] has one number for those that are: they count
    as one, where the first of them stands, and fall on one side.
    """
    order = sorted(range(n), key=lambda i: _hash(split.split_seed, i))
    what = range(n) if same is None else same
    different = list(dict.fromkeys(what[i] for i in order))
    trained = set(different[: round(split.train_fraction * len(different))])
    chosen = [
        i
        for i in order
        if split.tasks == "all" or (what[i] in trained) == (split.tasks == "train")
    ]
    if not chosen:
        raise ValueError(
            f"options.train_fraction={split.train_fraction}: of {n} tasks none is left "
            f"for tasks={split.tasks!r}"
        )
    if split.number is not None and split.number > len(chosen):
        raise ValueError(
            f"options.number: got {split.number}, tasks={split.tasks!r} has {len(chosen)}"
        )
    found = np.asarray(chosen[: split.number], np.int32)
    # Cached and handed to many.
    found.flags.writeable = False
    return found


def how_of(options: Mapping[str, Any]) -> str:
    """Returns option ``task``: a new one each "episode" (default), or one for a "slot".

    Raises ValueError for anything else.
    """
    how = options.get("task", "episode")
    errors.check("options.task", how, HOW)
    return how


def by(how: str, draw: Callable[[Key], Tree]) -> Callable[[Key, Key, Tree], Tree]:
    """Returns a PureTask's ``deal``: ``draw(key)`` with the key of a slot or episode."""

    def deal(slot_key, episode_key, params):
        return draw(slot_key if how == "slot" else episode_key)

    return deal


def one_of(tasks: Tree) -> Callable[[Key], Tree]:
    """Returns ``draw(key)``: one of the tasks stacked ``[N, ...]``, all as likely."""
    number = len(jax.tree.leaves(tasks)[0])

    def draw(key):
        index = jax.random.randint(key, (), 0, number)
        return jax.tree.map(lambda x: jnp.asarray(x)[index], tasks)

    return draw


def _hash(seed: int, i: int) -> bytes:
    return hashlib.sha256(f"{seed}/{i}".encode()).digest()
