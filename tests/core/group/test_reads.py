"""The reader's side: readers share a fetch if they may, each gets an outcome, and nothing overtaken is kept."""

from __future__ import annotations

from typing import Any

import pytest

from colocache.core.entry import DEAD
from colocache.core.group.deliveries import Deliveries
from colocache.core.group.entry import Entry
from colocache.core.group.fetches import Fetches, Ticket
from colocache.core.group.messages import Alone, Cancel, Fail, Fill, Get, Load, Value, Wait
from colocache.core.group.outcomes import Found, Lead, Solo
from colocache.core.group.reads import REASK, Reads
from colocache.core.group.requests import Requests
from colocache.core.group.seam import Settings
from tests.core.group.fakes import KEY, KEY2, ME, OTHER, OWNER, Surroundings, loaded

FETCH_TIMEOUT = 0.25
PATIENCE = 30.0


class Reader:
    """A `Reads` with what surrounds it. It stands for the owner's part of this member, too."""

    def __init__(self, settings: Settings = Settings(fetch_timeout=FETCH_TIMEOUT)) -> None:  # noqa: B008
        around: Any = Surroundings(settings)
        self.around = around
        self.fills: list[Fill] = []  # of this member's own
        self.stored: Entry | None = None  # what becomes of them
        self.requests = Requests(around, around.timers)
        self.fetches = Fetches(self.requests)
        owner: Any = self
        deliveries = Deliveries(around, around, around, owner)
        self.reads = Reads(around, around, around.timers, around, self.requests, self.fetches, deliveries)
        self.tickets = 0

    def filled(self, fill: Fill) -> Entry | None:
        """Take a fill of this member's own."""
        self.fills.append(fill)
        return self.stored

    @property
    def now(self) -> float:
        return float(self.around.now)

    def pass_time(self, seconds: float) -> None:
        """Let timers run."""
        self.around.pass_time(seconds)

    def read(self, key: bytes = KEY, tags: tuple[str, ...] = (), patience: float = PATIENCE) -> int:
        """Begin a read; return its ticket."""
        self.tickets += 1
        self.reads.read(Ticket(self.tickets, key, tags, self.now, self.now + patience))
        return self.tickets

    def asked(self) -> Get:
        """Return the one request that was sent."""
        (get,) = self.around.take()
        assert isinstance(get, Get)
        return get

    def answer(self, message: Any) -> None:
        """Have an answer arrive."""
        self.reads.answered(message)

    def value(self, get: Get, payload: bytes = b"1", age: float = 0.0, current: bool = True,
              tags: tuple[str, ...] = (), sender: bytes = OWNER) -> None:  # fmt: skip
        """Have a value arrive."""
        self.answer(Value(sender, ME, get.id, payload, age, 300.0, current, tags))

    def leads(self, get: Get, token: int = 7) -> int:
        """Have a token arrive; return the fetch that is led."""
        self.answer(Load(OWNER, ME, get.id, token))
        ((_, outcome),) = self.around.outcomes()
        assert isinstance(outcome, Lead)
        return outcome.fetch

    def found(self) -> dict[int, bytes]:
        """Return, and forget, which tickets found which payload."""
        return {
            ticket: outcome.entry.payload for ticket, outcome in self.around.outcomes() if isinstance(outcome, Found)
        }


@pytest.fixture
def reader() -> Reader:
    return Reader()


def test_readers_of_a_key_share_one_fetch_and_its_value(reader: Reader) -> None:
    readers = [reader.read() for _ in range(3)]
    get = reader.asked()
    assert get == Get(ME, OWNER, get.id, KEY, PATIENCE, b"")
    reader.value(get)
    assert reader.found() == dict.fromkeys(readers, b"1")
    assert reader.around.kept[KEY].loaded_at == reader.now
    assert len(reader.requests) == 0


def test_keys_are_fetched_apart(reader: Reader) -> None:
    reader.read(KEY)
    reader.read(KEY2)
    assert [get.key for get in reader.around.take()] == [KEY, KEY2]


