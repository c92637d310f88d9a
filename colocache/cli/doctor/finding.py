"""What the doctor finds, and what it looks at."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal

from ..processes import Process, all_processes, device_of
from ..target import Target

if TYPE_CHECKING:
    from ...group_stats import HostStats, ProcessStats
    from ...runtime.board_file import Head

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or worth knowing."""

    name: str  #: of the kind of trouble; one word, or some with hyphens
    level: Level
    text: str  #: what is so
    remedy: str  #: what to do

    @property
    def is_trouble(self) -> bool:
        """Whether something should be done."""
        return self.level != "note"


Check = Callable[["Situation"], Iterator[Finding]]

_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


class Situation:
    """What the doctor looks at. What costs time is read when it is first asked for, and kept."""

    def __init__(self, target: Target, environ: Mapping[str, str]) -> None:
        self.target = target
        self.environ = environ
        self.stats: HostStats | None = None  #: what the processes show of themselves, if their memory can be read
        self.hosts_known: bool | None = None  #: whether the group has several hosts; None if nobody is here

    @cached_property
    def _processes(self) -> tuple[list[Process], int]:
        found, hidden = all_processes()
        return [each for each in found if each.pid != os.getpid()], hidden

    @property
    def processes(self) -> list[Process]:
        """The processes of this machine that may have to do with a cache, without this one."""
        return self._processes[0]

    @property
    def hidden(self) -> int:
        """How many processes could not be looked at."""
        return self._processes[1]

    @property
    def members(self) -> list[Process]:
        """Those that have mapped the memory which the group's directory has now."""
        place = self.place
        return [each for each in self.processes if any(board.place == place for board in each.boards)]

    @cached_property
    def place(self) -> tuple[str, int] | None:
        """The device and inode of the board; None if there is none, or if it may not be seen."""
        try:
            return device_of(os.lstat(f"{self.target.path}/board"))
        except OSError:
            return None

    @cached_property
    def head(self) -> Head | OSError:
        """What the head of the board says, or why it cannot be read."""
        from ...runtime.board_file import Head

        try:
            descriptor = os.open(f"{self.target.path}/board", _READ)
        except OSError as error:
            return error
        try:
            return Head(descriptor)
        finally:
            os.close(descriptor)

    @property
    def living(self) -> list[ProcessStats]:
        """The processes of the group that live, as the scoreboard has them."""
        return self.stats.alive if self.stats is not None else []

    def process(self, pid: int) -> Process | None:
        """Return what the system tells about a process, if it tells anything."""
        return next((each for each in self.processes if each.pid == pid), None)


def pids(several: list[int]) -> str:
    """Return numbers of processes, for people: ``process 7``, ``processes 7 and 8``."""
    numbers = [str(pid) for pid in sorted(several)]
    if len(numbers) > 8:
        numbers = [*numbers[:7], f"{len(numbers) - 7} more"]
    text = numbers[0] if len(numbers) == 1 else f"{', '.join(numbers[:-1])} and {numbers[-1]}"
    return f"{'process' if len(numbers) == 1 else 'processes'} {text}"
