"""The keys of which Django itself has the habit "get, miss, make, set", and how their sets are kept from being stale.

All of them are fenced: a set after a miss is refused if the key had an event in between. For template fragments, and
for sessions that are read from the database, that is all. ``cache_page`` needs more, for it keeps two entries for a
page: one, by its URL, with the names of the headers that the page varies on, and one, by the values of these headers,
with the page. Where the first is missing, the second is never asked for, and has no fence:

1. A asks for the headers of a URL, finds none, and makes the page; 2. the cache is cleared; 3. A sets the headers,
which is refused, and the page, which is not; 4. B asks for the URL with another method, and sets the headers; 5. A's
page is found.

So headers that were missed are not set until the page is. Then the page gets a fence, the headers are set, if nothing
has hit them since they were missed, and then the page, if nothing has hit it either. And who deletes a page deletes the
headers of its URL with it, so that whatever hits a page hits its headers, too.

A fence is relied on for the load timeout, and within one request. What takes longer to make, or is set by a middleware
around the one that has opened the request's scope, is not kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from time import monotonic
from typing import Any, Final, NamedTuple

from colocache import MISSING, Space
from colocache.scope import Scope, current

from .groups import Group
from .steps import Plan, step

HEADERS: Final = "views.decorators.cache.cache_header."
PAGE: Final = "views.decorators.cache.cache_page."

#: What the keys begin with that Django fills after a miss.
FILLED: Final = (HEADERS, PAGE, "template.cache.", "django.contrib.sessions.cached_db")

MAX_MISSED: Final = 64  # of these keys, that one thread or task has missed, and not set yet

_PAGE_KEY: Final = re.compile(
    re.escape(PAGE) + r"(?P<prefix>.*)\.[A-Z]+\.(?P<url>[0-9a-f]{32})\.[0-9a-f]{32}(?P<rest>.*)", re.DOTALL
)


class _Headers(NamedTuple):
    """What is to be set under the key of a URL's headers, once its page is."""

    value: object
    options: dict[str, Any]


class _Miss(NamedTuple):
    """A key that was missed, and is to be set."""

    at: float
    scope: Scope | None  # the request in which it was missed; its fence ends with that
    headers: _Headers | None = None  # where the key is that of headers, and they are known by now


# By the space and the key as it is in there. Never changed, only replaced: a task inherits it, and shares nothing.
_Missed = dict[tuple[Space, str], _Miss]
_missed: ContextVar[_Missed | None] = ContextVar("colocache_django_pages", default=None)


def is_filled(key: object) -> bool:
    """Whether a key is one that Django fills after a miss."""
    return isinstance(key, str) and key.startswith(FILLED)


def headers_key(key: object) -> str | None:
    """Return the key of the headers that belong to the key of a page; None for other keys."""
    found = _PAGE_KEY.fullmatch(key) if isinstance(key, str) and key.startswith(PAGE) else None
    return f"{HEADERS}{found['prefix']}.{found['url']}{found['rest']}" if found else None


def with_headers(keys: Iterable[object]) -> Iterator[object]:
    """Yield keys, and after each of a page that of its headers."""
    for key in keys:
        yield key
        if (headers := headers_key(key)) is not None:
            yield headers


def get(group: Group, wire: str) -> Plan[Any]:
    """Get a filled key, or MISSING; then it may be set for a while."""
    fenced = group.fenced
    miss = _take(group, wire)
    if miss is not None and miss.headers is not None:
        # Learnt, and no page has come of it: who has done that may want to find them.
        yield step(fenced, "set", wire, miss.headers.value, **miss.headers.options)
    value = yield step(fenced, "get", wire, MISSING)
    if value is MISSING:
        _note(fenced, wire, _Miss(monotonic(), current(group.cache)))
    return value


def set(
    group: Group, key: str, wire: str, headers_wire: str | None, value: object, options: dict[str, Any]
) -> Plan[bool]:
    """Set a filled key, or not, if what it is set to may be old.

    ``headers_wire``, where the key is that of a page, is that of its headers.
    """
    fenced = group.fenced
    miss = _take(group, wire)
    if miss is not None and not _holds(group, miss):
        return False
    if miss is not None and key.startswith(HEADERS):
        _note(fenced, wire, miss._replace(headers=_Headers(value, options)))
        return True
    miss = _take(group, headers_wire) if headers_wire is not None else None
    if miss is not None and miss.headers is not None:
        held = miss.headers
        return _holds(group, miss) and (yield from _set_both(fenced, wire, headers_wire, held, value, options))
    kept: bool = yield step(fenced, "set", wire, value, **options)
    return kept


def forget(group: Group, wires: Iterable[str] | None = None) -> None:
    """Keys, or all of them, were deleted by this thread or task itself: what it sets now is what it has made since."""
    if known := _missed.get():
        gone = {wire for _, wire in known} if wires is None else {*wires}
        _missed.set({key: miss for key, miss in known.items() if key[0] is not group.fenced or key[1] not in gone})


def _holds(group: Group, miss: _Miss) -> bool:
    """Whether the fence of a miss is still relied on."""
    return miss.at > monotonic() - group.cache.config.load_timeout and miss.scope is current(group.cache)


def _set_both(
    fenced: Space, wire: str, headers_wire: str | None, headers: _Headers, value: object, options: dict[str, Any]
) -> Plan[bool]:
    """Set a page, after it has got a fence, or a token, and after that its headers."""
    seen = None
    if (yield step(fenced, "get", wire, MISSING)) is not MISSING:
        seen = yield step(fenced, "gets", wire)
        if seen is None:
            return False
    kept: bool = yield step(fenced, "set", headers_wire, headers.value, **headers.options)
    if kept and seen is not None:
        kept = yield step(fenced, "cas", wire, value, seen[1], ttl=options["ttl"], tags=options["tags"])
    elif kept:
        kept = yield step(fenced, "set", wire, value, **options)
    return kept


def _note(fenced: Space, wire: str, miss: _Miss) -> None:
    kept: _Missed = dict(_missed.get() or {})
    kept.pop((fenced, wire), None)
    kept[fenced, wire] = miss
    if len(kept) > MAX_MISSED:
        del kept[next(iter(kept))]
    _missed.set(kept)


def _take(group: Group, wire: str) -> _Miss | None:
    """Return the miss of a key, once; None if there was none, or in an earlier request of this thread."""
    kept, known = _missed.get(), (group.fenced, wire)
    if not kept or known not in kept:
        return None
    rest: _Missed = dict(kept)
    miss = rest.pop(known)
    _missed.set(rest)
    scope = current(group.cache)
    return None if scope is not None and miss.scope not in (None, scope) else miss
