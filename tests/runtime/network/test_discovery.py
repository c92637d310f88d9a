"""What is dialled, what counts as a silent host, and when a host that starts has met all others."""

from __future__ import annotations

from typing import Any

import pytest

from colocache.runtime.network import discovery as module
from colocache.runtime.network.answers import Absent, Failed, Found
from colocache.runtime.network.discovery import (
    AGAIN_AFTER,
    FORGET_AFTER,
    LOG_PERIOD,
    MAX_ADDRESSES,
    MAX_OF_A_HOST,
    SLOW_AFTER,
    Discovery,
)
from colocache.runtime.network.peers import MAX_ITEMS, Address, Item, Lines, ListFile, Name, Service, parse_peers

WEB, OTHER = Name("web", 7400), Name("other", 7400)
FILE, SERVICE = ListFile("/peers"), Service("_colocache._tcp.shop")
X, Y, Z = (Address(f"10.0.0.{number}", 7400) for number in (1, 2, 3))
H, K = b"host H", b"host K"


def discover(text: str = "web:7400", now: float = 0.0) -> Discovery:
    return Discovery(parse_peers(text), now)


def listed(*addresses: Address, now: float = 0.0) -> Discovery:
    """A discovery with one name, which has these addresses."""
    discovery = discover(now=now)
    answer(discovery, WEB, Found(addresses), now)
    return discovery


def answer(discovery: Discovery, item: Item, what: Any, now: float) -> None:
    discovery.due(now)
    discovery.answer(item, what, now)


def texts(discovery: Discovery, now: float) -> list[tuple[str, str, str]]:
    return [tuple(line) for line in discovery.lines(now)]


# --- What is listed


def test_addresses_are_dialled_at_once_and_names_when_they_are_looked_up() -> None:
    discovery = discover("10.0.0.1:7400,web:7400,10.0.0.3:7400")
    assert discovery.due(0) == [WEB], "an address needs no lookup"
    assert discovery.to_dial(0) == [X, Z]
    discovery.answer(WEB, Found((Y,)), 1)
    assert discovery.to_dial(1) == [X, Y, Z], "in the order of the items"


def test_an_answer_replaces_the_one_before_it() -> None:
    discovery = listed(X, Y)
    answer(discovery, WEB, Found((Y, Z)), 5)
    assert discovery.to_dial(5) == [Y, Z]


def test_an_answer_that_is_only_turned_round_changes_nothing() -> None:
    discovery = listed(X, Y, Z)
    version = discovery.version
    answer(discovery, WEB, Found((Z, X, Y)), 5)
    assert (discovery.to_dial(5), discovery.version) == ([X, Y, Z], version)


@pytest.mark.parametrize("why", [Absent("no such name"), Failed("the server fails")], ids=["absent", "failed"])
def test_a_lookup_that_fails_takes_nothing_away(why: Any) -> None:
    discovery = listed(X, Y)
    for now in range(5, 10000, 5):
        answer(discovery, WEB, why, now)
    assert discovery.to_dial(10000) == [X, Y]


def test_an_answer_that_may_lack_some_addresses_takes_nothing_away() -> None:
    discovery = discover()
    answer(discovery, WEB, Found((X,), "server failure"), 0)
    discovery.met(X, H, 0)
    assert (discovery.to_dial(0), discovery.all_met(0)) == ([X], False)
    assert texts(discovery, 0) == [
        ("warning", "web:7400", "cannot be looked up in full, and what it listed last (1) stays: server failure")
    ]
    answer(discovery, WEB, Found((X, Y)), 5)
    answer(discovery, WEB, Found((Z, X), "server failure"), 10)
    assert discovery.to_dial(10) == [X, Y, Z]
    answer(discovery, WEB, Found((Z,)), 15)
    assert discovery.to_dial(15) == [Z, X], "X was met"


