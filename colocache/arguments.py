"""Which arguments of a decorated function make the key of a call, and how.

All do, but those that the user says, by ``ignore``, and those that a framework puts in: FastAPI's requests, responses
and background tasks, and what its dependencies open and close, such as sessions of a database. See docs/decisions/0020.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import Parameter, Signature
from typing import Annotated, Any, Union, get_args, get_origin

from .core.parts import NoPart, Part, canonical, opaque

_NAMED = (Parameter.KEYWORD_ONLY, Parameter.VAR_KEYWORD)
_PLACED = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)

_RESOURCE: Part = opaque("resource")


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
        self._injected = {name for name, annotation in annotations.items() if annotation.is_injected}
        self.kept = [each for each in self.signature.parameters.values() if each.name not in self.ignored]
        # Any number of arguments by position, and some by name: without a place of their own, which is always there,
        # those by name would look like one more of the others.
        kinds = {parameter.kind for parameter in self.kept}
        self._is_open = Parameter.VAR_POSITIONAL in kinds and not kinds.isdisjoint(_NAMED)

    def key(self, /, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Return the key of a call. Raises TypeError for arguments that do not fit, or are no part of a key."""
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return self.key_of(bound.args, bound.kwargs)

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
        if name in self.ignored:
            return False
        if name in self.signature.parameters:
            return True
        return any(each.kind is Parameter.VAR_KEYWORD for each in self.kept)

    def _part(self, name: str, value: Any, depth: int) -> Any:
        try:
            return canonical(value, depth)
        except NoPart as error:
            if name in self._injected and is_resource(type(value)):
                return _RESOURCE
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
        self.is_injected = any(isinstance(each, depends) for each in (default, *metadata))
        of_union = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
        self.classes = [each for each in of_union if each is not type(None)]


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
        isinstance(each, type) and issubclass(each, _of_request()) for each in annotation.classes
    )


def _of_request() -> tuple[type, ...]:
    """Return the classes of what belongs to one request, and is not what is asked for."""
    places = (
        ("starlette.requests", "HTTPConnection"), ("starlette.responses", "Response"),
        ("starlette.background", "BackgroundTask"),
    )  # fmt: skip
    return tuple(getattr(sys.modules[module], name) for module, name in places if module in sys.modules)


def is_resource(kind: type) -> bool:
    """Whether objects of a class are means and not data: they can be closed, and are not read.

    Sessions, connections, clients and pools are; so is a plain ``object()``, which holds nothing. What can be read or
    iterated, such as a file, a cursor or an upload, is data, and so is every object that has a form as a part of a key.
    """
    if kind is object:
        return True
    can_be_closed = any(hasattr(kind, name) for name in ("close", "aclose", "__exit__", "__aexit__"))
    return can_be_closed and not any(hasattr(kind, name) for name in ("read", "__next__", "__anext__", "__mapper__"))
