"""What the README and the pages say is run, linked and counted."""

import doctest
import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

import mtrl_jax
from mtrl_jax import config, random
from mtrl_jax.envs.labyrinth import levels, world

ROOT = pathlib.Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
README, CONFIGS = ROOT / "README.md", ROOT / "configs" / "README.md"
RESULTS = sorted((BENCHMARKS / "results").glob("*.md"))
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"
PAGES = [README, CONFIGS, BENCHMARKS / "README.md", *RESULTS, CONTRIBUTING]
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"```.*?```", re.DOTALL)


@functools.cache
def text(page):
    return page.read_text()


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", text(page), re.DOTALL)


def run(page):
    """Returns the names that the first Python block of a page leaves."""
    code = blocks(page, "python")[0]
    scope: dict = {}
    exec(compile(code, page.name, "exec"), scope)
    return scope


def name(page):
    return str(page.relative_to(ROOT))


@pytest.fixture(name="tables", scope="module")
def _tables():
    """The script that writes the pages' tables."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        import tables

        yield tables


def test_the_readme_is_read_in_five_minutes():
    """The README has at most 180 lines."""
    assert len(text(README).splitlines()) <= 180


def test_the_python_example_trains_a_population_in_fifteen_lines():
    """The README's Python block runs as it stands and is at most 15 lines."""
    code = blocks(README, "python")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    scope = run(README)
    episodes = np.asarray(scope["out"].episodes["episodes"])
    assert episodes.shape == (4, 2)
    assert (episodes > 0).all()
    assert np.asarray(scope["out"].finite).all()
    assert int(scope["state"].step) == 10


def test_a_trained_run_is_played_in_three_lines(finished):
    """The README's second block, of a run and an observation that there are."""
    code = blocks(README, "python")[1]
    assert len(code.splitlines()) == 3
    scope = {"mtrl_jax": mtrl_jax, "obs": np.array([1.0, 0.0])}
    exec(code.replace('"RUN"', repr(str(finished))), scope)
    assert int(scope["action"]) in (0, 1)
    for name in ("params", "hparams", "metrics"):
        assert f"run.{name}(" in code and getattr(scope["run"], name)


def test_the_level_example_is_a_level(monkeypatch):
    """The block on Labyrinth adds a level by its parameters and a rule of its own."""
    monkeypatch.setattr(levels, "LEVELS", dict(levels.LEVELS))
    scope = run(CONFIGS)
    env = scope["env"]
    assert env.batch == (2, 64)
    assert env.spec.tasks[0].name == "labyrinth/rush"
    state, _ = jax.jit(env.reset)(random.roots(0, 2), env.params)
    state = jax.tree.map(lambda x: x[0, 0], state)
    taken = jnp.arange(world.THINGS) < 3
    events = world.Events(taken, jnp.int32(0), jnp.bool_(False))
    for time, expected in ((0, 6.0), (449, 6.0), (450, 3.0)):
        now = state.inner._replace(time=jnp.int32(time))
        reward, ended = scope["in_a_hurry"](now, events, state.params)
        assert reward == expected and not ended


def test_no_python_is_shown_that_is_not_run():
    """Python stands only where tests run it, and says so.

    They are above, in tests/outside and, of an auxiliary loss, in tests/agents.
    """
    shown = {name(page): len(blocks(page, "python")) for page in PAGES}
    assert {page: count for page, count in shown.items() if count} == {
        "README.md": 3,
        "configs/README.md": 1,
        ".github/CONTRIBUTING.md": 1,
    }
    for page in (README, CONFIGS, CONTRIBUTING):
        *before, _ = text(page).split("```python")
        for part in before:
            assert part.rstrip().endswith("(this block is run by a test):")


def test_the_section_on_outside_is_short():
    """At most 20 lines from heading to heading."""
    _, _, after = text(README).partition("## From outside the package\n")
    section, _, _ = after.partition("\n## ")
    assert 10 < len(section.strip().splitlines()) + 2 <= 20


@pytest.mark.parametrize("number", range(len(blocks(CONFIGS, "yaml"))))
def test_the_settings_shown_are_settings(number):
    """Each YAML block on configs is accepted, alone or with tasks added."""
    given = yaml.safe_load(blocks(CONFIGS, "yaml")[number])
    if "stages" not in given:
        task = "labyrinth/lasertag_one_opponent_small"
        given["tasks"] = [{"env": task, "options": {"actions": "native"}}]
    assert config.from_dict(given, where="README").seed == 0


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page):
    """Relative links, pictures and headings linked to exist."""
    for link in _LINK.findall(_FENCE.sub("", text(page))):
        if link.startswith("https://"):
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if heading:
            assert heading in headings(target), link


