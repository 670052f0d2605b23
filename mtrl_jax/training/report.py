"""From the arrays of a run to the rows, tables and summaries that people read."""

from __future__ import annotations

import math
import pathlib
import shlex
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtrl_jax import metrics, types
from mtrl_jax.engine import fitness, fused_runner
from mtrl_jax.engine.evaluate import Evaluation
from mtrl_jax.metrics import estimates
from mtrl_jax.training import provenance


def row(
    spec: types.EnvSpec,
    output: fused_runner.ChunkOutput | None,
    evaluation: Evaluation | None,
) -> dict[str, Any]:
    """Returns ``metrics``, ``returns`` and maybe ``evaluation`` of a metrics.jsonl row.

    Values are ``[P]``; NaN where a member finished no episode of a task, or is lost:
    what weights that are not finite do counts for nothing. Episode measures beside the
    return are metrics called "measure/task", NaN of a task that has no such measure.

    Means are of the episodes that ended in the chunk. Until every slot has ended one,
    the shortest are too many among them. These rows are not held back: where episodes
    may last 27,000 steps one slot would hide its task for that long. Nothing is decided
    by them: PBT's fitness, plateaus and the summary's choice wait for every slot
    (``statistics.balanced``), as the levels of curricula do.
    """
    fields: dict[str, Any] = {"metrics": {}, "returns": {}}
    names = [task.name for task in spec.tasks]
    of_some = {name for task in spec.tasks for name in task.measures}
    if output is not None:
        fields["metrics"] = dict(output.metrics)
        gone = lost(output)
        episodes = np.array(output.episodes["episodes"], np.float64)
        episodes[gone] = np.nan
        for name, sums in output.episodes.items():
            if name == "episodes":
                continue
            with np.errstate(invalid="ignore", divide="ignore"):
                means = np.asarray(sums) / episodes
            for k, task in enumerate(spec.tasks):
                if name == "return":
                    fields["returns"][task.name] = means[:, k]
                else:
                    known = name not in of_some or name in task.measures
                    column = means[:, k] if known else np.full(len(means), np.nan)
                    fields["metrics"][f"{name}/{task.name}"] = column
    if evaluation is not None:
        means = _nan_mean_per_task(evaluation, evaluation.returns, len(names))
        means[lost(output)] = np.nan
        fields["evaluation"] = {task: means[:, k] for k, task in enumerate(names)}
    return fields


def lost(output: fused_runner.ChunkOutput | None) -> list[int]:
    """Returns the members whose weights are not finite after a chunk."""
    if output is None:
        return []
    return [int(member) for member in np.flatnonzero(~np.asarray(output.finite))]


def best_member(
    metric: fitness.Metric, spec: types.EnvSpec, fields: Mapping[str, Any]
) -> int:
    """Returns the member with the highest score in a row; 0 while there is none.

    It is by the episodes of one chunk, too few and the short ones first: good enough for
    the progress line, not for ``summary``.
    """
    judged_by = judged(metric, fields) or fields.get("evaluation", {})
    means = np.stack([np.asarray(judged_by[t.name], float) for t in spec.tasks], 1)
    of_members = scores(metric, means)
    return int(np.nanargmax(of_members)) if np.isfinite(of_members).any() else 0


def judged(
    metric: fitness.Metric, fields: Mapping[str, Any]
) -> Mapping[str, np.ndarray]:
    """Returns {task: [P]} of what ``metric`` judges by in a row: returns, a measure."""
    if metric.measure == "return":
        return fields["returns"]
    return {
        task: fields["metrics"][f"{metric.measure}/{task}"]
        for task in fields["returns"]
    }


