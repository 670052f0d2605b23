"""DQN, Rainbow and what lies between: one learner of which each part is a switch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import agents, envs, hparams, random, types
from mtrl_jax.agents import dqn, pqn, rainbow
from mtrl_jax.agents.common import q_learning, q_loss
from mtrl_jax.data import replay, replay_ring
from mtrl_jax.engine import fused_runner
from mtrl_jax.engine.batched_draws import batch_draws
from mtrl_jax.losses import value_learning
from mtrl_jax.networks import noisy, q_network

KEY = jax.random.key(2)
SLOTS = 4
NETWORK = q_network.QNetworkConfig(hidden=(8,))
SMALL = {"network": NETWORK, "capacity": 400, "batch": 8}
OFF = {
    "double": False, "prioritised": False, "dueling": False, "n_step": 1,
    "distribution": "none", "noisy": False,
}  # fmt: skip


@functools.cache
def env():
    return envs.make("probe/both", (2, SLOTS))


def run(agent, hp, updates, at_once=None):
    """Returns the states after 0 and ``updates`` updates, and the metrics."""
    runner = fused_runner.make(
        agent, env(), unroll_length=4, updates_per_chunk=updates, at_once=at_once
    )
    hp = jax.tree.map(lambda x: jnp.full(2, x, jnp.float32), hp)
    start = jax.jit(runner.init)(random.roots(0, 2), hp)
    after, out = jax.jit(runner.chunk)(start, hp)
    return start, after, out


def some_rollout():
    """Returns a rollout of zeros of one member, of the shapes that a run has."""
    ts = jax.eval_shape(lambda k: env().reset(k, env().params)[1], random.roots(0, 2))
    ts = jax.tree.map(lambda x: np.zeros((5, *x.shape[1:]), x.dtype), ts)
    return types.Rollout(ts, np.zeros((4, SLOTS), np.int32), (), ())


def subsets():
    """Yields Rainbow without each part, DQN with each part, and the other distribution."""
    full = {f: getattr(rainbow.Config(), f) for f in OFF}
    for part in OFF:
        yield f"no_{part}", full | {part: OFF[part]}
        yield f"only_{part}", OFF | {part: full[part]}
    yield "quantile", full | {"distribution": "quantile"}


SUBSETS = dict(subsets())


@pytest.mark.parametrize("name", SUBSETS)
def test_every_subset_of_the_parts_can_be_traced(name, kit):
    """Each switch alone, and all but each."""
    parts = SUBSETS[name]
    agent = rainbow.make(
        env().spec, rainbow.Config(**SMALL, **parts, atoms=5, gradient_steps=2)
    )
    hp = jax.tree.map(np.float32, rainbow.Hparams())

    def train(hp):
        learner, memory = (
            jax.jit(batch_draws(agent.init))(KEY, hp),
            agent.replay.init(SLOTS),
        )
        step = jnp.int32(0)
        return kit.train(agent)(learner, memory, some_rollout(), KEY, hp, step)

    learner, memory, metrics = jax.eval_shape(train, hp)
    assert {x.shape for x in metrics.values()} == {()}
    priorities = memory.priorities
    assert bool(jax.tree.leaves(priorities)) == parts["prioritised"]
    assert ("sigma_kernel" in learner.params["advantage"]) == parts["noisy"]
    assert ("value" in learner.params) == parts["dueling"]


@pytest.mark.parametrize(
    "name", [pytest.param("no_noisy", marks=pytest.mark.slow), "quantile"]
)
def test_some_subsets_run_and_stay_finite(name):
    agent = rainbow.make(env().spec, rainbow.Config(**SMALL, **SUBSETS[name], atoms=5))
    _, after, out = run(agent, rainbow.Hparams(), 6)
    assert np.asarray(out.finite).all()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(after.memory))


def test_the_target_network_is_the_online_one_right_after_a_copy_only():
    """Every third update; in between it stays as it was."""
    agent = dqn.make(env().spec, dqn.Config(**SMALL))
    hp = hparams.override(dqn.Hparams(), {"target_period": 3.0, "learning_rate": 0.1})
    runner = fused_runner.make(agent, env(), unroll_length=4, updates_per_chunk=1)
    hp = jax.tree.map(lambda x: jnp.full(2, x, jnp.float32), hp)
    state = jax.jit(runner.init)(random.roots(0, 2), hp)
    chunk = jax.jit(runner.chunk)
    same = lambda x, y: all(  # noqa: E731
        np.array_equal(a, b) for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y))
    )
    assert same(state.learner.params, state.learner.stats)
    for update in range(1, 8):
        before = state.learner.stats
        state, _ = chunk(state, hp)
        is_copy = same(state.learner.params, state.learner.stats)
        assert is_copy == (update % 3 == 0)
        assert same(before, state.learner.stats) != is_copy


def test_nothing_is_learned_before_the_start_and_no_branch_is_a_select():
    agent = dqn.make(env().spec, dqn.Config(**SMALL, learning_starts=3))
    hp = jax.tree.map(lambda x: jnp.full(2, x, jnp.float32), dqn.Hparams())
    chunks = {}
    for at_once in (1, None):
        runner = fused_runner.make(
            agent, env(), unroll_length=4, updates_per_chunk=1, at_once=at_once
        )
        shapes = jax.eval_shape(runner.init, random.roots(0, 2), hp)
        chunks[at_once] = jax.jit(runner.chunk).lower(shapes, hp).compile()
        assert " conditional(" in chunks[at_once].as_text()
    state = start = jax.jit(runner.init)(random.roots(0, 2), hp)
    for update in range(1, 5):
        state, _ = chunks[None](state, hp)
        kernels = (x.learner.params["advantage"]["kernel"] for x in (start, state))
        assert np.array_equal(*kernels) == (update <= 3)


def test_what_is_drawn_before_the_start_keeps_its_priority():
    """Nothing was learned of it: it is not to be drawn less, nor never again."""
    starts = 3
    agent = rainbow.make(env().spec, rainbow.Config(**SMALL, learning_starts=starts))
    assert agent.replay is not None
    hp = jax.tree.map(jnp.float32, rainbow.Hparams())
    learner = jax.jit(batch_draws(agent.init))(KEY, hp)
    memory = agent.replay.init(SLOTS)

    @jax.jit
    def update(learner, memory, step):
        key = jax.random.fold_in(KEY, step)
        memory, drawn = agent.replay.observe(memory, rollout, key, hp, step)
        learner, _, found = agent.update(learner, drawn, key, hp, step)
        return learner, agent.replay.feedback(memory, found)

    rollout = some_rollout()
    ts = rollout.ts
    rollout = rollout._replace(
        ts=ts._replace(
            reward=np.float32(np.random.default_rng(0).normal(size=ts.reward.shape)),
            discount=np.ones_like(ts.discount),
            action_mask=np.ones_like(ts.action_mask),
        )
    )
    found = []
    for step in range(starts + 1):
        learner, memory = update(learner, memory, jnp.int32(step))
        priority = np.asarray(memory.priorities.levels[0])
        found.append(priority[priority > 0])
    # Of 16 rows an update all but the first window's have a transition.
    assert np.diff([x.size for x in found[:starts]]).tolist() == [16, 16]
    assert [len(np.unique(x)) for x in found[:starts]] == [1, 1, 1]
    assert len(np.unique(found[starts])) > 1


@pytest.mark.parametrize("name", ["dqn", "rainbow", "pqn"])
def test_with_epsilon_one_every_legal_action_is_as_likely(name):
    """And with 0 the best is taken; the values are noted down."""
    spec = envs.make("probe/both", (1, 4096)).spec
    module = agents.get(name)
    agent = module.make(spec, module.Config(network=NETWORK))
    ts, _ = jax.tree.map(
        lambda x: np.broadcast_to(np.asarray(x)[0], (4096, *x.shape[2:])), _dummy(spec)
    )
    ts = ts._replace(obs=jax.tree.map(np.ones_like, ts.obs))
    for epsilon in (1.0, 0.0):
        given = {"epsilon_start": epsilon, "epsilon_end": epsilon}
        if name == "rainbow":  # What is noted down has no noise.
            given["noise"] = 0.0
        hp = hparams.override(module.Hparams(), given)
        learner = jax.jit(batch_draws(agent.init))(KEY, hp)
        action, _, extras = jax.device_get(jax.jit(agent.act)(learner, (), ts, KEY, hp))
        assert extras.q.shape == (4096, 2)
        if epsilon:
            assert abs(float(action.mean()) - 0.5) < 4 * 0.5 / 64
        else:
            np.testing.assert_array_equal(action, extras.q.argmax(-1))


def _dummy(spec):
    from mtrl_jax.networks import network_module

    return network_module.dummy(spec)


def test_double_takes_the_target_networks_value_of_the_online_choice():
    """The three networks' roles, with outputs that tell them apart.

    The choice is among what is legal then: both actions, the first, the second.
    """
    table = {"online": [1.0, 5.0], "target": [10.0, 2.0]}

    def apply(params, obs, task, legal, noise):
        return jnp.broadcast_to(params[:, None], (*task.shape, 2, 1))

    rows = jax.tree.map(
        lambda x: np.zeros((2, 3, *x.shape), x.dtype), q_learning_rows()
    )
    legal = np.array([[[True, True]] * 3, [[True, True], [True, False], [False, True]]])
    rows = rows._replace(discount=np.ones((2, 3), np.float32), action_mask=legal)
    drawn = drawn_of(rows)
    for double, value in ((False, [10.0, 10.0, 2.0]), (True, [2.0, 10.0, 2.0])):
        setting = q_loss.Setting(
            q_network.QNetwork(None, apply, None),
            q_loss.Parts(double=double),
            lambda r: r,
        )
        _, metrics = jax.jit(functools.partial(q_loss.loss_of, setting))(
            np.float32(table["online"]),
            np.float32(table["target"]),
            (drawn, np.int32(0)),
            KEY,
            hparams.override(dqn.Hparams(), {"discount": 0.5}),
        )
        expected = np.abs(0.5 * np.array(value) - 1.0)
        np.testing.assert_allclose(metrics["priority"], expected)
        np.testing.assert_allclose(metrics["error"], expected.mean())


@pytest.mark.parametrize("distribution", q_loss.DISTRIBUTIONS)
def test_a_window_is_learned_from_up_to_its_episodes_last_step(distribution):
    """n = 3, γ = 1/2, rewards 2, 4, 8: 6 and rows[3] / 8, cut off 4 and rows[2] / 4, at an
    end 2. A draw that is not live is none, and of the target nothing is learned."""
    number, atoms = np.float32([1.0, 2.0, 3.0, 4.0]), np.float32([-1.0, 0.0, 2.0])
    atoms = atoms if distribution != "none" else atoms[2:]

    def apply(params, obs, task, legal, noise):
        """Returns outputs of which action 0 has the highest mean, in order of the rows."""
        return obs["vector"][:, :1, None] * jnp.stack([params, 0.5 * params])[None]

    rows = jax.tree.map(
        lambda x: np.zeros((4, 4, *x.shape), x.dtype), q_learning_rows()
    )
    first, discount = np.zeros((4, 4), bool), np.ones((4, 4), np.float32)
    first[3, 1] = first[2, 2] = True
    discount[1, 2] = 0.0
    rows = rows._replace(
        obs={"vector": np.zeros_like(rows.obs["vector"]) + number[:, None, None]},
        reward=np.float32([9, 2, 4, 8])[:, None] * np.float32([1, 1, 1, 100]),
        discount=discount,
        first=first,
        action_mask=np.ones_like(rows.action_mask),
    )
    drawn = drawn_of(rows)._replace(live=np.arange(4) < 3)
    setting = q_loss.Setting(
        q_network.QNetwork(None, apply, None),
        q_loss.Parts(n_step=3, distribution=distribution, atoms=len(atoms)),
        lambda r: r,
        q_loss.LOSSES["squared"],
    )
    hp = hparams.override(rainbow.Hparams(), {"discount": 0.5})

    @jax.jit
    def own(online, target, drawn):
        given = setting, online, target, (drawn, 0), KEY, hp
        return jax.value_and_grad(q_loss.loss_of, (1, 2), has_aux=True)(*given)

    @jax.jit
    def by_hand(online, target):
        r_t, discount_t = np.float32([6, 4, 2]), np.float32([0.125, 0.25, 0])
        q_tm1 = online[None] * np.ones((3, 1), np.float32)
        q_t = target[None] * np.float32([[4], [3], [2]])
        if distribution == "categorical":
            z = value_learning.support(-10.0, 10.0, len(atoms))
            each = jax.vmap(value_learning.categorical_td, (0, 0, 0, 0, None))
            return each(q_tm1, r_t, discount_t, q_t, z)
        if distribution == "quantile":
            found = jax.vmap(value_learning.quantile_td)(q_tm1, r_t, discount_t, q_t)
            return found, found
        error = (r_t + discount_t * q_t[:, 0]) - q_tm1[:, 0]
        return 0.5 * error**2, abs(error)

    (loss, metrics), slopes = jax.device_get(own(atoms, 2 * atoms, drawn))
    each, error = by_hand(atoms, 2 * atoms)
    np.testing.assert_allclose(loss, np.mean(each), rtol=1e-5)
    np.testing.assert_allclose(metrics["error"], np.mean(error), rtol=1e-5)
    np.testing.assert_allclose(metrics["priority"][:3], error, rtol=1e-4, atol=1e-5)
    assert np.abs(slopes[0]).max() > 0.1 and not slopes[1].any()


def test_learning_has_the_whole_noise_and_of_each_network_its_own():
    """``noise`` scales what acts alone; one draw for all would be one network."""

    def noises(key):
        found = []

        def apply(params, obs, task, legal, noise):
            found.append((jax.random.key_data(noise.key), jnp.float32(noise.scale)))
            assert not noise.each
            return jnp.zeros((*task.shape, 2, 1))

        parts = q_loss.Parts(double=True, noisy=True)
        setting = q_loss.Setting(
            q_network.QNetwork(None, apply, None), parts, lambda r: r
        )
        hp = rainbow.Hparams(noise=0.25)
        q_loss.loss_of(setting, (), (), (drawn_of(rows), np.int32(0)), key, hp)
        return jax.tree.map(lambda *x: jnp.stack(x), *found)

    rows = jax.tree.map(
        lambda x: np.zeros((2, 3, *x.shape), x.dtype), q_learning_rows()
    )
    keys, scale = jax.device_get(jax.jit(noises)(KEY))
    assert len({tuple(x) for x in keys}) == 3
    np.testing.assert_array_equal(scale, 1.0)


def q_learning_rows():
    from mtrl_jax.data import replay_ring

    return replay_ring.row_shapes(env().spec)


def drawn_of(rows):
    from mtrl_jax.data import replay

    n = rows.reward.shape[1]
    weight = np.ones(n, np.float32)
    return replay.Drawn(rows, np.ones(n, bool), weight, np.arange(n))


def test_pqns_targets_are_the_recursion_of_its_paper():
    """R_t = r + γ d (λ R_{t+1} + (1 − λ) max Q(s_{t+1})), the max alone where an episode
    was cut or the rollout ends; steps between episodes have none."""
    steps, slots = 9, 3
    draw = np.random.default_rng(1)
    first, last = np.zeros((2, steps + 1, slots), bool)
    discount = np.ones((steps + 1, slots), np.float32)
    for t, b in np.ndindex(steps - 1, slots):
        if draw.random() < 0.4 and not last[t, b]:
            last[t + 1, b] = first[t + 2, b] = True
            discount[t + 1, b] = draw.random() < 0.5
    assert {0.0, 1.0} == set(discount[last])
    reward, best = draw.normal(size=(2, steps + 1, slots)).astype(np.float32)
    task = np.zeros(first.shape, np.int32)
    legal = np.ones((*first.shape, 2), bool)
    ts = types.TimeStep({}, reward, discount, first, last, task, legal)
    rollout = types.Rollout(ts, task[1:], (), ())
    hp = hparams.override(pqn.Hparams(), {"discount": 0.9, "lambda_": 0.7})
    targets = jax.jit(pqn.targets, static_argnums=2)
    got = np.asarray(targets(best, rollout, lambda r: r, hp))
    for b in range(slots):
        for t in reversed(range(steps)):
            if first[t + 1, b]:
                continue
            after = best[t + 1, b]
            if t < steps - 1 and not last[t + 1, b]:
                after = 0.7 * got[t + 1, b] + 0.3 * after
            wanted = reward[t + 1, b] + 0.9 * discount[t + 1, b] * after
            np.testing.assert_allclose(got[t, b], wanted, rtol=1e-5, atol=1e-6)


def test_pqns_loss_is_half_the_squared_error_of_what_was_done():
    """Its mean over live steps, to targets of the values noted down and of the last."""
    spec, draw = env().spec, np.random.default_rng(0)
    agent = pqn.make(spec, pqn.Config(network=NETWORK, epochs=1, minibatches=1))
    hp = jax.tree.map(np.float32, pqn.Hparams())
    learner = jax.jit(batch_draws(agent.init))(KEY, hp)
    rollout = some_rollout()
    ts, shape = rollout.ts, rollout.ts.reward.shape
    ts = ts._replace(
        obs={k: draw.normal(size=x.shape).astype(x.dtype) for k, x in ts.obs.items()},
        reward=draw.normal(size=shape).astype(np.float32),
        discount=np.ones(shape, np.float32),
        first=np.arange(shape[0])[:, None] == np.array([9, 2, 3, 9]),
        action_mask=np.ones_like(ts.action_mask),
    )
    q = jax.jit(q_network.make(spec, NETWORK, 2).apply)
    q = np.asarray(q(learner.params, ts.obs, ts.task, ts.action_mask))[..., 0]
    action = draw.integers(0, 2, rollout.action.shape).astype(np.int32)
    extras = q_learning.Extras(q[:-1], q[:-1].max(-1))
    rollout = types.Rollout(ts, action, extras, ())
    targets = jax.jit(pqn.targets, static_argnums=2)
    wanted = np.asarray(targets(q.max(-1), rollout, lambda r: r, hp))
    done = np.take_along_axis(q[:-1], action[..., None], -1)[..., 0]
    live = ~ts.first[1:]
    _, metrics, _ = jax.jit(agent.update)(learner, rollout, KEY, hp, jnp.int32(0))
    np.testing.assert_allclose(metrics["value"], done[live].mean(), rtol=1e-5)
    error = 0.5 * np.square(done - wanted)[live].mean()
    np.testing.assert_allclose(metrics["loss"], error, rtol=1e-5)


def test_importance_grows_to_one():
    hp = q_loss.Prioritising(0.5, 0.4, 10.0)
    importance_at = jax.jit(q_loss.importance_at)
    found = [float(importance_at(jnp.int32(u), hp)) for u in (0, 5, 10, 99)]
    np.testing.assert_allclose(found, [0.4, 0.7, 1.0, 1.0], rtol=1e-6)
    assert float(
        importance_at(jnp.int32(99), hp._replace(importance_updates=0.0))
    ) == pytest.approx(0.4)


def test_importance_weighs_the_loss_to_the_power_of_beta(monkeypatch):
    """(1, 1/4) at β = 1/2 are 1 and 1/2; of errors 2 and 4 that is a loss of 2."""
    errors = jnp.array([2.0, 4.0])
    monkeypatch.setattr(q_loss, "_errors", lambda *_: (errors, errors))
    weights = q_loss.Prioritising(priority_exponent=1.0, importance_exponent=0.5)
    hp = rainbow.Hparams(prioritising=weights)
    spec, parts = env().spec, q_loss.Parts(double=True, prioritised=True, n_step=1)
    network = q_network.make(spec, NETWORK, spec.action.n, q_network.Head(1, False))
    params = jax.jit(batch_draws(network.init))(KEY)
    obs = {k: np.zeros((2, 2, *x.shape), x.dtype) for k, x in spec.obs.items()}
    ones = np.ones((2, 2), np.float32)
    rows = replay_ring.Row(
        obs, np.zeros((2, 2), np.int32), ones, ones, ones > 1, np.zeros((2, 2), np.int32),
        np.ones((2, 2, spec.action.n), bool),
    )  # fmt: skip
    drawn = replay.Drawn(
        rows=rows,
        place=np.zeros(2, np.int32),
        live=np.ones(2, bool),
        importance=np.float32([1.0, 0.25]),
    )
    setting = q_loss.Setting(network, parts, lambda r: r)
    loss_of = jax.jit(functools.partial(q_loss.loss_of, setting))
    loss, found = loss_of(params, params, (drawn, jnp.int32(0)), KEY, hp)
    assert float(loss) == (1.0 * 2.0 + 0.5 * 4.0) / 2
    np.testing.assert_allclose(found["priority"], errors, rtol=1e-6)


def test_what_a_noisy_network_notes_down_is_no_draw():
    """Labels are the mean weights': the same for two keys, while actions differ."""
    agent = rainbow.make(env().spec, rainbow.Config(**SMALL))
    hp = jax.tree.map(jnp.float32, rainbow.Hparams())
    learner = jax.jit(batch_draws(agent.init))(KEY, hp)
    ts = jax.tree.map(lambda x: x[0], some_rollout().ts)
    ts = ts._replace(action_mask=np.ones_like(ts.action_mask))
    act = jax.jit(lambda key: agent.act(learner, (), ts, key, hp))
    found = [act(jax.random.key(i)) for i in range(8)]
    actions, _, notes = zip(*found)
    for note in notes[1:]:
        jax.tree.map(np.testing.assert_array_equal, note, notes[0])
    np.testing.assert_allclose(notes[0].value, np.max(notes[0].q, -1))
    assert any((x != actions[0]).any() for x in actions)