def test_what_files_and_services_list_is_looked_up_in_turn() -> None:
    discovery = discover("file:/peers,other:7400")
    assert discovery.due(0) == [FILE, OTHER]
    discovery.answer(FILE, Lines((SERVICE, *parse_peers("10.0.0.3:7400"))), 0)
    discovery.answer(OTHER, Found((Y,)), 0)
    assert discovery.due(0) == [SERVICE]
    discovery.answer(SERVICE, Lines((WEB,)), 1)
    assert discovery.due(1) == [WEB]
    discovery.answer(WEB, Found((X,)), 2)
    assert discovery.to_dial(2) == [X, Z, Y]
    answer(discovery, FILE, Lines((WEB,)), 6)
    assert discovery.to_dial(6) == [X, Y], "WEB is listed elsewhere now, and what is known of it is kept"


def test_what_a_file_lists_no_more_is_not_dialled_and_a_late_answer_does_not_bring_it_back() -> None:
    discovery = discover("file:/peers")
    answer(discovery, FILE, Lines((WEB, OTHER)), 0)
    assert discovery.due(0) == [WEB, OTHER]
    discovery.answer(WEB, Found((X,)), 0)
    answer(discovery, FILE, Lines(()), 5)
    discovery.answer(OTHER, Found((Y,)), 6)
    assert (discovery.to_dial(6), discovery.due(6)) == ([], [])


def test_a_file_with_a_line_that_cannot_be_read_adds_and_takes_nothing_away() -> None:
    discovery = discover("file:/peers")
    x, y, z = parse_peers("10.0.0.1:7400,10.0.0.2:7400,10.0.0.3:7400")
    answer(discovery, FILE, Lines((x, y)), 0)
    answer(discovery, FILE, Lines((z, x), "line 3, '10.0.0.': it has no port"), 5)
    assert discovery.to_dial(5) == [Z, X, Y]
    answer(discovery, FILE, Lines((z,)), 10)
    assert discovery.to_dial(10) == [Z]


@pytest.mark.parametrize("why", [Absent("no such file"), Failed("permission denied")], ids=["absent", "failed"])
def test_a_file_that_cannot_be_read_takes_nothing_away(why: Any) -> None:
    discovery = discover("file:/peers")
    answer(discovery, FILE, Lines(parse_peers("10.0.0.1:7400")), 0)
    answer(discovery, FILE, why, 5)
    assert discovery.to_dial(5) == [X]


def test_no_more_items_and_addresses_than_are_allowed() -> None:
    discovery = discover("file:/peers,other:7400")
    names = tuple(Name(f"web{number}", 1) for number in range(MAX_ITEMS))
    answer(discovery, FILE, Lines(names), 0)
    assert [*discovery._known] == [FILE, *names[: MAX_ITEMS - 2], OTHER], "what the setting lists is never left out"
    addresses = tuple(Address(f"10.1.{number >> 8}.{number & 255}", 1) for number in range(3000))
    discovery.answer(names[0], Found(addresses), 1)
    discovery.answer(names[1], Found(tuple(address._replace(port=2) for address in addresses)), 1)
    dialled = discovery.to_dial(1)
    assert len(dialled) == MAX_ADDRESSES == len(discovery.silent(1))
    assert dialled[:3000] == [*addresses]
    [line] = discovery.lines(1)
    assert line.text == f"lists more than 1000 items or 4096 addresses: {2 + 6000 - MAX_ADDRESSES} of them are left out"
    answer(discovery, FILE, Lines(names[:5]), 6)
    answer(discovery, names[1], Found(()), 6)
    assert texts(discovery, 6) == [("info", "COLOCACHE_PEERS", "is well again")]


# --- What counts as a silent host


def test_an_address_that_never_answers_counts_for_so_long() -> None:
    discovery = listed(X, Y, now=100)
    assert discovery.silent(100) == [X, Y]
    discovery.met(X, H, 101)
    assert discovery.silent(100 + FORGET_AFTER - 1) == [Y]
    assert discovery.deadline(110) <= 100 + FORGET_AFTER
    assert discovery.silent(100 + FORGET_AFTER) == []
    assert discovery.to_dial(100 + FORGET_AFTER) == [X, Y], "it is dialled as long as it is listed"


