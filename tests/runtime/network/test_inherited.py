"""Connections that a forked child closes, and those that it leaves alone."""

from __future__ import annotations

import os
import socket as system
from contextlib import ExitStack

import pytest

from colocache.runtime.network import inherited
from colocache.runtime.network.inherited import close_connections
from colocache.runtime.network.peers import Address


def is_open(number: int) -> bool:
    """Tell whether a descriptor is open."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("family", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_only_the_connections_of_the_network_are_closed(family: str) -> None:
    kind = system.AF_INET6 if ":" in family else system.AF_INET
    with ExitStack() as owned:

        def listener() -> system.socket:
            made = owned.enter_context(system.socket(kind, system.SOCK_STREAM))
            if kind == system.AF_INET6:
                made.setsockopt(system.IPPROTO_IPV6, system.IPV6_V6ONLY, 0)
            try:
                made.bind((family, 0))
            except OSError:
                pytest.skip("there is no IPv6 here")
            made.listen()
            return made

        def connection(to: system.socket) -> tuple[system.socket, system.socket]:
            made = owned.enter_context(system.socket(kind, system.SOCK_STREAM))
            made.connect(to.getsockname())
            return made, owned.enter_context(to.accept()[0])

        ours, theirs, others = listener(), listener(), listener()
        from_them, accepted = connection(ours)
        to_them, _ = connection(theirs)
        to_others, accepted_of_others = connection(others)
        datagrams = owned.enter_context(system.socket(system.AF_INET, system.SOCK_DGRAM))
        datagrams.bind(("127.0.0.1", ours.getsockname()[1]))
        local, remote = (owned.enter_context(each) for each in system.socketpair())
        reader, writer = os.pipe()
        closed = [ours, accepted, to_them]
        left = [others, to_others, accepted_of_others, datagrams, local, remote]
        port, peer = ours.getsockname()[1], Address(family.removeprefix("::ffff:"), theirs.getsockname()[1])
        from_them.close()
        pid = os.fork()
        if not pid:
            code = 2
            try:
                close_connections(port, {peer})
                well = not any(is_open(each.fileno()) for each in closed)
                code = 0 if well and all(is_open(each.fileno()) for each in left) and is_open(reader) else 1
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        os.close(reader)
        os.close(writer)


def test_where_this_host_does_not_listen_sockets_that_are_not_bound_stay_open() -> None:
    with system.socket() as fresh:
        pid = os.fork()
        if not pid:
            close_connections(0, ())
            os._exit(0 if is_open(fresh.fileno()) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_nothing_is_raised_where_descriptors_cannot_be_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inherited, "_PLACES", ("/nowhere",))
    close_connections(1, ())
