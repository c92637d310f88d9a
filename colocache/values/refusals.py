"""Which part of a value cannot be carried, why, and what to do about it."""

from __future__ import annotations

import reprlib
from abc import ABCMeta
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, is_typeddict

from ..errors import OversizeError
from .classes import is_of_a_kind
from .codec import MAX_DEPTH
from .form import KNOWN, type_name
from .known import reason
from .plain import BOXES, FORMS, LEAVES, NATIVE, Boxes
from .registry import Registry

_TRIVIAL: Final = frozenset({type(None), bool, float, str, bytes})


def is_regular(value: Any, boxes: Boxes, leaves: frozenset[type] = LEAVES) -> bool:
    """Tell whether `value` keeps the limits, holds no containers but `boxes`, and nothing unknown beside `leaves`.

    It goes level by level, which is the fastest walk that Python offers. `check` tells where the trouble is.
    """
    inside = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [item for item in inside if (kind := type(item)) is not str and kind not in leaves]
        inside = []
        for box in level:
            kind = type(box)
            if kind is dict:  # dict and list are the most frequent, and need no call
                inside += box
                inside += box.values()
            elif kind is list:
                inside += box
            elif kind in boxes:
                inside += boxes[kind](box)
            else:
                return False
        if not level:
            return True
    return False


def check(value: Any, classes: Registry) -> None:
    """Raise an exception that says which part of `value` cannot be carried, if there is one.

    A type that cannot be carried is a TypeError, however large or deep the value is. What is only too deep or too long
    is an OversizeError.
    """
    todo, seen = [_Part(None, ("", None), value)], dict[int, Any]()  # keeps the parts alive, so no id is used twice
    excess: tuple[_Part, str] | None = None
    while todo:
        part = todo.pop()
        if type(part.item) in classes.boxes and seen.setdefault(id(part.item), part) is not part:
            continue
        try:
            trouble = _trouble(part.item, classes)
        except OversizeError as error:
            trouble, excess = "", excess or (part, str(error))
        if trouble:
            raise TypeError(part.refused(trouble))
        todo += reversed([*_parts(part, classes)])
    if excess is None and (deepest := _too_deep(value, classes)) is not None:
        excess = deepest, f"it is nested more than {MAX_DEPTH} deep, or contains itself; flatten it"
    if excess is not None:
        raise OversizeError(excess[0].refused(excess[1]))


def check_result(hint: type, of: str, classes: Registry) -> None:
    """Raise TypeError if no instance of ``hint`` can be carried, the class that the function called ``of`` returns."""
    if classes.form_of(hint) is None and hint not in NATIVE and (why := _never(hint)):
        raise TypeError(f"{of}() returns {type_name(hint)}, which cannot be carried: {why}")


class _Part(NamedTuple):
    """A part of a value, and the way to it: each step is a template, and the key or index to be put there."""

    whole: _Part | None
    step: tuple[str, Any]
    item: Any

    def refused(self, why: str) -> str:
        """Return the text of the error that refuses this part."""
        steps, part = list[str](), self
        while part.whole is not None:
            template, key = part.step
            steps.append(template.format(_label(key)))
            part = part.whole
        steps.reverse()
        if len(steps) > 12:
            steps[6:-6] = [" ... "]
        return f"value{''.join(steps)} of type {type_name(type(self.item))} cannot be carried: {why}"


def _trouble(item: Any, classes: Registry) -> str:
    kind = type(item)
    if kind in NATIVE:
        return ""
    form = classes.form_of(kind)
    if form is None:
        return _remedy(kind)
    try:
        form.to_wire(item)
    except (OversizeError, MemoryError):
        raise
    except Exception as error:  # our own, or that of a field that was never set, or is a property
        return str(error) or repr(error)
    return ""


def _too_deep(value: Any, classes: Registry) -> _Part | None:
    """Return the first container that is nested too deep."""
    todo = [(_Part(None, ("", None), value), 0)]
    while todo:
        part, depth = todo.pop()
        if type(part.item) in classes.boxes and depth >= MAX_DEPTH:
            return part
        todo += reversed([(inner, depth + 1) for inner in _parts(part, classes)])
    return None


def _parts(part: _Part, classes: Registry) -> Iterator[_Part]:
    """Yield what is inside a part and could be refused, each with the step that leads to it."""
    item, kind = part.item, type(part.item)
    if kind is dict:
        for key, value in item.items():
            if not _is_trivial(key):
                yield _Part(part, (" key {}", key), key)
            if not _is_trivial(value):
                yield _Part(part, ("[{}]", key), value)
    elif kind in BOXES:
        for index, inner in enumerate(BOXES[kind](item)):
            if not _is_trivial(inner):
                yield _Part(part, ("[{}]", index), inner)
    elif kind in classes.boxes:
        yield from _parts_of_instance(part, classes)


def _parts_of_instance(part: _Part, classes: Registry) -> Iterator[_Part]:
    form = classes.forms[type(part.item)]
    parts = form.to_wire(part.item)
    for head, inner in zip(form.heads or (), parts, strict=False):
        yield _Part(part, (head, None), inner)
    rest = parts[len(form.heads or ()) :]
    if form.code == KNOWN:
        for index, inner in enumerate(rest):
            yield _Part(part, ("[{}]", index), inner)
    else:
        for field, inner in zip(rest[::2], rest[1::2], strict=True):
            yield _Part(part, (f".{field}", None), inner)


def _is_trivial(item: Any) -> bool:
    """Tell whether a part can never be refused. Most parts are so, and a value may have a million."""
    kind = type(item)
    return kind in _TRIVIAL or (kind is int and -(2**63) <= item < 2**64)


def _label(key: Any) -> str:
    try:
        return reprlib.repr(key)
    except Exception:  # for example that of an int of more than 4300 digits
        return f"<{type_name(type(key))}>"


# --- What to do


def _remedy(kind: type) -> str:
    if is_of_a_kind(kind):
        return (
            f"name its class in an annotation of the decorated function, or register it in every process by "
            f"cache.register({kind.__name__})"
        )
    base = next((base.__name__ for base in kind.__mro__ if base in NATIVE or base in FORMS), "")
    return reason(kind) or f"convert it{base and f', as by {base}(...),'} or use another codec"


def _never(cls: type) -> str:
    """Return what to do if no instance of a class or of a subclass can ever be carried; otherwise an empty text."""
    if why := reason(cls):
        return why
    is_open = issubclass(type(cls), ABCMeta) or bool(getattr(cls, "_is_protocol", False) or cls.__subclasses__())
    if is_open or is_of_a_kind(cls) or is_typeddict(cls) or cls.__module__ in ("builtins", "typing"):
        return ""
    return _remedy(cls)
