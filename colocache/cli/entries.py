"""``colocache keys``, ``info`` and ``get``: what is cached on this host. They join nothing, but for ``get --ask``."""

from __future__ import annotations

import argparse
import os
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from .exits import FAILED, FINE, WRONG, Failure
from .keys import Named, named
from .options import EXPLAINED, add_group, add_key_form, add_namespace
from .output import Output, duration, size
from .target import LOOK_EVERY, Target, look, pause, visit

if TYPE_CHECKING:
    from ..inspection import EventInfo, KeyInfo
    from ..runtime.view import View
    from .options import Commands

FLUSH_EVERY: Final = 100  # lines
ASKING: Final = 1.0  # s in which the connection with the host that owns a key comes about
AT_LEAST_ONE: Final = 1

_KEYS = """\
List the keys of the values on this host's shelf that can be served, in no order, one in a line. They are written as
people read them: the namespace, and then the text, or what Python writes. With --literal they are written as
`colocache info --literal` reads them, and without their namespace.
"""

_INFO = """\
Tell what this host knows of a key: where its value is, how old it is, and what has hit it lately. The exit status is 1
if there is no value that can be served.
"""

_GET = """\
Print the value of a key: as Python writes it, or as JSON with --json, where JSON can say all of it. The application is
not imported, so instances of its classes are shown by their names and fields. The value is the one of this host's
memory. In a group of several hosts, --ask joins for a moment and asks the host that owns the key, too.
"""


def add(commands: Commands) -> None:
    """Add the commands."""
    keys = commands.add_parser("keys", help="list the keys that are cached on this host", description=_KEYS)
    add_group(keys)
    add_namespace(keys, "only those of this namespace, and those below it")
    keys.add_argument(
        "--like", metavar="TEXT", default="", help="only those whose name, with its namespace, has this text"
    )
    keys.add_argument("--limit", metavar="N", type=_count, help="not more than N")
    keys.add_argument("--long", action="store_true", help="with age, ttl that is left, size and tags")
    keys.add_argument("--literal", "-l", action="store_true", help="as Python writes them, without their namespace")
    keys.set_defaults(run=run_keys)

    for name, text, description, run in (
        ("info", "tell where a value is, how old it is, and what has hit it", _INFO, run_info),
        ("get", "print a value", _GET, run_get),
    ):
        one = commands.add_parser(name, help=text, description=description, formatter_class=EXPLAINED)
        one.add_argument("key", metavar="KEY", help="a text; see --literal and --call")
        add_group(one)
        add_namespace(one, "the namespace of the key")
        add_key_form(one)
        one.set_defaults(run=run)
        if name == "get":
            one.add_argument("--ask", action="store_true", help="ask the host that owns the key, if this one lacks it")


def _count(text: str) -> int:
    number = int(text) if text.isdecimal() and len(text) < 10 else 0
    if number < AT_LEAST_ONE:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return number


# --- keys


def run_keys(chosen: argparse.Namespace) -> int:
    """Carry ``keys`` out."""
    from ..inspection import key_infos

    output = Output(as_json=chosen.json, plain=chosen.plain)
    found = 0
    with look(Target.of(chosen, os.environ)) as observer, observer.view() as view:
        for info in key_infos(view, chosen.namespace, chosen.like):
            if output.as_json:
                output.record(record(info))
            elif chosen.literal:
                if info.key is not None:
                    output.line(repr(info.key))
            elif chosen.long:
                output.line(_long(info))
            else:
                output.line(info.name)
            found += 1
            if found == chosen.limit:
                break
            if not found % FLUSH_EVERY:
                output.flush()
    return FINE if found else WRONG


def record(info: KeyInfo) -> dict[str, Any]:
    """Return what is known of a value, for programs."""
    return {
        "name": info.name, "namespace": info.namespace, "literal": None if info.key is None else repr(info.key),
        "size": info.size, "age": info.age, "ttl": info.ttl, "tags": info.tags, "uses": info.uses, "hits": info.hits,
        "current": info.is_current,
        "events": [event_record(each) for each in info.events],
    }  # fmt: skip


def event_record(event: EventInfo) -> dict[str, Any]:
    """Return an event, for programs."""
    return {"time": event.time, "pid": event.pid, "kind": event.kind, "name": event.name, "things": event.things}


def event_line(event: EventInfo) -> str:
    """Return an event, for people."""
    when = datetime.fromtimestamp(event.time).isoformat(" ", "milliseconds")
    what = "everything" if event.kind == "namespace" and not event.name else f"{event.kind} {event.name}"
    more = f" and {event.things - 1} more" if event.things > 1 else ""
    return f"{when}  process {event.pid} invalidated {what}{more}"


