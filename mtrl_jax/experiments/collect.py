"""A collect stage: a run of learners whose every step goes to disk, history by history.

Member p's slot b is one history: a learner's stream of steps on one task, from its first
random action to its last; or that of a learner of another stage, which plays and learns
nothing. The file says where every step belongs, so a process that was killed after its
last checkpoint writes the same steps to the same places again. Environments outside the
program (envpool) begin new episodes there, with other seeds: the steps before stay, the
episode that was going on is cut off without a reset row.
"""

from __future__ import annotations

import contextlib
import functools
import pathlib
from typing import Any

import jax

from mtrl_jax import errors, types
from mtrl_jax.agents.common import frozen, watched
from mtrl_jax.config import agent_settings, loading, modules, stage_schema
from mtrl_jax.data import histories, layout
from mtrl_jax.envs import expert_labels
from mtrl_jax.experiments import acting, build, online, task_families
from mtrl_jax.training import progress, run_folder
from mtrl_jax.training.program import Program, Recorder, Recording

FOLDER = "histories"


def make_program(
    config: stage_schema.CollectStage,
    restart: int = 0,
    teacher: Any = None,
    check: bool = True,
) -> Program:
    """Returns the program of a collect stage; see ``online.make_program``.

    ``teacher`` are the settings of the stage whose learners watch, if any.

    Raises:
      ConfigError: a setting that does not fit the environments, agent or machine.
    """
    world, names, masks = task_families.collecting(config, restart)
    agent = make_agent(config, world.spec, teacher)
    if check and restart == 0:
        own, played = build.make_agent(config, world.spec), config.play.hparams
        acting.check_played("play.hparams", played, own, config, world.spec)
    contents = layout.Contents(
        _written(config, world.spec), _recorded(config, agent, world.spec, teacher)
    )
    record = _record(config, contents, names, masks, world.batch[1])
    make = functools.partial(make_agent, config, teacher=teacher)
    return online.make_program(
        config, restart, world=world, make_agent=make, record=record, check=check
    )


def contents_of(
    config: stage_schema.CollectStage, teacher: Any = None
) -> layout.Contents:
    """Returns what the stage's dataset will hold, a task for each name."""
    world, names, masks = task_families.collecting(config, -1)
    with contextlib.closing(world):
        agent = make_agent(config, world.spec, teacher)
        recorded = _recorded(config, agent, world.spec, teacher)
        spec = _written(config, world.spec)
    return layout.contents_of(layout.describe(spec, names, 1, masks, None, recorded))


def make_agent(
    config: stage_schema.CollectStage, spec: types.EnvSpec, teacher: Any = None
) -> types.Agent:
    """Returns the agent that plays: one that learns, or one of another stage, frozen.

    That of ``teacher``, the settings of a third stage, watches it.

    Raises:
      ConfigError: actions of others between those of an agent that remembers its own.
    """
    agent = build.make_agent(config, spec)
    if config.of is None:
        return agent
    observe_action = agent_settings.module(config).INFO.observe_action
    epsilon = config.play.epsilon
    if epsilon and _is_confused_by_others(agent, config, spec):
        raise errors.ConfigError(
            f"play.epsilon={epsilon}: {config.agent.name} acts by what it remembers, its "
            "own actions perhaps among that, which others would replace; leave it out, "
            "and give a higher play.hparams.temperature if the agent has one"
        )
    player = frozen.make(agent, spec.action, epsilon, observe_action)
    if teacher is None:
        return player
    own = build.make_agent(teacher, spec)
    if _is_confused_by_others(own, teacher, spec):
        raise errors.ConfigError(
            f"watched_by={config.watched_by!r}: {teacher.agent.name} acts by what it remembers, "
            "its own actions perhaps among that, and cannot watch others; give one "
            "without a memory, or an agent that can (INFO.observe_action)"
        )
    watch = agent_settings.module(teacher).INFO.observe_action
    return watched.make(player, own, agent_settings.hparams(teacher), watch)


