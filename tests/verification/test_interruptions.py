"""Short forms of the interruptions: some points of some calls, and a cache without a guardian, which must be caught."""

from __future__ import annotations

import ast
import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from colocache import Cache
from colocache.decorators import AsyncCached, Cached
from colocache.scope import Scope
from colocache.space import Space
from verification.interruptions import campaign, operations
from verification.interruptions.broken import GUARDIANS, VARIABLE
from verification.interruptions.campaign import MOST, Run, carry_out, kinds_of
from verification.interruptions.crew import Crew, crew
from verification.interruptions.kinds import KINDS
from verification.interruptions.operations import OPERATIONS
from verification.interruptions.points import Points

pytestmark = pytest.mark.timeout(300)

#: How long a key may be stuck here, in seconds: this runs beside other tests. A load that nobody ends takes five times
#: as long.
PATIENCE = 6.0

#: How many attempts are made of each call.
ATTEMPTS, ATTEMPTS_JOINING, ATTEMPTS_BETWEEN_HOSTS = 8, 3, 5

BETWEEN_HOSTS = (
    "get", "get_many", "get_or_load", "get_or_load, awaited", "get_or_load, waiting", "set", "get and set", "cas",
    "incr", "invalidate", "a request", "aget_or_load, awaited", "aset", "ainvalidate", "get_or_load, joining",
)  # fmt: skip


@pytest.fixture(scope="module")
def host() -> Iterator[Crew]:
    with crew(is_of_hosts=False, patience=PATIENCE) as it:
        yield it


@pytest.fixture(scope="module")
def hosts() -> Iterator[Crew]:
    with crew(is_of_hosts=True, patience=PATIENCE) as it:
        yield it


def interrupted(it: Crew, group: str, name: str, attempts: int) -> None:
    """Interrupt a call at some points that lie far apart, at each by another kind."""
    kinds = kinds_of(name)
    last = Run(group, name, kinds[0], "lines")
    carry_out(last, it, MOST, 1)  # nothing comes there, and the points are counted
    runs = [last]
    for number in range(attempts):
        chance = random.Random(f"{group} {name} {number}")
        runs.append(Run(group, name, chance.choice(kinds), "lines"))
        at = 1 + (last.points * number + chance.randrange(last.points)) // attempts
        carry_out(runs[-1], it, at, 1, at)
    assert not any(run.failures for run in runs), campaign.report(runs, 0.0)
    # A call that takes a shorter way, because another process was faster, does not come to each point.
    assert any(run.attempts for run in runs)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_call_that_is_interrupted_leaves_a_cache_that_works(host: Crew, name: str) -> None:
    interrupted(host, "host", name, ATTEMPTS_JOINING if OPERATIONS[name].joins else ATTEMPTS)


@pytest.mark.parametrize("name", BETWEEN_HOSTS)
def test_a_call_that_waits_for_another_host_may_be_interrupted(hosts: Crew, name: str) -> None:
    interrupted(hosts, "hosts", name, ATTEMPTS_JOINING if OPERATIONS[name].joins else ATTEMPTS_BETWEEN_HOSTS)


def test_each_public_call_is_interrupted() -> None:
    source = ast.parse(Path(operations.__file__).read_text())
    called = {node.attr for node in ast.walk(source) if isinstance(node, ast.Attribute)}
    public = {
        name for each in (Cache, Scope, Cached, AsyncCached) for name, what in vars(each).items() if callable(what)
    }
    public |= {name for name, what in vars(Space).items() if callable(what)}
    assert {name for name in public - called if not name.startswith("_")} == {
        "cache_key", "cache_parameters", "register"  # these touch no host
    }  # fmt: skip


@pytest.mark.parametrize("guardian", GUARDIANS)
def test_a_guardian_that_is_missing_is_noticed(monkeypatch: pytest.MonkeyPatch, guardian: str) -> None:
    monkeypatch.setenv(VARIABLE, guardian)
    monkeypatch.setattr(campaign, "TIMES", 1)
    _, name, kind = GUARDIANS[guardian]
    run = Run("host", name, kind, "lines")
    with crew(is_of_hosts=False, patience=0.1) as it:
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
