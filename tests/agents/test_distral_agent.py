"""Distral as an agent: its columns, its two numbers, where gradients go."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import config, errors
from mtrl_jax.agents import distral
from mtrl_jax.agents.common import (
    exploration,
    minibatches,
    policy_columns,
    unrolls,
    value_scale,
    vtrace,
)
from mtrl_jax.experiments import online
from mtrl_jax.losses import distral_equations as losses
from mtrl_jax.losses import policy_gradient, popart
from mtrl_jax.networks import heads
from mtrl_jax.networks.network_config import NetworkConfig

KEY = jax.random.key(0)
TASKS = ("both", "masked")


@pytest.fixture(name="made", scope="module")
def _made(kit):
    """A function of columns (and more settings): the Setup with a drawn learner."""
    known = {}

    def make(columns, **config):
        at = (columns, *config.items())
        if at not in known:
            plain = kit.setup("distral", "none", TASKS)
            agent = kit.small("distral", plain.env.spec, columns=columns, **config)
            one = plain._replace(
                agent=agent, act=jax.jit(agent.act), update=kit.updater(agent)
            )
            learner = kit.fresh(one, 0)
            # Policies that are far from uniform, and from each other.
            params = jax.tree.map(lambda x: 3.0 * x, jax.device_get(learner.params))
            for head in params.values():
                head["policy"]["kernel"] = 30.0 * head["policy"]["kernel"]
            learner = learner._replace(params=params)
            rollout = jax.device_get(kit.collect(one, learner=learner, tasks=TASKS))
            known[at] = one._replace(learner=learner, rollout=rollout)
        return known[at]

    return make


def log_probs(one, hp):
    """Returns log π_i and log π_0 [T, B, A] of the rollout's steps."""
    spec = one.env.spec
    config = distral.Config(network=_network(), columns="two", optimiser="adam")
    columns = policy_columns.make(spec, config.network, config.columns)

    @jax.jit
    def read(params, ro, hp):
        previous = distral.unrolls.previous_actions(ro)
        alpha = distral.coupling(config, hp)
        out, _ = columns.unroll(params, ro.carry.core, ro.ts, previous, alpha)
        mask = ro.ts.action_mask[:-1]
        return [
            jax.nn.log_softmax(jnp.where(mask, x[:-1], heads.ILLEGAL))
            for x in (out.logits, out.prior_logits)
        ]

    return jax.device_get(read(one.learner.params, one.rollout, hp))


def _network():
    return NetworkConfig(hidden=(8,), core="none", core_size=8)


def test_the_regulariser_is_that_of_the_losses(made, kit):
    """Metrics of an update: Σ π_i [(α/β) log π_0 − (1/β) log π_i], KL and entropy."""
    one = made("two")
    hp = kit.changed(one.hp, alpha=0.3, beta=7.0)
    metrics = jax.device_get(one.update(one.learner, one.rollout, KEY, hp)[1])
    mine, prior = log_probs(one, hp)
    live = ~one.rollout.ts.first[1:]
    wanted = jax.jit(losses.regulariser)(mine, prior, 0.3, 7.0)
    np.testing.assert_allclose(
        metrics["regulariser"], np.asarray(wanted)[live].mean(), rtol=1e-4
    )
    kl = np.sum(np.exp(mine) * np.where(mine > -1e9, mine - prior, 0.0), -1)
    np.testing.assert_allclose(metrics["kl"], kl[live].mean(), rtol=1e-4)
    assert metrics["kl"] > 0.05
    expected = (0.7 * metrics["entropy"] - 0.3 * metrics["kl"]) / 7.0
    np.testing.assert_allclose(metrics["regulariser"], expected, rtol=1e-4)
    # What acting noted down is the task policies'.
    mine, _ = log_probs(one, one.hp)
    taken = np.take_along_axis(mine, one.rollout.action[..., None], -1)[..., 0]
    np.testing.assert_allclose(one.rollout.extras.log_prob, taken, rtol=1e-4, atol=1e-5)


def test_with_a_column_of_zeros_a_task_acts_as_the_distilled_policy(made, kit):
    """f = 0 and α = 1: the same policy, and nothing to regularise."""
    one = made("two")
    params = dict(one.learner.params)
    params["own"] = jax.tree.map(np.zeros_like, params["own"])
    learner = one.learner._replace(params=params)
    hp = kit.changed(one.hp, alpha=1.0)
    _, metrics = one.update(learner, one.rollout, KEY, hp)
    np.testing.assert_allclose(metrics["kl"], 0.0, atol=1e-6)
    np.testing.assert_allclose(metrics["regulariser"], 0.0, atol=1e-6)


