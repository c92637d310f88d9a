"""What the processes of a host count, as the others see it: with real processes, which are killed and replaced."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from colocache import Cache
from colocache import host as host_module
from colocache.core.host.scores import COLUMNS, OTHERS, SIZE, Block, first_part
from colocache.host import PUBLISH_IDLE, Shared
from colocache.runtime import region as region_module
from colocache.runtime import scores_file
from colocache.runtime.bus import PUBLISH_SOON
from colocache.runtime.region import Region, Seat
from colocache.runtime.region_files import SCORES
from colocache.stats import IN_COLUMNS, LOAD_TIMES, TIMES_AT
from tests import ROOT
from tests.conftest import NewCache, Until
from tests.runtime.agents import Agent, StartAgent, agents

CAPACITY = 2 << 20

OTHER = """
from resource import RLIMIT_FSIZE, RLIM_INFINITY, setrlimit

from colocache import Cache
from colocache.runtime.region import Region
from colocache.runtime.region_files import SCORES

def join(base, patience=30.0):
    global region
    region = Region.join("test", base, 2 << 20, patience=patience)
    return region.seat.number

def scoreboard(region):
    with region.all_scores() as scores:
        return [(seat, lives, scores.block(seat.number)) for seat, lives in region.seats_ever()]

def count(name, *first):
    row = region.scores.row(name)
    return region.scores.add(row, [*first, *[0] * (40 - len(first))], [0] * 40)

def use():
    global cache
    cache = Cache("test")
    cache.start()
    return cache._member.own_host().region.seat.number

def work(namespace, loads, hits):
    space = cache.namespace(namespace)
    for number in range(loads):
        for _ in range(1 + hits):
            space.get_or_load(str(number), lambda: "value")

def publish():
    cache._member.own_host()._shared.publish()

def shown():
    "What this process sees: of each seat, whether it lives, and what all that ever had it have counted."
    board = scoreboard(cache._member.own_host().region)
    return [(lives, sum(row.counts[1] for row in block.rows)) for _, lives, block in board]
