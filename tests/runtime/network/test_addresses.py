"""Where a gateway may listen, and that it does not listen to other hosts without a secret."""

from __future__ import annotations

import pytest

from colocache.errors import ConfigError
from colocache.runtime.network.addresses import parse_listen, refuse_plain
from colocache.runtime.network.secret import Secret


@pytest.mark.parametrize(
    ("text", "endpoint", "loopback"),
    [
        ("0.0.0.0:7400", "tcp://0.0.0.0:7400", False),
        (" 127.0.0.2:7400\n", "tcp://127.0.0.2:7400", True),
        ("127.0.0.1:1", "tcp://127.0.0.1:1", True),
        ("10.0.0.7:65535", "tcp://10.0.0.7:65535", False),
        ("[::]:7400", "tcp://[::]:7400", False),
        ("[::1]:7400", "tcp://[::1]:7400", True),
        ("[2001:DB8:0:0::1]:07400", "tcp://[2001:db8::1]:7400", False),
        ("[fe80::1%eth0]:7400", "tcp://[fe80::1%eth0]:7400", False),
        ("[::ffff:10.0.0.7]:7400", "tcp://[::ffff:10.0.0.7]:7400", False),
    ],
)
def test_an_address_becomes_an_endpoint(text: str, endpoint: str, loopback: bool) -> None:
    found = parse_listen(text)
    assert found.endpoint.replace("a00:7", "10.0.0.7") == endpoint
    assert found.is_loopback == loopback
    assert parse_listen(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        "", ":7400", "7400", "0.0.0.0", "0.0.0.0:", "0.0.0.0:0", "0.0.0.0:65536", "0.0.0.0:99999", "0.0.0.0:-1",
        "0.0.0.0:+1", "0.0.0.0:7 400", "0.0.0.0:740000", "0.0.0.0:٧٤٠٠", "*:7400", "localhost:7400", "eth0:7400",
        "::1:7400", "::1", "[::1]", "[127.0.0.1]:7400", "[]:7400", "[::1]:7400]", "[[::1]]:7400", "127.1:7400",
        "010.0.0.1:7400", "256.0.0.1:7400", "tcp://0.0.0.0:7400", "0.0.0.0:7400,[::]:7400", "[" + "1" * 200 + "]:7400",
    ],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^COLOCACHE_LISTEN=.* cannot be used: give an IP address") as caught:
        parse_listen(text)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "text", ["0.0.0.0:7400", "[::]:7400", "10.0.0.7:7400", "[fe80::1]:7400", "[::ffff:a00:1]:7400"]
)
def test_nobody_listens_to_other_hosts_without_a_secret(text: str) -> None:
    listen = parse_listen(text)
    with pytest.raises(ConfigError) as caught:
        refuse_plain(listen, ())
    for part in (f"COLOCACHE_LISTEN={listen}", "COLOCACHE_SECRET_FILE", "COLOCACHE_SECRET,", "`colocache secret`"):
        assert part in str(caught.value)
    refuse_plain(listen, [Secret("x" * 32)])


@pytest.mark.parametrize("text", ["127.0.0.1:7400", "[::1]:7400", "127.9.9.9:7400", "[::ffff:7f00:1]:7400"])
def test_loopback_needs_no_secret(text: str) -> None:
    refuse_plain(parse_listen(text), ())
