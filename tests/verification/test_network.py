"""The networks, the proxy and the name server by which several hosts are tested, without any cache between hosts."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Until
from verification import ROOT
from verification.network import namespaces
from verification.network.dns import NXDOMAIN, SERVFAIL, ZoneFile, address, srv
from verification.network.namespaces import Loopback, Namespaces, Network, why_not, why_not_slow
from verification.network.proxy import Proxy, Remote

#: Sends what it reads from its standard input to a host, and prints what comes; datagrams, which nobody repeats.
DATAGRAMS = """
import os, select, socket, sys
own = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
own.bind((sys.argv[1], 7400))
print("ready", flush=True)
while True:
    for able in select.select([own, 0], [], [])[0]:
        if able == 0:
            line = os.read(0, 4096)
            if not line:
                sys.exit()
            for each in line.split():
                to, _, what = each.partition(b"=")
                try:
                    own.sendto(what, (to.decode(), 7400))
                except OSError as error:
                    print(f"refused {type(error).__name__}", flush=True)
                print("sent", flush=True)
        else:
            print(own.recv(4096).decode(), flush=True)
"""

#: A server that says what it hears.
ECHO = """
import socket, sys, threading
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print(listener.getsockname()[1], flush=True)
def serve(connection):
    try:
        while data := connection.recv(65536):
            connection.sendall(data)
    except OSError:
        pass
    connection.close()
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


