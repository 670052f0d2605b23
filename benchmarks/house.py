"""The package as a house, of this checkout and of earlier ones: folders, sizes, chains.

    python benchmarks/house.py [--checkouts NAME=FOLDER ...] [--out benchmarks/results]

    folder     modules of each folder, ``__init__`` left out
    lines      of a module: median and most
    longest    the longest chain of modules that import each other, at their top or inside
               of a function; from the command line down
    twice      names that several modules have

Nothing is imported; files are parsed. Prints the table; writes house.json.
"""

from __future__ import annotations

import ast
import collections
import pathlib
import statistics
from collections.abc import Iterator
from typing import Any

import common

ROOT = pathlib.Path(__file__).resolve().parent.parent
COLUMNS = {"checkout": "<10", "measure": "<28", "value": ">8"}


def main() -> None:
    """Parse the checkouts, print and write."""
    args = common.parser(__doc__ or "", "the same")
    args.add_argument("--checkouts", nargs="+", default=[], metavar="NAME=FOLDER")
    given = args.parse_args()
    checkouts = dict(each.split("=", 1) for each in given.checkouts)
    rows = []
    for name, folder in {**checkouts, "today": ROOT}.items():
        rows.append({"checkout": name} | house(pathlib.Path(folder)))
    print(common.header(COLUMNS))
    for row in rows:
        for measure, value in {**row["folders"], **row["measures"]}.items():
            line = {"checkout": row["checkout"], "measure": measure, "value": value}
            print(common.line(line, COLUMNS))
        print(" -> ".join(row["chain"]))
    result = {"machine": common.moment(), "rows": rows}
    print(f"written: {common.write(given.out, 'house', result)}")


def house(checkout: pathlib.Path) -> dict[str, Any]:
    """Returns the measures of a checkout's package."""
    package = checkout / "mtrl_jax"
    modules = {name_of(path, checkout): path for path in sorted(package.rglob("*.py"))}
    own = {k: path for k, path in modules.items() if path.stem != "__init__"}
    lines = [len(path.read_text().splitlines()) for path in own.values()]
    folders = collections.Counter(
        path.parent.relative_to(checkout).as_posix() for path in own.values()
    )
    named = collections.Counter(path.stem for path in own.values())
    chain = longest(graph(modules))
    return {
        "folders": dict(sorted(folders.items())),
        "measures": {
            "modules": len(own),
            "modules of the fullest folder": max(folders.values()),
            "lines, median": int(statistics.median(lines)),
            "lines, most": max(lines),
            "names of several modules": sum(count > 1 for count in named.values()),
            "longest chain": len(chain),
        },
        "chain": chain,
    }


def name_of(path: pathlib.Path, checkout: pathlib.Path) -> str:
    """Returns a file's name as a module, of a package that of its folder."""
    parts = path.relative_to(checkout).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def graph(modules: dict[str, pathlib.Path]) -> dict[str, set[str]]:
    """Returns for each module those of the package that it imports."""
    return {
        name: {other for other in imported(name, path, set(modules)) if other != name}
        for name, path in modules.items()
    }


def imported(name: str, path: pathlib.Path, known: set[str]) -> Iterator[str]:
    """Yields the modules that a file imports, those for type checkers left out."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (x.name for x in node.names if x.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else []), node.module or ""])
            for alias in node.names:
                inner = f"{base.rstrip('.')}.{alias.name}"
                if inner in known or base in known:
                    yield inner if inner in known else base


def longest(imports: dict[str, set[str]]) -> list[str]:
    """Returns the longest chain; of a circle every module counts once."""
    found: dict[str, list[str]] = {}
    for group in circles(imports):
        outside = [
            found[other] for name in group for other in imports[name] - set(group)
        ]
        chain = [*sorted(group), *max(outside, key=len, default=[])]
        found |= dict.fromkeys(group, chain)
    return max(found.values(), key=len)


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Returns the groups that import each other, those imported first (Tarjan)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        number[name] = low[name] = len(number)
        stack.append(name)
        for other in sorted(imports[name]):
            if other not in number:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], number[other])
        if low[name] == number[name]:
            at = stack.index(name)
            groups.append(stack[at:])
            del stack[at:]

    for name in imports:
        if name not in number:
            visit(name)
    return groups


if __name__ == "__main__":
    main()
