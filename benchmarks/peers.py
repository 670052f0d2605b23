"""PPO and DQN beside a peer: same settings, environment and machine, turn by turn.

The peer is rejax 0.1.3 with gymnax 0.0.9 from PyPI, in a venv of its own with the JAX of
this one. Each contender is a process of its own, compiled once; then they train turn by
turn, so that a change of the machine's load meets all of them. Everything goes through
their public entry points: ``algo.train`` (its evaluation left out) and the chunk that
``mtrl train`` runs (with statistics, mixture and metrics).

PPO: CartPole-v1, 4, 64 and 256 environments x 128 steps, 4 epochs x 4 minibatches,
two tanh MLPs 64-64 (rejax has no shared torso, so ours has ``separate_value``). DQN
(``--algorithm dqn``): rejax's own settings of CartPole, 10 environments, 5 gradient steps
on 100 of the last 50,000 transitions after each step of them, double, dueling, 100,000
steps a member. Differences that stay: rejax clips gradients by value, this kit by norm;
rejax resets in the same step and takes a time limit for a failure, this kit spends one
step on a reset; of DQN, rejax's target network is a moving average, ours a copy every so
many updates, whose mean age is the same, and rejax draws a batch without replacement.

    mtrl       same networks; members split over the cores, those of a core together
    in turn    same networks; those of a core one after the other (population.at_once: 1)
    shared     this kit's defaults: one torso for policy and value (half the network),
               the value error not clipped; faster, but mind what it has learned (PPO)

Shown are medians over turns of environment steps a second of all members, the ratio to
rejax within a turn, processor seconds per million steps (which a busy machine changes
least), and the interquartile mean over members of their mean returns after the same
number of steps. From 5 members on it says whether a return is lower; fewer say little.
Each line's ``curve`` in the JSON has it at every quarter of the way.

rejax's DQN draws a batch by ordering all 50,000 places of its buffer at random, in every
gradient step of every member: most of its time. ``--replacement`` has it draw as
this kit does; that is for returns, not for rates, and written as ``…_returns``.

    python benchmarks/peers.py [--quick] [--venv DIR] [--populations 1 8 16]
                               [--slots 4 64 256] [--algorithm dqn] [--replacement]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import common
from peers_settings import ALGORITHMS, PEER

from mtrl_jax.metrics import estimates

HERE = pathlib.Path(__file__).parent
REQUIREMENTS = ("rejax==0.1.3", "gymnax==0.0.9")
TESTS = 4  # while they learn
COLUMNS = {
    "slots": ">5d",
    "P": ">3d",
    "contender": "<10",
    "steps/s": ">10,.0f",
    "ratio": ">6.2f",
    "cpu s/M": ">8.2f",
    "IQM return": ">10.1f",
    "after": ">9,d",
}


@dataclasses.dataclass
class Contender:
    """A process that trains when asked to."""

    name: str
    process: subprocess.Popen

    def ask(self, command: str) -> dict[str, Any]:
        """Returns the answer to a command; raises RuntimeError if it has ended."""
        self.say(command)
        return self.answer()

    def say(self, command: str) -> None:
        """Returns at once, with the command on its way."""
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Returns the answer to the oldest command that was not answered."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with code {self.process.wait()}")
        return json.loads(line)


def main() -> None:
    """Installs what is missing, measures, prints and writes."""
    args = arguments()
    python = install(args.venv)
    algorithm = ALGORITHMS[args.algorithm]
    settings = algorithm.settings | {"replacement": args.replacement}
    name = algorithm.result + ("_returns" if args.replacement else "")
    result: dict[str, Any] = {"quick": args.quick, "settings": settings, "rows": []}
    print(common.header(COLUMNS), flush=True)
    cases = [(slots, p) for slots in args.slots for p in args.populations]
    for slots, members in cases:
        rows, about = measure(slots, members, python, args)
        result["rows"] += rows
        result |= about
        for row in rows:
            print(common.line(row, COLUMNS), flush=True)
        path = common.write(args.out, name, result)
    print(f"written: {path}")
    if not args.replacement:
        draw(result["rows"], path.with_suffix(".png"))
        print(f"written: {path.with_suffix('.png')}")


def install(venv: pathlib.Path) -> pathlib.Path:
    """Returns the python of the peers' venv, made if it is not there or not the same."""
    python = venv / "bin" / "python"
    wanted = "\n".join([*REQUIREMENTS, same_jax()])
    done = venv / "installed.txt"
    if done.exists() and done.read_text() == wanted:
        return python
    print(f"installing {', '.join(wanted.split())} into {venv}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
    common.pip_install(python, *wanted.split())
    done.write_text(wanted)
    return python


def same_jax() -> str:
    """Returns the requirement that gives the peer this environment's JAX."""
    installed = {d.metadata["Name"] for d in importlib.metadata.distributions()}
    plugins = [p for p in ("cuda12", "cuda13") if f"jax-{p}-plugin" in installed]
    extra = f"[{plugins[0]}]" if plugins else ""
    return f"jax{extra}=={importlib.metadata.version('jax')}"


def measure(
    slots: int, members: int, python: pathlib.Path, args: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns (a row for each contender, what they say of themselves)."""
    algorithm = ALGORITHMS[args.algorithm]
    updates = updates_per_turn(algorithm.turn, slots * members, args.quick)
    changes = {"slots": slots, "population": members, "updates": updates}
    changes["replacement"] = args.replacement
    settings = {**algorithm.settings, **changes}
    per_update = slots * settings["unroll"]
    untimed = max(1, -(-algorithm.untimed // (updates * per_update)))
    with contextlib.ExitStack() as stack:
        contenders = [
            start(stack, name, {**settings, **changes}, python)
            for name, (changes, least) in algorithm.contenders.items()
            if name in args.contenders and members >= least
        ]
        # The first turn compiles; all at once, as nothing is measured in it.
        for command in ("hello", "train"):
            for contender in contenders:
                contender.say(command)
        about = [(c.answer(), c.answer())[0] for c in contenders]
        for _ in range(untimed - 1):
            for contender in contenders:
                contender.ask("train")
        turns = [
            {c.name: c.ask("train") for c in contenders} for _ in range(args.turns)
        ]
        done = (args.turns + untimed) * updates * per_update
        curves = learn(contenders, done, updates * per_update, args)
    steps = members * updates * per_update
    rows = [
        {"slots": slots, "P": members} | row(c.name, steps, turns, curves[c.name])
        for c in contenders
    ]
    machines = dict(zip((c.name for c in contenders), about))
    ours = next((m for name, m in machines.items() if name != PEER), {})
    return rows, {"machine": ours, "peer": machines.get(PEER), "ended": common.moment()}


def learn(
    contenders: list[Contender], done: int, turn: int, args: argparse.Namespace
) -> dict[str, dict[int, list[float]]]:
    """Returns {contender: {steps of a member: its members' mean returns}}.

    They have made ``done`` steps and go on to ``args.learn``, in turns of ``turn``. They
    are tested at the first turn past each of TESTS equal parts of it, and at the end.
    """
    found: dict[str, dict[int, list[float]]] = {c.name: {} for c in contenders}
    marks = [args.learn * part // TESTS for part in range(1, TESTS + 1)]
    marks = [mark for mark in marks if mark > done] or [done]
    for mark in marks:
        turns = -(-(mark - done) // turn)
        done += turns * turn
        for contender in contenders:
            for _ in range(turns):
                contender.ask("train")
            found[contender.name][done] = contender.ask("test")["returns"]
    return found


def updates_per_turn(turn: int, slots: int, quick: bool) -> int:
    """Returns how many updates of ``slots``, all members' slots, are about a second."""
    return max(1, turn // (2 if quick else 1) // slots)


def start(
    stack: contextlib.ExitStack,
    name: str,
    settings: dict[str, Any],
    python: pathlib.Path,
) -> Contender:
    """Returns a contender that starts up, and is ended with the stack."""
    peer = name == PEER
    script = HERE / ("peers_rejax.py" if peer else "peers_mtrl.py")
    return serve(stack, name, settings, [python if peer else sys.executable, script])


def serve(
    stack: contextlib.ExitStack,
    name: str,
    settings: dict[str, Any],
    command: list[Any],
    env: dict[str, str] | None = None,
) -> Contender:
    """Returns the contender that ``command`` starts, ended with the stack."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    contender = Contender(name, process)
    contender.say(json.dumps(settings))
    return contender


def row(
    name: str,
    steps: int,
    turns: list[dict[str, dict[str, float]]],
    curve: dict[int, list[float]],
) -> dict[str, Any]:
    """Returns a contender's line of the table; ``steps`` are those of one turn."""
    mine = [turn[name] for turn in turns]
    after, returns = max(curve.items())
    found: dict[str, Any] = {
        "contender": name,
        "steps/s": statistics.median(steps / t["seconds"] for t in mine),
        "cpu s/M": 1e6 * statistics.median(t["cpu_seconds"] for t in mine) / steps,
        "IQM return": estimates.iqm(returns),
        "after": after,
        "steps_per_s": [steps / t["seconds"] for t in mine],
        "cpu_seconds": [t["cpu_seconds"] for t in mine],
        "returns": returns,
        "curve": {at: {"iqm": estimates.iqm(x), "all": x} for at, x in curve.items()},
    }
    if name != PEER and PEER in turns[0]:
        ratios = [t[PEER]["seconds"] / t[name]["seconds"] for t in turns]
        found |= {"ratio": statistics.median(ratios), "ratios": ratios}
    return found


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Draw every turn's steps a second, a panel for each number of slots and members."""
    cases = sorted({(row["slots"], row["P"]) for row in rows})
    titles = [f"{slots} slots, P = {members}" for slots, members in cases]
    with common.figure(path, titles) as axes:
        for ax, case in zip(axes, cases):
            mine = [row for row in rows if (row["slots"], row["P"]) == case]
            names = [row["contender"] for row in mine]
            ax.bar(names, [row["steps/s"] for row in mine], color="0.8")
            for place, row in enumerate(mine):
                values = row["steps_per_s"]
                ax.plot([place] * len(values), values, "o", markersize=3, color="C0")
            ax.set_ylabel("environment steps / s")


def arguments() -> argparse.Namespace:
    """Returns the command line's settings."""
    made = common.parser(__doc__ or "", "3 turns, no shared torso")
    cache = pathlib.Path(tempfile.gettempdir()) / "mtrl-jax-peers"
    made.add_argument("--venv", type=pathlib.Path, default=cache, help="of the peer")
    made.add_argument("--algorithm", choices=ALGORITHMS, default="ppo")
    made.add_argument("--populations", type=int, nargs="+", help="members")
    made.add_argument("--slots", type=int, nargs="+", help="environments of a member")
    made.add_argument("--contenders", nargs="+", choices=ALGORITHMS["ppo"].contenders)
    made.add_argument("--turns", type=int, help="measured")
    made.add_argument("--learn", type=int, help="steps per member before the return")
    made.add_argument("--replacement", action="store_true", help="rejax draws with it")
    args = made.parse_args()
    algorithm = ALGORITHMS[args.algorithm]
    quick = [PEER, "mtrl", "in turn"]
    known = quick if args.quick else list(algorithm.contenders)
    args.contenders = args.contenders or known
    args.populations = args.populations or algorithm.populations
    args.slots = args.slots or algorithm.slots
    args.turns = args.turns or (3 if args.quick else 9)
    if args.learn is None:
        args.learn = 0 if args.quick else algorithm.learn
    return args


if __name__ == "__main__":
    main()
