"""A trained run put to the test again, by its folder; nothing is written."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np

from mtrl_jax import random, tree
from mtrl_jax.config import loading
from mtrl_jax.experiments import kinds, reading, reporters
from mtrl_jax.training import report


def evaluate(
    folder: pathlib.Path,
    episodes: int | None = None,
    *,
    seed: int | None = None,
    member: int | None = None,
) -> dict[str, Any]:
    """Returns an evaluation of a run's newest checkpoint.

    ``update`` and ``best_member`` are the checkpoint's, ``tasks`` is
    report.evaluation_table of the episodes that a training would play there, or of those
    of another ``seed``; of one ``member`` alone, or of all.

    Raises:
      ConfigError: no run there, none of its checkpoints, or no such member.
      CheckpointError: there is no sound checkpoint.
    """
    run, config = reading.with_environments(folder)
    members = config.population.size
    if member is not None:
        reading.check_member(f"--member {member}", member, members)
    if episodes is not None:
        given = {**loading.to_dict(config)}
        given["evaluation"] = {**given["evaluation"], "episodes": episodes}
        config = loading.from_dict(given, where="--episodes")
    if seed is not None:  # Of environments outside the program, too.
        config = config.model_copy(update={"seed": seed})
    with kinds.restored(run, config) as (update, program, saved):
        assert program.evaluate is not None
        best = reporters.best_saved(folder, update, program, saved.run)
        state = saved.run
        if seed is not None:
            state = state._replace(key=random.roots(seed, members))
        result = jax.device_get(program.evaluate(state, saved.hparams))
        finite = tree.all_finite(saved.run.learner, axes=1)
        lost = [int(p) for p in np.flatnonzero(~np.asarray(finite))]
        table = report.evaluation_table(program.spec, result, lost, member)
        return {"update": update, "best_member": best, "tasks": table}
