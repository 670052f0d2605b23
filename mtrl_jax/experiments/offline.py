"""An offline stage: the data put on the devices, an agent that learns from them.

Every so often updates are measured on histories that none is trained on: whole tasks are
held out where the data have several.
"""

from __future__ import annotations

import functools
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import checkpoint, errors, hparams, types
from mtrl_jax.config import agent_settings, stage_schema
from mtrl_jax.data import columns, files, histories, layout, rows, windows
from mtrl_jax.engine import offline_runner, pbt, sharding
from mtrl_jax.envs import expert_labels
from mtrl_jax.experiments import build, checks, device_memory, reporters, selection
from mtrl_jax.training import progress
from mtrl_jax.training.program import Program, RunLength
from mtrl_jax.types import Tree


def contents_in(folder: pathlib.Path) -> layout.Contents:
    """Returns what the rows of the dataset in ``folder`` hold.

    Raises:
      ConfigError: there is none.
    """
    try:
        return layout.contents_of(files.read_meta(folder))
    except errors.DatasetError as error:
        raise errors.ConfigError(f"data: {error}") from None


def make_program(
    config: stage_schema.OfflineStage,
    contents: layout.Contents,
    folder: pathlib.Path,
    check: bool = True,
) -> Program:
    """Returns the program of an offline stage on the dataset in ``folder``.

    The data are read when the run is prepared, or goes on. Labels, where there are any, are
    among the observations of ``contents.spec``; the agent has them, and what acting
    noted down, as extras. Settings that were checked before are not without ``check``.

    Raises:
      ConfigError: an agent that cannot learn from a dataset, or settings it has not.
    """
    agent = build.make_agent(config, expert_labels.without(contents.spec))
    training, members = config.training, config.population.size
    place = build.placement(config, 1)
    if check:
        check_agent(config, agent, contents, place.mesh)
    score, held_out = config.population.fitness.metric, config.evaluation.held_out > 0

    def sample(key: types.Key, data: windows.Data) -> types.Rollout:
        return windows.sample(
            key,
            data,
            training.batch,
            training.unroll_length,
            prompt=training.prompt_length,
        )

    runner = offline_runner.make(
        agent,
        sample,
        members=members,
        updates_per_chunk=training.updates_per_chunk,
        metric=score,
        at_once=place.at_once,
        mesh=place.mesh,
    )

    @functools.cache
    def sizes() -> checks.Sizes:
        shape = training.batch, training.prompt_length + training.unroll_length
        spec = expert_labels.without(contents.spec)
        return checks.sizes_of(agent, config, spec, *shape)

    @functools.cache
    def data() -> tuple[windows.Data, windows.Data | None]:
        share = device_memory.share(sizes(), members, place.mesh)
        return load(config, folder, place.mesh, share)

    def memory() -> str:
        held = checkpoint.bytes_of(data())
        said = device_memory.line(sizes()._asdict(), members, place.mesh, held)
        longest, length = data()[0].reward.shape[1], training.unroll_length
        if length <= longest:
            return said
        return (
            f"{said}; training.unroll_length={length}: no history has more than "
            f"{longest} rows, and what is left of a window is padding"
        )

    chunk, measure = sharding.keeping_layout(runner.chunk), jax.jit(runner.measure)

    def prepare() -> None:
        data()

    def evaluate(state, hp: Tree) -> dict[str, types.Array]:
        one = hparams.override(hp, agent_settings.module(config).INFO.measured_with)
        changed = build.with_evaluation_hparams(config, one)
        return measure(state, changed, data()[1])

    return build.assemble(
        config,
        place,
        init=runner.init,
        chunk=lambda state, hp: chunk(state, hp, data()[0]),
        compiled=False,
        spec=expert_labels.without(contents.spec),
        agent=agent,
        batch=(members, training.batch),
        run_length=_run_length(config),
        reporter=reporters.of_losses(config, score, held_out),
        evaluate=evaluate if held_out else None,
        pbt_step=_make_pbt_step(config),
        metric=None,
        close=data.cache_clear,
        memory=memory,
    )._replace(prepare=prepare, sources=lambda: {"data": files.fingerprint(folder)})


