"""Times hits of the colocache that Python finds first, each time it is asked to. `hit.py` compares two versions so.

It reads names from its standard input, one a line, and answers each with seconds per hit, by the time of its thread.
"""

from __future__ import annotations

import sys
from time import thread_time

from benchmarks.contenders import KEYS, Stage, colocache_cached, colocache_get, one_argument
from benchmarks.measure import looped, passes, quiet


def main() -> None:
    """Answer until the input ends."""
    with Stage() as stage:
        reads = {
            "loop": ("pass", {}), "get": colocache_get(stage), "function": one_argument(colocache_cached(stage))
        }  # fmt: skip
        works = {name: passes(read, KEYS) for name, read in reads.items()}
        for work in works.values():
            work(2)  # what is set before is near from then on; misses, where a function is to be cached
        samplers = {name: looped(work, len(KEYS), 0.01, thread_time) for name, work in works.items()}
        with quiet():
            for line in sys.stdin:
                [seconds] = samplers[line.strip()]()
                print(seconds, flush=True)


if __name__ == "__main__":
    main()