def test_age_counts_from_the_request_and_so_does_the_time_to_live(reader: Reader) -> None:
    reader.read()
    get = reader.asked()
    reader.pass_time(0.2)
    reader.value(get, age=1.5)
    entry = reader.around.kept[KEY]
    assert (entry.loaded_at, entry.expires) == (100.0 - 1.5, 100.0 + 300.0)


def test_requests_carry_what_they_depend_on_and_how_long_they_wait(reader: Reader) -> None:
    reader.around.positions = b"x" * 24
    reader.read(patience=5.0)
    get = reader.asked()
    assert (get.dependencies, get.patience) == (b"x" * 24, 5.0)


# --- What is kept


@pytest.mark.parametrize(
    "spoil",
    [
        lambda reader: reader.fetches.mark(KEY),
        lambda reader: reader.fetches.mark_all(""),
        lambda reader: reader.around.tag_versions.update(t=1),
        lambda reader: setattr(reader.around, "current", False),
    ],
    ids=["key", "everything", "tag that came with the value", "owner behind"],
)
def test_overtaken_value_is_used_by_who_waited_and_not_kept(reader: Reader, spoil: Any) -> None:
    first = reader.read()
    get = reader.asked()
    spoil(reader)
    reader.value(get, tags=("t",), current=reader.around.current)
    assert reader.found() == {first: b"1"}
    assert reader.around.kept == {}


def test_joiner_keeps_nothing_even_if_it_is_established_before_the_answer(reader: Reader) -> None:
    reader.around.established = False
    reader.reads.park_until(reader.now)
    first = reader.read()
    get = reader.asked()
    reader.around.established = True
    reader.value(get)
    assert reader.found() == {first: b"1"}
    assert reader.around.kept == {}


def test_namespace_event_marks_what_lies_below_it_alone(reader: Reader) -> None:
    for key in (KEY, KEY2):
        reader.read(key)
    above, below = reader.around.take()
    reader.fetches.mark_all("users")
    reader.value(above)
    reader.value(below)
    assert list(reader.around.kept) == [KEY]


def test_tag_event_marks_a_load_that_is_known_to_carry_it(reader: Reader) -> None:
    reader.read(tags=("t",))
    fetch = reader.leads(reader.asked())
    reader.fetches.mark_tag("t")
    reader.reads.loaded(fetch, loaded(b"1", ("t",)))
    assert reader.around.kept == {}


def test_load_whose_own_tags_were_invalidated_meanwhile_is_not_kept(reader: Reader) -> None:
    """Its caller named no tags, so nothing could mark the load."""
    reader.read()
    fetch = reader.leads(reader.asked())
    reader.around.version = 1
    reader.around.tag_versions["t"] = 1
    after = reader.read()
    reader.reads.loaded(fetch, loaded(b"1", ("t",)))
    assert reader.around.kept == {}
    fill, again = reader.around.take()
    assert isinstance(fill, Fill)
    reader.value(again, b"2")
    assert reader.found() == {after: b"2"}


def test_own_load_whose_fill_was_refused_is_not_kept(reader: Reader) -> None:
    reader.around.owner = ME
    reader.read()
    second = reader.read()
    reader.answer(Load(ME, ME, reader.asked().id, 7))
    ((_, lead),) = reader.around.outcomes()
    published: list[Entry] = []
    reader.reads.loaded(lead.fetch, loaded(b"1", publish=published.append))
    assert reader.fills == [Fill(ME, ME, KEY, 7, b"1", 300.0, 0.0, ())]
    ((ticket, outcome),) = reader.around.outcomes()
    assert (ticket, outcome.entry.value, outcome.entry.expires) == (second, b"1", DEAD)
    assert published == []
    assert reader.around.kept == {}


def test_own_load_is_published_as_what_the_shard_has_stored(reader: Reader) -> None:
    reader.around.owner = ME
    reader.read()
    reader.answer(Load(ME, ME, reader.asked().id, 7))
    ((_, lead),) = reader.around.outcomes()
    reader.stored = Entry(KEY, b"1", reader.now, reader.now + 300, ())
    published: list[Entry] = []
    reader.reads.loaded(lead.fetch, loaded(b"1", publish=published.append))
    assert published == [reader.stored]
    assert reader.around.kept == {}


