"""What is wrong with the processes of a group, and with those that should be in it: who cannot see whom."""

from __future__ import annotations

import difflib
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from time import time
from typing import Final

from ...config import SETTINGS
from ...errors import ConfigError
from ...runtime.files import SPARE
from ...runtime.places import base_directory
from ...runtime.region_files import HOSTS
from ..processes import Process
from .finding import Finding, Situation, pids

YOUNG: Final = 2.0  # s that a process may take until it hears the others
ALIKE: Final = 0.75  # of the letters of two names
_OWN: Final = ("COLOCACHE_ROLE", "COLOCACHE_HEALTH", "COLOCACHE_GROUP")  # what each process may have for itself
_EVENTLET: Final = re.compile("(-k|-P|--worker-class=|--pool=)?eventlet")  # a word of a command: gunicorn's, Celery's

#: What must be the same in all processes of a host.
_ALIKE: Final = [
    f"COLOCACHE_{name}"
    for name in ("LISTEN", "PEERS", "PEERS_INTERVAL", "SECRET", "SECRET_FILE", "HOST", "ADVERTISE", "FORGET")
]


def presence(situation: Situation) -> Iterator[Finding]:
    """Look who is in the group, and where else processes of a group of that name are."""
    target = situation.target
    yield from _elsewhere(situation)
    living = situation.living
    if not living and situation.stats is not None:
        yield Finding(
            "nobody", "error", f"no process of the group {target.group!r} lives: all that {target.path} knows were "
            "killed",
            "start the workers. Whoever joins next begins with an empty cache",
        )  # fmt: skip
    elif not living and isinstance(situation.head, FileNotFoundError):
        yield Finding(
            "nobody", "error", f"no process of the group {target.group!r} is in {target.path}",
            "start the workers, and use the cache. If they run: is the group's name right, and COLOCACHE_DIR, and is "
            "this "
            "the same user, and the same container?",
        )  # fmt: skip
    elif len(living) == 1:
        yield Finding(
            "alone", "note", f"{pids([living[0].pid])} is the only one of the group {target.group!r} on this host",
            "nothing, if there is one worker. Otherwise look for the others: they have another COLOCACHE_DIR, "
            "another group, "
            "another user or another container",
        )  # fmt: skip
    far = [each.seat for each in living if each.pid and situation.process(each.pid) is None]
    if far and situation.processes:
        yield Finding(
            "hidden", "note", f"the processes on the seats {', '.join(map(str, far))} are in other containers, or "
            "may not be "
            "seen by this user: nothing is known of them but what they count",
            "run this beside them, or as root",
        )  # fmt: skip
    elif situation.hidden and not living:
        yield Finding(
            "hidden", "note", f"{situation.hidden} processes of other users could not be looked at", "run this as root"
        )


def _elsewhere(situation: Situation) -> Iterator[Finding]:
    target, name = situation.target, os.path.basename(situation.target.path)
    places: dict[tuple[str, int, str, int], list[int]] = defaultdict(list)
    names: dict[str, list[int]] = defaultdict(list)
    for each in situation.processes:
        for board in each.boards:
            if board.group == name and board.place != situation.place:
                if not (board.is_deleted and os.path.dirname(board.path) == target.path):
                    places[(*board.place, board.base, each.user)].append(each.pid)
            elif board.base == target.base and board.group != name:
                names[board.group].append(each.pid)
    for (device, _, base, user), found in places.items():
        who = f"{pids(found)} of a group {target.group!r}"
        if user not in (-1, os.geteuid()):
            yield Finding(
                "other-user", "error", f"{who} run as user {user}, in {base}, and not as user {os.geteuid()}: they "
                "share "
                "nothing with those in {target.path}".replace("{target.path}", target.path),
                "run all processes of the group as one user, or give this command that user",
            )  # fmt: skip
        elif base == target.base:
            yield Finding(
                "other-directory", "error", f"{who} are in {base}, too, but that is another directory there (on device "
                f"{device}): a container, or PrivateTmp of systemd, has put another one in its place",
                "set COLOCACHE_DIR to a directory that all of them see, such as one on /dev/shm",
            )  # fmt: skip
        elif situation.hosts_known and _is_a_host(os.path.join(base, name)):
            yield Finding(
                "other-host", "note", f"{who} are in {base}, and so are another host of the group, on this machine",
                "nothing, if they are to be. Otherwise set the same COLOCACHE_DIR for all",
            )  # fmt: skip
        else:
            yield Finding(
                "other-directory", "error", f"{who} are in {base}, and this command, or its group, is in "
                f"{target.base}: they "
                "share nothing", "set the same COLOCACHE_DIR for all processes, or unset it for all",
            )  # fmt: skip
    for close in difflib.get_close_matches(name, names, cutoff=ALIKE):
        yield Finding(
            "other-name", "warning", f"{pids(names[close])} are in a group {close!r}, whose name is almost {name!r}: "
            "they "
            "share nothing", "if that is a typing error, correct it in Cache(...), or in COLOCACHE_GROUP",
        )  # fmt: skip


