"""gunicorn with the demo application, for one phase of the demo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


class Server:
    """A gunicorn master and its workers on a Unix socket in ``directory``. It is a context manager."""

    def __init__(self, directory: Path, database: Path, workers: int, **settings: str) -> None:
        self.socket = str(directory / "http")
        self.log = directory / "gunicorn.log"
        self._environment = os.environ | {
            "COLOCACHE_DIR": str(directory / "cache"),
            "DEMO_APP": "observed:application",
            "DEMO_BIND": f"unix:{self.socket}",
            "DEMO_DATABASE": str(database),
            "DEMO_WORKERS": str(workers),
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        command = [sys.executable, "-m", "gunicorn", "--config", str(HERE / "gunicorn.conf.py")]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=HERE, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def is_running(self) -> bool:
        """Tell whether the master runs."""
        return self._process is not None and self._process.poll() is None

    def last_words(self, lines: int = 30) -> str:
        """Return the end of gunicorn's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
