"""Wear: what each use leaves behind in a process. It must be nothing, however often a thing is used.

``python -m verification.chaos.wear`` opens and closes 1,000 caches, uses 200,000 namespaces with a tag and a counter
each, cancels 100,000 calls and loads 100,000 keys, in ten rounds. After each round it looks at the memory, the
descriptors and threads of the process, at the files of the group, at all containers of the package's modules, and at
those of all its objects. ``--hosts`` does the same in a group of two hosts.

The other process, or host, loads keys without an end. So there is always somebody to wait for.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

import colocache

ROUNDS: Final = 10
CACHES, NAMESPACES, CANCELLED, LOADED = 1_000, 200_000, 100_000, 100_000
AT_ONCE: Final = 1_000  # calls that are cancelled together
AWAITED: Final = 200  # keys that the other process loads without an end
QUIET: Final = 12.0  # s until nothing more changes: what depends on the load, and files of the bus, go by themselves
#: What may come and go, and how much: the allocator keeps some KiB, and a host that was slow just now is passed over.
#: Threads that ask another host at the same time have two links to it, each with four descriptors.
SPARED: Final = {
    "memory KiB": 3072, "Hosts._slow": 1, "instances of DirectLink": 1, "DirectLink._open": 1, "DirectLink._watched": 2,
    "DirectLink.taken": 1,
}  # fmt: skip
OF_A_LINK: Final = 4  # descriptors

OTHER = f"""
import sys, threading, colocache
cache = colocache.Cache("wear")
cache.start()
for number in range({AWAITED}):
    begun = threading.Event()
    def load():
        begun.set()
        threading.Event().wait()
    threading.Thread(target=cache.get_or_load, args=(f"awaited {{number}}", load), daemon=True).start()
    begun.wait()
print("ready", flush=True)
sys.stdin.read()
"""


class Wear:
    """One run."""

    def __init__(self, path: Path, hosts: bool) -> None:
        """``path`` is where the group is to be."""
        self._hosts = hosts
        here, there = _places(path, hosts)
        os.environ.update(here)
        self._other = subprocess.Popen(
            [sys.executable, "-c", OTHER], env={**os.environ, **there}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._other.stdout is not None
        self._other.stdout.readline()
        self.cache = colocache.Cache("wear", ttl="1h")
        self.cache.start()
        if hosts:
            _wait(lambda: len(self.cache.hosts()) == 2 and all(each.state != "joining" for each in self.cache.hosts()))
        self._directory = Path(os.environ["COLOCACHE_DIR"])
        self.rounds: list[dict[str, int]] = []

    def run(self, rounds: int, share: float) -> None:
        """Use everything in so many rounds, a share of the full numbers."""
        for number in range(rounds):
            for use, count in (
                (self._open_and_close, CACHES), (self._use_namespaces, NAMESPACES), (self._cancel, CANCELLED),
                (self._load, LOADED),
            ):  # fmt: skip
                each = max(2, round(share * count / rounds))
                use(range(number * each, (number + 1) * each))
            self.rounds.append(self._figures())

    def close(self) -> None:
        """End the other process, and leave."""
        self.cache.close()
        self._other.communicate()

    def growth(self, quiet: float) -> dict[str, tuple[int, int]]:
        """Return what is more in the end than after the first rounds, once all has been quiet for some seconds."""
        time.sleep(quiet)
        self.rounds.append(self._figures())
        first, last = self.rounds[: max(1, len(self.rounds) // 2)], self.rounds[-1]
        found = {}
        for what in last:
            before = max(each.get(what, 0) for each in first)
            spared = OF_A_LINK if self._hosts and what == "descriptors" else SPARED.get(what, 0)
            if last[what] > before + spared:
                found[what] = before, last[what]
        return found

    # --- Uses

    def _open_and_close(self, numbers: range) -> None:
        for number in numbers:
            cache = colocache.Cache("wear" if self._hosts else f"wear-{number % 7}", ttl="1m")  # one port, one group
            cache.get_or_load("k", lambda: 1)
            if number % 2:
                cache.close()
        del cache
        gc.collect()
        _wait(lambda: not [*self._directory.glob("wear-*")])  # those that were dropped leave by themselves

    def _use_namespaces(self, numbers: range) -> None:
        for number in numbers:
            space = self.cache.namespace(f"n{number}")
            space.set("k", number, tags=(f"t{number}",))
            space.get("k")
            space.get("k")
            space.incr("c", initial=1)
            if number % 10 == 0:
                space.invalidate_tags(f"t{number}")

    def _cancel(self, numbers: range) -> None:
        asyncio.run(self._cancel_all(numbers))

    async def _cancel_all(self, numbers: range) -> None:
        async def load() -> None:
            await asyncio.sleep(3600)

        for start in range(numbers.start, numbers.stop, AT_ONCE):
            some = range(start, min(start + AT_ONCE, numbers.stop))
            keys = [f"awaited {each % AWAITED}" if each % 3 == 0 else f"own {each % 500}" for each in some]
            tasks = [asyncio.ensure_future(self.cache.aget_or_load(key, load)) for key in keys]
            await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _load(self, numbers: range) -> None:
        for number in numbers:
            self.cache.get_or_load(f"l{number}", lambda number=number: number)  # type: ignore[misc]

    # --- Figures

    def _figures(self) -> dict[str, int]:
        gc.collect()
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return {
            "memory KiB": int(status["RssAnon"].split()[0]), "threads": int(status["Threads"]),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "files": sum(len(files) for _, _, files in os.walk(self._directory)),
            "directories": sum(len(names) for _, names, _ in os.walk(self._directory)),
            **_sizes(),
        }  # fmt: skip


#: What is near, or on its way there, is bounded, and which namespaces are near is chance. A gateway remembers some
#: connections that are over, 4096 at most, and counts messages by their kind.
BOUNDED: Final = (
    "NearStore", "Keeper._coming", "Policy", "NearCaches._homes", "NearCaches._modes", "Home", "Entry", "S3Fifo",
    "Log.", "Speaker._routes", "Speaker.sent", "_Route", "instances of Hello",
)  # fmt: skip


def _sizes() -> dict[str, int]:
    """Return the sizes of all containers of the package's modules, and of all its objects, added up by their names."""
    sizes = Counter[str]()
    for name, module in [*sys.modules.items()]:
        if name.split(".")[0] == "colocache":
            for variable, value in [*vars(module).items()]:
                if _grows(value) and not variable.startswith("__"):
                    sizes[f"{name}.{variable}"] += len(value)
    for each in gc.get_objects():
        kind = type(each)
        if str(kind.__module__).split(".")[0] == "colocache":
            sizes[f"instances of {kind.__qualname__}"] += 1
            for attribute, value in _attributes(each):
                if _grows(value):
                    sizes[f"{kind.__qualname__}.{attribute}"] += len(value)
    return {what: size for what, size in sizes.items() if not any(each in what for each in BOUNDED)}


