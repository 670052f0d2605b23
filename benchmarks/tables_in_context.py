"""Tables of learning in context: Algorithm Distillation, its rivals, RL²."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from table_cells import NONE, Rows, find, has, interval, load, number, ratio

from mtrl_jax.metrics import estimates

_ROOM = "algorithm_distillation_dark_room"
# Arm -> (label, how many of the seeds' files have it).
_ARMS = {
    "ad": ("AD", 3),
    "sharp": ("AD, acting at temperature 0.5", 1),
    "greedy": ("AD, acting greedily (temperature 0)", 1),
    "ed": ("expert distillation (the last tenth of the histories)", 3),
    "epsilon": ("AD^ε: demonstrators with less and less noise, no learners", 1),
    "dpt": ("DPT: labels say what would have been best, of random actions", 1),
}
_POLICIES = {
    "dt": "DT, asked for 16",
    "mgdt": "MGDT, κ = 10",
    "bc": "cloning",
    "ad": "AD",
    "gato": "Gato, shown one episode at 40 % noise",
    "ed*": "ED (recorded)",
}
_SEEDS = ("", "_1", "_2")  # of the files
# Arm -> (label, suffix of its file).
_CONTEXTS = {
    "context_5": ("`horizon: 5` steps, a quarter of an episode", ""),
    "context_10": ("10", ""),
    "context_20": ("20", ""),
    "context_50": ("50", ""),
    "context_100": ("100, all of the context", ""),
    "subsample_4": ("every fourth episode instead of every eighth (seed 1)", "_1"),
    "goals_32": ("as many histories, of 32 goals instead of 65", ""),
    "goals_16": ("of 16 goals", ""),
}
_PROMPTS = {
    "prompt_ad": "AD, watching 32 % of the optimum",
    "prompt_60_ad": "AD, watching 60 %",
    "prompt_ed": "ED, watching 30 %",
    "prompt_60_ed": "ED, watching 60 %",
}
_BANDITS = {
    "ad": "AD",
    "dpt": "DPT (labelled with the best arm, of random pulls)",
    "ed": "ED (the last ten pulls)",
    "ed_steady": "ED (of demonstrators with 20 % noise throughout)",
    "ucb1": "UCB1, the source",
    "thompson": "Thompson sampling",
}
_DOORS = {
    "ad": "AD",
    "ed": "ED",
    "ed_steady": "ED (of demonstrators with 20 % noise throughout)",
}
_EPISODES = (1, 3, 10, 20, 30, 50)
_TRIAL = (1, 3, 5, 10, 20, 50)


def dark_room() -> Rows:
    """Returns the table of Algorithm Distillation and others on held-out goals, all seeds."""
    made: Rows = [["arm", "episode 1", "around 50", "last 10 of 100 [95 %]", "to 12"]]
    for arm, (label, seeds) in _ARMS.items():
        found = [_arm(arm, suffix) for suffix in _SEEDS[:seeds]]
        first, *others = found
        last = ", ".join([_last(first), *(number(row["last"]) for row in others)])
        cells = [_listed(found, "first"), _listed(found, "at_50"), last]
        made.append([label, *cells, _listed(found, "reached_after")])
    source = load(_ROOM)["source"]
    end = f"{number(source['last'])} (after 200)"
    begin, reached = number(source["first"]), str(source["reached_after"])
    return [*made, ["the source, on its own goals", begin, NONE, end, reached]]


def contexts() -> Rows:
    """Returns the table of Algorithm Distillation by length of context and by data."""
    made: Rows = [["arm", "episode 1", "around 50", "last 10 [95 %]", "to 12"]]
    for arm, (label, suffix) in _CONTEXTS.items():
        row = _arm(arm, suffix)
        cells = [number(row["first"]), number(row["at_50"]), _last(row)]
        made.append([label, *cells, _listed([row], "reached_after")])
    return made


def prompts() -> Rows:
    """Returns the table of what demonstrations are worth."""
    header = ["arm", "demonstrated", "its own first", "around 50", "last 10 [95 %]"]
    made: Rows = [[*header, "to 12"]]
    for arm, label in _PROMPTS.items():
        row = _arm(arm)
        cells = [number(row[key]) for key in ("demo", "first", "at_50")]
        made.append([label, *cells, _last(row), _listed([row], "reached_after")])
    return made


def rl2() -> Rows:
    """Returns the table of RL² with frozen weights, episode by episode of a trial."""
    heads = [f"episode {n}" for n in _TRIAL]
    made: Rows = [["goals", "seed", *heads, "95 % of episode 50", "optimum"]]
    for row in load("rl2_dark_room")["rows"]:
        low, high = row["interval_over_goals"][_TRIAL[-1] - 1]
        cells = [number(row["mean"][n - 1]) for n in _TRIAL]
        spread = f"[{number(low)}, {number(high)}]"
        optimum = number(row["optimal_score"])
        made.append([row["goals"], str(row["seed"]), *cells, spread, optimum])
    return made


def bandit() -> Rows:
    """Returns the table of bandits: return of 100 pulls, seed by seed."""
    made: Rows = [["arm", "odd [95 %]", "of UCB1", "even [95 %]", "of UCB1"]]
    found = _by_arm("algorithm_distillation_bandit")
    for arm, label in _BANDITS.items():
        if arm not in found:
            continue
        cells = []
        for task in ("bandit/odd", "bandit/even"):
            first, *others = [row for row in found[arm] if row["task"] == task]
            returns = [_last(first), *(number(row["last"]) for row in others)]
            shares = (f"{row['of_ucb1']:.3f}" for row in (first, *others))
            cells += [", ".join(returns), ", ".join(shares)]
        made.append([label, *cells])
    return made


def _by_arm(name: str) -> dict[str, list[Any]]:
    """Returns {arm: its rows of all seeds that were run, the first seed's first}."""
    found: dict[str, list[Any]] = {}
    for suffix in _SEEDS:
        for row in load(name + suffix)["arms"] if has(name + suffix) else ():
            found.setdefault(row["arm"], []).append(row)
    return found


def key_to_door() -> Rows:
    """Returns the table of mean return on keys and doors never trained on, by seed."""
    heads = [f"episode {n}" for n in _EPISODES]
    made: Rows = [["arm", *heads, "last 10 of 100 [95 %]"]]
    for arm, rows in _by_arm("algorithm_distillation_key_to_door").items():
        curves = [dict(zip(row["episode"], row["mean"])) for row in rows]
        cells = [", ".join(ratio(curve[n]) for curve in curves) for n in _EPISODES]
        first, *others = rows
        last = ", ".join([_last(first), *(number(row["last"]) for row in others)])
        made.append([_DOORS[arm], *cells, last])
    return made


def watermaze() -> Rows:
    """Returns the table of mean return on places never trained on, and of the source."""
    found = load("watermaze/summary")
    task = found["tasks"]["labyrinth/rooms_watermaze"]["in_context"]
    means, source = task["mean"], found["compared"]["source"]["mean"]
    header = ["", "first five episodes", "last five", "last episode [95 %]"]
    own = [sum(five) / 5 for five in (means[:5], means[-5:])]
    # returns: [1, places, episodes]
    last = interval(
        means[-1], *estimates.mean_interval([x[-1] for x in task["returns"][0]])
    )
    ends = [
        f"{number(source[x])} (the {'first' if x == 0 else 'last'})" for x in (0, -1)
    ]
    return [
        header,
        ["the transformer, 40 episodes", *map(number, own), last],
        ["PPO, the source, 60 episodes", *ends, NONE],
    ]


def unseen() -> Rows:
    """Returns the table of sequence policies on goals never trained on, 100 episodes."""
    header = ["", "first ten", "last ten", "all [95 %]", "p of a trend"]
    made: Rows = [header]
    for row in load("sequence_policies_unseen")["arms"]:
        mean = ratio(row["mean"])
        if "low" in row:
            mean += f" [{ratio(row['low'])}, {ratio(row['high'])}]"
        cells = [ratio(row["first"]), ratio(row["last"]), mean, f"{row['p_trend']:.2f}"]
        made.append([_POLICIES[row["arm"]], *cells])
    return made


def return_control() -> Rows:
    """Returns the table of returns by what was asked for, goal by goal."""
    rows = load("sequence_policies_return_control")["arms"]
    goals = list(dict.fromkeys(row["goal"] for row in rows))
    optima = [find(rows, arm="bc", goal=goal)["optimal_score"] for goal in goals]
    heads = (f"goal ({g.replace('_', ', ')})" for g in goals)
    made: Rows = [["", *heads], ["optimum", *map(number, optima)]]
    for asked in (0.0, 4.0, 8.0, 12.0, None, 20.0):
        label = "DT, asked for the optimum" if asked is None else f"{asked:g}"
        cells = [
            _spread(
                find(rows, arm="dt", goal=goal, asked=best if asked is None else asked)
            )
            for goal, best in zip(goals, optima)
        ]
        made.append([label if asked is None else f"DT, asked for {label}", *cells])
    for arm, label in (
        ("bc", "cloning"),
        ("top_bc", "cloning the best tenth"),
        ("top_bc_25", "cloning the best quarter"),
        ("top_bc_50", "cloning the best half"),
        ("mgdt_0", "MGDT, κ = 0"),
        ("mgdt_5", "MGDT, κ = 5"),
        ("mgdt_10", "MGDT, κ = 10"),
    ):
        if arm in {
            row["arm"] for row in rows
        }:  # Clones of the best come by themselves.
            cells = [_spread(find(rows, arm=arm, goal=goal)) for goal in goals]
            made.append([label, *cells])
    data = [row["mean"] for row in rows if row["arm"] == "data"]
    if data:
        made.append(["the data", *map(number, data)])
    return made


def prompted() -> Rows:
    """Returns the table of what is played by what was shown, on new and known goals."""
    rows = load("sequence_policies_prompt")["arms"]
    head = [
        "noise of the demonstrator",
        "shown",
        "Gato, new goals [95 %]",
        "first four, last four",
        "AD, new goals: first four, last four",
    ]
    made: Rows = [[*head, "shown", "Gato, known goals [95 %]"]]
    distilled = {row["asked"]: row for row in rows if row["arm"] == "ad"}
    for row in (row for row in rows if row["arm"] == "gato" and not row["goal"]):
        known = find(rows, goal="known", asked=row["asked"])
        both = [_both(x) for x in (row, distilled.get(row["asked"]))]
        cells = [f"{row['asked']:.1f}", number(row["demo"]), _spread(row), *both]
        made.append([*cells, number(known["demo"]), _spread(known)])
    return made


def _both(row: Any) -> str:
    return f"{ratio(row['first'])}, {ratio(row['last'])}" if row else NONE


def credit() -> Rows:
    """Returns the table of doors opened, and of returns, after random episodes alone."""
    names = {"dt": "DT, asked for 2", "bc": "cloning", "top_bc": "cloning the best 2 %"}
    made: Rows = [["key, door", "", "doors opened", "return of 2 [95 %]"]]
    for row in load("sequence_policies_credit")["arms"]:
        a, b, c, d = row["goal"]
        cells = [f"{100 * row['success']:.1f} %", _spread(row)]
        made.append([f"({a}, {b}), ({c}, {d})", names[row["arm"]], *cells])
    return made


def _spread(row: Mapping[str, Any]) -> str:
    return interval(row["mean"], row["low"], row["high"])


def _arm(arm: str, suffix: str = "") -> Mapping[str, Any]:
    return find(load(_ROOM + suffix)["arms"], arm=arm)


def _last(row: Mapping[str, Any]) -> str:
    return interval(row["last"], row["low"], row["high"])


def _listed(rows: list[Mapping[str, Any]], key: str) -> str:
    """Returns what the seeds have, episodes as they are counted; – where none has."""
    values = [row[key] for row in rows]
    if all(x is None for x in values):
        return NONE
    return ", ".join(str(x) if isinstance(x, int) else number(x) for x in values)


TABLES: dict[str, Callable[[], Rows]] = {
    "sequence_policies_unseen": unseen,
    "sequence_policies_return_control": return_control,
    "sequence_policies_prompt": prompted,
    "sequence_policies_credit": credit,
    "algorithm_distillation_dark_room": dark_room,
    "algorithm_distillation_contexts": contexts,
    "algorithm_distillation_prompts": prompts,
    "algorithm_distillation_bandit": bandit,
    "algorithm_distillation_key_to_door": key_to_door,
    "algorithm_distillation_watermaze": watermaze,
    "rl2": rl2,
}
