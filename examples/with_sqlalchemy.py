"""The example with SQLAlchemy, on Flask: no view says what its write invalidates, the sessions do.

gunicorn --workers 2 with_sqlalchemy:app
"""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, abort, request
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

import colocache
import users
from colocache.flask import FlaskCache
from colocache.sqlalchemy import invalidate_on_commit, row_tags, table_tag

cache = colocache.Cache("example-sqlalchemy")
app = Flask(__name__)
FlaskCache(app, cache)

Session = sessionmaker(create_engine(f"sqlite:///{users.FILE}"))
invalidate_on_commit(Session, cache)


class Base(DeclarativeBase):
    """What is mapped."""


class User(Base):
    """A row of the table that `users` makes."""

    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@cache.cached(ttl=300, tags=lambda user_id: row_tags(User, user_id))
def user(user_id: int) -> dict[str, Any] | None:
    """One user; read once in all workers together, until a commit that wrote the row."""
    users.reads += 1
    with Session() as session:
        found = session.get(User, user_id)
        return {"id": found.id, "name": found.name, "read_by": os.getpid()} if found else None


@cache.cached(ttl=300, tags=(table_tag(User),))
def names() -> list[str]:
    """All names; until a commit that wrote any row of the table."""
    users.reads += 1
    with Session() as session:
        return list(session.scalars(select(User.name).order_by(User.name)))


@app.get("/users/<int:user_id>")
def show(user_id: int) -> dict[str, Any]:
    """A user's page."""
    return users.page(user(user_id) or abort(404))


@app.get("/users")
def index() -> dict[str, Any]:
    """The list of all."""
    return users.page({"names": names()})


@app.post("/users/<int:user_id>")
def rename(user_id: int) -> dict[str, Any]:
    """Write. When the commit returns no worker shows the old name, neither here nor in the list."""
    with Session.begin() as session:
        found = session.get(User, user_id) or abort(404)
        found.name = request.form["name"]  # without a name, Flask answers with 400
    return show(user_id)
