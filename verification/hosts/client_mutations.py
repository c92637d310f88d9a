"""The rules of clients, taken out one at a time: K1 to K5, and how what they invalidate comes to the others."""

from __future__ import annotations

import colocache.hosts
from colocache.core.hosts import dependencies, owner, waiting
from colocache.core.hosts.gateway import Gateway
from colocache.core.hosts.owner import Owner
from colocache.hosts import Hosts
from verification.hosts import actor as actor_module
from verification.hosts.actor import Actor
from verification.hosts.computer import Worker
from verification.hosts.mutant import Change, edited, everywhere, mutant, noticed_by, together

CLIENTS = "tests/core/hosts/test_clients.py"
HOSTS = "tests/test_hosts.py"


@mutant(kinds=("clients",), tests=(HOSTS,))
def clients_serve_while_behind() -> Change:
    """K1: a client that is behind serves nothing, however young."""
    return together(
        edited(Hosts, "__init__", ("0.0 if self.is_client else times.serves_by_age", "times.serves_by_age")),
        edited(
            Worker, "__init__", ("0.0 if region.is_client else self.times.serves_by_age", "self.times.serves_by_age")
        ),
    )


@mutant(kinds=("clients",))
def clients_are_not_waited_for() -> Change:
    """K1: a writer waits for clients that may serve."""
    return everywhere(
        waiting, "settle", (actor_module, owner), ("in rows.clients.who_may_serve(now).items()]", "in ()]")
    )  # fmt: skip


@mutant(kinds=("clients",))
def clients_are_granted_less_than_their_lease() -> Change:
    """K1: a client is waited for as long as it may serve."""
    return edited(
        Gateway, "_take_listener",
        ("ping.me, now + self.times.waited, now", "ping.me, now + self.times.lease // 2, now"),
    )  # fmt: skip


@noticed_by(CLIENTS)
def clients_are_granted_after_the_last_event_is_read() -> Change:
    """K2: it is noted that a client may serve, and then the last event is read, for the pong."""
    return edited(
        Gateway, "_on_ping",
        ("        elif not self._take_listener(message, now):\n            return\n", ""),
        ("        applied = self._row.positions(id, APPLIED)\n",
         "        if not message.me.weight and not self._take_listener(message, now):\n            return\n"
         "        applied = self._row.positions(id, APPLIED)\n"),
    )  # fmt: skip


@noticed_by(CLIENTS)
def no_fence_behind_a_grant() -> Change:
    """K2: there is a full fence between both, on x86, too."""
    return edited(
        Gateway, "_take_listener",
        ("        self._fences.full()  # K2: what follows is read after that\n", ""),
    )  # fmt: skip


@mutant(kinds=("clients",))
def acknowledgements_in_pings_are_for_every_incarnation() -> Change:
    """G5, of clients: what a ping acknowledges are events of the incarnation that it was sent to."""
    return edited(Gateway, "_take_listener", ("        if ping.to == self.me.id:\n", "        if True:\n"))


@noticed_by(CLIENTS)
def pongs_say_nothing_of_earlier_leases() -> Change:
    """K3: pongs say how long clients may serve by leases from before somebody came."""
    return edited(Gateway, "_late", ("return self._late_until - now if row.clients", "return 0 if row.clients"))


@noticed_by(CLIENTS)
def who_comes_is_not_waited_for() -> Change:
    """K3: a newcomer is unknown to clients."""
    return edited(Gateway, "_late", ("met + self.times.waited if met else 0", "0"))


@noticed_by(CLIENTS)
def who_comes_back_is_not_waited_for() -> Change:
    """K3: so is a host that was forgotten."""
    return edited(Gateway, "_late", ("if any(row.largest(id, FORGOT) for id in come):", "if False:"))


@noticed_by(CLIENTS)
def earlier_leases_are_not_waited_for() -> Change:
    """K3: a writer of a host that has come waits for them."""
    return everywhere(
        waiting, "settle", (actor_module, owner), ("not missing and now >= rows.quiet", "not missing")
    )  # fmt: skip


@noticed_by(CLIENTS)
def a_host_is_current_before_it_notes_earlier_leases() -> Change:
    """K3: it notes that, and is current then. Otherwise a writer between both does not wait for them."""
    late = (
        "        if message.late and not self._is_client:\n"
        "            row.be_quiet(now + message.late + message.late // 100)  # K3: before the lease\n"
        "            self._fences.order()\n"
    )
    end = "            self._ask(id, now)\n        self._progress(id, now)\n"
    return edited(Gateway, "_on_pong", (late, ""), (end, end + late))


@noticed_by(CLIENTS)
def clients_forget_without_a_reset() -> Change:
    """K4, F1: a client drops everything before it forgets whom members have forgotten."""
    return edited(
        Gateway, "_forget_too",
        ("                self._reset(id, {})\n",
         "                if not self._is_client:\n                    self._reset(id, {})\n"),
    )  # fmt: skip


