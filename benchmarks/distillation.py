"""Policy distillation on MinAtar: the losses and τ, at four sizes of the student.

A teacher a game plays, and one student of all four games learns from what it said: the
stages of ``configs/policy_distillation_minatar.yaml``. Losses, τ and seeds are members of
one population, a size is a program of its own. Teachers and students play at ε = 0.05. A
score is (return − random) / (teacher's − random), of a student their geometric mean over
games (from 0.01 up, as one game below random would decide it). Games whose teacher is
no better than random are left out, and named in the JSON.

Every size is a run of its own under --runs and is gone on with if it exists. Writes
distillation.json and .png.

    python benchmarks/distillation.py                  # an hour and a half on 2 cores
    python benchmarks/distillation.py --env-steps 400000 --play-steps 20000 --updates 1500
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import common
import numpy as np

from mtrl_jax import metrics, xla
from mtrl_jax.config import loading
from mtrl_jax.metrics import estimates

CONFIG = (
    pathlib.Path(__file__).parent.parent / "configs/policy_distillation_minatar.yaml"
)
# Filters and units of the student's torso, by its share of a teacher's parameters.
SIZES = {"1": (16, 128), "1/4": (8, 64), "1/15": (4, 32), "1/60": (2, 14)}
# (loss, τ) of the members; NLL and MSE do not read τ.
ARMS = (
    ("kl", 0.01),
    ("kl", 0.001),
    ("kl", 0.1),
    ("kl", 1.0),
    ("nll", 0.01),
    ("mse", 0.01),
)
FLOOR = 0.01
COLUMNS = {
    "size": "<6",
    "loss": "<4",
    "tau": ">7",
    "parameters": ">10,",
    "seeds": ">5",
    "score": ">7.3f",
    "low": ">7.3f",
    "high": ">7.3f",
    "kl": ">8.4f",
    "agreement": ">9.3f",
}  # fmt: skip


def main() -> None:
    """Runs what is missing; prints the table, writes JSON and PNG."""
    made = common.parser(__doc__ or "", "teachers of 10,240 steps, 20 updates")
    made.add_argument("--env-steps", type=int, default=3_000_000, help="of a teacher")
    made.add_argument("--play-steps", type=int, default=50_000, help="of a teacher")
    made.add_argument("--updates", type=int, default=10_000, help="of a student")
    made.add_argument("--batch", type=int, default=256, help="of a student")
    made.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--slots", type=int, default=32, help="episodes a game")
    made.add_argument(
        "--runs", type=pathlib.Path, default=pathlib.Path("runs/distillation")
    )
    args = made.parse_args()
    xla.prepare()
    if args.quick:
        args.env_steps, args.play_steps, args.updates = 10_240, 500, 20
        args.sizes, args.seeds, args.slots = ["1/60"], 1, 1
        args.runs = args.runs / "quick"
    teachers = args.runs / f"teachers-{args.env_steps}-{args.play_steps}"
    complete(teachers, stages_of(args, ("teachers", "play")))
    summary = metrics.read_summary(teachers / "stages/teachers")
    reference = {name: task_score(task) for name, task in summary["tasks"].items()}
    print(common.header(COLUMNS))
    rows: list[dict[str, Any]] = []
    for size in args.sizes:
        name = size.replace("/", "of")
        folder = args.runs / f"size-{name}-{args.updates}-{args.seeds}"
        complete(folder, student_settings(args, size, teachers))
        rows += read(size, folder, reference)
        for row in rows[-len(ARMS) :]:
            print(common.line(row, COLUMNS), flush=True)
        result = {
            "machine": common.environment(),
            "settings": {k: str(v) for k, v in vars(args).items()},
            "teachers": reference,
            "left_out": [k for k, x in reference.items() if x["return"] <= x["random"]],
            "rows": rows,
        }
        common.write(args.out, "distillation", result)
    draw(rows, args.out / "distillation.png")


def stages_of(args: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    """Returns the stages of the config called ``names``, as long as ``args`` say.

    A teacher that is cut short has the rates and lengths of the whole run.
    """
    given = loading.read_yaml(CONFIG)
    stages = {stage["name"]: stage for stage in given["stages"]}
    stages["teachers"]["training"]["env_steps"] = args.env_steps
    stages["play"]["training"]["env_steps"] = args.play_steps
    stages["students_play"]["tasks"][0]["slots"] = args.slots
    if args.quick:
        stages["teachers"]["evaluation"].update(every_updates=0, episodes=1)
        stages["play"]["evaluation"]["episodes"] = 1
        stages["students_play"]["evaluation"]["max_steps"] = 50
    return {**given, "stages": [stages[name] for name in names]}


def student_settings(
    args: argparse.Namespace, size: str, teachers: pathlib.Path
) -> dict[str, Any]:
    """Returns the settings of a size: every arm as often as there are seeds."""
    given = stages_of(args, ("student", "students_play"))
    student = given["stages"][0]
    filters, features = SIZES[size]
    student["data"] = str((teachers / "stages/play/histories").absolute())
    student["agent"]["config"]["network"] |= {
        "filters": [filters],
        "features": features,
    }
    student["agent"]["hparams"] |= {"decay_updates": args.updates}
    student["population"] = {"size": len(ARMS) * args.seeds, "search": search()}
    student["training"] |= {"updates": args.updates, "batch": args.batch}
    if args.quick:
        student["training"]["updates_per_chunk"] = 10
    return given


def search() -> dict[str, Any]:
    """Returns the ranges that deal the arms to the members in turn."""
    costs = {
        f"{loss}_cost": {
            "low": 0.0,
            "high": 1.0,
            "initial": [float(arm == loss) for arm, _ in ARMS],
        }
        for loss in ("kl", "nll", "mse")
    }
    taus = [tau for _, tau in ARMS]
    return costs | {"tau": {"low": min(taus), "high": max(taus), "initial": taus}}


def complete(folder: pathlib.Path, given: dict[str, Any]) -> None:
    """Begin the run in ``folder``, or go on with it, unless it is complete.

    Raises:
      SystemExit: a signal stopped it.
    """
    from mtrl_jax.experiments import runs
    from mtrl_jax.training import run_folder

    if metrics.read_summary(folder).get("complete"):
        return
    begun = (folder / run_folder.CONFIG).exists()
    settings = loading.from_dict(given, where=str(CONFIG))
    code = runs.resume(folder) if begun else runs.train(settings, folder)
    if code:
        raise SystemExit(code)


def task_score(task: dict[str, Any]) -> dict[str, float]:
    """Returns {return, random} of a teacher's game."""
    means = [x["mean"] for x in task["members"] if x["mean"] is not None]
    return {"return": float(np.mean(means)), "random": float(task["random_score"])}


