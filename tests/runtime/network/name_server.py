"""A name server for tests, on a UDP port of its own: records, errors, or silence. Only what RFC 1035 needs."""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
from collections.abc import Iterable
from typing import Final

A, AAAA, SRV = 1, 28, 33
NOERROR, SERVFAIL, NXDOMAIN = 0, 2, 3
SILENCE: Final = -1

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

    A name that the zone does not have is an NXDOMAIN. ``asked`` counts the questions.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.zone: dict[str, list[Record] | int] = {}
        self.asked = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, port))
        self.host, self.port = self._socket.getsockname()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> NameServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", (self.host, self.port))
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
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
        while question[position]:
            end = position + 1 + question[position]
            labels.append(question[position + 1 : end].decode().lower())
            position = end
        kind = int.from_bytes(question[position + 1 : position + 3], "big")
        found = self.zone.get(".".join(labels), NXDOMAIN)
        if found == SILENCE:
            return b""
        error, records = (found, []) if isinstance(found, int) else (NOERROR, _of_kind(found, kind))
        header = question[:2] + struct.pack("!HHHHH", 0x8180 | error, 1, len(records), 0, 0)
        return header + question[12 : position + 5] + b"".join(_written(*record) for record in records)


def _of_kind(records: Iterable[Record], kind: int) -> list[Record]:
    return [record for record in records if record[0] == kind]


def _written(kind: int, data: bytes) -> bytes:
    return b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 5, len(data)) + data  # its name is that of the question


def _name(text: str) -> bytes:
    labels = [label.encode() for label in text.split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
