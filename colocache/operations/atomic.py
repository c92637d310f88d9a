"""What happens in one step at a key's owner: add, compare and set, count, touch."""

from __future__ import annotations

from typing import Any

from ..core.entry import MISSING
from ..core.group.messages import NO_NUMBER
from ..core.group.outcomes import DONE, NO_ANSWER, NO_INTEGER, Altering, Fence
from ..core.keys import Key
from ..core.numbers import pack_integer, unpack_integer
from ..naming import shown
from . import fenced
from .flow import Flow, Wait
from .keyspace import Given, Keyspace
from .read import NOT_FENCED, getting_fenced
from .tally import tell
from .write import put_fenced


def add(keyspace: Keyspace, key: Key, value: object, given: Given) -> Flow[bool]:
    """Store a value if nobody has the key; return whether it was stored."""
    if keyspace.hit(key) is not MISSING:
        return False
    fence = yield from _get_fenced(keyspace, key)
    if fence.entry is not None:
        return False
    return (yield from put_if(keyspace, key, value, fence, given))


def gets(keyspace: Keyspace, key: Key) -> Flow[tuple[Any, bytes] | None]:
    """Return the value that the key's owner has, and a token for `put_if`; None if it has none."""
    driver, fence = keyspace.member.join(), (yield from _get_fenced(keyspace, key))
    if driver is None or fence.entry is None:
        return None
    try:
        return keyspace.use(driver, key, fence.entry), fenced.pack(fence)
    except ValueError as error:
        keyspace.member.tell_undecodable(error)
        return None


def put_if(keyspace: Keyspace, key: Key, value: object, fence: Fence, given: Given) -> Flow[bool]:
    """Store a value if its key had no event since the fence; return whether it was stored."""
    wire, payload = keyspace.wire(key), keyspace.encode(key, value, given)
    driver = keyspace.member.join()
    if driver is None or payload is None:
        return False
    return (yield from put_fenced(keyspace, driver, wire, payload, given.options, fence))


def _get_fenced(keyspace: Keyspace, key: Key) -> Flow[Fence]:
    driver, wire = keyspace.member.join(), keyspace.wire(key)
    if driver is None:
        return NOT_FENCED
    limit = keyspace.member.config.fetch_timeout
    fence: Fence = yield Wait(driver, getting_fenced(wire), limit, NOT_FENCED)
    return fence


def count(keyspace: Keyspace, key: Key, delta: int, initial: int | None, given: Given) -> Flow[int | None]:
    """Add to a number, and return the sum; None if the key has no number."""
    check_number("delta", delta)
    if abs(delta) > NO_NUMBER:
        raise ValueError(f"delta={delta}: more than 63 bits are counted in several steps")
    start: bytes | None = b""
    if initial is not None:
        check_number("initial", initial)
        start = pack_integer(initial + delta)
    if start is None:
        raise ValueError("initial is a number of more than 64 bytes")
    done = yield from _alter(keyspace, key, delta, start, given)
    if done.outcome == NO_INTEGER:
        raise TypeError(f"the value of the key {shown(key)} is not an int that can be counted")
    return unpack_integer(done.payload) if done.outcome == DONE else None


def count_down(keyspace: Keyspace, key: Key, delta: int, initial: int | None, given: Given) -> Flow[int | None]:
    """Do what `count` does, downwards."""
    check_number("delta", delta)
    return count(keyspace, key, -delta, initial, given)


def touch(keyspace: Keyspace, key: Key, given: Given) -> Flow[bool]:
    """Give a value another expiry; return whether there is one."""
    done = yield from _alter(keyspace, key, None, b"", given)
    return done.outcome == DONE


def _alter(keyspace: Keyspace, key: Key, delta: int | None, start: bytes, given: Given) -> Flow[Altering]:
    """Have the owner count by ``delta``; None gives the value another expiry. ``start`` is stored where nothing is."""
    member, wire, options = keyspace.member, keyspace.wire(key), given.options
    if given.excess:
        options = options._replace(tags=())
        if start:  # a number that is there is counted with all the same
            member.decline(key, keyspace.path, given.excess)
            start = b""
    driver = member.join()
    if driver is None:
        return NO_ANSWER
    done: Altering = yield Wait(
        driver, lambda calls, ticket, now: calls.alter(ticket, wire, delta, start, options, now),
        member.config.fetch_timeout, NO_ANSWER,
    )  # fmt: skip
    tell(keyspace.member, "sets", position=done.position)
    return done


def check_number(name: str, value: object) -> None:
    """Raise TypeError if a value is not a whole number."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is an int, not {type(value).__name__}: {value!r:.60}")
