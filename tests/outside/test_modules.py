"""Agents and environments from outside the package: what is found, and what is said."""

import importlib.metadata
import json
import pathlib
import sys
import textwrap
from unittest import mock

import numpy as np
import pytest
import yaml

from mtrl_jax import agents, config, envs, errors, plugins
from mtrl_jax.config import agent_settings, modules, resuming
from mtrl_jax.experiments import collect, listing, render

HERE = pathlib.Path(__file__).parent
PLAIN = {"tasks": [{"env": "probe/action"}]}
# An agent's file of three of the four names.
AGENT = """
    import dataclasses
    from typing import NamedTuple
    from mtrl_jax import types
    from mtrl_jax.agents.common import optimiser
    @dataclasses.dataclass(frozen=True)
    class Config:
        size: int = 3
    class Hparams(NamedTuple):
        rate: float = 0.5
    INFO = types.AgentInfo("nothing")
    def make(spec, config): ...
"""
ENV = """
    import jax.numpy as jnp
    from mtrl_jax import types
    from mtrl_jax.envs import core
    def names():
        return ["one"]
    def task(name, options):
        def reset(key, params):
            return jnp.int32(0), jnp.zeros(2)
        def step(key, state, action, params):
            return state + 1, jnp.ones(2), 1.0, state >= 3, False
        return core.task("mine/one", reset, step, types.Discrete(2))
"""


@pytest.fixture(autouse=True)
def _own_search_path(monkeypatch):
    """What a test adds to Python's path is gone after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture(name="write")
def _write(tmp_path):
    """``write(name, code, *changes)``: a file beside the config; each test has its own."""

    def write(name, code, *changes):
        for old, new in changes:
            assert old in code
            code = code.replace(old, new)
        path = tmp_path / f"{name}.py"
        path.write_text(textwrap.dedent(code))
        return path

    return write


def loaded(tmp_path, **values):
    """Returns the settings of a file that ``values`` are written to."""
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({**PLAIN, **values}))
    return config.load(path)


def test_a_file_beside_the_config_is_an_agent_and_says_where_it_is(tmp_path, write):
    """Its defaults are filled in; the settings that are kept load from anywhere."""
    write("own_agent_a", AGENT)
    found = loaded(tmp_path, agent={"name": "own_agent_a"})
    assert found.agent.name == f"own_agent_a@{tmp_path}"
    assert found.agent.config == {"size": 3}
    assert found.agent.hparams == {"rate": 0.5}
    again = config.from_dict(config.to_dict(found))
    assert again == found
    assert agent_settings.module(again).__name__ == "own_agent_a"


def test_a_file_beside_the_config_is_a_family_of_environments(tmp_path, write):
    """By its name, also in a stage; options and errors are as those of the package's."""
    write("own_env_a", ENV)
    found = loaded(tmp_path, tasks=[{"env": "own_env_a/one"}])
    name = found.tasks[0].env
    assert name == f"own_env_a/one@{tmp_path}"
    assert envs.is_named(name) and not envs.runs_on_host(name)
    env = envs.make(name, (2, 3), {"wrappers": {"time_in_episode": 10}})
    assert env.spec.tasks[0].name == "mine/one"
    assert env.spec.obs["vector"].shape == (3,)
    stage = {"name": "a", "kind": "online", "tasks": [{"env": "own_env_a/one"}]}
    path = tmp_path / "staged.yaml"
    path.write_text(yaml.safe_dump({"stages": [stage]}))
    assert config.load(path).stages[0].tasks[0].env == name
    with pytest.raises(ValueError, match="own_env_a/two is unknown; own_env_a has one"):
        envs.make(f"own_env_a/two@{tmp_path}", (1, 1))


def test_a_package_that_ends_the_process_is_an_error_too(tmp_path, write):
    """Of a.b Python imports a to find b."""
    (tmp_path / "own_script").mkdir()
    write("own_script/__init__", "raise SystemExit(3)")
    write("own_script/agent", AGENT)
    message = r"agent.name='own_script.agent@.*: SystemExit: 3 .*; what a script runs"
    with pytest.raises(errors.ConfigError, match=message):
        loaded(tmp_path, agent={"name": "own_script.agent"})


def test_an_environments_script_is_an_error(write):
    """As an agent's."""
    path = write("own_env_script", "raise SystemExit")
    message = r"^env='own_env_script@.*SystemExit: \(.*, line 1\); what a script runs"
    with pytest.raises(ValueError, match=message):
        envs.make(f"own_env_script/one@{path.parent}", (1, 1))