def test_an_address_counts_only_while_it_is_listed() -> None:
    discovery = listed(X)
    answer(discovery, WEB, Found((Y,)), 5)
    assert discovery.silent(5) == [Y]


def test_an_address_that_answered_once_does_not_count_again() -> None:
    """Its host is known since then, so it counts as one that is."""
    discovery = listed(X)
    discovery.met(X, H, 1)
    discovery.lost(X)
    assert discovery.silent(2) == []
    discovery.ended(H)
    assert (discovery.silent(2), discovery.to_dial(2)) == ([], [X])


def test_a_name_that_is_not_there_counts_as_nothing() -> None:
    discovery = discover("web:7400,other:7400")
    answer(discovery, WEB, Absent("no such name"), 0)
    discovery.answer(OTHER, Failed("the server fails"), 0)
    assert discovery.silent(0) == []


def test_where_a_name_server_leaves_an_address_out_now_and_then_it_does_not_count_for_longer() -> None:
    """Else each time that it comes back all would be behind for another while."""
    discovery = listed(X)
    for now in range(5, int(FORGET_AFTER), 5):
        answer(discovery, WEB, Found((X,) if now % 10 == 0 else ()), now)
        assert discovery.silent(now) == ([X] if now % 10 == 0 else [])
    answer(discovery, WEB, Found((X,)), FORGET_AFTER)
    assert (discovery.silent(FORGET_AFTER), discovery.to_dial(FORGET_AFTER)) == ([], [X])


def test_an_address_that_was_not_listed_for_long_counts_anew() -> None:
    discovery = listed(X)
    answer(discovery, WEB, Found(()), 50)
    answer(discovery, WEB, Found((X,)), 50 + FORGET_AFTER)
    assert discovery.silent(50 + FORGET_AFTER) == [X]


def test_an_address_that_is_listed_again_must_answer_again() -> None:
    """It may be another host's by now. But nothing is asked again of what is connected all the time."""
    discovery = listed(X, Y)
    discovery.met(X, H, 1)
    discovery.met(Y, K, 1)
    discovery.lost(Y)
    discovery.ended(K)
    answer(discovery, WEB, Found(()), 5)
    answer(discovery, WEB, Found((X, Y)), 10)
    assert discovery.silent(10) == [Y]
    assert discovery.to_dial(10) == [X, Y]


def test_where_a_host_has_said_goodbye_nobody_is_missed_until_another_one_answers() -> None:
    discovery = listed(X, Y)
    discovery.learn(X, H)  # another host tells; this one never met H
    discovery.said_goodbye(H, 1)
    assert discovery.silent(1) == [Y]
    assert discovery.to_dial(1) == [X, Y]
    answer(discovery, WEB, Found((Y,)), 5)
    answer(discovery, WEB, Found((X, Y)), 10)
    assert discovery.silent(10) == [Y], "also if DNS is undecided"
    discovery.met(X, K, 11)
    discovery.lost(X)
    discovery.ended(K)
    answer(discovery, WEB, Found((Y,)), 15)
    answer(discovery, WEB, Found((X, Y)), 20)
    assert discovery.silent(20) == [Y, X], "K has not said goodbye"


def test_a_goodbye_holds_although_dns_lists_the_address_only_later() -> None:
    discovery = listed()
    discovery.learn(X, H)
    discovery.said_goodbye(H, 1)
    answer(discovery, WEB, Found((X,)), 5)
    assert discovery.silent(5) == []
    answer(discovery, WEB, Found(()), 10)
    answer(discovery, WEB, Found((X,)), 10 + FORGET_AFTER)
    assert discovery.silent(10 + FORGET_AFTER) == [X], "it is another one's by now"


