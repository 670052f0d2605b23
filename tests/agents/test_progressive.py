"""Progressive columns: what is frozen, what is read, and what rests on it."""

import jax
import numpy as np
import pytest
import scipy.special

from mtrl_jax import types
from mtrl_jax.agents import progressive as agent
from mtrl_jax.agents.common import learning
from mtrl_jax.engine.batched_draws import batch_draws
from mtrl_jax.networks import lateral_columns as networks

KEY = jax.random.key(0)
MODULE = networks.Columns((5, 4), 3, 1)
X = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
LEGAL = np.ones((40, 3), bool)
FEW = np.arange(3)[None] != np.arange(40)[:, None] % 4  # of some all
run = jax.jit(networks.run, static_argnums=0)
sensitivities = jax.jit(networks.sensitivities, static_argnums=0)


def init(module, columns):
    """Returns (frozen columns, last column) as numpy arrays."""
    made = batch_draws(lambda key: networks.init(module, key, columns, X[:1]))
    return jax.device_get(jax.jit(made)(KEY))


@pytest.fixture(name="columns", scope="module")
def _columns():
    """Returns (frozen columns, last column) of three, heads far from uniform."""
    frozen, last = init(MODULE, 3)
    loud = {
        name: jax.tree.map(lambda x: 100 * x, last[name])
        for name in ("policy", "lateral_policy")
    }
    return frozen, last | loud


def test_a_column_reads_the_layers_below_its_own_of_those_before(columns):
    """relu(W h + U relu(V [α h'])), at the heads too, in float64."""
    frozen, last = columns
    column, hidden = run(MODULE, frozen, last, X)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), last)
    before = [[np.asarray(h, np.float64) for h in x] for x in hidden[:2]]

    def dense(name, x):
        return x @ p[name]["kernel"] + p[name].get("bias", 0.0)

    def adapter(i):
        scaled = [a * h[i - 1] for a, h in zip(p[f"scale_{i}"], before)]
        return np.maximum(dense(f"adapter_{i}", np.concatenate(scaled, -1)), 0)

    h = np.maximum(dense("layer_0", np.asarray(X, np.float64)), 0)
    h = np.maximum(dense("layer_1", h) + dense("lateral_1", adapter(1)), 0)
    policy = dense("policy", h) + dense("lateral_policy", adapter(2))
    value = dense("value", h) + dense("lateral_value", adapter(2))
    np.testing.assert_allclose(column.policy, policy, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(column.value, value, rtol=1e-4, atol=1e-4)
    assert set(np.asarray(last["scale_1"])) <= set(np.float32(networks.SCALES))


def test_without_laterals_a_column_is_a_plain_network(columns):
    """U = 0: what came before does not matter; the first column has no laterals."""
    frozen, last = columns
    zero = {
        name: jax.tree.map(np.zeros_like, x) if name.startswith("lateral") else x
        for name, x in last.items()
    }
    column, _ = run(MODULE, frozen, zero, X)
    plain = {n: last[n] for n in ("layer_0", "layer_1", "policy", "value")}
    alone, _ = run(MODULE, [], plain, X)
    np.testing.assert_allclose(column.policy, alone.policy, rtol=1e-5, atol=1e-6)
    assert set(frozen[0]) == {"layer_0", "layer_1"}
    assert set(frozen[1]) == {*frozen[0], "lateral_1", "adapter_1", "scale_1"}
    shares = sensitivities(MODULE, frozen, zero, X, LEGAL)
    np.testing.assert_allclose(shares, [[0, 0], [0, 0], [1, 1]], atol=1e-6)


def test_a_column_has_the_parameters_that_its_layers_add_up_to(columns):
    """W, b, U, V and α of K = 3: laterals grow with the columns that are read."""
    frozen, last = columns
    (first, second), (width, n, m), heads = MODULE.hidden, (6, 5, 4), 3 + 1
    plain = (width + 1) * n + (n + 1) * m

    def laterals(before):
        below = before + before * n * n + n * m  # α, V and U of the second layer
        return below, before + before * m * m + m * heads  # and of the heads

    wanted = [plain, plain + laterals(1)[0]]
    wanted.append(plain + (m + 1) * heads + sum(laterals(2)))
    found = [sum(x.size for x in jax.tree.leaves(own)) for own in (*frozen, last)]
    # Each is drawn by itself.
    drawn = [own["layer_0"]["kernel"] for own in (*frozen, last)]
    assert len({x.tobytes() for x in drawn}) == 3
    assert found == wanted and (first, second) == (n, m)


@pytest.fixture(name="seeing", scope="module")
def _seeing():
    """Returns (module, frozen, last, inputs) of two columns with two convolutions."""
    convolutions = (
        networks.Convolution(3, (3, 2), 1),
        networks.Convolution(2, (2, 3), 2),
    )
    module = networks.Columns((4,), 3, 1, convolutions=convolutions)
    rng = np.random.default_rng(1)
    x = tuple(np.float32(rng.normal(size=n)) for n in ((5, 8, 9, 2), (5, 3)))
    made = batch_draws(lambda key: networks.init(module, key, 2, x))
    frozen, last = jax.device_get(jax.jit(made)(KEY))
    return module, frozen, last, x


def test_maps_are_projected_pixel_by_pixel_and_read_by_a_convolution(seeing):
    """relu(W * h + U * relu(V [α h'])), V a product at each pixel; in float64."""
    module, frozen, last, x = seeing
    column, hidden = run(module, frozen, last, x)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), last)
    before = [np.asarray(h, np.float64) for h in hidden[0]]

    def convolved(name, h, stride):
        kernel = p[name]["kernel"]
        kh, kw = kernel.shape[:2]
        seen = np.lib.stride_tricks.sliding_window_view(h, (kh, kw), axis=(1, 2))
        seen = seen[:, ::stride, ::stride]
        return np.einsum("nijcab,abco->nijo", seen, kernel) + p[name].get("bias", 0.0)

    def adapter(i):
        return np.maximum(p[f"scale_{i}"][0] * before[i - 1] @ p[f"adapter_{i}"]["kernel"], 0)  # fmt: skip

    def dense(name, h):
        return h.reshape(len(h), -1) @ p[name]["kernel"] + p[name].get("bias", 0.0)

    image, flat = (np.asarray(a, np.float64) for a in x)
    h = np.maximum(convolved("layer_0", image, 1), 0)
    h = np.maximum(
        convolved("layer_1", h, 2) + convolved("lateral_1", adapter(1), 2), 0
    )
    np.testing.assert_allclose(hidden[1][1], h, rtol=1e-4, atol=1e-5)
    joined = np.concatenate([h.reshape(len(h), -1), flat], -1)
    h = np.maximum(dense("layer_2", joined) + dense("lateral_2", adapter(2)), 0)
    policy = dense("policy", h) + dense("lateral_policy", adapter(3))
    np.testing.assert_allclose(column.policy, policy, rtol=1e-4, atol=1e-5)
    shares = sensitivities(module, frozen, last, x, LEGAL[:5])
    np.testing.assert_allclose(shares.sum(0), 1.0, rtol=1e-4)
    assert shares.shape == (2, 3) and (np.asarray(shares) > 0).all()


