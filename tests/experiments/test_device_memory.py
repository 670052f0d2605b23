"""What does not fit a machine is refused before anything is allocated."""

import contextlib
import os
import re
from unittest import mock

import jax
import numpy as np
import pytest
import running
import staged_runs

from mtrl_jax import config, envs, errors
from mtrl_jax.data import windows
from mtrl_jax.engine import sharding
from mtrl_jax.experiments import (
    build,
    checks,
    device_memory,
    kinds,
    online,
    reading,
)
from mtrl_jax.training import progress


def settings(capacity, members=2):
    return config.from_dict(
        {
            "tasks": [{"env": "probe/both", "slots": 8}],
            "agent": {"name": "dqn", "config": {"capacity": capacity}},
            "population": {"size": members},
            "training": {"unroll_length": 4},
        }
    )


def test_a_replay_that_does_not_fit_names_the_largest_that_does():
    """And that one is accepted; nothing of it is allocated."""
    with pytest.raises(errors.ConfigError) as error:
        online.make_program(settings(2_000_000_000, 64))
    line = str(error.value)
    assert re.match(r"agent\.config\.capacity=2000000000: each of 64 members", line)
    most = int(re.search(r"a capacity of at most (\d+)", line)[1])
    said = online.make_program(settings(most, 64)).memory()
    assert re.match(
        r"memory: [\d.]+ .?B a member \(learner .*, replay .*, rollout", said
    )
    assert "B of all 64; there is room for" in said
    with pytest.raises(errors.ConfigError, match="give a capacity of at most"):
        online.make_program(settings(most + most // 100, 64))


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"agent": {"name": "ppo", "config": {"network": {"hidden": [200_000] * 2}}}},
         "agent.config"),
        ({"training": {"unroll_length": 2**31 - 1}}, "training.unroll_length=2147483647"),
    ],
)  # fmt: skip
def test_where_one_member_is_too_much_its_largest_part_is_named(given, field):
    """No smaller population would help."""
    plain = {"tasks": [{"env": "probe/action", "slots": 1}], "population": {"size": 1}}
    with pytest.raises(errors.ConfigError) as error:
        online.make_program(config.from_dict(plain | given))
    assert str(error.value).startswith(f"{field}: each of 1 members needs")


@pytest.mark.parametrize("axis, train, test", [("slot", 32, 12), ("population", 16, 6)])
def test_emulators_are_counted(axis, train, test):
    """Their memory is outside the program's: too many end the process without a word."""
    names = ("envpool/CartPole-v1", "envpool/Acrobot-v1")
    given = {
        "tasks": [{"env": name, "slots": 8} for name in names],
        "agent": {"name": "impala", "config": {"network": {"hidden": [8]}}},
        "population": {"size": 2, "axis": axis},
        "evaluation": {"episodes": 3},
    }
    program = online.make_program(config.from_dict(given))
    said = program.memory()
    program.close()
    assert f"; beside it {train} emulators to train in and {test} to be" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("agent.config.batch=1000000000", r"agent\.config: .*batch [\d.]+ GB\).* a "
         "smaller batch"),
        ("agent.config.network.hidden=[1000000000]", r"agent\.config: .*learner"),
        ("training.unroll_length=2147483647", "training.unroll_length=2147483647: of 8 "
         "slots .*; give at most 268435455$"),
        ("training.env_steps=9000000000000000000", r"training\.env_steps=9.*updates; give "
         "at most 68719476704,"),
    ],
)  # fmt: skip
def test_what_is_far_too_large_is_named_before_anything_is_written(change, message):
    """A batch that no memory holds, counts beyond int32; not a capacity that is small."""
    given = config.override(config.to_dict(settings(1000)), [change])
    with pytest.raises(errors.ConfigError, match=f"^{message}"):
        online.make_program(config.from_dict(given))


def test_a_population_without_a_replay_is_measured_too(monkeypatch):
    """Learner and rollout, in one line with the largest population, which is accepted."""
    monkeypatch.setattr(device_memory, "_bytes", lambda device: 2_000_000)
    agent = {"name": "impala", "config": {"network": {"hidden": [64]}}}
    given = config.to_dict(settings(100, 4096)) | {"agent": agent}
    given["evaluation"]["episodes"] = 1  # Slots alone fit.
    with pytest.raises(errors.ConfigError) as error:
        online.make_program(config.from_dict(given))
    line = str(error.value)
    assert re.match(r"population\.size=4096: each of 4096 members needs", line)
    assert "replay 0 B" in line and "\n" not in line
    most = int(re.search(r"a population\.size of at most (\d+)", line)[1])
    for members, fits in ((most, True), (most + 1, False)):
        given["population"] = {"size": members}
        with contextlib.nullcontext() if fits else pytest.raises(errors.ConfigError):
            online.make_program(config.from_dict(given))