def test_an_address_of_a_host_that_others_tell_of_is_not_an_unknown_host() -> None:
    discovery = listed(X)
    discovery.learn(X, H)
    assert (discovery.silent(1), discovery.to_dial(1)) == ([], [X])
    discovery.ended(H)
    assert discovery.silent(2) == [X], "nobody knows whose it is now"


def test_time_in_which_this_process_was_stopped_does_not_count() -> None:
    discovery = listed(X)
    discovery.paused(100)
    assert discovery.silent(100 + FORGET_AFTER - 1) == [X]
    assert not discovery.all_met(100 + FORGET_AFTER - 1)
    assert discovery.silent(100 + FORGET_AFTER) == []
    assert discovery.all_met(100 + FORGET_AFTER)


def test_the_deadline_is_when_time_alone_changes_something() -> None:
    discovery = discover()
    discovery.due(0)
    assert discovery.deadline(1) == FORGET_AFTER, "a start is over"
    discovery.answer(WEB, Found((X,)), 50)
    assert discovery.deadline(50) == 55, "a lookup is due"
    discovery.due(55)
    assert discovery.deadline(56) == 50 + FORGET_AFTER, "X counts no more"
    discovery.is_me(X, 90)
    assert discovery.deadline(91) == 90 + AGAIN_AFTER, "X is dialled again"


def test_a_connection_that_is_lost_is_a_change() -> None:
    discovery = listed(X, Y)
    discovery.met(X, H, 1)
    discovery.met(Y, H, 1)
    version = discovery.version
    discovery.lost(Y)
    assert discovery.version == version, "it was not the one that is connected"
    discovery.lost(X)
    assert discovery.version != version


# --- Whose an address is


def test_two_addresses_of_one_host_are_one() -> None:
    discovery = listed(X, Y)
    discovery.met(X, H, 1)
    discovery.met(Y, H, 2)
    assert discovery.to_dial(2) == [X]
    discovery.lost(X)
    assert discovery.to_dial(3) == [X, Y], "whichever answers first"
    discovery.met(Y, H, 4)
    assert discovery.to_dial(4) == [Y], "both have answered, and one is connected"
    assert discovery.silent(4) == []


def test_a_second_address_of_a_host_is_tried_again_now_and_then() -> None:
    """A virtual address moves to another host, which would never be found."""
    discovery = listed(X, Y)
    discovery.met(X, H, 0)
    discovery.met(Y, H, 0)
    assert discovery.deadline(1) <= FORGET_AFTER
    assert discovery.deadline(FORGET_AFTER) <= AGAIN_AFTER
    assert discovery.to_dial(AGAIN_AFTER) == [X, Y]
    discovery.met(Y, K, AGAIN_AFTER)
    assert discovery.to_dial(AGAIN_AFTER) == [X, Y], "it is K's"
    discovery.lost(X)
    discovery.ended(H)
    assert discovery.to_dial(AGAIN_AFTER) == [X, Y], "X is listed"


def test_ones_own_address_is_not_dialled_but_for_a_look_now_and_then() -> None:
    discovery = listed(X, Y)
    discovery.is_me(X, 1)
    assert (discovery.to_dial(1), discovery.silent(1)) == ([Y], [Y])
    discovery.learn(X, H)
    assert discovery.to_dial(1) == [Y], "others may tell what they want"
    assert discovery.to_dial(1 + AGAIN_AFTER) == [X, Y]
    discovery.is_me(X, 2 + AGAIN_AFTER)
    assert discovery.to_dial(2 + AGAIN_AFTER) == [Y]
    answer(discovery, WEB, Found((Y,)), 100)
    answer(discovery, WEB, Found((X, Y)), 105)
    assert discovery.to_dial(105) == [Y, X], "it was listed anew"


def test_ones_own_address_is_not_learned_from_others_who_still_tell_of_the_predecessor() -> None:
    discovery = listed(Y)
    discovery.learn(X, b"the predecessor")
    discovery.is_me(X, 1)
    discovery.learn(X, b"the predecessor")
    assert discovery.to_dial(2) == [Y]


