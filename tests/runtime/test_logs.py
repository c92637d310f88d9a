"""The log: every line names the process and the group, and a lasting trouble does not fill it."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
from functools import partial
from typing import Any

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
    Log("shop").info("joined on seat %s", "web1/0", event="trouble")
    [record] = caplog.records
    assert (record.name, record.levelname) == ("colocache", "INFO")
    assert record.getMessage() == f"colocache[{os.getpid()}] shop: joined on seat web1/0"


def test_a_group_name_with_a_percent_sign_is_no_format(caplog: pytest.LogCaptureFixture) -> None:
    Log("50%s").warning("all is lost", event="trouble")
    assert caplog.records[0].getMessage().endswith("50%s: all is lost")


def test_a_thousand_warnings_of_one_kind_make_one_line_a_minute_which_counts_the_others(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log("shop")
    for number in range(1000):
        log.warning("cannot read %s", number, event="trouble")
    assert [record.args[-1] for record in caplog.records if record.args] == [0]
    clock.now += logs.PERIOD - 1
    log.warning("cannot read %s", "a", event="trouble")
    assert len(caplog.records) == 1
    clock.now += 1
    log.warning("cannot read %s", "b", event="trouble")
    log.warning("cannot read %s", "c", event="trouble")
    assert caplog.messages[1:] == [
        f"colocache[{os.getpid()}] shop: cannot read b (and 1000 more like this, which were left out)"
    ]
    clock.now += 10 * logs.PERIOD
    log.warning("cannot read %s", "d", event="trouble")
    assert caplog.messages[-1].endswith("cannot read d (and 1 more like this, which were left out)")
    clock.now += logs.PERIOD
    log.warning("cannot read %s", "e", event="trouble")
    assert caplog.messages[-1].endswith("cannot read e")


def test_one_trouble_does_not_hide_another(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    shop, blog = Log("shop"), Log("blog")
    for _ in range(3):
        shop.warning("cannot read %s", 1, event="trouble")
        shop.error("cannot join", event="trouble")
        blog.warning("cannot read %s", 1, event="trouble")
        shop.warning("refused: %s", "x", about="f", event="trouble")
        shop.warning("refused: %s", "y", about="g", event="trouble")
    assert len(caplog.records) == 5


def test_what_lines_are_about_does_not_make_the_log_grow(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log = Log("shop")
    for number in range(3 * logs.MOST_TEXTS):
        log.warning("refused", about=number, event="trouble")
    assert len(log._seen) <= logs.MOST_TEXTS
    log.warning("refused", about=number, event="trouble")
    assert len(caplog.records) == 3 * logs.MOST_TEXTS, "the newest is remembered"


def test_states_are_logged_more_often_than_troubles_but_not_without_limit(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log("shop")
    for _ in range(50):
        log.info("is current again", event="trouble")
    assert [record.levelname for record in caplog.records] == logs.MOST[logging.INFO] * ["INFO"]


def test_an_exception_comes_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    log = Log("shop")
    try:
        raise OSError("no such thing")
    except OSError:
        log.exception("it has failed", event="trouble")
    assert "no such thing" in caplog.text
    assert caplog.records[0].levelname == "ERROR"


def test_lines_that_nobody_wants_are_not_counted(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log = Log("shop")
    caplog.set_level(logging.CRITICAL, "colocache")
    log.warning("cannot read", event="trouble")
    caplog.set_level(logging.WARNING, "colocache")
    log.warning("cannot read", event="trouble")
    assert len(caplog.records) == 1


def test_a_line_names_the_place_that_wrote_it(caplog: pytest.LogCaptureFixture) -> None:
    Log("shop").warning("cannot read", event="trouble")
    assert caplog.records[0].funcName == "test_a_line_names_the_place_that_wrote_it"


#: What `logging` puts into records, and its own formatters.
OF_LOGGING = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Writes a record as those of python-json-logger and structlog do: the text, and what logging did not put there."""

    def format(self, record: logging.LogRecord) -> str:
        more = {name: value for name, value in vars(record).items() if name not in OF_LOGGING}
        return json.dumps({"event": record.getMessage(), "level": record.levelname, "pid": record.process} | more)


def as_json(records: list[logging.LogRecord]) -> list[dict[str, Any]]:
    """Return what a formatter of JSON makes of records."""
    return [json.loads(JsonFormatter().format(record)) for record in records]


