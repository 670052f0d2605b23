"""Speed beside an earlier checkout of this kit: its own scripts against today's, in turn.

    git worktree add --detach /tmp/before COMMIT
    python benchmarks/before_after.py --before /tmp/before [--turns 5]

Every turn runs throughput.py and population.py of both checkouts, each in a process of
its own with this interpreter, the order reversed from turn to turn. A figure is the steps
a second of the whole training loop; of a population the fastest way that a checkout has.

``peers`` is this kit's part of peers.py (PPO on CartPole, 64 slots): a chunk of it takes a
fifth of a second, less than a machine's speed holds for. So both checkouts' processes
are there at once and train chunk by chunk in turn; what counts in a turn is the median
of the chunks, and every turn has new processes.

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

import common
import peers
import peers_settings

ROOT = pathlib.Path(__file__).resolve().parent.parent
# {script: its arguments}; of a turn of this benchmark, their own turns are few. Four
# updates (population.py's default) are 12 ms of one member: too short to tell.
SCRIPTS = {
    "throughput": ["--repeats", "3"],
    "population": ["--populations", "1", "8", "--turns", "3", "--updates", "50"],
}
PEERS, CONTENDERS, SLOTS, MEMBERS = "peers", ("mtrl", "shared"), 64, (1, 8)
CHUNKS = 15  # of each checkout, in a turn of peers
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
            rows.append({"script": script} | row_of(case, own))
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
    if script != PEERS:
        return {name: measured(checkouts[name], script, quick) for name in names}
    found: dict[str, dict[str, float]] = {name: {} for name in names}
    for contender in CONTENDERS:
        for members in MEMBERS[:1] if quick else MEMBERS:
            rates = side_by_side(contender, members, names, checkouts, quick)
            for name, rate in rates.items():
                found[name][f"PPO, {contender}, P = {members}"] = rate
    return found


def side_by_side(
    contender: str,
    members: int,
    names: list[str],
    checkouts: dict[str, pathlib.Path],
    quick: bool,
) -> dict[str, float]:
    """Returns {checkout's name: steps a second}, of processes that train in turn."""
    algorithm = peers_settings.PPO
    changes, _ = algorithm.contenders[contender]
    updates = peers.updates_per_turn(algorithm.turn, SLOTS * members, quick=True)
    sizes = {"slots": SLOTS, "population": members, "updates": updates}
    settings = {**algorithm.settings, **changes, **sizes}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with contextlib.ExitStack() as stack:
        servers = {
            name: peers.serve(
                stack,
                name,
                settings,
                [sys.executable, str(checkouts[name] / "benchmarks/peers_mtrl.py")],
                environment(checkouts[name]),
            )
            for name in names
        }
        for server in servers.values():
            server.ask("train")  # compiles
        for chunk in range(2 if quick else CHUNKS):
            for name in names[:: 1 if chunk % 2 == 0 else -1]:
                seconds[name].append(servers[name].ask("train")["seconds"])
    steps = members * SLOTS * algorithm.settings["unroll"] * updates
    return {name: steps / statistics.median(own) for name, own in seconds.items()}


def environment(checkout: pathlib.Path) -> dict[str, str]:
    """Returns the variables under which Python imports a checkout's kit and scripts."""
    path = os.pathsep.join([str(checkout), str(checkout / "benchmarks")])
    return os.environ | {"PYTHONPATH": path}


def measured(checkout: pathlib.Path, script: str, quick: bool) -> dict[str, float]:
    """Returns {case: steps a second} of a script of a checkout."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, str(checkout / f"benchmarks/{script}.py")]
        command += [*SCRIPTS[script], "--out", out, *(["--quick"] if quick else [])]
        subprocess.run(
            command,
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=checkout,
            env=environment(checkout),
        )
        rows = json.loads((pathlib.Path(out) / f"{script}.json").read_text())["rows"]
    return dict(READERS[script](row) for row in rows)


def of_throughput(row: dict) -> tuple[str, float]:
    """Returns the case and rate of a row of throughput.py."""
    return f"{row['name']}, {row['runner']}", row["whole_steps_per_s"]


def of_population(row: dict) -> tuple[str, float]:
    """Returns the case and the rate, updates a second, of a row of population.py."""
    ways = [row[x] for x in row["values"] if isinstance(row.get(x), float)]
    return f"{row['agent']}, P = {row['P']}, updates", 1e3 / min(ways)


READERS = {"throughput": of_throughput, "population": of_population}


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
    known = [*SCRIPTS, PEERS]
    made.add_argument("--scripts", nargs="+", choices=known, default=known)
    args = made.parse_args()
    args.turns = 1 if args.quick else args.turns
    return args


if __name__ == "__main__":
    main()
