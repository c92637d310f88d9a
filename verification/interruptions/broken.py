"""A process without one of its guardians: the campaign has to notice that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from colocache import member
from colocache.operations import load
from colocache.operations.load import Duty
from colocache.values import carrier, msgpack_codec

VARIABLE: Final = "INTERRUPTIONS_WITHOUT"


def _nothing(*_: Any) -> None:
    """Do nothing."""


def _keep_claims() -> None:
    Duty.fail = Duty.give_back = _nothing  # type: ignore[assignment, method-assign]


def _pass_over() -> None:
    for module in (msgpack_codec, carrier):
        for name in ("raise_if_foreign", "raise_if_from_handler"):
            if hasattr(module, name):
                setattr(module, name, _nothing)


def _wait_for_oneself() -> None:
    load.runner = lambda: None


def _leave_by_oneself() -> None:
    member.undisturbed = lambda work, name: work()  # type: ignore[assignment]


#: What to take out, by what the guardian does; and a call, and what comes, by which that is noticed.
GUARDIANS: Final[dict[str, tuple[Callable[[], None], str, str]]] = {
    "claims are given back": (_keep_claims, "get_or_load", "base"),
    "what comes while a value is encoded is passed on": (_pass_over, "get_or_load", "exception"),
    "nobody waits for a load that he has interrupted": (_wait_for_oneself, "get_or_load", "load same"),
    "leaving comes to its end": (_leave_by_oneself, "leave", "exception"),
}
