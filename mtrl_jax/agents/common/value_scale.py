"""The unit that values are learned in, as an option of the actor-critic.

none          the unit of rewards
popart        one value a task, in units of its own mean and deviation (losses/popart.py)
return_scale  one value a task, in units of its deviation: rewards divided by a running
              scale of returns. No output is preserved when it moves.

Whatever meets rewards is un-normalised: what acting notes down, the bootstrap, V-trace's
targets, a mixture's value. What is learned is not: a step's advantage is A/σ and its
value error ½ ((v − μ)/σ − n)², of its own task. The entropy cost is in that unit then.

Order within a gradient step: values and targets by the old statistics; new statistics;
the head rewritten; the loss and its gradient under the new statistics and the rewritten
head; the optimiser. The network is run once: for the old head w the normalised value
under the new statistics is (σ n + μ − μ')/σ', whose gradient for w is that for the
rewritten w' times σ/σ', so ``Scale.preserve`` puts it right.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from mtrl_jax import types
from mtrl_jax.hparams import Divisor, Share
from mtrl_jax.losses import policy_gradient, popart
from mtrl_jax.types import Array, Tree

SCALES = ("none", "popart", "return_scale")


@dataclasses.dataclass(frozen=True)
class Config:
    """Of the scale; fields of an agent's Config, see ``policy_learner``."""

    value_scale: str = "none"  # none, popart, return_scale
    value_statistics: str = "mean"  # sequential, mean, sum; see losses/popart.py
    value_debias: bool = False  # of the initial statistics


class Hparams(NamedTuple):
    """Of the statistics; not read where ``value_scale`` is none."""

    value_step_size: Share = 3e-4  # β of a gradient step
    # The paper's is 1e-4. Where it binds, values move with it: no head is rewritten then.
    value_std_min: Divisor = 1e-2


@dataclasses.dataclass(frozen=True)
class Scale:
    """The choices that are static, and the paths of the value heads in the parameters."""

    kind: str
    mode: str
    debias: bool
    tasks: int
    heads: Sequence[tuple[str, ...]] = (("value",),)
    stacked: bool = False  # the heads are of several networks, [networks, ...]

    @property
    def num_values(self) -> int | None:
        """How many values a network has; None: one without an axis of its own."""
        return None if self.kind == "none" else self.tasks

    def init(self) -> Tree:
        """Returns the statistics of a fresh learner."""
        return () if self.kind == "none" else popart.init(self.tasks)

    def value(self, stats: Tree, value: Array, task: Array, hp: Hparams) -> Array:
        """Returns values ``[...]`` in the unit of rewards, of a network's output."""
        if self.kind == "none":
            return value
        return popart.unnormalised(value, *self._moments(stats, hp), task)

    def after(
        self, stats: Tree, target: Array, live: Array, task: Array, hp: Hparams
    ) -> Tree:
        """Returns the statistics after the value targets ``[T, B]`` of a batch."""
        if self.kind == "none":
            return stats
        return popart.update(
            stats,
            target,
            live,
            task,
            hp.value_step_size,
            mode=self.mode,
            debias=self.debias,
        )

    def divided(self, stats: Tree, x: Array, task: Array, hp: Hparams) -> Array:
        """Returns x/σ of each step's task: a difference of values, as it is learned."""
        if self.kind == "none":
            return x
        _, std = self._moments(stats, hp)
        return x / policy_gradient.of_task(std, task)

    def predicted(
        self, old: Tree, new: Tree, value: Array, task: Array, hp: Hparams
    ) -> Array:
        """Returns what stands against ``divided(new, target)`` in the value error."""
        return self.divided(new if self.kind == "popart" else old, value, task, hp)

    def preserve(
        self, params: Tree, grads: Tree, old: Tree, new: Tree, hp: Any
    ) -> tuple[Tree, Tree]:
        """Returns (params, grads) of the heads rewritten for the new statistics."""
        if self.kind != "popart":
            return params, grads
        mean, std = self._moments(old, hp.scale)
        new_mean, new_std = self._moments(new, hp.scale)

        def rewritten(head):
            made = popart.rewrite(
                popart.Head(head["kernel"], head["bias"]), mean, std, new_mean, new_std
            )
            return {**head, "kernel": made.kernel, "bias": made.bias}

        def of_rewritten(head):
            ratio = new_std / std
            return {
                **head,
                "kernel": head["kernel"] * ratio[None],
                "bias": head["bias"] * ratio,
            }

        each = jax.vmap if self.stacked else lambda change: change
        for path in self.heads:
            params = _at(params, path, each(rewritten))
            grads = _at(grads, path, each(of_rewritten))
        return params, grads

    def metrics(self, stats: Tree, task: Array, live: Array, hp: Hparams) -> dict:
        """Returns ``value_std``, the mean σ of live steps; nothing without a scale."""
        if self.kind == "none":
            return {}
        _, std = self._moments(stats, hp)
        each = policy_gradient.of_task(std, task)
        return {"value_std": policy_gradient.masked_mean(each, live)}

    def _moments(self, stats: Tree, hp: Hparams) -> tuple[Array, Array]:
        """Returns (μ, σ) ``[N]``, without gradient."""
        std = popart.std(stats, hp.value_std_min)
        mean = stats.mean if self.kind == "popart" else 0.0 * stats.mean
        return jax.lax.stop_gradient((mean, std))


def make(
    config: Config,
    tasks: int,
    heads: Sequence[tuple[str, ...]] = (("value",),),
    *,
    stacked: bool = False,
) -> Scale:
    """Returns the scale of an agent's ``Config``.

    Raises ValueError for one that is not known.
    """
    for field, known in (
        ("value_scale", SCALES),
        ("value_statistics", popart.MODES),
    ):
        if getattr(config, field) not in known:
            raise ValueError(
                f"{field}: unknown {getattr(config, field)!r}; one of {', '.join(known)}"
            )
    return Scale(
        config.value_scale,
        config.value_statistics,
        config.value_debias,
        tasks,
        heads,
        stacked,
    )


def idle(config: Any) -> dict[str, types.Idle]:
    """Returns the hyperparameters that the ``value_scale`` of a config leaves unread."""
    if config.value_scale != "none":
        return {}
    unread = types.Idle(None, "value_scale=popart or return_scale")
    return dict.fromkeys(Hparams._fields, unread)


def _at(params: dict, path: Sequence[str], change: Any) -> dict:
    """Returns the nested dict with ``change`` applied to what is at ``path``."""
    if not path:
        return change(params)
    return {**params, path[0]: _at(params[path[0]], path[1:], change)}
