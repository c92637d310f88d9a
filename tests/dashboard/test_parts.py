"""What the dashboard is made of: history, charts, words, the walk over the shelf, findings, sessions."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from colocache import Cache
from colocache.core.host.scores import COLUMNS
from colocache.dashboard import charts, words
from colocache.dashboard.findings import findings
from colocache.dashboard.history import AGE, EVERY, MOST, SPACES, History, Line, Sample, rate, together
from colocache.dashboard.markup import Markup, tag
from colocache.dashboard.model import AT_ONCE, FOUND, Walk, search, spread
from colocache.group_stats import HostStats, ProcessStats, SpaceStats
from colocache.hosts import HostInfo
from colocache.stats import IN_COLUMNS, TIMES_AT


def sample(time: float, reads: int = 0, found: int = 0, worth: float = 0.0) -> Sample:
    line = Line(reads, found, reads - found, (reads - found) * worth, worth)
    return Sample(time, line, {"a": line})


# --- History


def test_a_history_has_a_bound_and_keeps_its_newest_samples() -> None:
    history, chance = History(), random.Random(7)
    at = 1000.0
    for number in range(5000):
        at += EVERY + chance.random()
        history.add(sample(at, number))
        assert len(history.samples) <= MOST
    times = [each.time for each in history.samples]
    assert times == sorted(times)
    assert times[-1] == at
    assert all(later - sooner < 2 * EVERY for sooner, later in zip(times[-50:], times[-49:], strict=False))
    assert at - AGE <= times[0] < at - 1000


def test_samples_that_come_too_soon_are_left_out_and_a_new_beginning_forgets_all() -> None:
    history = History()
    for at, reads in ((10, 5), (10.5, 6), (12, 7)):
        history.add(sample(at, reads))
    assert [each.time for each in history.samples] == [10, 12]
    history.add(sample(14, 3))  # the group has begun anew
    assert [each.time for each in history.samples] == [14]
    history.add(sample(9, 4))  # the clock was put back
    assert [each.time for each in history.samples] == [9]


def test_a_rate_is_what_has_happened_between_two_samples() -> None:
    happened = rate(sample(10, 100, 50, 0.5), sample(14, 300, 230, 0.25))
    assert happened is not None
    assert (happened.reads, happened.ratio, happened.saved, happened.loads) == (50, 0.9, 180 * 0.25 / 4, 5)
    assert rate(sample(10, 5), sample(10, 6)) is None
    assert rate(sample(10, 5), sample(12, 4)) is None
    quiet = rate(sample(10, 5), sample(12, 5))
    assert quiet is not None
    assert (quiet.ratio, quiet.load_time) == (None, None)
    assert rate(sample(10, 5), sample(12, 6), "b") == rate(sample(10), sample(12))


def test_a_namespace_that_a_full_sample_has_left_out_is_not_known() -> None:
    many = {str(number): Line(1) for number in range(SPACES)}
    assert Sample(1, Line(), many).line("x") is None
    assert Sample(1, Line(), {}).line("x") == Line()
    assert rate(Sample(1, Line(), many), Sample(2, Line(), {"x": Line(9)}), "x") is None


def test_what_a_found_read_is_worth_is_the_mean_of_all() -> None:
    both = together([Line(10, 10, 0, 0, 1.0), Line(30, 30, 0, 0, 0.2)])
    assert both.found == 40
    assert both.found * both.worth == pytest.approx(10 * 1.0 + 30 * 0.2)
    assert together([]) == Line()


# --- Charts and words


def test_the_edge_of_a_chart_is_a_round_number_above_all() -> None:
    chance = random.Random(1)
    for _ in range(1000):
        most = 10 ** chance.uniform(-5, 9)
        edge = charts.top("reads", [most / 2, most])
        assert most <= edge * 1.000001
        assert edge <= 5.000001 * most
        assert f"{edge:e}"[0] in "1259"
    assert charts.top("ratio", [0.2]) == 1
    assert charts.top("saved", []) == 1


def test_a_line_goes_from_the_left_to_the_right() -> None:
    line, area = charts.lines([(10, 0.0), (15, 0.5), (20, 1.0)], 1.0)
    assert line == "M0.0,120.0L300.0,60.0L600.0,0.0"
    assert area == line + "L600,120L0,120Z"
    assert charts.lines([(10, 0.5)], 1.0)[0] == "M0.0,60.0L600.0,60.0"
    assert charts.lines([], 1.0) == ("", "")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "\u2013"), (0, "0 s"), (4e-6, "4 µs"), (0.0031, "3.1 ms"), (0.25, "250 ms"), (0.9999, "1.0 s"),
     (5, "5.0 s"), (600, "10 min"), (7300, "2 h"), (9e5, "10 d"), (float("inf"), "> 10 s")],
)  # fmt: skip
def test_durations_are_short(seconds: float | None, shown: str) -> None:
    assert words.duration(seconds).replace("\u202f", " ") == shown


def test_numbers_are_short() -> None:
    shown = [
        words.size(3 << 19),
        words.size(5),
        words.number(1234567),
        words.rate(0.44),
        words.rate(12.4),
        words.share(1),
    ]
    assert [each.replace("\u202f", " ") for each in shown] == ["1.5 MiB", "5 B", "1 234 567", "0.4", "12", "100.0 %"]
    assert words.plural(1, "process", "processes") == "1 process"


def test_names_hide_nothing() -> None:
    assert words.name("a\u202eb\x00\x1b\ud800") == r"a\u202eb\x00\x1b\ud800"
    assert len(words.name("x" * 5000)) <= words.MOST_LETTERS
    assert (words.space(""), words.space("/")) == ("(no namespace)", "(all others)")


def test_what_is_no_markup_is_escaped() -> None:
    assert tag("p", "<b>", ["&", None, False, 7], tag("br"), class_='"x"', hidden=True, data_of=None) == (
        '<p class="&quot;x&quot;" hidden>&lt;b&gt;&amp;7<br></p>'
    )
    assert isinstance(tag("p", "x"), Markup)


# --- The shelf


@pytest.mark.parametrize("ways", [1, 256, 257, 8192, 100_000])
def test_a_walk_sees_everything_once(ways: int) -> None:
    seen = [*spread(ways)]
    assert sorted(seen) == [*range(0, ways, AT_ONCE)]
    half = [each < ways / 2 for each in seen[: len(seen) // 4]]
    assert not half or abs(sum(half) - len(half) / 2) <= 1  # its beginning lies everywhere


def test_memory_is_what_the_values_of_each_namespace_take(ready: Cache) -> None:
    for path, count in (("a", 30), ("a/b", 20), ("c", 5)):
        space = ready.namespace(path)
        for number in range(count):
            space.set((number,), b"x" * 100)
    ready.namespace("c").invalidate((0,))
    entries = [*ready.entries()]
    with ready._member.view() as view:
        memory = Walk().go_on(view, 60.0, 1000.0)
        assert memory.part == 1
        assert {path: usage.values for path, usage in memory.spaces.items()} == {"a": 30, "a/b": 20, "c": 4}
        assert [*memory.spaces] == ["a", "a/b", "c"]
        assert memory.within("a").bytes == sum(each.size for each in entries if each.namespace != "c")

        walk, looks = Walk(), 0
        while walk.memory.part < 1:
            walk.go_on(view, 0.0, 1000.0)
            looks += 1
        assert looks == -(-view.shelf.ways // AT_ONCE)
        assert walk.memory == memory
        ready.clear()
        assert walk.go_on(view, 60.0, 1001.0) == memory  # it is still fresh
        assert walk.go_on(view, 60.0, 1011.0).spaces == {}


def test_a_search_says_whether_that_was_all(ready: Cache) -> None:
    for number in range(FOUND + 20):
        ready.set(f"key {number}", 1)
    with ready._member.view() as view:
        one = search(view, "", "key 7", 60.0)
        assert {each.name for each in one.keys} == {"key 7", *[f"key 7{digit}" for digit in range(10)]}
        assert (one.part, one.is_whole) == (1, True)
        many = search(view, "", "", 60.0)
        assert (len(many.keys), many.is_whole) == (FOUND, False)
        short = search(view, "", "key 7", 0.0)
        assert (short.part < 1, short.is_whole) == (True, False)


# --- Findings

NOW = 10_000.0


def counted(**counts: int) -> SpaceStats:
    columns = [0] * COLUMNS
    for name, count in counts.items():
        columns[TIMES_AT if name == "timed" else IN_COLUMNS.index(name)] = count
    return SpaceStats.of(columns)


def host(*, spaces: dict[str, SpaceStats] | None = None, processes: int = 2, taken: int = 10) -> HostStats:
    several = [
        ProcessStats(seat, 100 + seat, "peer", "1", True, NOW - 60, NOW, 1, 1, 100, counted())
        for seat in range(processes)
    ]
    return HostStats("", True, tuple(several), spaces or {}, 1, taken, 100)


def test_nothing_is_said_of_a_group_that_is_well() -> None:
    assert findings(NOW, host(spaces={"a": counted(hits=9000, loads=10, timed=10)}), ()) == []


def other(state: str) -> HostInfo:
    return HostInfo("b", "10.0.0.2:1", "1", 1, state, 0.1, 0.1, False)


@pytest.mark.parametrize(
    ("level", "text", "found"),
    [
        ("error", "No process of the group lives", host(processes=0)),
        ("warning", "1 process has shown nothing", replace(host(), processes=(
            replace(host().processes[0], seen=NOW - 60), host().processes[1]))),
        ("note", "several versions", replace(host(), processes=(
            host().processes[0], replace(host().processes[1], version="2")))),
        ("warning", "3 of 3 processes that have ended", replace(host(), processes=(
            host().processes[0], *[replace(each, is_alive=False) for each in host(processes=3).processes]))),
        ("error", "1 invalidation was not complete", host(spaces={"": counted(incomplete=1)})),
        ("warning", "2 writes were given up", host(spaces={"a": counted(busy=2)})),
        ("warning", "1 value was too large", host(spaces={"a": counted(oversize=1)})),
        ("note", "The shelf is full", host(taken=98)),
        ("warning", "of the loads were made without", host(spaces={"a": counted(hits=9999, loads=300, fallbacks=30)})),
        ("warning", "of the loads of a raise", host(spaces={"a": counted(hits=999, loads=20, failed_loads=2)})),
        ("note", "a finds only 10.0\u202f%", host(spaces={"a": counted(hits=30, loads=270, timed=270)})),
    ],
)  # fmt: skip
def test_what_deserves_a_look_is_found_and_has_a_remedy(level: str, text: str, found: HostStats) -> None:
    (finding,) = findings(NOW, found, (other("live"),))
    assert finding.level == level
    assert text in finding.text
    assert finding.remedy


@pytest.mark.parametrize("state", ["silent", "forgotten", "behind"])
def test_a_host_that_is_not_well_is_found(state: str) -> None:
    (finding,) = findings(NOW, host(), (other(state),))
    assert finding.text == f"The host b is {state}."


def test_the_worst_comes_first() -> None:
    found = findings(NOW, host(taken=99, spaces={"": counted(incomplete=1, busy=1)}), ())
    assert [each.level for each in found] == ["error", "warning", "note"]
