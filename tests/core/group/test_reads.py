"""The reader's side: whoever may share a fetch shares it, everybody gets an outcome, and nothing overtaken is kept."""

from __future__ import annotations

from typing import Any

import pytest

from colocache.core.entry import DEAD, Entry
from colocache.core.group.messages import Alone, Cancel, Fail, Fill, Get, Load, Value, Wait
from colocache.core.group.reads import REASK, Found, Lead, Reads, Solo, Ticket
from colocache.core.timers import Timers
from tests.core.group.fakes import KEY, KEY2, LEASE, ME, OTHER, OWNER, FakeHost, loaded

FETCH_TIMEOUT = 0.25
PATIENCE = 30.0


class Desk:
    """A `Reads` with its host, its timers and its clock."""

    def __init__(self) -> None:
        self.host = FakeHost()
        self.timers = Timers()
        self.reads = Reads(self.host, LEASE, FETCH_TIMEOUT, self.timers)
        self.tickets = 0

    @property
    def now(self) -> float:
        return self.host.now

    def pass_time(self, seconds: float) -> None:
        """Let timers run."""
        end = self.now + seconds
        while self.timers.deadline() <= end:
            self.host.now = self.timers.deadline()
            self.timers.run(self.now)
        self.host.now = end

    def read(self, key: bytes = KEY, tags: tuple[str, ...] = (), patience: float = PATIENCE) -> int:
        """Begin a read; return its ticket."""
        self.tickets += 1
        self.reads.read(Ticket(self.tickets, key, tags, self.now, self.now + patience), self.now)
        return self.tickets

    def asked(self) -> Get:
        """Return the one request that was sent."""
        (get,) = self.host.take()
        assert isinstance(get, Get)
        return get

    def answer(self, message: Any) -> None:
        """Have an answer arrive."""
        self.reads.answered(message, self.now)

    def value(self, get: Get, payload: bytes = b"1", age: float = 0.0, current: bool = True,
              tags: tuple[str, ...] = (), sender: bytes = OWNER) -> None:  # fmt: skip
        """Have a value arrive."""
        self.answer(Value(sender, ME, get.id, payload, age, 300.0, current, tags))

    def leads(self, get: Get, token: int = 7) -> int:
        """Have a token arrive; return the fetch that is led."""
        self.answer(Load(OWNER, ME, get.id, token))
        ((_, outcome),) = self.host.outcomes()
        assert isinstance(outcome, Lead)
        return outcome.fetch

    def found(self) -> dict[int, bytes]:
        """Return, and forget, which tickets found which payload."""
        return {ticket: outcome.entry.payload for ticket, outcome in self.host.outcomes() if isinstance(outcome, Found)}


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_readers_of_a_key_share_one_fetch_and_its_value(desk: Desk) -> None:
    readers = [desk.read() for _ in range(3)]
    get = desk.asked()
    assert get == Get(ME, OWNER, get.id, KEY, PATIENCE, b"")
    desk.value(get)
    assert desk.found() == dict.fromkeys(readers, b"1")
    assert desk.host.kept[KEY].loaded_at == desk.now
    assert len(desk.reads) == 0


def test_keys_are_fetched_apart(desk: Desk) -> None:
    desk.read(KEY)
    desk.read(KEY2)
    assert [get.key for get in desk.host.take()] == [KEY, KEY2]


def test_age_counts_from_the_request_and_so_does_the_time_to_live(desk: Desk) -> None:
    desk.read()
    get = desk.asked()
    desk.pass_time(0.2)
    desk.value(get, age=1.5)
    entry = desk.host.kept[KEY]
    assert (entry.loaded_at, entry.expires) == (100.0 - 1.5, 100.0 + 300.0)


def test_requests_carry_what_they_depend_on_and_how_long_they_wait(desk: Desk) -> None:
    desk.host.positions = b"x" * 24
    desk.read(patience=5.0)
    get = desk.asked()
    assert (get.dependencies, get.patience) == (b"x" * 24, 5.0)


