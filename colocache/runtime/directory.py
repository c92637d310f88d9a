"""How the members of one group on one host find each other: by files in a directory that only their user can enter.

====================================  =================================================================================
file                                  meaning
====================================  =================================================================================
``<n>.seat``                          empty; the process that has it locked has seat n. It is never deleted, so that one
                                      name is always one file. Otherwise two processes could lock one file each
``<n>-<incarnation>.tmp``             the stream of a member that is not ready yet
``<n>-<incarnation>.stream``          the same file, once announced (see `colocache.runtime.journal`). Its lock is
                                      the truth about the member's life: the seat's may be a successor's already
``<n>-<begin of incarnation>.link``   the member's ipc socket for requests, and ``.bus`` for publications. Named by
                                      incarnation, so that no connection ever reaches a successor
====================================  =================================================================================

This module avoids the three traps of record locks (see `colocache.runtime.files`):

1. It opens a file of this process once. Before it looks at files, `_Holdings` tells which ones are this process's.
2. Two threads, or two caches, would share a seat. `_Holdings` tells that, too.
3. A child that took the seat of its dead parent, and then closed what it inherited, would lose the seat by trap 1. So
   a child drops what it inherited before it does anything here.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from dataclasses import dataclass
from hashlib import blake2b

from ..errors import ConfigError
from .files import (
    Descriptor,
    holder,
    lock,
    make_private,
    open_new,
    open_ours,
    open_theirs,
    why_not_private,
)
from .journal import Journal, JournalReader
from .logs import Log
from .waiting.threads import allocate_lock

SEATS = 4096  # a few hundred members on one host are many

_LONGEST_SOCKET_PATH = 103  # sun_path holds 104 bytes on macOS and 108 on Linux, a final zero among them
_SHORT = "/tmp"  # not the temp directory: that one is long on macOS, and members with different TMPDIR would not meet

_FILE = re.compile(r"(0|[1-9][0-9]{0,3})-([0-9a-f]{32})\.(stream|tmp)")
_PLAIN_GROUP = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,31}")  # no capitals: on macOS, Shop and shop are one directory
_TOUCH_EVERY = 3600.0  # s; cleaners of temp directories spare files younger than 3 days (macOS) or 10 days (systemd)


@dataclass(frozen=True, slots=True)
class Sighting:
    """An announced member of this host. A dead one has no ``pid``; in another pid namespace the ``pid`` is 0."""

    number: int
    incarnation: bytes
    pid: int | None


class Directory:
    """The meeting place of one group on one host. For one thread at a time."""

    def __init__(self, group: str, base: str | None, *, journal_bytes: int = 1 << 20, log: Log | None = None) -> None:
        """Touch nothing yet. ``base`` is an absolute path; None is a directory per user in the temp directory.

        All members of the group on one host must use the same directory, otherwise they never meet. That is why the
        default is not below XDG_RUNTIME_DIR: that is set in a login session and not in a service, and it is deleted
        when the user's last session ends.
        """
        self.path = ""  # of the group's directory, once it is opened
        self._group = group
        self._base = base
        self._journal_bytes = journal_bytes
        self._log = log if log is not None else Log(group)
        self._sockets = ""
        self._dead: set[Sighting] = set()

    def open(self) -> None:
        """Create what is missing, and check that no other user can get in. Raise ConfigError if that fails."""
        base = _base_directory(self._base)
        make_private(base)
        self.path = os.path.join(os.path.realpath(base), _directory_name(self._group))
        make_private(self.path)
        self._sockets = _socket_directory(self.path)
        make_private(self._sockets)

    def take(self, incarnation: bytes) -> Seat:
        """Take the lowest free seat. The new member has this ``incarnation``: 16 random bytes, never used again.

        Nobody sees the member before `Seat.announce`. Raise ConfigError if all seats are taken, or if something else
        is in the place of a file. Raise OSError if the file system fails.
        """
        seat = self._lowest_free(incarnation)
        try:
            seat._begin(self._journal_bytes, self._log)
        except BaseException:
            seat.release()
            raise
        return seat

    def _lowest_free(self, incarnation: bytes) -> Seat:
        assert self.path, "open() comes first"
        mine = _mine()
        with mine.lock:
            if len(incarnation) != 16 or incarnation in mine.members:
                raise ValueError(f"an incarnation is 16 random bytes, used once: {incarnation!r}")
            for number in range(SEATS):
                descriptor = _lock_seat(self._seat_path(number), mine.seats)
                if descriptor is not None:
                    mine.members[incarnation] = seat = Seat(self, number, incarnation, Descriptor(descriptor))
                    mine.seats.add(seat._identity)
                    return seat
        raise ConfigError(f"all {SEATS} seats of the group {self._group!r} in {self.path} are taken")

    def scan(self) -> list[Sighting]:
        """Return the living members that are announced, without the one that was taken from this very object.

        If a process has two seats of a group, each of the two sees the other. While a killed process ends, its seat
        can be free a moment before its stream is. Then two members have one seat number.
        """
        return [sighting for sighting in self._census() if sighting.pid is not None]

    def remains(self) -> list[Sighting]:
        """Return the dead members that did not leave, and whose streams are still there.

        A member that lived for less than the time between two scans may have been seen by nobody, or by some members.
        Its events must reach all of them. So `watch` these, too.
        """
        return [sighting for sighting in self._census() if sighting.pid is None]

    def _census(self) -> list[Sighting]:
        found = []
        for number, incarnation in self._members("stream"):
            seat = _mine().members.get(incarnation)
            if seat is None:
                with contextlib.suppress(FileNotFoundError):
                    found.append(Sighting(number, incarnation, _holder_at(self._member_path(number, incarnation))))
            elif seat.directory is not self:
                found.append(Sighting(number, incarnation, os.getpid()))
        return found

    def watch(self, incarnation: bytes) -> Neighbour | None:
        """Open a member's stream, whether it lives or is dead. Return None if the stream is not there."""
        for number, found in self._members("stream"):
            if found == incarnation:
                with contextlib.suppress(FileNotFoundError):
                    return self._neighbour(number, incarnation)
        return None

    def _neighbour(self, number: int, incarnation: bytes) -> Neighbour:
        endpoints = self.endpoints(number, incarnation)
        seat = _mine().members.get(incarnation)
        if seat is not None:
            return Neighbour(number, incarnation, endpoints, seat.journal.reader(incarnation), None)
        descriptor = Descriptor(open_theirs(self._member_path(number, incarnation)))
        return Neighbour(number, incarnation, endpoints, JournalReader.of(descriptor.number, incarnation), descriptor)

    def clean(self) -> None:
        """Delete the files of members that were dead at the previous call already. Call this about once a minute.

        Two calls are needed, so that all members that scan in between have met the dead member and, by `watch`, keep
        what they need of it. After a stream's lock is found free, nobody can take it before the deletion, because
        nobody uses an incarnation twice.
        """
        dead = set(self.remains())
        for sighting in dead & self._dead:
            self._delete(sighting.number, sighting.incarnation, "stream")
        self._dead = dead - self._dead
        for number, incarnation in self._members("tmp"):
            if self._is_abandoned(number, incarnation):
                self._delete(number, incarnation, "tmp")

    def _is_abandoned(self, number: int, incarnation: bytes) -> bool:
        """Tell whether a temporary file has no living maker. A maker has its seat from before the file to its end.

        That is why the file must be seen first, and its seat found free, or taken by this process, afterwards.
        """
        mine = _mine()
        path = self._seat_path(number)
        with mine.lock, contextlib.suppress(FileNotFoundError):
            if _identity_at(path) in mine.seats:
                return incarnation not in mine.members
            return _holder_at(path) is None
        return False

    def _delete(self, number: int, incarnation: bytes, kind: str) -> None:
        # The sockets first, because they are found by the other file only.
        for endpoint in self.endpoints(number, incarnation):
            _unlink(_socket_path(endpoint))
        _unlink(self._member_path(number, incarnation, kind))

    def endpoints(self, number: int, incarnation: bytes) -> tuple[str, str]:
        """Return the ZeroMQ endpoints of a member of this host: the one for requests, the one for publications."""
        stem = f"ipc://{self._sockets}/{number}-{incarnation.hex()[:12]}"
        return f"{stem}.link", f"{stem}.bus"

    def _members(self, kind: str) -> list[tuple[int, bytes]]:
        try:
            matches = [_FILE.fullmatch(name) for name in os.listdir(self.path)]
        except FileNotFoundError:
            return []
        return [(int(match[1]), bytes.fromhex(match[2])) for match in matches if match and match[3] == kind]

    def _seat_path(self, number: int) -> str:
        return f"{self.path}/{number}.seat"

    def _member_path(self, number: int, incarnation: bytes, kind: str = "stream") -> str:
        return f"{self.path}/{number}-{incarnation.hex()}.{kind}"


