"""What is wrong before anybody joins: settings, and the runtime directory."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from ...config import SERVER_SETTINGS, SETTINGS, unknown_variables
from ...errors import ConfigError
from .finding import Finding, Situation


def variables(situation: Situation) -> Iterator[Finding]:
    """Look at the ``COLOCACHE_*`` variables of this environment, and of the processes of the group."""
    everywhere = [("this environment", situation.environ)]
    everywhere += [(f"the environment of process {each.pid}", each.variables or {}) for each in situation.members]
    told = set[str]()
    for where, environ in everywhere:
        for name, advice in unknown_variables(environ).items():
            if name not in told:
                told.add(name)
                yield Finding(
                    "variable-unknown", "warning", f"{name}, in {where}, is not a setting of colocache, and is ignored",
                    f"correct its name: {advice}",
                )  # fmt: skip
        for setting in (*SETTINGS.values(), *SERVER_SETTINGS.values()):
            try:
                setting.from_environ(environ)
            except (ConfigError, TypeError) as error:
                if setting.variable not in told:
                    told.add(setting.variable)
                    yield Finding(
                        "variable-bad", "error", f"{error} (in {where})", f"correct {setting.variable}, or unset it"
                    )


def directory(situation: Situation) -> Iterator[Finding]:
    """Look whether processes of this user can meet in the runtime directory."""
    from ...runtime.places import room, why_not_shared, why_unusable

    wrong, base = why_unusable(situation.target.directory), situation.target.base
    if wrong:
        yield Finding("directory", "error", wrong, "do what that says, and start the workers anew")
        return
    path = situation.target.path
    mode = _mode(path)
    if mode is not None and (mode[0] & 0o077 or mode[1] != os.geteuid()):
        yield Finding(
            "directory", "error", f"the group's directory {path} has mode {mode[0]:04o} and belongs to user {mode[1]}, "
            f"so user {os.geteuid()} cannot join there", f"chmod 0700 {path}, or delete it while no worker runs",
        )  # fmt: skip
    if not os.path.isdir(base):
        return
    if wrong := why_not_shared(base):
        yield Finding("file-system", "error", wrong, "set COLOCACHE_DIR as that says, for all processes of the group")
    if situation.place is None:
        free, wanted = room(base), SETTINGS["shelf"].read(_shelf(situation), "COLOCACHE_SHELF")
        assert isinstance(wanted, int)
        if free < wanted:
            yield Finding(
                "no-room", "warning", f"{base} has room for {free >> 20} MiB, and the shelf may take {wanted >> 20} "
                "MiB: "
                "it will be made smaller",
                "give the container more (--shm-size), set COLOCACHE_DIR to another place, or lower COLOCACHE_SHELF",
            )  # fmt: skip


def _shelf(situation: Situation) -> str:
    setting = SETTINGS["shelf"]
    return situation.environ.get(setting.variable, "").strip() or str(setting.default)


def _mode(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return stat.S_IMODE(found.st_mode), found.st_uid