def test_a_formatter_of_json_writes_what_each_line_is_about(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log, begin = Log("shop"), f"colocache[{os.getpid()}] shop: "
    log.info("joining", event="joining")
    log.seat = 3
    log.warning("cannot read %s", "a", event="unreadable")
    log.warning("cannot read %s", "b", event="unreadable")
    clock.now += logs.PERIOD
    log.warning("cannot read %s", "c", event="unreadable")
    log.error("cannot write", event="unwritable")
    assert as_json(caplog.records) == [
        {
            "event": begin + text, "level": level, "pid": os.getpid(), "colocache_event": event,
            "colocache_group": "shop", "colocache_seat": seat, "colocache_left_out": left_out,
        }
        for level, text, event, seat, left_out in [
            ("INFO", "joining", "joining", None, 0),
            ("WARNING", "cannot read a", "unreadable", 3, 0),
            ("WARNING", "cannot read c (and 1 more like this, which were left out)", "unreadable", 3, 1),
            ("ERROR", "cannot write", "unwritable", 3, 0),
        ]
    ]  # fmt: skip


def test_what_an_application_adds_to_all_records_stays_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """`logging` refuses a record whose ``extra`` has a name that the record has already."""
    factory = logging.getLogRecordFactory()

    def of_application(*args: Any, **more: Any) -> logging.LogRecord:
        record = factory(*args, **more)
        record.__dict__.update(dict.fromkeys(["event", "group", "host", "left_out", "pid", "seat"], "its own"))
        return record

    logging.setLogRecordFactory(of_application)
    try:
        Log("shop").warning("all is lost", event="trouble")
    finally:
        logging.setLogRecordFactory(factory)
    [record] = caplog.records
    assert (record.__dict__["event"], record.__dict__["colocache_event"]) == ("its own", "trouble")


def test_the_names_of_what_is_added_do_not_belong_to_logging() -> None:
    assert not OF_LOGGING & {*logs.EXTRA}


def test_a_log_of_a_seat_goes_on_naming_it_and_shares_its_minute_with_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = Log("shop")
    of_seat = log.of_seat(7)
    log.warning("cannot read", event="trouble")
    of_seat.warning("cannot read", event="trouble")
    of_seat.warning("cannot write", event="trouble")
    log.warning("cannot write", event="trouble")
    assert [record.__dict__["colocache_seat"] for record in caplog.records] == [None, 7]


def _show_seat(log: Log) -> None:
    os._exit(log.seat is None)


def test_a_forked_child_is_not_on_the_seat_of_its_parent() -> None:
    log = Log("shop").of_seat(7)
    assert log.seat == 7
    child = multiprocessing.get_context("fork").Process(target=_show_seat, args=(log,))
    child.start()
    child.join()
    assert child.exitcode == 1


def _warn(log: Log) -> None:
    logging.getLogger("colocache").addHandler(counting := _Counting())
    log.warning("cannot read", event="trouble")
    os._exit(counting.lines)


class _Counting(logging.Handler):
    lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += record.process == os.getpid()


def test_a_forked_child_has_a_minute_of_its_own() -> None:
    log = Log("shop")
    log.warning("cannot read", event="trouble")
    child = multiprocessing.get_context("fork").Process(target=_warn, args=(log,))
    child.start()
    child.join()
    assert child.exitcode == 1


def test_threads_that_warn_at_once_share_one_line(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log = Log("shop")
    threads = [
        threading.Thread(target=lambda: [log.warning("cannot read", event="trouble") for _ in range(200)])
        for _ in range(8)
    ]
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
            Log("shop").warning("all is lost", event="lost")
            sys.__stdout__.write("ended")

class Handler(logging.Handler):
    def emit(self, record):
        begun.set()
        threading.Event().wait()

logging.getLogger("colocache").addHandler(Handler())
threading.Thread(target=lambda: ends.wait() and Log("shop").warning("all is lost", event="lost"), daemon=True).start()
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
        Log("shop").warning("all is lost", event="trouble")
    finally:
        logging.getLogger("colocache").removeHandler(handler)
    assert "ValueError: the disk is full" in capfd.readouterr().err


def test_a_thread_of_the_cache_does_not_wait_for_who_configures_logging(
    caplog: pytest.LogCaptureFixture, until: Until
) -> None:
    """Whoever does has a lock of that module, and may take long: handlers are users' code."""
    done, errands = Answer(), ThreadErrands()
    warn = partial(Log("shop").warning, "all is lost", event="trouble")
    logging.getLogger("colocache").manager._clear_cache()  # type: ignore[attr-defined]
    with logging._lock:  # type: ignore[attr-defined]
        start_driver(lambda: done.give(warn()), "driver", errands, done.give)
        assert done.result(30) is None
        assert not caplog.records
    until(lambda: [record.getMessage() for record in caplog.records] == [f"colocache[{os.getpid()}] shop: all is lost"])
