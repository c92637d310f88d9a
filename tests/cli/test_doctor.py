"""The doctor, on set-ups that are broken: each is named rightly, and on a sound one nothing is found."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from colocache.cli.doctor import CHECKS, examine, limits, memory
from colocache.cli.doctor.finding import Situation
from colocache.cli.target import Target
from colocache.runtime import board_file, places
from tests import ROOT
from tests.cli.conftest import PROGRAM, NewWorker, Worker, asked, printed, run
from tests.conftest import Until
from tests.processes.hosts import Hosts
from tests.processes.hosts import until as until_hosts

#: The doctor looks at all processes of the machine, and there others may test.
GROUP = f"g{secrets.token_hex(4)}shop"
TYPO = f"{GROUP[:-4]}shpo"

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@pytest.fixture(autouse=True)
def group_of_its_own(run_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLOCACHE_GROUP", GROUP)


def findings(*arguments: str, **variables: str) -> dict[str, dict[str, str]]:
    """Return what the doctor finds, by its name. The exit status says whether something is to be done.

    What other processes of this machine hide is not of interest here.
    """
    done = run("doctor", "--json", *arguments, **variables)
    found = json.loads(done.stdout)
    assert found["checked"] == list(CHECKS)
    assert done.returncode == any(each["level"] != "note" for each in found["findings"]), found
    assert all(each["remedy"] for each in found["findings"])
    return {each["name"]: each for each in found["findings"] if each["name"] != "hidden"}


def text(found: dict[str, dict[str, str]], name: str) -> str:
    assert name in found, found
    return found[name]["text"]


def test_on_a_sound_group_nothing_is_found(worker: NewWorker) -> None:
    one, _ = worker(), worker()
    one("cache.set('a', 1)")
    assert findings() == {}
    assert f"0 troubles in the group {GROUP!r}" in printed("doctor")


def test_to_look_changes_nothing(worker: NewWorker, run_dir: str, until: Until) -> None:
    worker()
    until(lambda: os.path.exists(f"{run_dir}/{GROUP}/0.bus"))

    def files() -> list[tuple[str, int]]:
        return sorted(
            [(name, os.stat(f"{run_dir}/{GROUP}/{name}").st_ino) for name in os.listdir(f"{run_dir}/{GROUP}")]
        )

    before = files()
    findings()
    assert files() == before
    assert len(asked("members")["processes"]) == 1


# --- Who cannot see whom


@linux
def test_two_directories(worker: NewWorker, tmp_path: Path, run_dir: str) -> None:
    one, other = worker(), worker(COLOCACHE_DIR=str(tmp_path / "other"))
    found = findings()
    assert found.keys() == {"other-directory", "alone"}
    assert f"process {other.pid} of a group {GROUP!r} are in {tmp_path}/other" in text(found, "other-directory")
    assert str(one.pid) in text(found, "alone")
    found = findings(COLOCACHE_DIR=str(tmp_path / "third"))
    assert found.keys() == {"other-directory", "nobody"}
    assert "other-directory: process" in printed("doctor", status=1, COLOCACHE_DIR=str(tmp_path / "third"))
    assert run_dir in printed("doctor", status=1, COLOCACHE_DIR=str(tmp_path / "third"))


@linux
def test_a_typing_error_in_the_name_of_the_group(worker: NewWorker) -> None:
    worker()
    other = worker(COLOCACHE_GROUP=TYPO)
    worker(COLOCACHE_GROUP="blog")
    found = findings()
    assert found.keys() == {"other-name", "alone"}
    assert f"process {other.pid} are in a group {TYPO!r}" in text(found, "other-name")
    assert "other-name" in findings("--group", f"{GROUP}p")


AS_SOMEBODY = "import os, sys; os.setgroups([]); os.setgid(54321); os.setuid(54321)\n"


@linux
@root
def test_another_user(worker: NewWorker, until: Until) -> None:
    worker()
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        os.mkdir(f"{place}/run", 0o700)
        os.chown(f"{place}/run", 54321, 54321)
        program = f"import colocache, sys; sys.path.insert(0, {str(ROOT)!r})\n" + AS_SOMEBODY + PROGRAM
        other = worker(program=program, COLOCACHE_DIR=f"{place}/run")
        found = findings()
        assert f"process {other.pid} of a group {GROUP!r} run as user 54321" in text(found, "other-user")
        found = findings(COLOCACHE_DIR=f"{place}/run")
        assert "belongs to user 54321, not to 0" in text(found, "directory")
        other.kill()


@pytest.mark.parametrize("mode", [0o755, 0o770])
def test_a_directory_that_others_may_enter(run_dir: str, mode: int) -> None:
    os.chmod(run_dir, mode)
    found = findings()
    assert f"has mode {mode:04o}, which lets other users in" in text(found, "directory")
    os.chmod(run_dir, 0o700)
    os.mkdir(f"{run_dir}/{GROUP}")
    os.chmod(f"{run_dir}/{GROUP}", mode)
    assert f"{run_dir}/{GROUP} has mode {mode:04o}" in text(findings(), "directory")


def test_a_directory_that_cannot_be(run_dir: str) -> None:
    assert "cannot be used: Not a directory" in text(findings("--dir", "/dev/null/x"), "directory")


def test_nobody(run_dir: str, worker: NewWorker) -> None:
    assert findings().keys() == {"nobody"}
    worker().kill()
    found = findings()
    assert "were killed" in text(found, "nobody")
    assert os.listdir(f"{run_dir}/{GROUP}")


# --- Memory and descriptors


def test_a_file_system_without_room(run_dir: str, tmp_path: Path) -> None:
    program = f"""
