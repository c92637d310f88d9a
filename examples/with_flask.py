"""The example on Flask.

gunicorn --workers 2 with_flask:app
"""

from __future__ import annotations

from typing import Any

from flask import Flask, abort, request

import colocache
import users
from colocache.flask import FlaskCache

cache = colocache.Cache("example-flask")
app = Flask(__name__)
FlaskCache(app, cache)


@cache.cached(ttl=300, tags=lambda user_id: (f"user:{user_id}",))
def user(user_id: int) -> dict[str, Any] | None:
    """Return a user. All workers together read it once, until it is written."""
    return users.read(user_id)


@app.get("/users/<int:user_id>")
def show(user_id: int) -> dict[str, Any]:
    """Show a user."""
    return users.page(user(user_id) or abort(404))


@app.post("/users/<int:user_id>")
def rename(user_id: int) -> dict[str, Any]:
    """Write first, then invalidate. When the response begins, no worker shows the old name."""
    users.rename(user_id, request.form["name"])  # without a name, Flask answers with 400
    cache.invalidate_tags(f"user:{user_id}")
    return show(user_id)