def test_the_gradient_is_that_of_its_objective(made, kit):
    """V-trace on shaped rewards, in which a step's own regulariser is no advantage.

    Its gradient is the expectation's. The shaping has a value of its own and no σ.
    """
    one = made("two")
    config = distral.Config(
        network=_network(), columns="two", optimiser="adam", value_scale="popart"
    )
    spec, heads_ = one.env.spec, (("own", "value"),)
    base = distral.policy_learner.make(spec, config, heads_, values=2, stacked=True)
    scale = base.scale
    columns = distral.columns_of(spec, config, base)
    # The second two are of what is regularised, in the unit that is learned in.
    stats = popart.Statistics(
        *np.float32([[0.5, -2.0, 0.0, 0.0], [4.0, 9.0, 1.0, 1.0], [0.3, 0.6, 0.0, 0.0]])
    )
    hp = kit.changed(one.hp, alpha=0.3, beta=7.0, value_step_size=0.3)
    loss = distral.make_loss(spec, config, columns, base)

    def own(params, ro):
        total, aux = loss(params, stats, ro, KEY, hp)
        return total, aux.stats

    def objective(params, ro, after):
        previous = distral.unrolls.previous_actions(ro)
        alpha = distral.coupling(config, hp)
        out, _ = columns.unroll(params, ro.carry.core, ro.ts, previous, alpha)
        task = ro.ts.task
        value = scale.value(stats, out.value, task, hp.scale)
        of_shaping = exploration.entry(out.value, len(TASKS) + task)
        log_pi, log_prior = (
            jax.nn.log_softmax(jnp.where(ro.ts.action_mask, x, heads.ILLEGAL))[:-1]
            for x in (out.logits, out.prior_logits)
        )
        taken, by_prior = (
            jnp.take_along_axis(x, ro.action[..., None], -1)[..., 0]
            for x in (log_pi, log_prior)
        )
        unit = policy_gradient.of_task(
            popart.std(after, hp.scale.value_std_min), task[:-1]
        )
        given = ro.ts.reward[1:]
        shaping = losses.shaped_reward(
            jnp.zeros(given.shape), taken, by_prior, 0.3, 7.0
        )
        paid, shaped = (
            jax.vmap(policy_gradient.vtrace, 1, 1)(
                x[:-1], x[1:], r_t, hp.returns.discount * ro.ts.discount[1:],
                jnp.exp(taken - ro.extras.log_prob), ro.ts.first[1:],
            )
            for x, r_t in ((value, given), (of_shaping, shaping))
        )  # fmt: skip
        advantage = paid.advantage / unit + shaped.advantage - shaping
        each = -jax.lax.stop_gradient(paid.weight * advantage) * taken
        errors_ = (paid.value - value[:-1]) / unit, shaped.value - of_shaping[:-1]
        for error in errors_:
            each += hp.value_cost * 0.5 * jnp.square(error)
        each -= losses.regulariser(log_pi, log_prior, 0.3, 7.0)
        return policy_gradient.masked_mean(each, ~ro.ts.first[1:])

    @jax.jit
    def gradients(seed, ro):
        params = columns.init(jax.random.key(seed))
        (_, after), found = jax.value_and_grad(own, has_aux=True)(params, ro)
        return found, jax.grad(objective)(params, ro, after)

    found, wanted = jax.device_get(gradients(0, one.rollout))
    assert np.abs(found["prior"]["policy"]["kernel"]).max() > 1e-3
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, 1e-3, 1e-5), found, wanted
    )


def moved(before, after):
    """Returns {column: has any of its policy heads moved}."""
    return {
        name: not np.array_equal(
            before.params[name]["policy"]["kernel"],
            after.params[name]["policy"]["kernel"],
        )
        for name in before.params
    }


@pytest.mark.parametrize("columns", ["one", "two"])
def test_without_alpha_nothing_is_shared(columns, made, kit):
    """α = 0: the distilled policy gets no gradient; above it does."""
    one = made(columns)
    for alpha, shares in ((0.0, False), (0.5, True)):
        hp = kit.changed(one.hp, alpha=alpha)
        after, _ = one.update(one.learner, one.rollout, KEY, hp)
        assert moved(one.learner, after) == {"prior": shares, "own": True}


@pytest.mark.parametrize("columns", ["one", "two"])
def test_without_alpha_a_task_learns_as_it_would_alone(columns, made, kit):
    """Another's rewards do not reach its network, nor through the norm of gradients."""
    one = made(columns)
    found = kit.quiet_and_loud(one, kit.changed(one.hp, alpha=0.0))
    own = (params["own"] for params in found)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[0], y[0]), *own)