import os, subprocess, sys
import colocache
cache = colocache.Cache("{GROUP}", directory="{tmp_path}/small/run", shelf="64MiB")
cache.start()
os.environ["COLOCACHE_DIR"] = "{tmp_path}/small/run"
sys.exit(subprocess.run([sys.executable, "-m", "colocache", "doctor", "--group", "{GROUP}", "--json"]).returncode)
"""
    (tmp_path / "small").mkdir()
    script = f'mount -t tmpfs -o size=24m none "{tmp_path}/small" && exec "$@"'
    before = ["unshare", "-m", "sh", "-c", script, "sh"]
    if sys.platform != "linux" or subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount anything")
    done = subprocess.run(
        [*before, sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, timeout=100,
    )  # fmt: skip
    [found] = [each for each in json.loads(done.stdout)["findings"] if each["name"] == "no-room"]
    assert "MiB and not 64, because there was no more room" in found["text"]
    assert "--shm-size" in found["remedy"]
    assert done.returncode == 1


@linux
def test_descriptors_are_scarce(worker: NewWorker) -> None:
    one = worker()
    assert "descriptors" not in findings()
    one("import resource")
    one("limit = len(os.listdir('/proc/self/fd')) + 30; resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))")
    found = findings()
    assert found.keys() == {"descriptors", "alone"}
    assert f"process {one.pid} has" in text(found, "descriptors")


@linux
def test_the_limit_of_memory(worker: NewWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: Until) -> None:
    one = worker()
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    (proc / str(one.pid)).mkdir(parents=True)
    (proc / str(one.pid) / "cgroup").write_text("0::/app/worker\n")
    (groups / "app" / "worker").mkdir(parents=True)
    (groups / "app" / "worker" / "memory.max").write_text("max\n")
    (groups / "app" / "memory.max").write_text(f"{30 << 20}\n")
    monkeypatch.setattr(limits, "PROC", proc)
    monkeypatch.setattr(limits, "GROUPS", groups)

    def found() -> list[str]:
        target = Target(GROUP, os.environ["COLOCACHE_DIR"])
        return [each.text for each in examine(target, os.environ) if each.name == "memory-limit"]

    until(lambda: found() and "may have 30 MiB (memory.max), and their cache alone may take 41 MiB" in found()[0])
    (groups / "app" / "memory.max").write_text(f"{300 << 20}\n")
    assert found() == []


# --- Versions, files, clocks


def test_another_version(worker: NewWorker, run_dir: str) -> None:
    worker()
    with open(f"{run_dir}/{GROUP}/board", "r+b") as board:
        board.seek(8)
        board.write((board_file.LAYOUT + 1).to_bytes(8, sys.byteorder))
    assert f"has layout {board_file.LAYOUT + 1}" in text(findings(), "other-version")


@linux
def test_files_that_were_deleted_or_replaced(worker: NewWorker, run_dir: str) -> None:
    one = worker()
    os.kill(one.pid, signal.SIGSTOP)  # otherwise it may notice
    shelf = Path(run_dir) / GROUP / "shelf"
    shutil.copy(shelf, f"{shelf}.new")
    os.replace(f"{shelf}.new", shelf)
    assert "shelf was replaced" in text(findings(), "files-deleted")
    shelf.unlink()
    assert "shelf is missing" in text(findings(), "files-deleted")
    board = shelf.with_name("board")
    shutil.copy(board, f"{board}.new")
    os.replace(f"{board}.new", board)
    assert f"process {one.pid} of the group use files that were deleted" in text(findings(), "files-deleted")
    shutil.rmtree(board.parent)
    found = findings()
    assert f"process {one.pid} of the group use files that were deleted" in text(found, "files-deleted")
    assert str(one.pid) in text(found, "stopped")


@linux
def test_files_that_were_deleted_under_somebody_who_may_not_be_seen(
    worker: NewWorker, run_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = worker()
    os.kill(one.pid, signal.SIGSTOP)
    shutil.rmtree(f"{run_dir}/{GROUP}")
    situation = Situation(Target(GROUP, run_dir), {})
    monkeypatch.setattr(Situation, "_processes", ([], 3))
    assert [each.name for each in memory.files(situation)] == ["files-deleted"]
    one.kill()
    assert list(memory.files(Situation(Target(GROUP, run_dir), {}))) == []


def test_a_file_that_was_cut_or_is_something_else(worker: NewWorker, run_dir: str) -> None:
    worker()
    os.truncate(f"{run_dir}/{GROUP}/shelf", 4096)
    assert "shelf has another length" in text(findings(), "files-deleted")
    with open(f"{run_dir}/{GROUP}/board", "r+b") as board:
        board.write(b"something else")
    assert "is no board of colocache" in text(findings(), "files-damaged")


def test_another_clock(worker: NewWorker) -> None:
    before = ("unshare", "--time", "--monotonic", "100000")
    if sys.platform != "linux" or subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("this user may not make a time namespace")
    worker(*before)
    assert "are in another time namespace" in text(findings(), "clock")


def test_a_file_system_that_memory_cannot_be_shared_on(run_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test can mount NFS, so it looks as if it were one."""
    for kind, words in ((0x6969, "a network (NFS)"), (0x9123683E, "copies what is written (btrfs)")):
        monkeypatch.setattr(places, "_kind_of", lambda path, kind=kind: kind)
        found = {each.name: each for each in examine(Target(GROUP, run_dir), {})}
        assert words in found["file-system"].text
        assert "set COLOCACHE_DIR" in found["file-system"].text


