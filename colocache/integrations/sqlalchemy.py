"""Invalidation after COMMIT, by what SQLAlchemy's sessions have written.

A flush notes the tags of the rows that it writes, with the transaction or savepoint that it is in. Where a savepoint is
released they become those of the transaction around it; where it is rolled back nobody asks for them any more. What the
outermost transaction has when it is committed is announced, before `Session.commit` returns.
"""

from __future__ import annotations

import itertools
import string
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any, Literal
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import Result, Table, event, inspect, select
from sqlalchemy.exc import MissingGreenlet, NoInspectionAvailable
from sqlalchemy.orm import Mapper, ORMExecuteState, Session, SessionTransaction
from sqlalchemy.util import concurrency

from colocache import EventLoopError, Space
from colocache.logs import Log

Tags = Iterable[str] | Callable[[Any], Iterable[str]]
Wait = bool | float | Literal["response"]

LONGEST = 200  # bytes of a tag that is written out; a longer one ends in a hash

#: By the sessions that are listened to: the caches that hear of their commits.
_installed: WeakKeyDictionary[Any, list[Space]] = WeakKeyDictionary()

#: The classes of sync sessions that were made here, one for each `async_sessionmaker`.
_made: WeakSet[type[Session]] = WeakSet()


def table_tag(model: Any) -> str:
    """Return the tag of a mapped class, its object or a `Table`: what is made of any of its rows, as a list is.

    It is the name of the table, with its schema if it has one: ``"users"``.
    """
    return _short(_tables(model)[-1].fullname)


def row_tags(model: Any, *key: Any) -> tuple[str, ...]:
    """Return the tags of what is made of one row: of a mapped object, or of a mapped class and a primary key.

    For the class ``User`` of the table ``users`` and 42 they are ``("users:42", "users:*")``; the second one is
    invalidated by a bulk UPDATE or DELETE, which does not say which rows it changes. The parts of a composite key
    follow each other, as for `Session.get`. Raises TypeError if there is no key, or one of another length.
    """
    mapper = _mapper(model)
    if not key and inspect(model) is not mapper:
        key = tuple(mapper.primary_key_from_instance(model))
    if len(key) != len(mapper.primary_key):
        raise TypeError(f"the primary key of {mapper.class_.__name__} has {len(mapper.primary_key)} parts, not {key!r}")
    table = _tables(model)[-1]
    return _row_tag(table, key), _rows_tag(table)


def invalidate_on_commit(
    sessions: Any, cache: Space, *, tags: Mapping[type, Tags] | None = None, wait: Wait = True
) -> None:
    """Have a cache invalidated by what sessions write, when that is committed.

    ``sessions`` is a `sessionmaker`, `scoped_session`, `Session` or a class of them, or their async twins. Of each row
    that is written the `table_tag` and the first of the `row_tags` are invalidated, in all of its tables if its class
    inherits from others; by a bulk statement the `table_tag` and the second one. ``tags`` gives more for the objects of
    a class and of its subclasses: a function of the object, or texts with names of its attributes, as in
    ``{Order: ["customer:{customer_id}"]}``, of which both the old and the new value count.

    ``wait`` is that of `Space.invalidate`: by default `commit` returns when no process serves the old values. A
    commit does not fail because of the cache; what goes wrong is logged. Calling it twice changes nothing.
    """
    if not isinstance(cache, Space):
        raise TypeError(f"give invalidate_on_commit a cache, not {cache!r:.60}")
    target = _sync(sessions)
    listener = _Listener(cache, {model: _checked(model, more) for model, more in (tags or {}).items()}, wait)
    try:
        known = _installed.setdefault(target, [])
        if any(each is cache for each in known):
            return
        for name in ("before_flush", "after_flush", "do_orm_execute", "after_commit"):
            event.listen(target, name, getattr(listener, name))
    except Exception as error:
        raise TypeError(f"give invalidate_on_commit a session, or what makes them, not {sessions!r:.60}") from error
    known.append(cache)


class _Listener:
    """Hears what sessions do, for one cache."""

    def __init__(self, cache: Space, more: dict[type, Tags], wait: Wait) -> None:
        self._cache = cache
        self._log = Log(cache.group)
        self._more = more
        self._wait = wait
        # Where a transaction ends otherwise than by COMMIT nothing has to be done: it is never asked for again.
        self._pending: WeakKeyDictionary[SessionTransaction, dict[str, None]] = WeakKeyDictionary()

    def before_flush(self, session: Session, _context: object, _objects: object) -> None:
        """The old values that texts speak of, which after the UPDATE are nowhere to be had."""
        if self._more:
            for written in (*session.dirty, *session.deleted):
                self._note(session, self._more_tags(written, session))

    def after_flush(self, session: Session, _context: object) -> None:
        """New keys are there, and what was new, changed or deleted is still told."""
        for written in (*session.new, *session.deleted, *(each for each in session.dirty if session.is_modified(each))):
            keys = _keys(written)
            for table in _tables(written):
                self._note(session, [_short(table.fullname), *(_row_tag(table, key) for key in keys)])
            self._note(session, self._more_tags(written))

    def do_orm_execute(self, execution: ORMExecuteState) -> Result[Any] | None:
        """A bulk statement."""
        if not (execution.is_update or execution.is_delete or execution.is_insert):
            return None
        result = execution.invoke_statement()  # it may be what begins the transaction
        statement: Any = execution.statement
        described = statement.entity_description
        for table in _tables(described.get("entity", described["table"])):
            self._note(execution.session, [_short(table.fullname), _rows_tag(table)])
        return result

    def after_commit(self, session: Session) -> None:
        """COMMIT, or RELEASE SAVEPOINT."""
        transaction = _transaction(session)
        tags = self._pending.pop(transaction, {})
        if transaction.nested:
            around = transaction.parent
            while around is not None and around.parent is not None and not around.nested:
                around = around.parent
            if around is not None:
                self._pending.setdefault(around, {}).update(tags)
        elif tags:
            self._announce(list(tags))

    def _announce(self, tags: list[str]) -> None:
        try:
            try:
                self._cache.invalidate_tag(*tags, wait=self._wait)
            except EventLoopError:
                try:
                    concurrency.await_only(self._cache.ainvalidate_tag(*tags, wait=self._wait))
                except (MissingGreenlet, ImportError):  # a sync session, on the thread of an event loop
                    self._cache.invalidate_tag(*tags, wait=False)
        except Exception:  # it is committed: to raise would say that it is not
            self._log.exception("what was committed may be served in its old form until it expires: %s", tags)

    def _note(self, session: Session, tags: Iterable[str]) -> None:
        self._pending.setdefault(_transaction(session), {}).update(dict.fromkeys(tags))

    def _more_tags(self, written: object, before: Session | None = None) -> Iterator[str]:
        """Return the further tags of an object; ``before`` the session has written it, those that texts give."""
        for model in type(written).__mro__:
            more = self._more.get(model, ())
            if not callable(more):
                for text in more:
                    yield from _filled_in(text, written, before)
            elif before is None:
                yield from map(_short, more(written))


