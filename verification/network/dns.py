"""A name server on a UDP port of its own: records, errors, or silence. Only what RFC 1035 and RFC 2782 need.

In a thread, for a test that asks it itself::

    with NameServer() as server:
        server.zone["shop"] = [address("10.77.0.1"), srv(0, 0, 7400, "h1.hosts")]

As a process, for those that are in a network namespace: ``python -m verification.network.dns ADDRESS PORT FILE``. It
reads its zone from the file before each answer, so a `ZoneFile` changes what it says from one question to the next.
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final

A, AAAA, SRV = 1, 28, 33
NOERROR, SERVFAIL, NXDOMAIN = 0, 2, 3
SILENCE: Final = -1
TTL: Final = 5  # s

Record = tuple[int, bytes]


def address(text: str) -> Record:
    """Return an A or AAAA record."""
    found = ipaddress.ip_address(text)
    return (A if found.version == 4 else AAAA), found.packed


def srv(priority: int, weight: int, port: int, target: str) -> Record:
    """Return an SRV record."""
    return SRV, struct.pack("!HHH", priority, weight, port) + _name(target)


class NameServer:
    """Answers what ``zone`` says of a name in small letters: records, or an error, or `SILENCE`. Use it as a context.

    A name that the zone does not have is an NXDOMAIN. ``asked`` counts the questions. The zone may be changed by any
    thread at any moment. What is no question is not answered.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, look_up: Callable[[str], list[Record] | int] | None = None
    ) -> None:
        """Raise OSError if the port cannot be had. With ``look_up``, that is asked and not the zone."""
        self.zone: dict[str, list[Record] | int] = {}
        self._look_up = look_up or (lambda name: self.zone.get(name, NXDOMAIN))
        self.asked = 0
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, port))
        self.host, self.port = self._socket.getsockname()[:2]
        self._thread = threading.Thread(target=self.serve, daemon=True)

    def __enter__(self) -> NameServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(self._socket.family, socket.SOCK_DGRAM) as last:
            last.sendto(b"", (self.host, self.port))
        self._thread.join()
        self._socket.close()

    def serve(self) -> None:
        """Answer until an empty datagram comes."""
        while True:
            question, asker = self._socket.recvfrom(4096)
            if not question:
                return
            self.asked += 1
            answer = self._answer(question)
            if answer:
                self._socket.sendto(answer, asker)

    def _answer(self, question: bytes) -> bytes:
        labels, position = [], 12
        try:
            while question[position]:
                end = position + 1 + question[position]
                labels.append(question[position + 1 : end].decode().lower())
                position = end
        except (IndexError, UnicodeDecodeError):
            return b""
        kind = int.from_bytes(question[position + 1 : position + 3], "big")
        found = self._look_up(".".join(labels))
        if found == SILENCE:
            return b""
        error, records = (found, []) if isinstance(found, int) else (NOERROR, _of_kind(found, kind))
        header = question[:2] + struct.pack("!HHHHH", 0x8180 | error, 1, len(records), 0, 0)
        return header + question[12 : position + 5] + b"".join(_written(*record) for record in records)


class ZoneFile(dict[str, "list[Record] | int"]):
    """A zone in a file, for a name server that is another process. What is assigned is said from then on."""

    def __init__(self, path: Path) -> None:
        """Begin with what the file says, if there is one."""
        super().__init__()
        self.path = path
        if path.exists():
            self._read()
        else:
            self._write()

    def __setitem__(self, name: str, found: list[Record] | int) -> None:
        """Have a name stand for records, or for an error, or for `SILENCE`."""
        super().__setitem__(name, found)
        self._write()

    def __delitem__(self, name: str) -> None:
        """Have a name be an NXDOMAIN. Raise KeyError if it is one already."""
        super().__delitem__(name)
        self._write()

    def _write(self) -> None:
        said = {
            name: found if isinstance(found, int) else [[kind, data.hex()] for kind, data in found]
            for name, found in self.items()
        }
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps(said))
        os.replace(fresh, self.path)  # so nobody reads half of it

    def _read(self) -> None:
        for name, found in json.loads(self.path.read_text()).items():
            read = found if isinstance(found, int) else [(kind, bytes.fromhex(data)) for kind, data in found]
            super().__setitem__(name, read)


def _look_up(path: Path, name: str) -> list[Record] | int:
    """What a `ZoneFile` of another process says at the moment."""
    return ZoneFile(path).get(name, NXDOMAIN)


def _of_kind(records: Iterable[Record], kind: int) -> list[Record]:
    return [record for record in records if record[0] == kind]


def _written(kind: int, data: bytes) -> bytes:
    return b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, TTL, len(data)) + data  # its name is that of the question


def _name(text: str) -> bytes:
    labels = [label.encode() for label in text.split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def main(host: str, port: str, path: str) -> None:
    """Serve, and say so by one line once questions can come. Never returns by itself."""
    server = NameServer(host, int(port), partial(_look_up, Path(path)))
    print("serves", flush=True)
    server.serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
