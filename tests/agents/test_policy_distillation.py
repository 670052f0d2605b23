"""The student: its sizes, what its heads learn of each other, and what it is given."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import config, types
from mtrl_jax.agents import policy_distillation as student
from mtrl_jax.agents import pqn
from mtrl_jax.data import layout, windows
from mtrl_jax.engine.batched_draws import batch_draws
from mtrl_jax.losses import distillation
from mtrl_jax.networks import network_config, q_network

KEY = jax.random.key(0)
T, B = 3, 6
SIZES = (3, 2)  # actions of two games


def spec_of(actions, image=(84, 84, 4), dtype=jnp.uint8):
    """Returns the spec of games with so many ``actions`` each."""
    obs = {"image": jax.ShapeDtypeStruct(image, dtype)}
    tasks = tuple(
        types.TaskSpec(f"game_{i}", obs, types.Discrete(n))
        for i, n in enumerate(actions)
    )
    return types.EnvSpec(obs, types.Discrete(max(actions)), tasks)


def network(**fields):
    given = {"activation": "relu", "last_action_reward": False} | fields
    return network_config.NetworkConfig(**given)


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("filters", "features", "parameters"),
    [
        ((32, 64, 64), 512, 1_693_362),
        ((16, 32, 32), 256, 427_874),
        ((16, 16, 16), 128, 113_346),
        ((16, 16, 16), 64, 61_954),
    ],
    ids=["teacher", "net1", "net2", "net3"],
)
def test_single_task_networks_have_the_papers_sizes(filters, features, parameters):
    """DQN, Dist-net 1 to 3 with 18 actions; of DQN the agents' own network has it, too."""
    sizes = {"torso": "nature", "filters": filters, "features": features}
    spec = spec_of([18])
    agent = student.make(spec, student.Config(network(**sizes)))
    learner = jax.eval_shape(agent.init, KEY, student.Hparams())
    assert count(learner.params) == parameters
    made = q_network.make(spec, q_network.QNetworkConfig(**sizes), 18)
    assert count(jax.eval_shape(made.init, KEY)) == parameters


@pytest.mark.parametrize(
    ("actions", "filters", "features", "parameters"),
    [
        ((3, 3, 6), (32, 64, 64), 512, 1_882_668),
        ((9, 4, 9, 3, 9, 3, 6, 18, 18, 6), (64, 64, 64), 1500, 6_756_721),
    ],
    ids=["3 games", "10 games"],
)
def test_multi_task_networks_have_the_papers_sizes(
    actions, filters, features, parameters
):
    """A controller of 128 units a task, with outputs for that game's actions alone."""
    sizes = {"torso": "nature", "filters": filters, "features": features}
    config = student.Config(network(**sizes), head_hidden=128)
    agent = student.make(spec_of(actions), config)
    learner = jax.eval_shape(agent.init, KEY, student.Hparams())
    assert count(learner.params) == parameters


@pytest.fixture(name="two", scope="module")
def _two():
    """(agent, learner, gradient of the loss by the parameters, rollout) of two games."""
    spec = spec_of(SIZES, (4, 4, 1), jnp.float32)
    config = student.Config(network(torso="mlp", hidden=(8,)), head_hidden=4)
    agent = student.make(spec, config)
    hp = jax.tree.map(jnp.float32, student.Hparams(tau=0.1))
    # A gradient is what plain descent takes away.
    hp = hp._replace(optimiser=hp.optimiser._replace(max_grad_norm=jnp.inf))
    learner = jax.device_get(jax.jit(batch_draws(agent.init))(KEY, hp))
    update = jax.jit(agent.update)

    def after(rollout, hp=hp):
        changed, metrics, _ = update(learner, rollout, KEY, hp, jnp.int32(0))
        return jax.device_get((changed.params, metrics))

    return agent, learner, after, hp


def rollout_of(agent, task, q=None):
    """Returns windows of both games, of one, or as ``task`` [T + 1, B] says."""
    task = np.broadcast_to(np.asarray(task, np.int32), (T + 1, B))
    ts = types.TimeStep(
        obs={"image": normal(1, (T + 1, B, 4, 4, 1))},
        reward=np.zeros((T + 1, B), np.float32),
        discount=np.ones((T + 1, B), np.float32),
        first=np.zeros((T + 1, B), bool),
        last=np.zeros((T + 1, B), bool),
        task=task,
        action_mask=np.arange(3) < np.array(SIZES)[task][..., None],
    )
    q = normal(2, (T, B, 3)) if q is None else q
    extras = windows.Extras(np.ones((T, B), bool), recorded={"q": q})
    return types.Rollout(ts, np.zeros((T, B), np.int32), extras, agent.carry(B))


