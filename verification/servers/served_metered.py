"""The application of the matrix with its metrics, as an operator mounts them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

from colocache.prometheus import make_wsgi_app
from verification.servers.served import application as served
from verification.servers.served import cache

metrics = make_wsgi_app(cache)


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The metrics, whose answer names the process in a header; or any other route."""
    if environ["PATH_INFO"] != "/metrics":
        return served(environ, start_response)
    return metrics(environ, lambda status, headers: start_response(status, [*headers, ("X-Pid", str(os.getpid()))]))