def _filled_in(text: str, written: object, before: Session | None) -> Iterator[str]:
    """Return a text with its attributes filled in, by their old values and their new ones, if they have any."""
    values = [[(name, value) for value in _values(name, written, before)] for name in _names(text)]
    for each in itertools.product(*values):
        yield _short(text.format(**dict(each)))


def _values(name: str, written: object, before: Session | None) -> Iterator[object]:
    state: Any = inspect(written)
    attribute = state.attrs[name]
    history = attribute.load_history() if before is not None else attribute.history
    found = history.sum()
    if before is not None and history.added and not history.deleted and state.identity is not None:
        # It was set without having been loaded, and what it was is in the database only.
        row = [column == part for column, part in zip(state.mapper.primary_key, state.identity, strict=True)]
        found.append(before.scalar(select(getattr(state.class_, name)).where(*row)))
    return (value for value in found if value is not None)


def _names(text: str) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]


def _checked(model: type, more: Tags) -> Tags:
    """Return further tags of a class. Raises TypeError or ValueError, early, for what would fail in a flush."""
    mapper = _mapper(model)
    if callable(more):
        return more
    if isinstance(more, str):
        raise TypeError(f"the tags of {model.__name__} are a list of texts, not a text: write [{more!r}]")
    texts = tuple(more)
    for text in texts:
        for name in _names(text):
            if name not in mapper.column_attrs:
                raise ValueError(f"the tag {text!r} of {model.__name__} speaks of {name!r}, which is no column of it")
    return texts


def _transaction(session: Session) -> SessionTransaction:
    """Return the innermost savepoint, or else the transaction; not that of the flush itself."""
    transaction = session.get_nested_transaction() or session.get_transaction()
    assert transaction is not None, "there is one wherever this is called"
    return transaction


def _sync(sessions: Any) -> Any:
    """Return what there are events of: sync sessions, also those behind async ones."""
    twins = sys.modules.get("sqlalchemy.ext.asyncio")
    if twins is None:  # then there are none; and to import it takes greenlet, which need not be there
        return sessions
    if isinstance(sessions, twins.async_scoped_session):
        sessions = sessions.session_factory
    if isinstance(sessions, twins.AsyncSession):
        return sessions.sync_session
    if isinstance(sessions, twins.async_sessionmaker):
        known = sessions.kw.get("sync_session_class") or sessions.class_.sync_session_class
        if known not in _made:  # without a class of its own, all the sessions of this process would be heard
            known = type(known.__name__, (known,), {})
            _made.add(known)
            sessions.configure(sync_session_class=known)
        return known
    return sessions


def _mapper(model: Any) -> Mapper[Any]:
    try:
        found: Mapper[Any] = inspect(model).mapper
    except (NoInspectionAvailable, AttributeError):
        raise TypeError(f"{model!r:.60} is no mapped class, nor an object of one") from None
    return found


def _tables(model: Any) -> list[Table]:
    """Return the tables of a class, an object or themselves: those that it inherits first, its own last."""
    if isinstance(model, Table):
        return [model]
    mapper = _mapper(model)
    tables = [table for table in mapper.tables if isinstance(table, Table)]
    return sorted(tables, key=lambda table: table is mapper.local_table)


def _keys(written: object) -> set[tuple[Any, ...]]:
    """Return the primary key of an object; if it was given another one, both."""
    state: Any = inspect(written)
    keys = {state.identity} if state.identity is not None else set()
    names = [state.mapper.get_property_by_column(column).key for column in state.mapper.primary_key]
    if all(name in state.dict for name in names):
        keys.add(tuple(state.dict[name] for name in names))
    return keys


def _row_tag(table: Table, key: tuple[Any, ...]) -> str:
    return _short(":".join(map(str, (table.fullname, *key))))


def _rows_tag(table: Table) -> str:
    return _short(f"{table.fullname}:*")


def _short(tag: str) -> str:
    """Return a tag, or one that stands for it where it is too long."""
    encoded = tag.encode("utf-8", "surrogatepass")
    if len(encoded) <= LONGEST:
        return str(tag)  # names of tables are of a class of SQLAlchemy's own
    return tag[:40] + "~" + blake2b(encoded, digest_size=16).hexdigest()
