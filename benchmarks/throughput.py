"""How many environment steps a second the parts of a training loop make, and the whole.

Columns, in steps of all slots and members a second:

    env      stepping alone, actions drawn beforehand, every TimeStep handed out
    act      choosing actions alone, on observations of that play
    learn    updating alone, in a loop as the whole does, on the rollouts these make
    bound    1 / (1/env + 1/act + 1/learn): the parts one after the other, glue for free
    whole    the training loop as ``mtrl train`` runs it: statistics, mixture and all
    ratio    whole / bound; the host runner can pass 1, its emulators and learner overlap

Environments of a pool have a row for each runner: stepped inside the program (CPU only)
and from Python in two halves. Parts and whole are measured in turn, in one process, so
that a change of the machine's load meets them alike; ratios are taken within a turn, and
what is shown is the median over turns.

    python benchmarks/throughput.py [--quick] [--out benchmarks/results] [--only pong]
    python benchmarks/throughput.py --case envpool/Breakout-v5 impala 16 2
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import pathlib
import statistics

import common
import throughput_loops as loops
from throughput_loops import Case

from mtrl_jax import xla

PARTS = ("env", "act", "learn")
RATES = (*PARTS, "bound", "whole")  # in a row as "env_steps_per_s" and so on
COLUMNS = {
    "name": "<12",
    "runner": "<6",
    "population": ">10d",
    "slots": ">5d",
    **dict.fromkeys(RATES, ">10,.0f"),
    "ratio": ">6.2f",
}


CASES = {
    "cartpole": Case("gymnax/CartPole-v1", "ppo", 64, 1, unroll=128),
    "breakout": Case("gymnax/Breakout-MinAtar", "impala", 64, 1, updates=20),
    "pong": Case(
        "envpool/Pong-v5", "impala", 16, 1, config={"network.torso": "impala_shallow"}
    ),
}
QUICK = ("breakout", "pong")  # most of a quick run is compiling


def main() -> None:
    """Measures, prints and writes after every case."""
    args = _arguments()
    xla.configure_process()
    rows: list[dict] = []
    print(common.header(COLUMNS), flush=True)
    for name, case in _cases(args).items():
        for row in measure(name, case, args.repeats):
            rows.append(row)
            shown = row | {rate: row[f"{rate}_steps_per_s"] for rate in RATES}
            print(common.line(shown, COLUMNS), flush=True)
        result = {"machine": common.environment(), "repeats": args.repeats}
        written = common.write(args.out, "throughput", {**result, "rows": rows})
    draw(rows, args.out / "throughput.png")
    print(f"written: {written}, {args.out / 'throughput.png'}")


def measure(name: str, case: Case, repeats: int) -> list[dict]:
    """Returns a row for each runner that can step the case's environment."""
    with contextlib.ExitStack() as stack:
        found = []
        for loop in loops.loops(case):
            stack.callback(loop.close)
            found.append(loop)
        learner = loops.learner(case, found[0])
        calls = dict(zip(("act", "learn"), learner))
        for loop in found:
            calls |= {f"env {loop.name}": loop.play, f"whole {loop.name}": loop.train}
        turns = common.in_turn(calls, repeats)
        return [_row(name, case, loop.name, turns) for loop in found]


def draw(rows: list[dict], path: pathlib.Path) -> None:
    """Writes the picture: a group of bars for each row, ``whole / bound`` below it."""
    title = "Parts, their harmonic bound, and the whole (whole / bound below)"
    with common.figure(path, [title], (1.5 + 1.7 * len(rows), 3.5)) as (axes,):
        for i, rate in enumerate(RATES):
            places = [k + (i - 2) * 0.16 for k in range(len(rows))]
            heights = [row[f"{rate}_steps_per_s"] for row in rows]
            axes.bar(places, heights, 0.15, label=rate)
        labels = [f"{r['name']}\n{r['runner']}, {r['ratio']:.2f}" for r in rows]
        axes.set_xticks(range(len(rows)), labels)
        axes.set_yscale("log")
        axes.set_ylabel("environment steps / s")
        axes.legend(ncols=5, fontsize="small")


def _row(name: str, case: Case, runner: str, turns: dict[str, list[float]]) -> dict:
    columns = {
        "env": f"env {runner}",
        "act": "act",
        "learn": "learn",
        "whole": f"whole {runner}",
    }
    taken = {c: turns[key] for c, key in columns.items()}
    times = [dict(zip(taken, turn)) for turn in zip(*taken.values())]
    bounds = [sum(turn[part] for part in PARTS) for turn in times]
    median = {c: statistics.median(seconds) for c, seconds in taken.items()}
    ratios = [bound / turn["whole"] for bound, turn in zip(bounds, times)]
    return {
        "name": name,
        "runner": runner,
        **dataclasses.asdict(case),
        **{f"{c}_steps_per_s": case.steps / seconds for c, seconds in median.items()},
        "bound_steps_per_s": case.steps / statistics.median(bounds),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def _cases(args: argparse.Namespace) -> dict[str, Case]:
    if args.case:
        chosen = {}
        for env, agent, slots, members in args.case:
            name = env.rsplit("/", 1)[-1]
            chosen[name] = Case(env, agent, int(slots), int(members), args.unroll)
    else:
        names = args.only or (QUICK if args.quick else list(CASES))
        chosen = {name: CASES[name] for name in names}
    if not args.quick:
        return chosen
    return {
        name: dataclasses.replace(case, updates=max(2, case.updates // 2))
        for name, case in chosen.items()
    }


def _arguments() -> argparse.Namespace:
    parser = common.parser(__doc__ or "", "two cases, half the updates, 3 turns")
    parser.add_argument("--only", nargs="+", choices=CASES)
    parser.add_argument("--repeats", type=int, default=None, help="turns measured")
    parser.add_argument(
        "--case",
        nargs=4,
        action="append",
        metavar=("ENV", "AGENT", "SLOTS", "POPULATION"),
        help="measure this instead, with the agent's default config",
    )
    parser.add_argument("--unroll", type=int, default=20, help="of --case")
    args = parser.parse_args()
    args.repeats = args.repeats or (3 if args.quick else 9)
    return args


if __name__ == "__main__":
    main()