# --- What is kept


@pytest.mark.parametrize(
    "spoil",
    [
        lambda desk: desk.reads.mark(KEY),
        lambda desk: desk.reads.mark_all(""),
        lambda desk: desk.host.tag_moments.update(t=1),
        lambda desk: setattr(desk.host, "current", False),
    ],
    ids=["key", "everything", "tag that came with the value", "owner behind"],
)
def test_overtaken_value_is_used_by_who_waited_and_not_kept(desk: Desk, spoil: Any) -> None:
    reader = desk.read()
    get = desk.asked()
    spoil(desk)
    desk.value(get, tags=("t",), current=desk.host.current)
    assert desk.found() == {reader: b"1"}
    assert desk.host.kept == {}


def test_joiner_keeps_nothing_even_if_it_is_established_before_the_answer(desk: Desk) -> None:
    desk.host.established = False
    reader = desk.read()
    get = desk.asked()
    desk.host.established = True
    desk.value(get)
    assert desk.found() == {reader: b"1"}
    assert desk.host.kept == {}


def test_namespace_event_marks_what_lies_below_it_alone(desk: Desk) -> None:
    for key in (KEY, KEY2):
        desk.read(key)
    above, below = desk.host.take()
    desk.reads.mark_all("users")
    desk.value(above)
    desk.value(below)
    assert list(desk.host.kept) == [KEY]


def test_tag_event_marks_a_load_that_is_known_to_carry_it(desk: Desk) -> None:
    desk.read(tags=("t",))
    fetch = desk.leads(desk.asked())
    desk.reads.mark_tag("t")
    desk.reads.loaded(fetch, loaded(b"1", ("t",)), desk.now)
    assert desk.host.kept == {}


def test_load_whose_own_tags_were_hit_meanwhile_is_not_kept(desk: Desk) -> None:
    """Its caller named no tags, so nothing could mark the load."""
    desk.read()
    fetch = desk.leads(desk.asked())
    desk.host.moment = 1
    desk.host.tag_moments["t"] = 1
    after = desk.read()
    desk.reads.loaded(fetch, loaded(b"1", ("t",)), desk.now)
    assert desk.host.kept == {}
    fill, again = desk.host.take()
    assert isinstance(fill, Fill)
    desk.value(again, b"2")
    assert desk.found() == {after: b"2"}


@pytest.mark.parametrize("shard", [None, b"2"])
def test_own_load_whose_fill_the_shard_refused_is_not_kept(desk: Desk, shard: bytes | None) -> None:
    desk.host.owner = ME
    desk.read()
    second = desk.read()
    desk.answer(Load(ME, ME, desk.asked().id, 7))
    ((_, lead),) = desk.host.outcomes()
    if shard is not None:
        desk.host.shard[KEY] = Entry(KEY, shard, desk.now, desk.now + 300, ())
    published: list[Entry] = []
    desk.reads.loaded(lead.fetch, loaded(b"1", publish=published.append), desk.now)
    ((ticket, outcome),) = desk.host.outcomes()
    assert (ticket, outcome.entry.value, outcome.entry.expires) == (second, b"1", DEAD)
    assert published == []
    assert desk.host.kept == {}


def test_own_value_that_the_shard_has_not_taken_is_used_once(desk: Desk) -> None:
    # Or it would be found by readers, where no event could drop it: it is in no store.
    desk.host.owner = ME
    desk.read()
    desk.value(desk.asked(), sender=ME)
    ((_, outcome),) = desk.host.outcomes()
    assert outcome.entry.payload == b"1"
    assert outcome.entry.expires == DEAD


def test_own_value_is_the_shards_own_entry(desk: Desk) -> None:
    desk.host.owner = ME
    desk.read()
    mine = desk.host.shard[KEY] = Entry(KEY, b"1", desk.now, desk.now + 300, ())
    desk.value(desk.asked(), sender=ME)
    ((_, outcome),) = desk.host.outcomes()
    assert outcome.entry is mine
    assert desk.host.kept == {}


