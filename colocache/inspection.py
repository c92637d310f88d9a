"""What is cached on a host: keys, where they are, how old they are, and what has hit them lately.

It is read from the memory of the host, by a process of the group or by one that only looks, and changes nothing there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from .core.host.hashes import ROOT, key_hash, path_hashes
from .core.host.record import Seen, hashes_of
from .core.host.scores import Event
from .core.keys import Key, namespace_of, read, shown_wire, within
from .runtime.frames import KEYS, NAMESPACES, TAGS
from .runtime.view import View

AT_ONCE: Final = 256  # ways that are looked at before others get their turn
KINDS: Final = {KEYS: "key", TAGS: "tag", NAMESPACES: "namespace"}


@dataclass(frozen=True, slots=True)
class EventInfo:
    """Something that was invalidated: by one call, of one process."""

    time: float  # in seconds since the epoch
    pid: int  # of the process that has done it; of another host's events, of the one that has applied them here
    kind: str  # "key", "tag" or "namespace"
    name: str  # of the thing, or of the first of several; "" for everything; "#" and a hash if nobody knows it
    things: int  # how many the call has named


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """A value on a host's shelf."""

    key: Key | None  # as its user may write it; None if that cannot be told
    name: str  # as people see it, with its namespace
    namespace: str
    size: int  # bytes, with all that belongs to it
    age: float  # s since it was loaded or set
    ttl: float | None  # s that it still lives; None is for ever
    tags: tuple[str, ...]  # "#" and a hash for one that no process has used lately
    uses: int  # how often processes have found it on the shelf, up to 3: then nobody counts any more
    hits: float  # near hits per second of all processes of the host, if it is one of those that are hit most
    is_current: bool  # otherwise nobody is served it any more: it has expired, or was invalidated
    events: tuple[EventInfo, ...] = ()  # what has hit it since it was stored, and just before, the newest first
    wire: bytes = field(default=b"", repr=False)  # the key as it travels


def key_infos(view: View, namespace: str = "", like: str = "") -> Iterator[KeyInfo]:
    """Return what the shelf has that can be served, of a namespace and those below it, in no order.

    ``like`` is a text that the names must contain. The events are left out.
    """
    hits = near_hits(view)
    for first in range(0, view.shelf.ways, AT_ONCE):
        yield from _at(view, first, namespace, like, hits)


def key_infos_at(view: View, first: int, namespace: str, like: str, hits: dict[int, float]) -> list[KeyInfo]:
    """Return the same of `AT_ONCE` ways from ``first`` on: for those who do not look at all of the shelf.

    ``hits`` are those of `near_hits`.
    """
    return [*_at(view, first, namespace, like, hits)]


def _at(view: View, first: int, namespace: str, like: str, hits: dict[int, float]) -> Iterator[KeyInfo]:
    for seen in view.shelf.see(first, AT_ONCE, view.now()):
        if seen.is_current and within(namespace_of(seen.wire), namespace) and like in shown_wire(seen.wire):
            yield _info(view, seen, hits)


def key_info(view: View, wire: bytes) -> KeyInfo | None:
    """Return what is known of a key, whether it can be served or not; None if the shelf has nothing of it."""
    seen = view.shelf.see_key(key_hash(wire), view.now())
    if seen is None or seen.wire != wire:
        return None
    hashes = {ROOT, key_hash(wire), *hashes_of(seen.record.label)}
    hits = [info_of_event(view, event) for _, event in view.events() if event.hash in hashes]
    return replace(_info(view, seen, near_hits(view)), events=tuple(reversed(hits)))


def hot_keys(view: View, count: int, namespace: str = "") -> list[KeyInfo]:
    """Return the keys that the processes of the host hit most at present, the hottest first."""
    found, hits = list[KeyInfo](), near_hits(view)
    for hash in sorted(hits, key=lambda hash: -hits[hash]):
        seen = view.shelf.see_key(hash, view.now()) if len(found) < count else None
        if seen is not None and within(namespace_of(seen.wire), namespace):
            found.append(_info(view, seen, hits))
    return found


def events(view: View) -> list[EventInfo]:
    """Return what processes of the host have invalidated lately, the oldest first."""
    return [info_of_event(view, event) for _, event in view.events()]


def info_of_event(view: View, event: Event) -> EventInfo:
    """Return an event with the name of what it has hit."""
    name = event.text
    if not name and event.hash != ROOT:
        seen = view.shelf.see_key(event.hash, view.now()) if event.kind == KEYS else None
        known = view.tag(event.hash) if event.kind == TAGS else None
        name = shown_wire(seen.wire) if seen is not None else known or f"#{event.hash:016x}"
    return EventInfo(event.time / 1e9, event.pid, KINDS.get(event.kind, "key"), name, event.things)


def _info(view: View, seen: Seen, hits: dict[int, float]) -> KeyInfo:
    record, now, namespace = seen.record, view.now(), namespace_of(seen.wire)
    own = {ROOT, *path_hashes(namespace)}
    tags = [view.tag(hash) or f"#{hash:016x}" for hash in hashes_of(record.label) if hash not in own]
    ttl = None if record.expires == float("inf") else max(0.0, record.expires - now)
    return KeyInfo(
        read(seen.wire), shown_wire(seen.wire), namespace, seen.size, max(0.0, now - record.loaded), ttl, tuple(tags),
        seen.uses, hits.get(key_hash(seen.wire), 0.0), seen.is_current, wire=seen.wire,
    )  # fmt: skip


def near_hits(view: View) -> dict[int, float]:
    """Return how often the keys are hit, per second, that the living processes hit most."""
    found: dict[int, float] = {}
    for _, lives, block in view.scoreboard():
        for hash, hits in block.hottest if lives else ():
            found[hash] = found.get(hash, 0.0) + hits / 1000
    return found
