"""The registry of environments: ``family/name`` to something that can be made.

A new family is one file with ``names()`` and ``task(name, options)`` (names without the
prefix) and one line in ``ENVS``; the contract tests pick it up. A file outside the
package offers the same, and its module's name is the family's, see ``plugins``.
Nothing is imported before it is asked for: gymnax and envpool take seconds.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mtrl_jax import types

Options = Mapping[str, Any] | None


class Family(NamedTuple):
    """Environments of one origin, made by ``module``; names are without the prefix.

    A module offers ``names()`` and, of pure environments, ``task(name, options) ->
    core.PureTask`` and, of families of many tasks, ``tasks_of(name, options)`` -> params
    stacked [N, ...], None where options leave one task, and, where it is known,
    ``optimal_action_in(name, options)`` -> what ``optimal_action`` returns; any other
    ``make(name, batch, options, seed) -> Env`` and ``make_host(name, batch, options,
    seed, first_slot) -> HostEnv`` in the place of ``task``. Options do not have the
    ``wrappers``, which are put around what a module makes.
    """

    module: str
    is_own: bool = True  # of this package; of any other it is checked what it offers

    def names(self) -> list[str]:
        """Returns every name that ``make`` takes."""
        return list(self.load().names())

    def task(self, name: str, options: Options = None) -> Any:
        """Returns the core.PureTask, None of environments that are not pure."""
        from mtrl_jax.envs import foreign, wrappers

        own, wrapped = wrappers.split(options)
        module = self.load()
        if not hasattr(module, "task"):
            return None
        make = module.task if self.is_own else foreign.checked(module)
        return wrappers.apply(make(name, own), wrapped)

    def make(
        self, name: str, batch: tuple[int, int], options: Options = None, seed: int = 0
    ) -> types.Env:
        """Returns the environment as a batch ``(P, B)``; a pure one draws from keys."""
        from mtrl_jax.envs import core, wrappers

        module = self.load()
        if hasattr(module, "task"):
            return core.vectorise(self.task(name, options), batch)
        own, wrapped = wrappers.split(options)
        return wrappers.apply(module.make(name, batch, own, seed), wrapped)

    def make_host(
        self,
        name: str,
        batch: tuple[int, int],
        options: Options = None,
        seed: int = 0,
        first_slot: int = 0,
    ) -> types.HostEnv:
        """Returns it driven from Python; a pure one is stepped by a jitted call."""
        from mtrl_jax import random
        from mtrl_jax.envs import core, foreign, mixture, wrappers

        module = self.load()
        if not hasattr(module, "task"):
            own, wrapped = wrappers.split(options)
            env = module.make_host(name, batch, own, seed, first_slot)
            if not self.is_own:
                env = foreign.with_errors_named(f"env: {module.__name__}/{name}", env)
            return wrappers.apply(env, wrapped)
        key = random.at(random.roots(seed, batch[0]), 0, random.ENV)
        env = core.vectorise(self.task(name, options), batch, first_slot)
        return mixture.host_from_pure(env, key)

    def load(self) -> Any:
        """Returns the module, imported now."""
        if self.is_own:
            return importlib.import_module(self.module)
        from mtrl_jax import plugins
        from mtrl_jax.envs import foreign

        module = plugins.load("env", self.module, GROUP, ENVS)
        foreign.check(module)
        return module


ENVS: dict[str, Family] = {
    "probe": Family("mtrl_jax.envs.probes"),
    "gymnax": Family("mtrl_jax.envs.gymnax"),
    "envpool": Family("mtrl_jax.envs.envpool"),
    "labyrinth": Family("mtrl_jax.envs.labyrinth"),
    "dark": Family("mtrl_jax.envs.dark"),
    "bandit": Family("mtrl_jax.envs.bandits"),
}
# Of entry points that add to them.
GROUP = "mtrl_jax.envs"

MINATAR = ("Asterix", "Breakout", "Freeway", "SpaceInvaders")
# Every rule of Labyrinth, and of the fixed mazes a small, a middle and a large one.
LABYRINTH_12 = (
    "explore_object_locations_small",
    "explore_object_locations_large",
    "explore_goal_locations_small",
    "seekavoid_arena_01",
    "rooms_watermaze",
    "dark_key_to_door_3d",
    "lasertag_one_opponent_small",
    "lasertag_three_opponents_small",
    "rooms_keys_doors_puzzle",
    "nav_maze_static_01",
    "nav_maze_static_04",
    "nav_maze_static_07",
)


def names() -> list[str]:
    """Returns the full names of all environments, "family/name"."""
    return [f"{family}/{name}" for family in ENVS for name in ENVS[family].names()]


def make(
    name: str, batch: tuple[int, int], options: Options = None, seed: int = 0
) -> types.Env:
    """Returns the environment ``family/name`` as a batch ``(P, B)``.

    ``options`` are the environment's own, see its family; ``seed`` matters only where
    the environment does not draw from keys (envpool). Raises ValueError, with the
    nearest names, for an unknown family, name or option.
    """
    family, rest = _split(name)
    return family.make(rest, batch, options, seed)


def pure_task(name: str, options: Options = None) -> Any:
    """Returns ``family/name`` as a core.PureTask, None where it is not pure (envpool).

    Raises ValueError as ``make`` does.
    """
    family, rest = _split(name)
    return family.task(rest, options)


def tasks_of(name: str, options: Options = None) -> types.Tree:
    """Returns every task that ``family/name`` stands for, params stacked [N, ...].

    ``core.spread(pure_task(name, options), tasks, batch)`` gives each learner one of
    them. Raises ValueError as ``make`` does, and for a family of single tasks.
    """
    family, rest = _split(name)
    module = family.load()
    own = _own(options)
    found = module.tasks_of(rest, own) if hasattr(module, "tasks_of") else None
    if found is None:
        having = [key for key in ENVS if hasattr(ENVS[key].load(), "tasks_of")]
        raise ValueError(
            f"env: {name} is one task; families of many: {', '.join(having)}"
        )
    return found


def is_many(name: str, options: Options = None) -> bool:
    """Returns whether ``tasks_of`` has tasks to return. Raises ValueError as ``make``."""
    family, rest = _split(name)
    module = family.load()
    if not hasattr(module, "tasks_of"):
        return False
    return module.tasks_of(rest, _own(options)) is not None


def optimal_action(
    name: str, options: Options = None
) -> Callable[[types.Tree, types.Tree], types.Array]:
    """Returns what is best to do in the environments ``family/name`` with ``options``.

    A function of an episode's params and the task's own state (``params`` and ``inner``
    of an env state), leading axes [P, B], to actions [P, B]. Raises ValueError for those
    of which nobody knows.
    """
    family, rest = _split(name)
    module = family.load()
    if not hasattr(module, "optimal_action_in"):
        having = [key for key in ENVS if hasattr(ENVS[key].load(), "optimal_action_in")]
        raise ValueError(
            f"env: of {name} no optimal action is known; families of which it is: "
            f"{', '.join(having)}"
        )
    return module.optimal_action_in(rest, _own(options))


def make_host(
    name: str,
    batch: tuple[int, int],
    options: Options = None,
    seed: int = 0,
    first_slot: int = 0,
) -> types.HostEnv:
    """Returns the environment behind the host interface; arguments as for ``make``.

    Its slots are ``first_slot`` and the following: two of B/2 slots, the second from
    B/2 on, are the slots of one of B, which a host runner steps in turn.
    """
    family, rest = _split(name)
    return family.make_host(rest, batch, options, seed, first_slot)


def runs_on_host(name: str) -> bool:
    """Returns whether ``family/name`` is stepped by code outside the program (envpool).

    Such an environment has a ``make_host`` of its own; a pure one has a ``task`` and runs
    on whatever device the program does. Raises ValueError for an unknown family.
    """
    family, _ = _split(name)
    return not hasattr(family.load(), "task")


def describe(
    name: str, batch: tuple[int, int], options: Options = None, seed: int = 0
) -> dict[str, Any]:
    """Returns what to record of an environment beside its name, as plain values.

    The options as given and, where the family has more to say (envpool: its version,
    resolved options and every seed), what it says.
    """
    family, rest = _split(name)
    module = family.load()
    record = {"options": dict(options or {})}
    if hasattr(module, "describe"):
        record |= module.describe(rest, batch, _own(options), seed)
    return record


def suite(name: str) -> list[str]:
    """Returns the environments of a suite: atari57, minatar, mt10, ... (see suites).

    Raises ValueError for an unknown suite.
    """
    from mtrl_jax import errors

    known = suites()
    errors.check("suite", name, known)
    return list(known[name])


def suites() -> dict[str, tuple[str, ...]]:
    """Returns all suites: name to environment names."""
    from mtrl_jax.envs import envpool_scores

    return {
        "labyrinth12": tuple(f"labyrinth/{level}" for level in LABYRINTH_12),
        "minatar": tuple(f"gymnax/{game}-MinAtar" for game in MINATAR),
        "mt10": envpool_scores.SUITES["metaworld_mt10"],
        **envpool_scores.SUITES,
    }


def is_named(name: str) -> bool:
    """Returns whether ``name`` begins with a family: of ENVS, an entry point, a file's."""
    from mtrl_jax import plugins

    family, slash, rest = name.partition("/")
    if not slash:
        return False
    return "@" in rest or family in ENVS or family in plugins.entry_points(GROUP)


def _split(name: str) -> tuple[Family, str]:
    """Returns (family, the name in it); FAMILY/NAME@FOLDER is a file's."""
    head, at, folder = name.partition("@")
    family, slash, rest = head.partition("/")
    if not slash:
        if at or is_named(f"{family}/"):
            raise ValueError(
                f"env: {family!r} is a family of environments, give {family}/NAME"
            )
        raise ValueError(f"env: {name!r} has no family, give FAMILY/{name}")
    if family in ENVS and not at:
        return ENVS[family], rest
    return Family(f"{family}{at}{folder}", is_own=False), rest


def _own(options: Options) -> dict[str, Any]:
    """Returns the options that are the environment's own."""
    from mtrl_jax.envs import wrappers

    return wrappers.split(options)[0]
