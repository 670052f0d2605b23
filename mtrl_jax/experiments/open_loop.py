"""What a trained world model predicts of its tasks, beside what came: pictures and errors.

A member plays; of an episode its model sees the first steps, ``CONTEXT`` or as many as are
asked for, then the actions alone. Of each task the longest episodes count. Errors are
squared, the mean over pixels and the episodes that go on, and stand beside those of the
last step seen, copied (``plots/prediction_film``).

Ref: Hafner et al. 2021 (arXiv:2010.02193), open-loop predictions after 5 steps.
"""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np

from mtrl_jax import agents, errors, random, types
from mtrl_jax.config import agent_settings, schema
from mtrl_jax.engine import population
from mtrl_jax.experiments import (
    build,
    environments,
    kinds,
    reading,
    render,
    reporters,
    selection,
)
from mtrl_jax.networks.world_models import observation_decoder
from mtrl_jax.plots import prediction_film
from mtrl_jax.training.program import Program

CONTEXT = 5  # steps seen, and of more the last that are drawn
AHEAD = 45  # steps predicted, at most
SLOTS = 16  # of a task
PLAYED = 200  # steps of each slot
EPISODES = 16  # of a task
SHOWN = 3  # of a task that is alone
REPORTED = 15  # steps ahead that the line tells the error of


def draw(
    folder: pathlib.Path,
    out: pathlib.Path,
    member: int | None,
    steps: int,
    context: int = CONTEXT,
) -> list[str]:
    """Draw a film to ``out`` and a contact sheet beside it; return lines to print.

    ``member`` is the best by default, see ``reporters.best_saved``; ``steps`` as many at
    most, of which ``context`` are seen: what follows an episode's opening may be harder to
    foresee than the opening.

    Raises:
      ConfigError: no run of an agent with a world model, no images, too few steps, more
        context than is played, no such member, or a path that is no .gif.
      CheckpointError: there is no sound checkpoint.
    """
    run, config = reading.with_environments(folder, ("online",))
    predicting = _check(config, steps, context)
    render.check(config, out, member)
    with kinds.restored(run, config) as (update, program, saved):
        if member is None:
            member = reporters.best_saved(folder, update, program, saved.run)
        if "image" not in program.spec.obs:
            raise errors.ConfigError(
                "--open-loop: the run's tasks have no images to predict"
            )
        played = play(config, program, saved, member)
        ts, action, live = longest(
            *played, min(steps, context + AHEAD), len(program.spec.tasks)
        )
        predict = predicting(program.spec, agent_settings.config(config))
        keys = selection.evaluation_key(saved.run)
        learner, hp, key = jax.tree.map(
            lambda x: x[member], (saved.run.learner, saved.hparams, keys)
        )
        said = jax.jit(predict, static_argnums=5)(learner, ts, action, key, hp, context)
    truth, said = images(program.spec, ts, np.asarray(said["image"]))
    task = np.asarray(ts.task[0])
    own = shown(program.spec, task)
    begin = max(0, context - CONTEXT)
    film, sheet = prediction_film.write(
        out, truth[begin:, own], said[begin:, own], context - begin
    )
    lines = _lines(program.spec, task, truth, said, live, context)
    return [str(film), str(sheet), *lines]


def play(
    config: schema.ExperimentConfig,
    program: Program,
    saved: Any,
    member: int,
) -> tuple[types.TimeStep, np.ndarray]:
    """Returns (ts [PLAYED, B], actions [PLAYED - 1, B]) of a member's play, as in tests."""
    env = environments.make_host_env(
        config, environments.tasks_of(config), f"{config.seed}/open-loop", SLOTS
    )
    members = population.population(program.agent, env.batch[0])
    act, hp = jax.jit(members.act), build.with_evaluation_hparams(config, saved.hparams)
    keys = selection.evaluation_key(saved.run)
    carry, ts = members.carry(env.batch[1]), env.reset()
    seen, taken = [], []
    try:
        for t in range(PLAYED):
            seen.append(jax.tree.map(lambda x: np.asarray(x)[member], ts))
            if t == PLAYED - 1:
                break
            action, carry, _ = act(
                saved.run.learner, carry, ts, random.fold(keys, t), hp
            )
            taken.append(np.asarray(action)[member])
            env.send(action)
            ts = env.recv()
    finally:
        env.close()
    return jax.tree.map(lambda *x: np.stack(x), *seen), np.stack(taken)


