"""The members of this host: who is there, who comes, and who has died.

The files of the runtime directory say who is there (see `colocache.runtime.directory`). A scan, several times per
lease, finds what no message has told. Where the kernel offers it, a descriptor says at once that a member's process has
ended.

This is one discovery. Another one, of members on other hosts, has the same methods.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterable
from time import monotonic
from typing import TYPE_CHECKING

from ..core.group.members import Member
from ..core.group.messages import MAX_SEAT
from ..core.group.peer import Peer
from ..core.group.seam import Connect, Disconnect, Probe
from . import files
from .directory import Directory, Neighbour, Seat, Sighting
from .files import Descriptor
from .logs import Log

if TYPE_CHECKING:
    from .transport import Transport

CLEAN_EVERY = 120  # scans


class _Watched:
    """A member that this one is connected to, and what shows that it lives."""

    def __init__(self, member: Member, neighbour: Neighbour) -> None:
        self.member = member
        self.neighbour = neighbour
        self.death: Descriptor | None = None  # it can be read when the process has ended
        self.connected_at = monotonic()

    def close(self) -> None:
        """Let go of the files. Callable twice, and in a forked child."""
        self.neighbour.close()
        if self.death is not None:
            self.death.close()


class Neighbours:
    """The other members of this host, as this one sees them. For the driver's thread alone."""

    def __init__(
        self, directory: Directory, seat: Seat, peer: Peer, transport: Transport, lease: float, log: Log
    ) -> None:
        self.scan_at = 0.0  # when `scan` is due
        self._directory = directory
        self._seat = seat
        self._peer = peer
        self._transport = transport
        self._lease = lease
        self._log = log
        self._watched: dict[bytes, _Watched] = {}
        self._deaths: dict[int, _Watched] = {}
        self._scans = 0
        self._host = peer.me.seat.rpartition("/")[0]

    def meet_all(self, now: float) -> None:
        """Tell the peer of all members that are there now."""
        for sighting in self._directory.scan():
            self._peer.meet(self._member(sighting), now)

    def knows_all_that_live(self) -> bool:
        """Tell whether every living member of this host is known here: none is forgotten, or not met yet.

        1. S is stopped, and forgotten.
        2. W comes, announces an event, which all that are left acknowledge, and goes.
        3. S wakes, is met anew, and is current. It hears of the event by W's stream only: that must be there still.
        """
        living = (sighting.incarnation for sighting in self._directory.scan())
        return all(incarnation in self._watched or self._peer.has_ended(incarnation) for incarnation in living)

    # --- What the peer wants done

    def carry_out(self, action: Connect | Probe | Disconnect) -> None:
        """Carry out an action of the peer."""
        if isinstance(action, Connect):
            self._connect(action.member)
        elif isinstance(action, Probe):
            self._probe(action)
        else:
            self._disconnect(action.member)

    def _connect(self, member: Member) -> None:
        """Hear a member from now on. Where the host does not allow it, the member counts as silent until a scan."""
        if member.incarnation in self._watched:  # a scan came first
            return
        try:
            neighbour = self._directory.watch(member.incarnation)
            if neighbour is not None:
                self._open(member, neighbour)
        except OSError as error:
            self._log.warning("cannot connect to %s: %s", member.seat, error)
            return
        if neighbour is None:  # it has left again, or was cleaned up: what it announced cannot be known any more
            self._peer.end(member, None, [], monotonic())
        else:
            self._log.debug("%s has joined", member.seat)

    def _open(self, member: Member, neighbour: Neighbour) -> None:
        with contextlib.ExitStack() as undo:
            undo.callback(neighbour.close)
            self._transport.connect(member.incarnation, *neighbour.endpoints)
            undo.pop_all()
        self._watched[member.incarnation] = watched = _Watched(member, neighbour)
        self._await_death(watched)

    def _probe(self, probe: Probe) -> None:
        with contextlib.suppress(OSError):  # there will be a next time
            neighbour = self._directory.watch(probe.member.incarnation)
            if neighbour is not None:
                with contextlib.closing(neighbour):
                    self._transport.probe(neighbour.endpoints[0], probe.frame)

    def _disconnect(self, member: Member) -> None:
        self._transport.disconnect(member.incarnation)
        watched = self._watched.pop(member.incarnation, None)
        if watched is not None:
            self._ignore_death(watched)
            watched.close()
            self._log.debug("%s has left", member.seat)

    # --- Scans

    def scan(self, now: float) -> str:
        """See who has come and who has gone, in case that the messages which say so are lost.

        Return why this member must leave the group, or an empty text.
        """
        self.scan_at = now + self._lease / 6
        self._scans += 1
        try:
            self._look_around(now)
            self._reconnect(now)
            return self._why_to_leave()
        except OSError as error:  # out of descriptors, perhaps; the pongs alone decide whether this member is current
            self._log.warning("cannot look for members in %s: %s", self._directory.path, error)
            return ""
        finally:
            self._transport.forget_strangers()

    def _look_around(self, now: float) -> None:
        for sighting in self._directory.scan():
            if sighting.incarnation not in self._watched:
                self._peer.meet_again(self._member(sighting), now)
        for watched in list(self._watched.values()):
            self._look_at(watched)
        for sighting in self._directory.remains():
            self._reap(self._member(sighting))
        if self._scans % CLEAN_EVERY == 0 and now < self._peer.gate.current_until and self.knows_all_that_live():
            self._directory.clean()

    def _why_to_leave(self) -> str:
        if not self._seat.tend():  # newcomers cannot find this member, and would not be waited for
            return f"its files in {self._directory.path} were deleted"
        if files.descriptors_are_scarce():
            return "hardly a file descriptor is left in this process"
        return ""

    def _member(self, sighting: Sighting) -> Member:
        return Member(sighting.incarnation, f"{self._host}/{sighting.number}", sighting.pid or 0)

    def _reconnect(self, now: float) -> None:
        """Reconnect to members that are silent, or are heard by replays only."""
        for other in list(self._peer.acquaintances()):
            watched = self._watched.get(other.member.incarnation)
            if watched is None:
                self._connect(other.member)
            elif now - watched.connected_at >= 2 * self._lease and (
                now - other.heard_at > self._lease or other.replays_running >= 2
            ):
                watched.connected_at, other.replays_running = now, 0
                self._transport.reconnect(other.member.incarnation)

    # --- Deaths

    def hear_of_deaths(self, descriptors: Iterable[int]) -> None:
        """Look at the members whose descriptors can be read.

        Each one's process has ended, unless its pid was given to another process before it could be watched. Then the
        lock says that the member lives, or dies with a later scan, and the descriptor would wake us for ever.
        """
        for descriptor in descriptors:
            watched = self._deaths.get(descriptor)
            if watched is not None:
                self._ignore_death(watched)
                self._look_at(watched)

    def _await_death(self, watched: _Watched) -> None:
        """Have the kernel wake us when the member's process ends. Where it cannot, a scan finds out."""
        if watched.neighbour.pid and hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                watched.death = Descriptor(os.pidfd_open(watched.neighbour.pid))
                self._deaths[watched.death.number] = watched
                self._transport.watch(watched.death.number)

    def _ignore_death(self, watched: _Watched) -> None:
        if watched.death is not None:
            self._transport.unwatch(watched.death.number)
            del self._deaths[watched.death.number]
            watched.death.close()
            watched.death = None

    def _look_at(self, watched: _Watched) -> None:
        """Ask the kernel whether a member lives. Its lock says so, whatever has woken us."""
        if not watched.neighbour.alive():
            self._ignore_death(watched)
            self._end(watched.member, watched.neighbour)

    def _reap(self, member: Member) -> None:
        """Take over the events of a member that has died before this one met it."""
        if self._peer.has_ended(member.incarnation):
            return
        neighbour = self._directory.watch(member.incarnation)
        if neighbour is not None:
            with contextlib.closing(neighbour):
                self._end(member, neighbour)

    def _end(self, member: Member, neighbour: Neighbour) -> None:
        known = self._peer.acquaintance(member.incarnation)
        last = neighbour.last()
        frames = neighbour.events(known.stream.applied + 1 if known is not None else 1) if last is not None else None
        self._peer.end(member, last, frames or [], monotonic())

    # --- The end

    def close(self) -> None:
        """Let go of the members' files. Callable twice, and in a forked child."""
        for watched in self._watched.values():
            watched.close()


def me(seat: Seat) -> Member:
    """Return this process's member."""
    host = re.sub(r"[^!-~]", "?", socket.gethostname())[: MAX_SEAT - 8] or "localhost"
    return Member(seat.incarnation, f"{host}/{seat.number}", os.getpid())