# --- Who may join


def test_marked_fetch_is_not_joined(desk: Desk) -> None:
    before = desk.read()
    first = desk.asked()
    desk.reads.mark(KEY)
    after = desk.read()
    second = desk.asked()
    assert second.id != first.id
    desk.value(first)
    assert desk.found() == {before: b"1"}
    desk.value(second, b"2")
    assert desk.found() == {after: b"2"}
    assert desk.host.kept[KEY].payload == b"2"


def test_newest_fetch_is_the_one_that_is_joined(desk: Desk) -> None:
    desk.read()
    desk.reads.mark(KEY)
    second, third = desk.read(), desk.read()
    _, newest = desk.host.take()
    desk.value(newest, b"2")
    assert desk.found() == {second: b"2", third: b"2"}


def test_reader_that_is_behind_joins_what_began_a_moment_ago_alone(desk: Desk) -> None:
    desk.read()
    desk.asked()
    desk.host.current = False
    desk.pass_time(0.1)
    desk.read()
    assert desk.host.take() == []
    desk.reads.answered(Wait(OWNER, ME, 1), desk.now)
    desk.pass_time(3.0)
    desk.host.take()
    desk.read()
    assert isinstance(desk.asked(), Get)


def test_reader_that_joined_while_behind_takes_no_older_value_than_it_would_serve(desk: Desk) -> None:
    """The fetch began a moment before the read, but the value in the answer is older than `max_stale`."""
    desk.read()
    get = desk.asked()
    desk.host.current = False
    desk.pass_time(0.1)
    late = desk.read()
    desk.value(get, age=2.95, current=False)
    assert desk.found() == {1: b"1"}, "who began before the fetch may have it"
    again = desk.asked()
    desk.value(again, b"2")
    assert desk.found() == {late: b"2"}


def test_reader_that_came_after_a_tag_event_does_not_get_what_the_tag_overtook(desk: Desk) -> None:
    """Nothing marked the fetch, for nobody knew its tags; the answer tells."""
    before = desk.read()
    get = desk.asked()
    desk.host.moment = 1
    desk.host.tag_moments["t"] = 1
    after = desk.read()
    desk.value(get, tags=("t",))
    assert desk.found() == {before: b"1"}
    desk.value(desk.asked(), b"2", tags=("t",))
    assert desk.found() == {after: b"2"}


def test_load_that_takes_longer_than_its_caller_waits_is_not_joined(desk: Desk) -> None:
    """Or one hung loader would have every later reader of the key wait for it in vain."""
    desk.read(patience=5.0)
    hung = desk.leads(desk.asked())
    desk.pass_time(4.9)
    desk.read()
    assert desk.host.take() == []
    desk.pass_time(0.2)
    reader = desk.read()
    desk.value(desk.asked(), b"2")
    assert desk.found() == {reader: b"2"}
    desk.reads.loaded(hung, loaded(b"1"), desk.now)
    assert desk.found() == {2: b"1"}


# --- Loading


def test_first_reader_leads_and_the_others_get_its_value(desk: Desk) -> None:
    published: list[Entry] = []
    desk.read()
    second = desk.read()
    fetch = desk.leads(desk.asked())
    desk.pass_time(1.0)
    desk.reads.loaded(fetch, loaded(b"1", ("t",), publish=published.append), desk.now)
    assert desk.host.take() == [Fill(ME, OWNER, KEY, 7, b"1", 300.0, 0.0, ("t",))]
    entry = desk.host.kept[KEY]
    assert published == [entry]
    assert entry.value == b"1", "as the object that the loader gave"
    assert (entry.loaded_at, entry.expires) == (100.0, desk.now + 300.0)
    assert desk.found() == {second: b"1"}
    assert desk.host.counters.loads == 1


