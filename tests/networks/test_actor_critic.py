"""The whole network: shapes, memory, inputs, populations."""

import dataclasses

import crossing
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import types
from mtrl_jax.engine.batched_draws import batch_draws
from mtrl_jax.networks import actor_critic, components, cores, heads, torsos

T, B = 4, 3
VECTOR = jax.ShapeDtypeStruct((5,), jnp.float32)
SMALL = jax.ShapeDtypeStruct((10, 10, 2), jnp.uint8)
LARGE = jax.ShapeDtypeStruct((40, 36, 3), jnp.uint8)
SPACES = [
    types.Discrete(4),
    types.Factorised((3, 2)),
    types.Box((-1.0, 0.0), (1.0, 4.0)),
]


def _spec(obs, space, tasks=2):
    task = types.TaskSpec("task", obs, space)
    return types.EnvSpec(obs, space, (task,) * tasks)


def _steps(spec, seed=0):
    """A random TimeStep [T, B] without episode ends, and the actions before it."""
    rng = np.random.default_rng(seed)

    def leaf(struct):
        if struct.dtype == jnp.uint8:
            return rng.integers(0, 255, (T, B, *struct.shape)).astype(np.uint8)
        return rng.normal(size=(T, B, *struct.shape)).astype(np.float32)

    size = types.action_mask_size(spec.action)
    ts = types.TimeStep(
        obs={name: leaf(struct) for name, struct in spec.obs.items()},
        reward=rng.normal(size=(T, B)).astype(np.float32),
        discount=np.ones((T, B), np.float32),
        first=np.zeros((T, B), bool),
        last=np.zeros((T, B), bool),
        task=rng.integers(0, len(spec.tasks), (T, B)).astype(np.int32),
        action_mask=np.ones((T, B, size), bool),
    )
    struct = types.action_shape(spec.action)
    if struct.dtype == jnp.int32:
        action = rng.integers(0, 2, (T, B, *struct.shape))
    else:
        action = rng.uniform(0, 1, (T, B, *struct.shape))
    return ts, action.astype(struct.dtype)


def _begun(network, seed=0):
    """Returns (parameters, state) at the start."""

    def begin(key):
        return batch_draws(network.init)(key), network.initial_state(B)

    return jax.device_get(jax.jit(begin)(jax.random.key(seed)))


def _network(spec, seed=0, **config):
    """A network, its parameters (log_std and all, moved off their start), its state."""
    network = actor_critic.make(spec, actor_critic.NetworkConfig(**config))
    params, state = _begun(network, seed)
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda p: p + (0.1 * rng.normal(size=p.shape)).astype(p.dtype), params
    )
    return network, params, state


def _unroll(network):
    """Returns ``network.unroll``, compiled, with numpy's arrays as outputs."""
    unroll = jax.jit(network.unroll)
    return lambda *args: jax.device_get(unroll(*args))


@pytest.mark.parametrize(
    ("torso", "core", "space"), crossing.crossed(torsos.TORSOS, cores.CORES, SPACES)
)
def test_every_torso_core_and_space_go_together(torso, core, space):
    """Policy parameters [T, B, size], values [T, B], a state like the initial one."""
    obs = {"image": LARGE, "vector": VECTOR}
    spec = _spec(obs, space)
    config = actor_critic.NetworkConfig(torso=torso, core=core, task_embedding=True)
    network = actor_critic.make(spec, config)
    state = jax.eval_shape(lambda: network.initial_state(B))
    params = jax.eval_shape(network.init, jax.random.key(0))
    assert type(params) is dict
    ts, action = _steps(spec)
    out, new_state = jax.eval_shape(network.unroll, params, state, ts, action)
    assert out.policy.shape == (T, B, heads.policy_params_size(space))
    assert out.value.shape == (T, B)
    assert out.policy.dtype == out.value.dtype == jnp.float32
    same = jax.tree.map(lambda a, b: a.shape == b.shape, state, new_state)
    assert all(jax.tree.leaves(same))


