"""What goes beyond Algorithm Distillation: n-gram heads, values, plans, other numbers.

As in sequence_policies_arms.py the kinds of an experiment are members of one population on
the same histories, of each kind one a seed.
"""

from __future__ import annotations

from typing import Any

import sequence_policies_arms as arms
import sequence_policies_large as large

GOALS = 16
HISTORIES = (10, 5, 3, 1)  # of each goal
# Kind -> what is dealt: costs of imitation, TD, CQL, the expectile and imitation by
# advantage, m at an episode's end.
_VALUES = {
    "ad": (1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    "dqn": (0.0, 1.0, 0.0, 0.0, 0.0, 0.0),
    "dqn_beyond": (0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    "cql": (0.0, 1.0, 0.1, 0.0, 0.0, 0.0),
    "cql_beyond": (0.0, 1.0, 0.1, 0.0, 0.0, 1.0),
    "iql": (0.0, 1.0, 0.0, 1.0, 0.0, 0.0),
    "iql_policy": (0.0, 1.0, 0.0, 1.0, 1.0, 0.0),
}
_COSTS = (
    *("action_cost", "td_cost", "cql_cost", "expectile_cost", "advantage_cost"),
    "beyond",
)
# At this temperature values are drawn by as well: who takes the best of them alone finds
# a goal where it lies on its one way, and no other.
_SOFT = 0.1
_TASKS = [{"env": "dark/room", "options": {"tasks": "test"}}]


def ngram() -> arms.Experiment:
    """Returns AD with and without an n-gram head, on fewer and fewer histories."""
    source, model, *_ = arms.config_stages("algorithm_distillation_dark_room")
    few = {"tasks": "train", "number": GOALS}
    stages, found = [], []
    for count in HISTORIES:
        tag = str(count)
        own = source | {"name": f"source_{tag}", "population": {"size": GOALS * count}}
        own["tasks"] = [{"env": "dark/room", "options": few}]
        reads = _across(model, tag, own["name"], {"ngram": 1}, {})
        reads["population"] = arms.dealt(2, {"ngram_gate": [0.0, 1.0]})
        tested = arms.evaluated(f"room_{tag}", reads, _TASKS, 100, 4, {})
        stages += [own, reads, tested]
        kinds = ("ad", "ngram")
        found += [
            arms.Arm(kind, tested["name"], arms.of_kind(i, 2), tag)
            for i, kind in enumerate(kinds)
        ]
    return arms.Experiment(stages, found)


def q_objective() -> arms.Experiment:
    """Returns imitation and values on histories that get better, and on ones that do not."""
    source, model, *_ = arms.config_stages("algorithm_distillation_dark_room")
    source = source | {"population": {"size": 650}}
    noisy = source | {
        "name": "half_noise",
        "agent": {
            "name": "demonstrator",
            "hparams": {"epsilon_start": 0.5, "epsilon_end": 0.5},
        },
        "training": {"env_steps": 4_200, "unroll_length": 21, "updates_per_chunk": 20},
        "checkpoint": {"every_updates": 200, "keep": 1},
    }
    stages, found = [source, noisy], []
    for tag, data, keep in (
        ("whole", "source", {"subsample": 8}),
        ("first_30", "source", {"subsample": 2, "first_fraction": 0.3}),
        ("half_noise", "half_noise", {"subsample": 8}),
        ("shuffled", "source", {"subsample": 8, "shuffled": True}),
    ):
        heads = {"outlook": {"values": True}}
        own = _across(model, tag, data, {}, heads)
        own["keep"] = keep
        costs = dict(zip(_COSTS, _columns()))
        # Imitation draws its actions, values are acted by as they are.
        imitates = map(max, costs["action_cost"], costs["advantage_cost"])
        temperature = [float(x > 0) for x in imitates]
        by_value = [1.0 - x for x in temperature]
        acting = {"by_value": by_value, "temperature": temperature}
        own["population"] = arms.dealt(len(_VALUES), costs | acting)
        tested, drawn = (
            arms.evaluated(name, own, _TASKS, 100, 4, hp)
            for name, hp in (
                (f"room_{tag}", {}),
                (f"soft_{tag}", {"temperature": _SOFT}),
            )
        )
        stages += [own, tested, drawn]
        members = {k: arms.of_kind(i, len(_VALUES)) for i, k in enumerate(_VALUES)}
        found += [arms.Arm(k, tested["name"], x, tag) for k, x in members.items()]
        found += [
            arms.Arm(f"{kind}_soft", drawn["name"], members[kind], tag)
            for kind, is_acted_by in zip(_VALUES, by_value)
            if is_acted_by
        ]
    return arms.Experiment(stages, found)


def permuted() -> arms.Experiment:
    """Returns AD of actions as they are and of permuted ones, tested on both."""
    source, model, *_ = arms.config_stages("algorithm_distillation_dark_room")
    source = source | {"population": {"size": 650}}
    own = _across(model, "names", source["name"], {}, {"permutes": True})
    agent, updates = own["agent"], 1_600
    own["agent"] = agent | {"hparams": agent["hparams"] | {"decay_updates": updates}}
    own["training"] = own["training"] | {"updates": updates}
    own["population"] = arms.dealt(2, {"permuted": [0.0, 1.0]})
    stages, found = [source, own], []
    for tag, share in (("own", 0.0), ("permuted", 1.0)):
        tested = arms.evaluated(f"room_{tag}", own, _TASKS, 100, 4, {"permuted": share})
        stages.append(tested)
        found += [
            arms.Arm(kind, tested["name"], arms.of_kind(i, 2), tag)
            for i, kind in enumerate(("ad", "permuted"))
        ]
    return arms.Experiment(stages, found)


def planning() -> arms.Experiment:
    """Returns AD, AD that also predicts what actions lead to, and the same with plans."""
    source, model, *_ = arms.config_stages("algorithm_distillation_dark_room")
    source = source | {"population": {"size": 650}}
    heads = {
        "outlook": {"rewards": True, "vectors": True},
        "planning": {"beam": 5, "depth": 5},
    }
    own = _across(model, "planning", source["name"], {}, heads)
    costs = {name: [0.0, 1.0] for name in ("reward_cost", "next_cost")}
    own["population"] = arms.dealt(2, costs)
    stages, found = [source, own], []
    for kind, member, planned in (
        ("ad", 0, 0.0),
        ("outcomes", 1, 0.0),
        ("dicp", 1, 1.0),
    ):
        name = f"room_{'planned' if planned else 'drawn'}"
        tested = arms.evaluated(name, own, _TASKS, 100, 1, {"planned": planned})
        stages += [tested] if tested not in stages else []
        found.append(arms.Arm(kind, name, arms.of_kind(member, 2)))
    return arms.Experiment(stages, found)


def _columns() -> list[list[float]]:
    return [list(column) for column in zip(*_VALUES.values())]


def _across(
    model: arms.Stage, tag: str, data: str, network: Any, config: Any
) -> arms.Stage:
    """Returns the stage of a sequence policy that is AD but for what is given."""
    transformer = model["agent"]["config"]["transformer"] | network
    agent = {
        "name": "gato",
        "config": {"transformer": transformer, "outlook": {"bins": 0}, **config},
        "hparams": model["agent"]["hparams"]
        | {"across": 1.0, "reward_gate": 1.0, "prompt_share": 0.0},
    }
    own = {"name": f"model_{tag}", "data": data, "agent": agent}
    return arms.shorter(model | own | {"logging": arms.QUIET})


EXPERIMENTS = {
    "return_control": arms.return_control,
    "unseen": arms.unseen,
    "credit": arms.credit,
    "prompt": arms.prompt,
    "ngram": ngram,
    "q_objective": q_objective,
    "permuted": permuted,
    "planning": planning,
    "many_tasks": large.many_tasks,
    "minatar": large.minatar,
}
