"""What is explored: who is there, what the applications do, and which faults may come, how often."""

from __future__ import annotations

from typing import NamedTuple

from colocache.core.group.seam import Settings
from verification.simulation.exploring.world import ANSWERS, BUS, LINK, Choice

#: The shipped figures: a lease of 3 s, a ping every 0.5 s, a time-out of 0.25 s for a fetch.
SHIPPED = Settings()
#: Where no lease matters: no ping for 10 s, so that there is less to interleave.
QUIET = Settings(lease=60.0, max_stale=60.0, forget_after=600.0)

FETCH_TIMEOUT = 0.3  # s; a little more than one
LEASE = 3.1  # s; a little more than what a writer waits for the silent
ALMOST = 3.02  # s; a little less than that
HALF = 1.6  # s; a little more than half of a lease
FORGOTTEN = 6.1  # s; a little more than two leases: for once or twice as long events are remembered


# --- Operations


class Read(NamedTuple):
    """``get_or_load``, of a value that carries the tag, or none."""

    tagged: bool = False


class Peek(NamedTuple):
    """``get``."""


class Write(NamedTuple):
    """Commit a new version, and ``invalidate`` what its readers may hold: "the key", "the tag", or "everything"."""

    target: str = "the key"
    wait: bool = True


class Unrelated(NamedTuple):
    """``invalidate`` another key, and wait for nobody."""


class Put(NamedTuple):
    """Commit a new version, and ``set`` it; ``acknowledged``: and wait until everybody has acknowledged it."""

    acknowledged: bool = False


class Start(NamedTuple):
    """The process starts: it is not there before."""


Operation = Read | Peek | Write | Unrelated | Put | Start
READ, TAGGED, WRITE, ANNOUNCE = Read(), Read(tagged=True), Write(), Write(wait=False)


class Scenario(NamedTuple):
    """A small group, what its applications do, and the faults that may come.

    Members are named by letters. A thread is a member's letter and its operations: each begins at any moment after the
    one before has returned.
    """

    story: str
    members: str
    owner: str  # of the key, once everybody is there
    threads: tuple[tuple[str, tuple[Operation, ...]], ...]
    prepared: tuple[tuple[str, Operation], ...] = ()  # done, and settled, before the exploration begins
    opening: tuple[Choice, ...] = ()  # steps that are taken then, before all others are free
    settings: Settings = QUIET
    lengths: tuple[float, ...] = ()  # seconds that may pass, in this order; a thread that is due then wakes at any time
    losses: int = 0  # publications that may be lost
    resets: int = 0  # frames on links that may be lost
    failures: int = 0  # loaders that may raise
    mortal: str = ""  # members that may die
    slow: str = ""  # members whose clocks are slower by 1 %
    meets: str = ""  # the only member that later ones meet; "": all
    successor: str = ""  # a member that starts in the first one's seat


