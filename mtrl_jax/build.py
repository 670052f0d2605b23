"""From a checked config to the pieces of a run: the composition root.

This is where names become environments, agents and compiled functions; nothing below
knows any of them by name. Everything that can be wrong with a config is found out here,
before a run folder exists.
"""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import config as config_lib
from mtrl_jax import envs, random, tree, types
from mtrl_jax.engine import (
    evaluate,
    fitness,
    fused_runner,
    host_runner,
    pbt,
    population,
    sharding,
    statistics,
)
from mtrl_jax.envs import mixture
from mtrl_jax.types import Array, Tree

# Where an environment names no episode limit of its own.
_MAX_STEPS = 10_000


class Task(NamedTuple):
    """One environment of the mixture with its place in it."""

    field: str  # where the config names it
    env: str
    slots: int
    options: dict[str, Any]


class RoundRecord(NamedTuple):
    """What a PBT round saw and decided, all ``[P]``."""

    score: Array
    episodes: Array
    finite: Array
    source: Array
    ancestor: Array
    before: Tree  # hyperparameters
    after: Tree


class Pieces(NamedTuple):
    """What a run is made of; functions compile when first called."""

    spec: types.EnvSpec
    agent: types.Agent
    batch: tuple[int, int]  # (P, B)
    pure: bool
    runner: str  # "fused" or "host"
    hparams: Tree  # [P] initial values, on their devices
    lineage: pbt.PbtState  # of generation 0, on its devices
    init: Callable[[Tree], fused_runner.RunState]
    chunk: Callable[[fused_runner.RunState, Tree], tuple]
    evaluate: Callable[[fused_runner.RunState, Tree], evaluate.Evaluation]
    pbt_round: Callable[..., tuple] | None
    metric: fitness.Metric
    close: Callable[[], None]


def pieces(config: config_lib.ExperimentConfig, restart: int = 0) -> Pieces:
    """Returns everything a run needs.

    ``restart`` is the update a run is resumed at: environments that cannot be restored
    (envpool) get other seeds, so that they do not repeat the episodes already seen.

    Raises:
      ConfigError: a setting that does not fit the environments, agent or machine.
    """
    world = make_world(config, f"{config.seed}/{restart}")
    spec, batch = world.spec, world.batch
    with _errors_at("agent.config"):
        agent = config_lib.agent_module(config).make(
            spec, config_lib.agent_config(config)
        )
        check_agent(agent, spec, batch[1], config)
    choice = config.population.fitness
    with _errors_at("population"):
        metric = fitness.make_metric(spec, choice.metric, choice.task)
    members = config.population.size
    keys = random.roots(config.seed, members)
    mesh = sharding.make_mesh(members, batch[1], devices(members, world.pure))
    hparams, lineage = (
        jax.device_put(x, sharding.shardings(x, mesh, members))
        for x in (initial_hparams(config, keys), pbt.init(members))
    )
    runner = make_runner(config, agent, world, mesh)

    def init(hp: Tree) -> fused_runner.RunState:
        build = jax.jit(runner.init) if world.pure else runner.init
        state = build(keys, hp)
        if not world.pure:
            return state
        return jax.device_put(state, sharding.run_state_shardings(state, mesh, members))

    return Pieces(
        spec=spec,
        agent=agent,
        batch=batch,
        pure=world.pure,
        runner=world.kind,
        hparams=hparams,
        lineage=lineage,
        init=init,
        chunk=runner.chunk if world.kind == "host" else _keeping_layout(runner.chunk),
        evaluate=make_evaluate(config, agent, world),
        pbt_round=make_round(config, agent, spec, batch, metric),
        metric=metric,
        close=world.close,
    )


class World(NamedTuple):
    """The environments of a run: to train on, and others to test on."""

    kind: str  # "fused": each an Env; "host": two halves to train on, one HostEnv
    train: Any
    test: Any
    spec: types.EnvSpec
    batch: tuple[int, int]
    pure: bool
    close: Callable[[], None]


