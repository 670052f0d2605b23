"""Where the leaves of a run live when there is more than one device.

Members are independent between PBT rounds, so the population axis is split first; what
devices remain split the slots of each member. ``jit`` derives everything else.
"""

from __future__ import annotations

import math

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mtrl_jax.tree import SLOT_AXIS
from mtrl_jax.types import Tree


def make_mesh(population: int, slots: int, devices: list | None = None) -> Mesh:
    """Returns a mesh with axes ``pop`` and ``slot`` that divides P, then B.

    ``pop`` is the largest divisor of P that divides the number of devices, ``slot`` the
    largest divisor of B that divides what is left; devices beyond that stay idle.
    """
    devices = jax.devices() if devices is None else devices
    pop = math.gcd(population, len(devices))
    slot = math.gcd(slots, len(devices) // pop)
    grid = np.asarray(devices[: pop * slot]).reshape(pop, slot)
    return Mesh(grid, ("pop", SLOT_AXIS), axis_types=(AxisType.Auto, AxisType.Auto))


def shardings(tree: Tree, mesh: Mesh, population: int, slots: bool = False) -> Tree:
    """Returns a NamedSharding for every leaf (an array or its ShapeDtypeStruct).

    A leaf that starts with P is split over ``pop``; with ``slots`` its second axis is
    split over ``slot`` where that divides it. Everything else is replicated.
    """

    def of(leaf) -> NamedSharding:
        shape = leaf.shape
        if not shape or shape[0] != population:
            return NamedSharding(mesh, PartitionSpec())
        if slots and len(shape) > 1 and shape[1] % mesh.shape[SLOT_AXIS] == 0:
            return NamedSharding(mesh, PartitionSpec("pop", SLOT_AXIS))
        return NamedSharding(mesh, PartitionSpec("pop"))

    return jax.tree.map(of, tree)


def run_state_shardings(state: Tree, mesh: Mesh, population: int) -> Tree:
    """Returns shardings of a RunState: the rest over both axes, but over ``pop`` alone
    the learners, memories (where there are any) and keys.
    """
    both = shardings(state, mesh, population, slots=True)
    own = {
        name: shardings(getattr(state, name), mesh, population)
        for name in ("learner", "memory", "key")
        if name in state._fields
    }
    return both._replace(**own)
