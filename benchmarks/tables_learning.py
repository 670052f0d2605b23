"""Tables of what was learned: the quickstart, PBT, MinAtar, Labyrinth, Mix&Match."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from table_cells import NONE, Rows, find, interval, load, number, quantity, ratio

from mtrl_jax.metrics import estimates

# Row of labyrinth_learning.json -> what the page calls it; † where the rule was another.
_EXPLORE, _GOAL = "`explore_object_locations_small`", "`explore_goal_locations_small`"
_LEARNED = {
    "explore-small": f"{_EXPLORE}, 9 actions",
    "explore-native": f"{_EXPLORE}, 756 actions",
    "explore-native-searched": f"{_EXPLORE}, 756 actions, values of a search",
    "avoid-small": "`seekavoid_arena_01`, 9 actions",
    "goal-lstm-long": f"{_GOAL}, LSTM, unrolls of 256",
    "goal-feedforward-far": f"{_GOAL}, feed-forward, unrolls of 256, other values",
    "goal-lstm": f"{_GOAL} †, LSTM",
    "goal-lstm-vtrace": f"{_GOAL} †, LSTM, V-trace",
    "goal-feedforward": f"{_GOAL} †, feed-forward",
    "goal-lstm-searched": f"{_GOAL} †, LSTM, values of a search",
    "goal-feedforward-searched": f"{_GOAL} †, feed-forward, the LSTM's values",
    "lasertag-small": "`lasertag_one_opponent_small`, 9 actions",
    "lasertag-native": "`lasertag_one_opponent_small`, 756 actions",
}
_PBT = "Mix&Match, alpha by PBT, one population of 6"
_LINEAR = "Mix&Match, alpha linear over 5–40 %"
_ACTIONS = {
    "small": "nine actions only",
    "big": "all 756 only",
    "linear": _LINEAR,
    "pbt": _PBT,
    "small_selected": "nine actions, PBT copying weights, one population of 6",
    "big_selected": "all 756, PBT copying weights, one population of 6",
}
_ABLATIONS = {
    "linear": "alpha linear",
    "cosine": "alpha cosine",
    "plateau": "alpha on plateau ({alpha} at the end)",
    "alpha_half": "alpha fixed at 0.5",
    "distil_then_switch": "distil, then switch",
    "no_mixing": "no mixing (one component per slot; final score of both)",
    "sampled_step": "a component drawn each step",
    "sampled_episode": "a component drawn each episode",
    "shared_head": "Shared Head (and no KL)",
    "masked_kl": "Masked KL",
    "kl_stays": "KL without (1 − alpha)",
    "no_kl": "no KL",
    "own_values": "values not mixed, each learned by itself",
}
_ARCHITECTURES = {
    "feed_forward": "feed-forward only",
    "lstm": "LSTM only",
    "linear": _LINEAR,
    "pbt": _PBT,
    "feed_forward_selected": "feed-forward, PBT copying weights, one population of 6",
    "lstm_selected": "LSTM, PBT copying weights, one population of 6",
    "no_kl": "no KL, alpha linear",
    "reversed_kl": "reversed KL, alpha linear",
}
_CONTROLS = {
    "control_feed_forward": "feed-forward only",
    "control_lstm": "LSTM only",
    "control_linear": _LINEAR,
}
_MULTITASK = {
    "plain": "one network (LSTM) for all",
    "linear": "Mix&Match, an expert each, alpha linear",
    "pbt": _PBT,
}


def quickstart() -> Rows:
    """Returns the table of the quickstart's final evaluations, a line a task."""
    rows = load("quickstart")["rows"]
    seeds = sorted({row["seed"] for row in rows})
    shown = f"{seeds[0]} to {seeds[-1]}"
    made: Rows = [
        ["task", "aimed at", f"best member, seeds {shown}", "population", "reached"]
    ]
    for task in dict.fromkeys(row["task"] for row in rows):
        found = [find(rows, task=task, seed=seed) for seed in seeds]
        best, mean = (
            ", ".join(number(row[x]) for row in found) for x in ("best", "population")
        )
        reached = all(row["reached"] for row in found)
        made.append(
            [
                f"`{task}`",
                number(found[0]["mark"]),
                best,
                mean,
                "yes" if reached else "**no**",
            ]
        )
    return made


def classic_control() -> Rows:
    """Returns the table of final evaluation of one agent on three tasks, over seeds."""
    marks = {"CartPole-v1": 475, "Acrobot-v1": -100, "MountainCar-v0": -110}
    made: Rows = [["task", "random", "solved", "mean [95 %]", "seeds", "reached"]]
    tasks = load("classic_control/summary")["tasks"]
    for name, mark in marks.items():
        task = tasks[f"gymnax/{name}"]
        means = [member["mean"] for member in task["members"]]
        made.append(
            [
                name,
                number(task["random_score"]),
                number(mark),
                interval(task["mean"], *estimates.mean_interval(means)),
                ", ".join(number(x) for x in means),
                "yes" if task["mean"] >= mark else "**no**",
            ]
        )
    return made


