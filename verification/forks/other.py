"""Another process of the group of `forks.py`, which must notice nothing: it reads and writes until it is over."""

from __future__ import annotations

import json
import sys
import time
import traceback
from pathlib import Path

import colocache
from verification.forks.truth import COUNTER, HUSH, HUSHED, IS_OVER, KEYS, LONGEST, OTHERS, WRITES, Truth

PAUSE = 0.003  # s


def main(directory: str, settings: str) -> None:
    truth, cache = Truth(Path(directory)), colocache.Cache("forks", **json.loads(settings))
    cache.start()
    print("ready", flush=True)
    while not truth.words[IS_OVER]:
        truth.words[HUSHED] = truth.words[HUSH]
        if truth.words[HUSH] % 2:
            time.sleep(0.001)
            continue
        began = time.monotonic()
        try:
            if not truth.write(OTHERS, cache.invalidate).complete:
                truth.complain("the other process", wrong="an invalidation is not complete")
            for key in KEYS:
                wrong = truth.read(key, cache.get_or_load)
                if wrong:
                    truth.complain("the other process", wrong=wrong)
        except Exception:
            truth.complain("the other process", error=traceback.format_exc())
        truth.words[WRITES] += 1
        truth.words[LONGEST] = max(truth.words[LONGEST], int(1e6 * (time.monotonic() - began)))
        time.sleep(PAUSE)
    truth.words[COUNTER] = cache.get("counter", 0)
    cache.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