def _is_a_host(path: str) -> bool:
    """Tell whether the processes that use a directory were started for several hosts."""
    return os.path.exists(f"{path}/{HOSTS}")


def states(situation: Situation) -> Iterator[Finding]:
    """Look for processes that are stopped, or that lack something."""
    members = _members(situation)
    stopped = [each.pid for each in members if each.is_stopped]
    if stopped:
        yield Finding(
            "stopped", "error", f"{pids(stopped)} of the group {'are' if len(stopped) > 1 else 'is'} stopped (SIGSTOP, "
            "SIGTSTP, or a debugger): what it was writing, or joining, holds up others for a while",
            f"go on: kill -CONT {' '.join(map(str, stopped))}; or end it: kill -KILL",
        )  # fmt: skip
    for each in members:
        if each.most_files >= 0 and each.files > each.most_files - SPARE:
            yield Finding(
                "descriptors", "warning", f"process {each.pid} has {each.files} files open, of {each.most_files} "
                "that it may "
                "have: where none is left, it cannot join, or hear the others",
                "raise the limit (ulimit -n, or LimitNOFILE= of systemd), and look for what it does not close",
            )  # fmt: skip


def hearing(situation: Situation) -> Iterator[Finding]:
    """Look for processes that hear nothing of the others."""
    if situation.stats is None:
        return
    for each in situation.living:
        if time() - each.began < YOUNG or os.path.lexists(f"{situation.target.path}/{each.seat}.bus"):
            continue
        process = situation.process(each.pid)
        if process is not None and process.is_stopped:
            continue
        if process is not None and any(_is_uwsgi(word) for word in process.command):
            yield Finding(
                "uwsgi-threads", "warning", f"process {each.pid} hears nothing of the others: this uWSGI runs no "
                "threads of "
                "Python. Its values are right, but it frees memory late, and waits longer for loads of others",
                "start uWSGI with --enable-threads (in ini files: enable-threads = true)",
            )  # fmt: skip
        else:
            yield Finding(
                "no-bus", "warning", f"process {each.pid} hears nothing of the others: there is no {each.seat}.bus in "
                f"{situation.target.path}. Its values are right, but it frees memory late, and waits longer for loads",
                "see its log: it has no thread or descriptor left, or somebody has deleted that file",
            )  # fmt: skip


def _is_uwsgi(word: str) -> bool:
    return os.path.basename(word).removeprefix("py").startswith("uwsgi")


def outside(situation: Situation) -> Iterator[Finding]:
    """Look for processes that cannot join, as far as their command, or their variables, say so."""
    for each in situation.processes:
        if each.boards or not each.is_python or "colocache" in each.command:
            continue
        known = each.variables or {}
        if not _may_be_meant(situation, each, known):
            continue
        if any(_EVENTLET.fullmatch(word) for word in each.command):
            yield Finding(
                "eventlet", "error", f"process {each.pid} runs under eventlet, as its command says, which makes "
                "threads "
                "greenlets: there the cache cannot join, and loads each read",
                "use gevent, or threads (gunicorn -k gevent, or -k gthread)",
            )  # fmt: skip
        for name in ("COLOCACHE_DISABLED", "COLOCACHE_PRIVATE"):
            if _is_set(name, known):
                yield Finding(
                    name.removeprefix("COLOCACHE_").lower(), "warning", f"process {each.pid} has "
                    f"{name}={known[name]}: it "
                    "shares nothing with others", f"unset {name} there, if it is to be in the group",
                )  # fmt: skip


def _may_be_meant(situation: Situation, process: Process, known: Mapping[str, str]) -> bool:
    """Tell whether a process that is in no group may be one that should be in this one."""
    target = situation.target
    if known.get("COLOCACHE_GROUP", target.group).strip() != target.group or process.user != os.geteuid():
        return False
    return os.path.realpath(base_directory(known.get("COLOCACHE_DIR", "").strip() or None)) == target.base


