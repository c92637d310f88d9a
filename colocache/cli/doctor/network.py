"""What is wrong between the hosts of a group."""

from __future__ import annotations

import socket
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from ...errors import ConfigError
from ..target import has_settings_of_hosts
from .finding import Finding, Situation

if TYPE_CHECKING:
    from ...hosts import HostInfo
    from ...runtime.network.peers import Address, Item
    from ...runtime.network.settings import Settings

PATIENCE: Final = 6.0  # s that all listed hosts together have for an answer
MOST: Final = 64  # addresses that are dialled


def settings(situation: Situation) -> Iterator[Finding]:
    """Look whether the settings about hosts fit what runs here."""
    here, wanted = situation.hosts_known, has_settings_of_hosts(situation.environ)
    if here is True and not wanted:
        yield Finding(
            "hosts-settings", "note", "the group has several hosts, and neither COLOCACHE_LISTEN nor COLOCACHE_PEERS "
            "is set "
            "in this environment: other hosts are not dialled, and `colocache invalidate` cannot join from here",
            "run this with the environment of the workers",
        )  # fmt: skip
    elif here is False and wanted:
        yield Finding(
            "hosts-settings", "error", "the processes of the group were started for one host, and this environment "
            "is for "
            "several (COLOCACHE_LISTEN or COLOCACHE_PEERS): processes with these settings cannot join",
            "give all processes of the group on this host the same settings, and start them anew",
        )  # fmt: skip


def known(situation: Situation, hosts: Sequence[HostInfo]) -> Iterator[Finding]:
    """Look at what this host knows of the others."""
    for each in hosts:
        if each.me and each.state != "current":
            yield Finding(
                "host-behind", "error", f"this host is {each.state}: it "
                + ("has not heard all others yet, and serves nothing" if each.state == "joining" else "does not hear "
                "all "
                   "others, and serves only what is younger than a few seconds"),
                "see below which hosts do not answer. A host that has ended without a word is given up after half a "
                "minute",
            )  # fmt: skip
        elif each.state in ("silent", "forgotten"):
            heard = "" if each.age is None else f" for {each.age:.0f} seconds"
            yield Finding(
                "host-silent", "error", f"the host {each.name} ({each.address or 'a client'}) is {each.state}: it "
                "has said "
                f"nothing{heard}", "see whether it runs, whether a firewall is between, and its log",
            )  # fmt: skip
    for name, number in Counter([each.name for each in hosts if each.state != "forgotten"]).items():
        if number > 1:
            yield Finding(
                "host-name", "error", f"{number} hosts are called {name!r}",
                "give processes that share a machine the same COLOCACHE_DIR, and others another COLOCACHE_HOST",
            )  # fmt: skip
    releases = {each.version for each in hosts if each.version}
    if len(releases) > 1:
        yield Finding(
            "versions-differ", "note", f"the hosts run several versions of colocache: {', '.join(sorted(releases))}",
            "nothing, during an update. Otherwise install one version",
        )  # fmt: skip


def reach(situation: Situation) -> Iterator[Finding]:
    """Dial the hosts that are listed, with the secret of this environment."""
    if not has_settings_of_hosts(situation.environ):
        return
    from ...config import Config

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `surroundings` tells what is unknown
            arguments = {"group": situation.target.group, "disabled": False, "private": False}
            given = Config.resolve(arguments, situation.environ).hosts()
    except (ConfigError, TypeError, OSError) as error:
        yield Finding("hosts-settings", "error", str(error), "correct that, in the environment of all processes")
        return
    wanted: dict[Address, str] = {}
    for item in given.peers:
        try:
            for address in _addresses(item):
                wanted.setdefault(address, str(item))
        except OSError as error:
            yield Finding(
                "host-unknown", "error", f"COLOCACHE_PEERS lists {item}, which cannot be looked up: {error}",
                "correct the name, or the name server",
            )  # fmt: skip
    yield from _dial(given, dict([*wanted.items()][:MOST]))


def _addresses(item: Item) -> Iterator[Address]:
    """Return the addresses of an item of the list. Services are looked up by the workers alone."""
    from ...runtime.network.peers import Address, ListFile, Literal, Name, parse_lines

    if isinstance(item, Literal):
        yield item.address
    elif isinstance(item, Name):
        for *_, found in socket.getaddrinfo(item.name, item.port, type=socket.SOCK_STREAM):
            yield Address(str(found[0]), item.port)
    elif isinstance(item, ListFile):
        with open(item.path, encoding="utf-8") as file:
            for each in parse_lines(file.read()).items:
                yield from _addresses(each)


def _dial(given: Settings, wanted: dict[Address, str]) -> Iterator[Finding]:
    from ...runtime.network.dialling import State
    from ...runtime.network.probe import probe

    names = {address: item if item == str(address) else f"{item} ({address})" for address, item in wanted.items()}
    try:
        found = probe(names, given, PATIENCE)
    except ConfigError as error:  # libzmq cannot encrypt
        yield Finding("hosts-settings", "error", str(error), "install pyzmq from its wheel")
        return
    for address, (state, trouble) in found.items():
        if state is State.REFUSED:
            yield Finding(
                "secret", "error", f"{trouble}: it has another one, or another group",
                "give all hosts of the group the same COLOCACHE_SECRET_FILE, or COLOCACHE_SECRET, and the same group",
            )  # fmt: skip
        elif state is not State.CONNECTED:
            yield Finding(
                "host-unreachable", "error", trouble or f"{names[address]} does not answer",
                "see whether colocache runs there, with that address in COLOCACHE_LISTEN, and whether a firewall is "
                "between",
            )  # fmt: skip