def headings(page):
    """Returns the anchors of a page's headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", _FENCE.sub("", text(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in found}


def test_every_file_named_is_there():
    """Files of the repository that a page names, in text or a command, exist."""
    named = {
        path
        for page in PAGES
        for path in re.findall(
            r"(?:mtrl_jax|configs|benchmarks|tests)/[\w/.]+\w", text(page)
        )
        if page.parent == ROOT or "/results/" not in path
    }
    missing = [path for path in sorted(named) if not (ROOT / path).exists()]
    assert named and not missing


def test_the_files_that_a_setting_walks_through_are_there():
    """Ten at most in the table on contributing; a run counts them: test_experiment.py."""
    _, _, after = text(CONTRIBUTING).partition("## The way of a setting\n")
    walk = re.findall(r"^\| `(.+?)` \|", after.partition("\n## ")[0], re.MULTILINE)
    assert 5 < len(walk) <= 10
    assert not [file for file in walk if not (ROOT / "mtrl_jax" / file).exists()]


def test_every_config_is_named():
    """Each config has its row on the page on configs."""
    files, _, _ = text(CONFIGS).partition("## Settings of a run")
    rows = re.findall(r"^\| `(\w+\.yaml)` \|", files, re.MULTILINE)
    assert sorted(rows) == sorted(path.name for path in CONFIGS.parent.glob("*.yaml"))


def test_every_page_is_in_the_index():
    """The index of results links to each page once."""
    linked = re.findall(r"\]\(results/(\w+\.md)\)", text(BENCHMARKS / "README.md"))
    assert sorted(linked) == [page.name for page in RESULTS]


def test_every_result_is_on_a_page():
    """Each JSON and picture in results is linked from a page beside it."""
    folder = BENCHMARKS / "results"
    linked = {link for page in RESULTS for link in _LINK.findall(text(page))}
    kept = [path for path in folder.rglob("*.*") if path.suffix != ".md"]
    orphans = [str(path.relative_to(folder)) for path in kept]
    assert len(kept) > 20
    assert not [path for path in orphans if path not in linked]


def test_results_name_no_folder_of_the_machine():
    """Of the machine that measured them."""
    found = []
    for path in sorted((BENCHMARKS / "results").rglob("*.json")):
        found += [
            f"{path.name}: {x}"
            for x in re.findall(
                r'"(/[^"]*/[^"]*|[^"]*(?:/home|/work|/tmp|/root)/[^"]*)"', text(path)
            )
        ]
    assert not found


def test_tables_are_what_their_results_say(tables):
    """Every marked table is what the script makes of the JSON; none is forgotten."""
    marked = [table for page in tables.pages() for table in tables.names(text(page))]
    assert sorted(marked) == sorted(tables.TABLES)
    stale = [name(p) for p in tables.pages() if tables.filled(text(p)) != text(p)]
    assert not stale, f"run python benchmarks/tables.py: {stale}"


def test_a_changed_number_is_noticed(tables):
    """A page whose table differs from the JSON is written anew, the rest is kept."""
    page = text(README).replace("**no**", "yes", 1)
    assert page != text(README)
    assert tables.filled(page) == text(README)
    with pytest.raises(KeyError):
        tables.filled("<!-- table: none -->\n<!-- /table -->")


def test_the_readme_has_one_table_of_results_with_misses(tables):
    """It has at most 15 rows, and what was not reached is among them."""
    assert tables.names(text(README)) == ["summary"]
    header, *rows = tables.TABLES["summary"]()
    assert header[-1] == "reached" and len(rows) <= 15
    assert {row[-1] for row in rows} == {"yes", "**no**"}


def test_numbers_in_cells_are_rounded_as_their_docstrings_say(tables):
    """The examples of the formatting functions hold."""
    found = doctest.testmod(tables.table_cells)
    assert found.attempted and not found.failed


def test_nothing_is_said_twice():
    """No sentence of more than six words stands on two pages."""
    first: dict[str, str] = {}
    twice = []
    for page in PAGES:
        prose = _FENCE.sub("", text(page))
        prose = re.sub(r"<!-- table.*?/table -->", "", prose, flags=re.DOTALL)
        for sentence in set(re.split(r"[.:|\n]\s*", prose)):
            if len(re.findall(r"\w+", sentence)) > 6:
                if sentence in first:
                    twice.append((first[sentence], name(page), sentence))
                first[sentence] = name(page)
    assert not twice
