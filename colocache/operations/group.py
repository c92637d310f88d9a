"""What the whole group has counted."""

from __future__ import annotations

from ..group_stats import GroupStats
from ..member import Member
from .flow import Flow


def stats(member: Member, timeout: float) -> Flow[GroupStats]:
    """Return what all processes of the group have counted; nothing if this process is on no host."""
    host = member.own_host()
    if host is None or not host.alive:
        return GroupStats(())
    return (yield from host.group_stats(timeout))
