"""Keys as people write them on a command line.

There are three forms, and the option says which one is meant, so that no text is ever taken for anything else:

- without an option a key is a text, exactly as it was given, whatever it begins with;
- ``--literal``: as Python writes it: ``('user', 7)``, ``'a text'``, ``(UUID('…'), date(2026, 1, 31))``;
- ``--call``: a call of a decorated function: ``shop.prices:price('tea', 3)``. The command does not import the
  application, so it does not know the function's parameters: all arguments stand in their places, with those that have
  defaults, and without those that are ignored, as ``colocache keys`` shows them. Only what a function takes by name
  alone is written ``name=value``.
"""

from __future__ import annotations

import ast
import datetime
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, NamedTuple
from uuid import UUID

from ..core.keys import Key, prefix, shown_wire, wire
from .exits import BAD_USE, Failure

LONGEST: Final = 100_000  # letters; Python's parser would take very long for more, or all the memory

#: What may be called in a literal, beside what `ast.literal_eval` knows.
_CALLED: Final[dict[str, Callable[..., Any]]] = {
    "UUID": UUID, "date": datetime.date, "datetime": datetime.datetime, "time": datetime.time,
    "timedelta": datetime.timedelta, "Decimal": Decimal, "Fraction": Fraction, "frozenset": frozenset, "set": set,
    "float": float,
}  # fmt: skip


class Named(NamedTuple):
    """A key, and the namespace that it is in."""

    namespace: str
    key: Key
    wire: bytes

    @property
    def name(self) -> str:
        """How people see it."""
        return shown_wire(self.wire)


def named(text: str, form: str, namespace: str) -> Named:
    """Return the key that somebody has written. Raise Failure if it cannot be one."""
    try:
        key: Any = text
        if form == "literal":
            key = literal(text)
        elif form == "call":
            namespace, key = call(text, namespace)
        return Named(namespace, key, wire(prefix(namespace), key))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        why = error.msg if isinstance(error, SyntaxError) else str(error) or type(error).__name__
        raise Failure(BAD_USE, f"{_shown(text)} cannot be a key: {why}") from None


def literal(text: str) -> Any:
    """Return what a text stands for that is written as Python writes values. Raise ValueError or SyntaxError."""
    return _value(_parsed(text))


def call(text: str, namespace: str) -> tuple[str, Key]:
    """Return the namespace and the key of a call of a decorated function. Raise ValueError or SyntaxError."""
    function, parenthesis, arguments = text.partition("(")
    if ":" not in function or not parenthesis or not arguments.endswith(")"):
        raise ValueError("a call is written module:function(arguments), as shop.prices:price('tea', 3)")
    found = _parsed(f"f({arguments}")
    if not isinstance(found, ast.Call) or not isinstance(found.func, ast.Name):
        raise ValueError("a call is written module:function(arguments)")
    key = tuple([_value(each) for each in found.args])
    by_name = {each.arg: _value(each.value) for each in found.keywords if each.arg is not None}
    if len(by_name) < len(found.keywords):
        raise ValueError("write each argument by itself, and not **several")
    if by_name:
        key = (*key, tuple(sorted(by_name.items())))
    return f"{namespace}/{function}" if namespace else function, key


def _parsed(text: str) -> ast.expr:
    if len(text) > LONGEST:
        raise ValueError(f"it has more than {LONGEST} letters")
    return ast.parse(text.strip(), mode="eval").body


def _value(node: ast.expr) -> Any:
    """Return what an expression stands for that is a literal, or a call of a class in `_CALLED`."""
    match node:
        case ast.Tuple(elts=parts):
            return tuple([_value(each) for each in parts])
        case ast.List(elts=parts):
            return [_value(each) for each in parts]
        case ast.Set(elts=parts):
            return {_value(each) for each in parts}
        case ast.Dict(keys=keys, values=values):
            return {_value(_there(key)): _value(value) for key, value in zip(keys, values, strict=True)}
        case ast.Call(func=function, args=arguments, keywords=keywords):
            name = ast.unparse(function).rpartition(".")[2]
            if name not in _CALLED:
                raise ValueError(f"{ast.unparse(function)}(…) is no literal: there are {', '.join(_CALLED)}")
            return _CALLED[name](
                *[_value(each) for each in arguments], **{str(each.arg): _value(each.value) for each in keywords}
            )
    return ast.literal_eval(node)


def _there(key: ast.expr | None) -> ast.expr:
    if key is None:
        raise ValueError("write each item by itself, and not **several")
    return key


def _shown(text: str) -> str:
    return repr(text if len(text) <= 100 else f"{text[:100]}…")
