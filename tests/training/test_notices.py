"""Settings that do something else than they seem to are said, or refused."""

import collections
import re
import types as namespaces

import numpy as np
import pytest
import running

from mtrl_jax import errors, types
from mtrl_jax.config import loading
from mtrl_jax.experiments import environments, online
from mtrl_jax.training import notices, program, unread


def _said(*changes):
    config = loading.from_dict(loading.override(running.TINY, changes))
    return list(notices.of(config, online.run_length(config, 4)))


@pytest.mark.parametrize(
    ("kind", "tasks", "said"),
    [
        ("online", 2, "of 1 slot on 0, 1: 20 updates in chunks of 2, 320 env steps of a "
         "member"),
        ("offline", 4, "on data of 0, 1, 2, 3: 20 updates in chunks of 2, 1 window each"),
        ("evaluate", 5, "of 1 slot on 5 tasks: 1 episode in each"),
    ],
)  # fmt: skip
def test_what_a_stage_will_do_is_one_line(kind, tasks, said):
    """Who, where and for how long; of many tasks their number."""
    namespace = namespaces.SimpleNamespace
    config = namespace(
        kind=kind, agent=namespace(name="x"), evaluation=namespace(episodes=1)
    )
    made = namespace(
        batch=(4, 1),
        run_length=program.RunLength(20, 2, 16, 0, 0),
        spec=namespace(tasks=[_task(f"probe/{i}", 3) for i in range(tasks)]),
    )
    assert notices.outline(config, made) == f"x, 4 members {said}"


def test_settings_that_mean_what_they_say_are_silent():
    """640 steps are 20 chunks of 2 updates of 16 steps; rounds are between chunks."""
    assert _said() == []
    assert _said("training.env_steps=629") == []
    assert _said("agent.hparams.decay_updates=39") == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("training.env_steps=10", "training.env_steps=10: 32 are trained"),
        ("training.env_steps=577", "577: 608 are trained, whole chunks of 32"),
        ("population.pbt.interval=40", "interval=40: the run has 40 updates, so no"),
        ("population.pbt.interval=1", "every 2 updates (training.updates_per_chunk)"),
        ("agent.hparams.decay_updates=38", "rate is 0 in the last 2 of 40 updates"),
        (
            "agent.config.network={hidden: [8], dtype: bfloat16}",
            "agent.config.network.dtype=bfloat16: on a CPU, which is slower in it, float32",
        ),
    ],
)
def test_what_is_not_meant_is_said_before_training(change, words):
    """Legal: a line, no error."""
    assert [words in line for line in _said(change) if "interval=8" not in line] == [
        True
    ]


@pytest.mark.parametrize(
    ("decay", "before", "words"),
    [
        (40, 40, "have made 40 updates, .* is 0 in all 40 of its own; 80 would do"),
        (60, 40, "rate is 0 in the last 20 of 40 updates"),
        (80, 40, None),
    ],
)
def test_a_rate_that_fell_before_the_run_began_is_said(decay, before, words):
    """A stage with ``init_from`` goes on with the optimiser's count of updates."""
    change = f"agent.hparams.decay_updates={decay}"
    config = loading.from_dict(loading.override(running.TINY, [change]))
    found = list(notices.of(config, online.run_length(config, 4), before=before))
    assert [bool(re.search(words or "", line)) for line in found] == [True] * bool(
        words
    )


def test_the_updates_of_a_dataset_that_were_not_asked_for_are_said():
    """They come in whole chunks, too."""
    stage = {
        **{"name": "model", "kind": "offline", "data": "./nowhere"},
        "agent": {"name": "behaviour_cloning"},
        "training": {"updates": 10, "updates_per_chunk": 250},
    }
    length = program.RunLength(250, 250, 1280, 0, 500)
    (line,) = notices.of(loading.from_dict(stage), length)
    assert line == (
        "training.updates=10: 250 are trained, whole chunks of 250; "
        "with training.updates_per_chunk below 250 there are fewer"
    )


def test_an_accelerator_computes_in_the_type_that_is_asked_for(monkeypatch):
    """And says nothing."""
    monkeypatch.setattr(notices.jax, "default_backend", lambda: "gpu")
    assert _said("agent.config.network={hidden: [8], dtype: bfloat16}") == []


