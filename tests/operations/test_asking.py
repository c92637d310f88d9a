"""Questions to other hosts: what an owner has granted is used, or given back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from colocache.core.hosts import requests
from colocache.core.hosts.gateway import Times
from colocache.core.hosts.requests import Fill, Found, Get, Granted, Key, Refused
from colocache.core.hosts.rows import Host
from colocache.hosts import Hosts
from colocache.operations.drive import run
from colocache.runtime.network.direct import UNABLE
from tests.interrupts import SWALLOWED, Interrupt, at_every_point
from tests.runtime.network.driven import HostMemory

OWNER = b"o" * 16


class Owner:
    """A host that grants each load that it is asked for, as the network of the asker shows it."""

    is_gateway = False

    def __init__(self) -> None:
        self.granted: int | None = None  # the token of the load that somebody has
        self.has_links = True
        self.is_slow = False
        self.asked: list[Any] = []
        self._tokens = 0

    def ask(self, to: bytes, body: bytes, timeout: float) -> bytes | object | None:
        """Answer in the caller's thread."""
        if not self.has_links:
            return UNABLE
        answer = self._answer(body)
        return None if self.is_slow else answer

    def request(
        self, to: bytes, body: bytes, on_answer: Callable[[bytes | None], object], timeout: float,
        on_late: Callable[[bytes], object] | None = None,
    ) -> None:  # fmt: skip
        """Answer at once, in another thread: that of the network, in which no signal handlers run."""
        thread = threading.Thread(target=lambda: on_answer(self._answer(body)))
        thread.start()
        thread.join()

    def wake_gateway(self) -> None:
        """Nothing is to be told."""

    def _answer(self, body: bytes) -> bytes:
        request = requests.decode_request(body)
        self.asked.append(request)
        if isinstance(request, Fill):
            if request.token == self.granted:
                self.granted = None
            return requests.encode(Refused())
        assert isinstance(request, Get)
        if not request.leads:
            return requests.encode(Found(b"x", (), 1.0, 0.0, 1, 0))
        self._tokens += 1
        self.granted = self._tokens  # the same host asks again: what it had is given back
        return requests.encode(Granted(self._tokens, {}))


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    memory = HostMemory(tmp_path / "host")
    me = Host(memory.id, "me", "", 1)
    made = Hosts(me, memory.words, memory.rows, memory.log, memory.fences, Times(), b"", time.monotonic)
    made.network = Owner()
    return made


def owner_of(hosts: Hosts) -> Owner:
    assert isinstance(hosts.network, Owner)
    return hosts.network


def ask(hosts: Hosts, leads: bool = True) -> Any:
    return run(hosts.ask_or_copy(OWNER, Get(Key(b"k", ()), {}, leads, 1.0, hosts.me.id)))


@pytest.mark.parametrize("has_links", [True, False])
def test_a_question_is_asked_once(hosts: Hosts, has_links: bool) -> None:
    owner = owner_of(hosts)
    owner.has_links = has_links
    assert ask(hosts) == Granted(1, {})
    assert isinstance(ask(hosts, leads=False), Found)
    assert len(owner.asked) == 2


def test_a_load_that_was_granted_too_late_is_given_back(hosts: Hosts) -> None:
    owner = owner_of(hosts)
    owner.is_slow = True
    assert ask(hosts) is None
    assert owner.granted is None
    assert ask(hosts, leads=False) is None
    assert len(owner.asked) == 4, "nothing was granted by the last one"


@pytest.mark.filterwarnings(SWALLOWED)
@pytest.mark.parametrize("has_links", [True, False])
def test_whoever_is_interrupted_keeps_no_load(hosts: Hosts, has_links: bool) -> None:
    """Otherwise nobody in the group could load the key for 30 s."""
    owner, answers = owner_of(hosts), list[Any]()
    owner.has_links = has_links

    def flow() -> Generator[Any, Any, None]:
        request = Get(Key(b"k", ()), {}, True, 1.0, hosts.me.id)
        yield from hosts.ask_or_copy(OWNER, request, lambda token: answers.append(token))

    def work() -> None:
        answers.clear()
        run(flow())

    points = 0
    for points in at_every_point(work, ("colocache/hosts.py", "operations/drive.py")):  # noqa: B007
        if not answers:
            assert owner.granted is None
        owner.granted = None
    assert points > 10


def test_an_interruption_comes_out(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise Interrupt

    monkeypatch.setattr(owner_of(hosts), "ask", interrupt)
    with pytest.raises(Interrupt):
        ask(hosts)
