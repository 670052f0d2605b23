"""Several actor-critics for the same task that share what they are told to share.

    features = torso_i(obs, side)     h, state = core_i(features, state)
    policy = policy_i(h)              value = value_i(h)

for each component i of an ordered list. A piece that is shared is one set of parameters
with one name ("torso"), otherwise there is one a component ("torso_0", "torso_1"). What
is the same for two components is computed once. Every memory advances on every step,
whether or not its component has a say.

A component may be limited to a subset of the actions; with a shared policy head it is
then the head of all actions, restricted to the subset and renormalised ("Shared Head").

Ref: Czarnecki et al. 2018 (arXiv:1806.01780), section 3 and the three set-ups of 4.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import numpy as np

from mtrl_jax import types
from mtrl_jax.networks import actor_critic, cores, heads, subsets, torsos
from mtrl_jax.networks.actor_critic import NetworkConfig, PolicyValue
from mtrl_jax.types import Array, Key, Tree

PIECES = ("torso", "core", "policy", "value")


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
    """A component, resolved: its settings and the names of its pieces."""

    config: NetworkConfig
    rows: np.ndarray | None  # [n, G] of a subset of the actions
    torso: str
    core: str
    policy: str
    value: str

    @property
    def stream(self) -> str:
        """The name of what it computes before the heads, and of its memory."""
        return f"{self.torso}/{self.core}"


class Networks(NamedTuple):
    """K actor-critics as pure functions; see ``actor_critic.Network``.

    ``initial_state(batch)`` returns {stream: memory}.
    ``unroll(params, state, ts, prev_action)`` returns (PolicyValue of each, state).
    ``policies(outputs, action_mask, temperature=1.0)`` returns a ``heads.Policy`` over
    the whole action space for each component.
    """

    init: Callable[[Key], Tree]
    initial_state: Callable[[int], Tree]
    unroll: Callable[..., tuple[tuple[PolicyValue, ...], Tree]]
    policies: Callable[..., list]
    parts: tuple[Part, ...]


def make(
    spec: types.EnvSpec,
    config: NetworkConfig,
    components: Sequence[Component],
    share: Sequence[str],
) -> Networks:
    """Returns the networks of ``components`` for environments of ``spec``.

    ``share`` lists the PIECES that are one for all. Raises ValueError for an unknown
    piece or action set, pieces that cannot be shared because the components' settings
    differ, and whatever ``actor_critic.make`` refuses.
    """
    parts = plan(spec, config, components, share)
    module = _Components(parts, spec.action, len(spec.tasks))

    def init(key):
        inputs = (initial_state(1), *actor_critic.dummy(spec))
        try:
            return module.init(key, *inputs)["params"]
        except flax.errors.ScopeParamShapeError as error:
            raise ValueError(
                f"share: components with features of different sizes cannot share "
                f"what comes after: {str(error).split('(')[0]}"
            ) from None

    def initial_state(batch):
        return {
            part.stream: cores.initial_state(
                part.config.core, part.config.core_size, batch
            )
            for part in parts
        }

    def unroll(params, state, ts, prev_action):
        return module.apply({"params": params}, state, ts, prev_action)

    def policies(outputs, action_mask, temperature=1.0):
        return [
            _policy(spec.action, part, out.policy, action_mask, temperature)
            for part, out in zip(parts, outputs)
        ]

    return Networks(init, initial_state, unroll, policies, parts)


def plan(
    spec: types.EnvSpec,
    config: NetworkConfig,
    components: Sequence[Component],
    share: Sequence[str],
) -> tuple[Part, ...]:
    """Returns the parts of ``components``, checked; errors as for ``make``."""
    for piece in share:
        if piece not in PIECES:
            raise ValueError(
                f"share: {piece!r} is not known, use some of {', '.join(PIECES)}"
            )
    for field in ("separate_value", "skip"):
        if getattr(config, field):
            raise ValueError(f"network.{field}: does not go with components")
    if not components:
        raise ValueError("components: none given, give at least one")
    parts = []
    # Of a memory's settings those without one take no notice, if there is one at all.
    remembers = any(cores.has_memory(x.core or config.core) for x in components)
    for i, component in enumerate(components):
        own: dict[str, Any] = {
            name: getattr(component, name)
            for name in ("torso", "hidden", "core", "core_size")
            if getattr(component, name) is not None
        }
        if remembers and not cores.has_memory(component.core or config.core):
            own["core_memory"] = 0
        resolved = dataclasses.replace(config, **own)
        actor_critic.check(resolved)
        resolved = dataclasses.replace(
            resolved, torso=torsos.choose(resolved.torso, spec.obs)
        )
        names = [p if p in share else f"{p}_{i}" for p in PIECES]
        rows = _rows(spec, component.actions, i)
        parts.append(Part(resolved, rows, *names))
    _check_shared(parts, share)
    return tuple(parts)


class _Components(nn.Module):
    """The networks as one flax module; see the top of the file."""

    parts: tuple[Part, ...]
    space: types.ActionSpace
    num_tasks: int

    @nn.compact
    def __call__(self, state: Tree, ts: types.TimeStep, prev_action: Array):
        common = self.parts[0].config
        side = actor_critic.side_inputs(
            common, self.space, self.num_tasks, ts, prev_action
        )
        nets: dict[str, Callable] = {}  # by name, so that a shared one is made once
        known: dict[str, Any] = {}  # what they gave, by the names that led to it
        outputs = []
        for part in self.parts:
            torso = _once(nets, part.torso, _torso, part)
            core = _once(nets, part.core, _core, part)
            policy = _once(nets, part.policy, _PolicyHead, self._space(part))
            value = _once(nets, part.value, _ValueHead)
            features = _once(known, part.torso, torso, ts.obs, side)
            inputs = (features, state[part.stream], ts.first)
            hidden, _ = _once(known, part.stream, core, *inputs)
            at = f"{part.stream}/"
            outputs.append(
                PolicyValue(
                    _once(known, at + part.policy, policy, hidden),
                    _once(known, at + part.value, value, hidden),
                )
            )
        return tuple(outputs), {name: known[name][1] for name in state}

    def _space(self, part: Part) -> types.ActionSpace:
        """Returns what the policy head decides on: a row of the subset, or an action."""
        if part.rows is None or _is_restricted(part):
            return self.space
        return types.Discrete(len(part.rows))


class _PolicyHead(nn.Module):
    """The policy's raw parameters; a Gaussian's deviations are in here too."""

    space: types.ActionSpace

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        return actor_critic.policy_head(self, self.space, hidden)


class _ValueHead(nn.Module):
    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        return actor_critic.value_head(hidden)


def _torso(part: Part, name: str) -> nn.Module:
    return actor_critic.torso(part.config, name)


def _core(part: Part, name: str) -> nn.Module:
    config = part.config
    return cores.Core(config.core, config.core_size, config.core_memory, name=name)


def _once(answers: dict[str, Any], name: str, function: Callable, *args: Any) -> Any:
    """Returns ``answers[name]``, computed if it is not there; a net is made ``name``d."""
    if name not in answers:
        makes_net = function in (_torso, _core, _PolicyHead, _ValueHead)
        named = {"name": name} if makes_net else {}
        answers[name] = function(*args, **named)
    return answers[name]


def _is_restricted(part: Part) -> bool:
    """Returns whether the part's policy is that of all actions, cut down to its rows."""
    return part.rows is not None and part.policy == "policy"


def _policy(space, part, params, action_mask, temperature):
    """Returns the component's policy over the whole space."""
    if part.rows is None:
        return heads.policy(space, params, action_mask, temperature)
    legal = subsets.legal(space, part.rows, action_mask)
    if _is_restricted(part):
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
    """Raises ValueError where components differ in a piece they are to share."""
    settings = {"torso": ("torso", "hidden"), "core": ("core", "core_size")}
    for piece in share:
        for field in settings.get(piece, ()):
            found = {getattr(part.config, field) for part in parts}
            if len(found) > 1:
                raise ValueError(
                    f"share: {piece!r} is shared, but the components' {field} differ: "
                    f"{sorted(map(str, found))}; leave one of them out"
                )
