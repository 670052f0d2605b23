"""An evaluate stage: the weights of another stage, frozen, on tasks of their own.

Nothing is learned but in the carry. The summary has the return of every episode, what
the weights hashed to before and after, and the curves of the stages to compare with.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mtrl_jax import agents, errors, tree, types
from mtrl_jax.agents import demonstrator
from mtrl_jax.config import agent_settings, stage_schema
from mtrl_jax.engine import context_runner, sharding
from mtrl_jax.envs import trials
from mtrl_jax.experiments import (
    acting,
    build,
    device_memory,
    episode_curves,
    reporters,
    task_families,
)
from mtrl_jax.training import provenance, report
from mtrl_jax.training.program import Program, Reporter, RunLength
from mtrl_jax.types import Tree

# The learners and hyperparameters [P] of the stage that is evaluated.
Source = tuple[Tree, Tree]


def make_program(
    config: stage_schema.EvaluateStage,
    spec: types.EnvSpec,
    source: Source | None,
    compared: Callable[[], dict[str, Any]] = dict,
    is_new: bool = True,
) -> Program:
    """Returns the program of an evaluate stage.

    ``spec`` is what the agent was built for; without its ``source`` they are good for
    finding mistakes alone. ``compared()`` returns the curves of other stages. One that
    has begun, not ``is_new``, keeps a ``max_steps`` that would be refused.

    Raises:
      ConfigError: tasks that the agent cannot see or act in, or without an end.
    """
    # Slots here have other tasks than those it was trained in.
    agent = build.make_agent(config, spec._replace(slot_tasks=()))
    env = task_families.testing(config)
    (members, slots), settings = env.batch, config.evaluation
    _check_trials(env.spec, settings.episodes)
    check_fits(env.spec, spec, config.of)
    acting.check_tasks(agent, config, spec, env.spec, config.of)
    if is_new:
        tested = config.evaluation.hparams
        acting.check_played("evaluation.hparams", tested, agent, config, spec)
    test_spec = trials.per_episode(env.spec)
    longest = _longest(config, test_spec, is_new)
    run_length = _run_length(config, slots, longest)
    runner = _runner(config, agent, env, run_length.per_chunk)
    hosted = isinstance(env, types.HostEnv)
    place = build.placement(config, slots, not hosted)
    parts = device_memory.check_acting(agent, config, slots, place.mesh)
    weights, hp = source or (None, build.initial_hparams(config, place.keys))
    hp_played = build.with_evaluation_hparams(config, hp)
    _check_prompt(config, hp_played, longest)
    before = "" if weights is None else fingerprint(weights)
    weights = sharding.on_devices(weights, place.mesh, members)
    return build.assemble(
        config,
        place,
        # Copied, because the runner donates its state.
        init=lambda keys, _: runner.init(keys, tree.copy(weights)),
        chunk=runner.chunk,
        pure=not hosted,
        compiled=not hosted,
        indivisible=hosted,
        hp=hp_played,
        spec=test_spec,
        agent=agent,
        batch=(members, slots),
        run_length=run_length,
        reporter=_reporter(config, test_spec, before, compared),
        evaluate=None,
        pbt_step=None,
        metric=None,
        close=env.close if isinstance(env, types.HostEnv) else lambda: None,
        memory=lambda: device_memory.line(parts, members, place.mesh),
    )


def _run_length(
    config: stage_schema.EvaluateStage, slots: int, longest: int
) -> RunLength:
    """Returns the length of an evaluation, an update being a step of every slot."""
    settings = config.evaluation
    # With the step that resets.
    steps = settings.episodes_per_chunk * (longest + 1)
    updates = math.ceil(settings.episodes / settings.episodes_per_chunk) * steps
    if updates >= 2**31:
        raise errors.ConfigError(
            f"evaluation.episodes={settings.episodes}: of {longest} steps each these are "
            f"{updates} of a slot; give shorter ones by evaluation.max_steps, or fewer"
        )
    return RunLength(
        updates=updates,
        per_chunk=steps,
        steps=slots,
        test_every=0,
        save_every=config.checkpoint.every_updates,
    )


def _runner(
    config: stage_schema.EvaluateStage,
    agent: types.Agent,
    env: types.Env | types.HostEnv,
    steps: int,
) -> context_runner.Runner:
    """Returns the runner of ``steps`` a chunk, in the program or from Python."""
    prompt, settings = _prompt(config), config.evaluation
    lengths = {
        "episodes": settings.episodes,
        "steps_per_chunk": steps,
        "longest": steps // settings.episodes_per_chunk - 1,
    }
    if isinstance(env, types.HostEnv):
        # Of no such task it is known what is best, so there is no prompt.
        return context_runner.make_host(agent, env, **lengths)
    return context_runner.make(agent, env, prompt=prompt, **lengths)


def fingerprint(learner: Tree) -> str:
    """Returns the SHA-256 of every leaf of the learners, names included."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(learner):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        x = np.ascontiguousarray(jax.device_get(leaf))
        name = f"{jax.tree_util.keystr(path)} {x.dtype} {x.shape}"
        found.update(name.encode() + x.tobytes())
    return found.hexdigest()