def test_own_value_that_the_shard_has_not_taken_is_used_once(reader: Reader) -> None:
    # Otherwise readers would find it where no event could drop it, because it is in no store.
    reader.around.owner = ME
    reader.read()
    reader.value(reader.asked(), sender=ME)
    ((_, outcome),) = reader.around.outcomes()
    assert outcome.entry.payload == b"1"
    assert outcome.entry.expires == DEAD


def test_own_value_is_the_shards_own_entry(reader: Reader) -> None:
    reader.around.owner = ME
    reader.read()
    mine = reader.around.shard[KEY] = Entry(KEY, b"1", reader.now, reader.now + 300, ())
    reader.value(reader.asked(), sender=ME)
    ((_, outcome),) = reader.around.outcomes()
    assert outcome.entry is mine
    assert reader.around.kept == {}


# --- Who may join


def test_marked_fetch_is_not_joined(reader: Reader) -> None:
    before = reader.read()
    first = reader.asked()
    reader.fetches.mark(KEY)
    after = reader.read()
    second = reader.asked()
    assert second.id != first.id
    reader.value(first)
    assert reader.found() == {before: b"1"}
    reader.value(second, b"2")
    assert reader.found() == {after: b"2"}
    assert reader.around.kept[KEY].payload == b"2"


def test_newest_fetch_is_the_one_that_is_joined(reader: Reader) -> None:
    reader.read()
    reader.fetches.mark(KEY)
    second, third = reader.read(), reader.read()
    _, newest = reader.around.take()
    reader.value(newest, b"2")
    assert reader.found() == {second: b"2", third: b"2"}


def test_reader_that_is_behind_joins_what_began_a_moment_ago_alone(reader: Reader) -> None:
    reader.read()
    reader.asked()
    reader.around.current = False
    reader.pass_time(0.1)
    reader.read()
    assert reader.around.take() == []
    reader.reads.answered(Wait(OWNER, ME, 1))
    reader.pass_time(3.0)
    reader.around.take()
    reader.read()
    assert isinstance(reader.asked(), Get)


def test_reader_that_joined_while_behind_takes_no_older_value_than_it_would_serve(reader: Reader) -> None:
    """The fetch began a moment before the read, but the value in the answer is older than `max_stale`."""
    reader.read()
    get = reader.asked()
    reader.around.current = False
    reader.pass_time(0.1)
    late = reader.read()
    reader.value(get, age=2.95, current=False)
    assert reader.found() == {1: b"1"}, "who began before the fetch may have it"
    again = reader.asked()
    reader.value(again, b"2")
    assert reader.found() == {late: b"2"}


def test_reader_that_came_after_a_tag_event_does_not_get_what_the_tag_overtook(reader: Reader) -> None:
    """Nothing marked the fetch, because nobody knew its tags. The answer tells them."""
    before = reader.read()
    get = reader.asked()
    reader.around.version = 1
    reader.around.tag_versions["t"] = 1
    after = reader.read()
    reader.value(get, tags=("t",))
    assert reader.found() == {before: b"1"}
    reader.value(reader.asked(), b"2", tags=("t",))
    assert reader.found() == {after: b"2"}


def test_load_that_takes_longer_than_its_caller_waits_is_not_joined(reader: Reader) -> None:
    """Otherwise every later reader of the key would wait for a loader that hangs."""
    reader.read(patience=5.0)
    hung = reader.leads(reader.asked())
    reader.pass_time(4.9)
    reader.read()
    assert reader.around.take() == []
    reader.pass_time(0.2)
    first = reader.read()
    reader.value(reader.asked(), b"2")
    assert reader.found() == {first: b"2"}
    reader.reads.loaded(hung, loaded(b"1"))
    assert reader.found() == {2: b"1"}


# --- Loading


