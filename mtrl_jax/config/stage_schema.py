"""The settings of each kind of stage; which they are, see ``stages``."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from mtrl_jax.config import schema

Share = Annotated[float, Field(gt=0.0, le=1.0)]


class StageTask(schema.TaskConfig):
    """An environment; one that stands for many tasks has ``slots`` for each of them."""

    slots: schema.Size = 1


class OnlineStage(schema.ExperimentConfig):
    """A run like any other."""

    name: schema.Name
    kind: Literal["online"]
    init_from: str | None = None  # the stage whose learners it begins with
    teacher: str | None = None  # the stage whose learners kickstart it, frozen


class Play(schema.Section):
    """How the frozen learners of another stage act."""

    epsilon: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0  # share of random actions
    hparams: dict[str, float] = Field(default_factory=dict)  # e.g. temperature


class CollectStage(schema.ExperimentConfig):
    """Learners with a task each, whose whole histories are kept.

    With ``of`` they are those of another stage, and learn nothing; with
    ``watched_by``, too, what is recorded is what a third stage's say of the steps that they play.
    """

    name: schema.Name
    kind: Literal["collect"]  # type: ignore[assignment]
    tasks: list[StageTask] = Field(min_length=1)  # type: ignore[assignment]
    labels: bool = False  # write down what is best at every step, too
    record: list[str] = Field(default_factory=list)  # of what acting notes down
    init_from: str | None = None
    of: str | None = None  # the stage whose learners play, frozen
    watched_by: str | None = None  # the stage whose learners label it, frozen
    play: Play = Play()


class OfflineFitness(schema.Section):
    """What PBT judges a member by: minus ``metric`` of its updates.

    ``training``: the mean over the latest chunk; ``evaluation``: of held-out histories.
    """

    metric: str = "loss"
    source: Literal["training", "evaluation"] = "training"


class OfflinePopulation(schema.PopulationConfig):
    """Members, what differs between them, and how they compete."""

    fitness: OfflineFitness = OfflineFitness()  # type: ignore[assignment]


class OfflineTraining(schema.Section):
    """How long, and what an update is given: ``batch`` windows of ``unroll_length``.

    Each has ``prompt_length`` rows of another episode of its history before it, which
    agents with a ``prompt_share`` see or not.
    """

    updates: schema.Size = 10_000  # rounded up to whole chunks
    unroll_length: schema.Size = 20  # T
    prompt_length: schema.Count = 0
    batch: schema.Size = 64
    updates_per_chunk: schema.Size = 50


class Keep(schema.Section):
    """What of the histories is learned from; see data/rows.py."""

    subsample: schema.Size = 1  # k: every k-th episode
    first_fraction: Share = 1.0  # the beginning alone
    last_fraction: Share = 1.0  # the end alone
    top_fraction: Share = 1.0  # the best episodes of each task alone
    expert_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0  # of an expert's return
    shuffled: bool = False  # episodes in random order: histories that do not get better
    resets: bool = False  # with the steps that reset: what bootstrapping asks for


class OfflineEvaluation(schema.Section):
    """When and on what updates are measured without being kept."""

    every_updates: schema.Count = 500  # 0: only at the end
    # Share of the tasks (of one task: histories) that are not trained on.
    held_out: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    hparams: dict[str, float] = Field(default_factory=dict)


class OfflineStage(schema.Section):
    """Learning from a dataset. ``data`` is a collect stage's name or a folder's path."""

    name: schema.Name
    kind: Literal["offline"]
    seed: schema.Seed = 0
    data: str
    init_from: str | None = None
    agent: schema.AgentConfig
    population: OfflinePopulation = OfflinePopulation()
    training: OfflineTraining = OfflineTraining()
    keep: Keep = Keep()
    evaluation: OfflineEvaluation = OfflineEvaluation()
    checkpoint: schema.CheckpointConfig = schema.CheckpointConfig()
    logging: schema.LoggingConfig = schema.LoggingConfig()


class ContextEvaluation(schema.Section):
    """How many episodes each slot plays, one after the other."""

    episodes: schema.Size = 50
    episodes_per_chunk: schema.Size = 10  # of the longest kind; a row and a save each
    max_steps: schema.Size | None = None  # per episode; the environment's own limit
    hparams: dict[str, float] = Field(
        default_factory=dict
    )  # e.g. temperature: 0 for greedy


class Prompt(schema.Section):
    """A demonstration at the beginning: optimal with probability 1 - epsilon."""

    episodes: schema.Size = 1  # of every slot; the agent watches
    epsilon: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0  # share of random actions


class EvaluateStage(schema.Section):
    """The weights of stage ``of`` on ``tasks``, frozen, the carry never reset."""

    name: schema.Name
    kind: Literal["evaluate"]
    seed: schema.Seed = 0
    of: str
    members: schema.Size | None = None  # the first so many of its population; all
    tasks: list[StageTask] = Field(min_length=1)
    compare: list[str] = Field(
        default_factory=list
    )  # stages whose curves are drawn beside
    prompt: Prompt | None = None  # who plays the first episodes, if not the agent
    evaluation: ContextEvaluation = ContextEvaluation()
    checkpoint: schema.CheckpointConfig = schema.CheckpointConfig()
    logging: schema.LoggingConfig = schema.LoggingConfig()
    # Those of the stage ``of``, filled in here.
    agent: schema.AgentConfig
    population: schema.PopulationConfig


Stage = OnlineStage | CollectStage | OfflineStage | EvaluateStage
KINDS: dict[str, Any] = {
    "online": OnlineStage,
    "collect": CollectStage,
    "offline": OfflineStage,
    "evaluate": EvaluateStage,
}


class Staged(schema.Section):
    """A whole experiment of several stages."""

    seed: schema.Seed = 0
    stages: list[Annotated[Stage, Field(discriminator="kind")]] = Field(min_length=1)


class Links(NamedTuple):
    """The stages whose learners a stage takes, by what they are to it."""

    init_from: str | None = None
    of: str | None = None
    teacher: str | None = None
    watched_by: str | None = None


def links(config: schema.Section) -> Links:
    """Returns the stages a stage names; of a plain run, which can name none, no one."""
    return Links(**{name: x for name, x in config if name in Links._fields})


def is_name(data: str) -> bool:
    """Returns whether ``data`` names a stage; anything with a / is a folder."""
    return "/" not in data