@pytest.mark.parametrize("period", [1.0, 2.5, 4.0])
def test_a_period_may_be_no_whole_number(period):
    due = [u for u in range(1, 41) if q_learning.is_due(jnp.int32(u), period)]
    expected = sorted({int(np.ceil(i * period)) for i in range(1, 41)})
    assert due == [u for u in expected if u <= 40]


def test_the_paper_networks_have_the_papers_size():
    """DQN's Nature network with 18 outputs: 1,693,362 parameters (84 × 84 × 4)."""
    spec = types.EnvSpec(
        {"image": jax.ShapeDtypeStruct((84, 84, 4), np.uint8)},
        types.Discrete(18),
        (types.TaskSpec("x", {}, types.Discrete(18)),),
    )

    def size(**changes):
        config = q_network.QNetworkConfig(torso="nature", **changes)
        made = q_network.make(spec, config, 18)
        return sum(x.size for x in jax.tree.leaves(jax.eval_shape(made.init, KEY)))

    assert size() == size(stream=512) == 1_693_362


def test_dueling_advantages_have_mean_zero_over_legal_actions():
    spec = env().spec
    made = q_network.make(spec, NETWORK, 2, q_network.Head(dueling=True))
    params = jax.device_get(jax.jit(batch_draws(made.init))(KEY))
    obs, task = {"vector": np.ones((1, *spec.obs["vector"].shape))}, np.zeros(1, int)
    value = params["value"]
    params["value"] = {"kernel": 0 * value["kernel"], "bias": value["bias"] + 7.0}
    apply = jax.jit(made.apply)
    both = np.asarray(apply(params, obs, task, np.ones((1, 2), bool)))
    np.testing.assert_allclose(both.mean(1), [[7.0]], rtol=1e-5)
    only = np.asarray(apply(params, obs, task, np.array([[True, False]])))
    np.testing.assert_allclose(only[:, 0], [[7.0]], rtol=1e-5)


