"""What names, SRV records and files list, asked of a name server, the system, and the disk."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from colocache.errors import ConfigError
from colocache.runtime.network import resolver
from colocache.runtime.network.answers import Absent, Answer, Failed, Found
from colocache.runtime.network.peers import Address, Lines, ListFile, Literal, Name, Service, parse_peers
from colocache.runtime.network.resolver import MAX_FILE, Resolver, require_what_is_needed
from verification.network.dns import SERVFAIL, SILENCE, NameServer, address, srv

WEB = Name("web", 7400)
SHOP = Service("_colocache._tcp.shop")


def entry(host: str) -> tuple[Any, ...]:
    """An entry of what `getaddrinfo` returns."""
    if ":" in host:
        return socket.AF_INET6, socket.SOCK_STREAM, 6, "", (host, 7400, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 7400)


# --- Names


def test_a_name_has_all_its_addresses_in_the_systems_order() -> None:
    asked = []

    def getaddrinfo(*arguments: Any) -> Any:
        asked.append(arguments[:4])
        return map(entry, ["2001:DB8::1", "10.0.0.2", "10.0.0.1", "10.0.0.2", "::ffff:10.0.0.1", "fe80::1%lo"])

    assert Resolver(getaddrinfo)(WEB) == Found(
        tuple(Address(host, 7400) for host in ("2001:db8::1", "10.0.0.2", "10.0.0.1", "fe80::1%lo"))
    )
    assert asked == [("web", 7400, socket.AF_UNSPEC, socket.SOCK_STREAM)]


def test_what_no_host_can_have_as_its_address_is_left_out() -> None:
    hosts = ["0.0.0.0", "::", "224.0.0.1", "10.0.0.1"]  # of both families
    assert Resolver(lambda *_: map(entry, hosts))(WEB) == Found((Address("10.0.0.1", 7400),))
    nothing = Resolver(lambda *_: map(entry, hosts[:3]))(WEB)
    assert nothing == Absent("it has no address that a host can have"), "a name server that blocks names says 0.0.0.0"


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), Absent("Name or service not known")),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), Failed("Temporary failure")),
        (socket.gaierror(socket.EAI_FAIL, "x" * 1000), Failed("x" * 299 + "…")),
        (socket.gaierror(), Failed("")),
        (OSError(errno.EMFILE, "Too many open files"), Failed("[Errno 24] Too many open files")),
        (UnicodeError("label too long"), Failed("label too long")),
    ],
    ids=["no name", "again", "fail", "bare", "system", "unicode"],
)
def test_only_who_must_know_says_that_there_is_no_such_name(error: Exception, answer: Answer) -> None:
    def getaddrinfo(*_: Any) -> Any:
        raise error

    assert Resolver(getaddrinfo)(WEB) == answer


def test_if_the_name_server_fails_for_one_family_that_is_no_whole_answer() -> None:
    """glibc hands over the other family's addresses, as if there were no more."""
    has: dict[int, Any] = {socket.AF_INET: ["10.0.0.1"], socket.AF_INET6: socket.EAI_AGAIN}
    asked: list[int] = []

    def getaddrinfo(_host: str, _port: int, family: int, *_: int) -> Any:
        asked.append(family)
        found = has[socket.AF_INET] if family == socket.AF_UNSPEC else has[family]
        if isinstance(found, int):
            raise socket.gaierror(found, "Temporary failure")
        return map(entry, found)

    look_up = Resolver(getaddrinfo)
    x, y = Address("10.0.0.1", 7400), Address("2001:db8::1", 7400)
    assert look_up(WEB) == look_up(WEB) == Found((x,), "Temporary failure")
    has[socket.AF_INET6] = ["2001:db8::1"]
    assert look_up(WEB) == Found((x, y)), "the server is well again between the two questions"
    has[socket.AF_INET6] = socket.EAI_NONAME
    asked.clear()
    assert look_up(WEB) == look_up(WEB) == Found((x,))
    assert asked == [socket.AF_UNSPEC, socket.AF_INET6, socket.AF_UNSPEC], "it is asked once"
    has[socket.AF_INET] = ["10.0.0.1", "2001:db8::1"]
    assert look_up(WEB) == Found((x, y))
    has |= {socket.AF_INET: ["10.0.0.1"], socket.AF_INET6: socket.EAI_AGAIN}
    assert look_up(WEB) == Found((x,), "Temporary failure"), "it was there the last time"