def _attributes(each: object) -> Iterator[tuple[str, Any]]:
    yield from [*getattr(each, "__dict__", {}).items()]
    for cls in type(each).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            with contextlib.suppress(AttributeError):
                yield slot, getattr(each, slot)


_CONTAINERS: Final = (list, dict, set, deque, bytearray, WeakSet, WeakKeyDictionary, WeakValueDictionary)


def _grows(value: Any) -> bool:
    return isinstance(value, _CONTAINERS)


def _places(path: Path, hosts: bool) -> tuple[Mapping[str, str], Mapping[str, str]]:
    here = {"COLOCACHE_DIR": str(path / "here"), "COLOCACHE_SHELF": "16MiB", "COLOCACHE_MEMORY": "2MiB"}
    if not hosts:
        return here, {}
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in servers]
    for each in servers:
        each.close()
    peers = {"COLOCACHE_PEERS": ",".join(addresses)}
    return (
        {**here, **peers, "COLOCACHE_HOST": "here", "COLOCACHE_LISTEN": addresses[0]},
        {**peers, "COLOCACHE_DIR": str(path / "there"), "COLOCACHE_HOST": "there", "COLOCACHE_LISTEN": addresses[1]},
    )


def _wait(condition: Callable[[], object]) -> None:
    ends, pause = time.monotonic() + 60.0, threading.Event()
    while not condition():
        assert time.monotonic() < ends, "it takes too long"
        pause.wait(0.01)


def main() -> None:
    """Run it, print what has grown, and exit with 1 if anything has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the full numbers")
    parser.add_argument("--quiet", type=float, default=QUIET, help="s until the last look")
    parser.add_argument("--hosts", action="store_true", help="in a group of two hosts")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        began = time.monotonic()
        wear = Wear(Path(place), arguments.hosts)
        try:
            wear.run(ROUNDS, arguments.share)
            grown = wear.growth(arguments.quiet)
        finally:
            wear.close()
    seconds = time.monotonic() - began
    numbers = [round(arguments.share * each) for each in (CACHES, NAMESPACES, CANCELLED, LOADED)]
    where = "two hosts" if arguments.hosts else "one host"
    print(
        "{}, {:.0f} s: {:,} caches, {:,} namespaces, {:,} cancelled calls, {:,} loads".format(where, seconds, *numbers)
    )
    for what in ("memory KiB", "threads", "descriptors", "files", "directories"):
        print(f"{what:12} {' '.join(f'{each[what]:>7,}' for each in wear.rounds)}")
    watched = wear.rounds[-1]
    print(f"{len(watched)} figures, {sum(watched.values()) - watched['memory KiB']:,} things in all containers")
    for what, (before, after) in grown.items():
        print(f"GROWN {what}: {before} {after}")
    print("verdict: " + ("it grows" if grown else "flat"))
    sys.exit(bool(grown))


if __name__ == "__main__":
    main()