@noticed_by(CLIENTS)
def clients_forget_by_themselves() -> Change:
    """K4: a client forgets nobody whom members have not forgotten."""
    return edited(Gateway, "tick", ("        if not self._is_client:\n", "        if True:\n"))


@noticed_by(CLIENTS)
def clients_are_members() -> Change:
    """K4: a client has no vote, witnesses nothing, and no other host is told of it."""
    return together(
        edited(Gateway, "_on_ping", ("        if message.me.weight:\n", "        if True:\n")),
        edited(
            Gateway, "_merge",
            ("                if not host.weight:\n                    continue\n", ""),
        ),
    )  # fmt: skip


@noticed_by(CLIENTS)
def what_clients_know_of_the_forgotten_is_not_made_up_for() -> Change:
    """K4, F4: a member that has applied less of a forgotten host than a client resets (progress)."""
    return edited(
        Gateway, "_take_listener", ("in ping.view.forgotten.items():  # F4", "in ():")
    )  # fmt: skip


@noticed_by(CLIENTS)
def clients_are_current_without_members() -> Change:
    """K5: a client that knows of no member that lives is never current."""
    return edited(Gateway, "_settle", ("        if self._is_client and not counted:\n", "        if False:\n"))


# --- What a client invalidates


@mutant(kinds=("clients",), tests=(CLIENTS,))
def what_is_pending_is_not_named() -> Change:
    """What a client has stamped, and is not told yet, is named by its fetches."""
    return everywhere(
        dependencies, "dependencies_of_client", (actor_module, colocache.hosts),
        ("    if pending:\n", "    if False:\n"),
    )  # fmt: skip


@noticed_by(HOSTS)
def what_is_told_is_read_before_what_is_pending() -> Change:
    """A client's fetch reads what is pending, and then what is told. Otherwise an event in between is neither."""
    return edited(
        Hosts, "dependencies",
        ("            return dependencies_of_client(self.me.id, self.rows, self._pending.lasts(), self.ns())\n",
         "            found = dependencies_of_client(self.me.id, self.rows, {}, self.ns())\n"
         "            pending = self._pending.lasts()\n"
         "            return {**found, self.me.id: pending} if pending else found\n"),
    )  # fmt: skip


@mutant(kinds=("clients",), tests=(HOSTS,))
def what_is_announced_is_marked_at_once() -> Change:
    """What a client has stamped is pending until its host has applied it."""
    return together(
        edited(Hosts, "_on_announced", ("        if answer.is_applied:\n", "        if True:\n")),
        edited(Actor, "_invalidate_far", ("            if answer.is_applied:\n", "            if True:\n")),
    )


@mutant(kinds=("clients",), tests=(CLIENTS,))
def members_say_at_once_that_it_is_applied() -> Change:
    """A member says that the client's host has applied an event when that has acknowledged it."""
    return edited(
        Owner, "_announce",
        ("        while not self._rows.clients.has_reached(request.sender, numbers, ACKED):\n",
         "        yield 0.0\n        while False:\n"),
    )  # fmt: skip


@mutant(kinds=("clients",), tests=(CLIENTS,))
def members_settle_nothing_for_clients() -> Change:
    """A client's call returns when the member has waited for all hosts."""
    return edited(
        Owner, "_settle",
        ("        return Settlement(*(yield from self._timed(flow)))\n",
         "        yield 0.0\n        return Settlement((), (), (), True)\n"),
    )  # fmt: skip


@noticed_by(CLIENTS)
def whoever_has_the_address_settles() -> Change:
    """Who has the address of a host that has ended does not wait for that one's events."""
    return edited(Owner, "_settle", ("        if request.by != self.me:\n", "        if False:\n"))


@noticed_by(HOSTS)
def who_is_asked_has_announced() -> Change:
    """What a client has announced is an event of the host that says so, and not of the one that was asked."""
    return edited(
        Hosts, "_on_announced", ("announcement.succeed(answer.by, ", "announcement.succeed(asked, ")
    )  # fmt: skip


@noticed_by(HOSTS)
def one_member_is_asked() -> Change:
    """If a member does not answer, another one announces what a client invalidates."""
    return edited(
        Hosts, "_on_announced",
        ("            self._ask_next(announcement)\n", "            announcement.fail()\n"),
    )  # fmt: skip


@noticed_by(HOSTS)
def a_member_that_has_ended_has_settled() -> Change:
    """If a member ends before it has waited for all hosts, another one announces it again."""
    return edited(
        Hosts, "settle_far", ("            if len(settled) == len(members):\n", "            if True:\n")
    )  # fmt: skip


@noticed_by(HOSTS)
def what_was_left_is_not_announced() -> Change:
    """What a killed process has stamped is announced by the gateway, or fetches are refused for good (progress)."""
    return edited(Hosts, "announce_what_was_left", ("self._pending.left(self.ns(), LEFT_BEHIND)", "[]"))
