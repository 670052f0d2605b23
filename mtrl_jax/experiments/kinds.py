"""The kinds of stages: from a stage's settings, and what it takes from others, a Program.

    online    a run in environments of its own        collect   whose every step is kept
    offline   learning from what is kept              evaluate  frozen weights, in context

A plain run is a run of one stage that lies in the run's own folder. A stage may take the
data, the weights or the curves of stages before it; ``Run`` says where they lie.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import checkpoint, errors, hparams, tree, types
from mtrl_jax.agents.common import learning, watched
from mtrl_jax.config import agent_settings, stage_schema
from mtrl_jax.data import layout
from mtrl_jax.envs import expert_labels
from mtrl_jax.experiments import (
    acting,
    build,
    collect,
    environments,
    episode_curves,
    in_context,
    known_tasks,
    offline,
    online,
    task_families,
)
from mtrl_jax.training import opening, run_folder
from mtrl_jax.training.program import Program
from mtrl_jax.types import Tree


class Run(NamedTuple):
    """A run's stages in order, and the folder they are in."""

    folder: pathlib.Path
    stages: tuple[stage_schema.Stage, ...]
    is_plain: bool  # one stage, in the folder itself

    def folder_of(self, stage: stage_schema.Stage | str) -> pathlib.Path:
        """Returns the run folder of a stage."""
        name = stage if isinstance(stage, str) else stage.name
        return self.folder if self.is_plain else self.folder / run_folder.STAGES / name

    def stage(self, name: str) -> stage_schema.Stage:
        """Returns the stage of that name.

        Raises:
          ConfigError: there is none, as in the folder of a stage that was copied alone.
        """
        found = [stage for stage in self.stages if stage.name == name]
        if not found:
            names = ", ".join(getattr(stage, "name", "") for stage in self.stages)
            raise errors.ConfigError(
                f"{self.folder}: there is no stage {name!r} here, of {names} alone; give "
                f"the stage's folder in its run, RUN/{run_folder.STAGES}/NAME"
            )
        return found[0]


def run_of(settings: Any, folder: pathlib.Path) -> Run:
    """Returns the run that ``settings``, of stages or of one, describe."""
    if isinstance(settings, stage_schema.Staged):
        return Run(folder, tuple(settings.stages), is_plain=False)
    return Run(folder, (settings,), is_plain=True)


def make_program(
    run: Run,
    stage: stage_schema.Stage,
    restart: int = 0,
    *,
    for_check: bool = False,
    is_checked: bool = False,
) -> Program:
    """Returns the Program of a stage of ``run``.

    ``restart`` is the update it is resumed at, -1 of what will not train. ``for_check``: without what other stages
    have not made yet; good for finding mistakes alone. Of a stage that ``is_checked``
    none are looked for that need an update to be traced.

    Raises:
      ConfigError: a setting that does not fit the environments, agent or machine.
    """
    return KINDS[stage.kind](run, stage, restart, for_check, not is_checked)


@contextlib.contextmanager
def restored(run: Run, stage: stage_schema.Stage):
    """Returns (update, program, saved) of a stage's newest checkpoint; writes nothing.

    Large leaves of a replay are not read, see ``opening.read``: learners act without.

    Raises:
      ConfigError: there is no checkpoint.
      CheckpointError: there is no sound one.
    """
    folder = run.folder_of(stage)
    if not (folder / run_folder.CHECKPOINTS).is_dir():
        raise run_folder.no_checkpoint(folder)
    manager = checkpoint.open_manager(
        folder / run_folder.CHECKPOINTS, stage.checkpoint.keep, read_only=True
    )
    with contextlib.ExitStack() as stack:
        stack.callback(checkpoint.close, manager)
        if checkpoint.latest_step(manager) is None:
            raise run_folder.no_checkpoint(folder)
        program = make_program(run, stage, -1, is_checked=True)
        stack.callback(program.close)
        update, saved, _ = opening.read(program, manager, goes_on=False)
        yield update, program, saved


def spec_of(run: Run, stage: stage_schema.Stage) -> types.EnvSpec:
    """Returns the spec that the agent of a stage was built for."""
    if isinstance(stage, stage_schema.OfflineStage):
        return expert_labels.without(_data_of(run, stage)[0].spec)
    if isinstance(stage, stage_schema.EvaluateStage):
        return spec_of(run, run.stage(stage.of))
    if isinstance(stage, stage_schema.CollectStage):
        made = task_families.collecting(stage, -1)[0]
    else:
        made = environments.make_world(stage, f"{stage.seed}/-1")
    with contextlib.closing(made):
        return made.spec


def _online(run: Run, stage, restart: int, for_check: bool, check: bool) -> Program:
    program = online.make_program(stage, restart, check=check)
    return _inheriting(run, stage, program, for_check)


def _collect(run: Run, stage, restart: int, for_check: bool, check: bool) -> Program:
    watcher = _watcher_of(run, stage)
    program = collect.make_program(stage, restart, watcher, check)
    return _inheriting(run, stage, program, for_check)


def _offline(run: Run, stage, restart: int, for_check: bool, check: bool) -> Program:
    program = offline.make_program(stage, *_data_of(run, stage), check)
    return _inheriting(run, stage, program, for_check)


def _evaluate(run: Run, stage, restart: int, for_check: bool, check: bool) -> Program:
    del restart, check

    def compared() -> dict[str, Any]:
        return {
            name: episode_curves.curve_of(run.folder_of(name), run.stage(name))
            for name in stage.compare
        }

    of = run.stage(stage.of)
    source = None if for_check else weights_of(run, of, stage.population.size)
    is_new = not (run.folder_of(stage) / run_folder.CONFIG).exists()
    made = in_context.make_program(stage, spec_of(run, of), source, compared, is_new)
    return made._replace(remarks=tuple(known_tasks.remarks(run, stage)))


