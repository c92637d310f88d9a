"""The log: every line names the process and the group, and a lasting trouble does not fill it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import subprocess
import sys
import threading

import pytest

from colocache.runtime import logs
from colocache.runtime.logs import Log
from colocache.runtime.waiting.answers import Answer
from colocache.runtime.waiting.threads import ThreadErrands, start_driver
from tests.conftest import Until


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(logs, "monotonic", clock)
    return clock


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "colocache")


def test_a_line_says_which_process_of_which_group_writes_it(caplog: pytest.LogCaptureFixture) -> None:
    Log("shop").info("joined on seat %s", "web1/0")
    [record] = caplog.records
    assert (record.name, record.levelname) == ("colocache", "INFO")
    assert record.getMessage() == f"colocache[{os.getpid()}] shop: joined on seat web1/0"


def test_a_group_name_with_a_percent_sign_is_no_format(caplog: pytest.LogCaptureFixture) -> None:
    Log("50%s").warning("all is lost")
    assert caplog.records[0].getMessage().endswith("50%s: all is lost")


def test_a_thousand_warnings_of_one_kind_make_one_line_a_minute_which_counts_the_others(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log("shop")
    for number in range(1000):
        log.warning("cannot read %s", number)
    assert [record.args[-1] for record in caplog.records if record.args] == [0]
    clock.now += logs.PERIOD - 1
    log.warning("cannot read %s", "a")
    assert len(caplog.records) == 1
    clock.now += 1
    log.warning("cannot read %s", "b")
    log.warning("cannot read %s", "c")
    assert caplog.messages[1:] == [
        f"colocache[{os.getpid()}] shop: cannot read b (and 1000 more like this, which were left out)"
    ]
    clock.now += 10 * logs.PERIOD
    log.warning("cannot read %s", "d")
    assert caplog.messages[-1].endswith("cannot read d (and 1 more like this, which were left out)")
    clock.now += logs.PERIOD
    log.warning("cannot read %s", "e")
    assert caplog.messages[-1].endswith("cannot read e")


def test_one_trouble_does_not_hide_another(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    shop, blog = Log("shop"), Log("blog")
    for _ in range(3):
        shop.warning("cannot read %s", 1)
        shop.error("cannot join")
        blog.warning("cannot read %s", 1)
        shop.warning("refused: %s", "x", about="f")
        shop.warning("refused: %s", "y", about="g")
    assert len(caplog.records) == 5


def test_what_lines_are_about_does_not_make_the_log_grow(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log = Log("shop")
    for number in range(3 * logs.MOST_TEXTS):
        log.warning("refused", about=number)
    assert len(log._seen) <= logs.MOST_TEXTS
    log.warning("refused", about=number)
    assert len(caplog.records) == 3 * logs.MOST_TEXTS, "the newest is remembered"


def test_states_are_logged_more_often_than_troubles_but_not_without_limit(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log("shop")
    for _ in range(50):
        log.info("is current again")
    assert [record.levelname for record in caplog.records] == logs.MOST[logging.INFO] * ["INFO"]


def test_an_exception_comes_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    log = Log("shop")
    try:
        raise OSError("no such thing")
    except OSError:
        log.exception("it has failed")
    assert "no such thing" in caplog.text
    assert caplog.records[0].levelname == "ERROR"


def test_lines_that_nobody_wants_are_not_counted(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log = Log("shop")
    caplog.set_level(logging.CRITICAL, "colocache")
    log.warning("cannot read")
    caplog.set_level(logging.WARNING, "colocache")
    log.warning("cannot read")
    assert len(caplog.records) == 1


def test_a_line_names_the_place_that_wrote_it(caplog: pytest.LogCaptureFixture) -> None:
    Log("shop").warning("cannot read")
    assert caplog.records[0].funcName == "test_a_line_names_the_place_that_wrote_it"


def _warn(log: Log) -> None:
    logging.getLogger("colocache").addHandler(counting := _Counting())
    log.warning("cannot read")
    os._exit(counting.lines)


class _Counting(logging.Handler):
    lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += record.process == os.getpid()


def test_a_forked_child_has_a_minute_of_its_own() -> None:
    log = Log("shop")
    log.warning("cannot read")
    child = multiprocessing.get_context("fork").Process(target=_warn, args=(log,))
    child.start()
    child.join()
    assert child.exitcode == 1


def test_threads_that_warn_at_once_share_one_line(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log = Log("shop")
    threads = [threading.Thread(target=lambda: [log.warning("cannot read") for _ in range(200)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(caplog.records) == 1


def test_a_program_that_configures_no_logging_gets_troubles_on_its_standard_error(run_dir: str) -> None:
    script = "import colocache; colocache.Cache('shop', directory='/dev/null/x').get_or_load('k', lambda: 1)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "shop: cannot join, caches nothing" in done.stderr


AT_THE_END = """
import atexit, threading

ends, begun = threading.Event(), threading.Event()
atexit.register(lambda: ends.set() or begun.wait())  # after what logging does at the end

import logging, sys
from colocache.runtime.logs import Log

class Last:
    def __del__(self):
        if sys.is_finalizing():
            Log("shop").warning("all is lost")
            sys.__stdout__.write("ended")

class Handler(logging.Handler):
    def emit(self, record):
        begun.set()
        threading.Event().wait()

logging.getLogger("colocache").addHandler(Handler())
threading.Thread(target=lambda: ends.wait() and Log("shop").warning("all is lost"), daemon=True).start()
sys.modules["kept to the end"] = Last()
"""


def test_a_finalizer_at_the_end_does_not_wait_for_a_handler_whose_thread_has_ended() -> None:
    command = [sys.executable, "-c", AT_THE_END]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "ended"


def test_what_a_handler_raises_is_printed_and_reaches_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ValueError("the disk is full")

    handler = Broken()
    logging.getLogger("colocache").addHandler(handler)
    try:
        Log("shop").warning("all is lost")
    finally:
        logging.getLogger("colocache").removeHandler(handler)
    assert "ValueError: the disk is full" in capfd.readouterr().err


def test_a_thread_of_the_cache_does_not_wait_for_who_configures_logging(
    caplog: pytest.LogCaptureFixture, until: Until
) -> None:
    """Whoever does has a lock of that module, and may take long: handlers are users' code."""
    done, errands = Answer(), ThreadErrands()
    logging.getLogger("colocache").manager._clear_cache()  # type: ignore[attr-defined]
    with logging._lock:  # type: ignore[attr-defined]
        start_driver(lambda: done.give(Log("shop").warning("all is lost")), "driver", errands, done.give)
        assert done.result(30) is None
        assert not caplog.records
    until(lambda: [record.getMessage() for record in caplog.records] == [f"colocache[{os.getpid()}] shop: all is lost"])