"""

LOADS, HITS = IN_COLUMNS.index("loads"), IN_COLUMNS.index("hits")


@pytest.fixture
def agent() -> Iterator[StartAgent]:
    with agents(OTHER) as start:
        yield start


@pytest.fixture
def here(run_dir: str) -> Iterator[Callable[..., Region]]:
    """Joins the region in this process, and leaves it in the end."""

    def join() -> Region:
        return Region.join("test", run_dir, CAPACITY, patience=30.0)

    yield join
    for region in list(region_module._process.regions.values()):
        region.leave()


def scoreboard(region: Region) -> list[tuple[Seat, bool, Block]]:
    with region.all_scores() as scores:
        return [(seat, lives, scores.block(seat.number)) for seat, lives in region.seats_ever()]


def count(region: Region, name: str, *first: int) -> None:
    region.scores.add(region.scores.row(name), [*first, *[0] * (COLUMNS - len(first))], [0] * COLUMNS)


def sums(board: list[tuple[Seat, bool, Block]], column: int = 0) -> dict[str, int]:
    """What was counted in a column, by namespace, by all processes that ever were."""
    found: dict[str, int] = {}
    for _, _, block in board:
        for row in block.rows:
            found[row.name] = found.get(row.name, 0) + row.counts[column]
    return {name: total for name, total in found.items() if total}


def own(block: Block, column: int = 0) -> dict[str, int]:
    """What the process of a block has counted in a column, by namespace."""
    found = {row.name: row.counts[column] - row.base[column] for row in block.rows}
    return {name: total for name, total in found.items() if total}


def shared_of(cache: Cache) -> Shared:
    host = cache._member.own_host()
    assert host is not None
    return host._shared


# --- Several processes


def test_everybody_reads_what_everybody_counts(here: Callable[..., Region], run_dir: str, agent: StartAgent) -> None:
    region, others = here(), [agent() for _ in range(2)]
    for number, each in enumerate(others, 1):
        assert each("join(base)", base=run_dir) == number
        each(f"(count('users', {number}, 7), count('space of {number}', 5))")
    count(region, "users", 10)
    board = scoreboard(region)
    assert [(seat.number, lives, block.pid) for seat, lives, block in board] == [
        (number, True, pid) for number, pid in enumerate([os.getpid(), *(each.pid for each in others)])
    ]
    assert [seat.nonce for seat, _, _ in board] == [block.nonce for _, _, block in board]
    assert [own(block) for _, _, block in board] == [
        {"users": 10},
        {"users": 1, "space of 1": 5},
        {"users": 2, "space of 2": 5},
    ]
    assert sums(board, 1) == {"users": 14}
    theirs = others[0]("[[(row.name, row.counts[0]) for row in block.rows] for _, _, block in scoreboard(region)]")
    assert theirs == [[(row.name, row.counts[0]) for row in block.rows] for _, _, block in board]


def test_sums_never_shrink_whoever_is_killed_or_leaves_and_whoever_comes(
    here: Callable[..., Region], run_dir: str, agent: StartAgent
) -> None:
    region, killed, leaving = here(), agent(), agent()
    for each in (killed, leaving):
        each("join(base)", base=run_dir)
    killed("count('users', 5)")
    leaving("count('users', 3)")
    nonce, pid = killed("region.seat.nonce"), killed.pid
    killed.kill()
    leaving("region.leave()")
    board = scoreboard(region)
    assert sums(board) == {"users": 8}
    assert [(lives, block.pid) for _, lives, block in board] == [
        (True, os.getpid()),
        (False, pid),
        (False, leaving.pid),
    ]
    assert own(board[1][2]) == {"users": 5}, "the figures of the dead stay"
    assert (board[1][0].nonce, board[1][2].nonce) == (nonce, nonce)
    assert board[2][0].nonce == 0, "whoever leaves gives the seat back"
    successors = [agent() for _ in range(2)]
    for number, each in enumerate(successors, 1):
        assert each("join(base)", base=run_dir) == number
    board = scoreboard(region)
    assert sums(board) == {"users": 8}, "until the seat is taken again, and then they count on"
    assert [own(block) for _, _, block in board] == [{}] * 3
    assert [block.pid for _, _, block in board[1:]] == [each.pid for each in successors]
    successors[0]("count('users', 1)")
    assert sums(scoreboard(region)) == {"users": 9}
    assert own(scoreboard(region)[1][2]) == {"users": 1}


def test_a_crash_loop_shrinks_no_sum(here: Callable[..., Region], run_dir: str) -> None:
    region, seen = here(), 0
    for number in range(1, 40):
        child = os.fork()
        if not child:
            try:
                joined = Region.join("test", run_dir, CAPACITY)
                count(joined, f"space {number % 7}", 2)
            finally:
                os.kill(os.getpid(), 9)
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            total = sum(sums(scoreboard(region)).values())
            assert seen <= total <= 2 * number
            seen = total
        assert sum(sums(scoreboard(region)).values()) == 2 * number
    assert len(scoreboard(region)) == 2
    assert len(scoreboard(region)[1][2].rows) == 1 + 7


def test_when_all_have_gone_the_board_begins_anew(here: Callable[..., Region], run_dir: str, agent: StartAgent) -> None:
    one = agent()
    one("join(base)", base=run_dir)
    one("count('users', 5)")
    one.kill()
    region = here()
    assert sums(scoreboard(region)) == {}
    count(region, "users", 5)
    region.leave()
    assert sums(scoreboard(here())) == {}


def test_more_rows_than_have_memory_at_first(here: Callable[..., Region], run_dir: str, agent: StartAgent) -> None:
    region, other = here(), agent()
    other("join(base)", base=run_dir)
    other("[count(f'space {number}', 1) for number in range(300)]")
    found = sums(scoreboard(region))
    assert sum(found.values()) == 300
    assert found["space 200"] == 1
    assert found[OTHERS] > 1
    size = os.stat(f"{run_dir}/test/{SCORES}")
    assert size.st_size == 2 * SIZE
    assert size.st_blocks * 512 >= SIZE + first_part()[1], "what was stored to has its memory"


def test_events_and_tags_of_all_are_read(here: Callable[..., Region], run_dir: str, agent: StartAgent) -> None:
    region, other = here(), agent()
    other("join(base)", base=run_dir)
    other("(region.scores.note_event(3, 5, 1, 'user:5', 77), region.scores.note_tag(9, 'a tag'))")
    region.scores.note_event(4, 6, 2, "ours", 78)
    with region.all_scores() as found:
        assert [[(each.pid, each.text) for each in found.events(seat)] for seat in range(3)] == [
            [(os.getpid(), "ours")],
            [(other.pid, "user:5")],
            [],
        ]
        assert found.events(1, after=1) == []
        assert (found.tag(9), found.tag(10)) == ("a tag", None)


# --- Alone, forked, gone


def test_whoever_is_alone_sees_itself() -> None:
    region = Region.private(CAPACITY)
    count(region, "users", 3)
    ((seat, lives, block),) = scoreboard(region)
    assert (seat, lives, block.pid) == (region.seat, True, os.getpid())
    assert own(block) == {"users": 3}


def test_whoever_has_left_sees_itself_and_is_said_not_to_live(here: Callable[..., Region]) -> None:
    region = here()
    count(region, "users", 3)
    region.leave()
    ((_, lives, block),) = scoreboard(region)
    assert not lives
    assert own(block) == {"users": 3}


def test_where_another_thread_closes_the_files_meanwhile_that_is_an_error_of_the_system(
    here: Callable[..., Region],
) -> None:
    region = here()
    held = region._files.held  # type: ignore[union-attr]
    number = held[SCORES]
    held.pop(SCORES)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        region.all_scores()
    held[SCORES] = number


@pytest.mark.parametrize("fork", ["os.fork", "fork_past_python"])
def test_a_child_counts_for_itself(
    here: Callable[..., Region], run_dir: str, agent: StartAgent, fork: str, until: Until
) -> None:
    region, parent = here(), agent()
    assert parent("use()") == 1
    parent("work('users', 3, 2)")
    parent("publish()")
    child = parent(f"go_on_in_child({fork})")
    before = scoreboard(region)
    assert (sums(before, LOADS), sums(before, HITS)) == ({"users": 3}, {"users": 6})
    assert parent("(cache.stats().loads, cache.stats().hits)") == (0, 0)
    parent("work('posts', 2, 1)")
    parent("publish()")
    board = scoreboard(region)
    assert [block.pid for _, _, block in board] == [os.getpid(), parent.pid, child]
    assert [own(block, LOADS) for _, _, block in board] == [{}, {"users": 3}, {"posts": 2}]
    assert [own(block, HITS) for _, _, block in board] == [{}, {"users": 6}, {"posts": 2}]


# --- No room


def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(scores_file, "allocate", full)


def test_without_room_for_its_block_a_process_joins_and_counts_for_itself(
    here: Callable[..., Region], run_dir: str, agent: StartAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = agent()
    other("join(base)", base=run_dir)
    other("count('users', 5)")
    with monkeypatch.context() as patched:
        no_room(patched)
        region = here()
    count(region, "users", 1)
    assert [own(block) for _, _, block in scoreboard(region)] == [{"users": 5}, {"users": 1}]
    theirs = other("[(seat.pid, lives, len(block.rows), block.nonce) for seat, lives, block in scoreboard(region)]")
    assert theirs == [(other.pid, True, 2, other("region.seat.nonce")), (os.getpid(), True, 0, 0)]
    third = agent()
    assert third("join(base)", base=run_dir) == 2
    third("count('users', 9)")
    assert [own(block) for _, _, block in scoreboard(region)] == [{"users": 5}, {"users": 1}, {"users": 9}]
    assert other("[len(block.rows) for _, _, block in scoreboard(region)]") == [2, 0, 2], "between the two is a hole"


def test_without_room_for_more_rows_others_count_together(
    here: Callable[..., Region], monkeypatch: pytest.MonkeyPatch
) -> None:
    region = here()
    no_room(monkeypatch)
    for number in range(50):
        count(region, f"space {number}", 1)
    found = sums(scoreboard(region))
    assert (sum(found.values()), found[OTHERS]) == (50, 19)


def test_the_longest_file_of_a_process_limits_its_block(
    here: Callable[..., Region], run_dir: str, agent: StartAgent
) -> None:
    """It joins a region that others have made."""
    region, other = here(), agent()
    other(f"setrlimit(RLIMIT_FSIZE, ({SIZE}, RLIM_INFINITY))")
    assert other("join(base)", base=run_dir) == 1
    other("count('users', 5)")
    assert other("[block.rows[1].counts[0] for seat, _, block in scoreboard(region)[1:]]") == [5]
    assert [len(block.rows) for _, _, block in scoreboard(region)] == [1, 0]
    assert os.path.getsize(f"{run_dir}/test/{SCORES}") == SIZE


def test_on_a_full_disk_nobody_dies_of_a_look_at_the_board(run_dir: str) -> None:
    """A tmpfs that is really full, in a mount namespace of its own: there a look at a hole is the end of a process."""
    program = (
        OTHER
        + """
