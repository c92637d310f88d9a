"""Invalidation after COMMIT of the rows that SQLAlchemy's sessions have written.

1. A flush notes the tags of the rows that it writes, with the current transaction or savepoint.
2. When a savepoint is released, its tags become tags of the transaction around it. When it is rolled back, they are
   lost.
3. When the outermost transaction is committed, its tags are invalidated, before `Session.commit` returns.

The context of the flush says what was written: it has all objects, also orphans that the flush deletes, and the changes
of all relationships. So nothing is guessed from the objects themselves. A bulk statement changes the rows with the
primary keys in its criterion, if the criterion names whole primary keys. Otherwise it may change any row.
"""

from __future__ import annotations

import itertools
import string
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Literal
from uuid import UUID
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import Alias, Column, Integer, Result, Table, TableClause, Uuid, event, inspect, select
from sqlalchemy.exc import MissingGreenlet, NoInspectionAvailable
from sqlalchemy.orm import Mapper, ORMExecuteState, RelationshipProperty, Session, SessionTransaction
from sqlalchemy.orm.exc import UnmappedColumnError
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import BinaryExpression, BindParameter, BooleanClauseList, Grouping
from sqlalchemy.util import concurrency

from colocache import ColocacheError, EventLoopError, Space
from colocache.naming import shortened

from .interruptions import raise_if_from_handler

__all__ = ["invalidate_on_commit", "row_tags", "table_tag"]

Tags = Iterable[str] | Callable[[Any], Iterable[str]]
Key = tuple[Any, ...]
Wait = bool | float | Literal["response"]

LONGEST = 200  # bytes of a tag; a longer one is cut, and ends in a hash

#: The types of a column and a value for which equal values have equal texts. Texts are not among them, because of
#: collations: a criterion with 'ANN' may change the row of 'ann'. A float, a bool or a Decimal may equal an integer and
#: have another text.
EXACT: Final = ((Integer, int), (Uuid, UUID))

#: By the sessions with listeners: the caches that their commits invalidate.
_installed: WeakKeyDictionary[Any, list[Space]] = WeakKeyDictionary()

#: The classes of sync sessions made by `_sync`, one for each `async_sessionmaker`.
_made: WeakSet[type[Session]] = WeakSet()


def table_tag(model: Any) -> str:
    """Return the tag of a whole table. Give it to values that are made of many rows, such as a list.

    Give it a mapped class, an object of one, or a `Table`. The tag is the name of the table, with its schema if it has
    one: ``"users"``.
    """
    return _short(_tables(model)[-1].fullname)


def row_tags(model: Any, *key: Any) -> tuple[str, ...]:
    """Return the tags of one row. Give them to values that are made of it.

    Give it a mapped object, or a mapped class or `Table` and a primary key. For the class ``User`` of the table
    ``users`` and 42 the tags are ``("users:42", "users:*")``. A bulk statement invalidates the second one if it does
    not name the primary keys of the rows that it changes. Give the parts of a composite key as separate arguments.
    Raise TypeError if there is no key, or if it has the wrong number of parts.
    """
    table = _tables(model)[-1]
    if isinstance(model, Table):
        name, parts = table.fullname, len([*table.primary_key])
    else:
        mapper = _mapper(model)
        name, parts = mapper.class_.__name__, len(mapper.primary_key)
        if not key and inspect(model) is not mapper:
            key = tuple(mapper.primary_key_from_instance(model))
    if not key or len(key) != parts:
        raise TypeError(f"the primary key of {name} has {parts} parts, not {key!r}")
    return _row_tag(table, key), _rows_tag(table)


