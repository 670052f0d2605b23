"""From what a pool returns to TimeSteps, in numpy and in the program by the same code.

Every function takes ``xp``, numpy or jax.numpy. A pool returns a flat dict of arrays
``[N, ...]``, N = P * B, member-major; TimeSteps are ``[P, B, ...]``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mtrl_jax import types
from mtrl_jax.envs import actions, envpool_pool, envpool_scores
from mtrl_jax.envs import envpool_families as families
from mtrl_jax.envs import envpool_observations as observations


class Adapter(NamedTuple):
    """Everything static about one pool's steps."""

    batch: tuple[int, int]
    spec: types.EnvSpec
    leaves: tuple[observations.Leaf, ...]
    keys: tuple[str, ...]  # arrays of the pool that are used at all
    success: str | None
    life_loss: bool


class Memory(NamedTuple):
    """What the next step must know of this one, all ``[P, B]``."""

    elapsed: Any  # int32, steps into the episode
    done: Any  # bool, the episode ended here
    lives: Any  # int32, 0 where the task has none
    info: dict[str, Any]  # float32 measures of the episode so far


def adapter(pool: envpool_pool.Pool) -> Adapter:
    """Returns the Adapter of a pool, from its specification alone."""
    specs = pool.engine.spec.state_array_spec
    family = families.FAMILIES[pool.family]
    leaves = observations.leaves(pool, specs)
    life_loss = bool(pool.options.get("life_loss", False))
    extra = ["info:terminated"] if "info:terminated" in specs else []
    extra += ["info:lives"] if life_loss else []
    success = family.success if family.success in specs else None
    keys = [leaf.key for leaf in leaves] + ["reward", "done", "trunc", "elapsed_step"]
    return Adapter(
        batch=pool.batch,
        spec=_env_spec(pool, specs, leaves, ("success",) if success else ()),
        leaves=leaves,
        keys=tuple(keys + extra + ([success] if success else [])),
        success=success,
        life_loss=life_loss,
    )


def fresh(adapter: Adapter, xp: Any) -> Memory:
    """Returns the Memory before an episode: whatever arrives next is its first step."""
    zeros = xp.zeros(adapter.batch, xp.float32)
    info = {"success": zeros} if adapter.success else {}
    integers = xp.zeros(adapter.batch, xp.int32)
    return Memory(integers, xp.ones(adapter.batch, bool), xp.copy(integers), info)


def arrive(
    adapter: Adapter, memory: Memory, raw: dict[str, Any], xp: Any
) -> tuple[Memory, types.TimeStep, Any]:
    """Returns (memory, TimeStep, in_order) for what a pool returned.

    ``discount`` is 0 where the episode terminated. A pool reports a termination exactly
    at the time limit as truncation; Atari and the Playground also report the
    termination itself, which is used. With ``life_loss`` it is 0 on losing a life too,
    without ``last``: the learner stops bootstrapping there, while returns, ``first``
    and ``last`` keep meaning whole games.

    ``in_order`` (bool []) is False if any environment made another number of steps than
    the one that ``memory`` waits for: two programs stepped one pool, one state was used
    twice, or the pool was reset or closed behind a program's back.
    """

    def shaped(key, dtype):
        return raw[key].reshape(adapter.batch).astype(dtype)

    first = memory.done
    done = shaped("done", bool)
    elapsed = shaped("elapsed_step", xp.int32)
    in_order = xp.all(elapsed == xp.where(first, 0, memory.elapsed + 1))

    terminal = done & ~shaped("trunc", bool)
    if "info:terminated" in raw:
        terminal = terminal | (done & shaped("info:terminated", bool))
    lives = memory.lives
    if adapter.life_loss:
        lives = shaped("info:lives", xp.int32)
        # Some games show 0 lives for a moment: only a fall to a positive number counts.
        terminal = terminal | ((lives < memory.lives) & (lives > 0))

    info = memory.info
    if adapter.success:
        reached = (shaped(adapter.success, xp.float32) > 0).astype(xp.float32)
        info = {
            "success": xp.where(first, reached, xp.maximum(info["success"], reached))
        }
    reward = xp.where(first, 0.0, shaped("reward", xp.float32)).astype(xp.float32)
    mask_size = types.action_mask_size(adapter.spec.action)
    ts = types.TimeStep(
        obs=observations.observe(adapter.leaves, raw, adapter.batch, xp),
        reward=reward,
        discount=xp.where(terminal & ~first, 0.0, 1.0).astype(xp.float32),
        first=first,
        last=done & ~first,
        task=xp.zeros(adapter.batch, xp.int32),
        action_mask=xp.ones((*adapter.batch, mask_size), bool),
    )
    # Copies: a donated state must not share buffers with the TimeStep.
    return Memory(elapsed, xp.copy(done), lives, info), ts, in_order


def encode_action(
    adapter: Adapter, action: Any, shape: Any, dtype: Any, xp: Any
) -> Any:
    """Returns actions ``[P, B, ...]`` as the pool takes them, always within its bounds.

    Indices and vectors outside the space are clipped, NaN becomes 0: the pool itself
    checks nothing, and an index out of range ends the process. Raises ValueError for
    another shape or dtype than the space's.
    """
    one = types.action_shape(adapter.spec.action)
    wanted = (*adapter.batch, *one.shape)
    if tuple(action.shape) != wanted or action.dtype != one.dtype:
        raise ValueError(
            f"{adapter.spec.tasks[0].name}: action is {action.dtype}{tuple(action.shape)}, "
            f"the pool takes {one.dtype}{wanted}"
        )
    match adapter.spec.action:
        case types.Discrete(n):
            action = xp.clip(action, 0, n - 1)
        case types.Box(low, high):
            bounds_shape = (1,) * (action.ndim - 1) + (len(low),)
            low_array = xp.asarray(low, xp.float32).reshape(bounds_shape)
            high_array = xp.asarray(high, xp.float32).reshape(bounds_shape)
            action = xp.clip(xp.nan_to_num(action), low_array, high_array)
    return action.reshape(shape).astype(dtype)


def _env_spec(
    pool: envpool_pool.Pool,
    specs: dict[str, Any],
    leaves: tuple[observations.Leaf, ...],
    measures: tuple[str, ...],
) -> types.EnvSpec:
    obs = observations.structs(leaves, specs)
    limit = envpool_pool.max_steps(pool)
    random_score, reference_score = envpool_scores.scores(
        pool.family, pool.task, pool.options, limit
    )
    task = types.TaskSpec(
        name=envpool_pool.PREFIX + pool.task,
        obs=obs,
        action=envpool_pool.action_space(pool),
        random_score=random_score,
        reference_score=reference_score,
        max_steps=limit,
        measures=measures,
        frames=envpool_pool.frames(pool),
    )
    return types.EnvSpec(
        obs,
        task.action,
        (task,),
        slot_tasks=(0,) * pool.batch[1],
        masks=(actions.all_legal(task.action),),
    )