import os, sys
base = sys.argv[1]
join(base)
count("users", 5)
filler = os.open(base + "/filler", os.O_CREAT | os.O_WRONLY)
while True:
    try:
        os.write(filler, bytes(4096))
    except OSError:
        break
read, write = os.pipe()
child = os.fork()
if not child:
    second_region = Region.join("test", base, 2 << 20)
    row = second_region.scores.row("users")
    second_region.scores.add(row, [1] * 40, [0] * 40)
    own = [[each.counts[0] for each in block.rows] for _, _, block in scoreboard(second_region)]
    os.write(write, repr((second_region.seat.number, own)).encode())
    os.read(os.open(base + "/never", os.O_RDONLY), 1)
print(os.read(read, 1000).decode())
print([[each.counts[0] for each in block.rows] for _, _, block in scoreboard(region)])
os.kill(child, 9)
"""
    )
    path = f"{run_dir}/full"
    os.mkdir(path, 0o700)
    script = f'mount -t tmpfs -o size=64m,mode=700 none {path} && mkfifo {path}/never && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "x", sys.executable, "-c", program, path]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    if done.returncode and ("unshare" in done.stderr or "mount" in done.stderr):
        pytest.skip("needs the right to mount")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["(1, [[0, 5], [0, 1]])", "[[0, 5], []]"]


# --- Caches


def test_a_cache_shows_what_it_has_counted(cache: Cache) -> None:
    space = cache.namespace("users")
    for key in "abc":
        for _ in range(3):
            space.get_or_load(key, lambda: "value")
    cache.get("nothing")
    shared_of(cache).publish()
    ((_, _, block),) = scoreboard(shared_of(cache).region)
    assert own(block, LOADS) == {"users": 3}
    assert own(block, HITS) == {"users": 6}
    assert own(block, IN_COLUMNS.index("misses")) == {"": 1}
    stats = cache.stats()
    assert block.gauges[:3] == (stats.entries, stats.bytes, cache._member.config.memory)
    assert stats.entries == 3


def test_what_was_counted_before_a_cache_leaves_is_shown(here: Callable[..., Region], new_cache: NewCache) -> None:
    region, one, other = here(), new_cache(), new_cache()
    for each in (one, other):
        each.get_or_load("k", lambda: "value")
        each.get("k")
    one.close()
    assert sums(scoreboard(region), LOADS) == {"": 1}
    other.get_or_load("k2", lambda: "value")
    other.close()
    assert sums(scoreboard(region), LOADS) == {"": 2}
    found = sums(scoreboard(region), HITS)[""] + sums(scoreboard(region), IN_COLUMNS.index("fetches"))[""]
    assert found == 3
    assert scoreboard(region)[0][2].gauges[:3] == (0, 0, 0), "nothing is near any more"


def test_nothing_is_shown_by_who_has_left(here: Callable[..., Region], new_cache: NewCache) -> None:
    """The seat may be a successor's by then."""
    region, cache = here(), new_cache()
    cache.get_or_load("k", lambda: "value")
    shared = shared_of(cache)
    cache.close()
    cache._member.counters.loads += 7  # a call that was under way
    written = scoreboard(region)[0][2].written
    assert shared.publish() == (PUBLISH_SOON, PUBLISH_IDLE)
    assert sums(scoreboard(region), LOADS) == {"": 1}
    assert scoreboard(region)[0][2].written == written


