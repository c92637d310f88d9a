from __future__ import annotations

import dataclasses
import math
import pathlib
import sys
import typing
import warnings
from datetime import timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from colocache import config
from colocache.cache import Arguments
from colocache.config import (
    LONGEST_SECONDS,
    SERVER_SETTINGS,
    SETTINGS,
    UNSET,
    Config,
    Duration,
    ForgetName,
    PolicyName,
    ReplicateName,
    RoleName,
    parse_duration,
    parse_ttl,
    server_options,
)
from colocache.core.host.layout import geometry
from colocache.errors import ConfigError

# print_blob: a failure prints the line that replays it. No deadline: the machine may be busy.
replayable = settings(print_blob=True, deadline=None, database=None)

DURATION = 'a number of seconds, or text such as "250ms", "5s" or "1h30m", or in code a timedelta'
FROM_0 = f"a duration from 0 to 36500d: {DURATION}"
TTL = f'{FROM_0}; 0 stores nothing; "never", or in code None, is for ever'
SIZE = 'a whole number of bytes, or text such as "64MiB" (64 * 1024 * 1024) or "64MB" (64 * 1000 * 1000)'
FORMS = {
    "group": "1 to 100 printable characters with no space at either end",
    "disabled": '"true", "1", "yes" or "on", or "false", "0", "no" or "off"',
    "private": '"true", "1", "yes" or "on", or "false", "0", "no" or "off"',
    "memory": f"a size of at least 1MiB: {SIZE}",
    "shelf": f"a size from 1MiB to 64GiB: {SIZE}",
    "ttl": TTL,
    "policy": '"s3fifo", "sieve", "lru" or "lfu"',
    "load_timeout": f"a duration from 1ms to 36500d: {DURATION}",
    "audit": "a share of the hits from 0 to 1, such as 0.001",
    "directory": "an absolute path",
    "expect": "a whole number from 1 to 4096",
    "listen": 'an IP address of this host and a port, such as "0.0.0.0:7400", "[::]:7400" or "10.0.0.7:7400"',
    "peers": 'items with commas between them, such as "web1:7400,10.0.0.5:7400"; also "srv:NAME" and "file:/PATH"',
    "peers_interval": f"a duration from 100ms to 36500d: {DURATION}",
    "secret": "32 to 1024 printable ASCII characters without commas; two with a comma between them while it is changed",
    "secret_file": "an absolute path",
    "host": "up to 64 bytes of printable characters",
    "advertise": 'an IP address and a port, such as "10.0.0.7:7400" or "[2001:db8::1]:7400"',
    "forget": '"auto", "majority", "always" or "never"',
    "replicas": "a whole number from 1 to 3",
    "replicate": '"worthwhile" or "all"',
    "handoff": FROM_0,
    "role": '"peer", "server" or "client"',
}
LOOPBACK = "127.0.0.1:7400"
SECRET, OTHER_SECRET = "a" * 43, "b" * 43


@pytest.fixture(autouse=True)
def _nothing_warned_of_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "_warned_of", set())


def resolve(environ: dict[str, str] | None = None, **arguments: object) -> Config:
    return Config.resolve({"group": "shop"} | arguments, environ or {})


def message(environ: dict[str, str] | None = None, **arguments: object) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(environ, **arguments)
    return str(caught.value)


# --- where a value comes from ---


def test_defaults():
    assert resolve() == Config(
        group="shop",
        disabled=False,
        private=False,
        memory=32 * 1024 * 1024,
        shelf=256 * 1024 * 1024,
        ttl=300.0,
        policy="s3fifo",
        load_timeout=30.0,
        audit=0.0,
        directory=None,
        expect=None,
        listen=None,
        peers=None,
        peers_interval=5.0,
        secret=None,
        secret_file=None,
        host=None,
        advertise=None,
        forget="auto",
        replicas=1,
        replicate="worthwhile",
        handoff=1.0,
        role="peer",
    )


