"""The example on Flask, with Flask-Caching in front of the cache.

gunicorn --workers 2 with_flask_caching:app
"""

from __future__ import annotations

from typing import Any

import flask_caching
from flask import Flask, abort, request

import users

app = Flask(__name__)
app.config.update(COLOCACHE_GROUP="example-flask-caching", CACHE_TYPE="colocache.flask.Backend")
cache = flask_caching.Cache(app)


@cache.memoize(timeout=300)
def user(user_id: int) -> dict[str, Any] | None:
    """Return a user. The workers share what one of them has read, until it is written."""
    return users.read(user_id)


@app.get("/users/<int:user_id>")
def show(user_id: int) -> dict[str, Any]:
    """Show a user."""
    return users.page(user(user_id) or abort(404))


@app.post("/users/<int:user_id>")
def rename(user_id: int) -> dict[str, Any]:
    """Write first, then delete. When the response begins, no worker shows the old name."""
    users.rename(user_id, request.form["name"])  # without a name, Flask answers with 400
    cache.delete_memoized(user, user_id)
    return show(user_id)
