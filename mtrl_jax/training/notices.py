"""What a run says of its settings before it trains: legal, and perhaps not meant."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mtrl_jax import hparams, types
from mtrl_jax.config import strict
from mtrl_jax.training import progress, unread
from mtrl_jax.training.program import Program, RunLength

# A run may be longer than asked for by whole chunks; by more than this it is said.
_LONGER = 1.05
_FEW = 4  # tasks, whose names are said


def at_start(config: Any, program: Program, before: int = 0) -> Iterator[str]:
    """Yields the lines that a run begins with; ``before`` as in ``of``."""
    yield from of(config, program.run_length, judged(config, program), before)
    if program.record is not None:
        yield program.record.announcement
    yield from program.remarks


def outline(config: Any, program: Program) -> str:
    """Returns in one line what a program will do: of what agent, where, for how long."""
    (members, slots), length = program.batch, program.run_length
    who = f"{config.agent.name}, {_counted(members, 'member')}"
    names = [progress.short(task.name) for task in program.spec.tasks]
    where = ", ".join(names) if len(names) <= _FEW else _counted(len(names), "task")
    if config.kind == "evaluate":
        episodes = _counted(config.evaluation.episodes, "episode")
        return f"{who} of {_counted(slots, 'slot')} on {where}: {episodes} in each"
    how_long = f"{length.updates} updates in chunks of {length.per_chunk}"
    if config.kind == "offline":
        return f"{who} on data of {where}: {how_long}, {_counted(slots, 'window')} each"
    steps = f"{progress.si(length.updates * length.steps)} env steps of a member"
    return f"{who} of {_counted(slots, 'slot')} on {where}: {how_long}, {steps}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"


def of(
    config: Any,
    length: RunLength,
    tasks: Sequence[types.TaskSpec] = (),
    before: int = 0,
) -> Iterator[str]:
    """Yields a line for every setting that does something else than it seems to.

    ``tasks`` are those by whose episodes in training members are judged, ``before`` the
    updates that the learners had made when the run began.
    """
    if config.kind != "evaluate":  # It has no training.
        yield from _of_length(config, length)
    pbt = config.population.pbt
    if pbt is not None and pbt.interval >= length.updates:
        yield (
            f"population.pbt.interval={pbt.interval}: the run has {length.updates} "
            "updates, so no member is ever replaced"
        )
    if pbt is not None and 0 < pbt.interval < length.per_chunk:
        yield (
            f"population.pbt.interval={pbt.interval}: rounds come between chunks, every "
            f"{length.per_chunk} updates (training.updates_per_chunk)"
        )
    if pbt is not None and pbt.exploit != "none":
        yield from _of_interval(config, length, tasks)
    yield from _of_decay(config, length, before)
    yield from _of_dtype(config)
    if getattr(config, "of", None) is None:  # It has another stage's settings.
        yield from unread.lines(config)


def _of_length(config: Any, length: RunLength) -> Iterator[str]:
    """Yields a line where whole chunks make a run much longer than was asked for.

    A chunk is not cut to a run that is shorter: lengthened, it would not come to what a
    run of that length does.
    """
    field, one = "env_steps", length.steps
    if config.kind == "offline":
        field, one = "updates", 1
    asked = getattr(config.training, field)
    trained, chunk = length.updates * one, length.per_chunk * one
    if trained > _LONGER * asked:
        yield (
            f"training.{field}={asked}: {trained} are trained, whole chunks of {chunk}; "
            f"with training.updates_per_chunk below {length.per_chunk} there are fewer"
        )


def judged(config: Any, program: Program) -> list[types.TaskSpec]:
    """Returns the tasks by whose episodes in training PBT judges members."""
    if program.metric is None or config.population.fitness.source != "training":
        return []
    tasks = zip(program.spec.tasks, program.metric.weight, strict=True)
    return [task for task, weight in tasks if weight > 0]


def made_before(learner: Any, update: int) -> int:
    """Returns the updates that learners [P] had made when a run, now at ``update``, began.

    >>> made_before(type("Learner", (), {"updates": np.array([30, 30])}), 10)
    20
    """
    made = getattr(learner, "updates", None)
    return 0 if made is None else max(int(np.max(jax.device_get(made))) - update, 0)


def two_episodes(max_steps: int, unroll_length: int, per_chunk: int = 1) -> int:
    """Returns the fewest updates, in whole chunks, in which a slot ends two episodes.

    ⌈2 (max_steps + 1) / unroll_length⌉: a reset takes a step as well.

    >>> two_episodes(99, 32), two_episodes(99, 32, per_chunk=5)
    (7, 10)
    """
    updates = math.ceil(2 * (max_steps + 1) / unroll_length)
    return math.ceil(updates / per_chunk) * per_chunk


def _of_interval(
    config: Any, length: RunLength, tasks: Sequence[types.TaskSpec]
) -> Iterator[str]:
    """Yields a line where PBT's rounds are more than the episodes to judge by."""
    known = [task for task in tasks if task.max_steps is not None]
    if not known:
        return
    longest = max(known, key=lambda task: task.max_steps or 0)
    unroll = config.training.unroll_length
    assert longest.max_steps is not None
    enough = two_episodes(longest.max_steps, unroll, length.per_chunk)
    interval = config.population.pbt.interval
    # Rounds come between chunks.
    if max(interval, length.per_chunk) >= two_episodes(longest.max_steps, unroll):
        return
    yield (
        f"population.pbt.interval={interval}: {interval * unroll} steps of a slot are "
        f"less than two episodes of {longest.name} at its longest "
        f"({longest.max_steps} steps), so that rounds may see nothing new; "
        f"{enough} would do"
    )