def test_the_system_knows_this_host() -> None:
    found = Resolver()(Name("localhost", 7400))
    assert isinstance(found, Found)
    assert {host for host, _ in found.addresses} & {"127.0.0.1", "::1"}
    assert {port for _, port in found.addresses} == {7400}


@pytest.mark.parametrize("text", ["10.0.0.5:7400", "[2001:db8::1]:7400"])
def test_an_address_is_what_the_system_takes_it_for(text: str) -> None:
    [item] = parse_peers(text)
    assert isinstance(item, Literal)
    assert Resolver()(item) == Found((item.address,))
    [(*_, found)] = socket.getaddrinfo(*item.address, type=socket.SOCK_STREAM)
    assert found[:2] == item.address


def test_the_system_is_asked_past_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """gevent's `getaddrinfo` would make a hub in the thread."""
    monkeypatch.setattr(socket, "getaddrinfo", None)
    assert isinstance(Resolver()(Name("localhost", 7400)), Found)


# --- SRV records


@pytest.fixture
def server() -> Iterator[NameServer]:
    pytest.importorskip("dns")
    with NameServer() as server:
        yield server


def ask(server: NameServer, item: Service = SHOP) -> Answer:
    # The zone has absolute names, so search domains of this machine make no difference.
    return Resolver(name_servers=[server.host], port=server.port, srv_patience=1.0)(item)


def test_all_hosts_of_a_service_are_listed_by_priority_and_then_by_weight(server: NameServer) -> None:
    server.zone["_colocache._tcp.shop"] = [
        srv(20, 0, 7400, "spare.shop"),
        srv(10, 1, 7401, "Small.shop"),
        srv(10, 9, 7400, "large.shop"),
        srv(10, 9, 7400, "large.shop"),
        srv(10, 0, 0, "no-port.shop"),
        address("10.0.0.1"),
    ]
    assert ask(server) == Lines(
        (Name("large.shop.", 7400), Name("small.shop.", 7401), Name("spare.shop.", 7400)),
    )


def test_a_service_that_says_that_it_is_nowhere_lists_nobody(server: NameServer) -> None:
    server.zone["_colocache._tcp.shop"] = [srv(0, 0, 0, ".")]
    assert ask(server) == Absent("its SRV records name no host")


def test_a_service_that_is_not_there_and_one_without_srv_records_are_absent(server: NameServer) -> None:
    missing = ask(server)
    assert isinstance(missing, Absent)
    assert "_colocache._tcp.shop" in missing.why
    server.zone["_colocache._tcp.shop"] = [address("10.0.0.1"), address("2001:db8::1")]
    assert isinstance(ask(server), Absent)


def test_a_name_server_that_fails_says_nothing_about_the_service(server: NameServer) -> None:
    server.zone["_colocache._tcp.shop"] = SERVFAIL
    failed = ask(server)
    assert isinstance(failed, Failed)
    assert "SERVFAIL" in failed.why
    assert "\n" not in failed.why


def test_a_name_server_that_does_not_answer_says_nothing_about_the_service(server: NameServer) -> None:
    server.zone["_colocache._tcp.shop"] = SILENCE
    failed = ask(server)
    assert isinstance(failed, Failed)
    assert "expired" in failed.why
    assert server.asked >= 1


def test_where_there_is_no_name_server_nothing_is_said_about_the_service(server: NameServer) -> None:
    failed = Resolver(name_servers=["127.0.0.1"], port=1, srv_patience=0.5)(SHOP)
    assert isinstance(failed, Failed)
    assert isinstance(Resolver(name_servers=[], srv_patience=0.5)(SHOP), Failed)


