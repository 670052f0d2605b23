"""Which definitions of some files are read, each name resolved to the file it is of."""

import ast
import collections
import pathlib
import re
from typing import NamedTuple

_DOTTED = re.compile(r"[\w.:]+")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


class Use(NamedTuple):
    """A reading of a name: in which file, under which of its top-level nodes."""

    path: str
    top: int  # the line that the node begins at


class Reading(NamedTuple):
    """Who reads what: {name of a module's own: uses}, {any name of anything: uses}."""

    own: dict[tuple[str, str], set[Use]]  # (file, name)
    loose: dict[str, set[Use]]  # attributes of values, keywords, strings


def module_of(path):
    """Returns the dotted name of a file of the package."""
    parts = ["mtrl_jax", *pathlib.PurePath(path).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def bindings(path, tree):
    """Returns {name: dotted name} of what a file imports, at its top or within."""
    package = ["mtrl_jax", *pathlib.PurePath(path).parts[:-1]]
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for x in node.names:
                found[x.asname or x.name.split(".")[0]] = (
                    x.name if x.asname else x.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *([node.module] if node.module else [])]
            for x in node.names:
                found[x.asname or x.name] = ".".join([*base, x.name])
    return found


class _Reader(ast.NodeVisitor):
    """Resolves the names that one file reads; local variables hide its own."""

    def __init__(self, path, tree, paths, bound):
        self.path, self.paths, self.bound = path, paths, bound
        self.locals, self.top, self.reading = [], 0, []
        for node in tree.body:
            self.top = node.lineno
            self.visit(node)

    def visit(self, node):
        if isinstance(node, _FUNCTIONS):
            for x in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
                self.visit(x)
            for x in getattr(node, "decorator_list", ()):
                self.visit(x)
            self.locals.append(_local(node))
            body = node.body if isinstance(node.body, list) else [node.body]
            for x in (node.args, getattr(node, "returns", None), *body):
                if x is not None:
                    self.visit(x)
            self.locals.pop()
            return
        super().visit(node)

    def visit_Name(self, node):
        if isinstance(node.ctx, ast.Load):
            self._resolve(node.id, [])

    def visit_Attribute(self, node):
        names = []
        base = node
        while isinstance(base, ast.Attribute):
            names.insert(0, base.attr)
            base = base.value
        if isinstance(base, ast.Name):
            self._resolve(base.id, names)
        else:
            self._loose(names)
            self.visit(base)

    def visit_keyword(self, node):
        self._loose([node.arg] if node.arg else [])
        self.visit(node.value)

    def visit_Assign(self, node):
        # What a module offers is not read by that.
        if not any(isinstance(x, ast.Name) and x.id == "__all__" for x in node.targets):
            self.generic_visit(node)

    def visit_Constant(self, node):
        text = str(node.value)
        if isinstance(node.value, str) and _DOTTED.fullmatch(text):
            self._loose(re.split("[.:]", text))

    def _resolve(self, name, names):
        if any(name in x for x in self.locals):
            self._loose(names)
            return
        self.reading += [(self.path, name, Use(self.path, self.top))]
        self._loose(names)
        self.reading += [
            (path, x, Use(self.path, self.top))
            for path, x in self._targets(self.path, name, names)
        ]

    def _targets(self, path, name, names):
        """Yields (file, name) of what a chain of names leads to, re-exports followed."""
        dotted = self.bound.get(path, {}).get(name)
        if dotted is None:
            return
        chain = [*dotted.split("."), *names]
        for n in range(len(chain) - 1, 0, -1):
            file = self.paths.get(".".join(chain[:n]))
            if file is not None:
                yield file, chain[n]
                yield from self._targets(file, chain[n], chain[n + 1 :])
                return

    def _loose(self, names):
        self.reading += [(None, x, Use(self.path, self.top)) for x in names]


def _local(function):
    """Returns the names that are a function's own: arguments and what it assigns."""
    found = {x.arg for x in ast.walk(function.args) if isinstance(x, ast.arg)}
    body = function.body if isinstance(function.body, list) else [function.body]
    waiting = list(body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        waiting += list(ast.iter_child_nodes(node))
    return found
