"""The README's table: what was aimed at and what was measured, misses included."""

from __future__ import annotations

from table_cells import Rows, find, interval, load, number, quantity, ratio

HIT, MISS = "yes", "**no**"


def summary() -> Rows:
    """Returns the table of the fifteen results a newcomer should know, one a line."""
    header = ["what", "goal", "measured", "reached"]
    return [
        header,
        _quickstart(),
        *_speed(),
        *_single(),
        _labyrinth(),
        _dreamer(),
        *_methods(),
    ]


def _quickstart() -> list[str]:
    rows = load("quickstart")["rows"]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    found = [[row for row in rows if row["task"] == task] for task in tasks]
    return _row(
        f"Quickstart: CartPole, Catch, memory; least of {len(found[0])} seeds",
        "benchmarks/results/quickstart.md",
        ", ".join(number(x[0]["mark"]) for x in found),
        ", ".join(number(min(row["best"] for row in x)) for x in found),
        all(row["reached"] for row in rows),
    )


def _speed() -> Rows:
    peers = load("peers")["rows"]
    alone, many = (
        [find(peers, slots=n, P=p, contender="mtrl")["ratio"] for n in (4, 64, 256)]
        for p in (1, 16)
    )
    sizes = load("population")["rows"]
    most = [find(sizes, agent=a, P=64)["speed-up"] for a in ("impala", "ppo")]
    beside = find(load("dreamer_peers")["rows"], contender="mtrl_jax", P=1)
    dreamer = beside["over sheeprl"]
    page, speed = "benchmarks/results/peers.md", "benchmarks/results/speed.md"
    return [
        _row(
            "PPO over rejax at 4, 64, 256 slots, one member; 16 members",
            page,
            "1.3 ×; 1.8 ×",
            "; ".join(
                ", ".join(f"{ratio(x)} ×" for x in each) for each in (alone, many)
            ),
            min(alone) >= 1.3 and min(many) >= 1.8,
        ),
        _row(
            "64 members on two cores over a Python loop on one",
            speed,
            "2.5 ×",
            _ratios(most),
            min(most) >= 2.5,
        ),
        _row(
            "DreamerV2 on 64×64 pictures over sheeprl, gradient steps a second",
            "benchmarks/results/dreamer_v2.md",
            "5 ×",
            f"{dreamer:.2f} ×",
            dreamer >= 5,
        ),
    ]


def _single() -> Rows:
    page = "benchmarks/results/minatar.md"
    rows = load("minatar")["rows"] + load("value_learning_pqn")["rows"]
    made: Rows = []
    for text, agent, trained, games in (
        (
            "PQN, half the steps",
            "pqn",
            "every",
            ("Asterix", "Breakout", "Freeway", "SpaceInvaders"),
        ),
        ("V-trace", "impala", None, ("Asterix", "Breakout", "Freeway")),
        ("PPO", "ppo", None, ("Asterix",)),
        (
            "one V-trace agent on four games",
            "impala",
            "mixture",
            ("Asterix", "Freeway"),
        ),
    ):
        found = [
            find(rows, agent=agent, game=game, **{"trained on": trained or game})
            for game in games
        ]
        goal = ", ".join(f"{x['published']:.0f}" for x in found)
        measured = ", ".join(number(x["mean"]) for x in found)
        reached = all(x["mean"] >= x["published"] for x in found)
        what = f"MinAtar {', '.join(games)}: {text}"
        made.append(_row(what, page, f"{goal} (published PPO)", measured, reached))
    return made


def _labyrinth() -> list[str]:
    rows = load("labyrinth_learning")["rows"]
    explore = find(rows, row="explore-native-searched")["normalised"]
    what = "Labyrinth explore_object_locations_small, random 0, oracle 1"
    page = "benchmarks/results/labyrinth.md"
    return _row(what, page, "0.6", ratio(explore), explore >= 0.6)


def _dreamer() -> list[str]:
    names = ("Breakout", "SpaceInvaders", "long_SpaceInvaders")
    last = [load(f"dreamer_{name}")["rows"][-1] for name in names]
    short, long = (quantity(row["to"]) for row in last[1:])
    own, others = (
        [sum(row[name]) / len(row[name]) for row in last] for name in ("returns", "ppo")
    )
    return _row(
        f"MinAtar Breakout, SpaceInvaders: DreamerV2 after {short} steps; the last after "
        f"{long}, of few gradient steps",
        "benchmarks/results/dreamer_v2.md",
        f"{', '.join(map(number, others))} (PPO after as many)",
        ", ".join(map(number, own)),
        all(x >= y for x, y in zip(own, others)),
    )


def _methods() -> Rows:
    page = "benchmarks/results/mix_and_match.md"
    actions = load("mix_and_match_actions")["rows"]
    # Seeds against seeds: a population that copies weights is one sample, selected.
    small, mixture = (find(actions, arm=arm)["final"] for arm in ("small", "linear"))
    control = load("mix_and_match_architecture")["rows"]
    plain = find(control, arm="control_feed_forward")["final"]
    mixed = find(control, arm="control_linear")["final"]
    tasks = load("mix_and_match_multitask")["rows"]
    least = [
        min(row["normalised"] for row in tasks if row["arm"] == arm)
        for arm in ("linear", "plain")
    ]
    gain, loss, worst = mixture / small, mixed / plain, least[0] / least[1]
    students = load("distillation_pipeline")["pipeline"]
    distilled = find(load("algorithm_distillation_dark_room")["arms"], arm="ad")
    return [
        _row(
            "Mix&Match over actions, alpha linear, over nine actions",
            page,
            "1.1 ×",
            f"{ratio(gain)} ×",
            gain >= 1.1,
        ),
        _row(
            "Mix&Match where no memory is needed, over feed-forward",
            page,
            "0.95 ×",
            f"{ratio(loss)} ×",
            loss >= 0.95,
        ),
        _row(
            "Mix&Match over tasks: the least of three, over one network",
            page,
            "1.3 ×",
            f"{ratio(worst)} ×",
            worst >= 1.3,
        ),
        _row(
            "Policy distillation: one student of four MinAtar games, of its teachers",
            "benchmarks/results/policy_distillation.md",
            "0.9 ×",
            interval(students["score"], students["low"], students["high"]),
            students["score"] >= 0.9,
        ),
        _row(
            "Algorithm Distillation, dark room, unseen goals, optimum 17.2",
            "benchmarks/results/algorithm_distillation.md",
            "14",
            interval(distilled["last"], distilled["low"], distilled["high"]),
            distilled["last"] >= 14,
        ),
    ]


def _row(what: str, page: str, goal: str, measured: str, reached: bool) -> list[str]:
    return [f"[{what}]({page})", goal, measured, HIT if reached else MISS]


def _ratios(values: list[float]) -> str:
    return " and ".join(f"{ratio(x)} ×" for x in values) + " (V-trace, PPO)"


TABLES = {"summary": summary}
