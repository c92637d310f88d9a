"""The demo's own parts, without processes: its judge, its load, its figures, its database and its application.

The modules are those of ``examples/demo``, imported by the names that they have there (see ``pythonpath`` in
pyproject.toml).
"""

from __future__ import annotations

import io
import json
import random
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

import build
import pages
from check import Checker, Stale
from database import Database
from load import Unanswered, Visitor, Workers, Zipf, catalogue
from report import SEVERAL_LOADS, Phase, lines, percentile, summary, table

LATIN = range(0x250)  # holds every case: control characters, decompositions, numbers, all widths of words


# --- the judge


def test_an_answer_older_than_an_acknowledged_write_is_stale() -> None:
    checker = Checker()
    checker.write_sent()
    checker.acknowledge({"/char/0041": 1})
    assert not checker.judge("/char/0041", checker.floor("/char/0041"), 0)
    assert checker.stale == [Stale("/char/0041", shown=0, acknowledged=1)]


def test_a_write_that_is_not_yet_answered_binds_nobody_and_may_be_seen() -> None:
    checker = Checker()
    checker.write_sent()
    assert checker.judge("/char/0041", checker.floor("/char/0041"), 0)
    assert checker.judge("/char/0041", checker.floor("/char/0041"), 1)
    assert not checker.stale


def test_an_answer_is_judged_by_the_floor_at_its_sending_not_at_its_arrival() -> None:
    checker = Checker()
    floor = checker.floor("/char/0041")
    checker.write_sent()
    checker.acknowledge({"/char/0041": 1})
    assert checker.judge("/char/0041", floor, 0)


def test_a_late_acknowledgement_of_an_older_version_does_not_lower_the_floor() -> None:
    checker = Checker()
    checker.acknowledge({"/category/Lu": 5})
    checker.acknowledge({"/category/Lu": 4, "/word/A": 1})
    assert (checker.floor("/category/Lu"), checker.floor("/word/A"), checker.floor("/word/B")) == (5, 1, 0)


def test_an_answer_that_counts_more_writes_than_were_sent_shows_a_broken_check() -> None:
    checker = Checker()
    assert not checker.judge("/char/0041", 0, 1)
    assert checker.impossible
    assert not checker.stale


# --- the load


class ScriptedClient:
    """A client that answers from a list; an exception in it is raised."""

    def __init__(self, *answers: dict[str, Any] | Exception) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[str, str, Any]] = []

    def send(self, method: str, address: str, content: object = None) -> dict[str, Any]:
        self.sent.append((method, address, content))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def visitor(client: ScriptedClient, checker: Checker) -> Visitor:
    rng = random.Random(1)
    return Visitor("visitor 1", client, checker, Zipf(["/char/0041"], rng), rng)  # type: ignore[arg-type]


def written(version: int, complete: bool = True) -> dict[str, Any]:
    return {"complete": complete, "versions": {"/char/0041": version}, "milliseconds": [1.5, 0.5]}


def test_a_read_that_the_kill_cut_off_is_sent_once_more_under_the_floor_of_then() -> None:
    checker = Checker()
    checker.write_sent()

    class Meanwhile(ScriptedClient):
        def send(self, method: str, address: str, content: object = None) -> dict[str, Any]:
            if not self.sent:
                checker.acknowledge({"/char/0041": 1})  # another visitor's, before the second try
            return super().send(method, address, content)

    reader = visitor(Meanwhile(ConnectionResetError(), {"version": 0}), checker)
    reader.read("/char/0041")
    assert reader.tally.resent == 1
    assert reader.tally.unanswered == []
    assert checker.stale == [Stale("/char/0041", shown=0, acknowledged=1)]


def test_a_read_is_not_held_to_what_was_acknowledged_while_it_was_under_way() -> None:
    checker = Checker()
    checker.write_sent()

    class Meanwhile(ScriptedClient):
        def send(self, method: str, address: str, content: object = None) -> dict[str, Any]:
            checker.acknowledge({"/char/0041": 1})
            return super().send(method, address, content)

    visitor(Meanwhile({"version": 0}), checker).read("/char/0041")
    assert (checker.judged, checker.stale) == (1, [])


def test_a_write_sent_again_carries_the_same_request() -> None:
    checker = Checker()
    client = ScriptedClient(ConnectionResetError(), written(1), written(2))
    writer = visitor(client, checker)
    writer.write("/char/0041")
    writer.write("/char/0041")
    first, again, other = (content["request"] for _, _, content in client.sent)
    assert first == again != other
    assert checker.floor("/char/0041") == 2
    assert (writer.tally.writes, writer.tally.resent, writer.tally.receipts) == (2, 1, [1.5, 0.5, 1.5, 0.5])