def _base_directory(chosen: str | None) -> str:
    return chosen or os.path.join(tempfile.gettempdir(), f"colocache-{os.geteuid()}")


def why_unusable(directory: str | None) -> str:
    """Return why members of this user could not meet in a runtime directory, or an empty text. Create nothing.

    ``directory`` is the setting: an absolute path, or None for the default.
    """
    try:
        return why_not_private(_base_directory(directory))
    except OSError as error:  # the system has no temp directory
        return str(error)


class Seat:
    """A member's place on its host, for life. `Directory.take` makes it. For one thread at a time."""

    def __init__(self, directory: Directory, number: int, incarnation: bytes, descriptor: Descriptor) -> None:
        self.directory = directory
        self.number = number
        self.incarnation = incarnation
        self.link_endpoint, self.bus_endpoint = directory.endpoints(number, incarnation)
        self._pid = os.getpid()
        self._path = directory._member_path(number, incarnation, "tmp")
        self._descriptors = [descriptor]  # of the seat's file, of the stream's
        self._identity = _identity(os.fstat(descriptor.number))
        self._journal: Journal | None = None
        self._released = False

    def _begin(self, journal_bytes: int, log: Log) -> None:
        self._descriptors.append(Descriptor(open_new(self._path)))
        self._journal = Journal.create(self._descriptors[-1].number, self._path, self.incarnation, journal_bytes, log)

    @property
    def journal(self) -> Journal:
        """This member's own stream."""
        assert self._journal is not None, "Directory.take has begun it"
        return self._journal

    def announce(self) -> None:
        """Make the member visible to its host-mates. Call this when its two sockets are bound."""
        announced = self.directory._member_path(self.number, self.incarnation)
        os.rename(self._path, announced)
        self._path = announced

    def tend(self) -> bool:
        """Tell whether the seat's files are still in their places. Ask this as often as you scan.

        If not, somebody deleted them. The member lives on, but newcomers do not see it and may take its seat. This also
        keeps the files young, so that cleaners of temp directories leave them alone.
        """
        paths = (self.directory._seat_path(self.number), self._path)
        return all(_tend(path, each.number) for path, each in zip(paths, self._descriptors, strict=True))

    def release(self, *, unheard: bool = False) -> None:
        """Leave: delete the member's sockets and stream, and free the seat. Callable twice.

        With ``unheard``, an announced stream stays among the `Directory.remains`. Another member may not have heard all
        of it. It may not even know this member, if it was stopped since before this one came.

        In a forked child this only forgets.
        """
        try:
            if os.getpid() == self._pid and not self._released:
                self._delete_files(unheard)
        finally:  # otherwise a member that is gone would count as alive
            self._let_go()

    def _delete_files(self, unheard: bool) -> None:
        for path in (_socket_path(self.link_endpoint), _socket_path(self.bus_endpoint)):
            _unlink(path)
        if not unheard or self._path != self.directory._member_path(self.number, self.incarnation):
            _unlink(self._path)

    def forget_after_fork(self) -> None:
        """In a forked child, close what it inherited, and leave the parent's member alone. Callable twice."""
        self._released = True
        for descriptor in self._descriptors:
            descriptor.close()
        if self._journal is not None:
            self._journal.close()

    def _let_go(self) -> None:
        mine = _mine()
        with mine.lock:
            if mine.members.pop(self.incarnation, None):
                mine.seats.discard(self._identity)
            self.forget_after_fork()