CHOICES = [
    # name, variable, its text, what it means, an argument, what that means
    ("group", "COLOCACHE_GROUP", "Bücher", "Bücher", "other", "other"),
    ("disabled", "COLOCACHE_DISABLED", "Yes", True, False, False),
    ("private", "COLOCACHE_PRIVATE", "on", True, False, False),
    ("memory", "COLOCACHE_MEMORY", "2 GiB", 2 * 2**30, "3mb", 3_000_000),
    ("shelf", "COLOCACHE_SHELF", "8MiB", 8 * 2**20, 2**20, 2**20),
    ("ttl", "COLOCACHE_TTL", "90s", 90.0, 0, 0.0),
    ("ttl", "COLOCACHE_TTL", "never", None, timedelta(minutes=1), 60.0),
    ("ttl", "COLOCACHE_TTL", "None", None, "2d", 172800.0),
    ("ttl", "COLOCACHE_TTL", "5", 5.0, None, None),
    ("policy", "COLOCACHE_POLICY", "LRU", "lru", "lfu", "lfu"),
    ("load_timeout", "COLOCACHE_LOAD_TIMEOUT", "1m", 60.0, 2, 2.0),
    ("load_timeout", "COLOCACHE_LOAD_TIMEOUT", "1ms", 0.001, 0.5, 0.5),
    ("audit", "COLOCACHE_AUDIT", "0.001", 0.001, 1, 1.0),
    ("audit", "COLOCACHE_AUDIT", "1e-6", 1e-6, "0.5", 0.5),
    ("directory", "COLOCACHE_DIR", "/run/shop", "/run/shop", pathlib.PurePosixPath("/srv/a"), "/srv/a"),
    ("directory", "COLOCACHE_DIR", "/run/shop", "/run/shop", None, None),
    ("expect", "COLOCACHE_EXPECT", " 8 ", 8, 4096, 4096),
    ("expect", "COLOCACHE_EXPECT", "8", 8, None, None),
    ("listen", "COLOCACHE_LISTEN", " 127.0.0.1:07400", LOOPBACK, "[0::1]:7400", "[::1]:7400"),
    ("listen", "COLOCACHE_LISTEN", LOOPBACK, LOOPBACK, None, None),
    ("peers_interval", "COLOCACHE_PEERS_INTERVAL", "1m", 60.0, 0.5, 0.5),
    ("secret", "COLOCACHE_SECRET", SECRET, SECRET, f" {OTHER_SECRET} ,{SECRET}", f"{OTHER_SECRET},{SECRET}"),
    ("secret_file", "COLOCACHE_SECRET_FILE", "/run/secret", "/run/secret", pathlib.PurePosixPath("/s"), "/s"),
    ("host", "COLOCACHE_HOST", " web1 ", "web1", "web2", "web2"),
    ("advertise", "COLOCACHE_ADVERTISE", "10.0.0.7:7400", "10.0.0.7:7400", "[2001:DB8::1]:1", "[2001:db8::1]:1"),
    ("forget", "COLOCACHE_FORGET", "Never", "never", "always", "always"),
    ("replicas", "COLOCACHE_REPLICAS", " 2 ", 2, 3, 3),
    ("replicate", "COLOCACHE_REPLICATE", "All", "all", "worthwhile", "worthwhile"),
    ("handoff", "COLOCACHE_HANDOFF", "500ms", 0.5, 0, 0.0),
    ("role", "COLOCACHE_ROLE", "server", "server", "PEER", "peer"),
]
#: The one that only stands beside `listen`.
PEERS = ("peers", "COLOCACHE_PEERS", "WEB1:7400, 10.0.0.5:1", "web1:7400,10.0.0.5:1", "file:/p", "file:/p")


def test_the_choices_cover_every_setting():
    assert {row[0] for row in (*CHOICES, PEERS)} == set(SETTINGS) == set(FORMS)


@pytest.mark.parametrize(("name", "variable", "text", "meant", "argument", "chosen"), [*CHOICES, PEERS])
def test_argument_before_variable_before_default(name, variable, text, meant, argument, chosen):
    environ = {"COLOCACHE_GROUP": "shop", variable: text}
    if name == "peers":
        environ["COLOCACHE_LISTEN"] = LOOPBACK

    def choose(**arguments):
        return getattr(Config.resolve(arguments, environ), name)

    assert (choose(), choose(**{name: UNSET}), choose(**{name: argument})) == (meant, meant, chosen)
    assert type(choose()) is type(meant)
    assert type(choose(**{name: argument})) is type(chosen)


@pytest.mark.parametrize("blank", ["", "  ", "\t\n"])
@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "group"])
def test_an_empty_variable_is_unset(name, blank):
    assert resolve({SETTINGS[name].variable: blank}) == resolve()