KINDS: dict[str, Callable[..., Program]] = {
    "online": _online,
    "collect": _collect,
    "offline": _offline,
    "evaluate": _evaluate,
}


def weights_of(run: Run, stage: stage_schema.Stage, members: int) -> in_context.Source:
    """Returns (learners, hyperparameters) of ``members`` members of a stage.

    They are its first ones; of more than there are, member p is p modulo its number.
    """
    chosen = np.arange(members) % stage.population.size
    with restored(run, stage) as (_, _, saved):
        return tree.take((saved.run.learner, saved.hparams), chosen)


def _inheriting(run: Run, stage: Any, program: Program, for_check: bool) -> Program:
    """Returns the program of a stage, which begins with what it takes from another.

    That is the learners of ``init_from`` as they were saved, optimiser and counters
    among them, and of a collect stage's ``of`` the hyperparameters, too. Of ``teacher``
    it takes the parameters, which its own learners keep frozen.
    """
    init_from, of, teacher, _ = stage_schema.links(stage)
    name = of or init_from
    if name is None and teacher is None:
        return program
    if for_check:
        with contextlib.ExitStack() as stack:
            stack.callback(program.close)  # Unless nothing is wrong.
            if name is not None:
                _check_inherited(run, stage, run.stage(name), program)
            if teacher is not None:
                _check_taught(run, stage, run.stage(teacher), program)
            stack.pop_all()

    def inherit(state: Any, hp: Tree) -> tuple[Any, Tree]:
        members, learner = stage.population.size, state.learner
        if name is not None:
            learners, theirs = weights_of(run, run.stage(name), members)
            watcher = _watcher_of(run, stage)
            if watcher is not None:
                learners = watched.Learner(learners, *weights_of(run, watcher, members))
            if of:
                hp = _like(hp, hparams.override(theirs, stage.play.hparams))
            else:
                learners = _joined(stage)(learner, learners)
            learner = _like(learner, learners)
        if teacher is not None:
            given, own = weights_of(run, run.stage(teacher), members)[0], learner.frozen
            taken = acting.named(own, given)
            learner = learner._replace(frozen=_like(own, taken))
        return state._replace(learner=learner), hp

    return program._replace(inherit=inherit)


def _check_taught(
    run: Run, stage: Any, source: stage_schema.Stage, program: Program
) -> None:
    """Raises ConfigError unless the learners of ``source`` can teach those of a stage."""
    spec = spec_of(run, source)
    teacher = build.make_agent(source, spec)
    in_context.check_fits(program.spec, spec, source.name)
    acting.check_tasks(teacher, source, spec, program.spec, source.name)
    acting.check_same_teacher(
        f"teacher={source.name!r}", (program.agent, stage), (teacher, source)
    )


def _check_inherited(
    run: Run, stage: Any, source: stage_schema.Stage, program: Program
) -> None:
    """Raises ConfigError unless a stage can begin with the learners of ``source``.

    Nor where those of the stage that it is ``watched_by`` cannot watch.
    """
    spec, agent = spec_of(run, source), program.agent
    field = "of" if stage_schema.links(stage).of else "init_from"
    if field == "of":
        agent = build.make_agent(stage, program.spec)
        in_context.check_fits(program.spec, spec, source.name)
        acting.check_tasks(agent, stage, spec, program.spec, stage.of)
    watcher = _watcher_of(run, stage)
    if watcher is not None:
        learned = spec_of(run, watcher)
        in_context.check_fits(program.spec, learned, watcher.name)
        own = build.make_agent(watcher, program.spec)
        acting.check_tasks(own, watcher, learned, program.spec, watcher.name)
        acting.check_same_learners(
            f"watched_by={watcher.name!r}",
            (own, watcher),
            (build.make_agent(watcher, learned), watcher),
            _given,
        )
    acting.check_same_learners(
        f"{field}={source.name!r}",
        (agent, stage),
        (build.make_agent(source, spec), source),
        _joined(stage) if field == "init_from" else _given,
    )


def _watcher_of(run: Run, stage: Any) -> Any:
    """Returns the stage that a stage is watched by, None of most."""
    name = stage_schema.links(stage).watched_by
    return None if name is None else run.stage(name)


def _joined(stage: Any) -> Callable[[Tree, Tree], Tree]:
    """Returns what an agent makes of its own fresh learner and another's.

    Who teaches is a stage's own matter: a student may go on alone, or be taught from now.
    """
    inherit = agent_settings.module(stage).INFO.inherit

    def joined(own: Tree, given: Tree) -> Tree:
        made = inherit(own, given)
        is_taught = isinstance(made, learning.Learner)
        return made._replace(frozen=own.frozen) if is_taught else made

    return joined


def _given(own: Tree, given: Tree) -> Tree:
    del own
    return given


def _like(own: Tree, given: Tree) -> Tree:
    """Returns ``given`` where ``own`` lies, in memory that nothing else holds."""
    return jax.tree.map(
        lambda x, y: jax.device_put(jnp.copy(y), x.sharding), own, given
    )


def _data_of(
    run: Run, stage: stage_schema.OfflineStage
) -> tuple[layout.Contents, pathlib.Path]:
    if not stage_schema.is_name(stage.data):
        path = pathlib.Path(stage.data)
        return offline.contents_in(path), path
    source = run.stage(stage.data)
    if not isinstance(source, stage_schema.CollectStage):
        raise errors.ConfigError(f"data={stage.data!r}: it is no stage of kind collect")
    contents = collect.contents_of(source, _watcher_of(run, source))
    return contents, run.folder_of(source) / collect.FOLDER
