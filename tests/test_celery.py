"""Celery's prefork pool, and a plain script beside it, in one group; on a broker that is a directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT

pytest.importorskip("celery")


SHOP = """\
import os
import pathlib
import colocache

cache = colocache.Cache("shop")


@cache.cached()
def price(sku):
    with open("reads", "a") as reads:
        print(os.getpid(), file=reads)
    return pathlib.Path("price").read_text()
"""

TASKS = """\
import os
import pathlib
from celery.signals import worker_process_init, worker_process_shutdown
from verification.servers.celery_queue import queue
import shop

app = queue(pathlib.Path("."))


@worker_process_init.connect
def join(**_):
    shop.cache.start()


@worker_process_shutdown.connect
def leave(**_):
    shop.cache.close()


@app.task
def show(sku):
    return os.getpid(), shop.price(sku), len(shop.cache.members())


@app.task
def change(sku, price):
    pathlib.Path("price").write_text(price)
    return shop.price.invalidate(sku).complete
"""

SCRIPT = """\
import sys
import shop
import tasks

for line in sys.stdin:
    print(eval(line), flush=True)
shop.cache.close()
"""


def test_workers_of_celery_and_a_script_share_and_hear_each_other(
    run_dir: str, tmp_path: Path, until: Callable[..., None]
) -> None:
    for name, text in (("shop.py", SHOP), ("tasks.py", TASKS), ("price", "one")):
        (tmp_path / name).write_text(text)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "servers"), str(tmp_path)])
    environment = os.environ | {"PYTHONPATH": path, "COLOCACHE_DIR": run_dir}
    command = [
        sys.executable, "-m", "celery", "-A", "tasks", "worker", "--pool", "prefork", "--concurrency", "2", "-O",
        "fair", "--without-gossip", "--without-mingle", "--without-heartbeat",
    ]  # fmt: skip
    with open(tmp_path / "log", "w") as log:
        worker = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    script: Any = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip

    def call(expression: str) -> Any:
        script.stdin.write(expression + "\n")
        script.stdin.flush()
        return eval(script.stdout.readline())

    def ask(task: str) -> Any:
        return call(f"tasks.{task}.get(timeout=30, interval=0.01)")

    def all_know_each_other() -> bool:
        pid, _, members = ask("show.delay('tea')")
        known[pid] = members
        return list(known.values()) == [3, 3]

    known: dict[int, int] = {}
    try:
        call("shop.cache.start()")
        until(all_know_each_other)
        assert call("repr(shop.price('tea'))") == "one"
        for price in ("two", "three"):
            assert ask(f"change.delay('tea', {price!r})") is True
            (tmp_path / "reads").write_text("")
            assert call("repr(shop.price('tea'))") == price
            seen: set[int] = set()
            while len(seen) < 2:
                pid, shown, _ = ask("show.delay('tea')")
                assert shown == price
                seen.add(pid)
            assert (tmp_path / "reads").read_text().count("\n") == 1
    finally:
        script.communicate()
        worker.send_signal(signal.SIGTERM)
        status = worker.wait(60)
    told = (tmp_path / "log").read_text()
    assert (status, script.returncode) == (0, 0), told
    assert "Traceback" not in told, told
    assert [*Path(run_dir).iterdir()] == []