def read(
    size: str, folder: pathlib.Path, reference: dict[str, Any]
) -> list[dict[str, Any]]:
    """Returns the rows of a size, one for each arm."""
    plays = metrics.read_summary(folder / "stages/students_play")
    student = metrics.read_summary(folder / "stages/student")
    log = metrics.read_metrics(folder / "stages/student").metrics
    returns = {
        name: np.asarray(task["in_context"]["returns"], float)[:, 0, 0]
        for name, task in plays["tasks"].items()
    }
    gains = {name: x["return"] - x["random"] for name, x in reference.items()}
    ratios = np.asarray(
        [
            (x - reference[name]["random"]) / gains[name]
            for name, x in returns.items()
            if gains[name] > 0
        ]
    )
    # Without a game that its teacher can play there is no score.
    score = np.full(log["kl"].shape[1], np.nan)  # [P]
    if ratios.size:
        score = np.exp(np.log(np.maximum(ratios, FLOOR)).mean(0))
    rows = []
    for i, (loss, tau) in enumerate(ARMS):
        mine = slice(i, None, len(ARMS))
        few = len(score[mine]) < 2
        low, high = (None, None) if few else estimates.mean_interval(score[mine])
        rows.append(
            {
                "size": size,
                "loss": loss,
                "tau": tau if loss == "kl" else None,
                "parameters": parameters(folder),
                "seeds": len(score[mine]),
                "score": float(score[mine].mean()),
                "low": low,
                "high": high,
                "scores": score[mine].tolist(),
                "returns": {name: x[mine].tolist() for name, x in returns.items()},
                "kl": float(np.mean(log["kl"][-1, mine])),
                "agreement": float(np.mean(log["accuracy"][-1, mine])),
                "wall_s": student["totals"]["wall_s"],
            }
        )
    return rows


def parameters(folder: pathlib.Path) -> int:
    """Returns the number of a student's parameters."""
    import jax

    from mtrl_jax.experiments import build, checks, kinds, reading

    run = kinds.run_of(reading.load_config(folder), folder)
    stage = run.stage("student")
    agent = build.make_agent(stage, kinds.spec_of(run, stage))
    learner = jax.eval_shape(agent.init, *checks.key_and_hparams(stage))
    return sum(x.size for x in jax.tree.leaves(learner.params))


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Draw the score against the size, a line for each arm; nothing without a score."""
    rows = [row for row in rows if np.isfinite(row["score"])]
    if not rows:
        return
    with common.figure(path, [""], size=(6, 4)) as (ax,):
        for loss, tau in ARMS:
            mine = [
                row
                for row in rows
                if (row["loss"], row["tau"]) in ((loss, tau), (loss, None))
            ]
            label = f"KL, τ = {tau:g}" if loss == "kl" else loss.upper()
            sizes = [row["parameters"] for row in mine]
            ax.plot(sizes, [row["score"] for row in mine], "o-", label=label)
        ax.axhline(1.0, color="grey", linewidth=1, linestyle=":")
        ax.set(
            xscale="log",
            xlabel="parameters of the student of four games",
            ylabel="share of the teachers' scores (geometric mean)",
        )
        ax.legend()


if __name__ == "__main__":
    main()
