"""What happens in one step, atomic for all processes of the group: add, compare and set, count, touch.

It happens on the host that owns the key, under the lock of a ring of its shelf.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..core.entry import MISSING
from ..core.host.hashes import WRITES, key_hash
from ..core.host.record import Outcome, Record
from ..core.hosts import requests
from ..core.hosts.owner import NOT_A_NUMBER
from ..core.hosts.requests import Done, Request
from ..core.hosts.rows import Incarnation
from ..core.keys import Key
from ..core.numbers import added, pack_integer, unpack_integer
from ..host import Host
from ..hosts import WRITE_TIMEOUT, Hosts
from ..naming import shown
from .fenced import Token
from .flow import Flow
from .keyspace import Given, Keyspace
from .tally import tell

MAX_DELTA = (1 << 63) - 1


def add(keyspace: Keyspace, key: Key, value: object, given: Given) -> Flow[bool]:
    """Store a value if the key has none; return whether it was stored."""
    if keyspace.hit(key) is not MISSING:
        return False
    wire, payload = keyspace.wire(key), keyspace.encode(key, value, given)
    if payload is None or given.ttl == 0:
        return False
    hash, hashes = key_hash(wire), keyspace.hashes(given.tags)

    def here(host: Host) -> Outcome:
        return host.shelf.add(wire, hash, payload, hashes, host.now() + given.ttl)[0]

    def there(hosts: Hosts) -> Request:
        return requests.Add(requests.Key(wire, hashes), payload, given.ttl, hosts.dependencies())

    return (yield from _write(keyspace, wire, here, there)) is not None


def gets(keyspace: Keyspace, key: Key) -> Flow[tuple[Any, bytes] | None]:
    """Return the value of a key, and a token for `put_if`; None if it has none."""
    wire, host = keyspace.wire(key), keyspace.member.join()
    if host is None:
        return None
    hosts = host.hosts
    if hosts is not None and (owner := hosts.exact_owner(wire)) != hosts.me.id:
        return (yield from _gets_far(keyspace, host, hosts, owner, key, wire))
    if hosts is not None and hosts.is_client:
        return None
    hash, any_tag = key_hash(wire), host.any_tag()
    host.fences.order()
    record = host.shelf.find(wire, hash, host.now())
    if record is None or not host.alive:
        return None
    value = keyspace.use(host, key, wire, hash, record)
    return None if value is MISSING else (value, Token(host.region_id, record.version, any_tag).pack())


def _gets_far(
    keyspace: Keyspace, host: Host, hosts: Hosts, owner: Incarnation, key: Key, wire: bytes
) -> Flow[tuple[Any, bytes] | None]:
    """Ask the owner host, even if the value is here: only its own version tells it whether there was an event."""
    if not hosts.may_ask():
        return None
    request = requests.Get(requests.Key(wire, keyspace.hashes()), hosts.dependencies(), False, 0.0)
    answer = yield from hosts.ask(owner, request)
    if not isinstance(answer, requests.Found):
        return None
    value = keyspace.decode(answer.payload)
    return None if value is MISSING else (value, Token(owner, answer.version, answer.any_tag).pack())


def put_if(keyspace: Keyspace, key: Key, value: object, token: Token, given: Given) -> Flow[bool]:
    """Store a value if its key had no event since `gets` gave the token; return whether it was stored."""
    wire, payload = keyspace.wire(key), keyspace.encode(key, value, given)
    if payload is None or given.ttl == 0:
        return False
    hash, hashes = key_hash(wire), keyspace.hashes(given.tags)

    def here(host: Host) -> Outcome:
        if token.region_id != host.region_id:
            return Outcome.REFUSED
        expires = host.now() + given.ttl
        return host.shelf.replace(
            wire, hash, token.version, payload, hashes, expires, lambda: host.any_tag() == token.any_tag
        )[0]

    def there(hosts: Hosts) -> Request | None:
        if token.region_id != hosts.exact_owner(wire):
            return None
        return requests.Replace(
            requests.Key(wire, hashes), payload, given.ttl, token.version, token.any_tag, hosts.dependencies()
        )

    return (yield from _write(keyspace, wire, here, there)) is not None


def count(keyspace: Keyspace, key: Key, delta: int, initial: int | None, given: Given) -> Flow[int | None]:
    """Add to a number, and return the sum; None if the key has no number."""
    check_number("delta", delta)
    if abs(delta) > MAX_DELTA:
        raise ValueError(f"delta={delta}: more than 63 bits are counted in several steps")
    start = None
    if initial is not None:
        check_number("initial", initial)
        start = pack_integer(initial + delta)
        if start is None:
            raise ValueError("initial is a number of more than 64 bytes")
    if given.excess and start is not None:  # a number that is there is counted nevertheless
        keyspace.decline(key, given.excess)
    if given.excess or given.ttl == 0:
        start = None
    wire = keyspace.wire(key)
    hash, hashes = key_hash(wire), keyspace.hashes(given.tags if start is not None else ())
    counted: list[bytes | None] = []
    is_number = True

    def here(host: Host) -> Outcome:
        nonlocal is_number

        def decide(record: Record | None) -> tuple[bytes, float] | None:
            counted.clear()
            if record is None:
                counted.append(start)
                return None if start is None else (start, host.now() + given.ttl)
            counted.append(added(bytes(record.payload), delta))
            return None if counted[0] is None else (counted[0], record.expires)

        outcome, record = host.shelf.change(wire, hash, decide, hashes)
        is_number = outcome is not Outcome.REFUSED or record is None
        return outcome

    def there(hosts: Hosts) -> Request:
        return requests.Count(requests.Key(wire, hashes), delta, start, given.ttl, hosts.dependencies())

    done = yield from _write(keyspace, wire, here, there)
    if not is_number or (done is not None and done.outcome == NOT_A_NUMBER):
        raise TypeError(f"the value of the key {shown(key)} is not an int that can be counted")
    if done is None:
        return None
    total = done.payload or (counted[0] if counted else None)
    return None if total is None else unpack_integer(total)


def count_down(keyspace: Keyspace, key: Key, delta: int, initial: int | None, given: Given) -> Flow[int | None]:
    """Subtract from a number; otherwise do what `count` does."""
    check_number("delta", delta)
    return (yield from count(keyspace, key, -delta, initial, given))


def touch(keyspace: Keyspace, key: Key, given: Given) -> Flow[bool]:
    """Give a value another expiry; return whether there is one."""
    wire = keyspace.wire(key)
    hash, hashes = key_hash(wire), keyspace.hashes()

    def here(host: Host) -> Outcome:
        def decide(record: Record | None) -> tuple[bytes, float] | None:
            return None if record is None else (bytes(record.payload), host.now() + given.ttl)

        return host.shelf.change(wire, hash, decide, hashes)[0]

    def there(hosts: Hosts) -> Request:
        return requests.Touch(requests.Key(wire, hashes), given.ttl, hosts.dependencies())

    return (yield from _write(keyspace, wire, here, there)) is not None


def _write(
    keyspace: Keyspace, wire: bytes, here: Callable[[Host], Outcome], there: Callable[[Hosts], Request | None]
) -> Flow[Done | None]:
    """Write where the key is owned, and tell others; return what has come of it, or None if nothing is stored.

    It is refused while the owner host is behind: what is there may have been invalidated on another host.
    """
    member, hash = keyspace.member, key_hash(wire)
    host = member.join()
    hosts = host.hosts if host is not None else None
    owner = hosts.exact_owner(wire) if hosts is not None else None
    if host is not None and hosts is not None and owner is not None and owner != hosts.me.id:
        request = there(hosts)
        answer = None if request is None else (yield from hosts.ask(owner, request, WRITE_TIMEOUT))
        outcome = Outcome.__members__.get(answer.outcome) if isinstance(answer, Done) else Outcome.BUSY
        if outcome is None:
            return answer  # type: ignore[return-value]  # it is done, and has another outcome than those of a shelf
        done = answer if isinstance(answer, Done) else Done(outcome.name)
    else:
        if hosts is not None and hosts.is_client:
            return None  # it owns nothing
        written = member.on_host(lambda host: here(host) if host.is_current() else Outcome.REFUSED)
        if written is None:
            return None
        host, outcome = written
        done = Done(outcome.name)
    keyspace.count_write(outcome)
    if outcome is not Outcome.STORED:
        return None
    if hosts is not None and owner is not None and owner != hosts.me.id:
        host.board.invalidate((hash ^ WRITES,))  # this host hears of it later, and its caller has returned
        yield from hosts.until_told(done)
    elif host.hosts is not None:
        host.hosts.written(wire)
    host.tell((hash,))
    tell(member, "sets", 1, host)
    return done


def check_number(name: str, value: object) -> None:
    """Raise TypeError if a value is not a whole number."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is an int, not {type(value).__name__}: {value!r:.60}")