def test_a_family_alone_is_no_environment(tmp_path, write):
    """A file's, an own one: what is asked for is a name in it, without its folder."""
    write("own_env_b", ENV)
    name = loaded(tmp_path, tasks=[{"env": "own_env_b"}]).tasks[0].env
    for given, family in ((name, "own_env_b"), ("labyrinth", "labyrinth")):
        with pytest.raises(ValueError, match=f"^env: .* give {family}/NAME$"):
            envs.make(given, (1, 1))


def test_a_folder_in_the_name_begins_at_the_config(tmp_path, write):
    """name: NAME@FOLDER of a config in another folder."""
    write("own_agent_b", AGENT)
    (tmp_path / "configs").mkdir()
    found = loaded(tmp_path / "configs", agent={"name": "own_agent_b@.."})
    assert found.agent.name == f"own_agent_b@{tmp_path}"


def test_a_module_of_a_package_is_a_dotted_name(tmp_path, write):
    """Of an installed one; and of a package's folder beside the config."""
    assert agents.get("outside.reinforce").INFO.summary.startswith("REINFORCE")
    (tmp_path / "own_package").mkdir()
    write("own_package/agent", AGENT)
    found = loaded(tmp_path, agent={"name": "own_package.agent"})
    assert found.agent.name == f"own_package.agent@{tmp_path}"


def test_entry_points_add_agents_and_environments(tmp_path, write):
    """An installed package's names are names like the package's own."""
    write("own_pair_a", AGENT + ENV)
    sys.path.append(str(tmp_path))

    def points(group):
        found = [("williams", "outside.reinforce", agents.GROUP)]
        found += [("halls", "own_pair_a", envs.GROUP)]
        return [importlib.metadata.EntryPoint(*x) for x in found if x[2] == group]

    plugins.entry_points.cache_clear()
    with mock.patch.object(
        importlib.metadata, "entry_points", lambda group: points(group)
    ):
        assert agents.get("williams").__name__ == "outside.reinforce"
        assert loaded(tmp_path, agent={"name": "williams"}).agent.name == "williams"
        assert envs.is_named("halls/one")
        assert envs.make("halls/one", (1, 2)).batch == (1, 2)
        with pytest.raises(ValueError, match="'wiliams' is unknown, did you mean will"):
            agents.get("wiliams")
    plugins.entry_points.cache_clear()


@pytest.mark.parametrize(
    ("number", "changes", "message"),
    [
        (0, [("import dataclasses", "import numpyy")],
         "does not import: ModuleNotFoundError: No module named 'numpyy' .*line 2"),
        (1, [("size: int = 3", "size: int = three")], "NameError: name 'three' .*line 8"),
        (2, [("class Hparams(NamedTuple):", "class Hparams(NamedTuple:")], "SyntaxError"),
        (3, [("INFO", "INFOS"), ("make", "build")],
         "offers no INFO and no make; .* Config, Hparams, INFO, make"),
        (4, [("(frozen=True)", "")], "Config must be a frozen dataclass"),
        (5, [("rate: float = 0.5", "rate: float")], "Hparams must be a NamedTuple .* def"),
        (6, [('types.AgentInfo("nothing")', "'x'")], "INFO must be a types.AgentInfo"),
        (7, [("make(spec, config)", "make(spec)")], r"make must be .*\(spec, config\)"),
        (8, [("rate: float = 0.5",
              "optimiser: optimiser.Hparams = optimiser.Hparams()")],
         "begin the file with `from __future__ import annotations`"),
        (9, [("import dataclasses", "raise SystemExit(3)")],
         r"SystemExit: 3 \(own_bad_agent_9.py, line 2\); .* below `if __name__ == "),
        (10, [("import dataclasses", "import argparse as a; a.ArgumentParser().error('')")],
         r"SystemExit: 2 \(own_bad_agent_10.py, line 2\); what a script runs is to stand below"),
    ],
)  # fmt: skip
def test_an_agents_file_that_cannot_be_is_refused_in_one_line(
    number, changes, message, tmp_path, write
):
    """The field, the name and the reason, before anything else happens."""
    name = f"own_bad_agent_{number}"
    write(name, AGENT, *changes)
    with pytest.raises(errors.ConfigError, match=message) as error:
        loaded(tmp_path, agent={"name": name})
    assert f"agent.name='{name}@{tmp_path}': " in str(error.value)
    assert "\n" not in str(error.value)