@pytest.mark.parametrize("columns", ["added", "shared"])
def test_the_baselines_are_not_distilled(columns, made, kit):
    """Entropy at 1/β and no KL, whatever α; an added column is trained by the tasks."""
    one = made(columns)
    found = [
        one.update(one.learner, one.rollout, KEY, kit.changed(one.hp, alpha=alpha))
        for alpha in (0.0, 1.0)
    ]
    for x, y in zip(*(jax.tree.leaves(x) for x in found)):
        np.testing.assert_array_equal(x, y)
    after, metrics = jax.device_get(found[0])
    assert all(moved(one.learner, after).values())
    beta = one.hp.transfer.beta
    np.testing.assert_allclose(
        metrics["regulariser"], metrics["entropy"] / beta, rtol=1e-5
    )


def test_the_distilled_policy_follows_the_tasks_that_do_not_move(made, kit):
    """β so small that rewards are nothing, α = 1: of π_0's steps alone the KL goes down."""
    one = made("one")
    hp = kit.changed(one.hp, alpha=1.0, beta=1e-3, reward_scale=0.0, learning_rate=1e-2)
    learner, found = one.learner, []
    for i in range(60):
        key = jax.random.fold_in(KEY, i)
        learner, metrics = one.update(learner, one.rollout, key, hp)
        found.append(float(metrics["kl"]))
        still = {**learner.params, "own": one.learner.params["own"]}
        learner = learner._replace(params=still)
    assert found[-1] < 0.3 * found[0]


def test_the_distilled_policy_may_act_in_tests(made, kit):
    """``distilled`` above a half: π_0's log-probabilities are noted down."""
    one = made("two")
    ts = kit.member(one.rollout.ts)
    hp = kit.changed(one.hp, distilled=1.0)
    action, _, extras = one.act(
        one.learner, one.agent.carry(len(ts.first)), ts, KEY, hp
    )
    first = one._replace(
        rollout=one.rollout._replace(carry=one.agent.carry(len(ts.first)))
    )
    prior = log_probs(first, one.hp)[1][0]
    wanted = np.take_along_axis(prior, np.asarray(action)[:, None], -1)[:, 0]
    np.testing.assert_allclose(extras.log_prob, wanted, rtol=1e-4, atol=1e-5)


def test_popart_keeps_what_the_tasks_networks_say(made, kit):
    """Stacked value heads are rewritten: no value moves but by the optimiser."""
    config = {"value_scale": "popart", "epochs": 2, "minibatches": 2}
    one = made("two", **config)
    hp = kit.changed(one.hp, learning_rate=0.0, value_step_size=0.3)
    after, metrics = one.update(one.learner, one.rollout, KEY, hp)
    assert not np.allclose(after.stats.mean, one.learner.stats.mean)
    ts, start = kit.member(one.rollout.ts), one.agent.carry(2 * kit.SLOTS)
    old, new = (one.act(x, start, ts, KEY, hp)[2].value for x in (one.learner, after))
    np.testing.assert_allclose(old, new, rtol=1e-3, atol=1e-4)
    assert np.isfinite(list(map(float, metrics.values()))).all()


def test_the_unit_of_rewards_is_theirs_alone(made, kit):
    """With PopArt no statistic depends on β: entropy scaled by σ would feed σ."""
    config = {"value_scale": "popart", "epochs": 2, "minibatches": 2}
    one = made("two", **config)
    hp = kit.changed(one.hp, learning_rate=0.0, value_step_size=0.3)
    found = [
        one.update(one.learner, one.rollout, KEY, kit.changed(hp, beta=beta))[0].stats
        for beta in (0.1, 100.0)
    ]
    jax.tree.map(np.testing.assert_array_equal, *found)
    # Of each task the statistics of rewards, and the unit of what is regularised: 1.
    np.testing.assert_array_equal(found[0].mean[len(TASKS) :], 0.0)
    np.testing.assert_array_equal(found[0].variance[len(TASKS) :], 1.0)


