"""A process of `campaign.py`: does what it is told, each command in a thread of its own; see `chaos/worker.py`."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import colocache
from verification.chaos.board import SPACE, SPACES
from verification.chaos.register import Register
from verification.chaos.values import value_of, version_of
from verification.chaos.worker import serve
from verification.network import sight
from verification.network.checker import UnderWay
from verification.network.standins import OneRegion, StandIn
from verification.network.work import Work

SHELF, LOAD_TIMEOUT = "8MiB", 1.0


class HostWorker:
    """The commands. Every public method is one."""

    def __init__(self, directory: str, kind: str, hosts: int) -> None:
        """``kind`` is ``colocache``, or ``one region``, or that of a stand-in. There are so many ``hosts``."""
        self._directory = Path(directory)
        self._hosts = hosts
        self._work: Work | None = None
        self.cache: Any
        if kind == "colocache":
            self.cache = colocache.Cache("shop", shelf=SHELF, load_timeout=LOAD_TIMEOUT)
        elif kind == "one region":
            self.cache = OneRegion(
                "shop", shelf=SHELF, load_timeout=LOAD_TIMEOUT, directory=f"{directory}/c", listen=None, peers=None
            )
        else:
            self.cache = StandIn(kind)

    def start(self) -> None:
        self.cache.start()

    def package(self) -> str:
        """Where the package lies that this process runs."""
        return str(Path(colocache.__file__).parent)

    def begin_work(self, slot: int, slots: int, seed: float) -> None:
        UnderWay(self._directory, slots).clear(slot)
        self._work = Work(self.cache, self._directory, slot, slots, seed, self._hosts)

    def end_work(self) -> None:
        if self._work is not None:
            self._work.finish()

    def is_current(self, within: float) -> bool:
        return sight.is_current(self.cache, self._hosts, within)

    def ages(self) -> dict[str, float]:
        return sight.ages(self.cache)

    def gateway(self, host: str) -> int:
        return sight.gateway(self.cache, host)

    def clear(self) -> bool:
        return bool(self.cache.clear().complete)

    def change(self, key: str) -> tuple[int, bool, int]:
        """Change a key in the source, and invalidate it; its version, and of the receipt: complete, and how many."""
        register = Register(self._directory)
        version = register.write([key])[key]
        register.close()
        space = self.cache.namespace(SPACE[key]) if SPACE[key] else self.cache
        receipt = space.invalidate(key)
        return version, receipt.complete and not receipt.waited_out, receipt.hosts

    def read_register(self, keys: list[str]) -> dict[str, int]:
        register = Register(self._directory)
        spaces = {path: self.cache.namespace(path) if path else self.cache for path in SPACES}
        versions = {}
        for key in keys:
            value = spaces[SPACE[key]].get_or_load(key, lambda key=key: value_of(key, register.read(key)))
            versions[key] = version_of(key, value)
        register.close()
        return versions


def main(directory: str, kind: str, hosts: str) -> None:
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {os.getpid()} %(levelname)s %(message)s")
    worker = HostWorker(directory, kind, int(hosts))
    serve(worker, sys.stdin.buffer, sys.stdout.buffer)  # type: ignore[arg-type]
    worker.cache.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