def test_the_papers_columns_have_its_numbers_of_parameters():
    """141,303 of one for Atari's 18 actions; adapters of 2 to 4 columns beside it."""
    module = networks.Columns(
        (256,), 18, 1, convolutions=networks.CONVOLUTIONS["atari"]
    )
    x = jax.ShapeDtypeStruct((1, 84, 84, 4), np.float32), np.zeros((1, 0), np.float32)

    def count(columns):
        made = jax.eval_shape(lambda x: networks.init(module, KEY, columns, x)[1], x)
        return sum(leaf.size for leaf in jax.tree.leaves(made))

    assert count(1) == 141_303
    assert [count(k) - count(1) for k in (2, 3, 4)] == [203_892, 269_864, 335_836]


@pytest.mark.parametrize("heads_only", [False, True])
def test_gradients_reach_the_last_column_alone_or_its_heads(columns, heads_only):
    """Columns before get none; with heads alone, their adapters and scales do as well."""
    frozen, last = columns
    module = MODULE.clone(heads_only=heads_only)

    @jax.jit
    def slopes(frozen, last):
        def total(frozen, last):
            column, _ = networks.run(module, frozen, last, X)
            return (column.policy**2).sum() + (column.value**2).sum()

        return jax.grad(total, argnums=(0, 1))(frozen, last)

    below, own = slopes(frozen, last)
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(below))
    heads = {"policy", "value", "lateral_policy", "lateral_value"}
    heads |= {"adapter_2", "scale_2"}
    moved = {n for n, x in own.items() if any(y.any() for y in jax.tree.leaves(x))}
    assert moved == (heads if heads_only else set(last))


