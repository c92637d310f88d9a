"""With which status the command exits, and the error that says so."""

from __future__ import annotations

from typing import Final

FINE: Final = 0
WRONG: Final = 1
BAD_USE: Final = 2
NOBODY: Final = 3
FAILED: Final = 4
INTERRUPTED: Final = 130
UNREAD: Final = 141

#: What each status says, for people.
MEANINGS: Final = {
    FINE: "done, found, or all is well",
    WRONG: "nothing was found, or `doctor` has found something, or `ping` got no good answer",
    BAD_USE: "an option, a variable or a key cannot be used",
    NOBODY: "no process of the group is there, or nobody but this command",
    FAILED: "the group is there, and this command cannot do its work: it may not look, or not join, or an invalidation "
    "is not complete",
    INTERRUPTED: "Ctrl-C",
    UNREAD: "whoever read the output has gone, as with `| head`",
}


class Failure(Exception):
    """Why a command ends, for people, in one line, and with which status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