def test_first_reader_leads_and_the_others_get_its_value(reader: Reader) -> None:
    published: list[Entry] = []
    reader.read()
    second = reader.read()
    fetch = reader.leads(reader.asked())
    reader.pass_time(1.0)
    reader.reads.loaded(fetch, loaded(b"1", ("t",), publish=published.append))
    assert reader.around.take() == [Fill(ME, OWNER, KEY, 7, b"1", 300.0, 0.0, ("t",))]
    entry = reader.around.kept[KEY]
    assert published == [entry]
    assert entry.value == b"1", "as the object that the loader gave"
    assert (entry.loaded_at, entry.expires) == (100.0, reader.now + 300.0)
    assert reader.found() == {second: b"1"}
    assert reader.around.counters.loads == 1


def test_value_that_is_too_large_to_travel_is_shared_here_and_not_kept(reader: Reader) -> None:
    reader.read()
    second = reader.read()
    fetch = reader.leads(reader.asked())
    reader.reads.loaded(fetch, loaded(None))
    assert reader.around.take() == [Fail(ME, OWNER, KEY, 7)]
    assert reader.around.kept == {}
    assert reader.found() == {second: None}


def test_failed_load_is_tried_by_the_next_and_after_two_failures_everybody_tries_alone(reader: Reader) -> None:
    readers = [reader.read() for _ in range(4)]
    get = reader.asked()
    reader.reads.failed(reader.leads(get, 7))
    fail, get = reader.around.take()
    assert fail == Fail(ME, OWNER, KEY, 7)
    reader.reads.failed(reader.leads(get, 8))
    assert reader.around.take() == [Fail(ME, OWNER, KEY, 8)]
    assert reader.around.outcomes() == [(ticket, Solo()) for ticket in readers[2:]]
    assert (reader.around.counters.loads, reader.around.counters.fallbacks) == (4, 2)
    assert len(reader.requests) == 0


def test_reader_that_is_sent_away_loads_for_this_process(reader: Reader) -> None:
    reader.read()
    second = reader.read()
    get = reader.asked()
    reader.answer(Alone(OWNER, ME, get.id))
    ((_, lead),) = reader.around.outcomes()
    reader.reads.loaded(lead.fetch, loaded(b"1"))
    assert reader.around.take() == [], "nothing is filled in without a token"
    assert reader.found() == {second: b"1"}
    assert reader.around.kept[KEY].payload == b"1"


def test_token_is_used_once_what_the_owner_has_applied_is_applied_here(reader: Reader) -> None:
    reader.around.applied = False
    reader.read()
    get = reader.asked()
    for _ in range(2):
        reader.answer(Load(OWNER, ME, get.id, 7, b"x" * 24))
        reader.reads.retry()
    assert reader.around.resolved == []
    reader.fetches.mark(KEY)  # what is missing comes, and invalidates the key
    reader.around.applied = True
    reader.reads.retry()
    ((_, lead),) = reader.around.outcomes()
    reader.pass_time(FETCH_TIMEOUT)
    reader.reads.loaded(lead.fetch, loaded(b"2"))
    assert reader.around.take() == [Fill(ME, OWNER, KEY, 7, b"2", 300.0, 0.0, ())]
    assert reader.around.kept[KEY].payload == b"2", "loaded after the event"


@pytest.mark.parametrize("applied", [False, None])
def test_token_goes_back_if_what_the_owner_has_applied_cannot_be_had(reader: Reader, applied: bool | None) -> None:
    reader.around.applied = applied
    reader.read()
    get = reader.asked()
    reader.answer(Load(OWNER, ME, get.id, 7, b"x" * 24))
    reader.pass_time(FETCH_TIMEOUT)
    assert reader.around.take() == [Cancel(ME, OWNER, get.id)]
    ((_, lead),) = reader.around.outcomes()
    reader.reads.loaded(lead.fetch, loaded(b"1"))
    assert reader.around.take() == []


