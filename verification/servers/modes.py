"""The servers of the matrix, and the modes that they are run in."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from signal import Signals
from typing import Literal

Recycling = Literal["signal", "requests", "reload", "hangup", "upgrade", "none"]

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
WSGI = "verification.servers.served:application"
ASGI = "verification.servers.served:async_application"
WORKERS = 3


@dataclass(frozen=True)
class Mode:
    """A server as it is started, and what it does by itself.

    In the command, ``{port}`` and ``{workers}`` are filled in.
    """

    server: str
    mode: str
    command: tuple[str, ...]
    needs: tuple[str, ...]  # modules that the server consists of
    workers: int = WORKERS
    recycling: Recycling = "signal"  # how a worker comes to be replaced
    signal: Signals = Signals.SIGTERM  # to the worker, if by a signal
    overlaps: bool = False  # the new workers come before the old ones leave, and so take other seats
    replaces_killed: bool = True  # else the whole server ends with a worker that is killed
    interrupted: bool = False  # stopped as by Ctrl-C, SIGINT to all of its processes, instead of SIGTERM to the first
    tidy: bool = True  # else it kills workers that are about to leave, when it is stopped
    by_celery: bool = False  # asked by tasks instead of HTTP
    warning: str = ""  # what the cache warns of there
    aside: str = ""  # a package that is not installed with the others, as it is another version of one of them
    short: bool = False  # part of the short form

    def __str__(self) -> str:
        return f"{self.server} {self.mode}".strip()

    @property
    def place(self) -> Path:
        """Where the package is that is not installed with the others."""
        return Path(sys.prefix) / "aside" / self.aside

    @property
    def missing(self) -> list[str]:
        """The modules that it needs and that are not installed."""
        return [name for name in self.needs if find_spec(name) is None]


def module(name: str, *arguments: str) -> tuple[str, ...]:
    """The command of a server that is started as a module."""
    return (sys.executable, "-m", name, *arguments)


def gunicorn(mode: str, *arguments: str, app: str = WSGI, needs: tuple[str, ...] = ()) -> Mode:
    """A mode of gunicorn."""
    common = ("--bind", "127.0.0.1:{port}", "--workers", "{workers}", "--config", str(HERE / "gunicorn.conf.py"))
    return Mode("gunicorn", mode, module("gunicorn", *common, *arguments, app), ("gunicorn", *needs))


def uwsgi(mode: str, *arguments: str, program: str = str(BIN / "uwsgi")) -> Mode:
    """A mode of uWSGI."""
    common = ("--http-socket", "127.0.0.1:{port}", "--processes", "{workers}", "--module", WSGI)
    return Mode("uWSGI", mode, (program, *common, *arguments), ("pyuwsgi",), signal=Signals.SIGHUP)


MASTER = ("--master", "--hook-master-start", "unix_signal:15 gracefully_kill_them_all")  # or SIGTERM cuts requests off

UVICORN = module("uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--workers", "{workers}", ASGI)
GRANIAN = module("granian", "--host", "127.0.0.1", "--port", "{port}", "--workers", "{workers}", "--no-ws")
HYPERCORN = module("hypercorn", "--bind", "127.0.0.1:{port}", "--workers", "{workers}", ASGI)
CELERY = module("celery", "--app", "verification.servers.served_by_celery", "worker",
                "--pool", "prefork", "--concurrency", "{workers}", "--without-gossip", "--without-mingle",
                "--without-heartbeat", "-O", "fair", "--max-tasks-per-child", "40")  # fmt: skip
FLASK = module("flask", "--app", "verification.servers.served_by_flask", "run", "--port", "{port}", "--debug")
DJANGO = module("django", "runserver", "127.0.0.1:{port}", "--settings", "verification.servers.served_by_django")

MODES = (
    replace(gunicorn("sync"), short=True),
    gunicorn("gthread", "--worker-class", "gthread", "--threads", "2"),
    replace(gunicorn("gthread --preload", "--worker-class", "gthread", "--threads", "2", "--preload"), short=True),
    gunicorn("gevent", "--worker-class", "gevent", needs=("gevent",)),
    replace(gunicorn("sync --max-requests", "--max-requests", "40"), recycling="requests"),
    replace(gunicorn("sync --reload", "--reload", "--reload-engine", "poll"), recycling="reload"),
    replace(gunicorn("sync, HUP"), recycling="hangup", overlaps=True),
    replace(gunicorn("sync, USR2 upgrade", "--pid", "{pidfile}"), recycling="upgrade", overlaps=True),
    gunicorn("asgi", "--worker-class", "asgi", app=ASGI),
    gunicorn("uvicorn-worker", "--worker-class", "uvicorn_worker.UvicornWorker", app=ASGI, needs=("uvicorn_worker",)),
    Mode("uvicorn", "--workers", UVICORN, ("uvicorn",), short=True),
    Mode("granian", "WSGI", (*GRANIAN, "--respawn-failed-workers", "--interface", "wsgi", WSGI),
         ("granian",)),
    Mode("granian", "ASGI", (*GRANIAN, "--respawn-failed-workers", "--interface", "asgi", ASGI), ("granian",)),
    Mode("hypercorn", "--workers", HYPERCORN, ("hypercorn",), recycling="hangup", replaces_killed=False, tidy=False),
    replace(uwsgi("--master", *MASTER), short=True),
    uwsgi("--master --lazy-apps", *MASTER, "--lazy-apps"),
    replace(uwsgi("without a master"), recycling="none", replaces_killed=False, interrupted=True, tidy=False),
    replace(uwsgi("2.0.26 without threads", *MASTER, program="{aside}/bin/uwsgi"), aside="pyuwsgi==2.0.26",
            warning="start it with --enable-threads"),
    Mode("Django", "runserver", DJANGO, ("django",), workers=1, recycling="reload", replaces_killed=False,
         interrupted=True),
    Mode("Flask", "run --debug", FLASK, ("flask",), workers=1, recycling="reload", replaces_killed=False,
         interrupted=True),
    Mode("celery", "prefork", CELERY, ("celery",), recycling="requests", by_celery=True),
)  # fmt: skip
