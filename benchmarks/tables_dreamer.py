"""Tables of DreamerV2's page: learning, operations."""

from __future__ import annotations

import functools
from collections.abc import Callable

from table_cells import NONE, Rows, load, number, quantity


def learning(game: str) -> Rows:
    """Returns the return of each part of a run, the mean over seeds and each seed's."""
    rows: Rows = [["to step", "DreamerV2", "seeds", "PPO", "seeds"]]
    for row in load(f"dreamer_{game}")["rows"]:
        cells = [quantity(row["to"])]
        for own in (row["returns"], row["ppo"]):
            cells += [number(sum(own) / len(own)), ", ".join(number(x) for x in own)]
        rows.append(cells)
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


def peers() -> Rows:
    """Returns a gradient step of each contender."""
    rows: Rows = [
        [
            "",
            "members",
            "ms a step of all",
            "processor ms a member's step",
            "over sheeprl",
            "over one after the other",
        ]
    ]
    for row in load("dreamer_peers")["rows"]:
        turns = row.get("over P = 1 in turn")
        rows.append(
            [
                row["contender"],
                str(row["P"]),
                number(row["ms"]),
                number(row["CPU ms"]),
                f"{row['over sheeprl']:.2f} ×",
                NONE if turns is None else f"{turns:.2f} ×",
            ]
        )
    return rows


def speeds() -> Rows:
    """Returns the rates of gradient and acting steps by size and members."""
    rows: Rows = [
        [
            "size",
            "members",
            "gradient steps/s of all",
            "acting steps/s of all",
            "processor ms a gradient step",
            "over runs one after the other",
        ]
    ]
    for row in load("dreamer_speed")["rows"]:
        cells = [row["gradient steps/s"], row["acting steps/s"], row["CPU ms"]]
        turns = f"{row['against runs in turn']:.2f} ×"
        rows.append([row["size"], str(row["members"]), *map(quantity, cells), turns])
    return rows


def ablations() -> Rows:
    """Returns the late return of each arm, and how often a seed is below a full one."""
    rows: Rows = [["", "return [95 %]", "seeds", "below the full agent"]]
    for row in load("dreamer_ablations_Breakout")["rows"]:
        mean, low, high = (number(row[x]) for x in ("return", "low", "high"))
        rows.append(
            [
                row["arm"],
                f"{mean} [{low}, {high}]",
                ", ".join(number(x) for x in row["seeds"]),
                NONE if row["arm"] == "full" else f"{row['below']:.2f}",
            ]
        )
    return rows


def foresight() -> Rows:
    """Returns what is said of steps seen and not seen, by the step of the episode."""
    rows: Rows = [
        [
            "model",
            "step of the episode",
            "steps",
            "divergence, nats",
            "picture seen, nats",
            "foreseen",
            "reward",
            "said, seen",
            "said, foreseen",
            "of a reward, seen",
            "foreseen",
        ]
    ]
    names = ["kl", "seen", "foreseen", "reward", "reward seen", "reward foreseen"]
    for run in load("dreamer_foresight")["runs"]:
        model = "wide" if run["run"].endswith("-wide") else "the config's"
        for row in run["rows"]:
            cells = [model, f"{row['from']} to {row['to']}", quantity(row["steps"])]
            cells += [number(row[x]) for x in (*names, "paid seen", "paid foreseen")]
            rows.append(cells)
    return rows


TABLES: dict[str, Callable[[], Rows]] = {
    "dreamer_ablations": ablations,
    "dreamer_Breakout": functools.partial(learning, "Breakout"),
    "dreamer_SpaceInvaders": functools.partial(learning, "SpaceInvaders"),
    "dreamer_long": functools.partial(learning, "long_SpaceInvaders"),
    "dreamer_wide": functools.partial(learning, "wide_SpaceInvaders"),
    "dreamer_foresight": foresight,
    "dreamer_flops": operations,
    "dreamer_peers": peers,
    "dreamer_speed": speeds,
}
