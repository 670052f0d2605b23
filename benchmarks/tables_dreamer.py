"""Tables of DreamerV2's page: learning, operations, speed."""

from __future__ import annotations

from collections.abc import Callable

from table_cells import Rows, load, number, quantity, ratio


def breakout() -> Rows:
    """Returns the return of each part of the run, the mean over seeds and each seed's."""
    rows: Rows = [["to step", "return, mean", "seeds"]]
    for row in load("dreamer_breakout")["rows"]:
        own = row["returns"]
        mean = number(sum(own) / len(own))
        rows.append([quantity(row["to"]), mean, ", ".join(number(x) for x in own)])
    return rows


def operations() -> Rows:
    """Returns operations of a gradient step by size."""
    rows: Rows = [
        ["size", "parameters", "GFLOP a gradient step", "at 40 % of an H100, steps/s"]
    ]
    for row in load("dreamer_flops")["rows"]:
        rows.append(
            [
                row["size"],
                quantity(row["parameters"]),
                number(row["GFLOP"]),
                quantity(row["40 % of H100, 1/s"]),
            ]
        )
    return rows


def speed() -> Rows:
    """Returns rates by size and members."""
    rows: Rows = [
        ["size", "P", "gradient steps/s", "CPU ms a gradient step", "acting steps/s",
         "against P runs in turn"]
    ]  # fmt: skip
    for row in load("dreamer_speed")["rows"]:
        rows.append(
            [
                row["size"],
                str(row["members"]),
                number(row["gradient steps/s"]),
                number(row["CPU ms"]),
                number(row["acting steps/s"]),
                ratio(row.get("against runs in turn")),
            ]
        )
    return rows


TABLES: dict[str, Callable[[], Rows]] = {
    "dreamer_breakout": breakout,
    "dreamer_flops": operations,
    "dreamer_speed": speed,
}
