"""Histories that are written by hand, for what happens too seldom by chance: with aimed kills, stops and cuts.

Each still has its dice: when exactly something happens, and all that the threads do besides.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import NamedTuple

from colocache.core.hosts import messages
from verification.hosts.actor import Actor
from verification.hosts.history import History
from verification.hosts.items import HOT, ITEMS, SETTABLE
from verification.hosts.plan import Plan, draw

Script = Callable[[History], object]


class Scripted(NamedTuple):
    """A history that is written by hand."""

    script: Script
    forgets: bool
    copies: bool
    rate: float  # of what the threads do besides


SCRIPTS: dict[str, Scripted] = {}


def scripted(*, forgets: bool = False, copies: bool = False, rate: float = 5.5) -> Callable[[Script], Script]:
    """Register a history under its function's name."""

    def register(script: Script) -> Script:
        SCRIPTS[script.__name__] = Scripted(script, forgets, copies, rate)
        return script

    return register


def plan_of(name: str, seed: int) -> Plan:
    """Draw what a scripted history leaves to chance."""
    _, forgets, copies, rate = SCRIPTS[name]
    drawn = draw(seed, "forgetting" if forgets else "cuts")
    end = 9.4 if forgets else 6.4
    return drawn._replace(
        kind=name, hosts=3, workers=3, end=end, over=end + (5.6 if forgets else 2.6), rate=rate, forgets=forgets,
        late_hosts=0, faults=(), things="keys", copies=copies,
    )  # fmt: skip


def play(name: str, seed: int, *, tells: bool = False) -> History:
    """Return a scripted history, which has not run yet."""
    return History(plan_of(name, seed), SCRIPTS[name].script, tells=tells)


# --- What they are made of


def boots(history: History, **moments: float) -> None:
    """Let all hosts boot, at once or at a moment."""
    for index in range(history.plan.hosts):
        history.policy.at(moments.get(f"h{index}", 0.01), partial(history.boot, index))


def cut(history: History, moment: float, seconds: float, *ways: tuple[int, int]) -> None:
    """Cut ways from a moment on."""
    history.policy.at(moment, lambda: history.tell("cut", ways, f"for {seconds:.3f}"))
    history.policy.at(moment, lambda: history.network.cut_for(seconds, *ways))


