"""What an owner says of its values, and when it derives new ones."""

from __future__ import annotations

import math

import pytest

from colocache.core.host.hashes import ROOT, key_hash
from colocache.core.host.record import Outcome
from colocache.core.hosts.layout import UNTIL
from colocache.core.hosts.requests import (
    Add,
    Count,
    Done,
    Found,
    Get,
    Key,
    Put,
    Refused,
    Replace,
    Request,
    Touch,
    decode_answer,
    encode,
)
from colocache.core.hosts.rows import ACKED
from colocache.core.hosts.rows import Host as Known
from colocache.core.numbers import pack_integer
from tests.core.host.shelves import Host
from tests.core.hosts.test_grants import Port
from tests.core.leases import BY_AGE, LEASE, WordLease

ME = b"1" * 16
KEY = Key(b"k", (ROOT,))
NUMBER = pack_integer(1)


class Place:
    """A host that owns a key, and is current, or behind, when the test wants it to be."""

    def __init__(self) -> None:
        self.lease = WordLease(1000.0 + LEASE)
        self.host = Host(lease=self.lease)
        self.port = Port(self.host, {}, ME, self.lease)

    def be_behind(self, seconds: float) -> None:
        """Be behind for so long already."""
        self.lease.publish(self.host.now - seconds)
        self.lease.known = -math.inf

    def found(self) -> Found:
        """Return what another host is given."""
        found = self.port.ask(Get(KEY, {}, False, 0.0))
        assert isinstance(found, Found)
        return found


DERIVED: dict[str, Request] = {
    "add": Add(KEY, NUMBER, math.inf, {}),
    "replace": Replace(KEY, NUMBER, math.inf, 1, 0, {}),
    "count": Count(KEY, 1, NUMBER, math.inf, {}),
    "touch": Touch(KEY, math.inf, {}),
}


@pytest.mark.parametrize("name", DERIVED)
def test_nothing_is_derived_while_the_owner_is_behind(name: str) -> None:
    """Its number would include what an invalidation has made void.

    1. The owner is cut off. 2. W, elsewhere, invalidates a counter. Its receipt waits until the owner's lease is over.
    3. C has the owner count, which has not heard of that.
    """
    place = Place()
    assert place.port.ask(Put(KEY, NUMBER, math.inf, False)) == Done("STORED", None, False, {}, place.port.owner.me)
    place.be_behind(0.0)
    assert place.port.ask(DERIVED[name]) == Refused()
    assert place.port.shelf.held(KEY.wire, key_hash(KEY.wire), place.host.now) is not None, "what is young is served"
    assert place.found().payload == NUMBER


@pytest.mark.parametrize("name", DERIVED)
def test_who_does_not_own_a_key_any_more_derives_nothing(name: str) -> None:
    """Two hosts would give the same number.

    1. The owner has a counter. 2. N joins, owns the key, and counts on from there. 3. C still asks the old owner.
    """
    place = Place()
    place.port.ask(Put(KEY, NUMBER, math.inf, False))
    place.port.owner._owns = lambda wire: False
    assert place.port.ask(DERIVED[name]) == Refused()


def test_what_is_fetched_is_as_old_as_it_is_at_the_owner() -> None:
    """R3: a host that is behind serves what is young. Its age counts from when the source was read, wherever that was.

    1. The owner loads a value. 2. W, elsewhere, invalidates it; the leases of owner and asker are waited out.
    3. The asker fetches the value, and is behind. If the value was new again, it would serve it.
    """
    place = Place()
    place.port.ask(Put(KEY, NUMBER, math.inf, False))
    place.host.now += LEASE - 0.5
    assert place.found().age == LEASE - 0.5
    place.be_behind(0.0)
    assert place.found().age == LEASE - 0.5
    place.host.now += 1.0
    assert not isinstance(place.port.ask(Get(KEY, {}, False, 0.0)), Found), "it is too old by now"


def test_an_owner_that_has_been_behind_for_too_long_answers_nothing_and_grants_nothing() -> None:
    place = Place()
    place.be_behind(BY_AGE)
    assert place.port.ask(Get(KEY, {}, True, 1.0)) == Refused()


def test_a_set_that_waits_is_answered_when_all_have_acknowledged() -> None:
    """And not before: its caller is told that nobody serves anything older."""
    place, answers = Place(), list[bytes]()
    row, log = place.port.row, place.port.log
    place.port.words[UNTIL] = int((place.host.now + LEASE) * 1e9)
    place.port.shelf._announcer = place.port
    row.meet(Known(b"2" * 16, "h2", "", 1), 1)
    place.port.owner.serve(encode(Put(KEY, NUMBER, math.inf, True)), answers.append)
    assert log.lasts() == {0: 1}
    place.host.now += 0.001
    place.port.owner.run()
    assert answers == []
    row.raise_to(b"2" * 16, ACKED, 1)
    place.host.now += 0.001
    place.port.owner.run()
    assert decode_answer(answers[0]) == Done(Outcome.STORED.name, None, True, {0: 1}, place.port.owner.me)