@pytest.mark.parametrize("dueling", [False, True])
def test_a_tasks_value_moves_its_own_last_layer_alone(dueling):
    """Of two tasks' heads the other's gradient is exactly 0; the torso is shared."""
    kind = q_network.QNetworkConfig(hidden=(8,), per_task=True)
    spec = env().spec
    spec = spec._replace(tasks=spec.tasks * 2)
    outputs, actions = 2, spec.action.n
    made = q_network.make(spec, kind, actions, q_network.Head(outputs, dueling))
    params = jax.jit(batch_draws(made.init))(KEY)
    obs = {k: np.ones((1, *x.shape), x.dtype) for k, x in spec.obs.items()}
    legal = np.ones((1, actions), bool)

    @jax.jit
    @jax.grad
    def slope(params, task):
        q = made.apply(params, obs, task[None], legal)
        assert q.shape == (1, actions, outputs)
        return q[0, 0].sum()

    for task in (0, 1):
        found = jax.device_get(slope(params, np.int32(task)))
        assert any(np.any(x) for x in jax.tree.leaves(found["torso"]))
        for name, rows in [("advantage", actions), ("value", 1)][: 1 + dueling]:
            kernel = np.abs(found[name]["kernel"]).reshape(8, 2, rows, outputs)
            assert kernel[:, task].max() > 0 == kernel[:, 1 - task].max(), name