def test_values_of_several_tasks_get_an_axis():
    """num_values adds a last axis, also for one value."""
    spec = _spec({"vector": VECTOR}, SPACES[0])
    for n in (1, 3):
        network = actor_critic.make(spec, num_values=n)
        params = jax.eval_shape(network.init, jax.random.key(0))
        ts, action = _steps(spec)
        state = network.initial_state(B)
        out, _ = jax.eval_shape(network.unroll, params, state, ts, action)
        assert out.value.shape == (T, B, n)
        assert params["value"]["kernel"].shape[-1] == n


@pytest.mark.parametrize("space", SPACES)
def test_nothing_before_a_first_step_is_seen_after_it(space):
    """State, observations, last action and reward of the old episode have no effect."""
    spec = _spec({"vector": VECTOR}, space)
    network, params, state = _network(spec, core="lstm", core_size=8)
    ts, action = _steps(spec)
    ts.first[2, 0] = True
    changed, changed_action = jax.tree.map(np.copy, (ts, action))
    changed.obs["vector"][:2] += 1.0
    changed.reward[:3] += 0.3
    changed_action[:3] = 1 - action[:3]
    old_state = jax.tree.map(lambda s: s + 1.0, state)
    unroll = _unroll(network)
    a, _ = unroll(params, state, ts, action)
    b, _ = unroll(params, old_state, changed, changed_action)
    np.testing.assert_array_equal(a.policy[2:, 0], b.policy[2:, 0])
    np.testing.assert_array_equal(a.value[2:, 0], b.value[2:, 0])
    assert np.all(np.abs(a.value[:2] - b.value[:2]) > 1e-5)
    assert np.all(np.abs(a.value[2:, 1:] - b.value[2:, 1:]) > 1e-6)


@pytest.mark.parametrize("space", SPACES)
def test_last_action_reward_and_task_are_inputs_only_if_asked_for(space):
    """Each changes the value when it is on and nothing when it is off."""
    spec = _spec({"vector": VECTOR}, space)
    ts, action = _steps(spec)
    variants = {
        "reward": (ts._replace(reward=-ts.reward), action),
        "action": (ts, 1 - action),
        "task": (ts._replace(task=1 - ts.task), action),
    }
    for is_on in (True, False):
        network, params, state = _network(
            spec, last_action_reward=is_on, task_embedding=is_on
        )
        unroll = _unroll(network)
        value = unroll(params, state, ts, action)[0].value
        for inputs in variants.values():
            other = unroll(params, state, *inputs)[0].value
            assert np.all((value != other) == is_on)


def test_the_last_reward_is_clipped():
    """Rewards beyond 1 look like 1, so that no task's scale reaches the network."""
    spec = _spec({"vector": VECTOR}, SPACES[0])
    network, params, state = _network(spec)
    ts, action = _steps(spec)
    unroll = _unroll(network)
    rewards = (np.full((T, B), r, np.float32) for r in (1.0, 1e6, 0.5))
    values = [
        unroll(params, state, ts._replace(reward=reward), action)[0].value
        for reward in rewards
    ]
    np.testing.assert_array_equal(values[0], values[1])
    assert np.all(values[0] != values[2])


@pytest.mark.parametrize(("core", "size"), [("none", 1), ("gru", 3)])
def test_a_population_equals_its_members_alone(core, size):
    """vmap over parameters gives each member's own outputs and gradients to 1e-5."""
    spec = _spec({"image": SMALL, "vector": VECTOR}, SPACES[1])
    config = actor_critic.NetworkConfig(core=core, core_size=8, hidden=(8,))
    network = actor_critic.make(spec, config)
    keys = jax.random.split(jax.random.key(0), size)
    params = jax.device_get(jax.jit(jax.vmap(batch_draws(network.init)))(keys))
    inputs = [_steps(spec, seed) for seed in range(size)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *inputs)

    def loss(params, ts, action):
        out, _ = network.unroll(params, network.initial_state(B), ts, action)
        dist = network.distribution(out.policy, ts.action_mask)
        total = jnp.sum(out.value**2) + jnp.sum(dist.log_prob(action) + dist.entropy())
        return total / (T * B), out

    grad = jax.grad(loss, has_aux=True)
    together = jax.device_get(jax.jit(jax.vmap(grad))(params, *stacked))
    alone = jax.jit(grad)
    for p in range(size):
        own = alone(jax.tree.map(lambda x, p=p: x[p], params), *inputs[p])
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(own)):
            np.testing.assert_allclose(a[p], b, rtol=1e-5, atol=1e-5)


