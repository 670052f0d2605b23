"""How the package speaks: names and docstrings in the words of the field."""

import ast
import io
import pathlib
import re
import tokenize

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mtrl_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))
# This file has to name them.
TESTS = sorted(set((ROOT / "tests").rglob("*.py")) - {pathlib.Path(__file__).resolve()})
PROSE = [ROOT / "README.md", *ROOT.glob(".github/*.md"), *ROOT.glob("configs/*.*")]
PROSE += [ROOT / "benchmarks" / "README.md", *ROOT.glob("benchmarks/results/*.md")]
# Arrays, schedules and agents are no people.
BANNED = re.compile(
    r"(?<![A-Za-z])(told|hears?|heard|listen(s|ed)?|whoever|dear(er|est)?)(?![A-Za-z])",
    re.IGNORECASE,
)
# Of a checkpoint's file, and of nothing else.
PIECES = re.compile(r"(?<![A-Za-z])pieces?(?![A-Za-z])", re.IGNORECASE)
# Of a procedure that returns something, too.
VERB = re.compile(
    r"(Adds|Applies|Does|Draws|Makes|Prints|Reads|Runs|Saves|Sets|Trains|Writes)"
)


def words(source):
    """Returns [(line, text)] of every name, comment and string of a file."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    kept = (tokenize.NAME, tokenize.COMMENT, tokenize.STRING)
    return [(token.start[0], token.string) for token in tokens if token.type in kept]


def functions(source):
    """Returns (function, first line of its docstring) of those that have one."""
    nodes = [x for x in ast.walk(ast.parse(source)) if isinstance(x, ast.FunctionDef)]
    found = [(x, ast.get_docstring(x)) for x in nodes]
    return [(x, text.split("\n\n")[0]) for x, text in found if text]


def gives_nothing(function):
    """Returns whether a function is annotated to return None."""
    return isinstance(function.returns, ast.Constant) and function.returns.value is None


@pytest.mark.parametrize(
    "source",
    [
        "def whoever(): ...",
        "x = 1  # as told",
        "'''It hears.'''",
        "a.listen()",
        "dearest = 1",
    ],
)
def test_a_word_is_found_wherever_it_stands(source):
    """The rule below can fail."""
    assert [text for _, text in words(source) if BANNED.search(text)]


def test_names_and_docstrings_are_in_the_words_of_the_field():
    """Nothing is told, heard or dear; pieces are of a checkpoint's files."""
    found = []
    for path in FILES:
        name = path.relative_to(PACKAGE).as_posix()
        rules = [BANNED] if name.startswith("checkpoint/") else [BANNED, PIECES]
        found += [
            f"{name}:{line}: {rule.search(text).group()}"
            for line, text in words(path.read_text(encoding="utf-8"))
            for rule in rules
            if rule.search(text)
        ]
    for path in [*SCRIPTS, *TESTS]:
        lines = words(path.read_text(encoding="utf-8"))
        found += [
            f"{path.name}:{n}: {text}" for n, text in lines if BANNED.search(text)
        ]
    for path in PROSE:
        lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        found += [f"{path.name}:{n}" for n, line in lines if BANNED.search(line)]
    assert not found


def test_first_lines_say_what_a_function_is():
    """A procedure's is an imperative, a check's says unless when it raises."""
    wrong = []
    for path in FILES:
        for function, first in functions(path.read_text(encoding="utf-8")):
            where = f"{path.relative_to(PACKAGE)}:{function.lineno}: {first}"
            verb = first.split()[0]
            if re.match(r"Returns (nothing|after|once)\b", first):
                wrong.append(where)
            if not gives_nothing(function):
                wrong += [where] if VERB.fullmatch(verb) else []
            elif verb == "Raises":
                wrong += [] if "unless" in first else [where]
            elif verb.endswith("s") and verb not in ("Pass", "Discuss"):
                wrong.append(where)
    assert not wrong