def test_noise_has_the_layers_moments():
    """Mean: the mean weights; variance of f(ε) factors E|ε|² = 2/π; 0 without a scale."""
    layer = noisy.NoisyDense(3, place=0)
    x = np.broadcast_to(np.float32([1.0, -2.0]), (100_000, 2))
    params = jax.device_get(jax.jit(layer.init)(KEY, x[:1], noisy.Noise(KEY)))
    apply = jax.jit(lambda *args: layer.apply(params, args[0], noisy.Noise(*args[1:])))
    out, mean = np.asarray(apply(x, KEY)), np.asarray(apply(x[:1], KEY, 0.0))
    p = params["params"]
    np.testing.assert_allclose(mean, x[:1] @ p["kernel"] + p["bias"][None], rtol=1e-5)
    np.testing.assert_allclose(out.mean(0), mean[0], atol=0.02)
    # Var = E f² (σ² Σ x² E f² + σ_b²), E f² = E|ε| = √(2/π), σ = 0.5 / √2.
    f2, sigma2 = (2 / np.pi) ** 0.5, 0.25 / 2
    expected = f2 * sigma2 * (5 * f2 + 1)
    np.testing.assert_allclose(out.var(0), expected, rtol=0.03)
    assert len(np.unique(np.asarray(out)[:, 0])) > 90_000


