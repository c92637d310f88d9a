"""What a mutant of the protocol between hosts is: a rule that is taken out, and where it is looked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple

from verification.host import mutations
from verification.host.mutations import replaced

Change = AbstractContextManager[Any]


class Mutant(NamedTuple):
    """A rule that is taken out."""

    change: Callable[[], Change]
    kinds: tuple[str, ...]  # of random histories
    scripts: tuple[str, ...]  # histories written by hand
    tests: tuple[str, ...]  # of the core


TESTS = tuple([
    f"tests/core/hosts/test_{name}.py"
    for name in ("gateway", "waiting", "rows", "grants", "dependencies", "owner", "clients", "copies")
])  # fmt: skip

MUTANTS: dict[str, Mutant] = {}


def mutant(
    *scripts: str, kinds: tuple[str, ...] = ("cuts", "gateways"), tests: tuple[str, ...] = TESTS
) -> Callable[[Callable[[], Change]], Callable[[], Change]]:
    """Register a mutant under its function's name."""

    def register(change: Callable[[], Change]) -> Callable[[], Change]:
        MUTANTS[change.__name__] = Mutant(change, kinds, scripts, tests)
        return change

    return register


def noticed_by(*tests: str) -> Callable[[Callable[[], Change]], Callable[[], Change]]:
    """Register a mutant whose interleaving is too rare for histories, and is written by hand in a test."""
    return mutant(kinds=(), tests=tests)


def edited(holder: Any, name: str, *edits: tuple[str, str]) -> Change:
    """Edit a function, or a method, whose text is given here as it stands in its class."""
    if isinstance(holder, type):
        edits = tuple([(_outdented(old), _outdented(new)) for old, new in edits])
    return mutations.edited(holder, name, *edits)


def _outdented(text: str) -> str:
    return text.removeprefix("    ").replace("\n    ", "\n")


@contextmanager
def together(*changes: Change) -> Iterator[None]:
    """Have several changes at once."""
    with ExitStack() as stack:
        for change in changes:
            stack.enter_context(change)
        yield


def everywhere(module: Any, name: str, users: tuple[Any, ...], *edits: tuple[str, str]) -> Change:
    """Edit a function of a module, also where it was imported by name."""

    @contextmanager
    def change() -> Iterator[None]:
        with edited(module, name, *edits), ExitStack() as stack:
            for user in users:
                stack.enter_context(replaced(user, name, getattr(module, name)))
            yield

    return change()
