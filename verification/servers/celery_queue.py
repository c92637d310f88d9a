"""Celery on a directory: what a broker is to others, files are to the matrix. For the workers and for who asks them."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from celery import Celery
from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.utils.json import dumps


class Channel(filesystem.Channel):  # type: ignore[misc]
    """Kombu's own, but that nobody finds a message half written."""

    def _put(self, queue: str, payload: Any, **_kwargs: Any) -> None:
        folder = Path(self.data_folder_out)
        name = f"{uuid.uuid4().hex}.{queue}.msg"
        fresh = folder / f".{name}"
        fresh.write_text(dumps(payload))
        fresh.rename(folder / name)


class Transport(filesystem.Transport):  # type: ignore[misc]
    """Kombu's own, with that channel."""

    Channel = Channel


TRANSPORT_ALIASES["directory"] = f"{__name__}:Transport"


def queue(directory: Path) -> Celery:
    """A celery whose messages and results are files below a directory."""
    place = directory / "queue"
    place.mkdir(exist_ok=True)
    folders = {name: str(place) for name in ("data_folder_in", "data_folder_out")}
    return Celery(
        "servers",
        broker="directory://",
        backend=f"file://{place}",
        broker_transport_options={**folders, "control_folder": str(place / "control"), "polling_interval": 0.01},
        worker_prefetch_multiplier=1,  # or one worker would hoard what the others are to be asked
        broker_connection_retry_on_startup=True,
    )