def test_spaces_around_a_variable_do_not_make_another_group():
    assert Config.resolve({}, {"COLOCACHE_GROUP": " shop\n"}).group == "shop"


def test_a_variable_that_is_overridden_is_not_read():
    assert resolve({"COLOCACHE_LOAD_TIMEOUT": "junk"}, load_timeout=1).load_timeout == 1


def test_only_the_given_environment_is_read(monkeypatch):
    monkeypatch.setenv("COLOCACHE_TTL", "9s")
    monkeypatch.setenv("COLOCACHE_GROUP", "from the process")
    assert resolve() == Config.resolve({"group": "shop"}, {})
    with pytest.raises(ConfigError):
        Config.resolve({}, {})


def test_a_missing_group_says_how_to_give_it():
    expected = 'the cache has no group: name it in code, Cache("shop"), or set COLOCACHE_GROUP=shop'
    assert message(group=UNSET) == expected
    assert message({"COLOCACHE_GROUP": ""}, group=UNSET) == expected


def test_an_unknown_argument_is_a_type_error():
    with pytest.raises(TypeError, match=r"no setting 'polisy'; did you mean policy\?"):
        resolve(polisy="lru")
    with pytest.raises(TypeError, match="no setting 'zzz'; there are group, disabled, "):
        resolve(zzz=1)


@pytest.mark.parametrize("name", ["lease", "max_stale", "fetch_timeout", "switch_interval", "forget_after"])
def test_settings_of_0_1_are_unknown(name):
    """Whoever upgrades is told, by an error in code and by a warning about the environment."""
    with pytest.raises(TypeError, match=f"no setting {name!r}; "):
        resolve(**{name: 1})
    with pytest.warns(UserWarning, match=f"^COLOCACHE_{name.upper()} is not a setting of colocache and is ignored"):
        resolve({f"COLOCACHE_{name.upper()}": "1s"})


# --- refusals: the name, the value, the accepted form ---

REFUSED_TEXTS = [
    ("group", "a\tb"),
    ("group", "a\u2028b"),
    ("group", "a\udc80"),
    ("group", "x" * 101),
    ("disabled", "2"),
    ("disabled", "nope"),
    ("private", "maybe"),
    ("memory", "1048575"),
    ("memory", "64"),
    ("memory", "1.5GiB"),
    ("memory", "64M"),
    ("memory", "-1MiB"),
    ("memory", "MiB"),
    ("memory", "9" * 5000),
    ("memory", "٦٤MiB"),
    ("shelf", "1023KiB"),
    ("shelf", "256"),
    ("shelf", "65GiB"),
    ("ttl", "-5"),
    ("ttl", "nan"),
    ("ttl", "inf"),
    ("ttl", "5 parsecs"),
    ("ttl", "30m1h"),
    ("ttl", "1s1s"),
    ("ttl", "1h30"),
    ("ttl", "1e3"),
    ("ttl", ".5s"),
    ("ttl", "s"),
    ("ttl", "36501d"),
    ("ttl", "9" * 400 + "d"),
    ("policy", "fifo"),
    ("load_timeout", "0"),
    ("load_timeout", "0.9ms"),
    ("load_timeout", "-1s"),
    ("load_timeout", "never"),
    ("audit", "some"),
    ("audit", "-0.001"),
    ("audit", "1.001"),
    ("audit", "0.1%"),
    ("audit", "nan"),
    ("directory", "run/colocache"),
    ("directory", "~/colocache"),
    ("directory", "/run/\0"),
    ("listen", "7400"),
    ("listen", "web1:7400"),
    ("listen", "*:7400"),
    ("listen", "127.0.0.1:0"),
    ("peers_interval", "99ms"),
    ("peers_interval", "never"),
    ("secret_file", "secret"),
    ("expect", "0"),
    ("expect", "4097"),
    ("expect", "four"),
    ("expect", "-1"),
    ("host", "w" * 65),
    ("host", "web\n1"),
    ("advertise", "web1:7400"),
    ("advertise", "0.0.0.0:7400"),
    ("advertise", "10.0.0.7"),
    ("advertise", "10.0.0.7:1,10.0.0.8:1"),
    ("forget", "sometimes"),
    ("replicas", "0"),
    ("replicas", "4"),
    ("replicas", "2.0"),
    ("replicas", "-1"),
    ("replicate", "some"),
    ("handoff", "never"),
    ("role", "owner"),
]


