"""Who lives shows outside the files of a region, and ends with a process: with real processes, forks and kills."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator

import pytest

from colocache.runtime.life import Life
from tests.runtime.agents import StartAgent, agents

OTHER = """
import fcntl
from colocache.runtime.life import Life

def live(base, name, without_open_files=False):
    global life
    if without_open_files and hasattr(fcntl, "F_OFD_SETLK"):
        del fcntl.F_OFD_SETLK
    life = Life(base, name)
    life.hold()
"""

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs locks of open files")


@pytest.fixture
def agent() -> Iterator[StartAgent]:
    with agents(OTHER) as start:
        yield start


@pytest.fixture
def base() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as above:
        os.mkdir(f"{above}/base")
        yield os.path.realpath(f"{above}/base")


@pytest.fixture(params=[pytest.param("open files", marks=linux), "records"])
def without(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param == "records":
        monkeypatch.delattr(fcntl, "F_OFD_SETLK", raising=False)
    return bool(request.param == "records")


def others(base: str, name: str = "shop") -> bool:
    life = Life(base, name)
    try:
        return life.others()
    finally:
        life.close()


def test_others_are_seen_until_they_let_go_or_die(agent: StartAgent, base: str, without: bool) -> None:
    assert not others(base)
    one, two = agent(), agent()
    for each in (one, two):
        each("live(base, 'shop', without)", base=base, without=without)
    assert others(base)
    assert one("life.others()") is True
    one("life.let_go()")
    assert others(base)
    assert two("life.others()") is False
    two.kill()
    assert not others(base)


def test_oneself_is_not_another(base: str, without: bool) -> None:
    life = Life(base, "shop")
    life.hold()
    assert not life.others()
    life.close()


def test_groups_do_not_see_each_other(agent: StartAgent, base: str, without: bool) -> None:
    agent()("live(base, 'shop', without)", base=base, without=without)
    assert not others(base, "blog")
    assert others(base, "shop")


def test_the_deletion_of_the_groups_directory_hides_nobody(agent: StartAgent, base: str, without: bool) -> None:
    os.mkdir(f"{base}/shop")
    agent()("live(base, 'shop', without)", base=base, without=without)
    shutil.rmtree(f"{base}/shop")
    assert others(base)


@linux
def test_the_deletion_of_the_base_directory_hides_nobody(agent: StartAgent, base: str) -> None:
    agent()("live(base, 'shop')", base=base)
    shutil.rmtree(base)
    os.mkdir(base)
    assert others(base)


@linux
def test_a_base_directory_under_another_path_shows_the_same(agent: StartAgent, base: str) -> None:
    # As in two containers, where a volume has two paths. A rename stands for it: the directory is the same one.
    agent()("live(base, 'shop')", base=base)
    os.mkdir(f"{base}-elsewhere")
    os.rename(base, f"{base}-elsewhere/volume")
    assert others(f"{base}-elsewhere/volume")


@linux
def test_a_directory_above_that_cannot_be_read_is_left_out(agent: StartAgent, base: str) -> None:
    above = os.path.dirname(base)
    one, two = agent(), agent()
    if os.geteuid() == 0:  # root may read everything
        os.chown(base, 65534, 65534)
        os.chmod(above, 0o711)
        for each in (one, two):
            each("os.setuid(65534)")
    else:
        os.chmod(above, 0o300)
    try:
        one("live(base, 'shop')", base=base)
        assert two("(live(base, 'shop'), life.others())", base=base) == (None, True)
    finally:
        os.chmod(above, 0o700)


@linux
def test_a_child_past_pythons_hooks_counts_as_its_parent_does(agent: StartAgent, base: str) -> None:
    one = agent()
    one("live(base, 'shop')", base=base)
    child = one("go_on_in_child(fork_past_python)")
    assert isinstance(child, int)
    assert child != one.pid
    one.kill()
    assert others(base)
    assert one("life.others()") is False  # the child answers
    one("life.let_go()")
    assert not others(base)


@linux
def test_a_parent_that_lets_go_does_so_for_its_child(agent: StartAgent, base: str) -> None:
    life = Life(base, "shop")
    life.hold()
    child = os.fork()
    if not child:
        signal.pause()
    try:
        assert others(base)
        life.let_go()
        assert not others(base)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        life.close()


def test_descriptors_that_somebody_closes_are_missed(base: str, without: bool) -> None:
    life = Life(base, "shop")
    life.hold()
    assert life.is_held()
    number = life._marks[0].descriptor.number
    os.close(number)
    assert not life.is_held()
    again = os.open(os.devnull, os.O_RDONLY)
    os.dup2(again, number)  # somebody else's file has the number now
    assert not life.is_held()
    life.let_go()
    life.close()
    os.fstat(number)  # and is still open
    os.close(number)
    os.close(again)
