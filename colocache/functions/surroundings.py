"""The layers of a decorated function, and the objects that it uses from around it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, CodeType, FunctionType
from typing import Any
from weakref import ref

from ..core.parts import canonical
from ..interruptions import raise_if_foreign, raise_if_from_handler
from ..naming import qualified
from ..values.annotations import closure

# --- Layers


def layers(function: Any) -> Iterator[Any]:
    """Yield a function, the function that it wraps, and so on, as `functools.wraps` notes it."""
    seen = set[int]()
    while function is not None and id(function) not in seen:
        seen.add(id(function))
        yield function
        function = getattr(function, "__wrapped__", None)


def innermost(function: FunctionType) -> FunctionType:
    """Return the last of the layers of a function that is a function itself."""
    return [layer for layer in layers(function) if inspect.isfunction(layer)][-1]


def codes(function: FunctionType) -> list[CodeType]:
    """Return the code of each layer of a function."""
    return [layer.__code__ for layer in layers(function) if inspect.isfunction(layer)]


# --- What is around


def as_part(value: object) -> Any:
    """Return the canonical form of a value that does not change; None for any other, which is this process's own."""
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        name = qualified(value) if value.__module__ else ""
        return ("named", name) if name and "<" not in name else None
    try:
        hash(value)
        return (canonical(value),)
    except Exception as error:  # it cannot be part of a key, it changes, or it cannot say its key yet
        raise_if_foreign(error)
        return None


def differing(other: FunctionType, function: FunctionType, by_value_only: bool) -> str | None:
    """Return the name of something that two functions of the same code use from around them, and that differs."""
    pairs = zip(layers(other), layers(function), strict=True)
    return next((name for pair in pairs for name in _differences(*pair, by_value_only, set())), None)


def _differences(one: Any, other: Any, by_value_only: bool, seen: set[tuple[int, int]]) -> Iterator[str]:
    if one is other or (id(one), id(other)) in seen or not (inspect.isfunction(one) and inspect.isfunction(other)):
        return
    seen.add((id(one), id(other)))
    mine, theirs = closure(one), closure(other)
    for name in mine.keys() & theirs.keys():
        a, b = mine[name], theirs[name]
        if a is b or (as_part(a) is not None and as_part(a) == as_part(b)):
            continue
        if inspect.isfunction(a) and inspect.isfunction(b) and a.__code__ == b.__code__:
            yield from _differences(a, b, by_value_only, seen)
        elif not by_value_only or as_part(a) is not None or as_part(b) is not None:
            yield name


class Surroundings:
    """The objects that a function uses from around it, and that its name does not show. It keeps none alive."""

    def __init__(self, function: FunctionType) -> None:
        inner = innermost(function)
        self._code = inner.__code__
        self._objects = {
            name: _weakly(value)
            for name, value in closure(inner).items()
            if as_part(value) is None and not inspect.isfunction(value)
        }

    def changed_in(self, later: Surroundings) -> str | None:
        """Return the name of an object that is another one now; None if all are the same, or the code differs."""
        if self._code != later._code:
            return None
        for name, value in self._objects.items():
            now = later._objects.get(name)
            if now is not None and (now() is None or value() is not now()):
                return name
        return None


def _weakly(value: object) -> Callable[[], object]:
    try:
        return ref(value)
    except TypeError as error:  # for example of a list or a dict: nobody knows whether a later one is the same
        raise_if_from_handler(error)
        return lambda: None