def scores(metric: fitness.Metric, means: np.ndarray) -> np.ndarray:
    """Returns fitness scores [P] of mean returns [P, K] on the host."""
    value = fitness.task_scores(metric, means)[:, np.asarray(metric.weight) > 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # A member without episodes.
        return np.nanmean(value, axis=1)


def evaluation_table(
    spec: types.EnvSpec,
    evaluation: Evaluation,
    lost: Sequence[int] = (),
    member: int | None = None,
) -> dict[str, Any]:
    """Returns {task: {members: [...], mean, interval, ...}} of an evaluation.

    Each member has its mean over all episodes, as many of every slot, a 95 % interval of it
    (``estimates.mean_interval``), the number of ``episodes`` that ended and of those
    ``unfinished``, which count with what they had when ``evaluation.max_steps`` cut them
    (as in ``fitness.of_evaluation``); ``normalised`` where the task has reference scores.
    Of a member in ``lost`` no episode counts. With ``member`` it is of that one alone,
    and of its tasks.
    """
    if member is not None:
        others = np.arange(len(evaluation.task))[:, None] != member
        task: Any = np.where(others, -1, evaluation.task)
        evaluation = evaluation._replace(task=task)
    found = {
        own.name: _task_table(own, evaluation, k, lost)
        for k, own in enumerate(spec.tasks)
    }
    if member is None:
        return found
    return {name: table for name, table in found.items() if table["members"]}


def summary(
    spec: types.EnvSpec,
    metric: fitness.Metric,
    evaluation: Evaluation,
    *,
    selection: np.ndarray,
    finite: np.ndarray,
    totals: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the contents of summary.json.

    The best member is that with the highest ``selection`` ``[P]``, its fitness by its
    latest episodes in training (``selection.recent_score``); ``score`` and all else is
    of the evaluation, which had no part in the choice. The best may so have a lower score
    than others: a best of the scores themselves would be too good by what luck gave it.
    Where training says nothing, as at different levels of a curriculum, the evaluation
    chooses, and ``selected_by`` says so. A member that is not ``finite``
    ``[P]`` is lost: it has no score and is never the best.
    """
    gone = [int(member) for member in np.flatnonzero(~finite)]
    selection = np.where(finite, selection, np.nan)
    values = fitness.values_of(metric, evaluation)
    tested = scores(metric, _nan_mean_per_task(evaluation, values, len(spec.tasks)))
    tested = np.where(finite, tested, np.nan)
    by_training = bool(np.isfinite(selection).any())
    choice = selection if by_training else tested
    best = int(np.nanargmax(choice)) if np.isfinite(choice).any() else 0
    return {
        "best_member": best,
        "selected_by": "training" if by_training else "evaluation",
        "selection": choice,
        "reported_on": "evaluation",
        "score": tested,
        "best_score": tested[best],
        "lost": gone,
        "tasks": evaluation_table(spec, evaluation, gone),
        "totals": dict(totals),
        "environments": dict(environment),
        "versions": provenance.versions(),
        "machine": provenance.machine(),
    }


def tasks(spec: types.EnvSpec, environment: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a first summary: the tasks, so that plots know their scores."""
    known = {t.name: _reference(t) for t in spec.tasks}
    return {"tasks": known, "environments": dict(environment), "complete": False}


def table(values: Mapping[str, Any]) -> str:
    """Returns the final evaluation as lines of text: population and best member."""
    best = values["best_member"]
    lines = [
        f"final evaluation; {chosen(values)}",
        f"{'task':32s} {'population':>12s} {'best #' + str(best):>12s}  95 % interval",
    ]
    for name, task in values["tasks"].items():
        line = f"{name:32s} {task['mean']:12.3f} "
        # Where members have a task each, the best has no score in the others.
        for member in (m for m in task["members"] if m["member"] == best):
            line += f"{member['mean']:12.3f}  {interval(member['interval'])} "
            line += episodes(member)
        lines.append(line.rstrip())
    return "\n".join(lines)


def chosen(values: Mapping[str, Any]) -> str:
    """Returns by what the best member of a summary was selected, as a table's head."""
    by, on = values["selected_by"], values["reported_on"]
    named = f"best #{values['best_member']}: selected by {by}"
    if by == on:
        return f"{named}, the numbers it is reported on, which flatters it"
    latest = " (its latest episodes)" if by == "training" else ""
    return f"{named}{latest}, reported on {on}"


def episodes(member: Mapping[str, Any]) -> str:
    """Returns how many episodes a member's mean is of; of none, why."""
    if member.get("lost"):
        return "lost: its weights are not finite"
    cut = member.get("unfinished", 0)
    number = member["episodes"] + cut
    counted = f"over {number} episode{'' if number == 1 else 's'}"
    if not cut:
        return counted
    if not member["episodes"]:
        return f"{counted}: none of {cut} ended in evaluation.max_steps"
    return f"{counted}, {cut} of them cut by evaluation.max_steps"


def interval(ends: Sequence[float]) -> str:
    """Returns an interval as text, – where a single number has none."""
    low, high = ends
    return "–" if math.isnan(low) else f"[{low:.3f}, {high:.3f}]"


def draw(folder: pathlib.Path) -> str:
    """Returns "" after drawing the run's pictures, else why they could not be drawn.

    A picture is never worth a run: what goes wrong in here is a line of text.
    """
    from mtrl_jax import plots

    try:
        if len(metrics.read_metrics(folder).update):
            plots.draw(folder)
    except Exception as error:
        return (
            f"plots were not drawn: {type(error).__name__}: "
            f"{' '.join(str(error).split())}; draw them with "
            f"`mtrl plot {shlex.quote(str(folder))}`"
        )
    return ""


def _task_table(
    task: types.TaskSpec, evaluation: Evaluation, k: int, lost: Sequence[int]
) -> dict[str, Any]:
    members = []
    for p in range(evaluation.returns.shape[0]):
        here = np.asarray(evaluation.task[p] == k)
        if not here.any():
            continue  # Another member's task.
        mine = here & (p not in lost)
        returns = np.asarray(evaluation.returns[p], np.float64)[mine]
        complete = np.asarray(evaluation.complete[p])
        member = {
            "member": p,
            "mean": float(returns.mean()) if returns.size else float("nan"),
            "interval": estimates.mean_interval(returns),
            "episodes": int(np.sum(mine & complete)),
            "unfinished": int(np.sum(here & ~complete)),
        }
        if p in lost:
            member["lost"] = True
        for name, values in evaluation.info.items():
            measured = np.asarray(values[p], np.float64)[mine]
            member[name] = float(measured.mean()) if measured.size else float("nan")
        members.append(member)
    means = np.asarray([m["mean"] for m in members], float)
    out = {"mean": _nan_mean(means), "members": members, **_reference(task)}
    low, high = task.random_score, task.reference_score
    if low is not None and high is not None and high > low:
        out["normalised"] = (out["mean"] - low) / (high - low)
    return out


def _reference(task: types.TaskSpec) -> dict[str, Any]:
    return {"random_score": task.random_score, "reference_score": task.reference_score}


def _nan_mean_per_task(evaluation: Evaluation, values: Any, tasks: int) -> np.ndarray:
    """Returns means [P, K] of ``values`` of a task's slots, NaN where there are none."""
    values = np.asarray(values, np.float64)
    columns = []
    for k in range(tasks):
        mine = evaluation.task == k
        with np.errstate(invalid="ignore", divide="ignore"):
            columns.append(np.where(mine, values, 0.0).sum(1) / mine.sum(1))
    return np.stack(columns, axis=1)


def _nan_mean(x: np.ndarray) -> float:
    known = x[np.isfinite(x)]
    return float(known.mean()) if known.size else float("nan")
