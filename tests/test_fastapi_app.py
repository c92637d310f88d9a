"""A FastAPI application as people write it: pydantic, SQLModel on sqlite, dependencies, and two workers of it.

Each worker is an application with a cache of its own; what one has loaded, the other reads as bytes, and it must be
equal and of the same type there.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple

import httpx2
import pytest
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import PlainTextResponse
from fastapi.testclient import TestClient
from pydantic import BaseModel, HttpUrl
from sqlalchemy import Engine
from sqlalchemy.pool import StaticPool
from sqlmodel import Field, Session, SQLModel, create_engine, select

from colocache import Cache
from colocache.asgi import CacheMiddleware


class HeroBase(SQLModel):
    name: str
    power: int = 0


class Hero(HeroBase, table=True):
    __tablename__ = "hero_of_the_app"  # because another test has a table of heroes, too
    id: int | None = Field(default=None, primary_key=True)


class HeroPublic(HeroBase):
    id: int


class Team(BaseModel):
    leader: HeroPublic | None
    members: list[HeroPublic]
    home: HttpUrl = HttpUrl("https://example.org/")


@dataclasses.dataclass
class Count:
    heroes: int


class Worker(NamedTuple):
    """The application of one process, with the results and the number of calls of its endpoints."""

    app: FastAPI
    cache: Cache
    functions: dict[str, Any]
    ran: list[str]


def open_session(request: Request) -> Iterator[Session]:
    with Session(request.app.state.engine) as session:
        yield session


def application(cache: Cache, engine: Engine) -> Worker:
    app, ran = FastAPI(), list[str]()
    app.add_middleware(CacheMiddleware, cache=cache)
    app.state.engine = engine

    @cache.cached(ttl=60, tags=("heroes",))
    def find(name: str, minimum: int = 0) -> list[HeroPublic]:
        ran.append("find")
        with Session(engine) as opened:
            found = opened.exec(select(Hero).where(Hero.name == name, Hero.power >= minimum)).all()
            return [HeroPublic.model_validate(each, from_attributes=True) for each in found]

    @app.get("/heroes/{name}")
    def heroes(name: str, minimum: Annotated[int, Query()] = 0) -> list[HeroPublic]:
        return find(name, minimum)

    @app.post("/heroes")
    async def add(hero: HeroBase, session: Annotated[Session, Depends(open_session)]) -> HeroPublic:
        added = Hero.model_validate(hero)
        session.add(added)
        session.commit()
        await cache.ainvalidate_tags("heroes", wait="response")
        return HeroPublic.model_validate(added, from_attributes=True)

    @app.get("/team/{name}")
    @cache.cached(ttl=60, tags=("heroes",))
    async def team(name: str) -> Team:
        ran.append("team")
        with Session(engine) as opened:
            found = opened.exec(select(Hero).where(Hero.name == name)).all()
        members = [HeroPublic.model_validate(each, from_attributes=True) for each in found]
        return Team(leader=members[0] if members else None, members=members)

    @app.get("/count")
    @cache.cached(ttl=60, tags=("heroes",))
    async def count() -> Count:
        ran.append("count")
        with Session(engine) as opened:
            return Count(len(opened.exec(select(Hero)).all()))

    @app.get("/missing/{number}")
    @cache.cached(ttl=60)
    async def missing(number: int) -> HeroPublic:
        ran.append("missing")
        raise HTTPException(404, f"no hero {number}")

    @app.get("/table/{number}")
    @cache.cached(ttl=60)
    def table(number: int) -> Hero | None:
        ran.append("table")
        with Session(engine) as opened:
            return opened.get(Hero, number)

    @app.get("/page")
    @cache.cached(ttl=60)
    async def page():  # type: ignore[no-untyped-def]
        ran.append("page")
        return PlainTextResponse("hi")

    @app.get("/export/{size}")
    @cache.cached(ttl=60)
    async def export(size: int) -> str:
        ran.append("export")
        return "x" * size

    return Worker(app, cache, {"find": find, "team": team, "count": count}, ran)


@pytest.fixture
def workers(new_group: Callable[..., list[Cache]]) -> Iterator[list[Worker]]:
    """Make two workers of the application on one database."""
    engine = create_engine("sqlite://", connect_args={"check_same_thread": False}, poolclass=StaticPool)
    SQLModel.metadata.create_all(engine)
    yield [application(cache, engine) for cache in new_group(2)]  # long enough for a busy machine
    engine.dispose()


def test_models_come_back_as_they_were_whichever_worker_answers(workers: list[Worker]) -> None:
    one, other = workers
    with TestClient(one.app) as first, TestClient(other.app) as second:
        assert first.post("/heroes", json={"name": "Ada", "power": 3}).json() == {"id": 1, "name": "Ada", "power": 3}
        for path in ("/heroes/Ada", "/heroes/Ada?minimum=2", "/team/Ada", "/count"):
            answers = [client.get(path) for client in (first, second, first, second)]
            assert {answer.status_code for answer in answers} == {200}
            assert len({answer.text for answer in answers}) == 1
        assert sorted(one.ran + other.ran) == ["count", "find", "find", "team"], "each was loaded once, by one of both"
        teams = [asyncio.run(worker.functions["team"]("Ada")) for worker in workers]
        assert teams[0] == teams[1] == Team(leader=HeroPublic(id=1, name="Ada", power=3), members=teams[0].members)
        assert {type(each) for team in teams for each in (team, team.home)} == {Team, HttpUrl}
        assert {type(each) for team in teams for each in (team.leader, *team.members)} == {HeroPublic}
        assert teams[0] is not teams[1]
        assert [type(worker.functions["find"]("Ada")[0]) for worker in workers] == [HeroPublic] * 2


def test_a_write_in_one_worker_is_seen_by_the_other_at_once(workers: list[Worker]) -> None:
    with TestClient(workers[0].app) as first, TestClient(workers[1].app) as second:
        for number in range(1, 6):
            assert first.get("/count").json() == second.get("/count").json() == {"heroes": number - 1}
            writer, reader = (first, second) if number % 2 else (second, first)
            writer.post("/heroes", json={"name": "Bob"})
            assert reader.get("/count").json() == {"heroes": number}
            assert [each["id"] for each in reader.get("/team/Bob").json()["members"]] == [*range(1, number + 1)]


def test_requests_at_once_load_once_in_both_workers(workers: list[Worker]) -> None:
    async def ask() -> list[Any]:
        clients = [
            httpx2.AsyncClient(transport=httpx2.ASGITransport(app=worker.app), base_url="http://shop")
            for worker in workers
        ]
        answers = await asyncio.gather(*(clients[number % 2].get("/team/nobody") for number in range(20)))
        for client in clients:
            await client.aclose()
        return [answer.json() for answer in answers]

    assert asyncio.run(ask()) == [{"leader": None, "members": [], "home": "https://example.org/"}] * 20
    assert workers[0].ran + workers[1].ran == ["team"]


def test_what_is_not_found_is_not_cached(workers: list[Worker]) -> None:
    with TestClient(workers[0].app) as client:
        for _ in range(2):
            answer = client.get("/missing/5")
            assert (answer.status_code, answer.json()) == (404, {"detail": "no hero 5"})
    assert workers[0].ran == ["missing"] * 2


def test_a_row_of_a_table_is_refused_at_the_first_call_though_there_is_none(workers: list[Worker]) -> None:
    with TestClient(workers[0].app) as client:
        for _ in range(2):
            with pytest.raises(TypeError, match=r"table\(\) returns .*Hero, which cannot be .*ORM.*model_validate"):
                client.get("/table/5")
    assert workers[0].ran == [], "nothing was loaded for nothing"


def test_a_response_is_refused_with_the_reason(workers: list[Worker]) -> None:
    with TestClient(workers[0].app) as client, pytest.raises(TypeError, match="a response belongs to one request"):
        client.get("/page")


def test_what_is_too_large_is_answered_and_said(workers: list[Worker], caplog: pytest.LogCaptureFixture) -> None:
    with TestClient(workers[0].app) as client, caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert len(client.get("/export/2000000").json()) == 2_000_000
    assert workers[0].ran == ["export"] * 2
    assert workers[0].cache.stats().oversize == 2
    assert caplog.text.count("export is used, and not kept: it takes 20000") == 1