def test_columns_before_may_change_places_with_their_adapters(columns):
    """Permuted together with α and the rows of V, the output stays."""
    frozen, last = columns
    _, hidden = run(MODULE, frozen, last, X)

    def swapped(name, x):
        if name.startswith("scale"):
            return x[::-1]
        if name.startswith("adapter"):
            half = x["kernel"].reshape(2, -1, x["kernel"].shape[-1])[::-1]
            return {"kernel": half.reshape(x["kernel"].shape)}
        return x

    turned = {name: swapped(name, x) for name, x in last.items()}
    apply = jax.jit(MODULE.apply)
    wanted = apply({"params": last}, X, hidden[:2])
    found = apply({"params": turned}, X, hidden[1::-1])
    np.testing.assert_allclose(found.policy, wanted.policy, rtol=1e-4, atol=1e-5)


def closed_form(frozen, last, legal):
    """Returns F of two columns of one layer: E Σ_a π (J_a − Σ_b π_b J_b)² var(h), [2].

    J of the column's own units is W; of those of the column before it is α V, past the
    adapter's ReLU, U.
    """
    x = np.float64(X)

    def layer(own):
        return np.maximum(x @ own["layer_0"]["kernel"] + own["layer_0"]["bias"], 0.0)

    before, own = layer(frozen), layer(last)
    into = last["scale_1"][0] * last["adapter_1"]["kernel"]
    out, read = last["lateral_policy"]["kernel"], before @ into
    head = last["policy"]
    logits = own @ head["kernel"] + head["bias"] + np.maximum(read, 0.0) @ out
    pi = scipy.special.softmax(np.where(legal, logits, -np.inf), axis=-1)
    assert pi.max(-1).mean() > 0.6  # not uniform
    slopes = (
        np.einsum("um,nm,ma->nua", into, read > 0, out),
        np.broadcast_to(head["kernel"], (len(x), *head["kernel"].shape)),
    )
    found = []
    for h, slope in zip((before, own), slopes):
        centred = slope - np.einsum("na,nua->nu", pi, slope)[..., None]
        found.append(np.mean(np.einsum("na,nua,u->n", pi, centred**2, h.var(0))))
    return np.array(found)


def test_the_fisher_sensitivity_is_its_closed_form():
    """Of linear heads on one layer, loud ones; a column that is not read has no share."""
    module = networks.Columns((5,), 3, 1)
    frozen, last = jax.device_get(init(module, 2))
    for name in ("policy", "lateral_policy"):
        last[name]["kernel"] = 300 * last[name]["kernel"]
    last["scale_1"] = np.float32([0.5])
    for legal in (FEW, LEGAL):
        wanted = closed_form(frozen[0], last, legal)
        assert wanted.min() > 0.01 * wanted.sum()
        found = np.asarray(sensitivities(module, frozen, last, X, legal))
        np.testing.assert_allclose(found[:, 0], wanted / wanted.sum(), rtol=1e-4)
    silent = {
        **last,
        "lateral_policy": {"kernel": 0 * last["lateral_policy"]["kernel"]},
    }
    shares = sensitivities(module, frozen, silent, X, LEGAL)
    np.testing.assert_allclose(shares, [[0.0], [1.0]], atol=1e-6)
    # A scale that α undoes changes nothing.
    loud = [
        {"layer_0": jax.tree.map(lambda x: np.float32(7.0) * x, frozen[0]["layer_0"])}
    ]
    quiet = {**last, "scale_1": last["scale_1"] / np.float32(7.0)}
    again = sensitivities(module, loud, quiet, X, LEGAL)
    np.testing.assert_allclose(again, found, rtol=1e-3)


def test_of_several_tasks_a_column_is_shown_which_it_is():
    """One-hot behind the observation, where that is asked for."""
    spec = types.EnvSpec({}, types.Discrete(2), ("a", "b", "c"))
    obs = {
        "vector": np.float32([[7, 8], [9, 5]]),
        "image": np.full((2, 1, 1, 2), 255, np.uint8),
    }
    ts = types.TimeStep(obs, None, None, None, None, np.int32([2, 0]), None)
    seen = [[1, 1, 7, 8], [1, 1, 9, 5]]
    plain = agent.inputs(spec, agent.Config(), ts)
    np.testing.assert_array_equal(plain, seen)
    shown = agent.inputs(spec, agent.Config(task_embedding=True), ts)
    np.testing.assert_array_equal(shown, np.hstack([seen, [[0, 0, 1], [1, 0, 0]]]))
    config = agent.Config(task_embedding=True, torso="minatar")
    image, flat = agent.inputs(spec, config, ts)
    np.testing.assert_array_equal(image, np.ones((2, 1, 1, 2)))
    np.testing.assert_array_equal(flat, [[7, 8, 0, 0, 1], [9, 5, 1, 0, 0]])


@pytest.fixture(name="one", scope="module")
def _one(kit):
    """The agent of two columns on a probe."""
    return kit.setup("progressive", "none", ("both",))


