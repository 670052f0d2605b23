"""Wrong use of envpool is an error that says what to do, never a crash."""

import gc
import os
import sys
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import types, xla
from mtrl_jax.envs import envpool, envpool_pool, envpool_xla

OUT_OF_ORDER = "is not where this state left it"


def start(task="CartPole-v1", batch=(1, 2), **options):
    """Returns an env, its jitted step, its first state and an action."""
    env = envpool.make(task, batch, options)
    state, _ = env.reset(None, ())
    one = types.action_shape(env.spec.action)
    return env, jax.jit(env.step), state, jnp.zeros((*batch, *one.shape), one.dtype)


def test_a_state_used_twice_stops_the_program():
    """A pool has one present: the second use would silently continue the first."""
    _, step, state, action = start()
    jax.block_until_ready(step(state, action, ()))
    with pytest.raises(jax.errors.JaxRuntimeError, match=OUT_OF_ORDER):
        jax.block_until_ready(step(state, action, ()))


def test_a_state_used_twice_within_one_program_stops_it():
    """The check is in the program, so a scan cannot hide a state kept aside."""
    env, _, state, action = start()

    @jax.jit
    def run(state):
        later, _ = env.step(state, action, ())
        newest, ts = env.step(later, action, ())
        _, again = env.step(later, action, ())
        return newest, ts, again

    with pytest.raises(jax.errors.JaxRuntimeError, match=OUT_OF_ORDER):
        jax.block_until_ready(run(state))


def test_a_state_of_another_pool_is_refused():
    """Two pools on one handle: nothing in the handle itself would tell them apart."""
    one, _, _, action = start()
    _, _, state, _ = start()
    with pytest.raises(ValueError, match="belongs to another pool"):
        jax.jit(one.step)(state, action, ())


def test_an_old_state_after_a_reset_stops_the_program_and_the_new_one_works():
    """A reset ends every program that still thinks in the old episodes."""
    env, step, state, action = start()
    for _ in range(3):
        state, _ = step(state, action, ())
    jax.block_until_ready(state)
    fresh, ts = env.reset(None, ())
    assert ts.first.all()
    jax.block_until_ready(step(fresh, action, ()))
    with pytest.raises(jax.errors.JaxRuntimeError, match=OUT_OF_ORDER):
        jax.block_until_ready(step(state, action, ()))


def test_a_closed_pool_is_an_error_when_traced_and_when_run():
    """close() is noticed by new programs and by those that are compiled already."""
    env, step, state, action = start()
    for _ in range(3):
        state, _ = step(state, action, ())
    jax.block_until_ready(state)
    envpool.close(env)
    with pytest.raises(jax.errors.JaxRuntimeError, match=OUT_OF_ORDER):
        jax.block_until_ready(step(state, action, ()))
    with pytest.raises(ValueError, match="the pool is closed"):
        env.step(state, action, ())
    with pytest.raises(ValueError, match="the pool is closed"):
        env.reset(None, ())


def test_a_program_compiled_ahead_of_time_keeps_its_pool_alive():
    """It calls the pool by address: without the reference it would call freed memory."""

    def compile_and_forget():
        env = envpool.make("CartPole-v1", (1, 2))

        def run(action):
            state, _ = env.reset(None, ())
            return env.step(state, action, ())[1].reward

        program = jax.jit(run).lower(jax.ShapeDtypeStruct((1, 2), jnp.int32))
        return program.compile(), weakref.ref(env.step.pool.engine)

    compiled, pool = compile_and_forget()
    jax.clear_caches()
    gc.collect()
    assert pool() is not None
    np.testing.assert_array_equal(
        compiled(jnp.zeros((1, 2), jnp.int32)), np.ones((1, 2))
    )


def test_actions_of_another_shape_or_dtype_are_refused_by_every_trace():
    """The pool reads as many bytes as it expects, whatever it is given."""
    env, _, state, _ = start()
    for wrong in (jnp.zeros((1, 3), jnp.int32), jnp.zeros((2,), jnp.int32)):
        with pytest.raises(ValueError, match=r"the pool takes int32\(1, 2\)"):
            jax.jit(env.step)(state, wrong, ())
    for dtype in (bool, jnp.uint8, jnp.float32):
        with pytest.raises(ValueError, match="the pool takes int32"):
            jax.jit(env.step)(state, jnp.zeros((1, 2), dtype), ())


def test_indices_out_of_range_are_clipped():
    """Index 100 of 6 is taken by Pong, 1e8 ends the process."""
    actions = [[10**8, -(10**8)], [17, 0]]
    images = []
    for action in actions:
        host = envpool.make_host("Pong-v5", (1, 2), {"sticky_actions": 0.0, "size": 16})
        host.reset()
        for _ in range(12):
            host.send(np.asarray([action], np.int32))
            ts = host.recv()
        images.append(ts.obs["image"])
        host.close()
    np.testing.assert_array_equal(images[0], images[1])


