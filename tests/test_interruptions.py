"""Which exceptions are the application's own, so that nobody may take them for trouble of the cache."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import pytest

from colocache import Cache
from colocache.interruptions import is_from_handler, raise_if_foreign
from colocache.operations.load import get_or_load
from colocache.values.msgpack_codec import MsgpackCodec
from tests.conftest import NewCache


class SoftTimeLimit(Exception):
    """As task queues define it."""


def handle(*_: object) -> None:
    raise TimeoutError("the time is up")


class Handler:
    def handle(self, *_: object) -> None:
        raise TimeoutError("the time is up")

    __call__ = handle


@pytest.fixture(params=[handle, Handler().handle, Handler()], ids=["function", "method", "object"])
def handler(request: pytest.FixtureRequest) -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, request.param)
    yield
    signal.signal(signal.SIGUSR1, before)


def raised_by(work: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as raised:  # noqa: PT011
        work()
    return raised.value


@pytest.mark.usefixtures("handler")
def test_what_a_handler_raises_is_known_by_its_trace() -> None:
    error = raised_by(lambda: signal.raise_signal(signal.SIGUSR1))
    assert is_from_handler(error)
    with pytest.raises(TimeoutError):
        raise_if_foreign(error)


def out_of_ours(cache: Cache, error: BaseException) -> BaseException:
    """Return an exception that has come out of the package's own code, where no ``raise`` is: of another thread."""
    flow: Any = get_or_load(cache._keyspace, "k", lambda: 1, cache._keyspace.given(60, ()))
    return error.with_traceback(TracebackType(None, flow.gi_frame, 0, 1))


def test_what_another_thread_has_raised_is_known_by_its_type(new_cache: NewCache) -> None:
    cache = new_cache(private=True)
    with pytest.raises(SoftTimeLimit):
        raise_if_foreign(out_of_ours(cache, SoftTimeLimit()))
    raise_if_foreign(out_of_ours(cache, ValueError()))


def test_what_a_users_function_raises_is_not_foreign() -> None:
    def of_a_user() -> None:
        raise SoftTimeLimit

    error = raised_by(of_a_user)
    assert not is_from_handler(error)
    raise_if_foreign(error)


@pytest.mark.usefixtures("handler")
def test_a_time_limit_that_comes_while_a_value_is_encoded_reaches_the_caller(
    monkeypatch: pytest.MonkeyPatch, new_cache: NewCache
) -> None:
    cache, pack = new_cache(private=True), MsgpackCodec._pack

    def interrupted(self: MsgpackCodec, *args: Any) -> bytes:
        monkeypatch.setattr(MsgpackCodec, "_pack", pack)
        signal.raise_signal(signal.SIGUSR1)
        return pack(self, *args)

    for write in (lambda: cache.set("k", "v"), lambda: cache.get_or_load("k", lambda: "v")):
        monkeypatch.setattr(MsgpackCodec, "_pack", interrupted)
        with pytest.raises(TimeoutError, match="the time is up"):
            write()
    assert cache.get("k") is None