def test_with_lazy_annotations_a_group_may_have_its_modules_name(tmp_path, write):
    """As the hint above says."""
    changed = (
        "rate: float = 0.5",
        "optimiser: optimiser.Hparams = optimiser.Hparams()",
    )
    write("own_agent_c", "\n    from __future__ import annotations" + AGENT, changed)
    found = loaded(tmp_path, agent={"name": "own_agent_c"})
    assert found.agent.hparams["learning_rate"] == 1e-3


@pytest.mark.parametrize(
    ("number", "changes", "message"),
    [
        (0, [("def names", "def all_names")], "offers no names; .* task"),
        (1, [("task(name, options)", "task(name)")],
         r"\.task takes \(name\), give it \(name, options\)"),
        (2, [("reset(key, params)", "reset(key)")],
         r"/one: reset takes \(key\), give it \(key, params\)$"),
        (3, [("step(key, state, action, params)", "step(state, action)")],
         r"/one: step takes \(state, action\), give it \(key, state, action, params\)"),
        (4, [(", False\n", "\n")], "/one: step returned 4 values, give 5"),
        (5, [("jnp.ones(2), 1.0", "jnp.ones(3), 1.0")], "/one: .*observations are"),
        (6, [("1.0, state", "jnp.ones(2), state")], "/one: step's reward must be one"),
        (7, [("return core.task", "core.task")], "/one: task returned a NoneType"),
        (8, [("state + 1", "state + one")], r"/one: step: NameError: .*'one' .*line 11"),
        (9, [("return core.task", "raise SystemExit")], "/one: task: SystemExit: .*line"),
        (10, [("types.Discrete(2)", "types.Discrete(2), info=lambda state: {}")],
         r"/one: info takes \(state\), give it \(state, params\)$"),
        (11, [("types.Discrete(2)", "types.Discrete(2), render=names")],
         r"/one: render takes \(\), give it \(state, params\)$"),
        (12, [("reset, step, types", "None, step, types")],
         r"/one: reset must be a function of \(key, params\)$"),
        (13, [("Discrete(2))", "Discrete(2))._replace(step=names)")],
         r"/one: step takes \(\), give it \(key, state, action, params\)$"),
        (14, [("def names", "tasks_of = lambda name: None\n    def names")],
         r"_14\.tasks_of takes \(name\), give it \(name, options\)$"),
        (15, [('["one"]', '["own_bad_env_15/one"]')],
         "/one: names.. has own_bad_env_15/one; give names without own_bad_env_15/$"),
        (16, [("Discrete(2)", "Discrete(0)")], "action: got .*n=0.*, give integers"),
        (17, [("Discrete(2)", "Discrete(2.0)")], "action: got .*n=2.0.*, give integers"),
        (18, [("Discrete(2)", "Factorised(())")], r"action: got .*sizes=\(\).*, give"),
        (19, [("types.Discrete(2)", "2")], "action: got 2, give a types.Discrete, .* line"),
        (20, [("Discrete(2)", "Box(-1.0, 1.0)")], "action: got .*, give two tuples of"),
        (21, [("Discrete(2)", "Box((1.0,), (-1.0,))")], "each of low below that of high"),
        (22, [("Discrete(2)", "Box((0.0,), (1.0, 1.0))")], "give two tuples of as many"),
        (23, [("types.Discrete(2)", "types.Discrete(2), max_steps=0")],
         "max_steps: got 0, give an integer from 1 to"),
        (24, [('"mine/one"', "3")], "name: got 3, give a string"),
        (25, [("types.Discrete(2)",
               "types.Discrete(2), info=lambda s, p: {'won': jnp.ones(1)}")],
         r"info: 'won' is float32\[1\], give one number"),
        (26, [("types.Discrete(2)", "types.Discrete(2), info=lambda s, p: s")],
         "info: got a .*, give a dict of numbers by their names"),
    ],
)  # fmt: skip
def test_an_environments_file_that_cannot_be_is_refused_in_one_line(
    number, changes, message, tmp_path, write
):
    """What is wrong with which function, with its line where it was raised there."""
    name = f"own_bad_env_{number}"
    write(name, ENV, *changes)
    with pytest.raises(ValueError, match=message) as error:
        envs.make(f"{name}/one@{tmp_path}", (1, 1))
    assert str(error.value).startswith(f"env: {name}") and "\n" not in str(error.value)