class Neighbour:
    """A member of this host as another one sees it. `Directory.watch` makes it. For one thread at a time."""

    def __init__(
        self,
        number: int,
        incarnation: bytes,
        endpoints: tuple[str, str],
        journal: JournalReader,
        descriptor: Descriptor | None,
    ) -> None:
        self.number = number
        self.incarnation = incarnation
        self.endpoints = endpoints
        self._journal = journal
        self._descriptor = descriptor  # None: a member of this very process, whose file must not be opened again
        self.pid = self._holder() or 0

    def alive(self) -> bool:
        """Tell whether the member's process still has its stream locked. Once it has ended or left, never again."""
        return self._holder() is not None

    def _holder(self) -> int | None:
        if self._descriptor is None:
            return os.getpid() if self.incarnation in _mine().members else None
        return holder(self._descriptor.number)

    def last(self) -> int | None:
        """Return the number of its last event, 0 before the first; None if unreadable. Final once it is dead."""
        return self._journal.last()

    def events(self, first: int) -> list[tuple[int, bytes]] | None:
        """Return its events from ``first`` to the last; None if the journal does not reach back, or is damaged."""
        return self._journal.events(first)

    def close(self) -> None:
        """Let go of the stream. Callable twice, and in a forked child. Ask nothing afterwards."""
        self._journal.close()
        if self._descriptor is not None:
            self._descriptor.close()


