"""The replay of agents that learn from sequences: as many batches as experience is due.

An update that adds T·B steps draws K = T·B / train_every batches, one for each of its
gradient steps; T, B and so K, an integer, are known when the program is traced.
"""

from __future__ import annotations

import dataclasses
import math

from mtrl_jax import errors, types
from mtrl_jax.data import replay
from mtrl_jax.types import Array, Key, Tree


@dataclasses.dataclass(frozen=True)
class SequenceConfig:
    """What is kept, drawn and waited for; static."""

    capacity: int = 100_000  # steps a member keeps, over all its slots
    batch: int = 50  # sequences of a gradient step
    length: int = 50  # steps of a sequence
    train_every: float = 4.0  # steps a gradient step; below 1: several for each
    prefill: int = 50_000  # steps before the first gradient step


def make(spec: types.EnvSpec, config: SequenceConfig) -> types.Replay:
    """Returns the Replay of windows of ``length`` + 1 rows, any start; draws ``Drawn``.

    The first row of a window is there for its action, which led to the second.
    Raises:
      ValueError: a size below 1; at trace time, sequences longer than what is kept, or
        no whole number of gradient steps an update.
    """
    _check(config)

    def windows(batches: int) -> types.Replay:
        return replay.make(
            spec,
            replay.Config(
                config.capacity,
                config.batch,
                batches,
                steps=config.length + 1,
                transitions=False,
            ),
        )

    one = windows(1)

    def observe(
        memory: Tree, rollout: types.Rollout, key: Key, hp: Tree, step: Array
    ) -> tuple[Tree, replay.Drawn]:
        unroll, slots = rollout.ts.reward[1:].shape
        each = windows(gradient_steps(config, unroll * slots))
        return each.observe(memory, rollout, key, hp, step)

    return types.Replay(one.init, observe, one.feedback)


def gradient_steps(config: SequenceConfig, steps: int) -> int:
    """Returns K of an update that adds ``steps`` steps; ValueError if it is no integer."""
    exact = steps / config.train_every
    said = (
        f"train_every: {config.train_every:g} steps for a gradient step, but an "
        f"update has unroll_length x slots = {steps}"
    )
    if exact < 1:
        raise ValueError(f"{said}; give at most {steps}")
    found = round(exact)
    if not math.isclose(found, exact, rel_tol=1e-4):
        near = [f"{steps / x:g}" for x in (math.ceil(exact), math.floor(exact))]
        raise ValueError(f"{said}, {exact:g} gradient steps; give {' or '.join(near)}")
    return found


def waits(config: SequenceConfig, batches: int) -> int:
    """Returns the updates that begin before ``prefill`` steps are there.

    Of K = ``batches`` each. The first that learns begins with as many steps, or more,
    and adds its own before it draws.
    """
    return int(-(-config.prefill // (batches * config.train_every)))


def _check(config: SequenceConfig) -> None:
    errors.check_sizes(config, ("capacity", "batch", "length"))
    if config.length < 2:
        raise ValueError(f"length: {config.length} is no sequence, give at least 2")
    if not config.train_every > 0:
        raise ValueError(f"train_every: got {config.train_every}, give more than 0")
    if config.prefill < 0:
        raise ValueError(f"prefill: got {config.prefill}, give 0 or more")