def check_fits(test: types.EnvSpec, trained: types.EnvSpec, of: str) -> None:
    """Raises ConfigError unless ``test`` is seen and acted in as ``trained``, of stage
    ``of``, was."""

    def shapes(spec: types.EnvSpec) -> dict[str, Any]:
        return {name: (list(x.shape), str(x.dtype)) for name, x in spec.obs.items()}

    for what, given, known in (
        ("observe", shapes(test), shapes(trained)),
        ("act in", test.action, trained.action),
    ):
        if given != known:
            raise errors.ConfigError(
                f"tasks: they {what} {given}, stage {of!r} learned with {known}; "
                "give tasks with the same options"
            )


def _check_trials(test: types.EnvSpec, episodes: int) -> None:
    for task in test.tasks:
        if 1 < task.trial < episodes:
            raise errors.ConfigError(
                f"evaluation.episodes={episodes}: a trial of {task.name} is over after "
                f"{task.trial}, and what was found out in it; give at most {task.trial}, "
                "or the tasks a longer trial"
            )


def _longest(
    config: stage_schema.EvaluateStage, spec: types.EnvSpec, is_new: bool
) -> int:
    """Returns how many steps each episode has; no episode is cut here.

    Raises:
      ConfigError: an episode may be longer. A slot with such ones would not come to its
        last, and what it did not come to is left out: the short ones would judge.
    """
    settings = config.evaluation
    known = [task.max_steps for task in spec.tasks]
    limits = [
        min((x for x in (settings.max_steps, y) if x), default=None) for y in known
    ]
    for task, limit in zip(spec.tasks, limits):
        if is_new and limit and task.max_steps and limit < task.max_steps:
            raise errors.ConfigError(
                f"evaluation.max_steps={limit}: episodes of {task.name} may last "
                f"{task.max_steps} steps and are not cut in a stage of kind evaluate; "
                f"give at least {task.max_steps}, leave it out, or give the task shorter "
                "episodes by its options"
            )
    for task, limit in zip(spec.tasks, limits):
        if limit is None:
            raise errors.ConfigError(
                f"evaluation.max_steps: episodes of {task.name} may be of any length; "
                "say how long"
            )
    return max(x or 0 for x in limits)


def _prompt(config: stage_schema.EvaluateStage) -> context_runner.Prompt | None:
    """Returns the demonstration of a stage that begins with one.

    Raises:
      ConfigError: the agent cannot watch, or nobody knows what is best.
    """
    if config.prompt is None:
        return None
    info = agent_settings.module(config).INFO
    observe_action = info.observe_action
    if observe_action is None:
        can = [x for x in agents.AGENTS if agents.get(x).INFO.observe_action]
        raise errors.ConfigError(
            f"prompt: {config.agent.name} learns nothing from watching others; agents "
            f"that do: {', '.join(can)}"
        )
    best, epsilon = task_families.optimal(config), config.prompt.epsilon
    noisy = jax.vmap(lambda *x: demonstrator.noisy(x[0], x[1], epsilon, x[2]))

    def play(key: types.Key, state: Tree, legal: types.Array) -> types.Array:
        return noisy(key, best(state), legal)

    return context_runner.Prompt(
        config.prompt.episodes, play, observe_action, info.keep_prompt
    )


def _check_prompt(config: stage_schema.EvaluateStage, hp: Tree, longest: int) -> None:
    """Raises ConfigError unless a prompt is remembered to the end of an episode."""
    if config.prompt is None:
        return
    static = agent_settings.config(config)
    with errors.at(f"prompt.episodes={config.prompt.episodes}"):
        agent_settings.module(config).INFO.check_prompt(
            static, hp, (config.prompt.episodes + 1) * longest
        )


def _reporter(
    config: stage_schema.EvaluateStage,
    spec: types.EnvSpec,
    before: str,
    compared: Callable[[], dict[str, Any]],
) -> Reporter:
    numbers = [spread.number for spread in task_families.entries(config)]

    def finish(state, evaluation, totals, restart):
        after = fingerprint(state.learner)
        if after != before:
            raise errors.RunError(
                f"the weights of stage {config.of!r} hashed to {before[:12]} before "
                f"and to {after[:12]} after the evaluation, which must not change them"
            )
        returns, rewards, task = jax.device_get(
            (state.returns, state.rewards, state.ts.task)
        )
        # What weights that are not finite did counts for nothing.
        finite = np.asarray(tree.all_finite(state.learner, axes=1))
        returns = np.where(finite[:, None, None], returns, np.nan)
        watched = config.prompt.episodes if config.prompt else 0
        summary = {
            **episode_curves.summarise(spec, returns, rewards, task, numbers, watched),
            "parameters": {"before": before, "after": after},
            "compared": compared(),
            "totals": dict(totals),
            "versions": provenance.versions(),
            "machine": provenance.machine(),
        }
        return summary, episode_curves.table(summary)

    return Reporter(
        row=lambda output, evaluation: report.row(spec, output, evaluation),
        shown=lambda row: row["returns"],
        best=lambda row: reporters.lowest(
            -episode_curves.scores(spec, np.stack(list(row["returns"].values()), 1))
        ),
        begin=lambda: report.tasks(spec, {}),
        finish=finish,
    )
