"""Servers with an application that uses the cache as one should not: it goes well, or says what to do."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace

import pytest

from verification.servers.matrix import Trial, trial
from verification.servers.modes import ASGI, HERE, UVICORN, WSGI, Mode, gunicorn
from verification.servers.running import Broken, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: it looks into /proc")


def misused(*arguments: str) -> Mode:
    """gunicorn with the application that is misused."""
    return gunicorn(
        "sync", "--config", f"{HERE}/misused.py", *arguments, app="verification.servers.misused:application"
    )


def workers(one: Trial) -> set[int]:
    """The workers, once all have joined: those of the members that have the server's first process for a parent."""

    def all_there() -> set[int]:
        one.server.burst("/who")
        found = {pid for pid in one.members() if pid != one.server.process.pid}
        return found if len(found) == one.mode.workers else set()

    def up() -> bool:
        try:
            return bool(one.server.ask("/who"))
        except Broken:
            assert not one.server.has_ended(), one.server.last_words()
            return False

    until(up, "the server answers")
    return until(all_there, lambda: f"all workers are members; they are {one.members()}")


def all_know_each_other(one: Trial, pids: set[int], members: int) -> None:
    """Wait until all of the processes know that there are so many."""

    def do() -> bool:
        answers = one.server.reach("/who", lambda: pids)
        return {each["pid"] for each in answers if each["processes"] == members} == pids

    until(do, f"{pids} know {members} members")


def invalidate(one: Trial, key: str) -> None:
    """Have a worker invalidate a key; all that answer are to show the new version from then on."""
    number, pids = one.write(), workers(one)
    assert one.server.ask(f"/invalidate/{key}")["complete"]
    assert {each["version"] for each in one.server.reach(f"/read/{key}", lambda: pids)} == {number}


def test_a_master_that_uses_the_cache_before_it_forks_is_a_member_and_its_workers_are_others() -> None:
    with trial(misused("--preload"), SERVERS_MISUSE="used before the fork") as one:
        pids, master = workers(one), one.server.process.pid
        all_know_each_other(one, pids, one.mode.workers + 2)
        assert set(one.members()) == {master, *pids}
        assert len(set(one.members().values())) == len(pids) + 1, "nobody shares a seat"
        assert len({each["mark"] for each in one.server.reach("/read/early", lambda: pids)}) == 1, "all have one value"
        invalidate(one, "early")
        with pytest.raises(AssertionError, match=f"something was started in .{master}"):
            one.starts_nothing_elsewhere()
        one.leaves_nothing()


def test_a_cache_made_in_the_parent_after_the_fork_is_a_member_and_no_worker_has_it() -> None:
    with trial(misused(), SERVERS_MISUSE="made in the parent") as one:
        pids, master = workers(one), one.server.process.pid
        assert set(one.members()) == pids
        os.kill(master, signal.SIGTTIN)  # one worker more, which is forked from a master that is a member by then
        one.mode = replace(one.mode, workers=one.mode.workers + 1)
        pids = workers(one)
        all_know_each_other(one, pids, one.mode.workers + 2)
        assert set(one.members()) == {master, *pids}
        one.server.reach("/read/seen", lambda: pids)
        invalidate(one, "seen")
        one.leaves_nothing()


def test_two_caches_of_one_group_in_a_process_have_one_seat_and_agree() -> None:
    with trial(misused(), SERVERS_MISUSE="two caches") as one:
        pids = workers(one)
        one.server.reach("/twice/seen", lambda: pids)
        assert len(one.witness.members()) == one.mode.workers + 1
        all_know_each_other(one, pids, one.mode.workers + 1)
        number = one.write()
        assert one.server.ask("/invalidate/seen")["complete"]
        answers = one.server.reach("/twice/seen", lambda: pids)
        assert {each[which]["version"] for each in answers for which in ("first", "second")} == {number}
        assert len({each[which]["mark"] for each in answers for which in ("first", "second")}) == 1, "one load for all"
        one.leaves_nothing()


@pytest.mark.parametrize("mode", [gunicorn("sync"), Mode("uvicorn", "", UVICORN, ("uvicorn",))], ids=str)
def test_an_application_that_raises_is_answered_for_by_its_server_and_the_worker_goes_on(mode: Mode) -> None:
    assert mode.command[-1] in (WSGI, ASGI)
    with trial(mode) as one:
        pids = set(one.await_workers())
        for _ in range(4 * mode.workers):
            with pytest.raises(Broken, match="answered with 500"):
                one.server.ask("/raise")
        one.server.reach("/read/seen", lambda: pids)
        invalidate(one, "seen")
        assert set(one.members()) == pids
        one.server.stop()
        log = one.server.log.read_text()
        assert log.count("this route always raises") >= 4 * mode.workers
        assert "colocache[" not in log
