"""The sections of a run's settings: what can be set, its type and its default.

What one field says of another section, and what only the agent knows, is checked when
the settings are completed (``from_dict``).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from mtrl_jax.engine.pbt_config import PbtConfig, SearchRange
from mtrl_jax.engine.schedules import Schedule


def _name(value: str) -> str:
    """Returns the name, or raises ValueError unless a folder may be called so."""
    if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]*", value):
        raise ValueError("must be letters, digits, - and _, a letter or digit first")
    return value


Name = Annotated[str, pydantic.AfterValidator(_name)]
# Everything that is counted on a device is counted in int32.
Count = Annotated[int, Field(ge=0, lt=2**31)]
Size = Annotated[int, Field(gt=0, lt=2**31)]
Steps = Annotated[int, Field(gt=0, lt=2**63)]  # of which an update makes many
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # JAX drops the bits above


class Section(pydantic.BaseModel):
    """A mapping of the settings: unknown names are refused, nothing changes later."""

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, ser_json_inf_nan="constants"
    )


class CurriculumConfig(Section):
    """How a task gets harder: from the options ``start`` to those that it has.

    A member goes one of ``steps`` further when its mean ``metric`` over
    ``min_episodes`` episodes, as many of every slot, is at least ``threshold``.
    """

    start: dict[str, Any] = Field(min_length=1)
    threshold: float
    metric: str = "return"  # or a measure of the environment, such as success
    steps: Size = 10
    min_episodes: Size = 32


class TaskConfig(Section):
    """One environment, or every environment of a suite, with its share of the slots."""

    env: str | None = None
    suite: str | None = None
    slots: Size = 32  # per member
    options: dict[str, Any] = {}
    curriculum: CurriculumConfig | None = None

    @pydantic.model_validator(mode="after")
    def _one_name(self) -> TaskConfig:
        if self.env is None and self.suite is None:
            raise ValueError("give either env or suite")
        if self.env is not None and self.suite is not None:
            raise ValueError(
                f"env={self.env!r} with suite={self.suite!r}; give one of them"
            )
        return self


class AgentConfig(Section):
    """Which algorithm, its static config and its traced hyperparameters.

    A hyperparameter in ``schedules`` moves in training, the same for all members.
    """

    name: str = "impala"
    config: dict[str, Any] = {}
    hparams: dict[str, float] = {}
    schedules: dict[str, Schedule] = {}


class FitnessConfig(Section):
    """What PBT judges a member by.

    ``return`` is the mean over tasks of the mean recent return, ``normalised`` maps each
    task's return to 0 for a random policy and 1 for the reference first, ``capped``
    limits that to 1; any other is a measure of the environments, such as the share of
    episodes with ``success``. ``task`` looks at one task only. ``evaluation`` judges by the
    latest evaluation (with ``evaluation.hparams``) instead of by training episodes.
    """

    metric: str = "return"
    task: str | None = None
    source: Literal["training", "evaluation"] = "training"
    # Training episodes per member and task, each a number in memory.
    window: Annotated[int, Field(gt=0, le=100_000)] = 30


class PopulationConfig(Section):
    """Members, what differs between them, and how they compete."""

    size: Size = 1
    axis: Literal["slot", "population"] = "slot"  # who gets the tasks
    search: dict[str, SearchRange] = {}
    pbt: PbtConfig | None = None
    fitness: FitnessConfig = FitnessConfig()
    at_once: Size | None = None  # updated together; see engine/sharding


class TrainingConfig(Section):
    """How long, and how much at a time. ``env_steps`` is per member."""

    env_steps: Steps = 1_000_000  # rounded up to whole chunks
    unroll_length: Size = 20
    updates_per_chunk: Size = 50
    runner: Literal["auto", "fused", "host"] = "auto"


class EvaluationConfig(Section):
    """When and how long members are tested. ``episodes`` is per member and task.

    They are played in as many slots, or in ``rounds``, a slot's one after the other.
    """

    every_updates: Count = 500  # 0: only at the end
    episodes: Size = 64
    rounds: Size = 1
    max_steps: Size | None = None  # per episode; the environment's own limit
    hparams: dict[str, float] = {}  # e.g. temperature: 0 for greedy

    @property
    def slots(self) -> int:
        """The environments of a member and task that it is tested in."""
        return self.episodes // self.rounds

    @pydantic.model_validator(mode="after")
    def _whole_rounds(self) -> EvaluationConfig:
        if self.episodes % self.rounds:
            slots = max(1, self.episodes // self.rounds)
            raise ValueError(
                f"rounds={self.rounds} do not divide episodes={self.episodes}; give "
                f"episodes={self.rounds * slots}"
            )
        return self


class CheckpointConfig(Section):
    """How often a run is saved, how many of the saves are kept, and what is in them.

    Without its ``replay`` a save is small, and a run that goes on from it fills an empty
    one: not bit for bit the run that was not stopped.
    """

    every_updates: Size = 500
    keep: Size = 3
    replay: Literal["keep", "drop"] = "keep"


class LoggingConfig(Section):
    """What a run leaves beside metrics.jsonl."""

    tensorboard: bool = True
    plots: bool = True  # pictures when it ends; `mtrl plot` draws them at any time
    wandb: str | None = None  # project name


class ExperimentConfig(Section):
    """A whole run: a run of one stage, which a list of stages may hold as well."""

    name: Name = "run"
    kind: Literal["online"] = "online"
    seed: Seed = 0
    tasks: list[TaskConfig] = Field(min_length=1)
    agent: AgentConfig = AgentConfig()
    population: PopulationConfig = PopulationConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    logging: LoggingConfig = LoggingConfig()