def test_data_and_learners_are_measured_together(staged, monkeypatch):
    """Each alone fits a device, both do not; where both do, they are accepted."""
    run = kinds.run_of(reading.load_config(staged), staged)
    stage, found = run.stage("model"), {"device_bytes": [], "share": []}

    def spied(module, name):
        function = getattr(module, name)

        def call(*args):
            found[name].append(function(*args))
            return found[name][-1]

        monkeypatch.setattr(module, name, call)

    def prepare(room):
        monkeypatch.setattr(device_memory, "room", lambda mesh: room)
        with contextlib.closing(kinds.make_program(run, stage)) as program:
            program.prepare()
            return program.memory()

    spied(windows, "device_bytes")
    spied(device_memory, "share")
    prepare(1e12)
    data, learners = map(sum, found.values())
    both = data + learners
    assert max(data, learners) < 0.9 * both
    with pytest.raises(errors.RunError) as error:
        prepare(0.95 * both)
    said = f"{progress.size(data)} of data do not fit a device beside "
    assert f"{said}{progress.size(learners)} of learners and w" in str(error.value)
    assert re.search(r" and [0-9.]+ \w?B of data on each device; ", prepare(both))


def test_windows_that_no_history_fills_are_said(staged):
    """They are padding in part, which is learned from for nothing."""
    run = kinds.run_of(reading.load_config(staged), staged)
    stage = run.stage("model")

    def said(length):
        training = stage.training.model_copy(update={"unroll_length": length})
        longer = stage.model_copy(update={"training": training})
        with contextlib.closing(kinds.make_program(run, longer)) as program:
            return program.memory()

    found = re.search(
        r"; training\.unroll_length=60: no history has more than (\d+) rows", said(60)
    )
    longest = int(found[1])
    assert 0 < longest < 60 and "no history" not in said(longest)


def test_slots_whose_rollouts_cannot_fit_are_refused_before_one_is_made(monkeypatch):
    """By their own number: of 100 million, laying them out would take minutes."""
    monkeypatch.setattr(device_memory, "_bytes", lambda device: 1_000_000)
    monkeypatch.setattr(device_memory, "_MANY", 1000)
    pure_task, made = (
        envs.pure_task,
        mock.Mock(side_effect=AssertionError("an environment was made")),
    )
    monkeypatch.setattr(envs, "pure_task", made)
    given = config.to_dict(settings(100)) | {"agent": {"name": "impala"}}
    given["evaluation"]["episodes"] = 1
    most = 0
    for slots in (10_000, 4000):  # Without rollouts there is room for 10,937 of both.
        given["tasks"][0]["slots"] = slots
        message = rf"tasks\.0\.slots={slots}: {2 * slots} slots of all members .*{most}"
        with pytest.raises(errors.ConfigError, match=message) as error:
            online.make_program(config.from_dict(given))
        most = int(re.search(r"there is room for (\d+)", str(error.value))[1])
    # What is refused here does not fit a training step.
    monkeypatch.setattr(device_memory, "_MANY", most)
    monkeypatch.setattr(envs, "pure_task", pure_task)
    given["tasks"][0]["slots"] = most // 2
    with pytest.raises(errors.ConfigError, match=r"^population.size=2: each of 2"):
        online.make_program(config.from_dict(given))


def test_slots_of_families_are_counted_with_their_tasks(monkeypatch, tmp_path):
    """Of a collect stage, of the tests in it and of an evaluate stage."""
    file = staged_runs.write(tmp_path / "tiny.yaml")
    monkeypatch.setattr(device_memory, "_bytes", lambda device: 1_000_000)
    for change, what in (
        ("stages.0.tasks.0.slots=10000", r"stages\.0\.tasks\.0\.slots=10000"),
        ("stages.0.evaluation.episodes=10000", r"evaluation\.episodes=10000"),
        ("stages.2.tasks.0.slots=10000", r"stages\.2\.tasks\.0\.slots=10000"),
    ):
        line = running.refusal(file, change, tmp_path / "run")
        assert re.search(rf"{what}: \d+ slots of all members together", line), line


def test_cpu_devices_share_one_memory_and_accelerators_have_their_own(monkeypatch):
    """What there is room for, on each device, and what learners take of it."""
    monkeypatch.setattr(device_memory, "_bytes", lambda device: 1000)
    for number in (1, 8):
        mesh = sharding.make_mesh(8, 1, jax.devices()[:number])
        assert device_memory.room(mesh) == pytest.approx(700 / number)
        assert device_memory.share(checks.Sizes(30, 10), 8, mesh) == 320 / number
    chip = mock.Mock(platform="gpu")
    chips = mock.Mock(devices=np.array([[chip], [chip]]), size=2)
    assert device_memory.room(chips) == pytest.approx(700)


def test_what_members_have_is_said_in_one_line(monkeypatch):
    """Of each part that there is, of all members, of data beside them on each device."""
    monkeypatch.setattr(device_memory, "_bytes", lambda device: 20_000)
    parts = {"learner": 1000, "replay": 0, "rollout": 500}
    mesh = sharding.make_mesh(4, 1, jax.devices()[:4])
    said = "memory: 1.5 kB a member (learner 1 kB, rollout 500 B), 6 kB of all 4"
    room = "; there is room for 14 kB"
    assert device_memory.line(parts, 4, mesh) == said + room
    data = " and 10 B of data on each device"
    assert device_memory.line(parts, 4, mesh, 10) == said + data + room