def test_what_a_cache_counts_in_its_next_life_is_added_once(cache: Cache) -> None:
    cache.get_or_load("k", lambda: "value")
    shared_of(cache).publish()
    first = shared_of(cache)
    cache.leave()
    cache.get_or_load("k", lambda: "value")
    assert shared_of(cache) is not first
    shared_of(cache).publish()
    assert sums(scoreboard(shared_of(cache).region), LOADS) == {"": 1}, "since it has joined"
    assert cache.stats().loads == 2


def test_classes_of_load_times_are_shown(new_cache: NewCache, monkeypatch: pytest.MonkeyPatch) -> None:
    from colocache.operations import load

    cache, instants = new_cache(private=True), [0.0, 0.02, 10.0, 10.3, 20.0, 80.0]
    monkeypatch.setattr(load, "monotonic", lambda: instants.pop(0))
    for key in "abc":
        cache.get_or_load(key, lambda: "value")
    shared_of(cache).publish()
    ((_, _, block),) = scoreboard(shared_of(cache).region)
    (row,) = [row for row in block.rows if row.name == ""]
    assert row.counts[TIMES_AT:] == tuple(int(place in (4, 8, 13)) for place in range(len(LOAD_TIMES) + 1))
    assert row.counts[IN_COLUMNS.index("load_seconds")] == pytest.approx(60.32e9)


