"""Which files does one call pass?

    python -m benchmarks.path

Two processes are members of a group: this one, and another one that holds some values. This one makes four calls: a
hit, a fetch of a value that the other process owns, a load whose value is filled in at the other process, and an
invalidation that the other process acknowledges. `sys.setprofile` notes which functions of the package run meanwhile,
in the caller's thread and in the thread that drives the member.

For each thread the program prints:

- files: how many files of the package the call passes, in the order in which it comes to them.
- entries: how often a call goes from one file into another one. A generator that continues is not entered again. The
  number behind a file's name says how often that file is entered, if it is more than once.
- calls: how many functions are called.

The text of functions that are written as the program runs counts as a file of its own, "generated".
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import colocache

PACKAGE = str(Path(colocache.__file__).parent)
PATIENCE = 30.0  # s
HELD = 64  # values that the other process holds


class Passed(NamedTuple):
    """What one thread has passed."""

    entries: Counter[str]
    calls: int

    def __str__(self) -> str:
        files = ", ".join(f"{file} ({times})" if times > 1 else file for file, times in self.entries.items())
        return f"{len(self.entries)} files, {sum(self.entries.values())} entries, {self.calls} calls: {files}"


class Recorder:
    """Notes the calls of all threads while it is on."""

    def __init__(self) -> None:
        self.is_on = False
        self._frames: list[tuple[int, FrameType, FrameType | None]] = []  # kept, so that no frame gets another one's id

    def profile(self, frame: FrameType, event: str, _argument: object) -> None:
        if self.is_on and event == "call" and _file(frame):
            self._frames.append((threading.get_ident(), frame, frame.f_back))

    def record(self, call: Callable[[], Any]) -> dict[int, Passed]:
        """Return what each thread passes during a call."""
        self._frames.clear()
        self.is_on = True
        sys.setprofile(self.profile)
        try:
            call()
        finally:
            sys.setprofile(None)
            self.is_on = False
        threads = {thread for thread, _, _ in self._frames}
        return {thread: self._path(thread) for thread in threads}

    def _path(self, thread: int) -> Passed:
        entries, seen = Counter[str](), set[int]()
        for _, frame, caller in [each for each in self._frames if each[0] == thread]:
            if id(frame) not in seen:
                seen.add(id(frame))
                if _file(frame) != _file_of_caller(caller):
                    entries[_file(frame)] += 1
        return Passed(entries, len(seen))


def _file(frame: FrameType) -> str:
    """Return the file of a frame within the package; empty for others."""
    name = frame.f_code.co_filename
    if name.startswith("<colocache"):
        return "generated"
    return name.removeprefix(PACKAGE)[1:] if name.startswith(PACKAGE) else ""


def _file_of_caller(frame: FrameType | None) -> str:
    """Return the file of the innermost frame of the package that has called, perhaps by functions of others."""
    while frame is not None:
        if _file(frame):
            return _file(frame)
        frame = frame.f_back
    return ""


def other_process() -> None:
    """Hold some values until the first process ends."""
    cache = colocache.Cache("path")
    for number in range(HELD):
        cache.get_or_load(f"theirs {number}", lambda: "value")
    print("ready", flush=True)
    sys.stdin.read()
    cache.close()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition. Raise TimeoutError if it does not come true."""
    ends = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > ends:
            raise TimeoutError("the two processes did not find each other")
        time.sleep(0.001)


class Course:
    """The calls, each made several times. The shortest one counts: the others do what is due by the clock, too."""

    def __init__(self, cache: colocache.Cache, recorder: Recorder) -> None:
        self._cache = cache
        self._recorder = recorder

    def made(self, call: Callable[[str], Any], name: str, changes: Mapping[str, bool]) -> dict[int, Passed]:
        """Make a call for one key after another; count those after which just these counters have changed."""
        passed: list[dict[int, Passed]] = []
        for number in range(HELD):
            before = self._cache.stats()
            path = self._recorder.record(lambda key=f"{name} {number}": call(key))  # type: ignore[misc]
            time.sleep(0.02)
            after = self._cache.stats()
            if all((getattr(after, each) != getattr(before, each)) is changed for each, changed in changes.items()):
                passed.append(path)
        return min(passed, key=lambda path: sum(each.calls for each in path.values()))

    def paths(self) -> Iterator[tuple[str, dict[int, Passed]]]:
        """Make the calls, and yield what each of them passes."""
        cache = self._cache
        for number in range(HELD):
            cache.get_or_load(f"mine {number}", lambda: "value")
        wait_until(lambda: cache.stats().entries >= HELD)
        for number in range(HELD):
            cache.get(f"mine {number}")
        yield "hit", self.made(cache.get, "mine", {"misses": False})
        yield "fetch", self.made(cache.get, "theirs", {"fetches": True})
        yield (
            "load, and fill at the other process",
            self.made(lambda key: cache.get_or_load(key, lambda: "value"), "new", {"fills": False, "loads": True}),
        )
        yield "acknowledged invalidation", self.made(cache.invalidate, "mine", {"incomplete": False})


def main() -> None:
    recorder = Recorder()
    threading.setprofile(recorder.profile)  # for the thread that is to drive the member
    cache = colocache.Cache("path")
    cache.start()
    command = [sys.executable, "-m", "benchmarks.path", "other"]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        other.stdout.readline()
        wait_until(lambda: len(cache.members()) == 2 and all(member.heard for member in cache.members()))
        for name, paths in Course(cache, recorder).paths():
            me = threading.get_ident()
            print(f"\n{name}\n  in the caller's thread: {paths.pop(me)}")
            for path in paths.values():
                print(f"  in the member's thread: {path}")
    finally:
        other.communicate()
        cache.close()


if __name__ == "__main__":
    if sys.argv[1:] == ["other"]:
        other_process()
    else:
        with tempfile.TemporaryDirectory(prefix="cc", dir="/tmp") as directory:
            os.environ["COLOCACHE_DIR"] = directory
            main()