def test_slots_count_with_their_rollouts_where_they_are_many(monkeypatch):
    """32 bytes of each, and then 20 a step."""
    monkeypatch.setattr(device_memory, "_bytes", lambda device: 1_000_000)
    monkeypatch.setattr(device_memory, "_MANY", 1000)
    device_memory.check_slots("x", 21_875)
    device_memory.check_slots("x", 1000, length=100)
    for number, length, most in ((21_876, 0, 21_875), (1001, 100, 344)):
        with pytest.raises(errors.ConfigError, match=f"^x: .* room for {most}; give"):
            device_memory.check_slots("x", number, length)


def test_the_memory_of_a_device_is_what_this_process_may_have_of_it(monkeypatch):
    """Its allocator's limit; of a CPU the machine's, or a container's that is less."""
    accelerator = mock.Mock(memory_stats=lambda: {"bytes_limit": 7, "bytes_in_use": 3})
    assert device_memory._bytes(accelerator) == 7
    cpu = mock.Mock(memory_stats=lambda: None)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limits, expected in (([], machine), ([5, 9], 5), ([10 * machine], machine)):
        monkeypatch.setattr(device_memory, "_limits", lambda found=limits: found)
        assert device_memory._bytes(cpu) == expected


def test_a_container_limits_the_memory(monkeypatch, tmp_path):
    """Of both kinds of control groups; "max" and a file that is not there are no limit."""
    (tmp_path / "two").write_text("max\n")
    (tmp_path / "one").write_text("1000000\n")
    paths = [tmp_path / name for name in ("two", "none", "one")]
    monkeypatch.setattr(device_memory, "_CGROUPS", paths)
    assert device_memory._limits() == [1_000_000]


def test_frozen_learners_and_what_slots_remember_are_measured(monkeypatch, tmp_path):
    """An evaluate stage is refused by its name, with the most slots that fit."""
    monkeypatch.setattr(device_memory, "_bytes", lambda device: 40_000_000)
    network = "stages.1.agent.config.network={hidden: [8], core: lstm, core_size: 64}"
    file = staged_runs.write(tmp_path / "tiny.yaml", network)
    line = running.refusal(file, "stages.2.tasks.0.slots=50000", tmp_path / "run")
    assert "stages.2" in line and "members=4: each needs" in line
    assert int(re.search(r"at most (\d+) slots of all tasks", line)[1]) < 100_000


def test_the_most_slots_and_members_are_accepted(monkeypatch):
    """And not one more of either."""
    monkeypatch.setattr(device_memory, "_bytes", lambda device: 4_000_000)
    lstm = {"core": "lstm", "core_size": 64}
    given = config.to_dict(settings(100)) | {
        "agent": {"name": "impala", "config": {"network": lstm}}
    }
    spec, mesh = envs.make("probe/both", (1, 1)).spec, sharding.make_mesh(1, 1)

    def check(members, slots):
        given["population"] = {"size": members}
        own = config.from_dict(given)
        agent = build.make_agent(own, spec)
        device_memory.check_acting(agent, own, slots, mesh)

    for kind, known in (("members: ", (4096, 8)), ("at most ", (2, 100_000))):
        with pytest.raises(errors.ConfigError) as error:
            check(*known)
        most = int(re.search(rf"{kind}(\d+)", str(error.value))[1])
        place = 0 if kind == "members: " else 1
        most, more = (
            [n if i == place else x for i, x in enumerate(known)]
            for n in (most, most + 1)
        )
        check(*most)
        with pytest.raises(errors.ConfigError, match="there is room for"):
            check(*more)


def test_each_plan_has_a_memory_of_its_own(monkeypatch):
    """As large as the slot's; who makes too many is asked for fewer."""
    spec, mesh = envs.make("dark/room", (1, 1)).spec, sharding.make_mesh(1, 1)

    def parts(beam):
        planning = {"planning": {"beam": beam}} if beam else {}
        outlook = {"rewards": True, "vectors": True}
        small = {"layers": 1, "width": 8, "heads": 1, "feedforward": 8, "context": 40}
        given = config.to_dict(settings(100)) | {
            "tasks": [{"env": "dark/room", "slots": 8}],
            "agent": {
                "name": "gato",
                "config": {"transformer": small, "outlook": outlook, **planning},
            },
        }
        own = config.from_dict(given)
        agent = build.make_agent(own, spec)
        return device_memory.check_acting(agent, own, 8, mesh)

    none, three = parts(0), parts(3)
    assert none["carry"] > 0 and none["plans"] == 0
    assert three == none | {"plans": 3 * none["carry"]}
    # Room for the learners and the slots of both members, and for five plans of each.
    room = 2 * (none["learner, twice"] + 6 * none["carry"])
    monkeypatch.setattr(device_memory, "room", lambda mesh: float(room))
    assert parts(5)["plans"] == 5 * none["carry"]
    with pytest.raises(errors.ConfigError, match=r"8 slots and 6 plans of each .*, or a "
                       r"smaller planning\.beam$"):  # fmt: skip
        parts(6)
