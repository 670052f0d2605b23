"""The causal transformer: what it sees, how it acts, padding, populations, dropout."""

import dataclasses
import functools

import crossing
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import token_steps

from mtrl_jax import tree, types
from mtrl_jax.engine.batched_draws import batch_draws
from mtrl_jax.networks import layers
from mtrl_jax.networks.transformers import transformer

T, B, N = 7, 2, 3
CONFIG = transformer.TransformerConfig(
    layers=2, width=8, heads=2, feedforward=12, context=3
)
of = jax.jit(token_steps.of)
ENCODINGS = ("step", "triple")
POSITIONS = ("rotary", "learned")
DISCRETE = types.Discrete(4)


def _spec(space=DISCRETE, obs=None):
    obs = obs or {"vector": jax.ShapeDtypeStruct((N,), jnp.float32)}
    return types.EnvSpec(obs, space, (types.TaskSpec("task", obs, space),))


def _transitions(seed=0, length=T, space=DISCRETE):
    """Random (obs, action, reward, done), each [T, B]."""
    rng = np.random.default_rng(seed)
    shape = (length, B)
    if isinstance(space, types.Discrete):
        action = rng.integers(0, space.n, shape)
    else:
        action = np.stack([rng.integers(0, n, shape) for n in space.sizes], -1)
    obs = {"vector": rng.normal(size=(*shape, N)).astype(np.float32)}
    reward = rng.normal(size=shape).astype(np.float32)
    return [obs, action.astype(np.int32), reward, rng.random(shape) < 0.3]


def _steps(**kwargs):
    return jax.device_get(of(*_transitions(**kwargs)))


def _padded(where, seed=1):
    """Returns as many steps as ``where`` alone, and at these of T with noise between."""
    steps, noise = _steps(length=len(where)), _steps(seed=seed)
    live = np.repeat(np.isin(np.arange(T), where)[:, None], B, 1)

    def put(x, y):
        y = y.copy()
        y[where] = x
        return y

    return steps, jax.tree.map(put, steps, noise)._replace(live=live)


@functools.cache
def _made(**changes):
    """A network whose heads are large enough for logits to tell inputs apart."""
    net = transformer.make(_spec(), dataclasses.replace(CONFIG, **changes))
    params = jax.device_get(jax.jit(batch_draws(net.init))(jax.random.key(0)))
    policy = jax.tree.map(lambda x: 100.0 * x, params["policy"])
    net = net._replace(unroll=jax.jit(net.unroll, static_argnames="window"))
    return net, {**params, "policy": policy}


def _whole(net, params, steps, *args, **kwargs):
    """Logits [T, B, M] of the whole history at once."""
    return np.asarray(net.unroll(params, steps, *args, **kwargs))


@functools.cache
def _acting(net):
    """Returns the compiled function (params, steps) -> logits of ``_act``."""

    def act(params, steps):
        def one(cache, now):
            logits, cache = net.step(params, cache, now)
            return cache, logits

        return jax.lax.scan(one, net.initial_cache(B), steps)[1]

    return jax.jit(act)


def _act(net, params, steps):
    """Logits [T, B, M] of one step after another."""
    return np.asarray(_acting(net)(params, steps))


def _change(transitions, field, t):
    """Transitions with one field of step t changed."""
    changed, at = list(transitions), (np.arange(T) == t)[:, None]
    if field == 0:
        changed[0] = {"vector": transitions[0]["vector"] + at[..., None]}
    elif field == 1:
        changed[1] = (transitions[1] + at) % 4
    elif field == 2:
        changed[2] = transitions[2] + at
    else:
        changed[3] = transitions[3] ^ at
    return of(*changed)


