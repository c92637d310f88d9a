"""Fetch: ask the owner host of a key for its value, and keep what comes back on this host.

What is kept stands under stamps of this host that were read before the owner was asked: see
`colocache.core.hosts.taking`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..core.entry import MISSING
from ..core.host.hashes import key_hash
from ..core.host.record import Record
from ..core.hosts.copies import PEEK_WITHIN
from ..core.hosts.requests import MAX_MANY, Answer, Found, FoundMany, Get, GetMany, Missing
from ..core.hosts.rows import Incarnation
from ..core.hosts.taking import Asked
from ..core.keys import Key
from ..host import Host
from ..hosts import Hosts
from .flow import Flow
from .keyspace import Keyspace
from .traced import Told, traced


@dataclass
class Question:
    """A key that this host lacks, and what was read before another host is asked."""

    keyspace: Keyspace
    host: Host
    key: Key
    asked: Asked

    @classmethod
    def about(cls, keyspace: Keyspace, host: Host, key: Key, wire: bytes) -> Question | Record:
        """Return the question, or the record that is there by now."""
        found = host.taker.look(wire, keyspace.hashes(), host.now())
        return found if isinstance(found, Record) else cls(keyspace, host, key, found)

    def keep(self, found: Found) -> Record:
        """Keep what was found on this host, if that is possible, and return it as a record."""
        return self.host.taker.keep(self.asked, found)

    def use(self, found: Found) -> Any:
        """Keep what was found, and return its value; MISSING if it cannot be decoded here."""
        record = self.keep(found)
        return self.keyspace.use(self.host, self.key, self.asked.wire, self.asked.hash, record)


def get(
    keyspace: Keyspace, host: Host, hosts: Hosts, owner: Incarnation | None, key: Key, wire: bytes
) -> Flow[tuple[Any, bytes]]:
    """Return the value that the owner host has, or MISSING; and its fence, if it has none.

    ``owner`` is None if that is this host, which may have joined just now: then another one may have the value.
    """
    other = hosts.second(wire) if owner is None else owner
    if other is None:
        return MISSING, b""
    if not hosts.may_ask():
        return MISSING, b""
    question = Question.about(keyspace, host, key, wire)
    if isinstance(question, Record):
        return keyspace.use(host, key, wire, key_hash(wire), question), b""
    request = Get(question.asked.key, hosts.dependencies(), False, 0.0)
    asking = hosts.ask(other, request, PEEK_WITHIN) if owner is None else hosts.ask_or_copy(owner, request)
    answer = yield from traced(keyspace, "fetch", (key,), asking, partial(_told, hosts, other))
    if isinstance(answer, Found):
        return question.use(answer), b""
    if owner is not None and isinstance(answer, Missing) and (yield from hosts.catch_up(answer.depends)):
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
        owner = hosts.owner(wire) or hosts.second(wire)
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
    asking = hosts.ask_several(
        [(owner, GetMany(tuple([each.asked.key for each in part]), depends)) for owner, part in parts]
    )
    keys = [each.key for _, part in parts for each in part]
    answers = yield from traced(keyspace, "fetch", keys, asking, partial(_told_of_many, hosts, [*questions]))
    for (_, part), answer in zip(parts, answers, strict=True):
        if isinstance(answer, FoundMany):
            for question, value in zip(part, answer.values, strict=False):
                if value is not None:
                    found.append((question.key, question.use(value)))
    return found


def _told(hosts: Hosts, asked: Incarnation, answer: Answer | None) -> Told:
    outcome = "no answer" if answer is None else "found" if isinstance(answer, Found) else "nothing"
    return Told(outcome, hosts.names_of(asked))


def _told_of_many(hosts: Hosts, asked: Sequence[Incarnation], answers: Sequence[Answer | None]) -> Told:
    found = [value for each in answers if isinstance(each, FoundMany) for value in each.values if value is not None]
    outcome = "found" if found else "no answer" if all(each is None for each in answers) else "nothing"
    return Told(outcome, hosts.names_of(*asked))
