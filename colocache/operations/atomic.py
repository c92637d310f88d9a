"""What happens in one step, atomic for the host: add, compare and set, count, touch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..core.entry import MISSING
from ..core.host.hashes import key_hash
from ..core.host.record import Outcome, Record
from ..core.keys import Key
from ..core.numbers import pack_integer, unpack_integer
from ..host import Host
from ..naming import shown
from .fenced import Token
from .keyspace import Given, Keyspace
from .tally import tell

MAX_DELTA = (1 << 63) - 1

#: Given the present record and the time, return the payload and the expiry to store, or None to change nothing.
Decide = Callable[[Record | None, float], tuple[bytes, float] | None]


def add(keyspace: Keyspace, key: Key, value: object, given: Given) -> bool:
    """Store a value if the key has none; return whether it was stored."""
    if keyspace.hit(key) is not MISSING:
        return False
    wire, payload = keyspace.wire(key), keyspace.encode(key, value, given)
    if payload is None or given.ttl == 0:
        return False
    hash, hashes = key_hash(wire), keyspace.hashes(given.tags)
    return _done(keyspace, hash, lambda host: host.shelf.add(wire, hash, payload, hashes, host.now() + given.ttl)[0])


def gets(keyspace: Keyspace, key: Key) -> tuple[Any, bytes] | None:
    """Return the value of a key, and a token for `put_if`; None if it has none."""
    wire, host = keyspace.wire(key), keyspace.member.join()
    if host is None:
        return None
    hash, any_tag = key_hash(wire), host.any_tag()
    host.fences.order()
    record = host.shelf.find(wire, hash, host.now())
    if record is None or not host.alive:
        return None
    value = keyspace.use(host, key, wire, hash, record)
    return None if value is MISSING else (value, Token(host.region_id, record.version, any_tag).pack())


def put_if(keyspace: Keyspace, key: Key, value: object, token: Token, given: Given) -> bool:
    """Store a value if its key had no event since `gets` gave the token; return whether it was stored."""
    wire, payload = keyspace.wire(key), keyspace.encode(key, value, given)
    if payload is None or given.ttl == 0:
        return False
    hash, hashes = key_hash(wire), keyspace.hashes(given.tags)

    def replace(host: Host) -> Outcome:
        if token.region_id != host.region_id:
            return Outcome.REFUSED
        expires = host.now() + given.ttl
        return host.shelf.replace(
            wire, hash, token.version, payload, hashes, expires, lambda: host.any_tag() == token.any_tag
        )[0]

    return _done(keyspace, hash, replace)


def count(keyspace: Keyspace, key: Key, delta: int, initial: int | None, given: Given) -> int | None:
    """Add to a number, and return the sum; None if the key has no number."""
    check_number("delta", delta)
    if abs(delta) > MAX_DELTA:
        raise ValueError(f"delta={delta}: more than 63 bits are counted in several steps")
    start = None if initial is None else _first_sum(keyspace, key, delta, initial, given)
    addition = _Addition(delta, start, given.ttl)
    is_stored = _change(keyspace, key, addition.decide, given.tags if start is not None else ())
    if addition.is_refused:
        raise TypeError(f"the value of the key {shown(key)} is not an int that can be counted")
    return unpack_integer(addition.total) if is_stored else None


def _first_sum(keyspace: Keyspace, key: Key, delta: int, initial: int, given: Given) -> bytes | None:
    """Return what is stored where there is no number; None if it may not be kept."""
    check_number("initial", initial)
    total = pack_integer(initial + delta)
    if total is None:
        raise ValueError("initial is a number of more than 64 bytes")
    if given.excess:  # a number that is there is counted nevertheless
        keyspace.member.decline(key, keyspace.path, given.excess)
    return None if given.excess or given.ttl == 0 else total


class _Addition:
    """An addition to whatever number is there when it is decided. The last decision counts."""

    def __init__(self, delta: int, start: bytes | None, ttl: float) -> None:
        self._delta = delta
        self._start = start  # what is stored where there is no number, if anything
        self._ttl = ttl
        self.total = b""  # what is to be stored; empty if nothing is
        self.is_refused = False  # there is something else than a number, or the sum is too large

    def decide(self, record: Record | None, now: float) -> tuple[bytes, float] | None:
        """Decide as `Decide` says."""
        if record is None:
            total, expires = self._start, now + self._ttl
        else:
            number = unpack_integer(bytes(record.payload))
            total, expires = None if number is None else pack_integer(number + self._delta), record.expires
        self.total = total or b""
        self.is_refused = record is not None and total is None
        return None if total is None else (total, expires)


def count_down(keyspace: Keyspace, key: Key, delta: int, initial: int | None, given: Given) -> int | None:
    """Subtract from a number; otherwise do what `count` does."""
    check_number("delta", delta)
    return count(keyspace, key, -delta, initial, given)


def touch(keyspace: Keyspace, key: Key, given: Given) -> bool:
    """Give a value another expiry; return whether there is one."""

    def decide(record: Record | None, now: float) -> tuple[bytes, float] | None:
        return None if record is None else (bytes(record.payload), now + given.ttl)

    return _change(keyspace, key, decide, ())


def _change(keyspace: Keyspace, key: Key, decide: Decide, tags: tuple[str, ...]) -> bool:
    """Have the value of a key changed; ``tags`` are those of a value where there was none."""
    wire = keyspace.wire(key)
    hash, hashes = key_hash(wire), keyspace.hashes(tags)

    def change(host: Host) -> Outcome:
        return host.shelf.change(wire, hash, lambda record: decide(record, host.now()), hashes)[0]

    return _done(keyspace, hash, change)


def _done(keyspace: Keyspace, hash: int, write: Callable[[Host], Outcome]) -> bool:
    """Write, and tell others; return whether the value is stored."""
    member = keyspace.member
    done = member.on_host(write)
    if done is None:
        return False
    host, outcome = done
    member.count_write(outcome)
    if outcome is not Outcome.STORED:
        return False
    host.tell((hash,))
    tell(member, "sets", 1, host)
    return True


def check_number(name: str, value: object) -> None:
    """Raise TypeError if a value is not a whole number."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is an int, not {type(value).__name__}: {value!r:.60}")