def test_what_others_tell_is_dialled_for_as_long_as_the_host_lives() -> None:
    discovery = listed(X)
    version = discovery.version
    assert discovery.learn(Y, H)
    assert discovery.version != version
    assert discovery.to_dial(1) == [X, Y]
    answer(discovery, WEB, Found(()), 5)
    assert discovery.to_dial(1000) == [Y]
    discovery.ended(H)
    assert discovery.to_dial(1000) == []


def test_what_was_met_is_dialled_for_as_long_as_the_host_lives_whatever_dns_says() -> None:
    """Kubernetes takes a pod out of DNS for as long as it is not ready. It is a member all the time."""
    discovery = listed(X, Y)
    discovery.met(X, H, 1)
    answer(discovery, WEB, Found(()), 5)
    assert discovery.to_dial(5) == [X]
    discovery.lost(X)
    assert discovery.to_dial(5) == [X]
    discovery.said_goodbye(H, 6)
    assert discovery.to_dial(6) == []


def test_an_address_that_another_host_has_now_is_not_the_first_ones_any_more() -> None:
    discovery = listed()
    discovery.learn(X, H)
    discovery.met(X, H, 1)
    discovery.lost(X)
    discovery.met(X, K, 2)
    discovery.ended(H)
    assert discovery.to_dial(2) == [X]
    discovery.ended(K)
    assert discovery.to_dial(2) == []


def test_what_a_connection_says_counts_more_than_what_others_tell() -> None:
    discovery = listed(X)
    discovery.met(X, K, 1)
    assert discovery.learn(X, H)
    discovery.ended(H)
    answer(discovery, WEB, Found(()), 5)
    assert discovery.to_dial(5) == [X], "it is K's"
    discovery.lost(X)
    discovery.learn(X, H)
    discovery.ended(K)
    assert discovery.to_dial(6) == [X], "it is H's, as far as anybody knows"
    assert not discovery.all_met(6)


def test_only_a_listed_address_of_a_host_that_is_connected_elsewhere_is_dialled_until_it_answers() -> None:
    discovery = listed(X, Y)
    discovery.met(X, H, 1)
    discovery.learn(Y, H)
    discovery.learn(Z, H)
    assert discovery.to_dial(2) == [X, Y]


def test_what_others_tell_is_bounded() -> None:
    discovery = listed(X)
    addresses = [Address(f"10.1.{number >> 8}.{number & 255}", 1) for number in range(5000)]
    for address in addresses[:100]:
        assert discovery.learn(address, H)
    assert discovery.to_dial(0) == [X, *addresses[100 - MAX_OF_A_HOST : 100]], "of one host the newest ones"
    discovery.met(addresses[92], H, 0)
    for address in addresses[100:200]:
        assert discovery.learn(address, H)
    discovery.lost(addresses[92])
    assert discovery.to_dial(0)[1] == addresses[92], "and the one that is connected"
    learned = [discovery.learn(address, number) for number, address in enumerate(addresses[200:])]
    assert learned == [True] * (MAX_ADDRESSES - MAX_OF_A_HOST) + [False] * (4800 - MAX_ADDRESSES + MAX_OF_A_HOST)
    assert len(discovery.to_dial(0)) == MAX_ADDRESSES
    discovery.met(X, K, 0)
    assert discovery.to_dial(0)[0] == X, "there is no room to remember it for, but it is listed"


def test_addresses_that_are_gone_are_forgotten_in_the_end() -> None:
    discovery = listed()
    for number in range(3):
        addresses = tuple(Address(f"10.{number}.{each >> 8}.{each & 255}", 1) for each in range(4000))
        answer(discovery, WEB, Found(addresses), 5 * number)
        for each, address in enumerate(addresses[:1000]):
            discovery.learn(address._replace(port=2), each)
            discovery.said_goodbye(each, 5 * number)
        assert len(discovery._places) <= 3 * MAX_ADDRESSES
    answer(discovery, WEB, Found((X,)), 100)
    answer(discovery, WEB, Found((Y,)), 101 + FORGET_AFTER)
    assert {*discovery._places} == {X, Y}


