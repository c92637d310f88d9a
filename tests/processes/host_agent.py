"""A process of one of several hosts, told by lines of JSON what to do with its cache."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from typing import Any

from colocache import Cache
from colocache.runtime.waiting.answers import Answer
from colocache.runtime.waiting.threads import ThreadErrands, start_driver


def main() -> None:
    """Carry out one order after another: a name and arguments; answer each with a line."""
    cache = Cache()
    cache.start()
    loads: list[str] = []

    def is_current() -> bool:
        host = cache._member.own_host()
        return host is not None and host.is_current()

    def current_until() -> float:
        """Return an instant of the clock that all processes of this machine share."""
        host = cache._member.own_host()
        assert host is not None
        assert host.hosts is not None
        return host.hosts.lease.until(time.monotonic())

    def hosts() -> int:
        host = cache._member.own_host()
        assert host is not None
        assert host.hosts is not None
        return 1 + len(host.hosts.everybody())

    def load_all(keys: list[str]) -> int:
        def load(key: str) -> str:
            loads.append(key)
            time.sleep(0.01)  # what takes so long to load is worth a copy
            return f"the value of {key}"

        before = len(loads)
        for key in keys:
            assert cache.get_or_load(key, lambda key=key: load(key)) == f"the value of {key}"
        return len(loads) - before

    def begin_to_load(key: str) -> bool:
        has_begun = threading.Event()

        def load() -> None:
            has_begun.set()
            threading.Event().wait()  # until the process is killed

        threading.Thread(target=lambda: cache.get_or_load(key, load), daemon=True).start()
        return has_begun.wait(60.0)

    def on_a_driver(name: str, *arguments: Any) -> Any:
        """Carry out an order where a finalizer can come to run: on a thread of the cache."""
        done, errands = Answer(), ThreadErrands()
        start_driver(lambda: done.give(orders[name](*arguments)), "driver", errands, done.give)
        return done.result(60.0)

    def fork() -> int:
        """Fork: the child uses nothing, and lives until it is killed."""
        pid = os.fork()
        while not pid:
            signal.pause()
        return pid

    def is_gateway() -> bool:
        host = cache._member.own_host()
        assert host is not None
        return host.speaks(host.region.seat.number)

    orders: dict[str, Any] = {
        "on_a_driver": on_a_driver, "fork": fork, "is_gateway": is_gateway, "receipt": cache.invalidate,
        "is_current": is_current, "current_until": current_until, "hosts": hosts,
        "load": load_all, "set": cache.set, "get": cache.get,
        "copied": lambda: cache.stats().copied, "invalidate": lambda key: cache.invalidate(key).complete,
        "close": cache.close, "begin_to_load": begin_to_load,
    }  # fmt: skip
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(orders[name](*arguments)), flush=True)


if __name__ == "__main__":
    main()
