"""Tables of what was timed: peers, the loop and its parts, convolutions, replays."""

from __future__ import annotations

from typing import Any

from table_cells import NONE, Rows, find, has, interval, load, number, quantity, ratio

from mtrl_jax.metrics import estimates

_PEERS = {
    "rejax": "rejax",
    "mtrl": "mtrl_jax",
    "in turn": "mtrl_jax, members of a core one after the other",
    "shared": "mtrl_jax, one torso for policy and value",
}
_LOOPS = {
    ("cartpole", "fused"): "CartPole, PPO, fused",
    ("breakout", "fused"): "MinAtar Breakout, V-trace, fused",
    ("pong", "fused"): "envpool Pong, 16 envs, fused",
    ("pong", "host"): "envpool Pong, 16 envs, host runner",
}
_IMAGES = {"nature": "84×84×4", "impala_deep": "84×84×4", "minatar": "10×10×4"}
_SIZES = {
    "small": "small (2 layers, feed-forward 256)",
    "paper": "the paper's (4 layers, feed-forward 2048)",
}


def peers() -> Rows:
    """Returns the table of PPO beside rejax, medians over turns."""
    return _beside("peers")


def peers_dqn() -> Rows:
    """Returns the table of DQN beside rejax, medians over turns."""
    return _beside("peers_dqn")


def _beside(name: str) -> Rows:
    """Returns the table of one of the results of peers.py; one without says so."""
    columns = ["env steps/s", "ratio", "CPU s per M steps", "IQM return"]
    header = ["slots", "P", "", *columns]
    if not has(name):
        return [header, [NONE, NONE, "not run", *[NONE] * 4]]
    return [header] + [
        [
            str(row["slots"]),
            str(row["P"]),
            _PEERS[row["contender"]],
            quantity(row["steps/s"]),
            ratio(row.get("ratio", 1.0)),
            number(row["cpu s/M"]),
            f"{estimates.iqm(row['returns']):.0f} after {quantity(row['after'])}",
        ]
        for row in load(name)["rows"]
    ]


def throughput() -> Rows:
    """Returns the table of the whole loop and its parts, env steps a second."""
    header = ["case", "env only", "act", "learn", "whole", "ratio to bound"]
    parts = [f"{part}_steps_per_s" for part in ("env", "act", "learn", "whole")]
    return [header] + [
        [
            _LOOPS[row["name"], row["runner"]],
            *(f"{quantity(row[part])}/s" for part in parts),
            ratio(row["ratio"]),
        ]
        for row in load("throughput")["rows"]
    ]


def population() -> Rows:
    """Returns the table of milliseconds per member and update."""
    ways = {
        "vmapped": "vmapped",
        "at once 1": "one after the other",
        "at once 8": "eight at a time",
        "looped": "looped",
    }
    agents = {"impala": "V-trace, LSTM", "ppo": "PPO"}
    header = ["P", "agent", *ways.values(), "fastest over looped"]
    return [header] + [
        [
            str(row["P"]),
            agents[row["agent"]],
            *(number(row.get(way)) for way in ways),
            ratio(row["speed-up"]),
        ]
        for row in load("population")["rows"]
    ]


def cores() -> Rows:
    """Returns the table of recurrent cores, thousands of steps a second."""
    header = ["core", "P", "unroll × slots × units", "kit, k/s", "flax, k/s", "ratio"]
    header += ["over the LSTM"]
    return [header] + [
        [
            row["core"],
            str(row["P"]),
            f"{row['unroll']} × {row['slots']} × {row['units']}",
            number(row["kit k/s"]),
            number(row["flax k/s"]),
            ratio(row["ratio"]),
            ratio(row["over lstm"]),
        ]
        for row in load("cores")["rows"]
    ]


def core_learning() -> Rows:
    """Returns the table of what cores learn, and how fast the loop is with each."""
    columns = ["env steps", "final [95 %]", "mean over the run", "steps/s"]
    made: Rows = [["task", "core", *columns]]
    names = {"memory": "MemoryChain", "labyrinth": "Labyrinth"}
    for row in load("core_learning")["rows"]:
        final = interval(row["final"], row["low"], row["high"])
        cells = [quantity(row["steps"]), final, number(row["area"])]
        label = [names[row["task"]], row["core"]]
        made.append([*label, *cells, quantity(row["steps/s"])])
    return made


def convolutions() -> Rows:
    """Returns the table of convolutions, milliseconds per gradient step."""
    rows = load("convolutions")["rows"]
    sides = [
        f"{where}: {x}" for where in ("scan", "outside") for x in ("matmul", "lax")
    ]
    made: Rows = [["torso", "P", *sides[:2], "ratio", *sides[2:], "ratio"]]
    for row in rows:
        if not row["in_scan"]:
            continue
        torso, members = row["torso"], row["population"]
        other = find(rows, torso=torso, population=members, in_scan=False)
        image = f"`{torso}`, {_IMAGES[torso]}, batch {row['batch']}"
        made.append([image, str(members), *_convolution(row), *_convolution(other)])
    return made