def control_envpool() -> Rows:
    """Returns the table of final evaluation of one agent on two tasks, by length."""
    marks = {"CheetahRun-v1": 500, "WalkerWalk-v1": 700}
    made: Rows = [["steps", "task", "aimed at", "mean [95 %]", "seeds", "reached"]]
    for name in ("summary", "ten_million"):
        found = load(f"control_envpool/{name}")
        steps = quantity(found["totals"]["env_steps_per_member"])
        for task, mark in marks.items():
            own = found["tasks"][f"envpool/{task}"]
            means = [member["mean"] for member in own["members"]]
            shown = interval(own["mean"], *estimates.mean_interval(means))
            made.append(
                [
                    steps,
                    task,
                    number(mark),
                    shown if len(means) > 1 else number(own["mean"]),
                    ", ".join(number(x) for x in means),
                    "yes" if own["mean"] >= mark else "**no**",
                ]
            )
    return made


def metaworld() -> Rows:
    """Returns the table of final evaluation of one agent on MT10, its two members."""
    made: Rows = [["task", "success", "return"]]
    tasks = load("metaworld_mt10/summary")["tasks"]
    found = []
    for name, task in tasks.items():
        success = [member["success"] for member in task["members"]]
        found.append(success)
        returns = ", ".join(number(member["mean"]) for member in task["members"])
        shown = ", ".join(f"{x:.0%}".replace("%", " %") for x in success)
        made.append([name.removeprefix("envpool/MetaWorld/"), shown, returns])
    each = np.mean(found, axis=0)
    shown = ", ".join(f"{x:.0%}".replace("%", " %") for x in each)
    made.append(["**mean of the ten**", shown, "–"])
    return made


def two_rooms() -> Rows:
    """Returns Distral on two rooms, beside the specification's run."""
    heads = ("left", "right", "onward", "return", "return, memory")
    rows: Rows = [["β", "α", *heads, "expected"]]
    for row in load("two_rooms")["rows"]:
        numbers = [f"{row[name]:.3g}" for name in ("beta", "alpha")]
        rows.append(
            [*numbers, *(f"{row[name]:.3f}" for name in heads), row["expected"]]
        )
    return rows


def pbt_toy() -> Rows:
    """Returns the table of PBT's toy problem, over seeds."""
    found = load("pbt_toy")
    made: Rows = [["variant", f"mean of {found['seeds']} seeds", "range", "expected"]]
    for row in found["rows"]:
        mean, low, high, expected = (
            f"{row[key]:.4g}" for key in ("mean", "min", "max", "expected")
        )
        made.append([row["variant"], mean, f"{low} to {high}", expected])
    return made


def minatar() -> Rows:
    """Returns the table of MinAtar, one agent a game and one on all four."""
    rows = load("minatar")["rows"]
    columns = {
        "`ppo`": ("ppo", None),
        "`impala`": ("impala", None),
        "one `ppo` on all four, 9.26e6 steps each": ("ppo", "mixture"),
        "one `impala` on all four": ("impala", "mixture"),
    }
    made: Rows = [["game", "random", "PPO, published", *columns]]
    for game in ("Asterix", "Breakout", "Freeway", "SpaceInvaders"):
        known = find(rows, agent="ppo", game=game, **{"trained on": game})
        cells = []
        for agent, trained in columns.values():
            where = {"agent": agent, "game": game, "trained on": trained or game}
            cells.append(_cell(rows, where))
        scores = [number(known[key]) for key in ("random", "published")]
        made.append([game, *scores, *cells])
    return made


def value_learning() -> Rows:
    """Returns the table of value learners on MinAtar's games."""
    header = ["agent", "game", "env steps", "mean [95 %]", "published"]
    return [header] + [
        [
            f"`{row['agent']}`",
            row["game"],
            quantity(row["steps"]),
            _of_seeds(row),
            number(row["published"]),
        ]
        for name in ("value_learning_games", "value_learning_pqn")
        for row in load(name)["rows"]
    ]


def rainbow_ablation() -> Rows:
    """Returns the table of Rainbow, whole and without each of its parts."""
    made: Rows = [["agent", "mean [95 %]", "seeds"]]
    for row in load("value_learning_ablation")["rows"]:
        seeds = ", ".join(map(number, row["seeds"]))
        made.append([row["agent"], _of_seeds(row), seeds])
    return made


def labyrinth_scores() -> Rows:
    """Returns the table of scores of scripted players on every level."""
    players = {
        "random": "random",
        "oracle": "oracle, 756 actions",
        "oracle_small": "oracle, 9 actions",
    }
    made: Rows = [["level", *players.values()]]
    for row in load("labyrinth_scores")["rows"]:
        found = [row["returns"][player] for player in players]
        cells = [interval(x["mean"], x["low"], x["high"]) for x in found]
        made.append([f"`{row['level']}`", *cells])
    return made


