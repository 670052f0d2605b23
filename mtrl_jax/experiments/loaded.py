"""A trained run in three lines of a notebook:

    run = mtrl_jax.load("runs/quickstart-20260101-120000")
    policy = run.policy(task="gymnax/CartPole-v1")
    action = policy(obs)

It reads a run's folder and writes nothing, so it may be used beside a training. A stage
is loaded by its own folder, RUN/stages/NAME.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
from typing import Any

import jax

from mtrl_jax import errors, hparams, metrics, tree, types
from mtrl_jax.experiments import build, kinds, policies, reading, reporters
from mtrl_jax.types import Tree


class LoadedRun:
    """The newest sound checkpoint of a run: what its members learned.

    Attributes:
        folder: of the run or stage.
        config: its settings.
        update: of the checkpoint.
        members: their number, P.
        best: the best member, by the summary if it is of this update; see
            ``reporters.best_saved``.
        spec: what the agent was built for; ``spec.tasks`` are its tasks.
        agent: the pure functions, see ``types.Agent``.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        config: Any,
        update: int,
        spec: types.EnvSpec,
        agent: types.Agent,
        learners: Tree,
        hp: Tree,
        best: int = 0,
    ):
        self.folder, self.config, self.update = folder, config, update
        self.spec, self.agent = spec, agent
        self._learners, self._hparams = learners, hp
        self.members, self.best = len(jax.tree.leaves(hp)[0]), best

    def __repr__(self) -> str:
        tasks = ", ".join(self.tasks)
        return (
            f"<{self.folder}: {self.config.agent.name} after {self.update} updates, "
            f"{self.members} members, best {self.best}; tasks {tasks}>"
        )

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks."""
        return tuple(task.name for task in self.spec.tasks)

    def policy(
        self,
        member: int | None = None,
        task: str | None = None,
        *,
        batch: int | None = None,
        seed: int = 0,
    ) -> policies.Policy:
        """Returns a member at play in a task, with ``evaluation.hparams`` as in tests.

        ``member`` is the best by default; ``task`` may be left out where there is one.
        ``batch`` slots play at once, each with a memory of its own; None: a single one
        whose observations have no axis for it. ``seed`` is of the actions drawn.

        Raises:
          ConfigError: no such member or task, a batch below 1, or a seed of more bits
            than JAX has.
        """
        if batch is not None and batch < 1:
            raise errors.ConfigError(f"batch={batch}: give at least 1, or None")
        if not 0 <= seed < 2**32:
            raise errors.ConfigError(f"seed={seed}: give 0 to {2**32 - 1}")
        hp = build.with_evaluation_hparams(self.config, self._hparams)
        return policies.Policy(
            self.agent,
            self.spec,
            self._task(task),
            self.learner(member),
            self._of(hp, member),
            batch=batch,
            seed=seed,
        )

    def learner(self, member: int | None = None) -> Tree:
        """Returns all that a member learned: parameters, optimiser, statistics.

        Raises:
          ConfigError: no such member.
        """
        return self._of(self._learners, member)

    def params(self, member: int | None = None) -> Tree:
        """Returns a member's parameters; its learner, where an agent has no ``params``.

        Raises:
          ConfigError: no such member.
        """
        learner = self.learner(member)
        return getattr(learner, "params", learner)

    def hparams(self, member: int | None = None) -> dict[str, float]:
        """Returns {name: value} of a member's hyperparameters as they are in training.

        Raises:
          ConfigError: no such member.
        """
        found = hparams.flatten(self._of(self._hparams, member))
        return {name: float(value) for name, value in found.items()}

    def metrics(self) -> Any:
        """Returns a pandas.DataFrame with a row for each update logged and member.

        Its index is (update, member). Columns are env_steps and wall_s, the measures of
        training by their names, ``return/TASK``, ``evaluation/TASK`` (NaN in rows
        without a test) and ``hparams/NAME``.

        Raises:
          ConfigError: pandas is not installed, or nothing was logged.
        """
        if importlib.util.find_spec("pandas") is None:
            raise errors.ConfigError(
                "metrics: pandas is not installed; run: pip install mtrl-jax[pandas], "
                "or use mtrl_jax.metrics.read_metrics(folder)"
            )
        import pandas

        try:
            found = metrics.read_metrics(self.folder)
        except (ValueError, FileNotFoundError) as error:
            raise errors.ConfigError(str(error)) from None
        columns = {
            **found.metrics,
            **{f"return/{name}": x for name, x in found.returns.items()},
            **{f"evaluation/{name}": x for name, x in found.evaluation.items()},
            **{f"hparams/{name}": x for name, x in found.hparams.items()},
        }
        index = pandas.MultiIndex.from_product(
            [found.update.astype(int), range(self.members)], names=["update", "member"]
        )
        once = {"env_steps": found.env_steps, "wall_s": found.wall_s}
        return pandas.DataFrame(
            {name: x.repeat(self.members) for name, x in once.items()}
            | {name: x.reshape(-1) for name, x in columns.items()},
            index=index,
        )

    def _of(self, members: Tree, member: int | None) -> Tree:
        """Returns one member's part of what lies along ``[P]``."""
        chosen = self.best if member is None else member
        reading.check_member(f"member={chosen!r}", chosen, self.members)
        return jax.device_put(tree.take(members, chosen), jax.devices()[0])

    def _task(self, name: str | None) -> int:
        if name is None and len(self.tasks) == 1:
            return 0
        if name in self.tasks:
            return self.tasks.index(name)
        said = "" if name is None else errors.suggest(name, self.tasks)
        raise errors.ConfigError(
            f"task={name!r}: give one of {', '.join(self.tasks)}{said}"
        )


def load(folder: str | os.PathLike) -> LoadedRun:
    """Returns the run in ``folder``, or the stage, at its newest sound checkpoint.

    Raises:
      ConfigError: no run there, a run in stages (give a stage's folder), or none of its
        checkpoints.
      CheckpointError: there is no sound checkpoint.
    """
    folder = pathlib.Path(folder)
    run, stage = reading.stage_at(folder)
    with kinds.restored(run, stage) as (update, program, saved):
        spec = program.spec if stage.kind == "online" else kinds.spec_of(run, stage)
        return LoadedRun(
            run.folder_of(stage),
            stage,
            update,
            spec,
            program.agent,
            saved.run.learner,
            saved.hparams,
            reporters.best_saved(run.folder_of(stage), update, program, saved.run),
        )