def test_a_write_that_not_everybody_acknowledged_is_counted_and_binds_nobody() -> None:
    checker = Checker()
    writer = visitor(ScriptedClient(written(1, complete=False)), checker)
    writer.write("/char/0041")
    assert (writer.tally.incomplete, writer.tally.receipts, checker.floor("/char/0041")) == (1, [], 0)


@pytest.mark.parametrize("answers", [[ConnectionResetError(), TimeoutError()], [Unanswered("status 500")]])
def test_a_request_without_an_answer_is_reported(answers: list[Exception]) -> None:
    reader = visitor(ScriptedClient(*answers), Checker())
    reader.read("/char/0041")
    assert len(reader.tally.unanswered) == 1
    assert reader.tally.seconds == []


def test_zipf_draws_the_nth_item_one_nth_as_often_as_the_first() -> None:
    zipf = Zipf([str(rank) for rank in range(1, 101)], random.Random(7))
    drawn = Counter(zipf.draw() for _ in range(50_000))
    for rank in (2, 4, 10):
        assert drawn["1"] / drawn[str(rank)] == pytest.approx(rank, rel=0.15)
    assert set(drawn) == set(zipf.items)


def test_zipf_stays_inside_at_both_ends() -> None:
    class Ends(random.Random):
        ends: Iterator[float] = iter((0.0, 1.0))

        def random(self) -> float:
            return next(self.ends)

    zipf = Zipf(["first", "second", "last"], Ends())
    assert (zipf.draw(), zipf.draw()) == ("first", "last")


def test_the_figures_of_a_dead_worker_stay_in_the_totals() -> None:
    workers = Workers()
    workers.note({"pid": 1, "loads": 5, "members": 2})
    workers.note({"pid": 2, "loads": 1, "members": 3})
    workers.note({"pid": 1, "loads": 4, "members": 2})  # overtaken on its way by the first
    assert workers.pids() == [1, 2]
    assert workers.totals()["loads"] == 6
    assert workers.least("members") == 2


# --- the figures


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (10, 1), (50, 5), (51, 6), (99, 10), (100, 10)])
def test_percentile_is_the_nearest_rank(percent: float, expected: float) -> None:
    assert percentile([10, 1, 9, 2, 8, 3, 7, 4, 6, 5], percent) == expected


def test_percentile_of_nothing_is_nothing() -> None:
    assert percentile([], 50) == 0.0


def test_table_aligns_its_columns() -> None:
    assert table(["", "with"], [["requests", "12,345"], ["writes", "7"]]).splitlines() == [
        "            with",
        "----------------",
        "requests  12,345",
        "writes         7",
    ]


def phase(name: str, checker: Checker, reader: Visitor, **counted: int) -> Phase:
    return Phase(name, 2.0, [reader.tally], checker, counted, [1, 1, 2, 1], [11, 12])


def test_summary_works_the_figures_out() -> None:
    checker = Checker()
    reader = visitor(ScriptedClient(*[{"version": 0}] * 10), checker)
    for _ in range(10):
        reader.read("/char/0041")
    figures = summary(phase("with", checker, reader, hits=8, fetches=1, loads=1, database_reads=7))
    assert figures["shares"] == {"hits": 0.8, "fetches": 0.1, "loads": 0.1}
    assert figures["database_reads_per_1000_requests"] == 700
    assert figures["loads_per_missing_key"] == 1.25
    assert (figures["requests_per_second"], figures["judged"], figures["stale"]) == (5, 10, 0)


def test_a_phase_is_good_only_if_all_was_answered_and_nothing_was_stale() -> None:
    def outcome(*answers: dict[str, Any] | Exception) -> Phase:
        checker = Checker()
        checker.write_sent()
        checker.acknowledge({"/char/0041": 1})
        reader = visitor(ScriptedClient(*answers), checker)
        while reader._client.answers:  # type: ignore[attr-defined]
            reader.read("/char/0041")
        return phase("with", checker, reader)

    good, stale = outcome({"version": 1}), outcome({"version": 0})
    assert good.is_good()
    assert not stale.is_good()
    assert not outcome().is_good()
    assert not outcome({"version": 1}, Unanswered("status 500")).is_good()
    assert not outcome({"version": 2}).is_good()
    assert lines(good, good)[-1] == "stale reads: 0 of 2"
    assert lines(stale, good)[-2:] == [
        "with: STALE: /char/0041 at version 0, 1 was acknowledged",
        "stale reads: 1 of 2",
    ]