def labyrinth_learning() -> Rows:
    """Returns the table of what agents learn on Labyrinth's levels."""
    rows = load("labyrinth_learning")["rows"]
    made: Rows = [
        ["level", "steps", "random", "mean [95 %]", "seeds", "oracle", "normalised"]
    ]
    for name, text in _LEARNED.items():
        row = find(rows, row=name)
        if ("rule" in row) != ("†" in text):
            raise ValueError(
                f"{name}: † is of the rows of another rule, and of these only"
            )
        made.append(
            [
                text,
                f"{row['steps'] / 1e6:.1f} M",
                number(row["random"]),
                interval(row["mean"], row["low"], row["high"]),
                ", ".join(number(x) for x in row["seeds"]),
                number(row["oracle"]),
                ratio(row["normalised"]),
            ]
        )
    return made


def labyrinth_rays() -> Rows:
    """Returns the table of agents whose rays are convolved first, and of those without."""
    made: Rows = [["rays", "steps", "mean [95 %]", "seeds", "normalised"]]
    names = {"explore-small": "as they are", "explore-small-conv": "convolved first"}
    for name, text in names.items():
        row = find(load("labyrinth_rays")["rows"], row=name)
        score = interval(row["mean"], row["low"], row["high"])
        seeds = ", ".join(number(x) for x in row["seeds"])
        steps = f"{row['steps'] / 1e6:.2f} M"
        made.append([text, steps, score, seeds, ratio(row["normalised"])])
    return made


def labyrinth_explorer() -> Rows:
    """Returns the table of scores of a scripted explorer, by how long it remembers."""
    made: Rows = [
        ["level", "memory, decisions", "return [95 %]", "normalised", "episodes"]
    ]
    for row in load("labyrinth_explorer")["rows"]:
        score = interval(row["mean"], row["low"], row["high"])
        cells = [str(row["memory"]), score, ratio(row["normalised"])]
        made.append([f"`{row['level']}`", *cells, str(row["episodes"])])
    return made


def labyrinth_mixture() -> Rows:
    """Returns the table of final evaluation of three levels at once."""
    made: Rows = [["level", "random", "population mean", "oracle", "normalised"]]
    for name, task in load("labyrinth_mixture/summary")["tasks"].items():
        scores = [number(task[x]) for x in ("random_score", "mean", "reference_score")]
        level = name.removeprefix("labyrinth/")
        made.append([f"`{level}`", *scores, ratio(task["normalised"])])
    return made


def arms(experiment: str, labels: dict[str, str]) -> Rows:
    """Returns the table of arms of Mix&Match: early and final return, seeds or members."""
    made: Rows = [["arm", "early", "final [95 %]", "seeds, or PBT's members"]]
    rows = load(f"mix_and_match_{experiment}")["rows"]
    for arm, text in labels.items():
        row = find(rows, arm=arm)
        cells = [number(row["early"]), interval(row["final"], row["low"], row["high"])]
        cells.append(", ".join(number(x) for x in row["seeds"]))
        ends = sorted({f"{alpha:.2g}" for alpha in row["alpha"]})
        made.append([text.format(alpha=", ".join(ends)), *cells])
    return made


def multitask() -> Rows:
    """Returns the table of Mix&Match over tasks, returns and normalised scores."""
    rows = load("mix_and_match_multitask")["rows"]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    heads = [f"{task}: early, final [95 %]" for task in tasks]
    made: Rows = [["arm", *heads, "normalised: mean, least"]]
    for arm, text in _MULTITASK.items():
        found = [find(rows, arm=arm, task=task) for task in tasks]
        cells = [
            f"{number(row['early'])}, {interval(row['final'], row['low'], row['high'])}"
            for row in found
        ]
        scores = [row["normalised"] for row in found]
        mean = sum(scores) / len(scores)
        made.append([text, *cells, f"{mean:.3f}, {min(scores):.3f}"])
    return made


def _cell(rows: Any, where: dict[str, Any]) -> str:
    if not any(all(row[key] == x for key, x in where.items()) for row in rows):
        return NONE
    return _of_seeds(find(rows, **where))


def _of_seeds(row: Any) -> str:
    """Returns mean and interval, and how many seeds were lost and count as random play."""
    cell = interval(row["mean"], row["low"], row["high"])
    lost = row.get("lost")
    return f"{cell} ({len(lost)} of {len(row['seeds'])} lost)" if lost else cell


TABLES: dict[str, Callable[[], Rows]] = {
    "value_learning": value_learning,
    "rainbow_ablation": rainbow_ablation,
    "quickstart": quickstart,
    "pbt_toy": pbt_toy,
    "classic_control": classic_control,
    "control_envpool": control_envpool,
    "metaworld": metaworld,
    "two_rooms": two_rooms,
    "minatar": minatar,
    "labyrinth_scores": labyrinth_scores,
    "labyrinth_learning": labyrinth_learning,
    "labyrinth_rays": labyrinth_rays,
    "labyrinth_explorer": labyrinth_explorer,
    "labyrinth_mixture": labyrinth_mixture,
    "mix_and_match_actions": functools.partial(arms, "actions", _ACTIONS),
    "mix_and_match_ablations": functools.partial(arms, "actions", _ABLATIONS),
    "mix_and_match_architecture": functools.partial(
        arms, "architecture", _ARCHITECTURES
    ),
    "mix_and_match_control": functools.partial(arms, "architecture", _CONTROLS),
    "mix_and_match_multitask": multitask,
}