def test_what_is_told_of_an_address_that_was_given_up_is_passed_over() -> None:
    discovery = listed(X)
    discovery.met(Y, H, 1)
    discovery.is_me(Y, 1)
    discovery.lost(Y)
    discovery.ended(H)
    discovery.said_goodbye(H, 1)
    assert discovery.to_dial(1) == [X]


# --- Whether all were met


def test_a_host_that_has_no_peers_has_met_them_all() -> None:
    discovery = discover("")
    assert (discovery.all_met(0), discovery.due(0)) == (True, [])


def test_all_are_met_when_each_name_is_looked_up_and_each_address_has_answered() -> None:
    discovery = discover("web:7400,10.0.0.3:7400")
    discovery.met(Z, H, 0)
    assert not discovery.all_met(0)
    answer(discovery, WEB, Found((X, Y)), 1)
    discovery.is_me(X, 2)
    assert not discovery.all_met(2)
    discovery.met(Y, K, 3)
    assert discovery.all_met(3)


def test_or_when_the_time_is_over() -> None:
    discovery = discover(now=100)
    assert [discovery.all_met(100 + after) for after in (FORGET_AFTER - 1, FORGET_AFTER)] == [False, True]
    assert discovery.deadline(101) == 100 or discovery.deadline(101) <= 100 + FORGET_AFTER


def test_a_name_that_cannot_be_looked_up_is_waited_for_and_one_that_is_not_there_is_not() -> None:
    discovery = discover("web:7400,other:7400,10.0.0.3:7400")
    discovery.met(Z, H, 0)
    answer(discovery, WEB, Absent("no such name"), 1)
    discovery.answer(OTHER, Failed("the server fails"), 1)
    assert not discovery.all_met(1)
    answer(discovery, OTHER, Found((X,)), 6)
    answer(discovery, OTHER, Failed("the server fails"), 11)
    discovery.met(X, K, 12)
    assert discovery.all_met(12)


def test_a_file_with_a_line_that_cannot_be_read_is_waited_for() -> None:
    discovery = discover("file:/peers,10.0.0.3:7400")
    discovery.met(Z, H, 0)
    answer(discovery, FILE, Lines((), "line 1, 'web': it has no port"), 0)
    assert not discovery.all_met(1)
    answer(discovery, FILE, Lines((WEB,)), 5)
    assert not discovery.all_met(5)


def test_where_nothing_is_listed_by_any_name_a_host_waits_for_the_others() -> None:
    """A headless service that lists only what is ready lists nobody when all start at once."""
    discovery = discover()
    answer(discovery, WEB, Absent("no such name"), 0)
    assert not discovery.all_met(FORGET_AFTER - 1)
    answer(discovery, WEB, Found((X,)), 5)
    discovery.is_me(X, 6)
    assert discovery.all_met(6)


def test_hosts_that_others_tell_of_must_be_met_too() -> None:
    """What must not happen:

    1. A knows B, and B is the only one that A's list names.
    2. C has joined through B, and B restarts, so that it knows only A.
    """
    discovery = listed(X)
    discovery.met(X, H, 1)
    discovery.learn(Y, K)
    assert not discovery.all_met(2)
    discovery.met(Z, K, 3)
    assert not discovery.all_met(3), "Z is nobody's, as far as it was dialled"
    discovery.met(Y, K, 3)
    assert discovery.all_met(3)


def test_what_has_left_need_not_be_met() -> None:
    discovery = listed(X, Y)
    discovery.met(X, H, 1)
    discovery.learn(Y, K)
    discovery.learn(Z, b"another")
    discovery.said_goodbye(K, 2)
    discovery.ended(b"another")
    assert discovery.all_met(2)