def shown(value: object) -> str:
    return repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "..."


def test_the_refusals_cover_every_setting():
    assert {name for name, _ in REFUSED_TEXTS} == set(SETTINGS) - {"peers", "secret"}


@pytest.mark.parametrize(("name", "text"), REFUSED_TEXTS)
def test_a_bad_value_is_named_with_where_it_came_from(name, text):
    variable = SETTINGS[name].variable
    arguments = {"group": UNSET} if name == "group" else {}
    assert message({variable: text}, **arguments) == f"{variable}={shown(text)} cannot be used: give {FORMS[name]}"
    assert message(**{name: text}) == f"{name}={shown(text)} cannot be used: give {FORMS[name]}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("group", ""),
        ("group", "shop "),
        ("memory", 2**20 - 1),
        ("memory", -1),
        ("shelf", 2**20 - 1),
        ("shelf", 2**36 + 1),
        ("ttl", -0.001),
        ("ttl", math.nan),
        ("ttl", -math.inf),
        ("ttl", 10**400),
        ("ttl", timedelta(seconds=-1)),
        ("ttl", timedelta.max),
        ("load_timeout", math.inf),
        ("load_timeout", -1),
        ("audit", 2),
        ("audit", 10**400),
        ("audit", math.nan),
        ("directory", ""),
    ],
)
def test_a_bad_argument_is_named(name, value):
    assert message(**{name: value}) == f"{name}={shown(value)} cannot be used: give {FORMS[name]}"


@pytest.mark.parametrize("size", ["1MiB", "64GiB", 2**20, 2**36])
def test_every_shelf_that_can_be_asked_for_can_be_laid_out(size):
    shelf = resolve(shelf=size).shelf
    assert geometry(shelf).capacity == shelf


def test_a_number_that_python_does_not_write_out_is_refused_like_any_other():
    text = "<int whose repr raises ValueError>"
    assert message(ttl=10**5000) == f"ttl={text} cannot be used: give {FORMS['ttl']}"
    with pytest.raises(TypeError, match=f"^group={text} has the wrong type, int: "):
        resolve(group=10**5000)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("group", None, "NoneType"),
        ("group", b"shop", "bytes"),
        ("disabled", 1, "int"),
        ("private", 1, "int"),
        ("memory", 1e9, "float"),
        ("expect", True, "bool"),
        ("expect", 2.0, "float"),
        ("memory", True, "bool"),
        ("ttl", True, "bool"),
        ("ttl", [5], "list"),
        ("policy", None, "NoneType"),
        ("shelf", None, "NoneType"),
        ("load_timeout", None, "NoneType"),
        ("load_timeout", False, "bool"),
        ("load_timeout", b"1s", "bytes"),
        ("load_timeout", 1j, "complex"),
        ("audit", True, "bool"),
        ("audit", None, "NoneType"),
        ("directory", b"/run", "bytes"),
        ("listen", 7400, "int"),
        ("peers", ["web1:7400"], "list"),
        ("host", b"web1", "bytes"),
        ("role", None, "NoneType"),
    ],
)
def test_a_wrong_type_is_a_type_error_that_names_it(name, value, kind):
    with pytest.raises(TypeError) as caught:
        resolve(**{name: value})
    assert str(caught.value) == f"{name}={value!r} has the wrong type, {kind}: give {FORMS[name]}"


# --- other hosts ---


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("web1", "item 1, 'web1': it has no port: give a host and a port, as in web1:7400, "),
        ("web1:7400,http://web2", "item 2, 'http://web2': it is a URL: leave http:// out, and give a host and a port"),
    ],
)
def test_an_item_of_the_peers_that_cannot_be_used_is_named(text, why):
    assert message({"COLOCACHE_PEERS": text}).startswith(f"COLOCACHE_PEERS={text!r} cannot be used: {why}")
    assert message(peers=text).startswith(f"peers={text!r} cannot be used: {why}")


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        ("hunter2", "the secret has 7 characters, and must have at least 32: `colocache secret` prints a good one"),
        (f"{SECRET},hunter2", "secret 2 of 2 has 7 characters, and must have at least 32: "),
        ("hunter2" * 200, "the secret has 1400 characters, and may have 1024 at most: "),
        ("hünter2" * 10, "the secret may have only printable ASCII characters, without commas: "),
    ],
)
def test_no_error_shows_a_secret(secret, why):
    for found, name in (message({"COLOCACHE_SECRET": secret}), "COLOCACHE_SECRET"), (message(secret=secret), "secret"):
        assert found.startswith(f"{name} cannot be used: {why}")
        assert "nter2" not in found
    with pytest.raises(TypeError) as caught:
        resolve(secret=secret.encode())
    assert str(caught.value) == f"secret has the wrong type, bytes: give {FORMS['secret']}"