def test_value_that_is_too_large_to_travel_is_shared_here_and_not_kept(desk: Desk) -> None:
    desk.read()
    second = desk.read()
    fetch = desk.leads(desk.asked())
    desk.reads.loaded(fetch, loaded(None), desk.now)
    assert desk.host.take() == [Fail(ME, OWNER, KEY, 7)]
    assert desk.host.kept == {}
    assert desk.found() == {second: None}


def test_failed_load_is_tried_by_the_next_and_after_two_failures_everybody_tries_alone(desk: Desk) -> None:
    readers = [desk.read() for _ in range(4)]
    get = desk.asked()
    desk.reads.failed(desk.leads(get, 7), desk.now)
    fail, get = desk.host.take()
    assert fail == Fail(ME, OWNER, KEY, 7)
    desk.reads.failed(desk.leads(get, 8), desk.now)
    assert desk.host.take() == [Fail(ME, OWNER, KEY, 8)]
    assert desk.host.outcomes() == [(ticket, Solo()) for ticket in readers[2:]]
    assert (desk.host.counters.loads, desk.host.counters.fallbacks) == (4, 2)
    assert len(desk.reads) == 0


def test_reader_that_is_sent_away_loads_for_this_process(desk: Desk) -> None:
    desk.read()
    second = desk.read()
    get = desk.asked()
    desk.answer(Alone(OWNER, ME, get.id))
    ((_, lead),) = desk.host.outcomes()
    desk.reads.loaded(lead.fetch, loaded(b"1"), desk.now)
    assert desk.host.take() == [], "nothing is filled in without a token"
    assert desk.found() == {second: b"1"}
    assert desk.host.kept[KEY].payload == b"1"


def test_token_is_used_once_what_the_owner_has_applied_is_applied_here(desk: Desk) -> None:
    desk.host.applied = False
    desk.read()
    get = desk.asked()
    for _ in range(2):
        desk.answer(Load(OWNER, ME, get.id, 7, b"x" * 24))
        desk.reads.retry(desk.now)
    assert desk.host.settled == []
    desk.reads.mark(KEY)  # what is missing comes, and hits the key
    desk.host.applied = True
    desk.reads.retry(desk.now)
    ((_, lead),) = desk.host.outcomes()
    desk.pass_time(FETCH_TIMEOUT)
    desk.reads.loaded(lead.fetch, loaded(b"2"), desk.now)
    assert desk.host.take() == [Fill(ME, OWNER, KEY, 7, b"2", 300.0, 0.0, ())]
    assert desk.host.kept[KEY].payload == b"2", "loaded after the event"


@pytest.mark.parametrize("applied", [False, None])
def test_token_goes_back_if_what_the_owner_has_applied_cannot_be_had(desk: Desk, applied: bool | None) -> None:
    desk.host.applied = applied
    desk.read()
    get = desk.asked()
    desk.answer(Load(OWNER, ME, get.id, 7, b"x" * 24))
    desk.pass_time(FETCH_TIMEOUT)
    assert desk.host.take() == [Cancel(ME, OWNER, get.id)]
    ((_, lead),) = desk.host.outcomes()
    desk.reads.loaded(lead.fetch, loaded(b"1"), desk.now)
    assert desk.host.take() == []


@pytest.mark.parametrize("how", ["declined", "abandoned", "owner left", "answered after all"])
def test_nothing_is_kept_of_a_token_that_was_not_used(desk: Desk, how: str) -> None:
    desk.host.applied = False
    reader = desk.read()
    get = desk.asked()
    desk.answer(Load(OWNER, ME, get.id, 7, b"x" * 24))
    if how == "declined":
        desk.pass_time(FETCH_TIMEOUT)
        ((_, lead),) = desk.host.outcomes()
        desk.reads.loaded(lead.fetch, loaded(b"1"), desk.now)
    elif how == "abandoned":
        desk.reads.abandon(reader, desk.now)
    elif how == "owner left":
        desk.reads.owner_left(OWNER, desk.now)
        desk.value(desk.host.take()[-1])
    else:
        desk.value(get)
    assert len(desk.reads) == 0
    assert desk.reads._catching_up == {}


