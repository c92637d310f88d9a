"""The commands, as processes beside the real processes of a group."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from colocache.cli import COMMANDS, main, parser
from colocache.cli.exits import MEANINGS
from tests import ROOT
from tests.cli.conftest import COMMAND, NewWorker, asked, printed, run
from tests.conftest import Until

EVIL = "evil\x1b[2J\x1b]0;owned\x07\u202e"


#: Has a thread hit a key until the process ends.
HITS = (
    "import threading; threading.Thread("
    "target=lambda: [cache.get({0!r}) for _ in iter(lambda: threading.Event().wait(0.0001), 1)], daemon=True).start()"
)


# --- members, stats


def test_members_lists_the_processes_and_what_they_are(worker: NewWorker, run_dir: str, until: Until) -> None:
    one, other = worker(), worker(COLOCACHE_ROLE="server", COLOCACHE_MEMORY="64MiB")
    until(lambda: all(row["memory"] for row in asked("members")["processes"]))  # they show it in their first second
    found = asked("members")
    assert found["group"] == "shop"
    assert found["path"] == f"{run_dir}/shop"
    assert found["hosts"] == []
    rows = [
        (row["seat"], row["pid"], row["role"], row["alive"], row["state"], row["memory"]) for row in found["processes"]
    ]
    assert rows == [
        (0, one.pid, "peer", True, "running", 32 << 20), (1, other.pid, "server", True, "running", 64 << 20)
    ]  # fmt: skip
    assert re.search(rf"^ +1 +{other.pid}  server ", printed("members"), re.MULTILINE)
    other.kill()
    assert [row["pid"] for row in asked("members")["processes"]] == [one.pid]
    assert [row["alive"] for row in asked("members", "--all")["processes"]] == [True, False]
    assert os.listdir(f"{run_dir}/shop").count("board") == 1, "to look has changed nothing"


def test_a_process_that_is_stopped_is_shown_as_such(worker: NewWorker, until: Until) -> None:
    one = worker()
    os.kill(one.pid, signal.SIGSTOP)
    until(lambda: [row["state"] for row in asked("members")["processes"]] == ["stopped"])


def test_stats_are_those_of_all_processes_and_of_each_namespace(worker: NewWorker, until: Until) -> None:
    one, other = worker(), worker()
    one("[cache.set(str(n), n) for n in range(10)] and None")
    assert other("[cache.get(str(n)) for n in range(12)][:2]") == [0, 1]
    other("[cache.namespace('ns').get_or_load(str(n), lambda: n) for n in range(3)] and None")
    other("cache.cached(name='shop:price')(lambda sku: sku)('tea')")

    def rows(by: str) -> list[dict[str, Any]]:
        return list(asked("stats", "--by", by)["rows"])

    until(lambda: rows("group")[0]["loads"] == 4 and rows("group")[0]["sets"] == 10)
    [total] = rows("group")
    assert (total["reads"], total["fetches"] + total["hits"], total["misses"]) == (16, 10, 2)
    assert sum(total["load_times"]) == 4
    assert [(row["pid"], row["sets"], row["loads"]) for row in rows("process")] == [(one.pid, 10, 0), (other.pid, 0, 4)]
    assert {row["namespace"]: row["loads"] for row in rows("namespace")} == {"": 0, "ns": 3, "shop:price": 1}
    assert [(row["function"], row["loads"]) for row in rows("function")] == [("shop:price", 1)]
    assert asked("stats", "--namespace", "ns")["rows"][0]["loads"] == 3
    assert asked("stats")["hosts"][0]["shelf_entries"] == 14
    assert "shop:price" in printed("stats", "--by", "function")
    one.kill()
    assert rows("group")[0]["sets"] == 10, "the dead count"


# --- keys, info, get


@pytest.fixture
def filled(worker: NewWorker) -> Any:
    one = worker()
    one("cache.set('a', 1, tags=['red'])")
    one(f"cache.set({EVIL!r}, {'v' + EVIL!r})")
    one("cache.set(('user', 7), {'name': 'Ann'}, ttl=None)")
    one("cache.namespace('blog').set('post', ['x'])")
    one("cache.namespace('blog/2026').set('(post', (1, 2))")
    return one


def test_keys_lists_what_can_be_served(filled: Any) -> None:
    assert set(printed("keys").splitlines()) == {
        "a", "evil\\x1b[2J\\x1b]0;owned\\x07\\u202e", "('user', 7)", "blog post", "blog/2026 (post"
    }  # fmt: skip
    assert set(printed("keys", "--namespace", "blog").splitlines()) == {"blog post", "blog/2026 (post"}
    assert printed("keys", "--like", "user") == "('user', 7)\n"
    assert set(printed("keys", "--namespace", "blog", "--literal").splitlines()) == {"'post'", "'(post'"}
    records = [json.loads(line) for line in printed("keys", "--json").splitlines()]
    assert {record["name"] for record in records} == set(filled("[each.name for each in cache.entries()]"))
    assert {record["literal"] for record in records} >= {"('user', 7)", repr(EVIL)}
    assert len(printed("keys", "--limit", "2").splitlines()) == 2
    filled("cache.invalidate('a') and None")
    assert "a\n" not in printed("keys")
    assert printed("keys", "--like", "nothing", status=1) == ""


def test_info_tells_of_a_key_and_what_has_hit_it(filled: Any) -> None:
    found = asked("info", "a")
    assert (found["found"], found["current"], found["tags"], found["events"]) == (True, True, ["red"], [])
    assert 0 <= found["age"] < 300
    assert 0 < found["ttl"] <= 300
    assert asked("info", "--literal", "('user', 7)")["ttl"] is None
    assert asked("info", "--namespace", "blog/2026", "(post")["namespace"] == "blog/2026"
    filled("cache.invalidate_tags('red') and None")
    found = asked("info", "a", status=1)
    assert not found["current"]
    assert [(event["pid"], event["kind"], event["name"]) for event in found["events"]] == [(filled.pid, "tag", "red")]
    assert "state      invalidated" in printed("info", "a", status=1)
    assert f"process {filled.pid} invalidated tag red" in printed("info", "a", status=1)
    assert asked("info", "post", status=1)["found"] is False


def test_info_names_the_processes_that_hit_a_key_most(filled: Any, until: Until) -> None:
    filled(HITS.format("a"))

    def found() -> bool:
        info = asked("info", "a")
        return info["near"] == [filled.pid] and info["hits"] > 0

    until(found)


def test_get_prints_the_value(filled: Any) -> None:
    assert printed("get", "a") == "1\n"
    assert printed("get", EVIL) == repr("v" + EVIL) + "\n"
    assert asked("get", "--literal", "('user', 7)")["value"] == {"name": "Ann"}
    assert printed("get", "-n", "blog/2026", "(post") == "(1, 2)\n"
    found = asked("get", "-n", "blog/2026", "(post")
    assert (found["found"], found["plain"], found["python"]) == (True, False, "(1, 2)")
    assert asked("get", "b", status=1) == {"found": False, "name": "b"}
    done = run("get", "('user', 7)")
    assert done.returncode == 1
    assert "give --literal" in done.stderr


def test_a_key_with_bytes_that_are_no_text_is_a_key_like_others(filled: Any) -> None:
    filled(r"cache.set('\udcff', 'odd')")
    done = subprocess.run(
        [*map(os.fsencode, COMMAND), b"get", b"\xff"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLOCACHE_GROUP": "shop"}, capture_output=True, timeout=100,
    )  # fmt: skip
    assert done.stdout == b"'odd'\n", done.stderr


# --- invalidate, clear


def test_invalidate_reaches_all_processes_and_says_how_many(worker: NewWorker) -> None:
    one, other = worker(), worker()
    one("[cache.set(key, 1, tags=['red']) for key in 'abcd'] and None")
    one("cache.set(('user', 7), 1)")
    one("[cache.namespace('ns').set(key, 1) for key in 'ab'] and None")
    one("cache.namespace('ns/below').set('c', 1)")
    one("cache.namespace('shop:price').set(('tea', 3), 1)")
    assert other("[cache.get(key) for key in 'aaa']") == [1, 1, 1], "it keeps it near"
    found = asked("invalidate", "a", "missing")
    told = ("complete", "alone", "processes", "entries", "hosts")
    assert [found[name] for name in told] == [True, False, 2, 1, 1]
    assert other("cache.get('a')") is None
    assert "dropped 1 value of this host, in 2 processes" in printed("invalidate", "--literal", "('user', 7)")
    assert asked("invalidate", "--call", "shop:price('tea', 3)")["entries"] == 1
    assert asked("invalidate", "--namespace", "ns", "a")["entries"] == 1
    assert asked("invalidate", "--namespace", "ns")["entries"] == 2
    assert asked("invalidate", "--tag", "red", "--tag", "blue")["entries"] == 3
    assert other("list(cache.keys())") == []
    one("cache.set('a', 1)")
    assert asked("clear")["entries"] == 1
    assert one("cache.get('a')") is None
    assert len(asked("members")["processes"]) == 2, "the command has left"


def test_several_calls_of_several_functions_are_dropped_at_once(worker: NewWorker) -> None:
    one = worker()
    one("[cache.namespace(f'shop:{name}').set((1,), 1) for name in ('a', 'b')] and None")
    assert asked("invalidate", "--call", "shop:a(1)", "shop:b(1)")["entries"] == 2
    assert one("list(cache.keys())") == []


@pytest.mark.parametrize("command", [("invalidate", "a"), ("invalidate", "--tag", "t"), ("clear",)])
def test_it_is_said_loudly_if_nobody_is_there(run_dir: str, worker: NewWorker, command: tuple[str, ...]) -> None:
    done = run(*command)
    assert (done.returncode, done.stdout) == (3, "")
    assert "NOTHING WAS INVALIDATED" in done.stderr
    assert "is the group's name right, and COLOCACHE_DIR" in done.stderr
    assert os.listdir(run_dir) == [], "no group was made to invalidate in"
    worker(COLOCACHE_GROUP="ship")
    done = run(*command)
    assert done.returncode == 3
    assert "there are ship" in done.stderr


def test_it_is_said_loudly_if_all_were_killed(worker: NewWorker) -> None:
    worker().kill()
    done = run("invalidate", "a")
    assert done.returncode == 3
    assert "NOTHING WAS INVALIDATED" in done.stderr
    for command in ("members", "stats"):
        assert run(command).returncode == 3


def test_it_is_said_loudly_if_everybody_leaves_before_the_command_has_joined(
    worker: NewWorker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from colocache.cli import target

    one, joined = worker(), target._joined

    def late(*arguments: Any) -> Any:
        one("cache.close()")
        return joined(*arguments)

    monkeypatch.setattr(target, "_joined", late)
    monkeypatch.setenv("COLOCACHE_GROUP", "shop")
    assert main(["invalidate", "a"]) == 3
    assert "NOBODY ELSE is in the group 'shop'" in capsys.readouterr().err
    assert main(["invalidate", "a", "--json"]) == 3


def test_who_cannot_join_says_why_and_has_invalidated_nothing(worker: NewWorker) -> None:
    worker()
    done = run("invalidate", "a", COLOCACHE_LISTEN="127.0.0.1:7400")
    assert done.returncode == 4
    assert "started for one host, and this one for several" in done.stderr


# --- watch, top


class Running:
    """A command that runs until it is ended."""

    def __init__(self, *arguments: str) -> None:
        # A shell that runs the tests in the background has them ignore Ctrl-C, and so all that they start.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self.process: Any = subprocess.Popen(
                [*COMMAND, *arguments], env={**os.environ, "PYTHONPATH": str(ROOT), "COLOCACHE_GROUP": "shop"},
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
        finally:
            signal.signal(signal.SIGINT, before)

    def line(self) -> str:
        return str(self.process.stdout.readline())

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@pytest.fixture
def running() -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def make(*arguments: str) -> Running:
        made.append(Running(*arguments))
        return made[-1]

    yield make
    for each in made:
        each.process.kill()
        with each.process:
            pass


def test_watch_prints_what_is_invalidated_as_it_happens(worker: NewWorker, running: Callable[..., Running]) -> None:
    one, other = worker(), worker()
    one("cache.invalidate('before') and None")
    watch = running("watch")
    assert watch.process.stderr.readline().startswith("watching ")
    recent = running("watch", "--recent", "--json")
    assert json.loads(recent.line())["name"] == "before"
    one(f"cache.invalidate({EVIL!r}, 'b') and None")
    line = json.loads(recent.line())
    assert (line["kind"], line["name"], line["things"], line["pid"]) == ("key", EVIL, 2, one.pid)
    other("cache.invalidate_tags('red') and None")
    assert json.loads(recent.line())["pid"] == other.pid
    first = watch.line()
    while "key evil" not in first:  # it may have begun before the first one
        first = watch.line()
    assert first.endswith("invalidated key evil\\x1b[2J\\x1b]0;owned\\x07\\u202e and 1 more\n")
    assert watch.line().endswith(f"process {other.pid} invalidated tag red\n")
    assert watch.end() == (130, ""), "Ctrl-C is quiet"


def test_watch_goes_on_with_the_next_processes_of_the_group(worker: NewWorker, running: Callable[..., Running]) -> None:
    one = worker()
    watch = running("watch", "--json", "--recent")
    one("cache.invalidate('first') and None")
    assert json.loads(watch.line())["name"] == "first"
    one("cache.close()")
    assert "waiting for the next one" in watch.process.stderr.readline()
    worker()("cache.clear() and None")
    assert json.loads(watch.line())["kind"] == "namespace"


def test_watch_once_prints_what_was_invalidated_lately(worker: NewWorker) -> None:
    worker()("[cache.invalidate(key) for key in 'abc'] and None")
    assert [json.loads(line)["name"] for line in printed("watch", "--once", "--json").splitlines()] == ["a", "b", "c"]


def test_top_without_a_terminal_is_printed_once(worker: NewWorker, until: Until) -> None:
    one = worker()
    one("cache.set('hot', 1)")
    one(HITS.format("hot"))
    one("cache.namespace('slow').get_or_load('k', lambda: __import__('time').sleep(0.05)) and None")

    def shown() -> bool:
        found = asked("top", "--interval", "1.5")
        return bool(found["requests_per_second"] > 1000 and found["hottest"] and found["slowest"])

    until(shown)
    found = asked("top", "--interval", "1.5")
    assert found["hit_ratio"] > 0.99
    assert found["hottest"][0]["name"] == "hot"
    assert found["slowest"][0]["name"] == "slow"
    text = printed("top", "--interval", "0.1")
    assert "requests/s" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "colours"])
def test_top_on_a_terminal_is_live_until_q_is_pressed(worker: NewWorker, plain: bool) -> None:
    one = worker()
    one(f"[cache.set({EVIL!r}, 1), [cache.get({EVIL!r}) for _ in range(1000)]] and None")
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    command = [*COMMAND, "top", "--interval", "0.1", *(["--plain"] if plain else [])]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLOCACHE_GROUP": "shop", "TERM": "xterm", "COLUMNS": "120",
             "LINES": "40"},
    )  # fmt: skip
    seen = b""
    while seen.count(b"colocache top") < 3:
        assert select.select([ours], [], [], 60)[0], seen
        seen += os.read(ours, 65536)
    os.write(ours, b"q")
    with contextlib.suppress(OSError):
        while process.poll() is None:
            if select.select([ours], [], [], 0.1)[0]:
                os.read(ours, 65536)
    assert process.stderr is not None
    assert (process.wait(60), process.stderr.read()) == (0, b"")
    process.stderr.close()
    assert termios.tcgetattr(theirs) == before, "the terminal is as it was"
    assert b"owned\x07" not in seen
    assert b"\x1b]0;" not in seen
    for each in (ours, theirs):
        os.close(each)


# --- What holds for all


BAD = [
    (["--no-such"], "required: command"),
    (["nothing"], "invalid choice"),
    (["keys", "--group", " x"], "--group=' x' cannot be used"),
    (["keys", "--dir", "relative"], "--dir='relative' cannot be used"),
    (["keys", "--limit", "0"], "no whole number"),
    (["stats", "--by", "hour"], "invalid choice"),
    (["get", "--literal", "(x)"], "cannot be a key"),
    (["get", "--literal", "--call", "x"], "not allowed with"),
    (["get"], "required: KEY"),
    (["invalidate"], "give a KEY"),
    (["invalidate", "a", "--tag", "t"], "give --tag alone"),
    (["invalidate", "--namespace", "/x"], "neither begins nor ends"),
    (["clear", "--namespace", "n" * 300], "takes 300 bytes"),
    (["top", "--interval", "never"], "cannot be used"),
    (["bench", "--seconds", "0"], "cannot be used"),
    (["bench", "--redis", "here"], "cannot be used"),
    (["completion", "fish\x1b[2J"], "invalid choice"),
    (["ping", "--health", "x"], "cannot be used"),
]


@pytest.mark.parametrize(("arguments", "text"), BAD, ids=[text + "".join(arguments[:1]) for arguments, text in BAD])
def test_bad_use_is_one_line_and_status_2(run_dir: str, arguments: list[str], text: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert text in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("colocache")
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize(
    "command", ["members", "stats", "top", "keys", "info", "get", "invalidate", "clear", "watch", "doctor"]
)
def test_without_a_group_it_says_which_there_are(worker: NewWorker, command: str) -> None:
    worker()
    done = run(command, *(["k"] if command in ("info", "get", "invalidate") else []), COLOCACHE_GROUP="")
    assert done.returncode == 2
    assert (
        done.stderr
        == f"colocache {command}: no group: give --group shop, or set COLOCACHE_GROUP=shop; there are shop\n"
    )


@pytest.mark.parametrize("command", ["members", "stats", "top", "keys", "info", "get", "watch"])
def test_where_nobody_is_the_status_is_3_and_nothing_is_made(run_dir: str, command: str) -> None:
    done = run(command, *(["k"] if command in ("info", "get") else []))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("\n") == 1
    assert os.listdir(run_dir) == []


def test_options_win_over_variables(worker: NewWorker, run_dir: str) -> None:
    one = worker()
    one("cache.set('a', 1)")
    assert printed("keys", "--group", "shop", "--dir", run_dir, COLOCACHE_GROUP="x", COLOCACHE_DIR="/nowhere") == "a\n"


def test_whoever_stops_reading_is_no_trouble(worker: NewWorker) -> None:
    worker()("[cache.set(str(n), n) for n in range(5000)] and None")
    process: Any = subprocess.Popen(
        [*COMMAND, "keys"], env={**os.environ, "PYTHONPATH": str(ROOT), "COLOCACHE_GROUP": "shop"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
    )  # fmt: skip
    assert process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 141
    process.stderr.close()


def test_a_process_without_output_does_its_work(worker: NewWorker) -> None:
    one = worker()
    one("cache.set('a', 1)")
    command = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *COMMAND]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "COLOCACHE_GROUP": "shop"}
    for arguments, status in ((["keys"], 0), (["keys", "--like", "x"], 1), (["get", "-l", "x"], 2), (["clear"], 0)):
        assert subprocess.run([*command, *arguments], env=environ, timeout=60).returncode == status
    assert one("cache.get('a')") is None


def test_output_that_cannot_be_written_is_told(worker: NewWorker) -> None:
    worker()("cache.set('a', 1)")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "keys"], env={**os.environ, "PYTHONPATH": str(ROOT), "COLOCACHE_GROUP": "shop"}, stdout=full,
            stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode != 0
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_terminal_without_utf_8_gets_escapes(worker: NewWorker) -> None:
    worker()("cache.set('grün', 1)")
    assert printed("keys", PYTHONIOENCODING="ascii") == "gr\\xfcn\n"


def test_what_runs_another_version_is_told(worker: NewWorker, run_dir: str) -> None:
    worker()
    with open(f"{run_dir}/shop/board", "r+b") as board:
        board.seek(8)
        board.write((99).to_bytes(8, sys.byteorder))
    for command in (["members"], ["invalidate", "a"]):
        done = run(*command)
        assert done.returncode == 4
        assert "layout 99" in done.stderr


def test_keys_are_streamed_and_take_no_memory_for_all_of_them(worker: NewWorker) -> None:
    """With room for the Python of the command, but not for all that is on the shelf."""
    worker(COLOCACHE_SHELF="64MiB")("[cache.set('k' * 900 + str(n), n) for n in range(30000)] and None")
    program = (
        "import resource, sys, colocache.cli; from colocache.cli import main\n"
        "used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "status = main(['keys'])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT), "COLOCACHE_GROUP": "shop"},
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    lines = done.stdout.count("\n")
    assert lines > 20000
    shared = 64 << 10  # KiB: the pages of the shelf that it has looked at are counted, too
    assert int(done.stderr) < shared + 20_000, "KiB"


def test_a_bench_measures_this_machine(run_dir: str) -> None:
    found = asked("bench", "--seconds", "0.2", "--redis", "127.0.0.1:1")
    assert not found["redis"]
    assert len(found["seconds"]) == 5
    assert all(0 < seconds < 1 for seconds in found["seconds"].values())
    assert "no Redis answers at 127.0.0.1:1" in printed("bench", "--seconds", "0.2", "--redis", "127.0.0.1:1")


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_shell_is_told_all_commands(shell: str) -> None:
    pytest.importorskip("shtab")
    script = printed("completion", shell)
    for command in ("members", "invalidate", "doctor"):
        assert command in script
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=script, text=True, timeout=60).returncode == 0


def test_every_command_that_shows_something_can_do_so_for_programs() -> None:
    whole = parser()
    [commands] = [action for action in whole._actions if action.dest == "command"]
    assert isinstance(commands.choices, dict)
    assert len(commands.choices) > len(COMMANDS)
    without = [name for name, one in commands.choices.items() if "--json" not in one.format_help()]
    assert without == ["dashboard", "serve", "completion"]
    for meaning in MEANINGS.values():
        assert meaning.split(",")[0].replace("`", "")[:30] in " ".join(whole.format_help().split())