def test_no_repr_shows_a_secret():
    chosen = resolve(secret=SECRET, listen=LOOPBACK)
    assert "aaa" not in repr(chosen) + repr(chosen.hosts())
    assert "listen='127.0.0.1:7400'" in repr(chosen)


def test_a_group_has_several_hosts_if_one_listens():
    assert not resolve().has_hosts
    assert not resolve(secret=SECRET, host="web1").has_hosts
    assert resolve(listen=LOOPBACK).has_hosts


@pytest.mark.parametrize("setting", ["private", "disabled"])
def test_a_cache_without_others_speaks_with_no_host(setting):
    assert not resolve(peers="web1:7400", listen="0.0.0.0:7400", **{setting: True}).has_hosts


def test_what_concerns_other_hosts_is_given_as_their_sockets_need_it():
    chosen = resolve(
        listen="0.0.0.0:7400", peers="web1:7400,10.0.0.5:1", peers_interval=1, secret=f"{SECRET},{OTHER_SECRET}",
        host="web2", advertise="10.0.0.7:7400", role="server",
    ).hosts()  # fmt: skip
    assert (chosen.group, chosen.name, str(chosen.listen), chosen.interval) == ("shop", "web2", "0.0.0.0:7400", 1.0)
    assert [str(item) for item in chosen.peers] == ["web1:7400", "10.0.0.5:1"]
    assert [secret.text for secret in chosen.secrets] == [SECRET, OTHER_SECRET]
    assert (str(chosen.advertise), chosen.is_preferred) == ("10.0.0.7:7400", True)


def test_a_host_is_called_as_the_system_calls_it(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "web7")
    assert resolve(listen=LOOPBACK).hosts().name == "web7"
    monkeypatch.setattr("socket.gethostname", lambda: "w" * 65)
    assert message(listen=LOOPBACK).endswith("which cannot be used: set COLOCACHE_HOST to another name")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"peers": "web1:7400"}, "COLOCACHE_PEERS=web1:7400 lists other hosts, and this one listens nowhere"),
        (
            {"listen": "0.0.0.0:7400"},
            "COLOCACHE_LISTEN=0.0.0.0:7400 can be reached from other hosts, and the group has",
        ),
        ({"listen": LOOPBACK, "secret": SECRET, "secret_file": "/s"}, "COLOCACHE_SECRET and COLOCACHE_SECRET_FILE are"),
        ({"listen": LOOPBACK, "secret_file": "/nowhere"}, "COLOCACHE_SECRET_FILE=/nowhere cannot be read: "),
        ({"role": "client"}, "COLOCACHE_ROLE=client says that other hosts keep everything for this one, and none is"),
        (
            {"role": "client", "peers": "web1:7400", "listen": LOOPBACK},
            f"COLOCACHE_LISTEN={LOOPBACK} and COLOCACHE_ROLE=client do not fit together",
        ),
        (
            {"role": "client", "peers": "10.0.0.5:7400"},
            "COLOCACHE_PEERS=10.0.0.5:7400 lists other hosts, and the group",
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(settings, text):
    assert message(**settings).startswith(text)


def test_a_client_listens_nowhere_and_is_private_without_peers():
    hosts = resolve(role="client", peers="10.0.0.5:7400", secret=SECRET, host="web3").hosts()
    assert (hosts.listen, hosts.advertise, hosts.name) == (None, None, "web3")
    assert resolve(role="client", peers="127.0.0.1:7400").has_hosts, "on loopback no secret is needed"
    assert not resolve(role="client", private=True).has_hosts
    assert not resolve(role="client", disabled=True).has_hosts


def test_the_secret_may_stand_in_a_file(tmp_path):
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n{OTHER_SECRET}\n")
    file.chmod(0o600)
    chosen = resolve(listen="0.0.0.0:7400", secret_file=file)
    assert [secret.text for secret in chosen.hosts().secrets] == [SECRET, OTHER_SECRET]


# --- unknown variables ---


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("COLOCACHE_TTTL", "did you mean COLOCACHE_TTL?"),
        ("COLOCACHE_SHELVES", "did you mean COLOCACHE_SHELF?"),
        ("COLOCACHE_TIMEOUT", "did you mean COLOCACHE_LOAD_TIMEOUT?"),
        ("COLOCACHE_MEM", "did you mean COLOCACHE_MEMORY?"),
        ("COLOCACHE_DISABLE", "did you mean COLOCACHE_DISABLED?"),
        ("COLOCACHE_", "there are COLOCACHE_GROUP, COLOCACHE_DISABLED, "),
        ("COLOCACHE_SECRETS", "did you mean COLOCACHE_SECRET?"),
    ],
)
def test_an_unknown_variable_warns_with_the_nearest_name(name, advice):
    with pytest.warns(UserWarning, match="is ignored") as caught:
        resolve({name: "hunter2"})
    (text,) = [str(warning.message) for warning in caught]
    assert text.startswith(f"{name} is not a setting of colocache and is ignored; {advice}")
    assert "hunter2" not in text


