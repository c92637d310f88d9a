"""The application as the driver runs it: each response has a header with the figures of its worker.

So the driver knows each worker's figures as of its last answer, however the worker ends, and need not ask for them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import app


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The demo application with the header ``X-Figures``."""

    def with_figures(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        return start_response(status, [*headers, ("X-Figures", json.dumps(app.figures()))], exc_info)

    return app.application(environ, with_figures)
