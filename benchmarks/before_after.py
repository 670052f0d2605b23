"""Speed beside an earlier checkout of this kit: its own scripts against today's, in turn.

    git worktree add --detach /tmp/before COMMIT
    python benchmarks/before_after.py --before /tmp/before [--turns 5]

A figure is the steps a second: of a whole training loop in ``throughput`` and ``peers``
(this kit's part of it, PPO on CartPole, 64 slots), gradient steps of a torso in a scan in
``convolutions``, decisions of a random policy in ``labyrinth_speed``. A chunk of these takes
a tenth of a second to some seconds, and a machine's speed does not hold for longer. So
both checkouts' processes are there at once and run chunk by chunk in turn; what counts in a
turn is the median of the chunks, and every turn has new processes.
``population``: each checkout's script in a process of its own, the order reversed from
turn to turn; of a population the fastest way that a checkout has, updates a second.

Shown is the median over turns of the ratio today / before within a turn, and its range.

Prints the table; writes before_after.json, in which the rows of a script that is left
out (--scripts) are those of before.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

import common
import peers
import peers_settings

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPTS = ("throughput", "population", "peers", "convolutions", "labyrinth_speed")
# Of a turn of this benchmark, its own turns are few. Four updates (its default) are 12 ms
# of one member: too short to tell.
POPULATION = ["--populations", "1", "8", "--turns", "3", "--updates", "50"]
LOOPS = (  # of throughput.py: case, runner
    ("cartpole", "fused"),
    ("breakout", "fused"),
    ("pong", "fused"),
    ("pong", "host"),
)
CONTENDERS, SLOTS, MEMBERS = ("mtrl", "shared"), 64, (1, 8)  # of peers.py
CONVOLUTIONS = [(x, p) for x in ("nature", "impala_deep", "minatar") for p in (1, 8)]
LABYRINTH = {0: "64 slots, pixels", 5: "256 slots, rays", 6: "1,024 slots, rays"}
CHUNKS, FEW = 15, 5  # of each checkout, in a turn; of what takes long
COLUMNS = {
    "case": "<28",
    "before": ">11,.0f",
    "today": ">11,.0f",
    "ratio": ">6.2f",
    "low": ">6.2f",
    "high": ">6.2f",
}


def main() -> None:
    """Run the turns; print the table and write it."""
    args = arguments()
    checkouts = {"before": args.before.resolve(), "today": ROOT}
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for turn in range(args.turns):
        names = list(checkouts)[:: 1 if turn % 2 == 0 else -1]
        for script in args.scripts:
            for name, rates in turn_of(script, names, checkouts, args.quick).items():
                for case, rate in rates.items():
                    own = found.setdefault((script, case), {x: [] for x in checkouts})
                    own[name].append(rate)
            print(f"turn {turn + 1} of {args.turns}: {script}", flush=True)
    print(common.header(COLUMNS))
    rows = kept(args)
    for (script, case), own in found.items():
        if all(len(x) == args.turns for x in own.values()):
            about = {"script": script, "commit": commit(ROOT), "turns": args.turns}
            rows.append(about | {"date": common.moment()["date"]} | row_of(case, own))
            print(common.line(rows[-1], COLUMNS))
    machine = common.environment()
    result = {"machine": machine, "commit": commit(args.before), "rows": rows}
    print(f"written: {common.write(args.out, 'before_after', result)}")


def kept(args: argparse.Namespace) -> list[dict[str, object]]:
    """Returns the rows of scripts that are left out, of a result beside the same commit."""
    path = args.out / "before_after.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    if before.get("commit") != commit(args.before):
        return []
    return [row for row in before["rows"] if row["script"] not in args.scripts]


def row_of(case: str, own: dict[str, list[float]]) -> dict[str, object]:
    """Returns the row of a case from its rates in every turn."""
    ratios = [y / x for x, y in zip(own["before"], own["today"])]
    return {
        "case": case,
        "before": statistics.median(own["before"]),
        "today": statistics.median(own["today"]),
        "ratio": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
    }


def turn_of(
    script: str, names: list[str], checkouts: dict[str, pathlib.Path], quick: bool
) -> dict[str, dict[str, float]]:
    """Returns {checkout's name: {case: steps a second}} of one turn."""
    if script == "population":
        return {name: population(checkouts[name], quick) for name in names}
    cases = CASES[script]()
    found: dict[str, dict[str, float]] = {name: {} for name in names}
    for case, own in list(cases.items())[: 1 if quick else None]:
        for name, rate in side_by_side(own, names, checkouts, quick).items():
            found[name][case] = rate
    return found


class Served(NamedTuple):
    """A training loop that a checkout's process makes chunks of, on being asked."""

    script: pathlib.Path  # below a checkout; an absolute path is the same for all
    settings: dict[str, Any]
    steps: int | None = None  # of a chunk, unless its answers say it
    chunks: int = CHUNKS


def training_loops() -> dict[str, Served]:
    """Returns the loops of throughput.py by case."""
    return {
        f"{case}, {runner}": loop("throughput", case=case, runner=runner)
        for case, runner in LOOPS
    }


def convolutions() -> dict[str, Served]:
    """Returns the torsos of convolutions.py by case."""
    return {
        f"torso {torso}, P = {members}, gradient steps": loop(
            "convolutions", FEW, case=(torso, members)
        )
        for torso, members in CONVOLUTIONS
    }


def labyrinth() -> dict[str, Served]:
    """Returns cases of labyrinth_speed.py, which has them by number."""
    return {
        f"explore_object_locations_small, {x}": loop("labyrinth_speed", FEW, case=i)
        for i, x in LABYRINTH.items()
    }


def loop(script: str, chunks: int = CHUNKS, **settings: Any) -> Served:
    """Returns what before_after_loop.py runs of a script."""
    server = ROOT / "benchmarks/before_after_loop.py"
    return Served(server, {"script": script, **settings}, chunks=chunks)


def peers_ppo() -> dict[str, Served]:
    """Returns this kit's part of peers.py, PPO, by case."""
    algorithm, found = peers_settings.PPO, {}
    for contender in CONTENDERS:
        for members in MEMBERS:
            changes, _ = algorithm.contenders[contender]
            updates = peers.updates_per_turn(
                algorithm.turn, SLOTS * members, quick=True
            )
            sizes = {"slots": SLOTS, "population": members, "updates": updates}
            found[f"PPO, {contender}, P = {members}"] = Served(
                pathlib.Path("benchmarks/peers_mtrl.py"),
                {**algorithm.settings, **changes, **sizes},
                members * SLOTS * algorithm.settings["unroll"] * updates,
            )
    return found


CASES = {
    "throughput": training_loops,
    "peers": peers_ppo,
    "convolutions": convolutions,
    "labyrinth_speed": labyrinth,
}


def side_by_side(
    served: Served, names: list[str], checkouts: dict[str, pathlib.Path], quick: bool
) -> dict[str, float]:
    """Returns {checkout's name: steps a second}, of processes that train in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    steps = served.steps
    with contextlib.ExitStack() as stack:
        servers = {
            name: peers.serve(
                stack,
                name,
                served.settings,
                # The modules beside the script are the checkout's, not this script's.
                [sys.executable, "-P", str(checkouts[name] / served.script)],
                environment(checkouts[name]),
            )
            for name in names
        }
        for server in servers.values():
            server.ask("train")  # compiles
        for chunk in range(2 if quick else served.chunks):
            for name in names[:: 1 if chunk % 2 == 0 else -1]:
                answer = servers[name].ask("train")
                seconds[name].append(answer["seconds"])
                steps = served.steps or answer["steps"]
    assert steps is not None
    return {name: steps / statistics.median(own) for name, own in seconds.items()}


def environment(checkout: pathlib.Path) -> dict[str, str]:
    """Returns the variables under which Python imports a checkout's kit and scripts."""
    path = os.pathsep.join([str(checkout), str(checkout / "benchmarks")])
    return os.environ | {"PYTHONPATH": path}


def population(checkout: pathlib.Path, quick: bool) -> dict[str, float]:
    """Returns {case: updates a second} of a checkout's population.py."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, str(checkout / "benchmarks/population.py")]
        command += [*POPULATION, "--out", out, *(["--quick"] if quick else [])]
        subprocess.run(
            command,
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=checkout,
            env=environment(checkout),
        )
        rows = json.loads((pathlib.Path(out) / "population.json").read_text())["rows"]
    return {
        f"{row['agent']}, P = {row['P']}, updates": 1e3 / min(ways_of(row))
        for row in rows
    }


def ways_of(row: dict[str, Any]) -> list[float]:
    """Returns the milliseconds of a member's update, every way that was timed."""
    return [row[x] for x in row["values"] if isinstance(row.get(x), float)]


def commit(checkout: pathlib.Path) -> str:
    """Returns the short name of a checkout's commit."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return found.stdout.strip()


def arguments() -> argparse.Namespace:
    """Returns the parsed arguments."""
    made = common.parser(__doc__ or "", "the scripts' own quick cases")
    made.add_argument("--before", type=pathlib.Path, required=True, help="a checkout")
    made.add_argument("--turns", type=int, default=5)
    made.add_argument("--scripts", nargs="+", choices=SCRIPTS, default=list(SCRIPTS))
    args = made.parse_args()
    args.turns = 1 if args.quick else args.turns
    return args


if __name__ == "__main__":
    main()