@pytest.mark.parametrize("part", ["ZONE", "GATEWAYS", "WITNESS"])
def test_what_does_not_exist_yet_is_unknown(part):
    with pytest.warns(UserWarning, match=f"^COLOCACHE_{part} is not a setting"):
        resolve({f"COLOCACHE_{part}": "1"})


def test_an_unknown_variable_warns_once_per_name():
    unknown = {f"COLOCACHE_{letter}": "1" for letter in "HGFEDCBA"}
    with pytest.warns(UserWarning, match="is ignored") as caught:
        resolve(unknown)
    resolve(dict.fromkeys(unknown, "2"))  # a second warning would be an error
    assert [str(warning.message).split()[0] for warning in caught] == sorted(unknown)


def test_other_and_empty_variables_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolve({"COLOCACHE_TTTL": " ", "COLOCACHEX": "1", "MY_COLOCACHE_TTTL": "1", "PATH": "/bin"})


def test_the_warning_points_at_the_line_that_makes_the_cache():
    def constructor_of_a_cache():
        resolve_as_caches_do({"group": "shop"}, {"COLOCACHE_TTTL": "1"})

    resolve_as_caches_do = Config.resolve
    with pytest.warns(UserWarning, match="TTTL") as caught:
        constructor_of_a_cache()
    line = sys._getframe().f_lineno - 1
    assert (caught[0].filename, caught[0].lineno) == (__file__, line)


# --- the object and the table ---


def test_frozen_slotted_and_keyword_only():
    chosen = resolve()
    with pytest.raises(dataclasses.FrozenInstanceError):
        chosen.ttl = 1.0
    assert not hasattr(chosen, "__dict__")
    assert hash(chosen) == hash(resolve())
    with pytest.raises(TypeError):
        Config(*dataclasses.astuple(chosen))


def test_replacing_a_setting_checks_again():
    assert dataclasses.replace(resolve(), load_timeout=1).load_timeout == 1
    with pytest.raises(ConfigError, match=r"^load_timeout=0 cannot be used"):
        dataclasses.replace(resolve(), load_timeout=0)


#: The type of a field, and the type of the argument that gives it.
GIVEN_AS = {
    str: str,
    bool: bool,
    int: int | str,
    int | None: int | str | None,
    float: Duration,
    float | None: Duration | None,
    str | None: str,
    PolicyName: str,
    ForgetName: str,
    ReplicateName: str,
    RoleName: str,
}


def test_the_cache_takes_an_argument_for_each_setting():
    fields = typing.get_type_hints(Config)
    del fields["group"]  # it has a place of its own
    expected = {name: GIVEN_AS[kind] for name, kind in fields.items()}
    expected["audit"] = float | str  # a share, and no duration
    assert typing.get_type_hints(Arguments) == expected