def test_report_of_no_load_is_ignored(desk: Desk) -> None:
    desk.read()
    get = desk.asked()
    for request in (get.id, 99):
        desk.reads.loaded(request, loaded(b"1"), desk.now)
        desk.reads.failed(request, desk.now)
    assert desk.host.take() == []
    assert desk.host.settled == []
    fetch = desk.leads(get)
    desk.reads.loaded(fetch, loaded(b"1"), desk.now)
    desk.host.take()
    desk.reads.loaded(fetch, loaded(b"2"), desk.now)
    assert desk.host.take() == []


def test_token_that_came_twice_is_kept_and_one_that_came_too_late_goes_back(desk: Desk) -> None:
    desk.read()
    get = desk.asked()
    desk.leads(get, 7)
    desk.answer(Load(OWNER, ME, get.id, 7))
    assert desk.host.take() == []
    desk.answer(Load(OWNER, ME, get.id, 8))
    desk.answer(Load(OWNER, ME, 99, 9))
    assert desk.host.take() == [Cancel(ME, OWNER, get.id), Cancel(ME, OWNER, 99)]
    desk.answer(Wait(OWNER, ME, 99))
    desk.answer(Alone(OWNER, ME, 99))
    assert desk.host.take() == []


def test_answers_of_others_than_the_owner_are_ignored(desk: Desk) -> None:
    desk.read()
    get = desk.asked()
    value = Value(OTHER, ME, get.id, b"9", 0.0, 9.0, True, ())
    for message in (value, Alone(OTHER, ME, get.id), Wait(OTHER, ME, get.id)):
        desk.answer(message)
    assert desk.host.settled == []
    desk.value(get)
    assert desk.found() == {1: b"1"}


# --- Nobody waits for ever


def test_owner_that_does_not_answer_is_passed_over(desk: Desk) -> None:
    desk.read()
    desk.pass_time(FETCH_TIMEOUT)
    assert desk.host.passed_over == [OWNER]
    assert desk.host.take()[1:] == [Cancel(ME, OWNER, 1)]
    ((_, lead),) = desk.host.outcomes()
    assert isinstance(lead, Lead)


def test_owner_that_is_passed_over_is_not_asked(desk: Desk) -> None:
    desk.host.owner = None
    desk.read()
    assert desk.host.take() == []
    assert isinstance(desk.host.outcomes()[0][1], Lead)
    assert desk.host.counters.fallbacks == 1


def test_reader_that_waits_asks_again_now_and_then(desk: Desk) -> None:
    desk.read()
    get = desk.asked()
    for _ in range(3):
        desk.answer(Wait(OWNER, ME, get.id))
        desk.pass_time(REASK - 0.01)
        assert desk.host.take() == []
        desk.pass_time(0.01)
        assert desk.asked().id == get.id
    assert desk.host.passed_over == []


def test_owner_that_hangs_while_readers_wait_is_passed_over(desk: Desk) -> None:
    """It said "wait", and then it was stopped: a reader must not wait as long for it as for a load."""
    desk.read()
    desk.answer(Wait(OWNER, ME, desk.asked().id))
    desk.pass_time(REASK + FETCH_TIMEOUT)
    assert desk.host.passed_over == [OWNER]
    assert isinstance(desk.host.outcomes()[0][1], Lead)


def test_time_out_of_the_first_request_does_not_end_the_second() -> None:
    desk = Desk()
    desk.reads = Reads(desk.host, LEASE, 1.5 * REASK, desk.timers)
    desk.read()
    get = desk.asked()
    desk.answer(Wait(OWNER, ME, get.id))
    desk.pass_time(1.5 * REASK)
    assert desk.host.passed_over == []
    desk.pass_time(REASK)
    assert desk.host.passed_over == [OWNER]


