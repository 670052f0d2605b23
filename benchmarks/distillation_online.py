"""Online distillation on MinAtar: is a student of the best so far steadier than its teacher?

Two runs of ``configs/policy_distillation_online.yaml`` that differ in nothing but who is
tested, the student or its teacher: what they learn is the same to the bit. A member for
each game and seed. Steadiness is the deviation over a member's last ten tests, shown as
the student's over its teacher's (the mean of seeds); returns are means of these tests.
Every run is gone on with if it exists. Writes distillation_online.json and .png.

    python benchmarks/distillation_online.py              # 3e6 steps a member, hours
    python benchmarks/distillation_online.py --env-steps 400000
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import common
import numpy as np

from mtrl_jax import envs, metrics, xla
from mtrl_jax.config import loading, schema
from mtrl_jax.metrics import estimates

CONFIG = (
    pathlib.Path(__file__).parent.parent / "configs/policy_distillation_online.yaml"
)
TESTED = ("teacher", "student")
LAST = 10  # tests
COLUMNS = {
    "game": "<14",
    "seeds": ">5",
    "teacher": ">9.2f",
    "student": ">9.2f",
    "ratio": ">7.2f",
    "low": ">7.2f",
    "high": ">7.2f",
}


def main() -> None:
    """Runs what is missing; prints the table, writes JSON and PNG."""
    made = common.parser(__doc__ or "", "20,480 steps, one seed")
    made.add_argument("--env-steps", type=int, default=3_000_000, help="of a member")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--tests", type=int, default=30, help="in the run")
    made.add_argument("--episodes", type=int, default=32, help="of a test")
    made.add_argument(
        "--runs", type=pathlib.Path, default=pathlib.Path("runs/distillation_online")
    )
    args = made.parse_args()
    xla.configure_process()
    if args.quick:
        args.env_steps, args.seeds, args.tests, args.episodes = 20_480, 1, 2, 1
        args.runs = args.runs / "quick"
    found = {}
    for who in TESTED:
        tests = f"{args.tests}x{args.episodes}"
        folder = args.runs / f"{who}-{args.env_steps}-{args.seeds}-{tests}"
        totals = common.trained(settings(who, args), folder)["totals"]
        found[who] = metrics.read_metrics(folder)
    print(common.header(COLUMNS))
    rows = read(found)
    for row in rows:
        print(common.line(row, COLUMNS))
    result = {
        "machine": common.environment(),
        "settings": common.settings(args),
        "env_steps": totals["env_steps_per_member"],
        "rows": rows,
    }
    path = common.write(args.out, "distillation_online", result)
    draw(found, path.with_suffix(".png"))


def settings(who: str, args: argparse.Namespace) -> schema.ExperimentConfig:
    """Returns the settings of the run in which ``who`` is tested.

    One that is cut short has the rates and lengths of the whole run.
    """
    given = loading.read_yaml(CONFIG)
    training = given["training"]
    updates = args.env_steps // (given["tasks"][0]["slots"] * training["unroll_length"])
    chunk = training["updates_per_chunk"]
    every = max(1, updates // args.tests // chunk) * chunk
    given["evaluation"]["hparams"]["student"] = float(who == "student")
    changes = [
        f"population.size={len(envs.MINATAR) * args.seeds}",
        f"training.env_steps={args.env_steps}",
        f"evaluation.every_updates={every}",
        f"evaluation.episodes={args.episodes}",
    ]
    return loading.from_dict(loading.override(given, changes), where=who)


def read(found: dict[str, metrics.Metrics]) -> list[dict[str, Any]]:
    """Returns a row for each game, of the logs of both runs."""
    rows = []
    for game in found["teacher"].evaluation:
        tests = {who: last_of(log.evaluation[game]) for who, log in found.items()}
        spread = {who: x.std(0) for who, x in tests.items()}  # [seeds]
        row: dict[str, Any] = {
            "game": game.rpartition("/")[2].removesuffix("-MinAtar"),
            "seeds": tests["student"].shape[1],
            **{who: float(x.mean()) for who, x in tests.items()},
            **{f"{who}_deviation": x.tolist() for who, x in spread.items()},
        }
        # A teacher that never varies has nothing to be steadier than.
        varies = spread["teacher"] > 0
        ratios = spread["student"][varies] / spread["teacher"][varies]
        if ratios.size:
            row |= {"ratio": float(ratios.mean()), "ratios": ratios.tolist()}
        if ratios.size > 1:
            row["low"], row["high"] = estimates.mean_interval(ratios)
        rows.append(row)
    return rows


def last_of(returns: np.ndarray) -> np.ndarray:
    """Returns the last tests ``[n, seeds]`` of a game, of rows ``[N, P]``.

    NaN is what was not tested: rows between tests, and members of other games.
    """
    own = returns[:, ~np.isnan(returns).all(0)]
    return own[~np.isnan(own).any(1)][-LAST:]


def draw(found: dict[str, metrics.Metrics], path: pathlib.Path) -> None:
    """Draw the tests of both, a panel for each game."""
    games = list(found["teacher"].evaluation)
    with common.figure(path, [game.rpartition("/")[2] for game in games]) as axes:
        for ax, game in zip(axes, games):
            for who, log in found.items():
                returns = log.evaluation[game]
                own = returns[:, ~np.isnan(returns).all(0)]
                common.curve(ax, log.env_steps, own, who)
            ax.set(xlabel="env steps of a member", ylabel="return of tests")
            ax.legend()


if __name__ == "__main__":
    main()
