"""The settings of a cache: one frozen `Config`, and the only reader of ``COLOCACHE_*`` variables in the package.

`SETTINGS` is the table of them: whatever is known about a setting stands there once, and resolving, checking, the
texts of errors and the documentation are all driven by it. Nothing is read at import: the environment is an argument.
"""

from __future__ import annotations

import difflib
import enum
import math
import os.path
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, TypeAlias, TypeVar, get_args

from .errors import ConfigError

Duration: TypeAlias = float | timedelta | str
PolicyName: TypeAlias = Literal["s3fifo", "sieve", "lru", "lfu"]
_Parsed = TypeVar("_Parsed")


class Unset(enum.Enum):
    """The type of `UNSET`, which marks an argument that was not given; None is a value: a ttl of None is for ever."""

    UNSET = enum.auto()

    def __repr__(self) -> str:
        return self.name


UNSET: Final = Unset.UNSET

# A hundred years. threading refuses to wait longer than 292 (threading.TIMEOUT_MAX), and one comparison with it also
# keeps out nan, infinity and integers too big for a float.
LONGEST_SECONDS: Final = 36500 * 86400

# The parsers below raise a bare TypeError or ValueError; _read puts it into words.
_FOREVER = frozenset({"never", "none"})
_FLAGS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}

# Units stand in falling order, each at most once: "1h30m", never "30m1h", so a typing error is not added up.
_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds", "ms": "milliseconds"}
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_DURATION = re.compile("".join(rf"(?:(?P<{name}>{_NUMBER.pattern})\s*{unit}\s*)?" for unit, name in _UNITS.items()))

# "64M" is refused: some tools mean 64 * 1000 * 1000 bytes by it, and others 64 * 1024 * 1024.
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
    return seconds + 0.0  # a float whatever came, and never -0.0


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
    # A space at an end is refused because it cannot be seen, and would make a second group.
    name = _text(value)
    if not (1 <= len(name) <= 100 and name.isprintable() and name == name.strip()):
        raise ValueError(value)
    return name


def _policy(value: object) -> str:
    name = _word(_text(value))
    if name not in get_args(PolicyName):
        raise ValueError(value)
    return name


def _directory(value: object) -> str | None:
    if value is None:
        return None
    path = _text(os.fspath(value) if isinstance(value, os.PathLike) else value)
    if not os.path.isabs(path) or "\0" in path:
        raise ValueError(value)
    return path


def _at_least(least: float, parse: Callable[[object], float]) -> Callable[[object], float]:
    def parse_within(value: object) -> float:
        parsed = parse(value)
        if parsed < least:
            raise ValueError(value)
        return parsed

    return parse_within


def _duration_form(least: str) -> str:
    text = 'a number of seconds, or text such as "250ms", "5s" or "1h30m", or in code a timedelta'
    return f"a duration from {least} to {LONGEST_SECONDS // 86400}d: {text}"


_DURATION_FORM = _duration_form("0")
_TTL_FORM = f'{_DURATION_FORM}; 0 stores nothing; "never", or in code None, is for ever'
_SIZE_FORM = 'a whole number of bytes, or text such as "64MiB" (64 * 1024 * 1024) or "64MB" (64 * 1000 * 1000)'


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _read(parse: Callable[[object], _Parsed], value: object, name: str, form: str) -> _Parsed:
    """``parse(value)``; where that is refused, an error with the name, the value and the accepted form."""
    try:
        return parse(value)
    except TypeError:
        kind = type(value).__name__
        raise TypeError(f"{name}={_shown(value)} is of the wrong type, {kind}: give {form}") from None
    except (ValueError, OverflowError):
        raise ConfigError(f"{name}={_shown(value)} cannot be used: give {form}") from None


def parse_duration(value: Duration, name: str = "duration") -> float:
    """Seconds, from a number of seconds, a timedelta, or text: ``"250ms"``, ``"5s"``, ``"1h30m"``, ``"300"``.

    Text may have fractions and is exact to the microsecond; its units are d, h, m, s, ms, in this order; case does not
    matter. Raises ConfigError, naming ``name``, for a value that is negative, not a number, beyond 36500 days, or text
    of no such form, and TypeError for any other type (bool included). Safe in any thread.
    """
    return _read(_duration, value, name, _DURATION_FORM)