@pytest.mark.parametrize("how", ["declined", "abandoned", "owner left", "answered after all"])
def test_nothing_is_kept_of_a_token_that_was_not_used(reader: Reader, how: str) -> None:
    reader.around.applied = False
    first = reader.read()
    get = reader.asked()
    reader.answer(Load(OWNER, ME, get.id, 7, b"x" * 24))
    if how == "declined":
        reader.pass_time(FETCH_TIMEOUT)
        ((_, lead),) = reader.around.outcomes()
        reader.reads.loaded(lead.fetch, loaded(b"1"))
    elif how == "abandoned":
        reader.reads.abandon(first)
    elif how == "owner left":
        reader.requests.owner_left(OWNER)
        reader.value(reader.around.take()[-1])
    else:
        reader.value(get)
    assert len(reader.requests) == 0
    assert reader.reads._catching_up == {}


def test_report_of_no_load_is_ignored(reader: Reader) -> None:
    reader.read()
    get = reader.asked()
    for request in (get.id, 99):
        reader.reads.loaded(request, loaded(b"1"))
        reader.reads.failed(request)
    assert reader.around.take() == []
    assert reader.around.resolved == []
    fetch = reader.leads(get)
    reader.reads.loaded(fetch, loaded(b"1"))
    reader.around.take()
    reader.reads.loaded(fetch, loaded(b"2"))
    assert reader.around.take() == []


def test_token_that_came_twice_is_kept_and_one_that_came_too_late_goes_back(reader: Reader) -> None:
    reader.read()
    get = reader.asked()
    reader.leads(get, 7)
    reader.answer(Load(OWNER, ME, get.id, 7))
    assert reader.around.take() == []
    reader.answer(Load(OWNER, ME, get.id, 8))
    reader.answer(Load(OWNER, ME, 99, 9))
    assert reader.around.take() == [Cancel(ME, OWNER, get.id), Cancel(ME, OWNER, 99)]
    reader.answer(Wait(OWNER, ME, 99))
    reader.answer(Alone(OWNER, ME, 99))
    assert reader.around.take() == []


def test_answers_of_others_than_the_owner_are_ignored(reader: Reader) -> None:
    reader.read()
    get = reader.asked()
    value = Value(OTHER, ME, get.id, b"9", 0.0, 9.0, True, ())
    for message in (value, Alone(OTHER, ME, get.id), Wait(OTHER, ME, get.id)):
        reader.answer(message)
    assert reader.around.resolved == []
    reader.value(get)
    assert reader.found() == {1: b"1"}


# --- Nobody waits for ever


def test_owner_that_does_not_answer_is_passed_over(reader: Reader) -> None:
    reader.read()
    reader.pass_time(FETCH_TIMEOUT)
    assert reader.around.passed_over == [OWNER]
    assert reader.around.take()[1:] == [Cancel(ME, OWNER, 1)]
    ((_, lead),) = reader.around.outcomes()
    assert isinstance(lead, Lead)


def test_owner_that_is_passed_over_is_not_asked(reader: Reader) -> None:
    reader.around.owner = None
    reader.read()
    assert reader.around.take() == []
    assert isinstance(reader.around.outcomes()[0][1], Lead)
    assert reader.around.counters.fallbacks == 1


def test_reader_that_waits_asks_again_now_and_then(reader: Reader) -> None:
    reader.read()
    get = reader.asked()
    for _ in range(3):
        reader.answer(Wait(OWNER, ME, get.id))
        reader.pass_time(REASK - 0.01)
        assert reader.around.take() == []
        reader.pass_time(0.01)
        assert reader.asked().id == get.id
    assert reader.around.passed_over == []


def test_owner_that_hangs_while_readers_wait_is_passed_over(reader: Reader) -> None:
    """It said "wait", and then it was stopped: a reader must not wait as long for it as for a load."""
    reader.read()
    reader.answer(Wait(OWNER, ME, reader.asked().id))
    reader.pass_time(REASK + FETCH_TIMEOUT)
    assert reader.around.passed_over == [OWNER]
    assert isinstance(reader.around.outcomes()[0][1], Lead)


