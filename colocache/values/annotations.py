"""The classes that a function's annotations name, because its results may be made of them.

A result may hold what the function was given. So the annotations of the parameters count, too.

Annotations are resolved as late as possible, because they may name what is defined further down. Each is resolved by
itself: one that cannot be resolved, because it names what only a type checker imports, must not hide the others.
"""

from __future__ import annotations

import enum
import inspect
import sys
import types
import typing
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Mapping
from typing import Any, Final, NamedTuple

from ..interruptions import pass_over, raise_if_foreign
from .classes import is_model, is_of_a_kind

_UNRESOLVED: Final = object()


class Named(NamedTuple):
    """The classes that a function's annotations name, and whether all annotations could be resolved."""

    classes: list[type]
    complete: bool


def named_by(function: Callable[..., Any]) -> Named:
    """Return the classes that a function's annotations name, then those that their fields name, and so on."""
    own = inspect.unwrap(function)
    names, more = getattr(own, "__globals__", {}), closure(own)
    hints = [_resolved(hint, names, more) for hint in _annotations(own).values()]
    found, complete = dict[type, None](), True
    for hint in _walk(hints, lambda hint: _fields(hint, more) if _is_class(hint) else _parts(hint)):
        if hint is _UNRESOLVED or isinstance(hint, str | typing.ForwardRef):
            complete = False
        elif _is_class(hint):
            found[hint] = None
    return Named([*found], complete)


def surely_in(hint: Any) -> list[type]:
    """Return the classes that every result with this annotation has or holds, except None and empty containers."""
    return [each for each in _walk([hint], _sure_parts) if _is_class(each)]


def _walk(hints: list[Any], inside: Callable[[Any], list[Any]]) -> Iterator[Any]:
    """Yield annotations and the annotations inside them, each once."""
    todo, seen = [*hints], dict[int, Any]()  # keeps the annotations alive, so no id is used twice
    while todo:
        hint = todo.pop()
        if id(hint) not in seen:
            seen[id(hint)] = hint
            yield hint
            todo += inside(hint)


def result_of(function: Callable[..., Any]) -> Any:
    """Return what a function's return annotation means. It is not a class if it cannot be resolved."""
    own = inspect.unwrap(function)
    return _resolved(_annotations(own).get("return"), getattr(own, "__globals__", {}), closure(own))


def closure(function: Any) -> dict[str, Any]:
    """Return what a function uses from around it, by name, for example a model that a surrounding function defines."""
    names = dict[str, Any]()
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with pass_over(ValueError):  # empty: the function itself, or something that is defined after it
            names[name] = cell.cell_contents
    return names


def _annotations(what: Any) -> Mapping[str, Any]:
    """Return the annotations as written, or resolved as far as Python has resolved them."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(what, format=annotationlib.Format.FORWARDREF)
    own = vars(what).get("__annotations__") if isinstance(what, type) else getattr(what, "__annotations__", None)
    return own or {}


def _resolved(hint: Any, names: dict[str, Any], more: dict[str, Any]) -> Any:
    shim: Any = types.SimpleNamespace(__annotations__={"it": hint})
    try:
        return typing.get_type_hints(shim, names, more, include_extras=True)["it"]
    except Exception as error:  # the evaluation of a user's annotation may raise anything
        raise_if_foreign(error)
        return _UNRESOLVED


def _is_class(hint: Any) -> bool:
    return isinstance(hint, type) and typing.get_origin(hint) is None


def _parts(hint: Any) -> list[Any]:
    """Return the parts of an annotation that is not a class."""
    if typing.get_origin(hint) is typing.Literal:
        return [type(each) for each in typing.get_args(hint) if isinstance(each, enum.Enum)]
    if isinstance(hint, typing.TypeVar):
        return [each for each in (hint.__bound__, *hint.__constraints__) if each is not None]
    parts = [typing.get_origin(hint)]
    for each in typing.get_args(hint):
        parts += each if isinstance(each, list) else [each]  # a Callable has a list of parameters
    return _meant(hint) or [each for each in parts if each is not None]


def _sure_parts(hint: Any) -> list[Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is None or _meant(hint):
        return _meant(hint)
    if origin in (typing.Union, types.UnionType):
        others = [each for each in arguments if each is not type(None)]
        return others if len(others) == 1 else []
    if origin in (Awaitable, Coroutine):
        return [arguments[-1]]
    if isinstance(origin, type):
        return [*arguments] if issubclass(origin, Collection) else [origin]
    return []


def _meant(hint: Any) -> list[Any]:
    """Return the annotation behind a name; nothing if there is no such name."""
    if typing.get_origin(hint) is typing.Annotated:
        return [hint.__origin__]
    behind = getattr(hint, "__supertype__", None) or getattr(hint, "__value__", None)  # of a NewType or ``type X =``
    return [] if behind is None or _is_class(hint) else [behind]


def _fields(cls: type, more: Mapping[str, Any]) -> list[Any]:
    """Return the annotations of the fields of a class."""
    fields: list[Any] = []
    generic = getattr(cls, "__pydantic_generic_metadata__", None) or {}
    if generic.get("origin"):
        fields += [generic["origin"], *generic["args"]]
    if is_model(cls):  # its fields say what the type variables of a generic model stand for
        fields += [field.annotation for field in cls.model_fields.values()]  # type: ignore[attr-defined]
    if typing.is_typeddict(cls) or (is_of_a_kind(cls) and not issubclass(cls, enum.Enum)):
        for base in cls.__mro__:
            names = vars(sys.modules.get(base.__module__, types))
            own = {**more, **vars(base), base.__name__: base}
            fields += [_resolved(hint, names, own) for hint in _annotations(base).values()]
    return fields