SCENARIOS: dict[str, Scenario] = {
    "the_owner_invalidates_under_a_load": Scenario(
        "Readers of R load what O, the owner, invalidates; O reads, too.",
        "RO", "O", (("R", (READ, READ)), ("R", (READ,)), ("O", (WRITE, READ))),
        losses=1, lengths=(FETCH_TIMEOUT,),
    ),
    "a_reader_invalidates_under_the_owners_load": Scenario(
        "R invalidates what O, the owner, loads, and what R loads itself.",
        "RO", "O", (("O", (READ,)), ("O", (READ,)), ("R", (READ,)), ("R", (WRITE, READ))),
        losses=1,
    ),
    "lost_events_are_replayed": Scenario(
        "R holds a copy; O announces two changes, and something else; R may miss two of the three.",
        "RO", "O", (("R", (READ,)), ("O", (ANNOUNCE, Unrelated(), ANNOUNCE))), prepared=(("R", READ),),
        losses=2, lengths=(10.0,),
    ),
    "lost_events_are_too_old_to_be_replayed": Scenario(
        "The same, with a log of one event: what is missing may be a reset.",
        "RO", "O", (("R", (READ,)), ("O", (ANNOUNCE, ANNOUNCE))), prepared=(("R", READ),),
        settings=QUIET._replace(log_events=1), losses=2, lengths=(10.0,),
    ),
    "everything_is_invalidated": Scenario(
        "R and O read, while O invalidates everything there is.",
        "RO", "O", (("R", (READ, READ)), ("O", (READ,)), ("O", (Write("everything"),))),
        losses=1,
    ),
    "a_set_that_is_late": Scenario(
        "W sets, and then invalidates; its set may be overtaken, given up, or lost.",
        "WO", "O", (("W", (Put(), WRITE, READ)), ("O", (READ,))),
        resets=1, lengths=(FETCH_TIMEOUT,),
    ),
    "sets_of_one_writer": Scenario(
        "W sets twice, the second time until all have acknowledged; R reads.",
        "WOR", "O", (("W", (Put(), Put(acknowledged=True))), ("R", (READ, READ))),
        losses=1,
    ),
    "sets_of_two_writers_in_turn": Scenario(
        "V sets, and W sets when that has returned, and reads; V's set may be late, and given up by then.",
        "VOW", "O", (("V", (Put(),)), ("W", (Put(), READ))),
        lengths=(FETCH_TIMEOUT,),
    ),
    "the_reader_hears_before_the_owner": Scenario(
        "W invalidates twice; R may have heard it, or O, the owner, and the other not yet.",
        "ROW", "O", (("R", (READ, READ)), ("W", (WRITE, WRITE))), prepared=(("R", READ),),
        losses=1,
    ),
    "everybody_reads_what_one_invalidates": Scenario(
        "R and O read, W invalidates and reads.",
        "ROW", "O", (("R", (READ,)), ("O", (READ,)), ("W", (WRITE, READ))),
        losses=1,
    ),
    "two_writers": Scenario(
        "V and W invalidate what both read.",
        "VOW", "O", (("V", (WRITE, READ)), ("W", (READ, WRITE))),
        losses=1,
    ),
    "a_peek_under_an_invalidation": Scenario(
        "R looks without loading, and reads, while W invalidates what O, the owner, holds or loads.",
        "ROW", "O", (("R", (Peek(), READ)), ("R", (Peek(),)), ("O", (READ,)), ("W", (WRITE,))), prepared=(("O", READ),),
    ),
    "a_tag_event_under_a_fill": Scenario(
        "R loads a value with a tag; O, its owner, invalidates the tag.",
        "RO", "O", (("R", (TAGGED, TAGGED)), ("R", (TAGGED,)), ("O", (Write("the tag"),))),
        losses=1, lengths=(FETCH_TIMEOUT,),
    ),
    "a_tag_event_of_another_member": Scenario(
        "R and O load a value with a tag; W, which does not own it, invalidates the tag.",
        "ROW", "O", (("R", (TAGGED,)), ("O", (TAGGED,)), ("W", (Write("the tag"),))),
        losses=1,
    ),
    "loaders_that_raise": Scenario(
        "Readers of R and O wait for one load; loaders may raise.",
        "RO", "O", (("R", (READ,)), ("R", (READ,)), ("O", (READ,)), ("O", (WRITE,))),
        failures=3,
    ),
    "links_that_lose": Scenario(
        "Frames between R and O are lost; time passes until their time-outs.",
        "RO", "O", (("R", (READ, READ)), ("O", (WRITE,))),
        resets=2, lengths=(FETCH_TIMEOUT, 1.1),
    ),
    "a_silent_reader_is_waited_out": Scenario(
        "R holds a copy, hears late or nothing, and its clock is slow; O invalidates, and waits for R's lease to end.",
        "RO", "O", (("R", (READ,)), ("O", (WRITE,))), prepared=(("R", READ),),
        settings=SHIPPED, losses=1, lengths=(HALF, ALMOST - HALF, HALF + 0.4), slow="R",
    ),
    "an_old_value_comes_late": Scenario(
        "O's answer to R is under way while O waits for R's lease to end.",
        "RO", "O", (("R", (READ,)), ("O", (WRITE,))), prepared=(("O", READ),),
        settings=SHIPPED, lengths=(HALF, HALF),
    ),
    "a_load_that_outlives_the_lease": Scenario(
        "A load of R is under way all the while that O waits for R's lease to end; then another reader begins.",
        "RO", "O", (("R", (READ,)), ("R", (READ,)), ("O", (WRITE,))),
        settings=SHIPPED, lengths=(LEASE,),
    ),
    "an_owner_that_is_behind": Scenario(
        "R loads under a token; neither it nor O, the owner, hears what W invalidates, until their leases end.",
        "ROW", "O", (("R", (READ,)), ("R", (READ,)), ("W", (WRITE,))),
        opening=(
            ("begin", 0), ("deliver", (0, 1, LINK)), ("deliver", (1, 0, ANSWERS)), ("look", 0), ("begin", 2),
            ("pass", LEASE),
        ),
        settings=SHIPPED, lengths=(LEASE,),
    ),
    "a_value_of_an_owner_that_is_behind": Scenario(
        "R has heard, and forgotten by now, what O, the owner, never heard; both may serve for long while behind.",
        "ROW", "O", (("W", (ANNOUNCE,)), ("R", (READ, READ))), prepared=(("O", READ),),
        opening=(
            ("begin", 0), ("deliver", (2, 0, BUS)), ("pass", FORGOTTEN), ("wake", 0), ("pass", FORGOTTEN), ("wake", 0),
        ),
        settings=SHIPPED._replace(max_stale=15.0),
    ),
    "a_member_that_is_forgotten": Scenario(
        "R holds a copy, and never hears what O has announced; both forget each other.",
        "RO", "O", (("O", (WRITE,)), ("R", (READ,))), prepared=(("R", READ),), opening=(("begin", 0),),
        settings=SHIPPED._replace(forget_after=4.0), lengths=(2.9, 2.9),
    ),
    "a_joiner_reads": Scenario(
        "J joins O, and reads, while O reads and invalidates.",
        "OJ", "O", (("O", (READ, WRITE)), ("J", (Start(), READ, READ))),
        losses=1, lengths=(FETCH_TIMEOUT,),
    ),
    "a_joiner_reads_what_others_invalidate": Scenario(
        "J joins O and W, and reads, while W invalidates what O owns.",
        "OWJ", "O", (("W", (WRITE,)), ("J", (Start(), READ))), prepared=(("O", READ),),
    ),
    "a_joiner_owns_the_key": Scenario(
        "J joins O, and is the owner of the key from then on, while O reads and invalidates.",
        "OJ", "J", (("O", (READ, WRITE, READ)), ("J", (Start(), READ))),
        losses=1,
    ),
    "a_joiner_that_one_member_knows": Scenario(
        "R holds a value; J meets O only, and invalidates.",
        "ROJ", "R", (("J", (Start(), WRITE)), ("R", (READ,))), prepared=(("R", READ),),
        meets="O", lengths=(FETCH_TIMEOUT,),
    ),
    "a_joiner_whose_acquaintance_dies": Scenario(
        "R holds a value; J meets O only, which dies, and invalidates.",
        "ROJ", "R", (("J", (Start(), WRITE)), ("R", (READ,))), prepared=(("R", READ),),
        meets="O", mortal="O",
    ),
    "a_writer_that_dies_after_announcing": Scenario(
        "W announces a change, waits for nobody, and dies; R and O may have missed it.",
        "ROW", "O", (("W", (ANNOUNCE,)), ("R", (READ,))), prepared=(("R", READ),),
        mortal="W", losses=2, lengths=(FETCH_TIMEOUT,),
    ),
    "an_owner_that_dies": Scenario(
        "O, the owner, dies while R reads and W invalidates.",
        "ROW", "O", (("R", (READ,)), ("W", (WRITE,))),
        mortal="O", lengths=(FETCH_TIMEOUT,),
    ),
    "a_successor_in_the_same_seat": Scenario(
        "R holds a copy; O announces a change, and dies; S starts in its seat, and announces another.",
        "ORS", "S", (("O", (ANNOUNCE,)), ("R", (READ,)), ("S", (Start(), WRITE))), prepared=(("R", READ),),
        opening=(("begin", 0), ("die", 0, "what it sent arrives")), mortal="O", successor="S", losses=1,
    ),
}  # fmt: skip