def test_what_a_search_had_found_is_said_where_it_is_given_up():
    """A hyperparameter given to resume is set for all members; others say nothing."""
    search = "population.search={discount: {low: 0, high: 1}}"
    config = loading.from_dict(loading.override(running.TINY, [search]))
    changed = {
        "agent.hparams.discount": (0.0, 0.5),
        "agent.hparams.lambda_": (1.0, 2.0),
        "training.env_steps": (1, 2),
    }
    had = {"discount": np.array([0.25, 0.75]), "lambda_": np.array([1.0, 1.0])}
    hp = collections.namedtuple("Hparams", had)(**had)
    (line,) = notices.of_found(config, changed, hp)
    assert line.startswith("agent.hparams.discount: all members go on from 0.5; ")
    assert line.endswith("0.25 to 0.75")


def _task(name, max_steps):
    return types.TaskSpec(name, {}, types.Discrete(2), max_steps=max_steps)


_CHUNK = ("training.unroll_length=32", "training.updates_per_chunk=60")


@pytest.mark.parametrize(
    ("longest", "changes", "enough"),
    [
        (15, (), None),  # 8 updates of 4 steps are two episodes of 15 and their resets
        (16, (), 10),
        (900, (), 452),
        (900, ("training.unroll_length=32", "population.pbt.interval=56"), 58),
        (900, ("training.unroll_length=32", "population.pbt.interval=57"), None),
        # Rounds come between chunks: these are 60 updates apart.
        (900, (*_CHUNK, "population.pbt.interval=10"), None),
        (
            900,
            (*_CHUNK, "population.pbt.interval=10", "training.unroll_length=29"),
            120,
        ),
        (900, ("population.pbt={exploit: none, interval: 8}",), None),
        (None, (), None),
    ],
)
def test_rounds_that_come_faster_than_episodes_are_said(longest, changes, enough):
    """Two episodes of the longest task must fit between rounds; what would do is said."""
    given = loading.override(running.TINY, ("training.env_steps=6400", *changes))
    config = loading.from_dict(given)
    length = online.run_length(config, 4)
    tasks = [_task("short", 3), _task("long", longest)]
    lines = [x for x in notices.of(config, length, tasks) if "two episodes" in x]
    if enough is None:
        assert lines == []
    else:
        (line,) = lines
        assert f"two episodes of long at its longest ({longest} steps)" in line
        assert line.endswith(f"; {enough} would do")


def test_only_episodes_that_members_are_judged_by_count():
    """Of the task that the fitness is of; none where evaluations judge."""
    for change, names in (
        ("seed=0", ["probe/action", "probe/memory"]),
        ("population.fitness.task=probe/memory", ["probe/memory"]),
        ("population.fitness.source=evaluation", []),
    ):
        config = loading.from_dict(loading.override(running.TINY, [change]))
        made = online.make_program(config)
        found = [task.name for task in notices.judged(config, made)]
        made.close()
        assert found == names


def _with_pbt():
    """Returns (file's stem, its settings or a stage's) of every config with PBT."""
    found = []
    for path in sorted((running.ROOT / "configs").glob("*.yaml")):
        config = loading.load(path)
        stages = getattr(config, "stages", [config])
        found += [(path.stem, x) for x in stages if x.population and x.population.pbt]
    return found


# Through envpool, an environment for each slot: its tasks' limit is enough here.
_ENVPOOL = {"metaworld_mt10": 500}


@pytest.mark.parametrize(
    ("name", "config"), _with_pbt(), ids=lambda x: x if isinstance(x, str) else ""
)
def test_no_config_has_more_rounds_than_episodes(name, config):
    """Labyrinth's levels last 900 steps: 60 updates of 32."""
    if name in _ENVPOOL:
        tasks = [_task(name, _ENVPOOL[name])]
        slots = 10 * config.tasks[0].slots
    else:
        tasks = environments.make_world(config, "0").spec.tasks
        slots = sum(task.slots for task in config.tasks)
    length = online.run_length(config, slots)
    assert list(notices.of(config, length, tasks)) == []