def normal(seed, shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_a_task_moves_the_trunk_and_its_own_head_alone(two):
    """Data of one game leave the other's head bit for bit as it was."""
    agent, learner, after, _ = two
    for task, other in ((0, 1), (1, 0)):
        params, _ = after(rollout_of(agent, task))
        for name, part in params.items():
            moved = [
                bool((x != y).any())
                for x, y in zip(
                    jax.tree.leaves(part), jax.tree.leaves(learner.params[name])
                )
            ]
            if name.startswith(f"task_{other}"):
                assert not any(moved), name
            else:
                assert any(moved), name


def test_the_trunk_learns_the_sum_of_its_tasks():
    """The gradient of both games' steps is the sum of each game's alone."""
    spec = spec_of(SIZES, (4, 4, 1), jnp.float32)
    config = student.Config(network(torso="mlp", hidden=(8,)))
    agent = student.make(spec, config)
    hp = student.Hparams(tau=0.1)
    params = jax.jit(batch_draws(agent.init))(KEY, hp).params
    task = np.arange(B) % 2
    whole = rollout_of(agent, task)

    def loss(params, live):
        extras = whole.extras._replace(live=live)
        rollout = whole._replace(extras=extras)
        said = acted(agent, params, rollout)
        return student.loss_of(spec.action, extras.recorded["q"], said, rollout, hp)[0]

    gradient = jax.jit(jax.grad(loss))
    both, first, second = (
        jax.device_get(gradient(params, np.broadcast_to(live, (T, B)))["torso"])
        for live in (task >= 0, task == 0, task == 1)
    )
    # Means over live steps: half of the steps are each game's.
    expected = jax.tree.map(lambda x, y: (x + y) / 2, first, second)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), both, expected
    )


def acted(agent, params, rollout):
    """Returns the logits [T, B, A] that acting notes down, without a memory."""
    learner = student.learning.Learner(params, (), (), jnp.int32(0))
    hp, carry = student.Hparams(), agent.carry(B)
    steps = [jax.tree.map(lambda x, t=t: x[t], rollout.ts) for t in range(T)]
    return jnp.stack([agent.act(learner, carry, ts, KEY, hp)[2]["q"] for ts in steps])


def test_losses_and_tau_are_members_and_change_what_is_learned(two):
    """Each cost picks its loss; τ → 0 is the NLL; actions a game has not do not count."""
    agent, _, after, hp = two
    rollout = rollout_of(agent, np.arange(B) % 2)
    costs = {"kl": (1, 0, 0), "nll": (0, 1, 0), "mse": (0, 0, 1)}
    found = {}
    for name, given in costs.items():
        kl, nll, mse = map(jnp.float32, given)
        one = hp._replace(kl_cost=kl, nll_cost=nll, mse_cost=mse)
        found[name], metrics = after(rollout, one)
        np.testing.assert_allclose(metrics["loss"], metrics[name], rtol=1e-6)
    sharp, _ = after(rollout, hp._replace(tau=jnp.float32(1e-6)))
    close = [
        jax.tree.map(lambda x, y: np.abs(x - y).max(), sharp, found[name])
        for name in ("nll", "kl", "mse")
    ]
    of_nll, *others = (max(jax.tree.leaves(x)) for x in close)
    assert of_nll < 1e-6 < 1e-5 < min(others)
    # The third action, which the second game has not.
    q = rollout.extras.recorded["q"]
    other = q.copy()
    other[:, 1::2, 2] = 1e6
    for cost in ("kl_cost", "nll_cost", "mse_cost"):
        one = hp._replace(**{cost: jnp.float32(1.0)})
        same = [
            after(rollout_of(agent, np.arange(B) % 2, x), one)[0] for x in (q, other)
        ]
        jax.tree.map(np.testing.assert_array_equal, *same)


def test_a_student_that_says_what_its_teacher_said_has_nothing_to_learn(two):
    """τ = 1 and the teacher's own weights: the KL is 0, and so is its gradient."""
    agent, learner, after, hp = two
    rollout = rollout_of(agent, np.arange(B) % 2)
    q = jax.jit(functools.partial(acted, agent))(learner.params, rollout)
    same = rollout_of(agent, np.arange(B) % 2, q)
    _, metrics = after(same, hp._replace(tau=jnp.float32(1.0)))
    assert abs(metrics["kl"]) < 1e-6 and metrics["grad_norm"] < 1e-5
    assert metrics["accuracy"] == 1.0