def test_time_out_of_the_first_request_does_not_end_the_second() -> None:
    reader = Reader(Settings(fetch_timeout=1.5 * REASK))
    reader.read()
    get = reader.asked()
    reader.answer(Wait(OWNER, ME, get.id))
    reader.pass_time(1.5 * REASK)
    assert reader.around.passed_over == []
    reader.pass_time(REASK)
    assert reader.around.passed_over == [OWNER]


def test_waiting_reader_goes_where_another_one_found_the_owner_silent(reader: Reader) -> None:
    reader.read()
    reader.answer(Wait(OWNER, ME, reader.asked().id))
    reader.around.owner = None
    reader.pass_time(REASK)
    assert isinstance(reader.around.outcomes()[0][1], Lead)


def test_reader_whose_time_is_up_loads_for_itself(reader: Reader) -> None:
    late, patient = reader.read(patience=0.5), reader.read()
    get = reader.asked()
    reader.answer(Wait(OWNER, ME, get.id))
    reader.pass_time(REASK)
    assert reader.around.outcomes() == [(late, Solo())]
    reader.around.take()
    reader.value(get)
    assert reader.found() == {patient: b"1"}


def test_fetch_whose_readers_time_is_up_is_given_up(reader: Reader) -> None:
    reader.read(patience=0.5)
    get = reader.asked()
    reader.answer(Wait(OWNER, ME, get.id))
    reader.pass_time(REASK)
    assert reader.around.outcomes() == [(1, Solo())]
    assert reader.around.take() == [Cancel(ME, OWNER, get.id)]
    assert len(reader.requests) == 0


def test_token_for_readers_whose_time_is_up_goes_back(reader: Reader) -> None:
    reader.read(patience=0.1)
    get = reader.asked()
    reader.answer(Wait(OWNER, ME, get.id))
    reader.pass_time(0.2)
    reader.answer(Load(OWNER, ME, get.id, 7))
    assert reader.around.outcomes() == [(1, Solo())]
    given_up, given_back = reader.around.take()
    assert given_up == given_back == Cancel(ME, OWNER, get.id)
    assert len(reader.requests) == 0


def test_reader_that_got_its_answer_costs_nothing_when_its_patience_ends(reader: Reader) -> None:
    first = reader.read()
    reader.value(reader.asked())
    assert reader.found() == {first: b"1"}
    reader.pass_time(2 * PATIENCE)
    assert reader.around.outcomes() == [], "a reader is answered once"
    assert reader.around.take() == [], "there is nothing to cancel"
    assert reader.around.counters.loads == reader.around.counters.fallbacks == 0


def test_abandoned_reader_is_forgotten_and_the_last_one_cancels_the_fetch(reader: Reader) -> None:
    first, second = reader.read(), reader.read()
    get = reader.asked()
    reader.reads.abandon(first)
    assert reader.around.take() == []
    reader.reads.abandon(second)
    assert reader.around.take() == [Cancel(ME, OWNER, get.id)]
    reader.value(get)
    assert reader.around.resolved == []
    assert len(reader.requests) == 0


def test_reader_that_is_abandoned_takes_nobody_with_it(reader: Reader) -> None:
    reader.read()
    second = reader.read()
    fetch = reader.leads(reader.asked())
    other = reader.read(KEY2)
    reader.around.take()
    reader.reads.abandon(other)
    reader.around.take()
    reader.reads.abandon(77)
    reader.reads.loaded(fetch, loaded(b"1"))
    assert reader.found() == {second: b"1"}


@pytest.mark.parametrize("first", ["abandoned", "failed"])
@pytest.mark.parametrize("second", ["abandoned", "failed"])
def test_who_waits_for_two_loads_that_gave_nothing_loads_alone(reader: Reader, first: str, second: str) -> None:
    """1. a load takes 5 s, and its caller waits for 1 s; 2. the next one, too; 3. so it could go on for ever."""
    leader, successor, third = (reader.read(patience=patience) for patience in (30.0, 20.0, 10.0))
    get = reader.asked()
    for how, who in ((first, leader), (second, successor)):
        fetch = reader.leads(get)
        if how == "abandoned":
            reader.reads.abandon(who)
        else:
            reader.reads.failed(fetch)
        word, *gets = reader.around.take()
        assert isinstance(word, Cancel if how == "abandoned" else Fail)
        get = gets[0] if gets else get
    assert not gets
    assert reader.around.outcomes() == [(third, Solo())]
    assert reader.around.counters.fallbacks == 1