def test_nan_and_infinite_actions_stay_within_the_box():
    """A diverged policy must not put NaN into the simulator."""
    _, step, state, action = start("CheetahRun-v1")
    bad = action.at[0, 0].set(jnp.nan).at[0, 1].set(jnp.inf)
    good = action.at[0, 1].set(1.0)
    _, other_step, other_state, _ = start("CheetahRun-v1")
    for _ in range(3):
        state, ts = step(state, bad, ())
        other_state, expected = other_step(other_state, good, ())
    jax.tree.map(np.testing.assert_array_equal, ts, expected)
    assert np.isfinite(ts.obs["vector"]).all()


def test_a_pool_that_steps_in_parts_cannot_be_compiled():
    """A partial env_id ends the process: the program always steps the whole pool."""
    import envpool as library

    engine = library.make("CartPole-v1", env_type="gymnasium", num_envs=4, batch_size=2)
    with pytest.raises(ValueError, match="steps in parts"):
        envpool_xla.step(engine, ("reward",))


@pytest.fixture(name="short_collections")
def _short_collections():
    """What other tests left behind is not looked at in every collection."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("short_collections")
def test_pools_of_other_tasks_at_the_same_address_do_not_mix():
    """A freed pool's address is used again: targets must not be named after it."""
    for task in ("CartPole-v1", "FrozenLake-v1", "Pendulum-v1") * 10:
        env = envpool.make(task, (1, 2))
        state, _ = jax.eval_shape(env.reset, None, ())
        one = types.action_shape(env.spec.action)
        action = jax.ShapeDtypeStruct((1, 2, *one.shape), one.dtype)
        _, ts = jax.eval_shape(env.step, state, action, ())
        assert ts.obs["vector"].shape[2:] == env.spec.obs["vector"].shape
        del env, state, ts
        gc.collect()


def test_a_step_cannot_be_batched_over():
    """The env is batched by contract; vmap of it is an error, not 3 copies."""
    env, _, state, action = start()
    with pytest.raises(NotImplementedError):
        jax.vmap(lambda a: env.step(state, a, ()))(jnp.stack([action] * 3))