def test_waiting_reader_goes_where_another_one_found_the_owner_silent(desk: Desk) -> None:
    desk.read()
    desk.answer(Wait(OWNER, ME, desk.asked().id))
    desk.host.owner = None
    desk.pass_time(REASK)
    assert isinstance(desk.host.outcomes()[0][1], Lead)


def test_reader_whose_time_is_up_loads_for_itself(desk: Desk) -> None:
    late, patient = desk.read(patience=0.5), desk.read()
    get = desk.asked()
    desk.answer(Wait(OWNER, ME, get.id))
    desk.pass_time(REASK)
    assert desk.host.outcomes() == [(late, Solo())]
    desk.host.take()
    desk.value(get)
    assert desk.found() == {patient: b"1"}


def test_fetch_whose_readers_time_is_up_is_given_up(desk: Desk) -> None:
    desk.read(patience=0.5)
    get = desk.asked()
    desk.answer(Wait(OWNER, ME, get.id))
    desk.pass_time(REASK)
    assert desk.host.outcomes() == [(1, Solo())]
    assert desk.host.take() == [Cancel(ME, OWNER, get.id)]
    assert len(desk.reads) == 0


def test_token_for_readers_whose_time_is_up_goes_back(desk: Desk) -> None:
    desk.read(patience=0.1)
    get = desk.asked()
    desk.answer(Wait(OWNER, ME, get.id))
    desk.pass_time(0.2)
    desk.answer(Load(OWNER, ME, get.id, 7))
    assert desk.host.outcomes() == [(1, Solo())]
    given_up, given_back = desk.host.take()
    assert given_up == given_back == Cancel(ME, OWNER, get.id)
    assert len(desk.reads) == 0


def test_reader_that_got_its_answer_costs_nothing_when_its_patience_ends(desk: Desk) -> None:
    reader = desk.read()
    desk.value(desk.asked())
    assert desk.found() == {reader: b"1"}
    desk.pass_time(2 * PATIENCE)
    assert desk.host.outcomes() == [], "a reader is answered once"
    assert desk.host.take() == [], "there is nothing to cancel"
    assert desk.host.counters.loads == desk.host.counters.fallbacks == 0


def test_abandoned_reader_is_forgotten_and_the_last_one_cancels_the_fetch(desk: Desk) -> None:
    first, second = desk.read(), desk.read()
    get = desk.asked()
    desk.reads.abandon(first, desk.now)
    assert desk.host.take() == []
    desk.reads.abandon(second, desk.now)
    assert desk.host.take() == [Cancel(ME, OWNER, get.id)]
    desk.value(get)
    assert desk.host.settled == []
    assert len(desk.reads) == 0


def test_reader_that_is_abandoned_takes_nobody_with_it(desk: Desk) -> None:
    desk.read()
    second = desk.read()
    fetch = desk.leads(desk.asked())
    other = desk.read(KEY2)
    desk.host.take()
    desk.reads.abandon(other, desk.now)
    desk.host.take()
    desk.reads.abandon(77, desk.now)
    desk.reads.loaded(fetch, loaded(b"1"), desk.now)
    assert desk.found() == {second: b"1"}


@pytest.mark.parametrize("first", ["abandoned", "failed"])
@pytest.mark.parametrize("second", ["abandoned", "failed"])
def test_who_waits_for_two_loads_that_gave_nothing_loads_alone(desk: Desk, first: str, second: str) -> None:
    """1. a load takes 5 s, and its caller waits for 1 s; 2. the next one, too; 3. so it could go on for ever."""
    leader, successor, third = (desk.read(patience=patience) for patience in (30.0, 20.0, 10.0))
    get = desk.asked()
    for how, who in ((first, leader), (second, successor)):
        fetch = desk.leads(get)
        if how == "abandoned":
            desk.reads.abandon(who, desk.now)
        else:
            desk.reads.failed(fetch, desk.now)
        word, *gets = desk.host.take()
        assert isinstance(word, Cancel if how == "abandoned" else Fail)
        get = gets[0] if gets else get
    assert not gets
    assert desk.host.outcomes() == [(third, Solo())]
    assert desk.host.counters.fallbacks == 1


