"""Where the leaves of a run live when there is more than one device.

Members are independent between PBT rounds, so the population axis is split first; what
devices remain split the slots of each member. ``jit`` derives everything else.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mtrl_jax.tree import MEMBER_AXIS, SLOT_AXIS
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
    return Mesh(
        grid, (MEMBER_AXIS, SLOT_AXIS), axis_types=(AxisType.Auto, AxisType.Auto)
    )


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
            return NamedSharding(mesh, PartitionSpec(MEMBER_AXIS, SLOT_AXIS))
        return NamedSharding(mesh, PartitionSpec(MEMBER_AXIS))

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


def on_devices(trees: Any, mesh: Mesh, members: int) -> Any:
    """Returns the trees with leaves that start with P split over the mesh's members."""
    return jax.device_put(trees, shardings(trees, mesh, members))


def devices(members: int, pure: bool, meet: bool = False) -> list[jax.Device]:
    """Returns the devices a run is split over.

    All there are; of CPU devices (cores) as many as the members divide into, 5 of 16 for
    5 members, because splitting the slots of one member costs more than it gains; one
    where the environments are not in the program, and one CPU device where the members
    ``meet`` at every step, as a task's environments lie on every device.
    Measured on 2 cores (CartPole and Acrobot, 16 slots, a member each): one device takes
    a twenty-fifth of the time of two.
    """
    found = jax.devices()
    if not pure or (meet and jax.default_backend() == "cpu"):
        return found[:1]
    if jax.default_backend() == "cpu":
        return found[: max(d for d in range(1, len(found) + 1) if members % d == 0)]
    return found


def known(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """Returns the context in which ``tree.shard`` and ``tree.apart`` know the devices."""
    if mesh is None or mesh.size == 1:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def members_at_once(mesh: Mesh) -> int | None:
    """Returns how many members a device updates together where the config is silent.

    All of them, except where one CPU device has all: one after the other. Measured on 2
    cores (benchmarks/peers.py): one device, PPO on 16 members is 1.1 to 1.4 times as fast
    one by one; split over two devices it is 1.2 to 1.3 times as fast together.
    """
    alone = mesh.size == 1 and jax.default_backend() == "cpu"
    return 1 if alone else None


def making_layout(
    init: Callable, mesh: Mesh, members: int, *arguments: Any
) -> Callable:
    """Returns ``init`` jitted so that each leaf of its RunState is made where it belongs.

    No device ever holds more than its share. ``arguments`` are those of the call.
    """
    shapes = jax.eval_shape(init, *arguments)
    layout = run_state_shardings(shapes, mesh, members)
    return jax.jit(init, out_shardings=layout)


def keeping_layout(chunk: Callable) -> Callable:
    """Returns ``chunk`` jitted so that its result lies on the devices its input did.

    ``chunk(state, hp, *more)``; the state is donated. Without fixed layouts the second
    call could see others than the first and be compiled again.
    """
    compiled: list[Callable] = []

    def run(state, hp, *more):
        if not compiled:
            layout = jax.tree.map(lambda x: x.sharding, state)
            compiled.append(
                jax.jit(chunk, donate_argnums=0, out_shardings=(layout, None))
            )
        return compiled[0](state, hp, *more)

    return run
