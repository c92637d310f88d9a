"""The settings of a cache. No other module of the package reads ``COLOCACHE_*`` variables.

`Config` is the table: all that is known about a setting stands there, once. Resolving, checking, the texts of errors
and the documentation read the table. This module reads nothing when it is imported: the environment is an argument.
"""

from __future__ import annotations

import difflib
import enum
import math
import os.path
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar, get_args

from .core.host.layout import MAX_CAPACITY
from .errors import ConfigError
from .interruptions import raise_if_from_handler
from .naming import shown
from .runtime.board_file import SEATS

if TYPE_CHECKING:
    from .runtime.network.settings import Settings

Duration: TypeAlias = float | timedelta | str
PolicyName: TypeAlias = Literal["s3fifo", "sieve", "lru", "lfu"]
ForgetName: TypeAlias = Literal["auto", "majority", "always", "never"]
ReplicateName: TypeAlias = Literal["worthwhile", "all"]
RoleName: TypeAlias = Literal["peer", "server", "client"]
_Parsed = TypeVar("_Parsed")


class Unset(enum.Enum):
    """The type of `UNSET`, which marks an argument that was not given. None is a value: a ttl of None is for ever."""

    UNSET = enum.auto()

    def __repr__(self) -> str:
        return self.name


UNSET: Final = Unset.UNSET

# A hundred years. `threading` refuses to wait longer than 292 (threading.TIMEOUT_MAX). One comparison with this
# number also keeps out nan, infinity and integers that are too large for a float.
LONGEST_SECONDS: Final = 36500 * 86400

# The parsers below raise a bare TypeError or ValueError. `_read` puts it into words.
_FOREVER = frozenset({"never", "none"})
_FLAGS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}

# Units stand in falling order, each at most once: "1h30m", not "30m1h". So a typing error is not added up.
_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds", "ms": "milliseconds"}
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_DURATION = re.compile("".join(rf"(?:(?P<{name}>{_NUMBER.pattern})\s*{unit}\s*)?" for unit, name in _UNITS.items()))

# "64M" is refused, because it means 64 * 1000 * 1000 bytes in some tools, and 64 * 1024 * 1024 in others.
_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SIZE = re.compile(rf"([0-9]+)\s*({'|'.join(_BYTES)})")


def _word(text: str) -> str:
    return text.strip().lower()


def _seconds_in_text(text: str) -> float:
    if _NUMBER.fullmatch(text):
        return float(text)
    match = _DURATION.fullmatch(text)
    parts = {name: float(number) for name, number in match.groupdict().items() if number} if match else {}
    if not parts:
        raise ValueError(text)
    return timedelta(**parts).total_seconds()


def _any_seconds(value: object) -> float:
    if isinstance(value, str):
        return _seconds_in_text(_word(value))
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(value)
    return value


def _duration(value: object) -> float:
    seconds = _any_seconds(value)
    if not 0 <= seconds <= LONGEST_SECONDS:
        raise ValueError(value)
    return seconds + 0.0  # always a float, and never -0.0


def _duration_or_never(value: object) -> float:
    forever = value is None or value == math.inf or (isinstance(value, str) and _word(value) in _FOREVER)
    return math.inf if forever else _duration(value)


def _ttl(value: object) -> float | None:
    seconds = _duration_or_never(value)
    return None if seconds == math.inf else seconds


