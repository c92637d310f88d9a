"""The load of `soak.py` beside the reading and writing of `work.py`: keys and tags that nobody ever uses again."""

from __future__ import annotations

import threading
from itertools import count

import colocache


class Churn(threading.Thread):
    """Reads new keys, which expire; if it ``writes``, it invalidates every tenth, and each hundred by its tag."""

    def __init__(self, cache: colocache.Cache, name: str, *, pause: float, writes: bool) -> None:
        super().__init__()
        self._space = cache.namespace("churn", ttl=5)
        self._name = name
        self._pause = pause
        self._writes = writes
        self._enough = threading.Event()
        self.start()

    def run(self) -> None:
        for number in count():
            if self._enough.wait(self._pause):
                return
            key, tag = f"{self._name}.{number}", f"{self._name}.{number // 100}"
            self._space.get_or_load(key, lambda: bytes(500), tags=(tag,))
            if not self._writes:
                continue
            if number % 100 == 99:
                self._space.invalidate_tags(tag)
            elif number % 10 == 9:
                self._space.invalidate(key)

    def finish(self) -> None:
        """End the thread."""
        self._enough.set()
        self.join()
