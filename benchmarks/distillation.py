"""Policy distillation on MinAtar: the losses and τ, at four sizes of the student.

A teacher a game plays, and one student of all four games learns from what it said: the
stages of ``configs/policy_distillation_minatar.yaml``. Losses, τ and seeds are members of
one population, a size is a program of its own. Teachers and students play at ε = 0.05. A
score is (return − random) / (teacher's − random), of a student their geometric mean over
games (from 0.01 up, as one game below random would decide it). Games whose teacher is
no better than random are left out, and named in the JSON.

``--joint``: beside them one value learner of all games (see distillation_arms.py), of
the size --joint-size. ``--states``: students of every size that go on with the states
that they came to themselves, and with their teachers' of before. ``--losses``: some of
the losses alone.

Everything is a run of its own under --runs and is gone on with if it exists. A run of the
whole config in the folder of the teachers (``mtrl train CONFIG --run-dir
RUNS/teachers-3000000-250000``) gives them, and its own students are ``pipeline`` of the
JSON. Writes distillation.json and .png; with no ``--sizes`` distillation_pipeline.json alone.

    python benchmarks/distillation.py                  # about three hours on 2 cores
    python benchmarks/distillation.py --env-steps 400000 --play-steps 20000 --updates 1500
    python benchmarks/distillation.py --joint pqn dqn --states
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import common
import distillation_arms as arms
import distillation_rows as rows_of

from mtrl_jax import metrics, xla
from mtrl_jax.config import loading

SIZES = arms.SIZES
COLUMNS = {
    "size": "<6",
    "loss": "<9",
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
    made.add_argument("--play-steps", type=int, default=250_000, help="of a teacher")
    made.add_argument("--updates", type=int, default=40_000, help="of a student")
    made.add_argument("--batch", type=int, default=256, help="of a student")
    made.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES))
    made.add_argument(
        "--losses", nargs="+", choices=arms.NAMES, default=list(arms.NAMES)
    )
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--slots", type=int, default=32, help="episodes a game")
    made.add_argument("--joint", nargs="+", choices=arms.JOINT, default=[])
    made.add_argument("--joint-size", choices=SIZES, default="1")
    made.add_argument("--states", action="store_true", help="students' own states")
    made.add_argument(
        "--runs", type=pathlib.Path, default=pathlib.Path("runs/distillation")
    )
    args = made.parse_args()
    xla.configure_process()
    if args.quick:
        args.env_steps, args.play_steps, args.updates = 10_240, 500, 20
        args.sizes, args.seeds, args.slots = ["1/60"], 1, 1
        args.joint_size, args.runs = "1/60", args.runs / "quick"
    teachers = trained_teachers(args)
    summary = metrics.read_summary(teachers / "stages/teachers")
    reference = {
        name: rows_of.task_score(task) for name, task in summary["tasks"].items()
    }
    result: dict[str, Any] = {
        "machine": common.environment(),
        "settings": common.settings(args),
        "teachers": reference,
        "left_out": [k for k, x in reference.items() if x["return"] <= x["random"]],
        "pipeline": rows_of.pipeline_in(teachers, reference),
        "rows": [],
        "joint": [],
        "states": [],
    }
    if not args.sizes:
        common.write(args.out, "distillation_pipeline", result)
    print(common.header(COLUMNS))

    def add(name: str, rows: list[dict[str, Any]]) -> None:
        result[name] += rows
        for row in rows:
            print(common.line(row, COLUMNS), flush=True)
        common.write(args.out, "distillation", result)

    for size in args.sizes:
        folder = students_folder(args, size, teachers)
        complete(folder, arms.student_settings(args, size, teachers))
        add("rows", rows_of.students_in(size, folder, reference, arms.chosen(args)))
        if args.states:
            add("states", rows_of.states_in(size, teachers, reference))
    for agent in args.joint:
        slug = arms.slug_of(args.joint_size)
        folder = args.runs / f"joint-{agent}-{slug}-{args.env_steps}-{args.seeds}"
        complete(folder, arms.joint_settings(args, agent, args.joint_size))
        add("joint", [rows_of.joint_in(agent, args.joint_size, folder, reference)])
    draw(result["rows"], args.out / "distillation.png")


def trained_teachers(args: argparse.Namespace) -> pathlib.Path:
    """Returns the folder of the run of the teachers, their play and what follows it.

    With --states the students that go on are its later stages, as teachers label what
    these come to.
    """
    name = f"teachers-{args.env_steps}-{args.play_steps}"
    given = arms.stages_of(args, ("teachers", "play"))
    if args.states:
        given["stages"] += [x for s in args.sizes for x in arms.states_stages(args, s)]
        sizes = "-".join(map(arms.slug_of, args.sizes))
        name += f"-states-{sizes}-{args.updates}-{args.seeds}"
    complete(args.runs / name, given)
    return args.runs / name


def students_folder(
    args: argparse.Namespace, size: str, teachers: pathlib.Path
) -> pathlib.Path:
    """Returns the folder of the run of a size's students: another for other teachers."""
    length = f"{args.updates}x{args.batch}-{args.seeds}x{args.slots}"
    if args.losses != list(arms.NAMES):
        length += f"-{'-'.join(args.losses)}"
    return args.runs / f"size-{arms.slug_of(size)}-{length}-of-{teachers.name}"


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
    settings = loading.from_dict(given, where=str(arms.CONFIG))
    code = runs.resume(folder) if begun else runs.train(settings, folder)
    if code:
        raise SystemExit(code)


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Draw the score against the size, a line for each arm; nothing without a score."""
    rows = [row for row in rows if row["score"] is not None]
    if not rows:
        return
    with common.figure(path, [""], size=(8, 4)) as (ax,):
        for loss, tau in arms.ARMS:
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
        ax.figure.legend(loc="outside center right")


if __name__ == "__main__":
    main()