def test_the_report_remarks_on_several_loads_of_one_page_with_the_cache_only() -> None:
    once = replace(phase("with", Checker(), visitor(ScriptedClient(), Checker())), loads_at_once=[1, 1])
    several = replace(once, loads_at_once=[1, 2])
    assert SEVERAL_LOADS in lines(several, once)
    assert SEVERAL_LOADS not in lines(once, several)


def test_the_report_shows_no_invalidations_of_a_phase_that_had_none() -> None:
    without = phase("without", Checker(), visitor(ScriptedClient(), Checker()))
    row = next(line for line in lines(without, without)[0].splitlines() if line.startswith("invalidations"))
    assert row.split() == ["invalidations", "acknowledged", "-", "-"]


# --- the database


@pytest.fixture(scope="module")
def latin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "data" / "latin.sqlite"
    build.build(path, LATIN)
    return path


@pytest.fixture
def database(latin: Path) -> Iterator[Database]:
    database = Database(latin)
    with database.writing() as connection:
        connection.execute("DELETE FROM annotation")
    yield database
    database.close()


def test_every_assigned_character_has_its_row(database: Database) -> None:
    rows = database.all("SELECT * FROM character")
    assert [row["char"] for row in rows] == [chr(cp) for cp in LATIN if unicodedata.category(chr(cp)) != "Cn"]
    half = next(row for row in rows if row["char"] == "½")
    assert (half["name"], half["category"], half["numeric"]) == ("VULGAR FRACTION ONE HALF", "No", 0.5)
    assert half["nfkd"] == "1\N{FRACTION SLASH}2"


def test_nothing_unfinished_is_left_beside_the_database(latin: Path) -> None:
    assert {path.suffix for path in latin.parent.iterdir()} <= {".sqlite", ".sqlite-wal", ".sqlite-shm"}


def test_a_build_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "demo.sqlite"
    path.write_text("the old one")

    def broken() -> Iterator[int]:
        yield 0x41
        raise RuntimeError("out of characters")

    with pytest.raises(RuntimeError, match="out of characters"):
        build.build(path, broken())
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("demo.sqlite", "the old one")]


def test_runs_end_at_a_gap_and_where_the_first_word_changes() -> None:
    assert build.runs_of(list("ABac")) == [["A", "B"], ["a"], ["c"]]
    assert build.runs_of(["/", "0", "1"]) == [["/"], ["0", "1"]]


def test_words_leave_the_number_of_an_ideograph_out() -> None:
    assert build.words_of("\u3abc") == {"CJK", "UNIFIED", "IDEOGRAPH"}
    assert build.words_of("é") == {"LATIN", "SMALL", "LETTER", "WITH", "ACUTE"}


def test_a_character_page_joins_its_relatives(database: Database) -> None:
    page = pages.character(database, ord("ǭ"))  # o with ogonek and macron
    assert page is not None
    assert [part["char"] for part in page["parts"]] == ["o", "ǫ"]  # the combining marks lie outside the subset
    assert page["kin"][0]["name"] == "LATIN CAPITAL LETTER O WITH OGONEK AND MACRON"
    assert [row["cp"] for row in page["neighbours"]] == list(range(ord("ǭ") - 5, ord("ǭ") + 6))
    whole = pages.character(database, ord("ǫ"))
    assert whole is not None
    assert "ǭ" in {row["char"] for row in whole["wholes"]}


def test_category_and_word_pages_count(database: Database) -> None:
    category, word = pages.category(database, "Lt"), pages.word(database, "CARON")
    assert category is not None
    assert category["characters"] == sum(unicodedata.category(chr(cp)) == "Lt" for cp in LATIN)
    assert word is not None
    assert word["uses"] == sum("CARON" in unicodedata.name(chr(cp), "") for cp in LATIN)
    assert sum(row["characters"] for row in word["categories"]) == word["uses"]


def test_what_does_not_exist_has_no_page(database: Database) -> None:
    assert pages.character(database, 0x10FFFF) is None
    assert pages.category(database, "Xx") is None
    assert pages.word(database, "COLOCACHE") is None
    assert pages.annotate(database, 0x10FFFF, "text", "request") is None