# --- Processes that are stopped, or hear nothing


@linux
def test_a_process_that_is_stopped(worker: NewWorker) -> None:
    one, other = worker(), worker()
    for each in (one, other):
        os.kill(each.pid, signal.SIGSTOP)
    found = findings()
    assert f"processes {one.pid} and {other.pid} of the group are stopped" in text(found, "stopped")
    assert f"kill -CONT {one.pid} {other.pid}" in found["stopped"]["remedy"]


STOPS_WHILE_IT_JOINS = """\
import os, signal
import colocache
from colocache.runtime import region
region._reached = lambda step: os.kill(os.getpid(), signal.SIGSTOP) if step == "locked" else None
colocache.Cache().start()
"""


@linux
def test_a_process_that_is_stopped_while_it_joins(worker: NewWorker, until: Until) -> None:
    worker()
    other = Worker(program=STOPS_WHILE_IT_JOINS)
    try:
        until(lambda: f"process {other.pid} has begun to join" in str(findings().get("joining")))
    finally:
        other.kill()


AS_UWSGI = """\
import sys
from types import SimpleNamespace
sys.modules["uwsgi"] = SimpleNamespace(has_threads=0)
"""


@linux
def test_uwsgi_without_threads(worker: NewWorker, until: Until) -> None:
    worker()
    one = worker(program=AS_UWSGI + PROGRAM, arguments=("uwsgi",))
    until(lambda: "uwsgi-threads" in findings())  # a process has a moment to begin
    found = findings()
    assert found.keys() == {"uwsgi-threads"}
    assert f"process {one.pid} hears nothing of the others" in text(found, "uwsgi-threads")
    assert "--enable-threads" in found["uwsgi-threads"]["remedy"]
    other = worker(program=AS_UWSGI + PROGRAM)
    until(lambda: f"process {other.pid} hears nothing" in str(findings().get("no-bus")))