def _long(info: KeyInfo) -> str:
    tags = f"  tags {', '.join(info.tags)}" if info.tags else ""
    left = "for ever" if info.ttl is None else f"{duration(info.ttl)} left"
    return f"{info.name}  {size(info.size)}  {duration(info.age)} old  {left}{tags}"


# --- info


def run_info(chosen: argparse.Namespace) -> int:
    """Carry ``info`` out."""
    from ..inspection import key_info

    output, key = Output(as_json=chosen.json, plain=chosen.plain), named(chosen.key, chosen.form, chosen.namespace)
    with look(Target.of(chosen, os.environ)) as observer, observer.view() as view:
        info = key_info(view, key.wire)
        near = _near(view, key)
        path = observer.path
        has_hosts = observer.hosts is not None
    if output.as_json:
        output.record({"found": info is not None, "path": path, "near": near, **({} if info is None else record(info))})
        return FINE if info is not None and info.is_current else WRONG
    if info is None:
        output.line(f"{key.name}: this host has no value{' (another one may)' if has_hosts else ''}")
        _hint(chosen, output)
        return WRONG
    is_dead = info.ttl == 0
    output.line(info.name)
    output.line(f"  where      the shelf of this host, {path}")
    if near:
        output.line(f"  near       processes that hit it most: {', '.join([str(pid) for pid in near])}")
    output.line(f"  state      {'can be served' if info.is_current else 'expired' if is_dead else 'invalidated'}")
    output.line(f"  age        {duration(info.age)}")
    output.line(f"  ttl        {'for ever' if info.ttl is None else duration(info.ttl) + ' left'}")
    output.line(f"  size       {size(info.size)}")
    output.line(f"  tags       {', '.join(info.tags) or 'none'}")
    output.line(
        f"  hits       {info.hits:.1f}/s near; found on the shelf {info.uses}{' or more' if info.uses >= 3 else ''} "
        "times"
    )
    output.line("  events" + ("" if info.events else "     none lately"))
    for event in info.events:
        output.line(f"    {event_line(event)}")
    return FINE if info.is_current else WRONG


def _near(view: View, key: Named) -> list[int]:
    """Return the pids of the processes that hit a key most."""
    from ..core.host.hashes import key_hash

    hash = key_hash(key.wire)
    return [
        block.pid for _, lives, block in view.scoreboard() if lives and any(hot == hash for hot, _ in block.hottest)
    ]


def _hint(chosen: argparse.Namespace, output: Output) -> None:
    """Say what may have been meant, where a text looks like something else."""
    if chosen.form == "text" and chosen.key[:1] in "('\"":
        output.warn("this was taken for a text: for a key as Python writes it give --literal")
    elif chosen.form == "text" and ":" in chosen.key and chosen.key.endswith(")"):
        output.warn("this was taken for a text: for a call of a decorated function give --call")


# --- get


def run_get(chosen: argparse.Namespace) -> int:
    """Carry ``get`` out."""
    output, key = Output(as_json=chosen.json, plain=chosen.plain), named(chosen.key, chosen.form, chosen.namespace)
    target = Target.of(chosen, os.environ)
    if chosen.ask:
        payload = _asked(target, key, output)
    else:
        with look(target) as observer, observer.view() as view:
            payload = _payload(view, key)
    if payload is None:
        if output.as_json:
            output.record({"found": False, "name": key.name})
        else:
            output.warn(f"{key.name}: no value that can be served")
            _hint(chosen, output)
        return WRONG
    from .values import shown

    value = shown(payload)
    if output.as_json:
        plain = {"value": value.plain} if value.is_plain else {}
        output.record({"found": True, "name": key.name, "plain": value.is_plain, **plain, "python": value.text})
    else:
        output.line(value.text)
    if value.why:
        raise Failure(FAILED, f"the value is there, and cannot be shown: {value.why}")
    return FINE


def _payload(view: View, key: Named) -> bytes | None:
    from ..core.host.hashes import key_hash

    seen = view.shelf.see_key(key_hash(key.wire), view.now())
    return bytes(seen.record.payload) if seen is not None and seen.wire == key.wire and seen.is_current else None


def _asked(target: Target, key: Named, output: Output) -> bytes | None:
    """Have the value brought to this host, if another one has it, and return its payload."""
    with visit(target, os.environ, output) as visitor:
        space = visitor.cache.namespace(key.namespace) if key.namespace else visitor.cache
        ends = monotonic() + ASKING
        while True:
            visitor.run(lambda cache: space.get(key.key))
            with visitor.cache._member.view() as view:
                payload = _payload(view, key)
            if payload is not None or visitor.host.hosts is None or monotonic() >= ends:
                return payload
            pause(LOOK_EVERY)
