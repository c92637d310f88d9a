"""What frameworks inject into a function: means by which it reads, such as requests and sessions, and no data."""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable
from inspect import Signature
from typing import Annotated, Any, Union, get_args, get_origin

from ..interruptions import raise_if_foreign

#: Libraries whose sessions, connections, clients and pools are means by which a function reads. They are not data.
_DRIVERS = frozenset({
    "aiohttp", "aiomysql", "aiosqlite", "asyncpg", "boto3", "botocore", "elasticsearch", "httpx", "httpx2", "motor",
    "psycopg", "psycopg2", "psycopg_pool", "pymongo", "pymysql", "redis", "requests", "sqlalchemy", "sqlite3",
    "sqlmodel", "valkey",
})  # fmt: skip


class Annotation:
    """What is known about a parameter: which classes it may have, and whether FastAPI's `Depends` injects it."""

    def __init__(self, annotation: Any, default: Any, depends: type) -> None:
        annotation = getattr(annotation, "__value__", annotation)  # of ``type X = ...``
        metadata: tuple[Any, ...] = ()
        if get_origin(annotation) is Annotated:
            annotation, *rest = get_args(annotation)
            metadata = tuple(rest)
        injected = [each for each in (default, *metadata) if isinstance(each, depends)]
        self.is_injected = bool(injected)
        self._is_closed_by_fastapi = any(_yields(getattr(each, "dependency", None)) for each in injected)
        of_union = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
        self.classes = [each for each in of_union if each is not type(None)]

    def may_be_means(self, kind: type) -> bool:
        """Tell whether a value that FastAPI injects, and that cannot be part of a key, is a means and not data.

        It is a means if a driver has made it, or if FastAPI closes it, because its dependency is written with
        ``yield``. A plain ``object()`` holds nothing. What can be read or iterated, and objects of an ORM, are data.
        """
        return _is_of_driver(kind) or (self._is_closed_by_fastapi and (kind is object or _can_only_be_closed(kind)))

    def is_never_part(self) -> bool:
        """Tell whether the values of this parameter are means, whatever they are, and so never part of a key."""
        return bool(self.classes) and all(
            isinstance(each, type) and (issubclass(each, _of_request()) or (self.is_injected and _is_of_driver(each)))
            for each in self.classes
        )


def _yields(dependency: Any) -> bool:
    """Tell whether a dependency, a function or an object that can be called, is written with ``yield``."""
    called = (dependency, vars(type(dependency)).get("__call__"))
    return any(inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each) for each in called)


def annotations_of(function: Callable[..., Any], signature: Signature) -> dict[str, Annotation]:
    """Return what is known about the parameters of a function; nothing if the application does not use Starlette."""
    if "starlette" not in sys.modules:
        return {}
    names = getattr(inspect.unwrap(function), "__globals__", {})
    depends = getattr(sys.modules.get("fastapi.params"), "Depends", _Nothing)
    return {
        name: Annotation(_evaluated(each.annotation, names), each.default, depends)
        for name, each in signature.parameters.items()
    }


class _Nothing:
    """Stands for a class that has no instances."""


def _evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, names)  # as `typing.get_type_hints` and FastAPI do
    except Exception as error:  # it names something that only type checkers see
        raise_if_foreign(error)
        return None


def _of_request() -> tuple[type, ...]:
    """Return the classes whose objects belong to one request, and do not say what is asked for."""
    places = (
        ("starlette.requests", "HTTPConnection"), ("starlette.responses", "Response"),
        ("starlette.background", "BackgroundTask"),
    )  # fmt: skip
    return tuple(getattr(sys.modules[module], name) for module, name in places if module in sys.modules)


def _is_of_driver(kind: type) -> bool:
    """Tell whether objects of a class are sessions, connections, clients or pools of a known library."""
    of_driver = any(str(each.__module__).partition(".")[0] in _DRIVERS for each in kind.__mro__)
    return of_driver and _can_only_be_closed(kind)


def _can_only_be_closed(kind: type) -> bool:
    """Tell whether objects of a class can be closed, and cannot be read."""
    can_be_closed = any(hasattr(kind, name) for name in ("close", "aclose", "__exit__", "__aexit__"))
    return can_be_closed and not any(hasattr(kind, name) for name in ("read", "__next__", "__anext__", "__mapper__"))