@pytest.mark.parametrize("function", ["reset", "send", "recv"])
def test_a_pools_error_in_the_run_is_one_line(tmp_path, write, function):
    """What was raised, where in the file, and that the run can go on."""
    pool = """
        from mtrl_jax import envs
        def names():
            return ["action"]
        def make(name, batch, options, seed): ...
        def make_host(name, batch, options, seed, first_slot):
            env = envs.make_host("probe/action", batch, options, seed, first_slot)
            def fails(*args):
                raise ZeroDivisionError("a pool\\nfails")
            return env._replace(FUNCTION=fails)
    """
    module = f"flaky_{function}"  # Python imports a name once.
    write(module, pool, ("FUNCTION", function))
    found = loaded(tmp_path, tasks=[{"env": f"{module}/action"}])
    env = envs.make_host(found.tasks[0].env, (1, 2))
    with pytest.raises(errors.RunError) as raised:
        if function == "reset":
            env.reset()
        ts = env.reset()
        env.send(np.zeros(ts.reward.shape, np.int32))
        env.recv()
    line = str(raised.value)
    assert "\n" not in line
    assert f"{module}/action: {function}: ZeroDivisionError: a pool fails" in line
    assert f"{module}.py, line" in line


def test_a_file_that_has_moved_is_found_where_python_finds_it(
    tmp_path, write, monkeypatch
):
    """Else one line says where it was."""
    name = f"own_agent_d@{tmp_path}"
    with pytest.raises(ValueError, match=f"there is no own_agent_d.py in {tmp_path}"):
        agents.get(name)
    (tmp_path / "new").mkdir()
    write("new/own_agent_d", AGENT)
    monkeypatch.syspath_prepend(tmp_path / "new")
    with pytest.warns(UserWarning, match=r"it is not there; .*own_agent_d.py is used"):
        assert agents.get(name).Config().size == 3


def test_a_run_goes_on_with_a_file_in_another_folder_and_no_other_agent(
    tmp_path, write
):
    """The folder of a module may change, its name not."""
    write("own_agent_e", AGENT)
    (tmp_path / "new").mkdir()
    write("new/own_agent_e", AGENT)
    old = loaded(tmp_path, agent={"name": "own_agent_e"})
    moved = config.to_dict(old)
    moved["agent"]["name"] = f"own_agent_e@{tmp_path / 'new'}"
    new = old.model_copy(
        update={"agent": old.agent.model_copy(update={"name": moved["agent"]["name"]})}
    )
    assert list(resuming.check_resumable(old, new)) == ["agent.name"]
    other = config.from_dict({**moved, "agent": {"name": "ppo"}})
    with pytest.raises(errors.ConfigError, match=r"agent\.(name|config|hparams)"):
        resuming.check_resumable(old, other)


def test_histories_are_the_same_wherever_the_module_of_their_tasks_is(tmp_path, write):
    """Its folder is not written down; datasets of earlier versions have the one it had."""
    write("own_env_k", ENV)
    stage = {
        **{"name": "play", "kind": "collect", "agent": {"name": "ppo"}},
        "tasks": [{"env": "own_env_k/one"}],
        "training": {"env_steps": 8, "unroll_length": 4, "updates_per_chunk": 1},
    }
    path = tmp_path / "staged.yaml"
    path.write_text(yaml.safe_dump({"stages": [stage]}))
    (stage,) = config.load(path).stages
    assert stage.tasks[0].env == f"own_env_k/one@{tmp_path}"
    record = collect.make_program(stage, check=False).record
    record.open(tmp_path, 0).close()
    path = tmp_path / "histories/meta.json"
    assert str(tmp_path) not in path.read_text()
    meta = json.loads(path.read_text())
    (task,) = meta["config"]["tasks"]
    task["env"] = "own_env_k/one@/gone"
    path.write_text(json.dumps(meta))
    record.open(tmp_path, 0).close()
    task["env"] = "own_env_k/two@/gone"
    path.write_text(json.dumps(meta))
    with pytest.raises(errors.DatasetError, match="config: the dataset in"):
        record.open(tmp_path, 0)