def check_agent(
    config: stage_schema.OfflineStage,
    agent: types.Agent,
    contents: layout.Contents,
    mesh: sharding.Mesh,
) -> None:
    """Raises ConfigError unless the stage's agent can learn from such a dataset.

    Not if it refuses the sizes, needs what no dataset has, has no such metric as
    members are judged by, all histories would be held out, or all learners do not fit
    the devices of ``mesh``. One update on windows is traced.
    """
    if contents.task:
        try:
            split(np.asarray(contents.task), config.evaluation.held_out, config.seed)
        except ValueError as error:
            raise errors.ConfigError(str(error)) from None
    module, training = agent_settings.module(config), config.training
    length = training.prompt_length + training.unroll_length
    shape = (length, training.batch)
    if module.INFO.needs_extras:
        raise errors.ConfigError(
            f"agent.name={config.agent.name!r} learns from what its own acting noted "
            "down, which no dataset has; give an agent that imitates, such as "
            "behaviour_cloning"
        )
    if training.prompt_length and "prompt_share" not in hparams.names(module.Hparams):
        raise errors.ConfigError(
            f"training.prompt_length={training.prompt_length}: {config.agent.name} does "
            "not tell a prompt from what follows it; use 0, or an agent that has a "
            "prompt_share, such as gato"
        )
    share = _prompt_share(config)
    if share and not training.prompt_length:
        raise errors.ConfigError(
            f"training.prompt_length=0: {config.agent.name} is to read a prompt in "
            f"{share:g} of its sequences and there is none; give so many rows of another "
            "episode, such as 20, or agent.hparams.prompt_share=0"
        )
    label = contents.spec.obs.get(types.OPTIMAL)
    spec = expert_labels.without(contents.spec)

    if length * training.batch > 2**31 - 1:  # Rows are counted in int32.
        raise errors.ConfigError(
            f"training.unroll_length={training.unroll_length}: {training.batch} windows "
            f"of {length} rows, prompts among them, are {length * training.batch} steps "
            f"an update; give at most {2**31 - 1} together"
        )

    def rows_of(dtype: Any, *own: int) -> Any:
        return jax.ShapeDtypeStruct((*shape, *own), dtype)

    with errors.at("agent.config", agent_settings.config(config)):
        checks.check_learns_from_rollouts(agent, config, spec, training.batch, length)
        known = columns.zeros((1, 1)) if module.INFO.reads_columns else None
        extras = windows.Extras(
            rows_of(jnp.bool_),
            None if label is None else rows_of(label.dtype, *label.shape),
            {name: rows_of(x.dtype, *x.shape) for name, x in contents.recorded.items()},
            jax.tree.map(lambda x: rows_of(x.dtype), known),
            rows_of(jnp.bool_) if training.prompt_length else None,
        )
        traced = checks.check_agent(agent, config, spec, training.batch, length, extras)
    # Data stand where a replay would: the learner never has one.
    learner = agent._replace(replay=None)
    device_memory.check(learner, config, traced.sizes, training.batch, mesh)
    metrics = traced.metrics
    score = config.population.fitness.metric
    if score not in metrics:
        raise errors.ConfigError(
            f"population.fitness.metric={score!r} is none of what {config.agent.name} "
            f"measures: {', '.join(metrics)}"
        )


def _prompt_share(config: stage_schema.OfflineStage) -> float:
    """Returns the largest share of sequences that any member is to read a prompt in."""
    drawn = config.population.search.get("prompt_share")
    own = config.agent.hparams.get("prompt_share", 0.0)
    return own if drawn is None else drawn.high


def load(
    config: stage_schema.OfflineStage,
    folder: pathlib.Path,
    mesh: sharding.Mesh,
    share: float,
) -> tuple[windows.Data, windows.Data | None]:
    """Returns (data to train on, held-out data or None), on every device of the mesh.

    Each has ``share`` bytes of learners and windows, too, see ``device_memory``.

    Raises:
      RunError: there is no sound dataset, nothing is left of it, or it does not fit.
      ConfigError: the agent cannot read what its columns say.
    """
    try:
        found = histories.load(folder)
        train, held_out = split(found.task, config.evaluation.held_out, config.seed)
        kept = [
            rows.keep(found, only=part.tolist(), **config.keep.model_dump())
            for part in (train, held_out)
            if part.size
        ]
    except (errors.DatasetError, ValueError) as error:
        raise errors.RunError(f"{folder}: {error}") from None
    info = agent_settings.module(config).INFO
    asked = info.reads_columns
    need = sum(windows.device_bytes(found, part, asked) for part in kept)
    room = device_memory.room(mesh)
    if need + share > room:
        raise errors.RunError(
            f"{folder}: {progress.size(need)} of data do not fit a device beside "
            f"{progress.size(share)} of learners and windows, there is room for "
            f"{progress.size(room)} of both; give keep.subsample, a smaller fraction, or "
            "a smaller population.size or training.batch"
        )
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    prompted = config.training.prompt_length > 0
    data = [
        windows.put(found, part, everywhere, columns=asked, prompted=prompted)
        for part in kept
    ]
    if asked:
        with errors.at("agent.config", agent_settings.config(config)):
            static = agent_settings.config(config)
            info.check_columns(static, data[0].columns, data[0].task)
    return data[0], data[1] if len(data) > 1 else None


def split(task: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (histories to train on, histories held out) of histories with ``task`` [N].

    About ``share`` of the tasks are held out with all their histories, at least one; of
    a single task, of its histories. Raises ValueError where none would be left to train.
    """
    tasks = np.unique(task)
    group = task if len(tasks) > 1 else np.arange(len(task))
    groups = np.unique(group)
    number = math.ceil(share * len(groups)) if share else 0
    if number >= len(groups):
        raise ValueError(
            f"evaluation.held_out={share}: of {len(groups)} histories or tasks none is "
            "left to train on"
        )
    chosen = np.random.default_rng(seed).permutation(groups)[:number]
    is_held_out = np.isin(group, chosen)
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)


def _run_length(config: stage_schema.OfflineStage) -> RunLength:
    t = config.training
    return RunLength(
        updates=math.ceil(t.updates / t.updates_per_chunk) * t.updates_per_chunk,
        per_chunk=t.updates_per_chunk,
        steps=t.batch * t.unroll_length,
        test_every=config.evaluation.every_updates if config.evaluation.held_out else 0,
        save_every=config.checkpoint.every_updates,
    )


def _make_pbt_step(config: stage_schema.OfflineStage) -> Any:
    choice, members = config.population.fitness, config.population.size
    if config.population.pbt is None:
        return None

    def fitness_fn(state: Any, evaluation: Any, finite: types.Array) -> pbt.Fitness:
        by_test = choice.source == "evaluation"
        loss = evaluation[choice.metric] if by_test else state.recent
        # Not so many episodes, but as much as there is to know.
        enough = jnp.full(members, jnp.iinfo(jnp.int32).max)
        return pbt.Fitness(-loss, finite & jnp.isfinite(loss), enough)

    return selection.pbt_step_of(config.population, fitness_fn, lambda state, *_: state)