def transformer_step() -> Rows:
    """Returns the table of the transformer's training step beside PyTorch's."""
    rows = load("transformer_step")["rows"]
    header = ["size", "cores", "ours, s/update", "eager PyTorch, s/update"]
    made: Rows = [[*header, "ratio", "`torch.compile` over eager"]]
    for ours in rows:
        if ours["contender"] != "mtrl":
            continue
        case = {"size": ours["size"], "cores": ours["cores"]}
        eager = find(rows, contender="torch", **case)
        compiled = find(rows, contender="torch.compile", **case)
        seconds = [f"{row['s/update']:.3f}" for row in (ours, eager)]
        ratios = [ratio(row["ratio"]) for row in (ours, compiled)]
        made.append([_SIZES[ours["size"]], str(ours["cores"]), *seconds, *ratios])
    return made


def labyrinth_speed() -> Rows:
    """Returns the table of decisions a second with a random policy, beside ViZDoom."""
    header = ["level", "seen as", "slots", "decisions/s [range]", "× ViZDoom"]
    made: Rows = [header]
    for row in load("labyrinth_speed")["rows"]:
        made.append(
            [
                row["env"].removeprefix("labyrinth/"),
                f"{row['obs']} {row['shape']}",
                str(row["slots"]),
                interval_of_quantities(row),
                number(row["x ViZDoom"]),
            ]
        )
    return made


def interval_of_quantities(row: dict[str, Any]) -> str:
    """Returns the median of a speed and its range over turns, in thousands."""
    thousands = [row[key] / 1e3 for key in ("decisions/s", "low", "high")]
    return f"{interval(*thousands)} k"


def _convolution(row: Any) -> list[str]:
    found = [row[key] for key in ("matmul_ms", "lax_ms", "lax_over_matmul")]
    return [NONE if x is None else number(x) for x in found]


def replay() -> Rows:
    """Returns the table of one update of four members against their replay's size."""
    ways = ["in turn ms", "together ms", "in the learner ms"]
    header = ["MB a member", "apart, in turn", "apart, together", "in the learner"]
    return [header] + [
        [number(row["MB"]), *(number(row[way]) for way in ways)]
        for row in load("replay")["rows"]
    ]


def before_after() -> Rows:
    """Returns the table of training beside an earlier checkout."""
    return [["case", "before", "today", "today / before [range]"]] + [
        [
            row["case"],
            quantity(row["before"]),
            quantity(row["today"]),
            interval(row["ratio"], row["low"], row["high"]),
        ]
        for row in load("before_after")["rows"]
    ]


def step_cost() -> Rows:
    """Returns the table of what an environment step costs, in microseconds."""
    parts = ("whole", "env", "act", "statistics", "keys", "rest")
    header = ["", "slots", *parts, "beside env and act", "instructions"]
    return [header] + [
        [
            _LOOPS[row["name"], "fused"].removesuffix(", fused"),
            str(row["slots"]),
            *(number(row[part]) for part in parts),
            f"{row['beside']:.0%}".replace("%", " %"),
            f"{row['body']:,}",
        ]
        for row in load("step_cost")["rows"]
    ]


def house() -> Rows:
    """Returns the table of the package's folders and measures, by checkout."""
    rows = load("house")["rows"]
    parts: dict[str, None] = {}
    for row in rows:
        parts |= dict.fromkeys(row["folders"])
    return [["", *(row["checkout"] for row in rows)]] + [
        [f"`{name}`" if name in parts else name]
        + [str({**row["folders"], **row["measures"]}.get(name, "–")) for row in rows]
        for name in [*sorted(parts), *rows[-1]["measures"]]
    ]


def checkpoints() -> Rows:
    """Returns the table of saving and restoring one leaf of 256 MB."""
    ways = {
        "before": "one piece, through orbax (before)",
        "orbax": "checksums in pieces, through orbax",
        "pieces": "in pieces (now)",
    }
    fields = ["save s", "written s", "save MB", "donate MB", "restore s", "restore MB"]
    header = ["", "save s", "on disk s", "save MB", "with a chunk MB"]
    rows = [*load("checkpoints_before")["rows"], *load("checkpoints")["rows"]]
    return [[*header, "restore s", "restore MB"]] + [
        [ways[row["way"]], *(number(row[field]) for field in fields)] for row in rows
    ]


TABLES = {
    "peers": peers,
    "peers_dqn": peers_dqn,
    "throughput": throughput,
    "population": population,
    "cores": cores,
    "convolutions": convolutions,
    "transformer_step": transformer_step,
    "labyrinth_speed": labyrinth_speed,
    "replay": replay,
    "checkpoints": checkpoints,
    "before_after": before_after,
    "step_cost": step_cost,
    "core_learning": core_learning,
    "house": house,
}
