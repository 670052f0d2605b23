"""A trained member as a function of one task's observations, for notebooks and programs.

What a mixture does to its tasks is done in here: observations and masks are padded, the
action is cut to the task's own space. There are two ways to carry a memory along:

    policy = run.policy(task="gymnax/CartPole-v1")
    action = policy(obs)                                # it remembers, until reset()
    action, carry = policy.act(carry, obs, key, first)  # pure, for jit, vmap and scan
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mtrl_jax import random, types
from mtrl_jax.envs import actions, observations
from mtrl_jax.types import Array, Key, Tree


class Policy:
    """One member at play in one task: ``action = policy(obs)``.

    Observations are as the task with its options shows them (``envs.make``), one at a
    time, or ``batch`` of them along a first axis. Actions are the task's own: int32 []
    (Discrete), int32 [groups] (Factorised), float32 [dimensions] (Box), with ``batch``
    in front where there is one.

    Attributes:
        task: its TaskSpec; ``task.obs`` and ``task.action`` say what goes in and out.
        batch: how many slots play at once, None for one without an axis.
    """

    def __init__(
        self,
        agent: types.Agent,
        spec: types.EnvSpec,
        task: int,
        learner: Tree,
        hp: Tree,
        *,
        batch: int | None = None,
        seed: int = 0,
    ):
        self.task = spec.tasks[task]
        self.batch = batch
        self._agent, self._spec, self._index = agent, spec, task
        self._learner, self._hp = learner, hp
        self._key, self._steps = jax.random.key(seed), 0
        self._jitted = jax.jit(self._act)
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next observation is an episode's first."""
        self._carry, self._first = self.carry(), jnp.ones(self._slots, bool)

    def __call__(
        self,
        obs: Tree,
        reward: Any = 0.0,
        terminated: Any = False,
        truncated: Any = False,
        *,
        action_mask: Any = None,
    ) -> Array:
        """Returns the action after ``obs``; what was seen is remembered.

        ``reward``, ``terminated`` and ``truncated`` are those that came with ``obs``, as
        gymnasium's ``step`` gives them; only agents that read rewards or learn across
        episodes need them. After an episode's end the next observation is the first of
        another one. ``action_mask`` [M] says which actions are legal; all by default.

        Raises:
          ValueError: an observation or a mask that is not the task's.
        """
        action, self._carry = self.act(
            self._carry,
            obs,
            random.fold(self._key, self._steps),
            self._first,
            reward,
            terminated,
            truncated,
            action_mask=action_mask,
        )
        self._steps += 1
        ended = jnp.asarray(terminated, bool) | jnp.asarray(truncated, bool)
        self._first = jnp.broadcast_to(ended, self._slots)
        return action

    def carry(self) -> Tree:
        """Returns the memory of slots that have seen nothing yet, for ``act``."""
        return self._agent.carry(self.batch or 1)

    def act(
        self,
        carry: Tree,
        obs: Tree,
        key: Key,
        first: Any,
        reward: Any = 0.0,
        terminated: Any = False,
        truncated: Any = False,
        *,
        action_mask: Any = None,
    ) -> tuple[Array, Tree]:
        """Returns (action, carry), a pure function of its arguments.

        ``first`` says where an episode begins; the carry need not be reset there. The
        others are as in a call.

        Raises:
          ValueError: an observation or a mask that is not the task's.
        """
        seen = observed(self.task, obs, self.batch)
        size = types.action_mask_size(self.task.action)
        mask = jnp.ones(size, bool) if action_mask is None else jnp.asarray(action_mask)
        if mask.shape not in {(size,), (*self._axes, size)}:
            raise ValueError(
                f"action_mask: got {list(mask.shape)}, {self.task.name} takes "
                f"{[*self._axes, size]}"
            )
        given = (jnp.asarray(x) for x in (reward, terminated, truncated, first))
        return self._jitted(self._learner, self._hp, carry, seen, key, mask, *given)

    @property
    def _axes(self) -> tuple[int, ...]:
        return () if self.batch is None else (self.batch,)

    @property
    def _slots(self) -> tuple[int]:
        return (self.batch or 1,)

    def _act(
        self, learner, hp, carry, seen, key, mask, reward, terminated, truncated, first
    ) -> tuple[Array, Tree]:
        def in_slots(x: Array, dtype: Any) -> Array:
            return jnp.broadcast_to(x, self._slots).astype(dtype)

        first = in_slots(first, bool)
        terminated, truncated = in_slots(terminated, bool), in_slots(truncated, bool)
        space, own = self._spec.action, self.task.action
        mask = jnp.broadcast_to(mask, (*self._slots, mask.shape[-1])).astype(bool)
        ts = types.TimeStep(
            obs=observations.pad(seen, self._spec.obs, self._slots),
            reward=jnp.where(first, 0.0, in_slots(reward, jnp.float32)),
            discount=1.0 - terminated.astype(jnp.float32),
            first=first,
            last=terminated | truncated,
            task=jnp.full(self._slots, self._index, jnp.int32),
            action_mask=actions.pad_mask(space, own, mask),
        )
        action, carry, _ = self._agent.act(learner, carry, ts, key, hp)
        action = actions.sanitise(space, action, self._slots)
        action = actions.unpad(space, own, action)
        action = actions.sanitise(own, action, self._slots)
        return (action[0] if self.batch is None else action), carry


def observed(task: types.TaskSpec, obs: Tree, batch: int | None) -> dict[str, Array]:
    """Returns an observation as ``task.obs`` has it, leaves ``[B, ...]``; B = 1 for None.

    Whatever ``observations.canonical`` takes; planes of 0 and 1 may be of any dtype.

    Raises:
      ValueError: other shapes or dtypes than the task's.
    """
    try:
        obs = jax.tree.map(jnp.asarray, obs)
    except TypeError:  # Of text, or of what is no array.
        obs = None
    if not jax.tree.leaves(obs):
        raise ValueError(f"obs: got no arrays; give {', '.join(sorted(task.obs))}")
    if batch is None:
        obs = jax.tree.map(lambda x: x[None], obs)
    sizes = {x.shape[:1] for x in jax.tree.leaves(obs)}
    if sizes != {(batch or 1,)}:
        shapes = [list(x.shape) for x in jax.tree.leaves(obs)]
        raise ValueError(f"obs: got {shapes}, a batch of {batch} has it in front")
    labels = {}
    if isinstance(obs, Mapping) and types.OPTIMAL in task.obs:
        labels = {n: x for n, x in obs.items() if n == types.OPTIMAL}
        obs = {n: x for n, x in obs.items() if n not in labels}
    found = jax.vmap(observations.canonical)(obs) | labels
    found = {n: _planes(x, task.obs.get(n)) for n, x in found.items()}
    given = {n: (list(x.shape[1:]), str(x.dtype)) for n, x in sorted(found.items())}
    known = {n: (list(x.shape), str(x.dtype)) for n, x in sorted(task.obs.items())}
    if given != known:
        raise ValueError(f"obs: got {_said(given)}, {task.name} shows {_said(known)}")
    return found


def _planes(x: Array, wanted: Any) -> Array:
    is_binary = wanted is not None and wanted.dtype == jnp.bool_
    return x.astype(bool) if is_binary else x


def _said(leaves: dict[str, tuple[list[int], str]]) -> str:
    """Returns names, dtypes and shapes: "image uint8[8, 8, 3], vector float32[4]"."""
    return ", ".join(f"{n} {dtype}{shape}" for n, (shape, dtype) in leaves.items())