def test_no_two_settings_have_the_same_variable():
    assert list(SETTINGS) == [field.name for field in dataclasses.fields(Config)]
    variables = [setting.variable for setting in SETTINGS.values()]
    assert len(set(variables)) == len(variables)
    assert all(variable.startswith("COLOCACHE_") for variable in variables)


def test_each_setting_can_be_documented():
    for setting in SETTINGS.values():
        assert setting.default_in_words or setting.default
        assert setting.meaning[0].isupper()
        assert setting.meaning.endswith(".")


def test_the_default_can_be_written_into_the_variable():
    written = {each.variable: each.default for each in SETTINGS.values() if isinstance(each.default, str)}
    assert len(written) == 14
    assert resolve(written) == resolve()


# --- durations ---


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("250ms", 0.25),
        ("5s", 5.0),
        ("90s", 90.0),
        ("1h30m", 5400.0),
        ("2d", 172800.0),
        ("1.5s", 1.5),
        ("300", 300.0),
        ("0.5", 0.5),
        ("0", 0.0),
        ("5m", 300.0),
        ("5ms", 0.005),
        ("1m5ms", 60.005),
        ("1.001s", 1.001),
        ("1s1ms", 1.001),
        ("1d2h3m4s5ms", 93784.005),
        (" 1H 30 M ", 5400.0),
        ("36500d", float(LONGEST_SECONDS)),
        (7, 7.0),
        (0, 0.0),
        (0.25, 0.25),
        (timedelta(hours=1, milliseconds=5), 3600.005),
    ],
)
def test_durations(value, seconds):
    assert parse_duration(value) == parse_ttl(value) == seconds
    assert type(parse_duration(value)) is type(parse_ttl(value)) is float


def test_no_time_is_never_negative():
    assert math.copysign(1, parse_duration(-0.0)) == math.copysign(1, parse_ttl(-0.0)) == 1


@pytest.mark.parametrize("value", [None, "never", "NEVER", " none ", math.inf])
def test_for_ever(value):
    assert parse_ttl(value) is None
    with pytest.raises((ConfigError, TypeError)):
        parse_duration(value)


@pytest.mark.parametrize("value", ["", "  ", "junk", "-1", "1h30", "nan", "inf", -1, math.nan, LONGEST_SECONDS + 1])
def test_a_text_that_is_not_a_duration_is_refused(value):
    with pytest.raises(ConfigError) as caught:
        parse_duration(value)
    assert str(caught.value) == f"duration={value!r} cannot be used: give {FROM_0}"
    with pytest.raises(ConfigError, match=r"^timeout="):
        parse_duration(value, "timeout")
    with pytest.raises(ConfigError) as caught:
        parse_ttl(value)
    assert str(caught.value) == f"ttl={value!r} cannot be used: give {TTL}"


@pytest.mark.parametrize("value", [True, False, b"5s", [5], 1j, object])
def test_a_duration_of_another_type(value):
    with pytest.raises(TypeError, match=r"^timeout=.* has the wrong type"):
        parse_duration(value, "timeout")
    with pytest.raises(TypeError, match=r"^ttl=.* has the wrong type"):
        parse_ttl(value)


UNIT_MILLISECONDS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}


def format_duration(milliseconds: int, units: list[str], gap: str) -> str:
    parts = []
    for unit in sorted({*units, "ms"}, key=list(UNIT_MILLISECONDS).index):
        count, milliseconds = divmod(milliseconds, UNIT_MILLISECONDS[unit])
        parts.append(f"{count}{gap}{unit}")
    return gap.join(parts)


@replayable
@given(
    st.integers(0, LONGEST_SECONDS * 1000),
    st.lists(st.sampled_from(list(UNIT_MILLISECONDS)), unique=True),
    st.sampled_from(["", " "]),
)
def test_a_formatted_duration_parses_back(milliseconds, units, gap):
    text = format_duration(milliseconds, units, gap)
    assert parse_duration(text) == milliseconds / 1000
    assert parse_duration(text.upper()) == milliseconds / 1000


@replayable
@given(st.floats(allow_nan=True) | st.integers() | st.timedeltas())
@example(10**400)
@example(LONGEST_SECONDS)
@example(math.nextafter(LONGEST_SECONDS, math.inf))
def test_a_number_is_taken_as_it_is_or_refused(value):
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if 0 <= seconds <= LONGEST_SECONDS:
        assert parse_duration(value) == parse_ttl(value) == seconds
    else:
        with pytest.raises(ConfigError):
            parse_duration(value)


