"""How many file descriptors a process may have, and how many other hosts take."""

from __future__ import annotations

import contextlib
import resource
from typing import Final

BASE: Final = 64
OF_A_HOST: Final = 4  # a line to it and one from it, and the same for data: a connection, and what its socket waits by
OF_A_PROCESS: Final = 2  # the links of other hosts' processes
ENOUGH: Final = 65536  # more is not asked for: some programs look at every number up to the limit


def raise_limit() -> None:
    """Raise this process's limit of descriptors as far as it may, up to `ENOUGH`. Raise nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def missing(hosts: int, processes: int) -> int:
    """Return how many descriptors the limit lacks for so many other hosts, and so many processes of theirs; or 0."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    needed = BASE + OF_A_HOST * hosts + OF_A_PROCESS * processes
    return 0 if soft == resource.RLIM_INFINITY else max(0, needed - soft)