def test_two_names_of_one_host_need_one_answer() -> None:
    discovery = listed(X, Y)
    discovery.met(X, H, 1)
    discovery.learn(Y, H)
    assert discovery.all_met(2)


# --- The log


def test_a_lasting_trouble_is_a_line_a_minute_with_the_item_and_the_error() -> None:
    discovery = listed(X, Y)
    lines = []
    for now in range(5, 200, 5):
        answer(discovery, WEB, Failed("server failure"), now)
        lines += [(now, *line) for line in discovery.lines(now)]
    text = "cannot be looked up, and what it listed last (2) stays: server failure"
    assert lines == [(now, "warning", "web:7400", text) for now in (5, 65, 125, 185)]
    answer(discovery, WEB, Found((X,)), 200)
    assert texts(discovery, 200) == [("info", "web:7400", "is well again")]
    assert texts(discovery, 300) == []


def test_one_trouble_does_not_hide_another() -> None:
    discovery = discover("web:7400,other:7400,file:/peers")
    answer(discovery, WEB, Absent("no such name"), 0)
    discovery.answer(OTHER, Failed("server failure"), 0)
    discovery.answer(FILE, Lines((), "line 1, 'web': it has no port"), 0)
    assert texts(discovery, 0) == [
        ("warning", "web:7400", "is not there, and it lists nothing: no such name"),
        ("warning", "other:7400", "cannot be looked up, and it lists nothing: server failure"),
        (
            "warning",
            "file:/peers",
            "has something in it that cannot be used, and it lists nothing: line 1, 'web': it has no port",
        ),
    ]


def test_a_trouble_that_comes_and_goes_does_not_fill_the_log() -> None:
    discovery, lines = listed(X), 0
    for now in range(5, int(5 + 10 * LOG_PERIOD), 5):
        answer(discovery, WEB, Failed("why") if now % 10 else Found((X,)), now)
        lines += len(discovery.lines(now))
    assert lines == 20


def test_a_lookup_that_does_not_end_is_told() -> None:
    discovery = discover()
    assert discovery.due(0) == [WEB]
    assert texts(discovery, SLOW_AFTER - 1) == []
    assert texts(discovery, SLOW_AFTER) == [("warning", "web:7400", "is being looked up, and there is no answer yet")]


def test_nothing_is_kept_of_items_that_are_not_listed_any_more() -> None:
    discovery = discover("file:/peers")
    answer(discovery, FILE, Lines((WEB,)), 0)
    answer(discovery, WEB, Failed("why"), 0)
    assert len(discovery.lines(0)) == 1
    for now in range(5, int(LOG_PERIOD), 10):
        answer(discovery, FILE, Lines(()), now)
        assert texts(discovery, now) == []
        answer(discovery, FILE, Lines((WEB,)), now + 1)
        answer(discovery, WEB, Failed("why"), now + 1)
        assert texts(discovery, now + 1) == [], "what comes and goes does not fill the log"
    answer(discovery, FILE, Lines(()), 100)
    assert texts(discovery, 100) == []
    assert discovery._lines == {}


def test_no_more_is_remembered_of_items_that_are_gone_than_there_may_be() -> None:
    discovery = discover("file:/peers")
    for now in range(4):
        names = tuple(Name(f"web{number}-{now}", 1) for number in range(MAX_ITEMS - 1))
        answer(discovery, FILE, Lines(names), now)
        for name in names:
            discovery.answer(name, Failed("why"), now)
        assert len(discovery.lines(now)) == MAX_ITEMS - 1
    assert len(discovery._lines) <= 2 * MAX_ITEMS


def test_no_more_addresses_are_remembered_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ADDRESSES", 2)
    discovery = listed(X, Y)
    for number in range(4):
        for port in (1, 2):
            discovery.learn(Address(f"10.0.1.{number}", port), H)
        assert len(discovery._places) <= 6
        discovery.said_goodbye(H, now=float(number))
    assert discovery.to_dial(9) == [X, Y]


