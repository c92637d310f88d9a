"""Short forms of the interruptions: some points of some calls, and a cache without a guardian, which must be caught."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from verification.interruptions import campaign
from verification.interruptions.broken import GUARDIANS, VARIABLE
from verification.interruptions.campaign import Run, carry_out, kinds_of
from verification.interruptions.crew import Crew, crew
from verification.interruptions.kinds import KINDS
from verification.interruptions.operations import OPERATIONS
from verification.interruptions.points import Points

pytestmark = pytest.mark.timeout(300)

#: In which steps points are taken. They have no factor in common with loops of the code.
EVERY, EVERY_JOINING = {"host": 89, "hosts": 131}, 173
IN_A_HOST = tuple(OPERATIONS)
BETWEEN_HOSTS = (
    "get", "get_or_load", "get_or_load, awaited", "get_or_load, waiting", "set", "cas", "incr", "invalidate",
    "aget_or_load, awaited", "ainvalidate", "get_or_load, joining",
)  # fmt: skip


@pytest.fixture(scope="module")
def host() -> Iterator[Crew]:
    with crew(is_of_hosts=False) as it:
        yield it


@pytest.fixture(scope="module")
def hosts() -> Iterator[Crew]:
    with crew(is_of_hosts=True) as it:
        yield it


def interrupted(it: Crew, group: str, name: str) -> list[Run]:
    """Interrupt a call at some points by each kind; each kind begins at another point."""
    runs = []
    for number, kind in enumerate(kinds_of(name)):
        runs.append(Run(group, name, kind, "lines"))
        carry_out(runs[-1], it, 1 + 7 * number, EVERY_JOINING if OPERATIONS[name].joins else EVERY[group])
    return runs


@pytest.mark.parametrize("name", IN_A_HOST)
def test_a_call_that_is_interrupted_leaves_a_cache_that_works(host: Crew, name: str) -> None:
    runs = interrupted(host, "host", name)
    assert not any(run.failures for run in runs), campaign.report(runs, 0.0)
    assert sum(run.attempts for run in runs) >= len(runs)


@pytest.mark.parametrize("name", BETWEEN_HOSTS)
def test_a_call_that_waits_for_another_host_may_be_interrupted(hosts: Crew, name: str) -> None:
    runs = interrupted(hosts, "hosts", name)
    assert not any(run.failures for run in runs), campaign.report(runs, 0.0)


@pytest.mark.parametrize("guardian", GUARDIANS)
def test_a_guardian_that_is_missing_is_noticed(monkeypatch: pytest.MonkeyPatch, guardian: str) -> None:
    monkeypatch.setenv(VARIABLE, guardian)
    monkeypatch.setattr(campaign, "TIMES", 1)
    _, name, kind = GUARDIANS[guardian]
    run = Run("host", name, kind, "lines")
    with crew(is_of_hosts=False) as it:
        for first in range(1, 20):
            carry_out(run, it, first, 20, most_failures=1)
            if run.failures:
                return
    pytest.fail("nothing was noticed")


def test_points_are_lines_and_instructions_of_the_package_and_of_what_it_calls() -> None:
    from colocache.core.keys import prefix, wire

    places: list[str] = []
    for unit in ("lines", "opcodes"):
        for at in range(1, 10_000):
            points = Points(at, unit, lambda: None)
            with contextlib.suppress(ValueError):
                points.trace(lambda: wire(prefix(""), ("k", 1)))
            if not points.came:
                break
            places.append(points.where)
        assert at > 5
    assert all("colocache/core" in place or f"lib{os.sep}python" in place for place in places)


def test_each_kind_can_come_in_a_task() -> None:
    assert {kind for name in OPERATIONS for kind in kinds_of(name)} == {*KINDS}
