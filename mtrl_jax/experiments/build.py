"""The one way from a config to a Program, whatever kind of run it is.

A kind of run (``online``, ``collect``, ``offline``, ``in_context``) says what its agent, runner
and reports are; where members lie, what they begin with and how functions are compiled is
the same for all and decided here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from mtrl_jax import errors, hparams, random, types
from mtrl_jax.config import agent_settings
from mtrl_jax.engine import pbt, sharding
from mtrl_jax.experiments import agent_checks
from mtrl_jax.training.program import Program
from mtrl_jax.types import Tree


class Placement(NamedTuple):
    """Where the members of a run lie and how many are updated together."""

    keys: types.Key  # [P] roots
    mesh: sharding.Mesh
    at_once: int | None


def placement(
    config: Any, slots: int, pure: bool = True, meet: bool = False
) -> Placement:
    """Returns where the members of ``config`` lie; ``slots`` are one member's.

    They ``meet`` where their environments are not each member's own.
    """
    members = config.population.size
    mesh = sharding.make_mesh(members, slots, sharding.devices(members, pure, meet))
    at_once = config.population.at_once or sharding.members_at_once(mesh)
    return Placement(random.roots(config.seed, members), mesh, at_once)


def make_agent(config: Any, spec: types.EnvSpec) -> types.Agent:
    """Returns the configured agent for environments of ``spec``.

    Raises:
      ConfigError: it refuses the spec or its settings, or is none.
    """
    own = agent_settings.config(config)
    module, name = agent_settings.module(config), config.agent.name
    with errors.at("agent.config", own), agent_checks.errors_named(name, own):
        agent = module.make(spec, own)
    with errors.at(f"agent.name={name!r}"):
        agent_checks.check_made(agent)
    return agent


def initial_hparams(config: Any, keys: types.Key) -> Tree:
    """Returns the members' hyperparameters ``[P]``: drawn where there is a range."""
    with errors.at("population.search"):
        return pbt.sample_initial(
            random.at(keys, 0, random.SEARCH),
            agent_settings.hparams(config),
            config.population.search,
        )


def with_evaluation_hparams(config: Any, hp: Tree) -> Tree:
    """Returns the hyperparameters ``[P]`` as ``evaluation.hparams`` changes them."""
    return hparams.override(hp, config.evaluation.hparams)


def assemble(
    config: Any,
    place: Placement,
    *,
    init: Callable[[types.Key, Tree], Any],
    chunk: Callable,
    hp: Tree | None = None,
    pure: bool = True,
    compiled: bool = True,
    **more: Any,
) -> Program:
    """Returns the Program of a runner's ``init(keys, hp)`` and ``chunk(state, hp)``.

    ``hp`` are the members' hyperparameters, drawn from the config where None. A state
    that is not ``pure`` lies where its environments put it; functions that drive
    environments from Python are not ``compiled``. ``more`` are Program's other fields.
    """
    members = config.population.size
    hp = initial_hparams(config, place.keys) if hp is None else hp
    hp, lineage = sharding.on_devices((hp, pbt.init(members)), place.mesh, members)

    def placed(hp: Tree) -> Any:
        if not pure:
            return init(place.keys, hp)
        arguments = place.keys, hp
        return sharding.making_layout(init, place.mesh, members, *arguments)(*arguments)

    def shapes(hp: Tree) -> Any:
        state = jax.eval_shape(init, place.keys, hp)
        layout = sharding.run_state_shardings(state, place.mesh, members)
        return jax.tree.map(lambda x, at: x.update(sharding=at), state, layout)

    return Program(
        hparams=hp,
        lineage=lineage,
        init=placed,
        shapes=shapes if pure else None,
        chunk=sharding.keeping_layout(chunk) if compiled else chunk,
        pure=pure,
        **more,
    )
