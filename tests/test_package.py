"""The package as a whole: what importing it does, and which of its modules may import which."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest

from tests import ROOT

PACKAGE = ROOT / "colocache"

# A module imports from its own level or from lower ones. A folder's name stands for all its modules. Give a new module
# its place here.
LEVELS = {
    "errors": 0,
    "version": 0,
    "naming": 0,
    "figures": 0,
    "interruptions": 0,
    "core": 1,
    "stats": 2,
    "tracing": 2,
    "group_stats": 4,
    "inspection": 4,
    "values": 2,
    "runtime": 3,
    "config": 4,
    "hosts": 4,
    "near_cache": 4,
    "network": 4,
    "auditing": 5,
    "host": 5,
    "functions": 5,
    "member": 6,
    "operations": 7,
    "decorators": 8,
    "space": 9,
    "cache": 10,
    "scope": 11,
    "__init__": 11,
    "middleware": 12,
    "testing": 12,
    "dashboard": 13,
    "asgi": 13,
    "wsgi": 13,
    "django": 14,
    "dogpile": 14,
    "fastapi": 14,
    "prometheus": 14,
    "opentelemetry": 14,
    "flask": 14,
    "sqlalchemy": 14,
    "serve": 14,
    "cli": 15,
    "__main__": 16,
}

# What makes code depend on more than its arguments: the world, the clock, chance, other threads.
IMPURE = {
    "asyncio", "concurrent", "datetime", "glob", "io", "logging", "mmap", "multiprocessing", "os", "pathlib", "queue",
    "random", "secrets", "select", "selectors", "shutil", "signal", "socket", "ssl", "subprocess", "tempfile",
    "threading", "time", "uuid", "zmq",
}  # fmt: skip

# Values that an impure module defines, and that can be keys of the cache.
PURE_NAMES = {
    "datetime.date", "datetime.datetime", "datetime.time", "datetime.timedelta", "datetime.tzinfo", "pathlib.PurePath",
    "uuid.UUID",
}  # fmt: skip


@dataclass(frozen=True)
class Import:
    """One import of ``name`` from the module ``target``, wherever in ``module`` it stands."""

    module: str
    name: str
    target: str
    line: int


def module_name(path: Path) -> str:
    """``core.ring`` for colocache/core/ring.py, ``core`` for its __init__, ``__init__`` for the package's own."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] or parts) if parts[-1] == "__init__" else ".".join(parts)


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its name."""
    return {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


class Imports(ast.NodeVisitor):
    """Collects the imports of a module, also those inside functions and those for type checkers only."""

    def __init__(self, module: str, path: Path) -> None:
        self.found: list[Import] = []
        self._module = module
        self._package = ["colocache", *path.relative_to(PACKAGE).parent.parts]
        self.visit(ast.parse(path.read_text("utf-8"), str(path)))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        above = self._package[: len(self._package) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            self._add(f"{base}.{alias.name}", node.lineno)

    def _add(self, name: str, line: int) -> None:
        self.found.append(Import(self._module, name, resolve(name), line))


def resolve(name: str) -> str:
    """``name`` as a module: the part of a dotted name that is a module of ours, or the top package of others."""
    if name.split(".")[0] != "colocache":
        return name.split(".")[0]
    parts = name.split(".")[1:]
    while parts and ".".join(parts) not in modules():
        parts.pop()
    return ".".join(["colocache", *parts]) if parts else "colocache.__init__"


@cache
def imports() -> list[Import]:
    """Every import in the package."""
    return [each for module, path in modules().items() for each in Imports(module, path).found]


def inside() -> Iterator[Import]:
    """The imports of one module of ours by another, under their names within the package."""
    for each in imports():
        if each.target.startswith("colocache."):
            yield replace(each, target=each.target.removeprefix("colocache."))


def level(module: str) -> int:
    """The module's level; a new module must be given one."""
    top = module.split(".")[0]
    assert top in LEVELS, f"the module {module} has no place in LEVELS: give it one"
    return LEVELS[top]


def test_every_module_has_a_level() -> None:
    assert modules()
    assert [level(module) for module in modules()]


def test_imports_run_downward() -> None:
    upward = [each for each in inside() if level(each.target) > level(each.module)]
    assert not upward, "\n".join(f"{each.module}:{each.line} imports {each.target} above it" for each in upward)


def test_no_module_imports_itself_in_a_circle() -> None:
    graph: dict[str, set[str]] = {module: set() for module in modules()}
    for each in inside():
        if each.target != each.module:
            graph[each.module].add(each.target)
    while ends := {module for module in graph if graph.keys().isdisjoint(graph[module])}:
        graph = {module: targets for module, targets in graph.items() if module not in ends}
    assert not graph, f"these import each other, directly or not: {sorted(graph)}"


def test_the_core_is_pure() -> None:
    core = [each for each in imports() if each.module.split(".")[0] == "core"]
    impure = [each for each in core if each.target in IMPURE and each.name not in PURE_NAMES]
    assert core
    assert not impure, "\n".join(f"{each.module}:{each.line} imports {each.name}" for each in impure)


def test_the_errors_import_nothing_of_ours() -> None:
    assert [each for each in inside() if each.module == "errors"] == []


def test_only_what_speaks_to_other_hosts_imports_zmq() -> None:
    found = {each.module for each in imports() if each.target == "zmq"}
    assert {module for module in found if not module.startswith("runtime.network.")} == set()


AT_IMPORT = """\
import os, sys, threading
def descriptors():
    return sorted(os.listdir("/dev/fd"))
import asyncio, concurrent.futures, logging, typing  # what they may open is not ours
before = descriptors()
import colocache
assert threading.active_count() == 1, threading.enumerate()
assert descriptors() == before, (before, descriptors())
assert "zmq" not in sys.modules, "zmq is imported before anything needs it"
"""


WITH_MORE = {
    "import": "",
    "construct": "colocache.Cache('imported')\n",
    "wrap": "import colocache.asgi, colocache.wsgi; "
    "[each.CacheMiddleware(print, colocache.Cache('x')) for each in (colocache.asgi, colocache.wsgi)]\n",
}


@pytest.mark.parametrize("more", WITH_MORE.values(), ids=WITH_MORE.keys())
def test_importing_and_constructing_start_nothing(more: str, tmp_path: Path) -> None:
    checks = AT_IMPORT.replace("import colocache\n", "import colocache\n" + more)
    environment = {"COLOCACHE_DIR": str(tmp_path / "run"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", checks], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == [], "a file was made before anything needed it"


FRAMEWORKS = {
    "django", "dogpile", "fastapi", "flask", "flask_caching", "opentelemetry", "prometheus_client", "sqlalchemy",
    "starlette", "werkzeug",
}  # fmt: skip


def test_frameworks_are_imported_only_by_what_is_for_them() -> None:
    others = ("django", "dogpile", "fastapi", "flask", "opentelemetry", "prometheus", "sqlalchemy")
    found = {each.module for each in imports() if each.target in FRAMEWORKS}
    assert found
    assert [module for module in found if not module.startswith(others)] == []
    program = "import sys, colocache, colocache.wsgi, colocache.asgi; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not FRAMEWORKS & set(done.stdout.split())


def test_every_public_name_is_there() -> None:
    import colocache

    assert [name for name in colocache.__all__ if not hasattr(colocache, name)] == []
    assert len(set(colocache.__all__)) == len(colocache.__all__)
