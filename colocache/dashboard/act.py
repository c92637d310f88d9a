"""``python -m colocache.dashboard.act``: join a group for a moment, invalidate something, and leave.

What is wanted comes by stdin as JSON, and what has come of it goes to stdout likewise. It never makes a group's memory
where there is none: what is invalidated there would reach nobody.
"""

from __future__ import annotations

import json
import sys

from .. import Cache
from ..runtime.observer import Observer
from .source import Action, carry_out


def main() -> int:
    """Do what stdin says."""
    wanted = json.load(sys.stdin)
    group, directory = wanted["group"], wanted["directory"]
    with Observer(group, directory) as observer:
        capacity = min(max(observer.geometry.capacity, 1 << 20), 64 << 30)
    action = Action(wanted["kind"], wanted["name"], bytes.fromhex(wanted["wire"]))
    settings = {} if directory is None else {"directory": directory}
    with Cache(group, memory=1 << 20, shelf=capacity, disabled=False, private=False, **settings) as cache:
        cache.start()
        outcome = carry_out(cache, action)
    text = "" if outcome.processes > 1 or outcome.hosts > 1 else "no other process of the group was there"
    print(json.dumps({
        "complete": outcome.complete, "processes": outcome.processes, "hosts": outcome.hosts, "text": text,
    }))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
