"""Which function a decorated function is: the name of its results in all processes.

A function is known by its module and qualified name. That is not enough where several functions have one name: a
factory makes a function for each of its own arguments, or a second definition follows the first. Such functions must
not get each other's results. See docs/decisions/0020.
"""

from __future__ import annotations

import gc
import sys
from collections import OrderedDict
from hashlib import blake2b
from time import monotonic, sleep
from types import CodeType, FrameType, FunctionType
from warnings import warn
from weakref import WeakValueDictionary

from ..core.parts import encode
from ..naming import qualified, warn_of_script
from ..runtime.logs import Log
from ..values.annotations import closure
from .surroundings import Surroundings, as_part, codes, differing, innermost, layers

COLLECTING = 1.0  # s that is waited for another thread that collects garbage
MAX_NAMES = 1000  # recent names: for each, the cache remembers which objects were around its function


class Functions:
    """The decorated functions of one cache, by the names of their results. It keeps no function alive."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._known: WeakValueDictionary[str, FunctionType] = WeakValueDictionary()
        self._around = OrderedDict[str, Surroundings]()  # of recent names, even if the function is gone

    def name(self, function: FunctionType, prefix: str, given: str | None) -> str:
        """Return the name of a function in a space with the path ``prefix``. The user may have given it one.

        Raise ValueError if another function has that name, and would get the results of this one.
        """
        if given is None:
            warn_of_script(innermost(function).__module__, stacklevel=_frames_of_ours())
        name = given or _own_name(function)
        path = f"{prefix}/{name}" if prefix else name
        problem = self._conflict(path, function, name, given is not None)
        if problem is not None:
            _collect_garbage()  # the functions of an application that is gone, for example of a test, do not count
            if path in self._known:
                raise ValueError(problem)
        self._known[path] = function
        self._compare(path, name, Surroundings(function))
        return name

    def _compare(self, path: str, name: str, surroundings: Surroundings) -> None:
        """Log if a function has the name of an earlier one and other objects around it.

        The earlier function may be gone:

        1. A view defines a cached function, which uses the view's ``user``, and calls it.
        2. The view returns, and the function is gone.
        3. The next request, of another user, defines the function again, and gets the first user's result.
        """
        earlier = self._around.pop(path, None)
        self._around[path] = surroundings
        if len(self._around) > MAX_NAMES:
            self._around.popitem(last=False)
        changed = earlier.changed_in(surroundings) if earlier is not None else None
        if changed is not None:
            self._log.warning(
                "the function %s is decorated again, with another %r around it, and shares results with the earlier "
                "one: pass %r as an argument, or give cached(name=...) a name that tells them apart in all processes",
                name, changed, changed, about=name, event="decorated_again",
            )  # fmt: skip

    def _conflict(self, path: str, function: FunctionType, name: str, given: bool) -> str | None:
        other = self._known.get(path)
        return None if other is None or other is function else _conflict(other, function, name, given)


def _collect_garbage() -> None:
    """Collect all garbage, after another thread that is about to collect some: `gc.collect` does nothing meanwhile."""
    ends = monotonic() + COLLECTING
    before = _full_collections()
    gc.collect()
    while _full_collections() == before and monotonic() < ends:
        sleep(0.001)
        gc.collect()


def _full_collections() -> int:
    return int(gc.get_stats()[-1]["collections"])


def _own_name(function: FunctionType) -> str:
    inner = innermost(function)
    return qualified(function) + _number_of(inner) + _hash_of_closure(inner)


# --- Two functions with one name


def _conflict(other: FunctionType, function: FunctionType, name: str, given: bool) -> str | None:
    """Return why two functions cannot have one name; None if they can. Warn if one replaces the other."""
    problem = f"two functions are cached as {name!r}, and would get each other's results: "
    remedy = ". Give each one cached(name=...) of its own, which is the same in all processes"
    if any(layer is other for layer in layers(function)) or any(layer is function for layer in layers(other)):
        return f"{problem}one wraps the other{remedy}"
    if codes(other) == codes(function):
        changed = differing(other, function, by_value_only=given)
        if changed is None:
            return None
        return f"{problem}they differ in {changed!r}, which {function.__qualname__}() uses from around it{remedy}"
    old, new = innermost(other), innermost(function)
    is_same_file = old.__globals__ is new.__globals__ or old.__code__.co_filename == new.__code__.co_filename
    if not is_same_file or old.__qualname__ != new.__qualname__ or old.__code__ == new.__code__:
        return f"{problem}one is at {_place(old)}, and one at {_place(new)}{remedy}"
    if not _are_alike(old.__code__, new.__code__):
        warn(
            f"{name!r} is defined again, with other code: results of the old code stay cached until they expire, or "
            f"until {function.__name__}.cache_clear()",
            stacklevel=_frames_of_ours(),
        )
    return None


def _place(function: FunctionType) -> str:
    return f"{function.__code__.co_filename}, line {function.__code__.co_firstlineno}"


def _are_alike(old: CodeType, new: CodeType) -> bool:
    """Tell whether two pieces of code do the same, though they may stand on other lines."""
    plain = [[each for each in code.co_consts if not isinstance(each, CodeType)] for code in (old, new)]
    nested = [[each for each in code.co_consts if isinstance(each, CodeType)] for code in (old, new)]
    return (
        (old.co_code, old.co_names, old.co_varnames) == (new.co_code, new.co_names, new.co_varnames)
        and plain[0] == plain[1]
        and len(nested[0]) == len(nested[1])
        and all(map(_are_alike, *nested))
    )


# --- Suffixes that make one name several


def _number_of(function: FunctionType) -> str:
    """Return ``#2`` for the second function of a name in its body, ``#3`` for the third; nothing for the first.

    A body is a module, a class or a function. Stubs, for example of `typing.overload`, do not count.
    """
    code = function.__code__
    alike = [each for each in _constants_beside(code) if isinstance(each, CodeType) and each.co_name == code.co_name]
    earlier = alike[: next((at for at, each in enumerate(alike) if each is code), 0)]
    number = 1 + sum(each.co_code != _STUB for each in earlier)
    return f"#{number}" if number > 1 else ""


def _constants_beside(code: CodeType) -> tuple[object, ...]:
    """Return the constants of the body that runs now and defines a function with this code; otherwise nothing."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if any(each is code for each in frame.f_code.co_consts):
            return frame.f_code.co_consts
        frame = frame.f_back
    return ()


def _stub() -> None: ...


_STUB = _stub.__code__.co_code


def _hash_of_closure(function: FunctionType) -> str:
    """Return what tells a function from others of its factory: a hash of the plain values that it uses."""
    told = []
    for name, value in closure(function).items():
        part = as_part(value)
        if part is not None:
            told.append((name, part))
    if not told:
        return ""
    return "#" + blake2b(encode(tuple(told)), digest_size=6, person=b"colocache-make").hexdigest()


# --- Warnings


def _frames_of_ours() -> int:
    """Return the ``stacklevel`` with which the caller's warning points to the code that uses this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and _is_ours(frame):
        level, frame = level + 1, frame.f_back
    return level


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == __name__.partition(".")[0]