def _affected(net, params, field, t, window):
    transitions = _transitions()
    before = _whole(net, params, of(*transitions), window=window)
    after = _whole(net, params, _change(transitions, field, t), window=window)
    return np.abs(after - before).max(axis=(1, 2)) > 1e-5


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_logits_see_all_that_came_before_and_nothing_after_the_observation(encoding):
    """o_t reaches logits from t on; a_t, r_t and done_t from t + 1 on."""
    net, params = _made(encoding=encoding)
    for t in (0, 3):
        for field, first in ((0, t), (1, t + 1), (2, t + 1), (3, t + 1)):
            expected = np.arange(T) >= first
            seen = _affected(net, params, field, t, window=T)
            np.testing.assert_array_equal(seen, expected, err_msg=f"{field} {t}")


def test_an_action_after_an_observation_never_reaches_its_own_prediction_in_triples():
    """With a window of one step, the o token sees neither actions nor rewards."""
    net, params = _made(encoding="triple")
    for field in (1, 2, 3):
        assert not _affected(net, params, field, 2, window=1).any()
    np.testing.assert_array_equal(
        _affected(net, params, 0, 2, window=1), np.arange(T) == 2
    )


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_history_of_one_step_is_memoryless(encoding):
    """Alone, a step gives what it gives in a batch of others: nothing is before it."""
    net, params = _made(encoding=encoding)
    transitions = _transitions()
    alone = [jax.tree.map(lambda x, t=t: x[t : t + 1], transitions) for t in (0, 4)]
    moved = [alone[1][0], *alone[0][1:]]  # other actions, rewards, ends
    one = _whole(net, params, of(*alone[1]))
    other = _whole(net, params, of(*moved))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("encoding", "layers"), crossing.crossed(ENCODINGS, [3, 1]))
def test_cached_acting_equals_the_banded_forward_before_and_after_eviction(
    encoding, layers
):
    """step equals unroll of the whole history with a band of ``context`` steps."""
    net, params = _made(encoding=encoding, layers=layers)
    steps = _steps()
    whole = _whole(net, params, steps)
    assert np.abs(whole - _whole(net, params, steps, window=T))[3:].max() > 1e-3
    np.testing.assert_allclose(_act(net, params, steps), whole, atol=1e-4)


@pytest.mark.parametrize(
    ("encoding", "positions"), crossing.crossed(ENCODINGS, POSITIONS)
)
def test_recomputed_acting_equals_the_forward_over_the_last_steps(encoding, positions):
    """What training on windows of ``context`` steps computes at their last step.

    As there (``algorithm_distillation.steps_of``), nothing is known before the first.
    """
    net, params = _made(encoding=encoding, positions=positions, acting="recompute")
    steps = _steps()
    acted = _act(net, params, steps)
    for t in range(T):
        window = jax.tree.map(lambda x, t=t: x[max(0, t - 2) : t + 1], steps)
        is_first = (np.arange(len(window.has_prev)) == 0)[:, None]
        window = window._replace(has_prev=window.has_prev & ~is_first)
        np.testing.assert_allclose(
            acted[t], _whole(net, params, window)[-1], atol=1e-4, err_msg=str(t)
        )


def test_learned_positions_differ_and_refuse_what_they_cannot_reach():
    """Learned positions count from the window's start and end with the context."""
    net, params = _made(positions="learned")
    steps = jax.tree.map(lambda x: x[:3], _steps())
    shifted = {**params, "positions": params["positions"][::-1]}
    assert np.abs(_whole(net, params, steps) - _whole(net, shifted, steps)).max() > 1e-3
    with pytest.raises(ValueError, match="learned positions end after context=3"):
        _whole(net, params, _steps())


@pytest.mark.parametrize(
    ("encoding", "positions"), crossing.crossed(ENCODINGS, POSITIONS)
)
def test_padding_is_as_if_absent_wherever_it_stands(encoding, positions):
    """Live steps give the logits of the history without padding, whatever it holds."""
    net, params = _made(encoding=encoding, positions=positions, context=T)
    where = [1, 3, 4]
    steps, padded = _padded(where)
    expected = _whole(net, params, steps)
    np.testing.assert_allclose(_whole(net, params, padded)[where], expected, atol=1e-5)
    np.testing.assert_allclose(_act(net, params, padded)[where], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("encoding", "acting"), crossing.crossed(ENCODINGS, ["cache", "recompute"])
)
def test_the_window_counts_live_steps_only(encoding, acting):
    """Past eviction, a slot with padding in between is the slot without."""
    net, params = _made(encoding=encoding, acting=acting)
    where = [0, 2, 3, 5, 6]
    steps, padded = _padded(where)
    for run in (_whole, _act):
        np.testing.assert_allclose(
            run(net, params, padded)[where], run(net, params, steps), atol=1e-4
        )