def invalidate_on_commit(
    sessions: Any, cache: Space, *, tags: Mapping[type, Tags] | None = None, wait: Wait = True
) -> None:
    """Invalidate a cache whenever sessions commit what they have written.

    ``sessions`` is a `sessionmaker`, `scoped_session`, `Session` or a class of sessions, or their async twins.

    - A written row invalidates its `table_tag` and the first of its `row_tags`. If its class inherits from others, it
      does so for all of its tables.
    - A relationship that writes rows of a many-to-many table (``secondary``) invalidates the tags of these rows, and of
      the objects at both ends.
    - A bulk statement invalidates the `table_tag`. If its criterion names whole primary keys, and they are integers or
      UUIDs, it invalidates the first of the `row_tags` of these rows, otherwise the second one.
    - ``tags`` gives further tags for the objects of a class and of its subclasses. They are a function of the object,
      or texts with names of its attributes, such as ``{Order: ["customer:{customer_id}"]}``. For a text both the old
      and the new value of an attribute count.

    When `commit` returns, no process serves the old values. ``wait`` is that of `Space.invalidate`, and makes no
    difference on one host. A commit does not fail because of the cache, but trouble is logged. A second call changes
    nothing.
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
        raise_if_from_handler(error)
        raise TypeError(
            f"give invalidate_on_commit a session, or a maker or class of sessions, not {sessions!r:.60}"
        ) from error
    known.append(cache)


class _Listener:
    """Listens to sessions for one cache."""

    def __init__(self, cache: Space, more: dict[type, Tags], wait: Wait) -> None:
        self._cache = cache
        self._log = cache._keyspace.member.log
        self._more = more
        self._wait = wait
        # A transaction that ends without COMMIT needs nothing: its tags go with it.
        self._pending: WeakKeyDictionary[SessionTransaction, dict[str, None]] = WeakKeyDictionary()

    def before_flush(self, session: Session, _context: object, _objects: object) -> None:
        """Note the old values of attributes in texts, because after the UPDATE they are gone."""
        if self._more:
            for written in (*session.dirty, *session.deleted):
                self._note(session, self._more_tags(written, session))

    def after_flush(self, session: Session, context: Any) -> None:
        """Note what was written. New rows have keys by now, and the context still knows the objects of all rows."""
        for state, (is_deleted, only_listed) in [*context.states.items()]:
            if is_deleted or (not only_listed and _is_changed(session, state)):
                self._note_object(session, state)
            if is_deleted or not only_listed:
                self._note_associations(session, context, state)

    def _note_object(self, session: Session, state: Any) -> None:
        keys = _keys(state)
        for table in _tables(state):
            self._note(session, [_short(table.fullname), *(_row_tag(table, key) for key in keys)])
        if (written := state.obj()) is not None:
            self._note(session, self._more_tags(written))

    def _note_associations(self, session: Session, context: Any, state: Any) -> None:
        """Note the rows of many-to-many tables written for an object, and the objects at both ends of them."""
        for relation, other in _associated(context, state):
            self._note(session, _association_tags(relation, state, other))
            for end in (state, other):
                is_deleted, only_listed = context.states.get(end, (False, True))
                if not is_deleted and (only_listed or not _is_changed(session, end)):  # otherwise it is noted anyway
                    if self._more and (unchanged := end.obj()) is not None:
                        self._note(session, self._more_tags(unchanged, session))
                    self._note_object(session, end)

    def do_orm_execute(self, execution: ORMExecuteState) -> Result[Any] | None:
        """Execute a bulk statement, and note what it changes."""
        if not (execution.is_update or execution.is_delete or execution.is_insert):
            return None
        result = execution.invoke_statement()  # first, because it may begin the transaction
        statement: Any = execution.statement
        described = statement.entity_description
        keys = _rows_named(execution, described["entity"]) if "entity" in described else None
        for table in _tables_below(described.get("entity", described["table"])):
            rows = [_rows_tag(table)] if keys is None else [_row_tag(table, key) for key in keys]
            self._note(execution.session, [_short(table.fullname), *rows])
        return result

    def after_commit(self, session: Session) -> None:
        """Hand the tags on to the transaction around a released savepoint, or announce them after COMMIT."""
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
            if not (self._has_waited(tags) or self._has_awaited(tags)):
                self._cache.invalidate_tags(*tags, wait=False)
        except (ColocacheError, TypeError, ValueError) as error:  # not raised, because the transaction is committed
            self._log.exception(
                "a commit could not invalidate these tags, and old values may be served until they expire: %s",
                tags,
                event="commit_not_announced",
            )
            raise_if_from_handler(error)

    def _has_waited(self, tags: list[str]) -> bool:
        """Invalidate and wait. Return False on the thread of an event loop."""
        try:
            self._cache.invalidate_tags(*tags, wait=self._wait)
        except EventLoopError as error:
            raise_if_from_handler(error)
            return False
        return True

    def _has_awaited(self, tags: list[str]) -> bool:
        """Invalidate and await, if the session is async. Return False if it is sync, on the thread of an event loop."""
        try:
            concurrency.await_only(self._cache.ainvalidate_tags(*tags, wait=self._wait))
        except (MissingGreenlet, ImportError) as error:
            raise_if_from_handler(error)
            return False
        return True

    def _note(self, session: Session, tags: Iterable[str]) -> None:
        self._pending.setdefault(_transaction(session), {}).update(dict.fromkeys(tags))

    def _more_tags(self, written: object, before: Session | None = None) -> Iterator[str]:
        """Yield the further tags of an object. With ``before``, a session about to write it, only those of texts."""
        for model in type(written).__mro__:
            more = self._more.get(model, ())
            if not callable(more):
                for text in more:
                    yield from _filled_in(text, written, before)
            elif before is None:
                yield from map(_short, more(written))


def _filled_in(text: str, written: object, before: Session | None) -> Iterator[str]:
    """Yield a text with its attributes filled in, once for each combination of old and new values."""
    values = [[(name, value) for value in _values(name, written, before)] for name in _names(text)]
    for each in itertools.product(*values):
        yield _short(text.format(**dict(each)))


def _values(name: str, written: object, before: Session | None) -> Iterator[object]:
    state: Any = inspect(written)
    attribute = state.attrs[name]
    history = attribute.load_history() if before is not None else attribute.history
    found = history.sum()
    if before is not None and history.added and not history.deleted and state.identity is not None:
        # It was set before it was loaded, so its old value is in the database only.
        row = [column == part for column, part in zip(state.mapper.primary_key, state.identity, strict=True)]
        found.append(before.scalar(select(getattr(state.class_, name)).where(*row)))
    return (value for value in found if value is not None)


def _names(text: str) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]


def _checked(model: type, more: Tags) -> Tags:
    """Return further tags of a class. Raise TypeError or ValueError now for tags that would fail in a flush."""
    mapper = _mapper(model)
    if callable(more):
        return more
    if isinstance(more, str):
        raise TypeError(f"the tags of {model.__name__} are a list of texts, not a text: write [{more!r}]")
    texts = tuple(more)
    for text in texts:
        for name in _names(text):
            if name not in mapper.column_attrs:
                raise ValueError(f"the tag {text!r} of {model.__name__} names {name!r}, which is not a column of it")
    return texts


def _transaction(session: Session) -> SessionTransaction:
    """Return the innermost savepoint, otherwise the transaction. That of the flush itself does not count."""
    transaction = session.get_nested_transaction() or session.get_transaction()
    assert transaction is not None, "a flush, a statement and a commit are always in one"
    return transaction


def _sync(sessions: Any) -> Any:
    """Return the sync sessions, because only they have events. Async sessions have sync ones inside."""
    twins = sys.modules.get("sqlalchemy.ext.asyncio")
    if twins is None:  # then no session is async. Importing it would need greenlet, which may be missing
        return sessions
    if isinstance(sessions, twins.async_scoped_session):
        sessions = sessions.session_factory
    if isinstance(sessions, twins.AsyncSession):
        return sessions.sync_session
    if isinstance(sessions, twins.async_sessionmaker):
        known = sessions.kw.get("sync_session_class") or sessions.class_.sync_session_class
        if known not in _made:  # otherwise we would listen to all async sessions of this process
            known = type(known.__name__, (known,), {})
            _made.add(known)
            sessions.configure(sync_session_class=known)
        return known
    return sessions


def _mapper(model: Any) -> Mapper[Any]:
    try:
        found: Mapper[Any] = inspect(model).mapper
    except (NoInspectionAvailable, AttributeError) as error:
        raise_if_from_handler(error)
        raise TypeError(f"{model!r:.60} is not a mapped class or an object of one") from None
    return found


def _tables(model: Any) -> list[TableClause]:
    """Return the tables of a class, an object or a table: inherited ones first, its own last."""
    while isinstance(model, Alias):
        model = model.element
    if isinstance(model, TableClause):
        return [model]
    mapper = _mapper(model)
    tables = [table for table in mapper.tables if isinstance(table, Table)]
    return sorted(tables, key=lambda table: table is mapper.local_table)


def _tables_below(model: Any) -> list[TableClause]:
    """Return the tables of a class and of its subclasses. A statement on the class may change rows of all of them."""
    mapper = inspect(model, raiseerr=False) if not isinstance(model, Alias | TableClause) else None
    classes = [each.class_ for each in mapper.mapper.self_and_descendants] if mapper is not None else [model]
    return list(dict.fromkeys(table for each in classes for table in _tables(each)))


def _is_changed(session: Session, state: Any) -> bool:
    """Tell whether a flush has inserted or updated an object, or changed one of its relationships."""
    written = state.obj()
    return written is None or written in session.new or session.is_modified(written)


def _keys(state: Any) -> set[Key]:
    """Return the primary key of an object. If its key was changed, return both."""
    keys: set[Key] = {state.identity} if state.identity is not None else set()
    values = [_value(state, column) for column in state.mapper.primary_key]
    return keys if None in values else {*keys, tuple(values)}


def _value(state: Any, column: Any) -> Any:
    """Return the value of an object in a column, without a query, or None if it is not loaded."""
    return state.dict.get(state.mapper.get_property_by_column(column).key)


# --- Many-to-many


def _associated(context: Any, state: Any) -> Iterator[tuple[RelationshipProperty[Any], Any]]:
    """Yield the relationships that wrote rows of many-to-many tables for an object, and the other object."""
    is_deleted, _ = context.states[state]
    for relation in state.mapper.relationships:
        if isinstance(relation.secondary, Table) and not relation.viewonly:
            added, unchanged, deleted = context.get_attribute_history(state, relation.key)  # what the flush wrote
            kept = unchanged if is_deleted or len(_keys(state)) > 1 else ()
            for other in (*(added or ()), *(deleted or ()), *(kept or ())):
                if other is not None:
                    yield relation, other


def _association_tags(relation: RelationshipProperty[Any], state: Any, other: Any) -> Iterator[str]:
    """Yield the tags of the row between two objects."""
    table = relation.secondary
    assert isinstance(table, Table)
    sources = ((state, relation.synchronize_pairs), (other, relation.secondary_synchronize_pairs or ()))
    row = {target: _value(end, source) for end, pairs in sources for source, target in pairs}
    key = tuple(row.get(column) for column in table.primary_key)
    is_known = key and None not in key and len(_keys(state)) == len(_keys(other)) == 1
    yield _short(table.fullname)
    yield _row_tag(table, key) if is_known else _rows_tag(table)


# --- The rows of a bulk statement


def _rows_named(execution: ORMExecuteState, model: Any) -> set[Key] | None:
    """Return the primary keys of all rows that a bulk statement may change. Return None if they are not known."""
    mapper = _mapper(model)
    statement: Any = execution.statement
    if execution.is_insert or len(_tables(model)) > 1 or inspect(model) is not mapper:  # an alias
        return None
    if execution.is_update and isinstance(execution.parameters, list):
        return _rows_given(execution, mapper)
    if execution.parameters or (execution.is_update and not _leaves_keys(statement, mapper)):
        return None
    named: dict[str, list[Any]] = {}
    for condition in _conditions(statement.whereclause):
        for name, values in _named(condition, mapper):
            named.setdefault(name, values)
    names = _key_names(mapper)
    return {*itertools.product(*(named[name] for name in names))} if named.keys() == {*names} else None


def _rows_given(execution: ORMExecuteState, mapper: Mapper[Any]) -> set[Key] | None:
    """Return the keys in the parameters of an ORM bulk UPDATE by primary key."""
    options: Mapping[str, Any] = execution.execution_options
    if options.get("dml_strategy", "auto") not in ("auto", "bulk"):
        return None
    given: Any = execution.parameters
    keys = {tuple(each.get(name) for name in _key_names(mapper)) for each in given}
    exact = all(_is_exact(column, part) for key in keys for column, part in zip(mapper.primary_key, key, strict=True))
    return keys if exact else None


def _leaves_keys(statement: Any, mapper: Mapper[Any]) -> bool:
    """Tell whether an UPDATE sets only known columns, and none of the primary key."""
    assigned = [*(statement._values or ()), *(each for each, _ in getattr(statement, "_ordered_values", None) or ())]
    return bool(assigned) and all(_property_name(each, mapper) not in {None, *_key_names(mapper)} for each in assigned)


def _property_name(column: Any, mapper: Mapper[Any]) -> str | None:
    """Return the attribute for a column or its name. Return None if that is not certain."""
    if isinstance(column, str):
        return column if column in mapper.column_attrs else None
    try:
        return mapper.get_property_by_column(column).key if isinstance(column, Column) else None
    except UnmappedColumnError:  # a column of another table, or of an alias of this one
        return None


def _conditions(clause: Any) -> Iterator[Any]:
    """Yield the conditions that a criterion joins with AND."""
    if isinstance(clause, Grouping):
        yield from _conditions(clause.element)
    elif isinstance(clause, BooleanClauseList) and clause.operator is operators.and_:
        for each in clause.clauses:
            yield from _conditions(each)
    else:
        yield clause


def _named(condition: Any, mapper: Mapper[Any]) -> Iterator[tuple[str, list[Any]]]:
    """Yield a column of the primary key with its only possible values, if a condition says so."""
    if not isinstance(condition, BinaryExpression):
        return
    column, bound = condition.left, condition.right
    if condition.operator is operators.eq and isinstance(column, BindParameter):
        column, bound = bound, column
    name = _property_name(column, mapper)
    if name not in _key_names(mapper) or not isinstance(bound, BindParameter) or bound.callable is not None:
        return
    if condition.operator is operators.eq:
        values = [bound.value]
    elif condition.operator is operators.in_op and bound.expanding and isinstance(bound.value, list | tuple):
        values = list(bound.value)
    else:
        return
    if all(_is_exact(column, value) for value in values):
        yield name, values


def _is_exact(column: Any, value: object) -> bool:
    return any(isinstance(column.type, kind) and type(value) is exact for kind, exact in EXACT)


def _key_names(mapper: Mapper[Any]) -> list[str]:
    """Return the attributes of the primary key, in order."""
    return [mapper.get_property_by_column(column).key for column in mapper.primary_key]


def _row_tag(table: TableClause, key: tuple[Any, ...]) -> str:
    return _short(":".join(map(str, (table.fullname, *key))))


def _rows_tag(table: TableClause) -> str:
    return _short(f"{table.fullname}:*")


def _short(tag: str) -> str:
    """Return a tag. If it is too long, return its beginning and a hash."""
    return shortened(str(tag), LONGEST)  # a str, because the name of a table has a class of SQLAlchemy's own