def _is_confused_by_others(
    agent: types.Agent, config: Any, spec: types.EnvSpec
) -> bool:
    """Returns whether an agent remembers, and cannot observe actions of others."""
    can = agent_settings.module(config).INFO.observe_action is not None
    return not can and acting.reads(agent, config, spec).carry


def _recorded(
    config: stage_schema.CollectStage,
    agent: types.Agent,
    spec: types.EnvSpec,
    teacher: Any,
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns what is kept of what acting notes down, by name.

    Raises:
      ConfigError: it notes down no such thing.
    """
    if not config.record:
        return {}
    known, noting = acting.notes(agent, config, spec), teacher or config
    for i, name in enumerate(config.record):
        if name not in known:
            raise errors.ConfigError(
                f"record.{i}={name!r}: acting of {noting.agent.name} notes down "
                f"{', '.join(known) or 'nothing'}"
            )
    return {name: known[name] for name in config.record}


def _written(config: stage_schema.CollectStage, spec: types.EnvSpec) -> types.EnvSpec:
    """Returns the spec of what is written: with labels, what is best is an observation.

    Raises:
      ConfigError: labels of a stage whose environments do not say what is best.
    """
    if not config.labels:
        return expert_labels.without(spec)
    if types.OPTIMAL not in spec.obs:
        raise errors.ConfigError(
            "labels=True: demonstrators alone observe what is best, "
            f"{config.agent.name} does not; give agent.name=demonstrator"
        )
    return spec


def _record(
    config: stage_schema.CollectStage,
    contents: layout.Contents,
    names: list[str],
    masks: bool,
    slots: int,
) -> Recording:
    length = config.training.unroll_length
    steps = online.run_length(config, slots).updates * length
    spec, recorded, _ = contents
    size = histories.plan(spec, len(names), steps, masks=masks, recorded=recorded)
    announcement = (
        f"{len(names)} histories of {steps} steps on {len(set(names))} tasks: "
        f"{progress.size(size)} on disk"
    )
    # What makes the steps. More of the settings would forbid changes that do not, and a
    # module is the same wherever it is; earlier versions wrote its folder down.
    given = {
        name: value
        for name, value in loading.to_dict(config).items()
        if name in ("seed", "tasks", "name")
    }
    made_by = modules.without_folders(given)

    def extras(noted: types.Tree) -> types.Tree:
        found = acting.by_name(noted) if recorded else {}
        return {name: found[name] for name in recorded}

    def open_(folder: pathlib.Path, update: int) -> Recorder:
        try:
            writer = histories.Writer(
                folder / FOLDER,
                spec,
                names,
                steps,
                masks=masks,
                recorded=recorded,
                config=made_by,
                after=update * length,
                same=lambda was, now: modules.without_folders(was) == now,
            )
        except histories.GapError as gap:
            raise errors.DatasetError(
                f"{gap}; {_way_out(folder, gap, length)}"
            ) from gap
        except ValueError as error:
            raise errors.DatasetError(str(error)) from error

        def write(history: types.Rollout, update: int) -> None:
            try:
                at = update * length - history.action.shape[0]
                writer.write(history, at=at)
            except ValueError as error:
                raise errors.DatasetError(f"{folder / FOLDER}: {error}") from error

        return Recorder(write, writer.close)

    return Recording(announcement, size, open_, extras)


def _way_out(folder: pathlib.Path, gap: histories.GapError, length: int) -> str:
    """Returns what to do about histories that do not reach the newest checkpoint."""
    again = f"remove {folder} to collect them again"
    saved = folder / run_folder.CHECKPOINTS
    updates = [int(path.name) for path in saved.iterdir() if path.name.isdigit()]
    sound = [update for update in updates if update * length <= gap.sound]
    if not sound:
        return again
    return (
        f"{again}, or the checkpoints after {max(sound)} from {saved} to go on from step "
        f"{max(sound) * length}"
    )