@pytest.mark.parametrize("acting", ["cache", "recompute"])
def test_a_slot_can_begin_anew_while_others_go_on(acting):
    """tree.where with a fresh cache forgets the slots asked for and no other."""
    net, params = _made(acting=acting)
    steps = _steps()
    step = jax.jit(net.step)
    cache = empty = jax.jit(lambda: net.initial_cache(B))()
    for t in range(4):
        cache = step(params, cache, jax.tree.map(lambda x, t=t: x[t], steps))[1]
    renewed = jax.jit(tree.where)(np.array([True, False]), empty, cache)
    now = jax.tree.map(lambda x: x[4], steps)
    fresh, old, new = (
        np.asarray(step(params, c, now)[0]) for c in (empty, cache, renewed)
    )
    np.testing.assert_allclose(new[0], fresh[0], atol=1e-5)
    np.testing.assert_array_equal(new[1], old[1])
    assert np.abs(new[0] - old[0]).max() > 1e-3


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_permuting_actions_in_data_and_head_permutes_the_logits(encoding):
    """No action is special: its number only picks a row of the kernels."""
    net, params = _made(encoding=encoding)
    transitions = _transitions()
    order = np.asarray([2, 0, 3, 1])  # new action i was order[i]
    renamed = [*transitions]
    renamed[1] = np.argsort(order)[transitions[1]]
    # Rows of the one-hot action: all of "action", or those after the observation.
    name, at = ("action", 0) if encoding == "triple" else ("observation", N)
    kernel = params["tokens"][name]["kernel"].copy()
    kernel[at : at + 4] = kernel[at : at + 4][order]
    tokens = {**params["tokens"], name: {**params["tokens"][name], "kernel": kernel}}
    policy = jax.tree.map(lambda x: x[..., order], params["policy"])
    permuted = {**params, "tokens": tokens, "policy": policy}
    np.testing.assert_allclose(
        _whole(net, permuted, of(*renamed)),
        _whole(net, params, of(*transitions))[..., order],
        atol=1e-5,
    )


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_member_of_a_population_equals_its_solo_run(encoding):
    """vmap over parameters, keys and caches changes no member."""
    net, _ = _made(encoding=encoding)
    keys = jax.random.split(jax.random.key(1), 2)
    params = jax.device_get(jax.jit(jax.vmap(batch_draws(net.init)))(keys))
    steps = _steps()
    logits = np.asarray(jax.jit(jax.vmap(net.unroll, (0, None)))(params, steps))
    acted = np.asarray(jax.jit(jax.vmap(_acting(net), (0, None)))(params, steps))
    alone = _whole(net, jax.tree.map(lambda x: x[1], params), steps)
    np.testing.assert_allclose(logits[1], alone, atol=1e-5)
    np.testing.assert_allclose(acted[1], alone, atol=1e-5)
    assert np.abs(logits[0] - logits[1]).max() > 1e-4


