"""Fetch: ask the owner host of a key for its value, and keep what comes back on this host.

What is kept stands under stamps of this host that were read before the owner was asked (rule R4 of
`colocache.core.hosts.dependencies`). The tags of a value are not known before it is there. So their stamps are read
then, and hold if no tag at all was invalidated since the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..core.entry import MISSING
from ..core.host.hashes import key_hash
from ..core.host.record import Miss, Outcome, Record, unstored
from ..core.hosts.owner import SLOWER_CLOCK
from ..core.hosts.requests import MAX_MANY, Found, FoundMany, Get, GetMany, Missing
from ..core.hosts.requests import Key as FarKey
from ..core.hosts.rows import Incarnation
from ..core.keys import Key
from ..host import Host
from ..hosts import Hosts
from .flow import Flow
from .keyspace import Keyspace


@dataclass
class Question:
    """A key that this host lacks, and what was read before its owner is asked."""

    keyspace: Keyspace
    host: Host
    key: Key
    wire: bytes
    hash: int
    hashes: tuple[int, ...]
    any_tag: int
    miss: Miss

    @classmethod
    def about(cls, keyspace: Keyspace, host: Host, key: Key, wire: bytes) -> Question | Record:
        """Return the question, or the record that is there by now."""
        hash, hashes, any_tag = key_hash(wire), keyspace.hashes(), host.any_tag()
        host.fences.order()
        found = host.shelf.look(wire, hash, hashes, host.now())
        return found if isinstance(found, Record) else cls(keyspace, host, key, wire, hash, hashes, any_tag, found)

    @property
    def far_key(self) -> FarKey:
        """The key as other hosts are asked for it."""
        return FarKey(self.wire, self.hashes)

    def keep(self, found: Found) -> Record:
        """Keep what was found on this host, if that is possible, and return it as a record."""
        host, miss = self.host, self.miss
        label, is_storable = miss.label, True
        unknown = [hash for hash in found.hashes if hash not in self.hashes]
        if unknown:
            label += host.board.label(unknown)
            host.fences.order()
            is_storable = host.any_tag() == self.any_tag
        expires = miss.at + found.ttl
        miss = Miss(label, miss.at - found.age * SLOWER_CLOCK)
        if is_storable:
            outcome, record = host.shelf.fill(self.wire, self.hash, found.payload, miss, expires)
            if outcome is not Outcome.REFUSED and record is not None:
                return record
        return unstored(found.payload, miss, expires)

    def use(self, found: Found) -> Any:
        """Keep what was found, and return its value; MISSING if it cannot be decoded here."""
        record = self.keep(found)
        return self.keyspace.use(self.host, self.key, self.wire, self.hash, record)


def get(
    keyspace: Keyspace, host: Host, hosts: Hosts, owner: Incarnation, key: Key, wire: bytes
) -> Flow[tuple[Any, bytes]]:
    """Return the value that an owner host has, or MISSING; and a fence, if it has none."""
    if not hosts.may_ask():
        return MISSING, b""
    question = Question.about(keyspace, host, key, wire)
    if isinstance(question, Record):
        return keyspace.use(host, key, wire, key_hash(wire), question), b""
    answer = yield from hosts.ask(owner, Get(question.far_key, hosts.dependencies(), False, 0.0))
    if isinstance(answer, Found):
        return question.use(answer), b""
    if isinstance(answer, Missing) and (yield from hosts.catch_up(answer.depends)):
        return MISSING, answer.fence
    return MISSING, b""


def get_many(
    keyspace: Keyspace, host: Host, hosts: Hosts, wanted: Sequence[tuple[Key, bytes]]
) -> Flow[list[tuple[Key, Any]]]:
    """Return what the owner hosts have of some keys: each is asked once."""
    found: list[tuple[Key, Any]] = []
    if not hosts.may_ask():
        return found
    questions: dict[Incarnation, list[Question]] = {}
    for key, wire in wanted:
        owner = hosts.owner(wire)
        if owner is None:
            continue
        question = Question.about(keyspace, host, key, wire)
        if isinstance(question, Record):
            found.append((key, keyspace.use(host, key, wire, key_hash(wire), question)))
        else:
            questions.setdefault(owner, []).append(question)
    depends = hosts.dependencies()
    parts = [
        (owner, asked[start : start + MAX_MANY])
        for owner, asked in questions.items()
        for start in range(0, len(asked), MAX_MANY)
    ]
    if not parts:
        return found
    answers = yield from hosts.ask_all(
        [(owner, GetMany(tuple([each.far_key for each in part]), depends)) for owner, part in parts]
    )
    for (_, part), answer in zip(parts, answers, strict=True):
        if isinstance(answer, FoundMany):
            for question, value in zip(part, answer.values, strict=False):
                if value is not None:
                    found.append((question.key, question.use(value)))
    return found
