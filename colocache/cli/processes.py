"""What the system tells about other processes: /proc, where there is one. Nobody is asked, and nothing is changed.

What this user may not see, or a system without /proc does not show, is left out.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
BOARD: Final = "/board"
_STOPPED: Final = ("T", "t")
_DELETED: Final = " (deleted)"


@dataclass(frozen=True)
class Board:
    """A file called ``board`` that a process has mapped."""

    path: str
    place: tuple[str, int]  #: device and inode
    is_deleted: bool

    @property
    def group(self) -> str:
        """The name of its directory."""
        return os.path.basename(os.path.dirname(self.path))

    @property
    def base(self) -> str:
        """The runtime directory."""
        return os.path.dirname(os.path.dirname(self.path))


@dataclass(frozen=True)
class Process:
    """A process, as another one of its user sees it."""

    pid: int
    state: str  #: one letter of Linux: R, S, D, T, Z …; empty if it is not known
    command: tuple[str, ...]
    variables: Mapping[str, str] | None  #: its ``COLOCACHE_*`` variables when it was started; None if not to be seen
    boards: tuple[Board, ...]
    user: int
    clock: int  #: the inode of its time namespace; 0 if it is not known
    files: int  #: descriptors that are open; -1 if that is not known
    most_files: int = -1  #: that it may have; -1 if that is not known
    is_python: bool = False  #: whether it has Python's code in its memory

    @property
    def is_stopped(self) -> bool:
        """Whether it was stopped, by a signal or a debugger."""
        return self.state in _STOPPED


def state_of(pid: int) -> str:
    """Return ``stopped``, ``running``, or an empty text where that is not known."""
    letter = _state(PROC / str(pid)) if pid else ""
    return "stopped" if letter in _STOPPED else "running" if letter else ""


def all_processes() -> tuple[list[Process], int]:
    """Return the processes that have something to do with a cache, as far as can be seen, and how many are hidden."""
    found, hidden = list[Process](), 0
    with contextlib.suppress(OSError):
        for place in PROC.iterdir():
            if place.name.isdecimal():
                try:
                    boards, is_python = _mapped(place)
                except PermissionError:
                    hidden += 1
                    continue
                except OSError:  # it has ended
                    continue
                variables = _variables(place)
                if boards or variables:
                    found.append(_process(place, boards, variables, is_python))
    return found, hidden


def _process(place: Path, boards: tuple[Board, ...], variables: Mapping[str, str] | None, is_python: bool) -> Process:
    clock, user, files = 0, -1, -1
    with contextlib.suppress(OSError):
        clock = os.stat(place / "ns" / "time").st_ino
    with contextlib.suppress(OSError):
        user = place.stat().st_uid
    with contextlib.suppress(OSError):
        files = sum(1 for _ in (place / "fd").iterdir())
    return Process(
        int(place.name), _state(place), _command(place), variables, boards, user, clock, files, _most_files(place),
        is_python,
    )  # fmt: skip


def _mapped(place: Path) -> tuple[tuple[Board, ...], bool]:
    """Return the boards that a process has mapped, and whether it has Python's code. Raise OSError."""
    found, is_python = dict[tuple[str, int], Board](), False
    with open(place / "maps", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.rstrip("\n").split(None, 5)
            path = fields[5] if len(fields) == 6 else ""
            is_python = is_python or "python" in path
            is_deleted = path.endswith(_DELETED)
            path = path.removesuffix(_DELETED)
            if path.endswith(BOARD) and fields[1].startswith("rw-s"):
                board = Board(path, (fields[3], int(fields[4])), is_deleted)
                found.setdefault(board.place, board)
    return tuple(found.values()), is_python


def _state(place: Path) -> str:
    with contextlib.suppress(OSError, IndexError):
        return (place / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    return ""


def _command(place: Path) -> tuple[str, ...]:
    with contextlib.suppress(OSError):
        return tuple((place / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0"))
    return ()


def _variables(place: Path) -> Mapping[str, str] | None:
    try:
        text = (place / "environ").read_bytes().decode(errors="surrogateescape")
    except OSError:
        return None
    pairs = [each.partition("=") for each in text.split("\0")]
    return {name: value for name, _, value in pairs if name.startswith("COLOCACHE_") and value.strip()}


def _most_files(place: Path) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (place / "limits").read_text().splitlines():
            if line.startswith("Max open files"):
                soft = line.removeprefix("Max open files").split()[0]
                return -1 if soft == "unlimited" else int(soft)
    return -1


def device_of(found: os.stat_result) -> tuple[str, int]:
    """Return the device and inode of a file as `Board.place` has them."""
    return f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}", found.st_ino