def test_no_code_is_run_because_a_checkpoint_names_it(tmp_path, write):
    """Of settings in a checkpoint, modules are those that the run's own settings name."""
    write("own_agent_h", AGENT)
    (tmp_path / "elsewhere").mkdir()
    for name in ("own_agent_h", "own_agent_i"):
        write(f"elsewhere/{name}", "raise SystemExit('it ran')")
    found = loaded(tmp_path, agent={"name": "own_agent_h"})
    saved = config.to_dict(found)
    assert modules.as_named_by(saved, found, "checkpoint 3") == saved
    moved = {**saved["agent"], "name": f"own_agent_h@{tmp_path}/elsewhere"}
    assert modules.as_named_by({**saved, "agent": moved}, found, "x") == saved
    for name in (f"own_agent_i@{tmp_path}/elsewhere", "antigravity", f"ppo@{tmp_path}"):
        other = {**saved, "agent": {**saved["agent"], "name": name}}
        with pytest.raises(errors.ConfigError, match=r"checkpoint 3: agent.name"):
            modules.as_named_by(other, found, "checkpoint 3")
    envs_of = {**saved, "tasks": [{**saved["tasks"][0], "env": "antigravity/one"}]}
    with pytest.raises(errors.ConfigError, match=r"tasks.0.env"):
        modules.as_named_by(envs_of, found, "checkpoint 3")


def test_no_code_is_run_from_a_runs_folder(tmp_path, write):
    """A run is data, of anybody: a file in it is no agent, asked for or not."""
    path = write("own_agent_f", "raise SystemExit('was run')")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({**PLAIN, "agent": {"name": "own_agent_f"}})
    )
    with pytest.raises(errors.ConfigError, match="'own_agent_f' is unknown"):
        config.load(tmp_path / "config.yaml")
    with pytest.raises(ValueError, match=f"{tmp_path} is the folder of a run, from"):
        agents.get(f"own_agent_f@{path.parent}")
    inner = tmp_path / "stages" / "code"
    inner.mkdir(parents=True)
    path.rename(inner / path.name)
    with pytest.raises(ValueError, match="is the folder of a run"):
        agents.get(f"own_agent_f@{inner}")


def test_a_file_hides_nothing_and_is_not_hidden_in_silence(tmp_path, write):
    """A folder is searched last; a name that Python has already is an error."""
    write("colorsys", AGENT)
    with pytest.raises(
        errors.ConfigError, match=r"colorsys.py is hidden by .*; rename"
    ):
        loaded(tmp_path, agent={"name": "colorsys"})
    assert sys.path[-1] == str(tmp_path)


@pytest.mark.parametrize("name", ["./mine.py", "mine.py", "mine:Agent", "lab/mine"])
def test_a_path_or_a_class_is_answered_with_the_name_of_the_module(name):
    """What other libraries are given in its place."""
    with pytest.raises(
        ValueError, match="unknown; a module is given by its name: mine,"
    ):
        agents.get(name)


@pytest.mark.parametrize("name", ["../evil", "./mine", "."])
def test_a_path_beside_the_config_is_unknown_too(name, tmp_path, monkeypatch):
    """Of an agent and of an environment, with the config in the folder one is in."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.ConfigError, match=r"agent\.name=.* is unknown"):
        loaded(pathlib.Path(), agent={"name": name})
    found = loaded(pathlib.Path(), tasks=[{"env": f"{name}/one"}]).tasks[0].env
    with pytest.raises(ValueError, match=r"^env='.*' is unknown"):
        envs.make(found, (1, 1))


def test_a_file_here_is_listed_and_rendered_by_its_name(tmp_path, write, monkeypatch):
    """As it is in a config that lies here; a family that nobody has is said to be none."""
    write("own_here", ENV + AGENT)
    monkeypatch.chdir(tmp_path)
    assert next(listing.lines("agents/own_here")).startswith("agent.config.size")
    out = pathlib.Path("own.gif")
    assert render.render(pathlib.Path("own_here/one"), out, None, 2, 0).is_file()
    with pytest.raises(
        errors.ConfigError, match=r"did you mean labyrinth\?; give the fol"
    ):
        render.render(pathlib.Path("labyrint/x"), out, None, 2, 0)


@pytest.mark.parametrize("name", ["../evil", "a b", "", ".x", "os;", "impalla"])
def test_what_is_no_name_is_unknown(name):
    """No path and no code: a name is identifiers with dots."""
    with pytest.raises(ValueError, match=r"agent\.name=.* is unknown"):
        agents.get(name)
