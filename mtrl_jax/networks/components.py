"""Several actor-critics for the same task that share parts of theirs.

    features = torso_i(obs, side)     h, state = core_i(features, state)
    policy = policy_i(h)              value = value_i(h)

for each component i of an ordered list. A module that is shared is one set of parameters
with one name ("torso"), otherwise there is one a component ("torso_0", "torso_1"); a
separate value shares its torso and core ("value_torso") as the policy does. What is the
same for two components is computed once. Every memory advances on every step, whether or
not its component has a say.

A component may be limited to a subset of the actions; with a shared policy head it is
then the head of all actions, restricted to the subset and renormalised ("Shared Head").

Ref: Czarnecki et al. 2018 (arXiv:1806.01780), section 3 and the three set-ups of 4.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import errors, types
from mtrl_jax.networks import (
    cores,
    heads,
    network_config,
    network_module,
    sequence_conv,
    subsets,
    torsos,
)
from mtrl_jax.networks.network_config import NetworkConfig
from mtrl_jax.networks.network_module import PolicyValue
from mtrl_jax.types import Array, Key, Tree

MODULES = ("torso", "core", "policy", "value")


@dataclasses.dataclass(frozen=True)
class Component:
    """What one policy has otherwise than the network in common; None: nothing.

    ``actions`` is "all", a name in ``EnvSpec.action_sets``, or the joint actions.
    """

    torso: str | None = None
    hidden: tuple[int, ...] | None = None
    core: str | None = None
    core_size: int | None = None
    actions: str | types.ActionSet = "all"


class Part(NamedTuple):
    """A component, resolved."""

    net: network_module.Net
    rows: np.ndarray | None  # [n, G] of a subset of the actions


class Networks(NamedTuple):
    """K actor-critics as pure functions; see ``actor_critic.Network``.

    ``initial_state(batch)`` returns {stream: memory}.
    ``unroll(params, state, ts, prev_action)`` returns (PolicyValue of each, state).
    ``policies(outputs, action_mask, temperature=1.0)`` returns a ``heads.Policy`` over
    the whole action space for each component.
    ``possible(action_mask)`` returns bool [..., K]: which has any legal action. One
    without a subset always has (a group that is masked altogether has its choice 0).
    """

    init: Callable[[Key], Tree]
    initial_state: Callable[[int], Tree]
    unroll: Callable[..., tuple[tuple[PolicyValue, ...], Tree]]
    policies: Callable[..., list]
    possible: Callable[[Array], Array]
    parts: tuple[Part, ...]


def make(
    spec: types.EnvSpec,
    config: NetworkConfig,
    components: Sequence[Component],
    share: Sequence[str],
    *,
    num_values: int | None = None,
) -> Networks:
    """Returns the networks of ``components`` for environments of ``spec``.

    ``share`` lists the MODULES that are one for all. Raises ValueError for an unknown
    module or action set, modules that cannot be shared because the components' settings
    differ, and whatever ``actor_critic.make`` refuses.
    """
    network_config.check_single(config)
    parts = plan(spec, config, components, share)
    nets = tuple(part.net for part in parts)
    module = network_module.ActorCritics(nets, spec.action, len(spec.tasks), num_values)

    def init(key):
        inputs = (initial_state(1), *network_module.dummy(spec))
        try:
            return module.init(key, *inputs)["params"]
        except flax.errors.ScopeParamShapeError as error:
            raise ValueError(
                f"share: components with features of different sizes cannot share "
                f"what comes after: {str(error).split('(')[0]}"
            ) from None

    def initial_state(batch):
        return network_module.initial_state(nets, batch)

    def unroll(params, state, ts, prev_action):
        return module.apply({"params": params}, state, ts, prev_action)

    def policies(outputs, action_mask, temperature=1.0):
        return [
            _policy(spec.action, part, out.policy, action_mask, temperature)
            for part, out in zip(parts, outputs)
        ]

    def possible(action_mask):
        some = jnp.ones(action_mask.shape[:-1], bool)
        return jnp.stack(
            [
                some
                if part.rows is None
                else jnp.any(subsets.legal(spec.action, part.rows, action_mask), -1)
                for part in parts
            ],
            axis=-1,
        )

    return Networks(init, initial_state, unroll, policies, possible, parts)


def plan(
    spec: types.EnvSpec,
    config: NetworkConfig,
    components: Sequence[Component],
    share: Sequence[str],
) -> tuple[Part, ...]:
    """Returns the parts of ``components``, checked; errors as for ``make``."""
    for module in share:
        if module not in MODULES:
            raise ValueError(
                f"share: {module!r} is not known, use some of {', '.join(MODULES)}"
            )
    if not components:
        raise ValueError("components: none given, give at least one")
    sequence_conv.check(config.sequence, spec.obs)
    parts = []
    for i, component in enumerate(components):
        own = _resolved(config, components, component)
        given = {k: x for k, x in vars(component).items() if x is not None}
        with errors.part("network", config), errors.part(f"components.{i}", given):
            network_config.check(own)
            own = torsos.resolved(own, spec.obs)
        names = {p: p if p in share else f"{p}_{i}" for p in MODULES}
        rows = _rows(spec, component.actions, i)
        # A shared policy head is that of all actions, see _policy.
        space = spec.action
        if rows is not None and "policy" not in share:
            space = types.Discrete(len(rows))
        parts.append(Part(network_module.net_of(own, space, **names), rows))
    _check_shared(parts, share)
    return tuple(parts)


def _resolved(
    config: NetworkConfig, components: Sequence[Component], component: Component
) -> NetworkConfig:
    """Returns the settings of one of the components.

    Those of a core or memory are not for a component without one, where another has it.
    """
    own: dict[str, Any] = {
        name: getattr(component, name)
        for name in ("torso", "hidden", "core", "core_size")
        if getattr(component, name) is not None
    }
    kinds = {x.core or config.core for x in components}
    kind = component.core or config.core
    if any(map(cores.has_memory, kinds)) and not cores.has_memory(kind):
        own["core_memory"] = 0
    if kind == "none" and kinds != {"none"}:
        own["skip"] = False
    return dataclasses.replace(config, **own)


def _policy(space, part, params, action_mask, temperature):
    """Returns the component's policy over the whole space."""
    if part.rows is None:
        return heads.policy(space, params, action_mask, temperature)
    legal = subsets.legal(space, part.rows, action_mask)
    if part.net.policy == "policy":  # of all actions, cut down to the rows
        whole = heads.policy(space, params, action_mask)
        params = whole.log_prob_of(part.rows)
    choice = heads.policy(types.Discrete(len(part.rows)), params, legal, temperature)
    return subsets.Embedded(choice, space, part.rows)  # type: ignore[arg-type]


def _rows(spec: types.EnvSpec, chosen: Any, i: int) -> np.ndarray | None:
    """Returns the table of a component's actions; None for all of them."""
    if chosen == "all":
        return None
    if isinstance(chosen, str):
        if chosen not in spec.action_sets:
            known = ", ".join(["all", *spec.action_sets])
            raise ValueError(
                f"components.{i}.actions: {chosen!r} is not known here, use one of "
                f"{known}, or a list of joint actions"
            )
        chosen = spec.action_sets[chosen]
    try:
        return subsets.table(spec.action, chosen)
    except ValueError as error:
        raise ValueError(f"components.{i}.{error}") from None


def _check_shared(parts: Sequence[Part], share: Sequence[str]) -> None:
    """Raises ValueError unless components agree in the modules they are to share."""
    settings = {"torso": ("torso", "hidden"), "core": ("core", "core_size")}
    for module in share:
        for field in settings.get(module, ()):
            found = {getattr(part.net.config, field) for part in parts}
            if len(found) > 1:
                raise ValueError(
                    f"share: {module!r} is shared, but the components' {field} differ: "
                    f"{sorted(map(str, found))}; leave one of them out"
                )
