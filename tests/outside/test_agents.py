"""Agents from outside the package whose functions are not what types.Agent says."""

import pathlib
import sys

import pytest
import yaml

from mtrl_jax import config, errors
from mtrl_jax.experiments import online

REINFORCE = pathlib.Path(__file__).parent / "reinforce.py"
END = "return *learning.update(loss, opt, learner, rollout, key, hp), ()"
ACT = "return unrolls.act("


@pytest.fixture(autouse=True)
def _own_search_path(monkeypatch):
    """What a test adds to Python's path is gone after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))


def made(tmp_path, name, *changes, env="probe/action"):
    """Returns the program of a run of REINFORCE with changes to its file."""
    code = REINFORCE.read_text()
    for old, new in changes:
        assert old in code
        code = code.replace(old, new)
    (tmp_path / f"{name}.py").write_text(code)
    path = tmp_path / "own.yaml"
    settings = {"tasks": [{"env": env, "slots": 4}], "agent": {"name": name}}
    path.write_text(yaml.safe_dump(settings))
    return online.make_program(config.load(path))


def test_the_agent_as_it_is_has_a_program(tmp_path):
    """Else nothing below is about the changes."""
    assert made(tmp_path, "own_reinforce").run_length.updates > 0


@pytest.mark.parametrize(
    ("number", "changes", "message"),
    [
        (0, [("return types.Agent(", "types.Agent(")], "make returned a NoneType, give a types.Agent"),
        (1, [("def init(key, hp)", "def init(key)")],
         r"init takes \(key\), give it \(key, hp\)"),
        (2, [(ACT, "return (lambda a, c, e: (a, c))(*unrolls.act("),
             ("key, hp.temperature)", "key, hp.temperature))")],
         "act returned 2 values, give 3: action, carry, extras"),
        (3, [(ACT, "return (lambda a, c, e: (1.0 * a, c, e))(*unrolls.act("),
             ("key, hp.temperature)", "key, hp.temperature))")],
         r"act's action is float32\[4\], give int32\[4\]"),
        (4, [(ACT, "return (lambda a, c, e: (a[0], c, e))(*unrolls.act("),
             ("key, hp.temperature)", "key, hp.temperature))")],
         r"act's action is int32\[\], give int32\[4\]"),
        (5, [(ACT, "return (lambda a, c, e: (a, (c, 0.0), e))(*unrolls.act("),
             ("key, hp.temperature)", "key, hp.temperature))")],
         "act's carry is another tree than agent.carry made: it has"),
        (6, [(END, END.replace("*", "").replace(", ()", ""))],
         "update returned 2 values, give 3: learner, metrics, feedback"),
        (7, [('{"loss": total}', '{"loss": total[None]}')],
         r"update's metric 'loss' is float32\[1\], give one number"),
        (8, [("def update(", "def changed(learner, *more):\n"
              "        new, metrics, _ = update(learner, *more)\n"
              "        half = jax.tree.map(lambda x: x.astype(jnp.float16), new.params)\n"
              "        return new._replace(params=half), metrics, ()\n\n"
              "    def update("), ("act, update)", "act, changed)")],
         r"update's learner\.params.* is float16\[.*, init made float32\[.*; keep"),
        (9, [("def update(", "def changed(learner, *more):\n"
              "        new, metrics, _ = update(learner, *more)\n"
              "        return (new,), metrics, ()\n\n"
              "    def update("), ("act, update)", "act, changed)")],
         "update's learner is another tree than init made: it has .* for .*; keep the tree"),
        (10, [("hp.temperature", "hp.temprature")],
         r"AttributeError: .*'temprature' \(own_bad_10.py, line \d+\)$"),
        (11, [("jax.lax.cummax(", "jax.lax.cumax(")],
         r"AttributeError: .*'cumax' \(own_bad_11.py, line \d+\)$"),
        (12, [("jnp.where(first_t, 0.0, discount_t)", "jnp.zeros(3) + discount_t[:2]")],
         r"(ValueError|TypeError): .* \(own_bad_12.py, line \d+\)$"),
        (13, [("network = actor", "spec.action.m\n    network = actor")],
         r"AttributeError: .* no attribute 'm' \(own_bad_13.py, line \d+\)$"),
        (14, [("network = actor", "raise ValueError('few')\n    network = actor")],
         r"ValueError: few \(own_bad_14.py, line \d+\)$"),
    ],
)  # fmt: skip
def test_an_agent_that_breaks_the_contract_is_refused_in_one_line(
    number, changes, message, tmp_path
):
    """Before a run's folder is made: its name, the function and what it has to give."""
    name = f"own_bad_{number}"
    with pytest.raises(errors.ConfigError, match=message) as error:
        made(tmp_path, name, *changes)
    assert str(error.value).startswith(f"agent.name='{name}@{tmp_path}': ")
    assert "\n" not in str(error.value)


def test_a_setting_that_an_agents_file_refuses_is_named_as_it_names_it(tmp_path):
    """A ValueError that begins with a field of its Config goes on with its path."""
    change = "raise ValueError('network: too small')\n    network = actor"
    with pytest.raises(
        errors.ConfigError, match=r"^agent\.config\.network: too small$"
    ):
        made(tmp_path, "own_picky", ("network = actor", change))