def test_what_all_caches_of_a_process_count_between_hosts_is_shown_once(cache: Cache) -> None:
    cache.start()
    shared = shared_of(cache)
    shared.hosts = SimpleNamespace(hedging=SimpleNamespace(hedged=3, won=1))  # type: ignore[assignment]
    try:
        shared.publish()
        shared.hosts.hedging.hedged = 5  # type: ignore[union-attr]
        shared.publish()
        shared.publish()
    finally:
        shared.hosts = None
    board = scoreboard(shared.region)
    assert sums(board, IN_COLUMNS.index("hedged")) == {"": 5}
    assert sums(board, IN_COLUMNS.index("hedges_won")) == {"": 1}


def test_figures_are_shown_soon_while_something_is_counted_and_seldom_otherwise(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.get_or_load("k", lambda: "value")
    shared, instants = shared_of(cache), list[float]()
    monkeypatch.setattr(host_module, "thread_time", lambda: instants.pop(0) if instants else 0.0)
    shared.publish()
    assert shared.publish() == (PUBLISH_SOON, PUBLISH_IDLE), "soon, if anything happens"
    cache._member.counters.loads += 1
    assert shared.publish() == (PUBLISH_SOON, PUBLISH_SOON)
    instants += [100.0, 100.005]
    assert shared.publish() == (pytest.approx(2.5), PUBLISH_IDLE), "it may take 2 ms of each second"
    instants += [100.0, 100.1]
    assert shared.publish() == (pytest.approx(50.0), pytest.approx(50.0)), "where there is much to look at, less often"


def test_what_processes_count_reaches_the_others_by_itself(
    here: Callable[..., Region], agent: StartAgent, until: Until
) -> None:
    region, others = here(), [agent() for _ in range(2)]
    for each in others:
        each("use()")
        each("work('users', 3, 0)")
    until(lambda: sum(row.counts[LOADS] for _, _, block in scoreboard(region) for row in block.rows) >= 3)
    others[0].kill()
    before = sums(scoreboard(region), LOADS)
    successor: Agent = agent()
    successor("use()")
    successor("work('posts', 5, 0)")
    until(lambda: sums(scoreboard(region), LOADS).get("posts") == 5)
    assert sums(scoreboard(region), LOADS)["users"] >= before["users"]
