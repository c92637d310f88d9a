"""The example on Flask with SQLAlchemy. The sessions invalidate what they write, so no view has to.

gunicorn --workers 2 with_sqlalchemy:app
"""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, abort, request
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

import colocache
import users
from colocache.flask import FlaskCache
from colocache.sqlalchemy import invalidate_on_commit, row_tags

cache = colocache.Cache("example-sqlalchemy")
app = Flask(__name__)
FlaskCache(app, cache)
Session = sessionmaker(create_engine(f"sqlite:///{users.FILE}"))
invalidate_on_commit(Session, cache)


class Base(DeclarativeBase):
    """The base of mapped classes."""


class User(Base):
    """A row of the table in `users`."""

    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@cache.cached(ttl=300, tags=lambda user_id: row_tags(User, user_id))
def user(user_id: int) -> dict[str, Any] | None:
    """Return a user. All workers together read it once, until a commit has written it."""
    users.reads += 1
    with Session() as session:
        found = session.get(User, user_id)
        return {"id": found.id, "name": found.name, "read_by": os.getpid()} if found else None


@app.get("/users/<int:user_id>")
def show(user_id: int) -> dict[str, Any]:
    """Show a user."""
    return users.page(user(user_id) or abort(404))


@app.post("/users/<int:user_id>")
def rename(user_id: int) -> dict[str, Any]:
    """Write. When the commit returns, no worker shows the old name."""
    with Session.begin() as session:
        found = session.get(User, user_id) or abort(404)
        found.name = request.form["name"]  # without a name, Flask answers with 400
    return show(user_id)
