"""What an agent can do: DeepMind Lab's 756 joint actions, and nine of them.

Native actions are six choices (``types.Factorised``): rotation 7 x pitch 3 x strafe 3 x
move 3 x fire 2 x jump 2 = 756. The count is the paper's, the split is ours. Choice 0 is
always "nothing". The same as one choice among 756 is the set "joint". ``SMALL`` embeds
nine actions one to one, as IMPALA used in DeepMind Lab: they turn by the middle speed
only, never look up or down and never jump.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from mtrl_jax import types
from mtrl_jax.types import Array

NATIVE = types.Factorised((7, 3, 3, 3, 2, 2))
JOINT = math.prod(NATIVE.sizes)

# Radians in a decision; right is positive.
TURNS = np.radians([0.0, -3.0, 3.0, -12.0, 12.0, -30.0, 30.0]).astype(np.float32)
LOOKS = np.radians([0.0, -4.0, 4.0]).astype(np.float32)
SIDES = np.asarray([0.0, -1.0, 1.0], np.float32)
MOVES = np.asarray([0.0, 1.0, -1.0], np.float32)

_LEFT, _RIGHT = 3, 4
# [9, 6]: the native choices of each small action.
SMALL = np.asarray(
    [
        [0, 0, 0, 1, 0, 0],  # forward
        [0, 0, 0, 2, 0, 0],  # backward
        [0, 0, 1, 0, 0, 0],  # strafe left
        [0, 0, 2, 0, 0, 0],  # strafe right
        [_LEFT, 0, 0, 0, 0, 0],  # look left
        [_RIGHT, 0, 0, 0, 0, 0],  # look right
        [_LEFT, 0, 0, 1, 0, 0],  # forward, look left
        [_RIGHT, 0, 0, 1, 0, 0],  # forward, look right
        [0, 0, 0, 0, 1, 0],  # fire
    ],
    np.int32,
)

SPACES: dict[str, types.ActionSpace] = {
    "native": NATIVE,
    "joint": types.Discrete(JOINT),
    "small": types.Discrete(len(SMALL)),
}

_STRIDES = [math.prod(NATIVE.sizes[g + 1 :]) for g in range(len(NATIVE.sizes))]
# Of each action set: the subsets that an action curriculum may begin with.
SETS: dict[str, dict[str, types.ActionSet]] = {
    "native": {"small": tuple(tuple(row) for row in SMALL.tolist())},
    "joint": {"small": tuple((int(row @ _STRIDES),) for row in SMALL)},
    "small": {},
}


class Command(NamedTuple):
    """What the agent's body is to do for one decision."""

    turn: Array  # radians
    look: Array  # radians
    side: Array  # -1 left, 1 right
    move: Array  # 1 forward, -1 backward
    fire: Array  # bool
    jump: Array  # bool


def native(action: Array, name: str) -> Array:
    """Returns the native choices int32 [..., 6] of an action of the set ``name``."""
    if name == "native":
        return action
    return jnp.asarray({"small": SMALL, "joint": all_native()}[name])[action]


def number(choices: Array) -> Array:
    """Returns the number int32 [...] in the set "joint" of native choices [..., 6]."""
    return choices @ jnp.asarray(_STRIDES, jnp.int32)


def command(choices: Array) -> Command:
    """Returns what native choices ``[6]`` mean."""
    rotation, pitch, strafe, move, fire, jump = choices
    return Command(
        jnp.asarray(TURNS)[rotation],
        jnp.asarray(LOOKS)[pitch],
        jnp.asarray(SIDES)[strafe],
        jnp.asarray(MOVES)[move],
        fire > 0,
        jump > 0,
    )


def all_native() -> np.ndarray:
    """Returns int32 [756, 6], every joint action in the order of its number."""
    grid = np.indices(NATIVE.sizes).reshape(len(NATIVE.sizes), -1)
    return grid.T.astype(np.int32)
