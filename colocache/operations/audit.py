"""Audits: load the value of a hit once more in the background, and compare it with what the reader was given.

A value that has changed at its source, and that nobody has invalidated, is what an application that caches gets wrong
most often. An audit finds it:

1. A reader is given a value, and the hit is drawn.
2. The function is called once more, elsewhere. The call is no load of the cache: nobody waits for it, and nothing is
   stored.
3. If the function returns another value, it is called again. If it returns a third one, it says nothing.
4. If it returns the same one, the audit waits for `colocache.auditing.GRACE`: whoever has changed the source may be
   about to invalidate the value.
5. If the label of the value stands, nobody has, and the difference is reported.

The label is looked at after each step. If an event has come meanwhile, the audit is void.

**Where the function runs.** A coroutine function runs in a task of the loop on which the hit was, any other one in a
thread or greenlet of its own. Its context is empty: the context of a request names a transaction, a session of a
database, an application's ``g``, which the request is using, or has closed. `Cache.audit_within` gives the function
what it needs. And only what the key tells may be an argument: see `is_safe`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context
from functools import partial
from time import time
from types import FunctionType
from typing import TYPE_CHECKING, Any

from ..auditing import GRACE, Auditor, Difference
from ..core.entry import SampledEntry
from ..core.host.board import Label
from ..core.host.record import Record
from ..core.keys import Key
from ..functions.arguments import Arguments
from ..functions.surroundings import as_part, innermost
from ..host import Host
from ..interruptions import raise_if_from_handler
from ..naming import shown
from ..runtime.waiting.greenlets import HubErrands
from ..runtime.waiting.threads import is_patched, on_driver_thread, start_at_once
from ..values.annotations import closure
from .keyspace import Keyspace, travelling

if TYPE_CHECKING:
    import asyncio

SHOWN = 200  # letters of a value

#: What a function is called with: the arguments by position, and those by name.
Args = tuple[tuple[Any, ...], dict[str, Any]]


def is_safe(function: FunctionType, arguments: Arguments) -> bool:
    """Tell whether a function may be called in the background: all that it is given makes the key, and does not change.

    Other arguments, and what a function uses of the function around it, may be a session or a connection that belongs
    to one request.
    """
    around = closure(innermost(function)).values()
    return not arguments.ignored and not arguments.injects and all(as_part(each) is not None for each in around)


def is_data(value: object) -> bool:
    """Tell whether an argument is data all through, and holds no object that says by itself what makes its key."""
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(is_data, value))
    if isinstance(value, Mapping):
        return all(map(is_data, value.values()))
    return not hasattr(type(value), "__cache_key__")


class Audited:
    """The hits of one decorated function, some of which are audited. Any thread may call all methods."""

    def __init__(
        self, keyspace: Keyspace, key_of: Callable[..., Key], tags_of: Callable[..., Iterable[str]],
        load: Callable[..., Any], *, waits: bool, is_sure: bool,
    ) -> None:  # fmt: skip
        """``load`` calls the function. ``is_sure`` says that the user wants all of its hits audited.

        ``waits`` says whether ``load`` returns an awaitable.
        """
        self.keyspace = keyspace
        self.key_of = key_of
        self.tags_of = tags_of
        self.load = load
        self._waits = waits
        self._is_sure = is_sure

    def on_hit(self, key: Key, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Audit a hit that was served near, if it is drawn."""
        entry, sample, host = self.keyspace.entry(key), self.keyspace.sample, self.keyspace.member.own_host()
        if isinstance(entry, SampledEntry) and sample is not None and entry.hits > entry.draw_at:
            entry.draw_at = entry.hits + sample.skip()
            if host is not None:
                given = partial(self.keyspace.member.carrier.encode, entry.value)
                self._offer(host, key, (args, kwargs), entry.label, entry.loaded, given)

    def on_fetch(self, key: Key, args: tuple[Any, ...], kwargs: dict[str, Any], host: Host, record: Record) -> None:
        """Audit a hit that was served from the shelf, or by another host, if it is drawn."""
        sample = self.keyspace.sample
        if sample is not None and sample.draws():
            self._offer(host, key, (args, kwargs), record.label, record.loaded, partial(bytes, record.payload))

    def _offer(self, host: Host, key: Key, args: Args, label: Label, loaded: float, given: Callable[[], bytes]) -> None:
        """Have a hit audited, if it may be, and if no other audit runs. ``given`` encodes what the reader was given."""
        auditor = self.keyspace.member.life.auditor
        if on_driver_thread() or not auditor.is_free() or not (self._is_sure or all(map(is_data, args))):
            return
        asyncio = sys.modules.get("asyncio")
        loop = asyncio._get_running_loop() if self._waits and asyncio is not None else None
        if self._waits and loop is None:  # of another kind than asyncio's
            return
        audit = Audit(self, host, key, args, label, host.now() - loaded, given, loop)
        try:
            if auditor.admits(audit):
                self.keyspace.counters.audits += 1
                audit.start()
        except BaseException:  # of a signal handler: nobody else would ever be admitted
            auditor.end(audit, 0.0)
            raise


