"""FastAPI's endpoints as cached functions: what the framework puts in, and what it makes of a request, as arguments."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from enum import Enum
from typing import Annotated, Any
from uuid import UUID

import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Header, Query, Request, Response, Security
from fastapi.security import SecurityScopes
from fastapi.testclient import TestClient
from pydantic import BaseModel
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from colocache import Cache


class Colour(str, Enum):  # noqa: UP042  # as FastAPI's documentation has them
    RED = "red"


class Filter(BaseModel):
    word: str = ""
    limits: list[int] = []


class User(BaseModel):
    name: str


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "row"
    number: Mapped[int] = mapped_column(primary_key=True)


class Repository:
    """Has no form as a part of a key, and cannot be closed."""

    def __init__(self, name: str) -> None:
        self.name = name


engine = create_engine("sqlite://")
async_engine = create_async_engine("sqlite+aiosqlite://")


def session() -> Iterator[Session]:
    with Session(engine) as opened:
        yield opened


async def async_session() -> AsyncIterator[AsyncSession]:
    async with AsyncSession(async_engine) as opened:
        yield opened


def nothing() -> Iterator[object]:
    yield object()


def user_name(x_user: Annotated[str, Header()] = "nobody") -> str:
    return x_user


def user(x_user: Annotated[str, Header()] = "nobody") -> Iterator[User]:
    yield User(name=x_user)


def user_row() -> Iterator[Row]:
    yield Row(number=1)


def repository() -> Iterator[Repository]:
    yield Repository("a")


class Account:
    """Can be closed, as accounts of banks can, and is not a means."""

    def __init__(self, name: str) -> None:
        self.name = name

    def close(self) -> None: ...


def account(x_user: Annotated[str, Header()] = "nobody") -> Account:
    return Account(x_user)


class Database:
    def close(self) -> None: ...


def database() -> Iterator[Database]:
    yield Database()


def upload() -> io.BytesIO:
    return io.BytesIO(b"content")


def scopes(security_scopes: SecurityScopes) -> SecurityScopes:
    return security_scopes


@pytest.fixture
def router(cache: Cache) -> APIRouter:
    return APIRouter()


@pytest.fixture
def client(router: APIRouter) -> Iterator[TestClient]:
    app = FastAPI()
    app.include_router(router)
    with TestClient(app) as opened:
        yield opened


def asks(client: TestClient, *urls: str, **headers: str) -> list[Any]:
    return [client.get(url, headers=headers).json() for url in urls]


def test_what_belongs_to_the_request_is_no_part_of_the_key(cache: Cache, router: APIRouter, client: TestClient) -> None:
    calls: list[int] = []

    @router.get("/item/{number}")
    @cache.cached(ttl=60)
    async def item(request: Request, number: int, tasks: BackgroundTasks, response: Response) -> int:
        calls.append(number)
        assert request.url.path == f"/item/{number}"
        assert isinstance(tasks, BackgroundTasks)
        assert isinstance(response, Response)
        return number

    assert asks(client, "/item/1", "/item/1", "/item/2") == [1, 1, 2]
    assert calls == [1, 2]
    assert item.cache_key(None, 1, None, None) == (1,)  # type: ignore[arg-type]
    assert item.cache_info().hits == 1


def test_what_a_dependency_opens_and_closes_is_no_part_of_the_key(
    cache: Cache, router: APIRouter, client: TestClient
) -> None:
    calls: list[str] = []

    @router.get("/sync/{number}")
    @cache.cached
    def sync(number: int, db: Annotated[Session, Depends(session)]) -> int:
        calls.append("sync")
        return int(db.execute(text(f"SELECT {number}")).scalar_one())

    @router.get("/async/{number}")
    @cache.cached
    async def asynchronous(number: int, db: AsyncSession = Depends(async_session)) -> int:  # noqa: B008
        calls.append("async")
        return int((await db.execute(text(f"SELECT {number}"))).scalar_one())

    @router.get("/any/{number}")
    @cache.cached
    def anything(number: int, db: Annotated[object, Depends(nothing)], log: Annotated[Any, Depends(session)]) -> int:
        calls.append("any")
        return number

    for way in ("sync", "async", "any"):
        assert asks(client, f"/{way}/1", f"/{way}/1", f"/{way}/2") == [1, 1, 2]
    assert calls == [way for way in ("sync", "async", "any") for _ in range(2)]


@pytest.mark.parametrize("style", ["annotated", "default"])
def test_none_stands_for_what_a_dependency_opens_where_a_call_is_invalidated(
    cache: Cache, router: APIRouter, client: TestClient, style: str
) -> None:
    """Nobody has the session of the request whose result is to go."""
    calls: list[int] = []
    if style == "annotated":

        @router.get("/item/{number}")
        @cache.cached
        def item(number: int, db: Annotated[Session, Depends(session)], own: Annotated[Any, Depends(database)]) -> int:
            calls.append(number)
            return number
    else:

        @router.get("/item/{number}")
        @cache.cached
        def item(number: int, db: Session = Depends(session), own: Any = Depends(database)) -> int:  # noqa: B008
            calls.append(number)
            return number

    for invalidate in (
        lambda: item.invalidate(1, None, None),
        lambda: item.invalidate(1, own=None),  # what is of a driver by its annotation may be left out
        lambda: item.invalidate(1, object(), Database()),
    ):
        client.get("/item/1")
        before = len(calls)
        assert asks(client, "/item/1") == [1]
        assert len(calls) == before
        assert invalidate().complete
        client.get("/item/1")
        assert len(calls) == before + 1
    with pytest.raises(TypeError, match=r"item\(\): missing a required argument: 'own'"):
        item.invalidate(1)


@pytest.mark.parametrize("way", ["text", "model"])
def test_the_user_that_a_dependency_finds_is_a_part_of_the_key(
    cache: Cache, router: APIRouter, client: TestClient, way: str
) -> None:
    """Were it ignored as a session is, one user would see the page of another."""
    if way == "text":

        @router.get("/me")
        @cache.cached
        def me(who: Annotated[str, Depends(user_name)], db: Annotated[Session, Depends(session)]) -> str:
            return who
    else:

        @router.get("/me")
        @cache.cached
        def me(who: Annotated[User, Depends(user)], db: Annotated[Session, Depends(session)]) -> str:
            return who.name

    for name in ("ann", "bob", "ann"):
        assert client.get("/me", headers={"x-user": name}).json() == name
    assert cache.stats().loads == 2


@pytest.mark.parametrize(
    ("kind", "dependency", "reason"),
    [
        (Row, user_row, "is an object of an ORM"),
        (Repository, repository, "has no form"),
        (Account, account, "has no form"),
        (io.BytesIO, upload, "has no form"),
    ],
)
def test_what_may_tell_one_user_from_another_is_never_ignored_unasked(
    cache: Cache, router: APIRouter, client: TestClient, kind: Any, dependency: Any, reason: str
) -> None:
    def page(what: Any = Depends(dependency)) -> int:  # noqa: B008
        return 1

    router.get("/page")(cache.cached(page))
    router.get("/fine")(cache.cached(ignore=("what",), name="fine")(page))
    with pytest.raises(TypeError, match=rf"page\(\) has an argument 'what' of the type {kind.__name__}, .*it {reason}"):
        client.get("/page")
    assert client.get("/fine").json() == 1


def test_scopes_are_refused_and_never_ignored(cache: Cache, router: APIRouter, client: TestClient) -> None:
    @cache.cached
    def granted(security_scopes: SecurityScopes) -> list[str]:
        return security_scopes.scopes

    @router.get("/page")
    def page(what: Any = Security(granted, scopes=["read"])) -> Any:  # noqa: B008
        return what

    with pytest.raises(TypeError, match="an argument 'security_scopes' of the type SecurityScopes"):
        client.get("/page")


def test_what_fastapi_makes_of_a_request_is_a_part_of_the_key(
    cache: Cache, router: APIRouter, client: TestClient
) -> None:
    @router.get("/search/{colour}/{id}")
    @cache.cached
    async def search(
        colour: Colour, id: UUID, size: float, words: Annotated[list[str], Query()], at: datetime,
        where: Annotated[Filter, Depends()],
    ) -> list[str]:  # fmt: skip
        return [colour.value, str(id), str(size), *words, at.isoformat(), where.word]

    url = f"/search/red/{UUID(int=1)}?size=1.5&words=a&words=b&at=2026-01-01T00:00:00Z"
    known = ["red", str(UUID(int=1)), "1.5", "a", "b", "2026-01-01T00:00:00+00:00", ""]
    assert asks(client, url, url) == [known, known]
    assert cache.stats().loads == 1
    others = [
        url.replace("words=b", "words=c"), url.replace("size=1.5", "size=2"), url.replace("00Z", "01Z"),
        url.replace("00Z", "00%2B01:00"), url + "&word=x",
    ]  # fmt: skip
    assert len({str(each) for each in asks(client, *others, url)}) == 6
    assert cache.stats().loads == 6


def test_the_schema_is_that_of_the_function(cache: Cache, router: APIRouter, client: TestClient) -> None:
    @router.get("/plain/{number}")
    @cache.cached(ttl=60)
    async def plain(number: int, request: Request, word: str | None = None) -> int:
        """Return a number."""
        return number

    described = client.get("/openapi.json").json()["paths"]["/plain/{number}"]["get"]
    assert [each["name"] for each in described["parameters"]] == ["number", "word"]
    assert described["description"] == "Return a number."
    assert client.get("/plain/x").status_code == 422