def _is_set(variable: str, known: object) -> bool:
    setting = next(each for each in SETTINGS.values() if each.variable == variable)
    try:
        return isinstance(known, dict) and setting.from_environ(known) is True
    except ConfigError:
        return False


def settings(situation: Situation) -> Iterator[Finding]:
    """Look in what the settings of the processes differ, as far as variables say, and what they show of themselves."""
    servers = {each.pid for each in situation.living if each.role == "server"}
    members = [each for each in _members(situation) if each.pid not in servers and each.variables is not None]
    names = sorted({name for each in members for name in each.variables or {}} - set(_OWN))
    for name in names:
        by_value: dict[str, list[int]] = defaultdict(list)
        for each in members:
            by_value[(each.variables or {}).get(name, "").strip()].append(each.pid)
        if len(by_value) > 1:
            must = name in _ALIKE
            yield Finding(
                "settings-differ", "warning" if must else "note", f"{name} differs: {_told(name, by_value)}",
                f"set {name} to the same for all processes of the group on this host, and start them anew" if must
                else "nothing, if it is to differ",
            )  # fmt: skip
    head, shelf = situation.head, SETTINGS["shelf"]
    if not isinstance(head, OSError) and situation.stats is not None:
        for each in members:
            try:
                wanted = shelf.read((each.variables or {}).get(shelf.variable, head.wanted), shelf.variable)
            except ConfigError:
                continue
            if wanted != head.wanted:
                yield Finding(
                    "shelf-not-followed", "warning", f"process {each.pid} has "
                    f"{shelf.variable}={(each.variables or {})[shelf.variable]}"
                    f", and the shelf was made with {head.wanted >> 20} MiB",
                    "end all processes of the group, and start them with one size",
                )  # fmt: skip
    sizes: dict[int, list[int]] = defaultdict(list)
    for one in situation.living:
        if one.role != "server" and one.memory:
            sizes[one.memory].append(one.pid)
    if len(sizes) > 1 and "COLOCACHE_MEMORY" not in names:
        shown = "; ".join([f"{pids(found)}: {size >> 20} MiB" for size, found in sizes.items()])
        yield Finding("memory-differs", "note", f"the near caches may take different sizes: {shown}",
                      "nothing, if these processes are to differ, or have several caches each")  # fmt: skip
    releases: dict[str, list[int]] = defaultdict(list)
    for one in situation.living:
        releases[one.version].append(one.pid)
    if len(releases) > 1:
        shown = "; ".join([f"{release}: {pids(found)}" for release, found in releases.items()])
        yield Finding("versions-differ", "note", f"the processes run several versions of colocache: {shown}",
                      "nothing, during an update. Otherwise install one version")  # fmt: skip


def _told(name: str, by_value: dict[str, list[int]]) -> str:
    if _IS_SECRET.get(name):
        return "; ".join([f"{pids(found)} have {'one' if value else 'none'}" for value, found in by_value.items()])
    return "; ".join([f"{pids(found)}: {value or 'unset'}" for value, found in by_value.items()])


#: Whether what a variable has is a secret.
_IS_SECRET: Final = {each.variable: each.is_secret for each in SETTINGS.values()}


def _members(situation: Situation) -> list[Process]:
    """Return the processes of the group, and those that were of it when its files were there."""
    path = situation.target.path
    lost = [
        each for each in situation.processes
        if any(os.path.dirname(board.path) == path and board.is_deleted for board in each.boards)
    ]  # fmt: skip
    return [*situation.members, *[each for each in lost if each not in situation.members]]


def joining(situation: Situation) -> Iterator[Finding]:
    """Look for a process that has begun to join or to leave, and does not go on."""
    from ...runtime.files import Descriptor
    from ...runtime.record_locks import RecordLocks
    from ...runtime.region import JOIN

    try:
        number = os.open(f"{situation.target.path}/locks", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return
    descriptor = Descriptor(number)
    try:
        pid = RecordLocks(descriptor).holder(JOIN)
    except OSError:
        return
    finally:
        descriptor.close()
    process = situation.process(pid) if pid else None
    if process is not None and process.is_stopped:
        yield Finding(
            "joining", "error", f"process {pid} has begun to join the group, or to leave it, and is stopped: nobody "
            "else can "
            "join", f"go on: kill -CONT {pid}; or end it: kill -KILL {pid}",
        )  # fmt: skip
