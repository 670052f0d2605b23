"""Tables of what is compiled: training chunks, initial weights, the start of a run."""

from __future__ import annotations

from table_cells import Rows, interval, load, number


def compile_times() -> Rows:
    """Returns the table of compiling a training chunk, of agents that can play it."""
    header = ["agent", "environment", "compile s", "instructions", "fusions"]
    return [header] + [
        [
            f"`{row['agent']}`",
            row["env"],
            number(row["CPU s"]),
            f"{row['instructions']:,}",
            f"{row['fusions']:,}",
        ]
        for row in load("compile_times")["rows"]
        if "failed" not in row
    ]


def startup() -> Rows:
    """Returns the table of initial weights and of a short run, by what is known of it."""
    parts = {
        "weights": "weights of four members, `{}`",
        "cache": "a run of 60 k steps, `{}`",
    }
    return [["", "way", "processor seconds", "times as little [range]"]] + [
        [
            parts[row["part"]].format(row["case"]),
            row["way"],
            number(row["cpu_s"]),
            interval(row["ratio"], row["low"], row["high"]),
        ]
        for row in load("startup")["rows"]
    ]


TABLES = {"compile_times": compile_times, "startup": startup}
