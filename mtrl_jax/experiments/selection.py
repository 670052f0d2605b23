"""How members are judged, and what follows: evaluation, recent score, a round of PBT.

Members are tested on environments of their own with keys of their own, so that a test
changes nothing in training. A round of PBT scores every member, by such a test or by its
recent training episodes, and copies what is learned from the better to the worse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import errors, hparams, random, tree, types
from mtrl_jax.config import schema
from mtrl_jax.engine import evaluate, fitness, fused_runner, pbt, population, statistics
from mtrl_jax.envs import curriculum
from mtrl_jax.experiments.environments import World
from mtrl_jax.training.program import RoundRecord
from mtrl_jax.types import Array, Tree

# Where an environment names no episode limit of its own.
_MAX_STEPS = 10_000


def make_evaluate(
    config: schema.ExperimentConfig, agent: types.Agent, world: World
) -> Callable[[fused_runner.RunState, Tree], evaluate.Evaluation]:
    """Returns ``evaluate(state, hp)`` on the world's test environments.

    Raises ConfigError where a slot may not come to all of its ``rounds``.
    """
    settings, env = config.evaluation, world.test
    _check_rounds(settings, env.spec.tasks)
    steps = _steps(settings, env.spec.tasks)

    def tested(hp: Tree) -> Tree:
        return hparams.override(hp, settings.hparams)

    if world.kind == "host":
        hosted = evaluate.make_host(agent, env, steps, settings.rounds)

        def evaluate_hosted(state, hp):
            start, key = (random.fold(evaluation_key(state), i) for i in range(2))
            return hosted(state.learner, tested(hp), key, start)

        return evaluate_hosted

    run = evaluate.make(agent, env, steps, settings.rounds)

    @jax.jit
    def evaluate_from(learner, hp, key, start):
        return run(learner, tested(hp), random.fold(key, 1), *start)

    # Outside the program where a reset acts on the world.
    reset = jax.jit(env.reset) if env.pure else env.reset

    def evaluate_state(state, hp):
        key = evaluation_key(state)
        start = reset(random.fold(key, 0), env.params)
        return evaluate_from(state.learner, hp, key, start)

    return evaluate_state


def _steps(settings: schema.EvaluationConfig, tasks: Sequence[types.TaskSpec]) -> int:
    """Returns the steps of a test's longest episode.

    Raises ConfigError where those of all rounds cannot be counted.
    """
    longest = max(task.max_steps or _MAX_STEPS for task in tasks)
    given = settings.max_steps or longest
    is_known = all(task.max_steps for task in tasks)
    steps = min(given, longest) if is_known else given
    most = 2**31 // (steps + 1)
    if settings.rounds > most:
        raise errors.ConfigError(
            f"evaluation.rounds={settings.rounds}: of {steps} steps each these are too "
            f"many to count; give at most {most}"
        )
    return steps


def _check_rounds(
    settings: schema.EvaluationConfig, tasks: Sequence[types.TaskSpec]
) -> None:
    """Raises ConfigError unless every slot comes to as many episodes as there are rounds.

    An episode that is not over when its steps are leaves no time to the slot's next: the
    ones that had not begun would count as 0, and without them the short ones would judge.
    """
    if settings.rounds == 1:
        return
    for task in tasks:
        longest = task.max_steps
        if longest and (settings.max_steps or longest) >= longest:
            continue
        lasts = f"{longest} steps" if longest else "any number of steps"
        then = (
            f"give evaluation.max_steps={longest} or more, or " if longest else "give "
        )
        raise errors.ConfigError(
            f"evaluation.rounds={settings.rounds}: episodes of {task.name} may last "
            f"{lasts}, and one that is cut leaves no time for the next; {then}rounds=1"
        )


def evaluation_key(state: fused_runner.RunState) -> types.Key:
    """Returns the keys ``[P]`` of an evaluation after ``state.step`` updates."""
    return random.at(state.key, state.step, random.EVALUATE)


def recent_score(
    metric: fitness.Metric, state: fused_runner.RunState
) -> tuple[Array, Array]:
    """Returns (score, episodes) ``[P]`` of the members by their recent episodes.

    The scores are NaN while members are at different levels of a curriculum: an easier
    one pays more.
    """

    @jax.jit
    def score(stats, task):
        finite = jnp.ones(stats.recent.shape[0], bool)
        judged = fitness.of_training(metric, stats, task, finite)
        return judged.score, judged.episodes

    found, episodes = score(state.stats, state.ts.task)
    if not _at_one_level(getattr(state, "curriculum", ())):
        found = jnp.full_like(found, jnp.nan)
    return found, episodes


def _at_one_level(course: Tree) -> bool:
    """Returns whether all members are at the same levels of a curriculum, if any."""
    if not isinstance(course, curriculum.Levels):
        return True
    level = np.asarray(course.level)
    return bool((level == level[:1]).all())


def make_pbt_step(
    config: schema.ExperimentConfig,
    agent: types.Agent,
    spec: types.EnvSpec,
    batch: tuple[int, int],
    metric: fitness.Metric,
) -> Callable[..., tuple] | None:
    """Returns ``pbt_step``, a round of PBT; None where the config asks for none.

    ``pbt_step(state, hp, pbt_state, evaluation) -> (state, hp, pbt_state, record)``, the
    record being a RoundRecord.
    """
    population_config = config.population
    choice = population_config.fitness
    if population_config.pbt is None:
        return None
    if population_config.axis == "population" and len(spec.tasks) > 1:
        raise errors.ConfigError(
            "population.pbt with population.axis='population': members on different "
            "tasks cannot replace each other; leave one of them out"
        )
    agents = population.population(agent, batch[0])

    def fitness_fn(state, evaluation, finite: Array) -> pbt.Fitness:
        if choice.source == "evaluation":
            return fitness.of_evaluation(metric, evaluation, finite)
        return fitness.of_training(metric, state.stats, state.ts.task, finite)

    def reset_fn(state, replaced: Array, finite: Array):
        # The memory of a member that was not finite may not be either.
        carry = tree.where(replaced & ~finite, agents.carry(batch[1]), state.carry)
        stats = statistics.forget(state.stats, replaced)
        course = curriculum.forget(state.curriculum, replaced)
        return state._replace(carry=carry, stats=stats, curriculum=course)

    return pbt_step_of(population_config, fitness_fn, reset_fn)


def pbt_step_of(
    settings: schema.PopulationConfig,
    fitness_fn: Callable[[Any, Any, Array], pbt.Fitness],
    reset_fn: Callable[[Any, Array, Array], Any],
) -> Callable[..., tuple]:
    """Returns a step as ``make_pbt_step`` does, of a population compared in any way.

    ``fitness_fn(state, evaluation, finite)`` says what members are worth;
    ``reset_fn(state, replaced, finite)`` returns the state without what is known of
    replaced members. A state has ``learner``, ``key`` and ``step``; a ``memory`` stays
    where it is.
    """
    assert settings.pbt is not None
    config = settings.pbt

    def pbt_step(state, hp, pbt_state, evaluation):
        finite = tree.all_finite(state.learner, axes=1)
        judged = fitness_fn(state, evaluation, finite)
        source, new_hp, pbt_state = pbt.round(
            random.at(state.key, state.step, random.PBT),
            state.step,
            judged,
            hp,
            pbt_state,
            ranges=settings.search,
            config=config,
        )
        replaced = source != jnp.arange(settings.size)
        state = reset_fn(state, replaced, finite)
        state = state._replace(learner=pbt.apply(state.learner, source))
        record = RoundRecord(
            score=judged.score,
            episodes=judged.episodes,
            finite=finite,
            source=source,
            ancestor=pbt_state.ancestor,
            before=hp,
            after=new_hp,
        )
        return state, new_hp, pbt_state, record

    return pbt_step