EVENTLET = """\
import sys
from types import SimpleNamespace
sys.modules["eventlet.patcher"] = SimpleNamespace(is_monkey_patched=lambda name: True)
import colocache
cache = colocache.Cache()
print(cache.get_or_load("k", lambda: 7), flush=True)
sys.stdin.read()
"""


@linux
def test_eventlet_and_caches_that_are_off(worker: NewWorker) -> None:
    worker()
    others = [
        Worker(program=EVENTLET, arguments=("-k", "eventlet")),
        Worker(COLOCACHE_DISABLED="yes"), Worker(COLOCACHE_PRIVATE="1"),
        Worker(COLOCACHE_DISABLED="yes", COLOCACHE_GROUP="another"),
    ]  # fmt: skip
    try:
        assert others[0].process.stdout.readline() == "7\n"
        assert all(each("1") == 1 for each in others[1:])
        found = findings()
        assert found.keys() == {"eventlet", "disabled", "private", "alone"}
        for other, name in zip(others, ("eventlet", "disabled", "private"), strict=False):
            assert f"process {other.pid} " in text(found, name)
    finally:
        for each in others:
            each.kill()


# --- Settings


@linux
def test_settings_that_differ(worker: NewWorker) -> None:
    one = worker(COLOCACHE_TTL="60s")
    other = worker(COLOCACHE_SHELF="16MiB", COLOCACHE_MEMORY="64MiB")
    worker(COLOCACHE_ROLE="server", COLOCACHE_MEMORY="1MiB")
    done = run("doctor", "--json")
    told = [(each["name"], each["text"]) for each in json.loads(done.stdout)["findings"]]
    assert [name for name, _ in told] == ["settings-differ"] * 3 + ["shelf-not-followed"]
    assert [text.split(" differs")[0] for _, text in told[:3]] == [
        "COLOCACHE_MEMORY",
        "COLOCACHE_SHELF",
        "COLOCACHE_TTL",
    ]
    assert f"process {one.pid}: 60s; process {other.pid}: unset" in told[2][1]
    assert f"process {other.pid} has COLOCACHE_SHELF=16MiB" in told[3][1]


@linux
def test_a_setting_that_differs_in_code(worker: NewWorker, until: Until) -> None:
    worker()
    other = worker(program=PROGRAM.replace("Cache()", "Cache(memory='64MiB')"))
    until(lambda: f"process {other.pid}: 64 MiB" in str(findings().get("memory-differs")))


