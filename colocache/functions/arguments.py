"""Which arguments of a decorated function make the key of a call, and how.

All do, except those that ``ignore`` names and those that FastAPI puts in as means: requests, responses, background
tasks, and what its dependencies open and close, such as sessions of a database. See docs/decisions/0020.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import Parameter, Signature
from typing import Annotated, Any, Union, get_args, get_origin

from ..core.parts import NoPart, canonical, placeholder, typed

_NAMED = (Parameter.KEYWORD_ONLY, Parameter.VAR_KEYWORD)
_OPEN = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)

#: Libraries whose sessions, connections, clients and pools are means by which a function reads, and not data.
_DRIVERS = frozenset({
    "aiohttp", "aiomysql", "aiosqlite", "asyncpg", "boto3", "botocore", "elasticsearch", "httpx", "httpx2", "motor",
    "psycopg", "psycopg2", "psycopg_pool", "pymongo", "pymysql", "redis", "requests", "sqlalchemy", "sqlite3",
    "sqlmodel", "valkey",
})  # fmt: skip

#: Stands for a default that has no form of its own, such as ``object()``, and that says that nothing was given.
_DEFAULT = placeholder("default")


class Arguments:
    """The arguments of one function, as a key: ``f(1)`` and ``f(x=1)`` have the same, and so has a default given."""

    def __init__(self, function: Callable[..., Any], ignore: Iterable[str] = ()) -> None:
        """Raises TypeError if ``ignore`` is no iterable of names of parameters."""
        self._function = function
        self.signature = signature_of(function)
        annotations = _annotations(function, self.signature)
        self.ignored = frozenset(_checked(ignore, function, self.signature)) | {
            name for name, annotation in annotations.items() if _is_never_part(annotation)
        }
        self._injected = {name: annotation for name, annotation in annotations.items() if annotation.is_injected}
        self.kept = [each for each in self.signature.parameters.values() if each.name not in self.ignored]
        # Any number of arguments by position, and some by name: without a place of their own, which is always there,
        # those by name would look like one more of the others.
        kinds = {parameter.kind for parameter in self.kept}
        self._is_open = Parameter.VAR_POSITIONAL in kinds and not kinds.isdisjoint(_NAMED)

    def key(self, /, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Return the key of a call. Raises TypeError for arguments that do not fit, or are no part of a key.

        Arguments that are ignored may be left out.
        """
        try:
            bound = self.signature.bind_partial(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self._function.__qualname__}(): {error}") from None
        for name, parameter in self.signature.parameters.items():
            if name not in bound.arguments and parameter.kind not in _OPEN:
                bound.arguments[name] = self._left_out(name, parameter)
        bound.apply_defaults()
        return self.key_of(bound.args, bound.kwargs)

    def _left_out(self, name: str, parameter: Parameter) -> Any:
        """Return what stands for an argument that a call does not give."""
        if name in self.ignored:
            return None
        if parameter.default is Parameter.empty or name in self._injected:  # whose default is FastAPI's, and no value
            raise TypeError(f"{self._function.__qualname__}(): missing a required argument: {name!r}")
        return parameter.default

    def key_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the key of a call whose arguments are in their places, with all defaults."""
        parts = tuple([self._part(name, value, 1) for name, value in self._placed(args)])
        named = tuple([(name, self._part(name, kwargs[name], 3)) for name in sorted(kwargs) if self._is_kept(name)])
        return (*parts, named) if named or self._is_open else parts

    def _placed(self, args: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
        places = [each for each in self.signature.parameters.values() if each.kind not in _NAMED]
        for at, value in enumerate(args):
            name = places[min(at, len(places) - 1)].name  # the last one takes all the rest
            if name not in self.ignored:
                yield name, value

    def _is_kept(self, name: str) -> bool:
        parameter = self.signature.parameters.get(name)
        if parameter is not None and parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY):
            return name not in self.ignored
        if parameter is None and name in self.ignored:
            return False
        return any(each.kind is Parameter.VAR_KEYWORD for each in self.kept)

    def _part(self, name: str, value: Any, depth: int) -> Any:
        try:
            return typed(value, depth) if name == "self" else canonical(value, depth)
        except NoPart as error:
            if name in self._injected and self._injected[name].may_be_means(type(value)):
                return None  # what one writes in its place to invalidate
            parameter = self.signature.parameters.get(name)
            if parameter is not None and value is parameter.default and parameter.kind not in _OPEN:
                return _DEFAULT
            raise TypeError(self._refusal(name, value, error)) from None

    def _refusal(self, name: str, value: object, error: NoPart) -> str:
        what = f"{self._function.__qualname__}() has an argument {name!r} of the type {type(value).__qualname__}, "
        inside = "" if error.found is value else f"with a {type(error.found).__qualname__} in it, "
        return (
            f"{what}{inside}which cannot be part of a key: it {error.reason}. If the result does not depend on it, "
            f"give cached(ignore=({name!r},)); otherwise have its class define __cache_key__(self), a key that tells "
            "its objects apart in all processes, or give cached(key=...) a function that makes the key of a call"
        )


def signature_of(function: Callable[..., Any]) -> Signature:
    """Return the signature of a function, whose annotations may name what is not defined yet."""
    if sys.version_info >= (3, 14):
        from annotationlib import Format

        return inspect.signature(function, annotation_format=Format.FORWARDREF)
    return inspect.signature(function)


def _checked(ignore: Iterable[str], function: Callable[..., Any], signature: Signature) -> Iterator[str]:
    if isinstance(ignore, str):
        raise TypeError(f"ignore is a tuple of names, not a text: write ignore=({ignore!r},)")
    takes_any = any(each.kind is Parameter.VAR_KEYWORD for each in signature.parameters.values())
    for name in ignore:
        if name not in signature.parameters and not (takes_any and isinstance(name, str)):
            raise TypeError(
                f"ignore names {name!r}, which is no parameter of {getattr(function, '__qualname__', function)}"
                f"{signature}"
            )
        yield name


# --- What frameworks put in


class _Annotation:
    """What is known of a parameter: the classes that it may have, and whether FastAPI's `Depends` puts it in."""

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
        """Whether a value that FastAPI puts in, and that cannot be in a key, is a means and not data.

        It is if it can be closed and FastAPI does so, because its dependency is written with ``yield``; or if it is of
        a driver. A plain ``object()`` holds nothing. What can be read or iterated, and objects of an ORM, are data.
        """
        return is_of_driver(kind) or (self._is_closed_by_fastapi and (kind is object or _can_only_be_closed(kind)))


