"""What the loop writes down of a run, by what the run is measured with.

A run with environments of its own has returns; learning from a dataset has losses;
frozen weights have a return for each episode of their one long life.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from mtrl_jax import metrics, tree, types
from mtrl_jax.config import schema
from mtrl_jax.engine import fitness, offline_runner
from mtrl_jax.experiments import environments, selection
from mtrl_jax.training import provenance, report
from mtrl_jax.training.program import Program, Reporter


def of_returns(
    config: schema.ExperimentConfig,
    spec: types.EnvSpec,
    metric: fitness.Metric,
    runner: str,
) -> Reporter:
    """Returns the Reporter of a run with environments; ``runner`` is fused or host."""

    def begin() -> dict[str, Any]:
        return report.tasks(spec, environments.describe(config))

    def row(output, evaluation) -> dict[str, Any]:
        fields = report.row(spec, output, evaluation)
        return fields | {"metrics": _logged(config, fields["metrics"])}

    def finish(state, evaluation, totals, restart):
        score, _ = selection.recent_score(metric, state)
        summary = report.summary(
            spec,
            metric,
            evaluation,
            selection=np.asarray(score),
            finite=np.asarray(tree.all_finite(state.learner, axes=1)),
            totals={**totals, "runner": runner},
            environment=environments.describe(config, restart),
        )
        return summary, report.table(summary)

    return Reporter(
        row=row,
        shown=lambda row: row["returns"],
        best=lambda row: report.best_member(metric, spec, row),
        begin=begin,
        finish=finish,
    )


def of_losses(config: Any, score: str, held_out: bool) -> Reporter:
    """Returns the Reporter of learning from a dataset; the lower ``score``, the better.

    What held-out histories gave is called "held_out/METRIC" and, where there are any,
    decides which member is best.
    """
    judged = f"{metrics.HELD_OUT}{score}" if held_out else score

    def row(output, evaluation) -> dict[str, Any]:
        measured = {} if output is None else dict(output.metrics)
        if evaluation is not None:
            found = _of_data(evaluation)
            measured |= {f"{metrics.HELD_OUT}{name}": x for name, x in found.items()}
        return {"metrics": _logged(config, measured), "returns": {}}

    def shown(row) -> dict[str, Any]:
        names = dict.fromkeys((score, judged))
        found = {x: row["metrics"][x] for x in names if x in row["metrics"]}
        return {
            name.replace(metrics.HELD_OUT, "held-out "): x for name, x in found.items()
        }

    def best(row) -> int:
        loss = row["metrics"].get(judged, row["metrics"].get(score))
        return 0 if loss is None else lowest(loss)

    def finish(state, evaluation, totals, restart):
        losses = np.asarray(evaluation[score] if held_out else state.recent, np.float64)
        finite = np.asarray(tree.all_finite(state.learner, axes=1))
        losses = np.where(finite & np.isfinite(losses), losses, np.nan)
        measured = {} if evaluation is None else _of_data(evaluation)
        summary = {
            "best_member": lowest(losses),
            "selected_by": judged,
            "reported_on": judged,
            "score": -losses,
            "lost": [int(member) for member in np.flatnonzero(~finite)],
            "held_out": dict(measured),
            "totals": dict(totals),
            "versions": provenance.versions(),
            "machine": provenance.machine(),
        }
        known = losses[np.isfinite(losses)]
        mean, least = (known.mean(), known.min()) if known.size else (np.nan, np.nan)
        text = f"{judged}: mean {mean:.4g}, least {least:.4g}; "
        return summary, text + report.chosen(summary)

    return Reporter(row, shown, best, lambda: {"complete": False}, finish)


def _of_data(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Returns what held-out histories gave; they have no rate of learning."""
    return {name: x for name, x in evaluation.items() if name != "learning_rate"}


def _logged(config: Any, measured: dict[str, Any]) -> dict[str, Any]:
    """Returns what is measured, without learning rates where they are hyperparameters'.

    That is where none decays or is warmed up.
    """
    moves = {*config.population.search, *config.agent.schedules}
    for name in ("decay_updates", "warmup_updates"):
        if name in moves or config.agent.hparams.get(name, 0.0) > 0:
            return measured
    return {k: x for k, x in measured.items() if not k.endswith("learning_rate")}


def best_saved(folder: pathlib.Path, update: int, program: Program, state: Any) -> int:
    """Returns the best member of the checkpoint of ``update``, whose ``state`` is restored.

    The summary's where that is of this update; else the one with the highest score of the
    latest episodes, or the least of the latest losses. 0 if nothing is known.
    """
    best = metrics.best_member(metrics.read_summary(folder), update)
    if best is not None:
        return best
    if program.metric is not None:
        score, _ = selection.recent_score(program.metric, state)
        loss = -np.asarray(score)
    elif isinstance(state, offline_runner.OfflineState):
        loss = np.asarray(state.recent)
    else:
        return 0
    finite = np.asarray(tree.all_finite(state.learner, axes=1))
    return lowest(np.where(finite, loss, np.nan))


def lowest(loss: Any) -> int:
    """Returns the member with the lowest finite value; 0 if there is none."""
    loss = np.asarray(loss, np.float64)
    known = np.isfinite(loss)
    return int(np.argmin(np.where(known, loss, np.inf))) if known.any() else 0