def test_who_will_wait_longest_is_to_load(desk: Desk) -> None:
    readers = [desk.read(patience=patience) for patience in (1.0, 3.0, 2.0)]
    desk.answer(Load(OWNER, ME, desk.asked().id, 7))
    assert [ticket for ticket, _ in desk.host.outcomes()] == [readers[1]]


def test_load_that_nobody_else_waits_for_is_not_awaited(desk: Desk) -> None:
    desk.read()
    fetch = desk.leads(desk.asked())
    assert not desk.reads.is_awaited(fetch)
    other = desk.read()
    assert desk.reads.is_awaited(fetch)
    desk.reads.abandon(other, desk.now)
    assert not desk.reads.is_awaited(fetch)
    assert not desk.reads.is_awaited(fetch + 1)


def test_owner_says_that_another_member_waits_for_the_load(desk: Desk) -> None:
    desk.read()
    get = desk.asked()
    desk.answer(Wait(OWNER, ME, get.id))  # for somebody else's load
    fetch = desk.leads(get)
    assert not desk.reads.is_awaited(fetch)
    desk.answer(Wait(OTHER, ME, get.id))
    assert not desk.reads.is_awaited(fetch), "not the owner"
    desk.answer(Wait(OWNER, ME, get.id))
    assert desk.reads.is_awaited(fetch)


def test_owner_says_so_while_the_load_waits_for_events(desk: Desk) -> None:
    desk.read()
    get = desk.asked()
    desk.host.applied = False
    desk.answer(Load(OWNER, ME, get.id, 7))
    desk.answer(Wait(OWNER, ME, get.id))
    desk.host.applied = True
    desk.reads.retry(desk.now)
    ((_, outcome),) = desk.host.outcomes()
    assert desk.reads.is_awaited(outcome.fetch)


def begun(desk: Desk) -> list[int]:
    """Return, and forget, which tickets were told to load."""
    return [ticket for ticket, outcome in desk.host.outcomes() if isinstance(outcome, Lead)]


def test_one_of_those_who_wait_begins_another_load_beside_one_without_a_caller(desk: Desk) -> None:
    """One load takes long, where all others are fast: whoever waits gets a value as soon as anybody has one."""
    desk.read(), desk.read()  # the first one leads
    fetch = desk.leads(desk.asked())
    third = desk.read(patience=60.0)
    desk.reads.detach(fetch)
    assert begun(desk) == [third], "who will wait longest"
    assert desk.host.take() == [], "under the same token"
    desk.reads.loaded(fetch, loaded(b"fast"), desk.now)
    assert desk.found() == {2: b"fast"}
    (fill,) = desk.host.take()
    assert (type(fill), fill.payload) == (Fill, b"fast")
    desk.reads.loaded(fetch, loaded(b"slow"), desk.now)
    assert desk.host.take() == [], "the first value counts"
    assert len(desk.reads) == 0


def test_loads_beside_each_other_are_bounded_and_the_first_value_serves_all(desk: Desk) -> None:
    """All loads take long: they are not begun again and again while nobody has a value."""
    readers = [desk.read() for _ in range(2)]
    fetch = desk.leads(desk.asked())
    desk.reads.detach(fetch)
    assert begun(desk) == [readers[1]]
    waiting = [desk.read() for _ in range(3)]
    desk.reads.detach(fetch)
    waiting.append(desk.read())
    assert begun(desk) == []
    desk.reads.loaded(fetch, loaded(b"1"), desk.now)
    assert desk.found() == dict.fromkeys(waiting, b"1")


