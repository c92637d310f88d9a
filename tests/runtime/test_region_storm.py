"""A storm: processes share a region, while they are killed, stopped and forked, and files and descriptors vanish.

A **source** has a version for each key, and each key has one process that raises it. When that process has invalidated
the key, and its region is in place, it raises the key's **floor**. Whatever any process reads afterwards, in whatever
region, must not be below.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Iterator
from typing import NoReturn

import pytest

from colocache.core.host.board import Board, Label
from colocache.core.host.hashes import ROOT, key_hash
from colocache.errors import ConfigError
from colocache.runtime import places
from colocache.runtime.region import Region

SECONDS = 5.0  # at least; on a busy machine longer, until enough has happened
PROCESSES = 6  # each raises one key
SOURCE, FLOOR, READS, HITS, WRITES, STALE, JOINS = range(0, 7 * 64, 64)  # words: each process counts for itself

AT_LEAST = {HITS: 10_000, WRITES: 100, JOINS: 60}


class Near:
    """What a process keeps of a key."""

    def __init__(self, label: Label, value: int) -> None:
        self.label = label
        self.value = value
        self.bell: int | None = None


class Process:
    """One of the processes."""

    def __init__(self, base: str, words: memoryview, number: int, seed: int, closes: bool) -> None:
        self.base = base
        self.words = words
        self.number = number
        self.random = random.Random(seed)
        self.closes = closes
        self.pid = os.getpid()
        self.region: Region | None = None
        self.near: dict[int, Near] = {}

    def run(self) -> NoReturn:
        while True:
            only_hits = self.random.random() < 0.02
            ends = time.monotonic() + (0.05 if only_hits else 0.001)
            while time.monotonic() < ends:
                self.read(self.random.randrange(PROCESSES), only_hits)
            chance = self.random.random()
            if chance < 0.3:
                self.write()
            elif chance < 0.33 and self.region is not None:
                if not (self.region.is_in_place() and self.region.is_whole()):
                    self.join()
            elif chance < 0.35:
                self.join()
            elif chance < 0.36:
                self.fork()
            elif chance < 0.4 and self.closes:
                os.closerange(3, 2000)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass

    def count(self, what: int) -> None:
        self.words[what + self.number] += 1

    def is_here(self) -> bool:
        """Tell whether this process uses a region, or can join one."""
        if self.region is not None and self.pid == os.getpid() and self.region.lives():
            return True
        return self.join()

    def join(self) -> bool:
        self.near = {}
        if self.region is not None and self.pid == os.getpid():
            self.region.leave()
        self.region, self.pid = None, os.getpid()
        with contextlib.suppress(ConfigError):
            self.region = region = Region.join("storm", self.base, 1 << 20, patience=0.1)
            self.board = Board(region.bell, region.marks, region.mark_count, region.numbers, region.fences)
            self.count(JOINS)
        return self.region is not None

    def read(self, key: int, only_hits: bool) -> None:
        floor, found = self.words[FLOOR + key], self.near.get(key)
        if found is not None and self.is_current(found):
            value = found.value
            self.count(HITS)
        elif only_hits:
            return
        else:
            value = self.load(key)
        self.count(READS)
        if value < floor:
            self.count(STALE)
            print(f"process {self.number}, key {key}: {value} after {floor}, hit: {found is not None}", flush=True)

    def is_current(self, found: Near) -> bool:
        if found.bell != self.board.bell[0]:
            bell = self.board.bell[0]
            if not self.board.stands(found.label):
                return False
            found.bell = bell
        return True

    def load(self, key: int) -> int:
        if not self.is_here():
            return self.words[SOURCE + key]
        assert self.region is not None
        in_place = self.region.is_in_place()
        self.pause()
        label = self.board.label([ROOT, key_hash(b"%d" % key)])
        may_keep = in_place and self.region.lives()
        value: int = self.words[SOURCE + key]
        self.pause()
        if may_keep:
            self.near[key] = Near(label, value)
        else:
            self.join()
        return value

    def pause(self) -> None:
        if self.random.random() < 0.2:
            time.sleep(self.random.random() * 0.002)

    def write(self) -> None:
        version = self.words[SOURCE + self.number] + 1
        self.words[SOURCE + self.number] = version
        while self.is_here():
            assert self.region is not None
            self.board.invalidate([key_hash(b"%d" % self.number)])
            if self.region.is_in_place():
                self.words[FLOOR + self.number] = version
                self.count(WRITES)
                return
            self.join()

    def fork(self) -> None:
        """Fork a child that goes on to hit what it has inherited, and then joins."""
        past_python = self.random.random() < 0.5
        if ctypes.CDLL(None).fork() if past_python else os.fork():
            return
        self.number = PROCESSES + self.number  # it counts for itself, and raises nothing
        self.closes = False
        ends = time.monotonic() + self.random.random() * 0.1
        while past_python and time.monotonic() < ends:
            self.read(self.random.randrange(PROCESSES), True)
        while time.monotonic() < ends + 0.05:
            self.read(self.random.randrange(PROCESSES), False)
        os._exit(0)


@pytest.fixture
def base() -> Iterator[str]:
    above = tempfile.mkdtemp(prefix="cc", dir=places.SHARED_MEMORY if os.path.isdir("/dev/shm") else None)
    yield os.path.realpath(above) + "/base"
    shutil.rmtree(above)


def clean(base: str, chance: random.Random) -> None:
    """Delete something, as a cleaner does."""
    with contextlib.suppress(OSError, IndexError):
        kind = chance.random()
        if kind < 0.3:
            shutil.rmtree(base)
        elif kind < 0.6:
            shutil.rmtree(f"{base}/storm")
        else:
            os.unlink(f"{base}/storm/{chance.choice(os.listdir(f'{base}/storm'))}")


@pytest.mark.parametrize("closes", [False, True], ids=["files vanish", "descriptors vanish"])
def test_nobody_reads_what_was_invalidated(base: str, closes: bool) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance, words = random.Random(seed), memoryview(mmap.mmap(-1, 8 * 8 * 64)).cast("Q")
    children: dict[int, int] = {}  # pids by number

    def total(what: int) -> int:
        return sum(words[what : what + 64])

    def start(number: int) -> None:
        children[number] = os.fork()
        if not children[number]:
            try:
                Process(base, words, number, chance.randrange(1 << 32), closes).run()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)

    def kill(number: int) -> None:
        os.kill(children[number], signal.SIGKILL)
        _, status = os.waitpid(children.pop(number), 0)
        assert os.WIFSIGNALED(status), "it has ended itself"
        assert os.WTERMSIG(status) == signal.SIGKILL

    try:
        for number in range(PROCESSES):
            start(number)
        ends = time.monotonic() + SECONDS
        while time.monotonic() < ends or any(total(what) < least for what, least in AT_LEAST.items()):
            time.sleep(chance.random() * 0.05)
            kind, number = chance.random(), chance.randrange(PROCESSES)
            if kind < 0.4:
                kill(number)
                start(number)
            elif kind < 0.5:  # all but one
                for each in set(range(PROCESSES)) - {number}:
                    kill(each)
                    start(each)
            elif kind < 0.7:
                os.kill(children[number], signal.SIGSTOP)
                time.sleep(chance.random() * 0.02)
                os.kill(children[number], signal.SIGCONT)
            elif not closes:
                clean(base, chance)
    finally:
        for number in list(children):
            kill(number)
    print(f"{total(READS)} reads, {total(HITS)} of them hits, {total(WRITES)} writes, {total(JOINS)} times joined")
    assert total(READS) >= total(HITS)
    assert total(STALE) == 0
