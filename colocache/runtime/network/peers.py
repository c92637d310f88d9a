"""What ``COLOCACHE_PEERS`` lists: where the other hosts of the group may be found. Pure.

The items stand between commas:

============================  ==========================================================================
``web1:7400``                 a name of one host or of several, with the port: all its addresses count
``10.0.0.5:7400``             an address
``[2001:db8::1]:7400``        an IPv6 address, which stands in brackets
``srv:_colocache._tcp.shop``  a name whose SRV records say hosts and ports; needs ``colocache[srv]``
``file:/run/peers``           a file of such items, one in a line, with comments after ``#``
============================  ==========================================================================

A name is lower-cased, and an address gets the one form that it is compared by, so equal items are one.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple, TypeAlias

from ...errors import ConfigError
from ...naming import shown

MAX_ITEMS: Final = 1000  # that one host knows of, those of files and of SRV records among them
MAX_NAME: Final = 253  # letters, as DNS has it (RFC 1035 §2.3.4)
MAX_PATH: Final = 4095  # bytes, as Linux has it

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")  # with "_", which names in containers may have
_LOOKS_LIKE_A_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_SHOWN: Final = 120  # letters of an item in an error


class Address(NamedTuple):
    """Where a host listens: an IP address in its one form, and a port from 1 to 65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def endpoint(self) -> str:
        """The address as ZeroMQ writes it."""
        return f"tcp://{self}"

    @property
    def is_loopback(self) -> bool:
        """Whether only processes of this host listen there."""
        return ip_address(self.host).is_loopback


@dataclass(frozen=True, slots=True)
class Literal:
    """An item that is an address."""

    address: Address

    def __str__(self) -> str:
        return str(self.address)


