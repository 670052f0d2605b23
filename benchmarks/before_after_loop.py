"""One training loop of throughput.py, asked for chunk by chunk by before_after.py.

Runs under an earlier checkout, too, whose throughput.py has its loops in itself. Reads
one JSON object, ``{"case", "runner"}``, from the first line of stdin and answers every
further line with the seconds of a chunk and the steps that it makes.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import common
import throughput

from mtrl_jax import xla


def main() -> None:
    """Serves until stdin ends."""
    asked = json.loads(sys.stdin.readline())
    xla.prepare()
    case = throughput.CASES[asked["case"]]
    loop = next(x for x in loops_of(case) if x.name == asked["runner"])
    for _ in sys.stdin:
        seconds, _ = common.timed(loop.train)
        print(json.dumps({"seconds": seconds, "steps": case.steps}), flush=True)


def loops_of(case: Any) -> Any:
    """Yields the loops of a case, wherever the checkout has them."""
    try:
        import throughput_loops
    except ImportError:
        return throughput._loops(case)  # type: ignore[attr-defined]
    return throughput_loops.loops(case)


if __name__ == "__main__":
    main()
