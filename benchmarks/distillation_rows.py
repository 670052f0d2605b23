"""What the runs of distillation.py came to: a row for each student and joint learner."""

from __future__ import annotations

import pathlib
from typing import Any

import distillation_arms as arms
import numpy as np

from mtrl_jax import metrics
from mtrl_jax.metrics import estimates

FLOOR = 0.01  # of a share in the geometric mean


def task_score(task: dict[str, Any]) -> dict[str, float]:
    """Returns {return, random} of a teacher's game."""
    means = [x["mean"] for x in task["members"] if x["mean"] is not None]
    return {"return": float(np.mean(means)), "random": float(task["random_score"])}


def students_in(
    size: str,
    folder: pathlib.Path,
    reference: dict[str, Any],
    chosen: list[tuple[str, float]],
) -> list[dict[str, Any]]:
    """Returns the rows of a size, one for each of the ``chosen`` arms."""
    student = metrics.read_summary(folder / "stages/student")
    log = metrics.read_metrics(folder / "stages/student").metrics
    rows = []
    for i, (loss, tau) in enumerate(chosen):
        mine = slice(i, None, len(chosen))
        rows.append(
            {
                "size": size,
                "loss": loss,
                "tau": tau if loss == "kl" else None,
                "parameters": parameters(folder, "student"),
                **scored(folder / "stages/students_play", reference, mine),
                "kl": float(np.mean(log["kl"][-1, mine])),
                "agreement": float(np.mean(log["accuracy"][-1, mine])),
                "wall_s": student["totals"]["wall_s"],
            }
        )
    return rows


def pipeline_in(
    folder: pathlib.Path, reference: dict[str, Any]
) -> dict[str, Any] | None:
    """Returns what the students of a run of the whole config score; None without them."""
    stages = ("teachers", "play", "student", "students_play")
    ran = {name: metrics.read_summary(folder / "stages" / name) for name in stages}
    if not all(ran.values()):
        return None
    log = metrics.read_metrics(folder / "stages/student").metrics
    return {
        "parameters": parameters(folder, "student"),
        "of_a_teacher": parameters(folder, "teachers"),
        **scored(folder / "stages/students_play", reference),
        "agreement": float(np.mean(log["accuracy"][-1])),
        "wall_s": {name: one["totals"]["wall_s"] for name, one in ran.items()},
    }


def states_in(
    size: str, folder: pathlib.Path, reference: dict[str, Any]
) -> list[dict[str, Any]]:
    """Returns the rows of the students of a size that went on, by whose states."""
    rows = []
    for arm in arms.STATES:
        name = f"{arm}_{arms.slug_of(size)}"
        log = metrics.read_metrics(folder / "stages" / name).metrics
        row: dict[str, Any] = {"size": size, "loss": f"kl, {arm}", "states": arm}
        row |= {"parameters": parameters(folder, name)}
        row |= scored(folder / f"stages/{name}_play", reference)
        row |= {"agreement": float(np.mean(log["accuracy"][-1]))}
        rows.append(row | {"kl": float(np.mean(log["kl"][-1]))})
    return rows


def joint_in(
    agent: str, size: str, folder: pathlib.Path, reference: dict[str, Any]
) -> dict[str, Any]:
    """Returns the row of a joint learner."""
    totals = metrics.read_summary(folder / "stages/joint")["totals"]
    row: dict[str, Any] = {"size": size, "loss": f"joint {agent}", "agent": agent}
    row |= {"parameters": parameters(folder, "joint")}
    row |= {"env_steps": totals["env_steps_per_member"], "wall_s": totals["wall_s"]}
    return row | scored(folder / "stages/joint_play", reference)


def scored(
    folder: pathlib.Path, reference: dict[str, Any], mine: slice = slice(None)
) -> dict[str, Any]:
    """Returns what the members ``mine`` of an evaluate stage score beside the teachers."""
    tasks = metrics.read_summary(folder)["tasks"]
    returns = {
        name: np.asarray(task["in_context"]["returns"], float)[mine, 0, 0]
        for name, task in tasks.items()
    }
    gains = {name: x["return"] - x["random"] for name, x in reference.items()}
    ratios = [
        (x - reference[name]["random"]) / gains[name]
        for name, x in returns.items()
        if gains[name] > 0
    ]
    # Without a game that its teacher can play there is no score.
    score = np.zeros(0)
    if ratios:
        score = np.exp(np.log(np.maximum(ratios, FLOOR)).mean(0))
    few = len(score) < 2
    low, high = (None, None) if few else estimates.mean_interval(score)
    return {
        "seeds": len(next(iter(returns.values()))),
        "score": float(score.mean()) if ratios else None,
        "low": low,
        "high": high,
        "scores": score.tolist(),
        "returns": {name: x.tolist() for name, x in returns.items()},
    }


def parameters(folder: pathlib.Path, name: str) -> int:
    """Returns the number of parameters of the learners of stage ``name``."""
    import jax

    from mtrl_jax.experiments import build, checks, kinds, reading

    run = kinds.run_of(reading.load_config(folder), folder)
    stage = run.stage(name)
    agent = build.make_agent(stage, kinds.spec_of(run, stage))
    learner = jax.eval_shape(agent.init, *checks.key_and_hparams(stage))
    return sum(x.size for x in jax.tree.leaves(learner.params))