def test_a_batch_that_is_learned_from_has_one_noise():
    """All rows have the same weights: those that a row of its own would have by that key."""
    layer = noisy.NoisyDense(3, place=0)
    params = jax.jit(layer.init)(KEY, np.zeros((1, 2), np.float32), noisy.Noise(KEY))
    x = np.float32([[0, 0], [1, 0], [0, 1], [3, -2]])

    @functools.partial(jax.jit, static_argnames="each")
    def said(x, key, each):
        return layer.apply(params, x, noisy.Noise(key, 0.7, each))

    for key in jax.random.split(KEY, 3):
        out = jax.device_get(said(x, key, False))
        of_row = [said(row[None], key, True)[0] for row in x]
        np.testing.assert_allclose(out, of_row, rtol=1e-5, atol=1e-6)
        zero, one, two, sum_ = out
        np.testing.assert_allclose(sum_, zero + 3 * (one - zero) - 2 * (two - zero), atol=1e-5)  # fmt: skip
        assert np.abs(out - jax.device_get(said(x, key, True)))[1:].min() > 1e-4


@pytest.mark.parametrize(("stream", "layers"), [(0, 2), (5, 4)])
def test_each_noisy_layer_of_a_network_has_noise_of_its_own(
    stream, layers, monkeypatch
):
    """Two of one place would be moved by the same draw."""
    places, layer = [], noisy.NoisyDense

    def noted(size, place, name):
        places.append(place)
        return layer(size, place, name=name)

    monkeypatch.setattr(noisy, "NoisyDense", noted)
    config = q_network.QNetworkConfig(hidden=(8,), stream=stream)
    head = q_network.Head(dueling=True, noisy=True)
    jax.eval_shape(q_network.make(env().spec, config, 2, head).init, KEY)
    assert len(places) == len(set(places)) == layers


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distribution": "c51"}, "distribution: 'c51' is not known.*categorical"),
        ({"n_step": 0}, "n_step: got 0"),
        ({"atoms": 1}, "atoms: got 1, give at least 2"),
        ({"gradient_steps": 0}, "gradient_steps: got 0"),
        ({"learning_starts": -1}, "learning_starts: got -1"),
        ({"frames": 2}, "frames: 2 given, but there is no image"),
        ({"optimiser": "sgd"}, "optimiser: unknown 'sgd'"),
        ({"loss": "l1"}, "loss: 'l1' is not known.*squared"),
        ({"loss": "squared"}, "loss: 'squared' is of a mean.*distribution: none"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        rainbow.make(env().spec, rainbow.Config(**changes))
