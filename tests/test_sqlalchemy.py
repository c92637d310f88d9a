"""SQLAlchemy: what a transaction has written is invalidated when it is committed, and only then. On real SQLite."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

from sqlalchemy import (
    Column,
    ForeignKey,
    Integer,
    MetaData,
    Table,
    bindparam,
    column,
    create_engine,
    delete,
    event,
    insert,
    or_,
    select,
    table,
    text,
    update,
)
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.ext.associationproxy import AssociationProxy, association_proxy
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    DynamicMapped,
    Mapped,
    Session,
    WriteOnlyMapped,
    aliased,
    mapped_column,
    relationship,
    scoped_session,
    sessionmaker,
)
from sqlalchemy.pool import NullPool

from colocache import Cache
from colocache.sqlalchemy import invalidate_on_commit, row_tags, table_tag


class Base(DeclarativeBase):
    """What is mapped here."""


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    orders: Mapped[list[Order]] = relationship(back_populates="user", cascade="all")
    lines: Mapped[list[Line]] = relationship(
        secondary="orders", primaryjoin="User.id == Order.user_id", secondaryjoin="Order.id == foreign(Line.order_id)",
        viewonly=True,
    )  # fmt: skip


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    user: Mapped[User | None] = relationship(back_populates="orders")


#: A many-to-many table whose primary key is that of both ends.
authors = Table(
    "authors",
    Base.metadata,
    Column("book_id", ForeignKey("books.id"), primary_key=True),
    Column("person_id", ForeignKey("people.id"), primary_key=True),
)

#: One with a key of its own, and one without any.
shelved = Table(
    "shelved",
    Base.metadata,
    Column("id", Integer, primary_key=True),
    Column("book_id", ForeignKey("books.id")),
    Column("shelf_id", ForeignKey("shelves.id")),
)
sequels = Table(
    "sequels", Base.metadata, Column("book_id", ForeignKey("books.id")), Column("next_id", ForeignKey("books.id"))
)
featured = Table(
    "featured",
    Base.metadata,
    Column("shelf_id", ForeignKey("shelves.id"), primary_key=True),
    Column("book_id", ForeignKey("books.id"), primary_key=True),
)


class Person(Base):
    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    books: Mapped[list[Book]] = relationship(secondary=authors, back_populates="authors")


class Book(Base):
    __tablename__ = "books"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    authors: Mapped[list[Person]] = relationship(secondary=authors, back_populates="books", passive_updates=False)
    names: AssociationProxy[list[str]] = association_proxy("authors", "name", creator=lambda name: Person(name=name))
    shelves: DynamicMapped[Shelf] = relationship(secondary=shelved, back_populates="books")
    sequels: Mapped[list[Book]] = relationship(
        secondary=sequels, primaryjoin=lambda: Book.id == sequels.c.book_id,
        secondaryjoin=lambda: Book.id == sequels.c.next_id, backref="prequels",
    )  # fmt: skip
    chapters: Mapped[list[Chapter]] = relationship(cascade="all, delete-orphan")


class Shelf(Base):
    __tablename__ = "shelves"
    id: Mapped[int] = mapped_column(primary_key=True)
    books: WriteOnlyMapped[Book] = relationship(secondary=shelved, back_populates="shelves", passive_deletes=True)
    featured: Mapped[list[Book]] = relationship(secondary=featured)  # of which the books know nothing


class Chapter(Base):
    __tablename__ = "chapters"
    id: Mapped[int] = mapped_column(primary_key=True)
    book_id: Mapped[int] = mapped_column(ForeignKey("books.id"))
    notes: Mapped[list[Note]] = relationship(cascade="all, delete-orphan")


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    chapter_id: Mapped[int] = mapped_column(ForeignKey("chapters.id"))


class Coin(Base):
    """Whose primary key is a text."""

    __tablename__ = "coins"
    code: Mapped[str] = mapped_column(primary_key=True)
    ident: Mapped[int] = mapped_column("number")


class Line(Base):
    __tablename__ = "lines"
    order_id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    what: Mapped[str]


class Employee(Base):
    __tablename__ = "employees"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "employee"}  # noqa: RUF012


class Manager(Employee):
    __tablename__ = "managers"
    id: Mapped[int] = mapped_column(ForeignKey("employees.id"), primary_key=True)
    rank: Mapped[int]
    __mapper_args__ = {"polymorphic_identity": "manager"}  # noqa: RUF012


class Spy(Cache):
    """A cache that notes what it is told to invalidate."""

    told: list[set[str]]

    def invalidate_tags(self, *tags: str, **how: Any) -> Any:
        receipt = super().invalidate_tags(*tags, **how)
        self.told.append(set(tags))
        return receipt

    async def ainvalidate_tags(self, *tags: str, **how: Any) -> Any:
        receipt = await super().ainvalidate_tags(*tags, **how)
        self.told.append(set(tags))
        return receipt


@pytest.fixture
def spy(run_dir: str) -> Iterator[Spy]:
    with Spy("test") as cache:
        cache.told = []
        yield cache


@pytest.fixture
def url(tmp_path: Any) -> str:
    """The database, with a user, an order and a line in it."""
    url = f"sqlite:///{tmp_path}/base"
    engine = create_engine(url, poolclass=NullPool)
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add_all([User(id=1, name="Ada", orders=[Order(id=7)]), User(id=2, name="Grace")])
        session.add_all([Line(order_id=7, number=1, what="tea"), Manager(id=1, name="Boss", rank=3)])
        session.add_all([Line(order_id=7, number=number, what="rice") for number in (2, 3)])
        session.add_all([Line(order_id=8, number=2, what="salt"), Coin(code="EUR", ident=978)])
        ada, bob, shelf = Person(id=1, name="Ada"), Person(id=2, name="Bob"), Shelf(id=1)
        chapters = [Chapter(id=1, notes=[Note(id=1), Note(id=2)]), Chapter(id=2)]
        session.add_all([bob, Book(id=1, title="One", authors=[ada], shelves=[shelf], chapters=chapters)])
        session.flush()
        session.add_all([Book(id=2, title="Two", authors=[ada, bob]), Shelf(id=2)])
        session.get_one(Book, 1).sequels = [session.get_one(Book, 2)]
    return url


@pytest.fixture
def maker(url: str) -> sessionmaker[Session]:
    """Makes sessions that nobody listens to yet; savepoints work."""
    engine = create_engine(url, poolclass=NullPool, enable_from_linting=False)  # which warns of odd statements

    # pysqlite begins transactions when it likes; see SQLAlchemy's page on SQLite.
    @event.listens_for(engine, "connect")
    def leave_it_to_us(connection: Any, _record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")

    return sessionmaker(engine)


@pytest.fixture
def sessions(maker: sessionmaker[Session], spy: Spy) -> sessionmaker[Session]:
    """Makes sessions whose commits the spy hears of."""
    invalidate_on_commit(maker, spy)
    return maker


USER_1 = {"users", "users:1"}


# --- The promise


def test_a_commit_returns_when_no_process_shows_the_old_row(
    maker: sessionmaker[Session], new_group: Callable[..., list[Cache]]
) -> None:
    here, there = new_group(2)
    invalidate_on_commit(maker, here)

    def name(cache: Cache) -> str:
        def load() -> str:
            with maker() as session:
                return session.get_one(User, 1).name

        return cache.get_or_load("name", load, tags=row_tags(User, 1))

    assert name(here) == name(there) == "Ada"
    for new in ("Augusta", "Ada King"):
        with maker.begin() as session:
            session.get_one(User, 1).name = new
        assert name(there) == name(here) == new


def test_nothing_is_announced_before_the_commit_nor_after_a_rollback(sessions: sessionmaker[Session], spy: Spy) -> None:
    with sessions() as session:
        session.get_one(User, 1).name = "Augusta"
        session.flush()
        session.execute(delete(Order))
        assert spy.told == []
        session.rollback()
        session.commit()
        assert spy.told == []
        session.get_one(User, 1).name = "Ada King"
        session.flush()
    gc.collect()
    assert spy.told == []


def test_one_commit_is_one_invalidation(sessions: sessionmaker[Session], spy: Spy) -> None:
    with sessions.begin() as session:
        session.get_one(User, 1).name = "Augusta"
        session.flush()
        session.add(Line(order_id=7, number=9, what="milk"))
        session.flush()
        session.delete(session.get_one(Line, (7, 1)))
    assert spy.told == [USER_1 | {"lines", "lines:7:1", "lines:7:9"}]


def test_a_commit_of_very_many_rows_is_announced(sessions: sessionmaker[Session], spy: Spy) -> None:
    with sessions.begin() as session:
        session.add_all(Order(id=number) for number in range(10, 3010))
    assert spy.told == [{"orders", *(f"orders:{number}" for number in range(10, 3010))}]


def test_a_commit_without_writes_announces_nothing(sessions: sessionmaker[Session], spy: Spy) -> None:
    with sessions.begin() as session:
        user = session.get_one(User, 1)
        user.name = str(user.name)
        session.scalars(select(Order)).all()
    assert spy.told == []


def test_the_transactions_of_one_session_do_not_mix(sessions: sessionmaker[Session], spy: Spy) -> None:
    with sessions() as session:
        session.get_one(User, 1).name = "Augusta"
        session.commit()
        session.get_one(User, 2).name = "Amazing"
        session.commit()
    assert spy.told == [USER_1, {"users", "users:2"}]


def test_two_sessions_at_once_do_not_mix(maker: sessionmaker[Session], spy: Spy) -> None:
    invalidate_on_commit(maker, spy)
    with maker() as one, maker() as other:
        one.add(Order(id=8))
        other.add(User(id=3, name="Edsger"))
        other.commit()
        one.commit()
    assert spy.told == [{"users", "users:3"}, {"orders", "orders:8"}]


def test_a_commit_that_fails_announces_nothing(sessions: sessionmaker[Session], spy: Spy) -> None:
    from sqlalchemy.exc import IntegrityError

    with sessions() as session:
        session.get_one(User, 2).name = "Amazing"
        session.flush()
        session.add(User(id=1, name="a second one"))
        with pytest.raises(IntegrityError):
            session.commit()
        session.rollback()
        session.get_one(User, 1).name = "Augusta"
        session.commit()
    assert spy.told == [USER_1]


# --- Savepoints


def test_a_released_savepoint_is_announced_with_the_transaction_around_it(
    sessions: sessionmaker[Session], spy: Spy
) -> None:
    with sessions() as session:
        with session.begin_nested():
            session.get_one(User, 1).name = "Augusta"
            with session.begin_nested():
                session.add(Order(id=8))
        assert spy.told == []
        session.commit()
    assert spy.told == [USER_1 | {"orders", "orders:8"}]


def test_what_was_rolled_back_to_a_savepoint_is_not_announced(sessions: sessionmaker[Session], spy: Spy) -> None:
    with sessions() as session:
        session.get_one(User, 1).name = "Augusta"
        savepoint = session.begin_nested()
        session.add(Order(id=8))
        session.flush()
        with session.begin_nested():
            session.add(Line(order_id=8, number=1, what="salt"))
        savepoint.rollback()
        session.commit()
    assert spy.told == [USER_1]


def test_a_rollback_takes_released_savepoints_with_it(sessions: sessionmaker[Session], spy: Spy) -> None:
    with sessions() as session:
        with session.begin_nested():
            session.get_one(User, 1).name = "Augusta"
        session.rollback()
        session.get_one(User, 2).name = "Amazing"
        session.commit()
    assert spy.told == [{"users", "users:2"}]


def test_a_commit_with_a_savepoint_still_open_announces_both(sessions: sessionmaker[Session], spy: Spy) -> None:
    with sessions() as session:
        session.get_one(User, 1).name = "Augusta"
        session.begin_nested()
        session.add(Order(id=8))
        session.commit()
    assert spy.told == [USER_1 | {"orders", "orders:8"}]


# --- Tags


def test_the_tags_of_a_class_and_of_its_objects_are_the_same(maker: sessionmaker[Session]) -> None:
    assert table_tag(User) == table_tag(User.__table__) == "users"
    assert row_tags(User, 1) == ("users:1", "users:*")
    assert row_tags(Line, 7, 1) == ("lines:7:1", "lines:*")
    with maker() as session:
        assert row_tags(session.get_one(User, 1)) == row_tags(User, 1)
        assert table_tag(session.get_one(User, 1)) == "users"
    assert table_tag(Table("t", MetaData(), schema="s")) == "s.t"
    assert (table_tag(authors), row_tags(authors, 1, 2)) == ("authors", ("authors:1:2", "authors:*"))
    assert table_tag(authors.alias()) == table_tag(table("authors")) == "authors"
    assert (table_tag(Manager), row_tags(Manager, 1)) == ("managers", ("managers:1", "managers:*"))


def test_a_key_too_long_for_a_tag_has_one_all_the_same() -> None:
    one, other = row_tags(User, "ü" * 200)[0], row_tags(User, "ü" * 201)[0]
    assert one != other
    assert max(len(each.encode()) for each in (one, other)) <= 250


@pytest.mark.parametrize(
    ("model", "key", "names"),
    [
        (User, (), "has 1 parts"),
        (User, (1, 2), "has 1 parts"),
        (Line, (7,), "has 2 parts"),
        (str, (1,), "not a mapped"),
        (authors, (1,), "authors has 2 parts"),
        (sequels, (), "sequels has 0 parts"),
    ],
)
def test_what_has_no_tags_is_refused(model: Any, key: tuple[int, ...], names: str) -> None:
    with pytest.raises(TypeError, match=names):
        row_tags(model, *key)


def test_a_row_of_two_tables_has_the_tags_of_both(sessions: sessionmaker[Session], spy: Spy) -> None:
    with sessions.begin() as session:
        session.get_one(Manager, 1).rank = 4
    assert spy.told == [{"employees", "employees:1", "managers", "managers:1"}]


def test_a_row_that_is_given_another_key_has_the_tags_of_both(sessions: sessionmaker[Session], spy: Spy) -> None:
    with sessions.begin() as session:
        session.get_one(User, 2).id = 3
    assert spy.told == [{"users", "users:2", "users:3"}]


def test_a_key_that_the_database_gives_is_in_the_tag(sessions: sessionmaker[Session], spy: Spy) -> None:
    with sessions.begin() as session:
        session.add(Order())
    assert spy.told == [{"orders", "orders:8"}]


def test_what_a_relationship_writes_is_announced_on_both_sides(sessions: sessionmaker[Session], spy: Spy) -> None:
    with sessions.begin() as session:
        user = session.get_one(User, 2)
        user.orders.append(session.get_one(Order, 7))
    assert {"orders", "orders:7", "users:2"} <= spy.told[0]


def test_further_tags_count_with_their_old_and_their_new_values(maker: sessionmaker[Session], spy: Spy) -> None:
    invalidate_on_commit(maker, spy, tags={Order: ["orders of {user_id}"]})
    with maker.begin() as session:
        session.get_one(Order, 7).user_id = 2
    with maker.begin() as session:
        order = session.get_one(Order, 7)
        session.expire(order)
        order.user_id = None  # its old value is not loaded
    with maker.begin() as session:
        session.delete(session.get_one(Order, 7))
    row = {"orders", "orders:7"}
    assert spy.told == [row | {"orders of 1", "orders of 2"}, row | {"orders of 2"}, row]


def test_further_tags_may_be_a_function_of_the_object_and_hold_for_subclasses(
    maker: sessionmaker[Session], spy: Spy
) -> None:
    invalidate_on_commit(maker, spy, tags={Employee: lambda one: [f"named {one.name}"], User: ("{name}",)})
    with maker.begin() as session:
        session.get_one(Manager, 1).rank = 4
    assert "named Boss" in spy.told[0]


@pytest.mark.parametrize(
    ("tags", "error", "names"),
    [
        ({User: "user"}, TypeError, r"write \['user'\]"),
        ({User: ["{nobody}"]}, ValueError, "'nobody'"),
        ({str: ["text"]}, TypeError, "not a mapped class"),
    ],
)
def test_further_tags_that_would_fail_later_are_refused_at_once(
    maker: sessionmaker[Session], spy: Spy, tags: Any, error: type[Exception], names: str
) -> None:
    with pytest.raises(error, match=names):
        invalidate_on_commit(maker, spy, tags=tags)


# --- Whatever the ORM writes


Rows = dict[tuple[str, tuple[Any, ...]], tuple[Any, ...]]


def rows_of(engine: Any) -> Rows:
    """Return all rows in the database, by table and primary key. A row without a key stands for itself."""
    rows = {}
    with engine.connect() as connection:
        for each in Base.metadata.tables.values():
            names = [column.name for column in each.primary_key] or [column.name for column in each.columns]
            for row in connection.execute(select(each)):
                rows[each.fullname, tuple(row._mapping[name] for name in names)] = tuple(row)
    return rows


def uncovered(before: Rows, after: Rows, told: set[str]) -> set[str]:
    """The tags that should have been invalidated and were not: of a table, and of each row, or of all of them."""
    missing = set()
    for changed in before.keys() | after.keys():
        if before.get(changed) != after.get(changed):
            table, key = changed
            row = ":".join(map(str, (table, *key)))
            missing |= {table} - told
            if Base.metadata.tables[table].primary_key and not told & {row, f"{table}:*"}:
                missing.add(row)
    return missing


def append(session: Session) -> set[str]:
    bob = session.get_one(Person, 2)
    bob.books.append(session.get_one(Book, 1))
    return {"authors", "authors:1:2", *row(Person, 2), *row(Book, 1)}


def append_to_the_other_side(session: Session) -> set[str]:
    book = session.get_one(Book, 1)  # of which nothing is loaded: what is appended to it is pending
    bob = session.get_one(Person, 2)
    bob.books.append(book)
    assert "authors" not in book.__dict__
    return {"authors", "authors:1:2", *row(Person, 2), *row(Book, 1)}


def append_and_forget_one_side(session: Session) -> set[str]:
    bob, book = session.get_one(Person, 2), session.get_one(Book, 1)
    bob.books.append(book)
    session.expire(bob)  # what is pending at the book is all that is left
    return {"authors", "authors:1:2", *row(Person, 2), *row(Book, 1)}


def append_to_the_only_side(session: Session) -> set[str]:
    shelf = session.get_one(Shelf, 1)
    shelf.featured.append(session.get_one(Book, 1))
    return {"featured", "featured:1:1", *row(Shelf, 1), *row(Book, 1)}


def append_something_new(session: Session) -> set[str]:
    ada = session.get_one(Person, 1)
    ada.books.append(Book(title="Three"))
    return {"authors", "authors:3:1", *row(Person, 1), *row(Book, 3)}


def append_through_a_proxy(session: Session) -> set[str]:
    book = session.get_one(Book, 1)
    book.names.append("Eve")
    return {"authors", "authors:1:3", *row(Person, 3), *row(Book, 1)}


def remove(session: Session) -> set[str]:
    book = session.get_one(Book, 1)
    book.authors.clear()
    return {"authors", "authors:1:1", *row(Person, 1), *row(Book, 1)}


def replace(session: Session) -> set[str]:
    session.get_one(Book, 2).authors = [session.get_one(Person, 2)]
    return {"authors", "authors:2:1", *row(Person, 1), *row(Book, 2)}


def delete_a_parent(session: Session) -> set[str]:
    session.delete(session.get_one(Person, 1))
    return {"authors", "authors:1:1", "authors:2:1", *row(Person, 1), *row(Book, 1), *row(Book, 2)}


def rekey(session: Session) -> set[str]:
    session.get_one(Book, 1).authors[0].name = "Ada King"
    session.get_one(Book, 2).id = 9
    return {"authors", *row(Book, 2), *row(Book, 9), *row(Person, 1), *row(Person, 2)}


def add_to_a_dynamic_one(session: Session) -> set[str]:
    session.get_one(Book, 2).shelves.append(session.get_one(Shelf, 1))
    return {"shelved", "shelved:*", *row(Book, 2), *row(Shelf, 1)}


def remove_from_a_dynamic_one(session: Session) -> set[str]:
    session.get_one(Book, 1).shelves.remove(session.get_one(Shelf, 1))
    return {"shelved", "shelved:*", *row(Book, 1), *row(Shelf, 1)}


def add_to_a_write_only_one(session: Session) -> set[str]:
    session.get_one(Shelf, 2).books.add(session.get_one(Book, 1))
    return {"shelved", "shelved:*", *row(Book, 1), *row(Shelf, 2)}


def relate_to_its_own_table(session: Session) -> set[str]:
    book = session.get_one(Book, 2)
    book.sequels.append(Book(id=5, title="Five"))
    return {"sequels", *row(Book, 2), *row(Book, 5)}


def relate_by_a_backref(session: Session) -> set[str]:
    session.get_one(Book, 2).prequels = []  # type: ignore[attr-defined]  # which no type checker sees
    return {"sequels", *row(Book, 1), *row(Book, 2)}


def let_an_orphan_go(session: Session) -> set[str]:
    book = session.get_one(Book, 1)
    del book.chapters[0]  # nothing marks it or its notes as changed
    return {*row(Chapter, 1), *row(Note, 1), *row(Note, 2)}


def delete_by_cascade(session: Session) -> set[str]:
    session.delete(session.get_one(Book, 1))
    return {*row(Book, 1), *row(Chapter, 1), *row(Chapter, 2), *row(Note, 1), "authors:1:1", *row(Person, 1), "sequels"}


def merge(session: Session) -> set[str]:
    session.merge(Book(id=1, title="Eins", authors=[Person(id=2, name="Bob")]))
    return {"authors", "authors:1:1", "authors:1:2", *row(Book, 1), *row(Person, 1), *row(Person, 2)}


def within_a_savepoint(session: Session) -> set[str]:
    with session.begin_nested():
        append(session)
    return append_to_it()


def append_to_it() -> set[str]:
    return {"authors", "authors:1:2", *row(Person, 2), *row(Book, 1)}


def of_an_inheriting_class(session: Session) -> set[str]:
    session.get_one(Employee, 1).name = "Bossy"
    return {*row(Employee, 1), *row(Manager, 1)}


def update_a_class_that_others_inherit_from(session: Session) -> set[str]:
    session.execute(update(Employee).where(Employee.id == 1).values(name="Bossy"))
    return {*row(Employee, 1), *row(Manager, 1)}


def upsert_a_row(session: Session) -> set[str]:
    statement = upsert(User).values(id=1, name="C")
    session.execute(statement.on_conflict_do_update(index_elements=["id"], set_={"name": "C"}))
    return {"users", "users:*"}


def insert_into_the_association(session: Session) -> set[str]:
    session.execute(insert(authors).values(book_id=1, person_id=2))
    return {"authors", "authors:*"}


def row(model: Any, *key: int) -> set[str]:
    return {table_tag(model), row_tags(model, *key)[0]}


@pytest.mark.parametrize(
    "write",
    [
        append, append_to_the_other_side, append_and_forget_one_side, append_to_the_only_side, append_something_new,
        append_through_a_proxy, remove, replace,
        delete_a_parent, rekey, add_to_a_dynamic_one, remove_from_a_dynamic_one, add_to_a_write_only_one,
        relate_to_its_own_table, relate_by_a_backref, let_an_orphan_go, delete_by_cascade, merge, within_a_savepoint,
        of_an_inheriting_class, update_a_class_that_others_inherit_from, upsert_a_row, insert_into_the_association,
    ],
)  # fmt: skip
def test_every_row_that_is_written_is_announced(
    maker: sessionmaker[Session], spy: Spy, write: Callable[[Session], set[str]]
) -> None:
    engine = maker.kw["bind"]
    invalidate_on_commit(maker, spy)
    before = rows_of(engine)
    with maker.begin() as session:
        expected = write(session)
        session.flush()
        assert spy.told == []
    after = rows_of(engine)
    assert before != after
    assert len(spy.told) == 1
    assert expected - spy.told[0] == set()
    assert uncovered(before, after, spy.told[0]) == set()


def test_a_change_of_an_association_tells_of_no_other_row(sessions: sessionmaker[Session], spy: Spy) -> None:
    with sessions.begin() as session:
        append(session)
    assert spy.told == [append_to_it()]


def test_what_is_only_shown_is_not_written(sessions: sessionmaker[Session], spy: Spy) -> None:
    with sessions.begin() as session:
        user = session.get_one(User, 1)
        assert len(user.lines) == 3
        session.delete(user)
    assert spy.told == [USER_1 | row(Order, 7)]


def test_an_association_that_is_rolled_back_is_not_announced(sessions: sessionmaker[Session], spy: Spy) -> None:
    with sessions() as session:
        append(session)
        session.flush()
        session.rollback()
        session.get_one(Person, 1).name = "Ada King"
        session.commit()
    assert spy.told == [row(Person, 1)]


def test_further_tags_count_for_who_is_at_the_end_of_an_association(maker: sessionmaker[Session], spy: Spy) -> None:
    invalidate_on_commit(maker, spy, tags={Book: ["called {title}"], Person: lambda person: [f"by {person.id}"]})
    with maker.begin() as session:
        book, shelf = session.get_one(Book, 1), session.get_one(Shelf, 1)
        shelf.featured.append(book)
        session.expire(book, ["title"])  # it has to be loaded for the tag
    with maker.begin() as session:
        book = session.get_one(Book, 1)
        book.authors.remove(session.get_one(Person, 1))
    assert "called One" in spy.told[0]
    assert {"called One", "by 1"} - spy.told[1] == set()


# --- Bulk statements


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        (update(User).where(User.id == 1).values(name="A"), {"users", "users:1"}),
        (update(User).where(User.id.in_([1, 2]), User.name != "B").values(name="A"), {"users", "users:1", "users:2"}),
        (update(User).where(User.id == 1).values({User.name: "A"}), {"users", "users:1"}),
        (update(User).where(bindparam(None, 2) == User.id).values({"name": "A"}), {"users", "users:2"}),
        (
            update(User).where((User.id == 1) & ((User.name == "Ada") | (User.id == 2))).values(name="A"),
            {"users", "users:1"},
        ),
        (update(User).where(User.id == 1).where(User.id.in_([1, 2])).values(name="A"), {"users", "users:1"}),
        (update(User).where(User.id.in_([])).values(name="A"), {"users"}),
        (update(User).where(User.id == 1, Order.user_id == User.id).values(name="A"), {"users", "users:1"}),
        (update(User).where(User.id == 1).ordered_values((User.name, "A")), {"users", "users:1"}),
        (delete(Order).where(Order.id == 7), {"orders", "orders:7"}),
        (delete(Line).where(Line.order_id == 7, Line.number.in_([1, 2])), {"lines", "lines:7:1", "lines:7:2"}),
    ],
)  # fmt: skip
def test_a_criterion_that_names_primary_keys_is_announced_for_these_rows_only(
    maker: sessionmaker[Session], spy: Spy, statement: Any, told: set[str]
) -> None:
    before = rows_of(maker.kw["bind"])
    invalidate_on_commit(maker, spy)
    with maker.begin() as session:
        session.execute(statement)
    assert spy.told == [told]
    assert uncovered(before, rows_of(maker.kw["bind"]), spy.told[0]) == set()


other = aliased(User)


@pytest.mark.parametrize(
    ("statement", "parameters"),
    [
        (update(User).values(name="A"), None),
        (update(User).where(User.id != 1).values(name="A"), None),
        (update(User).where(User.id > 1).values(name="A"), None),
        (update(User).where(User.id.not_in([1])).values(name="A"), None),
        (update(User).where(or_(User.id == 1, User.name == "Grace")).values(name="A"), None),
        (update(User).where(~(User.id == 1)).values(name="A"), None),
        (update(User).where(User.id == 1).values(id=5), None),  # the key itself
        (update(User).where(User.id == 1).values({User.id: User.id + 4}), None),
        (update(User).where(User.id == 1).ordered_values((User.name, "A"), (User.id, 5)), None),
        (update(User).where(User.id == bindparam("one")), {"one": 1, "name": "A"}),
        (update(User).where(User.id == bindparam("one", 2)).values(name="A"), {"one": 1}),
        (update(User).where(User.id == 1), {"name": "A", "id_1": 2}),
        (update(User).where(User.id == select(Order.user_id).scalar_subquery()).values(name="A"), None),
        (update(User).where(User.id.in_(select(Order.user_id))).values(name="A"), None),
        (update(User).where(User.id == 1.0).values(name="A"), None),  # equal to 1, but another text
        (update(User).where(User.id.in_([2, True])).values(name="A"), None),
        (update(User).where(User.id == bindparam(None, 2, callable_=lambda: 1)).values(name="A"), None),
        (update(User).where(User.id == "1").values(name="A"), None),
        (update(User).where(other.id == 1).values(name="A"), None),  # another row of the same table
        (update(other).where(other.name == "Ada").values(name="A"), None),
        (update(other).where(User.id == 1).values(name="A"), None),
        (update(Line).where(Line.order_id == 7).values(what="A"), None),  # a part of the key
        (update(Manager).where(Manager.id == 1).values(rank=9), None),  # of two tables
        (update(Manager).where(Employee.id == 1).values(rank=9), None),
        (update(Coin).where(Coin.code == "eur").values(ident=1), None),  # which a collation may call equal to EUR
        (update(User.__table__).where(User.__table__.c.id == 1).values(name="A"), None),
        (update(User.__table__.alias()).values(name="A"), None),
        (update(table("users", column("id"), column("name"))).values(name="A"), None),
        (update(Order).execution_options(dml_strategy="core_only"), [{"id": 8, "user_id": 2}]),
    ],
)
def test_a_criterion_that_may_mean_other_rows_is_announced_for_all_of_them(
    maker: sessionmaker[Session], spy: Spy, statement: Any, parameters: Any
) -> None:
    before = rows_of(maker.kw["bind"])
    invalidate_on_commit(maker, spy)
    with maker.begin() as session:
        session.execute(statement, parameters)
    assert len(spy.told) == 1
    assert any(tag.endswith(":*") for tag in spy.told[0])
    assert uncovered(before, rows_of(maker.kw["bind"]), spy.told[0]) == set()


def test_a_bulk_update_by_primary_key_is_announced_for_these_rows(sessions: sessionmaker[Session], spy: Spy) -> None:
    with sessions.begin() as session:
        session.execute(update(Line), [{"order_id": 7, "number": 1, "what": "a"}])
    with sessions.begin() as session:
        session.query(User).filter_by(id=1).update({"name": "B"})
        session.query(Order).filter(Order.id == 7).delete()
    with sessions.begin() as session:
        session.execute(update(Coin), [{"code": "EUR", "ident": 1}])
    assert spy.told == [
        {"lines", "lines:7:1"}, {"users", "users:1", "orders", "orders:7"}, {"coins", "coins:*"}
    ]  # fmt: skip


@pytest.mark.parametrize(
    "statement",
    [
        update(User).where(User.name == "Ada").values(name="Augusta"),
        delete(User).where(User.name == "Ada"),
        insert(User).values(id=9, name="Barbara"),
        update(User.__table__).values(name="Everybody"),
    ],
    ids=["update", "delete", "insert", "of a table"],
)
def test_a_bulk_statement_is_announced_for_all_rows(sessions: sessionmaker[Session], spy: Spy, statement: Any) -> None:
    with sessions.begin() as session:
        session.execute(statement)
        assert spy.told == []
    assert spy.told == [{"users", "users:*"}]
    assert {"users", "users:*"} & set(row_tags(User, 1))


def test_what_bulk_statements_give_back_is_what_they_gave_without_us(sessions: sessionmaker[Session], spy: Spy) -> None:
    rows = [{"id": 8, "user_id": 1}, {"id": 9, "user_id": 2}]
    with sessions.begin() as session:
        orders = session.scalars(insert(Order).returning(Order), rows).all()
        assert [order.id for order in orders] == [8, 9]
        assert session.query(Order).filter(Order.user_id == 1).update({"user_id": 2}) == 2
        assert session.execute(delete(Order).where(Order.id == 8)).rowcount == 1
        session.execute(update(User), [{"id": 1, "name": "Augusta"}])  # by primary key
    assert spy.told == [{"orders", "orders:*", "orders:8", "users", "users:1"}]


def test_a_bulk_statement_on_a_subclass_is_announced_for_its_tables(sessions: sessionmaker[Session], spy: Spy) -> None:
    with sessions.begin() as session:
        session.execute(update(Manager).values(rank=1))
    assert spy.told == [{"employees", "employees:*", "managers", "managers:*"}]


def test_what_sqlalchemy_does_not_understand_is_not_announced(sessions: sessionmaker[Session], spy: Spy) -> None:
    with sessions.begin() as session:
        session.execute(text("UPDATE users SET name = 'x'"))
    assert spy.told == []


# --- Who is heard


def test_a_session_a_class_and_a_scoped_session_may_be_heard(maker: sessionmaker[Session], spy: Spy) -> None:
    class Mine(Session):
        pass

    scoped = scoped_session(sessionmaker(maker.kw["bind"]))
    with maker() as single:
        for sessions in (single, Mine, scoped):
            invalidate_on_commit(sessions, spy)
        for session in (single, Mine(maker.kw["bind"]), scoped()):
            session.get_one(User, 1).name += "!"
            session.commit()
            session.close()
    scoped.remove()
    with maker.begin() as unheard:
        unheard.get_one(User, 1).name = "Ada"
    assert spy.told == [USER_1] * 3


def test_to_install_it_twice_changes_nothing(sessions: sessionmaker[Session], spy: Spy) -> None:
    invalidate_on_commit(sessions, spy)
    with sessions.begin() as session:
        session.get_one(User, 1).name = "Augusta"
    assert spy.told == [USER_1]


@pytest.mark.parametrize("sessions", [None, "session", object(), create_engine])
def test_what_makes_no_sessions_is_refused(sessions: Any, spy: Spy) -> None:
    with pytest.raises(TypeError, match="give invalidate_on_commit a session"):
        invalidate_on_commit(sessions, spy)


def test_what_is_no_cache_is_refused(maker: sessionmaker[Session]) -> None:
    with pytest.raises(TypeError, match="a cache, not <class"):
        invalidate_on_commit(maker, Cache)  # type: ignore[arg-type]


# --- Async


@pytest.fixture
def run_with(url: str) -> Callable[..., Any]:
    """Runs ``work(maker)`` in an event loop, with an `async_sessionmaker` of the database."""
    pytest.importorskip("aiosqlite")

    def run(work: Callable[[async_sessionmaker[AsyncSession]], Any]) -> Any:
        async def main() -> Any:
            engine = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"), poolclass=NullPool)
            try:
                return await work(async_sessionmaker(engine))
            finally:
                await engine.dispose()

        return asyncio.run(main())

    return run


async def rename(sessions: Any) -> None:
    async with sessions() as session:
        (await session.get_one(User, 1)).name += "!"
        async with session.begin_nested():
            await session.execute(update(Order).values(user_id=2))
        await session.commit()
        (await session.get_one(User, 2)).name += "!"
        await session.flush()
        await session.rollback()


def test_an_async_commit_awaits_the_invalidation(run_with: Callable[..., Any], spy: Spy) -> None:
    async def work(maker: async_sessionmaker[AsyncSession]) -> None:
        unheard = async_sessionmaker(**maker.kw)
        invalidate_on_commit(maker, spy)
        invalidate_on_commit(maker, spy)
        await rename(maker)
        await rename(unheard)

    run_with(work)
    assert spy.told == [USER_1 | {"orders", "orders:*"}]


def test_an_association_that_an_async_session_writes_is_announced(run_with: Callable[..., Any], spy: Spy) -> None:
    async def work(maker: async_sessionmaker[AsyncSession]) -> None:
        invalidate_on_commit(maker, spy, tags={Book: ["called {title}"]})
        async with maker.begin() as session:
            book = await session.get_one(Book, 1)
            shelf = await session.get_one(Shelf, 2)
            session.expire(book)
            shelf.books.add(book)
        async with maker.begin() as session:
            await session.delete(await session.get_one(Book, 2))

    run_with(work)
    assert spy.told[0] == {"shelved", "shelved:*", "called One", *row(Book, 1), *row(Shelf, 2)}
    assert {"authors", "authors:2:1", "authors:2:2", *row(Person, 2)} - spy.told[1] == set()


def test_an_async_session_and_a_scoped_one_may_be_heard(run_with: Callable[..., Any], spy: Spy) -> None:
    async def work(maker: async_sessionmaker[AsyncSession]) -> None:
        single = maker()
        invalidate_on_commit(single, spy)
        await rename(lambda: single)
        scoped = async_scoped_session(maker, scopefunc=asyncio.current_task)
        invalidate_on_commit(scoped, spy)
        await rename(scoped)

    run_with(work)
    assert spy.told == [USER_1 | {"orders", "orders:*"}] * 2


def test_a_sync_session_on_the_thread_of_an_event_loop_announces_without_waiting(
    sessions: sessionmaker[Session], spy: Spy, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with sessions.begin() as session:
            session.get_one(User, 1).name = "Augusta"

    asyncio.run(main())
    assert spy.told == [USER_1]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# --- Trouble


def test_a_commit_does_not_fail_because_of_the_cache(
    sessions: sessionmaker[Session], spy: Spy, caplog: pytest.LogCaptureFixture
) -> None:
    spy.close()
    with sessions.begin() as session:
        session.get_one(User, 1).name = "Augusta"
    with sessions() as session:
        assert session.get_one(User, 1).name == "Augusta"
    assert "old values may be served until they expire" in caplog.text


def test_what_was_rolled_back_is_not_remembered(
    maker: sessionmaker[Session], spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from colocache import sqlalchemy

    made: list[Any] = []
    init = sqlalchemy._Listener.__init__
    monkeypatch.setattr(sqlalchemy._Listener, "__init__", lambda self, *args: (made.append(self), init(self, *args))[1])
    invalidate_on_commit(maker, spy)
    with maker() as session:
        session.get_one(User, 1).name = "Augusta"
        session.flush()
        assert len(made[0]._pending) == 1
        session.rollback()
    del session
    gc.collect()
    assert len(made[0]._pending) == 0
