"""Which files does one call pass?

    python -m benchmarks.path

Two processes are a group: this one, and another one that has stored some values. This one makes five kinds of calls: a
hit, a fetch of a value that the other process has stored, a load, a `set` and an invalidation. `sys.setprofile` notes
which functions of the package run meanwhile in the caller's thread, which carries out all of these calls.

For each call the program prints:

- files: how many files of the package the call passes, in the order in which it comes to them.
- entries: how often a call goes from one file into another one. A generator that continues is not entered again. The
  number behind a file's name says how often that file is entered, if it is more than once.
- calls: how many functions are called.

The text of functions that are written as the program runs counts as a file of its own, "generated".
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import colocache
from benchmarks.group import Group, Member

PACKAGE = str(Path(colocache.__file__).parent)
TIMES = 64  # that each call is made


class Passed(NamedTuple):
    """What a call has passed."""

    entries: Counter[str]
    calls: int

    def __str__(self) -> str:
        files = ", ".join(f"{file} ({times})" if times > 1 else file for file, times in self.entries.items())
        return f"{len(self.entries)} files, {sum(self.entries.values())} entries, {self.calls} calls: {files}"


class Recorder:
    """Notes the calls of this thread."""

    def __init__(self) -> None:
        self._frames: list[tuple[FrameType, FrameType | None]] = []  # kept, so that no frame gets another one's id

    def _profile(self, frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and _file(frame):
            self._frames.append((frame, frame.f_back))

    def record(self, call: Callable[[], Any]) -> Passed:
        """Return what this thread passes during a call."""
        self._frames.clear()
        sys.setprofile(self._profile)
        try:
            call()
        finally:
            sys.setprofile(None)
        entries, seen = Counter[str](), set[int]()
        for frame, caller in self._frames:
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


class Other(Member):
    """The process that has stored what is fetched."""

    def store(self) -> None:
        """Store values."""
        for number in range(TIMES):
            self.cache.set(f"theirs {number}", "value")


def paths(cache: colocache.Cache) -> Iterator[tuple[str, Passed]]:
    """Make the calls, and yield what each of them passes. The shortest of several counts: others do more at times."""
    recorder = Recorder()

    def made(call: Callable[[str], Any], key: str) -> Passed:
        passed = [recorder.record(lambda key=f"{key} {number}": call(key)) for number in range(TIMES)]  # type: ignore[misc]
        return min(passed, key=lambda path: path.calls)

    yield "fetch", made(cache.get, "theirs")
    yield "fetch of what was found before, which is kept near", made(cache.get, "theirs")
    yield "first hit, which compares stamps", made(cache.get, "theirs")
    yield "hit", made(cache.get, "theirs")
    yield "load", made(lambda key: cache.get_or_load(key, lambda: "value"), "new")
    yield "set", made(lambda key: cache.set(key, "value"), "set")
    yield "invalidation", made(cache.invalidate, "theirs")


def main() -> None:
    """Print the paths."""
    with Group() as group:
        [other] = group.start(Other)
        other.call("store")
        with colocache.Cache("bench", directory=str(group.directory / "c")) as cache:
            for name, passed in paths(cache):
                print(f"\n{name}\n  {passed}")


if __name__ == "__main__":
    main()