def test_a_share_of_its_actions_is_any_legal_one(two):
    """Greedy else; what it remembers is what it did, what it notes down is what it says."""
    agent, learner, _, hp = two
    slots, epsilon = 4000, 0.6
    ts = jax.tree.map(lambda x: x[0, :1], rollout_of(agent, 1).ts)
    ts = jax.tree.map(lambda x: np.repeat(x, slots, axis=0), ts)
    hp = hp._replace(temperature=jnp.float32(0), epsilon=jnp.float32(epsilon))
    act = jax.jit(agent.act)
    action, carry, notes = act(learner, agent.carry(slots), ts, KEY, hp)
    share = np.bincount(action, minlength=3) / slots
    best = int(notes["q"][0, :2].argmax())
    assert share[2] == 0
    np.testing.assert_allclose(share[best], 1 - epsilon / 2, atol=0.03)
    np.testing.assert_array_equal(carry.action, action)


def test_a_label_is_read_where_it_was_given_and_not_beside_dead_steps():
    """The mask is that of the step; what is not live moves no error of features."""
    extras = windows.Extras(np.arange(T)[:, None] < np.full((1, B), T - 1))
    agent = student.make(spec_of(SIZES, (4, 4, 1), jnp.float32))
    rollout = rollout_of(agent, 0)._replace(extras=extras)
    labels, logits = normal(2, (T, B, 3)), normal(4, (T, B, 3))
    space, hp = types.Discrete(3), student.Hparams(tau=1.0)
    loss_of = jax.jit(lambda ro: student.loss_of(space, labels, logits, ro, hp)[1])
    error = jax.jit(student.feature_error)
    found = jax.device_get(loss_of(rollout))
    for step, is_same in ((T, True), (T - 1, True), (0, False)):
        mask = rollout.ts.action_mask.copy()
        mask[step, :, 2] = False
        ts = rollout.ts._replace(action_mask=mask)
        other = jax.device_get(loss_of(rollout._replace(ts=ts)))
        for name in ("kl", "nll", "mse", "entropy"):
            assert (found[name] == other[name]) == is_same, name
        if step < T:
            moved = labels.copy()
            moved[step] += 1.0
            given = (error(x, logits, rollout) for x in (labels, moved))
            assert np.equal(*given) == is_same


def test_features_are_predicted_by_a_layer_of_each_head(two):
    """At β = 0 the rest learns as without; at β the error is weighed and moves the trunk."""
    plain, _, after, hp = two
    spec = spec_of(SIZES, (4, 4, 1), jnp.float32)
    config = student.Config(
        network(torso="mlp", hidden=(8,)), head_hidden=4, feature_size=5
    )
    agent = student.make(spec, config)
    learner = jax.device_get(jax.jit(batch_draws(agent.init))(KEY, hp))
    update = jax.jit(agent.update)

    def learned(task, beta):
        rollout = rollout_of(agent, task)
        seen = {"features": normal(3, (T, B, 5))}
        recorded = {**rollout.extras.recorded, **seen}
        rollout = rollout._replace(extras=rollout.extras._replace(recorded=recorded))
        given = hp._replace(feature_cost=jnp.float32(beta))
        new, metrics, _ = update(learner, rollout, KEY, given, jnp.int32(0))
        return jax.device_get((new.params, metrics))

    without, metrics = after(rollout_of(plain, np.arange(B) % 2))
    off, unweighed = learned(np.arange(B) % 2, 0.0)
    on, weighed = learned(np.arange(B) % 2, 0.5)
    assert "feature_error" not in metrics and weighed["feature_error"] > 1
    np.testing.assert_allclose(
        weighed["loss"] - unweighed["loss"], 0.5 * weighed["feature_error"], rtol=1e-4
    )
    for name, part in without.items():
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, atol=1e-7), part, off[name]
        )
    trunks = zip(*(jax.tree.leaves(x["torso"]) for x in (on, off)))
    assert all((x != y).any() for x, y in trunks)
    # Data of one game leave the other's layer as it was.
    one, _ = learned(0, 0.5)
    moved = {
        k: (one[k]["kernel"] != learner.params[k]["kernel"]).any()
        for k in ("task_0_features", "task_1_features")
    }
    assert moved == {"task_0_features": True, "task_1_features": False}


