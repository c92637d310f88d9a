"""Where the dashboard reads: the memory of a group's host, by a process that only looks, or by one of the group."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from .. import Cache, ColocacheError
from ..core.host.hashes import key_hash
from ..errors import CannotJoin
from ..group_stats import Board, HostStats, host_stats
from ..hosts import HostInfo
from ..interruptions import raise_if_from_handler
from ..operations import invalidate
from ..operations.drive import finish
from ..runtime.frames import KEYS
from ..runtime.observer import Observer
from ..runtime.view import View

ACT_TIMEOUT: Final = 20.0  # s for a process that joins, acts and leaves

Kind = Literal["key", "tag", "namespace"]


class Blind(Exception):
    """Why nothing can be seen, for people."""


@dataclass(frozen=True)
class Sight:
    """The memory of the host, while somebody looks."""

    view: View
    host: HostStats
    hosts: tuple[HostInfo, ...]
    has_hosts: bool
    path: str  # of the group's directory; empty if its memory has none
    region: bytes  # another one each time the group begins anew


@dataclass(frozen=True)
class Action:
    """Something that is to be invalidated."""

    kind: Kind
    name: str  # a tag, the path of a namespace, or what people call the key
    wire: bytes = b""  # of a key


@dataclass(frozen=True)
class Outcome:
    """What has become of an action."""

    complete: bool
    processes: int  # of this host, that it speaks of; the one that has acted is among them
    hosts: int
    text: str = ""  # what went wrong


class Source(Protocol):
    """Where a dashboard reads, and by whom it acts. Any thread may use it."""

    group: str

    def sight(self) -> AbstractContextManager[Sight]:
        """Return the memory of the host. Raise Blind."""

    def act(self, action: Action) -> Outcome:
        """Invalidate something in the whole group, and return when that is done."""


class OfObserver:
    """The memory as a process sees it that does not belong to the group. To act, it starts a process that joins."""

    def __init__(self, group: str, directory: str | None) -> None:
        """``directory`` is the setting; None is the default."""
        self.group = group
        self._directory = directory

    @contextlib.contextmanager
    def sight(self) -> Iterator[Sight]:
        """Open the memory anew each time: the group may have ended, and begun again."""
        try:
            observer = Observer(self.group, self._directory)
        except (CannotJoin, OSError) as error:
            raise_if_from_handler(error)
            raise Blind(str(error)) from None
        with observer, observer.view() as view:
            sizes = observer.shelf.entries(), observer.shelf.taken(), observer.geometry.capacity
            host = host_stats("", True, Board(view.scoreboard(), sizes))
            yield Sight(view, host, (), observer.hosts is not None, observer.path, observer.head.id)

    def act(self, action: Action) -> Outcome:
        """Have another process do it: one that has joined cannot look as this one does."""
        wanted = {
            "group": self.group, "directory": self._directory, "kind": action.kind, "name": action.name,
            "wire": action.wire.hex(),
        }  # fmt: skip
        command = [sys.executable, "-m", "colocache.dashboard.act"]
        try:
            done = subprocess.run(
                command, input=json.dumps(wanted), capture_output=True, text=True, timeout=ACT_TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired:
            return Outcome(False, 0, 0, f"the process that was to do it has not ended within {ACT_TIMEOUT:.0f} s")
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or [f"it has ended with status {done.returncode}"]
            return Outcome(False, 0, 0, last[0][:500])
        found = json.loads(done.stdout)
        return Outcome(found["complete"], found["processes"], found["hosts"], found["text"])


class OfCache:
    """The memory as a process of the group sees it. It joins at the first look, if it has not joined yet."""

    def __init__(self, cache: Cache) -> None:
        self.group = cache.group
        self._cache = cache

    @contextlib.contextmanager
    def sight(self) -> Iterator[Sight]:
        """Read the memory that the cache has joined."""
        member = self._cache._member
        try:
            member.start()
            host = member.own_host()
        except (ColocacheError, OSError, MemoryError, ImportError) as error:
            raise_if_from_handler(error)
            raise Blind(str(error) or type(error).__name__) from None
        if host is None or not host.alive:
            raise Blind("the cache of this process is off (COLOCACHE_DISABLED), or has left its group just now")
        with host.view() as view:
            yield Sight(
                view, host.host_stats(), tuple(member.hosts()), host.hosts is not None, host.region.path, host.region_id
            )

    def act(self, action: Action) -> Outcome:
        """Do it."""
        return carry_out(self._cache, action)


def carry_out(cache: Cache, action: Action) -> Outcome:
    """Invalidate something, and say what has come of it. Not for the thread of an event loop."""
    if action.kind == "tag":
        receipt = cache.invalidate_tags(action.name)
    elif action.kind == "namespace":
        receipt = (cache.namespace(action.name) if action.name else cache).clear()
    else:
        hashes = [key_hash(action.wire)]
        flow = invalidate.announce(cache._keyspace, hashes, KEYS, action.name, True, False)
        receipt = finish(flow, cache._member.may_wait)
    return Outcome(receipt.complete, receipt.processes, receipt.hosts)