@dataclass(frozen=True, slots=True)
class Name:
    """An item that is a name of a host or of several, to be looked up."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class Service:
    """An item whose SRV records are to be looked up."""

    name: str

    def __str__(self) -> str:
        return f"srv:{self.name}"


@dataclass(frozen=True, slots=True)
class ListFile:
    """An item whose lines are to be read."""

    path: str

    def __str__(self) -> str:
        return f"file:{self.path}"


Item: TypeAlias = Literal | Name | Service | ListFile


@dataclass(frozen=True, slots=True)
class Lines:
    """What a text lists: the items that can be used, and what is wrong with the first line that cannot."""

    items: tuple[Item, ...] = field(default=())
    wrong: str = ""


def parse_peers(text: str, variable: str = "COLOCACHE_PEERS") -> tuple[Item, ...]:
    """Return the items of a text, each once, in their order. Items that are empty count as absent.

    Raise ConfigError, which names ``variable`` and the item, and gives an example, if an item cannot be used, or if
    there are more than `MAX_ITEMS`. Any thread may call it.
    """
    items: dict[Item, None] = {}
    for number, part in enumerate(text.split(","), 1):
        try:
            item = _parse(part.strip())
        except _Wrong as wrong:
            raise ConfigError(f"{variable}, item {number}, {shown(part.strip(), _SHOWN)}: {wrong}") from None
        if item is not None:
            items[item] = None
        if len(items) > MAX_ITEMS:
            raise ConfigError(
                f"{variable} lists more than {MAX_ITEMS} items: list a name that has the addresses of all hosts, such "
                "as that of a headless service: shop-peers.default.svc:7400"
            )
    return tuple(items)


def parse_lines(text: str) -> Lines:
    """Return what the text of a file lists. Raise nothing: what is wrong goes to the log, and the rest is used."""
    items: dict[Item, None] = {}
    wrong = ""
    for number, line in enumerate(text.splitlines(), 1):
        try:
            item = _parse(line.partition("#")[0].strip(), in_file=True)
        except _Wrong as error:
            wrong = wrong or f"line {number}, {shown(line.strip(), _SHOWN)}: {error}"
            continue
        if item is None or item in items:
            continue
        if len(items) == MAX_ITEMS:
            wrong = wrong or f"line {number} and those below it are left out: {MAX_ITEMS} items are allowed"
            break
        items[item] = None
    return Lines(tuple(items), wrong)


def target(name: str, port: int) -> Name | None:
    """Return the item that an SRV record names, or None if the record names nothing that can be used.

    A target that is the root says that there is no such service (RFC 2782).
    """
    try:
        return Name(_name(name.lower().rstrip("."), "") + ".", _in_range(port, ""))
    except _Wrong:
        return None


def usable(host: str, port: int) -> Address | None:
    """Return what the system or DNS gives as an address of a host, in its one form, or None if no host has it."""
    try:
        found = ip_address(host)
    except ValueError:
        return None
    return None if _why_nobodys(found) or not 1 <= port <= 65535 else Address(_one_form(found), port)


class _Wrong(ValueError):
    """What is wrong with an item, and an example."""


def _parse(text: str, in_file: bool = False) -> Item | None:
    if not text:
        return None
    if not text.isprintable():
        raise _Wrong("it has a control character in it: put a comma between items, as in web1:7400,web2:7400")
    kind, colon, rest = text.partition(":")
    # A host may be called "srv" or "file", and then digits follow.
    special = kind.lower() if colon and kind.lower() in ("srv", "file") and not rest.isdecimal() else ""
    if special == "file":
        return _list_file(rest, in_file)
    if "," in text:
        raise _Wrong("give one item in each line")
    if any(letter.isspace() for letter in text):
        raise _Wrong(
            "it has a space in it: " + ("give one item in each line" if in_file else "put a comma between items")
        )
    if special == "srv":
        return _service(rest)
    return _host_and_port(text)


def _list_file(path: str, in_file: bool) -> ListFile:
    if in_file:
        raise _Wrong("a file cannot list another file: list that one in COLOCACHE_PEERS")
    if not posixpath.isabs(path):
        raise _Wrong("the path must be absolute, as in file:/etc/colocache/peers")
    if len(path.encode("utf-8", "surrogateescape")) > MAX_PATH:
        raise _Wrong(f"the path is longer than {MAX_PATH} bytes: give a shorter one, as in file:/etc/colocache/peers")
    return ListFile("/" + posixpath.normpath(path).lstrip("/"))


def _service(name: str) -> Service:
    example = "give the name of SRV records, as in srv:_colocache._tcp.shop.example.com"
    if ":" in name:
        raise _Wrong(f"the SRV records say the ports, so none is given: {example}")
    return Service(_name(name.lower(), example))


def _host_and_port(text: str) -> Item:
    example = "give a host and a port, as in web1:7400, 10.0.0.5:7400 or [2001:db8::1]:7400"
    scheme = _SCHEME.match(text)
    if scheme:
        raise _Wrong(f"it is a URL: leave {scheme[0]} out, and {example}")
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket:
            raise _Wrong(f"the bracket is not closed: {example}")
        if port and not port.startswith(":"):
            raise _Wrong(f"there is no colon after the bracket: {example}")
        return Literal(Address(_address(host, IPv6Address, example), _port(port[1:], example)))
    if text.count(":") > 1:
        raise _Wrong(f"an IPv6 address stands in brackets: {example}")
    host, _, port = text.partition(":")
    host = host.lower()
    if not host:
        raise _Wrong(f"it has no host: {example}")
    number = _port(port, example)
    if _LOOKS_LIKE_A_NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        return Literal(Address(_address(host, IPv4Address, example), number))
    return Name(_name(host, example), number)


def _port(text: str, example: str) -> int:
    if not text:
        raise _Wrong(f"it has no port: {example}")
    if not (text.isascii() and text.isdecimal() and len(text) <= 5):
        raise _Wrong(f"the port {shown(text, 20)} is not a number from 1 to 65535: {example}")
    return _in_range(int(text), example)


def _in_range(port: int, example: str) -> int:
    if not 1 <= port <= 65535:
        raise _Wrong(f"the port {port} is not a number from 1 to 65535: {example}")
    return port


def _address(host: str, kind: type[IPv4Address] | type[IPv6Address], example: str) -> str:
    try:
        found = kind(host)
    except ValueError:
        which = "an IPv4 address" if kind is IPv4Address else "an IPv6 address"
        raise _Wrong(f"{shown(host, 60)} is not {which}: {example}") from None
    why = _why_nobodys(found)
    if why:
        raise _Wrong(f"{host} {why}: {example}")
    return _one_form(found)


def _why_nobodys(address: IPv4Address | IPv6Address) -> str:
    """Return why no host can have an address, or an empty text."""
    plain = (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address
    if plain.is_unspecified:
        return "is where a host listens, and not where others find it"
    if plain.is_multicast or plain == IPv4Address("255.255.255.255"):
        return "is not the address of one host"
    return ""


def _one_form(address: IPv4Address | IPv6Address) -> str:
    """Return an address as it is compared. An IPv4 address that is mapped into IPv6 is the same host's."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _name(name: str, example: str) -> str:
    labels = name.removesuffix(".").split(".")
    if not name.isascii():
        raise _Wrong(f"the name has letters that DNS does not have: give its form that begins with xn--; {example}")
    if len(name) > MAX_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        raise _Wrong(f"{shown(name, 60)} is not a name of a host: {example}")
    return name
