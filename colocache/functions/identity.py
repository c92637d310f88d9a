"""Which function a decorated function is: the name that its results are kept under, in all processes.

A function is known by its module and qualified name. That is not enough where one name is given to several functions:
by a factory, which makes a function for each of its own arguments, or by a second definition. Such functions must not
get each other's results. See docs/decisions/0020.
"""

from __future__ import annotations

import gc
import inspect
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from hashlib import blake2b
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType
from typing import Any
from warnings import warn
from weakref import WeakValueDictionary, ref

from ..core.parts import canonical, encode
from ..naming import qualified, warn_of_script
from ..runtime.logs import Log

MAX_NAMES = 1000  # names of late, of which is remembered what objects are around their functions


class Functions:
    """The decorated functions of one cache, by the names that their results are kept under. It keeps none alive."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._known: WeakValueDictionary[str, FunctionType] = WeakValueDictionary()
        self._around = OrderedDict[str, _Surroundings]()  # of the names of late, also where the function is gone

    def name(self, function: FunctionType, prefix: str, given: str | None) -> str:
        """Return the name of a function, in a space with the path ``prefix``; ``given`` is what the user calls it.

        Raises ValueError if another function has that name, and would get the results of this one.
        """
        if given is None:
            warn_of_script(_innermost(function).__module__, stacklevel=_frames_of_ours())
        name = given or _own_name(function)
        path = f"{prefix}/{name}" if prefix else name
        problem = self._conflict(path, function, name, given is not None)
        if problem is not None:
            gc.collect()  # what is left of an application that is gone, as in a test, is in nobody's way
            if path in self._known:
                raise ValueError(problem)
        self._known[path] = function
        self._compare(path, name, _Surroundings(function))
        return name

    def _compare(self, path: str, name: str, surroundings: _Surroundings) -> None:
        """Log if a function has the name of an earlier one and other objects around it. The earlier one may be gone:

        1. a view defines a cached function, which uses the view's ``user``, and calls it; 2. the view returns, and the
        function is gone; 3. the next request, of another user, defines it anew, and gets the first user's result.
        """
        earlier = self._around.pop(path, None)
        self._around[path] = surroundings
        if len(self._around) > MAX_NAMES:
            self._around.popitem(last=False)
        differing = earlier.differs_from(surroundings) if earlier is not None else None
        if differing is not None:
            self._log.warning(
                "the function %s is decorated again, with another %r around it, and shares results with the earlier "
                "one: pass %r as an argument, or give cached(name=...) a name that tells them apart in all processes",
                name, differing, differing, about=name,
            )  # fmt: skip

    def _conflict(self, path: str, function: FunctionType, name: str, given: bool) -> str | None:
        other = self._known.get(path)
        return None if other is None or other is function else _conflict(other, function, name, given)


class _Surroundings:
    """The objects that a function uses from around it, and that its name does not tell. It keeps none alive."""

    def __init__(self, function: FunctionType) -> None:
        inner = _innermost(function)
        self._code = inner.__code__
        self._objects = {
            name: _weakly(value)
            for name, value in _closure(inner).items()
            if _as_part(value) is None and not inspect.isfunction(value)
        }

    def differs_from(self, later: _Surroundings) -> str | None:
        """Return the name of an object that is another one now; None if all are the same, or the code is another."""
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
    except TypeError:  # as of a list or a dict: whether a later one is the same nobody knows
        return lambda: None


def _own_name(function: FunctionType) -> str:
    inner = _innermost(function)
    return qualified(function) + _told_by_place(inner) + _told_by_closure(inner)


def layers(function: Any) -> Iterator[Any]:
    """Yield a function, what it wraps, what that wraps, and so on, as `functools.wraps` notes it."""
    seen = set[int]()
    while function is not None and id(function) not in seen:
        seen.add(id(function))
        yield function
        function = getattr(function, "__wrapped__", None)


def _innermost(function: FunctionType) -> FunctionType:
    return [layer for layer in layers(function) if inspect.isfunction(layer)][-1]


def _codes(function: FunctionType) -> list[CodeType]:
    return [layer.__code__ for layer in layers(function) if inspect.isfunction(layer)]


# --- Two functions of one name


def _conflict(other: FunctionType, function: FunctionType, name: str, given: bool) -> str | None:
    """Return why two functions cannot have one name; None if they can. Warn if one takes the other's place."""
    problem = f"two functions are cached as {name!r}, and would get each other's results: "
    remedy = ". Give each one cached(name=...) of its own, which is the same in all processes"
    if any(layer is other for layer in layers(function)) or any(layer is function for layer in layers(other)):
        return f"{problem}one wraps the other{remedy}"
    if _codes(other) == _codes(function):
        differing = _differing(other, function, by_value_only=given)
        if differing is None:
            return None
        return f"{problem}they differ in {differing!r}, which {function.__qualname__}() uses from around it{remedy}"
    old, new = _innermost(other), _innermost(function)
    is_same_file = old.__globals__ is new.__globals__ or old.__code__.co_filename == new.__code__.co_filename
    if not is_same_file or old.__qualname__ != new.__qualname__ or old.__code__ == new.__code__:
        return f"{problem}one of {_place(old)}, one of {_place(new)}{remedy}"
    if not _are_alike(old.__code__, new.__code__):
        warn(
            f"{name!r} is defined anew, with other code: results of the old code stay cached until they expire, or "
            f"until {function.__name__}.cache_clear()",
            stacklevel=_frames_of_ours(),
        )
    return None


