"""The state of objects as plain values: equal for two members only if they do the same from now on.

Every attribute of every object that can be reached is spelled out, down to the variables that functions have closed
over, and with what is one object and what is two. Only what decides nothing is left out, and is named here; so a new
field of the shipped classes is part of the state without anybody's thinking of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import cache, partial
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any

from colocache.core.entry import MISSING
from colocache.core.group.announcements import Announcements
from colocache.core.group.ring import Ring
from colocache.core.timers import Timers
from colocache.stats import Counters
from colocache.testing.simulator import Network, Simulated

#: Figures that are only counted; what surrounds a member; and what follows from the seats, which are spelled beside it.
SKIPPED = (Counters, Network, Simulated, Ring)
#: The handlers are the same in every member; the others are figures.
SKIPPED_ATTRIBUTES = {"_handlers", "_past_hits", "past_hits", "__weakref__"}
HEAPS = {Timers: "_heap", Announcements: "_instants"}
ATOMS = frozenset((int, float, str, bytes, bool, type(None)))


def spell(thing: Any) -> tuple[Any, ...]:
    """Return the state of an object, and of all that it leads to."""
    out: list[Any] = []
    _spell(thing, out, {})
    return tuple(out)


def _spell(thing: Any, out: list[Any], seen: dict[int, tuple[int, Any]]) -> None:
    kind = type(thing)
    if kind in ATOMS:
        out.append(thing)
    elif id(thing) in seen:  # by its number, so that it shows what is one object and what is two
        out.append(("again", seen[id(thing)][0]))
    elif isinstance(thing, SKIPPED) or thing is MISSING or kind is BuiltinMethodType:
        out.append(kind.__name__)
    else:
        seen[id(thing)] = (len(seen), thing)  # held, because otherwise its id might come back
        out.append(kind.__name__)
        for part in _parts(thing, kind):
            _spell(part, out, seen)
        out.append("end")


def _parts(thing: Any, kind: type[Any]) -> Iterator[Any]:
    if isinstance(thing, dict):
        for key, value in thing.items():
            yield key
            yield value
    elif isinstance(thing, tuple | list | deque):
        yield from thing
    elif kind is MethodType:
        yield thing.__func__.__qualname__
        yield thing.__self__
    elif kind is FunctionType:
        yield thing.__qualname__
        yield thing.__defaults__
        yield from (cell.cell_contents for cell in thing.__closure__ or ())
    elif kind is partial:
        yield from (thing.func, thing.args, thing.keywords)
    elif kind in HEAPS:  # the order in which they were set is told by their order here
        yield from ((at, *rest) for at, _, *rest in sorted(getattr(thing, HEAPS[kind])))
        yield from (value for name, value in vars(thing).items() if name not in (HEAPS[kind], "_order"))
    else:
        for name in _attributes(kind):
            yield getattr(thing, name)
        yield from (value for name, value in getattr(thing, "__dict__", {}).items() if name not in SKIPPED_ATTRIBUTES)


@cache
def _attributes(kind: type[Any]) -> tuple[str, ...]:
    names = (name for base in kind.__mro__ for name in getattr(base, "__slots__", ()))
    return tuple(name for name in names if name not in SKIPPED_ATTRIBUTES)
