"""Numbers, times and names, as people read them. `static/dashboard.js` has the same for `rate`, `share`, `duration`."""

from __future__ import annotations

import time
from typing import Final

MOST_LETTERS: Final = 400  # of a name; a key has fewer, unless its letters become escapes

DASH: Final = "\u2013"


def name(text: str) -> str:
    """Return a text in which nothing hides or turns the direction: such letters become escapes of Python."""
    safe = "".join([each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text])
    return safe if len(safe) <= MOST_LETTERS else f"{safe[: MOST_LETTERS - 1]}…"


def space(path: str) -> str:
    """Return what people call a namespace."""
    return {"": "(no namespace)", "/": "(all others)"}.get(path) or name(path)


def number(count: float) -> str:
    """Return a count: ``12 345``, with thin spaces."""
    return f"{count:,.0f}".replace(",", "\u202f")


def rate(per_second: float | None) -> str:
    """Return a number for each second: ``0.4``, ``31``, ``1 250``."""
    if per_second is None:
        return DASH
    return f"{per_second:.1f}" if 0 < per_second < 9.95 else number(per_second)


def share(part: float | None) -> str:
    """Return a share of 1: ``97.3 %``."""
    if part is None:
        return DASH
    return f"{100 * part:.1f}\u202f%"


def size(count: float) -> str:
    """Return a number of bytes: ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f}\u202fB" if unit == "B" else f"{count:.1f}\u202f{unit}"


def duration(seconds: float | None) -> str:
    """Return some seconds: ``3.1 ms``, ``5.0 s``, ``2 h 5 min``. None is for what is not known."""
    if seconds is None:
        return DASH
    if seconds == float("inf"):
        return "> 10\u202fs"
    if seconds <= 0:
        return "0\u202fs"
    if seconds < 0.0009995:
        return f"{seconds * 1e6:.0f}\u202fµs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.1f}\u202fms" if seconds < 0.0995 else f"{seconds * 1e3:.0f}\u202fms"
    if seconds < 120:
        return f"{seconds:.1f}\u202fs"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes}\u202fmin"
    hours = round(seconds / 3600)
    return f"{hours}\u202fh" if hours < 48 else f"{round(hours / 24)}\u202fd"


def ttl(seconds: float | None) -> str:
    """Return what is left of a time to live; None is for ever."""
    return "for ever" if seconds is None else duration(seconds)


def clock(at: float) -> str:
    """Return a time of day, of the time zone of this process."""
    return time.strftime("%H:%M:%S", time.localtime(at))


def timestamp(at: float) -> str:
    """Return a date and time as HTML's ``datetime`` has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(at))


def plural(count: int, one: str, several: str = "") -> str:
    """Return how many there are: ``1 process``, ``2 processes``."""
    return f"{number(count)} {one if count == 1 else several or one + 's'}"
