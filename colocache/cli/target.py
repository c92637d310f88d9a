"""The group that a command is about: its memory on this host, to look at, and a place in the group, to act.

To look changes nothing: an `Observer` maps the files, and joins nothing. Where other processes, or other hosts, are to
do something, the command joins for a moment, as one process more.

**Several hosts.** Where the settings of the environment say that there are some, and workers run on this host, the
command joins beside them, listens nowhere, and asks other hosts itself. Where no worker runs here, and
``COLOCACHE_PEERS`` lists other hosts, it is a client for that moment: with a directory of its own, that keeps nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from ..config import SETTINGS, UNSET
from ..errors import CannotJoin, ConfigError
from .exits import BAD_USE, FAILED, NOBODY, Failure
from .output import Output

if TYPE_CHECKING:
    from ..cache import Cache
    from ..host import Host
    from ..hosts import HostInfo
    from ..runtime.observer import Observer

JUST_NOW: Final = 2.0  # s that a region is waited for which is about to begin
LOOK_EVERY: Final = 0.02  # s
MEETING: Final = 10.0  # s in which a client meets the hosts of the group


@dataclass(frozen=True)
class Target:
    """A group, and the setting of its directory; None is the default."""

    group: str
    directory: str | None

    @classmethod
    def of(cls, chosen: argparse.Namespace, environ: Mapping[str, str]) -> Target:
        """Return what options and variables say. Raise Failure."""
        try:
            group = setting("group", chosen.group, environ)
            directory = setting("directory", chosen.dir, environ)
        except ConfigError as error:
            raise Failure(BAD_USE, str(error)) from None
        if group is UNSET:
            raise Failure(BAD_USE, f"no group: give --group shop, or set COLOCACHE_GROUP=shop{_those_there(directory)}")
        return cls(group, directory)

    @property
    def base(self) -> str:
        """The real path of the runtime directory."""
        from ..runtime.places import base_directory

        return os.path.realpath(base_directory(self.directory))

    @property
    def path(self) -> str:
        """The path of the group's directory, whether it is there or not."""
        from ..runtime.places import directory_name

        return f"{self.base}/{directory_name(self.group)}"


def setting(name: str, given: str | None, environ: Mapping[str, str]) -> Any:
    """Return a setting: from its option, otherwise from its variable, otherwise its default. Raise ConfigError."""
    one = SETTINGS[name]
    if given is not None:
        return one.read(given, "--dir" if name == "directory" else f"--{name}")
    return one.from_environ(environ)


def _those_there(directory: str | None) -> str:
    found = groups_in(directory)
    return f"; there are {', '.join(found[:10])}" if found else ""


def groups_in(directory: str | None) -> list[str]:
    """Return the names of the directories of groups in a runtime directory."""
    from ..runtime.places import base_directory

    base = base_directory(directory)
    try:
        return sorted([name for name in os.listdir(base) if os.path.exists(f"{base}/{name}/board")])
    except OSError:
        return []


# --- To look


def look(target: Target) -> Observer:
    """Return the memory of the group on this host. Raise Failure if there is none, or if it cannot be read."""
    from ..runtime.observer import NobodyThere, Observer

    ends = monotonic() + JUST_NOW
    while True:
        try:
            return Observer(target.group, target.directory)
        except NobodyThere as error:
            raise Failure(NOBODY, str(error) + _those_there(target.directory)) from None
        except CannotJoin as error:
            if "just now" not in str(error) or monotonic() >= ends:
                raise Failure(FAILED, str(error)) from None
            pause(LOOK_EVERY)
        except PermissionError as error:
            raise Failure(
                FAILED, f"{error}: the files belong to another user. Run this as the user of the workers"
            ) from None
        except OSError as error:
            raise Failure(FAILED, f"the memory of the group {target.group!r} cannot be read: {error}") from None


def pause(seconds: float) -> None:
    """Wait. A signal handler that raises ends it."""
    threading.Event().wait(seconds)


def gone(observer: Observer) -> bool:
    """Tell whether no process of the group lives any more on this host: all have been killed."""
    return not any(lives for _, lives in observer.seats_ever())