def _of_decay(config: Any, length: RunLength, before: int) -> Iterator[str]:
    """Yields a line where networks learn nothing at the end of a run, or at all.

    Of an optimiser's ``decay_updates``; others, of a table's epsilon say, may end early.
    """
    given = config.agent.hparams
    decay = given.get("decay_updates", 0.0)
    # A chunk may be begun that was not asked for.
    left = before + length.updates - decay
    is_frozen = getattr(config, "of", None) is not None
    if is_frozen or "adam_eps" not in given or decay <= 0:
        return
    if before and left >= length.updates:
        yield (
            f"agent.hparams.decay_updates={decay:g}: the learners that it begins with "
            f"have made {before} updates, so that the learning rate is 0 in all "
            f"{length.updates} of its own; {before + length.updates} would do"
        )
    elif left >= length.per_chunk:
        yield (
            f"agent.hparams.decay_updates={decay:g}: the learning rate is 0 in the last "
            f"{left:g} of {length.updates} updates"
        )


def _of_dtype(config: Any) -> Iterator[str]:
    """Yields a line for each type that a CPU does not compute in."""
    if jax.default_backend() != "cpu":
        return
    for name, value in strict.flat({"agent.config": config.agent.config}).items():
        if name.endswith(".dtype") and value == "bfloat16":
            yield f"{name}=bfloat16: on a CPU, which is slower in it, float32 is used"


def of_longer(config: Any, changed: Any) -> Iterator[str]:
    """Yields a line where a new length of a run also moves its schedules."""
    names = [n for n, x in config.agent.schedules.items() if x.kind != "plateau"]
    if names and "training.env_steps" in changed:
        yield (
            f"training.env_steps: the schedules of {', '.join(names)} are by the share "
            "of the run that is done and go back with it"
        )


def of_found(config: Any, changed: Mapping[str, Any], hp: Any) -> Iterator[str]:
    """Yields a line for each searched hyperparameter that is set for all members.

    ``hp`` are those that the members had, [P] each.
    """
    found = hparams.flatten(hp)
    for name, (_, new) in changed.items():
        leaf = name.removeprefix("agent.hparams.")
        if leaf != name and leaf in config.population.search:
            values = np.asarray(found[leaf])
            yield (
                f"{name}: all members go on from {new:g}; population.search had come to "
                f"{values.min():g} to {values.max():g}"
            )


def of_sources(
    was: Mapping[str, str], now: Mapping[str, str], update: int
) -> Iterator[str]:
    """Yields a line for each module from outside that is not what it was at ``update``.

    Both are {module: SHA-256}, see ``config.modules.sources``.
    """
    for module in sorted(was.keys() & now.keys()):
        if was[module] != now[module]:
            yield (
                f"{module}: its file has changed since it made update {update}; the run "
                "goes on with it as it is now"
            )