def _bytes_in_text(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(text)
    return int(match[1]) * _BYTES[match[2]]


def _size(value: object) -> int:
    if isinstance(value, str):
        return _bytes_in_text(_word(value))
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(value)
    if value < 0:
        raise ValueError(value)
    return value


def _count(least: int, most: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise TypeError(value)
        number = int(value) if not isinstance(value, str) or re.fullmatch("[0-9]{1,9}", _word(value)) else -1
        if not least <= number <= most:
            raise ValueError(value)
        return number

    return parse


def _share(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(value)
    share = float(value)
    if not 0 <= share <= 1:  # nan, too
        raise ValueError(value)
    return share


def _processes(value: object) -> int | None:
    return None if value is None else _count(1, SEATS)(value)


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = _word(_text(value))
    if word not in _FLAGS:
        raise ValueError(value)
    return _FLAGS[word]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _group(value: object) -> str:
    # A space at an end is refused: nobody can see it, and it would make a second group.
    name = _text(value)
    if not (1 <= len(name) <= 100 and name.isprintable() and name == name.strip()):
        raise ValueError(value)
    return name


def _one_of(names: Any) -> Callable[[object], str]:
    def parse(value: object) -> str:
        name = _word(_text(value))
        if name not in get_args(names):
            raise ValueError(value)
        return name

    return parse


def _directory(value: object) -> str | None:
    if value is None:
        return None
    path = _text(os.fspath(value) if isinstance(value, os.PathLike) else value)
    if not os.path.isabs(path) or "\0" in path:
        raise ValueError(value)
    return path


# Those about other hosts import what reads them only if there is something to read.


class _Because(ValueError):
    """Why a value cannot be used, where the parser knows better than the form. It follows the name and the value."""


def _given(value: object) -> str:
    """Return a text, stripped; empty if there is none. The value of a field may be None."""
    return "" if value is None else _text(value).strip()


def _listen(value: object) -> str | None:
    text = _given(value)
    if not text:
        return None
    from .runtime.network.addresses import parse_listen

    return str(parse_listen(text))


def _peers(value: object) -> str | None:
    text = _given(value)
    if not text:
        return None
    from .runtime.network.peers import parse_peers

    try:
        items = parse_peers(text, "")
    except ConfigError as error:
        raise _Because(str(error).removeprefix(", ")) from None
    return ",".join(map(str, items)) or None


def _host(value: object) -> str | None:
    name = _given(value)
    if not name:
        return None
    from .core.hosts.rows import MAX_NAME

    if len(name.encode("utf-8", "surrogatepass")) > MAX_NAME or not name.isprintable():
        raise ValueError(value)
    return name


def _advertise(value: object) -> str | None:
    text = _given(value)
    if not text:
        return None
    from .runtime.network.wire import told_address

    address = told_address(text)
    if address is None:
        raise ValueError(value)
    return str(address)


def _secret(value: object) -> str | None:
    text = _given(value)
    if not text:
        return None
    from .runtime.network.secret import VARIABLE, read_secrets

    try:
        return ",".join(secret.text for secret in read_secrets(text, None))
    except ConfigError as error:  # its text shows no secret
        raise _Because(str(error).removeprefix(VARIABLE).removeprefix(": ")) from None


_AT = re.compile(r"(?:(?:\[(?P<v6>[^\[\]\s]+)\]|(?P<host>[^\[\]:\s]+)):)?(?P<port>[0-9]{1,5})", re.ASCII)


def _address(value: object) -> tuple[str, int] | None:
    """Return an IP address, or a name, and a port. A port alone is one of this host, which others do not reach."""
    if value is None:
        return None
    match = _AT.fullmatch(_text(value).strip())
    if match is None or int(match["port"]) >= 1 << 16:
        raise ValueError(value)
    return match["v6"] or match["host"] or "127.0.0.1", int(match["port"])


def _at_least(least: float, parse: Callable[[object], float]) -> Callable[[object], float]:
    return _from_to(least, math.inf, parse)


def _from_to(least: float, most: float, parse: Callable[[object], float]) -> Callable[[object], float]:
    def parse_within(value: object) -> float:
        parsed = parse(value)
        if not least <= parsed <= most:
            raise ValueError(value)
        return parsed

    return parse_within


def _duration_form(least: str) -> str:
    text = 'a number of seconds, or text such as "250ms", "5s" or "1h30m", or in code a timedelta'
    return f"a duration from {least} to {LONGEST_SECONDS // 86400}d: {text}"


_DURATION_FORM = _duration_form("0")
_TTL_FORM = f'{_DURATION_FORM}; 0 stores nothing; "never", or in code None, is for ever'
_FLAG_FORM = '"true", "1", "yes" or "on", or "false", "0", "no" or "off"'
_SIZE_FORM = 'a whole number of bytes, or text such as "64MiB" (64 * 1024 * 1024) or "64MB" (64 * 1000 * 1000)'


def _read(parse: Callable[[object], _Parsed], value: object, name: str, form: str, is_secret: bool = False) -> _Parsed:
    """Return ``parse(value)``. If that fails, raise an error with the name, the value and the accepted form.

    A secret is not shown.
    """
    try:
        return parse(value)
    except TypeError as error:
        raise_if_from_handler(error)
        kind = type(value).__name__
        raise TypeError(f"{_named(name, value, is_secret)} has the wrong type, {kind}: give {form}") from None
    except _Because as why:
        raise ConfigError(f"{_named(name, value, is_secret)} cannot be used: {why}") from None
    except (ValueError, OverflowError) as error:
        raise_if_from_handler(error)
        raise ConfigError(f"{_named(name, value, is_secret)} cannot be used: give {form}") from None


def _named(name: str, value: object, is_secret: bool) -> str:
    return name if is_secret else f"{name}={shown(value, 80)}"


def parse_duration(value: Duration, name: str = "duration") -> float:
    """Return seconds, from a number of seconds, a timedelta, or text: ``"250ms"``, ``"5s"``, ``"1h30m"``, ``"300"``.

    Text may have fractions, and is exact to the microsecond. Its units are d, h, m, s, ms, in this order, in capital or
    small letters. Raise ConfigError, with ``name`` in it, if the value is negative, not a number, more than 36500
    days, or another text. Raise TypeError for any other type, bool included. Any thread may call it.
    """
    return _read(_duration, value, name, _DURATION_FORM)


def parse_ttl(value: Duration | None) -> float | None:
    """Return seconds to live, as `parse_duration` reads them. None, ``"never"`` and infinity mean for ever: None.

    0 means that nothing is stored. Raise ConfigError and TypeError as `parse_duration` does. Any thread may call it.
    """
    # The usual case comes first, because every call that names a ttl passes here. An exact type keeps out bool.
    if (type(value) is int or type(value) is float) and 0 <= value <= LONGEST_SECONDS:
        return value + 0.0
    return _read(_ttl, value, "ttl", _TTL_FORM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is known about one setting. ``form`` completes "give …", and ``meaning`` is one sentence.

    ``default`` is written as in the variable. If it has no such text, ``default_in_words`` says what it is.
    """

    variable: str
    parse: Callable[[object], object]
    default: str | Unset | None
    default_in_words: str = ""
    form: str
    meaning: str
    is_secret: bool = False  # so it is shown nowhere

    def read(self, value: object, name: str) -> object:
        """Return the parsed value. Errors call it ``name``, the name of the variable or of the argument."""
        return _read(self.parse, value, name, self.form, self.is_secret)

    def from_environ(self, environ: Mapping[str, str]) -> object:
        """Return the variable's parsed value, or the default. An empty variable counts as unset."""
        text = environ.get(self.variable, "").strip()
        return self.read(text, self.variable) if text else self.default


def _setting(
    variable: str,
    parse: Callable[[object], object],
    default: str | Unset | None,
    form: str,
    meaning: str,
    in_words: str = "",
    *,
    is_secret: bool = False,
) -> Any:
    """Return a field of `Config` without a default. `Config.resolve` gives it that of the setting."""
    row = Setting(
        variable=variable, parse=parse, default=default, default_in_words=in_words, form=form, meaning=meaning,
        is_secret=is_secret,
    )  # fmt: skip
    return field(metadata={"setting": row}, repr=not is_secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of one cache, checked when it is made. Threads may share it.

    This is the table of all settings: the variable, the parser, the default and the meaning of each stand beside it.
    Durations are in seconds. Use `resolve` to make a `Config`: the constructor knows no defaults, and raises the same
    errors.
    """

    group: str = _setting(
        "COLOCACHE_GROUP",
        _group,
        UNSET,
        "1 to 100 printable characters with no space at either end",
        "The name of the group: the processes that share one cache.",
        in_words="none: it must be given",
    )
    disabled: bool = _setting(
        "COLOCACHE_DISABLED", _flag, "false", _FLAG_FORM, "Switches the cache off: every read calls its loader."
    )
    private: bool = _setting(
        "COLOCACHE_PRIVATE",
        _flag,
        "false",
        _FLAG_FORM,
        "For tests: no other process shares the cache, and it needs no file, socket or thread.",
    )
    memory: int = _setting(  # bytes
        "COLOCACHE_MEMORY",
        # Less than 1 MiB means that a unit was forgotten: "64" is 64 bytes, and such a cache holds nothing.
        _at_least(2**20, _size),
        "32MiB",
        f"a size of at least 1MiB: {_SIZE_FORM}",
        "The memory for the objects that this process keeps near.",
    )
    shelf: int = _setting(  # bytes
        "COLOCACHE_SHELF",
        _from_to(2**20, MAX_CAPACITY, _size),
        "256MiB",
        f"a size from 1MiB to {MAX_CAPACITY >> 30}GiB: {_SIZE_FORM}",
        "The memory for values that all processes of the host share. It is taken as it is needed. "
        "If the file system of the runtime directory has less room, it is smaller.",
    )
    ttl: float | None = _setting(  # None: for ever; 0: nothing is stored
        "COLOCACHE_TTL", _ttl, "300s", _TTL_FORM, "How long a value lives if the call does not say."
    )
    policy: PolicyName = _setting(  # noqa: RUF009 (it makes a field)
        "COLOCACHE_POLICY",
        _one_of(PolicyName),
        "s3fifo",
        '"s3fifo", "sieve", "lru" or "lfu"',
        "Which values are removed when the memory is full.",
    )
    load_timeout: float = _setting(
        "COLOCACHE_LOAD_TIMEOUT",
        _at_least(0.001, _duration),
        "30s",
        _duration_form("1ms"),
        "How long a reader waits for somebody else's load of a key before it loads for itself.",
    )
    audit: float = _setting(
        "COLOCACHE_AUDIT",
        _share,
        "0",
        "a share of the hits from 0 to 1, such as 0.001",
        "The share of the hits of decorated functions whose value is loaded once more in the background, and compared. "
        "0 is none.",
    )
    directory: str | None = _setting(  # None: the default
        "COLOCACHE_DIR",
        _directory,
        None,
        "an absolute path",
        "The runtime directory, in which the processes of one host find the memory that they share.",
        in_words="one per user, on /dev/shm if that has room, otherwise in the system's temp directory",
    )
    expect: int | None = _setting(
        "COLOCACHE_EXPECT",
        _processes,
        None,
        f"a whole number from 1 to {SEATS}",
        "How many processes of the group this host is to have, this one and those of `colocache serve` included. If "
        "fewer are there, the log says so.",
        in_words="none: nobody counts them",
    )
    listen: str | None = _setting(
        "COLOCACHE_LISTEN",
        _listen,
        None,
        'an IP address of this host and a port, such as "0.0.0.0:7400", "[::]:7400" or "10.0.0.7:7400"',
        "Where this host listens to the other hosts of the group.",
        in_words="none: the group has one host",
    )
    peers: str | None = _setting(
        "COLOCACHE_PEERS",
        _peers,
        None,
        'items with commas between them, such as "web1:7400,10.0.0.5:7400"; also "srv:NAME" and "file:/PATH"',
        "Where the other hosts may be found. A name counts with all its addresses, and is looked up again and again.",
        in_words="none",
    )
    peers_interval: float = _setting(
        "COLOCACHE_PEERS_INTERVAL",
        _at_least(0.1, _duration),
        "5s",
        _duration_form("100ms"),
        "How long after an answer a name, a service or a file of `peers` is looked up again.",
    )
    secret: str | None = _setting(
        "COLOCACHE_SECRET",
        _secret,
        None,
        "32 to 1024 printable ASCII characters without commas; two with a comma between them while it is changed",
        "The secret of the group, without which nobody comes in from another host. Better use `secret_file`.",
        in_words="none; required to listen on more than loopback",
        is_secret=True,
    )
    secret_file: str | None = _setting(
        "COLOCACHE_SECRET_FILE",
        _directory,
        None,
        "an absolute path",
        "The file with the secret: one, or while it is changed two, each in a line of its own.",
        in_words="none",
    )
    host: str | None = _setting(
        "COLOCACHE_HOST",
        _host,
        None,
        "up to 64 bytes of printable characters",
        "The name of this host. No two hosts of a group have the same.",
        in_words="the name that the system gives the host",
    )
    advertise: str | None = _setting(
        "COLOCACHE_ADVERTISE",
        _advertise,
        None,
        'an IP address and a port, such as "10.0.0.7:7400" or "[2001:db8::1]:7400"',
        "Where other hosts reach this one, if its own address is another one, as behind NAT.",
        in_words="the address of `listen`, or the one from which it reaches other hosts",
    )
    forget: ForgetName = _setting(  # noqa: RUF009
        "COLOCACHE_FORGET",
        _one_of(ForgetName),
        "auto",
        '"auto", "majority", "always" or "never"',
        "When a host that is silent for 30 seconds is not waited for any more: if a majority of the hosts still hears "
        "each other, always, or never. `auto` is `always` where there are two hosts, and `majority` where there are "
        "more.",
    )
    replicas: int = _setting(
        "COLOCACHE_REPLICAS",
        _count(1, 3),
        "1",
        "a whole number from 1 to 3",
        "How many hosts are to have a value: its owner, and the next ones. With 2, what is worth it survives a host.",
    )
    replicate: ReplicateName = _setting(  # noqa: RUF009
        "COLOCACHE_REPLICATE",
        _one_of(ReplicateName),
        "worthwhile",
        '"worthwhile" or "all"',
        "What `replicas` is about: what was set, what another host has fetched, and what took 10 ms to load, or all.",
    )
    handoff: float = _setting(
        "COLOCACHE_HANDOFF",
        _duration,
        "1s",
        _DURATION_FORM,
        "How long the last process of a host that leaves hands its values over to other hosts, at most. 0 is not.",
    )
    role: RoleName = _setting(  # noqa: RUF009
        "COLOCACHE_ROLE",
        _one_of(RoleName),
        "peer",
        '"peer", "server" or "client"',
        "What this process is. A `server` speaks with other hosts before the other processes of its host do. A "
        "`client` belongs to a host that owns nothing: the hosts of `peers` keep everything for it, and it needs no "
        "`listen`.",
    )

    def __post_init__(self) -> None:
        for name, setting in SETTINGS.items():
            object.__setattr__(self, name, setting.read(getattr(self, name), name))
        if self.has_hosts or (self.role == "client" and not self.private and not self.disabled):
            self.hosts()

    @property
    def has_hosts(self) -> bool:
        """Whether the group may have several hosts. A cache that is private, or switched off, speaks with nobody."""
        return (self.listen is not None or self.peers is not None) and not (self.private or self.disabled)

    def hosts(self) -> Settings:
        """Return what concerns other hosts, for their sockets. Only if there are such: see `has_hosts`.

        The file with the secret is read anew. Raise ConfigError if it cannot be used, or if the settings do not fit.
        """
        from .runtime.network.settings import settings_of

        return settings_of(
            group=self.group, listen=self.listen, peers=self.peers, interval=self.peers_interval, secret=self.secret,
            secret_file=self.secret_file, host=self.host, advertise=self.advertise, is_preferred=self.role == "server",
            is_client=self.role == "client",
        )  # fmt: skip

    @classmethod
    def resolve(cls, arguments: Mapping[str, object], environ: Mapping[str, str]) -> Config:
        """Return the settings: each from its argument, otherwise from its variable, otherwise from its default.

        ``arguments`` are by the names of the fields. An argument that is absent or `UNSET` is not given; None is a
        value. A variable that an argument overrides is not read. A ``COLOCACHE_`` variable that is not a setting gives
        a warning, once per name and process.

        Raise ConfigError, with the name of the argument or variable, for a value that cannot be used, and for a missing
        group. Raise TypeError for an argument with a wrong type or an unknown name.
        """
        _warn_of_unknown(environ)
        for name in arguments:
            if name not in SETTINGS:
                close = difflib.get_close_matches(name, SETTINGS, 1)
                hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(SETTINGS)}"
                raise TypeError(f"the cache has no setting {name!r}{hint}")
        given = {name: value for name, value in arguments.items() if value is not UNSET}
        other = {name: setting.from_environ(environ) for name, setting in SETTINGS.items() if name not in given}
        chosen: dict[str, Any] = given | other
        if chosen["group"] is UNSET:
            raise ConfigError('the cache has no group: name it in code, Cache("shop"), or set COLOCACHE_GROUP=shop')
        return cls(**chosen)


SETTINGS: Final[Mapping[str, Setting]] = {each.name: each.metadata["setting"] for each in fields(Config)}

#: What `colocache serve` can be told beside the settings of a cache. The command reads it, and `Config` does not.
SERVER_SETTINGS: Final[Mapping[str, Setting]] = {
    "health": Setting(
        variable="COLOCACHE_HEALTH",
        parse=_address,
        default=None,
        default_in_words="none: nobody answers",
        form='an address and a port, such as "127.0.0.1:7401" or "[::1]:7401", or a port of 127.0.0.1 alone',
        meaning="Where the server answers by HTTP whether it lives (/livez) and whether it is joined (/readyz).",
    ),
}

#: Settings of a cache that say nothing to a server, or that it chooses itself. A secret does not belong on a command
#: line, where all users of the machine can read it.
_NO_OPTIONS: Final = frozenset({
    "disabled", "private", "memory", "ttl", "policy", "load_timeout", "audit", "role", "secret",
})  # fmt: skip

_PREFIX: Final = "COLOCACHE_"
_VARIABLES: Final = tuple(setting.variable for table in (SETTINGS, SERVER_SETTINGS) for setting in table.values())
_warned_of: Final[set[str]] = set()


def server_options() -> dict[str, tuple[str, Setting]]:
    """Return the options of `colocache serve` and their settings, by the names of the settings.

    Most settings of a cache are options: that of COLOCACHE_DIR is ``--dir``. The memory of a server is the shelf.
    """
    of_a_cache = {name: setting for name, setting in SETTINGS.items() if name not in _NO_OPTIONS}
    return {
        name: ("--memory" if name == "shelf" else _option(setting.variable), setting)
        for name, setting in {**of_a_cache, **SERVER_SETTINGS}.items()
    }


def _option(variable: str) -> str:
    return "--" + variable.removeprefix(_PREFIX).replace("_", "-").lower()


def _advice(variable: str) -> str:
    """Return the nearest known name. The prefix is left out, because with it all names would look alike."""
    known = [name.removeprefix(_PREFIX) for name in _VARIABLES]
    near = difflib.get_close_matches(variable.removeprefix(_PREFIX), known, n=1)
    return f"did you mean {_PREFIX}{near[0]}?" if near else f"there are {', '.join(_VARIABLES)}"


def _warn_of_unknown(environ: Mapping[str, str]) -> None:
    unknown = {name for name in environ if name.startswith(_PREFIX) and environ[name].strip()}.difference(_VARIABLES)
    for name in sorted(unknown - _warned_of):
        _warned_of.add(name)
        # The text shows no value, because that may be a secret. Level 4 is the code that called Cache(...).
        warnings.warn(f"{name} is not a setting of colocache and is ignored; {_advice(name)}", stacklevel=4)
