"""The program of the other process in `colocache.testing.group`."""

from __future__ import annotations

import sys
from multiprocessing.connection import Connection

from .group import answer_calls
from .life import in_place_of_settings

if __name__ == "__main__":
    with in_place_of_settings(private=False, directory=sys.argv[2]), Connection(int(sys.argv[1])) as calls:
        answer_calls(calls)
