"""The application of the matrix as a task of celery."""

from __future__ import annotations

from typing import Any

from celery.signals import worker_process_shutdown

from verification.servers import served
from verification.servers.celery_queue import queue

app = queue(served.HERE)


@worker_process_shutdown.connect
def leave(**_details: Any) -> None:
    """Say goodbye: celery's workers run nothing that is registered with atexit."""
    served.cache.close()


@app.task(name="answer")
def answer(path: str) -> dict[str, Any]:
    """Every route."""
    return served.answer(path)