def test_a_longer_run_says_that_its_schedules_go_back():
    """They are by the share of the run; a plateau is not."""
    change = (
        "agent.schedules={entropy_cost: {kind: linear, low: 0.1, high: 0.01},"
        " discount: {kind: plateau, low: 0.9, high: 0.99, step: 0.01}}"
    )
    given = loading.override(running.TINY, [change])
    config = loading.from_dict(given)
    (line,) = notices.of_longer(config, {"training.env_steps": (640, 832)})
    assert "schedules of entropy_cost are" in line
    assert list(notices.of_longer(config, {"checkpoint.keep": (3, 4)})) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: 1\ntasks: []\nseed: 2", "line 3: 'seed' is given twice"),
        ("tasks: [{env: a, env: b}]", "line 1: 'env' is given twice"),
        ("seed: " + "[" * 5000, "not valid YAML"),
        ("seed: " + "1" * 5000, "not valid YAML"),
    ],
)
def test_a_key_given_twice_is_refused(tmp_path, text, words):
    """At any depth, with its line; so is what no reader can take."""
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(errors.ConfigError, match=words):
        loading.load(path)
    with pytest.raises(errors.ConfigError, match="is not YAML"):
        loading.override({}, ["seed={a: 1, a: 2}"])


def test_merged_keys_may_be_overridden(tmp_path):
    """YAML's ``<<`` is made for it."""
    path = tmp_path / "x.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}")
    assert loading.read_yaml(path)["b"] == {"x": 3, "y": 2}


SWEEP = "population.search={entropy_cost: {low: 0, high: 1, initial: [0, 0.1, 0.2, 0.3, 1]}}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("population.pbt.p_value=0.1", "pbt.p_value=0.1: .* exploit=t_test"),
        ("population.pbt={exploit: t_test, fraction: 0.1}", "fraction=0.1: .*=truncation"),
        ("population.pbt={exploit: t_test, p_value: 0.1}", None),
        (SWEEP, r"entropy_cost\.initial: 5 values for population\.size=4, the last 1 are"),
        ("agent.config.value_debias=true", "value_debias=True: .*value_scale=popart"),
        ("agent.config={value_scale: popart, value_statistics: sum}", None),
        ("agent.config.distance=trace", "config.distance=trace: .*network.sharing=soft"),
        ("agent.config.network.core_size=9", "core_size=9: .* a network.core that is"),
        ("agent.config.network={core: lstm, core_size: 9}", None),
        ("agent.config.network.modules=9", "network.modules=9: .*network.sharing=modules"),
        ("agent={name: mix_and_match, config: {network: {core_size: 9}, components: "
         "[{core: lstm}, {}]}}", None),
        ("checkpoint.replay=drop", "replay=drop: nothing reads it, impala has no replay$"),
        ("agent={name: dqn} checkpoint.replay=drop", None),
    ],
)  # fmt: skip
def test_what_another_setting_leaves_without_effect_is_said(change, words):
    """A size of what is not there, a rule of members that are compared by another."""
    found = _said(*re.split(r" (?=checkpoint)", change))
    found = [x for x in found if "nothing reads" in x or "initial" in x]
    assert [bool(re.search(words or "", line)) for line in found] == [True] * bool(
        words
    )


def test_what_an_offline_stage_leaves_without_effect_is_said():
    """Prompts that no sequence reads, by any member; a replay, which it has not."""
    path = running.ROOT / "configs/gato_dark_room.yaml"
    share = "stages.1.agent.hparams.prompt_share=0"
    low = "stages.1.population.search={prompt_share: {low: 0, high: 1}}"
    drop = "stages.1.checkpoint.replay=drop"

    def said(*changes):
        return list(unread.lines(loading.load(path, changes).stages[1]))

    (prompt,), (replay,) = said(share), said(drop)
    assert prompt.startswith("training.prompt_length=20: nothing reads it")
    assert replay.endswith("gato has no replay")
    assert said(share, low) == []


def test_a_search_that_nothing_moves_says_so():
    """Without PBT values are drawn once."""
    search = {"entropy_cost": {"low": 0.0, "high": 1.0, "rule": "add"}}
    population = {"size": 4, "search": search}
    config = loading.from_dict(running.TINY | {"population": population})
    found = [x for x in unread.lines(config) if "entropy_cost.rule=add" in x]
    assert len(found) == 1 and "without population.pbt" in found[0]


@pytest.mark.parametrize(
    "path", sorted((running.ROOT / "configs").glob("*.yaml")), ids=lambda x: x.stem
)
def test_the_kits_configs_give_nothing_that_is_not_read(path):
    """Of each of their stages."""
    config = loading.load(path)
    for stage in getattr(config, "stages", [config]):
        if getattr(stage, "of", None) is None:
            assert list(unread.lines(stage)) == []
