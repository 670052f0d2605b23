"""What each way of sharing costs a step of training, beside one network for all tasks.

The arms of ``multitask.py --experiment sharing`` (V-trace on four rooms), at two widths:
a whole chunk of one member, acting and learning, and as many learned numbers as a member
has. All programs are compiled first and run turn by turn; shown are the median over turns
of a chunk's time and of its ratio, within a turn, to ``task input``, one network that is
given the task. Prints the table; writes sharing_cost.json.

    python benchmarks/sharing_cost.py [--quick] [--turns 15]
"""

from __future__ import annotations

import statistics
from typing import Any

import common
import jax
import multitask_arms as arms

from mtrl_jax import xla
from mtrl_jax.config import loading
from mtrl_jax.experiments import online

PLAIN = "task input"
WIDTHS: tuple[int, ...] = (64, 256)
UPDATES = 20  # of a chunk
COLUMNS = {
    "arm": "<14",
    "units": ">6d",
    "parameters": ">11,d",
    "ms": ">9.1f",
    "ratio": ">7.2f",
    "low": ">7.2f",
    "high": ">7.2f",
}


def main() -> None:
    """Measures, prints and writes after every width."""
    parser = common.parser(__doc__ or "", "64 units, two arms, 3 turns")
    parser.add_argument("--turns", type=int, default=15)
    args = parser.parse_args()
    xla.configure_process()
    names = list(arms.EXPERIMENTS["sharing"])
    turns, widths = args.turns, WIDTHS
    if args.quick:
        names, turns, widths = [PLAIN, "task heads"], 3, WIDTHS[:1]
    print(common.header(COLUMNS), flush=True)
    rows: list[dict[str, Any]] = []
    for units in widths:
        chunks = {name: Chunk(name, units) for name in names}
        taken = common.in_turn(chunks, turns)
        for name in names:
            ratios = [own / plain for own, plain in zip(taken[name], taken[PLAIN])]
            row = {
                "arm": name,
                "units": units,
                "parameters": chunks[name].parameters,
                "ms": 1e3 * statistics.median(taken[name]),
                "ratio": statistics.median(ratios),
                "low": min(ratios),
                "high": max(ratios),
            }
            rows.append(row)
            print(common.line(row, COLUMNS), flush=True)
        result = {"machine": common.environment(), "turns": turns, "rows": rows}
        path = common.write(args.out, "sharing_cost", result)
    print(f"written: {path}")


class Chunk:
    """A program that goes on by a chunk when called."""

    def __init__(self, arm: str, units: int) -> None:
        given = arms.settings("sharing", arm, 1, 1)
        given["agent"]["config"]["network"] |= {"hidden": [units, units]}
        given["population"]["size"] = 1
        given["training"]["updates_per_chunk"] = UPDATES
        self.program = online.make_program(loading.from_dict(given, where=arm))
        self.state = self.program.init(self.program.hparams)
        learned = jax.tree.leaves(self.state.learner.params)
        self.parameters = sum(leaf.size for leaf in learned)

    def __call__(self) -> Any:
        """Returns the chunk's metrics; the state of before is gone."""
        program = self.program
        self.state, metrics = program.chunk(self.state, program.hparams)
        return metrics


if __name__ == "__main__":
    main()
