"""``host_process.py DIRECTORY NAME ADDRESS PEERS``: a process of a host, for tests, until its standard input ends.

It prints ``gateway`` once it speaks for its host. For each line of its input it appends an event, and prints ``told``
once all other hosts have acknowledged it. The line ``goodbye`` makes it leave as the last process of its host.
"""

from __future__ import annotations

import sys
from pathlib import Path

from colocache.core.hosts.event import Position
from colocache.core.hosts.rows import ACKED
from colocache.runtime.network.addresses import parse_listen
from colocache.runtime.network.peers import parse_peers
from colocache.runtime.network.settings import Settings

from .driven import PATIENCE, HostMemory, Process, until


def main() -> None:
    """Run until the input ends."""
    directory, name, address, peers = sys.argv[1:]
    settings = Settings(group="shop", name=name, listen=parse_listen(address), peers=parse_peers(peers))
    process = Process(HostMemory(Path(directory)), settings)
    process.network.start()
    print("runs", flush=True)
    until(lambda: process.network.is_gateway, patience=3600.0)
    print("gateway", flush=True)
    for line in sys.stdin:
        if line == "goodbye\n":
            process.network.say_goodbye()
            break
        position = process.append(int(line))
        until(lambda position=position: _is_told(process, position))  # type: ignore[misc]
        print("told", flush=True)
    process.network.close(PATIENCE)


def _is_told(process: Process, position: Position) -> bool:
    rows, (lane, number) = process.memory.rows, position
    return bool(rows.live()) and all(rows.largest(id, ACKED + lane) >= number for id in rows.live())


if __name__ == "__main__":
    main()
