"""From a history that broke the contract to the few steps that do, and those as an interleaving that one can read."""

from __future__ import annotations

from typing import Any

from colocache.core.group import messages
from colocache.core.group.messages import decode
from colocache.testing.simulator import Network, Simulated
from verification.simulation.history import History
from verification.simulation.plan import Plan, Step, only

#: Messages that every history is full of; a trace leaves them out unless they did not arrive.
IDLE = (messages.Ping, messages.Pong, messages.Roster, messages.Ack)

SALTS = 3  # networks that are tried for a list of steps; more for a short one


def broken_clause(plan: Plan) -> str | None:
    """Run a plan; return the first clause that it breaks, without the particulars; None if it breaks none."""
    try:
        violations = History(plan, to_the_end=False).go().violations
    except Exception as error:
        return type(error).__name__
    return violations[0].partition(":")[0] if violations else None


def shrink(plan: Plan, clause: str) -> Plan:
    """Return a plan with few of the steps that still breaks a clause: leave out half of them, a quarter, …, one by one.

    What the frames take is drawn anew for the steps that are left, so a race may be lost; hence some salts each.
    After Zeller and Hildebrandt, Simplifying and isolating failure-inducing input (2002).
    """
    size = len(plan.steps) // 2
    while size:
        start, fewer = 0, False
        while start < len(plan.steps):
            rest = _still_breaks(plan, plan.steps[:start] + plan.steps[start + size :], clause)
            if rest is not None:
                plan, fewer = rest, True
            else:
                start += size
        if not (size == 1 and fewer):  # one by one, until nothing can go any more
            size //= 2
    return plan


def _still_breaks(plan: Plan, steps: tuple[Step, ...], clause: str) -> Plan | None:
    salts = SALTS if len(steps) > 40 else 5 * SALTS
    for salt in {plan.salt: None} | dict.fromkeys(range(salts)):
        fewer = only(plan, steps, salt)
        if broken_clause(fewer) == clause:
            return fewer
    return None


class Traced(Network):
    """A network that writes down what happens."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.lines: list[tuple[float, str]] = []

    def note(self, line: str) -> None:
        """Write a line down."""
        self.lines.append((self.time, line))

    def arrive(self, sender: Simulated, receiver: Simulated, frame: bytes, bus: bool) -> None:
        """A frame has come to a member."""
        message = decode(frame)
        if not isinstance(message, IDLE):
            asleep = ", which is stopped" if receiver.paused else ""
            self.note(f"{_told(message, sender)} comes to {receiver.seat}{asleep}")
        super().arrive(sender, receiver, frame, bus)

    def publish(self, sender: Simulated, frame: bytes) -> None:
        """Carry a publication."""
        self.note(f"{sender.seat} publishes {_told(decode(frame), sender)}")
        super().publish(sender, frame)

    def notice(self, other: Simulated, dead: Simulated, stranger: bool = False) -> None:
        """A member looks at a dead host-mate's journal."""
        self.note(f"{other.seat} sees that {dead.seat} is dead")
        super().notice(other, dead, stranger)


def trace(plan: Plan) -> list[str]:
    """Run a plan; return it as a numbered interleaving, up to the first violation."""
    history = History(plan, Traced, to_the_end=False)
    network = history.network
    assert isinstance(network, Traced)
    take, broken = history._take, history._break

    def step(taken: Step) -> None:
        network.note(f"STEP {taken.kind}")
        take(taken)

    def violation(what: str) -> None:
        network.note(f"BROKEN {what}")
        broken(what)

    history._take, history._break = step, violation  # type: ignore[method-assign]
    read = history._get_or_load

    def get_or_load(member: Simulated, key: str, dice: Any) -> None:
        network.note(f"{member.seat} reads {key}; it has {member.cached(key)!r}")
        read(member, key, dice)

    def load(member: Simulated, key: str, dice: Any, loading: Any) -> None:
        network.note(f"{member.seat} begins to load {key}" + " for its caller alone" * loading.alone)
        loader(member, key, dice, loading)

    loader = history._load
    history._get_or_load, history._load = get_or_load, load  # type: ignore[method-assign]
    history.go()
    lines = [line for at, line in _until_broken(network.lines) if at >= plan.steps[0].at - 0.01] if plan.steps else []
    return [f"{number}. {line}" for number, line in enumerate(lines, 1)]


def _until_broken(lines: list[tuple[float, str]]) -> list[tuple[float, str]]:
    end = next((place for place, (_, line) in enumerate(lines) if line.startswith("BROKEN")), len(lines) - 1)
    return [(at, f"{at:.4f} {line}") for at, line in lines[: end + 1]]


def _told(message: Any, sender: Simulated) -> str:
    """Return a message as a person would tell it."""
    name = type(message).__name__.lower()
    details = [
        f"{field} {_short(value)}"
        for field, value in zip(message._fields, message, strict=True)
        if field in ("number", "targets", "key", "token", "payload", "age", "current", "last", "first", "kept", "older")
    ]
    return f"{name} of {sender.seat} ({', '.join(details)})" if details else f"{name} of {sender.seat}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, tuple):
        return " ".join(_short(each) for each in value)
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def story(plan: Plan) -> tuple[Plan, list[str]]:
    """Return what is left of a plan that breaks a clause, and its interleaving."""
    clause = broken_clause(plan)
    assert clause is not None, "this history breaks nothing"
    least = shrink(plan, clause)
    return least, trace(least)
