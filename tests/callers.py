"""What of some files nothing reads, each name resolved to the file that it is of.

A definition at the top of a file is read where its own file names it and no local
variable hides it, where another file names it through an import (``module.name`` or
``from module import name``, re-exports followed), and where the module itself is a value
(``for part in (sharing, kickstarting)``) and an attribute of anything has the name. A
method is read where any attribute, variable, keyword or string has its name.
"""

import ast
import collections
import pathlib
import re

_DOTTED = re.compile(r"[\w.:]+")


def waiting(trees, callers=(), offered=()):
    """Returns {"file: name"} of what only its own definition, or nothing, reads.

    ``trees`` are {file: its tree}, files relative to the package, ``callers`` more trees
    that may read them. What has a name in ``offered``, in a file whose module a string
    names (``"mtrl_jax.agents.ppo"``), is read where any attribute has that name.
    """
    files = {_module(path): path for path in trees}
    every = {**trees, **{f"caller {n}.py": x for n, x in enumerate(callers)}}
    reads = _Reads(files, {path: _imports(path, tree) for path, tree in every.items()})
    for path, tree in every.items():
        _Reader(reads, path).visit(tree)
    found = set()
    for path, tree in trees.items():
        for name, node, is_top in _defined(tree):
            places = reads.own[path, name] if is_top else reads.loose[name]
            is_offered = name in offered and _module(path) in reads.loose
            if is_top and (is_offered or path in reads.values):
                places = places | reads.loose[name]
            own = range(node.lineno, node.end_lineno + 1)
            if all(file == path and line in own for file, line in places):
                found.add(f"{path}: {name}")
    return found


def _module(path):
    """Returns the dotted name of a file of the package."""
    parts = ["mtrl_jax", *pathlib.PurePath(path).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path, tree):
    """Returns {name: dotted name} of what a file imports, at its top or within."""
    package = ["mtrl_jax", *pathlib.PurePath(path).parts[:-1]]
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for x in node.names:
                head = x.name.split(".")[0]
                found[x.asname or head] = x.name if x.asname else head
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, node.module] if node.module else base
            for x in node.names:
                found[x.asname or x.name] = ".".join([*base, x.name])
    return found


def _defined(tree):
    """Yields (name, node, is_top) of what a module, its classes and functions define."""
    for node in [x for top in tree.body for x in (top, *getattr(top, "body", ()))]:
        is_top = node in tree.body
        names = []
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            registered = any(isinstance(x, ast.Call) for x in node.decorator_list)
            names = [] if registered else [node.name]
        elif is_top and isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [x.id for x in targets if isinstance(x, ast.Name)]
        yield from ((x, node, is_top) for x in names if not x.startswith("__"))


class _Reads:
    """Where names are read, as sets of (file, line)."""

    def __init__(self, files, imported):
        self.files, self.imported = files, imported
        self.own = collections.defaultdict(set)  # of (file, name at its top)
        self.loose = collections.defaultdict(set)  # of a name of anything
        self.values = set()  # files whose module is handed on

    def add(self, path, name, attributes, place):
        """Adds a reading of ``name.attribute…`` in a file."""
        self.own[path, name].add(place)
        dotted = self.imported[path].get(name)
        if dotted is None:
            return
        chain = [*dotted.split("."), *attributes]
        for n in range(len(chain), 0, -1):
            file = self.files.get(".".join(chain[:n]))
            if file is None:
                continue
            if n == len(chain):
                self.values.add(file)
            elif (file, chain[n]) != (path, name):
                self.add(file, chain[n], chain[n + 1 :], place)
            return


class _Reader(ast.NodeVisitor):
    """Adds what one file reads."""

    def __init__(self, reads, path):
        self.reads, self.path, self.hidden = reads, path, []

    def visit_FunctionDef(self, node):
        outside = [*node.decorator_list, *node.args.defaults, *node.args.kw_defaults]
        for x in filter(None, outside):
            self.visit(x)
        self.hidden.append(_local(node))
        for x in filter(None, (node.args, node.returns, *node.body)):
            self.visit(x)
        self.hidden.pop()

    def visit_Name(self, node):
        if isinstance(node.ctx, ast.Load):
            self._chain(node, node.id, [])

    def visit_Attribute(self, node):
        names, base = [], node
        while isinstance(base, ast.Attribute):
            names.insert(0, base.attr)
            base = base.value
        if isinstance(base, ast.Name):
            self._chain(node, base.id, names)
        else:
            self._loose(node, names)
            self.visit(base)

    def visit_keyword(self, node):
        self._loose(node, [node.arg] if node.arg else [])
        self.visit(node.value)

    def visit_Assign(self, node):
        # To offer a name is not to read it.
        if not any(isinstance(x, ast.Name) and x.id == "__all__" for x in node.targets):
            self.generic_visit(node)

    def visit_Constant(self, node):
        if isinstance(node.value, str) and _DOTTED.fullmatch(node.value):
            self._loose(node, {node.value, *re.split("[.:]", node.value)})

    def _chain(self, node, name, attributes):
        self._loose(node, [name, *attributes])
        if not any(name in names for names in self.hidden):
            self.reads.add(self.path, name, attributes, (self.path, node.lineno))

    def _loose(self, node, names):
        for name in names:
            self.reads.loose[name].add((self.path, node.lineno))


def _local(function):
    """Returns the names that a function has for itself: arguments, what it assigns."""
    found = {x.arg for x in ast.walk(function.args) if isinstance(x, ast.arg)}
    nodes = list(function.body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        nodes += ast.iter_child_nodes(node)
    return found
