"""Where every random key of a run comes from.

A run has one constant root key per population member. A key is used for one purpose at
one moment: ``at(root, counter, TAG)``. Nothing is carried from step to step, so nothing
has to be restored, and evaluating or logging more often cannot change training.
"""

from __future__ import annotations

import functools

import jax

from mtrl_jax.types import Array, Key

# One number per purpose. Numbers are part of the saved runs' meaning: never reuse one.
INIT = 0
ENV = 1
ACT = 2
UPDATE = 3
EVALUATE = 4
PBT = 5
SEARCH = 6
# 7 was of curricula, which draw nothing.
DATA = 8
PROMPT = 9
REPLAY = 10


def roots(seed: int, population: int) -> Key:
    """Returns ``[P]`` distinct root keys; member p's key does not depend on P."""
    return fold(jax.random.key(seed), jax.numpy.arange(population))


def at(key: Key, counter: Array | int, tag: int) -> Key:
    """Returns fold_in(fold_in(key, counter), tag) for one key or an array of keys."""
    return fold(fold(key, counter), tag)


# Outside of a program one program, not five.
@functools.partial(jax.jit, inline=True)
def fold(key: Key, data: Array | int) -> Key:
    """Returns ``fold_in`` broadcast over leading axes of ``key`` and ``data``."""
    return jax.numpy.vectorize(jax.random.fold_in)(key, data)
