"""The application of the matrix as Flask's dev server takes it."""

from __future__ import annotations

from typing import Any

from flask import Flask

from colocache.wsgi import CacheMiddleware
from verification.servers.served import answer, cache

app = Flask(__name__)
app.wsgi_app = CacheMiddleware(app.wsgi_app, cache)  # type: ignore[method-assign]


@app.get("/<path:path>")
def anything(path: str) -> dict[str, Any]:
    """Every route."""
    return answer(path)