@pytest.mark.parametrize("rate", ["dropout", "attention_dropout", "embedding_dropout"])
def test_each_dropout_acts_with_a_key_only(rate):
    """Without a key logits are those without dropout; with one they follow the key."""
    plain, params = _made()
    net, _ = _made(**{rate: 0.5})
    steps = _steps()
    np.testing.assert_array_equal(
        _whole(net, params, steps), _whole(plain, params, steps)
    )
    one, same, other = (
        _whole(net, params, steps, jax.random.key(i)) for i in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3
    assert np.abs(one - _whole(net, params, steps)).max() > 1e-3


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_gradients_are_finite_with_a_fully_padded_slot_and_reach_every_parameter(
    encoding,
):
    """Padding gives neither NaN nor gradient; every kernel is learnt."""
    net, params = _made(encoding=encoding)
    steps = _steps()._replace(live=np.array([[True, False]] * T))

    def loss(params, steps):
        return jnp.sum(jnp.square(net.unroll(params, steps)[:, 0]))

    grads = jax.device_get(jax.jit(jax.grad(loss))(params, steps))
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(leaf).all()
        # A key's bias moves all logits of a query alike, which softmax ignores.
        assert np.abs(leaf).max() > 1e-9, jax.tree_util.keystr(path)


@pytest.mark.parametrize("acting", ["cache", "recompute"])
def test_bfloat16_is_close_to_float32(acting, monkeypatch):
    """Products and cache in bfloat16, as on an accelerator; logits in float32."""
    monkeypatch.setattr(layers, "fast_dtype", str)
    exact, params = _made(acting=acting)
    half, _ = _made(acting=acting, dtype="bfloat16")
    steps = _steps()
    expected = _whole(exact, params, steps)
    for logits in (_whole(half, params, steps), _act(half, params, steps)):
        assert logits.dtype == jnp.float32
    difference = np.abs(_whole(half, params, steps) - expected).max()
    assert 0 < difference < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_images_and_factorised_actions_are_read(encoding):
    """A convolutional torso and several groups of actions; logits of all choices."""
    space = types.Factorised((3, 2))
    obs = {"image": jax.ShapeDtypeStruct((5, 5, 2), jnp.uint8)}
    config = dataclasses.replace(CONFIG, encoding=encoding)
    net = transformer.make(_spec(space, obs), config)
    image = np.random.default_rng(0).integers(0, 255, (T, B, 5, 5, 2))
    steps = of({"image": image.astype(np.uint8)}, *_transitions(space=space)[1:])
    params = jax.jit(batch_draws(net.init))(jax.random.key(0))
    logits = jax.jit(net.unroll)(params, steps)
    assert logits.shape == (T, B, 5)
    np.testing.assert_allclose(_act(net, params, steps), logits, atol=1e-5)


def test_transitions_become_steps_without_leak_over_padding():
    """Each step knows the one before it; after padding there is none."""
    obs, action, reward, done = _transitions()
    live = np.ones((T, B), bool)
    live[2] = False
    steps = jax.device_get(of(obs, action, reward, done, live))
    np.testing.assert_array_equal(steps.prev_action[1:], action[:-1])
    np.testing.assert_array_equal(steps.prev_reward[1:], reward[:-1])
    np.testing.assert_array_equal(steps.prev_done[1:], done[:-1])
    expected = [False, True, True, False, True, True, True]
    np.testing.assert_array_equal(steps.has_prev[:, 0], expected)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("encoding", "pairs"),
        ("positions", "sinusoidal"),
        ("acting", "guess"),
        ("attention", "flash"),
        ("dtype", "float16"),
        ("layers", 0),
        ("context", 0),
        ("dropout", 1.0),
        ("hidden", (0,)),
        ("width", 6),
    ],
)
def test_a_wrong_field_is_refused_by_name(field, value):
    """One line that names the field and what was given."""
    config = dataclasses.replace(CONFIG, **{field: value})
    with pytest.raises(
        ValueError, match=rf"^{field}: .*{value if field != 'hidden' else '0'}"
    ):
        transformer.make(_spec(), config)


def test_combinations_that_cannot_work_are_refused():
    """A cache under learned positions, and continuous actions."""
    config = dataclasses.replace(CONFIG, positions="learned", acting="cache")
    with pytest.raises(ValueError, match="acting: 'cache' with learned positions"):
        transformer.make(_spec(), config)
    with pytest.raises(ValueError, match="is continuous"):
        transformer.make(_spec(types.Box((-1.0,), (1.0,))), CONFIG)