def test_a_write_promises_exactly_the_versions_that_its_pages_then_show(database: Database) -> None:
    reader = {"char": lambda text: pages.character(database, int(text, 16)),
              "category": lambda text: pages.category(database, text),
              "word": lambda text: pages.word(database, text)}  # fmt: skip
    seen: Counter[str] = Counter()
    for number, char in enumerate("éèÉé½é"):
        seen.update([f"/char/{ord(char):04X}", f"/category/{unicodedata.category(char)}"])
        seen.update(f"/word/{word}" for word in unicodedata.name(char).split())
        promised = pages.annotate(database, ord(char), "text", f"request {number}")
        assert promised is not None
        for address, version in promised["versions"].items():
            _, kind, text = address.split("/")
            page = reader[kind](text)
            assert page is not None
            assert page["version"] == version, address
        assert promised["versions"] == {address: seen[address] for address in promised["versions"]}


def test_a_request_that_comes_twice_annotates_once(database: Database) -> None:
    first = pages.annotate(database, 0x41, "text", "the same")
    assert pages.annotate(database, 0x41, "text", "the same") == first
    assert first is not None
    assert first["version"] == 1


def test_every_page_has_a_mark_of_its_own(database: Database) -> None:
    marks = [page["loaded_by"] for page in (pages.character(database, 0x41), pages.character(database, 0x41)) if page]
    assert len(set(marks)) == 2


def test_a_transaction_that_fails_writes_nothing(database: Database) -> None:
    def fail_halfway() -> None:
        with database.writing() as connection:
            connection.execute("INSERT INTO annotation VALUES (65, 1, 'text', 'request')")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        fail_halfway()
    assert database.value(pages.CHARACTER_VERSION, 65) == 0


def test_the_catalogue_reserves_pages_that_nobody_asks_for(latin: Path) -> None:
    chosen = catalogue(latin, seed=3)
    assert chosen == catalogue(latin, seed=3)
    assert chosen.popular != catalogue(latin, seed=4).popular
    assert not set(chosen.popular) & set(chosen.reserved)


# --- the application


@pytest.fixture
def app(latin: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The application module over the small database, with the cache switched off: no bus in a test of routes."""
    monkeypatch.setenv("DEMO_DATABASE", str(latin))
    monkeypatch.setenv("COLOCACHE_DISABLED", "true")
    monkeypatch.delitem(sys.modules, "app", raising=False)
    import app

    yield app
    app.cache.close()
    app.database.close()
    del sys.modules["app"]


def call(app: ModuleType, method: str, path: str, body: bytes = b"") -> tuple[str, Any]:
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, "CONTENT_LENGTH": str(len(body))}
    environ["wsgi.input"] = io.BytesIO(body)
    setup_testing_defaults(environ)
    statuses: list[str] = []
    content = b"".join(app.application(environ, lambda status, headers: statuses.append(status)))
    return statuses[0], json.loads(content)


def test_an_annotation_is_on_the_pages_that_show_it(app: ModuleType) -> None:
    status, answer = call(app, "POST", "/annotate/00E9", b'{"text": "e acute", "request": "one"}')
    assert (status, answer["version"], answer["complete"], len(answer["milliseconds"])) == ("200 OK", 1, True, 2)
    for address in ("/char/00E9", "/category/Ll", "/word/ACUTE"):
        status, page = call(app, "GET", address)
        assert (status, page["version"], answer["versions"][address]) == ("200 OK", 1, 1)
    assert call(app, "GET", "/char/00e9")[1]["annotations"] == [{"version": 1, "text": "e acute"}]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/char/0378"), ("GET", "/category/Xx"), ("POST", "/char/0041"), ("GET", "/annotate/0041")],
)
def test_what_is_not_there_is_404(app: ModuleType, method: str, path: str) -> None:
    assert call(app, method, path)[0] == "404 Not Found"


@pytest.mark.parametrize(
    ("path", "body"),
    [("/annotate/0041", b""), ("/annotate/0041", b"[]"), ("/annotate/0041", b'{"text": "x"}'),
     ("/annotate/zebra", b'{"text": "x", "request": "r"}')],
)  # fmt: skip
def test_a_request_that_says_too_little_is_told_what_to_say(app: ModuleType, path: str, body: bytes) -> None:
    status, content = call(app, "POST", path, body)
    assert status == "400 Bad Request"
    assert "such as" in content["error"]


def test_stats_say_which_worker_and_how_much_it_read(app: ModuleType) -> None:
    before = call(app, "GET", "/stats")[1]
    call(app, "GET", "/char/0041")
    after = call(app, "GET", "/stats")[1]
    assert after["pid"] == before["pid"]
    assert after["database_reads"] > before["database_reads"]