def test_who_will_wait_longest_is_to_load(reader: Reader) -> None:
    readers = [reader.read(patience=patience) for patience in (1.0, 3.0, 2.0)]
    reader.answer(Load(OWNER, ME, reader.asked().id, 7))
    assert [ticket for ticket, _ in reader.around.outcomes()] == [readers[1]]


def test_load_that_nobody_else_waits_for_is_not_awaited(reader: Reader) -> None:
    reader.read()
    fetch = reader.leads(reader.asked())
    assert not reader.reads.is_awaited(fetch)
    other = reader.read()
    assert reader.reads.is_awaited(fetch)
    reader.reads.abandon(other)
    assert not reader.reads.is_awaited(fetch)
    assert not reader.reads.is_awaited(fetch + 1)


def test_owner_says_that_another_member_waits_for_the_load(reader: Reader) -> None:
    reader.read()
    get = reader.asked()
    reader.answer(Wait(OWNER, ME, get.id))  # for somebody else's load
    fetch = reader.leads(get)
    assert not reader.reads.is_awaited(fetch)
    reader.answer(Wait(OTHER, ME, get.id))
    assert not reader.reads.is_awaited(fetch), "not the owner"
    reader.answer(Wait(OWNER, ME, get.id))
    assert reader.reads.is_awaited(fetch)


def test_owner_says_so_while_the_load_waits_for_events(reader: Reader) -> None:
    reader.read()
    get = reader.asked()
    reader.around.applied = False
    reader.answer(Load(OWNER, ME, get.id, 7))
    reader.answer(Wait(OWNER, ME, get.id))
    reader.around.applied = True
    reader.reads.retry()
    ((_, outcome),) = reader.around.outcomes()
    assert reader.reads.is_awaited(outcome.fetch)


def begun(reader: Reader) -> list[int]:
    """Return, and forget, which tickets were told to load."""
    return [ticket for ticket, outcome in reader.around.outcomes() if isinstance(outcome, Lead)]


def test_one_of_those_who_wait_begins_another_load_beside_one_without_a_caller(reader: Reader) -> None:
    """One load takes long, and all others are fast: each reader gets a value as soon as there is one."""
    reader.read(), reader.read()  # the first one leads
    fetch = reader.leads(reader.asked())
    third = reader.read(patience=60.0)
    reader.reads.detach(fetch)
    assert begun(reader) == [third], "who will wait longest"
    assert reader.around.take() == [], "under the same token"
    reader.reads.loaded(fetch, loaded(b"fast"))
    assert reader.found() == {2: b"fast"}
    (fill,) = reader.around.take()
    assert (type(fill), fill.payload) == (Fill, b"fast")
    reader.reads.loaded(fetch, loaded(b"slow"))
    assert reader.around.take() == [], "the first value counts"
    assert len(reader.requests) == 0


def test_loads_beside_each_other_are_bounded_and_the_first_value_serves_all(reader: Reader) -> None:
    """All loads take long: they are not begun again and again while nobody has a value."""
    readers = [reader.read() for _ in range(2)]
    fetch = reader.leads(reader.asked())
    reader.reads.detach(fetch)
    assert begun(reader) == [readers[1]]
    waiting = [reader.read() for _ in range(3)]
    reader.reads.detach(fetch)
    waiting.append(reader.read())
    assert begun(reader) == []
    reader.reads.loaded(fetch, loaded(b"1"))
    assert reader.found() == dict.fromkeys(waiting, b"1")