class Audit:
    """The audit of one hit."""

    def __init__(
        self, audited: Audited, host: Host, key: Key, args: Args, label: Label, age: float, given: Callable[[], bytes],
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:  # fmt: skip
        """``loop`` is the one on which the function is to be called, if it is a coroutine function."""
        self._audited = audited
        self._keyspace = audited.keyspace
        self._member = audited.keyspace.member
        self.auditor: Auditor = self._member.life.auditor
        self._host = host
        self._key = key
        self._args, self._kwargs = args
        self._label = label
        self._age = age  # s
        self._given = given
        self._loop = loop
        self._task: asyncio.Task[None] | None = None  # held here, because a loop keeps no task alive
        self._payloads = b"", b""  # what the reader was given, and what the function has returned
        self._is_suspect = False
        self._began = self.auditor.clock()

    def start(self) -> None:
        """Begin, elsewhere."""
        if self._loop is None:
            self._elsewhere(self._run)
        else:
            self._task = self._loop.create_task(self._arun(), name="colocache audit", context=Context())

    def _elsewhere(self, work: Callable[[], None]) -> None:
        in_empty_context = partial(Context().run, work)
        if is_patched():
            HubErrands().run(in_empty_context)
        else:
            start_at_once(in_empty_context, "audit of colocache", lambda _: self.auditor.end(self, 0.0))

    def is_abandoned(self) -> bool:
        """Tell whether it will not come to its end, because its loop has ended before."""
        return self._task is not None and not self._task.done() and not self._task.get_loop().is_running()

    # --- The steps

    def _run(self) -> None:
        try:
            with self._telling_errors():
                while self._needs_another(self._call()):
                    pass
        finally:
            self._conclude()

    def _call(self) -> Any:
        with self._member.audit_within():
            return self._audited.load(*self._args, **self._kwargs)

    async def _arun(self) -> None:
        try:
            with self._telling_errors():
                while self._needs_another(await self._acall()):
                    pass
        finally:
            if self._is_suspect:
                self._elsewhere(self._conclude)  # the loop may end meanwhile
            else:
                self._conclude()

    async def _acall(self) -> Any:
        with self._member.audit_within():
            return await self._audited.load(*self._args, **self._kwargs)

    def _needs_another(self, value: object) -> bool:
        """Compare what the function has returned; return whether it is to be called again."""
        carrier, (given, before) = self._member.carrier, self._payloads
        payload = carrier.encode(value)
        if not self._stands():
            return False
        if not before:
            given = self._given()
            self._payloads = given, payload
            return not self._are_same(given, payload)
        self._is_suspect = self._are_same(before, payload)
        if not self._is_suspect:
            self._say_nothing("it returns another value at each call")
        return False

    def _are_same(self, one: bytes, other: bytes) -> bool:
        """Compare two payloads. Equal sets and dicts may have different ones."""
        decode = self._member.carrier.decode
        return one == other or bool(decode(one) == decode(other))

    def _stands(self) -> bool:
        """Tell whether nobody has invalidated or written the value since, and whether the call is what it was.

        An argument that can be changed may have been.
        """
        host = self._host
        if not (host.alive and host.is_current() and host.board.stands(self._label)):
            return False
        return self._audited.key_of(self._args, self._kwargs) == self._key

    def _conclude(self) -> None:
        """Report a difference, if nobody invalidates the value for a while, and let other audits run."""
        took = self.auditor.clock() - self._began
        try:
            with self._telling_errors():
                if self._is_suspect:
                    self.auditor.wait(GRACE)
                    if self._stands():
                        self._report()
        finally:
            self.auditor.end(self, took)

    # --- What it says

    def _report(self) -> None:
        keyspace, decode, log = self._keyspace, self._member.carrier.decode, self._member.log
        cached, source = (shown(decode(payload), SHOWN) for payload in self._payloads)
        tags, _ = travelling(self._audited.tags_of(*self._args, **self._kwargs))
        parts = keyspace.path.split("/")
        namespaces = tuple(["/".join(parts[: end + 1]) for end in range(len(parts))])
        self.auditor.differences.append(
            Difference(keyspace.path, self._key, self._age, keyspace.ttl, time(), cached, source, tags, namespaces)
        )
        keyspace.counters.audits_failed += 1
        self._say(
            lambda: log.warning(
                "%s has given a value that its source had changed, and nobody has invalidated it: the key %s, %s s "
                "old, with %s. Cache.audits() shows both values", keyspace.path, shown(self._key), round(self._age, 1),
                f"the tags {tags!r}" if tags else "no tags", about=keyspace.path, event="difference_found",
            )
        )  # fmt: skip

    @contextmanager
    def _telling_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise_if_from_handler(error)
            self._say_nothing(shown(error, SHOWN))

    def _say_nothing(self, why: str) -> None:
        path, log = self._keyspace.path, self._member.log
        self._keyspace.counters.audit_errors += 1
        self._say(
            lambda: log.warning("an audit of %s says nothing: %s", path, why, about=path, event="audit_says_nothing")
        )

    def _say(self, line: Callable[[], None]) -> None:
        """Have a line of the log written by another thread, for which the end of the process waits."""
        self._host.errands.write(line)