def test_the_first_policy_is_nearly_uniform_and_values_are_not_tied_to_it():
    """Gain 0.01 of the policy head; a Box starts with std 1 in normalised units."""

    def first(space):
        spec = _spec({"vector": VECTOR}, space)
        network = actor_critic.make(spec)

        def act(params, state, ts, action):
            out, _ = network.unroll(params, state, ts, action)
            return out, network.distribution(out.policy, ts.action_mask).entropy()

        return jax.device_get(jax.jit(act)(*_begun(network), *_steps(spec)))

    out, entropy = first(SPACES[0])
    np.testing.assert_allclose(entropy, np.log(4), atol=1e-3)
    assert np.std(out.value) > 0.05

    out, entropy = first(SPACES[2])
    np.testing.assert_array_equal(out.policy[..., 2:], 0.0)
    expected = np.log([1.0, 2.0]) + 0.5 * np.log(2 * np.pi * np.e)
    np.testing.assert_allclose(entropy, expected.sum(), rtol=1e-5)


def test_parameters_do_not_alias():
    """Every leaf has a buffer of its own: donating one must not free another."""
    spec = _spec({"image": SMALL, "vector": VECTOR}, SPACES[2])
    config = actor_critic.NetworkConfig(core="lstm", core_size=8, hidden=(8, 8))
    network = actor_critic.make(spec, config)
    for init in (network.init, jax.jit(batch_draws(network.init))):
        leaves = jax.tree.leaves(init(jax.random.key(0)))
        leaves += jax.tree.leaves(network.initial_state(2))
        assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)


@pytest.mark.parametrize("core", cores.CORES)
def test_a_separate_value_shares_no_parameter_with_the_policy(core):
    """The gradient of the value leaves the policy's torso and core alone, and the reverse."""
    spec = _spec({"vector": VECTOR}, SPACES[0])
    network, params, state = _network(spec, separate_value=True, core=core, core_size=8)
    ts, action = _steps(spec)

    def touched(part):
        def total(params):
            out, _ = network.unroll(params, state, ts, action)
            return jnp.sum(getattr(out, part))

        grads = jax.device_get(jax.jit(jax.grad(total))(params))
        return {
            k for k, g in grads.items() if any(np.any(x) for x in jax.tree.leaves(g))
        }

    has_core = core != "none"
    assert touched("policy") == {"torso", "policy"} | ({"core"} if has_core else set())
    value_core = {"value_core"} if has_core else set()
    assert touched("value") == {"value_torso", "value"} | value_core


def _components(config):
    """Returns two components with a torso in common and cores of their own."""
    spec = _spec({"vector": VECTOR}, SPACES[0])
    pair = (components.Component(core="linear"), components.Component(core="gru"))
    return components.make(spec, config, pair, ("torso",))


@pytest.mark.parametrize(
    ("made", "core", "separate_value"),
    crossing.crossed(
        [actor_critic.make, _components], ["lstm", "gru", "linear"], [False, True]
    ),
)
def test_step_by_step_is_the_whole_unroll_and_episodes_are_separate(
    made, core, separate_value
):
    """With skip and a separate value too, also of components: to rounding."""
    spec = _spec({"vector": VECTOR}, SPACES[0])
    config = actor_critic.NetworkConfig(
        hidden=(8,), core=core, core_size=4, skip=True, separate_value=separate_value
    )
    network = _components(config) if made is _components else made(spec, config)
    params, start = _begun(network, seed=1)
    ts, action = _steps(spec)
    ts.first[2] = True
    unroll = _unroll(network)
    whole, end = unroll(params, start, ts, action)
    state, seen = start, []
    for t in range(T):
        one, now = jax.tree.map(lambda x, t=t: x[t : t + 1], (ts, action))
        out, state = unroll(params, state, one, now)
        seen.append(out)
    together = jax.tree.map(lambda *x: np.concatenate(x), *seen)
    _close((whole, end), (together, state))
    second = jax.tree.map(lambda x: x[2:], (ts, action))
    alone, end_alone = unroll(params, start, *second)
    _close((jax.tree.map(lambda x: x[2:], whole), end), (alone, end_alone))