@pytest.mark.parametrize("stream", [0, 7])
def test_teachers_note_down_their_last_hidden_layer_where_asked(stream):
    """What their outputs are linear in; without note_features there is nothing."""
    spec = spec_of([3], (4, 4, 1), jnp.float32)
    ts = jax.tree.map(lambda x: x[0], rollout_of(student.make(spec), 0).ts)
    hidden = {"hidden": (5,), "torso": "mlp", "stream": stream}
    for note in (False, True):
        made = q_network.QNetworkConfig(**hidden, note_features=note)
        agent = pqn.make(spec, pqn.Config(network=made))
        learner = jax.jit(batch_draws(agent.init))(KEY, pqn.Hparams())
        extras = jax.jit(agent.act)(learner, (), ts, KEY, pqn.Hparams())[2]
        if not note:
            assert extras.features == ()
            continue
        last = jax.device_get(learner.params["advantage"])
        said = np.asarray(extras.features) @ last["kernel"] + np.asarray(last["bias"])
        assert extras.features.shape == (B, stream or 5)
        assert (np.asarray(extras.features) >= 0).all()  # of a ReLU
        np.testing.assert_allclose(said, extras.q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", distillation.LOSSES)
def test_groups_of_a_factorised_action_are_added(name):
    """Two categorical choices of a policy are two losses; one that is masked is none."""
    space = types.Factorised((2, 3))
    labels, logits = (normal(seed, (T, B, 5)) for seed in (0, 1))
    errors = jax.jit(student.errors, static_argnums=(0, 1))

    def added(legal):
        legal = np.broadcast_to(np.array(legal, bool), (T, B, 5))
        return errors(name, space, labels, logits, legal, 1.0)

    parts = [
        errors(
            name,
            types.Discrete(n),
            labels[..., at],
            logits[..., at],
            np.ones((T, B, n), bool),
            1.0,
        )
        for n, at in ((2, slice(0, 2)), (3, slice(2, 5)))
    ]
    np.testing.assert_allclose(added([1, 1, 1, 1, 1]), sum(parts), rtol=1e-5)
    np.testing.assert_allclose(added([1, 1, 0, 0, 0]), parts[0], rtol=1e-5)


def test_a_dataset_keeps_each_games_own_actions():
    """Read back, tasks have the sizes that heads are made of; others the padded space."""
    spec = spec_of((3, 6))
    meta = layout.describe(spec, ["game_1", "game_0", "other"], 5, True, None)
    read = layout.contents_of(meta).spec
    assert [(x.name, x.action.n) for x in read.tasks] == [
        ("game_1", 6), ("game_0", 3), ("other", 6),
    ]  # fmt: skip
    assert read.action == spec.action
    # Nothing is added to the description of tasks that are all alike.
    alike = layout.describe(spec_of((6, 6)), ["game_0"], 5, False, None)
    assert "task_actions" not in alike


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_hidden": -1}, "head_hidden: got -1"),
        ({"feature_size": -1}, "feature_size: got -1"),
        ({"optimiser": "lion"}, "lion"),
        ({"network": network(torso="nature", filters=(8, 8))}, r"filters: got \(8, 8\).*3 layers"),
        ({"network": network(torso="mlp", features=64)}, "filters, features: .*'mlp'.*hidden"),
        ({"network": network(torso="nature", features=-1)}, "features: got -1"),
        ({"network": network(task_heads=True)}, "task_heads=True is for networks of impala"),
        ({"network": network(separate_value=True)}, "separate_value: there is no value"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        student.make(spec_of([4]), student.Config(**changes))


def test_labels_that_do_not_fit_are_named():
    """What is not recorded, and what is said of other actions than there are."""
    recorded = {"q": np.zeros((T, B, 4)), "value": np.zeros((T, B))}
    extras = windows.Extras(np.ones((T, B), bool), recorded=recorded)
    assert student.labels_of(extras, "q", types.Discrete(4)).shape == (T, B, 4)
    with pytest.raises(ValueError, match=r"labels='policy': .*q, value.*\[policy\]"):
        student.labels_of(extras, "policy", types.Discrete(4))
    for name, size in (("q", 6), ("value", 4)):
        with pytest.raises(ValueError, match=f"labels='{name}': .* {size} actions"):
            student.labels_of(extras, name, types.Discrete(size))
    config = student.Config(feature_size=5)
    with pytest.raises(ValueError, match=r"feature_size=5: .*note_features"):
        student.features_of(extras, config)
    extras = extras._replace(recorded=recorded | {"features": np.zeros((T, B, 4))})
    with pytest.raises(ValueError, match=r"feature_size=5: .*\[4\]"):
        student.features_of(extras, config)


@pytest.mark.parametrize("tau", [0.0, -1.0])
def test_a_tau_that_divides_by_nothing_is_one_line(tau):
    settings = {
        "tasks": [{"env": "gymnax/CartPole-v1"}],
        "agent": {"name": "policy_distillation", "hparams": {"tau": tau}},
    }
    with pytest.raises(Exception, match=r"agent.hparams.tau=.*at least 1e-06"):
        config.from_dict(settings, where="x")
