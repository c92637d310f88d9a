"""The example on Flask, twice: by the cache itself, and by Flask-Caching with the cache behind it.

gunicorn --workers 2 with_flask:app
"""

from __future__ import annotations

from typing import Any

import flask_caching
from flask import Flask, abort, request

import colocache
import users
from colocache.flask import FlaskCache

cache = colocache.Cache("example-flask")

app = Flask(__name__)
app.config["CACHE_TYPE"] = "colocache.flask.Backend"
FlaskCache(app, cache)
old_friend = flask_caching.Cache(app)  # after FlaskCache, whose cache it uses


@cache.cached(ttl=300, tags=lambda user_id: (f"user:{user_id}",))
def user(user_id: int) -> dict[str, Any] | None:
    """One user; read once in all workers together, until it is written."""
    return users.read(user_id)


@app.get("/users/<int:user_id>")
def show(user_id: int) -> dict[str, Any]:
    """A user's page."""
    return users.page(user(user_id) or abort(404))


@app.post("/users/<int:user_id>")
def rename(user_id: int) -> dict[str, Any]:
    """Write, then invalidate, in this order; no worker shows the old name once the response begins."""
    users.rename(user_id, request.form["name"])  # without a name, Flask answers with 400
    cache.invalidate_tags(f"user:{user_id}", wait="response")
    old_friend.delete_memoized(greeting, user_id)
    return show(user_id)


@old_friend.memoize(timeout=300)
def greeting(user_id: int) -> str:
    """What a user is greeted with: a function that Flask-Caching remembers."""
    return f"Hello, {(users.read(user_id) or abort(404))['name']}!"


@app.get("/users/<int:user_id>/greeting")
def greet(user_id: int) -> dict[str, Any]:
    """A user's greeting."""
    return users.page({"greeting": greeting(user_id)})
