"""The corpus, and what Hypothesis makes up, through all targets; and whether the targets would notice a defect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colocache.core import parts
from colocache.core.group import messages
from colocache.core.group.peer import Peer
from colocache.core.host import logs
from colocache.errors import WireError
from colocache.runtime import frames as host_frames
from colocache.values import msgpack_codec
from verification.fuzz.fuzz import CORPUS
from verification.fuzz.targets import TARGETS

TRIES = {"peer": 100, "region": 40, "shelf": 200}  # else 400; a story of a peer takes some ten milliseconds


def inputs_of(target: str) -> list[Path]:
    return sorted(CORPUS.joinpath(target).iterdir())


def test_there_is_a_corpus_for_every_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert all(inputs_of(target) for target in TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_of_the_corpus_fails(target: str) -> None:
    for path in inputs_of(target):
        try:
            TARGETS[target](path.read_bytes())
        except Exception as error:
            error.add_note(f"replay: python -m verification.fuzz.fuzz --replay {path}")
            raise


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_that_is_made_up_fails(target: str) -> None:
    @settings(max_examples=TRIES.get(target, 400), deadline=None, print_blob=True)
    @given(st.binary(max_size=300))
    def does_not_fail(data: bytes) -> None:
        TARGETS[target](data)

    does_not_fail()


# --- Defects that are put in, one at a time. An input named after each is in the corpus; fuzzing found it.


def take_any_seconds(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(messages._is_not_negative, "__code__", (lambda value: not value < 0).__code__)


def take_ignored_frames_for_signs_of_life(patch: pytest.MonkeyPatch) -> None:
    receive = Peer.receive

    def noting(self: Peer, frame: bytes, now: float, *, bus: bool = False) -> bytes | None:
        sender = receive(self, frame, now, bus=bus)
        try:
            other = self.acquaintance(messages.decode(frame).sender)
        except WireError:
            other = None
        if other is not None:
            other.heard_at = now
        return sender

    patch.setattr(Peer, "receive", noting)


DEFECTS: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], Any]]] = {
    "namespace-that-is-no-text": ("peer", lambda patch: patch.setattr(messages, "_is_text", lambda name: True)),
    "seconds-that-are-no-number": ("peer", take_any_seconds),
    "trace-of-an-ignored-frame": ("peer", take_ignored_frames_for_signs_of_life),
    "limit-that-no-log-has": ("shelf", lambda patch: patch.setattr(logs, "_is_limit", lambda limit, size: True)),
    "ring-that-stays-garbage": ("shelf", lambda patch: patch.setattr(logs.Logs, "reset", lambda self, ring: None)),
    "hashes-without-end": ("bus", lambda patch: patch.setattr(host_frames, "LARGEST", 1 << 20)),
    "event-too-long-for-the-bus": ("parts", lambda patch: patch.setattr(messages, "MAX_BUS", 1 << 20)),
    "lists-that-lie": ("values", lambda patch: patch.setattr(msgpack_codec, "refuse_lies", lambda payload: None)),
    "error-that-repeats-everything": ("values", lambda patch: patch.setattr(msgpack_codec, "_shortened", str)),
    "parts-of-keys-that-run-together": ("keys", lambda patch: patch.setattr(parts, "_sized", lambda part: part)),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_the_corpus_shows_a_defect(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, put_in = DEFECTS[defect]
    inputs = [path.read_bytes() for path in (CORPUS / target / defect, *inputs_of(target))]
    put_in(monkeypatch)
    assert any(fails(target, data) for data in inputs), "fuzz, with the defect put in, and keep an input that shows it"


def fails(target: str, data: bytes) -> bool:
    try:
        TARGETS[target](data)
    except (AssertionError, ValueError, logs.Garbage):
        return True
    return False
