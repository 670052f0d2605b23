"""What agents from outside the package must do, found out by tracing them once.

Own ones have tests for it; their outputs are looked at here as well, which costs nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtrl_jax import agents, errors, plugins, types
from mtrl_jax.envs import signatures
from mtrl_jax.types import Array, Tree

_FUNCTIONS = {
    "init": ("key", "hp"),
    "carry": ("batch",),
    "act": ("learner", "carry", "ts", "key", "hp"),
    "update": ("learner", "batch", "key", "hp", "step"),
}


@contextlib.contextmanager
def errors_named(name: str, config: Any) -> Iterator[None]:
    """Turn what an agent's file raises into a ConfigError of one line that says where.

    But for the ValueErrors that begin with a field of its ``config``, which name what
    is wrong themselves, and those of the package's own agents.
    """
    try:
        yield
    except errors.MtrlError:
        raise
    except plugins.CAUGHT as error:
        is_own = name in agents.AGENTS
        names_a_field = isinstance(error, ValueError) and errors.names_field(
            str(error), config
        )
        if is_own or names_a_field:
            raise
        raise errors.ConfigError(
            f"agent.name={name!r}: {plugins.reason(error)}"
        ) from error


def check_made(agent: Any) -> None:
    """Raises ConfigError unless ``make`` returned an Agent whose functions can be called."""
    if not isinstance(agent, types.Agent):
        raise ValueError(f"make returned a {type(agent).__name__}, give a types.Agent")
    for name, arguments in _FUNCTIONS.items():
        signatures.check(name, getattr(agent, name), arguments)


def checked(agent: types.Agent, where: str, action: types.ActionSpace) -> types.Agent:
    """Returns the agent, to be traced, whose act and update look at what they return.

    They raise ConfigError, beginning with ``where``, unless that is as types.Agent says:
    actions are of the space, a carry and a learner stay of the types that they began
    with, metrics are numbers by their names.
    """

    def act(
        learner: Tree, carry: Tree, ts: types.TimeStep, key: types.Key, hp: Tree
    ) -> tuple[Array, Tree, Tree]:
        found = agent.act(learner, carry, ts, key, hp)
        _check_number(where, "act", found, ("action", "carry", "extras"))
        one = types.action_shape(action)
        wanted = jax.ShapeDtypeStruct((*ts.reward.shape, *one.shape), one.dtype)
        if _kind(found[0]) != _kind(wanted):
            raise errors.ConfigError(
                f"{where}: act's action is {_kind(found[0])}, give {_kind(wanted)}"
            )
        _check_kept(f"{where}: act's carry", found[1], carry, "agent.carry made")
        return found

    def update(
        learner: Tree, batch: Tree, key: types.Key, hp: Tree, step: Array
    ) -> tuple[Tree, dict[str, Array], Tree]:
        found = agent.update(learner, batch, key, hp, step)
        _check_number(where, "update", found, ("learner", "metrics", "feedback"))
        _check_kept(f"{where}: update's learner", found[0], learner, "init made")
        _check_metrics(where, found[1])
        return found

    return agent._replace(act=act, update=update)


def _check_number(where: str, name: str, found: Any, parts: Sequence[str]) -> None:
    if isinstance(found, tuple) and len(found) == len(parts):
        return
    what = f"{len(found)} values" if isinstance(found, tuple) else "one value"
    raise errors.ConfigError(
        f"{where}: {name} returned {what}, give {len(parts)}: {', '.join(parts)}"
    )


def _check_kept(what: str, found: Tree, given: Tree, made: str) -> None:
    """Raises ConfigError unless two trees have the same leaves of the same types."""
    structure: Any = jax.tree.structure(found)
    if structure != jax.tree.structure(given):
        paths = [{key: 0 for key, _ in _leaves(tree)} for tree in (found, given)]
        new, gone = (
            next((key for key in one if key not in other), "nothing")
            for one, other in (paths, reversed(paths))
        )
        raise errors.ConfigError(
            f"{what} is another tree than {made}: it has {new} for {gone}; keep the tree"
        )
    for (key, x), y in zip(_leaves(given), jax.tree.leaves(found)):
        if _kind(x) != _kind(y):
            raise errors.ConfigError(
                f"{what}{key} is {_kind(y)}, {made} {_kind(x)}; keep shape and dtype"
            )


def _check_metrics(where: str, metrics: Any) -> None:
    if not isinstance(metrics, Mapping):
        raise errors.ConfigError(
            f"{where}: update's metrics are a {type(metrics).__name__}, give a dict of "
            "numbers by their names"
        )
    for name, value in metrics.items():
        if jnp.shape(value) != ():
            raise errors.ConfigError(
                f"{where}: update's metric {name!r} is {_kind(value)}, give one number"
            )


def _leaves(tree: Tree) -> list[tuple[str, Any]]:
    """Returns (path, leaf) of every leaf, the path as Python writes it."""
    named = jax.tree.leaves_with_path(tree)
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in named]


def _kind(x: Any) -> str:
    """Returns dtype and shape of a leaf in short, such as float32[2, 3]."""
    if not hasattr(x, "dtype"):
        x = jnp.asarray(x)
    dtype = (
        x.dtype
        if jnp.issubdtype(x.dtype, jax.dtypes.extended)
        else jnp.asarray(0, x.dtype).dtype
    )
    return f"{dtype}[{', '.join(map(str, x.shape))}]"