def _yields(dependency: Any) -> bool:
    """Whether a dependency, a function or an object that is called as one, is written with ``yield``."""
    called = (dependency, vars(type(dependency)).get("__call__"))
    return any(inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each) for each in called)


def _annotations(function: Callable[..., Any], signature: Signature) -> dict[str, _Annotation]:
    """Return what is known of the parameters of a function; nothing where Starlette is not in use."""
    if "starlette" not in sys.modules:
        return {}
    names = getattr(inspect.unwrap(function), "__globals__", {})
    depends = getattr(sys.modules.get("fastapi.params"), "Depends", _Nothing)
    return {
        name: _Annotation(_evaluated(each.annotation, names), each.default, depends)
        for name, each in signature.parameters.items()
    }


class _Nothing:
    """Stands for a class of which there are no instances."""


def _evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, names)  # as `typing.get_type_hints` and FastAPI do
    except Exception:  # it names what only type checkers see
        return None


def _is_never_part(annotation: _Annotation) -> bool:
    return bool(annotation.classes) and all(
        isinstance(each, type) and (issubclass(each, _of_request()) or (annotation.is_injected and is_of_driver(each)))
        for each in annotation.classes
    )


def _of_request() -> tuple[type, ...]:
    """Return the classes of what belongs to one request, and is not what is asked for."""
    places = (
        ("starlette.requests", "HTTPConnection"), ("starlette.responses", "Response"),
        ("starlette.background", "BackgroundTask"),
    )  # fmt: skip
    return tuple(getattr(sys.modules[module], name) for module, name in places if module in sys.modules)


def is_of_driver(kind: type) -> bool:
    """Whether objects of a class are sessions, connections, clients or pools of a library that is known."""
    of_driver = any(str(each.__module__).partition(".")[0] in _DRIVERS for each in kind.__mro__)
    return of_driver and _can_only_be_closed(kind)


def _can_only_be_closed(kind: type) -> bool:
    """Whether objects of a class can be closed, and are not read."""
    can_be_closed = any(hasattr(kind, name) for name in ("close", "aclose", "__exit__", "__aexit__"))
    return can_be_closed and not any(hasattr(kind, name) for name in ("read", "__next__", "__anext__", "__mapper__"))