# Texts of the grammar's letters find the holes in the grammar; free text finds the rest.
ALMOST = st.text(st.sampled_from("0123456789.dhmsDHMS kKibBgG-+e_\n"), max_size=12) | st.text(max_size=6)


@replayable
@given(ALMOST)
@example("1" * 5000)
@example("1d" + " " * 5000 + "x")
def test_text_is_parsed_or_refused_and_nothing_else(text):
    for parse, limit in ((parse_duration, LONGEST_SECONDS), (parse_size, 10**18 * 2**30)):
        try:
            parsed = parse(text)
        except ConfigError:
            continue
        assert 0 <= parsed <= limit


# --- sizes ---


def parse_size(value: object) -> int:
    """Return a size as the setting ``memory`` reads it, however small it is."""
    return config._read(config._size, value, "size", config._SIZE_FORM)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("64MiB", 67_108_864),
        ("64MB", 64_000_000),
        ("512KiB", 524_288),
        ("1GiB", 1_073_741_824),
        ("1 gb", 1_000_000_000),
        ("3kb", 3000),
        ("65536", 65536),
        ("17B", 17),
        ("0", 0),
        (0, 0),
        (12345, 12345),
    ],
)
def test_sizes(value, size):
    assert parse_size(value) == size


@pytest.mark.parametrize("value", ["", "64M", "64 Mi", "1.5GiB", "-1", "MiB", "1TiBx", "6 4", "1_000", -1])
def test_a_text_that_is_not_a_size_is_refused(value):
    with pytest.raises(ConfigError) as caught:
        parse_size(value)
    assert str(caught.value) == f"size={value!r} cannot be used: give {SIZE}"


@pytest.mark.parametrize("value", [True, 1.0, None, b"1MiB"])
def test_a_size_of_another_type(value):
    with pytest.raises(TypeError, match=r"^size=.* has the wrong type"):
        parse_size(value)


UNIT_BYTES = {"": 1, "B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


@replayable
@given(st.integers(0, 10**18 - 1), st.sampled_from(list(UNIT_BYTES)), st.sampled_from(["", " "]), st.booleans())
def test_a_formatted_size_parses_back(count, unit, gap, shout):
    text = f"{count}{gap}{unit}"
    assert parse_size(text.upper() if shout else text) == count * UNIT_BYTES[unit]


# --- The options of a server


def test_each_setting_that_a_server_has_use_for_is_an_option(monkeypatch):
    """Also one that comes to the table later."""
    known = {name: option for name, (option, _) in server_options().items()}
    assert known == {
        "group": "--group", "shelf": "--memory", "directory": "--dir", "expect": "--expect",
        "listen": "--listen", "peers": "--peers", "peers_interval": "--peers-interval",
        "secret_file": "--secret-file", "host": "--host",
        "advertise": "--advertise", "forget": "--forget", "replicas": "--replicas", "replicate": "--replicate",
            "handoff": "--handoff", "health": "--health",
    }  # fmt: skip
    assert "secret" not in known, "all users of the machine could read it"
    later = dataclasses.replace(SETTINGS["directory"], variable="COLOCACHE_COMES_LATER")
    monkeypatch.setitem(SETTINGS, "comes_later", later)
    assert server_options()["comes_later"] == ("--comes-later", later)


def test_the_variables_of_a_server_are_known_to_a_cache(recwarn):
    resolve({"COLOCACHE_HEALTH": "x"})
    assert not recwarn.list


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:7401", ("127.0.0.1", 7401)),
        ("[::1]:7401", ("::1", 7401)),
        ("localhost:0", ("localhost", 0)),
        (" 7401 ", ("127.0.0.1", 7401)),
        (None, None),
    ],
)
def test_an_address(text, address):
    assert SERVER_SETTINGS["health"].read(text, "--health") == address


@pytest.mark.parametrize("text", ["", "x", ":1", "x:", "x:1:2", "::1:80", "[]:1", "a b:1", "1:65536", "1:-1", "x:1²"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ConfigError, match=r"^--health=.* cannot be used: give an address and a port, such as"):
        SERVER_SETTINGS["health"].read(text, "--health")