def parse_ttl(value: Duration | None) -> float | None:
    """Seconds to live, as `parse_duration` reads them; None for ever, given as None, ``"never"`` or infinity.

    0 means that nothing is stored. Raises ConfigError and TypeError as `parse_duration` does. Safe in any thread.
    """
    # The usual case by itself: it is on the way of every call that names a ttl. An exact type keeps out bool.
    if (type(value) is int or type(value) is float) and 0 <= value <= LONGEST_SECONDS:
        return value + 0.0
    return _read(_ttl, value, "ttl", _TTL_FORM)


def parse_size(value: int | str) -> int:
    """Bytes, from a whole number of them or text: ``"65536"``, ``"512KiB"``, ``"64MB"``; case does not matter.

    KiB, MiB, GiB are powers of 1024 and KB, MB, GB of 1000. Raises ConfigError for a negative number or text of no such
    form, TypeError for any other type (bool and float included). Safe in any thread.
    """
    return _read(_size, value, "size", _SIZE_FORM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of `SETTINGS`. ``form`` completes "give …", ``meaning`` is one sentence.

    ``default`` is written as the variable would be; where it has no such text, ``default_in_words`` says what it is.
    """

    variable: str
    parse: Callable[[object], object]
    default: str | Unset | None
    default_in_words: str = ""
    form: str
    meaning: str

    def read(self, value: object, name: str) -> object:
        """The parsed value; ConfigError or TypeError under ``name``, the variable's or the argument's."""
        return _read(self.parse, value, name, self.form)

    def from_environ(self, environ: Mapping[str, str]) -> object:
        """The variable's parsed value, or the default; an empty variable is an unset one."""
        text = environ.get(self.variable, "").strip()
        return self.read(text, self.variable) if text else self.default


SETTINGS: Final[Mapping[str, Setting]] = {
    "group": Setting(
        variable="COLOCACHE_GROUP",
        parse=_group,
        default=UNSET,
        default_in_words="none: it must be given",
        form="1 to 100 printable characters with no space at either end",
        meaning="The name of the group: the processes that share one cache.",
    ),
    "disabled": Setting(
        variable="COLOCACHE_DISABLED",
        parse=_flag,
        default="false",
        form='"true", "1", "yes" or "on", or "false", "0", "no" or "off"',
        meaning="The off switch: every read loads.",
    ),
    "private": Setting(
        variable="COLOCACHE_PRIVATE",
        parse=_flag,
        default="false",
        form='"true", "1", "yes" or "on", or "false", "0", "no" or "off"',
        meaning="For tests: the cache is this process's alone, and needs no file, socket or thread.",
    ),
    "memory": Setting(
        variable="COLOCACHE_MEMORY",
        parse=_at_least(2**20, _size),  # less is a forgotten unit: "64" is 64 bytes, and such a cache holds nothing
        default="64MiB",
        form=f"at least 1MiB: {_SIZE_FORM}",
        meaning="The memory for values in this process, a quarter of it for near copies.",
    ),
    "ttl": Setting(
        variable="COLOCACHE_TTL",
        parse=_ttl,
        default="300s",
        form=_TTL_FORM,
        meaning="How long a value lives where the call does not say.",
    ),
    "policy": Setting(
        variable="COLOCACHE_POLICY",
        parse=_policy,
        default="s3fifo",
        form='"s3fifo", "sieve", "lru" or "lfu"',
        meaning="Which value leaves when the memory is full.",
    ),
    "lease": Setting(
        variable="COLOCACHE_LEASE",
        parse=_at_least(0.1, _duration),
        default="3s",
        form=_duration_form("100ms"),
        meaning="How long one answered ping counts, and so how long an invalidation waits for a silent member.",
    ),
    "max_stale": Setting(
        variable="COLOCACHE_MAX_STALE",
        parse=_duration,
        default=UNSET,
        default_in_words="the lease",
        form=_DURATION_FORM,
        meaning="The greatest age served while a member is behind; above the lease it is also the bound on staleness.",
    ),
    "fetch_timeout": Setting(
        variable="COLOCACHE_FETCH_TIMEOUT",
        parse=_at_least(0.001, _duration),
        default="250ms",
        form=_duration_form("1ms"),
        meaning="How long a reader waits for a key's owner before it loads for itself.",
    ),
    "switch_interval": Setting(
        variable="COLOCACHE_SWITCH_INTERVAL",
        parse=_duration,
        default="0.5ms",
        form=_DURATION_FORM,
        meaning="While somebody waits for this process, how long a thread that computes keeps the interpreter lock "
        "from the one that answers; 0 leaves Python's own setting.",
    ),
    "load_timeout": Setting(
        variable="COLOCACHE_LOAD_TIMEOUT",
        parse=_at_least(0.001, _duration),
        default="30s",
        form=_duration_form("1ms"),
        meaning="How long one load may take before the next waiter loads.",
    ),
    "forget_after": Setting(
        variable="COLOCACHE_FORGET_AFTER",
        parse=_duration_or_never,
        default="30s",
        form=f'{_DURATION_FORM}; "never" forgets nobody',
        meaning="How long a member may be unreachable before it is forgotten.",
    ),
    "directory": Setting(
        variable="COLOCACHE_DIR",
        parse=_directory,
        default=None,
        default_in_words="per user, under the system's runtime or temp directory",
        form="an absolute path",
        meaning="The runtime directory, where the members of one host find each other.",
    ),
}

_PREFIX: Final = "COLOCACHE_"
_VARIABLES: Final = tuple(setting.variable for setting in SETTINGS.values())
_warned_of: Final[set[str]] = set()


def _advice(variable: str) -> str:
    """The nearest known name, compared without the prefix, which alone would make all names alike."""
    known = [name.removeprefix(_PREFIX) for name in _VARIABLES]
    near = difflib.get_close_matches(variable.removeprefix(_PREFIX), known, n=1)
    return f"did you mean {_PREFIX}{near[0]}?" if near else f"there are {', '.join(_VARIABLES)}"


def _warn_of_unknown(environ: Mapping[str, str]) -> None:
    unknown = {name for name in environ if name.startswith(_PREFIX) and environ[name].strip()}.difference(_VARIABLES)
    for name in sorted(unknown - _warned_of):
        _warned_of.add(name)
        # No value in the text: it may be a secret. Level 4 is whoever made the cache, whose constructor resolves.
        warnings.warn(f"{name} is not a setting of colocache and is ignored; {_advice(name)}", stacklevel=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of one cache, checked when built; `SETTINGS` says what each means. Safe to share between threads.

    Durations are seconds. `resolve` is the usual way to one; the constructor fills in nothing and raises as it does.
    """

    group: str
    disabled: bool
    private: bool
    memory: int  # bytes
    ttl: float | None  # None: for ever; 0: nothing is stored
    policy: PolicyName
    lease: float
    max_stale: float
    fetch_timeout: float
    switch_interval: float
    load_timeout: float
    forget_after: float  # math.inf: never
    directory: str | None  # None: per user, under the system's runtime or temp directory

    def __post_init__(self) -> None:
        for name, setting in SETTINGS.items():
            object.__setattr__(self, name, setting.read(getattr(self, name), name))
        self._require_longer("forget_after", "lease", "a member may serve what it holds until its lease runs out")
        self._require_longer("load_timeout", "fetch_timeout", "a load has to outlast the question that leads to it")

    def _require_longer(self, longer: str, shorter: str, reason: str) -> None:
        if getattr(self, longer) > getattr(self, shorter):
            return
        long, short = (f"{name}={getattr(self, name)!r} ({SETTINGS[name].variable})" for name in (longer, shorter))
        raise ConfigError(f"{long} has to be longer than {short}, in seconds, because {reason}: change one of the two")

    @classmethod
    def resolve(cls, arguments: Mapping[str, object], environ: Mapping[str, str]) -> Config:
        """The settings from arguments, else variables, else defaults; ``arguments`` is keyed by the field's name.

        An argument that is absent or `UNSET` is not given; None is a value. A variable that an argument overrides is
        not read. Warns, once per name and process, of a ``COLOCACHE_`` variable that is no setting. Raises ConfigError,
        naming the argument or variable, for a value that cannot be used, for values that contradict each other, and for
        a missing group; TypeError for an argument of a wrong type or name.
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
        if chosen["max_stale"] is UNSET:
            chosen["max_stale"] = chosen["lease"]
        return cls(**chosen)

    @staticmethod
    def describe() -> Iterator[tuple[str, str, str, str]]:
        """The rows (setting, variable, default, meaning) of the documentation, in the order of `SETTINGS`."""
        for name, setting in SETTINGS.items():
            yield name, setting.variable, setting.default_in_words or str(setting.default), setting.meaning
