"""What is wrong with the memory that the kernel lets the processes have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from .finding import Finding, Situation

PROC: Final = Path("/proc")
GROUPS: Final = Path("/sys/fs/cgroup")
BOARD: Final = 0.2  # of the shelf: what the board may take


def memory(situation: Situation) -> Iterator[Finding]:
    """Look whether the limit of the processes' memory has room for what they share, and for what they keep."""
    head = situation.head
    if isinstance(head, OSError) or not head.lives or situation.stats is None:
        return
    shared = int(head.capacity * (1 + BOARD))
    limits = [limit for each in situation.members if (limit := limit_of(each.pid)) is not None]
    own = sum([each.memory for each in situation.living])
    if limits and min(limits) < shared + own:
        yield Finding(
            "memory-limit", "warning", f"the processes may have {min(limits) >> 20} MiB (memory.max), and their "
            "cache alone may "
            f"take {shared + own >> 20} MiB: {shared >> 20} MiB in shared memory, which counts as theirs, and "
            f"{own >> 20} MiB "
            "near. Where the limit is reached, the kernel kills one of them",
            "raise the limit, or lower COLOCACHE_SHELF and COLOCACHE_MEMORY",
        )  # fmt: skip


def limit_of(pid: int) -> int | None:
    """Return how many bytes a process and those of its control group may have; None if there is no limit to be seen."""
    try:
        lines = (PROC / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        return None
    path = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
    if path is None:
        return None
    place, found = GROUPS / path.strip("/"), list[int]()
    while True:
        try:
            text = (place / "memory.max").read_text().strip()
        except OSError:
            text = ""
        if text.isdecimal():
            found.append(int(text))
        if place in (GROUPS, place.parent):
            return min(found, default=None)
        place = place.parent
