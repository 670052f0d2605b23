"""From one pure environment to a batch ``[P, B]`` of it that resets itself.

A ``PureTask`` is written for one slot and knows nothing of batches, streams of keys or
resets. ``vectorise`` adds all three. Slot b of member p draws from
``fold_in(key[p], b)``, its step t from ``fold_in`` of that with t: a slot's stream does
not depend on how many others there are, and nothing but a counter is carried.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import errors, tree, types
from mtrl_jax.envs import actions, dtypes, observations, signatures, slots
from mtrl_jax.types import Array, Key, Tree


class PureTask(NamedTuple):
    """One environment as pure functions of one slot (no batch axes anywhere).

    ``reset(key, params) -> (state, obs)``;
    ``step(key, state, action, params) -> (state, obs, reward, terminated, truncated)``.
    It never resets itself: after the last step it returns the true last observation.
    ``obs`` is any tree that ``observations.canonical`` takes. Truncated without
    terminated means that a time limit ended the episode and its value goes on.
    """

    spec: types.TaskSpec
    reset: Callable[[Key, Tree], tuple[Tree, Tree]]
    step: Callable[[Key, Tree, Array, Tree], tuple[Tree, Tree, Array, Array, Array]]
    params: Tree = ()  # the traced defaults
    action_mask: Callable[[Tree, Tree], Array] | None = None  # (state, params) -> [M]
    info: Callable[[Tree, Tree], dict[str, Array]] | None = None  # float32 scalars
    # For people, not traced: one slot's (state, params) -> uint8 [H, W, 3].
    render: Callable[[Tree, Tree], Any] | None = None
    # What happens within an episode, rarely, and costs too much for every step: in slots
    # where wants_renewal(state), ``renew(state, begun, params) -> (state, obs)`` replaces
    # what the step gave. ``begun`` is a fresh ``reset(key, params)``, so that a program
    # holds one reset for both.
    wants_renewal: Callable[[Tree], Array] | None = None
    renew: Callable[[Tree, tuple[Tree, Tree], Tree], tuple[Tree, Tree]] | None = None
    # Says that what reset, step and renew return as obs is ``observe(state, params)``: a
    # program then observes once, when the slots that begin or are renewed have done so.
    observe: Callable[[Tree, Tree], Tree] | None = None
    # Slots of a member that are reset or renewed together; None: all of them, whether
    # or not they have to be. Changes the cost and nothing else.
    group: int | None = None
    # Draws what an episode is about, at its reset: ``deal(slot_key, episode_key,
    # params) -> params`` that the episode is played by. A slot's key is always the same
    # (what is drawn from it stays for the whole run), an episode's is its own.
    deal: Callable[[Key, Key, Tree], Tree] | None = None
    # Raises ValueError unless params, of numpy, are of a task that can be played. Asked
    # of each level of a curriculum, which moves every param alone.
    check: Callable[[Tree], None] | None = None
    # What is put around the Env of its slots, in this order, see wrappers. ``spec`` is
    # that of the task itself, beneath them.
    wrappers: tuple[Callable[[types.Env], types.Env], ...] = ()


# The fields in which tasks of the same code agree (render is not compiled with them).
_CODE = (
    *("reset", "step", "action_mask", "info"),
    *("wants_renewal", "renew", "observe", "group", "deal", "wrappers"),
)


def task(
    name: str,
    reset: Callable,
    step: Callable,
    action: types.ActionSpace,
    params: Tree = (),
    *,
    random_score: float | None = None,
    reference_score: float | None = None,
    max_steps: int | None = None,
    action_sets: Mapping[str, types.ActionSet] | None = None,
    frames: int | None = None,
    **optional: Any,
) -> PureTask:
    """Returns a PureTask whose spec is filled in by tracing ``reset``.

    Once for all tasks that share it and have parameters of the same shapes.

    ``optional`` are PureTask's other fields: action_mask, info, render, renew, ...
    ``max_steps`` says how long an episode can be and ends none: a time limit is a step's
    ``truncated``. Raises ValueError for a function that does not take what it will be
    given, for a name, an action space or a length that is none, and for a measure that is
    not one number or has the name of what every run counts.
    """
    signatures.check_task({"reset": reset, "step": step, **optional})
    _check_spec(name, action, max_steps)
    info: Callable = optional.get("info") or (lambda state, params: {})
    traced = dtypes.as_arrays(params)
    state, obs = jax.eval_shape(reset, jax.random.key(0), traced)
    obs = jax.eval_shape(observations.canonical, obs)
    measures = jax.eval_shape(info, state, traced)
    _check_measures(measures)
    spec = types.TaskSpec(
        name,
        obs,
        action,
        random_score,
        reference_score,
        max_steps,
        action_sets or {},
        measures=tuple(measures),
        frames=frames,
    )
    return PureTask(spec, reset, step, params, **optional)


def _check_spec(name: Any, action: Any, max_steps: Any) -> None:
    if not isinstance(name, str):
        raise ValueError(f"name: got {name!r}, give a string")
    if max_steps is not None:
        errors.integer("max_steps", max_steps, 1, 2**31 - 1)
    actions.check(action)


def _check_measures(measures: Any) -> None:
    """Raises ValueError unless what ``info`` returns are numbers, by names of their own."""
    if not isinstance(measures, Mapping):
        raise ValueError(
            f"info: got a {type(measures).__name__}, give a dict of numbers by their names"
        )
    errors.check_measures(measures)
    for name, x in measures.items():
        if x.shape != ():
            raise ValueError(
                f"info: {name!r} is {x.dtype}{list(x.shape)}, give one number"
            )


def vectorise(task: PureTask, batch: tuple[int, int], first_slot: int = 0) -> types.Env:
    """Returns the task as an Env of ``batch = (P, B)`` slots.

    Its slots are ``first_slot`` and the following: two Envs of B/2 slots, the second
    from B/2 on, are the slots of one of B.

    ``Env.params`` holds the task's defaults broadcast to ``[P, B, ...]``. Params given
    to ``step`` take effect in a slot at its next reset: an episode is played by the
    params it began with. Raises ValueError for a batch that is not two positive sizes
    and for a task whose observations are not those of its spec.
    """
    _check_batch(batch)
    return stack([task], batch, [batch[1]], first_slot=first_slot)


def stack(
    tasks: Sequence[PureTask],
    batch: tuple[int, int],
    sizes: Sequence[int],
    axis: str = "slot",
    *,
    first_slot: int = 0,
) -> types.Env:
    """Returns tasks of the same code and different params as one Env.

    Where a mixture gives each task its own code in the compiled program, these share
    one: task k owns the next ``sizes[k]`` entries of the slot or population axis and
    differs by its params alone. Raises ValueError where functions or spaces differ.
    """
    _check_batch(batch)
    _check_same_code(tasks)
    dim = {"population": 0, "slot": 1}[axis]
    if len(sizes) != len(tasks) or sum(sizes) != batch[dim]:
        raise ValueError(
            f"sizes: {list(sizes)} for {len(tasks)} tasks on the {axis} axis of "
            f"{batch}; give one per task, {batch[dim]} in total"
        )
    parts, ids = [], []
    for k, (one, size) in enumerate(zip(tasks, sizes)):
        part = (size, batch[1]) if dim == 0 else (batch[0], size)
        parts.append(slots.broadcast(one.params, part))
        ids.append(np.full(part, k, np.int32))
    first = tasks[0].spec
    specs = tuple(one.spec for one in tasks)
    owners = np.repeat(np.arange(len(tasks)), sizes).tolist()
    if dim == 0:
        # Members have a task each: no slot has one, unless all have the same.
        owners = [] if len(tasks) > 1 else [0] * batch[1]
    spec = types.EnvSpec(
        first.obs, first.action, specs, actions.common_sets(specs), tuple(owners),
        masks=_masks(tasks[0], len(tasks)),
    )  # fmt: skip
    default = tree.concatenate(parts, dim)
    task_id = jnp.asarray(np.concatenate(ids, dim))
    env = slots.make(tasks[0], spec, batch, default, task_id, first_slot)
    return _wrapped(tasks[0], env._replace(render=slots.renderer(tasks, sizes, dim)))


def spread(
    task: PureTask, tasks: Tree, batch: tuple[int, int], axis: str = "population"
) -> types.Env:
    """Returns one Env in which entry i of ``axis`` always plays ``tasks[i mod N]``.

    ``tasks`` are params of ``task``, stacked ``[N, ...]``: learners that keep one task
    each, with no two tasks more than one learner apart. Whatever ``task`` deals by
    itself is not dealt. It counts as one task (``TimeStep.task`` is 0) under the spec of
    ``task``. Raises ValueError where ``tasks`` are not such params.
    """
    _check_batch(batch)
    dim = {"population": 0, "slot": 1}[axis]
    one, tasks = dtypes.as_arrays(task.params), dtypes.as_arrays(tasks)
    counts = {x.shape[0] if x.ndim else 0 for x in jax.tree.leaves(tasks)}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            f"tasks: leading axes {sorted(counts)}, give one N >= 1 to all"
        )
    number = counts.pop()
    tasks = slots.like(tasks, slots.broadcast(one, (number,)))
    default = _dealt_out(tasks, batch, dim)
    spec = types.EnvSpec(
        task.spec.obs,
        task.spec.action,
        (task.spec,),
        actions.common_sets([task.spec]),
        slot_tasks=(0,) * batch[1],
        masks=_masks(task, 1),
    )
    task_id = jnp.zeros(batch, jnp.int32)
    env = slots.make(task._replace(deal=None), spec, batch, default, task_id, 0)
    return _wrapped(task, env._replace(render=slots.renderer([task], [batch[1]], 1)))


def _masks(task: PureTask, number: int) -> tuple[tuple[bool, ...], ...]:
    """Returns ``EnvSpec.masks`` of so many tasks of the code of one."""
    if task.action_mask is not None:
        return ()
    return (actions.all_legal(task.spec.action),) * number


@functools.partial(jax.jit, static_argnames=("batch", "dim"))
def _dealt_out(tasks: Tree, batch: tuple[int, int], dim: int) -> Tree:
    """Returns tasks [N, ...] one after the other along axis ``dim`` of [P, B, ...]."""

    def leaf(x):
        own = x[np.arange(batch[dim]) % len(x)]
        return jnp.broadcast_to(jnp.expand_dims(own, 1 - dim), (*batch, *x.shape[1:]))

    return jax.tree.map(leaf, tasks)


def join(
    parts: Sequence[types.Env | tuple[PureTask, tuple[int, int]]], axis: str = "slot"
) -> list[types.Env]:
    """Returns the Envs of a mixture: neighbouring tasks of the same code become one.

    A part is a task with its batch ``(P, B)``, or an Env, which stays as it is.
    """
    dim = {"population": 0, "slot": 1}[axis]
    envs: list[types.Env] = []
    run: list[tuple[PureTask, tuple[int, int]]] = []

    def close() -> None:
        if run:
            sizes = [batch[dim] for _, batch in run]
            other = run[0][1][1 - dim]
            batch = (sum(sizes), other) if dim == 0 else (other, sum(sizes))
            envs.append(stack([task for task, _ in run], batch, sizes, axis))
            run.clear()

    for part in parts:
        if isinstance(part, types.Env):
            close()
            envs.append(part)
            continue
        if run and not same_code(run[0][0], part[0]):
            close()
        run.append(part)
    close()
    return envs


def same_code(x: PureTask, y: PureTask) -> bool:
    """Returns whether two tasks differ in numbers alone: ``stack`` takes them."""
    same = all(getattr(x, name) == getattr(y, name) for name in _CODE)
    params = [[(p.shape, p.dtype) for p in _leaves(t)] for t in (x, y)]
    return same and x.spec[1:3] == y.spec[1:3] and params[0] == params[1]


def _wrapped(task: PureTask, env: types.Env) -> types.Env:
    for wrapper in task.wrappers:
        env = wrapper(env)
    return env


def _check_batch(batch: tuple[int, int]) -> None:
    if len(batch) != 2 or min(batch) < 1:
        raise ValueError(f"batch: got {batch}, give (members, slots), each at least 1")


def _check_same_code(tasks: Sequence[PureTask]) -> None:
    first = tasks[0]
    for other in tasks[1:]:
        if not same_code(first, other):
            raise ValueError(
                f"tasks: {other.spec.name} and {first.spec.name} do not share functions "
                "and spaces; join them with mixture.make"
            )


def _leaves(task: PureTask) -> list[Array]:
    return jax.tree.leaves(dtypes.as_arrays(task.params))