def _place(function: FunctionType) -> str:
    return f"{function.__code__.co_filename}, line {function.__code__.co_firstlineno}"


def _are_alike(old: CodeType, new: CodeType) -> bool:
    """Whether two pieces of code do the same, though they may stand on other lines."""
    plain = [[each for each in code.co_consts if not isinstance(each, CodeType)] for code in (old, new)]
    nested = [[each for each in code.co_consts if isinstance(each, CodeType)] for code in (old, new)]
    return (
        (old.co_code, old.co_names, old.co_varnames) == (new.co_code, new.co_names, new.co_varnames)
        and plain[0] == plain[1]
        and len(nested[0]) == len(nested[1])
        and all(map(_are_alike, *nested))
    )


# --- Which one of its name


def _told_by_place(function: FunctionType) -> str:
    """Return what tells a function from those of its name that are defined before it in the same body.

    A body is a module, a class or a function. Stubs, as of `typing.overload`, do not count.
    """
    code = function.__code__
    alike = [each for each in _constants_beside(code) if isinstance(each, CodeType) and each.co_name == code.co_name]
    earlier = alike[: next((at for at, each in enumerate(alike) if each is code), 0)]
    number = 1 + sum(each.co_code != _STUB for each in earlier)
    return f"#{number}" if number > 1 else ""


def _constants_beside(code: CodeType) -> tuple[object, ...]:
    """Return the constants of the body that is being run, and defines a function with this code; nothing if none is."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if any(each is code for each in frame.f_code.co_consts):
            return frame.f_code.co_consts
        frame = frame.f_back
    return ()


def _stub() -> None: ...


_STUB = _stub.__code__.co_code


# --- What a function uses from around it


def _told_by_closure(function: FunctionType) -> str:
    """Return what tells a function from others of its factory, by the plain values that it uses from around it."""
    told = []
    for name, value in _closure(function).items():
        part = _as_part(value)
        if part is not None:
            told.append((name, part))
    if not told:
        return ""
    return "#" + blake2b(encode(tuple(told)), digest_size=6, person=b"colocache-make").hexdigest()


def _closure(function: FunctionType) -> dict[str, Any]:
    """Return what a function uses from around it, by name, without what is not there yet."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # empty: the function itself, or something that is defined after it
            continue
    return found


def _as_part(value: object) -> Any:
    """Return the canonical form of a value that does not change; None of others, which are this process's own."""
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        name = qualified(value) if value.__module__ else ""
        return ("named", name) if name and "<" not in name else None
    try:
        hash(value)
        return (canonical(value),)
    except Exception:  # what is no part, changes, or cannot say its key yet
        return None


def _differing(other: FunctionType, function: FunctionType, by_value_only: bool) -> str | None:
    """Return the name of something that two functions of the same code use from around them, and that differs."""
    pairs = zip(layers(other), layers(function), strict=True)
    return next((name for pair in pairs for name in _differences(*pair, by_value_only, set())), None)


def _differences(one: Any, other: Any, by_value_only: bool, seen: set[tuple[int, int]]) -> Iterator[str]:
    if one is other or (id(one), id(other)) in seen or not (inspect.isfunction(one) and inspect.isfunction(other)):
        return
    seen.add((id(one), id(other)))
    mine, theirs = _closure(one), _closure(other)
    for name in mine.keys() & theirs.keys():
        a, b = mine[name], theirs[name]
        if a is b or (_as_part(a) is not None and _as_part(a) == _as_part(b)):
            continue
        if inspect.isfunction(a) and inspect.isfunction(b) and a.__code__ == b.__code__:
            yield from _differences(a, b, by_value_only, seen)
        elif not by_value_only or _as_part(a) is not None or _as_part(b) is not None:
            yield name


def _frames_of_ours() -> int:
    """Return the ``stacklevel`` with which the caller's warning points to the code that uses this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and _is_ours(frame):
        level, frame = level + 1, frame.f_back
    return level


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == __name__.partition(".")[0]
