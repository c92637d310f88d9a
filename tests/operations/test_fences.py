"""Get, compute, set: whatever the reason that nothing was found, what is older than an event is not set after it."""

from __future__ import annotations

from typing import Any

import pytest

from colocache import Cache, Space
from colocache.errors import CannotJoin
from colocache.host import Host
from tests.conftest import NewCache


def get_by_get(space: Space) -> Any:
    return space.get("k")


def get_by_get_many(space: Space) -> Any:
    return space.get_many(["k"]).get("k")


@pytest.fixture(params=[get_by_get, get_by_get_many])
def get(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def writer(new_cache: NewCache) -> Space:
    cache = new_cache()
    cache.start()
    return cache.namespace("f")


@pytest.fixture
def reader(new_cache: NewCache) -> Space:
    return new_cache().namespace("f", fence=True)


def refuse(*_: Any) -> Host:
    raise CannotJoin("somebody has begun to join, and does not go on")


def rejoin(reader: Space) -> None:
    reader._keyspace.member.start()


def test_a_set_after_a_get_that_could_not_join_is_refused(
    writer: Space, reader: Space, get: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Host, "join", refuse)
        assert get(reader) is None
    writer.set("k", "new")
    rejoin(reader)
    assert reader.set("k", "old") is False
    assert writer.get("k") == reader.get("k") == "new"


def test_a_set_after_a_get_on_a_region_that_was_ending_is_refused(
    writer: Space, reader: Space, get: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.set("k", "found too late")
    rejoin(reader)
    host = reader._keyspace.member.own_host()
    assert host is not None
    with monkeypatch.context() as patch:
        patch.setattr(Host, "alive", property(lambda self: self is not host))
        patch.setattr(reader._keyspace.member, "join", lambda: host)
        assert get(reader) is None
    writer.set("k", "new")
    assert reader.set("k", "old") is False
    assert writer.get("k") == reader.get("k") == "new"


class Undecodable:
    """Decodes nothing."""

    def __init__(self, genuine: Any) -> None:
        self.encode = genuine.encode

    def decode(self, payload: bytes) -> Any:
        raise ValueError("another codec's")


def test_a_set_after_a_get_that_could_not_decode_is_refused(
    writer: Space, reader: Space, get: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.set("k", "undecodable")
    member = reader._keyspace.member
    with monkeypatch.context() as patch:
        patch.setattr(member, "carrier", Undecodable(member.carrier))
        assert get(reader) is None
    writer.set("k", "new")
    assert reader.set("k", "old") is False
    assert writer.get("k") == "new"


def test_a_later_get_that_could_look_makes_a_set_possible_again(
    writer: Space, reader: Space, get: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Host, "join", refuse)
        assert get(reader) is None
    rejoin(reader)
    assert get(reader) is None
    assert reader.set("k", "computed") is True
    assert writer.get("k") == "computed"


def test_a_set_that_was_not_missed_before_is_unconditional(new_cache: NewCache) -> None:
    cache: Cache = new_cache()
    space = cache.namespace("f", fence=True)
    assert space.set("k", 1) is True
    assert space.set("k", 2) is True
    assert space.get("k") == 2