class Talker:
    """A process in a host that sends and prints datagrams."""

    def __init__(self, net: Network, host: str, own: str) -> None:
        pipe: Any = subprocess.PIPE
        self.process = net.start(host, [sys.executable, "-c", DATAGRAMS, own], stdin=pipe, stdout=pipe, text=True)
        self._heard: list[str] = []
        assert self.hear() == "ready"

    def send(self, to: str, what: str) -> None:
        """Send, and return when the kernel has it: what is lost is lost now."""
        self.process.stdin.write(f"{to}={what}\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        while (line := self._line()) != "sent":
            self._heard.append(line)

    def hear(self) -> str:
        return self._heard.pop(0) if self._heard else self._line()

    def _line(self) -> str:
        return self.process.stdout.readline().strip()  # type: ignore[union-attr, no-any-return]

    def close(self) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.stdout.close()  # type: ignore[union-attr]


def needs_namespaces() -> None:
    if why_not():
        pytest.skip(why_not())


@pytest.fixture
def net() -> Iterator[Namespaces]:
    needs_namespaces()
    with Namespaces(3) as made:
        yield made


@pytest.fixture
def talkers(net: Namespaces) -> Iterator[list[Talker]]:
    made = [Talker(net, host.name, host.address) for host in net.hosts]
    yield made
    for each in made:
        each.close()


# --- Namespaces


def test_a_one_way_cut_stops_one_way_and_a_heal_ends_it(net: Namespaces, talkers: list[Talker]) -> None:
    first, second, third = talkers
    net.cut("h1", "h2", one_way=True)
    assert net.cuts == {("h1", "h2")}
    first.send("10.77.0.2", "lost")
    second.send("10.77.0.1", "comes")
    assert first.hear() == "comes"
    first.send("10.77.0.3", "comes")
    assert third.hear() == "comes", "a third host is not concerned"
    third.send("10.77.0.2", "other")
    assert second.hear() == "other", "what the first one sent before was lost"
    net.heal("h2", "h1")
    assert net.cuts == set()
    first.send("10.77.0.2", "again")
    assert second.hear() == "again", "what the first one sent before was lost"


def test_a_cut_stops_both_ways(net: Namespaces, talkers: list[Talker]) -> None:
    first, second, _ = talkers
    net.cut("h1", "h2")
    first.send("10.77.0.2", "lost")
    second.send("10.77.0.1", "lost")
    net.heal()
    first.send("10.77.0.2", "a")
    second.send("10.77.0.1", "b")
    assert (second.hear(), first.hear()) == ("a", "b")


def test_an_isolated_host_hears_nobody_and_others_hear_each_other(net: Namespaces, talkers: list[Talker]) -> None:
    first, second, third = talkers
    net.isolate("h1")
    second.send("10.77.0.1", "lost")
    third.send("10.77.0.1", "lost")
    second.send("10.77.0.3", "comes")
    assert third.hear() == "comes"
    net.heal("h1")
    third.send("10.77.0.1", "again")
    assert first.hear() == "again"


def test_a_cut_that_refuses_is_told_to_who_sends(net: Namespaces, talkers: list[Talker]) -> None:
    net.cut("h1", "h2", one_way=True, refuse=True)
    with subprocess.Popen(
        net.in_host("h1", [sys.executable, "-c", "import socket; socket.create_connection(('10.77.0.2', 7400))"]),
        stderr=subprocess.PIPE,
    ) as dials:
        assert b"unreachable" in dials.communicate()[1]
    net.cut("h1", "h2", one_way=True)
    talkers[0].send("10.77.0.2", "lost")
    net.heal()
    talkers[0].send("10.77.0.2", "comes")
    assert talkers[1].hear() == "comes"


def test_a_connection_that_is_open_is_cut_too_and_goes_on_after_a_heal(net: Namespaces) -> None:
    pipe: Any = subprocess.PIPE
    server = net.start("h2", [sys.executable, "-c", ECHO, "10.77.0.2", "7400"], stdout=pipe, text=True)
    assert server.stdout
    assert server.stdout.readline()
    dial = (
        "import socket, sys; s = socket.create_connection(('10.77.0.2', 7400))\n"
        "for line in sys.stdin.buffer: s.sendall(line); print(s.recv(99).decode(), end='', flush=True)"
    )
    client = net.start("h1", [sys.executable, "-c", dial], stdin=pipe, stdout=pipe, text=True)
    assert client.stdin
    assert client.stdout
    client.stdin.write("one\n")
    client.stdin.flush()
    assert client.stdout.readline() == "one\n"
    net.cut("h2", "h1", one_way=True)
    client.stdin.write("two\n")
    client.stdin.flush()
    assert not select.select([client.stdout], [], [], 0.3)[0], "an answer came through the cut"
    net.heal()
    assert client.stdout.readline() == "two\n"
    for stream in (client.stdin, client.stdout, server.stdout):
        stream.close()


def test_ipv6_is_cut_as_well(net: Namespaces) -> None:
    if not net.has_ipv6:
        pytest.skip("needs IPv6")
    first, second = (Talker(net, name, net.address6(name)) for name in ("h1", "h2"))
    net.cut("h1", "h2", one_way=True)
    first.send("fd77::2", "lost")
    second.send("fd77::1", "comes")
    assert first.hear() == "comes"
    net.heal()
    first.send("fd77::2", "again")
    assert second.hear() == "again"
    first.close()
    second.close()


def test_a_slow_way_is_of_one_pair_and_one_way(net: Namespaces, talkers: list[Talker]) -> None:
    if why_not_slow():
        pytest.skip(f"needs a token bucket: {why_not_slow()}")
    first, second, third = talkers
    net.slow("h1", "h2", "1mbit", one_way=True)
    before = net.sent("h1", "h2")
    second.send("10.77.0.1", "back")
    assert first.hear() == "back"
    third.send("10.77.0.2", "third")
    assert second.hear() == "third"
    first.send("10.77.0.2", "slow")
    assert second.hear() == "slow"
    sent = net.sent("h1", "h2") - before
    assert sent >= 1, "it went another way"
    for number in range(20):
        first.send("10.77.0.2", str(number))
        second.send("10.77.0.1", str(number))
        third.send("10.77.0.2", str(number))
        assert [second.hear(), second.hear(), first.hear()] == [str(number)] * 3
    assert 20 <= net.sent("h1", "h2") - before - sent < 40, "others went this way"
    net.cut("h1", "h2", one_way=True)
    first.send("10.77.0.2", "lost")
    net.heal()
    net.hurry("h1", "h2")
    first.send("10.77.0.2", "quick")
    assert second.hear() == "quick"


def test_each_host_has_its_name_and_each_process_its_directory(net: Namespaces) -> None:
    here = subprocess.check_output(net.in_host("h2", ["sh", "-c", "hostname; pwd"]), text=True)
    assert here.split() == ["h2", os.getcwd()]


def test_names_appear_vanish_and_fail_for_what_getaddrinfo_and_dnspython_ask_in_a_host(net: Namespaces) -> None:
    zone = net.start_name_server()
    ask = (
        "import sys\n"
        "from colocache.runtime.network.peers import parse_peers\n"
        "from colocache.runtime.network.resolver import Resolver, require_what_is_needed\n"
        "items = parse_peers('shop:7400,srv:_colocache._tcp.shop'); require_what_is_needed(items)\n"
        "for _ in sys.stdin: print([type(Resolver()(item)).__name__ for item in items],"
        " Resolver()(items[0]), flush=True)"
    )
    pipe: Any = subprocess.PIPE
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = net.start("h1", [sys.executable, "-c", ask], stdin=pipe, stdout=pipe, text=True, env=environment)

    def asked() -> str:
        process.stdin.write("\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        return process.stdout.readline()  # type: ignore[union-attr, no-any-return]

    assert asked().startswith("['Absent', 'Absent']")
    zone["shop"] = [address("10.77.0.1"), address("fd77::2")]
    zone["_colocache._tcp.shop"] = [srv(0, 0, 7400, "h1.hosts")]
    found = asked()
    assert found.startswith("['Found', 'Lines']")
    assert "10.77.0.1" in found
    assert ("fd77::2" in found) == net.has_ipv6
    zone["shop"] = [address("10.77.0.99")]
    assert "10.77.0.99" in asked(), "the address of nobody"
    zone["shop"] = zone["_colocache._tcp.shop"] = SERVFAIL
    assert asked().startswith("['Failed', 'Failed']")
    del zone["shop"]
    zone["_colocache._tcp.shop"] = NXDOMAIN
    assert asked().startswith("['Absent', 'Absent']")
    for stream in (process.stdin, process.stdout):
        stream.close()  # type: ignore[union-attr]


def test_anybody_makes_hosts_in_a_user_namespace() -> None:
    needs_namespaces()
    try:
        with Namespaces(1, by_user=True):
            pass
    except namespaces.Broken as error:
        pytest.skip(f"needs user namespaces: {error}")
    with Namespaces(2, by_user=True) as net:
        first, second = (Talker(net, host.name, host.address) for host in net.hosts)
        net.cut("h1", "h2")
        first.send("10.77.0.2", "lost")
        net.heal()
        net.start_name_server()
        assert "10.77.0.1" in subprocess.check_output(net.in_host("h2", ["getent", "hosts", "h1.hosts"]), text=True)
        first.send("10.77.0.2", "comes")
        assert second.hear() == "comes"
        first.close()
        second.close()


def test_nothing_is_left_when_hosts_end(until: Until) -> None:
    needs_namespaces()
    with Namespaces(2) as net:
        inside = net.start("h1", ["sleep", "1000"])
        shells = [net.router.pid, *(shell.pid for shell in net._shells.values())]
    assert inside.returncode is not None
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in shells))