def test_load_without_a_caller_that_only_other_members_wait_for_goes_on_and_the_next_reader_begins_another(
    desk: Desk,
) -> None:
    desk.read()
    get = desk.asked()
    fetch = desk.leads(get)
    desk.answer(Wait(OWNER, ME, get.id))
    desk.reads.detach(fetch)
    assert begun(desk) == []
    second = desk.read()
    assert begun(desk) == [second]
    third = desk.read()
    assert begun(desk) == [], "the second load has a caller"
    desk.reads.loaded(fetch, loaded(b"1"), desk.now)
    assert desk.found() == {third: b"1"}


@pytest.mark.parametrize("ends", ["failed", "abandoned"])
def test_while_one_of_two_loads_goes_on_who_waits_waits_for_it(desk: Desk, ends: str) -> None:
    desk.read(), desk.read()
    fetch = desk.leads(desk.asked())
    desk.reads.detach(fetch)
    (second,) = begun(desk)
    third = desk.read()
    if ends == "failed":
        desk.reads.failed(fetch, desk.now)
    else:
        desk.reads.abandon(second, desk.now)
    assert (desk.host.take(), desk.host.outcomes()) == ([], [])
    desk.reads.failed(fetch, desk.now)
    fail, get = desk.host.take()
    assert (type(fail), type(get)) == (Fail, Get), "both gave nothing, so the next one is asked for"
    desk.value(get)
    assert desk.found() == {third: b"1"}


def test_nobody_is_asked_to_load_beside_a_load_that_is_over(desk: Desk) -> None:
    desk.read()
    fetch = desk.leads(desk.asked())
    desk.reads.loaded(fetch, loaded(b"1"), desk.now)
    desk.reads.detach(fetch)
    assert desk.host.outcomes() == []


def test_readers_of_an_owner_that_left_ask_the_next_one(desk: Desk) -> None:
    readers = [desk.read(), desk.read()]
    desk.asked()
    desk.host.owner = OTHER
    desk.reads.owner_left(OWNER, desk.now)
    get = desk.asked()
    assert get.to == OTHER
    desk.value(get, sender=OTHER)
    assert desk.found() == dict.fromkeys(readers, b"1")


def test_load_for_an_owner_that_left_goes_on_for_this_process(desk: Desk) -> None:
    desk.read()
    second = desk.read()
    fetch = desk.leads(desk.asked())
    desk.host.owner = OTHER
    desk.reads.owner_left(OWNER, desk.now)
    desk.reads.loaded(fetch, loaded(b"1"), desk.now)
    assert desk.host.take() == []
    assert desk.found() == {second: b"1"}


def test_nothing_is_left_when_every_reader_has_its_outcome(desk: Desk) -> None:
    for n in range(50):
        desk.read()
        if n % 3 == 0:
            desk.reads.mark(KEY)
    desk.pass_time(FETCH_TIMEOUT)
    settled = []
    while outcomes := desk.host.outcomes():
        for ticket, outcome in outcomes:
            settled.append(ticket)
            if isinstance(outcome, Lead):
                desk.reads.failed(outcome.fetch, desk.now)
        desk.pass_time(FETCH_TIMEOUT)
    assert sorted(settled) == list(range(1, 51))
    assert len(desk.reads) == 0
    desk.pass_time(PATIENCE)
    assert desk.timers.deadline() == float("inf")


def test_where_dependencies_are_too_many_to_be_named_a_reader_loads_for_its_process(desk: Desk) -> None:
    desk.host.positions = None
    desk.read()
    assert desk.host.take() == [Cancel(ME, OWNER, 1)]
    ((_, outcome),) = desk.host.outcomes()
    assert isinstance(outcome, Lead)
    assert desk.host.passed_over == []


def test_who_waits_for_another_ones_load_asks_again_with_as_much_time_however_late(desk: Desk) -> None:
    desk.read()
    get = desk.asked()
    desk.answer(Wait(OWNER, ME, get.id))
    desk.host.now += REASK + 5.0  # this process was stopped
    desk.timers.run(desk.now)
    assert desk.asked() == get._replace(patience=get.patience - REASK - 5.0)
    desk.pass_time(FETCH_TIMEOUT - 0.01)
    assert desk.host.passed_over == []