class _Holdings:
    """What this process has locked. Record locks belong to the process as a whole, and so does this."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        # Held from the look whether a seat's file is this process's until it is locked, or closed again. By drivers'
        # threads only, in which no signal handler runs.
        self.lock = allocate_lock()
        self.seats: set[tuple[int, int]] = set()  # files by device and inode: a path may have two spellings
        self.members: dict[bytes, Seat] = {}  # by incarnation, which is in the names of a member's files


_holdings = _Holdings()


def _mine() -> _Holdings:
    """Return what this process has locked. In a child, first drop what it inherited (trap 3)."""
    global _holdings
    inherited = _holdings
    if inherited.pid != os.getpid():
        with contextlib.suppress(KeyError):  # one by one: if anything is raised in between, the next call goes on
            while True:
                inherited.members.popitem()[1].forget_after_fork()
        _holdings = _Holdings()
    return _holdings


# A fork that goes past Python (uWSGI) is noticed by comparing the pids. That alone is not enough: a grandchild can get
# the pid of its dead grandparent.
os.register_at_fork(after_in_child=_mine)


def _lock_seat(path: str, ours: set[tuple[int, int]]) -> int | None:
    """Return a descriptor of the seat's file, locked, or None if the seat is taken."""
    if _identity_at(path) in ours:
        return None
    descriptor = open_ours(path)
    # If somebody deletes the file after it was opened, nobody else finds it or its lock.
    if lock(descriptor) and _identity(os.fstat(descriptor)) == _identity_at(path):
        return descriptor
    os.close(descriptor)
    return None


def _holder_at(path: str) -> int | None:
    descriptor = open_theirs(path)
    try:
        return holder(descriptor)
    finally:
        os.close(descriptor)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _identity_at(path: str) -> tuple[int, int] | None:
    try:
        return _identity(os.lstat(path))
    except FileNotFoundError:
        return None


def _tend(path: str, descriptor: int) -> bool:
    found = os.fstat(descriptor)
    if abs(time.time() - found.st_mtime) > _TOUCH_EVERY:
        os.utime(descriptor)
    return _identity(found) == _identity_at(path)


def _unlink(path: str) -> None:
    """Delete a file. Leave a directory in its place alone, because somebody else has made it (EPERM on macOS)."""
    with contextlib.suppress(FileNotFoundError, IsADirectoryError, PermissionError):
        os.unlink(path)


def _directory_name(group: str) -> str:
    """Return the group's own name if that is a plain one. Otherwise add a hash that tells it from all others."""
    if _PLAIN_GROUP.fullmatch(group):
        return group
    digest = blake2b(group.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return re.sub(r"[^A-Za-z0-9_]", "_", group[:16]) + "~" + digest


def _socket_directory(path: str) -> str:
    """Return the directory of all members' sockets: the group's own, unless that makes their paths too long."""
    longest = f"{path}/{SEATS - 1}-{'0' * 12}.link"
    if len(os.fsencode(longest)) <= _LONGEST_SOCKET_PATH:
        return path
    digest = blake2b(os.fsencode(path), digest_size=8).hexdigest()
    return f"{_SHORT}/cc-{os.geteuid()}-{digest}"


def _socket_path(endpoint: str) -> str:
    return endpoint.removeprefix("ipc://")
