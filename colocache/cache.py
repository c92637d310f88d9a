"""A group's cache in this process, as users hold it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, TypedDict, TypeVar, Unpack

from .auditing import Difference
from .config import UNSET, Config, Duration, Unset
from .group_stats import GroupStats
from .hosts import HostInfo
from .member import Member, MemberInfo
from .operations import group, positions
from .operations.drive import arun, finish
from .operations.keyspace import Keyspace, check_copy
from .space import Space
from .stats import Stats
from .values.codec import Codec
from .values.msgpack_codec import MsgpackCodec

C = TypeVar("C", bound=type)


class Arguments(TypedDict, total=False):
    """What `Cache` takes beside the group. Each wins over its ``COLOCACHE_*`` variable; see `Config`."""

    disabled: bool
    private: bool
    memory: int | str
    shelf: int | str
    ttl: Duration | None
    policy: str
    load_timeout: Duration
    audit: float | str
    directory: str
    expect: int | str | None
    listen: str
    peers: str
    peers_interval: Duration
    secret: str
    secret_file: str
    host: str
    advertise: str
    forget: str
    replicas: int | str
    replicate: str
    handoff: Duration
    role: str


class Cache(Space):
    """A group's cache in this process. Making one starts nothing; the first use joins the group.

    It survives `os.fork` at any moment: the child forgets everything, and joins on its own at its first use. As a
    context manager it closes itself at the end.
    """

    _member_type = Member

    def __init__(
        self,
        group: str | Unset = UNSET,
        *,
        codec: Codec | None = None,
        copy: bool = False,
        fence: bool = False,
        **settings: Unpack[Arguments],
    ) -> None:
        """Take settings from the arguments, or from ``COLOCACHE_*`` variables, or by default; see `Config`.

        ``settings`` are ``memory``, ``ttl``, ``directory`` and others. Raise ConfigError for a bad one. ``codec``
        carries values between processes: all processes of a group need the same. ``copy`` and ``fence`` are what
        `Space.namespace` takes, for keys that are in no namespace.
        """
        self.config = Config.resolve({"group": group, **settings}, os.environ)
        self._member = self._member_type(self.config, codec)
        self.codec = self._member.carrier.codec
        super().__init__(Keyspace(self._member, "", self.config.ttl, check_copy(copy), fence=fence))

    # --- What it shows

    def register(self, cls: C, *, name: str | None = None) -> C:
        """Let instances of a class be cached, and return the class, so that this can be its decorator.

        Do so in every process, which means in the module that defines the class. A class that an annotation of a
        decorated function names is registered already. `MsgpackCodec.register` does the work. Raise TypeError if the
        cache has another codec.
        """
        if not isinstance(self.codec, MsgpackCodec):
            raise TypeError(f"the codec {self.codec.name!r} of {self!r} decides for itself which classes it carries")
        return self.codec.register(cls, name=name)

    def stats(self) -> Stats:
        """Return this process's figures: counters since it joined, and gauges. Never waits for another process."""
        return self._member.stats()

    def group_stats(self, timeout: float = 1.0) -> GroupStats:
        """Return what all processes of the group have counted.

        On this host it is read from memory, up to a few seconds ago for processes that do nothing but hit. Other hosts
        are asked, and those that do not answer within ``timeout`` seconds are named. So in a group of several hosts
        this raises EventLoopError on the thread of an event loop; `agroup_stats` waits in the running task. Empty
        before the first use.
        """
        return finish(group.stats(self._member, timeout), self._member.may_wait)

    async def agroup_stats(self, timeout: float = 1.0) -> GroupStats:
        """The twin of `group_stats`."""
        return await arun(group.stats(self._member, timeout))

    def members(self) -> list[MemberInfo]:
        """Return the processes of the group on this host, this one first. Empty before the first use.

        Those of other hosts are not among them: see `hosts`.
        """
        return self._member.infos()

    def hosts(self) -> list[HostInfo]:
        """Return the hosts of the group, this one first. Empty before the first use, and in a group of one host."""
        return self._member.hosts()

    # --- Audits

    def audits(self) -> list[Difference]:
        """Return what audits of this process have found: values that were served, and that the source had changed.

        The last hundred, the newest last. Empty unless the setting ``audit`` is above 0. docs/howto/audit.md says how
        to read them.
        """
        return [*self._member.life.auditor.differences]

    def audit_within(self, surroundings: Callable[[], AbstractContextManager[Any]]) -> None:
        """Call functions for audits inside ``with surroundings():``, such as ``app.app_context`` of Flask.

        Otherwise they are called in an empty context, in a thread, greenlet or task of the cache. Raise TypeError for
        what cannot be called.
        """
        if not callable(surroundings):
            raise TypeError(f"surroundings is called, and returns a context manager: {surroundings!r:.60}")
        self._member.audit_within = surroundings

    # --- Positions: what another process has seen

    def position(self) -> str:
        """Return a mark of everything this process has invalidated so far, for `catch_up` in another process.

        It is a short ASCII text, which fits in a cookie or a header. It is empty if this process is not in the group.
        `Scope.position` gives the mark of one request.
        """
        return positions.own_position(self._member)

    def catch_up(self, position: str, timeout: float | None = None) -> bool:
        """Tell whether this process has applied all that a position stands for.

        What this host has invalidated holds in all its processes. What another host has invalidated is waited for, for
        ``timeout`` seconds at most; None is three seconds. A text that is not a position, or one of a host that is not
        known, raises nothing: the answer is False. In a group of several hosts, raise EventLoopError on the thread of
        an event loop; `acatch_up` waits in the running task.
        """
        return finish(positions.catch_up(self._member, position, timeout), self._member.may_wait)

    async def acatch_up(self, position: str, timeout: float | None = None) -> bool:
        """The twin of `catch_up`."""
        return await arun(positions.catch_up(self._member, position, timeout))

    # --- Its life

    def start(self) -> None:
        """Join the group now rather than at the first use, and raise what keeps it from joining.

        That is, for example, a ConfigError for a runtime directory that cannot be used, or an OSError of the system. A
        read, by contrast, loads for itself as long as the cache cannot join.
        """
        self._member.start()

    def leave(self) -> None:
        """Leave the group. What this process has stored stays with the others. The next use joins anew."""
        self._member.leave()

    def close(self) -> None:
        """Leave the group for good: every use afterwards raises ClosedError. It may be called twice."""
        self._member.close()

    def __enter__(self) -> Cache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._member)