@linux
def test_secrets_are_not_shown(worker: NewWorker, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    both = [letter * 43 for letter in "ab"]
    for secret in both:
        worker(COLOCACHE_LISTEN=address, COLOCACHE_SECRET=secret)
    done = run("doctor")
    assert "COLOCACHE_SECRET differs" in done.stdout
    assert not any(secret in done.stdout + done.stderr for secret in both)


def test_variables_that_are_unknown_or_bad(worker: NewWorker) -> None:
    found = findings(COLOCACHE_TLL="5s", COLOCACHE_TTL="often")
    assert "COLOCACHE_TLL, in this environment, is not a setting" in text(found, "variable-unknown")
    assert "did you mean COLOCACHE_TTL?" in found["variable-unknown"]["remedy"]
    assert "COLOCACHE_TTL='often' cannot be used" in text(found, "variable-bad")
    if sys.platform == "linux":
        one = worker(COLOCACHE_SHLEF="1MiB")
        assert f"the environment of process {one.pid}" in text(findings(), "variable-unknown")


def test_what_was_counted(worker: NewWorker, until: Until) -> None:
    one = worker()
    one("cache.set('large', bytes(4 << 20))")
    until(lambda: "counted-oversize" in findings())
    assert "1 values were too large" in text(findings(), "counted-oversize")


# --- Several hosts


@pytest.fixture
def hosts(run_dir: str, tmp_path: Path) -> Iterator[Hosts]:
    group = Hosts(tmp_path, 2)
    yield group
    group.close()


def settings(hosts: Hosts, path: Path, number: int = 0, **more: str) -> dict[str, str]:
    """Return the environment of a host's processes."""
    return {
        "COLOCACHE_GROUP": GROUP, "COLOCACHE_DIR": str(path / str(number)), "COLOCACHE_HOST": f"host {number}",
        "COLOCACHE_LISTEN": hosts.addresses[number], "COLOCACHE_PEERS": ",".join(hosts.addresses), **more,
    }  # fmt: skip


def test_hosts_that_are_well(hosts: Hosts, tmp_path: Path) -> None:
    hosts.start_all(group=GROUP)
    assert findings(**settings(hosts, tmp_path)).keys() == {"alone", "other-host"}
    found = findings(COLOCACHE_DIR=str(tmp_path / "0"))
    assert "other hosts are not dialled" in text(found, "hosts-settings")


def test_a_host_that_cannot_be_reached(hosts: Hosts, tmp_path: Path) -> None:
    hosts.start(0, group=GROUP)
    found = findings(**settings(hosts, tmp_path))
    assert f"{hosts.addresses[1]} cannot be reached" in text(found, "host-unreachable")


def test_a_host_that_has_gone_silent(hosts: Hosts, tmp_path: Path) -> None:
    _, other = hosts.start_all(group=GROUP)
    os.kill(other.process.pid, signal.SIGSTOP)
    until_hosts(lambda: "host-silent" in findings(**settings(hosts, tmp_path)))
    found = findings(**settings(hosts, tmp_path))
    assert "the host host 1" in text(found, "host-silent")
    assert "does not answer" in text(found, "host-unreachable")


def test_a_host_with_another_secret(hosts: Hosts, tmp_path: Path) -> None:
    both = [letter * 43 for letter in "ab"]
    hosts.start(0, secret=both[0], group=GROUP)
    hosts.start(1, secret=both[1], group=GROUP)
    until_hosts(lambda: os.path.exists(tmp_path / "1" / GROUP / "hosts"))
    until_hosts(lambda: "secret" in findings(**settings(hosts, tmp_path, COLOCACHE_SECRET=both[0])))
    found = findings(**settings(hosts, tmp_path, COLOCACHE_SECRET=both[0]))
    assert f"{hosts.addresses[1]} refuses our secret" in text(found, "secret")
    assert not any(secret in str(found) for secret in both)


def test_a_name_that_cannot_be_looked_up(run_dir: str) -> None:
    found = findings(COLOCACHE_LISTEN="127.0.0.1:7400", COLOCACHE_PEERS="nobody.invalid:7400")
    assert "nobody.invalid:7400, which cannot be looked up" in text(found, "host-unknown")


def test_processes_for_one_host_and_settings_for_several(worker: NewWorker) -> None:
    worker()
    found = findings(COLOCACHE_LISTEN="127.0.0.1:7400")
    assert "were started for one host, and this environment is for several" in text(found, "hosts-settings")
    found = findings(COLOCACHE_PEERS="127.0.0.1:7400")
    assert found["hosts-settings"]["level"] == "error"


# --- The documentation


def test_the_page_says_what_can_be_found() -> None:
    code = "".join([path.read_text() for path in (ROOT / "colocache" / "cli" / "doctor").glob("*.py")])
    names = {*re.findall(r'Finding\(\s*"([a-z-]+)"', code), "disabled", "private"}
    names |= {f"counted-{name}" for name, _, _ in memory.TROUBLES}
    page = (ROOT / "docs" / "reference" / "cli.md").read_text("utf-8")
    rows = re.findall(r"^\| (`.*?) \| .* \| .*\|$", page.partition("## What `doctor` can find")[2], re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`([a-z-]+)`", row)}
    assert names == told
    assert len(names) > 30
