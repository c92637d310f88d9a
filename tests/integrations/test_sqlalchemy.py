"""SQLAlchemy: what a transaction has written is invalidated when it is committed, and only then. On real SQLite."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

from sqlalchemy import ForeignKey, MetaData, Table, create_engine, delete, event, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, scoped_session, sessionmaker
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


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    user: Mapped[User | None] = relationship(back_populates="orders")


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

    def invalidate_tag(self, *tags: str, **how: Any) -> Any:
        receipt = super().invalidate_tag(*tags, **how)
        self.told.append(set(tags))
        return receipt

    async def ainvalidate_tag(self, *tags: str, **how: Any) -> Any:
        receipt = await super().ainvalidate_tag(*tags, **how)
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
    return url


@pytest.fixture
def maker(url: str) -> sessionmaker[Session]:
    """Makes sessions that nobody listens to yet; savepoints work."""
    engine = create_engine(url, poolclass=NullPool)

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
        session.add(Line(order_id=7, number=2, what="milk"))
        session.flush()
        session.delete(session.get_one(Line, (7, 1)))
    assert spy.told == [USER_1 | {"lines", "lines:7:1", "lines:7:2"}]


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
    assert (table_tag(Manager), row_tags(Manager, 1)) == ("managers", ("managers:1", "managers:*"))


def test_a_key_too_long_for_a_tag_has_one_all_the_same() -> None:
    one, other = row_tags(User, "ü" * 200)[0], row_tags(User, "ü" * 201)[0]
    assert one != other
    assert max(len(each.encode()) for each in (one, other)) <= 250


@pytest.mark.parametrize(
    ("model", "key", "names"),
    [(User, (), "has 1 parts"), (User, (1, 2), "has 1 parts"), (Line, (7,), "has 2 parts"), (str, (1,), "no mapped")],
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
        ({str: ["text"]}, TypeError, "no mapped class"),
    ],
)
def test_further_tags_that_would_fail_later_are_refused_at_once(
    maker: sessionmaker[Session], spy: Spy, tags: Any, error: type[Exception], names: str
) -> None:
    with pytest.raises(error, match=names):
        invalidate_on_commit(maker, spy, tags=tags)


# --- Bulk statements


@pytest.mark.parametrize(
    "statement",
    [
        update(User).where(User.id == 1).values(name="Augusta"),
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


def test_what_bulk_statements_give_back_is_what_they_gave_without_us(
    sessions: sessionmaker[Session], spy: Spy
) -> None:
    rows = [{"id": 8, "user_id": 1}, {"id": 9, "user_id": 2}]
    with sessions.begin() as session:
        orders = session.scalars(insert(Order).returning(Order), rows).all()
        assert [order.id for order in orders] == [8, 9]
        assert session.query(Order).filter(Order.user_id == 1).update({"user_id": 2}) == 2
        assert session.execute(delete(Order).where(Order.id == 8)).rowcount == 1
        session.execute(update(User), [{"id": 1, "name": "Augusta"}])  # by primary key
    assert spy.told == [{"orders", "orders:*", "users", "users:*"}]


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
    assert "may be served in its old form until it expires" in caplog.text


def test_what_was_rolled_back_is_not_remembered(
    maker: sessionmaker[Session], spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from colocache.integrations import sqlalchemy

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