def make_world(config: config_lib.ExperimentConfig, seed: str) -> World:
    """Returns the environments of a run, of the kind its runner needs.

    Raises:
      ConfigError: an unknown task, an option, size or combination that cannot work.
    """
    tasks, episodes = tasks_of(config), config.evaluation.episodes
    if runner_kind(config, tasks) == "fused":
        env = make_env(config, tasks, f"{seed}/train")
        test = make_env(config, tasks, f"{seed}/test", episodes)
        return World("fused", env, test, env.spec, env.batch, env.pure, lambda: None)
    halves = make_halves(config, tasks, f"{seed}/train")
    hosted = make_host_env(config, tasks, f"{seed}/test", episodes)
    slots = sum(half.batch[1] for half in halves)
    batch = (config.population.size, slots)
    close = _closer([*halves, hosted])
    return World("host", halves, hosted, hosted.spec, batch, False, close)


def make_runner(
    config: config_lib.ExperimentConfig,
    agent: types.Agent,
    world: World,
    mesh: sharding.Mesh,
) -> fused_runner.Runner:
    """Returns the runner of ``agent`` on the world's training environments."""
    slots_per_task = world.batch[1] / len(world.spec.tasks)
    options: dict[str, Any] = {
        "unroll_length": config.training.unroll_length,
        "updates_per_chunk": config.training.updates_per_chunk,
        "window": math.ceil(config.population.fitness.window / slots_per_task),
        "at_once": config.population.at_once or members_at_once(),
    }
    if world.kind == "host":
        return host_runner.make(agent, world.train, **options)
    return fused_runner.make(agent, world.train, mesh=mesh, **options)


def devices(members: int, pure: bool) -> list[jax.Device]:
    """Returns the devices a run is split over.

    All there are; of CPU devices (cores) no more than the members divide into, because
    splitting the slots of one member costs more than it gains; one where the
    environments are not in the program.
    """
    found = jax.devices()
    if not pure:
        return found[:1]
    if jax.default_backend() == "cpu":
        return found[: math.gcd(members, len(found))]
    return found


def members_at_once() -> int | None:
    """Returns how many members a device updates together where the config is silent.

    All on accelerators. One on CPUs, which have no lanes to fill: on 2 cores PPO on 16
    members is 1.1 to 1.4 times as fast so, the recurrent quickstart the same
    (benchmarks/peers.py).
    """
    return 1 if jax.default_backend() == "cpu" else None


def check_agent(
    agent: types.Agent,
    spec: types.EnvSpec,
    slots: int,
    config: config_lib.ExperimentConfig,
) -> None:
    """Returns nothing if the agent can act and learn on rollouts of the config's sizes.

    One update is traced, nothing is compiled: what an agent finds out about its sizes
    when it is traced is found out here, and not when the run folder exists.

    Raises:
      ValueError: whatever the agent has against them.
    """
    length = config.training.unroll_length

    def update(key, hp, ts, unroll):
        state, carry = agent.init(key, hp), agent.carry(slots)
        action, _, extras = agent.act(state, carry, ts, key, hp)
        action, extras = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (length, *x.shape)), (action, extras)
        )
        rollout = types.Rollout(unroll, action, extras, carry)
        return agent.update(state, rollout, key, hp)

    jax.eval_shape(
        update,
        jax.random.key(0),
        jax.tree.map(jnp.float32, config_lib.agent_hparams(config)),
        _time_step_shapes(spec, slots),
        _time_step_shapes(spec, length + 1, slots),
    )


def tasks_of(config: config_lib.ExperimentConfig) -> list[Task]:
    """Returns the tasks with suites expanded.

    Raises:
      ConfigError: an unknown environment or suite, by field.
    """
    tasks = []
    for i, task in enumerate(config.tasks):
        field = f"tasks.{i}.{'suite' if task.suite else 'env'}"
        with _errors_at(field):
            names = envs.suite(task.suite) if task.suite else [str(task.env)]
        tasks += [Task(f"tasks.{i}", n, task.slots, task.options) for n in names]
    return tasks


def runner_kind(config: config_lib.ExperimentConfig, tasks: list[Task]) -> str:
    """Returns "fused" or "host": where the environments are stepped.

    ``auto`` steps everything inside the compiled program, except envpool on an
    accelerator, which the host runner overlaps with the device.
    """
    if config.training.runner != "auto":
        return config.training.runner
    if jax.default_backend() == "cpu":
        return "fused"
    hosted = False
    for t in tasks:
        with _errors_at(f"{t.field}.env"):
            hosted |= envs.runs_on_host(t.env)
    return "host" if hosted else "fused"