def test_without_dnspython_srv_records_are_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dns.resolver", None)
    with pytest.raises(ConfigError) as caught:
        require_what_is_needed(parse_peers("web:7400,file:/peers,srv:_colocache._tcp.shop"))
    assert str(caught.value) == (
        "the peer srv:_colocache._tcp.shop needs dnspython to look SRV records up, and it is not installed: "
        "pip install 'colocache[srv]'; or list names that have addresses, as in shop-peers.default.svc:7400"
    )
    assert Resolver()(SHOP) == Failed(str(caught.value)), "a file may list such a name later"


def test_without_srv_records_nothing_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "_import_dnspython", None)
    require_what_is_needed(parse_peers("web:7400,10.0.0.5:7400"))


# --- Files


def read(path: Path | str) -> Answer:
    return Resolver()(ListFile(str(path)))


def test_a_file_appears_changes_is_replaced_and_vanishes(tmp_path: Path) -> None:
    path = tmp_path / "peers"
    assert read(path) == Absent("No such file or directory")
    path.write_text("web:7400\n")
    assert read(path) == Lines((WEB,))
    before = path.stat()
    path.write_text("new:7400\n")  # of the same size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert read(path) == Lines((Name("new", 7400),)), "and of the same time: it may be of one tick of the clock"
    other = tmp_path / "other"
    other.write_text("other:7400")
    other.replace(path)
    assert read(path) == Lines((Name("other", 7400),))
    path.unlink()
    assert isinstance(read(path), Absent)
    assert isinstance(read(f"{tmp_path}/no/peers"), Absent)
    path.write_text("")
    assert read(f"{path}/peers") == Absent("Not a directory")
    assert read(path) == Lines(()), "an empty file lists nobody"


def test_a_link_is_followed(tmp_path: Path) -> None:
    """Kubernetes replaces the link to a directory in which all files of a ConfigMap lie."""
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "peers").write_text(f"{version}:1")
    (tmp_path / "peers").symlink_to("data/peers")
    (tmp_path / "data").symlink_to("one")
    assert read(tmp_path / "peers") == Lines((Name("one", 1),))
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").replace(tmp_path / "data")
    assert read(tmp_path / "peers") == Lines((Name("two", 1),))


def test_what_cannot_be_read_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert read(tmp_path / "loop") == Failed("Too many levels of symbolic links")
    assert read(tmp_path) == Failed("it is not a plain file")
    os.mkfifo(tmp_path / "pipe")
    assert read(tmp_path / "pipe") == Failed("it is not a plain file"), "and nobody waits for a writer"
    (tmp_path / "peers").write_bytes(b"#" * MAX_FILE)
    assert read(tmp_path / "peers") == Lines(())
    (tmp_path / "peers").write_bytes(b"#" * MAX_FILE + b"\n")
    assert read(tmp_path / "peers") == Failed(f"it has more than {MAX_FILE} bytes")

    def refuse(*_: Any) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # root may read everything
    assert read("/peers") == Failed("Permission denied")


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "peers").write_text("web:7400")
    before = sorted(os.listdir("/dev/fd"))
    for name in ("peers", "", "missing"):
        read(tmp_path / name)
    assert sorted(os.listdir("/dev/fd")) == before


def test_a_file_may_begin_with_a_mark_of_its_encoding(tmp_path: Path) -> None:
    (tmp_path / "peers").write_bytes(b"\xef\xbb\xbfweb:7400\r\n")
    assert read(tmp_path / "peers") == Lines((WEB,))


def test_bytes_that_are_no_text_fail(tmp_path: Path) -> None:
    (tmp_path / "peers").write_bytes(b"web:7400\n\xff\xfe\n")
    failed = read(tmp_path / "peers")
    assert isinstance(failed, Failed)
    assert failed.why.startswith("it is not UTF-8 text: ")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary())
def test_garbage_is_an_answer(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "peers").write_bytes(content)
    assert isinstance(read(tmp_path / "peers"), Lines | Failed)