def test_frozen_columns_keep_their_bits_and_have_no_optimiser(one):
    """After updates; the last column moves."""
    after = one.learner
    for i in range(3):
        after, _ = one.update(after, one.rollout, jax.random.fold_in(KEY, i), one.hp)
    assert list(after.frozen) == ["column_0"]
    for x, y in zip(jax.tree.leaves(one.learner.frozen), jax.tree.leaves(after.frozen)):
        np.testing.assert_array_equal(x, y)
    moments = [x for x in jax.tree.leaves(after.opt) if x.ndim]
    assert len(moments) == 2 * len(jax.tree.leaves(after.params))
    kernels = [x.params["layer_0"]["kernel"] for x in (one.learner, after)]
    assert not np.array_equal(*kernels)


def test_only_heads_are_trained_where_that_is_asked(one, kit):
    """Baseline 2: layers and adapters below keep their bits."""
    made = kit.small("progressive", one.env.spec, columns=1, trains="heads")
    learner = jax.jit(batch_draws(made.init))(KEY, one.hp)
    after, _ = kit.updater(made)(learner, one.rollout, KEY, one.hp)
    moved = {
        name: not np.array_equal(x["kernel"], learner.params[name]["kernel"])
        for name, x in after.params.items()
    }
    assert moved == {"layer_0": False, "layer_1": False, "policy": True, "value": True}


def test_a_column_more_freezes_what_it_begins_with():
    """Of as many it goes on with the other's; the optimiser is its own in any case."""

    def learner(columns, mark, actions):
        frozen = {f"column_{k}": f"{mark}{k}" for k in range(columns - 1)}
        sizes = {"layer_0": 4, "policy": actions, "value": 1, "adapter_1": 4}
        params = {name: np.full(size, len(mark)) for name, size in sizes.items()}
        return learning.Learner(params, f"{mark}opt", mark, mark, (), frozen)

    old = learner(2, "old", 3)
    going = agent.inherit(learner(2, "new", 3), old)
    assert all(going.params[name] is x for name, x in old.params.items())
    assert going.frozen is old.frozen and going.stats == "old"
    assert (going.opt, going.updates) == ("newopt", "new")
    joined = agent.inherit(learner(3, "new", 5), old)
    body = {"layer_0": old.params["layer_0"]}
    assert joined.frozen == {"column_0": "old0", "column_1": body}
    assert joined.params["policy"].shape == (5,) and joined.opt == "newopt"
    assert joined.stats == "new"
    # With other actions the policy is new; the values and what lies below go on.
    own = learner(2, "new", 5)
    other = agent.inherit(own, old)
    assert other.params["layer_0"] is old.params["layer_0"]
    assert other.params["policy"] is own.params["policy"] and other.opt == "newopt"
    assert other.params["value"] is old.params["value"] and other.stats == "old"
    # With values of other tasks these are new, and so are their statistics.
    own.params["value"] = np.zeros(2)
    other = agent.inherit(own, old)
    assert other.params["value"] is own.params["value"] and other.stats == "new"
    assert other.frozen == old.frozen
    for columns in (1, 4):
        with pytest.raises(ValueError, match=f"columns: got {columns}, .* 2 .* 3"):
            agent.inherit(learner(columns, "new", 3), old)


def test_what_cannot_be_is_refused(kit):
    """By field, with what would do."""
    spec = kit.probe("both").spec
    for settings, words in (
        ({"columns": 0}, "columns: got 0, give at least 1"),
        ({"torso": "nature"}, "torso: unknown 'nature'; one of mlp, minatar, atari"),
        ({"torso": "atari"}, "torso: 'atari' needs an image, .*'vector'.*use 'mlp'"),
        ({"trains": "some"}, "trains: unknown 'some'; one of all, heads"),
        ({"value_scale": "popart"}, "value_scale: 'popart' .*'return_scale'"),
        ({"hidden": ()}, "hidden: got"),
    ):
        with pytest.raises(ValueError, match=words):
            kit.small("progressive", spec, **settings)
    seen = {"image": jax.ShapeDtypeStruct((36, 43, 4), np.uint8)}
    with pytest.raises(ValueError, match=r"'atari' needs .* at least 36x44, got 36x43"):
        kit.small("progressive", spec._replace(obs=seen), torso="atari")
    wide = {"image": jax.ShapeDtypeStruct((36, 44, 4), np.uint8)}
    agent_ = kit.small("progressive", spec._replace(obs=wide), torso="atari")
    column = jax.eval_shape(agent_.init, KEY, agent.Hparams()).params
    assert column["layer_3"]["kernel"].shape == (12, 8)
