"""A name of a directory that is short enough for the sockets in it: the name of a socket has a hundred bytes at most.

The sockets stay in the directory itself, where all processes find them that see the directory. They would not find them
in a short directory that each can have for itself, such as /tmp.
"""

from __future__ import annotations

import os
from hashlib import blake2b

from ..errors import ConfigError
from ..interruptions import pass_over
from .files import Descriptor, make_private

LONGEST = 103  # sun_path holds 104 bytes on macOS and 108 on Linux, a final zero among them
SHORT = "/tmp"  # not the temp directory: that one is long on macOS


class ShortName:
    """Another name of a directory, for this process. For one thread at a time."""

    def __init__(self, directory: str, longest_file: str) -> None:
        """Touch nothing yet. ``longest_file`` is the longest name of a socket in the directory."""
        self._directory = directory
        self._room = LONGEST - len(os.fsencode(longest_file)) - 1
        self._descriptor: Descriptor | None = None

    def open(self) -> str:
        """Return a name that holds until `close`. Raise OSError if there is none."""
        if self._fits(self._directory):
            return self._directory
        self._descriptor = Descriptor(os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        by_descriptor = f"/proc/self/fd/{self._descriptor.number}"
        with pass_over(OSError):
            if os.path.samestat(os.stat(by_descriptor), os.fstat(self._descriptor.number)):
                return by_descriptor
        self.close()
        return self._link()

    def _link(self) -> str:
        """Return a symbolic link, where there is no /proc. It stays, and is used again."""
        digest = blake2b(os.fsencode(self._directory), digest_size=8).hexdigest()
        place = f"{SHORT}/cc-{os.geteuid()}-{digest}"
        try:
            make_private(place)
        except ConfigError as error:
            raise OSError(f"the path of {self._directory} is too long for sockets, and {error}") from error
        link = f"{place}/d"
        with pass_over(FileExistsError):
            os.symlink(self._directory, link)
        if not os.path.samefile(link, self._directory):
            raise OSError(f"{link} is in the way: remove it")
        return link

    def _fits(self, name: str) -> bool:
        return len(os.fsencode(name)) <= self._room

    def close(self) -> None:
        """Give the name up."""
        if self._descriptor is not None:
            self._descriptor.close()
            self._descriptor = None
