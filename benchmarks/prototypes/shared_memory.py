"""How fast could a process read a host-mate's shard by itself, through shared memory?

    python -m benchmarks.prototypes.shared_memory [--quick] [--write]

This prototype is not part of the package. It is there for one decision (docs/decisions/0016). The owner of a key writes
each entry of its shard into a file that the other members of the host map. A reader looks there before it asks, and so
needs neither the owner's interpreter lock nor a wake-up. It may use what it finds, as if the owner had answered, if

1. the record is whole: the slot's sequence number is even, and the same before and after it was copied; and its
   checksum is right, because nothing orders Python's writes;
2. the owner is current: it publishes the time until which it is, and a host has one CLOCK_MONOTONIC;
3. the owner has applied every event that covers the key and that the reader knows: the owner publishes how far each
   stream is applied **after** it has dropped what the event covers. This replaces the dependencies that a request
   carries.

The benchmark measures such a read, and in the same rounds colocache's fetch and redis-py over a Unix socket, with the
owner idle, at 70 % in bursts, and spinning. The prototype has no eviction and no growth (the file has room for all
keys), makes no near copy of what it has read, and knows only the byte order of this machine.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from hashlib import blake2b
from math import inf
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any
from zlib import crc32

from benchmarks.fetch import PEERS, redis_client
from benchmarks.group import Group, Member
from benchmarks.measure import Contender, Report, interleave, options, ratio
from benchmarks.servers import Servers
from colocache import MsgpackCodec

SLOTS = 1 << 12
ROOM = 128 << 10  # bytes of a slot, enough for a value of 100 KiB
STREAMS = 64
HEAD = struct.Struct("=d")  # until when the owner is current
POSITION = struct.Struct("=16sQ")  # of a stream, and how far it is applied
SLOT = struct.Struct("=QQIIdd")  # sequence, fingerprint, length, checksum, loaded at, expires
START = 4096  # of the slots
SIZES = {"100 B": 100, "1 KiB": 1 << 10, "10 KiB": 10 << 10, "100 KiB": 100 << 10}
COUNT = 50  # keys

assert HEAD.size + STREAMS * POSITION.size <= START


def fingerprint(wire: bytes) -> int:
    """Return what stands for a key in the file."""
    return int.from_bytes(blake2b(wire, digest_size=8).digest(), "big")


class Published:
    """A shard in a file that all processes of the host map."""

    def __init__(self, path: Path) -> None:
        path.touch()
        with path.open("r+b") as file:
            file.truncate(START + SLOTS * ROOM)  # sparse: only what is written takes room
            self._map = mmap.mmap(file.fileno(), 0)

    # --- The owner

    def heartbeat(self, current_until: float, applied: dict[bytes, int]) -> None:
        """Publish until when the owner is current, and the events that it has applied, after it has dropped entries."""
        HEAD.pack_into(self._map, 0, current_until)
        for place, (stream, number) in enumerate(applied.items()):
            POSITION.pack_into(self._map, HEAD.size + place * POSITION.size, stream, number)

    def put(self, wire: bytes, payload: bytes, loaded_at: float, expires: float) -> None:
        """Publish an entry in its slot. If another key has that slot, its entry is replaced, which costs a miss."""
        mark = fingerprint(wire)
        at = START + mark % SLOTS * ROOM
        sequence = SLOT.unpack_from(self._map, at)[0]
        SLOT.pack_into(self._map, at, sequence + 1, 0, 0, 0, 0.0, 0.0)  # odd: do not read
        self._map[at + SLOT.size : at + SLOT.size + len(payload)] = payload
        SLOT.pack_into(
            self._map, at, sequence + 2, mark, len(payload), _checksum(payload, loaded_at), loaded_at, expires
        )

    def drop(self, wire: bytes) -> None:
        """Take an entry back, before the event that covers it is published as applied."""
        at = START + fingerprint(wire) % SLOTS * ROOM
        sequence = SLOT.unpack_from(self._map, at)[0]
        SLOT.pack_into(self._map, at, sequence + 2, 0, 0, 0, 0.0, 0.0)

    # --- A reader

    def get(self, wire: bytes, dependencies: dict[bytes, int]) -> bytes | None:
        """Return the payload of an entry that may be used, or None."""
        shared, mark, now = self._map, fingerprint(wire), monotonic()
        if HEAD.unpack_from(shared, 0)[0] <= now or (dependencies and not self._has_applied(dependencies)):
            return None
        at = START + mark % SLOTS * ROOM
        sequence, found, length, checksum, loaded_at, expires = SLOT.unpack_from(shared, at)
        if found != mark or sequence % 2 or expires <= now or length > ROOM - SLOT.size:
            return None
        payload = shared[at + SLOT.size : at + SLOT.size + length]
        whole = SLOT.unpack_from(shared, at)[0] == sequence and _checksum(payload, loaded_at) == checksum
        return payload if whole else None

    def _has_applied(self, dependencies: dict[bytes, int]) -> bool:
        table = memoryview(self._map)[HEAD.size : HEAD.size + STREAMS * POSITION.size]
        applied = dict(POSITION.iter_unpack(table))
        return all(applied.get(stream, -1) >= number for stream, number in dependencies.items())


def _checksum(payload: bytes, loaded_at: float) -> int:
    return crc32(payload, hash(loaded_at) & 0xFFFFFFFF)


class Owner(Member):
    """The process that has the values."""

    def publish(self, path: str, names: list[str], values: list[Any]) -> None:
        """Publish the values of some keys."""
        shard, codec, now = Published(Path(path)), MsgpackCodec(), monotonic()
        for name, value in zip(names, values, strict=True):
            shard.put(name.encode(), codec.encode(value), now, inf)
        shard.heartbeat(inf, {bytes([n]) * 16: n for n in range(8)})


class Asker(Member):
    """The process that reads, in three ways."""

    def prepare(self, path: str, redis_socket: str, sizes: dict[str, int]) -> dict[str, tuple[list[str], list[Any]]]:
        """Store the values with the owner and in Redis; return what the owner is to publish."""
        self._shard, self._codec = Published(Path(path)), MsgpackCodec()
        self._redis = redis_client("_RESP2Parser", path=redis_socket)
        self._names: dict[str, list[str]] = {}
        told, taken = {}, set[int]()
        for size, length in sizes.items():
            names = self._names[size] = self._without_collisions(size.replace(" ", ""), taken)
            values = ["x" * length for _ in names]
            self.cache.set_many(dict(zip(names, values, strict=True)))
            for name, value in zip(names, values, strict=True):
                self._redis.put(name, value)
            told[size] = (names, values)
        return told

    def _without_collisions(self, prefix: str, taken: set[int]) -> list[str]:
        """Return keys that others own, each with a slot of its own: a miss would not be measured, but end the run."""
        chosen = []
        for name in self.owned_elsewhere(2 * COUNT, prefix):
            slot = fingerprint(name.encode()) % SLOTS
            if slot not in taken:
                taken.add(slot)
                chosen.append(name)
        return chosen[:COUNT]

    def read(self, how: str, size: str) -> list[float]:
        """Read each key once; return how long each took, in seconds."""
        ways = {"shared memory": self._read_shared, "colocache fetch": self._fetch, "redis-py, unix": self._redis.get}
        read = ways[how]
        took = []
        for name in self._names[size]:
            began = perf_counter()
            value = read(name)
            took.append(perf_counter() - began)
            if len(value) != SIZES[size]:
                raise RuntimeError(f"{how} gives another value than was stored")
            self._forget(name)
        return took

    def _read_shared(self, name: str) -> Any:
        payload = self._shard.get(name.encode(), {b"\5" * 16: 5})
        if payload is None:
            raise RuntimeError("the shared memory does not have it")
        return self._codec.decode(payload)

    def _fetch(self, name: str) -> Any:
        return self.cache.get(name)

    def _forget(self, name: str) -> None:
        """Drop the near copy, or the next read of it would be a hit."""
        bus = self.cache._member.life.driver
        assert bus is not None
        wire = self.cache._keyspace.wire(name)
        bus._look(lambda now: bus.store.drop(wire))


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the prototype; return what it found."""
    chosen = options(__doc__ or "", argv=argv)
    report = Report("shared_memory", (__doc__ or "").splitlines()[0], chosen, ("redis",))
    with Servers(memcached=False) as servers, Group(fetch_timeout=5.0) as group:
        [asker], [owner] = group.start(Asker), group.start(Owner)
        path = str(group.directory / "shard")
        for names, values in asker.call("prepare", path, servers.redis_socket, SIZES).values():
            owner.call("publish", path, names, values)
        for peers, words in PEERS.items():
            owner.call("work", peers)
            for size in SIZES if peers == "idle" and not chosen.quick else ("1 KiB",):
                ways = ("shared memory", "colocache fetch", "redis-py, unix")
                contenders = [Contender(how, lambda how=how: asker.call("read", how, size)) for how in ways]  # type: ignore[misc]  # noqa: B023
                series = interleave(contenders, 4 if chosen.quick else 10)
                report.timings(f"one key of {size}, the owner {words}", series, "redis-py, unix")
                quotient = ratio(series["shared memory"], series["colocache fetch"])
                report.ratio(f"shared memory / fetch, {size}, {peers}", quotient)
            owner.call("work", "idle")
    return report.finish()


if __name__ == "__main__":
    main()