def both(a: int, b: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return both ways between two hosts."""
    return (a, b), (b, a)


def aim(
    history: History, moment: float, index: int, label: str, seconds: float | None, *more: Callable[[], object]
) -> None:
    """From a moment on, stop who comes to a place in the code of a host, once; None kills."""
    history.policy.at(moment, lambda: history.aim(index, label, seconds, *more))


def act(history: History, index: int, name: str, call: Callable[[Actor], object]) -> None:
    """Have a process of a host do something now."""
    region = history.regions[index]
    awake = region.awake() if region is not None else []
    if awake:
        worker = history.random.choice([worker for worker in awake if not worker.is_elected] or awake)
        actor = Actor(worker, Random(f"{history.plan.seed} {name}"))
        worker.spawn(name, lambda: call(actor))


def invalidates(history: History, index: int, key: int) -> None:
    """Have a process of a host invalidate a key now."""
    act(history, index, "writer", lambda actor: actor.invalidate(1, [ITEMS[key].hash], [f"k{key}"]))


def crash(history: History, index: int, gap: float = 0.2) -> None:
    """Let a host end now, and boot again."""
    region = history.regions[index]
    if region is not None:
        history.crash(region, gap, certified=True)


# --- The histories


@scripted()
def reader(history: History) -> None:
    """A read begins after a receipt was waited out, and stops between its looks while the host catches up."""
    random = history.random
    boots(history)
    for moment in (1.5, 3.5):
        moment += random.random() * 0.2
        cut(history, moment, 1.25, *both(0, 1))
        label = random.choice(("r_until", "r_bell", "r_stamp"))
        aim(history, moment + random.uniform(0.95, 1.25), 1, label, random.uniform(0.3, 0.7))


@scripted()
def oneway(history: History) -> None:
    """Pongs are late, and events are lost."""
    boots(history)
    for moment in (1.2, 2.8, 4.4):
        cut(history, moment + history.random.random() * 0.3, history.random.uniform(0.7, 1.1), (0, 1))


@scripted()
def late_pongs(history: History) -> None:
    """Pongs that were sent before an event come when its receipt was waited out. All else is lost."""
    _pongs(history, history.random.uniform(0.59, 0.64))


@scripted()
def pongs_alone(history: History) -> None:
    """Pongs come, and all else is lost: the events of which they speak, too."""
    _pongs(history, 0.001)


def _pongs(history: History, seconds: float) -> None:
    boots(history)
    for moment in (1.5, 3.5):
        moment += history.random.random() * 0.2
        late = partial(history.network.late.__setitem__, ((0, 1), messages.Pong), seconds)
        history.policy.at(moment, late)
        cut(history, moment, 1.4, (0, 1))
        for key in HOT:
            history.policy.at(moment + 0.25, lambda key=key: invalidates(history, 0, key))  # type: ignore[misc]
        history.policy.at(moment + 1.4, history.network.late.clear)


@scripted()
def takeover(history: History) -> None:
    """A gateway dies while its host is behind."""
    random = history.random
    boots(history)

    def die() -> None:
        region = history.regions[1]
        for worker in region.gateways() if region is not None else []:
            history.kill(worker, respawn=True)

    for moment in (1.5, 4.0):
        cut(history, moment, 1.6, *both(0, 1))
        history.policy.at(moment + random.uniform(0.7, 1.2), die)


@scripted()
def told(history: History) -> None:
    """A gateway dies between two of its steps."""
    boots(history)
    for moment in (1.2, 2.2, 3.2, 4.2, 5.2):
        label = history.random.choice(("g_stamp", "g_bell", "g_applied", "g_marked"))
        aim(history, moment, 1, label, None)


@scripted()
def slow_gateway(history: History) -> None:
    """A gateway stops between two of its steps, while processes of its host read."""
    random = history.random
    boots(history)
    for moment in (1.2, 2.4, 3.6, 4.8):
        label = random.choice(("g_told", "g_stamp", "g_bell", "g_applied"))
        aim(history, moment, 1, label, random.uniform(0.02, 0.2), lambda: reads(history, 1, 6))


def reads(history: History, index: int, count: int) -> None:
    """Have processes of a host read now, some of them soon."""
    for number in range(count):
        later = history.random.uniform(0, 0.05)
        key = history.random.choice(HOT)
        history.policy.after(
            later, lambda number=number, key=key: act(  # type: ignore[misc]
                history, index, f"reader {number}", lambda actor: actor.read(ITEMS[key])
            ),
        )  # fmt: skip


def reads_often(history: History, moment: float, index: int, *later: float, key: int = 5) -> None:
    """Have processes of a host read a key: 5, which the host 2 owns, and which nobody else reads."""
    for number, seconds in enumerate(later):
        history.policy.at(
            moment + seconds,
            lambda number=number: act(  # type: ignore[misc]
                history, index, f"reader {number} of {key}", lambda actor: actor.read(ITEMS[key])
            ),
        )


@scripted()
def lagging_owner(history: History) -> None:
    """A value is fetched from an owner that has not heard of an event, while that is applied on the reader's host."""
    random = history.random
    boots(history)
    for moment in (2.2, 3.2, 4.2, 5.2):
        history.policy.at(moment - 0.2, lambda: invalidates(history, 1, 5))
        reads_often(history, moment - 0.08, 2, 0.0)
        cut(history, moment, 0.5, (0, 2))
        label = random.choice(("r_stamp", "g_told", "g_stamp", "g_bell", "g_applied"))
        if label == "r_stamp":
            aim(history, moment + 0.02, 1, label, 0.03, lambda: invalidates(history, 0, 5))
            reads_often(history, moment + 0.02, 1, 1e-6)
        else:
            more = lambda: reads_often(history, history.machine.clock, 1, 0.001, 0.004, 0.01)  # noqa: E731
            aim(history, moment + 0.02, 1, label, 0.06, more)
            history.policy.at(moment + 0.020001, lambda: invalidates(history, 0, 5))
        reads_often(history, moment + 0.15, 1, 0.0, 0.05, 0.1)


@scripted()
def slow_owner(history: History) -> None:
    """A value is fetched from an owner that is about to stamp what has made it void."""
    random = history.random
    boots(history)
    for moment in (2.2, 3.2, 4.2, 5.2):
        reads_often(history, moment - 0.08, 2, 0.0)
        more = lambda: reads_often(history, history.machine.clock, 1, 0.001, 0.003, 0.006, 0.01)  # noqa: E731
        aim(history, moment, 2, random.choice(("g_told", "g_stamp", "g_stamp")), random.uniform(0.02, 0.05), more)
        history.policy.at(moment + 1e-6, lambda: invalidates(history, 0, 5))
        reads_often(history, moment + 0.15, 1, 0.0, 0.05)


@scripted()
def slow_load(history: History) -> None:
    """A value is invalidated while a host loads it that another one has granted the load."""
    boots(history)
    for moment in (2.2, 3.2, 4.2, 5.2):
        history.policy.at(moment - 0.2, lambda: invalidates(history, 2, 5))
        reads_often(history, moment, 1, 0.0)
        history.policy.at(moment + history.random.uniform(0.003, 0.02), lambda: invalidates(history, 0, 5))
        reads_often(history, moment + 0.05, 2, 0.0, 0.05, 0.1)
        reads_often(history, moment + 0.05, 1, 0.0, 0.05, 0.1)


@scripted()
def alone(history: History) -> None:
    """An old gateway of a host that was alone wakes when it is not alone any more."""
    boots(history, h1=2.0, h2=2.0)
    aim(history, 1.0 + history.random.random() * 0.3, 0, "g_until", 1.7)
    cut(history, 3.6, 1.3, (1, 0), (2, 0))
    cut(history, 5.0, 1.0, (2, 0))


@scripted()
def words(history: History) -> None:
    """Two gateways: the older one wakes, and stores an older position. The owner lacks the writer's newest event."""
    random = history.random
    boots(history)
    for moment in (1.2, 3.4):
        seconds = random.uniform(0.55, 0.75)

        def more(seconds: float = seconds) -> None:
            now = history.machine.clock
            cut(history, now + 0.03, seconds + 0.6, (0, 2))
            history.policy.at(now + seconds - random.uniform(0.004, 0.02), lambda: invalidates(history, 0, 2))
            for step in range(6):
                history.policy.at(now + seconds + 0.003 * step, lambda: reads(history, 1, 2))

        aim(history, moment, 1, random.choice(("g_told", "g_applied")), seconds, more)
        history.policy.at(moment + 0.05, lambda: invalidates(history, 0, random.randrange(3)))


@scripted()
def ack(history: History) -> None:
    """Acknowledgements of an earlier incarnation's events come to the later one, which has fewer."""
    boots(history)
    late = history.network.late
    history.policy.at(1.4, partial(late.__setitem__, ((1, 0), messages.Ack), 2.5 + history.random.random() * 0.1))
    for step in range(15):
        history.policy.at(1.5 + 0.03 * step, lambda step=step: invalidates(history, 0, step % 3))  # type: ignore[misc]
    history.policy.at(2.1, lambda: crash(history, 0, 0.1))
    history.policy.at(2.1, late.clear)
    cut(history, 4.7, 1.2, (0, 1))
    for key in HOT:
        history.policy.at(4.75, lambda key=key: invalidates(history, 0, key))  # type: ignore[misc]


@scripted(rate=0.2)
def roster(history: History) -> None:
    """A host joins while a writer stops between its look at the roster and its append."""
    random = history.random
    boots(history, h2=2.0)
    reads_often(history, 1.7, 1, 0.0, 0.1, key=1)
    seconds, moment = random.uniform(0.6, 0.9), 1.98 + random.random() * 0.2

    def more() -> None:
        now = history.machine.clock
        cut(history, now + seconds - 0.05, 1.2, (0, 2))
        reads_often(history, now + seconds - 0.2, 2, *[0.01 * step for step in range(70)], key=1)

    aim(history, moment, 0, "w_record", seconds, more)
    history.policy.at(moment + 1e-6, lambda: invalidates(history, 0, 1))


@scripted()
def private(history: History) -> None:
    """A gateway is not told of an event, and answers pings before it looks. Then the way is cut."""
    random = history.random
    boots(history)
    for moment in (1.5, 2.9, 4.3):
        moment += random.random() * 0.2
        history.policy.at(moment, partial(setattr, history, "lost_wakes", 1.0))
        for key in HOT:
            history.policy.at(moment + 0.01, lambda key=key: invalidates(history, 0, key))  # type: ignore[misc]
        cut(history, moment + 0.01 + random.uniform(0.05, 0.19), 0.9, (0, 1))
        history.policy.at(moment + 0.3, partial(setattr, history, "lost_wakes", 0.1))
        for key in HOT:
            reads_often(history, moment + 0.55, 1, *[0.015 * step for step in range(20)], key=key)


@scripted()
def burst(history: History) -> None:
    """A host makes more events than its log has room for while it has no gateway that is awake."""
    boots(history)
    for moment in (1.5, 3.5):
        aim(history, moment, 0, "g_sign", 0.35)
        for step in range(45):
            history.policy.at(
                moment + 0.22 + 0.002 * step,
                lambda step=step: invalidates(history, 0, step % 3),  # type: ignore[misc]
            )


@scripted()
def own(history: History) -> None:
    """A writer dies after its append, and before it has stamped."""
    boots(history)
    for moment in (1.2, 2.2, 3.2, 4.2, 5.2):
        label = history.random.choice(("w_stamp", "w_bell"))
        aim(history, moment, 0, label, None, lambda: history.policy.after(0.01, lambda: reads(history, 1, 4)))


@scripted()
def clock(history: History) -> None:
    """A pong comes for a ping of before a reboot."""
    boots(history)
    late = history.network.late
    history.policy.at(1.9, partial(late.__setitem__, ((0, 1), messages.Pong), 1.5))
    history.policy.at(2.4, lambda: crash(history, 1))
    history.policy.at(2.4, late.clear)
    cut(history, 4.4, 1.2, (0, 1))
    for key in HOT:
        history.policy.at(4.45, lambda key=key: invalidates(history, 0, key))  # type: ignore[misc]


@scripted()
def address(history: History) -> None:
    """A newcomer knows the group by one host, which restarts, and knows it by the newcomer."""
    boots(history, h2=2.0)
    cut(history, 1.9, 0.7, *both(0, 2))
    cut(history, 1.95, 2.2, *both(0, 1), *both(1, 2))
    history.policy.at(2.15, lambda: crash(history, 0))


@scripted()
def newcomer(history: History) -> None:
    """A host comes while it hears nothing of another one, and serves, writes and waits meanwhile."""
    boots(history, h2=2.0)
    cut(history, 1.9 + history.random.random() * 0.2, history.random.uniform(0.5, 1.5), *both(1, 2))
    cut(history, 4.2, history.random.uniform(0.5, 1.5), *both(0, 2))


@scripted(copies=True, rate=1.0)
def slow_for_its_own_writes(history: History) -> None:
    """A process writes at another host, which is slow then. So it asks a copy, which has not heard of the write."""
    boots(history)
    lost = partial(setattr, history, "lost_wakes")  # so that the owner's gateway tells the write late

    def writes_and_reads(actor: Actor) -> None:
        cut(history, history.machine.clock, 0.3, (1, 2))
        actor.put(waits=False)
        cut(history, history.machine.clock, 0.3, (1, 0))
        for _ in range(3):
            actor.read_written(SETTABLE)

    for moment in (3.2, 4.2, 5.2):
        history.policy.at(moment - 0.1, partial(lost, 0.0))
        history.policy.at(moment, lambda: act(history, 0, "first writer", lambda actor: actor.put(waits=False)))
        history.policy.at(moment + 0.3, partial(lost, 1.0))
        history.policy.at(moment + 0.31, lambda: act(history, 0, "writer", writes_and_reads))


@scripted(copies=True, rate=1.0)
def slow_to_stamp_its_own_writes(history: History) -> None:
    """A process writes at another host. Its own host is told of that, and its gateway stops before it stamps that."""
    boots(history)

    def writes_and_reads(actor: Actor) -> None:
        actor.read_written(SETTABLE)
        history.aim(0, "g_stamp", 0.1)
        actor.put(waits=False)
        actor.read_written(SETTABLE)

    for moment in (3.2, 4.2, 5.2):
        history.policy.at(moment, lambda: act(history, 0, "first writer", lambda actor: actor.put(waits=False)))
        history.policy.at(moment + 0.3, lambda: act(history, 0, "writer", writes_and_reads))


@scripted(forgets=True)
def triangle(history: History) -> None:
    """0 and 1 are cut apart for long. 2 is cut off from both meanwhile, and comes back."""
    random = history.random
    boots(history)
    moment, later = 1.3 + random.random() * 0.3, random.uniform(0.8, 1.2)
    cut(history, moment, 6.0, *both(0, 1))
    cut(history, moment + later, random.uniform(1.5, 2.0), *both(0, 2), *both(1, 2))
    aim(history, moment + later + 1.9, 0, "g_forgot", 0.1)


@scripted(forgets=True)
def island(history: History) -> None:
    """A host is cut off from both others for so long that they forget it, one way first."""
    random = history.random
    boots(history)
    moment, index = 1.3 + random.random() * 0.3, random.randrange(3)
    others = [other for other in range(3) if other != index]
    ways = [way for other in others for way in both(index, other)]
    cut(history, moment, random.uniform(3.5, 6.5), *ways)
    cut(history, 8.0 + random.random(), 1.2, *ways)


@scripted(forgets=True)
def unreachable(history: History) -> None:
    """A host reaches the others, which do not reach it for so long that they forget it."""
    random = history.random
    boots(history)
    moment, index = 1.3 + random.random() * 0.3, random.randrange(3)
    lines = [(other, index) for other in range(3) if other != index]
    history.policy.at(moment, lambda: history.network.keep_apart(random.uniform(4.5, 6.5), *lines))
    for step in range(20):
        writer = lines[step % 2][0]
        history.policy.at(
            moment + 2.3 + 0.1 * step, lambda step=step, writer=writer: invalidates(history, writer, step % 3)
        )  # type: ignore[misc]
        history.policy.at(moment + 2.35 + 0.1 * step, lambda: reads(history, index, 2))


@scripted(forgets=True)
def without_its_files(history: History) -> None:
    """A host is killed, and starts again in a new directory, so that nobody ever says that the old one has ended.

    Others forget the old one. Whoever joins is told of it, and never meets it. Then a third host is cut off so that it
    is forgotten, too, and comes back to hosts of which one has never heard it.
    """
    random = history.random
    boots(history)
    moment, index = 1.3 + random.random() * 0.3, random.randrange(3)
    other, last = [each for each in range(3) if each != index]
    for each, later in ((index, 0.0), (other, 4.2 + random.random() * 0.4)):
        history.policy.at(moment + later, partial(_lose_files, history, each))
    cut(history, moment + later + random.uniform(0.2, 0.8), 2.7, *both(last, other), *both(last, index))


def _lose_files(history: History, index: int) -> None:
    region = history.regions[index]
    if region is not None:
        history.crash(region, 0.2, certified=False)


@scripted(forgets=True)
def at_different_positions(history: History) -> None:
    """Two hosts forget the third one, of which one has heard more than the other. Then that one's events come to it."""
    random = history.random
    boots(history)
    moment = 1.5 + random.random() * 0.3
    cut(history, moment - 0.1, 5.5, (0, 1))
    cut(history, moment, 5.4, (0, 2), (2, 0), (1, 0))
    for step in range(4):
        history.policy.at(moment - 0.09 + 0.02 * step, lambda step=step: invalidates(history, 0, step % 3))  # type: ignore[misc]
    for step in range(30):
        history.policy.at(moment + 2.4 + 0.1 * step, lambda: reads(history, 1, 2))