def hosts_seen(observer: Observer, environ: Mapping[str, str]) -> list[HostInfo]:
    """Return the hosts of the group as the memory of this one has them; empty in a group of one host.

    How this one is called is not in its memory.
    """
    if observer.hosts is None:
        return []
    from ..core.hosts.gateway import Times
    from ..core.hosts.layout import CLIENT
    from ..core.hosts.log import HostLog
    from ..core.hosts.rows import Host as Row
    from ..core.hosts.rows import Rows
    from ..hosts import WEIGHT, Hosts
    from ..runtime.fences import fences_for

    words, fences, nobody = observer.hosts, fences_for(None, 0), _Nothing()
    weight = 0 if words[CLIENT] == 1 else max(1, observer.geometry.capacity // WEIGHT)
    name = (environ.get("COLOCACHE_HOST") or "").strip() or os.uname().nodename
    me = Row(observer.head.id, name, (environ.get("COLOCACHE_LISTEN") or "").strip(), weight)
    log = HostLog(words, nobody, fences, lambda lane: False)
    return Hosts(me, words, Rows(words, fences), log, fences, Times(), b"", monotonic).infos()


class _Nothing:
    """Locks that nobody gets, for who only looks."""

    def lock(self, lane: int, /) -> bool:
        return False

    def unlock(self, lane: int, /) -> None:
        """Do nothing: nobody has it."""


# --- To take part


def has_settings_of_hosts(environ: Mapping[str, str]) -> bool:
    """Tell whether the environment says that the group has several hosts."""
    return any((environ.get(f"COLOCACHE_{name}") or "").strip() for name in ("LISTEN", "PEERS"))


@contextlib.contextmanager
def visit(target: Target, environ: Mapping[str, str], output: Output) -> Iterator[Visit]:
    """Join the group for a moment. Raise Failure if nobody is there to join, or if that cannot be.

    Never make a group's memory where there is none: what is invalidated there would reach nobody.
    """
    try:
        observer = look(target)
    except Failure as failure:
        if failure.status != NOBODY or not (environ.get("COLOCACHE_PEERS") or "").strip():
            raise
        with _as_client(target, output) as found:
            yield found
        return
    with observer:
        if gone(observer):
            raise Failure(
                NOBODY, f"NOBODY is in the group {target.group!r} on this host: all processes that {observer.path} "
                "knows "
                "were killed. Whoever joins next begins anew"
            )  # fmt: skip
        from ..core.hosts.layout import CLIENT

        is_client = observer.hosts is not None and observer.hosts[CLIENT] == 1
        wanted = min(max(observer.head.wanted, 1 << 20), 64 << 30)
    arguments = {"directory": target.directory, "role": "client" if is_client else "peer", "shelf": wanted}
    with _joined(target, arguments, output) as cache:
        yield Visit(cache, False)


@contextlib.contextmanager
def _as_client(target: Target, output: Output) -> Iterator[Visit]:
    from ..runtime.places import base_directory

    place = os.path.dirname(base_directory(None))
    directory = tempfile.mkdtemp(prefix="colocache-client-", dir=place)
    try:
        arguments = {"directory": directory, "role": "client", "listen": "", "shelf": 1 << 20}
        with _joined(target, arguments, output) as cache:
            found = Visit(cache, True)
            ends = monotonic() + MEETING
            while not found.is_established and monotonic() < ends:
                pause(LOOK_EVERY)
            if not found.is_established:
                raise Failure(
                    FAILED, f"none of the hosts that COLOCACHE_PEERS lists has answered within {MEETING:.0f} "
                    "seconds, and no "
                    "process of the group runs on this one: `colocache doctor` says what is wrong"
                )  # fmt: skip
            yield found
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _joined(target: Target, arguments: Mapping[str, Any], output: Output) -> Iterator[Cache]:
    from .visitor import Visitor, hear

    known: Any = {**arguments, "disabled": False, "private": False, "memory": 1 << 20}
    with hear(output):
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                cache = Visitor(target.group, **known)
            for warning in caught:
                output.warn(f"colocache: {warning.message}")
        except ConfigError as error:
            raise Failure(BAD_USE, str(error)) from None
        try:
            cache.start()
        except (OSError, ConfigError, MemoryError, ImportError) as error:
            cache.close()
            raise Failure(FAILED, f"this command cannot join the group: {error or type(error).__name__}") from None
        with cache:
            yield cache


@dataclass(frozen=True)
class Visit:
    """A place in the group, for a moment."""

    cache: Cache
    is_client: bool  #: of a host of its own, because no worker runs here

    @property
    def host(self) -> Host:
        """What the command shares with the processes of this host. Raise Failure once it has left."""
        host = self.cache._member.own_host()
        if host is None or not host.alive:
            raise Failure(FAILED, "the processes of the group have let go of its memory just now: try again")
        return host

    @property
    def seat(self) -> int:
        """The command's own seat."""
        return self.host.region.seat.number

    @property
    def is_established(self) -> bool:
        """Whether other hosts are known, if there can be any."""
        hosts = self.host.hosts
        return hosts is None or hosts.is_established

    def run(self, do: Callable[[Cache], Any]) -> Any:
        """Have something done, and tell in words what keeps it from being done."""
        try:
            return do(self.cache)
        except (OSError, ConfigError) as error:
            raise Failure(FAILED, str(error)) from None