def _close(x, y):
    assert jax.tree.structure(x) == jax.tree.structure(y)
    for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_separate_value_remembers_for_itself():
    """A memory each, and the policy's does not reach the value."""
    spec = _spec({"vector": VECTOR}, SPACES[0])
    network, params, state = _network(
        spec, separate_value=True, core="lstm", core_size=8
    )
    assert set(state) == {"torso/core", "value_torso/value_core"}
    ts, action = _steps(spec)
    other = state | {"torso/core": jax.tree.map(lambda x: x + 1.0, state["torso/core"])}
    unroll = _unroll(network)
    a, b = (unroll(params, s, ts, action)[0] for s in (state, other))
    np.testing.assert_array_equal(a.value, b.value)
    assert np.all(np.abs(a.policy - b.policy) > 1e-7)


def test_components_share_a_separate_value_as_they_share_the_policys_torso():
    """And what has no core, beside one that has, has nothing to skip."""
    spec = _spec({"vector": VECTOR}, SPACES[0])
    config = actor_critic.NetworkConfig(
        hidden=(8,), core_size=4, skip=True, separate_value=True
    )
    pair = (components.Component(), components.Component(core="lstm"))
    network = components.make(spec, config, pair, ("torso",))
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    shared = {"torso", "value_torso", "core_1", "value_core_1"}
    heads_ = {"policy_0", "policy_1", "value_0", "value_1"}
    assert set(shapes) == shared | heads_
    assert shapes["policy_0"]["policy"]["kernel"].shape[0] == 8
    assert shapes["value_1"]["value"]["kernel"].shape[0] == 8 + 4
    with pytest.raises(ValueError, match="skip: there is no core"):
        components.make(spec, config, pair[:1], ("torso",))


def test_with_a_skip_the_heads_read_features_and_memory():
    """With the memory's output shut off by the heads, the features still decide."""
    spec = _spec({"vector": VECTOR}, SPACES[0])
    ts, action = _steps(spec)
    other = jax.tree.map(np.copy, ts)
    other.obs["vector"][-1] += 1.0
    for skip in (True, False):
        network, params, state = _network(spec, core="lstm", core_size=8, skip=skip)
        for head in ("policy", "value"):
            # The last rows of a head's kernel are those of the core's output.
            kernel = params[head]["kernel"]
            kernel[-8:] = 0.0
            assert kernel.shape[0] == (64 + 8 if skip else 8)
        unroll = _unroll(network)
        a, _ = unroll(params, state, ts, action)
        b, _ = unroll(params, state, other, action)
        np.testing.assert_array_equal(a.value[:-1], b.value[:-1])
        assert np.all((a.value[-1] != b.value[-1]) == skip)
        assert np.all((a.policy[-1] != b.policy[-1]) == skip)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "sine"}, "activation: 'sine'.*tanh"),
        ({"core": "rnn"}, "core: 'rnn'.*lstm"),
        ({"convolution": "fft"}, "convolution: 'fft'"),
        ({"dtype": "float16"}, "dtype: 'float16'"),
        ({"dtype": "bfloat16", "sharing": "experts"}, "dtype: 'bfloat16'.*'hard'"),
        ({"hidden": ()}, r"hidden: got \(\)"),
        ({"hidden": (64, 0)}, r"hidden: got \(64, 0\)"),
        ({"core_size": 0}, "core_size: got 0"),
        ({"core": "lstm", "core_memory": 1}, "core_memory: got 1.*2 steps"),
        ({"core_memory": 100}, "core_memory: core 'none' has no memory.*'lstm'"),
        ({"torso": "vit"}, "torso: 'vit'"),
        ({"skip": True}, "skip: there is no core.*lstm"),
    ],
)
def test_config_fields_that_cannot_work_are_named(change, message):
    """A ValueError at make time names the field, what was given, what would work."""
    spec = _spec({"vector": VECTOR}, SPACES[0])
    config = dataclasses.replace(actor_critic.NetworkConfig(), **change)
    with pytest.raises(ValueError, match=message):
        actor_critic.make(spec, config)
