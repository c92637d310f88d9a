"""Which version of the protocol two members speak with each other, and which one a member publishes in.

A release speaks a few versions, which are one after another. The first frame of each connection is a `Hello`, which
says which, and whose own form never changes. From then on:

- a **request** and its answer are in the highest version that both speak;
- a **publication**, which all hear, is in the lowest of the versions that this member shares with each known member.

Publications fall to an older version at once when an older member comes. They rise a lease after the last old one has
left, because until then it may come back as the same member, and ask for what was published meanwhile.

Such a version may be too old for a third member, which then cannot read publications. It finds that events are missing,
and asks for them by requests, which are in a version of its own. That is slow, so the log names it.

A member that shares no version with this one is not forgotten. It may serve old values, and hears nothing of events. So
it counts as silent: this member waits for it, and names it in the log.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from ...errors import WireError

HELLO = b"\x00colocache"  # how every `Hello` begins; no protocol has the version 0
MAX_HELLO = 4096  # bytes
MAX_FEATURES = 64
MAX_NAME = 64  # bytes of a feature's name, and of a release

_VERSIONS = struct.Struct(">HHBB")  # the lowest, the highest; bytes of the release; how many features follow
_NONE: frozenset[str] = frozenset()


class Hello(NamedTuple):
    """What a member speaks.

    `Hello.pack` gives it as bytes. What follows the features belongs to later releases, and is passed over.
    """

    lowest: int
    highest: int
    release: str = ""  # of the package, for logs
    features: frozenset[str] = _NONE

    def pack(self) -> bytes:
        """Return the frame. Raise ValueError if a name or a number is not one that `unpack` takes."""
        names = [self.release, *sorted(self.features)]
        if not 0 < self.lowest <= self.highest < 1 << 16 or len(names) > 1 + MAX_FEATURES:
            raise ValueError(f"no member can say this: {self}")
        for place, name in enumerate(names):
            if not _is_name(name) or (place and not name):
                raise ValueError(f"a name has up to {MAX_NAME} printable letters of ASCII, and is not {name!r:.100}")
        head = _VERSIONS.pack(self.lowest, self.highest, len(self.release), len(self.features))
        rest = b"".join(bytes((len(name),)) + name.encode() for name in names[1:])
        return HELLO + head + self.release.encode() + rest

    @classmethod
    def unpack(cls, frame: bytes) -> Hello:
        """Return what a frame says. Raise WireError, and nothing else, if it is no `Hello`."""
        if len(frame) > MAX_HELLO or not frame.startswith(HELLO):
            raise WireError(f"a frame of {len(frame)} bytes that is no Hello")
        try:
            lowest, highest, length, count = _VERSIONS.unpack_from(frame, len(HELLO))
            at = len(HELLO) + _VERSIONS.size
            release, at = _name(frame, at, length)
            features = set()
            for _ in range(count):
                feature, at = _name(frame, at + 1, frame[at])
                features.add(feature)
        except (struct.error, IndexError, ValueError) as error:
            raise WireError(f"a Hello that cannot be read: {error}") from None
        if not 0 < lowest <= highest or count > MAX_FEATURES or "" in features:
            raise WireError(f"a Hello of the versions {lowest} to {highest} with {count} features")
        return cls(lowest, highest, release, frozenset(features))

    def shared(self, other: Hello) -> int | None:
        """Return the highest version that both speak; None if there is none."""
        highest = min(self.highest, other.highest)
        return highest if highest >= max(self.lowest, other.lowest) else None


def _is_name(name: str) -> bool:
    return len(name) <= MAX_NAME and name.isascii() and (name.isprintable() or not name)


def _name(frame: bytes, at: int, length: int) -> tuple[str, int]:
    name = frame[at : at + length]
    if len(name) < length or not _is_name(text := name.decode("ascii")):
        raise ValueError("a name that is too long, or not printable")
    return text, at + length


class Versions:
    """What the known members of a group speak, as one member knows it. Members are told apart by any hashable name."""

    def __init__(self, mine: Hello, lease: float) -> None:
        """``lease``, in seconds, is how long publications stay in the version of a member that has left."""
        self.mine = mine
        self._lease = lease
        self._hellos: dict[bytes, Hello] = {}
        self._past: list[tuple[float, int]] = []  # until when publications have to be in which version

    def hear(self, member: bytes, hello: Hello, now: float) -> None:
        """Note what a member speaks. It may be heard again, and say something else, as after an update."""
        self._leave_behind(member, now)
        self._hellos[member] = hello

    def forget(self, member: bytes, now: float) -> None:
        """Note that a member has left, or is given up."""
        self._leave_behind(member, now)
        self._hellos.pop(member, None)

    def _leave_behind(self, member: bytes, now: float) -> None:
        before = self._hellos.get(member)
        version = None if before is None else self.mine.shared(before)
        if version is not None and version < self.mine.highest:
            self._past.append((now + self._lease, version))

    def request(self, member: bytes) -> int | None:
        """Return the version of a request to a member; None if it has not said Hello, or shares none."""
        hello = self._hellos.get(member)
        return None if hello is None else self.mine.shared(hello)

    def publication(self, now: float) -> int:
        """Return the version of what all are to hear. A member that shares no version does not hear it anyway."""
        self._past = [(until, version) for until, version in self._past if until > now]
        shared = [self.mine.shared(hello) for hello in self._hellos.values()]
        return min((self.mine.highest, *(version for _, version in self._past), *_but_none(shared)))

    def strangers(self) -> dict[bytes, Hello]:
        """Return the members that share no version with this one, and what they speak."""
        return {member: hello for member, hello in self._hellos.items() if self.mine.shared(hello) is None}

    def deaf(self, now: float) -> dict[bytes, Hello]:
        """Return the members that share a version with this one, but are too new for its publications."""
        published = self.publication(now)
        return {
            member: hello
            for member, hello in self._hellos.items()
            if hello.lowest > published and self.mine.shared(hello) is not None
        }

    def has_all(self, feature: str) -> bool:
        """Tell whether this member and all known ones have a feature."""
        return feature in self.mine.features and all(feature in hello.features for hello in self._hellos.values())


def _but_none(versions: Iterable[int | None]) -> Iterable[int]:
    return (version for version in versions if version is not None)


def why_silent(name: str, mine: Hello, other: Hello) -> str:
    """Return the line of the log about a member that shares no version: what it speaks, and what to do."""
    older = mine if mine.highest < other.lowest else other
    whose = "this process" if older is mine else name
    return (
        f"{name} speaks the versions {other.lowest} to {other.highest} of the protocol{_of(other)}, and this process "
        f"{mine.lowest} to {mine.highest}{_of(mine)}. They do not understand each other, so neither hears of the "
        f"other's invalidations, and receipts are not complete: update colocache in {whose}"
    )


def _of(hello: Hello) -> str:
    return f" (colocache {hello.release})" if hello.release else ""
