"""The rules of copies between hosts, taken out one at a time: what is pulled, and what a copy is asked for."""

from __future__ import annotations

from colocache.core.hosts.copies import Copies
from colocache.core.hosts.offers import Offers
from colocache.core.hosts.owner import Owner
from colocache.core.hosts.taking import Taker
from colocache.hosts import Hosts
from verification.hosts import actor as actor_module
from verification.hosts import copying
from verification.hosts.actor import Actor
from verification.hosts.mutant import Change, edited, everywhere, mutant, noticed_by, together

COPIES = "tests/core/hosts/test_copies.py"
HOSTS = "tests/test_hosts.py"


# --- What is taken


@mutant(kinds=("copies",), tests=(COPIES,))
def what_is_taken_is_labelled_when_it_comes() -> Change:
    """R4: what is taken stands under stamps that were read before another host was asked."""
    return edited(
        Taker, "keep",
        ("        label, is_storable = miss.label, True\n",
         "        label, is_storable = self._board.label_of(asked.hash, asked.hashes), True\n"),
    )  # fmt: skip


@mutant(kinds=("copies",), tests=(COPIES,))
def pulls_name_nothing() -> Change:
    """R4: who pulls names what is told on its host."""
    return edited(
        Copies, "pull", ("            depends = self._others.dependencies()\n", "            depends = {}\n")
    )  # fmt: skip


@noticed_by(COPIES)
def pulls_name_what_was_told_before_the_stamps() -> Change:
    """R4: it reads the stamps, and then what is told."""
    return edited(
        Copies, "pull",
        ("            depends = self._others.dependencies()\n", ""),
        ("        looked = [self._taker.look(key.wire, key.hashes, now) for key in keys]\n",
         "        depends = self._others.dependencies()\n"
         "        looked = [self._taker.look(key.wire, key.hashes, now) for key in keys]\n"),
    )  # fmt: skip


@noticed_by(COPIES)
def tags_that_were_not_asked_for_are_not_compared() -> Change:
    """Stamps that are read with the answer hold if no tag was invalidated since the question."""
    return edited(Taker, "keep", ("self._board.marks[self._any_tag] == asked.any_tag", "True"))


@noticed_by(COPIES)
def what_is_taken_is_new() -> Change:
    """R3: what is taken is as old as it is where it comes from, and a bit, because clocks differ."""
    return edited(Taker, "keep", ("Miss(label, miss.at - found.age * SLOWER_CLOCK)", "Miss(label, miss.at)"))


@noticed_by(COPIES)
def who_is_behind_pulls() -> Change:
    """A host that is behind takes no copies."""
    return edited(Copies, "pull", ("        if now >= self._lease.until(now):\n", "        if False:\n"))


# --- Offers


@noticed_by(COPIES)
def offers_name_no_write() -> Change:
    """An offer names the writes that it is about, or who has an older copy takes that for what is offered."""
    return edited(Offers, "take", ("{self._me: self._log.lasts()}", "{}"))


@noticed_by(COPIES)
def offers_do_not_wait_for_the_write() -> Change:
    """Who is offered something waits for the writes that the offer names."""
    return edited(Owner, "_take_offer", (" or not (yield from self._has_applied(request.depends))", ""))


# --- Who is asked beside the owner


@noticed_by(HOSTS)
def a_copy_grants_loads() -> Change:
    """A copy says what it has, and lets nobody load."""
    return edited(Hosts, "ask_or_copy", ("request._replace(leads=False, patience=0.0)", "request"))


@noticed_by(HOSTS)
def a_copy_decides() -> Change:
    """What a copy does not have may be at the owner, or somebody may load it."""
    return edited(
        Hosts, "ask_or_copy",
        ("                if isinstance(copys, Found):\n",
         "                if copys is not UNASKED and copys is not AWAITED:\n"),
    )  # fmt: skip


@noticed_by(COPIES)
def a_peek_grants_loads() -> Change:
    """So it is when an owner that has joined just now asks the next host."""
    return edited(
        Copies, "peek", ("self._others.dependencies(), False, 0.0)", "self._others.dependencies(), True, 0.0)")
    )  # fmt: skip


@noticed_by(COPIES)
def a_peek_names_nothing() -> Change:
    """R4 holds for what is peeked, too."""
    return edited(Copies, "peek", ("Get(asked.key, self._others.dependencies(), ", "Get(asked.key, {}, "))


@noticed_by(COPIES)
def what_others_have_is_granted_to_be_loaded() -> Change:
    """An owner that has joined just now asks the next host before it grants a load."""
    return edited(
        Owner, "_get",
        ("        if self._copies is not None and self._copies.second(wire) is not None:\n", "        if False:\n"),
    )  # fmt: skip


@mutant("slow_for_its_own_writes", kinds=("copies",), tests=(HOSTS,))
def a_copy_depends_on_nothing() -> Change:
    """A copy depends on the same events as the owner does."""
    return together(
        edited(
            Hosts, "ask_or_copy",
            ("request._replace(leads=False, patience=0.0)", "request._replace(leads=False, patience=0.0, depends={})"),
        ),
        everywhere(
            copying, "ask_or_copy", (actor_module,),
            ("request._replace(leads=False, patience=0.0)", "request._replace(leads=False, patience=0.0, depends={})"),
        ),
    )  # fmt: skip


@noticed_by(HOSTS)
def loads_that_nobody_does_stay_granted() -> Change:
    """A load that was granted when the copy had answered is given back."""
    return edited(
        Hosts, "_give_back",
        ("        if isinstance(race.owners, Granted) and not race.takes_owners:\n", "        if False:\n"),
    )  # fmt: skip


@noticed_by(HOSTS)
def loads_that_are_granted_too_late_stay_granted() -> Change:
    """So is one that is granted when nobody waits any more."""
    return edited(Hosts, "_refuse_grant", ("            if isinstance(answer, Granted):\n", "            if False:\n"))


# --- After a write at another host


@mutant("slow_for_its_own_writes", kinds=("copies",), tests=(HOSTS,))
def writers_do_not_wait_until_their_host_is_told() -> Change:
    """Who has written at another host returns when its own host is told of that: its fetches name it from then on."""
    return together(
        edited(
            Hosts, "until_told",
            ("            if self.rows.state(done.by) in (ENDED, ENDED_AT) "
             "or self.rows.has_reached(done.by, done.events or {}, TOLD):\n",
             "            if True:\n"),
        ),
        everywhere(
            copying, "until_told", (actor_module,),
            ("if worker.rows.state(done.by) in (ENDED, ENDED_AT) "
             "or worker.rows.has_reached(done.by, done.events or {}, TOLD):",
             "if True:"),
        ),
    )  # fmt: skip


@mutant("slow_to_stamp_its_own_writes", kinds=("copies",), tests=())
def what_is_written_elsewhere_stands_here() -> Change:
    """Who has written at another host makes older copies on its own host void, before that is told."""
    return edited(
        Actor, "_at_owner",
        ("            self.worker.board.invalidate((key_hash(request.key.wire) ^ WRITES,))  "
         "# type: ignore[union-attr]\n", ""),
    )  # fmt: skip
