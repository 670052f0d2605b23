"""What is found out of an agent before anything is compiled: it is traced once."""

import re
import types as namespaces

import jax
import jax.numpy as jnp
import pytest

from mtrl_jax import config, envs, errors, types
from mtrl_jax.envs import mixture
from mtrl_jax.experiments import acting, build, checks, environments, online

T, B = 3, 2
CONFIG = config.from_dict({"tasks": [{"env": "probe/both"}], "agent": {"name": "ppo"}})
SPEC = envs.make("probe/both", (1, B)).spec


def replaying(batch_of, fits=True):
    """Returns an agent that learns from ``batch_of(rollout)``, by way of a replay."""

    def observe(memory, rollout, key, hp, step):
        assert rollout.action.shape == (T, B) and step.shape == ()
        return memory + 1, batch_of(rollout)

    def feedback(memory, found):
        if not fits:
            raise ValueError("feedback: no such rows")
        return memory + found

    def update(learner, batch, key, hp, step):
        loss = sum(jnp.sum(x * 1.0) for x in jax.tree.leaves(batch))
        return learner, {"loss": loss}, jnp.ones(B)

    return types.Agent(
        init=lambda key, hp: jnp.zeros(()),
        carry=lambda slots: (),
        act=lambda learner, carry, ts, key, hp: (ts.task, carry, ()),
        update=update,
        replay=types.Replay(lambda slots: jnp.zeros(slots), observe, feedback),
    )


def rewards(rollout):
    return rollout.ts.reward[1:]


def test_an_agent_with_a_replay_is_traced_through_it():
    """observe, update and feedback: its metrics are those of batches from the memory."""
    traced = checks.check_agent(replaying(rewards), CONFIG, SPEC, B, T)
    assert set(traced.metrics) == {"loss"}
    # Bytes: T + 1 steps of 20 of each slot, T actions; what is drawn are T rewards.
    assert traced.sizes == checks.Sizes(4, 20 * (T + 1) * B + 4 * T * B)
    assert traced.drawn == 4 * T * B
    assert checks.sizes_of(replaying(rewards), CONFIG, SPEC, B, T) == traced.sizes
    with pytest.raises(ValueError, match="feedback: no such rows"):
        checks.check_agent(replaying(rewards, fits=False), CONFIG, SPEC, B, T)


def test_a_dataset_is_learned_from_without_the_replay():
    """Windows with their extras are the batch, and nothing is given back."""

    def unasked(rollout):
        raise AssertionError("there is nothing to observe offline")

    agent = replaying(unasked, fits=False)
    extras = jnp.ones((T, B))
    traced = checks.check_agent(agent, CONFIG, SPEC, B, T, extras)
    assert set(traced.metrics) == {"loss"}


@pytest.mark.parametrize("fits", [True, False])
def test_offline_a_replay_must_draw_rollouts(fits):
    """One line that names the agent and what would work."""
    named = namespaces.SimpleNamespace(agent=CONFIG.agent)
    if fits:
        agent = replaying(lambda rollout: rollout)
        checks.check_learns_from_rollouts(agent, named, SPEC, B, T)
        agent = agent._replace(replay=None)
        checks.check_learns_from_rollouts(agent, named, SPEC, B, T)
        return
    several = lambda rollout: jax.tree.map(lambda x: jnp.stack([x, x]), rollout)  # noqa: E731
    for batch_of in (rewards, several):
        with pytest.raises(errors.ConfigError, match=r"agent.name='ppo' .* behaviour"):
            checks.check_learns_from_rollouts(replaying(batch_of), named, SPEC, B, T)


def in_order(*names):
    """Returns the spec of a mixture of these."""
    return mixture.make([envs.make(name, (1, 1)) for name in names]).spec


@pytest.mark.parametrize(
    ("name", "changes", "advice"),
    [
        ("ppo", ["network.task_heads=true"], ["network.task_heads=false"]),
        ("ppo", ["network.sharing=soft"], ["network.sharing=hard"]),
        ("impala", ["network={sharing: experts, torso: mlp}"], ["network.sharing=hard"]),
        ("impala", ["network={task_embedding: true}", "normalise_observations=true"],
         ["network.task_embedding=false", "normalise_observations=false"]),
        ("policy_distillation", [], ["per_task=false"]),
        ("decision_transformer", ["outlook={bins: 8, ranges: [[0, 1], [0, 2]]}"],
         ["outlook.ranges=[]"]),
        ("mix_and_match",
         ["components=[{hidden: [8]}, {hidden: [8]}]", "experts=true"], ["experts=false"]),
    ],
)  # fmt: skip
def test_tasks_in_another_order_are_refused_with_what_reads_their_numbers(
    name, changes, advice
):
    """Every setting that is on is named, no other is; without them it is accepted."""
    values = {"tasks": [{"env": "probe/both"}, {"env": "probe/action"}]}
    values |= {"agent": {"name": name, "config": {}}}
    trained = in_order("probe/both", "probe/action")

    def check(given, *changes):
        changes = [f"agent.config.{x}" for x in changes]
        own = config.from_dict(config.override(values, changes))
        agent = build.make_agent(own, trained)
        acting.check_tasks(agent, own, trained, given, "first")

    check(trained, *changes)
    other = in_order("probe/action", "probe/both")
    with pytest.raises(errors.ConfigError) as error:
        check(other, *changes)
    named = ", ".join(f"agent.config.{x}" for x in advice)
    assert str(error.value).endswith(f"may be missing, or train it with {named}")
    check(other, *changes, *advice)