def test_hosts_end_with_the_process_that_made_them(until: Until) -> None:
    needs_namespaces()
    code = (
        "import os\nfrom verification.network.namespaces import Namespaces\n"
        "with Namespaces(2) as net:\n"
        "    print(net.router.pid, *[shell.pid for shell in net._shells.values()], flush=True)\n"
        "    os.kill(os.getpid(), 9)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    pids = said.stdout.split()
    assert len(pids) == 3
    until(lambda: not any(Path(f"/proc/{int(pid)}").exists() for pid in pids))


def test_where_no_namespaces_can_be_made_the_reason_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for function in (namespaces._way_in, namespaces.why_not):
        function.cache_clear()
    monkeypatch.setattr(namespaces, "which", lambda tool: None if tool == "ip" else tool)
    try:
        assert "ip (of util-linux and iproute2)" in why_not()
        assert isinstance(namespaces.network(2), Loopback)
    finally:
        for function in (namespaces._way_in, namespaces.why_not):
            function.cache_clear()


def test_the_environment_names_all_peers_and_a_directory_of_its_own(net: Namespaces, tmp_path: Path) -> None:
    environment = net.environment("h2", tmp_path)
    assert environment["COLOCACHE_LISTEN"] == "10.77.0.2:7400"
    assert environment["COLOCACHE_PEERS"] == "10.77.0.1:7400,10.77.0.3:7400"
    assert environment["COLOCACHE_HOST"] == "h2"
    assert Path(environment["COLOCACHE_DIR"]).parent == tmp_path
    with pytest.raises(ValueError, match="cut from itself"):
        net.cut("h1", "h1")


# --- The proxy


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """Where a server says what it hears."""
    with subprocess.Popen([sys.executable, "-c", ECHO, "127.0.0.1", "0"], stdout=subprocess.PIPE) as server:
        assert server.stdout
        yield "127.0.0.1", int(server.stdout.readline())
        server.kill()


@pytest.fixture
def proxy(echo: tuple[str, int]) -> Iterator[Proxy]:
    with Proxy(echo) as made:
        yield made


def dialled(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=10)


def says(connection: socket.socket, what: bytes) -> bytes:
    """Send, and return what comes back."""
    connection.sendall(what)
    found = b""
    while len(found) < len(what):
        part = connection.recv(65536)
        if not part:
            break
        found += part
    return found


def is_silent(connection: socket.socket) -> bool:
    return not select.select([connection], [], [], 0.2)[0]


def test_without_a_fault_all_passes_and_the_end_too(proxy: Proxy, until: Until) -> None:
    many = bytes(range(256)) * 8192
    with dialled(proxy.address) as one, dialled(proxy.address) as other:
        assert says(other, b"a") == b"a"
        sender = threading.Thread(target=one.sendall, args=(many,))
        sender.start()
        found = b""
        while len(found) < len(many):
            found += one.recv(65536)
        sender.join()
        assert found == many
        assert proxy.passed == {"up": len(many) + 1, "down": len(many) + 1}
        one.shutdown(socket.SHUT_WR)
        assert one.recv(1) == b""
    until(lambda: not proxy.connections)


@pytest.mark.parametrize(("direction", "arrives"), [("up", 0), ("down", 3)])
def test_a_stall_keeps_one_direction_and_loses_nothing(
    proxy: Proxy, until: Until, direction: Any, arrives: int
) -> None:
    with dialled(proxy.address) as connection:
        assert says(connection, b"one") == b"one"
        proxy.stall(direction)
        connection.sendall(b"two")
        if arrives:
            until(lambda: proxy.passed["up"] == 6)
        assert is_silent(connection)
        assert proxy.passed == {"up": 3 + arrives, "down": 3}
        proxy.go_on(direction)
        assert connection.recv(9) == b"two"


def test_a_delay_keeps_the_order(proxy: Proxy) -> None:
    with dialled(proxy.address) as connection:
        proxy.delay(3.0, "down")
        connection.sendall(b"first")
        assert is_silent(connection)
        proxy.delay(0.0)
        connection.sendall(b"second")
        assert says(connection, b"") == b""
        found = b""
        while len(found) < 11:
            found += connection.recv(99)
        assert found == b"firstsecond"


def test_a_limit_lets_all_through_in_the_end(proxy: Proxy) -> None:
    proxy.limit(1_000_000)
    with dialled(proxy.address) as connection:
        assert says(connection, bytes(100_000)) == bytes(100_000)


def test_a_reset_ends_connections_and_lets_new_ones_come(proxy: Proxy) -> None:
    with dialled(proxy.address) as connection, dialled(proxy.address) as new:
        assert says(connection, b"a") == says(new, b"a") == b"a"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
        assert proxy.connections == 0
    with dialled(proxy.address) as new:
        assert says(new, b"a") == b"a"


def test_a_stalled_connection_can_be_reset(proxy: Proxy) -> None:
    with dialled(proxy.address) as connection:
        proxy.stall()
        connection.sendall(b"lost")
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_half_open_is_accepted_and_mute_and_others_go_on(proxy: Proxy) -> None:
    with dialled(proxy.address) as before:
        assert says(before, b"a") == b"a"
        proxy.half_open()
        with dialled(proxy.address) as mute:
            mute.sendall(b"who is there")
            assert is_silent(mute)
            assert says(before, b"b") == b"b"
            proxy.heal()
            with pytest.raises(ConnectionResetError):
                mute.recv(1)
        assert says(before, b"c") == b"c"
    with dialled(proxy.address) as new:
        assert says(new, b"a") == b"a"


def test_who_refuses_ends_connections_and_accepts_again(proxy: Proxy) -> None:
    with dialled(proxy.address) as before:
        assert says(before, b"a") == b"a"
        proxy.refuse()
        with pytest.raises(ConnectionResetError):
            before.recv(1)
    with pytest.raises(ConnectionRefusedError):
        dialled(proxy.address)
    proxy.heal()
    with dialled(proxy.address) as new:
        assert says(new, b"a") == b"a"


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, which drops what comes to a full queue")
def test_a_black_hole_answers_nobody_and_loses_nothing_of_who_was_there(proxy: Proxy) -> None:
    with dialled(proxy.address) as before:
        assert says(before, b"a") == b"a"
        proxy.black_hole()
        before.sendall(b"b")
        assert is_silent(before)
        with pytest.raises(TimeoutError):
            socket.create_connection(proxy.address, timeout=0.3)
        proxy.heal()
        assert before.recv(9) == b"b"
    with dialled(proxy.address) as new:
        assert says(new, b"a") == b"a"


def test_nobody_behind_the_proxy_is_a_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        target = gone.getsockname()
    # The reset may come before the dial has returned.
    with Proxy(target) as proxy, pytest.raises(ConnectionResetError), dialled(proxy.address) as connection:
        connection.recv(1)


def test_a_proxy_of_another_process_does_what_it_is_told(echo: tuple[str, int]) -> None:
    pipe: Any = subprocess.PIPE
    module = [sys.executable, "-m", "verification.network.proxy", "127.0.0.1", "0", echo[0], str(echo[1])]
    with subprocess.Popen(module, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        remote = Remote(process)
        with dialled(remote.address) as connection:
            assert says(connection, b"a") == b"a"
            remote.do("stall", "down")
            connection.sendall(b"b")
            assert is_silent(connection)
            remote.do("heal")
            assert connection.recv(9) == b"b"
            with pytest.raises(AssertionError, match="no_such_fault"):
                remote.do("no_such_fault")
        process.stdin.close()  # type: ignore[union-attr]


# --- Hosts that are loopback addresses


def test_loopback_hosts_are_cut_one_way_by_proxies() -> None:
    with Loopback(2) as net:
        host, _, port = net.listen("h2").partition(":")
        assert host == net.hosts[1].address == "127.0.0.3"
        pipe: Any = subprocess.PIPE
        server = net.start("h2", [sys.executable, "-c", ECHO, host, port], stdout=pipe, text=True)
        assert server.stdout
        assert server.stdout.readline()
        dial, _, port = net.peers("h1").partition(":")
        with dialled((dial, int(port))) as connection:
            assert says(connection, b"a") == b"a"
            net.cut("h2", "h1", one_way=True)
            connection.sendall(b"b")
            assert is_silent(connection)
            assert net.proxy("h1", "h2").passed["up"] == 2, "the other way is not cut"
            net.heal()
            assert connection.recv(9) == b"b"
            net.slow("h1", "h2", "10mbit")
            assert says(connection, b"c") == b"c"
            net.hurry("h1", "h2")
            net.cut("h1", "h2", refuse=True)
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
        net.heal("h1")
        with dialled((dial, int(port))) as connection:
            assert says(connection, b"a") == b"a"
        server.stdout.close()


# --- The file of a zone


def test_a_zone_file_keeps_what_was_said(tmp_path: Path) -> None:
    zone = ZoneFile(tmp_path / "zone")
    zone["shop"] = [address("10.0.0.1"), srv(1, 2, 3, "a.b")]
    zone["bad"] = SERVFAIL
    zone["gone"] = [address("::1")]
    del zone["gone"]
    assert ZoneFile(tmp_path / "zone") == zone
    assert set(zone) == {"shop", "bad"}
    assert json.loads((tmp_path / "zone").read_text())["bad"] == SERVFAIL
