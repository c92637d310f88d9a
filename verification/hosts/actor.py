"""What the threads of simulated processes do: they read, load, fetch, invalidate and write; every read is judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from random import Random
from typing import TYPE_CHECKING, Any

from colocache.core.entry import Entry, Home
from colocache.core.host.board import GROUP
from colocache.core.host.claims import AGAIN, Lead, Load, Sleep
from colocache.core.host.claims import Value as Loaded
from colocache.core.host.hashes import ANY_TAG, ROOT, WRITES, key_hash, namespace_hash, tag_hash
from colocache.core.host.record import Miss, Outcome, Record
from colocache.core.hosts import requests
from colocache.core.hosts.announcing import Announcement
from colocache.core.hosts.copies import PEEK_WITHIN
from colocache.core.hosts.dependencies import Dependencies, dependencies, dependencies_of_client, has_applied
from colocache.core.hosts.event import KEYS, NAMESPACES, TAGS
from colocache.core.hosts.log import NoLane
from colocache.core.hosts.owner import CATCHING_UP, LOOK_EVERY
from colocache.core.hosts.waiting import settle
from colocache.core.numbers import pack_integer, unpack_integer
from verification.hosts.copying import ask_or_copy, owners, until_told
from verification.hosts.items import HOT, ITEMS, PAGE, PARTS, SETTABLE, UNIT, Item
from verification.hosts.judge import Bound, Floor, Value, Write, Writes

if TYPE_CHECKING:
    from verification.hosts.computer import Worker

PATIENCE = 0.15  # s that a reader waits for others
ANSWERS_WITHIN = 0.25  # s
MOST_STOPPED = 2.0  # s


class _Call:
    def __init__(self) -> None:
        self.load: Any = None


class Actor:
    """One thread's work, or one call of it."""

    def __init__(self, worker: Worker, random: Random) -> None:
        self.worker = worker
        self.region = worker.region
        self.history = worker.history
        self.judge = worker.history.judge
        self.counts = worker.history.counts
        self.policy = worker.policy
        self.random = random
        self.busy_since: float | None = None
        self.loads: list[Load] = []  # under way, which its reads are a part of

    @property
    def name(self) -> str:
        """Who it is."""
        return self.worker.machine.current.name

    def run(self) -> None:
        """Work as long as the process lives."""
        plan, random = self.history.plan, self.random
        while True:
            self.policy.sleep(random.expovariate(plan.rate))
            self.busy_since = self.worker.machine.clock
            self.act()
            self.busy_since = None

    def act(self) -> None:
        """Do something."""
        random, plan = self.random, self.history.plan
        chance = random.random()
        if plan.writes and chance < 0.4:
            self.write_something()
        elif chance < 0.07 or (plan.writes and chance < 0.45):
            self.invalidate_something()
        elif chance < 0.11:
            self.read_many()
        elif plan.things == "all kinds" and chance < 0.2:
            self.read_page()
        elif plan.things == "all kinds" and chance < 0.3:
            self.read(ITEMS[5])
        else:
            self.read(ITEMS[3 if random.random() < 0.006 else random.choice(HOT)])

    # --- Invalidations

    def invalidate_something(self) -> None:
        """Invalidate one key mostly."""
        random = self.random
        chance = random.random()
        if self.history.plan.things == "keys" or chance < 0.6:
            numbers = [3 if random.random() < 0.12 else random.choice(HOT)]
            if chance < 0.1:
                numbers = [*HOT]
            self.invalidate(KEYS, [ITEMS[number].hash for number in numbers], [f"k{number}" for number in numbers])
        elif chance < 0.75:
            self.invalidate(TAGS, [tag_hash("tag a")], ["tag a"])
        elif chance < 0.85:
            self.invalidate(NAMESPACES, [namespace_hash("n")], ["n"])
        elif chance < 0.9:
            self.invalidate(NAMESPACES, [ROOT], ["all"])
        else:  # more than one event
            numbers = [0, 1, 2, 3, 5]
            hashes = [ITEMS[number].hash for number in numbers] + [key_hash(b"x%d" % each) for each in range(12)]
            self.invalidate(KEYS, hashes, [f"k{number}" for number in numbers])

    def invalidate(self, kind: int, hashes: list[int], things: list[str]) -> bool:
        """Invalidate, and wait for other hosts; return whether the receipt is complete."""
        worker, judge, region, counts = self.worker, self.judge, self.region, self.counts
        self.busy_since = worker.machine.clock  # it may have waited for a write before
        counts["invalidations"] += 1
        versions = judge.commit(things)
        self.history.tell(self.name, "invalidates", versions)
        related = kind != KEYS or len(hashes) > 1
        if region.is_client:
            return self._invalidate_far(kind, hashes, related, versions)
        try:
            position = worker.log.append_all(kind, hashes, related)
        except NoLane:
            judge.fail(f"{self.name} could not append an event")
        judge.append(versions, region, position.lane, position.number, region.until != 0)
        if kind == TAGS:
            worker.board.stamp((ANY_TAG,))
            worker.fences.order()
        worker.board.invalidate(hashes, related=related)
        judge.stamp(versions, region)
        worker.log.mark_stamped(position)
        self.policy.point(region.index, "w_wake")
        self.history.wake_gateways(region)
        now = region.ns()
        flow = settle(worker.words, worker.rows, worker.times, {position.lane: position.number}, now, 10**10)
        settled = self._settle(flow)
        waited = (region.ns() - now) / 1e9
        if settled.complete:
            judge.acknowledge(versions)
            counts["complete"] += 1
            counts["early"] += not settled.waited_out
            counts["waited out"] += bool(settled.waited_out)
            counts["forgotten"] += bool(settled.forgotten)
        else:
            counts["incomplete"] += 1
        self.history.tell(
            self.name, "has", "complete" if settled.complete else "incomplete", f"after {waited:.4f}:", settled
        )
        if waited > 4.2 * self.history.lease + MOST_STOPPED:
            judge.fail(f"{self.name} waited {waited} s for other hosts")
        return bool(settled.complete)

    def _invalidate_far(self, kind: int, hashes: list[int], related: bool, versions: dict[str, int]) -> bool:
        """Do the same on a client: stamp, and have a member announce it."""
        worker, judge, region, counts = self.worker, self.judge, self.region, self.counts
        position = worker.void(kind, hashes, related)
        if position is None:
            judge.fail(f"{self.name} could not append an event")
        judge.stamp(versions, region)
        settled: Any = None
        for _ in range(2):
            announcement = Announcement(requests.Announce(region.id, kind, tuple(hashes), related), (position,))
            members = sorted(worker.rows.counted())
            self.random.shuffle(members)
            while (member := announcement.next(members)) is not None:
                self.busy_since = worker.machine.clock  # each answer may take its time
                answer = self._ask(member, announcement.request, 0.7)
                if isinstance(answer, requests.Announced):
                    break
            if member is None:
                break
            at = next(each for each in self.history.all_regions if each.id == answer.by)  # not always the asked one
            for lane, number in answer.numbers.items():
                judge.append(versions, at, lane, number, at.until != 0)
            if answer.is_applied:
                worker.log.mark_stamped(position)
            self.busy_since = worker.machine.clock
            settled = self._ask(member, requests.Settle(region.id, answer.by, answer.numbers), 4 * self.history.lease)
            if isinstance(settled, requests.Settlement):
                break
        complete = isinstance(settled, requests.Settlement) and settled.complete
        if complete:
            judge.acknowledge(versions)
        counts["complete" if complete else "incomplete"] += 1
        counts["far"] += complete
        self.history.tell(self.name, "has", "complete" if complete else "incomplete", settled)
        return complete

    def _settle(self, flow: Generator[float, int, Any]) -> Any:
        try:
            pause = next(flow)
            while True:
                self.policy.sleep(pause)
                pause = flow.send(self.region.ns())
        except StopIteration as end:
            return end.value

    # --- Reads

    def read(self, item: Item, parts: Iterable[int] = ()) -> Value:
        """Read a key: near, or on the shelf, or from its owner, or from the source."""
        worker, region = self.worker, self.region
        self.counts["reads"] += 1
        floors = self._floors(item)
        entry = worker.entries.get(item.number)
        if entry is not None and (
            (entry.bell == worker.bell[0] and entry.until > region.clock()) or worker.near.lets(entry, region.clock())
        ):
            self.counts["near"] += 1
            self._judge(entry.value, floors, "near")
            value: Value = entry.value
            return value
        call = _Call()
        found = self._drive(
            worker.claims.find_or_lead(call, item.wire, item.hash, item.hashes, region.clock(), PATIENCE)
        )
        if isinstance(found, Record):
            value = self._value(found.payload, item)
            self.counts["shelf"] += 1
            self._judge(value, floors, "shelf")
            self._note_age(found.loaded)
            self._keep(item, value, found)
            return value
        if isinstance(found, Loaded):
            joined: Value = found.value
            self.counts["joined"] += 1
            self._judge(joined, floors, "joined")
            self._note_age(found.loaded)
            return joined
        return self._lead(found, item, floors, parts)

    def _note_age(self, loaded: float) -> None:
        """Have loads that this read is a part of count their ages from then, if the host is behind."""
        now = self.region.clock()
        if self.loads and now >= self.worker.shelf.lease.until(now):
            for load in self.loads:
                load.age(loaded)

    def read_page(self) -> None:
        """Read what a loader makes of other values."""
        self.read(PAGE, PARTS)

    def _floors(self, item: Item) -> dict[str, Floor]:
        """Begin a read. Whoever knows that a call has returned has heard of it, which takes a system call."""
        self.policy.enter_the_kernel()
        return self.judge.floors(self.region, item.things)

    def _bound(self, item: Item) -> Bound:
        self.policy.enter_the_kernel()
        return self.writes.floor(item.number, self.region)

    def _judge(self, value: Value, floors: dict[str, Floor], where: str) -> None:
        self.history.tell(self.name, "reads", f"key {value.key} {where}:", value.versions)
        self.judge.check(value, floors, self.name, where)

    def _value(self, payload: bytes | memoryview, item: Item) -> Value:
        number, key = UNIT.unpack(payload)
        if key != item.number:
            self.judge.fail(f"{self.name} was given a value of key {key} for key {item.number}")
        value: Value = self.judge.values[number]
        return value

    def _keep(self, item: Item, value: Value, record: Record) -> None:
        self.worker.entries[item.number] = Entry(
            Home(None), "k", value, item.hash, record.label, record.way, record.expires, 1
        )

    def _lead(self, lead: Lead, item: Item, floors: dict[str, Floor], parts: Iterable[int]) -> Value:
        worker, load, outcome = self.worker, lead.load, AGAIN
        try:
            owner, token = self._owner(item), None
            if owner != worker.region.id:
                answer, asked_at = self._fetch(owner, item)
                if isinstance(answer, requests.Found):
                    value = self._value(answer.payload, item)
                    self.counts["fetched"] += 1
                    self._judge(value, floors, "fetched")
                    outcome = Loaded(value, math.inf, self._store_found(item, load.miss, answer, asked_at))
                    return value
                if isinstance(answer, requests.Granted):
                    token = answer.token
                    if not self._catch_up(answer.depends):
                        self._request(owner, requests.Fill(token, None, math.inf, 0.0))
                        token = None
                elif answer is not None:
                    self.counts["refused"] += 1
            elif (found := self._peek(item, load.miss)) is not None:
                outcome = Loaded(*found)
                self._judge(found[0], floors, "peeked")
                return found[0]
            began = self.region.clock()
            self.loads.append(load)
            try:
                value = self._load(item, parts)
            finally:
                self.loads.pop()
            load.loaded(worker.shelf.lease, self.region.clock())
            self._judge(value, floors, "loaded")
            payload = UNIT.pack(value.number, item.number)
            stored = worker.shelf.fill(item.wire, item.hash, payload, load.miss, math.inf)[1]
            if stored is not None:
                outcome = Loaded(value, math.inf, load.miss.at)
                if worker.copying is not None:
                    worker.copying.offers.loaded(item.wire, self.region.clock() - began)
            if token is not None:
                fill = requests.Fill(token, payload, math.inf, self.region.clock() - began)
                self._request(owner, fill)
            return value
        finally:
            worker.claims.end(load, outcome)

    def _peek(self, item: Item, miss: Miss) -> tuple[Value, float, float] | None:
        """Ask who may have a key of this host's, which has joined just now.

        Return the value, when it ends, and from when its age counts.
        """
        copying = self.worker.copying
        other = copying.peeks_at(item) if copying is not None else None
        if other is None:
            return None
        self.worker.fences.order()
        asked_at = self.region.clock()
        request = requests.Get(self._key(item), self._dependencies(), False, 0.0, self.region.id)
        answer = self._ask(other, request, PEEK_WITHIN)
        if not isinstance(answer, requests.Found):
            return None
        self.counts["peeked"] += 1
        loaded = self._store_found(item, miss, answer, asked_at)
        return self._value(answer.payload, item), math.inf, loaded

    def _load(self, item: Item, parts: Iterable[int]) -> Value:
        """Read the source, at some moment of the load."""
        random = self.random
        self.counts["loads"] += 1
        seconds = random.uniform(0.001, 0.02) if random.random() < 0.9 else random.uniform(0.05, 0.4)
        moment = random.uniform(0, seconds)
        self.policy.sleep(moment)
        if parts:
            made_of = [self.read(ITEMS[part]) for part in parts]
            value = self.judge.load(item.number, item.things, made_of)
        else:
            value = self.judge.load(item.number, item.things)
        self.policy.sleep(seconds - moment)
        return value

    # --- Other hosts

    def _owner(self, item: Item) -> bytes:
        """Return the host that has a key."""
        return owners(self.worker, item.number)[0]

    def _fetch(self, owner: bytes, item: Item, leads: bool = True) -> tuple[Any, float]:
        """Ask the owner. Return the answer, None if there is none, and when it was asked."""
        worker = self.worker
        worker.fences.order()
        depends = self._dependencies()
        patience = PATIENCE
        ends = worker.machine.clock + PATIENCE
        while True:
            asked_at = self.region.clock()
            get = requests.Get(self._key(item), depends, leads, patience, self.region.id)
            copying = self.worker.copying is not None
            answer = ask_or_copy(self, owner, item, get) if copying else self._ask(owner, get)
            if not isinstance(answer, requests.Busy):
                return answer, asked_at
            self.policy.sleep(0.006)
            patience = ends - worker.machine.clock
            if patience <= 0:
                return None, asked_at

    def _catch_up(self, depends: Dependencies) -> bool:
        """Wait until this host has applied what a load under a grant depends on; return False if it takes too long."""
        worker, ends = self.worker, self.region.clock() + CATCHING_UP
        while not has_applied(self.region.id, worker.rows, worker.log, depends):
            if self.region.clock() >= ends:
                return False
            self.policy.sleep(LOOK_EVERY)
        return True

    def _dependencies(self) -> Dependencies:
        worker = self.worker
        if not self.region.is_client:
            return dependencies(self.region.id, worker.rows, worker.log, self.region.ns())
        ends = worker.machine.clock + 0.06
        while True:
            depends = dependencies_of_client(self.region.id, worker.rows, worker.pending.lasts(), self.region.ns())
            if self.region.id not in depends or worker.machine.clock >= ends:
                return depends
            self.policy.sleep(0.001)

    def request(
        self, owner: bytes, request: requests.Request, take: Callable[[requests.Answer], object] = lambda answer: None
    ) -> None:
        """Ask a host, and have the answer given."""
        index = self.history.index_of[owner]
        self.history.network.request(
            self.worker, index, requests.encode(request), lambda frame: take(requests.decode_answer(frame))
        )

    def _request(self, owner: bytes, request: requests.Request, answers: list[bytes] | None = None) -> None:
        thread = self.worker.machine.current

        def take(frame: bytes) -> None:
            if answers is not None:
                answers.append(frame)
                self.policy.wake(thread)

        index = self.history.index_of[owner]
        self.history.network.request(self.worker, index, requests.encode(request), take)

    def _ask(self, owner: bytes, request: requests.Request, within: float = ANSWERS_WITHIN) -> Any:
        answers: list[bytes] = []
        self._request(owner, request, answers)
        self.policy.wait(lambda: bool(answers), within)
        return requests.decode_answer(answers[0]) if answers else None

    def _store_found(self, item: Item, miss: Miss, found: requests.Found, asked_at: float) -> float:
        """Put what the owner has given onto the own shelf, under the label that was read before it was asked.

        Return from when its age counts.
        """
        worker = self.worker
        loaded = min(miss.at, asked_at - found.age * 1.01)
        self._note_age(loaded)
        known = {GROUP.unpack_from(miss.label, at)[0] for at in range(0, len(miss.label), GROUP.size)}
        if not set(found.hashes) <= known:
            return loaded
        worker.shelf.fill(
            item.wire, item.hash, bytes(found.payload), Miss(miss.label, loaded), self.region.clock() + found.ttl
        )
        return loaded

    def _drive(self, flow: Generator[Any, Any, Any]) -> Any:
        """Carry out the steps of a flow in this thread."""
        policy, region = self.policy, self.region
        thread = self.worker.machine.current
        try:
            step = next(flow)
            while True:
                woken: list[Any] = []
                seconds = step
                if isinstance(step, Sleep):
                    seconds = step.seconds

                    def wake(outcome: Any, woken: list[Any] = woken) -> None:
                        woken.append(outcome)
                        policy.wake(thread)

                    step.register(wake)
                if not woken:
                    policy.wait(lambda woken=woken: bool(woken), seconds)  # type: ignore[misc]
                step = flow.send((region.clock(), woken[0] if woken else None))
        except StopIteration as end:
            return end.value
        finally:
            flow.close()

    def read_many(self) -> None:
        """Read several keys, and ask their owner at once for those that are not here."""
        worker, region = self.worker, self.region
        floors = {number: self._floors(ITEMS[number]) for number in HOT}
        missing: dict[bytes, list[tuple[Item, Miss]]] = {}
        for number in HOT:
            item = ITEMS[number]
            found = worker.shelf.look(item.wire, item.hash, item.hashes, region.clock())
            self.counts["reads"] += 1
            if isinstance(found, Record):
                value = self._value(found.payload, item)
                self.counts["shelf"] += 1
                self._judge(value, floors[number], "shelf, of many")
                self._keep(item, value, found)
            else:
                missing.setdefault(self._owner(item), []).append((item, found))
        missing.pop(region.id, None)
        for owner, asked in missing.items():
            worker.fences.order()
            keys = tuple([requests.Key(item.wire, item.hashes) for item, _ in asked])
            asked_at = region.clock()
            answer = self._ask(owner, requests.GetMany(keys, self._dependencies()))
            if not isinstance(answer, requests.FoundMany):
                continue
            for (item, miss), given in zip(asked, answer.values, strict=True):
                if given is not None:
                    value = self._value(given.payload, item)
                    self.counts["fetched"] += 1
                    self._judge(value, floors[item.number], "fetched, of many")
                    self._store_found(item, miss, given, asked_at)

    # --- Writes

    def write_something(self) -> None:
        """Write a value, or count, or read what was written."""
        chance = self.random.random()
        if chance < 0.3:
            self.read_written(SETTABLE)
        elif chance < 0.45:
            self.put()
        elif chance < 0.5:
            self.add()
        elif chance < 0.6:
            self.compare_and_set()
        elif chance < 0.75:
            self.count()
        elif chance < 0.85:
            self.read_written(self.writes.counter())
        elif chance < 0.93:
            self.put_fenced()
        else:
            self.invalidate_written(SETTABLE)

    @property
    def writes(self) -> Writes:
        """Who judges what is written."""
        return self.history.writes

    def _at_owner(self, owner: bytes, request: requests.Request) -> Any:
        """Have the owner do something; this thread does it, if its own host is the owner. None if nobody answers."""
        if owner == self.region.id and self.region.is_client:
            return None  # there is no member
        if owner == self.region.id:
            return self._drive(self.worker.owner._handlers[type(request)](request))
        within = 3 * self.history.lease if getattr(request, "waits", False) else ANSWERS_WITHIN
        answer = self._ask(owner, request, within)
        if isinstance(answer, requests.Done) and answer.outcome == Outcome.STORED.name:
            self.worker.board.invalidate((key_hash(request.key.wire) ^ WRITES,))  # type: ignore[union-attr]
            if self.worker.copying is not None:
                until_told(self, answer)
        return answer

    def read_written(self, item: Item) -> None:
        """Read what was written to a key."""
        worker, region = self.worker, self.region
        self.counts["reads"] += 1
        floor = self._bound(item)
        entry = worker.entries.get(item.number)
        if entry is not None and (
            (entry.bell == worker.bell[0] and entry.until > region.clock()) or worker.near.lets(entry, region.clock())
        ):
            self.counts["near"] += 1
            self._judge_written(item, entry.value, floor, "near")
            return
        found = worker.shelf.look(item.wire, item.hash, item.hashes, region.clock())
        if isinstance(found, Record):
            self.counts["shelf"] += 1
            payload = bytes(found.payload)
            self._judge_written(item, payload, floor, "shelf")
            self.worker.entries[item.number] = Entry(
                Home(None), "k", payload, item.hash, found.label, found.way, found.expires, 1
            )
            return
        owner = self._owner(item)
        if owner == region.id:
            return
        answer, asked_at = self._fetch(owner, item, leads=False)
        if isinstance(answer, requests.Found):
            self.counts["fetched"] += 1
            self._judge_written(item, answer.payload, floor, "fetched")
            self._store_found(item, found, answer, asked_at)

    def _judge_written(self, item: Item, payload: bytes, floor: Bound, where: str) -> None:
        self.history.tell(self.name, "reads", f"key {item.number} {where}:", payload.hex())
        self.writes.check(item.number, payload, floor, self.name, where)

    def put(self, waits: bool | None = None) -> None:
        """Set a value, and wait for all hosts, or not."""
        write = self.writes.begin(SETTABLE.number)
        waits = self.random.random() < 0.6 if waits is None else waits
        owner = self._owner(SETTABLE)
        payload = UNIT.pack(write.number, SETTABLE.number)
        self.history.tell(self.name, "sets", f"write {write.number} at {owner.hex()[:8]}")
        done = self._at_owner(owner, requests.Put(self._key(SETTABLE), payload, math.inf, waits))
        self._end_write(write, done, SETTABLE)

    def add(self) -> None:
        """Set a value if there is none."""
        write = self.writes.begin(SETTABLE.number)
        payload = UNIT.pack(write.number, SETTABLE.number)
        self.worker.fences.order()
        owner = self._owner(SETTABLE)
        request = requests.Add(self._key(SETTABLE), payload, math.inf, self._dependencies())
        self._end_write(write, self._at_owner(owner, request), None)

    def compare_and_set(self) -> None:
        """Set a value that takes the place of one that was read at the owner."""
        self.worker.fences.order()
        owner, depends = self._owner(SETTABLE), self._dependencies()
        floor = self._bound(SETTABLE)
        found = self._at_owner(owner, requests.Get(self._key(SETTABLE), depends, False, 0.0))
        if not isinstance(found, requests.Found):
            return
        self._judge_written(SETTABLE, found.payload, floor, "at the owner")
        write = self.writes.begin(SETTABLE.number)
        payload = UNIT.pack(write.number, SETTABLE.number)
        done = self._at_owner(
            owner,
            requests.Replace(self._key(SETTABLE), payload, math.inf, found.version, found.any_tag, depends),
        )
        if self._end_write(write, done, None):
            self.counts["compared"] += 1
            self.writes.replace(write, UNIT.unpack(found.payload)[0])

    def count(self) -> None:
        """Add to a counter."""
        item, bit = self.writes.next_bit()
        self.worker.fences.order()
        owner = self._owner(item)
        began = self.worker.machine.clock
        expected = self.writes.expected(item.number)
        start = pack_integer(self.writes.first(item.number, bit))
        request = requests.Count(self._key(item), 1 << bit, start, math.inf, self._dependencies())
        done = self._at_owner(owner, request)
        if isinstance(done, requests.Done) and done.outcome == Outcome.STORED.name and done.payload is not None:
            self.counts["counted"] += 1
            self.history.tell(self.name, "counts", bit, "of", item.number, bin(unpack_integer(done.payload) or 0))
            self.writes.counted(item.number, bit, done.payload, began, expected, self.name)

    def put_fenced(self) -> None:
        """Miss a key at its owner, read the source, and set the value if nothing has happened since."""
        item = ITEMS[self.random.choice(HOT)]
        self.worker.fences.order()
        owner = self._owner(item)
        missing = self._at_owner(owner, requests.Get(self._key(item), self._dependencies(), False, 0.0))
        if not isinstance(missing, requests.Missing) or not self._catch_up(missing.depends):
            return
        value = self._load(item, ())
        payload = UNIT.pack(value.number, item.number)
        done = self._at_owner(owner, requests.PutFenced(self._key(item), payload, math.inf, missing.fence, ()))
        self.counts["fenced"] += isinstance(done, requests.Done) and done.outcome == Outcome.STORED.name

    def _key(self, item: Item) -> requests.Key:
        return requests.Key(item.wire, item.hashes)

    def _end_write(self, write: Write, done: Any, item: Item | None) -> bool:
        """End a write. If it has failed, or nobody knows, the key is invalidated."""
        if isinstance(done, requests.Done) and done.outcome == Outcome.STORED.name:
            self.writes.end(write, done.complete, self.region if self.worker.copying is not None else None)
            self.counts["writes"] += 1
            self.counts["complete writes"] += done.complete
            self.history.tell(self.name, "has written", write.number, done.complete)
            return True
        if item is not None:
            self.invalidate_written(item)
        return False

    def invalidate_written(self, item: Item) -> None:
        """Invalidate a key that is written."""
        began = self.worker.machine.clock
        if self.invalidate(KEYS, [item.hash], [f"k{item.number}"]):
            self.writes.invalidated(item.number, began)
