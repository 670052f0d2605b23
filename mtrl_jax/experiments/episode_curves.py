"""Returns by episode, the numbers behind an evaluate stage's summary and picture."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from mtrl_jax import metrics, types
from mtrl_jax.engine import fitness
from mtrl_jax.experiments import environments, reporters
from mtrl_jax.metrics import estimates
from mtrl_jax.training import report


def summarise(
    spec: types.EnvSpec,
    returns: np.ndarray,
    rewards: Any,
    task: np.ndarray,
    numbers: list[int],
    watched: int = 0,
) -> dict[str, Any]:
    """Returns best_member, score [P] and, by task of the spec, the return per episode.

    ``returns`` [P, B, E] with NaN of episodes that did not end, ``task`` [P, B];
    ``numbers`` [K] are the tasks N that an entry of the spec stands for. ``mean`` [E] is
    over members and slots; ``interval`` [E, 2] is its 95 % interval over the N
    tasks; where N = 1 over members, and of a single member over its slots. ``returns`` is
    [P, N, E]. ``prompt`` are the episodes ``watched``, if any; of a single episode
    ``rewards``, [P, B, L] or (), give the mean ``rewards`` [L] of its steps, see
    ``_of_steps``. ``score`` is of the last tenth of the episodes, see ``scores``.
    """
    tasks, of_members = {}, []
    last = min(max(1, returns.shape[-1] // 10), returns.shape[-1] - watched)
    for k, (one, number) in enumerate(zip(spec.tasks, numbers)):
        mine = returns[:, task[0] == k]  # The same slots in every member.
        # Slot b plays task b mod N.
        by_task = mine.reshape(len(mine), -1, number, mine.shape[-1])
        # Slots of one member, with the same weights, are no more than one sample of it.
        over = (0, 1) if number > 1 else 1
        samples = mine[0] if len(mine) == number == 1 else _mean(mine, 1)
        samples = _mean(by_task, over) if number > 1 else samples
        tasks[one.name] = {
            "random_score": one.random_score,
            "reference_score": one.reference_score,
            "in_context": {
                "mean": _mean(mine, (0, 1)),
                "interval": [estimates.mean_interval(x) for x in samples.T],
                "returns": _mean(by_task, 1),
                "unfinished": int(np.isnan(mine).sum()),
                **({"prompt": watched} if watched else {}),
                **_of_steps(rewards, returns, task[0] == k),
            },
        }
        of_members.append(_mean(mine[..., -last:], (1, 2)))
    score = scores(spec, np.stack(of_members, axis=1))
    return {
        "best_member": reporters.lowest(-score),
        "selected_by": "evaluation",
        "reported_on": "evaluation",
        "score": score,
        "tasks": tasks,
    }


def scores(spec: types.EnvSpec, means: np.ndarray) -> np.ndarray:
    """Returns a score [P] of mean returns [P, K] of tasks.

    Their mean; of several tasks that all have reference scores of what is ``normalised``
    by them, else the task of the largest returns would decide.
    """
    names = {"return"}
    if len(spec.tasks) > 1:
        names = {"normalised" if _has_scores(task) else "return" for task in spec.tasks}
    metric = fitness.make_metric(spec, names.pop() if len(names) == 1 else "return")
    return np.mean(fitness.task_scores(metric, means), axis=1)


def curve_of(folder: pathlib.Path, config: Any) -> dict[str, Any]:
    """Returns {"episode", "mean"}: a stage's return by the episodes a slot has played.

    Of a stage that trains, the mean return of the episodes of each chunk, over members
    and tasks; a slot has played as many as its steps, resets included, have room for.
    A trial counts as the episodes that it is made of. Of several tasks also {"tasks":
    {task: mean}}, of an evaluation of one episode {"rewards": {task: mean of its steps}}.
    """
    if config.kind == "evaluate":
        found = metrics.read_summary(folder)["tasks"]
        own = {name: task["in_context"] for name, task in found.items()}
        # JSON has null for the episodes that did not end.
        means = {name: np.array(x["mean"], float) for name, x in own.items()}
        mean = np.mean(list(means.values()), axis=0)
        rewards = {name: x["rewards"] for name, x in own.items() if "rewards" in x}
        return {
            "episode": list(range(1, len(mean) + 1)),
            "mean": list(mean),
            **_by_task(means),
            **({"rewards": rewards} if rewards else {}),
        }
    rows = metrics.read_metrics(folder)
    parts = environments.tasks_of(config)
    trials = [part.options.get("trial", 1) for part in parts]
    own = {k: x / trial for (k, x), trial in zip(rows.returns.items(), trials)}
    returns = np.concatenate(list(own.values()), axis=1)
    lengths = [rows.metrics[f"length/{task}"] for task in rows.returns]
    with np.errstate(invalid="ignore"):
        trained = np.isfinite(returns).any(axis=1)
        length = np.nanmean(np.concatenate(lengths, axis=1)[trained], axis=1)
        mean = np.nanmean(returns[trained], axis=1)
        means = {name: _mean(x[trained], 1) for name, x in own.items()}
    slots = sum(part.slots for part in parts)
    if config.population.axis == "population":
        slots = parts[0].slots  # Of its one task; all have as many.
    steps = np.diff(rows.env_steps[trained], prepend=0.0) / slots
    episode = np.cumsum(steps / (length + 1)) * np.mean(trials)
    return {"episode": list(episode), "mean": list(mean), **_by_task(means)}


def table(summary: Mapping[str, Any]) -> str:
    """Returns the returns of the first and the last episodes as lines of text."""
    lines = [f"{'task':32s} {'first':>8s} {'last':>8s}  95 % interval"]
    for name, task in summary["tasks"].items():
        curve = task["in_context"]
        mean, (low, high) = np.asarray(curve["mean"]), curve["interval"][-1]
        watched = curve.get("prompt", 0)
        played = f"after {len(mean)} episode{'s' if len(mean) > 1 else ''}"
        if watched:
            played += f", {watched} of them watched ({mean[:watched].mean():.3f})"
        lines.append(
            f"{name:32s} {mean[watched]:8.3f} {mean[-1]:8.3f}  "
            f"{report.interval((low, high))} {played}"
        )
    return "\n".join(lines)


def _of_steps(rewards: Any, returns: np.ndarray, mine: np.ndarray) -> dict[str, Any]:
    """Returns ``rewards`` [L] over members and the slots ``mine`` [B]; {} of ().

    An episode that is over earns 0 from there on, so that they add up to the mean return.
    ``steps`` are the fewest and the most of an episode.
    """
    if isinstance(rewards, tuple):
        return {}
    own, is_over = rewards[:, mine], np.isfinite(returns[:, mine])  # [P, B, L or 1]
    known = np.isfinite(own)
    length = known.sum(axis=-1)
    most = length.max(initial=0)
    found = _mean(np.where(is_over & ~known, 0.0, own)[..., :most], (0, 1))
    return {"rewards": found, "steps": [int(length.min(initial=most)), int(most)]}


def _by_task(means: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns {"tasks": means} of several; one says no more than their mean."""
    if len(means) == 1:
        return {}
    return {"tasks": {name: list(mean) for name, mean in means.items()}}


def _has_scores(task: types.TaskSpec) -> bool:
    low, high = task.random_score, task.reference_score
    return low is not None and high is not None and low < high


def _mean(x: np.ndarray, axis: Any) -> np.ndarray:
    """Returns the mean of what is known, NaN where nothing is."""
    known = np.isfinite(x)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, x, 0.0).sum(axis) / known.sum(axis)