SHARED = [
    (
        "impala",
        "{network: {sharing: soft}}",
        r"network\.sharing: 'soft' is between tasks",
    ),
    ("ppo", "{network: {sharing: experts}}", r"network\.sharing: 'experts' is between"),
    ("unreal", "{network: {task_heads: true}}", r"network\.task_heads: they are of"),
    ("ppo", "{combiner: mgda}", r"combiner: 'mgda' combines the gradients of several"),
    (
        "mix_and_match",
        "{experts: true, share: [torso]}",
        "experts: an expert is of each",
    ),
    (
        "dqn",
        "{network: {per_task: true}}",
        r"network\.per_task: a last layer is of each",
    ),
    (
        "tabular",
        "{per_task: true, sizes: [3]}",
        "per_task: a table is of each of several",
    ),
    ("distral", "{}", r"^agent\.name='distral': it is for at least 2 tasks"),
]


def _agent_in(values, *changes):
    """Returns the agent of a run in its environments, as ``online`` makes it."""
    own = config.from_dict(config.override(values, changes))
    spec = environments.make_world(own, "0").spec
    online._check_tasks(own, spec)
    return build.make_agent(own, spec)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": 0.0}, None),
        ({"learning_rate": 3e-4, "temperature": 0.5}, None),
        ({"temperature": 0.5, "discount": 0.5}, r"x\.discount=0\.5: acting of ppo .*reads "
         r"temperature\)"),
    ],
)  # fmt: skip
def test_what_acting_does_not_read_is_not_changed_where_it_only_acts(given, message):
    """A test at another discount is the same test; what stays as it is may be said."""
    hparams = CONFIG.agent.hparams | {"learning_rate": 3e-4}
    config_ = CONFIG.model_copy(
        update={"agent": CONFIG.agent.model_copy(update={"hparams": hparams})}
    )
    agent = build.make_agent(config_, SPEC)
    if message is None:
        acting.check_played("x", given, agent, config_, SPEC)
        return
    with pytest.raises(errors.ConfigError, match=message):
        acting.check_played("x", given, agent, config_, SPEC)


@pytest.mark.parametrize(("name", "static", "words"), SHARED)
def test_what_is_of_several_tasks_is_refused_where_a_member_has_one(
    name, static, words
):
    """Of one in all, and of one of several each; the members' own are all tasks else."""
    both = [{"env": "probe/observation"}, {"env": "probe/action"}]
    values = {"tasks": both, "population": {"size": 2}}
    agent = f"agent={{name: {name}, config: {static}}}"
    assert _agent_in(values, agent)
    with pytest.raises(errors.ConfigError, match=words) as error:
        _agent_in(values, agent, "population.axis=population")
    assert re.search("each member has one of .*population.axis=slot", str(error.value))
    with pytest.raises(errors.ConfigError, match=f"{words}.* there is .*, or "):
        _agent_in({**values, "tasks": both[:1]}, agent)


def test_learners_of_a_mixture_may_play_a_task_each():
    """Frozen, or to be trained on: what they share is between the tasks they learned."""
    values = {
        "name": "x",
        "kind": "online",
        "tasks": [{"env": "probe/observation"}, {"env": "probe/action"}],
        "population": {"size": 2, "axis": "population"},
        "agent": {"name": "impala", "config": {"network": {"task_heads": True}}},
    }
    fresh = config.from_dict(values)
    assert environments.make_world(fresh, "0").spec.own_tasks == 1
    stage = fresh.model_copy(update={"init_from": "other"})
    spec = environments.make_world(stage, "0").spec
    assert spec.own_tasks == 2 and build.make_agent(stage, spec)


def test_what_acting_notes_down_has_names_and_keys_are_none_of_it():
    """Dotted, by the fields that lead to it; a single array has none of its own."""
    noted = {"q": jnp.zeros(3), "by": {"head": jnp.ones(2)}, "key": jax.random.key(0)}
    found = acting.by_name(noted)
    assert found["q"] is noted["q"] and found["by.head"] is noted["by"]["head"]
    assert set(found) == {"q", "by.head"}
    assert list(acting.by_name(jnp.zeros(2))) == ["extras"]
    assert acting.by_name(()) == {}


def test_of_a_learner_only_what_is_kept_frozen_is_taken():
    """Fields whole, and of dicts the entries, however deep; other heads are left."""
    learner = namespaces.SimpleNamespace(
        params={"torso": {"w": 1, "b": 2}, "head": 3}, stats=(4, 5), opt=6
    )
    kept = {"params": {"torso": {"w": 0}}, "stats": ()}
    expected = {"params": {"torso": {"w": 1}}, "stats": (4, 5)}
    assert acting.named(kept, learner) == expected


def test_a_round_may_ask_for_the_episodes_that_slots_keep_in_all():
    """A window of 30 over 64 slots keeps one of each, 64; over 7 slots five, 35."""
    for slots, most in ((64, 64), (7, 35), (1, 30)):
        for asked in (30, most, most + 1):
            population = {"size": 4, "pbt": {"min_episodes": asked}}
            given = {"tasks": [{"env": "probe/action"}], "population": population}
            settings = config.from_dict(given)
            if asked <= most:
                checks.check_rounds(settings, slots)
                continue
            with pytest.raises(
                ValueError,
                match=rf"min_episodes={most + 1}: .* {most} episodes of a task .*window=30 "
                rf"in {slots} slots.* at most {most}",
            ):
                checks.check_rounds(settings, slots)
