"""The same small application on every framework, in two worker processes of a real server."""

from __future__ import annotations

from typing import Any

import pytest

EXAMPLES = {
    "wsgi": ("gunicorn", "--workers", "2", "with_wsgi:application"),
    "asgi": ("uvicorn", "--workers", "2", "with_asgi:application"),
    "flask": ("gunicorn", "--workers", "2", "with_flask:app"),
    "flask-caching": ("gunicorn", "--workers", "2", "with_flask_caching:app"),
    "fastapi": ("uvicorn", "--workers", "2", "with_fastapi:app"),
    "sqlalchemy": ("gunicorn", "--workers", "2", "with_sqlalchemy:app"),
}


@pytest.fixture(params=EXAMPLES.values(), ids=EXAMPLES.keys())
def server(request: pytest.FixtureRequest, serve: Any) -> Any:
    """The example in two workers."""
    return serve(*request.param)


def test_workers_share_what_one_reads_and_see_what_one_writes(server: Any, until: Any) -> None:
    assert {answer["name"] for answer in server.answers_of_both(until, "/users/1")} == {"Ada"}

    for name in ("Augusta", "Ada King", "Ada Lovelace"):
        status, written = server.ask("POST", "/users/1", name=name)
        assert (status, written["id"], written["name"]) == (200, 1, name)
        answers = server.answers_of_both(until, "/users/1")
        assert {answer["name"] for answer in answers} == {name}, "a worker shows what another one has overwritten"

    def is_shared() -> bool:
        page = server.get("/users/1")
        return bool(page["read_by"] != page["answered_by"])

    until(is_shared, failing="each worker reads for itself")
    assert server.ask("GET", "/users/99")[0] == 404
    assert server.ask("POST", "/users/99", name="Nobody")[0] == 404
    assert server.ask("POST", "/users/1")[0] in (400, 422)
    assert server.stop() == 0, server.log
    assert "Traceback" not in server.log
