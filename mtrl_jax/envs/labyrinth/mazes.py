"""Maps: a random spanning tree of rooms, some loops, and walls around them.

The tree is that of Kruskal's algorithm on edges in random order, so a minimum spanning
tree; it is found in Boruvka's rounds, in which every group of rooms takes the first
edge that leaves it. Rooms of one cell make a maze of corridors; larger ones are rooms
with gaps between them; one room is an arena. A few rounds over whole arrays cost the
same for every map, which a walk through it does not.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.envs.labyrinth import draws, world
from mtrl_jax.types import Array

_N = world.ROOMS
_ROOMS = _N * _N
EDGES = 2 * _ROOMS
# Where ``passages`` finds its words, see ``draws``.
PATHS: tuple[draws.Path, ...] = ((0, 1), (1,))
_ROUNDS = 7  # groups at least halve each time, and 2^7 > 100 rooms
_ROOM = np.arange(_ROOMS).reshape(_N, _N)
# Edge e joins rooms _FROM[e] and _TO[e]: first all to the right, then all down. Those
# over the border wrap around and never exist.
_FROM = np.concatenate([_ROOM.ravel(), _ROOM.ravel()])
_TO = np.concatenate([np.roll(_ROOM, -1, 1).ravel(), np.roll(_ROOM, -1, 0).ravel()])


class Passages(NamedTuple):
    """Open edges of the grid of rooms, bool [ROOMS, ROOMS] each; room (i, j)."""

    right: Array  # to (i, j + 1)
    down: Array  # to (i + 1, j)


def passages(words: Array, rooms: Array, loops: Array) -> tuple[Passages, Passages]:
    """Returns (tree, tree with loops) over ``rooms`` x ``rooms`` rooms.

    ``words`` are random, uint32 [2, N] of PATHS, of which the first EDGES are read: the
    order in which edges are tried, and which are open beside the tree, with the chance
    ``loops`` in [0, 1].
    """
    inside, near = jnp.arange(_N) < rooms, jnp.arange(_N) + 1 < rooms
    exists = jnp.stack([near[None] & inside[:, None], near[:, None] & inside[None]])
    of_order, of_loops = words[0, :EDGES], words[1, :EDGES]
    _, order = jax.lax.sort_key_val(of_order, jnp.arange(EDGES))
    tree = _spanning_tree(order, exists.ravel()).reshape(exists.shape)
    extra = exists & (draws.uniform(of_loops).reshape(exists.shape) < loops)
    return Passages(*tree), Passages(*(tree | extra))


def build(open_: Passages, rooms: Array, pitch: Array, round_: Array) -> Array:
    """Returns the map bool [SIZE, SIZE], True where solid.

    Room (i, j) is pitch - 1 cells wide; a passage to its neighbour is one cell in the
    middle. With ``round_`` cells outside the largest circle are solid.
    """
    line = jnp.arange(world.SIZE)
    size = rooms * pitch + 1
    inner = (line > 0) & (line < size - 1)
    wall, middle = line % pitch == 0, line % pitch == (pitch + 1) // 2 % pitch
    # A cell of an inner wall line belongs to the passage from the room before it.
    room = jnp.clip(line // pitch, 0, _N - 1)
    before = jnp.clip(line // pitch - 1, 0, _N - 1)
    to_right = wall[None] & middle[:, None] & open_.right[room[:, None], before[None]]
    to_below = wall[:, None] & middle[None] & open_.down[before[:, None], room[None]]
    free = (~wall[None] & ~wall[:, None]) | to_right | to_below
    from_middle = jnp.square(line + 0.5 - size / 2)
    within = from_middle[None] + from_middle[:, None] < jnp.square(size / 2 - 1)
    return ~(free & inner[None] & inner[:, None] & (within | ~round_))


def distances(passages_: Passages, start: Array) -> Array:
    """Returns int32 [ROOMS, ROOMS]: passages on the way from room ``start``, a number.

    _ROOMS where there is no way.
    """
    exists = jnp.concatenate([x.ravel() for x in passages_])
    far = jnp.full(_ROOMS, _ROOMS).at[start].set(0)

    def relax(carry):
        old, _ = carry
        new = old.at[_TO].min(jnp.where(exists, old[_FROM] + 1, _ROOMS))
        new = new.at[_FROM].min(jnp.where(exists, new[_TO] + 1, _ROOMS))
        return new, jnp.any(new != old)

    found, _ = jax.lax.while_loop(lambda c: c[1], relax, (far, jnp.bool_(True)))
    return found.reshape(_N, _N)


def _spanning_tree(order: Array, exists: Array) -> Array:
    """Returns bool [EDGES], the first edges in ``order`` that close no circle."""
    rank = jnp.zeros(EDGES, jnp.int32).at[order].set(jnp.arange(EDGES))
    none = jnp.int32(EDGES)

    def grow(_, carry):
        group, tree = carry
        leaves = exists & (group[_FROM] != group[_TO])
        weight = jnp.where(leaves, rank, none)
        best = jnp.full(_ROOMS, none).at[group[_FROM]].min(weight)
        best = best.at[group[_TO]].min(weight)
        joins = best < none
        edge = order[jnp.minimum(best, EDGES - 1)]
        tree = tree.at[jnp.where(joins, edge, EDGES)].set(True, mode="drop")
        me = jnp.arange(_ROOMS)
        other = group[jnp.asarray(_FROM)[edge]] + group[jnp.asarray(_TO)[edge]] - me
        parent = jnp.where(joins, other, me)
        # Two groups that chose each other: one of them stays, and all follow it.
        parent = jnp.where((parent[parent] == me) & (me < parent), me, parent)
        parent = jax.lax.fori_loop(0, _ROUNDS, lambda _, up: up[up], parent)
        return parent[group], tree

    start = jnp.arange(_ROOMS), jnp.zeros(EDGES, bool)
    return jax.lax.fori_loop(0, _ROUNDS, grow, start)[1]