def test_what_is_regularised_is_learned_beside_the_rewards_in_the_scaled_unit():
    """σ = 4, γ = 1/2, values 0 but the last of the regularised, 3.

    Rewards 2, 4: targets 4, 4, that is 1, 1. Regularised 1, −1: 1.25, 0.5, of which the
    steps' own are no part of the advantages 1 + 0.25 and 1 + 1.5.
    """
    scale = value_scale.make(distral.Config(value_scale="return_scale"), 1)
    stats = scale.init()._replace(variance=jnp.full(1, 16.0))
    zeros = jnp.zeros((2, 1))
    arrived = unrolls.Arrivals(jnp.array([[2.0], [4.0]]), zeros + 0.5, zeros > 0)
    values = jnp.array([[0.0], [0.0], [3.0]])
    beside = vtrace.Beside(jnp.array([[1.0], [-1.0]]), values)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def slope(log_prob):
        terms, *_ = vtrace.terms(
            unrolls.Evaluated(log_prob, zeros, 0.0 * values),
            zeros,
            arrived,
            vtrace.Hparams(),
            task=jnp.zeros((2, 1), jnp.int32),
            scale=scale,
            stats=stats,
            of_scale=value_scale.Hparams(value_step_size=0.0),
            beside=beside,
        )
        return terms.policy_loss, terms.value_loss

    advantage, value_loss = slope(zeros)
    np.testing.assert_allclose(-2 * advantage[:, 0], [1.25, 2.5], rtol=1e-5)
    expected = (1.0 + 1.25**2 + 1.0 + 0.5**2) / 4
    np.testing.assert_allclose(value_loss, expected, rtol=1e-5)


def test_minibatches_have_the_same_share_of_every_task():
    """Each row once a pass; the tasks of a minibatch's rows are those that are said."""
    tasks = (0, 1, 1, 0, 1, 1, 0, 0, 1, 1, 1, 1)
    rows = minibatches.Rows((), len(tasks), "slots", lambda index: index, tasks)
    order = np.asarray(jax.jit(rows.order, static_argnums=(1, 2))(KEY, 3, 2))
    assert order.shape == (6, 6)
    said = minibatches.grouped(tasks, 2)
    assert said == (0, 0, 1, 1, 1, 1)
    for some in order:
        assert tuple(np.asarray(tasks)[some]) == said
    for one in order.reshape(3, -1):
        assert sorted(one) == list(range(len(tasks)))
    assert len({tuple(x) for x in order}) > 3
    with pytest.raises(ValueError, match=r"minibatches: 3 .* 4 slots of task 0"):
        minibatches.grouped(tasks, 3)


def test_wrong_options_are_refused(kit):
    """By field, with what would do."""
    spec = kit.probe(*TASKS).spec
    with pytest.raises(ValueError, match="columns: unknown 'three'; one of one, two"):
        kit.small("distral", spec, columns="three")
    with pytest.raises(ValueError, match="minibatches: 3 does not divide the 4 slots"):
        kit.small("distral", spec, minibatches=3)


@pytest.mark.parametrize(
    "columns, field, value",
    [
        ("two", "sharing", "cross_stitch"),
        ("added", "sharing", "experts"),
        ("one", "sharing", "soft"),
        ("two", "task_heads", True),
    ],
)
def test_a_distilled_policy_for_each_task_is_refused(columns, field, value, kit):
    """It is one for all, by field; of ``shared`` columns nothing is distilled."""
    spec = kit.probe(*TASKS).spec
    network = NetworkConfig(**{"hidden": (8, 8), field: value})
    said = rf"^network\.{field}: .*columns '{columns}'.*columns 'shared'"
    with pytest.raises(ValueError, match=said):
        distral.make(spec, distral.Config(network=network, columns=columns))
    if value != "soft":
        distral.make(spec, distral.Config(network=network, columns="shared"))


@pytest.mark.parametrize("columns", ["one", "two", "added"])
def test_the_distilled_policy_is_not_given_the_task(columns, kit):
    """``task_embedding`` is of the tasks' networks, and of an added column."""
    spec = kit.probe(*TASKS).spec
    network = NetworkConfig(hidden=(8,), last_action_reward=False)

    def inputs(embedding):
        each = dataclasses.replace(network, task_embedding=embedding)
        agent = distral.make(spec, distral.Config(network=each, columns=columns))
        params = jax.eval_shape(agent.init, KEY, distral.Hparams()).params
        first = {x: params[x]["torso"]["mlp"]["Dense_0"]["kernel"] for x in params}
        return {x: first[x].shape[-2] for x in first}

    without, given = inputs(False), inputs(True)
    more = {x: given[x] - without[x] for x in given}
    assert more == {"prior": 2 if columns == "added" else 0, "own": 2}


def test_one_task_is_refused_before_training():
    """There would be nobody to share with; the line says what would do."""
    given = {"tasks": [{"env": "probe/both"}], "agent": {"name": "distral"}}
    settings = config.from_dict(given, where="x")
    with pytest.raises(errors.ConfigError, match=r"agent\.name='distral': .* 2 tasks"):
        online.make_program(settings)
    given["tasks"] = [{"env": f"probe/{name}"} for name in TASKS]
    given["population"] = {"size": 2, "axis": "population"}
    settings = config.from_dict(given, where="x")
    with pytest.raises(errors.ConfigError, match=r"each member has one of .*axis=slot"):
        online.make_program(settings)
