"""What COLOCACHE_PEERS may list, and how an item that cannot be used is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colocache.errors import ConfigError
from colocache.runtime.network.peers import (
    MAX_ITEMS,
    Address,
    ListFile,
    Literal,
    Name,
    Service,
    parse_lines,
    parse_peers,
    target,
    usable,
)

ITEMS = {
    "web1:7400": Name("web1", 7400),
    "WEB1:7400": Name("web1", 7400),
    "my_service:1": Name("my_service", 1),
    "shop-peers.default.svc:7400": Name("shop-peers.default.svc", 7400),
    "shop.example.com.:65535": Name("shop.example.com.", 65535),
    "srv:7400": Name("srv", 7400),
    "file:7400": Name("file", 7400),
    "10.0.0.5:7400": Literal(Address("10.0.0.5", 7400)),
    "[2001:DB8:0::1]:7400": Literal(Address("2001:db8::1", 7400)),
    "[::ffff:10.0.0.5]:7400": Literal(Address("10.0.0.5", 7400)),
    "[fe80::1%eth0]:7400": Literal(Address("fe80::1%eth0", 7400)),
    "srv:_colocache._tcp.Shop": Service("_colocache._tcp.shop"),
    "SRV:colocache.service.consul": Service("colocache.service.consul"),
    "file:/etc/peers": ListFile("/etc/peers"),
    "file:///etc/./peers": ListFile("/etc/peers"),
    "file:/with a space": ListFile("/with a space"),
}


@pytest.mark.parametrize("text", ITEMS)
def test_an_item_is_read(text: str) -> None:
    assert parse_peers(f" {text}\t") == (ITEMS[text],)


def test_items_keep_their_order_and_stand_once() -> None:
    assert parse_peers("b:1, a:1,, B:1,[::ffff:10.0.0.1]:1,10.0.0.1:1,") == (
        Name("b", 1),
        Name("a", 1),
        Literal(Address("10.0.0.1", 1)),
    )


def test_nothing_is_listed_by_a_text_without_items() -> None:
    assert parse_peers("") == parse_peers(" , ") == ()


WRONG = {
    "web1": "it has no port: give a host and a port, as in web1:7400",
    "web1:": "it has no port",
    "web1:0": "the port 0 is not a number from 1 to 65535",
    "web1:65536": "the port 65536 is not",
    "web1:http": "the port 'http' is not a number",
    "web1:-1": "the port '-1' is not",
    "web1:7_4": "the port '7_4' is not",
    "web1:\u0667": "the port '\u0667' is not",
    "web1:999999999999": "the port '999999999999' is not",
    ":7400": "it has no host",
    "10.0.0.256:7400": "'10.0.0.256' is not an IPv4 address",
    "10.0.1:7400": "'10.0.1' is not an IPv4 address",
    "0x7f.0x1:7400": "'0x7f.0x1' is not an IPv4 address",
    "2130706433:7400": "'2130706433' is not an IPv4 address",
    "0.0.0.0:7400": "0.0.0.0 is where a host listens, and not where others find it",
    "[::]:7400": ":: is where a host listens",
    "224.0.0.1:7400": "224.0.0.1 is not the address of one host",
    "255.255.255.255:7400": "255.255.255.255 is not the address of one host",
    "[ff02::1]:7400": "ff02::1 is not the address of one host",
    "2001:db8::1:7400": "an IPv6 address stands in brackets",
    "[2001:db8::1]": "it has no port",
    "[2001:db8::1:7400": "the bracket is not closed",
    "[2001:db8::1]7400": "there is no colon after the bracket",
    "[10.0.0.1]:7400": "'10.0.0.1' is not an IPv6 address",
    "[web1]:7400": "'web1' is not an IPv6 address",
    "tcp://web1:7400": "it is a URL: leave tcp:// out",
    "web1:7400 web2:7400": "it has a space in it: put a comma between items",
    "web1\n:7400": "it has a control character in it",
    "-web1:7400": "'-web1' is not a name of a host",
    "web1-:7400": "'web1-' is not a name of a host",
    "a..b:7400": "'a..b' is not a name of a host",
    "shop*:7400": "'shop*' is not a name of a host",
    f"{'a' * 64}:7400": "is not a name of a host",
    f"{'a.' * 127}a:7400": "is not a name of a host",
    "bücher:7400": "give its form that begins with xn--",
    "srv:": "'' is not a name of a host: give the name of SRV records, as in srv:_colocache._tcp.shop.example.com",
    "srv:_colocache._tcp.shop:7400": "the SRV records say the ports, so none is given",
    "file:": "the path must be absolute, as in file:/etc/colocache/peers",
    "file:peers": "the path must be absolute",
    f"file:/{'a' * 4095}": "the path is longer than 4095 bytes",
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: text[:30].encode("unicode_escape").decode())
def test_an_item_that_cannot_be_used_is_refused_by_name_and_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_peers(f"web0:7400,{text},web3:7400", "COLOCACHE_PEERS")
    message = str(caught.value)
    assert message.startswith("COLOCACHE_PEERS, item 2, ")
    assert WRONG[text] in message
    assert repr(text)[:40] in message
    assert "as in" in message or "between items" in message
    assert len(message) < 500


def test_more_items_than_are_allowed_are_refused() -> None:
    assert len(parse_peers(",".join(f"web{number}:1" for number in range(MAX_ITEMS)))) == MAX_ITEMS
    with pytest.raises(ConfigError, match="peers lists more than 1000 items: list a name that has"):
        parse_peers(",".join(f"web{number}:1" for number in range(MAX_ITEMS + 1)), "peers")
    assert parse_peers("web1:1," * 2000) == (Name("web1", 1),)


def test_a_file_has_one_item_in_a_line_and_comments() -> None:
    found = parse_lines("# hosts\n\nweb1:7400  # the first\r\n  10.0.0.5:7400\nsrv:_a._tcp.b\nweb1:7400\n")
    assert found.items == (Name("web1", 7400), Literal(Address("10.0.0.5", 7400)), Service("_a._tcp.b"))
    assert found.wrong == ""


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("web1", "line 2, 'web1': it has no port"),
        ("web1:1,web2:1", "line 2, 'web1:1,web2:1': give one item in each line"),
        ("web1:1 web2:1", "line 2, 'web1:1 web2:1': it has a space in it: give one item in each line"),
        ("file:/other", "line 2, 'file:/other': a file cannot list another file"),
        ("\0\0\0", r"line 2, '\x00\x00\x00': it has a control character"),
    ],
)
def test_a_line_that_cannot_be_used_is_told_and_the_others_are_used(line: str, wrong: str) -> None:
    found = parse_lines(f"a:1\n{line}\nb:1\nnonsense")
    assert found.items == (Name("a", 1), Name("b", 1))
    assert found.wrong.startswith(wrong)


def test_a_file_with_too_many_lines_is_cut_and_that_is_told() -> None:
    found = parse_lines("\n".join(f"web{number}:1" for number in range(MAX_ITEMS + 5)))
    assert len(found.items) == MAX_ITEMS
    assert found.wrong == "line 1001 and those below it are left out: 1000 items are allowed"


@settings(deadline=None)
@given(st.text() | st.text("wb1.:[]/#, \nsrvfile%0x-_"))
def test_any_text_gives_items_or_a_config_error(text: str) -> None:
    assert len(parse_lines(text).items) <= MAX_ITEMS
    try:
        items = parse_peers(text)
    except ConfigError:
        return
    # What an item is shown as is the item again.
    assert parse_peers(",".join(map(str, items))) == items


def test_what_is_found_gets_its_one_form_or_is_nobodys() -> None:
    assert usable("::FFFF:10.0.0.5", 1) == usable("10.0.0.5", 1) == Address("10.0.0.5", 1)
    assert [usable(host, 1) for host in ("0.0.0.0", "::", "ff02::1", "::ffff:0.0.0.0", "web1", "", "1" * 999)] == [
        None
    ] * 7
    assert [usable("10.0.0.5", port) for port in (0, 65536)] == [None] * 2


def test_the_target_of_an_srv_record_is_an_absolute_name() -> None:
    assert target("Web1.Shop.", 7400) == Name("web1.shop.", 7400)
    assert [target(".", 7400), target("web1.", 0), target("we b1.", 1)] == [None] * 3


def test_an_address_is_shown_as_it_is_written() -> None:
    assert str(Address("10.0.0.5", 1)) == "10.0.0.5:1"
    assert Address("2001:db8::1", 7400).endpoint == "tcp://[2001:db8::1]:7400"
