"""``colocache invalidate`` and ``clear``: join the group for a moment, and drop values in all of its processes."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from .exits import BAD_USE, FAILED, FINE, NOBODY, Failure
from .keys import Named, named
from .options import EXPLAINED, add_group, add_key_form, add_namespace
from .output import Output, count
from .target import Target, Visit, visit

if TYPE_CHECKING:
    from ..core.receipt import Receipt
    from .options import Commands

AT_ONCE: Final = 4096  # ways of the shelf that are looked at between two looks at the clock

_ABOUT = """\
Drop values in every process of the group, and return when no process serves them any more. Give keys, or --tag, or
--namespace. How many processes and values were reached is printed. If no other process is in the group, nothing was
invalidated anywhere, and the exit status is 3.
"""
_CLEAR = """\
Drop all values of the group, or of a namespace, in every process. As `colocache invalidate`.
"""


def add(commands: Commands) -> None:
    """Add the commands."""
    one = commands.add_parser(
        "invalidate", help="drop values in all processes of the group", description=_ABOUT, formatter_class=EXPLAINED
    )
    one.add_argument("keys", metavar="KEY", nargs="*", help="a text; see --literal and --call")
    add_group(one)
    one.add_argument(
        "--tag", "-t", metavar="TAG", action="append", default=[], help="all values with this tag; repeatable"
    )
    add_namespace(one, "the namespace of the keys; without keys, all values of it, and of those below it")
    add_key_form(one)
    one.set_defaults(run=run)
    clear = commands.add_parser("clear", help="drop all values of a group", description=_CLEAR)
    add_group(clear)
    add_namespace(clear, "only this namespace, and those below it")
    clear.set_defaults(run=run_clear)


def run(chosen: argparse.Namespace) -> int:
    """Carry ``invalidate`` out."""
    if not (chosen.keys or chosen.tag or chosen.namespace):
        raise Failure(BAD_USE, "give a KEY, --tag or --namespace; `colocache clear` drops everything")
    if chosen.tag and (chosen.keys or chosen.namespace):
        raise Failure(BAD_USE, "tags are those of all namespaces and keys: give --tag alone")
    keys = [named(key, chosen.form, chosen.namespace) for key in chosen.keys]
    if chosen.tag:
        return _drop(chosen, "tags", tags=chosen.tag)
    return _drop(chosen, "keys", keys=keys) if keys else _drop(chosen, "namespace")


def run_clear(chosen: argparse.Namespace) -> int:
    """Carry ``clear`` out."""
    return _drop(chosen, "namespace")


def _drop(chosen: argparse.Namespace, what: str, keys: Sequence[Named] = (), tags: Sequence[str] = ()) -> int:
    output, target = Output(as_json=chosen.json, plain=chosen.plain), Target.of(chosen, os.environ)
    namespace = _checked(chosen.namespace)
    with _loudly(target), visit(target, os.environ, output) as visitor:
        values = _entries(visitor, what, keys, tags, namespace)
        receipt: Receipt = visitor.run(lambda cache: _invalidate(cache, keys, tags, namespace))
        hosts = receipt.hosts - visitor.is_client if visitor.host.hosts is not None else 1
        processes = max(0, receipt.processes - 1)  # without this one
        waits = (*receipt.waited_out, *receipt.forgotten)
    is_alone = not (processes or (visitor.is_client and hosts > 0) or hosts > 1)
    if output.as_json:
        output.record({
            "group": target.group, "complete": receipt.complete and not is_alone, "alone": is_alone,
            "processes": processes, "entries": values, "hosts": hosts, "acknowledged": receipt.acknowledged,
            "waited_out": receipt.waited_out, "forgotten": receipt.forgotten, "seconds": receipt.seconds,
        })  # fmt: skip
    elif not is_alone:
        where = f", {count(hosts, 'host')}" if hosts > 1 or visitor.is_client else ""
        output.line(
            f"dropped {count(values, 'value')} of this host, in {count(processes, 'process', 'processes')}{where}, "
            "within "
            f"{receipt.seconds * 1000:.1f} ms"
        )
        if waits:
            output.line(f"  without a word of {', '.join(waits)}, which serve nothing so old any more")
    if is_alone:
        raise Failure(
            NOBODY, f"NOBODY ELSE is in the group {target.group!r} in {target.path}: nothing was invalidated in any "
            "other "
            "process. Is the group's name right, and COLOCACHE_DIR, and is this the same user, and the same container? "
            "`colocache doctor` looks for those processes"
        )  # fmt: skip
    if not receipt.complete:
        raise Failure(FAILED, f"the invalidation is NOT complete: other processes may serve the old values. {receipt}")
    return FINE


@contextlib.contextmanager
def _loudly(target: Target) -> Iterator[None]:
    """Say that nothing was invalidated, where nobody is there."""
    try:
        yield
    except Failure as failure:
        if failure.status != NOBODY:
            raise
        raise Failure(NOBODY, f"NOTHING WAS INVALIDATED, because nobody is there: {failure}") from None


def _checked(namespace: str) -> str:
    from ..core.keys import prefix

    try:
        prefix(namespace)
    except ValueError as error:
        raise Failure(BAD_USE, str(error)) from None
    if namespace != namespace.strip("/"):
        raise Failure(BAD_USE, f"--namespace={namespace!r}: a namespace neither begins nor ends with '/'")
    return namespace


def _invalidate(cache: Any, keys: Sequence[Named], tags: Sequence[str], namespace: str) -> Receipt:
    from ..operations import invalidate
    from ..operations.drive import finish

    if tags:
        return cache.invalidate_tags(*tags)  # type: ignore[no-any-return]
    if not keys:
        space = cache.namespace(namespace) if namespace else cache
        return space.clear()  # type: ignore[no-any-return]
    spaces = {each.namespace for each in keys}
    if len(spaces) == 1:
        (path,) = spaces
        space = cache.namespace(path) if path else cache
        return space.invalidate(*[each.key for each in keys])  # type: ignore[no-any-return]
    # Calls of several functions, which have namespaces of their own, in one event.
    from ..core.host.hashes import key_hash
    from ..runtime.frames import KEYS

    hashes = [key_hash(each.wire) for each in keys]
    flow = invalidate.announce(cache._keyspace, hashes, KEYS, keys[0].name, True, False)
    return finish(flow, cache._member.may_wait)


def _entries(visitor: Visit, what: str, keys: Sequence[Named], tags: Sequence[str], namespace: str) -> int:
    """Return how many values of this host's shelf can be served now, and will be dropped."""
    from ..core.host.hashes import key_hash, namespace_hash, tag_hash
    from ..core.host.record import hashes_of

    with visitor.cache._member.view() as view:
        if what == "keys":
            seen = [(each.wire, view.shelf.see_key(key_hash(each.wire), view.now())) for each in keys]
            return len({wire for wire, found in seen if found and found.is_current and found.wire == wire})
        wanted = {tag_hash(tag) for tag in tags} if tags else {namespace_hash(namespace)} if namespace else None
        found = 0
        for first in range(0, view.shelf.ways, AT_ONCE):
            for each in view.shelf.see(first, AT_ONCE, view.now()):
                found += each.is_current and (wanted is None or not wanted.isdisjoint(hashes_of(each.record.label)))
        return found