def longest(
    ts: types.TimeStep, action: np.ndarray, steps: int, tasks: int
) -> tuple[types.TimeStep, np.ndarray, np.ndarray]:
    """Returns (ts [T, N], actions [T - 1, N], live [T, N]) of episodes from their start.

    Of each task, one after the other, ``EPISODES`` at most, the longest first; ``live``
    is False after an episode's end, where rows are of no use.
    """
    first = np.asarray(ts.first)
    start, slot = np.nonzero(first)
    rows = start + np.arange(steps)[:, None]  # [T, N]
    at = np.minimum(rows, len(first) - 1)
    begins = np.cumsum(first[at, slot], axis=0)
    live = (rows < len(first)) & (begins == 1)
    order = np.argsort(-live.sum(0), kind="stable")
    task = np.asarray(ts.task)[0, slot]
    own = np.concatenate([order[task[order] == k][:EPISODES] for k in range(tasks)])
    at, slot = at[:, own], slot[own]
    taken = action[np.minimum(at[:-1], len(action) - 1), slot]
    return jax.tree.map(lambda x: x[at, slot], ts), taken, live[:, own]


def images(
    spec: types.EnvSpec, ts: types.TimeStep, said: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (truth, prediction) [T, N, H, W, C] between 0 and 1, padding 0 in both."""
    image = np.asarray(ts.obs["image"])
    truth = image / 255.0 if image.dtype == np.uint8 else image.astype(float)
    own = np.asarray(observation_decoder.task_entries(spec)["image"])
    return truth, said * own[np.asarray(ts.task)]


def shown(spec: types.EnvSpec, task: np.ndarray) -> np.ndarray:
    """Returns which of the episodes [N] are drawn: one of each task, or ``SHOWN``."""
    each = SHOWN if len(spec.tasks) == 1 else 1
    return np.concatenate([np.nonzero(task == k)[0][:each] for k in np.unique(task)])


def _lines(
    spec: types.EnvSpec,
    task: np.ndarray,
    truth: np.ndarray,
    said: np.ndarray,
    live: np.ndarray,
    context: int,
) -> list[str]:
    """Returns a line for each task: the errors some steps ahead."""
    lines = []
    for k, own in enumerate(spec.tasks):
        of = task == k
        found = prediction_film.score(truth[:, of], said[:, of], context, live[:, of])
        ahead = min(REPORTED, int((found.sequences > 0).sum()))
        if ahead == 0:
            lines.append(f"{own.name}: no episode of more than {context} steps")
            continue
        model, copied = found.model[ahead - 1], found.last_frame[ahead - 1]
        lines.append(
            f"{own.name}: MSE {ahead} steps ahead {model:.4g}, last frame copied "
            f"{copied:.4g}, {found.sequences[ahead - 1]} episodes"
        )
    return lines


def _check(config: Any, steps: int, context: int) -> Any:
    """Returns the agent's ``open_loop``; raises ConfigError if it has none, or no steps."""
    predicting = agent_settings.module(config).INFO.open_loop
    if predicting is None:
        can = [name for name in agents.AGENTS if agents.get(name).INFO.open_loop]
        raise errors.ConfigError(
            f"--open-loop: agent {config.agent.name!r} has no world model; one of "
            f"{', '.join(can)} has"
        )
    if context >= PLAYED:
        raise errors.ConfigError(
            f"--context {context}: {PLAYED} steps are played, give less than that"
        )
    if steps <= context:
        raise errors.ConfigError(
            f"--steps {steps}: the model sees {context} steps, give more than that"
        )
    return predicting
