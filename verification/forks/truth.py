"""What the processes of `forks.py` share: the source of truth, what is acknowledged, and what they found wrong."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORDS = 512
FLOORS = 64  # the first word of them
POINT, IS_OVER, COUNTED, WRITES, LONGEST, COUNTER = 128, 129, 130, 131, 132, 133
HUSH, HUSHED = 134, 135  # while the first is odd, the other process pauses; then the second is the same

OTHERS, PARENTS, CHILDS = "k0", "k1", "k2"  # keys, by who writes them
KEYS = (OTHERS, PARENTS, CHILDS)


class Truth:
    """Versions by key: what the source has, and the floor below which nobody may read. A key has one writer."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "truth"
        self._complaints = directory / "complaints"
        if not self._path.exists():
            self._path.write_bytes(bytes(8 * WORDS))
        with open(self._path, "r+b") as file:
            self.words = memoryview(mmap.mmap(file.fileno(), 8 * WORDS)).cast("Q")

    def version(self, key: str) -> int:
        """What the source has."""
        return self.words[int(key[1:])]

    def floor(self, key: str) -> int:
        """The version of the last invalidation that has returned and was complete."""
        return self.words[FLOORS + int(key[1:])]

    def write(self, key: str, invalidate: Callable[[str], Any]) -> Any:
        """Commit a new version, and invalidate; return the receipt."""
        self.words[int(key[1:])] = version = self.version(key) + 1
        receipt = invalidate(key)
        if receipt.complete:
            self.words[FLOORS + int(key[1:])] = version
        return receipt

    def read(self, key: str, get_or_load: Callable[[str, Callable[[], int]], int]) -> str:
        """Read a key, and say what is wrong with what was read."""
        floor = self.floor(key)
        version = get_or_load(key, lambda: self.version(key))
        return f"{key} is {version}, and {floor} was acknowledged before the read" if version < floor else ""

    def complain(self, of: str, **details: Any) -> None:
        """Note something wrong. One write to a file that is appended to is never torn."""
        line = json.dumps({"of": of, "point": self.words[POINT], **details}) + "\n"
        number = os.open(self._complaints, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(number, line.encode())
        os.close(number)

    def complaints(self) -> list[dict[str, Any]]:
        """What was found wrong so far."""
        lines = self._complaints.read_text().splitlines() if self._complaints.exists() else []
        return [json.loads(line) for line in lines]
