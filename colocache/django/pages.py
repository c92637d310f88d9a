"""The keys that Django itself gets, misses, and then sets; and how such a set never stores a stale value.

All of these keys are fenced: a set after a miss is refused if an event named the key in between. For fragments of
templates, and for sessions in the database, that is enough. ``cache_page`` needs more, because it keeps two entries for
a page:

- the headers: under the URL, the names of the request headers that the page depends on;
- the page itself: under the URL and the values of these headers.

If the first one is missing, Django does not ask for the second one. So the second one would have no fence:

1. A asks for the headers of a URL, finds none, and makes the page.
2. The cache is cleared.
3. A sets the headers. This is refused.
4. A sets the page. This is not refused.
5. B asks for the URL with another method, and sets the headers.
6. Everybody finds A's stale page.

So a set of missed headers is held back until the page is set. Then the steps are:

1. The page gets a fence.
2. The headers are set, unless an event has named them since the miss.
3. The page is set, unless an event has named it since step 1.

And a deletion of a page also deletes the headers of its URL, so an event for the page is one for the headers, too.

A fence counts only within one request, and for the load timeout. A value is not kept if it takes longer to make, or if
a middleware sets it outside the scope of the request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from time import monotonic
from typing import Any, Final, NamedTuple

from colocache import MISSING, Space
from colocache.operations.drive import why_not_to_wait
from colocache.scope import Scope, current

from .groups import Group

HEADERS: Final = "views.decorators.cache.cache_header."
PAGE: Final = "views.decorators.cache.cache_page."

#: The beginnings of the keys that Django sets after a miss.
FILLED: Final = (HEADERS, PAGE, "template.cache.", "django.contrib.sessions.cached_db")

MAX_MISSED: Final = 64  # such keys that one thread or task has missed and not set yet

_PAGE_KEY: Final = re.compile(
    re.escape(PAGE) + r"(?P<prefix>.*)\.[A-Z]+\.(?P<url>[0-9a-f]{32})\.[0-9a-f]{32}(?P<rest>.*)", re.DOTALL
)


class _Headers(NamedTuple):
    """The headers of a URL, held back until its page is set."""

    value: object
    options: dict[str, Any]


class _Miss(NamedTuple):
    """A missed key that may be set."""

    at: float
    scope: Scope | None  # of the request that missed it; the fence ends with the request
    headers: _Headers | None = None  # if the key is that of headers, and they were set


# By the space and its key. It is replaced and never changed, because tasks inherit it and must not share it.
_Missed = dict[tuple[Space, str], _Miss]
_missed: ContextVar[_Missed | None] = ContextVar("colocache_django_pages", default=None)


def is_filled(key: object) -> bool:
    """Tell whether Django sets a key after a miss."""
    return isinstance(key, str) and key.startswith(FILLED)


def headers_key(key: object) -> str | None:
    """Return the key of the headers for the key of a page, and None for other keys."""
    found = _PAGE_KEY.fullmatch(key) if isinstance(key, str) and key.startswith(PAGE) else None
    return f"{HEADERS}{found['prefix']}.{found['url']}{found['rest']}" if found else None


def with_headers(keys: Iterable[object]) -> Iterator[object]:
    """Yield keys, and after the key of a page that of its headers."""
    for key in keys:
        yield key
        if (headers := headers_key(key)) is not None:
            yield headers


def get(group: Group, wire: str) -> Any:
    """Get such a key, or MISSING. After a miss it may be set for a while."""
    fenced = group.fenced
    miss = _take(group, wire)
    if miss is not None and miss.headers is not None and not _cannot_wait(group):
        # They were held back, and no page was set. Now somebody looks for them.
        fenced.set(wire, miss.headers.value, **miss.headers.options)
    value = fenced.get(wire, MISSING)
    if value is MISSING:
        _note(fenced, wire, _Miss(monotonic(), current(group.cache)))
    return value


def set(group: Group, key: str, wire: str, headers_wire: str | None, value: object, options: dict[str, Any]) -> bool:
    """Set such a key, unless the value may be stale. Tell whether it is set.

    ``headers_wire`` is the key of the headers, if the key is that of a page.
    """
    fenced = group.fenced
    miss = _take(group, wire)
    if (miss is not None and not _holds(group, miss)) or _cannot_wait(group):
        return False
    if miss is not None and key.startswith(HEADERS):
        _note(fenced, wire, miss._replace(headers=_Headers(value, options)))
        return True
    miss = _take(group, headers_wire) if headers_wire is not None else None
    if headers_wire is not None and miss is not None and miss.headers is not None:
        held = miss.headers
        return _holds(group, miss) and _set_both(fenced, wire, headers_wire, held, value, options)
    return fenced.set(wire, value, **options)


def forget(group: Group, wires: Iterable[str] | None = None) -> None:
    """Forget the misses of keys, or of all, because this thread or task has deleted them and may now set new values."""
    if known := _missed.get():
        gone = {wire for _, wire in known} if wires is None else {*wires}
        _missed.set({key: miss for key, miss in known.items() if key[0] is not group.fenced or key[1] not in gone})


def _cannot_wait(group: Group) -> bool:
    """Tell whether a page cannot be kept, because the host that owns it cannot be waited for here.

    Django's ``cache_page`` calls the sync methods of a cache also around an async view.
    """
    member = group.cache._member
    if not member.may_wait or not why_not_to_wait():
        return False
    member.log.warning(
        "a page is not cached: in a group of several hosts, cache_page around an async view would stop the event loop. "
        "Make the view a sync one, or call the cache's async methods in it",
        event="page_not_kept",
    )
    return True


def _holds(group: Group, miss: _Miss) -> bool:
    """Tell whether the fence of a miss still counts."""
    return miss.at > monotonic() - group.cache.config.load_timeout and miss.scope is current(group.cache)


def _set_both(
    fenced: Space, wire: str, headers_wire: str, headers: _Headers, value: object, options: dict[str, Any]
) -> bool:
    """Give a page a fence or a token, set its headers, and then set the page. Tell whether it is set."""
    seen = None
    if fenced.get(wire, MISSING) is not MISSING:
        seen = fenced.gets(wire)
        if seen is None:
            return False
    kept: bool = fenced.set(headers_wire, headers.value, **headers.options)
    if kept and seen is not None:
        kept = fenced.cas(wire, value, seen[1], ttl=options["ttl"], tags=options["tags"])
    elif kept:
        kept = fenced.set(wire, value, **options)
    return kept


def _note(fenced: Space, wire: str, miss: _Miss) -> None:
    kept: _Missed = dict(_missed.get() or {})
    kept.pop((fenced, wire), None)
    kept[fenced, wire] = miss
    if len(kept) > MAX_MISSED:
        del kept[next(iter(kept))]
    _missed.set(kept)


def _take(group: Group, wire: str) -> _Miss | None:
    """Take the miss of a key away, and return it. Return None if it was in an earlier request of this thread."""
    kept, known = _missed.get(), (group.fenced, wire)
    if not kept or known not in kept:
        return None
    rest: _Missed = dict(kept)
    miss = rest.pop(known)
    _missed.set(rest)
    scope = current(group.cache)
    return None if scope is not None and miss.scope not in (None, scope) else miss