@pytest.mark.parametrize("is_listed", [True, False])
def test_who_is_forgotten_need_not_be_met(is_listed: bool) -> None:
    discovery = listed(X, *([Y] if is_listed else []))
    discovery.met(X, H, 1)
    discovery.learn(Y, K)
    assert not discovery.all_met(2)
    assert not discovery.all_met(2, {H, b"another"})
    assert discovery.all_met(2, {K})


def test_an_address_of_which_nobody_knows_whose_it_is_must_be_met_whoever_is_forgotten() -> None:
    discovery = listed(X, Y)
    discovery.met(X, H, 1)
    discovery.learn(Z, K)
    assert not discovery.all_met(2, {K})


# --- What a successor goes on with


def test_a_successor_counts_no_address_that_was_given_up() -> None:
    before = listed(X, Y, Z)
    before.met(Z, H, 1)
    before.is_me(Y, 1)
    assert before.given_up(FORGET_AFTER - 1) == set()
    given_up = before.given_up(FORGET_AFTER)
    assert len(given_up) == 1
    after = discover("10.0.0.1:7400,web:7400,10.0.0.3:7400", now=100)
    after.give_up(given_up, 100)
    assert after.silent(100) == [Z]
    answer(after, WEB, Found((X, Y)), 101)
    assert after.silent(101) == [Y, Z]


@pytest.mark.parametrize("later", [1, FORGET_AFTER - 1, FORGET_AFTER])
def test_nor_if_it_is_listed_soon(later: float) -> None:
    given_up = listed(X).given_up(FORGET_AFTER)
    after = discover(now=100)
    after.give_up(given_up, 100)
    answer(after, WEB, Found((X, Y)), 100 + later)
    assert after.silent(100 + later) == ([Y] if later < FORGET_AFTER else [X, Y])


def test_but_it_counts_if_it_is_listed_again_after_long() -> None:
    given_up = listed(X).given_up(FORGET_AFTER)
    after = discover(now=100)
    after.give_up(given_up, 100)
    answer(after, WEB, Found((X,)), 101)
    answer(after, WEB, Found(()), 102)
    answer(after, WEB, Found((X,)), 102 + FORGET_AFTER)
    assert after.silent(102 + FORGET_AFTER) == [X]


def test_all_addresses_at_which_nobody_is_missed_are_given_up() -> None:
    """A successor knows a host that is dead by the address that it has told, and by no other one."""
    discovery = listed(X, Y, Z)
    discovery.met(X, H, 1)
    discovery.met(Y, H, 1)
    discovery.learn(Z, K)
    discovery.said_goodbye(K, 1)
    assert len(discovery.given_up(2)) == 1
    discovery.lost(X)
    given_up = discovery.given_up(2)
    assert len(given_up) == 3
    after = listed(X, Y, Z, now=100)
    after.give_up(given_up, 100)
    assert after.silent(100) == []


def test_who_has_given_up_nobody_counts_all_addresses_anew_at_which_nobody_is_connected() -> None:
    """Neither a goodbye nor an answer says who is there after a long stop."""
    discovery = listed(X, Y, Z)
    answer(discovery, WEB, Found((X, Y, Z, Address("10.0.0.4", 7400), Address("10.0.0.5", 7400))), 0)
    discovery.met(X, H, 1)
    discovery.learn(Y, K)
    discovery.said_goodbye(K, 2)
    discovery.met(Z, b"another", 3)
    discovery.lost(Z)
    discovery.ended(b"another")
    discovery.is_me(Address("10.0.0.5", 7400), 3)
    assert discovery.silent(100) == []
    discovery.give_up(set(), 100)
    assert discovery.silent(100) == [Y, Z, Address("10.0.0.4", 7400)]
    assert discovery.silent(100 + FORGET_AFTER) == []
