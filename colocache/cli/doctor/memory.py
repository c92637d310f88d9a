"""What is wrong with the memory that the processes of a group share on this host."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

from .finding import Finding, Situation, pids

_NEW_HERE: Final = "start the workers anew, all of them"


def files(situation: Situation) -> Iterator[Finding]:
    """Look at the files of the group: whether they are there, whole, and the same that its processes use."""
    head, path = situation.head, situation.target.path
    lost = [
        each.pid
        for each in situation.processes
        if any(_is_lost(board.path, board.place, path) for board in each.boards)
    ]
    if lost:
        yield Finding(
            "files-deleted", "error", f"{pids(lost)} of the group use files that were deleted from {path}, or "
            "replaced: "
            "nobody can join before they have noticed, at their next call, or within half a minute",
            "see to it that nothing cleans that directory, and use the cache in those processes, or end them. One "
            "that is "
            "stopped does not notice",
        )  # fmt: skip
    elif isinstance(head, FileNotFoundError) and _somebody_lives(situation):
        yield Finding(
            "files-deleted", "error", f"the files of the group were deleted from {path}, and a process lives that uses "
            "them: nobody can join before it has noticed, at its next call, or within half a minute",
            "see to it that nothing cleans that directory, and use the cache in that process, or end it",
        )  # fmt: skip
    if isinstance(head, PermissionError):
        yield Finding(
            "permission", "error", f"{path}/board may not be read by user {os.geteuid()}: {head.strerror}",
            "run this, and all processes of the group, as one user",
        )  # fmt: skip
    if isinstance(head, OSError):
        return
    from ...runtime.board_file import LAYOUT

    if not head.is_a_board:
        yield Finding(
            "files-damaged", "error", f"{path}/board is no board of colocache", f"delete {path}, and {_NEW_HERE}"
        )
    elif head.layout != LAYOUT:
        yield Finding(
            "other-version", "error", f"the processes of the group in {path} run another version of colocache, whose "
            f"memory has layout {head.layout}, and this one's has layout {LAYOUT}",
            "install one version for all of them, and end all before you start the new ones",
        )  # fmt: skip
    elif head.lives and not lost:
        yield from _whole(situation)


def _whole(situation: Situation) -> Iterator[Finding]:
    from ...runtime.region_files import FILES, HOSTS

    head, path = situation.head, situation.target.path
    assert not isinstance(head, OSError)
    wrong, names = list[str](), (*FILES, *([HOSTS] if head.hosts else []))
    for name, inode in zip(names, head.inodes(len(names)), strict=True):
        try:
            found = os.lstat(f"{path}/{name}")
        except OSError:
            wrong.append(f"{name} is missing")
            continue
        if found.st_ino != inode:
            wrong.append(f"{name} was replaced")
        elif name == "shelf" and found.st_size != head.shelf_size:
            wrong.append(f"{name} has another length")
    if not head.is_whole:
        wrong.append("board has another length")
    if wrong:
        yield Finding(
            "files-deleted", "error", f"the memory of the group in {path} is not whole: {', '.join(wrong)}",
            "see to it that nothing touches these files. Whoever joins next ends this memory, and begins anew",
        )  # fmt: skip


def _is_lost(path: str, place: tuple[str, int], group: str) -> bool:
    """Tell whether a board was that of the group's directory, and is not there any more."""
    from ..processes import device_of

    if os.path.dirname(path) != group:
        return False
    with contextlib.suppress(OSError):
        return device_of(os.lstat(path)) != place and os.path.isdir(group) and not _is_elsewhere(path, place)
    return True


def _is_elsewhere(path: str, place: tuple[str, int]) -> bool:
    """Tell whether a path means another file system to the process that has mapped it."""
    from ..processes import device_of

    with contextlib.suppress(OSError):
        return device_of(os.lstat(os.path.dirname(path)))[0] != place[0]
    return False


def _somebody_lives(situation: Situation) -> bool:
    from ...runtime.life import anybody_lives

    base, name = os.path.split(situation.target.path)
    with contextlib.suppress(OSError):
        return anybody_lives(base, name)
    return False


def clock(situation: Situation) -> Iterator[Finding]:
    """Look whether this process has the clock of the group: a time namespace changes it."""
    from ...runtime import board_file

    head = situation.head
    if isinstance(head, OSError) or not head.lives or head.layout != board_file.LAYOUT:
        return
    ours = board_file.clock()
    if head.clock and ours and head.clock != ours:
        yield Finding(
            "clock", "error", "the processes of the group are in another time namespace than this one, and so have "
            "another "
            "clock: processes with two clocks cannot share a cache",
            "run all processes of the group in one time namespace, which is usually one container, or in two groups",
        )  # fmt: skip


def room(situation: Situation) -> Iterator[Finding]:
    """Look whether the shelf has the size that was asked for."""
    head = situation.head
    if isinstance(head, OSError) or not head.lives or situation.stats is None:
        return
    if head.capacity < head.wanted:
        yield Finding(
            "no-room", "warning", f"the shelf of this host has {head.capacity >> 20} MiB and not "
            f"{head.wanted >> 20}, because "
            f"there was no more room in {situation.target.path}",
            "give the container more (--shm-size), set COLOCACHE_DIR to another place, or lower COLOCACHE_SHELF, and "
            "start "
            "all workers anew",
        )  # fmt: skip


def counted(situation: Situation) -> Iterator[Finding]:
    """Look for troubles that the processes have counted."""
    stats = situation.stats
    if stats is None:
        return
    counters = stats.total.counters
    for name, text, remedy in TROUBLES:
        number = int(counters[name])
        if number:
            yield Finding(f"counted-{name.replace('_', '-')}", "warning", f"{number} {text}", remedy)


#: Counters that should be 0: what they say, and what to do.
TROUBLES: Final = (
    ("incomplete", "invalidations were not complete: other processes may have served old values",
     "see the log of the workers, and use strict=True where that matters"),
    ("busy", "writes were given up, because another process had a lock for too long",
     "look for processes that are stopped, or that get no processor"),
    ("fallbacks", "loads were not shared: a process had not joined, or somebody else's load took too long",
     "see the log of the workers; raise COLOCACHE_LOAD_TIMEOUT if loads take that long"),
    ("oversize", "values were too large to be kept, and are loaded each time",
     "cache less of them: the log names the keys"),
)  # fmt: skip
