"""The owner's load queues, watched: what they send is compared with what those who ask may expect.

The machine is the members that ask, and the peer around the queues. The owner itself asks, too. Its mail is handled
when a step ends, so it may give a token back, or fail, at once.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from colocache.core.group.load_queues import MAX_FAILURES, Asker, Grant, LoadQueues
from colocache.core.group.messages import Alone, Fail, Fill, Get, Load, Message, Wait
from colocache.core.group.seam import Settings
from colocache.core.keys import prefix, wire
from tests.core.group.fakes import ME, OTHER, THIRD, Surroundings
from tests.core.stateful import Machine, explore, machine_test

LOAD_TIMEOUT = 3.1
MEMBERS = (ME, OTHER, THIRD)
SPACES = {"": ("", "a", "a/b"), "a": ("a", "a/b"), "a/b": ("a/b",), "c": ()}  # what each namespace holds
KEYS = {wire(prefix(space), key): space for space, key in (("", "k"), ("a", "k"), ("a/b", "k"), ("a/b", "l"))}

keys = st.sampled_from(tuple(KEYS))


class Call:
    """One request for a key, and what became of it."""

    def __init__(self, number: int, member: bytes, key: bytes, until: float, reaction: str) -> None:
        self.id = number
        self.member = member
        self.key = key
        self.until = until
        self.reaction = reaction  # what an asker in the owner's own process does with a token: "load", "cancel", "fail"
        self.state = "asking"  # "waiting", "loading", "answered", or "gone": it wants no answer

    def __repr__(self) -> str:
        return f"<call {self.id}: {self.state}>"


class Token:
    """One grant as its holder knows it."""

    def __init__(self, number: int, call: Call, at: float, version: int) -> None:
        self.number, self.call, self.at, self.version = number, call, at, version
        self.lapses_at = at + LOAD_TIMEOUT
        self.awaited = False  # the holder was told that somebody waits


class Around(Surroundings):
    """What surrounds the queues: it passes on what they send."""

    def __init__(self, send: Any) -> None:
        super().__init__(Settings(load_timeout=LOAD_TIMEOUT))
        self.now = 12345.678
        self.send = send

    def dependencies(self, wires: Any) -> bytes:
        return b"of " + b"".join(wires)


class QueuesMachine(Machine):
    """Load queues, those who ask, and what they know."""

    @initialize()
    def begin(self) -> None:
        self.around: Any = Around(self.send)
        self.timers = self.around.timers
        self.queues = LoadQueues(self.around, self.around, self.timers)
        self.mail: list[Call] = []  # of the owner's own process, with tokens that it has not heard of yet
        self.calls: dict[tuple[bytes, int], Call] = {}
        self.waiting: dict[bytes, list[Call]] = {}  # by key
        self.standing: dict[bytes, Token] = {}  # by key
        self.tokens: list[Token] = []
        # Loads that gave nothing, by key, since somebody asked for a key that nobody loaded.
        self.failures: dict[bytes, int] = {}

    @property
    def now(self) -> float:
        return float(self.around.now)

    # --- What the queues send

    def send(self, message: Message) -> None:
        assert isinstance(message, Load | Wait | Alone)
        assert message.sender == ME
        call = self.calls[message.to, message.id]
        assert call.state != "gone", "who wants no answer gets none"
        if isinstance(message, Load):
            self.granted(call, message)
        elif isinstance(message, Wait) and call.state == "loading":
            token = self.standing[call.key]
            assert token.call is call
            assert not token.awaited, "said once"
            token.awaited = True
            self.note("holders told")
        elif isinstance(message, Wait):
            assert call.state in ("asking", "waiting")
            assert call.key in self.standing, "somebody loads what others wait for"
            call.state = "waiting"
        else:
            assert self.failures[call.key] >= MAX_FAILURES
            self.answered(call)

    def granted(self, call: Call, load: Load) -> None:
        assert load.dependencies == b"of " + call.key
        standing = self.standing.get(call.key)
        if standing is not None:
            assert (standing.call, standing.number) == (call, load.token), "one token, also if asked for again"
            return
        assert load.token > max((token.number for token in self.tokens), default=0), "no token is given twice"
        self.leave_line(call)
        call.state = "loading"
        self.tokens.append(Token(load.token, call, self.now, self.around.version))
        self.standing[call.key] = self.tokens[-1]
        self.note("tokens")
        if call.member == ME and call.reaction != "load":
            self.mail.append(call)

    def leave_line(self, call: Call) -> None:
        line = self.waiting.get(call.key, [])
        if call in line:
            longest = max(each.until for each in line)
            assert call is next(each for each in line if each.until == longest), "who will wait longest gets the token"
            assert call.until > self.now, "it does not wait any more"
            line.remove(call)
        else:
            assert call.state == "asking"
            assert not any(each.until > self.now for each in line), "out of turn"

    def handle_mail(self) -> None:
        """The owner's own process hears of its tokens, when a step has ended."""
        while self.mail:
            call = self.mail.pop(0)
            if self.has_token(call):
                self.react(call)

    def react(self, call: Call) -> None:
        """An asker in the owner's own process has no use for its token, and says so at once."""
        self.note("reactions")
        if call.reaction == "cancel":
            self.forget(call)
            self.queues.cancel(ME, call.id)
        else:
            self.fail_load(self.standing[call.key])

    def answered(self, call: Call) -> None:
        assert call.state == "waiting"
        call.state = "answered"
        self.waiting[call.key].remove(call)

    # --- What the askers do

    @rule(member=st.sampled_from(MEMBERS), key=keys, patience=st.sampled_from((0.5, 5.0, 50.0)),
          reaction=st.sampled_from(("load", "load", "cancel", "fail")), times=st.integers(1, 3))  # fmt: skip
    def ask(self, member: bytes, key: bytes, patience: float, reaction: str, times: int) -> None:
        for _ in range(times):
            call = Call(len(self.calls), member, key, self.now + patience, reaction)
            self.calls[member, call.id] = call
            self.get(call, patience)

    @rule(which=st.integers(0, 99), patience=st.sampled_from((0.5, 5.0)))
    def ask_again(self, which: int, patience: float) -> None:
        """The answer was lost, or is not there yet: the answer is as before, and only the place in line changes."""
        calls = [call for call in self.calls.values() if call.state in ("waiting", "answered") or self.has_token(call)]
        if calls:
            call = calls[which % len(calls)]
            if call.state == "waiting":
                self.waiting[call.key].remove(call)
            if not self.has_token(call):
                call.state, call.until = "asking", self.now + patience
            self.get(call, patience)

    def has_token(self, call: Call) -> bool:
        return call.key in self.standing and self.standing[call.key].call is call

    def get(self, call: Call, patience: float) -> None:
        if call.key not in self.standing:
            self.failures[call.key] = 0
        self.queues.ask(Get(call.member, ME, call.id, call.key, patience, b""))
        if call.state == "waiting":
            self.waiting.setdefault(call.key, []).append(call)
        self.handle_mail()

    @rule(which=st.integers(0, 99))
    def cancel(self, which: int) -> None:
        """Somebody waits no more; or says so of a call that is answered long since."""
        if self.calls:
            call = list(self.calls.values())[which % len(self.calls)]
            self.forget(call)
            self.queues.cancel(call.member, call.id)
            self.handle_mail()

    @rule(member=st.sampled_from(MEMBERS))
    def leave(self, member: bytes) -> None:
        for call in self.calls.values():
            if call.member == member:
                self.forget(call, dies=True)
        self.queues.cancel_all(member)
        self.handle_mail()

    def forget(self, call: Call, *, dies: bool = False) -> None:
        if call in self.waiting.get(call.key, ()):
            self.waiting[call.key].remove(call)
        if self.has_token(call):
            del self.standing[call.key]
            self.failures[call.key] += not dies
            self.note("loads given up")
        if call.state != "answered":
            call.state = "gone"

    @rule(which=st.integers(0, 99), refused=st.booleans())
    def fill(self, which: int, refused: bool) -> None:
        """Somebody who loads, or did, fills in; ``refused``: a tag was invalidated, so the next in line loads."""
        if self.tokens:
            token = self.tokens[-1 - which % min(len(self.tokens), 6)]
            self.fill_in(token, refused)

    def fill_in(self, token: Token, refused: bool) -> None:
        key = token.call.key
        grant = self.queues.redeem(fill(token.call.member, key, token.number))
        if self.standing.get(key) is not token:
            assert grant is None, "void, lapsed, spent or given back"
            self.note("fills refused")
            return
        assert grant is not None
        self.check_grant(grant, token)
        assert self.queues.redeem(fill(token.call.member, key, token.number)) is None, "it is spent"
        del self.standing[key]
        token.call.state = "answered"
        if refused:
            self.queues.pass_on(key)
        else:
            self.hand_out(key, self.queues.release(key))
        self.handle_mail()

    def check_grant(self, grant: Grant, token: Token) -> None:
        assert (grant.token, grant.holder.id, grant.holder.member) == (token.number, token.call.id, token.call.member)
        assert grant.version == token.version, "every event since the load began counts"
        assert grant.at == token.at, "the value is as old as its load, or counts as older"

    def hand_out(self, key: bytes, askers: list[Asker]) -> None:
        """All who still wait get the value that was filled in."""
        line = self.waiting.pop(key, [])
        patient = [call for call in line if call.until > self.now]
        assert [(asker.member, asker.id) for asker in askers] == [(call.member, call.id) for call in patient]
        for call in line:
            call.state = "answered" if call in patient else "gone"
        self.note("answers", len(patient))

    @rule(member=st.sampled_from(MEMBERS), key=keys, other_key=keys, beside=st.integers(-1, 1))
    def forge(self, member: bytes, key: bytes, other_key: bytes, beside: int) -> None:
        """A fill and a failure under a token that is another's, another key's, or nobody's."""
        token, other = self.standing.get(key), self.standing.get(other_key)
        number = max(0, other.number + beside) if other is not None else 1
        if token is None or (token.number, token.call.member) != (number, member):
            assert self.queues.redeem(fill(member, key, number)) is None
            self.queues.fail(Fail(member, ME, key, number))
            self.note("forgeries")

    @rule(which=st.integers(0, 99))
    def fail(self, which: int) -> None:
        """A load of now, or of some time ago, raised."""
        if self.tokens:
            self.fail_load(self.tokens[-1 - which % min(len(self.tokens), 6)])
            self.handle_mail()

    def fail_load(self, token: Token) -> None:
        key = token.call.key
        stood = self.standing.get(key) is token
        if stood:
            del self.standing[key]
            token.call.state = "gone"
            self.failures[key] += 1
            self.note("failures")
        self.queues.fail(Fail(token.call.member, ME, key, token.number))
        if stood and self.failures[key] >= MAX_FAILURES:
            assert key not in self.standing, "nobody waits for a source that is broken"

    # --- What happens to the owner

    @rule(key=keys)
    def invalidate_key(self, key: bytes) -> None:
        self.around.version += 1
        self.void(key)
        self.queues.pass_on(key)
        self.handle_mail()

    @rule(namespace=st.sampled_from(tuple(SPACES)))
    def invalidate_namespace(self, namespace: str) -> None:
        self.around.version += 1
        for key, space in KEYS.items():
            if space in SPACES[namespace]:
                self.void(key)
        self.queues.pass_on_all(namespace)
        self.handle_mail()

    def void(self, key: bytes) -> None:
        token = self.standing.pop(key, None)
        if token is not None:
            self.note("tokens voided")

    @rule(seconds=st.sampled_from((0.1, 1.0, 3.1, 7.0)), in_time=st.sampled_from((True, True, False)))
    def wait(self, seconds: float, in_time: bool) -> None:
        """Time passes; a driver that is stopped runs its timers late."""
        ends = self.now + seconds
        self.around.now = self.now if in_time else ends
        while self.timers.deadline() <= ends:
            self.around.now = max(self.now, self.timers.deadline())
            self.lapse()
            self.timers.run(self.now)
            self.handle_mail()
        self.around.now = ends

    def lapse(self) -> None:
        """The timers will be run: who waits no more by now is passed over, however late that is."""
        for key, token in list(self.standing.items()):
            if token.lapses_at <= self.now:
                del self.standing[key]
                self.note("tokens lapsed")

    # --- What must hold

    @invariant()
    def check(self) -> None:
        queues: dict[bytes, Any] = self.queues._queues
        assert {key: queue.grant.token for key, queue in queues.items()} == {
            key: token.number for key, token in self.standing.items()
        }, "a queue without a token would be empty, or wait for ever"
        assert len(self.queues) == len(self.standing)
        for key, line in self.waiting.items():
            if key not in self.standing:
                assert not [call for call in line if call.until > self.now], "nobody will answer a call that waits"
        assert len(self.timers._heap) <= 1, "one timer serves all tokens"
        for key, token in self.standing.items():
            waits = any(call.until > self.now for call in self.waiting.get(key, ()))
            assert token.awaited or not waits, "who loads knows that somebody waits"
        assert set(self.queues._standing) == {token.number for token in self.standing.values()}

    def teardown(self) -> None:
        """When each load ends, in whatever way, all who wait are answered, and nothing is left."""
        if not hasattr(self, "queues"):
            return
        for number in range(2 * len(self.calls) + 1):
            for token in list(self.standing.values()):
                if self.standing.get(token.call.key) is token:
                    self.fail_load(token) if number % 2 else self.fill_in(token, refused=number % 4 == 0)
                    self.handle_mail()
            self.check()
        assert not any(call.until > self.now for line in self.waiting.values() for call in line)
        assert len(self.queues) == 0
        self.wait(LOAD_TIMEOUT, True)
        assert not self.timers._heap


def fill(member: bytes, key: bytes, token: int) -> Fill:
    return Fill(member, ME, key, token, payload=b"1", ttl=300.0, older=0.0, tags=())


@machine_test
def test_whoever_waits_is_answered_and_no_token_outlives_what_voids_it() -> None:
    happens = ("tokens", "tokens voided", "tokens lapsed", "failures", "loads given up", "reactions",
               "answers", "fills refused", "holders told")  # fmt: skip
    explore(QueuesMachine, 80, 50, *happens)