def test_a_program_over_several_devices_is_refused():
    """Each device would step the one pool: XLA must not partition the call."""
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    env, _, state, action = start(batch=(8, 1))
    mesh = jax.make_mesh((8,), ("pop",), axis_types=(AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec("pop"))
    with pytest.raises(jax.errors.JaxRuntimeError):
        jax.jit(env.step)(state, jax.device_put(action, spread), ())


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("Pongo-v5", {}, "did you mean Pong-v5"),
        ("Pong-v5", {"stiky_actions": 0.1}, "did you mean sticky_actions"),
        ("Pong-v5", {"colour": "blue"}, "'grey', 'rgb'"),
        ("Pong-v5", {"size": "84"}, "size: '84' is not of type int"),
        ("Pong-v5", {"life_loss": 1}, "life_loss: 1 is not of type bool"),
        ("Pong-v5", {"noop_max": 0}, "noop_max: got 0, give an integer from 1"),
        ("Pong-v5", {"sticky_actions": 1.0}, "not in"),
        ("Pong-v5", {"protocol": "nop"}, "did you mean noop"),
        ("CartPole-v1", {"max_step": 5}, "did you mean max_steps"),
        ("CartPole-v1", {"max_steps": 0}, "max_steps: got 0, give an integer from 1"),
        (
            "CartPole-v1",
            {"num_threads": -1},
            "num_threads: got -1, give an integer from 0",
        ),
        ("CheetahRun-v1", {"task_name": "walk"}, "no option 'task_name'"),
        ("Go9x9-v1", {}, "family 'pgx' is not supported"),
        ("MyWayHome-v1", {}, "drops the reward"),
        ("intersection-multi-agent-v0", {}, "several agents"),
    ],
)
def test_bad_names_and_options_say_what_would_work(task, options, message):
    """One line, the field, what was given, what is allowed; before any pool exists."""
    with pytest.raises(ValueError, match=message) as caught:
        envpool.make(f"envpool/{task}", (1, 1), options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("batch", [(0, 1), (1, -1), (1, 1.5), (True, 1), (1,)])
def test_a_batch_that_is_not_two_positive_integers_is_refused(batch):
    """P and B come from a user's config."""
    with pytest.raises(ValueError, match="positive integers"):
        envpool.make("CartPole-v1", batch)


def test_a_missing_system_library_is_named():
    """Procgen needs Qt: the message must say which file to install."""
    cause = ImportError("libQt5Gui.so.5: cannot open shared object file")
    error = ImportError("EnvPool Procgen requires Qt")
    error.__cause__ = cause
    message = envpool_pool._missing_library("envpool/CoinrunEasy-v0", error)
    assert "the system library libQt5Gui.so.5 is missing" in message
    try:
        envpool.make("CoinrunEasy-v0", (1, 1))
    except ValueError as raised:
        assert "libQt5Gui.so.5" in str(raised)


def test_a_version_that_was_not_admitted_is_refused(monkeypatch):
    """The wrapper calls private functions: another version may mean another layout."""
    import envpool as library

    monkeypatch.setattr(library, "__version__", "9.9.9")
    with pytest.raises(ValueError, match=r"9\.9\.9 has not been admitted"):
        envpool.make_host("CartPole-v1", (1, 1))


def test_platforms_without_it_are_refused(monkeypatch):
    """Another operating system or backend is a message, not an abort."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with pytest.raises(ValueError, match="use the host runner"):
        envpool.make("CartPole-v1", (1, 1))
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ValueError, match="needs Linux"):
        envpool.make_host("CartPole-v1", (1, 1))


def test_the_host_env_refuses_calls_out_of_turn():
    """recv without send would wait for ever."""
    host = envpool.make_host("CartPole-v1", (1, 2))
    action = np.zeros((1, 2), np.int32)
    with pytest.raises(ValueError, match="send before reset"):
        host.send(action)
    host.reset()
    with pytest.raises(ValueError, match="recv without a send"):
        host.recv()
    host.send(action)
    with pytest.raises(ValueError, match="send before the recv"):
        host.send(action)
    host.recv()
    with pytest.raises(ValueError, match="the pool takes int32"):
        host.send(action.astype(np.int64))
    host.close()
    host.close()
    with pytest.raises(ValueError, match="send after close"):
        host.send(action)


def test_the_record_of_a_pool_is_plain_json_and_makes_it_again():
    """A run folder holds version, protocol, options and every seed."""
    import json

    record = envpool.describe("envpool/Pong-v5", (2, 3), {"size": 64}, seed=4)
    assert json.loads(json.dumps(record)) == record
    assert record["envpool"] in envpool_pool.ADMITTED
    assert record["options"]["protocol"] == "sticky"
    assert record["settings"]["repeat_action_probability"] == 0.25
    assert record["settings"]["max_episode_steps"] == 27_000
    assert record["settings"]["full_action_space"] is True
    assert len(record["seeds"]) == 6
    again = envpool.describe(
        record["name"], tuple(record["batch"]), record["options"], record["seed"]
    )
    assert again == record
    pool = envpool_pool.make("Pong-v5", (2, 3), record["options"], record["seed"])
    assert list(pool.engine.config["env_seed"]) == record["seeds"]


@pytest.mark.parametrize(("given", "threads"), [({}, 2), ({"num_threads": 3}, 3)])
def test_a_pool_has_the_threads_of_a_containers_quota(monkeypatch, given, threads):
    """Two cores' worth of time are two threads, whatever the machine has, or those given."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(xla, "_quota", lambda system: 2.5)
    pool = envpool_pool.make("CartPole-v1", (2, 3), given, 0)
    assert pool.engine.config["num_threads"] == threads


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        ("CartPole-v1", {"max_steps": 2**31}, "max_steps: got 2147483648"),
        (
            "Pong-v5",
            {"size": 100_000},
            "size: got 100000, give an integer from 1 to 512",
        ),
        ("Pong-v5", {"mode": 77}, r"refuses .*mode.* options mode=77; give others"),
        ("FrozenLake-v1", {"size": 0}, "size: got 0"),
        ("MiniGrid-Empty-5x5-v0", {"size": 1}, r"crashes \(SIGABRT\) .*size=1"),
        ("Catch-v0", {"height": 0}, r"crashes \(SIGSEGV\) .*height=0"),
        ("Catch-v0", {"width": 10**5, "height": 10**5}, "bad_alloc"),
        ("CartPole-v1", {"reward_threshold": float("nan")}, "give a finite number"),
        ("Ant-v4", {"xml_file": "/etc/passwd"}, "a path out of envpool"),
        ("Ant-v4", {"xml_file": "../ant.xml"}, "a path out of envpool"),
        ("D1Basic-v1", {"vzd_path": "/bin/true"}, "has no option 'vzd_path'"),
    ],
)
def test_a_value_that_could_end_the_process_is_refused(task, options, words):
    """Bounded, or tried in a child; no config names a file or program of the machine."""
    with pytest.raises(ValueError, match=words):
        envpool_pool.make(task, (1, 1), options, 0)


def test_a_value_that_works_is_tried_once_and_used():
    """The second pool of the same settings costs nothing more."""
    from mtrl_jax.envs import envpool_trial

    envpool_trial._problem.cache_clear()
    for _ in range(2):
        pool = envpool_pool.make("Catch-v0", (1, 2), {"height": 7, "width": 6}, 0)
        assert pool.engine.spec.observation_space.shape[-2:] == (7, 6)
    assert envpool_trial._problem.cache_info().misses == 1


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 512])
def test_the_kits_own_bounds_hold_at_their_ends(size):
    """Options that no child tries play at their smallest and largest."""
    options = {"size": size, "stack": 64 if size > 1 else 1, "frame_skip": 1000}
    pool = envpool_pool.make("Pong-v5", (1, 2), options | {"noop_max": 10_000}, 0)
    pool.engine.reset()
    reward = pool.engine.step(np.zeros(2, np.int32))[1]
    assert reward.shape == (2,) and np.isfinite(reward).all()