def test_load_without_a_caller_that_only_other_members_wait_for_goes_on_and_the_next_reader_begins_another(
    reader: Reader,
) -> None:
    reader.read()
    get = reader.asked()
    fetch = reader.leads(get)
    reader.answer(Wait(OWNER, ME, get.id))
    reader.reads.detach(fetch)
    assert begun(reader) == []
    second = reader.read()
    assert begun(reader) == [second]
    third = reader.read()
    assert begun(reader) == [], "the second load has a caller"
    reader.reads.loaded(fetch, loaded(b"1"))
    assert reader.found() == {third: b"1"}


@pytest.mark.parametrize("ends", ["failed", "abandoned"])
def test_while_one_of_two_loads_goes_on_who_waits_waits_for_it(reader: Reader, ends: str) -> None:
    reader.read(), reader.read()
    fetch = reader.leads(reader.asked())
    reader.reads.detach(fetch)
    (second,) = begun(reader)
    third = reader.read()
    if ends == "failed":
        reader.reads.failed(fetch)
    else:
        reader.reads.abandon(second)
    assert (reader.around.take(), reader.around.outcomes()) == ([], [])
    reader.reads.failed(fetch)
    fail, get = reader.around.take()
    assert (type(fail), type(get)) == (Fail, Get), "both gave nothing, so the next one is asked for"
    reader.value(get)
    assert reader.found() == {third: b"1"}


def test_nobody_is_asked_to_load_beside_a_load_that_is_over(reader: Reader) -> None:
    reader.read()
    fetch = reader.leads(reader.asked())
    reader.reads.loaded(fetch, loaded(b"1"))
    reader.reads.detach(fetch)
    assert reader.around.outcomes() == []


def test_readers_of_an_owner_that_left_ask_the_next_one(reader: Reader) -> None:
    readers = [reader.read(), reader.read()]
    reader.asked()
    reader.around.owner = OTHER
    reader.requests.owner_left(OWNER)
    get = reader.asked()
    assert get.to == OTHER
    reader.value(get, sender=OTHER)
    assert reader.found() == dict.fromkeys(readers, b"1")


def test_load_for_an_owner_that_left_goes_on_for_this_process(reader: Reader) -> None:
    reader.read()
    second = reader.read()
    fetch = reader.leads(reader.asked())
    reader.around.owner = OTHER
    reader.requests.owner_left(OWNER)
    reader.reads.loaded(fetch, loaded(b"1"))
    assert reader.around.take() == []
    assert reader.found() == {second: b"1"}


def test_nothing_is_left_when_every_reader_has_its_outcome(reader: Reader) -> None:
    for n in range(50):
        reader.read()
        if n % 3 == 0:
            reader.fetches.mark(KEY)
    reader.pass_time(FETCH_TIMEOUT)
    settled = []
    while outcomes := reader.around.outcomes():
        for ticket, outcome in outcomes:
            settled.append(ticket)
            if isinstance(outcome, Lead):
                reader.reads.failed(outcome.fetch)
        reader.pass_time(FETCH_TIMEOUT)
    assert sorted(settled) == list(range(1, 51))
    assert len(reader.requests) == 0
    reader.pass_time(PATIENCE)
    assert reader.around.timers.deadline() == float("inf")


def test_where_dependencies_are_too_many_to_be_named_a_reader_loads_for_its_process(reader: Reader) -> None:
    reader.around.positions = None
    reader.read()
    assert reader.around.take() == [Cancel(ME, OWNER, 1)]
    ((_, outcome),) = reader.around.outcomes()
    assert isinstance(outcome, Lead)
    assert reader.around.passed_over == []


def test_who_waits_for_another_ones_load_asks_again_with_as_much_time_however_late(reader: Reader) -> None:
    reader.read()
    get = reader.asked()
    reader.answer(Wait(OWNER, ME, get.id))
    reader.around.now += REASK + 5.0  # this process was stopped
    reader.around.timers.run(reader.now)
    assert reader.asked() == get._replace(patience=get.patience - REASK - 5.0)
    reader.pass_time(FETCH_TIMEOUT - 0.01)
    assert reader.around.passed_over == []
