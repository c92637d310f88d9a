"""Which arguments of a decorated function make the key of a call, and how.

All arguments do, except those that ``ignore`` names, and the means that FastAPI injects: requests, responses,
background tasks, and what its dependencies open and close, such as sessions of a database. See docs/decisions/0020.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import Parameter, Signature
from typing import Any

from ..core.parts import NotAPart, canonical, placeholder, typed
from ..interruptions import raise_if_from_handler
from .injected import annotations_of

_NAMED = (Parameter.KEYWORD_ONLY, Parameter.VAR_KEYWORD)
_OPEN = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)

#: Stands for a default that cannot be part of a key, such as ``object()``, and says that the call gives nothing.
_DEFAULT = placeholder("default")


class Arguments:
    """The arguments of one function, as a key. ``f(1)`` and ``f(x=1)`` have the same key, with or without defaults."""

    def __init__(self, function: Callable[..., Any], ignore: Iterable[str] = ()) -> None:
        """Leave out the arguments that ``ignore`` names. Raise TypeError if it does not name parameters."""
        self._function = function
        self.signature = signature_of(function)
        annotations = annotations_of(function, self.signature)
        self.ignored = frozenset(_checked(ignore, function, self.signature)) | {
            name for name, annotation in annotations.items() if annotation.is_never_part()
        }
        self._injected = {name: annotation for name, annotation in annotations.items() if annotation.is_injected}
        self.kept = [each for each in self.signature.parameters.values() if each.name not in self.ignored]
        self.injects = bool(self._injected)  # whether FastAPI gives it some of them
        # An open function takes any number of arguments by position, and others by name. Those by name always have a
        # place of their own in the key, because otherwise they would look like one more argument by position.
        kinds = {parameter.kind for parameter in self.kept}
        self._is_open = Parameter.VAR_POSITIONAL in kinds and not kinds.isdisjoint(_NAMED)

    def key(self, /, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Return the key of a call. Raise TypeError for arguments that do not fit, or cannot be part of a key.

        A call may leave out arguments that are ignored.
        """
        try:
            bound = self.signature.bind_partial(*args, **kwargs)
        except TypeError as error:
            raise_if_from_handler(error)
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
        if parameter.default is Parameter.empty or name in self._injected:  # FastAPI's default is not a value
            raise TypeError(f"{self._function.__qualname__}(): missing a required argument: {name!r}")
        return parameter.default

    def key_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the key of a call whose arguments are in their places, defaults included."""
        parts = tuple([self._part(name, value, 1) for name, value in self._placed(args)])
        named = tuple([(name, self._part(name, kwargs[name], 3)) for name in sorted(kwargs) if self._is_kept(name)])
        return (*parts, named) if named or self._is_open else parts

    def _placed(self, args: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
        places = [each for each in self.signature.parameters.values() if each.kind not in _NAMED]
        for at, value in enumerate(args):
            name = places[min(at, len(places) - 1)].name  # the last place takes all the rest
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
        except NotAPart as error:
            if name in self._injected and self._injected[name].may_be_means(type(value)):
                return None  # as a call of `invalidate` writes in its place
            parameter = self.signature.parameters.get(name)
            if parameter is not None and value is parameter.default and parameter.kind not in _OPEN:
                return _DEFAULT
            raise TypeError(self._refusal(name, value, error)) from None

    def _refusal(self, name: str, value: object, error: NotAPart) -> str:
        what = f"{self._function.__qualname__}() has an argument {name!r} of the type {type(value).__qualname__}, "
        inside = "" if error.part is value else f"with a {type(error.part).__qualname__} in it, "
        return (
            f"{what}{inside}which cannot be part of a key: it {error.reason}. If the result does not depend on it, "
            f"give cached(ignore=({name!r},)). Otherwise define __cache_key__(self) in its class, a key that tells its "
            "objects apart in all processes, or give cached(key=...) a function that makes the key of a call"
        )


def signature_of(function: Callable[..., Any]) -> Signature:
    """Return the signature of a function. Its annotations may name what is not defined yet."""
    if sys.version_info >= (3, 14):
        from annotationlib import Format

        return inspect.signature(function, annotation_format=Format.FORWARDREF)
    return inspect.signature(function)


def _checked(ignore: Iterable[str], function: Callable[..., Any], signature: Signature) -> Iterator[str]:
    if isinstance(ignore, str):
        raise TypeError(f"ignore must be a tuple of names, not a text: write ignore=({ignore!r},)")
    takes_any = any(each.kind is Parameter.VAR_KEYWORD for each in signature.parameters.values())
    for name in ignore:
        if name not in signature.parameters and not (takes_any and isinstance(name, str)):
            raise TypeError(
                f"ignore names {name!r}, which is not a parameter of {getattr(function, '__qualname__', function)}"
                f"{signature}"
            )
        yield name