def make_env(
    config: config_lib.ExperimentConfig,
    tasks: list[Task],
    seed: str,
    slots: int | None = None,
) -> types.Env:
    """Returns the mixture ``[P, B]``; ``slots`` replaces every task's own number.

    Raises:
      ConfigError: an option, size or combination that cannot work.
    """
    parts = _parts(config, tasks, seed, slots, envs.make)
    with _errors_at("tasks"):
        return mixture.make(parts, config.population.axis)


def make_host_env(
    config: config_lib.ExperimentConfig,
    tasks: list[Task],
    seed: str,
    slots: int | None = None,
) -> types.HostEnv:
    """Returns the mixture ``[P, B]`` driven from Python; arguments as for make_env."""
    parts = _parts(config, tasks, seed, slots, envs.make_host)
    with _errors_at("tasks"):
        return mixture.make_host(parts, config.population.axis)


def make_halves(
    config: config_lib.ExperimentConfig, tasks: list[Task], seed: str
) -> list[types.HostEnv]:
    """Returns two host-driven mixtures that hold half of every task's slots each.

    Raises:
      ConfigError: as ``make_env``, or a task with an odd number of slots.
    """
    for t in tasks:
        if t.slots % 2:
            raise config_lib.ConfigError(
                f"{t.field}.slots={t.slots} with the host runner: it steps two halves, "
                "give an even number"
            )
    own = [t._replace(slots=t.slots // 2) for t in tasks]
    return [make_host_env(config, own, f"{seed}/{half}") for half in range(2)]


def initial_hparams(config: config_lib.ExperimentConfig, keys: types.Key) -> Tree:
    """Returns the members' hyperparameters ``[P]``: drawn where there is a range."""
    with _errors_at("population.search"):
        return pbt.sample_initial(
            random.at(keys, 0, random.SEARCH),
            config_lib.agent_hparams(config),
            config.population.search,
        )


def make_evaluate(
    config: config_lib.ExperimentConfig, agent: types.Agent, world: World
) -> Callable[[fused_runner.RunState, Tree], evaluate.Evaluation]:
    """Returns ``evaluate(state, hp)`` on the world's test environments."""
    settings, env = config.evaluation, world.test
    limits = [task.max_steps or _MAX_STEPS for task in env.spec.tasks]
    steps = settings.max_steps or max(limits)

    def tested(hp: Tree) -> Tree:
        given = settings.hparams
        return hp._replace(
            **{name: jnp.full_like(getattr(hp, name), x) for name, x in given.items()}
        )

    if world.kind == "host":
        hosted = evaluate.make_host(agent, env, steps)
        return lambda state, hp: hosted(state.agent, tested(hp), evaluation_key(state))

    run = evaluate.make(agent, env, steps)

    @jax.jit
    def evaluate_from(agent_state, hp, key, start):
        return run(agent_state, tested(hp), random.fold(key, 1), *start)

    # Outside the program where a reset acts on the world.
    reset = jax.jit(env.reset) if env.pure else env.reset

    def evaluate_state(state, hp):
        key = evaluation_key(state)
        start = reset(random.fold(key, 0), env.params)
        return evaluate_from(state.agent, hp, key, start)

    return evaluate_state


def evaluation_key(state: fused_runner.RunState) -> types.Key:
    """Returns the keys ``[P]`` of an evaluation after ``state.step`` updates."""
    return random.at(state.key, state.step, random.EVALUATE)


def make_round(
    config: config_lib.ExperimentConfig,
    agent: types.Agent,
    spec: types.EnvSpec,
    batch: tuple[int, int],
    metric: fitness.Metric,
) -> Callable[..., tuple] | None:
    """Returns ``round(state, hp, pbt_state, evaluation) -> (state, hp, pbt_state, record)``.

    None where the config asks for no PBT. The record is a RoundRecord.
    """
    population_config = config.population
    choice = population_config.fitness
    if population_config.pbt is None:
        return None
    if population_config.axis == "population" and len(spec.tasks) > 1:
        raise config_lib.ConfigError(
            "population.pbt with population.axis='population': members on different "
            "tasks cannot replace each other; leave one of them out"
        )
    settings = population_config.pbt
    ranges = population_config.search
    agents = population.population(agent, batch[0])

    def round_(state, hp, pbt_state, evaluation):
        finite = tree.all_finite(state.agent.learner, axes=1)
        if choice.source == "evaluation":
            judged = fitness.of_evaluation(metric, evaluation, finite)
        else:
            judged = fitness.of_training(metric, state.stats, state.ts.task, finite)
        source, new_hp, pbt_state = pbt.round(
            random.at(state.key, state.step, random.PBT),
            state.step,
            judged,
            hp,
            pbt_state,
            ranges=ranges,
            config=settings,
        )
        replaced = source != jnp.arange(batch[0])
        # The memory of a member that was not finite may not be either.
        carry = tree.where(replaced & ~finite, agents.carry(batch[1]), state.carry)
        state = state._replace(
            agent=pbt.apply(state.agent, source),
            carry=carry,
            stats=statistics.forget(state.stats, replaced),
        )
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

    return round_


def recent_score(pieces: Pieces, state: fused_runner.RunState) -> tuple[Array, Array]:
    """Returns (score, episodes) ``[P]`` of the members by their recent episodes."""

    @jax.jit
    def score(stats, task):
        finite = jnp.ones(stats.recent.shape[0], bool)
        judged = fitness.of_training(pieces.metric, stats, task, finite)
        return judged.score, judged.episodes

    return score(state.stats, state.ts.task)


def describe(config: config_lib.ExperimentConfig, restart: int = 0) -> dict[str, Any]:
    """Returns what is worth recording of each environment: options, seeds, versions."""
    described = {}
    seed = f"{config.seed}/{restart}/train"
    for k, (task, batch) in enumerate(_batches(config, tasks_of(config), None)):
        record = envs.describe(task.env, batch, task.options, _pool_seed(seed, k))
        described[f"{k}: {task.env}"] = {"slots": batch[1], **record}
    return described


def _time_step_shapes(spec: types.EnvSpec, *leading: int) -> types.TimeStep:
    """Returns the ShapeDtypeStructs of time steps ``[*leading, ...]``."""

    def leaf(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((*leading, *shape), dtype)

    return types.TimeStep(
        obs={name: leaf(x.dtype, *x.shape) for name, x in spec.obs.items()},
        reward=leaf(jnp.float32),
        discount=leaf(jnp.float32),
        first=leaf(jnp.bool_),
        last=leaf(jnp.bool_),
        task=leaf(jnp.int32),
        action_mask=leaf(jnp.bool_, types.action_mask_size(spec.action)),
    )


def _parts(config, tasks, seed, slots, make) -> list:
    """Returns the environments of the mixture, one for each task."""
    parts = []
    for k, (task, batch) in enumerate(_batches(config, tasks, slots)):
        with _errors_at(task.field):
            parts.append(make(task.env, batch, task.options, _pool_seed(seed, k)))
    return parts


def _batches(config, tasks, slots) -> list[tuple[Task, tuple[int, int]]]:
    """Returns each task with its part ``(P_k, B_k)`` of the population's slots."""
    members = config.population.size
    if config.population.axis == "population":
        if members % len(tasks):
            fits = -(-members // len(tasks)) * len(tasks)
            raise config_lib.ConfigError(
                f"population.size={members} is not divisible by {len(tasks)} tasks "
                f"(population.axis='population'); try {fits}"
            )
        members //= len(tasks)
    return [(task, (members, slots or task.slots)) for task in tasks]


def _pool_seed(seed: str, part: int) -> int:
    return zlib.crc32(f"{seed}/{part}".encode())


def _keeping_layout(chunk: Callable) -> Callable:
    """Returns ``chunk`` jitted so that its result lies on the devices its input did.

    The input is donated. Without fixed layouts the second call could see others than
    the first and be compiled again.
    """
    compiled: list[Callable] = []

    def run(state, hp):
        if not compiled:
            layout = jax.tree.map(lambda x: x.sharding, state)
            compiled.append(
                jax.jit(chunk, donate_argnums=0, out_shardings=(layout, None))
            )
        return compiled[0](state, hp)

    return run


def _closer(parts: list[types.HostEnv]) -> Callable[[], None]:
    def close() -> None:
        for part in parts:
            part.close()

    return close


@contextlib.contextmanager
def _errors_at(field: str) -> Iterator[None]:
    """Turns the one-line errors of the parts into ConfigErrors that name the field."""
    try:
        yield
    except config_lib.ConfigError:
        raise
    except (ValueError, ImportError, OSError) as error:
        line = " ".join(str(error).split())
        named = line if line.startswith(field) else f"{field}: {line}"
        raise config_lib.ConfigError(named) from error
