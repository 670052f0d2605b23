"""Whatever the package defines is read by it or by a benchmark."""

import ast
import pathlib

import callers

ROOT = pathlib.Path(__file__).resolve().parents[1] / "mtrl_jax"
# What the package itself does not read, and why it is there.
PUBLIC = {
    "config/loading.py: construct_mapping": "PyYAML calls it",
    "envs/gymnax.py: numbers": "a game's options that are numbers, and their bounds",
    "envs/labyrinth/rays.py: BODY": "the names of an observation's last numbers",
    "envs/reference_scores.py: measure_random": "CONTRIBUTING: a new environment's score",
    "experiments/loaded.py: load": "README: mtrl_jax.load",
    "hparams.py: joined": "CONTRIBUTING: a weight of one's own beside an agent's",
    "losses/distral_equations.py: regulariser": "the equation that tests hold distral to",
    "losses/gradient_combiners.py: grad_norm_weights": "configs: for agents of your own",
    "metrics/estimates.py: improvement": "benchmarks: one of rliable's four measures",
    "metrics/estimates.py: performance_profile": "benchmarks: another of them",
    "metrics/transfer.py: forgetting": "configs: of a stage's policy after the next",
}
# Of the files that AGENTS and ENVS name: read of whichever a run is of.
OFFERED = {
    *("Config", "Hparams", "INFO", "make"),
    *("names", "task", "tasks_of", "optimal_action_in"),
    *("make_host", "describe", "SUITES"),
}


def test_what_waits_for_a_caller_is_found():
    """Words in docstrings and comments, and a function's own calls, are no callers."""
    source = (
        "def a(): 'Before b and C.d.'; return a()  # b\n"
        "def b(x): ...\nclass C:\n    def d(self): ...\n    def e(self): ...\n"
        "F = G = 1\ndef h(): return C().e, G\ndef i(): ...\n"
        "def j(j): return j\n__all__ = ['a', 'b', 'h', 'i', 'j']\n"
    )
    # What is called b, i or j is of something else.
    caller = (
        "from mtrl_jax import m as i, n\nfrom mtrl_jax.n import k\n"
        "def b(x, j): return i.h(F=1), x.i, j.b, 'i', n.F, k.i, b\n"
    )
    trees = {"m.py": ast.parse(source), "n.py": ast.parse("from .m import F, i as k")}
    found = callers.waiting(trees, [ast.parse(caller)])
    assert found == {"m.py: a", "m.py: b", "m.py: d", "m.py: j"}
    trees["n.py"] = ast.parse("from . import m\nparts = (m,)")
    assert callers.waiting(trees, [ast.parse("x.parts, y.a, y.b")]) == {
        *("m.py: d", "m.py: h", "m.py: i", "m.py: j", "m.py: F", "n.py: parts"),
    }


def test_of_a_file_that_is_chosen_by_name_what_it_offers_is_read():
    """Of any other file and of any other name it is not."""
    module = ast.parse("def make(): ...\ndef mine(): ...")
    trees = {"agents/a.py": module, "agents/b.py": module}
    trees["agents/__init__.py"] = ast.parse("{1: 'mtrl_jax.agents.a'}[1].make().mine")
    found = callers.waiting(trees, offered={"make"})
    assert found == {"agents/a.py: mine", "agents/b.py: make", "agents/b.py: mine"}


def test_nothing_waits_for_a_caller():
    """What a file defines is read in the package or a benchmark, or is in PUBLIC."""
    trees = {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text())
        for path in sorted(ROOT.rglob("*.py"))
    }
    scripts = (ROOT.parent / "benchmarks").rglob("*.py")
    others = [ast.parse(path.read_text()) for path in scripts]
    found = callers.waiting(trees, others, OFFERED)
    assert found == set(PUBLIC), "nothing but tests reaches these"
